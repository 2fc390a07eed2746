-- The state of rate limits.

CREATE FUNCTION keysmith.limit_status(OUT name text, OUT value text) RETURNS SETOF record
LANGUAGE c PARALLEL RESTRICTED ROWS 5 AS 'MODULE_PATHNAME', 'keysmith_limit_status';
COMMENT ON FUNCTION keysmith.limit_status() IS
'Whether limits are counted, and how many buckets are in use';
