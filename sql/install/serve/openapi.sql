-- The description of an API.

CREATE FUNCTION keysmith.openapi(keyspace text DEFAULT 'default') RETURNS jsonb
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_openapi';
COMMENT ON FUNCTION keysmith.openapi(text) IS
'The OpenAPI document of a keyspace''s endpoints and routes; for its customers';
