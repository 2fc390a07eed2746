-- Partitions made ahead, deltas folded, old rows dropped.

CREATE FUNCTION keysmith_private.usage_partitions(
    OUT partition regclass, OUT name text, OUT starts timestamptz, OUT ends timestamptz
) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO' AS $$
    SELECT c.oid, c.relname, bounds[1]::timestamptz, bounds[2]::timestamptz
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid,
         LATERAL regexp_match(pg_get_expr(c.relpartbound, c.oid),
                              '^FOR VALUES FROM [(]''([^'']+)''[)] TO [(]''([^'']+)''[)]$') AS bounds
    WHERE i.inhparent = 'keysmith_private.usage_event'::regclass AND bounds IS NOT NULL
$$;
COMMENT ON FUNCTION keysmith_private.usage_partitions() IS 'The partitions of requests, and the times of their rows';

CREATE FUNCTION keysmith_private.usage_has_partition(at timestamptz) RETURNS boolean
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'keysmith_usage_has_partition';
COMMENT ON FUNCTION keysmith_private.usage_has_partition(timestamptz) IS
'Whether there is a partition for requests of a time, whatever the snapshot of the transaction';

-- There is no default partition: to attach another day would lock it, and so
-- wait for all readers. A partition that is missing is made by who needs it.
CREATE FUNCTION keysmith_private.usage_prepare(first_day date DEFAULT NULL, last_day date DEFAULT NULL)
RETURNS integer
-- The settings by which a session has its own tables made, or times shown, do not count here.
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET default_tablespace = '' SET default_table_access_method = 'heap'
SET datestyle = 'ISO' SET timezone = 'UTC' AS $$
DECLARE
    today   constant date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    parent  constant text := 'keysmith_private.usage_event';
    starts  timestamptz;
    ends    timestamptz;
    name    text;
    grantee oid;
    made    integer := 0;
BEGIN
    first_day := coalesce(first_day, today - 1);
    last_day := coalesce(last_day, today + 3);
    IF NOT isfinite(first_day) OR NOT isfinite(last_day) OR last_day - first_day NOT BETWEEN 0 AND 1000 THEN
        RAISE EXCEPTION 'last_day must be at most 1000 days after first_day, and not before it'
            USING ERRCODE = 'KS400';
    END IF;
    FOR n IN 0 .. last_day - first_day LOOP
        starts := (first_day + n)::timestamp AT TIME ZONE 'UTC';
        ends := (first_day + n + 1)::timestamp AT TIME ZONE 'UTC';
        CONTINUE WHEN keysmith_private.usage_has_partition(starts);
        -- Who comes second waits here, and then looks again. Readers and writers go on.
        LOCK TABLE ONLY keysmith_private.usage_event IN SHARE UPDATE EXCLUSIVE MODE;
        CONTINUE WHEN keysmith_private.usage_has_partition(starts);
        name := 'usage_' || to_char(first_day + n, 'YYYYMMDD');
        WHILE to_regclass(format('keysmith_private.%I', name)) IS NOT NULL LOOP
            -- Someone keeps a table of that name, such as one that was detached.
            name := name || '_';
        END LOOP;
        EXECUTE format('CREATE TABLE keysmith_private.%I (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS)',
                       name, parent);
        EXECUTE format('COMMENT ON TABLE keysmith_private.%I IS %L', name,
                       'Requests of ' || to_char(first_day + n, 'YYYY-MM-DD') || ' (UTC)');
        -- Default privileges are for tables that someone makes to be read.
        FOR grantee IN
            SELECT DISTINCT a.grantee FROM pg_catalog.pg_class c, aclexplode(c.relacl) AS a
            WHERE c.oid = to_regclass(format('keysmith_private.%I', name)) AND a.grantee <> c.relowner
        LOOP
            EXECUTE format('REVOKE ALL ON keysmith_private.%I FROM %s', name,
                           CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END);
        END LOOP;
        -- Each index costs the worker as much as the row itself. Request ids come nearly in
        -- order, which is cheap, and are what no two rows have in common. Rows of a
        -- key or tenant never have all columns in common: there is nothing to deduplicate.
        EXECUTE format(
            'CREATE TRIGGER usage_inserted AFTER INSERT ON keysmith_private.%1$I
                 REFERENCING NEW TABLE AS new_rows
                 FOR EACH STATEMENT EXECUTE FUNCTION keysmith_private.usage_counted();
             CREATE TRIGGER usage_updated AFTER UPDATE ON keysmith_private.%1$I
                 REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
                 FOR EACH STATEMENT EXECUTE FUNCTION keysmith_private.usage_counted();
             CREATE TRIGGER usage_deleted AFTER DELETE ON keysmith_private.%1$I
                 REFERENCING OLD TABLE AS old_rows
                 FOR EACH STATEMENT EXECUTE FUNCTION keysmith_private.usage_counted();
             CREATE UNIQUE INDEX %2$I ON keysmith_private.%1$I (request_id);
             CREATE INDEX %3$I ON keysmith_private.%1$I (key_id, at, incarnation, sequence)
                 WITH (deduplicate_items = off);
             CREATE INDEX %4$I ON keysmith_private.%1$I (tenant_id, at, incarnation, sequence)
                 WITH (deduplicate_items = off);
             ALTER TABLE %5$s ATTACH PARTITION keysmith_private.%1$I FOR VALUES FROM (%6$L) TO (%7$L)',
            name, name || '_request', name || '_of_key', name || '_of_tenant', parent, starts, ends);
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;
COMMENT ON FUNCTION keysmith_private.usage_prepare(date, date) IS
'Makes the partitions that requests of these days need, and tells how many it made';

CREATE FUNCTION keysmith_private.usage_fold_lock() RETURNS boolean
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_usage_fold_lock';
COMMENT ON FUNCTION keysmith_private.usage_fold_lock() IS
'Takes the lock of the one transaction that folds; false if another has it';

CREATE FUNCTION keysmith_private.usage_retention() RETURNS interval
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_usage_retention';
COMMENT ON FUNCTION keysmith_private.usage_retention() IS
'keysmith.usage_retention as the server has it; 0 keeps rows for good';

CREATE FUNCTION keysmith_private.usage_fold() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- How many endpoints of a tenant and environment a period remembers by name.
    most_endpoints constant bigint := 500;
    -- How many rows lie between two marks.
    stride  constant bigint := 1000;
    folded  bigint;
    tenants uuid[];
    holders uuid[];
    periods timestamptz[];
    changes timestamptz[];
    todo    record;
    step    text;
    next    record;
BEGIN
    IF NOT keysmith_private.usage_fold_lock() THEN
        RETURN NULL;
    END IF;

    -- One statement: no reader sees a delta in both places, or in neither.
    -- What is taken is added up once, and whatever follows reads the sums: they are fewer.
    WITH taken AS MATERIALIZED (
        DELETE FROM keysmith_private.usage_delta RETURNING *
    ), keys AS MATERIALIZED (
        SELECT tenant_id, period, key_id, environment, status, outcome,
               sum(requests) AS requests, sum(timed) AS timed, sum(latency) AS latency,
               max(used_at) AS used_at, min(changed_from) AS changed_from, count(*) AS deltas
        FROM taken WHERE key_id IS NOT NULL GROUP BY 1, 2, 3, 4, 5, 6
    ), endpoints AS MATERIALIZED (
        SELECT tenant_id, period, environment, method, endpoint,
               sum(requests) AS requests, sum(refused) AS refused, sum(timed) AS timed,
               sum(latency) AS latency, count(*) AS deltas
        FROM taken WHERE key_id IS NULL GROUP BY 1, 2, 3, 4, 5
    ), hours AS (
        INSERT INTO keysmith_private.usage_hour AS u
            (tenant_id, period, key_id, environment, status, outcome, requests, timed, latency)
        SELECT tenant_id, period, key_id, environment, status, outcome, requests, timed, latency
        FROM keys
        ON CONFLICT (tenant_id, period, key_id, environment, status, outcome) DO UPDATE SET
            requests = u.requests + excluded.requests,
            timed = u.timed + excluded.timed,
            latency = u.latency + excluded.latency
    ), days AS (
        INSERT INTO keysmith_private.usage_day AS u
            (tenant_id, period, key_id, environment, status, outcome, requests, timed, latency)
        SELECT tenant_id, date_trunc('day', period, 'UTC'), key_id, environment, status, outcome,
               sum(requests), sum(timed), sum(latency)
        FROM keys GROUP BY 1, 2, 3, 4, 5, 6
        ON CONFLICT (tenant_id, period, key_id, environment, status, outcome) DO UPDATE SET
            requests = u.requests + excluded.requests,
            timed = u.timed + excluded.timed,
            latency = u.latency + excluded.latency
    ), lasts AS (
        INSERT INTO keysmith_private.usage_last AS u (key_id, used_at)
        SELECT key_id, max(used_at) FROM keys WHERE used_at IS NOT NULL GROUP BY 1
        ON CONFLICT (key_id) DO UPDATE SET used_at = greatest(u.used_at, excluded.used_at)
    ), by_endpoint AS (
        SELECT span, tenant_id, date_trunc(span, period, 'UTC') AS period, environment, method, endpoint,
               sum(requests) AS requests, sum(refused) AS refused, sum(timed) AS timed,
               sum(latency) AS latency
        FROM endpoints, (VALUES ('hour'), ('day')) AS spans (span)
        GROUP BY 1, 2, 3, 4, 5, 6
    ), known AS (
        -- What has a row keeps it; rows are never removed. So an endpoint that came too
        -- late to have one never gets one in that period, and its amendments find the
        -- same place as itself.
        SELECT n.*, coalesce(h.endpoint, d.endpoint) IS NOT NULL AS is_known
        FROM by_endpoint n
        LEFT JOIN keysmith_private.usage_endpoint_hour h ON n.span = 'hour'
            AND (h.tenant_id, h.period, h.environment, h.method, h.endpoint)
              = (n.tenant_id, n.period, n.environment, n.method, n.endpoint)
        LEFT JOIN keysmith_private.usage_endpoint_day d ON n.span = 'day'
            AND (d.tenant_id, d.period, d.environment, d.method, d.endpoint)
              = (n.tenant_id, n.period, n.environment, n.method, n.endpoint)
    ), room AS (
        SELECT span, tenant_id, period, environment,
               most_endpoints - CASE span
                   WHEN 'hour' THEN (
                       SELECT count(*) FROM keysmith_private.usage_endpoint_hour h
                       WHERE (h.tenant_id, h.period, h.environment) = (k.tenant_id, k.period, k.environment))
                   ELSE (
                       SELECT count(*) FROM keysmith_private.usage_endpoint_day d
                       WHERE (d.tenant_id, d.period, d.environment) = (k.tenant_id, k.period, k.environment))
               END AS free
        FROM known k WHERE NOT is_known GROUP BY 1, 2, 3, 4
    ), ranked AS (
        SELECT k.*, r.free, row_number() OVER (
                   PARTITION BY k.span, k.tenant_id, k.period, k.environment, k.is_known
                   ORDER BY k.requests DESC, k.method, k.endpoint) AS rank
        FROM known k LEFT JOIN room r USING (span, tenant_id, period, environment)
    ), bounded AS (
        SELECT span, tenant_id, period, environment,
               CASE WHEN is_known OR rank <= free THEN method ELSE '' END AS method,
               CASE WHEN is_known OR rank <= free THEN endpoint ELSE '(other)' END AS endpoint,
               sum(requests) AS requests, sum(refused) AS refused, sum(timed) AS timed,
               sum(latency) AS latency
        FROM ranked GROUP BY 1, 2, 3, 4, 5, 6
    ), endpoint_hours AS (
        INSERT INTO keysmith_private.usage_endpoint_hour AS u
            (tenant_id, period, environment, method, endpoint, requests, refused, timed, latency)
        SELECT tenant_id, period, environment, method, endpoint, requests, refused, timed, latency
        FROM bounded WHERE span = 'hour'
        ON CONFLICT (tenant_id, period, environment, method, endpoint) DO UPDATE SET
            requests = u.requests + excluded.requests,
            refused = u.refused + excluded.refused,
            timed = u.timed + excluded.timed,
            latency = u.latency + excluded.latency
    ), endpoint_days AS (
        INSERT INTO keysmith_private.usage_endpoint_day AS u
            (tenant_id, period, environment, method, endpoint, requests, refused, timed, latency)
        SELECT tenant_id, period, environment, method, endpoint, requests, refused, timed, latency
        FROM bounded WHERE span = 'day'
        ON CONFLICT (tenant_id, period, environment, method, endpoint) DO UPDATE SET
            requests = u.requests + excluded.requests,
            refused = u.refused + excluded.refused,
            timed = u.timed + excluded.timed,
            latency = u.latency + excluded.latency
    ), changed AS (
        SELECT tenant_id, holder, period, min(changed_from) AS changed_from
        FROM keys, unnest(ARRAY[key_id, tenant_id]) AS holder
        WHERE changed_from IS NOT NULL GROUP BY 1, 2, 3
    )
    SELECT (SELECT coalesce(sum(deltas), 0) FROM (SELECT deltas FROM keys UNION ALL
                                                  SELECT deltas FROM endpoints) AS summed),
           array_agg(c.tenant_id), array_agg(c.holder),
           array_agg(c.period), array_agg(c.changed_from)
    INTO folded, tenants, holders, periods, changes
    FROM changed c;

    -- Marks before what changed stay right. Rows that came since the statement above may
    -- be among those that are numbered now: their deltas are still there, and tell
    -- readers and the next fold which marks not to trust.
    DELETE FROM keysmith_private.usage_mark m
    USING unnest(holders, periods, changes) AS c (holder, period, changed_from)
    WHERE m.holder = c.holder AND m.period = c.period AND m.at >= c.changed_from;
    FOR todo IN
        SELECT c.holder, c.period, c.period + interval '1 hour' AS ends, c.holder = c.tenant_id AS is_tenant, coalesce(m.position, 0) AS position,
               coalesce(m.at, c.period) AS at, coalesce(m.incarnation, -9223372036854775808) AS incarnation,
               coalesce(m.sequence, -9223372036854775808) AS sequence
        FROM unnest(tenants, holders, periods) AS c (tenant_id, holder, period)
        LEFT JOIN LATERAL (
            SELECT * FROM keysmith_private.usage_mark m WHERE m.holder = c.holder AND m.period = c.period
            ORDER BY m.position DESC LIMIT 1
        ) AS m ON true
        WHERE stride <= -coalesce(m.position, 0) + (
            -- A range of keys, one or all, so that a key's index entry is found without
            -- reading those of its tenant's other keys.
            SELECT sum(h.requests - h.gone) FROM keysmith_private.usage_hour h
            WHERE h.tenant_id = c.tenant_id AND h.period = c.period
              AND h.key_id >= CASE WHEN c.holder = c.tenant_id THEN '00000000-0000-0000-0000-000000000000' ELSE c.holder END
              AND h.key_id <= CASE WHEN c.holder = c.tenant_id THEN 'ffffffff-ffff-ffff-ffff-ffffffffffff' ELSE c.holder END)
    LOOP
        -- From mark to mark. To number all rows would take twice as long as to pass them.
        step := format(
            'SELECT at, incarnation, sequence FROM keysmith_private.usage_event
             WHERE %I = $1 AND at >= $2 AND at < $5 AND (at, incarnation, sequence) > ($2, $3, $4)
             ORDER BY at, incarnation, sequence OFFSET $6 LIMIT 1',
            CASE WHEN todo.is_tenant THEN 'tenant_id' ELSE 'key_id' END);
        LOOP
            EXECUTE step INTO next
            USING todo.holder, todo.at, todo.incarnation, todo.sequence, todo.ends, stride - 1;
            EXIT WHEN next.at IS NULL;
            todo.position := todo.position + stride;
            todo.at := next.at;
            todo.incarnation := next.incarnation;
            todo.sequence := next.sequence;
            INSERT INTO keysmith_private.usage_mark
            VALUES (todo.holder, todo.period, todo.position, next.at, next.incarnation, next.sequence);
        END LOOP;
    END LOOP;
    RETURN folded;
END $$;
COMMENT ON FUNCTION keysmith_private.usage_fold() IS
'Adds up what changed since the last fold, and tells how many deltas that were; null if another session is at it';

CREATE FUNCTION keysmith_private.usage_mark_gone(since timestamptz, until timestamptz) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    days  bigint;
    hours bigint;
BEGIN
    UPDATE keysmith_private.usage_day SET gone = requests
    WHERE period >= since AND period < until AND gone <> requests;
    GET DIAGNOSTICS days = ROW_COUNT;
    UPDATE keysmith_private.usage_hour SET gone = requests
    WHERE period >= since AND period < until AND gone <> requests;
    GET DIAGNOSTICS hours = ROW_COUNT;
    DELETE FROM keysmith_private.usage_mark WHERE period >= since AND period < until;
    RETURN days + hours;
END $$;
COMMENT ON FUNCTION keysmith_private.usage_mark_gone(timestamptz, timestamptz) IS
'Has totals say that their rows are dropped, and tells how many totals';

CREATE FUNCTION keysmith_private.usage_dependents(partition regclass) RETURNS SETOF text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid)
    FROM pg_class c
    JOIN pg_type t ON t.oid = c.reltype
    JOIN pg_depend d ON d.deptype = 'n'
     AND (d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
          OR d.refclassid = 'pg_type'::regclass AND d.refobjid IN (t.oid, t.typarray))
    WHERE c.oid = partition
$$;
COMMENT ON FUNCTION keysmith_private.usage_dependents(regclass) IS
'What keeps a partition from being dropped, such as a view of somebody''s';

CREATE FUNCTION keysmith_private.usage_drop_old(oldest timestamptz) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- How many totals may be changed while readers wait for the next partition to be dropped.
    most_marked constant bigint := 10000;
    part      record;
    left_over timestamptz;
    dropped   integer := 0;
    marked    bigint := 0;
    is_stuck  boolean := false;
    has_rows  boolean;
    others    text[] := '{}';
BEGIN
    IF NOT keysmith_private.usage_fold_lock() THEN
        RAISE lock_not_available;
    END IF;
    -- Days whose partition someone took away by hand.
    FOR left_over IN
        WITH RECURSIVE days AS (
            SELECT min(period) AS period FROM keysmith_private.usage_day WHERE requests > gone
            UNION ALL
            SELECT (SELECT min(d.period) FROM keysmith_private.usage_day d
                    WHERE d.requests > d.gone AND d.period > l.period)
            FROM days l WHERE l.period IS NOT NULL
        )
        SELECT d.period FROM days d
        WHERE isfinite(d.period)
          AND NOT EXISTS (SELECT FROM keysmith_private.usage_partitions() p
                          WHERE p.starts <= d.period AND p.ends > d.period)
          AND NOT EXISTS (SELECT FROM keysmith_private.usage_event e
                          WHERE e.at >= d.period AND e.at < d.period + interval '24 hours')
          AND NOT EXISTS (SELECT FROM keysmith_private.usage_delta c
                          WHERE c.period >= d.period AND c.period < d.period + interval '24 hours')
    LOOP
        PERFORM keysmith_private.usage_mark_gone(left_over, left_over + interval '24 hours');
    END LOOP;

    FOR part IN
        SELECT p.partition, p.name, p.starts, p.ends,
               EXISTS (SELECT FROM keysmith_private.usage_dependents(p.partition)) AS is_needed
        FROM keysmith_private.usage_partitions() p WHERE p.ends <= oldest ORDER BY p.starts
    LOOP
        IF part.is_needed THEN
            EXECUTE format('SELECT EXISTS (SELECT FROM ONLY %s)', part.partition) INTO has_rows;
            IF NOT has_rows THEN
                others := others || format('%s kept empty', part.name);
                CONTINUE;
            END IF;
        ELSIF is_stuck OR marked > most_marked THEN
            others := others || format('%s busy, to be tried again', part.name);
            CONTINUE;
        END IF;
        BEGIN
            -- Readers go on, and no row is amended any more.
            EXECUTE format('LOCK TABLE ONLY %s IN SHARE ROW EXCLUSIVE MODE', part.partition);
            PERFORM keysmith_private.usage_fold();
            marked := marked + keysmith_private.usage_mark_gone(part.starts, part.ends);
            -- Everyone who comes waits behind the next locks: they are had soon, or not now.
            PERFORM set_config('lock_timeout', '50ms', true);
            IF part.is_needed THEN
                EXECUTE format('TRUNCATE ONLY %s', part.partition);
                others := others || format('%s emptied', part.name);
            ELSE
                is_stuck := true;
                LOCK TABLE ONLY keysmith_private.usage_event IN ACCESS EXCLUSIVE MODE;
                is_stuck := false;
                EXECUTE format('DROP TABLE %s', part.partition);
                dropped := dropped + 1;
                RAISE NOTICE 'dropped %', part.name;
            END IF;
        EXCEPTION
            WHEN lock_not_available OR deadlock_detected THEN
                others := others || format('%s busy, to be tried again', part.name);
            WHEN OTHERS THEN
                others := others || format('%s failed: %s', part.name, SQLERRM);
                RAISE WARNING 'keysmith: % can''t be dropped: %', part.name, SQLERRM;
        END;
    END LOOP;
    RETURN array_to_string(format('%s partitions dropped', dropped) || others, ', ');
END $$;
COMMENT ON FUNCTION keysmith_private.usage_drop_old(timestamptz) IS
'Drops the partitions that end at a time or before; those that cannot be dropped are emptied';

CREATE FUNCTION keysmith_private.sum_up_touches(oldest timestamptz) RETURNS bigint
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    -- What a leaked key touched long ago still matters, statement by statement no more.
    WITH RECURSIVE keys AS (
        (SELECT key_id FROM keysmith_private.touch ORDER BY key_id LIMIT 1)
        UNION ALL
        SELECT (SELECT t.key_id FROM keysmith_private.touch t WHERE t.key_id > k.key_id ORDER BY t.key_id LIMIT 1)
        FROM keys k WHERE k.key_id IS NOT NULL
    ), old AS (
        DELETE FROM keysmith_private.touch t USING keys k
        WHERE t.key_id = k.key_id AND t.last_at < oldest RETURNING t.*
    ), summed AS (
        INSERT INTO keysmith_private.touch
            (key_id, tenant_id, schema, relation, operation, rows, first_at, last_at)
        SELECT key_id, tenant_id, schema, relation, operation, sum(rows), min(first_at), max(last_at)
        FROM old GROUP BY 1, 2, 3, 4, 5
    )
    SELECT count(*) - count(DISTINCT (key_id, schema, relation, operation)) FROM old
$$;
COMMENT ON FUNCTION keysmith_private.sum_up_touches(timestamptz) IS
'Sums up what was noted before a time, and tells how many notes fewer there are';

CREATE FUNCTION keysmith.maintain(OUT task text, OUT outcome text) RETURNS SETOF record
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms'
SET jit = off AS $$
DECLARE
    later     constant text := 'busy, to be tried again';
    retention constant interval := keysmith_private.usage_retention();
    oldest    timestamptz;
    forgotten bigint;
BEGIN
    -- 0 keeps all.
    oldest := CASE WHEN retention > '0' THEN date_trunc('day', clock_timestamp() - retention, 'UTC')
                   ELSE '-infinity' END;
    -- One task that fails keeps no other from being done. Dropping comes last: it locks the
    -- table of requests until the commit.
    FOREACH task IN ARRAY '{partitions,totals,touches,requests without a known key,retention}'::text[] LOOP
        BEGIN
            CASE task
                WHEN 'partitions' THEN
                    outcome := keysmith_private.usage_prepare() || ' made';
                WHEN 'totals' THEN
                    outcome := coalesce(keysmith_private.usage_fold() || ' deltas folded', later);
                WHEN 'touches' THEN
                    outcome := keysmith_private.sum_up_touches(oldest) || ' summed up';
                WHEN 'requests without a known key' THEN
                    DELETE FROM keysmith_private.usage_unknown WHERE hour < oldest;
                    GET DIAGNOSTICS forgotten = ROW_COUNT;
                    outcome := forgotten || ' counts dropped';
                WHEN 'retention' THEN
                    outcome := keysmith_private.usage_drop_old(oldest);
            END CASE;
        EXCEPTION
            WHEN lock_not_available OR deadlock_detected THEN
                outcome := later;
            WHEN OTHERS THEN
                outcome := 'failed: ' || SQLERRM;
                RAISE WARNING 'keysmith: maintain: %: %', task, SQLERRM;
        END;
        RETURN NEXT;
    END LOOP;
END $$;
COMMENT ON FUNCTION keysmith.maintain() IS
'Makes partitions, adds up totals and drops what is older than keysmith.usage_retention';
