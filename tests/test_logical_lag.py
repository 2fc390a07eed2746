"""The lag guard of a subscriber: cut off from its publisher it refuses all keys."""

import psycopg
import pytest

from cluster import running
from conftest import session, wait_until
from subscribers import PUBLISHED, TABLES, pair, subscribe

GUARDED = {"keysmith__max_replica_lag": "3s"}
PUBLISHERS = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'keysmith publisher'"
BEAT = "SELECT at FROM keysmith_private.heartbeat"


def decides(db, key):
    return db.reason(key.api_key) == "ok"


def is_behind(db, key):
    return db.reason(key.api_key) == "replica_behind"


@pytest.fixture(scope="module")
def servers():
    with pair(publisher=GUARDED, subscriber=GUARDED) as all:
        yield all


def test_it_decides_while_the_heartbeat_comes(servers):
    _, _, db, there = servers
    key = db.mint()
    wait_until(lambda: decides(there, key))
    before = there.value(BEAT)
    wait_until(lambda: there.value(BEAT) > before)
    wait_until(lambda: decides(there, key))
    assert db.reason(key.api_key) == "ok"
    db.call("revoke", key.key_id)
    wait_until(lambda: there.reason(key.api_key) == "revoked")


def test_it_refuses_while_the_subscription_is_disabled(servers):
    _, _, db, there = servers
    key = db.mint()
    wait_until(lambda: decides(there, key))
    alarms = "SELECT alarm FROM keysmith.alarms WHERE raised AND alarm = 'heartbeat_old'"
    wait_until(lambda: there.rows(alarms) == [])
    there.rows("ALTER SUBSCRIPTION keys DISABLE")
    wait_until(lambda: is_behind(there, key))
    assert there.rows(alarms) == [("heartbeat_old",)]
    assert there.value("SELECT value FROM keysmith.metrics WHERE name = 'keysmith_heartbeat_age_seconds'") > 0
    verdict = there.verify(key.api_key)
    assert (verdict.status, verdict.code) == (503, "unavailable")
    assert any("fallen behind" in row.saw for row in there.call("explain_verify", key.api_key))
    db.call("revoke", key.key_id)
    revoked = db.value("SELECT clock_timestamp()")
    wait_until(lambda: db.value("SELECT clock_timestamp() > %s + interval '3 s'", revoked))
    there.rows("ALTER SUBSCRIPTION keys ENABLE")
    # Every heartbeat from before the revocation is too old by now.
    reasons = set()
    wait_until(lambda: reasons.add(there.reason(key.api_key)) or "revoked" in reasons)
    assert reasons == {"replica_behind", "revoked"}


def test_an_identity_in_force_ends_too(servers):
    _, over_there, db, there = servers
    key = db.mint()
    wait_until(lambda: decides(there, key))
    other = session(over_there)

    def outlives_a_beat():
        """Unless this machine is so busy that the beat comes late."""
        other.rows("ROLLBACK")
        other.rows(f"BEGIN ISOLATION LEVEL {isolation}")
        if not other.verify(key.api_key, sign_in=True).ok:
            return False
        before = there.value(BEAT)
        wait_until(lambda: there.value(BEAT) > before)
        try:
            return other.one("current_tenant") == ("acme",)
        except psycopg.Error:
            return False

    for isolation in ("READ COMMITTED", "REPEATABLE READ"):
        wait_until(outlives_a_beat)
        there.rows("ALTER SUBSCRIPTION keys DISABLE")
        wait_until(lambda: is_behind(there, key))
        with pytest.raises(psycopg.Error, match="has fallen behind") as error:
            other.one("current_tenant")
        assert error.value.sqlstate == "KS401"
        other.rows("ROLLBACK")
        there.rows("ALTER SUBSCRIPTION keys ENABLE")
    other.session.close()
    wait_until(lambda: decides(there, key))


def test_after_a_start_it_waits_for_the_first_heartbeat():
    with pair(publisher=GUARDED, subscriber=GUARDED) as (publisher, subscriber, db, there):
        key = db.mint()
        wait_until(lambda: decides(there, key))
        db.session.close()
        there.session.close()
        publisher.stop()
        subscriber.restart()
        there = session(subscriber)
        wait_until(lambda: is_behind(there, key))
        publisher.start()
        wait_until(lambda: decides(there, key))
        # As well after the crash of either.
        publisher.kill()
        wait_until(lambda: is_behind(there, key))
        there.session.close()
        subscriber.kill()
        subscriber.start_after_kill()
        there = session(subscriber)
        assert is_behind(there, key)
        publisher.start_after_kill()
        wait_until(lambda: decides(there, key))
        there.session.close()


def test_a_conflict_that_stops_the_apply_is_a_reason_to_refuse(servers):
    _, _, db, there = servers
    key = db.mint()
    wait_until(lambda: decides(there, key))
    there.rows("SET session_replication_role = replica")
    there.rows("INSERT INTO keysmith_private.scope (keyspace, scope) VALUES ('default', 'mine')")
    try:
        db.call("define_scope", "default", "mine")
        wait_until(lambda: is_behind(there, key))
    finally:
        there.rows("DELETE FROM keysmith_private.scope WHERE scope = 'mine'")
        there.rows("RESET session_replication_role")
    wait_until(lambda: decides(there, key))


def test_a_heartbeat_counts_only_with_the_tables_that_it_vouches_for(servers):
    """If it comes by another subscription, or a table is still being copied, it says nothing."""
    publisher, _, db, there = servers
    key = db.mint()
    wait_until(lambda: decides(there, key))
    db.rows("ALTER PUBLICATION keys DROP TABLE keysmith_private.heartbeat;"
            "CREATE PUBLICATION beats FOR TABLE keysmith_private.heartbeat")
    there.rows("ALTER SUBSCRIPTION keys REFRESH PUBLICATION")
    assert is_behind(there, key)
    there.rows(f"CREATE SUBSCRIPTION beats CONNECTION '{publisher.dsn()}' PUBLICATION beats")
    before = there.value(BEAT)
    wait_until(lambda: there.value(BEAT) > before)
    assert is_behind(there, key)
    there.rows("DROP SUBSCRIPTION beats")
    db.rows("DROP PUBLICATION beats; ALTER PUBLICATION keys ADD TABLE keysmith_private.heartbeat")
    there.rows("ALTER SUBSCRIPTION keys REFRESH PUBLICATION")
    wait_until(lambda: decides(there, key))


def test_a_heartbeat_of_a_clock_far_ahead_says_nothing(servers):
    _, _, db, there = servers
    key = db.mint()
    wait_until(lambda: decides(there, key))
    there.rows("ALTER SUBSCRIPTION keys DISABLE")
    wait_until(lambda: is_behind(there, key))
    there.rows("UPDATE keysmith_private.heartbeat SET at = clock_timestamp() + interval '1 hour'")
    assert is_behind(there, key)
    there.rows("ALTER SUBSCRIPTION keys ENABLE")
    wait_until(lambda: decides(there, key))


def test_only_the_owner_can_write_it(servers):
    _, over_there, _, there = servers
    there.rows("CREATE ROLE somebody LOGIN")
    with over_there.connect(user="somebody") as other:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            other.execute("UPDATE keysmith_private.heartbeat SET at = now()")
    there.rows("DROP ROLE somebody")


def test_other_databases_of_the_server_are_not_guarded(servers):
    _, over_there, _, there = servers
    there.rows("CREATE DATABASE own")
    own = session(over_there, "own")
    own.rows("CREATE EXTENSION keysmith")
    own.tenant()
    key = own.mint()
    there.rows("ALTER SUBSCRIPTION keys DISABLE")
    before = there.value(BEAT)
    wait_until(lambda: there.value("SELECT clock_timestamp() > %s + interval '4 s'", before))
    assert decides(own, key)
    there.rows("ALTER SUBSCRIPTION keys ENABLE")
    own.session.close()
    there.rows("DROP DATABASE own WITH (FORCE)")


def test_it_decides_again_when_it_is_no_subscriber_any_more():
    """After a migration by logical replication."""
    with pair(publisher=GUARDED, subscriber=GUARDED) as (publisher, subscriber, db, there):
        key = db.mint()
        wait_until(lambda: decides(there, key))
        there.rows("ALTER SUBSCRIPTION keys DISABLE")
        wait_until(lambda: is_behind(there, key))
        there.rows("DROP SUBSCRIPTION keys")
        assert decides(there, key)
        # The publisher has nobody to send to.
        wait_until(lambda: not publisher.execute(PUBLISHERS))
        # And goes on when there is somebody again.
        there.rows("TRUNCATE " + ", ".join(f"keysmith_private.{table}" for table in TABLES) + " CASCADE")
        subscribe(publisher, there)
        wait_until(lambda: decides(there, key))


def test_a_subscription_without_a_first_copy_hears_it():
    with pair(publisher=GUARDED, subscriber=GUARDED) as (publisher, _, db, there):
        key = db.mint()
        wait_until(lambda: decides(there, key))
        there.rows("DROP SUBSCRIPTION keys")
        there.rows("UPDATE keysmith_private.heartbeat SET at = 'epoch'")
        there.rows(f"CREATE SUBSCRIPTION keys CONNECTION '{publisher.dsn()}' PUBLICATION keys"
                   " WITH (copy_data = false)")
        wait_until(lambda: decides(there, key))


@pytest.mark.parametrize("published", ["FOR ALL TABLES", "FOR TABLES IN SCHEMA keysmith_private"])
def test_every_kind_of_publication_has_it(published):
    with pair(published, publisher=GUARDED, subscriber=GUARDED) as (_, _, db, there):
        key = db.mint()
        wait_until(lambda: decides(there, key))


def test_no_heartbeat_is_written_where_nobody_receives_it():
    with running("publisher", wal_level="logical", **GUARDED) as publisher:
        db = session(publisher)
        db.rows("CREATE EXTENSION keysmith")
        db.rows(f"CREATE PUBLICATION keys {PUBLISHED}")
        db.rows("CREATE DATABASE other")
        beats = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'keysmith heartbeat'"
        wait_until(lambda: db.rows(beats))
        # A slot alone, of a database without the extension.
        publisher.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')", "other")
        before = db.value(BEAT)
        db.rows("SELECT pg_create_logical_replication_slot('t', 'pgoutput')")
        wait_until(lambda: db.value(BEAT) > before)
        db.rows("DROP PUBLICATION keys")
        wait_until(lambda: not publisher.execute(PUBLISHERS))
        db.rows("SELECT pg_drop_replication_slot('t')")
        # No worker keeps a database from being dropped.
        db.rows("DROP DATABASE other")
        db.session.close()


def test_the_heartbeat_goes_on_where_nobody_has_connected_yet():
    with running("idle", wal_level="logical", max_wal_senders=2, keysmith__max_replica_lag="1s") as idle:
        # For replication, so without a database.
        with psycopg.connect(f"host={idle.dir} port={idle.port} user=postgres replication=true",
                             autocommit=True) as connection:
            def end():
                return connection.pgconn.exec_(b"IDENTIFY_SYSTEM").get_value(0, 2)

            for _ in range(3):
                before = end()
                wait_until(lambda: end() != before)
        log = idle.log.read_text()
        assert "FATAL" not in log and '"keysmith heartbeat"' not in log


def test_without_a_free_worker_the_server_goes_on():
    # PostgreSQL's own launcher and the heartbeat take both.
    with running("full", wal_level="logical", max_worker_processes=2, keysmith__max_replica_lag="1s") as full:
        full.execute("SELECT pg_create_logical_replication_slot('some', 'pgoutput')")
        wait_until(lambda: "no worker is free to send heartbeats" in full.log.read_text()
                   or "terminated by signal" in full.log.read_text())
        full.execute("SELECT pg_drop_replication_slot('some')")
        assert "terminated by signal" not in full.log.read_text()


def test_a_worker_that_is_ended_is_replaced(servers):
    publisher, _, db, there = servers
    key = db.mint()
    (worker,), = wait_until(lambda: publisher.execute(PUBLISHERS))
    db.rows("SELECT pg_terminate_backend(%s)", worker)
    wait_until(lambda: publisher.execute(PUBLISHERS) not in ([], [(worker,)]))
    # Nor is there a second one if the worker is ended that starts them.
    db.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE backend_type = 'keysmith heartbeat'")
    before = db.value(BEAT)
    wait_until(lambda: db.value(BEAT) > before)
    wait_until(lambda: len(publisher.execute(PUBLISHERS)) == 1)
    wait_until(lambda: decides(there, key))


def test_a_database_that_publishes_can_be_dropped(servers):
    publisher, over_there, db, there = servers
    db.rows("CREATE DATABASE doomed")
    there.rows("CREATE DATABASE doomed")
    here, there_too = session(publisher, "doomed"), session(over_there, "doomed")
    for one in (here, there_too):
        one.rows("CREATE EXTENSION keysmith")
    here.tenant()
    here.rows(f"CREATE PUBLICATION keys {PUBLISHED}")
    subscribe(publisher, there_too, "doomed", "doomed")
    key = here.mint()
    wait_until(lambda: decides(there_too, key))
    there_too.rows("ALTER SUBSCRIPTION doomed DISABLE;")
    there_too.rows("ALTER SUBSCRIPTION doomed SET (slot_name = NONE)")
    there_too.rows("DROP SUBSCRIPTION doomed")
    here.session.close()
    there_too.session.close()
    wait_until(lambda: not db.rows("SELECT FROM pg_replication_slots WHERE database = 'doomed' AND active"))
    # The connection by which usage is handed over is closed a little later.
    wait_until(lambda: not db.rows("SELECT FROM pg_stat_activity WHERE datname = 'doomed'"
                                   " AND application_name LIKE 'keysmith usage%'"))
    db.rows("DROP DATABASE doomed")
    there.rows("DROP DATABASE doomed")


def test_a_subscriber_of_a_subscriber_goes_by_the_first_publisher():
    with pair(publisher=GUARDED, subscriber=GUARDED) as (_, middle, db, there), \
            running("last", wal_level="logical", wal_retrieve_retry_interval="100ms", **GUARDED) as last:
        key = db.mint()
        wait_until(lambda: decides(there, key))
        end = session(last)
        end.rows("CREATE EXTENSION keysmith")
        there.rows(f"CREATE PUBLICATION keys {PUBLISHED}")
        subscribe(middle, end)
        wait_until(lambda: decides(end, key))
        there.rows("ALTER SUBSCRIPTION keys DISABLE")
        wait_until(lambda: is_behind(end, key))
        there.rows("ALTER SUBSCRIPTION keys ENABLE")
        wait_until(lambda: decides(end, key))
        end.session.close()


def test_a_standby_of_a_subscriber_goes_by_both():
    with pair(publisher=GUARDED, subscriber={"max_wal_senders": 6} | GUARDED) as (_, subscriber, db, there):
        key = db.mint()
        wait_until(lambda: decides(there, key))
        standby = subscriber.backup("standby", 5433)
        try:
            standby.start()
            replica = session(standby)
            wait_until(lambda: decides(replica, key))
            there.rows("ALTER SUBSCRIPTION keys DISABLE")
            wait_until(lambda: is_behind(replica, key))
            there.rows("ALTER SUBSCRIPTION keys ENABLE")
            wait_until(lambda: decides(replica, key))
            replica.session.close()
        finally:
            standby.remove()


def test_the_heartbeat_takes_no_more_room(servers):
    """Each beat is a HOT update, which leaves nothing to the index."""
    _, _, db, there = servers
    size = "SELECT pg_total_relation_size('keysmith_private.heartbeat')"
    before = [one.value(size) for one in (db, there)]
    for one in (db, there):
        since = one.value(BEAT)
        wait_until(lambda: one.value("SELECT at > %s + interval '3 s' FROM keysmith_private.heartbeat", since))
    assert [one.value(size) for one in (db, there)] == before
