"""Lifetimes and labels: the options of keyspaces and tenants that bound how long keys live and how they are called."""

import pytest
from psycopg.types.json import Jsonb

from conftest import Database

BAD_LIFETIMES = ["0", "0 seconds", "-1 day", "1 year", "1 month", "13 months", "1 month -30 days", "36501 days",
                 "0.5 seconds", "178000000 years", "infinity", "-infinity"]
# PostgreSQL does not read these as intervals, or not all of its versions do.
UNREAD = ["0", "178000000 years", "infinity", "-infinity"]


def alter(db, keyspace="default", **options):
    db.call("alter_keyspace", keyspace, Jsonb(options))


def lasts(db, key_id):
    """How long the key lives from its creation on, as the view shows it."""
    return db.value("SELECT (expires_at - created_at)::text FROM keysmith.keys WHERE key_id = %s", key_id)


def age(db, key_id, by):
    """Makes a key older."""
    db.rows("UPDATE keysmith_private.key SET created_at = created_at - %s::interval WHERE key_id = %s", by, key_id)


@pytest.fixture(autouse=True)
def in_hours(db):
    """Intervals of hours are shown in hours, and days with a change of the clocks are no exception."""
    db.rows("SET TimeZone = 'Europe/Berlin'; SET intervalstyle = postgres")


def test_a_new_key_gets_the_default_lifetime(db):
    db.tenant()
    db.call("create_keyspace", "short", default_lifetime="90 days")
    db.tenant(keyspace="short")
    earliest = db.value("SELECT clock_timestamp() + interval '2160 hours'")
    made = db.mint(keyspace="short")
    assert earliest <= made.expires_at <= db.value("SELECT clock_timestamp() + interval '2160 hours'")
    assert made.expires_at == db.verify(made.api_key, keyspace="short").expires_at
    imported = db.one("import_key", "acme", b"\1" * 32, keyspace="short")
    assert imported.expires_at is not None
    assert db.mint(keyspace="short", expires_at="2100-01-01").expires_at.year == 2100
    assert db.mint(keyspace="short", expires_at="infinity").expires_at is None
    assert db.one("regenerate", "acme", keyspace="short", label="only").expires_at is not None
    # A key that is altered has the expiry that it is given.
    db.call("alter_key", made.key_id, Jsonb({"expires_at": None}))
    assert db.verify(made.api_key, keyspace="short").expires_at is None
    alter(db, "short", default_lifetime=None)
    assert db.mint(keyspace="short").expires_at is None


def test_the_keyspaces_bound_holds_for_keys_made_before(db):
    db.tenant()
    old, young, ended = (db.mint() for _ in range(3))
    age(db, old.key_id, "40 days")
    db.call("alter_key", ended.key_id, Jsonb({"expires_at": "2100-01-01T00:00:00Z"}))
    alter(db, max_lifetime="30 days")
    assert db.reason(old.api_key) == "expired" and db.status_of(old.key_id) == "expired"
    for key in (young, ended):
        verdict = db.verify(key.api_key)
        assert verdict.ok
        assert verdict.expires_at == db.value(
            "SELECT created_at + interval '720 hours' FROM keysmith.keys WHERE key_id = %s", key.key_id)
        assert verdict.expires_at == db.value("SELECT expires_at FROM keysmith.keys WHERE key_id = %s", key.key_id)
    assert db.value("SELECT count(*) FROM keysmith.expiring_soon") == 2
    assert db.value("SELECT active_keys FROM keysmith.tenants") == 2
    alter(db, max_lifetime="60 days")
    assert db.verify(old.api_key).ok
    alter(db, max_lifetime=None)
    assert db.verify(young.api_key).expires_at is None
    assert db.verify(ended.api_key).expires_at.year == 2100


def test_the_earliest_bound_wins(db):
    db.tenant()
    for own, tenants, keyspaces, expected in [
        (None, None, "10 hours", "10:00:00"), (None, "5 hours", None, "05:00:00"), (None, "5 hours", "10 hours", "05:00:00"),
        # A tenant's bound can only be narrower.
        (None, "20 hours", "10 hours", "10:00:00"), ("1 hour", "5 hours", "10 hours", "01:00:00"),
        ("7 hours", "5 hours", None, "05:00:00"), ("70 hours", None, "10 hours", "10:00:00"), (None, None, None, None),
    ]:
        alter(db, max_lifetime=keyspaces)
        db.call("alter_tenant", "acme", Jsonb({"max_lifetime": tenants}))
        made = db.mint()
        if own:
            db.rows("UPDATE keysmith_private.key SET expires_at = created_at + %s::interval WHERE key_id = %s",
                    own, made.key_id)
        assert lasts(db, made.key_id) == expected, (own, tenants, keyspaces)
        shown = db.value("SELECT expires_at FROM keysmith.keys WHERE key_id = %s", made.key_id)
        assert db.verify(made.api_key).expires_at == shown
        assert db.call("verify_many", [made.api_key])[0].expires_at == shown
        if not own:
            assert made.expires_at == shown
        with db.session.transaction():
            db.verify(made.api_key, sign_in=True)
            told = db.value("SELECT (keysmith.whoami() ->> 'expires_at')::timestamptz")
            assert told == shown


def test_a_tenants_bound_is_its_own(db):
    db.tenant(max_lifetime="1 hour")
    db.tenant("globex")
    bound, free = db.mint(), db.mint("globex")
    assert lasts(db, bound.key_id) == "01:00:00" and lasts(db, free.key_id) is None
    age(db, bound.key_id, "1 hour")
    age(db, free.key_id, "1 hour")
    assert (db.reason(bound.api_key), db.reason(free.api_key)) == ("expired", "ok")
    assert db.rows("SELECT tenant, max_lifetime::text FROM keysmith.tenants ORDER BY tenant") \
        == [("acme", "01:00:00"), ("globex", None)]
    db.call("alter_tenant", "acme", Jsonb({"max_lifetime": None}))
    assert db.reason(bound.api_key) == "ok"


def test_the_explanation_says_which_bound_decided(db):
    db.tenant()
    key = db.mint(expires_at="2100-01-01")

    def saw():
        return db.value("SELECT saw FROM keysmith.explain_verify(%s) WHERE rule = 'expiry'", key.api_key)

    assert saw().startswith("expires at 2100") and "by" not in saw()
    alter(db, max_lifetime="36500 days")
    assert saw().endswith(", by its own expiry")
    alter(db, max_lifetime="2 days")
    assert saw().endswith(", by the max_lifetime of its keyspace")
    db.call("alter_tenant", "acme", Jsonb({"max_lifetime": "1 day"}))
    assert saw().endswith(", by the max_lifetime of its tenant")
    age(db, key.key_id, "2 days")
    assert db.value("SELECT reason FROM keysmith.explain_verify(%s) WHERE rule = 'expiry'", key.api_key) == "expired"


def test_days_have_24_hours(db):
    db.tenant()
    alter(db, max_lifetime="400 days")
    made = db.mint()
    # Two changes of the clocks lie in it.
    assert db.value("SELECT extract(epoch FROM expires_at - created_at) FROM keysmith.keys") == 400 * 86400
    assert made.expires_at == db.verify(made.api_key).expires_at


def test_a_rotated_key_lives_as_long_again(db):
    db.tenant()
    alter(db, max_lifetime="10 days")
    old = db.mint()
    age(db, old.key_id, "9 days")
    new = db.one("rotate", old.key_id)
    assert lasts(db, new.key_id) in ("10 days", "240:00:00")
    assert db.verify(new.api_key).expires_at == new.expires_at
    ended = db.mint()
    age(db, ended.key_id, "10 days")
    db.refused("KS409", "rotate", ended.key_id)


def test_keys_that_a_lifetime_ended_do_not_count(db):
    db.tenant()
    alter(db, max_active_keys=1, max_lifetime="10 days")
    old = db.mint()
    db.refused("KS409", "mint", "acme")
    age(db, old.key_id, "10 days")
    new = db.mint()
    # It can't be revived, so it makes no room.
    db.call("alter_key", old.key_id, Jsonb({"expires_at": "2100-01-01T00:00:00Z"}))
    assert (db.reason(old.api_key), db.reason(new.api_key)) == ("expired", "ok")


def test_a_key_gives_no_longer_life_than_its_own(db):
    db.tenant()
    alter(db, max_lifetime="10 days")
    giver = db.mint()
    age(db, giver.key_id, "9 days")
    with db.session.transaction(force_rollback=True):
        end = db.verify(giver.api_key, sign_in=True).expires_at
        assert db.mint().expires_at == end
        with pytest.raises(Exception, match="before the key that gives it expires"):
            db.mint(expires_at="2100-01-01")
    alter(db, default_lifetime="1 hour")
    with db.session.transaction(force_rollback=True):
        db.verify(giver.api_key, sign_in=True)
        assert db.mint().expires_at < end


def test_an_identity_ends_with_the_lifetime(db, connect):
    db.tenant()
    key = db.mint()
    with db.session.transaction():
        assert db.verify(key.api_key, sign_in=True).ok
        assert db.value("SELECT keysmith.current_tenant()") == "acme"
        other = Database(connect())
        alter(other, max_lifetime="1 day")
        assert db.value("SELECT keysmith.current_tenant()") == "acme"
        age(other, key.key_id, "1 day")
        with pytest.raises(Exception, match="identity|expired"):
            db.value("SELECT keysmith.current_tenant()")


@pytest.mark.parametrize("lifetime", BAD_LIFETIMES)
def test_bad_lifetimes(db, lifetime):
    db.tenant()
    for option in ("default_lifetime", "max_lifetime"):
        db.refused("KS400", "alter_keyspace", "default", Jsonb({option: lifetime}))
        if lifetime not in UNREAD:
            error = db.refused("KS400", "create_keyspace", "other", **{option: lifetime})
            assert "must be an interval from 1 second to 36500 days" in error and option in error
    db.refused("KS400", "alter_tenant", "acme", Jsonb({"max_lifetime": lifetime}))
    if lifetime not in UNREAD:
        db.refused("KS400", "create_tenant", "globex", max_lifetime=lifetime)
    assert db.rows("SELECT default_lifetime, max_lifetime FROM keysmith_private.keyspace") == [(None, None)]
    assert db.rows("SELECT name, max_lifetime FROM keysmith_private.tenant") == [("acme", None)]


def test_null_is_no_bound(db):
    db.call("create_keyspace", "other", default_lifetime=None, max_lifetime=None)
    db.tenant(keyspace="other", max_lifetime=None)
    assert db.mint(keyspace="other").expires_at is None
    alter(db, "other", default_lifetime="1 day", max_lifetime="2 days")
    db.call("alter_tenant", "acme", Jsonb({"max_lifetime": "3 days"}), keyspace="other")
    alter(db, "other", default_lifetime=None, max_lifetime=None)
    db.call("alter_tenant", "acme", Jsonb({"max_lifetime": None}), keyspace="other")
    assert db.mint(keyspace="other").expires_at is None


@pytest.mark.parametrize("value", [90, True, ["90 days"], {"days": 90}, "soon", ""])
def test_lifetimes_of_other_types(db, value):
    db.tenant()
    db.refused("KS400", "alter_keyspace", "default", Jsonb({"max_lifetime": value}))
    db.refused("KS400", "alter_tenant", "acme", Jsonb({"max_lifetime": value}))


def test_labels_may_be_required(db):
    db.tenant()
    before = db.mint()
    alter(db, require_label=True)
    assert "the keyspace requires labels" in db.refused("KS400", "mint", "acme")
    db.refused("KS400", "import_key", "acme", b"\1" * 32)
    named = db.mint(label="ci")
    db.refused("KS400", "alter_key", named.key_id, Jsonb({"label": None}))
    db.call("alter_key", named.key_id, Jsonb({"label": "deploy"}))
    db.call("alter_key", before.key_id, Jsonb({"metadata": {"a": 1}}))
    # Keys that were made before keep working, and are rotated.
    assert db.verify(db.one("rotate", before.key_id).api_key).ok
    db.tenant("globex")
    db.refused("KS400", "regenerate", "globex")
    assert db.one("regenerate", "globex", label="only").label == "only"
    assert db.one("regenerate", "globex").label == "only"


def test_labels_may_be_unique(db):
    db.tenant()
    db.tenant("globex")
    alter(db, unique_labels=True)
    first = db.mint(label="ci")
    message = db.refused("KS409", "mint", "acme", label="ci")
    assert message == 'the tenant has another key with the label "ci"'
    db.refused("KS409", "import_key", "acme", b"\1" * 32, label="ci")
    for made in (db.mint("globex", label="ci"), db.mint(label="ci", environment="test"), db.mint(label="CI"),
                 db.mint(), db.mint()):
        assert made.key_id != first.key_id
    other = db.mint(label="other")
    db.refused("KS409", "alter_key", other.key_id, Jsonb({"label": "ci"}))
    db.call("alter_key", first.key_id, Jsonb({"label": "ci", "metadata": {}}))
    db.call("disable", first.key_id)
    db.refused("KS409", "mint", "acme", label="ci")
    db.call("enable", first.key_id)
    second = db.one("rotate", first.key_id, grace="1 day")
    db.refused("KS409", "mint", "acme", label="ci")
    db.call("revoke", second.key_id)
    third = db.mint(label="ci", expires_at="2100-01-01")
    # An expired key leaves its label, and gets it back only if it is free.
    db.rows("UPDATE keysmith_private.key SET expires_at = now() - interval '1 hour' WHERE key_id = %s", third.key_id)
    fourth = db.mint(label="ci")
    db.refused("KS409", "alter_key", third.key_id, Jsonb({"expires_at": None}))
    db.call("revoke", fourth.key_id)
    db.call("alter_key", third.key_id, Jsonb({"expires_at": None}))
    db.refused("KS409", "mint", "acme", label="ci")


def test_of_two_at_once_one_gets_the_label(db, connect, dbname):
    db.tenant()
    alter(db, unique_labels=True)
    one, other = connect(), connect(autocommit=True)
    with one.transaction():
        one.execute("SELECT keysmith.mint('acme', label => 'ci')")
        other.execute("SET lock_timeout = '100ms'")
        with pytest.raises(Exception, match="lock timeout"):
            other.execute("SELECT keysmith.mint('acme', label => 'ci')")
    with pytest.raises(Exception, match="another key with the label"):
        other.execute("SELECT keysmith.mint('acme', label => 'ci')")
    assert db.value("SELECT count(*) FROM keysmith.keys") == 1


@pytest.mark.parametrize("option", ["require_label", "unique_labels"])
def test_bad_label_options(db, option):
    db.tenant()
    for value in ("yes", 1, [True]):
        db.refused("KS400", "alter_keyspace", "default", Jsonb({option: value}))
    db.call("create_keyspace", "other", **{option: True})
    alter(db, "other", **{option: None})
    assert db.rows(f"SELECT {option} FROM keysmith_private.keyspace WHERE keyspace = 'other'") == [(False,)]
