"""Each request of a known key has one record, or a crash is reported that may have lost it."""

from collections import Counter, defaultdict

from decisions import DECISIONS, keys_of
from record import Problem

from plan import LOGS


# Of operations that differ in nothing.
SHOWN = 3


def leaves_record(keyspace, reason):
    log = LOGS[keyspace]
    return log == "everything" or log == "refusals" and reason != "ok"


def by_server(ops, kind):
    found = defaultdict(list)
    for op in ops:
        if op.kind == kind and op.outcome == "ok":
            found[op.server].append(op)
    return found


def may_lose(crash, request, flushes):
    """Whether the record may have been only in memory when the server crashed."""
    return crash.r > request.i and not any(request.ended <= flush.i and flush.r <= crash.i for flush in flushes)


def problems(ops, final):
    keys = keys_of(ops)
    crashes, flushes = by_server(ops, "crash"), by_server(ops, "flushed")
    rows = Counter(row["request_id"] for row in final["usage"])
    stored = {row["request_id"]: row for row in final["usage"]}
    known, doubtful, crashed, missing = set(), Counter(), [], []
    for op in ops:
        if op.kind not in DECISIONS:
            continue
        if op.outcome != "ok":
            doubtful[op.args["key"]] += 1
            continue
        id, reason = op.value["request_id"], op.value["reason"]
        known.add(id)
        wanted = reason != "not_found" and leaves_record(keys[op.args["key"]].keyspace, reason)
        if rows[id] > 1 or rows[id] and not wanted:
            yield Problem("usage", f"a request has {rows[id]} records, and may have {int(wanted)}", [op])
        elif rows[id]:
            row = stored[id]
            if (row["outcome"], row["key_id"]) != (reason, op.args["key"]):
                yield Problem("usage", f"its record says {row['outcome']}, of the key {row['key_id']}", [op])
        elif wanted:
            if any(may_lose(crash, op, flushes[op.server]) for crash in crashes[op.server]):
                crashed.append(op)
            else:
                missing.append(op)
    if len(missing) > final["dropped"]:
        yield Problem("usage", f"{len(missing)} requests have no record, of which {final['dropped']} are reported as "
                      "dropped, and no crash explains the others", missing[:final["dropped"] + 1][:SHOWN])
    elif len(crashed) > final["lost_at_most"] + final["dropped"] - len(missing):
        yield Problem("usage", f"{len(crashed)} requests before crashes have no record, and at most "
                      f"{final['lost_at_most']} are reported as lost", crashed[:SHOWN])
    strangers = Counter(row["key_id"] for id, row in stored.items() if id not in known)
    for key, number in strangers.items():
        if number > doubtful[key]:
            yield Problem("usage", f"{number} records of the key {key} are of no request, and {doubtful[key]} "
                          "requests have no answer", [op for op in ops if op.kind in DECISIONS and op.args["key"] == key
                                                      and op.outcome != "ok"][:SHOWN])
