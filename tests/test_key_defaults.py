"""What a keyspace gives to new keys: limits and credits, if mint and import_key name none."""

import psycopg
import pytest
from psycopg.types.json import Jsonb

from test_limits import BAD_LIMITS

SLOW = [{"name": "slow", "limit": 3, "window": "1 hour"}]
SHOWN = [{"name": "slow", "limit": 3, "window": "1 hour", "burst": 3}]
FAST = [{"name": "fast", "limit": 9, "window": "1 minute"}]
DIGESTS = iter(range(1, 256))


def alter(db, **options):
    db.call("alter_keyspace", "default", Jsonb(options))


def listed(db, made):
    return db.row("SELECT limits, credits FROM keysmith.keys WHERE key_id = %s", made.key_id)


def imported(db, **options):
    return db.one("import_key", "acme", bytes([next(DIGESTS)]) * 32, **options)


MAKING = {"mint": lambda db, **options: db.mint(**options), "import_key": imported}


@pytest.fixture
def acme(db):
    db.tenant()
    return db


@pytest.mark.parametrize("make", MAKING.values(), ids=MAKING)
def test_a_new_key_gets_what_it_is_not_given(acme, make):
    before = make(acme)
    alter(acme, key_limits=SLOW, key_credits=100)
    assert listed(acme, make(acme)) == (SHOWN, 100)
    assert listed(acme, make(acme, limits=None, credits=None)) == (SHOWN, 100)
    named = listed(acme, make(acme, limits=Jsonb(FAST), credits=7))
    assert (named.limits[0]["name"], named.credits) == ("fast", 7)
    # An empty list asks for a key without limits, and refills are credits too.
    assert listed(acme, make(acme, limits=Jsonb([]))) == (None, 100)
    assert listed(acme, make(acme, credits=0)) == (SHOWN, 0)
    assert listed(acme, make(acme, refill=Jsonb({"amount": 5, "every": "day"}))) == (SHOWN, 5)
    # They are for new keys.
    assert listed(acme, before) == (None, None)
    alter(acme, key_limits=None, key_credits=None)
    assert listed(acme, make(acme)) == (None, None)


def test_they_count(acme):
    alter(acme, key_limits=SLOW, key_credits=5)
    one, other = acme.mint(), acme.mint()
    assert [acme.reason(one.api_key) for _ in range(4)] == ["ok"] * 3 + ["rate_limited"]
    assert acme.verify(other.api_key, spend=5).credits_remaining == 0
    assert acme.reason(other.api_key, spend=1) == "credits_exhausted"
    alter(acme, key_limits=[])
    assert listed(acme, acme.mint()) == (None, 5)


def test_a_new_keyspace_has_them(db):
    db.call("create_keyspace", "shop", prefixes=Jsonb({"secret": {"live": "shop_"}}), key_limits=Jsonb(SLOW), key_credits=3)
    db.tenant(keyspace="shop")
    assert listed(db, db.mint(keyspace="shop")) == (SHOWN, 3)
    db.tenant()
    assert listed(db, db.mint()) == (None, None)
    db.call("create_keyspace", "plain", key_limits=Jsonb([]))
    assert db.rows("SELECT key_limits, key_credits FROM keysmith_private.keyspace WHERE keyspace = 'plain'") == [(None, None)]


def test_a_successor_has_those_of_the_key_before_it(acme):
    old = acme.mint(credits=50)
    alter(acme, key_limits=SLOW, key_credits=100)
    assert listed(acme, acme.one("rotate", old.key_id)) == (None, 50)
    new = acme.mint()
    acme.verify(new.api_key, spend=40)
    assert listed(acme, acme.one("rotate", new.key_id)) == (SHOWN, 60)


def test_regenerate_gives_them_to_the_first_key(acme):
    alter(acme, key_limits=SLOW, key_credits=10)
    first = acme.one("regenerate", "acme")
    acme.verify(first.api_key, spend=4)
    assert listed(acme, acme.one("regenerate", "acme")) == (SHOWN, 6)


def test_a_key_shares_its_credits_and_makes_none(acme):
    alter(acme, key_limits=SLOW, key_credits=10)
    rich, poor = acme.mint(), acme.mint()
    acme.call("alter_key", poor.key_id, Jsonb({"credits": None, "limits": None}))
    with acme.session.transaction():
        assert acme.verify(rich.api_key, sign_in=True, weight=0).ok
        made = acme.mint()
    shown = listed(acme, made)
    assert shown.credits == 10
    # Its own limits, and those that it shares with the key that made it.
    assert [limit.get("shared_with") for limit in shown.limits] == [None, str(rich.key_id)]
    assert acme.verify(made.api_key, spend=9).ok
    assert acme.reason(rich.api_key, spend=2) == "credits_exhausted"
    with acme.session.transaction():
        assert acme.verify(poor.api_key, sign_in=True).ok
        made = acme.mint()
    assert listed(acme, made) == (SHOWN, None)
    assert acme.value("SELECT count(*) FROM keysmith_private.credit") == 1


def test_people_and_issuers_make_keys_with_them(acme, sees_only):
    alter(acme, key_limits=SLOW, key_credits=10)
    with acme.session.transaction():
        acme.call("act_as", "acme")
        made = acme.mint()
        with pytest.raises(psycopg.Error, match="administrators alone"), acme.session.transaction():
            acme.mint(credits=11)
    with sees_only("acme"):
        issued = acme.mint()
        assert "administrators alone" in acme.refused("KS403", "mint", "acme", credits=11)
        assert "administrators alone" in acme.refused("KS403", "mint", "acme", refill=Jsonb({"amount": 5, "every": "day"}))
    assert [listed(acme, key) for key in (made, issued)] == [(SHOWN, 10)] * 2


def test_a_plan_without_limits_gets_them_all_the_same(acme):
    alter(acme, key_limits=SLOW, plan_features={"limits": ["pro"]})
    assert listed(acme, acme.mint()).limits == SHOWN
    acme.refused("KS403", "mint", "acme", limits=Jsonb(FAST))


def test_a_repeated_call_says_the_same(acme):
    alter(acme, key_limits=SLOW, key_credits=10)
    made = acme.mint(idempotency_key="one")
    alter(acme, key_limits=FAST, key_credits=20)
    assert acme.mint(idempotency_key="one").key_id == made.key_id
    acme.refused("KS409", "mint", "acme", idempotency_key="one", limits=Jsonb([]))
    forever = acme.mint(idempotency_key="two", expires_at="infinity")
    assert acme.mint(idempotency_key="two", expires_at="infinity").key_id == forever.key_id
    acme.refused("KS409", "mint", "acme", idempotency_key="two")


def test_they_are_recorded(acme):
    alter(acme, key_limits=SLOW, key_credits=10)
    entry = acme.row("SELECT before, after FROM keysmith.audit WHERE action = 'alter_keyspace'")
    assert (entry.before["key_limits"], entry.before["key_credits"]) == (None, None)
    assert entry.after["key_credits"] == 10 and "slow" in entry.after["key_limits"]
    made = acme.mint()
    assert acme.value("SELECT after -> 'credits' FROM keysmith.audit WHERE key_id = %s", made.key_id) == 10


@pytest.mark.parametrize("bad", BAD_LIMITS)
def test_bad_limits(acme, bad):
    limits = bad[0] if isinstance(bad, tuple) else bad
    assert "changes.key_limits" in acme.refused("KS400", "alter_keyspace", "default", Jsonb({"key_limits": limits}))
    assert "key_limits" in acme.refused("KS400", "create_keyspace", "other", key_limits=Jsonb(limits))
    assert acme.rows("SELECT keyspace, key_limits FROM keysmith_private.keyspace") == [("default", None)]


@pytest.mark.parametrize("credits", [-1, -(2 ** 63), 2 ** 63, 1.5, "5", True, [5], {"balance": 5}])
def test_bad_credits(acme, credits):
    assert "changes.key_credits" in acme.refused("KS400", "alter_keyspace", "default", Jsonb({"key_credits": credits}))
    assert acme.value("SELECT key_credits FROM keysmith_private.keyspace") is None


def test_bad_credits_of_a_new_keyspace(db):
    assert "key_credits" in db.refused("KS400", "create_keyspace", "other", key_credits=-1)
    db.call("create_keyspace", "most", key_credits=2 ** 63 - 1, prefixes=Jsonb({"secret": {"live": "most_"}}))
    db.tenant(keyspace="most")
    assert listed(db, db.mint(keyspace="most")).credits == 2 ** 63 - 1
