"""Clients of a cluster under Patroni, which write down what they see."""

import random
import threading
import time
from contextlib import contextmanager, suppress

import psycopg

from ledger import Ledger
from patroni_cluster import MAX_REPLICA_LAG, wait_until


class Client(threading.Thread):
    """Goes on after errors of the connection, until it is stopped."""

    def __init__(self, load, dsn):
        super().__init__(daemon=True)
        self.load, self.ledger, self.dsn = load, load.ledger, dsn
        self.stopped, self.done, self.error = threading.Event(), 0, None

    def run(self):
        while not self.stopped.is_set():
            try:
                with psycopg.connect(self.dsn, autocommit=True) as session:
                    self.begin(session)
                    while not self.stopped.is_set():
                        self.act(session)
                        self.done += 1
            except psycopg.Error as error:
                self.error = error
                self.stopped.wait(0.1)
            except Exception as error:
                self.error = error
                self.ledger.broken.append(f"{type(self).__name__} failed: {error!r}")
                raise

    def begin(self, session):
        """Called with each new connection."""


class Verifier(Client):
    """Verifies keys, and reads the isolated table now and then."""

    def begin(self, session):
        ((address, incarnation),) = session.execute(
            "SELECT host(inet_server_addr()), incarnation FROM keysmith.usage_status()").fetchall()
        self.server, self.incarnation = self.load.names[address], incarnation
        self.ledger.servers[incarnation] = self.server

    def act(self, session):
        self.stopped.wait(self.load.pause)
        tenant, key = random.choice(self.load.keys)
        chance = random.random()
        if chance < 0.05:
            self.read(session, tenant, key)
        elif chance < 0.1 and self.load.newest_revoked:
            self.try_revoked(session, *self.load.newest_revoked)
        else:
            self.verify(session, key)

    def ask(self, session, key, sign_in=False):
        ok, request_id, reason = session.execute(
            "SELECT ok, request_id, reason FROM keysmith.verify(%s, sign_in => %s)", (key, sign_in)).fetchone()
        if ok:
            self.ledger.let_in[self.incarnation].append(request_id)
            self.ledger.without_leader += self.load.is_leaderless
        return ok, reason

    def verify(self, session, key, sign_in=False):
        ok, reason = self.ask(session, key, sign_in)
        if not ok:
            self.ledger.refused[self.server, reason] += 1
        return ok

    def try_revoked(self, session, key, acknowledged):
        """A standby may not know of a revocation yet, but not for long."""
        asked = time.monotonic()
        ok, _ = self.ask(session, key)
        if ok and asked > acknowledged + MAX_REPLICA_LAG:
            self.ledger.broken.append(
                f"{self.server} accepted a key {asked - acknowledged:.1f} s after its revocation")

    def read(self, session, tenant, key):
        try:
            with session.transaction():
                ok = self.verify(session, key, sign_in=True)
                rows = session.execute("SELECT owner FROM document").fetchall()
        except psycopg.Error as error:
            # The replica has fallen behind since.
            if error.sqlstate != "KS401":
                raise
            return
        if rows != ([(tenant,)] if ok else []):
            self.ledger.broken.append(f"{self.server} showed {rows} to {tenant}")


class Administrator(Client):
    """Mints keys, and revokes some of them."""

    def act(self, session):
        if self.load.is_hasty:
            self.stopped.wait(0.05)
            return
        key_id, key = session.execute(
            "SELECT key_id, api_key FROM keysmith.mint('acme')").fetchone()
        self.ledger.minted[key_id] = key
        if self.done % 3:
            return
        self.revoke(session, key_id)
        self.load.newest_revoked = key, self.ledger.revoked[key_id]
        ((attached,),) = session.execute("SELECT keysmith.wait_for_replay('5 seconds')").fetchall()
        # A standby that is not attached is not waited for: the lag guard bounds its answers.
        if attached == 2:
            for node in self.load.patroni.nodes:
                with suppress(psycopg.OperationalError):
                    self.ledger.checks += 1
                    if node.execute("SELECT ok FROM keysmith.verify(%s)", key) == [(True,)]:
                        self.ledger.broken.append(f"{node.name} accepted a key after wait_for_replay()")

    def revoke(self, session, key_id):
        self.ledger.in_doubt.add(key_id)
        session.execute("SELECT keysmith.revoke(%s)", [key_id])
        self.ledger.revoked[key_id] = time.monotonic()
        self.ledger.in_doubt.discard(key_id)


class Hasty(Administrator):
    """Revokes without asking for a standby: keysmith asks nevertheless."""

    def __init__(self, load, dsn):
        super().__init__(load, dsn)
        self.keys = []

    def begin(self, session):
        session.execute("SET synchronous_commit = local")

    def act(self, session):
        self.stopped.wait(0.03)
        if not self.keys:
            # So many that it need not mint, and wait, during a fault.
            with session.transaction():
                session.execute("SET LOCAL synchronous_commit = on")
                minted = session.execute("SELECT m.key_id, m.api_key FROM generate_series(1, 1000) n,"
                                         " keysmith.mint('acme', label => n::text) m").fetchall()
            self.ledger.minted.update(minted)
            self.keys = [key_id for key_id, _ in minted]
        self.revoke(session, self.keys.pop())


class Load:
    """Clients of each node, of HAProxy's port for decisions, and administrators."""

    def __init__(self, patroni, keys, pause=0.004):
        self.patroni, self.keys, self.pause = patroni, keys, pause
        self.ledger, self.newest_revoked = Ledger(), None
        self.is_leaderless = self.is_hasty = False
        self.names = {node.host: node.name for node in patroni.nodes}
        self.verifiers = [Verifier(self, node.dsn("app")) for node in patroni.nodes]
        self.verifiers.append(Verifier(self, patroni.balanced("5001", "app")))
        self.administrator = Administrator(self, patroni.balanced("5000", "postgres"))
        self.hasty = Hasty(self, patroni.balanced("5000", "postgres"))

    def __enter__(self):
        for client in self.clients():
            client.start()
        return self

    def __exit__(self, failed, *_):
        for client in self.clients():
            client.stopped.set()
        # After a failure a client may wait for good, until the servers end.
        for client in () if failed else self.clients():
            client.join()

    def clients(self):
        return [*self.verifiers, self.administrator, self.hasty]

    def go_on(self, seconds):
        """For so long, and until each client has done something."""
        aims = {client: client.done + 10 for client in self.clients()}
        time.sleep(seconds)  # not checked: how long the load is
        try:
            wait_until(lambda: all(client.done >= done for client, done in aims.items()))
        except TimeoutError:
            idle = [(client.dsn, client.error) for client, done in aims.items() if client.done < done]
            raise TimeoutError(f"these do nothing: {idle}") from None

    @contextmanager
    def only_hasty(self):
        """The other administrator's acts wait for a standby, and the audit's lock with them."""
        self.is_hasty, idle = True, self.administrator.done + 2
        wait_until(lambda: self.administrator.done >= idle)
        yield
        self.is_hasty = False

    @contextmanager
    def without_leader(self):
        """Until a server takes writes again."""
        self.is_leaderless = True
        yield
        wait_until(self.patroni.leader)
        self.is_leaderless = False
