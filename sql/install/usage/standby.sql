-- The function that workers of standbys call on the primary. The role by which they connect
-- needs EXECUTE on it.

CREATE FUNCTION keysmith.usage_collect(
    standby text,
    incarnation bigint,
    most_waiting bigint,
    started_cleanly boolean,
    dropped bigint,
    records bytea,
    unknown_mark bigint,
    unknown bytea,
    samples bytea,
    OUT last_sequence bigint,
    OUT unknown_seen bigint
) RETURNS SETOF record
LANGUAGE c ROWS 1 AS 'MODULE_PATHNAME', 'keysmith_usage_collect';
COMMENT ON FUNCTION keysmith.usage_collect(text, bigint, bigint, boolean, bigint, bytea, bigint, bytea, bytea) IS
'Stores usage records of a standby; its worker calls this on the primary';
