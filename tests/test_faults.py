"""What goes wrong around us: full disks, no memory, statements cut off, locks that others
hold, storms of connections. An error may come of it, and nothing else: no leak of locks,
snapshots, buffers or identities, and no record that is gone without being counted."""

import os
import random
import re
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import psycopg
import pytest
from psycopg.types.json import Jsonb

import cluster as clusters
from cluster import Cluster, running
from conftest import session, wait_until
from test_usage_pipeline import count, flush, stored
from test_usage_sql import assert_totals


def check_log(cluster, but=()):
    """What PostgreSQL says of things that were not given back, at the end of a
    transaction or of a process, and of processes that ended badly."""
    for line in cluster.log.read_text().splitlines():
        complains = re.search(r"leak|still referenced|still (pinned|held)|WARNING: |PANIC|TRAP|terminated by signal", line)
        assert not complains or any(word in line for word in but), line


def check_nothing_is_held(db):
    """By a session between its transactions: just what this query itself takes."""
    assert db.rows("SELECT keysmith.current_tenant(), keysmith.current_key(), keysmith.whoami()") \
        == [(None, None, None)]
    # Only this transaction's own number, and what it reads.
    assert db.rows("""
        SELECT locktype, relation::regclass, mode FROM pg_locks
        WHERE pid = pg_backend_pid() AND locktype <> 'virtualxid'
          AND relation IS DISTINCT FROM 'pg_locks'::regclass
          AND relation::regclass::text NOT LIKE 'pg\\_%%'""") == []


# Statements that are cut off

@pytest.fixture(scope="module")
def busy():
    """A server, and the calls that are cut off in it."""
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
            # The policy is read anew each time.
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
    """Calls go round until they are cut off: at a moment that depends on nothing of ours."""
    cluster, key, loops = busy
    db, other = session(cluster), session(cluster)
    keys = "SELECT count(*), count(revoked_at) AS over FROM keysmith.key"
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
        db.rows("SET statement_timeout = 0")
        check_nothing_is_held(db)
    assert db.row(keys) == before, "a statement that was cut off left something"
    assert db.verify(key.api_key, scopes=["read"], ip="203.0.113.1").ok
    assert all(db.rows("SELECT ok FROM keysmith.audit_verify()"))
    flush(db)
    assert count(db, "held") == 0
    assert_totals(db)
    db.session.close()
    other.session.close()
    check_log(cluster, but=["canceling"])


def cancelled(db, pid):
    """Again and again: a statement that has not begun is not cut off."""
    deadline = time.monotonic() + 30
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
    # Decisions wait for no one.
    assert db.verify(other.api_key).ok
    holder.rows("ROLLBACK")
    # Nobody can decide while the table itself is taken, and says so in time.
    holder.rows("BEGIN; LOCK TABLE keysmith.key IN ACCESS EXCLUSIVE MODE")
    for act in (lambda: db.verify(other.api_key), lambda: db.call("verify_many", [other.api_key])):
        with pytest.raises(psycopg.errors.LockNotAvailable):
            act()
        check_nothing_is_held(db)
    holder.rows("ROLLBACK")
    db.call("revoke", other.key_id)
    assert db.reason(other.api_key) == "revoked"
    for session_of_it in (holder, db):
        session_of_it.session.close()
    check_log(cluster, but=["canceling"])


def test_who_meets_in_a_deadlock_gets_an_error_and_one_goes_on(busy):
    cluster, key, _ = busy
    one, two = session(cluster), session(cluster)
    keys = [one.mint(), one.mint()]
    one.rows("BEGIN; SET LOCAL deadlock_timeout = '50ms'")
    two.rows("BEGIN; SET LOCAL deadlock_timeout = '10s'")
    one.call("revoke", keys[0].key_id)
    two.call("revoke", keys[1].key_id)
    waiting = threading.Thread(target=lambda: two.call("revoke", keys[0].key_id))
    waiting.start()
    with pytest.raises(psycopg.errors.DeadlockDetected):
        one.call("revoke", keys[1].key_id)
    one.rows("ROLLBACK")
    waiting.join()
    two.rows("COMMIT")
    assert [one.reason(key.api_key) for key in keys] == ["revoked"] * 2
    for db in (one, two):
        check_nothing_is_held(db)
        db.session.close()
    assert all(session(cluster).rows("SELECT ok FROM keysmith.audit_verify()"))


# Storms

def test_a_storm_of_connections_leaves_nothing_behind():
    """Hundreds come at once, decide, and most go without a word."""
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
                        # The line is cut, the transaction open.
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
        # Who is turned away, is so for want of a place.
        assert all("too many clients" in str(error) or "reserved" in str(error) for error in turned_away)
        db.session.close()
        db = session(cluster)
        wait_until(lambda: db.value(
            "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'client backend' "
            "AND pid <> pg_backend_pid()"), 60)
        flush(db)
        assert stored(db) == len(served)
        assert count(db, "held") == count(db, "waiting") == count(db, "dropped") == 0
        assert_totals(db)
        assert db.value("SELECT count(*) FROM pg_locks WHERE pid <> pg_backend_pid()") == 0
        db.session.close()
        check_log(cluster)


# No memory

def room(pid):
    """A process's address space, in bytes."""
    return int(re.search(r"VmSize:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) * 1024


def starve(pid, limit):
    """As who the server is, since no one else may, root included."""
    user = clusters._SERVER_USER
    subprocess.run(["prlimit", f"--pid={pid}", f"--as={limit}"], check=True,
                   **({"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}))


def test_without_memory_a_statement_fails_and_the_server_stays():
    """The limit is put on one backend, which then asks for more than there is."""
    with running("memory") as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        key = db.mint()
        attempts = {
            "verify": lambda db: db.verify(key.api_key),
            "verify_many": lambda db: db.rows(
                "SELECT count(*) FROM keysmith.verify_many(array_fill(%s::text, '{50000}'))", key.api_key),
            "mint": lambda db: db.mint(metadata=Jsonb({"text": "x" * 8000})),
            "audit": lambda db: db.rows("SELECT * FROM keysmith.audit_verify()"),
            "control": lambda db: db.rows("SELECT length(repeat('x', 100000000))"),
        }
        for spare in (0, 1 << 16, 1 << 18, 1 << 20, 4 << 20, 16 << 20):
            failed = set()
            for name, attempt in attempts.items():
                starved = session(cluster)
                starved.verify(key.api_key)
                pid = starved.session.info.backend_pid
                starve(pid, room(pid) + spare)
                try:
                    attempt(starved)
                except (psycopg.errors.OutOfMemory, psycopg.errors.InvalidRegularExpression) as error:
                    # So PostgreSQL says it of an expression that it has no memory to compile.
                    assert "out of memory" in str(error)
                    failed.add(name)
                    # The session goes on.
                    assert starved.value("SELECT keysmith.current_tenant()") is None
                except psycopg.OperationalError as error:
                    raise AssertionError(f"{name} with {spare} bytes to spare") from error
                starved.session.close()
            # The limit was one.
            assert "control" in failed
        assert db.verify(key.api_key).ok
        flush(db)
        assert_totals(db)
        assert all(db.rows("SELECT ok FROM keysmith.audit_verify()"))
        db.session.close()
        check_log(cluster)


# No disk

@pytest.fixture
def small_disk():
    """A cluster whose data is on a disk of its own, and the disk's place. The WAL is
    elsewhere: a server that can't write that stops, which is PostgreSQL's to test."""
    cluster = Cluster("full")
    disk = cluster.dir / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk]).returncode != 0:
        cluster.remove()
        pytest.skip("a small disk can only be mounted by root, with the right to mount")
    try:
        cluster.data = disk / "data"
        if clusters._SERVER_USER:
            os.chown(disk, clusters._SERVER_USER.pw_uid, clusters._SERVER_USER.pw_gid)
        cluster.init("-E", "UTF8", "--locale=C.UTF-8", "--waldir", cluster.dir / "wal",
                     keysmith__usage_flush_interval="100ms", autovacuum="off")
        cluster.start()
        yield cluster, disk
        cluster.stop("immediate")
    finally:
        subprocess.run(["umount", disk], check=True)
        cluster.remove()


def test_a_full_disk_costs_errors_and_nothing_else(small_disk):
    cluster, disk = small_disk
    db = session(cluster)
    db.rows("CREATE EXTENSION keysmith")
    db.tenant()
    key, gone = db.mint(), db.mint()
    db.verify(key.api_key)
    flush(db)
    ballast = disk / "ballast"
    with open(ballast, "wb") as file, pytest.raises(OSError):
        while True:
            file.write(b"x" * 65536)
            file.flush()
    assert shutil.disk_usage(disk).free < 65536
    returned = [key]
    with pytest.raises(psycopg.errors.DiskFull):
        for _ in range(2000):
            returned.append(db.mint(metadata=Jsonb({"text": "x" * 3000})))
    check_nothing_is_held(db)
    # Decisions write nothing, and so go on; what is known of them waits.
    decided = 0
    deadline = time.monotonic() + 60
    while count(db, "failures") == 0:
        assert time.monotonic() < deadline, "the worker found room"
        for _ in range(200):
            assert db.verify(key.api_key).ok
            decided += 1
    # A revocation may find a place in its page or not; what it says is so.
    try:
        db.call("revoke", gone.key_id)
        expected = "revoked"
    except psycopg.errors.DiskFull:
        expected = "ok"
    assert db.reason(gone.api_key) == expected
    check_nothing_is_held(db)
    ballast.unlink()
    # There is room again: nothing is lost, and all is as before.
    assert all(db.verify(key.api_key).ok for key in returned)
    assert db.mint().api_key
    db.call("revoke", key.key_id)
    assert db.reason(key.api_key) == "revoked"
    wait_until(lambda: has_flushed(db), 60)
    assert stored(db) == 1 + decided + 1 + len(returned) + 1
    assert count(db, "dropped") == count(db, "set_aside") == 0
    assert_totals(db)
    assert db.value("SELECT count(*) FROM keysmith.key") == len(returned) + 2
    assert all(db.rows("SELECT ok FROM keysmith.audit_verify()"))
    db.session.close()
    check_log(cluster, but=["No space left", "keysmith: usage"])


def has_flushed(db):
    try:
        flush(db)
        return True
    except psycopg.Error:
        return False
