"""A ledger of mixed requests: what the clients were told, and what the database has of it.

Sessions decide at random about keys with credits, limits in two units, and keys that are refused. They
report tags, settle requests, and roll back. Each counts what it was told. Then every table and view that
counts requests must say the same, to the last one.
"""

import json
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from psycopg.types.json import Jsonb

TAGS = ["model", "team"]
RICH = 10**12
# A key with these credits runs out. None of its requests is settled, so its credits only fall.
POOR, LOW = 500, 100
LIMITS = [{"name": "often", "limit": 400, "window": "365 days", "per": "subject"},
          {"name": "much", "unit": "tokens", "limit": 20_000, "window": "365 days"}]
MADE_UP = "ks_live_" + "a" * 49
FAILED = {"gone": "revoked", MADE_UP: None, "nonsense": None}

DECIDE = """
    SELECT v.ok, v.reason, v.request_id, v.status FROM jsonb_to_recordset(%s)
        AS r (key text, spend bigint, weights jsonb, weight integer, subject text, path text),
    LATERAL (SELECT * FROM keysmith.verify(r.key, spend => r.spend, weights => r.weights, weight => r.weight, subject => r.subject)
             WHERE r.path IS NULL
             UNION ALL
             SELECT * FROM keysmith.authenticate(jsonb_build_object('authorization', 'Bearer ' || r.key), 'GET', r.path,
                 spend => r.spend, weights => r.weights, weight => r.weight, subject => r.subject)
             WHERE r.path IS NOT NULL) AS v"""
REPORT = """
    SELECT keysmith.log_request(r.status, request_id => r.request_id, tags => r.tags)
    FROM jsonb_to_recordset(%s) AS r (request_id uuid, status integer, tags jsonb)"""


class Scene:
    """The keys, by name, and where the consumer of events begins."""

    def __init__(self, db, sessions):
        db.call("alter_keyspace", "default", Jsonb({"usage_tags": TAGS, "empty_scopes": "none"}))
        db.call("define_route", "default", "GET", "/closed", "never:given")
        self.tenants = {name: db.tenant(name) for name in ("acme", "globex")}
        self.keys = {}
        for n in range(sessions):
            self.keys[f"rich {n}"] = db.mint("acme", credits=RICH)
            self.keys[f"poor {n}"] = db.mint("globex", credits=POOR, refill=Jsonb({"amount": 1, "every": "month", "low": LOW}))
        self.keys["shared"] = db.mint("globex", credits=RICH)
        self.keys["plain"] = db.mint("acme")
        self.keys["limited"] = db.mint("globex", limits=Jsonb(LIMITS))
        self.keys["gone"] = db.mint("acme")
        db.call("revoke", self.keys["gone"].key_id)
        self.tenant_of = {key.key_id: db.value("SELECT tenant_id FROM keysmith_private.key WHERE key_id = %s", key.key_id)
                          for key in self.keys.values()}


class Told:
    """What the client of one session was told."""

    def __init__(self):
        # The rows that there must be: key, outcome, credits, weights, subject, tags, and the status.
        self.rows = Counter()
        self.unknown = Counter()
        self.decisions = Counter()
        # What the requests of committed transactions have cost in the end, and those of others, by key.
        self.cost, self.undone, self.settled, self.given_back = Counter(), Counter(), Counter(), Counter()
        self.refused_poor = set()
        self.events = []

    def add(self, other):
        for name in ("rows", "unknown", "decisions", "cost", "undone", "settled", "given_back"):
            getattr(self, name).update(getattr(other, name))
        self.refused_poor |= other.refused_poor


class Client:
    """One session, which draws its requests at random."""

    def __init__(self, scene, db, number, batch):
        self.scene, self.db, self.number, self.batch = scene, db, number, batch
        self.draw = random.Random(number)
        self.told = Told()

    def request(self, name):
        draw = self.draw
        units = draw.choice([None, None, {"tokens": draw.randrange(5)}, {"tokens": 7, "images": draw.randrange(3)}, {}])
        pays = name.split()[0] in ("rich", "poor", "shared")
        return {"name": name, "key": self.scene.keys[name].api_key if name in self.scene.keys else name,
                "spend": draw.choice([0, 1, 2, 5]) if pays else 0, "weights": units,
                "weight": draw.choice([None, None, None, 0, 3]), "subject": draw.choice([None, "ann", "bob", "é"]),
                "path": draw.choice([None, None, "/open", "/closed"])}

    def run(self, count):
        draw, done = self.draw, 0
        own = [f"rich {self.number}", f"poor {self.number}", "plain", "limited", "plain", "limited", *FAILED]
        while done < count:
            # Only single requests take credits that others take: a batch would hold them for long.
            is_single = draw.random() < 0.2
            names = ["shared"] if is_single else [draw.choice(own) for _ in range(draw.randint(1, self.batch))]
            self.transact([self.request(name) for name in names])
            done += len(names)

    def transact(self, requests, most_kept=0.9):
        draw, session = self.draw, self.db.session
        is_kept = draw.random() < most_kept
        session.execute("BEGIN")
        decided = [(request, *answer) for request, answer in
                   zip(requests, session.execute(DECIDE, (Jsonb(requests),)).fetchall())]
        assert len(decided) == len(requests)
        reports = self.reports(decided) if draw.random() < 0.7 else {}
        if draw.random() < 0.5:
            session.execute("COMMIT" if is_kept else "ROLLBACK")
            self.report(reports)
        else:
            self.report(reports)
            session.execute("COMMIT" if is_kept else "ROLLBACK")
        for request, ok, reason, request_id, status in decided:
            report = reports.get(request_id) or {"status": None, "tags": None}
            row = self.note(request, ok, reason, report["status"] or status, report["tags"], is_kept)
            if ok and is_kept and not request["name"].startswith("poor"):
                self.settle(request, request_id, row)

    def reports(self, decided):
        draw = self.draw
        tags = [None, {}, {"model": "small"}, {"model": "large", "team": "a"}, {"trace": "x"}, {"team": "é\"\\"}]
        return {request_id: {"status": draw.choice([None, 200, 500]), "tags": draw.choice(tags)}
                for request, _, _, request_id, _ in decided if request["name"] not in (MADE_UP, "nonsense")}

    def report(self, reports):
        if reports:
            given = [{"request_id": str(request_id), **told} for request_id, told in reports.items()]
            assert all(taken for taken, in self.db.session.execute(REPORT, (Jsonb(given),)).fetchall())

    def note(self, request, ok, reason, status, tags, is_kept):
        told, name = self.told, request["name"]
        told.decisions[reason] += 1
        if name in (MADE_UP, "nonsense"):
            assert not ok
            told.unknown[reason] += 1
            return None
        weights = dict(request["weights"] or {}) | ({} if request["weight"] in (None, 1) else {"calls": request["weight"]})
        spend = request["spend"] if ok and request["spend"] else None
        key_id = self.scene.keys[name].key_id
        row = (key_id, reason, spend, text(weights or None), request["subject"], text(tags), status)
        told.rows[row] += 1
        (told.cost if is_kept else told.undone)[key_id] += spend or 0
        if name.startswith("poor") and is_kept and reason == "credits_exhausted":
            told.refused_poor.add(key_id)
        return row

    def settle(self, request, request_id, row):
        """Settles some requests. Then their rows have what they cost."""
        key_id, reason, spend, weights, *others = row
        cost = self.draw.randrange(8) if spend and self.draw.random() < 0.1 else None
        used = {"tokens": self.draw.randrange(20)} if "tokens" in (weights or "") and self.draw.random() < 0.1 else None
        if cost is None and used is None:
            return
        given = None if used is None else Jsonb(used)
        assert self.db.one("settle", request_id, cost, given)[0]
        assert not self.db.one("settle", request_id, None if cost is None else 10**6, given)[0]
        if cost is not None:
            self.told.cost[key_id] += cost - spend
            self.told.settled[key_id] += 1
            self.told.given_back[key_id] += spend - cost
        weights = text(json.loads(weights or "{}") | used) if used else weights
        self.told.rows[row] -= 1
        self.told.rows[key_id, reason, spend if cost is None else cost, weights, *others] += 1

    def raise_all(self):
        """A request so large that counters, which never fall, are then where the sums are."""
        request = self.request(f"rich {self.number}")
        units = {"tokens": 10**6, "images": 10**6}
        self.transact([request | {"spend": 10**6, "weights": units, "weight": None, "path": None}], most_kept=1)


def text(value):
    return None if value is None else json.dumps(value, sort_keys=True, ensure_ascii=False)


class Consumer(threading.Thread):
    """Reads events after its position until it is told to end, and then all that are left."""

    def __init__(self, db):
        super().__init__()
        self.db, self.is_over, self.read = db, threading.Event(), []

    def run(self):
        while True:
            was_over = self.is_over.is_set()
            position = self.read[-1].position if self.read else 0
            rows = self.db.call("events_after", "default", position, 7)
            self.read += rows
            if was_over and not rows:
                return
            if not rows:
                self.is_over.wait(0.1)


def play(connect, count, sessions=4, batch=30):
    """Makes so many requests, and returns what is compared: (what, from the clients, from the database)."""
    db = connect()
    scene = Scene(db, sessions)
    before = counted_decisions(db)
    consumer = Consumer(connect())
    consumer.start()
    clients = [Client(scene, connect(), number, batch) for number in range(sessions)]
    try:
        with ThreadPoolExecutor(sessions) as pool:
            list(pool.map(lambda client: client.run(count // sessions), clients))
        clients[0].raise_all()
        db.call("flush_usage")
        db.call("maintain")
    finally:
        consumer.is_over.set()
        consumer.join()
    told = Told()
    for client in clients:
        told.add(client.told)
        client.db.session.close()
    compared = compare(db, scene, told, before, consumer.read)
    consumer.db.session.close()
    return compared


def counted_decisions(db):
    return Counter({row.outcome: int(row.decisions) for row in db.rows("SELECT * FROM keysmith_private.decisions()")})


def compare(db, scene, told, before, events):
    rows = told.rows
    yield "decisions, by outcome", told.decisions, counted_decisions(db) - before
    yield "unknown keys, by reason", told.unknown, Counter(dict(db.rows(
        "SELECT reason, sum(requests)::bigint FROM keysmith_private.usage_unknown GROUP BY 1")))
    stored = db.rows("SELECT key_id, outcome, spend, weights, subject, tags, status, count(*) FROM keysmith.usage GROUP BY 1, 2, 3, 4, 5, 6, 7")
    found = Counter()
    for row in stored:
        found[row.key_id, row.outcome, row.spend, text(row.weights), row.subject, text(row.tags), row.status] += row.count
    yield "rows, with all that they hold", +rows, +found

    by_key, spent, units, tags = Counter(), Counter(), Counter(), Counter()
    for (key_id, outcome, spend, weights, _, given, _), count in rows.items():
        by_key[key_id, outcome] += count
        spent[key_id] += (spend or 0) * count
        for unit, amount in json.loads(weights or "{}").items():
            if outcome == "ok" and unit != "calls":
                units[key_id, unit] += amount * count
        for tag, value in json.loads(given or "{}").items():
            if tag in TAGS:
                tags[scene.tenant_of[key_id], tag, value, "requests"] += count
                tags[scene.tenant_of[key_id], tag, value, "spend"] += (spend or 0) * count
    for view in ("usage_hourly", "usage_daily"):
        found = db.rows(f"SELECT key_id, outcome, sum(requests)::bigint AS requests, sum(spend)::bigint AS spend FROM keysmith.{view} GROUP BY 1, 2")
        yield f"{view}, by key and outcome", by_key, Counter({(row.key_id, row.outcome): row.requests for row in found})
        credits = Counter()
        for row in found:
            credits[row.key_id] += row.spend
        yield f"{view}, credits by key", +spent, +credits
    yield "usage_units, by key and unit", +units, Counter({(key_id, unit): amount for key_id, unit, amount in db.rows(
        "SELECT key_id, unit, sum(amount)::bigint FROM keysmith.usage_units GROUP BY 1, 2")})
    found = Counter()
    for row in db.rows("SELECT tenant_id, tag, value, requests, spend FROM keysmith.usage_tags"):
        found[row.tenant_id, row.tag, row.value, "requests"] += row.requests
        found[row.tenant_id, row.tag, row.value, "spend"] += row.spend
    yield "usage_tags, by tenant and value", +tags, +found

    start = {key.key_id: POOR if name.startswith("poor") else RICH for name, key in scene.keys.items()
             if name.split()[0] in ("rich", "poor", "shared")}
    balances = dict(db.rows("SELECT key_id, balance FROM keysmith_private.credit WHERE key_id IS NOT NULL"))
    yield "credits: the start less the costs", {key_id: n - told.cost[key_id] for key_id, n in start.items()}, balances
    yield "credits: the rows less what was rolled back", +Counter({key_id: spent[key_id] - told.undone[key_id] for key_id in start}), +told.cost
    charges = db.rows("SELECT key_id, sum(spend)::bigint AS spend, sum(coalesce(settled, spend))::bigint AS cost, "
                      "count(settled_at) AS settled FROM keysmith_private.charge GROUP BY 1")
    yield "credits: the charges", {
        key_id: (told.cost[key_id] + told.given_back[key_id], told.cost[key_id], told.settled[key_id]) for key_id in start
    }, {row.key_id: (row.spend, row.cost, row.settled) for row in charges}
    metrics = {(row.name, row.labels.get("unit")): int(row.value) for row in db.rows(
        "SELECT name, labels, value FROM keysmith.metrics WHERE labels ->> 'keyspace' = 'default'")}
    of_unit = Counter()
    for (_, unit), amount in units.items():
        of_unit[unit] += amount
    yield "metrics: credits and units", {None: sum(spent.values()), **+of_unit}, {
        unit: value for (name, unit), value in metrics.items() if name in ("keysmith_spend_total", "keysmith_units_total")}
    yield "metrics: requests without a known key", sum(told.unknown.values()), int(db.value(
        "SELECT value FROM keysmith.metrics WHERE name = 'keysmith_usage_unknown_total'"))

    everything = [row for start in range(0, 10**6, 1000) for row in db.call("events_after", "default", start, 1000) if row.position <= start + 1000]
    entries = [entry for entry, in db.rows("SELECT entry FROM keysmith.audit WHERE keyspace = 'default' ORDER BY entry")]
    yield "events: the entries have no gap", list(range(1, len(entries) + 1)), entries
    yield "events: what the consumer has read", events, db.rows("SELECT position, at, event, key_id, tenant, detail FROM keysmith.events WHERE keyspace = 'default' ORDER BY position")
    minted = Counter({("mint", key.key_id): 1 for key in scene.keys.values()})
    minted["revoke", scene.keys["gone"].key_id] = 1
    for name, key in scene.keys.items():
        if name.startswith("poor"):
            left = POOR - told.cost[key.key_id]
            if left <= LOW:
                minted["credits.low", key.key_id] = 1
            if left == 0 or key.key_id in told.refused_poor:
                minted["credits.exhausted", key.key_id] = 1
    yield "events: of keys and of credits", minted, Counter((row.event, row.key_id) for row in events if row.key_id)


def size(value):
    """How many there are, and their sum if they are numbers."""
    if not hasattr(value, "__len__"):
        return "", value
    numbers = list(value.values()) if isinstance(value, dict) else []
    return len(value), sum(numbers) if all(isinstance(number, int) for number in numbers) and numbers else ""


def table(compared):
    """The comparison, as text."""
    lines = [f"{'what is compared':44} {'groups':>9} {'clients':>20} {'database':>20}"]
    for what, expected, found in compared:
        (groups, mine), (_, theirs) = size(expected), size(found)
        lines.append(f"{what:44} {groups:>9} {mine:>20} {theirs:>20}  {'equal' if expected == found else 'DIFFERENT'}")
    return "\n".join(lines)
