"""Ledgers that are declared again, ended, and used together with the other functions for tables."""

import psycopg
import pytest

from conftest import session
from ledgers import (BLOCK, CHANGED, DIFFERENCE, SEAL_WRONG, assert_deletions_are_noticed, assert_right, behind_its_back,  # noqa: F401
                     cluster, fewer, kept_head, more, problems)
from rows import notices, write_peppers  # noqa: F401

TRIGGERS = ["~keysmith_3_applied", "~keysmith_3_delete", "~keysmith_3_insert", "~keysmith_3_truncate", "~keysmith_3_update"]
ENABLED = "SELECT tgname, tgenabled::text FROM pg_trigger WHERE tgrelid = %s::regclass AND tgname ~ '^~keysmith_3' ORDER BY 1"


@pytest.fixture
def table(db):
    db.session.execute("CREATE TABLE t (id int PRIMARY KEY, v text); "
                       "INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 10) i; "
                       "SELECT keysmith.ledger('t')")
    return db


def state(db):
    return db.rows(ENABLED, "t"), db.rows(f"SELECT * FROM {BLOCK}"), db.rows("SELECT ledger_id, secret FROM keysmith_private.ledger")


def of_ledgers(db):
    return [row.finding for row in db.findings() if row.subject == "ledger"]


# Again

def test_again_without_a_change(table, notices):
    table.rows("INSERT INTO t VALUES (11)")
    before = state(table)
    assert before[0] == list(zip(TRIGGERS, "ROOAO"))
    oids = table.rows("SELECT oid, xmin FROM pg_trigger WHERE tgrelid = 't'::regclass ORDER BY oid")
    for columns in (None, []):
        table.call("ledger", "t", columns)
        assert state(table) == before
    assert table.rows("SELECT oid, xmin FROM pg_trigger WHERE tgrelid = 't'::regclass ORDER BY oid") == oids
    assert notices == []
    assert_right(table)


@pytest.mark.parametrize("change, found", [
    ("UPDATE t SET v = 'x' WHERE id = 1", CHANGED), ("DELETE FROM t WHERE id = 1", fewer(1)),
    ("INSERT INTO t VALUES (99)", more(1))])
def test_again_over_rows_that_differ(table, change, found):
    """It covers nothing up, whether parts or triggers are missing or not."""
    behind_its_back(table, change)
    for spoil in ("SELECT", "CREATE TABLE child () INHERITS (t)", 'DROP TRIGGER "~keysmith_3_delete" ON t'):
        with table.session.transaction(force_rollback=True):
            table.rows(spoil)
            before = state(table)
            with table.session.transaction(force_rollback=True), pytest.raises(psycopg.Error) as error:
                table.call("ledger", "t")
            assert error.value.sqlstate == "KS409"
            assert "does not agree with its ledger" in error.value.diag.message_primary
            assert "verify_ledger" in error.value.diag.message_hint
            assert state(table) == before
    assert problems(table) == [found]
    # Ended and begun, it has the rows as they are.
    table.session.execute("SELECT keysmith.unledger('t'), keysmith.ledger('t')")
    assert_right(table)


@pytest.mark.parametrize("change", [
    "ALTER TABLE t ALTER v TYPE varchar", "ALTER TABLE t ADD more int DEFAULT 5", "ALTER TABLE t RENAME v TO w"])
def test_again_over_changed_columns_hides_no_other_difference(table, change):
    """Hashes of the old columns can't be computed any more, so a check must come before."""
    head = kept_head(table)
    table.rows(change)
    table.call("ledger", "t")
    assert problems(table, heads=head) == ["block 1 is not the one whose head was kept"]
    assert_right(table)


@pytest.mark.parametrize("spoil", [
    "ALTER TABLE t DISABLE TRIGGER \"~keysmith_3_insert\"", "ALTER TABLE t DISABLE TRIGGER USER; ALTER TABLE t ENABLE TRIGGER USER",
    "ALTER TABLE t ENABLE ALWAYS TRIGGER \"~keysmith_3_applied\"", "ALTER TABLE t ENABLE REPLICA TRIGGER \"~keysmith_3_update\"",
    "DROP TRIGGER \"~keysmith_3_delete\" ON t", "DROP TRIGGER \"~keysmith_3_truncate\" ON t",
    "DROP TRIGGER \"~keysmith_3_applied\" ON t",
    "ALTER TRIGGER \"~keysmith_3_update\" ON t RENAME TO mine"])
def test_triggers_that_are_not_as_they_were_made(table, spoil):
    """A check and the doctor name them, and ledger() makes them as they were."""
    head = kept_head(table)
    table.session.execute(spoil)
    named = [row for row in table.call("verify_ledger", "t") if "trigger" in row.problem]
    assert named and problems(table) == [row.problem for row in named]
    assert len(of_ledgers(table)) == 1
    table.call("ledger", "t")
    assert table.rows(ENABLED, "t") == list(zip(TRIGGERS, "ROOAO"))
    assert of_ledgers(table) == []
    table.session.execute("INSERT INTO t VALUES (11); UPDATE t SET v = 'x'; DELETE FROM t WHERE id = 11")
    assert problems(table, heads=head) == []
    table.rows("TRUNCATE t")
    assert_right(table)


def test_modes_of_triggers_count_nothing_twice(table):
    """ENABLE TRIGGER USER gives each trigger the usual mode, also that for subscribers."""
    table.session.execute("ALTER TABLE t DISABLE TRIGGER USER; ALTER TABLE t ENABLE TRIGGER USER")
    table.session.execute("INSERT INTO t VALUES (11); UPDATE t SET v = 'x'; DELETE FROM t WHERE id = 1; TRUNCATE t; "
                          "INSERT INTO t VALUES (1)")
    assert [text for text in problems(table) if "trigger" not in text] == []
    table.session.execute("".join(f'ALTER TABLE t ENABLE ALWAYS TRIGGER "{name}";' for name in TRIGGERS))
    table.session.execute("INSERT INTO t VALUES (11); UPDATE t SET v = 'y'; DELETE FROM t WHERE id = 1")
    assert [text for text in problems(table) if "trigger" not in text] == []


# The end

def test_unledger(table):
    head = kept_head(table)
    with table.session.transaction(force_rollback=True):
        table.call("unledger", "t")
        assert table.rows(ENABLED, "t") == []
        table.rows("INSERT INTO t VALUES (99)")
    assert problems(table, heads=head) == []
    with table.session.transaction():
        # With changes of the same transaction.
        table.rows("INSERT INTO t VALUES (11)")
        table.call("unledger", "t")
        table.rows("INSERT INTO t VALUES (12)")
    assert "ledger" in table.refused("KS404", "verify_ledger", "t")
    assert table.value(f"SELECT count(*) FROM {DIFFERENCE}") == 0
    table.call("ledger", "t")
    assert_right(table)
    assert problems(table, heads=head) == ["block 1 is not the one whose head was kept"]


def test_a_ledger_that_begins_in_a_transaction_that_wrote(db):
    with db.session.transaction():
        db.session.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
        db.call("ledger", "t")
        db.rows("INSERT INTO t VALUES (2)")
        with db.session.transaction(force_rollback=True):
            db.rows("DELETE FROM t")
        assert problems(db) == []
        db.session.execute("SELECT keysmith.unledger('t'), keysmith.ledger('t'); INSERT INTO t VALUES (3)")
        assert problems(db) == []
    assert_right(db)
    with db.session.transaction(force_rollback=True):
        db.session.execute("SELECT keysmith.unledger('t'); INSERT INTO t VALUES (4); SELECT keysmith.ledger('t')")
    db.rows("INSERT INTO t VALUES (5)")
    assert_right(db)


SAVEPOINTS = {
    "begun, and not": ("BEGIN; SAVEPOINT a; SELECT keysmith.ledger('u'); INSERT INTO u VALUES (1); ROLLBACK TO a; "
                       "INSERT INTO u VALUES (2); "
                       "SELECT keysmith.ledger('u'); INSERT INTO u VALUES (3); COMMIT"),
    "ended, and not": ("SELECT keysmith.ledger('u')", "BEGIN; INSERT INTO u VALUES (1); SAVEPOINT a; "
                                                      "SELECT keysmith.unledger('u'); "
                       "INSERT INTO u VALUES (2); ROLLBACK TO a; INSERT INTO u VALUES (3); COMMIT"),
    "closed, and not": ("SELECT keysmith.ledger('u')", "INSERT INTO u VALUES (1)",
                        "BEGIN; INSERT INTO u VALUES (2); SAVEPOINT a; SELECT keysmith.ledger_head('u'); ROLLBACK TO a; "
                        "SELECT keysmith.ledger_head('u'); SELECT keysmith.ledger_head('u'); INSERT INTO u VALUES (3); COMMIT"),
    "begun and prepared": ("BEGIN; SELECT keysmith.ledger('u'); INSERT INTO u VALUES (1); SELECT keysmith.ledger_head('u'); "
                           "PREPARE TRANSACTION 'begun'", "COMMIT PREPARED 'begun'"),
    "closed and prepared": ("SELECT keysmith.ledger('u')", "INSERT INTO u VALUES (1)",
                            "BEGIN; INSERT INTO u VALUES (2); SELECT keysmith.ledger_head('u'); PREPARE TRANSACTION 'closed'",
                            "COMMIT PREPARED 'closed'"),
    "with a new extension": ("SELECT keysmith.ledger('u')", "BEGIN; INSERT INTO u VALUES (1); DROP EXTENSION keysmith CASCADE; "
                             "CREATE EXTENSION keysmith; INSERT INTO u VALUES (2); SELECT keysmith.ledger('u'); "
                             "INSERT INTO u VALUES (3); COMMIT"),
}


@pytest.mark.parametrize("what", SAVEPOINTS)
def test_calls_in_transactions_that_write(db, what):
    db.rows("CREATE TABLE u (id int PRIMARY KEY)")
    statements = SAVEPOINTS[what]
    for statement in [statements] if isinstance(statements, str) else statements:
        db.session.execute(statement)
    assert db.value("SELECT count(*) FROM u") in (1, 2, 3)
    assert_right(db, "u")
    assert_deletions_are_noticed(db, "u")


def test_a_table_that_is_dropped(table):
    table.rows("INSERT INTO t VALUES (11)")
    table.rows("DROP TABLE t")
    table.call("maintain")
    assert table.rows("SELECT * FROM keysmith.ledgers") == []
    assert of_ledgers(table) == []
    # A table of the same name has nothing to do with it.
    table.session.execute("CREATE TABLE t (id int PRIMARY KEY)")
    assert "ledger" in table.refused("KS404", "ledger_head", "t")
    table.call("ledger", "t")
    assert_right(table)


def test_the_extension_takes_its_ledgers_along(table):
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        table.rows("DROP EXTENSION keysmith")
    table.session.execute("BEGIN; INSERT INTO t VALUES (11); DROP EXTENSION keysmith CASCADE; COMMIT")
    table.session.execute("INSERT INTO t VALUES (12); TRUNCATE t; INSERT INTO t VALUES (1)")


# With others

def test_with_protect_and_seals(db):
    db.session.execute("CREATE TABLE t (id int PRIMARY KEY, email text, balance int, tenant_id uuid)")
    db.call("protect", "t", "email")
    db.call("seal_rows", "t")
    db.call("ledger", "t")
    db.session.execute("INSERT INTO t VALUES (1, 'ann', 10), (2, 'bob', 20), (3, 'cid', 30), (5001, 'dan', 40); "
                       "UPDATE t SET balance = 11 WHERE id = 1")
    assert_right(db)
    behind_its_back(db, "UPDATE t SET balance = 1000 WHERE id = 2; INSERT INTO t VALUES (4, 'eve', 1)")
    found = [(row.primary_key, row.problem) for row in db.call("verify_ledger", "t") if row.primary_key]
    assert sorted(found, key=str) == [({"id": 2}, SEAL_WRONG), ({"id": 4}, "is not sealed")]
    assert [row.problem for row in db.call("verify_ledger", "t") if not row.primary_key] == [more(1)]
    row = [row for row in db.call("verify_ledger", "t") if row.primary_key == {"id": 2}][0]
    assert db.value(f"SELECT id FROM {row.part} WHERE ctid = %s", row.row_id) == 2
    # A deleted row and an old one have no wrong seal.
    behind_its_back(db, "DELETE FROM t WHERE id IN (4, 3); UPDATE t SET balance = 20 WHERE id = 2")
    assert problems(db) == [fewer(1)] and db.call("verify_rows", "t") == []
    # The one whose row is right is not named, even if its seal is not: the ledger says that it was written so.
    db.session.execute("SELECT keysmith.unseal_rows('t')")
    db.rows("UPDATE t SET email = 'x' WHERE id = 5001")
    assert problems(db) == [fewer(1)]


def test_with_isolation_and_tracking(db):
    db.rows("CREATE TABLE t (id int PRIMARY KEY, tenant_id uuid DEFAULT keysmith.current_tenant_id(), v text)")
    db.call("ledger", "t")
    db.call("isolate", "t", "tenant_id")
    db.call("track", "t")
    db.tenant()
    key = db.mint()
    db.rows("CREATE ROLE ledger_app; GRANT ALL ON t TO ledger_app")
    try:
        with db.session.transaction():
            assert db.verify(key.api_key, sign_in=True).ok
            db.rows("SET LOCAL ROLE ledger_app")
            db.rows("INSERT INTO t (id, v) VALUES (1, 'x'), (2, 'y')")
            db.rows("UPDATE t SET v = 'z' WHERE id = 1")
            db.rows("DELETE FROM t WHERE id = 2")
        assert_right(db)
        assert [row.rows for row in db.call("blast_radius", key.key_id)] != []
        db.call("release", "t")
        db.call("untrack", "t")
        assert_right(db)
    finally:
        db.rows("DROP OWNED BY ledger_app; DROP ROLE ledger_app")


def test_another_name_and_another_schema(table):
    head = kept_head(table)
    table.session.execute("ALTER TABLE t RENAME TO u; CREATE SCHEMA s; ALTER TABLE u SET SCHEMA s; ALTER SCHEMA s RENAME TO r; "
                          "INSERT INTO r.u VALUES (11)")
    assert problems(table, "r.u", head) == []
    assert_right(table, "r.u")
    assert table.value("SELECT relation::text FROM keysmith.ledgers") == "r.u"
    table.call("ledger", "r.u")
    assert problems(table, "r.u", head) == []


def test_the_view(cluster, dbname, table):
    table.session.execute("CREATE TABLE u (id int PRIMARY KEY, a int, b int); SELECT keysmith.ledger('u', '{b}'); "
                          "INSERT INTO u VALUES (1)")
    seen = 'SELECT relation::text, columns, "position", rows, open FROM keysmith.ledgers ORDER BY 1'
    assert table.rows(seen) == [("t", None, 1, 10, 0), ("u", ["b", "id"], 1, 0, 1)]
    kept_head(table, "u")
    assert table.rows(seen) == [("t", None, 1, 10, 0), ("u", ["b", "id"], 2, 1, 0)]
    assert table.value("SELECT at FROM keysmith.ledgers WHERE relation = 'u'::regclass") == table.one("ledger_head", "u").at
    table.rows("CREATE ROLE ledger_reader LOGIN; GRANT SELECT ON u TO ledger_reader")
    try:
        table.call("grant_access", "ledger_reader", "verifier")
        reader = session(cluster, dbname, "ledger_reader")
        assert [row.relation for row in reader.rows(seen)] == ["u"]
        table.call("grant_access", "ledger_reader", "admin")
        assert [row.relation for row in reader.rows(seen)] == ["t", "u"]
        reader.session.close()
    finally:
        table.rows("DROP OWNED BY ledger_reader; DROP ROLE ledger_reader")


def test_the_doctor(db):
    db.session.execute("""
        CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE low PARTITION OF p FOR VALUES FROM (0) TO (100);
        CREATE TABLE t (id int PRIMARY KEY, v text); SELECT keysmith.ledger('p'), keysmith.ledger('t')""")
    assert of_ledgers(db) == []
    db.rows("CREATE TABLE high PARTITION OF p FOR VALUES FROM (100) TO (200)")
    (found,) = [row for row in db.findings() if row.subject == "ledger"]
    assert "high" in found.finding
    db.rows(found.remedy)
    assert of_ledgers(db) == []
    for change in ("ALTER TABLE t ALTER v TYPE varchar", "ALTER TABLE t DISABLE TRIGGER USER",
                   "ALTER TABLE low DISABLE TRIGGER USER",
                   "ALTER TABLE t RENAME v TO w", "DROP TABLE t"):
        with db.session.transaction(force_rollback=True):
            db.rows(change)
            assert len(of_ledgers(db)) == 1, change


# Peppers

def test_a_pepper_that_is_gone(cluster, dbname, table):
    head = kept_head(table)
    assert (table.value("SELECT generation FROM keysmith_private.ledger"),
            table.value("SELECT secret FROM keysmith_private.ledger")) == (1, None)
    try:
        write_peppers(cluster, [1, 2])
        cluster.restart()
        db = session(cluster, dbname)
        db.session.execute("CREATE TABLE u (id int PRIMARY KEY); SELECT keysmith.ledger('u'); INSERT INTO t VALUES (11)")
        assert db.value("SELECT generation FROM keysmith_private.ledger WHERE relation = 'u'::regclass") == 2
        assert_right(db, "t", "u")
        write_peppers(cluster, [2])
        cluster.restart()
        db = session(cluster, dbname)
        assert_right(db, "u")
        for call in ("verify_ledger", "ledger"):
            assert "pepper" in db.refused("KS510", call, "t")
        with pytest.raises(psycopg.Error) as error:
            db.rows("INSERT INTO t VALUES (12)")
        assert error.value.sqlstate == "KS510"
        assert len(of_ledgers(db)) == 1
        db.call("maintain")
    finally:
        write_peppers(cluster, [1])
        cluster.restart()
    db = session(cluster, dbname)
    assert problems(db, heads=head) == []
    assert_right(db)
    db.session.close()
