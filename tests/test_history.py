"""The checker of histories finds each broken promise, and accepts what the promises allow. Then it
checks ten seconds of a load with faults: see `make history`."""

import itertools
import subprocess
import sys
from math import inf
from pathlib import Path

import pytest

HISTORY = Path(__file__).resolve().parent.parent / "history"
sys.path.insert(0, str(HISTORY))

import check  # noqa: E402
import record  # noqa: E402

_numbers = itertools.count(1)
LIMIT = {"burst": 2, "rate": 1}


def op(kind, at, outcome="ok", value=None, client="one", server="a", primary=True, txn=None, error=None, **args):
    invoked, returned = at
    return record.Op(f"{client}.{next(_numbers)}", client, kind, args, invoked, returned if outcome != "unknown" else inf,
                     outcome, value, error, server, primary, txn)


def mint(key="k", at=(0, 1), outcome="ok", **more):
    args = {"tenant": "t", "keyspace": "default", "scopes": [], "role": None, "owner": None, "allowlist": None,
            "limit": None, "credits": None, "mark": key}
    mine = {name: more.pop(name) for name in list(more) if name in args}
    return op("mint", at, outcome, {"key_id": key} if outcome == "ok" else None, **(args | mine), **more)


def ask(at, reason="ok", key="k", left=None, outcome="ok", **more):
    args = {"keyspace": "default", "ip": "10.0.0.1", "scopes": [], "spend": 0, "weight": 1}
    mine = {name: more.pop(name) for name in list(more) if name in args}
    value = {"ok": reason == "ok", "reason": reason, "request_id": f"r{next(_numbers)}", "key_id": key,
             "credits_remaining": left}
    return op("verify", at, outcome, value if outcome == "ok" else None, key=key, client=more.pop("client", "two"),
              **(args | mine), **more)


def act(kind, at, outcome="ok", key="k", **more):
    return op(kind, at, outcome, key=key, mark=f"m{next(_numbers)}", **more)


def on(kind, at, outcome="ok", **more):
    """An act on a tenant, a member or a role."""
    return op(kind, at, outcome, **({"keyspace": "default", "mark": f"m{next(_numbers)}"} | more))


def transaction(*steps, client="one", end="commit", at=(90, 91), outcome="ok", server="a"):
    number = next(_numbers)
    begun = steps[0].i - 0.01
    steps = [op("begin", (begun, begun), client=client), *steps,
             op(end, at, outcome, client=client, server=server)]
    for step in steps:
        step.client, step.txn = client, number
    return steps


def flat(history):
    ops = []
    for each in history:
        ops += each if isinstance(each, list) else [each]
    return record.fold(sorted(ops, key=lambda op: op.i))


# Each pair: what breaks the promise, and what is like it and allowed.

DECISIONS = {
    "revoked": (
        [mint(), act("revoke", (2, 3)), ask((4, 5))],
        [mint(), act("revoke", (2, 3)), ask((2.5, 4)), ask((2.6, 5), "revoked")]),
    "revoked before anyone asked for it": (
        [mint(), act("revoke", (4, 5)), ask((2, 3), "revoked")],
        [mint(), act("revoke", (4, 5)), ask((2, 4.5), "revoked")]),
    "enabled again": (
        [mint(), act("disable", (2, 3)), act("enable", (4, 5)), ask((6, 7), "disabled")],
        [mint(), act("disable", (2, 3)), act("enable", (4, 5)), ask((4.5, 7), "disabled")]),
    "disabled while another enabled it": (
        [mint(), act("disable", (2, 4)), act("enable", (3, 5)), ask((6, 7), "revoked")],
        [mint(), act("disable", (2, 4)), act("enable", (3, 5)), ask((6, 7), "disabled")]),
    "seen once, and then not": (
        [mint(), act("revoke", (2, 9)), ask((3, 4), "revoked"), ask((5, 6))],
        [mint(), act("revoke", (2, 9)), ask((3, 4)), ask((5, 6), "revoked")]),
    "without an answer, and seen once": (
        [mint(), act("revoke", (2, 3), "unknown"), ask((4, 5), "revoked"), ask((6, 7))],
        [mint(), act("revoke", (2, 3), "unknown"), ask((4, 5)), ask((6, 7), "revoked")]),
    "without an answer, and over since the session ended": (
        [mint(), act("disable", (2, 3), "unknown"), op("gone", (3, 4)), act("enable", (5, 6)), ask((7, 8), "disabled")],
        [mint(), act("disable", (2, 3), "unknown"), act("enable", (5, 6), client="two"), ask((7, 8), "disabled")]),
    "without an answer, and another server knows nothing of the session": (
        [mint(), act("disable", (2, 3), "unknown"), op("gone", (3, 4)), act("enable", (5, 6)), ask((7, 8), "disabled")],
        [mint(), act("disable", (2, 3), "unknown"), op("gone", (3, 4), server="b"), act("enable", (5, 6)),
         ask((7, 8), "disabled")]),
    "rejected": (
        [mint(), act("disable", (2, 3), "error", error={}), ask((4, 5), "disabled")],
        [mint(), act("disable", (2, 3), "error", error={}), ask((4, 5))]),
    "rolled back": (
        [mint(), transaction(act("revoke", (2, 3)), end="rollback", at=(4, 5)), ask((6, 7), "revoked")],
        [mint(), transaction(act("revoke", (2, 3)), end="rollback", at=(4, 5)), ask((6, 7))]),
    "seen before its commit": (
        [mint(), transaction(act("revoke", (2, 3)), at=(6, 7)), ask((4, 5), "revoked")],
        [mint(), transaction(act("revoke", (2, 3)), at=(6, 7)), ask((4, 5)), ask((6.5, 8), "revoked")]),
    "rolled back to a savepoint": (
        [mint(), transaction(op("savepoint", (2, 2), name="s"), act("revoke", (3, 3)),
                             op("rollback_to", (4, 4), name="s"), at=(5, 6)), ask((7, 8), "revoked")],
        [mint(), transaction(op("savepoint", (2, 2), name="s"), act("revoke", (3, 3)),
                             op("savepoint", (4, 4), name="t"), op("rollback_to", (4.5, 4.5), name="t"), at=(5, 6)),
         ask((7, 8), "revoked")]),
    "of its own transaction": (
        [mint(), transaction(act("disable", (2, 3)), ask((4, 5)), end="rollback", at=(6, 7))],
        [mint(), transaction(act("disable", (2, 3)), ask((4, 5), "disabled"), end="rollback", at=(6, 7))]),
    "minted": (
        [mint(), ask((2, 3), "not_found")],
        [mint(), ask((2, 3), "not_found", server="b", primary=False)]),
    "replayed": (
        [mint(), act("revoke", (2, 3)), op("replayed", (4, 5), standby="b"), ask((6, 7), server="b", primary=False)],
        [mint(), op("replayed", (1, 2), standby="b"), act("revoke", (2, 3)), ask((6, 7), server="b", primary=False)]),
    "on the promoted standby": (
        [mint(), act("revoke", (2, 3)), op("promoted", (4, 5), standby="b"), ask((6, 7), server="b")],
        [mint(), act("revoke", (2, 3)), op("promoted", (4, 8), standby="b"), ask((6, 7), server="b")]),
    "rotated": (
        [mint(), op("rotate", (2, 3), value={"key_id": "n"}, key="k", grace=0), ask((4, 5))],
        [mint(), op("rotate", (2, 3), value={"key_id": "n"}, key="k", grace=2), ask((4, 5)), ask((4, 5), key="n")]),
    "after the grace": (
        [mint(), op("rotate", (2, 3), value={"key_id": "n"}, key="k", grace=2), ask((6, 7))],
        [mint(), op("rotate", (2, 3), value={"key_id": "n"}, key="k", grace=2), ask((6, 7), "expired")]),
    "regenerated": (
        [mint(), on("regenerate", (2, 3), value={"key_id": "n"}, tenant="t", key="k"), ask((4, 5))],
        [mint(), on("regenerate", (2, 3), value={"key_id": "n"}, tenant="t", key="k"), ask((4, 5), key="n")]),
    "expired": (
        [mint(), act("alter_expiry", (2, 3), seconds=1), ask((5, 6))],
        [mint(), act("alter_expiry", (2, 3), seconds=1), ask((3.5, 6)), ask((3.5, 6), "expired")]),
    "from another network": (
        [mint(), act("alter_allowlist", (2, 3), allowlist=["192.0.2.0/24"]), ask((4, 5))],
        [mint(), act("alter_allowlist", (2, 3), allowlist=["10.0.0.0/8"]), ask((4, 5))]),
    "without the scope": (
        [mint(), act("alter_scopes", (2, 3), scopes=["a:read"]), ask((4, 5), scopes=["b:read"])],
        [mint(), act("alter_scopes", (2, 3), scopes=["a:read"]), ask((4, 5), scopes=["a:read | b:read"])]),
    "of a role that has less now": (
        [on("define_role", (0, 1), role="r", scopes=["a:*"]), mint(role="r"),
         on("define_role", (2, 3), role="r", scopes=["b:*"]), ask((4, 5), scopes=["a:read"])],
        [on("define_role", (0, 1), role="r", scopes=["a:*"]), mint(role="r"),
         on("define_role", (2, 3), role="r", scopes=["b:*"]), ask((4, 5), "insufficient_scope", scopes=["a:read"])]),
    "of a member who is removed": (
        [on("define_role", (0, 1), role="r", scopes=["*"]), on("set_member", (1, 2), tenant="t", member="m", role="r"),
         mint(owner="m"), on("remove_member", (3, 4), tenant="t", member="m"), ask((5, 6))],
        [on("define_role", (0, 1), role="r", scopes=["*"]), on("set_member", (1, 2), tenant="t", member="m", role="r"),
         mint(owner="m"), ask((3, 4)), on("remove_member", (5, 6), tenant="t", member="m"), ask((7, 8), "owner_gone")]),
    "suspended": (
        [mint(), on("suspend", (2, 3), tenant="t"), ask((4, 5))],
        [mint(), on("suspend", (2, 3), tenant="u"), ask((4, 5))]),
    "refused by a later rule": (
        [mint(allowlist=["192.0.2.0/24"]), act("disable", (2, 3)), ask((4, 5), "ip_not_allowed")],
        [mint(allowlist=["192.0.2.0/24"]), act("disable", (2, 3)), ask((4, 5), "disabled")]),
    "for a reason that nobody gave": (
        [mint(), ask((2, 3), "owner_gone")],
        [mint(), ask((2, 3))]),
}
LIMITS = {
    "more than the burst": (
        [mint(limit=LIMIT), ask((2, 2.1)), ask((2.2, 2.3)), ask((2.4, 2.5))],
        [mint(limit=LIMIT), ask((2, 2.1)), ask((2.2, 2.3)), ask((2.4, 3.5))]),
    "more by their weight": (
        [mint(limit=LIMIT), ask((2, 2.1), weight=2), ask((2.2, 2.3))],
        [mint(limit=LIMIT), ask((2, 2.1), weight=2), ask((2.2, 2.3), weight=0)]),
    "more by rotation": (
        [mint(limit=LIMIT), op("rotate", (1, 2), value={"key_id": "n"}, key="k", grace=9), ask((2, 2.1), weight=2),
         ask((2.2, 2.3), key="n")],
        [mint(limit=LIMIT), mint("n", limit=LIMIT), ask((2, 2.1), weight=2), ask((2.2, 2.3), key="n")]),
    "more in a tenant": (
        [on("create_tenant", (0, 0), tenant="t", limit=LIMIT), mint(), mint("n"), ask((2, 2.1), weight=2),
         ask((2.2, 2.3), key="n")],
        [on("create_tenant", (0, 0), tenant="t", limit=LIMIT), mint(), mint("n", tenant="u"), ask((2, 2.1), weight=2),
         ask((2.2, 2.3), key="n")]),
    "given back by a rollback": (
        [mint(limit=LIMIT), transaction(ask((2, 2.1), weight=2), end="rollback", at=(2.2, 2.2)), ask((2.3, 2.4))],
        [mint(limit=LIMIT), transaction(ask((2, 2.1), weight=2), end="rollback", at=(2.2, 2.2)),
         ask((2.3, 2.4), "rate_limited")]),
    "after a restart": (
        [mint(limit=LIMIT), ask((2, 2.1), weight=2), op("restart", (2.2, 2.3), server="a"),
         ask((2.4, 2.5), "rate_limited")],
        [mint(limit=LIMIT), ask((2, 2.1), weight=2), op("restart", (2.2, 2.3), server="a"), ask((2.4, 2.5), weight=2)]),
    "refused though it is quiet": (
        [mint(limit=LIMIT), ask((2, 2.1), weight=2), ask((3.2, 3.3), "rate_limited")],
        [mint(limit=LIMIT), ask((2, 2.1), weight=2), ask((2.9, 3.3), "rate_limited")]),
    "refused, with one that has no answer": (
        [mint(limit=LIMIT), ask((2, 2.1)), ask((3.5, 3.6), "rate_limited")],
        [mint(limit=LIMIT), ask((2, 2.1)), ask((2.2, 3), outcome="unknown", weight=2), ask((3.5, 3.6), "rate_limited")]),
    "another server": (
        [mint(limit=LIMIT), ask((2, 2.1), weight=2), ask((2.2, 2.3), "rate_limited", server="b", primary=False)],
        [mint(limit=LIMIT), ask((2, 2.1), weight=2), ask((2.2, 2.3), server="b", primary=False, weight=2)]),
}


def spend(at, amount, left=None, **more):
    return ask(at, "ok" if left is not None else more.pop("reason", "credits_exhausted"), spend=amount, left=left, **more)


def grant(at, amount, now, **more):
    return op("add_credits", at, value={"credits": now}, amount=amount, key="k", keyspace="default", **more)


def balance(credits):
    return op("balance", (99, 99), value={"credits": credits}, key="k", keyspace="default")


CREDITS = {
    "spent twice with one cost": (
        [mint(credits=10), spend((2, 3), 4, 6), spend((4, 5), 4, 6)],
        [mint(credits=10), spend((2, 3), 4, 6), spend((4, 5), 4, 2)]),
    "lost": (
        [mint(credits=10), spend((2, 3), 4, 6), balance(10)],
        [mint(credits=10), spend((2, 3), 4, 6), balance(6)]),
    "spent, and given back by nobody": (
        [mint(credits=10), transaction(spend((2, 3), 4, 6), at=(4, 5)), spend((6, 7), 1, 9)],
        [mint(credits=10), transaction(spend((2, 3), 4, 6), end="rollback", at=(4, 5)), spend((6, 7), 1, 9)]),
    "rolled back, and gone": (
        [mint(credits=10), transaction(spend((2, 3), 4, 6), end="rollback", at=(4, 5)), balance(6)],
        [mint(credits=10), transaction(spend((2, 3), 4, 6), at=(4, 5), outcome="unknown"), balance(6)]),
    "twice in a transaction": (
        [mint(credits=10), transaction(spend((2, 3), 4, 6), spend((4, 5), 1, 9), at=(6, 7))],
        [mint(credits=10), transaction(spend((2, 3), 4, 6), spend((4, 5), 1, 5), at=(6, 7)), balance(5)]),
    "refused though there are enough": (
        [mint(credits=10), spend((2, 3), 4)],
        [mint(credits=10), spend((2, 3), 11)]),
    "refused while others spend": (
        [mint(credits=10), spend((2, 5), 4, 6), spend((3, 4), 6)],
        [mint(credits=10), spend((2, 5), 4, 6), spend((3, 4), 7)]),
    "unavailable, and held by nobody": (
        [mint(credits=10), spend((2, 3), 1, 9), spend((4, 5), 4, reason="credits_unavailable")],
        [mint(credits=10), transaction(spend((2, 3), 1, 9), at=(6, 7)),
         spend((4, 5), 4, reason="credits_unavailable", client="three")]),
    "granted twice": (
        [mint(credits=0), grant((2, 3), 5, 5), balance(10)],
        [mint(credits=0), grant((2, 3), 5, 5), grant((4, 5), 5, 10), balance(10)]),
    "without an answer": (
        [mint(credits=10), spend((2, 3), 4, outcome="unknown"), balance(5)],
        [mint(credits=10), spend((2, 3), 4, outcome="unknown"), balance(6)]),
    "shared with a successor": (
        [mint(credits=10), op("rotate", (1, 2), value={"key_id": "n"}, key="k", grace=9), spend((3, 4), 4, 6),
         spend((5, 6), 4, 6, key="n")],
        [mint(credits=10), op("rotate", (1, 2), value={"key_id": "n"}, key="k", grace=9), spend((3, 4), 4, 6),
         spend((5, 6), 4, 2, key="n")]),
}


@pytest.mark.parametrize("promise, name", [(promise, name) for promise, all_of in (
    ("decisions", DECISIONS), ("limits", LIMITS), ("credits", CREDITS)) for name in all_of])
def test_a_history_that_breaks_a_promise(promise, name):
    checker = {"decisions": check.decisions, "limits": check.limits, "credits": check.purses}[promise]
    bad, good = (flat(history) for history in {**DECISIONS, **LIMITS, **CREDITS}[name])
    (found,) = checker.problems(bad)
    assert found.promise == promise and found.ops
    assert list(checker.problems(good)) == []


def test_the_part_that_is_shown_has_only_what_contradicts():
    revoke, asked = act("revoke", (4, 5)), ask((6, 7))
    (found,) = check.decisions.problems(flat([mint(), ask((2, 3)), revoke, mint("n"), asked, ask((8, 9), key="n")]))
    assert set(found.ops) == {asked, revoke}
    assert "revoke(key=k" in str(found) and "revocation" in str(found)


# Usage: the rows of the requests of a history

def rows_of(*ops):
    return [{"request_id": op.value["request_id"], "key_id": "k", "outcome": op.value["reason"]} for op in ops]


def usage(ops, rows, lost_at_most=0, dropped=0):
    final = {"usage": rows, "lost_at_most": lost_at_most, "dropped": dropped}
    return [problem.what for problem in check.usage.problems(flat([mint(), *ops]), final)]


def test_each_request_has_one_record():
    one, refused = ask((2, 3)), ask((4, 5), "disabled")
    rows = rows_of(one, refused)
    assert usage([one, refused], rows) == []
    assert "no record" in usage([one, refused], rows[:1])[0]
    assert "2 records" in usage([one, refused], rows + rows[:1])[0]
    assert "of no request" in usage([one], rows)[0]
    assert usage([one, ask((6, 7), outcome="unknown")], rows) == []
    assert "its record says" in usage([one], [rows[0] | {"outcome": "revoked"}])[0]


@pytest.mark.parametrize("keyspace, kept", [("quiet", ["disabled"]), ("mute", [])])
def test_what_a_keyspace_logs(keyspace, kept):
    made, asked = mint(keyspace=keyspace), [ask((2, 3)), ask((4, 5), "disabled")]
    rows = [row for row in rows_of(*asked) if row["outcome"] in kept]
    for stored, number in ((rows, 0), (rows_of(*asked), 2 - len(kept))):
        final = {"usage": stored, "lost_at_most": 0, "dropped": 0}
        assert len(list(check.usage.problems(flat([made, *asked]), final))) == number


def test_only_a_crash_may_lose_records():
    one, two = ask((2, 3)), ask((4, 5))
    crash = op("crash", (8, 9), server="a")
    assert usage([one, two, crash], [], lost_at_most=2) == []
    assert "at most 1" in usage([one, two, crash], [], lost_at_most=1)[0]
    assert "no crash" in usage([one, op("crash", (1, 1.5), server="a")], [], lost_at_most=1)[0]
    assert "no crash" in usage([one, op("restart", (8, 9), server="a")], [], lost_at_most=1)[0]
    assert "no crash" in usage([one, op("crash", (8, 9), server="b")], [], lost_at_most=1)[0]
    stored = op("flushed", (6, 7), server="a")
    assert "no crash" in usage([one, stored, crash], [], lost_at_most=1)[0]
    assert usage([transaction(one, at=(6.5, 8)), stored, crash], [], lost_at_most=1) == []
    assert usage([one], [], dropped=1) == []


# Audit: the entries of a history

def entry(number, action, before=None, after=None, key="k", tenant="t"):
    return {"keyspace": "default", "entry": number, "action": action, "tenant": tenant, "key_id": key,
            "before": before, "after": after}


MADE = entry(1, "mint", None, {"disabled": False})
OFF = entry(2, "disable", {"disabled": False}, {"disabled": True})
ON = entry(3, "enable", {"disabled": True}, {"disabled": False})


def audit(ops, entries, ok=True):
    final = {"audit": entries, "audit_verify": [{"keyspace": "default", "ok": ok}]}
    return [str(problem) for problem in check.audit.problems(flat([mint(), *ops]), final)]


def test_each_act_has_one_entry():
    acts = [act("disable", (2, 3)), act("enable", (4, 5))]
    assert audit(acts, [MADE, OFF, ON]) == []
    assert "this act has no entry" in audit(acts, [MADE, OFF])[0]
    assert "entry 2 is of no act" in audit([], [MADE, OFF])[0]
    assert "1 acts have 2 entries" in audit(acts, [MADE, OFF, entry(3, "disable"), ON | {"entry": 4}])[0]
    rolled_back = transaction(act("disable", (2, 3)), end="rollback", at=(4, 5))
    assert audit([rolled_back], [MADE]) == []
    assert "of no act" in audit([rolled_back], [MADE, OFF])[0]
    doubtful = act("disable", (2, 3), "unknown")
    assert audit([doubtful], [MADE]) == audit([doubtful], [MADE, OFF]) == []
    assert "audit_verify" in audit([], [MADE], ok=False)[0]


def test_a_replacement_without_an_answer_may_have_made_entries():
    """The next one then replaces the key that this one made, which no client knows."""
    first = on("regenerate", (2, 3), "unknown", tenant="t", key="k")
    second = on("regenerate", (4, 5), value={"key_id": "n"}, tenant="t", key="k")
    entries = [MADE, entry(2, "mint", key="m"), entry(3, "revoke"), entry(4, "mint", key="n"), entry(5, "revoke", key="m")]
    late = mint("late", at=(3.5, 3.6))
    assert [found for found in audit([first, second, late], [*entries[:3], entry(3.5, "mint", key="late"), *entries[3:]])
            if "state" not in found] == []
    assert "of no act" in audit([second], entries)[0]


def test_a_missing_entry_is_found_among_others_like_it():
    acts = [act(kind, (at, at + 1)) for at, kind in ((2, "disable"), (4, "enable"), (8, "disable"))]
    marks = [mint("other", at=(6, 7))]
    entries = [MADE, entry(2, "enable"), entry(3, "mint", key="other"), entry(4, "disable")]
    (found,) = (problem for problem in audit(acts + marks, entries) if "state" not in problem)
    assert "this act has no entry between 1 and 2" in found and found.count("disable(") == 1


def test_entries_are_in_the_order_of_the_acts():
    one, two = mint("one", at=(2, 3)), mint("two", at=(4, 5))
    entries = [MADE, entry(2, "mint", key="two"), entry(3, "mint", key="one")]
    assert "entry 2 comes before entry 3" in audit([one, two], entries)[0]
    assert audit([one, mint("two", at=(2.5, 5))], entries) == []
    late = transaction(mint("one", at=(2, 3)), at=(4.5, 6))
    assert audit([late, two], entries) == []


def test_an_act_begins_with_the_state_that_the_one_before_left():
    acts = [act("disable", (2, 3)), act("enable", (4, 5))]
    found = audit(acts, [MADE, OFF, ON | {"before": {"disabled": False}}])
    assert len(found) == 1 and "begins with another state" in found[0]


def test_what_is_no_promise_of_an_operation():
    nothing = {"totals": [], "storage": [], "log": []}
    assert list(check.storage([], nothing)) == []
    assert [problem.promise for problem in check.storage([], nothing | {"log": ["PANIC"]})] == ["log"]
    failed = [ask((2, 3), outcome="error", error={"sqlstate": state}) for state in ("XX000", "57014")]
    assert [problem.ops for problem in check.answers(failed, {})] == [failed[:1]]


def test_ten_seconds_of_everything():
    """It goes on until the server has restarted, has crashed in three ways, and a standby has been
    promoted."""
    done = subprocess.run([sys.executable, HISTORY / "run.py", "--seconds", "10", "--faults", "5"],
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:]
    assert "checked, 0 problems" in done.stdout
