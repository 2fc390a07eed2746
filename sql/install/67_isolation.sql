-- Row-level security for applications' own tables.

-- The policies that isolate() made, so that their loss is noticed. The table's number is that of one
-- database of one server: what was restored elsewhere is found by its name.
CREATE TABLE keysmith_private.isolated_table (
    server             bigint NOT NULL,
    database           oid NOT NULL,
    relation           oid NOT NULL,
    schema_name        text COLLATE "C" NOT NULL,
    table_name         text COLLATE "C" NOT NULL,
    tenant_column      text COLLATE "C" NOT NULL,
    tenant_number      smallint NOT NULL,
    keyspace           text COLLATE "C",
    environment_column text COLLATE "C",
    environment_number smallint,
    has_access         boolean NOT NULL,
    was_enabled        boolean NOT NULL,
    was_forced         boolean NOT NULL,
    isolated_at        timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (server, database, relation)
);
COMMENT ON TABLE keysmith_private.isolated_table IS 'Tables that isolate() was called for, and their policies as it made them';
COMMENT ON COLUMN keysmith_private.isolated_table.server IS 'The server and the database in which relation is the table''s number';
COMMENT ON COLUMN keysmith_private.isolated_table.tenant_number IS 'The column''s number, which stays when the column is renamed';
COMMENT ON COLUMN keysmith_private.isolated_table.has_access IS 'Whether there is to be keysmith_access: other policies permit rows otherwise';
COMMENT ON COLUMN keysmith_private.isolated_table.was_enabled IS 'Whether row security was enabled before; release() restores it';
COMMENT ON COLUMN keysmith_private.isolated_table.was_forced IS 'Whether row security was forced before; release() restores it';
SELECT pg_catalog.pg_extension_config_dump('keysmith_private.isolated_table', '');

-- Entries with their tables: by number where the number is of this database, and by name.
-- Both may be found, where a table was renamed and another was made under its name.
CREATE VIEW keysmith_private.isolated AS
WITH entry AS (
    SELECT t.*, t.server = s.system_identifier AND t.database = d.oid AS is_here
    FROM keysmith_private.isolated_table t, pg_catalog.pg_control_system() s, pg_catalog.pg_database d
    WHERE d.datname = pg_catalog.current_database()
)
SELECT e.*, c.oid AS found, true AS is_same, false AS is_namesake
FROM entry e JOIN pg_catalog.pg_class c ON c.oid = e.relation
WHERE e.is_here AND c.relkind IN ('r', 'p')
UNION ALL
SELECT e.*, c.oid, false, e.is_here AND EXISTS (
           SELECT FROM pg_catalog.pg_class o WHERE o.oid = e.relation AND o.relkind IN ('r', 'p'))
FROM entry e
JOIN pg_catalog.pg_namespace n ON n.nspname = e.schema_name
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = e.table_name
WHERE c.relkind IN ('r', 'p')
  -- A table that has its own entry is not the table of another entry.
  AND NOT EXISTS (SELECT FROM entry o WHERE o.is_here AND o.relation = c.oid);
COMMENT ON VIEW keysmith_private.isolated IS 'Isolated tables that are there, with their entries in the register';

CREATE FUNCTION keysmith_private.base_type(type oid) RETURNS oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE made_of(oid, base) AS (
        SELECT t.oid, t.typbasetype FROM pg_type t WHERE t.oid = type
        UNION ALL
        SELECT t.oid, t.typbasetype FROM made_of m JOIN pg_type t ON t.oid = m.base
    )
    SELECT m.oid FROM made_of m WHERE m.base = 0
$$;
COMMENT ON FUNCTION keysmith_private.base_type(oid) IS 'The type itself, or what a domain is made of';

-- It is written as PostgreSQL prints it, so that a policy can be compared with it.
--
-- Sub-selects are evaluated once a query, and what they give can be looked up in an
-- index; bare calls would be made for each row.
CREATE FUNCTION keysmith_private.isolation_condition(
    relation oid, tenant_number smallint, keyspace text, environment_number smallint
) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
    WITH compared AS (
        SELECT a.attnum, b.type = 'uuid'::regtype AS is_id,
               CASE WHEN a.atttypid IN ('uuid'::regtype, 'text'::regtype) THEN quote_ident(a.attname)
                    ELSE format('(%I)::%s', a.attname,
                                CASE WHEN b.type = 'uuid'::regtype THEN 'uuid' ELSE 'text' END) END AS operand
        FROM pg_attribute a, LATERAL (SELECT keysmith_private.base_type(a.atttypid) AS type) b
        WHERE a.attrelid = relation AND NOT a.attisdropped
    ), parts AS (
        SELECT 1 AS place, format('(%s = ( SELECT keysmith.%s() AS %2$s))', c.operand,
                                  CASE WHEN c.is_id THEN 'current_tenant_id' ELSE 'current_tenant' END) AS part
        FROM compared c WHERE c.attnum = tenant_number
        UNION ALL
        SELECT 2, format('(( SELECT keysmith.current_keyspace() AS current_keyspace) = ''%s''::text)', keyspace)
        WHERE keyspace IS NOT NULL
        UNION ALL
        SELECT 3, format('(%s = ( SELECT keysmith.current_environment() AS current_environment))', c.operand)
        FROM compared c WHERE c.attnum = environment_number
    )
    SELECT CASE count(*) WHEN 1 THEN min(part)
                ELSE '(' || string_agg(part, ' AND ' ORDER BY place) || ')' END
    FROM parts
$$;
COMMENT ON FUNCTION keysmith_private.isolation_condition(oid, smallint, text, smallint) IS
'The condition of an isolated table''s policies, as PostgreSQL prints it';

-- A column by its number where that is known, else by its name. If it was renamed before a
-- dump was made, neither is right in the restored database: then it may be any column that the
-- policies compare.
CREATE FUNCTION keysmith_private.columns_meant(relation oid, is_same boolean, number smallint, name text)
RETURNS SETOF smallint
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.attnum FROM pg_attribute a
    WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
      AND CASE
          WHEN is_same THEN a.attnum = number
          WHEN EXISTS (SELECT FROM pg_attribute o
                       WHERE o.attrelid = relation AND o.attname = name) THEN a.attname = name
          ELSE EXISTS (SELECT FROM pg_policy p JOIN pg_depend d ON d.objid = p.oid
                       WHERE p.polrelid = relation AND d.classid = 'pg_policy'::regclass
                         AND d.refclassid = 'pg_class'::regclass AND d.refobjid = relation
                         AND d.refobjsubid = a.attnum) END
      AND number IS NOT NULL
$$;
COMMENT ON FUNCTION keysmith_private.columns_meant(oid, boolean, smallint, text) IS
'The columns of a table that an entry of the register may mean';

-- No policy of isolate() is that long.
CREATE FUNCTION keysmith_private.is_too_long(expression pg_catalog.pg_node_tree) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN pg_column_size(expression) > 100000 THEN true
                ELSE octet_length(expression::text) > 100000 END
$$;
COMMENT ON FUNCTION keysmith_private.is_too_long(pg_catalog.pg_node_tree) IS
'Whether an expression is too long to be looked at';

-- To print a policy PostgreSQL opens its table, with all that the table has. Its owner may have it
-- locked, or have put there what can't be read again, such as an expression that is nested too deep.
CREATE FUNCTION keysmith_private.printed(expression pg_catalog.pg_node_tree, relation oid) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
SET lock_timeout = '20ms' AS $$
BEGIN
    IF keysmith_private.is_too_long(expression) THEN
        RETURN NULL;
    END IF;
    RETURN pg_get_expr(expression, relation);
EXCEPTION
    WHEN lock_not_available THEN
        RETURN '';
    WHEN OTHERS THEN
        RETURN NULL;
END $$;
COMMENT ON FUNCTION keysmith_private.printed(pg_catalog.pg_node_tree, oid) IS
'An expression of a table as PostgreSQL prints it; empty if the table is locked, null if it can''t be printed';

CREATE FUNCTION keysmith_private.policy_fault(
    relation oid, policy name, is_permissive boolean, condition text
) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN p.oid IS NULL THEN 'is gone'
        WHEN p.polpermissive AND NOT is_permissive THEN 'is permissive'
        WHEN is_permissive AND NOT p.polpermissive THEN 'is restrictive'
        WHEN p.polcmd <> '*' THEN 'is for one command only'
        WHEN p.polroles <> '{0}' THEN 'is for some roles only'
        WHEN '' IN (e.visible, e.accepted) THEN 'can''t be read, since someone has locked the table'
        WHEN condition IS NULL
          OR e.visible IS DISTINCT FROM condition OR e.accepted IS DISTINCT FROM condition
            THEN 'has another condition' END
    FROM (SELECT) AS always
    LEFT JOIN pg_policy p ON p.polrelid = relation AND p.polname = policy
    LEFT JOIN LATERAL (SELECT keysmith_private.printed(p.polqual, relation) AS visible,
                              keysmith_private.printed(p.polwithcheck, relation) AS accepted
                       WHERE p.oid IS NOT NULL) e ON true
$$;
COMMENT ON FUNCTION keysmith_private.policy_fault(oid, name, boolean, text) IS
'How a policy differs from what isolate() makes; null if it does not';

-- By which columns each table is isolated. Of several that an entry may mean, those count
-- which its policies compare. Without its columns a table has no condition to meet.
CREATE VIEW keysmith_private.isolated_by AS
SELECT DISTINCT ON (r.found) r.*
FROM (SELECT i.found, i.has_access, coalesce(t.attname, i.tenant_column) AS tenant_column,
             t.attnum AS tenant_number, t.atttypid AS tenant_type, i.keyspace,
             coalesce(e.attname, i.environment_column) AS environment_column,
             CASE WHEN t.attnum IS NOT NULL AND (e.attnum IS NOT NULL OR i.environment_number IS NULL)
                  THEN keysmith_private.isolation_condition(i.found, t.attnum, i.keyspace, e.attnum) END AS condition
      FROM keysmith_private.isolated i
      LEFT JOIN LATERAL (
          -- Not all columns: a view keeps them by name, and a later major has others.
          SELECT a.attname, a.attnum, a.atttypid FROM pg_catalog.pg_attribute a
          JOIN keysmith_private.columns_meant(
              i.found, i.is_same, i.tenant_number, i.tenant_column) AS m (number) ON m.number = a.attnum
          WHERE a.attrelid = i.found) t ON true
      LEFT JOIN LATERAL (
          SELECT a.attname, a.attnum FROM pg_catalog.pg_attribute a
          JOIN keysmith_private.columns_meant(
              i.found, i.is_same, i.environment_number, i.environment_column) AS m (number) ON m.number = a.attnum
          WHERE a.attrelid = i.found) e ON true) r
ORDER BY r.found,
         keysmith_private.policy_fault(r.found, 'keysmith_tenant', false, r.condition) IS NULL
         OR keysmith_private.policy_fault(r.found, 'keysmith_access', true, r.condition) IS NULL DESC;
COMMENT ON VIEW keysmith_private.isolated_by IS
'By which columns tables are isolated, and the condition that their policies must have';

-- Tables that Citus has distributed. Its catalog is there where it is installed.
CREATE FUNCTION keysmith_private.distributed_tables() RETURNS SETOF oid
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL THEN
        RETURN QUERY EXECUTE 'SELECT logicalrelid::oid FROM pg_catalog.pg_dist_partition';
    END IF;
END $$;
COMMENT ON FUNCTION keysmith_private.distributed_tables() IS 'Tables that Citus has distributed';

-- Who brings requests to tables: whoever was given the level verifier, or a function that
-- decides. Administrators may call all functions.
CREATE VIEW keysmith_private.verifying_role AS
WITH RECURSIVE verifier(oid) AS (
    (SELECT a.role::oid FROM keysmith_private.access a WHERE a.level = 'verifier'
     UNION
     SELECT x.grantee FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) x
     WHERE p.pronamespace = 'keysmith'::regnamespace AND x.grantee <> p.proowner
       AND p.proname IN ('verify', 'verify_digest', 'verify_many', 'authenticate', 'pre_request')
       AND x.grantee NOT IN (SELECT a.role FROM keysmith_private.access a WHERE a.level = 'admin'))
    UNION
    SELECT m.member FROM verifier v JOIN pg_catalog.pg_auth_members m ON m.roleid = v.oid
)
SELECT v.oid FROM verifier v WHERE v.oid <> 0;
COMMENT ON VIEW keysmith_private.verifying_role IS 'Roles that decide about keys, and their members';

CREATE FUNCTION keysmith_private.is_reachable(relation oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.relowner IN (SELECT v.oid FROM keysmith_private.verifying_role v)
        OR EXISTS (
            SELECT FROM (SELECT c.relacl AS acl
                         UNION ALL SELECT a.attacl FROM pg_attribute a WHERE a.attrelid = c.oid) s,
                        aclexplode(s.acl) x
            WHERE x.grantee <> c.relowner
              AND x.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE'))
    FROM pg_class c WHERE c.oid = relation
$$;
COMMENT ON FUNCTION keysmith_private.is_reachable(oid) IS
'Whether a table was granted to others than its owner, or its owner decides about keys';

-- What is wrong with isolated tables: by isolate(), or by policies that someone wrote with
-- our functions. A fault that lets a tenant see rows of another, or closes a table that
-- isolate() left open to its tenants, is an error; warnings are ways around policies.
CREATE FUNCTION keysmith_private.isolation_problems(
    wanted oid DEFAULT NULL, OUT relation oid, OUT level text, OUT problem text, OUT remedy text
) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    WITH RECURSIVE entry AS MATERIALIZED (
        SELECT i.* FROM keysmith_private.isolated i
    ), known AS MATERIALIZED (
        SELECT e.found AS oid, true AS is_registered FROM entry e
        UNION
        SELECT p.polrelid, false
        FROM pg_policy p
        JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid
             AND d.refclassid = 'pg_proc'::regclass
        JOIN pg_proc f ON f.oid = d.refobjid
        WHERE f.pronamespace = 'keysmith'::regnamespace
          AND p.polrelid NOT IN (SELECT e.found FROM entry e)
    ), isolated AS MATERIALIZED (
        SELECT c.oid, c.oid::regclass AS name, c.relowner, c.relrowsecurity, c.relforcerowsecurity,
               k.is_registered,
               k.is_registered AND NOT c.relrowsecurity AND NOT EXISTS (
                   SELECT FROM pg_policy p WHERE p.polrelid = c.oid
                   AND p.polname IN ('keysmith_tenant', 'keysmith_access')) AS is_bare
        FROM known k JOIN pg_class c USING (oid) WHERE wanted IS NULL OR c.oid = wanted
    ), part(of, oid) AS (
        SELECT i.oid, h.inhrelid FROM isolated i JOIN pg_inherits h ON h.inhparent = i.oid
        UNION
        SELECT p.of, h.inhrelid FROM part p JOIN pg_inherits h ON h.inhparent = p.oid
    ), whole(of, oid) AS (
        SELECT i.oid, h.inhparent FROM isolated i JOIN pg_inherits h ON h.inhrelid = i.oid
        UNION
        SELECT w.of, h.inhparent FROM whole w JOIN pg_inherits h ON h.inhrelid = w.oid
    ), above(of, oid) AS (
        SELECT i.oid, i.oid FROM isolated i
        UNION
        SELECT a.of, w.ev_class
        FROM above a
        JOIN pg_depend d ON d.refobjid = a.oid AND d.refclassid = 'pg_class'::regclass
             AND d.classid = 'pg_rewrite'::regclass
        JOIN pg_rewrite w ON w.oid = d.objid
        JOIN pg_class c ON c.oid = w.ev_class AND c.relkind IN ('v', 'm')
    )
    SELECT i.oid, 'error', 'it was isolated, and is not any more: all see all its rows',
           'call keysmith.isolate() for it again, or keysmith.release()'
    FROM isolated i WHERE i.is_bare
    UNION ALL
    SELECT i.oid, 'error', 'row security is off: all see all its rows',
           format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', i.name)
    FROM isolated i WHERE NOT i.relrowsecurity AND NOT i.is_bare
    UNION ALL
    SELECT i.oid, CASE WHEN i.is_registered THEN 'error' ELSE 'warning' END,
           format('row security is not forced: its owner %s sees all its rows', i.relowner::regrole),
           format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', i.name)
    FROM isolated i
    WHERE NOT i.relforcerowsecurity AND NOT i.is_bare AND (i.is_registered OR i.relrowsecurity)
    UNION ALL
    SELECT i.oid, 'error', format('policy %s %s', p.name, f.fault), 'call keysmith.isolate() for it again'
    FROM isolated i
    -- Not all tables' policies are printed for the sake of one.
    JOIN keysmith_private.isolated_by e ON e.found = i.oid AND (wanted IS NULL OR e.found = wanted)
    CROSS JOIN (VALUES ('keysmith_tenant', false), ('keysmith_access', true)) AS p (name, is_permissive)
    CROSS JOIN LATERAL keysmith_private.policy_fault(i.oid, p.name, p.is_permissive, e.condition) AS f (fault)
    WHERE f.fault IS NOT NULL AND (e.has_access OR NOT p.is_permissive) AND NOT i.is_bare
    UNION ALL
    SELECT i.oid, 'error', format('its owner %s %s, and sees all its rows', r.oid::regrole,
                                  CASE WHEN r.rolsuper THEN 'is a superuser' ELSE 'has BYPASSRLS' END),
           format('ALTER TABLE %s OWNER TO another role', i.name)
    FROM isolated i JOIN pg_roles r ON r.oid = i.relowner
    WHERE i.is_registered AND (r.rolsuper OR r.rolbypassrls)
    UNION ALL
    SELECT i.oid, 'error', format('its part %s can be read past it', p.oid::regclass),
           format('REVOKE ALL ON %s FROM those who have it, or isolate it too', p.oid::regclass)
    FROM isolated i JOIN part p ON p.of = i.oid
    WHERE p.oid NOT IN (SELECT k.oid FROM known k) AND keysmith_private.is_reachable(p.oid)
    UNION ALL
    SELECT i.oid, 'error', format('it is part of %s, which shows all its rows', w.oid::regclass),
           format('call keysmith.isolate() for %s too', w.oid::regclass)
    FROM isolated i JOIN whole w ON w.of = i.oid
    WHERE w.oid NOT IN (SELECT k.oid FROM known k) AND keysmith_private.is_reachable(w.oid)
    UNION ALL
    SELECT i.oid, 'error', 'Citus distributes it, and does not keep its policies', 'undistribute_table'
    FROM isolated i WHERE i.oid IN (SELECT keysmith_private.distributed_tables())
    UNION ALL
    SELECT i.oid, 'warning', CASE c.relkind
               WHEN 'm' THEN format('materialized view %s holds its rows for whoever may read it', c.oid::regclass)
               ELSE format('view %s shows all its rows: it reads as %s', c.oid::regclass, r.oid::regrole) END,
           CASE c.relkind WHEN 'm' THEN 'a table in its place, or let nobody read it'
               ELSE format('ALTER VIEW %s SET (security_invoker = true)', c.oid::regclass) END
    FROM isolated i
    JOIN above a ON a.of = i.oid
    JOIN pg_class c ON c.oid = a.oid AND c.relkind IN ('v', 'm')
    JOIN pg_roles r ON r.oid = c.relowner
    WHERE c.relkind = 'm'
       OR (r.rolsuper OR r.rolbypassrls) AND NOT coalesce((
              SELECT o.option_value::boolean FROM pg_options_to_table(c.reloptions) o
              WHERE o.option_name = 'security_invoker'), false)
    UNION ALL
    SELECT i.oid, 'warning', 'it has the policies of isolate(), which does not know it',
           'call keysmith.isolate() for it again'
    FROM isolated i
    WHERE NOT i.is_registered
      AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = i.oid AND p.polname = 'keysmith_tenant')
$$;
COMMENT ON FUNCTION keysmith_private.isolation_problems(oid) IS
'What is wrong with an isolated table, or with all of them, and what to do';

-- The state of a table before isolate() was first called for it. An entry of a table that was
-- dropped is not about another table of that name, unless its policies came with it.
CREATE FUNCTION keysmith_private.before_isolation(
    about oid, OUT is_isolated boolean, OUT was_enabled boolean, OUT was_forced boolean
) RETURNS record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.is_there OR i.found IS NOT NULL,
           CASE WHEN p.is_there OR i.is_same OR NOT i.is_here THEN coalesce(i.was_enabled, false)
                ELSE c.relrowsecurity END,
           CASE WHEN p.is_there OR i.is_same OR NOT i.is_here THEN coalesce(i.was_forced, false)
                ELSE c.relforcerowsecurity END
    FROM pg_class c
    CROSS JOIN LATERAL (SELECT EXISTS (
        SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'keysmith_tenant')) p (is_there)
    LEFT JOIN keysmith_private.isolated i ON i.found = c.oid AND NOT i.is_namesake
    WHERE c.oid = about
    ORDER BY i.is_same DESC NULLS LAST LIMIT 1
$$;
COMMENT ON FUNCTION keysmith_private.before_isolation(oid) IS
'Whether a table is isolated, and what its row security was before that';

CREATE FUNCTION keysmith_private.forget_isolated(known_as oid) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM keysmith_private.isolated_table t USING keysmith_private.isolated i
    WHERE (i.server, i.database, i.relation) = (t.server, t.database, t.relation)
      AND i.found = known_as AND NOT i.is_namesake
$$;
COMMENT ON FUNCTION keysmith_private.forget_isolated(oid) IS 'Takes a table out of the register';

CREATE FUNCTION keysmith_private.note_isolated(
    relation oid, tenant_number smallint, keyspace text, environment_number smallint,
    has_access boolean, was_enabled boolean, was_forced boolean
) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT keysmith_private.forget_isolated(relation);
    INSERT INTO keysmith_private.isolated_table AS t
        (server, database, relation, schema_name, table_name, tenant_column, tenant_number, keyspace,
         environment_column, environment_number, has_access, was_enabled, was_forced)
    SELECT s.system_identifier, d.oid, c.oid, n.nspname, c.relname, a.attname, a.attnum, keyspace,
           e.attname, e.attnum, has_access, was_enabled, was_forced
    FROM pg_control_system() s
    JOIN pg_database d ON d.datname = current_database()
    JOIN pg_class c ON c.oid = relation
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = tenant_number
    LEFT JOIN pg_attribute e ON e.attrelid = c.oid AND e.attnum = environment_number
    -- A transaction with an old snapshot gets an error that tells it to try again.
    ON CONFLICT ON CONSTRAINT isolated_table_pkey DO UPDATE SET isolated_at = excluded.isolated_at;
    -- Of tables that are gone, the newest thousand are remembered.
    DELETE FROM keysmith_private.isolated_table t
    WHERE (t.server, t.database, t.relation) IN (
        SELECT o.server, o.database, o.relation FROM keysmith_private.isolated_table o
        WHERE NOT EXISTS (SELECT FROM keysmith_private.isolated i
                          WHERE (i.server, i.database, i.relation) = (o.server, o.database, o.relation))
        ORDER BY o.isolated_at DESC OFFSET 1000);
$$;
COMMENT ON FUNCTION keysmith_private.note_isolated(oid, smallint, text, smallint, boolean, boolean, boolean) IS
'Puts a table into the register, as isolate() made it';

-- The notices of isolate().
CREATE FUNCTION keysmith_private.tell_of_isolation(about regclass, tenant_number smallint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found record;
BEGIN
    IF EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = about AND p.polpermissive
               AND p.polname <> 'keysmith_access') THEN
        RAISE NOTICE 'table % has policies of its own: they say which of a tenant''s rows are visible', about;
    END IF;
    FOR found IN
        SELECT p.problem, p.remedy FROM keysmith_private.isolation_problems(about) p
        UNION ALL
        SELECT format('role %s has BYPASSRLS, and sees all its rows', r.oid::regrole), NULL
        FROM pg_roles r, pg_class c
        WHERE c.oid = about AND r.rolbypassrls AND NOT r.rolsuper AND r.oid <> c.relowner
          AND has_table_privilege(r.oid, about, 'SELECT, INSERT, UPDATE, DELETE')
        ORDER BY 1
    LOOP
        RAISE WARNING 'table %: %', about, found.problem
            USING HINT = coalesce(found.remedy, 'Have applications use another role.');
    END LOOP;
    IF NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = about AND i.indisvalid
                   AND i.indpred IS NULL AND i.indkey[0] = tenant_number) THEN
        RAISE NOTICE 'table % has no index that begins with %', about, (
            SELECT quote_ident(a.attname) FROM pg_attribute a
            WHERE a.attrelid = about AND a.attnum = tenant_number)
            USING HINT = 'With one, a tenant''s rows are found without reading the others.';
    END IF;
END $$;
COMMENT ON FUNCTION keysmith_private.tell_of_isolation(regclass, smallint) IS
'Tells whoever isolates a table of ways around it, and of what would make it faster';

CREATE FUNCTION keysmith.isolate(
    relation regclass,
    tenant_column text,
    keyspace text DEFAULT NULL,
    environment_column text DEFAULT NULL
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_isolate';
COMMENT ON FUNCTION keysmith.isolate(regclass, text, text, text) IS
'Has row-level security show and accept the rows of the tenant that is signed in, and no others';

CREATE FUNCTION keysmith.release(relation regclass) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_release';
COMMENT ON FUNCTION keysmith.release(regclass) IS
'Undoes isolate: takes its policies away, and leaves row security as it was before';

-- For those who see everything, whatever rights they have on the catalogs.
CREATE FUNCTION keysmith_private.isolation_states(
    OUT relation oid, OUT tenant_column text, OUT keyspace text, OUT environment_column text, OUT problem text
) RETURNS SETOF record
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    SELECT b.found, b.tenant_column, b.keyspace, b.environment_column, p.problem
    FROM keysmith_private.isolated_by b
    LEFT JOIN (SELECT a.relation, string_agg(a.problem, '; ' ORDER BY a.problem) AS problem
               FROM keysmith_private.isolation_problems() a WHERE a.level = 'error'
               GROUP BY a.relation) p ON p.relation = b.found
$$;
COMMENT ON FUNCTION keysmith_private.isolation_states() IS 'What the view isolation shows';

CREATE VIEW keysmith.isolation WITH (security_barrier) AS
SELECT s.relation::regclass::text AS relation, s.tenant_column, s.keyspace, s.environment_column,
       s.problem IS NULL AS ok, s.problem
FROM keysmith_private.isolation_states() s
ORDER BY 1;
COMMENT ON VIEW keysmith.isolation IS 'Isolated tables, and whether their policies are as isolate() made them';
COMMENT ON COLUMN keysmith.isolation.relation IS 'The isolated table';
COMMENT ON COLUMN keysmith.isolation.tenant_column IS 'The column that tells whose a row is';
COMMENT ON COLUMN keysmith.isolation.keyspace IS 'The keyspace that the tenants are of; null for any';
COMMENT ON COLUMN keysmith.isolation.environment_column IS 'The column that tells a row''s environment; null for none';
COMMENT ON COLUMN keysmith.isolation.ok IS 'Whether each tenant sees its rows, and no others';
COMMENT ON COLUMN keysmith.isolation.problem IS 'What is wrong; null if nothing is';
