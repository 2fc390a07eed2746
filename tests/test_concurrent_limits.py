"""Limits of concurrent requests: exact, and free as soon as the transaction is over, however it ends."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.types.json import Jsonb

from cluster import running
from conftest import session, wait_until

SESSIONS = 16
LIMITED = "rate_limited"


def parallel(most, **more):
    return Jsonb([{"name": "parallel", "concurrent": most} | more])


@pytest.fixture
def others(db, connect, database):
    """More sessions, each in a transaction."""
    db.tenant()

    def begin(count=1):
        sessions = [database(connect()) for _ in range(count)]
        for one in sessions:
            one.rows("BEGIN")
        return sessions

    return begin


def test_it_counts_transactions_in_progress(db, others):
    key = db.mint(limits=parallel(2)).api_key
    first, second, third = others(3)
    verdict = first.verify(key)
    assert (verdict.ok, verdict.limit_name, verdict.limit_limit, verdict.limit_remaining) == (True, "parallel", 2, 1)
    assert (verdict.limit_window, verdict.limit_reset) == (None, None)
    assert second.verify(key).limit_remaining == 0
    verdict = third.verify(key)
    assert (verdict.reason, verdict.status, verdict.limit_limit, verdict.limit_remaining, verdict.retry_after) == (LIMITED, 429, 2, 0, None)
    first.rows("COMMIT")
    assert third.verify(key).ok
    # A statement of its own holds a slot as long as it runs.
    second.rows("ROLLBACK")
    assert [db.reason(key) for _ in range(5)] == ["ok"] * 5


def test_exactly_so_many_of_many_sessions(db, others):
    key = db.mint(limits=parallel(5)).api_key
    sessions = others(SESSIONS)
    barrier = threading.Barrier(SESSIONS)

    def rounds(one):
        passed = []
        for _ in range(20):
            barrier.wait()
            passed.append(one.verify(key).ok)
            barrier.wait()
            one.rows("COMMIT; BEGIN")
        return passed

    with ThreadPoolExecutor(SESSIONS) as pool:
        of_rounds = zip(*pool.map(rounds, sessions))
        assert [sum(passed) for passed in of_rounds] == [5] * 20


def test_a_transaction_has_one_slot_of_a_limit(db, others):
    db.tenant("shared", limits=parallel(1))
    one, two = [db.mint("shared").api_key for _ in range(2)]
    (other,) = others()
    assert [other.reason(key) for key in (one, one, two, two)] == ["ok"] * 4
    assert [db.reason(key) for key in (one, two)] == [LIMITED] * 2


def test_savepoints(db, others):
    key = db.mint(limits=parallel(1)).api_key
    (other,) = others()
    other.rows("SAVEPOINT a")
    assert other.verify(key).ok and db.reason(key) == LIMITED
    other.rows("ROLLBACK TO a")
    assert db.reason(key) == "ok"
    # What is released belongs to what is around it.
    other.rows("SAVEPOINT b")
    assert other.verify(key).ok
    other.rows("RELEASE b")
    assert db.reason(key) == LIMITED
    other.rows("SAVEPOINT c")
    assert other.verify(key).ok
    other.rows("ROLLBACK TO c")
    assert db.reason(key) == LIMITED
    other.rows("ROLLBACK TO a")
    assert db.reason(key) == "ok"
    other.rows("DO $$ BEGIN PERFORM keysmith.verify('" + key + "'); RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN END $$")
    assert db.reason(key) == "ok"


def test_a_failed_transaction_has_none(db, others):
    key = db.mint(limits=parallel(1)).api_key
    (other,) = others()
    assert other.verify(key).ok and db.reason(key) == LIMITED
    with pytest.raises(psycopg.errors.DivisionByZero):
        other.rows("SELECT 1 / 0")
    assert db.reason(key) == "ok"


def test_a_session_that_ends_has_none(db, others):
    key = db.mint(limits=parallel(1)).api_key
    (other,) = others()
    pid = other.value("SELECT pg_backend_pid()")
    assert other.verify(key).ok and db.reason(key) == LIMITED
    db.rows("SELECT pg_terminate_backend(%s)", pid)
    wait_until(lambda: db.reason(key) == "ok")


def test_what_else_refuses_gives_back(db, others):
    poor = db.mint(limits=parallel(1), credits=0).api_key
    spent = db.mint(limits=Jsonb([{"name": "parallel", "concurrent": 1}, {"name": "none", "limit": 1, "window": "365 days"}])).api_key
    assert db.reason(spent) == "ok"
    (other,) = others()
    assert other.reason(poor, spend=1) == "credits_exhausted"
    assert other.verify(spent).limit_name == "none"
    assert db.reason(poor) == "ok"
    assert db.verify(spent).limit_name == "none"
    # A slot from before the refusal stays.
    assert other.reason(poor) == "ok"
    assert other.reason(poor, spend=1) == "credits_exhausted"
    assert db.reason(poor) == LIMITED


def test_what_is_refused_by_it_takes_no_calls(db, others):
    key = db.mint(limits=Jsonb([{"name": "parallel", "concurrent": 1}, {"name": "calls", "limit": 2, "window": "365 days"}])).api_key
    (other,) = others()
    assert other.verify(key).ok
    assert [db.verify(key).limit_name for _ in range(5)] == ["parallel"] * 5
    other.rows("COMMIT")
    assert [db.reason(key) for _ in range(2)] == ["ok", LIMITED]


def test_what_takes_none(db, others):
    key = db.mint(limits=parallel(1)).api_key
    (other,) = others()
    assert other.verify(key, weight=0).ok
    saw = other.rows("SELECT saw FROM keysmith.explain_verify(%s) WHERE rule = 'limits'", key)
    assert saw == [("parallel: 1 concurrent transactions left; the request counts for 1",)]
    assert db.reason(key) == "ok"


def test_each_counts_for_itself(db, others):
    db.tenant("other")
    db.call("alter_keyspace", "default", Jsonb({"limits": [{"name": "parallel", "concurrent": 1, "per": "subject"}]}))
    one, two = db.mint().api_key, db.mint("other").api_key
    (other,) = others()
    assert other.verify(one, subject="ann").ok
    assert db.reason(one, subject="ann") == LIMITED
    assert db.reason(one, subject="bob") == "ok"
    assert db.reason(one) == "ok"
    # A subject belongs to its tenant.
    assert db.reason(two, subject="ann") == "ok"


def test_a_limit_that_is_lowered(db, others):
    key = db.mint(limits=parallel(3))
    sessions = others(3)
    assert [one.reason(key.api_key) for one in sessions] == ["ok"] * 3
    db.call("alter_key", key.key_id, Jsonb({"limits": [{"name": "parallel", "concurrent": 1}]}))
    for one in sessions[:2]:
        one.rows("COMMIT")
        assert db.verify(key.api_key).limit_remaining == 0 and db.reason(key.api_key) == LIMITED
    sessions[2].rows("COMMIT")
    assert db.reason(key.api_key) == "ok"


def test_a_transaction_takes_no_room_from_others(db, others):
    keys = [db.mint(limits=parallel(2)).api_key for _ in range(65)]
    (other,) = others()
    assert [other.reason(key) for key in keys] == ["ok"] * 64 + ["limits_unavailable"]
    assert [db.reason(key) for key in keys] == ["ok"] * 65
    other.rows("COMMIT; BEGIN")
    assert other.reason(keys[-1]) == "ok"


def test_how_it_is_shown(db):
    limits = [{"name": "parallel", "concurrent": 3, "per": "subject"}, {"name": "plain", "concurrent": 1000}]
    db.tenant(limits=Jsonb(limits))
    key = db.mint(limits=Jsonb(limits))
    db.call("define_route", "default", "GET", "/x", [], limits=Jsonb(limits))
    (shown,) = db.call("list_keys", "acme")
    assert shown.limits == limits
    assert db.rows("SELECT limits FROM keysmith.tenants UNION ALL SELECT limits FROM keysmith.routes") == [(limits,)] * 2
    headers = db.value("SELECT keysmith.response_headers(keysmith.verify(%s, subject => 'ann'))", key.api_key)
    assert headers["RateLimit-Policy"] == '"parallel";q=3;qu="concurrent-requests"' and headers["RateLimit"] == '"parallel";r=2'
    served = db.one("serve", Jsonb({"x-api-key": key.api_key}), "GET", "/x")
    assert served.headers["RateLimit-Policy"].startswith('"parallel";q=3;qu="concurrent-requests"')


@pytest.mark.parametrize("bad", [
    {"concurrent": 0}, {"concurrent": 1001}, {"concurrent": 1.5}, {"concurrent": "5"}, {"concurrent": -1},
    {"concurrent": 5, "limit": 5}, {"concurrent": 5, "window": "1 s"}, {"concurrent": 5, "burst": 5},
    {"concurrent": 5, "unit": "calls"}, {"concurrent": 5, "unit": "tokens"}, {"concurrent": 5, "limit": 5, "window": "1 s"},
    {"concurrent": 5, "per": "x"}, {"concurrent": None},
])
def test_bad_ones_are_errors(db, bad):
    db.tenant()
    assert "limits" in db.refused("KS400", "mint", "acme", limits=Jsonb([{"name": "a"} | bad]))


def test_a_prepared_transaction_has_none_and_a_crash_forgets_all():
    with running("prepared", max_prepared_transactions="2", restart_after_crash="on") as cluster:
        db, other = session(cluster), session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        key = db.mint(limits=parallel(1)).api_key
        db.rows("CREATE TABLE t (a int)")
        other.rows("BEGIN")
        other.rows("INSERT INTO t VALUES (1)")
        assert other.verify(key).ok and db.reason(key) == LIMITED
        other.rows("PREPARE TRANSACTION 'one'")
        assert db.reason(key) == "ok"
        db.rows("ROLLBACK PREPARED 'one'")
        other.rows("BEGIN")
        assert other.verify(key).ok
        os.kill(other.value("SELECT pg_backend_pid()"), signal.SIGKILL)

        def is_back():
            try:
                return session(cluster).reason(key) == "ok"
            except psycopg.Error:
                return False

        wait_until(is_back)


def test_a_standby_counts_by_itself():
    with running("primary", max_wal_senders=4) as primary:
        standby = primary.backup("standby", port=5433)
        try:
            standby.start()
            db = session(primary)
            db.rows("CREATE EXTENSION keysmith")
            db.tenant()
            key = db.mint(limits=parallel(1)).api_key
            db.call("wait_for_replay")
            db.rows("BEGIN")
            assert db.verify(key).ok
            there, too = session(standby), session(standby)
            there.rows("BEGIN")
            assert there.verify(key).ok and too.reason(key) == LIMITED
            there.rows("COMMIT")
            assert too.reason(key) == "ok"
        finally:
            standby.remove()
