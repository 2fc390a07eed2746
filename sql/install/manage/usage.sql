-- Usage in pages and charts.

CREATE FUNCTION keysmith.usage_logs(
    tenant text,
    key_id uuid DEFAULT NULL,
    page integer DEFAULT 1,
    per_page integer DEFAULT 50,
    keyspace text DEFAULT 'default'
) RETURNS jsonb
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_usage_logs';
COMMENT ON FUNCTION keysmith.usage_logs(text, uuid, integer, integer, text) IS
'A page of a tenant''s requests, newest first';

-- A STABLE function uses the snapshot of the calling query. So the total, the place and the
-- rows are of one moment. Marks exist for keys and for tenants. Pages of one environment of a
-- tenant are found without them.
CREATE FUNCTION keysmith_private.usage_page(
    tenant_id uuid,
    key_id uuid,
    page integer,
    per_page integer,
    environment text
) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    wanted  constant bigint := (usage_page.page::bigint - 1) * usage_page.per_page;
    whose   constant uuid := coalesce(usage_page.key_id, usage_page.tenant_id);
    place   record;
    mark    record;
    entries jsonb := '[]';
BEGIN
    -- Finds the newest and the oldest hour with rows of the page, and the number of rows that are
    -- newer than the newest of these hours.
    WITH days AS (
        SELECT day, sum(n) AS n, sum(sum(n)) OVER (ORDER BY day DESC) AS upto FROM (
            SELECT d.period AS day, d.requests - d.gone AS n FROM keysmith_private.usage_day d
            WHERE d.tenant_id = usage_page.tenant_id AND d.requests > d.gone
              AND (usage_page.key_id IS NULL OR d.key_id = usage_page.key_id)
              AND (usage_page.environment IS NULL OR d.environment = usage_page.environment)
            UNION ALL
            SELECT date_trunc('day', d.period, 'UTC'), d.requests - d.gone FROM keysmith_private.usage_delta d
            WHERE d.tenant_id = usage_page.tenant_id AND d.key_id IS NOT NULL
              AND (usage_page.key_id IS NULL OR d.key_id = usage_page.key_id)
              AND (usage_page.environment IS NULL OR d.environment = usage_page.environment)
        ) AS counts GROUP BY day
    ), span AS (
        SELECT max(day) AS newest, min(day) AS oldest, min(upto - n) AS skipped
        FROM days WHERE upto > wanted AND upto - n < wanted + usage_page.per_page
    ), hours AS (
        SELECT hour, sum(n) AS n, (SELECT skipped FROM span) + sum(sum(n)) OVER (ORDER BY hour DESC) AS upto
        FROM (
            SELECT h.period AS hour, h.requests - h.gone AS n FROM keysmith_private.usage_hour h, span
            WHERE h.tenant_id = usage_page.tenant_id
              AND (usage_page.key_id IS NULL OR h.key_id = usage_page.key_id)
              AND (usage_page.environment IS NULL OR h.environment = usage_page.environment)
              AND h.period >= span.oldest AND h.period < span.newest + interval '24 hours'
            UNION ALL
            SELECT d.period, d.requests - d.gone FROM keysmith_private.usage_delta d, span
            WHERE d.tenant_id = usage_page.tenant_id AND d.key_id IS NOT NULL
              AND (usage_page.key_id IS NULL OR d.key_id = usage_page.key_id)
              AND (usage_page.environment IS NULL OR d.environment = usage_page.environment)
              AND d.period >= span.oldest AND d.period < span.newest + interval '24 hours'
        ) AS counts GROUP BY hour
    ), found AS (
        SELECT max(hour) AS newest, min(hour) AS oldest, min(upto - n) AS skipped
        FROM hours WHERE n > 0 AND upto > wanted AND upto - n < wanted + usage_page.per_page
    )
    SELECT (SELECT coalesce(sum(n), 0) FROM days) AS total, f.newest, f.oldest,
           f.newest + interval '1 hour' AS ends, (wanted - f.skipped)::bigint AS skip,
           (h.n - (wanted - f.skipped))::bigint AS rank
    INTO place FROM found f LEFT JOIN hours h ON h.hour = f.newest;

    -- The page begins at the row of that rank in its hour, counted from the oldest row. The next
    -- mark above it is near. A mark is wrong if rows before it changed since the last fold.
    IF place.newest IS NOT NULL THEN
        SELECT m.at, m.position INTO mark FROM keysmith_private.usage_mark m
        WHERE m.holder = whose AND m.period = place.newest AND m.position >= place.rank
          AND usage_page.environment IS NULL
          AND m.at < coalesce((
              SELECT min(d.changed_from) FROM keysmith_private.usage_delta d
              WHERE d.tenant_id = usage_page.tenant_id AND d.key_id IS NOT NULL
                AND (usage_page.key_id IS NULL OR d.key_id = usage_page.key_id)
                AND d.period = place.newest), 'infinity')
        ORDER BY m.position LIMIT 1;
        EXECUTE format(
            'SELECT coalesce(jsonb_agg(jsonb_build_object(
                 ''at'', at, ''request_id'', request_id,
                 ''key_id'', CASE WHEN member IS NULL THEN key_id END, ''member'', member,
                 ''environment'', nullif(environment, ''''),
                 ''method'', method, ''endpoint'', endpoint, ''status'', status, ''outcome'', outcome,
                 ''ip'', ip, ''latency'', round(extract(epoch FROM latency) * 1000, 3),
                 ''spend'', spend, ''weights'', weights, ''subject'', subject, ''tags'', tags)
                 ORDER BY at DESC, incarnation DESC, sequence DESC), ''[]'')
             FROM (SELECT * FROM keysmith_private.usage_event
                   WHERE tenant_id = $1 %s %s AND at >= $3 AND at < $4 AND at <= $5
                   ORDER BY at DESC, incarnation DESC, sequence DESC OFFSET $6 LIMIT $7) AS rows',
            CASE WHEN usage_page.key_id IS NOT NULL THEN 'AND key_id = $2' END,
            CASE WHEN usage_page.environment IS NOT NULL THEN 'AND environment = $8' END)
        INTO entries
        USING usage_page.tenant_id, usage_page.key_id, place.oldest, place.ends,
              coalesce(mark.at, 'infinity'), coalesce(mark.position - place.rank, place.skip), usage_page.per_page,
              usage_page.environment;
    END IF;
    RETURN jsonb_build_object('data', entries, 'meta', jsonb_build_object(
        'total', place.total, 'page', usage_page.page, 'limit', usage_page.per_page));
END $$;
COMMENT ON FUNCTION keysmith_private.usage_page(uuid, uuid, integer, integer, text) IS
'The result of usage_logs, for callers who may read the tables';

-- The last hours or days before "until", the oldest first. Those without requests are left out.
CREATE FUNCTION keysmith_private.usage_totals(
    tenant_id uuid, key_id uuid, environment text, per text, since timestamptz, until timestamptz,
    usual integer, most integer, OUT at timestamptz, OUT requests bigint, OUT refused bigint,
    OUT spend bigint, OUT units jsonb
) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH span AS (
        SELECT coalesce(usage_totals.until, clock_timestamp()) AS upto,
               CASE usage_totals.per WHEN 'hour' THEN interval '1 hour' ELSE interval '24 hours' END AS step
    ), bounds AS (
        SELECT upto, greatest(coalesce(usage_totals.since, upto - step * usage_totals.usual),
                              upto - step * usage_totals.most) AS begins FROM span
    ), counts AS (
        SELECT u.hour AS at, u.requests, u.outcome, u.spend FROM keysmith_private.all_usage_hourly u, bounds b
        WHERE usage_totals.per = 'hour' AND u.tenant_id = usage_totals.tenant_id
          AND (usage_totals.key_id IS NULL OR u.key_id = usage_totals.key_id)
          AND (usage_totals.environment IS NULL OR u.environment = usage_totals.environment)
          AND u.hour >= date_trunc('hour', b.begins, 'UTC') AND u.hour < b.upto
        UNION ALL
        SELECT u.day::timestamp AT TIME ZONE 'UTC', u.requests, u.outcome, u.spend
        FROM keysmith_private.all_usage_daily u, bounds b
        WHERE usage_totals.per = 'day' AND u.tenant_id = usage_totals.tenant_id
          AND (usage_totals.key_id IS NULL OR u.key_id = usage_totals.key_id)
          AND (usage_totals.environment IS NULL OR u.environment = usage_totals.environment)
          AND u.day >= (b.begins AT TIME ZONE 'UTC')::date AND u.day <= (b.upto AT TIME ZONE 'UTC')::date
    ), amounts AS (
        SELECT date_trunc(usage_totals.per, u.hour, 'UTC') AS at, u.unit, keysmith_private.to_bigint(sum(u.amount)) AS amount
        FROM keysmith_private.all_usage_units u, bounds b
        WHERE u.tenant_id = usage_totals.tenant_id
          AND (usage_totals.key_id IS NULL OR u.key_id = usage_totals.key_id)
          AND (usage_totals.environment IS NULL OR u.environment = usage_totals.environment)
          AND u.hour >= date_trunc(usage_totals.per, b.begins, 'UTC') AND u.hour < b.upto
        GROUP BY 1, 2
    ), units AS (
        SELECT a.at, jsonb_object_agg(a.unit, a.amount) AS units FROM amounts a GROUP BY a.at
    )
    SELECT c.at, sum(c.requests)::bigint, coalesce(sum(c.requests) FILTER (WHERE c.outcome <> 'ok'), 0)::bigint,
           keysmith_private.to_bigint(sum(c.spend)), coalesce(a.units, '{}')
    FROM counts c LEFT JOIN units a USING (at) GROUP BY c.at, a.units ORDER BY c.at
$$;
COMMENT ON FUNCTION keysmith_private.usage_totals(
    uuid, uuid, text, text, timestamptz, timestamptz, integer, integer) IS
'Requests, refusals, credits and units by hour or by day, for callers who may read the tables';

CREATE FUNCTION keysmith.usage_chart(
    tenant text DEFAULT NULL,
    key_id uuid DEFAULT NULL,
    per text DEFAULT 'hour',
    bars integer DEFAULT 24,
    width integer DEFAULT 80,
    until timestamptz DEFAULT NULL,
    keyspace text DEFAULT 'default'
) RETURNS SETOF text
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'keysmith_usage_chart';
COMMENT ON FUNCTION keysmith.usage_chart(text, uuid, text, integer, integer, timestamptz, text) IS
'Draws the number of requests as bars that fit a terminal';

-- For these tenants and this environment; null stands for all.
CREATE FUNCTION keysmith_private.usage_bars(
    tenants uuid[], environment text, keyspace text, tenant text, key_id uuid, per text, bars integer,
    width integer, until timestamptz
) RETURNS SETOF text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    is_hour constant boolean := usage_bars.per = 'hour';
    shown   constant text := CASE WHEN is_hour THEN 'MM-DD HH24:00' ELSE 'YYYY-MM-DD' END;
    step    constant interval := CASE WHEN is_hour THEN '1 hour' ELSE '24 hours' END;
    -- Other encodings may lack the block characters.
    is_utf8 constant boolean := getdatabaseencoding() = 'UTF8';
    let_in  constant text := chr(CASE WHEN is_utf8 THEN 9608 ELSE ascii('#') END);
    refused constant text := chr(CASE WHEN is_utf8 THEN 9617 ELSE ascii('-') END);
    nothing constant text := chr(CASE WHEN is_utf8 THEN 183 ELSE ascii('.') END);
    newest  constant timestamptz :=
        date_trunc(usage_bars.per, coalesce(usage_bars.until, clock_timestamp()), 'UTC');
    -- psql puts a space on either side. The columns left of the bars have a fixed width.
    room    constant integer := usage_bars.width - 2 - CASE WHEN is_hour THEN 32 ELSE 31 END;
BEGIN
    RETURN QUERY SELECT left(format('requests per %s, UTC%s', usage_bars.per,
                                    coalesce(', of ' || usage_bars.tenant, '')), usage_bars.width - 2);
    RETURN QUERY
    WITH counts AS (
        SELECT u.hour AS period, u.requests, u.outcome FROM keysmith_private.all_usage_hourly u
        WHERE is_hour AND u.keyspace = usage_bars.keyspace
          AND (usage_bars.tenants IS NULL OR u.tenant_id = ANY (usage_bars.tenants))
          AND (usage_bars.environment IS NULL OR u.environment = usage_bars.environment)
          AND (usage_bars.key_id IS NULL OR u.key_id = usage_bars.key_id)
          AND u.hour > newest - step * usage_bars.bars AND u.hour <= newest
        UNION ALL
        SELECT u.day::timestamp AT TIME ZONE 'UTC', u.requests, u.outcome
        FROM keysmith_private.all_usage_daily u
        WHERE NOT is_hour AND u.keyspace = usage_bars.keyspace
          AND (usage_bars.tenants IS NULL OR u.tenant_id = ANY (usage_bars.tenants))
          AND (usage_bars.environment IS NULL OR u.environment = usage_bars.environment)
          AND (usage_bars.key_id IS NULL OR u.key_id = usage_bars.key_id)
          AND u.day > ((newest - step * usage_bars.bars) AT TIME ZONE 'UTC')::date
          AND u.day <= (newest AT TIME ZONE 'UTC')::date
    ), filled AS (
        SELECT newest - step * n AS period, coalesce(sum(c.requests), 0) AS requests,
               coalesce(sum(c.requests) FILTER (WHERE c.outcome <> 'ok'), 0) AS refusals
        FROM generate_series(0, usage_bars.bars - 1) AS n
        LEFT JOIN counts c ON c.period = newest - step * n
        GROUP BY n
    ), scaled AS (
        SELECT *, sum(requests) OVER () AS total,
               -- Each number above 0 has at least one block.
               greatest(round(requests * room / nullif(max(requests) OVER (), 0)),
                        (requests > refusals)::integer + (refusals > 0)::integer)::integer AS blocks,
               greatest(round(refusals * room / nullif(max(requests) OVER (), 0)),
                        (refusals > 0)::integer)::integer AS grey,
               ARRAY(SELECT CASE WHEN number < 10000000 THEN number::text
                         ELSE trunc(number / power(1000::numeric, thousands), 1)
                              || substr('kMGTPE', thousands, 1) END
                     FROM unnest(ARRAY[requests, refusals]) WITH ORDINALITY AS u (number, n),
                          LATERAL (SELECT (length(number::text) - 1) / 3 AS thousands) AS t
                     ORDER BY n) AS numbers
        FROM filled
    ), lines AS (
        SELECT period, total, to_char(period AT TIME ZONE 'UTC', shown)
               || '  ' || lpad(numbers[1], 8) || '  ' || lpad(numbers[2], 7) || '  '
               || CASE WHEN requests = 0 THEN nothing
                      ELSE repeat(let_in, blocks - least(grey, blocks - (requests > refusals)::integer))
                           || repeat(refused, least(grey, blocks - (requests > refusals)::integer))
                  END AS line
        FROM scaled
    )
    SELECT text FROM (
        SELECT 1 AS part, NULL::timestamptz AS period,
               rpad('', length(shown) - CASE WHEN is_hour THEN 2 ELSE 0 END) || '  requests  refused' AS text
        UNION ALL
        SELECT 2, period, line FROM lines
        UNION ALL
        SELECT 3, NULL, CASE WHEN max(total) = 0 THEN 'no requests in this time'
                             ELSE format('%s accepted  %s refused', let_in, refused) END
        FROM lines
    ) AS parts ORDER BY part, period;
END $$;
COMMENT ON FUNCTION keysmith_private.usage_bars(
    uuid[], text, text, text, uuid, text, integer, integer, timestamptz) IS
'The rows of usage_chart, for callers who may read the tables';

CREATE FUNCTION keysmith.blast_radius(
    key_id uuid,
    OUT relation text,
    OUT rows bigint,
    OUT first_at timestamptz,
    OUT last_at timestamptz
) RETURNS SETOF record
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_blast_radius';
COMMENT ON FUNCTION keysmith.blast_radius(uuid) IS
'The tracked tables that a key changed; with the number of changed rows of each';
