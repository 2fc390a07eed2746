"""Concurrent sessions."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.types.json import Jsonb

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


@pytest.mark.parametrize("isolation", ISOLATION)
@pytest.mark.parametrize("ending, act", [
    ("revoke(%(acting)s)", "mint('acme')"), ("suspend_tenant('acme')", "mint('acme')"),
    ("revoke(%(acting)s)", "regenerate('acme', 'left')"), ("revoke(%(acting)s)", "rotate(%(other)s)"),
    ("revoke(%(acting)s)", "alter_key(%(other)s, '{\"label\": \"left\"}')"), ("revoke(%(acting)s)", "enable(%(other)s)")])
def test_an_act_that_waits_is_over_with_its_key(db, connect, database, ending, act, isolation):
    """A revocation holds from its commit on, also for acts that began before."""
    db.call("alter_keyspace", "default", Jsonb({"max_active_keys": 9}))
    db.tenant()
    acting, other = db.mint(label="acting"), db.mint(label="other")
    ids = {"acting": acting.key_id, "other": other.key_id}
    ends, acts = (database(connect(autocommit=False)) for _ in range(2))
    acts.rows(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
    assert acts.verify(acting.api_key, sign_in=True).ok
    ends.mint()
    ends.call("disable", other.key_id)
    ends.call("enable", other.key_id)
    ends.session.execute(f"SELECT keysmith.{ending}", ids)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(acts.session.execute, f"SELECT keysmith.{act}", ids)
        waits(db)
        ends.session.commit()
        with pytest.raises(psycopg.Error) as error:
            waiting.result(60)
    assert error.value.sqlstate in ({"KS401"} if isolation == "READ COMMITTED" else {"KS401", "40001"})
    acts.session.rollback()
    keys = db.rows("SELECT label FROM keysmith.keys WHERE key_id <> ALL (%s) AND label IS NOT NULL",
                   [acting.key_id, other.key_id])
    assert not keys and db.value("SELECT label FROM keysmith.keys WHERE key_id = %s", other.key_id) == "other"


@pytest.mark.parametrize("act", ["regenerate('acme')", "mint('acme')"])
def test_a_key_may_end_itself_in_an_act_that_waits(db, connect, database, act):
    db.call("alter_keyspace", "default", Jsonb({"max_active_keys": 2, "at_max": "replace"}))
    db.tenant()
    key = db.mint()
    holds, acts = (database(connect(autocommit=False)) for _ in range(2))
    assert acts.verify(key.api_key, sign_in=True).ok
    holds.mint(label="second")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(acts.session.execute, f"SELECT keysmith.{act}")
        waits(db)
        holds.session.commit()
        waiting.result(60)
    acts.session.commit()
    assert db.status_of(key.key_id) == "revoked"


def test_an_open_transaction_of_an_issuer_keeps_no_administrator_waiting(db, connect, database):
    """Rows are locked for changes of their columns: here only the key's row is changed."""
    db.call("alter_keyspace", "default", Jsonb({"max_active_keys": 9}))
    db.call("define_role", "default", "r", ["*"])
    db.tenant()
    db.call("set_member", "acme", "ann", "r")
    issuer = database(connect(autocommit=False))
    held = issuer.mint(owner="ann", role="r", label="held")
    issuer.one("regenerate", "acme")
    db.rows("SET lock_timeout = '60s'")
    db.call("alter_tenant", "acme", Jsonb({"plan": "pro"}))
    db.call("set_member", "acme", "bob", "r")
    db.call("set_member", "acme", "ann", "r")
    db.call("define_role", "default", "r", ["a"])
    db.call("remove_member", "acme", "ann")
    db.call("suspend_tenant", "acme")
    db.call("alter_keyspace", "default", Jsonb({"label_length": 50}))
    issuer.session.commit()
    db.call("resume_tenant", "acme")
    assert db.reason(held.api_key) == "owner_gone"


def test_acts_wait_for_others_no_longer_than_a_bound(db, connect, database):
    db.tenant()
    key = db.mint()
    holder = database(connect(autocommit=False))
    holder.call("disable", key.key_id)
    # The session's own timeout, or else ten seconds.
    db.rows("SET lock_timeout = '100ms'")
    db.refused("55P03", "revoke", key.key_id)
    db.rows("RESET lock_timeout")
    db.refused("55P03", "revoke", key.key_id)
    assert db.value("SHOW lock_timeout") == "0"
    holder.session.rollback()
    db.call("revoke", key.key_id)


def test_access_is_given_by_one_at_a_time(cluster, dbname, db, connect, database):
    cluster.execute("CREATE ROLE one_of_two; CREATE ROLE two_of_two")
    try:
        first, second = (database(connect(autocommit=False)) for _ in range(2))
        first.call("grant_access", "one_of_two", "admin")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(second.call, "grant_access", "two_of_two", "admin")
            waits(db)
            # Statements of other roles on a table that they can name must not be waited for.
            db.rows("SET lock_timeout = '60s'; LOCK TABLE keysmith_private.access IN ROW EXCLUSIVE MODE")
            first.session.commit()
            waiting.result(30)
        second.session.commit()
        for role in ("one_of_two", "two_of_two"):
            assert db.value("SELECT has_function_privilege(%s, 'keysmith.revoke(uuid, text)', 'EXECUTE')", role)
    finally:
        cluster.execute("DROP OWNED BY one_of_two, two_of_two", dbname)
        cluster.execute("DROP ROLE one_of_two; DROP ROLE two_of_two")


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
        waiting = pool.submit(second.refused, "KS409", "rotate", key.key_id)
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
    """Eight sessions verify a key while a ninth revokes it: every decision that starts after the
    commit has returned refuses it."""
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
            let_in = session.value("SELECT count(*) FROM generate_series(1, 3)"
                                   " WHERE (keysmith.verify(%s)).ok", keys[index].api_key)
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


def test_a_member_removed_meanwhile_gets_no_key_that_is_good(db, connect, database):
    db.call("define_role", "default", "r", ["*"])
    db.tenant()
    db.call("set_member", "acme", "ann", "r")
    removing, minting = (database(connect(autocommit=False)) for _ in range(2))
    removing.call("remove_member", "acme", "ann")
    key = minting.mint(owner="ann")
    assert minting.verify(key.api_key).ok
    removing.session.commit()
    assert minting.reason(key.api_key) == "owner_gone"
    minting.session.commit()
    assert db.reason(key.api_key) == "owner_gone"
    db.refused("KS404", "mint", "acme", owner="ann")


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
