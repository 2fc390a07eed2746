-- help(): what functions, views, types and settings are for. Names, types and comments come from
-- the catalog; help_words.sql has the rest.

-- Lines of a table, each at most 98 columns wide, since psql adds two.
CREATE FUNCTION keysmith_private.help_table(names text[], types text[], defaults text[], words text[])
RETURNS SETOF text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT rtrim(CASE w.number WHEN 1 THEN r.start ELSE repeat(' ', length(r.start)) END || w.line)
    FROM (SELECT u.place, u.words, '  ' || string_agg(rpad(c.cell, c.width) || '  ', '' ORDER BY c.number) AS start
          FROM unnest(names, types, defaults, words) WITH ORDINALITY AS u (name, type, preset, words, place)
          CROSS JOIN LATERAL (VALUES (1, u.name, names), (2, u.type, types), (3, u.preset, defaults)) AS v (number, cell, cells)
          CROSS JOIN LATERAL (SELECT v.number, v.cell, max(length(e)) AS width FROM unnest(v.cells) AS e) AS c
          WHERE c.width > 0
          GROUP BY u.place, u.words) AS r
    CROSS JOIN LATERAL string_to_table(keysmith_private.wrapped(coalesce(nullif(r.words, ''), ' '), 98 - length(r.start)), E'\n')
        WITH ORDINALITY AS w (line, number)
    ORDER BY r.place, w.number
$$;
COMMENT ON FUNCTION keysmith_private.help_table(text[], text[], text[], text[]) IS
'Lines of help() about arguments or columns';

-- Lines that begin with a word, and continue below what follows it.
CREATE FUNCTION keysmith_private.help_paragraph(word text, text text) RETURNS SETOF text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT rtrim(CASE w.number WHEN 1 THEN rpad(word, greatest(length(word), 2)) ELSE '  ' END || w.line)
    FROM string_to_table(keysmith_private.wrapped(text, 98 - greatest(length(word), 2)), E'\n') WITH ORDINALITY AS w (line, number)
    ORDER BY w.number
$$;
COMMENT ON FUNCTION keysmith_private.help_paragraph(text, text) IS
'Lines of help()';

CREATE FUNCTION keysmith_private.help_of_function(name text) RETURNS SETOF text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    forms  oid[] := ARRAY(SELECT p.oid FROM pg_proc p
                          WHERE p.pronamespace = 'keysmith'::regnamespace AND p.proname = help_of_function.name
                          ORDER BY p.oid);
    first  pg_proc;
    result text;
BEGIN
    SELECT p.* INTO first FROM pg_proc p WHERE p.oid = forms[1];
    IF NOT FOUND THEN
        RETURN;
    END IF;
    RETURN QUERY SELECT 'keysmith.' || name;
    RETURN QUERY SELECT * FROM keysmith_private.help_paragraph('', obj_description(first.oid, 'pg_proc') || '.');

    IF (SELECT count(DISTINCT p.proargnames) FROM pg_proc p WHERE p.oid = ANY (forms)) > 1 THEN
        RETURN QUERY SELECT 'Forms:';
        RETURN QUERY
        SELECT '  ' || name || '(' || array_to_string(p.proargnames, ', ') || ')'
        FROM pg_proc p WHERE p.oid = ANY (forms) ORDER BY p.oid;
    END IF;
    -- An argument may have several types.
    IF first.pronargs > 0 THEN
        RETURN QUERY SELECT 'Arguments:';
        RETURN QUERY
        SELECT h.* FROM (
            SELECT array_agg(g.argument ORDER BY g.place) AS names, array_agg(g.types ORDER BY g.place) AS types,
                   array_agg(g.preset ORDER BY g.place) AS defaults, array_agg(coalesce(w.words, '') ORDER BY g.place) AS words
            FROM (SELECT a.argument, min(f.place * 100 + a.place) AS place, max(a.preset) AS preset,
                         string_agg(DISTINCT a.type, ' or ') AS types
                  FROM unnest(forms) WITH ORDINALITY AS f (oid, place) JOIN pg_proc p USING (oid)
                  CROSS JOIN LATERAL (
                      SELECT u.place, u.argument,
                             CASE WHEN p.provariadic <> 0 AND u.place = p.pronargs THEN 'VARIADIC ' ELSE '' END
                             || replace(format_type(u.type, NULL), 'timestamp with time zone', 'timestamptz') AS type,
                             coalesce(regexp_replace(pg_get_function_arg_default(p.oid, u.place::integer), '::[a-z ]+(\[\])?$', ''), '') AS preset
                      FROM unnest(p.proargnames[:p.pronargs], p.proargtypes::oid[]) WITH ORDINALITY AS u (argument, type, place)) AS a
                  GROUP BY a.argument) AS g
            LEFT JOIN LATERAL (
                SELECT i.words FROM keysmith_private.help_arguments() i
                WHERE i.argument = g.argument AND (i.function = name OR i.function IS NULL)
                ORDER BY i.function NULLS LAST LIMIT 1) AS w ON true) AS t
        CROSS JOIN LATERAL keysmith_private.help_table(t.names, t.types, t.defaults, t.words) AS h;
    END IF;

    SELECT CASE
        WHEN first.prokind = 'p' THEN 'nothing'
        WHEN first.prorettype = 'void'::regtype THEN 'nothing'
        ELSE CASE WHEN t.typtype = 'c' OR t.oid = 'record'::regtype OR first.proretset
                  THEN CASE WHEN first.proretset AND first.prorows > 1 THEN 'rows of ' ELSE 'a row of ' END ELSE '' END
             || coalesce((SELECT string_agg(u.column_name || ' ' || format_type(u.type, NULL), ', ' ORDER BY u.place)
                          FROM unnest(first.proargnames, first.proallargtypes, first.proargmodes::text[])
                              WITH ORDINALITY AS u (column_name, type, mode, place)
                          WHERE u.mode = 'o'),
                         (SELECT format('keysmith.%s: ', t.typname) || string_agg(a.attname, ', ' ORDER BY a.attnum)
                          FROM pg_attribute a WHERE a.attrelid = t.typrelid AND t.typtype = 'c' AND a.attnum > 0),
                         format_type(t.oid, NULL)) END
    INTO result
    FROM pg_type t WHERE t.oid = first.prorettype;
    RETURN QUERY SELECT * FROM keysmith_private.help_paragraph('Returns: ', replace(result, 'timestamp with time zone', 'timestamptz') || '.');

    RETURN QUERY
    SELECT l.line FROM keysmith_private.help_functions() f
    CROSS JOIN LATERAL string_to_table(E'Example:\n  ' || replace(f.example, E'\n', E'\n  '), E'\n') WITH ORDINALITY AS l (line, place)
    WHERE f.function = name ORDER BY l.place;
END $$;
COMMENT ON FUNCTION keysmith_private.help_of_function(text) IS
'The part of help() about functions';

-- A view, or the row type of a function, by the name of its domain.
CREATE FUNCTION keysmith_private.help_of_relation(name text) RETURNS SETOF text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    relation pg_class;
BEGIN
    SELECT c.* INTO relation FROM pg_class c
    WHERE c.relname = help_of_relation.name AND (c.relnamespace = 'keysmith'::regnamespace AND c.relkind = 'v'
          OR c.oid = (SELECT b.typrelid FROM pg_type d JOIN pg_type b ON b.oid = d.typbasetype
                      WHERE d.typnamespace = 'keysmith'::regnamespace AND d.typname = help_of_relation.name));
    IF NOT FOUND THEN
        RETURN;
    END IF;
    RETURN QUERY SELECT CASE relation.relkind WHEN 'v' THEN 'View keysmith.' ELSE 'Row type keysmith.' END || name;
    RETURN QUERY SELECT * FROM keysmith_private.help_paragraph('',
        coalesce(obj_description(relation.oid, 'pg_class'), obj_description(relation.reltype, 'pg_type')) || '.');
    RETURN QUERY SELECT 'Columns:';
    RETURN QUERY
    SELECT h.* FROM (
        SELECT array_agg(a.attname::text ORDER BY a.attnum) AS names,
               array_agg(replace(format_type(a.atttypid, NULL), 'timestamp with time zone', 'timestamptz') ORDER BY a.attnum) AS types,
               array_agg(col_description(relation.oid, a.attnum) ORDER BY a.attnum) AS words
        FROM pg_attribute a WHERE a.attrelid = relation.oid AND a.attnum > 0 AND NOT a.attisdropped) AS t
    CROSS JOIN LATERAL keysmith_private.help_table(t.names, t.types, NULL, t.words) AS h;
    IF relation.relkind = 'v' THEN
        RETURN QUERY SELECT 'Example:';
        RETURN QUERY SELECT format('  SELECT * FROM keysmith.%s LIMIT 10;', name);
    END IF;
END $$;
COMMENT ON FUNCTION keysmith_private.help_of_relation(text) IS
'The part of help() about views and row types';

CREATE FUNCTION keysmith_private.help_of_setting(name text) RETURNS SETOF text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT l.line FROM pg_settings s
    CROSS JOIN LATERAL (
        SELECT 1 AS part, 1 AS place, 'Setting ' || s.name AS line
        UNION ALL
        SELECT 2, p.place, p.line
        FROM keysmith_private.help_paragraph('', concat_ws(' ', s.short_desc, s.extra_desc)) WITH ORDINALITY AS p (line, place)
        UNION ALL
        SELECT 3, p.place, p.line
        FROM keysmith_private.help_paragraph('Values: ', CASE s.vartype
            WHEN 'enum' THEN array_to_string(s.enumvals, ', ')
            WHEN 'bool' THEN 'on, off'
            WHEN 'string' THEN 'a text'
            ELSE concat_ws(' ', 'from', s.min_val, 'to', s.max_val, s.unit) END) WITH ORDINALITY AS p (line, place)
        UNION ALL
        SELECT 4, 1, format('Default: %s', CASE s.boot_val WHEN '' THEN 'empty' ELSE concat_ws(' ', s.boot_val, s.unit) END)
        UNION ALL
        SELECT 5, 1, 'Set by: ' || CASE s.context
            WHEN 'postmaster' THEN 'ALTER SYSTEM, and a restart of the server'
            WHEN 'sighup' THEN 'ALTER SYSTEM, and SELECT pg_reload_conf()'
            WHEN 'user' THEN 'SET, by any role; ALTER ROLE, ALTER DATABASE, ALTER SYSTEM'
            ELSE 'SET, by superusers; ALTER ROLE, ALTER DATABASE, ALTER SYSTEM' END
        UNION ALL
        SELECT 6, p.place::integer, p.line
        FROM string_to_table(format(E'Example:\n  SHOW %s;', s.name), E'\n') WITH ORDINALITY AS p (line, place)
    ) AS l
    WHERE s.name IN ('keysmith.' || help_of_setting.name)
    ORDER BY l.part, l.place
$$;
COMMENT ON FUNCTION keysmith_private.help_of_setting(text) IS
'The part of help() about settings';

CREATE FUNCTION keysmith_private.help_names(OUT kind text, OUT name text) RETURNS SETOF record
LANGUAGE sql STABLE ROWS 200 SET search_path = pg_catalog, pg_temp AS $$
    SELECT DISTINCT 'Functions', p.proname::text FROM pg_proc p WHERE p.pronamespace = 'keysmith'::regnamespace
    UNION ALL
    SELECT 'Views', c.relname::text FROM pg_class c WHERE c.relnamespace = 'keysmith'::regnamespace AND c.relkind = 'v'
    UNION ALL
    SELECT 'Row types', t.typname::text FROM pg_type t WHERE t.typnamespace = 'keysmith'::regnamespace AND t.typtype = 'd'
    UNION ALL
    SELECT 'Settings', s.name FROM pg_settings s WHERE starts_with(s.name, 'keysmith.')
$$;
COMMENT ON FUNCTION keysmith_private.help_names() IS
'The names that help() knows';

CREATE FUNCTION keysmith_private.help_overview() RETURNS SETOF text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT keysmith_private.help_paragraph('keysmith ', 'makes a database the API-key service of a product. '
        'SELECT keysmith.help(''mint'') tells more about mint, and so on.');
    RETURN QUERY
    SELECT h.* FROM (
        SELECT array_agg(CASE WHEN f.task = f.before THEN '' ELSE f.task END ORDER BY f.place) AS tasks,
               array_agg(f.function ORDER BY f.place) AS names, array_agg(f.words ORDER BY f.place) AS words
        FROM (SELECT f.*, lag(f.task) OVER (ORDER BY f.place) AS before, (
                  SELECT split_part(obj_description(p.oid, 'pg_proc'), ';', 1) FROM pg_proc p
                  WHERE p.pronamespace = 'keysmith'::regnamespace AND p.proname = f.function ORDER BY p.oid LIMIT 1) AS words
              FROM keysmith_private.help_functions() f) AS f) AS t
    CROSS JOIN LATERAL keysmith_private.help_table(t.tasks, t.names, NULL, t.words) AS h;
    RETURN QUERY
    SELECT h.* FROM (
        SELECT k.kind || ': ' AS kind, k.place, string_agg(n.name, ', ' ORDER BY n.name) AS names
        FROM keysmith_private.help_names() n
        JOIN (VALUES ('Views', 1), ('Row types', 2), ('Settings', 3)) AS k (kind, place) USING (kind)
        GROUP BY k.kind, k.place ORDER BY k.place) AS t
    CROSS JOIN LATERAL keysmith_private.help_paragraph(t.kind, t.names) AS h;
END $$;
COMMENT ON FUNCTION keysmith_private.help_overview() IS
'The part of help() without a name';

-- The names that share most pairs of letters with a name.
CREATE FUNCTION keysmith_private.nearest_names(name text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH word AS (
        SELECT DISTINCT n.name, ARRAY(SELECT DISTINCT substr(w.padded, i, 2) FROM generate_series(1, length(w.padded) - 1) i) AS pairs
        FROM (SELECT nearest_names.name AS name UNION ALL SELECT k.name FROM keysmith_private.help_names() k) AS n
        CROSS JOIN LATERAL (SELECT ' ' || replace(left(n.name, 63), 'keysmith.', '') || ' ') AS w (padded)
    ), nearest AS (
        SELECT k.name, row_number() OVER (ORDER BY s.shared / (cardinality(k.pairs) + cardinality(g.pairs)) DESC, k.name) AS place
        FROM word k JOIN word g ON g.name = nearest_names.name AND k.name <> g.name
        CROSS JOIN LATERAL (SELECT count(*)::float FROM unnest(k.pairs) u WHERE u = ANY (g.pairs)) AS s (shared)
        WHERE s.shared > 0
    )
    SELECT string_agg(n.name, ', ' ORDER BY n.place) FROM nearest n WHERE n.place <= 3
$$;
COMMENT ON FUNCTION keysmith_private.nearest_names(text) IS
'The names that are most like the given one, for hints';

CREATE FUNCTION keysmith_private.help_lines(name text) RETURNS SETOF text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted constant text := regexp_replace(lower(trim(name)), '^keysmith\.|\(.*$', '', 'g');
BEGIN
    IF wanted IS NULL THEN
        RETURN QUERY SELECT keysmith_private.help_overview();
    ELSE
        RETURN QUERY SELECT keysmith_private.help_of_function(wanted)
           UNION ALL SELECT keysmith_private.help_of_relation(wanted)
           UNION ALL SELECT keysmith_private.help_of_setting(wanted);
    END IF;
END $$;
COMMENT ON FUNCTION keysmith_private.help_lines(text) IS
'The lines of help()';

CREATE FUNCTION keysmith.help(name text DEFAULT NULL) RETURNS SETOF text
LANGUAGE c STABLE ROWS 20 AS 'MODULE_PATHNAME', 'keysmith_help';
COMMENT ON FUNCTION keysmith.help(text) IS
'Explains a function, view, row type or setting; without a name, lists them';
