"""What a ledger stores, and the sums of its table, computed from the bytes by an independent implementation."""

import ledger_model
from cluster import running
from conftest import session
from ledger_model import Ledger, range_of
from ledgers import (BLOCK, DIFFERENCE, QUIET, RANGE, assert_deletions_are_noticed, cluster, incarnation,  # noqa: F401
                     kept_head)
from rows import PEPPERS

SETUP = ("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 10) i; "
         "SELECT keysmith.ledger('t')")


def i32(number):
    return number.to_bytes(4, "big", signed=True)


def model_of(db, pepper):
    stored = db.row("SELECT ledger_id, secret, generation FROM keysmith_private.ledger")
    assert (stored.generation == 0) == (pepper is None)
    return Ledger(pepper or stored.secret, stored.ledger_id.bytes)


def sums(db, ledger):
    """The sums of the ranges of the table, by its rows."""
    def hashed(row):
        value = None if row.v is None else row.v.encode()
        return ledger.hash([(b"id", b"integer", i32(row.id)), (b"v", b"pg_catalog.text", value)])

    return ledger.sums((range_of("integer", i32(row.id)), hashed(row)) for row in db.rows("SELECT * FROM t"))


def check_by_the_model(db, pepper):
    ledger = model_of(db, pepper)
    db.session.execute("INSERT INTO t VALUES (5000, 'größe'), (-7, ''), (9000000, NULL)")
    heads = [kept_head(db)]
    db.session.execute("DELETE FROM t WHERE id = 3; UPDATE t SET v = 'x' WHERE id IN (4, 5000)")
    heads.append(kept_head(db))
    db.rows("UPDATE t SET id = 12345 WHERE id = 9000000")
    db.rows("INSERT INTO t VALUES (70, 'y'); UPDATE t SET v = 'z' WHERE id = 70")
    with db.session.transaction():
        db.rows("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        blocks, ranges, differences = (
            [stored for stored, in db.rows(f"SELECT {column} FROM {table} ORDER BY 1")]
            for column, table in (("block", BLOCK), ("stored", RANGE), ("difference", DIFFERENCE)))
        table, now = sums(db, ledger), db.value("SELECT pg_current_snapshot()::text")
    assert (len(blocks), len(differences)) == (3, 2)
    opened = [ledger.open_block(block) for block in blocks]
    assert [(block.number, block.rows, block.head.hex()) for block in opened[1:]] \
        == [(head["position"], head["rows"], head["head"]) for head in heads]
    assert {block.incarnation for block in opened} == {incarnation(db)}
    settings = ledger_model.settings("id", 12, [])
    kept = [(head["position"], bytes.fromhex(head["head"])) for head in heads]
    assert ledger.check(blocks, ranges, differences, table, incarnation(db), now, settings, kept)
    # The model notices what the library does.
    assert not ledger.check(blocks, ranges, differences[1:], table, incarnation(db), now, settings, kept)
    # Stored are the ranges that had rows in the last block.
    assert {ledger.open_range(stored).range for stored in ranges} \
        == {range_of("integer", i32(key)) for key in (1, 5000, -7, 9000000)}
    assert_deletions_are_noticed(db)


def test_the_sums_are_those_of_the_format_with_a_pepper(db):
    db.session.execute(SETUP)
    check_by_the_model(db, bytes.fromhex(PEPPERS[1]))


def test_the_sums_are_those_of_the_format_without_a_pepper():
    with running("unpeppered", **QUIET) as bare:
        db = session(bare)
        db.rows("CREATE EXTENSION keysmith")
        db.session.execute(SETUP)
        check_by_the_model(db, None)
        db.session.close()
