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


def covers_all(snapshot, other):
    """Whether a snapshot covers all transactions that another one covers."""
    (_, xmax, in_progress), (_, other_xmax, other_in_progress) = snapshot.split(":"), other.split(":")
    waiting = {int(xid) for xid in in_progress.split(",") if xid}
    later = range(int(xmax), int(other_xmax))
    return not any(covers(other, xid) for xid in [*waiting, *later])


def settings(key_column, shift, names):
    names = sorted(name.encode() for name in names)
    return sized(key_column.encode()) + u8(shift) + u32(len(names)) + b"".join(map(sized, names))


def listed(last, incarnation):
    """The other incarnations that a block lists, after a last block."""
    if last is None:
        return {}
    listed = {**last.earlier, last.incarnation: last.snapshot}
    listed.pop(incarnation, None)
    return listed


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
    # The last snapshots of other incarnations.
    earlier: dict
    rows: int
    settings: bytes
    sum: int
    previous: bytes
    head: bytes

    def snapshot_of(self, incarnation):
        """The last snapshot of an incarnation that closed blocks. A snapshot of nothing if it closed none."""
        return {**self.earlier, self.incarnation: self.snapshot}.get(incarnation, "1:1:")


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
        self.keys = {use: hmac.digest(subkey, u8(use) + self.id, "sha256") for use in range(1, 8)}

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

    def nonce(self, random, write):
        """The nonce for a content, which `write` makes of a nonce and of what masks a sum."""
        plain = write(bytes(16), lambda total, place: total.to_bytes(32, "big"))
        return self.mac(7, random + plain)[:16]

    def written(self, use, kind, random, write):
        """A content with its nonce, its masked sums and its MAC."""
        nonce = self.nonce(random, write)
        return self.sealed(use, write(nonce, lambda total, place: self.masked(total, kind, nonce, place)))

    def sealed(self, use, content):
        return content + self.mac(use, content)

    def opened(self, use, stored):
        """The content of what was sealed, without its MAC, which must be right."""
        content, mac = stored[:-32], stored[-32:]
        assert hmac.compare_digest(self.mac(use, content), mac), "altered"
        reader = Reader(content)
        assert reader.number(1) == 1, "another version"
        return reader

    def seal_difference(self, random, incarnation, xid, parts):
        parts = {place: part for place, part in sorted(parts.items()) if part != (0, 0)}

        def write(nonce, masked):
            content = u8(1) + u64(incarnation) + u64(xid) + nonce + u32(len(parts))
            for place, (rows, total) in parts.items():
                content += u64(place) + i64(rows) + masked(total, place)
            return content

        return self.written(4, 1, random, write)

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

    def seal_block(self, random, last, incarnation, at, snapshot, rows, total, settings):
        """The block after the last one, which is None for the first."""
        number, previous, earlier = 1, START, listed(last, incarnation)
        if last:
            number, previous = last.number + 1, last.head

        def write(nonce, masked):
            content = u8(1) + u64(number) + u64(incarnation) + i64(at) + sized(snapshot.encode())
            content += u32(len(earlier))
            for other, seen in sorted(earlier.items()):
                content += u64(other) + sized(seen.encode())
            return content + i64(rows) + sized(settings) + nonce + masked(total, 0) + previous

        return self.written(5, 2, random, write)

    def open_block(self, stored):
        reader = self.opened(5, stored)
        number, incarnation, at = reader.number(8), reader.number(8), reader.number(8, signed=True)
        snapshot, earlier = reader.take(reader.number(4)).decode(), {}
        for _ in range(reader.number(4)):
            other = reader.number(8)
            assert other not in {*earlier, incarnation} and other > max(earlier, default=-1)
            earlier[other] = reader.take(reader.number(4)).decode()
        rows, settings, nonce = reader.number(8, signed=True), reader.take(reader.number(4)), reader.take(16)
        total, previous = self.unmasked(reader.take(32), 2, nonce, 0), reader.take(32)
        assert not reader.rest
        return Block(number, incarnation, at, snapshot, earlier, rows, settings, total, previous, stored[-32:])

    def seal_range(self, random, block, place, rows, total):
        def write(nonce, masked):
            return u8(1) + u64(place) + u64(block) + i64(rows) + nonce + masked(total, place)

        return self.written(6, 3, random, write)

    def open_range(self, stored):
        reader = self.opened(6, stored)
        place, block, rows = reader.number(8), reader.number(8), reader.number(8, signed=True)
        nonce = reader.take(16)
        total = self.unmasked(reader.take(32), 3, nonce, place)
        assert not reader.rest
        return StoredRange(place, block, rows, total)

    def check(self, blocks, ranges, differences, table, own, now, settings, heads=()):
        """Whether the table, as the sums of its ranges, is as the ledger says. `own` is the database's
        incarnation, `now` the snapshot of the check, `heads` are pairs of a block's number and its head."""
        chain = [self.open_block(stored) for stored in sorted(blocks)]
        before, is_own, kept_until = None, False, max((number for number, _ in heads), default=0)
        for number, block in enumerate(chain, 1):
            if block.number != number or block.previous != (before.head if before else START):
                return False
            if block.earlier != listed(before, block.incarnation) or block.settings != settings:
                return False
            if before and not covers_all(block.snapshot, before.snapshot_of(block.incarnation)):
                return False
            if is_own and block.incarnation != own and number > kept_until:
                return False
            is_own = is_own or block.incarnation == own
            before = block
        if any(number > len(chain) or chain[number - 1].head != head for number, head in heads):
            return False
        if not covers_all(now, chain[-1].snapshot_of(own)):
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
            is_replay = covers(last.snapshot_of(made_by), difference.xid)
            is_foreign = made_by not in {own, last.incarnation}
            is_ahead = made_by == own and not covers(now, difference.xid)
            if (made_by, difference.xid) in seen or is_ahead or is_foreign or is_replay:
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
        """The random part of a nonce."""
        return hashlib.sha256(f"nonce {of}".encode()).digest()[:16]

    secret, id = bytes(range(32)), bytes(range(100, 116))
    ledger = Ledger(secret, id)
    int8, text, stamp = b"bigint", b"pg_catalog.text", b"timestamp with time zone"
    address = b"public.address(street pg_catalog.text, number integer)"
    rows = [
        [],
        [(b"id", int8, i64(1))],
        [(b"id", int8, i64(7)), (b"name", text, "Zoë".encode()), (b"at", stamp, i64(-1))],
        [(b"name", text, b""), (b"id", int8, i64(7)), (b"at", stamp, None)],
        [(b"price", b"public.price over numeric", b"1.50"), (b"at", b"public.address[] " + address, b"{}")],
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
    plans = [("id", 12, []), ("größe", 64, ["id", "Z", "größe", "a"]), ("", 0, [""])]
    blocks, last = [], None
    for of, at, snapshot, count, summed, plan in [
        (own, 8 * 10**14, "10:20:10,14", 3, sum(hashes[:3]) % MODULUS, plans[0]),
        (own + 1, -1, "30:30:", -1, 0, plans[1]),
        (own - 1, 0, "5:5:", 2**63 - 1, MODULUS - 1, plans[1]),
        (own, 1, "14:21:14", 0, hashes[4], plans[0]),
    ]:
        blocks.append(ledger.seal_block(
            nonce(f"block {len(blocks) + 1}"), last, of, at, snapshot, count, summed, settings(*plan)))
        last = ledger.open_block(blocks[-1])
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
                    "snapshot": block.snapshot, "rows": block.rows, "settings": block.settings.hex(),
                    "sum": number(block.sum), "bytes": stored.hex(), "head": block.head.hex()}
                   for stored in blocks for block in [ledger.open_block(stored)]],
        "settings": [{"key_column": key, "shift": shift, "names": names, "bytes": settings(key, shift, names).hex()}
                     for key, shift, names in plans],
        "stored_ranges": [{"nonce": nonce(f"range {n}").hex(), "block": n + 1, "range": place, "rows": rows,
                           "sum": number(part),
                           "bytes": ledger.seal_range(nonce(f"range {n}"), n + 1, place, rows, part).hex()}
                          for n, (place, (rows, part)) in enumerate(parts.items())],
    }


if __name__ == "__main__":
    print(json.dumps(vectors(), indent=1))
