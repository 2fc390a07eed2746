"""Hot standbys: they decide like the primary, and their usage reaches it exactly once."""

import os
import re
import shutil
import signal
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest
from psycopg.types.json import Jsonb

from cluster import running
from conftest import session, wait_until
from test_usage_pipeline import cluster_with_key, count, status
from test_usage_worker import locks_of_ours

EVENTS = "SELECT request_id, outcome, incarnation FROM keysmith_private.usage_event ORDER BY at"


def stored(db):
    """The ids of all stored requests, one for each row."""
    return sorted(str(row.request_id) for row in db.rows(EVENTS))


@contextmanager
def pair(**settings):
    """A primary with a key, and a standby that streams from it."""
    settings = {"max_wal_senders": 6, "keysmith__usage_flush_interval": "100ms"} | settings
    with running("primary", **settings) as primary:
        db = session(primary)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        standby = primary.backup("standby", 5433)
        standby.configure(cluster_name="replica")
        try:
            standby.start()
            wait_until(lambda: db.one("wait_for_replay")[0] == 1)
            yield primary, standby, db
        finally:
            standby.remove()


@pytest.fixture(scope="module")
def servers():
    with pair() as both:
        yield both


@pytest.fixture
def there(servers):
    _, standby, _ = servers
    replica = session(standby)
    yield replica
    replica.session.close()


def test_a_standby_tells_what_a_keyspace_has_and_makes_none():
    with running("primary", max_wal_senders=4) as primary:
        db = session(primary)
        db.rows("CREATE EXTENSION keysmith")
        standby = primary.backup("standby", 5433)
        try:
            standby.start()
            wait_until(lambda: db.one("wait_for_replay")[0] == 1)
            replica = session(standby)
            assert "no channel yet" in replica.refused("KS404", "event_channel")
            assert [row.name for row in replica.call("scanner_patterns", "default")] == ["keysmith-default"]
            (made,) = db.one("event_channel")
            db.call("wait_for_replay")
            assert replica.one("event_channel") == (made,)
        finally:
            standby.remove()


def requests(replica, key, n):
    return sorted(str(replica.verify(key).request_id) for _ in range(n))


def test_usage_of_a_standby_reaches_the_primary(servers, there):
    _, _, db = servers
    key = db.mint()
    db.call("wait_for_replay")
    before = stored(db)
    made = requests(there, key.api_key, 5)
    refused = there.verify(key.api_key, environment="test")
    assert refused.reason == "wrong_environment"
    there.call("flush_usage")
    assert stored(db) == sorted(before + made + [str(refused.request_id)])
    rows = db.rows("SELECT * FROM keysmith_private.usage_incarnation WHERE node_name = 'replica'")
    assert len(rows) == 1 and rows[0].incarnation == status(there)["incarnation"]
    last = wait_until(lambda: db.value(
        "SELECT last_used_at FROM keysmith.keys WHERE key_id = %s", key.key_id))
    assert last is not None
    assert status(there)["mode"] == "shared memory, handed to the primary"
    wait_until(lambda: status(there)["waiting"] == 0)


def test_what_applications_learn_later_reaches_it_too(servers, there):
    _, _, db = servers
    key = db.mint()
    db.call("wait_for_replay")
    there.rows("BEGIN")
    held = there.verify(key.api_key).request_id
    assert there.one("log_request", 201, "12 ms", "/held", "GET")[0]
    there.rows("COMMIT")
    later = there.verify(key.api_key).request_id
    there.call("flush_usage")
    assert there.one("log_request", 404, endpoint="/later", request_id=later)[0]
    there.call("flush_usage")
    row = "SELECT status, endpoint FROM keysmith_private.usage_event WHERE request_id = %s"
    assert db.row(row, held) == (201, "/held")
    assert db.row(row, later) == (404, "/later")
    # An amendment of a request of the primary, whose record is still on its way.
    db.rows("BEGIN")
    slow = db.verify(key.api_key).request_id
    assert there.one("log_request", 500, request_id=slow)[0]
    there.call("flush_usage")
    db.rows("COMMIT")
    wait_until(lambda: db.rows(row, slow) and db.row(row, slow).status == 500)


def test_requests_without_a_known_key_are_counted_once(servers, there):
    primary, _, db = servers
    count = "SELECT coalesce(sum(requests), 0)::int FROM keysmith_private.usage_unknown"
    db.call("flush_usage")
    before = db.value(count)
    for n in range(5):
        there.verify("garbage")
        there.call("flush_usage")
        primary.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE application_name LIKE 'keysmith usage%'")
    assert db.value(count) == before + 5


MATRIX = [
    {}, {"scopes": ["images:read"]}, {"scopes": ["images:write"]}, {"scopes": None},
    {"ip": "10.1.2.3"}, {"ip": "192.0.2.1"}, {"environment": "test"}, {"environment": "live"},
    {"kind": "publishable"}, {"kind": "secret"}, {"keyspace": "other"}, {"keyspace": "nowhere"},
]
NOT_COMPARED = {"request_id", "limit_remaining", "limit_reset"}


def comparable(verdict):
    return {name: value for name, value in verdict._asdict().items() if name not in NOT_COMPARED}


def test_it_decides_as_the_primary_does(servers, there):
    _, _, db = servers
    db.call("create_keyspace", "other")
    db.call("define_scope", "default", "images:read")
    db.call("define_scope", "default", "images:write", implies=["images:read"])
    db.call("define_role", "default", "reader", ["images:read"])
    db.call("define_route", "default", "GET", "/images/{id}", ["images:read"])
    db.call("define_route", "default", "POST", "/images", ["images:write"])
    db.tenant("suspended")
    keys = [
        db.mint(), db.mint(scopes=["images:read"]), db.mint(role="reader"),
        db.mint(allowlist=["10.0.0.0/8"]), db.mint(kind="publishable"),
        db.mint(environment="test"), db.mint(expires_at="2100-01-01"),
        db.mint(metadata='{"plan": "pro"}'), db.mint("suspended"),
        db.mint(limits='[{"name": "burst", "limit": 100000, "window": "1 hour"}]'),
    ]
    disabled, revoked, rotated = db.mint(), db.mint(), db.mint()
    db.call("disable", disabled.key_id)
    db.call("revoke", revoked.key_id)
    db.call("rotate", rotated.key_id)
    db.call("suspend_tenant", "suspended")
    db.call("wait_for_replay")
    presented = [key.api_key for key in [*keys, disabled, revoked, rotated]]
    presented += ["garbage", "ks_live_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg32jhdj", None]
    reasons = set()
    for key in presented:
        for asked in MATRIX:
            here, over_there = db.verify(key, **asked), there.verify(key, **asked)
            assert comparable(here) == comparable(over_there), asked
            reasons.add(here.reason)
    assert len(reasons) >= 12, reasons
    for key in filter(None, presented):
        for method, path in [("GET", "/images/1"), ("POST", "/images"), ("DELETE", "/none")]:
            asked = {"headers": psycopg.types.json.Jsonb({"authorization": f"Bearer {key}"}),
                     "method": method, "path": path, "ip": "10.1.2.3"}
            verdicts = [one.one("authenticate", **asked) for one in (db, there)]
            assert comparable(verdicts[0]) == comparable(verdicts[1])
    # Each server counts for itself.
    limited = keys[-1].api_key
    assert db.verify(limited).limit_name == there.verify(limited).limit_name == "burst"
    assert there.reason(keys[0].api_key, spend=1) == "credits_unavailable"


def test_identity_and_policies_hold_there_as_here(servers, there):
    _, standby, db = servers
    db.tenant("tenant_a"), db.tenant("tenant_b")
    keys = {name: db.mint(name) for name in ("tenant_a", "tenant_b")}
    db.rows("""
        CREATE ROLE app LOGIN;
        CREATE TABLE document (tenant uuid, title text);
        GRANT SELECT ON document TO app""")
    for name in keys:
        db.rows("INSERT INTO document SELECT tenant_id, %s FROM keysmith_private.tenant WHERE name = %s",
                name, name)
    db.rows("SELECT keysmith.isolate('document', 'tenant')")
    db.rows("SELECT keysmith.grant_access('app', 'verifier')")
    db.call("wait_for_replay")
    for server in servers[0], standby:
        app = session(server, user="app")
        assert app.rows("SELECT title FROM document") == []
        for name, key in keys.items():
            app.rows("BEGIN READ ONLY")
            assert app.verify(key.api_key, sign_in=True).ok
            assert app.value("SELECT keysmith.current_tenant()") == name
            assert app.value("SELECT keysmith.whoami()")["tenant"] == name
            assert app.rows("SELECT title FROM document") == [(name,)]
            app.rows("COMMIT")
        # The identity of an open transaction ends with the revocation, once it is replayed.
        app.rows("BEGIN READ ONLY")
        key = db.mint("tenant_a")
        db.call("wait_for_replay")
        assert app.verify(key.api_key, sign_in=True).ok
        db.call("revoke", key.key_id)
        if server is standby:
            db.call("wait_for_replay")
        with pytest.raises(psycopg.Error) as error:
            app.rows("SELECT title FROM document")
        assert error.value.sqlstate == "KS401"
        app.session.close()


def test_waiting_counts_standbys_and_not_what_collects(servers, there):
    _, _, db = servers
    key = db.mint()
    db.call("wait_for_replay")
    there.verify(key.api_key)
    connected = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'keysmith usage%'"
    wait_until(lambda: there.verify(key.api_key).ok and db.value(connected) == 1)
    assert db.one("wait_for_replay", "60 seconds")[0] == 1


def test_a_database_can_be_dropped_while_its_usage_is_handed_over(servers):
    _, standby, db = servers
    db.rows("CREATE DATABASE doomed")
    doomed = session(servers[0], "doomed")
    doomed.rows("CREATE EXTENSION keysmith")
    doomed.tenant()
    key = doomed.mint()
    doomed.session.close()
    db.call("wait_for_replay")
    other = session(standby, "doomed")
    made = requests(other, key.api_key, 3)
    other.call("flush_usage")
    other.session.close()
    assert [str(n) for n, in servers[0].execute(
        "SELECT request_id FROM keysmith_private.usage_event ORDER BY request_id", "doomed")] == made
    db.rows("DROP DATABASE doomed")
    assert db.one("wait_for_replay", "60 seconds")[0] == 1
    assert not standby.execute("SELECT 1 FROM pg_stat_activity WHERE datname = 'doomed'")


# Exactly once, whatever crashes


def test_what_is_sent_again_is_stored_once(servers, there):
    """The connection breaks after the batch was stored, and before the standby can know."""
    primary, _, db = servers
    key = db.mint()
    db.call("wait_for_replay")
    before = stored(db)
    there.rows("SELECT pg_wal_replay_pause()")
    try:
        made = []
        for _ in range(3):
            made += requests(there, key.api_key, 20)
            wait_until(lambda: len(stored(db)) == len(before) + len(made))
            assert count(there, "waiting") == len(made)
            primary.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                            " WHERE application_name LIKE 'keysmith usage%'")
        assert stored(db) == sorted(before + made)
    finally:
        there.rows("SELECT pg_wal_replay_resume()")
    wait_until(lambda: count(there, "waiting") == 0)
    assert stored(db) == sorted(before + made)


@pytest.mark.parametrize("how", ["worker", "restart", "standby", "primary"])
def test_once_whatever_ends_between_storing_and_knowing(how):
    with pair() as (primary, standby, db):
        key = db.mint()
        db.call("wait_for_replay")
        there = session(standby)
        there.rows("SELECT pg_wal_replay_pause()")
        made = requests(there, key.api_key, 50)
        wait_until(lambda: stored(db) == made)
        if how == "worker":
            pid = status(there)["worker_pid"]
            there.rows("SELECT pg_terminate_backend(%s)", pid)
            wait_until(lambda: status(there)["worker_pid"] != pid)
        elif how == "restart":
            made += requests(there, key.api_key, 10)
            there.session.close()
            standby.restart()
            assert list((standby.data / "pg_stat").glob("keysmith_usage.*"))
        elif how == "standby":
            there.session.close()
            standby.kill()
            start_again(standby)
        else:
            primary.kill()
            start_again(primary)
            db = session(primary)
        there = session(standby)
        there.rows("SELECT pg_wal_replay_resume()") if how in ("worker", "primary") else None
        made = sorted(made + requests(there, key.api_key, 5))
        wait_until(lambda: set(made) <= set(stored(db)))
        wait_until(lambda: count(there, "waiting") == 0)
        assert stored(db) == made
        assert not list((standby.data / "pg_stat").glob("keysmith_usage.*"))
        lost = db.rows("SELECT lost_at_most FROM keysmith_private.usage_incarnation"
                       " WHERE node_name = 'replica' AND lost_at_most IS NOT NULL")
        assert bool(lost) == (how == "standby")
        total = db.value("SELECT sum(requests)::int FROM keysmith.usage_daily")
        assert total == len(made)


def test_a_standby_that_dies_before_anything_was_taken_in_is_reported():
    with pair() as (primary, standby, db):
        key = db.mint()
        db.call("wait_for_replay")
        with primary.connect(autocommit=False) as blocker:
            blocker.execute("LOCK TABLE keysmith_private.usage_incarnation IN SHARE ROW EXCLUSIVE MODE")
            requests(session(standby), key.api_key, 20)
            standby.kill()
            blocker.rollback()
        start_again(standby)
        there = session(standby)
        made = requests(there, key.api_key, 3)
        wait_until(lambda: set(made) <= set(stored(db)))
        loss = db.row("SELECT * FROM keysmith_private.usage_incarnation WHERE lost_at_most IS NOT NULL")
        assert loss.node_name == "replica" and loss.lost_at_most >= 20
        assert loss.started_at <= loss.lost_from < loss.lost_until
        # The primary's incarnations in the backup are not the new server's own.
        assert db.value("SELECT count(*) FROM keysmith_private.usage_incarnation WHERE primary_since IS NOT NULL") <= 1


def test_what_a_standby_can_not_keep_over_a_restart_is_reported():
    with pair() as (primary, standby, db):
        key = db.mint()
        db.call("wait_for_replay")
        there = session(standby)
        made = requests(there, key.api_key, 2)
        wait_until(lambda: stored(db) == made)
        heard = db.row("SELECT * FROM keysmith.usage_nodes WHERE is_standby")
        assert (heard.name, heard.most_waiting > 0, heard.lost_at_most) == ("replica", True, None)
        primary.execute("CREATE DATABASE beside")
        beside = session(primary, "beside")
        beside.rows("CREATE EXTENSION keysmith")
        beside.tenant()
        other = beside.mint()
        beside.call("wait_for_replay")
        with primary.connect(autocommit=False) as blocker, primary.connect("beside", autocommit=False) as second:
            for blocking in (blocker, second):
                blocking.execute("LOCK TABLE keysmith_private.usage_incarnation IN SHARE ROW EXCLUSIVE MODE")
            requests(there, key.api_key, 20)
            kept = requests(session(standby, "beside"), other.api_key, 5)
            place = there.value("SELECT oid::text FROM pg_database WHERE datname = current_database()")
            incarnation = status(there)["incarnation"]
            (standby.data / f"pg_stat/keysmith_incarnation.{place}.{incarnation}").chmod(0o400)
            there.session.close()
            standby.stop()
            # Wait, or the transaction that the primary had begun when the standby left would be
            # stored after all.
            wait_until(lambda: not db.value("SELECT count(*) FROM pg_stat_activity "
                                            "WHERE application_name LIKE 'keysmith usage%'"))
            blocker.rollback()
        standby.start()
        there = session(standby)
        made = sorted(made + requests(there, key.api_key, 3))
        wait_until(lambda: stored(db) == made)
        loss = db.row("SELECT * FROM keysmith_private.usage_incarnation WHERE lost_at_most IS NOT NULL")
        assert loss.node_name == "replica" and loss.lost_at_most >= 20
        # Records of another database are kept if they can be.
        kept = sorted(kept + requests(session(standby, "beside"), other.api_key, 1))
        wait_until(lambda: stored(beside) == kept)
        assert count(beside, "losses") == 0


def test_a_file_that_is_not_whole_or_not_to_be_read():
    """Neither blocks newer records, and neither is lost."""
    with pair() as (primary, standby, db):
        key = db.mint()
        db.call("wait_for_replay")
        there = session(standby)
        there.rows("SELECT pg_wal_replay_pause()")
        made = requests(there, key.api_key, 10)
        wait_until(lambda: stored(db) == made)
        there.session.close()
        standby.stop()
        kept, = (standby.data / "pg_stat").glob("keysmith_usage.*")
        cut = kept.with_suffix(".1")
        cut.write_bytes(kept.read_bytes()[:-1])
        shutil.chown(cut, kept.owner(), kept.group())
        kept.chmod(0)
        standby.start()
        there = session(standby)
        made = sorted(made + requests(there, key.api_key, 3))
        wait_until(lambda: stored(db) == made)
        assert cut.with_name(f"unreadable_{cut.name}").exists() and not cut.exists()
        log = standby.log.read_text()
        assert f"{kept.name} can't be read" in log and f"{cut.name} is not whole" in log
        kept.chmod(0o600)
        there.session.close()
        standby.restart()
        there = session(standby)
        made = sorted(made + requests(there, key.api_key, 1))
        wait_until(lambda: stored(db) == made and not kept.exists())


def start_again(cluster):
    """After a kill, starts it as soon as its children are gone."""
    wait_until(lambda: cluster.start(check=False).returncode == 0)


def test_a_full_buffer_is_counted_and_told():
    with pair(keysmith__usage_buffer="64kB") as (primary, standby, db):
        key = db.mint()
        db.call("wait_for_replay")
        standby.configure(keysmith__usage_conninfo="host=/nowhere dbname=none")
        standby.restart()
        there = session(standby)
        capacity = count(there, "share")
        made = requests(there, key.api_key, capacity + 40)
        # The last record is no longer pending once the session runs another statement.
        wait_until(lambda: count(there, "dropped") == 40)
        wait_until(lambda: status(there)["last_error"])
        standby.configure(keysmith__usage_conninfo="")
        standby.execute("SELECT pg_reload_conf()")
        wait_until(lambda: len(stored(db)) == capacity)
        assert set(stored(db)) < set(made)
        assert db.value("SELECT dropped FROM keysmith_private.usage_incarnation WHERE node_name = 'replica'") == 40


# Promotion


def test_a_promoted_standby_counts_nothing_twice_and_loses_nothing():
    with pair() as (primary, standby, db):
        key = db.mint()
        db.call("wait_for_replay")
        there = session(standby)
        first = requests(there, key.api_key, 9) + requests(db, key.api_key, 1)
        db.call("flush_usage")
        there.call("flush_usage")
        wait_until(lambda: count(there, "waiting") == 0)
        # Some are stored on the primary, and the standby never learns of it.
        sender = db.value("SELECT pid FROM pg_stat_replication WHERE state = 'streaming'")
        os.kill(sender, signal.SIGSTOP)
        second = requests(there, key.api_key, 10)
        wait_until(lambda: len(stored(db)) == 20)
        primary.kill()
        os.kill(sender, signal.SIGKILL)
        # And some are stored nowhere.
        third = requests(there, key.api_key, 10)
        there.rows("SELECT pg_promote(false)")
        wait_until(lambda: not there.value("SELECT pg_is_in_recovery()"))
        fourth = requests(there, key.api_key, 10)
        there.call("flush_usage", "30 seconds")
        assert stored(there) == sorted(first + second + third + fourth)
        assert status(there)["mode"] == "shared memory"
        # It mints, revokes and spends like the primary that it now is.
        fresh = there.mint()
        assert there.verify(fresh.api_key).ok
        there.call("revoke", fresh.key_id)
        assert there.reason(fresh.api_key) == "revoked"
        # It reports the possible loss of the old primary.
        assert status(there)["losses"] == 1
        there.call("flush_usage", "30 seconds")
        there.call("maintain")
        assert there.value("SELECT sum(requests)::int FROM keysmith.usage_daily") == 42
        standby.restart()
        there = session(standby)
        requests(there, key.api_key, 1)
        there.call("flush_usage")
        assert len(stored(there)) == 43 and status(there)["losses"] == 1


def test_what_a_standby_kept_is_stored_when_it_starts_as_a_primary():
    with pair() as (primary, standby, db):
        key = db.mint()
        db.call("wait_for_replay")
        there = session(standby)
        there.rows("SELECT pg_wal_replay_pause()")
        made = requests(there, key.api_key, 10)
        wait_until(lambda: stored(db) == made)
        primary.kill()
        made = sorted(made + requests(there, key.api_key, 10))
        there.session.close()
        standby.stop()
        (standby.data / "standby.signal").unlink()
        standby.start()
        there = session(standby)
        made = sorted(made + requests(there, key.api_key, 1))
        there.call("flush_usage")
        assert stored(there) == made
        assert not list((standby.data / "pg_stat").glob("keysmith_usage.*"))


# The lag guard


def test_a_standby_that_fell_behind_refuses():
    with pair(keysmith__max_replica_lag="1s") as (primary, standby, db):
        key = db.mint()
        db.call("define_route", "default", "GET", "/open", [], public=True)
        db.call("wait_for_replay")
        there = session(standby)
        # An idle primary must not cause refusals, for longer than a busy machine may delay the
        # heartbeat. explain_verify is not recorded, so it wakes nobody.
        refused = "SELECT count(*) FROM keysmith.explain_verify(%s) WHERE outcome = 'refuse'"
        time.sleep(2)  # not checked: longer than the lag that is allowed
        wait_until(lambda: there.value(refused, key.api_key) == 0)
        in_public = "authenticate", Jsonb({}), "GET", "/open"
        assert there.one(*in_public).reason == "public"
        acting = session(standby)
        acting.rows("BEGIN")
        acting.verify(key.api_key, sign_in=True)
        there.rows("SELECT pg_wal_replay_pause()")
        db.call("revoke", key.key_id)
        behind = wait_until(lambda: (v := there.verify(key.api_key)) and not v.ok and v)
        assert (behind.status, behind.code, behind.reason) == (503, "unavailable", "replica_behind")
        assert behind.key_id is None
        with pytest.raises(psycopg.Error, match="fallen behind") as error:
            acting.rows("SELECT keysmith.current_tenant()")
        assert error.value.sqlstate == "KS401"
        assert there.reason("garbage") == "malformed_key"
        steps = there.call("explain_verify", key.api_key)
        assert [step.reason for step in steps if step.outcome == "refuse"] == ["replica_behind"]
        # The route may be public no longer.
        assert there.one(*in_public).reason == "replica_behind"
        steps = there.call("explain_verify", None, headers=Jsonb({}), method="GET", path="/open")
        assert [step.reason for step in steps if step.outcome == "refuse"] == ["replica_behind"]
        assert {v.reason for v in there.call("verify_many", [key.api_key] * 2)} == {"replica_behind"}
        # The primary itself is never behind.
        assert db.reason(key.api_key) == "revoked"
        there.rows("SELECT pg_wal_replay_resume()")
        wait_until(lambda: there.reason(key.api_key) == "revoked")
        # A primary that is gone sends no heartbeat; a promoted standby has its own.
        fresh = db.mint()
        db.call("wait_for_replay")
        primary.kill()
        wait_until(lambda: there.reason(fresh.api_key) == "replica_behind")
        there.rows("SELECT pg_promote(false)")
        wait_until(lambda: not there.value("SELECT pg_is_in_recovery()"))
        assert there.verify(fresh.api_key).ok
        assert wait_until(lambda: there.rows(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'keysmith heartbeat'"))


def test_without_the_guard_nothing_beats(servers):
    _, _, db = servers
    assert db.value("SHOW keysmith.max_replica_lag") == "0"
    assert not db.rows("SELECT pid FROM pg_stat_activity WHERE backend_type = 'keysmith heartbeat'")


# Rights and bounds of handing over


COLLECT = ("SELECT * FROM keysmith.usage_collect('here', 5, 10, true, 0, %s, %s, %s, %s)")


def test_a_role_that_may_only_hand_over(servers):
    primary, standby, db = servers
    db.rows("CREATE ROLE courier LOGIN REPLICATION")
    key = db.mint()
    db.call("wait_for_replay")
    standby.configure(keysmith__usage_conninfo=f"host={primary.dir} port=5432 user=courier")
    standby.restart()
    there = session(standby)
    for setting in ("read_only = on", "isolation = serializable"):
        db.rows(f"ALTER ROLE courier SET default_transaction_{setting}")
    made = requests(there, key.api_key, 3)
    wait_until(lambda: "permission denied" in (status(there)["last_error"] or ""))
    db.rows("""GRANT USAGE ON SCHEMA keysmith TO courier; GRANT EXECUTE ON FUNCTION keysmith.usage_collect(
        text, bigint, bigint, boolean, bigint, bytea, bigint, bytea, bytea) TO courier""")
    wait_until(lambda: set(made) <= set(stored(db)))
    assert count(there, "dropped") == 0


@pytest.mark.parametrize("conninfo", ["host=/nowhere password=opensesame", "postgres://u:opensesame@h/"])
def test_a_password_is_no_setting(servers, conninfo):
    """Roles that monitor a server may read all its settings."""
    _, standby, db = servers
    with pytest.raises(psycopg.Error) as error:
        db.rows(f"ALTER SYSTEM SET keysmith.usage_conninfo = '{conninfo}'")
    assert "opensesame" not in str(error.value) and "passfile" in error.value.diag.message_hint
    used = standby.execute("SHOW keysmith.usage_conninfo")
    written = standby.log.read_text().count("must hold no password")
    before = (standby.data / "postgresql.conf").read_text()
    standby.configure(keysmith__usage_conninfo=conninfo)
    standby.execute("SELECT pg_reload_conf()")
    wait_until(lambda: standby.log.read_text().count("must hold no password") > written)
    (standby.data / "postgresql.conf").write_text(before)
    assert "opensesame" not in standby.log.read_text()
    assert standby.execute("SHOW keysmith.usage_conninfo") == used


@pytest.mark.parametrize("arguments, name", [
    ((b"x", 0, b"", b""), "records"),
    ((bytes(8) + b"\x01\x00\x01", 0, b"", b""), "records"),
    ((b"", 1, b"x", b""), "unknown"),
    ((b"", 1, b"\x01\xff\x00" + bytes(8), b""), "unknown"),
    ((b"", 1, b"", b"x"), "samples"),
    ((b"", -1, b"", b""), "unknown_mark"),
    ((None, 1, b"", b""), "records"),
])
def test_what_no_standby_sends_is_refused(servers, arguments, name):
    _, _, db = servers
    before = db.rows("SELECT count(*) FROM keysmith_private.usage_incarnation")
    with pytest.raises(psycopg.Error) as error:
        db.rows(COLLECT, *arguments)
    assert error.value.sqlstate == "KS400"
    assert error.value.diag.message_primary.startswith(f"{name} must")
    assert db.rows("SELECT count(*) FROM keysmith_private.usage_incarnation") == before


def test_a_record_that_the_primary_can_not_store_is_in_nobodys_way():
    with pair() as (primary, standby, db):
        key = db.mint()
        db.call("wait_for_replay")
        there = session(standby)
        # It takes many: the worker searches for the faulty record.
        db.rows("ALTER TABLE keysmith_private.usage_event ADD CONSTRAINT no_teapots CHECK (status <> 418) NOT VALID")
        there.rows("BEGIN")
        made = requests(there, key.api_key, 50)
        teapot = there.verify(key.api_key).request_id
        there.call("log_request", 418)
        made = sorted(made + requests(there, key.api_key, 50))
        there.rows("COMMIT")
        wait_until(lambda: stored(db) == made)
        wait_until(lambda: count(there, "waiting") == 0)
        aside, = db.rows("SELECT request_id, error FROM keysmith_private.usage_set_aside")
        assert aside.request_id == teapot and "no_teapots" in aside.error
        assert count(db, "quarantined") == 1
        assert db.value("SELECT sum(requests)::int FROM keysmith.usage_daily") == 100


def test_a_primary_that_can_store_nothing_is_waited_for():
    with pair() as (primary, standby, db):
        key = db.mint()
        db.call("wait_for_replay")
        there = session(standby)
        db.rows("ALTER TABLE keysmith_private.usage_event ADD CONSTRAINT nothing CHECK (status > 999) NOT VALID")
        # However few come together.
        made = []
        while "nothing" not in (status(there)["last_error"] or ""):
            made += requests(there, key.api_key, 1)
            time.sleep(0.05)
            assert len(made) < 500
        made += requests(there, key.api_key, 50)
        time.sleep(2)  # not checked: it may try some more times
        db.rows("ALTER TABLE keysmith_private.usage_event DROP CONSTRAINT nothing")
        wait_until(lambda: count(there, "waiting") == 0)
        aside = {str(request_id) for request_id, in db.rows("SELECT request_id FROM keysmith_private.usage_set_aside")}
        assert len(aside) == 10
        assert stored(db) == sorted(set(made) - aside)


@pytest.mark.parametrize("incarnation", [None, 9223372036854775000])
def test_a_life_is_that_of_a_standby(servers, incarnation):
    """Otherwise a role that may hand over usage could make the primary's own records count as
    stored."""
    _, _, db = servers
    db.call("flush_usage")
    own = db.value("SELECT max(incarnation) FROM keysmith_private.usage_incarnation WHERE primary_since IS NOT NULL")
    with pytest.raises(psycopg.Error) as error:
        db.rows("SELECT keysmith.usage_collect('here', %s, 10, true, 0, '', 0, '', '')", incarnation or own)
    assert error.value.sqlstate == "KS400" and "incarnation" in error.value.diag.message_primary


def test_nobody_else_tells_what_of_a_backlog_is_stored():
    """What waited at the last shutdown is a primary's own too."""
    with cluster_with_key("claimed", max_worker_processes=1) as (cluster, db, key):
        requests = {db.verify(key).request_id for _ in range(20)}
        forged = record(uuid.uuid4(), uuid.uuid4(), uuid.uuid4())
        cluster.restart()
        file, = (cluster.data / "pg_stat").glob("keysmith_usage.*")
        claim = {"standby": "forger", "incarnation": int(file.suffix[1:]), "most_waiting": 10,
                 "started_cleanly": True, "dropped": 0, "unknown_mark": 0, "unknown": b"", "samples": b"",
                 "records": (1 << 40).to_bytes(8, "little") + len(forged).to_bytes(2, "little") + forged}
        assert "wait on the primary" in session(cluster).refused("KS409", "usage_collect", **claim)
        cluster.configure(max_worker_processes=8)
        cluster.restart()
        db = session(cluster)
        # A refused call starts the worker, which stores the backlog. Then others may hand over.
        db.refused("KS409", "usage_collect", **claim)
        names = "SELECT request_id FROM keysmith_private.usage_event"
        wait_until(lambda: {request_id for request_id, in db.rows(names)} == requests)
        wait_until(lambda: not file.exists())
        assert "another server" in db.refused("KS409", "usage_collect", **claim)
        other = claim | {"incarnation": claim["incarnation"] + 1}
        assert db.call("usage_collect", **other)[0].last_sequence == 1 << 40


def test_only_a_primary_takes_in(servers, there):
    with pytest.raises(psycopg.Error) as error:
        there.rows(COLLECT, b"", 0, b"", b"")
    assert error.value.sqlstate == "KS409"


def test_a_drop_of_the_extension_waits_for_who_takes_in_before_it_locks_a_table(servers):
    """Like it waits for the worker."""
    primary, _, db = servers
    taking = session(primary)
    pid = taking.session.info.backend_pid
    with primary.connect() as watcher, primary.connect(autocommit=False) as dropping, \
            ThreadPoolExecutor(1) as pool:
        taking.rows("BEGIN")
        taking.rows(COLLECT, b"", 1, b"", b"")
        assert "object" in locks_of_ours(watcher, pid)
        dropped = pool.submit(dropping.execute, "DROP EXTENSION keysmith CASCADE")
        waiting = dropping.info.backend_pid
        wait_until(lambda: locks_of_ours(watcher, waiting))
        assert locks_of_ours(watcher, waiting) == ["object"]
        taking.rows("COMMIT")
        dropped.result(60)
        dropping.rollback()
    taking.session.close()


def test_a_life_is_that_of_one_standby(servers):
    _, _, db = servers
    statement = "SELECT * FROM keysmith.usage_collect(%s, 7, 10, true, 0, '', 0, '', '')"
    db.rows(statement, "one")
    with pytest.raises(psycopg.Error) as error:
        db.rows(statement, "another")
    assert error.value.sqlstate == "KS409"


def record(request_id, key_id, tenant_id, age=0, keyspace=b"default", environment=b"live",
           outcome=b"ok", status=200, latency=None, endpoint=None, spend=None, weights=None, tags=None, kind=1):
    """A record as in a standby's memory: the learned values, and then the rest."""
    at = int((time.time() - age - 946_684_800) * 1_000_000)  # not checked: a point in time
    texts = b"".join(bytes([len(text)]) + text for text in (keyspace, environment, outcome))
    marks = 1 | (2 if latency is not None else 0) | (8 if endpoint is not None else 0)
    marks |= (16 if spend is not None else 0) | (32 if weights is not None else 0) | (64 if tags is not None else 0)
    learned = bytes([marks]) + status.to_bytes(4, "little", signed=True)
    if latency is not None:
        learned += latency.to_bytes(8, "little", signed=True)
    if endpoint is not None:
        learned += bytes([len(endpoint)]) + endpoint
    if spend is not None:
        learned += spend.to_bytes(8, "little", signed=True)
    for pairs in (weights, tags):
        if pairs is not None:
            listed = b"".join(bytes([len(name)]) + name + len(value).to_bytes(2, "little") + value for name, value in pairs)
            learned += len(listed).to_bytes(2, "little") + listed
    return (bytes([kind]) + request_id.bytes + learned + at.to_bytes(8, "little", signed=True)
            + key_id.bytes + tenant_id.bytes + texts + b"\0\0")


def parcel(*records):
    return b"".join(number.to_bytes(8, "little") + len(record).to_bytes(2, "little") + record
                    for number, record in enumerate(records, 1))


def test_a_request_that_has_its_row_is_not_counted_again(servers):
    """For any incarnation that is claimed, and though its marks know nothing of it."""
    _, _, db = servers
    key_id = db.mint().key_id
    tenant_id = db.value("SELECT tenant_id FROM keysmith_private.key WHERE key_id = %s", key_id)
    made = [record(uuid.uuid4(), key_id, tenant_id) for _ in range(5)]
    statement = "SELECT last_sequence FROM keysmith.usage_collect('twice', %s, 10, true, 0, %s, 0, '', '')"
    # Only the new ones; then all, and one of them twice together.
    for life, records in [(11, made[:2]), (12, made[:3]), (12, made[:3]),
                          (13, [*made, made[4]])]:
        assert db.value(statement, life, parcel(*records)) == len(records)
    counted = ("SELECT (SELECT count(*) FROM keysmith_private.usage_event WHERE key_id = %s) AS rows,"
               " (SELECT sum(requests) FROM keysmith.usage_hourly WHERE key_id = %s) AS counted,"
               " (SELECT sum(stored) FROM keysmith_private.usage_incarnation WHERE node = 'twice') AS stored")
    assert tuple(db.rows(counted, key_id, key_id)[0]) == (5, 5, 5)
    db.rows("SELECT keysmith.maintain()")
    assert tuple(db.rows(counted, key_id, key_id)[0]) == (5, 5, 5)


COUNTED = 4
AMENDMENT = 2


def test_requests_of_a_keyspace_with_rows_are_not_counted_without_one(servers, holder):
    """Otherwise one could be counted again and again. The keyspace had none, maybe, when a standby decided."""
    _, _, db = servers
    made = [uuid.uuid4() for _ in range(3)]
    statement = "SELECT last_sequence FROM keysmith.usage_collect('counter', %s, 10, true, 0, %s, 0, '', '')"
    for life in (51, 52):
        db.value(statement, life, parcel(*[record(one, **holder, kind=COUNTED) for one in [*made, made[0]]]))
    stored = db.rows("SELECT request_id FROM keysmith_private.usage_event WHERE key_id = %s", holder["key_id"])
    assert sorted(one for one, in stored) == sorted(made)
    assert db.value("SELECT sum(requests) FROM keysmith.usage_hourly WHERE key_id = %s", holder["key_id"]) == 3


@pytest.mark.parametrize("kind", [1, COUNTED])
def test_outcomes_that_are_made_up_are_one(servers, kind):
    """Totals have a row for each outcome."""
    _, _, db = servers
    db.call("create_keyspace", "outcomes%d" % kind, usage_log="totals")
    db.tenant("acme", keyspace="outcomes%d" % kind)
    key_id = db.mint(keyspace="outcomes%d" % kind).key_id
    tenant_id = db.value("SELECT tenant_id FROM keysmith_private.key WHERE key_id = %s", key_id)
    holder = {"key_id": key_id, "tenant_id": tenant_id, "keyspace": b"outcomes%d" % kind, "kind": kind}
    outcomes = [b"ok", b"disabled", *[b"made_up_" + bytes([letter]) for letter in b"abcdefgh"]]
    db.rows("SELECT keysmith.usage_collect('inventor', %s, 10, true, 0, %s, 0, '', '')", 53 + kind,
            parcel(*[record(uuid.uuid4(), **holder, outcome=outcome) for outcome in outcomes]))
    counted = "SELECT outcome, requests FROM keysmith.usage_hourly WHERE key_id = %s ORDER BY outcome"
    assert [tuple(row) for row in db.rows(counted, key_id)] == [("disabled", 1), ("ok", 1), ("other", 8)]


def amendment(request_id, spend):
    at = int((time.time() - 946_684_800) * 1_000_000)  # not checked: a point in time
    return (bytes([AMENDMENT]) + request_id.bytes + bytes([16]) + spend.to_bytes(8, "little")
            + at.to_bytes(8, "little"))


def test_nobody_hands_over_what_was_not_spent(servers):
    """Standbys spend nothing. A server that was the primary may have waiting records of what was spent."""
    _, _, db = servers
    db.call("create_keyspace", "spending", usage_log="totals")
    db.tenant("payer", keyspace="spending", credits=Jsonb({"balance": 100}))
    key = db.mint("payer", keyspace="spending")
    spent = db.one("verify", key.api_key, keyspace="spending", spend=7).request_id
    db.call("flush_usage")
    tenant_id = db.value("SELECT tenant_id FROM keysmith_private.key WHERE key_id = %s", key.key_id)
    holder = {"key_id": key.key_id, "tenant_id": tenant_id, "keyspace": b"spending"}
    totals = ("SELECT coalesce(sum(requests), 0) AS requests, coalesce(sum(spend), 0) AS spend "
              "FROM keysmith.usage_hourly WHERE key_id = %s")
    before = db.row(totals, key.key_id)
    aside = count(db, "quarantined")
    statement = "SELECT keysmith.usage_collect('spender', %s, 10, true, 0, %s, 0, '', '')"
    unfit = [record(uuid.uuid4(), **holder, spend=7), record(uuid.uuid4(), **holder, spend=0, kind=COUNTED),
             amendment(spent, 7), amendment(uuid.uuid4(), 7)]
    db.rows(statement, 61, parcel(*unfit))
    assert count(db, "quarantined") == aside + len(unfit)
    assert db.row(totals, key.key_id) == before
    # A request that spent leaves a row, so it is counted once more at most.
    db.rows("DELETE FROM keysmith_private.usage_event WHERE request_id = %s", spent)
    before = db.row(totals, key.key_id)
    for life in (62, 63, 64):
        db.rows(statement, life, parcel(record(spent, **holder, spend=7, kind=COUNTED)))
    assert db.row(totals, key.key_id) == (before.requests + 1, before.spend + 7)
    # The server that counted it without a row settles it. No other key has spent it, and it was on no other day.
    aside = count(db, "quarantined")
    other = {**holder, "key_id": db.mint("payer", keyspace="spending").key_id}
    db.rows(statement, 65, parcel(amendment(spent, 7), record(spent, **other, spend=7), record(spent, **holder, age=DAY)))
    assert count(db, "quarantined") == aside + 3
    assert db.row(totals, key.key_id) == (before.requests + 1, before.spend + 7)


def test_a_settlement_is_not_undone(servers, holder):
    _, _, db = servers
    db.tenant("buyer", credits=Jsonb({"balance": 100}))
    key = db.mint("buyer")
    spent = db.one("verify", key.api_key, spend=7).request_id
    db.call("flush_usage")
    assert db.value("SELECT keysmith.settle(%s, 2)", spent)
    db.call("flush_usage")
    db.rows("SELECT keysmith.usage_collect('undoer', 66, 10, true, 0, %s, 0, '', '')", parcel(amendment(spent, 7)))
    assert db.value("SELECT spend FROM keysmith.usage WHERE request_id = %s", spent) == 2


def test_who_hands_over_makes_no_partitions(servers):
    """A transaction of that role may stay open, and nobody else could make partitions until it
    ends."""
    primary, _, db = servers
    key_id = db.mint().key_id
    tenant_id = db.value("SELECT tenant_id FROM keysmith_private.key WHERE key_id = %s", key_id)
    taking = session(primary)
    taking.rows("BEGIN")
    made = [record(uuid.uuid4(), key_id, tenant_id, age=days * 86400) for days in (20, 10, 0)]
    statement = "SELECT last_sequence FROM keysmith.usage_collect('open', 21, 10, true, 0, %s, 0, '', '')"
    assert taking.value(statement, parcel(*made)) == 3
    db.rows("SET lock_timeout = '60s'")
    assert db.value("SELECT keysmith_private.usage_prepare(d, d) FROM (SELECT current_date - 40) AS t (d)") == 1
    taking.rows("COMMIT")
    taking.session.close()
    assert db.value("SELECT count(*) FROM keysmith_private.usage_event WHERE key_id = %s", key_id) == 3


DAY = 86400
UNFIT = {
    "years before Christ": {"age": 8656 * 365 * DAY},
    "older than what is kept": {"age": 91 * DAY},
    "the day after tomorrow": {"age": -2 * DAY},
    "a far future": {"age": -200_000 * 365 * DAY},
    "no key": {"key_id": uuid.UUID(int=1)},
    "another tenant": {"tenant_id": uuid.UUID(int=1)},
    "another keyspace": {"keyspace": b"nowhere"},
    "another environment": {"environment": b"test"},
    "a status below all": {"status": 99},
    "a status beyond all": {"status": 2**31 - 1},
    "no reason": {"outcome": b""},
    "a reason that is none": {"outcome": b"OK; DROP"},
    "a latency before its time": {"latency": -1},
    "a latency of ages": {"latency": 2**62},
    "a long endpoint": {"endpoint": b"x" * 201},
    "a spend below nothing": {"spend": -1},
    "a spend beyond all": {"spend": 2**62},
}


GARBLED = {
    "a weight of five bytes": {"weights": [(b"tokens", b"12345")]},
    "ten units": {"weights": [(b"u%d" % n, b"1234") for n in range(10)]},
    "a unit of another name": {"weights": [(b"Tokens", b"1234")]},
    "a unit twice": {"weights": [(b"tokens", b"1234")] * 2},
    "nine tags": {"tags": [(b"t%d" % n, b"x") for n in range(9)]},
    "a tag without a text": {"tags": [(b"t", b"")]},
    "a tag of other bytes": {"tags": [(b"t", b"\xff\0")]},
    "too long tags": {"tags": [(b"t", b"x" * 1000)]},
}


@pytest.mark.parametrize("garbled", GARBLED.values(), ids=GARBLED)
def test_lists_that_no_server_makes_are_refused(servers, holder, garbled):
    _, _, db = servers
    statement = "SELECT last_sequence FROM keysmith.usage_collect('lists', 35, 10, true, 0, %s, 0, '', '')"
    with pytest.raises(psycopg.Error) as error:
        db.value(statement, parcel(record(uuid.uuid4(), **holder, **garbled)))
    assert error.value.sqlstate == "KS400"


@pytest.fixture
def holder(servers):
    _, _, db = servers
    key_id = db.mint().key_id
    yield {"key_id": key_id,
           "tenant_id": db.value("SELECT tenant_id FROM keysmith_private.key WHERE key_id = %s", key_id)}


@pytest.mark.parametrize("unfit", UNFIT.values(), ids=UNFIT)
def test_what_no_standby_can_have_recorded_is_set_aside(servers, holder, unfit):
    """A role that may call the function can invent records. The others of a batch are stored."""
    _, _, db = servers
    fit = [uuid.uuid4() for _ in range(2)]
    aside = uuid.uuid4()
    before = count(db, "quarantined")
    db.call("usage_prepare")
    partitions = "SELECT count(*) FROM keysmith_private.usage_partitions()"
    made = db.value(partitions)
    batch = parcel(record(fit[0], **holder), record(aside, **(holder | unfit)), record(fit[1], **holder))
    life = db.value("SELECT coalesce(max(incarnation), 0) + 1000 FROM keysmith_private.usage_incarnation "
                    "WHERE node = 'forger'") + 40
    statement = "SELECT last_sequence FROM keysmith.usage_collect('forger', %s, 10, true, 0, %s, 0, '', '')"
    for _ in range(2):
        assert db.value(statement, life, batch) == 3
    rows = db.rows("SELECT request_id FROM keysmith_private.usage_event WHERE request_id = ANY (%s)", [*fit, aside])
    assert sorted(request_id for request_id, in rows) == sorted(fit)
    assert count(db, "quarantined") == before + 1
    assert db.value("SELECT count(*) FROM keysmith_private.usage_set_aside WHERE request_id = %s", aside) == 1
    assert db.value(partitions) == made


def test_what_retention_drops_is_set_aside(servers, holder):
    """By the time that maintain() drops partitions by, so that none is made for a record that goes at once."""
    primary, _, db = servers
    kept, late = uuid.uuid4(), uuid.uuid4()
    primary.execute("ALTER SYSTEM SET keysmith.usage_retention = '2d'")
    try:
        primary.execute("SELECT pg_reload_conf()")
        wait_until(lambda: db.value("SELECT keysmith_private.usage_kept_from() > now() - interval '4 days'"))
        age = int(db.value("SELECT extract(epoch FROM now() - keysmith_private.usage_kept_from())"))
        db.rows("SELECT keysmith.usage_collect('late', 38, 10, true, 0, %s, 0, '', '')",
                parcel(record(kept, **holder, age=age - 25 * 3600), record(late, **holder, age=age + 3600)))
    finally:
        primary.execute("ALTER SYSTEM RESET keysmith.usage_retention")
        primary.execute("SELECT pg_reload_conf()")
        wait_until(lambda: db.value("SELECT keysmith_private.usage_kept_from() < now() - interval '80 days'"))
    stored = db.rows("SELECT request_id FROM keysmith_private.usage_event WHERE request_id IN (%s, %s)", kept, late)
    assert stored == [(kept,)]


def test_a_clock_that_is_ahead_costs_no_record(servers, holder):
    _, _, db = servers
    made = uuid.uuid4()
    db.rows("SELECT keysmith.usage_collect('ahead', 31, 10, true, 0, %s, 0, '', '')",
            parcel(record(made, **holder, age=-3600)))
    assert db.value("SELECT at <= clock_timestamp() FROM keysmith_private.usage_event WHERE request_id = %s", made)


def test_many_unfit_records_are_counted_and_a_few_noted(servers, holder):
    _, _, db = servers
    noted = "SELECT count(*) FROM keysmith_private.usage_set_aside"
    before, counted = db.value(noted), count(db, "quarantined")
    batch = parcel(*[record(uuid.uuid4(), **holder, status=7) for _ in range(2000)])
    db.rows("SELECT keysmith.usage_collect('flood', 32, 10, true, 0, %s, 0, '', '')", batch)
    assert db.value(noted) == before + 10 and count(db, "quarantined") == counted + 2000


def test_made_up_amendments_wait_for_nothing(servers):
    _, _, db = servers
    wait_until(lambda: count(db, "waiting") == 0)
    at = int((time.time() - 946_684_800) * 1_000_000)  # not checked: a point in time
    amendments = [b"\2" + uuid.uuid4().bytes + b"\1" + (200).to_bytes(4, "little") + at.to_bytes(8, "little")
                  for _ in range(50)]
    db.rows("SELECT keysmith.usage_collect('teller', 33, 10, true, 0, %s, 0, '', '')", parcel(*amendments))
    assert count(db, "waiting") == 0


def tally(*counts):
    return b"".join(bytes([len(keyspace)]) + keyspace + bytes([len(reason)]) + reason
                    + requests.to_bytes(8, "little") for keyspace, reason, requests in counts)


def test_made_up_counts_are_bounded(servers):
    _, _, db = servers
    statement = "SELECT unknown_seen FROM keysmith.usage_collect('counter', 34, 10, true, 0, '', %s, %s, %s)"
    sample = record(uuid.uuid4(), uuid.UUID(int=0), uuid.UUID(int=0), keyspace=b"nowhere", outcome=b"whatever")
    late = record(uuid.uuid4(), uuid.UUID(int=0), uuid.UUID(int=0), age=-3 * DAY)
    samples = "SELECT count(*) AS all, count(*) FILTER (WHERE at > now()) AS early FROM keysmith_private.usage_unknown_sample"
    before = db.row(samples)
    # No more than the growth of the mark, for existing keyspaces and reasons.
    assert db.value(statement, 10, tally((b"default", b"not_found", 2**50), (b"default", b"missing", 5)),
                    parcel(sample, late)) == 10
    assert db.value(statement, 15, tally((b"nowhere", b"missing", 3), (b"default", b"x" * 200, 3)), b"") == 15
    rows = db.rows("SELECT keyspace, reason, requests FROM keysmith_private.usage_unknown "
                   "WHERE incarnation = 34 ORDER BY 1, 2")
    assert [tuple(row) for row in rows] == [("", "missing", 3), ("default", "not_found", 10), ("default", "other", 2)]
    assert tuple(db.row(samples)) == (before[0] + 1, before[1])


@pytest.mark.parametrize("arguments, name", [
    ({"incarnation": 0}, "incarnation"), ({"incarnation": 2**62}, "incarnation"),
    ({"most_waiting": 2**40}, "most_waiting"), ({"dropped": 2**60}, "dropped"),
    ({"unknown_mark": 2**60}, "unknown_mark"),
    ({"unknown": tally(*[(b"default", b"missing", 1)] * 999)}, "unknown"),
    ({"records": bytes(61_000_000)}, "records"),
    ({"samples": bytes(20_000)}, "samples"), ({"standby": " numbers"}, "standby"), ({"standby": ""}, "standby"),
])
def test_numbers_that_no_standby_has_are_refused(servers, arguments, name):
    _, _, db = servers
    usual = {"standby": "numbers", "incarnation": 35, "most_waiting": 10, "started_cleanly": True, "dropped": 0,
             "records": b"", "unknown_mark": 0, "unknown": b"", "samples": b""}
    assert db.refused("KS400", "usage_collect", **(usual | arguments)).startswith(f"{name} must")
    assert not db.rows("SELECT FROM keysmith_private.usage_incarnation WHERE node = 'numbers'")


def test_no_more_than_a_thousand_lives_are_kept(servers):
    _, _, db = servers
    db.rows("INSERT INTO keysmith_private.usage_incarnation (incarnation, database, server, started_at, most_waiting, node) "
            "SELECT g, (SELECT oid FROM pg_database WHERE datname = current_database()), 0, "
            "       timestamptz '2001-01-01' + g * interval '1 s', 1, 'many' "
            "FROM generate_series(1000001, 1001500) AS g")
    known = "SELECT count(*) FROM keysmith_private.usage_incarnation WHERE primary_since IS NULL AND node "
    others = db.value(known + "<> 'many'")
    db.rows("SELECT keysmith.usage_collect('newcomer', 36, 10, true, 0, '', 0, '', '')")
    assert db.value(known + "<> ''") <= 1001
    assert db.value(known + "= 'newcomer'") == 1
    assert db.value("SELECT min(incarnation) FROM keysmith_private.usage_incarnation WHERE node = 'many'") > 1000500
    db.rows("DELETE FROM keysmith_private.usage_incarnation WHERE node = 'many'")
    assert others >= 1


def test_who_hands_over_holds_up_nobody_in_an_open_transaction(servers, there, holder):
    """Not the primary's own records, nor counts and samples of requests without a known key."""
    primary, _, db = servers
    hoarder = session(primary)
    hoarder.rows("BEGIN")
    hoarder.rows("SELECT keysmith.usage_collect('hoarder', 37, 10, true, 0, %s, 9, %s, %s)",
                 parcel(record(uuid.uuid4(), **holder), record(uuid.uuid4(), **holder, status=1)),
                 tally((b"default", b"malformed_key", 9)),
                 parcel(record(uuid.uuid4(), uuid.UUID(int=0), uuid.UUID(int=0), outcome=b"malformed_key")))
    failures = count(db, "failures")
    key = db.mint().api_key
    request_id = db.verify(key).request_id
    db.verify("garbage")
    db.call("flush_usage")
    assert str(request_id) in stored(db)
    assert count(db, "failures") == failures
    assert dict(db.call("maintain"))["totals"].endswith("folded")
    hoarder.rows("ROLLBACK")
    hoarder.session.close()
