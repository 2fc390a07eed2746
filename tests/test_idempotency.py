"""mint and import_key, called again: refills, disabled keys, and idempotency keys."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psycopg
import pytest
from psycopg.types.json import Jsonb

from test_concurrency import ISOLATION, waits

DIGEST = hashlib.sha256(b"an old key").digest()
MAKERS = {"mint": {}, "import_key": {"digest": DIGEST}}


@pytest.fixture
def acme(db):
    db.tenant()
    return db


@pytest.mark.parametrize("maker", MAKERS)
def test_the_second_call_finds_the_key(acme, maker):
    acme.call("alter_keyspace", "default", Jsonb({"max_active_keys": 1}))
    given = dict(tenant="acme", label="CI", scopes=["a:b"], metadata=Jsonb({"a": [1, {"b": None}]}), limits=None,
                 idempotency_key="order-42", **MAKERS[maker])
    first, second = (acme.one(maker, **given) for _ in range(2))
    assert second == first._replace(api_key=None)
    if maker == "mint":
        assert acme.verify(first.api_key).key_id == first.key_id
    assert acme.value("SELECT count(*) FROM keysmith.keys") == 1
    assert acme.value("SELECT count(*) FROM keysmith.audit WHERE action IN ('mint', 'import')") == 1


def test_the_second_call_tells_the_same_end(acme):
    """The earliest bound, as the first call did."""
    acme.call("alter_tenant", "acme", '{"max_lifetime": "7 days"}')
    first, second = (acme.mint(idempotency_key="x", expires_at="infinity") for _ in range(2))
    assert second.expires_at == first.expires_at == first.created_at + timedelta(days=7)


OTHERS = {
    "label": "other", "environment": "test", "kind": "publishable", "scopes": ["a"], "role": "r", "owner": "ann",
    "allowlist": ["10.0.0.0/8"], "expires_at": "2100-01-01", "limits": Jsonb([{"name": "d", "limit": 5, "window": "1 day"}]),
    "credits": 5, "metadata": Jsonb({"a": 1}), "refill": Jsonb({"amount": 5, "every": "day"}), "disabled": True,
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_arguments_are_a_conflict(acme, other):
    acme.call("define_role", "default", "r", ["a"])
    acme.call("set_member", "acme", "ann", "r")
    acme.mint(idempotency_key="x")
    assert "idempotency_key" in acme.refused("KS409", "mint", "acme", idempotency_key="x", **{other: OTHERS[other]})
    assert acme.value("SELECT count(*) FROM keysmith.keys") == 1
    # Without an idempotency key, and with another one, it is another key.
    acme.mint(**{other: OTHERS[other]})
    acme.mint(idempotency_key="y", **{other: OTHERS[other]})
    assert acme.value("SELECT count(*) FROM keysmith.keys") == 3


def test_other_digests_and_functions_are_a_conflict(acme):
    given = {"idempotency_key": "x", "digest": DIGEST}
    acme.call("import_key", "acme", **given)
    for other in ({"digest": hashlib.sha256(b"other").digest()}, {"key_prefix": "a"}, {"key_snippet": "a"},
                  {"algorithm": "sha256-behind-bar"}):
        acme.refused("KS409", "import_key", "acme", **{**given, **other})
    acme.refused("KS409", "mint", "acme", idempotency_key="x")
    assert acme.value("SELECT count(*) FROM keysmith.keys") == 1


def test_it_is_unique_per_tenant(acme):
    acme.tenant("globex")
    acme.call("create_keyspace", "other")
    acme.tenant(keyspace="other")
    made = [acme.mint("acme", idempotency_key="x"), acme.mint("globex", idempotency_key="x"),
            acme.mint("acme", idempotency_key="x", keyspace="other")]
    assert len({key.key_id for key in made}) == 3 and all(key.api_key for key in made)


@pytest.mark.parametrize("isolation", ISOLATION)
@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_a_racing_call_waits(acme, connect, database, ending, isolation):
    first, second = (database(connect(autocommit=False)) for _ in range(2))
    second.rows(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
    second.rows("SELECT count(*) FROM keysmith.keys")
    made = first.mint(idempotency_key="x")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(second.mint, idempotency_key="x")
        waits(acme)
        getattr(first.session, ending)()
        found = waiting.result(60)
    second.session.commit()
    if ending == "commit":
        assert found == made._replace(api_key=None)
    else:
        assert acme.verify(found.api_key).ok
    assert acme.rows("SELECT key_id FROM keysmith.keys") == [(found.key_id,)]


def test_a_successor_does_not_have_it(acme):
    first = acme.mint(idempotency_key="x")
    successor = acme.one("rotate", first.key_id)
    assert acme.mint(idempotency_key="x").key_id == first.key_id != successor.key_id
    acme.call("revoke", successor.key_id)
    assert acme.mint(idempotency_key="x").key_id == first.key_id


def test_only_a_digest_is_stored(acme):
    acme.mint(idempotency_key="secret-order-42")
    assert "secret-order-42" not in str(acme.rows("SELECT k::text FROM keysmith_private.key k"))
    assert "secret-order-42" not in str(acme.rows("SELECT * FROM keysmith.audit"))


def test_a_key_of_another_environment_is_not_found_by_it(acme):
    acme.mint(idempotency_key="x")
    acting = acme.mint(environment="test")
    with acme.session.transaction():
        assert acme.verify(acting.api_key, sign_in=True).ok
        with pytest.raises(psycopg.Error) as error, acme.session.transaction():
            acme.mint(idempotency_key="x")
    assert error.value.sqlstate == "KS409"


@pytest.mark.parametrize("name, bad", [
    ("idempotency_key", ""), ("idempotency_key", "x" * 201), ("disabled", None),
    ("refill", Jsonb({})), ("refill", Jsonb({"amount": 5})), ("refill", Jsonb({"amount": 0, "every": "day"})),
    ("refill", Jsonb({"amount": -1, "every": "day"})), ("refill", Jsonb({"amount": 5, "every": "year"})),
    ("refill", Jsonb({"amount": 5, "every": "day", "x": 1})), ("refill", Jsonb([5])), ("refill", Jsonb("5"))])
@pytest.mark.parametrize("maker", MAKERS)
def test_bad_arguments(acme, maker, name, bad):
    assert name in acme.refused("KS400", maker, "acme", **MAKERS[maker], **{name: bad})
    assert acme.value("SELECT count(*) FROM keysmith.keys") == 0


@pytest.mark.parametrize("maker", MAKERS)
def test_a_disabled_key_waits_to_be_enabled(acme, maker):
    made = acme.one(maker, "acme", disabled=True, **MAKERS[maker])
    api_key = made.api_key or "an old key"
    assert acme.reason(api_key) == "disabled" and acme.status_of(made.key_id) == "disabled"
    acme.call("enable", made.key_id)
    assert acme.verify(api_key).ok


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("credits, balance", [(None, 5), (3, 3), (9, 9)])
def test_credits_are_refilled(acme, maker, credits, balance):
    made = acme.one(maker, "acme", credits=credits, refill=Jsonb({"amount": 5, "every": "day"}), **MAKERS[maker])
    api_key = made.api_key or "an old key"
    assert acme.verify(api_key, spend=1).credits_remaining == balance - 1
    acme.rows("UPDATE keysmith_private.credit SET refilled_at = refilled_at - interval '1 day'")
    assert acme.verify(api_key, spend=1).credits_remaining == max(balance - 1, 5) - 1


def test_only_administrators_give_refills(acme, sees_only):
    with sees_only("acme"):
        acme.refused("KS403", "mint", "acme", refill=Jsonb({"amount": 5, "every": "day"}))
