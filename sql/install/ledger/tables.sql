-- Ledgers of tables: sums of keyed hashes of rows. docs/ledger-format.md describes the bytes.

CREATE TABLE keysmith_private.ledger (
    ledger_id   uuid PRIMARY KEY,
    server      bigint NOT NULL,
    database    oid NOT NULL,
    relation    oid NOT NULL,
    schema_name text COLLATE "C" NOT NULL,
    table_name  text COLLATE "C" NOT NULL,
    generation  smallint NOT NULL,
    secret      bytea,
    key_column  text COLLATE "C" NOT NULL,
    shift       smallint NOT NULL,
    columns     text[] COLLATE "C",
    forms       text[] COLLATE "C" NOT NULL,
    began_at    timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE keysmith_private.ledger IS 'The tables that have a ledger; the triggers of each name its id';
COMMENT ON COLUMN keysmith_private.ledger.server IS 'The server in which relation is the OID of the table; database is the database in it';
COMMENT ON COLUMN keysmith_private.ledger.table_name IS 'Its name at the last block; by that it is found in a restored database';
COMMENT ON COLUMN keysmith_private.ledger.generation IS 'The generation of the pepper that its keys are derived from; 0 if they are derived from the secret';
COMMENT ON COLUMN keysmith_private.ledger.secret IS 'Random bytes in place of a pepper';
COMMENT ON COLUMN keysmith_private.ledger.key_column IS 'The first column of the primary key, by whose value rows are divided into ranges';
COMMENT ON COLUMN keysmith_private.ledger.shift IS 'How many low bits of that value a range leaves out';
COMMENT ON COLUMN keysmith_private.ledger.columns IS 'The columns that are hashed; null for all';
COMMENT ON COLUMN keysmith_private.ledger.forms IS 'The names and types that these columns had when ledger() was last called';

-- It has no index: each transaction that changes a table with a ledger appends a row, and few are
-- left after each block.
CREATE TABLE keysmith_private.ledger_difference (
    ledger_id  uuid NOT NULL,
    difference bytea NOT NULL
);
COMMENT ON TABLE keysmith_private.ledger_difference IS 'What transactions added to the sums of a ledger since its last block';

CREATE TABLE keysmith_private.ledger_block (
    ledger_id uuid NOT NULL,
    number    bigint NOT NULL,
    block     bytea NOT NULL,
    PRIMARY KEY (ledger_id, number)
);
COMMENT ON TABLE keysmith_private.ledger_block IS 'The blocks of ledgers: what a table was at a time; each covers the one before';

CREATE TABLE keysmith_private.ledger_range (
    ledger_id uuid NOT NULL,
    range     bigint NOT NULL,
    stored    bytea NOT NULL,
    PRIMARY KEY (ledger_id, range)
);
COMMENT ON TABLE keysmith_private.ledger_range IS 'The sums of ranges of keys, as of the last block';

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY '{ledger,ledger_difference,ledger_block,ledger_range}'::text[] LOOP
        PERFORM pg_catalog.pg_extension_config_dump('keysmith_private.' || name, '');
    END LOOP;
END $$;

-- Ledgers with their tables.
CREATE VIEW keysmith_private.known_ledger AS
SELECT l.*, l.server = s.system_identifier AND l.database = d.oid AS is_here,
       CASE WHEN l.server = s.system_identifier AND l.database = d.oid THEN l.relation
            ELSE pg_catalog.to_regclass(pg_catalog.format('%I.%I', l.schema_name, l.table_name))::oid END AS found
FROM keysmith_private.ledger l, pg_catalog.pg_control_system() s, pg_catalog.pg_database d
WHERE d.datname = pg_catalog.current_database();
COMMENT ON VIEW keysmith_private.known_ledger IS
'Ledgers with their tables: those of this database by OID, those of a restored one by name';
