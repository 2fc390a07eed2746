"""usage_log => 'totals': requests are counted exactly, and leave no rows but a few samples."""

import shutil
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from psycopg.types.json import Jsonb

from cluster import running
from conftest import session, wait_until
from test_idle import age
from test_standby import pair
from test_storage import dump
from test_usage_direct import CHANGES, SOMEBODYS, statements_that_counted
from test_usage_pipeline import crash, flush, kill_process, status, stored
from test_usage_worker import left_over, worker_pid

# Long enough that records wait until a test wants them stored.
SLOWLY = {"keysmith__usage_flush_interval": "10min"}


def log(db, usage_log="totals", keyspace="default"):
    db.call("alter_keyspace", keyspace, Jsonb({"usage_log": usage_log}))


def minutes(db):
    """How many minutes can have begun since the database was prepared, and so samples of one kind."""
    return 2 + (time.monotonic() - db.prepared_at) // 60


def prepare(db):
    """A keyspace without rows, and a worker that has started."""
    db.prepared_at = time.monotonic()
    db.rows("CREATE EXTENSION keysmith")
    db.tenant()
    key = db.mint().api_key
    db.verify(key)
    flush(db)
    db.rows("DELETE FROM keysmith_private.usage_event")
    db.rows("SELECT keysmith_private.usage_fold()")
    log(db)
    return key


@pytest.fixture(scope="module")
def quiet():
    """A cluster whose worker stores on demand, and reports which functions ran."""
    with running("counted", track_functions="all", **SLOWLY) as cluster:
        yield cluster


@pytest.fixture
def db(quiet):
    quiet.execute("CREATE DATABASE counted")
    db = session(quiet, "counted")
    db.key = prepare(db)
    yield db
    db.session.close()
    quiet.execute("DROP DATABASE counted WITH (FORCE)")


def totals(db, columns="outcome"):
    """The number of requests by outcome, as hours and days have them."""
    hours = db.rows(f"SELECT {columns}, sum(requests) FROM keysmith.usage_hourly GROUP BY 1 ORDER BY 1")
    assert hours == db.rows(f"SELECT {columns}, sum(requests) FROM keysmith.usage_daily GROUP BY 1 ORDER BY 1")
    return dict(hours)


def decide(db, key, count):
    """Many requests in one statement, each with a record."""
    db.rows("SELECT count((keysmith.verify(%s)).ok) FROM generate_series(1, %s)", key, count)


def pages_agree(db, tenant="acme"):
    """Whether the pages have all rows, and count no others."""
    rows = db.rows("SELECT e.request_id FROM keysmith_private.usage_event e JOIN keysmith_private.tenant t USING (tenant_id) "
                   "WHERE t.name = %s ORDER BY at DESC, incarnation DESC, sequence DESC", tenant)
    found = []
    for page in range(1, len(rows) // 50 + 3):
        answer = db.one("usage_logs", tenant, page=page)[0]
        assert answer["meta"]["total"] == len(rows)
        found += [uuid.UUID(row["request_id"]) for row in answer["data"]]
    return found == [row.request_id for row in rows]


# Counts without rows

def test_requests_are_counted_and_leave_samples(db):
    headers = Jsonb({"authorization": f"Bearer {db.key}"})
    decide(db, db.key, 300)
    for n in range(20):
        db.verify(db.key, environment="test")
        db.one("authenticate", headers, "GET", f"/v1/{n % 2}", "192.0.2.1")
        last = db.verify(db.key, weights=Jsonb({"tokens": 5}))
    before = statements_that_counted(db)
    flush(db)
    assert statements_that_counted(db) == before
    for _ in range(2):
        assert totals(db) == {"ok": 340, "wrong_environment": 20}
        assert db.rows("SELECT endpoint, requests FROM keysmith.usage_endpoints ORDER BY 1") \
            == [("/v1/0", 10), ("/v1/1", 10)]
        assert db.rows("SELECT unit, amount FROM keysmith.usage_units") == [("tokens", 100)]
        used = db.value("SELECT last_used_at FROM keysmith.keys WHERE key_id = %s", last.key_id)
        assert used == db.value("SELECT max(coalesce(d.used_at, l.used_at)) FROM keysmith_private.usage_delta d "
                                "FULL JOIN keysmith_private.usage_last l USING (key_id)") is not None
        assert pages_agree(db)
        assert db.one("usage_fold")[0] >= 0
    samples = db.rows("SELECT outcome, count(*) AS n FROM keysmith_private.usage_event GROUP BY 1")
    assert {row.outcome for row in samples} == {"ok", "wrong_environment"} and all(row.n <= minutes(db) for row in samples)
    now = status(db)
    assert (now["waiting"], now["quarantined"], now["failures"]) == (0, 0, 0)
    assert now["stored"] == 361


def test_samples_are_bounded(db):
    keys = []
    for n in range(150):
        db.tenant(f"tenant {n}")
        keys.append(db.mint(f"tenant {n}").api_key)
    for _ in range(3):
        db.call("verify_many", keys)
        flush(db)
    assert totals(db) == {"ok": 450}
    assert 100 <= stored(db) <= 100 * minutes(db)
    assert db.value("SELECT count(*) FROM keysmith.usage_hourly") == 150


def test_spent_credits_are_counted(db):
    db.tenant("paying", credits=Jsonb({"balance": 1000}))
    key = db.mint("paying").api_key
    for _ in range(5):
        assert db.verify(key, spend=7).ok
    flush(db)
    assert db.value("SELECT sum(spend) FROM keysmith.usage_daily") == 35


def test_rows_and_counts_are_paged_and_summed_together(db):
    """The log of a keyspace is switched back and forth."""
    sent = 0
    for usage_log in ["everything", "totals", "everything", "totals", "nothing", "everything"]:
        log(db, usage_log)
        decide(db, db.key, 60)
        sent += 60 * (usage_log != "nothing")
        flush(db)
        assert totals(db) == {"ok": sent}
        assert pages_agree(db)
        if usage_log == "totals":
            db.one("usage_fold")
            assert pages_agree(db)
    db.rows("DELETE FROM keysmith_private.usage_event WHERE sequence % 2 = 0")
    assert pages_agree(db)
    db.one("usage_fold")
    assert pages_agree(db)
    gone = db.row("SELECT sum(requests) AS requests, sum(gone) AS gone FROM keysmith_private.usage_day")
    assert gone.requests - gone.gone == stored(db)


def test_marks_number_rows_alone(db):
    """A thousand rows among as many counted requests: pages start at a mark."""
    for usage_log in ["everything", "totals"] * 2:
        log(db, usage_log)
        decide(db, db.key, 1200)
        flush(db)
    db.one("usage_fold")
    assert db.value("SELECT max(position) FROM keysmith_private.usage_mark") == 2000
    assert totals(db) == {"ok": 4800}
    assert pages_agree(db)


# What is told later

def test_reports_before_the_record_is_stored_are_counted(db):
    with db.session.transaction():
        db.verify(db.key)
        db.one("log_request", 503, "8 ms", endpoint="/own")
    request_id = db.verify(db.key).request_id
    # The record is in the queue, and so is the report.
    db.verify(db.key)
    db.one("log_request", 504, request_id=request_id)
    flush(db)
    assert totals(db, "status") == {200: 1, 503: 1, 504: 1}
    assert db.rows("SELECT endpoint, requests FROM keysmith.usage_endpoints") == [("/own", 1)]


def test_a_report_about_a_request_without_weights_comes_too_late(db):
    """It waits for nothing, and is counted."""
    decide(db, db.key, 5)
    request_id = db.verify(db.key).request_id
    flush(db)
    db.one("log_request", 503, request_id=request_id)
    flush(db)
    now = status(db)
    assert (now["amendments_unmatched"], now["waiting"]) == (1, 0)
    assert totals(db, "status") == {200: 6}


def test_a_report_about_a_request_with_weights_changes_the_totals(db):
    decide(db, db.key, 5)
    request_id = db.verify(db.key, weights=Jsonb({"tokens": 5})).request_id
    flush(db)
    for code, latency in [(503, "8 ms"), (504, None)]:
        db.one("log_request", code, latency, request_id=request_id, endpoint="/own")
        flush(db)
        for _ in range(2):
            assert totals(db, "status") == {200: 5, code: 1}
            assert db.rows("SELECT endpoint, requests FROM keysmith.usage_endpoints") == [("/own", 1)]
            assert db.rows("SELECT unit, amount FROM keysmith.usage_units") == [("tokens", 5)]
            assert db.value("SELECT sum(latency * requests) FROM keysmith.usage_hourly").microseconds == 8000
            assert pages_agree(db)
            db.one("usage_fold")
    assert status(db)["amendments_unmatched"] == 0


def test_the_worker_stays_while_it_remembers_requests():
    """One of another database, which remembers none, goes after a tenth of a second without requests."""
    with running("staying", keysmith__usage_flush_interval="10ms") as cluster:
        db = session(cluster)
        key = prepare(db)
        decide(db, key, 2)
        request_id = db.verify(key, weights=Jsonb({"tokens": 5})).request_id
        flush(db)
        pid = worker_pid(db)
        cluster.execute("CREATE DATABASE other")
        other = session(cluster, "other")
        decide(other, prepare(other), 2)
        flush(other)
        wait_until(lambda: status(other)["worker"] == "none")
        other.session.close()
        assert worker_pid(db) == pid
        db.one("log_request", 503, request_id=request_id)
        flush(db)
        assert totals(db, "status") == {200: 2, 503: 1}
        db.session.close()


def test_a_report_about_a_sample_changes_its_row(db):
    request_id = db.verify(db.key).request_id
    flush(db)
    db.one("log_request", 503, request_id=request_id)
    flush(db)
    assert db.rows("SELECT request_id, status FROM keysmith_private.usage_event") == [(request_id, 503)]
    assert totals(db, "status") == {503: 1}


# Other ways into the tables

def test_a_transaction_counts_what_it_writes_itself(db):
    db.rows("SET keysmith.usage_durability = 'commit'")
    with db.session.transaction():
        decide(db, db.key, 100)
    assert totals(db) == {"ok": 100}
    assert stored(db) <= minutes(db)
    db.rows("BEGIN")
    decide(db, db.key, 100)
    db.rows("ROLLBACK")
    flush(db)
    assert pages_agree(db) and status(db)["written_through"] >= 100
    db.rows("SET default_transaction_isolation = 'serializable'")
    with db.session.transaction():
        decide(db, db.key, 100)
    assert totals(db)["ok"] >= 200


def test_without_shared_memory_there_are_counts_and_no_samples():
    with running("unloaded", shared_preload_libraries="") as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        key = db.mint().api_key
        log(db)
        decide(db, key, 100)
        for _ in range(3):
            with db.session.transaction():
                db.verify(key)
                db.one("log_request", 503)
        assert totals(db, "status") == {200: 100, 503: 3}
        assert db.value("SELECT last_used_at FROM keysmith.keys") is not None
        assert stored(db) == 0
        db.session.close()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_tables_that_are_not_as_we_made_them(db, change):
    db.rows(SOMEBODYS)
    db.rows(change)
    decide(db, db.key, 60)
    flush(db)
    assert totals(db) == {"ok": 60}
    if "usage_delta" in change:
        assert db.value("SELECT count(*) FROM seen") >= 1
    assert pages_agree(db) and status(db)["failures"] == 0


def test_a_trigger_for_rows_of_requests_that_is_disabled_concerns_rows(db):
    """A request that is only counted has nothing but its count."""
    db.verify(db.key)
    flush(db)
    db.rows("ALTER TABLE keysmith_private.usage_event DISABLE TRIGGER usage_inserted")
    decide(db, db.key, 60)
    flush(db)
    assert totals(db)["ok"] >= 60
    assert status(db)["failures"] == 0


def test_a_day_needs_no_partition(db):
    db.verify(db.key)
    flush(db)
    (name,) = db.row("SELECT tableoid::regclass::text FROM keysmith_private.usage_event")
    decide(db, db.key, 60)
    db.rows(f"DROP TABLE {name}")
    flush(db)
    assert totals(db) == {"ok": 61}


def test_a_record_that_can_not_be_counted_is_set_aside(db):
    other = db.mint()
    db.rows("ALTER TABLE keysmith_private.usage_delta ADD CONSTRAINT own CHECK (key_id <> '{}')".format(other.key_id))
    decide(db, db.key, 10)
    request_id = db.verify(other.api_key).request_id
    decide(db, db.key, 10)
    flush(db)
    assert totals(db) == {"ok": 20}
    assert db.rows("SELECT request_id FROM keysmith_private.usage_set_aside") == [(request_id,)]


# Each once

def test_writers_are_counted_exactly_while_workers_end(db, quiet):
    writers, each = 8, 1500
    ends = threading.Event()

    def write(_):
        own = session(quiet, "counted")
        for _ in range(each // 100):
            decide(own, db.key, 100)
        own.session.close()

    def kill():
        killer = session(quiet, "counted")
        kills = 0
        while not ends.wait(0.3) or kills < 3:
            # The server goes on.
            kills += killer.value("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                                  "WHERE backend_type ~ 'keysmith' AND datname = 'counted'")
            decide(killer, db.key, 1)
            killer.rows("SELECT keysmith.flush_usage()")
        killer.session.close()

    killing = threading.Thread(target=kill)
    killing.start()
    try:
        with ThreadPoolExecutor(writers) as pool:
            list(pool.map(write, range(writers)))
    finally:
        ends.set()
        killing.join()
    flush(db)
    accepted = status(db)["accepted"]
    assert accepted >= writers * each
    # One request was stored before the keyspace had no rows.
    assert totals(db) == {"ok": accepted - 1}
    assert pages_agree(db)


@pytest.mark.parametrize("end", ["worker", "postmaster"])
def test_what_is_counted_outlasts_a_sudden_end_and_is_counted_once(end):
    with running("ended", **SLOWLY) as cluster:
        db = session(cluster)
        key = prepare(db)
        decide(db, key, 500)
        flush(db)
        decide(db, key, 500)
        if end == "worker":
            # All sessions end, and shared memory is made again. The waiting records are lost, and reported.
            kill_process(cluster, db, worker_pid(db))
        else:
            crash(cluster, db)
        db = session(cluster)
        decide(db, key, 500)
        flush(db)
        assert totals(db) == {"ok": 1000}
        assert db.value("SELECT losses FROM keysmith.usage_status()") == 1
        db.session.close()


def test_what_waits_outlasts_a_restart():
    """First no worker can start, so that the server writes a file. It is there twice."""
    with running("restarted", **SLOWLY) as cluster:
        db = session(cluster)
        key = prepare(db)
        db.session.close()
        cluster.configure(max_worker_processes=1)
        cluster.restart()
        db = session(cluster)
        decide(db, key, 1000)
        db.session.close()
        cluster.configure(max_worker_processes=8)
        cluster.restart()
        file = left_over(cluster)
        content = file.read_bytes()
        for _ in range(2):
            db = session(cluster)
            flush(db)
            assert totals(db) == {"ok": 1000}
            assert pages_agree(db)
            db.session.close()
            cluster.stop()
            file.write_bytes(content)
            shutil.chown(file, cluster.log.owner(), cluster.log.group())
            cluster.start()


def test_what_a_standby_decided_is_counted_on_the_primary():
    with pair() as (_, standby, db):
        db.prepared_at = time.monotonic()
        key = db.mint().api_key
        log(db)
        db.call("wait_for_replay")
        replica = session(standby)
        decide(replica, key, 300)
        replica.call("flush_usage")
        assert totals(db) == {"ok": 300}
        assert stored(db) <= minutes(db)
        replica.session.close()
        standby.stop()
        standby.start()
        replica = session(standby)
        decide(replica, key, 100)
        replica.call("flush_usage")
        assert totals(db) == {"ok": 400}
        assert pages_agree(db)
        replica.session.close()


# What else reads usage

def test_what_is_erased_dropped_and_purged(db):
    db.call("create_keyspace", "other", prefixes=Jsonb({"secret": {"live": "o_"}}), usage_log="totals")
    tenant = db.tenant("acme", keyspace="other")
    key = db.mint(keyspace="other").api_key
    kept = db.verify(key, keyspace="other", weights=Jsonb({"tokens": 5})).request_id
    decide(db, db.key, 10)
    db.verify(key, keyspace="other", ip="192.0.2.1", subject="ann", weights=Jsonb({"tokens": 5}))
    db.call("erase_tenant", "acme", keyspace="other")
    flush(db)
    assert totals(db, "keyspace") == {"default": 10, "other": 2}
    assert not db.rows("SELECT FROM keysmith_private.usage_event WHERE ip IS NOT NULL OR subject IS NOT NULL")
    db.verify(key, keyspace="other")
    db.call("drop_keyspace", "other")
    db.one("log_request", 503, request_id=kept)
    flush(db)
    assert totals(db, "keyspace") == {"default": 10}
    for table in ("usage_delta", "usage_unit_delta", "usage_hour", "usage_day", "usage_unit"):
        assert not db.rows(f"SELECT FROM keysmith_private.{table} WHERE tenant_id = %s", tenant)
    db.call("revoke", db.verify(db.key).key_id)
    db.rows("UPDATE keysmith_private.key SET revoked_at = revoked_at - interval '2 days'")
    flush(db)
    assert db.value("SELECT purge_keys FROM keysmith.purge_keys('1 day')") == 1
    assert totals(db) == {"ok": 11}


def test_counts_are_kept_when_rows_are_dropped(db):
    decide(db, db.key, 100)
    flush(db)
    rows = stored(db)
    db.one("usage_fold")
    db.rows("SELECT keysmith_private.usage_drop_old(now() + interval '2 days')")
    assert 1 <= rows <= minutes(db) and stored(db) == 0
    assert totals(db) == {"ok": 100}
    assert pages_agree(db)
    decide(db, db.key, 10)
    flush(db)
    assert totals(db) == {"ok": 110}
    assert pages_agree(db)


def test_a_dump_restores_counts(quiet, db):
    decide(db, db.key, 100)
    flush(db)
    db.one("usage_fold")
    decide(db, db.key, 10)
    flush(db)
    quiet.execute("CREATE DATABASE restored")
    try:
        quiet.psql(dump(quiet, "counted"), "restored")
        restored = session(quiet, "restored")
        assert totals(restored) == {"ok": 110}
        assert pages_agree(restored)
        decide(restored, db.key, 10)
        flush(restored)
        assert totals(restored) == {"ok": 120}
        restored.session.close()
    finally:
        quiet.execute("DROP DATABASE restored WITH (FORCE)")


def test_scopes_are_not_said_to_be_unused(db):
    """Nobody knows what the requests without rows needed."""
    db.call("define_route", "default", "GET", "/v1", "read")
    key = db.mint(scopes=["read", "write"]).api_key
    assert db.one("authenticate", Jsonb({"authorization": f"Bearer {key}"}), "GET", "/v1").ok
    flush(db)
    assert stored(db) == 1
    assert not db.rows("SELECT FROM keysmith.overprivileged_keys")
    log(db, "everything")
    assert db.rows("SELECT unused_scopes FROM keysmith.overprivileged_keys") == [(["write"],)]


def test_keys_in_use_are_not_idle(db):
    unused, used = db.mint().key_id, db.verify(db.key).key_id
    flush(db)
    db.call("alter_keyspace", "default", Jsonb({"max_idle": "1 hour"}))
    age(db, "2 hours")
    db.verify(db.key)
    flush(db)
    wait_until(lambda: db.call("maintain") and db.status_of(unused) == "idle")
    assert db.status_of(used) == "active"
