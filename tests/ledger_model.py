"""A ledger, computed as docs/ledger-format.md says, independently of the library.

`python3 tests/ledger_model.py` prints the test vectors that the library checks too:
`core/src/ledger/vectors.json`.
"""

import hashlib
import hmac
import json
from dataclasses import dataclass, field

MODULUS = 2**256
START = bytes(32)
SHIFTS = {"integer": 12, "timestamp": 32, "date": 6, "bytes": 52, "other": 64}


def u8(number):
    return number.to_bytes(1, "big")


def u32(number):
    return number.to_bytes(4, "big")


def u64(number):
    return number.to_bytes(8, "big")


def i64(number):
    return number.to_bytes(8, "big", signed=True)


def sized(content):
    return u32(len(content)) + content


def incarnation(system_identifier, database):
    content = b"keysmith.incarnation.v1\0" + u64(system_identifier) + u32(database)
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")


def range_of(kind, content, shift=None):
    """The range of a row, by the content of its primary key's first column."""
    shift = SHIFTS[kind] if shift is None else shift
    if kind == "other":
        number = 0
    elif kind == "bytes":
        number = int.from_bytes(content[:8].ljust(8, b"\0"), "big")
    else:
        number = int.from_bytes(content, "big", signed=True) + 2**63
    return number >> shift


def covers(snapshot, xid):
    """Whether a snapshot, as text, sees a transaction as decided."""
    _, xmax, in_progress = snapshot.split(":")
    return xid < int(xmax) and str(xid) not in in_progress.split(",")


class Reader:
    def __init__(self, content):
        self.rest = content

    def take(self, length):
        assert len(self.rest) >= length
        taken, self.rest = self.rest[:length], self.rest[length:]
        return taken

    def number(self, length, signed=False):
        return int.from_bytes(self.take(length), "big", signed=signed)


@dataclass
class Difference:
    incarnation: int
    xid: int
    # Rows and sum of each range.
    parts: dict


@dataclass
class Block:
    number: int
    incarnation: int
    at: int
    snapshot: str
    rows: int
    sum: int
    previous: bytes
    head: bytes


@dataclass
class StoredRange:
    range: int
    block: int
    rows: int
    sum: int


@dataclass
class Ledger:
    secret: bytes
    id: bytes
    keys: dict = field(init=False)

    def __post_init__(self):
        extracted = hmac.digest(bytes(32), self.secret, "sha256")
        subkey = hmac.digest(extracted, b"keysmith/ledger/1" + u8(1), "sha256")
        self.keys = {use: hmac.digest(subkey, u8(use) + self.id, "sha256") for use in range(1, 7)}

    def mac(self, use, content):
        return hmac.digest(self.keys[use], content, "sha256")

    def hash(self, columns):
        """The hash of a row. `columns` has the name, the type and the content of each column, as bytes."""
        written = b""
        for name, kind, content in sorted(columns, key=lambda column: column[0]):
            if content is not None:
                written += self.mac(1, sized(name) + sized(kind))[:16] + sized(content)
        return int.from_bytes(self.mac(2, written), "big")

    def sums(self, rows):
        """The rows and the sum of each range. `rows` are pairs of a range and a hash."""
        parts = {}
        for place, hashed in rows:
            count, total = parts.get(place, (0, 0))
            parts[place] = count + 1, (total + hashed) % MODULUS
        return parts

    def mask(self, kind, nonce, place):
        return int.from_bytes(self.mac(3, u8(kind) + nonce + u64(place)), "big")

    def masked(self, value, kind, nonce, place):
        return ((value + self.mask(kind, nonce, place)) % MODULUS).to_bytes(32, "big")

    def unmasked(self, masked, kind, nonce, place):
        return (int.from_bytes(masked, "big") - self.mask(kind, nonce, place)) % MODULUS

    def sealed(self, use, content):
        return content + self.mac(use, content)

    def opened(self, use, stored):
        """The content of what was sealed, without its MAC, which must be right."""
        content, mac = stored[:-32], stored[-32:]
        assert hmac.compare_digest(self.mac(use, content), mac), "altered"
        reader = Reader(content)
        assert reader.number(1) == 1, "another version"
        return reader

    def seal_difference(self, nonce, incarnation, xid, parts):
        parts = {place: part for place, part in sorted(parts.items()) if part != (0, 0)}
        content = u8(1) + u64(incarnation) + u64(xid) + nonce + u32(len(parts))
        for place, (rows, total) in parts.items():
            content += u64(place) + i64(rows) + self.masked(total, 1, nonce, place)
        return self.sealed(4, content)

    def open_difference(self, stored):
        reader = self.opened(4, stored)
        read = Difference(reader.number(8), reader.number(8), {})
        nonce, last = reader.take(16), -1
        for _ in range(reader.number(4)):
            place, rows = reader.number(8), reader.number(8, signed=True)
            assert place > last
            read.parts[place] = rows, self.unmasked(reader.take(32), 1, nonce, place)
            last = place
        assert not reader.rest
        return read

    def seal_block(self, nonce, number, incarnation, at, snapshot, rows, total, previous=START):
        content = u8(1) + u64(number) + u64(incarnation) + i64(at) + sized(snapshot.encode())
        content += i64(rows) + nonce + self.masked(total, 2, nonce, 0) + previous
        return self.sealed(5, content)

    def open_block(self, stored):
        reader = self.opened(5, stored)
        number, incarnation, at = reader.number(8), reader.number(8), reader.number(8, signed=True)
        snapshot = reader.take(reader.number(4)).decode()
        rows, nonce = reader.number(8, signed=True), reader.take(16)
        total, previous = self.unmasked(reader.take(32), 2, nonce, 0), reader.take(32)
        assert not reader.rest
        return Block(number, incarnation, at, snapshot, rows, total, previous, stored[-32:])

    def seal_range(self, nonce, block, place, rows, total):
        content = u8(1) + u64(place) + u64(block) + i64(rows) + nonce + self.masked(total, 3, nonce, place)
        return self.sealed(6, content)

    def open_range(self, stored):
        reader = self.opened(6, stored)
        place, block, rows = reader.number(8), reader.number(8), reader.number(8, signed=True)
        nonce = reader.take(16)
        total = self.unmasked(reader.take(32), 3, nonce, place)
        assert not reader.rest
        return StoredRange(place, block, rows, total)

    def check(self, blocks, ranges, differences, table, own, now, heads=()):
        """Whether the table, as the sums of its ranges, is as the ledger says. `own` is the database's
        incarnation, `now` the snapshot of the check, `heads` are pairs of a block's number and its head."""
        chain = [self.open_block(stored) for stored in sorted(blocks)]
        previous = START
        for number, block in enumerate(chain, 1):
            if block.number != number or block.previous != previous:
                return False
            previous = block.head
        if any(number > len(chain) or chain[number - 1].head != head for number, head in heads):
            return False
        expected, last, seen = {}, chain[-1], set()
        for part in map(self.open_range, ranges):
            if part.range in expected:
                return False
            expected[part.range] = part.rows, part.sum
        if total(expected) != (last.rows, last.sum):
            return False
        for difference in map(self.open_difference, differences):
            made_by = difference.incarnation
            is_new = made_by == last.incarnation and not covers(last.snapshot, difference.xid)
            is_own = made_by == own != last.incarnation
            is_ahead = made_by == own and not covers(now, difference.xid)
            if (made_by, difference.xid) in seen or is_ahead or not (is_new or is_own):
                return False
            seen.add((made_by, difference.xid))
            expected = added(expected, difference.parts)
        return added(expected, {}) == table


def total(parts):
    return sum(rows for rows, _ in parts.values()), sum(part for _, part in parts.values()) % MODULUS


def added(parts, more):
    """The sums of two, without ranges that are zero."""
    sums = {place: total({0: parts.get(place, (0, 0)), 1: more.get(place, (0, 0))}) for place in {*parts, *more}}
    return {place: part for place, part in sums.items() if part != (0, 0)}


def vectors():
    """What both implementations must agree on. Sums are in hexadecimal, as bytes are."""
    def number(of):
        return f"{of:064x}"

    def nonce(of):
        return hashlib.sha256(f"nonce {of}".encode()).digest()[:16]

    secret, id = bytes(range(32)), bytes(range(100, 116))
    ledger = Ledger(secret, id)
    int8, text, stamp = b"pg_catalog.int8", b"pg_catalog.text", b"pg_catalog.timestamptz"
    rows = [
        [],
        [(b"id", int8, i64(1))],
        [(b"id", int8, i64(7)), (b"name", text, "Zoë".encode()), (b"at", stamp, i64(-1))],
        [(b"name", text, b""), (b"id", int8, i64(7)), (b"at", stamp, None)],
        [("größe".encode(), text, b"x" * 300), (b"Z", text, b"\0"), (b"a", text, b"\xff" * 33)],
    ]
    hashes = [ledger.hash(row) for row in rows]
    keys = [
        ("integer", i64(0)), ("integer", i64(4095)), ("integer", i64(-1)),
        ("integer", (-5).to_bytes(2, "big", signed=True)),
        ("integer", (70000).to_bytes(4, "big")), ("integer", i64(2**63 - 1)), ("timestamp", i64(8 * 10**14)),
        ("timestamp", i64(-(2**63))), ("date", (9000).to_bytes(4, "big")),
        ("date", (-1).to_bytes(4, "big", signed=True)),
        ("bytes", b""), ("bytes", b"a"), ("bytes", b"acme-0001-long"), ("other", b"x"),
    ]
    own = incarnation(7300000000000000001, 16384)
    parts = {0: (1, hashes[1]), 2**51: (-2, -hashes[2] % MODULUS), 2**64 - 1: (0, hashes[3])}
    first = ledger.seal_block(nonce("block 1"), 1, own, 8 * 10**14, "10:20:10,14", 3, sum(hashes[:3]) % MODULUS)
    second = ledger.seal_block(nonce("block 2"), 2, own + 1, -1, "30:30:", -1, 0, first[-32:])
    return {
        "secret": secret.hex(),
        "id": id.hex(),
        "rows": [{"columns": [[name.decode(), kind.decode(), None if content is None else content.hex()]
                              for name, kind, content in row], "hash": number(hashed)}
                 for row, hashed in zip(rows, hashes)],
        "ranges": [{"kind": kind, "content": content.hex(), "range": range_of(kind, content)}
                   for kind, content in keys],
        "incarnations": [{"system_identifier": of, "database": oid, "incarnation": incarnation(of, oid)}
                         for of, oid in [(7300000000000000001, 16384), (2**64 - 1, 2**32 - 1)]],
        "differences": [{"nonce": nonce(n).hex(), "incarnation": own, "xid": xid,
                         "parts": [[place, rows, number(part)] for place, (rows, part) in of.items()],
                         "bytes": ledger.seal_difference(nonce(n), own, xid, of).hex()}
                        for n, (xid, of) in enumerate([(1000, parts), (2**63 + 1, {})])],
        "blocks": [{"nonce": nonce(f"block {block.number}").hex(), "incarnation": block.incarnation, "at": block.at,
                    "snapshot": block.snapshot, "rows": block.rows, "sum": number(block.sum), "bytes": stored.hex(),
                    "head": block.head.hex()}
                   for stored in [first, second] for block in [ledger.open_block(stored)]],
        "stored_ranges": [{"nonce": nonce(f"range {n}").hex(), "block": n + 1, "range": place, "rows": rows,
                           "sum": number(part),
                           "bytes": ledger.seal_range(nonce(f"range {n}"), n + 1, place, rows, part).hex()}
                          for n, (place, (rows, part)) in enumerate(parts.items())],
    }


if __name__ == "__main__":
    print(json.dumps(vectors(), indent=1))
