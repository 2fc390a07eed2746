"""Expiry uses the clock, and a revocation does not: the clock of the revoking server may have
been ahead of that of the deciding one."""

import pytest

from cluster import running
from conftest import session, wait_until

AHEAD = "clock_timestamp() + '1 hour'"


def ends(db, key):
    """What each function reports about a key."""
    headers = '{"x-api-key": "%s"}' % key.api_key
    digest = db.value("SELECT sha256(%s::bytea)", key.api_key)
    return {
        db.reason(key.api_key),
        db.one("verify_digest", digest).reason,
        db.one("verify_many", [key.api_key]).reason,
        db.one("authenticate", headers, "GET", "/").reason,
        next(step.reason for step in db.call("explain_verify", key.api_key) if step.outcome == "refuse"),
    }


ENDED = [
    ("revoked", f"UPDATE keysmith_private.key SET revoked_at = {AHEAD}, revoked_reason = 'stolen'"),
    ("disabled", f"UPDATE keysmith_private.key SET disabled_at = {AHEAD}"),
    ("tenant_suspended", f"UPDATE keysmith_private.tenant SET suspended_at = {AHEAD}"),
]


@pytest.mark.parametrize("reason, statement", ENDED, ids=[reason for reason, _ in ENDED])
def test_what_ended_in_the_future_has_ended(db, connect, database, reason, statement):
    db.tenant()
    key = db.mint()
    other = database(connect())
    other.rows("BEGIN")
    other.verify(key.api_key, sign_in=True)
    db.rows(statement)
    assert ends(db, key) == {reason}
    with pytest.raises(Exception, match="revoked|disabled|suspended"):
        other.rows("SELECT keysmith.current_tenant()")
    if reason != "tenant_suspended":
        assert db.status_of(key.key_id) == reason
    if reason == "revoked":
        assert db.call("list_keys", "acme") == []
        db.refused("KS404", "revoke", key.key_id)


def test_on_a_standby():
    with running("primary", max_wal_senders=4) as primary:
        db = session(primary)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        key, rotated = db.mint(), db.mint()
        standby = primary.backup("standby", 5433)
        try:
            standby.start()
            wait_until(lambda: db.one("wait_for_replay")[0] == 1)
            there = session(standby)
            assert there.verify(key.api_key).ok
            db.rows(ENDED[0][1] + " WHERE key_id = %s", key.key_id)
            db.call("rotate", rotated.key_id)
            db.rows(f"UPDATE keysmith_private.key SET revoked_at = {AHEAD} WHERE key_id = %s", rotated.key_id)
            db.call("wait_for_replay")
            assert ends(there, key) == ends(there, rotated) == {"revoked"}
            assert [row.subject for row in there.findings() if "clock" in row.finding] == ["server"]
        finally:
            standby.remove()


def test_a_rotation_with_grace_ends_by_the_clock(db):
    """A grace period is an expiry, not a future revocation."""
    db.tenant()
    key = db.mint()
    db.call("rotate", key.key_id, "1 hour")
    assert db.verify(key.api_key).ok
    assert db.row("SELECT revoked_at, expires_at > now() FROM keysmith.keys WHERE key_id = %s",
                  key.key_id) == (None, True)
