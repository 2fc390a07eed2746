"""What `settle` says reaches the totals of requests without rows: of those that were counted, and of no others."""

import pytest
from psycopg.types.json import Jsonb

from cluster import running
from conftest import session, wait_until
from test_settle_usage import request, settle
from test_usage_pipeline import crash, flush, kill_process, status
from test_usage_worker import worker_pid

# Long enough that records wait until a test wants them stored.
SLOWLY = {"keysmith__usage_flush_interval": "10min"}


def prepare(db, usage_log="totals", credits=10**6):
    db.rows("CREATE EXTENSION IF NOT EXISTS keysmith")
    db.tenant()
    log(db, usage_log)
    db.call("alter_keyspace", "default", Jsonb({"usage_tags": ["model"]}))
    return db.mint(credits=credits)


def log(db, usage_log):
    db.call("alter_keyspace", "default", Jsonb({"usage_log": usage_log}))


@pytest.fixture(scope="module")
def quiet():
    with running("settled", **SLOWLY) as cluster:
        yield cluster


@pytest.fixture
def db(quiet):
    quiet.execute("CREATE DATABASE settled")
    db = session(quiet, "settled")
    yield db
    db.session.close()
    quiet.execute("DROP DATABASE settled (FORCE)")


@pytest.fixture
def connect_to(quiet, db):
    """Opens sessions of the same database."""
    opened = []

    def open_session(**options):
        opened.append(session(quiet, "settled", **options))
        return opened[-1]
    yield open_session
    for each in opened:
        each.session.close()


def same_after_a_fold(db, statement):
    flush(db)
    before = db.rows(statement)
    db.rows("SELECT keysmith_private.usage_fold()")
    assert db.rows(statement) == before
    return before


def groups(db):
    return same_after_a_fold(db, "SELECT status, sum(requests) AS requests, sum(spend) AS spend FROM keysmith.usage_hourly "
                                 "GROUP BY status ORDER BY status")


def reported(db, key, spend, endpoint="/images"):
    """A request whose status, endpoint and model the application reports."""
    with db.session.transaction():
        request_id = request(db, key, spend)
        db.rows("SELECT keysmith.log_request(201, NULL, %s, 'POST', %s, %s)", endpoint, request_id, Jsonb({"model": "xl"}))
    return request_id


def first_is_a_sample(db, key, count=3):
    requests = [reported(db, key, 100) for _ in range(count)]
    flush(db)
    sample = db.value("SELECT request_id FROM keysmith.usage LIMIT 1")
    assert sample in requests
    return sample, next(one for one in requests if one != sample)


def test_all_totals_and_samples_follow(db):
    key = prepare(db)
    db.session.autocommit = True
    sample, counted = first_is_a_sample(db, key)
    assert settle(db, sample, 10) and settle(db, counted, 170)
    assert groups(db) == [(201, 3, 280)]
    for view, column in (("usage_endpoints", "endpoint"), ("usage_tags", "value")):
        found = same_after_a_fold(db, f"SELECT {column}, sum(requests) AS requests, sum(spend) AS spend "
                                      f"FROM keysmith.{view} GROUP BY 1")
        assert found == [({"endpoint": "/images", "value": "xl"}[column], 3, 280)]
    assert db.value("SELECT spend FROM keysmith.usage") == 10
    assert db.value("SELECT amount FROM keysmith_private.usage_sum") == 280


def test_what_is_settled_before_it_is_stored(db):
    key = prepare(db)
    db.session.autocommit = True
    requests = [reported(db, key, 100) for _ in range(3)]
    assert all(settle(db, one, 40) for one in requests)
    assert groups(db) == [(201, 3, 120)]


@pytest.mark.parametrize("usage_log", ["nothing", "refusals", "everything"])
def test_what_counts_is_how_the_request_was_recorded(db, usage_log):
    key = prepare(db, usage_log)
    other = request(db, key, 5000)
    log(db, "totals")
    counted = request(db, key, 70)
    assert settle(db, other, 0)
    log(db, usage_log)
    assert settle(db, counted, 7)
    is_recorded = usage_log == "everything"
    assert groups(db) == [(200, 2, 7) if is_recorded else (200, 1, 7)]
    if is_recorded:
        assert db.value("SELECT spend FROM keysmith.usage WHERE request_id = %s", other) == 0
    assert status(db)["amendments_unmatched"] == 0


def forgotten(db, key):
    """A request that was counted without a row, and that the worker no longer remembers."""
    first, second = (request(db, key, 100) for _ in range(2))
    flush(db)
    one = first if db.value("SELECT request_id FROM keysmith.usage") == second else second
    worker = worker_pid(db)
    db.rows("SELECT pg_terminate_backend(%s, 10000)", worker)
    wait_until(lambda: worker_pid(db) != worker)
    return one


@pytest.mark.parametrize("path", ["async", "commit", "prepared"])
def test_a_request_that_the_worker_forgot_changes_the_sums(db, path):
    key = prepare(db)
    one = forgotten(db, key)
    if path == "commit":
        db.rows("SET keysmith.usage_durability = 'commit'")
    if path == "prepared":
        db.rows("BEGIN")
    assert settle(db, one, 30)
    if path == "prepared":
        db.rows("PREPARE TRANSACTION 'settled'")
        db.rows("COMMIT PREPARED 'settled'")
    flush(db)
    # The sums are right. Nobody knows the request's status any more.
    assert groups(db) == [(200, 2, 130)]
    assert status(db)["amendments_unmatched"] == 0


def test_the_totals_of_a_purged_key_follow(db):
    key = prepare(db)
    one = forgotten(db, key)
    db.rows("SELECT keysmith.revoke(%s)", key.key_id)
    db.rows("UPDATE keysmith_private.key SET revoked_at = now() - interval '400 days'")
    assert db.value("SELECT keysmith.purge_keys('1 day')")
    assert settle(db, one, 0)
    assert groups(db) == [(200, 2, 100)]


@pytest.mark.parametrize("end", ["worker", "postmaster"])
def test_what_a_crash_lost_is_not_taken_back(end):
    with running("lost", **SLOWLY) as cluster:
        db = session(cluster)
        key = prepare(db)
        stored = request(db, key, 1000)
        flush(db)
        # Requests that were decided shortly before the last flush may have waited then.
        db.rows("UPDATE keysmith_private.charge SET at = at - interval '1 hour'")
        lost = [request(db, key, 5000) for _ in range(3)]
        if end == "postmaster":
            crash(cluster, db)
        else:
            kill_process(cluster, db, worker_pid(db))
        db = session(cluster)
        assert settle(db, stored, 600)
        assert all(settle(db, one, 0) for one in lost)
        flush(db)
        # The request was perhaps decided in the hour before.
        assert same_after_a_fold(db, "SELECT sum(requests) AS requests, sum(spend) AS spend FROM keysmith.usage_hourly") == [(1, 600)]


def test_a_row_that_was_deleted_is_in_no_total(db):
    key = prepare(db, "everything")
    one, two = (request(db, key, 100) for _ in range(2))
    flush(db)
    db.rows("DELETE FROM keysmith_private.usage_event WHERE request_id = %s", one)
    assert settle(db, one, 0) and settle(db, two, 50)
    assert groups(db) == [(200, 1, 50)]


def test_requests_beyond_those_that_are_remembered():
    with running("few", keysmith__max_unsettled=1, **SLOWLY) as cluster:
        db = session(cluster)
        key = prepare(db)
        requests = [request(db, key, 100) for _ in range(4)]
        flush(db)
        assert all(settle(db, one, 40) for one in requests)
        assert groups(db) == [(200, 4, 160)]
        assert status(db)["amendments_unmatched"] == 0


def test_a_difference_is_added_once(db, connect_to):
    """The same settlement may be told twice: again after a savepoint was rolled back."""
    key = prepare(db)
    one = forgotten(db, key)
    other = connect_to(autocommit=False)
    other.rows("SAVEPOINT s")
    assert settle(other, one, 30)
    other.rows("ROLLBACK TO s")
    assert settle(other, one, 30)
    other.session.commit()
    assert groups(db) == [(200, 2, 130)]
    # And what a worker told again adds nothing.
    assert db.value("SELECT usage_log FROM keysmith_private.charge WHERE request_id = %s", one) == "nothing"


def test_a_transaction_with_many_settlements(db, connect_to):
    """Beyond those that are told to the worker one by one, and as durable as the transaction."""
    key = prepare(db)
    db.session.autocommit = True
    requests = [reported(db, key, 100) for _ in range(1100)]
    flush(db)
    other = connect_to(autocommit=False)
    assert other.value("SELECT count(*) FROM unnest(%s::uuid[]) AS id WHERE keysmith.settle(id, 10)", requests) == 1100
    other.session.commit()
    other.rows("SET keysmith.usage_durability = 'commit'")
    last = reported(db, key, 100)
    flush(db)
    assert settle(other, last, 20)
    other.session.commit()
    assert groups(db) == [(201, 1101, 11020)]
    assert db.rows("SELECT sum(requests) AS requests, sum(spend) AS spend FROM keysmith.usage_endpoints") == [(1101, 11020)]


def test_a_loss_of_a_standby_is_no_loss_of_the_primary(db):
    key = prepare(db)
    one = forgotten(db, key)
    db.rows("""INSERT INTO keysmith_private.usage_incarnation
                   (incarnation, database, server, started_at, most_waiting, lost_at_most, lost_from, lost_until)
               SELECT 1, oid, 1, '2000-01-01', 1, 1, '2000-01-01', now() + interval '1 day'
               FROM pg_database WHERE datname = current_database()""")
    assert settle(db, one, 30)
    assert groups(db) == [(200, 2, 130)]


def test_nothing_is_added_for_requests_that_may_have_been_dropped(db):
    key = prepare(db)
    one = forgotten(db, key)
    db.rows("UPDATE keysmith_private.usage_incarnation SET dropped_at = now()")
    assert settle(db, one, 30)
    assert groups(db) == [(200, 2, 200)]
