-- Verdicts over HTTP: headers and bodies.

CREATE FUNCTION keysmith.response_headers(verdict keysmith.verdict) RETURNS jsonb
LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_response_headers';
COMMENT ON FUNCTION keysmith.response_headers(keysmith.verdict) IS
'The HTTP headers for a verdict; challenges, times to wait and rate limits';

CREATE FUNCTION keysmith.problem(verdict keysmith.verdict) RETURNS jsonb
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'keysmith_problem';
COMMENT ON FUNCTION keysmith.problem(keysmith.verdict) IS
'A refusal as the JSON object of RFC 9457; null if the request may go on';
