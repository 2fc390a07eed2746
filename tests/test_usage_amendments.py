"""log_request by request_id: it finds its request, and invented ids cost others nothing."""

import os
import signal
import time
import uuid

import pytest

from cluster import running
from conftest import session, wait_until
from test_standby import parcel
from test_usage_direct import statements_that_counted
from test_usage_pipeline import count, flush, status, stored
from test_usage_worker import worker_pid

# An id of version 7, with a time so many seconds from now.
NAME = """(lpad(to_hex(((extract(epoch FROM clock_timestamp()) + {}) * 1000)::bigint), 12, '0') || '7'
           || substr(md5(random()::text), 1, 3) || '8' || substr(md5(random()::text), 1, 15))::uuid"""
TELL = "SELECT count(*) FILTER (WHERE keysmith.log_request(299, request_id => {})) FROM generate_series(1, {})"


@pytest.fixture(scope="module")
def quiet():
    """A cluster whose worker stores on demand, and reports which functions ran."""
    with running("amendments", keysmith__usage_flush_interval="10min", track_functions="all") as cluster:
        yield cluster


@pytest.fixture
def db(quiet):
    quiet.execute("CREATE DATABASE amended")
    db = session(quiet, "amended")
    db.rows("CREATE EXTENSION keysmith")
    db.tenant()
    yield db
    db.session.close()
    quiet.execute("DROP DATABASE amended WITH (FORCE)")


@pytest.fixture
def key(db):
    key = db.mint().api_key
    # The worker stores records immediately when it starts.
    db.verify(key)
    flush(db)
    return key


@pytest.mark.parametrize("name", ["gen_random_uuid()", "'00000000-0000-0000-0000-000000000000'",
                                  "'ffffffff-ffff-ffff-ffff-ffffffffffff'",
                                  NAME.format(-31 * 86400), NAME.format(600)])
def test_a_name_that_no_request_can_have_is_not_taken(db, key, name):
    accepted = count(db, "accepted")
    assert db.value(TELL.format(name, 100)) == 0
    assert count(db, "accepted") == accepted and count(db, "waiting") == 0


def test_names_of_other_forms_are_completed_where_they_are(db, key):
    """The request is this transaction's own."""
    db.rows("BEGIN")
    request_id = db.verify(key).request_id
    assert db.one("log_request", 201, request_id=request_id)[0]
    db.rows("COMMIT")
    flush(db)
    assert db.value("SELECT status FROM keysmith_private.usage_event WHERE request_id = %s", request_id) == 201


def test_made_up_names_take_no_room_from_requests(db, key):
    """They have a share of the queue; beyond it the calling transaction writes them."""
    share = count(db, "share")
    pid = worker_pid(db)
    before = statements_that_counted(db)
    os.kill(pid, signal.SIGSTOP)
    try:
        with db.session.transaction():
            db.rows("SET TRANSACTION READ ONLY")
            assert db.value(TELL.format(NAME.format(-1), 40_000)) == share // 4
            assert db.value("SELECT count(*) FILTER (WHERE (keysmith.verify(%s)).ok) "
                            "FROM generate_series(1, 3000)", key) == 3000
        assert db.value(TELL.format(NAME.format(-1), 20_000)) == 20_000
    finally:
        os.kill(pid, signal.SIGCONT)
    flush(db)
    now = status(db)
    assert stored(db) == 3001
    assert (now["dropped"], now["failures"], now["worker_pid"]) == (0, 0, pid)
    # A batch is one statement, for any number of ids; and few wait for their requests.
    assert statements_that_counted(db) - before < 60
    assert now["waiting"] == 1000
    assert now["amendments_unmatched"] == 20_000 + share // 4 - 1000


def test_many_are_completed_by_one_statement(db, key, quiet):
    names = [db.verify(key).request_id for _ in range(50)]
    flush(db)
    other = session(quiet, "amended")
    before = statements_that_counted(db)
    for n, name in enumerate(names):
        assert other.one("log_request", 300 + n, f"{n} ms", f"/{n}", "PUT" if n % 2 else None, name)[0]
    assert other.one("log_request", 418, request_id=names[0])[0]
    other.session.close()
    flush(db)
    assert statements_that_counted(db) - before == 1
    rows = db.rows("SELECT status, latency, endpoint, method FROM keysmith_private.usage_event "
                   "WHERE endpoint IS NOT NULL ORDER BY sequence")
    assert [(row.status, row.latency.microseconds, row.endpoint, row.method) for row in rows] == [
        (418 if n == 0 else 300 + n, n * 1000, f"/{n}", "PUT" if n % 2 else None) for n in range(50)]
    assert db.value("SELECT count(DISTINCT status) FROM keysmith.usage_daily") == 51


def test_a_row_that_someone_has_locked_holds_up_no_other(db, key, quiet):
    first, second = (db.verify(key).request_id for _ in range(2))
    flush(db)
    rows = dict.fromkeys([first, second])
    with quiet.connect("amended", autocommit=False) as blocker:
        blocker.execute("UPDATE keysmith_private.usage_event SET status = 500 WHERE request_id = %s", [first])
        for name in rows:
            assert db.one("log_request", 201, request_id=name)[0]
        db.verify(key)
        flush(db)
        assert stored(db) == 4
        assert db.value("SELECT status FROM keysmith_private.usage_event WHERE request_id = %s", second) == 201
        assert count(db, "failures") == 0
        blocker.commit()
    flush(db)
    db.verify(key)
    flush(db)
    assert db.value("SELECT status FROM keysmith_private.usage_event WHERE request_id = %s", first) == 201


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_what_is_told_in_any_transaction_arrives(db, key, quiet, isolation):
    """Also if the transaction writes it itself, and can't see the row."""
    db.rows("SET keysmith.usage_durability = 'commit'")
    db.rows(f"BEGIN ISOLATION LEVEL {isolation}")
    db.value("SELECT 1")
    other = session(quiet, "amended")
    name = other.verify(key).request_id
    flush(other)
    own = db.verify(key).request_id
    assert db.one("log_request", 202, request_id=name)[0]
    db.rows("COMMIT")
    flush(other)
    other.verify(key)
    flush(other)
    wait_until(lambda: other.value(
        "SELECT status FROM keysmith_private.usage_event WHERE request_id = %s", name) == 202)
    assert other.value("SELECT count(*) FROM keysmith_private.usage_event WHERE request_id = %s", own) == 1
    other.session.close()


def test_what_is_told_early_outlasts_the_worker(db, key, quiet):
    """The request's transaction is still open when the worker ends."""
    holder = session(quiet, "amended")
    holder.rows("BEGIN")
    name = holder.verify(key).request_id
    assert db.one("log_request", 418, "1 s", request_id=name)[0]
    flush(db)
    pid = worker_pid(db)
    assert count(db, "waiting") == 1
    db.rows("SELECT pg_terminate_backend(%s)", pid)
    wait_until(lambda: worker_pid(db) not in (pid, None))
    holder.rows("COMMIT")
    flush(db)
    row = db.row("SELECT status, latency FROM keysmith_private.usage_event WHERE request_id = %s", name)
    assert (row.status, row.latency.seconds) == (418, 1)
    wait_until(lambda: count(db, "waiting") == 0)
    assert count(db, "amendments_unmatched") == 0
    holder.session.close()


def test_what_is_told_early_outlasts_a_restart():
    with running("early", keysmith__usage_flush_interval="10min") as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        key = db.mint().api_key
        holder = session(cluster)
        holder.rows("BEGIN")
        name = holder.verify(key).request_id
        assert db.one("log_request", 418, request_id=name)[0]
        flush(db)
        cluster.restart()
        db = session(cluster)
        flush(db)
        assert db.rows("SELECT status FROM keysmith_private.usage_event") == [(418,)]


def test_what_finds_no_request_for_a_minute_is_given_up_and_counted(db, key):
    name = uuid.UUID(db.value(f"SELECT {NAME.format(-90)}::text"))
    for seconds, waiting, unmatched in [(0, 1, 0), (90, 1, 1)]:
        at = int((time.time() - seconds - 946_684_800) * 1_000_000)  # not checked: a point in time
        amendment = b"\2" + name.bytes + b"\1" + (201).to_bytes(4, "little") + at.to_bytes(8, "little")
        db.rows("SELECT keysmith.usage_collect('there', %s, 10, true, 0, %s, 0, '', '')",
                seconds + 5, parcel(amendment))
        flush(db)
        assert (count(db, "waiting"), count(db, "amendments_unmatched")) == (waiting, unmatched)
