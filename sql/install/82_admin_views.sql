-- What an administrator looks at in psql. A caller who may see one tenant only sees
-- nothing of the others: see shows_everything().

CREATE VIEW keysmith_private.all_tenants AS
SELECT t.name AS tenant,
       t.keyspace,
       t.plan,
       CASE WHEN t.suspended_at IS NULL THEN 'active' ELSE 'suspended' END AS status,
       (SELECT pg_catalog.count(*) FROM keysmith_private.key k
        WHERE k.tenant_id = t.tenant_id AND k.environment = coalesce(i.environment, k.environment)
          AND k.revoked_at IS NULL AND k.disabled_at IS NULL
          AND (k.expires_at IS NULL OR k.expires_at > pg_catalog.clock_timestamp())) AS active_keys,
       (SELECT pg_catalog.count(*) FROM keysmith_private.key k
        WHERE k.tenant_id = t.tenant_id
          AND k.environment = coalesce(i.environment, k.environment)) AS keys,
       (SELECT pg_catalog.count(*) FROM keysmith_private.member m WHERE m.tenant_id = t.tenant_id) AS members,
       CASE
           WHEN c.refilled_at NOT BETWEEN
                    pg_catalog.date_trunc(c.every, pg_catalog.clock_timestamp(), 'UTC')
                    AND pg_catalog.clock_timestamp() + '24 hours'
           THEN greatest(c.balance, c.refill)
           ELSE c.balance
       END AS credits,
       (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
               'name', l.part[4], 'limit', l.part[1]::bigint, 'window', l.part[2],
               'burst', l.part[3]::bigint) ORDER BY l.n)
        FROM pg_catalog.regexp_matches(t.limits, '^(\d+)/([^/]+)/(\d+)/(.*)$', 'gn')
             WITH ORDINALITY AS l (part, n)) AS limits,
       greatest((SELECT pg_catalog.max(l.used_at) FROM keysmith_private.key k
                 JOIN keysmith_private.usage_last l USING (key_id)
                 WHERE k.tenant_id = t.tenant_id AND k.environment = coalesce(i.environment, k.environment)),
                (SELECT pg_catalog.max(d.used_at) FROM keysmith_private.usage_delta d
                 WHERE d.tenant_id = t.tenant_id AND d.key_id IS NOT NULL
                   AND d.environment = coalesce(i.environment, d.environment))) AS last_used_at,
       t.created_at,
       t.suspended_at,
       t.suspended_reason,
       t.metadata,
       t.tenant_id
FROM keysmith_private.tenant t
LEFT JOIN keysmith_private.credit c ON c.tenant_id = t.tenant_id
-- A key sees its own environment.
CROSS JOIN (SELECT (SELECT keysmith.current_environment()) AS environment) AS i;
SELECT keysmith_private.publish('tenants');
COMMENT ON VIEW keysmith.tenants IS 'Every tenant, with its keys counted, its credits and when it was last let in';
COMMENT ON COLUMN keysmith.tenants.tenant IS 'The name of the tenant';
COMMENT ON COLUMN keysmith.tenants.keyspace IS 'The keyspace of the tenant';
COMMENT ON COLUMN keysmith.tenants.plan IS 'The plan of the tenant; null for none';
COMMENT ON COLUMN keysmith.tenants.status IS 'active or suspended';
COMMENT ON COLUMN keysmith.tenants.active_keys IS 'Keys that are not disabled, expired or revoked';
COMMENT ON COLUMN keysmith.tenants.keys IS 'All of its keys, revoked ones too';
COMMENT ON COLUMN keysmith.tenants.members IS 'How many members it has';
COMMENT ON COLUMN keysmith.tenants.credits IS 'Its own credits that are left; null where it has none to spend';
COMMENT ON COLUMN keysmith.tenants.limits IS 'Rate limits of all its keys of an environment together';
COMMENT ON COLUMN keysmith.tenants.last_used_at IS 'When a key of it was last let in';
COMMENT ON COLUMN keysmith.tenants.created_at IS 'When the tenant was made';
COMMENT ON COLUMN keysmith.tenants.suspended_at IS 'When it was suspended; null if it is active';
COMMENT ON COLUMN keysmith.tenants.suspended_reason IS 'What suspend_tenant was given as the reason';
COMMENT ON COLUMN keysmith.tenants.metadata IS 'A JSON object of yours';
COMMENT ON COLUMN keysmith.tenants.tenant_id IS 'The id of the tenant';

CREATE VIEW keysmith.expiring_soon WITH (security_barrier) AS
SELECT k.tenant, k.keyspace, k.label, k.key_snippet, k.environment, k.kind, k.owner,
       k.expires_at, pg_catalog.date_trunc('second', k.expires_at - pg_catalog.clock_timestamp()) AS ends_in,
       k.last_used_at, k.rotated_to, k.key_id
FROM keysmith.keys k
WHERE k.status = 'active' AND k.expires_at < pg_catalog.clock_timestamp() + interval '30 days'
ORDER BY k.expires_at, k.key_id;
COMMENT ON VIEW keysmith.expiring_soon IS 'Active keys that end within 30 days, those that end first above';
COMMENT ON COLUMN keysmith.expiring_soon.tenant IS 'The name of the tenant whose key it is';
COMMENT ON COLUMN keysmith.expiring_soon.keyspace IS 'The keyspace of the key';
COMMENT ON COLUMN keysmith.expiring_soon.label IS 'The name of the key, for people';
COMMENT ON COLUMN keysmith.expiring_soon.key_snippet IS 'The prefix and the end of the key, to tell it from its siblings';
COMMENT ON COLUMN keysmith.expiring_soon.environment IS 'The environment of the key, such as live or test';
COMMENT ON COLUMN keysmith.expiring_soon.kind IS 'secret, or publishable for keys that may be seen';
COMMENT ON COLUMN keysmith.expiring_soon.owner IS 'The member of the tenant whose key it is, if it is someone''s';
COMMENT ON COLUMN keysmith.expiring_soon.expires_at IS 'When the key ends';
COMMENT ON COLUMN keysmith.expiring_soon.ends_in IS 'How long that is from now';
COMMENT ON COLUMN keysmith.expiring_soon.last_used_at IS 'When the key was last let in; refused requests are no use of it';
COMMENT ON COLUMN keysmith.expiring_soon.rotated_to IS 'Its successor: one that has none ends without';
COMMENT ON COLUMN keysmith.expiring_soon.key_id IS 'The id of the key; no secret';

CREATE VIEW keysmith_private.all_stale_keys AS
SELECT k.tenant, k.keyspace, k.label, k.key_snippet, k.environment, k.kind, k.owner,
       k.created_at, k.last_used_at,
       pg_catalog.date_trunc('second',
           pg_catalog.clock_timestamp() - coalesce(k.last_used_at, k.created_at)) AS unused_for,
       k.key_id, k.tenant_id
FROM keysmith_private.all_keys k
JOIN keysmith_private.keyspace s USING (keyspace)
WHERE k.status = 'active' AND s.usage_log = 'everything'
  AND coalesce(k.last_used_at < pg_catalog.clock_timestamp() - interval '90 days', true);
SELECT keysmith_private.publish('stale_keys', '{tenant_id}', 'ORDER BY unused_for DESC, key_id');
COMMENT ON VIEW keysmith.stale_keys IS 'Active keys that were never let in, or not for 90 days';
COMMENT ON COLUMN keysmith.stale_keys.tenant IS 'The name of the tenant whose key it is';
COMMENT ON COLUMN keysmith.stale_keys.keyspace IS 'The keyspace of the key';
COMMENT ON COLUMN keysmith.stale_keys.label IS 'The name of the key, for people';
COMMENT ON COLUMN keysmith.stale_keys.key_snippet IS 'The prefix and the end of the key, to tell it from its siblings';
COMMENT ON COLUMN keysmith.stale_keys.environment IS 'The environment of the key, such as live or test';
COMMENT ON COLUMN keysmith.stale_keys.kind IS 'secret, or publishable for keys that may be seen';
COMMENT ON COLUMN keysmith.stale_keys.owner IS 'The member of the tenant whose key it is, if it is someone''s';
COMMENT ON COLUMN keysmith.stale_keys.created_at IS 'When the key was made';
COMMENT ON COLUMN keysmith.stale_keys.last_used_at IS 'When the key was last let in; null for never';
COMMENT ON COLUMN keysmith.stale_keys.unused_for IS 'Since it was last let in, or else made';
COMMENT ON COLUMN keysmith.stale_keys.key_id IS 'The id of the key; no secret';

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
COMMENT ON VIEW keysmith.recent_refusals IS 'What was refused in the last 24 hours, the newest first';
COMMENT ON COLUMN keysmith.recent_refusals.at IS 'When it was decided';
COMMENT ON COLUMN keysmith.recent_refusals.tenant IS 'The name of the tenant whose key it is; null without a known key';
COMMENT ON COLUMN keysmith.recent_refusals.keyspace IS 'The keyspace that was asked; empty for one that does not exist';
COMMENT ON COLUMN keysmith.recent_refusals.environment IS 'The environment of the key, such as live or test';
COMMENT ON COLUMN keysmith.recent_refusals.label IS 'The name of the key, for people';
COMMENT ON COLUMN keysmith.recent_refusals.key_snippet IS 'The prefix and the end of the key, to tell it from its siblings';
COMMENT ON COLUMN keysmith.recent_refusals.reason IS 'The exact cause, for the operator';
COMMENT ON COLUMN keysmith.recent_refusals.status IS 'The HTTP status of the verdict, or what log_request gave in its place; null without a known key';
COMMENT ON COLUMN keysmith.recent_refusals.method IS 'The HTTP method; null if it is not known';
COMMENT ON COLUMN keysmith.recent_refusals.endpoint IS 'The path without its query, or what log_request gave; null if it is not known';
COMMENT ON COLUMN keysmith.recent_refusals.ip IS 'The address that the request came from; null if it is not known';
COMMENT ON COLUMN keysmith.recent_refusals.key_id IS 'Null for requests without a known key, of which samples are kept';
COMMENT ON COLUMN keysmith.recent_refusals.request_id IS 'The name that the verdict gave to the decision';

CREATE FUNCTION keysmith.scopes_used(keyspace text, method text, path text, scopes text[]) RETURNS text[]
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_scopes_used';
COMMENT ON FUNCTION keysmith.scopes_used(text, text, text, text[]) IS
'Those scopes that cover what a route names; null for a request that fits no route';

-- A wildcard is as good as the scopes of the catalogue that it covers, if there is one.
CREATE VIEW keysmith_private.all_overprivileged_keys AS
SELECT t.name AS tenant, k.keyspace, k.label, k.key_snippet, k.scopes,
       ARRAY(SELECT u.scope FROM pg_catalog.unnest(g.scopes) AS u (scope)
             WHERE u.scope <> ALL (r.used) ORDER BY u.scope) AS unused_scopes,
       r.used AS used_scopes, r.requests, r.untold, k.key_id, k.tenant_id, k.environment
FROM keysmith_private.key k
JOIN keysmith_private.tenant t USING (tenant_id)
JOIN keysmith_private.keyspace s ON s.keyspace = k.keyspace
CROSS JOIN LATERAL (
    SELECT coalesce(pg_catalog.array_agg(DISTINCT coalesce(c.scope, h.scope)), '{}') AS scopes
    FROM pg_catalog.unnest(CASE
             WHEN pg_catalog.cardinality(k.scopes) > 0 THEN k.scopes
             WHEN s.empty_scopes = 'all' AND k.role IS NULL AND k.owner IS NULL THEN '{*}' END) AS h (scope)
    LEFT JOIN keysmith_private.scope c ON c.keyspace = k.keyspace
         AND (h.scope = '*' OR h.scope LIKE '%:*'
              AND pg_catalog.starts_with(c.scope, pg_catalog.left(h.scope, -1)))
) AS g
CROSS JOIN LATERAL (
    SELECT ARRAY(SELECT DISTINCT n.scope FROM pg_catalog.unnest(
               pg_catalog.array_agg(pg_catalog.array_to_string(e.used, ' '))) AS l (line),
               pg_catalog.regexp_split_to_table(l.line, ' ') AS n (scope)
               WHERE n.scope <> '' ORDER BY n.scope) AS used,
           pg_catalog.sum(e.requests)::bigint AS requests,
           coalesce(pg_catalog.sum(e.requests) FILTER (WHERE e.used IS NULL), 0)::bigint AS untold,
           pg_catalog.count(e.used) AS told
    FROM (SELECT pg_catalog.count(*) AS requests,
                 keysmith.scopes_used(k.keyspace, v.method, v.endpoint, g.scopes) AS used
          FROM keysmith_private.usage_event v
          WHERE v.key_id = k.key_id AND v.outcome = 'ok'
            AND v.at > pg_catalog.clock_timestamp() - interval '30 days'
          GROUP BY v.method, v.endpoint) AS e
) AS r
WHERE k.revoked_at IS NULL AND k.disabled_at IS NULL
  AND (k.expires_at IS NULL OR k.expires_at > pg_catalog.clock_timestamp())
  AND r.told > 0 AND NOT g.scopes <@ r.used;
SELECT keysmith_private.publish('overprivileged_keys', '{tenant_id,environment}');
COMMENT ON VIEW keysmith.overprivileged_keys IS 'Active keys with scopes that none of their requests of 30 days needed';
COMMENT ON COLUMN keysmith.overprivileged_keys.tenant IS 'The name of the tenant whose key it is';
COMMENT ON COLUMN keysmith.overprivileged_keys.keyspace IS 'The keyspace of the key';
COMMENT ON COLUMN keysmith.overprivileged_keys.label IS 'The name of the key, for people';
COMMENT ON COLUMN keysmith.overprivileged_keys.key_snippet IS 'The prefix and the end of the key, to tell it from its siblings';
COMMENT ON COLUMN keysmith.overprivileged_keys.scopes IS 'Its own scopes; what a key with none may do is for its keyspace to say';
COMMENT ON COLUMN keysmith.overprivileged_keys.unused_scopes IS 'Its scopes that no route it used names; wildcards by the catalogue';
COMMENT ON COLUMN keysmith.overprivileged_keys.used_scopes IS 'Its scopes that a route it used names';
COMMENT ON COLUMN keysmith.overprivileged_keys.requests IS 'How often it was let in';
COMMENT ON COLUMN keysmith.overprivileged_keys.untold IS 'How many of these fit no route, and so may have needed anything';
COMMENT ON COLUMN keysmith.overprivileged_keys.key_id IS 'The id of the key; no secret';
