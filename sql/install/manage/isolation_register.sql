-- The register of isolated tables, and the policies that they must have.

-- An entry describes the policies that isolate() made, so that a missing policy is noticed. OIDs
-- of tables are valid in one database of one server. In a restored database the table is found by
-- its name.
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
    strict             boolean NOT NULL,
    has_access         boolean NOT NULL,
    was_enabled        boolean NOT NULL,
    was_forced         boolean NOT NULL,
    isolated_at        timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (server, database, relation)
);
COMMENT ON TABLE keysmith_private.isolated_table IS 'The tables that isolate() was called for, with the policies that it made';
COMMENT ON COLUMN keysmith_private.isolated_table.server IS 'The server in which relation is the OID of the table; database is the database in it';
COMMENT ON COLUMN keysmith_private.isolated_table.tenant_number IS 'The number of the column, which does not change when the column is renamed';
COMMENT ON COLUMN keysmith_private.isolated_table.strict IS 'Whether queries without an identity raise an error';
COMMENT ON COLUMN keysmith_private.isolated_table.has_access IS 'Whether the table must have the policy keysmith_access; otherwise other policies permit rows';
COMMENT ON COLUMN keysmith_private.isolated_table.was_enabled IS 'Whether row security was enabled before; release() restores it';
COMMENT ON COLUMN keysmith_private.isolated_table.was_forced IS 'Whether row security was forced before; release() restores it';
SELECT pg_catalog.pg_extension_config_dump('keysmith_private.isolated_table', '');

-- Entries with their tables: found by OID if that is of this database, and by name. If a table was
-- renamed, and another was made under its name, both are found.
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
COMMENT ON VIEW keysmith_private.isolated IS 'The isolated tables that exist, with their entries in the register';

CREATE FUNCTION keysmith_private.base_type(type oid) RETURNS oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE made_of(oid, base) AS (
        SELECT t.oid, t.typbasetype FROM pg_type t WHERE t.oid = type
        UNION ALL
        SELECT t.oid, t.typbasetype FROM made_of m JOIN pg_type t ON t.oid = m.base
    )
    SELECT m.oid FROM made_of m WHERE m.base = 0
$$;
COMMENT ON FUNCTION keysmith_private.base_type(oid) IS 'The base type of a domain; any other type as it is';

-- The text is the one that PostgreSQL prints, so that it can be compared with a policy.
--
-- A sub-select is evaluated once per query, and an index can be searched for its value. A bare
-- call would be evaluated for each row.
--
-- PostgreSQL evaluates each sub-select when a row first needs it. If the query itself signs in,
-- another identity may be in force by then. So one sub-select has all that must be of one identity.
--
-- If strict, the first sub-select also requires an identity. A statement with that call
-- fails when it begins, even if it reads no row: see pg/src/function_start.rs.
CREATE FUNCTION keysmith_private.isolation_condition(
    relation oid, tenant_number smallint, keyspace text, environment_number smallint, strict boolean
) RETURNS text
-- Not in SQL: plans of such functions are not kept, and a call per table would take longer than it.
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
BEGIN RETURN (
    WITH compared AS (
        SELECT a.attnum, b.type = 'uuid'::regtype AS is_id,
               CASE WHEN a.atttypid IN ('uuid'::regtype, 'text'::regtype) THEN quote_ident(a.attname)
                    ELSE format('(%I)::%s', a.attname,
                                CASE WHEN b.type = 'uuid'::regtype THEN 'uuid' ELSE 'text' END) END AS operand
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid,
             LATERAL (SELECT CASE t.typtype WHEN 'd' THEN keysmith_private.base_type(t.oid) ELSE t.oid END AS type) b
        WHERE a.attrelid = relation AND a.attnum IN (tenant_number, environment_number) AND NOT a.attisdropped
    ), part AS (
        SELECT 1 AS place, c.operand, CASE WHEN c.is_id THEN 'current_tenant_id' ELSE 'current_tenant' END AS function
        FROM compared c WHERE c.attnum = tenant_number
        UNION ALL
        SELECT 2, format('''%s''::text', keyspace), 'current_keyspace' WHERE keyspace IS NOT NULL
        UNION ALL
        SELECT 3, c.operand, 'current_environment' FROM compared c WHERE c.attnum = environment_number
    ), comparison AS (
        -- The beginnings: of the tenant, and of the tenant and the environment.
        SELECT m.most, format(CASE count(*) WHEN 1 THEN '(%s = ( SELECT %s' ELSE '((%s) = ( SELECT %s' END,
                              string_agg(p.operand, ', ' ORDER BY p.place),
                              string_agg(format('keysmith.%s() AS %1$s', p.function), E',\n    ' ORDER BY p.place)) AS start
        FROM (VALUES (2), (3)) AS m (most) JOIN part p ON p.place <= m.most
        GROUP BY m.most
    ), parts AS (
        SELECT t.start || CASE WHEN strict THEN E'\n  WHERE keysmith.require_identity()' ELSE '' END || '))' AS tenant,
               e.start || '))' AS environment,
               t.start || E'\n  WHERE (keysmith.current_environment() IS NULL)))' AS person
        FROM comparison t, comparison e WHERE t.most = 2 AND e.most = 3
    )
    -- A person has no environment, and reaches all.
    SELECT CASE WHEN environment_number IS NULL THEN p.tenant
                ELSE format('(%s AND (%s OR %s))', p.tenant, p.environment, p.person) END
    FROM parts p
); END $$;
COMMENT ON FUNCTION keysmith_private.isolation_condition(oid, smallint, text, smallint, boolean) IS
'The condition of an isolated table''s policies, as PostgreSQL prints it';

-- A column is found by its number if the table is the same, else by its name. If the column was
-- renamed before the dump, neither is right in the restored database: then it may be any column
-- that the policies use.
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

-- The policies of isolate() are never that long.
CREATE FUNCTION keysmith_private.is_too_long(expression pg_catalog.pg_node_tree) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN pg_column_size(expression) > 100000 THEN true
                ELSE octet_length(expression::text) > 100000 END
$$;
COMMENT ON FUNCTION keysmith_private.is_too_long(pg_catalog.pg_node_tree) IS
'Whether an expression is too long to be checked';

-- PostgreSQL opens a table to print its policies. Another session may have locked the table. Or
-- the owner may have made it unreadable, as by an expression that is nested too deep.
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

-- The columns by which each table is isolated. If an entry may mean several columns, those that
-- the policies use are taken. If a column is missing, the condition is null.
CREATE VIEW keysmith_private.isolated_by AS
SELECT DISTINCT ON (r.found) r.*
FROM (SELECT i.found, i.has_access, coalesce(t.attname, i.tenant_column) AS tenant_column,
             t.attnum AS tenant_number, t.atttypid AS tenant_type, i.keyspace,
             coalesce(e.attname, i.environment_column) AS environment_column, i.strict,
             CASE WHEN t.attnum IS NOT NULL AND (e.attnum IS NOT NULL OR i.environment_number IS NULL)
                  THEN keysmith_private.isolation_condition(i.found, t.attnum, i.keyspace, e.attnum, i.strict) END AS condition,
             pg_catalog.count(*) OVER (PARTITION BY i.found) AS meanings
      FROM keysmith_private.isolated i
      LEFT JOIN LATERAL (
          -- Not *: the view would depend on all columns, and pg_attribute has others in other majors.
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
         -- Few entries may mean several columns, and to look at policies takes time.
         CASE WHEN r.meanings > 1
              THEN keysmith_private.policy_fault(r.found, 'keysmith_tenant', false, r.condition) IS NULL
                OR keysmith_private.policy_fault(r.found, 'keysmith_access', true, r.condition) IS NULL END DESC;
COMMENT ON VIEW keysmith_private.isolated_by IS
'The columns by which tables are isolated, and the condition that their policies must have';

-- The state of a table before isolate() was first called for it. The entry of a dropped table does
-- not apply to a new table of that name, unless that has the policies.
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
'Whether a table is isolated, and the state of its row security before that';

CREATE FUNCTION keysmith_private.forget_isolated(known_as oid) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM keysmith_private.isolated_table t USING keysmith_private.isolated i
    WHERE (i.server, i.database, i.relation) = (t.server, t.database, t.relation)
      AND i.found = known_as AND NOT i.is_namesake
$$;
COMMENT ON FUNCTION keysmith_private.forget_isolated(oid) IS 'Removes a table from the register';

CREATE FUNCTION keysmith_private.note_isolated(
    relation oid, tenant_number smallint, keyspace text, environment_number smallint, strict boolean,
    has_access boolean, was_enabled boolean, was_forced boolean
) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT keysmith_private.forget_isolated(relation);
    INSERT INTO keysmith_private.isolated_table AS t
        (server, database, relation, schema_name, table_name, tenant_column, tenant_number, keyspace,
         environment_column, environment_number, strict, has_access, was_enabled, was_forced)
    SELECT s.system_identifier, d.oid, c.oid, n.nspname, c.relname, a.attname, a.attnum, keyspace,
           e.attname, e.attnum, strict, has_access, was_enabled, was_forced
    FROM pg_control_system() s
    JOIN pg_database d ON d.datname = current_database()
    JOIN pg_class c ON c.oid = relation
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = tenant_number
    LEFT JOIN pg_attribute e ON e.attrelid = c.oid AND e.attnum = environment_number
    -- A transaction with an old snapshot gets an error that tells it to try again.
    ON CONFLICT ON CONSTRAINT isolated_table_pkey DO UPDATE SET isolated_at = excluded.isolated_at;
    -- The entries of tables that do not exist any more: the newest thousand are kept.
    DELETE FROM keysmith_private.isolated_table t
    WHERE (t.server, t.database, t.relation) IN (
        SELECT o.server, o.database, o.relation FROM keysmith_private.isolated_table o
        WHERE NOT EXISTS (SELECT FROM keysmith_private.isolated i
                          WHERE (i.server, i.database, i.relation) = (o.server, o.database, o.relation))
        ORDER BY o.isolated_at DESC OFFSET 1000);
$$;
COMMENT ON FUNCTION keysmith_private.note_isolated(oid, smallint, text, smallint, boolean, boolean, boolean, boolean) IS
'Adds a table to the register, with the policies that isolate() made';
