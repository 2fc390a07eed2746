"""riskinmind over HTTP: the one key of a customer, and its logs."""

import pytest

from .site import INVALID, MALFORMED, MISSING, TIME, Like, plain, shown_once
from .site import refusal as refused

API = "https://api.riskinmind.example"
REQUESTS = {f"{method} {path}": f"{method} {API}{path}" for method, path in [
    ("GET", "/api/v1/keys/"), ("POST", "/api/v1/keys/generate"), ("POST", "/api/v1/keys/regenerate"),
    ("POST", "/api/v1/keys/revoke"), ("GET", "/api/v1/keys/logs"), ("POST", "/api/v1/loans/predict")]}
LABEL = {"label": "Production Application Key"}
SECRET = Like(r"sk_live_[0-9A-Za-z]{49}")


def refusal(*arguments):
    return refused(*arguments, success=False)


@pytest.fixture
def riskinmind(customer):
    return customer("riskinmind")


def session(riskinmind):
    """The header of a person of this customer who is signed in to the web site."""
    return {"Cookie": f"session={riskinmind.customer}"}


def current(site, key):
    return site.send(REQUESTS["GET /api/v1/keys/"], key)


def test_the_current_key(site, riskinmind):
    key = riskinmind.mint()
    shown = current(site, key)
    assert shown == plain(200, {"success": True, "data": {
        "keyId": Like(r"key_[0-9A-Za-z]{5}"), "keySnippet": f"sk_live_...{key.api_key[-4:]}",
        "status": "ACTIVE", "createdAt": TIME}})
    assert shown.body["data"]["keyId"] == key.display_id


@pytest.mark.parametrize("body", [LABEL, {}, None])
def test_generating(site, riskinmind, body):
    """By a person who is signed in: there is no key yet."""
    generate = REQUESTS["POST /api/v1/keys/generate"]
    made = site.send(generate, None, body, **session(riskinmind))
    assert made == shown_once(200, {"success": True, "data": {"apiKey": SECRET, "createdAt": TIME}})
    (key,) = riskinmind.keys()
    assert key.label == (body or {}).get("label")
    assert riskinmind.db.verify(made.body["data"]["apiKey"], keyspace="riskinmind").key_id == key.key_id
    again = site.send(generate, None, body, **session(riskinmind))
    assert again == refusal(409, "conflict")


def test_a_person_who_is_signed_in_makes_the_same_requests(site, riskinmind):
    """About the customer's one key."""
    def asked(request):
        return site.send(REQUESTS[request], **session(riskinmind))

    assert asked("GET /api/v1/keys/") == refusal(404, "not_found")
    first = asked("POST /api/v1/keys/generate").body["data"]["apiKey"]
    assert asked("GET /api/v1/keys/") == site.send(
        REQUESTS["GET /api/v1/keys/"], Authorization=f"Bearer {first}")
    second = asked("POST /api/v1/keys/regenerate").body["data"]["apiKey"]
    assert asked("GET /api/v1/keys/").body["data"]["keySnippet"] == f"sk_live_...{second[-4:]}"
    assert asked("POST /api/v1/keys/revoke").body["success"]
    for request in ("GET /api/v1/keys/", "POST /api/v1/keys/revoke"):
        assert asked(request) == refusal(404, "not_found")
    riskinmind.db.call("flush_usage")
    assert {entry["endpoint"] for entry in asked("GET /api/v1/keys/logs").body["data"]} >= {"/api/v1/keys/"}


def test_generating_with_an_active_key_is_an_error(site, riskinmind):
    key = riskinmind.mint()
    assert site.send(REQUESTS["POST /api/v1/keys/generate"], key, LABEL) == refusal(409, "conflict")
    assert current(site, key).status == 200


def test_regenerating(site, riskinmind):
    key = riskinmind.mint(**LABEL)
    new = site.send(REQUESTS["POST /api/v1/keys/regenerate"], key)
    assert new == shown_once(200, {"success": True, "data": {
        "apiKey": SECRET, "message": "Key regenerated successfully."}})
    assert current(site, key) == refusal(401, "invalid_api_key", INVALID)
    assert riskinmind.db.verify(new.body["data"]["apiKey"], keyspace="riskinmind").label == LABEL["label"]


def test_revoking(site, riskinmind):
    key = riskinmind.mint()
    assert site.send(REQUESTS["POST /api/v1/keys/revoke"], key) == plain(200, {
        "success": True, "message": "API Key revoked successfully."})
    assert site.send(REQUESTS["POST /api/v1/keys/revoke"], key) == refusal(401, "invalid_api_key", INVALID)
    generated = site.send(REQUESTS["POST /api/v1/keys/generate"], **session(riskinmind))
    assert generated.status == 200


def test_the_logs(site, riskinmind):
    key = riskinmind.mint()
    for _ in range(3):
        assert site.send(REQUESTS["POST /api/v1/loans/predict"], key).status == 200
    riskinmind.db.call("flush_usage")
    logs = REQUESTS["GET /api/v1/keys/logs"]
    entry = {"endpoint": "/api/v1/loans/predict", "method": "POST", "statusCode": 200, "timestamp": TIME}
    page = site.send(f"{logs}?page=2&limit=2", key)
    assert page == plain(200, {"success": True, "data": [entry],
                               "meta": {"total": 3, "page": 2, "limit": 2}})
    riskinmind.db.call("flush_usage")
    page = site.send(f"{logs}?limit=1", key)
    own = {"endpoint": "/api/v1/keys/logs", "method": "GET", "statusCode": 200, "timestamp": TIME}
    assert page == plain(200, {"success": True, "data": [own],
                               "meta": {"total": 4, "page": 1, "limit": 1}})
    riskinmind.db.call("flush_usage")
    assert [shown["endpoint"] for shown in site.send(logs, key).body["data"]] == [
        own["endpoint"], own["endpoint"], *[entry["endpoint"]] * 3]
    for query in ("page=0", "limit=0", "limit=1001", "page=x", "page=1&page=2", "per_page=1"):
        assert site.send(f"{logs}?{query}", key) == refusal(400, "invalid_request")


def test_logs_tell_rate_limits(site, riskinmind):
    riskinmind.give(limits=[{"name": "calls", "limit": 2, "window": "1 day"}])
    key = riskinmind.mint()
    predict = REQUESTS["POST /api/v1/loans/predict"]
    assert [site.send(predict, key).status for _ in range(3)] == [200, 200, 429]
    assert [entry["status"] for entry in riskinmind.logs()["data"]] == [429, 200, 200]


@pytest.mark.parametrize("request_", REQUESTS.values())
def test_every_endpoint_requires_a_bearer_token(site, request_):
    assert site.send(request_) == refusal(401, "missing_authorization", MISSING)
    assert site.send(request_, X_API_Key="sk_live_x") == refusal(401, "missing_authorization", MISSING)
    assert site.send(request_, Authorization="Key x") == refusal(401, "invalid_authorization", MALFORMED)
    assert site.send(request_, Authorization="Bearer x") == refusal(401, "invalid_api_key", INVALID)
