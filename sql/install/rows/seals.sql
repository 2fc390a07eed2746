-- Seals over rows of application tables. These lock a table by its OID, and never look up its
-- name.

CREATE FUNCTION keysmith.seal_row() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_seal_row';
COMMENT ON FUNCTION keysmith.seal_row() IS
'Row trigger before INSERT or UPDATE: stores a digest over the other columns; see seal_rows';

CREATE FUNCTION keysmith.seal_rows(
    relation regclass,
    columns text[] DEFAULT '{}',
    seal_column text DEFAULT 'row_seal'
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_seal_rows';
COMMENT ON FUNCTION keysmith.seal_rows(regclass, text[], text) IS
'Makes a table store a seal in each row; over the named columns, or over all';

CREATE FUNCTION keysmith.seal_rows(relation regclass, column_name text, VARIADIC more_columns text[] DEFAULT '{}')
RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_seal_rows_columns';
COMMENT ON FUNCTION keysmith.seal_rows(regclass, text, text[]) IS
'Makes a table store a seal in each row; over the named columns, one argument for each';

CREATE FUNCTION keysmith.unseal_rows(relation regclass) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_unseal_rows';
COMMENT ON FUNCTION keysmith.unseal_rows(regclass) IS
'Undoes seal_rows; stored seals stay';

-- It reads the heap itself. So it sees the rows that are committed when it has locked the table,
-- whatever the snapshot of the calling query.
CREATE FUNCTION keysmith.verify_rows(
    relation regclass,
    OUT part regclass,
    OUT row_id tid,
    OUT primary_key jsonb,
    OUT problem text
) RETURNS SETOF record
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_verify_rows';
COMMENT ON FUNCTION keysmith.verify_rows(regclass) IS
'The rows of a sealed table whose seal is missing or wrong; deleted rows are not found';
