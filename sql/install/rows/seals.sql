-- Seals over rows of applications' own tables. Tables are locked by their OIDs, and their
-- names are never looked up.

CREATE FUNCTION keysmith.seal_row() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_seal_row';
COMMENT ON FUNCTION keysmith.seal_row() IS
'Row trigger before INSERT or UPDATE: keeps a digest over the other columns; see seal_rows';

CREATE FUNCTION keysmith.seal_rows(
    relation regclass,
    columns text[] DEFAULT '{}',
    seal_column text DEFAULT 'row_seal'
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_seal_rows';
COMMENT ON FUNCTION keysmith.seal_rows(regclass, text[], text) IS
'Has a table keep a digest over the named columns of each row, or over all, in a column of that name';

CREATE FUNCTION keysmith.seal_rows(relation regclass, column_name text, VARIADIC more_columns text[] DEFAULT '{}')
RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_seal_rows_columns';
COMMENT ON FUNCTION keysmith.seal_rows(regclass, text, text[]) IS
'Has a table keep a digest over the named columns of each row, each an argument of its own';

CREATE FUNCTION keysmith.unseal_rows(relation regclass) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_unseal_rows';
COMMENT ON FUNCTION keysmith.unseal_rows(regclass) IS
'Undoes seal_rows: seals are not kept any more, and stay as they are';

-- It reads the heap itself. So it sees what is there when it has locked the table, whatever
-- the snapshot of the query that calls it.
CREATE FUNCTION keysmith.verify_rows(
    relation regclass,
    OUT part regclass,
    OUT row_id tid,
    OUT primary_key jsonb,
    OUT problem text
) RETURNS SETOF record
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_verify_rows';
COMMENT ON FUNCTION keysmith.verify_rows(regclass) IS
'The rows of a sealed table whose seal is missing or does not fit; deleted rows can''t be seen';
