"""clipia over HTTP: three headers, live and test keys, two scopes, and credits."""

import pytest
from psycopg.types.json import Jsonb

from .site import UUID, Like, plain, refusal

API = "https://api.clipia.ai"
REQUESTS = {
    "GET /v1/account, Authorization: Bearer": """curl https://api.clipia.ai/v1/account \\
-H "Authorization: Bearer $CLIPIA_KEY\"""",
    "GET /v1/account, Authorization: Key": """curl https://api.clipia.ai/v1/account \\
-H "Authorization: Key $CLIPIA_KEY\"""",
    "GET /v1/account, X-Api-Key": """curl https://api.clipia.ai/v1/account \\
-H "X-Api-Key: $CLIPIA_KEY\"""",
    "POST /v1/models/{model}": f"POST {API}/v1/models/flux-dev",
    "GET /v1/models": f"GET {API}/v1/models",
}
FORMS = [request for request in REQUESTS if "account" in request]
ACCOUNT = f"GET {API}/v1/account"
GENERATE = REQUESTS["POST /v1/models/{model}"]
RESULT = f"GET {API}/v1/requests/"
EVERY = [ACCOUNT, GENERATE, REQUESTS["GET /v1/models"], f"{RESULT}1"]


def challenge(parameters):
    return {"www-authenticate": f"Bearer {parameters}, Key {parameters}"}


INVALID = refusal(401, "invalid_api_key", challenge('error="invalid_token"'), "The API key is not valid.")


@pytest.fixture
def clipia(customer):
    return customer("clipia", credits=Jsonb(10))


@pytest.mark.parametrize("form", FORMS)
def test_three_headers_are_equivalent(site, clipia, form):
    answer = plain(200, {"id": UUID, "balance": 10})
    for scope in ("generate", "read"):
        assert site.run(REQUESTS[form], CLIPIA_KEY=clipia.mint(scopes=[scope]).api_key) == answer
    assert site.run(REQUESTS[form], CLIPIA_KEY="clipia_live_x") == INVALID


def test_the_balance_is_charged_by_live_keys_alone(site, clipia):
    live, test = clipia.mint(), clipia.mint(environment="test")
    for key, balance in ((test, 10), (live, 7), (test, 7), (live, 4)):
        assert site.send(GENERATE, key).status == 201
        assert site.send(ACCOUNT, key).body["balance"] == balance


def test_live_generations_are_real_and_sandbox_ones_mock(site, clipia):
    for environment, is_mock in (("live", False), ("test", True)):
        key = clipia.mint(environment=environment)
        made = site.send(GENERATE, key)
        assert made == plain(201, {"id": made.body["id"]})
        result = site.send(f"{RESULT}{made.body['id']}", key)
        assert result == plain(200, {"id": made.body["id"], "model": "flux-dev", "mock": is_mock})


def test_results_are_of_ones_own_generations(site, clipia, customer):
    ours, theirs = clipia.mint(scopes=["generate"]), customer("clipia").mint()
    made = site.send(GENERATE, ours).body["id"]
    assert site.send(f"{RESULT}{made}", clipia.mint(scopes=["read"])).status == 200
    assert site.send(f"{RESULT}{made}", ours).status == 200
    assert site.send(f"{RESULT}{made}", theirs).status == 404


def test_a_generation_that_cannot_be_committed_is_503_and_charges_nothing(site, clipia):
    key = clipia.mint()
    failed = site.send(f"POST {API}/v1/models/unknown", key)
    assert (failed.status, failed.body["code"]) == (503, "unavailable")
    assert site.send(ACCOUNT, key).body["balance"] == 10


# Scopes and errors

@pytest.mark.parametrize("scopes", [["generate"], ["read"], []])
def test_generating_needs_generate_and_reading_no_scope(site, clipia, scopes):
    key = clipia.mint(scopes=scopes)
    missing = 'error="insufficient_scope", scope="generate"'
    insufficient = refusal(403, "insufficient_scope", challenge(missing))
    made = site.send(GENERATE, key)
    assert made == (insufficient if scopes == ["read"] else plain(201, {"id": made.body.get("id")}))
    assert site.send(REQUESTS["GET /v1/models"], key).status == 200
    assert site.send(ACCOUNT, key) == plain(200, {"id": UUID, "balance": 10 if scopes == ["read"] else 7})


@pytest.mark.parametrize("request_", EVERY)
def test_a_missing_wrong_or_revoked_key_is_invalid(site, clipia, request_):
    revoked = clipia.mint()
    clipia.revoke(revoked)
    assert site.send(request_) == refusal(
        401, "invalid_api_key", challenge('realm="api"'), "The API key is not valid.")
    assert site.send(request_, revoked) == INVALID
    for headers in ({"Authorization": "Bearer clipia_live_x"}, {"Authorization": "Key clipia_test_x"},
                    {"X_Api_Key": revoked.api_key}):
        assert site.send(request_, **headers) == INVALID
    malformed = challenge('error="invalid_request"')
    assert site.send(request_, Authorization="Basic x") == refusal(
        401, "invalid_api_key", malformed, "The API key is not valid.")


def test_keys_are_made_and_revoked_in_the_dashboard(site, clipia, signed_in):
    with signed_in(clipia) as person:
        made = {name: person.mint(clipia.customer, keyspace="clipia", environment=name)
                for name in ("live", "test")}
    for name, key in made.items():
        assert key.api_key == Like(rf"clipia_{name}_[0-9A-Za-z]{{49}}")
        assert key.scopes == ["generate", "read"]
        assert site.send(ACCOUNT, key).status == 200
    with signed_in(clipia) as person:
        person.call("revoke", made["live"].key_id)
    assert site.send(ACCOUNT, made["live"]) == INVALID
    assert site.send(ACCOUNT, made["test"]).status == 200
