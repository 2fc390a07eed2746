-- Keys as they are shown: never a digest, never a secret.

CREATE VIEW keysmith.keys WITH (security_barrier) AS
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
       NULL::jsonb AS limits,
       NULL::bigint AS credits,
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
JOIN keysmith.tenant t USING (tenant_id);
COMMENT ON VIEW keysmith.keys IS 'Every key, as it may be shown';
COMMENT ON COLUMN keysmith.keys.status IS 'active, disabled, expired or revoked, as of now';
COMMENT ON COLUMN keysmith.keys.key_prefix IS 'The beginning of the key, to tell it from its siblings';
COMMENT ON COLUMN keysmith.keys.key_snippet IS 'The prefix and the end of the key, to tell it from its siblings';
COMMENT ON COLUMN keysmith.keys.limits IS 'Rate limits; this version has none';
COMMENT ON COLUMN keysmith.keys.credits IS 'Credits that are left; this version has none';
COMMENT ON COLUMN keysmith.keys.last_used_at IS 'When the key was last let in; refused requests are no use of it';
COMMENT ON COLUMN keysmith.keys.display_id IS 'The id that the product shows for the key, where its keyspace has a template for one';
COMMENT ON COLUMN keysmith.keys.rotated_to IS 'The key that took its place';

CREATE VIEW keysmith.routes WITH (security_barrier) AS
SELECT keyspace, method, pattern, nullif(variant, '') AS variant, scopes, kind
FROM keysmith.route;
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
