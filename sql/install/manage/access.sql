-- The access levels of roles.

CREATE FUNCTION keysmith.grant_access(
    role regrole,
    level text,
    tenant text DEFAULT NULL,
    keyspace text DEFAULT NULL
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_grant_access';
COMMENT ON FUNCTION keysmith.grant_access(regrole, text, text, text) IS
'Gives a role a level: verifier, host, issuer, auditor or admin; some for one tenant or keyspace';

CREATE FUNCTION keysmith_private.lock_holder(pid integer, virtualtransaction text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN pid IS NULL THEN
            format('prepared transaction %L', (SELECT x.gid FROM pg_locks l JOIN pg_prepared_xacts x
                                               ON l.locktype = 'transactionid' AND x.transaction = l.transactionid
                                               WHERE l.virtualtransaction = lock_holder.virtualtransaction))
        ELSE format('session %s of role %I', pid, (SELECT a.usename FROM pg_stat_activity a
                                                   WHERE a.pid = lock_holder.pid))
    END
$$;
COMMENT ON FUNCTION keysmith_private.lock_holder(integer, text) IS
'The session or prepared transaction that an administrator has to end';

CREATE FUNCTION keysmith_private.privileges_changed_by() RETURNS SETOF xid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- A role can name, and so grant, only objects in a schema on which it has USAGE.
    SELECT xmax FROM pg_proc WHERE pronamespace = 'keysmith'::regnamespace
    UNION SELECT xmax FROM pg_class WHERE relnamespace = 'keysmith'::regnamespace
    UNION SELECT xmax FROM pg_namespace WHERE nspname = 'keysmith'
$$;
COMMENT ON FUNCTION keysmith_private.privileges_changed_by() IS
'Transactions that tried to change privileges of the extension''s objects: not committed yet, or rolled back';

CREATE FUNCTION keysmith.revoke_access(
    role regrole,
    level text DEFAULT NULL,
    tenant text DEFAULT NULL,
    keyspace text DEFAULT NULL
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_revoke_access';
COMMENT ON FUNCTION keysmith.revoke_access(regrole, text, text, text) IS
'Takes away what grant_access gave; all of it, a level, or one tenant or keyspace of a level';

CREATE FUNCTION keysmith_private.routines_of_level(
    is_admin boolean, functions text[], internal text[], views text[], symbols text[]
) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE shown(oid) AS (
        SELECT c.oid FROM pg_class c
        WHERE c.relnamespace = 'keysmith'::regnamespace AND c.relname = ANY (views)
        UNION
        SELECT c.oid FROM shown
        JOIN pg_rewrite w ON w.ev_class = shown.oid
        JOIN pg_depend d ON d.objid = w.oid AND d.classid = 'pg_rewrite'::regclass
             AND d.refclassid = 'pg_class'::regclass
        JOIN pg_class c ON c.oid = d.refobjid AND c.relkind = 'v'
    )
    SELECT string_agg(p.oid::regprocedure::text, ', ') FROM pg_proc p
    WHERE p.pronamespace = 'keysmith'::regnamespace AND (p.proname = ANY (functions) OR p.prosrc = ANY (symbols)
        OR is_admin AND p.prorettype <> 'trigger'::regtype AND p.proname <> ALL (internal))
       OR p.pronamespace = 'keysmith_private'::regnamespace AND (
        -- A view calls its functions with the rights of the role that reads it.
        EXISTS (SELECT FROM shown
                JOIN pg_rewrite w ON w.ev_class = shown.oid
                JOIN pg_depend d ON d.objid = w.oid AND d.classid = 'pg_rewrite'::regclass
                     AND d.refclassid = 'pg_proc'::regclass
                WHERE d.refobjid = p.oid)
        -- These show a role its own rows, also in views that are granted by hand.
        OR 'keys' = ANY (views) AND p.proretset AND p.proname LIKE 'own\_%')
$$;
COMMENT ON FUNCTION keysmith_private.routines_of_level(boolean, text[], text[], text[], text[]) IS
'The functions that an access level comes with, as GRANT takes them: those that are named, by themselves or by their symbols in the library, or nearly all, and those that the views call';

CREATE FUNCTION keysmith_private.objects_granted_to(role oid) RETURNS SETOF text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'ROUTINE ' || p.oid::regprocedure::text
    FROM pg_proc p
    WHERE p.pronamespace IN ('keysmith'::regnamespace, 'keysmith_private'::regnamespace) AND EXISTS (
        SELECT FROM aclexplode(p.proacl) a WHERE a.grantee = role)
    UNION ALL
    SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END || c.oid::regclass::text
    FROM pg_class c
    WHERE c.relnamespace IN ('keysmith'::regnamespace, 'keysmith_private'::regnamespace) AND (
        EXISTS (SELECT FROM aclexplode(c.relacl) a WHERE a.grantee = role)
        OR EXISTS (SELECT FROM pg_attribute t, aclexplode(t.attacl) a
                   WHERE t.attrelid = c.oid AND a.grantee = role))
    UNION ALL
    SELECT 'SCHEMA ' || n.oid::regnamespace::text FROM pg_namespace n
    WHERE n.nspname IN ('keysmith', 'keysmith_private') AND EXISTS (
        SELECT FROM aclexplode(n.nspacl) a WHERE a.grantee = role)
$$;
COMMENT ON FUNCTION keysmith_private.objects_granted_to(oid) IS
'The objects of the extension on which a role itself has privileges, as REVOKE takes them';
