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
from ledger import Ledger, compare, problems

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


def verifier(server, dsn, keys, pause, stop, results):
    """Verifies keys until told to stop, or until the server is gone. Waits for `pause` seconds
    before each request."""
    let_in, refused, incarnation, start = [], Counter(), None, time.monotonic()
    chooser = random.Random(os.getpid())
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            ((incarnation,),) = connection.execute(
                "SELECT incarnation FROM keysmith.usage_status()").fetchall()
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
                    refused[server, reason] += 1
    except psycopg.OperationalError:
        pass
    results.put((server, incarnation, let_in, refused, time.monotonic() - start))


class Administrator(threading.Thread):
    """Mints keys, and revokes some of them, wherever the primary is."""

    def __init__(self, servers, ledger):
        super().__init__()
        self.servers, self.ledger, self.primary, self.stopped = servers, ledger, PRIMARY, False

    def run(self):
        while not self.stopped:
            try:
                with psycopg.connect(self.servers[self.primary].dsn(), autocommit=True) as session:
                    while not self.stopped:
                        self.act(session)
            except psycopg.Error:
                time.sleep(0.1)

    def act(self, session):
        ledger = self.ledger
        key_id, key = session.execute(
            "SELECT key_id, api_key FROM keysmith.mint('acme')").fetchone()
        ledger.minted[key_id] = key
        if len(ledger.minted) % 3:
            return
        ledger.in_doubt.add(key_id)
        session.execute("SELECT keysmith.revoke(%s)", [key_id])
        ledger.in_doubt.discard(key_id)
        ledger.revoked[key_id] = time.time()
        session.execute("SELECT keysmith.wait_for_replay('10 seconds')")
        # From here on nobody may accept the key.
        for server in [FIRST, SECOND]:
            with psycopg.connect(self.servers[server].dsn(), autocommit=True) as other:
                ledger.checks += 1
                if other.execute("SELECT ok FROM keysmith.verify(%s)", [key]).fetchone()[0]:
                    ledger.broken.append(f"{server} accepted a key after wait_for_replay()")


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
        ledger = Ledger()
        administrator = Administrator(servers, ledger)
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
        per_second = Counter()
        for name, incarnation, let_in, refused, took in asked:
            ledger.servers[incarnation] = name
            ledger.let_in[incarnation] += let_in
            ledger.refused += refused
            per_second[name] += len(let_in) / took
        books = balance(servers[heir], {name: servers[name] for name in [heir, other]}, ledger)
        books.keys, books.per_second, books.heir = len(set(keys)), per_second, heir
        return books


def received(server):
    ((position,),) = server.execute("SELECT pg_last_wal_receive_lsn() - '0/0'::pg_lsn")
    return position


def balance(heir, left, ledger):
    """Compares what the clients saw with the data of the servers that are left."""
    books = compare(
        ledger,
        stored=[request_id for request_id, in heir.execute(
            "SELECT request_id FROM keysmith_private.usage_event WHERE outcome = 'ok'")],
        reported=dict(heir.execute(
            "SELECT incarnation, lost_at_most FROM keysmith_private.usage_incarnation"
            " WHERE lost_at_most IS NOT NULL")),
        ended_suddenly={incarnation for incarnation, name in ledger.servers.items() if name == PRIMARY},
        verdicts={name: verdicts_of(server, ledger.minted) for name, server in left.items()})
    ((books.dropped,),) = heir.execute(
        "SELECT coalesce(sum(dropped), 0)::int FROM keysmith_private.usage_incarnation")
    (books.totals,) = heir.execute(
        "SELECT (SELECT sum(requests)::bigint FROM keysmith.usage_daily),"
        " (SELECT count(*) FROM keysmith_private.usage_event)")
    books.audit = heir.execute("SELECT bool_and(ok) FROM keysmith.audit_verify()") == [(True,)]
    return books


def verdicts_of(server, minted):
    with server.connect() as connection:
        return {key_id: connection.execute("SELECT reason FROM keysmith.verify(%s)", [key]).fetchone()[0]
                for key_id, key in minted.items()}


def tell(books):
    lives = {life.server: life for life in books.lives.values()}
    print(f"\n{'':22}{'primary':>12}{FIRST:>12}{SECOND:>12}")
    for title, of in [("accepted", lambda name: lives[name].let_in),
                      ("a second", lambda name: books.per_second[name]),
                      ("stored once", lambda name: lives[name].stored_once),
                      ("stored twice", lambda name: lives[name].stored_twice),
                      ("not stored", lambda name: lives[name].missing)]:
        print(f"{title:22}" + "".join(f"{of(name):12,.0f}" for name in (PRIMARY, FIRST, SECOND)))
    print(f"\n{books.keys} keys, {books.per_second.total():,.0f} requests a second in all,"
          " each server while it answered, by clients in Python on this machine")
    print(f"not stored of the killed primary: {lives[PRIMARY].missing:,}; "
          f"{books.heir} reports at most {lives[PRIMARY].reported or 0:,}")
    print(f"{books.minted:,} keys minted, {books.revoked:,} revoked, "
          f"{books.in_doubt} revocations without an answer")
    print(f"{books.checks:,} checks right after wait_for_replay()")


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
