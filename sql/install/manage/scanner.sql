-- For those who search code and logs for leaked keys.

CREATE FUNCTION keysmith.scanner_patterns(
    keyspace text DEFAULT NULL,
    OUT keyspace text,
    OUT name text,
    OUT regex text
) RETURNS SETOF record
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'keysmith_scanner_patterns';
COMMENT ON FUNCTION keysmith.scanner_patterns(text) IS
'For each keyspace a regular expression of its secret keys, for scanners that look for leaked ones';
