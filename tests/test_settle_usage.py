"""What `settle` says reaches the records of usage and their totals, exactly when it commits."""

import psycopg
import pytest
from psycopg.types.json import Jsonb

from cluster import running
from conftest import session
from test_usage_pipeline import count, crash, flush

TOKENS = [{"name": "tokens", "limit": 10**6, "window": "365 days", "unit": "tokens"}]


def request(db, key, spend=0, **options):
    verdict = db.verify(key.api_key, spend=spend, **options)
    assert verdict.ok
    return verdict.request_id


def settle(db, request_id, spend=None, weights=None):
    return db.value("SELECT keysmith.settle(%s, %s, %s)", request_id, spend, weights and Jsonb(weights))


def row(db, request_id):
    flush(db)
    return db.row("SELECT spend, weights FROM keysmith.usage WHERE request_id = %s", request_id)


def totals(db):
    """The same from all views, before and after the totals are folded."""
    flush(db)
    statement = """SELECT (SELECT sum(spend) FROM keysmith.usage_hourly) AS hourly,
                          (SELECT sum(spend) FROM keysmith.usage_daily) AS daily,
                          (SELECT sum(requests) FROM keysmith.usage_hourly) AS requests"""
    before = db.row(statement)
    db.rows("SELECT keysmith_private.usage_fold()")
    assert db.row(statement) == before and before[0] == before[1]
    return before[0], before[2]


@pytest.fixture
def key(db):
    db.tenant()
    return db.mint(credits=10**6, limits=Jsonb(TOKENS))


@pytest.mark.parametrize("path", ["async", "commit"])
@pytest.mark.parametrize("moment", ["stored", "waiting", "of the transaction", "later in the transaction"])
def test_a_record_has_what_the_request_cost(db, connect, database, key, path, moment):
    other = database(connect(autocommit=False))
    for one in (db, other):
        one.rows(f"SET keysmith.usage_durability = {path}")
    other.session.commit()
    decides = other if "transaction" in moment else db
    request_id = request(decides, key, 10, weights=Jsonb({"tokens": 10, "images": 2}))
    if moment == "later in the transaction":
        request(decides, key)
    if moment == "stored":
        flush(db)
    assert settle(other, request_id, 25, {"tokens": 40, "pages": 1})
    other.session.commit()
    assert row(db, request_id) == (25, {"tokens": 40, "images": 2, "pages": 1})
    assert totals(db)[0] == 25
    assert dict(db.rows("SELECT unit, amount FROM keysmith.usage_units")) == {"tokens": 40, "images": 2, "pages": 1}
    assert settle(db, request_id, 99, {"tokens": 99}) is False
    assert row(db, request_id).spend == 25 and totals(db)[0] == 25


def test_a_request_may_have_cost_nothing(db, key):
    request_id = request(db, key, 10, weights=Jsonb({"calls": 5, "tokens": 10}))
    assert settle(db, request_id, 0, {"calls": 1, "tokens": 0})
    assert row(db, request_id) == (0, {"calls": 1, "tokens": 0})
    assert totals(db)[0] == 0 and db.rows("SELECT FROM keysmith.usage_units") == []


@pytest.mark.parametrize("path", ["async", "commit"])
def test_a_rollback_leaves_records_as_they_were(db, connect, database, key, path):
    other = database(connect(autocommit=False))
    other.rows(f"SET keysmith.usage_durability = {path}")
    other.session.commit()
    one, two = request(db, key, 10), request(db, key, 10)
    assert settle(other, one, 50)
    other.session.rollback()
    other.rows("SAVEPOINT s")
    assert settle(other, one, 60)
    own = request(other, key, 10)
    assert settle(other, own, 70)
    other.rows("ROLLBACK TO s; SAVEPOINT t")
    assert settle(other, two, 80)
    other.rows("RELEASE t")
    other.session.commit()
    assert [row(db, request_id).spend for request_id in (one, two, own)] == [10, 80, 10]
    # Of the same request, only what was not rolled back.
    other.rows("SAVEPOINT s")
    assert settle(other, one, 60)
    other.rows("ROLLBACK TO s")
    assert settle(other, one, 61)
    other.session.commit()
    assert row(db, one).spend == 61 and totals(db)[0] == 61 + 80 + 10
    # Or what another session settled meanwhile.
    three = request(db, key, 10)
    other.rows("SAVEPOINT s")
    assert settle(other, three, 60)
    other.rows("ROLLBACK TO s")
    assert settle(db, three, 62)
    other.session.commit()
    assert row(db, three).spend == 62


def test_a_commit_that_fails_leaves_records_as_they_were(db, connect, database, key):
    db.rows("CREATE TABLE skew (n int); INSERT INTO skew VALUES (1)")
    request_id = request(db, key, 10)
    first, second = (database(connect(autocommit=False)) for _ in range(2))
    for each in (first, second):
        each.rows("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        assert each.value("SELECT count(*) FROM skew") == 1
    assert settle(first, request_id, 50)
    first.rows("INSERT INTO skew VALUES (2)")
    second.rows("INSERT INTO skew VALUES (3)")
    second.session.commit()
    with pytest.raises(psycopg.errors.SerializationFailure):
        first.session.commit()
    assert row(db, request_id).spend == 10
    assert settle(db, request_id, 20) and row(db, request_id).spend == 20


@pytest.mark.parametrize("ending, spend", [("COMMIT", 50), ("ROLLBACK", 10)])
def test_a_prepared_transaction_changes_records_that_are_stored(db, connect, database, key, ending, spend):
    stored, waiting = request(db, key, 10), None
    flush(db)
    other = database(connect())
    name = f"{db.value('SELECT current_database()')} settles"
    other.rows("BEGIN; SAVEPOINT s")
    assert settle(other, stored, 40)
    other.rows("ROLLBACK TO s")
    assert settle(other, stored, 50)
    waiting = request(other, key, 10)
    assert settle(other, waiting, 60)
    other.rows(f"PREPARE TRANSACTION '{name}'")
    try:
        assert row(db, stored).spend == 10
    finally:
        db.rows(f"{ending} PREPARED '{name}'")
    # One that was not stored yet keeps what it spent.
    assert [row(db, request_id).spend for request_id in (stored, waiting)] == [spend, 10]


def test_weights_are_told_at_once_as_they_are_settled(db, connect, database, key):
    other = database(connect(autocommit=False))
    request_id = request(db, key, weights=Jsonb({"tokens": 10}))
    other.rows("SET TRANSACTION READ ONLY")
    assert settle(other, request_id, weights={"tokens": 30})
    other.session.rollback()
    assert row(db, request_id).weights == {"tokens": 30}


# Requests whose units no limit names

@pytest.mark.parametrize("weights", [{"pages": 3}, {"calls": 4}, {"pages": 0}])
@pytest.mark.parametrize("limited", [True, False])
def test_requests_that_tell_weights_are_settled_without_a_limit(db, connect, database, weights, limited):
    db.tenant()
    key = db.mint(limits=Jsonb(TOKENS) if limited else None)
    request_id = request(db, key, weights=Jsonb(weights))
    headers = Jsonb({"authorization": f"Bearer {key.api_key}"})
    with db.session.transaction():
        by_headers = db.one("authenticate", headers, "GET", "/", weights=Jsonb(weights)).request_id
    other = database(connect())
    for one in (request_id, by_headers):
        assert [settle(other, one, weights={"pages": 7}), settle(db, one, weights={"pages": 8})] == [True, False]
        assert row(db, one).weights == weights | {"pages": 7}
    assert db.rows("SELECT unit, amount FROM keysmith.usage_units") == [("pages", 14)]


def test_other_requests_are_not_remembered(db):
    db.tenant()
    key = db.mint(limits=Jsonb(TOKENS))
    db.call("define_route", "default", "GET", "/heavy", [], weight=5)
    headers = Jsonb({"authorization": f"Bearer {key.api_key}"})
    with db.session.transaction():
        heavy = db.one("authenticate", headers, "GET", "/heavy").request_id
    ids = [heavy] + [request(db, key, **told) for told in (
        {}, {"weight": 5}, {"weights": Jsonb({})}, {"weights": Jsonb({"calls": 1})}, {"weight": 1, "weights": None})]
    refused = [db.verify(key.api_key, weights=Jsonb({"pages": 3}), **why) for why in ({"environment": "test"}, {"spend": 5})]
    assert not any(verdict.ok for verdict in refused)
    for request_id in [*ids, *(verdict.request_id for verdict in refused)]:
        assert settle(db, request_id, weights={"pages": 7}) is False


# What a keyspace records

@pytest.mark.parametrize("usage_log", ["refusals", "nothing"])
def test_nothing_is_told_of_requests_without_a_record(db, usage_log):
    db.call("create_keyspace", "k", prefixes=Jsonb({"secret": {"live": "k_"}}), usage_log=usage_log)
    db.tenant(keyspace="k")
    key = db.mint(keyspace="k", credits=100)
    before = count(db, "accepted")
    request_id = request(db, key, 10, keyspace="k", weights=Jsonb({"pages": 3}))
    assert settle(db, request_id, 20, {"pages": 4})
    assert count(db, "accepted") == before
    flush(db)
    assert count(db, "amendments_unmatched") == 0 and totals(db) == (None, None)


def test_totals_without_rows_have_what_requests_cost(db, connect, database):
    db.call("create_keyspace", "k", prefixes=Jsonb({"secret": {"live": "k_"}}), usage_log="totals")
    db.tenant(keyspace="k")
    key = db.mint(keyspace="k", credits=1000)
    other = database(connect(autocommit=False))
    ids = [request(db, key, 10, keyspace="k") for _ in range(5)]
    assert totals(db) == (50, 5)
    for request_id, cost in zip(ids, (25, 0, 10)):
        assert settle(db, request_id, cost)
    assert totals(db) == (25 + 0 + 10 + 20, 5)
    assert settle(other, ids[3], 500)
    other.session.rollback()
    other.rows("SAVEPOINT s")
    assert settle(other, ids[3], 500)
    other.rows("ROLLBACK TO s")
    assert settle(other, ids[4], 11)
    other.session.commit()
    assert totals(db) == (25 + 0 + 10 + 10 + 11, 5)
    assert db.rows("SELECT DISTINCT key_id, status, outcome, environment FROM keysmith.usage_hourly") \
        == [(key.key_id, 200, "ok", "live")]
    # The time of the last use is that of the request.
    assert db.value("SELECT count(*) FROM keysmith_private.usage_delta WHERE used_at IS NOT NULL") == 0
    # The totals of a key that is gone follow, too.
    db.rows("UPDATE keysmith_private.key SET revoked_at = now() - interval '9 days', revoked_reason = 'x'")
    assert db.one("purge_keys", "1 day")[0] == 1
    assert settle(db, ids[3], 99) and totals(db) == (25 + 0 + 10 + 99 + 11, 5)


def test_totals_are_of_the_hour_of_the_decision(db):
    db.call("alter_keyspace", "default", Jsonb({"usage_log": "totals"}))
    db.tenant()
    key = db.mint(credits=1000)
    request_id = request(db, key, 10)
    flush(db)
    # An hour that the totals know, though the charge says another one.
    db.rows("UPDATE keysmith_private.charge SET at = at - interval '2 hours'")
    assert settle(db, request_id, 30)
    flush(db)
    assert [tuple(r) for r in db.rows("SELECT requests, spend FROM keysmith.usage_hourly")] == [(1, 30)]


# Bounds

def test_costs_beyond_all_sums(db):
    """Totals go on: usage counts at most 10^12 credits for a request."""
    db.tenant()
    key = db.mint(credits=10)
    ids = [request(db, key, 1) for _ in range(3)]
    flush(db)
    assert [settle(db, request_id, 2**63 - 1) for request_id in ids] == [True] * 3
    assert totals(db) == (3 * 10**12, 3)
    db.call("alter_keyspace", "default", Jsonb({"usage_log": "totals"}))
    db.call("add_credits", 2**62, key_id=db.mint(credits=10).key_id)
    fresh = db.mint(credits=10)
    request_id = request(db, fresh, 1)
    assert settle(db, request_id, 2**63 - 1)
    assert totals(db) == (4 * 10**12, 4)


@pytest.mark.parametrize("many", [1_100, 11_000])
def test_many_in_one_transaction(db, connect, database, many):
    """The transaction amends the rows of these itself."""
    db.tenant()
    keys = [db.mint(credits=10**6) for _ in range(50)]
    for key in keys:
        assert db.value("SELECT count(*) FILTER (WHERE (keysmith.verify(%s, spend => 3)).ok) FROM generate_series(1, %s)",
                        key.api_key, many // 50) == many // 50
    flush(db)
    other = database(connect(autocommit=False))
    settles = """SELECT count(*) FILTER (WHERE keysmith.settle(request_id, %s))
                 FROM (SELECT request_id FROM keysmith_private.charge WHERE settled IS NULL ORDER BY credit_id LIMIT %s) AS c"""
    assert other.value(settles, 9, many) == many
    other.session.rollback()
    assert totals(db) == (3 * many, many)
    # Of the transaction's own request there is no row yet.
    assert settle(other, request(other, keys[0], 3), 5)
    assert other.value(settles, 7, 100) == 100
    other.rows("SAVEPOINT s")
    assert other.value(settles, 8, many) == many - 100
    other.rows("ROLLBACK TO s")
    assert other.value(settles, 7, many) == many - 100
    other.session.commit()
    assert totals(db) == (7 * many + 5, many + 1)
    assert dict(db.rows("SELECT spend, count(*) FROM keysmith.usage GROUP BY 1")) == {7: many, 5: 1}
    assert count(db, "amendments_unmatched") == 0


# After so many settlements the transaction amends their rows, and keeps none in memory.
KEPT = 10_000
KEPT_IN_SAVEPOINT = 50_000
SPENT = "SELECT count(*) FROM keysmith_private.usage_event WHERE spend = %s"


@pytest.fixture
def charges(db, connect, database):
    """A session in a transaction, and a function by which it settles requests that did not settle yet."""
    db.tenant()
    # A row that one transaction changes often gets slow.
    keys = [db.mint(credits=10**6).api_key for _ in range(100)]
    other = database(connect(autocommit=False))

    def make(many, rows):
        """Requests, some of which have rows, which are stored. The others are charges alone."""
        assert db.value("SELECT count(*) FILTER (WHERE (keysmith.verify((%s::text[])[n %% 100 + 1], spend => 3)).ok) "
                        "FROM generate_series(1, %s) AS n", keys, rows) == rows
        flush(db)
        db.rows("""INSERT INTO keysmith_private.charge (request_id, credit_id, tenant_id, key_id, spend, at, keyspace,
                                                     environment, usage_log)
                   SELECT gen_random_uuid(), c.credit_id, k.tenant_id, k.key_id, 3, now(), 'default', 'live', 'everything'
                   FROM generate_series(1, 1000) AS n, keysmith_private.credit c JOIN keysmith_private.key k USING (key_id)
                   ORDER BY n LIMIT %s""", many - rows)

    def settle_all(cost, many, having_rows):
        return other.value("""SELECT count(*) FILTER (WHERE keysmith.settle(request_id, %s)) FROM (
            SELECT request_id FROM keysmith_private.charge c
            WHERE settled IS NULL AND %s = EXISTS (SELECT FROM keysmith_private.usage_event e
                                                   WHERE e.request_id = c.request_id) LIMIT %s) AS c""",
            cost, having_rows, many)

    return other, make, settle_all


def test_a_transaction_keeps_a_bounded_number_in_memory(db, charges):
    other, make, settle_all = charges
    make(KEPT + 1, KEPT + 1)
    assert settle_all(7, KEPT, True) == KEPT
    assert other.value(SPENT, 7) == 0
    # One more, and those before it have their rows amended.
    assert settle_all(8, 1, True) == 1
    assert (other.value(SPENT, 7), db.value(SPENT, 7)) == (KEPT, 0)
    other.session.rollback()
    assert totals(db) == (3 * (KEPT + 1), KEPT + 1)


def test_what_has_no_row_is_forgotten_beyond_the_bound(db, charges):
    other, make, settle_all = charges
    make(KEPT + 2, 1)
    unmatched = count(db, "amendments_unmatched")
    assert settle_all(8, KEPT + 1, False) == KEPT + 1
    # The older half.
    assert count(db, "amendments_unmatched") == unmatched + KEPT // 2
    assert settle_all(7, 1, True) == 1
    other.session.commit()
    flush(db)
    assert db.value(SPENT, 7) == 1


def test_within_a_savepoint_no_row_is_amended(db, charges):
    """The savepoint may be rolled back, and its requests settled again."""
    other, make, settle_all = charges
    make(KEPT + 5, KEPT + 5)
    other.rows("SAVEPOINT s")
    assert settle_all(8, KEPT + 5, True) == KEPT + 5
    assert other.value(SPENT, 8) == 0
    other.rows("ROLLBACK TO s")
    assert settle_all(7, 5, True) == 5
    other.session.commit()
    flush(db)
    assert (db.value(SPENT, 7), db.value(SPENT, 8), db.value(SPENT, 3)) == (5, 0, KEPT)


def test_a_savepoint_keeps_a_bounded_number_in_memory(db, charges):
    other, make, settle_all = charges
    make(KEPT_IN_SAVEPOINT + 4, 3)
    unmatched = count(db, "amendments_unmatched")
    other.rows("SAVEPOINT s")
    assert settle_all(8, KEPT_IN_SAVEPOINT, False) == KEPT_IN_SAVEPOINT
    assert count(db, "amendments_unmatched") == unmatched
    # These are settled, and their rows stay as they were.
    assert settle_all(7, 3, True) == 3
    assert count(db, "amendments_unmatched") == unmatched + 3
    other.rows("RELEASE s")
    other.session.commit()
    flush(db)
    assert (db.value(SPENT, 7), db.value(SPENT, 3)) == (0, 3)
    assert db.value("SELECT count(*) FROM keysmith_private.charge WHERE settled = 7") == 3


@pytest.mark.parametrize("moment", ["pending", "waiting", "stored"])
def test_of_too_many_units_the_same_are_kept_everywhere(db, connect, database, moment):
    db.tenant()
    key = db.mint()
    other = database(connect(autocommit=False))
    first = {"zz": 1, "calls": 2, "longer": 3} | {letter: 4 for letter in "abcdef"}
    second = {letter * 2: 5 for letter in "bcdefg"} | {"a": 6, "zzz": 7}
    request_id = request(other, key, weights=Jsonb(first))
    if moment != "pending":
        other.session.commit()
    if moment == "stored":
        flush(db)
    assert settle(other, request_id, weights=second)
    other.session.commit()
    assert row(db, request_id).weights == second | {"b": 4}


# Without a worker, and after a crash

def test_without_preload_the_transaction_amends_the_row():
    with running("plain", preload=False) as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        key = db.mint(credits=100)
        request_id = request(db, key, 10)
        assert settle(db, request_id, 20)
        with db.session.transaction():
            own = request(db, key, 10)
            assert settle(db, own, 30)
        spends = dict(db.rows("SELECT request_id, spend FROM keysmith.usage"))
        assert spends == {request_id: 20, own: 30}
        db.session.close()


def test_what_is_as_durable_as_the_transaction_is_written_by_it():
    with running("written", keysmith__usage_flush_interval="10min") as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        key = db.mint(credits=100)
        requests = {path: request(db, key, 10) for path in ("async", "commit")}
        flush(db)
        # From here on the worker stores nothing by itself.
        for path, request_id in requests.items():
            db.rows(f"SET keysmith.usage_durability = {path}")
            assert settle(db, request_id, 20)
        spends = dict(db.rows("SELECT request_id, spend FROM keysmith_private.usage_event"))
        assert spends == {requests["async"]: 10, requests["commit"]: 20}
        db.session.close()


def test_what_is_as_durable_as_the_transaction_outlasts_a_crash():
    with running("durable", keysmith__usage_durability="commit", keysmith__usage_flush_interval="10min") as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        key = db.mint(credits=100)
        one, two = request(db, key, 10), request(db, key, 10)
        # From here on the worker stores nothing by itself.
        flush(db)
        assert settle(db, one, 20)
        open_session = session(cluster)
        open_session.rows("BEGIN")
        assert settle(open_session, two, 30)
        crash(cluster, db)
        db = session(cluster)
        assert dict(db.rows("SELECT request_id, spend FROM keysmith.usage")) == {one: 20, two: 10}
        db.session.close()
