"""Draws the panels of the dashboard from a real run.
A primary and a standby are watched by Debian's Prometheus while clients send requests, some of
which are refused. On the way, replay is paused, and then the worker is stopped.
    dashboard.py [--minutes 4]
"""

import argparse
import datetime
import os
import random
import re
import signal
import threading
import time
from pathlib import Path

import plot
from dataset import clusters, headers, make_keys
from scene import worker_of

import monitoring

PICTURE = Path(__file__).parent / "results" / "dashboard.svg"
# Room for few records, so that the queue fills while the worker stands still.
SETTINGS = {"fsync": "on", "keysmith__usage_buffer": "4MB", "keysmith__max_replica_lag": "30s"}

# Of rates, in seconds.
INTERVAL = 15


class Client(threading.Thread):
    """A session that repeats a statement, with one of the values, until it is told to stop."""

    def __init__(self, cluster, stop, a_second, statement, values=(None,)):
        super().__init__(daemon=True)
        self.session, self.stop, self.a_second = cluster.connect("app"), stop, a_second
        self.statement, self.values = statement, values

    def run(self):
        while not self.stop.wait(random.expovariate(self.a_second)):
            value = random.choice(self.values)
            self.session.execute(self.statement, [value] if value is not None else None, prepare=True)
        self.session.close()


def fill(cluster):
    """A database with keys of several kinds, by kind."""
    cluster.execute("CREATE DATABASE app")
    cluster.execute("CREATE EXTENSION keysmith", "app")
    monitoring.prepare(cluster)
    with cluster.connect("app") as db:
        db.execute("SELECT keysmith.define_scope('default', 'read'), keysmith.define_scope('default', 'write')")
        db.execute("SELECT keysmith.define_route('default', 'GET', '/orders/{id}', '{read}'::text[])")
        db.execute("SELECT keysmith.create_tenant('acme'), keysmith.create_tenant('initech')")
        db.execute("CREATE ROLE owner; CREATE TABLE orders (id int, tenant_id uuid)")
        db.execute("SELECT keysmith.isolate('orders', 'tenant_id')")
        db.execute("ALTER TABLE orders OWNER TO owner")

        def mint(count, options=""):
            return [db.execute(f"SELECT api_key FROM keysmith.mint('acme', scopes => '{{read}}'{options})").fetchone()[0]
                    for _ in range(count)]

        keys = {"good": mint(40), "revoked": mint(1),
                "limited": mint(4, """, limits => '[{"name": "burst", "limit": 60, "window": "20 seconds"}]'"""),
                "paid": mint(1, ", credits => 300")}
        db.execute("SELECT count(*) FROM keysmith.report_leak(%s, 'a page')", keys["revoked"])
        db.execute("ANALYZE")
    return keys


def clients(primary, standby, keys, stop):
    verify = "SELECT keysmith.verify(%s, '{read}')"
    writing = "SELECT keysmith.verify(%s, '{write}')"
    authenticate = "SELECT keysmith.authenticate(%s::jsonb, 'GET', '/orders/7', '203.0.113.9')"
    good, presented = keys["good"], [headers(key) for key in keys["good"]]
    return [
        Client(primary, stop, 120, authenticate, presented), Client(primary, stop, 60, verify, good),
        Client(primary, stop, 4, writing, good), Client(primary, stop, 20, verify, keys["limited"]),
        Client(primary, stop, 4, "SELECT keysmith.verify(%s, '{read}', spend => 1)", keys["paid"]),
        Client(primary, stop, 2, verify, keys["revoked"]), Client(primary, stop, 5, verify, make_keys(1, seed=0)),
        Client(standby, stop, 50, verify, good),
        Client(primary, stop, 0.5, "SELECT keysmith.mint('initech', label => 'new')")]


def stop_worker(db, key):
    """Stops the worker while it waits: elsewhere it may hold a lock that others wait for."""
    while True:
        worker = worker_of(db, f"(VALUES ('{key}')) AS key (api_key)")
        os.kill(worker, signal.SIGSTOP)
        if db.execute("SELECT wait_event_type = 'Extension' AND xact_start IS NULL FROM pg_stat_activity WHERE pid = %s",
                      [worker]).fetchone()[0]:
            return worker
        os.kill(worker, signal.SIGCONT)
        time.sleep(0.05)


def play(primary, standby, keys, seconds, say):
    """A mixed load, and two faults."""
    stop = threading.Event()
    started = clients(primary, standby, keys, stop)
    for client in started:
        client.start()
    try:
        time.sleep(seconds * 0.3)
        say("replay pauses")
        standby.execute("SELECT pg_wal_replay_pause()")
        time.sleep(seconds * 0.1)
        standby.execute("SELECT pg_wal_replay_resume()")
        time.sleep(seconds * 0.2)
        say("the worker stands still")
        with primary.connect("app") as db:
            worker = stop_worker(db, keys["good"][0])
            try:
                db.execute("SELECT count(keysmith.verify(%s, '{read}')) FROM generate_series(1, 3500)", [keys["good"][0]])
                time.sleep(seconds * 0.1)
            finally:
                os.kill(worker, signal.SIGCONT)
        time.sleep(seconds * 0.3)
    finally:
        stop.set()
        for client in started:
            client.join()


def read(watched, target, begin, end):
    """A line for each series of a target."""
    expression = monitoring.filled(target["expr"], f"{INTERVAL}s")
    found = watched.ask("query_range", query=expression, start=begin, end=end, step=max(1, (end - begin) / 150))
    for one in found["result"]:
        name = re.sub(r"{{(\w+)}}", lambda label: one["metric"].get(label[1], ""), target["legendFormat"])
        points = [(at - begin, float(value)) for at, value in one["values"] if value not in ("NaN", "+Inf")]
        if points:
            yield name, points


def draw(watched, begin, end):
    """The dashboard's panels, by their places."""
    board = monitoring.dashboard()
    shown = [plot.Panel(panel["title"], panel["fieldConfig"]["defaults"]["unit"],
                        [line for target in panel["targets"] for line in read(watched, target, begin, end)],
                        panel["fieldConfig"]["defaults"].get("noValue", "no data"))
             for panel in sorted(board["panels"], key=lambda panel: (panel["gridPos"]["y"], panel["gridPos"]["x"]))]
    subtitle = (f"A primary and a standby, {datetime.date.today().isoformat()}. Replay pauses after a third of the time; "
                "later the worker stands still.")
    return plot.panels(f"{board['title']}: the dashboard of examples/monitoring", subtitle, shown, end - begin)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=4)
    options = parser.parse_args()

    def say(what):
        print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)

    with clusters.running("primary", **SETTINGS) as primary:
        keys = fill(primary)
        standby = primary.backup("standby", 5433)
        try:
            standby.configure(cluster_name="standby")
            standby.start()
            with monitoring.running({"primary": primary, "standby": standby}) as watched:
                while len(watched.series("keysmith_info")) < 2:
                    time.sleep(0.1)
                say("the load begins")
                # The first rates are of an interval that began before the load.
                begin = time.time() + INTERVAL
                play(primary, standby, keys, options.minutes * 60, say)
                PICTURE.write_text(draw(watched, begin, time.time()))
        finally:
            standby.remove()
    print(PICTURE)


if __name__ == "__main__":
    main()
