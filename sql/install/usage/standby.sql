-- Usage of standbys: what their workers call on the primary. The right to call it is to
-- be granted to the role by which they connect.

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
'Stores usage records that a standby hands over, each once, and tells up to which they are stored';
