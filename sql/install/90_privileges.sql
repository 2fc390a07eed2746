-- Nothing is anyone's until it is granted.

REVOKE ALL ON ALL ROUTINES IN SCHEMA keysmith FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA keysmith FROM PUBLIC;
REVOKE ALL ON SCHEMA keysmith FROM PUBLIC;

-- Default privileges of whoever installs this are for objects of theirs.
DO $$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT 'SCHEMA keysmith' AS object, a.grantee
        FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a
        WHERE n.nspname = 'keysmith' AND a.grantee <> n.nspowner
        UNION
        SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END || c.oid::regclass, a.grantee
        FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
        WHERE c.relnamespace = 'keysmith'::regnamespace AND a.grantee <> c.relowner
        UNION
        SELECT 'ROUTINE ' || p.oid::regprocedure, a.grantee
        FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a
        WHERE p.pronamespace = 'keysmith'::regnamespace AND a.grantee <> p.proowner
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON %s FROM %s', given.object,
                                  CASE given.grantee WHEN 0 THEN 'PUBLIC' ELSE given.grantee::regrole::text END);
    END LOOP;
END $$;

-- But everyone may know who they are, and policies, which run with the rights of who
-- asks, may ask it for them.
GRANT USAGE ON SCHEMA keysmith TO PUBLIC;
GRANT EXECUTE ON FUNCTION
    keysmith.current_tenant(),
    keysmith.current_tenant_id(),
    keysmith.current_keyspace(),
    keysmith.current_key(),
    keysmith.current_environment(),
    keysmith.current_owner(),
    keysmith.has_scope(text),
    keysmith.whoami()
TO PUBLIC;
