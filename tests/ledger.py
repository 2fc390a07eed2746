"""What clients of several servers saw, compared with what is stored in the end.

A request belongs to the incarnation that accepted it: one life of a server's shared memory.
Servers are told apart by their incarnations, so the comparison needs no name of a server.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

# A replica that is cut off refuses good keys.
GUARDED = "replica_behind"


class Ledger:
    """What clients saw. Threads write to it at the same time, each by one operation."""

    def __init__(self):
        self.servers = {}
        self.let_in = defaultdict(list)
        self.refused = Counter()
        self.minted, self.revoked, self.in_doubt = {}, {}, set()
        # Sentences about what no client may ever see.
        self.broken = []
        self.checks = self.without_leader = 0

    def accepted(self):
        return sum(map(len, self.let_in.values()))


@dataclass
class Life:
    """An incarnation: what it accepted, and what became of that."""
    server: str
    let_in: int = 0
    stored_once: int = 0
    stored_twice: int = 0
    missing: int = 0
    # The reported bound of its loss, if one is reported.
    reported: int | None = None
    # Whether its memory was lost.
    ended_suddenly: bool = False


@dataclass
class Books:
    """The comparison."""
    lives: dict = field(default_factory=dict)
    refused: dict = field(default_factory=dict)
    minted: int = 0
    revoked: int = 0
    in_doubt: int = 0
    checks: int = 0
    without_leader: int = 0
    # By server: keys that its clients had, and that it does not know; revoked keys that it does not
    # refuse; others that it refuses.
    unknown: Counter = field(default_factory=Counter)
    revived: Counter = field(default_factory=Counter)
    withheld: Counter = field(default_factory=Counter)
    broken: list = field(default_factory=list)
    dropped: int = 0
    not_logged: int = 0
    # Those of the daily totals, and the rows.
    totals: tuple = (0, 0)
    audit: bool = True

    def sum(self, name):
        return sum(getattr(life, name) or 0 for life in self.lives.values())


def compare(ledger, stored, reported, ended_suddenly, verdicts):
    """`stored` has a request id for each row; `reported` the bounds of losses by incarnation, and
    `verdicts`, by server, the reason for each minted key."""
    stored = Counter(stored)
    books = Books(refused=dict(ledger.refused), minted=len(ledger.minted), revoked=len(ledger.revoked),
                  in_doubt=len(ledger.in_doubt), checks=ledger.checks,
                  without_leader=ledger.without_leader, broken=list(ledger.broken))
    for incarnation, server in ledger.servers.items():
        rows = [stored[request_id] for request_id in ledger.let_in[incarnation]]
        books.lives[incarnation] = Life(
            server, len(rows), rows.count(1), sum(row > 1 for row in rows), rows.count(0),
            reported.get(incarnation), incarnation in ended_suddenly)
    for incarnation in reported.keys() - ledger.servers.keys():
        books.lives[incarnation] = Life("an unknown server", reported=reported[incarnation])
    for server, reasons in verdicts.items():
        for key_id in ledger.minted:
            reason = reasons[key_id]
            books.unknown[server] += reason == "not_found"
            if key_id in ledger.revoked:
                books.revived[server] += reason not in ("revoked", "not_found")
            elif key_id not in ledger.in_doubt:
                books.withheld[server] += reason not in ("ok", "not_found")
    return books


def problems(books):
    """Everything that does not add up."""
    for incarnation, life in books.lives.items():
        who = f"{life.server} ({incarnation})"
        if life.missing > (life.reported or 0):
            yield f"{life.missing} requests that {who} accepted are not stored; {life.reported} are reported"
        if life.stored_twice:
            yield f"{life.stored_twice} requests of {who} are stored twice"
        if life.reported is not None and not life.ended_suddenly:
            yield f"a loss of at most {life.reported} is reported for {who}, which lost nothing"
        if life.ended_suddenly and life.let_in and life.reported is None:
            yield f"no loss is reported for {who}, which lost its memory"
    for (server, reason), times in books.refused.items():
        if reason != GUARDED:
            yield f"{server} refused good keys {times} times as {reason}"
    for what, keys in [("does not know", books.unknown), ("accepts revoked", books.revived),
                       ("refuses good", books.withheld)]:
        for server, count in keys.items():
            if count:
                yield f"{server} {what} keys: {count}"
    yield from books.broken
    if books.dropped:
        yield f"{books.dropped} records were dropped"
    if books.totals[0] != books.totals[1]:
        yield "the totals are {} for {} rows".format(*books.totals)
    if not books.audit:
        yield "the audit is not whole"
