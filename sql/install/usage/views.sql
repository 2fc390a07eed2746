-- Views of usage. A reader who may see one tenant sees no rows of others: see
-- shows_everything().

CREATE VIEW keysmith_private.all_usage AS
SELECT e.at, e.request_id, t.name AS tenant, e.keyspace, nullif(e.environment, '') AS environment,
       k.key_id, k.label,
       e.method, e.endpoint, e.status, e.outcome, e.ip, e.latency, e.tenant_id, e.member, e.signed_in_by,
       e.spend, e.weights, e.subject, e.tags
FROM keysmith_private.usage_event e
JOIN keysmith_private.tenant t USING (tenant_id)
LEFT JOIN keysmith_private.key k USING (key_id);
SELECT keysmith_private.publish('usage');
COMMENT ON VIEW keysmith.usage IS 'The requests of known keys, refused requests included, and of persons whom act_as signed in';
COMMENT ON COLUMN keysmith.usage.at IS 'The time of the decision';
COMMENT ON COLUMN keysmith.usage.request_id IS 'The request_id of the verdict';
COMMENT ON COLUMN keysmith.usage.tenant IS 'The name of the tenant that the key belongs to';
COMMENT ON COLUMN keysmith.usage.keyspace IS 'The keyspace of the key';
COMMENT ON COLUMN keysmith.usage.environment IS 'The environment of the key, such as live or test; null for a person';
COMMENT ON COLUMN keysmith.usage.key_id IS 'The id of the key; it is not secret; null for a person';
COMMENT ON COLUMN keysmith.usage.label IS 'The name of the key, for people';
COMMENT ON COLUMN keysmith.usage.method IS 'The HTTP method; null if unknown';
COMMENT ON COLUMN keysmith.usage.endpoint IS 'The path without its query, or what log_request gave; null if unknown; act_as for a person';
COMMENT ON COLUMN keysmith.usage.status IS 'The HTTP status of the verdict, or the one that log_request gave';
COMMENT ON COLUMN keysmith.usage.outcome IS 'ok, or the reason of the refusal';
COMMENT ON COLUMN keysmith.usage.ip IS 'The address that the request came from; null if unknown';
COMMENT ON COLUMN keysmith.usage.latency IS 'The duration of the request, as log_request was told; null if unknown';
COMMENT ON COLUMN keysmith.usage.tenant_id IS 'The id of the tenant';
COMMENT ON COLUMN keysmith.usage.member IS 'The member, if it is a request of a person; empty for the tenant as a whole';
COMMENT ON COLUMN keysmith.usage.signed_in_by IS 'The role of the database that signed the person in';
COMMENT ON COLUMN keysmith.usage.spend IS 'The credits that the request cost; null if it cost none';
COMMENT ON COLUMN keysmith.usage.weights IS 'What the request counts for, by unit; null for one call';
COMMENT ON COLUMN keysmith.usage.subject IS 'The user of the application, as the request named it';
COMMENT ON COLUMN keysmith.usage.tags IS 'The tags that log_request gave';

-- Totals are of requests of keys. The requests of persons have no key and no environment.
CREATE VIEW keysmith_private.all_usage_hourly AS
SELECT u.period AS hour, t.name AS tenant, t.keyspace, u.environment, u.key_id, u.status, u.outcome,
       pg_catalog.sum(u.requests)::bigint AS requests,
       pg_catalog.sum(u.latency) / nullif(pg_catalog.sum(u.timed), 0)::double precision AS latency,
       u.tenant_id, keysmith_private.to_bigint(pg_catalog.sum(u.spend)) AS spend
FROM (SELECT period, tenant_id, key_id, environment, status, outcome, requests, timed, latency, spend
      FROM keysmith_private.usage_hour
      UNION ALL
      SELECT period, tenant_id, key_id, environment, status, outcome, requests, timed, latency, spend
      FROM keysmith_private.usage_delta WHERE key_id IS NOT NULL) AS u
JOIN keysmith_private.tenant t USING (tenant_id)
WHERE u.key_id <> '00000000-0000-0000-0000-000000000000'
GROUP BY u.period, u.tenant_id, t.name, t.keyspace, u.environment, u.key_id, u.status, u.outcome
HAVING pg_catalog.sum(u.requests) <> 0 OR pg_catalog.sum(u.spend) <> 0;
SELECT keysmith_private.publish('usage_hourly');
COMMENT ON VIEW keysmith.usage_hourly IS 'The number of requests by hour, key, environment, status and outcome';
COMMENT ON COLUMN keysmith.usage_hourly.hour IS 'The beginning of the hour';
COMMENT ON COLUMN keysmith.usage_hourly.tenant IS 'The name of the tenant that the key belongs to';
COMMENT ON COLUMN keysmith.usage_hourly.keyspace IS 'The keyspace of the key';
COMMENT ON COLUMN keysmith.usage_hourly.environment IS 'The environment of the key, such as live or test';
COMMENT ON COLUMN keysmith.usage_hourly.key_id IS 'The id of the key; it is not secret';
COMMENT ON COLUMN keysmith.usage_hourly.status IS 'The HTTP status of the verdict, or the one that log_request gave';
COMMENT ON COLUMN keysmith.usage_hourly.outcome IS 'ok, or the reason of the refusal';
COMMENT ON COLUMN keysmith.usage_hourly.requests IS 'The number of requests';
COMMENT ON COLUMN keysmith.usage_hourly.latency IS 'The mean of the known latencies';
COMMENT ON COLUMN keysmith.usage_hourly.tenant_id IS 'The id of the tenant';
COMMENT ON COLUMN keysmith.usage_hourly.spend IS 'The sum of the credits that the requests cost';

CREATE VIEW keysmith_private.all_usage_daily AS
SELECT (u.period AT TIME ZONE 'UTC')::date AS day, t.name AS tenant, t.keyspace, u.environment,
       u.key_id, u.status, u.outcome,
       pg_catalog.sum(u.requests)::bigint AS requests,
       pg_catalog.sum(u.latency) / nullif(pg_catalog.sum(u.timed), 0)::double precision AS latency,
       u.tenant_id, keysmith_private.to_bigint(pg_catalog.sum(u.spend)) AS spend
FROM (SELECT period, tenant_id, key_id, environment, status, outcome, requests, timed, latency, spend
      FROM keysmith_private.usage_day
      UNION ALL
      SELECT pg_catalog.date_trunc('day', period, 'UTC'), tenant_id, key_id, environment, status,
             outcome, requests, timed, latency, spend
      FROM keysmith_private.usage_delta WHERE key_id IS NOT NULL) AS u
JOIN keysmith_private.tenant t USING (tenant_id)
WHERE u.key_id <> '00000000-0000-0000-0000-000000000000'
GROUP BY u.period, u.tenant_id, t.name, t.keyspace, u.environment, u.key_id, u.status, u.outcome
HAVING pg_catalog.sum(u.requests) <> 0 OR pg_catalog.sum(u.spend) <> 0;
SELECT keysmith_private.publish('usage_daily');
COMMENT ON VIEW keysmith.usage_daily IS 'The number of requests by day (UTC), key, environment, status and outcome';
COMMENT ON COLUMN keysmith.usage_daily.day IS 'The day, in UTC';
COMMENT ON COLUMN keysmith.usage_daily.tenant IS 'The name of the tenant that the key belongs to';
COMMENT ON COLUMN keysmith.usage_daily.keyspace IS 'The keyspace of the key';
COMMENT ON COLUMN keysmith.usage_daily.environment IS 'The environment of the key, such as live or test';
COMMENT ON COLUMN keysmith.usage_daily.key_id IS 'The id of the key; it is not secret';
COMMENT ON COLUMN keysmith.usage_daily.status IS 'The HTTP status of the verdict, or the one that log_request gave';
COMMENT ON COLUMN keysmith.usage_daily.outcome IS 'ok, or the reason of the refusal';
COMMENT ON COLUMN keysmith.usage_daily.requests IS 'The number of requests';
COMMENT ON COLUMN keysmith.usage_daily.latency IS 'The mean of the known latencies';
COMMENT ON COLUMN keysmith.usage_daily.tenant_id IS 'The id of the tenant';
COMMENT ON COLUMN keysmith.usage_daily.spend IS 'The sum of the credits that the requests cost';

CREATE VIEW keysmith_private.all_usage_units AS
SELECT u.period AS hour, t.name AS tenant, t.keyspace, u.environment, u.key_id, u.unit,
       keysmith_private.to_bigint(pg_catalog.sum(u.amount)) AS amount, u.tenant_id
FROM (SELECT period, tenant_id, key_id, environment, unit, amount FROM keysmith_private.usage_unit
      UNION ALL
      SELECT period, tenant_id, key_id, environment, unit, amount FROM keysmith_private.usage_unit_delta) AS u
JOIN keysmith_private.tenant t USING (tenant_id)
WHERE u.key_id <> '00000000-0000-0000-0000-000000000000'
GROUP BY u.period, u.tenant_id, t.name, t.keyspace, u.environment, u.key_id, u.unit
HAVING pg_catalog.sum(u.amount) <> 0;
SELECT keysmith_private.publish('usage_units');
COMMENT ON VIEW keysmith.usage_units IS 'The amounts of units that accepted requests counted for, by hour and key';
COMMENT ON COLUMN keysmith.usage_units.hour IS 'The beginning of the hour';
COMMENT ON COLUMN keysmith.usage_units.tenant IS 'The name of the tenant that the key belongs to';
COMMENT ON COLUMN keysmith.usage_units.keyspace IS 'The keyspace of the key';
COMMENT ON COLUMN keysmith.usage_units.environment IS 'The environment of the key, such as live or test';
COMMENT ON COLUMN keysmith.usage_units.key_id IS 'The id of the key; it is not secret';
COMMENT ON COLUMN keysmith.usage_units.unit IS 'The name of the unit, such as tokens; calls are counted as requests';
COMMENT ON COLUMN keysmith.usage_units.amount IS 'The sum of the weights in that unit';
COMMENT ON COLUMN keysmith.usage_units.tenant_id IS 'The id of the tenant';

-- A change of a value that came too late for a row is shown as the next fold counts it, here and in
-- usage_endpoints. No join, so that those of one tenant are found by their index.
CREATE VIEW keysmith_private.all_usage_tags AS
SELECT (u.period AT TIME ZONE 'UTC')::date AS day, t.name AS tenant, t.keyspace, u.environment, u.tag,
       CASE WHEN u.is_late THEN '(other)' ELSE u.value END AS value,
       pg_catalog.sum(u.requests)::bigint AS requests, keysmith_private.to_bigint(pg_catalog.sum(u.spend)) AS spend, u.tenant_id
FROM (SELECT period, tenant_id, tag, environment, value, requests, spend, value = '' AS is_late
      FROM keysmith_private.usage_tag
      UNION ALL
      SELECT d.period, d.tenant_id, d.tag, d.environment, d.value, d.requests, d.spend,
             NOT EXISTS (SELECT FROM keysmith_private.usage_tag o
                         WHERE (o.tenant_id, o.period, o.tag, o.environment, o.value)
                             = (d.tenant_id, d.period, d.tag, d.environment, d.value))
             AND EXISTS (SELECT FROM keysmith_private.usage_tag o
                         WHERE (o.tenant_id, o.period, o.tag, o.value) = (d.tenant_id, d.period, d.tag, ''))
      FROM keysmith_private.usage_tag_delta d) AS u
JOIN keysmith_private.tenant t USING (tenant_id)
WHERE u.environment <> ''
GROUP BY u.period, u.tenant_id, t.name, t.keyspace, u.environment, u.tag, 6
HAVING pg_catalog.sum(u.requests) <> 0 OR pg_catalog.sum(u.spend) <> 0;
SELECT keysmith_private.publish('usage_tags');
COMMENT ON VIEW keysmith.usage_tags IS 'The number of requests by day (UTC) and value of each tag that the keyspace declares';
COMMENT ON COLUMN keysmith.usage_tags.day IS 'The day, in UTC';
COMMENT ON COLUMN keysmith.usage_tags.tenant IS 'The name of the tenant whose keys made the requests';
COMMENT ON COLUMN keysmith.usage_tags.keyspace IS 'The keyspace of the tenant';
COMMENT ON COLUMN keysmith.usage_tags.environment IS 'The environment of the keys, such as live or test';
COMMENT ON COLUMN keysmith.usage_tags.tag IS 'The name of the tag';
COMMENT ON COLUMN keysmith.usage_tags.value IS 'Its value; (other) sums up the values beyond the first 500 of a tenant and day';
COMMENT ON COLUMN keysmith.usage_tags.requests IS 'The number of requests, refused requests included';
COMMENT ON COLUMN keysmith.usage_tags.spend IS 'The sum of the credits that the requests cost';
COMMENT ON COLUMN keysmith.usage_tags.tenant_id IS 'The id of the tenant';

CREATE VIEW keysmith_private.all_usage_endpoints AS
SELECT (u.period AT TIME ZONE 'UTC')::date AS day, t.name AS tenant, t.keyspace, u.environment,
       CASE WHEN NOT u.is_late THEN nullif(u.method, '') END AS method,
       CASE WHEN u.is_late THEN '(other)' ELSE nullif(u.endpoint, '') END AS endpoint,
       pg_catalog.sum(u.requests)::bigint AS requests, pg_catalog.sum(u.refused)::bigint AS refused,
       pg_catalog.sum(u.latency) / nullif(pg_catalog.sum(u.timed), 0)::double precision AS latency,
       u.tenant_id, keysmith_private.to_bigint(pg_catalog.sum(u.spend)) AS spend
FROM (SELECT period, tenant_id, environment, method, endpoint, requests, refused, timed, latency, spend,
             method = '' AND endpoint = '' AS is_late
      FROM keysmith_private.usage_endpoint_day
      UNION ALL
      SELECT pg_catalog.date_trunc('day', d.period, 'UTC'), d.tenant_id, d.environment, d.method, d.endpoint,
             d.requests, d.refused, d.timed, d.latency, d.spend,
             NOT EXISTS (SELECT FROM keysmith_private.usage_endpoint_day o
                         WHERE (o.tenant_id, o.period, o.environment, o.method, o.endpoint)
                             = (d.tenant_id, pg_catalog.date_trunc('day', d.period, 'UTC'), d.environment, d.method, d.endpoint))
             AND EXISTS (SELECT FROM keysmith_private.usage_endpoint_day o
                         WHERE (o.tenant_id, o.period, o.environment, o.method, o.endpoint)
                             = (d.tenant_id, pg_catalog.date_trunc('day', d.period, 'UTC'), d.environment, '', ''))
      FROM keysmith_private.usage_delta d WHERE d.key_id IS NULL) AS u
JOIN keysmith_private.tenant t USING (tenant_id)
WHERE u.environment <> ''
GROUP BY u.period, u.tenant_id, t.name, t.keyspace, u.environment, 5, 6
HAVING pg_catalog.sum(u.requests) <> 0 OR pg_catalog.sum(u.spend) <> 0;
SELECT keysmith_private.publish('usage_endpoints');
COMMENT ON VIEW keysmith.usage_endpoints IS 'The number of requests by day (UTC), method and endpoint';
COMMENT ON COLUMN keysmith.usage_endpoints.day IS 'The day, in UTC';
COMMENT ON COLUMN keysmith.usage_endpoints.tenant IS 'The name of the tenant whose keys made the requests';
COMMENT ON COLUMN keysmith.usage_endpoints.keyspace IS 'The keyspace of the tenant';
COMMENT ON COLUMN keysmith.usage_endpoints.environment IS 'The environment of the keys, such as live or test';
COMMENT ON COLUMN keysmith.usage_endpoints.method IS 'The HTTP method; null if unknown';
COMMENT ON COLUMN keysmith.usage_endpoints.endpoint IS 'The endpoint; (other) sums up the endpoints beyond the first 500 of a tenant';
COMMENT ON COLUMN keysmith.usage_endpoints.requests IS 'The number of requests, refused requests included';
COMMENT ON COLUMN keysmith.usage_endpoints.refused IS 'The number of refused requests';
COMMENT ON COLUMN keysmith.usage_endpoints.latency IS 'The mean of the known latencies';
COMMENT ON COLUMN keysmith.usage_endpoints.tenant_id IS 'The id of the tenant';
COMMENT ON COLUMN keysmith.usage_endpoints.spend IS 'The sum of the credits that the requests cost';

CREATE VIEW keysmith_private.all_top_keys AS
SELECT d.tenant, d.keyspace, d.key_id, k.label, k.key_snippet,
       pg_catalog.sum(d.requests)::bigint AS requests,
       coalesce(pg_catalog.sum(d.requests) FILTER (WHERE d.outcome <> 'ok'), 0)::bigint AS refused,
       pg_catalog.max(d.day) AS last_day, d.tenant_id, d.environment
FROM keysmith_private.all_usage_daily d
LEFT JOIN keysmith_private.key k USING (key_id)
WHERE d.day > (pg_catalog.now() AT TIME ZONE 'UTC')::date - 30
GROUP BY d.tenant, d.keyspace, d.key_id, k.label, k.key_snippet, d.tenant_id, d.environment;
SELECT keysmith_private.publish('top_keys', '{environment}', 'ORDER BY requests DESC, key_id');
COMMENT ON VIEW keysmith.top_keys IS 'The keys with requests in the last 30 days, those with the most first';
COMMENT ON COLUMN keysmith.top_keys.tenant IS 'The name of the tenant that the key belongs to';
COMMENT ON COLUMN keysmith.top_keys.keyspace IS 'The keyspace of the key';
COMMENT ON COLUMN keysmith.top_keys.key_id IS 'The id of the key; it is not secret';
COMMENT ON COLUMN keysmith.top_keys.label IS 'The name of the key, for people';
COMMENT ON COLUMN keysmith.top_keys.key_snippet IS 'The prefix and the end of the key, by which people recognize it';
COMMENT ON COLUMN keysmith.top_keys.requests IS 'The number of requests, refused requests included';
COMMENT ON COLUMN keysmith.top_keys.refused IS 'The number of refused requests';
COMMENT ON COLUMN keysmith.top_keys.last_day IS 'The last day with a request, in UTC';
COMMENT ON COLUMN keysmith.top_keys.tenant_id IS 'The id of the tenant';

CREATE VIEW keysmith_private.all_top_refusals AS
SELECT d.outcome, d.status, d.tenant, d.keyspace, d.key_id, k.label, k.key_snippet,
       pg_catalog.sum(d.requests)::bigint AS requests, pg_catalog.max(d.day) AS last_day, d.tenant_id,
       d.environment
FROM keysmith_private.all_usage_daily d
LEFT JOIN keysmith_private.key k USING (key_id)
WHERE d.day > (pg_catalog.now() AT TIME ZONE 'UTC')::date - 30 AND d.outcome <> 'ok'
GROUP BY d.outcome, d.status, d.tenant, d.keyspace, d.key_id, k.label, k.key_snippet, d.tenant_id, d.environment;
SELECT keysmith_private.publish('top_refusals', '{environment}', 'ORDER BY requests DESC, outcome, key_id');
COMMENT ON VIEW keysmith.top_refusals IS 'The refusals of the last 30 days, by reason, status and key, the most frequent first';
COMMENT ON COLUMN keysmith.top_refusals.outcome IS 'The reason of the refusal';
COMMENT ON COLUMN keysmith.top_refusals.status IS 'The HTTP status of the verdict, or the one that log_request gave';
COMMENT ON COLUMN keysmith.top_refusals.tenant IS 'The name of the tenant that the key belongs to';
COMMENT ON COLUMN keysmith.top_refusals.keyspace IS 'The keyspace of the key';
COMMENT ON COLUMN keysmith.top_refusals.key_id IS 'The id of the key; it is not secret';
COMMENT ON COLUMN keysmith.top_refusals.label IS 'The name of the key, for people';
COMMENT ON COLUMN keysmith.top_refusals.key_snippet IS 'The prefix and the end of the key, by which people recognize it';
COMMENT ON COLUMN keysmith.top_refusals.requests IS 'The number of requests';
COMMENT ON COLUMN keysmith.top_refusals.last_day IS 'The last day with such a refusal, in UTC';
COMMENT ON COLUMN keysmith.top_refusals.tenant_id IS 'The id of the tenant';

CREATE VIEW keysmith_private.all_recent_refusals AS
SELECT e.at, t.name AS tenant, e.keyspace, e.environment, k.label, k.key_snippet,
       e.outcome AS reason, e.status, e.method, e.endpoint, e.ip, e.key_id, e.request_id, e.tenant_id
FROM keysmith_private.usage_event e
JOIN keysmith_private.tenant t USING (tenant_id)
LEFT JOIN keysmith_private.key k USING (key_id)
WHERE e.outcome <> 'ok' AND e.at > pg_catalog.clock_timestamp() - interval '24 hours'
UNION ALL
SELECT u.at, NULL, u.keyspace, NULL, NULL, NULL, u.reason, NULL, u.method, u.endpoint, u.ip, NULL, NULL, NULL
FROM keysmith_private.usage_unknown_sample u
WHERE u.at > pg_catalog.clock_timestamp() - interval '24 hours';
SELECT keysmith_private.publish('recent_refusals', '{tenant_id}', 'ORDER BY at DESC');
COMMENT ON VIEW keysmith.recent_refusals IS 'The refused requests of the last 24 hours, the newest first';
COMMENT ON COLUMN keysmith.recent_refusals.at IS 'The time of the decision';
COMMENT ON COLUMN keysmith.recent_refusals.tenant IS 'The name of the tenant that the key belongs to; null without a known key';
COMMENT ON COLUMN keysmith.recent_refusals.keyspace IS 'The keyspace of the request; empty if there is no such keyspace';
COMMENT ON COLUMN keysmith.recent_refusals.environment IS 'The environment of the key, such as live or test';
COMMENT ON COLUMN keysmith.recent_refusals.label IS 'The name of the key, for people';
COMMENT ON COLUMN keysmith.recent_refusals.key_snippet IS 'The prefix and the end of the key, by which people recognize it';
COMMENT ON COLUMN keysmith.recent_refusals.reason IS 'The exact cause, for the operator';
COMMENT ON COLUMN keysmith.recent_refusals.status IS 'The HTTP status of the verdict, or the one that log_request gave; null without a known key';
COMMENT ON COLUMN keysmith.recent_refusals.method IS 'The HTTP method; null if unknown';
COMMENT ON COLUMN keysmith.recent_refusals.endpoint IS 'The path without its query, or the endpoint that log_request gave; null if unknown';
COMMENT ON COLUMN keysmith.recent_refusals.ip IS 'The address that the request came from; null if unknown';
COMMENT ON COLUMN keysmith.recent_refusals.key_id IS 'The id of the key; null for a sample of the requests without a known key';
COMMENT ON COLUMN keysmith.recent_refusals.request_id IS 'The request_id of the verdict';
