-- Digests in place of values, in applications' own tables. What has to do with a table locks
-- it by its OID, checks that the caller owns it, and never looks its name up.

CREATE FUNCTION keysmith.digest(value text, algorithm text DEFAULT 'sha256') RETURNS text
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'keysmith_digest_text';
COMMENT ON FUNCTION keysmith.digest(text, text) IS
'What a protected column of text stores in place of a value; sha256, or hmac with the server''s pepper';

CREATE FUNCTION keysmith.digest(value bytea, algorithm text DEFAULT 'sha256') RETURNS bytea
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'keysmith_digest_bytes';
COMMENT ON FUNCTION keysmith.digest(bytea, text) IS
'What a protected column of bytea stores in place of a value; sha256, or hmac with the server''s pepper';

CREATE FUNCTION keysmith.digests(value text) RETURNS text[]
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'keysmith_digests_text';
COMMENT ON FUNCTION keysmith.digests(text) IS
'What a protected column may store of a value, under any pepper: WHERE email = ANY (keysmith.digests($1))';

CREATE FUNCTION keysmith.digests(value bytea) RETURNS bytea[]
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'keysmith_digests_bytes';
COMMENT ON FUNCTION keysmith.digests(bytea) IS
'What a protected column may store of a value, under any pepper';

CREATE FUNCTION keysmith.is_digest(stored text) RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'keysmith_is_digest_text';
COMMENT ON FUNCTION keysmith.is_digest(text) IS 'Whether a text has the form of a stored digest';

CREATE FUNCTION keysmith.is_digest(stored bytea) RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'keysmith_is_digest_bytes';
COMMENT ON FUNCTION keysmith.is_digest(bytea) IS 'Whether bytes have the form of a stored digest';

CREATE FUNCTION keysmith_private.matches_support(request internal) RETURNS internal
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'keysmith_matches_support';
COMMENT ON FUNCTION keysmith_private.matches_support(internal) IS
'Has the planner look up matches in an index; PostgreSQL calls it';

CREATE FUNCTION keysmith.matches(value text, stored text) RETURNS boolean
LANGUAGE c STABLE STRICT LEAKPROOF PARALLEL SAFE SUPPORT keysmith_private.matches_support
AS 'MODULE_PATHNAME', 'keysmith_matches_text';
COMMENT ON FUNCTION keysmith.matches(text, text) IS
'Whether that is what is stored of a value; an index of the column is used';

CREATE FUNCTION keysmith.matches(value bytea, stored bytea) RETURNS boolean
LANGUAGE c STABLE STRICT LEAKPROOF PARALLEL SAFE SUPPORT keysmith_private.matches_support
AS 'MODULE_PATHNAME', 'keysmith_matches_bytes';
COMMENT ON FUNCTION keysmith.matches(bytea, bytea) IS
'Whether that is what is stored of a value; an index of the column is used';

CREATE FUNCTION keysmith.hash_columns() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_hash_columns';
COMMENT ON FUNCTION keysmith.hash_columns() IS
'Row trigger before INSERT or UPDATE: stores digests in place of the values of the columns that it names; see protect';

CREATE FUNCTION keysmith.protect(relation regclass, columns text[], algorithm text DEFAULT 'sha256') RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_protect';
COMMENT ON FUNCTION keysmith.protect(regclass, text[], text) IS
'Has a table store digests of what is written to the named columns; name=hmac for one with the server''s pepper';

-- The first column stands by itself, so that an array of columns is never taken for this.
CREATE FUNCTION keysmith.protect(relation regclass, column_name text, VARIADIC more_columns text[] DEFAULT '{}')
RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_protect_columns';
COMMENT ON FUNCTION keysmith.protect(regclass, text, text[]) IS
'Has a table store digests of what is written to the named columns, each an argument of its own';

CREATE FUNCTION keysmith.unprotect(relation regclass, columns text[] DEFAULT '{}') RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_unprotect';
COMMENT ON FUNCTION keysmith.unprotect(regclass, text[]) IS
'Undoes protect, for some columns or all: what is written from now on is stored as it is; digests stay';

CREATE FUNCTION keysmith.unprotect(relation regclass, column_name text, VARIADIC more_columns text[] DEFAULT '{}')
RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_unprotect_columns';
COMMENT ON FUNCTION keysmith.unprotect(regclass, text, text[]) IS
'Undoes protect for the named columns, each an argument of its own';

CREATE PROCEDURE keysmith.protect_existing(
    relation regclass,
    pages bigint DEFAULT 100,
    trust_digests boolean DEFAULT false
)
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_protect_existing';
COMMENT ON PROCEDURE keysmith.protect_existing(regclass, bigint, boolean) IS
'Has the rows of a protected table that were there before digested in place, some pages a transaction; called again it goes on';

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
