"""A decision takes its policy and its rows from the same state of the database, even if a commit
is visible before its invalidations have arrived."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import psycopg
import pytest

from cluster import running
from conftest import session, wait_until

# `make consistency` makes millions.
DECISIONS = int(os.environ.get("KEYSMITH_DECISIONS", 200_000))
BATCH = 2_000

CONTENT = {
    "keyspace_prefix": "(keyspace, kind, environment, prefix) VALUES ('default', 'secret', 'x', 'x_')",
    "answer": "(keyspace, answer, status) VALUES ('default', 'rate_limited', 400)",
    "plan_feature": "(keyspace, feature, plans) VALUES ('default', 'grace', '{pro}')",
    "scope": "(keyspace, scope) VALUES ('default', 'x:read')",
    "role": "(keyspace, role, scopes) VALUES ('default', 'x', '{}')",
    "route": "(keyspace, method, pattern, scopes) VALUES ('default', 'GET', '/x', 'x')",
    "endpoint": "(keyspace, method, pattern, operation) VALUES ('default', 'GET', '/x', 'whoami')",
}
# For each table, a column that a change can name.
CHANGED = {"keyspace_prefix": "prefix", "answer": "status", "plan_feature": "plans", "scope": "implies",
           "role": "scopes", "route": "weight", "endpoint": "status"}


@pytest.fixture
def db(db):
    db.call("create_keyspace", "default")
    db.tenant()
    return db


def version(db, keyspace="default"):
    return db.row("SELECT ctid, xmin::text FROM keysmith_private.keyspace WHERE keyspace = %s", keyspace)


def renew(db, keyspace="default"):
    db.rows("UPDATE keysmith_private.keyspace SET created_at = created_at WHERE keyspace = %s", keyspace)


@contextmanager
def without_word(db, *tables):
    """Sessions receive no invalidations of these tables: as in the time between a commit and
    their arrival, for as long as needed."""
    tables = [*tables, "keyspace"]
    for table in tables:
        db.rows(f"ALTER TABLE keysmith_private.{table} DISABLE TRIGGER policy_changed")
    yield
    for table in tables:
        db.rows(f"ALTER TABLE keysmith_private.{table} ENABLE ALWAYS TRIGGER policy_changed")


@pytest.fixture
def other(connect, database):
    return database(connect())


# The snapshot of the rows

def test_a_role_changed_without_a_word(db, other):
    db.call("define_role", "default", "r", ["a"])
    key = db.mint(role="r")
    with without_word(db, "role"):
        assert other.verify(key.api_key, scopes=["a"]).ok
        db.rows("UPDATE keysmith_private.role SET scopes = '{b}'")
        renew(db)
        assert other.reason(key.api_key, scopes=["a"]) == "insufficient_scope"
        assert other.verify(key.api_key, scopes=["b"]).ok


def test_all_ways_of_deciding(db, other):
    db.call("define_role", "default", "r", ["a"])
    db.call("define_route", "default", "GET", "/x", ["a"])
    key = db.mint(role="r")
    digest = db.value("SELECT sha256(%s::bytea)", key.api_key)
    headers = '{"x-api-key": "%s"}' % key.api_key
    asks = [
        ("verify", lambda: other.verify(key.api_key, scopes=["a"]).ok),
        ("verify_digest", lambda: other.one("verify_digest", digest, scopes=["a"]).ok),
        ("verify_many", lambda: other.one("verify_many", [key.api_key], scopes=["a"]).ok),
        ("authenticate", lambda: other.one("authenticate", headers, "GET", "/x").ok),
        ("explain_verify", lambda: not [step for step in other.call("explain_verify", key.api_key, scopes=["a"])
                                        if step.outcome == "refuse"]),
    ]
    for name, ask in asks:
        with without_word(db, "role"):
            assert ask(), name
            db.rows("UPDATE keysmith_private.role SET scopes = '{b}'")
            renew(db)
            assert not ask(), name
            db.rows("UPDATE keysmith_private.role SET scopes = '{a}'")
            renew(db)
            assert ask(), name


def test_an_identity_in_force(db, other):
    db.call("define_role", "default", "r", ["a"])
    key = db.mint(role="r")
    other.rows("BEGIN")
    other.verify(key.api_key, sign_in=True)
    with without_word(db, "role"):
        assert other.value("SELECT keysmith.has_scope('a')")
        db.rows("UPDATE keysmith_private.role SET scopes = '{b}'")
        renew(db)
        assert not other.value("SELECT keysmith.has_scope('a')")
        assert other.value("SELECT keysmith.whoami() -> 'scopes'") == ["b"]
    other.rows("COMMIT")


def test_a_key_that_manages(db, other):
    db.call("alter_keyspace", "default", '{"managed_by": "a"}')
    db.call("define_role", "default", "r", ["a"])
    key = db.mint(role="r")
    other.rows("BEGIN")
    other.verify(key.api_key, sign_in=True)
    with without_word(db, "role"):
        assert other.call("list_keys", "acme")
        assert other.mint()
        other.rows("SAVEPOINT s")
        db.rows("UPDATE keysmith_private.role SET scopes = '{b}'")
        renew(db)
        other.refused("KS403", "mint", "acme")
    other.rows("ROLLBACK")


def test_what_routes_and_headers_require(db, other):
    db.call("define_route", "default", "GET", "/x", ["a"])
    key = db.mint(scopes=["a"])
    bearer = '{"authorization": "Bearer %s"}' % key.api_key
    with without_word(db, "route"):
        assert other.one("authenticate", bearer, "GET", "/x").ok
        db.rows("UPDATE keysmith_private.route SET scopes = 'b'")
        renew(db)
        assert other.one("authenticate", bearer, "GET", "/x").reason == "insufficient_scope"
        db.rows("UPDATE keysmith_private.keyspace SET schemes = '{x_api_key}'")
        assert other.one("authenticate", bearer, "GET", "/x").reason == "missing"


def test_another_keyspace_in_the_same_place(db, other):
    """As after VACUUM FULL. Both rows are of one transaction."""
    db.rows("BEGIN")
    for name in ("one", "two"):
        db.call("create_keyspace", name)
        db.tenant(keyspace=name)
        db.call("define_role", name, "r", ["a"] if name == "one" else ["b"])
    keys = {name: db.mint(keyspace=name, role="r").api_key for name in ("one", "two")}
    db.rows("COMMIT")
    for name in keys:
        assert other.verify(keys[name], keyspace=name).ok
    db.rows("CLUSTER keysmith_private.keyspace USING keyspace_event_channel_key")
    db.rows("VACUUM FULL keysmith_private.keyspace")
    for name, scopes in (("one", ["a"]), ("two", ["b"])):
        verdict = other.verify(keys[name], keyspace=name)
        assert (verdict.ok, verdict.scopes) == (True, scopes)


def test_a_new_version_in_the_place_of_an_old_one(db, other):
    db.call("define_role", "default", "r", ["a"])
    key = db.mint(role="r")

    def move():
        # After a change of an indexed column no pointer stays in the place.
        db.rows("UPDATE keysmith_private.keyspace SET event_channel = gen_random_uuid()::text")
        db.rows("VACUUM keysmith_private.keyspace")
        return version(db).ctid

    with without_word(db, "role"):
        place = min(move() for _ in range(5))
        wait_until(lambda: move() == place)
        assert other.verify(key.api_key, scopes=["a"]).ok
        db.rows("UPDATE keysmith_private.role SET scopes = '{b}'")
        wait_until(lambda: move() == place)
        assert other.reason(key.api_key, scopes=["a"]) == "insufficient_scope"


def test_a_keyspace_that_came_and_went(db, other):
    """The policy of a dropped keyspace is not used for a new one of the same name."""
    db.call("create_keyspace", "brief")
    assert other.reason("ks_live_x", keyspace="brief") == "malformed_key"
    with without_word(db, "keyspace_prefix"):
        db.rows("DELETE FROM keysmith_private.keyspace_prefix WHERE keyspace = 'brief'")
        db.rows("DELETE FROM keysmith_private.keyspace WHERE keyspace = 'brief'")
        db.rows("INSERT INTO keysmith_private.keyspace (keyspace, empty_scopes) VALUES ('brief', 'none')")
        db.rows("INSERT INTO keysmith_private.keyspace_prefix VALUES ('brief', 'secret', 'live', 'b_')")
        tenant = db.tenant(keyspace="brief")
        assert tenant
        key = db.mint(keyspace="brief")
        assert other.reason(key.api_key, scopes=["a"], keyspace="brief") == "insufficient_scope"


# New versions of a policy

@pytest.mark.parametrize("table", CONTENT)
def test_each_change_of_a_policy_is_a_new_version(db, table):
    name, content, column = f"keysmith_private.{table}", CONTENT[table], CHANGED[table]
    before = version(db)
    for change in (f"INSERT INTO {name} {content}",
                   f"UPDATE {name} SET {column} = {column}",
                   f"DELETE FROM {name}",
                   f"TRUNCATE {name} CASCADE"):
        db.rows(change)
        after = version(db)
        assert after != before, change
        before = after


def test_both_keyspaces_of_a_row_that_moves(db):
    db.call("create_keyspace", "other")
    db.call("define_role", "default", "r", ["a"])
    before = version(db), version(db, "other")
    db.rows("UPDATE keysmith_private.role SET keyspace = 'other'")
    after = version(db), version(db, "other")
    assert before[0] != after[0] and before[1] != after[1]


def test_a_transaction_writes_one_version(db):
    db.rows("BEGIN")
    for n in range(3):
        db.call("define_role", "default", f"r{n}", ["a"])
        if n == 0:
            first = version(db)
    assert version(db) == first
    db.rows("COMMIT")


def test_versions_of_savepoints(db, other):
    """A version that was rolled back covers no later change."""
    before = version(db)
    db.rows("BEGIN")
    db.rows("SAVEPOINT s")
    db.call("define_role", "default", "r", ["a"])
    inner = version(db)
    assert inner != before
    db.rows("ROLLBACK TO s")
    assert version(db) == before
    db.call("define_role", "default", "r", ["a"])
    assert version(db) not in (before, inner)
    db.rows("COMMIT")
    assert version(other) not in (before, inner)


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_a_version_that_is_younger_than_the_snapshot(db, other, isolation):
    db.call("define_role", "default", "r", ["a"])
    other.rows(f"BEGIN ISOLATION LEVEL {isolation}")
    other.rows("SELECT 1")
    db.call("define_role", "default", "another", ["a"])
    before = version(db)
    other.rows("UPDATE keysmith_private.role SET scopes = '{b}' WHERE role = 'r'")
    other.rows("COMMIT")
    assert version(db) != before


def test_who_may_change_a_role_needs_no_right_to_the_keyspace(cluster, dbname, db):
    db.rows("CREATE ROLE role_keeper LOGIN")
    try:
        db.rows("GRANT USAGE ON SCHEMA keysmith_private TO role_keeper")
        db.rows("GRANT INSERT ON keysmith_private.role TO role_keeper")
        before = version(db)
        keeper = session(cluster, dbname, "role_keeper")
        keeper.rows("INSERT INTO keysmith_private.role VALUES ('default', 'r', '{a}')")
        keeper.session.close()
        assert version(db) != before
    finally:
        db.rows("DROP OWNED BY role_keeper")
        db.rows("DROP ROLE role_keeper")


def test_a_transaction_sees_its_own_changes(db):
    db.call("define_role", "default", "r", ["a"])
    key = db.mint(role="r")
    assert db.verify(key.api_key, scopes=["a"]).ok
    db.rows("BEGIN")
    for scopes, savepoint in (("{b}", "s"), ("{a}", "t"), ("{b}", "u")):
        db.rows(f"SAVEPOINT {savepoint}")
        db.rows("UPDATE keysmith_private.role SET scopes = %s", scopes)
        assert db.verify(key.api_key, scopes=["a"]).ok == (scopes == "{a}")
    db.rows("ROLLBACK TO u")
    assert db.verify(key.api_key, scopes=["a"]).ok
    db.rows("ROLLBACK TO t")
    assert db.reason(key.api_key, scopes=["a"]) == "insufficient_scope"
    db.rows("ROLLBACK")
    assert db.verify(key.api_key, scopes=["a"]).ok


def test_an_identity_sees_what_its_transaction_changes_by_hand(db):
    db.call("define_role", "default", "r", ["a"])
    key = db.mint(role="r")
    db.rows("BEGIN")
    db.verify(key.api_key, sign_in=True)
    assert db.value("SELECT keysmith.has_scope('a')")
    db.rows("UPDATE keysmith_private.role SET scopes = '{b}'")
    assert not db.value("SELECT keysmith.has_scope('a')")
    db.rows("ROLLBACK")


def test_a_logical_subscriber():
    """Its rows come by statements of another server, which fire only these triggers."""
    tables = ", ".join(f"keysmith_private.{name}" for name in (
        "keyspace", "keyspace_prefix", "role", "tenant", "member", "key"))
    with running("publisher", wal_level="logical") as publisher, running("subscriber") as subscriber:
        db, there = session(publisher), session(subscriber)
        for one in (db, there):
            one.rows("CREATE EXTENSION keysmith")
        db.tenant()
        db.call("define_role", "default", "r", ["a"])
        key = db.mint(role="r")
        db.rows(f"CREATE PUBLICATION p FOR TABLE {tables}")
        there.rows(f"CREATE SUBSCRIPTION s CONNECTION '{publisher.dsn()}' PUBLICATION p")
        wait_until(lambda: there.reason(key.api_key, scopes=["a"]) == "ok")
        before = version(there)
        db.rows("UPDATE keysmith_private.role SET scopes = '{b}'")
        wait_until(lambda: there.reason(key.api_key, scopes=["a"]) == "insufficient_scope")
        assert version(there) != before
        there.rows("DROP SUBSCRIPTION s")


def test_many_rows_at_once_write_one_version(db):
    db.rows("INSERT INTO keysmith_private.route (keyspace, method, pattern, scopes) "
            "SELECT 'default', 'GET', '/r' || n, 'a' FROM generate_series(1, 1000) n")
    written = "SELECT n_tup_upd FROM pg_stat_xact_user_tables WHERE relname = 'keyspace'"
    db.rows("BEGIN")
    before = db.value(written)
    db.rows("UPDATE keysmith_private.route SET scopes = 'b'")
    assert db.value(written) == before + 1
    db.rows("ROLLBACK")


# Concurrent sessions

ASK = """SELECT count(*) FILTER (WHERE (keysmith.verify(
             %s, ARRAY[CASE WHEN n %% 2 = 0 THEN 'a:1' ELSE 'a:2' END], keyspace => 'torn')).ok)
         FROM generate_series(1, %s) n"""


def torn(writer, readers):
    """The number of decisions that accept what no committed state allows: each commit moves a
    right from a key to its role and back, so that the key never has it."""
    writer.call("create_keyspace", "torn", usage_log="nothing")
    writer.tenant(keyspace="torn")
    writer.call("define_role", "torn", "r", ["a:1"])
    key = writer.mint(keyspace="torn", role="r", scopes=["a:2"])
    writer.call("wait_for_replay")
    is_over = Event()

    def ask(reader):
        return sum(reader.value(ASK, key.api_key, BATCH) for _ in range(DECISIONS // BATCH))

    def change():
        moves = 0
        while not is_over.is_set():
            moves += 1
            role, own = ("a:1", "a:2") if moves % 2 == 0 else ("a:2", "a:1")
            with writer.session.transaction():
                writer.rows("UPDATE keysmith_private.role SET scopes = ARRAY[%s] WHERE keyspace = 'torn'", role)
                writer.rows("UPDATE keysmith_private.key SET scopes = ARRAY[%s] WHERE keyspace = 'torn'", own)
        return moves

    with ThreadPoolExecutor(len(readers) + 1) as pool:
        changes = pool.submit(change)
        asked = [pool.submit(ask, reader) for reader in readers]
        try:
            let_in = [each.result() for each in asked]
        finally:
            is_over.set()
        assert changes.result() > 10
    return let_in


def test_no_decision_is_torn(db, connect, database):
    assert torn(db, [database(connect()) for _ in range(2)]) == [0, 0]


def test_no_decision_of_a_standby_is_torn():
    with running("primary", max_wal_senders=4) as primary:
        db = session(primary)
        db.rows("CREATE EXTENSION keysmith")
        standby = primary.backup("standby", 5433)
        try:
            standby.start()
            wait_until(lambda: db.one("wait_for_replay")[0] == 1)
            readers = [session(standby) for _ in range(2)]
            assert torn(db, readers) == [0, 0]
        finally:
            standby.remove()
