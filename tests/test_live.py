"""The example of live connections: the WebSockets of a key end with it, and no others."""

import base64
import json
import socket
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from psycopg.rows import namedtuple_row
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

import examples

# A bound for hangs: one second is promised, but the machine may be busy.
SOON = 60


@pytest.fixture(scope="module")
def served(cluster, tmp_path_factory):
    dbname = "example_live"
    cluster.execute(f"CREATE DATABASE {dbname}")
    try:
        cluster.execute("CREATE EXTENSION keysmith; CREATE ROLE app LOGIN", dbname)
        cluster.execute("SELECT keysmith.grant_access('app', 'verifier'), keysmith.create_tenant('acme'),"
                        " keysmith.create_tenant('globex')", dbname)
        with examples.running(examples.LIVE, cluster, dbname, tmp_path_factory.mktemp("live")) as (port, _):
            yield f"ws://127.0.0.1:{port}", dbname
    finally:
        cluster.execute(f"DROP DATABASE {dbname} WITH (FORCE)")
        cluster.execute("DROP ROLE IF EXISTS app")


class Client(threading.Thread):
    """A session that listens until the end of the test."""

    def __init__(self, url, key):
        super().__init__(daemon=True)
        self.socket = connect(url, additional_headers={"Authorization": f"Bearer {key}"}).__enter__()
        self.heard = self.ended = self.reason = None
        self.socket.recv(timeout=SOON)
        self.start()

    def run(self):
        try:
            while True:
                self.socket.recv()
                self.heard = time.monotonic()
        except ConnectionClosed as closed:
            self.ended = time.monotonic()
            self.reason = closed.rcvd and (closed.rcvd.code, closed.rcvd.reason)

    def ends(self):
        self.join(SOON)
        assert not self.is_alive(), "the session goes on"
        return self.reason

    def goes_on(self):
        now = time.monotonic()
        while self.heard is None or self.heard < now:
            assert self.is_alive(), f"the session ended: {self.reason}"
            assert time.monotonic() < now + SOON, "the session is silent"
            time.sleep(0.02)
        return True


@pytest.fixture
def live(served, cluster, database):
    url, dbname = served
    session = cluster.connect(dbname, row_factory=namedtuple_row)
    session.prepare_threshold = None
    clients = []

    def open_session(key):
        clients.append(Client(url, key.api_key))
        return clients[-1]

    yield open_session, database(session)
    for client in clients:
        client.socket.close()
    session.close()


def mint(db, tenant="acme", **options):
    return db.mint(tenant, scopes=["clock:read"], **options)


REFUSED = (1008, "invalid_api_key")


def test_a_revocation_ends_the_sessions_of_its_key_and_no_others(live, record_property):
    open_session, db = live
    keys = [mint(db) for _ in range(3)] + [mint(db, "globex")]
    clients = [(key, open_session(key)) for key in keys for _ in range(4)]
    delays = []
    for revoked in keys[:2]:
        db.call("revoke", revoked.key_id)
        committed = time.monotonic()
        for key, client in clients:
            if key is revoked:
                assert client.ends() == REFUSED
                delays.append(client.ended - committed)
    assert all(client.goes_on() for key, client in clients if key not in keys[:2])
    record_property("slowest", f"{max(delays) * 1000:.0f} ms")
    print(f"ended after {min(delays) * 1000:.0f} to {max(delays) * 1000:.0f} ms")


def test_what_else_ends_a_session(live):
    open_session, db = live
    disabled, narrowed, suspended = mint(db), mint(db), mint(db, "globex")
    other = open_session(mint(db))
    sessions = [open_session(key) for key in (disabled, narrowed, suspended)]
    db.call("disable", disabled.key_id)
    db.call("alter_key", narrowed.key_id, '{"scopes": ["clock:set"]}')
    db.call("suspend_tenant", "globex")
    try:
        assert [session.ends() for session in sessions] == [
            REFUSED, (1008, "insufficient_scope"), REFUSED]
        assert other.goes_on()
    finally:
        db.call("resume_tenant", "globex")


def test_expiry_ends_it_though_nobody_tells(live):
    open_session, db = live
    other = open_session(mint(db))
    end = datetime.now(UTC) + timedelta(seconds=5)
    session = open_session(mint(db, expires_at=end))
    rotated = mint(db)
    old = open_session(rotated)
    db.call("rotate", rotated.key_id, grace=timedelta(seconds=5))
    assert session.goes_on() and old.goes_on()
    assert session.ends() == old.ends() == REFUSED
    assert datetime.now(UTC) >= end
    assert other.goes_on()


def test_an_event_alone_ends_nothing(live):
    """Any listener can send one, with any content."""
    open_session, db = live
    key = mint(db)
    session = open_session(key)
    channel = db.one("event_channel")[0]
    forged = {"event": "revoke", "key_id": str(key.key_id), "tenant": "acme", "keyspace": "default"}
    for payload in (json.dumps(forged), "{}", "[]", "no JSON", '"text"', ""):
        db.rows("SELECT pg_notify(%s, %s)", channel, payload)
    assert session.goes_on()
    # And the server still listens.
    db.call("revoke", key.key_id)
    assert session.ends() == REFUSED


def test_a_revocation_that_it_could_not_hear(live):
    open_session, db = live
    key = mint(db)
    session, other = open_session(key), open_session(mint(db))
    # The listening session has ended, so nobody receives the revocation's event.
    db.rows("""
        SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
        WHERE usename = 'app' AND query LIKE 'LISTEN%'""")
    db.call("revoke", key.key_id)
    assert session.ends() == REFUSED
    assert other.goes_on()


def test_a_client_that_does_not_say_goodbye_holds_nobody_up(live, served):
    open_session, db = live
    silent, ordinary = mint(db), mint(db)
    host, port = served[0].removeprefix("ws://").split(":")
    with socket.create_connection((host, int(port))) as stalled:
        stalled.sendall(
            f"GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}\r\nSec-WebSocket-Version: 13\r\n"
            f"Authorization: Bearer {silent.api_key}\r\n\r\n".encode())
        assert stalled.recv(12) == b"HTTP/1.1 101"
        session = open_session(ordinary)
        db.call("revoke", silent.key_id)
        db.call("revoke", ordinary.key_id)
        assert session.ends() == REFUSED
        # The server waits 10 seconds for an answer to its closing handshake, and still does.
        stalled.setblocking(False)
        with pytest.raises(BlockingIOError):
            while stalled.recv(4096):
                pass


@pytest.mark.parametrize("case, status", [("revoked", 401), ("none", 401), ("scope", 403)])
def test_a_handshake_is_refused(live, served, case, status):
    open_session, db = live
    key = db.mint("acme", scopes=["other"] if case == "scope" else ["clock:read"])
    if case == "revoked":
        db.call("revoke", key.key_id)
    headers = {} if case == "none" else {"Authorization": f"Bearer {key.api_key}"}
    with pytest.raises(InvalidStatus) as refused:
        connect(served[0], additional_headers=headers)
    assert refused.value.response.status_code == status
