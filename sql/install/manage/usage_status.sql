-- Usage records, as operators watch them.

CREATE FUNCTION keysmith.usage_status(OUT name text, OUT value text) RETURNS SETOF record
LANGUAGE c ROWS 30 AS 'MODULE_PATHNAME', 'keysmith_usage_status';
COMMENT ON FUNCTION keysmith.usage_status() IS
'How usage records fare: room, counts since the start of the server, the worker, losses';

CREATE FUNCTION keysmith.flush_usage(timeout interval DEFAULT '10 seconds') RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_flush_usage';
COMMENT ON FUNCTION keysmith.flush_usage(interval) IS
'Returns when all usage records that were made up to now in this database are stored';
