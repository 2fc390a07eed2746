"""Scopes of an instance: a route that needs projects:write:{id}, and keys that hold projects:write:42."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.types.json import Jsonb

from test_concurrency import waits
from test_openapi import document


@pytest.fixture
def ask(db):
    """The verdict about a key that holds some scopes, on a route."""
    db.tenant()
    db.call("define_route", "default", "PUT", "/projects/{id}", "projects:write:{id}")
    db.call("define_route", "default", "GET", "/projects/{id}", "projects:read:{id}")
    keys = {}

    def asked(scopes, method, path):
        key = keys.setdefault(tuple(scopes), None) or db.mint(scopes=scopes).api_key
        keys[tuple(scopes)] = key
        return db.one("authenticate", Jsonb({"x-api-key": key}), method, path)

    return asked


@pytest.mark.parametrize("scope, path, ok", [
    ("projects:write:42", "/projects/42", True),
    ("projects:write:42", "/projects/42/", True),
    ("projects:write:42", "/projects/42?id=43", True),
    ("projects:write:42", "/projects/4%32", True),
    ("projects:write:42", "/projects/43", False),
    ("projects:write:42", "/projects/420", False),
    ("projects:write:42", "/projects/4", False),
    ("projects:write:a", "/projects/A", False),
    ("projects:write:*", "/projects/42", True),
    ("projects:*", "/projects/42", True),
    ("*", "/projects/42", True),
    ("projects:read:*", "/projects/42", False),
    ("projects:write", "/projects/42", False),
    ("projects:write:42:*", "/projects/42", False),
    ("projects:write:v1.2-a_b", "/projects/v1.2-a_b", True),
])
def test_a_route_needs_the_instance_of_its_path(ask, scope, path, ok):
    verdict = ask([scope], "PUT", path)
    assert (verdict.ok, verdict.reason) == (ok, "ok" if ok else "insufficient_scope")


@pytest.mark.parametrize("part", ["42:x", "42:*", "*", "%2A", "a%20b", "%C3%A9", "a%7Cb", "42%26x", "%7Bid%7D", "a" * 8000])
def test_a_value_that_no_scope_has_is_covered_by_wildcards_only(ask, part):
    path = "/projects/" + part
    for scopes in (["projects:write:*"], ["projects:*"], ["*"]):
        assert ask(scopes, "PUT", path).ok
    for scopes in (["projects:write:42", "projects:write:x", "projects:write:a", "projects:write:id",
                    "projects:write:42:x", "projects:write:42:*", "projects:read:*"], ["projects"]):
        verdict = ask(scopes, "PUT", path)
        assert (verdict.reason, verdict.missing_scopes) == ("insufficient_scope", "projects:write:{id}")


@pytest.mark.parametrize("path", ["/projects/", "/projects//", "/projects/4%2F2", "/projects/%2e%2e", "/projects/%2534",
                                  "/projects/4\\2", "/projects/%00", "/projects/42%", "/projects/" + "4" * 1_000_000])
def test_a_doubtful_path_is_refused_to_all(ask, db, path):
    db.call("alter_keyspace", "default", Jsonb({"unlisted_routes": "refuse"}))
    assert ask(["*"], "PUT", path).reason == "insufficient_scope"


def test_missing_scopes_name_the_instance(ask, db):
    assert ask(["projects:write:7"], "PUT", "/projects/42").missing_scopes == "projects:write:42"
    db.call("define_route", "default", "POST", "/{org}/move/{id}",
            "orgs:{org}:move & (projects:write:{id} | admin)")
    assert ask(["none"], "POST", "/acme/move/9").missing_scopes == "orgs:acme:move & (projects:write:9 | admin)"
    for scopes, ok in [(["orgs:acme:move", "projects:write:9"], True), (["orgs:acme:move", "admin"], True),
                       (["orgs:acme:*", "projects:write:8"], False), (["orgs:other:move", "admin"], False)]:
        assert ask(scopes, "POST", "/acme/move/9").ok is ok, scopes


def test_the_explanation_names_the_instance(ask, db):
    key = db.mint(scopes=["projects:write:7"]).api_key

    def saw(path):
        return db.value("SELECT saw FROM keysmith.explain_verify(%s, method => 'PUT', path => %s) WHERE rule = 'scopes'",
                        key, path)

    assert saw("/projects/42") == "holds projects:write:7; the route needs projects:write:42"
    assert saw("/projects/a%20b") == ("holds projects:write:7; the route needs projects:write:{id}, "
                                      "where the path has a value that only wildcards cover")
    assert db.value("SELECT saw FROM keysmith.explain_verify(%s, '{projects:write:42}') WHERE rule = 'scopes'",
                    key) == "holds projects:write:7; needs projects:write:42"


def test_verify_and_has_scope_take_instances(db):
    db.tenant()
    key = db.mint(scopes=["projects:write:42", "files:*"]).api_key
    for scope, ok in [("projects:write:42", True), ("projects:write:43", False), ("files:read:7", True),
                      ("projects:write:42 & files:read:1", True), ("projects:write:43 | projects:write:42", True)]:
        assert db.verify(key, scopes=[scope]).ok is ok
        with db.session.transaction():
            assert db.verify(key, sign_in=True).ok
            assert db.value("SELECT keysmith.has_scope(%s)", scope) is ok
    verdict = db.verify(key, scopes=["projects:write:43"])
    assert verdict.missing_scopes == "projects:write:43"
    db.refused("KS400", "verify", key, scopes=["projects:write:{id}"])
    db.refused("KS400", "has_scope", "projects:write:{id}")


def test_a_policy_of_rows_by_instance(db):
    db.tenant()
    db.rows("CREATE TABLE project (id int); INSERT INTO project SELECT generate_series(1, 5)")
    db.rows("CREATE ROLE app_of_projects; GRANT SELECT ON project TO app_of_projects; GRANT USAGE ON SCHEMA keysmith TO app_of_projects")
    try:
        db.rows("ALTER TABLE project ENABLE ROW LEVEL SECURITY")
        db.rows("CREATE POLICY own ON project USING (keysmith.has_scope('projects:read:' || id))")
        key = db.mint(scopes=["projects:read:2", "projects:read:4"]).api_key
        with db.session.transaction():
            db.verify(key, sign_in=True)
            db.rows("SET LOCAL ROLE app_of_projects")
            assert db.rows("SELECT id FROM project ORDER BY id") == [(2,), (4,)]
    finally:
        db.rows("DROP TABLE project; DROP OWNED BY app_of_projects; DROP ROLE app_of_projects")


HUGE = "4" * 1_000_000
ODD = ["", "a/b", "%2F", "%252F", "4%2f2", "..", "{id}", "{}", "é", "a b", "a:b", "a|b", "a&b", "(a)", "*", "\\", HUGE]


@pytest.mark.parametrize("id", ODD, ids=lambda id: id[:10] or "empty")
def test_an_odd_id_is_no_part_of_a_scope(db, id):
    """Where the caller names the scope. What can't be a scope is an error."""
    db.tenant()
    key = db.mint(scopes=["projects:write:42", "projects:read:*"]).api_key
    scope = f"projects:write:{id}"
    for call in (lambda: db.verify(key, scopes=[scope]), lambda: db.call("verify_many", [key], scopes=[scope])[0]):
        try:
            assert call().reason == "insufficient_scope"
        except psycopg.Error as error:
            assert error.sqlstate == "KS400" and "scopes" in error.diag.message_primary
            assert len(error.diag.message_primary) < 500
    explained = db.rows("SELECT outcome, saw FROM keysmith.explain_verify(%s, %s) WHERE rule = 'scopes'", key, [scope])
    assert explained[0].outcome == "refuse" and len(explained[0].saw) < 1000
    with db.session.transaction():
        assert db.verify(key, sign_in=True).ok
        try:
            with db.session.transaction():
                assert db.value("SELECT keysmith.has_scope(%s)", scope) is False
        except psycopg.Error as error:
            assert error.sqlstate == "KS400" and "scope" in error.diag.message_primary


@pytest.mark.parametrize("id", ODD, ids=lambda id: id[:10] or "empty")
def test_an_odd_id_is_held_by_nobody(db, id):
    db.tenant()
    key, scope = db.mint(scopes=["a"]), f"projects:write:{id}"
    # These are grants: a wildcard, two segments, and a segment with slashes or dots in it.
    is_grant = id in ("*", "..", "a/b", "a:b")
    for function, arguments in [("mint", {"tenant": "acme", "scopes": [scope]}),
                                ("add_scopes", {"key_id": key.key_id, "scopes": [scope]}),
                                ("alter_key", {"key_id": key.key_id, "changes": Jsonb({"scopes": [scope]})}),
                                ("define_role", {"keyspace": "default", "role": "r", "scopes": [scope]}),
                                ("alter_tenant", {"tenant": "acme", "changes": Jsonb({"scopes": [scope]})})]:
        if is_grant:
            db.call(function, **arguments)
        else:
            message = db.refused("KS400", function, **arguments)
            assert "scopes" in message and len(message) < 500
    if not is_grant:
        assert db.value("SELECT scopes FROM keysmith.keys") == ["a"]
        assert db.value("SELECT count(*) FROM keysmith.roles") == 0


@pytest.mark.parametrize("scope", ["{id}", "a:{}", "a:{i d}", "a:{id", "a:id}", "a:{{id}}", "a:{id}x", "a:{id}:", "a:{é}",
                                   "a:{id}/b", "a:%7Bid%7D", "a:{" + "x" * 200 + "}", "a:{" + HUGE + "}"], ids=lambda scope: scope[:12])
def test_odd_patterns_are_no_scopes(db, scope):
    for function, arguments in [("define_scope", {"scope": scope}), ("define_scope", {"scope": "b:{id}", "implies": [scope]}),
                                ("define_route", {"method": "GET", "pattern": "/a/{id}", "scopes": [scope]})]:
        message = db.refused("KS400", function, keyspace="default", **arguments)
        assert len(message) < 500
    assert db.rows("SELECT * FROM keysmith.scopes") == [] and db.rows("SELECT * FROM keysmith.routes") == []


def test_instances_imply_each_other_in_no_circle(db):
    db.call("define_scope", "default", "p:admin:{p}", implies=["p:write:{p}"])
    db.call("define_scope", "default", "p:write:{id}", implies=["p:read:{id}"])
    for scope, implied in [("p:read:{x}", "p:admin:{x}"), ("p:write:{id}", "p:admin:{id}"), ("p:read:{x}", "p:write:{x}"),
                           ("p:read:{x}", "p:read:{x}")]:
        assert "implies must not lead back" in db.refused("KS400", "define_scope", "default", scope, implies=[implied])
    assert db.rows("SELECT scope FROM keysmith.scopes ORDER BY 1") == [("p:admin:{p}",), ("p:write:{id}",)]


def test_a_circle_that_two_close_at_once(db, connect):
    db.call("define_scope", "default", "a")
    db.call("define_scope", "default", "b")
    one, other = connect(autocommit=False), connect()
    one.execute("SELECT keysmith.define_scope('default', 'a', implies => '{b}')")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(other.execute, "SELECT keysmith.define_scope('default', 'b', implies => '{a}')")
        waits(db)
        one.commit()
        with pytest.raises(psycopg.Error, match="must not lead back"):
            waiting.result(60)


def test_roles_have_scopes_and_no_roles(db):
    """So there are no circles of roles. A role may have the name of a scope."""
    db.call("define_role", "default", "a", ["b"])
    db.call("define_role", "default", "b", ["a", "c"])
    db.tenant()
    assert db.verify(db.mint(role="a").api_key).scopes == ["b"]
    db.call("set_member", "acme", "ann", "a")
    assert db.verify(db.mint(role="b", owner="ann", scopes=["c"]).api_key).scopes == []
    db.call("remove_role", "default", "a", cascade=True)
    assert db.rows("SELECT role, scopes FROM keysmith.roles") == [("b", ["a", "c"])]


def test_a_catalogue_has_all_instances(db):
    db.tenant()
    db.call("define_scope", "default", "projects:write:{id}")
    db.call("define_scope", "default", "teams:{team}:read")
    for scopes in (["projects:write:42"], ["projects:write:*"], ["projects:*"], ["teams:7:*"], ["teams:7:read"], ["*"]):
        db.mint(scopes=scopes)
        db.call("define_role", "default", "some", scopes)
    for unknown in ("projects:read:42", "projects:write", "projects:write:42:x", "projects:write:42:*", "teams:7:write",
                    "teams:read"):
        db.refused("KS400", "mint", "acme", scopes=[unknown])
        db.refused("KS400", "define_role", "default", "other", [unknown])
    for malformed in ("projects:write:{id}", "projects:write:{", "projects:write:"):
        db.refused("KS400", "mint", "acme", scopes=[malformed])
        db.refused("KS400", "define_role", "default", "other", [malformed])
    db.call("define_route", "default", "GET", "/p/{p}", "projects:write:{p} | teams:1:read")
    db.refused("KS400", "define_route", "default", "GET", "/q/{p}", "projects:read:{p}")
    assert db.value("SELECT count(*) FROM keysmith.routes") == 1


def test_an_instance_implies_the_same_instance(ask, db):
    db.call("define_scope", "default", "projects:read:{id}")
    db.call("define_scope", "default", "projects:list")
    db.call("define_scope", "default", "projects:write:{p}", implies=["projects:read:{p}", "projects:list"])
    db.call("define_scope", "default", "projects:admin:{x}", implies=["projects:write:{x}"])
    for scope in ("projects:write:42", "projects:admin:42", "projects:write:*", "projects:admin:*"):
        assert ask([scope], "GET", "/projects/42").ok
        assert ask([scope], "GET", "/projects/43").ok is scope.endswith("*")
        assert ask([scope], "GET", "/projects/a%20b").ok is scope.endswith("*")
        assert db.verify(db.mint(scopes=[scope]).api_key, scopes=["projects:list"]).ok
    assert not ask(["projects:read:42"], "PUT", "/projects/42").ok


def test_roles_narrow_to_instances(ask, db):
    db.call("define_role", "default", "one", ["projects:write:42", "projects:read:*"])
    key = db.mint(role="one", scopes=["projects:*"]).api_key

    def reason(method, path):
        return db.one("authenticate", Jsonb({"x-api-key": key}), method, path).reason

    assert reason("PUT", "/projects/42") == reason("GET", "/projects/7") == "ok"
    assert reason("PUT", "/projects/7") == "insufficient_scope"
    assert db.verify(key).scopes == ["projects:read:*", "projects:write:42"]


def test_a_key_gives_no_more_than_its_instances(db):
    db.tenant()
    db.call("define_scope", "default", "p:read:{id}")
    db.call("define_scope", "default", "p:write:{id}", implies=["p:read:{id}"])
    for own, given, ok in [("p:write:42", "p:write:42", True), ("p:write:42", "p:read:42", True),
                           ("p:write:42", "p:write:43", False), ("p:write:42", "p:read:43", False),
                           ("p:write:42", "p:write:*", False), ("p:write:*", "p:write:42", True),
                           ("p:write:*", "p:read:42", True), ("p:write:*", "p:*", False),
                           # It would cover p:read:42:more too.
                           ("p:write:*", "p:read:*", False), ("p:read:42", "p:write:42", False)]:
        key = db.mint(scopes=[own]).api_key
        with db.session.transaction(force_rollback=True):
            assert db.verify(key, sign_in=True).ok
            if ok:
                db.mint(scopes=[given])
            else:
                db.refused("KS403", "mint", "acme", scopes=[given])


@pytest.mark.parametrize("pattern, scopes, message", [
    ("/p/{id}", "p:{project}", "has {project}, which the pattern lacks"),
    ("/p", "p:{id}", "has {id}, which the pattern lacks"),
    ("/p/*", "p:{id}", "has {id}, which the pattern lacks"),
    ("/{id}/{id}", "p:{id}", "has {id}, which the pattern has twice"),
    ("/p/{id}", "p:x{id}", "lacks the name of a scope"),
    ("/p/{id}", "p:{}", "lacks the name of a scope"),
    ("/p/{id}", "a | {id}:p", "lacks the name of a scope"),
    ("/p/{id}", "p:{id", "lacks the name of a scope"),
    ("/p/{id}", "p:" + "{id}:" * 5 + "x", "lacks the name of a scope"),
])
def test_bad_routes(db, pattern, scopes, message):
    error = db.refused("KS400", "define_route", "default", "GET", pattern, scopes)
    assert message in str(error)
    assert db.value("SELECT count(*) FROM keysmith.routes") == 0


@pytest.mark.parametrize("scope, implies", [
    ("p:{id}:{id}", []), ("{id}", []), ("{id}:p", []), ("p:{}", []), ("p:{id}x", []), ("p:{i d}", []), ("p:{id", []),
    ("p:{a}:{b}:{c}:{d}:{e}", []), ("p:{" + "i" * 1_000_000 + "}", []), ("p:*", []),
    ("p:{id}", ["q:{other}"]), ("p", ["q:{id}"]), ("p:{id}", ["q:*"]), ("p:{id}", ["p:{id}"]), ("p:{id}", ["p:7"]),
    ("p:{a}:{b}", ["p:{b}:{a}"]), ("p:{id}", ["old:{id}"]), ("p:1", ["old:7"]),
])
def test_bad_definitions(db, scope, implies):
    db.call("define_scope", "default", "old:{x}", implies=["p:{x}", "p:1"])
    db.refused("KS400", "define_scope", "default", scope, implies=implies)
    assert db.rows("SELECT scope FROM keysmith_private.scope") == [("old:{x}",)]


def test_openapi_names_parameters_as_the_path_does(db):
    db.call("define_route", "default", "GET", "/p/{id}", "p:read:{id}")
    db.call("define_route", "default", "PUT", "/p/{project}", "p:write:{project} & q")
    item = document(db)["paths"]["/p/{id}"]
    assert item["get"]["description"] == "Needs the scope `p:read:{id}`."
    assert {"bearer": ["p:write:{id}", "q"]} in item["put"]["security"]


def test_unused_instances_are_shown(db):
    db.tenant()
    db.call("define_scope", "default", "p:write:{id}")
    db.call("define_scope", "default", "q")
    db.call("define_route", "default", "PUT", "/p/{project}", "p:write:{project}")
    used, wide = (db.mint(scopes=scopes) for scopes in (["p:write:42", "p:write:43"], ["p:write:*", "q"]))
    for key in (used, wide):
        assert db.one("authenticate", Jsonb({"x-api-key": key.api_key}), "PUT", "/p/42").ok
    db.call("flush_usage")
    shown = dict(db.rows("SELECT key_id, unused_scopes FROM keysmith.overprivileged_keys"))
    assert shown == {used.key_id: ["p:write:43"], wide.key_id: ["q"]}
