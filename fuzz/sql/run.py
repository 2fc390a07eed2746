#!/usr/bin/env python3
"""Calls every function and view of the schema keysmith at random, as every role, while tables
change, statements are cancelled and sessions end. See CONTRIBUTING.md.

    run.py [--minutes 10] [--seed N] [--sessions 4] [--encoding UTF8] [--succeed 0]
"""

import argparse
import collections
import random
import re
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[2] / "tests")]

import psycopg

import disturb
import judge
import scene
from calls import FUNCTIONS, VIEWS, Calls
from cluster import Cluster
from conftest import session
from rows import write_peppers
from tokens import write_secrets
from values import Values

ISOLATION = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
ROUND_SECONDS = 8
# The memory that an idle session may hold, in bytes: more would be a leak.
MOST_MEMORY = 160 << 20
OFTEN = ["SET lock_timeout = '1s'", "SET statement_timeout = '10s'"]


class Finding(Exception):
    pass


class Run:
    """What all sessions share."""

    def __init__(self, cluster, seed, encoding, goes_on):
        self.cluster, self.seed, self.encoding, self.goes_on = cluster, seed, encoding, goes_on
        self.succeeded, self.states = collections.Counter(), collections.Counter()
        self.findings, self.keys, self.slow = {}, set(), []
        self.lock, self.over = threading.Lock(), threading.Event()
        self.ended, self.pids = set(), {}
        self.statements = 0

    def found(self, what, recent=(), kind=None):
        """Ends the run, unless all findings are wanted: then it keeps the first of each kind."""
        with self.lock:
            self.findings.setdefault(kind or what, (what, list(recent)))
        if not self.goes_on:
            self.over.set()


class Caller(threading.Thread):
    """A session that makes calls, as one role for each transaction."""

    def __init__(self, run, number, round_number, connections, functions, views, known):
        super().__init__(daemon=True)
        self.run_, self.connections = run, connections
        self.draw = random.Random(f"{run.seed} {round_number} {number}")
        self.calls = Calls(self.draw, Values(self.draw, known, run.encoding), functions, views)
        self.known = known
        self.recent = collections.deque(maxlen=60)

    def run(self):
        try:
            while not self.run_.over.is_set():
                self.transaction(*self.draw.choices(scene.ROLES, scene.WEIGHTS))
        except Exception as error:
            self.run_.found(f"the fuzzer itself failed: {error!r}", self.recent)

    def connection(self, role):
        if role not in self.connections or self.connections[role].closed:
            for _ in range(600):
                try:
                    opened = psycopg.connect(self.run_.cluster.dsn(user=role), autocommit=True, prepare_threshold=None)
                    break
                except psycopg.OperationalError:
                    time.sleep(0.1)
            else:
                raise Finding("no session is to be had")
            opened.add_notice_handler(self.noticed)
            self.run_.pids[opened] = opened.info.backend_pid
            if self.run_.encoding != "UTF8":
                opened.execute("SET client_encoding = 'SQL_ASCII'")
            for setting in OFTEN:
                opened.execute(setting)
            self.connections[role] = opened
        return self.connections[role]

    def noticed(self, diag):
        text = diag.message_primary or ""
        if re.search("leak|still referenced|panicked", text):
            self.run_.found(f"a warning: {text}", self.recent)

    def transaction(self, role):
        connection = self.connection(role)
        draw = self.draw
        is_open = draw.random() < 0.5
        if draw.random() < 0.1:
            self.send(connection, role, None, draw.choice(disturb.SETTINGS))
        if is_open:
            mode = draw.choice(["", "", "", "READ WRITE", "READ ONLY", "READ ONLY, DEFERRABLE"])
            self.send(connection, role, None, f"BEGIN ISOLATION LEVEL {draw.choice(ISOLATION)} {mode}")
            if draw.random() < 0.4:
                key = draw.choice(self.known["api_key"])
                self.send(connection, role, None, f"SELECT ok FROM keysmith.verify({key}, sign_in => true)")
        for _ in range(draw.randrange(1, 6) if is_open else 1):
            has_savepoint = is_open and draw.random() < 0.8
            thing, statements = self.calls.next(role, is_open)
            if connection.info.transaction_status.name == "INERROR":
                continue
            if has_savepoint:
                self.send(connection, role, None, "SAVEPOINT outer_one")
            self.send_all(connection, role, thing, statements)
            if has_savepoint and connection.info.transaction_status.name == "INERROR":
                self.send(connection, role, None, "ROLLBACK TO outer_one")
        if connection.closed:
            return
        if connection.info.transaction_status.name != "IDLE":
            self.end(connection, role)
        if draw.random() < 0.05:
            self.send(connection, role, None, "DISCARD ALL")
            for setting in OFTEN:
                self.send(connection, role, None, setting)

    def end(self, connection, role):
        how = self.draw.random()
        if how < 0.1:
            name = f"p{self.draw.randrange(2**60)}"
            if self.send(connection, role, None, f"PREPARE TRANSACTION '{name}'"):
                self.send(connection, role, None, self.draw.choice([f"COMMIT PREPARED '{name}'", f"ROLLBACK PREPARED '{name}'"]))
        else:
            self.send(connection, role, None, "COMMIT" if how < 0.8 else "ROLLBACK")
        # This can be cancelled too.
        while not connection.closed and connection.info.transaction_status.name != "IDLE":
            self.send(connection, role, None, "ROLLBACK")

    def send_all(self, connection, role, thing, statements):
        for statement in statements:
            if connection.info.transaction_status.name == "INERROR" and not statement.startswith("ROLLBACK TO"):
                continue
            # These only prepare the call, or clean up after it.
            is_call = not re.match("SAVEPOINT|ROLLBACK|RELEASE|PREPARE|DEALLOCATE|DECLARE|CLOSE|DROP|CREATE TRIGGER|SELECT set_config", statement)
            done = self.send(connection, role, thing, statement, is_call)
            if not done and not is_call:
                break

    def send(self, connection, role, thing, statement, is_call=True):
        """Runs a statement, and judges its outcome. True if it succeeded."""
        if connection.closed:
            return False
        run, name = self.run_, thing.name if thing else ""
        self.recent.append(f"{role}> {statement}")
        begun = time.monotonic()
        state = "00000"
        try:
            cursor = connection.execute(statement.encode("utf-8"))
            while cursor.nextset():
                pass
            if thing:
                self.learn(cursor)
        except psycopg.Error as error:
            state = error.sqlstate or "lost"
            self.recent[-1] += f"  -- {state} {error.diag.message_primary}"
            if connection.closed:
                if run.pids.get(connection) not in run.ended:
                    run.found(f"the session was lost: {name}: {state} {error.diag.message_primary}", self.recent, (name, state))
            else:
                why = judge.judge(error, name, statement)
                if why or judge.told_key(error, run.keys):
                    why = why or "a key is in the message"
                    run.found(f"{why}: {name}: {state} {error.diag.message_primary} | {error.diag.context or ''}", self.recent,
                              (name, state, re.sub(r"\d+|\".*?\"", "", error.diag.message_primary or "")))
        with run.lock:
            run.statements += 1
            if thing and is_call:
                run.states[name, state] += 1
                if state == "00000":
                    run.succeeded[name] += 1
        if state == "57014" and time.monotonic() - begun > 9:
            run.slow.append((role, statement))
        return state == "00000"

    def learn(self, cursor):
        """The minted keys and tokens: none may be in a log."""
        result = cursor.pgresult
        for n in range(result.nfields if result.ntuples else 0):
            value = result.get_value(0, n) or b""
            if result.fname(n) in (b"api_key", b"token") and len(value) > 20:
                with self.run_.lock:
                    self.run_.keys.add(value.decode("ascii", "replace"))


def check_idle(run, db, callers_connections):
    """Checks that idle sessions hold no locks, and that none has grown."""
    for statement in ("SELECT gid FROM pg_prepared_xacts",):
        for gid, in db.rows(statement):
            db.rows(f"ROLLBACK PREPARED '{gid}'")
    held = db.rows("""
        SELECT l.locktype, l.relation::regclass::text, l.classid::regclass::text, l.objid, l.mode, a.state, a.query
        FROM pg_locks l JOIN pg_stat_activity a USING (pid)
        WHERE a.backend_type = 'client backend' AND pid <> pg_backend_pid() AND a.usename = ANY (%s)
          -- PostgreSQL keeps these for other serializable transactions.
          AND l.mode <> 'SIReadLock'""", scene.ROLES)
    if held:
        run.found(f"locks that sessions hold between transactions: {held}")
    most = 0
    for connections in callers_connections:
        for role, connection in connections.items():
            if connection.closed:
                continue
            # Clients keep what they prepare and open: it may hold a value of 100 MB.
            try:
                connection.execute("DEALLOCATE ALL; CLOSE ALL")
            except psycopg.Error:
                continue
            status = Path(f"/proc/{connection.info.backend_pid}/status")
            if not status.exists():
                continue
            memory = int(re.search(r"RssAnon:\s+(\d+) kB", status.read_text())[1]) << 10
            most = max(most, memory)
            if memory > MOST_MEMORY:
                contexts = connection.execute("SELECT name, ident, used_bytes FROM pg_backend_memory_contexts "
                                              "ORDER BY total_bytes DESC LIMIT 5").fetchall() if role == "postgres" else ""
                run.found(f"an idle session of {role} has {memory >> 20} MB: {contexts}")
    return most


def check_server(run, db):
    # Names may be invalid in every encoding, so they are not fetched.
    broken = db.rows("SELECT keyspace::bytea, problem::bytea FROM keysmith.audit_verify() WHERE NOT ok")
    if broken:
        run.found(f"the audit is not whole: {broken}")
    db.rows("SELECT count(*) FROM keysmith.doctor()")
    db.rows("SELECT count(*) FROM keysmith.usage_status()")


def check_log(run, cluster, seen):
    if not cluster.log.exists():
        return seen
    with open(cluster.log, errors="replace") as log:
        log.seek(seen)
        text = log.read()
    for line in judge.bad_lines(text):
        if not any(re.search(allowed, line) for allowed in disturb.LOGGED):
            run.found(f"in the server's log: {line}")
    for key in run.keys:
        if key in text:
            run.found("a key is in the server's log", [line for line in text.splitlines() if key in line][:3])
    return seen + len(text.encode(errors="replace"))


def replay_slow(run, db):
    """Runs a statement alone that was cancelled after ten seconds."""
    for role, statement in run.slow[:5]:
        if re.search("flush_usage|wait_for_replay", statement):
            continue
        with psycopg.connect(run.cluster.dsn(user=role), autocommit=True) as connection:
            try:
                connection.execute("SET statement_timeout = '30s'")
                connection.execute(statement.encode())
            except psycopg.errors.QueryCanceled:
                run.found(f"takes longer than 30 seconds alone: {role}> {statement}")
            except psycopg.Error:
                pass
    run.slow.clear()


def one_round(run, threads, seconds):
    run.over.clear()
    for thread in threads:
        thread.start()
    run.over.wait(seconds)
    run.over.set()
    for thread in threads:
        thread.join(120)
        if thread.is_alive():
            run.found(f"a session of {thread} does not end", getattr(thread, "recent", ()))


@contextmanager
def server(*arguments, has_pepper):
    cluster = Cluster("fuzz")
    try:
        pepper = {"keysmith__pepper_file": write_peppers(cluster, [1, 2])} if has_pepper else {}
        signing = write_secrets(cluster, 1, 2)
        cluster.init(*arguments, keysmith__signing_key_file=signing, **scene.SETTINGS, **pepper).start()
        yield cluster
    finally:
        cluster.remove()


def fuzz(minutes, seed, sessions, encoding, goes_on, succeed=0, say=print):
    arguments = ("-E", "UTF8", "--locale=C.UTF-8") if encoding == "UTF8" else ("-E", "SQL_ASCII", "--locale=C")
    with server(*arguments, has_pepper=seed % 2 == 0) as cluster:
        run = Run(cluster, seed, encoding, goes_on)
        db = session(cluster, client_encoding="utf8")
        scene.build(db)
        functions, views = db.rows(FUNCTIONS), db.rows(VIEWS)
        end, number, seen = time.monotonic() + minutes * 60, 0, 0
        last = end + minutes * 600
        connections = [{} for _ in range(sessions)]
        while time.monotonic() < (end if len(run.succeeded) >= succeed else last) and (goes_on or not run.findings):
            callers = []
            try:
                db = session(cluster, client_encoding="utf8")
                secrets, known = scene.renew(db)
                run.keys.update(secrets)
                # Levels may have been granted or revoked since: this lists again who may call
                # each function.
                functions = db.rows(FUNCTIONS)
                callers = [Caller(run, n, number, connections[n], functions, views, known) for n in range(sessions)]
                threads = [*callers, disturb.Disturber(run, number, connections)]
                one_round(run, threads, min(ROUND_SECONDS, max(1, end - time.monotonic())) if time.monotonic() < end else ROUND_SECONDS)
                db.session.close()
                db = session(cluster, client_encoding="utf8")
                disturb.calm(db)
                most = check_idle(run, db, connections)
                check_server(run, db)
                replay_slow(run, db)
            except psycopg.OperationalError as error:
                log = cluster.log.read_text(errors="replace").splitlines() if cluster.log.exists() else ["its log is gone"]
                recent = [statement for caller in callers for statement in list(caller.recent)[-12:]]
                run.found(f"the server does not answer: {error}", recent + log[-20:])
                break
            finally:
                seen = check_log(run, cluster, seen)
            number += 1
            say(f"round {number}: {run.statements} statements, {len(run.succeeded)} of "
                f"{len({f.name for f in functions}) + len(views)} functions and views succeeded, {most >> 20} MB at most")
        return run, functions, views


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--minutes", type=float, default=10)
    options.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    options.add_argument("--sessions", type=int, default=4)
    options.add_argument("--encoding", choices=["UTF8", "SQL_ASCII"])
    options.add_argument("--succeed", type=int, default=0, help="go on for ten times as long until so many functions and views have succeeded")
    options.add_argument("--all", action="store_true", help="go on after a finding, and tell the first of each kind")
    options.add_argument("--states", action="store_true", help="show how calls of each function ended")
    given = options.parse_args()
    encoding = given.encoding or ("SQL_ASCII" if given.seed % 4 == 3 else "UTF8")
    print(f"seed {given.seed}, {encoding}", flush=True)
    run, functions, views = fuzz(given.minutes, given.seed, given.sessions, encoding, given.all, given.succeed,
                                 say=lambda line: print(line, flush=True))
    wanted = {function.name for function in functions} | {view.name for view in views}
    if given.states:
        for (name, state), count in sorted(run.states.items()):
            print(f"{name} {state} {count}")
    for what, recent in run.findings.values():
        print(f"\nFINDING, seed {given.seed}: {what}")
        for statement in recent[-25:]:
            print("    " + (statement if len(statement) < 1500 else statement[:1500] + " ..."))
    missing = sorted(wanted - set(run.succeeded))
    print(f"{run.statements} statements, {sum(run.succeeded.values())} calls that succeeded, of {len(wanted) - len(missing)} of "
          f"{len(wanted)} functions and views, not: {', '.join(missing) or 'none'}")
    return 1 if run.findings else 0


if __name__ == "__main__":
    sys.exit(main())
