"""The scopes of a tenant: none of its keys goes beyond them."""

import psycopg
import pytest
from psycopg.types.json import Jsonb

from conftest import Database


def bound(db, scopes, tenant="acme"):
    db.call("alter_tenant", tenant, Jsonb({"scopes": scopes}))


def effective(db, key, **options):
    return db.verify(key.api_key, **options).scopes


@pytest.fixture
def acme(db):
    db.tenant()
    return db


def test_they_bound_keys_that_were_made_before(acme, connect):
    keys = {scopes: acme.mint(scopes=list(scopes)) for scopes in [("a:read", "b:read"), ("a:*",), ("*",), ()]}
    other = Database(connect())
    assert [effective(other, key) for key in keys.values()] == [["a:read", "b:read"], ["a:*"], ["*"], ["*"]]
    bound(acme, ["a:read", "c:*"])
    assert [effective(other, key) for key in keys.values()] == [["a:read"], ["a:read"], ["a:read", "c:*"], ["a:read", "c:*"]]
    for key in keys.values():
        assert other.reason(key.api_key, scopes=["b:read"]) == "insufficient_scope"
        assert other.verify(key.api_key, scopes=["a:read"]).ok
    bound(acme, None)
    assert [effective(other, key) for key in keys.values()] == [["a:read", "b:read"], ["a:*"], ["*"], ["*"]]


def test_an_empty_list_permits_nothing(acme):
    key = acme.mint()
    bound(acme, [])
    assert effective(acme, key) == [] and acme.verify(key.api_key).ok
    assert acme.reason(key.api_key, scopes=["a"]) == "insufficient_scope"
    assert acme.value("SELECT scopes FROM keysmith.tenants") == []


def test_each_tenant_has_its_own(acme):
    acme.tenant("globex", scopes=["b"])
    acme.tenant("umbrella", scopes=None)
    keys = [acme.mint(name, scopes=["a", "b"]) for name in ("acme", "globex", "umbrella")]
    assert [effective(acme, key) for key in keys] == [["a", "b"], ["b"], ["a", "b"]]
    assert acme.rows("SELECT tenant, scopes FROM keysmith.tenants ORDER BY 1") \
        == [("acme", None), ("globex", ["b"]), ("umbrella", None)]


def test_they_meet_roles_and_owners(acme):
    acme.call("define_role", "default", "editor", ["a:*", "b:read"])
    acme.call("set_member", "acme", "ann", "editor")
    keys = [acme.mint(role="editor"), acme.mint(owner="ann"), acme.mint(role="editor", scopes=["a:read", "b:*"])]
    bound(acme, ["a:read", "b:*", "c"])
    assert [effective(acme, key) for key in keys] == [["a:read", "b:read"]] * 2 + [["a:read", "b:read"]]


def test_implied_scopes(acme):
    acme.call("define_scope", "default", "a:read")
    acme.call("define_scope", "default", "a:write", implies=["a:read"])
    key = acme.mint(scopes=["a:write"])
    bound(acme, ["a:read"])
    assert effective(acme, key) == ["a:read"]
    assert acme.verify(key.api_key, scopes=["a:read"]).ok
    bound(acme, ["a:write"])
    assert acme.verify(key.api_key, scopes=["a:read & a:write"]).ok


def test_instances(acme):
    acme.call("define_route", "default", "PUT", "/projects/{id}", ["projects:write:{id}"])
    key = acme.mint(scopes=["projects:write:*"])
    bound(acme, ["projects:write:42"])
    headers = Jsonb({"X-Api-Key": key.api_key})
    assert acme.one("authenticate", headers, "PUT", "/projects/42").ok
    verdict = acme.one("authenticate", headers, "PUT", "/projects/43")
    assert (verdict.reason, verdict.missing_scopes) == ("insufficient_scope", "projects:write:43")
    assert not acme.one("authenticate", headers, "PUT", "/projects/4%20").ok


def test_the_identity_follows_at_once(acme, connect):
    key, other = acme.mint(scopes=["a", "b"]), Database(connect())
    has = ("SELECT keysmith.has_scope('a') AS a, keysmith.has_scope('b') AS b, keysmith.has_scope('a & b') AS both, "
           "keysmith.whoami() -> 'scopes' AS shown")
    with acme.session.transaction():
        assert acme.verify(key.api_key, sign_in=True).ok
        assert acme.row(has) == (True, True, True, ["a", "b"])
        bound(other, ["b", "c"])
        assert acme.row(has) == (False, True, False, ["b"])
        bound(other, None)
        assert acme.row(has) == (True, True, True, ["a", "b"])
    bound(acme, ["a"])
    with acme.session.transaction():
        assert acme.verify(key.api_key, sign_in=True).ok
        assert acme.row(has) == (True, False, False, ["a"])


def test_people_hold_what_their_role_gives(acme):
    acme.call("define_role", "default", "editor", ["a", "b"])
    acme.call("set_member", "acme", "ann", "editor")
    bound(acme, ["a"])
    has = "SELECT keysmith.has_scope('a') AS a, keysmith.has_scope('b') AS b"
    with acme.session.transaction():
        acme.call("act_as", "acme", "ann")
        assert acme.row(has) == (True, True)
        made = acme.mint(scopes=["b", "a"])
    assert effective(acme, made) == ["a"]


def test_every_way_of_asking_minds_them(acme):
    key = acme.mint(scopes=["a", "b"])
    acme.call("define_route", "default", "GET", "/b", ["b"])
    bound(acme, ["a"])
    digest = acme.value("SELECT sha256(%s::bytea)", key.api_key)
    headers = Jsonb({"X-Api-Key": key.api_key})
    assert acme.one("verify_digest", digest, scopes=["b"]).reason == "insufficient_scope"
    assert acme.call("verify_many", [key.api_key], scopes=["b"])[0].missing_scopes == "b"
    assert acme.one("verify_json", key.api_key, scopes=["b"])[0]["missing_scopes"] == "b"
    assert acme.one("authenticate", headers, "GET", "/b").reason == "insufficient_scope"
    assert acme.one("serve", headers, "GET", "/b").status == 403
    # The key itself keeps its scopes.
    assert acme.one("list_keys", "acme").scopes == ["a", "b"]
    assert acme.value("SELECT scopes FROM keysmith.keys") == ["a", "b"]


def test_the_explanation_tells(acme):
    key = acme.mint(scopes=["a", "b"])

    def saw(scopes):
        return acme.value("SELECT saw FROM keysmith.explain_verify(%s, %s) WHERE rule = 'scopes'", key.api_key, scopes)

    assert saw(["b"]) == "holds a, b; needs b"
    bound(acme, ["a"])
    assert saw(["a"]) == "holds a; needs a"
    assert saw(["b"]) == "holds a; needs b, which the scopes of its tenant leave out"
    assert saw(["a & b"]) == "holds a; needs a & b, which the scopes of its tenant leave out"
    assert saw(["c"]) == "holds a; needs c"


def test_scopes_beyond_are_stored_and_wait(acme):
    """As with scopes beyond a role."""
    bound(acme, ["a"])
    key = acme.mint(scopes=["a", "b"])
    assert effective(acme, key) == ["a"]
    assert acme.one("add_scopes", key.key_id, ["c"]).scopes == ["a", "b", "c"]
    assert effective(acme, key) == ["a"]
    bound(acme, ["b", "c"])
    assert effective(acme, key) == ["b", "c"]
    made = acme.one("import_key", "acme", b"\1" * 32, scopes=["z"])
    assert acme.one("verify_digest", b"\1" * 32).scopes == [] and made.scopes == ["z"]


def test_a_key_that_can_do_nothing_is_announced(acme):
    bound(acme, ["a"])
    heard = []
    acme.session.add_notice_handler(lambda notice: heard.append(notice.message_primary))
    acme.mint(scopes=["a"])
    acme.mint()
    assert heard == []
    key = acme.mint(scopes=["b"])
    assert heard == [f"key {key.key_id} can do nothing: its scopes, its role, the role of its owner and the scopes of "
                     "its tenant have no scope in common"]


def test_a_key_makes_keys_under_the_same_bound(acme):
    giver = acme.mint(scopes=["a", "b"])
    bound(acme, ["a"])
    with acme.session.transaction():
        assert acme.verify(giver.api_key, sign_in=True).ok
        made = [acme.mint(scopes=["a", "b"]), acme.mint()]
        with pytest.raises(psycopg.Error, match="scopes that the key that gives them has") as error, acme.session.transaction():
            acme.mint(scopes=["c"])
        assert error.value.sqlstate == "KS403"
        successor = acme.one("rotate", giver.key_id)
    assert [effective(acme, key) for key in [*made, successor]] == [["a"]] * 3
    bound(acme, None)
    assert [effective(acme, key) for key in [*made, successor]] == [["a", "b"]] * 3


def test_a_key_does_not_manage_by_a_scope_that_it_lost(acme):
    acme.call("alter_keyspace", "default", Jsonb({"managed_by": "keys:manage"}))
    giver = acme.mint(scopes=["keys:manage", "a"])
    bound(acme, ["a"])
    with acme.session.transaction(force_rollback=True):
        assert acme.verify(giver.api_key, sign_in=True).ok
        acme.refused("KS403", "mint", "acme", scopes=["a"])


def test_a_key_does_not_loosen_them(acme):
    key = acme.mint()
    bound(acme, ["a"])
    with acme.session.transaction(force_rollback=True):
        assert acme.verify(key.api_key, sign_in=True).ok
        assert "can't administer" in acme.refused("KS403", "alter_tenant", "acme", Jsonb({"scopes": None}))


@pytest.mark.parametrize("empty", ["all", "defaults", "none"])
def test_keys_without_scopes(acme, empty):
    acme.call("alter_keyspace", "default", Jsonb({"empty_scopes": empty, "default_scopes": ["a", "b"]}))
    bound(acme, ["a", "c"])
    expected = {"all": ["a", "c"], "defaults": ["a"], "none": []}[empty]
    assert effective(acme, acme.mint()) == expected


def test_only_scopes_of_the_catalogue(acme):
    acme.call("define_scope", "default", "a:read")
    for function, arguments in [("create_tenant", {"name": "globex", "scopes": ["a:wirte"]}),
                                ("alter_tenant", {"tenant": "acme", "changes": Jsonb({"scopes": ["a:wirte"]})})]:
        assert "a:wirte" in acme.refused("KS400", function, **arguments)
    bound(acme, ["a:*", "a:read"])
    acme.call("alter_keyspace", "default", Jsonb({"wildcards": False}))
    # As in roles, wildcards are allowed here.
    bound(acme, ["*"])


@pytest.mark.parametrize("scopes", [["a b"], [""], [None], "a", {"a": 1}, 1, [1], [f"s{n}" for n in range(1001)], ["x" * 129], ["a:{id}"]],
                         ids=lambda bad: str(bad)[:20])
def test_bad_lists_change_nothing(acme, scopes):
    assert "changes.scopes" in acme.refused("KS400", "alter_tenant", "acme", Jsonb({"scopes": scopes}))
    if isinstance(scopes, list) and scopes != [1]:
        assert "scopes" in acme.refused("KS400", "create_tenant", "globex", scopes=scopes)
    assert acme.rows("SELECT tenant, scopes FROM keysmith.tenants") == [("acme", None)]


def test_a_thousand_long_scopes(acme):
    many = [f"{'s' * 100}:{n}" for n in range(1000)]
    bound(acme, many)
    key = acme.mint()
    assert effective(acme, key) == sorted(many)
    assert acme.verify(key.api_key, scopes=[many[999]]).ok and not acme.verify(key.api_key, scopes=["s"]).ok


def test_a_scope_that_bounds_a_tenant_is_in_use(acme):
    acme.call("define_scope", "default", "a")
    acme.call("define_scope", "default", "b")
    acme.tenant("globex", scopes=["a", "b"])
    bound(acme, ["a"])
    key = acme.mint(scopes=["b"])
    assert 'tenant "acme"; tenant "globex"' in acme.refused("KS409", "remove_scope", "default", "a")
    acme.call("remove_scope", "default", "a", cascade=True)
    # The bound is narrower now. An empty one is still a bound.
    assert acme.rows("SELECT tenant, scopes FROM keysmith.tenants ORDER BY 1") == [("acme", []), ("globex", ["b"])]
    assert effective(acme, key) == []
    entries = acme.rows("SELECT tenant FROM keysmith.audit WHERE action = 'alter_tenant' AND after ->> 'scopes' <> '[\"a\"]'")
    assert sorted(entries) == [("acme",), ("globex",)]
    assert all(row.ok for row in acme.call("audit_verify"))
