"""`settle`: what a request really cost, charged once, after the answer."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.types.json import Jsonb

from cluster import running
from conftest import session
from test_concurrency import waits
from test_credits import balance
from test_events_after import of_credits

NIL = "00000000-0000-0000-0000-000000000000"


def settle(db, request_id, spend):
    return db.value("SELECT keysmith.settle(%s, %s)", request_id, spend)


def spent(db, key, spend):
    verdict = db.verify(key.api_key, spend=spend)
    assert verdict.ok
    return verdict.request_id


def events(db):
    return of_credits(db)


def test_the_first_settlement_counts_and_is_what_the_request_cost_in_all(db, connect, database):
    db.tenant()
    key = db.mint(credits=100)
    more, less, equal = (spent(db, key, 10) for _ in range(3))
    assert balance(db, key=key) == 70
    other = database(connect())
    assert [settle(other, more, 25), settle(db, more, 1)] == [True, False]
    assert balance(db, key=key) == 55
    assert settle(other, less, 0) and balance(db, key=key) == 65
    assert settle(other, equal, 10) and balance(db, key=key) == 65


def test_credits_may_go_below_zero_by_it(db):
    db.tenant()
    key = db.mint(credits=20)
    assert settle(db, spent(db, key, 10), 45)
    assert balance(db, key=key) == -25
    refused = db.verify(key.api_key, spend=1)
    assert (refused.reason, refused.credits_remaining) == ("credits_exhausted", -25)
    assert db.verify(key.api_key).ok
    assert db.one("add_credits", 26, key_id=key.key_id)[0] == 1
    assert db.verify(key.api_key, spend=1).ok
    huge = db.mint(credits=20)
    assert settle(db, spent(db, huge, 1), 2**63 - 1)
    assert balance(db, key=huge) == 19 - (2**63 - 2)


def test_refills_pay_debts(db):
    db.tenant()
    key = db.mint(refill=Jsonb({"amount": 10, "every": "day"}))
    assert settle(db, spent(db, key, 10), 35)
    for days, left in [(1, -15), (2, -5), (3, 5), (4, 10)]:
        db.rows("UPDATE keysmith_private.credit SET refilled_at = now() - make_interval(days => %s)", days)
        assert balance(db, key=key) == left


def test_what_a_settlement_gives_back_makes_no_new_event(db):
    """Each event comes once until credits are added or refilled."""
    db.tenant()
    key = db.mint(credits=101)
    db.call("alter_key", key.key_id, Jsonb({"credits": {"low": 100}}))

    def fall_three_times():
        for _ in range(3):
            assert settle(db, spent(db, key, 101), 0)
            assert not db.verify(key.api_key, spend=102).ok
        return [event for event, _ in events(db)]

    each = ["credits.low", "credits.exhausted"]
    assert fall_three_times() == each
    # Another threshold is told again; an unchanged one is not.
    for low, more in [(100, []), (50, ["credits.low"])]:
        db.call("alter_key", key.key_id, Jsonb({"credits": {"low": low}}))
        each = each + more
        assert fall_three_times() == each
    db.one("add_credits", 1, key_id=key.key_id)
    assert spent(db, key, 102) and [event for event, _ in events(db)] == each + ["credits.low", "credits.exhausted"]


def test_what_can_not_be_settled(db):
    db.tenant()
    key = db.mint(credits=20)
    free = db.verify(key.api_key).request_id
    refused = db.verify(key.api_key, spend=21).request_id
    old = spent(db, key, 5)
    db.rows("UPDATE keysmith_private.charge SET at = at - interval '24 hours'")
    for unknown in (NIL, free, refused, old, "019ac1d0-0000-7000-8000-000000000000"):
        assert settle(db, unknown, 5) is False
    assert balance(db, key=key) == 15
    known = spent(db, key, 5)
    for bad in (-1, None, -2**63):
        assert "spend" in db.refused("KS400", "settle", known, bad)
    assert "request_id" in db.refused("KS400", "settle", None, 5)
    assert settle(db, known, 6)


def test_a_request_gets_back_no_more_than_it_spent(db):
    db.tenant()
    key = db.mint(credits=20)
    others = [spent(db, key, 5) for _ in range(2)]
    request_id = spent(db, key, 3)
    assert settle(db, request_id, 0) and balance(db, key=key) == 10
    assert [settle(db, request_id, 0) for _ in range(3)] == [False] * 3
    assert balance(db, key=key) == 10
    assert settle(db, others[0], 0) and balance(db, key=key) == 15


def test_a_request_is_settled_within_a_day(db):
    db.tenant()
    key = db.mint(credits=20)
    recent, old = spent(db, key, 5), spent(db, key, 5)
    for request_id, age in [(recent, "23:59:00"), (old, "24:00:01")]:
        db.rows("UPDATE keysmith_private.charge SET at = now() - %s::interval WHERE request_id = %s", age, request_id)
    assert [settle(db, request_id, 6) for request_id in (recent, old)] == [True, False]


def test_the_purse_that_paid_is_charged_whatever_became_of_the_key(db):
    db.tenant(credits=Jsonb(100))
    keys = [db.mint() for _ in range(3)]
    ids = [spent(db, key, 10) for key in keys]
    db.call("revoke", keys[0].key_id, "test")
    db.call("rotate", keys[1].key_id, "1 hour")
    # The key has credits of its own from now on.
    db.call("add_credits", 5, keys[2].key_id)
    assert [settle(db, request_id, 11) for request_id in ids] == [True] * 3
    assert (balance(db, tenant="acme"), balance(db, key=keys[2])) == (67, 5)
    # Credits that were taken away owe nothing.
    last = spent(db, keys[1], 10)
    db.call("alter_tenant", "acme", Jsonb({"credits": None}))
    assert settle(db, last, 50) and not settle(db, last, 50)


def test_a_dropped_keyspace_has_no_requests(db):
    db.call("create_keyspace", "k")
    db.tenant(keyspace="k")
    key = db.mint(keyspace="k", credits=10)
    request_id = db.verify(key.api_key, keyspace="k", spend=1).request_id
    db.call("drop_keyspace", "k", True)
    assert settle(db, request_id, 5) is False
    assert db.rows("SELECT FROM keysmith_private.charge") == []


def test_it_goes_with_its_transaction(db, connect, database):
    db.tenant()
    key = db.mint(credits=20)
    other = database(connect(autocommit=False))
    gone = other.verify(key.api_key, spend=5).request_id
    # The request has not happened yet for others.
    assert settle(db, gone, 6) is False
    assert settle(other, gone, 6)
    other.session.rollback()
    assert settle(db, gone, 6) is False and balance(db, key=key) == 20
    request_id = spent(db, key, 5)
    assert settle(other, request_id, 6)
    other.session.rollback()
    assert settle(db, request_id, 7) and balance(db, key=key) == 13


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_it_reads_what_is_committed(db, connect, database, isolation):
    db.tenant()
    key = db.mint(credits=20)
    other = database(connect(autocommit=False))
    other.rows(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
    other.rows("SELECT count(*) FROM keysmith.keys")
    one, two = spent(db, key, 5), spent(db, key, 5)
    assert settle(db, one, 6)
    assert [settle(other, one, 9), settle(other, two, 7)] == [False, True]
    other.session.commit()
    assert balance(db, key=key) == 7


def test_it_needs_to_write(db, connect, database):
    db.tenant()
    request_id = spent(db, db.mint(credits=20), 5)
    other = database(connect(autocommit=False))
    other.rows("SET TRANSACTION READ ONLY")
    assert "nothing can be written" in other.refused("KS409", "settle", request_id, 5)


def test_one_of_many_sessions_settles(db, connect, database):
    db.tenant(credits=Jsonb(10_000))
    keys = [db.mint() for _ in range(4)]
    ids = [spent(db, keys[number % 4], 10) for number in range(20)]
    sessions = [database(connect()) for _ in range(16)]
    for other in sessions:
        other.rows("SET keysmith.spend_timeout = '60 s'")

    def work(other):
        won = 0
        for request_id in ids:
            won += settle(other, request_id, 15)
            assert other.verify(keys[0].api_key, spend=1).ok
        return won

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(work, sessions)) == 20
    assert balance(db, tenant="acme") == 10_000 - 20 * 15 - 16 * 20


def test_it_waits_for_whoever_settles_and_not_for_ever(db, connect, database):
    db.tenant()
    key = db.mint(credits=20)
    request_id = spent(db, key, 5)
    first, second = database(connect(autocommit=False)), database(connect())
    for ending, expected in [("rollback", True), ("commit", False)]:
        request_id = spent(db, key, 2)
        assert settle(first, request_id, 3)
        second.rows("SET keysmith.spend_timeout = 0")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            settle(second, request_id, 3)
        second.rows("SET keysmith.spend_timeout = '60 s'")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(settle, second, request_id, 3)
            waits(db)
            getattr(first.session, ending)()
            assert waiting.result(60) is expected


def test_a_verifier_settles_requests_of_its_keyspaces(cluster, dbname, db):
    db.call("create_keyspace", "k")
    db.tenant()
    db.tenant(keyspace="k")
    mine = db.verify(db.mint(keyspace="k", credits=9).api_key, keyspace="k", spend=1).request_id
    foreign = spent(db, db.mint(credits=9), 1)
    db.rows("CREATE ROLE settler LOGIN")
    try:
        db.call("grant_access", "settler", "verifier", keyspace="k")
        app = session(cluster, dbname, user="settler")
        assert [settle(app, foreign, 2), settle(app, mine, 2)] == [False, True]
        app.session.close()
        assert settle(db, foreign, 2)
    finally:
        db.rows("DROP OWNED BY settler; DROP ROLE settler")


def test_a_session_that_spends_and_settles_waits_for_nobody_who_waits_for_it(db, connect, database):
    """One settles the request that the other, which holds the credits, settles too."""
    db.tenant()
    key = db.mint(credits=100)
    request_id = spent(db, key, 5)
    spending, settling = database(connect(autocommit=False)), database(connect())
    for other in (spending, settling):
        other.rows("SET keysmith.spend_timeout = '60 s'")
    spent(spending, key, 1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(settle, settling, request_id, 7)
        waits(db)
        assert settle(spending, request_id, 8)
        spending.session.commit()
        assert waiting.result(60) is False
    assert balance(db, key=key) == 100 - 1 - 8


def test_in_a_savepoint(db, connect, database):
    db.tenant()
    key = db.mint(credits=20)
    other = database(connect(autocommit=False))
    other.rows("SAVEPOINT s")
    request_id = spent(other, key, 5)
    assert settle(other, request_id, 6)
    other.rows("ROLLBACK TO s")
    assert settle(other, request_id, 6) is False
    request_id = spent(other, key, 5)
    other.rows("SAVEPOINT s")
    assert settle(other, request_id, 6)
    other.rows("ROLLBACK TO s")
    assert [settle(other, request_id, 7), settle(other, request_id, 7)] == [True, False]
    other.session.commit()
    assert balance(db, key=key) == 13


@pytest.mark.parametrize("ending, settled_again, left", [("COMMIT", False, 14), ("ROLLBACK", True, 13)])
def test_a_prepared_transaction_settles(db, connect, database, ending, settled_again, left):
    db.tenant()
    key = db.mint(credits=20)
    request_id = spent(db, key, 5)
    other = database(connect())
    name = f"{db.value('SELECT current_database()')} settles"
    other.rows("BEGIN")
    assert settle(other, request_id, 6)
    other.rows(f"PREPARE TRANSACTION '{name}'")
    try:
        db.rows("SET keysmith.spend_timeout = 0")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            settle(db, request_id, 7)
    finally:
        db.rows(f"{ending} PREPARED '{name}'")
    assert settle(db, request_id, 7) is settled_again
    assert balance(db, key=key) == left


def test_a_crash_keeps_what_was_committed():
    with running("primary") as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        key = db.mint(credits=20)
        one, two, three = (spent(db, key, 2) for _ in range(3))
        assert settle(db, one, 5)
        open_session = session(cluster)
        open_session.rows("BEGIN")
        assert settle(open_session, two, 9)
        cluster.kill()
        cluster.start_after_kill()
        db = session(cluster)
        assert balance(db, key=key) == 11
        assert [settle(db, request_id, 3) for request_id in (one, two, three)] == [False, True, True]
        assert balance(db, key=key) == 9
        db.session.close()


def test_a_standby_settles_nothing():
    with running("primary", max_wal_senders=4) as primary:
        standby = primary.backup("standby", port=5433)
        try:
            standby.start()
            db = session(primary)
            db.rows("CREATE EXTENSION keysmith")
            db.tenant()
            request_id = spent(db, db.mint(credits=5), 1)
            db.call("wait_for_replay")
            assert "nothing can be written" in session(standby).refused("KS409", "settle", request_id, 2)
            assert settle(db, request_id, 2)
        finally:
            standby.remove()


def test_settling_while_the_holder_goes(db, connect, database):
    """Whatever comes first, all come to an end, and nobody gets an error."""
    for keyspace in ("dropped", "other"):
        db.call("create_keyspace", keyspace)
        db.tenant("acme", keyspace=keyspace)
        db.tenant("erased", keyspace=keyspace)

    def make(number):
        keyspace = "dropped" if number % 2 else "other"
        key = db.mint("erased" if number % 4 == 2 else "acme", keyspace=keyspace, credits=100)
        return key, db.verify(key.api_key, keyspace=keyspace, spend=5).request_id

    made = [make(number) for number in range(40)]
    sessions = [database(connect()) for _ in range(6)]
    for other in sessions:
        other.rows("SET keysmith.spend_timeout = '60 s'")

    def settles(other):
        return [settle(other, request_id, 7) for _, request_id in made]

    def goes(other):
        for key, _ in made[::4]:
            other.call("revoke", key.key_id, "test")
        other.rows("UPDATE keysmith_private.key SET created_at = '2020-01-01', expires_at = '2020-01-02' "
                   "WHERE key_id = %s", made[0][0].key_id)
        other.call("purge_keys", "1 day")
        other.call("erase_tenant", "erased", "other")
        other.call("drop_keyspace", "dropped", True)
        return []

    with ThreadPoolExecutor(6) as pool:
        work = [pool.submit(settles if number else goes, other) for number, other in enumerate(sessions)]
        outcomes = [job.result(120) for job in work][1:]
    won = [sum(each) for each in zip(*outcomes)]
    # A request whose keyspace was dropped first is unknown to all.
    assert set(won[::2]) == {1} and set(won[1::2]) <= {0, 1}
    assert {row.balance for row in db.rows("SELECT balance FROM keysmith_private.credit")} == {93}
    assert db.value("SELECT count(*) FROM keysmith_private.charge") == 20


def test_old_charges_go(db):
    db.tenant()
    key = db.mint(credits=20)
    recent = spent(db, key, 1)
    db.rows("INSERT INTO keysmith_private.charge SELECT '019ac1d0-0000-7000-8000-000000000000', credit_id, "
            "tenant_id, key_id, spend, '2025-11-27', NULL, NULL, keyspace, environment, usage_log FROM keysmith_private.charge")
    assert dict(db.call("maintain"))["charges"] == "1 dropped"
    assert db.value("SELECT request_id FROM keysmith_private.charge") == recent


# Events

def test_each_fall_makes_one_event(db):
    db.tenant()
    key = db.mint(refill=Jsonb({"amount": 20, "every": "day", "low": 5}))
    for spend in (14, 1, 1):
        spent(db, key, spend)
    assert events(db) == [("credits.low", 5)]
    for _ in range(2):
        assert not db.verify(key.api_key, spend=9).ok
    spent(db, key, 4)
    # It was told already that a request was refused.
    assert events(db) == [("credits.low", 5), ("credits.exhausted", 4)]
    db.call("add_credits", 10, key_id=key.key_id)
    assert settle(db, spent(db, key, 1), 30)
    db.call("add_credits", 50, key_id=key.key_id)
    db.call("add_credits", -30, key_id=key.key_id)
    assert events(db)[2:] == [("credits.low", -20), ("credits.exhausted", -20), ("credits.low", 0),
                              ("credits.exhausted", 0)]


def test_an_event_that_is_rolled_back_comes_later(db, connect, database):
    db.tenant()
    key = db.mint(credits=5)
    other = database(connect(autocommit=False))
    assert not other.verify(key.api_key, spend=6).ok
    # Others neither wait nor tell: the row is locked.
    assert not db.verify(key.api_key, spend=6).ok
    other.session.rollback()
    assert events(db) == []
    assert not db.verify(key.api_key, spend=6).ok
    assert events(db) == [("credits.exhausted", 5)]
