"""Scopes that a key gets and loses one by one; definitions that are removed."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.types.json import Jsonb

from test_concurrency import waits


@pytest.fixture
def acme(db):
    for scope in ("images:read", "videos:read", "users:read"):
        db.call("define_scope", "default", scope)
    db.call("define_scope", "default", "images:write", implies=["images:read"])
    db.tenant()
    return db


def notices(db, function, *arguments):
    heard = []
    db.session.add_notice_handler(lambda notice: heard.append(notice.message_primary))
    db.call(function, *arguments)
    return heard


# add_scopes, remove_scopes

def test_scopes_are_added_and_removed(acme):
    key = acme.mint(scopes=["images:read"])
    listed = acme.one("add_scopes", key.key_id, ["videos:read", "images:read", "users:read"])
    assert listed == acme.row("SELECT * FROM keysmith.keys")
    assert listed.scopes == ["images:read", "videos:read", "users:read"]
    assert acme.verify(key.api_key, scopes=["videos:read"]).ok
    listed = acme.one("remove_scopes", key.key_id, ["images:read", "users:read", "images:write"])
    assert listed.scopes == ["videos:read"]
    assert acme.reason(key.api_key, scopes=["images:read"]) == "insufficient_scope"
    entries = acme.rows("SELECT before -> 'scopes' AS before, after -> 'scopes' AS after FROM keysmith.audit WHERE action = 'alter' ORDER BY at")
    assert [len(scopes) for entry in entries for scopes in entry] == [1, 3, 3, 1]


@pytest.mark.parametrize("function, left", [("add_scopes", {"a", "b", "x", "y"}), ("remove_scopes", {"a"})])
@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
def test_two_at_once_lose_nothing(db, connect, database, function, left, level):
    db.tenant()
    key = db.mint(scopes=["a", "b"] if function == "add_scopes" else ["a", "x", "y"])
    first, second = (database(connect(autocommit=False)) for _ in range(2))
    first.call(function, key.key_id, ["x"])

    def change():
        second.rows(f"SET TRANSACTION ISOLATION LEVEL {level}")
        second.call(function, key.key_id, ["y"])

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(change)
        waits(db)
        first.session.commit()
        try:
            waiting.result(60)
        except psycopg.errors.SerializationFailure:
            assert level != "READ COMMITTED"
            second.session.rollback()
            change()
    second.session.commit()
    assert set(db.value("SELECT scopes FROM keysmith.keys")) == left


def test_a_key_is_not_left_with_the_scopes_of_its_keyspace(acme):
    key = acme.mint(scopes=["images:read"])
    for empty_scopes in ("all", "defaults"):
        acme.call("alter_keyspace", "default", Jsonb({"empty_scopes": empty_scopes, "default_scopes": ["users:read"]}))
        assert "no scopes left" in acme.refused("KS409", "remove_scopes", key.key_id, ["images:read"])
    assert acme.value("SELECT scopes FROM keysmith.keys") == ["images:read"]
    acme.call("alter_keyspace", "default", Jsonb({"empty_scopes": "none"}))
    assert acme.one("remove_scopes", key.key_id, ["images:read"]).scopes == []
    assert acme.reason(key.api_key, scopes=["images:read"]) == "insufficient_scope"


def test_a_notice_says_what_the_caller_may_not_expect(acme):
    key = acme.mint(scopes=["images:*", "images:read"])
    assert "images:read" in notices(acme, "remove_scopes", key.key_id, ["images:read"])[0]
    assert acme.verify(key.api_key, scopes=["images:read"]).ok
    bare = acme.mint()
    assert "had no scopes of its own" in notices(acme, "add_scopes", bare.key_id, ["users:read"])[0]
    assert acme.reason(bare.api_key, scopes=["images:read"]) == "insufficient_scope"


@pytest.mark.parametrize("function", ["add_scopes", "remove_scopes"])
@pytest.mark.parametrize("scopes", [["a b"], [""], [None], None, ["a"] + [f"s{n}" for n in range(1000)]])
def test_bad_lists_change_nothing(db, function, scopes):
    db.tenant()
    key = db.mint(scopes=["a"])
    assert "scopes" in db.refused("KS400", function, key.key_id, scopes)
    assert db.value("SELECT scopes FROM keysmith.keys") == ["a"]


def test_the_rules_are_those_of_alter_key(acme):
    key = acme.mint(scopes=["images:read"])
    assert "images:wirte" in acme.refused("KS400", "add_scopes", key.key_id, ["images:wirte"])
    acme.call("alter_keyspace", "default", Jsonb({"wildcards": False}))
    assert "wildcards" in acme.refused("KS400", "add_scopes", key.key_id, ["images:*"])
    many = [f"images:s{n}" for n in range(999)]
    for scope in many[:1]:
        acme.call("define_scope", "default", scope)
    acme.call("revoke", key.key_id)
    for function in ("add_scopes", "remove_scopes"):
        acme.refused("KS404", function, key.key_id, ["images:read"])


def test_together_they_are_at_most_a_thousand(db):
    db.tenant()
    key = db.mint(scopes=[f"s{n}" for n in range(1000)])
    assert "1000" in db.refused("KS400", "add_scopes", key.key_id, ["one:more"])
    assert len(db.one("add_scopes", key.key_id, ["s1"]).scopes) == 1000


def test_a_key_gives_no_more_than_it_has(acme):
    giver, other = acme.mint(scopes=["images:read", "users:read"]), acme.mint(scopes=["users:read"])
    with acme.session.transaction():
        assert acme.verify(giver.api_key, sign_in=True).ok
        assert acme.one("add_scopes", other.key_id, ["images:read"]).scopes == ["users:read", "images:read"]
        for key in (giver, other):
            with pytest.raises(psycopg.Error, match="scopes") as error, acme.session.transaction():
                acme.call("add_scopes", key.key_id, ["videos:read"])
            assert error.value.sqlstate == "KS403"


def test_an_issuer_reaches_its_tenants_only(acme, sees_only):
    acme.tenant("globex")
    key, own = acme.mint("globex", scopes=["images:read"]), acme.mint(scopes=["images:read"])
    with sees_only("acme"):
        for function in ("add_scopes", "remove_scopes"):
            acme.refused("KS404", function, key.key_id, ["users:read"])
        assert acme.one("add_scopes", own.key_id, ["users:read"]).scopes == ["images:read", "users:read"]


# scopes, roles, members

def test_the_views_show_what_is_defined(acme, sees_only):
    acme.call("define_role", "default", "editor", ["images:*"])
    acme.tenant("globex")
    acme.call("set_member", "acme", "ann", "editor")
    acme.call("set_member", "globex", "bob", "editor")
    assert acme.rows("SELECT scope, implies FROM keysmith.scopes WHERE keyspace = 'default' ORDER BY 1") == [
        ("images:read", []), ("images:write", ["images:read"]), ("users:read", []), ("videos:read", [])]
    assert acme.rows("SELECT * FROM keysmith.roles") == [("default", "editor", ["images:*"])]
    members = "SELECT tenant, keyspace, member, role FROM keysmith.members ORDER BY tenant"
    assert acme.rows(members) == [("acme", "default", "ann", "editor"), ("globex", "default", "bob", "editor")]
    with sees_only("acme"):
        assert acme.rows(members) == [("acme", "default", "ann", "editor")]
        for view in ("scopes", "roles"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                acme.rows(f"SELECT * FROM keysmith.{view}")
    key = acme.mint("globex")
    with acme.session.transaction():
        assert acme.verify(key.api_key, sign_in=True).ok
        assert acme.rows(members) == [("globex", "default", "bob", "editor")]


# remove_scope

USES = {
    "1 key": lambda db: db.mint(scopes=["images:read"]),
    "role \"reader\"": lambda db: db.call("define_role", "default", "reader", ["images:read"]),
    "scope \"images:write\", which implies it": lambda db: None,
    "default_scopes": lambda db: db.call("alter_keyspace", "default", Jsonb(
        {"default_scopes": ["images:read", "users:read"]})),
    "route GET /v1/images list": lambda db: db.call(
        "define_route", "default", "GET", "/v1/images", ["users:read | images:read"], "list"),
    "managed_by": lambda db: db.call("alter_keyspace", "default", Jsonb({"managed_by": "images:read & users:read"})),
}


def images_read_is_free(db):
    db.call("define_scope", "default", "images:write")


def test_a_scope_without_users_is_removed(acme):
    acme.call("remove_scope", "default", "users:read")
    assert "users:read" not in [row.scope for row in acme.rows("SELECT scope FROM keysmith.scopes")]
    assert "users:read" in acme.refused("KS400", "mint", "acme", scopes=["users:read"])
    entry = acme.row("SELECT before, after FROM keysmith.audit WHERE action = 'remove_scope'")
    assert entry.before["scope"] == "users:read" and entry.after is None
    acme.refused("KS404", "remove_scope", "default", "users:read")
    acme.refused("KS404", "remove_scope", "nowhere", "users:read")


@pytest.mark.parametrize("use", USES)
def test_a_scope_in_use_stays(acme, use):
    if "implies" not in use:
        images_read_is_free(acme)
    USES[use](acme)
    assert use in acme.refused("KS409", "remove_scope", "default", "images:read")
    assert acme.value("SELECT count(*) FROM keysmith.scopes WHERE scope = 'images:read'") == 1


def test_a_revoked_key_keeps_no_scope(acme):
    images_read_is_free(acme)
    acme.call("revoke", acme.mint(scopes=["images:read"]).key_id)
    acme.call("remove_scope", "default", "images:read")


def test_a_cascade_takes_it_from_what_uses_it(acme):
    for use in USES.values():
        use(acme)
    acme.call("alter_keyspace", "default", Jsonb({"unlisted_routes": "refuse"}))
    last = acme.row("SELECT key_id FROM keysmith.keys")
    key = acme.mint(scopes=["images:read", "videos:read"])
    heard = notices(acme, "remove_scope", "default", "images:read", True)
    assert [notice.split(" still")[0] for notice in heard] == ["managed_by", "route GET /v1/images list"]
    assert acme.value("SELECT scopes FROM keysmith.keys WHERE key_id = %s", key.key_id) == ["videos:read"]
    assert acme.row("SELECT status, revoked_reason FROM keysmith.keys WHERE key_id = %s", last.key_id) \
        == ("revoked", "its only scope was removed")
    assert acme.value("SELECT scopes FROM keysmith.roles") == []
    assert acme.value("SELECT implies FROM keysmith.scopes WHERE scope = 'images:write'") == []
    assert acme.value("SELECT default_scopes FROM keysmith_private.keyspace") == ["users:read"]
    assert acme.reason(key.api_key, scopes=["images:read"]) == "insufficient_scope"
    # A route is never opened by it.
    bearer = Jsonb({"authorization": f"Bearer {key.api_key}"})
    assert acme.one("authenticate", bearer, "GET", "/v1/images", variant="list").reason == "insufficient_scope"
    assert all(row.ok for row in acme.call("audit_verify"))


def test_a_scope_with_parameters_goes_with_its_instances(acme):
    for scope, implies in [("p:{id}", []), ("p:all", []), ("q:{a}", ["p:{a}"]), ("r", ["p:7"])]:
        acme.call("define_scope", "default", scope, implies=implies)
    acme.call("define_route", "default", "GET", "/p/{id}", "p:{id} | r")
    acme.call("define_role", "default", "seven", ["p:7", "r"])
    acme.call("alter_tenant", "acme", Jsonb({"scopes": ["p:42", "p:all", "r", "q:*"]}))
    only, both, wide = (acme.mint(scopes=scopes) for scopes in (["p:42"], ["p:42", "p:all"], ["p:*"]))
    with pytest.raises(psycopg.Error) as error:
        acme.call("remove_scope", "default", "p:{id}")
    for use in ["2 keys", 'role "seven"', 'scope "q:{a}"', 'scope "r"', 'tenant "acme"', "route GET /p/{id}"]:
        assert use in str(error.value)
    heard = notices(acme, "remove_scope", "default", "p:{id}", True)
    assert any(notice.startswith("route GET /p/{id} still") for notice in heard)
    assert acme.reason(only.api_key) == "revoked"
    scopes = "SELECT scopes FROM keysmith.keys WHERE key_id = %s"
    # Grants for which another definition stands stay, and so do wildcards.
    assert [acme.value(scopes, key.key_id) for key in (both, wide)] == [["p:all"], ["p:*"]]
    assert acme.value("SELECT scopes FROM keysmith.roles WHERE role = 'seven'") == ["r"]
    assert acme.value("SELECT scopes FROM keysmith.tenants") == ["p:all", "r", "q:*"]
    assert acme.rows("SELECT implies FROM keysmith.scopes WHERE scope IN ('q:{a}', 'r')") == [([],), ([],)]


def test_a_scope_beside_one_with_parameters_is_in_use(acme):
    acme.call("define_scope", "default", "p:{id}")
    acme.call("define_scope", "default", "boss")
    acme.call("define_route", "default", "GET", "/p/{id}", "p:{id} & boss")
    with pytest.raises(psycopg.Error, match="is used by route GET /p/{id}"):
        acme.call("remove_scope", "default", "boss")


def test_where_no_scopes_are_none_the_key_stays(acme):
    acme.call("alter_keyspace", "default", Jsonb({"empty_scopes": "none"}))
    images_read_is_free(acme)
    key = acme.mint(scopes=["images:read"])
    acme.call("remove_scope", "default", "images:read", cascade=True)
    assert acme.reason(key.api_key, scopes=["images:read"]) == "insufficient_scope"
    assert acme.verify(key.api_key, scopes=[]).ok


# remove_role

def test_a_role_in_use_stays(acme):
    acme.call("define_role", "default", "editor", ["images:*"])
    acme.call("set_member", "acme", "ann", "editor")
    for _ in range(2):
        acme.mint(role="editor")
    message = acme.refused("KS409", "remove_role", "default", "editor")
    assert "2 keys" in message and 'member "ann" of tenant "acme"' in message
    acme.refused("KS404", "remove_role", "default", "nobody")
    acme.refused("KS404", "remove_role", "nowhere", "editor")
    assert acme.value("SELECT count(*) FROM keysmith.roles") == 1


def test_a_cascade_ends_what_the_role_bounded(acme):
    acme.call("define_role", "default", "editor", ["images:*"])
    acme.call("define_role", "default", "other", ["images:*"])
    acme.call("set_member", "acme", "ann", "editor")
    acme.call("set_member", "acme", "bob", "other")
    with_role, owned, other = acme.mint(role="editor"), acme.mint(owner="ann"), acme.mint(role="other", owner="bob")
    acme.call("remove_role", "default", "editor", cascade=True)
    assert [acme.reason(key.api_key) for key in (with_role, owned, other)] == ["revoked", "owner_gone", "ok"]
    assert acme.rows("SELECT member FROM keysmith.members") == [("bob",)]
    assert acme.rows("SELECT role FROM keysmith.roles") == [("other",)]
    actions = [row.action for row in acme.rows("SELECT action FROM keysmith.audit ORDER BY at DESC LIMIT 3")]
    assert sorted(actions) == ["remove_member", "remove_role", "revoke"]
    acme.refused("KS404", "mint", "acme", role="editor")


@pytest.mark.parametrize("act", ["mint('acme', role => 'editor')", "set_member('acme', 'ann', 'editor')"])
def test_what_waits_for_a_removal_finds_no_role(acme, connect, database, act):
    acme.call("define_role", "default", "editor", ["images:*"])
    removing, acting = (database(connect(autocommit=False)) for _ in range(2))
    removing.call("remove_role", "default", "editor")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(acting.session.execute, f"SELECT keysmith.{act}")
        waits(acme)
        removing.session.commit()
        with pytest.raises(psycopg.Error) as error:
            waiting.result(60)
    assert error.value.sqlstate == "KS404"
