"""A decision answers by the acts that were committed when it began, and by those that were
committed meanwhile or not."""

import itertools
from collections import defaultdict
from math import inf

from model import RULES, covered, evaluate, lies_in
from record import Problem
from registers import Register, Replays, observed

DECISIONS = ("verify", "verify_digest", "authenticate")
RULE = {
    "ok": None, "not_found": "found", "revoked": "revocation", "expired": "expiry",
    "disabled": "disablement", "idle": "disablement", "tenant_suspended": "tenant", "owner_gone": "owner",
    "ip_not_allowed": "address", "insufficient_scope": "scopes", "rate_limited": "limits",
    "credits_exhausted": "credits", "credits_unavailable": "credits",
}
CHECKED = ["found", "revocation", "expiry", "disablement", "tenant", "owner", "address", "scopes"]
MAKE_KEYS = ("mint", "rotate", "regenerate")
# The server's clock and the client's may run at different speeds.
CLOCK = 0.01


class Key:
    """What never changes of a key."""

    def __init__(self, id, args, predecessor=None):
        self.id, self.keyspace, self.tenant = id, args["keyspace"], args["tenant"]
        self.owner, self.role = args.get("owner"), args.get("role")
        # Successors share counted calls and credits.
        self.root = predecessor.root if predecessor else id
        self.has_credits = predecessor.has_credits if predecessor else args.get("credits") is not None


def keys_of(ops):
    keys = {}
    for op in ops:
        if op.kind in MAKE_KEYS and op.value:
            old = keys.get(op.args.get("key"))
            args = {"keyspace": old.keyspace, "tenant": old.tenant} if op.kind == "rotate" else op.args
            keys[op.value["key_id"]] = Key(op.value["key_id"], args, old if op.kind == "rotate" else None)
    return keys


def effects(op):
    """What an act writes: registers and their new values."""
    args, kind = op.args, op.kind
    key, keyspace, tenant = args.get("key"), args.get("keyspace"), args.get("tenant")
    if kind in MAKE_KEYS and op.value:
        new = op.value["key_id"]
        yield ("found", new), True
        yield ("address", new), args.get("allowlist")
        yield ("scopes", new), args.get("scopes") or ["*"]
        if old := key:
            if args.get("grace"):
                yield ("expiry", old), (op.begun + args["grace"], op.r + args["grace"])
            else:
                yield ("revocation", old), True
    elif kind == "rotate" and not args.get("grace") or kind == "regenerate" and key:
        yield ("revocation", key), True
    elif kind == "rotate":
        yield ("expiry", key), (op.begun + args["grace"], inf)
    elif kind in ("revoke", "report_leak"):
        yield ("revocation", key), True
    elif kind in ("disable", "enable"):
        yield ("disablement", key), kind == "disable"
    elif kind == "alter_scopes":
        yield ("scopes", key), args["scopes"]
    elif kind == "alter_allowlist":
        yield ("address", key), args["allowlist"]
    elif kind == "alter_expiry":
        length = args["seconds"]
        yield ("expiry", key), length and (op.begun + length, op.r + length)
    elif kind in ("suspend", "resume"):
        yield ("tenant", keyspace, tenant), kind == "suspend"
    elif kind in ("set_member", "remove_member"):
        yield ("owner", keyspace, tenant, args["member"]), args.get("role")
    elif kind == "define_role":
        yield ("role", keyspace, args["role"]), args["scopes"]


class Checker:
    def __init__(self, ops):
        self.keys, self.replays = keys_of(ops), Replays(ops)
        self.registers = defaultdict(Register)
        for op in sorted((op for op in ops if op.fate != "undone"), key=lambda op: op.since):
            for register, value in effects(op):
                self.registers[register].write(value, op)

    def possible(self, register, read):
        """The values that the read may see, each with the write that it is from."""
        for op in reversed(read.own):
            for written, value in effects(op):
                if written == register:
                    return [(value, None)]      # its own transaction holds the row
        return [(write.value, write) for write in self.registers[register].possible(read, self.replays)]

    def grants(self, key, read):
        """All combinations of what limits the key's scopes."""
        parts = [self.possible(("scopes", key.id), read)]
        if key.role:
            parts.append(self.possible(("role", key.keyspace, key.role), read))
        for chosen in itertools.product(*parts):
            if not key.owner:
                yield chosen
                continue
            for role, write in self.possible(("owner", key.keyspace, key.tenant, key.owner), read):
                if role is not None:
                    for of_role in self.possible(("role", key.keyspace, role), read):
                        yield *chosen, (["*"], write), of_role

    def outcomes(self, rule, key, read):
        """Whether the rule may pass: pairs of an answer and the writes that explain it."""
        if rule == "scopes":
            for chosen in self.grants(key, read):
                def has(scope, chosen=chosen):
                    return all(covered(grants or [], scope, {}) for grants, _ in chosen)
                yield all(evaluate(needed, has) for needed in read.args["scopes"]), [write for _, write in chosen]
            return
        if rule == "owner" and key.owner is None:
            yield True, []
            return
        register = {"tenant": ("tenant", key.keyspace, key.tenant),
                    "owner": ("owner", key.keyspace, key.tenant, key.owner)}.get(rule, (rule, key.id))
        for value, write in self.possible(register, read):
            if rule == "expiry":
                if value is None or read.i < value[1] + CLOCK:
                    yield True, [write]
                if value is not None and read.r > value[0] - CLOCK:
                    yield False, [write]
            elif rule == "address":
                yield value is None or any(lies_in(read.args["ip"], one) for one in value), [write]
            elif rule == "found":
                yield bool(value), [write]
            elif rule == "owner":
                yield value is not None, [write]
            else:
                yield not value, [write]

    def check(self, read):
        key, reason = self.keys.get(read.args["key"]), read.value["reason"]
        if reason not in RULE:
            return Problem("decisions", f"the reason {reason} has no cause here", [read])
        failed = RULE[reason]
        for rule in CHECKED:
            if failed and RULES.index(rule) > RULES.index(failed):
                break
            wanted = rule != failed
            outcomes = list(self.outcomes(rule, key, read))
            explained = [writes for passes, writes in outcomes if passes == wanted]
            if not explained:
                writes = {write for _, some in outcomes for write in some if write}
                what = "was refused, but the last acts allow it" if failed else "was accepted, but an act had ended that"
                if wanted and failed:
                    what = "got past a rule that had to refuse it"
                return Problem("decisions", f"the rule {rule}: a request {what}",
                               [read, *(write.op for write in writes if write.op)])
            if len(explained) == 1:
                for write in explained[0]:
                    if write:
                        observed(write, read)
        return None


def problems(ops, final=None):
    checker = Checker(ops)
    for op in ops:
        if op.kind in DECISIONS and op.outcome == "ok":
            if problem := checker.check(op):
                yield problem
