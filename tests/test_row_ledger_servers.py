"""Ledgers on standbys, in promoted copies, after crashes, and on subscribers."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from cluster import running
from conftest import session, wait_until
from ledgers import (CHANGED, DIFFERENCE, QUIET, assert_deletions_are_noticed, assert_right, behind_its_back, count, kept_head,
                     more,
                     problems)
from subscribers import FAST, is_ready
from test_nodes import promote
from test_row_ledger_sessions import write
from threats import FOREIGN

SETUP = """
    CREATE TABLE t (id int PRIMARY KEY, v text, n int DEFAULT 0);
    INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 10) i;
    SELECT keysmith.ledger('t')"""


@pytest.fixture
def primary():
    with running("primary", max_wal_senders=6, **QUIET) as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.session.execute(SETUP)
        yield cluster, db
        db.session.close()


@pytest.fixture
def pair(primary):
    """A primary and a standby."""
    cluster, db = primary
    standby = cluster.backup("standby", 5433)
    try:
        standby.start()
        wait_until(lambda: db.one("wait_for_replay")[0] == 1)
        there = session(standby)
        yield standby, db, there
        there.session.close()
    finally:
        standby.remove()


def replay(db):
    """Standbys have all that is committed."""
    position = db.value("SELECT pg_current_wal_insert_lsn()")
    wait_until(lambda: db.rows("SELECT FROM pg_stat_replication WHERE replay_lsn >= %s::pg_lsn", position))


def test_a_standby_has_the_heads_of_its_primary(pair):
    _, db, there = pair
    heads = [kept_head(db)]
    db.rows("INSERT INTO t VALUES (11); DELETE FROM t WHERE id = 1")
    heads.append(kept_head(db))
    replay(db)
    assert kept_head(there) == heads[1]
    assert problems(there, heads=heads) == []
    # It closes no block.
    db.rows("UPDATE t SET v = 'x'")
    replay(db)
    assert kept_head(there) == heads[1]
    assert problems(there, heads=heads) == []
    with there.session.transaction():
        there.rows("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert problems(there) == []
        heads.append(kept_head(db))
        db.rows("INSERT INTO t VALUES (12)")
        replay(db)
        assert problems(there, heads=heads[:2]) == []
    behind_its_back(db, "UPDATE t SET v = 'y' WHERE id = 5")
    replay(db)
    assert problems(there, heads=heads) == problems(db, heads=heads) == [CHANGED]


def test_a_standby_checks_while_the_primary_writes(pair):
    _, db, there = pair
    is_over, checks = threading.Event(), []

    def check():
        while not is_over.is_set() or not checks:
            try:
                assert problems(there) == []
                checks.append(kept_head(there)["position"])
            except psycopg.errors.SerializationFailure:
                # A conflict with recovery, as in any query.
                there.session.rollback()

    with ThreadPoolExecutor(1) as pool:
        checking = pool.submit(check)
        try:
            for seed in range(10):
                write(db, "READ COMMITTED", seed, 30)
                kept_head(db)
        finally:
            is_over.set()
        checking.result()
    assert checks == sorted(checks)
    replay(db)
    assert problems(there) == problems(db) == []


def test_a_standby_that_is_promoted(pair):
    """Both go on, each with its own ledger. What one writes is no evidence for the other."""
    standby, db, there = pair
    heads = [kept_head(db)]
    db.rows("INSERT INTO t VALUES (11)")
    replay(db)
    promote(standby)
    assert problems(there, heads=heads) == []
    before = {row.difference for row in there.rows(f"SELECT difference FROM {DIFFERENCE}")}
    there.rows("UPDATE t SET v = 'x'")
    # Its transactions get ahead of those here.
    for _ in range(20):
        there.rows("SELECT pg_current_xact_id()")
    there.rows("INSERT INTO t VALUES (60)")
    made = there.rows(f"SELECT * FROM {DIFFERENCE} WHERE difference <> ALL (%s)", list(before))
    last = max(made, key=lambda row: row.difference)
    assert_right(there)
    assert problems(there, heads=[*heads, kept_head(there)]) == []
    behind_its_back(db, "INSERT INTO t VALUES (60)")
    db.rows(f"INSERT INTO {DIFFERENCE} VALUES (%s, %s)", last.ledger_id, last.difference)
    found = problems(db)
    assert found[-1] == more(1) and found[0].partition(" transaction ")[2].partition(" ")[2] == FOREIGN.partition(" N ")[2]
    behind_its_back(db, "DELETE FROM t WHERE id = 60")
    db.rows(f"DELETE FROM {DIFFERENCE} WHERE difference = %s", last.difference)
    assert_right(db)


def test_a_server_that_was_restored_to_an_earlier_time(primary):
    """From a copy of its files, as in a recovery to a point in time. A head that was kept later shows it."""
    cluster, db = primary
    db.rows("INSERT INTO t VALUES (11)")
    heads = [kept_head(db)]
    copy = cluster.backup("copy", 5433)
    try:
        db.rows("DELETE FROM t WHERE id = 11; UPDATE t SET v = 'new'")
        later = kept_head(db)
        (copy.data / "standby.signal").unlink()
        (copy.data / "postgresql.auto.conf").write_text("")
        copy.start()
        there = session(copy)
        assert problems(there, heads=heads) == []
        assert [text.partition(":")[0] for text in problems(there,
                                                            heads=later)] == [f"block {later['position']}, whose head was kept, "
                                                                              f"is not there"]
        # A block of another history has its number.
        there.rows("UPDATE t SET v = 'other'")
        assert kept_head(there)["position"] == later["position"]
        assert problems(there) == []
        assert problems(there, heads=[*heads, later]) == [f"block {later['position']} is not the one whose head was kept"]
        there.session.close()
    finally:
        copy.remove()


# Crashes

def test_a_server_that_is_killed_while_many_write(primary):
    cluster, db = primary
    db.session.execute("BEGIN; INSERT INTO t VALUES (900); DELETE FROM t WHERE id = 10; PREPARE TRANSACTION 'kept'")
    db.session.execute("BEGIN; INSERT INTO t VALUES (901); PREPARE TRANSACTION 'dropped'")
    heads = [kept_head(db)]
    for round in range(2):
        sessions = [session(cluster) for _ in range(5)]
        closer = session(cluster)
        with ThreadPoolExecutor(6) as pool:
            running_ones = [pool.submit(write, one, "READ COMMITTED", (round, n).__hash__(), 100_000) for n,
                            one in enumerate(sessions)]
            for _ in range(20):
                heads.append(kept_head(closer))
                time.sleep(0.02)  # not checked: writers go on meanwhile
            cluster.kill()
            for one in running_ones:
                with pytest.raises(psycopg.OperationalError):
                    one.result()
        cluster.start_after_kill()
        db = session(cluster)
        # Heads that were returned are of blocks that were committed.
        assert problems(db, heads=heads) == []
        assert_right(db)
    assert heads[-1]["position"] > heads[0]["position"]
    db.rows("COMMIT PREPARED 'kept'")
    db.rows("ROLLBACK PREPARED 'dropped'")
    assert db.value("SELECT count(*) FROM t WHERE id IN (900, 901)") == 1
    assert problems(db, heads=heads) == []
    assert_right(db)
    assert_deletions_are_noticed(db)
    db.session.close()


# Subscribers

TABLES = {
    "a table": "CREATE TABLE t (id int, k int, v text, PRIMARY KEY (id, k))",
    "partitions": """CREATE TABLE t (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
                     CREATE TABLE one PARTITION OF t FOR VALUES IN (1); CREATE TABLE rest PARTITION OF t DEFAULT""",
}


@pytest.fixture(scope="module")
def logical():
    with running("logical", **(FAST | {"max_wal_senders": 10, "logical_decoding_work_mem": "64kB"})) as cluster:
        yield cluster


@pytest.mark.parametrize("begins", ["before", "after"])
@pytest.mark.parametrize("shape", TABLES)
def test_a_subscriber_has_a_ledger_of_its_own(logical, shape, begins):
    """It begins before the first copy of the rows, or after it."""
    for name in ("publisher", "subscriber"):
        logical.execute(f"CREATE DATABASE {name}")
    db, there = session(logical, "publisher"), session(logical, "subscriber")
    try:
        for one, table in ((db, TABLES["a table"]), (there, TABLES[shape])):
            one.rows("CREATE EXTENSION keysmith")
            one.session.execute(table)
        db.session.execute("INSERT INTO t SELECT i, i % 3, 'v' FROM generate_series(1, 100) i; SELECT keysmith.ledger('t'); "
                           "CREATE PUBLICATION p FOR TABLE t")
        db.rows("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
        if begins == "before":
            there.call("ledger", "t")
        there.rows(f"CREATE SUBSCRIPTION s CONNECTION '{logical.dsn('publisher')}' PUBLICATION p WITH (create_slot = false, "
                   f"slot_name = 's', streaming = on)")
        wait_until(lambda: is_ready(there))
        if begins == "after":
            there.call("ledger", "t")
        assert_right(there)
        acts = [
            "INSERT INTO t SELECT i, i % 3, 'w' FROM generate_series(101, 300) i", "UPDATE t SET v = 'x' WHERE id % 2 = 0",
            "UPDATE t SET k = 2 - k, id = id + 1000 WHERE id % 7 = 0", "DELETE FROM t WHERE id % 5 = 0",
            "BEGIN; INSERT INTO t VALUES (5000, 1); SAVEPOINT a; DELETE FROM t; ROLLBACK TO a; "
            "UPDATE t SET v = 'y' WHERE id = 5000; COMMIT",
            # So large that it is sent before its end.
            "BEGIN; INSERT INTO t SELECT i, 0, 's' FROM generate_series(10000, 13000) i; SAVEPOINT a; UPDATE t SET v = 't'; "
            "ROLLBACK TO a; DELETE FROM t WHERE id > 12000; COMMIT",
            "BEGIN; UPDATE t SET v = 'never'; ROLLBACK", "TRUNCATE t",
            # Values that later updates don't send.
            "INSERT INTO t SELECT i, i % 3, string_agg(md5(random()::text), '') FROM generate_series(1, 4) i, "
            "generate_series(1, 5000) GROUP BY i", "UPDATE t SET id = id + 5"]
        for act in acts:
            db.session.execute(act)
            rows = "SELECT * FROM t ORDER BY id"
            wait_until(lambda: there.rows(rows) == db.rows(rows))
            assert_right(there)
            assert_right(db)
        assert kept_head(there)["head"] != kept_head(db)["head"]
        assert_deletions_are_noticed(there)
        # A session that only calls itself a replica is not recorded.
        behind_its_back(there, "UPDATE t SET v = 'forged' WHERE id = 6")
        assert problems(there) == [CHANGED]
    finally:
        if there.rows("SELECT FROM pg_subscription"):
            there.rows("ALTER SUBSCRIPTION s DISABLE; ALTER SUBSCRIPTION s SET (slot_name = NONE); DROP SUBSCRIPTION s")
        there.session.close()
        wait_until(lambda: not db.value("SELECT bool_or(active) FROM pg_replication_slots"))
        db.rows("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
        db.session.close()
        for name in ("publisher", "subscriber"):
            logical.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_triggers_that_came_with_the_definition_of_a_table(logical):
    """A dump without data has the triggers of the publisher's ledger. A subscriber still has a ledger of its own."""
    logical.execute("CREATE DATABASE original")
    logical.execute("CREATE DATABASE defined")
    try:
        db = session(logical, "original")
        db.rows("CREATE EXTENSION keysmith")
        db.session.execute(SETUP)
        logical.psql(logical.program("pg_dump", "--schema-only", dbname="original").stdout, dbname="defined")
        there = session(logical, "defined")
        assert there.value("SELECT count(*) FROM pg_trigger WHERE tgname ~ '^~keysmith_3'") == 5
        there.call("ledger", "t")
        there.rows("INSERT INTO t VALUES (1), (2); DELETE FROM t WHERE id = 2")
        assert count(there, "t") == 1
        assert_right(there)
        assert_deletions_are_noticed(there)
        there.session.close()
        db.session.close()
    finally:
        for name in ("original", "defined"):
            logical.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
