-- Keys as they are shown: never a digest, never a secret.

-- What the caller may see. In a view, whose tables are read with its owner's rights,
-- these still look at who asks; as sub-selects they are evaluated once a query.
CREATE FUNCTION keysmith.sees_everything() RETURNS boolean
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_sees_everything';
COMMENT ON FUNCTION keysmith.sees_everything() IS
'Whether the caller sees all tenants: administrators and auditors who act for no key';

CREATE FUNCTION keysmith.own_tenants() RETURNS uuid[]
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_own_tenants';
COMMENT ON FUNCTION keysmith.own_tenants() IS
'The tenants that the caller sees, if it does not see all';

CREATE VIEW keysmith.key_listing WITH (security_barrier) AS
SELECT k.key_id,
       t.name AS tenant,
       k.keyspace,
       k.label,
       CASE
           WHEN k.revoked_at IS NOT NULL THEN 'revoked'
           WHEN k.expires_at <= pg_catalog.clock_timestamp() THEN 'expired'
           WHEN k.disabled_at IS NOT NULL THEN 'disabled'
           ELSE 'active'
       END AS status,
       k.kind,
       k.environment,
       k.key_prefix,
       k.key_snippet,
       k.scopes,
       k.role,
       k.owner,
       k.allowlist,
       (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
               'name', l.part[4], 'limit', l.part[1]::bigint, 'window', l.part[2],
               'burst', l.part[3]::bigint) ORDER BY l.n)
        FROM pg_catalog.regexp_matches(k.limits, '^(\d+)/([^/]+)/(\d+)/(.*)$', 'gn')
             WITH ORDINALITY AS l (part, n)) AS limits,
       CASE
           WHEN c.refilled_at < pg_catalog.date_trunc(c.every, pg_catalog.clock_timestamp(), 'UTC')
           THEN greatest(c.balance, c.refill)
           ELSE c.balance
       END AS credits,
       k.expires_at,
       k.created_at,
       k.created_by,
       -- Folded or not. Who does not ask for the column does not pay for it.
       greatest((SELECT l.used_at FROM keysmith.usage_last l WHERE l.key_id = k.key_id),
                (SELECT pg_catalog.max(d.used_at) FROM keysmith.usage_delta d
                 WHERE d.tenant_id = k.tenant_id AND d.key_id = k.key_id)) AS last_used_at,
       k.revoked_at,
       k.revoked_reason,
       k.rotated_to,
       k.metadata,
       k.display_id
FROM keysmith.key k
JOIN keysmith.tenant t USING (tenant_id)
LEFT JOIN keysmith.credit c ON c.key_id = coalesce(k.origin, k.key_id);
COMMENT ON VIEW keysmith.key_listing IS 'All keys, for the functions of this extension';

CREATE VIEW keysmith.keys WITH (security_barrier) AS
SELECT *
FROM keysmith.key_listing l
WHERE (SELECT keysmith.sees_everything())
   OR l.key_id IN (
       SELECT k.key_id FROM keysmith.key k
       WHERE k.tenant_id = ANY ((SELECT keysmith.own_tenants())::uuid[]));
COMMENT ON VIEW keysmith.keys IS 'Every key, as it may be shown';
COMMENT ON COLUMN keysmith.keys.status IS 'active, disabled, expired or revoked, as of now';
COMMENT ON COLUMN keysmith.keys.key_prefix IS 'The beginning of the key, to tell it from its siblings';
COMMENT ON COLUMN keysmith.keys.key_snippet IS 'The prefix and the end of the key, to tell it from its siblings';
COMMENT ON COLUMN keysmith.keys.limits IS 'Its own rate limits; those of its tenant, keyspace and routes hold besides';
COMMENT ON COLUMN keysmith.keys.credits IS 'Its own credits that are left; null where its tenant pays, if anyone does';
COMMENT ON COLUMN keysmith.keys.last_used_at IS 'When the key was last let in; refused requests are no use of it';
COMMENT ON COLUMN keysmith.keys.display_id IS 'The id that the product shows for the key, where its keyspace has a template for one';
COMMENT ON COLUMN keysmith.keys.rotated_to IS 'The key that took its place';

CREATE VIEW keysmith.routes WITH (security_barrier) AS
SELECT keyspace, method, pattern, nullif(variant, '') AS variant, scopes, kind, weight,
       (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
               'name', l.part[4], 'limit', l.part[1]::bigint, 'window', l.part[2],
               'burst', l.part[3]::bigint) ORDER BY l.n)
        FROM pg_catalog.regexp_matches(r.limits, '^(\d+)/([^/]+)/(\d+)/(.*)$', 'gn')
             WITH ORDINALITY AS l (part, n)) AS limits
FROM keysmith.route r;
COMMENT ON VIEW keysmith.routes IS 'What each route of a keyspace requires';

-- What a new key is returned as. No other value ever holds api_key.
CREATE TYPE keysmith.minted AS (
    key_id      uuid,
    api_key     text,
    key_prefix  text,
    key_snippet text,
    label       text,
    environment text,
    kind        text,
    scopes      text[],
    expires_at  timestamptz,
    created_at  timestamptz,
    display_id  text
);
COMMENT ON TYPE keysmith.minted IS 'A new key; api_key is shown this once';
