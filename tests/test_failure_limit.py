"""The limit of failed attempts: exact for each address, and never in the way of a good key."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psycopg
import pytest
from psycopg.types.json import Jsonb

from cluster import running
from conftest import session, wait_until

SESSIONS = 16
ADDRESS = "192.0.2.1"
TOO_MANY = "too_many_failures"


def allow(db, limit=3, window="365 days", keyspace="default"):
    db.call("alter_keyspace", keyspace, Jsonb({"failure_limit": {"limit": limit, "window": window}}))


@pytest.fixture
def shop(db):
    db.tenant()
    allow(db)
    return db


def attempts(db, times, ip=ADDRESS, key="nonsense", **options):
    return [db.reason(key, ip=ip, **options) for _ in range(times)]


def spent(db, ip=ADDRESS):
    """An address that has no attempts left."""
    wait_until(lambda: db.reason("nonsense", ip=ip) == TOO_MANY)


def test_what_a_client_gets(shop):
    assert attempts(shop, 4) == ["malformed_key"] * 3 + [TOO_MANY]
    verdict = shop.verify("nonsense", ip=ADDRESS)
    assert (verdict.ok, verdict.status, verdict.code) == (False, 429, TOO_MANY)
    assert timedelta() < verdict.retry_after <= timedelta(days=122)
    assert (verdict.key_id, verdict.limit_name, verdict.limit_remaining) == (None, None, None)
    headers = shop.value("SELECT keysmith.response_headers(keysmith.verify('nonsense', ip => %s))", ADDRESS)
    assert int(headers["Retry-After"]) > 0 and "WWW-Authenticate" not in headers
    problem = shop.value("SELECT keysmith.problem(keysmith.verify('nonsense', ip => %s))", ADDRESS)
    assert (problem["status"], problem["code"]) == (429, TOO_MANY)


def test_attempts_come_back(shop):
    allow(shop, 2, "100 milliseconds")
    spent(shop)
    wait_until(lambda: shop.reason("nonsense", ip=ADDRESS) == "malformed_key")


def test_exactly_so_many_of_many_sessions(shop, connect, database):
    allow(shop, 100)
    sessions = [database(connect()) for _ in range(SESSIONS)]
    barrier = threading.Barrier(SESSIONS)

    def refused(db):
        barrier.wait()
        return attempts(db, 20).count("malformed_key")

    with ThreadPoolExecutor(SESSIONS) as pool:
        assert sum(pool.map(refused, sessions)) == 100


def test_a_good_key_always_passes(shop):
    key = shop.mint().api_key
    spent(shop)
    assert attempts(shop, 5, key=key) == ["ok"] * 5
    # What is refused for another reason than the key keeps its answer.
    assert shop.reason(key, ip=ADDRESS, scopes=None) == "scopes_null"
    # An accepted key gives no attempts back.
    assert shop.reason("nonsense", ip=ADDRESS) == TOO_MANY


def test_each_address_counts_for_itself(shop):
    spent(shop)
    assert shop.reason("nonsense", ip="192.0.2.2") == "malformed_key"
    # An IPv4 address in the form of IPv6 is that address.
    assert shop.reason("nonsense", ip="::ffff:192.0.2.1") == TOO_MANY
    # A mask does not make another address.
    assert shop.reason("nonsense", ip="192.0.2.1/24") == TOO_MANY
    spent(shop, "2001:db8::1")
    assert shop.reason("nonsense", ip="2001:db8::ffff:0:0:1") == TOO_MANY
    assert shop.reason("nonsense", ip="2001:db8:0:1::1") == "malformed_key"


def test_without_an_address_nothing_is_counted(shop):
    before = shop.one("limit_status").failing_addresses
    assert attempts(shop, 9, ip=None) == ["malformed_key"] * 9
    assert shop.one("limit_status").failing_addresses == before


def test_each_keyspace_counts_for_itself(shop):
    shop.call("create_keyspace", "other", prefixes=Jsonb({"secret": {"live": "o_"}}),
              failure_limit=Jsonb({"limit": 1, "window": "365 days"}))
    spent(shop)
    assert attempts(shop, 2, keyspace="other") == ["malformed_key", TOO_MANY]
    shop.call("alter_keyspace", "default", Jsonb({"failure_limit": None}))
    assert attempts(shop, 9) == ["malformed_key"] * 9


def test_what_is_an_attempt(shop):
    """What is presented in place of a valid key, but no key at all is no attempt."""
    shop.call("create_keyspace", "other", prefixes=Jsonb({"secret": {"live": "o_"}}))
    shop.tenant("acme", keyspace="other")
    shop.tenant("closed")
    revoked, disabled, removed, elsewhere = shop.mint(), shop.mint(), shop.mint(), shop.mint(keyspace="other")
    closed = shop.mint("closed")
    shop.call("revoke", revoked.key_id)
    shop.call("disable", disabled.key_id)
    shop.call("suspend_tenant", "closed")
    shop.rows("DELETE FROM keysmith_private.key WHERE key_id = %s", removed.key_id)

    def is_counted(n, reason, ask):
        allow(shop, 1)
        ip = f"198.51.100.{n}"
        return [ask(ip), ask(ip)] == [reason, TOO_MANY]

    def header(value):
        return lambda ip: shop.one("authenticate", Jsonb({"authorization": value} if value else {}), "GET", "/x", ip=ip).reason

    def verify(key, **options):
        return lambda ip: shop.reason(key, ip=ip, **options)

    counted = {
        "malformed_header": header("Basic xyz"), "malformed_key": header("Bearer nonsense"),
        "not_found": verify(removed.api_key),
        "wrong_keyspace": verify(elsewhere.api_key), "revoked": verify(revoked.api_key),
        "disabled": verify(disabled.api_key), "tenant_suspended": verify(closed.api_key),
        "wrong_environment": verify(shop.mint().api_key, environment="test"),
    }
    for n, (reason, ask) in enumerate(counted.items()):
        assert is_counted(n, reason, ask), reason
    for n, ask in enumerate([header(None), verify(None)], 100):
        assert [ask(f"198.51.100.{n}") for _ in range(5)] == ["missing"] * 5
    fenced = shop.mint(allowlist=["10.0.0.0/8"]).api_key
    assert attempts(shop, 5, ip="198.51.100.200", key=fenced) == ["ip_not_allowed"] * 5


def test_each_function_counts(shop):
    headers = Jsonb({"authorization": "Bearer nonsense"})
    ask = {
        "authenticate": lambda ip: shop.one("authenticate", headers, "GET", "/x", ip=ip).status,
        "authenticate_json": lambda ip: shop.value("SELECT keysmith.authenticate_json(%s, 'GET', '/x', ip => %s)", headers, ip)["status"],
        "serve": lambda ip: shop.one("serve", headers, "GET", "/x", ip=ip).status,
        "peer": lambda ip: shop.one("serve", headers, "GET", "/x", peer=ip).status,
        "verify_json": lambda ip: shop.value("SELECT keysmith.verify_json('nonsense', ip => %s)", ip)["status"],
        "verify_digest": lambda ip: shop.value("SELECT status FROM keysmith.verify_digest('\\x00', ip => %s)", ip),
    }
    for n, (name, one) in enumerate(ask.items()):
        assert [one(f"198.51.100.{n}") for _ in range(5)] == [401] * 3 + [429] * 2, name
    answer = shop.one("serve", headers, "GET", "/x", ip="198.51.100.0")
    assert int(answer.headers["Retry-After"]) > 0 and answer.body["code"] == TOO_MANY
    # Each key of a batch is an attempt.
    many = shop.rows("SELECT status FROM keysmith.verify_many(%s, ip => '198.51.100.99')", ["a", "b", "c", "d"])
    assert [status for status, in many] == [401] * 3 + [429]


def test_a_client_behind_a_proxy_counts_by_its_address(shop):
    shop.rows("SET keysmith.trusted_proxies = '10.0.0.0/8'")

    def ask(client):
        headers = Jsonb({"authorization": "Bearer nonsense", "x-forwarded-for": client})
        return shop.one("serve", headers, "GET", "/x", peer="10.0.0.1").status

    assert [ask("192.0.2.7") for _ in range(4)] == [401] * 3 + [429]
    assert ask("192.0.2.8") == 401


def test_an_attempt_counts_even_if_its_transaction_is_rolled_back(shop):
    for _ in range(3):
        shop.rows("BEGIN")
        assert shop.reason("nonsense", ip=ADDRESS) == "malformed_key"
        shop.rows("ROLLBACK")
    assert shop.reason("nonsense", ip=ADDRESS) == TOO_MANY


def test_explain_verify_shows_it_and_counts_nothing(shop):
    def last(key="nonsense", **options):
        step = shop.rows("SELECT rule, outcome, reason, saw FROM keysmith.explain_verify(%s, ip => %s)", key, options.get("ip", ADDRESS))[-1]
        return tuple(step)

    for _ in range(5):
        assert last() == ("failures", "pass", None, "192.0.2.1: 3 failed attempts left")
    spent(shop)
    assert last() == ("failures", "refuse", TOO_MANY, "192.0.2.1: 0 failed attempts left")
    assert last(ip=None) == ("failures", "pass", None, "no address")
    assert last(shop.mint().api_key) == ("failures", "not reached", None, None)
    shop.call("alter_keyspace", "default", Jsonb({"failure_limit": None}))
    assert last()[0] == "credits"


def test_it_is_recorded_and_worded(shop):
    shop.call("alter_keyspace", "default", Jsonb({"codes": {TOO_MANY: {"code": "slow_down", "status": 420}}}))
    revoked = shop.mint()
    shop.call("revoke", revoked.key_id)
    spent(shop)
    verdict = shop.verify(revoked.api_key, ip=ADDRESS)
    assert (verdict.status, verdict.code, verdict.reason) == (420, "slow_down", TOO_MANY)
    # The operator still sees which key it was.
    assert verdict.key_id == revoked.key_id
    shop.call("flush_usage")
    assert shop.rows("SELECT outcome FROM keysmith_private.usage_event WHERE key_id = %s", revoked.key_id) == [(TOO_MANY,)]
    assert shop.value("SELECT value > 0 FROM keysmith.metrics WHERE name = 'keysmith_decisions_total' AND labels ->> 'outcome' = %s", TOO_MANY)
    assert shop.value("SELECT value FROM keysmith.metrics WHERE name = 'keysmith_failing_addresses'") >= 1


def test_a_restart_forgets_and_a_standby_counts_by_itself():
    with running("primary", max_wal_senders=4) as primary:
        standby = primary.backup("standby", port=5433)
        try:
            standby.start()
            db = session(primary)
            db.rows("CREATE EXTENSION keysmith")
            db.tenant()
            allow(db)
            db.call("wait_for_replay")
            there = session(standby)
            for one in (there, db):
                assert attempts(one, 4) == ["malformed_key"] * 3 + [TOO_MANY]
            primary.restart()
            assert attempts(session(primary), 4) == ["malformed_key"] * 3 + [TOO_MANY]
        finally:
            standby.remove()


def test_a_full_region_answers_as_without_the_limit():
    with running("full", keysmith__max_failing_addresses="16", keysmith__max_buckets="16") as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        allow(db, 1)
        # One site of IPv6 takes a part of the room only.
        for n in range(64):
            assert db.reason("nonsense", ip=f"2001:db8:0:{n:x}::1") == "malformed_key"
        assert db.one("limit_status").failing_addresses == 4
        assert attempts(db, 2) == ["malformed_key", TOO_MANY]
        for n in range(64):
            assert db.reason("nonsense", ip=f"198.51.100.{n}") == "malformed_key"
        status = db.one("limit_status")
        assert (status.failing_addresses, status.max_failing_addresses) == (16, 16)
        assert status.uncounted_failures == 60 + 53 and status.last_uncounted_at is not None
        # Limits have room of their own, and what is counted stays so.
        assert (status.buckets, status.unavailable) == (0, 0)
        assert attempts(db, 3, ip="203.0.113.1") == ["malformed_key"] * 3
        assert db.reason("nonsense", ip=ADDRESS) == TOO_MANY
        assert db.value("SELECT raised FROM keysmith.alarms WHERE alarm = 'failures_uncounted'")
        assert any("failed attempts were not counted" in " ".join(row.finding.split()) for row in db.rows("SELECT * FROM keysmith.doctor()"))


def test_a_limit_that_cannot_be_read_is_told(shop):
    """It refuses nobody more than a missing one does, but an operator sees that nothing is counted."""
    before = shop.one("limit_status").uncounted_failures
    shop.rows("UPDATE keysmith_private.keyspace SET failure_limit = '3 per hour' WHERE keyspace = 'default'")
    assert attempts(shop, 5) == ["malformed_key"] * 5
    assert shop.one("limit_status").uncounted_failures == before + 5
    assert shop.value("SELECT raised FROM keysmith.alarms WHERE alarm = 'failures_uncounted'")
    assert "can't be read" in shop.rows("SELECT saw FROM keysmith.explain_verify('nonsense', ip => %s)", ADDRESS)[-1].saw


def test_without_preload_it_can_not_be_set():
    with running("unpreloaded", preload=False) as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.call("create_keyspace", "default")
        db.refused("KS503", "alter_keyspace", "default", Jsonb({"failure_limit": {"limit": 1, "window": "1 s"}}))
        db.call("alter_keyspace", "default", Jsonb({"failure_limit": None}))


def test_the_setting_is_the_servers(db):
    with pytest.raises(psycopg.Error, match="cannot be changed"):
        db.rows("SET keysmith.max_failing_addresses = 17")
