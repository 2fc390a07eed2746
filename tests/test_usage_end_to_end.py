"""One request, from its headers to every view that shows it, with a worker that runs by
itself."""

import pytest
from psycopg.types.json import Jsonb

from cluster import running
from conftest import session, wait_until


@pytest.fixture
def fresh():
    """A server that has stored nothing yet, with a key, and a tracked table."""
    with running("requests", keysmith__usage_flush_interval="300ms") as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith; CREATE TABLE orders (id int)")
        db.call("track", "orders")
        db.tenant()
        yield cluster, db, db.mint(scopes=["orders:write"])


def request(db, key, status=201):
    """An application's actions for an accepted request."""
    headers = Jsonb({"authorization": f"Bearer {key.api_key}"})
    with db.session.transaction():
        verdict = db.one("authenticate", headers, "POST", "/orders?page=1", "203.0.113.9")
        assert verdict.ok, verdict
        db.rows("INSERT INTO orders SELECT g FROM generate_series(1, 3) AS g")
        assert db.value("SELECT keysmith.log_request(status_code => %s, latency => '12 ms')", status)
    return verdict


def stored(db):
    return db.value("SELECT count(*) FROM keysmith.usage")


def test_a_request_is_told_everywhere(fresh):
    cluster, db, key = fresh
    # No partition exists before the first request; a worker is started for it.
    assert db.rows("SELECT FROM pg_inherits WHERE inhparent = 'keysmith_private.usage_event'::regclass") == []
    verdict = request(db, key)
    wait_until(lambda: stored(db) == 1)
    request_id = verdict.request_id

    row = db.row("SELECT * FROM keysmith.usage")
    assert (row.request_id, row.key_id, row.tenant, row.keyspace, row.environment, row.method) \
        == (request_id, key.key_id, "acme", "default", "live", "POST")
    assert (row.endpoint, row.status, row.outcome, str(row.ip), row.latency.microseconds) \
        == ("/orders", 201, "ok", "203.0.113.9", 12_000)

    page = db.one("usage_logs", "acme")[0]
    assert page["meta"] == {"total": 1, "page": 1, "limit": 50}
    (entry,) = page["data"]
    assert (entry["request_id"], entry["key_id"], entry["status"], entry["latency"]) \
        == (str(request_id), str(key.key_id), 201, 12)
    for totals in ("usage_hourly", "usage_daily"):
        row = db.row(f"SELECT * FROM keysmith.{totals}")
        assert (row.key_id, row.status, row.outcome, row.requests, row.latency.microseconds) \
            == (key.key_id, 201, "ok", 1, 12_000)
    row = db.row("SELECT * FROM keysmith.usage_endpoints")
    assert (row.method, row.endpoint, row.requests, row.refused) == ("POST", "/orders", 1, 0)
    assert db.row("SELECT key_id, requests, refused FROM keysmith.top_keys") == (key.key_id, 1, 0)
    used_at = db.value("SELECT last_used_at FROM keysmith.keys")
    assert used_at == db.value("SELECT at FROM keysmith.usage")
    assert db.one("list_keys", "acme").last_used_at == used_at
    assert db.call("usage_chart", tenant="acme", bars=2, width=60)[-2][0].split()[2:4] == ["1", "0"]

    touched = db.row("SELECT key_id, relation, operation, rows, request_id FROM keysmith.touches")
    assert touched == (key.key_id, "orders", "insert", 3, request_id)
    radius = db.one("blast_radius", key.key_id)
    assert (radius.relation, radius.rows) == ("orders", 3)

    # The next requests work the same.
    for n in range(2, 7):
        request(db, key)
        wait_until(lambda: stored(db) == n)
    # A refused request is recorded too, but does not count as use of the key.
    used_at = db.value("SELECT last_used_at FROM keysmith.keys")
    assert db.reason(key.api_key, scopes=["users:write"]) == "insufficient_scope"
    wait_until(lambda: stored(db) == 7)
    assert db.row("SELECT outcome, status, requests FROM keysmith.top_refusals") \
        == ("insufficient_scope", 403, 1)
    assert db.value("SELECT last_used_at FROM keysmith.keys") == used_at
    assert "WARNING" not in cluster.log.read_text()


def test_what_is_learned_by_another_session_is_told_as_well(fresh):
    cluster, db, key = fresh
    verdict = db.verify(key.api_key)
    wait_until(lambda: stored(db) == 1)
    other = session(cluster)
    assert other.one("log_request", status_code=504, latency="2 s", request_id=verdict.request_id)[0]
    wait_until(lambda: db.value("SELECT status FROM keysmith.usage") == 504)
    assert db.row("SELECT status, requests, latency::text FROM keysmith.usage_hourly") \
        == (504, 1, "00:00:02")
    assert db.one("usage_logs", "acme")[0]["data"][0]["status"] == 504
    other.session.close()


def test_a_worker_with_little_to_do_maintains_before_it_goes(fresh):
    """It may end within a minute, again and again."""
    cluster, db, key = fresh
    db.rows("SELECT keysmith_private.usage_prepare(%s, %s)", *["2001-02-03"] * 2)
    request(db, key)
    wait_until(lambda: stored(db) == 1)
    wait_until(lambda: db.value(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ 'keysmith'") == 0)
    assert db.value("SELECT count(*) FROM keysmith_private.usage_delta") == 0
    assert db.row("SELECT key_id, requests FROM keysmith_private.usage_hour") == (key.key_id, 1)
    assert db.value("SELECT to_regclass('keysmith_private.usage_20010203')") is None
    assert db.value("SELECT last_used_at FROM keysmith.keys") is not None
    assert "WARNING" not in cluster.log.read_text()
