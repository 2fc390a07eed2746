"""The usage of a subscriber is stored by its publisher, once each."""


import pytest

from conftest import session, wait_until
from subscribers import pair
from test_usage_pipeline import count, status

EVENTS = "SELECT request_id FROM keysmith_private.usage_event"


def stored(db):
    return sorted(str(row.request_id) for row in db.rows(EVENTS))


def requests(db, key, n):
    return [str(db.verify(key.api_key).request_id) for _ in range(n)]


def usable(db, there):
    key = db.mint()
    wait_until(lambda: there.reason(key.api_key) == "ok")
    return key


@pytest.fixture(scope="module")
def servers():
    """The databases have different names."""
    with pair(dbname="publishing") as all:
        yield all


def test_usage_reaches_the_publisher(servers):
    _, _, db, there = servers
    key = usable(db, there)
    there.call("flush_usage")
    before = stored(db)
    made = requests(there, key, 5)
    refused = there.verify(key.api_key, environment="test")
    assert there.one("log_request", 404, endpoint="/x", request_id=refused.request_id)[0]
    there.call("flush_usage")
    assert stored(db) == sorted(before + made + [str(refused.request_id)])
    assert db.row("SELECT status, endpoint FROM keysmith_private.usage_event WHERE request_id = %s",
                  refused.request_id) == (404, "/x")
    assert db.value("SELECT last_used_at FROM keysmith.keys WHERE key_id = %s", key.key_id)
    assert stored(there) == []
    assert there.rows("SELECT FROM keysmith_private.usage_incarnation") == []
    assert status(there)["mode"] == "shared memory, handed to the publisher"
    # The publisher's answer is enough: no row comes back.
    wait_until(lambda: count(there, "waiting") == 0)
    assert count(there, "failures") == 0 and count(there, "dropped") == 0


def test_requests_without_a_known_key_are_counted_there(servers):
    _, _, db, there = servers
    total = "SELECT coalesce(sum(requests), 0)::int FROM keysmith_private.usage_unknown"
    before = db.value(total)
    for _ in range(3):
        there.verify("garbage")
    there.call("flush_usage")
    assert db.value(total) == before + 3
    assert there.value(total) == 0


def test_a_session_never_stores_it_itself(servers):
    """Neither with usage_durability = commit, nor where the queue is full."""
    publisher, _, db, there = servers
    key = usable(db, there)
    there.call("flush_usage")
    there.rows("SET keysmith.usage_durability = 'commit'")
    before = stored(db)
    made = requests(there, key, 3)
    there.rows("BEGIN")
    made += requests(there, key, 3)
    there.rows("COMMIT")
    there.rows("RESET keysmith.usage_durability")
    there.call("flush_usage")
    assert stored(db) == sorted(before + made)
    assert stored(there) == [] and count(there, "written_through") == 0


def test_records_that_find_no_room_are_counted():
    with pair(subscriber={"keysmith__usage_buffer": "64kB"}) as (publisher, _, db, there):
        key = usable(db, there)
        there.call("flush_usage")
        before = count(there, "accepted")
        db.session.close()
        publisher.stop("immediate")
        while count(there, "dropped") == 0:
            requests(there, key, 20)
        kept = count(there, "accepted") - before
        assert kept > 0 and stored(there) == []
        publisher.start()
        there.call("flush_usage", "60 seconds")
        db = session(publisher)
        assert len(stored(db)) == count(there, "accepted")
        assert db.value("SELECT dropped FROM keysmith_private.usage_incarnation WHERE primary_since IS NULL") > 0
        db.session.close()


@pytest.mark.parametrize("how", ["worker", "restart", "publisher"])
def test_it_arrives_once_whatever_ends(how):
    with pair(publisher={"max_wal_senders": 20}) as (publisher, subscriber, db, there):
        key = usable(db, there)
        there.call("flush_usage")
        before = stored(db)
        made = requests(there, key, 40)
        if how == "worker":
            # Between the publisher's commit and the answer.
            for _ in range(5):
                made += requests(there, key, 40)
                publisher.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                                  " WHERE application_name LIKE 'keysmith usage%'")
            there.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                       " WHERE backend_type = 'keysmith usage worker'")
        elif how == "restart":
            # Records that wait at the shutdown are sent after the start.
            publisher.stop("immediate")
            made += requests(there, key, 40)
            there.session.close()
            subscriber.restart()
            assert list((subscriber.data / "pg_stat").glob("keysmith_usage.*"))
            publisher.start()
        else:
            publisher.kill()
            made += requests(there, key, 40)
            publisher.start_after_kill()
        db, there = session(publisher), session(subscriber)
        wait_until(lambda: there.reason(key.api_key) == "ok")
        there.call("flush_usage", "60 seconds")
        wait_until(lambda: count(there, "waiting") == 0)
        found = stored(db)
        assert len(set(found)) == len(found)
        assert set(before + made) <= set(found)
        assert stored(there) == []
        assert not list((subscriber.data / "pg_stat").glob("keysmith_usage.*"))
        db.session.close()
        there.session.close()


def test_a_subscriber_that_is_killed_is_reported():
    with pair() as (publisher, subscriber, db, there):
        key = usable(db, there)
        there.call("flush_usage")
        before = stored(db)
        db.session.close()
        publisher.stop()
        requests(there, key, 10)
        there.session.close()
        subscriber.kill()
        subscriber.start_after_kill()
        publisher.start()
        db, there = session(publisher), session(subscriber)
        made = requests(there, key, 5)
        wait_until(lambda: set(made) <= set(stored(db)))
        assert stored(db) == sorted(before + made)
        lost = db.rows("SELECT lost_at_most FROM keysmith_private.usage_incarnation"
                       " WHERE primary_since IS NULL AND lost_at_most IS NOT NULL")
        assert len(lost) == 1
        db.session.close()
        there.session.close()


def test_one_that_is_no_subscriber_any_more_stores_its_own():
    """After a migration: also what waits, and what sessions know."""
    with pair() as (publisher, subscriber, db, there):
        key = usable(db, there)
        there.call("flush_usage")
        before = stored(db)
        db.session.close()
        publisher.stop()
        made = requests(there, key, 10)
        there.rows("ALTER SUBSCRIPTION keys DISABLE")
        there.rows("ALTER SUBSCRIPTION keys SET (slot_name = NONE)")
        there.rows("DROP SUBSCRIPTION keys")
        made += requests(there, key, 10)
        there.call("flush_usage", "60 seconds")
        assert stored(there) == sorted(made)
        assert status(there)["mode"] == "shared memory"
        publisher.start()
        db = session(publisher)
        assert stored(db) == before
        db.session.close()


def test_one_that_becomes_a_subscriber_hands_over_from_then_on():
    with pair() as (publisher, _, db, there):
        there.rows("ALTER SUBSCRIPTION keys DISABLE")
        there.rows("ALTER SUBSCRIPTION keys SET (slot_name = NONE)")
        there.rows("DROP SUBSCRIPTION keys")
        key = there.mint()
        own = requests(there, key, 5)
        there.call("flush_usage")
        assert stored(there) == sorted(own)
        there.rows("TRUNCATE keysmith_private.tenant, keysmith_private.key, keysmith_private.heartbeat,"
                   " keysmith_private.keyspace CASCADE")
        db.rows("SELECT pg_drop_replication_slot('keys')")
        there.rows(f"CREATE SUBSCRIPTION keys CONNECTION '{publisher.dsn()}' PUBLICATION keys")
        made = []
        key = db.mint()
        wait_until(lambda: (v := there.verify(key.api_key)) and made.append(str(v.request_id)) or v.ok)
        made += requests(there, key, 5)
        there.call("flush_usage", "60 seconds")
        assert set(made[-5:]) <= set(stored(db))
        assert stored(there) == sorted(own)


def test_usage_conninfo_says_how_it_is_sent():
    with pair() as (publisher, subscriber, db, there):
        key = usable(db, there)
        there.call("flush_usage")
        db.rows("CREATE ROLE sender LOGIN REPLICATION")
        db.rows("GRANT USAGE ON SCHEMA keysmith TO sender")
        subscriber.configure(keysmith__usage_conninfo=f"host={publisher.dir} port={publisher.port} user=sender")
        there.rows("SELECT pg_reload_conf()")
        wait_until(lambda: there.value("SHOW keysmith.usage_conninfo"))
        db.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'keysmith usage%'")
        made = requests(there, key, 3)
        wait_until(lambda: "permission denied" in str(status(there)["last_error"]))
        db.rows("GRANT EXECUTE ON FUNCTION keysmith.usage_collect TO sender")
        there.call("flush_usage", "60 seconds")
        assert set(made) <= set(stored(db))
        subscriber.configure(keysmith__usage_conninfo="off")
        there.rows("SELECT pg_reload_conf()")
        wait_until(lambda: there.value("SHOW keysmith.usage_conninfo") == "off")
        before = count(there, "not_logged")
        requests(there, key, 2)
        there.rows("SELECT 1")
        assert count(there, "not_logged") == before + 2
        assert status(there)["mode"] == "not logged: the database is a subscriber that hands over nothing"


def forget_connection(db):
    db.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'keysmith usage%'")


def test_only_a_superuser_says_where_it_is_sent(servers):
    """The worker connects as the server's user, whom a server may trust. From PostgreSQL 16 on, others
    may own subscriptions, and change how these connect."""
    _, _, db, there = servers
    key = usable(db, there)
    there.call("flush_usage")
    (owner,) = there.row("SELECT subowner::regrole::text FROM pg_subscription")
    there.rows("CREATE ROLE weak SUPERUSER; ALTER SUBSCRIPTION keys OWNER TO weak; ALTER ROLE weak NOSUPERUSER")
    try:
        forget_connection(db)
        before = stored(db)
        made = requests(there, key, 3)
        wait_until(lambda: "no subscription of a superuser" in str(status(there)["last_error"]))
        assert stored(db) == before
    finally:
        there.rows(f"ALTER SUBSCRIPTION keys OWNER TO {owner}; DROP ROLE weak")
    there.call("flush_usage", "60 seconds")
    assert stored(db) == sorted(before + made)


def test_a_role_that_the_database_sets_does_not_matter(servers):
    _, _, db, there = servers
    key = usable(db, there)
    there.call("flush_usage")
    there.rows("CREATE ROLE weak; ALTER DATABASE postgres SET role = weak")
    try:
        there.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                   " WHERE backend_type = 'keysmith usage worker'")
        wait_until(lambda: status(there)["worker_pid"] is None)
        before = stored(db)
        made = requests(there, key, 3)
        there.call("flush_usage")
        assert stored(db) == sorted(before + made)
        assert "denied" not in str(status(there)["last_error"])
    finally:
        there.rows("ALTER DATABASE postgres RESET role; DROP ROLE weak")


def test_a_subscriber_takes_no_usage_of_others(servers):
    _, _, _, there = servers
    message = there.refused("KS409", "usage_collect", "somebody", 1, 1, True, 0, b"", 0, b"", b"")
    assert "publisher" in message


def test_a_standby_of_a_subscriber_sends_to_the_publisher():
    with pair(subscriber={"max_wal_senders": 6}, publisher={"max_wal_senders": 20}) as (
            _, subscriber, db, there):
        key = usable(db, there)
        there.call("flush_usage")
        standby = subscriber.backup("standby", 5433)
        standby.configure(cluster_name="replica")
        try:
            standby.start()
            replica = session(standby)
            wait_until(lambda: replica.reason(key.api_key) == "ok")
            made = requests(replica, key, 5)
            replica.call("flush_usage", "60 seconds")
            assert set(made) <= set(stored(db))
            wait_until(lambda: count(replica, "waiting") == 0)
            replica.session.close()
        finally:
            standby.remove()
