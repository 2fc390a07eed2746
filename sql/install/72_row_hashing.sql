-- Digests in place of values, in applications' own tables. All of this acts as the caller.

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

CREATE FUNCTION keysmith.trigger_arguments(relation regclass, trigger text) RETURNS text[]
LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'keysmith_trigger_arguments';
COMMENT ON FUNCTION keysmith.trigger_arguments(regclass, text) IS
'The arguments of a table''s trigger; null if it has no such trigger';

CREATE FUNCTION keysmith.hash_pages(relation regclass, first_page bigint, beyond bigint) RETURNS bigint
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_hash_pages';
COMMENT ON FUNCTION keysmith.hash_pages(regclass, bigint, bigint) IS
'Has the values of some pages of a protected table digested, and tells in how many rows; protect_existing calls it';

CREATE FUNCTION keysmith.row_table(relation regclass) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_class c
                   WHERE c.oid = relation AND c.relkind IN ('r', 'p')
                     AND c.relnamespace NOT IN ('keysmith_private'::regnamespace, 'pg_catalog'::regnamespace)) THEN
        RAISE EXCEPTION 'relation must be a table of an application, not %', coalesce(relation::text, 'null')
            USING ERRCODE = 'KS400';
    END IF;
END $$;
COMMENT ON FUNCTION keysmith.row_table(regclass) IS
'Raises an error for what is no table of an application; protect and seal_rows call it';

-- Partitions get their triggers from the table that they are part of, children do not.
CREATE FUNCTION keysmith.row_parts(relation regclass) RETURNS TABLE (part regclass, needs_trigger boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE family(oid) AS (
        SELECT relation::oid
        UNION
        SELECT i.inhrelid FROM family JOIN pg_catalog.pg_inherits i ON i.inhparent = family.oid
    )
    SELECT c.oid::regclass, c.oid = relation OR NOT c.relispartition
    FROM family JOIN pg_catalog.pg_class c ON c.oid = family.oid
    WHERE c.relkind IN ('r', 'p')
    ORDER BY c.oid
$$;
COMMENT ON FUNCTION keysmith.row_parts(regclass) IS
'A table with its partitions and children; protect and seal_rows call it';

CREATE FUNCTION keysmith.protect(relation regclass, columns text[], algorithm text DEFAULT 'sha256') RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    hash_trigger CONSTANT text := '~keysmith_1_hash';
    before    text[];
    wanted    text[];
    clean     jsonb := '[]';
    state     jsonb;
    column_name text;
    its_own   text;
    written   text;
    found_one boolean;
    item      record;
BEGIN
    PERFORM keysmith.row_table(relation);
    IF columns IS NULL OR cardinality(columns) = 0 OR array_position(columns, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'columns must name at least one column, and no null' USING ERRCODE = 'KS400';
    ELSIF algorithm IS NULL OR algorithm NOT IN ('sha256', 'hmac') THEN
        RAISE EXCEPTION 'algorithm must be sha256 or hmac' USING ERRCODE = 'KS400';
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_trigger t
               WHERE t.tgrelid = relation AND t.tgname = hash_trigger AND t.tgparentid <> 0) THEN
        RAISE EXCEPTION 'table % is protected as part of the table that it is a partition of', relation
            USING ERRCODE = 'KS409';
    END IF;
    before := coalesce(keysmith.trigger_arguments(relation, hash_trigger), '{}');
    wanted := before;
    FOREACH written IN ARRAY columns LOOP
        its_own := coalesce(substring(written FROM '=(sha256|hmac)$'), algorithm);
        column_name := regexp_replace(written, '=(sha256|hmac)$', '');
        SELECT a.attname, a.attnum, a.atttypid, a.atttypmod, a.attgenerated INTO item
            FROM pg_catalog.pg_attribute a
            WHERE a.attrelid = relation AND a.attname = column_name AND a.attnum > 0 AND NOT a.attisdropped;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'columns must name columns of %, which % is not', relation, quote_ident(column_name)
                USING ERRCODE = 'KS400', HINT = 'A column is named by itself, as email, or with its algorithm, as email=sha256 or email=hmac.';
        ELSIF item.attgenerated <> '' THEN
            RAISE EXCEPTION 'columns must not be generated, and %.% is', relation, quote_ident(column_name)
                USING ERRCODE = 'KS400';
        ELSIF NOT (item.atttypid IN ('text'::regtype, 'bytea'::regtype)
                   OR item.atttypid = 'varchar'::regtype AND (item.atttypmod < 0 OR item.atttypmod >= 4 + 78)) THEN
            RAISE EXCEPTION 'columns must be text, bytea, or varchar of 78 or more, and %.% is %', relation,
                quote_ident(column_name), format_type(item.atttypid, item.atttypmod)
                USING ERRCODE = 'KS400', HINT = 'What is stored is a digest of up to 78 characters. Rules of a domain would hold for it, not for the value.';
        ELSIF EXISTS (SELECT FROM pg_catalog.pg_depend d, keysmith.row_parts(relation) p
                      WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = p.part AND d.refobjsubid = 0
                        AND d.classid = 'pg_class'::regclass AND d.objid = p.part AND d.deptype = 'i'
                        AND d.objsubid = (SELECT a.attnum FROM pg_catalog.pg_attribute a
                                             WHERE a.attrelid = p.part AND a.attname = column_name)) THEN
            RAISE EXCEPTION 'columns must not be those that rows are partitioned by, and %.% is', relation,
                quote_ident(column_name) USING ERRCODE = 'KS400';
        ELSIF EXISTS (SELECT FROM pg_catalog.pg_constraint c
                      WHERE c.contype = 'f' AND c.confupdtype = 'c'
                        AND (c.conrelid = relation AND item.attnum = ANY (c.conkey)
                             OR c.confrelid = relation AND item.attnum = ANY (c.confkey))) THEN
            RAISE EXCEPTION 'columns must not be of a foreign key with ON UPDATE CASCADE, and %.% is', relation,
                quote_ident(column_name)
                USING ERRCODE = 'KS400', HINT = 'What is cascaded is a digest, and would be digested again.';
        END IF;
        -- Raises an error where there is no pepper.
        PERFORM keysmith.digest(''::text, its_own);
        SELECT coalesce(array_agg(w), '{}') INTO wanted FROM unnest(wanted) w
            WHERE regexp_replace(w, '=(sha256|hmac)$', '') <> column_name;
        wanted := wanted || (column_name || '=' || its_own);
    END LOOP;
    IF wanted @> before AND before @> wanted THEN
        RETURN;
    END IF;

    FOR item IN SELECT p.part FROM keysmith.row_parts(relation) p WHERE p.needs_trigger LOOP
        EXECUTE format(
            'CREATE OR REPLACE TRIGGER %I BEFORE INSERT OR UPDATE ON %s
                 FOR EACH ROW EXECUTE FUNCTION keysmith.hash_columns(%s)',
            hash_trigger, item.part, (SELECT string_agg(quote_literal(w), ', ') FROM unnest(wanted) w));
    END LOOP;
    FOR item IN
        SELECT t.tgname, t.tgrelid::regclass AS part
        FROM pg_catalog.pg_trigger t JOIN keysmith.row_parts(relation) p ON p.part = t.tgrelid
        WHERE t.tgtype & 3 = 3 AND t.tgtype & 20 <> 0 AND t.tgname > hash_trigger
          AND t.tgfoid <> 'keysmith.hash_columns()'::regprocedure AND t.tgname <> '~keysmith_2_seal'
    LOOP
        RAISE WARNING 'trigger % of % runs after the digests are made: what it sets is stored as it is',
            quote_ident(item.tgname), item.part USING HINT = 'Triggers run in the order of their names.';
    END LOOP;

    -- No one else can write before this transaction ends. Where no value looks like a digest
    -- now, each that ever will is one: that is how protect_existing knows what is done.
    SELECT obj_description(t.oid, 'pg_trigger')::jsonb INTO state
        FROM pg_catalog.pg_trigger t WHERE t.tgrelid = relation AND t.tgname = hash_trigger;
    clean := coalesce(state -> 'clean', '[]');
    FOR column_name IN
        SELECT regexp_replace(w, '=(sha256|hmac)$', '') FROM unnest(wanted) w
        EXCEPT SELECT regexp_replace(b, '=(sha256|hmac)$', '') FROM unnest(before) b
        ORDER BY 1
    LOOP
        clean := clean - column_name;
        IF NOT pg_catalog.row_security_active(relation)
            AND pg_catalog.has_column_privilege(relation, column_name, 'SELECT') THEN
            EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE keysmith.is_digest(%I))', relation, column_name)
                INTO found_one;
            IF found_one THEN
                RAISE WARNING 'values of %.% look like digests already', relation, quote_ident(column_name)
                    USING HINT = 'They are left as they are. protect_existing asks what they are.';
            ELSE
                clean := clean || to_jsonb(column_name);
            END IF;
            EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE NOT keysmith.is_digest(%I))', relation, column_name)
                INTO found_one;
            IF found_one THEN
                RAISE NOTICE 'rows of % that are there keep their values of %', relation, quote_ident(column_name)
                    USING HINT = format('CALL keysmith.protect_existing(%L) has them digested.', relation);
            END IF;
        END IF;
    END LOOP;
    EXECUTE format('COMMENT ON TRIGGER %I ON %s IS %L', hash_trigger, relation,
                   coalesce(state, '{}') || jsonb_build_object('clean', clean));
END $$;
COMMENT ON FUNCTION keysmith.protect(regclass, text[], text) IS
'Has a table store digests of what is written to the named columns; name=hmac for one with the server''s pepper';

-- The first column stands by itself, so that an array of columns is never taken for this.
CREATE FUNCTION keysmith.protect(relation regclass, column_name text, VARIADIC more_columns text[] DEFAULT '{}')
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM keysmith.protect(relation, columns => column_name || more_columns);
END $$;
COMMENT ON FUNCTION keysmith.protect(regclass, text, text[]) IS
'Has a table store digests of what is written to the named columns, each an argument of its own';

CREATE FUNCTION keysmith.unprotect(relation regclass, columns text[] DEFAULT '{}') RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    hash_trigger CONSTANT text := '~keysmith_1_hash';
    remaining text[];
    item      record;
BEGIN
    remaining := keysmith.trigger_arguments(relation, hash_trigger);
    IF remaining IS NULL THEN
        RAISE EXCEPTION 'table % is not protected', relation USING ERRCODE = 'KS404';
    END IF;
    IF columns IS NULL OR array_position(columns, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'columns must not be null' USING ERRCODE = 'KS400';
    END IF;
    FOR item IN SELECT c AS name FROM unnest(columns) c
                WHERE c <> ALL (SELECT regexp_replace(r, '=(sha256|hmac)$', '') FROM unnest(remaining) r) LOOP
        RAISE EXCEPTION 'column % of % is not protected', quote_ident(item.name), relation USING ERRCODE = 'KS404';
    END LOOP;
    SELECT coalesce(array_agg(r), '{}') INTO remaining FROM unnest(remaining) r
        WHERE cardinality(columns) > 0 AND regexp_replace(r, '=(sha256|hmac)$', '') <> ALL (columns);
    FOR item IN SELECT p.part FROM keysmith.row_parts(relation) p WHERE p.needs_trigger LOOP
        IF cardinality(remaining) = 0 THEN
            EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', hash_trigger, item.part);
        ELSE
            EXECUTE format(
                'CREATE OR REPLACE TRIGGER %I BEFORE INSERT OR UPDATE ON %s
                     FOR EACH ROW EXECUTE FUNCTION keysmith.hash_columns(%s)',
                hash_trigger, item.part, (SELECT string_agg(quote_literal(r), ', ') FROM unnest(remaining) r));
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION keysmith.unprotect(regclass, text[]) IS
'Undoes protect, for some columns or all: what is written from now on is stored as it is; digests stay';

CREATE FUNCTION keysmith.unprotect(relation regclass, column_name text, VARIADIC more_columns text[] DEFAULT '{}')
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM keysmith.unprotect(relation, columns => column_name || more_columns);
END $$;
COMMENT ON FUNCTION keysmith.unprotect(regclass, text, text[]) IS
'Undoes protect for the named columns, each an argument of its own';

CREATE FUNCTION keysmith.begin_hashing(relation regclass, trust_digests boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    hash_trigger CONSTANT text := '~keysmith_1_hash';
    arguments text[];
    state     jsonb;
    clean     jsonb;
    column_name text;
    has_both  boolean;
BEGIN
    arguments := keysmith.trigger_arguments(relation, hash_trigger);
    IF arguments IS NULL THEN
        RAISE EXCEPTION 'table % is not protected', relation
            USING ERRCODE = 'KS404', HINT = 'Call keysmith.protect first.';
    ELSIF EXISTS (SELECT FROM keysmith.row_parts(relation) p WHERE row_security_active(p.part)) THEN
        RAISE EXCEPTION 'row-level security may hide rows of % from this role', relation
            USING ERRCODE = 'KS403', HINT = 'A superuser, or a role with BYPASSRLS, sees all rows.';
    END IF;
    SELECT coalesce(obj_description(t.oid, 'pg_trigger')::jsonb, '{}') INTO state
        FROM pg_catalog.pg_trigger t WHERE t.tgrelid = relation AND t.tgname = hash_trigger;
    clean := coalesce(state -> 'clean', '[]');
    FOR column_name IN SELECT regexp_replace(a, '=(sha256|hmac)$', '') FROM unnest(arguments) a LOOP
        CONTINUE WHEN clean ? column_name;
        EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', relation);
        EXECUTE format(
            'SELECT EXISTS (SELECT FROM %1$s WHERE keysmith.is_digest(%2$I))
                AND EXISTS (SELECT FROM %1$s WHERE NOT keysmith.is_digest(%2$I))', relation, column_name)
            INTO has_both;
        IF has_both AND trust_digests IS NOT TRUE THEN
            RAISE EXCEPTION 'some values of %.% looked like digests when it was protected', relation,
                quote_ident(column_name)
                USING ERRCODE = 'KS409',
                      HINT = 'If they are digests of ours, and no value that was written as such, pass trust_digests => true.';
        END IF;
        clean := clean || to_jsonb(column_name);
    END LOOP;
    IF state ->> 'finished_at' IS NOT NULL OR state -> 'started_at' IS NULL THEN
        state := jsonb_build_object(
            'started_at', clock_timestamp(), 'pass', 1, 'page', 0, 'rows', 0, 'pages_done', 0, 'pages',
            (SELECT sum(pg_relation_size(p.part))::bigint / current_setting('block_size')::bigint
             FROM keysmith.row_parts(relation) p));
    END IF;
    EXECUTE format('COMMENT ON TRIGGER %I ON %s IS %L', hash_trigger, relation,
                   state || jsonb_build_object('clean', clean));
END $$;
COMMENT ON FUNCTION keysmith.begin_hashing(regclass, boolean) IS
'Begins or resumes the work of protect_existing, which calls it';

CREATE FUNCTION keysmith.step_hashing(
    relation regclass,
    pages bigint,
    hashed bigint,
    OUT part regclass,
    OUT first_page bigint,
    OUT beyond bigint
) RETURNS record
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    hash_trigger CONSTANT text := '~keysmith_1_hash';
    state     jsonb;
    size      bigint;
    plain     boolean := false;
    item      record;
    percent   int;
BEGIN
    IF pages IS NULL OR pages < 1 THEN
        RAISE EXCEPTION 'pages must be 1 or more' USING ERRCODE = 'KS400';
    END IF;
    SELECT obj_description(t.oid, 'pg_trigger')::jsonb INTO state
        FROM pg_catalog.pg_trigger t WHERE t.tgrelid = relation AND t.tgname = hash_trigger;
    IF state IS NULL THEN
        RAISE EXCEPTION 'table % is not protected any more', relation USING ERRCODE = 'KS404';
    END IF;
    percent := 10 * least((state ->> 'pages_done')::bigint, (state ->> 'pages')::bigint)
               / greatest((state ->> 'pages')::bigint, 1);
    state := state || jsonb_build_object('rows', (state ->> 'rows')::bigint + coalesce(hashed, 0));
    IF hashed IS NOT NULL THEN
        state := state || jsonb_build_object('page', (state ->> 'page')::bigint + pages,
                                             'pages_done', (state ->> 'pages_done')::bigint + pages);
    END IF;
    -- The part that it is at, or the next after it: by name, since a restore numbers anew.
    FOR item IN
        SELECT p.part AS found, format('%I.%I', n.nspname, c.relname) AS name
        FROM keysmith.row_parts(relation) p
        JOIN pg_catalog.pg_class c ON c.oid = p.part AND c.relkind = 'r'
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE state ->> 'part' IS NULL OR format('%I.%I', n.nspname, c.relname) COLLATE "C" >= (state ->> 'part')
        ORDER BY format('%I.%I', n.nspname, c.relname) COLLATE "C"
    LOOP
        IF item.name IS DISTINCT FROM state ->> 'part' THEN
            state := state || jsonb_build_object('part', item.name, 'page', 0);
        END IF;
        size := pg_relation_size(item.found) / current_setting('block_size')::bigint;
        IF (state ->> 'page')::bigint < size THEN
            part := item.found;
            EXIT;
        END IF;
    END LOOP;
    IF part IS NULL THEN
        -- Rows that were updated have moved, maybe to pages that were done. No one writes
        -- new values that are no digests, so when none is seen at once, none is left.
        FOR item IN
            SELECT regexp_replace(a, '=(sha256|hmac)$', '') AS name
            FROM unnest(keysmith.trigger_arguments(relation, hash_trigger)) a
        LOOP
            EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE NOT keysmith.is_digest(%I))', relation, item.name)
                INTO plain;
            EXIT WHEN plain;
        END LOOP;
        IF plain THEN
            state := state || jsonb_build_object('part', NULL, 'page', 0, 'pass', (state ->> 'pass')::int + 1);
            SELECT p.part, n.nspname, c.relname INTO item
                FROM keysmith.row_parts(relation) p
                JOIN pg_catalog.pg_class c ON c.oid = p.part AND c.relkind = 'r'
                JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                ORDER BY format('%I.%I', n.nspname, c.relname) COLLATE "C" LIMIT 1;
            part := item.part;
            state := state || jsonb_build_object('part', format('%I.%I', item.nspname, item.relname));
        ELSE
            state := state || jsonb_build_object('finished_at', clock_timestamp(), 'part', NULL);
            RAISE NOTICE 'all of % is digested; % rows were', relation, state ->> 'rows'
                USING HINT = 'What they held is in dead rows until VACUUM FULL, and in the WAL until that is recycled.';
        END IF;
    END IF;
    first_page := (state ->> 'page')::bigint;
    beyond := first_page + pages;
    IF part IS NOT NULL AND 10 * least((state ->> 'pages_done')::bigint, (state ->> 'pages')::bigint)
                            / greatest((state ->> 'pages')::bigint, 1) > percent THEN
        RAISE NOTICE '% of % pages of % are done, % rows digested',
            least((state ->> 'pages_done')::bigint, (state ->> 'pages')::bigint), state ->> 'pages', relation, state ->> 'rows';
    END IF;
    EXECUTE format('COMMENT ON TRIGGER %I ON %s IS %L', hash_trigger, relation, state);
END $$;
COMMENT ON FUNCTION keysmith.step_hashing(regclass, bigint, bigint) IS
'Notes what protect_existing has done, and tells it which pages are next';

-- No search path is set: a procedure that sets one can't commit, and the table's other
-- triggers are to find what they find otherwise.
CREATE PROCEDURE keysmith.protect_existing(
    relation regclass,
    pages bigint DEFAULT 100,
    trust_digests boolean DEFAULT false
)
LANGUAGE plpgsql AS $$
DECLARE
    next_part pg_catalog.regclass;
    first_page pg_catalog.int8;
    beyond pg_catalog.int8;
    hashed pg_catalog.int8;
BEGIN
    PERFORM keysmith.begin_hashing(relation, trust_digests);
    LOOP
        SELECT s.part, s.first_page, s.beyond INTO next_part, first_page, beyond
            FROM keysmith.step_hashing(relation, pages, hashed) s;
        COMMIT;
        EXIT WHEN next_part IS NULL;
        hashed := keysmith.hash_pages(next_part, first_page, beyond);
    END LOOP;
END $$;
COMMENT ON PROCEDURE keysmith.protect_existing(regclass, bigint, boolean) IS
'Has the rows of a protected table that were there before digested in place, some pages a transaction; called again it goes on';

CREATE FUNCTION keysmith.hashing_state(trigger_id oid) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    state jsonb;
BEGIN
    state := obj_description(trigger_id, 'pg_trigger')::jsonb;
    PERFORM (state ->> 'pass')::int, (state ->> 'pages')::bigint, (state ->> 'pages_done')::bigint,
            (state ->> 'rows')::bigint, (state ->> 'started_at')::timestamptz,
            (state ->> 'finished_at')::timestamptz;
    RETURN state;
EXCEPTION WHEN data_exception THEN
    -- The table's owner may write anything there.
    RETURN NULL;
END $$;
COMMENT ON FUNCTION keysmith.hashing_state(oid) IS
'What a table''s hashing trigger says of the rows that were there before';

CREATE VIEW keysmith.hashing_progress AS
SELECT t.tgrelid::regclass AS relation,
       CASE WHEN s.state ->> 'started_at' IS NULL THEN 'not begun'
            WHEN s.state ->> 'finished_at' IS NULL THEN 'digesting rows'
            ELSE 'done' END AS phase,
       s.state ->> 'part' AS part,
       (s.state ->> 'pass')::int AS round,
       (s.state ->> 'pages')::bigint AS pages_total,
       least((s.state ->> 'pages_done')::bigint, (s.state ->> 'pages')::bigint) AS pages_done,
       (s.state ->> 'rows')::bigint AS rows_done,
       (s.state ->> 'started_at')::timestamptz AS started_at,
       (s.state ->> 'finished_at')::timestamptz AS finished_at
FROM pg_catalog.pg_trigger t,
     LATERAL (SELECT keysmith.hashing_state(t.oid) AS state) s
WHERE t.tgname = '~keysmith_1_hash' AND t.tgparentid = 0
  AND t.tgfoid = 'keysmith.hash_columns()'::regprocedure AND s.state IS NOT NULL;
COMMENT ON VIEW keysmith.hashing_progress IS 'Protected tables, and how far protect_existing is with each';
COMMENT ON COLUMN keysmith.hashing_progress.relation IS 'The protected table';
COMMENT ON COLUMN keysmith.hashing_progress.phase IS 'not begun, digesting rows or done';
COMMENT ON COLUMN keysmith.hashing_progress.part IS 'The table, partition or child that it is at; null before and after';
COMMENT ON COLUMN keysmith.hashing_progress.round IS 'The round that it is in: rows that moved meanwhile are met in another';
COMMENT ON COLUMN keysmith.hashing_progress.pages_total IS 'How many pages the table had when it began';
COMMENT ON COLUMN keysmith.hashing_progress.pages_done IS 'How many of these are done';
COMMENT ON COLUMN keysmith.hashing_progress.rows_done IS 'How many rows were digested';
COMMENT ON COLUMN keysmith.hashing_progress.started_at IS 'When it began; null if it has not';
COMMENT ON COLUMN keysmith.hashing_progress.finished_at IS 'When it was done; null if it is not';
