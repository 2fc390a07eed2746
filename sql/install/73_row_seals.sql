-- Seals over rows of applications' own tables. All of this acts as the caller.

CREATE FUNCTION keysmith.seal_row() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_seal_row';
COMMENT ON FUNCTION keysmith.seal_row() IS
'Row trigger before INSERT or UPDATE: keeps a digest over the other columns; see seal_rows';

CREATE FUNCTION keysmith.seal_problem("row" record, arguments text[]) RETURNS text
LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'keysmith_seal_problem';
COMMENT ON FUNCTION keysmith.seal_problem(record, text[]) IS
'What is wrong with a row''s seal; null if nothing is; verify_rows calls it';

CREATE FUNCTION keysmith.seal_rows(
    relation regclass,
    columns text[] DEFAULT '{}',
    seal_column text DEFAULT 'row_seal'
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    seal_trigger CONSTANT text := '~keysmith_2_seal';
    before   text[];
    wanted   text[];
    kind     oid;
    item     record;
BEGIN
    PERFORM keysmith.row_table(relation);
    IF columns IS NULL OR array_position(columns, NULL) IS NOT NULL OR seal_column IS NULL THEN
        RAISE EXCEPTION 'columns and seal_column must not be null' USING ERRCODE = 'KS400';
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_trigger t
               WHERE t.tgrelid = relation AND t.tgname = seal_trigger AND t.tgparentid <> 0) THEN
        RAISE EXCEPTION 'table % is sealed as part of the table that it is a partition of', relation
            USING ERRCODE = 'KS409';
    END IF;
    FOR item IN
        SELECT c.name, a.attgenerated
        FROM unnest(columns) c(name)
        LEFT JOIN pg_catalog.pg_attribute a
            ON a.attrelid = relation AND a.attname = c.name AND a.attnum > 0 AND NOT a.attisdropped
        WHERE a.attname IS NULL OR a.attgenerated <> '' OR a.attname = seal_column
    LOOP
        IF item.attgenerated <> '' THEN
            RAISE EXCEPTION 'columns must not be generated, and %.% is', relation, quote_ident(item.name)
                USING ERRCODE = 'KS400', HINT = 'It is computed from other columns: seal those.';
        END IF;
        RAISE EXCEPTION 'columns must name columns of % beside the seal, which % is not', relation,
            quote_ident(item.name) USING ERRCODE = 'KS400';
    END LOOP;
    -- A row's key is sealed with it, so that no other row can have its values.
    IF cardinality(columns) > 0 THEN
        SELECT array_agg(DISTINCT name ORDER BY name) INTO columns FROM (
            SELECT unnest(columns) AS name
            UNION ALL
            SELECT a.attname::text FROM pg_catalog.pg_index i
            JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
            WHERE i.indrelid = relation AND i.indisprimary AND a.attgenerated = ''
        ) covered;
    END IF;
    SELECT a.atttypid INTO kind FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = relation AND a.attname = seal_column AND a.attnum > 0 AND NOT a.attisdropped;
    IF NOT FOUND THEN
        EXECUTE format('ALTER TABLE %s ADD COLUMN %I bytea', relation, seal_column);
        EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', relation, seal_column,
                       'A digest over the row, kept by keysmith.seal_rows');
    ELSIF kind <> 'bytea'::regtype THEN
        RAISE EXCEPTION 'seal_column must be of type bytea, and %.% is %', relation, quote_ident(seal_column),
            format_type(kind, NULL) USING ERRCODE = 'KS400';
    END IF;
    -- The table goes by the name that it had when it was first sealed.
    before := keysmith.trigger_arguments(relation, seal_trigger);
    SELECT ARRAY[seal_column, coalesce(before[2], format('%I.%I', n.nspname, c.relname))] || columns INTO wanted
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = relation;
    IF wanted IS NOT DISTINCT FROM before THEN
        RETURN;
    END IF;
    FOR item IN SELECT p.part FROM keysmith.row_parts(relation) p WHERE p.needs_trigger LOOP
        EXECUTE format(
            'CREATE OR REPLACE TRIGGER %I BEFORE INSERT OR UPDATE ON %s
                 FOR EACH ROW EXECUTE FUNCTION keysmith.seal_row(%s)',
            seal_trigger, item.part, (SELECT string_agg(quote_literal(w), ', ') FROM unnest(wanted) w));
    END LOOP;
    RAISE NOTICE 'rows of % that are there are not sealed', relation
        USING HINT = format('UPDATE %s SET %I = '''' seals them, as they are now.', relation, seal_column);
END $$;
COMMENT ON FUNCTION keysmith.seal_rows(regclass, text[], text) IS
'Has a table keep a digest over the named columns of each row, or over all, in a column of that name';

CREATE FUNCTION keysmith.seal_rows(relation regclass, column_name text, VARIADIC more_columns text[] DEFAULT '{}')
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM keysmith.seal_rows(relation, columns => column_name || more_columns);
END $$;
COMMENT ON FUNCTION keysmith.seal_rows(regclass, text, text[]) IS
'Has a table keep a digest over the named columns of each row, each an argument of its own';

CREATE FUNCTION keysmith.unseal_rows(relation regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    item record;
BEGIN
    IF keysmith.trigger_arguments(relation, '~keysmith_2_seal') IS NULL THEN
        RAISE EXCEPTION 'rows of % are not sealed', relation USING ERRCODE = 'KS404';
    END IF;
    FOR item IN SELECT p.part FROM keysmith.row_parts(relation) p WHERE p.needs_trigger LOOP
        EXECUTE format('DROP TRIGGER IF EXISTS "~keysmith_2_seal" ON %s', item.part);
    END LOOP;
END $$;
COMMENT ON FUNCTION keysmith.unseal_rows(regclass) IS
'Undoes seal_rows: seals are not kept any more, and stay as they are';

CREATE FUNCTION keysmith.verify_rows(
    relation regclass,
    OUT part regclass,
    OUT row_id tid,
    OUT primary_key jsonb,
    OUT problem text
) RETURNS SETOF record
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
DECLARE
    arguments text[];
    item      record;
    pages     bigint;
    portion   bigint;
    page      bigint;
    beyond    bigint;
BEGIN
    arguments := keysmith.trigger_arguments(relation, '~keysmith_2_seal');
    IF arguments IS NULL THEN
        RAISE EXCEPTION 'rows of % are not sealed', relation
            USING ERRCODE = 'KS404', HINT = 'Call keysmith.seal_rows first.';
    END IF;
    FOR item IN
        SELECT p.part AS found, (
            -- A cast to json that somebody made for a type of theirs would run as the caller:
            -- such values are shown as text, by the type's output function.
            SELECT string_agg(format(
                       CASE WHEN coalesce(nullif(t.typbasetype, 0), t.oid)::bigint < 16384
                            THEN '%L, "~row".%I' ELSE '%L, pg_catalog.format(''%%s'', "~row".%I)' END,
                       a.attname, a.attname), ', ' ORDER BY k.at)
            FROM pg_catalog.pg_index i, unnest(i.indkey) WITH ORDINALITY k(attnum, at),
                 pg_catalog.pg_attribute a, pg_catalog.pg_type t
            WHERE i.indrelid = p.part AND i.indisprimary AND a.attrelid = p.part AND a.attnum = k.attnum
              AND t.oid = a.atttypid
        ) AS key
        FROM keysmith.row_parts(relation) p
        JOIN pg_catalog.pg_class c ON c.oid = p.part AND c.relkind = 'r'
    LOOP
        part := item.found;
        pages := pg_relation_size(item.found) / current_setting('block_size')::bigint;
        -- Some twenty portions of a large table, so that one can tell how far it is.
        portion := greatest(pages / 20, 1000);
        page := 0;
        LOOP
            -- The last portion has no end: its pages may have become more.
            beyond := CASE WHEN page + portion < pages THEN page + portion ELSE 4294967295 END;
            FOR row_id, primary_key, problem IN EXECUTE format(
                'SELECT * FROM (
                     SELECT "~row".ctid, %s, keysmith.seal_problem("~row", $1) AS problem
                     FROM ONLY %s AS "~row" WHERE "~row".ctid >= $2 AND "~row".ctid < $3 OFFSET 0
                 ) checked WHERE problem IS NOT NULL',
                coalesce('jsonb_build_object(' || item.key || ')', 'NULL::jsonb'), item.found)
                USING arguments, format('(%s,0)', page)::tid, format('(%s,0)', beyond)::tid
            LOOP
                RETURN NEXT;
            END LOOP;
            page := page + portion;
            EXIT WHEN page >= pages;
            RAISE NOTICE 'checked % of % pages of %', page, pages, item.found;
        END LOOP;
    END LOOP;
END $$;
COMMENT ON FUNCTION keysmith.verify_rows(regclass) IS
'The rows of a sealed table whose seal is missing or does not fit; deleted rows can''t be seen';
