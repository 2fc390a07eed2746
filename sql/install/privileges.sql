DROP FUNCTION keysmith_private.publish(text, text[], text);

-- No role has a privilege until it is granted. PostgreSQL grants functions and types to PUBLIC,
-- and the installing role may have default privileges, meant for its other objects. Both are
-- revoked.
DO $$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT 'SCHEMA ' || n.oid::regnamespace AS object, a.grantee
        FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a
        WHERE n.nspname IN ('keysmith', 'keysmith_private') AND a.grantee <> n.nspowner
        UNION
        SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END || c.oid::regclass, a.grantee
        FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
        WHERE c.relnamespace IN ('keysmith'::regnamespace, 'keysmith_private'::regnamespace)
          AND a.grantee <> c.relowner
        UNION
        SELECT 'ROUTINE ' || p.oid::regprocedure, a.grantee
        FROM pg_catalog.pg_proc p,
             pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) a
        WHERE p.pronamespace IN ('keysmith'::regnamespace, 'keysmith_private'::regnamespace)
          AND a.grantee <> p.proowner
        UNION
        -- An array type has the privileges of its element type.
        SELECT 'TYPE ' || t.oid::regtype, a.grantee
        FROM pg_catalog.pg_type t,
             pg_catalog.aclexplode(coalesce(t.typacl, pg_catalog.acldefault('T', t.typowner))) a
        WHERE t.typnamespace IN ('keysmith'::regnamespace, 'keysmith_private'::regnamespace)
          AND t.typcategory <> 'A' AND a.grantee <> t.typowner
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON %s FROM %s', given.object,
                                  CASE given.grantee WHEN 0 THEN 'PUBLIC' ELSE given.grantee::regrole::text END);
    END LOOP;
END $$;

-- Each table and view has a row type. pg_dump cannot dump privileges on row types, and would
-- warn about those that the extension set. CREATE EXTENSION sets them again after a restore.
DELETE FROM pg_catalog.pg_init_privs i
USING pg_catalog.pg_type t JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
WHERE i.classoid = 'pg_catalog.pg_type'::regclass AND i.objoid = t.oid AND c.relkind <> 'c'
  AND t.typnamespace IN ('keysmith'::regnamespace, 'keysmith_private'::regnamespace);

-- Every role may ask for its own identity. Policies, defaults and triggers call these functions
-- with the privileges of the current role. They refer to functions by OID, and need no USAGE on
-- the schema; the access levels grant that.
GRANT EXECUTE ON FUNCTION
    keysmith.current_tenant(),
    keysmith.current_tenant_id(),
    keysmith.current_keyspace(),
    keysmith.current_key(),
    keysmith.current_environment(),
    keysmith.current_owner(),
    keysmith.has_scope(text),
    keysmith.require_identity(),
    keysmith.whoami()
TO PUBLIC;
