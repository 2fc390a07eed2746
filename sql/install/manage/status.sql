-- Counters.

CREATE FUNCTION keysmith.status(
    OUT topic text,
    OUT name text,
    OUT value text
) RETURNS SETOF record
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'keysmith_status';
COMMENT ON FUNCTION keysmith.status() IS
'Numbers of keys, rate limits, usage and its worker; and whether this is a subscriber';

CREATE FUNCTION keysmith_private.counters(
    unsent bigint, last_unsent_at timestamptz, is_subscriber boolean, OUT topic text, OUT name text, OUT value text
) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'keys', k.keyspace || ', ' || k.status, count(*)::text
    FROM keysmith_private.key_listing k GROUP BY k.keyspace, k.status
    UNION ALL
    SELECT 'peppers', CASE k.generation WHEN 0 THEN 'without a pepper' ELSE 'pepper ' || k.generation END,
           count(*) || ' keys'
    FROM keysmith_private.key k WHERE k.revoked_at IS NULL GROUP BY k.generation
    UNION ALL
    SELECT 'events', e.name, e.value
    FROM (VALUES ('events not sent', coalesce(unsent::text, 'unknown: the library is not preloaded')),
                 ('last event not sent at', last_unsent_at::text),
                 ('notification queue used, in percent',
                  round(100 * pg_notification_queue_usage()::numeric, 4)::text)) e (name, value)
    UNION ALL SELECT 'replication', 'subscriber', CASE WHEN is_subscriber THEN 'yes' ELSE 'no' END
    UNION ALL SELECT 'replication', 'subscription', s.subname FROM pg_subscription s
    WHERE EXISTS (SELECT FROM pg_subscription_rel r JOIN pg_class c ON c.oid = r.srrelid
                  WHERE r.srsubid = s.oid AND c.relnamespace = 'keysmith_private'::regnamespace)
    UNION ALL SELECT 'limits', l.name, l.value FROM keysmith.limit_status() l
    UNION ALL SELECT 'usage', u.name, u.value FROM keysmith.usage_status() u
    ORDER BY 1, 2
$$;
COMMENT ON FUNCTION keysmith_private.counters(bigint, timestamptz, boolean) IS
'The rows of status(), given what only the library knows';
