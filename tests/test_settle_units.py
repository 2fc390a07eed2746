"""`settle` with weights: limits are charged what requests used, after the answer."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from psycopg.types.json import Jsonb

from cluster import running
from conftest import session, wait_until

TOKENS = {"name": "tokens", "limit": 100, "window": "365 days", "unit": "tokens"}
CALLS = {"name": "calls", "limit": 50, "window": "365 days"}


def ask(db, key, tokens, **more):
    return db.verify(key.api_key, weights=Jsonb({"tokens": tokens}), **more)


def settle(db, request_id, **used):
    return db.value("SELECT keysmith.settle(%s, weights => %s)", request_id, Jsonb(used))


def left(db, key):
    """The tokens that are left. A request of none is not refused."""
    verdict = db.verify(key.api_key, weight=0)
    assert verdict.ok and verdict.limit_name == "tokens"
    return verdict.limit_remaining


@pytest.fixture
def key(db):
    db.tenant()
    return db.mint(limits=Jsonb([TOKENS, CALLS | {"limit": 10_000}]))


def test_what_was_not_used_comes_back_and_more_is_charged(db, connect, database, key):
    less, more = ask(db, key, 60), ask(db, key, 40)
    assert not ask(db, key, 1).ok
    assert settle(database(connect()), less.request_id, tokens=10)
    assert left(db, key) == 50
    assert settle(db, more.request_id, tokens=80) and left(db, key) == 10
    for request in (less, more):
        assert settle(db, request.request_id, tokens=0) is False
    assert left(db, key) == 10


def test_debts_refuse_those_who_count_for_the_unit(db, key):
    assert settle(db, ask(db, key, 10).request_id, tokens=300)
    assert left(db, key) == 0
    refused = ask(db, key, 1)
    assert (refused.reason, refused.limit_name, refused.limit_unit) == ("rate_limited", "tokens", "tokens")
    # Two hundred tokens come back in two years.
    assert refused.retry_after.days > 600
    assert db.verify(key.api_key).ok


@pytest.mark.parametrize("holder, per, has_debt", [
    ("keyspace", None, False), ("keyspace", "address", False), ("route", "address", False),
    ("keyspace", "subject", True), ("keyspace", "tenant", True), ("tenant", "address", True), ("route", "subject", True)])
def test_a_limit_that_tenants_share_has_no_debt(db, holder, per, has_debt):
    """Or a customer could shut out others, who come from the same address."""
    limits = Jsonb([TOKENS | ({"per": per} if per else {})])
    db.call("create_keyspace", "k", limits=limits if holder == "keyspace" else None)
    db.call("define_route", "k", "GET", "/x", [], limits=limits if holder == "route" else None)
    db.tenant(keyspace="k", limits=limits if holder == "tenant" else None)
    key = db.mint(keyspace="k").api_key

    def ask(tokens):
        return db.one("authenticate", Jsonb({"x-api-key": key}), "GET", "/x", "192.0.2.7", keyspace="k", subject="ann",
                      weights=Jsonb({"tokens": tokens}))

    assert settle(db, ask(10).request_id, tokens=300)
    refused = ask(1)
    assert (refused.reason, refused.limit_remaining) == ("rate_limited", 0)
    # A token comes back in four days, two hundred in two years.
    assert (refused.retry_after.days > 600) is has_debt and (refused.retry_after.days < 4) is not has_debt


def test_each_unit_is_settled_that_is_named(db):
    db.tenant()
    key = db.mint(limits=Jsonb([TOKENS, TOKENS | {"name": "seconds", "unit": "seconds"}, CALLS]))
    weights = Jsonb({"tokens": 90, "seconds": 80, "calls": 2})
    request_id = db.verify(key.api_key, weights=weights).request_id
    # One that the request did not name, and one that no limit has, change nothing.
    assert settle(db, request_id, tokens=20, calls=50, pages=7)

    def remaining(unit):
        one = {"tokens": 0, "seconds": 0, "calls": 0} | {unit: 1}
        verdict = db.verify(key.api_key, weights=Jsonb(one))
        return verdict.ok, verdict.limit_remaining

    assert remaining("tokens") == (True, 79)
    assert remaining("seconds") == (True, 19)
    assert remaining("calls") == (False, 0)


def test_what_time_has_refilled_is_not_given_back_again(db):
    db.tenant()
    key = db.mint(limits=Jsonb([TOKENS | {"limit": 1000, "window": "4 seconds"}]))
    held = ask(db, key, 1000).request_id

    def again():
        began = time.monotonic()
        return began if ask(db, key, 1000).ok else None

    began = wait_until(again)
    assert settle(db, held, tokens=0)
    # Nothing is there but what has come back since.
    assert left(db, key) <= 1 + (time.monotonic() - began) * 250


def test_a_unit_that_the_request_did_not_name_is_not_charged(db):
    db.tenant()
    key = db.mint(limits=Jsonb([TOKENS, TOKENS | {"name": "images", "unit": "images"}]))
    request_id = db.verify(key.api_key, weights=Jsonb({"images": 1})).request_id
    assert settle(db, request_id, tokens=70)
    assert ask(db, key, 100).ok


def test_credits_and_units_at_once(db):
    db.tenant()
    key = db.mint(credits=100, limits=Jsonb([TOKENS]))
    request_id = ask(db, key, 50, spend=50).request_id
    statement = "SELECT keysmith.settle(%s, %s, %s)"
    assert db.value(statement, request_id, 20, Jsonb({"tokens": 20}))
    assert db.value(statement, request_id, 90, Jsonb({"tokens": 90})) is False
    assert (left(db, key), db.value("SELECT credits FROM keysmith.keys")) == (80, 80)


def test_what_can_not_be_settled(db, key):
    refused = ask(db, key, 101)
    plain = db.verify(key.api_key, weight=3)
    for request_id in (refused.request_id, plain.request_id, "019ac1d0-0000-7000-8000-000000000000"):
        assert settle(db, request_id, tokens=5) is False
    known = ask(db, key, 5).request_id
    assert "spend or weights" in db.refused("KS400", "settle", known)
    for bad in ({"tokens": -1}, {"tokens": 1.5}, {"tokens": "1"}, {"tokens": 10**9 + 1}, {"A": 1}, [], 5,
                {f"unit{number}": 1 for number in range(9)}):
        assert "weights" in db.refused("KS400", "settle", known, weights=Jsonb(bad))
    assert "spend" in db.refused("KS400", "settle", known, -1, Jsonb({"tokens": 1}))
    assert settle(db, known, tokens=6)


def test_one_of_many_sessions_settles(db, connect, database):
    db.tenant()
    key = db.mint(limits=Jsonb([TOKENS | {"limit": 1000, "burst": 1000}]))
    ids = [ask(db, key, 10).request_id for _ in range(20)]
    sessions = [database(connect()) for _ in range(16)]

    def work(other):
        return sum(settle(other, request_id, tokens=4) for request_id in ids)

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(work, sessions)) == 20
    assert left(db, key) == 1000 - 20 * 4


def test_a_savepoint_and_a_prepared_transaction_do_not_undo_it(db, connect, database, key):
    other = database(connect())
    one, two, three = (ask(db, key, 20).request_id for _ in range(3))
    name = f"{db.value('SELECT current_database()')} units"
    other.rows("BEGIN; SAVEPOINT s")
    assert settle(other, one, tokens=5)
    other.rows("ROLLBACK TO s")
    assert settle(other, one, tokens=5) is False
    other.rows("COMMIT; BEGIN")
    assert settle(other, two, tokens=5)
    other.rows(f"PREPARE TRANSACTION '{name}'")
    db.rows(f"ROLLBACK PREPARED '{name}'")
    assert settle(db, two, tokens=5) is False and left(db, key) == 70
    assert settle(db, three, tokens=5) and left(db, key) == 85


def test_a_standby_settles_what_it_decided():
    """And nothing that its primary did."""
    with running("primary", max_wal_senders=4) as primary:
        standby = primary.backup("standby", port=5433)
        try:
            standby.start()
            db = session(primary)
            db.rows("CREATE EXTENSION keysmith")
            db.tenant()
            key = db.mint(limits=Jsonb([TOKENS]))
            db.call("wait_for_replay")
            there = session(standby)
            of_primary, of_standby = ask(db, key, 60), ask(there, key, 60)
            assert settle(there, of_primary.request_id, tokens=0) is False
            assert settle(there, of_standby.request_id, tokens=10) and left(there, key) == 90
            assert settle(db, of_standby.request_id, tokens=0) is False
            assert settle(db, of_primary.request_id, tokens=20) and left(db, key) == 80
        finally:
            standby.remove()


def test_limits_do_not_take_part_in_transactions(db, connect, database, key):
    other = database(connect(autocommit=False))
    request_id = ask(other, key, 60).request_id
    other.session.rollback()
    other.rows("SET TRANSACTION READ ONLY")
    assert settle(other, request_id, tokens=10)
    other.session.rollback()
    assert settle(db, request_id, tokens=10) is False and left(db, key) == 90


def test_a_verifier_settles_requests_of_its_keyspaces(cluster, dbname, db, key):
    db.call("create_keyspace", "k")
    db.tenant(keyspace="k")
    of_k = db.mint(keyspace="k", limits=Jsonb([TOKENS]))
    mine = ask(db, of_k, 5, keyspace="k").request_id
    foreign = ask(db, key, 5).request_id
    db.rows("CREATE ROLE settler LOGIN")
    try:
        db.call("grant_access", "settler", "verifier", keyspace="k")
        app = session(cluster, dbname, user="settler")
        assert [settle(app, foreign, tokens=9), settle(app, mine, tokens=9)] == [False, True]
        app.session.close()
        assert settle(db, foreign, tokens=9)
    finally:
        db.rows("DROP OWNED BY settler; DROP ROLE settler")


def test_room_is_bounded_and_what_is_lost_is_counted():
    with running("small", keysmith__max_unsettled=2) as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.rows("CREATE DATABASE another")
        db.tenant()
        key = db.mint(limits=Jsonb([TOKENS]))
        ids = [ask(db, key, 10).request_id for _ in range(3)]
        assert db.one("limit_status").unsettled_lost == 1
        assert db.value("SELECT value FROM keysmith.metrics WHERE name = 'keysmith_unsettled_lost_total'") == 1
        there = session(cluster, "another")
        there.rows("CREATE EXTENSION keysmith")
        assert settle(there, ids[1], tokens=0) is False
        assert [settle(db, request_id, tokens=0) for request_id in ids] == [False, True, True]
        assert left(db, key) == 90
        request_id = ask(db, key, 10).request_id
        there.session.close()
        cluster.restart()
        db = session(cluster)
        assert settle(db, request_id, tokens=0) is False
        db.session.close()
