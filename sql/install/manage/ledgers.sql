-- The blocks of ledgers, and the check of tables against them.

CREATE FUNCTION keysmith.ledger_head(
    relation regclass,
    OUT relation regclass,
    OUT "position" bigint,
    OUT rows bigint,
    OUT head text,
    OUT at timestamptz
) RETURNS SETOF record
LANGUAGE c ROWS 1 AS 'MODULE_PATHNAME', 'keysmith_ledger_head';
COMMENT ON FUNCTION keysmith.ledger_head(regclass) IS
'Closes a block of a ledger, and returns the last one; a copy kept elsewhere proves it later';

-- It reads the heap itself. So it sees the rows that are committed when it has locked the table,
-- whatever the snapshot of the calling query.
CREATE FUNCTION keysmith.verify_ledger(
    relation regclass,
    heads jsonb DEFAULT NULL,
    OUT part regclass,
    OUT row_id tid,
    OUT primary_key jsonb,
    OUT first_key text,
    OUT last_key text,
    OUT "position" bigint,
    OUT problem text
) RETURNS SETOF record
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_verify_ledger';
COMMENT ON FUNCTION keysmith.verify_ledger(regclass, jsonb) IS
'The differences between a table and its ledger; also from heads that were kept';

CREATE FUNCTION keysmith_private.close_ledgers() RETURNS bigint
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_close_ledgers';
COMMENT ON FUNCTION keysmith_private.close_ledgers() IS
'Closes blocks of the ledgers that changed, and returns how many differences they took; leaves out ledgers that are busy';

CREATE FUNCTION keysmith_private.ledger_state(
    OUT relation regclass,
    OUT columns text[],
    OUT "position" bigint,
    OUT rows bigint,
    OUT at timestamptz,
    OUT open bigint
) RETURNS SETOF record
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'keysmith_ledger_state';
COMMENT ON FUNCTION keysmith_private.ledger_state() IS
'The ledgers of tables that the caller owns or may read, and for callers that see everything of all; the view ledgers shows them';

CREATE VIEW keysmith.ledgers AS
SELECT s.relation, s.columns, s.position, s.rows, s.at, s.open FROM keysmith_private.ledger_state() s;
COMMENT ON VIEW keysmith.ledgers IS 'The tables that have a ledger, and that the reader owns or may read';
COMMENT ON COLUMN keysmith.ledgers.relation IS 'The table';
COMMENT ON COLUMN keysmith.ledgers.columns IS 'The columns that are hashed; null for all';
COMMENT ON COLUMN keysmith.ledgers.position IS 'The number of the last block';
COMMENT ON COLUMN keysmith.ledgers.rows IS 'The number of rows then';
COMMENT ON COLUMN keysmith.ledgers.at IS 'The time when it was closed';
COMMENT ON COLUMN keysmith.ledgers.open IS 'The number of transactions that changed rows since then';
