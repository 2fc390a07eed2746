-- The state of usage records.

CREATE FUNCTION keysmith.usage_status(
    OUT mode text,
    OUT node text,
    OUT incarnation bigint,
    OUT since timestamptz,
    OUT capacity integer,
    OUT share integer,
    OUT used integer,
    OUT waiting bigint,
    OUT pending integer,
    OUT accepted bigint,
    OUT stored bigint,
    OUT amendments bigint,
    OUT amendments_unmatched bigint,
    OUT written_through bigint,
    OUT dropped bigint,
    OUT last_dropped_at timestamptz,
    OUT discarded bigint,
    OUT not_logged bigint,
    OUT quarantined bigint,
    OUT unknown bigint,
    OUT unknown_stored bigint,
    OUT worker text,
    OUT worker_pid integer,
    OUT failed_starts bigint,
    OUT failures bigint,
    OUT last_error text,
    OUT last_error_at timestamptz,
    OUT last_flush timestamptz,
    OUT oldest_waiting_since timestamptz,
    OUT losses bigint,
    OUT lost_at_most bigint,
    OUT lost_from timestamptz,
    OUT lost_until timestamptz
) RETURNS SETOF record
LANGUAGE c ROWS 1 AS 'MODULE_PATHNAME', 'keysmith_usage_status';
COMMENT ON FUNCTION keysmith.usage_status() IS
'The state of usage records in one row; the queue, counts since the start, the worker, and losses';

CREATE FUNCTION keysmith.flush_usage(timeout interval DEFAULT '10 seconds') RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_flush_usage';
COMMENT ON FUNCTION keysmith.flush_usage(interval) IS
'Waits until all usage records made so far are stored; those of this database';

CREATE FUNCTION keysmith_private.nodes(
    OUT node text, OUT name text, OUT is_standby boolean, OUT heard_at timestamptz, OUT most_waiting bigint,
    OUT stored bigint, OUT dropped bigint, OUT losses bigint, OUT lost_at_most bigint,
    OUT lost_from timestamptz, OUT lost_until timestamptz
) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT n.node, n.node_name, n.primary_since IS NULL AND n.lost_at_most IS NULL,
           coalesce(n.last_flush_at, n.started_at), n.most_waiting,
           n.all_stored, n.all_dropped, n.losses, n.all_lost_at_most, n.all_lost_from, n.all_lost_until
    FROM (SELECT DISTINCT ON (i.node) i.*,
                 (sum(i.stored) OVER per_node)::bigint AS all_stored,
                 (sum(i.dropped) OVER per_node)::bigint AS all_dropped,
                 count(i.lost_at_most) OVER per_node AS losses,
                 (sum(i.lost_at_most) OVER per_node)::bigint AS all_lost_at_most,
                 min(i.lost_from) OVER per_node AS all_lost_from,
                 max(i.lost_until) OVER per_node AS all_lost_until
          FROM keysmith_private.usage_incarnation i
          WHERE i.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
          WINDOW per_node AS (PARTITION BY i.node)
          ORDER BY i.node, i.incarnation DESC) AS n
$$;
COMMENT ON FUNCTION keysmith_private.nodes() IS 'The rows of the view usage_nodes';

CREATE FUNCTION keysmith_private.shown_nodes(
    OUT node text, OUT name text, OUT is_standby boolean, OUT heard_at timestamptz, OUT most_waiting bigint,
    OUT stored bigint, OUT dropped bigint, OUT losses bigint, OUT lost_at_most bigint,
    OUT lost_from timestamptz, OUT lost_until timestamptz
) RETURNS SETOF record
LANGUAGE c STABLE ROWS 5 AS 'MODULE_PATHNAME', 'keysmith_usage_nodes';
COMMENT ON FUNCTION keysmith_private.shown_nodes() IS
'The rows of the view usage_nodes, for callers who see everything';

CREATE VIEW keysmith.usage_nodes WITH (security_barrier) AS
SELECT n.* FROM keysmith_private.shown_nodes() n ORDER BY n.name, n.node;
COMMENT ON VIEW keysmith.usage_nodes IS 'The servers that hold or held usage records of this database in memory: the primary, standbys, former servers';
COMMENT ON COLUMN keysmith.usage_nodes.node IS 'The identity of the server, which no other server has';
COMMENT ON COLUMN keysmith.usage_nodes.name IS 'The name of the server, for display';
COMMENT ON COLUMN keysmith.usage_nodes.is_standby IS 'Whether it was a standby when last heard of, and its records are not reported as lost';
COMMENT ON COLUMN keysmith.usage_nodes.heard_at IS 'The time when the last records of it were stored, or else when it started';
COMMENT ON COLUMN keysmith.usage_nodes.most_waiting IS 'The number of records that its memory can hold: so many are lost at most if it never returns';
COMMENT ON COLUMN keysmith.usage_nodes.stored IS 'The number of its records that are stored';
COMMENT ON COLUMN keysmith.usage_nodes.dropped IS 'The number of its records that were lost because there was no room';
COMMENT ON COLUMN keysmith.usage_nodes.losses IS 'How often it ended and may have lost records';
COMMENT ON COLUMN keysmith.usage_nodes.lost_at_most IS 'The number of records that were lost then, at most; null if it never ended so';
COMMENT ON COLUMN keysmith.usage_nodes.lost_from IS 'The lost records were made between this time and lost_until';
COMMENT ON COLUMN keysmith.usage_nodes.lost_until IS 'The lost records were made before this time';
