DROP FUNCTION keysmith_private.publish(text, text[], text);

-- Nobody has a privilege until it is granted. PostgreSQL gives PUBLIC functions and types, and
-- the installing role's default privileges are meant for its other objects: both are taken away.
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
        -- An array's privileges are those of its element.
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

-- A table or view has a row type. pg_dump cannot dump the privileges of one, and would warn
-- that the extension set them; they are set again wherever the extension is created.
DELETE FROM pg_catalog.pg_init_privs i
USING pg_catalog.pg_type t JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
WHERE i.classoid = 'pg_catalog.pg_type'::regclass AND i.objoid = t.oid AND c.relkind <> 'c'
  AND t.typnamespace IN ('keysmith'::regnamespace, 'keysmith_private'::regnamespace);

-- But everyone may know who they are: policies, defaults and triggers, which run with the
-- rights of who asks, may ask it for them. These hold functions by OID and need no USAGE on
-- the schema, which goes with the access levels.
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
