-- Deciding before PostgREST does what a request asks for.

CREATE FUNCTION keysmith.pre_request() RETURNS void
LANGUAGE c PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_pre_request';
COMMENT ON FUNCTION keysmith.pre_request() IS
'PostgREST''s db-pre-request: authenticates by request.headers, request.method and request.path, and raises PT401, PT403 or PT429';
