"""Deciding: each rule, each isolation level, and what a decision must not do."""

import hashlib
import os
import signal

import psycopg
import pytest

from cluster import running
from majors import FORCE_PARALLEL

ISOLATION = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]

ANSWERS = {
    "ok": (200, "ok"), "missing": (401, "missing_authorization"),
    "malformed_key": (401, "invalid_api_key"), "not_found": (401, "invalid_api_key"),
    "wrong_keyspace": (401, "invalid_api_key"), "wrong_environment": (401, "invalid_api_key"),
    "revoked": (401, "invalid_api_key"), "expired": (401, "invalid_api_key"),
    "disabled": (401, "invalid_api_key"), "tenant_suspended": (401, "invalid_api_key"),
    "owner_gone": (401, "invalid_api_key"), "ip_not_allowed": (403, "ip_not_allowed"),
    "ip_unknown": (403, "ip_not_allowed"), "kind_not_allowed": (403, "insufficient_kind"),
    "insufficient_scope": (403, "insufficient_scope"),
}


def assert_answer(verdict, reason):
    assert verdict.reason == reason
    assert (verdict.status, verdict.code) == ANSWERS[reason]
    assert verdict.ok == (reason == "ok")
    assert verdict.message and verdict.request_id


def test_a_good_key(db):
    tenant_id = db.tenant()
    key = db.row("""SELECT * FROM keysmith.mint('acme', 'P', scopes => '{a,b}',
                                                metadata => '{"x": [1, null]}')""")
    verdict = db.verify(key.api_key, scopes=["a"])
    assert_answer(verdict, "ok")
    assert (verdict.key_id, verdict.tenant, verdict.tenant_id) == (key.key_id, "acme", tenant_id)
    assert (verdict.keyspace, verdict.environment, verdict.kind) == ("default", "live", "secret")
    assert (verdict.scopes, verdict.metadata) == (["a", "b"], {"x": [1, None]})
    assert verdict.request_id != db.verify(key.api_key).request_id


def test_every_refusal(db):
    db.call("create_keyspace", "other")
    db.call("define_role", "default", "r", ["*"])
    db.tenant()
    db.call("set_member", "acme", "ann", "r")
    key = db.mint(scopes=["a"]).api_key
    public = db.mint(kind="publishable").api_key
    listed = db.row("SELECT * FROM keysmith.mint('acme', allowlist => '{10.0.0.0/8}')").api_key
    owned = db.mint(owner="ann").api_key
    assert_answer(db.verify(None), "missing")
    assert_answer(db.verify("ks_live_typo"), "malformed_key")
    assert_answer(db.verify(key, keyspace="other"), "wrong_keyspace")
    assert_answer(db.verify(key, environment="test"), "wrong_environment")
    assert_answer(db.verify(key, scopes=["a", "b"]), "insufficient_scope")
    assert_answer(db.verify(public, kind="secret"), "kind_not_allowed")
    assert_answer(db.verify(key, kind="nonsense"), "kind_not_allowed")
    assert_answer(db.verify(listed), "ip_unknown")
    assert_answer(db.verify(listed, ip="11.0.0.1"), "ip_not_allowed")
    assert_answer(db.verify(listed, ip="10.0.0.1", kind="secret", environment="live"), "ok")
    db.call("remove_member", "acme", "ann")
    assert_answer(db.verify(owned), "owner_gone")
    db.rows("DELETE FROM keysmith_private.key")
    assert_answer(db.verify(key), "not_found")


def test_what_is_refused_without_a_known_key_tells_of_none(db):
    db.tenant()
    db.call("create_keyspace", "other")
    key = db.mint().api_key
    for verdict in (db.verify(None), db.verify("x"), db.verify(key, keyspace="other")):
        assert (verdict.key_id, verdict.tenant, verdict.scopes, verdict.metadata) == (None,) * 4


def test_the_first_rule_that_refuses_is_told(db):
    """Each step removes the reason that the step before it saw."""
    db.tenant()
    key = db.row("""SELECT * FROM keysmith.mint('acme', kind => 'publishable', scopes => '{a}',
                                                allowlist => '{10.0.0.0/8}')""")
    db.call("disable", key.key_id)
    db.call("suspend_tenant", "acme")
    db.rows("UPDATE keysmith_private.key SET expires_at = now() - interval '1 s', revoked_at = now(), "
            "revoked_reason = 'x'")
    asked = {"environment": "test", "kind": "secret", "scopes": ["b"], "ip": "11.0.0.1"}
    for reason, mend in [
        ("wrong_environment", lambda: asked.pop("environment")),
        ("revoked", lambda: db.rows("UPDATE keysmith_private.key SET revoked_at = NULL, "
                                    "revoked_reason = NULL")),
        ("expired", lambda: db.rows("UPDATE keysmith_private.key SET expires_at = NULL")),
        ("disabled", lambda: db.call("enable", key.key_id)),
        ("tenant_suspended", lambda: db.call("resume_tenant", "acme")),
        ("ip_not_allowed", lambda: asked.pop("ip")),
        ("ip_unknown", lambda: asked.update(ip="10.0.0.1")),
        ("kind_not_allowed", lambda: asked.pop("kind")),
        ("insufficient_scope", lambda: asked.pop("scopes")),
    ]:
        assert_answer(db.verify(key.api_key, **asked), reason)
        mend()
    assert_answer(db.verify(key.api_key, **asked), "ok")


# Revocation

@pytest.mark.parametrize("isolation", ISOLATION)
@pytest.mark.parametrize("act", [
    "SELECT keysmith.revoke(%(key_id)s)", "SELECT keysmith.disable(%(key_id)s)",
    "SELECT keysmith.suspend_tenant('acme')", "SELECT keysmith.remove_member('acme', 'ann')",
    "SELECT keysmith.set_member('acme', 'ann', 'nothing')",
    "SELECT keysmith.define_role('default', 'all', '{}')",
    "SELECT keysmith.alter_key(%(key_id)s, '{\"scopes\": [\"b\"]}')",
    "SELECT keysmith.alter_key(%(key_id)s, '{\"allowlist\": [\"192.0.2.0/24\"]}')",
    "SELECT keysmith.rotate(%(key_id)s)", "SELECT keysmith.regenerate('acme')",
    "SELECT keysmith.report_leak(%(api_key)s, 'x')",
    "DELETE FROM keysmith_private.member",
    "UPDATE keysmith_private.role SET scopes = '{}' WHERE role = 'all'",
    "TRUNCATE keysmith_private.role CASCADE",
])
def test_a_transaction_that_began_before_refuses_after(db, connect, database, isolation, act):
    db.call("define_role", "default", "all", ["*"])
    db.call("define_role", "default", "nothing", [])
    db.tenant()
    db.call("set_member", "acme", "ann", "all")
    key = db.mint(owner="ann", scopes=["a"])
    old = database(connect(autocommit=False))
    old.rows(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
    assert old.verify(key.api_key, scopes=["a"]).ok
    db.session.execute(act, {"key_id": key.key_id, "api_key": key.api_key})
    assert not old.verify(key.api_key, scopes=["a"]).ok
    assert not old.call("verify_many", [key.api_key], scopes=["a"])[0].ok
    digest = hashlib.sha256(key.api_key.encode()).digest()
    assert not old.one("verify_digest", digest, scopes=["a"]).ok


@pytest.mark.parametrize("isolation", ISOLATION)
def test_a_cursor_that_was_opened_before_refuses_after(db, connect, isolation):
    db.tenant()
    key = db.mint()
    session = connect(autocommit=False)
    session.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
    session.execute(
        "DECLARE c CURSOR FOR SELECT (SELECT ok FROM keysmith.verify(%s)) FROM generate_series(1, 9)"
        " WHERE random() >= 0", (key.api_key,))
    cursor = session.execute(
        "SELECT (keysmith.verify(%s)).ok FROM generate_series(1, 3)", (key.api_key,))
    assert [row.ok for row in cursor] == [True] * 3
    db.call("revoke", key.key_id)
    assert session.execute("FETCH c").fetchone() == (False,)


def test_ones_own_uncommitted_changes_count(db, connect, database):
    db.tenant()
    key = db.mint()
    mine = database(connect(autocommit=False))
    mine.call("revoke", key.key_id)
    assert mine.reason(key.api_key) == "revoked"
    assert db.verify(key.api_key).ok
    mine.session.rollback()
    assert mine.verify(key.api_key).ok


def test_a_rolled_back_policy_is_not_in_force(db, connect, database):
    db.call("define_role", "default", "reader", ["read"])
    db.tenant()
    key = db.mint(role="reader")
    mine = database(connect(autocommit=False))
    mine.rows("SAVEPOINT s")
    mine.call("define_role", "default", "reader", ["write"])
    assert mine.verify(key.api_key, scopes=["write"]).ok
    assert not db.verify(key.api_key, scopes=["write"]).ok
    mine.rows("ROLLBACK TO s")
    assert not mine.verify(key.api_key, scopes=["write"]).ok
    mine.session.rollback()
    assert not mine.verify(key.api_key, scopes=["write"]).ok


# Decisions write nothing

def test_deciding_writes_nothing(db, connect, database):
    db.tenant()
    keys = [db.mint().api_key for _ in range(3)]
    session = database(connect(autocommit=False))
    session.rows("SET TRANSACTION READ ONLY")

    def written(query):
        (plan,) = session.value(f"EXPLAIN (ANALYZE, WAL, FORMAT JSON) {query}", *keys)
        return plan["Plan"]["WAL Records"]

    times = "FROM generate_series(1, 100) g"
    assert written(f"SELECT keysmith.verify(CASE mod(g, 2) WHEN 0 THEN %s ELSE 'nonsense' || %s || %s END) {times}") == 0
    assert written(f"SELECT keysmith.verify_many(ARRAY[%s, %s, %s]) {times}") == 0
    # The control: a statement that writes is noticed.
    session.session.rollback()
    assert written("SELECT keysmith.mint('acme', label => left(%s || %s || %s, 9))") > 0
    session.session.rollback()

    session.rows("SET TRANSACTION READ ONLY")
    assert session.verify(keys[0]).ok and session.reason("nonsense") == "malformed_key"
    assert [verdict.ok for verdict in session.call("verify_many", keys)] == [True] * 3
    assert session.value("SELECT pg_current_xact_id_if_assigned()") is None
    assert session.value("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() "
                         "AND relation::regclass::text LIKE 'keysmith%%'") == 0


def test_deciding_in_parallel_mode(db):
    db.tenant()
    key = db.mint().api_key
    db.rows(f"SET {FORCE_PARALLEL} = on")
    assert db.verify(key).ok
    db.rows("CREATE TABLE big AS SELECT g FROM generate_series(1, 20000) g")
    db.rows("SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; "
            "SET min_parallel_table_scan_size = 0")
    assert db.value("SELECT count(*) FROM big WHERE (keysmith.verify(%s)).ok", key) == 20000


def test_memory_stays_flat_in_one_transaction(db):
    db.tenant()
    key = db.mint(scopes=["a"]).api_key
    used = "SELECT sum(used_bytes)::bigint FROM pg_backend_memory_contexts"
    loop = "SELECT count(*) FROM generate_series(1, %s) WHERE (keysmith.verify(%s)).ok"
    assert db.verify(key).ok
    db.call("flush_usage")
    with db.session.transaction():
        # By then the code that writes records has run too, for those that were too many to keep.
        share, worker = db.row("SELECT share, worker_pid FROM keysmith.usage_status()")
        os.kill(worker, signal.SIGSTOP)
        try:
            assert db.value(loop, share + 10_000, key) == share + 10_000
        finally:
            os.kill(worker, signal.SIGCONT)
        before = db.value(used)
        assert db.value(loop, 100_000, key) == 100_000
        assert db.value(used) - before < 100_000


def test_no_pins_locks_or_snapshots_are_left_behind(db):
    """PostgreSQL warns of each at the end of a transaction."""
    db.tenant()
    key = db.mint().api_key
    notices = []
    db.session.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    for _ in range(50):
        db.verify(key)
        db.call("verify_many", [key, None, "x"])
        with pytest.raises(psycopg.errors.DivisionByZero):
            db.rows("SELECT 1 / (SELECT 0 FROM keysmith.verify(%s))", key)
    assert notices == []


def test_a_typo_is_refused_without_a_look_up(db):
    db.tenant()
    key = db.mint().api_key
    typos = [key[:-1], key + "0", key[:20] + key[21] + key[20] + key[22:],
             key[:30] + ("a" if key[30] != "a" else "b") + key[31:], key.replace("_live_", "_test_")]
    typos = [typo for typo in typos if typo != key]
    unknown = db.mint().api_key
    with db.session.transaction():
        db.rows("DELETE FROM keysmith_private.key WHERE key_id = (SELECT key_id FROM keysmith.verify(%s))",
                unknown)
        scans = "SELECT pg_stat_get_xact_numscans('keysmith_private.key_digest_keyspace_key'::regclass)"
        before = db.value(scans)
        assert {db.reason(typo) for typo in typos} == {"malformed_key"}
        assert db.value(scans) == before
        assert db.reason(unknown) == "not_found"
        assert db.value(scans) == before + 1


# verify_many and verify_digest

def test_verify_many_answers_in_order(db):
    db.tenant()
    good = [db.mint().api_key for _ in range(5)]
    asked = [good[0], None, "x", good[1], "", good[2]]
    reasons = [verdict.reason for verdict in db.call("verify_many", asked)]
    assert reasons == ["ok", "missing", "malformed_key", "ok", "malformed_key", "ok"]
    assert db.call("verify_many", []) == []
    assert db.call("verify_many", None) == []
    assert len({v.request_id for v in db.call("verify_many", good * 200)}) == 1000


def test_verify_digest_takes_the_plain_digest_and_not_what_is_stored(db):
    db.tenant()
    key = db.mint()
    digest = hashlib.sha256(key.api_key.encode()).digest()
    assert db.one("verify_digest", digest).key_id == key.key_id
    stored = db.value("SELECT digest FROM keysmith_private.key")
    assert stored == hashlib.sha256(b"keysmith.key.v1\0" + digest).digest()
    assert db.one("verify_digest", stored).reason == "not_found"
    assert db.reason(stored.hex()) == "malformed_key"
    for garbage in (b"", b"x", digest + b"x", digest[1:], b"x" * 1_000_000):
        assert db.one("verify_digest", garbage).reason == "malformed_key"
    assert db.one("verify_digest", None).reason == "missing"


def test_large_values_are_fetched(db):
    """Scopes, networks and metadata too large for the row itself."""
    db.tenant()
    scopes = [f"scope:{hashlib.sha256(str(n).encode()).hexdigest()}" for n in range(1000)]
    networks = [f"10.{n // 256}.{n % 256}.0/24" for n in range(999)] + ["2001:db8::/32"]
    noise = "".join(hashlib.sha256(str(n).encode()).hexdigest() for n in range(900))
    key = db.row("SELECT * FROM keysmith.mint('acme', scopes => %s, allowlist => %s::cidr[], "
                 "metadata => jsonb_build_object('noise', %s::text))", scopes, networks, noise)
    verdict = db.verify(key.api_key, scopes=[scopes[0], scopes[999]], ip="10.3.230.7")
    assert verdict.ok
    assert verdict.scopes == sorted(scopes) and verdict.metadata == {"noise": noise}
    assert db.verify(key.api_key, ip="2001:db8::7").ok
    assert db.reason(key.api_key, ip="10.3.231.7") == "ip_not_allowed"
    (many,) = db.call("verify_many", [key.api_key], ip="10.3.230.7")
    assert many.metadata == {"noise": noise}


def test_without_preload(db):
    with running("bare", preload=False) as cluster:
        assert cluster.psql("""
            CREATE EXTENSION keysmith;
            SELECT keysmith.create_tenant('acme') IS NOT NULL;
            SELECT ok FROM keysmith.mint('acme') m, keysmith.verify(m.api_key);
        """).count(" t\n") == 2
