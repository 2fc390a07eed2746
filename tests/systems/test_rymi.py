"""rymi: its page on profiles and secret API keys."""

import hashlib
import re

import psycopg
import pytest

from .products import bearer

OK = (200, "ok")
ME = "GET /v1/auth/me"
ENDPOINTS = [ME, "GET /v1/auth/api-keys", "POST /v1/auth/api-keys",
             "DELETE /v1/auth/api-keys/d1e2f3a4", "POST /v1/auth/regenerate-key"]
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"

PUBLISHABLE = "Publishable keys manage no secret keys."

@pytest.fixture
def rymi(product):
    return product("rymi")


def status(rymi, key):
    return rymi.ask(ME, bearer(key)).status


# Creating and listing

def test_creating_returns_these_fields(rymi):
    key = rymi.mint(label="Production")
    assert re.fullmatch(UUID, str(key.key_id))
    assert re.fullmatch(r"rymi_[0-9A-Za-z]{49}", key.api_key)
    assert (key.label, key.created_at is not None) == ("Production", True)


def test_the_prefix_is_shown_with_five_characters_more(rymi):
    key = rymi.mint()
    assert re.fullmatch(r"rymi_[0-9A-Za-z]{5}", key.key_prefix)
    assert key.api_key.startswith(key.key_prefix)


def test_the_profile_shows_no_part_of_the_secret(rymi):
    assert rymi.mint().key_snippet == rymi.keys()[0].key_snippet == "rymi_live_..."


def test_the_key_is_returned_only_at_its_creation(rymi):
    key = rymi.mint(label="Production")
    assert rymi.is_nowhere(key)
    digest = hashlib.sha256(key.api_key.encode()).digest()
    assert rymi.db.one("verify_digest", digest, keyspace="rymi").key_id == key.key_id


@pytest.mark.parametrize("label", [None, "x" * 100, "é" * 100, "🔑" * 100])
def test_labels_are_optional_and_have_up_to_100_characters(rymi, label):
    assert rymi.mint(label=label).label == label


@pytest.mark.parametrize("label", ["x" * 101, "🔑" * 101])
def test_longer_labels_are_refused(rymi, label):
    assert "label" in rymi.refused("KS400", "mint", "acme", label=label)


def test_keys_of_one_account_work_side_by_side(rymi):
    keys = [rymi.mint(label=label) for label in ("dev", "staging", "production")]
    assert {rymi.verify(key).tenant for key in keys} == {"acme"}
    assert {status(rymi, key) for key in keys} == {200}


# Revoking

def test_revoking_is_a_soft_delete_of_one_key(rymi):
    key, other = rymi.mint(label="contractor"), rymi.mint(label="ours")
    rymi.revoke(key)
    assert (status(rymi, key), status(rymi, other)) == (401, 200)
    gone, kept = rymi.keys(include_revoked=True)
    assert (gone.key_id, gone.revoked_at is not None) == (key.key_id, True)
    assert (kept.key_id, kept.revoked_at) == (other.key_id, None)


def test_the_event_ends_the_sessions_of_that_key_only(rymi, listen):
    keys = [rymi.mint(label=label) for label in ("one", "two", "three")]
    open_sessions = {str(key.key_id) for key in keys}
    received = listen(rymi)
    rymi.revoke(keys[1])
    events = received()
    assert [(event["event"], event["tenant"]) for event in events] == [("revoke", "acme")]
    ended = {event["key_id"] for event in events}
    assert open_sessions & ended == {str(keys[1].key_id)}


def test_a_revocation_that_is_undone_ends_no_session(rymi, listen, connect):
    key = rymi.mint()
    received = listen(rymi)
    session = connect(autocommit=False)
    session.execute("SELECT keysmith.revoke(%s)", [key.key_id])
    session.rollback()
    assert (received(), status(rymi, key)) == ([], 200)


def test_rotation_without_downtime(rymi):
    old = rymi.mint(label="Production")
    new = rymi.mint(label="Production 2026-Q2")
    assert (status(rymi, old), status(rymi, new)) == (200, 200)
    rymi.revoke(old)
    assert (status(rymi, old), status(rymi, new)) == (401, 200)


def test_the_last_use_tells_when_traffic_has_moved(rymi):
    old, new = rymi.mint(label="Production"), rymi.mint(label="Production 2026-Q2")
    assert status(rymi, old) == 200
    before = rymi.last_uses()
    assert before[old.key_id] is not None and before[new.key_id] is None
    assert status(rymi, new) == 200
    after = rymi.last_uses()
    assert after[new.key_id] > after[old.key_id] == before[old.key_id]
    rymi.revoke(old)
    assert (status(rymi, old), status(rymi, new)) == (401, 200)


def test_a_refused_request_is_no_use_of_a_key(rymi):
    public = rymi.mint(kind="publishable")
    assert rymi.ask("GET /v1/auth/api-keys", bearer(public)).status == 403
    assert rymi.last_uses() == {public.key_id: None}


# The legacy key

def test_regenerating_replaces_the_single_legacy_key_immediately(rymi):
    old = rymi.regenerate()
    new = rymi.regenerate()
    assert re.fullmatch(r"rymi_[0-9A-Za-z]{49}", new.api_key)
    assert (status(rymi, old), status(rymi, new)) == (401, 200)
    assert rymi.is_nowhere(new)


def test_regenerating_leaves_labelled_keys_alone(rymi):
    labelled = [rymi.mint(label=label) for label in ("Production", "Staging")]
    legacy = rymi.regenerate()
    assert {status(rymi, key) for key in [*labelled, legacy]} == {200}
    again = rymi.regenerate()
    assert {status(rymi, key) for key in [*labelled, again]} == {200}
    assert status(rymi, legacy) == 401


def test_regenerating_leaves_an_only_labelled_key_alone(rymi):
    labelled = rymi.mint(label="Production")
    rymi.regenerate()
    assert status(rymi, labelled) == 200


def test_regenerating_replaces_a_legacy_key_that_was_imported(rymi):
    digest = hashlib.sha256(b"rymi_from_before").digest()
    rymi.db.one("import_key", "acme", digest, keyspace="rymi")
    for label in ("Production", "Staging"):
        rymi.mint(label=label)
    rymi.regenerate()
    assert rymi.db.verify("rymi_from_before", keyspace="rymi").status == 401


def test_regenerating_ends_the_sessions_of_the_legacy_key_only(rymi, listen):
    rymi.mint(label="Production")
    rymi.mint(label="Staging")
    legacy = rymi.regenerate()
    received = listen(rymi)
    rymi.regenerate()
    ended = [event["key_id"] for event in received() if event["event"] == "revoke"]
    assert ended == [str(legacy.key_id)]


# Errors

@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_missing_or_invalid_key_is_401(rymi, endpoint):
    key = rymi.mint()
    assert rymi.answer(endpoint, key) == OK
    for headers in ({}, {"Authorization": key.api_key}, {"X-API-Key": key.api_key},
                    {"Authorization": "Bearer YOUR_API_KEY"}):
        assert rymi.ask(endpoint, headers).status == 401


def test_a_publishable_key_that_manages_secret_keys_is_403(rymi):
    public, secret = rymi.mint(kind="publishable"), rymi.mint()
    assert (rymi.verify(public, kind="secret").status, rymi.verify(secret, kind="secret").status) \
        == (403, 200)


@pytest.mark.parametrize("endpoint", ENDPOINTS[1:])
def test_a_publishable_key_is_403_by_its_header_too(rymi, endpoint):
    verdict = rymi.ask(endpoint, bearer(rymi.mint(kind="publishable")))
    assert (verdict.status, verdict.message) == (403, PUBLISHABLE)


def test_a_key_that_is_unknown_or_revoked_already_is_404(rymi):
    key = rymi.mint()
    rymi.revoke(key)
    for key_id in (key.key_id, "00000000-0000-0000-0000-000000000000"):
        rymi.db.refused("KS404", "revoke", key_id)
        assert rymi.refusal(rymi.mint(), "revoke", key_id).sqlstate == "KS404"


def test_an_error_of_the_server_is_500(rymi):
    """SQLSTATEs of errors that the request caused begin with KS4, and others don't."""
    key = rymi.mint()
    rymi.db.rows("SET default_transaction_read_only = on")
    for function, arguments in (("revoke", [key.key_id]), ("mint", ["acme"])):
        with pytest.raises(psycopg.Error) as error:
            rymi.db.call(function, *arguments)
        assert not error.value.sqlstate.startswith("KS4")
    assert status(rymi, key) == 200


# Keys that manage keys

def test_a_secret_key_manages_secret_keys(rymi):
    current = rymi.mint(label="Production 2026-Q1")
    with rymi.signed_in(current):
        new = rymi.mint(label="Production 2026-Q2")
        assert [key.label for key in rymi.keys()] == ["Production 2026-Q1", "Production 2026-Q2"]
    with rymi.signed_in(new):
        rymi.revoke(current)
        legacy = rymi.regenerate()
    assert (status(rymi, current), status(rymi, new), status(rymi, legacy)) == (401, 200, 200)


def test_a_publishable_key_that_manages_by_its_own_authority_is_403(rymi):
    public, secret = rymi.mint(kind="publishable"), rymi.mint()
    for function, arguments, named in [
            ("list_keys", ("acme",), {"keyspace": "rymi"}), ("mint", ("acme",), {"keyspace": "rymi"}),
            ("revoke", (secret.key_id,), {}), ("regenerate", ("acme",), {"keyspace": "rymi"})]:
        refused = rymi.refusal(public, function, *arguments, **named)
        assert (refused.sqlstate, refused.answer["status"]) == ("KS403", 403)
        assert str(refused) == PUBLISHABLE
    assert status(rymi, secret) == 200


def test_a_key_of_another_account_is_404(rymi):
    rymi.tenant("globex")
    theirs = rymi.mint("globex")
    assert rymi.refusal(rymi.mint(), "revoke", theirs.key_id).sqlstate == "KS404"
    assert rymi.refusal(rymi.mint(), "list_keys", "globex", "rymi").sqlstate == "KS404"
    assert status(rymi, theirs) == 200


def test_the_profile_is_of_the_account(rymi):
    rymi.give(metadata={"telephony_provider": "twilio"})
    for kind in ("secret", "publishable"):
        key = rymi.mint(kind=kind)
        with rymi.signed_in(key):
            profile = rymi.db.value("SELECT keysmith.whoami()")
        assert profile["key_snippet"] == {"secret": "rymi_live_...", "publishable": "rymi_pk_live_..."}[kind]
        assert profile["metadata"]["telephony_provider"] == "twilio"
        assert key.api_key[-40:] not in str(profile)
