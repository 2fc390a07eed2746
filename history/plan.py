"""What clients may do, and to what. The seed decides; only the order among clients varies."""

import threading
from dataclasses import dataclass

DECIDE = "SELECT ok, reason, request_id, key_id, limit_name, credits_remaining FROM keysmith."
ALTER = "SELECT key_id FROM keysmith.alter_key(%(key)s, jsonb_build_object({}, 'metadata', jsonb_build_object('op', %(mark)s::text)))"
MINT = """SELECT key_id, api_key FROM keysmith.mint(%(tenant)s, %(mark)s, scopes => %(scopes)s, role => %(role)s,
    owner => %(owner)s, allowlist => %(allowlist)s::cidr[], limits => %(limits)s, credits => %(credits)s,
    keyspace => %(keyspace)s)"""
STATEMENTS = {
    "verify": DECIDE + "verify(%(api_key)s, %(scopes)s, %(ip)s, %(keyspace)s, %(spend)s, weight => %(weight)s)",
    "verify_digest": DECIDE + """verify_digest(sha256(%(api_key)s::bytea), %(scopes)s, %(ip)s, %(keyspace)s,
        %(spend)s, weight => %(weight)s)""",
    "authenticate": DECIDE + """authenticate(jsonb_build_object('X-API-Key', %(api_key)s::text), 'GET', '/',
        %(ip)s, %(keyspace)s, spend => %(spend)s, weight => %(weight)s)""",
    "mint": MINT,
    "regenerate": "SELECT key_id, api_key FROM keysmith.regenerate(%(tenant)s, %(mark)s, keyspace => %(keyspace)s)",
    "rotate": "SELECT key_id, api_key FROM keysmith.rotate(%(key)s, make_interval(secs => %(grace)s))",
    "revoke": "SELECT keysmith.revoke(%(key)s, %(mark)s)",
    "report_leak": "SELECT keysmith.report_leak(%(api_key)s, %(mark)s)",
    "disable": "SELECT keysmith.disable(%(key)s)",
    "enable": "SELECT keysmith.enable(%(key)s)",
    "alter_scopes": ALTER.format("'scopes', %(scopes)s::text[]"),
    "alter_allowlist": ALTER.format("'allowlist', %(allowlist)s::text[]"),
    "alter_expiry": ALTER.format("'expires_at', (clock_timestamp() + make_interval(secs => %(seconds)s))::text"),
    "suspend": "SELECT keysmith.suspend_tenant(%(tenant)s, %(keyspace)s, %(mark)s)",
    "resume": "SELECT keysmith.resume_tenant(%(tenant)s, %(keyspace)s)",
    "set_member": "SELECT keysmith.set_member(%(tenant)s, %(member)s, %(role)s, %(keyspace)s)",
    "remove_member": "SELECT keysmith.remove_member(%(tenant)s, %(member)s, %(keyspace)s)",
    "define_role": "SELECT keysmith.define_role(%(keyspace)s, %(role)s, %(scopes)s)",
    "add_credits": "SELECT keysmith.add_credits(%(amount)s, %(key)s, %(tenant)s, %(keyspace)s) AS credits",
}
ACTS = {
    "mint": 14, "revoke": 4, "report_leak": 1, "rotate": 7, "regenerate": 3, "disable": 5, "enable": 6, "alter_scopes": 4,
    "alter_allowlist": 4, "alter_expiry": 3, "suspend": 2, "resume": 4, "set_member": 5,
    "remove_member": 2, "define_role": 3, "add_credits": 6,
}
KEYSPACES = {"default": 14, "quiet": 3, "mute": 3}
LOGS = {"default": "everything", "quiet": "refusals", "mute": "nothing"}
TENANTS = ["t0", "t1", "t2"]
MEMBERS = ["m0", "m1"]
ROLES = ["r0", "r1"]
GRANTS = [["a:*"], ["b:*"], ["a:read", "b:read"], ["*"]]
NEEDS = [[], [], [], ["a:read"], ["b:read"], ["a:read | b:read"], ["a:write"]]
NETWORKS = [None, ["10.0.0.0/8"], ["192.0.2.0/24"], ["10.0.0.0/8", "192.0.2.0/24"]]
ADDRESSES = ["10.1.2.3", "192.0.2.9"]
LIMITS = [{"burst": 3, "rate": 4}, {"burst": 8, "rate": 20}, {"burst": 1, "rate": 2}]
BUSY = {"burst": 12, "rate": 30}


@dataclass
class Key:
    """A key that clients use. `sort` says what may be done to it."""
    id: str
    api_key: str
    keyspace: str
    tenant: str
    sort: str               # plain, kin (rotated and never altered), limited, busy, payer or solo
    has_credits: bool = False


class World:
    """What the clients share: the keys, and which server is the primary."""

    def __init__(self):
        self.lock = threading.Lock()
        self.keys = {}
        self.primary = self.standby = None      # (name, cluster)
        self.over = threading.Event()
        # Whether sessions may set synchronous_commit to off, and a lock for those that do.
        self.may_be_off, self.off = True, threading.Lock()

    def add(self, key):
        with self.lock:
            self.keys.setdefault(key.sort, []).append(key)

    def any_key(self, draw, *sorts):
        with self.lock:
            known = self.keys.get(draw.choice(sorts), [])
            if not known:
                return None
            # Mostly keys that are still being changed, sometimes one that ended long ago.
            return draw.choice(known[-8:] if draw.random() < 0.85 else known)


SORTS = ["plain", "plain", "plain", "kin", "kin", "limited", "limited", "busy", "payer", "payer", "payer", "solo"]


def limits(limit):
    if limit is None:
        return None
    return [{"name": "some", "limit": limit["rate"], "window": "1 second", "burst": limit["burst"]}]


def decision(world, draw, spends, in_transaction):
    """A kind and its arguments, or None if there is no key yet."""
    key = world.any_key(draw, *SORTS)
    if key is None:
        return None
    return ask(key, draw, spends, in_transaction)


def ask(key, draw, spends=True, in_transaction=False):
    pays = spends and key.sort == "payer" and draw.random() < 0.8
    # authenticate() would sign the key in, and it may not do what the client does then.
    kind = draw.choice(["verify", "verify_digest", *([] if in_transaction else ["authenticate"])])
    return kind, {
        "key": key.id, "api_key": key.api_key, "keyspace": key.keyspace, "ip": draw.choice(ADDRESSES),
        "scopes": draw.choice(NEEDS) if kind != "authenticate" else [],
        "spend": draw.choice([1, 2, 5, 40]) if pays else 0,
        "weight": draw.choice([1, 1, 1, 2, 0]) if key.sort in ("limited", "busy") else 1,
    }


def act(world, draw, client, mark):
    """A kind and its arguments, or None if there is nothing to do it to."""
    (kind,) = draw.choices(list(ACTS), ACTS.values())
    (keyspace,) = draw.choices(list(KEYSPACES), KEYSPACES.values())
    tenant = draw.choice(TENANTS)
    if kind == "mint":
        sort = draw.choice(["plain", "plain", "plain", "kin", "limited", "busy", "payer"])
        return kind, mint(draw, sort, keyspace, tenant, mark)
    if kind == "regenerate" and client.txn:
        return None             # which key the next one replaces depends on the commit
    if kind == "regenerate":
        return kind, {"tenant": f"solo {client.number}", "keyspace": "default", "mark": mark, "key": client.solo}
    if kind in ("suspend", "resume"):
        return kind, {"tenant": tenant, "keyspace": keyspace, "mark": mark}
    if kind in ("set_member", "remove_member"):
        args = {"tenant": tenant, "keyspace": keyspace, "member": draw.choice(MEMBERS)}
        return kind, args | ({"role": draw.choice(ROLES)} if kind == "set_member" else {})
    if kind == "define_role":
        return kind, {"keyspace": keyspace, "role": draw.choice(ROLES), "mark": mark,
                      "scopes": [*draw.choice(GRANTS), f"mark:{mark}"]}
    if kind == "add_credits" and draw.random() < 0.5:
        return kind, {"amount": draw.randrange(1, 60), "key": None, "tenant": "payer", "keyspace": "default"}
    sorts = {"rotate": ["kin", "limited", "payer"], "add_credits": ["payer"], "revoke": ["plain", "kin"],
             "report_leak": ["plain", "kin"], "alter_scopes": ["plain"], "alter_allowlist": ["plain"], "alter_expiry": ["plain"]}
    key = world.any_key(draw, *sorts.get(kind, ["plain", "kin"]))
    if key is None or kind == "add_credits" and not key.has_credits:
        return None
    args = {"key": key.id, "mark": mark}
    if kind == "report_leak":
        args["api_key"] = key.api_key
    if kind == "rotate":
        args["grace"] = draw.choice([0, 0.4, 3])
    elif kind == "alter_scopes":
        args["scopes"] = draw.choice(GRANTS)
    elif kind == "alter_allowlist":
        args["allowlist"] = draw.choice(NETWORKS)
    elif kind == "alter_expiry":
        args["seconds"] = draw.choice([None, 0.3, 1, 60])
    elif kind == "add_credits":
        args |= {"amount": draw.randrange(1, 60), "tenant": None, "keyspace": "default"}
    return kind, args


def mint(draw, sort, keyspace, tenant, mark):
    args = {"tenant": tenant, "keyspace": keyspace, "mark": mark, "scopes": [], "role": None, "owner": None,
            "allowlist": None, "limit": None, "credits": None, "sort": sort}
    if sort == "plain":
        args |= {"scopes": draw.choice([[], *GRANTS]), "allowlist": draw.choice(NETWORKS),
                 "role": draw.choice([None, None, *ROLES]), "owner": draw.choice([None, None, *MEMBERS])}
    elif sort == "limited":
        args |= {"limit": draw.choice(LIMITS)}
    elif sort in ("busy", "payer"):
        args |= {"tenant": sort, "keyspace": "default"}
        if sort == "payer" and draw.random() < 0.5:
            args["credits"] = draw.randrange(0, 200)
    return args
