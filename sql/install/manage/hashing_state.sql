-- How far protect_existing is.

CREATE FUNCTION keysmith.hashing_state(
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
COMMENT ON FUNCTION keysmith.hashing_state(oid, oid) IS
'How far protect_existing is with a table, for who owns it or sees everything; hashing_progress calls it';

CREATE VIEW keysmith.hashing_progress AS
SELECT t.tgrelid::regclass AS relation, s.phase, s.part, s.round, s.pages_total, s.pages_done, s.rows_done,
       s.started_at, s.finished_at
FROM pg_catalog.pg_trigger t, LATERAL keysmith.hashing_state(t.tgrelid, t.oid) s
WHERE t.tgname = '~keysmith_1_hash' AND t.tgparentid = 0
  AND t.tgfoid = 'keysmith.hash_columns()'::regprocedure;
COMMENT ON VIEW keysmith.hashing_progress IS 'Protected tables of one''s own, and how far protect_existing is with each';
COMMENT ON COLUMN keysmith.hashing_progress.relation IS 'The protected table';
COMMENT ON COLUMN keysmith.hashing_progress.phase IS 'not begun, digesting rows or done';
COMMENT ON COLUMN keysmith.hashing_progress.part IS 'The table, partition or child that it is at; null before and after';
COMMENT ON COLUMN keysmith.hashing_progress.round IS 'The round that it is in: rows that moved meanwhile are met in another';
COMMENT ON COLUMN keysmith.hashing_progress.pages_total IS 'How many pages the table had when it began';
COMMENT ON COLUMN keysmith.hashing_progress.pages_done IS 'How many of these are done';
COMMENT ON COLUMN keysmith.hashing_progress.rows_done IS 'How many rows were digested';
COMMENT ON COLUMN keysmith.hashing_progress.started_at IS 'When it began; null if it has not';
COMMENT ON COLUMN keysmith.hashing_progress.finished_at IS 'When it was done; null if it is not';
