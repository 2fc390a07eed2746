"""Limits by unit, and limits that count each subject, address, member, tenant or key separately."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from psycopg.types.json import Jsonb

from cluster import running
from conftest import session
from test_limits import SESSIONS, limit, passed


def limits(*lines):
    return Jsonb([{"window": "366 days"} | line for line in lines])


TOKENS = {"name": "tokens", "limit": 1000, "unit": "tokens"}
CALLS = {"name": "calls", "limit": 10}


def tokens(number, **others):
    return Jsonb({"tokens": number} | others)


# Units

def test_a_limit_counts_its_unit_only(db):
    db.tenant()
    key = db.mint(limits=limits(CALLS, TOKENS)).api_key
    first = db.verify(key, weights=tokens(600))
    assert (first.ok, first.limit_name, first.limit_unit, first.limit_remaining, first.limit_limit) == (True, "tokens", "tokens", 400, 1000)
    refused = db.verify(key, weights=tokens(600))
    assert (refused.reason, refused.limit_unit, refused.limit_remaining) == ("rate_limited", "tokens", 400)
    assert refused.retry_after > timedelta(days=30)
    # A refusal takes nothing from either, and calls without tokens go on.
    calls = db.verify(key)
    assert (calls.ok, calls.limit_name, calls.limit_unit, calls.limit_remaining) == (True, "calls", "calls", 8)
    assert db.verify(key, weights=tokens(400, calls=0)).limit_remaining == 0
    assert passed(db, key, 10) == 8
    assert db.verify(key, weight=0).limit_name == "calls"
    assert db.reason(key, weights=tokens(1, calls=0)) == "rate_limited"


def test_a_weight_beyond_the_burst_never_passes(db):
    db.tenant()
    key = db.mint(limits=limits(TOKENS | {"burst": 500})).api_key
    refused = db.verify(key, weights=tokens(501))
    assert (refused.reason, refused.retry_after, refused.limit_remaining) == ("rate_limited", None, 500)
    assert db.verify(key, weights=tokens(500)).ok


def test_a_unit_that_no_limit_names_limits_nothing(db):
    db.tenant()
    key = db.mint(limits=limits(TOKENS)).api_key
    assert db.verify(key, weights=Jsonb({"images": 10**9})).limit_remaining == 1000
    unlimited = db.verify(db.mint().api_key, weights=tokens(5))
    assert unlimited.ok and unlimited.limit_unit is None


def test_limits_of_every_holder_count_units(db):
    db.call("create_keyspace", "k", limits=limits(TOKENS | {"name": "of the keyspace", "limit": 900}))
    db.tenant(keyspace="k", limits=limits(TOKENS | {"name": "of the tenant", "limit": 800}))
    key = db.mint(keyspace="k", limits=limits(TOKENS | {"name": "of the key", "limit": 700})).api_key
    db.call("define_route", "k", "GET", "/x", [], limits=limits(TOKENS | {"name": "of the route", "limit": 600}))
    left = {}
    for _ in range(2):
        verdict = db.one("authenticate", Jsonb({"x-api-key": key}), "GET", "/x", keyspace="k", weights=tokens(400))
        left[verdict.reason] = (verdict.limit_name, verdict.limit_remaining)
    assert left == {"ok": ("of the route", 200), "rate_limited": ("of the route", 200)}
    assert db.verify(key, keyspace="k", weights=tokens(300)).limit_name == "of the key"
    other = db.mint(keyspace="k").api_key
    assert db.verify(other, keyspace="k", weights=tokens(100)).limit_remaining == 0
    assert db.verify(other, keyspace="k", weights=tokens(100)).limit_name == "of the tenant"


def test_credits_that_refuse_give_units_back(db):
    db.tenant(credits=Jsonb(5))
    key = db.mint(limits=limits(TOKENS, CALLS)).api_key
    refused = db.verify(key, spend=6, weights=tokens(900))
    assert (refused.reason, refused.limit_unit, refused.limit_remaining) == ("credits_exhausted", "tokens", 1000)
    assert db.verify(key, spend=5, weights=tokens(1000)).ok


def test_another_unit_begins_with_a_full_bucket(db):
    db.tenant()
    key = db.mint(limits=limits(CALLS | {"name": "a"}))
    assert passed(db, key.api_key, 11) == 10
    db.call("alter_key", key.key_id, Jsonb({"limits": [{"name": "a", "limit": 10, "window": "1 day", "unit": "tokens"}]}))
    assert db.verify(key.api_key, weights=tokens(3)).limit_remaining == 7


def test_units_and_per_are_shown(db):
    line = {"name": "a/1 b", "limit": 5, "window": "1 hour", "burst": 5, "unit": "tokens", "per": "subject"}
    plain = {"name": "b", "limit": 5, "window": "1 hour", "burst": 5}
    given = Jsonb([line, plain | {"unit": "calls"}, plain | {"name": "c", "per": "address"}])
    shown = [line, plain, plain | {"name": "c", "per": "address"}]
    db.call("create_keyspace", "k", limits=given, key_limits=given)
    db.tenant(keyspace="k", limits=given)
    key = db.mint(keyspace="k")
    db.call("define_route", "k", "GET", "/x", [], limits=given)
    assert db.value("SELECT limits FROM keysmith.keys WHERE key_id = %s", key.key_id) == shown
    assert db.value("SELECT limits FROM keysmith.tenants") == shown
    assert db.value("SELECT limits FROM keysmith.routes") == shown
    document = db.value("SELECT keysmith.openapi('k')")
    assert document["paths"]["/x"]["get"]["x-keysmith-limits"] == shown
    # What is shown can be given.
    db.call("alter_key", key.key_id, Jsonb({"limits": shown}))
    assert db.value("SELECT limits FROM keysmith.keys WHERE key_id = %s", key.key_id) == shown


def test_explain_names_the_unit(db):
    db.tenant()
    key = db.mint(limits=limits(TOKENS)).api_key

    def saw(**options):
        return next((row.outcome, row.saw) for row in db.call("explain_verify", key, **options) if row.rule == "limits")

    assert saw(weights=tokens(30)) == ("pass", "tokens: 1000 tokens left; the request counts for 30")
    assert saw(weights=tokens(3000)) == ("refuse", "tokens: 1000 tokens left; the request counts for 3000")
    assert db.verify(key, weights=tokens(1000)).ok


def test_headers_name_the_unit(db):
    db.tenant()
    key = db.mint(limits=Jsonb([TOKENS | {"window": "1 minute"}])).api_key
    for function, arguments in (("verify", (key,)), ("serve", (Jsonb({"x-api-key": key}), "GET", "/"))):
        answer = db.one(function, *arguments, weights=tokens(100))
        headers = answer.headers if function == "serve" else db.value(
            "SELECT keysmith.response_headers(keysmith.verify(%s, weights => '{\"tokens\": 100}'))", key)
        assert headers["RateLimit-Policy"] == '"tokens";q=1000;qu="tokens";w=60'


def test_exact_in_two_units_with_many_sessions(db, connect, database):
    """Neither unit gives more than its burst and what came back, and the clients know what passed."""
    db.tenant()
    rate = {"calls": 50, "tokens": 3000}
    key = db.mint(limits=Jsonb([{"name": unit, "unit": unit, "limit": rate[unit], "window": "1 second"} for unit in rate])).api_key
    sessions = [database(connect()) for _ in range(SESSIONS)]
    began = time.monotonic()

    def ask(n):
        taken = {"calls": 0, "tokens": 0}
        for turn in range(60):
            weights = {"calls": (n + turn) % 3, "tokens": (n * turn) % 150}
            if sessions[n].verify(key, weights=Jsonb(weights)).ok:
                taken = {unit: taken[unit] + weights[unit] for unit in taken}
        return taken

    with ThreadPoolExecutor(SESSIONS) as pool:
        taken = list(pool.map(ask, range(SESSIONS)))
    elapsed = time.monotonic() - began
    for unit, most in rate.items():
        total = sum(one[unit] for one in taken)
        assert most <= total <= most + most * elapsed


# Who is counted

def ask(db, key, **options):
    verdict = db.verify(key, **options)
    return verdict.limit_remaining if verdict.ok else verdict.reason


def test_each_subject_is_counted(db):
    db.tenant()
    key = db.mint(limits=limits(CALLS | {"limit": 2, "per": "subject"})).api_key
    assert [ask(db, key, subject=s) for s in ("ann", "bob", "ann", "ann", "bob", "Ann")] == [1, 1, 0, "rate_limited", 0, 1]
    # All without a subject are counted together.
    assert [ask(db, key) for _ in range(3)] == [1, 0, "rate_limited"]


def test_each_address_is_counted(db):
    db.tenant()
    key = db.mint(limits=limits(CALLS | {"limit": 2, "per": "address"})).api_key
    asked = ["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::ffff:9", "2001:db8::2", "2001:db8:0:1::1"]
    assert [ask(db, key, ip=ip) for ip in asked] == [1, 0, "rate_limited", 1, 1, 0, "rate_limited", 1]
    assert [ask(db, key) for _ in range(3)] == [1, 0, "rate_limited"]
    headers = Jsonb({"x-api-key": key})
    assert [db.one("authenticate", headers, "GET", "/", ip="192.0.2.2").reason for _ in range(2)] == ["ok", "rate_limited"]


def test_each_member_is_counted(db):
    db.tenant(limits=limits(CALLS | {"limit": 2, "per": "member"}))
    db.call("define_role", "default", "r", ["a"])
    for member in ("ann", "bob"):
        db.call("set_member", "acme", member, "r")
    anns, other, bobs, nobodys = (db.mint(owner=owner).api_key for owner in ("ann", "ann", "bob", None))
    assert [ask(db, key) for key in (anns, other, anns, bobs, nobodys)] == [1, 0, "rate_limited", 1, 1]


def test_the_keys_that_a_key_makes_share_its_limit_whoever_owns_them(db):
    db.tenant()
    db.call("define_role", "default", "r", ["*"])
    parent = db.mint(limits=limits(CALLS | {"limit": 2, "per": "member"})).api_key
    keys = [parent]
    for member in ("ann", "bob"):
        db.call("set_member", "acme", member, "r")
    db.rows("BEGIN")
    assert db.verify(parent, sign_in=True, weight=0).ok
    keys += [db.mint(owner=member).api_key for member in ("ann", "bob")]
    db.rows("COMMIT")
    assert [ask(db, key) for key in keys] == [1, 0, "rate_limited"]


def test_a_keyspace_counts_each_tenant_or_key(db):
    for per, left in (("tenant", [1, 0, 1]), ("key", [1, 1, 1])):
        db.call("create_keyspace", per, limits=limits(CALLS | {"limit": 2, "per": per}))
        for tenant in ("acme", "globex"):
            db.tenant(tenant, keyspace=per)
        keys = [db.mint(tenant, keyspace=per).api_key for tenant in ("acme", "acme", "globex")]
        assert [ask(db, key, keyspace=per) for key in keys] == left


def test_a_tenant_counts_each_key(db):
    db.tenant(limits=limits(CALLS | {"limit": 2, "per": "key"}))
    keys = [db.mint().api_key for _ in range(2)]
    assert [ask(db, key) for key in (*keys, *keys, *keys)] == [1, 1, 0, 0, "rate_limited", "rate_limited"]


@pytest.mark.parametrize("per", ["key", "tenant"])
def test_a_key_counts_nothing_larger_than_itself(db, per):
    db.tenant()
    keys = [db.mint(limits=limits(CALLS | {"limit": 2, "per": per})).api_key for _ in range(2)]
    assert [ask(db, key) for key in (*keys, *keys, *keys)] == [1, 1, 0, 0, "rate_limited", "rate_limited"]


def test_subjects_of_tenants_are_others(db):
    db.call("create_keyspace", "k", limits=limits(CALLS | {"limit": 1, "per": "subject"}))
    for tenant in ("acme", "globex"):
        db.tenant(tenant, keyspace="k")
    keys = [db.mint(tenant, keyspace="k").api_key for tenant in ("acme", "acme", "globex")]
    assert [ask(db, key, keyspace="k", subject="ann") for key in keys] == [0, "rate_limited", 0]


def test_an_address_is_the_same_for_all_tenants_of_a_keyspace(db):
    db.call("create_keyspace", "k", limits=limits(CALLS | {"limit": 1, "per": "address"}))
    for tenant in ("acme", "globex"):
        db.tenant(tenant, keyspace="k")
    keys = [db.mint(tenant, keyspace="k").api_key for tenant in ("acme", "globex")]
    assert [ask(db, key, keyspace="k", ip="192.0.2.1") for key in keys] == [0, "rate_limited"]


def test_a_route_counts_each_subject_of_all_keys_of_a_tenant(db):
    db.tenant()
    db.call("define_route", "default", "GET", "/x", [], limits=limits(CALLS | {"limit": 1, "per": "subject"}))
    keys = [db.mint().api_key for _ in range(2)]

    def reason(key, subject):
        return db.one("authenticate", Jsonb({"x-api-key": key}), "GET", "/x", subject=subject).reason

    assert [reason(keys[0], "ann"), reason(keys[1], "ann"), reason(keys[1], "bob")] == ["ok", "rate_limited", "ok"]


def test_a_key_gives_no_limit_that_counts_something_else(db):
    """A customer's key can neither loosen its own limit nor that of a key that it makes."""
    db.tenant()
    db.call("alter_keyspace", "default", Jsonb({"managed_by": "any_secret"}))
    own = {"name": "a", "limit": 5, "window": "366 days"}
    key = db.mint(limits=Jsonb([own]))
    with db.session.transaction():
        assert db.verify(key.api_key, sign_in=True, weight=0).ok
        child = db.mint(limits=Jsonb([{"name": "b", "limit": 5, "window": "366 days", "per": "subject"}])).api_key
    assert [db.verify(child, subject=str(n)).reason for n in range(6)] == ["ok"] * 5 + ["rate_limited"]
    for wider in ({"per": "subject"}, {"per": "key"}, {"unit": "tokens"}):
        with db.session.transaction(force_rollback=True):
            assert db.verify(key.api_key, sign_in=True, weight=0).ok
            db.refused("KS403", "alter_key", key.key_id, Jsonb({"limits": [own | wider]}))


# Crowds

def test_a_crowd_of_subjects_takes_no_room_of_others():
    with running("crowd", keysmith__max_buckets=256) as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        each = limits(CALLS | {"per": "subject"}, {"name": "all", "limit": 10**6})
        for tenant in ("acme", "globex", "hooli"):
            db.tenant(tenant)
        crowded = [db.mint(tenant, limits=each).api_key for tenant in ("acme", "globex")]
        for key in crowded:
            reasons = [db.reason(key, subject=f"subject {n}") for n in range(300)]
            assert set(reasons) == {"ok", "limits_unavailable"} and 30 <= reasons.count("ok") <= 128
            # Who is counted already goes on.
            assert db.reason(key, subject="subject 0") == "ok"
        assert db.value("SELECT buckets FROM keysmith.limit_status()") <= 128 + 2
        # The tenant's other keys, and other tenants.
        for tenant in ("acme", "globex", "hooli"):
            for _ in range(5):
                assert db.reason(db.mint(tenant, limits=limit(5)).api_key) == "ok"
        db.session.close()


def test_a_site_takes_no_room_of_other_addresses():
    """Whoever has a /48 of IPv6 has 65,536 networks, and each is counted."""
    with running("sites", keysmith__max_buckets=1024) as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        key = db.mint(limits=limits(CALLS | {"per": "address"})).api_key
        asked = "SELECT (keysmith.verify(%s, ip => ip::inet)).reason FROM unnest(%s::text[]) AS ip"

        def reasons(addresses):
            return [reason for reason, in db.rows(asked, key, addresses)]

        assert reasons(["2001:db8:1::1"]) == ["ok"]
        flood = reasons([f"2001:db8:666:{n:x}::1" for n in range(2000)])
        assert set(flood) == {"ok", "limits_unavailable"} and 50 <= flood.count("ok") <= 100
        # One that is counted already, other sites, and those of IPv4.
        assert reasons(["2001:db8:1::1", *[f"2001:db8:{n:x}::1" for n in range(2, 12)]]) == ["ok"] * 11
        assert reasons([f"192.0.2.{n}" for n in range(50)]) == ["ok"] * 50
        db.session.close()
