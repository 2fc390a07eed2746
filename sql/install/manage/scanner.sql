-- Patterns for scanners, which search code and logs for leaked keys.

CREATE FUNCTION keysmith.scanner_patterns(
    keyspace text DEFAULT NULL,
    OUT keyspace text,
    OUT name text,
    OUT regex text
) RETURNS SETOF record
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'keysmith_scanner_patterns';
COMMENT ON FUNCTION keysmith.scanner_patterns(text) IS
'Regular expressions that match secret keys; one for each keyspace, for scanners of leaks';
