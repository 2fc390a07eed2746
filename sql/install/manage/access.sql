-- Access: which roles may do what.

CREATE FUNCTION keysmith.grant_access(
    role regrole,
    level text,
    tenant text DEFAULT NULL,
    keyspace text DEFAULT 'default'
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_grant_access';
COMMENT ON FUNCTION keysmith.grant_access(regrole, text, text, text) IS
'Lets a role verify, issue (for one tenant, or the one that is signed in), audit or administer';

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
    -- A role can name, and so grant, what is in the schema that it has USAGE on.
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
    keyspace text DEFAULT 'default'
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_revoke_access';
COMMENT ON FUNCTION keysmith.revoke_access(regrole, text, text, text) IS
'Takes away what grant_access gave: all of it, a level, or a tenant of an issuer';
