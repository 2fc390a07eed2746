-- Partitions made ahead, deltas folded, old rows dropped.

CREATE FUNCTION keysmith_private.usage_prepare(first_day date DEFAULT NULL, last_day date DEFAULT NULL)
RETURNS integer
-- Where a session has its own tables made is no matter of ours.
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s'
SET default_tablespace = '' SET default_table_access_method = 'heap' AS $$
DECLARE
    today   constant date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    parent  constant text := 'keysmith_private.usage_event';
    bound   constant text := 'YYYY-MM-DD "00:00+00"';
    days    date[];
    wanted  text[];
    name    text;
    day     date;
    grantee oid;
    made    integer := 0;
BEGIN
    first_day := coalesce(first_day, today - 1);
    last_day := coalesce(last_day, today + 3);
    IF NOT isfinite(first_day) OR NOT isfinite(last_day) OR last_day - first_day NOT BETWEEN 0 AND 1000 THEN
        RAISE EXCEPTION 'last_day must be at most 1000 days after first_day, and not before it'
            USING ERRCODE = 'KS400';
    END IF;
    -- Null stands for the partition of all days that have none.
    days := ARRAY(SELECT first_day + n FROM generate_series(0, last_day - first_day) AS n) || NULL::date;
    wanted := ARRAY(SELECT coalesce('usage_' || to_char(d, 'YYYYMMDD'), 'usage_default')
                    FROM unnest(days) WITH ORDINALITY AS u (d, n) ORDER BY n);
    IF NOT EXISTS (SELECT FROM unnest(wanted) AS w WHERE to_regclass('keysmith_private.' || w) IS NULL) THEN
        RETURN 0;
    END IF;

    -- Who comes second waits here, and then finds everything made. Writers go on.
    LOCK TABLE ONLY keysmith_private.usage_event IN SHARE UPDATE EXCLUSIVE MODE;
    FOR n IN 1 .. cardinality(days) LOOP
        name := wanted[n];
        day := days[n];
        CONTINUE WHEN to_regclass('keysmith_private.' || name) IS NOT NULL;
        EXECUTE format('CREATE TABLE keysmith_private.%I (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS)',
                       name, parent);
        EXECUTE format('COMMENT ON TABLE keysmith_private.%I IS %L', name,
                       'Requests of ' || coalesce(to_char(day, 'YYYY-MM-DD') || ' (UTC)', 'days that have no partition'));
        -- Default privileges are for tables that someone makes to be read.
        FOR grantee IN
            SELECT DISTINCT a.grantee FROM pg_catalog.pg_class c, aclexplode(c.relacl) AS a
            WHERE c.oid = to_regclass('keysmith_private.' || name) AND a.grantee <> c.relowner
        LOOP
            EXECUTE format('REVOKE ALL ON keysmith_private.%I FROM %s', name,
                           CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END);
        END LOOP;
        EXECUTE format(
            'CREATE TRIGGER usage_inserted AFTER INSERT ON keysmith_private.%1$I
                 REFERENCING NEW TABLE AS new_rows
                 FOR EACH STATEMENT EXECUTE FUNCTION keysmith_private.usage_counted();
             CREATE TRIGGER usage_updated AFTER UPDATE ON keysmith_private.%1$I
                 REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
                 FOR EACH STATEMENT EXECUTE FUNCTION keysmith_private.usage_counted();
             CREATE TRIGGER usage_deleted AFTER DELETE ON keysmith_private.%1$I
                 REFERENCING OLD TABLE AS old_rows
                 FOR EACH STATEMENT EXECUTE FUNCTION keysmith_private.usage_counted()', name);
        IF day IS NOT NULL AND to_regclass('keysmith_private.usage_default') IS NOT NULL THEN
            -- Rows that came before their day's partition move there, and both triggers
            -- count them: nothing is lost or doubled. To attach takes this lock anyhow.
            LOCK TABLE ONLY keysmith_private.usage_default IN ACCESS EXCLUSIVE MODE;
            EXECUTE format(
                'WITH moved AS (DELETE FROM keysmith_private.usage_default
                                WHERE at >= %2$L AND at < %3$L RETURNING *)
                 INSERT INTO keysmith_private.%1$I SELECT * FROM moved',
                name, to_char(day, bound), to_char(day + 1, bound));
        END IF;
        -- Each index costs the worker as much as the row itself. Request ids come nearly in
        -- order, which is cheap, and are what no two rows have in common. Rows of a
        -- key or tenant never have all columns in common: there is nothing to deduplicate.
        EXECUTE format(
            'CREATE UNIQUE INDEX %2$I ON keysmith_private.%1$I (request_id);
             CREATE INDEX %3$I ON keysmith_private.%1$I (key_id, at, incarnation, sequence)
                 WITH (deduplicate_items = off);
             CREATE INDEX %4$I ON keysmith_private.%1$I (tenant_id, at, incarnation, sequence)
                 WITH (deduplicate_items = off)',
            name, name || '_request', name || '_of_key', name || '_of_tenant');
        IF day IS NULL THEN
            EXECUTE format('ALTER TABLE %s ATTACH PARTITION keysmith_private.%I DEFAULT', parent, name);
        ELSE
            EXECUTE format('ALTER TABLE %s ATTACH PARTITION keysmith_private.%I FOR VALUES FROM (%L) TO (%L)',
                           parent, name, to_char(day, bound), to_char(day + 1, bound));
        END IF;
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;
COMMENT ON FUNCTION keysmith_private.usage_prepare(date, date) IS
'Makes the partitions that requests of these days need, and tells how many it made';

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
    BEGIN
        LOCK TABLE keysmith_private.usage_folder IN EXCLUSIVE MODE NOWAIT;
    EXCEPTION WHEN lock_not_available THEN
        RETURN NULL;
    END;

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

CREATE FUNCTION keysmith.maintain(OUT task text, OUT outcome text) RETURNS SETOF record
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    retention text := coalesce(nullif(current_setting('keysmith.usage_retention', true), ''), '90 days');
    later     constant text := 'busy, to be tried again';
    oldest    date;
    days      date[];
    expired   date;
    name      text;
    dropped   text[] := '{}';
    busy      text[] := '{}';
    folded    bigint;
    summed    bigint;
    forgotten bigint;
    starts    timestamptz;
    is_there  boolean;
BEGIN
    -- 0 keeps all.
    oldest := CASE WHEN retention::interval > '0'
        THEN ((clock_timestamp() - retention::interval) AT TIME ZONE 'UTC')::date
        ELSE '-infinity' END;

    task := 'partitions';
    BEGIN
        outcome := keysmith_private.usage_prepare() || ' made';
    EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
        outcome := later;
    END;
    RETURN NEXT;

    task := 'totals';
    folded := keysmith_private.usage_fold();
    outcome := coalesce(folded || ' deltas folded', later);
    RETURN NEXT;

    -- What a leaked key touched long ago still matters, statement by statement no more.
    task := 'touches';
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
    SELECT count(*) - count(DISTINCT (key_id, schema, relation, operation))
    INTO summed FROM old;
    outcome := summed || ' summed up';
    RETURN NEXT;

    task := 'requests without a known key';
    DELETE FROM keysmith_private.usage_unknown WHERE hour < oldest;
    GET DIAGNOSTICS forgotten = ROW_COUNT;
    outcome := forgotten || ' counts dropped';
    RETURN NEXT;

    -- Dropping comes last: it locks the table of requests until the commit.
    task := 'retention';
    IF folded IS NULL THEN
        outcome := later;
        RETURN NEXT;
        RETURN;
    END IF;
    days := ARRAY(
        SELECT to_date(substr(c.relname, 7), 'YYYYMMDD')
        FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'keysmith_private.usage_event'::regclass AND c.relname ~ '^usage_[0-9]{8}$'
          AND to_date(substr(c.relname, 7), 'YYYYMMDD') < oldest
        UNION
        -- Rows that came too late for their partition get one, and go the same way.
        (SELECT DISTINCT (at AT TIME ZONE 'UTC')::date FROM keysmith_private.usage_event
         WHERE tableoid = to_regclass('keysmith_private.usage_default') AND isfinite(at)
           AND at < oldest::timestamp AT TIME ZONE 'UTC' LIMIT 10)
        UNION
        -- Days whose partition someone took away by hand.
        (WITH RECURSIVE left_over AS (
             SELECT min(period) AS period FROM keysmith_private.usage_day WHERE requests > gone
             UNION ALL
             SELECT (SELECT min(d.period) FROM keysmith_private.usage_day d
                     WHERE d.requests > d.gone AND d.period > l.period)
             FROM left_over l WHERE l.period IS NOT NULL
         )
         SELECT (period AT TIME ZONE 'UTC')::date FROM left_over
         WHERE isfinite(period) AND NOT EXISTS (
                   SELECT FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
                   WHERE i.inhparent = 'keysmith_private.usage_event'::regclass
                     AND c.relname = 'usage_' || to_char(period AT TIME ZONE 'UTC', 'YYYYMMDD'))
           AND NOT EXISTS (
                   SELECT FROM keysmith_private.usage_event e
                   WHERE e.at >= period AND e.at < period + interval '24 hours')
           AND NOT EXISTS (
                   SELECT FROM keysmith_private.usage_delta d
                   WHERE d.period >= left_over.period AND d.period < left_over.period + interval '24 hours'))
        ORDER BY 1);
    FOREACH expired IN ARRAY days LOOP
        name := 'usage_' || to_char(expired, 'YYYYMMDD');
        starts := expired::timestamp AT TIME ZONE 'UTC';
        BEGIN
            IF expired < oldest THEN
                PERFORM keysmith_private.usage_prepare(expired, expired);
            END IF;
            is_there := EXISTS (
                SELECT FROM pg_catalog.pg_inherits i
                WHERE i.inhparent = 'keysmith_private.usage_event'::regclass
                  AND i.inhrelid = to_regclass('keysmith_private.' || name));
            IF is_there THEN
                -- Readers go on, and no row is amended any more.
                EXECUTE format('LOCK TABLE ONLY keysmith_private.%I IN SHARE ROW EXCLUSIVE MODE', name);
                PERFORM keysmith_private.usage_fold();
            END IF;
            UPDATE keysmith_private.usage_day SET gone = requests WHERE period = starts AND gone <> requests;
            UPDATE keysmith_private.usage_hour SET gone = requests
            WHERE period >= starts AND period < starts + interval '24 hours' AND gone <> requests;
            DELETE FROM keysmith_private.usage_mark
            WHERE period >= starts AND period < starts + interval '24 hours';
            IF is_there THEN
                EXECUTE format('DROP TABLE keysmith_private.%I', name);
                dropped := dropped || name;
                RAISE NOTICE 'dropped %', name;
            END IF;
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            busy := busy || name;
        END;
    END LOOP;
    outcome := cardinality(dropped) || ' partitions dropped';
    IF cardinality(busy) > 0 THEN
        outcome := outcome || format(', %s %s', array_to_string(busy, ', '), later);
    END IF;
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION keysmith.maintain() IS
'Makes partitions, adds up totals and drops what is older than keysmith.usage_retention';
