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

CREATE FUNCTION keysmith.track(relation regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kind      "char";
    has_parts boolean;
    declared  text;
    rows_of   text;
BEGIN
    SELECT c.relkind, c.relkind = 'p' OR c.relhassubclass INTO kind, has_parts
    FROM pg_catalog.pg_class c WHERE c.oid = relation;
    IF kind IS NULL OR kind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION 'relation must be a table, not %', coalesce(relation::text, 'null')
            USING ERRCODE = 'KS400';
    ELSIF EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = relation
                  AND c.relnamespace = 'keysmith_private'::regnamespace) THEN
        RAISE EXCEPTION 'relation must be a table of your own, not one of keysmith''s'
            USING ERRCODE = 'KS400';
    END IF;
    -- An ordinary table's rows are counted by PostgreSQL as they are changed: what is
    -- read before and after a statement costs nothing a row. Rows of partitions and
    -- children are counted there, not here, so for those a copy of each is asked for.
    FOR declared, rows_of IN VALUES ('insert', 'NEW'), ('update', 'NEW'), ('delete', 'OLD') LOOP
        IF has_parts THEN
            EXECUTE format(
                'CREATE OR REPLACE TRIGGER keysmith_%1$s AFTER %1$s ON %2$s REFERENCING %3$s TABLE AS changed
                     FOR EACH STATEMENT EXECUTE FUNCTION keysmith.log_usage()',
                declared, relation, rows_of);
        ELSE
            EXECUTE format(
                'CREATE OR REPLACE TRIGGER keysmith_before_%1$s BEFORE %1$s ON %2$s
                     FOR EACH STATEMENT EXECUTE FUNCTION keysmith.log_usage();
                 CREATE OR REPLACE TRIGGER keysmith_%1$s AFTER %1$s ON %2$s
                     FOR EACH STATEMENT EXECUTE FUNCTION keysmith.log_usage()',
                declared, relation);
        END IF;
    END LOOP;
    EXECUTE format('CREATE OR REPLACE TRIGGER keysmith_truncate AFTER TRUNCATE ON %s
                        FOR EACH STATEMENT EXECUTE FUNCTION keysmith.log_usage()', relation);
END $$;
COMMENT ON FUNCTION keysmith.track(regclass) IS
'Has statements that change a table noted, with the key that acts';

CREATE FUNCTION keysmith.untrack(relation regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    trigger name;
BEGIN
    FOR trigger IN
        SELECT t.tgname FROM pg_catalog.pg_trigger t
        WHERE t.tgrelid = relation AND t.tgfoid = 'keysmith.log_usage()'::regprocedure
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', trigger, relation);
    END LOOP;
END $$;
COMMENT ON FUNCTION keysmith.untrack(regclass) IS 'Undoes track; what was noted stays';

CREATE VIEW keysmith.touches WITH (security_barrier) AS
SELECT t.key_id, n.name AS tenant, n.keyspace, t.schema, t.relation, t.operation, t.rows,
       t.first_at, t.last_at, t.request_id, t.tenant_id
FROM keysmith_private.touch t
JOIN keysmith_private.tenant n USING (tenant_id)
WHERE (SELECT keysmith.sees_everything()) OR t.tenant_id = ANY ((SELECT keysmith.own_tenants())::uuid[]);
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
