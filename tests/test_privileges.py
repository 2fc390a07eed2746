"""Privileges of roles, and the reach of a hostile search path."""

import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

SOURCE = Path(__file__).parent.parent


@pytest.fixture
def role(cluster, dbname):
    cluster.execute("CREATE ROLE app LOGIN")
    yield "app"
    cluster.execute("DROP OWNED BY app", dbname)
    cluster.execute("DROP ROLE app")


IDENTITY = {"current_tenant", "current_tenant_id", "current_keyspace", "current_key",
            "current_environment", "current_owner", "has_scope", "require_identity", "whoami"}


def test_public_may_read_its_own_identity_and_nothing_else(db):
    granted = db.rows("SELECT proname FROM pg_proc p, aclexplode(coalesce(proacl, acldefault('f', "
                      "proowner))) a WHERE pronamespace IN ('keysmith'::regnamespace, 'keysmith_private'::regnamespace) AND a.grantee = 0")
    assert {name for name, in granted} == IDENTITY
    assert db.value("SELECT count(*) FROM pg_class c, aclexplode(relacl) a "
                    "WHERE relnamespace IN ('keysmith'::regnamespace, 'keysmith_private'::regnamespace) AND a.grantee = 0") == 0
    assert db.value("SELECT count(*) FROM pg_type t, aclexplode(coalesce(typacl, acldefault('T', typowner))) a "
                    "WHERE typnamespace IN ('keysmith'::regnamespace, 'keysmith_private'::regnamespace) "
                    "AND typcategory <> 'A' AND a.grantee = 0") == 0
    for schema in ("keysmith", "keysmith_private"):
        assert not db.value("SELECT has_schema_privilege('public', %s, 'USAGE, CREATE')", schema)


def test_default_privileges_of_who_installs_it_give_nothing(cluster, role):
    cluster.execute("CREATE DATABASE generous")
    try:
        with cluster.connect("generous") as session:
            for kind in ("TABLES", "SEQUENCES", "FUNCTIONS", "TYPES", "SCHEMAS"):
                session.execute(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON {kind} TO {role}, PUBLIC")
            session.execute("CREATE EXTENSION keysmith")
            given = session.execute("""
                SELECT c.relname FROM pg_class c, aclexplode(relacl) a
                WHERE relnamespace IN ('keysmith'::regnamespace, 'keysmith_private'::regnamespace) AND a.grantee <> c.relowner
                UNION ALL
                SELECT p.proname FROM pg_proc p, aclexplode(proacl) a
                WHERE pronamespace IN ('keysmith'::regnamespace, 'keysmith_private'::regnamespace) AND a.grantee <> p.proowner
                UNION ALL
                SELECT a.privilege_type FROM pg_namespace n, aclexplode(nspacl) a
                WHERE nspname IN ('keysmith', 'keysmith_private') AND a.grantee <> n.nspowner
                UNION ALL
                SELECT t.typname FROM pg_type t, aclexplode(typacl) a
                WHERE typnamespace IN ('keysmith'::regnamespace, 'keysmith_private'::regnamespace)
                  AND a.grantee <> t.typowner""").fetchall()
        assert sorted(name for name, in given) == sorted(IDENTITY)
    finally:
        cluster.execute("DROP DATABASE generous WITH (FORCE)")


def test_access_is_all_an_application_needs(cluster, dbname, db, role, database):
    db.call("grant_access", role, "admin")
    with cluster.connect(dbname, user=role, row_factory=psycopg.rows.namedtuple_row) as session:
        app = database(session)
        app.tenant()
        key = app.mint()
        assert app.verify(key.api_key).ok
        (listed,) = app.call("list_keys", "acme")
        assert listed.created_by == role
        app.call("revoke", key.key_id)
        assert app.value("SELECT current_user") == role
        assert app.value("SELECT status FROM keysmith.keys") == "revoked"
        for table in ("key", "tenant", "keyspace", "key_listing"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.rows(f"SELECT * FROM keysmith_private.{table}")


def test_the_owners_place_is_left_after_errors(cluster, dbname, db, role, database):
    db.call("grant_access", role, "admin")
    with cluster.connect(dbname, user=role, row_factory=psycopg.rows.namedtuple_row) as session:
        app = database(session)
        app.rows("SET search_path = public")
        app.rows("""DO $$ BEGIN PERFORM keysmith.revoke(gen_random_uuid());
                    EXCEPTION WHEN sqlstate 'KS404' THEN NULL; END $$""")
        app.rows("""DO $$ BEGIN PERFORM keysmith.create_tenant('acme');
                    PERFORM keysmith.create_tenant('acme');
                    EXCEPTION WHEN sqlstate 'KS409' THEN NULL; END $$""")
        assert app.row("SELECT current_user, current_setting('search_path')") == (role, "public")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.rows("SELECT * FROM keysmith_private.key")


HOSTILE = """
    CREATE SCHEMA evil;
    CREATE TABLE evil.pwned (what text);
    GRANT ALL ON SCHEMA evil TO PUBLIC; GRANT ALL ON evil.pwned TO PUBLIC;
    CREATE FUNCTION evil.note(what text) RETURNS boolean LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO evil.pwned VALUES (what || ' as ' || current_user); RETURN true; END $$;
    CREATE FUNCTION evil.eq(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT evil.note('=text') $$;
    CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
    CREATE FUNCTION evil.eq(uuid, uuid) RETURNS boolean LANGUAGE sql AS $$ SELECT evil.note('=uuid') $$;
    CREATE OPERATOR evil.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = evil.eq);
    CREATE FUNCTION evil.pg_notify(text, text) RETURNS void LANGUAGE sql AS $$ SELECT evil.note('notify') $$;
    CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
        $$ SELECT '-infinity'::timestamptz WHERE evil.note('clock') $$;
    CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS
        $$ SELECT '-infinity'::timestamptz WHERE evil.note('now') $$;
    CREATE DOMAIN evil.jsonb AS text;
    CREATE DOMAIN evil.text AS pg_catalog.text CHECK (evil.note('text'));
    CREATE TYPE evil.verdict AS (x int);
    CREATE TABLE evil.key (x int); CREATE TABLE evil.tenant (x int);
    SET search_path = evil, pg_temp, pg_catalog;
"""


@pytest.mark.parametrize("before_install", [True, False])
def test_a_hostile_search_path_is_of_no_use(cluster, dbname, db, before_install):
    if before_install:
        db.rows("DROP EXTENSION keysmith CASCADE")
    db.session.execute(HOSTILE)
    if before_install:
        db.rows("CREATE EXTENSION keysmith")
    db.rows("CREATE TEMP TABLE key (x int); CREATE TEMP TABLE tenant (x int); "
            "CREATE TEMP TABLE keyspace (x int)")
    cast = "::pg_catalog.text"
    db.session.execute(f"SELECT keysmith.create_tenant('acme'{cast})")
    db.session.execute(f"SELECT keysmith.define_scope('default'{cast}, 'a'{cast})")
    db.session.execute(f"SELECT keysmith.define_role('default'{cast}, 'r'{cast}, '{{a}}'::pg_catalog.text[])")
    db.session.execute(f"SELECT keysmith.set_member('acme'{cast}, 'ann'{cast}, 'r'{cast})")
    key = db.session.execute(f"SELECT * FROM keysmith.mint('acme'{cast})").fetchone()
    verify = f"SELECT * FROM keysmith.verify(%s{cast})"
    assert db.session.execute(verify, (key.api_key,)).fetchone().ok
    db.session.execute("SELECT keysmith.alter_key(%s::uuid, '{\"label\": \"x\"}'::pg_catalog.jsonb)", (key.key_id,))
    new = db.session.execute("SELECT * FROM keysmith.rotate(%s::uuid)", (key.key_id,)).fetchone()
    db.session.execute(f"SELECT * FROM keysmith.list_keys('acme'{cast})")
    db.session.execute("SELECT * FROM keysmith.keys").fetchall()
    db.session.execute(f"SELECT keysmith.grant_access('pg_monitor'::pg_catalog.regrole, 'issuer'{cast}, "
                       f"'acme'{cast})")
    db.session.execute("SELECT keysmith.revoke_access('pg_monitor'::pg_catalog.regrole)")
    db.rows("CREATE TABLE evil.things (tenant_id pg_catalog.uuid, body pg_catalog.text)")
    db.session.execute("SELECT keysmith.isolate('evil.things'::pg_catalog.regclass, 'tenant_id'::pg_catalog.text)")
    db.session.execute("SELECT keysmith.release('evil.things'::pg_catalog.regclass)")
    with db.session.transaction():
        db.session.execute(f"SELECT keysmith.verify(%s{cast}, sign_in => true)", (new.api_key,))
        assert db.session.execute("SELECT keysmith.current_tenant(), keysmith.whoami()").fetchone()[0] == "acme"
        db.session.execute(f"SELECT keysmith.mint('acme'{cast})")
        db.session.execute(f"SELECT keysmith.has_scope('a'{cast})")
        assert db.session.execute("SELECT tenant FROM keysmith.keys").fetchall()
        assert db.session.execute("SELECT tenant FROM keysmith.audit").fetchall()
    db.session.execute("SELECT keysmith.revoke(%s::uuid)", (new.key_id,))
    for function in ("audit_verify", "audit_heads", "status"):
        assert db.session.execute(f"SELECT * FROM keysmith.{function}()").fetchall()
    assert db.session.execute("SELECT action FROM keysmith.audit").fetchall()
    assert not db.session.execute(verify, (new.api_key,)).fetchone().ok
    db.rows("RESET search_path")
    assert db.rows("SELECT * FROM evil.pwned") == []


# As CREATE EXTENSION sets it for its scripts, since the control file names that schema.
SCRIPT_PATH = "SET search_path = pg_catalog, pg_temp;\n"


# A procedure that commits can't set a search path: its code qualifies every name with its schema.
EXCUSED = re.compile(r"PS005: Function without explicit search_path: keysmith\.protect_existing\(")


def findings(script):
    spotter = Path(sys.executable).with_name("pgspot")
    done = subprocess.run([spotter], input=script, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    lines = done.stdout.splitlines()
    excused = sum(1 for line in lines if EXCUSED.match(line))
    printed = "\n".join(line for line in lines if not EXCUSED.match(line))
    return {line for line in printed.splitlines() if re.match(r"PS\d+|.*[Uu]nknown", line)
            and "Unknown: 0" not in line}, printed.replace(f"Warnings: {excused} ", "Warnings: 0 ")


@pytest.mark.parametrize("script", sorted((SOURCE / "sql").glob("*.sql")), ids=lambda path: path.name)
def test_the_scripts_have_no_known_weakness(db, script):
    assert re.search(r"^schema = '?pg_catalog'?$", (SOURCE / "keysmith.control").read_text(), re.M)
    found, printed = findings(SCRIPT_PATH + script.read_text())
    assert not found and "Errors: 0 Warnings: 0 Unknown: 0" in printed, printed
    # The control: the search finds something.
    found, _ = findings(SCRIPT_PATH + "CREATE FUNCTION f() RETURNS int LANGUAGE sql SECURITY DEFINER "
                                      "AS $$ SELECT 1 $$;")
    assert found


def test_a_schema_that_someone_else_made_is_not_taken_over(cluster, dbname, db):
    db.rows("DROP EXTENSION keysmith CASCADE; CREATE SCHEMA keysmith")
    with pytest.raises(psycopg.errors.DuplicateSchema):
        db.rows("CREATE EXTENSION keysmith")
    with pytest.raises(psycopg.Error, match='must be installed in schema "pg_catalog"'):
        db.rows("DROP SCHEMA keysmith; CREATE SCHEMA other; CREATE EXTENSION keysmith SCHEMA other")


def test_settings_of_ours_cannot_be_invented(db):
    with pytest.raises(psycopg.Error, match="keysmith"):
        db.rows("SET keysmith.anything = 'x'")


# The library and its install script

@pytest.mark.parametrize("change", [
    "ALTER TABLE keysmith_private.key RENAME label TO lable",
    "ALTER TABLE keysmith_private.tenant ADD more text",
    "ALTER TABLE keysmith_private.plan_feature DROP plans",
    "DROP INDEX keysmith_private.key_of_tenant",
])
def test_a_library_that_does_not_fit_the_tables_reads_none(db, change):
    db.tenant()
    key = db.mint().api_key
    assert db.verify(key).ok
    db.rows(change)
    assert db.refused("KS500", "verify", key)
    assert db.refused("KS500", "mint", "acme")


def test_every_function_of_the_library_is_declared_and_no_other(db):
    exported = set()
    for path in (SOURCE / "src").rglob("*.rs"):
        for block in re.findall(r"^(?:sql_functions|functions|trigger_functions|procedures)! \{(.*?)^\}", path.read_text(), re.S | re.M):
            exported |= set(re.findall(r"(\w+) =>", block))
    declared = {row.prosrc for row in db.rows(
        "SELECT prosrc FROM pg_proc WHERE pronamespace IN ('keysmith'::regnamespace, 'keysmith_private'::regnamespace) "
        "AND prolang = (SELECT oid FROM pg_language WHERE lanname = 'c')")}
    assert exported == declared


def test_every_object_has_a_comment(db):
    missing = db.rows("""
        SELECT objid, classid::regclass, pg_describe_object(classid, objid, 0)
        FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
          AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'keysmith')
          AND classid IN ('pg_proc'::regclass, 'pg_class'::regclass, 'pg_namespace'::regclass)
          AND obj_description(objid, classid::regclass::name) IS NULL""")
    assert missing == []
