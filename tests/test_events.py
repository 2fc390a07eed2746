"""Events: one for each lifecycle change, delivered exactly if it commits."""

import psycopg
import pytest
from psycopg.types.json import Jsonb

from cluster import running
from conftest import session, wait_until
from majors import since

USED = "SELECT pg_notification_queue_usage()"


@pytest.fixture
def listen(db, hear):
    return lambda keyspace="default": hear(db.one("event_channel", keyspace)[0])


def test_every_lifecycle_change_sends_one(db, listen):
    db.tenant()
    db.call("define_role", "default", "r", [])
    received = listen()
    first = db.mint()
    db.call("alter_key", first.key_id, Jsonb({"metadata": {"x": 1}}))
    db.call("disable", first.key_id)
    db.call("enable", first.key_id)
    second = db.one("rotate", first.key_id)
    third = db.one("regenerate", "acme")
    db.call("report_leak", third.api_key, "x")
    fourth = db.row("SELECT * FROM keysmith.import_key('acme', sha256('x'))")
    db.call("revoke", fourth.key_id)
    db.call("suspend_tenant", "acme")
    db.call("resume_tenant", "acme")
    db.call("set_member", "acme", "ann", "r")
    db.call("remove_member", "acme", "ann")
    db.call("alter_tenant", "acme", Jsonb({"plan": "pro"}))
    events = received()
    about = [(event["event"], event["key_id"]) for event in events]
    assert about == [
        ("mint", str(first.key_id)), ("alter", str(first.key_id)),
        ("disable", str(first.key_id)), ("enable", str(first.key_id)),
        ("rotate", str(first.key_id)), ("revoke", str(second.key_id)),
        ("revoke", str(third.key_id)), ("import", str(fourth.key_id)),
        ("revoke", str(fourth.key_id)), ("suspend", None), ("resume", None),
        ("set_member", None), ("remove_member", None), ("alter_tenant", None),
    ]
    assert {event["tenant"] for event in events} == {"acme"}
    assert {event["keyspace"] for event in events} == {"default"}
    assert all(event["at"] for event in events)
    for key in (first, second, third):
        assert key.api_key not in str(events)


def test_a_rolled_back_change_sends_none(db, connect, database, listen):
    db.tenant()
    key = db.mint()
    received = listen()
    session = database(connect(autocommit=False))
    session.call("revoke", key.key_id)
    assert received() == []
    session.session.rollback()
    assert received() == []
    session.call("revoke", key.key_id)
    session.session.commit()
    assert [event["event"] for event in received()] == ["revoke"]


def test_each_keyspace_has_a_channel_that_cannot_be_guessed(db, listen):
    db.call("create_keyspace", "other")
    db.tenant(keyspace="other")
    here, there = listen(), listen("other")
    channels = {db.one("event_channel", name)[0] for name in ("default", "other")}
    assert len(channels) == 2 and all(len(channel) == len("keysmith_") + 32 for channel in channels)
    key = db.mint(keyspace="other")
    assert [event["key_id"] for event in there()] == [str(key.key_id)]
    assert here() == []


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "SERIALIZABLE"])
def test_a_channel_that_is_not_there_yet_is_made_where_that_can_be(db, connect, database, isolation):
    reader = database(connect())
    reader.rows("SET default_transaction_read_only = on")
    reader.rows(f"SET default_transaction_isolation = '{isolation.lower()}'")
    assert "no channel yet" in reader.refused("KS404", "event_channel")
    reader.refused("KS404", "event_channel", "nowhere")
    assert [row.keyspace for row in reader.call("scanner_patterns")] == ["default"]
    assert len(reader.call("scanner_patterns", "default")) == 1
    reader.refused("KS404", "scanner_patterns", "nowhere")
    assert db.rows("SELECT * FROM keysmith_private.keyspace") == []
    (made,) = db.one("event_channel")
    assert reader.one("event_channel") == (made,)


def test_the_longest_names_fit_into_a_notification(db, listen):
    received = listen()
    db.tenant("🔑" * 200)
    key = db.mint("🔑" * 200)
    db.call("suspend_tenant", "🔑" * 200)
    assert [event["tenant"] for event in received()] == ["🔑" * 200] * 2
    assert not db.verify(key.api_key).ok


def test_a_prepared_transaction_says_why_it_cannot_be(db, connect, database):
    db.tenant()
    session = database(connect(autocommit=False))
    session.mint()
    with pytest.raises(psycopg.Error, match="can't be prepared"):
        session.rows("PREPARE TRANSACTION 'x'")


# A queue that nobody reads

@pytest.fixture
def deaf(connect):
    """A session that listens but does not read during its transaction."""
    session = connect(autocommit=False)
    session.execute("LISTEN something")
    session.commit()
    session.execute("SELECT 1")
    return session


def unsent(db):
    return db.one("status").events_unsent


def warned(db):
    return [row.finding for row in db.findings() if row.subject == "events"]


def test_no_event_is_sent_where_the_queue_is_too_full(db, deaf, listen):
    db.tenant()
    key, other = db.mint(), db.mint()
    received = listen()
    before = unsent(db)
    db.rows("SELECT pg_notify('something', rpad(n::text, 7000)) FROM generate_series(1, 4) n")
    assert db.value(USED) > 0
    db.rows("SET keysmith.event_queue_limit = 0")
    db.call("revoke", key.key_id)
    assert db.reason(key.api_key) == "revoked"
    assert received() == []
    assert unsent(db) == before + 1
    assert any(f"{before + 1} events were not sent" in finding for finding in warned(db))
    assert any("from 0 on no events are sent" in finding for finding in warned(db))
    deaf.rollback()
    wait_until(lambda: db.value(USED) == 0)
    db.call("revoke", other.key_id)
    assert [event["key_id"] for event in received()] == [str(other.key_id)]
    assert unsent(db) == before + 1
    assert not any("from 0 on" in finding for finding in warned(db))


def test_only_superusers_say_how_full_it_may_be(cluster, dbname, db):
    cluster.execute("CREATE ROLE events_app LOGIN")
    try:
        db.call("grant_access", "events_app", "verifier")
        with cluster.connect(dbname, user="events_app") as app:
            app.execute("SELECT keysmith.sign_out()")
            with pytest.raises(psycopg.Error) as error:
                app.execute("SET keysmith.event_queue_limit = 100")
            assert error.value.sqlstate == "42501"
    finally:
        cluster.execute("DROP OWNED BY events_app", dbname)
        cluster.execute("DROP ROLE events_app")


# The setting for the queue's size.
@since(17)
def test_acts_commit_beside_a_queue_that_is_full():
    with running("events", max_notify_queue_pages=64) as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        keys = [db.mint() for _ in range(3)]
        # Many in one transaction: they take no more room than there is.
        with db.session.transaction():
            for number in range(4000):
                db.call("alter_key", keys[0].key_id, Jsonb({"label": str(number)}))
        db.call("revoke", keys[0].key_id)
        listener = cluster.connect(autocommit=False)
        listener.execute("LISTEN something")
        listener.commit()
        listener.execute("SELECT 1")
        with pytest.raises(psycopg.Error, match="too many notifications"):
            for number in range(1000):
                db.rows("SELECT pg_notify('something', rpad(%s::text, 7900))", number)
        for key in keys[1:]:
            db.call("revoke", key.key_id)
            assert db.reason(key.api_key) == "revoked"
        listener.close()
