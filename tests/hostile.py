"""Statements that a role can try on objects that it does not own, by kind, for each object of the
extension in the catalogs, so that a new object is tried too."""

from dataclasses import dataclass

SCHEMAS = ("keysmith", "keysmith_private")

RELATIONS = """
    SELECT c.oid, format('%%I.%%I', n.nspname, c.relname) AS name, n.nspname AS schema, c.relname, c.relkind::text AS kind,
           (SELECT quote_ident(attname) FROM pg_attribute
            WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped LIMIT 1) AS first
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = ANY (%s) ORDER BY c.oid"""
FUNCTIONS = """
    SELECT p.oid, format('%%I.%%I(%%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) AS name,
           format('%%I.%%I', n.nspname, p.proname) AS short, p.prokind::text AS kind,
           format('%%I.%%I(%%s)', n.nspname, p.proname,
                  (SELECT string_agg(format('NULL::%%s', a::regtype), ', ' ORDER BY i)
                   FROM unnest(p.proargtypes) WITH ORDINALITY u (a, i))) AS call
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = ANY (%s) ORDER BY p.oid"""
TYPES = """
    SELECT t.oid, format('%%I.%%I', n.nspname, t.typname) AS name, t.typtype::text AS kind
    FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
    WHERE n.nspname = ANY (%s) ORDER BY t.oid"""
# Functions of PostgreSQL that take an object by its OID, for which they need no USAGE on a
# schema: `by_number` adds the arguments.
BY_NUMBER = """
    SELECT p.proname AS name, p.proargtypes::regtype[]::text[] AS arguments
    FROM pg_proc p
    WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND p.provolatile <> 'i'
      AND p.proargtypes::regtype[] && '{oid,regclass}'
      AND p.proargtypes::regtype[] <@ '{oid,regclass,text,name,bool,integer,bigint,smallint,"char"}'
      AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype, 'internal'::regtype)
    ORDER BY p.oid"""
VALUES = {"text": "'x'", "name": "'x'", "boolean": "true", "integer": "1", "bigint": "1", "smallint": "1",
          '"char"': "'r'"}


@dataclass
class Objects:
    relations: list
    functions: list
    types: list
    by_number: list
    settings: list

    @classmethod
    def of(cls, db):
        schemas = [list(SCHEMAS)]
        return cls(db.rows(RELATIONS, *schemas), db.rows(FUNCTIONS, *schemas), db.rows(TYPES, *schemas),
                   db.rows(BY_NUMBER), [name for name, in db.rows(
                       "SELECT name FROM pg_settings WHERE name LIKE 'keysmith.%'")])


def _each(objects, *templates):
    return [template.format(o=o, n=n) for n, o in enumerate(objects) for template in templates]


# Objects that a role of the tests owns: see `prepare`.
OWN = """
    CREATE TABLE own (id int, body text);
    CREATE TABLE own_parts (id int) PARTITION BY LIST (id);
    CREATE FUNCTION own_trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
    CREATE FUNCTION own_function() RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE INDEX own_index ON own (id);
    CREATE MATERIALIZED VIEW own_view AS SELECT 1 AS one;
    CREATE TRIGGER own_trigger AFTER INSERT ON own FOR EACH ROW EXECUTE FUNCTION own_trigger();
    -- Runs each statement by itself, and tells how each ended.
    CREATE FUNCTION attempt(statements text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
    DECLARE statement text;
    BEGIN
        FOREACH statement IN ARRAY statements LOOP
            BEGIN
                EXECUTE statement;
                RETURN NEXT '00000';
            EXCEPTION WHEN OTHERS THEN
                RETURN NEXT SQLSTATE;
            END;
        END LOOP;
    END $$;
"""


def reading(o):
    return _each(
        o.relations,
        "PREPARE p{n} AS SELECT * FROM {o.name}", "PREPARE u{n} AS UPDATE {o.name} SET {o.first} = NULL",
        "PREPARE d{n} AS DELETE FROM {o.name}", "PREPARE i{n} AS INSERT INTO {o.name} DEFAULT VALUES",
        "PREPARE l{n} AS SELECT * FROM {o.name} FOR UPDATE",
        "SELECT * FROM {o.name} LIMIT 0", "TABLE {o.name}", "EXPLAIN SELECT * FROM {o.name}",
        "DECLARE c{n} CURSOR FOR SELECT * FROM {o.name}", "COPY {o.name} TO STDOUT",
        "INSERT INTO {o.name} DEFAULT VALUES", "DELETE FROM {o.name}", "SELECT * FROM {o.name} FOR UPDATE",
        "UPDATE {o.name} SET {o.first} = NULL", "EXPLAIN (ANALYZE, SERIALIZE) SELECT * FROM {o.name}",
        "MERGE INTO {o.name} USING own ON false WHEN NOT MATCHED THEN INSERT DEFAULT VALUES", "SELECT table_to_xml('{o.name}', true, true, '')",
        "SELECT has_table_privilege('{o.name}', 'SELECT')", "SELECT row_security_active('{o.name}')",
        "SELECT pg_get_serial_sequence('{o.name}', '{o.first}')", "SELECT nextval('{o.name}')",
        "SELECT pg_get_viewdef('{o.name}')", "SELECT '{o.name}'::regclass")


def locking(o):
    modes = ("ACCESS SHARE", "ROW SHARE", "ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE", "SHARE",
             "SHARE ROW EXCLUSIVE", "EXCLUSIVE", "ACCESS EXCLUSIVE")
    return _each(o.relations, *(f"LOCK TABLE {{o.name}} IN {mode} MODE" for mode in modes),
                 "LOCK TABLE ONLY {o.name}", "TRUNCATE {o.name}", "ANALYZE {o.name}", "CLUSTER {o.name}",
                 "REINDEX TABLE {o.name}", "REINDEX INDEX {o.name}", "REFRESH MATERIALIZED VIEW {o.name}",
                 "SELECT pg_clear_relation_stats('{o.schema}', '{o.relname}')",
                 "SELECT pg_restore_relation_stats('schemaname', '{o.schema}', 'relname', '{o.relname}', 'relpages', 1)",
                 "SELECT pg_restore_attribute_stats('schemaname', '{o.schema}', 'relname', '{o.relname}', "
                 "'attname', '{o.first}', 'inherited', false, 'null_frac', 0.5::real)")


def changing(o):
    return _each(
        o.relations,
        "CREATE RULE r{n} AS ON SELECT TO {o.name} DO INSTEAD SELECT 1",
        "CREATE RULE r{n} AS ON INSERT TO {o.name} DO INSTEAD NOTHING",
        "CREATE TRIGGER t{n} BEFORE INSERT ON {o.name} EXECUTE FUNCTION own_trigger()",
        "CREATE TRIGGER t{n} INSTEAD OF INSERT ON {o.name} FOR EACH ROW EXECUTE FUNCTION own_trigger()",
        "CREATE POLICY p{n} ON {o.name}", "CREATE INDEX ON {o.name} ({o.first})",
        "CREATE STATISTICS s{n} ON tableoid, ctid FROM {o.name}", "COMMENT ON TABLE {o.name} IS 'x'",
        "COMMENT ON VIEW {o.name} IS 'x'", "COMMENT ON COLUMN {o.name}.{o.first} IS 'x'",
        "COMMENT ON INDEX {o.name} IS 'x'", "SECURITY LABEL ON TABLE {o.name} IS 'x'",
        "ALTER TABLE {o.name} ADD COLUMN x int", "ALTER TABLE {o.name} DISABLE TRIGGER ALL",
        "ALTER TABLE {o.name} DISABLE ROW LEVEL SECURITY", "ALTER TABLE {o.name} RENAME TO x",
        "ALTER TABLE {o.name} RENAME COLUMN {o.first} TO x", "ALTER TABLE {o.name} SET SCHEMA public",
        "ALTER TABLE {o.name} OWNER TO CURRENT_USER", "ALTER TABLE {o.name} REPLICA IDENTITY FULL",
        "ALTER TABLE {o.name} SET (fillfactor = 10)", "ALTER TABLE {o.name} CLUSTER ON x",
        "ALTER TABLE {o.name} VALIDATE CONSTRAINT x", "ALTER TABLE {o.name} NO INHERIT own",
        "ALTER INDEX {o.name} RENAME TO x", "ALTER VIEW {o.name} RENAME TO x", "ALTER SEQUENCE {o.name} RESTART",
        "ALTER INDEX {o.name} ATTACH PARTITION own_index", "DROP TABLE {o.name}", "DROP VIEW {o.name}",
        "DROP INDEX {o.name}", "DROP SEQUENCE {o.name}", "GRANT ALL ON {o.name} TO CURRENT_USER",
        "GRANT MAINTAIN ON {o.name} TO CURRENT_USER", "ALTER TABLE {o.name} SET ACCESS METHOD DEFAULT",
        "ALTER TABLE {o.name} ADD COLUMN x int GENERATED ALWAYS AS (1) VIRTUAL",
        "ALTER TABLE {o.name} ALTER {o.first} SET EXPRESSION AS (NULL)", "ALTER TABLE {o.name} ADD NOT NULL {o.first} NOT VALID",
        "ALTER TABLE {o.name} ADD CHECK (true) NOT ENFORCED",
        "GRANT SELECT ({o.first}) ON {o.name} TO PUBLIC", "REVOKE ALL ON {o.name} FROM PUBLIC",
        "CREATE OR REPLACE VIEW {o.name} AS SELECT 1", "DROP TRIGGER usage_inserted ON {o.name}",
        "ALTER TRIGGER usage_inserted ON {o.name} DEPENDS ON EXTENSION keysmith")


def depending(o):
    return _each(
        o.relations,
        "CREATE VIEW v{n} AS SELECT * FROM {o.name}", "CREATE TEMP VIEW w{n} AS SELECT 1 FROM {o.name}",
        "CREATE MATERIALIZED VIEW m{n} AS SELECT * FROM {o.name} WITH NO DATA",
        "CREATE TABLE l{n} (LIKE {o.name} INCLUDING ALL)", "CREATE TABLE h{n} () INHERITS ({o.name})",
        "CREATE TABLE f{n} (x int REFERENCES {o.name})", "CREATE TABLE d{n} PARTITION OF {o.name} DEFAULT",
        "CREATE TABLE q{n} PARTITION OF {o.name} FOR VALUES FROM ('2001-01-01') TO ('2001-01-02')",
        "ALTER TABLE own INHERIT {o.name}", "ALTER TABLE {o.name} ATTACH PARTITION own DEFAULT",
        "ALTER TABLE own_parts ATTACH PARTITION {o.name} DEFAULT", "ALTER TABLE {o.name} DETACH PARTITION own",
        "ALTER TABLE own ADD FOREIGN KEY (id) REFERENCES {o.name}",
        "ALTER TABLE own ADD FOREIGN KEY (id) REFERENCES {o.name} NOT ENFORCED", "CREATE TABLE k{n} AS TABLE {o.name}",
        "CREATE FUNCTION g{n}() RETURNS SETOF {o.name} LANGUAGE sql AS 'SELECT NULL'",
        "CREATE FUNCTION y{n}(x {o.name}.{o.first}%TYPE) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE FUNCTION z{n}() RETURNS bigint LANGUAGE sql RETURN (SELECT count(*) FROM {o.name})",
        "CREATE TABLE n{n} (x bigint DEFAULT nextval('{o.name}'))",
        "CREATE PUBLICATION p{n} FOR TABLE {o.name}",
        "CREATE RULE r{n} AS ON INSERT TO own DO ALSO DELETE FROM {o.name}",
        "CREATE POLICY p{n} ON own USING (EXISTS (SELECT FROM {o.name}))")


def typing(o):
    return _each(
        o.types,
        "CREATE TABLE c{n} (x {o.name})", "ALTER TABLE own ADD COLUMN c{n} {o.name}",
        "CREATE TABLE a{n} (x {o.name}[])", "CREATE TABLE o{n} OF {o.name}", "ALTER TABLE own OF {o.name}",
        "CREATE DOMAIN e{n} AS {o.name}", "CREATE TYPE t{n} AS (x {o.name})", "CREATE TYPE b{n} AS RANGE (subtype = {o.name})",
        "CREATE FUNCTION f{n}(x {o.name}) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE FUNCTION g{n}() RETURNS {o.name} LANGUAGE sql AS 'SELECT NULL'",
        "CREATE FUNCTION h{n}() RETURNS TABLE (x {o.name}) LANGUAGE sql AS 'SELECT NULL'",
        "CREATE CAST ({o.name} AS text) WITH INOUT", "CREATE TEMP TABLE t{n} (x {o.name})",
        "CREATE AGGREGATE s{n} ({o.name}) (sfunc = own_function, stype = {o.name})",
        "PREPARE t{n} ({o.name}) AS SELECT $1", "SELECT NULL::{o.name}", "CREATE TABLE k{n} AS SELECT NULL::{o.name} AS x",
        "CREATE VIEW v{n} AS SELECT NULL::{o.name} AS x", "ALTER TYPE {o.name} ADD ATTRIBUTE x int CASCADE",
        "ALTER TYPE {o.name} OWNER TO CURRENT_USER", "ALTER TYPE {o.name} RENAME TO x", "DROP TYPE {o.name}",
        "COMMENT ON TYPE {o.name} IS 'x'", "GRANT USAGE ON TYPE {o.name} TO CURRENT_USER",
        "ALTER TYPE {o.name} ADD VALUE 'x'", "ALTER DOMAIN {o.name} DROP NOT NULL")


def calling(o):
    return _each(
        o.functions,
        "PREPARE f{n} AS SELECT {o.call}", "CREATE VIEW v{n} AS SELECT {o.call} AS x",
        "ALTER FUNCTION {o.name} DEPENDS ON EXTENSION keysmith", "ALTER FUNCTION {o.name} OWNER TO CURRENT_USER",
        "ALTER FUNCTION {o.name} RENAME TO x", "ALTER FUNCTION {o.name} SET search_path = public",
        "ALTER FUNCTION {o.name} SECURITY INVOKER", "DROP FUNCTION {o.name}", "DROP ROUTINE {o.name} CASCADE",
        "COMMENT ON FUNCTION {o.name} IS 'x'", "GRANT EXECUTE ON FUNCTION {o.name} TO CURRENT_USER",
        "CREATE OR REPLACE FUNCTION {o.name} RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TRIGGER t{n} BEFORE INSERT ON own EXECUTE FUNCTION {o.short}()",
        "CREATE EVENT TRIGGER e{n} ON ddl_command_end EXECUTE FUNCTION {o.short}()",
        "CREATE INDEX ON own (({o.call} IS NULL))", "ALTER TABLE own ADD CHECK ({o.call} IS NULL)",
        "CREATE AGGREGATE a{n} (text) (sfunc = {o.short}, stype = text)",
        "CREATE OPERATOR ~~~ (leftarg = text, rightarg = text, function = {o.short})",
        "CREATE CAST (text AS int) WITH FUNCTION {o.name}", "SECURITY LABEL ON FUNCTION {o.name} IS 'x'")


def extension(o):
    kinds = [("FUNCTION", "own_function()"), ("FUNCTION", "own_trigger()"), ("INDEX", "own_index"),
             ("MATERIALIZED VIEW", "own_view"), ("TRIGGER", "own_trigger ON own")]
    return [f"ALTER {kind} {name} DEPENDS ON EXTENSION keysmith" for kind, name in kinds] + [
        *(f"ALTER EXTENSION keysmith ADD {kind} {name}" for kind, name in
          [("TABLE", "own"), ("FUNCTION", "own_function()"), ("VIEW", "own_view"), ("SCHEMA", "public")]),
        "ALTER EXTENSION keysmith DROP TABLE keysmith_private.key", "ALTER EXTENSION keysmith UPDATE",
        "ALTER EXTENSION keysmith DROP FUNCTION keysmith.current_tenant()",
        "ALTER EXTENSION keysmith SET SCHEMA public", "COMMENT ON EXTENSION keysmith IS 'x'",
        "SECURITY LABEL ON EXTENSION keysmith IS 'x'", "CREATE EXTENSION keysmith",
        "CREATE EXTENSION IF NOT EXISTS keysmith", "DROP EXTENSION keysmith", "DROP EXTENSION keysmith CASCADE",
        *(statement.format(schema) for schema in SCHEMAS for statement in (
            "CREATE TABLE {}.x (id int)", "CREATE FUNCTION {}.x() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE SCHEMA {}", "CREATE SCHEMA IF NOT EXISTS {}", "ALTER SCHEMA {} RENAME TO x",
            "ALTER SCHEMA {} OWNER TO CURRENT_USER", "DROP SCHEMA {} CASCADE", "COMMENT ON SCHEMA {} IS 'x'",
            "GRANT USAGE ON SCHEMA {} TO CURRENT_USER", "REVOKE ALL ON SCHEMA {} FROM PUBLIC",
            "ALTER TABLE own SET SCHEMA {}", "ALTER FUNCTION own_function() SET SCHEMA {}",
            "ALTER DEFAULT PRIVILEGES IN SCHEMA {} GRANT ALL ON TABLES TO PUBLIC",
            "CREATE PUBLICATION p FOR TABLES IN SCHEMA {}", "GRANT ALL ON ALL TABLES IN SCHEMA {} TO PUBLIC",
            "REINDEX SCHEMA {}", "IMPORT FOREIGN SCHEMA {} FROM SERVER x INTO public")),
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC", "CREATE PUBLICATION p FOR ALL TABLES",
        "ALTER DEFAULT PRIVILEGES FOR ROLE postgres GRANT ALL ON TABLES TO PUBLIC",
        "CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION own_trigger()",
        "CREATE EVENT TRIGGER e ON login EXECUTE FUNCTION own_trigger()"]


def by_number(o):
    statements = []
    for function in o.by_number:
        for relation in o.relations:
            arguments = [f"{relation.oid}::{kind}" if kind in ("oid", "regclass") else VALUES[kind]
                         for kind in function.arguments]
            statements.append(f"SELECT pg_catalog.{function.name}({', '.join(arguments)})")
    return statements


def advisory(o):
    """All numbers that the extension could use for locks: those of its objects, alone and in
    pairs."""
    numbers = [thing.oid for thing in (*o.relations, *o.functions)]
    return [statement for number in numbers for statement in (
        f"SELECT pg_advisory_lock({number})", f"SELECT pg_advisory_xact_lock({number}, 0)",
        f"SELECT pg_advisory_lock({number - 2**32})", f"SELECT pg_advisory_lock(0, {number})")] + [
        *(f"SELECT pg_advisory_lock_shared({n})" for n in range(-5, 6)),
        *(f"SELECT pg_advisory_xact_lock(hashtext('{word}'), hashtext('{other}'))"
          for word in ("keysmith", "default", "acme") for other in ("", "keysmith", "default", "acme"))]


def settings(o):
    values = ("DEFAULT", "''", "'0'", "'on'", "'1'", "'1 s'", "'x'", "'commit'", "'/dev/null'", "-1")
    return [statement for name in o.settings for statement in (
        *(f"SET {name} = {value}" for value in values), f"RESET {name}",
        f"SELECT set_config('{name}', '0', true)", f"ALTER ROLE CURRENT_USER SET {name} = '0'",
        f"ALTER ROLE ALL SET {name} = '0'", f"ALTER SYSTEM SET {name} = '0'",
        f"GRANT SET ON PARAMETER {name} TO CURRENT_USER",
        f"CREATE FUNCTION s() RETURNS int LANGUAGE sql SET {name} = '0' AS 'SELECT 1'")]


def others(o):
    names = [thing.name for thing in (*o.relations, *o.functions)]
    return [*(f"LISTEN \"keysmith_{n:032x}\"" for n in range(100)),
            *(f"SELECT pg_notify('keysmith_{n:032x}', repeat('x', 7999))" for n in range(100)),
            *(f"SELECT lo_create({thing.oid})" for thing in o.relations),
            *(f"COMMENT ON LARGE OBJECT {thing.oid} IS '{thing.name}'" for thing in o.relations),
            *(f"CREATE TEMP TABLE {name.split('.')[1].split('(')[0]} (x int)" for name in names),
            *(f"CREATE FUNCTION pg_temp.{thing.short.split('.')[1]}() RETURNS int LANGUAGE sql AS 'SELECT 1'"
              for thing in o.functions),
            *(f"CREATE TYPE pg_temp.{thing.name.split('.')[1]} AS (x int)" for thing in o.types)]


KINDS = {kind.__name__: kind for kind in (
    reading, locking, changing, depending, typing, calling, extension, by_number, advisory, settings, others)}
