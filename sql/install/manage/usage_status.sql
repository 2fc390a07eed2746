-- The state of usage records.

CREATE FUNCTION keysmith.usage_status(OUT name text, OUT value text) RETURNS SETOF record
LANGUAGE c ROWS 30 AS 'MODULE_PATHNAME', 'keysmith_usage_status';
COMMENT ON FUNCTION keysmith.usage_status() IS
'The state of usage records: queue, worker, and what was lost';

CREATE FUNCTION keysmith.flush_usage(timeout interval DEFAULT '10 seconds') RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_flush_usage';
COMMENT ON FUNCTION keysmith.flush_usage(interval) IS
'Waits until all usage records made so far are stored; those of this database';
