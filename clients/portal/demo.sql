-- A customer with keys that were used for some weeks, and the role of a dashboard.
CREATE EXTENSION keysmith;
SELECT keysmith.define_endpoint('default', method, pattern, operation)
FROM (VALUES ('POST',   '/v1/keys',              'mint'),
             ('GET',    '/v1/keys',              'list_keys'),
             ('GET',    '/v1/keys/{id}',         'show_key'),
             ('PATCH',  '/v1/keys/{id}',         'alter_key'),
             ('DELETE', '/v1/keys/{id}',         'revoke'),
             ('POST',   '/v1/keys/{id}/rotate',  'rotate'),
             ('POST',   '/v1/keys/{id}/disable', 'disable'),
             ('POST',   '/v1/keys/{id}/enable',  'enable'),
             ('GET',    '/v1/logs',              'usage_logs'),
             ('GET',    '/v1/usage',             'usage_totals')) AS e (method, pattern, operation);
SELECT keysmith.define_scope('default', scope, description)
FROM (VALUES ('images:read', 'See images'), ('images:write', 'Make images'), ('models:read', 'See models')) AS s (scope, description);
SELECT keysmith.define_route('default', 'GET', '/v1/images', 'images:read');
SELECT keysmith.define_route('default', 'POST', '/v1/images', 'images:write');
SELECT keysmith.define_role('default', 'owner', '{*}');
SELECT keysmith.create_tenant('acme');
SELECT keysmith.set_member('acme', 'ann@acme.example', 'owner');
SELECT keysmith.grant_access('portal_web', 'host', keyspace => 'default'), keysmith.grant_access('portal_web', 'verifier', keyspace => 'default');

CREATE TEMP TABLE made AS
SELECT m.key_id, m.api_key, k.label, k.age, k.daily
FROM (VALUES ('Production',       'live', 'secret',      '{images:read,images:write}', '{203.0.113.0/24}', interval '92 days', 620),
             ('Website',          'live', 'publishable', '{images:read}',              NULL,               interval '61 days', 240),
             ('CI',               'test', 'secret',      '{images:read,images:write}', NULL,               interval '40 days', 75),
             ('Data export',      'live', 'secret',      '{images:read,models:read}',  NULL,               interval '33 days', 20),
             ('Laptop of Ben',    'test', 'secret',      '{images:read}',              NULL,               interval '12 days', 4),
             ('Trial of the mobile app', 'live', 'secret', '{images:read}',            NULL,               interval '55 days', 9))
     AS k (label, environment, kind, scopes, allowlist, age, daily),
     keysmith.mint('acme', k.label, k.environment, k.kind, k.scopes::text[], owner => 'ann@acme.example', allowlist => k.allowlist::cidr[]) AS m;

-- Some requests of now, and then the worker's totals of the past, which no function can make.
SELECT keysmith.authenticate(jsonb_build_object('X-API-Key', m.api_key), w.method, '/v1/images', '203.0.113.9')
FROM made m, (VALUES ('GET'), ('GET'), ('POST')) AS w (method), generate_series(1, 2) WHERE m.daily > 50;
SELECT keysmith.flush_usage();
CREATE TEMP TABLE past AS
SELECT t.tenant_id, hour, m.key_id, k.environment, r.status, r.outcome,
       greatest(0, round(m.daily / 9.0 * r.part * (0.15 + sin(pi() * extract(hour FROM hour)::float8 / 24) ^ 2)
                         * CASE WHEN extract(isodow FROM hour) > 5 THEN 0.35 ELSE 1 END
                         * (0.75 + 0.5 * (hashtextextended(m.label || hour, 7) & 1023) / 1023)))::bigint AS requests
FROM made m JOIN keysmith.keys k USING (key_id) JOIN keysmith_private.tenant t ON t.name = k.tenant,
     generate_series(date_trunc('day', now() - interval '29 days', 'UTC'), now() - interval '1 hour', interval '1 hour') AS hour,
     (VALUES (200, 'ok', 1.0), (429, 'rate_limited', 0.05), (403, 'insufficient_scope', 0.02)) AS r (status, outcome, part)
WHERE hour > now() - m.age;
INSERT INTO keysmith_private.usage_hour (tenant_id, period, key_id, environment, status, outcome, requests, timed, latency, gone)
SELECT tenant_id, hour, key_id, environment, status, outcome, requests, 0, '0', requests FROM past
WHERE requests > 0 AND hour < date_trunc('hour', now());
INSERT INTO keysmith_private.usage_day (tenant_id, period, key_id, environment, status, outcome, requests, timed, latency, gone)
SELECT tenant_id, date_trunc('day', hour, 'UTC'), key_id, environment, status, outcome, sum(requests), 0, '0', sum(requests) FROM past
WHERE requests > 0 GROUP BY 1, 2, 3, 4, 5, 6
ON CONFLICT (tenant_id, period, key_id, environment, status, outcome) DO UPDATE
SET requests = usage_day.requests + excluded.requests, gone = usage_day.gone + excluded.gone;
INSERT INTO keysmith_private.usage_last SELECT key_id, now() - age / 15 FROM made WHERE daily <= 50 ON CONFLICT DO NOTHING;
UPDATE keysmith_private.key k SET created_at = now() - m.age FROM made m WHERE k.key_id = m.key_id;

SELECT keysmith.alter_key(key_id, jsonb_build_object('expires_at', now() + interval '74 days')) FROM made WHERE label = 'Production';
SELECT keysmith.disable(key_id) FROM made WHERE label = 'Data export';
SELECT keysmith.rotate(key_id, '1 day') FROM made WHERE label = 'CI';
UPDATE keysmith_private.key SET expires_at = now() - interval '3 days'
WHERE key_id = (SELECT key_id FROM made WHERE label = 'Trial of the mobile app');
SELECT keysmith.revoke(key_id, 'the laptop is gone') FROM made WHERE label = 'Laptop of Ben';
