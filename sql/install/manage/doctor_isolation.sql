-- The part of doctor() that looks at isolated tables, and at tables that should be isolated.

-- A function in a sub-select that depends on no row is called once per query, elsewhere once
-- per row. The text of an expression tree has nested braces; a brace in a name is escaped by a
-- backslash.
CREATE FUNCTION keysmith_private.has_bare_call(expression pg_catalog.pg_node_tree) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    depth     integer := 0;
    -- The depth of the sub-select that the loop is in; 0 outside of any.
    subselect integer := 0;
    token     text;
BEGIN
    IF keysmith_private.is_too_long(expression) THEN
        RETURN NULL;
    END IF;
    FOR token IN
        SELECT m[1] FROM regexp_matches(regexp_replace(expression::text, '\\.', '', 'g'),
                                        '(\{SUBLINK|\{FUNCEXPR :funcid \d+|\{|\})', 'g') AS m
    LOOP
        IF token = '}' THEN
            subselect := CASE WHEN subselect = depth THEN 0 ELSE subselect END;
            depth := depth - 1;
            CONTINUE;
        END IF;
        depth := depth + 1;
        IF subselect > 0 THEN
            CONTINUE;
        ELSIF token = '{SUBLINK' THEN
            subselect := depth;
        ELSIF token LIKE '{FUNCEXPR%' AND EXISTS (
            SELECT FROM pg_proc p WHERE p.pronamespace = 'keysmith'::regnamespace
              AND p.oid = substring(token FROM '\d+$')::oid
        ) THEN
            RETURN true;
        END IF;
    END LOOP;
    RETURN false;
END $$;
COMMENT ON FUNCTION keysmith_private.has_bare_call(pg_catalog.pg_node_tree) IS
'Whether a policy calls one of our functions outside of a sub-select, and so once per row; null if it is too long to be checked';

CREATE FUNCTION keysmith_private.doctor_isolation(
    OUT level text, OUT subject text, OUT finding text, OUT remedy text
) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    WITH isolated AS (
        SELECT i.found AS oid FROM keysmith_private.isolated i
        UNION
        SELECT p.polrelid FROM pg_policy p
        WHERE EXISTS (SELECT FROM pg_depend d JOIN pg_proc f ON f.oid = d.refobjid
                      WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid
                        AND d.refclassid = 'pg_proc'::regclass
                        AND f.pronamespace = 'keysmith'::regnamespace)
    ), tenant_column AS (
        SELECT b.found AS oid, b.tenant_column AS attname, b.tenant_type AS atttypid, b.tenant_number AS attnum, b.keyspace
        FROM keysmith_private.isolated_by b
    )
    SELECT p.level, 'isolation', format('table %s: %s', p.relation::regclass, p.problem), p.remedy
    FROM (SELECT * FROM keysmith_private.isolation_problems()
          UNION ALL SELECT * FROM keysmith_private.views_above_isolated()) p
    UNION ALL
    SELECT 'warning', 'isolation', format('table %s: its owner %s may verify, and could end its isolation',
                                          c.oid::regclass, c.relowner::regrole),
           'give it an owner without a level'
    FROM pg_class c
    WHERE c.oid IN (SELECT oid FROM isolated)
      AND c.relowner IN (SELECT v.oid FROM keysmith_private.verifying_role v)
    UNION ALL
    SELECT 'error', 'isolation', format('role %s may verify, and row security does not apply to it: it %s',
                                        r.oid::regrole, CASE WHEN r.rolsuper THEN 'is a superuser'
                                                             ELSE 'has BYPASSRLS' END),
           format('ALTER ROLE %s %s', r.oid::regrole,
                  CASE WHEN r.rolsuper THEN 'NOSUPERUSER' ELSE 'NOBYPASSRLS' END)
    FROM pg_roles r JOIN keysmith_private.verifying_role v USING (oid) WHERE r.rolsuper OR r.rolbypassrls
    UNION ALL
    SELECT 'warning', 'isolation', format('table %s has the column %I of isolated tables, and is not isolated',
                                          c.oid::regclass, t.attname),
           format('SELECT keysmith.isolate(%L, %L%s)', c.oid::regclass, t.attname, ', ' || quote_literal(t.keyspace))
    FROM (SELECT attname, atttypid, min(keyspace) AS keyspace FROM tenant_column GROUP BY attname, atttypid) t
    JOIN pg_attribute a ON a.attname = t.attname AND a.atttypid = t.atttypid AND a.attnum > 0
    JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
    WHERE c.relnamespace <> 'keysmith_private'::regnamespace AND NOT c.relispartition AND NOT c.relrowsecurity
      AND c.oid NOT IN (SELECT oid FROM isolated)
      AND NOT EXISTS (SELECT FROM pg_inherits h JOIN isolated i ON i.oid = h.inhparent WHERE h.inhrelid = c.oid)
    UNION ALL
    SELECT 'warning', 'isolation', format('table %s fills in the tenant that is signed in, and is not isolated',
                                          c.oid::regclass),
           format('SELECT keysmith.isolate(%L, %L%s)', c.oid::regclass, a.attname,
                  CASE WHEN a.atttypid <> 'uuid'::regtype THEN ', ''default''' END)
    FROM pg_attrdef f
    JOIN pg_class c ON c.oid = f.adrelid AND c.relkind IN ('r', 'p')
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = f.adnum
    WHERE NOT c.relrowsecurity AND c.oid NOT IN (SELECT oid FROM isolated)
      AND (a.attname, a.atttypid) NOT IN (SELECT attname, atttypid FROM tenant_column)
      AND EXISTS (SELECT FROM pg_depend d JOIN pg_proc p ON p.oid = d.refobjid
                  WHERE d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
                    AND d.refclassid = 'pg_proc'::regclass AND p.pronamespace = 'keysmith'::regnamespace
                    AND p.proname IN ('current_tenant', 'current_tenant_id'))
    UNION ALL
    SELECT 'warning', 'isolation', format('table %s has row security and no policy: only its owner sees rows',
                                          c.oid::regclass),
           'isolate it, or make a policy of your own'
    FROM pg_class c
    WHERE c.relrowsecurity AND c.relkind IN ('r', 'p') AND NOT c.relispartition
      AND c.oid NOT IN (SELECT oid FROM isolated) AND NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid)
    UNION ALL
    SELECT 'warning', 'policies', format('policy %I of %s calls a function of keysmith for each row',
                                         p.polname, p.polrelid::regclass),
           'put the call into a sub-select: (SELECT keysmith.current_tenant_id())'
    FROM pg_policy p
    WHERE keysmith_private.has_bare_call(p.polqual) OR keysmith_private.has_bare_call(p.polwithcheck)
    UNION ALL
    SELECT 'warning', 'policies', format('table %s has no index that begins with %I', c.oid::regclass, t.attname),
           format('CREATE INDEX ON %s (%I)', c.oid::regclass, t.attname)
    FROM tenant_column t
    JOIN pg_class c USING (oid)
    WHERE c.reltuples >= 10000 AND NOT EXISTS (
        SELECT FROM pg_index x WHERE x.indrelid = c.oid AND x.indisvalid AND x.indkey[0] = t.attnum)
    UNION ALL
    -- PostgreSQL evaluates conditions with leakproof operators before policies, also by an index.
    -- Then EXPLAIN shows how many rows match, including rows of other tenants. Ids are left out:
    -- they are not worth guessing.
    SELECT 'warning', 'isolation', format('table %s: indexes on %s tell a tenant which values others have',
                                          t.oid::regclass, string_agg(DISTINCT quote_ident(a.attname), ', ')),
           format('begin them with %I: see "Isolated tables" in SECURITY.md', t.attname)
    FROM tenant_column t
    JOIN pg_index x ON x.indrelid = t.oid AND x.indisvalid AND x.indkey[0] <> t.attnum
    -- An index is also used for a condition on a later column alone.
    CROSS JOIN LATERAL generate_series(0, x.indnkeyatts - 1) AS i (n)
    JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = x.indkey[i.n] AND a.attnum <> t.attnum
    JOIN pg_opclass k ON k.oid = x.indclass[i.n]
    WHERE a.atttypid <> 'uuid'::regtype
      AND NOT (a.atttypid = ANY ('{smallint,integer,bigint}'::regtype[])
               AND (x.indisunique AND x.indnkeyatts = 1
                    OR EXISTS (SELECT FROM pg_constraint f WHERE f.conrelid = t.oid AND f.contype = 'f'
                               AND a.attnum = ANY (f.conkey))))
      AND EXISTS (SELECT FROM pg_amop m JOIN pg_operator o ON o.oid = m.amopopr JOIN pg_proc f ON f.oid = o.oprcode
                  WHERE m.amopfamily = k.opcfamily AND m.amoplefttype = k.opcintype AND f.proleakproof)
    GROUP BY t.oid, t.attname
$$;
COMMENT ON FUNCTION keysmith_private.doctor_isolation() IS
'The part of doctor() that looks at isolated tables, and at tables that should be isolated';
