"""help(): what people ask of psql. It knows everything, each example runs, and it fits a screen."""

import re
import subprocess

import psycopg
import pytest

from conftest import session

ROLES = "authenticator, app, replicator"


@pytest.fixture(scope="module")
def filled(cluster):
    """A database with what the examples name."""
    cluster.execute("CREATE DATABASE helped TEMPLATE with_keysmith")
    for role in ROLES.split(", "):
        cluster.execute(f"CREATE ROLE {role}")
    db = session(cluster, "helped")
    db.rows("""
        CREATE TABLE images (id int PRIMARY KEY, tenant_id uuid NOT NULL);
        CREATE TABLE customers (id int PRIMARY KEY, email text, phone text);
        CREATE TABLE albums (LIKE images);
        INSERT INTO customers VALUES (1, 'ann@example.org', '+49 30 1234')""")
    db.tenant("acme")
    db.call("create_keyspace", "trial")
    for scope in ("images:read", "images:write"):
        db.call("define_scope", "default", scope)
    db.call("define_role", "default", "editor", ["images:read"])
    db.call("set_member", "acme", "ann@example.org", "editor")
    db.call("define_route", "default", "GET", "/v1/images/{id}", "images:read")
    db.call("define_endpoint", "default", "GET", "/v1/me", "whoami")
    db.call("grant_access", "app", "verifier")
    key = db.mint(label="Production", scopes=["images:read"])
    db.call("disable", db.mint(label="Old").key_id)
    db.call("isolate", "images", "tenant_id")
    for function, *arguments in [("protect", "email", "phone"), ("seal_rows",), ("track",), ("ledger",)]:
        db.call(function, "customers", *arguments)
    db.api_key = key.api_key
    yield db
    db.session.close()
    cluster.execute("DROP DATABASE helped WITH (FORCE)")
    cluster.execute(f"DROP ROLE {ROLES}")


def lines(db, *name):
    return [line for line, in db.call("help", *name)]


def printed(cluster, script):
    """What psql prints, errors too."""
    return cluster.program("psql", "-X", dbname="helped", check=False, input=script, stderr=subprocess.STDOUT).stdout


FUNCTIONS = """
    SELECT p.proname::text AS name, coalesce(p.proargnames[:p.pronargs], '{}') AS arguments FROM pg_proc p
    WHERE p.pronamespace = 'keysmith'::regnamespace AND p.prorettype <> 'trigger'::regtype"""


def test_it_knows_every_function_and_argument(filled):
    functions = filled.rows(FUNCTIONS)
    listed = filled.rows("SELECT function FROM keysmith_private.help_functions()")
    assert sorted(name for name, in listed) == sorted({function.name for function in functions})
    arguments = {(function.name, argument) for function in functions for argument in function.arguments}
    words = filled.rows("SELECT function, argument FROM keysmith_private.help_arguments()")
    assert len(words) == len(set(words))
    assert {row for row in words if row.function} <= arguments
    shared = {argument for function, argument in words if function is None}
    assert arguments - set(words) == {(name, argument) for name, argument in arguments - set(words) if argument in shared}
    # No word is there for nothing.
    assert shared <= {argument for _, argument in arguments - set(words)}


def names(db):
    return db.rows("SELECT kind, name FROM keysmith_private.help_names() ORDER BY 1, 2")


def test_it_fits_a_screen(cluster, filled):
    known = names(filled)
    assert len(known) == len({name for _, name in known}) > 100
    for kind, name in known:
        text = lines(filled, name)
        assert text[0].endswith(name), name
        assert len(text) <= (24 if kind == "Functions" and name not in ("create_keyspace", "import_key", "mint") else 50), name
    assert len(lines(filled)) < 120
    script = "".join(f"SELECT keysmith.help('{name}');\n" for _, name in known) + "SELECT keysmith.help();\n"
    output = printed(cluster, script)
    assert output.count(" rows)\n") == len(known) + 1
    assert [line for line in output.splitlines() if len(line) > 100] == []
    # A row for each line: psql marks no continuation.
    assert [line for line in output.splitlines() if line.endswith("+")] == []


def test_each_argument_is_explained(filled):
    for function in filled.rows(FUNCTIONS):
        text = lines(filled, function.name)
        for argument in function.arguments:
            words = filled.value("SELECT words FROM keysmith_private.help_arguments() WHERE argument = %s "
                                 "AND (function = %s OR function IS NULL) ORDER BY function LIMIT 1", argument, function.name)
            (line,) = [line for line in text if line.startswith(f"  {argument}  ")]
            assert "  " + " ".join(words.split()[:3]) in line


def test_every_example_runs(cluster, filled):
    """Each in a transaction that is rolled back; procedures and commands of psql as they are."""
    examples = {}
    for kind, name in names(filled):
        text = lines(filled, name)
        if "Example:" in text:
            examples[name] = "\n".join(line[2:] for line in text[text.index("Example:") + 1:])
    functions = {function.name for function in filled.rows(FUNCTIONS)}
    views = {name for kind, name in names(filled) if kind in ("Views", "Settings")}
    assert functions | views == set(examples)
    assert all(re.search(rf"\b{name}\b", example) for name, example in examples.items())
    failed = {}
    for name, example in examples.items():
        whole = f"{example}\n" if example.startswith("CALL") else f"BEGIN;\n{example}\nROLLBACK;\n"
        done = printed(cluster, f"\\set api_key {filled.api_key}\n{whole}")
        if "ERROR" in done or not example.endswith(";"):
            failed[name] = done
    assert failed == {}


def test_the_overview_has_each_function_on_one_line(filled):
    text = lines(filled)
    for function in filled.rows(FUNCTIONS):
        (line,) = [line for line in text if re.match(rf"  (\S.{{10}}|\s{{11}})  {function.name}  ", line)]
        comment = filled.value("SELECT obj_description(oid) FROM pg_proc WHERE proname = %s "
                               "AND pronamespace = 'keysmith'::regnamespace ORDER BY oid LIMIT 1", function.name)
        assert line.endswith("  " + comment.split(";")[0])
    joined = " ".join(" ".join(text).split())
    for kind, name in names(filled):
        assert kind == "Functions" or re.search(rf"[ ]{re.escape(name)}(,| |$)", joined), name


@pytest.mark.parametrize("name, meant", [
    ("mnit", "mint"), ("audit_veryfy", "audit_verify"), ("usage_bufer", "keysmith.usage_buffer"), ("verdicts", "verdict")])
def test_a_name_that_is_not_known(filled, name, meant):
    with pytest.raises(psycopg.Error) as error:
        filled.call("help", name)
    assert error.value.sqlstate == "KS404" and f"are: {meant}, " in error.value.diag.message_hint


def test_a_key_in_place_of_a_name_is_not_shown(filled):
    with pytest.raises(psycopg.Error) as error:
        filled.call("help", filled.api_key)
    diagnosis = error.value.diag
    assert not any(filled.api_key[8:] in (text or "") for text in (
        diagnosis.message_primary, diagnosis.message_hint, diagnosis.message_detail, diagnosis.context))


@pytest.mark.parametrize("name", ["keysmith.mint", "MINT", " mint ", "mint()", "keysmith.mint(text)"])
def test_a_name_may_be_written_as_people_do(filled, name):
    assert lines(filled, name) == lines(filled, "mint")


@pytest.mark.parametrize("level", ["verifier", "issuer", "auditor", "admin"])
def test_every_level_may_ask(filled, level):
    with filled.session.transaction(force_rollback=True):
        filled.call("grant_access", "replicator", level)
        expected = lines(filled), lines(filled, "pepper_file")
        filled.rows("SET LOCAL ROLE replicator")
        assert (lines(filled), lines(filled, "pepper_file")) == expected


def test_without_a_level_nobody_may(filled):
    with filled.session.transaction(force_rollback=True):
        filled.rows("SET LOCAL ROLE replicator")
        assert "permission denied" in filled.refused("42501", "help")
