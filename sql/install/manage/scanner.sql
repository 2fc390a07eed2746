-- Patterns for scanners, which search code and logs for leaked keys.

CREATE FUNCTION keysmith.scanner_patterns(
    keyspace text DEFAULT NULL,
    format text DEFAULT 'regex',
    OUT keyspace text,
    OUT name text,
    OUT regex text,
    OUT rule text
) RETURNS SETOF record
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'keysmith_scanner_patterns';
COMMENT ON FUNCTION keysmith.scanner_patterns(text, text) IS
'Regular expressions that match secret keys; one for each keyspace, also as rules of gitleaks or trufflehog';
