-- Ledgers of application tables. These lock a table by its OID, and never look up its name.

CREATE FUNCTION keysmith.ledger_changes() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_ledger_changes';
COMMENT ON FUNCTION keysmith.ledger_changes() IS
'The triggers of a ledger call it; see ledger';

CREATE FUNCTION keysmith_private.ledger_forms(relation oid, columns text[]) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT array_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum)
    FROM pg_attribute a
    WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
      AND (columns IS NULL OR a.attname = ANY (columns))
$$;
COMMENT ON FUNCTION keysmith_private.ledger_forms(oid, text[]) IS
'The names and types of the columns that a ledger covers';

CREATE FUNCTION keysmith.ledger(relation regclass, columns text[] DEFAULT NULL) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_ledger';
COMMENT ON FUNCTION keysmith.ledger(regclass, text[]) IS
'Keeps a ledger that shows deleted rows and old ones put back; over some columns, or all';

CREATE FUNCTION keysmith.unledger(relation regclass) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_unledger';
COMMENT ON FUNCTION keysmith.unledger(regclass) IS
'Ends the ledger of a table; for a partition, takes its rows out of the ledger before DETACH or DROP';
