-- Digests in place of values, in applications' own tables. What has to do with a table locks
-- it by its OID, checks that the caller owns it, and never looks its name up.

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
