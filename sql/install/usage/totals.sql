-- Totals of usage. Statement triggers on the table of requests and on each partition append
-- deltas to usage_delta, which blocks nobody. usage_fold() adds them to the totals. Readers
-- of totals add the deltas that are not folded yet, so the numbers are always exact.
--
-- Totals are kept after the rows that they count are dropped, and a keyspace may have its requests
-- counted without rows. The column gone has the number of requests without a row: the others can be
-- paged.

CREATE TABLE keysmith_private.usage_hour (
    tenant_id   uuid NOT NULL,
    period      timestamptz NOT NULL,
    key_id      uuid NOT NULL,
    environment text COLLATE "C" NOT NULL,
    status      integer NOT NULL,
    outcome     text COLLATE "C" NOT NULL,
    requests    bigint NOT NULL,
    timed       bigint NOT NULL,
    latency     interval NOT NULL,
    gone        bigint NOT NULL DEFAULT 0,
    spend       bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, period, key_id, environment, status, outcome)
) WITH (fillfactor = 80);
CREATE INDEX usage_hour_of_key ON keysmith_private.usage_hour (key_id, period);
CREATE INDEX usage_hour_by_period ON keysmith_private.usage_hour (period);
COMMENT ON TABLE keysmith_private.usage_hour IS 'The number of requests per hour, key, environment, status and outcome';
COMMENT ON COLUMN keysmith_private.usage_hour.timed IS 'The number of requests with a known latency';
COMMENT ON COLUMN keysmith_private.usage_hour.latency IS 'The sum of those latencies';
COMMENT ON COLUMN keysmith_private.usage_hour.spend IS 'The sum of the credits';
COMMENT ON COLUMN keysmith_private.usage_hour.gone IS 'The number of requests without a row: it was dropped, or they were only counted';

CREATE TABLE keysmith_private.usage_day (
    LIKE keysmith_private.usage_hour INCLUDING DEFAULTS,
    PRIMARY KEY (tenant_id, period, key_id, environment, status, outcome)
) WITH (fillfactor = 80);
CREATE INDEX usage_day_of_key ON keysmith_private.usage_day (key_id, period);
CREATE INDEX usage_day_by_period ON keysmith_private.usage_day (period);
-- Totals are kept for many days, but few of these days have rows left.
CREATE INDEX usage_day_with_rows ON keysmith_private.usage_day (period) WHERE requests > gone;
COMMENT ON TABLE keysmith_private.usage_day IS 'The number of requests per day, key, environment, status and outcome';

-- Rows with an empty endpoint and method, and rows of usage_tag with an empty value, sum up those that
-- came too late for a row. No request is counted by an empty one, so readers know from such a row that
-- there is no room left.
CREATE TABLE keysmith_private.usage_endpoint_day (
    tenant_id   uuid NOT NULL,
    period      timestamptz NOT NULL,
    environment text COLLATE "C" NOT NULL,
    method      text COLLATE "C" NOT NULL,
    endpoint    text COLLATE "C" NOT NULL,
    requests    bigint NOT NULL,
    refused     bigint NOT NULL,
    timed       bigint NOT NULL,
    latency     interval NOT NULL,
    spend       bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, period, environment, method, endpoint)
) WITH (fillfactor = 80);
COMMENT ON TABLE keysmith_private.usage_endpoint_day IS 'The number of requests per day, method and endpoint';

CREATE TABLE keysmith_private.usage_last (
    key_id  uuid PRIMARY KEY,
    used_at timestamptz NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE keysmith_private.usage_last IS 'The time of the last accepted request of each key';

-- The rows of one holder (a key or a tenant) and hour are numbered from the oldest. The time of about
-- every thousandth is stored here, so that a page is found without reading all rows before it.
CREATE TABLE keysmith_private.usage_mark (
    holder   uuid NOT NULL,
    period   timestamptz NOT NULL,
    position bigint NOT NULL,
    at       timestamptz NOT NULL,
    PRIMARY KEY (period, holder, position)
);
COMMENT ON TABLE keysmith_private.usage_mark IS 'About every thousandth request of a key or tenant in an hour';
COMMENT ON COLUMN keysmith_private.usage_mark.position IS 'The number of requests in the hour up to that time';

CREATE TABLE keysmith_private.usage_delta (
    period       timestamptz NOT NULL,
    tenant_id    uuid NOT NULL,
    key_id       uuid,
    environment  text COLLATE "C" NOT NULL,
    status       integer,
    outcome      text COLLATE "C",
    method       text COLLATE "C",
    endpoint     text COLLATE "C",
    requests     bigint NOT NULL,
    refused      bigint NOT NULL,
    timed        bigint NOT NULL,
    latency      interval NOT NULL,
    used_at      timestamptz,
    changed_from timestamptz,
    spend        bigint NOT NULL DEFAULT 0,
    gone         bigint NOT NULL DEFAULT 0
);
CREATE INDEX usage_delta_of_key ON keysmith_private.usage_delta (tenant_id, key_id);
COMMENT ON TABLE keysmith_private.usage_delta IS
'The changes since the last fold, by hour: of a key, or, if key_id is null, of an endpoint';
COMMENT ON COLUMN keysmith_private.usage_delta.changed_from IS
'The time of the oldest row that was added or removed; null if rows were only amended';
COMMENT ON COLUMN keysmith_private.usage_delta.gone IS 'The number of requests that were only counted, and have no row';

-- A table of its own: most requests count for nothing but a call, and then it costs nothing.
CREATE TABLE keysmith_private.usage_unit (
    tenant_id   uuid NOT NULL,
    period      timestamptz NOT NULL,
    key_id      uuid NOT NULL,
    environment text COLLATE "C" NOT NULL,
    unit        text COLLATE "C" NOT NULL,
    amount      bigint NOT NULL,
    PRIMARY KEY (tenant_id, period, key_id, environment, unit)
) WITH (fillfactor = 80);
COMMENT ON TABLE keysmith_private.usage_unit IS 'The amounts of the units of accepted requests, by hour and key; calls are counted as requests';

CREATE TABLE keysmith_private.usage_unit_delta (
    period      timestamptz NOT NULL,
    tenant_id   uuid NOT NULL,
    key_id      uuid NOT NULL,
    environment text COLLATE "C" NOT NULL,
    unit        text COLLATE "C" NOT NULL,
    amount      bigint NOT NULL
);
CREATE INDEX usage_unit_delta_of_tenant ON keysmith_private.usage_unit_delta (tenant_id);
COMMENT ON TABLE keysmith_private.usage_unit_delta IS 'The changes of usage_unit since the last fold';

-- Tables of their own, too: only requests with a tag that their keyspace declares are counted here.
CREATE TABLE keysmith_private.usage_tag (
    tenant_id   uuid NOT NULL,
    period      timestamptz NOT NULL,
    tag         text COLLATE "C" NOT NULL,
    environment text COLLATE "C" NOT NULL,
    value       text COLLATE "C" NOT NULL,
    requests    bigint NOT NULL,
    spend       bigint NOT NULL,
    PRIMARY KEY (tenant_id, period, tag, environment, value)
) WITH (fillfactor = 80);
COMMENT ON TABLE keysmith_private.usage_tag IS 'The number of requests per day and value of a declared tag';
COMMENT ON COLUMN keysmith_private.usage_tag.spend IS 'The sum of the credits';

CREATE TABLE keysmith_private.usage_tag_delta (
    period      timestamptz NOT NULL,
    tenant_id   uuid NOT NULL,
    tag         text COLLATE "C" NOT NULL,
    environment text COLLATE "C" NOT NULL,
    value       text COLLATE "C" NOT NULL,
    requests    bigint NOT NULL,
    spend       bigint NOT NULL
);
CREATE INDEX usage_tag_delta_of_tenant ON keysmith_private.usage_tag_delta (tenant_id);
COMMENT ON TABLE keysmith_private.usage_tag_delta IS 'The changes of usage_tag since the last fold, by day';

-- For monitoring, which must not add up the totals of all keys.
CREATE TABLE keysmith_private.usage_sum (
    keyspace text COLLATE "C" NOT NULL,
    unit     text COLLATE "C" NOT NULL,
    amount   bigint NOT NULL,
    peak     bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (keyspace, unit)
) WITH (fillfactor = 50);
COMMENT ON TABLE keysmith_private.usage_sum IS 'What all requests of a keyspace have cost, and counted for';
COMMENT ON COLUMN keysmith_private.usage_sum.unit IS 'The unit; empty for credits';
COMMENT ON COLUMN keysmith_private.usage_sum.amount IS 'The sum of the deltas that are folded';
COMMENT ON COLUMN keysmith_private.usage_sum.peak IS 'The greatest amount so far: a counter never falls';

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY '{usage_sum,usage_unit,usage_unit_delta,usage_tag,usage_tag_delta,usage_hour,usage_day,usage_endpoint_day,
                            usage_last,usage_mark,usage_delta}'::text[] LOOP
        PERFORM pg_catalog.pg_extension_config_dump('keysmith_private.' || name, '');
    END LOOP;
END $$;

-- Sums of credits may be larger than a bigint. It is the same wherever names are looked up, so that it can be inlined.
CREATE FUNCTION keysmith_private.to_bigint(amount numeric) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT least(greatest($1, '-9223372036854775808'), '9223372036854775807')::bigint
$$;
COMMENT ON FUNCTION keysmith_private.to_bigint(numeric) IS 'A number, or the bigint that is nearest to it';

CREATE FUNCTION keysmith_private.units(weights jsonb, OUT unit text, OUT amount bigint) RETURNS SETOF record
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT left(key, 40), keysmith_private.to_bigint((value::text)::numeric) FROM jsonb_each(weights)
    WHERE key <> 'calls' AND jsonb_typeof(value) = 'number'
$$;
COMMENT ON FUNCTION keysmith_private.units(jsonb) IS 'The units of weights other than calls';

-- Values are cut to a length that fits into an index. The library takes none that is so long.
CREATE FUNCTION keysmith_private.counted_tags(counted text, tags jsonb, OUT tag text, OUT value text)
RETURNS SETOF record
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT name, left(tags ->> name, 256) FROM string_to_table(counted, ',') AS name
    WHERE tags ->> name <> ''
$$;
COMMENT ON FUNCTION keysmith_private.counted_tags(text, jsonb) IS 'The tags that totals are kept by, of those of a request';

CREATE FUNCTION keysmith_private.usage_counted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    moved boolean := true;
BEGIN
    -- A dump has the totals of its rows. So rows that pg_restore inserts must not be counted.
    -- It creates the triggers of partitions after their rows. But this trigger on the parent
    -- belongs to the extension, and exists before: it must do nothing until then.
    IF TG_RELID = 'keysmith_private.usage_event'::regclass AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_inherits i
        JOIN pg_catalog.pg_trigger t ON t.tgrelid = i.inhrelid
        WHERE i.inhparent = TG_RELID AND t.tgname = 'usage_inserted'
    ) THEN
        RETURN NULL;
    END IF;

    -- The three statements differ in the rows that they read. Each makes both groupings in one
    -- pass. Endpoints are cut to a length that fits into an index.
    IF TG_OP = 'INSERT' THEN
        INSERT INTO keysmith_private.usage_delta
        SELECT period, tenant_id, key_id, environment, status, outcome, method, endpoint,
               count(*), count(*) FILTER (WHERE outcome <> 'ok'), count(latency),
               coalesce(sum(latency), '0'),
               max(least(at, clock_timestamp())) FILTER (WHERE outcome = 'ok'), min(at),
               keysmith_private.to_bigint(coalesce(sum(spend), 0))
        FROM (
            SELECT at, date_trunc('hour', at, 'UTC') AS period, tenant_id, key_id, environment,
                   status, left(outcome, 100) AS outcome, coalesce(left(method, 40), '') AS method,
                   coalesce(left(endpoint, 255), '') AS endpoint,
                   CASE WHEN latency IS NOT NULL THEN least(greatest(latency, '0'), '1 day') END AS latency, spend
            FROM new_rows
        ) AS rows
        GROUP BY GROUPING SETS (
            (period, tenant_id, environment, key_id, status, outcome),
            (period, tenant_id, environment, method, endpoint))
        HAVING grouping(key_id) = 0 OR method <> '' OR endpoint <> '';
        INSERT INTO keysmith_private.usage_unit_delta
        SELECT date_trunc('hour', at, 'UTC'), tenant_id, key_id, environment, unit, keysmith_private.to_bigint(sum(amount))
        FROM new_rows AS rows, LATERAL keysmith_private.units(weights) AS u
        WHERE outcome = 'ok' AND weights IS NOT NULL GROUP BY 1, 2, 3, 4, 5;
        INSERT INTO keysmith_private.usage_tag_delta
        SELECT date_trunc('day', at, 'UTC'), tenant_id, tag, environment, value, count(*), keysmith_private.to_bigint(coalesce(sum(spend), 0))
        FROM new_rows AS rows, LATERAL keysmith_private.counted_tags(counted_tags, tags) AS t
        WHERE counted_tags IS NOT NULL GROUP BY 1, 2, 3, 4, 5;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO keysmith_private.usage_delta
        SELECT period, tenant_id, key_id, environment, status, outcome, method, endpoint,
               -count(*), -count(*) FILTER (WHERE outcome <> 'ok'), -count(latency),
               -coalesce(sum(latency), '0'), NULL, min(at), keysmith_private.to_bigint(-coalesce(sum(spend), 0))
        FROM (
            SELECT at, date_trunc('hour', at, 'UTC') AS period, tenant_id, key_id, environment,
                   status, left(outcome, 100) AS outcome, coalesce(left(method, 40), '') AS method,
                   coalesce(left(endpoint, 255), '') AS endpoint,
                   CASE WHEN latency IS NOT NULL THEN least(greatest(latency, '0'), '1 day') END AS latency, spend
            FROM old_rows
        ) AS rows
        GROUP BY GROUPING SETS (
            (period, tenant_id, environment, key_id, status, outcome),
            (period, tenant_id, environment, method, endpoint))
        HAVING grouping(key_id) = 0 OR method <> '' OR endpoint <> '';
        INSERT INTO keysmith_private.usage_unit_delta
        SELECT date_trunc('hour', at, 'UTC'), tenant_id, key_id, environment, unit, keysmith_private.to_bigint(-sum(amount))
        FROM old_rows AS rows, LATERAL keysmith_private.units(weights) AS u
        WHERE outcome = 'ok' AND weights IS NOT NULL GROUP BY 1, 2, 3, 4, 5;
        INSERT INTO keysmith_private.usage_tag_delta
        SELECT date_trunc('day', at, 'UTC'), tenant_id, tag, environment, value, -count(*), keysmith_private.to_bigint(-coalesce(sum(spend), 0))
        FROM old_rows AS rows, LATERAL keysmith_private.counted_tags(counted_tags, tags) AS t
        WHERE counted_tags IS NOT NULL GROUP BY 1, 2, 3, 4, 5;
    ELSE
        -- Applications amend rows after they have answered. That moves no row.
        moved := EXISTS (
            SELECT at, incarnation, sequence, key_id, tenant_id FROM old_rows
            EXCEPT ALL
            SELECT at, incarnation, sequence, key_id, tenant_id FROM new_rows);
        INSERT INTO keysmith_private.usage_delta
        SELECT period, tenant_id, key_id, environment, status, outcome, method, endpoint,
               sum(sign), coalesce(sum(sign) FILTER (WHERE outcome <> 'ok'), 0),
               coalesce(sum(sign) FILTER (WHERE latency IS NOT NULL), 0),
               coalesce(sum(sign * latency), '0'),
               max(least(at, clock_timestamp())) FILTER (WHERE outcome = 'ok' AND sign = 1),
               CASE WHEN moved THEN min(at) END, keysmith_private.to_bigint(coalesce(sum(sign * spend), 0))
        FROM (
            SELECT at, date_trunc('hour', at, 'UTC') AS period, tenant_id, key_id, environment,
                   status, left(outcome, 100) AS outcome, coalesce(left(method, 40), '') AS method,
                   coalesce(left(endpoint, 255), '') AS endpoint,
                   CASE WHEN latency IS NOT NULL THEN least(greatest(latency, '0'), '1 day') END AS latency, sign, spend
            FROM (SELECT *, 1 AS sign FROM new_rows UNION ALL SELECT *, -1 FROM old_rows) AS rows
        ) AS rows
        GROUP BY GROUPING SETS (
            (period, tenant_id, environment, key_id, status, outcome),
            (period, tenant_id, environment, method, endpoint))
        HAVING (grouping(key_id) = 0 OR method <> '' OR endpoint <> '')
           AND (moved OR sum(sign) <> 0 OR sum(sign * spend) <> 0 OR sum(sign * latency) <> '0'
                OR sum(sign) FILTER (WHERE latency IS NOT NULL) <> 0
                OR sum(sign) FILTER (WHERE outcome <> 'ok') <> 0);
        INSERT INTO keysmith_private.usage_unit_delta
        SELECT date_trunc('hour', at, 'UTC'), tenant_id, key_id, environment, unit, keysmith_private.to_bigint(sum(sign * amount))
        FROM (SELECT *, 1 AS sign FROM new_rows UNION ALL SELECT *, -1 FROM old_rows) AS rows, LATERAL keysmith_private.units(weights) AS u
        WHERE outcome = 'ok' AND weights IS NOT NULL GROUP BY 1, 2, 3, 4, 5
        HAVING sum(sign * amount) <> 0;
        INSERT INTO keysmith_private.usage_tag_delta
        SELECT date_trunc('day', at, 'UTC'), tenant_id, tag, environment, value, sum(sign), keysmith_private.to_bigint(coalesce(sum(sign * spend), 0))
        FROM (SELECT *, 1 AS sign FROM new_rows UNION ALL SELECT *, -1 FROM old_rows) AS rows,
             LATERAL keysmith_private.counted_tags(counted_tags, tags) AS t
        WHERE counted_tags IS NOT NULL GROUP BY 1, 2, 3, 4, 5
        HAVING sum(sign) <> 0 OR sum(sign * spend) <> 0;
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION keysmith_private.usage_counted() IS
'Trigger on usage_event and its partitions: adds the changes of totals to usage_delta';

CREATE TRIGGER usage_inserted AFTER INSERT ON keysmith_private.usage_event
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION keysmith_private.usage_counted();
CREATE TRIGGER usage_updated AFTER UPDATE ON keysmith_private.usage_event
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION keysmith_private.usage_counted();
CREATE TRIGGER usage_deleted AFTER DELETE ON keysmith_private.usage_event
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION keysmith_private.usage_counted();

CREATE FUNCTION keysmith_private.usage_fold_lock(waits boolean DEFAULT false) RETURNS boolean
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_usage_fold_lock';
COMMENT ON FUNCTION keysmith_private.usage_fold_lock(boolean) IS
'Takes the lock of the one transaction that folds, or waits for it; false if another has it';

CREATE FUNCTION keysmith_private.usage_fold() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- The number of endpoints per tenant and environment that a day stores by name.
    most_endpoints constant bigint := 500;
    -- The number of values of a tag that a tenant's day stores.
    most_values constant bigint := 500;
    -- The number of units of a keyspace that monitoring sees by name.
    most_units constant bigint := 20;
    -- The number of rows from one mark to the next.
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

    -- It is one statement, so that no reader sees a delta in both places or in neither. The
    -- deltas are summed up first, since the later steps read them several times.
    WITH taken AS MATERIALIZED (
        DELETE FROM keysmith_private.usage_delta RETURNING *
    ), keys AS MATERIALIZED (
        SELECT tenant_id, period, key_id, environment, status, outcome,
               sum(requests) AS requests, sum(timed) AS timed, sum(latency) AS latency, keysmith_private.to_bigint(sum(spend)) AS spend,
               sum(gone) AS gone, max(used_at) AS used_at, min(changed_from) AS changed_from, count(*) AS deltas
        FROM taken WHERE key_id IS NOT NULL GROUP BY 1, 2, 3, 4, 5, 6
    ), endpoints AS MATERIALIZED (
        SELECT tenant_id, date_trunc('day', period, 'UTC') AS period, environment, method, endpoint,
               sum(requests) AS requests, sum(refused) AS refused, sum(timed) AS timed,
               sum(latency) AS latency, keysmith_private.to_bigint(sum(spend)) AS spend, count(*) AS deltas
        FROM taken WHERE key_id IS NULL GROUP BY 1, 2, 3, 4, 5
    ), hours AS (
        INSERT INTO keysmith_private.usage_hour AS u
            (tenant_id, period, key_id, environment, status, outcome, requests, timed, latency, spend, gone)
        SELECT tenant_id, period, key_id, environment, status, outcome, requests, timed, latency, spend, gone
        FROM keys
        ON CONFLICT (tenant_id, period, key_id, environment, status, outcome) DO UPDATE SET
            requests = u.requests + excluded.requests,
            timed = u.timed + excluded.timed,
            latency = u.latency + excluded.latency,
            spend = keysmith_private.to_bigint(u.spend::numeric + excluded.spend),
            gone = u.gone + excluded.gone
    ), days AS (
        INSERT INTO keysmith_private.usage_day AS u
            (tenant_id, period, key_id, environment, status, outcome, requests, timed, latency, spend, gone)
        SELECT tenant_id, date_trunc('day', period, 'UTC'), key_id, environment, status, outcome,
               sum(requests), sum(timed), sum(latency), keysmith_private.to_bigint(sum(spend)), sum(gone)
        FROM keys GROUP BY 1, 2, 3, 4, 5, 6
        ON CONFLICT (tenant_id, period, key_id, environment, status, outcome) DO UPDATE SET
            requests = u.requests + excluded.requests,
            timed = u.timed + excluded.timed,
            latency = u.latency + excluded.latency,
            spend = keysmith_private.to_bigint(u.spend::numeric + excluded.spend),
            gone = u.gone + excluded.gone
    ), unit_deltas AS (
        DELETE FROM keysmith_private.usage_unit_delta RETURNING *
    ), units AS (
        INSERT INTO keysmith_private.usage_unit AS u
        SELECT tenant_id, period, key_id, environment, unit, keysmith_private.to_bigint(sum(amount))
        FROM unit_deltas GROUP BY 1, 2, 3, 4, 5
        ON CONFLICT (tenant_id, period, key_id, environment, unit) DO UPDATE SET
            amount = keysmith_private.to_bigint(u.amount::numeric + excluded.amount)
    ), sums AS (
        SELECT t.keyspace, d.unit, sum(d.amount) AS amount, bool_or(s.unit IS NOT NULL) AS is_known
        FROM (SELECT tenant_id, '' COLLATE "C" AS unit, spend AS amount FROM keys WHERE spend <> 0
              UNION ALL SELECT tenant_id, unit, amount FROM unit_deltas) AS d
        JOIN keysmith_private.tenant t USING (tenant_id)
        LEFT JOIN keysmith_private.usage_sum s ON (s.keyspace, s.unit) = (t.keyspace, d.unit)
        GROUP BY 1, 2
    ), ranked_sums AS (
        SELECT s.*, (SELECT count(*) FROM keysmith_private.usage_sum u WHERE u.keyspace = s.keyspace AND u.unit <> '')
                    + row_number() OVER (PARTITION BY s.keyspace, s.is_known OR s.unit = ''
                                         ORDER BY s.amount DESC, s.unit) AS rank
        FROM sums s WHERE s.amount <> 0
    ), bounded_sums AS (
        INSERT INTO keysmith_private.usage_sum AS u
        SELECT keyspace, CASE WHEN is_known OR unit = '' OR rank <= most_units THEN unit ELSE '(other)' END,
               keysmith_private.to_bigint(sum(amount)), greatest(keysmith_private.to_bigint(sum(amount)), 0)
        FROM ranked_sums GROUP BY 1, 2
        ON CONFLICT (keyspace, unit) DO UPDATE SET
            amount = keysmith_private.to_bigint(u.amount::numeric + excluded.amount),
            peak = greatest(u.peak, keysmith_private.to_bigint(u.amount::numeric + excluded.amount))
    ), tag_deltas AS (
        DELETE FROM keysmith_private.usage_tag_delta RETURNING *
    ), tags AS (
        SELECT d.*, u.value IS NOT NULL AS is_known
        FROM (SELECT tenant_id, period, tag, environment, value, sum(requests) AS requests, keysmith_private.to_bigint(sum(spend)) AS spend
              FROM tag_deltas GROUP BY 1, 2, 3, 4, 5) AS d
        LEFT JOIN keysmith_private.usage_tag u USING (tenant_id, period, tag, environment, value)
        WHERE d.requests <> 0 OR d.spend <> 0
    ), tag_room AS (
        SELECT tenant_id, period, tag, most_values - (
                   SELECT count(*) FROM keysmith_private.usage_tag u
                   WHERE (u.tenant_id, u.period, u.tag) = (t.tenant_id, t.period, t.tag)) AS free
        FROM tags t WHERE NOT is_known GROUP BY 1, 2, 3
    ), ranked_tags AS (
        SELECT t.*, is_known OR row_number() OVER (
                   PARTITION BY t.tenant_id, t.period, t.tag, t.is_known
                   ORDER BY t.requests DESC, t.environment, t.value) <= r.free AS is_named
        FROM tags t LEFT JOIN tag_room r USING (tenant_id, period, tag)
    ), bounded_tags AS (
        -- As with endpoints below: a value that came too late for a row never gets one.
        INSERT INTO keysmith_private.usage_tag AS u
        SELECT tenant_id, period, tag, environment,
               CASE WHEN is_named THEN value ELSE '' END, sum(requests), keysmith_private.to_bigint(sum(spend))
        FROM ranked_tags GROUP BY 1, 2, 3, 4, 5
        ON CONFLICT (tenant_id, period, tag, environment, value) DO UPDATE SET
            requests = u.requests + excluded.requests,
            spend = keysmith_private.to_bigint(u.spend::numeric + excluded.spend)
    ), lasts AS (
        INSERT INTO keysmith_private.usage_last AS u (key_id, used_at)
        SELECT key_id, max(used_at) FROM keys WHERE used_at IS NOT NULL GROUP BY 1
        ON CONFLICT (key_id) DO UPDATE SET used_at = greatest(u.used_at, excluded.used_at)
    ), known AS (
        -- Endpoints that have a row keep it, and rows are never removed. So an endpoint that
        -- came too late for a row never gets one on that day, and later amendments of its
        -- requests are counted in the same row as the requests.
        SELECT e.*, u.endpoint IS NOT NULL AS is_known
        FROM endpoints e
        LEFT JOIN keysmith_private.usage_endpoint_day u USING (tenant_id, period, environment, method, endpoint)
        -- A request that was taken back meanwhile takes no room.
        WHERE u.endpoint IS NOT NULL OR e.requests <> 0 OR e.spend <> 0
    ), room AS (
        SELECT tenant_id, period, environment, most_endpoints - (
                   SELECT count(*) FROM keysmith_private.usage_endpoint_day u
                   WHERE (u.tenant_id, u.period, u.environment) = (k.tenant_id, k.period, k.environment)) AS free
        FROM known k WHERE NOT is_known GROUP BY 1, 2, 3
    ), ranked AS (
        SELECT k.*, is_known OR row_number() OVER (
                   PARTITION BY k.tenant_id, k.period, k.environment, k.is_known
                   ORDER BY k.requests DESC, k.method, k.endpoint) <= r.free AS is_named
        FROM known k LEFT JOIN room r USING (tenant_id, period, environment)
    ), bounded AS (
        INSERT INTO keysmith_private.usage_endpoint_day AS u
            (tenant_id, period, environment, method, endpoint, requests, refused, timed, latency, spend)
        SELECT tenant_id, period, environment,
               CASE WHEN is_named THEN method ELSE '' END, CASE WHEN is_named THEN endpoint ELSE '' END,
               sum(requests), sum(refused), sum(timed), sum(latency), keysmith_private.to_bigint(sum(spend))
        FROM ranked GROUP BY 1, 2, 3, 4, 5
        ON CONFLICT (tenant_id, period, environment, method, endpoint) DO UPDATE SET
            requests = u.requests + excluded.requests,
            refused = u.refused + excluded.refused,
            timed = u.timed + excluded.timed,
            latency = u.latency + excluded.latency,
            spend = keysmith_private.to_bigint(u.spend::numeric + excluded.spend)
    ), changed AS (
        SELECT tenant_id, holder, period, min(changed_from) AS changed_from
        -- Persons of all tenants have the same key, the nil id. Nobody pages its requests.
        FROM keys, unnest(ARRAY[nullif(key_id, '00000000-0000-0000-0000-000000000000'), tenant_id]) AS holder
        WHERE changed_from IS NOT NULL AND holder IS NOT NULL GROUP BY 1, 2, 3
    )
    SELECT (SELECT coalesce(sum(deltas), 0) FROM (SELECT deltas FROM keys UNION ALL
                                                  SELECT deltas FROM endpoints) AS summed),
           array_agg(c.tenant_id), array_agg(c.holder),
           array_agg(c.period), array_agg(c.changed_from)
    INTO folded, tenants, holders, periods, changes
    FROM changed c;

    -- Marks before the first changed row stay right. The rows that are numbered now may include
    -- rows that came after the statement above. The deltas of those are not folded yet: by them
    -- readers and the next fold know which marks are wrong.
    DELETE FROM keysmith_private.usage_mark m
    USING unnest(holders, periods, changes) AS c (holder, period, changed_from)
    WHERE m.holder = c.holder AND m.period = c.period AND m.at >= c.changed_from;
    FOR todo IN
        SELECT c.holder, c.period, c.period + interval '1 hour' AS ends, c.holder = c.tenant_id AS is_tenant, coalesce(m.position, 0) AS position,
               coalesce(m.at, c.period - interval '1 microsecond') AS at
        FROM unnest(tenants, holders, periods) AS c (tenant_id, holder, period)
        LEFT JOIN LATERAL (
            SELECT * FROM keysmith_private.usage_mark m WHERE m.holder = c.holder AND m.period = c.period
            ORDER BY m.position DESC LIMIT 1
        ) AS m ON true
        WHERE stride <= -coalesce(m.position, 0) + (
            -- As a range of one key or of all, so that the index finds the rows of one key without
            -- reading those of the tenant's other keys.
            SELECT sum(h.requests - h.gone) FROM keysmith_private.usage_hour h
            WHERE h.tenant_id = c.tenant_id AND h.period = c.period
              AND h.key_id >= CASE WHEN c.holder = c.tenant_id THEN '00000000-0000-0000-0000-000000000000' ELSE c.holder END
              AND h.key_id <= CASE WHEN c.holder = c.tenant_id THEN 'ffffffff-ffff-ffff-ffff-ffffffffffff' ELSE c.holder END)
    LOOP
        -- It goes from mark to mark. To number all rows would take twice as long. Rows of the same time
        -- stay together, so that the time alone tells which rows a mark counts.
        step := format(
            'SELECT max(at) AS at, count(*) AS rows FROM (
                 SELECT at FROM keysmith_private.usage_event WHERE %I = $1 AND at > $2 AND at < $3
                 ORDER BY at FETCH FIRST $4 ROWS WITH TIES) AS following',
            CASE WHEN todo.is_tenant THEN 'tenant_id' ELSE 'key_id' END);
        LOOP
            EXECUTE step INTO next USING todo.holder, todo.at, todo.ends, stride;
            EXIT WHEN next.rows < stride;
            todo.position := todo.position + next.rows;
            todo.at := next.at;
            INSERT INTO keysmith_private.usage_mark VALUES (todo.holder, todo.period, todo.position, next.at);
        END LOOP;
    END LOOP;
    RETURN folded;
END $$;
COMMENT ON FUNCTION keysmith_private.usage_fold() IS
'Adds the deltas to the totals, and returns the number of deltas; null if another session is folding';
