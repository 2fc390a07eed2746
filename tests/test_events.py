"""Events: one for each lifecycle change, delivered if and when it commits."""

import psycopg
import pytest
from psycopg.types.json import Jsonb


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
