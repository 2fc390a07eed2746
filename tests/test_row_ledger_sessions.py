"""Ledgers of tables that several sessions write to, check and close at the same time."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from conftest import wait_until
from ledgers import assert_deletions_are_noticed, assert_right, behind_its_back, count, kept_head, more, problems

ISOLATION = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
WRITES = [
    "INSERT INTO t VALUES ({a}, 'new') ON CONFLICT (id) DO UPDATE SET v = t.v || 'x', n = t.n + 1",
    "INSERT INTO t VALUES ({a}, 'other'), ({b}, 'other') ON CONFLICT DO NOTHING",
    "UPDATE t SET n = n + 1 WHERE id BETWEEN {a} AND {a} + 3", "UPDATE t SET id = id + 10000 WHERE id = {a}",
    "UPDATE t SET v = v WHERE id = {b}", "DELETE FROM t WHERE id = {a} OR id = 10000 + {b}",
    "MERGE INTO t USING (VALUES ({a}), ({b})) s (id) ON t.id = s.id WHEN MATCHED AND t.n > 1 THEN DELETE "
    "WHEN MATCHED THEN UPDATE SET n = 2 WHEN NOT MATCHED THEN INSERT VALUES (s.id, 'merged')",
    "SAVEPOINT a; UPDATE t SET n = 0 WHERE id < {a}; ROLLBACK TO a; INSERT INTO t VALUES ({b} + 20000) ON CONFLICT DO NOTHING",
    "DO $$ BEGIN INSERT INTO t VALUES ({a}); RAISE 'no'; EXCEPTION WHEN OTHERS THEN DELETE FROM t WHERE id = {b}; END $$",
]
CONFLICTS = (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected, psycopg.errors.UniqueViolation,
             psycopg.errors.CardinalityViolation)


@pytest.fixture
def table(db):
    db.session.execute("CREATE TABLE t (id int PRIMARY KEY, v text, n int DEFAULT 0); "
                       "INSERT INTO t SELECT generate_series(1, 20), 'old'")
    db.call("ledger", "t")
    return db


def write(db, isolation, seed, times):
    """Random transactions. Some are rolled back, and some fail."""
    draw = random.Random(seed)
    done = 0
    for _ in range(times):
        statements = [draw.choice(WRITES).format(a=draw.randint(1, 40), b=draw.randint(1, 40)) for _ in range(draw.randint(1, 3))]
        try:
            db.session.execute(f"BEGIN ISOLATION LEVEL {isolation}; {'; '.join(statements)}; "
                               f"{draw.choice(['COMMIT'] * 4 + ['ROLLBACK'])}")
            done += 1
        except CONFLICTS:
            db.session.rollback()
    return done


def again_and_again(act, is_over):
    while True:
        was_over = is_over.is_set()
        act()
        if was_over:
            return


@pytest.mark.parametrize("isolation", ISOLATION)
def test_many_write_while_others_check_and_close(table, connect, database, isolation):
    is_over = threading.Event()
    writers, checker, closers = ([database(connect()) for _ in range(n)] for n in (6, 1, 2))

    def check():
        (session,) = checker
        assert problems(session) == []

    def close(session):
        assert kept_head(session)["rows"] >= 0

    with ThreadPoolExecutor(9) as pool:
        others = [pool.submit(again_and_again, check, is_over)] + [
            pool.submit(again_and_again, lambda session=session: close(session), is_over) for session in closers]
        try:
            writing = [pool.submit(write, session, isolation, seed, 150) for seed, session in enumerate(writers)]
            assert sum(future.result() for future in writing) > 100
        finally:
            is_over.set()
        for future in others:
            future.result()
    blocks = table.value('SELECT "position" FROM keysmith.ledgers')
    assert blocks > 2
    assert_right(table)
    assert_deletions_are_noticed(table)


@pytest.mark.parametrize("isolation", ISOLATION)
def test_nobody_waits_for_a_writer(table, connect, database, isolation):
    """Neither other writers, nor checks, nor the close of a block."""
    first, second = database(connect()), database(connect())
    table.rows("SET lock_timeout = '30s'")
    second.rows("SET lock_timeout = '30s'")
    first.session.execute(f"BEGIN ISOLATION LEVEL {isolation}; INSERT INTO t VALUES (21)")
    second.session.execute(f"BEGIN ISOLATION LEVEL {isolation}; INSERT INTO t VALUES (22); COMMIT")
    assert problems(table) == []
    assert kept_head(table)["rows"] == 21
    second.session.execute(f"BEGIN ISOLATION LEVEL {isolation}; INSERT INTO t VALUES (23)")
    first.session.execute("UPDATE t SET v = 'x' WHERE id = 21; COMMIT")
    assert problems(table) == [] == problems(second)
    assert kept_head(table)["rows"] == 22
    second.session.execute("COMMIT")
    assert_right(table)


def test_a_writer_that_waits_for_a_row_counts_the_row_that_it_changed(table, connect, database):
    first, second = database(connect()), database(connect())
    first.session.execute("BEGIN; UPDATE t SET n = n + 1 WHERE id = 1; DELETE FROM t WHERE id = 2; "
                          "UPDATE t SET id = 99 WHERE id = 3")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(second.session.execute, "UPDATE t SET n = n + 1, v = v || 'x' WHERE id < 5")
        wait_until(lambda: table.rows("SELECT FROM pg_locks WHERE NOT granted AND pid = %s", second.session.info.backend_pid))
        assert problems(table) == []
        first.session.execute("COMMIT")
        waiting.result(60)
    assert table.value("SELECT n FROM t WHERE id = 1") == 2
    assert_right(table)


def test_two_close_at_the_same_time(table, connect, database):
    """Each change is in one block."""
    sessions = [database(connect()) for _ in range(4)]
    for n in range(30):
        table.rows(f"INSERT INTO t VALUES ({n + 100})")
        with ThreadPoolExecutor(4) as pool:
            heads = list(pool.map(kept_head, sessions))
        assert {head["rows"] for head in heads} == {21 + n}
        assert len({(head["position"], head["head"]) for head in heads}) == 1
    assert heads[0]["position"] == 31
    assert_right(table)


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
def test_an_old_snapshot(table, connect, database, isolation):
    """A transaction whose snapshot is older than the last block, and than rows that were deleted since."""
    old = database(connect())
    old.session.execute(f"BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM t")
    table.rows("INSERT INTO t VALUES (21); DELETE FROM t WHERE id < 5")
    last = kept_head(table)
    table.rows("UPDATE t SET v = 'x'; INSERT INTO t VALUES (22)")
    assert problems(old) == []
    assert problems(old, heads=last) == []
    behind_its_back(table, "INSERT INTO t VALUES (5555)")
    assert problems(table) == problems(old) == [more(1)]
    behind_its_back(table, "DELETE FROM t WHERE id = 5555")
    old.session.execute("INSERT INTO t VALUES (30)")
    assert problems(old) == []
    try:
        assert kept_head(old)["rows"] in (17, 18)
    except psycopg.errors.SerializationFailure:
        old.session.rollback()
    old.session.execute("COMMIT")
    assert_right(table)


PARTS = {
    "partitions": ("CREATE TABLE p (id int, k int, PRIMARY KEY (id, k)) PARTITION BY LIST (k); "
                   "CREATE TABLE rest PARTITION OF p FOR VALUES IN (0)",
                   "CREATE TABLE part (k int NOT NULL, id int NOT NULL); INSERT INTO part SELECT 1, generate_series(1, 50); "
                   "ALTER TABLE p ATTACH PARTITION part FOR VALUES IN (1); SELECT keysmith.ledger('p')",
                   "LOCK TABLE p; SELECT keysmith.unledger('part'); DROP TABLE part"),
    "children": ("CREATE TABLE p (id int PRIMARY KEY, k int)",
                 "CREATE TABLE part (k int, id int NOT NULL); INSERT INTO part SELECT 1, generate_series(1, 50); "
                 "ALTER TABLE part INHERIT p; SELECT keysmith.ledger('p')",
                 "LOCK TABLE p; SELECT keysmith.unledger('part'); ALTER TABLE part NO INHERIT p; DROP TABLE part"),
}


@pytest.mark.parametrize("kind", PARTS)
def test_parts_come_and_go_while_others_check(table, connect, database, kind):
    """A check has the parts and the differences of one moment."""
    create, come, go = PARTS[kind]
    table.session.execute(create)
    table.session.execute("INSERT INTO p SELECT i, 0 FROM generate_series(1, 5000) i; SELECT keysmith.ledger('p')")
    is_over, checkers = threading.Event(), [database(connect()) for _ in range(3)]

    def check(session):
        assert problems(session, "p") == []
        kept_head(session, "p")

    with ThreadPoolExecutor(3) as pool:
        checking = [pool.submit(again_and_again, lambda session=session: check(session), is_over) for session in checkers]
        try:
            for _ in range(40):
                table.session.execute(come)
                table.session.execute(go)
        finally:
            is_over.set()
        for future in checking:
            future.result()
    assert_right(table, "p")


def test_a_check_does_not_stop_writers(table, connect, database):
    """They go on while a transaction that has checked is not over."""
    other = database(connect())
    other.rows("SET lock_timeout = '30s'")
    with table.session.transaction():
        assert problems(table) == []
        kept_head(table)
        other.rows("INSERT INTO t VALUES (21); UPDATE t SET v = 'x'; DELETE FROM t WHERE id = 1")
        assert count(table, "t") == 20
        assert problems(table) == []
    assert_right(table)


def test_a_ledger_begins_when_writers_are_done(table, connect, database):
    """It waits for them, and they for it, so no row is left out."""
    table.session.execute("CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1)")
    writer, beginner, after = (database(connect()) for _ in range(3))
    writer.session.execute("BEGIN; INSERT INTO late VALUES (2)")

    def waits(session):
        pid = session.session.info.backend_pid
        wait_until(lambda: table.rows("SELECT FROM pg_locks WHERE NOT granted AND pid = %s", pid))

    with ThreadPoolExecutor(2) as pool:
        beginning = pool.submit(beginner.call, "ledger", "late")
        waits(beginner)
        later = pool.submit(after.session.execute, "INSERT INTO late VALUES (3)")
        waits(after)
        writer.session.execute("INSERT INTO late VALUES (4); COMMIT")
        beginning.result(60)
        later.result(60)
    assert count(table, "late") == 4
    assert_right(table, "late")


@pytest.mark.parametrize("isolation", ISOLATION)
def test_a_ledger_that_begins_in_an_older_snapshot(table, connect, database, isolation):
    """Rows that were committed after its transaction began are counted."""
    table.session.execute("CREATE TABLE late (id int PRIMARY KEY)")
    old = database(connect())
    old.session.execute(f"BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM t")
    table.rows("INSERT INTO late VALUES (1), (2)")
    old.session.execute("INSERT INTO late VALUES (3)")
    try:
        old.call("ledger", "late")
    except psycopg.errors.SerializationFailure:
        return old.session.rollback()
    old.session.execute("INSERT INTO late VALUES (4); UPDATE late SET id = id + 10")
    assert problems(old, "late") == []
    old.session.execute("COMMIT")
    assert_right(table, "late")
