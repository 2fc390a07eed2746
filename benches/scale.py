"""A primary and two standbys decide; then the primary is killed and a standby promoted.
Afterwards it compares every minted key, every revocation and every accepted request, as the
clients saw them, with the data of the remaining servers.
"""

import argparse
import multiprocessing
import os
import random
import threading
import time
from collections import Counter
from contextlib import ExitStack

import psycopg
from dataset import clusters

PRIMARY, FIRST, SECOND = "primary", "standby1", "standby2"

SETTINGS = {
    "max_wal_senders": 10,
    "max_connections": 60,
    "fsync": "on",
    # An acknowledged commit is on a standby, or a promotion could lose it.
    "synchronous_standby_names": f"ANY 1 ({FIRST}, {SECOND})",
    "keysmith.usage_flush_interval": "200ms",
    # Standbys go on deciding while no primary takes their records.
    "keysmith.usage_buffer": "64MB",
}


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > end:
            raise TimeoutError("it did not come true in time")
        time.sleep(0.02)
    return result


def ask(dsn, statement, *parameters):
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else []


def verifier(server, dsn, keys, pause, stop, results):
    """Verifies keys until told to stop, or until the server is gone. Waits for `pause` seconds
    before each request."""
    let_in, refused, start = [], Counter(), time.monotonic()
    chooser = random.Random(os.getpid())
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            cursor = connection.cursor(binary=True)
            while not stop.is_set():
                if pause:
                    time.sleep(pause)
                cursor.execute("SELECT ok, request_id, reason FROM keysmith.verify(%s)",
                               [chooser.choice(keys)], prepare=True)
                ok, request_id, reason = cursor.fetchone()
                if ok:
                    let_in.append(request_id)
                else:
                    refused[reason] += 1
    except psycopg.OperationalError:
        pass
    results.put((server, let_in, refused, time.monotonic() - start))


class Administrator(threading.Thread):
    """Mints keys, and revokes some of them, wherever the primary is."""

    def __init__(self, servers):
        super().__init__()
        self.servers, self.primary, self.stopped = servers, PRIMARY, False
        self.minted, self.revoked, self.in_doubt = {}, set(), set()
        self.checks = self.too_late = self.pauses = 0

    def run(self):
        while not self.stopped:
            try:
                with psycopg.connect(self.servers[self.primary].dsn(), autocommit=True) as session:
                    while not self.stopped:
                        self.act(session)
            except psycopg.Error:
                self.pauses += 1
                time.sleep(0.1)

    def act(self, session):
        key_id, key = session.execute(
            "SELECT key_id, api_key FROM keysmith.mint('acme')").fetchone()
        self.minted[key_id] = key
        if len(self.minted) % 3:
            return
        self.in_doubt.add(key_id)
        session.execute("SELECT keysmith.revoke(%s)", [key_id])
        self.in_doubt.discard(key_id)
        self.revoked.add(key_id)
        session.execute("SELECT keysmith.wait_for_replay('10 seconds')")
        # From here on nobody may accept the key.
        for server in [FIRST, SECOND]:
            with psycopg.connect(self.servers[server].dsn(), autocommit=True) as other:
                self.checks += 1
                self.too_late += other.execute(
                    "SELECT ok FROM keysmith.verify(%s)", [key]).fetchone()[0]


def drive(seconds, clients, say, pause=0):
    """Runs everything, and returns the results."""
    with ExitStack() as stack:
        primary = stack.enter_context(
            clusters.running(PRIMARY, **{n.replace(".", "__"): v for n, v in SETTINGS.items()
                                         if n != "synchronous_standby_names"}))
        servers = {PRIMARY: primary}
        primary.execute("CREATE EXTENSION keysmith")
        primary.execute("SELECT keysmith.create_tenant('acme')")
        for number, name in enumerate([FIRST, SECOND], 1):
            standby = primary.backup(name, primary.port + number)
            stack.callback(standby.remove)
            standby.configure(cluster_name=name)
            standby.start()
            servers[name] = standby
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = "
                        f"'{SETTINGS['synchronous_standby_names']}'")
        primary.execute("SELECT pg_reload_conf()")
        keys = [key for key, in primary.execute(
            "SELECT (keysmith.mint('acme', label => n::text)).api_key FROM generate_series(1, 100) n")]
        # The new primary can report the old primary's loss only if the old one has written its
        # state before.
        primary.execute(f"SELECT keysmith.verify('{keys[0]}')")
        primary.execute("SELECT keysmith.flush_usage('60 seconds')")
        wait_until(lambda: primary.execute("SELECT keysmith.wait_for_replay('60 seconds')") == [(2,)])

        say(f"{clients} clients ask each of three servers, another mints and revokes")
        processes, results = multiprocessing.get_context("fork"), multiprocessing.Queue()
        stop = processes.Event()
        askers = [processes.Process(target=verifier, args=(name, server.dsn(), keys, pause, stop, results))
                  for name, server in servers.items() for _ in range(clients)]
        for asker in askers:
            asker.start()
        administrator = Administrator(servers)
        administrator.start()
        # From here on every failure must end all processes.
        stack.callback(lambda: [asker.terminate() for asker in askers])
        stack.callback(lambda: setattr(administrator, "stopped", True))
        time.sleep(seconds / 2)

        killed_at = time.monotonic()
        primary.kill()
        say("the primary is killed with no chance to tidy up")
        # Its processes may run a moment longer than the postmaster, and go on sending.
        receiving = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'"
        wait_until(lambda: all(servers[name].execute(receiving) == [(0,)] for name in [FIRST, SECOND]))
        # The standby with more WAL, so that acknowledged commits are there.
        heir = max([FIRST, SECOND], key=lambda name: received(servers[name]))
        other = SECOND if heir == FIRST else FIRST
        servers[heir].execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        servers[heir].execute("SELECT pg_reload_conf()")
        servers[heir].execute("SELECT pg_promote(false)")
        wait_until(lambda: servers[heir].execute("SELECT pg_is_in_recovery()") == [(False,)])
        administrator.primary = heir
        promoted_in = time.monotonic() - killed_at
        say(f"{heir} is promoted, {promoted_in:.1f} s later, and {other} follows it")
        servers[other].execute("ALTER SYSTEM SET primary_conninfo = "
                               f"'host={servers[heir].dir} port={servers[heir].port} user=postgres'")
        servers[other].execute("SELECT pg_reload_conf()")
        time.sleep(seconds / 2)

        stop.set()
        administrator.stopped = True
        asked = [results.get(timeout=60) for _ in askers]
        for asker in askers:
            asker.join()
        administrator.join()
        say("the books are compared")
        assert servers[heir].execute("SELECT keysmith.wait_for_replay('60 seconds')") == [(1,)]
        for name in [other, heir]:
            servers[name].execute("SELECT keysmith.flush_usage('60 seconds')")
        return balance(servers, heir, other, asked, administrator) | {"keys": len(set(keys))}


def received(server):
    ((position,),) = server.execute("SELECT pg_last_wal_receive_lsn() - '0/0'::pg_lsn")
    return position


def balance(servers, heir, other, asked, administrator):
    """Compares what the clients saw with the data of the remaining servers."""
    stored = Counter(request_id for request_id, in servers[heir].execute(
        "SELECT request_id FROM keysmith_private.usage_event WHERE outcome = 'ok'"))
    books = {"servers": {}, "heir": heir}
    for name in [PRIMARY, FIRST, SECOND]:
        theirs = [entry for entry in asked if entry[0] == name]
        let_in = [request_id for entry in theirs for request_id in entry[1]]
        books["servers"][name] = {
            "let_in": len(let_in),
            "refused": sum((entry[2] for entry in theirs), Counter()),
            "stored_once": sum(stored[request_id] == 1 for request_id in let_in),
            "stored_twice": sum(stored[request_id] > 1 for request_id in let_in),
            "missing": sum(not stored[request_id] for request_id in let_in),
            "per_second": sum(len(entry[1]) / entry[3] for entry in theirs),
        }
    books["stored_twice"] = sum(count > 1 for count in stored.values())
    ((books["lost_at_most"], books["dropped"]),) = servers[heir].execute(
        "SELECT coalesce(sum(lost_at_most), 0)::int, coalesce(sum(dropped), 0)::int"
        " FROM keysmith_private.usage_incarnation")
    minted, revoked = administrator.minted, administrator.revoked
    for name in [heir, other]:
        verdicts = verdicts_of(servers[name], minted)
        books["servers"][name] |= {
            "accepted": sum(verdicts[key] == "ok" for key in minted if key not in revoked),
            "revived": sum(verdicts[key] != "revoked" for key in revoked),
            "unknown": sum(verdicts[key] not in ("ok", "revoked") for key in minted),
        }
    books |= {
        "minted": len(minted), "revoked": len(revoked), "checks": administrator.checks,
        "in_doubt": len(administrator.in_doubt), "let_in_too_late": administrator.too_late,
    }
    books["totals"], = servers[heir].execute(
        "SELECT (SELECT sum(requests)::bigint FROM keysmith.usage_daily),"
        " (SELECT count(*) FROM keysmith_private.usage_event)")
    books["audit"] = servers[heir].execute("SELECT bool_and(ok) FROM keysmith.audit_verify()") == [(True,)]
    return books


def verdicts_of(server, minted):
    verdicts = {}
    with server.connect() as connection:
        for key_id, key in minted.items():
            verdicts[key_id] = connection.execute(
                "SELECT reason FROM keysmith.verify(%s)", [key]).fetchone()[0]
    return verdicts


def problems(books):
    """Everything that does not add up."""
    servers, heir = books["servers"], books["heir"]
    for name, server in servers.items():
        if server["refused"]:
            yield f"{name} refused good keys: {dict(server['refused'])}"
        if name != PRIMARY and server["missing"]:
            yield f"{server['missing']} requests that {name} accepted are not stored"
        if name != PRIMARY and (server["revived"] or server["unknown"]):
            yield f"{name} disagrees about {server['revived']} revoked, {server['unknown']} minted keys"
        expected = books["minted"] - books["revoked"] - books["in_doubt"]
        if name != PRIMARY and server["accepted"] < expected:
            yield f"{name} accepts {server['accepted']} of {expected} keys"
    if servers[PRIMARY]["missing"] > books["lost_at_most"]:
        yield f"{heir} reports a loss of at most {books['lost_at_most']}"
    if books["stored_twice"]:
        yield f"{books['stored_twice']} requests are stored twice"
    if books["dropped"]:
        yield f"{books['dropped']} records were dropped"
    if books["let_in_too_late"]:
        yield f"{books['let_in_too_late']} revoked keys were accepted after wait_for_replay()"
    if books["totals"][0] != books["totals"][1]:
        yield "the totals are {} for {} rows".format(*books["totals"])
    if not books["audit"]:
        yield "the audit chain is broken"


def tell(books):
    print(f"\n{'':22}{'primary':>12}{FIRST:>12}{SECOND:>12}")
    rows = [("accepted", "let_in"), ("a second", "per_second"), ("stored once", "stored_once"),
            ("stored twice", "stored_twice"), ("not stored", "missing")]
    for title, name in rows:
        values = [books["servers"][server][name] for server in (PRIMARY, FIRST, SECOND)]
        print(f"{title:22}" + "".join(f"{value:12,.0f}" for value in values))
    print(f"\n{sum(s['per_second'] for s in books['servers'].values()):,.0f} requests a second in all,"
          " each server while it answered, by clients in Python on this machine")
    print(f"not stored of the killed primary: {books['servers'][PRIMARY]['missing']:,}; "
          f"{books['heir']} reports at most {books['lost_at_most']:,}")
    print(f"{books['minted']:,} keys minted, {books['revoked']:,} revoked, "
          f"{books['in_doubt']} revocations without an answer")
    print(f"{books['checks']:,} checks right after wait_for_replay(), "
          f"{books['let_in_too_late']} accepted")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--clients", type=int, default=2, help="for each server")
    arguments = parser.parse_args()
    books = drive(arguments.seconds, arguments.clients, print)
    tell(books)
    found = list(problems(books))
    print("\n".join(found) if found else "\nevery key, revocation and request is accounted for")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
