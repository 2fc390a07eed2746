-- Credits, which administrators give.

CREATE FUNCTION keysmith.add_credits(
    amount bigint,
    key_id uuid DEFAULT NULL,
    tenant text DEFAULT NULL,
    keyspace text DEFAULT 'default'
) RETURNS bigint
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_add_credits';
COMMENT ON FUNCTION keysmith.add_credits(bigint, uuid, text, text) IS
'Adds credits to a key or a tenant, and returns the new balance';
