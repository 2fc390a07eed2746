"""What goes wrong during a run: sessions and processes are ended, servers restart, crash and are
replaced. The seed decides the order; times depend on the machine."""

import itertools
import os
import random
import signal
import socket
import threading
import time
from collections import Counter

import psycopg

from keeper import state_of
from record import Recorder

LIGHT = ["cancel", "cancel", "cancel", "terminate", "disconnect", "terminate_worker"]
HEAVY = ["kill_backend", "kill_worker", "kill_postmaster", "restart_fast", "restart_immediate",
         "standby_restart", "standby_kill", "switch", "fail_over"]
LONGEST = 300


def schedule(seed):
    """Kinds of faults, endlessly. Each kind of heavy fault comes before any comes again; the first
    are those that a short run must have."""
    draw = random.Random(f"{seed} faults")
    turn = [draw.choice(["restart_fast", "restart_immediate"]), *draw.sample(HEAVY[:3], 3),
            draw.choice(["switch", "fail_over"])]
    while True:
        for heavy in turn:
            for _ in range(draw.randrange(6, 14)):
                yield draw.uniform(0.02, 0.25), draw.choice(LIGHT)
            yield 0, heavy
        turn = draw.sample(HEAVY, len(HEAVY))


def wait_until(condition):
    end = time.monotonic() + LONGEST
    while True:
        try:
            if found := condition():
                return found
        except psycopg.OperationalError:
            pass
        if time.monotonic() > end:
            raise TimeoutError("it did not come about")
        time.sleep(0.02)


def value(cluster, statement, *params):
    with cluster.connect() as session:
        row = session.execute(statement, params or None).fetchone()
        return row[0] if row else None


def memory_since(cluster):
    """It changes when the server's memory begins with nothing."""
    return value(cluster, "SELECT since FROM keysmith.limit_status()")


def processes_of(cluster):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/cwd") == str(cluster.data):
                found.append(int(pid))
        except OSError:
            pass
    return found


class Faults(threading.Thread):
    def __init__(self, world, folder, seed, clients, clusters):
        super().__init__(name="faults", daemon=True)
        self.world, self.clients, self.clusters = world, clients, clusters
        self.draw, self.kinds = random.Random(f"{seed} victims"), schedule(seed)
        self.record, self.done, self.error = Recorder(folder, "faults"), Counter(), None
        self.heavy, self.standbys = 0, itertools.count(1)

    def run(self):
        try:
            for pause, kind in self.kinds:
                if self.world.over.wait(pause):
                    return
                while not getattr(self, kind)() and kind in HEAVY:
                    if self.world.over.wait(0.05):      # the process is not there now
                        return
                self.done[kind] += 1
                self.heavy += kind in HEAVY
        except Exception as error:
            self.error = error
            self.world.over.set()
            raise

    def event(self, kind, server, act, **args):
        id = self.record.invoked(kind, args, server)
        act()
        self.record.returned(id, "ok")

    # Sessions

    def someone(self):
        return value(self.world.primary[1], """
            SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
              AND application_name <> 'watch' ORDER BY random() LIMIT 1""")

    def cancel(self, function="pg_cancel_backend"):
        try:
            pid = self.someone()
            return pid and value(self.world.primary[1], f"SELECT {function}(%s)", pid)
        except psycopg.OperationalError:
            return False

    def terminate(self):
        return self.cancel("pg_terminate_backend")

    def terminate_worker(self):
        pid = self.worker()
        return pid and value(self.world.primary[1], "SELECT pg_terminate_backend(%s)", pid)

    def disconnect(self):
        connection = self.draw.choice(self.clients).connection
        try:
            other = socket.socket(fileno=os.dup(connection.fileno()))
            other.shutdown(socket.SHUT_RDWR)
            other.close()
            return True
        except (AttributeError, OSError, psycopg.Error):
            return False

    # Processes of a server

    def worker(self):
        return value(self.world.primary[1],
                     "SELECT worker_pid FROM keysmith.usage_status()")

    def kill_backend(self, pid=None):
        name, cluster = self.world.primary
        pid, before = pid or self.someone(), memory_since(cluster)
        if pid is None:
            return False

        def strike():
            # A process that has ended already crashes no server. One that is stopped has not.
            os.kill(pid, signal.SIGSTOP)
            wait_until(lambda: state_of(pid) in "TtZX")
            if state_of(pid) in "ZX":
                raise ProcessLookupError(pid)
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: memory_since(cluster) != before)
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        try:
            self.event("crash", name, strike)
        except ProcessLookupError:
            return False
        return True

    def kill_worker(self):
        return self.kill_backend(self.worker())

    def restart_fast(self):
        name, cluster = self.world.primary
        self.event("restart", name, cluster.restart)
        return True

    def restart_immediate(self):
        name, cluster = self.world.primary
        self.event("crash", name, lambda: (cluster.stop("immediate"), cluster.start()))
        return True

    def kill_postmaster(self):
        name, cluster = self.world.primary
        self.event("crash", name, lambda: (cluster.kill(), self.start_again(cluster)))
        return True

    def start_again(self, cluster):
        wait_until(lambda: not processes_of(cluster))
        cluster.start_after_kill()

    # Standbys

    def standby_restart(self):
        name, cluster = self.world.standby
        self.event("restart", name, cluster.restart)
        return True

    def standby_kill(self):
        name, cluster = self.world.standby
        self.event("crash", name, lambda: (cluster.kill(), self.start_again(cluster)))
        return True

    def switch(self):
        """The primary is stopped, when the standby has everything; then they change places."""
        (old, primary), (new, standby) = self.world.primary, self.world.standby
        self.await_replay()
        self.world.primary = None
        restart = self.record.invoked("restart", {}, old)
        primary.stop()
        self.promote(new, standby)
        self.world.primary, self.world.standby = (new, standby), None
        with open(primary.data / "postgresql.auto.conf", "a") as conf:
            conf.write(f"primary_conninfo = 'host={standby.dir} port={standby.port} user=postgres'\n")
        (primary.data / "standby.signal").touch()
        primary.start()
        self.record.returned(restart, "ok")
        self.await_replay()
        self.world.standby = old, primary
        return True

    def fail_over(self):
        """The primary is killed. Commits were waiting for the standby, so it has what was acknowledged."""
        (old, primary), (new, standby) = self.world.primary, self.world.standby
        # A session with synchronous_commit off would wait for no standby.
        with self.world.off:
            self.world.may_be_off = False
        wait_until(lambda: not primary.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'off'"))
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.execute("SELECT pg_reload_conf()")
        wait_until(lambda: value(primary, "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"))
        # All commits wait, as soon as one does when the standby receives nothing.
        receiver = wait_until(lambda: value(
            standby, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walreceiver'"))
        os.kill(receiver, signal.SIGSTOP)
        try:
            wait_until(lambda: value(primary, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"))
        finally:
            os.kill(receiver, signal.SIGCONT)
        self.await_replay()
        self.world.primary = None
        crash = self.record.invoked("crash", {}, old)
        primary.kill()
        wait_until(lambda: not processes_of(primary))
        self.promote(new, standby)
        self.record.returned(crash, "ok")
        self.world.primary, self.world.standby, self.world.may_be_off = (new, standby), None, True
        self.clusters.remove(primary)
        primary.remove()
        self.add_standby()
        return True

    def promote(self, name, cluster):
        def promoted():
            cluster.execute("SELECT pg_promote(false)")
            wait_until(lambda: value(cluster, "SELECT NOT pg_is_in_recovery()"))
        self.event("promoted", name, promoted, standby=name)

    def await_replay(self):
        wait_until(lambda: value(self.world.primary[1], "SELECT keysmith.wait_for_replay('60 s')") >= 1)

    def add_standby(self):
        number = next(self.standbys)
        name = f"b{number}"
        standby = self.world.primary[1].backup(name, 5432 + number)
        self.clusters.append(standby)
        standby.configure(cluster_name=name)
        standby.start()
        self.await_replay()
        self.world.standby = name, standby


class Watch(threading.Thread):
    """Notes again and again what the standby has replayed, and what is stored."""

    def __init__(self, world, folder):
        super().__init__(name="watch", daemon=True)
        self.world, self.record = world, Recorder(folder, "watch")

    def run(self):
        while not self.world.over.wait(0.05):
            for kind in ("replayed", "flushed", "flushed there"):
                try:
                    self.note(kind)
                except (psycopg.Error, TypeError, AttributeError):
                    pass        # there is no such server now

    def note(self, kind):
        server, cluster = self.world.standby if kind == "flushed there" else self.world.primary
        with cluster.connect(application_name="watch") as session:
            if kind == "replayed":
                standby = self.world.standby[0]
                id = self.record.invoked(kind, {"standby": standby}, server)
                (count,) = session.execute("SELECT keysmith.wait_for_replay('5 s')").fetchone()
                if count and self.world.standby[0] == standby:
                    self.record.returned(id, "ok")
            else:
                id = self.record.invoked("flushed", {}, server)
                session.execute("SELECT keysmith.flush_usage('5 s')")
                self.record.returned(id, "ok")
