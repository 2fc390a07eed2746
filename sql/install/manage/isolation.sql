-- Row-level security for application tables.

-- Citus has a catalog of the tables that it distributes, where it is installed.
CREATE FUNCTION keysmith_private.distributed_tables() RETURNS SETOF oid
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL THEN
        RETURN QUERY EXECUTE 'SELECT logicalrelid::oid FROM pg_catalog.pg_dist_partition';
    END IF;
END $$;
COMMENT ON FUNCTION keysmith_private.distributed_tables() IS 'Tables that Citus has distributed';

-- Whoever reads one of these tables waits. The lock of an index or of a TOAST table is one of its
-- table.
CREATE FUNCTION keysmith_private.locked_relations(OUT relation oid) RETURNS SETOF oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH locked AS MATERIALIZED (
        SELECT l.relation FROM pg_locks l
        WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock'
          AND l.pid IS DISTINCT FROM pg_backend_pid()
          AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
    )
    SELECT l.relation FROM locked l
    UNION SELECT x.indrelid FROM locked l JOIN pg_index x ON x.indexrelid = l.relation
    UNION SELECT c.oid FROM locked l JOIN pg_class c ON c.reltoastrelid = l.relation
$$;
COMMENT ON FUNCTION keysmith_private.locked_relations() IS
'Tables that other sessions have locked against readers, or are about to';

-- These roles run the requests of applications: they have the level verifier or host, or EXECUTE
-- on a function that signs in. Administrators are left out, as they may call all functions.
CREATE VIEW keysmith_private.verifying_role AS
WITH RECURSIVE verifier(oid) AS (
    (SELECT a.role::oid FROM keysmith_private.access a WHERE a.level IN ('verifier', 'host')
     UNION
     SELECT x.grantee FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) x
     WHERE p.pronamespace = 'keysmith'::regnamespace AND x.grantee <> p.proowner
       AND p.proname IN ('verify', 'verify_json', 'verify_digest', 'verify_many', 'authenticate', 'authenticate_json', 'serve', 'pre_request', 'act_as')
       AND x.grantee NOT IN (SELECT a.role FROM keysmith_private.access a WHERE a.level = 'admin'))
    UNION
    SELECT m.member FROM verifier v JOIN pg_catalog.pg_auth_members m ON m.roleid = v.oid
)
SELECT v.oid FROM verifier v WHERE v.oid <> 0;
COMMENT ON VIEW keysmith_private.verifying_role IS 'Roles that decide about keys or sign in persons, and their members';

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
'Whether roles other than the owner have privileges on a table, or the owner decides about keys';

CREATE VIEW keysmith_private.known_isolated AS
WITH entry AS MATERIALIZED (
    SELECT i.found FROM keysmith_private.isolated i
)
SELECT e.found AS oid, true AS is_registered FROM entry e
UNION
SELECT p.polrelid, false
FROM pg_catalog.pg_policy p
WHERE p.polname IN ('keysmith_tenant', 'keysmith_access')
  AND p.polrelid NOT IN (SELECT e.found FROM entry e)
UNION
SELECT p.polrelid, false
FROM pg_catalog.pg_policy p
JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_policy'::regclass AND d.objid = p.oid
     AND d.refclassid = 'pg_catalog.pg_proc'::regclass
JOIN pg_catalog.pg_proc f ON f.oid = d.refobjid
WHERE f.pronamespace = 'keysmith'::regnamespace
  AND p.polrelid NOT IN (SELECT e.found FROM entry e);
COMMENT ON VIEW keysmith_private.known_isolated IS
'Tables that isolate() was called for, and tables whose policies call our functions or have their names from isolate()';

-- Views are warnings only. Anyone can make very many views, so the search ends after some.
CREATE FUNCTION keysmith_private.views_above_isolated(
    wanted oid DEFAULT NULL, OUT relation oid, OUT level text, OUT problem text, OUT remedy text
) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    WITH RECURSIVE above(of, oid) AS (
        SELECT k.oid, k.oid FROM keysmith_private.known_isolated k JOIN pg_class c USING (oid)
        WHERE wanted IS NULL OR k.oid = wanted
        UNION
        SELECT a.of, w.ev_class
        FROM above a
        JOIN pg_depend d ON d.refobjid = a.oid AND d.refclassid = 'pg_class'::regclass
             AND d.classid = 'pg_rewrite'::regclass
        JOIN pg_rewrite w ON w.oid = d.objid
        JOIN pg_class c ON c.oid = w.ev_class AND c.relkind IN ('v', 'm')
    ), found AS MATERIALIZED (
        SELECT a.of, a.oid FROM above a LIMIT 20000
    )
    SELECT a.of, 'warning', CASE c.relkind
               WHEN 'm' THEN format('materialized view %s holds its rows for whoever may read it', c.oid::regclass)
               ELSE format('view %s shows all its rows: it reads as %s', c.oid::regclass, r.oid::regrole) END,
           CASE c.relkind WHEN 'm' THEN 'replace it by a table, or let nobody read it'
               ELSE format('ALTER VIEW %s SET (security_invoker = true)', c.oid::regclass) END
    FROM found a
    JOIN pg_class c ON c.oid = a.oid AND c.relkind IN ('v', 'm')
    JOIN pg_roles r ON r.oid = c.relowner
    WHERE c.relkind = 'm'
       OR (r.rolsuper OR r.rolbypassrls) AND NOT coalesce((
              SELECT o.option_value::boolean FROM pg_options_to_table(c.reloptions) o
              WHERE o.option_name = 'security_invoker'), false)
    UNION ALL
    SELECT min(a.of), 'warning', 'very many views read isolated tables: not all of them were checked',
           'drop the views that nobody needs'
    FROM found a HAVING count(*) = 20000
$$;
COMMENT ON FUNCTION keysmith_private.views_above_isolated(oid) IS
'Views that show rows of an isolated table, or of all isolated tables, past its policies';

-- Looks at tables that isolate() was called for, and at tables with hand-written policies that
-- call our functions. It is an error if a tenant can see rows of another, or cannot see its own
-- rows.
CREATE FUNCTION keysmith_private.isolation_problems(
    wanted oid DEFAULT NULL, OUT relation oid, OUT level text, OUT problem text, OUT remedy text
) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    WITH RECURSIVE known AS MATERIALIZED (
        SELECT k.oid, k.is_registered FROM keysmith_private.known_isolated k
    ), isolated AS MATERIALIZED (
        SELECT c.oid, c.oid::regclass AS name, c.relowner, c.relrowsecurity, c.relforcerowsecurity,
               k.is_registered,
               k.is_registered AND NOT c.relrowsecurity AND NOT EXISTS (
                   SELECT FROM pg_policy p WHERE p.polrelid = c.oid
                   AND p.polname IN ('keysmith_tenant', 'keysmith_access')) AS is_bare
        FROM known k JOIN pg_class c USING (oid) WHERE wanted IS NULL OR c.oid = wanted
    ), locked AS MATERIALIZED (
        SELECT l.relation FROM keysmith_private.locked_relations() l
    ), part(of, oid) AS (
        SELECT i.oid, h.inhrelid FROM isolated i JOIN pg_inherits h ON h.inhparent = i.oid
        UNION
        SELECT p.of, h.inhrelid FROM part p JOIN pg_inherits h ON h.inhparent = p.oid
    ), whole(of, oid) AS (
        SELECT i.oid, h.inhparent FROM isolated i JOIN pg_inherits h ON h.inhrelid = i.oid
        UNION
        SELECT w.of, h.inhparent FROM whole w JOIN pg_inherits h ON h.inhrelid = w.oid
    )
    SELECT i.oid, 'error', 'it was isolated, and no longer is: every reader sees all rows',
           'call keysmith.isolate() for it again, or keysmith.release()'
    FROM isolated i WHERE i.is_bare
    UNION ALL
    SELECT i.oid, 'error', 'row security is off: every reader sees all rows',
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
    -- If one table is wanted, only its policies are printed.
    JOIN keysmith_private.isolated_by e ON e.found = i.oid AND (wanted IS NULL OR e.found = wanted)
    CROSS JOIN (VALUES ('keysmith_tenant', false), ('keysmith_access', true)) AS p (name, is_permissive)
    CROSS JOIN LATERAL (
        SELECT CASE WHEN i.oid IN (SELECT l.relation FROM locked l)
                    THEN 'can''t be read, since someone has locked the table'
                    ELSE keysmith_private.policy_fault(i.oid, p.name, p.is_permissive, e.condition) END
    ) AS f (fault)
    WHERE f.fault IS NOT NULL AND (e.has_access OR NOT p.is_permissive) AND NOT i.is_bare
    UNION ALL
    SELECT i.oid, 'error', format('its owner %s %s, and sees all its rows', r.oid::regrole,
                                  CASE WHEN r.rolsuper THEN 'is a superuser' ELSE 'has BYPASSRLS' END),
           'give it an owner to whom row security applies'
    FROM isolated i JOIN pg_roles r ON r.oid = i.relowner
    WHERE i.is_registered AND (r.rolsuper OR r.rolbypassrls)
    UNION ALL
    SELECT i.oid, 'error', format('its part %s can be read past it', p.oid::regclass),
           format('revoke all rights on %s, or isolate it too', p.oid::regclass)
    FROM isolated i JOIN part p ON p.of = i.oid
    WHERE p.oid NOT IN (SELECT k.oid FROM known k) AND keysmith_private.is_reachable(p.oid)
    UNION ALL
    SELECT i.oid, 'error', format('it is part of %s, which shows all its rows', w.oid::regclass),
           format('call keysmith.isolate() for %s too', w.oid::regclass)
    FROM isolated i JOIN whole w ON w.of = i.oid
    WHERE w.oid NOT IN (SELECT k.oid FROM known k) AND keysmith_private.is_reachable(w.oid)
    UNION ALL
    SELECT i.oid, 'error', 'Citus distributes it, and does not keep its policies', 'call undistribute_table() for it'
    FROM isolated i WHERE i.oid IN (SELECT keysmith_private.distributed_tables())
    UNION ALL
    SELECT i.oid, 'warning', 'it has the policies of isolate(), which does not know it',
           'call keysmith.isolate() for it again'
    FROM isolated i
    WHERE NOT i.is_registered
      AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = i.oid AND p.polname = 'keysmith_tenant')
$$;
COMMENT ON FUNCTION keysmith_private.isolation_problems(oid) IS
'The problems of an isolated table, or of all isolated tables, with remedies';

-- The notices and warnings of isolate().
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
        SELECT v.problem, v.remedy FROM keysmith_private.views_above_isolated(about) v
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
'Warns the caller of isolate() about ways around the policies, and about a missing index';

CREATE FUNCTION keysmith.isolate(
    relation regclass,
    tenant_column text,
    keyspace text DEFAULT NULL,
    environment_column text DEFAULT NULL,
    strict boolean DEFAULT false
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_isolate';
COMMENT ON FUNCTION keysmith.isolate(regclass, text, text, text, boolean) IS
'Restricts a table to the rows of the tenant signed in; by row-level security';

CREATE FUNCTION keysmith.release(relation regclass) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_release';
COMMENT ON FUNCTION keysmith.release(regclass) IS
'Undoes isolate; drops its policies, and restores the earlier state of row security';

-- For callers that see everything, whatever their privileges on the catalogs.
CREATE FUNCTION keysmith_private.isolation_states(
    OUT relation oid, OUT tenant_column text, OUT keyspace text, OUT environment_column text,
    OUT strict boolean, OUT enabled boolean, OUT forced boolean, OUT problem text
) RETURNS SETOF record
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    SELECT b.found, b.tenant_column, b.keyspace, b.environment_column, b.strict, c.relrowsecurity,
           c.relforcerowsecurity, p.problem
    FROM keysmith_private.isolated_by b
    JOIN pg_class c ON c.oid = b.found
    LEFT JOIN (SELECT a.relation, string_agg(a.problem, '; ' ORDER BY a.problem) AS problem
               FROM keysmith_private.isolation_problems() a WHERE a.level = 'error'
               GROUP BY a.relation) p ON p.relation = b.found
$$;
COMMENT ON FUNCTION keysmith_private.isolation_states() IS 'The rows of the view isolation';

CREATE VIEW keysmith.isolation WITH (security_barrier) AS
SELECT s.relation::regclass::text AS relation, s.tenant_column, s.keyspace, s.environment_column,
       s.strict, s.enabled, s.forced, s.problem IS NULL AS ok, s.problem
FROM keysmith_private.isolation_states() s
ORDER BY 1;
COMMENT ON VIEW keysmith.isolation IS 'Isolated tables, and whether their policies are as isolate() made them';
COMMENT ON COLUMN keysmith.isolation.relation IS 'The isolated table';
COMMENT ON COLUMN keysmith.isolation.tenant_column IS 'The column with the tenant of a row';
COMMENT ON COLUMN keysmith.isolation.keyspace IS 'The keyspace of the tenants; null for any';
COMMENT ON COLUMN keysmith.isolation.environment_column IS 'The column with the environment of a row; null if the table has no such column';
COMMENT ON COLUMN keysmith.isolation.strict IS 'Whether queries without an identity raise KS401';
COMMENT ON COLUMN keysmith.isolation.enabled IS 'Whether row security is on';
COMMENT ON COLUMN keysmith.isolation.forced IS 'Whether row security applies to the owner, too';
COMMENT ON COLUMN keysmith.isolation.ok IS 'Whether each tenant sees its own rows only';
COMMENT ON COLUMN keysmith.isolation.problem IS 'The problems; null if there is no problem';
