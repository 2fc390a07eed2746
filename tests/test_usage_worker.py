"""The usage worker: it runs when needed, blocks nobody, and loses nothing."""

import os
import re
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest

from cluster import run, running
from conftest import session, wait_until
from test_usage_sql import assert_totals
from test_usage_pipeline import (cluster_with_key, count, crash, events, flush, kill_process, status, stored,
                                 worker_held_up)


@pytest.fixture(scope="module")
def keeper():
    """A cluster whose worker stays long, and stores seldom."""
    with running("keeper", keysmith__usage_flush_interval="10min") as cluster:
        yield cluster


@pytest.fixture
def dbname(keeper):
    keeper.execute("CREATE DATABASE worked")
    yield "worked"
    keeper.execute("DROP DATABASE IF EXISTS worked WITH (FORCE)")


@pytest.fixture
def db(keeper, dbname):
    db = session(keeper, dbname)
    db.rows("CREATE EXTENSION keysmith")
    db.tenant()
    yield db
    db.session.close()


@pytest.fixture
def key(db):
    return db.mint().api_key


def worker_pid(db):
    return status(db)["worker_pid"]


def started_worker(db, key):
    db.verify(key)
    return wait_until(lambda: worker_pid(db))


# Others have priority

@pytest.mark.parametrize("statement", [
    "DROP DATABASE worked",
    "ALTER DATABASE worked RENAME TO renamed",
    "CREATE DATABASE copied TEMPLATE worked",
])
def test_nobody_waits_for_the_worker(keeper, db, key, statement):
    started_worker(db, key)
    flush(db)
    db.session.close()
    try:
        # PostgreSQL itself gives the others five seconds to end, and then it fails.
        keeper.execute(statement)
        name = {"DROP": None, "ALTE": "renamed", "CREA": "copied"}[statement[:4]]
        if name:
            other = session(keeper, name)
            assert stored(other) == 1
            other.verify(key)
            assert len(events(other)) == 2
            assert other.value("SELECT count(DISTINCT (incarnation, sequence)) "
                               "FROM keysmith_private.usage_event") == 2
            other.session.close()
    finally:
        for name in ("renamed", "copied"):
            keeper.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def test_a_database_with_much_to_store_is_dropped_by_force():
    with cluster_with_key("forced", keysmith__usage_batch_size=1, keysmith__usage_flush_interval="10min",
                          keysmith__usage_buffer="64MB") as (cluster, db, key):
        cluster.execute("CREATE DATABASE worked")
        doomed = session(cluster, "worked")
        doomed.rows("CREATE EXTENSION keysmith")
        doomed.tenant()
        key = doomed.mint().api_key
        doomed.verify(key)
        pid = wait_until(lambda: worker_pid(doomed))
        os.kill(pid, signal.SIGSTOP)
        doomed.value("SELECT count(keysmith.verify(%s)) FROM generate_series(1, 30000)", key)
        assert count(doomed, "waiting") >= 29_999
        doomed.session.close()
        os.kill(pid, signal.SIGCONT)
        cluster.execute("DROP DATABASE worked WITH (FORCE)")
        # Other databases' workers are not affected.
        assert len(events(db)) == 0 and db.verify(db.mint().api_key).ok


def test_what_waits_when_the_worker_makes_way_is_stored_by_the_next(keeper, db, key):
    with worker_held_up(keeper, "worked"):
        started_worker(db, key)
    db.session.close()
    with keeper.connect("worked", autocommit=False) as blocker:
        blocker.execute("LOCK TABLE keysmith_private.usage_incarnation IN SHARE ROW EXCLUSIVE MODE")
        with keeper.connect() as other:
            with pytest.raises(psycopg.errors.ObjectInUse):
                # The blocker itself prevents the renaming, but the worker must be gone.
                other.execute("ALTER DATABASE worked RENAME TO renamed")
        blocker.rollback()
    db = session(keeper, "worked")
    assert len(events(db)) == 1


def test_dropping_the_extension_and_creating_it_again(keeper, db, key):
    pid = started_worker(db, key)
    flush(db)
    with worker_held_up(keeper, "worked"):
        for _ in range(10):
            db.verify(key)
    db.rows("DROP EXTENSION keysmith CASCADE")
    db.rows("CREATE EXTENSION keysmith")
    db.tenant()
    again = db.mint().api_key
    db.verify(again)
    wait_until(lambda: len(events(db)) >= 1)
    assert db.value("SELECT count(*) FROM keysmith_private.usage_event e JOIN keysmith_private.key k USING (key_id)") == 1
    db.rows("DROP EXTENSION keysmith CASCADE")
    os.kill(pid, 0)
    db.rows("CREATE EXTENSION keysmith")
    wait_until(lambda: status(db)["waiting"] == 0)


def locks_of_ours(watcher, pid):
    """The locks that a process holds or waits for on the extension: the object, or tables."""
    rows = watcher.execute("""
        SELECT coalesce(relation::regclass::text, locktype) FROM pg_locks
        WHERE pid = %s AND (locktype = 'object' AND classid = 'pg_extension'::regclass
            OR relation IN (SELECT oid FROM pg_class WHERE relkind IN ('r', 'p')
                                AND relnamespace = 'keysmith_private'::regnamespace))""", [pid])
    return [row[0] for row in rows]


def test_a_drop_of_the_extension_waits_for_the_worker_before_it_locks_a_table():
    """Otherwise the two could wait for each other."""
    with cluster_with_key("dropped", keysmith__usage_flush_interval="10min") as (cluster, db, key):
        pid = started_worker(db, key)
        flush(db)
        with cluster.connect(autocommit=False) as blocker, cluster.connect() as watcher, \
                ThreadPoolExecutor(1) as pool:
            # Stops the worker in the middle of a batch.
            blocker.execute("LOCK TABLE keysmith_private.usage_incarnation IN SHARE ROW EXCLUSIVE MODE")
            db.verify(key)
            asking = pool.submit(flush, session(cluster))
            wait_until(lambda: {"object", "keysmith_private.usage_event"} <= set(locks_of_ours(watcher, pid)))
            dropping = cluster.connect(autocommit=False)
            dropped = pool.submit(dropping.execute, "DROP EXTENSION keysmith CASCADE")
            blocker.rollback()
            asking.result(60)
            dropped.result(60)
            dropping.close()
        assert len(events(db)) == 2


@contextmanager
def extension_locked_by_anyone(cluster):
    """A login without any right holds the lock that DROP EXTENSION needs."""
    cluster.execute("CREATE ROLE anyone LOGIN")
    with cluster.connect(user="anyone", autocommit=False) as anyone:
        anyone.execute("CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'")
        anyone.execute("ALTER FUNCTION pg_temp.f() DEPENDS ON EXTENSION keysmith")
        yield
        anyone.rollback()


def test_usage_is_stored_while_anyone_locks_the_extension():
    with cluster_with_key("locked", keysmith__usage_flush_interval="10min") as (cluster, db, key):
        with extension_locked_by_anyone(cluster):
            db.verify(key)
            flush(db)
            assert stored(db) == 1
            now = status(db)
            assert (now["waiting"], now["failures"]) == (0, 0)
            # The same for transactions that store usage themselves, and for standbys that hand
            # over.
            db.rows("SET keysmith.usage_durability = 'commit'")
            db.verify(key)
            assert stored(db) == 2
            db.rows("SELECT keysmith.usage_collect('there', 5, 10, true, 0, '', 0, '', '')")
            assert dict(db.call("maintain"))["totals"].endswith("deltas folded")


def test_who_waits_for_the_worker_is_not_chosen_to_end_a_deadlock():
    """The worker gives way, also if it could not lock the extension first."""
    with cluster_with_key("giving", keysmith__usage_flush_interval="10min",
                          log_lock_waits="on") as (cluster, db, key):
        pid = started_worker(db, key)
        flush(db)
        with extension_locked_by_anyone(cluster), cluster.connect(autocommit=False) as dropper, \
                cluster.connect() as watcher, ThreadPoolExecutor(1) as pool:
            # Like DROP EXTENSION, in some order.
            dropper.execute("LOCK TABLE keysmith_private.usage_incarnation IN ACCESS EXCLUSIVE MODE")
            db.verify(key)
            asking = pool.submit(flush, session(cluster))
            wait_until(lambda: "keysmith_private.usage_event" in locks_of_ours(watcher, pid))
            dropper.execute("LOCK TABLE keysmith_private.usage_event IN ACCESS EXCLUSIVE MODE")
            dropper.rollback()
            asking.result(60)
        assert len(events(db)) == 2
        assert "deadlock detected" not in cluster.log.read_text()


def test_a_worker_that_finds_no_extension_leaves():
    with cluster_with_key("gone", keysmith__usage_flush_interval="50ms") as (cluster, db, key):
        started_worker(db, key)
        flush(db)
        db.rows("DROP EXTENSION keysmith CASCADE")
        wait_until(lambda: not db.value("SELECT count(*) FROM pg_stat_activity "
                                        "WHERE backend_type = 'keysmith usage worker'"))
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        db.verify(db.mint().api_key)
        assert len(events(db)) == 1


def times_woken(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("voluntary_ctxt_switches"))


def test_with_nothing_to_store_it_sleeps():
    with cluster_with_key("asleep", keysmith__usage_flush_interval="1s") as (cluster, db, key):
        pid = started_worker(db, key)
        flush(db)
        before, start = times_woken(pid), time.monotonic()
        time.sleep(2.5)  # not checked: a flush would be due again, and what counts is how often it wakes
        assert times_woken(pid) - before < 20 * (time.monotonic() - start)  # not checked: a rate


def test_a_second_of_many_requests_is_one_batch():
    """By default, so that what a key adds to the totals is one row."""
    with cluster_with_key("full_batch", keysmith__usage_flush_interval="10min") as (cluster, db, key):
        os.kill(started_worker(db, key), signal.SIGSTOP)
        try:
            db.value("SELECT count(keysmith.verify(%s)) FROM generate_series(1, 30000)", key)
        finally:
            os.kill(worker_pid(db), signal.SIGCONT)
        flush(db)
        assert count(db, "written_through") == 0
        rows = db.rows("SELECT period, requests FROM keysmith_private.usage_delta WHERE key_id IS NOT NULL")
        # The first request may be a batch of its own, and an hour may end.
        assert sum(row.requests for row in rows) == len(events(db)) == 30_001
        assert len(rows) <= 3


def test_idle_it_goes_and_comes_back():
    with cluster_with_key("idle", keysmith__usage_flush_interval="50ms") as (cluster, db, key):
        first = started_worker(db, key)
        flush(db)
        wait_until(lambda: worker_pid(db) is None)
        # Pending records of transactions keep the worker running.
        db.rows("BEGIN")
        second = started_worker(db, key)
        assert second != first
        time.sleep(1.5)  # not checked: else it would be gone by now
        assert worker_pid(db) == second
        db.rows("COMMIT")
        wait_until(lambda: stored(db) == 2)
        # Everything was stored when it ended.
        wait_until(lambda: worker_pid(db) is None)
        assert db.value("SELECT closed_at > last_flush_at FROM keysmith_private.usage_incarnation")


def test_no_process_for_a_worker_is_no_reason_to_refuse():
    with cluster_with_key("crowded", max_worker_processes=1, keysmith__usage_buffer="64kB") as (
            cluster, db, key):
        # The logical replication launcher has the only process slot.
        assert all(db.verify(key).ok for _ in range(200))
        now = status(db)
        assert now["failed_starts"] >= 1 and now["worker_pid"] is None
        assert (now["waiting"], now["written_through"]) == (96, 104)
        assert db.refused("KS504", "flush_usage", "100 ms")


def test_databases_take_turns_where_processes_are_few():
    with cluster_with_key("turns", max_worker_processes=2) as (cluster, db, key):
        db.verify(key)
        flush(db)
        for n in range(3):
            cluster.execute(f"CREATE DATABASE d{n}")
            other = session(cluster, f"d{n}")
            other.rows("CREATE EXTENSION keysmith")
            other.tenant()
            other.verify(other.mint().api_key)
            assert len(events(other)) == 1
            other.session.close()


# Signals

def test_a_worker_that_is_terminated_stores_what_there_is(keeper, db, key):
    pid = started_worker(db, key)
    for _ in range(50):
        db.verify(key)
    db.rows("SELECT pg_terminate_backend(%s)", pid)
    wait_until(lambda: worker_pid(db) != pid)
    assert stored(db) == 51
    db.verify(key)
    assert len(events(db)) == 52


def test_a_worker_that_is_cancelled_goes_on(keeper, db, key):
    pid = started_worker(db, key)
    with worker_held_up(keeper, "worked"):
        for _ in range(50):
            db.verify(key)
        waiter = threading.Thread(target=lambda: flush(session(keeper, "worked")))
        waiter.start()
        wait_until(lambda: db.value("SELECT wait_event_type = 'Lock' FROM pg_stat_activity "
                                    "WHERE pid = %s", pid))
        failures = count(db, "failures")
        db.rows("SELECT pg_cancel_backend(%s)", pid)
        wait_until(lambda: count(db, "failures") > failures)
    waiter.join()
    assert len(events(db)) == 51 and worker_pid(db) == pid


def test_settings_are_read_again(keeper, db, key):
    started_worker(db, key)
    flush(db)
    db.verify(key)
    time.sleep(1)  # not checked: it is not stored for ten minutes
    assert stored(db) == 1
    try:
        keeper.execute("ALTER SYSTEM SET keysmith.usage_flush_interval = '50ms'")
        keeper.execute("SELECT pg_reload_conf()")
        wait_until(lambda: stored(db) == 2)
    finally:
        keeper.execute("ALTER SYSTEM RESET keysmith.usage_flush_interval")
        keeper.execute("SELECT pg_reload_conf()")


# Settings that a database's owner may make for every session in it, the worker included.
HOSTILE = {
    "default_transaction_read_only": "on", "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on", "session_replication_role": "replica",
    "statement_timeout": "1ms", "idle_in_transaction_session_timeout": "1ms", "transaction_timeout": "1ms",
    "lock_timeout": "1ms", "exit_on_error": "on", "search_path": "public", "row_security": "off",
    "default_tablespace": "nowhere", "default_table_access_method": "none", "temp_tablespaces": "nowhere",
    "work_mem": "64kB", "synchronous_commit": "off", "plpgsql.extra_errors": "all",
    "TimeZone": "Asia/Kolkata", "DateStyle": "German", "IntervalStyle": "sql_standard",
    "quote_all_identifiers": "on", "standard_conforming_strings": "off", "array_nulls": "off",
    "transform_null_equals": "on", "bytea_output": "escape", "client_encoding": "LATIN1",
    "enable_indexscan": "off", "enable_nestloop": "off", "enable_partition_pruning": "off",
    "jit_above_cost": "0", "default_toast_compression": "pglz",
}


def set_all(db, settings, place="DATABASE worked"):
    for name, value in settings.items():
        # Some majors lack some.
        if db.value("SELECT count(*) FROM pg_settings WHERE name = %s", name):
            db.rows(f"ALTER {place} SET {name} = '{value}'")


def test_what_a_database_is_set_to_does_not_change_the_worker(keeper, db, key):
    db.rows("LOAD 'plpgsql'")
    set_all(db, HOSTILE)
    pid = started_worker(db, key)
    first = db.verify(key).request_id
    assert db.one("log_request", 201, request_id=first)[0]
    db.verify("garbage")
    flush(db)
    assert db.one("log_request", 202, request_id=first)[0]
    assert len(events(db)) == 2
    assert db.value("SELECT status FROM keysmith_private.usage_event WHERE request_id = %s", first) == 202
    assert db.value("SELECT date_trunc('hour', hour, 'UTC') = hour FROM keysmith_private.usage_unknown")
    assert (count(db, "failures"), worker_pid(db)) == (0, pid)
    assert_totals(db)
    db.rows("SELECT pg_terminate_backend(%s)", pid)
    wait_until(lambda: worker_pid(db) is None)
    assert count(db, "failures") == 0


SESSIONS = {name: value for name, value in HOSTILE.items()
            if name not in {"default_transaction_read_only", "statement_timeout", "lock_timeout", "exit_on_error",
                            "transaction_timeout", "idle_in_transaction_session_timeout", "session_replication_role",
                            "default_table_access_method", "client_encoding"}}


def test_what_a_session_is_set_to_does_not_change_what_is_written(keeper, db, key):
    """Its transaction stores usage, makes partitions and adds up totals."""
    started_worker(db, key)
    flush(db)
    db.rows("SET keysmith.usage_durability = 'commit'")
    for name, value in SESSIONS.items():
        if name == "default_tablespace" or name == "temp_tablespaces":
            value = ""
        db.rows(f"SET {name} = '{value}'")
    first = db.verify(key).request_id
    db.verify(key, environment="test")
    assert stored(db) == 3
    assert db.one("log_request", 201, request_id=first)[0]
    assert db.value("SELECT status FROM keysmith_private.usage_event WHERE request_id = %s", first) == 201
    assert db.one("usage_prepare", "2001-01-01", "2001-01-03")[0] == 3
    outcomes = dict(db.call("maintain"))
    assert outcomes["partitions"] == "0 made" and outcomes["totals"].endswith("deltas folded")
    assert outcomes["retention"] == "3 partitions dropped"
    assert not [row for row in db.findings() if row.subject == "usage"]
    assert db.one("usage_prepare", "2001-01-01", "2001-01-03")[0] == 3
    db.rows("RESET ALL")
    assert db.value("SELECT count(*) FROM keysmith_private.usage_partitions() "
                    "WHERE date_trunc('day', starts, 'UTC') = starts AND ends = starts + interval '24 hours'") == 8
    assert_totals(db)


def test_the_worker_compiles_no_statements(db, key):
    """The compiler would take several times the memory of everything else, and keep it."""
    db.rows("ALTER DATABASE worked SET jit_above_cost = 0")
    pid = started_worker(db, key)
    flush(db)
    with open(f"/proc/{pid}/maps") as maps:
        libraries = maps.read()
    assert "keysmith" in libraries and "llvm" not in libraries.lower()


# Ends of the server

def decide_until_cut_off(cluster, key, n, decided):
    with cluster.connect() as connection:
        try:
            while True:
                connection.execute("SELECT (keysmith.verify(%s)).ok FROM generate_series(1, 20)",
                                   (key,))
                decided[n] += 20
        except psycopg.Error:
            pass


def under_load(cluster, key, end):
    """Makes four sessions decide, ends the server, and returns the number of their decisions."""
    decided = [0] * 4
    threads = [threading.Thread(target=decide_until_cut_off, args=(cluster, key, n, decided))
               for n in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: min(decided) >= 200)
    end()
    for thread in threads:
        thread.join()
    return sum(decided)


def test_a_fast_shutdown_loses_nothing():
    # With room for all: records of a rolled back transaction are dropped if there is no room.
    with cluster_with_key("fast", keysmith__usage_flush_interval="10s",
                          keysmith__usage_buffer="256MB") as (cluster, db, key):
        db.rows("BEGIN")
        db.verify(key)
        decided = under_load(cluster, key, cluster.stop)
        db.session.close()
        cluster.start()
        db = session(cluster)
        # Records that came too late for the worker were kept, and are stored now.
        flush(db)
        # Cancelled statements count as well: each of the four may have one.
        assert decided + 1 <= stored(db) <= decided + 1 + 80
        assert db.value("SELECT sum(stored) FROM keysmith_private.usage_incarnation") == db.value(
            "SELECT count(*) FROM keysmith_private.usage_event WHERE incarnation > 0")
        db.verify(key)
        flush(db)
        assert db.value("SELECT count(*) FROM keysmith_private.usage_incarnation "
                        "WHERE lost_at_most IS NOT NULL") == 0
        assert count(db, "losses") == 0


def test_a_shutdown_right_after_the_first_request():
    with cluster_with_key("early") as (cluster, db, key):
        db.verify(key)
        cluster.stop()
        db.session.close()
        cluster.start()
        db = session(cluster)
        assert len(events(db)) == 1 and count(db, "losses") == 0


def test_what_no_worker_could_store_outlasts_a_restart():
    with cluster_with_key("leftover", max_worker_processes=1) as (cluster, db, key):
        # The logical replication launcher has the only process slot.
        requests = [db.verify(key).request_id for _ in range(20)]
        for processes in (1, 8):
            cluster.configure(max_worker_processes=processes)
            cluster.restart()
        db = session(cluster)
        assert count(db, "waiting") == 20
        assert [row.request_id for row in events(db)] == requests
        assert count(db, "losses") == 0
        cluster.restart()
        assert stored(session(cluster)) == 20


def test_what_can_not_be_kept_over_a_restart_is_reported():
    with cluster_with_key("unkept", max_worker_processes=1) as (cluster, db, key):
        for _ in range(20):
            db.verify(key)
        file, = (cluster.data / "pg_stat").glob("keysmith_incarnation.*")
        file.chmod(0o400)
        cluster.stop()
        assert "usage of 20 requests can't be kept" in cluster.log.read_text()
        cluster.configure(max_worker_processes=8)
        cluster.start()
        db = session(cluster)
        db.verify(key)
        wait_until(lambda: stored(db) == 1)
        loss = db.row("SELECT * FROM keysmith_private.usage_incarnation WHERE lost_at_most IS NOT NULL")
        assert loss.lost_at_most >= 20 and loss.lost_from < loss.lost_until
        assert count(db, "losses") == 1
        assert db.value("SELECT since BETWEEN pg_postmaster_start_time() - interval '1 min' AND now() "
                        "FROM keysmith.usage_status()")
        cluster.restart()
        assert count(session(cluster), "losses") == 1


def test_a_kill_late_in_a_shutdown_is_a_loss():
    """The control file says that the server was shut down while the archiver still works. What waits
    is written after that."""
    with cluster_with_key("late", max_worker_processes=1, archive_mode="on",
                          archive_command="true") as (cluster, db, key):
        # As soon as the archiver is busy, the server can't end.
        gate, busy = cluster.dir / "gate", cluster.data / "busy"
        gate.touch()
        cluster.configure(archive_command=f"touch {busy}; while test -e {gate}; do sleep 0.1; done")
        db.rows("SELECT pg_reload_conf(); CREATE TABLE written (); SELECT pg_switch_wal()")
        wait_until(busy.exists)
        for _ in range(20):
            db.verify(key)
        db.session.close()
        postmaster = int((cluster.data / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGINT)
        wait_until(lambda: re.search("state: +shut down\n", run("pg_controldata", cluster.data).stdout))
        os.kill(postmaster, signal.SIGKILL)
        gate.unlink()
        cluster.configure(max_worker_processes=8)
        cluster.start_after_kill()
        db = session(cluster)
        db.verify(key)
        flush(db)
        assert stored(db) == 1
        loss = db.row("SELECT * FROM keysmith_private.usage_incarnation WHERE lost_at_most IS NOT NULL")
        assert 20 <= loss.lost_at_most == loss.most_waiting and count(db, "losses") == 1
        # An end in the usual way loses nothing, and leaves no file.
        db.session.close()
        cluster.stop()
        assert list((cluster.data / "pg_stat").glob("keysmith_*.*")) == []
        cluster.start()
        db = session(cluster)
        assert stored(db) == 1 and count(db, "losses") == 1


def left_over(cluster):
    """The file of what waited when the server was shut down."""
    file, = (cluster.data / "pg_stat").glob("keysmith_usage.*")
    return file


def test_what_waited_at_a_shutdown_is_stored_once_whatever_ends_next():
    with cluster_with_key("backlog", max_worker_processes=1) as (cluster, db, key):
        requests = [db.verify(key).request_id for _ in range(20)]
        cluster.restart()
        file = left_over(cluster)
        content = file.read_bytes()
        # There is no worker yet, and a sudden end costs nothing of what is in the file.
        crash(cluster, session(cluster))
        db = session(cluster)
        assert count(db, "waiting") == 20
        # A worker that is killed between storing and removing the file leaves it.
        cluster.configure(max_worker_processes=8)
        for _ in range(2):
            db.session.close()
            cluster.stop()
            file.write_bytes(content)
            shutil.chown(file, cluster.log.owner(), cluster.log.group())
            cluster.start()
            db = session(cluster)
            assert [row.request_id for row in events(db)] == requests
            assert count(db, "waiting") == 0 and not file.exists()
        assert db.value("SELECT sum(stored) FROM keysmith_private.usage_incarnation") == 20
        assert_totals(db)


def test_a_file_that_is_not_whole_is_a_loss():
    with cluster_with_key("broken", max_worker_processes=1) as (cluster, db, key):
        requests = [db.verify(key).request_id for _ in range(2)]
        cluster.stop()
        db.session.close()
        file = left_over(cluster)
        whole = file.read_bytes()
        flipped = [whole[:n] + bytes([whole[n] ^ 1]) + whole[n + 1:]
                   for n in (0, 7, 20, len(whole) // 2, len(whole) - 1)]
        cut = [whole[:n] for n in (0, 7, 20, len(whole) // 2, len(whole) - 1)]
        for n, content in enumerate([*cut, *flipped, whole + b"x"], 1):
            file.write_bytes(content)
            shutil.chown(file, cluster.log.owner(), cluster.log.group())
            cluster.start()
            assert cluster.log.read_text().count("is not whole") == n and not file.exists()
            cluster.stop()
        cluster.configure(max_worker_processes=8)
        cluster.start()
        db = session(cluster)
        later = db.verify(key).request_id
        assert [row.request_id for row in events(db)] == [later]
        loss = db.row("SELECT * FROM keysmith_private.usage_incarnation WHERE lost_at_most IS NOT NULL")
        assert loss.lost_at_most == loss.most_waiting >= 2
        assert str(loss.incarnation) == file.suffix[1:]
        assert list(file.parent.glob("keysmith_lost.*")) == []
        assert file.with_name(f"unreadable_{file.name}").exists()
        # One that is whole after all is stored.
        db.session.close()
        cluster.stop()
        file.write_bytes(whole)
        shutil.chown(file, cluster.log.owner(), cluster.log.group())
        cluster.start()
        db = session(cluster)
        assert {row.request_id for row in events(db)} == {*requests, later}
        assert count(db, "losses") == 1


@pytest.mark.parametrize("end", ["postmaster", "worker", "immediate"])
def test_a_sudden_end_is_reported_with_its_bound(end):
    with cluster_with_key("sudden", keysmith__usage_flush_interval="10min") as (cluster, db, key):
        pid = started_worker(db, key)
        for _ in range(10):
            db.verify(key)
        flush(db)
        flushed_at = db.value("SELECT last_flush_at FROM keysmith_private.usage_incarnation")
        for _ in range(20):
            db.verify(key)
        most = db.value("SELECT most_waiting FROM keysmith_private.usage_incarnation")
        if end == "worker":
            kill_process(cluster, db, pid)
        elif end == "immediate":
            cluster.stop("immediate")
            cluster.start()
        else:
            crash(cluster, db)
        db = session(cluster)
        db.verify(key)
        flush(db)
        assert stored(db) == 12
        loss = db.row("SELECT * FROM keysmith_private.usage_incarnation WHERE lost_at_most IS NOT NULL")
        assert 20 <= loss.lost_at_most == most
        assert loss.lost_from == flushed_at < loss.lost_until
        assert re.search(r"WARNING:  keysmith: usage of at most \d+ requests may have been lost "
                         r"between .* and ", cluster.log.read_text())
        assert count(db, "lost_at_most") == most
        # It is reported once.
        cluster.restart()
        db = session(cluster)
        db.verify(key)
        flush(db)
        assert count(db, "losses") == 1


@pytest.mark.parametrize("lives", [1, 2])
def test_an_end_before_anything_was_stored_is_reported(lives):
    """Each incarnation from its beginning, also the first one, and even if no worker ever ran."""
    # The logical replication launcher has the only process slot.
    with cluster_with_key("unstored", max_worker_processes=1) as (cluster, db, key):
        for _ in range(lives):
            for _ in range(52):
                db.verify(key)
            crash(cluster, db)
            db = session(cluster)
        # A clean shutdown in between hides nothing.
        cluster.configure(max_worker_processes=8)
        cluster.restart()
        db = session(cluster)
        assert stored(db) == 0
        db.verify(key)
        flush(db)
        losses = db.rows("SELECT * FROM keysmith_private.usage_incarnation "
                         "WHERE lost_at_most IS NOT NULL ORDER BY incarnation")
        assert len(losses) == lives == count(db, "losses")
        for loss in losses:
            assert 52 <= loss.lost_at_most == loss.most_waiting
            assert loss.started_at == loss.lost_from < loss.lost_until
        assert losses[-1].lost_until <= db.value("SELECT pg_postmaster_start_time()")
        # They are reported once; and an incarnation without requests has nothing to lose.
        crash(cluster, db)
        db = session(cluster)
        crash(cluster, db)
        db = session(cluster)
        db.verify(key)
        flush(db)
        assert count(db, "losses") == lives + 1


# Errors

def test_a_record_that_can_not_be_stored_is_set_aside(keeper, db, key):
    started_worker(db, key)
    flush(db)
    db.rows("ALTER TABLE keysmith_private.usage_event ADD CONSTRAINT no_teapots CHECK (status <> 418)")
    for n in range(100):
        db.rows("BEGIN")
        poisonous = db.verify(key).request_id if n == 37 else db.verify(key) and None
        if poisonous:
            db.one("log_request", 418)
            teapot = poisonous
        db.rows("COMMIT")
    flush(db)
    assert stored(db) == 100
    assert db.value("SELECT count(DISTINCT request_id) FROM keysmith_private.usage_event") == 100
    assert count(db, "quarantined") == 1
    aside = db.row("SELECT * FROM keysmith_private.usage_set_aside")
    assert aside.request_id == teapot and "no_teapots" in aside.error
    assert "no_teapots" in status(db)["last_error"]


def test_a_fault_that_is_not_the_records_own_keeps_them(keeper, db, key):
    started_worker(db, key)
    flush(db)
    db.rows("ALTER TABLE keysmith_private.usage_event ADD CONSTRAINT nothing CHECK (status < 0) NOT VALID")
    for _ in range(40):
        db.verify(key)
    db.refused("KS504", "flush_usage", "1 s")
    wait_until(lambda: count(db, "quarantined") >= 10)
    tried = count(db, "failures")
    wait_until(lambda: count(db, "failures") > tried)
    assert (count(db, "quarantined"), count(db, "waiting")) == (10, 30)
    db.rows("ALTER TABLE keysmith_private.usage_event DROP CONSTRAINT nothing")
    wait_until(lambda: stored(db) == 31)


def test_a_lock_on_the_tables_delays_and_loses_nothing(keeper, db, key):
    started_worker(db, key)
    with keeper.connect("worked", autocommit=False) as blocker:
        blocker.execute("LOCK TABLE keysmith_private.usage_event IN ACCESS EXCLUSIVE MODE")
        for _ in range(20):
            db.verify(key)
        db.refused("KS504", "flush_usage", "3 s")
        wait_until(lambda: "lock timeout" in (status(db)["last_error"] or ""))
        blocker.rollback()
    assert len(events(db)) == 21 and count(db, "quarantined") == 0


# Dumps

def test_a_dump_restores_usage(keeper, db, key):
    for _ in range(5):
        db.verify(key)
    db.verify("garbage")
    before = events(db)
    unknown = db.rows("SELECT * FROM keysmith_private.usage_unknown")
    dump = keeper.program("pg_dump", "-Fp", dbname="worked", stderr=None).stdout
    keeper.execute("CREATE DATABASE restored")
    try:
        keeper.psql(dump, dbname="restored", stdout=-1)
        other = session(keeper, "restored")
        assert other.rows("SELECT * FROM keysmith_private.usage_event ORDER BY sequence") == before
        assert other.rows("SELECT * FROM keysmith_private.usage_unknown") == unknown
        # Incarnations of another database are not losses of this one.
        other.verify(key)
        assert len(events(other)) == 6 and count(other, "losses") == 0
        other.session.close()
    finally:
        keeper.execute("DROP DATABASE restored WITH (FORCE)")
