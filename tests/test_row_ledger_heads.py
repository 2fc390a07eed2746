"""Heads of ledgers: what they are, what they prove later, and who closes blocks."""

import re

import psycopg
import pytest
from psycopg.types.json import Jsonb

from cluster import running
from conftest import session, wait_until
from ledgers import BLOCK, CHANGED, DIFFERENCE, RANGE, assert_right, behind_its_back, cluster, kept_head, problems  # noqa: F401


@pytest.fixture
def table(db):
    db.rows("CREATE TABLE t (id int PRIMARY KEY, v text)")
    db.rows("INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 10) i")
    db.call("ledger", "t")
    return db


OTHER, MISSING = "block {} is not the one whose head was kept", (
    "block {}, whose head was kept, is not there: the table is older than the head, or blocks were removed")


def test_a_head(table):
    first = table.one("ledger_head", "t")
    assert table.value("SELECT 't'::regclass::oid") == table.value("SELECT relation::oid FROM keysmith.ledger_head('t')")
    assert (first.position, first.rows) == (1, 10)
    assert re.fullmatch("[0-9a-f]{64}", first.head)
    assert table.value("SELECT %s BETWEEN now() - interval '1 hour' AND clock_timestamp()", first.at)
    # Nothing is open.
    assert table.one("ledger_head", "t") == first
    table.rows("INSERT INTO t VALUES (11); DELETE FROM t WHERE id < 3")
    second = table.one("ledger_head", "t")
    assert (second.position, second.rows) == (2, 9)
    assert second.at > first.at and second.head != first.head
    assert table.one("ledger_head", "t") == second
    # A change that changes nothing may be a block, and has as many rows.
    table.rows("UPDATE t SET v = v")
    assert table.one("ledger_head", "t").rows == 9
    assert problems(table, heads=[{"relation": "t", "position": 1, "head": first.head, "rows": 10, "at": str(first.at)}]) == []


def test_heads_are_those_of_one_ledger(table):
    """Two tables that are the same have other heads, and so has a ledger that begins again."""
    table.session.execute("CREATE TABLE u AS TABLE t; ALTER TABLE u ADD PRIMARY KEY (id); SELECT keysmith.ledger('u')")
    kept = kept_head(table)
    assert kept["head"] != kept_head(table, "u")["head"]
    assert problems(table, "u", kept | {"relation": "u"}) == [OTHER.format(1)]
    table.session.execute("SELECT keysmith.unledger('t'), keysmith.ledger('t')")
    assert problems(table, heads=kept) == [OTHER.format(1)]


def test_many_heads(table):
    heads = [kept_head(table)]
    for n in range(11, 20):
        table.rows(f"INSERT INTO t VALUES ({n})")
        heads.append(kept_head(table))
    assert [head["position"] for head in heads] == list(range(1, 11))
    collected = table.value("SELECT jsonb_agg(h) FROM keysmith.ledger_head('t') h")
    for given in ([], heads, heads * 2, list(reversed(heads)), heads[4], collected):
        assert problems(table, heads=given) == []
    assert table.rows("SELECT * FROM keysmith.verify_ledger('t', NULL)") == []
    wrong = heads[4] | {"head": heads[5]["head"]}
    assert problems(table, heads=[*heads, wrong]) == problems(table, heads=wrong) == [OTHER.format(5)]
    assert problems(table, heads=[heads[0] | {"position": 11}, wrong]) == [OTHER.format(5), MISSING.format(11)]
    assert problems(table, heads=wrong | {"head": heads[5]["head"].upper()}) != []


def test_heads_of_other_tables_are_left_out(table):
    table.session.execute("CREATE TABLE u (id int PRIMARY KEY); SELECT keysmith.ledger('u'); CREATE TABLE plain (id int)")
    heads = [kept_head(table), kept_head(table, "u")]
    wrong = "00" * 32
    assert problems(table, heads=heads) == problems(table, "u", heads) == []
    # As long as the other ledger has them: the name may be that of another table now.
    for other in (heads[1], heads[0] | {"relation": "plain"}):
        assert problems(table, heads=[*heads, other | {"head": wrong}]) == [OTHER.format(1)]
    # But not those of a name that no table has: the table may have been renamed.
    assert problems(table, heads=heads[0] | {"relation": "old_name", "head": wrong}) == [OTHER.format(1)]
    table.session.execute("ALTER TABLE t RENAME TO new_name; CREATE SCHEMA s; ALTER TABLE new_name SET SCHEMA s")
    assert problems(table, "s.new_name", heads[0]) == []
    assert problems(table, "s.new_name", heads[0] | {"head": wrong}) == [OTHER.format(1)]


GOOD = {"relation": "t", "position": 1, "rows": 10, "head": "00" * 32, "at": "2026-01-01T00:00:00+00:00"}
NO_HEADS = [1, "x", True, [1], [None], [[]], [[GOOD]], {}, [{}], {"relation": "t"},
            {"position": 1, "head": "00" * 32, "relation": 5},
            *[GOOD | wrong for wrong in (
                {"head": None}, {"head": 5}, {"head": ""}, {"head": "00" * 31}, {"head": "00" * 33}, {"head": "zz" * 32},
                {"head": "é" * 32},
                {"position": None}, {"position": "1"}, {"position": -1}, {"position": 1.5}, {"position": 1e300},
                {"position": 2**63},
                {"position": 0}, {"note": "x"}, {"relation": ["t"]}, {"relation": "a.b.c.d"}, {"relation": '"'}, {"relation": ""})]]


@pytest.mark.parametrize("given", NO_HEADS, ids=str)
def test_what_is_no_head(table, given):
    for heads in (given, [GOOD, given]) if not isinstance(given, list) else (given,):
        assert "heads" in table.refused("KS400", "verify_ledger", "t", Jsonb(heads))


def test_more_heads_than_can_be_read(table):
    kept = kept_head(table)
    assert "heads" in table.refused("KS400", "verify_ledger", "t", Jsonb([kept] * 100_000))
    assert problems(table, heads=[kept] * 3000) == []


def test_a_head_of_the_json_null(table):
    assert "heads" in table.refused("KS400", "verify_ledger", "t", Jsonb(None))


# Who closes blocks

def position(db, table="t"):
    return db.value('SELECT "position" FROM keysmith.ledgers WHERE relation = %s::regclass', table)


def test_a_transaction_appends_one_difference_for_a_table(table):
    opened = "SELECT open FROM keysmith.ledgers WHERE relation = 't'::regclass"
    table.call("ledger_head", "t")
    assert table.value(opened) == 0
    with table.session.transaction():
        for n in range(21, 26):
            table.rows(f"INSERT INTO t VALUES ({n}); UPDATE t SET v = 'x' WHERE id = {n - 20}")
    assert table.value(opened) == 1
    # Reading, changing nothing and rolling back append nothing.
    table.session.execute("UPDATE t SET v = 'x' WHERE false; SELECT * FROM t")
    table.session.execute("BEGIN; UPDATE t SET v = 'y'; ROLLBACK")
    assert table.value(opened) == 1
    table.rows("UPDATE t SET v = 'z' WHERE id = 25")
    assert table.value(opened) == 2
    assert_right(table)
    assert table.value(opened) == 0


def test_transactions_that_only_read(table):
    head = kept_head(table)
    table.rows("INSERT INTO t VALUES (11)")
    for isolation in ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"):
        with table.session.transaction(force_rollback=True):
            table.rows(f"SET TRANSACTION ISOLATION LEVEL {isolation}, READ ONLY")
            assert problems(table, heads=head) == []
            # The last block, since none can be closed.
            assert kept_head(table) == head
    assert kept_head(table)["position"] == head["position"] + 1


def test_maintain_closes_blocks(table):
    table.call("maintain")
    assert position(table) == 1
    table.session.execute("CREATE TABLE u (id int PRIMARY KEY); SELECT keysmith.ledger('u'); INSERT INTO u VALUES (1); "
                          "INSERT INTO t VALUES (11)")
    table.call("maintain")
    assert (position(table), position(table, "u")) == (2, 2)
    assert [row.open for row in table.rows("SELECT open FROM keysmith.ledgers")] == [0, 0]
    table.call("maintain")
    assert (position(table), position(table, "u")) == (2, 2)
    assert_right(table, "t", "u")


OF_T = "(SELECT ledger_id FROM keysmith_private.ledger WHERE relation = 't'::regclass)"
BROKEN = {
    "a block is altered": f"UPDATE {BLOCK} SET block = set_byte(block, 60, get_byte(block, 60) # 1) WHERE ledger_id = {OF_T}",
    "a block is garbage": f"UPDATE {BLOCK} SET block = 'x' WHERE ledger_id = {OF_T}",
    "a block has another number": f"UPDATE {BLOCK} SET number = 7 WHERE ledger_id = {OF_T}",
    "a later block is an earlier one": f"INSERT INTO {BLOCK} SELECT ledger_id, 2, block FROM {BLOCK} WHERE ledger_id = {OF_T}",
    "no blocks": f"DELETE FROM {BLOCK} WHERE ledger_id = {OF_T}",
    "a range is altered": f"UPDATE {RANGE} SET stored = set_byte(stored, 50, get_byte(stored, 50) # 1) WHERE ledger_id = {OF_T}",
    "a range is garbage": f"UPDATE {RANGE} SET stored = 'x' WHERE ledger_id = {OF_T}",
    "a difference is garbage": f"UPDATE {DIFFERENCE} SET difference = 'x' WHERE ledger_id = {OF_T}",
    "another secret": "UPDATE keysmith_private.ledger SET generation = 0, secret = sha256('x') WHERE relation = 't'::regclass",
    "no secret": "UPDATE keysmith_private.ledger SET generation = 0, secret = NULL WHERE relation = 't'::regclass",
    "a short secret": "UPDATE keysmith_private.ledger SET generation = 0, secret = 'x' WHERE relation = 't'::regclass",
    "another pepper": "UPDATE keysmith_private.ledger SET generation = 9 WHERE relation = 't'::regclass",
    "another shift": "UPDATE keysmith_private.ledger SET shift = 300 WHERE relation = 't'::regclass",
    "a negative shift": "UPDATE keysmith_private.ledger SET shift = -1 WHERE relation = 't'::regclass",
    "another key": "UPDATE keysmith_private.ledger SET key_column = 'x' WHERE relation = 't'::regclass",
    "another table": "UPDATE keysmith_private.ledger SET relation = 'pg_class'::regclass WHERE relation = 't'::regclass",
    "a table that is gone": "UPDATE keysmith_private.ledger SET relation = 4000000000::oid WHERE relation = 't'::regclass",
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_ledger_that_is_broken_does_not_stop_the_others(table, what):
    table.session.execute("CREATE TABLE u (id int PRIMARY KEY); SELECT keysmith.ledger('u'); INSERT INTO t VALUES (11); "
                          "INSERT INTO u VALUES (11)")
    table.rows(BROKEN[what])
    for n in range(2):
        table.call("maintain")
        assert position(table, "u") == n + 2
        assert_right(table, "u")
        table.rows("INSERT INTO u VALUES (%s)", n)
    # A check reports it or fails. It does not pass.
    try:
        found = problems(table)
    except psycopg.Error as error:
        assert error.sqlstate.startswith("KS"), error
    else:
        assert found != []
    table.session.execute("SELECT keysmith.ledger('u'), * FROM keysmith.ledgers")


@pytest.mark.parametrize("how", ["SELECT keysmith.maintain()", "SELECT keysmith.ledger_head('t')"])
def test_a_block_that_can_not_be_closed_changes_nothing(table, how):
    table.session.execute(f"INSERT INTO t VALUES (11); CREATE TABLE kept AS SELECT * FROM {RANGE}")
    table.rows(BROKEN["a range is altered"])
    for _ in range(2):
        try:
            table.rows(how)
        except psycopg.Error as error:
            assert error.sqlstate == "KS409", error
    table.rows(f"UPDATE {RANGE} r SET stored = k.stored FROM kept k WHERE k.range = r.range AND k.ledger_id = r.ledger_id")
    assert position(table) == 1
    assert_right(table)


def test_the_worker_closes_blocks():
    with running("worker") as cluster:
        db = session(cluster)
        db.session.execute("CREATE EXTENSION keysmith; CREATE TABLE t (id int PRIMARY KEY); SELECT keysmith.ledger('t')")
        db.rows("INSERT INTO t VALUES (1)")
        wait_until(lambda: position(db) == 2, 300)
        assert problems(db) == []
        assert kept_head(db)["position"] == 2
        db.session.close()


def test_without_a_preloaded_library():
    with running("bare", preload=False) as cluster:
        db = session(cluster)
        db.session.execute("CREATE EXTENSION keysmith; CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); "
                           "SELECT keysmith.ledger('t')")
        db.session.close()
        # The first statement of a session loads the library.
        for statement in ("INSERT INTO t VALUES (2)", "BEGIN; UPDATE t SET id = 3 WHERE id = 2; COMMIT", "TRUNCATE t",
                          "INSERT INTO t VALUES (4)"):
            db = session(cluster)
            db.session.execute(statement)
            db.session.close()
        db = session(cluster)
        assert_right(db)
        assert kept_head(db)["position"] == 2
        behind_its_back(db, "UPDATE t SET id = 5")
        assert problems(db) == [CHANGED]
        db.session.close()
