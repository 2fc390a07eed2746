"""rymi over HTTP: profiles and secret API keys."""

import pytest
from psycopg.types.json import Jsonb

from .site import INVALID, MALFORMED, MISSING, TIME, UUID, Like, plain, refusal, shown_once

API = "https://api.rymi.live"
REQUESTS = {
    "GET /v1/auth/me": """curl https://api.rymi.live/v1/auth/me \\
  -H "Authorization: Bearer YOUR_API_KEY\"""",
    "GET /v1/auth/api-keys": """curl https://api.rymi.live/v1/auth/api-keys \\
  -H "Authorization: Bearer YOUR_API_KEY\"""",
    "POST /v1/auth/api-keys": """curl -X POST https://api.rymi.live/v1/auth/api-keys \\
  -H "Authorization: Bearer YOUR_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{"label": "Production"}'""",
    "DELETE /v1/auth/api-keys/{id}": """curl -X DELETE https://api.rymi.live/v1/auth/api-keys/d1e2f3a4-... \\
  -H "Authorization: Bearer YOUR_API_KEY\"""",
    "POST /v1/auth/regenerate-key": f"POST {API}/v1/auth/regenerate-key",
}
ID = "d1e2f3a4-..."
ME, LIST, CREATE, REGENERATE = (f"{request.split()[0]} {API}{request.split()[1]}" for request in REQUESTS
                                if "{id}" not in request)
REVOKE = f"DELETE {API}/v1/auth/api-keys/"
MANAGING = [LIST, CREATE, REVOKE + ID, REGENERATE]

SECRET, SHOWN = Like(r"rymi_[0-9A-Za-z]{49}"), Like(r"rymi_[0-9A-Za-z]{5}")
TELEPHONY = {"telephony_provider": "twilio", "plivo_connected": False, "plivo_account_name": None,
             "plivo_account_country": None}
PUBLISHABLE = "Publishable keys manage no secret keys."
UNKNOWN = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def rymi(customer):
    return customer("rymi", metadata=Jsonb(TELEPHONY))


def run(site, request, key, **words):
    return site.run(REQUESTS[request], YOUR_API_KEY=key.api_key, **words)


# The requests of the page

def test_the_profile(site, rymi):
    account = rymi.db.value("SELECT tenant_id FROM keysmith.tenants WHERE tenant = %s", rymi.customer)
    for key in (rymi.mint(label="Production"), rymi.regenerate()):
        assert run(site, "GET /v1/auth/me", key) == plain(200, {
            "id": str(account), "api_key_prefix": "rymi_live_...", **TELEPHONY})


def test_the_list(site, rymi):
    used, unused = rymi.mint(label="Production"), rymi.mint(label="Staging")
    rymi.mint(kind="publishable")
    rymi.revoke(rymi.mint(label="gone"))
    site.send(ME, used)
    rymi.db.call("flush_usage")
    asked = run(site, "GET /v1/auth/api-keys", unused)
    assert asked == plain(200, {"keys": [
        {"id": str(key.key_id), "key_prefix": key.key_prefix, "label": key.label,
         "last_used_at": last_use, "created_at": TIME}
        for key, last_use in ((used, TIME), (unused, None))]})


def test_creating(site, rymi):
    made = run(site, "POST /v1/auth/api-keys", rymi.mint())
    assert made == shown_once(201, {"id": UUID, "api_key": SECRET, "key_prefix": SHOWN,
                                    "label": "Production", "created_at": TIME})
    assert made.body["api_key"].startswith(made.body["key_prefix"])
    verdict = rymi.db.verify(made.body["api_key"], keyspace="rymi")
    assert (str(verdict.key_id), verdict.tenant) == (made.body["id"], rymi.customer)


def test_revoking(site, rymi, listen):
    key, other = rymi.mint(), rymi.mint()
    received = listen(rymi)
    assert run(site, "DELETE /v1/auth/api-keys/{id}", other, **{ID: str(key.key_id)}) == plain(
        200, {"success": True})
    # The answer is sent after the commit, so the sessions of this key know by now.
    ended = [event["key_id"] for event in received() if event["tenant"] == rymi.customer]
    assert ended == [str(key.key_id)]
    assert (site.send(ME, key).status, site.send(ME, other).status) == (401, 200)


def test_regenerating(site, rymi):
    labelled, legacy = rymi.mint(label="Production"), rymi.regenerate()
    new = site.send(REQUESTS["POST /v1/auth/regenerate-key"], legacy)
    assert new == shown_once(200, {"api_key": SECRET})
    assert [site.send(ME, key).status for key in (labelled, legacy)] == [200, 401]
    assert site.send(ME, Authorization=f"Bearer {new.body['api_key']}").status == 200


def test_rotation_in_four_steps(site, rymi):
    old = rymi.mint(label="Production")
    made = site.send(CREATE, old, {"label": "Production 2026-Q2"}).body
    new = {"Authorization": f"Bearer {made['api_key']}"}
    assert (site.send(ME, old).status, site.send(ME, **new).status) == (200, 200)
    rymi.db.call("flush_usage")
    listed = {key["id"]: key["last_used_at"] for key in site.send(LIST, **new).body["keys"]}
    assert listed == {str(old.key_id): TIME, made["id"]: TIME}
    assert site.send(REVOKE + str(old.key_id), **new) == plain(200, {"success": True})
    assert [key["id"] for key in site.send(LIST, **new).body["keys"]] == [made["id"]]


def test_a_label_is_optional_and_has_at_most_100_characters(site, rymi):
    key = rymi.mint()
    for body, label in ((None, None), ({}, None), ({"label": None}, None), ({"label": "é" * 100}, "é" * 100)):
        made = site.send(CREATE, key, body)
        assert (made.status, made.body["label"]) == (201, label)
    for body in ({"label": "é" * 101}, {"label": 7}, {"name": "Production"}, ["Production"], "Production"):
        assert site.send(CREATE, key, body) == refusal(400, "invalid_request")
    cut_short = REQUESTS["POST /v1/auth/api-keys"].replace('"}', "")
    assert site.run(cut_short, YOUR_API_KEY=key.api_key) == refusal(400, "invalid_request")
    assert len(rymi.keys()) == 5


# Errors

@pytest.mark.parametrize("request_", [ME, *MANAGING])
def test_missing_or_invalid_authentication_is_401(site, rymi, request_):
    key = rymi.mint()
    rymi.revoke(key)
    assert site.send(request_) == refusal(401, "missing_authorization", MISSING)
    assert site.send(request_, X_API_Key="rymi_x") == refusal(401, "missing_authorization", MISSING)
    assert site.send(request_, Authorization="rymi_x") == refusal(401, "invalid_authorization", MALFORMED)
    for value in ("Bearer YOUR_API_KEY", f"Bearer {key.api_key}"):
        assert site.send(request_, Authorization=value) == refusal(401, "invalid_api_key", INVALID)


@pytest.mark.parametrize("request_", MANAGING)
def test_a_publishable_key_that_manages_secret_keys_is_403(site, rymi, request_):
    public, secret = rymi.mint(kind="publishable"), rymi.mint()
    assert site.send(ME, public).status == 200
    refused = site.send(request_.replace(ID, str(secret.key_id)), public)
    assert refused == refusal(403, "insufficient_kind", message=PUBLISHABLE)
    assert [key.key_id for key in rymi.keys()] == [public.key_id, secret.key_id]


def test_a_key_id_that_is_not_found_or_revoked_already_is_404(site, rymi, customer):
    key, revoked, theirs = rymi.mint(), rymi.mint(), customer("rymi").mint()
    rymi.revoke(revoked)
    for key_id in (ID, UNKNOWN, revoked.key_id, theirs.key_id):
        assert site.send(f"{REVOKE}{key_id}", key) == refusal(404, "not_found")
    assert site.send(ME, theirs).status == 200


def test_an_error_of_the_server_is_500(site, rymi):
    """Such as one that a damaged table causes."""
    key = rymi.mint(label="broken")
    rymi.db.rows("ALTER TABLE keysmith_private.key ADD CONSTRAINT broken CHECK (label <> 'broken') NOT VALID")
    try:
        for request, body in ((CREATE, {"label": "broken"}), (REVOKE + str(key.key_id), None)):
            assert site.send(request, key, body) == refusal(500, "internal_error")
    finally:
        rymi.db.rows("ALTER TABLE keysmith_private.key DROP CONSTRAINT broken")
    assert [listed.key_id for listed in rymi.keys()] == [key.key_id]


def test_a_server_that_can_only_read_is_503(site, rymi, cluster):
    key = rymi.mint()
    cluster.execute("ALTER ROLE systems_server SET default_transaction_read_only = on")
    try:
        assert site.send(LIST, key).status == 200
        for request in (CREATE, REVOKE + str(key.key_id), REGENERATE):
            assert site.send(request, key) == refusal(503, "unavailable")
    finally:
        cluster.execute("ALTER ROLE systems_server RESET ALL")
    assert [listed.key_id for listed in rymi.keys()] == [key.key_id]


def test_methods(site, rymi):
    key = rymi.mint()
    assert site.send(f"HEAD {API}/v1/auth/me", key) == plain(200, "")
    assert site.send(f"OPTIONS {API}/v1/auth/api-keys").headers["allow"] == "GET, HEAD, OPTIONS, POST"
    refused = site.send(f"PUT {API}/v1/auth/api-keys", key)
    assert refused == refusal(405, "method_not_allowed", {"allow": "GET, HEAD, OPTIONS, POST"})
