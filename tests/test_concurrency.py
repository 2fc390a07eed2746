"""Sessions that act at once."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from conftest import wait_until

ISOLATION = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]


def waits(db, count=1):
    """Returns once that many other sessions wait for a lock."""
    wait_until(lambda: db.value(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND wait_event_type = 'Lock'") >= count)


@pytest.mark.parametrize("isolation", ISOLATION)
def test_two_mints_at_the_bound(db, connect, database, isolation):
    db.call("create_keyspace", "one", max_active_keys=1)
    db.tenant(keyspace="one")
    first, second = (database(connect(autocommit=False)) for _ in range(2))
    for session in (first, second):
        session.rows(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
        session.rows("SELECT count(*) FROM keysmith.keys")
    first.mint(keyspace="one")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(second.refused, "KS409", "mint", "acme", keyspace="one")
        waits(db)
        first.session.commit()
        waiting.result(60)
    assert len(db.call("list_keys", "acme", "one")) == 1


@pytest.mark.parametrize("at_max", ["error", "replace"])
def test_many_mints_at_the_bound(db, connect, database, at_max):
    db.call("create_keyspace", "k", max_active_keys=3, at_max=at_max)
    db.tenant(keyspace="k")
    refusals = []

    def mint_some(session):
        for _ in range(10):
            try:
                session.mint(keyspace="k")
            except psycopg.Error as error:
                refusals.append(error.sqlstate)

    sessions = [database(connect()) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(mint_some, sessions))
    assert len(db.call("list_keys", "acme", "k")) == 3
    assert refusals == (["KS409"] * 77 if at_max == "error" else [])


def test_of_two_rotations_one_wins(db, connect, database):
    db.tenant()
    key = db.mint()
    first, second = (database(connect(autocommit=False)) for _ in range(2))
    successor = first.one("rotate", key.key_id)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(second.refused, "KS404", "rotate", key.key_id)
        waits(db)
        first.session.commit()
        waiting.result(60)
    assert [key.key_id for key in db.call("list_keys", "acme")] == [successor.key_id]


def test_of_two_regenerations_the_later_key_stands(db, connect, database):
    db.tenant()
    db.mint()
    first, second = (database(connect(autocommit=False)) for _ in range(2))
    earlier = first.one("regenerate", "acme")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(second.one, "regenerate", "acme")
        waits(db)
        first.session.commit()
        later = waiting.result(60)
        second.session.commit()
    assert not db.verify(earlier.api_key).ok and db.verify(later.api_key).ok
    assert len(db.call("list_keys", "acme")) == 1


def test_no_decision_outlives_a_revocation(db, connect, database):
    """Eight sessions verify a key while a ninth revokes it: whatever they ask once the
    commit has returned is refused."""
    db.tenant()
    rounds = 2000
    keys = db.rows("SELECT k.* FROM generate_series(1, %s) n,"
                   " LATERAL keysmith.mint('acme', label => n::text) k", rounds)
    current, revoked_until = [0], [-1]
    faults = []
    done = threading.Event()

    def verifier(session):
        while not done.is_set():
            index, limit = current[0], revoked_until[0]
            let_in = session.value("SELECT count(*) FROM generate_series(1, 20),"
                                   " LATERAL keysmith.verify(%s) v WHERE v.ok", keys[index].api_key)
            if let_in and index <= limit:
                faults.append(index)

    sessions = [database(connect()) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(verifier, session) for session in sessions]
        for index in range(rounds):
            current[0] = index
            time.sleep(0.001)
            db.call("revoke", keys[index].key_id)
            revoked_until[0] = index
        done.set()
        for verifying in running:
            verifying.result(60)
    assert faults == []


def test_the_default_keyspace_is_made_once(db, connect, database):
    sessions = [database(connect()) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda pair: pair[1].tenant(f"t{pair[0]}"), enumerate(sessions)))
    assert db.value("SELECT count(*) FROM keysmith_private.keyspace") == 1
    assert db.value("SELECT count(*) FROM keysmith_private.keyspace_prefix") == 4


def test_a_member_removed_meanwhile_gets_no_key(db, connect, database):
    db.call("define_role", "default", "r", ["*"])
    db.tenant()
    db.call("set_member", "acme", "ann", "r")
    removing, minting = (database(connect(autocommit=False)) for _ in range(2))
    removing.call("remove_member", "acme", "ann")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(minting.refused, "KS404", "mint", "acme", owner="ann")
        waits(db)
        removing.session.commit()
        waiting.result(60)


def test_the_extension_can_be_dropped_and_made_anew_under_open_sessions(db, connect, database):
    other = database(connect())
    db.tenant()
    key = db.mint()
    assert other.verify(key.api_key).ok
    db.rows("DROP EXTENSION keysmith CASCADE")
    with pytest.raises(psycopg.Error) as error:
        other.verify(key.api_key)
    assert error.value.sqlstate in ("42883", "3F000")
    db.rows("CREATE EXTENSION keysmith")
    assert other.reason(key.api_key) == "not_found"
    other.tenant()
    assert db.verify(other.mint().api_key).ok


@pytest.mark.parametrize("maintenance", [
    "REINDEX TABLE CONCURRENTLY keysmith_private.key", "REINDEX TABLE keysmith_private.key", "VACUUM FULL keysmith_private.key",
    "CLUSTER keysmith_private.key USING key_of_tenant", "ANALYZE keysmith_private.key", "REINDEX SCHEMA keysmith_private",
])
def test_maintenance_under_open_sessions(db, connect, database, maintenance):
    db.tenant()
    key = db.mint()
    other = database(connect())
    assert other.verify(key.api_key).ok
    db.rows(maintenance)
    assert other.verify(key.api_key).ok
    db.call("revoke", key.key_id)
    assert not other.verify(key.api_key).ok
