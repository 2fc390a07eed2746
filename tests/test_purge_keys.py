"""Purging keys that ended long ago: their rows go, and nothing that another key needs."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from psycopg.types.json import Jsonb

from conftest import wait_until


def ended(db, key, ago="100 days", how="revoked_at = now() - {}::interval, revoked_reason = 'x'"):
    db.rows(f"UPDATE keysmith_private.key SET {how.format('%s')} WHERE key_id = %s", ago, key.key_id)
    return key


def expired(db, key, ago="100 days"):
    return ended(db, key, ago, "expires_at = now() - {}::interval")


def left(db):
    return {key_id for key_id, in db.rows("SELECT key_id FROM keysmith_private.key")}


def purge(db, older_than="90 days"):
    return db.one("purge_keys", older_than)[0]


@pytest.fixture
def others(connect, database):
    session = database(connect(autocommit=False))
    yield session
    session.session.rollback()


def test_keys_that_ended_before_are_deleted(db):
    db.call("create_keyspace", "short")
    db.tenant()
    db.tenant("brief", max_lifetime="1 day")
    db.tenant(keyspace="short")
    mint = lambda *tenant, **options: db.mint(*tenant, **options)
    old = "created_at = created_at - {}::interval"
    gone = [ended(db, mint()), expired(db, mint()), ended(db, expired(db, mint(), "10 days")),
            expired(db, ended(db, mint(), "10 days")), ended(db, mint("brief"), "100 days", old),
            ended(db, mint(keyspace="short"), "100 days", old)]
    db.call("alter_keyspace", "short", Jsonb({"max_lifetime": "1 day"}))
    stays = [mint(), ended(db, mint(), "89 days"), expired(db, mint(), "89 days"), mint(expires_at="2999-01-01"),
             ended(db, mint("brief"), "90 days", old), ended(db, mint(disabled=True), "1000 days", old)]
    db.rows("UPDATE keysmith_private.key SET disabled_at = created_at WHERE disabled_at IS NOT NULL")
    reasons = [db.reason(key.api_key) for key in stays]
    assert [db.reason(key.api_key) for key in gone[:2]] == ["revoked", "expired"]
    assert purge(db) == 6
    assert left(db) == {key.key_id for key in stays}
    for key in gone:
        assert {db.reason(key.api_key, keyspace=keyspace) for keyspace in ("default", "short")} == {"not_found"}
        assert "revoked" in db.refused("KS404", "rotate", key.key_id)
        db.refused("KS404", "report_leak", key.api_key, "x")
    assert [db.reason(key.api_key) for key in stays] == reasons
    assert purge(db) == 0
    # An entry for each keyspace, and none without a key.
    assert db.rows("SELECT keyspace, after FROM keysmith.audit WHERE action = 'purge_keys' ORDER BY 1") \
        == [("default", {"keys": 5}), ("short", {"keys": 1})]
    assert db.value("SELECT count(*) FROM keysmith.audit WHERE action = 'mint' AND key_id = %s", gone[0].key_id) == 1
    assert all(row.ok for row in db.call("audit_verify"))


def test_a_key_is_not_purged_before_its_end_is_in_the_audit(db):
    """More than one call notes, in a chain that may be broken."""
    db.call("create_keyspace", "broken", prefixes=Jsonb({"secret": {"live": "b_"}}))
    for keyspace in ("default", "broken"):
        db.tenant(keyspace=keyspace)
    stays = db.mint(keyspace="broken")
    db.rows("SELECT count(*) FROM (SELECT keysmith.mint('acme') FROM generate_series(1, 250)) AS m")
    db.rows("UPDATE keysmith_private.key SET expires_at = created_at - interval '100 days'")
    db.rows("UPDATE keysmith_private.audit_entry SET generation = 9 WHERE keyspace = 'broken'")
    purged = []
    while left(db) != {stays.key_id}:
        purged.append(purge(db))
    # The worker may note some, too.
    assert sum(purged) == 250 and purged[0] >= 200
    assert purge(db) == 0
    ends = db.rows("SELECT key_id, count(*) FROM keysmith.audit WHERE action = 'key.expired' GROUP BY 1 HAVING count(*) = 1")
    assert len(ends) == 250
    db.rows("UPDATE keysmith_private.audit_entry SET generation = 0 WHERE keyspace = 'broken'")
    assert purge(db) == 1 and all(row.ok for row in db.call("audit_verify"))


def test_totals_stay_and_what_belongs_to_the_key_goes(db):
    db.tenant()
    key = db.mint(credits=5)
    assert db.verify(key.api_key, spend=1).ok
    db.call("flush_usage")
    db.rows("SELECT keysmith_private.usage_fold()")
    ended(db, key)
    assert purge(db) == 1
    assert db.rows("SELECT key_id FROM keysmith_private.credit UNION ALL SELECT key_id FROM keysmith_private.usage_last") == []
    assert db.rows("SELECT key_id, requests FROM keysmith.usage_daily") == [(key.key_id, 1)]
    assert db.rows("SELECT tenant, outcome, key_id FROM keysmith.usage") == [("acme", "ok", None)]


def test_the_first_key_of_a_line_stays_as_long_as_others_need_it(db):
    """Credits and limits of a line are counted under its first key."""
    db.tenant()
    limits = Jsonb([{"name": "d", "limit": 3, "window": "1 day"}])
    first = db.mint(credits=10, limits=limits)
    assert db.verify(first.api_key, spend=1).ok
    second = db.one("rotate", first.key_id, "0")
    third = db.one("rotate", second.key_id, "0")
    for key in (first, second):
        ended(db, key)
    # The second key is not the first of a line.
    assert purge(db) == 1 and left(db) == {first.key_id, third.key_id}
    assert db.verify(third.api_key, spend=1).credits_remaining == 8
    db.call("alter_key", third.key_id, Jsonb({"credits": 20}))
    assert [db.verify(third.api_key, spend=1).reason for _ in range(2)] == ["ok", "rate_limited"]
    ended(db, third, "89 days")
    assert purge(db) == 0
    ended(db, third)
    assert purge(db) == 2 and left(db) == set()
    assert db.rows("SELECT * FROM keysmith_private.credit") == []


def test_a_key_stays_as_long_as_keys_that_it_made_spend_its_credits(db, connect, database):
    db.tenant()
    maker = db.mint(credits=10, scopes=["*"])
    acting = database(connect(autocommit=False))
    assert acting.verify(maker.api_key, sign_in=True).ok
    made = acting.mint()
    acting.session.commit()
    ended(db, maker)
    assert purge(db) == 0
    assert db.verify(made.api_key, spend=1).credits_remaining == 9
    ended(db, made)
    assert purge(db) == 2


@pytest.mark.parametrize("bad", ["0", "-1 day", "1 month", "1 year", "1 month -30 days", "-1 day 25:00", "40000 days",
                                 None])
def test_other_lengths_are_refused(db, bad):
    db.tenant()
    key = expired(db, db.mint(), "0")
    if bad == "-1 day 25:00":
        assert purge(db, bad) == 0
    else:
        assert "older_than" in db.refused("KS400", "purge_keys", bad)
    assert left(db) == {key.key_id}


def test_only_administrators_purge(db, sees_only):
    db.tenant()
    ended(db, db.mint())
    with sees_only("acme"):
        db.refused("42501", "purge_keys", "1 day")
    with db.session.transaction():
        assert db.verify(db.mint().api_key, sign_in=True).ok
        db.refused("KS403", "purge_keys", "1 day")


def test_it_waits_for_no_key_and_no_key_for_it(db, others, connect, database):
    """A key that another transaction has locked is left for the next call."""
    db.tenant()
    busy, free = expired(db, db.mint()), expired(db, db.mint())
    others.call("alter_key", busy.key_id, Jsonb({"expires_at": "2999-01-01"}))
    # The worker, too, locks a key while it notes its end.
    wait_until(lambda: purge(db) == 1)
    others.session.commit()
    assert purge(db) == 0 and db.verify(busy.api_key).ok
    # While a purge is not committed, decisions go on, and see the keys.
    last = expired(db, db.mint())
    wait_until(lambda: purge(others) == 1)
    assert db.reason(last.api_key) == "expired"
    assert db.verify(busy.api_key).ok and db.verify(db.mint().api_key).ok
    assert db.verify(db.one("rotate", busy.key_id).api_key).ok
    others.session.commit()
    assert db.reason(last.api_key) == "not_found" and db.reason(free.api_key) == "not_found"


def test_a_key_that_is_changed_meanwhile_is_looked_at_again(db, others):
    """At each isolation level: the row that was committed last decides."""
    db.tenant()
    key = expired(db, db.mint())
    others.rows("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    others.rows("SELECT 1 FROM keysmith.keys")
    db.call("alter_key", key.key_id, Jsonb({"expires_at": "2999-01-01"}))
    gone = expired(db, db.mint())
    assert purge(others) == 1
    others.session.commit()
    assert left(db) == {key.key_id} and gone.key_id not in left(db)


def test_purges_at_the_same_time_share_the_work(db, others, connect, database):
    db.tenant()
    for _ in range(20):
        expired(db, db.mint())
    assert purge(others) == 20
    waiting = database(connect())
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(purge, waiting)
        wait_until(lambda: db.value("SELECT cardinality(pg_blocking_pids(%s)) > 0", waiting.session.info.backend_pid))
        others.session.commit()
        assert done.result() == 0
