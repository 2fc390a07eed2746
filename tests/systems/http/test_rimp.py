"""rimp over HTTP: authentication, scopes, and an admin's key that manages keys."""

import pytest
from psycopg.types.json import Jsonb

from .site import INVALID, MALFORMED, MISSING, TIME, Like, plain, refusal, shown_once

API = "https://api.rimp.example"
REQUESTS = {
    "GET /v1/models": """curl https://api.rimp.example/v1/models \\
  -H "Authorization: Bearer sk_live_...\"""",
    "POST /v1/api-keys": """curl -X POST https://api.rimp.example/v1/api-keys \\
  -H "Authorization: Bearer $ADMIN_KEY" \\
  -d '{"name": "production-2026-q2"}'""",
    "DELETE /v1/api-keys/{id}": """curl -X DELETE https://api.rimp.example/v1/api-keys/key_old \\
  -H "Authorization: Bearer $ADMIN_KEY\"""",
    "PATCH /v1/api-keys/{id}": """curl -X PATCH https://api.rimp.example/v1/api-keys/key_abc \\
  -H "Authorization: Bearer $ADMIN_KEY" \\
  -d '{"ipAllowlist": ["203.0.113.0/24", "2001:db8::/32"]}'""",
    "POST /v1/images": f"POST {API}/v1/images",
    "POST /v1/comparisons": f"POST {API}/v1/comparisons",
    "POST /v1/videos": f"POST {API}/v1/videos",
    "GET /v1/generations/{id}": f"GET {API}/v1/generations/gen_1",
    "POST /v1/webhooks": f"POST {API}/v1/webhooks",
    "GET /v1/webhooks": f"GET {API}/v1/webhooks",
    "GET /v1/webhooks/{id}": f"GET {API}/v1/webhooks/wh_1",
    "PATCH /v1/webhooks/{id}": f"PATCH {API}/v1/webhooks/wh_1",
    "DELETE /v1/webhooks/{id}": f"DELETE {API}/v1/webhooks/wh_1",
}
MODELS = REQUESTS["GET /v1/models"]
ALLOWS = {
    "images:write": ["POST /v1/images", "POST /v1/comparisons"],
    "videos:write": ["POST /v1/videos"],
    "generations:read": ["GET /v1/generations/{id}"],
    "webhooks:manage": ["POST /v1/webhooks", "GET /v1/webhooks", "GET /v1/webhooks/{id}",
                        "PATCH /v1/webhooks/{id}", "DELETE /v1/webhooks/{id}"],
}
KEY_ID = Like(r"key_[0-9A-Za-z]{8}")
NETWORKS = ["203.0.113.0/24", "2001:db8::/32"]


@pytest.fixture
def rimp(customer):
    """A customer of the plan that has allowlists, with an admin called root."""
    rimp = customer("rimp", plan="enterprise", credits=Jsonb(100))
    rimp.member("root", "admin")
    return rimp


def models(site, api_key):
    return site.run(MODELS, **{"sk_live_...": api_key})


def stand_in(rimp, environment="live"):
    return plain(200, {"stand_in": True, "tenant": rimp.customer, "environment": environment})


def insufficient(scopes):
    challenge = f'Bearer error="insufficient_scope", scope="{scopes}"'
    return refusal(403, "insufficient_role", {"www-authenticate": challenge})


# The requests of the page

def test_a_request_with_a_key(site, rimp):
    for environment in ("live", "test"):
        assert models(site, rimp.mint(environment=environment).api_key) == stand_in(rimp, environment)


def test_rotation(site, rimp):
    admin, old = rimp.mint(owner="root"), rimp.mint()
    new = site.run(REQUESTS["POST /v1/api-keys"], ADMIN_KEY=admin.api_key)
    assert new == shown_once(201, {"id": KEY_ID, "name": "production-2026-q2", "createdAt": TIME,
                                   "key": Like(r"sk_live_[0-9A-Za-z]{49}")})
    assert models(site, new.body["key"]) == models(site, old.api_key) == stand_in(rimp)
    revoked = site.run(REQUESTS["DELETE /v1/api-keys/{id}"], ADMIN_KEY=admin.api_key, key_old=old.display_id)
    assert revoked == plain(200, {"id": old.display_id, "name": None, "revokedAt": TIME})
    assert models(site, old.api_key) == refusal(401, "invalid_api_key", INVALID)
    assert models(site, new.body["key"]) == stand_in(rimp)


def test_an_allowlist(site, rimp):
    admin, key = rimp.mint(owner="root"), rimp.mint(label="production")
    altered = site.run(REQUESTS["PATCH /v1/api-keys/{id}"], ADMIN_KEY=admin.api_key, key_abc=key.display_id)
    assert altered == plain(200, {"id": key.display_id, "name": "production", "ipAllowlist": NETWORKS})
    for address, answer in (("203.0.113.9", stand_in(rimp)), ("2001:db8::9", stand_in(rimp)),
                            ("203.0.114.1", refusal(403, "ip_not_allowed"))):
        assert site.send(f"GET {API}/v1/models", key, X_Forwarded_For=address) == answer


def test_allowlists_are_for_the_enterprise_plan(site, customer):
    pro = customer("rimp", plan="pro")
    admin, key = pro.mint(), pro.mint()
    refused = site.run(REQUESTS["PATCH /v1/api-keys/{id}"], ADMIN_KEY=admin.api_key, key_abc=key.display_id)
    assert refused == refusal(403, "forbidden")


@pytest.mark.parametrize("scope", ALLOWS)
def test_a_scope_allows_these_requests_and_no_others(site, rimp, scope):
    key = rimp.mint(scopes=[scope])
    for needed, requests in ALLOWS.items():
        for request in requests:
            expected = stand_in(rimp) if needed == scope else insufficient(needed)
            assert site.send(REQUESTS[request], key) == expected
    assert models(site, key.api_key) == stand_in(rimp)
    for request in ("POST /v1/api-keys", "PATCH /v1/api-keys/{id}", "DELETE /v1/api-keys/{id}"):
        assert site.run(REQUESTS[request], ADMIN_KEY=key.api_key) == insufficient("admin")


@pytest.mark.parametrize("role, refused", [
    ("admin", None), ("developer", "admin"), ("viewer", "images:write")])
def test_a_key_without_scopes_may_do_what_its_owner_may(site, rimp, role, refused):
    rimp.member("ann", role)
    key = rimp.mint(owner="ann")
    for needed, request in (("generations:read", "GET /v1/generations/{id}"), ("images:write", "POST /v1/images")):
        assert site.send(REQUESTS[request], key) == (
            insufficient(needed) if needed == refused else stand_in(rimp))
    made = site.run(REQUESTS["POST /v1/api-keys"], ADMIN_KEY=key.api_key)
    assert made.status == (403 if refused else 201)


def test_a_comparison_with_videos_needs_both_scopes(site, rimp):
    both = ["images:write", "videos:write"]
    for scopes, answer in ((both[:1], insufficient("images:write videos:write")), (both, stand_in(rimp))):
        key = rimp.mint(scopes=scopes)
        assert site.send(REQUESTS["POST /v1/comparisons"], key, {"videos": ["v_1", "v_2"]}) == answer


def test_requests_with_live_keys_are_billed(site, rimp):
    rimp.give(credits=3)
    live, test = rimp.mint(), rimp.mint(environment="test")
    answers = [site.send(REQUESTS["POST /v1/images"], key).status for key in (live, test, live, test)]
    assert answers == [200, 200, 429, 200]


def test_scopes_are_set_in_the_dashboard(site, rimp, signed_in):
    with signed_in(rimp, "root") as person:
        key = person.mint(rimp.customer, keyspace="rimp", scopes=["images:write"])
    assert site.send(REQUESTS["POST /v1/images"], key) == stand_in(rimp)
    assert site.send(REQUESTS["POST /v1/videos"], key) == insufficient("videos:write")


# Errors

def test_each_error_of_the_table(site, rimp):
    def asked(**headers):
        return site.send(f"GET {API}/v1/models", **headers)

    revoked, elsewhere = rimp.mint(), rimp.mint(allowlist=["203.0.113.0/24"])
    rimp.revoke(revoked)
    assert asked() == refusal(401, "missing_authorization", MISSING)
    for value in ("sk_live_x", "Bearer", "Key sk_live_x", "Bearer sk_live_x sk_live_x"):
        assert asked(Authorization=value) == refusal(401, "invalid_authorization", MALFORMED)
    for api_key in ("sk_live_...", revoked.api_key):
        assert models(site, api_key) == refusal(401, "invalid_api_key", INVALID)
    assert models(site, elsewhere.api_key) == refusal(403, "ip_not_allowed")
    narrow = rimp.mint(scopes=["videos:write"])
    assert site.send(REQUESTS["POST /v1/images"], narrow) == insufficient("images:write")


def test_errors_of_managing_keys(site, rimp, customer):
    admin, theirs = rimp.mint(owner="root"), customer("rimp").mint()
    for display_id in ("key_old", theirs.display_id):
        gone = site.send(f"DELETE {API}/v1/api-keys/{display_id}", admin)
        assert gone == refusal(404, "not_found")
    for body in ({"name": "x", "scopes": ["images:write"]}, {"label": "x"}, {"name": "x" * 1000}):
        assert site.send(f"POST {API}/v1/api-keys", admin, body) == refusal(400, "invalid_request")
    rimp.member("ann", "developer")
    anns = rimp.mint(owner="ann")
    assert site.send(f"POST {API}/v1/api-keys", anns, {"name": "x"}) == insufficient("admin")
