"""The values that a reader may see of something that writers replace.

Each write took effect at one moment of an interval. A read that overlaps writes may see the state
before or after each of them. So a value is possible unless another write has certainly replaced it
before the read began.
"""

from bisect import bisect_left
from math import inf


class Write:
    def __init__(self, value, op=None):
        self.value, self.op = value, op
        self.since = op.since if op else -inf
        self.until = op.until if op else -inf       # when it had taken effect, if it has
        self.sure = op is None or op.fate == "kept"
        self.seen_at = {}                           # when a read on a server had seen it


class Register:
    def __init__(self, initial=None):
        self.writes = [Write(initial)]
        self.live = {}

    def write(self, value, op):
        """Writes are added in the order of `since`."""
        self.writes.append(Write(value, op))

    def possible(self, read, replays):
        """The writes that the read may see. Reads are asked in the order of their invocation."""
        live, after = self.live.get(read.server, ([], 0))
        while after < len(self.writes) and self.writes[after].since <= read.r:
            live.append(self.writes[after])
            after += 1
        bound = max((write.since for write in live
                     if write.sure and replays.seen(write, read.server) < read.i), default=-inf)
        live = [write for write in live if write.until >= bound]
        self.live[read.server] = live, after
        return [write for write in live if write.since <= read.r]


def observed(write, read):
    """Only this write explains what the read saw. So it took effect before the read returned."""
    write.sure = True
    if read.primary:
        write.until = min(write.until, read.r)
    # Another server may not have it yet; not even the primary, before the commit has returned.
    write.seen_at[read.server] = min(write.seen_at.get(read.server, inf), read.r)


class Replays:
    """When a server had replayed what was committed elsewhere."""

    def __init__(self, ops):
        self.of = {}
        for op in ops:
            if op.kind in ("replayed", "promoted") and op.outcome == "ok":
                self.of.setdefault(op.args["standby"], []).append((op.i, op.r))
        for server, events in self.of.items():
            first, earliest = inf, []
            for invoked, returned in sorted(events, reverse=True):
                first = min(first, returned)
                earliest.append((invoked, first))
            self.of[server] = earliest[::-1]

    def seen(self, write, server):
        """From when on each decision on the server sees the write."""
        if write.op is None:
            return -inf
        seen = write.seen_at.get(server, inf)
        if write.op.server == server:
            return min(seen, write.until)
        events = self.of.get(server, [])
        place = bisect_left(events, (write.until, -inf))
        return min(seen, events[place][1] if place < len(events) else inf)
