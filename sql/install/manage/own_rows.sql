-- How much the caller may see.
CREATE FUNCTION keysmith.sees_everything() RETURNS boolean
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_sees_everything';
COMMENT ON FUNCTION keysmith.sees_everything() IS
'Whether the caller sees all tenants: administrators and auditors who act for no key';

CREATE FUNCTION keysmith.own_tenants() RETURNS uuid[]
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_own_tenants';
COMMENT ON FUNCTION keysmith.own_tenants() IS
'The tenants that the caller sees, if it does not see all';

-- Views that show some readers only a part have two halves. A private view has the rows of
-- all tenants. Readers who see everything read that one: it is planned with their query,
-- so that their conditions are looked up in indexes. To others EXPLAIN would tell how
-- many rows their conditions met, of other tenants as well. So when such a reader's query is
-- planned, shows_everything() becomes false, and the first half is not there. The second half
-- is a function, which reads their rows out of EXPLAIN's sight.
CREATE FUNCTION keysmith_private.shows_everything_support(internal) RETURNS internal
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'keysmith_shows_everything_support';
COMMENT ON FUNCTION keysmith_private.shows_everything_support(internal) IS
'Has the planner leave out what the caller does not see';

CREATE FUNCTION keysmith_private.shows_everything() RETURNS boolean
LANGUAGE c STABLE PARALLEL RESTRICTED SUPPORT keysmith_private.shows_everything_support
AS 'MODULE_PATHNAME', 'keysmith_sees_everything';
COMMENT ON FUNCTION keysmith_private.shows_everything() IS
'The result of sees_everything(); where it is false, the planner knows it';

CREATE FUNCTION keysmith_private.own_rows_support(internal) RETURNS internal
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'keysmith_own_rows_support';
COMMENT ON FUNCTION keysmith_private.own_rows_support(internal) IS
'Hands on the bounds that a query sets to ids and times, so that own rows are looked up by them';

-- Makes a view of its private half all_VIEW, without the hidden columns. That half has the
-- columns tenant_id and, where rows are of one environment, environment; the first column is
-- never null. The condition on it is always met: it keeps the planner from dissolving the
-- query about own rows, so that it puts the reader's conditions there, where
-- own_rows_support() finds them. Dropped at the end of the installation.
CREATE FUNCTION keysmith_private.publish(view text, hidden text[] DEFAULT '{}', ending text DEFAULT '')
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    whole constant text := 'keysmith_private.all_' || view;
    own   constant text := 'keysmith_private.own_' || view;
    shown text;
    first text;
BEGIN
    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum), min(a.attname) FILTER (WHERE a.attnum = 1)
    INTO shown, first
    FROM pg_attribute a
    WHERE a.attrelid = whole::regclass AND a.attnum > 0 AND a.attname <> ALL (hidden);
    EXECUTE format(
        'COMMENT ON VIEW %1$s IS ''The rows of all tenants, for the view %3$s'';
         CREATE FUNCTION %2$s(
             is_shown boolean, bounds smallint[] DEFAULT NULL, ids uuid[] DEFAULT NULL,
             times timestamptz[] DEFAULT NULL, days date[] DEFAULT NULL
         ) RETURNS SETOF %1$s
         LANGUAGE c STABLE PARALLEL RESTRICTED SUPPORT keysmith_private.own_rows_support
         AS ''MODULE_PATHNAME'', ''keysmith_own_rows'';
         COMMENT ON FUNCTION %2$s(boolean, smallint[], uuid[], timestamptz[], date[]) IS
         ''The rows that the reader of the view %3$s sees, unless all are shown'';
         CREATE VIEW keysmith.%3$s WITH (security_barrier) AS
         SELECT %4$s FROM %1$s WHERE keysmith_private.shows_everything()
         UNION ALL
         SELECT %4$s FROM %2$s(keysmith_private.shows_everything()) WHERE %5$s IS NOT NULL %6$s',
        whole, own, view, shown, first, ending);
END $$;
