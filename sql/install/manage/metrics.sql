-- Monitoring: the views metrics and alarms. A scrape reads no key, no request and no audit entry
-- but the newest, and waits for no lock that others may hold for long.

CREATE VIEW keysmith_private.metric_help AS
SELECT m.place, m.name, m.type, m.help
FROM (VALUES
    (1, 'keysmith_info', 'gauge', 'The version of the library; always 1'),
    (2, 'keysmith_preloaded', 'gauge', 'Whether the library is preloaded'),
    (3, 'keysmith_standby', 'gauge', 'Whether the server is a standby'),
    (4, 'keysmith_subscriber', 'gauge', 'Whether a subscription brings the keys of this database'),
    (5, 'keysmith_alarm', 'gauge', 'Whether an alarm of the view alarms is raised'),
    (6, 'keysmith_decisions_total', 'counter', 'Decisions about keys in this database since the server started, by the reason of their verdict'),
    (7, 'keysmith_directory_keys', 'gauge', 'Keys in the directory, of all databases'),
    (8, 'keysmith_directory_capacity', 'gauge', 'Keys that the directory has room for'),
    (9, 'keysmith_directory_hits_total', 'counter', 'Decisions of this database that found their key in the directory'),
    (10, 'keysmith_directory_misses_total', 'counter', 'Decisions of this database that did not find their key in the directory'),
    (11, 'keysmith_limit_buckets', 'gauge', 'Rate limits in use, of all databases'),
    (12, 'keysmith_limit_buckets_capacity', 'gauge', 'Rate limits that there is room for'),
    (13, 'keysmith_limit_unavailable_total', 'counter', 'Requests of all databases that were refused because there was no room to count them'),
    (14, 'keysmith_usage_queue_capacity', 'gauge', 'Usage records that shared memory has room for'),
    (15, 'keysmith_usage_queue_share', 'gauge', 'Usage records of this database that may wait in shared memory'),
    (16, 'keysmith_usage_queue_used', 'gauge', 'Usage records of all databases that wait in shared memory'),
    (17, 'keysmith_usage_waiting', 'gauge', 'Usage records of this database that wait to be stored'),
    (18, 'keysmith_usage_pending', 'gauge', 'Usage records that transactions still hold'),
    (19, 'keysmith_usage_accepted_total', 'counter', 'Usage records that were put into shared memory'),
    (20, 'keysmith_usage_stored_total', 'counter', 'Usage records that the worker has stored'),
    (21, 'keysmith_usage_written_through_total', 'counter', 'Usage records that their transactions wrote themselves'),
    (22, 'keysmith_usage_dropped_total', 'counter', 'Usage records that were lost because there was no room'),
    (23, 'keysmith_usage_discarded_total', 'counter', 'Usage records that were discarded with the extension'),
    (24, 'keysmith_usage_not_logged_total', 'counter', 'Requests without a record, since this standby or subscriber hands over none'),
    (25, 'keysmith_usage_quarantined_total', 'counter', 'Usage records that could not be stored, and are in quarantine'),
    (26, 'keysmith_usage_unknown_total', 'counter', 'Requests without a known key'),
    (27, 'keysmith_usage_worker_running', 'gauge', 'Whether the worker of this database runs; it ends when there is nothing to store'),
    (28, 'keysmith_usage_worker_delay_seconds', 'gauge', 'The time that the oldest usage record has waited; 0 if no record waits'),
    (29, 'keysmith_usage_worker_failures_total', 'counter', 'Transactions of the worker that failed'),
    (30, 'keysmith_usage_worker_failed_starts_total', 'counter', 'Starts of the worker for which no process was free'),
    (31, 'keysmith_usage_last_flush_timestamp_seconds', 'gauge', 'The time when the worker last stored records'),
    (32, 'keysmith_usage_losses_total', 'counter', 'Ends of servers that may have lost usage records'),
    (33, 'keysmith_usage_lost_at_most_total', 'counter', 'Usage records that these ends may have lost at most'),
    (34, 'keysmith_usage_deltas', 'gauge', 'Changes of totals that wait to be added up; at most 100001 are counted'),
    (35, 'keysmith_usage_partitions', 'gauge', 'Partitions with usage records, one for each day'),
    (36, 'keysmith_usage_partition_missing', 'gauge', 'Whether the partition for tomorrow is missing although there were requests today'),
    (37, 'keysmith_usage_partitions_overdue', 'gauge', 'Partitions that should have been dropped two days ago or earlier'),
    (38, 'keysmith_replay_lag_seconds', 'gauge', 'On a standby: the age of the newest replayed commit; 0 if all that the primary sent is replayed'),
    (39, 'keysmith_replication_lag_bytes', 'gauge', 'On a primary: the WAL that a standby has not replayed yet'),
    (40, 'keysmith_replication_lag_seconds', 'gauge', 'On a primary: the time that a standby takes to replay a commit'),
    (41, 'keysmith_standby_heard_timestamp_seconds', 'gauge', 'The time when usage records of a standby last arrived'),
    (42, 'keysmith_standby_records_at_most', 'gauge', 'Usage records that are lost at most if a standby never returns'),
    (43, 'keysmith_heartbeat_age_seconds', 'gauge', 'On a subscriber: the age of the newest heartbeat of its publisher'),
    (44, 'keysmith_subscription_stopped', 'gauge', 'Whether a subscription that brings keys is disabled or has stopped'),
    (45, 'keysmith_audit_entries', 'gauge', 'Entries of the audit of a keyspace; * is for acts that concern no single keyspace'),
    (46, 'keysmith_isolated_tables', 'gauge', 'Tables that isolate() protects'),
    (47, 'keysmith_isolation_errors', 'gauge', 'Tables whose isolation has an error'),
    (48, 'keysmith_notify_queue_used_ratio', 'gauge', 'How full the queue of notifications is, from 0 to 1'),
    (49, 'keysmith_events_unsent_total', 'counter', 'Events that were not sent, as that queue was too full'),
    (50, 'keysmith_keys_estimate', 'gauge', 'Keys, as the last ANALYZE or VACUUM has counted them'),
    (51, 'keysmith_tenants_estimate', 'gauge', 'Tenants, as the last ANALYZE or VACUUM has counted them'),
    (52, 'keysmith_relation_bytes', 'gauge', 'The size of a table on disk, with its indexes'),
    (53, 'keysmith_pepper_file_problem', 'gauge', 'Whether the pepper file can not be used, or was changed since it was read'),
    (54, 'keysmith_signing_key_file_problem', 'gauge', 'Whether the file of signing secrets can not be used, or was changed since it was read'),
    (55, 'keysmith_unsettled_lost_total', 'counter', 'Limits of requests that can no longer be settled, since there was no room to remember them'),
    (56, 'keysmith_failing_addresses', 'gauge', 'Addresses that have failed attempts which count'),
    (57, 'keysmith_failing_addresses_capacity', 'gauge', 'The setting keysmith.max_failing_addresses'),
    (58, 'keysmith_failures_uncounted_total', 'counter', 'Failed attempts that were not counted for want of room'),
    (59, 'keysmith_spend_total', 'counter', 'Credits that the requests of a keyspace have cost'),
    (60, 'keysmith_units_total', 'counter', 'What the accepted requests of a keyspace have counted for in a unit; (other) sums up the units beyond the first 20')
) AS m (place, name, type, help);
COMMENT ON VIEW keysmith_private.metric_help IS 'The metrics, with their types and descriptions';

-- The thresholds are here alone. An alarm is raised if its value is above its threshold. Some
-- alarms look at what has happened in the last day, or week; others at the state.
CREATE FUNCTION keysmith_private.alarm_thresholds(
    OUT place integer, OUT alarm text, OUT threshold double precision, OUT meaning text, OUT remedy text
) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.* FROM keysmith_private.library() l, LATERAL (VALUES
        (1, 'not_preloaded', 0::double precision,
         'The library is not preloaded: limited keys are refused, and transactions write usage',
         'Set shared_preload_libraries = ''keysmith'', and restart'),
        (2, 'limits_unavailable', 0,
         'Requests were refused in the last day because there was no room to count them',
         'Raise keysmith.max_buckets, and restart'),
        (3, 'limit_buckets_filling', 0.8,
         'Most of the room for rate limits is in use',
         'Raise keysmith.max_buckets, and restart'),
        (4, 'usage_dropped', 0,
         'Usage records were lost in the last day because there was no room',
         'Raise keysmith.usage_buffer, and restart; look at the worker'),
        (5, 'usage_failing', 0,
         'The worker fails, and has stored nothing since: last_error of usage_status() says why',
         'Remove the cause: mostly the disk; on a standby the connection to the primary'),
        (6, 'usage_quarantined', 0,
         'Usage records of the last week could not be stored',
         'As a superuser, read their errors in keysmith_private.usage_set_aside'),
        (7, 'usage_queue_filling', 0.5,
         'Half of the room for usage records is in use: the worker is behind',
         'Look at the worker and the disk, on a standby at the primary; raise keysmith.usage_buffer'),
        (8, 'usage_lost', 0,
         'A server ended in the last week, and usage records in its memory may be lost',
         'Find out why it ended; set keysmith.usage_durability = commit if no record may be lost'),
        (9, 'usage_worker_missing', 0,
         'Usage records wait, and no worker runs',
         'Raise max_worker_processes, and restart'),
        (10, 'usage_not_logged', 0,
         'Requests of this standby or subscriber leave no record',
         'Set keysmith.usage_conninfo, unless you want this'),
        (11, 'partition_missing', 0,
         'There is no partition for the requests of tomorrow',
         'Call keysmith.maintain(), and look at what it returns'),
        (12, 'audit_gap', 0,
         'Entries of the audit are missing',
         'Call keysmith.audit_verify(), and compare with a backup'),
        (13, 'isolation_error', 0,
         'A tenant may see rows of others: the view isolation names the tables',
         'Follow the remedy of doctor()'),
        (14, 'notify_queue_filling', l.event_queue_limit / 200::double precision,
         'The queue of notifications is half as full as keysmith.event_queue_limit allows',
         'End the session that listens and does not read: the log of PostgreSQL names it'),
        (15, 'events_unsent', 0,
         'Events of the last day were not sent, because the queue of notifications was full',
         'Let caches drop all verdicts; end sessions that listen and do not read'),
        (16, 'replay_behind', coalesce(nullif(l.max_replica_lag, 0) / 2, 30),
         'This standby replays late: revoked keys are accepted meanwhile, or all keys refused',
         'Look for long queries on the standby, and for its connection to the primary'),
        (17, 'subscription_stopped', 0,
         'A subscription that brings keys is disabled or has stopped: revocations do not arrive',
         'Remove the cause, which the log of this server names, and enable the subscription'),
        (18, 'heartbeat_old', coalesce(nullif(l.max_replica_lag, 0) / 2, 30),
         'The heartbeat of the publisher is old: revocations do not arrive in time',
         'Look for a conflict in the log, and for the process keysmith publisher on the publisher'),
        (19, 'failures_uncounted', 0,
         'Failed attempts of the last day were not counted, because there was no room',
         'Find out who tries; raise keysmith.max_failing_addresses, and restart')
    ) AS a (place, alarm, threshold, meaning, remedy)
$$;
COMMENT ON FUNCTION keysmith_private.alarm_thresholds() IS 'The alarms, with their thresholds';

CREATE FUNCTION keysmith_private.subscriptions(
    OUT oid oid, OUT name name, OUT is_enabled boolean, OUT not_copied bigint, OUT is_applied boolean,
    OUT errors bigint
) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.oid, s.subname, s.subenabled,
           count(*) FILTER (WHERE r.srsubstate <> 'r'),
           EXISTS (SELECT FROM pg_stat_subscription t
                   WHERE t.subid = s.oid AND t.relid IS NULL AND t.pid IS NOT NULL),
           (SELECT t.apply_error_count + t.sync_error_count FROM pg_stat_subscription_stats t
            WHERE t.subid = s.oid)
    FROM pg_subscription s
    JOIN pg_subscription_rel r ON r.srsubid = s.oid
    JOIN pg_class c ON c.oid = r.srrelid
    WHERE c.relnamespace = 'keysmith_private'::regnamespace
    GROUP BY s.oid
$$;
COMMENT ON FUNCTION keysmith_private.subscriptions() IS 'The subscriptions that have one of our tables';

-- Looks at the newest thousand entries of each chain, and at the one before them. That is cheap, and
-- no proof. audit_verify() proves it.
CREATE FUNCTION keysmith_private.audit_gaps(OUT keyspace text, OUT entry bigint) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT g.keyspace, min(g.entry)
    FROM (SELECT c.keyspace, e.entry, lag(e.entry) OVER (PARTITION BY c.keyspace ORDER BY e.entry) AS previous
          FROM (SELECT k.keyspace FROM keysmith_private.keyspace k UNION SELECT '*') c
          CROSS JOIN LATERAL (
              SELECT a.entry FROM keysmith_private.audit_entry a
              WHERE a.keyspace = c.keyspace ORDER BY a.entry DESC LIMIT 1000) e) g
    WHERE g.entry <> 1 + coalesce(g.previous, (
              SELECT max(a.entry) FROM keysmith_private.audit_entry a
              WHERE a.keyspace = g.keyspace AND a.entry < g.entry), 0)
    GROUP BY g.keyspace
    UNION ALL
    SELECT k.keyspace, NULL
    FROM keysmith_private.keyspace k
    WHERE k.created_at < now()
      -- The audit of a subscriber may be on its publisher.
      AND NOT keysmith_private.is_subscribed('keysmith_private.keyspace')
      AND NOT EXISTS (SELECT FROM keysmith_private.audit_entry a WHERE a.keyspace = k.keyspace)
$$;
COMMENT ON FUNCTION keysmith_private.audit_gaps() IS
'The first missing entry of each chain that has a gap near its end; null for a keyspace without any entry';

-- The parts of a partitioned table are one row. The size of a locked table is what the last VACUUM or
-- ANALYZE has found: asking for it now would have to wait.
CREATE FUNCTION keysmith_private.relation_size(relation oid, pages integer) RETURNS double precision
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET lock_timeout = '20ms' AS $$
BEGIN
    RETURN pg_total_relation_size(relation);
EXCEPTION WHEN lock_not_available THEN
    RETURN greatest(pages, 0) * current_setting('block_size')::double precision;
END $$;
COMMENT ON FUNCTION keysmith_private.relation_size(oid, integer) IS
'The size of a table with its indexes; by its number of pages if another session locks it';

CREATE FUNCTION keysmith_private.relation_sizes(OUT relation text, OUT bytes double precision)
RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH locked AS MATERIALIZED (
        SELECT l.relation FROM keysmith_private.locked_relations() l
    )
    SELECT coalesce(w.relname, c.relname)::text,
           sum(CASE WHEN c.oid IN (SELECT l.relation FROM locked l)
                    THEN greatest(c.relpages, 0) * current_setting('block_size')::double precision
                    ELSE keysmith_private.relation_size(c.oid, c.relpages) END)
    FROM pg_class c
    LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
    LEFT JOIN pg_class w ON w.oid = i.inhparent
    WHERE c.relnamespace = 'keysmith_private'::regnamespace AND c.relkind IN ('r', 'p')
    GROUP BY 1
$$;
COMMENT ON FUNCTION keysmith_private.relation_sizes() IS
'The sizes of our tables, with their indexes and parts';

CREATE FUNCTION keysmith_private.recent_losses(
    OUT lost_at_most bigint, OUT lost_from timestamptz, OUT lost_until timestamptz
) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT i.lost_at_most, i.lost_from, i.lost_until
    FROM keysmith_private.usage_incarnation i
    WHERE i.lost_at_most > 0 AND i.lost_until > clock_timestamp() - interval '7 days'
$$;
COMMENT ON FUNCTION keysmith_private.recent_losses() IS
'The ends of servers that may have lost usage records in the last week';

-- All numbers. Those of keysmith_alarm are the values that are compared with the thresholds.
CREATE FUNCTION keysmith_private.measurements(OUT name text, OUT labels jsonb, OUT value double precision)
RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    WITH clock AS MATERIALIZED (
        SELECT clock_timestamp() AS now, (clock_timestamp() AT TIME ZONE 'UTC')::date AS today
    ), u AS MATERIALIZED (
        SELECT s.*, greatest(extract(epoch FROM c.now - s.oldest_waiting_since), 0)::double precision AS delay
        FROM keysmith.usage_status() s, clock c
    ), l AS MATERIALIZED (
        SELECT * FROM keysmith.limit_status()
    ), y AS MATERIALIZED (
        SELECT * FROM keysmith_private.library()
    ), locked AS MATERIALIZED (
        SELECT k.relation FROM keysmith_private.locked_relations() k
    ), partition AS MATERIALIZED (
        -- Two days of grace: requests, or a call of maintain(), have them dropped.
        SELECT p.*, p.ends <= k.kept_from - interval '48 hours' AS is_overdue
        FROM keysmith_private.usage_partitions() p, keysmith_private.usage_kept_from() AS k (kept_from)
    ), partitions AS MATERIALIZED (
        SELECT count(*) AS count, count(*) FILTER (WHERE p.is_overdue) AS overdue,
               -- A partition is made days before its first request.
               NOT coalesce(bool_or(p.ends > (c.today + 1)::timestamp AT TIME ZONE 'UTC'), false)
               AND coalesce(bool_or(p.starts <= c.now AND p.ends > c.now
                                    AND p.partition::oid NOT IN (SELECT k.relation FROM locked k)
                                    AND pg_relation_size(p.partition) > 0), false) AS is_missing
        FROM clock c LEFT JOIN partition p ON true
        GROUP BY c.today, c.now
    ), subscription AS MATERIALIZED (
        SELECT s.name, NOT (s.is_enabled AND s.is_applied) AS has_stopped FROM keysmith_private.subscriptions() s
    ), isolation AS MATERIALIZED (
        SELECT (SELECT count(DISTINCT i.found) FROM keysmith_private.isolated i) AS tables,
               -- Nobody reads a table as long as it is locked.
               (SELECT count(DISTINCT p.relation) FROM keysmith_private.isolation_problems() p
                WHERE p.level = 'error'
                  AND p.relation NOT IN (SELECT k.relation FROM locked k)) AS errors
    ), replay AS MATERIALIZED (
        -- Without the guard an idle primary commits nothing. Then nothing is missing here if all that
        -- has arrived is replayed, as long as the connection is there.
        SELECT CASE
            WHEN NOT pg_is_in_recovery() THEN NULL
            WHEN y.max_replica_lag = 0 AND pg_last_wal_receive_lsn() <= pg_last_wal_replay_lsn()
                 AND EXISTS (SELECT FROM pg_stat_wal_receiver r WHERE r.pid IS NOT NULL) THEN 0
            ELSE greatest(extract(epoch FROM c.now - coalesce(pg_last_xact_replay_timestamp(),
                                                              pg_postmaster_start_time())), 0)
            END::double precision AS lag
        FROM y, clock c
    ), heartbeat AS MATERIALIZED (
        SELECT greatest(extract(epoch FROM c.now - h.at), 0)::double precision AS age
        FROM keysmith_private.heartbeat h, y, clock c WHERE y.subscriber AND h.at > 'epoch'
    ), recent AS MATERIALIZED (
        SELECT (SELECT count(*) FROM keysmith_private.usage_set_aside s
                WHERE s.set_aside_at > c.now - interval '7 days') AS set_aside,
               (SELECT sum(i.lost_at_most) FROM keysmith_private.recent_losses() i) AS lost
        FROM clock c
    ), measured AS (
        SELECT m.name, '{}'::jsonb AS labels, m.value
        FROM u, l, y, clock c, partitions p, isolation i, replay r, LATERAL (VALUES
            ('keysmith_preloaded', y.preloaded::integer::double precision),
            ('keysmith_standby', pg_is_in_recovery()::integer),
            ('keysmith_subscriber', y.subscriber::integer),
            ('keysmith_pepper_file_problem', y.has_pepper_problem::integer),
            ('keysmith_signing_key_file_problem', y.has_signing_problem::integer),
            ('keysmith_directory_keys', y.directory_keys),
            ('keysmith_directory_capacity', y.directory_capacity),
            ('keysmith_directory_hits_total', y.directory_hits),
            ('keysmith_directory_misses_total', y.directory_misses),
            ('keysmith_limit_buckets', l.buckets),
            ('keysmith_limit_buckets_capacity', l.max_buckets),
            ('keysmith_limit_unavailable_total', l.unavailable),
            ('keysmith_unsettled_lost_total', l.unsettled_lost),
            ('keysmith_failing_addresses', l.failing_addresses),
            ('keysmith_failing_addresses_capacity', l.max_failing_addresses),
            ('keysmith_failures_uncounted_total', l.uncounted_failures),
            ('keysmith_usage_queue_capacity', u.capacity),
            ('keysmith_usage_queue_share', u.share),
            ('keysmith_usage_queue_used', u.used),
            ('keysmith_usage_waiting', u.waiting),
            ('keysmith_usage_pending', u.pending),
            ('keysmith_usage_accepted_total', u.accepted),
            ('keysmith_usage_stored_total', u.stored),
            ('keysmith_usage_written_through_total', u.written_through),
            ('keysmith_usage_dropped_total', CASE WHEN u.node IS NOT NULL THEN u.dropped END),
            ('keysmith_usage_discarded_total', u.discarded),
            ('keysmith_usage_not_logged_total', u.not_logged),
            ('keysmith_usage_quarantined_total', u.quarantined),
            ('keysmith_usage_unknown_total', u.unknown),
            ('keysmith_usage_worker_running', (u.worker = 'running')::integer),
            ('keysmith_usage_worker_delay_seconds', CASE WHEN u.node IS NOT NULL THEN coalesce(u.delay, 0) END),
            ('keysmith_usage_worker_failures_total', u.failures),
            ('keysmith_usage_worker_failed_starts_total', u.failed_starts),
            ('keysmith_usage_last_flush_timestamp_seconds', extract(epoch FROM u.last_flush)::double precision),
            ('keysmith_usage_losses_total', u.losses),
            ('keysmith_usage_lost_at_most_total', coalesce(u.lost_at_most, 0)),
            ('keysmith_usage_deltas', (SELECT count(*) FROM (
                 SELECT FROM keysmith_private.usage_delta LIMIT 100001) AS first_deltas)),
            ('keysmith_usage_partitions', p.count),
            ('keysmith_usage_partition_missing', p.is_missing::integer),
            ('keysmith_usage_partitions_overdue', p.overdue),
            ('keysmith_replay_lag_seconds', r.lag),
            ('keysmith_heartbeat_age_seconds', (SELECT h.age FROM heartbeat h)),
            ('keysmith_isolated_tables', i.tables),
            ('keysmith_isolation_errors', i.errors),
            ('keysmith_notify_queue_used_ratio', pg_notification_queue_usage()),
            ('keysmith_events_unsent_total', y.events_unsent)
        ) AS m (name, value)
        UNION ALL
        SELECT 'keysmith_info', jsonb_build_object('version', y.version), 1 FROM y
        UNION ALL
        SELECT 'keysmith_alarm', jsonb_build_object('alarm', a.alarm), a.value
        FROM u, l, y, clock c, partitions p, isolation i, replay r, recent n, LATERAL (VALUES
            ('not_preloaded', (NOT y.preloaded)::integer::double precision),
            ('limits_unavailable', CASE WHEN l.last_unavailable_at > c.now - interval '1 day' THEN l.unavailable END),
            ('limit_buckets_filling', l.buckets::double precision / l.max_buckets),
            ('failures_uncounted', CASE WHEN l.last_uncounted_at > c.now - interval '1 day' THEN l.uncounted_failures END),
            ('usage_dropped', CASE WHEN u.last_dropped_at > c.now - interval '1 day' THEN u.dropped END),
            ('usage_failing', CASE WHEN u.last_error_at > coalesce(u.last_flush, '-infinity') THEN u.failures END),
            ('usage_quarantined', n.set_aside),
            ('usage_queue_filling', greatest(u.used::double precision / u.capacity, u.waiting::double precision / u.share)),
            ('usage_lost', n.lost),
            ('usage_worker_missing', CASE WHEN u.worker <> 'running' AND (u.failed_starts > 0 OR u.delay > 60)
                                          THEN u.waiting END),
            ('usage_not_logged', CASE WHEN u.mode LIKE 'not logged%' THEN u.not_logged END),
            ('partition_missing', p.is_missing::integer),
            ('audit_gap', (SELECT count(*) FROM keysmith_private.audit_gaps())),
            ('isolation_error', i.errors),
            ('notify_queue_filling', pg_notification_queue_usage()),
            ('events_unsent', CASE WHEN y.last_event_unsent_at > c.now - interval '1 day' THEN y.events_unsent END),
            ('replay_behind', r.lag),
            ('subscription_stopped', (SELECT count(*) FROM subscription s WHERE s.has_stopped)),
            ('heartbeat_old', (SELECT h.age FROM heartbeat h))
        ) AS a (alarm, value)
        UNION ALL
        SELECT 'keysmith_decisions_total', jsonb_build_object('outcome', d.outcome), d.decisions
        FROM keysmith_private.decisions() d
        UNION ALL
        SELECT m.name, jsonb_build_object('node', n.node), m.value
        FROM keysmith_private.nodes() n, LATERAL (VALUES
            ('keysmith_standby_heard_timestamp_seconds', extract(epoch FROM n.heard_at)::double precision),
            ('keysmith_standby_records_at_most', n.most_waiting)
        ) AS m (name, value)
        WHERE n.is_standby
        UNION ALL
        -- Names of connections need not be unique.
        SELECT m.name, jsonb_build_object('standby', s.application_name, 'state', s.state), m.value
        FROM (SELECT r.application_name, r.state,
                     max(pg_wal_lsn_diff(pg_current_wal_lsn(), r.replay_lsn))::double precision AS bytes,
                     coalesce(extract(epoch FROM max(r.replay_lag)), 0)::double precision AS seconds
              FROM pg_stat_replication r
              WHERE NOT pg_is_in_recovery() AND r.replay_lsn IS NOT NULL
              GROUP BY r.application_name, r.state) AS s, LATERAL (VALUES
            ('keysmith_replication_lag_bytes', s.bytes), ('keysmith_replication_lag_seconds', s.seconds)
        ) AS m (name, value)
        UNION ALL
        SELECT 'keysmith_subscription_stopped', jsonb_build_object('subscription', s.name), s.has_stopped::integer
        FROM subscription s
        UNION ALL
        SELECT 'keysmith_audit_entries', jsonb_build_object('keyspace', k.keyspace),
               (SELECT a.entry FROM keysmith_private.audit_entry a
                WHERE a.keyspace = k.keyspace ORDER BY a.entry DESC LIMIT 1)
        FROM (SELECT s.keyspace FROM keysmith_private.keyspace s UNION SELECT '*') k
        UNION ALL
        SELECT 'keysmith_spend_total', jsonb_build_object('keyspace', k.keyspace), coalesce(s.peak, 0)
        FROM keysmith_private.keyspace k
        LEFT JOIN keysmith_private.usage_sum s ON s.keyspace = k.keyspace AND s.unit = ''
        UNION ALL
        SELECT 'keysmith_units_total', jsonb_build_object('keyspace', s.keyspace, 'unit', s.unit), s.peak
        FROM keysmith_private.usage_sum s WHERE s.unit <> ''
        UNION ALL
        SELECT CASE c.relname WHEN 'key' THEN 'keysmith_keys_estimate' ELSE 'keysmith_tenants_estimate' END,
               '{}', greatest(c.reltuples, 0)
        FROM pg_class c
        WHERE c.oid IN ('keysmith_private.key'::regclass, 'keysmith_private.tenant'::regclass)
        UNION ALL
        SELECT 'keysmith_relation_bytes', jsonb_build_object('relation', s.relation), s.bytes
        FROM keysmith_private.relation_sizes() s
    )
    SELECT m.name, m.labels, m.value FROM measured m WHERE m.value IS NOT NULL
$$;
COMMENT ON FUNCTION keysmith_private.measurements() IS
'The numbers of the views metrics and alarms; of keysmith_alarm the values, before they are compared';

CREATE FUNCTION keysmith_private.metrics(
    OUT name text, OUT labels jsonb, OUT value double precision, OUT type text, OUT help text
) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    WITH measured AS MATERIALIZED (
        SELECT * FROM keysmith_private.measurements()
    )
    SELECT m.name, m.labels, m.value, h.type, h.help
    FROM (SELECT m.name, m.labels, m.value FROM measured m WHERE m.name <> 'keysmith_alarm'
          UNION ALL
          SELECT 'keysmith_alarm', jsonb_build_object('alarm', t.alarm),
                 coalesce(m.value > t.threshold, false)::integer
          FROM keysmith_private.alarm_thresholds() t
          LEFT JOIN measured m ON m.name = 'keysmith_alarm' AND m.labels ->> 'alarm' = t.alarm) AS m
    JOIN keysmith_private.metric_help h USING (name)
    ORDER BY h.place, m.labels
$$;
COMMENT ON FUNCTION keysmith_private.metrics() IS 'The rows of the view metrics';

CREATE FUNCTION keysmith_private.alarms(
    OUT alarm text, OUT raised boolean, OUT value double precision, OUT threshold double precision,
    OUT meaning text, OUT remedy text
) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    SELECT t.alarm, coalesce(m.value > t.threshold, false), coalesce(m.value, 0), t.threshold, t.meaning, t.remedy
    FROM keysmith_private.alarm_thresholds() t
    LEFT JOIN keysmith_private.measurements() m
        ON m.name = 'keysmith_alarm' AND m.labels ->> 'alarm' = t.alarm
    ORDER BY t.place
$$;
COMMENT ON FUNCTION keysmith_private.alarms() IS 'The rows of the view alarms';

CREATE FUNCTION keysmith_private.shown_metrics(
    OUT name text, OUT labels jsonb, OUT value double precision, OUT type text, OUT help text
) RETURNS SETOF record
LANGUAGE c STABLE ROWS 150 AS 'MODULE_PATHNAME', 'keysmith_metrics';
COMMENT ON FUNCTION keysmith_private.shown_metrics() IS
'The rows of the view metrics, for callers who see everything';

CREATE FUNCTION keysmith_private.shown_alarms(
    OUT alarm text, OUT raised boolean, OUT value double precision, OUT threshold double precision,
    OUT meaning text, OUT remedy text
) RETURNS SETOF record
LANGUAGE c STABLE ROWS 18 AS 'MODULE_PATHNAME', 'keysmith_alarms';
COMMENT ON FUNCTION keysmith_private.shown_alarms() IS
'The rows of the view alarms, for callers who see everything';

CREATE VIEW keysmith.metrics WITH (security_barrier) AS
SELECT m.name, m.labels, m.value, m.type, m.help FROM keysmith_private.shown_metrics() m;
COMMENT ON VIEW keysmith.metrics IS 'Numbers about this database and its server, for monitoring';
COMMENT ON COLUMN keysmith.metrics.name IS 'The name of the metric';
COMMENT ON COLUMN keysmith.metrics.labels IS 'The labels that tell rows of one name apart';
COMMENT ON COLUMN keysmith.metrics.value IS 'The number; 0 or 1 for no or yes';
COMMENT ON COLUMN keysmith.metrics.type IS 'counter for numbers that only grow until a restart, and gauge for others';
COMMENT ON COLUMN keysmith.metrics.help IS 'A description of the metric';

CREATE VIEW keysmith.alarms WITH (security_barrier) AS
SELECT a.alarm, a.raised, a.value, a.threshold, a.meaning, a.remedy FROM keysmith_private.shown_alarms() a;
COMMENT ON VIEW keysmith.alarms IS 'The conditions to alert on, and whether they are met now';
COMMENT ON COLUMN keysmith.alarms.alarm IS 'The name of the alarm';
COMMENT ON COLUMN keysmith.alarms.raised IS 'Whether the value is above the threshold';
COMMENT ON COLUMN keysmith.alarms.value IS 'The number that is compared';
COMMENT ON COLUMN keysmith.alarms.threshold IS 'The greatest number that raises no alarm';
COMMENT ON COLUMN keysmith.alarms.meaning IS 'The fact that raises it';
COMMENT ON COLUMN keysmith.alarms.remedy IS 'What to do about it';
