-- Digests of values, and look-ups by them.

CREATE FUNCTION keysmith.digest(value text, algorithm text DEFAULT 'sha256') RETURNS text
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'keysmith_digest_text';
COMMENT ON FUNCTION keysmith.digest(text, text) IS
'The digest that a protected column of text stores for a value; by sha256, or hmac with a pepper';

CREATE FUNCTION keysmith.digest(value bytea, algorithm text DEFAULT 'sha256') RETURNS bytea
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'keysmith_digest_bytes';
COMMENT ON FUNCTION keysmith.digest(bytea, text) IS
'The digest that a protected column of bytea stores for a value; by sha256, or hmac with a pepper';

CREATE FUNCTION keysmith.digests(value text) RETURNS text[]
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'keysmith_digests_text';
COMMENT ON FUNCTION keysmith.digests(text) IS
'All digests that a protected column may store for a value; email = ANY (keysmith.digests($1))';

CREATE FUNCTION keysmith.digests(value bytea) RETURNS bytea[]
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'keysmith_digests_bytes';
COMMENT ON FUNCTION keysmith.digests(bytea) IS
'All digests that a protected column may store for a value; under any pepper';

CREATE FUNCTION keysmith.is_digest(stored text) RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'keysmith_is_digest_text';
COMMENT ON FUNCTION keysmith.is_digest(text) IS 'Whether a text has the form of a stored digest';

CREATE FUNCTION keysmith.is_digest(stored bytea) RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'keysmith_is_digest_bytes';
COMMENT ON FUNCTION keysmith.is_digest(bytea) IS 'Whether bytes have the form of a stored digest';

CREATE FUNCTION keysmith_private.matches_support(request internal) RETURNS internal
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'keysmith_matches_support';
COMMENT ON FUNCTION keysmith_private.matches_support(internal) IS
'Planner support: looks up matches in an index';

CREATE FUNCTION keysmith.matches(value text, stored text) RETURNS boolean
LANGUAGE c STABLE STRICT LEAKPROOF PARALLEL SAFE SUPPORT keysmith_private.matches_support
AS 'MODULE_PATHNAME', 'keysmith_matches_text';
COMMENT ON FUNCTION keysmith.matches(text, text) IS
'Whether the second argument is a digest of the first; uses an index of the column';

CREATE FUNCTION keysmith.matches(value bytea, stored bytea) RETURNS boolean
LANGUAGE c STABLE STRICT LEAKPROOF PARALLEL SAFE SUPPORT keysmith_private.matches_support
AS 'MODULE_PATHNAME', 'keysmith_matches_bytes';
COMMENT ON FUNCTION keysmith.matches(bytea, bytea) IS
'Whether the second argument is a digest of the first; uses an index of the column';
