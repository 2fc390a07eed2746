"""The independent implementation of ledgers, and the test vectors that the library checks too."""

import json
import random
from pathlib import Path

import pytest

import ledger_model
from ledger_model import Ledger

VECTORS = json.loads((Path(__file__).resolve().parent.parent / "core/src/ledger/vectors.json").read_text())
OWN, OTHER = 7, 8
SETTINGS = ledger_model.settings("id", 12, [])


def test_the_vectors_are_those_of_the_format():
    assert ledger_model.vectors() == VECTORS


def test_what_is_sealed_is_opened():
    ledger = Ledger(bytes.fromhex(VECTORS["secret"]), bytes.fromhex(VECTORS["id"]))
    for vector in VECTORS["differences"]:
        read = ledger.open_difference(bytes.fromhex(vector["bytes"]))
        assert (read.incarnation, read.xid) == (vector["incarnation"], vector["xid"])
        assert [[place, rows, f"{part:064x}"] for place, (rows, part) in read.parts.items()] == vector["parts"]
    for vector in VECTORS["blocks"]:
        read = ledger.open_block(bytes.fromhex(vector["bytes"]))
        assert (read.snapshot, read.settings.hex()) == (vector["snapshot"], vector["settings"])
        assert (f"{read.sum:064x}", read.head.hex()) == (vector["sum"], vector["head"])
    for vector in VECTORS["stored_ranges"]:
        read = ledger.open_range(bytes.fromhex(vector["bytes"]))
        assert (read.range, read.block, read.rows) == (vector["range"], vector["block"], vector["rows"])
        assert f"{read.sum:064x}" == vector["sum"]


@pytest.mark.parametrize("kind", ["differences", "blocks", "stored_ranges"])
def test_what_was_altered_is_not_opened(kind):
    ledger = Ledger(bytes.fromhex(VECTORS["secret"]), bytes.fromhex(VECTORS["id"]))
    open_it = {"differences": ledger.open_difference, "blocks": ledger.open_block, "stored_ranges": ledger.open_range}
    stored = bytes.fromhex(VECTORS[kind][0]["bytes"])
    for place in range(len(stored)):
        altered = bytearray(stored)
        altered[place] ^= 1
        with pytest.raises(AssertionError, match="altered"):
            open_it[kind](bytes(altered))


class Table:
    """A table with its ledger."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.ledger = Ledger(self.random.randbytes(32), self.random.randbytes(16))
        self.rows, self.blocks, self.ranges, self.differences, self.settings = {}, [], {}, [], SETTINGS
        self.xid = 10
        self.close(OWN)

    def part(self, key, value):
        """The range and the hash of a row."""
        content = ledger_model.i64(key)
        hashed = self.ledger.hash([(b"id", b"bigint", content), (b"value", b"pg_catalog.text", value)])
        return ledger_model.range_of("integer", content), hashed

    def sums(self):
        return self.ledger.sums(self.part(*row) for row in self.rows.items())

    def set(self, incarnation, **values):
        before = self.sums()
        self.rows.update({int(key[1:]): value for key, value in values.items()})
        change = {place: (-rows, -part) for place, (rows, part) in before.items()}
        self.xid += 1
        sealed = self.ledger.seal_difference(
            self.random.randbytes(16), incarnation, self.xid, ledger_model.added(self.sums(), change))
        self.differences.append(sealed)

    def close(self, incarnation):
        sums = self.sums()
        last = self.ledger.open_block(self.blocks[-1]) if self.blocks else None
        rows, total = ledger_model.total(sums)
        self.xid += 1
        snapshot = f"{self.xid + 1}:{self.xid + 1}:"
        self.blocks.append(self.ledger.seal_block(
            self.random.randbytes(16), last, incarnation, 0, snapshot, rows, total, SETTINGS))
        self.ranges = {place: self.ledger.seal_range(self.random.randbytes(16), len(self.blocks), place, *part)
                       for place, part in sums.items()}
        self.differences = []

    def is_right(self, own=OWN, heads=()):
        now = f"{self.xid + 1}:{self.xid + 1}:"
        return self.ledger.check(
            self.blocks, self.ranges.values(), self.differences, self.sums(), own, now, self.settings, heads)

    def head(self):
        return len(self.blocks), self.blocks[-1][-32:]


@pytest.fixture
def table():
    table = Table(1)
    table.set(OWN, k1=b"a", k5000=b"b")
    table.close(OWN)
    table.set(OWN, k5000=b"c")
    table.set(OWN, k9000=b"d")
    return table


def test_a_table_is_as_its_ledger_says(table):
    heads = [(number, block[-32:]) for number, block in enumerate(table.blocks, 1)]
    assert table.is_right(heads=heads)
    table.differences.reverse()
    assert table.is_right(heads=heads)
    assert not table.is_right(heads=[(3, heads[1][1])])
    assert not table.is_right(heads=[(1, heads[1][1])])


@pytest.mark.parametrize("change", [
    lambda table: table.rows.pop(1),
    lambda table: table.rows.update({1: b"x"}),
    lambda table: table.rows.update({5000: b"b"}),
    lambda table: table.rows.update({7: b"x"}),
    lambda table: table.differences.pop(),
    lambda table: table.differences.append(table.differences[0]),
    lambda table: table.ranges.popitem(),
    lambda table: table.blocks.pop(),
    lambda table: table.blocks.pop(0),
    lambda table: setattr(table, "settings", ledger_model.settings("id", 13, [])),
])
def test_a_table_that_differs_is_noticed(table, change):
    change(table)
    assert not table.is_right()


def test_a_difference_counts_once_and_in_one_database(table):
    old = list(table.differences)
    table.close(OWN)
    assert table.is_right()
    table.differences = old[-1:]
    assert not table.is_right()

    # Made in a copy of the database, by a transaction that is in the future here.
    table.differences = []
    table.set(OWN, k1=b"w")
    assert table.is_right()
    table.xid -= 1
    assert not table.is_right()

    table.close(OWN)
    table.set(OTHER, k1=b"z")
    assert not table.is_right(OWN)
    assert table.is_right(OTHER)
    table.close(OTHER)
    assert table.is_right(OTHER)
    table.set(OWN, k1=b"y")
    assert not table.is_right(OTHER)
    # A return to the first database, which a kept head accepts.
    table.close(OWN)
    table.set(OWN, k1=b"x")
    assert not table.is_right()
    assert table.is_right(heads=[table.head()])
    # Differences that OTHER has in a block are not accepted again, though another database closed the last one.
    table.differences.append(table.ledger.seal_difference(bytes(16), OTHER, 20, {}))
    assert not table.is_right(heads=[table.head()])


def test_a_block_that_a_copy_closed_is_noticed(table):
    """A copy of the database has the same key, and its server closes blocks."""
    table.close(OWN)
    before, kept = table.differences[:], table.head()
    table.close(OTHER)
    assert table.is_right(OTHER)
    assert not table.is_right(OWN)
    assert not table.is_right(OWN, heads=[kept])
    assert table.is_right(OWN, heads=[table.head()])

    # A promoted copy has the same incarnation, and transactions that are ahead.
    table.blocks.pop()
    table.differences = before
    assert table.is_right(OWN)
    table.set(OWN, k1=b"v")
    table.close(OWN)
    assert table.is_right(OWN)
    table.xid -= 1
    assert not table.is_right(OWN)


def test_a_snapshot_covers_all_that_an_older_one_covers():
    rng = random.Random(2)

    def snapshot():
        xmin, length = rng.randrange(1, 12), rng.randrange(4)
        waiting = [str(xid) for xid in range(xmin, xmin + length) if rng.random() < 0.5]
        return f"{xmin}:{xmin + length}:{','.join(waiting)}"

    for one, other in [(snapshot(), snapshot()) for _ in range(2000)]:
        expected = all(ledger_model.covers(one, xid) for xid in range(20) if ledger_model.covers(other, xid))
        assert ledger_model.covers_all(one, other) == expected


def test_a_random_part_that_repeats_masks_other_sums_in_another_way():
    ledger = Ledger(bytes(32), bytes(16))
    sealed = [ledger.seal_range(bytes(16), 1, 2, 3, part) for part in [4, 5, 5]]
    nonces = [stored[25:41] for stored in sealed]
    assert nonces[0] != nonces[1] == nonces[2] != bytes(16)
    assert (int.from_bytes(sealed[1][41:73], "big") - int.from_bytes(sealed[0][41:73], "big")) % 2**256 != 1
