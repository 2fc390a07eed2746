"""Answers for keys that were good once, in words of their own."""

import json

import pytest

from serving import ENDPOINTS, serving
from test_pre_request import postgrest  # noqa: F401, a fixture

ENDS = {
    "expired": "UPDATE keysmith_private.key SET expires_at = clock_timestamp() WHERE key_id = %s",
    "disabled": "SELECT keysmith.disable(%s)",
    "idle": "UPDATE keysmith_private.key SET disabled_at = now(), disabled_reason = 'idle' WHERE key_id = %s",
    "revoked": "SELECT keysmith.revoke(%s)",
}
USUAL = (401, "invalid_api_key", "The API key is not valid.")
MISTYPED = "ks_live_0000000000000000000000000000000000000000000000000"


def told(answer):
    return answer.status, answer.code, answer.message


@pytest.fixture
def keys(db):
    """A key for each end, already ended."""
    db.tenant()
    keys = {}
    for reason, statement in ENDS.items():
        keys[reason] = db.mint()
        db.rows(statement, keys[reason].key_id)
    return keys


def codes(db, given):
    db.call("alter_keyspace", "default", json.dumps({"codes": given}))


@pytest.mark.parametrize("entry", ["", "null", "{}"])
def test_without_an_entry_nothing_is_told(db, keys, entry):
    if entry:
        db.call("alter_keyspace", "default", '{"codes": {%s}}' % ", ".join(f'"{reason}": {entry}' for reason in ENDS))
    for reason, key in keys.items():
        verdict = db.verify(key.api_key)
        assert verdict.reason == reason and told(verdict) == USUAL


def test_an_entry_is_for_its_reason_only(db, keys):
    own = {"expired": {"code": "key_expired", "message": "Renew it.", "status": 402},
           "disabled": {"message": "Ask your administrator."}, "idle": {"code": "unused"}, "revoked": "gone"}
    for named in own:
        codes(db, {named: own[named]})
        for reason, key in keys.items():
            assert (told(db.verify(key.api_key)) == USUAL) == (reason != named)
    codes(db, {**own, "invalid_api_key": {"code": "bad_key", "status": 403}})
    assert [told(db.verify(key.api_key)) for key in keys.values()] == [
        (402, "key_expired", "Renew it."), (401, "disabled", "Ask your administrator."),
        (401, "unused", "The API key was disabled, because it was not used."),
        (401, "gone", "The API key was revoked.")]
    assert told(db.verify(MISTYPED)) == (403, "bad_key", "The API key is not valid.")
    assert db.verify(db.mint().api_key).code == "ok"


def test_a_key_of_another_keyspace_learns_nothing(db, keys):
    db.call("create_keyspace", "other", codes='{"expired": "a", "disabled": "b", "idle": "d", "revoked": "c"}')
    for key in keys.values():
        verdict = db.verify(key.api_key, keyspace="other")
        assert (verdict.reason, told(verdict)) == ("wrong_keyspace", USUAL)


def test_over_http(cluster, connect, db, dbname):
    with serving(cluster, connect, db, dbname) as service:
        for method, pattern, operation in ENDPOINTS:
            service.define(method, pattern, operation)
        key = db.mint()
        db.rows(ENDS["expired"], key.key_id)
        codes(db, {"expired": {"code": "key_expired", "message": "Renew it."}})
        answer = service.ask(key, "GET", "/v1/me")
        body = answer.body if isinstance(answer.body, dict) else json.loads(answer.body)
        assert (answer.status, body["code"], body["message"]) == (401, "key_expired", "Renew it.")
        assert 'Bearer error="invalid_token"' in answer.headers["WWW-Authenticate"]
        verdict = "FROM keysmith.verify(%s) v"
        assert "invalid_token" in json.dumps(db.value(f"SELECT keysmith.response_headers(v) {verdict}", key.api_key))
        problem = db.value(f"SELECT keysmith.problem(v) {verdict}", key.api_key)
        assert (problem["status"], problem["code"]) == (401, "key_expired")


def test_the_document_lists_the_codes_that_are_given(db):
    db.call("define_route", "default", "GET", "/images", "{}")
    listed = "SELECT keysmith.openapi() #>> '{components,responses,401,description}'"
    assert "revoked" not in db.value(listed) and "key has expired" not in db.value(listed)
    codes(db, {"expired": "key_expired"})
    assert "`key_expired`: The API key has expired." in db.value(listed)
    assert "revoked" not in db.value(listed)


def test_before_a_request_of_postgrest(db, postgrest):  # noqa: F811
    key = db.mint()
    db.rows(ENDS["revoked"], key.key_id)
    codes(db, {"revoked": {"code": "key_revoked", "message": "It was revoked."}})
    with pytest.raises(Exception, match="It was revoked.") as error:
        postgrest().request("GET", "/photo", {"Authorization": f"Bearer {key.api_key}"}, "SELECT 1")
    assert error.value.sqlstate == "PT401" and "key_revoked" in str(error.value.diag.message_detail)
