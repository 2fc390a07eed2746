"""Each threat of the table in `threats.py` is done, with a pepper and without."""

import re
from pathlib import Path

import psycopg
import pytest

import threats
from conftest import session
from ledger_model import Ledger, range_of, u64, u8
from ledgers import DIFFERENCE, STORED, behind_its_back, incarnation, kept_head, more, problems, quiet_cluster
from threats import OWNER, SUPERUSER, THREATS, WRITER

# A superuser stands for who holds the disk, or restores a part of a backup. See also test_row_ledger_disk.py.
ROLES = {WRITER: "writer", OWNER: "owner", SUPERUSER: "postgres"}
# Afterwards the triggers are as they were.
PAST_THE_TRIGGERS = {OWNER: (
    "ALTER TABLE t DISABLE TRIGGER USER", 'ALTER TABLE t ENABLE TRIGGER USER, ENABLE ALWAYS TRIGGER "~keysmith_3_truncate", '
                                          'ENABLE REPLICA TRIGGER "~keysmith_3_applied"')}
MAKE_ROLES = ("CREATE ROLE owner LOGIN; CREATE ROLE writer LOGIN; "
              "GRANT SET ON PARAMETER session_replication_role TO writer")
REPLICA = ("SET session_replication_role = replica", "RESET session_replication_role")


@pytest.fixture(scope="module", params=["a pepper", "no pepper"])
def cluster(request):
    with quiet_cluster(request.param == "a pepper", MAKE_ROLES) as cluster:
        cluster.has_pepper = request.param == "a pepper"
        yield cluster


def begin(db):
    """A table with two blocks."""
    db.session.execute("""
        GRANT ALL ON SCHEMA public TO owner, writer; CREATE SCHEMA attic AUTHORIZATION owner; GRANT USAGE ON SCHEMA attic TO writer;
        SELECT keysmith.grant_access('owner', 'verifier');
        SET ROLE owner; CREATE TABLE t (id int PRIMARY KEY, owner text, balance int);
        GRANT ALL ON t TO writer;
        INSERT INTO t SELECT i, 'ann', i FROM generate_series(1, 10) i; INSERT INTO t SELECT i, 'bob', i FROM generate_series(5001, 5010) i;
        SELECT keysmith.ledger('t');
        INSERT INTO t VALUES (11, 'cid', 11); RESET ROLE""")
    db.rows(f"CREATE TABLE attic.closed AS SELECT * FROM {DIFFERENCE}")
    assert kept_head(db)["position"] == 2


def go_on(db):
    """A third block and two open differences, and what an attacker has kept since block 2."""
    for table in ["public.t", *STORED]:
        db.rows(f"CREATE TABLE attic.{table.split('.')[1]} AS SELECT * FROM {table}")
    db.session.execute("GRANT SELECT ON ALL TABLES IN SCHEMA attic TO PUBLIC; DELETE FROM t WHERE id = 11; "
                       "UPDATE t SET balance = 50 WHERE id IN (5, 5001)")
    head = kept_head(db)
    assert head["position"] == 3
    db.session.execute("CREATE TABLE another (id int PRIMARY KEY); SELECT keysmith.ledger('another'); "
                       "INSERT INTO another VALUES (1)")
    db.rows(f"CREATE TABLE attic.of_another AS SELECT * FROM {DIFFERENCE}")
    db.session.execute("SELECT keysmith.unledger('another'); DROP TABLE another")
    db.rows("INSERT INTO t VALUES (21, 'dan', 21)")
    db.rows("UPDATE t SET balance = 60 WHERE id = 6")
    assert problems(db, heads=head) == []
    return head


@pytest.fixture
def head(db):
    begin(db)
    return go_on(db)


def found(db, *heads):
    return [re.sub(r"transaction \d+", "transaction N", text) for text in problems(db, heads=list(heads) or None)]


def check(has_pepper, db, threat, head):
    assert found(db) == threat.finds(has_pepper)
    assert found(db, head) == threat.finds(has_pepper, has_head=True)
    if threat.head == threats.FAILS:
        with pytest.raises(psycopg.Error) as error:
            db.call("ledger_head", "t")
        assert error.value.sqlstate.startswith("KS"), error.value
    else:
        db.call("ledger_head", "t")
    # A block covers up nothing that was found.
    assert (found(db, head) == []) == (threat.finds(has_pepper, has_head=True) == [])


def test_the_documents_have_the_table():
    assert threats.markdown() in (Path(__file__).resolve().parent.parent / "docs/row-ledger.md").read_text()


STATEMENTS = [(name, by) for name, threat in THREATS.items() if threat.script for by in threat.by if by in ROLES]


@pytest.mark.parametrize("name, by", STATEMENTS)
def test_a_threat_by_statements(cluster, dbname, db, head, name, by):
    begin, end = PAST_THE_TRIGGERS.get(by, REPLICA)
    if name in ("begun again", "through the triggers"):
        begin = end = "SELECT"
    attacker = session(cluster, dbname, ROLES[by])
    attacker.rows(begin)
    attacker.session.execute(THREATS[name].script)
    attacker.rows(end)
    attacker.session.close()
    check(cluster.has_pepper, db, THREATS[name], head)


@pytest.mark.parametrize("by", [WRITER, OWNER])
def test_others_reach_nothing_that_is_stored(cluster, dbname, db, head, by):
    attacker = session(cluster, dbname, ROLES[by])
    tried = {name: threat.script for name, threat in THREATS.items() if threat.script and by not in threat.by}
    tried["read"] = "SELECT secret FROM keysmith_private.ledger"
    for name, script in tried.items():
        if name != "begun again":
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                attacker.session.execute(script)
    if by == WRITER:
        for call in ("unledger('t')", "ledger('t')"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                attacker.session.execute(f"SELECT keysmith.{call}")
    attacker.session.close()
    assert found(db, head) == []


def test_who_reads_all_data_reads_the_secret(cluster, dbname, db, head):
    """Without a pepper. Nor is a pepper in the database."""
    cluster.execute("GRANT pg_read_all_data TO writer")
    try:
        reader = session(cluster, dbname, "writer")
        secret = reader.value("SELECT secret FROM keysmith_private.ledger")
        assert (secret is None) == cluster.has_pepper
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.rows(f"DELETE FROM {DIFFERENCE}")
        reader.session.close()
    finally:
        cluster.execute("REVOKE pg_read_all_data FROM writer")


# What needs more than statements

def hash_of(ledger, row):
    return ledger.hash([(b"id", b"integer", row.id.to_bytes(4, "big")), (b"owner", b"pg_catalog.text", row.owner.encode()),
                        (b"balance", b"integer", row.balance.to_bytes(4, "big"))])


def test_a_difference_that_is_forged(cluster, db, head):
    """With a pepper, the attacker can only guess."""
    stored = db.row("SELECT ledger_id, secret FROM keysmith_private.ledger")
    assert (stored.secret is None) == cluster.has_pepper
    ledger = Ledger(stored.secret or bytes(32), stored.ledger_id.bytes)
    old = db.row("SELECT * FROM t WHERE id = 7")
    new = old._replace(balance=1_000_000)
    place = range_of("integer", old.id.to_bytes(4, "big"))
    with db.session.transaction():
        xid = int(db.value("SELECT pg_current_xact_id()::text"))
        behind_its_back(db, "UPDATE t SET balance = %s WHERE id = 7", new.balance)
        change = (hash_of(ledger, new) - hash_of(ledger, old)) % 2**256
        forged = ledger.seal_difference(bytes(16), incarnation(db), xid, {place: (0, change)})
        db.rows(f"INSERT INTO {DIFFERENCE} VALUES (%s, %s)", stored.ledger_id, forged)
    check(cluster.has_pepper, db, THREATS["difference forged"], head)


def test_a_transaction_that_was_rolled_back_is_done_after_all(cluster, dbname, db, head):
    db.session.execute("BEGIN; INSERT INTO t VALUES (31, 'eve', 31)")
    xid = int(db.value("SELECT pg_current_xact_id()::text"))
    db.session.execute(f"PREPARE TRANSACTION '{dbname}'")
    db.rows(f"ROLLBACK PREPARED '{dbname}'")
    db.rows("CHECKPOINT")
    file = (cluster.data / db.value(f"SELECT pg_relation_filepath('{DIFFERENCE}')")).read_bytes()
    at = file.index(u8(1) + u64(incarnation(db)) + u64(xid))
    parts = int.from_bytes(file[at + 33:at + 37], "big")
    difference = file[at:at + 37 + 48 * parts + 32]
    ledger = db.value("SELECT ledger_id FROM keysmith_private.ledger")
    behind_its_back(db, "INSERT INTO t VALUES (31, 'eve', 31)")
    assert found(db) == [more(1)]
    db.rows(f"INSERT INTO {DIFFERENCE} VALUES (%s, %s)", ledger, difference)
    check(cluster.has_pepper, db, THREATS["difference of a rollback"], head)


@pytest.fixture
def copy(cluster, dbname, db, head):
    """A restored dump, with the same ledger."""
    name = f"{dbname}_copy"
    cluster.execute(f"CREATE DATABASE {name}")
    cluster.psql(cluster.program("pg_dump", dbname=dbname).stdout, dbname=name)
    there = session(cluster, name)
    yield there
    there.session.close()
    cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")


def differences(db):
    return {(row.ledger_id, row.difference) for row in db.rows(f"SELECT ledger_id, difference FROM {DIFFERENCE}")}


def test_a_difference_that_a_restored_dump_made(cluster, db, head, copy):
    before = differences(copy)
    copy.rows("INSERT INTO t VALUES (31, 'eve', 31)")
    ((ledger, difference),) = differences(copy) - before
    behind_its_back(db, "INSERT INTO t VALUES (31, 'eve', 31)")
    db.rows(f"INSERT INTO {DIFFERENCE} VALUES (%s, %s)", ledger, difference)
    check(cluster.has_pepper, db, THREATS["difference of a copy"], head)


def test_a_restored_dump_takes_differences_of_its_original_until_it_closes_a_block(db, head, copy):
    """What the documents say of a dump. So close a block soon."""
    before = differences(db)
    db.rows("INSERT INTO t VALUES (31, 'eve', 31)")
    ((ledger, difference),) = differences(db) - before
    behind_its_back(copy, "INSERT INTO t VALUES (31, 'eve', 31)")
    copy.rows(f"INSERT INTO {DIFFERENCE} VALUES (%s, %s)", ledger, difference)
    assert found(copy, head) == THREATS["difference of the original"].found
    copy.rows(f"DELETE FROM {DIFFERENCE} WHERE difference = %s", difference)
    assert found(copy) == [more(1)]
    behind_its_back(copy, "DELETE FROM t WHERE id = 31")
    copy.call("ledger_head", "t")
    behind_its_back(copy, "INSERT INTO t VALUES (31, 'eve', 31)")
    copy.rows(f"INSERT INTO {DIFFERENCE} VALUES (%s, %s)", ledger, difference)
    assert found(copy, head) == [threats.FOREIGN, more(1)]


@pytest.mark.parametrize("change", [
    "UPDATE keysmith_private.ledger SET secret = '\\x{0}'", "UPDATE keysmith_private.ledger SET secret = '\\x{0}', generation = 0",
    "UPDATE keysmith_private.ledger SET secret = '\\x', generation = 0",
    "UPDATE keysmith_private.ledger SET secret = NULL, generation = 9",
    "UPDATE keysmith_private.ledger SET ledger_id = gen_random_uuid()", "UPDATE keysmith_private.ledger SET shift = 20",
    "UPDATE keysmith_private.ledger SET shift = -1", "UPDATE keysmith_private.ledger SET key_column = 'owner'",
    "UPDATE keysmith_private.ledger SET key_column = 'x'", "UPDATE keysmith_private.ledger SET columns = '{{}}'",
    "UPDATE keysmith_private.ledger SET columns = '{{owner}}'", "UPDATE keysmith_private.ledger SET columns = '{{x}}'",
    "UPDATE keysmith_private.ledger SET columns = '{{NULL}}'", "DELETE FROM keysmith_private.ledger",
    "UPDATE keysmith_private.ledger SET relation = 'attic.t'::regclass", "UPDATE keysmith_private.ledger SET relation = 0::oid",
])
def test_what_describes_the_ledger_is_altered(cluster, db, head, change):
    """Then a check finds problems or fails. It never says that all is right, unless it is."""
    db.rows("UPDATE t SET balance = 70 WHERE id = 7")
    behind_its_back(db, "UPDATE t SET balance = 1000000 WHERE id = 8")
    db.rows(change.format("00" * 32))
    try:
        result = found(db, head)
    except psycopg.Error as error:
        assert error.sqlstate.startswith("KS"), error
    else:
        assert result != []
    with pytest.raises(psycopg.Error) as error:
        db.rows("UPDATE t SET balance = 71 WHERE id = 7")
        db.rows("SELECT 1/0")
    assert error.value.sqlstate.startswith("KS") or error.value.sqlstate == "22012", error.value
