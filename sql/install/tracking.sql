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

CREATE FUNCTION keysmith_private.sum_up_touches(oldest timestamptz) RETURNS bigint
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    -- What a leaked key touched long ago still matters, statement by statement no more.
    WITH RECURSIVE keys AS (
        (SELECT key_id FROM keysmith_private.touch ORDER BY key_id LIMIT 1)
        UNION ALL
        SELECT (SELECT t.key_id FROM keysmith_private.touch t WHERE t.key_id > k.key_id ORDER BY t.key_id LIMIT 1)
        FROM keys k WHERE k.key_id IS NOT NULL
    ), old AS (
        DELETE FROM keysmith_private.touch t USING keys k
        WHERE t.key_id = k.key_id AND t.last_at < oldest RETURNING t.*
    ), summed AS (
        INSERT INTO keysmith_private.touch
            (key_id, tenant_id, schema, relation, operation, rows, first_at, last_at)
        SELECT key_id, tenant_id, schema, relation, operation, sum(rows), min(first_at), max(last_at)
        FROM old GROUP BY 1, 2, 3, 4, 5
    )
    SELECT count(*) - count(DISTINCT (key_id, schema, relation, operation)) FROM old
$$;
COMMENT ON FUNCTION keysmith_private.sum_up_touches(timestamptz) IS
'Sums up what was noted before a time, and tells how many notes fewer there are';
