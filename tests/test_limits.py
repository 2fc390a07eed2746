"""Rate limits: exact under concurrency, without writing, and never open for lack of room."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psycopg
import pytest
from psycopg.types.json import Jsonb

from cluster import running
from conftest import session, wait_until

SESSIONS = 16


def limit(calls, window="1 hour", name="calls", **more):
    return Jsonb([{"name": name, "limit": calls, "window": window} | more])


def outcomes(db, key, times, **options):
    return [db.reason(key, **options) for _ in range(times)]


def passed(db, key, times, **options):
    return outcomes(db, key, times, **options).count("ok")


def hammer(sessions, key, until, **options):
    """Calls from many sessions together, for a time or a number of calls each."""
    barrier = threading.Barrier(len(sessions) + 1)

    def calls(db):
        count = 0
        barrier.wait()
        if isinstance(until, int):
            return sum(db.verify(key, **options).ok for _ in range(until))
        end = time.monotonic() + until
        while time.monotonic() < end:
            count += db.verify(key, **options).ok
        return count

    with ThreadPoolExecutor(len(sessions)) as pool:
        running = [pool.submit(calls, db) for db in sessions]
        barrier.wait()
        began = time.monotonic()
        total = sum(one.result() for one in running)
        return total, time.monotonic() - began


# Exactness

def test_exactly_the_burst_passes_of_many_sessions(db, connect, database):
    """Limits of key, tenant and keyspace together: the narrowest is exact to the call."""
    db.call("create_keyspace", "k", limits=limit(1000))
    db.tenant(keyspace="k", limits=limit(150))
    keys = [db.mint(keyspace="k", limits=limit(100)).api_key for _ in range(2)]
    sessions = [database(connect()) for _ in range(SESSIONS)]
    assert hammer(sessions, keys[0], 20, keyspace="k")[0] == 100
    assert hammer(sessions, keys[1], 20, keyspace="k")[0] == 50


def test_never_more_than_the_burst_and_what_came_back(db, connect, database):
    db.tenant()
    key = db.mint(limits=limit(200, "1 second", burst=50)).api_key
    sessions = [database(connect()) for _ in range(SESSIONS)]
    total, elapsed = hammer(sessions, key, 2.0)
    assert 50 < total <= 50 + 200 * elapsed


def test_a_refused_call_takes_nothing_from_any_limit(db):
    """A call that one of its limits refuses is not counted by the others."""
    db.tenant(limits=limit(10, name="tenant's"))
    narrow = db.mint(limits=limit(2)).api_key
    wide = db.mint(limits=limit(50)).api_key
    assert passed(db, narrow, 10) == 2
    assert passed(db, wide, 20) == 8
    verdict = db.verify(wide)
    assert (verdict.reason, verdict.limit_name) == ("rate_limited", "tenant's")


def test_only_what_is_good_otherwise_is_counted(db):
    db.tenant()
    key = db.mint(limits=limit(3), scopes=["a"], allowlist=["10.0.0.0/8"])
    for _ in range(5):
        assert db.reason(key.api_key, scopes=["b"], ip="10.0.0.1") == "insufficient_scope"
        assert db.reason(key.api_key, ip="11.0.0.1") == "ip_not_allowed"
        db.call("explain_verify", key.api_key, ip="10.0.0.1")
    assert passed(db, key.api_key, 5, ip="10.0.0.1") == 3
    # The first rule that refuses gives the reason, even without calls left.
    assert db.reason(key.api_key, scopes=["b"], ip="10.0.0.1") == "insufficient_scope"


# Limits in the verdict

def test_the_verdict_tells_which_limit_and_how_long(db):
    db.tenant()
    key = db.mint(limits=Jsonb([{"name": "wide", "limit": 100, "window": "1 day"},
                                {"name": "narrow", "limit": 2, "window": "2 hours"}])).api_key
    first, second, third = (db.verify(key) for _ in range(3))
    assert (first.limit_name, first.limit_remaining, first.retry_after) == ("narrow", 1, None)
    assert (second.ok, second.limit_remaining) == (True, 0)
    assert (third.ok, third.status, third.code, third.reason) == \
        (False, 429, "rate_limited", "rate_limited")
    assert (third.limit_name, third.limit_remaining) == ("narrow", 0)
    assert timedelta(minutes=50) < third.retry_after <= timedelta(hours=1)
    assert third.tenant == "acme" and third.key_id is not None


def test_a_call_after_retry_after_passes_and_none_before(db):
    db.tenant()
    key = db.mint(limits=limit(1, "400 ms")).api_key

    def refusal():
        """The time of the request, and the wait that the verdict gives."""
        while True:
            asked, verdict = time.monotonic(), db.verify(key)
            if not verdict.ok:
                assert verdict.reason == "rate_limited"
                return asked, verdict.retry_after.total_seconds()

    for _ in range(3):
        asked, wait = refusal()
        wait_until(lambda: db.verify(key).ok)
        assert time.monotonic() >= asked + wait
        _, wait = refusal()
        time.sleep(wait)
        assert db.verify(key).ok


def test_the_longest_wait_of_all_limits_is_told(db):
    db.tenant()
    key = db.mint(limits=Jsonb([{"name": "short", "limit": 1, "window": "1 minute"},
                                {"name": "long", "limit": 1, "window": "1 hour"}])).api_key
    assert db.verify(key).ok
    refused = db.verify(key)
    assert refused.limit_name == "long"
    assert timedelta(minutes=59) < refused.retry_after <= timedelta(hours=1)


def test_without_limits_nothing_is_told(db):
    db.tenant()
    verdict = db.verify(db.mint().api_key)
    assert (verdict.limit_name, verdict.limit_remaining, verdict.retry_after) == (None,) * 3


def test_a_keyspace_has_its_own_words_for_it(db):
    db.call("create_keyspace", "k", codes=Jsonb({"rate_limited": {"code": "slow_down", "status": 420}}))
    db.tenant(keyspace="k")
    key = db.mint(keyspace="k", limits=limit(1)).api_key
    assert db.verify(key, keyspace="k").ok
    verdict = db.verify(key, keyspace="k")
    assert (verdict.status, verdict.code, verdict.reason) == (420, "slow_down", "rate_limited")


# Weights

def test_weights(db):
    db.tenant()
    key = db.mint(limits=limit(10)).api_key
    assert db.verify(key, weight=4).limit_remaining == 6
    # A call that weighs more than is left waits; one that weighs more than the burst never
    # passes.
    heavy = db.verify(key, weight=7)
    assert (heavy.reason, heavy.limit_remaining) == ("rate_limited", 6)
    assert timedelta(minutes=5) < heavy.retry_after <= timedelta(minutes=6)
    assert (db.verify(key, weight=11).reason, db.verify(key, weight=11).retry_after) == ("rate_limited", None)
    assert db.verify(key, weight=6).limit_remaining == 0
    # A call of weight 0 is free.
    assert db.verify(key, weight=0).limit_remaining == 0
    assert db.reason(key) == "rate_limited"


def test_routes_have_weights_and_limits_of_their_own(db):
    db.call("define_route", "default", "GET", "/plain", [])
    db.call("define_route", "default", "GET", "/heavy", [], weight=5)
    db.call("define_route", "default", "GET", "/free", "", weight=0)
    db.call("define_route", "default", "GET", "/own", [], limits=limit(3))
    db.call("define_route", "default", "GET", "/more", [], limits=limit(2, name="more"))
    db.tenant()
    one, other = (db.mint(limits=limit(10)).api_key for _ in range(2))

    def ask(key, path, **options):
        return db.one("authenticate", Jsonb({"x-api-key": key}), "GET", path, **options)

    assert ask(one, "/plain").limit_remaining == 9
    assert ask(one, "/heavy").limit_remaining == 4
    assert ask(one, "/free").limit_remaining == 4
    # A limit of the same name replaces the key's, and counts separately.
    assert [ask(one, "/own").ok for _ in range(4)] == [True] * 3 + [False]
    assert ask(one, "/plain").limit_remaining == 3
    assert [ask(other, "/own").ok for _ in range(4)] == [True] * 3 + [False]
    # A limit of another name applies in addition.
    assert [ask(one, "/more").ok for _ in range(3)] == [True, True, False]
    refused = ask(one, "/more")
    assert (refused.limit_name, refused.limit_remaining) == ("more", 0)
    assert ask(one, "/plain").limit_remaining == 0
    assert ask(one, "/free").ok and not ask(one, "/plain").ok
    # The caller's weight replaces the route's.
    assert ask(other, "/heavy", weight=1).limit_remaining == 9
    assert ask(other, "/nowhere", weight=2).limit_remaining == 7
    shown = db.rows("SELECT pattern, weight, limits FROM keysmith.routes ORDER BY pattern")
    assert [row.weight for row in shown] == [0, 5, 1, 1, 1]
    assert shown[3].limits == [{"name": "calls", "limit": 3, "window": "1 hour", "burst": 3}]


# Calls that are counted together

def test_live_and_test_keys_are_counted_apart(db):
    db.call("create_keyspace", "k", limits=limit(3, name="all"))
    db.tenant(keyspace="k", limits=limit(2, name="tenant's"))
    live, test = (db.mint(keyspace="k", environment=e).api_key for e in ("live", "test"))
    for key in (live, test):
        assert passed(db, key, 5, keyspace="k") == 2


def test_tenants_and_keyspaces_are_counted_apart(db):
    for keyspace in ("one", "two"):
        db.call("create_keyspace", keyspace, limits=limit(3, name="all"))
        for tenant in ("a", "b"):
            db.tenant(tenant, keyspace=keyspace, limits=limit(2, name="tenant's"))
    keys = {(keyspace, tenant): [db.mint(tenant, keyspace=keyspace).api_key for _ in range(2)]
            for keyspace in ("one", "two") for tenant in ("a", "b")}
    for keyspace in ("one", "two"):
        # Both keys of a tenant share its limit, and all tenants the keyspace's.
        assert [db.reason(key, keyspace=keyspace) for key in keys[keyspace, "a"] * 2] == \
            ["ok"] * 2 + ["rate_limited"] * 2
        assert [db.reason(key, keyspace=keyspace) for key in keys[keyspace, "b"]] == \
            ["ok", "rate_limited"]


def test_databases_are_counted_apart(cluster, db, dbname):
    db.tenant()
    key = db.mint(limits=limit(2)).api_key
    db.session.close()
    copy = f"{dbname}_copy"
    cluster.execute(f"CREATE DATABASE {copy} TEMPLATE {dbname}")
    try:
        for name in (dbname, copy):
            there = session(cluster, name)
            assert passed(there, key, 4) == 2
            there.session.close()
    finally:
        cluster.execute(f"DROP DATABASE {copy} WITH (FORCE)")


def test_verify_many_counts_each(db):
    db.tenant()
    key, other = (db.mint(limits=limit(2)).api_key for _ in range(2))
    answers = db.call("verify_many", [key, key, other, key])
    assert [verdict.reason for verdict in answers] == ["ok", "ok", "ok", "rate_limited"]


def test_a_digest_counts_as_its_key(db):
    db.tenant()
    key = db.mint(limits=limit(2)).api_key
    ask = "SELECT reason FROM keysmith.verify_digest(sha256(%s::bytea), weight => 2)"
    assert db.value(ask, key) == "ok"
    assert db.reason(key) == "rate_limited"


# Changes

def test_what_becomes_of_limits_when_keys_are_changed(db):
    db.tenant()
    key = db.mint(limits=limit(10))
    assert passed(db, key.api_key, 6) == 6
    # A higher limit helps immediately; under a lower one, used calls stay used.
    db.call("alter_key", key.key_id, Jsonb({"limits": [{"name": "calls", "limit": 20, "window": "1 hour"}]}))
    assert db.verify(key.api_key).limit_remaining == 13
    (altered,) = db.call("alter_key", key.key_id, Jsonb(
        {"limits": [{"name": "calls", "limit": 5, "window": "01:00:00", "burst": 6}]}))
    assert altered.limits == [{"name": "calls", "limit": 5, "window": "1 hour", "burst": 6}]
    refused = db.verify(key.api_key)
    assert (refused.reason, refused.limit_remaining) == ("rate_limited", 0)
    assert refused.retry_after <= timedelta(minutes=12)
    # A successor has the same limits, and the used calls of its predecessor.
    successor = db.one("rotate", key.key_id, "1 hour")
    assert db.reason(successor.api_key) == "rate_limited"
    assert db.reason(key.api_key) == "rate_limited"
    (listed,) = [row for row in db.call("list_keys", "acme") if row.key_id == successor.key_id]
    assert listed.limits == altered.limits
    (free,) = db.call("alter_key", successor.key_id, Jsonb({"limits": None}))
    assert free.limits is None and db.verify(successor.api_key).limit_name is None


def day(limit, burst=None):
    return Jsonb({"limits": [{"name": "d", "limit": limit, "window": "1 day"}
                             | ({"burst": burst} if burst else {})]})


def test_a_limit_that_was_lowered_for_a_while_forgets_nothing(db):
    db.tenant()
    db.call("alter_tenant", "acme", day(100))
    key = db.mint().api_key
    assert passed(db, key, 150) == 100
    db.call("alter_tenant", "acme", day(10))
    refused = db.verify(key)
    assert (refused.reason, refused.limit_remaining) == ("rate_limited", 0)
    # It admits calls again when no more than nine are used.
    assert timedelta(hours=21) < refused.retry_after < timedelta(hours=22)
    db.call("alter_tenant", "acme", day(100))
    assert passed(db, key, 150) == 0


def test_no_key_resets_a_limit_by_lowering_it(db):
    db.tenant()
    limited, other = db.mint(limits=Jsonb(day(100).obj["limits"])), db.mint()
    assert passed(db, limited.api_key, 150) == 100
    for changes in (day(100, 1), day(100)):
        with db.session.transaction():
            assert db.verify(other.api_key, sign_in=True, weight=0).ok
            db.call("alter_key", limited.key_id, changes)
        assert passed(db, limited.api_key, 150) == 0


def test_no_limits_are_none(db):
    db.tenant(limits=Jsonb([]))
    db.call("define_route", "default", "GET", "/x", [], limits=Jsonb([]))
    assert db.verify(db.mint(limits=Jsonb([])).api_key).limit_name is None
    assert db.rows("SELECT limits FROM keysmith.routes") == [(None,)]


def test_limits_of_tenants_and_keyspaces_can_be_changed(db):
    db.tenant()
    key = db.mint().api_key
    for act, name in [
        (lambda value: db.call("alter_tenant", "acme", Jsonb({"limits": value})), "t"),
        (lambda value: db.call("alter_keyspace", "default", Jsonb({"limits": value})), "k"),
    ]:
        act([{"name": name, "limit": 1, "window": "1 hour"}])
        assert [db.verify(key).limit_name for _ in range(2)] == [name] * 2
        assert db.reason(key) == "rate_limited"
        act(None)
        assert db.verify(key).limit_name is None


def test_a_regenerated_and_an_imported_key_are_limited_too(db):
    db.tenant()
    db.call("import_key", "acme", b"x" * 32, limits=limit(1))
    ask = "SELECT reason FROM keysmith.verify_digest(%s)"
    assert [db.value(ask, b"x" * 32) for _ in range(2)] == ["ok", "rate_limited"]
    assert db.reason(db.one("regenerate", "acme").api_key) == "rate_limited"


def test_a_plan_may_lack_limits(db):
    db.call("create_keyspace", "k", plan_features=Jsonb({"limits": ["pro"]}))
    db.tenant("free", keyspace="k")
    db.tenant("paying", keyspace="k", plan="pro")
    db.refused("KS403", "mint", "free", keyspace="k", limits=limit(1))
    assert db.mint("paying", keyspace="k", limits=limit(1))
    key = db.mint("free", keyspace="k")
    db.refused("KS403", "alter_key", key.key_id, Jsonb({"limits": [
        {"name": "x", "limit": 1, "window": "1 s"}]}))


# Without writing

@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_read_only_transactions_are_limited_and_write_nothing(db, connect, database, isolation):
    db.tenant()
    key = db.mint(limits=limit(3)).api_key
    other = database(connect(autocommit=False))
    other.rows(f"SET TRANSACTION ISOLATION LEVEL {isolation}, READ ONLY")
    assert passed(other, key, 5) == 3
    plan = "EXPLAIN (ANALYZE, WAL, FORMAT JSON) SELECT * FROM keysmith.verify(%s)"
    assert other.value(plan, key)[0]["Plan"].get("WAL Records", 0) == 0
    assert other.value("SELECT pg_current_xact_id_if_assigned()") is None
    # A call counts even if its transaction is rolled back.
    other.session.rollback()
    assert db.reason(key) == "rate_limited"


def test_a_standby_limits_by_itself():
    with running("primary", max_wal_senders=4) as primary:
        standby = primary.backup("standby", port=5433)
        try:
            standby.start()
            db = session(primary)
            db.rows("CREATE EXTENSION keysmith")
            db.tenant()
            key = db.mint(limits=limit(3)).api_key
            db.call("wait_for_replay")
            there = session(standby)
            assert there.value("SELECT pg_is_in_recovery()")
            assert passed(there, key, 5) == 3
            assert passed(db, key, 5) == 3
        finally:
            standby.remove()


def test_a_restart_refills_and_says_so():
    with running("restart") as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        key = db.mint(limits=limit(2)).api_key
        assert passed(db, key, 3) == 2
        before = db.one("limit_status")
        cluster.restart()
        db = session(cluster)
        after = db.one("limit_status")
        assert before.buckets == 1 and after.buckets == 0
        assert before.since < after.since
        assert passed(db, key, 3) == 2


def test_without_preload_a_limited_key_is_refused():
    with running("unpreloaded", preload=True) as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.call("create_keyspace", "k", limits=limit(5))
        db.tenant(keyspace="k")
        db.tenant()
        db.tenant("limited", limits=limit(5))
        db.call("define_route", "default", "GET", "/x", [], limits=limit(5))
        plain = db.mint()
        limited = db.mint(limits=limit(5)).api_key
        of_tenant = db.mint("limited").api_key
        of_keyspace = db.mint(keyspace="k").api_key
        cluster.configure(shared_preload_libraries="")
        cluster.restart()
        db = session(cluster)
        for key, keyspace in [(limited, "default"), (of_tenant, "default"), (of_keyspace, "k")]:
            verdict = db.verify(key, keyspace=keyspace)
            assert (verdict.ok, verdict.status, verdict.reason, verdict.retry_after) == \
                (False, 429, "limits_unavailable", None)
        headers = Jsonb({"x-api-key": plain.api_key})
        assert db.one("authenticate", headers, "GET", "/x").reason == "limits_unavailable"
        assert db.one("authenticate", headers, "GET", "/y").ok
        assert db.verify(plain.api_key).ok
        steps = db.call("explain_verify", limited)
        assert [step.reason for step in steps if step.outcome == "refuse"] == ["limits_unavailable"]
        limits = [{"name": "x", "limit": 1, "window": "1 s"}]
        for function, arguments in [
            ("mint", ("acme",)), ("import_key", ("acme", b"x" * 32)), ("create_tenant", ("other",)),
            ("create_keyspace", ("other",)), ("define_route", ("default", "GET", "/z", [])),
        ]:
            with pytest.raises(psycopg.Error) as error:
                db.call(function, *arguments, limits=Jsonb(limits))
            assert error.value.sqlstate == "KS503"
            assert "shared_preload_libraries" in error.value.diag.message_hint
        for function, subject in [("alter_key", plain.key_id), ("alter_tenant", "acme"),
                                  ("alter_keyspace", "default")]:
            db.refused("KS503", function, subject, Jsonb({"limits": limits}))
            # They can be removed.
            db.call(function, subject, Jsonb({"limits": None}))
        assert db.one("limit_status") == (False, *[None] * 10)


# Room

def test_a_full_table_refuses_and_lets_other_tenants_in():
    with running("full", keysmith__max_buckets="16") as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        for tenant in ("greedy", "modest", "late"):
            db.tenant(tenant)
        greedy = [db.mint("greedy", limits=limit(5)).api_key for _ in range(40)]
        reasons = [db.reason(key) for key in greedy]
        assert reasons == ["ok"] * 4 + ["limits_unavailable"] * 36
        verdict = db.verify(greedy[4])
        assert (verdict.status, verdict.code, verdict.retry_after) == (429, "rate_limited", None)
        # Limits that have a place go on, exact to the call.
        assert [passed(db, key, 10) for key in greedy[:4]] == [4] * 4
        modest = db.mint("modest", limits=limit(5)).api_key
        assert passed(db, modest, 10) == 5
        status = db.one("limit_status")
        assert (status.buckets, status.max_buckets, status.unavailable) == (5, 16, 37)
        # A call that finds room for only one of its limits takes from neither.
        both = Jsonb([{"name": f"n{n}", "limit": 2, "window": "1 hour"} for n in range(16)])
        late = db.mint("late", limits=both).api_key
        assert db.reason(late) == "limits_unavailable"
        assert db.one("limit_status").buckets == 5
        assert passed(db, db.mint("late", limits=limit(2)).api_key, 3) == 2


def test_buckets_that_are_full_again_make_room():
    with running("room", keysmith__max_buckets="16") as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        for _ in range(60):
            assert db.verify(db.mint(limits=limit(100, "10 ms")).api_key).ok
            time.sleep(0.001)  # not checked: ten times what it takes to be full again
        wait_until(lambda: db.one("limit_status").buckets == 0)


def test_unknown_keys_take_no_room(db):
    db.tenant()
    key = db.mint(limits=limit(5)).api_key
    before = db.one("limit_status").buckets
    for n in range(50):
        db.verify(f"garbage {n}")
        db.verify(key, keyspace=f"nowhere{n}")
    assert db.one("limit_status").buckets == before


def test_the_setting_is_the_servers(db):
    with pytest.raises(psycopg.Error, match="cannot be changed"):
        db.rows("SET keysmith.max_buckets = 17")


# Bad input

BAD_LIMITS = [
    {}, "x", 5, [5], [[]], [{}], [None],
    [{"name": "a", "limit": 0, "window": "1 s"}], [{"name": "a", "limit": -1, "window": "1 s"}],
    [{"name": "a", "limit": 1.5, "window": "1 s"}], [{"name": "a", "limit": "1", "window": "1 s"}],
    [{"name": "a", "limit": 1_000_000_001, "window": "1 s"}], [{"name": "a", "limit": 2**70, "window": "1 s"}],
    [{"name": "a", "limit": 1, "window": "0"}], [{"name": "a", "limit": 1, "window": "-1 s"}],
    [{"name": "a", "limit": 1, "window": "999 microseconds"}],
    [{"name": "a", "limit": 1, "window": "367 days"}], [{"name": "a", "limit": 1, "window": "1 month"}],
    [{"name": "a", "limit": 1, "window": "1 year"}], [{"name": "a", "limit": 1, "window": "soon"}],
    [{"name": "a", "limit": 1, "window": "2147483647 days"}], [{"name": "a", "limit": 1, "window": 60}],
    [{"name": "a", "limit": 1}], [{"limit": 1, "window": "1 s"}], [{"name": "a", "window": "1 s"}],
    [{"name": "a", "limit": 1, "window": "1 s", "burst": 0}],
    [{"name": "a", "limit": 1, "window": "1 s", "burst": -5}],
    [{"name": "a", "limit": 1, "window": "1 s", "brust": 5}],
    [{"name": "", "limit": 1, "window": "1 s"}], [{"name": "a\n1/1 day/1/b", "limit": 1, "window": "1 s"}],
    [{"name": "x" * 64, "limit": 1, "window": "1 s"}], [{"name": 5, "limit": 1, "window": "1 s"}],
    [{"name": "a", "limit": 1, "window": "1 s"}, {"name": "a", "limit": 2, "window": "1 s"}],
    [{"name": f"n{n}", "limit": 1, "window": "1 s"} for n in range(17)],
]


@pytest.mark.parametrize("bad", BAD_LIMITS)
def test_bad_limits_are_errors_and_change_nothing(db, bad):
    db.tenant()
    key = db.mint(limits=limit(7))
    state = ("SELECT k::text FROM keysmith_private.key k UNION ALL SELECT t::text FROM keysmith_private.tenant t "
             "UNION ALL SELECT s::text FROM keysmith_private.keyspace s "
             "UNION ALL SELECT r::text FROM keysmith_private.route r")
    before = db.rows(state)
    for function, arguments, named in [
        ("mint", ("acme",), {"limits": Jsonb(bad)}), ("create_tenant", ("x",), {"limits": Jsonb(bad)}),
        ("create_keyspace", ("x",), {"limits": Jsonb(bad)}),
        ("define_route", ("default", "GET", "/x", []), {"limits": Jsonb(bad)}),
        ("alter_key", (key.key_id, Jsonb({"limits": bad})), {}),
        ("alter_tenant", ("acme", Jsonb({"limits": bad})), {}),
        ("alter_keyspace", ("default", Jsonb({"limits": bad})), {}),
    ]:
        assert "limits" in db.refused("KS400", function, *arguments, **named)
    assert db.rows(state) == before


@pytest.mark.parametrize("window, shown", [
    ("1 s", "1 second"), ("60 s", "1 minute"), ("90 minutes", "90 minutes"), ("24:00:00", "1 day"),
    ("1 week", "7 days"), ("1 day 12 hours", "36 hours"), ("P1D", "1 day"), ("1 ms", "1 millisecond"),
    ("1500 us", "1500 microseconds"), ("366 days", "366 days"),
])
def test_windows_in_any_form(db, window, shown):
    db.tenant()
    db.mint(limits=limit(5, window, name="a/b: ünïcode ✓"))
    (key,) = db.call("list_keys", "acme")
    assert key.limits == [{"name": "a/b: ünïcode ✓", "limit": 5, "window": shown, "burst": 5}]


@pytest.mark.parametrize("weight", [-1, -2147483648, 10**9 + 1, 2147483647])
def test_bad_weights_are_errors(db, weight):
    db.tenant()
    key = db.mint(limits=limit(2)).api_key
    assert "weight" in db.refused("KS400", "verify", key, weight=weight)
    assert "weight" in db.refused("KS400", "verify_digest", b"x" * 32, weight=weight)
    route = ("default", "GET", "/x", [])
    assert "weight" in db.refused("KS400", "define_route", *route, weight=weight)
    assert "weight" in db.refused("KS400", "authenticate", Jsonb({"x-api-key": key}), "GET", "/x", weight=weight)
    assert "weight" in db.refused("KS400", "explain_verify", key, weight=weight)
    assert db.verify(key).limit_remaining == 1


def test_the_largest_numbers(db):
    db.tenant()
    most = 1_000_000_000
    key = db.mint(limits=limit(1, "366 days", burst=most)).api_key
    assert db.verify(key, weight=most).limit_remaining == 0
    assert db.verify(key, weight=most).retry_after is not None
    smaller = db.mint(limits=limit(1, "366 days", burst=most - 1)).api_key
    assert db.verify(smaller, weight=most).retry_after is None
    fast = db.mint(limits=limit(most, "1 ms")).api_key
    assert all(db.verify(fast).ok for _ in range(100))


def test_limits_that_cannot_be_read_let_nobody_in(db):
    db.tenant()
    key = db.mint(limits=limit(5)).api_key
    for text in ("nonsense", "0/1 hour/1/x", "5/1 hour/5/x\n5/1 hour/5"):
        db.rows("UPDATE keysmith_private.key SET limits = %s", text)
        assert db.reason(key) == "limits_unavailable"
