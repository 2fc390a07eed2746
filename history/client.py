"""A client that does what the seed says, and writes down what it asked for and what it saw."""

import random
import threading
from contextlib import nullcontext

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

import plan
from record import Recorder

LEVELS = ["READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
# In a retry loop without a server.
PAUSE = 0.02


class Gone(Exception):
    """The connection broke."""


class Client(threading.Thread):
    def __init__(self, world, folder, seed, number, reads_standby=False):
        super().__init__(name=f"client{number}", daemon=True)
        self.world, self.number, self.reads_standby = world, number, reads_standby
        self.draw = random.Random(f"{seed} {number}")
        self.record = Recorder(folder, self.name)
        self.solo, self.made, self.transactions = None, [], 0
        self.connection = self.server = self.txn = self.error = None
        self.earlier = {}       # the process of the connection before, by server
        self.is_primary, self.spends = True, number % 2 == 0

    def run(self):
        try:
            while not self.world.over.is_set():
                try:
                    self.connect()
                    self.work()
                except (Gone, psycopg.OperationalError):
                    self.forget()
            self.forget()
        except Exception as error:      # the program's own fault
            self.error = error
            self.world.over.set()
            raise

    def connect(self):
        """To the primary, or to a standby if there is one."""
        if self.connection:
            return
        world, target = self.world, None
        with world.lock:
            target = world.standby if self.reads_standby and world.standby else world.primary
        if target is None:
            world.over.wait(PAUSE)
            raise Gone
        self.server, cluster = target
        self.is_primary = target == world.primary
        try:
            with world.off if not self.spends else nullcontext():
                # Acts are flushed all the same. A spend is not, so such a client spends nothing.
                level = "off" if world.may_be_off and not self.spends else "on"
                self.connection = cluster.connect(row_factory=dict_row, prepare_threshold=None, application_name=level,
                                                  options=f"-c synchronous_commit={level}")
        except psycopg.OperationalError:
            world.over.wait(PAUSE)
            raise
        earlier = self.earlier.setdefault(self.server, [])
        if earlier:
            self.wait_for_end(earlier)
        earlier[:] = [self.connection.info.backend_pid]

    def wait_for_end(self, pids):
        """Until the server process of the broken connection has ended: then its acts are in effect,
        or never will be."""
        id = self.record.invoked("gone", {"pids": pids}, self.server)
        while self.connection.execute("SELECT 1 FROM pg_stat_activity WHERE pid = ANY (%s)", [pids]).fetchall():
            if self.world.over.wait(PAUSE):
                raise Gone
        self.record.returned(id, "ok")

    def forget(self):
        if self.connection:
            self.connection.close()
        self.connection = self.txn = None
        self.publish()

    def work(self):
        draw = self.draw
        # A server that was a standby may be the primary by now.
        if self.world.primary and self.server == self.world.primary[0]:
            self.is_primary = True
        elif self.reads_standby and self.world.standby and self.world.standby[0] != self.server:
            raise Gone
        if draw.random() < 0.04:
            self.connection.execute(f"SET statement_timeout = {draw.choice([0, 0, draw.randrange(1, 8)])}")
        if not self.is_primary and draw.random() < 0.8 or draw.random() < 0.5:
            self.step(acts=0)
        elif draw.random() < 0.5:
            self.step(acts=0.8 if self.is_primary else 0)
            self.publish()
        else:
            self.transaction()

    def transaction(self):
        draw, level = self.draw, self.draw.choice(LEVELS)
        read_only = not self.is_primary or draw.random() < 0.1
        if not self.is_primary and level == "SERIALIZABLE":
            level = "REPEATABLE READ"
        self.transactions += 1
        self.txn, points, fails = self.transactions, [], False
        if not self.do("begin", {}, f"BEGIN ISOLATION LEVEL {level} {'READ ONLY' if read_only else ''}"):
            self.txn = None
            return
        for _ in range(draw.randrange(1, 6)):
            if draw.random() < 0.3:
                points.append(f"s{len(points)}")
                fails = not self.do("savepoint", {"name": points[-1]}, f"SAVEPOINT {points[-1]}")
            elif points and draw.random() < 0.3:
                fails = not self.roll_back_to(points)
            elif not self.step(acts=0 if read_only else 0.5, read_only=read_only):
                fails = not points or draw.random() < 0.5 or not self.roll_back_to(points)
            if fails:
                break
        end = "rollback" if fails or draw.random() < 0.2 else "commit"
        if not self.do(end, {}, end) or end == "rollback":
            # Some keys that never were are asked for too.
            self.made = self.made[:draw.random() < 0.2]
        while self.connection.info.transaction_status != TransactionStatus.IDLE:
            self.do("rollback", {}, "rollback")     # again, if that was cancelled
        self.txn = None
        self.publish()

    def roll_back_to(self, points):
        place = self.draw.randrange(len(points))
        del points[place + 1:]
        return self.do("rollback_to", {"name": points[place]}, f"ROLLBACK TO {points[place]}")

    def step(self, acts, read_only=False):
        """One decision or act; whether the transaction can go on."""
        if self.draw.random() < acts:
            chosen = plan.act(self.world, self.draw, self, self.record.next())
        else:
            chosen = plan.decision(self.world, self.draw, self.spends, self.txn is not None)
        if chosen is None:
            return True
        kind, args = chosen
        if read_only and "spend" in args:
            args["read_only"] = True
        return self.do(kind, args, plan.STATEMENTS[kind], keep=True)

    def do(self, kind, args, statement, keep=False):
        """Whether the statement succeeded. Raises Gone if the answer never came."""
        id = self.record.invoked(kind, args, self.server, self.is_primary, self.txn)
        try:
            params = args | {"limits": Jsonb(plan.limits(args["limit"])) if args.get("limit") else None} if keep else None
            cursor = self.connection.execute(statement, params)
        except psycopg.Error as error:
            if error.sqlstate is None or self.connection.closed or self.connection.broken:
                self.record.returned(id, "unknown", {"sqlstate": error.sqlstate})
                raise Gone from error
            self.record.returned(id, "error", {"sqlstate": error.sqlstate, "message": error.diag.message_primary})
            return False
        if kind == "commit" and cursor.statusmessage != "COMMIT":
            self.record.returned(id, "error", {"tag": cursor.statusmessage})
            return False
        value = cursor.fetchone() if cursor.description else None
        self.record.returned(id, "ok", value)
        if keep and "api_key" in (value or {}):
            self.made.append((kind, args, value))
        return True

    def publish(self):
        """Keys become known to other clients after their transaction; some never were committed."""
        for kind, args, value in self.made:
            old = self.known(args.get("key"))
            if kind == "mint":
                key = plan.Key(value["key_id"], value["api_key"], args["keyspace"], args["tenant"], args["sort"],
                               args["credits"] is not None)
            elif kind == "regenerate":
                key = plan.Key(value["key_id"], value["api_key"], "default", args["tenant"], "solo")
                self.solo = str(key.id)
            elif old:
                key = plan.Key(value["key_id"], value["api_key"], old.keyspace, old.tenant, old.sort, old.has_credits)
            else:
                continue
            key.id = str(key.id)
            self.world.add(key)
        self.made.clear()

    def known(self, id):
        with self.world.lock:
            return next((key for keys in self.world.keys.values() for key in keys if key.id == id), None)
