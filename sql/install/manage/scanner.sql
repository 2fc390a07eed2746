-- Patterns for scanners, which search code and logs for leaked keys.

CREATE FUNCTION keysmith.scanner_patterns(
    keyspace text DEFAULT NULL,
    OUT keyspace text,
    OUT name text,
    OUT regex text
) RETURNS SETOF record
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'keysmith_scanner_patterns';
COMMENT ON FUNCTION keysmith.scanner_patterns(text) IS
'A regular expression for the secret keys of each keyspace, for scanners that look for leaked keys';
