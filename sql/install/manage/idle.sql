-- Keys that are disabled because they are not used.

CREATE VIEW keysmith_private.idle_key AS
SELECT k.key_id, k.keyspace, s.max_idle, k.disabled_at IS NULL AS is_enabled
FROM keysmith_private.keyspace s
JOIN keysmith_private.tenant t USING (keyspace)
JOIN keysmith_private.key k USING (tenant_id)
LEFT JOIN keysmith_private.usage_last l USING (key_id)
CROSS JOIN (
    -- Records that were lost may have been of any key. Records from before this database recorded its
    -- own may be elsewhere: it may have been restored from a dump, or may have been a subscriber.
    SELECT greatest(
               coalesce((SELECT pg_catalog.min(i.primary_since) FROM keysmith_private.usage_incarnation i
                         WHERE i.database = (SELECT d.oid FROM pg_catalog.pg_database d
                                             WHERE d.datname = pg_catalog.current_database())
                           AND i.server = (SELECT c.system_identifier FROM pg_catalog.pg_control_system() c)),
                        'infinity'),
               (SELECT pg_catalog.max(greatest(i.lost_until, i.dropped_at))
                FROM keysmith_private.usage_incarnation i WHERE i.lost_at_most > 0 OR i.dropped > 0),
               (SELECT pg_catalog.max(a.set_aside_at) FROM keysmith_private.usage_set_aside a)) AS known_from,
           -- Other servers hand their records over within seconds.
           CASE WHEN EXISTS (SELECT FROM keysmith_private.usage_incarnation i WHERE i.primary_since IS NULL)
                THEN interval '15 minutes' ELSE interval '0' END AS delay
    OFFSET 0) AS f
CROSS JOIN LATERAL (SELECT pg_catalog.now() - s.max_idle - f.delay AS used_since) AS u
WHERE s.max_idle IS NOT NULL AND s.usage_log IN ('everything', 'totals') AND k.revoked_at IS NULL
  AND CASE
      WHEN k.disabled_at IS NULL THEN
          greatest(k.created_at, k.enabled_at, s.max_idle_since, l.used_at, f.known_from) <= u.used_since
          AND k.rotated_to IS NULL
          AND coalesce(least(k.expires_at, k.created_at + t.max_lifetime, k.created_at + s.max_lifetime)
                       > pg_catalog.now(), true)
          AND NOT EXISTS (SELECT FROM keysmith_private.usage_delta d
                          WHERE d.tenant_id = k.tenant_id AND d.key_id = k.key_id AND d.used_at > u.used_since)
      -- Records that came later show that it was used.
      ELSE k.disabled_reason = 'idle'
          AND (l.used_at > k.disabled_at - s.max_idle
               OR EXISTS (SELECT FROM keysmith_private.usage_delta d
                          WHERE d.tenant_id = k.tenant_id AND d.key_id = k.key_id
                            AND d.used_at > k.disabled_at - s.max_idle))
      END;
COMMENT ON VIEW keysmith_private.idle_key IS
'Keys that are to be disabled because they are not used, and those that were disabled so although they were used';

CREATE FUNCTION keysmith_private.disable_idle_keys(
    after uuid, OUT next_after uuid, OUT disabled bigint
) RETURNS SETOF record
LANGUAGE c ROWS 1 AS 'MODULE_PATHNAME', 'keysmith_disable_idle_keys';
COMMENT ON FUNCTION keysmith_private.disable_idle_keys(uuid) IS
'Disables those keys of a portion that are not used for the max_idle of their keyspace; no row if records of uses are missing';

CREATE FUNCTION keysmith_private.disable_all_idle_keys() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- The others wait for the next call, so that the transaction is short.
    most     constant bigint := 1000;
    portion  record;
    next     uuid := '00000000-0000-0000-0000-000000000000';
    disabled bigint := 0;
BEGIN
    IF NOT EXISTS (SELECT FROM keysmith_private.keyspace WHERE max_idle IS NOT NULL) THEN
        RETURN '0 disabled';
    END IF;
    WHILE next IS NOT NULL AND disabled < most LOOP
        SELECT * INTO portion FROM keysmith_private.disable_idle_keys(next);
        IF NOT FOUND THEN
            RETURN 'records wait, to be tried again';
        END IF;
        next := portion.next_after;
        disabled := disabled + portion.disabled;
    END LOOP;
    RETURN disabled || ' disabled';
END $$;
COMMENT ON FUNCTION keysmith_private.disable_all_idle_keys() IS
'Disables keys that are not used, for maintain(), and says how many';
