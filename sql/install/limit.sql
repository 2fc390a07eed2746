-- The state of rate limits.

CREATE FUNCTION keysmith.limit_status(
    OUT available boolean,
    OUT buckets integer,
    OUT max_buckets integer,
    OUT unavailable bigint,
    OUT last_unavailable_at timestamptz,
    OUT since timestamptz,
    OUT unsettled_lost bigint,
    OUT failing_addresses integer,
    OUT max_failing_addresses integer,
    OUT uncounted_failures bigint,
    OUT last_uncounted_at timestamptz
) RETURNS SETOF record
LANGUAGE c PARALLEL RESTRICTED ROWS 1 AS 'MODULE_PATHNAME', 'keysmith_limit_status';
COMMENT ON FUNCTION keysmith.limit_status() IS
'The state of rate limits in one row; whether calls are counted, and the buckets in use';
