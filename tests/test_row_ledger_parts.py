"""Ledgers of tables with partitions or child tables."""

import psycopg
import pytest

from ledgers import (CHANGED, assert_deletions_are_noticed, assert_right, behind_its_back, count, fewer, kept_head, more,
                     problems)


@pytest.fixture
def parts(db):
    """Partitions: one as usual, one with other places of columns, one with partitions, a default one."""
    db.session.execute("""
        CREATE TABLE t (gone int, id int, k int, v text, n int DEFAULT 7, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
        ALTER TABLE t DROP gone;
        CREATE TABLE one PARTITION OF t FOR VALUES IN (1);
        CREATE TABLE two (v text, n int, old text, k int NOT NULL, id int NOT NULL);
        ALTER TABLE two DROP old; ALTER TABLE t ATTACH PARTITION two FOR VALUES IN (2);
        CREATE TABLE three PARTITION OF t FOR VALUES IN (3) PARTITION BY RANGE (id);
        CREATE TABLE low PARTITION OF three FOR VALUES FROM (0) TO (100);
        CREATE TABLE high (n int, v text, id int NOT NULL, k int NOT NULL);
        ALTER TABLE three ATTACH PARTITION high FOR VALUES FROM (100) TO (10000);
        CREATE TABLE rest PARTITION OF t DEFAULT;
        INSERT INTO t SELECT i, i % 5 + 1, 'v' || i FROM generate_series(1, 20) i;
        SELECT keysmith.ledger('t');
        INSERT INTO t SELECT i, i % 5 + 1, 'v' || i FROM generate_series(101, 120) i""")
    return db


# Statements, and how many rows there are after them.
STATEMENTS = {
    "insert": ("INSERT INTO t SELECT i, i % 7, 'x' FROM generate_series(1000, 1999) i", 1040),
    "insert into each": ("INSERT INTO one VALUES (50, 1); INSERT INTO two (id, k) VALUES (50, 2); "
                         "INSERT INTO three VALUES (50, 3), (500, 3); INSERT INTO low VALUES (51, 3); "
                         "INSERT INTO high (id, k) VALUES (501, 3); INSERT INTO rest VALUES (50, 9)", 47),
    "copy": ("ALTER TABLE t ALTER k SET DEFAULT 2; COPY t (id) FROM PROGRAM 'seq 1000 2999'", 2040),
    "copy into one": ("ALTER TABLE high ALTER k SET DEFAULT 3; COPY high (id) FROM PROGRAM 'seq 1000 2999'", 2040),
    "on conflict": ("INSERT INTO t VALUES (1, 2, 'x'), (2, 3, 'x'), (999, 4, 'x') ON CONFLICT (id, k) "
                    "DO UPDATE SET v = EXCLUDED.v", 41),
    "on conflict in one": ("INSERT INTO two (id, k, v) VALUES (1, 2, 'x'), (999, 2, 'x') ON CONFLICT (id, k) "
                           "DO UPDATE SET v = EXCLUDED.v", 41),
    "merge": ("""MERGE INTO t USING (SELECT i AS id, i % 5 + 1 AS k FROM generate_series(15, 24) i) s ON t.id = s.id AND t.k = s.k
                 WHEN MATCHED AND s.k = 1 THEN DELETE WHEN MATCHED THEN UPDATE SET k = 6
                 WHEN NOT MATCHED THEN INSERT (id, k, v) VALUES (s.id, s.k, 'new')""", 42),
    "update": ("UPDATE t SET v = v || 'x'", 40),
    "update in one": ("UPDATE one SET v = 'x'; UPDATE two SET v = 'x'; UPDATE three SET v = 'x'; UPDATE high SET v = 'y'", 40),
    "rows move": ("UPDATE t SET k = 6 - k", 40),
    "rows move, and change": ("UPDATE t SET k = k % 5 + 1, id = id + 1000, v = 'x'", 40),
    "rows move among subpartitions": ("UPDATE t SET id = 220 - id WHERE k = 3; UPDATE three SET id = 220 - id", 40),
    "some rows move, and others stay": ("UPDATE t SET k = CASE WHEN id % 2 = 0 THEN k ELSE 2 END, v = 'x'", 40),
    "a row moves twice": ("BEGIN; UPDATE t SET k = 3 WHERE k = 2; UPDATE t SET k = 9 WHERE k = 3; COMMIT", 40),
    "rows move, rolled back": ("BEGIN; SAVEPOINT a; UPDATE t SET k = 6 - k; ROLLBACK TO a; UPDATE t SET v = 'x'; COMMIT", 40),
    "delete": ("DELETE FROM t WHERE id % 2 = 0", 20),
    "delete in one": ("DELETE FROM one; DELETE FROM two WHERE id < 10; DELETE FROM three; DELETE FROM rest", 6),
    "truncate": ("TRUNCATE t", 0),
    "truncate one": ("TRUNCATE two", 32),
    "truncate one that has partitions": ("TRUNCATE three", 32),
    "truncate a subpartition": ("BEGIN; INSERT INTO high (id, k) VALUES (999, 3); TRUNCATE high; COMMIT", 36),
    "truncate more than one": ("TRUNCATE one, t, low", 0),
    "truncate, rolled back": ("BEGIN; TRUNCATE one; SAVEPOINT a; TRUNCATE t; ROLLBACK TO a; INSERT INTO one VALUES (1, 1); COMMIT",
                              33),
    "statements in one": ("WITH a AS (INSERT INTO one VALUES (50, 1)), b AS (INSERT INTO t VALUES (51, 1)), "
                          "c AS (UPDATE two SET v = 'x') DELETE FROM t WHERE k = 3", 34),
    "a trigger that writes": ("""
        CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.k < 5 THEN INSERT INTO t VALUES (NEW.id, NEW.k + 1, 'echo') ON CONFLICT DO NOTHING; END IF; RETURN NULL; END $$;
        CREATE TRIGGER act AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION act();
        INSERT INTO one VALUES (50, 1); INSERT INTO t VALUES (51, 2)""", 49),
    "keys that partitions refer to": ("""
        CREATE TABLE master (id int PRIMARY KEY); INSERT INTO master SELECT generate_series(1, 4); UPDATE t SET n = id % 3 + 2;
        ALTER TABLE t ADD m int REFERENCES master ON DELETE CASCADE ON UPDATE CASCADE;
        ALTER TABLE one ADD FOREIGN KEY (n) REFERENCES master ON DELETE SET NULL;
        ALTER TABLE high ADD FOREIGN KEY (n) REFERENCES master ON DELETE CASCADE;
        UPDATE t SET m = id % 4 + 1; UPDATE master SET id = 9 WHERE id = 1; DELETE FROM master WHERE id IN (2, 9)""", 19),
    "a new partition": ("CREATE TABLE nine PARTITION OF t FOR VALUES IN (9); INSERT INTO t VALUES (50, 9); "
                        "UPDATE t SET k = 9 WHERE k = 1; DELETE FROM t WHERE k = 9 AND id > 100", 37),
    "a new partition that is named": ("CREATE TABLE nine PARTITION OF t FOR VALUES IN (9); SELECT keysmith.ledger('t'); "
                                      "INSERT INTO nine VALUES (50, 9); UPDATE nine SET v = 'x'; TRUNCATE nine; "
                                      "INSERT INTO nine VALUES (51, 9); DELETE FROM nine; INSERT INTO nine VALUES (52, 9)", 41),
    "all in another schema": ("CREATE SCHEMA s; ALTER TABLE t SET SCHEMA s; ALTER TABLE one RENAME TO uno; "
                              "ALTER TABLE s.t RENAME v TO w; "
                              "ALTER TABLE s.t RENAME w TO v; ALTER TABLE s.t SET SCHEMA public; UPDATE uno SET v = 'x'", 40),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_each_statement_is_counted(parts, name):
    script, rows = STATEMENTS[name]
    parts.session.execute(script)
    assert count(parts, "t") == rows
    assert_right(parts)
    assert_deletions_are_noticed(parts)


def test_rows_of_a_partition_are_a_part_of_the_table(parts):
    """A change past the triggers of any partition is noticed."""
    for statement, found in [("UPDATE one SET v = 'x' WHERE id = 5", CHANGED), ("DELETE FROM two WHERE id = 1", fewer(1)),
                             ("INSERT INTO high (id, k) VALUES (999, 3)", more(1)), ("UPDATE rest SET k = 7 WHERE id = 4", CHANGED),
                             ("TRUNCATE low", fewer(4))]:
        with parts.session.transaction(force_rollback=True):
            if statement.startswith("TRUNCATE"):
                parts.rows("ALTER TABLE low DISABLE TRIGGER USER")
                parts.rows(statement)
            else:
                behind_its_back(parts, statement)
            assert [text for text in problems(parts) if "trigger" not in text] == [found], statement
    # The partition that has a row is no part of it.
    with parts.session.transaction(force_rollback=True):
        behind_its_back(parts, "CREATE TEMP TABLE kept AS TABLE rest; DELETE FROM rest; CREATE TABLE four PARTITION OF t "
                               "FOR VALUES IN (4); INSERT INTO t (id, k, v, n) SELECT id, k, v, n FROM kept")
        assert count(parts, "four") == 8 and problems(parts) == []


def test_a_partition_that_is_attached_with_rows(parts):
    parts.session.execute("""
        CREATE TABLE nine (v text, id int NOT NULL, k int NOT NULL, n int);
        INSERT INTO nine SELECT 'x', i, 9 FROM generate_series(1, 5) i;
        ALTER TABLE t ATTACH PARTITION nine FOR VALUES IN (9)""")
    kept = kept_head(parts)
    assert problems(parts) == [more(5)]
    parts.call("ledger", "t")
    assert problems(parts, heads=kept) == []
    parts.rows("UPDATE nine SET v = 'y' WHERE id < 3; DELETE FROM nine WHERE id = 3")
    assert_right(parts)
    assert problems(parts, heads=kept) == []


def test_a_partition_with_rows_explains_no_other_difference(parts):
    behind_its_back(parts, "DELETE FROM one WHERE id = 5")
    parts.session.execute("CREATE TABLE nine (LIKE t); INSERT INTO nine VALUES (1, 9); "
                          "ALTER TABLE t ATTACH PARTITION nine FOR VALUES IN (9)")
    assert "does not agree with its ledger" in parts.refused("KS409", "ledger", "t")
    assert parts.value("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'nine'::regclass AND tgname ~ 'keysmith_3_insert'") == 0
    behind_its_back(parts, "INSERT INTO one VALUES (5, 1, 'v5')")
    parts.call("ledger", "t")
    assert_right(parts)


@pytest.mark.parametrize("part", ["one", "three", "high"])
@pytest.mark.parametrize("ends", ["DETACH", "DROP"])
def test_a_partition_leaves(parts, part, ends):
    parent, rows = "three" if part == "high" else "t", count(parts, part)
    statement = f"ALTER TABLE {parent} DETACH PARTITION {part}" if ends == "DETACH" else f"DROP TABLE {part}"
    kept = kept_head(parts)
    with parts.session.transaction(force_rollback=True):
        parts.rows(statement)
        assert sum(int(text.split()[3]) for text in problems(parts)) == rows
    with parts.session.transaction():
        parts.call("unledger", part)
        parts.rows(statement)
    assert count(parts, "t") == 40 - rows
    assert problems(parts, heads=kept) == []
    assert_right(parts)
    if ends == "DETACH":
        # It is a table like others.
        assert parts.value("SELECT count(*) FROM pg_trigger WHERE tgname ~ '^~keysmith_3' AND tgrelid IN "
                           "(SELECT relid FROM pg_partition_tree(%s))", part) == 0
        parts.rows(f"DELETE FROM {part}")
        assert_right(parts)


def test_a_partition_that_was_detached_without_a_word(parts):
    parts.rows("ALTER TABLE t DETACH PARTITION two")
    assert problems(parts) == [fewer(8)]
    # Its triggers write nothing to the ledger of a table that it is no part of.
    try:
        parts.rows("UPDATE two SET v = 'x'")
    except psycopg.Error as error:
        assert error.sqlstate.startswith("KS"), error
    assert problems(parts) == [fewer(8)]
    parts.call("unledger", "two")
    parts.rows("UPDATE two SET v = 'y'")
    assert problems(parts) == [fewer(8)]
    # The ledger can't know who took it away.
    assert "does not agree with its ledger" in parts.refused("KS409", "ledger", "t")
    assert problems(parts) == [fewer(8)]
    parts.rows("ALTER TABLE t ATTACH PARTITION two FOR VALUES IN (2)")
    assert problems(parts) == [CHANGED]


# Child tables

@pytest.fixture
def family(db):
    db.session.execute("""
        CREATE TABLE t (id int PRIMARY KEY, v text);
        CREATE TABLE child (more int, PRIMARY KEY (id)) INHERITS (t);
        CREATE TABLE other (x int, v text, id int NOT NULL); ALTER TABLE other INHERIT t;
        CREATE TABLE grandchild () INHERITS (child);
        INSERT INTO t VALUES (1, 'a'); INSERT INTO child VALUES (11, 'b', 1);
        SELECT keysmith.ledger('t');
        INSERT INTO t VALUES (2, 'c'); INSERT INTO child VALUES (12, 'd', 2); INSERT INTO other VALUES (3, 'e', 21);
        INSERT INTO grandchild VALUES (31, 'f', 3)""")
    return db


CHILDREN = {
    "update": ("UPDATE t SET v = v || 'x'", 6),
    "update keys": ("UPDATE t SET id = id + 100", 6),
    "update only the parent": ("UPDATE ONLY t SET v = 'x'", 6),
    "update children": ("UPDATE child SET v = 'x'; UPDATE other SET v = 'y'; UPDATE grandchild SET id = 5", 6),
    "update what is not the parent's": ("UPDATE child SET more = 9", 6),
    "delete": ("DELETE FROM t WHERE id IN (1, 11, 21, 31)", 2),
    "delete only in the parent": ("DELETE FROM ONLY t", 4),
    "delete in children": ("DELETE FROM child", 3),
    "the same key in two": ("INSERT INTO child VALUES (1, 'a'); INSERT INTO grandchild VALUES (1, 'a')", 8),
    "truncate": ("TRUNCATE t", 0),
    "truncate only the parent": ("TRUNCATE ONLY t", 4),
    "truncate children": ("TRUNCATE child", 3),
    "a new child": ("CREATE TABLE late () INHERITS (t); SELECT keysmith.ledger('t'); INSERT INTO late VALUES (41); "
                    "UPDATE t SET v = 'x'",
                    7),
    "a child with rows": ("CREATE TABLE late (id int NOT NULL, v text); INSERT INTO late VALUES (41), (42); "
                          "ALTER TABLE late INHERIT t; "
                          "SELECT keysmith.ledger('t'); DELETE FROM late WHERE id = 41", 7),
    "a child leaves": ("BEGIN; SELECT keysmith.unledger('other'); ALTER TABLE other NO INHERIT t; COMMIT; DELETE FROM other", 5),
}


@pytest.mark.parametrize("name", CHILDREN)
def test_each_statement_about_children_is_counted(family, name):
    script, rows = CHILDREN[name]
    family.session.execute(script)
    assert count(family, "t") == rows
    assert_right(family)
    assert_deletions_are_noticed(family)


def test_columns_that_only_a_child_has_are_not_covered(family):
    behind_its_back(family, "UPDATE child SET more = 7")
    assert problems(family) == []
    behind_its_back(family, "UPDATE child SET v = 'x' WHERE id = 11")
    assert problems(family) == [CHANGED]
