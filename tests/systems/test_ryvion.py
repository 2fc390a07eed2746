"""ryvion: its page on authentication."""

import pytest
from psycopg.types.json import Jsonb

from .products import bearer

OK = (200, "ok")
INVALID = (401, "invalid_api_key")
INSUFFICIENT = (403, "insufficient_scope")

INFERENCE = ["POST /v1/chat/completions", "POST /v1/embeddings"]
MODELS = ["GET /v1/models", "GET /v1/models/llama"]
UPLOADS = ["POST /api/v1/knowledge-bases/kb_1/documents"]
READ_KNOWLEDGE = ["GET /api/v1/knowledge-bases", "GET /api/v1/knowledge-bases/kb_1",
                  "GET /api/v1/knowledge-bases/kb_1/documents"]
MANAGE_KNOWLEDGE = ["POST /api/v1/knowledge-bases", "DELETE /api/v1/knowledge-bases/kb_1"]
AGENTS = ["GET /api/v1/agents", "POST /api/v1/agents", "DELETE /api/v1/agents/a_1"]
READ_MEMORIES = ["GET /api/v1/memories", "GET /api/v1/memories/m_1"]
READ_BILLING = ["GET /api/v1/billing", "GET /api/v1/billing/invoices"]
CHANGE_BILLING = ["POST /api/v1/billing", "PUT /api/v1/billing/card"]
KEYS = ["POST /api/v1/auth/api-keys", "GET /api/v1/auth/api-keys"]
OTHERS = ["POST /api/v1/memories", "GET /api/v1/anything/else"]
FOR_ANY_KEY = ["GET /api/v1/auth/me", "POST /mcp"]

SCOPED = [*INFERENCE, *MODELS, *UPLOADS, *READ_KNOWLEDGE, *MANAGE_KNOWLEDGE, *AGENTS,
          *READ_MEMORIES, *READ_BILLING, *CHANGE_BILLING, *KEYS, *OTHERS]
GIVES = {
    "buyer": [*INFERENCE, *MODELS, *UPLOADS, *READ_KNOWLEDGE, *MANAGE_KNOWLEDGE, *AGENTS,
              *READ_BILLING, *CHANGE_BILLING],
    "read-only": [*MODELS, *READ_KNOWLEDGE, *READ_MEMORIES, *READ_BILLING],
    "write-only": [*INFERENCE, *UPLOADS],
}


@pytest.fixture
def ryvion(product):
    return product("ryvion")


# The two ways

def test_both_headers_are_equivalent(ryvion):
    key = ryvion.mint(scopes=["read-only"])
    for request in SCOPED + FOR_ANY_KEY:
        answers = {ryvion.answer_to(request, headers) for headers in (
            bearer(key), {"X-API-Key": key.api_key}, {"x-api-key": key.api_key})}
        assert len(answers) == 1, request


def test_there_is_no_third_way(ryvion):
    key = ryvion.mint().api_key
    for headers in ({"Authorization": f"Key {key}"}, {"Authorization": key}, {"Api-Key": key}):
        assert ryvion.ask("GET /v1/models", headers).status == 401


def test_two_headers_must_hold_the_same_key(ryvion):
    one, two = ryvion.mint(), ryvion.mint()
    assert ryvion.ask("GET /v1/models", bearer(one) | {"X-API-Key": one.api_key}).ok
    assert ryvion.ask("GET /v1/models", bearer(one) | {"X-API-Key": two.api_key}).status == 401


def test_mcp_takes_the_same_key(ryvion):
    key = ryvion.mint()
    assert (ryvion.answer("POST /mcp", key), ryvion.answer("GET /mcp", key)) == (OK, OK)


# Managing

def test_a_key_is_made_with_a_name_and_shown_once(ryvion):
    key = ryvion.mint(label="my-new-key")
    assert (key.label, ryvion.answer("GET /v1/models", key)) == ("my-new-key", OK)
    assert ryvion.is_nowhere(key)


def test_keys_are_listed(ryvion):
    made = [ryvion.mint(label=label) for label in ("development", "production")]
    assert [key.label for key in ryvion.keys()] == ["development", "production"]
    assert [key.key_id for key in ryvion.keys()] == [key.key_id for key in made]


def test_the_list_tells_which_keys_are_not_used(ryvion):
    used, unused = ryvion.mint(), ryvion.mint()
    assert ryvion.answer("GET /v1/models", used) == OK
    last_uses = ryvion.last_uses()
    assert last_uses[used.key_id] is not None and last_uses[unused.key_id] is None
    ryvion.revoke(unused)
    assert ryvion.last_uses() == {used.key_id: last_uses[used.key_id]}


def test_a_revoked_key_is_invalid_at_once(ryvion):
    key, other = ryvion.mint(), ryvion.mint()
    ryvion.revoke(key)
    assert ryvion.answer("GET /v1/models", key) == INVALID
    assert ryvion.answer("GET /v1/models", other) == OK


def test_rotation_is_a_new_key_and_a_revocation(ryvion):
    old = ryvion.mint(label="production")
    new = ryvion.mint(label="production")
    assert [ryvion.answer("GET /v1/models", key) for key in (old, new)] == [OK, OK]
    ryvion.revoke(old)
    assert [ryvion.answer("GET /v1/models", key) for key in (old, new)] == [INVALID, OK]


# Scopes

@pytest.mark.parametrize("scope", GIVES)
def test_a_scope_gives_this_and_nothing_else(ryvion, scope):
    key = ryvion.mint(scopes=[scope])
    for request in SCOPED:
        expected = OK if request in GIVES[scope] else INSUFFICIENT
        assert ryvion.answer(request, key) == expected, request


def test_a_key_that_is_not_scoped_does_everything(ryvion):
    key = ryvion.mint()
    assert {ryvion.answer(request, key) for request in SCOPED} == {OK}


@pytest.mark.parametrize("scope", GIVES)
def test_a_key_of_any_scope_may_ask_who_it_is(ryvion, scope):
    key = ryvion.mint(scopes=[scope])
    verdict = ryvion.ask("GET /api/v1/auth/me", bearer(key))
    assert (verdict.ok, verdict.tenant, verdict.scopes) == (True, "acme", [scope])


def test_scopes_are_those_of_the_table(ryvion):
    assert "admin" in ryvion.refused("KS400", "mint", "acme", scopes=["admin"])


# Errors

@pytest.mark.parametrize("headers, answer", [
    ({}, (401, "missing_authorization")),
    ({"X-API-Key": ""}, (401, "invalid_authorization")),
    ({"Authorization": "Bearer YOUR_API_KEY"}, INVALID),
    ({"X-API-Key": "YOUR_API_KEY"}, INVALID),
])
def test_a_missing_or_invalid_key_is_401(ryvion, headers, answer):
    assert ryvion.answer_to("GET /v1/models", headers) == answer


def test_an_insufficient_scope_is_403(ryvion):
    key = ryvion.mint(scopes=["read-only"])
    assert ryvion.answer("POST /v1/chat/completions", key) == INSUFFICIENT


def test_too_many_requests_are_429(ryvion):
    key, other = ryvion.mint(), ryvion.mint()
    chat = "POST /v1/chat/completions"
    verdict = ryvion.ask(chat, bearer(key), weight=60)
    assert (verdict.ok, verdict.limit_name, verdict.limit_remaining) == (True, "inference", 0)
    for headers in (bearer(key), {"X-API-Key": key.api_key}):
        verdict = ryvion.ask(chat, headers)
        assert (verdict.status, verdict.code) == (429, "rate_limited")
        assert 0 < verdict.retry_after.total_seconds() <= 6
    assert ryvion.answer("POST /v1/embeddings", key) == ryvion.answer(chat, other) == OK


def test_a_customer_and_a_key_may_have_limits_too(ryvion):
    limit = [{"name": "calls", "limit": 1, "window": "1 day"}]
    limited = ryvion.mint(limits=Jsonb(limit))
    assert [ryvion.ask("GET /v1/models", bearer(limited)).status for _ in range(2)] == [200, 429]
    ryvion.give(limits=limit)
    keys = [ryvion.mint() for _ in range(2)]
    assert [ryvion.ask("POST /mcp", bearer(key)).status for key in keys] == [200, 429]


def test_a_new_account_has_a_free_tier(ryvion):
    ryvion.tenant("new", plan="free", credits=Jsonb({"refill": 100, "every": "month"}))
    key = ryvion.mint("new")
    verdict = ryvion.ask("POST /v1/embeddings", bearer(key), spend=100)
    assert (verdict.ok, verdict.credits_remaining) == (True, 0)
    verdict = ryvion.ask("POST /v1/embeddings", bearer(key), spend=1)
    assert (verdict.status, verdict.code) == (429, "credits_exhausted")
    assert 0 < verdict.retry_after.days * 86400 + verdict.retry_after.seconds <= 31 * 86400
    assert ryvion.answer("GET /v1/models", key) == OK


# Keys that manage keys

def test_an_existing_key_makes_and_lists_keys(ryvion):
    existing = ryvion.mint()
    with ryvion.signed_in(existing):
        made = ryvion.mint(label="my-new-key", scopes=["read-only"])
        assert {key.key_id for key in ryvion.keys()} == {existing.key_id, made.key_id}
    assert ryvion.verify(made).scopes == ["read-only"]


@pytest.mark.parametrize("scope", GIVES)
def test_a_scoped_key_makes_no_key(ryvion, scope):
    refused = ryvion.refusal(ryvion.mint(scopes=[scope]), "mint", "acme", keyspace="ryvion")
    assert (refused.sqlstate, refused.answer["code"]) == ("KS403", "insufficient_scope")


def test_the_current_user(ryvion):
    ryvion.db.call("alter_tenant", "acme", '{"plan": "pro", "metadata": {"email": "a@example.com"}}', "ryvion")
    key = ryvion.mint(label="monitoring", scopes=["read-only"])
    with ryvion.signed_in(key):
        profile = ryvion.db.value("SELECT keysmith.whoami()")
    assert (profile["tenant"], profile["plan"], profile["label"], profile["scopes"]) \
        == ("acme", "pro", "monitoring", ["read-only"])
    assert profile["metadata"] == {"email": "a@example.com"}
