"""The acts that a key may do to the keys of its tenant; a key never gives more than it has."""

import hashlib
import ipaddress
import json
import random
from contextlib import contextmanager

import psycopg
import pytest
from psycopg.types.json import Jsonb

UNKNOWN = "00000000-0000-4000-8000-000000000000"


@contextmanager
def acting(db, key, keyspace="default", **options):
    """A transaction that acts for a key."""
    with db.session.transaction():
        verdict = db.verify(key.api_key, keyspace=keyspace, sign_in=True, **options)
        assert verdict.ok, verdict
        yield db


def refusal(db, key, function, *positional, keyspace="default", ip=None, **named):
    """How a key's act is refused."""
    with acting(db, key, keyspace, ip=ip):
        with pytest.raises(psycopg.Error) as error:
            db.call(function, *positional, **named)
        return error.value.diag


def refused(db, key, function, *positional, **named):
    diag = refusal(db, key, function, *positional, **named)
    assert diag.sqlstate == "KS403", diag.message_primary
    return diag.message_primary


@pytest.fixture
def acme(db):
    db.tenant()
    db.tenant("globex")
    return db


# Its own tenant

def test_a_secret_key_manages_its_own_tenant(acme):
    key = acme.mint()
    digest = hashlib.sha256(b"from elsewhere").digest()
    with acting(acme, key):
        minted = acme.mint(label="by a key")
        assert {row.key_id for row in acme.call("list_keys", "acme")} == {key.key_id, minted.key_id}
        assert acme.one("alter_key", minted.key_id, Jsonb({"label": "x"})).label == "x"
        acme.call("disable", minted.key_id)
        acme.call("enable", minted.key_id)
        rotated = acme.one("rotate", minted.key_id)
        imported = acme.one("import_key", "acme", digest)
        regenerated = acme.one("regenerate", "acme", label="legacy")
        acme.call("revoke", imported.key_id)
    assert acme.verify(rotated.api_key).ok and acme.verify(regenerated.api_key).ok
    assert acme.reason("from elsewhere") == "revoked"


OTHERS = [("list_keys", ("globex",)), ("mint", ("globex",)), ("regenerate", ("globex",)),
          ("import_key", ("globex", b"x" * 32))]


@pytest.mark.parametrize("function, arguments", OTHERS)
def test_another_tenant_is_one_that_is_not_there(acme, function, arguments):
    key = acme.mint()
    there = refusal(acme, key, function, *arguments)
    missing = refusal(acme, key, function, "nobody", *arguments[1:])
    assert there.sqlstate == missing.sqlstate == "KS404"
    assert there.message_primary.replace("globex", "nobody") == missing.message_primary
    assert (there.message_detail, there.message_hint) == (missing.message_detail, missing.message_hint)


@pytest.mark.parametrize("function, more", [
    ("rotate", ()), ("disable", ()), ("enable", ()), ("revoke", ()),
    ("alter_key", (Jsonb({"label": "x"}),)), ("alter_key", (Jsonb({"expires_at": None}),))])
def test_another_tenants_key_is_one_that_is_not_there(acme, connect, database, function, more):
    key, theirs = acme.mint(), acme.mint("globex")
    # Another transaction changes the key: waiting would reveal that.
    busy = database(connect(autocommit=False))
    busy.call("disable", theirs.key_id)
    acme.rows("SET lock_timeout = '60s'")
    there = refusal(acme, key, function, theirs.key_id, *more)
    busy.session.rollback()
    missing = refusal(acme, key, function, UNKNOWN, *more)
    assert there.sqlstate == missing.sqlstate == "KS404"
    assert there.message_primary.replace(str(theirs.key_id), UNKNOWN) == missing.message_primary
    assert (there.message_detail, there.message_hint) == (missing.message_detail, missing.message_hint)
    assert acme.verify(theirs.api_key).ok


def test_it_sees_nothing_of_another_tenant(acme):
    key = acme.mint()
    acme.mint("globex")
    with acting(acme, key):
        assert acme.rows("SELECT DISTINCT tenant FROM keysmith.keys") == [("acme",)]
        assert acme.rows("SELECT DISTINCT tenant FROM keysmith.audit") == [("acme",)]
        assert acme.rows("SELECT tenant FROM keysmith.tenants") == [("acme",)]


def test_a_tenant_of_the_same_name_elsewhere_is_another(acme):
    acme.call("create_keyspace", "other", prefixes=Jsonb({"secret": {"live": "other_"}}))
    acme.tenant(keyspace="other")
    key, theirs = acme.mint(), acme.mint(keyspace="other")
    with acting(acme, key):
        with pytest.raises(psycopg.Error) as error:
            acme.call("mint", "acme", keyspace="other")
        assert error.value.sqlstate == "KS404"
    assert refusal(acme, key, "revoke", theirs.key_id).sqlstate == "KS404"


# Keys that may manage

def test_a_publishable_key_manages_nothing(acme):
    acme.call("alter_keyspace", "default", Jsonb({"codes": {
        "insufficient_kind": {"code": "secret_key_required", "message": "Use your secret key."}}}))
    public, secret = acme.mint(kind="publishable"), acme.mint()
    for function, arguments in [("mint", ("acme",)), ("list_keys", ("acme",)),
                                ("revoke", (secret.key_id,)), ("rotate", (public.key_id,)),
                                ("alter_key", (secret.key_id, Jsonb({"label": "x"})))]:
        diag = refusal(acme, public, function, *arguments)
        assert (diag.sqlstate, diag.message_primary) == ("KS403", "Use your secret key.")
        assert json.loads(diag.message_detail) == {
            "status": 403, "code": "secret_key_required", "reason": "kind_not_allowed"}


def test_a_keyspace_names_the_scope_that_manages(acme):
    acme.call("alter_keyspace", "default", Jsonb({"managed_by": "keys:manage"}))
    acme.call("define_role", "default", "admin", ["*"])
    acme.call("set_member", "acme", "ann", "admin")
    for options in ({}, {"scopes": ["keys:manage"]}, {"scopes": ["keys:*"]}, {"owner": "ann"}):
        with acting(acme, acme.mint(**options)):
            acme.call("list_keys", "acme")
    diag = refusal(acme, acme.mint(scopes=["images:write"]), "mint", "acme")
    assert diag.sqlstate == "KS403"
    assert json.loads(diag.message_detail) == {
        "status": 403, "code": "insufficient_scope", "reason": "insufficient_scope"}
    public = acme.mint(kind="publishable", scopes=["keys:manage"])
    assert json.loads(refusal(acme, public, "mint", "acme").message_detail)["reason"] \
        == "kind_not_allowed"


def test_a_keyspace_may_have_no_key_manage(acme):
    acme.call("alter_keyspace", "default", Jsonb({"managed_by": "nobody"}))
    key = acme.mint()
    for function, arguments in [("mint", ("acme",)), ("list_keys", ("acme",)),
                                ("revoke", (key.key_id,))]:
        assert "do not manage" in refused(acme, key, function, *arguments)


ADMINISTRATION = [
    ("create_keyspace", ("new",)), ("alter_keyspace", ("default", Jsonb({}))),
    ("drop_keyspace", ("default", True)), ("purge_keys", ("1 day",)),
    ("create_tenant", ("new",)), ("alter_tenant", ("acme", Jsonb({}))),
    ("rename_tenant", ("acme", "new")), ("erase_tenant", ("acme",)),
    ("suspend_tenant", ("globex",)), ("resume_tenant", ("acme",)),
    ("define_scope", ("default", "a")), ("define_role", ("default", "r", ["*"])),
    ("set_member", ("acme", "ann", "r")), ("remove_member", ("acme", "ann")),
    ("grant_access", ("pg_monitor", "admin")), ("revoke_access", ("pg_monitor",)),
    ("audit_verify", ()), ("audit_heads", ()), ("status", ()),
]


@pytest.mark.parametrize("function, arguments", ADMINISTRATION)
def test_no_key_administers(acme, function, arguments):
    """Not even for a superuser: an act needs the rights of both role and key."""
    refused(acme, acme.mint(), function, *arguments)


def test_routes_are_not_for_keys_either(acme):
    key = acme.mint()
    for statement in ("define_route('default', 'GET', '/', 'a')",
                      "define_route('default', 'GET', '/', '{a}'::text[])",
                      "remove_route('default', 'GET', '/')"):
        with acting(acme, key):
            with pytest.raises(psycopg.Error) as error:
                acme.rows(f"SELECT keysmith.{statement}")
            assert error.value.sqlstate == "KS403"


def test_signing_out_gives_back_what_the_role_may(acme):
    with acting(acme, acme.mint()):
        acme.call("sign_out")
        acme.tenant("new")


def test_a_revoked_key_manages_no_more(acme, connect, database):
    key, other = acme.mint(), acme.mint()
    with acme.session.transaction():
        assert acme.verify(key.api_key, sign_in=True).ok
        database(connect()).call("revoke", key.key_id)
        with pytest.raises(psycopg.Error) as error:
            acme.call("mint", "acme")
        assert error.value.sqlstate == "KS401"
    # A key that has just revoked itself may not either.
    with acting(acme, other):
        acme.call("revoke", other.key_id)
        with pytest.raises(psycopg.Error) as error:
            acme.call("mint", "acme")
        assert error.value.sqlstate == "KS401"
    assert [row.status for row in acme.call("list_keys", "acme", include_revoked=True)] \
        == ["revoked", "active"]


@pytest.fixture
def app(cluster, dbname, database):
    """A role without access but with every right to call."""
    cluster.execute("CREATE ROLE app LOGIN")
    with cluster.connect(dbname, user="app", row_factory=psycopg.rows.namedtuple_row) as session:
        session.prepare_threshold = None
        yield database(session)
    cluster.execute("DROP OWNED BY app", dbname)
    cluster.execute("DROP ROLE app")


def test_the_role_and_the_key_are_both_needed(acme, app):
    key, theirs = acme.mint(), acme.mint("globex")
    acme.rows("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA keysmith TO app")
    acme.call("grant_access", "app", "verifier")
    acme.rows("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA keysmith TO app")
    assert "no access" in refused(app, key, "mint", "acme")
    acme.call("grant_access", "app", "issuer", tenant="globex")
    assert "no access" in refused(app, key, "mint", "acme")
    with acting(app, theirs):
        app.mint("globex")
        assert refusal_of(app, "mint", "acme") == "KS404"
    acme.call("grant_access", "app", "issuer")
    with acting(app, key):
        assert app.mint().key_id
        assert refusal_of(app, "mint", "globex") == "KS404"
    app.refused("KS404", "mint", "acme")


def refusal_of(db, function, *arguments):
    with pytest.raises(psycopg.Error) as error, db.session.transaction():
        db.call(function, *arguments)
    return error.value.sqlstate


# Never more than it has

def test_scopes(acme):
    giver = acme.mint(scopes=["images:*", "read"])
    for scopes in (["*"], ["images"], ["write"], ["images:write", "write"], ["read", "reader"]):
        assert "scopes" in refused(acme, giver, "mint", "acme", scopes=scopes)
    with acting(acme, giver):
        assert acme.mint(scopes=["images:write"]).scopes == ["images:write"]
        # Defaults are those of the acting key.
        assert acme.mint().scopes == ["images:*", "read"]


def test_a_keyspace_that_opens_keys_without_scopes_opens_none_that_a_bound_key_made(acme):
    acme.call("alter_keyspace", "default", Jsonb({"empty_scopes": "none"}))
    giver, bare = acme.mint(scopes=["a"]), acme.mint()
    assert "scopes" in refused(acme, giver, "mint", "acme")
    assert "scopes" in refused(acme, giver, "alter_key", giver.key_id, Jsonb({"scopes": []}))
    assert "scopes" in refused(acme, giver, "rotate", bare.key_id)
    with acting(acme, bare):
        # The new key is as open as the acting key, even if the meaning of no scopes changes.
        acme.mint()
    acme.call("alter_keyspace", "default", Jsonb({"empty_scopes": "all"}))
    assert acme.reason(giver.api_key, scopes=["b"]) == "insufficient_scope"


def test_a_role_that_may_grow_is_no_way_up(acme):
    acme.call("define_role", "default", "editor", ["read", "write"])
    acme.call("define_role", "default", "reader", ["read"])
    giver = acme.mint(role="editor")
    assert "role" in refused(acme, giver, "mint", "acme", role="reader")
    with acting(acme, giver):
        bound = acme.mint(role="reader", scopes=["read"])
        same = acme.mint()
    assert acme.row("SELECT role, scopes FROM keysmith.keys WHERE key_id = %s", same.key_id) \
        == ("editor", [])
    acme.call("define_role", "default", "reader", ["*"])
    assert not acme.verify(bound.api_key, scopes=["write"]).ok
    scoped = acme.mint(scopes=["read"])
    assert "scopes" in refused(acme, scoped, "alter_key", scoped.key_id, Jsonb({"scopes": []}))
    acme.call("define_role", "default", "reader", ["read"])
    with acting(acme, scoped):
        # The default scopes are the acting key's own, which bind even if the role changes.
        key = acme.mint(role="reader")
    acme.call("define_role", "default", "reader", ["*"])
    assert not acme.verify(key.api_key, scopes=["write"]).ok


def test_owners(acme):
    acme.call("define_role", "default", "dev", ["a", "b"])
    for member in ("ann", "bob"):
        acme.call("set_member", "acme", member, "dev")
    giver, bobs, nobodys = acme.mint(owner="ann"), acme.mint(owner="bob"), acme.mint(scopes=["a"])
    assert "owner" in refused(acme, giver, "mint", "acme", owner="bob", scopes=["a"])
    assert "owner" in refused(acme, giver, "rotate", bobs.key_id)
    assert "owner" in refused(acme, giver, "rotate", nobodys.key_id)
    assert "owner" in refused(acme, giver, "alter_key", giver.key_id, Jsonb({"owner": "bob"}))
    assert "owner" in refused(acme, giver, "alter_key", giver.key_id,
                              Jsonb({"owner": None, "role": "dev"}))
    with acting(acme, giver):
        minted = acme.mint()
        # It may change the label of another member's key, and revoke it.
        acme.call("alter_key", bobs.key_id, Jsonb({"label": "bob's"}))
        acme.call("revoke", bobs.key_id)
    assert acme.verify(minted.api_key).owner == "ann"
    # The key follows its owner.
    acme.call("remove_member", "acme", "ann")
    assert acme.reason(minted.api_key) == "owner_gone"


def test_an_owner_who_may_rise_is_no_way_up(acme):
    acme.call("define_role", "default", "dev", ["a"])
    acme.call("define_role", "default", "root", ["*"])
    acme.call("set_member", "acme", "bob", "dev")
    giver = acme.mint(role="dev", scopes=[])
    with acting(acme, giver):
        key = acme.mint(owner="bob")
    acme.call("set_member", "acme", "bob", "root")
    assert acme.reason(key.api_key, scopes=["b"]) == "insufficient_scope"


def test_environments(acme):
    test = acme.mint(environment="test")
    before = refused(acme, test, "regenerate", "acme", environment="live")
    acme.one("regenerate", "acme")
    for function in ("mint", "regenerate"):
        assert refused(acme, test, function, "acme", environment="live") == before
    assert "environment" in refused(acme, test, "import_key", "acme", b"x" * 32, environment="live")
    with acting(acme, test):
        assert acme.mint().environment == "test"


@pytest.mark.parametrize("function, more", [
    ("rotate", ()), ("disable", ()), ("enable", ()), ("revoke", ()), ("blast_radius", ()),
    ("alter_key", (Jsonb({"label": "x"}),)), ("alter_key", (Jsonb({"expires_at": None}),))])
def test_a_key_of_another_environment_is_one_that_is_not_there(acme, function, more):
    live, test = acme.mint(), acme.mint(environment="test")
    there = refusal(acme, test, function, live.key_id, *more)
    missing = refusal(acme, test, function, UNKNOWN, *more)
    assert there.sqlstate == missing.sqlstate == "KS404"
    assert there.message_primary.replace(str(live.key_id), UNKNOWN) == missing.message_primary
    assert (there.message_detail, there.message_hint) == (missing.message_detail, missing.message_hint)
    assert acme.verify(live.api_key).ok


def test_a_key_lists_its_environment_alone(acme):
    live, test = acme.mint(), acme.mint(environment="test")
    revoked = acme.mint()
    acme.call("revoke", revoked.key_id)
    with acting(acme, test):
        listed = acme.call("list_keys", "acme", include_revoked=True)
        assert [row.key_id for row in listed] == [test.key_id]
    assert len(acme.call("list_keys", "acme", include_revoked=True)) == 3
    with acting(acme, live):
        assert len(acme.call("list_keys", "acme", include_revoked=True)) == 2


def test_a_key_reads_the_usage_of_its_environment_alone(acme):
    live, test = acme.mint(), acme.mint(environment="test")
    for count, key in ((7, live), (3, test)):
        for _ in range(count):
            acme.verify(key.api_key)
    for fold in ("usage_status", "maintain"):
        acme.call(fold)
        acme.call("flush_usage")
        count = acme.value("SELECT count(*) FROM keysmith.usage WHERE environment = 'test'")
        with acting(acme, test):
            pages = [acme.one("usage_logs", "acme", page=page, per_page=2)[0] for page in (1, 2, 3)]
            of_key = acme.one("usage_logs", "acme", key_id=test.key_id)[0]
        assert {page["meta"]["total"] for page in [*pages, of_key]} == {count}
        rows = [row for page in pages for row in page["data"]]
        assert rows == of_key["data"] and len(rows) == count
        assert {row["environment"] for row in rows} == {"test"}
    there = refusal(acme, test, "usage_logs", "acme", key_id=live.key_id)
    missing = refusal(acme, test, "usage_logs", "acme", key_id=UNKNOWN)
    assert (there.sqlstate, there.message_primary) == ("KS404", missing.message_primary)


def test_making_room_is_no_way_to_another_environment(acme):
    live, test = acme.mint(), acme.mint(environment="test")
    acme.call("alter_keyspace", "default", Jsonb({"max_active_keys": 2, "at_max": "replace"}))
    diag = refusal(acme, test, "mint", "acme")
    assert (diag.sqlstate, "limit of active keys" in diag.message_primary) == ("KS409", True)
    assert acme.verify(live.api_key).ok


NETWORKS = ["10.0.0.0/8", "2001:db8::/32"]


@pytest.mark.parametrize("networks, within", [
    (["10.0.0.0/8"], True), (["10.1.2.3/32"], True), (["2001:db8:1::/48"], True),
    (["10.1.0.0/16", "2001:db8::1/128"], True), (NETWORKS, True),
    (["10.0.0.0/7"], False), (["0.0.0.0/0"], False), (["::/0"], False), (["11.0.0.0/8"], False),
    (["10.1.0.0/16", "192.0.2.1/32"], False), (["::ffff:10.0.0.0/104"], True),
    (["2001:db8::/31"], False), ([], None), (None, None),
])
def test_allowlists(acme, networks, within):
    giver, target = acme.mint(allowlist=NETWORKS), acme.mint(allowlist=["10.1.1.1/32"])
    patch = Jsonb({"allowlist": networks})
    if within:
        with acting(acme, giver, ip="10.1.1.1"):
            minted = acme.mint(allowlist=networks)
            acme.call("alter_key", target.key_id, patch)
        expected = networks
    elif within is None:
        # A mint without a list takes the acting key's list; a patch must not remove it.
        with acting(acme, giver, ip="10.1.1.1"):
            minted = acme.mint(allowlist=networks)
        expected = NETWORKS
        assert "allowlist" in refused(acme, giver, "alter_key", target.key_id, patch, ip="10.1.1.1")
    else:
        for call in (("mint", "acme"), ("alter_key", target.key_id, patch)):
            named = {"allowlist": networks} if call[0] == "mint" else {}
            assert "allowlist" in refused(acme, giver, *call, ip="10.1.1.1", **named)
        return
    stored = acme.value("SELECT allowlist::text[] FROM keysmith.keys WHERE key_id = %s", minted.key_id)
    assert stored == expected


def test_networks_of_ipv6_are_none_of_ipv4(acme):
    """In every notation: a decision takes `::ffff:0:0/96` for all of IPv4."""
    everything = acme.mint(allowlist=["::/0"])
    for networks in (["::ffff:0.0.0.0/96"], ["::ffff:10.0.0.0/104"], ["10.0.0.0/8"]):
        assert "allowlist" in refused(acme, everything, "mint", "acme", ip="2001:db8::1", allowlist=networks)


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_giver_that_was_narrowed_since_the_snapshot(acme, connect, database, isolation):
    """The acting key's present rights are the bound, whatever the transaction still sees."""
    giver, sibling = acme.mint(), acme.mint()
    app = database(connect())
    app.rows(f"BEGIN ISOLATION LEVEL {isolation}")
    app.rows("SELECT count(*) FROM pg_class")
    acme.call("alter_key", giver.key_id, Jsonb({
        "allowlist": ["10.0.0.0/8"], "expires_at": "2040-01-01T00:00:00Z",
        "limits": [{"name": "calls", "limit": 5, "window": "1 hour"}]}))
    assert app.verify(giver.api_key, ip="10.1.1.1", sign_in=True).ok
    minted = app.mint()
    with pytest.raises(psycopg.Error) as error, app.session.transaction():
        app.one("rotate", sibling.key_id)
    assert error.value.sqlstate == "KS403"
    app.rows("COMMIT")
    stored, = acme.rows("SELECT allowlist::text[], expires_at, limits FROM keysmith.keys WHERE key_id = %s",
                        minted.key_id)
    assert stored.allowlist == ["10.0.0.0/8"] and stored.expires_at.year == 2040
    assert stored.limits[0]["limit"] == 5


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
def test_an_owner_that_was_promoted_since_the_snapshot(acme, connect, database, isolation):
    acme.call("define_role", "default", "reader", ["read"])
    acme.call("define_role", "default", "chief", ["read", "write"])
    acme.call("set_member", "acme", "bob", "reader")
    giver = acme.mint(role="reader")
    app = database(connect())
    app.rows(f"BEGIN ISOLATION LEVEL {isolation}")
    app.rows("SELECT count(*) FROM pg_class")
    acme.call("set_member", "acme", "bob", "chief")
    assert app.verify(giver.api_key, sign_in=True).ok
    with pytest.raises(psycopg.Error) as error, app.session.transaction():
        app.mint(role="chief", owner="bob")
    assert error.value.sqlstate in ("KS403", "40001")
    app.rows("ROLLBACK")


def test_the_first_key_that_counts_from_its_bar_on_is_an_administrators(acme):
    """It changes how the keys of all tenants are looked up."""
    theirs = "17|whole"
    acme.one("import_key", "globex", hashlib.sha256(theirs.encode()).digest())
    giver = acme.mint()
    behind = {"digest": b"x" * 32, "algorithm": "sha256-behind-bar"}
    assert "administrator" in refused(acme, giver, "import_key", "acme", **behind)
    assert acme.verify(theirs).ok
    acme.one("import_key", "acme", b"y" * 32, algorithm="sha256-behind-bar")
    with acting(acme, giver):
        assert acme.one("import_key", "acme", **behind).key_id


def test_expiries(acme):
    soon, later = "2040-01-01T00:00:00Z", "2050-01-01T00:00:00Z"
    giver, target = acme.mint(expires_at=soon), acme.mint(expires_at=soon)
    assert "expires_at" in refused(acme, giver, "mint", "acme", expires_at=later)
    for new in (later, None, "infinity"):
        for key in (giver, target):
            assert "expires_at" in refused(acme, giver, "alter_key", key.key_id,
                                           Jsonb({"expires_at": new}))
    with acting(acme, giver):
        assert acme.mint().expires_at == giver.expires_at
        assert acme.mint(expires_at="infinity").expires_at == giver.expires_at
        assert acme.mint(expires_at="2030-01-01T00:00:00Z").expires_at < giver.expires_at


# Capacity: making keys does not increase it

def limit(count, name="d"):
    return Jsonb([{"name": name, "limit": count, "window": "1 day"}])


def digest(text):
    return hashlib.sha256(text.encode()).digest()


def test_keys_of_a_key_with_credits_spend_these(acme):
    acme.call("alter_tenant", "acme", Jsonb({"credits": 1000}))
    giver = acme.mint(credits=10)
    with acting(acme, giver):
        minted = acme.mint(label="minted")
        acme.call("import_key", "acme", digest("imported"))
        regenerated = acme.one("regenerate", "acme", kind="publishable")
    with acting(acme, minted):
        again = acme.mint(label="again")
        rotated = acme.one("rotate", minted.key_id, "1 hour")
    keys = [giver.api_key, minted.api_key, "imported", regenerated.api_key, again.api_key, rotated.api_key]
    for left, key in zip(range(9, 3, -1), keys):
        assert acme.verify(key, spend=1).credits_remaining == left
        assert acme.value("SELECT credits FROM keysmith.keys WHERE key_id = %s", again.key_id) == left
    with acting(acme, again):
        assert acme.value("SELECT keysmith.whoami() -> 'credits'") == 4
    # It has no more when the acting key has ended, or was rotated.
    successor = acme.one("rotate", giver.key_id)
    acme.call("revoke", successor.key_id, "test")
    assert [acme.reason(key, spend=5) for key in keys] == ["revoked"] + ["credits_exhausted"] * 5
    assert acme.verify("imported", spend=4).credits_remaining == 0


def test_a_key_with_credits_takes_over_no_others(acme):
    acme.call("alter_tenant", "acme", Jsonb({"credits": 1000}))
    giver, sibling, rich = acme.mint(credits=10), acme.mint(), acme.mint(credits=10_000)
    off, legacy = acme.mint(label="off"), acme.one("regenerate", "acme")
    acme.call("disable", off.key_id)
    for key in (sibling, rich, legacy):
        assert "credits" in refused(acme, giver, "rotate", key.key_id)
        assert "credits" in refused(acme, giver, "alter_key", key.key_id, Jsonb({"label": "x"}))
    assert "credits" in refused(acme, giver, "regenerate", "acme")
    assert "credits" in refused(acme, giver, "enable", off.key_id)
    with acting(acme, giver):
        acme.one("alter_key", giver.key_id, Jsonb({"label": "mine"}))
        acme.call("revoke", rich.key_id)
        acme.call("disable", sibling.key_id)


def test_administrators_say_whose_credits_are_spent(acme):
    acme.call("alter_tenant", "acme", Jsonb({"credits": 1000}))
    giver = acme.mint(credits=10)
    with acting(acme, giver):
        one, two = acme.mint(), acme.mint()
    assert acme.one("add_credits", 5, key_id=one.key_id) == (15,)
    acme.call("alter_key", one.key_id, Jsonb({"credits": 3}))
    left = [acme.verify(key.api_key, spend=1).credits_remaining for key in (giver, one, two)]
    assert left == [14, 2, 13]
    acme.call("alter_key", giver.key_id, Jsonb({"credits": None}))
    left = [acme.verify(key.api_key, spend=1).credits_remaining for key in (giver, one, two)]
    assert left == [999, 1, 998]


def test_a_key_with_limits_shares_them_with_those_it_gives(acme):
    giver = acme.mint(limits=limit(10))
    with acting(acme, giver):
        wide, narrow = acme.mint(limits=limit(100)), acme.mint(limits=limit(2))
        plain = acme.mint()
        imported = acme.one("import_key", "acme", digest("imported"))
    with acting(acme, plain, weight=0):
        of_plain = acme.mint()
        successor = acme.one("rotate", plain.key_id, "1 hour")
    shared = {"name": "d", "limit": 10, "burst": 10, "window": "1 day", "shared_with": str(giver.key_id)}
    listed = {row.key_id: row.limits for row in acme.call("list_keys", "acme")}
    assert listed[imported.key_id] == listed[of_plain.key_id] == listed[successor.key_id] == [shared]
    assert listed[narrow.key_id] == [{"name": "d", "limit": 2, "burst": 2, "window": "1 day"}, shared]
    used = acme.verify(giver.api_key).limit_remaining
    assert used == 10 - 2
    for key in (wide.api_key, "imported", plain.api_key, of_plain.api_key, successor.api_key):
        used -= 1
        assert acme.verify(key).limit_remaining == used
    assert [acme.reason(narrow.api_key) for _ in range(3)] == ["ok", "ok", "rate_limited"]
    keys = (wide.api_key, "imported", plain.api_key, of_plain.api_key, successor.api_key)
    assert acme.verify(giver.api_key).ok
    assert {acme.reason(key) for key in keys} == {"rate_limited"}
    acme.call("revoke", giver.key_id)
    assert {acme.reason(key) for key in keys} == {"rate_limited"}


def test_a_key_with_limits_takes_over_no_others(acme):
    giver, sibling = (acme.mint(limits=limit(20)) for _ in range(2))
    free = acme.mint()
    for key in (sibling, free):
        assert "limits" in refused(acme, giver, "rotate", key.key_id)
        assert "limits" in refused(acme, giver, "alter_key", key.key_id, Jsonb({"limits": limit(1).obj}))
    for changes in ({"limits": limit(21).obj}, {"limits": None}, {"limits": limit(9, "other").obj}):
        assert "limits" in refused(acme, giver, "alter_key", giver.key_id, Jsonb(changes))
    with acting(acme, giver):
        child = acme.mint(limits=limit(3))
        acme.call("revoke", free.key_id)
    with acting(acme, child):
        acme.call("alter_key", child.key_id, Jsonb({"limits": limit(2).obj}))
        with pytest.raises(psycopg.Error) as error:
            acme.call("alter_key", child.key_id, Jsonb({"limits": limit(3).obj}))
        assert error.value.sqlstate == "KS403"
    # A key that shares limits may get others, as long as the shared ones apply.
    with acting(acme, giver):
        altered = acme.one("alter_key", child.key_id, Jsonb({"limits": None}))
    assert [entry.get("shared_with") for entry in altered.limits] == [str(giver.key_id)]


def test_shared_limits_are_as_their_key_has_them(acme):
    giver = acme.mint(limits=limit(9))
    with acting(acme, giver):
        child = acme.mint(limits=limit(5, "own"))
    with acting(acme, child):
        grandchild = acme.mint()

    def shared():
        rows = {row.key_id: row.limits for row in acme.call("list_keys", "acme")}
        return [[(entry["name"], entry["limit"]) for entry in rows[key.key_id] or []]
                for key in (giver, child, grandchild)]

    assert shared() == [[("d", 9)], [("own", 5), ("d", 9)], [("d", 9), ("own", 5)]]
    acme.call("alter_key", giver.key_id, Jsonb({"limits": limit(4).obj + limit(7, "more").obj}))
    assert shared() == [[("d", 4), ("more", 7)], [("own", 5), ("d", 4), ("more", 7)],
                        [("own", 5), ("d", 4), ("more", 7)]]
    acme.call("alter_key", giver.key_id, Jsonb({"limits": None}))
    assert shared() == [[], [("own", 5)], [("own", 5)]]
    # A role that acts for no key may set any limits.
    acme.call("alter_key", grandchild.key_id, Jsonb({"limits": []}))
    assert shared() == [[], [("own", 5)], []]


def test_what_routes_put_in_place_of_a_shared_limit_is_shared(acme):
    acme.call("define_route", "default", "GET", "/r", [], limits=limit(5))
    giver = acme.mint(limits=limit(100))
    with acting(acme, giver):
        keys = [giver, *(acme.mint() for _ in range(3))]

    def ask(key):
        return acme.one("authenticate", Jsonb({"x-api-key": key.api_key}), "GET", "/r")

    assert [ask(keys[number % 4]).ok for number in range(8)] == [True] * 5 + [False] * 3


def test_no_tree_of_keys_has_more_than_its_root_at_random(acme):
    """Each limit counts the calls of its key and of all keys that descend from it, and no
    others."""
    dice = random.Random("a tree of keys")
    keys, above, limits, used = [], [], [], {}

    def add(minted, parent, own):
        keys.append(minted)
        above.append([len(keys) - 1, *(above[parent] if parent is not None else [])])
        limits.append(own)

    for number in range(24):
        own = {name: dice.randint(20, 600) for name in dice.sample("de", dice.choice([0, 1, 1, 2]))}
        given = Jsonb([{"name": n, "limit": count, "window": "10 days"} for n, count in own.items()]) \
            if own else None
        if number < 3:
            add(acme.mint(limits=given), None, own)
            continue
        parent = dice.randrange(len(keys))
        with acting(acme, keys[parent], weight=0):
            add(acme.mint(limits=given), parent, own)
    passed = refusals = 0
    for _ in range(600):
        number, weight = dice.randrange(len(keys)), dice.randint(1, 3)
        counted = [(holder, name) for holder in above[number] for name in limits[holder]]
        fits = all(used.get(place, 0) + weight <= limits[place[0]][place[1]] for place in counted)
        assert acme.verify(keys[number].api_key, weight=weight).ok == fits
        if fits:
            used |= {place: used.get(place, 0) + weight for place in counted}
        passed, refusals = passed + fits, refusals + (not fits)
    assert min(passed, refusals) > 50


def test_a_stronger_key_is_not_taken_over(acme):
    weak = acme.mint(scopes=["a"])
    strong, off = acme.mint(), acme.mint()
    acme.call("disable", off.key_id)
    assert "scopes" in refused(acme, weak, "rotate", strong.key_id)
    assert "scopes" in refused(acme, weak, "enable", off.key_id)
    assert "scopes" in refused(acme, weak, "alter_key", strong.key_id, Jsonb({"label": "x"}))
    assert "scopes" in refused(acme, weak, "alter_key", weak.key_id, Jsonb({"scopes": ["a", "b"]}))
    with acting(acme, weak):
        # Revoking a key gains no capacity.
        acme.call("revoke", strong.key_id)
        acme.one("rotate", weak.key_id)


def test_a_legacy_key_that_is_stronger_is_not_regenerated(acme):
    weak = acme.mint(scopes=["a"], label="weak")
    acme.one("regenerate", "acme")
    assert "scopes" in refused(acme, weak, "regenerate", "acme")


def test_a_key_that_narrows_itself_stays_narrow(acme):
    key = acme.mint(scopes=["a", "b"])
    with acting(acme, key):
        acme.call("alter_key", key.key_id, Jsonb({"scopes": ["a"], "allowlist": ["10.0.0.0/8"]}))
        with pytest.raises(psycopg.Error) as error:
            acme.call("mint", "acme", scopes=["b"])
        # The transaction has no address that the new list would admit.
        assert error.value.sqlstate == "KS401"
    with acting(acme, key):
        acme.call("alter_key", key.key_id, Jsonb({"scopes": ["a"]}))
        with pytest.raises(psycopg.Error) as error:
            acme.call("mint", "acme", scopes=["b"])
        assert error.value.sqlstate == "KS403"


# At random, against a model

ROLES = {"all": ["*"], "ab": ["a:*", "b:x"], "a": ["a:x", "a:y"], "c": ["c"], "none": []}
MEMBERS = {"root": "all", "ann": "ab", "bob": "a", "cid": "c"}
GRANTS = ["*", "a:*", "a:x", "a:y", "b:x", "c"]
DEFAULTS = ["a:x", "c"]
IMPLIES = {"c": ["a:x"]}
ATOMS = ["a:x", "a:y", "a:other", "b:x", "b:other", "c", "other"]
LISTS = [*[None] * 8, ["10.0.0.0/8"], ["10.1.0.0/16", "2001:db8::/32"], ["2001:db8::/32"],
         ["10.1.2.0/24"], ["0.0.0.0/0", "::/0"]]
ENDS = [*[None] * 6, "2031-01-01T00:00:00+00:00", "2041-01-01T00:00:00+00:00"]


def atoms(grants):
    """All scopes that a list of grants stands for."""
    named = {atom for atom in ATOMS for grant in grants
             if grant in ("*", atom) or grant.endswith(":*") and atom.startswith(grant[:-1])}
    return named | {implied for atom in named for implied in IMPLIES.get(atom, [])}


class Model:
    """The rights of a key, in the simplest form."""

    def __init__(self, empty, roles=ROLES):
        self.empty, self.roles = empty, roles

    def own(self, key):
        if key["scopes"] or self.empty == "none":
            return atoms(key["scopes"])
        return atoms(["*"] if self.empty == "all" else DEFAULTS)

    def bounds(self, key):
        """The roles that bind a key."""
        return {role for role in (key["role"], MEMBERS.get(key["owner"])) if role}

    def has(self, key):
        has = self.own(key)
        for role in self.bounds(key):
            has &= atoms(self.roles[role])
        return has

    def may_be(self, giver, key, names_owner):
        if key["environment"] != giver["environment"]:
            return False
        if names_owner and giver["owner"] and key["owner"] != giver["owner"]:
            return False
        if giver["allowlist"]:
            networks = [ipaddress.ip_network(network) for network in giver["allowlist"]]
            if not key["allowlist"] or not all(
                    any(own.version == network.version and network.subnet_of(own) for own in networks)
                    for network in map(ipaddress.ip_network, key["allowlist"])):
                return False
        if giver["expires_at"] and (not key["expires_at"] or key["expires_at"] > giver["expires_at"]):
            return False
        everything = atoms(["*"])
        # By its own scopes, or else by everything that binds the acting key.
        bound = self.own(key) <= self.has(giver) and key["scopes"]
        are_open = not key["scopes"] and not giver["scopes"]
        shared = (are_open or self.own(giver) == everything) and all(
            role in self.bounds(key) or atoms(self.roles[role]) == everything
            for role in self.bounds(giver))
        return bool(bound or shared)

    def filled_in(self, giver, key):
        filled = {field: key[field] or giver[field] for field in key if field != "scopes"}
        scopes = key["scopes"]
        if not scopes:
            scopes = {"all": giver["scopes"], "none": [],
                      "defaults": [s for s in DEFAULTS if s in self.has(giver)] or DEFAULTS}[self.empty]
        return filled | {"scopes": scopes}


def any_key(dice, may_be_open):
    """A key, or a request for one."""
    maybe = (lambda things: dice.choice([None, None, *things]))
    return {"scopes": dice.sample(GRANTS, dice.choice([0, 0, 1, 1, 2, 3])),
            "role": maybe(ROLES), "owner": maybe(MEMBERS),
            "environment": dice.choice(["live"] * 12 + ["test"] + ([None] if may_be_open else [])),
            "allowlist": dice.choice(LISTS), "expires_at": dice.choice(ENDS)}


@pytest.mark.parametrize("empty", ["all", "defaults", "none"])
def test_nothing_beyond_ones_own_at_random(db, empty):
    dice, model = random.Random(f"authority {empty}"), Model(empty)
    db.call("create_keyspace", "k", empty_scopes=empty,
            default_scopes=DEFAULTS if empty == "defaults" else [],
            prefixes=Jsonb({"secret": {"live": "k_", "test": "t_"}}))
    for scope in ("a:x", "a:y", "b:x", "c"):
        db.call("define_scope", "k", scope, implies=IMPLIES.get(scope, []))
    for role, scopes in ROLES.items():
        db.call("define_role", "k", role, scopes)
    db.tenant(keyspace="k")
    for member, role in MEMBERS.items():
        db.call("set_member", "acme", member, role, "k")
    keys = []
    for _ in range(40):
        key = any_key(dice, may_be_open=False)
        minted = db.mint(keyspace="k", **key)
        keys.append((minted, key | {"scopes": minted.scopes}))
    outcomes = {True: 0, False: 0}
    for _ in range(600):
        (minted, giver), request = dice.choice(keys), any_key(dice, may_be_open=True)
        if dice.random() < 0.5:
            became, names_owner = model.filled_in(giver, request), True
            call = ("mint", ("acme",), request | {"keyspace": "k"})
        else:
            target, before = dice.choice(keys)
            patch = {field: request[field] for field in request
                     if field != "environment" and dice.random() < 0.4}
            became, names_owner = before | patch, "owner" in patch
            if empty == "defaults" and not became["scopes"]:
                became["scopes"] = DEFAULTS
            call = ("alter_key", (target.key_id, Jsonb(patch)), {})
        expected = model.may_be(giver, became, names_owner)
        address = str(ipaddress.ip_network((giver["allowlist"] or ["192.0.2.1"])[0])[0])
        with db.session.transaction(force_rollback=True):
            assert db.verify(minted.api_key, keyspace="k", ip=address, sign_in=True).ok
            try:
                (done,) = db.call(call[0], *call[1], **call[2])
                allowed, why = True, None
            except psycopg.Error as error:
                # A key of another environment does not exist.
                is_hidden = call[0] == "alter_key" and became["environment"] != giver["environment"]
                assert error.sqlstate == ("KS404" if is_hidden else "KS403"), error
                allowed, why = False, error.diag.message_primary
            assert allowed == expected, (call, giver, became, why)
            if allowed:
                assert model.has(became) <= model.has(giver)
                stored = db.row("SELECT scopes, role, owner, environment FROM keysmith_private.key "
                                "WHERE key_id = %s", done.key_id)
                assert stored == tuple(became[field] for field in stored._fields)
                # The new key stays below the acting key, whatever becomes of the roles.
                roles = {role: dice.sample(GRANTS, dice.randint(0, 4)) for role in ROLES}
                roles |= {role: held for role, held in ROLES.items() if "*" in held}
                # The same holds whatever keys without scopes may do later.
                for later in (Model(empty, roles), Model("all", roles)):
                    for atom in later.has(became) - later.has(giver):
                        assert atom in model.has(giver)
        outcomes[allowed] += 1
    assert min(outcomes.values()) > 50, outcomes
