"""The worker's path into the tables: directly into unchanged partitions, by an ordinary statement
into others. Rows and totals are the same."""

from datetime import datetime, timezone

import psycopg
import pytest
from psycopg.types.json import Jsonb

from test_usage_sql import assert_totals
from cluster import running
from conftest import session, wait_until
from test_usage_pipeline import flush, status, stored

REQUESTS = 240


@pytest.fixture(scope="module")
def quiet():
    """A cluster whose worker stores on demand, and reports which functions ran."""
    with running("direct", keysmith__usage_flush_interval="10min", track_functions="all") as cluster:
        yield cluster


@pytest.fixture
def db(quiet):
    quiet.execute("CREATE DATABASE direct")
    db = session(quiet, "direct")
    db.rows("CREATE EXTENSION keysmith")
    db.tenant()
    db.tenant("other")
    # The worker stores records immediately when it starts.
    db.verify(db.mint().api_key)
    flush(db)
    yield db
    db.session.close()
    quiet.execute("DROP DATABASE direct WITH (FORCE)")


def requests(db, count=REQUESTS):
    """Requests of several keys, with and without endpoints and latencies, some refused."""
    keys = [db.mint(tenant).api_key for tenant in ("acme", "acme", "other")]
    ids = []
    for n in range(count):
        with db.session.transaction():
            key = keys[n // 2 % len(keys)]
            if n % 3:
                headers = Jsonb({"authorization": f"Bearer {key}"})
                verdict = db.one("authenticate", headers, "GET", f"/v1/{n % 5}", "192.0.2.1")
            else:
                verdict = db.verify(key, environment="test" if n % 2 else "live")
            if n % 4 == 0:
                db.one("log_request", 500 + n % 3, f"{n} ms")
        ids.append(verdict.request_id)
    return ids


def statements_that_counted(db):
    db.rows("SELECT pg_stat_force_next_flush()")
    return db.value("SELECT coalesce(sum(calls), 0) FROM pg_stat_user_functions "
                    "WHERE funcname = 'usage_counted'")


def assert_all_is_stored(db, ids):
    assert stored(db) == len(ids) + 1
    assert {row.request_id for row in db.rows("SELECT request_id FROM keysmith_private.usage_event")} >= set(ids)
    assert {outcome for outcome, in db.rows("SELECT outcome FROM keysmith_private.usage_event")} \
        == {"ok", "wrong_environment"}
    assert_totals(db)
    last = db.rows("SELECT key_id, max(at) FROM keysmith_private.usage_event WHERE outcome = 'ok' GROUP BY 1")
    assert {row.key_id: row.last_used_at for row in db.rows("SELECT * FROM keysmith.keys")} == dict(last)
    assert db.one("usage_fold")[0] > 0
    assert_totals(db)
    for tenant in ("acme", "other"):
        page = db.one("usage_logs", tenant, per_page=1000)[0]
        assert len(page["data"]) == page["meta"]["total"] > 0
    now = status(db)
    assert (now["quarantined"], now["waiting"]) == (0, 0)


def test_a_batch_goes_straight_into_its_partition(db):
    before = statements_that_counted(db)
    ids = requests(db)
    flush(db)
    assert statements_that_counted(db) == before
    assert db.value("SELECT count(DISTINCT xmin::text) FROM keysmith_private.usage_event") == 2
    # One row per group: of two tenants, three keys and their outcomes, and five endpoints.
    assert db.value("SELECT count(*) FROM keysmith_private.usage_delta") < 60
    row = db.row("SELECT * FROM keysmith_private.usage_event WHERE request_id = %s", ids[4])
    assert (row.method, row.endpoint, str(row.ip), row.status, row.latency.microseconds, row.outcome) \
        == ("GET", "/v1/4", "192.0.2.1", 501, 4000, "ok")
    assert_all_is_stored(db, ids)


TODAY = f"keysmith_private.usage_{datetime.now(timezone.utc):%Y%m%d}"
SOMEBODYS = """
    CREATE TABLE seen (n bigint);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
        BEGIN INSERT INTO public.seen VALUES (1); RETURN NULL; END $$;
"""
CHANGES = {
    "a trigger on the parent": "CREATE TRIGGER own AFTER INSERT ON keysmith_private.usage_event "
                               "FOR EACH STATEMENT EXECUTE FUNCTION note()",
    "a trigger for rows": "CREATE TRIGGER own AFTER INSERT ON keysmith_private.usage_event "
                          "FOR EACH ROW EXECUTE FUNCTION note()",
    "a trigger on the deltas": "CREATE TRIGGER own AFTER INSERT ON keysmith_private.usage_delta "
                               "FOR EACH STATEMENT EXECUTE FUNCTION note()",
    "an index of an expression": f"CREATE INDEX own ON {TODAY} (lower(endpoint))",
    "an index of some rows": f"CREATE UNIQUE INDEX own ON {TODAY} (request_id) WHERE status = 500",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_not_as_we_made_it_is_written_by_a_statement(db, change):
    db.rows(SOMEBODYS)
    db.rows(change)
    before = statements_that_counted(db)
    ids = requests(db, 60)
    flush(db)
    assert statements_that_counted(db) > before
    if "note()" in change:
        assert db.value("SELECT count(*) FROM seen") >= (60 if "EACH ROW" in change else 1)
    assert_all_is_stored(db, ids)


def test_a_partition_by_another_name_is_one(db):
    db.rows(f"ALTER TABLE {TODAY} RENAME TO own")
    before = statements_that_counted(db)
    ids = requests(db, 60)
    flush(db)
    assert statements_that_counted(db) == before
    assert db.value("SELECT count(*) FROM keysmith_private.own") == 61
    assert_all_is_stored(db, ids)


def test_a_partition_that_is_missing_is_made(db):
    db.rows(f"DROP TABLE {TODAY}")
    before = statements_that_counted(db)
    ids = requests(db, 60)
    flush(db)
    assert statements_that_counted(db) == before
    assert stored(db) == len(ids)
    assert db.value(f"SELECT count(*) FROM {TODAY}") == 60
    assert status(db)["failures"] == 0


def test_an_index_of_somebodys_own_is_kept(db):
    """An index without other columns or expressions doesn't change the path."""
    db.rows(f"CREATE INDEX own ON {TODAY} (status, at) INCLUDE (endpoint)")
    db.rows(f"CREATE INDEX blocks ON {TODAY} USING brin (at)")
    before = statements_that_counted(db)
    ids = requests(db, 60)
    flush(db)
    assert statements_that_counted(db) == before
    found = "SELECT count(*) FROM keysmith_private.usage_event WHERE status >= 0"
    everything = db.value(found)
    db.rows("SET enable_seqscan = off; SET enable_bitmapscan = off")
    assert "own" in str(db.rows("EXPLAIN " + found))
    assert db.value(found) == everything == len(ids) + 1


def test_counts_that_are_switched_off_stay_off(db):
    db.rows("ALTER TABLE keysmith_private.usage_event DISABLE TRIGGER usage_inserted")
    db.verify(db.mint().api_key)
    flush(db)
    assert stored(db) == 2
    assert db.value("SELECT sum(requests) FROM keysmith.usage_daily") == 1


# Each once

def test_what_is_noted_as_stored_is_not_stored_again(db):
    """As after a crash between a commit and the time when the worker knows of it."""
    key = db.mint().api_key
    for _ in range(5):
        db.verify(key)
    db.rows("UPDATE keysmith_private.usage_incarnation SET last_sequence = last_sequence + 3")
    flush(db)
    assert stored(db) == 1 + 2
    now = status(db)
    assert (now["waiting"], now["quarantined"]) == (0, 0)
    db.verify(key)
    flush(db)
    assert stored(db) == 1 + 3
    assert_totals(db)


def test_no_two_rows_are_of_one_request(db):
    columns = [row.attname for row in db.rows(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'keysmith_private.usage_event'::regclass AND attnum > 0")]
    others = ", ".join(f"{name} + 1" if name == "sequence" else name for name in columns)
    with pytest.raises(psycopg.errors.UniqueViolation):
        db.rows(f"INSERT INTO keysmith_private.usage_event SELECT {others} FROM keysmith_private.usage_event")
    assert stored(db) == 1


def test_a_request_that_is_there_already_is_set_aside_alone(db):
    """On the direct path, too, unique indexes reject duplicates."""
    ids = []
    for n in range(20):
        ids.append(db.verify(db.mint().api_key).request_id)
    columns = "at, incarnation, key_id, tenant_id, keyspace, environment, status, outcome"
    db.rows(f"INSERT INTO keysmith_private.usage_event ({columns}, sequence, request_id) "
            f"SELECT {columns}, -1, %s FROM keysmith_private.usage_event", ids[7])
    flush(db)
    assert stored(db) == 1 + 20
    assert db.rows("SELECT request_id FROM keysmith_private.usage_set_aside") == [(ids[7],)]
    assert db.value("SELECT sequence FROM keysmith_private.usage_event WHERE request_id = %s", ids[7]) == -1
    assert_totals(db)


def test_what_waits_beyond_a_batch_keeps_its_order(db):
    """Many are removed from the queue together; later ones stay in place."""
    key = db.mint().api_key
    db.rows("SELECT count((keysmith.verify(%s)).ok) FROM generate_series(1, 25000)", key)
    wait_until(lambda: stored(db) > 1)
    db.rows("SELECT count((keysmith.verify(%s)).ok) FROM generate_series(1, 25000)", key)
    flush(db)
    in_place = status(db)["written_through"]
    assert stored(db) == 50_001
    assert db.value("SELECT count(*) FROM keysmith_private.usage_event WHERE incarnation > 0") == 50_001 - in_place
    assert db.value("SELECT count(*) FROM (SELECT at < lag(at) OVER (ORDER BY sequence) AS back "
                    "FROM keysmith_private.usage_event WHERE incarnation > 0) AS rows WHERE back") == 0
    assert_totals(db)
