-- Digests in place of values, in application tables. These lock a table by its OID, check that
-- the caller owns it, and never look up its name.

CREATE FUNCTION keysmith.hash_columns() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_hash_columns';
COMMENT ON FUNCTION keysmith.hash_columns() IS
'Row trigger before INSERT or UPDATE: replaces the values of the columns that it names by digests; see protect';

CREATE FUNCTION keysmith.protect(relation regclass, columns text[], algorithm text DEFAULT 'sha256') RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_protect';
COMMENT ON FUNCTION keysmith.protect(regclass, text[], text) IS
'Makes a table store digests of the values of some columns; name=hmac uses the server''s pepper';

-- The first column is a separate argument, so that a call with an array never means this function.
CREATE FUNCTION keysmith.protect(relation regclass, column_name text, VARIADIC more_columns text[] DEFAULT '{}')
RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_protect_columns';
COMMENT ON FUNCTION keysmith.protect(regclass, text, text[]) IS
'Makes a table store digests of the values of some columns; one argument for each';

CREATE FUNCTION keysmith.unprotect(relation regclass, columns text[] DEFAULT '{}') RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_unprotect';
COMMENT ON FUNCTION keysmith.unprotect(regclass, text[]) IS
'Undoes protect, for some columns or all; stored digests stay';

CREATE FUNCTION keysmith.unprotect(relation regclass, column_name text, VARIADIC more_columns text[] DEFAULT '{}')
RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_unprotect_columns';
COMMENT ON FUNCTION keysmith.unprotect(regclass, text, text[]) IS
'Undoes protect, for some columns or all; one argument for each';

CREATE PROCEDURE keysmith.protect_existing(
    relation regclass,
    pages bigint DEFAULT 100,
    trust_digests boolean DEFAULT false
)
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_protect_existing';
COMMENT ON PROCEDURE keysmith.protect_existing(regclass, bigint, boolean) IS
'Digests the older values of a protected table; some pages per transaction; called again, it continues';
