-- Which key changed how many rows of which table: a row a statement, in the same
-- transaction as what it tells of.

CREATE TABLE keysmith_private.touch (
    key_id     uuid NOT NULL,
    tenant_id  uuid NOT NULL,
    schema     text NOT NULL,
    relation   text NOT NULL,
    operation  text COLLATE "C" NOT NULL,
    rows       bigint,
    first_at   timestamptz NOT NULL,
    last_at    timestamptz NOT NULL,
    request_id uuid
);
-- One index for both who asks for a key and who looks for what is old, key by key: each
-- more would cost every statement on a tracked table.
CREATE INDEX touch_of_key ON keysmith_private.touch (key_id, last_at);
COMMENT ON TABLE keysmith_private.touch IS 'What keys did to tracked tables; old statements are summed up';
COMMENT ON COLUMN keysmith_private.touch.relation IS 'What the table was called then';
COMMENT ON COLUMN keysmith_private.touch.rows IS 'How many rows; null where no one counted, as for TRUNCATE';

DO $$
BEGIN
    PERFORM pg_catalog.pg_extension_config_dump('keysmith_private.touch', '');
END $$;

CREATE FUNCTION keysmith.log_usage() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_log_usage';
COMMENT ON FUNCTION keysmith.log_usage() IS
'Statement trigger for application tables: notes which key changed how many rows; see track';

-- These lock the table by its OID, check that the caller owns it, and never look its name up.
CREATE FUNCTION keysmith.track(relation regclass) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_track';
COMMENT ON FUNCTION keysmith.track(regclass) IS
'Has statements that change a table noted, with the key that acts';

CREATE FUNCTION keysmith.untrack(relation regclass) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_untrack';
COMMENT ON FUNCTION keysmith.untrack(regclass) IS 'Undoes track; what was noted stays';

CREATE VIEW keysmith_private.all_touches AS
SELECT t.key_id, n.name AS tenant, n.keyspace, t.schema, t.relation, t.operation, t.rows,
       t.first_at, t.last_at, t.request_id, t.tenant_id,
       (SELECT k.environment FROM keysmith_private.key k WHERE k.key_id = t.key_id) AS environment
FROM keysmith_private.touch t
JOIN keysmith_private.tenant n USING (tenant_id);
SELECT keysmith_private.publish('touches', '{environment}');
COMMENT ON VIEW keysmith.touches IS 'What keys did to tracked tables; old statements are summed up';
COMMENT ON COLUMN keysmith.touches.key_id IS 'The id of the key; no secret';
COMMENT ON COLUMN keysmith.touches.tenant IS 'The name of the tenant whose key it is';
COMMENT ON COLUMN keysmith.touches.keyspace IS 'The keyspace of the key';
COMMENT ON COLUMN keysmith.touches.schema IS 'The schema that the table was in then';
COMMENT ON COLUMN keysmith.touches.relation IS 'What the table was called then';
COMMENT ON COLUMN keysmith.touches.operation IS 'insert, update, delete or truncate';
COMMENT ON COLUMN keysmith.touches.rows IS 'How many rows; null where no one counted, as for TRUNCATE';
COMMENT ON COLUMN keysmith.touches.first_at IS 'When the statement ran, or the first of those that were summed up';
COMMENT ON COLUMN keysmith.touches.last_at IS 'When the statement ran, or the last of those that were summed up';
COMMENT ON COLUMN keysmith.touches.request_id IS 'The name that the verdict gave to the decision; null for what was summed up';
COMMENT ON COLUMN keysmith.touches.tenant_id IS 'The id of the tenant';

CREATE FUNCTION keysmith.blast_radius(
    key_id uuid,
    OUT relation text,
    OUT rows bigint,
    OUT first_at timestamptz,
    OUT last_at timestamptz
) RETURNS SETOF record
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_blast_radius';
COMMENT ON FUNCTION keysmith.blast_radius(uuid) IS
'Which tracked tables a key changed, and how many of their rows';
