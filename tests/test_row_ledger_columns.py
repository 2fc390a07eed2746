"""What a ledger covers of a row: its columns, and values of all types."""

import psycopg
import pytest

from ledgers import CHANGED, assert_right, behind_its_back, kept_head, problems
from rows import notices  # noqa: F401
from test_row_seals import SETTINGS


@pytest.fixture
def table(db):
    db.session.execute("""
        CREATE TABLE t (gone text, id int PRIMARY KEY, v text, n int); ALTER TABLE t DROP gone;
        INSERT INTO t SELECT i, 'v' || i, i FROM generate_series(1, 10) i;
        SELECT keysmith.ledger('t')""")
    return db


# Columns that come and go

def test_a_column_that_is_added(table):
    kept = kept_head(table)
    table.rows("ALTER TABLE t ADD more text, ADD twice int GENERATED ALWAYS AS (n * 2) STORED")
    assert problems(table, heads=kept) == []
    table.rows("UPDATE t SET more = 'x' WHERE id < 5; INSERT INTO t (id, more) VALUES (11, 'y'); "
               "ALTER TABLE t ALTER more SET DEFAULT 'z'; "
               "INSERT INTO t VALUES (12)")
    assert problems(table, heads=kept) == []
    assert_right(table)
    # Later values are covered.
    behind_its_back(table, "UPDATE t SET more = 'forged' WHERE id = 1")
    assert problems(table) == [CHANGED]
    behind_its_back(table, "UPDATE t SET more = 'x' WHERE id = 1")
    table.call("ledger", "t")
    assert problems(table, heads=kept) == []


def test_a_column_that_is_dropped_while_it_is_null(table):
    table.rows("ALTER TABLE t ADD more text")
    table.rows("INSERT INTO t VALUES (11, 'x', 1, 'y')")
    table.rows("UPDATE t SET more = NULL")
    table.rows("ALTER TABLE t DROP more")
    assert_right(table)
    table.rows("UPDATE t SET v = 'x'")
    assert_right(table)


@pytest.mark.parametrize("change", [
    "ALTER TABLE t ADD more int DEFAULT 7", "ALTER TABLE t DROP v", "ALTER TABLE t RENAME v TO w",
    "ALTER TABLE t ALTER n TYPE bigint",
    "ALTER TABLE t ALTER v TYPE varchar", "ALTER TABLE t RENAME id TO key", "ALTER TABLE t ALTER id TYPE bigint",
])
def test_a_change_of_columns_needs_a_new_ledger(table, notices, change):
    kept = kept_head(table)
    table.rows(change)
    if "RENAME id" in change:
        assert "primary key" in table.refused("KS409", "verify_ledger", "t")
    else:
        assert set(problems(table)) == {CHANGED}
    notices.clear()
    table.call("ledger", "t")
    assert [severity for severity, text in notices if "new ledger" in text or "begins" in text] == ["NOTICE"]
    assert_right(table)
    assert problems(table, heads=kept) == ["block 1 is not the one whose head was kept"]
    table.rows("DELETE FROM t WHERE n < 3")
    assert_right(table)


def test_writes_after_a_change_of_columns(table):
    """Each is an error, or counted."""
    table.rows("ALTER TABLE t RENAME v TO w; ALTER TABLE t ALTER n TYPE bigint")
    for statement in ("INSERT INTO t VALUES (11, 'x')", "UPDATE t SET w = 'y' WHERE id = 2", "DELETE FROM t WHERE id = 3"):
        try:
            table.rows(statement)
        except psycopg.Error as error:
            assert error.sqlstate == "KS409", error
    assert set(problems(table)) == {CHANGED}
    table.call("ledger", "t")
    assert_right(table)
    table.rows("UPDATE t SET n = 5")
    assert_right(table)


def test_a_column_added_with_a_default_without_a_new_ledger(table):
    """As docs/ledger-format.md says."""
    kept = kept_head(table)
    table.rows("ALTER TABLE t ADD more int")
    table.rows("UPDATE t SET more = 7")
    table.rows("ALTER TABLE t ALTER more SET DEFAULT 7")
    table.rows("INSERT INTO t (id) VALUES (11)")
    assert problems(table, heads=kept) == []


def test_columns_that_are_named(db, notices):
    db.rows("CREATE TABLE t (id int PRIMARY KEY, v text, n int, twice int GENERATED ALWAYS AS (n * 2) STORED)")
    db.rows("INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2)")
    db.call("ledger", "t", ["v"])
    assert db.row("SELECT relation::text, columns FROM keysmith.ledgers") == ("t", ["id", "v"])
    db.rows("INSERT INTO t VALUES (3, 'c', 3); UPDATE t SET n = 9; UPDATE t SET v = 'x' WHERE n = 9 AND id = 1")
    assert_right(db)
    behind_its_back(db, "UPDATE t SET n = 8")
    assert problems(db) == []
    for statement in ("UPDATE t SET v = 'forged' WHERE id = 2", "UPDATE t SET id = 7 WHERE id = 2",
                      "UPDATE t a SET v = b.v FROM t b WHERE b.id = 4 - a.id"):
        with db.session.transaction(force_rollback=True):
            behind_its_back(db, statement)
            assert problems(db) == [CHANGED], statement
    # Others are not covered when they are added.
    db.rows("ALTER TABLE t ADD more int DEFAULT 5; ALTER TABLE t DROP n CASCADE")
    assert_right(db)
    # A new ledger, if other columns are named.
    kept = kept_head(db)
    db.call("ledger", "t", ["v"])
    assert problems(db, heads=kept) == []
    db.call("ledger", "t", ["v", "more"])
    assert problems(db, heads=kept) != []
    assert db.value("SELECT columns FROM keysmith.ledgers") == ["id", "more", "v"]
    behind_its_back(db, "UPDATE t SET more = 8 WHERE id = 1")
    assert problems(db) == [CHANGED]


def test_only_the_key(db):
    db.rows("CREATE TABLE t (id int, area int, PRIMARY KEY (area, id)); INSERT INTO t VALUES (1, 1); SELECT keysmith.ledger('t')")
    db.rows("INSERT INTO t VALUES (2, 1), (1, 2); UPDATE t SET id = 3 - id WHERE area = 2")
    assert_right(db)
    behind_its_back(db, "UPDATE t SET id = 3 WHERE id = 1")
    assert problems(db) == [CHANGED]


# Types

MANY_TYPES = """
    CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TYPE pair AS (at timestamptz, x float8, b bytea);
    CREATE DOMAIN small AS int CHECK (VALUE < 10); CREATE DOMAIN name_of AS text COLLATE "C";
    CREATE TYPE times AS RANGE (SUBTYPE = timestamptz);
    CREATE TABLE t (
        id int PRIMARY KEY, t text, v varchar, c char(5), n name, j json, jb jsonb, x text, b bytea, f4 float4,
        f8 float8, num numeric, ts timestamptz, tsn timestamp, d date, tm time, ttz timetz, i interval, bl boolean,
        u uuid, ip inet, net cidr, m money, e mood, ea mood[], ta text[], tsa timestamptz[], fa float8[], p pair,
        pa pair[], dm small, dma small[], nm name_of, r tstzrange, mr int4multirange, cr times, bt bit(3), vb varbit, pt point,
        pol polygon, tv tsvector, tq tsquery, cls regclass, ch "char", o oid, mac macaddr, jp jsonpath, l pg_lsn, xi xid8)"""
VALUES = """
    (%s, 'jörg', 'é', 'ab', 'n', '{"a": "é"}', '{"b": ["ü", 1.50]}', '', '\\x00ff',
     'NaN', 0.1::float8 / 3, 'NaN', '2026-01-02 03:04:05.678+00', 'infinity', '-infinity', '03:04',
     '03:04+02', '1 mon 2 days 03:04:05', true, '00000000-0000-0000-0000-000000000001', '::1', '10.0.0.0/8', 12.34, 'glad',
     '{sad,glad}', '{é,b,NULL,""}', '{"2026-01-02 03:04:05+00"}', '{0.1,NaN}', ROW('2026-01-02 03:04:05+00', 0.1, '\\x01'),
     ARRAY[ROW('2026-01-02 03:04:05+00', 0.1, '\\x01')::pair], 5, '{5}', 'x', '[2026-01-02 00:00+00,)', '{[1,3),[5,7)}',
     '[2026-01-02 00:00+00,)', '101', '10', '(1,2)', '((0,0),(1,1),(1,0))', 'é:1 b', 'a & b', 'pg_class', 'x', 16385,
     '08:00:2b:01:02:03', '$.a', '0/1', '7')"""


@pytest.fixture
def typed(db):
    db.session.execute(MANY_TYPES)
    db.call("ledger", "t")
    for key in ("1", "2"):
        db.session.execute(f"INSERT INTO t VALUES {VALUES.replace('%s', key)}")
    db.rows("INSERT INTO t (id) VALUES (3)")
    return db


def test_values_of_all_types(typed):
    assert_right(typed)
    typed.session.execute("UPDATE t SET id = id + 10; UPDATE t a SET e = 'sad', num = 1.10 WHERE id = 11; "
                          "DELETE FROM t WHERE id = 12")
    assert_right(typed)
    columns = [name for name, in typed.rows("SELECT attname FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 1")]
    assert len(columns) > 45
    for name in columns:
        with typed.session.transaction(force_rollback=True):
            behind_its_back(typed, f"UPDATE t SET {name} = NULL WHERE id = 11")
            assert problems(typed) == [CHANGED], name


def test_whatever_the_settings(typed):
    """Of the session that writes, and of the one that checks."""
    for number, setting in enumerate(SETTINGS):
        typed.rows(f"SET {setting}")
        typed.session.execute(f"INSERT INTO public.t SELECT {number + 100}, s.* FROM (SELECT t, v, c, n, j, jb, x, b, f4, f8, "
                              f"num, ts, tsn, d "
                              f"FROM public.t WHERE id = 1) s; UPDATE public.t SET id = id + 1000 WHERE id = {number + 100}")
    for setting in SETTINGS:
        typed.rows(f"RESET {setting.split(' =')[0]}")
    assert_right(typed)
    for setting in SETTINGS:
        typed.rows(f"SET {setting}")
        assert typed.rows("SELECT * FROM keysmith.verify_ledger('public.t')") == [], setting
        typed.rows(f"RESET {setting.split(' =')[0]}")


def test_values_that_are_equal_and_not_the_same(db):
    """1.0 and 1.00 are two texts of one number. The ledger tells them apart."""
    db.rows("CREATE TABLE t (id int PRIMARY KEY, n numeric, f float8, c text, b boolean)")
    db.call("ledger", "t")
    db.rows("INSERT INTO t VALUES (1, 1.0, '-0', '', false)")
    for change in ("n = 1.00", "f = 0", "c = NULL", "b = NULL", "n = 'NaN'"):
        with db.session.transaction(force_rollback=True):
            behind_its_back(db, f"UPDATE t SET {change}")
            assert problems(db) == [CHANGED], change
            behind_its_back(db, "DELETE FROM t")
            behind_its_back(db, "INSERT INTO t VALUES (1, 1.0, '-0', '', false)")
            assert problems(db) == []


KEYS = {
    "int2": ("int2", "i - 10"), "int8": ("int8", "i * 10000000000 - 50000000000"), "numeric": ("numeric", "i / 3.0"),
    "text": ("text", "chr(60 + i) || 'x'"), "varchar": ("varchar(9)", "repeat(chr(200 + i), 5)"),
    "bytea": ("bytea", "decode(lpad(to_hex(i * 9), 2, '0'), 'hex')"),
    "uuid": ("uuid", "md5(i::text)::uuid"), "date": ("date", "CASE i WHEN 1 THEN 'infinity' WHEN 2 THEN '-infinity' ELSE date "
                                                             "'1999-12-01' + i * 50 END"),
    "timestamptz": ("timestamptz", "CASE i WHEN 1 THEN 'infinity' ELSE timestamptz '1999-12-31 20:00+00' + i * interval '71 "
                                   "minutes' END"),
    "timestamp": ("timestamp", "timestamp '2026-01-01' - i * interval '1 year'"), "interval": ("interval", "i * interval '1 day'"),
    "boolean": ("boolean", "i % 2 = 0"), "inet": ("inet", "('10.0.0.' || i)::inet"), "name": ("name", "'x' || i"),
    "char": ("char(7)", "'x' || i"),
    "float": ("float8", "CASE i WHEN 1 THEN 'NaN' ELSE i / 3.0 END"), "array": ("int[]", "ARRAY[i, NULL]"),
    "range": ("int4range", "int4range(i, i + 1)"),
    "enum": ("letter", "('{a,b,c}'::letter[])[i % 3 + 1]"), "domain": ("small", "i"), "composite": ("pair", "ROW(i, 'x')::pair"),
    "jsonb": ("jsonb", "to_jsonb(i)"),
}


@pytest.mark.parametrize("name", KEYS)
def test_keys_of_all_types(db, name):
    kind, value = KEYS[name]
    db.session.execute(f"""
        CREATE TYPE letter AS ENUM ('a', 'b', 'c'); CREATE DOMAIN small AS int; CREATE TYPE pair AS (a int, b text);
        CREATE TABLE t (k {kind}, id int, v text, PRIMARY KEY (k, id));
        INSERT INTO t SELECT {value}, i, 'x' FROM generate_series(1, 10) i;
        SELECT keysmith.ledger('t');
        INSERT INTO t SELECT {value}, i, 'x' FROM generate_series(11, 20) i;
        UPDATE t SET v = 'y' WHERE id % 2 = 0; DELETE FROM t WHERE id % 5 = 0;
        UPDATE t a SET k = b.k FROM t b WHERE b.id = 20 - a.id""")
    assert_right(db)
    behind_its_back(db, "UPDATE t SET v = 'z' WHERE id = 7")
    (row,) = db.call("verify_ledger", "t")
    assert row.problem == CHANGED
    if name in ("int2", "int8", "date", "timestamp", "timestamptz"):
        # The range has the row. Infinity and the last moments of a type have no other form.
        assert db.value(f"SELECT k BETWEEN %s::{kind} AND %s::{kind} FROM t WHERE id = 7", row.first_key, row.last_key)


def test_large_values(db):
    """Updates keep what is stored outside the row, and may compress it in another way."""
    db.session.execute("""
        CREATE TABLE t (id int PRIMARY KEY, n int, packed text, bare text, words jsonb, many int[]);
        ALTER TABLE t ALTER bare SET STORAGE EXTERNAL;
        CREATE FUNCTION noise(length int) RETURNS text LANGUAGE sql VOLATILE AS
            $$ SELECT string_agg(md5(random()::text), '') FROM generate_series(1, length / 32) $$;
        SELECT keysmith.ledger('t');
        INSERT INTO t SELECT i, 0, repeat('x', 1000000), noise(1000000), jsonb_build_object('a', noise(10000)), array_agg(j)
            FROM generate_series(1, 3) i, generate_series(1, 5000) j GROUP BY i""")
    assert_right(db)
    db.rows("UPDATE t SET n = n + 1")
    db.rows("UPDATE t SET id = id + 10, bare = bare || 'x' WHERE id = 1")
    db.rows("UPDATE t SET packed = packed, bare = lower(bare)")
    assert_right(db)
    db.rows("ALTER TABLE t ALTER packed SET STORAGE EXTERNAL, ALTER bare SET STORAGE EXTENDED")
    db.rows("UPDATE t SET packed = packed || '', many = many || 7; "
            "INSERT INTO t SELECT id + 100, n, packed, bare, words, many FROM t")
    assert_right(db)
    db.rows("DELETE FROM t WHERE id < 5")
    db.session.execute("VACUUM FULL t")
    assert_right(db)
    for change in ("overlay(bare PLACING '!' FROM 999999)", "left(bare, -1)"):
        with db.session.transaction(force_rollback=True):
            behind_its_back(db, f"UPDATE t SET bare = {change} WHERE id = 11")
            assert problems(db) == [CHANGED]
