"""Credits: spent with the caller's transaction, never more than there are."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import psycopg
import pytest
from psycopg.types.json import Jsonb

from cluster import running
from conftest import session
from test_concurrency import waits

SESSIONS = 16


def balance(db, **holder):
    """The credits of a key or a tenant, as stored in the table."""
    if "key" in holder:
        return db.value("SELECT credits FROM keysmith.keys WHERE key_id = %s", holder["key"].key_id)
    rows = db.rows("SELECT balance FROM keysmith_private.credit JOIN keysmith_private.tenant USING (tenant_id) "
                   "WHERE name = %s", holder["tenant"])
    return rows[0].balance if rows else None


# Spending

def test_what_is_spent_is_gone(db):
    db.tenant()
    key = db.mint(credits=10)
    assert balance(db, key=key) == 10
    verdict = db.verify(key.api_key, spend=4)
    assert (verdict.ok, verdict.credits_remaining) == (True, 6)
    refused = db.verify(key.api_key, spend=7)
    assert (refused.ok, refused.status, refused.code, refused.reason) == \
        (False, 429, "credits_exhausted", "credits_exhausted")
    assert (refused.credits_remaining, refused.retry_after) == (6, None)
    assert "6 are left, and it costs 7" in [step.saw for step in db.call("explain_verify", key.api_key, spend=7)]
    assert db.verify(key.api_key, spend=6).credits_remaining == 0
    assert db.reason(key.api_key, spend=1) == "credits_exhausted"
    # A spend of 0 costs nothing, and the verdict then shows no credits.
    free = db.verify(key.api_key)
    assert (free.ok, free.credits_remaining) == (True, None)


def test_each_way_of_asking_spends(db):
    db.tenant()
    key = db.mint(credits=10)
    ask = "SELECT credits_remaining FROM keysmith.verify_digest(sha256(%s::bytea), spend => 3)"
    assert db.value(ask, key.api_key) == 7
    headers = Jsonb({"x-api-key": key.api_key})
    assert db.one("authenticate", headers, "GET", "/x", spend=2).credits_remaining == 5
    # Twice in one statement.
    both = db.row("SELECT (keysmith.verify(%s, spend => 1)).credits_remaining AS one, "
                  "(keysmith.verify(%s, spend => 1)).credits_remaining AS two", key.api_key, key.api_key)
    assert (both.one, both.two) == (4, 3)
    db.call("explain_verify", key.api_key, spend=3)
    db.call("verify_many", [key.api_key])
    assert balance(db, key=key) == 3


def test_a_key_pays_itself_or_its_tenant_does(db):
    db.tenant(credits=Jsonb(5))
    own, other = db.mint(credits=2), db.mint()
    assert db.verify(own.api_key, spend=2).credits_remaining == 0
    # A key with credits does not use its tenant's.
    assert db.reason(own.api_key, spend=1) == "credits_exhausted"
    assert db.verify(other.api_key, spend=3).credits_remaining == 2
    assert balance(db, tenant="acme") == 2 and balance(db, key=other) is None
    db.tenant("poor")
    poor = db.mint("poor")
    assert db.reason(poor.api_key, spend=1) == "credits_exhausted"
    assert db.verify(poor.api_key).ok


def test_only_environments_that_charge_do(db):
    db.tenant(credits=Jsonb(5))
    live, test = (db.mint(environment=e).api_key for e in ("live", "test"))
    assert db.verify(test, spend=100).ok
    assert db.verify(test, spend=100).credits_remaining is None
    assert db.reason(live, spend=100) == "credits_exhausted"
    db.call("alter_keyspace", "default", Jsonb({"charges": ["test"]}))
    assert db.verify(live, spend=100).ok
    assert db.verify(test, spend=1).credits_remaining == 4
    db.call("alter_keyspace", "default", Jsonb({"charges": []}))
    assert db.verify(test, spend=100).ok
    db.call("alter_keyspace", "default", Jsonb({"charges": None}))
    assert db.verify(live, spend=1).credits_remaining == 3
    db.call("create_keyspace", "k", charges=["live", "test"])
    db.tenant(keyspace="k")
    assert db.reason(db.mint(keyspace="k", environment="test").api_key, keyspace="k", spend=1) == \
        "credits_exhausted"


def test_only_what_is_good_otherwise_pays(db):
    db.tenant(credits=Jsonb(5))
    key = db.mint(scopes=["a"], limits=Jsonb([{"name": "x", "limit": 1, "window": "1 hour"}]))
    assert db.reason(key.api_key, scopes=["b"], spend=1) == "insufficient_scope"
    assert db.verify(key.api_key, spend=1).credits_remaining == 4
    assert db.reason(key.api_key, spend=1) == "rate_limited"
    assert balance(db, tenant="acme") == 4


def test_a_call_that_credits_refuse_is_given_back_to_its_limits(db):
    db.tenant(limits=Jsonb([{"name": "t", "limit": 9, "window": "1 hour"}]))
    key = db.mint(credits=2, limits=Jsonb([{"name": "x", "limit": 5, "window": "1 hour"}])).api_key
    for _ in range(10):
        refused = db.verify(key, spend=3, weight=2)
        assert (refused.reason, refused.limit_name, refused.limit_remaining) == \
            ("credits_exhausted", "x", 5)
    assert db.verify(key, spend=2).limit_remaining == 4
    assert db.verify(db.mint().api_key).limit_remaining == 7


# Transactions

def test_what_is_rolled_back_was_not_spent(db, connect, database):
    db.tenant()
    key = db.mint(credits=10)
    other = database(connect(autocommit=False))
    assert other.verify(key.api_key, spend=3).credits_remaining == 7
    other.rows("SAVEPOINT s")
    assert other.verify(key.api_key, spend=3).credits_remaining == 4
    other.rows("ROLLBACK TO s")
    assert other.verify(key.api_key, spend=1).credits_remaining == 6
    other.session.rollback()
    assert balance(db, key=key) == 10
    other.verify(key.api_key, spend=3)
    other.session.commit()
    assert balance(db, key=key) == 7


def test_racing_sessions_never_overdraw(db, connect, database):
    db.tenant(credits=Jsonb(100))
    keys = [db.mint().api_key for _ in range(4)]
    sessions = [database(connect()) for _ in range(SESSIONS)]

    def spend(number):
        return sum(sessions[number].verify(keys[number % 4], spend=3).ok for _ in range(10))

    with ThreadPoolExecutor(SESSIONS) as pool:
        assert sum(pool.map(spend, range(SESSIONS))) == 33
    assert balance(db, tenant="acme") == 1


def test_the_second_of_two_sees_what_the_first_left(db, connect, database):
    db.tenant()
    key = db.mint(credits=5)
    first = database(connect(autocommit=False))
    second = database(connect())
    second.rows("SET keysmith.spend_timeout = '60 s'")
    for ending, expected, left in [("rollback", "ok", 2), ("commit", "credits_exhausted", 0)]:
        db.call("alter_key", key.key_id, Jsonb({"credits": 5}))
        first.verify(key.api_key, spend=5)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(second.reason, key.api_key, spend=3)
            waits(db)
            getattr(first.session, ending)()
            assert waiting.result(60) == expected
        assert balance(db, key=key) == left


# Credits that another transaction holds

HOLDERS = {
    "a spender": lambda other, key: other.verify(key.api_key, spend=1),
    "a spender in a savepoint": lambda other, key: (
        other.rows("SAVEPOINT s"), other.verify(key.api_key, spend=1), other.rows("RELEASE s")),
    "an administrator": lambda other, key: other.call("add_credits", 1, key.key_id),
    "a lock": lambda other, key: other.rows("SELECT FROM keysmith_private.credit FOR UPDATE"),
    "several locks": lambda other, key: (
        other.rows("SELECT FROM keysmith_private.credit FOR KEY SHARE"), other.rows("SAVEPOINT s"),
        other.verify(key.api_key, spend=1)),
}


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("timeout", [0, 100])
@pytest.mark.parametrize("holder", HOLDERS)
def test_credits_that_are_held_for_too_long_are_unavailable(db, connect, database, holder, timeout, isolation):
    """The verdict says so: the transaction goes on, and nothing was spent."""
    db.tenant()
    key = db.mint(credits=10, limits=Jsonb([{"name": "x", "limit": 5, "window": "1 hour"}]))
    holding, asking = database(connect(autocommit=False)), database(connect(autocommit=False))
    HOLDERS[holder](holding, key)
    asking.rows(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
    asking.rows(f"SET keysmith.spend_timeout = {timeout}")
    asking.rows("CREATE TEMP TABLE kept AS SELECT 1 AS n")
    for _ in range(2):
        refused = asking.verify(key.api_key, spend=1)
        assert (refused.ok, refused.status, refused.code, refused.reason) == (
            False, 429, "credits_exhausted", "credits_unavailable")
    steps = asking.call("explain_verify", key.api_key, spend=1)
    assert [(step.rule, step.reason) for step in steps if step.outcome == "refuse"] == [
        ("credits", "credits_unavailable")]
    # A request that costs more than there is gets its answer without waiting.
    assert asking.reason(key.api_key, spend=11) == "credits_exhausted"
    assert asking.value("SHOW lock_timeout") == "0"
    holding.session.rollback()
    verdict = asking.verify(key.api_key, spend=1)
    assert (verdict.reason, verdict.credits_remaining) == ("ok", 9)
    asking.session.commit()
    assert asking.value("SELECT n FROM kept") == 1
    assert balance(db, key=key) == 9


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_who_waited_goes_by_what_was_left(db, connect, database, isolation):
    db.tenant()
    key = db.mint(credits=5)
    holding, asking = database(connect(autocommit=False)), database(connect(autocommit=False))
    asking.rows(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
    asking.rows("SET keysmith.spend_timeout = '60 s'")
    holding.verify(key.api_key, spend=2)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(asking.verify, key.api_key, spend=2)
        waits(db)
        holding.session.commit()
        assert waiting.result(60).credits_remaining == 1
    asking.session.commit()
    assert balance(db, key=key) == 1


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_a_spend_acts_on_what_is_committed(db, connect, database, isolation):
    """Also if the transaction's own snapshot is older."""
    db.tenant()
    key = db.mint(credits=0)
    asking = database(connect(autocommit=False))
    asking.rows(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
    asking.rows("SELECT count(*) FROM keysmith.keys")
    db.call("add_credits", 100, key.key_id)
    assert asking.verify(key.api_key, spend=30).credits_remaining == 70
    assert asking.verify(key.api_key, spend=30).credits_remaining == 40
    asking.session.commit()
    assert balance(db, key=key) == 40


def test_of_two_that_wait_for_each_other_one_is_refused(db, connect, database):
    db.tenant()
    one, two = db.mint(credits=5), db.mint(credits=5)
    sessions = [database(connect(autocommit=False)) for _ in range(2)]
    for session, key in zip(sessions, (one, two)):
        session.rows("SET keysmith.spend_timeout = '60 s'")
        assert session.verify(key.api_key, spend=1).ok

    def cross(session, key):
        reason = session.reason(key.api_key, spend=1)
        session.session.commit()
        return reason

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(cross, sessions, (two, one))) == ["credits_unavailable", "ok"]
    assert sorted([balance(db, key=one), balance(db, key=two)]) == [3, 4]


def test_a_wait_can_be_cancelled(db, connect, database):
    """In a block that catches the error, the transaction goes on."""
    db.tenant()
    key = db.mint(credits=5)
    holding, asking = database(connect(autocommit=False)), database(connect(autocommit=False))
    holding.verify(key.api_key, spend=1)
    asking.rows("SET keysmith.spend_timeout = '60 s'")
    asking.rows("""CREATE FUNCTION pg_temp.attempt(key text) RETURNS text LANGUAGE plpgsql AS $$
        BEGIN
            RETURN (keysmith.verify(key, spend => 1)).reason;
        EXCEPTION WHEN query_canceled THEN
            RETURN 'cancelled';
        END $$""")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(asking.value, "SELECT pg_temp.attempt(%s)", key.api_key)
        waits(db)
        db.value("SELECT pg_cancel_backend(%s)", asking.session.info.backend_pid)
        assert waiting.result(60) == "cancelled"
    holding.session.commit()
    assert asking.value("SELECT pg_temp.attempt(%s)", key.api_key) == "ok"
    assert asking.value("SHOW lock_timeout") == "0"
    asking.session.commit()
    assert balance(db, key=key) == 3


@pytest.mark.parametrize("end", ["cancelled", "refused by the table", "the statement times out"])
def test_a_verify_that_ends_early_takes_nothing(db, connect, database, end):
    """Neither from rate limits nor a slot, though the transaction goes on."""
    db.tenant()
    limits = [{"name": "calls", "limit": 1, "window": "1 day"},
              {"name": "tokens", "unit": "tokens", "limit": 60, "window": "1 day"}, {"name": "at once", "concurrent": 1}]
    key = db.mint(credits=5, limits=Jsonb(limits))
    holding, asking = database(connect(autocommit=False)), database(connect(autocommit=False))
    if end == "refused by the table":
        db.rows("ALTER TABLE keysmith_private.credit ADD CONSTRAINT enough CHECK (balance > 4)")
    else:
        holding.rows("SELECT FROM keysmith_private.credit FOR UPDATE")
    asking.rows("SET keysmith.spend_timeout = '60 s'")
    asking.rows("""CREATE FUNCTION pg_temp.attempt(key text, timeout text DEFAULT '0') RETURNS text LANGUAGE plpgsql AS $$
        BEGIN
            RETURN (keysmith.verify(key, spend => 1, weights => '{"tokens": 60}')).reason;
        EXCEPTION WHEN query_canceled OR check_violation THEN
            RETURN SQLSTATE;
        END $$""")
    with ThreadPoolExecutor(1) as pool:
        if end == "the statement times out":
            asking.rows("SET statement_timeout = '1 s'")
        waiting = pool.submit(asking.value, "SELECT pg_temp.attempt(%s)", key.api_key)
        if end == "cancelled":
            waits(db)
            db.value("SELECT pg_cancel_backend(%s)", asking.session.info.backend_pid)
        assert waiting.result(60) == ("23514" if end == "refused by the table" else "57014")
    # The transaction of the attempt has not ended.
    assert [db.reason(key.api_key, weights=Jsonb({"tokens": 60})) for _ in range(2)] == ["ok", "rate_limited"]
    assert asking.reason(key.api_key, weights=Jsonb({"tokens": 1})) == "rate_limited"
    holding.session.rollback()
    asking.session.rollback()


def test_a_session_may_wait_less(db, connect, database):
    db.tenant()
    key = db.mint(credits=5)
    holding, asking = database(connect(autocommit=False)), database(connect())
    holding.verify(key.api_key, spend=1)
    asking.rows("SET keysmith.spend_timeout = '60 s'")
    asking.rows("SET lock_timeout = '50 ms'")
    assert asking.reason(key.api_key, spend=1) == "credits_unavailable"


def test_a_statement_that_changes_credits_and_spends(db):
    db.tenant()
    key = db.mint(credits=5)
    assert db.value("WITH changed AS (UPDATE keysmith_private.credit SET balance = 7 RETURNING 2 AS cost) "
                    "SELECT v.credits_remaining FROM changed, LATERAL keysmith.verify(%s, spend => cost) v",
                    key.api_key) == 5
    assert balance(db, key=key) == 5


def test_a_lock_on_the_key_alone_is_in_nobodys_way(db, connect, database):
    db.tenant()
    key = db.mint(credits=5)
    holding, asking = database(connect(autocommit=False)), database(connect())
    asking.rows("SET keysmith.spend_timeout = 0")
    for other in (holding, database(connect(autocommit=False))):
        other.rows("SELECT FROM keysmith_private.credit FOR KEY SHARE")
        assert asking.verify(key.api_key, spend=1).ok


def test_how_long_is_waited_is_the_administrators_choice(cluster, dbname, db):
    assert db.value("SHOW keysmith.spend_timeout") == "1s"
    db.rows("CREATE ROLE waiter LOGIN")
    try:
        waiter = session(cluster, dbname, user="waiter")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            waiter.rows("SET keysmith.spend_timeout = '1 h'")
        waiter.session.close()
    finally:
        db.rows("DROP ROLE waiter")


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_read_only_transactions_spend_nothing(db, connect, database, isolation):
    db.tenant()
    limits = Jsonb([{"name": "x", "limit": 5, "window": "1 hour"}])
    key = db.mint(credits=5, limits=limits)
    other = database(connect(autocommit=False))
    other.rows(f"SET TRANSACTION ISOLATION LEVEL {isolation}, READ ONLY")
    refused = other.verify(key.api_key, spend=1)
    assert (refused.ok, refused.status, refused.code, refused.reason, refused.retry_after) == \
        (False, 429, "credits_exhausted", "credits_unavailable", None)
    assert other.verify(key.api_key).limit_remaining == 4
    steps = other.call("explain_verify", key.api_key, spend=1)
    assert [step.reason for step in steps if step.outcome == "refuse"] == ["credits_unavailable"]
    assert balance(db, key=key) == 5


def test_a_standby_spends_nothing():
    with running("primary", max_wal_senders=4) as primary:
        standby = primary.backup("standby", port=5433)
        try:
            standby.start()
            db = session(primary)
            db.rows("CREATE EXTENSION keysmith")
            db.tenant(credits=Jsonb(5))
            key = db.mint().api_key
            db.call("wait_for_replay")
            there = session(standby)
            assert there.reason(key, spend=1) == "credits_unavailable"
            assert there.verify(key).ok
            steps = there.call("explain_verify", key, spend=1)
            assert steps[-1].reason == "credits_unavailable"
        finally:
            standby.remove()


def test_a_parallel_query_spends_nothing(db):
    """A parallel plan can't write, and the verdict says so."""
    db.tenant()
    key = db.mint(credits=5)
    db.rows("CREATE TABLE many AS SELECT n FROM generate_series(1, 20000) n; ANALYZE many; "
            "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; "
            "SET min_parallel_table_scan_size = 0")
    query = ("SELECT DISTINCT (keysmith.verify(%s, spend => 1)).reason "
             "FROM (SELECT n FROM many WHERE n %% 10000 = 0 OFFSET 0) m")
    plan = "\n".join(row[0] for row in db.rows(f"EXPLAIN {query}", key.api_key))
    assert "Gather" in plan
    assert db.rows(query, key.api_key) == [("credits_unavailable",)]
    assert balance(db, key=key) == 5


def test_without_preload_credits_are_spent_all_the_same():
    with running("unpreloaded", preload=False) as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        assert db.verify(db.mint(credits=5).api_key, spend=2).credits_remaining == 3


def test_an_application_needs_no_right_to_the_table(cluster, dbname, db):
    db.tenant()
    key = db.mint(credits=5)
    db.rows("CREATE ROLE spender LOGIN; GRANT USAGE ON SCHEMA keysmith TO spender; "
            "GRANT EXECUTE ON FUNCTION keysmith.verify TO spender")
    try:
        app = session(cluster, dbname, user="spender")
        app.rows("CREATE TEMP TABLE credit (balance bigint)")
        app.rows("SET search_path = pg_temp, public")
        assert app.verify(key.api_key, spend=2).credits_remaining == 3
        assert app.row("SELECT current_user::text AS me, current_setting('search_path') AS path") == \
            ("spender", "pg_temp, public")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.rows("UPDATE keysmith_private.credit SET balance = 1000")
        app.session.close()
    finally:
        db.rows("DROP OWNED BY spender; DROP ROLE spender")


# Refills

def let_pass(db, interval):
    """As if the last refill had been longer ago by this time."""
    db.rows("UPDATE keysmith_private.credit SET refilled_at = refilled_at - %s::interval", interval)


def test_a_refill_comes_with_the_next_day(db):
    db.tenant()
    key = db.mint()
    (shown,) = db.call("alter_key", key.key_id, Jsonb({"credits": {"refill": 10, "every": "day"}}))
    assert shown.credits == 10
    assert db.verify(key.api_key, spend=8).credits_remaining == 2
    refused = db.verify(key.api_key, spend=5)
    now = datetime.now(timezone.utc)
    midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    assert abs(refused.retry_after - (midnight - now)) < timedelta(seconds=30)
    # A request beyond every refill has no retry_after.
    assert db.verify(key.api_key, spend=11).retry_after is None
    let_pass(db, "1 day")
    # The refill is visible immediately, though nothing has written it yet.
    assert balance(db, key=key) == 10
    assert [step.saw for step in db.call("explain_verify", key.api_key, spend=5)][-1] == "5 of 10"
    assert db.verify(key.api_key, spend=5).credits_remaining == 5
    # Once a day, and not at each spending.
    assert db.verify(key.api_key, spend=5).credits_remaining == 0
    assert db.reason(key.api_key, spend=1) == "credits_exhausted"


def test_a_refill_comes_with_the_next_month(db):
    db.tenant(credits=Jsonb({"balance": 3, "refill": 20, "every": "month"}))
    key = db.mint().api_key
    assert db.verify(key, spend=3).credits_remaining == 0
    refused = db.verify(key, spend=1)
    now = datetime.now(timezone.utc)
    first = (now.replace(day=1) + timedelta(days=32)).replace(
        day=1, hour=0, minute=0, second=0, microsecond=0)
    assert abs(refused.retry_after - (first - now)) < timedelta(seconds=30)
    # From the first moment of the month on, and not a moment before.
    db.rows("UPDATE keysmith_private.credit SET refilled_at = date_trunc('month', now(), 'UTC')")
    assert db.reason(key, spend=1) == "credits_exhausted"
    db.rows("UPDATE keysmith_private.credit SET refilled_at = date_trunc('month', now(), 'UTC') - '1 us'::interval")
    assert db.verify(key, spend=1).credits_remaining == 19


def test_a_refill_takes_nothing_away_and_adds_up_to_nothing(db):
    db.tenant(credits=Jsonb({"balance": 50, "refill": 10, "every": "day"}))
    key = db.mint().api_key
    let_pass(db, "40 days")
    assert db.verify(key, spend=45).credits_remaining == 5
    let_pass(db, "40 days")
    assert db.verify(key, spend=1).credits_remaining == 9


@pytest.mark.parametrize("every", ["day", "month"])
def test_a_clock_that_was_set_forward_stops_no_refills(db, every):
    """The clock was years ahead when credits were refilled last."""
    credits = {"refill": 10, "every": every}
    db.tenant(credits=Jsonb(credits))
    shared, own = db.mint(), db.mint()
    db.call("alter_key", own.key_id, Jsonb({"credits": credits}))

    def set_back(by):
        db.rows("UPDATE keysmith_private.credit SET balance = 1, refilled_at = now() + %s::interval", by)

    # A small difference is another server's clock, and gives no second refill.
    set_back("1 hour")
    assert db.reason(shared.api_key, spend=2) == "credits_exhausted"
    assert (balance(db, key=own), db.value("SELECT credits FROM keysmith.tenants")) == (1, 1)
    set_back("3 years")
    assert (balance(db, key=own), db.value("SELECT credits FROM keysmith.tenants")) == (10, 10)
    assert db.one("add_credits", 5, own.key_id)[0] == 15
    assert db.one("add_credits", 5, tenant="acme")[0] == 15
    set_back("3 years")
    assert db.verify(shared.api_key, spend=2).credits_remaining == 8
    with db.session.transaction():
        db.verify(own.api_key, sign_in=True)
        assert db.one("whoami")[0]["credits"] == 10
    db.call("alter_tenant", "acme", Jsonb({"credits": {"balance": 3}}))
    # Once, and not at each spend.
    assert db.verify(shared.api_key, spend=2).credits_remaining == 1


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/Los_Angeles"])
def test_days_are_those_of_utc(db, zone):
    db.tenant(credits=Jsonb({"refill": 10, "every": "day"}))
    key = db.mint().api_key
    db.rows(f"SET timezone = '{zone}'")
    db.rows("UPDATE keysmith_private.credit SET balance = 0, refilled_at = date_trunc('day', now(), 'UTC')")
    assert db.reason(key, spend=1) == "credits_exhausted"
    db.rows("UPDATE keysmith_private.credit SET refilled_at = date_trunc('day', now(), 'UTC') - '1 us'::interval")
    assert db.verify(key, spend=1).credits_remaining == 9


@pytest.mark.parametrize("every", ["hour", "day", "week", "month"])
@pytest.mark.parametrize("last, expected", [
    ("now()", 3), ("date_trunc('{every}', now(), 'UTC')", 3),
    ("date_trunc('{every}', now(), 'UTC') - interval '1 us'", 10), ("'2001-01-01'", 10), ("'-infinity'", 10),
    ("now() + interval '50 minutes'", 3), ("now() + interval '25 hours'", 10), ("'infinity'", 10),
])
def test_all_that_show_a_balance_show_what_can_be_spent(db, every, last, expected):
    """They have the rule of refills in common: credits_at calls the one that verify spends by."""
    credits = {"refill": 10, "every": every}
    db.tenant(credits=Jsonb(credits))
    shared, own = db.mint(), db.mint()
    db.call("alter_key", own.key_id, Jsonb({"credits": credits}))

    def last_refill():
        db.rows(f"UPDATE keysmith_private.credit SET balance = 3, refilled_at = {last.format(every=every)}")

    last_refill()
    assert db.rows("SELECT keysmith_private.credits_at(balance, refill, every, anchor, refilled_at, clock_timestamp()) "
                   "FROM keysmith_private.credit") == [(expected,)] * 2
    assert db.value("SELECT credits FROM keysmith.tenants") == balance(db, key=own) == expected
    assert [row.credits for row in db.call("list_keys", "acme")] == [None, expected]
    for key in (shared, own):
        with db.session.transaction():
            db.verify(key.api_key, sign_in=True)
            assert db.one("whoami")[0]["credits"] == expected
        assert [step.saw for step in db.call("explain_verify", key.api_key, spend=2)][-1] == f"2 of {expected}"
    db.call("alter_tenant", "acme", Jsonb({"plan": "pro"}))
    db.call("alter_key", own.key_id, Jsonb({"label": "mine"}))
    noted = db.rows("SELECT after -> 'credits' FROM keysmith.audit WHERE action IN ('alter', 'alter_tenant') "
                    "ORDER BY at DESC LIMIT 2")
    assert noted == [(expected,)] * 2
    assert db.one("add_credits", 5, own.key_id)[0] == db.one("add_credits", 5, tenant="acme")[0] == expected + 5
    for key in (shared, own):
        last_refill()
        assert db.verify(key.api_key, spend=2).credits_remaining == expected - 2


def test_credits_at_needs_a_row(db):
    """A holder without credits has none, and not none of them."""
    assert db.value("SELECT keysmith_private.credits_at(NULL, NULL, NULL, NULL, NULL, now())") is None
    assert db.value("SELECT keysmith_private.credits_at(5, NULL, NULL, NULL, '2001-01-01', now())") == 5


# Giving

def test_add_credits(db):
    db.tenant()
    key = db.mint()
    assert db.one("add_credits", 5, tenant="acme")[0] == 5
    assert db.one("add_credits", 7, tenant="acme")[0] == 12
    assert db.verify(key.api_key, spend=2).credits_remaining == 10
    # The key has its own credits from now on.
    assert db.one("add_credits", 3, key_id=key.key_id)[0] == 3
    assert db.verify(key.api_key, spend=1).credits_remaining == 2
    assert balance(db, tenant="acme") == 10
    # A due refill comes first.
    db.call("alter_tenant", "acme", Jsonb({"credits": {"balance": 1, "refill": 10, "every": "day"}}))
    let_pass(db, "1 day")
    assert db.one("add_credits", 5, tenant="acme")[0] == 15
    assert db.one("add_credits", 5, tenant="acme")[0] == 20


def test_credits_added_at_once_all_arrive(db, connect, database):
    db.tenant()
    key = db.mint(credits=0)
    sessions = [database(connect()) for _ in range(8)]

    def work(number):
        for _ in range(10):
            sessions[number].call("add_credits", 2, key_id=key.key_id)
            assert sessions[number].verify(key.api_key, spend=1).ok

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert balance(db, key=key) == 80


def test_credits_can_be_set_and_taken_away(db):
    db.tenant(credits=Jsonb({"balance": 7, "refill": 5, "every": "month"}))
    key = db.mint(credits=3)
    for changes, shown in [({"credits": 9}, 9), ({"credits": {"balance": 1}}, 1), ({"label": "x"}, 1),
                           ({"credits": 0}, 0), ({"credits": None}, None), ({"credits": None}, None)]:
        (altered,) = db.call("alter_key", key.key_id, Jsonb(changes))
        assert altered.credits == shown
    assert db.verify(key.api_key, spend=1).credits_remaining == 6
    db.call("alter_tenant", "acme", Jsonb({"plan": "pro"}))
    assert balance(db, tenant="acme") == 6
    db.call("alter_tenant", "acme", Jsonb({"credits": None}))
    assert db.reason(key.api_key, spend=1) == "credits_exhausted"
    db.call("import_key", "acme", b"x" * 32, credits=4)
    ask = "SELECT credits_remaining FROM keysmith.verify_digest(%s, spend => 1)"
    assert db.value(ask, b"x" * 32) == 3


@pytest.mark.parametrize("changes, expected", [
    ({"balance": 7}, (7, 5, "month")), (7, (7, 5, "month")), ({"refill": 9}, (3, 9, "month")),
    ({"every": "day"}, (3, 5, "day")), ({"refill": 9, "every": "day"}, (3, 9, "day")),
    ({"refill": None}, (3, None, None)), ({"every": None}, (3, None, None)),
    ({"refill": None, "every": None, "balance": 1}, (1, None, None)),
])
def test_a_patch_of_credits_changes_what_it_names_alone(db, changes, expected):
    db.tenant(credits=Jsonb({"balance": 3, "refill": 5, "every": "month"}))
    key = db.mint(credits=1)
    db.call("alter_key", key.key_id, Jsonb({"credits": {"balance": 3, "refill": 5, "every": "month"}}))
    db.call("alter_tenant", "acme", Jsonb({"credits": changes}))
    db.call("alter_key", key.key_id, Jsonb({"credits": changes}))
    assert db.rows("SELECT balance, refill, every FROM keysmith_private.credit") == [expected] * 2


def test_a_patch_keeps_the_refill_that_was_due_and_brings_no_other(db):
    db.tenant(credits=Jsonb({"balance": 1, "refill": 5, "every": "day"}))
    let_pass(db, "1 day")
    db.call("alter_tenant", "acme", Jsonb({"credits": {"refill": 1000}}))
    assert balance(db, tenant="acme") == 5
    assert db.verify(db.mint().api_key, spend=1).credits_remaining == 4


def test_a_threshold_alone_changes_nothing_else(db):
    db.tenant(credits=Jsonb({"balance": 1, "refill": 5, "every": "day", "anchor": "2026-01-31 06:00Z"}))
    let_pass(db, "1 day")
    rest = "SELECT balance, refill, every, anchor, refilled_at FROM keysmith_private.credit"
    before = db.rows(rest)
    db.call("alter_tenant", "acme", Jsonb({"credits": {"low": 3}}))
    assert db.rows(rest) == before and db.value("SELECT low FROM keysmith_private.credit") == 3
    refill = db.value("SELECT refill FROM keysmith.tenants")
    assert {name: refill[name] for name in ("amount", "every", "low")} == {"amount": 5, "every": "day", "low": 3}
    assert refill["next"][11:19] == "06:00:00" and balance(db, tenant="acme") == 1
    with db.session.transaction():
        db.verify(db.mint().api_key, sign_in=True)
        assert db.one("whoami")[0]["refill"] == refill
    (noted,) = db.rows("SELECT before, after FROM keysmith.audit WHERE action = 'alter_tenant'")
    assert (noted.before["low"], noted.after["low"], noted.after["anchor"][:10]) == (None, 3, "2026-01-31")
    db.call("alter_tenant", "acme", Jsonb({"credits": {"low": None, "anchor": None}}))
    assert db.value("SELECT refill ->> 'low' FROM keysmith.tenants") is None


def test_a_new_period_brings_no_refill_at_once(db):
    db.tenant(credits=Jsonb({"balance": 1, "refill": 5, "every": "month"}))
    db.rows("UPDATE keysmith_private.credit SET refilled_at = date_trunc('month', now(), 'UTC')")
    for change in ({"every": "hour"}, {"anchor": "2000-01-01 00:00:01Z"}, {"every": "week"}):
        db.call("alter_tenant", "acme", Jsonb({"credits": change}))
        assert db.value("SELECT credits FROM keysmith.tenants") == 1


def test_credits_can_be_taken(db):
    db.tenant(credits=Jsonb(5))
    assert db.one("add_credits", -3, tenant="acme")[0] == 2
    assert "2 credits are held" in db.refused("KS409", "add_credits", -3, tenant="acme")
    assert "0 credits are held" in db.refused("KS409", "add_credits", -2**63, key_id=db.mint().key_id)
    assert db.one("add_credits", -2, tenant="acme")[0] == 0


def test_first_credits_of_a_key_are_announced(db):
    db.tenant(credits=Jsonb(5))
    key, notices = db.mint(), []
    db.session.add_notice_handler(lambda diag: notices.append(diag.message_primary))
    db.call("add_credits", 1, tenant="acme")
    assert notices == []
    for _ in range(2):
        db.call("add_credits", 1, key_id=key.key_id)
        (notice,) = notices
    assert "from now on it spends these" in notice


def test_a_line_of_rotations_shares_its_credits(db):
    db.tenant()
    first = db.mint(credits=10)
    second = db.one("rotate", first.key_id, "1 hour")
    third = db.one("rotate", second.key_id, "1 hour")
    assert [db.verify(key.api_key, spend=1).credits_remaining for key in (third, first, second)] == \
        [9, 8, 7]
    assert [balance(db, key=key) for key in (first, second, third)] == [7] * 3
    assert db.one("add_credits", 3, key_id=third.key_id)[0] == 10
    db.call("alter_key", third.key_id, Jsonb({"credits": 5}))
    assert db.verify(first.api_key, spend=1).credits_remaining == 4


def test_credits_outlive_a_dump(cluster, dbname, db):
    db.tenant(credits=Jsonb({"balance": 7, "refill": 5, "every": "month"}))
    key, other = db.mint(credits=3, limits=Jsonb([{"name": "x", "limit": 5, "window": "1 s"}])), db.mint()
    restored = f"{dbname}_restored"
    cluster.execute(f"CREATE DATABASE {restored}")
    try:
        cluster.psql(cluster.program("pg_dump", dbname=dbname).stdout, dbname=restored)
        there = session(cluster, restored)
        assert there.verify(key.api_key, spend=1).credits_remaining == 2
        assert there.verify(key.api_key).limit_name == "x"
        assert there.verify(other.api_key, spend=1).credits_remaining == 6
        there.session.close()
    finally:
        cluster.execute(f"DROP DATABASE {restored} WITH (FORCE)")


# Bad input

BAD_CREDITS = [-1, 1.5, "5", [], [5], True, 2**63, {}, {"balance": -1}, {"balance": "x"}, {"refill": 5},
               {"every": "day"}, {"balance": 5, "refill": 5}, {"balance": 5, "every": "day"},
               {"refill": 0, "every": "day"}, {"refill": -5, "every": "month"},
               {"refill": 5, "every": "year"}, {"balance": None}, {"refill": None, "every": "day"},
               {"refill": 5, "every": None}, {"low": -1}, {"low": 5, "anchor": "2026-01-31"},
               {"refill": 5, "every": "day", "anchor": "infinity"}, {"refill": 5, "every": "day", "anchor": "x"},
               {"balance": 5, "more": 5}, {"balance": 2**64}]


@pytest.mark.parametrize("bad", BAD_CREDITS)
def test_bad_credits_are_errors_and_change_nothing(db, bad):
    db.tenant(credits=Jsonb(5))
    key = db.mint(credits=5)
    before = db.rows("SELECT c::text FROM keysmith_private.credit c ORDER BY 1")
    tenants = db.value("SELECT count(*) FROM keysmith_private.tenant")
    assert "credits" in db.refused("KS400", "create_tenant", "other", credits=Jsonb(bad))
    assert "credits" in db.refused("KS400", "alter_tenant", "acme", Jsonb({"credits": bad}))
    assert "credits" in db.refused("KS400", "alter_key", key.key_id, Jsonb({"credits": bad}))
    assert db.rows("SELECT c::text FROM keysmith_private.credit c ORDER BY 1") == before
    assert db.value("SELECT count(*) FROM keysmith_private.tenant") == tenants


def test_bad_amounts_are_errors(db):
    db.tenant()
    key = db.mint(credits=5)
    for spend in (-1, None, -2**63):
        assert "spend" in db.refused("KS400", "verify", key.api_key, spend=spend)
        assert "spend" in db.refused("KS400", "verify", "garbage", spend=spend)
        assert "spend" in db.refused("KS400", "verify_digest", b"x" * 32, spend=spend)
        assert "spend" in db.refused("KS400", "explain_verify", key.api_key, spend=spend)
        assert "spend" in db.refused("KS400", "authenticate", Jsonb({}), "GET", "/", spend=spend)
    assert db.reason(key.api_key, spend=2**63 - 1) == "credits_exhausted"
    for amount in (0, None):
        assert "amount" in db.refused("KS400", "add_credits", amount, tenant="acme")
    assert "amount" in db.refused("KS400", "add_credits", 2**63 - 1, key_id=key.key_id)
    # Not even if a refill makes the sum too large.
    db.call("alter_tenant", "acme", Jsonb({"credits": {"balance": 0, "refill": 2**62, "every": "day"}}))
    let_pass(db, "1 day")
    assert "amount" in db.refused("KS400", "add_credits", 2**62, tenant="acme")
    assert "key_id" in db.refused("KS400", "add_credits", 5)
    assert "key_id" in db.refused("KS400", "add_credits", 5, key_id=key.key_id, tenant="acme")
    db.refused("KS404", "add_credits", 5, tenant="nobody")
    db.refused("KS404", "add_credits", 5, tenant="acme", keyspace="nowhere")
    db.refused("KS404", "add_credits", 5, key_id="00000000-0000-0000-0000-000000000000")
    for charges in (["Live"], [""], ["a b"], [None]):
        assert "charges" in db.refused("KS400", "create_keyspace", "k", charges=charges)
    assert "charges" in db.refused("KS400", "alter_keyspace", "default", Jsonb({"charges": 5}))
    assert balance(db, key=key) == 5
