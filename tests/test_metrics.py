"""The views metrics and alarms: each number moves when its fact does, and each alarm can be raised."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psycopg
import pytest
from psycopg.types.json import Jsonb

from cluster import running
from conftest import session, wait_until
from test_docs import ROOT, first_cells, section
from test_standby import pair
from test_usage_pipeline import UNKNOWN_KEY, cluster_with_key, flush, worker_held_up

HELP = "SELECT name, type, help FROM keysmith_private.metric_help"


def metrics(db):
    """All numbers, by name and labels."""
    rows = db.rows("SELECT name, labels, value FROM keysmith.metrics")
    found = {(row.name, *(row.labels[label] for label in sorted(row.labels))): row.value for row in rows}
    assert len(found) == len(rows)
    return found


def metric(db, name, *labels):
    return metrics(db).get((f"keysmith_{name}", *labels))


def raised(db):
    return {row.alarm for row in db.rows("SELECT * FROM keysmith.alarms WHERE raised")}


def decisions(db):
    """Those that there were, by outcome."""
    return {key[1]: value for key, value in metrics(db).items()
            if key[0] == "keysmith_decisions_total" and value > 0}


def counted(db, decide):
    """By how much a decision has each outcome grow."""
    before = decisions(db)
    decide()
    return {outcome: value - before.get(outcome, 0) for outcome, value in decisions(db).items()
            if value > before.get(outcome, 0)}


# What the views have

def test_each_metric_has_a_type_and_a_description(db):
    db.tenant()
    rows = db.rows("SELECT * FROM keysmith.metrics")
    for row in rows:
        assert row.type == ("counter" if row.name.endswith("_total") else "gauge"), row
        assert row.help and not row.help.endswith(".") and "\n" not in row.help, row
        assert all(isinstance(value, str) for value in row.labels.values()), row
    described = {row.name for row in db.rows(HELP)}
    # Those of other servers.
    absent = described - {row.name for row in rows}
    assert absent == {f"keysmith_{name}" for name in (
        "replay_lag_seconds", "replication_lag_bytes", "replication_lag_seconds",
        "standby_heard_timestamp_seconds", "standby_records_at_most", "heartbeat_age_seconds",
        "subscription_stopped", "usage_last_flush_timestamp_seconds", "units_total")}
    # Nothing is measured that has no description, and would be left out.
    assert {row.name for row in db.rows("SELECT DISTINCT name FROM keysmith_private.measurements()")} <= described


def test_documents_list_each_metric_and_alarm(db):
    listed = section((ROOT / "docs/reference.md").read_text(), "metrics")
    assert [(name, kind) for name, kind in re.findall(r"^\| `(keysmith_\w+)` \|.*?\| (\w+) \|", listed, re.M)] \
        == [(row.name, row.type) for row in db.rows(HELP + " ORDER BY place")]
    watch = section((ROOT / "docs/operations.md").read_text(), "Watch")
    alarms = [row.alarm for row in db.rows("SELECT alarm FROM keysmith.alarms")]
    assert [cell for cell in first_cells(watch) if cell in alarms] == alarms and len(alarms) == 19


def test_an_alarm_is_a_metric_too(db):
    rows = db.rows("SELECT * FROM keysmith.alarms")
    assert {row.alarm: float(row.raised) for row in rows} == {
        key[1]: value for key, value in metrics(db).items() if key[0] == "keysmith_alarm"}
    assert all(row.meaning and row.remedy and row.raised == (row.value > row.threshold) for row in rows)


# Decisions

def limits(limit):
    return Jsonb([{"name": "x", "limit": limit, "window": "1 hour"}])


def test_each_outcome_is_counted(db):
    db.call("create_keyspace", "other")
    for tenant in ("acme", "idle"):
        db.tenant(tenant)
    db.call("define_role", "default", "editor", ["a"])
    db.call("set_member", "acme", "ann", "editor")
    key = db.mint().api_key
    disabled, unused, revoked, owned, suspended = db.mint(), db.mint(), db.mint(), db.mint(owner="ann"), db.mint("idle")
    db.rows("UPDATE keysmith_private.key SET disabled_at = now(), disabled_reason = 'idle' WHERE key_id = %s", unused.key_id)
    db.call("disable", disabled.key_id)
    db.call("revoke", revoked.key_id)
    db.call("remove_member", "acme", "ann")
    db.call("suspend_tenant", "idle")
    expired = db.mint(expires_at=db.value("SELECT now() + interval '1 hour'"))
    db.rows("UPDATE keysmith_private.key SET expires_at = now() - interval '1 hour' WHERE key_id = %s", expired.key_id)
    fenced = db.mint(allowlist=["192.0.2.0/24"]).api_key
    public = db.mint(kind="publishable", scopes=["a"]).api_key
    limited = db.mint(limits=limits(1)).api_key
    paid = db.mint(credits=1).api_key
    db.verify(limited)
    db.call("define_route", "default", "GET", "/public", [], public=True)

    db.call("create_keyspace", "strict", failure_limit=Jsonb({"limit": 1, "window": "365 days"}))
    db.reason("nonsense", keyspace="strict", ip="192.0.2.1")

    def header(value):
        return db.one("authenticate", Jsonb({"authorization": value}), "GET", "/").reason

    def held():
        db.rows("BEGIN READ ONLY")
        reason = db.reason(paid, spend=1)
        db.rows("ROLLBACK")
        return reason

    acts = {
        "ok": lambda: db.reason(key),
        "public": lambda: db.one("authenticate", Jsonb({}), "GET", "/public").reason,
        "missing": lambda: db.reason(None),
        "malformed_header": lambda: header("Basic xyz"),
        "malformed_key": lambda: db.reason("nonsense"),
        "not_found": lambda: db.reason(UNKNOWN_KEY),
        "wrong_keyspace": lambda: db.reason(key, keyspace="other"),
        "wrong_environment": lambda: db.reason(key, environment="test"),
        "revoked": lambda: db.reason(revoked.api_key),
        "expired": lambda: db.reason(expired.api_key),
        "disabled": lambda: db.reason(disabled.api_key),
        "idle": lambda: db.reason(unused.api_key),
        "tenant_suspended": lambda: db.reason(suspended.api_key),
        "owner_gone": lambda: db.reason(owned.api_key),
        "ip_not_allowed": lambda: db.reason(fenced, ip="198.51.100.7"),
        "ip_unknown": lambda: db.reason(fenced),
        "kind_not_allowed": lambda: db.reason(public, kind="secret"),
        "scopes_null": lambda: db.reason(key, scopes=None),
        "insufficient_scope": lambda: db.reason(public, scopes=["b"]),
        "rate_limited": lambda: db.reason(limited),
        "too_many_failures": lambda: db.reason("nonsense", keyspace="strict", ip="192.0.2.1"),
        "credits_unavailable": held,
        "credits_exhausted": lambda: db.reason(paid, spend=2),
    }
    for outcome, act in acts.items():
        assert counted(db, lambda: acts[outcome]() == outcome or pytest.fail(outcome)) == {outcome: 1}, outcome
    # The others are decided elsewhere: without room for buckets, by standbys that lag behind, and of
    # tokens.
    known = {key[1] for key in metrics(db) if key[0] == "keysmith_decisions_total"}
    assert known - set(acts) == {"limits_unavailable", "replica_behind", "token_expired", "token_invalid"}


def test_each_function_that_decides_counts(db, connect, database):
    db.tenant()
    key = db.mint()
    headers = Jsonb({"authorization": f"Bearer {key.api_key}"})
    digest = "SELECT * FROM keysmith.verify_digest(sha256(%s::bytea))"
    assert counted(db, lambda: db.verify(key.api_key)) == {"ok": 1}
    assert counted(db, lambda: db.rows(digest, key.api_key)) == {"ok": 1}
    assert counted(db, lambda: db.call("verify_many", [key.api_key, "x", key.api_key])) \
        == {"ok": 2, "malformed_key": 1}
    assert counted(db, lambda: db.one("authenticate", headers, "GET", "/")) == {"ok": 1}
    assert counted(db, lambda: db.call("explain_verify", key.api_key)) == {}
    reader = database(connect())
    reader.rows("SET default_transaction_read_only = on")
    assert counted(reader, lambda: reader.verify(key.api_key)) == {"ok": 1}

    def rolled_back():
        db.rows("BEGIN")
        db.verify(key.api_key)
        db.rows("ROLLBACK")

    assert counted(db, rolled_back) == {"ok": 1}
    # Though its keyspace logs nothing.
    db.call("alter_keyspace", "default", Jsonb({"usage_log": "nothing"}))
    assert counted(database(connect()), lambda: db.verify("x")) == {"malformed_key": 1}


def test_sessions_at_the_same_time_lose_no_count(db, connect, database):
    db.tenant()
    key = db.mint().api_key
    sessions = [database(connect()) for _ in range(8)]
    many = "SELECT count((keysmith.verify(%s)).ok) FROM generate_series(1, 500)"
    before = metrics(db)
    with ThreadPoolExecutor(len(sessions)) as pool:
        list(pool.map(lambda one: [one.value(many, key) for _ in range(4)], sessions))
    after = metrics(db)
    assert after["keysmith_decisions_total", "ok"] - before["keysmith_decisions_total", "ok"] == 8 * 2000
    hits, misses = (after[name,] - before[name,] for name in ("keysmith_directory_hits_total",
                                                              "keysmith_directory_misses_total"))
    assert hits + misses == 8 * 2000 and misses <= 8


def test_a_database_counts_for_itself(cluster, db):
    cluster.execute("CREATE DATABASE beside TEMPLATE with_keysmith")
    other = session(cluster, "beside")
    try:
        assert decisions(other) == {}
        assert counted(db, lambda: other.verify("x")) == {}
        assert decisions(other) == {"malformed_key": 1}
        other.session.close()
        cluster.execute("DROP DATABASE beside")
        cluster.execute("CREATE DATABASE beside TEMPLATE with_keysmith")
        other = session(cluster, "beside")
        assert decisions(other) == {}
    finally:
        other.session.close()
        cluster.execute("DROP DATABASE IF EXISTS beside")


def test_the_directory(db):
    db.tenant()
    key = db.mint().api_key

    def moved(decide):
        names = [f"keysmith_directory_{name}" for name in ("hits_total", "misses_total")]
        before = metrics(db)
        decide()
        after = metrics(db)
        return [after[name,] - before[name,] for name in names]

    keys = metric(db, "directory_keys")
    assert moved(lambda: db.verify(key)) == [0, 1]
    assert metric(db, "directory_keys") > keys
    assert moved(lambda: db.verify(key)) == [1, 0]
    assert moved(lambda: db.verify(key, environment="test")) == [1, 0]
    assert moved(lambda: db.verify(UNKNOWN_KEY)) == [0, 1]
    assert moved(lambda: db.call("verify_many", [UNKNOWN_KEY, "x", None, key])) == [1, 1]
    assert metric(db, "directory_capacity") == 262_144


# Usage

def test_a_buffer_that_fills_and_a_worker_that_is_held_up():
    with cluster_with_key("full", keysmith__usage_buffer="64kB", keysmith__usage_overflow="drop",
                          keysmith__usage_flush_interval="100ms") as (cluster, db, key):
        db.verify(key)
        flush(db)
        assert metric(db, "usage_worker_delay_seconds") == 0 and not raised(db)
        before = metrics(db)
        with worker_held_up(cluster):
            begun = db.value("SELECT clock_timestamp()")
            for _ in range(50):
                db.verify(key)
            wait_until(lambda: metric(db, "usage_worker_delay_seconds") > 0.2)
            oldest = db.one("usage_status").oldest_waiting_since
            assert begun <= oldest <= begun + timedelta(minutes=1) and oldest < db.value("SELECT clock_timestamp()")
            now = metrics(db)
            assert (now["keysmith_usage_waiting",], now["keysmith_usage_queue_used",]) == (50, 50)
            assert "usage_queue_filling" in raised(db) and "usage_dropped" not in raised(db)
            db.rows("SELECT keysmith.verify(%s) FROM generate_series(1, 100)", key)
            assert {"usage_queue_filling", "usage_dropped"} <= raised(db)
            now = metrics(db)
            assert now["keysmith_usage_dropped_total",] == 54
            assert now["keysmith_usage_waiting",] == now["keysmith_usage_queue_share",] == 96
            assert now["keysmith_usage_queue_capacity",] == 128 and now["keysmith_usage_worker_running",] == 1
        flush(db)
        after = metrics(db)
        assert after["keysmith_usage_waiting",] == after["keysmith_usage_worker_delay_seconds",] == 0
        for name in ("accepted", "stored"):
            assert after[f"keysmith_usage_{name}_total",] - before[f"keysmith_usage_{name}_total",] == 96
        assert raised(db) == {"usage_dropped"}
        # No counter fell.
        counters = {row.name for row in db.rows(HELP) if row.type == "counter"}
        assert all(after[label] >= value for label, value in before.items() if label[0] in counters)
        cluster.restart()
        db = session(cluster)
        assert not raised(db) and decisions(db) == {}


def test_a_worker_that_can_not_store(db):
    db.tenant()
    key = db.mint().api_key
    db.verify(key)
    flush(db)
    assert not raised(db) and metric(db, "usage_last_flush_timestamp_seconds") > 0
    db.rows("ALTER TABLE keysmith_private.usage_event ADD CONSTRAINT nothing CHECK (status < 0) NOT VALID")
    db.verify(key)
    wait_until(lambda: "usage_failing" in raised(db))
    assert metric(db, "usage_worker_failures_total") > 0
    wait_until(lambda: "usage_quarantined" in raised(db))
    assert metric(db, "usage_quarantined_total") == 1
    db.rows("ALTER TABLE keysmith_private.usage_event DROP CONSTRAINT nothing")
    db.verify(key)
    flush(db)
    assert raised(db) == {"usage_quarantined"}
    db.rows("UPDATE keysmith_private.usage_set_aside SET set_aside_at = now() - interval '8 days'")
    assert not raised(db)


def test_other_records(db):
    db.tenant()
    key = db.mint().api_key
    before = metrics(db)
    db.rows("BEGIN")
    db.verify(key)
    assert metric(db, "usage_pending") == 1
    db.rows("ROLLBACK")
    assert metric(db, "usage_pending") == 0
    db.verify("x")
    db.rows("SET keysmith.usage_durability = 'commit'")
    db.verify(key)
    after = metrics(db)
    for name, more in {"usage_unknown_total": 1, "usage_written_through_total": 1, "usage_accepted_total": 1}.items():
        assert after[f"keysmith_{name}",] - before[f"keysmith_{name}",] == more, name


def test_no_worker_and_no_room_for_limits():
    with running("starved", max_worker_processes="0", keysmith__max_buckets="16",
                 keysmith__directory_size="0") as cluster:
        cluster.execute("CREATE EXTENSION keysmith")
        db = session(cluster)
        db.tenant()
        db.verify(db.mint().api_key)
        assert raised(db) == {"usage_worker_missing"}
        now = metrics(db)
        assert now["keysmith_usage_worker_failed_starts_total",] > 0 == now["keysmith_usage_worker_running",]
        # Without a directory nothing is looked up there.
        assert now["keysmith_directory_capacity",] == now["keysmith_directory_keys",] == 0
        assert ("keysmith_directory_hits_total",) not in now
        refused = 0
        for n in range(40):
            # One tenant takes only a part of the room.
            db.tenant(f"tenant {n}")
            reason = db.reason(db.mint(f"tenant {n}", limits=limits(1)).api_key)
            refused += reason == "limits_unavailable"
        assert {"limit_buckets_filling", "limits_unavailable"} <= raised(db)
        now = metrics(db)
        assert now["keysmith_limit_unavailable_total",] == decisions(db)["limits_unavailable"] == refused > 0
        assert now["keysmith_limit_buckets",] > 0.8 * now["keysmith_limit_buckets_capacity",] == 0.8 * 16
        cluster.restart()
        assert "limits_unavailable" not in raised(session(cluster))


def test_without_preload_there_are_no_counts():
    with running("unpreloaded", preload=False) as cluster:
        cluster.execute("CREATE EXTENSION keysmith")
        db = session(cluster)
        db.tenant()
        db.verify(db.mint().api_key)
        # Nothing calls maintain() here.
        assert raised(db) == {"not_preloaded", "partition_missing"}
        now = metrics(db)
        assert now["keysmith_preloaded",] == 0
        assert not [key for key in now if key[0].startswith(("keysmith_decisions", "keysmith_directory", "keysmith_limit"))]
        assert now["keysmith_usage_losses_total",] == 0 and ("keysmith_usage_dropped_total",) not in now
        assert db.one("usage_status").node is None
        assert metrics(db)["keysmith_relation_bytes", "usage_event"] > 0


def test_partitions(db):
    db.tenant()
    db.verify(db.mint().api_key)
    flush(db)
    made = metric(db, "usage_partitions")
    db.rows("SELECT keysmith_private.usage_prepare('2020-01-01', '2020-01-03')")
    now = metrics(db)
    assert (now["keysmith_usage_partitions",], now["keysmith_usage_partitions_overdue",]) == (made + 3, 3)
    db.call("maintain")
    assert metric(db, "usage_partitions_overdue") == 0 and not raised(db)
    db.rows("DO $$ DECLARE t regclass; BEGIN FOR t IN SELECT partition FROM keysmith_private.usage_partitions() "
            "WHERE starts > now() LOOP EXECUTE 'DROP TABLE ' || t; END LOOP; END $$")
    assert raised(db) == {"partition_missing"} and metric(db, "usage_partition_missing") == 1
    db.call("maintain")
    assert not raised(db) and metric(db, "usage_partition_missing") == 0


def test_losses(db):
    db.rows("INSERT INTO keysmith_private.usage_incarnation (incarnation, database, server, started_at, "
            "most_waiting, lost_at_most, lost_from, lost_until, node, node_name) SELECT 1, oid, 1, now(), 9, 9, "
            "now(), now(), 'a', 'gone' FROM pg_database WHERE datname = current_database()")
    assert raised(db) == {"usage_lost"}
    assert (metric(db, "usage_losses_total"), metric(db, "usage_lost_at_most_total")) == (1, 9)
    node = db.row("SELECT * FROM keysmith.usage_nodes WHERE node = 'a'")
    assert (node.name, node.is_standby, node.losses, node.lost_at_most) == ("gone", False, 1, 9)
    db.rows("UPDATE keysmith_private.usage_incarnation SET lost_until = now() - interval '8 days'")
    assert not raised(db) and metric(db, "usage_losses_total") == 1


# The database

def test_sizes_and_estimates(db):
    for name in ("one", "two"):
        db.tenant(name)
    db.mint("one")
    db.rows("ANALYZE keysmith_private.key, keysmith_private.tenant")
    now = metrics(db)
    assert (now["keysmith_keys_estimate",], now["keysmith_tenants_estimate",]) == (1, 2)
    assert now["keysmith_relation_bytes", "key"] \
        == db.value("SELECT pg_total_relation_size('keysmith_private.key')") > 0
    # The parts of a table are one row.
    db.verify(db.mint("one").api_key)
    flush(db)
    assert db.value("SELECT sum(pg_total_relation_size(partition)) FROM keysmith_private.usage_partitions()") \
        == metric(db, "relation_bytes", "usage_event") > 0
    assert metric(db, "usage_deltas") == db.value("SELECT count(*) FROM keysmith_private.usage_delta")


def test_the_audit(db):
    db.tenant()
    before = metric(db, "audit_entries", "default")
    db.mint()
    assert metric(db, "audit_entries", "default") == before + 1 and not raised(db)
    db.rows("DELETE FROM keysmith_private.audit_entry WHERE keyspace = 'default' AND entry = %s", before)
    assert raised(db) == {"audit_gap"}


def test_isolated_tables(cluster, db):
    cluster.execute("CREATE ROLE keeps_notes")
    try:
        db.rows("CREATE TABLE notes (tenant_id uuid); ALTER TABLE notes OWNER TO keeps_notes")
        db.call("isolate", "notes", "tenant_id")
        now = metrics(db)
        assert (now["keysmith_isolated_tables",], now["keysmith_isolation_errors",]) == (1, 0) and not raised(db)
        db.rows("DROP POLICY keysmith_tenant ON notes")
        assert raised(db) == {"isolation_error"} and metric(db, "isolation_errors") == 1
        db.call("isolate", "notes", "tenant_id")
        assert not raised(db)
    finally:
        db.rows("DROP TABLE IF EXISTS notes")
        cluster.execute("DROP ROLE keeps_notes")


def test_events_that_find_no_room():
    with cluster_with_key("deaf") as (cluster, db, _), cluster.connect(autocommit=False) as deaf:
        deaf.execute("LISTEN something")
        deaf.commit()
        deaf.execute("SELECT 1")
        db.rows("SELECT pg_notify('something', rpad(n::text, 7000)) FROM generate_series(1, 4) n")
        assert metric(db, "notify_queue_used_ratio") > 0 and not raised(db)
        db.rows("SET keysmith.event_queue_limit = 0")
        assert raised(db) == {"notify_queue_filling"}
        db.mint()
        assert metric(db, "events_unsent_total") == 1
        assert raised(db) == {"notify_queue_filling", "events_unsent"}
        deaf.rollback()
        wait_until(lambda: raised(db) == {"events_unsent"})


def test_a_scrape_waits_for_nobody(cluster, db, connect):
    """The locks that maintain() takes, and those that others can take on their tables."""
    cluster.execute("CREATE ROLE keeps_notes")
    try:
        db.tenant()
        db.verify(db.mint().api_key)
        flush(db)
        db.rows("CREATE TABLE notes (tenant_id uuid); ALTER TABLE notes OWNER TO keeps_notes")
        db.call("isolate", "notes", "tenant_id")
        db.rows("ANALYZE")
        whole = metrics(db)
        blocker = connect(autocommit=False)
        blocker.execute("LOCK TABLE notes, keysmith_private.usage_event IN ACCESS EXCLUSIVE MODE")
        db.rows("SET statement_timeout = '60s'")
        locked = metrics(db)
        assert locked.keys() == whole.keys() and not raised(db)
        assert locked["keysmith_usage_partitions",] == whole["keysmith_usage_partitions",]
        assert locked["keysmith_relation_bytes", "usage_event"] > 0
        assert locked["keysmith_isolated_tables",] == 1
        blocker.rollback()
    finally:
        db.rows("DROP TABLE IF EXISTS notes")
        cluster.execute("DROP ROLE keeps_notes")


def test_the_size_of_a_table_that_is_locked_meanwhile(db, connect):
    blocker = connect(autocommit=False)
    blocker.execute("LOCK TABLE keysmith_private.usage_hour IN ACCESS EXCLUSIVE MODE")
    size = "SELECT keysmith_private.relation_size('keysmith_private.usage_hour'::regclass, 3)"
    assert db.value(size) == 3 * 8192
    blocker.rollback()
    assert db.value(size) != 3 * 8192


def test_a_scrape_looks_at_no_views(db):
    """Whoever can name a table can make very many views of it."""
    db.rows("CREATE TABLE note (tenant text)")
    db.call("isolate", "note", "tenant", keyspace="default")
    db.rows("CREATE MATERIALIZED VIEW copied AS SELECT * FROM note")
    db.rows("SET track_functions = 'all'")
    walks = "SELECT coalesce(max(pg_stat_get_xact_function_calls(oid)), 0) FROM pg_proc WHERE proname = 'views_above_isolated'"

    def walked(statement):
        with db.session.transaction():
            db.rows(statement)
            return db.value(walks)

    assert walked("SELECT * FROM keysmith.metrics") == 0
    assert walked("SELECT * FROM keysmith.alarms") == 0
    assert walked("SELECT * FROM keysmith.isolation") == 0
    assert walked("SELECT * FROM keysmith.doctor()") == 1


def test_doctor_looks_at_so_many_views_and_no_more(db):
    db.rows("DO $$ BEGIN FOR i IN 1..20 LOOP "
            "EXECUTE format('CREATE TABLE note%s (tenant text)', i); "
            "PERFORM keysmith.isolate(format('note%s', i)::regclass, 'tenant', 'default'); END LOOP; END $$")
    statement = db.value("SELECT 'CREATE VIEW v0 WITH (security_invoker) AS SELECT 1 AS one FROM ' "
                         "|| string_agg('note' || i, ', ') FROM generate_series(1, 20) i")
    db.rows(statement)

    def chained(first, last):
        db.rows(f"DO $$ BEGIN FOR i IN {first}..{last} LOOP EXECUTE format('CREATE VIEW v%s WITH (security_invoker) AS "
                "SELECT one FROM v%s', i, i - 1); END LOOP; END $$")
        return [row.finding for row in db.findings() if "very many views" in row.finding]

    assert chained(1, 900) == []
    assert len(chained(901, 1000)) == 1


# Who may read

def test_who_may_read_them(cluster, dbname, db):
    views = ("metrics", "alarms", "usage_nodes")
    db.tenant()
    key = db.mint().api_key
    levels = ("nobody", "verifier", "issuer", "auditor", "admin")
    try:
        for level in levels:
            cluster.execute(f"CREATE ROLE may_{level}")
            if level != "nobody":
                db.call("grant_access", f"may_{level}", level, **({"tenant": "acme"} if level == "issuer" else {}))
        db.rows("GRANT SELECT ON keysmith.metrics, keysmith.alarms, keysmith.usage_nodes TO may_issuer")
        for level in levels:
            db.rows(f"SET ROLE may_{level}")
            for view in views:
                if level in ("auditor", "admin"):
                    db.rows(f"SELECT * FROM keysmith.{view}")
                else:
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        db.rows(f"SELECT * FROM keysmith.{view}")
            db.rows("RESET ROLE")
        # Whoever acts for a key sees no numbers of others.
        db.rows("BEGIN")
        assert db.verify(key, sign_in=True).ok
        with pytest.raises(psycopg.Error) as error:
            db.rows("SELECT * FROM keysmith.metrics")
        assert error.value.sqlstate == "KS403"
        db.rows("ROLLBACK")
    finally:
        for level in levels:
            cluster.execute(f"DROP OWNED BY may_{level}", dbname)
            cluster.execute(f"DROP ROLE may_{level}")


# Standbys

def test_a_standby_and_its_primary():
    with pair(keysmith__max_replica_lag="2s", wal_receiver_status_interval="100ms") as (primary, standby, db):
        key = db.mint()
        db.call("wait_for_replay")
        there = session(standby)
        assert metric(there, "standby") == 1 and metric(db, "standby") == 0
        assert counted(there, lambda: there.verify(key.api_key)) == {"ok": 1}
        wait_until(lambda: metric(db, "standby_records_at_most", there.one("usage_status").node))
        node = there.one("usage_status").node
        assert metric(db, "standby_heard_timestamp_seconds", node) > 0
        lag = ("keysmith_replication_lag_bytes", "replica", "streaming")
        wait_until(lambda: lag in metrics(db))
        wait_until(lambda: not raised(there))
        assert metric(there, "replay_lag_seconds") is not None and metric(db, "replay_lag_seconds") is None
        there.rows("SELECT pg_wal_replay_pause()")
        db.mint()
        wait_until(lambda: raised(there) == {"replay_behind"})
        wait_until(lambda: metrics(db)[lag] > 0)
        wait_until(lambda: there.reason(key.api_key) == "replica_behind")
        assert decisions(there)["replica_behind"] == 1
        there.rows("SELECT pg_wal_replay_resume()")
        wait_until(lambda: not raised(there))
        there.session.close()
        standby.configure(keysmith__usage_conninfo="off")
        standby.restart()
        there = session(standby)
        wait_until(lambda: there.verify(key.api_key).ok)
        assert "usage_not_logged" in raised(there) and metric(there, "usage_not_logged_total") >= 1


def test_an_idle_primary_raises_no_alarm_of_a_standby_that_has_all():
    with pair() as (_, standby, _):
        wait_until(lambda: metric(session(standby), "replay_lag_seconds") == 0)


# Credits and units

def test_credits_and_units_are_counted_by_keyspace(db):
    db.call("create_keyspace", "other")
    for keyspace in ("default", "other"):
        db.tenant(keyspace=keyspace)
    key, other = db.mint(credits=1000).api_key, db.mint(keyspace="other", credits=1000).api_key
    assert (metric(db, "spend_total", "default"), metric(db, "spend_total", "other")) == (0, 0)

    def totals():
        db.call("flush_usage")
        db.rows("SELECT keysmith_private.usage_fold()")
        return {key[1:]: value for key, value in metrics(db).items() if key[0] in ("keysmith_spend_total", "keysmith_units_total")}

    db.verify(key, spend=5, weights=Jsonb({"tokens": 7, "calls": 3}))
    request = db.verify(key, spend=2, weights=Jsonb({"tokens": 3}))
    db.verify(key, spend=9999, weights=Jsonb({"tokens": 100}))
    db.verify(other, spend=1, keyspace="other", weights=Jsonb({"images": 1}))
    expected = {("default",): 7, ("default", "tokens"): 10, ("other",): 1, ("other", "images"): 1}
    assert totals() == expected
    # A counter does not fall.
    lower = "UPDATE keysmith_private.usage_event SET spend = 1, weights = '{\"tokens\": 1}' WHERE request_id = %s"
    db.rows(lower, request.request_id)
    assert totals() == expected
    assert db.value("SELECT amount FROM keysmith_private.usage_sum WHERE (keyspace, unit) = ('default', '')") == 6
    db.verify(key, spend=3, weights=Jsonb({"tokens": 5}))
    assert totals() == expected | {("default",): 9, ("default", "tokens"): 13}


def test_units_beyond_the_first_are_counted_together(db):
    db.tenant()
    key = db.mint().api_key
    for n in range(30):
        db.verify(key, weights=Jsonb({f"u{n}": 1, "tokens": 2}))
        if n in (3, 29):
            db.call("flush_usage")
            db.rows("SELECT keysmith_private.usage_fold()")
    units = {key[2]: value for key, value in metrics(db).items() if key[0] == "keysmith_units_total"}
    assert len(units) == 21 and units["tokens"] == 60 and units["(other)"] == 11
