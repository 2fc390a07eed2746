"""Logical replication: a subscriber decides by the rows of its publisher."""

import itertools

import pytest

from cluster import running
from conftest import session

_numbers = itertools.count()


@pytest.fixture(scope="module")
def publishing():
    with running("publisher", wal_level="logical", max_wal_senders=30, max_replication_slots=30,
                 keysmith__usage_flush_interval="100ms") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def subscribing():
    with running("subscriber", wal_level="logical", max_worker_processes=30,
                 max_logical_replication_workers=20, max_replication_slots=30,
                 wal_retrieve_retry_interval="100ms", keysmith__usage_flush_interval="100ms") as cluster:
        yield cluster


class Pair:
    """A database of the publisher and one of the subscriber, of the same name."""

    def __init__(self, publishing, subscribing):
        self.publishing, self.subscribing = publishing, subscribing
        self.name = f"logical{next(_numbers)}"
        self.sessions = []
        for cluster in (publishing, subscribing):
            cluster.execute(f"CREATE DATABASE {self.name}")
        self.publisher = self.at(publishing)
        self.publisher.rows("CREATE EXTENSION keysmith")
        self.subscriber = self.at(subscribing)

    def at(self, cluster, **options):
        opened = session(cluster, self.name, **options)
        self.sessions.append(opened)
        return opened

    def subscribe(self, publication="shared", options="copy_data = true"):
        self.subscriber.rows(f"CREATE SUBSCRIPTION {self.name} CONNECTION '{self.publishing.dsn(self.name)}' "
                             f"PUBLICATION {publication} WITH ({options})")

    def unsubscribe(self):
        self.subscriber.rows(f"DROP SUBSCRIPTION {self.name}")

    def close(self):
        if self.subscriber.rows("SELECT FROM pg_subscription WHERE subname = %s", self.name):
            self.unsubscribe()
        for opened in self.sessions:
            opened.session.close()
        for cluster in (self.publishing, self.subscribing):
            cluster.execute(f"DROP DATABASE {self.name} WITH (FORCE)")


@pytest.fixture
def pair(publishing, subscribing):
    made = Pair(publishing, subscribing)
    try:
        yield made
    finally:
        made.close()


IS_SUBSCRIBER = "SELECT value FROM keysmith.status() WHERE (topic, name) = ('replication', 'subscriber')"


def test_a_session_knows_whether_its_database_is_a_subscriber(pair):
    """Though it has asked before, and another session makes, alters or drops the subscription."""
    there, other = pair.subscriber, pair.at(pair.subscribing)
    there.rows("CREATE EXTENSION keysmith")
    for db in (pair.publisher, there):
        db.rows("CREATE TABLE elsewhere (id int PRIMARY KEY)")
    assert other.value(IS_SUBSCRIBER) == "no"
    pair.publisher.rows("CREATE PUBLICATION shared FOR TABLE elsewhere")
    pair.subscribe()
    assert other.value(IS_SUBSCRIBER) == "no"
    pair.publisher.rows("ALTER PUBLICATION shared ADD TABLE keysmith_private.role")
    there.rows(f"ALTER SUBSCRIPTION {pair.name} REFRESH PUBLICATION")
    assert other.value(IS_SUBSCRIBER) == "yes"
    there.rows(f"ALTER SUBSCRIPTION {pair.name} DISABLE")
    assert other.value(IS_SUBSCRIBER) == "yes"
    pair.unsubscribe()
    assert other.value(IS_SUBSCRIBER) == "no"
    assert pair.publisher.value(IS_SUBSCRIBER) == "no"
