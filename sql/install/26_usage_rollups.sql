-- Usage, counted. Statement triggers on the table of requests and on each partition
-- append what changed to usage_delta, which blocks no one; usage_fold() adds that up.
-- Whoever reads totals adds what is not folded yet, so that they are always exact.
--
-- Totals outlive the rows that they were counted from. How many of a period's rows were
-- dropped is `gone`: what is left can be paged.

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
    PRIMARY KEY (tenant_id, period, key_id, environment, status, outcome)
) WITH (fillfactor = 80);
CREATE INDEX usage_hour_of_key ON keysmith_private.usage_hour (key_id, period);
CREATE INDEX usage_hour_by_period ON keysmith_private.usage_hour (period);
COMMENT ON TABLE keysmith_private.usage_hour IS 'Requests by key, environment, status and outcome, an hour each';
COMMENT ON COLUMN keysmith_private.usage_hour.timed IS 'Of how many requests the latency is known';
COMMENT ON COLUMN keysmith_private.usage_hour.latency IS 'The sum of those latencies';
COMMENT ON COLUMN keysmith_private.usage_hour.gone IS 'Of how many requests the rows were dropped';

CREATE TABLE keysmith_private.usage_day (
    LIKE keysmith_private.usage_hour INCLUDING DEFAULTS,
    PRIMARY KEY (tenant_id, period, key_id, environment, status, outcome)
) WITH (fillfactor = 80);
CREATE INDEX usage_day_of_key ON keysmith_private.usage_day (key_id, period);
CREATE INDEX usage_day_by_period ON keysmith_private.usage_day (period);
-- Few days have rows left, whatever the number of days that are remembered.
CREATE INDEX usage_day_with_rows ON keysmith_private.usage_day (period) WHERE requests > gone;
COMMENT ON TABLE keysmith_private.usage_day IS 'Requests by key, environment, status and outcome, a day each';

CREATE TABLE keysmith_private.usage_endpoint_hour (
    tenant_id   uuid NOT NULL,
    period      timestamptz NOT NULL,
    environment text COLLATE "C" NOT NULL,
    method      text COLLATE "C" NOT NULL,
    endpoint    text COLLATE "C" NOT NULL,
    requests    bigint NOT NULL,
    refused     bigint NOT NULL,
    timed       bigint NOT NULL,
    latency     interval NOT NULL,
    PRIMARY KEY (tenant_id, period, environment, method, endpoint)
) WITH (fillfactor = 80);
COMMENT ON TABLE keysmith_private.usage_endpoint_hour IS 'Requests by method and endpoint, an hour each';

CREATE TABLE keysmith_private.usage_endpoint_day (
    LIKE keysmith_private.usage_endpoint_hour,
    PRIMARY KEY (tenant_id, period, environment, method, endpoint)
) WITH (fillfactor = 80);
COMMENT ON TABLE keysmith_private.usage_endpoint_day IS 'Requests by method and endpoint, a day each';

CREATE TABLE keysmith_private.usage_last (
    key_id  uuid PRIMARY KEY,
    used_at timestamptz NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE keysmith_private.usage_last IS 'When each key was last accepted';

-- The rows of one holder (a key or a tenant) and hour are numbered from the oldest, and
-- each thousandth is remembered: a page is found without walking there.
CREATE TABLE keysmith_private.usage_mark (
    holder      uuid NOT NULL,
    period      timestamptz NOT NULL,
    position    bigint NOT NULL,
    at          timestamptz NOT NULL,
    incarnation bigint NOT NULL,
    sequence    bigint NOT NULL,
    PRIMARY KEY (holder, period, position)
);
CREATE INDEX usage_mark_by_period ON keysmith_private.usage_mark (period);
COMMENT ON TABLE keysmith_private.usage_mark IS 'Each thousandth request of a key or tenant in an hour';

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
    changed_from timestamptz
);
CREATE INDEX usage_delta_of_key ON keysmith_private.usage_delta (tenant_id, key_id);
COMMENT ON TABLE keysmith_private.usage_delta IS
'What changed since the last fold, by hour: of a key, or where key_id is null, of an endpoint';
COMMENT ON COLUMN keysmith_private.usage_delta.changed_from IS
'The oldest row that came or went; null if rows were only amended';

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY '{usage_hour,usage_day,usage_endpoint_hour,usage_endpoint_day,usage_last,
                            usage_mark,usage_delta}'::text[] LOOP
        PERFORM pg_catalog.pg_extension_config_dump('keysmith_private.' || name, '');
    END LOOP;
END $$;

CREATE FUNCTION keysmith_private.usage_counted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    moved boolean := true;
BEGIN
    -- While a dump is restored no partition has its trigger yet: those come after the
    -- rows, whose counts are in the dump. This trigger on the parent is the extension's
    -- own, and was there before; rows that come through the parent then are counted.
    IF TG_RELID = 'keysmith_private.usage_event'::regclass AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_inherits i
        JOIN pg_catalog.pg_trigger t ON t.tgrelid = i.inhrelid
        WHERE i.inhparent = TG_RELID AND t.tgname = 'usage_inserted'
    ) THEN
        RETURN NULL;
    END IF;

    -- The three statements differ in the rows that they read. Both groupings of each
    -- are made in one pass. An endpoint's length is bounded by what an index can hold.
    IF TG_OP = 'INSERT' THEN
        INSERT INTO keysmith_private.usage_delta
        SELECT period, tenant_id, key_id, environment, status, outcome, method, endpoint,
               count(*), count(*) FILTER (WHERE outcome <> 'ok'), count(latency),
               coalesce(sum(latency), '0'),
               max(least(at, clock_timestamp())) FILTER (WHERE outcome = 'ok'), min(at)
        FROM (
            SELECT at, date_trunc('hour', at, 'UTC') AS period, tenant_id, key_id, environment,
                   status, left(outcome, 100) AS outcome, coalesce(left(method, 40), '') AS method,
                   coalesce(left(endpoint, 255), '') AS endpoint,
                   CASE WHEN latency IS NOT NULL THEN least(greatest(latency, '0'), '1 day') END AS latency
            FROM new_rows
        ) AS rows
        GROUP BY GROUPING SETS (
            (period, tenant_id, environment, key_id, status, outcome),
            (period, tenant_id, environment, method, endpoint))
        HAVING grouping(key_id) = 0 OR method <> '' OR endpoint <> '';
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO keysmith_private.usage_delta
        SELECT period, tenant_id, key_id, environment, status, outcome, method, endpoint,
               -count(*), -count(*) FILTER (WHERE outcome <> 'ok'), -count(latency),
               -coalesce(sum(latency), '0'), NULL, min(at)
        FROM (
            SELECT at, date_trunc('hour', at, 'UTC') AS period, tenant_id, key_id, environment,
                   status, left(outcome, 100) AS outcome, coalesce(left(method, 40), '') AS method,
                   coalesce(left(endpoint, 255), '') AS endpoint,
                   CASE WHEN latency IS NOT NULL THEN least(greatest(latency, '0'), '1 day') END AS latency
            FROM old_rows
        ) AS rows
        GROUP BY GROUPING SETS (
            (period, tenant_id, environment, key_id, status, outcome),
            (period, tenant_id, environment, method, endpoint))
        HAVING grouping(key_id) = 0 OR method <> '' OR endpoint <> '';
    ELSE
        -- What an application learns after its answer amends rows, and moves none.
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
               CASE WHEN moved THEN min(at) END
        FROM (
            SELECT at, date_trunc('hour', at, 'UTC') AS period, tenant_id, key_id, environment,
                   status, left(outcome, 100) AS outcome, coalesce(left(method, 40), '') AS method,
                   coalesce(left(endpoint, 255), '') AS endpoint,
                   CASE WHEN latency IS NOT NULL THEN least(greatest(latency, '0'), '1 day') END AS latency, sign
            FROM (SELECT *, 1 AS sign FROM new_rows UNION ALL SELECT *, -1 FROM old_rows) AS rows
        ) AS rows
        GROUP BY GROUPING SETS (
            (period, tenant_id, environment, key_id, status, outcome),
            (period, tenant_id, environment, method, endpoint))
        HAVING (grouping(key_id) = 0 OR method <> '' OR endpoint <> '')
           AND (moved OR sum(sign) <> 0 OR sum(sign * latency) <> '0'
                OR sum(sign) FILTER (WHERE latency IS NOT NULL) <> 0
                OR sum(sign) FILTER (WHERE outcome <> 'ok') <> 0);
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION keysmith_private.usage_counted() IS
'Trigger on the requests and their partitions: appends what changed to usage_delta';

CREATE TRIGGER usage_inserted AFTER INSERT ON keysmith_private.usage_event
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION keysmith_private.usage_counted();
CREATE TRIGGER usage_updated AFTER UPDATE ON keysmith_private.usage_event
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION keysmith_private.usage_counted();
CREATE TRIGGER usage_deleted AFTER DELETE ON keysmith_private.usage_event
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION keysmith_private.usage_counted();
