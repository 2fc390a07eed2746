"""Faults around the extension: full disks, no memory, cancelled statements, locks of others,
storms of connections. They may cause an error, but nothing else: no leak of locks, snapshots,
buffers or identities, and no record that is lost without being counted."""

import contextlib
import os
import random
import re
import shutil
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.types.json import Jsonb

import cluster as clusters
from cluster import Cluster, running
from conftest import session, wait_until
from test_usage_pipeline import count, flush, status, stored
from test_usage_sql import assert_totals


def check_log(cluster, but=()):
    """PostgreSQL's warnings of leaked resources, at the end of a transaction or of a process, and
    of processes that crashed."""
    for line in cluster.log.read_text().splitlines():
        complains = re.search(r"leak|still referenced|still (pinned|held)|WARNING: |PANIC|TRAP|terminated by signal", line)
        assert not complains or any(word in line for word in but), line


def check_nothing_is_held(db):
    """In a session between its transactions: no identity, and nothing that others see."""
    assert db.rows("SELECT keysmith.current_tenant(), keysmith.current_key(), keysmith.whoami()") \
        == [(None, None, None)]
    pid = db.session.info.backend_pid
    with psycopg.connect(db.session.info.dsn, autocommit=True) as other:
        # Locks of all kinds: of tables, of objects, advisory ones and a transaction's own.
        assert other.execute("SELECT locktype, relation::regclass, mode, objid FROM pg_locks "
                             "WHERE pid = %s", [pid]).fetchall() == []
        assert other.execute("SELECT state, backend_xmin, backend_xid FROM pg_stat_activity "
                             "WHERE pid = %s", [pid]).fetchall() == [("idle", None, None)]


# Statements that are cut off

@pytest.fixture(scope="module")
def busy():
    """A server, and the calls that are cancelled in it."""
    with running("faults") as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.call("define_route", "default", "GET", "/orders/{id}", ["read"])
        db.call("define_role", "default", "reader", ["read"])
        db.tenant()
        key = db.mint(scopes=["read"], credits=1_000_000_000, allowlist=["203.0.113.0/24"],
                      limits=Jsonb([{"name": "burst", "limit": 1_000_000_000, "window": "1 hour"}]))
        headers = psycopg.sql.Literal(f'{{"authorization": "Bearer {key.api_key}"}}').as_string(db.session)
        given = psycopg.sql.Literal(key.api_key).as_string(db.session)
        verify = f"keysmith.verify({given}, '{{read}}', '203.0.113.1'"
        calls = {
            "verify": f"PERFORM {verify})",
            "verify and sign in": f"PERFORM {verify}, sign_in => true)",
            "verify and spend": f"PERFORM {verify}, spend => 1)",
            "authenticate": f"PERFORM keysmith.authenticate({headers}, 'GET', '/orders/1', '203.0.113.1')",
            "verify_many": f"PERFORM keysmith.verify_many(array_fill({given}::text, '{{50}}'))",
            "mint": "PERFORM keysmith.mint('acme')",
            "revoke": "PERFORM keysmith.revoke((keysmith.mint('acme')).key_id)",
            # Each time the policy is read again.
            "define and verify": f"PERFORM keysmith.define_role('default', 'reader', '{{read}}'); PERFORM {verify})",
        }
        yield cluster, key, {
            name: f"DO $$ BEGIN LOOP {call}; END LOOP; END $$" for name, call in calls.items()}


CALLS = ["verify", "verify and sign in", "verify and spend", "authenticate", "verify_many", "mint",
         "revoke", "define and verify"]
TIMES = int(os.environ.get("KEYSMITH_FAULT_ROUNDS", "8"))


@pytest.mark.parametrize("means", ["statement_timeout", "cancel"])
@pytest.mark.parametrize("call", CALLS)
def test_a_statement_is_cut_off_at_any_point(busy, call, means):
    """Calls run in a loop until they are cancelled, at random times."""
    cluster, key, loops = busy
    db, other = session(cluster), session(cluster)
    keys = "SELECT count(*), count(revoked_at) AS over FROM keysmith_private.key"
    before = db.row(keys)
    pid = db.session.info.backend_pid
    for number in range(TIMES):
        # Also in a transaction that goes on after a savepoint.
        in_savepoint = number % 3 == 0
        if in_savepoint:
            db.rows("BEGIN; SAVEPOINT s")
        if means == "statement_timeout":
            db.rows(f"SET statement_timeout = {number % 20 + 1}")
            with pytest.raises(psycopg.errors.QueryCanceled):
                db.rows(loops[call])
        else:
            cancel = threading.Timer(random.uniform(0, 0.02), cancelled, [other, pid])
            cancel.start()
            with pytest.raises(psycopg.errors.QueryCanceled):
                db.rows(loops[call])
            cancel.join()
        if in_savepoint:
            db.rows("ROLLBACK TO s")
            assert db.value("SELECT keysmith.current_tenant()") is None
            db.rows("COMMIT")
        lift_timeout(db)
        check_nothing_is_held(db)
    assert db.row(keys) == before, "a statement that was cut off left something"
    assert db.verify(key.api_key, scopes=["read"], ip="203.0.113.1").ok
    assert {row.ok for row in db.call("audit_verify")} == {True}
    flush(db)
    assert count(db, "pending") == 0
    assert_totals(db)
    db.session.close()
    other.session.close()
    check_log(cluster, but=["canceling"])


def lift_timeout(db):
    """On a busy machine this cancels it as well."""
    def lifted():
        with contextlib.suppress(psycopg.errors.QueryCanceled):
            return db.rows("SET statement_timeout = 0") == []

    wait_until(lifted)


def cancelled(db, pid):
    """Repeats the cancel: a statement that has not begun is not cancelled."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        db.rows("SELECT pg_cancel_backend(%s)", pid)
        time.sleep(0.05)
        if db.value("SELECT state <> 'active' FROM pg_stat_activity WHERE pid = %s", pid):
            return


# Locks that others hold

def test_who_waits_too_long_for_a_lock_holds_nothing_after(busy):
    cluster, key, _ = busy
    holder, db = session(cluster), session(cluster)
    other = db.mint(label="locked")
    db.rows("SET lock_timeout = '50ms'")
    holder.rows("BEGIN")
    holder.call("alter_key", other.key_id, Jsonb({"label": "mine"}))
    for act in (lambda: db.call("revoke", other.key_id), lambda: db.call("rotate", other.key_id),
                lambda: db.call("disable", other.key_id),
                lambda: db.call("alter_key", other.key_id, Jsonb({"label": "ours"}))):
        with pytest.raises(psycopg.errors.LockNotAvailable):
            act()
        check_nothing_is_held(db)
    # Decisions wait for nobody.
    assert db.verify(other.api_key).ok
    holder.rows("ROLLBACK")
    # While the table itself is locked, decisions fail in time with an error.
    holder.rows("BEGIN; LOCK TABLE keysmith_private.key IN ACCESS EXCLUSIVE MODE")
    for act in (lambda: db.verify(other.api_key), lambda: db.call("verify_many", [other.api_key])):
        with pytest.raises(psycopg.errors.LockNotAvailable):
            act()
        check_nothing_is_held(db)
    holder.rows("ROLLBACK")
    db.rows("RESET lock_timeout")
    db.call("revoke", other.key_id)
    assert db.reason(other.api_key) == "revoked"
    for session_of_it in (holder, db):
        session_of_it.session.close()
    check_log(cluster, but=["canceling"])


def test_who_meets_in_a_deadlock_gets_an_error_and_one_goes_on(busy):
    cluster, key, _ = busy
    one, two, watching = (session(cluster) for _ in range(3))
    keys = [one.mint(), one.mint()]
    one.rows("BEGIN; SET LOCAL deadlock_timeout = '50ms'")
    two.rows("BEGIN; SET LOCAL deadlock_timeout = '10s'")
    one.call("revoke", keys[0].key_id)
    two.call("revoke", keys[1].key_id)
    waiting = threading.Thread(target=lambda: two.call("revoke", keys[0].key_id))
    waiting.start()
    # The session that waits last must see the other one wait.
    wait_until(lambda: watching.value("SELECT count(*) FROM pg_locks WHERE pid = %s AND NOT granted", two.session.info.backend_pid))
    with pytest.raises(psycopg.errors.DeadlockDetected):
        one.call("revoke", keys[1].key_id)
    one.rows("ROLLBACK")
    waiting.join()
    two.rows("COMMIT")
    assert [one.reason(key.api_key) for key in keys] == ["revoked"] * 2
    for db in (one, two, watching):
        check_nothing_is_held(db)
        db.session.close()
    assert {row.ok for row in session(cluster).call("audit_verify")} == {True}


# Storms

def test_a_storm_of_connections_leaves_nothing_behind():
    """Hundreds connect together, decide, and most disconnect without a message."""
    with running("storm", max_connections=40, superuser_reserved_connections=3) as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        key = db.mint()
        served, turned_away, errors = [], [], []

        def visitor(number):
            for _ in range(2):
                try:
                    connection = cluster.connect(autocommit=False)
                    ok, = connection.execute("SELECT ok FROM keysmith.verify(%s, sign_in => true)",
                                             (key.api_key,)).fetchone()
                    assert ok
                    served.append(number)
                    if number % 3 == 0:
                        connection.close()
                    else:
                        # The connection is cut during the transaction.
                        with socket.socket(fileno=os.dup(connection.fileno())) as line:
                            line.shutdown(socket.SHUT_RDWR)
                        connection.close()
                except psycopg.OperationalError as error:
                    turned_away.append(error)
                except Exception as error:
                    errors.append(error)

        visitors = [threading.Thread(target=visitor, args=[number]) for number in range(80)]
        for thread in visitors:
            thread.start()
        for thread in visitors:
            thread.join()
        assert errors == [] and served
        # A session is refused only for lack of a slot.
        assert all("too many clients" in str(error) or "reserved" in str(error) for error in turned_away)
        db.session.close()
        db = session(cluster)
        wait_until(lambda: db.value(
            "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'client backend' "
            "AND pid <> pg_backend_pid()"), 60)
        flush(db)
        assert stored(db) == len(served)
        assert count(db, "pending") == count(db, "waiting") == count(db, "dropped") == 0
        assert_totals(db)
        assert db.value("SELECT count(*) FROM pg_locks WHERE pid <> pg_backend_pid()") == 0
        db.session.close()
        check_log(cluster)


# No memory

def room(pid):
    """A process's address space, in bytes."""
    return int(re.search(r"VmSize:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) * 1024


def starve(pid, spare):
    """Limits a process to its present memory and some spare bytes, or removes the limit."""
    limit = "unlimited" if spare is None else room(pid) + spare
    # As the server's user, since no other user may, not even root.
    user = clusters._SERVER_USER
    subprocess.run(["prlimit", f"--pid={pid}", f"--as={limit}:"], check=True,
                   **({"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}))


def test_without_memory_a_statement_fails_and_the_server_stays():
    """The limit applies to one backend, which then asks for more than there is."""
    with running("memory") as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        key = db.mint()
        attempts = {
            "verify": lambda db: db.verify(key.api_key),
            "verify_many": lambda db: db.rows(
                "SELECT count(*) FROM keysmith.verify_many(array_fill(%s::text, '{10000}'))", key.api_key),
            "mint": lambda db: db.mint(metadata=Jsonb({"text": "x" * 8000})),
            "audit": lambda db: db.rows("SELECT * FROM keysmith.audit_verify()"),
            "control": lambda db: db.rows("SELECT length(repeat('x', 100000000))"),
        }
        failed = []
        for spare in (0, 1 << 16, 1 << 18, 1 << 20, 4 << 20, 16 << 20):
            for name, attempt in attempts.items():
                starved = session(cluster)
                starved.verify(key.api_key)
                pid = starved.session.info.backend_pid
                starve(pid, spare)
                try:
                    attempt(starved)
                except (psycopg.errors.OutOfMemory, psycopg.errors.InvalidRegularExpression) as error:
                    # PostgreSQL's message for an expression that it has no memory to compile.
                    assert "out of memory" in str(error)
                    failed.append((name, spare, error.sqlstate))
                except psycopg.OperationalError as error:
                    raise AssertionError(f"{name} with {spare} bytes to spare") from error
                # The session goes on, with memory as before.
                starve(pid, None)
                check_nothing_is_held(starved)
                if name != "control":
                    attempt(starved)
                starved.session.close()
            assert ("control", spare, "53200") in failed, "the limit was none"
        # Our code ran out of memory too, not only the control.
        assert {name for name, _, sqlstate in failed if sqlstate == "53200"} \
            >= {"verify_many", "mint", "audit", "control"}
        assert db.verify(key.api_key).ok
        flush(db)
        assert_totals(db)
        assert {row.ok for row in db.call("audit_verify")} == {True}
        db.session.close()
        check_log(cluster)


MANY = "SELECT count((keysmith.verify(%s)).ok) FROM generate_series(1, %s)"
HUNGRY = {
    # More than shared memory can hold, so that the transaction writes them.
    "verify_many": lambda db, key: db.rows(
        "SELECT count(*) FROM keysmith.verify_many(array_fill(%s::text, '{50000}'))", key),
    "audit": lambda db, key: db.rows("SELECT * FROM keysmith.audit_verify()"),
    "patch": lambda db, key: db.call("alter_keyspace", "default", Jsonb({"codes": {"x" * 800_000: 1}})),
    "usage": lambda db, key: db.rows("SET keysmith.usage_durability = 'commit'") or db.rows(MANY, key, 1000),
}


@pytest.mark.parametrize("attempt", HUNGRY)
def test_who_has_no_memory_left_takes_no_other_session_along(attempt):
    """Neither if PostgreSQL runs out of memory, nor if the library does."""
    with running("alone") as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        key = db.mint().api_key
        db.rows("SELECT count(keysmith.mint('acme', label => repeat(n::text, 20))) FROM generate_series(1, 300) n")
        refused = 0
        for spare in (0, 1 << 16, 1 << 18, *(n << 19 for n in range(1, 20))):
            starved = session(cluster)
            starved.rows(MANY, key, 1)
            starve(starved.session.info.backend_pid, spare)
            try:
                HUNGRY[attempt](starved, key)
            except psycopg.Error as error:
                # At worst its own session ends. PL/pgSQL may need more than there is room for.
                assert error.sqlstate in ("53200", "58P01", "KS400", None), error
                refused += error.sqlstate != "KS400"
            starved.session.close()
            assert db.value("SELECT 1") == 1, f"with {spare} bytes to spare"
        assert refused, "the limit was none"
        flush(db)
        assert_totals(db)
        db.session.close()
        check_log(cluster)


def test_a_worker_without_memory_keeps_what_waits():
    with running("hungry", keysmith__usage_flush_interval="200ms") as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        key = db.mint()
        db.verify(key.api_key)
        flush(db)
        worker = count(db, "worker_pid")
        starve(worker, 1 << 18)
        db.rows("SELECT count((keysmith.verify(%s)).ok) FROM generate_series(1, 20000)", key.api_key)
        # It goes without memory, or another process replaces it.
        wait_until(lambda: count(db, "failures") > 0 or status(db)["worker_pid"] != worker)
        if status(db)["worker_pid"] == worker:
            assert count(db, "waiting") + stored(db) >= 20001
            assert "memory" in status(db)["last_error"]
            starve(worker, None)
        wait_until(lambda: has_flushed(db), 60)
        assert db.row("SELECT count(*) AS rows, count(DISTINCT request_id) AS requests FROM keysmith_private.usage_event") \
            == (20001, 20001)
        assert count(db, "dropped") == count(db, "quarantined") == count(db, "waiting") == 0
        assert_totals(db)
        db.session.close()
        check_log(cluster, but=["keysmith: usage"])


# No disk

@contextmanager
def small_disk(size, holds, *arguments, **settings):
    """A cluster with its data or its WAL on a separate disk, and the disk's path."""
    cluster = Cluster("full")
    disk = cluster.dir / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk]).returncode != 0:
        cluster.remove()
        pytest.skip("a small disk can only be mounted by root, with the right to mount")
    try:
        wal = cluster.dir / "wal"
        if holds == "data":
            cluster.data = disk / "data"
        else:
            wal = disk / "wal"
        if clusters._SERVER_USER:
            os.chown(disk, clusters._SERVER_USER.pw_uid, clusters._SERVER_USER.pw_gid)
        cluster.init("-E", "UTF8", "--locale=C.UTF-8", "--waldir", wal, *arguments,
                     keysmith__usage_flush_interval="100ms", autovacuum="off", **settings)
        cluster.start()
        yield cluster, disk
        cluster.stop("immediate")
    finally:
        if (cluster.data / "postmaster.pid").exists():
            cluster.stop("immediate")
        subprocess.run(["umount", disk], check=True)
        cluster.remove()


def fill(disk):
    """Leaves less than 64 kB, and returns the files to remove to make room."""
    ballast = disk / "ballast"
    with open(ballast, "wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(b"x" * 65536)
    assert shutil.disk_usage(disk).free < 65536
    return ballast


BALANCE = "SELECT balance FROM keysmith_private.credit WHERE key_id = %s"
LEFT = "SELECT saw FROM keysmith.explain_verify(%s) WHERE rule = 'limits'"


def test_a_full_disk_costs_errors_and_nothing_else():
    with small_disk("64m", "data") as (cluster, disk):
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        key, gone, durable = db.mint(), db.mint(), db.mint()
        limits = Jsonb([{"name": "yearly", "limit": 100_000, "window": "365 days"}])
        spender = db.mint(credits=100_000, limits=limits)
        db.verify(key.api_key)
        flush(db)
        ballast = fill(disk)
        returned = [key]
        with pytest.raises(psycopg.errors.DiskFull):
            for _ in range(2000):
                returned.append(db.mint(metadata=Jsonb({"text": "x" * 3000})))
        check_nothing_is_held(db)
        # Decisions write nothing, and so go on; their records wait.
        decided = 0
        deadline = time.monotonic() + 120
        while count(db, "failures") == 0:
            assert time.monotonic() < deadline, "the worker found room"
            for _ in range(200):
                assert db.verify(key.api_key).ok
                decided += 1
        # A revocation may find room on its page or not; its answer is true.
        try:
            db.call("revoke", gone.key_id)
            expected = "revoked"
        except psycopg.errors.DiskFull:
            expected = "ok"
        assert db.reason(gone.api_key) == expected
        check_nothing_is_held(db)
        # The same for credits: an accepted request was paid, and a failed one was not.
        left = 100_000
        for _ in range(50):
            try:
                answer = db.verify(spender.api_key, spend=3)
                assert answer.ok and answer.credits_remaining == left - 3
                left -= 3
            except psycopg.errors.DiskFull:
                check_nothing_is_held(db)
            assert db.value(BALANCE, spender.key_id) == left
        paid = (100_000 - left) // 3
        with pytest.raises(psycopg.errors.DiskFull):
            db.rows("SELECT (keysmith.verify(%s, spend => 1)).ok FROM generate_series(1, 5000)", spender.api_key)
        assert db.value(BALANCE, spender.key_id) == left
        check_nothing_is_held(db)
        # A transaction whose usage must be as durable as itself gets an error if it can't be
        # stored.
        db.rows("SET keysmith.usage_durability = 'commit'")
        written, done = count(db, "written_through"), 0
        with pytest.raises(psycopg.errors.DiskFull):
            for _ in range(2000):
                assert db.verify(durable.api_key).ok
                done += 1
        check_nothing_is_held(db)
        db.rows("RESET keysmith.usage_durability")
        of_key = "SELECT count(*) FROM keysmith_private.usage_event WHERE key_id = %s"
        assert db.value(of_key, durable.key_id) == done == count(db, "written_through") - written
        # Other transactions get none.
        assert db.verify(durable.api_key).ok
        ballast.unlink()
        # There is room again: nothing is lost, and everything works as before.
        assert all(db.verify(key.api_key).ok for key in returned)
        assert db.mint().api_key
        db.call("revoke", key.key_id)
        assert db.reason(key.api_key) == "revoked"
        assert db.verify(spender.api_key, spend=1).credits_remaining == left - 1
        wait_until(lambda: has_flushed(db), 60)
        assert db.value(of_key, key.key_id) == 1 + decided + 1 + 1
        # With the request whose transaction failed, and the one after.
        assert db.value(of_key, durable.key_id) == done + 2
        # Of the failed statement, the requests that were decided about have a row.
        assert paid <= db.value(of_key, spender.key_id) - 1 <= calls_taken(db, spender) - 1
        assert stored(db) == count(db, "stored") + count(db, "written_through")
        assert count(db, "dropped") == count(db, "quarantined") == count(db, "pending") == 0
        assert_totals(db)
        assert db.value("SELECT count(*) FROM keysmith_private.key") == len(returned) + 4
        assert {row.ok for row in db.call("audit_verify")} == {True}
        db.session.close()
        check_log(cluster, but=["No space left", "keysmith: usage"])


def test_what_waits_at_a_shutdown_with_a_full_disk_is_a_loss():
    with small_disk("64m", "data", max_worker_processes=1) as (cluster, disk):
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        key = db.mint().api_key
        db.rows("SELECT (keysmith.verify(%s)).ok FROM generate_series(1, 8000)", key)
        db.rows("CHECKPOINT")
        ballast = fill(disk)
        # PostgreSQL's own last files find room.
        os.truncate(ballast, ballast.stat().st_size - 400_000)
        db.session.close()
        cluster.stop()
        assert re.search(r"usage of 8000 requests can't be kept: No space left", cluster.log.read_text())
        ballast.unlink()
        cluster.configure(max_worker_processes=8)
        cluster.start()
        db = session(cluster)
        assert db.verify(key).ok
        wait_until(lambda: has_flushed(db), 60)
        assert stored(db) == 1
        loss = db.row("SELECT * FROM keysmith_private.usage_incarnation WHERE lost_at_most IS NOT NULL")
        assert loss.lost_at_most == loss.most_waiting >= 8000
        db.session.close()


def calls_taken(db, key):
    return 100_000 - int(re.search(r"(\d+) calls left", db.value(LEFT, key.api_key))[1])


def test_where_the_log_finds_no_room_what_was_acknowledged_holds():
    """PostgreSQL stops then, and acknowledged changes are there after the restart."""
    with small_disk("24m", "WAL", "--wal-segsize=1", min_wal_size="2MB", max_wal_size="1GB",
                    checkpoint_timeout="1h") as (cluster, disk):
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        spender = db.mint(credits=100_000)
        db.rows("SET keysmith.usage_durability = 'commit'")
        ballast = fill(disk)
        kept, revoked, spent = [], [], 0
        with pytest.raises(psycopg.OperationalError):
            while spent < 5000:
                kept.append(db.mint(metadata=Jsonb({"text": os.urandom(20_000).hex()})))
                ended = db.mint()
                db.call("revoke", ended.key_id)
                revoked.append(ended)
                assert db.verify(spender.api_key, spend=1).credits_remaining == 100_000 - spent - 1
                spent += 1
        db.session.close()
        assert spent > 0 and "PANIC" in cluster.log.read_text()
        ballast.unlink()
        # It restarts by itself, unless there was no room for that either.
        wait_until(lambda: is_back(cluster) or cluster.start(check=False).returncode == 0)
        db = session(cluster)
        # One act may have been done without an acknowledgement.
        assert all(db.verify(key.api_key).ok for key in kept)
        assert {db.reason(key.api_key) for key in revoked} == {"revoked"}
        assert db.value("SELECT count(*) FROM keysmith_private.key") - 1 - len(kept) - len(revoked) in (0, 1)
        assert 100_000 - db.value(BALANCE, spender.key_id) - spent in (0, 1)
        of_key = "SELECT count(*) FROM keysmith_private.usage_event WHERE key_id = %s"
        flush(db)
        assert db.value(of_key, spender.key_id) - spent in (0, 1)
        assert_totals(db)
        assert {row.ok for row in db.call("audit_verify")} == {True}
        db.session.close()
        check_log(cluster, but=["No space left", "keysmith: usage", "terminat", "PANIC"])


def is_back(cluster):
    """Whether it has restarted since its last panic. It accepts sessions, and ends them, until
    the postmaster has learned of the panic."""
    if "ready to accept connections" not in cluster.log.read_text().rpartition("PANIC")[2]:
        return False
    try:
        session(cluster).session.close()
        return True
    except psycopg.OperationalError:
        return False


def has_flushed(db):
    try:
        flush(db)
        return True
    except psycopg.Error:
        return False
