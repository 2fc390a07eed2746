"""Tables that can have no ledger, names that need quotes, and what the functions reject."""

import psycopg
import pytest

from conftest import session
from ledgers import CHANGED, STORED, assert_right, behind_its_back, kept_head, problems
from test_encodings import encoded  # noqa: F401

FOREIGN = "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w"
NO_TABLES = {
    "no primary key": "CREATE TABLE x (id int UNIQUE NOT NULL)",
    "a generated key": "CREATE TABLE x (a int, id int GENERATED ALWAYS AS (a * 2) STORED PRIMARY KEY)",
    "a key with a generated column": "CREATE TABLE x (a int, id int GENERATED ALWAYS AS (a * 2) STORED, PRIMARY KEY (a, id))",
    "an unlogged table": "CREATE UNLOGGED TABLE x (id int PRIMARY KEY)",
    "a temporary table": "CREATE TEMP TABLE x (id int PRIMARY KEY)",
    "a foreign table": f"{FOREIGN}; CREATE FOREIGN TABLE x (id int) SERVER s",
    "a foreign partition": f"{FOREIGN}; CREATE TABLE x (id int, k int) PARTITION BY LIST (k); "
                           "ALTER TABLE x ADD PRIMARY KEY (id, k); CREATE TABLE y (id int NOT NULL, k int NOT NULL) ; "
                           "CREATE TABLE z PARTITION OF x DEFAULT",
    "a foreign child": f"{FOREIGN}; CREATE TABLE x (id int PRIMARY KEY); CREATE FOREIGN TABLE y () INHERITS (x) SERVER s",
    "an unlogged partition": "CREATE TABLE x (id int PRIMARY KEY) PARTITION BY LIST (id); "
                             "CREATE UNLOGGED TABLE y PARTITION OF x DEFAULT",
    "an unlogged child": "CREATE TABLE x (id int PRIMARY KEY); CREATE UNLOGGED TABLE y () INHERITS (x)",
    "a temporary child": "CREATE TABLE x (id int PRIMARY KEY); CREATE TEMP TABLE y () INHERITS (x)",
    "a partition": "CREATE TABLE y (id int PRIMARY KEY) PARTITION BY LIST (id); CREATE TABLE x PARTITION OF y DEFAULT",
    "a middle partition": "CREATE TABLE y (id int PRIMARY KEY) PARTITION BY LIST (id); "
                          "CREATE TABLE x PARTITION OF y DEFAULT PARTITION BY LIST (id)",
    # Statements that name the parent go past the triggers of the child.
    "a child": "CREATE TABLE y (id int PRIMARY KEY); CREATE TABLE x (PRIMARY KEY (id)) INHERITS (y)",
    "a child of another table, too": "CREATE TABLE x (id int PRIMARY KEY); CREATE TABLE y (id int); "
                                     "CREATE TABLE z () INHERITS (x, y)",
    "a view": "CREATE VIEW x AS SELECT 1 AS id",
    "a materialized view": "CREATE MATERIALIZED VIEW x AS SELECT 1 AS id",
    "a sequence": "CREATE SEQUENCE x", "a type": "CREATE TYPE x AS (id int)",
    "an index": "CREATE TABLE y (id int PRIMARY KEY); CREATE INDEX x ON y (id)",
    "a catalog": None, "a shared catalog": None, "a table of ours": None, "a table of ledgers": None, "nothing": None,
    "nothing by number": None, "null": None,
}
NAMED = {"a catalog": "'pg_class'", "a shared catalog": "'pg_database'", "a table of ours": "'keysmith_private.key'",
         "a table of ledgers": "'keysmith_private.ledger_block'", "nothing": "0", "nothing by number": "4000000000::oid",
         "null": "NULL"}


def refusal(db, call):
    with pytest.raises(psycopg.Error) as error:
        db.rows(f"SELECT * FROM keysmith.{call}")
    return error.value.sqlstate, str(error.value)


@pytest.mark.parametrize("what", NO_TABLES)
def test_what_can_have_no_ledger(db, what):
    if what == "a foreign partition":
        db.session.execute(f"{FOREIGN}; CREATE TABLE x (id int PRIMARY KEY) PARTITION BY LIST (id)")
        # A primary key of the whole keeps foreign partitions away, unless they come first.
        with pytest.raises(psycopg.errors.WrongObjectType):
            db.rows("CREATE FOREIGN TABLE y PARTITION OF x DEFAULT SERVER s")
        return
    if NO_TABLES[what]:
        db.session.execute(NO_TABLES[what])
    named = NAMED.get(what, "'x'")
    state, message = refusal(db, f"ledger({named}::regclass)")
    assert state == "KS400" and "relation" in message, message
    assert db.value("SELECT count(*) FROM keysmith_private.ledger") == 0
    assert db.value("SELECT count(*) FROM pg_trigger WHERE tgname ~ '^~keysmith'") == 0
    for call in ("unledger", "ledger_head", "verify_ledger"):
        assert refusal(db, f"{call}({named}::regclass)")[0] in ("KS400", "KS404")


COLUMNS = [("{nothing}", "columns"), ("{id,nothing}", "columns"), ("{twice}", "generated"), ("{ctid}", "columns"),
           ("{NULL}", "columns"),
           ('{""}', "columns"), ("{V}", "columns"), ("{gone}", "columns")]


@pytest.mark.parametrize("given, message", COLUMNS)
def test_columns_that_are_none(db, given, message):
    db.session.execute("CREATE TABLE t (id int PRIMARY KEY, v text, n int, gone int, twice int GENERATED ALWAYS AS (n * 2) "
                       "STORED); "
                       "ALTER TABLE t DROP gone")
    state, text = refusal(db, f"ledger('t', '{given}')")
    assert state == "KS400" and message in text, text
    assert db.value("SELECT count(*) FROM keysmith_private.ledger") == 0


def test_columns_may_be_named_twice_or_not_at_all(db):
    db.session.execute("CREATE TABLE t (id int PRIMARY KEY, v text, n int); INSERT INTO t VALUES (1, 'x', 1)")
    for given in (["v", "v", "id"], ["id"], [], None):
        try:
            db.call("ledger", "t", given)
        except psycopg.Error as error:
            assert error.sqlstate == "KS400" and "columns" in str(error), error
            continue
        db.rows("UPDATE t SET v = v || 'x'; UPDATE t SET n = n + 1")
        assert_right(db)
    behind_its_back(db, "UPDATE t SET n = 99")
    assert problems(db) == [CHANGED]


def test_a_table_without_a_ledger(db):
    db.rows("CREATE TABLE t (id int PRIMARY KEY)")
    for call in ("unledger", "ledger_head", "verify_ledger"):
        state, message = refusal(db, f"{call}('t')")
        assert (state, "ledger" in message) == ("KS404", True), message


def test_types_without_binary_output(db):
    """Their text is covered."""
    types = [name for name, in db.rows("SELECT typname FROM pg_type WHERE typsend = 0 AND typtype = 'b' AND typname = 'aclitem'")]
    assert types == ["aclitem"]
    db.session.execute("CREATE TYPE pair AS (a aclitem, b int); "
                       "CREATE TABLE t (id int PRIMARY KEY, a aclitem, l aclitem[], p pair); "
                       "INSERT INTO t VALUES (1, 'postgres=r/postgres', '{postgres=r/postgres}', ROW('postgres=r/postgres', 1))")
    try:
        db.call("ledger", "t")
    except psycopg.Error as error:
        assert error.sqlstate == "KS400" and "type" in str(error), error
        return
    db.rows("INSERT INTO t SELECT 2, a, l, p FROM t; UPDATE t SET a = 'postgres=w/postgres' WHERE id = 1")
    assert_right(db)
    for column in "alp":
        with db.session.transaction(force_rollback=True):
            behind_its_back(db, f"UPDATE t SET {column} = NULL WHERE id = 2")
            assert problems(db) == [CHANGED]


def test_a_type_whose_output_fails_stops_writers_and_checks_with_its_error(db):
    """The owner's functions may fail at any time. Nothing is counted then."""
    db.session.execute("""
        CREATE TABLE t (id int PRIMARY KEY, v text); SELECT keysmith.ledger('t');
        CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
        CREATE CONSTRAINT TRIGGER z AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fails()""")
    with pytest.raises(psycopg.errors.RaiseException):
        db.rows("INSERT INTO t VALUES (1)")
    assert_right(db)


def test_no_rows(db):
    db.session.execute("CREATE TABLE t (id int PRIMARY KEY); SELECT keysmith.ledger('t')")
    head = kept_head(db)
    assert (head["position"], head["rows"]) == (1, 0)
    assert_right(db)
    db.rows("TRUNCATE t")
    db.rows("DELETE FROM t")
    assert_right(db)
    db.rows("INSERT INTO t VALUES (1)")
    db.rows("DELETE FROM t")
    assert_right(db)
    assert problems(db, heads=head) == []


def test_a_partitioned_table_without_partitions(db):
    db.session.execute("CREATE TABLE t (id int PRIMARY KEY) PARTITION BY LIST (id); SELECT keysmith.ledger('t')")
    assert_right(db)
    db.session.execute("CREATE TABLE one PARTITION OF t FOR VALUES IN (1); INSERT INTO t VALUES (1)")
    assert_right(db)


@pytest.mark.parametrize("change", ["ALTER TABLE t SET UNLOGGED", "ALTER TABLE t DROP CONSTRAINT t_pkey",
                                    "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (v, id)",
                                    "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (n)",
                                    "ALTER TABLE t ALTER n ADD GENERATED ALWAYS AS IDENTITY"])
def test_a_table_that_changes_its_kind(db, change):
    """Its writers may get an error. A check fails or is right."""
    db.session.execute("CREATE TABLE t (id int PRIMARY KEY, v text NOT NULL, n int NOT NULL UNIQUE); "
                       "INSERT INTO t VALUES (1, 'x', 1); "
                       "SELECT keysmith.ledger('t'); INSERT INTO t VALUES (2, 'y', 2)")
    db.rows(change)
    counted = True
    try:
        db.rows("UPDATE t SET v = 'z' WHERE id = 1")
        db.rows("DELETE FROM t WHERE id = 2")
    except psycopg.Error as error:
        assert error.sqlstate.startswith("KS"), error
        counted = False
    try:
        assert problems(db) == [] or not counted
    except psycopg.Error as error:
        assert error.sqlstate.startswith("KS"), error
    db.call("unledger", "t")
    db.rows("UPDATE t SET v = 'w'")


HOSTILE = ['"it\'s"."a ""b"" %I \\ é"', '"a.b"."c.d"', '"$$"."~keysmith_3"', '"x\ny"."select"', f'"{"é" * 31}"."{"ü" * 31}"']


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_names_that_need_quotes(db, name):
    schema, _, _ = name.partition('"."')
    column = '"c ""1"" \\é\'%"'
    db.session.execute(f'CREATE SCHEMA {schema}"; '
                       f'CREATE TABLE {name} ({column} text PRIMARY KEY, "%s\'" text, "{{}}" int, "{"ö" * 31}" int)'.encode())
    db.rows("SELECT keysmith.ledger(%s)", name)
    db.session.execute(f"INSERT INTO {name} VALUES ('x', 'y', 1, 2), ('z', 'y', 1, 2); "
                       f"UPDATE {name} SET {column} = 'w' WHERE {column} = 'x'".encode())
    head = db.value("SELECT to_jsonb(h) FROM keysmith.ledger_head(%s) h", name)
    assert head["rows"] == 2
    assert problems(db, name, head) == []
    db.session.execute(f"ALTER TABLE {name} DISABLE TRIGGER USER; UPDATE {name} SET \"{'{}'}\" = 5; "
                       f"ALTER TABLE {name} ENABLE TRIGGER USER".encode())
    assert CHANGED in problems(db, name, head)
    db.session.execute(f"ALTER TABLE {name} DISABLE TRIGGER USER; UPDATE {name} SET \"{'{}'}\" = 1; "
                       f"ALTER TABLE {name} ENABLE TRIGGER USER".encode())
    db.rows("SELECT keysmith.ledger(%s, ARRAY['c \"1\" \\é''%%', '%%s''', '{}'])", name)
    db.session.execute(f"DELETE FROM {name} WHERE {column} = 'z'".encode())
    assert problems(db, name) == []
    db.rows("SELECT keysmith.unledger(%s)", name)
    assert db.value("SELECT count(*) FROM pg_trigger WHERE tgrelid = %s::regclass", name) == 0


@pytest.mark.parametrize("encoding, word", [("LATIN1", "Größe"), ("EUC_JP", "顧客")])
def test_other_encodings(encoded, encoding, word):  # noqa: F811
    db = encoded(encoding)
    db.session.execute(f'CREATE SCHEMA "{word}"; CREATE TABLE "{word}"."{word}" ("{word}" text PRIMARY KEY, v text); '
                       f"SELECT keysmith.ledger('\"{word}\".\"{word}\"'); "
                       f"INSERT INTO \"{word}\".\"{word}\" VALUES ('{word}', '{word}')")
    table = f'"{word}"."{word}"'
    db.session.execute(f"UPDATE {table} SET v = v || 'x'")
    assert_right(db, table)
    head = kept_head(db, table)
    assert problems(db, table, head) == []
    behind_its_back(db, f"UPDATE {table} SET v = 'forged'")
    assert problems(db, table, head) == [CHANGED]


def test_a_dump_in_another_encoding_has_the_same_hashes(cluster, encoded):  # noqa: F811
    """Names and text are hashed in UTF-8."""
    db = encoded("LATIN1")
    db.session.execute("CREATE TABLE t (\"größe\" text PRIMARY KEY, v text); SELECT keysmith.ledger('t'); "
                       "INSERT INTO t VALUES ('jürgen', 'é')")
    head = kept_head(db)
    text = cluster.program("pg_dump", "--encoding=UTF8", dbname="in_latin1").stdout
    cluster.execute("CREATE DATABASE in_utf8")
    try:
        cluster.psql(text, dbname="in_utf8")
        there = session(cluster, "in_utf8")
        assert kept_head(there) == head
        assert problems(there, heads=head) == []
        assert_right(there)
        there.session.close()
    finally:
        cluster.execute("DROP DATABASE in_utf8 WITH (FORCE)")


def test_a_table_with_a_ledger_becomes_no_partition(db):
    db.session.execute("CREATE TABLE p (id int PRIMARY KEY) PARTITION BY LIST (id); SELECT keysmith.ledger('p'); "
                       "CREATE TABLE x (id int PRIMARY KEY); INSERT INTO x VALUES (1); SELECT keysmith.ledger('x')")
    with pytest.raises(psycopg.errors.DuplicateObject):
        db.rows("ALTER TABLE p ATTACH PARTITION x FOR VALUES IN (1)")
    db.session.execute("SELECT keysmith.unledger('x'); ALTER TABLE p ATTACH PARTITION x FOR VALUES IN (1); "
                       "SELECT keysmith.ledger('p')")
    assert_right(db, "p")


def test_a_trigger_of_the_owner_that_has_our_name_stays(db):
    db.session.execute("""CREATE TABLE t (id int PRIMARY KEY); CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER "~keysmith_3_insert" AFTER INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION own()""")
    with pytest.raises(psycopg.Error) as error:
        db.call("ledger", "t")
    assert error.value.sqlstate in ("KS409", "42710")
    assert db.value("SELECT tgfoid::regproc::text FROM pg_trigger WHERE tgrelid = 't'::regclass") == "own"


def test_a_ledger_leaves_nothing_behind(db):
    db.session.execute("CREATE TABLE t (id int PRIMARY KEY) PARTITION BY LIST (id); CREATE TABLE one PARTITION OF t DEFAULT; "
                       "SELECT keysmith.ledger('t'); INSERT INTO t VALUES (1)")
    kept_head(db)
    db.rows("INSERT INTO t VALUES (2)")
    db.call("unledger", "t")
    assert [db.value(f"SELECT count(*) FROM {stored}") for stored in STORED] == [0] * len(STORED)
    assert db.value("SELECT count(*) FROM pg_trigger WHERE tgname ~ '^~keysmith'") == 0
    assert db.rows("SELECT * FROM keysmith.ledgers") == []
    db.rows("INSERT INTO t VALUES (3)")
