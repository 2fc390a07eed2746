"""Usage in SQL: totals, pages, partitions, retention, views, charts."""

import json
import random
import subprocess
import threading
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import psycopg
import pytest

from conftest import Database, wait_until

COLUMNS = ("at, incarnation, sequence, request_id, key_id, tenant_id, keyspace, environment, method, "
           "endpoint, status, outcome, ip, latency, spend, weights, tags, counted_tags")
OUTCOMES = [("ok", 200), ("ok", 500), ("insufficient_scope", 403), ("revoked", 401)]
TODAY = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)


class Usage:
    """A database with tenants and keys, and requests written as the worker writes them."""

    def __init__(self, db, tenants=("acme",), keys=2):
        self.db = db
        self.random = random.Random(7)
        self.sequence = 0
        self.tenants = {name: db.tenant(name) for name in tenants}
        self.keys = [(db.mint(name).key_id, tenant_id)
                     for name, tenant_id in self.tenants.items() for _ in range(keys)]
        db.call("usage_prepare")

    def row(self, at=None, key=None, outcome=None, endpoint=None, latency=None, status=None):
        key_id, tenant_id = key or self.random.choice(self.keys)
        drawn, drawn_status = self.random.choice(OUTCOMES)
        self.sequence += 1
        return (at or TODAY - timedelta(seconds=self.random.randrange(86400)), 1, self.sequence,
                uuid.uuid4(), key_id, tenant_id, "default", "live", "GET",
                endpoint or self.random.choice(["/a", "/b", None]), status or drawn_status,
                outcome or drawn, "10.0.0.1", latency,
                self.random.choice([None, 0, 5]), self.random.choice([None, '{"calls": 3}', '{"tokens": 7, "images": 1}']),
                self.random.choice([None, '{"model": "small"}', '{"model": "large", "team": "a"}']),
                self.random.choice([None, "model", "team,model,other"]))

    def write(self, rows, table="keysmith_private.usage_event"):
        for day in {row[0].astimezone(timezone.utc).date() for row in rows}:
            self.db.call("usage_prepare", day, day)
        with self.db.session.cursor() as cursor, \
                cursor.copy(f"COPY {table} ({COLUMNS}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)

    def add(self, count=1, **options):
        rows = [self.row(**options) for _ in range(count)]
        self.write(rows)
        return rows


@pytest.fixture
def usage(db):
    return Usage(db)


def partition(day):
    return f"keysmith_private.usage_{day:%Y%m%d}"


# The expected totals: those of the rows, by one statement and so under one snapshot.
BY_KEY = """
    SELECT * FROM (
        SELECT date_trunc('{span}', at, 'UTC') AS period, tenant_id, key_id, environment, status,
               outcome, count(*)::bigint, coalesce(sum(spend), 0)::bigint AS spent
        FROM keysmith_private.usage_event GROUP BY 1, 2, 3, 4, 5, 6) AS rows
    FULL JOIN (
        SELECT {column} AS period, tenant_id, key_id, environment, status, outcome, requests, spend
        FROM keysmith.usage_{span_ly}) AS totals
    USING (period, tenant_id, key_id, environment, status, outcome)
    WHERE (count, spent) IS DISTINCT FROM (requests, spend)"""
BY_UNIT = """
    SELECT * FROM (
        SELECT date_trunc('hour', at, 'UTC') AS hour, tenant_id, key_id, environment, key AS unit, sum(value::bigint) AS sum
        FROM keysmith_private.usage_event, jsonb_each_text(weights)
        WHERE outcome = 'ok' AND key <> 'calls' GROUP BY 1, 2, 3, 4, 5 HAVING sum(value::bigint) <> 0) AS rows
    FULL JOIN (
        SELECT hour, tenant_id, key_id, environment, unit, amount FROM keysmith.usage_units) AS totals
    USING (hour, tenant_id, key_id, environment, unit)
    WHERE sum IS DISTINCT FROM amount"""
BY_ENDPOINT = """
    SELECT * FROM (
        SELECT (at AT TIME ZONE 'UTC')::date AS day, tenant_id, coalesce(endpoint, '') AS endpoint,
               count(*)::bigint, count(*) FILTER (WHERE outcome <> 'ok') AS not_ok,
               sum(latency) / nullif(count(latency), 0) AS mean, coalesce(sum(spend), 0)::bigint AS spent
        FROM keysmith_private.usage_event WHERE endpoint IS NOT NULL OR method IS NOT NULL GROUP BY 1, 2, 3) AS rows
    FULL JOIN (
        SELECT day, tenant_id, coalesce(endpoint, '') AS endpoint, requests, refused, latency, spend
        FROM keysmith.usage_endpoints) AS totals
    USING (day, tenant_id, endpoint)
    WHERE (count, not_ok, mean, spent) IS DISTINCT FROM (requests, refused, latency, spend)"""
BY_TAG = """
    SELECT * FROM (
        SELECT (at AT TIME ZONE 'UTC')::date AS day, tenant_id, environment, key AS tag, value, count(*)::bigint,
               coalesce(sum(spend), 0)::bigint AS spent
        FROM keysmith_private.usage_event, jsonb_each_text(tags)
        WHERE key = ANY (string_to_array(counted_tags, ',')) GROUP BY 1, 2, 3, 4, 5) AS rows
    FULL JOIN (
        SELECT day, tenant_id, environment, tag, value, requests, spend FROM keysmith.usage_tags) AS totals
    USING (day, tenant_id, environment, tag, value)
    WHERE (count, spent) IS DISTINCT FROM (requests, spend)"""
DIFFERENCES = [
    BY_KEY.format(span="hour", span_ly="hourly", column="hour"),
    BY_KEY.format(span="day", span_ly="daily", column="day::timestamp AT TIME ZONE 'UTC'"),
    BY_ENDPOINT,
    BY_UNIT,
    BY_TAG,
]


def assert_totals(db):
    for statement in DIFFERENCES:
        assert db.rows(statement) == []


# Totals

def test_totals_are_those_of_the_rows_whatever_is_done_to_them(usage):
    """Rows are added, amended, moved and removed, through the parent and directly; totals are
    compared before and after folding."""
    db, draw = usage.db, usage.random
    for step in range(60):
        usage.add(draw.randrange(1, 30), latency=draw.choice([None, "5 ms", "1 s"]))
        usage.write([usage.row(at=TODAY + timedelta(seconds=1))], partition(TODAY))
        table = draw.choice(["keysmith_private.usage_event", partition(TODAY - timedelta(days=1))])
        some = f"sequence % 7 = {draw.randrange(7)}"
        db.rows(draw.choice([
            f"UPDATE {table} SET status = 404, latency = '7 ms', endpoint = '/c' WHERE {some}",
            f"UPDATE {table} SET outcome = 'ok' WHERE {some}",
            f"UPDATE {table} SET spend = 9, weights = weights || '{{\"tokens\": 4}}' WHERE {some}",
            f"UPDATE {table} SET spend = NULL, weights = NULL WHERE {some}",
            f"UPDATE keysmith_private.usage_event SET at = at + interval '90 minutes' WHERE {some}",
            f"DELETE FROM {table} WHERE sequence % 31 = {draw.randrange(31)}",
            "SELECT 1",
        ]))
        assert_totals(db)
        if step % 5 == 0:
            assert db.one("usage_fold")[0] > 0
            assert db.value("SELECT count(*) FROM keysmith_private.usage_delta") == 0
            assert_totals(db)
    assert db.value("SELECT sum(requests) FROM keysmith.usage_hourly") > 500


def test_totals_are_exact_at_every_moment_with_sixteen_writers(usage, connect):
    """Writers write on every path while one session folds, and another reads the number of rows
    and the totals in one statement."""
    db = usage.db
    until = threading.Event()
    today = partition(TODAY)

    def write(number):
        session = connect()
        draw = random.Random(number)
        for n in range(40):
            table = draw.choice(["keysmith_private.usage_event", today])
            key_id, tenant_id = draw.choice(usage.keys)
            session.execute(
                f"INSERT INTO {table} ({COLUMNS}) SELECT %s + interval '1 minute' * (g %% 180), %s, "
                "%s + g, gen_random_uuid(), %s, %s, 'default', 'live', 'GET', '/x', 200, 'ok', NULL, NULL, "
                "g, '{\"tokens\": 2}', '{\"model\": \"small\"}', 'model' "
                "FROM generate_series(1, 20) AS g",
                (TODAY, number, n * 20, key_id, tenant_id))
            session.execute(draw.choice([
                f"UPDATE {table} SET status = 201 WHERE incarnation = {number} AND sequence % 5 = 0",
                f"UPDATE {table} SET tags = '{{\"model\": \"large\"}}' WHERE incarnation = {number} AND sequence % 3 = 0",
                f"DELETE FROM {table} WHERE incarnation = {number} AND sequence % 11 = 0",
                "SELECT 1"]))

    def fold():
        session = connect()
        folds = 0
        while not until.is_set():
            folds += session.execute("SELECT keysmith_private.usage_fold()").fetchone()[0]
        return folds

    def look():
        session = connect()
        looks = total = 0
        while not until.is_set():
            # The last page, whose length shows whether rows and total are of the same snapshot.
            page = total // 1000 + 1
            answer, = session.execute("SELECT keysmith.usage_logs('acme', page => %s, per_page => 1000)",
                                      (page,)).fetchone()
            total = answer["meta"]["total"]
            assert len(answer["data"]) == max(0, min(1000, total - 1000 * (page - 1)))
            rows, hours, days = session.execute(
                "SELECT (SELECT count(*) FROM keysmith_private.usage_event), "
                "(SELECT coalesce(sum(requests), 0) FROM keysmith.usage_hourly) AS hours, "
                "(SELECT coalesce(sum(requests), 0) FROM keysmith.usage_daily) AS days").fetchone()
            assert rows == hours == days
            spent, by_tag = session.execute(
                "SELECT (SELECT coalesce(sum(spend), 0) FROM keysmith_private.usage_event WHERE counted_tags IS NOT NULL) AS spent, "
                "(SELECT coalesce(sum(spend), 0) FROM keysmith.usage_tags WHERE tag = 'model') AS by_tag").fetchone()
            assert spent == by_tag
            looks += 1
        return looks

    with ThreadPoolExecutor(18) as pool:
        folding, looking = pool.submit(fold), pool.submit(look)
        try:
            for writer in [pool.submit(write, number) for number in range(100, 116)]:
                writer.result(120)
        finally:
            until.set()
        assert folding.result(30) > 100 and looking.result(30) > 5
    assert_totals(db)
    # And the new marks lead to the right pages.
    db.one("usage_fold")
    assert_pages(usage, "acme", None, per_page=997)


def test_only_one_session_folds(usage, connect):
    usage.db.rows("SET statement_timeout = '60s'")
    usage.add(10)
    other = connect(autocommit=False)
    assert other.execute("SELECT keysmith_private.usage_fold()").fetchone()[0] > 0
    assert usage.db.one("usage_fold")[0] is None
    tasks = dict(usage.db.call("maintain"))
    assert tasks["totals"] == tasks["retention"] == "busy, to be tried again"
    # Neither writers nor readers wait for it; readers see the former state.
    usage.add(10)
    assert usage.db.value("SELECT sum(requests) FROM keysmith.usage_hourly") == 20
    other.rollback()
    assert usage.db.one("usage_fold")[0] > 0
    assert_totals(usage.db)


def test_endpoints_of_a_day_are_bounded(usage):
    key, counts = usage.keys[0], "SELECT endpoint, requests FROM keysmith.usage_endpoints ORDER BY 1"
    at = TODAY + timedelta(hours=1)
    # An endpoint that reads like the row of further ones does not keep others from being counted by name.
    alike = usage.row(at=at, key=key, endpoint="(other)")
    usage.write([alike[:8] + (None,) + alike[9:]])
    usage.db.one("usage_fold")
    for number, shown in enumerate([301, 601, 500, 500]):
        usage.write([usage.row(at=at, key=key, endpoint=f"/{number}/{n}") for n in range(300)])
        before = usage.db.rows(counts)
        usage.db.one("usage_fold")
        assert len(before) == shown and (usage.db.rows(counts) == before) == (shown < 600)
    # Counted endpoints stay counted by name and the others stay `(other)`, as amendments show.
    usage.db.rows("UPDATE keysmith_private.usage_event SET endpoint = '/new' WHERE endpoint = '/3/1'")
    usage.db.rows("UPDATE keysmith_private.usage_event SET endpoint = '/0/0' WHERE endpoint IN ('/0/1', '/3/2')")
    before = usage.db.rows(counts)
    usage.db.one("usage_fold")
    assert usage.db.rows(counts) == before
    assert len(before) == 499 and sum(dict(before).values()) == 1201
    assert dict(before)["(other)"] == 701 and dict(before)["/0/0"] == 3
    assert usage.db.value("SELECT count(*) FROM keysmith_private.usage_endpoint_day") == 501
    # Longer than an index entry may be.
    usage.write([usage.row(at=at, key=key, endpoint=chr(0x1F511) * 100_000)])
    assert usage.db.one("usage_fold")[0] > 0


def test_a_latency_out_of_all_bounds_fails_nothing(usage):
    usage.add(1, latency="178000000 years")
    usage.add(1, latency="-178000000 years")
    usage.db.one("usage_fold")
    usage.add(3, latency="178000000 years")
    usage.db.one("usage_fold")
    assert usage.db.value("SELECT max(latency) FROM keysmith.usage_daily") <= timedelta(days=1)


# Last use

def test_last_used_at(usage):
    db = usage.db
    (used, tenant_id), (refused, _) = usage.keys
    before = db.value("SELECT xmin FROM keysmith_private.key WHERE key_id = %s", used)
    newest = TODAY - timedelta(hours=3)
    for at in (newest - timedelta(hours=1), newest, newest - timedelta(days=1)):
        usage.add(at=at, key=(used, tenant_id), outcome="ok", status=200)
    usage.add(at=TODAY, key=(refused, tenant_id), outcome="revoked", status=401)
    last = "SELECT last_used_at FROM keysmith.keys WHERE key_id = %s"
    for _ in ("not folded", "folded", "folded twice"):
        assert db.value(last, used) == newest
        assert db.value(last, refused) is None
        assert {row.key_id: row.last_used_at for row in db.call("list_keys", "acme")} == \
            {used: newest, refused: None}
        db.one("usage_fold")
    # A later use is visible immediately; an older one, or one with an absurd time, changes
    # nothing.
    usage.add(at=newest + timedelta(hours=1), key=(used, tenant_id), outcome="ok")
    assert db.value(last, used) == newest + timedelta(hours=1)
    usage.add(at=TODAY + timedelta(days=3650), key=(used, tenant_id), outcome="ok")
    assert db.value("SELECT last_used_at <= clock_timestamp() FROM keysmith.keys WHERE key_id = %s", used)
    assert db.value("SELECT xmin FROM keysmith_private.key WHERE key_id = %s", used) == before


# Pages

def expected_rows(db, tenant_id, key_id):
    return [row.request_id for row in db.rows(
        "SELECT request_id FROM keysmith_private.usage_event WHERE tenant_id = %s AND (%s::uuid IS NULL OR key_id = %s) "
        "ORDER BY at DESC, incarnation DESC, sequence DESC", tenant_id, key_id, key_id)]


def assert_pages(usage, tenant, key_id, per_page):
    """All pages together are all rows in order; the total is right."""
    rows = expected_rows(usage.db, usage.tenants[tenant], key_id)
    seen = []
    for page in range(1, len(rows) // per_page + 3):
        answer = usage.db.one("usage_logs", tenant, key_id=key_id, page=page, per_page=per_page)[0]
        assert answer["meta"] == {"total": len(rows), "page": page, "limit": per_page}
        assert len(answer["data"]) == max(0, min(per_page, len(rows) - (page - 1) * per_page))
        seen += [uuid.UUID(entry["request_id"]) for entry in answer["data"]]
    assert seen == rows


def test_pages_joined_are_all_rows_in_order(db):
    usage = Usage(db, tenants=("acme", "other"), keys=3)
    draw = usage.random
    for step in range(12):
        # Some at the very same time, some days without any, some far apart.
        usage.add(draw.randrange(1, 40), at=TODAY - timedelta(minutes=draw.randrange(3000)))
        usage.add(draw.randrange(1, 40))
        usage.add(2, at=TODAY - timedelta(days=draw.randrange(400)))
        usage.add(1, at=TODAY + timedelta(days=draw.randrange(5, 4000)))
        if step % 3 == 0:
            db.one("usage_fold")
        db.rows(f"DELETE FROM keysmith_private.usage_event WHERE sequence % 17 = {step}")
    for folded in (False, True):
        for tenant, tenant_id in usage.tenants.items():
            keys = [key_id for key_id, owner in usage.keys if owner == tenant_id]
            for key_id in [None, *keys]:
                for per_page in (1, 7, 50, 1000):
                    if per_page > 1 or key_id:
                        assert_pages(usage, tenant, key_id, per_page)
        db.one("usage_fold")


def test_busy_hours_of_persons(usage):
    """Persons of all tenants have the same key, the nil id."""
    db = usage.db
    hour = TODAY + timedelta(hours=3)
    nobody = uuid.UUID(int=0)
    usage.write([usage.row(at=hour + timedelta(milliseconds=n), key=(nobody, tenant_id))
                 for n in range(1100) for tenant_id in usage.tenants.values()])
    assert db.value("SELECT keysmith_private.usage_fold()") > 0
    marked = {holder for holder, in db.rows("SELECT DISTINCT holder FROM keysmith_private.usage_mark")}
    assert marked == set(usage.tenants.values())


def test_pages_of_a_busy_hour(usage):
    """Pages that use marks: thousands of rows an hour, with late, removed and moved rows, before,
    between and after marks, folded or not."""
    db, draw = usage.db, usage.random
    hour = TODAY + timedelta(hours=2)
    usage.write([usage.row(at=hour + timedelta(milliseconds=n // 3)) for n in range(6000)])
    assert_pages(usage, "acme", usage.keys[0][0], 700)
    db.one("usage_fold")
    assert db.value("SELECT count(*) FROM keysmith_private.usage_mark") >= 9
    for step in range(8):
        change = draw.randrange(4)
        at = hour + timedelta(milliseconds=draw.randrange(2000))
        if change == 0:
            usage.add(draw.randrange(1, 700), at=at)
        elif change == 1:
            db.rows("DELETE FROM keysmith_private.usage_event WHERE at = (SELECT at FROM keysmith_private.usage_event "
                    "WHERE at >= %s LIMIT 1)", at)
        elif change == 2:
            db.rows("UPDATE keysmith_private.usage_event SET at = %s WHERE sequence %% 97 = %s",
                    at, draw.randrange(97))
        else:
            db.rows("UPDATE keysmith_private.usage_event SET status = 500 WHERE sequence %% 3 = 0 AND at >= %s", hour)
        for key_id in (None, usage.keys[0][0]):
            assert_pages(usage, "acme", key_id, per_page=draw.choice([333, 500, 1000]))
        if step % 2:
            db.one("usage_fold")
    # A row at the very beginning, and rows of only one time.
    usage.add(1, at=hour)
    usage.add(2500, at=hour + timedelta(minutes=30), key=usage.keys[1])
    db.one("usage_fold")
    for key_id in (None, usage.keys[1][0]):
        assert_pages(usage, "acme", key_id, per_page=500)


def test_amending_rows_leaves_their_marks(usage):
    hour = TODAY + timedelta(hours=2)
    usage.write([usage.row(at=hour + timedelta(milliseconds=n), key=usage.keys[0]) for n in range(2500)])
    usage.db.one("usage_fold")
    marks = usage.db.rows("SELECT *, xmin FROM keysmith_private.usage_mark")
    assert len(marks) == 4
    usage.db.rows("UPDATE keysmith_private.usage_event SET status = 418, latency = '1 ms'")
    usage.db.one("usage_fold")
    assert usage.db.rows("SELECT *, xmin FROM keysmith_private.usage_mark") == marks
    # Marks before a late row stay, too.
    usage.add(1, at=hour + timedelta(milliseconds=1500), key=usage.keys[0])
    usage.db.one("usage_fold")
    assert {row for row in usage.db.rows("SELECT *, xmin FROM keysmith_private.usage_mark")} & set(marks) == \
        {mark for mark in marks if mark.position == 1000}


def test_an_entry_has_what_was_logged(usage):
    at = TODAY + timedelta(hours=1, microseconds=5)
    (row,) = usage.add(1, at=at, outcome="insufficient_scope", status=403, endpoint="/x", latency="12.5 ms")
    (entry,) = usage.db.one("usage_logs", "acme")[0]["data"]
    assert datetime.fromisoformat(entry.pop("at")) == at
    assert entry == {"request_id": str(row[3]), "key_id": str(row[4]), "member": None, "environment": "live",
                     "method": "GET", "endpoint": "/x", "status": 403, "outcome": "insufficient_scope",
                     "ip": "10.0.0.1", "latency": 12.5, "spend": row[14], "weights": row[15] and json.loads(row[15]),
                     "subject": None, "tags": row[16] and json.loads(row[16])}


@pytest.mark.parametrize("options, named", [
    ({"page": 0}, "page"), ({"page": -1}, "page"), ({"page": None}, "page"),
    ({"per_page": 0}, "per_page"), ({"per_page": 1001}, "per_page"), ({"per_page": None}, "per_page"),
    ({"tenant": None}, "tenant"), ({"keyspace": None}, "keyspace"),
])
def test_pages_that_cannot_be(usage, options, named):
    assert named in usage.db.refused("KS400", "usage_logs", **({"tenant": "acme"} | options))


def test_pages_of_no_one(usage):
    db = usage.db
    assert "nobody" in db.refused("KS404", "usage_logs", "nobody")
    db.refused("KS404", "usage_logs", "acme", keyspace="elsewhere")
    unknown = db.refused("KS404", "usage_logs", "acme", key_id=uuid.uuid4())
    db.tenant("other")
    assert db.refused("KS404", "usage_logs", "other", key_id=usage.keys[0][0]) == unknown
    assert db.one("usage_logs", "other")[0] == {"data": [], "meta": {"total": 0, "page": 1, "limit": 50}}
    last = db.one("usage_logs", "acme", page=2**31 - 1, per_page=1000)[0]
    assert last["data"] == [] and last["meta"]["total"] == 0


# Partitions

def partitions(db):
    return {name for name, in db.rows(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'keysmith_private.usage_event'::regclass")}


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
def test_partitions_are_made_once_by_any_number_of_sessions(db, connect, isolation):
    sessions = [connect(autocommit=False) for _ in range(12)]
    for session in sessions:
        session.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
        session.execute("SELECT 1")

    def make(session):
        made, = session.execute("SELECT keysmith_private.usage_prepare()").fetchone()
        session.commit()
        return made

    with ThreadPoolExecutor(12) as pool:
        made = list(pool.map(make, sessions))
    assert sorted(made) == [0] * 11 + [5]
    names = {partition(TODAY + timedelta(days=n)) for n in range(-1, 4)}
    assert partitions(db) == names
    for name in names:
        assert db.value("SELECT count(*) FROM pg_trigger WHERE tgrelid = %s::regclass", name) == 4
        assert db.value("SELECT count(*) FROM pg_index WHERE indrelid = %s::regclass", name) == 3
    assert db.one("usage_prepare")[0] == 0
    assert [tuple(row) for row in db.rows("SELECT name, starts, ends FROM keysmith_private.usage_partitions()")] == [
        (f"usage_{day:%Y%m%d}", day, day + timedelta(days=1))
        for day in (TODAY + timedelta(days=n) for n in range(-1, 4))]


def test_partitions_are_made_without_a_transaction_id_if_all_are_there(usage):
    with usage.db.session.transaction():
        usage.db.call("usage_prepare")
        assert usage.db.value("SELECT pg_current_xact_id_if_assigned()") is None


def test_partitions_carry_no_grants(db, cluster, dbname):
    cluster.execute("CREATE ROLE reader")
    try:
        db.rows("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO reader, PUBLIC")
        db.call("usage_prepare")
        assert db.rows("SELECT relname, a FROM pg_class, aclexplode(relacl) a "
                       "WHERE relname LIKE 'usage_2%' AND a.grantee <> relowner") == []
    finally:
        cluster.execute("DROP OWNED BY reader", dbname)
        cluster.execute("DROP ROLE reader")


def test_a_partition_is_made_while_others_read_and_write(db, connect):
    """An open transaction that has read usage blocks neither it nor other readers."""
    usage = Usage(db, tenants=("acme",))
    usage.add(10)
    reader, writer = connect(autocommit=False), connect(autocommit=False)
    reader.execute("SELECT count(*) FROM keysmith.usage")
    writer.execute("DELETE FROM keysmith_private.usage_event")
    db.rows("SET lock_timeout = '60s'")
    day = (TODAY + timedelta(days=40)).date()
    assert db.one("usage_prepare", day, day)[0] == 1
    usage.add(5, at=TODAY + timedelta(days=40, hours=3))
    reader.rollback()
    writer.rollback()
    assert_pages(usage, "acme", None, 10)


def test_a_day_whose_table_is_there_by_another_name_or_was_detached(usage):
    db = usage.db
    usage.add(10, at=TODAY)
    db.rows(f"ALTER TABLE {partition(TODAY)} RENAME TO own")
    assert db.one("usage_prepare")[0] == 0
    db.rows("ALTER TABLE keysmith_private.own RENAME TO usage_" + f"{TODAY:%Y%m%d}")
    db.rows(f"ALTER TABLE keysmith_private.usage_event DETACH PARTITION {partition(TODAY)}")
    assert db.one("usage_prepare")[0] == 1
    assert partition(TODAY) + "_" in partitions(db)
    usage.add(1, at=TODAY)
    assert db.value("SELECT count(*) FROM keysmith_private.usage_event") == 1


@pytest.mark.parametrize("first, last", [
    ("2030-01-02", "2030-01-01"), ("2030-01-01", "2033-01-01"), ("-infinity", "infinity")])
def test_days_that_no_one_needs(db, first, last):
    assert "last_day" in db.refused("KS400", "usage_prepare", first, last)


# Retention

def old_rows(usage):
    """Rows of 120, 110 and 105 days ago."""
    for days, count in ((120, 20), (105, 10), (110, 7)):
        day = (TODAY - timedelta(days=days)).date()
        usage.db.call("usage_prepare", day, day)
        usage.add(count, at=TODAY - timedelta(days=days) + timedelta(hours=5))


def test_old_rows_go_and_their_totals_stay(usage):
    db = usage.db
    old_rows(usage)
    usage.add(15)
    before = db.rows("SELECT * FROM keysmith.usage_daily ORDER BY 1, 2, 3, 4, 5, 6, 7")
    assert dict(db.call("maintain"))["retention"] == "3 partitions dropped"
    assert db.value("SELECT count(*) FROM keysmith_private.usage_event") == 15
    assert db.rows("SELECT * FROM keysmith.usage_daily ORDER BY 1, 2, 3, 4, 5, 6, 7") == before
    assert db.value("SELECT sum(requests) FROM keysmith.usage_hourly") == 52
    assert_pages(usage, "acme", None, 10)
    # Later rows for such a day are counted with the dropped ones, and paged alone.
    usage.add(3, at=TODAY - timedelta(days=120) + timedelta(hours=5))
    assert db.value("SELECT sum(requests) FROM keysmith.usage_daily") == 55
    for _ in range(2):
        assert_pages(usage, "acme", None, 10)
        db.one("usage_fold")
    assert dict(db.call("maintain"))["retention"] == "1 partitions dropped"
    assert db.value("SELECT sum(requests) FROM keysmith.usage_daily") == 55
    assert_pages(usage, "acme", None, 10)
    assert dict(db.call("maintain"))["retention"] == "0 partitions dropped"


def test_dropping_waits_for_no_one(usage, connect):
    old_rows(usage)
    other = connect(autocommit=False)
    other.execute(f"SELECT count(*) FROM {partition(TODAY - timedelta(days=120))}")
    outcome = dict(usage.db.call("maintain"))["retention"]
    assert outcome.startswith("2 partitions dropped, usage_") and "to be tried again" in outcome
    assert usage.db.value("SELECT count(*) FROM keysmith_private.usage_event") == 20
    assert_pages(usage, "acme", None, 10)
    other.rollback()
    assert dict(usage.db.call("maintain"))["retention"] == "1 partitions dropped"
    assert_pages(usage, "acme", None, 10)


def test_who_reads_all_keeps_rows_from_being_dropped_and_nothing_else(usage, connect):
    old_rows(usage)
    other = connect(autocommit=False)
    other.execute("SELECT count(*) FROM keysmith.usage")
    tasks = dict(usage.db.call("maintain"))
    assert tasks["retention"].startswith("0 partitions dropped, usage_")
    assert tasks["retention"].count("busy, to be tried again") == 3
    assert tasks["totals"].endswith("deltas folded")
    assert_pages(usage, "acme", None, 10)
    other.rollback()
    assert dict(usage.db.call("maintain"))["retention"] == "3 partitions dropped"


DEPENDENTS = {
    "a view": ("CREATE VIEW dependent AS SELECT * FROM {}", "rule _RETURN on view public.dependent"),
    "a column of its row type": ("CREATE TABLE dependent (n {})", "column n of table public.dependent"),
    "an array of its rows": ("CREATE TABLE dependent (n {}[])", "column n of table public.dependent"),
    "a function": ("CREATE FUNCTION dependent() RETURNS SETOF {} LANGUAGE plpgsql AS 'BEGIN END'", "function public.dependent()"),
}


@pytest.mark.parametrize("statement, name", DEPENDENTS.values(), ids=DEPENDENTS)
def test_a_partition_that_something_depends_on_is_emptied(usage, statement, name):
    db = usage.db
    old_rows(usage)
    old = partition(TODAY - timedelta(days=110))
    db.rows(statement.format(old))
    before = db.rows("SELECT * FROM keysmith.usage_daily ORDER BY 1, 2, 3, 4, 5, 6, 7")
    kept = old.removeprefix("keysmith_private.")
    assert dict(db.call("maintain"))["retention"] == f"2 partitions dropped, {kept} emptied"
    assert db.value("SELECT count(*) FROM keysmith_private.usage_event") == 0
    assert db.rows("SELECT * FROM keysmith.usage_daily ORDER BY 1, 2, 3, 4, 5, 6, 7") == before
    assert_pages(usage, "acme", None, 10)
    assert dict(db.call("maintain"))["retention"] == f"0 partitions dropped, {kept} kept empty"
    finding, = [row.finding for row in db.findings() if "depends on" in row.finding]
    assert finding == f"{kept} can't be dropped: {name} depends on it"
    db.rows("DROP " + statement.split()[1] + " dependent")
    assert dict(db.call("maintain"))["retention"] == "1 partitions dropped"
    assert not [row for row in db.findings() if "depends on" in row.finding]


def test_a_partition_that_can_not_be_emptied_keeps_no_other(usage):
    db = usage.db
    old_rows(usage)
    old = partition(TODAY - timedelta(days=110))
    db.rows(f"CREATE TABLE dependent (request_id uuid REFERENCES {old} (request_id))")
    retention = dict(db.call("maintain"))["retention"]
    assert retention.startswith("2 partitions dropped, usage_") and "failed: cannot truncate" in retention
    assert db.value("SELECT count(*) FROM keysmith_private.usage_event") == 7
    assert_pages(usage, "acme", None, 10)
    assert any("depends on" in row.finding for row in db.findings())


def test_a_task_that_fails_keeps_no_other_from_being_done(usage, connect):
    db = usage.db
    old_rows(usage)
    db.rows("INSERT INTO keysmith_private.usage_unknown "
            "VALUES ('default', 'not_found', now() - interval '100 days', 7)")
    other = connect(autocommit=False)
    other.execute("UPDATE keysmith_private.usage_unknown SET requests = 8")
    tasks = dict(db.call("maintain"))
    assert tasks["requests without a known key"] == "busy, to be tried again"
    assert tasks["retention"] == "3 partitions dropped"
    other.rollback()
    db.rows("ALTER TABLE keysmith_private.usage_hour ADD CONSTRAINT nothing CHECK (requests < 0) NOT VALID")
    usage.add(1)
    notices = []
    db.session.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    tasks = dict(db.call("maintain"))
    assert tasks["totals"].startswith("failed: new row for relation")
    assert [notice for notice in notices if notice.startswith("keysmith: maintain: totals: ")]
    assert tasks["requests without a known key"] == "1 counts dropped"


def test_a_partition_that_was_dropped_by_hand_is_no_page(usage):
    old_rows(usage)
    usage.add(4)
    usage.db.one("usage_fold")
    usage.db.rows(f"DROP TABLE {partition(TODAY - timedelta(days=105))}")
    usage.db.call("maintain")
    assert usage.db.value("SELECT sum(requests) FROM keysmith.usage_daily") == 41
    assert_pages(usage, "acme", None, 10)


def test_maintaining_at_the_same_time_harms_nothing(usage, connect):
    old_rows(usage)
    sessions = [connect() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for tasks in pool.map(lambda s: s.execute("SELECT * FROM keysmith.maintain()").fetchall(), sessions):
            assert [task for task, _ in tasks] == [
                "partitions", "totals", "touches", "requests without a known key", "idle keys", "key ends", "credit events", "ledgers", "charges", "retention"]
    usage.db.call("maintain")
    assert usage.db.value("SELECT count(*) FROM keysmith_private.usage_event") == 0
    assert usage.db.value("SELECT sum(requests) FROM keysmith.usage_hourly") == 37
    assert usage.db.value("SELECT sum(requests) FROM keysmith.usage_daily") == 37


@pytest.fixture
def keep(cluster, db):
    """Makes the server keep rows for this long."""
    def keep_for(retention):
        cluster.execute(f"ALTER SYSTEM SET keysmith.usage_retention = '{retention}'")
        cluster.execute("SELECT pg_reload_conf()")
        until(db, f"SELECT current_setting('keysmith.usage_retention')::interval = '{retention}'")

    yield keep_for
    cluster.execute("ALTER SYSTEM RESET keysmith.usage_retention")
    cluster.execute("SELECT pg_reload_conf()")
    until(db, "SELECT current_setting('keysmith.usage_retention')::interval = '90 days'")


def until(db, statement):
    wait_until(lambda: db.value(statement))


def test_rows_are_kept_for_as_long_as_it_is_set(usage, keep):
    """0 keeps all rows; a notice names each dropped day."""
    db = usage.db
    key_id, tenant_id = usage.keys[0]
    db.rows("INSERT INTO keysmith_private.touch SELECT %s, %s, 'public', 'orders', 'insert', 1, at, at "
            "FROM unnest(ARRAY[now() - interval '3000 days', now() - interval '2999 days']) AS at",
            key_id, tenant_id)
    db.rows("INSERT INTO keysmith_private.usage_unknown SELECT 'default', 'not_found', at, 7 "
            "FROM unnest(ARRAY[now() - interval '3000 days', now()]) AS at")
    old_rows(usage)
    usage.add(5, at=TODAY - timedelta(days=3000))
    for retention, left, dropped, summed in (("0", 42, 0, 0), ("3001d", 42, 0, 0),
                                             ("2000d", 37, 1, 1), ("107d", 10, 2, 0)):
        keep(retention)
        kept_from = db.value("SELECT keysmith_private.usage_kept_from()::text")
        assert kept_from == ("-infinity" if retention == "0" else db.value(
            "SELECT date_trunc('day', now() - %s::interval, 'UTC')::text", retention))
        # The doctor gives two days of grace.
        ended = db.value("SELECT count(*) FROM keysmith_private.usage_partitions() "
                         "WHERE ends <= keysmith_private.usage_kept_from() - interval '48 hours'")
        late = [row.finding for row in db.findings() if "kept beyond" in row.finding]
        assert ended == dropped and late == [f"{dropped} days are kept beyond keysmith.usage_retention"] * (dropped > 0)
        outcomes = dict(db.call("maintain"))
        assert outcomes["retention"] == f"{dropped} partitions dropped"
        assert outcomes["touches"] == f"{summed} summed up"
        unknown = db.value("SELECT count(*) FROM keysmith_private.usage_unknown")
        assert unknown == (2 if retention in ("0", "3001d") else 1)
        assert db.value("SELECT count(*) FROM keysmith_private.usage_event") == left
        assert db.value("SELECT sum(requests) FROM keysmith.usage_daily") == 42


# Dumps

def dump(cluster, dbname, *options):
    text = cluster.program("pg_dump", *options, dbname=dbname).stdout
    return "\n".join(line for line in text.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))


DUMPS = {"plain": [], "inserts": ["--inserts"], "root": ["--load-via-partition-root"],
         "custom": ["-Fc"], "custom_root": ["-Fc", "--load-via-partition-root"]}


@pytest.mark.parametrize("form", DUMPS)
def test_a_dump_restores_usage_and_counts_nothing_twice(cluster, dbname, usage, tmp_path, form):
    db = usage.db
    hour = TODAY + timedelta(hours=2)
    usage.write([usage.row(at=hour + timedelta(milliseconds=n)) for n in range(1500)])
    old_rows(usage)
    db.one("usage_fold")
    usage.add(40)
    usage.add(3, at=TODAY + timedelta(days=99))
    assert db.value("SELECT count(*) FROM keysmith_private.usage_delta") > 0
    first = dump(cluster, dbname)
    totals = db.rows("SELECT * FROM keysmith.usage_hourly ORDER BY 1, 2, 3, 4, 5, 6, 7")
    source = dbname
    restored = []
    try:
        for turn in range(2):
            target = f"{dbname}_{form}{turn}"
            cluster.execute(f"CREATE DATABASE {target}")
            restored.append(target)
            if form.startswith("custom"):
                archive = tmp_path / f"dump{turn}"
                archive.write_bytes(cluster.program(
                    "pg_dump", *DUMPS[form], dbname=source, text=False, stderr=subprocess.PIPE).stdout)
                cluster.program("pg_restore", "--exit-on-error", archive, dbname=target)
            else:
                cluster.psql(cluster.program("pg_dump", *DUMPS[form], dbname=source).stdout, dbname=target)
            assert dump(cluster, target) == first
            source = target
        with cluster.connect(source, row_factory=psycopg.rows.namedtuple_row) as session:
            there = Database(session)
            assert there.rows("SELECT * FROM keysmith.usage_hourly ORDER BY 1, 2, 3, 4, 5, 6, 7") == totals
            assert_totals(there)
            usage.db = there
            assert_pages(usage, "acme", None, 500)
            # New rows are counted immediately, on every path, without any preparation.
            usage.add(5)
            usage.write([usage.row(at=TODAY)], partition(TODAY))
            assert there.value("SELECT sum(requests) FROM keysmith.usage_hourly") \
                == sum(row.requests for row in totals) + 6
            assert there.one("usage_prepare")[0] == 0
            there.call("maintain")
            assert_pages(usage, "acme", None, 500)
    finally:
        for name in restored:
            cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")


# Views

VIEWS = ["usage", "usage_hourly", "usage_daily", "usage_units", "usage_tags", "usage_endpoints", "top_keys", "top_refusals"]


def test_views_show_own_tenants_alone(db, sees_only):
    usage = Usage(db, tenants=("acme", "other"))
    usage.add(200)
    everything = {view: db.rows(f"SELECT * FROM keysmith.{view}") for view in VIEWS}
    with sees_only("acme"):
        for view in VIEWS:
            rows = db.rows(f"SELECT * FROM keysmith.{view}")
            assert rows and {row.tenant for row in rows} == {"acme"}
            assert Counter(map(str, rows)) == Counter(str(row) for row in everything[view] if row.tenant == "acme")
        assert db.one("usage_logs", "acme")[0]["meta"]["total"] > 0
        shown = db.refused("KS404", "usage_logs", "other")
        assert shown.replace("other", "nobody") == db.refused("KS404", "usage_logs", "nobody")
        theirs = next(key_id for key_id, tenant_id in usage.keys if tenant_id == usage.tenants["other"])
        db.refused("KS404", "usage_logs", "acme", key_id=theirs)
        assert db.call("usage_chart", key_id=theirs)[-1] == ("no requests in this time",)
        db.refused("KS404", "usage_chart", tenant="other")
        drawn = db.call("usage_chart", per="day", bars=2)
    assert drawn[1:] == db.call("usage_chart", tenant="acme", per="day", bars=2)[1:]


def test_views_do_not_leak_by_cheap_functions(db, sees_only):
    usage = Usage(db, tenants=("acme", "other"))
    usage.add(100)
    db.rows("""CREATE FUNCTION leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
               $$ BEGIN RAISE NOTICE 'saw %', $1; RETURN true; END $$""")
    notices = []
    db.session.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    with sees_only("acme"):
        for view in VIEWS:
            db.rows(f"SELECT count(*) FROM keysmith.{view} WHERE leak(tenant_id::text)")
    assert set(notices) == {f"saw {usage.tenants['acme']}"}


def test_the_most_used_and_the_most_refused(usage):
    first, second = usage.keys
    usage.add(5, key=first, outcome="ok", status=200)
    usage.add(2, key=first, outcome="revoked", status=401)
    usage.add(3, key=second, outcome="insufficient_scope", status=403)
    usage.add(9, key=second, outcome="revoked", status=401, at=TODAY - timedelta(days=40))
    top = usage.db.rows("SELECT key_id, requests, refused FROM keysmith.top_keys")
    assert top == [(first[0], 7, 2), (second[0], 3, 3)]
    refusals = usage.db.rows("SELECT outcome, status, key_id, requests FROM keysmith.top_refusals")
    assert refusals == [("insufficient_scope", 403, second[0], 3), ("revoked", 401, first[0], 2)]


# Charts

UNTIL = datetime(2026, 3, 1, 2, 30, tzinfo=timezone.utc)


def chart(db, **options):
    return [line for line, in db.call("usage_chart", **({"until": UNTIL, "bars": 4, "width": 60} | options))]


def test_a_chart_of_hours(usage):
    key = usage.keys[0]
    for hours, let_in, refused in ((1, 100, 0), (2, 50, 25), (3, 0, 1)):
        at = UNTIL - timedelta(hours=hours - 1)
        usage.add(let_in, at=at, key=key, outcome="ok")
        usage.add(refused, at=at, key=key, outcome="revoked")
    usage.add(7, at=UNTIL - timedelta(hours=9), outcome="ok")
    assert chart(usage.db, tenant="acme") == [
        "requests per hour, UTC, of acme",
        "             requests  refused",
        "02-28 23:00         0        0  ·",
        "03-01 00:00         1        1  ░",
        "03-01 01:00        75       25  █████████████░░░░░░░",
        "03-01 02:00       100        0  ██████████████████████████",
        "█ accepted  ░ refused",
    ]
    assert chart(usage.db, key_id=usage.keys[1][0])[2:] == [
        "02-28 23:00         0        0  ·",
        "03-01 00:00         0        0  ·",
        "03-01 01:00         0        0  ·",
        "03-01 02:00         0        0  ·",
        "no requests in this time",
    ]


def test_a_chart_of_days_with_wide_numbers_and_names(usage):
    db = usage.db
    name = "x" * 200
    tenant_id = db.tenant(name)
    key_id = db.mint(name).key_id
    for days, requests in ((0, 3 * 10**18), (1, 9_999_999), (2, 10_000_000)):
        db.rows("INSERT INTO keysmith_private.usage_day VALUES (%s, %s, %s, 'live', 200, 'ok', %s, 0, '0')",
                tenant_id, UNTIL.replace(hour=0, minute=0) - timedelta(days=days), key_id, requests)
    assert chart(db, tenant=name, per="day") == [
        "requests per day, UTC, of " + "x" * 32,
        "            requests  refused",
        "2026-02-26         0        0  ·",
        "2026-02-27     10.0M        0  █",
        "2026-02-28   9999999        0  █",
        "2026-03-01      3.0E        0  " + "█" * 27,
        "█ accepted  ░ refused",
    ]
    for width in (50, 51, 80, 500):
        for per in ("hour", "day"):
            lines = chart(db, tenant=name, per=per, width=width, bars=50)
            assert len(lines) == 53 and max(map(len, lines)) <= width - 2
    assert max(map(len, chart(db, per="day", width=500))) == 498


def test_a_chart_where_there_are_no_blocks(cluster):
    cluster.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        cluster.execute("CREATE EXTENSION keysmith", "latin")
        with cluster.connect("latin", row_factory=psycopg.rows.namedtuple_row) as session:
            usage = Usage(Database(session))
            usage.add(10, at=UNTIL, outcome="ok")
            usage.add(10, at=UNTIL, outcome="revoked")
            assert chart(usage.db)[-3:] == [
                "03-01 01:00         0        0  .",
                "03-01 02:00        20       10  #############-------------",
                "# accepted  - refused",
            ]
    finally:
        cluster.execute("DROP DATABASE latin WITH (FORCE)")


@pytest.mark.parametrize("options", [
    {"per": "week"}, {"per": None}, {"bars": 0}, {"bars": 1001}, {"bars": None}, {"width": 49},
    {"width": 501}, {"width": None}, {"until": "infinity"}])
def test_charts_that_cannot_be(db, options):
    (name,) = options
    assert db.refused("KS400", "usage_chart", **options).startswith(name)
