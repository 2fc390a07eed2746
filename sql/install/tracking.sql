-- The changes that keys make to tracked tables: one row per statement, written in the same
-- transaction.

CREATE TABLE keysmith_private.touch (
    key_id     uuid NOT NULL,
    tenant_id  uuid NOT NULL,
    schema     text NOT NULL,
    relation   text NOT NULL,
    operation  text COLLATE "C" NOT NULL,
    rows       bigint,
    first_at   timestamptz NOT NULL,
    last_at    timestamptz NOT NULL,
    request_id uuid,
    member     text
);
-- One index serves both look-ups: all rows of a key, and the old rows of each key. A second
-- index would slow down every statement on a tracked table.
CREATE INDEX touch_of_key ON keysmith_private.touch (key_id, last_at);
COMMENT ON TABLE keysmith_private.touch IS 'The statements of keys and persons on tracked tables; old statements are summed up';
COMMENT ON COLUMN keysmith_private.touch.key_id IS 'The key; the nil id for a person';
COMMENT ON COLUMN keysmith_private.touch.member IS 'The person: a member of the tenant, or empty for the tenant as a whole; null for a key';
COMMENT ON COLUMN keysmith_private.touch.relation IS 'The name of the table at that time';
COMMENT ON COLUMN keysmith_private.touch.rows IS 'The number of rows; null if they were not counted, as for TRUNCATE';

DO $$
BEGIN
    PERFORM pg_catalog.pg_extension_config_dump('keysmith_private.touch', '');
END $$;

CREATE FUNCTION keysmith.log_usage() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_log_usage';
COMMENT ON FUNCTION keysmith.log_usage() IS
'Statement trigger for application tables: records the key or person and the number of changed rows; see track';

-- These lock the table by its OID, check that the caller owns it, and never look up its name.
CREATE FUNCTION keysmith.track(relation regclass) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_track';
COMMENT ON FUNCTION keysmith.track(regclass) IS
'Records which key or person changes a table; a note for each statement';

CREATE FUNCTION keysmith.untrack(relation regclass) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_untrack';
COMMENT ON FUNCTION keysmith.untrack(regclass) IS
'Undoes track; the notes stay';

CREATE VIEW keysmith_private.all_touches AS
SELECT k.key_id, n.name AS tenant, n.keyspace,
       t.schema, t.relation, t.operation, t.rows, t.first_at, t.last_at, t.request_id, t.tenant_id, t.member,
       k.environment
FROM keysmith_private.touch t
JOIN keysmith_private.tenant n USING (tenant_id)
LEFT JOIN keysmith_private.key k ON k.key_id = t.key_id;
SELECT keysmith_private.publish('touches', '{environment}');
COMMENT ON VIEW keysmith.touches IS 'The statements of keys and persons on tracked tables; old statements are summed up';
COMMENT ON COLUMN keysmith.touches.key_id IS 'The id of the key; it is not secret; null for a person';
COMMENT ON COLUMN keysmith.touches.tenant IS 'The name of the tenant that the key belongs to';
COMMENT ON COLUMN keysmith.touches.keyspace IS 'The keyspace of the key';
COMMENT ON COLUMN keysmith.touches.schema IS 'The schema of the table at that time';
COMMENT ON COLUMN keysmith.touches.relation IS 'The name of the table at that time';
COMMENT ON COLUMN keysmith.touches.operation IS 'insert, update, delete or truncate';
COMMENT ON COLUMN keysmith.touches.rows IS 'The number of rows; null if they were not counted, as for TRUNCATE';
COMMENT ON COLUMN keysmith.touches.first_at IS 'The time of the statement, or of the first of those that were summed up';
COMMENT ON COLUMN keysmith.touches.last_at IS 'The time of the statement, or of the last of those that were summed up';
COMMENT ON COLUMN keysmith.touches.request_id IS 'The request_id of the verdict; null for statements that were summed up';
COMMENT ON COLUMN keysmith.touches.tenant_id IS 'The id of the tenant';
COMMENT ON COLUMN keysmith.touches.member IS 'The member, if a person acted; empty for the tenant as a whole';

CREATE FUNCTION keysmith_private.sum_up_touches(oldest timestamptz) RETURNS bigint
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    -- The tables that a leaked key changed still matter after a long time, single statements do not.
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
            (key_id, tenant_id, schema, relation, operation, rows, first_at, last_at, member)
        SELECT key_id, tenant_id, schema, relation, operation, sum(rows), min(first_at), max(last_at), member
        FROM old GROUP BY 1, 2, 3, 4, 5, 9
    )
    SELECT count(*) - count(DISTINCT (key_id, tenant_id, schema, relation, operation, member)) FROM old
$$;
COMMENT ON FUNCTION keysmith_private.sum_up_touches(timestamptz) IS
'Sums up the records before a time, and returns how many records fewer there are';
