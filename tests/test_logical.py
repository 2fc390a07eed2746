"""Logical replication: a subscriber decides by the rows of its publisher."""

import itertools
from hashlib import sha256

import pytest
from psycopg.types.json import Jsonb

from cluster import running
from conftest import session
from test_nulls import CALLS, FUNCTIONS, answered, is_meant, prepared

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


FILTERED = ["keyspace", "keyspace_prefix", "answer", "plan_feature", "scope", "role", "route", "tenant", "member", "key"]
PUBLICATIONS = {
    "all tables": "CREATE PUBLICATION shared FOR ALL TABLES",
    "a keyspace": "CREATE PUBLICATION shared FOR TABLE " + ", ".join(
        f"keysmith_private.{table} WHERE (keyspace = 'default')" for table in FILTERED),
}


def test_every_table_can_be_published(pair):
    """It has a replica identity by which a subscriber finds rows that are updated or deleted."""
    db = pair.publisher
    db.tenant()
    db.verify(db.mint().api_key)
    db.call("flush_usage")
    tables = db.rows("""
        SELECT c.relname, c.relreplident = 'f' OR EXISTS (
                   SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid
                   AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END) AS fits
        FROM pg_class c WHERE c.relnamespace = 'keysmith_private'::regnamespace AND c.relkind = 'r'""")
    assert [table for table, fits in tables if not fits] == []
    assert any(table.startswith("usage_2") for table, _ in tables)


@pytest.mark.parametrize("publication", PUBLICATIONS.values(), ids=PUBLICATIONS)
def test_what_is_published_can_be_changed_by_every_function(pair, publication):
    """PostgreSQL refuses to update a published row that subscribers could not find."""
    db = pair.publisher
    db.rows(publication)
    db.tenant()
    key = prepared(db)
    functions = db.rows(FUNCTIONS)
    for call, arguments in CALLS.items():
        (function,) = [function for function in functions if is_meant(call, function)]
        # Without the settings of a request it refuses.
        if call != "pre_request":
            answered(db, function, with_key(arguments, key))
    acts(db)
    request_id = db.verify(key.api_key).request_id
    db.call("log_request", request_id=request_id, status_code=201)
    db.call("flush_usage")
    db.call("log_request", request_id=request_id, status_code=202)
    db.call("flush_usage")
    assert db.value("SELECT status FROM keysmith_private.usage_event WHERE request_id = %s", request_id) == 202
    # What retention deletes.
    db.call("usage_prepare", "2020-01-01", "2020-01-02")
    db.rows("INSERT INTO keysmith_private.usage_unknown VALUES ('default', 'missing', '2020-01-01', 1)")
    db.rows("INSERT INTO keysmith_private.touch SELECT key_id, tenant_id, 'public', 'tried', 'insert', 1, '2020-01-01', "
            "'2020-01-01' FROM keysmith_private.key, generate_series(1, 2)")
    for name in ("usage_unknown_sample", "usage_set_aside"):
        assert db.rows(f"DELETE FROM keysmith_private.{name}") == []
    outcomes = dict(db.call("maintain"))
    assert not [outcome for outcome in outcomes.values() if "failed" in outcome], outcomes
    assert outcomes["retention"].startswith("2 partitions dropped")


def with_key(arguments, key):
    given = {"KEY": key.api_key, "KEY_ID": key.key_id, "DIGEST": sha256(key.api_key.encode()).digest(),
             "HEADERS": Jsonb({"X-API-Key": key.api_key})}
    return {name: given.get(value, value) if isinstance(value, str) else
            [given.get(one, one) for one in value] if isinstance(value, list) else value
            for name, value in arguments.items()}


def acts(db):
    """An act of each kind, committed; returns the keys by their last act."""
    db.call("create_keyspace", "second")
    db.call("alter_keyspace", "default", Jsonb({"max_active_keys": 1000, "codes": {"invalid_api_key": {"code": "gone"}}}))
    db.tenant("globex")
    db.call("alter_tenant", "globex", Jsonb({"plan": "pro"}))
    db.call("define_scope", "default", "x")
    db.call("define_scope", "default", "a")
    db.call("define_role", "default", "q", ["x"])
    db.call("define_route", "default", "GET", "/x", "x")
    db.call("define_route", "default", "GET", "/y", "x")
    db.call("remove_route", "default", "GET", "/y")
    db.call("set_member", "globex", "eve", "q")
    db.call("set_member", "globex", "bob", "q")
    db.call("remove_member", "globex", "bob")
    keys = {act: db.mint("globex") for act in ("mint", "alter_key", "disable", "enable", "rotate", "revoke", "report_leak")}
    db.call("alter_key", keys["alter_key"].key_id, Jsonb({"label": "altered"}))
    for act in ("disable", "enable"):
        db.call("disable", keys[act].key_id)
    db.call("enable", keys["enable"].key_id)
    keys["rotated"] = db.one("rotate", keys["rotate"].key_id)
    db.call("revoke", keys["revoke"].key_id)
    db.call("report_leak", keys["report_leak"].api_key, source="test")
    keys["regenerate"] = db.one("regenerate", "globex", label="main")
    keys["regenerated"] = db.one("regenerate", "globex", label="main")
    db.call("add_credits", 5, tenant="globex")
    assert db.verify(keys["mint"].api_key, spend=2).credits_remaining == 3
    db.call("suspend_tenant", "globex")
    db.call("resume_tenant", "globex")
    db.call("grant_access", "pg_monitor", "verifier")
    db.call("grant_access", "pg_monitor", "issuer", tenant="globex")
    db.call("revoke_access", "pg_monitor", "verifier")
    return keys
