"""Allowlists of tenants and keyspaces: an address must be in each list that is set, the key's too."""

import psycopg
import pytest
from psycopg.types.json import Jsonb

from conftest import Database
from test_identity import over

WIDE, NARROW, OTHER = "10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/24"
INSIDE, WITHIN_WIDE, OUTSIDE = "10.1.2.3", "10.2.3.4", "192.0.2.9"
HOLDERS = ["key", "tenant", "keyspace"]
# More networks than a row has room for.
LONG = [f"10.{n // 256}.{n % 256}.0/24" for n in range(999)] + ["2001:db8::/32"]


def bind(db, holder, networks, key=None):
    change = Jsonb({"allowlist": networks})
    match holder:
        case "key":
            db.call("alter_key", key.key_id, change)
        case "tenant":
            db.call("alter_tenant", "acme", change)
        case "keyspace":
            db.call("alter_keyspace", "default", change)


@pytest.fixture
def key(db):
    db.tenant()
    return db.mint()


@pytest.mark.parametrize("holder", HOLDERS)
def test_each_list_holds_from_its_commit_on(db, connect, key, holder):
    other = Database(connect())
    assert other.verify(key.api_key).ok
    bind(db, holder, [NARROW], key)
    assert [other.reason(key.api_key, ip=ip) for ip in (INSIDE, WITHIN_WIDE, OUTSIDE, None)] \
        == ["ok", "ip_not_allowed", "ip_not_allowed", "ip_unknown"]
    verdict = other.verify(key.api_key, ip=OUTSIDE)
    assert (verdict.status, verdict.code) == (403, "ip_not_allowed")
    for cleared in ([], None):
        bind(db, holder, [NARROW], key)
        assert other.reason(key.api_key, ip=OUTSIDE) == "ip_not_allowed"
        bind(db, holder, cleared, key)
        assert other.verify(key.api_key, ip=OUTSIDE).ok and other.verify(key.api_key).ok


def test_an_address_must_be_in_each_list(db, key):
    for own, tenants, keyspaces, admitted in [
        ([WIDE], [NARROW], None, {INSIDE}), ([NARROW], [WIDE], None, {INSIDE}), (None, [WIDE], [NARROW], {INSIDE}),
        ([WIDE], None, [NARROW], {INSIDE}), ([WIDE], [WIDE], [WIDE], {INSIDE, WITHIN_WIDE}),
        ([WIDE, OTHER], [NARROW, OTHER], [OTHER], {OUTSIDE}), ([NARROW], [OTHER], None, set()),
        ([OTHER], None, [WIDE], set()), (None, None, None, {INSIDE, WITHIN_WIDE, OUTSIDE}),
    ]:
        for holder, networks in zip(HOLDERS, (own, tenants, keyspaces)):
            bind(db, holder, networks, key)
        for ip in (INSIDE, WITHIN_WIDE, OUTSIDE):
            assert db.verify(key.api_key, ip=ip).ok is (ip in admitted), (own, tenants, keyspaces, ip)


def test_every_way_of_asking_minds_them(db, key):
    db.call("create_keyspace", "other", prefixes=Jsonb({"secret": {"live": "other_"}}), allowlist=[NARROW])
    db.tenant(keyspace="other")
    other = db.mint(keyspace="other")
    bind(db, "tenant", [NARROW])
    for asked, keyspace in ((key, "default"), (other, "other")):
        headers = Jsonb({"X-Api-Key": asked.api_key})
        for ip, reason, ok in ((INSIDE, "ok", True), (OUTSIDE, "ip_not_allowed", False), (None, "ip_unknown", False)):
            options = {"ip": ip, "keyspace": keyspace}
            assert db.one("verify_digest", db.value("SELECT sha256(%s::bytea)", asked.api_key), **options).reason == reason
            assert db.call("verify_many", [asked.api_key], **options)[0].reason == reason
            assert db.one("authenticate", headers, "GET", "/x", **options).reason == reason
            assert db.one("serve", headers, "GET", "/x", **options).ok is ok
            assert db.one("verify_json", asked.api_key, **options)[0]["reason"] == reason
            steps = db.call("explain_verify", asked.api_key, **options)
            assert [step.reason for step in steps if step.rule == "address"] == [None if ok else reason]


@pytest.mark.parametrize("holder", HOLDERS[1:])
def test_publishable_keys_are_bound_too(db, key, holder):
    public = db.mint(kind="publishable")
    bind(db, holder, [NARROW])
    assert [db.reason(public.api_key, ip=ip) for ip in (INSIDE, OUTSIDE, None)] == ["ok", "ip_not_allowed", "ip_unknown"]


@pytest.mark.parametrize("holder", HOLDERS)
def test_an_ipv4_address_is_the_same_if_it_is_mapped(db, key, holder):
    bind(db, holder, [NARROW], key)
    assert db.verify(key.api_key, ip=f"::ffff:{INSIDE}").ok
    assert db.reason(key.api_key, ip=f"::ffff:{OUTSIDE}") == "ip_not_allowed"
    bind(db, holder, ["::ffff:10.1.0.0/112"], key)
    assert db.verify(key.api_key, ip=INSIDE).ok and not db.verify(key.api_key, ip=WITHIN_WIDE).ok


@pytest.mark.parametrize("holder", HOLDERS)
def test_long_lists(db, connect, key, holder):
    other = Database(connect())
    bind(db, holder, LONG, key)
    for _ in range(2):
        assert [other.reason(key.api_key, ip=ip) for ip in ("10.3.230.7", "10.3.231.7", "2001:db8::7")] \
            == ["ok", "ip_not_allowed", "ok"]
    # Another list of the same length is another value.
    bind(db, holder, LONG[:-1] + [OTHER], key)
    assert [other.reason(key.api_key, ip=ip) for ip in ("10.3.230.7", OUTSIDE, "2001:db8::7")] \
        == ["ok", "ok", "ip_not_allowed"]
    bind(db, holder, [OTHER], key)
    assert other.reason(key.api_key, ip="10.3.230.7") == "ip_not_allowed"


def test_tenants_have_lists_of_their_own(db, key):
    globex = db.tenant("globex", allowlist=LONG)
    umbrella = db.tenant("umbrella", allowlist=LONG[:-1] + [OTHER])
    assert globex != umbrella
    keys = {name: db.mint(name) for name in ("globex", "umbrella")}
    assert db.verify(key.api_key, ip=OUTSIDE).ok
    assert [db.reason(keys[name].api_key, ip=OUTSIDE) for name in ("globex", "umbrella")] == ["ip_not_allowed", "ok"]
    assert [db.reason(keys[name].api_key, ip="2001:db8::7") for name in ("globex", "umbrella")] == ["ok", "ip_not_allowed"]


def test_the_explanation_says_which_list_refused(db, key):
    def saw(ip):
        return db.value("SELECT saw FROM keysmith.explain_verify(%s, ip => %s) WHERE rule = 'address'", key.api_key, ip)

    assert saw(INSIDE) == f"no allowlist; {INSIDE}"
    bind(db, "keyspace", [NARROW])
    assert saw(INSIDE) == f"in the allowlist of its keyspace; {INSIDE}"
    assert saw(OUTSIDE) == f"not in the allowlist of its keyspace; {OUTSIDE}"
    assert saw(None) == "not in the allowlist of its keyspace; no address"
    bind(db, "tenant", [WIDE])
    assert saw(WITHIN_WIDE) == f"not in the allowlist of its keyspace; {WITHIN_WIDE}"
    assert saw(OUTSIDE) == f"not in the allowlist of its tenant and its keyspace; {OUTSIDE}"
    bind(db, "key", [OTHER], key)
    assert saw(INSIDE) == f"not in the allowlist of the key; {INSIDE}"
    assert saw(OUTSIDE) == f"not in the allowlist of its tenant and its keyspace; {OUTSIDE}"


@pytest.mark.parametrize("holder", HOLDERS[1:])
def test_an_identity_ends_when_its_address_is_excluded(db, connect, key, holder):
    other = Database(connect())
    with db.session.transaction():
        assert db.verify(key.api_key, ip=INSIDE, sign_in=True).ok
        assert db.value("SELECT keysmith.current_tenant()") == "acme"
        bind(other, holder, [WIDE])
        assert db.value("SELECT keysmith.current_tenant()") == "acme"
        bind(other, holder, [OTHER])
        assert "no longer be used from its address" in over(db)


def test_people_are_not_bound_to_networks(db, key):
    bind(db, "tenant", [NARROW])
    bind(db, "keyspace", [NARROW])
    with db.session.transaction():
        db.call("act_as", "acme")
        assert db.value("SELECT keysmith.current_tenant()") == "acme"
        assert db.one("serve", Jsonb({}), "GET", "/x", ip=OUTSIDE).ok


def test_a_public_route_is_open_to_requests_without_a_key(db, key):
    db.call("define_route", "default", "GET", "/open", [], public=True)
    bind(db, "keyspace", [NARROW])
    assert db.one("authenticate", Jsonb({}), "GET", "/open", ip=OUTSIDE).reason == "public"
    headers = Jsonb({"X-Api-Key": key.api_key})
    assert db.one("authenticate", headers, "GET", "/open", ip=OUTSIDE).reason == "ip_not_allowed"


def test_a_plan_without_allowlists_may_be_bound(db):
    db.call("alter_keyspace", "default", Jsonb({"plan_features": {"allowlist": ["pro"]}}))
    db.tenant(plan="free", allowlist=[NARROW])
    bind(db, "keyspace", [WIDE])
    key = db.mint()
    assert [db.reason(key.api_key, ip=ip) for ip in (INSIDE, WITHIN_WIDE)] == ["ok", "ip_not_allowed"]
    bind(db, "tenant", [OTHER])
    db.refused("KS403", "mint", "acme", allowlist=[NARROW])


def test_a_key_does_not_loosen_them(db, key):
    db.call("grant_access", "postgres", "admin")
    bind(db, "tenant", [NARROW])
    for act, arguments in [("alter_tenant", ("acme",)), ("alter_keyspace", ("default",))]:
        with db.session.transaction(force_rollback=True):
            assert db.verify(key.api_key, ip=INSIDE, sign_in=True).ok
            assert "can't administer" in db.refused("KS403", act, *arguments, Jsonb({"allowlist": None}))
    # A key that gives a wider list gives no more for it.
    with db.session.transaction():
        assert db.verify(key.api_key, ip=INSIDE, sign_in=True).ok
        made = db.mint(allowlist=[WIDE])
    assert db.reason(made.api_key, ip=WITHIN_WIDE) == "ip_not_allowed"


def test_the_lists_are_shown_and_recorded(db, key):
    db.tenant("globex", allowlist=[NARROW, "2001:db8::1/128"])
    bind(db, "tenant", [OTHER])
    assert db.rows("SELECT tenant, allowlist::text[] FROM keysmith.tenants ORDER BY tenant") \
        == [("acme", [OTHER]), ("globex", [NARROW, "2001:db8::1/128"])]
    bind(db, "keyspace", [NARROW])
    assert db.value("SELECT allowlist::text[] FROM keysmith_private.keyspace") == [NARROW]
    for action in ("alter_tenant", "alter_keyspace"):
        entry = db.row("SELECT before, after FROM keysmith.audit WHERE action = %s", action)
        assert entry.before["allowlist"] is None and len(entry.after["allowlist"]) == 1
    assert all(row.ok for row in db.call("audit_verify"))


BAD = [["10.0.0.1/8"], ["x"], [""], [None], [5], "10.0.0.0/8", {"a": 1}, 7, True, ["10.0.0.0/8"] * 1001]


@pytest.mark.parametrize("networks", BAD, ids=lambda bad: str(bad)[:20])
def test_bad_lists_change_nothing(db, key, networks):
    for function, name in (("alter_tenant", "acme"), ("alter_keyspace", "default")):
        assert "changes.allowlist" in db.refused("KS400", function, name, Jsonb({"allowlist": networks}))
    assert db.verify(key.api_key).ok
    assert db.value("SELECT allowlist FROM keysmith.tenants") is None


@pytest.mark.parametrize("function, name", [("create_tenant", "globex"), ("create_keyspace", "other")])
@pytest.mark.parametrize("networks", ["{10.0.0.0/8,NULL}", "{" + ",".join(["10.0.0.0/8"] * 1001) + "}"], ids=["null", "many"])
def test_bad_arguments(db, function, name, networks):
    with pytest.raises(psycopg.Error, match="allowlist") as error:
        db.rows(f"SELECT keysmith.{function}(%s, allowlist => %s::cidr[])", name, networks)
    assert error.value.sqlstate == "KS400"
    db.refused("KS404", "alter_tenant" if function == "create_tenant" else "alter_keyspace", name, Jsonb({}))


def test_an_empty_list_is_no_list(db):
    db.tenant(allowlist=[])
    db.call("create_keyspace", "other", allowlist=[], prefixes=Jsonb({"secret": {"live": "other_"}}))
    db.tenant(keyspace="other")
    assert db.verify(db.mint().api_key).ok
    assert db.verify(db.mint(keyspace="other").api_key, keyspace="other").ok
    assert db.value("SELECT count(*) FROM keysmith_private.tenant WHERE allowlist IS NOT NULL") == 0


def test_an_erased_tenant_has_no_list(db, key):
    bind(db, "tenant", [NARROW])
    db.call("erase_tenant", "acme")
    assert db.value("SELECT allowlist FROM keysmith_private.tenant") is None
