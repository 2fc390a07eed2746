-- log_request(), by which applications complete records.

CREATE FUNCTION keysmith.log_request(
    status_code integer DEFAULT NULL,
    latency interval DEFAULT NULL,
    endpoint text DEFAULT NULL,
    method text DEFAULT NULL,
    request_id uuid DEFAULT NULL,
    tags jsonb DEFAULT NULL
) RETURNS boolean
LANGUAGE c PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_log_request';
COMMENT ON FUNCTION keysmith.log_request(integer, interval, text, text, uuid, jsonb) IS
'Completes the record of a request; the newest in this transaction, or the one with the given id';
