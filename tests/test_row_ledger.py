"""What the triggers of a ledger count: each statement and each end of a transaction."""

import psycopg
import pytest

from ledgers import assert_deletions_are_noticed, assert_right, behind_its_back, count, kept_head, more, problems

TABLES = ("t", "child", "loose")


@pytest.fixture
def tables(db):
    db.rows("""
        CREATE TABLE t (id int PRIMARY KEY, v text, n int);
        CREATE TABLE child (id int PRIMARY KEY, t int REFERENCES t ON DELETE CASCADE ON UPDATE CASCADE);
        CREATE TABLE loose (id int PRIMARY KEY, t int REFERENCES t ON DELETE SET NULL ON UPDATE CASCADE);
        INSERT INTO t SELECT i, 'v' || i, i FROM generate_series(1, 10) i;
        SELECT keysmith.ledger('t'), keysmith.ledger('child'), keysmith.ledger('loose');
        INSERT INTO t SELECT i, 'v' || i, i FROM generate_series(11, 20) i;
        INSERT INTO child SELECT i, i % 5 + 1 FROM generate_series(1, 10) i;
        INSERT INTO loose SELECT i, i % 5 + 11 FROM generate_series(1, 10) i""")
    return db


def trigger(body, when, of="t", kind="TRIGGER"):
    return f"""
        CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
        CREATE {kind} act {when.replace(" FOR", f" ON {of} FOR", 1)} EXECUTE FUNCTION act();"""


def deferred(body):
    return trigger(body, "AFTER INSERT FOR EACH ROW", kind="CONSTRAINT TRIGGER").replace(
        "ON t FOR", "ON t DEFERRABLE INITIALLY DEFERRED FOR")


ECHO = "IF NEW.id < 1000 THEN INSERT INTO t VALUES (NEW.id + 1000, 'echo'); END IF; RETURN NULL;"
SAVEPOINTS = "".join(f"SAVEPOINT s{i}; INSERT INTO t VALUES ({1000 + i});" for i in range(1000))

# Statements, and how many rows t, child and loose have after them.
STATEMENTS = {
    "insert": ("INSERT INTO t VALUES (21, 'x', 1), (22, NULL, NULL)", (22, 10, 10)),
    "insert nothing": ("INSERT INTO t SELECT 1 WHERE false", (20, 10, 10)),
    "insert many": ("INSERT INTO t SELECT i, repeat('x', i % 50), i FROM generate_series(21, 9000) i", (9000, 10, 10)),
    "insert what is there": ("INSERT INTO t SELECT id + 100, v, n FROM t", (40, 10, 10)),
    "copy": ("COPY t (id) FROM PROGRAM 'seq 21 5000'", (5000, 10, 10)),
    "on conflict do nothing": ("INSERT INTO t VALUES (1, 'x'), (21, 'y') ON CONFLICT DO NOTHING", (21, 10, 10)),
    "on conflict do update": ("INSERT INTO t VALUES (1, 'x'), (2, 'y'), (21, 'z') ON CONFLICT (id) "
                              "DO UPDATE SET v = EXCLUDED.v WHERE t.n > 1", (21, 10, 10)),
    "on conflict changes the key": ("INSERT INTO t VALUES (11, 'x'), (21, 'z') ON CONFLICT (id) DO UPDATE SET id = 99",
                                    (21, 10, 10)),
    "merge": ("""MERGE INTO t USING (VALUES (1, 'x'), (2, NULL), (3, 'stays'), (21, 'y')) s (id, v) ON t.id = s.id
                 WHEN MATCHED AND s.v IS NULL THEN DELETE WHEN MATCHED AND s.v = 'stays' THEN DO NOTHING
                 WHEN MATCHED THEN UPDATE SET v = s.v WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.v, 0)""", (20, 8, 10)),
    "update": ("UPDATE t SET v = v || 'x'", (20, 10, 10)),
    "update without change": ("UPDATE t SET v = v", (20, 10, 10)),
    "update nothing": ("UPDATE t SET v = 'x' WHERE false", (20, 10, 10)),
    "update the key": ("UPDATE t SET id = id + 5000 WHERE id % 2 = 0", (20, 10, 10)),
    "rows change places": ("UPDATE t a SET v = b.v, n = b.n FROM t b WHERE b.id = 21 - a.id", (20, 10, 10)),
    "one row twice": ("BEGIN; UPDATE t SET v = 'a' WHERE id = 1; UPDATE t SET v = 'b' WHERE id = 1; COMMIT", (20, 10, 10)),
    "there and back": ("BEGIN; UPDATE t SET v = 'a' WHERE id = 1; UPDATE t SET v = 'v1' WHERE id = 1; COMMIT", (20, 10, 10)),
    "come and go": ("BEGIN; INSERT INTO t VALUES (21); DELETE FROM t WHERE id = 21; COMMIT", (20, 10, 10)),
    "delete": ("DELETE FROM t WHERE id > 15", (15, 10, 10)),
    "delete with others that refer to it": ("DELETE FROM t WHERE id IN (1, 2, 11)", (17, 6, 10)),
    "delete all": ("DELETE FROM t", (0, 0, 10)),
    "rows move within a statement": (
        "WITH gone AS (DELETE FROM t WHERE id > 15 RETURNING *) INSERT INTO t SELECT id + 100, v, n FROM gone", (20, 10, 10)),
    "three statements in one": ("""
        WITH a AS (INSERT INTO t VALUES (21, 'a') RETURNING id), b AS (UPDATE t SET v = 'b' WHERE id = 6 RETURNING id),
             c AS (DELETE FROM t WHERE id = 7), d AS (INSERT INTO loose VALUES (11)) SELECT FROM a, b""", (20, 10, 11)),
    "a cursor": ("""BEGIN; DECLARE c CURSOR FOR SELECT * FROM t WHERE id > 10 ORDER BY id FOR UPDATE; FETCH 2 FROM c;
                    UPDATE t SET v = 'x' WHERE CURRENT OF c; FETCH c; DELETE FROM t WHERE CURRENT OF c; COMMIT""", (19, 10, 10)),
    "a cursor that writes at commit": ("""
        CREATE FUNCTION write() RETURNS int LANGUAGE sql AS 'INSERT INTO t VALUES (21) RETURNING id';
        BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT write(); INSERT INTO t VALUES (22); COMMIT""", (22, 10, 10)),

    "truncate": ("TRUNCATE loose", (20, 10, 0)),
    "truncate what is empty": (["TRUNCATE loose", "TRUNCATE loose"], (20, 10, 0)),
    "truncate with others": ("TRUNCATE t CASCADE", (0, 0, 0)),
    "truncate after writes": ("""BEGIN; INSERT INTO loose VALUES (11); UPDATE loose SET t = NULL WHERE id < 5;
        DELETE FROM loose WHERE id = 9; TRUNCATE loose; INSERT INTO loose VALUES (12); COMMIT""", (20, 10, 1)),
    "truncate and copy": ("BEGIN; TRUNCATE loose; COPY loose (id) FROM PROGRAM 'seq 1 3000' WITH (FREEZE); COMMIT", (20, 10, 3000)),
    "truncate twice": ("BEGIN; TRUNCATE loose; INSERT INTO loose VALUES (1), (2); TRUNCATE loose; COMMIT", (20, 10, 0)),
    "truncate, rolled back": ("BEGIN; INSERT INTO loose VALUES (11); TRUNCATE t, child, loose; ROLLBACK", (20, 10, 10)),
    "truncate, rolled back in part": ("""BEGIN; INSERT INTO t VALUES (21); SAVEPOINT a; TRUNCATE t CASCADE;
        INSERT INTO t VALUES (1); ROLLBACK TO a; INSERT INTO t VALUES (22); COMMIT""", (22, 10, 10)),

    "rollback": ("BEGIN; INSERT INTO t VALUES (21); UPDATE t SET v = 'x'; DELETE FROM child; ROLLBACK", (20, 10, 10)),
    "a savepoint that stays": ("BEGIN; INSERT INTO t VALUES (21); SAVEPOINT a; INSERT INTO t VALUES (22); RELEASE a; COMMIT",
                               (22, 10, 10)),
    "a savepoint that goes": ("BEGIN; INSERT INTO t VALUES (21); SAVEPOINT a; UPDATE t SET v = 'x'; ROLLBACK TO a; COMMIT",
                              (21, 10, 10)),
    "nothing stays": ("BEGIN; SAVEPOINT a; UPDATE t SET v = 'x'; ROLLBACK TO a; COMMIT", (20, 10, 10)),
    "savepoints in savepoints": ("""
        BEGIN; SAVEPOINT a; INSERT INTO t VALUES (21); SAVEPOINT b; INSERT INTO t VALUES (22); SAVEPOINT c;
        INSERT INTO child VALUES (21, 22); RELEASE c; ROLLBACK TO b; INSERT INTO t VALUES (23); RELEASE a;
        SAVEPOINT a; DELETE FROM t WHERE id = 21; ROLLBACK TO a; DELETE FROM t WHERE id = 23; COMMIT""", (21, 10, 10)),
    "savepoints of one name": ("""BEGIN; SAVEPOINT a; INSERT INTO t VALUES (21); SAVEPOINT a; INSERT INTO t VALUES (22);
        ROLLBACK TO a; INSERT INTO t VALUES (23); RELEASE a; ROLLBACK TO a; INSERT INTO t VALUES (24); COMMIT""", (21, 10, 10)),
    "a thousand savepoints": (f"BEGIN; {SAVEPOINTS} ROLLBACK TO s500; COMMIT", (520, 10, 10)),
    "transactions in a chain": ("BEGIN; INSERT INTO t VALUES (21); COMMIT AND CHAIN; INSERT INTO t VALUES (22); "
                                "ROLLBACK AND CHAIN; "
                                "INSERT INTO t VALUES (23); COMMIT", (22, 10, 10)),
    "reads only in the end": ("BEGIN; INSERT INTO t VALUES (21); SET TRANSACTION READ ONLY; COMMIT", (21, 10, 10)),
    "an exception": ("""DO $$ BEGIN INSERT INTO t VALUES (21);
        BEGIN INSERT INTO t VALUES (22); UPDATE t SET v = 'x'; RAISE 'no'; EXCEPTION WHEN OTHERS THEN INSERT INTO t VALUES (23); END;
        BEGIN INSERT INTO t VALUES (24); EXCEPTION WHEN OTHERS THEN NULL; END; END $$""", (23, 10, 10)),
    "a thousand exceptions": ("""DO $$ BEGIN FOR i IN 1..1000 LOOP
        BEGIN INSERT INTO t VALUES (i + 20); IF i % 2 = 0 THEN RAISE 'no'; END IF; EXCEPTION WHEN raise_exception THEN NULL; END;
        END LOOP; END $$""", (520, 10, 10)),
    "commits in a procedure": ("""DO $$ BEGIN FOR i IN 21..30 LOOP INSERT INTO t VALUES (i); UPDATE t SET v = i WHERE id = 1;
        IF i % 3 = 0 THEN ROLLBACK; ELSE COMMIT; END IF; END LOOP; END $$""", (26, 10, 10)),

    "keys that others refer to": ("UPDATE t SET id = id + 5000", (20, 10, 10)),
    "rows that refer to rows of the same table": (
        "ALTER TABLE loose ADD up int REFERENCES loose ON DELETE CASCADE ON UPDATE CASCADE; "
        "UPDATE loose SET up = id - 1 WHERE id > 1; UPDATE loose SET id = 99 WHERE id = 3; DELETE FROM loose WHERE id = 5",
        (20, 10, 4)),
    "a trigger that writes rows": (trigger(ECHO, "AFTER INSERT FOR EACH ROW") + "INSERT INTO t VALUES (21), (22)", (24, 10, 10)),
    "a trigger of the statement that writes": (trigger(
        "IF pg_trigger_depth() < 3 THEN INSERT INTO t SELECT max(id) + 1, 'echo' FROM t; END IF; RETURN NULL;",
        "AFTER INSERT FOR EACH STATEMENT") + "INSERT INTO t VALUES (21)", (23, 10, 10)),
    "a trigger that writes before": (trigger(
        "IF pg_trigger_depth() < 2 THEN UPDATE t SET n = n + 1 WHERE id < 3; END IF; RETURN NULL;",
        "BEFORE UPDATE FOR EACH STATEMENT") + "UPDATE t SET v = 'x' WHERE id > 3", (20, 10, 10)),
    "a trigger that changes rows": (trigger("NEW.v := 'other'; RETURN NEW;", "BEFORE INSERT OR UPDATE FOR EACH ROW")
                                    + "INSERT INTO t VALUES (21); UPDATE t SET v = 'x'", (21, 10, 10)),
    "a trigger that skips rows": (trigger("RETURN CASE WHEN NEW.id % 2 = 0 THEN NEW END;", "BEFORE INSERT FOR EACH ROW")
                                  + "INSERT INTO t SELECT generate_series(21, 30)", (25, 10, 10)),
    "a trigger that keeps rows": (trigger("RETURN CASE WHEN OLD.id % 2 = 0 THEN OLD END;", "BEFORE DELETE FOR EACH ROW")
                                  + "DELETE FROM t WHERE id > 10", (15, 10, 10)),
    "a trigger that removes rows": (trigger("DELETE FROM t WHERE id = NEW.id; RETURN NULL;", "AFTER INSERT FOR EACH ROW")
                                    + "INSERT INTO t SELECT generate_series(21, 30)", (20, 10, 10)),
    "a trigger that writes to another table": (
        trigger("INSERT INTO loose VALUES (OLD.id + 100); RETURN NULL;", "AFTER DELETE FOR EACH ROW", of="child")
        + "DELETE FROM t WHERE id = 1", (19, 8, 12)),
    "a trigger that writes at commit": (deferred(ECHO) + "BEGIN; INSERT INTO t VALUES (21), (22); COMMIT", (24, 10, 10)),
    "a trigger that writes sooner": (
        deferred(ECHO) + "BEGIN; INSERT INTO t VALUES (21); SET CONSTRAINTS ALL IMMEDIATE; DELETE FROM t WHERE id = 21; COMMIT",
        (21, 10, 10)),
    "a trigger that would have written": (
        deferred(ECHO) + "BEGIN; SAVEPOINT a; INSERT INTO t VALUES (21); ROLLBACK TO a; INSERT INTO t VALUES (22); COMMIT",
        (22, 10, 10)),
    "a trigger that writes when two phases begin": (
        [deferred(ECHO) + "BEGIN; INSERT INTO t VALUES (21); PREPARE TRANSACTION 'deferred'", "COMMIT PREPARED 'deferred'"],
        (22, 10, 10)),
    "functions that write for each row": ("""
        CREATE FUNCTION write(i int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO t VALUES (i + 2000); IF i % 2 = 0 THEN RAISE 'no'; END IF; RETURN i;
        EXCEPTION WHEN raise_exception THEN UPDATE t SET n = i WHERE id = 1; RETURN i; END $$;
        INSERT INTO t SELECT write(i) FROM generate_series(21, 40) i; UPDATE t SET id = write(id) + 5000 WHERE id IN (11, 12)""",
        (51, 10, 10)),
    "a loop over rows that it changes": ("""DO $$ DECLARE r record; BEGIN FOR r IN UPDATE t SET v = v || 'a' RETURNING id LOOP
        UPDATE t SET v = 'b' WHERE id = r.id; END LOOP; END $$""", (20, 10, 10)),
    "a rule": ("CREATE RULE also AS ON INSERT TO t DO ALSO INSERT INTO loose VALUES (NEW.id, NEW.id); INSERT INTO t VALUES (21)",
               (21, 10, 11)),
    "a view": ("CREATE VIEW small AS SELECT id, v FROM t WHERE id < 10; INSERT INTO small VALUES (0, 'x'); "
               "UPDATE small SET v = 'y'; DELETE FROM small WHERE id = 9", (20, 10, 10)),
    "the table is written again": (["VACUUM FULL t", "CLUSTER t USING t_pkey", "REINDEX TABLE t", "VACUUM FREEZE t"],
                                   (20, 10, 10)),
    "the table gets another place": ("ALTER TABLE t RENAME TO u; ALTER TABLE u ADD CHECK (id > 0), ALTER v SET STORAGE EXTERNAL; "
                                     "ALTER TABLE u RENAME TO t; UPDATE t SET v = repeat(v, 1000)", (20, 10, 10)),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_each_statement_is_counted(tables, name):
    scripts, counts = STATEMENTS[name]
    for script in [scripts] if isinstance(scripts, str) else scripts:
        tables.session.execute(script)
    assert tuple(count(tables, table) for table in TABLES) == counts
    assert_right(tables, *TABLES)
    assert_deletions_are_noticed(tables, *TABLES)


def test_a_copy_from_the_client(tables):
    with tables.session.cursor() as cursor:
        with cursor.copy("COPY t FROM STDIN") as copy:
            for n in range(5000):
                copy.write_row((n + 100, "x", None))
        with pytest.raises(psycopg.errors.UniqueViolation), cursor.copy("COPY t FROM STDIN") as copy:
            for n in range(6000):
                copy.write_row((n - 5500, "x", None))
    assert count(tables, "t") == 5020
    assert_right(tables)


@pytest.mark.parametrize("statement", [
    "INSERT INTO t VALUES (21), (1)", "UPDATE t SET v = 'x', n = 1 / (n - 20)", "INSERT INTO t VALUES (21); SELECT 1 / 0",
    "BEGIN; INSERT INTO t VALUES (21); TRUNCATE loose; SELECT 1 / 0"])
def test_a_statement_that_fails_counts_nothing(tables, statement):
    with pytest.raises((psycopg.errors.UniqueViolation, psycopg.errors.DivisionByZero)):
        tables.session.execute(statement)
    tables.session.rollback()
    assert count(tables, "t") == 20
    assert_right(tables, *TABLES)
    tables.rows("INSERT INTO t VALUES (22)")
    assert_right(tables)


def test_a_statement_that_is_cancelled_counts_nothing(tables):
    tables.rows("SET statement_timeout = '100ms'")
    for _ in range(3):
        with pytest.raises(psycopg.errors.QueryCanceled):
            tables.rows("INSERT INTO t SELECT generate_series(21, 5000000)")
    tables.rows("RESET statement_timeout")
    assert count(tables, "t") == 20
    assert_right(tables)


def test_a_commit_that_fails_counts_nothing(tables):
    tables.session.execute(deferred("IF NEW.id = 22 THEN RAISE 'no'; END IF; INSERT INTO loose VALUES (NEW.id); RETURN NULL;"))
    with pytest.raises(psycopg.errors.RaiseException):
        tables.session.execute("BEGIN; INSERT INTO t VALUES (21), (22); COMMIT")
    tables.rows("ALTER TABLE loose ALTER CONSTRAINT loose_t_fkey DEFERRABLE INITIALLY DEFERRED")
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        tables.session.execute("BEGIN; INSERT INTO loose VALUES (99, 99); COMMIT")
    tables.rows("INSERT INTO t VALUES (23)")
    assert tuple(count(tables, table) for table in TABLES) == (21, 10, 11)
    assert_right(tables, *TABLES)


# Two phases

@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
@pytest.mark.parametrize("closes", [False, True])
def test_a_prepared_transaction(dbname, tables, connect, database, end, closes):
    """Its difference is part of no block that is closed before its end."""
    tables.session.execute(f"""
        BEGIN; INSERT INTO t VALUES (21); UPDATE t SET v = 'x' WHERE id = 1; SAVEPOINT a; DELETE FROM t WHERE id = 3;
        ROLLBACK TO a; DELETE FROM child WHERE id = 7; PREPARE TRANSACTION '{dbname}'""")
    other = database(connect())
    other.rows("INSERT INTO t VALUES (22)")
    assert problems(other) == [] and problems(tables, "child") == []
    if closes:
        assert kept_head(other)["rows"] == 21
        kept_head(other, "child")
    other.rows("UPDATE t SET v = 'y' WHERE id = 2")
    other.rows(f"{end} PREPARED '{dbname}'")
    assert tuple(count(tables, table) for table in TABLES) == ((22, 9, 10) if end == "COMMIT" else (21, 10, 10))
    assert_right(tables, *TABLES)
    assert_deletions_are_noticed(tables, *TABLES)


# Checks in transactions

def test_a_check_in_a_transaction_that_wrote(tables):
    kept_head(tables)
    with tables.session.transaction():
        assert problems(tables) == []
        tables.rows("INSERT INTO t VALUES (21); UPDATE t SET v = 'x'; DELETE FROM t WHERE id = 1")
        assert problems(tables) == [] == problems(tables, "child")
        with tables.session.transaction(force_rollback=True):
            tables.rows("UPDATE t SET v = 'y'; TRUNCATE loose")
            assert problems(tables) == [] == problems(tables, "loose")
            behind_its_back(tables, "INSERT INTO t VALUES (5022)")
            assert problems(tables) == [more(1)]
        assert problems(tables) == [] == problems(tables, "loose")
        # A block has what is committed.
        assert kept_head(tables)["rows"] == 20
        assert problems(tables) == []
        tables.rows("DELETE FROM t WHERE id = 21")
        assert problems(tables) == []
    assert_right(tables, *TABLES)
