-- Endpoints: requests that serve() answers itself.

CREATE FUNCTION keysmith.define_endpoint(
    keyspace text,
    method text,
    pattern text,
    operation text,
    request jsonb DEFAULT NULL,
    response jsonb DEFAULT NULL,
    status integer DEFAULT NULL
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_define_endpoint';
COMMENT ON FUNCTION keysmith.define_endpoint(text, text, text, text, jsonb, jsonb, integer) IS
'Defines a request that serve answers itself; by an operation on keys';

CREATE FUNCTION keysmith.remove_endpoint(keyspace text, method text, pattern text) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_remove_endpoint';
COMMENT ON FUNCTION keysmith.remove_endpoint(text, text, text) IS
'Removes an endpoint; the application answers the request from then on';

CREATE VIEW keysmith.endpoints WITH (security_barrier) AS
SELECT keyspace, method, pattern, operation, request::jsonb AS request, response::jsonb AS response, status
FROM keysmith_private.endpoint;
COMMENT ON VIEW keysmith.endpoints IS 'The requests that serve answers itself';
COMMENT ON COLUMN keysmith.endpoints.keyspace IS 'The keyspace of the endpoint';
COMMENT ON COLUMN keysmith.endpoints.method IS 'The HTTP method';
COMMENT ON COLUMN keysmith.endpoints.pattern IS 'The paths that match, such as /v1/keys/{id}';
COMMENT ON COLUMN keysmith.endpoints.operation IS 'The operation that answers, such as mint';
COMMENT ON COLUMN keysmith.endpoints.request IS 'The fields that arguments come from; null for the names of the arguments';
COMMENT ON COLUMN keysmith.endpoints.response IS 'The template of the answer; null for the usual one';
COMMENT ON COLUMN keysmith.endpoints.status IS 'The status of the answer; null for the usual one';
