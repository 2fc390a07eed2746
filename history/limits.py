"""Accepted calls never exceed the burst and what has come back since, and a call is refused only if
the bucket may have been empty. A server that starts has full buckets, and each counts for itself."""

from collections import defaultdict
from math import inf

from decisions import DECISIONS, MAKE_KEYS, keys_of
from record import Problem

# Of a call: clocks are read with this precision.
EXACT = 1e-3


class Call:
    def __init__(self, op, end):
        self.op, self.weight, self.i, self.r = op, op.args["weight"], op.i, min(op.r, end)


def bucket_of(keys, sizes, op):
    """The holder and the size of the limit that the request is counted in, if there is one."""
    key = keys.get(op.args["key"])
    if key is None:
        return None, None
    holder = key.root if key.root in sizes else (key.keyspace, key.tenant)
    return holder, sizes.get(holder)


def sizes_of(ops):
    """Limits, by their holder: a burst, and calls in a second."""
    sizes = {}
    for op in ops:
        if limit := op.args.get("limit"):
            holder = (op.args["keyspace"], op.args["tenant"])
            if op.kind in MAKE_KEYS:
                holder = (op.value or {}).get("key_id")
            sizes[holder] = limit["burst"], limit["rate"]
    return sizes


def problems(ops, final=None):
    keys, sizes, starts = keys_of(ops), sizes_of(ops), starts_of(ops)
    buckets = defaultdict(list)
    for op in ops:
        if op.kind in DECISIONS and op.args["weight"]:
            holder, size = bucket_of(keys, sizes, op)
            if size:
                buckets[holder, size, op.server].append(op)
    for (_, (burst, rate), server), calls in buckets.items():
        for epoch in epochs(calls, starts[server]):
            yield from too_many(epoch[0], burst, rate)
            yield from too_few(*epoch, burst, rate)


def starts_of(ops):
    """When a server ended, or started with an empty memory."""
    starts = defaultdict(list)
    for op in ops:
        if op.kind in ("restart", "crash") and op.outcome == "ok":
            starts[op.server].append(op)
    return starts


def epochs(calls, starts):
    """For each time between two starts, the calls that were in it and those that may have been."""
    edges = [(-inf, -inf), *((start.i, start.r) for start in starts), (inf, inf)]
    for (opening, opened), (closed, _) in zip(edges, edges[1:]):
        inside = [Call(op, closed) for op in calls if op.i > opened and op.r < closed]
        yield inside, [Call(op, closed) for op in calls if op.i < closed and (op.i > opening or opened < op.r < inf)]


def refused(call):
    return call.op.outcome == "ok" and call.op.value["reason"] == "rate_limited"


def counted(call):
    """The limits come before the credits; a refused request takes nothing from either."""
    return call.op.outcome == "ok" and call.op.value["ok"]


def too_many(calls, burst, rate):
    calls = [call for call in calls if counted(call)]
    by_return = sorted(calls, key=lambda call: call.r)
    worst = None
    for first in calls:
        among, weight = [], 0
        for call in by_return:
            if call.i >= first.i:
                among.append(call)
                weight += call.weight
                if weight > burst + rate * (call.r - first.i) + EXACT:
                    if worst is None or len(among) < len(worst):
                        worst = list(among)
                    break
    if worst:
        length = max(call.r for call in worst) - min(call.i for call in worst)
        weight = sum(call.weight for call in worst)
        yield Problem("limits", f"{weight} calls passed in {length:.6f} s, where the burst is {burst} and "
                      f"{rate:g} come back in a second", [call.op for call in worst])


def too_few(calls, others, burst, rate):
    took = sorted((call for call in others if call.op.outcome != "ok" or counted(call)), key=lambda call: call.r)
    for call in calls:
        if not refused(call) or call.weight > burst:
            continue
        # As many as possible have been used: each as late as possible.
        used, at, recent = 0.0, -inf, []
        for other in took:
            if other.r <= call.i:
                rest = used - rate * (other.r - at) if at > -inf else 0
                recent = recent if rest > 0 else []
                used, at = max(0.0, rest) + other.weight, other.r
                recent.append(other)
        used = max(0.0, used - rate * (call.i - at)) if at > -inf else 0
        at_once = [other for other in took if other.r > call.i and other.i < call.r]
        used += sum(other.weight for other in at_once)
        if used + call.weight <= burst - EXACT:
            yield Problem("limits", f"a call for {call.weight} was refused, though at most {used:.3f} of "
                          f"{burst} were used", [call.op, *(other.op for other in recent + at_once)])
