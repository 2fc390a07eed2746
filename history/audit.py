"""Each act that was committed has one entry in its keyspace's chain, and the entries are in the order
of the commits."""

from collections import defaultdict
from math import inf

from decisions import keys_of
from record import Problem

ACTIONS = {"mint": "mint", "revoke": "revoke", "report_leak": "revoke", "disable": "disable", "enable": "enable",
           "alter_scopes": "alter", "alter_allowlist": "alter", "alter_expiry": "alter",
           "suspend": "suspend", "resume": "resume", "set_member": "set_member",
           "remove_member": "remove_member", "define_role": "define_role", "add_credits": "add_credits"}
# Acts of the set-up.
NOT_HERE = ("create_keyspace", "alter_keyspace", "create_tenant")
# What no act makes: what is spent and how long keys live is for others to check.
EVENTS = ("credits.low", "credits.exhausted", "key.expiring", "key.expired", "key.idle")
# Spending changes these, and is no act.
CREDITS = ("credits", "refilled_at")


def entries_of(op):
    """The action and the subject of each entry that the act makes, as far as its client knows them."""
    args, value = op.args, op.value or {}
    key, tenant = args.get("key"), args.get("tenant")
    if op.kind in ("rotate", "regenerate"):
        if "key_id" in value:
            yield "mint", value["key_id"]
        if key:
            yield "rotate" if op.kind == "rotate" else "revoke", key
    elif op.kind == "mint":
        yield "mint", value.get("key_id") or f"label {args['mark']}"
    elif action := ACTIONS.get(op.kind):
        subject = key or (f"{tenant} {args['member']}" if "member" in args else args.get("role") or tenant)
        if op.kind.startswith("alter") or op.kind in ("suspend", "define_role"):
            subject += f" {args['mark']}"
        yield action, subject


def subject_of(entry, keys):
    """The same of an entry, with the mark that the client left in it."""
    action, state = entry["action"], entry["after"] or entry["before"] or {}
    if action == "mint":
        return entry["key_id"] if entry["key_id"] in keys else f"label {state.get('label')}"
    if "member" in action:
        return f"{entry['tenant']} {state['member']}"
    subject = entry["key_id"] or state.get("role") or entry["tenant"]
    if action == "alter":
        subject += f" {state['metadata'].get('op')}"
    elif action == "suspend":
        subject += f" {state['suspended_reason']}"
    elif action == "define_role":
        subject += " " + next((s[5:] for s in state["scopes"] if s.startswith("mark:")), "")
    return subject


def problems(ops, final):
    keys = keys_of(ops)
    acts, entries = defaultdict(list), defaultdict(list)
    for op in ops:
        for action, subject in entries_of(op):
            keyspace = keys[op.args["key"]].keyspace if op.args.get("key") in keys else op.args["keyspace"]
            acts[keyspace, action, subject].append(op)
    for entry in final["audit"]:
        if entry["action"] not in NOT_HERE + EVENTS:
            group = entry["keyspace"], entry["action"], subject_of(entry, keys)
            entries[group].append(entry["entry"])
    chains = defaultdict(list)
    for group in sorted(acts.keys() | entries.keys()):
        kept = sorted((op for op in acts[group] if op.fate == "kept"), key=lambda op: op.since)
        doubtful = [op for op in acts[group] if op.fate == "unknown"]
        if len(kept) == len(entries[group]) and not doubtful and in_turn(kept):
            chains[group[0]] += zip(sorted(entries[group]), kept)
    for chain in chains.values():
        yield from disorder(chain)
    for group in sorted(acts.keys() | entries.keys()):
        kept = [op for op in acts[group] if op.fate == "kept"]
        most = len(kept) + sum(op.fate == "unknown" for op in acts[group])
        found = sorted(entries[group])
        if len(found) < len(kept) or len(found) > most and not blind(group, keys, ops):
            yield miscount(group, acts[group], found, chains[group[0]])
    yield from broken_states(final["audit"])
    for chain in final["audit_verify"]:
        if not chain["ok"]:
            yield Problem("audit", f"audit_verify() says {chain}", [])


def place(op, numbered):
    """The numbers between which the act's entry must be, by the acts whose numbers are certain."""
    before = max((n for n, other in numbered if other.until < op.since), default=0)
    after = min((n for n, other in numbered if other.since > op.until), default=inf)
    return before, after


def miscount(group, acts, found, numbered):
    """The act without an entry or the entry without an act, if the other acts show it."""
    name = f"{group[1]} of {group[2]} in {group[0]}"
    acts = [op for op in acts if op.fate != "undone"]
    places = {op: place(op, numbered) for op in acts}
    for op, (before, after) in places.items():
        if op.fate == "kept" and not any(before < n < after for n in found):
            return Problem("audit", f"this act has no entry between {before} and {after}: {name}", [op])
    for n in found:
        if not any(before < n < after for before, after in places.values()):
            return Problem("audit", f"entry {n} is of no act: {name}", [])
    return Problem("audit", f"{len(acts)} acts have {len(found)} entries, {found}: {name}", acts)


def blind(group, keys, ops):
    """Whether the entry may be about a key that an act without an answer has made."""
    _, action, subject = group
    return (action == "mint" or subject not in keys) and any(
        op.fate == "unknown" and op.kind in ("rotate", "regenerate") and op.value is None for op in ops)


def in_turn(acts):
    acts = sorted(acts, key=lambda op: op.since)
    return all(one.until < other.since for one, other in zip(acts, acts[1:]))


def disorder(chain):
    """An act that began after another had ended has the larger number."""
    latest = None
    for entry, op in sorted(chain, key=lambda pair: pair[0]):
        if latest and latest[1].since > op.until:
            yield Problem("audit", f"entry {latest[0]} comes before entry {entry}, but was made after it",
                          [latest[1], op])
        elif latest is None or op.since > latest[1].since:
            latest = entry, op


def broken_states(entries):
    """The state before an act is the one after the act before."""
    last = {}
    for entry in sorted(entries, key=lambda entry: (entry["keyspace"], entry["entry"])):
        if entry["action"] in EVENTS:
            continue
        state = entry["after"] or entry["before"] or {}
        name = (entry["keyspace"], entry["key_id"] or "", (entry["tenant"] or "") if not entry["key_id"] else "",
                state.get("member", ""), state["role"] if entry["action"] == "define_role" else "")
        before, number = last.get(name, (entry["before"], None))
        if plain(before) != plain(entry["before"]):
            yield Problem("audit", f"entry {entry['entry']} ({entry['action']}) begins with another state than "
                          f"entry {number} left: {differences(before, entry['before'])}", [])
        last[name] = entry["after"], entry["entry"]


def plain(state):
    return state and {name: value for name, value in state.items() if name not in CREDITS}


def differences(one, other):
    one, other = plain(one) or {}, plain(other) or {}
    return {name: (one.get(name), other.get(name)) for name in one.keys() | other.keys()
            if one.get(name) != other.get(name)}
