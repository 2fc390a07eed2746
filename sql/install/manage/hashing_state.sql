-- The progress of protect_existing().

CREATE FUNCTION keysmith_private.hashing_state(
    relation oid,
    trigger_id oid,
    OUT phase text,
    OUT part text,
    OUT round integer,
    OUT pages_total bigint,
    OUT pages_done bigint,
    OUT rows_done bigint,
    OUT started_at timestamptz,
    OUT finished_at timestamptz
) RETURNS SETOF record
LANGUAGE c STABLE STRICT ROWS 1 AS 'MODULE_PATHNAME', 'keysmith_hashing_state';
COMMENT ON FUNCTION keysmith_private.hashing_state(oid, oid) IS
'The progress of protect_existing in a table, for its owner and for callers that see everything; hashing_progress calls it';

CREATE VIEW keysmith.hashing_progress AS
SELECT t.tgrelid::regclass AS relation, s.phase, s.part, s.round, s.pages_total, s.pages_done, s.rows_done,
       s.started_at, s.finished_at
FROM pg_catalog.pg_trigger t, LATERAL keysmith_private.hashing_state(t.tgrelid, t.oid) s
WHERE t.tgname = '~keysmith_1_hash' AND t.tgparentid = 0
  AND t.tgfoid = 'keysmith.hash_columns()'::regprocedure;
COMMENT ON VIEW keysmith.hashing_progress IS 'The protected tables that the reader owns, with the progress of protect_existing in each';
COMMENT ON COLUMN keysmith.hashing_progress.relation IS 'The protected table';
COMMENT ON COLUMN keysmith.hashing_progress.phase IS 'not begun, digesting rows or done';
COMMENT ON COLUMN keysmith.hashing_progress.part IS 'The table, partition or child table that it is working on; null before and after';
COMMENT ON COLUMN keysmith.hashing_progress.round IS 'The number of the round; rows that moved during one round are found in the next';
COMMENT ON COLUMN keysmith.hashing_progress.pages_total IS 'The number of pages of the table when it began';
COMMENT ON COLUMN keysmith.hashing_progress.pages_done IS 'The number of these pages that are done';
COMMENT ON COLUMN keysmith.hashing_progress.rows_done IS 'The number of rows that were digested';
COMMENT ON COLUMN keysmith.hashing_progress.started_at IS 'The time when it began; null before that';
COMMENT ON COLUMN keysmith.hashing_progress.finished_at IS 'The time when it was done; null before that';
