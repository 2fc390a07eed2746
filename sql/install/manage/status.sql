-- What there is, in numbers.

CREATE FUNCTION keysmith.status(
    OUT topic text,
    OUT name text,
    OUT value text
) RETURNS SETOF record
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'keysmith_status';
COMMENT ON FUNCTION keysmith.status() IS
'Counters: keys by state and by pepper, rate limits since the last start, usage and its worker';
