-- The key service over HTTP.

CREATE TYPE keysmith_private.response AS (
    handled    boolean,
    status     integer,
    headers    jsonb,
    body       jsonb,
    request_id uuid,
    ok         boolean,
    tenant     text,
    key_id     uuid
);
CREATE DOMAIN keysmith.response AS keysmith_private.response;
COMMENT ON DOMAIN keysmith.response IS 'An answer, as serve returns it: for variables';
COMMENT ON TYPE keysmith_private.response IS 'The answer to a request, or the word that the application is to answer it';
COMMENT ON COLUMN keysmith_private.response.handled IS 'Whether this is the whole answer; if not, the application goes on';
COMMENT ON COLUMN keysmith_private.response.status IS 'The HTTP status';
COMMENT ON COLUMN keysmith_private.response.headers IS 'The headers; if the application goes on, it adds them to its answer';
COMMENT ON COLUMN keysmith_private.response.body IS 'The body; null for none';
COMMENT ON COLUMN keysmith_private.response.request_id IS 'The request_id of the verdict';
COMMENT ON COLUMN keysmith_private.response.ok IS 'Whether the request was let through';
COMMENT ON COLUMN keysmith_private.response.tenant IS 'The name of the tenant that the transaction acts for';
COMMENT ON COLUMN keysmith_private.response.key_id IS 'The id of the key that the transaction acts for';

CREATE FUNCTION keysmith.serve(
    headers jsonb,
    method text,
    path text,
    body jsonb DEFAULT NULL,
    ip inet DEFAULT NULL,
    keyspace text DEFAULT 'default',
    variant text DEFAULT NULL,
    spend bigint DEFAULT 0,
    peer inet DEFAULT NULL,
    weights jsonb DEFAULT NULL,
    subject text DEFAULT NULL
) RETURNS keysmith_private.response
LANGUAGE c PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'keysmith_serve';
COMMENT ON FUNCTION keysmith.serve(jsonb, text, text, jsonb, inet, text, text, bigint, inet, jsonb, text) IS
'Decides about a request, and answers it if it is an endpoint''s; one call per request';
