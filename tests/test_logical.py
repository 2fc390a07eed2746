"""Logical replication: a subscriber decides by the rows of its publisher."""

import itertools
import re
from hashlib import sha256
from pathlib import Path

import psycopg
import pytest
from psycopg.types.json import Jsonb

from cluster import BIN, run, running
from conftest import session, wait_until
from test_nulls import CALLS, FUNCTIONS, answered, is_meant, prepared

_numbers = itertools.count()
SIGNING = f"1:{'11' * 32}\n"


@pytest.fixture(scope="module")
def publishing():
    with running("publisher", signing=SIGNING, wal_level="logical", max_wal_senders=30, max_replication_slots=30,
                 keysmith__usage_flush_interval="100ms") as cluster:
        cluster.execute("CREATE ROLE replicator LOGIN REPLICATION; GRANT pg_read_all_data TO replicator")
        yield cluster


@pytest.fixture(scope="module")
def subscribing():
    with running("subscriber", signing=SIGNING, wal_level="logical", max_worker_processes=30,
                 max_logical_replication_workers=20, max_replication_slots=30,
                 wal_retrieve_retry_interval="100ms", keysmith__usage_flush_interval="100ms") as cluster:
        # As pg_dumpall --roles-only copies it.
        cluster.execute("CREATE ROLE replicator LOGIN REPLICATION; GRANT pg_read_all_data TO replicator")
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
        self.publisher.rows("GRANT USAGE ON SCHEMA keysmith TO replicator")
        self.publisher.rows("GRANT EXECUTE ON FUNCTION keysmith.usage_collect TO replicator")
        self.subscriber = self.at(subscribing)

    def at(self, cluster, **options):
        opened = session(cluster, self.name, **options)
        self.sessions.append(opened)
        return opened

    def subscribe(self, publication="shared"):
        self.subscriber.rows(f"CREATE SUBSCRIPTION {self.name} CONNECTION '{self.publishing.dsn(self.name)}' "
                             f"PUBLICATION {publication}")

    def copy_schema(self):
        schema = self.publishing.program("pg_dump", *SCHEMA.split(), dbname=self.name)
        self.subscribing.psql(schema.stdout, self.name)

    def follow(self, publication):
        """Publishes and subscribes by the statements of the guide, with this name and connection."""
        self.publisher.rows(publication)
        name = re.search(r"PUBLICATION (\w+)", publication)[1]
        (statement,) = [statement for statement in SUBSCRIPTIONS if statement.endswith(f"PUBLICATION {name}")]
        assert "user=replicator" in statement and "GRANT pg_read_all_data TO replicator" in SCALING
        statement = re.sub("'host=.*?'", f"'{self.publishing.dsn(self.name, 'replicator')}'", statement)
        self.subscriber.rows(statement.replace(f"SUBSCRIPTION {name}", f"SUBSCRIPTION {self.name}", 1))
        self.synchronize()

    def synchronize(self):
        """Waits until the subscriber has everything that the publisher has committed."""
        wait_until(lambda: not self.subscriber.rows("SELECT FROM pg_subscription_rel WHERE srsubstate <> 'r'"))
        position = self.publisher.value("SELECT pg_current_wal_insert_lsn()")
        wait_until(lambda: self.publisher.rows("SELECT FROM pg_replication_slots WHERE slot_name = %s "
                                               "AND confirmed_flush_lsn >= %s::pg_lsn", self.name, position))
        assert self.subscriber.rows("SELECT apply_error_count, sync_error_count FROM pg_stat_subscription_stats "
                                    "WHERE subname = %s", self.name) == [(0, 0)]

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


IS_SUBSCRIBER = "SELECT subscriber FROM keysmith.status()"


def test_a_session_knows_whether_its_database_is_a_subscriber(pair):
    """Though it has asked before, and another session makes, alters or drops the subscription."""
    there, other = pair.subscriber, pair.at(pair.subscribing)
    there.rows("CREATE EXTENSION keysmith")
    for db in (pair.publisher, there):
        db.rows("CREATE TABLE elsewhere (id int PRIMARY KEY)")
    assert other.value(IS_SUBSCRIBER) is False
    pair.publisher.rows("CREATE PUBLICATION shared FOR TABLE elsewhere")
    pair.subscribe()
    assert other.value(IS_SUBSCRIBER) is False
    pair.publisher.rows("ALTER PUBLICATION shared ADD TABLE keysmith_private.role")
    there.rows(f"ALTER SUBSCRIPTION {pair.name} REFRESH PUBLICATION")
    assert other.value(IS_SUBSCRIBER) is True
    there.rows(f"ALTER SUBSCRIPTION {pair.name} DISABLE")
    assert other.value(IS_SUBSCRIBER) is True
    pair.unsubscribe()
    assert other.value(IS_SUBSCRIBER) is False
    assert pair.publisher.value(IS_SUBSCRIBER) is False


# The statements and commands of the guide.
SCALING = (Path(__file__).parent.parent / "docs/scaling.md").read_text()
GUIDE = SCALING[SCALING.index("### One keyspace"):SCALING.index("### The usage of a subscriber")]
ONE_KEYSPACE, ALL_TABLES = re.findall(r"```sql\n(.*?)```", GUIDE, re.S)
MAKE_EXTENSION, *SUBSCRIPTIONS = re.findall(r'psql -d app -c "(.*?)"', GUIDE, re.S)
(SCHEMA,) = re.findall("pg_dump -h publisher (.*?) app", GUIDE)
PUBLICATIONS = {"all tables": ALL_TABLES, "one keyspace": ONE_KEYSPACE}
FILTERED = re.findall(r"keysmith_private\.(\w+) +WHERE", ONE_KEYSPACE)


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


def test_no_table_is_forgotten(pair):
    """By its triggers, no row of a subscriber conflicts with one of its publisher. The rows of a register
    begin with the server."""
    bare = """
        SELECT relname FROM pg_class c WHERE relnamespace = 'keysmith_private'::regnamespace AND relkind IN ('r', 'p')
        AND NOT EXISTS (SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid WHERE t.tgrelid = c.oid
                        AND (p.proname, t.tgenabled) IN (('refuse_on_subscriber', 'O'), ('keep_on_publisher', 'R'),
                            ('usage_incarnation_arrives', 'R'), ('usage_partition_arrives', 'R'),
                            ('heartbeat_arrives', 'R')))"""
    pair.publisher.call("usage_prepare")
    assert pair.publisher.rows(bare) == [("isolated_table",)]


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
        # Without the settings of a request, and without an identity, these refuse.
        if call not in ("pre_request", "require_identity"):
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


@pytest.fixture(params=PUBLICATIONS.values(), ids=PUBLICATIONS)
def shared(pair, request):
    """A subscriber whose publisher has a key, and tables for our functions."""
    pair.publisher.tenant()
    pair.key = prepared(pair.publisher)
    pair.copy_schema()
    pair.follow(request.param)
    return pair


def contents(db):
    return {table: sorted(db.rows(f"SELECT * FROM keysmith_private.{table} WHERE keyspace = 'default'"), key=repr)
            for table in FILTERED}


def test_a_subscriber_decides_by_each_act_of_the_publisher(shared):
    """In sessions that remember policies and keys. Requests that are recorded there stop nothing."""
    db, there = shared.publisher, shared.subscriber
    # Its own records of requests, before those of the publisher come.
    assert there.reason(shared.key.api_key) == "ok"
    there.reason("unknown")
    keys = acts(db)
    shared.synchronize()
    assert contents(there) == contents(db)
    assert len(contents(there)["key"]) >= 10
    reasons = {act: db.reason(key.api_key) for act, key in keys.items()}
    assert {act: there.reason(key.api_key) for act, key in keys.items()} == reasons
    assert reasons["revoke"] == "revoked" and reasons["alter_key"] == "ok"
    for call, arguments, reason in [
        ("suspend_tenant", ["globex"], "tenant_suspended"),
        ("resume_tenant", ["globex"], "ok"),
        ("disable", [keys["mint"].key_id], "disabled"),
        ("enable", [keys["mint"].key_id], "ok"),
        ("define_scope", ["default", "b"], "ok"),
        ("revoke", [keys["mint"].key_id], "revoked"),
    ]:
        db.call(call, *arguments)
        wait_until(lambda: there.reason(keys["mint"].api_key) == reason)
    db.call("flush_usage")
    there.call("flush_usage")
    for one in (db, there):
        assert not [outcome for outcome in dict(one.call("maintain")).values() if "failed" in outcome]
    shared.synchronize()


def test_a_keyspace_by_the_guide(pair):
    """Others stay on the publisher."""
    db, there = pair.publisher, pair.subscriber
    db.tenant()
    key = db.mint()
    db.call("create_keyspace", "second")
    db.tenant(keyspace="second")
    another = db.mint(keyspace="second")
    there.rows(MAKE_EXTENSION)
    pair.follow(ONE_KEYSPACE)
    assert there.reason(key.api_key) == "ok"
    assert there.reason(another.api_key, keyspace="second") == "not_found"
    db.call("revoke", key.key_id)
    wait_until(lambda: there.reason(key.api_key) == "revoked")
    assert contents(there) == contents(db)
    pair.unsubscribe()
    there.call("suspend_tenant", "acme")


@pytest.mark.parametrize("options", ["", " WITH (publish_via_partition_root = true)"])
def test_a_partition_of_the_publisher_stops_no_subscriber(pair, options):
    """Its rows, which a publication of all tables has, can't be applied without the table."""
    db, there = pair.publisher, pair.subscriber
    db.tenant()
    key = db.mint()
    pair.copy_schema()
    pair.follow(ALL_TABLES.replace(";", options))
    assert there.reason(key.api_key) == "ok"
    # The subscriber has a partition of that day, of another name.
    there.rows("CREATE TABLE keysmith_private.usage_20310101 ()")
    assert there.call("usage_prepare", "2031-01-01", "2031-01-01") == [(1,)]
    there.rows("DROP TABLE keysmith_private.usage_20310101")
    assert db.call("usage_prepare", "2030-12-31", "2031-01-01") == [(2,)]
    db.rows("INSERT INTO keysmith_private.usage_event SELECT at, 0, 0, gen_random_uuid(), key_id, tenant_id, keyspace, "
            "environment, NULL, NULL, 200, 'ok' FROM keysmith_private.key, "
            "unnest('{2030-12-31 12:00Z,2031-01-01 12:00Z}'::timestamptz[]) AS at")
    db.call("usage_fold")
    db.call("revoke", key.key_id)
    wait_until(lambda: there.reason(key.api_key) == "revoked")
    pair.synchronize()
    assert there.rows("SELECT name FROM keysmith_private.usage_partitions() WHERE starts >= '2030-12-31' ORDER BY 1") \
        == [("usage_20301231",), ("usage_20310101_",)]
    assert there.value("SELECT count(*) FROM keysmith_private.usage_event WHERE at > '2030-12-01'") == 0


def test_a_subscriber_keeps_the_tables_that_its_publisher_may_name(pair):
    """Whatever the subscriber's retention is. They are dropped after those of the publisher."""
    db, there = pair.publisher, pair.subscriber
    db.rows("CREATE TABLE holds (id int)")
    db.call("usage_prepare", "2020-01-01", "2020-01-01")
    db.rows("CREATE VIEW watched AS SELECT FROM keysmith_private.usage_20200101")
    pair.copy_schema()
    pair.follow(ALL_TABLES)
    there.rows("DROP VIEW watched")
    there.call("maintain")
    partitions = "SELECT count(*) FROM keysmith_private.usage_partitions() WHERE name = 'usage_20200101'"
    assert there.value(partitions) == 1
    # It is emptied, since a view depends on it.
    db.rows("INSERT INTO keysmith_private.usage_event VALUES ('2020-01-01 12:00Z', 0, 0, gen_random_uuid(), "
            "gen_random_uuid(), gen_random_uuid(), 'default', 'live', NULL, NULL, 200, 'ok')")
    db.call("maintain")
    pair.synchronize()
    db.rows("DROP VIEW watched")
    db.call("maintain")
    assert db.value(partitions) == 0
    pair.synchronize()
    there.call("maintain")
    assert there.value(partitions) == 0


@pytest.mark.skipif(not (BIN / "pg_createsubscriber").exists(), reason="pg_createsubscriber comes with PostgreSQL 17")
def test_a_standby_becomes_a_subscriber():
    with running("primary", wal_level="logical", max_wal_senders=10, max_replication_slots=10,
                 wal_retrieve_retry_interval="100ms", keysmith__usage_flush_interval="100ms") as primary:
        db = session(primary)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        key = db.mint()
        db.verify(key.api_key)
        db.call("flush_usage")
        standby = primary.backup("standby", 5433)
        try:
            standby.start()
            wait_until(lambda: db.one("wait_for_replay")[0] == 1)
            standby.stop()
            run("pg_createsubscriber", "-D", standby.data, "-P", primary.dsn(), "-d", "postgres", "-p", 5433,
                "-s", standby.dir, "-U", "postgres", as_server=True)
            standby.start()
            there = session(standby)
            assert there.value(IS_SUBSCRIBER) is True
            assert there.reason(key.api_key) == "ok"
            there.refused("KS409", "revoke", key.key_id)
            keys = acts(db)
            db.verify(keys["mint"].api_key)
            db.call("flush_usage")
            there.call("flush_usage")
            for one in (there, db, there):
                one.call("maintain")
            db.call("usage_prepare", "2031-01-01", "2031-01-01")
            db.rows("INSERT INTO keysmith_private.usage_event SELECT '2031-01-01 12:00Z', 0, 0, gen_random_uuid(), key_id, "
                    "tenant_id, keyspace, environment, NULL, NULL, 200, 'ok' FROM keysmith_private.key")
            db.call("maintain")
            db.call("revoke", key.key_id)
            wait_until(lambda: there.reason(key.api_key) == "revoked")
            assert contents(there) == contents(db)
            assert {act: there.reason(key.api_key) for act, key in keys.items()} == {
                act: db.reason(key.api_key) for act, key in keys.items()}
            assert there.value("SELECT apply_error_count FROM pg_stat_subscription_stats") == 0
            there.session.close()
        finally:
            standby.remove()


def test_what_is_dropped_and_purged_goes_on_the_subscriber(shared):
    db, there = shared.publisher, shared.subscriber
    db.call("create_keyspace", "studio")
    db.tenant(keyspace="studio")
    dropped, purged = db.mint(keyspace="studio"), db.mint()
    shared.synchronize()
    assert there.verify(purged.api_key).ok
    db.call("drop_keyspace", "studio", True)
    db.rows("UPDATE keysmith_private.key SET revoked_at = '2020-01-01', revoked_reason = 'x' WHERE key_id = %s", purged.key_id)
    assert db.one("purge_keys", "1 day")[0] == 1
    shared.synchronize()
    assert there.reason(dropped.api_key, keyspace="studio") == there.reason(purged.api_key) == "not_found"
    assert contents(there) == contents(db)


# Arguments by which functions change something.
CHANGES = {
    "alter_key": {"key_id": "KEY_ID", "changes": Jsonb({"label": "x"})},
    "alter_keyspace": {"name": "default", "changes": Jsonb({"label_length": 50})},
    "alter_tenant": {"tenant": "acme", "changes": Jsonb({"plan": "pro"})},
    "drop_keyspace": {"keyspace": "default", "cascade": True},
    "enable": {"key_id": "DISABLED"},
    "resume_tenant": {"tenant": "suspended"},
}
# A subscriber allows these if access is not published.
ACCESS = {"grant_access", "revoke_access"}
WRITTEN = ("SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_xact_user_tables "
           "WHERE schemaname = 'keysmith_private' AND relname = ANY (%s)")


def refusal(db, function, arguments):
    try:
        answered(db, function, arguments)
    except psycopg.Error as error:
        assert error.sqlstate == "KS409", error
        return error.diag.message_primary
    return ""


def test_a_subscriber_is_not_managed(shared):
    """Its subscription would stop at a conflict. Every function that changes what is published is refused."""
    db, there = shared.publisher, shared.subscriber
    db.tenant("suspended")
    db.call("suspend_tenant", "suspended")
    disabled = db.mint()
    db.call("disable", disabled.key_id)
    shared.synchronize()
    before = contents(there)
    is_access_published = there.value("SELECT keysmith_private.is_subscribed('keysmith_private.access')")
    tables = [*FILTERED, "credit", "access", "audit_entry", "audit_content"]
    functions, writers = db.rows(FUNCTIONS), set()
    for call, arguments in CALLS.items():
        if call in ("pre_request", "require_identity", "protect_existing") or call in ACCESS and not is_access_published:
            continue
        (function,) = [function for function in functions if is_meant(call, function)]
        arguments = with_key(CHANGES.get(call, arguments), shared.key)
        arguments = {name: disabled.key_id if value == "DISABLED" else value for name, value in arguments.items()}
        with db.session.transaction(force_rollback=True):
            written = db.value(WRITTEN, tables)
            answered(db, function, arguments)
            is_writer = db.value(WRITTEN, tables) > written
        if is_writer:
            writers.add(call)
            assert shared.name in refusal(there, function, arguments), call
        else:
            # Some have nothing to change, and would with other arguments.
            refusal(there, function, arguments)
    assert writers >= {"mint", "revoke", "rotate", "create_tenant", "set_member", "define_role", "add_credits"} | (
        ACCESS if is_access_published else set())
    assert contents(there) == before
    # By hand, too.
    for table in FILTERED:
        for statement in (f"DELETE FROM keysmith_private.{table}", f"TRUNCATE keysmith_private.{table} CASCADE"):
            with pytest.raises(psycopg.Error) as error:
                there.rows(statement)
            assert error.value.sqlstate == "KS409", error.value
    shared.unsubscribe()
    assert there.mint().key_id


def test_credits_are_not_spent_on_a_subscriber(shared):
    """What it spent would be spent a second time on the publisher."""
    shared.publisher.call("add_credits", 5, tenant="acme")
    shared.synchronize()
    assert shared.subscriber.reason(shared.key.api_key, spend=1) == "credits_unavailable"
    assert shared.subscriber.reason(shared.key.api_key) == "ok"
    spent = shared.publisher.verify(shared.key.api_key, spend=1)
    assert spent.ok
    shared.synchronize()
    assert "can't be settled" in shared.subscriber.refused("KS409", "settle", spent.request_id, 2)
    assert shared.publisher.value("SELECT keysmith.settle(%s, 2)", spent.request_id)


def told(db):
    return [(row.level, row.finding.split(": ")[0]) for row in db.findings() if row.subject == "replication"]


def test_doctor_finds_a_subscription_that_has_stopped(shared):
    there, name = shared.subscriber, shared.name
    assert told(there) == []
    assert [row for row in there.findings() if row.subject == "audit"] == []
    assert there.row("SELECT subscriber, subscriptions FROM keysmith.status()") == (True, [name])
    alarm = "SELECT raised FROM keysmith.alarms WHERE alarm = 'subscription_stopped'"
    stopped = ("SELECT value FROM keysmith.metrics WHERE name = 'keysmith_subscription_stopped' "
               f"AND labels = '{{\"subscription\": \"{name}\"}}'")
    assert (there.value(alarm), there.value(stopped)) == (False, 0)
    assert there.value("SELECT value FROM keysmith.metrics WHERE name = 'keysmith_subscriber'") == 1
    there.rows(f"ALTER SUBSCRIPTION {name} DISABLE")
    assert (there.value(alarm), there.value(stopped)) == (True, 1)
    assert told(there) == [("error", f"subscription {name} is disabled")]
    # A row that a superuser makes by force.
    there.rows("SET session_replication_role = replica")
    there.rows("INSERT INTO keysmith_private.scope (keyspace, scope) VALUES ('default', 'twice')")
    there.rows("RESET session_replication_role")
    there.rows(f"ALTER SUBSCRIPTION {name} ENABLE")
    shared.publisher.call("define_scope", "default", "twice")
    wait_until(lambda: ("error", f"subscription {name} has stopped") in told(there))
    wait_until(lambda: any(level == "warning" and "has failed" in finding for level, finding in told(there)))
    there.rows("SET session_replication_role = replica")
    there.rows("DELETE FROM keysmith_private.scope WHERE scope = 'twice'")
    there.rows("RESET session_replication_role")
    shared.publisher.call("revoke", shared.key.key_id)
    wait_until(lambda: there.reason(shared.key.api_key) == "revoked")
    there.rows("SELECT pg_stat_reset_subscription_stats(oid) FROM pg_subscription WHERE subname = %s", name)
    wait_until(lambda: told(there) == [])


@pytest.mark.parametrize("what", ["TABLE keysmith_private.key", "ALL TABLES"])
def test_doctor_finds_a_publication_without_revocations(db, what):
    db.rows(f"CREATE PUBLICATION whole FOR {what}")
    assert told(db) == []
    for left in ("insert", "insert, update", "insert, delete"):
        db.rows(f"ALTER PUBLICATION whole SET (publish = '{left}')")
        assert told(db) == [("warning", "publication whole leaves out updates or deletes of keys")]
    (row,) = [row for row in db.findings() if row.subject == "replication"]
    db.rows(row.remedy)
    assert told(db) == []


def test_access_on_a_subscriber(shared):
    """Privileges don't replicate. Where access is published, they are made to fit what has arrived."""
    db, there = shared.publisher, shared.subscriber
    is_published = there.value("SELECT keysmith_private.is_subscribed('keysmith_private.access')")
    may = "SELECT has_function_privilege('pg_monitor', 'keysmith.verify_many(text[], text[], inet, text, text, text)', 'EXECUTE')"
    if is_published:
        there.refused("KS409", "grant_access", "pg_monitor", "verifier")
        db.call("grant_access", "pg_monitor", "verifier")
        shared.synchronize()
        there.refused("KS409", "revoke_access", "pg_monitor", "verifier")
    there.call("grant_access", "pg_monitor", "verifier")
    assert there.value(may)
    if is_published:
        db.call("revoke_access", "pg_monitor")
        shared.synchronize()
    there.call("revoke_access", "pg_monitor")
    assert not there.value(may)
    db.mint()
    shared.synchronize()


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
