"""rimp: https://rimp.mintlify.app, its page on authentication."""

import hashlib
import re

import pytest
from psycopg.types.json import Jsonb

from .products import Refused

OK = (200, "ok")
MISSING = (401, "missing_authorization")
MALFORMED = (401, "invalid_authorization")
INVALID = (401, "invalid_api_key")
WRONG_ADDRESS = (403, "ip_not_allowed")
INSUFFICIENT = (403, "insufficient_role")

# The requests that each scope allows, with the variant if there is one.
ALLOWS = {
    "images:write": [("POST /v1/images", None), ("POST /v1/comparisons", "image-only")],
    "videos:write": [("POST /v1/videos", None)],
    "generations:read": [("GET /v1/generations/gen_1", None)],
    "webhooks:manage": [
        ("POST /v1/webhooks", None), ("GET /v1/webhooks", None), ("GET /v1/webhooks/wh_1", None),
        ("PUT /v1/webhooks/wh_1", None), ("PATCH /v1/webhooks/wh_1", None),
        ("DELETE /v1/webhooks/wh_1", None),
    ],
}
REQUESTS = [request for requests in ALLOWS.values() for request in requests]
MANAGEMENT = ["POST /v1/api-keys", "PATCH /v1/api-keys/key_abc", "DELETE /v1/api-keys/key_old"]


@pytest.fixture
def rimp(product):
    return product("rimp")


def allowed(rimp, key):
    """The requests that a key may make. Others must be refused as the page says."""
    answers = {request: rimp.answer(request[0], key, variant=request[1]) for request in REQUESTS}
    assert set(answers.values()) <= {OK, INSUFFICIENT}
    return [request for request in REQUESTS if answers[request] == OK]


# Headers and formats

def test_requests_authenticate_by_bearer(rimp):
    assert rimp.answer("GET /v1/models", rimp.mint()) == OK


@pytest.mark.parametrize("environment", ["live", "test"])
def test_the_prefix_tells_the_environment(rimp, environment):
    key = rimp.mint(environment=environment)
    assert re.fullmatch(rf"sk_{environment}_[0-9A-Za-z]{{49}}", key.api_key)
    assert rimp.verify(key).environment == environment
    other = {"live": "test", "test": "live"}[environment]
    assert rimp.verify(key, environment=other).code == "invalid_api_key"


def test_a_key_is_shown_once_and_stored_as_a_hash(rimp):
    key = rimp.mint()
    assert rimp.is_nowhere(key)
    digest = hashlib.sha256(key.api_key.encode()).digest()
    assert rimp.db.one("verify_digest", digest, keyspace="rimp").ok


def test_a_lost_key_is_rotated(rimp):
    lost = rimp.mint(label="production")
    found = rimp.db.one("rotate", lost.key_id)
    assert (rimp.answer("GET /v1/models", lost), rimp.answer("GET /v1/models", found)) == (
        INVALID, OK)


def test_keys_have_ids_to_name_them_by(rimp):
    key = rimp.mint()
    assert re.fullmatch(r"key_[0-9A-Za-z]+", key.display_id)
    assert rimp.db.value("SELECT key_id FROM keysmith.keys WHERE keyspace = 'rimp'"
                         " AND display_id = %s", key.display_id) == key.key_id


# Roles and scopes

@pytest.mark.parametrize("scope", ALLOWS)
def test_a_scope_allows_this_and_nothing_else(rimp, scope):
    assert allowed(rimp, rimp.mint(scopes=[scope])) == ALLOWS[scope]


def test_empty_scopes_are_full_access(rimp):
    key = rimp.mint()
    assert allowed(rimp, key) == REQUESTS
    for request in [*MANAGEMENT, "GET /v1/anything/else"]:
        assert rimp.answer(request, key) == OK


def test_a_comparison_with_videos_needs_both_scopes(rimp):
    """The page leaves this open."""
    both = ["images:write", "videos:write"]
    answers = [rimp.answer("POST /v1/comparisons", rimp.mint(scopes=scopes))
               for scopes in (both[:1], both[1:], both)]
    assert answers == [INSUFFICIENT, INSUFFICIENT, OK]


def test_scopes_are_those_of_the_list(rimp):
    assert "images:read" in rimp.refused("KS400", "mint", "acme", scopes=["images:read"])


def test_a_narrowed_key_reaches_nothing_that_no_scope_names(rimp):
    key = rimp.mint(scopes=list(ALLOWS))
    assert rimp.answer("GET /v1/models", key) == OK
    for request in [*MANAGEMENT, "GET /v1/anything/else", "GET /", "GET /v1/images"]:
        assert rimp.answer(request, key) == INSUFFICIENT


def test_a_key_inherits_the_role_of_who_made_it(rimp):
    rimp.db.call("set_member", "acme", "ann", "viewer", keyspace="rimp")
    key = rimp.mint(owner="ann")
    assert allowed(rimp, key) == ALLOWS["generations:read"]
    rimp.db.call("set_member", "acme", "ann", "developer", keyspace="rimp")
    assert allowed(rimp, key) == REQUESTS
    assert rimp.answer("POST /v1/api-keys", key) == INSUFFICIENT
    rimp.db.call("set_member", "acme", "ann", "admin", keyspace="rimp")
    assert rimp.answer("POST /v1/api-keys", key) == OK


def test_scopes_never_reach_above_the_role(rimp):
    rimp.db.call("set_member", "acme", "ann", "viewer", keyspace="rimp")
    key = rimp.mint(owner="ann", scopes=["images:write", "generations:read"])
    assert allowed(rimp, key) == ALLOWS["generations:read"]


# Billing and limits

TIER = Jsonb([{"name": "tier", "limit": 2, "window": "1 day"}])
TOO_MANY = (429, "rate_limited")


def test_live_keys_are_billed_and_test_keys_are_not(rimp):
    rimp.give(credits=5)
    live, test = rimp.mint(), rimp.mint(environment="test")
    for key, left in ((live, 3), (test, 3), (live, 1), (test, 1)):
        with rimp.serving("POST /v1/images", key, spend=2):
            assert rimp.db.value("SELECT (keysmith.whoami() -> 'credits')::bigint") == left


def test_live_keys_have_the_limits_of_their_tier(rimp):
    rimp.tenant("starter", plan="starter", limits=TIER)
    keys = [rimp.mint("starter") for _ in range(3)]
    assert [rimp.answer("GET /v1/models", key) for key in keys] == [OK, OK, TOO_MANY]
    verdict = rimp.verify(keys[0])
    assert (verdict.limit_name, verdict.limit_remaining) == ("tier", 0)
    assert verdict.retry_after.total_seconds() > 0
    assert rimp.answer("GET /v1/models", rimp.mint()) == OK


def test_calls_of_test_keys_are_counted_apart(rimp):
    rimp.tenant("starter", limits=TIER)
    live, test = rimp.mint("starter"), rimp.mint("starter", environment="test")
    asked = [rimp.answer("GET /v1/models", key) for key in (live, live, live, test, test, test)]
    assert asked == [OK, OK, TOO_MANY] * 2


# Rotation and revocation

def test_rotation_in_three_steps(rimp):
    old = rimp.mint()
    new = rimp.mint(label="production-2026-q2")
    assert (new.label, rimp.answer("GET /v1/models", new)) == ("production-2026-q2", OK)
    assert rimp.answer("GET /v1/models", old) == OK
    rimp.revoke(old)
    assert rimp.answer("GET /v1/models", old) == INVALID
    assert rimp.answer("GET /v1/models", new) == OK


def test_revocation_is_immediate(rimp, connect, database):
    key = rimp.mint()
    elsewhere = type(rimp)(database(connect()), "rimp")
    assert elsewhere.answer("GET /v1/models", key) == OK
    rimp.revoke(key)
    assert elsewhere.answer("GET /v1/models", key) == INVALID


# The allowlist

NETWORKS = Jsonb({"allowlist": ["203.0.113.0/24", "2001:db8::/32"]})


def test_an_allowlist_is_patched_in(rimp):
    rimp.tenant("big", plan="enterprise")
    key = rimp.mint("big")
    assert rimp.answer("GET /v1/models", key, ip="198.51.100.1") == OK
    altered = rimp.db.one("alter_key", key.key_id, NETWORKS)
    assert [str(network) for network in altered.allowlist] == ["203.0.113.0/24", "2001:db8::/32"]
    for inside in ("203.0.113.9", "2001:db8::9"):
        assert rimp.answer("GET /v1/models", key, ip=inside) == OK
    for outside in ("203.0.114.1", "2001:db9::1", None):
        assert rimp.answer("GET /v1/models", key, ip=outside) == WRONG_ADDRESS


@pytest.mark.parametrize("plan", [None, "pro"])
def test_allowlists_are_for_the_enterprise_plan(rimp, plan):
    rimp.tenant("small", plan=plan)
    rimp.db.refused("KS403", "alter_key", rimp.mint("small").key_id, NETWORKS)


# The allowlist refuses

@pytest.mark.parametrize("headers, answer", [
    ({}, MISSING),
    ({"X-API-Key": "{key}"}, MISSING),
    ({"Authorization": "{key}"}, MALFORMED),
    ({"Authorization": "Bearer"}, MALFORMED),
    ({"Authorization": "Key {key}"}, MALFORMED),
    ({"Authorization": "Basic {key}"}, MALFORMED),
    ({"Authorization": "Bearer {key} {key}"}, MALFORMED),
    ({"Authorization": "Bearer sk_live_nonsense"}, INVALID),
    ({"authorization": "bearer {key}"}, OK),
])
def test_what_a_header_is_answered(rimp, headers, answer):
    api_key = rimp.mint().api_key
    headers = {name: value.replace("{key}", api_key) for name, value in headers.items()}
    assert rimp.answer_to("GET /v1/models", headers) == answer


def test_a_key_that_is_not_found_or_revoked_is_invalid(rimp, product):
    unknown = product("riskinmind").mint()
    assert rimp.answer("GET /v1/models", unknown) == INVALID
    key = rimp.mint()
    rimp.revoke(key)
    assert rimp.answer("GET /v1/models", key) == INVALID


# Keys that manage keys

def test_an_admins_key_makes_restricts_and_revokes_keys(rimp):
    rimp.db.call("alter_tenant", "acme", Jsonb({"plan": "enterprise"}), "rimp")
    for user, role in (("root", "admin"), ("ann", "developer")):
        rimp.db.call("set_member", "acme", user, role, "rimp")
    admin, anns = rimp.mint(owner="root"), rimp.mint(owner="ann")
    with rimp.signed_in(admin):
        made = rimp.mint(scopes=["images:write"])
        rimp.db.call("alter_key", anns.key_id, NETWORKS)
        rimp.db.call("alter_key", made.key_id, NETWORKS)
    assert rimp.verify(made, ip="203.0.113.9").owner == "root"
    assert rimp.answer("GET /v1/models", anns, ip="198.51.100.1") == WRONG_ADDRESS
    with rimp.signed_in(admin):
        rimp.revoke(made)
    assert rimp.answer("GET /v1/models", made, ip="203.0.113.9") == INVALID


def test_other_keys_manage_none(rimp):
    rimp.db.call("set_member", "acme", "ann", "developer", "rimp")
    for options in ({"owner": "ann"}, {"scopes": ["webhooks:manage"]}):
        refused = rimp.refusal(rimp.mint(**options), "mint", "acme", keyspace="rimp")
        assert (refused.sqlstate, refused.answer["code"]) == ("KS403", "insufficient_role")


def test_an_admins_sandbox_key_makes_no_live_key(rimp):
    test = rimp.mint(environment="test")
    assert rimp.refusal(test, "mint", "acme", environment="live", keyspace="rimp").sqlstate == "KS403"
    with rimp.signed_in(test):
        assert rimp.mint().environment == "test"


def test_an_admins_key_manages_no_other_customers_keys(rimp):
    rimp.tenant("globex")
    theirs, ours = rimp.mint("globex"), rimp.mint()
    for act, arguments in (("revoke", ()), ("alter_key", (Jsonb({"label": "ours"}),))):
        with pytest.raises(Refused) as refused, rimp.serving("PATCH /v1/api-keys/key_abc", ours):
            rimp.db.call(act, theirs.key_id, *arguments)
        assert refused.value.sqlstate == "KS404"
    assert rimp.answer("GET /v1/models", theirs) == OK
