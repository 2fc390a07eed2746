"""Processes are killed at random moments, under load, again and again. Acknowledged changes hold,
stored data is complete, and losses are reported.
`make crash ROUNDS=200` does many rounds; the suite does few."""

import os
import random
import signal
import threading
import time

import psycopg
import pytest

from cluster import has_module, running
from conftest import session, wait_until
from test_usage_pipeline import flush
from test_usage_sql import assert_totals

ROUNDS = int(os.environ.get("KEYSMITH_CRASH_ROUNDS", "6"))
SEED = int(os.environ.get("KEYSMITH_CRASH_SEED", "0")) or random.randrange(1, 1 << 32)
SESSIONS = 4
ALIVE, OVER, UNKNOWN = "alive", "over", "unknown"


class Ledger:
    """The acknowledgements of the server, recorded by a client."""

    def __init__(self):
        self.fates = {}         # of each key that was returned
        self.ids = {}
        self.minted = self.revoked = 0
        self.asked = 0          # decisions about known keys that were answered
        self.unanswered = 0     # and those that may have been made
        self.lock = threading.Lock()


class Load(threading.Thread):
    """A session that mints, revokes and verifies its own keys until it is cut off."""

    def __init__(self, cluster, ledger, seed, tenant):
        super().__init__()
        self.cluster, self.ledger, self.tenant = cluster, ledger, tenant
        self.draw = random.Random(seed)
        self.own = {}
        self.error = None
        self.pid = None
        self.stopping = False

    def run(self):
        try:
            db = session(self.cluster)
            self.pid = db.session.info.backend_pid
            while not self.stopping:
                self.draw.choice([self.mint, self.verify, self.verify, self.verify, self.end])(db)
            db.session.close()
        except psycopg.OperationalError:
            pass                # it was cut off
        except Exception as error:
            self.error = error

    def mint(self, db):
        key = db.mint(self.tenant)
        with self.ledger.lock:
            self.ledger.fates[key.api_key] = ALIVE
            self.ledger.ids[key.api_key] = key.key_id
            self.ledger.minted += 1
        self.own[key.api_key] = ALIVE

    def end(self, db):
        key = next((key for key, fate in self.own.items() if fate == ALIVE), None)
        if key is None or len(self.own) < 5:
            return
        # Until the commit is acknowledged, both states are allowed.
        self.own[key] = self.ledger.fates[key] = UNKNOWN
        if self.draw.random() < 0.3:
            db.call("report_leak", key, "a page")
        else:
            db.call("revoke", self.ledger.ids[key])
        with self.ledger.lock:
            self.own[key] = self.ledger.fates[key] = OVER
            self.ledger.revoked += 1

    def verify(self, db):
        if not self.own:
            return
        key = self.draw.choice(list(self.own))
        with self.ledger.lock:
            self.ledger.unanswered += 1
        verdict = db.verify(key)
        with self.ledger.lock:
            self.ledger.unanswered -= 1
            self.ledger.asked += 1
        if self.own[key] != UNKNOWN:
            assert verdict.ok == (self.own[key] == ALIVE), (key, verdict)


def worker_pid(db):
    return db.value("SELECT value::int FROM keysmith.usage_status() WHERE name = 'worker_pid'")


def strike(cluster, db, loads, draw):
    """Kills a process, and returns which."""
    victim = draw.choice(["backend", "worker", "postmaster"])
    pid = None
    try:
        if victim == "worker":
            pid = worker_pid(db)
        if pid is None and victim != "postmaster":
            pid = draw.choice([load.pid for load in loads if load.pid] or [None])
            victim = "backend"
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            return victim
    except (psycopg.Error, ProcessLookupError):
        pass
    cluster.kill()
    return "postmaster"


def again(cluster):
    """A session with the restarted server."""
    def connected():
        try:
            db = session(cluster)
            # A session that came before the server noticed the others' end is ended with them.
            time.sleep(0.2)  # not checked: asked for again if it was too short
            db.rows("SELECT 1")
            return db
        except psycopg.OperationalError:
            # After the postmaster was killed, only its children may be left: they end, and the
            # server can be started.
            cluster.start(check=False)
            return None
    return wait_until(connected, 120)


def check_keys(db, ledger, keys):
    """All keys are as acknowledged; for the others it reads their state."""
    for start in range(0, len(keys), 1000):
        some = keys[start:start + 1000]
        verdicts = db.call("verify_many", some)
        ledger.asked += len(some)
        for key, verdict in zip(some, verdicts):
            if ledger.fates[key] == UNKNOWN:
                assert verdict.reason in ("ok", "revoked"), verdict
                ledger.fates[key] = ALIVE if verdict.ok else OVER
            elif ledger.fates[key] == ALIVE:
                assert verdict.ok, f"a key that was returned is lost: {verdict}"
            else:
                assert verdict.reason == "revoked", f"a revocation is lost: {verdict}"


def check_audit(db, ledger):
    bad = db.rows("SELECT * FROM keysmith.audit_verify() WHERE NOT ok")
    assert bad == []
    noted = dict(db.rows("SELECT action, count(*) FROM keysmith_private.audit_entry GROUP BY action"))
    # A change that was not acknowledged may have happened.
    assert noted["mint"] >= ledger.minted and noted.get("revoke", 0) >= ledger.revoked
    # Each row belongs to a recorded request, and the other way round.
    assert db.row("""
        SELECT count(*) AS keys, count(revoked_at) AS over,
               count(*) = count(m.key_id) AND count(revoked_at) = count(r.key_id) AS are_noted
        FROM keysmith_private.key k
        LEFT JOIN (SELECT key_id FROM keysmith.audit WHERE action = 'mint') m USING (key_id)
        LEFT JOIN (SELECT key_id FROM keysmith.audit WHERE action = 'revoke') r USING (key_id)
        """) == (noted["mint"], noted.get("revoke", 0), True)


def check_usage(db, ledger):
    flush(db)
    assert_totals(db)
    rows, distinct = db.row("SELECT count(*) AS rows, count(DISTINCT (incarnation, sequence)) AS distinct FROM keysmith_private.usage_event")
    assert rows == distinct, "a record was stored twice"
    lost, dropped = db.row(
        "SELECT coalesce(sum(lost_at_most), 0) AS lost, coalesce(sum(dropped), 0) AS dropped "
        "FROM keysmith_private.usage_incarnation")
    assert rows <= ledger.asked + ledger.unanswered, "there are records of no request"
    missing = ledger.asked - rows
    assert missing <= lost + dropped, f"{missing} records are gone, {lost} and {dropped} were reported"
    return max(missing, 0), int(lost)


def check_storage(db):
    """amcheck, if it is installed: each index has all rows of its table, and each table is
    sound."""
    if not has_module("amcheck"):
        return
    db.rows("CREATE EXTENSION IF NOT EXISTS amcheck")
    indexes = db.value("""
        SELECT count(bt_index_check(i.indexrelid, true)::text) FROM pg_index i
        JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
        WHERE c.relnamespace = 'keysmith_private'::regnamespace AND a.amname = 'btree' AND c.relkind = 'i'""")
    assert indexes > 20
    assert db.rows("""
        SELECT c.oid::regclass, v.* FROM pg_class c, verify_heapam(c.oid) v
        WHERE c.relnamespace = 'keysmith_private'::regnamespace AND c.relkind = 'r'""") == []


def test_what_was_acknowledged_outlives_any_death():
    print(f"KEYSMITH_CRASH_SEED={SEED}")
    draw = random.Random(SEED)
    ledger = Ledger()
    struck = {"backend": 0, "worker": 0, "postmaster": 0}
    # Only keysmith flushes a commit before the server dies.
    with running("crashes", synchronous_commit="off", wal_writer_delay="10s",
                 keysmith__usage_flush_interval="100ms", keysmith__usage_buffer="1MB",
                 log_min_messages="warning") as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        for number in range(SESSIONS):
            db.tenant(f"t{number}")
        # An incarnation is on record when its first records are stored: losses before that are
        # not reported. The checks after each round store some.
        first = db.mint("t0")
        ledger.fates[first.api_key], ledger.ids[first.api_key] = ALIVE, first.key_id
        ledger.minted += 1
        check_keys(db, ledger, [first.api_key])
        lost = check_usage(db, ledger)
        assert lost == (0, 0)
        for number in range(ROUNDS):
            loads = [Load(cluster, ledger, draw.random(), f"t{n}") for n in range(SESSIONS)]
            for load in loads:
                load.start()
            time.sleep(draw.uniform(0.05, 0.8))
            struck[strike(cluster, db, loads, draw)] += 1
            for load in loads:
                load.stopping = True
            for load in loads:
                load.join()
                assert load.error is None, f"round {number}, seed {SEED}: {load.error!r}"
            # Until the server has noticed, it accepts a session and then ends it.
            wait_until(lambda: is_cut_off(db), 60)
            db.session.close()
            db = again(cluster)
            keys = list(ledger.fates)
            is_last = number == ROUNDS - 1
            # The newest are in doubt, but the oldest must not be forgotten either.
            check_keys(db, ledger, keys if is_last else
                       keys[-300:] + draw.sample(keys, min(len(keys), 200)) +
                       [key for key in keys[:-300] if ledger.fates[key] == UNKNOWN])
            check_audit(db, ledger)
            lost = check_usage(db, ledger)
            if number % 10 == 0 or is_last:
                check_storage(db)
        print(f"{ROUNDS} rounds: killed {struck}; {ledger.minted} keys, {ledger.revoked} revocations, "
              f"{ledger.asked} decisions answered, {lost[0]} records lost, {lost[1]} reported at most")
        assert ledger.minted and ledger.asked
        log = cluster.log.read_text()
        for leak in ("leak: ", "resource was not closed", "PANIC", "TRAP", "corrupt", "could not read block"):
            assert leak not in log, leak
        db.session.close()


@pytest.mark.parametrize("victim", ["backend", "worker", "postmaster"])
def test_each_of_them_can_be_struck(victim):
    """The rounds above choose at random; this makes sure that all three kinds occur."""
    with running("struck", keysmith__usage_flush_interval="100ms") as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        key = db.mint()
        gone = db.mint()
        db.call("revoke", gone.key_id)
        db.verify(key.api_key)
        pid = wait_until(lambda: worker_pid(db))
        if victim == "postmaster":
            cluster.kill()
        else:
            os.kill(pid if victim == "worker" else db.session.info.backend_pid, signal.SIGKILL)
        wait_until(lambda: is_cut_off(db))
        db = again(cluster)
        assert db.verify(key.api_key).ok
        assert db.reason(gone.api_key) == "revoked"
        assert wait_until(lambda: worker_pid(db)) != pid
        flush(db)
        assert_totals(db)
        db.session.close()


def is_cut_off(db):
    try:
        db.rows("SELECT 1")
    except psycopg.OperationalError:
        return True
