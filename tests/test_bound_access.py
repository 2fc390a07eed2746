"""Access that is bound to a keyspace or a tenant, and what takes it away."""

import psycopg
import pytest
from psycopg.types.json import Jsonb

from conftest import wait_until

HEADERS = Jsonb({"Authorization": "Bearer other_x"})
# Each function that decides, with arguments for a keyspace.
DECIDING = [
    ("verify", {"api_key": "KEY"}), ("verify_json", {"api_key": "KEY"}), ("verify_digest", {"digest": b"x" * 32}),
    ("verify_many", {"api_keys": ["KEY"]}), ("authenticate", {"headers": HEADERS, "method": "GET", "path": "/"}),
    ("authenticate_json", {"headers": HEADERS, "method": "GET", "path": "/"}),
    ("serve", {"headers": HEADERS, "method": "GET", "path": "/"}),
]


@pytest.fixture
def role(cluster, dbname, db):
    """Makes roles, and removes them after the test."""
    made = []

    def make(name="app", options="LOGIN"):
        cluster.execute(f"CREATE ROLE {name} {options}")
        made.append(name)
        return name

    yield make
    for name in reversed(made):
        cluster.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{name}'")
        cluster.execute(f"DROP OWNED BY {name}", dbname)
        cluster.execute(f"DROP ROLE {name}")


@pytest.fixture
def as_role(cluster, dbname, database):
    sessions = []

    def open_session(role):
        session = cluster.connect(dbname, user=role, row_factory=psycopg.rows.namedtuple_row)
        session.prepare_threshold = None
        sessions.append(session)
        return database(session)

    yield open_session
    for session in sessions:
        session.close()


@pytest.fixture
def keys(db):
    """A key of each of two keyspaces."""
    db.call("create_keyspace", "other", prefixes=Jsonb({"secret": {"live": "other_"}}))
    db.tenant()
    db.tenant(keyspace="other")
    return {"default": db.mint(), "other": db.mint(keyspace="other")}


def may(app, key, keyspace):
    """Whether the role may ask about a key of this keyspace, and learns the right answer."""
    try:
        assert app.verify(key.api_key, keyspace=keyspace).ok
        return True
    except psycopg.Error as error:
        assert error.sqlstate == "KS403", error
        return False


def reach(app, keys):
    return {keyspace for keyspace, key in keys.items() if may(app, key, keyspace)}


# Verifiers

@pytest.mark.parametrize("function, arguments", DECIDING)
def test_a_verifier_of_one_keyspace_decides_about_no_other(db, keys, role, as_role, function, arguments):
    db.call("grant_access", role(), "verifier", keyspace="other")
    app = as_role("app")
    arguments = {name: [keys["other"].api_key] if value == ["KEY"] else keys["other"].api_key if value == "KEY" else value
                 for name, value in arguments.items()}
    app.call(function, **arguments, keyspace="other")
    for keyspace in ("default", "none", "", None):
        message = app.refused("KS403", function, **arguments, keyspace=keyspace)
        shown = keyspace or ""
        assert message == f'keyspace must be one that role "app" is bound to, which "{shown}" is not'


def test_a_verifier_sees_no_definitions(db, keys, role, as_role):
    db.call("define_role", "other", "editor", ["a"])
    db.call("set_member", "acme", "ann", "editor", "other")
    db.call("grant_access", role(), "verifier", keyspace="other")
    app = as_role("app")
    for view in ("scopes", "roles", "members", "routes", "endpoints", "tenants", "keys", "audit", "usage"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.rows(f"SELECT * FROM keysmith.{view}")


def test_a_key_of_another_keyspace_tells_nothing(db, keys, role, as_role):
    """Not even to a verifier who asks about it in the own keyspace."""
    db.call("grant_access", role(), "verifier", keyspace="other")
    app = as_role("app")
    verdict = app.verify(keys["default"].api_key, keyspace="other", sign_in=False)
    assert not verdict.ok and (verdict.key_id, verdict.tenant, verdict.scopes) == (None, None, None)
    with app.session.transaction():
        assert not app.verify(keys["default"].api_key, keyspace="other", sign_in=True).ok
        assert app.value("SELECT keysmith.whoami()") is None and app.value("SELECT keysmith.has_scope('a')") is False


def test_the_identity_is_of_the_own_keyspace(db, keys, role, as_role):
    db.call("grant_access", role(), "verifier", keyspace="other")
    app = as_role("app")
    with app.session.transaction():
        assert app.one("serve", Jsonb({"x-api-key": keys["other"].api_key}), "GET", "/", keyspace="other").ok
        assert app.value("SELECT keysmith.current_keyspace()") == "other"


def test_a_changed_verdict_tells_nothing_about_another_keyspace(db, keys, role, as_role):
    db.call("create_keyspace", "hidden", schemes=["header:X-Hidden"])
    db.call("grant_access", role(), "verifier", keyspace="other")
    app = as_role("app")
    headers = ("SELECT keysmith.response_headers(jsonb_populate_record(v, jsonb_build_object('keyspace', %s::text)))"
               " FROM keysmith.verify(NULL, keyspace => 'other') v")
    assert "Bearer" in app.value(headers, "other")["WWW-Authenticate"]
    assert "Cache-Control" in app.value(headers, None)
    for keyspace in ("hidden", "default", "none"):
        with pytest.raises(psycopg.Error) as error:
            app.value(headers, keyspace)
        assert error.value.sqlstate == "KS403"


def test_the_error_says_what_to_call(db, keys, role, as_role):
    db.call("grant_access", role(), "verifier", keyspace="other")
    with pytest.raises(psycopg.Error) as error:
        as_role("app").verify("x")
    assert error.value.diag.message_hint == \
        "keysmith.grant_access('app', 'verifier', keyspace => …) gives it another keyspace."


def test_the_hook_of_postgrest_is_bound_too(db, keys, role, as_role):
    db.call("grant_access", role(), "verifier", keyspace="other")
    app = as_role("app")
    app.rows("SELECT set_config('request.method', 'GET', false)")
    assert "default" in app.refused("KS403", "pre_request")


def test_events_of_another_keyspace_have_a_name_that_it_does_not_learn(db, keys, role, as_role):
    db.call("grant_access", role(), "verifier", keyspace="other")
    app = as_role("app")
    assert app.value("SELECT keysmith.event_channel('other')")
    app.refused("KS403", "event_channel", "default")


def test_the_routes_of_another_keyspace_are_not_described(db, keys, role, as_role):
    db.call("grant_access", role(), "verifier", keyspace="other")
    app = as_role("app")
    assert app.value("SELECT keysmith.openapi('other')")
    for keyspace in ("default", "nowhere"):
        app.refused("KS403", "openapi", keyspace)


def test_who_is_bound_explains_no_other_keyspace(cluster, dbname, db, keys, role, as_role):
    db.call("grant_access", role(), "verifier", keyspace="other")
    # The level does not come with the function.
    cluster.execute("GRANT EXECUTE ON FUNCTION keysmith.explain_verify TO app", dbname)
    app = as_role("app")
    assert app.call("explain_verify", "x", keyspace="other")
    app.refused("KS403", "explain_verify", "x")
    db.call("grant_access", "app", "auditor")
    assert app.call("explain_verify", "x")
    # An auditor sees everything, and still decides about one keyspace only.
    assert reach(app, keys) == {"other"}


def test_who_is_bound_describes_no_other_keyspace(db, keys, role, as_role):
    db.call("grant_access", role(), "verifier", keyspace="other")
    app = as_role("app")
    assert app.value("SELECT keysmith.openapi('other') -> 'info' ->> 'title'") == "other"
    app.refused("KS403", "openapi", "default")


def test_bindings_add_up_and_each_goes_by_itself(db, keys, role, as_role):
    db.call("create_keyspace", "third", prefixes=Jsonb({"secret": {"live": "third_"}}))
    db.tenant(keyspace="third")
    keys = keys | {"third": db.mint(keyspace="third")}
    role()
    app = None

    def change(function, **binding):
        db.call(function, "app", "verifier", **binding)
        nonlocal app
        app = app or as_role("app")
        return reach(app, keys)

    assert change("grant_access", keyspace="other") == {"other"}
    assert change("grant_access", keyspace="other") == {"other"}
    assert change("grant_access", keyspace="third") == {"other", "third"}
    assert change("revoke_access", keyspace="other") == {"third"}
    assert change("grant_access") == {"default", "other", "third"}
    assert change("revoke_access", keyspace="third") == {"default", "other", "third"}
    assert db.refused("KS404", "revoke_access", "app", "verifier", keyspace="third") == 'role "app" has no such access'
    assert change("grant_access", keyspace="default") == {"default", "other", "third"}
    db.call("revoke_access", "app", "verifier")
    with pytest.raises(psycopg.Error) as error:
        app.verify("x")
    assert error.value.sqlstate == "42501"


def test_access_is_what_was_committed(db, connect, database, keys, role, as_role):
    db.call("grant_access", role(), "verifier", keyspace="other")
    app, admin = as_role("app"), database(connect(autocommit=False))
    assert reach(app, keys) == {"other"}
    admin.call("grant_access", "app", "verifier", keyspace="default")
    assert reach(app, keys) == {"other"}
    admin.session.rollback()
    assert reach(app, keys) == {"other"}
    admin.call("grant_access", "app", "verifier", keyspace="default")
    admin.session.commit()
    assert reach(app, keys) == {"default", "other"}
    admin.call("revoke_access", "app", "verifier", keyspace="default")
    # A transaction that began before the commit asks again.
    app.rows("BEGIN ISOLATION LEVEL SERIALIZABLE")
    assert app.verify(keys["default"].api_key).ok
    admin.session.commit()
    app.refused("KS403", "verify", keys["default"].api_key)
    app.rows("ROLLBACK")


def test_a_savepoint_takes_a_binding_back(db, keys, role):
    db.call("grant_access", role(), "verifier", keyspace="other")
    db.rows("BEGIN; SAVEPOINT s")
    db.call("grant_access", "app", "verifier")
    db.rows("SET LOCAL ROLE app")
    assert db.verify(keys["default"].api_key).ok
    db.rows("ROLLBACK TO s; SET LOCAL ROLE app")
    db.refused("KS403", "verify", keys["default"].api_key)
    db.rows("ROLLBACK")


def test_memberships_count_as_soon_as_they_change(cluster, db, keys, role, as_role):
    db.call("grant_access", role("verifies_other", "NOLOGIN"), "verifier", keyspace="other")
    db.call("grant_access", role("verifies_all", "NOLOGIN"), "verifier")
    role()
    cluster.execute("GRANT verifies_other TO app")
    app = as_role("app")
    assert reach(app, keys) == {"other"}
    cluster.execute("GRANT verifies_all TO app")
    assert reach(app, keys) == {"default", "other"}
    cluster.execute("REVOKE verifies_all FROM app")
    assert reach(app, keys) == {"other"}
    cluster.execute("ALTER ROLE app SUPERUSER")
    assert reach(app, keys) == {"default", "other"}
    cluster.execute("ALTER ROLE app NOSUPERUSER")
    assert reach(app, keys) == {"other"}


def test_it_is_the_role_that_runs_the_call(cluster, dbname, db, keys, role, as_role):
    db.call("grant_access", role("narrow", "NOLOGIN"), "verifier", keyspace="other")
    db.call("grant_access", role("wide", "NOLOGIN"), "verifier")
    role("login")
    cluster.execute("GRANT narrow, wide TO login")
    app = as_role("login")
    # Many changes of the role, each with its own answer.
    for _ in range(3):
        app.rows("SET ROLE narrow")
        assert reach(app, keys) == {"other"}
        app.rows("SET ROLE wide")
        assert reach(app, keys) == {"default", "other"}
    db.rows("""CREATE FUNCTION decide(api_key text) RETURNS boolean LANGUAGE sql SECURITY DEFINER AS
               $$ SELECT ok FROM keysmith.verify(api_key) $$;
               ALTER FUNCTION decide OWNER TO wide; GRANT EXECUTE ON FUNCTION decide TO narrow""")
    app.rows("SET ROLE narrow")
    assert app.value("SELECT decide(%s)", keys["default"].api_key)
    app.refused("KS403", "verify", keys["default"].api_key)
    db.rows("ALTER FUNCTION decide OWNER TO narrow; SET SESSION AUTHORIZATION narrow")
    db.refused("KS403", "verify", keys["default"].api_key)
    with pytest.raises(psycopg.Error) as error:
        db.rows("SELECT decide('x')")
    assert error.value.sqlstate == "KS403"
    db.rows("RESET SESSION AUTHORIZATION; DROP FUNCTION decide")


def test_a_plan_that_is_kept_asks_again(db, keys, role, as_role):
    db.call("grant_access", role(), "verifier")
    app = as_role("app")
    app.rows("PREPARE decide(text) AS SELECT ok FROM keysmith.verify($1)")
    for _ in range(7):
        assert app.value(f"EXECUTE decide('{keys['default'].api_key}')")
    db.call("grant_access", "app", "verifier", keyspace="other")
    db.call("revoke_access", "app", "verifier")
    db.call("grant_access", "app", "verifier", keyspace="other")
    with pytest.raises(psycopg.Error) as error:
        app.rows("EXECUTE decide('x')")
    assert error.value.sqlstate == "KS403"


def test_more_roles_than_are_remembered_are_looked_up(cluster, db, keys, role, as_role):
    role("login")
    for n in range(20):
        name = role(f"app_{n}", "NOLOGIN")
        db.call("grant_access", name, "verifier", keyspace="other" if n % 2 else "default")
        cluster.execute(f"GRANT {name} TO login")
    app = as_role("login")
    for _ in range(2):
        for n in range(20):
            app.rows(f"SET ROLE app_{n}")
            assert reach(app, keys) == {"other" if n % 2 else "default"}


def test_who_has_execute_by_hand_is_not_bound(cluster, dbname, db, keys, role, as_role):
    role()
    cluster.execute("GRANT USAGE ON SCHEMA keysmith TO app", dbname)
    cluster.execute("GRANT EXECUTE ON FUNCTION keysmith.verify TO app", dbname)
    app = as_role("app")
    assert reach(app, keys) == {"default", "other"}
    db.call("grant_access", "app", "host", keyspace="other")
    assert reach(app, keys) == {"default", "other"}, "a host is bound as a host"


# Arguments

@pytest.mark.parametrize("level, binding, message", [
    ("admin", {"keyspace": "other"}, "keyspace must be null without a tenant, except for verifiers and hosts"),
    ("auditor", {"keyspace": "other"}, "keyspace must be null without a tenant, except for verifiers and hosts"),
    ("issuer", {"keyspace": "other"}, "keyspace must be null without a tenant, except for verifiers and hosts"),
    ("verifier", {"tenant": "acme"}, "tenant must be null, except for issuers and hosts"),
    ("admin", {"tenant": "acme"}, "tenant must be null, except for issuers and hosts"),
    ("captain", {}, "level must be verifier, host, issuer, auditor or admin"),
])
def test_what_is_not_bound_can_not_be(db, keys, role, level, binding, message):
    assert db.refused("KS400", "grant_access", role(), level, **binding) == message


@pytest.mark.parametrize("binding", [{"keyspace": "none"}, {"tenant": "nobody"}, {"tenant": "nobody", "keyspace": "other"}])
@pytest.mark.parametrize("function", ["grant_access", "revoke_access"])
def test_what_it_is_bound_to_must_exist(db, keys, role, function, binding):
    db.refused("KS404", function, role(), "host", **binding)


def test_the_default_keyspace_is_named_by_a_tenant_alone(db, keys, role):
    role()
    db.call("grant_access", "app", "host", "acme")
    db.call("grant_access", "app", "issuer", "acme", "other")
    db.call("grant_access", "app", "verifier", keyspace="default")
    found = db.rows("SELECT a.level, t.keyspace, a.keyspace AS bound FROM keysmith_private.access a"
                    " LEFT JOIN keysmith_private.tenant t USING (tenant_id) ORDER BY 1")
    assert found == [("host", "default", None), ("issuer", "other", None), ("verifier", None, "default")]
    assert db.refused("KS404", "revoke_access", "app", "host", "acme", "other") == 'role "app" has no such access'
    db.call("revoke_access", "app", "host", "acme")
    db.call("revoke_access", "app", "issuer", "acme", "other")
    assert db.rows("SELECT level FROM keysmith_private.access") == [("verifier",)]


def test_the_audit_has_the_binding(db, keys, role):
    db.call("grant_access", role(), "host", keyspace="other")
    (entry,) = db.value("SELECT after FROM keysmith.audit WHERE action = 'grant_access'")
    assert (entry["level"], entry["keyspace"], entry["tenant_id"]) == ("host", "other", None)


def test_hosts_lose_one_binding_at_a_time(db, keys, role, as_role):
    role()
    for binding in ({"keyspace": "other"}, {"tenant": "acme"}):
        db.call("grant_access", "app", "host", **binding)
    app = as_role("app")
    app.call("act_as", "acme")
    app.call("act_as", "acme", keyspace="other")
    db.call("revoke_access", "app", "host", keyspace="other")
    app.call("act_as", "acme")
    app.refused("KS404", "act_as", "acme", keyspace="other")
    db.call("revoke_access", "app", "host", tenant="acme")
    assert "permission denied" in app.refused("42501", "act_as", "acme")


def test_a_dump_keeps_bindings(cluster, dbname, db, keys, role, as_role):
    db.call("grant_access", role(), "verifier", keyspace="other")
    db.call("grant_access", "app", "host", tenant="acme")
    cluster.execute("DROP DATABASE IF EXISTS restored")
    cluster.execute("CREATE DATABASE restored")
    try:
        dump = cluster.program("pg_dump", "--clean", "--if-exists", dbname=dbname).stdout
        cluster.psql("SET client_min_messages = error;" + dump, dbname="restored")
        found = cluster.execute("SELECT level, keyspace FROM keysmith_private.access ORDER BY 1", "restored")
        assert found == [("host", None), ("verifier", "other")]
    finally:
        cluster.execute("DROP OWNED BY app", "restored")
        cluster.execute("DROP DATABASE restored WITH (FORCE)")


def test_a_keyspace_that_came_with_its_access_is_not_waited_for(db, keys, role, as_role):
    """A session that has decided before learns of it."""
    db.call("grant_access", role(), "verifier", keyspace="other")
    app = as_role("app")
    app.verify("x", keyspace="other")
    db.call("create_keyspace", "new", prefixes=Jsonb({"secret": {"live": "new_"}}))
    db.call("grant_access", "app", "verifier", keyspace="new")
    db.tenant(keyspace="new")
    assert may(app, db.mint(keyspace="new"), "new")
    wait_until(lambda: db.value("SELECT count(*) > 0 FROM keysmith.usage"))
