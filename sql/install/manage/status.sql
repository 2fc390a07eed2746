-- The state of the installation.

CREATE FUNCTION keysmith_private.library(
    OUT version text,
    OUT preloaded boolean,
    OUT subscriber boolean,
    OUT newest_pepper integer,
    OUT has_pepper_problem boolean,
    OUT has_signing_problem boolean,
    OUT events_unsent bigint,
    OUT last_event_unsent_at timestamptz,
    OUT event_queue_limit integer,
    OUT max_replica_lag double precision,
    OUT directory_keys bigint,
    OUT directory_capacity bigint,
    OUT directory_hits bigint,
    OUT directory_misses bigint
) RETURNS SETOF record
LANGUAGE c STABLE ROWS 1 AS 'MODULE_PATHNAME', 'keysmith_library';
COMMENT ON FUNCTION keysmith_private.library() IS
'One row: what the library knows, besides usage and limits; max_replica_lag is in seconds';

CREATE FUNCTION keysmith_private.decisions(OUT outcome text, OUT decisions bigint) RETURNS SETOF record
LANGUAGE c STABLE ROWS 22 AS 'MODULE_PATHNAME', 'keysmith_decisions';
COMMENT ON FUNCTION keysmith_private.decisions() IS
'The decisions of this database since the server started, by the reason of their verdict; none if they are not counted';

CREATE FUNCTION keysmith.status(
    OUT version text,
    OUT preloaded boolean,
    OUT standby boolean,
    OUT subscriber boolean,
    OUT subscriptions text[],
    OUT keyspaces bigint,
    OUT tenants bigint,
    OUT keys_active bigint,
    OUT keys_disabled bigint,
    OUT keys_expired bigint,
    OUT keys_revoked bigint,
    OUT newest_pepper integer,
    OUT keys_with_older_pepper bigint,
    OUT events_unsent bigint,
    OUT last_event_unsent_at timestamptz,
    OUT notify_queue_used double precision
) RETURNS SETOF record
LANGUAGE c STABLE ROWS 1 AS 'MODULE_PATHNAME', 'keysmith_status';
COMMENT ON FUNCTION keysmith.status() IS
'The state of the installation in one row; the library, replication, keys, peppers and events';

CREATE FUNCTION keysmith_private.installation(
    OUT version text, OUT preloaded boolean, OUT standby boolean, OUT subscriber boolean,
    OUT subscriptions text[], OUT keyspaces bigint, OUT tenants bigint, OUT keys_active bigint,
    OUT keys_disabled bigint, OUT keys_expired bigint, OUT keys_revoked bigint, OUT newest_pepper integer,
    OUT keys_with_older_pepper bigint, OUT events_unsent bigint, OUT last_event_unsent_at timestamptz,
    OUT notify_queue_used double precision
) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT l.version, l.preloaded, pg_is_in_recovery(), l.subscriber,
           ARRAY(SELECT s.name::text FROM keysmith_private.subscriptions() s ORDER BY 1),
           (SELECT count(*) FROM keysmith_private.keyspace), (SELECT count(*) FROM keysmith_private.tenant),
           k.active, k.disabled, k.expired, k.revoked, l.newest_pepper,
           (SELECT count(*) FROM keysmith_private.key k
            WHERE k.revoked_at IS NULL AND k.generation < l.newest_pepper),
           l.events_unsent, l.last_event_unsent_at, pg_notification_queue_usage()
    FROM keysmith_private.library() l, (
        SELECT count(*) FILTER (WHERE a.status = 'active') AS active,
               count(*) FILTER (WHERE a.status IN ('disabled', 'idle')) AS disabled,
               count(*) FILTER (WHERE a.status = 'expired') AS expired,
               count(*) FILTER (WHERE a.status = 'revoked') AS revoked
        FROM keysmith_private.all_keys a) AS k
$$;
COMMENT ON FUNCTION keysmith_private.installation() IS
'The row of status(), for callers who see everything';
