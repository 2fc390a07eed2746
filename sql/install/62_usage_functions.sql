-- Usage, as applications complete it and operators watch it.

CREATE FUNCTION keysmith.log_request(
    status_code integer DEFAULT NULL,
    latency interval DEFAULT NULL,
    endpoint text DEFAULT NULL,
    method text DEFAULT NULL,
    request_id uuid DEFAULT NULL
) RETURNS boolean
LANGUAGE c PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_log_request';
COMMENT ON FUNCTION keysmith.log_request(integer, interval, text, text, uuid) IS
'Completes the record of a request; of the newest in this transaction, or of the one that is named';

CREATE FUNCTION keysmith.usage_status(OUT name text, OUT value text) RETURNS SETOF record
LANGUAGE c ROWS 30 AS 'MODULE_PATHNAME', 'keysmith_usage_status';
COMMENT ON FUNCTION keysmith.usage_status() IS
'How usage records fare: room, counts since the start of the server, the worker, losses';

CREATE FUNCTION keysmith.flush_usage(timeout interval DEFAULT '10 seconds') RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_flush_usage';
COMMENT ON FUNCTION keysmith.flush_usage(interval) IS
'Returns when all usage records that were made up to now in this database are stored';
