-- Tokens that are made from keys.

CREATE FUNCTION keysmith.derive_token(
    api_key text DEFAULT NULL,
    ttl interval DEFAULT '15 minutes',
    scopes text[] DEFAULT NULL,
    allowlist cidr[] DEFAULT NULL,
    audience text DEFAULT NULL,
    claims jsonb DEFAULT NULL,
    keyspace text DEFAULT 'default',
    OUT token text,
    OUT token_id uuid,
    OUT expires_at timestamptz
) RETURNS SETOF record
LANGUAGE c PARALLEL RESTRICTED ROWS 1 AS 'MODULE_PATHNAME', 'keysmith_derive_token';
COMMENT ON FUNCTION keysmith.derive_token(text, interval, text[], cidr[], text, jsonb, text) IS
'Makes a token of a key; it is stored nowhere, ends with the key, and others can check it offline';

CREATE FUNCTION keysmith.jwks(keyspace text DEFAULT 'default') RETURNS jsonb
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_jwks';
COMMENT ON FUNCTION keysmith.jwks(text) IS
'The public keys that check the keyspace''s tokens; a JWK set for other services';
