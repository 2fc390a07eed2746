-- Row-level security for applications' own tables. These act as the caller, who must
-- own the table.

CREATE FUNCTION keysmith.column_type(relation regclass, argument text, name text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kind oid;
BEGIN
    SELECT a.atttypid INTO kind FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = relation AND a.attname = name AND a.attnum > 0 AND NOT a.attisdropped;
    IF NOT FOUND THEN
        RAISE EXCEPTION '% must be a column of %, which % is not',
            argument, relation, pg_catalog.quote_ident(name) USING ERRCODE = 'KS400';
    END IF;
    -- A domain is what it is made of.
    WHILE EXISTS (SELECT FROM pg_catalog.pg_type t WHERE t.oid = kind AND t.typtype = 'd') LOOP
        SELECT t.typbasetype INTO kind FROM pg_catalog.pg_type t WHERE t.oid = kind;
    END LOOP;
    RETURN CASE WHEN kind = 'pg_catalog.varchar'::regtype THEN 'text'
                ELSE pg_catalog.format_type(kind, NULL) END;
END $$;
COMMENT ON FUNCTION keysmith.column_type(regclass, text, text) IS
'The type of a column: text also for varchar, and for domains what they are made of';

CREATE FUNCTION keysmith.isolate(
    relation regclass,
    tenant_column text,
    keyspace text DEFAULT NULL,
    environment_column text DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    target     record;
    condition  text;
    before     text;
    type_name  text;
    item       record;
BEGIN
    IF relation IS NULL OR tenant_column IS NULL THEN
        RAISE EXCEPTION 'relation and tenant_column must not be null' USING ERRCODE = 'KS400';
    END IF;
    SELECT c.relkind, c.relrowsecurity, c.relforcerowsecurity, c.relnamespace, c.relowner
        INTO target FROM pg_catalog.pg_class c WHERE c.oid = relation;
    IF target.relkind IS NULL OR target.relkind NOT IN ('r', 'p')
        OR target.relnamespace IN ('keysmith_private'::regnamespace, 'pg_catalog'::regnamespace) THEN
        RAISE EXCEPTION 'relation must be a table of an application, which % is not', relation
            USING ERRCODE = 'KS400';
    END IF;

    IF EXISTS (
        SELECT FROM pg_catalog.pg_attribute a
        JOIN pg_catalog.pg_collation c ON c.oid = a.attcollation
        WHERE a.attrelid = relation AND a.attname IN (tenant_column, environment_column)
          AND NOT c.collisdeterministic
    ) THEN
        RAISE EXCEPTION 'tenant_column and environment_column must have a deterministic collation'
            USING ERRCODE = 'KS400', HINT = 'By another, two tenants'' names may be equal.';
    END IF;

    -- Sub-selects are evaluated once a query, and what they give can be looked up in an
    -- index; bare calls would be made for each row.
    type_name := keysmith.column_type(relation, 'tenant_column', tenant_column);
    IF type_name = 'uuid' THEN
        condition := pg_catalog.format(
            '%I OPERATOR(pg_catalog.=) (SELECT keysmith.current_tenant_id())', tenant_column);
    ELSIF type_name <> 'text' THEN
        RAISE EXCEPTION 'tenant_column must be of type uuid or text, and %.% is %',
            relation, pg_catalog.quote_ident(tenant_column), type_name USING ERRCODE = 'KS400';
    ELSIF keyspace IS NULL THEN
        RAISE EXCEPTION 'keyspace must be given where tenants are named by text'
            USING ERRCODE = 'KS400', HINT = 'Two keyspaces may each have a tenant of that name.';
    ELSE
        condition := pg_catalog.format(
            '%I OPERATOR(pg_catalog.=) (SELECT keysmith.current_tenant())', tenant_column);
    END IF;
    IF keyspace IS NOT NULL THEN
        condition := condition || pg_catalog.format(
            ' AND (SELECT keysmith.current_keyspace()) OPERATOR(pg_catalog.=) %L', keyspace);
    END IF;
    IF environment_column IS NOT NULL THEN
        IF keysmith.column_type(relation, 'environment_column', environment_column) <> 'text' THEN
            RAISE EXCEPTION 'environment_column must be of type text' USING ERRCODE = 'KS400';
        END IF;
        condition := condition || pg_catalog.format(
            ' AND %I OPERATOR(pg_catalog.=) (SELECT keysmith.current_environment())',
            environment_column);
    END IF;

    -- What release() is to restore: of the first isolation, if this is another.
    SELECT pg_catalog.obj_description(p.oid, 'pg_policy') INTO before
        FROM pg_catalog.pg_policy p WHERE p.polrelid = relation AND p.polname = 'keysmith_tenant';
    IF FOUND THEN
        EXECUTE pg_catalog.format('DROP POLICY keysmith_tenant ON %s', relation);
        EXECUTE pg_catalog.format('DROP POLICY IF EXISTS keysmith_access ON %s', relation);
    ELSE
        before := pg_catalog.format('Rows of the tenant that is signed in. Before: %s, %s.',
            CASE WHEN target.relrowsecurity THEN 'enabled' ELSE 'disabled' END,
            CASE WHEN target.relforcerowsecurity THEN 'forced' ELSE 'not forced' END);
    END IF;
    EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', relation);
    EXECUTE pg_catalog.format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', relation);
    -- Restrictive: permissive policies add to one another, so that any other would open
    -- the table again. But one must permit what this one restricts.
    EXECUTE pg_catalog.format(
        'CREATE POLICY keysmith_tenant ON %s AS RESTRICTIVE USING (%s) WITH CHECK (%2$s)',
        relation, condition);
    EXECUTE pg_catalog.format('COMMENT ON POLICY keysmith_tenant ON %s IS %L', relation, before);
    IF EXISTS (SELECT FROM pg_catalog.pg_policy p WHERE p.polrelid = relation AND p.polpermissive) THEN
        RAISE NOTICE 'table % has policies of its own: they say which of a tenant''s rows are visible',
            relation;
    ELSE
        -- It calls a function of ours, so that it goes when the extension is dropped with
        -- all that depends on it: what would be left without keysmith_tenant is an open table.
        EXECUTE pg_catalog.format(
            'CREATE POLICY keysmith_access ON %s USING ((SELECT keysmith.current_key()) IS NOT NULL)',
            relation);
        EXECUTE pg_catalog.format(
            'COMMENT ON POLICY keysmith_access ON %s IS %L', relation,
            'All rows that keysmith_tenant leaves.');
    END IF;

    -- What defeats it.
    FOR item IN
        SELECT r.rolname, r.rolsuper, r.oid = target.relowner AS is_owner
        FROM pg_catalog.pg_roles r
        WHERE (r.rolsuper OR r.rolbypassrls)
          AND (r.oid = target.relowner OR NOT r.rolsuper
               AND pg_catalog.has_table_privilege(r.oid, relation, 'SELECT, INSERT, UPDATE, DELETE'))
    LOOP
        RAISE WARNING 'role % sees all rows of %: it % and %',
            pg_catalog.quote_ident(item.rolname), relation,
            CASE WHEN item.is_owner THEN 'owns the table' ELSE 'may use the table' END,
            CASE WHEN item.rolsuper THEN 'is a superuser' ELSE 'has BYPASSRLS' END;
    END LOOP;
    FOR item IN
        WITH RECURSIVE above(oid) AS (
            SELECT relation::oid
            UNION
            SELECT w.ev_class
            FROM above
            JOIN pg_catalog.pg_depend d ON d.refobjid = above.oid
                AND d.refclassid = 'pg_catalog.pg_class'::regclass
                AND d.classid = 'pg_catalog.pg_rewrite'::regclass
            JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid
            JOIN pg_catalog.pg_class c ON c.oid = w.ev_class AND c.relkind IN ('v', 'm')
        )
        SELECT c.oid::regclass AS name, c.relkind, r.rolname
        FROM above
        JOIN pg_catalog.pg_class c ON c.oid = above.oid AND c.oid <> relation
        JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
        WHERE c.relkind = 'm'
           OR (r.rolsuper OR r.rolbypassrls) AND NOT coalesce((
                  SELECT o.option_value::boolean FROM pg_catalog.pg_options_to_table(c.reloptions) o
                  WHERE o.option_name = 'security_invoker'), false)
        ORDER BY 1
    LOOP
        IF item.relkind = 'm' THEN
            RAISE WARNING 'materialized view % holds rows of % for whoever may read it',
                item.name, relation;
        ELSE
            RAISE WARNING 'view % shows all rows of %: it reads them as its owner %',
                item.name, relation, pg_catalog.quote_ident(item.rolname)
                USING HINT = 'ALTER VIEW ... SET (security_invoker = true)';
        END IF;
    END LOOP;
    FOR item IN
        WITH RECURSIVE part(oid) AS (
            SELECT i.inhrelid FROM pg_catalog.pg_inherits i WHERE i.inhparent = relation
            UNION
            SELECT i.inhrelid FROM part JOIN pg_catalog.pg_inherits i ON i.inhparent = part.oid
        ), whole(oid) AS (
            SELECT i.inhparent FROM pg_catalog.pg_inherits i WHERE i.inhrelid = relation
            UNION
            SELECT i.inhparent FROM whole JOIN pg_catalog.pg_inherits i ON i.inhrelid = whole.oid
        )
        SELECT t.oid::regclass AS name, t.is_part
        FROM (SELECT part.oid, true AS is_part FROM part
              UNION ALL SELECT whole.oid, false FROM whole) t
        WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_policy p
                          WHERE p.polrelid = t.oid AND p.polname = 'keysmith_tenant')
        ORDER BY 2 DESC, 1
    LOOP
        IF item.is_part THEN
            RAISE WARNING 'table % is part of %, and can be read past it', item.name, relation
                USING HINT = 'Isolate it too, or let nobody use it directly.';
        ELSE
            RAISE WARNING 'all rows of % can be read through %, of which it is part',
                relation, item.name USING HINT = 'Isolate that table.';
        END IF;
    END LOOP;
    IF NOT EXISTS (
        SELECT FROM pg_catalog.pg_index i
        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = relation AND i.indisvalid AND i.indpred IS NULL
          AND a.attname = tenant_column
    ) THEN
        RAISE NOTICE 'table % has no index that begins with %', relation,
            pg_catalog.quote_ident(tenant_column)
            USING HINT = 'With one, a tenant''s rows are found without reading the others.';
    END IF;
END $$;
COMMENT ON FUNCTION keysmith.isolate(regclass, text, text, text) IS
'Has row-level security show and accept the rows of the tenant that is signed in, and no others';

CREATE FUNCTION keysmith.release(relation regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before text;
BEGIN
    SELECT pg_catalog.obj_description(p.oid, 'pg_policy') INTO before
        FROM pg_catalog.pg_policy p WHERE p.polrelid = relation AND p.polname = 'keysmith_tenant';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'table % is not isolated', relation USING ERRCODE = 'KS404';
    END IF;
    EXECUTE pg_catalog.format('DROP POLICY keysmith_tenant ON %s', relation);
    EXECUTE pg_catalog.format('DROP POLICY IF EXISTS keysmith_access ON %s', relation);
    -- A table that has other policies keeps its row security: they were made for it.
    IF before LIKE '%Before: disabled%'
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_policy p WHERE p.polrelid = relation) THEN
        EXECUTE pg_catalog.format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', relation);
    END IF;
    IF before LIKE '%not forced%' THEN
        EXECUTE pg_catalog.format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY', relation);
    END IF;
END $$;
COMMENT ON FUNCTION keysmith.release(regclass) IS
'Undoes isolate: takes its policies away, and leaves row security as it was';
