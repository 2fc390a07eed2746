-- The scopes that keys have, compared with those that their requests need.

CREATE FUNCTION keysmith_private.scopes_used(keyspace text, method text, path text, scopes text[]) RETURNS text[]
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_scopes_used';
COMMENT ON FUNCTION keysmith_private.scopes_used(text, text, text, text[]) IS
'The given scopes that cover the scopes of a route; null if the request matches no route';

-- If the keyspace has a catalogue of scopes, a wildcard counts as the scopes that it covers.
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
                 keysmith_private.scopes_used(k.keyspace, v.method, v.endpoint, g.scopes) AS used
          FROM keysmith_private.usage_event v
          WHERE v.key_id = k.key_id AND v.outcome = 'ok'
            AND v.at > pg_catalog.clock_timestamp() - interval '30 days'
          GROUP BY v.method, v.endpoint) AS e
) AS r
WHERE k.revoked_at IS NULL AND k.disabled_at IS NULL
  -- Of the others it is not known what all requests needed.
  AND s.usage_log = 'everything'
  AND coalesce(least(k.expires_at, k.created_at + t.max_lifetime, k.created_at + s.max_lifetime) > pg_catalog.clock_timestamp(), true)
  AND r.told > 0 AND NOT g.scopes <@ r.used;
SELECT keysmith_private.publish('overprivileged_keys', '{tenant_id,environment}');
COMMENT ON VIEW keysmith.overprivileged_keys IS 'Active keys with scopes that no request of the last 30 days needed';
COMMENT ON COLUMN keysmith.overprivileged_keys.tenant IS 'The name of the tenant that the key belongs to';
COMMENT ON COLUMN keysmith.overprivileged_keys.keyspace IS 'The keyspace of the key';
COMMENT ON COLUMN keysmith.overprivileged_keys.label IS 'The name of the key, for people';
COMMENT ON COLUMN keysmith.overprivileged_keys.key_snippet IS 'The prefix and the end of the key, by which people recognize it';
COMMENT ON COLUMN keysmith.overprivileged_keys.scopes IS 'The scopes of the key; if it has no scopes, its keyspace says which apply';
COMMENT ON COLUMN keysmith.overprivileged_keys.unused_scopes IS 'The scopes that no route it used requires; a wildcard stands for the scopes that it covers';
COMMENT ON COLUMN keysmith.overprivileged_keys.used_scopes IS 'The scopes that a route it used requires';
COMMENT ON COLUMN keysmith.overprivileged_keys.requests IS 'The number of accepted requests';
COMMENT ON COLUMN keysmith.overprivileged_keys.untold IS 'The number of these that matched no route, and so may have needed any scope';
COMMENT ON COLUMN keysmith.overprivileged_keys.key_id IS 'The id of the key; it is not secret';
