-- Views that show some readers only a part of the rows have two halves. The first half is a
-- private view with the rows of all tenants, for readers who see everything. It is planned as
-- part of their query, so that indexes serve their conditions. Other readers could learn from
-- its EXPLAIN how many rows of other tenants meet a condition. So for them the planner replaces
-- shows_everything() by false, and removes the first half. The second half is a function that
-- reads their own rows, and that EXPLAIN does not look into.
CREATE FUNCTION keysmith_private.shows_everything_support(internal) RETURNS internal
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'keysmith_shows_everything_support';
COMMENT ON FUNCTION keysmith_private.shows_everything_support(internal) IS
'Planner support: replaces shows_everything() by false where it is false';

CREATE FUNCTION keysmith_private.shows_everything() RETURNS boolean
LANGUAGE c STABLE PARALLEL RESTRICTED SUPPORT keysmith_private.shows_everything_support
AS 'MODULE_PATHNAME', 'keysmith_shows_everything';
COMMENT ON FUNCTION keysmith_private.shows_everything() IS
'Whether the caller sees all tenants, as administrators and auditors do who act for no key';

CREATE FUNCTION keysmith_private.own_rows_support(internal) RETURNS internal
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'keysmith_own_rows_support';
COMMENT ON FUNCTION keysmith_private.own_rows_support(internal) IS
'Planner support: passes the bounds that a query sets for ids and times, so that own rows are looked up by them';

-- Makes the public view from its private half all_VIEW, without the hidden columns. The private
-- half has a column tenant_id, and a column environment if each row belongs to one. Its first
-- column is never null, so the condition on it is always true: without a condition the planner
-- would pull the subquery up, and the reader's conditions would not be pushed down to where
-- own_rows_support() finds them. The function is dropped at the end of the installation.
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
