"""A long mixed load: the memory of backends and of the worker must stay flat, and every request
must be stored or counted.
    soak.py [MINUTES]
"""

import json
import random
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import psycopg  # noqa: E402
from psycopg.rows import namedtuple_row  # noqa: E402
from psycopg.types.json import Jsonb  # noqa: E402

from cluster import running  # noqa: E402

MINUTES = float(sys.argv[1]) if len(sys.argv) > 1 else 30
SESSIONS = 4
SAMPLES = 30
# The growth that a process may have at the end, compared with the first third: PostgreSQL's own
# caches and its allocator still vary a little.
MOST_GROWTH = 1024


def session(cluster):
    connection = cluster.connect(row_factory=namedtuple_row)
    connection.prepare_threshold = None
    return connection


def one(db, statement, *parameters):
    return db.execute(statement, parameters or None).fetchone()


class Client(threading.Thread):
    """A session that does everything that applications do, until it is told to stop."""

    def __init__(self, cluster, number, stop):
        super().__init__()
        self.db, self.stop, self.tenant = session(cluster), stop, f"t{number}"
        self.draw = random.Random(number)
        self.keys = []
        self.requests = self.calls = 0
        self.error = None
        self.pid = self.db.info.backend_pid

    def run(self):
        acts = [self.verify] * 20 + [self.authenticate] * 10 + [self.many] * 3 + [
            self.mint, self.revoke, self.rotate, self.alter, self.fail, self.unknown, self.read,
            self.define]
        try:
            self.mint()
            while not self.stop.is_set():
                self.draw.choice(acts)()
                self.calls += 1
        except Exception as error:
            self.error = error

    def key(self):
        return self.draw.choice(self.keys)

    def verify(self):
        one(self.db, "SELECT ok FROM keysmith.verify(%s, '{read}', spend => 1)", self.key().api_key)
        self.requests += 1

    def authenticate(self):
        headers = Jsonb({"Authorization": f"Bearer {self.key().api_key}"})
        with self.db.transaction():
            verdict = one(self.db, "SELECT * FROM keysmith.authenticate(%s, 'GET', %s, '203.0.113.9')",
                          headers, f"/orders/{self.draw.randrange(1000)}")
            self.requests += 1
            if verdict.ok:
                one(self.db, "SELECT keysmith.log_request(200, '5 ms')")
                one(self.db, "SELECT count(*) FROM orders")

    def many(self):
        keys = [self.key().api_key for _ in range(20)]
        self.db.execute("SELECT * FROM keysmith.verify_many(%s)", (keys,)).fetchall()
        self.requests += len(keys)

    def unknown(self):
        one(self.db, "SELECT * FROM keysmith.verify('ks_live_nobody')")

    def mint(self):
        self.keys.append(one(
            self.db, "SELECT * FROM keysmith.mint(%s, scopes => '{read}', limits => %s, credits => 1000000)",
            self.tenant, Jsonb([{"name": "minute", "limit": 100, "window": "1 minute"}])))

    def revoke(self):
        if len(self.keys) > 10:
            key = self.keys.pop(0)
            self.db.execute("SELECT keysmith.revoke(%s)", (key.key_id,))

    def rotate(self):
        key = self.keys.pop(self.draw.randrange(len(self.keys)))
        self.keys.append(one(self.db, "SELECT * FROM keysmith.rotate(%s)", key.key_id))

    def alter(self):
        changes = Jsonb({"metadata": {"n": self.draw.randrange(100)}})
        one(self.db, "SELECT * FROM keysmith.alter_key(%s, %s)", self.key().key_id, changes)

    def define(self):
        # Sessions read the keyspace's policy again.
        self.db.execute("SELECT keysmith.define_scope('default', 'read', %s)", (f"{self.draw.random()}",))

    def fail(self):
        """Errors of keysmith and of PostgreSQL, in and out of transactions."""
        for statement in ("SELECT keysmith.mint('nobody')", "SELECT keysmith.verify('x', spend => -1)",
                          "SELECT keysmith.alter_key(gen_random_uuid(), '{}')"):
            try:
                with self.db.transaction():
                    self.db.execute(statement)
            except psycopg.Error:
                pass

    def read(self):
        self.db.execute("SELECT keysmith.usage_logs(%s)", (self.tenant,)).fetchall()
        self.db.execute("SELECT * FROM keysmith.list_keys(%s) LIMIT 10", (self.tenant,)).fetchall()


def own_memory(pid):
    """Kilobytes of private memory: shared buffers grow as they are touched."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0])


def worker_pid(db):
    return one(db, "SELECT worker_pid FROM keysmith.usage_status()").worker_pid


def main():
    # Compiled queries would load a compiler into the process once tables are large.
    with running("soak", keysmith__usage_flush_interval="500ms", jit="off") as cluster:
        db = session(cluster)
        db.execute("CREATE EXTENSION keysmith; CREATE TABLE orders (id int)")
        db.execute("SELECT keysmith.define_scope('default', 'read')")
        db.execute("SELECT keysmith.define_route('default', 'GET', '/orders/{id}', '{read}'::text[])")
        for number in range(SESSIONS):
            db.execute("SELECT keysmith.create_tenant(%s)", (f"t{number}",))
        stop = threading.Event()
        clients = [Client(cluster, number, stop) for number in range(SESSIONS)]
        for client in clients:
            client.start()
        memory = {}
        for _ in range(SAMPLES):
            time.sleep(MINUTES * 60 / SAMPLES)
            pids = {f"backend {n}": client.pid for n, client in enumerate(clients)}
            pids["worker"] = worker_pid(db)
            for name, pid in pids.items():
                if pid:
                    memory.setdefault((name, pid), []).append(own_memory(pid))
            if any(client.error for client in clients):
                break
        stop.set()
        for client in clients:
            client.join()
        errors = [client.error for client in clients if client.error]
        made = sum(client.requests for client in clients)
        # The worker stores the remaining records.
        db.execute("SELECT keysmith.flush_usage('10 minutes')")
        stored = one(db, "SELECT count(*) AS n FROM keysmith_private.usage_event").n
        status = one(db, "SELECT * FROM keysmith.usage_status()")
        sound = one(db, "SELECT bool_and(ok) AS ok FROM keysmith.audit_verify()").ok
        complaints = [line for line in cluster.log.read_text().splitlines()
                      if "WARNING" in line or "leak" in line or "PANIC" in line]

    print(f"{MINUTES:g} minutes: {sum(client.calls for client in clients)} calls, {made} requests, "
          f"{stored} stored, {status.dropped} dropped, {status.quarantined} in quarantine")
    failures = [f"an error: {error!r}" for error in errors] + complaints
    for (name, pid), samples in memory.items():
        third = max(1, len(samples) // 3)
        early, late = max(samples[:third]), max(samples[-third:])
        print(f"{name} ({pid}): {samples[0]} kB at first, {early} kB at most in the first third, "
              f"{late} kB in the last; " + " ".join(map(str, samples)))
        if len(samples) >= 6 and late - early > MOST_GROWTH:
            failures.append(f"{name} grew by {late - early} kB")
    lost = status.dropped + status.quarantined
    if stored + lost != made:
        failures.append(f"{made - stored - lost} requests are not accounted for")
    if not sound:
        failures.append("the audit is not whole")
    if status.failures:
        failures.append(f"the worker failed: {json.dumps(status.last_error)}")
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    sys.exit(bool(failures))


main()
