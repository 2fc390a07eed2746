"""Keys that are not used end: the option max_idle of keyspaces."""

from contextlib import contextmanager

import pytest
from psycopg.types.json import Jsonb

from cluster import running
from conftest import session, wait_until
from subscribers import pair

TIMES = {"key": ["created_at", "enabled_at"], "keyspace": ["max_idle_since"], "usage_last": ["used_at"],
         "usage_delta": ["used_at"], "usage_incarnation": ["primary_since", "lost_until", "dropped_at"],
         "usage_set_aside": ["set_aside_at"]}


@pytest.fixture(scope="module")
def server():
    """A cluster whose worker does nothing unless it is asked: tests call maintain()."""
    with running("slow", keysmith__usage_flush_interval="10min") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def eager():
    """A cluster whose worker looks again and again."""
    with running("eager", keysmith__usage_flush_interval="10ms") as cluster:
        yield cluster


@contextmanager
def database(cluster):
    cluster.execute("CREATE DATABASE unused")
    db = session(cluster, "unused")
    db.rows("CREATE EXTENSION keysmith")
    db.call("create_keyspace", "other", prefixes=Jsonb({"secret": {"live": "o_"}}))
    db.tenant()
    db.tenant(keyspace="other")
    # The worker notes from when on it records.
    use(db, db.mint(keyspace="other").api_key, keyspace="other")
    yield db
    db.session.close()
    cluster.execute("DROP DATABASE unused WITH (FORCE)")


@pytest.fixture
def db(server):
    with database(server) as db:
        yield db


@pytest.fixture
def watched(eager):
    """A database whose worker looks again and again."""
    with database(eager) as db:
        yield db


def alter(db, keyspace="default", **options):
    db.call("alter_keyspace", keyspace, Jsonb(options))


def use(db, *keys, **options):
    """Uses keys, and has the worker store that."""
    for key in keys:
        db.verify(key, **options)
    db.call("flush_usage")


def age(db, by="30 days", but=()):
    """Has time pass."""
    for table, columns in TIMES.items():
        for column in columns:
            if (table, column) not in but:
                db.rows(f"UPDATE keysmith_private.{table} SET {column} = {column} - %s::interval", by)


def look(db):
    """The keys that are idle after maintain(), once all is stored."""
    def is_done():
        db.call("flush_usage")
        return "disabled" in maintained(db)

    wait_until(is_done)
    return {key.key_id for key in db.rows("SELECT key_id FROM keysmith.keys WHERE status = 'idle'")}


def maintained(db):
    return dict(db.call("maintain"))["idle keys"]


def worker_pid(db):
    return db.one("usage_status").worker_pid


def is_idle(db, key):
    return db.status_of(key.key_id) == "idle"


# The worker

def wait_for_a_look(condition):
    """After a look the worker pauses, the longer the look took. On a busy machine that may be its longest pause."""
    wait_until(condition, seconds=1200)


def test_the_worker_disables_keys_that_are_not_used(watched, eager):
    alter(watched, max_idle="30 days")
    unused, used = watched.mint(label="unused"), watched.mint()
    use(watched, unused.api_key, used.api_key)
    age(watched, "20 days")
    use(watched, used.api_key)
    listener = session(eager, "unused").session
    listener.execute("LISTEN " + watched.value("SELECT keysmith.event_channel()"))
    age(watched, "10 days")
    wait_for_a_look(lambda: is_idle(watched, unused))

    verdict = watched.verify(unused.api_key)
    assert (verdict.ok, verdict.status, verdict.code, verdict.reason) == (False, 401, "invalid_api_key", "idle")
    assert watched.verify(used.api_key).ok
    shown = {key.key_id: key.status for key in watched.call("list_keys", "acme")}
    assert shown == {unused.key_id: "idle", used.key_id: "active"}
    saw = watched.row("SELECT outcome, reason, saw FROM keysmith.explain_verify(%s) WHERE rule = 'disablement'", unused.api_key)
    assert saw == ("refuse", "idle", "disabled, because it was not used for the max_idle of its keyspace")
    status = watched.one("status")
    assert (status.keys_active, status.keys_disabled) == (2, 1)
    assert watched.value("SELECT count(*) FROM keysmith.stale_keys WHERE key_id = %s", unused.key_id) == 0

    entry = watched.row("SELECT action, tenant, role, acting_key, after ->> 'disabled_reason' AS reason,"
                   " after ->> 'label' AS label FROM keysmith.audit WHERE key_id = %s AND action = 'disable'", unused.key_id)
    assert entry == ("disable", "acme", "postgres", None, "idle", "unused")
    assert all(chain.ok for chain in watched.call("audit_verify"))
    events = [notice.payload for notice in listener.notifies(timeout=60, stop_after=1)]
    assert '"disable"' in events[0] and str(unused.key_id) in events[0]
    listener.close()


def test_the_worker_looks_also_if_there_are_no_requests(watched):
    """A worker that has nothing to store leaves after ten flush intervals, unless there is max_idle."""
    wait_until(lambda: worker_pid(watched) is None)
    alter(watched, max_idle="1 hour")
    wait_until(lambda: worker_pid(watched))
    key = watched.mint()
    watched.rows("SELECT pg_terminate_backend(%s)", worker_pid(watched))
    wait_until(lambda: worker_pid(watched) is None)
    age(watched, "1 hour")
    # As after a start of the server: the first call in the database starts the worker.
    watched.verify("ks_live_unknown")
    wait_for_a_look(lambda: is_idle(watched, key))
    stays = worker_pid(watched)
    alter(watched, max_idle=None)
    wait_until(lambda: worker_pid(watched) != stays)


def test_many_idle_keys(watched):
    alter(watched, max_idle="1 hour")
    watched.rows("SELECT count(*) FROM (SELECT keysmith.mint('acme') FROM generate_series(1, 450)) AS m")
    age(watched, "1 hour")
    wait_for_a_look(lambda: watched.value("SELECT count(*) FROM keysmith.keys WHERE status = 'idle'") == 450)
    assert all(chain.ok for chain in watched.call("audit_verify"))


def test_a_key_that_is_used_while_the_worker_looks(watched, eager):
    alter(watched, max_idle="1 hour")
    unused, used = watched.mint(), watched.mint()
    with eager.connect("unused", autocommit=False) as blocker:
        blocker.execute("LOCK TABLE keysmith_private.usage_set_aside IN ACCESS EXCLUSIVE MODE")
        age(watched, "1 hour", but=[("usage_set_aside", "set_aside_at")])
        wait_until(lambda: watched.rows("SELECT FROM pg_locks WHERE NOT granted"
                                        " AND relation = 'keysmith_private.usage_set_aside'::regclass"))
        # The worker has stored all that there was.
        assert watched.verify(used.api_key).ok
        blocker.rollback()
    wait_for_a_look(lambda: is_idle(watched, unused))
    assert watched.verify(used.api_key).ok


# maintain(), by the same rules

def test_enable_brings_a_key_back(db):
    alter(db, max_idle="1 hour")
    key = db.mint()
    age(db, "1 hour")
    assert look(db) == {key.key_id}
    db.refused("KS409", "rotate", key.key_id)
    db.call("enable", key.key_id)
    assert db.verify(key.api_key).ok and look(db) == set()
    db.call("flush_usage")
    age(db, "1 hour")
    assert look(db) == {key.key_id}


def test_somebody_may_disable_an_idle_key(db):
    alter(db, max_idle="1 hour")
    key = db.mint()
    age(db, "1 hour")
    look(db)
    db.call("disable", key.key_id)
    assert (db.reason(key.api_key), db.status_of(key.key_id)) == ("disabled", "disabled")
    assert look(db) == set()


@pytest.mark.parametrize("latest", [("key", "created_at"), ("key", "enabled_at"), ("keyspace", "max_idle_since"),
                                    ("usage", "used_at"), None])
def test_it_counts_from_the_latest(db, latest):
    alter(db, max_idle="30 days")
    key = db.mint()
    use(db, key.api_key)
    db.call("enable", key.key_id)
    kept = [("usage_last", "used_at"), ("usage_delta", "used_at")] if latest == ("usage", "used_at") else [latest]
    age(db, "30 days", but=kept)
    assert look(db) == (set() if latest else {key.key_id})


def test_uses_that_are_added_up_and_those_that_are_not(db):
    alter(db, max_idle="30 days")
    one, other = db.mint(), db.mint()
    use(db, one.api_key)
    db.call("usage_fold")
    use(db, other.api_key)
    assert db.rows("SELECT key_id FROM keysmith_private.usage_last WHERE key_id IN (%s, %s)",
                   one.key_id, other.key_id) == [(one.key_id,)]
    age(db, "29 days")
    age(db, "10 days", but=[("usage_last", "used_at"), ("usage_delta", "used_at")])
    assert look(db) == set()
    age(db, "1 day")
    assert look(db) == {one.key_id, other.key_id}


def test_it_counts_from_another_value_of_the_option(db):
    since = "SELECT max_idle_since FROM keysmith_private.keyspace WHERE keyspace = 'default'"
    alter(db, max_idle="30 days")
    first = db.value(since)
    for same in ({"max_idle": "720 hours"}, {"max_idle": "30 days", "label_length": 50}, {"label_length": 60}):
        alter(db, **same)
        assert db.value(since) == first
    alter(db, max_idle="10 days")
    assert db.value(since) > first
    alter(db, max_idle=None)
    assert db.value(since) is None
    db.call("create_keyspace", "new", max_idle="1 hour")
    assert db.value("SELECT max_idle_since IS NOT NULL FROM keysmith_private.keyspace WHERE keyspace = 'new'")


def test_keys_that_are_left_alone(db):
    alter(db, max_idle="30 days")
    idle, rotated, disabled, revoked, expired, elsewhere = (
        db.mint(keyspace=keyspace) for keyspace in ["default"] * 5 + ["other"])
    db.call("enable", db.one("rotate", rotated.key_id, "60 days").key_id)
    db.call("disable", disabled.key_id)
    db.call("revoke", revoked.key_id)
    db.call("alter_key", expired.key_id, Jsonb({"expires_at": str(db.value("SELECT now() + interval '1 hour'"))}))
    db.rows("UPDATE keysmith_private.key SET expires_at = now() WHERE key_id = %s", expired.key_id)
    age(db, "30 days")
    db.rows("UPDATE keysmith_private.key SET enabled_at = now() WHERE key_id = (SELECT rotated_to FROM keysmith_private.key"
            " WHERE key_id = %s)", rotated.key_id)
    assert look(db) == {idle.key_id}
    assert [db.status_of(key.key_id) for key in (idle, rotated, disabled, revoked, expired, elsewhere)] == [
        "idle", "active", "disabled", "revoked", "expired", "active"]


def test_a_key_that_somebody_changes_is_left_for_later(db, server):
    alter(db, max_idle="1 hour")
    key = db.mint()
    age(db, "1 hour")
    with server.connect("unused", autocommit=False) as blocker:
        blocker.execute("SELECT FROM keysmith_private.key WHERE key_id = %s FOR UPDATE", [key.key_id])
        assert look(db) == set()
        blocker.rollback()
    assert look(db) == {key.key_id}


# What is not known

@contextmanager
def nothing_stored(server, dbname):
    with server.connect(dbname, autocommit=False) as blocker:
        blocker.execute("LOCK TABLE keysmith_private.usage_event IN SHARE ROW EXCLUSIVE MODE")
        yield
        blocker.rollback()


def test_nothing_is_disabled_while_records_wait(watched, eager):
    alter(watched, max_idle="1 hour")
    key, used = watched.mint(), watched.mint()
    with nothing_stored(eager, "unused"):
        watched.verify(used.api_key)
        wait_until(lambda: watched.one("usage_status").waiting)
        age(watched, "1 hour")
        assert maintained(watched) == "records wait, to be tried again"
        failures = watched.one("usage_status").failures
        wait_until(lambda: watched.one("usage_status").failures > failures)
        assert watched.status_of(key.key_id) == "active"
    wait_for_a_look(lambda: is_idle(watched, key))
    assert watched.verify(used.api_key).ok


def test_an_open_transaction_may_have_used_a_key(db, server):
    alter(db, max_idle="1 hour")
    key = db.mint()
    age(db, "1 hour")
    db.call("flush_usage")
    with server.connect("unused", autocommit=False) as other:
        other.execute("SELECT keysmith.verify(%s)", [key.api_key])
        assert maintained(db) == "records wait, to be tried again"
        other.rollback()
    assert look(db) == set()
    assert db.verify(key.api_key).ok


LOST = {
    "a sudden end": "UPDATE keysmith_private.usage_incarnation SET lost_at_most = 1, lost_until = now() - interval '1 day'",
    "dropped records": "UPDATE keysmith_private.usage_incarnation SET dropped = 1, dropped_at = now() - interval '1 day'",
    "a record that is set aside": "INSERT INTO keysmith_private.usage_set_aside (set_aside_at, incarnation, sequence,"
                                  " request_id, error) VALUES (now() - interval '1 day', 1, 1, gen_random_uuid(), '')",
    "another database's": "UPDATE keysmith_private.usage_incarnation SET server = 1",
    "nothing recorded": "DELETE FROM keysmith_private.usage_incarnation",
}


@pytest.mark.parametrize("loss", LOST)
def test_nothing_is_disabled_after_a_loss(db, loss):
    alter(db, max_idle="30 days")
    key = db.mint()
    age(db, "30 days")
    db.rows(LOST[loss])
    assert look(db) == set()
    if "interval" in LOST[loss]:
        age(db, "29 days")
        assert look(db) == {key.key_id}


def test_the_time_of_dropped_records_is_noted():
    with running("dropping", keysmith__usage_buffer="64kB", keysmith__usage_overflow="drop",
                 keysmith__usage_flush_interval="1h") as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        key = db.mint().api_key
        alter(db, max_idle="1 hour")
        use(db, key)
        noted = "SELECT dropped_at FROM keysmith_private.usage_incarnation"
        assert db.value(noted) is None
        with nothing_stored(cluster, "postgres"):
            db.value("SELECT count(keysmith.verify(%s)) FROM generate_series(1, 1000)", key)
        # Until then there is no room for another record.
        db.call("flush_usage")
        # The batch that waited may have begun before the last record was dropped. The next one notes it.
        use(db, key)
        dropped_at = db.one("usage_status").last_dropped_at
        first = db.value(noted)
        assert first >= dropped_at
        use(db, key)
        assert db.value(noted) == first
        # As if it were not noted yet.
        db.rows("UPDATE keysmith_private.usage_incarnation SET dropped_at = NULL")
        db.mint()
        age(db, "1 hour")
        assert look(db) == set()
        db.session.close()


def test_records_of_standbys_have_time_to_arrive(db):
    alter(db, max_idle="30 days")
    key = db.mint()
    db.rows("INSERT INTO keysmith_private.usage_incarnation (incarnation, database, server, started_at, most_waiting, node)"
            " VALUES (1, 1, 1, now(), 1, 'standby')")
    age(db, "30 days")
    assert look(db) == set()
    age(db, "15 minutes")
    assert look(db) == {key.key_id}


def test_a_use_that_comes_to_light_later_brings_the_key_back(db):
    alter(db, max_idle="30 days")
    used, unused, refused = db.mint(), db.mint(), db.mint()
    age(db, "30 days")
    assert look(db) == {used.key_id, unused.key_id, refused.key_id}
    # A standby hands over what it had recorded before.
    db.rows("INSERT INTO keysmith_private.usage_last VALUES (%s, now() - interval '29 days'),"
            " (%s, now() - interval '31 days')", used.key_id, unused.key_id)
    use(db, refused.api_key)
    assert look(db) == {unused.key_id, refused.key_id}
    assert [db.reason(key.api_key) for key in (used, unused, refused)] == ["ok", "idle", "idle"]
    assert db.rows("SELECT action FROM keysmith.audit WHERE key_id = %s ORDER BY entry", used.key_id) == [
        ("mint",), ("disable",), ("key.idle",), ("enable",)]
    assert db.value("SELECT enabled_at FROM keysmith_private.key WHERE key_id = %s", used.key_id) is None


def test_a_subscriber_leaves_it_to_the_publisher():
    with pair() as (_, _, db, there):
        alter(db, max_idle="1 hour")
        key = db.mint()
        use(db, "ks_live_unknown")
        # The publisher has not recorded for so long, and the subscriber has, by its own tables.
        age(db, "1 hour", but=[("usage_incarnation", "primary_since")])
        there.rows("INSERT INTO keysmith_private.usage_incarnation"
                   " (incarnation, database, server, started_at, most_waiting, primary_since)"
                   " SELECT 1, d.oid, c.system_identifier, now(), 1, now() - interval '1 day'"
                   " FROM pg_database d, pg_control_system() c WHERE datname = current_database()")
        idle = "SELECT key_id FROM keysmith_private.idle_key"
        wait_until(lambda: there.rows(idle) == [(key.key_id,)])
        assert maintained(there) == "0 disabled" and there.status_of(key.key_id) == "active"
        assert db.rows(idle) == []
        age(db, "1 hour")
        assert look(db) == {key.key_id}
        wait_until(lambda: there.reason(key.api_key) == "idle")


# The option

@pytest.mark.parametrize("value", ["0", "-1 day", "59 minutes", "1 year", "1 month", "1 month -30 days", "36501 days",
                                   "infinity", "", "soon", 90, True, ["90 days"], {"days": 90}])
def test_bad_values(db, value):
    before = db.rows("SELECT * FROM keysmith_private.keyspace ORDER BY keyspace")
    message = db.refused("KS400", "alter_keyspace", "default", Jsonb({"max_idle": value, "label_length": 7}))
    assert "max_idle" in message
    if isinstance(value, str):
        assert "must be an interval from 1 hour to 36500 days" in message
    if value in ("59 minutes", "1 year", "-1 day", "1 month", "36501 days"):
        assert "max_idle" in db.refused("KS400", "create_keyspace", "new", max_idle=value)
    assert db.rows("SELECT * FROM keysmith_private.keyspace ORDER BY keyspace") == before


@pytest.mark.parametrize("usage_log", ["refusals", "nothing"])
def test_uses_must_be_recorded(db, usage_log):
    assert db.refused("KS400", "create_keyspace", "new", usage_log=usage_log, max_idle="1 hour") \
        == "max_idle needs the usage_log everything or totals"
    assert not db.rows("SELECT FROM keysmith_private.keyspace WHERE keyspace = 'new'")
    alter(db, usage_log=usage_log)
    assert "max_idle" in db.refused("KS400", "alter_keyspace", "default", Jsonb({"max_idle": "1 hour"}))
    alter(db, usage_log="everything", max_idle="1 hour")
    assert db.refused("KS400", "alter_keyspace", "default", Jsonb({"usage_log": usage_log})) \
        == "usage_log must be everything or totals while max_idle is set"
    assert db.rows("SELECT usage_log, max_idle IS NULL FROM keysmith_private.keyspace WHERE keyspace = 'default'") \
        == [("everything", False)]
    alter(db, usage_log=usage_log, max_idle=None)
    assert db.value("SELECT usage_log FROM keysmith_private.keyspace WHERE keyspace = 'default'") == usage_log


def test_the_library_must_be_preloaded():
    with running("unloaded", shared_preload_libraries="") as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        assert "preloaded" in db.refused("KS503", "alter_keyspace", "default", Jsonb({"max_idle": "1 hour"}))
        alter(db, max_idle=None)
        db.rows("UPDATE keysmith_private.keyspace SET max_idle = '1 hour'")
        db.mint()
        age(db, "1 hour")
        assert "disabled" not in maintained(db)
        db.session.close()
