"""Hot standbys: they answer as the primary does, and their usage reaches it, once."""

import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from cluster import Cluster, running
from conftest import Database

EVENTS = "SELECT request_id, outcome, incarnation FROM keysmith.usage_event ORDER BY at"


def session(cluster, dbname="postgres", user="postgres", **options):
    connection = cluster.connect(dbname, user, **options)
    connection.row_factory = psycopg.rows.namedtuple_row
    connection.prepare_threshold = None
    return Database(connection)


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.05)
    return result


def status(db):
    return dict(db.rows("SELECT name, value FROM keysmith.usage_status()"))


def number(db, name):
    return int(status(db)[name])


def stored(db):
    """The names of all requests that are stored, as often as they are."""
    return sorted(str(row.request_id) for row in db.rows(EVENTS))


@contextmanager
def pair(**settings):
    """A primary with a key, and a standby that streams from it."""
    settings = {"max_wal_senders": 6, "keysmith__usage_flush_interval": "100ms"} | settings
    with running("primary", **settings) as primary:
        db = session(primary)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        standby = primary.backup("standby", 5433)
        standby.configure(cluster_name="replica")
        try:
            standby.start()
            wait_until(lambda: db.one("wait_for_replay")[0] == 1)
            yield primary, standby, db
        finally:
            standby.remove()


@pytest.fixture(scope="module")
def servers():
    with pair() as both:
        yield both


@pytest.fixture
def there(servers):
    _, standby, _ = servers
    replica = session(standby)
    yield replica
    replica.session.close()


def requests(replica, key, n):
    return sorted(str(replica.verify(key).request_id) for _ in range(n))


def test_usage_of_a_standby_reaches_the_primary(servers, there):
    _, _, db = servers
    key = db.mint()
    db.call("wait_for_replay")
    before = stored(db)
    made = requests(there, key.api_key, 5)
    refused = there.verify(key.api_key, environment="test")
    assert refused.reason == "wrong_environment"
    there.call("flush_usage")
    assert stored(db) == sorted(before + made + [str(refused.request_id)])
    rows = db.rows("SELECT * FROM keysmith.usage_incarnation WHERE standby = 'replica'")
    assert len(rows) == 1 and str(rows[0].incarnation) == status(there)["incarnation"]
    last = wait_until(lambda: db.value(
        "SELECT last_used_at FROM keysmith.keys WHERE key_id = %s", key.key_id))
    assert last is not None
    assert status(there)["mode"] == "shared memory, handed to the primary"
    assert status(there)["waiting"] == "0"
