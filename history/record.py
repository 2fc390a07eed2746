"""What each client asked for and what it saw, and what that says about each operation.

A history is a folder with a file for each client. The file has a line when an operation is invoked,
and one when it returns: with `ok` and what was returned, with `error` and its SQLSTATE, or `unknown`,
if the connection broke. Times are those of the machine's monotonic clock.
"""

import json
import time
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

ENDS = ("commit", "rollback")
# What a client writes about itself: it changes nothing that a checker looks at.
MARKS = ("begin", "savepoint", "rollback_to", *ENDS, "gone")


@dataclass(eq=False)
class Op:
    id: str
    client: str
    kind: str
    args: dict
    i: float                        # invoked
    r: float = inf                  # returned
    outcome: str = "unknown"        # or ok, error
    value: dict | None = None       # what was returned
    error: dict | None = None
    server: str = "a"
    primary: bool = True            # whether the server was one then
    txn: int | None = None          # the number of an explicit transaction of the client

    # What fold() finds. The operation took effect between `since` and `until`, if it did:
    fate: str = "unknown"           # or kept, undone
    since: float = inf
    until: float = inf
    begun: float = inf              # when the transaction began
    ended: float = inf              # and when it had certainly ended
    own: list = field(default_factory=list)     # what the transaction had done before, and not undone

    def __str__(self):
        args = ", ".join(f"{name}={_short(value)}" for name, value in self.args.items()
                         if value is not None and name != "api_key")
        end = f"{self.r:.6f}" if self.r < inf else "never"
        saw = " ".join(f"{name}={_short(value)}" for name, value in (self.value or {}).items()
                       if value is not None and name not in ("api_key", self.kind))
        if self.fate == "undone" and self.outcome == "ok":
            saw += " (rolled back)"
        elif self.txn is not None and self.since not in (inf, self.i):
            saw += f" (commit {self.since:.6f} to {self.until:.6f})"
        if self.error:
            saw = " ".join(str(value) for value in self.error.values() if value)
        where = self.server + ("" if self.primary else ", a standby")
        return f"{self.i:.6f} to {end}  {self.client} on {where}: {self.kind}({args}) {self.outcome} {saw}".rstrip()


def _short(value):
    text = json.dumps(value) if isinstance(value, (list, dict)) else str(value)
    return text if len(text) < 48 else text[:20] + "…" + text[-6:]


@dataclass
class Problem:
    """A broken promise, and the operations that contradict each other."""
    promise: str
    what: str
    ops: list

    def __str__(self):
        lines = [f"{self.promise}: {self.what}"]
        return "\n".join(lines + [f"    {op}" for op in sorted(self.ops, key=lambda op: op.i)])


class Recorder:
    """Appends what one client does to its file."""

    def __init__(self, folder, client):
        self.client, self.count = client, 0
        self.file = open(Path(folder) / f"{client}.jsonl", "a", buffering=1)

    def next(self):
        """The id of the next operation."""
        return f"{self.client}.{self.count + 1}"

    def invoked(self, kind, args, server, primary=True, txn=None):
        self.count += 1
        id = f"{self.client}.{self.count}"
        self.write(id=id, kind=kind, args=args, server=server, primary=primary, txn=txn, at=time.monotonic())
        return id

    def returned(self, id, outcome, value=None):
        self.write(id=id, outcome=outcome, value=value, at=time.monotonic())

    def write(self, **line):
        self.file.write(json.dumps(line, default=str) + "\n")


def read(folder):
    """All operations of a history, in the order of their invocation."""
    ops = {}
    for file in sorted(Path(folder).glob("*.jsonl")):
        for line in map(json.loads, file.read_text().splitlines()):
            if "kind" in line:
                ops[line["id"]] = Op(line["id"], file.stem, line["kind"], line["args"], line["at"],
                                     server=line["server"], primary=line["primary"], txn=line["txn"])
            else:
                op = ops[line["id"]]
                op.outcome = line["outcome"]
                op.value, op.error = (line["value"], None) if op.outcome == "ok" else (None, line["value"])
                # A broken connection says nothing about when the server stopped.
                op.r = line["at"] if op.outcome != "unknown" else inf
    return fold(sorted(ops.values(), key=lambda op: op.i))


def fold(ops):
    """Finds what became of each operation, by what its own client saw."""
    transactions, unsettled = {}, {}
    for op in ops:
        if op.txn is not None:
            transactions.setdefault((op.client, op.txn), []).append(op)
        else:
            op.begun, op.ended = op.i, op.r
            _ended_by(op, op)
    for steps in transactions.values():
        _fold_transaction(steps)
    for op in ops:
        if op.kind == "gone" and op.outcome == "ok":
            # The server process of the client's earlier connection had ended.
            for earlier in unsettled.pop((op.client, op.server), []):
                earlier.until, earlier.ended = min(earlier.until, op.r), op.r
        elif op.ended == inf:
            unsettled.setdefault((op.client, op.server), []).append(op)
    return ops


def _ended_by(op, end):
    op.fate = {"ok": "kept", "error": "undone", "unknown": "unknown"}[end.outcome]
    op.since, op.until = end.i, end.r if end.outcome == "ok" else inf


def _fold_transaction(steps):
    active, points, end = [], {}, None
    for step in steps:
        step.begun, step.fate = steps[0].i, "undone"
        if step.kind == "savepoint":
            points[step.args["name"]] = len(active)
        elif step.kind == "rollback_to" and step.outcome == "ok":
            del active[points[step.args["name"]]:]
        elif step.kind in ENDS:
            end = step
        elif step.kind not in MARKS:
            step.own = list(active)
            if step.outcome == "ok":
                active.append(step)
    for step in steps:
        step.ended = end.r if end is not None else inf
    if end is not None and end.kind == "commit":
        for op in active:
            _ended_by(op, end)
