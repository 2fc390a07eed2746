"""Each change of credits starts from what the change before it left, and a request is refused only
if there may have been too few."""

import itertools
from collections import defaultdict

from decisions import DECISIONS, keys_of
from record import Problem
from registers import Register, Replays, observed

# So many unknown changes at the same time would explain everything.
MOST = 8


def purse_of(keys, op):
    if op.args.get("key"):
        key = keys.get(op.args["key"])
        if key is None:
            return None
        return key.root if key.has_credits else (key.keyspace, key.tenant)
    if op.kind in ("add_credits", "balance"):
        return op.args["keyspace"], op.args["tenant"]
    return op.value["key_id"] if op.kind == "mint" and op.value and op.args.get("credits") is not None else None


def change(op):
    """What is added."""
    return op.args["amount"] if op.kind == "add_credits" else -op.args["spend"]


def left(op):
    """What was left after the operation, if it is known to have changed something."""
    if op.kind == "mint":
        return op.args["credits"]
    if op.kind == "add_credits":
        return (op.value or {}).get("credits")
    return op.value["credits_remaining"] if op.value and op.value["ok"] else None


def problems(ops, final=None):
    keys, purses = keys_of(ops), defaultdict(list)
    for op in ops:
        if op.kind in ("mint", "add_credits", "balance") or op.kind in DECISIONS and op.args["spend"]:
            if purse := purse_of(keys, op):
                purses[purse].append(op)
    replays = Replays(ops)
    for history in purses.values():
        yield from check(history, replays)


def check(ops, replays):
    register, loose, ids = Register(0), [], {op.id for op in ops}
    for op in sorted((op for op in ops if op.fate != "undone"), key=lambda op: op.since):
        if op.kind == "balance":
            continue
        if left(op) is None:
            if op.outcome == "unknown":
                loose.append(op)
            continue
        # The last of a transaction's changes has those before it; they have the same commit.
        last = register.writes[-1]
        if last.op and op.txn is not None and (last.op.client, last.op.txn) == (op.client, op.txn):
            if last.op.i < op.i:
                last.value, last.op = left(op), op
        else:
            register.write(left(op), op)
    for op in ops:
        if op.outcome == "ok" and op.kind != "mint":
            yield from check_one(op, ops, ids, register, loose, replays)


def check_one(op, ops, ids, register, loose, replays):
    mine = [earlier for earlier in op.own if earlier.id in ids and left(earlier) is not None]
    if mine:
        before, writes = {left(mine[-1]): None}, []
    else:
        writes = [write for write in register.possible(op, replays) if write.op is not op]
        before = {}
        for write in writes:
            also = [other for other in loose if other.since < op.r and other.until > write.since][:MOST + 1]
            if len(also) > MOST:
                return
            for n in range(len(also) + 1):
                for some in itertools.combinations(also, n):
                    before.setdefault(write.value + sum(map(change, some)), []).append(None if some else write)
    evidence = [op, *mine[-1:], *(write.op for write in writes if write.op), *(
        other for other in loose if not mine and other.since < op.r)]
    had = f"there were {' or '.join(map(str, sorted(before)))}"
    if op.kind == "balance":
        saw = op.value["credits"]
    elif left(op) is not None:
        saw = left(op) - change(op)
    else:
        reason = op.value["reason"]
        if reason == "credits_exhausted" and all(value >= op.args["spend"] for value in before):
            yield Problem("credits", f"{op.args['spend']} were refused, though {had}", evidence)
        if reason == "credits_unavailable" and op.primary and not op.args.get("read_only") \
                and not any(contends(other, op) for other in ops):
            yield Problem("credits", "nobody held the credits, and yet they were not available", [op])
        return
    if saw not in before:
        yield Problem("credits", f"this found {saw} credits, but {had}", evidence)
    elif before[saw] and len(before[saw]) == 1 and before[saw][0]:
        observed(before[saw][0], op)


def contends(other, op):
    """Whether another transaction may have held the credits."""
    if other is op or other.kind == "balance" or (other.client, other.txn) == (op.client, op.txn) and op.txn is not None:
        return False
    return other.i < op.r and other.ended > op.i
