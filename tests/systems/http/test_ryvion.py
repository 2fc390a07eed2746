"""ryvion over HTTP: two headers, three scopes, OpenAI's client, and MCP."""

import json
from uuid import uuid4

import openai
import pytest
from psycopg.types.json import Jsonb

from .site import INVALID, MALFORMED, MISSING, TIME, UUID, Like, plain, refusal, shown_once

API = "https://api.ryvion.ai"
REQUESTS = {
    "OpenAI's client": """from openai import OpenAI
client = OpenAI(
base_url="https://api.ryvion.ai/v1",
api_key="YOUR_KEY", # passed as Bearer token
)
""",
    "GET /v1/models": """curl https://api.ryvion.ai/v1/models \\
-H "X-API-Key: YOUR_API_KEY\"""",
    "POST /api/v1/auth/api-keys": """curl -X POST https://api.ryvion.ai/api/v1/auth/api-keys \\
-H "Authorization: Bearer EXISTING_API_KEY" \\
-H "Content-Type: application/json" \\
-d '{"name":"my-new-key"}'""",
    "GET /api/v1/auth/api-keys": """curl https://api.ryvion.ai/api/v1/auth/api-keys \\
-H "Authorization: Bearer YOUR_API_KEY\"""",
    "GET /api/v1/auth/me": """curl https://api.ryvion.ai/api/v1/auth/me \\
-H "Authorization: Bearer YOUR_API_KEY\"""",
    "MCP's configuration": """{
"mcpServers": {
"ryvion": {
"url": "https://api.ryvion.ai/mcp",
"headers": {
"Authorization": "Bearer YOUR_API_KEY"
}
}
}
}
""",
}
MODELS, ME = f"GET {API}/v1/models", f"GET {API}/api/v1/auth/me"
CHAT, EMBED = f"POST {API}/v1/chat/completions", f"POST {API}/v1/embeddings"
CREATE, LIST = (f"{method} {API}/api/v1/auth/api-keys" for method in ("POST", "GET"))
BASES, MEMORIES, BILLING, AGENTS = (
    f"{API}/api/v1/{name}" for name in ("knowledge-bases", "memories", "billing", "agents"))
GIVES = {
    "buyer": [CHAT, EMBED, MODELS, f"GET {BASES}", f"GET {BASES}/kb_1", f"POST {BASES}", f"DELETE {BASES}/kb_1",
              f"POST {BASES}/kb_1/documents", f"GET {AGENTS}", f"POST {AGENTS}", f"GET {BILLING}",
              f"POST {BILLING}"],
    "read-only": [MODELS, f"GET {BASES}", f"GET {BASES}/kb_1", f"GET {MEMORIES}", f"GET {BILLING}"],
    "write-only": [CHAT, EMBED, f"POST {BASES}/kb_1/documents"],
}
SECRET, SHOWN = Like(r"ryvion_[0-9A-Za-z]{49}"), Like(r"ryvion_[0-9A-Za-z]+")
MESSAGE = {"messages": [{"role": "user", "content": "Hello"}], "model": "llama"}


@pytest.fixture
def ryvion(customer):
    return customer("ryvion", plan="free")


@pytest.fixture
def openai_client(site, monkeypatch):
    """The client of the page's lines."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def with_key(api_key):
        names = {}
        lines = site.filled(REQUESTS["OpenAI's client"], YOUR_KEY=api_key)
        exec(lines.replace(API, f"http://127.0.0.1:{site.port}"), names)
        return names["client"].with_options(default_headers={"Host": "api.ryvion.ai"}, max_retries=0)

    return with_key


def test_openais_client(ryvion, openai_client):
    client = openai_client(ryvion.mint().api_key)
    assert [model.id for model in client.models.list()] == ["llama"]
    said = client.chat.completions.create(**MESSAGE).choices[0].message.content
    assert said == "You said: Hello"


def test_openais_client_understands_each_error(ryvion, openai_client):
    with pytest.raises(openai.AuthenticationError) as error:
        openai_client("YOUR_KEY").models.list()
    assert error.value.code == "invalid_api_key"
    with pytest.raises(openai.PermissionDeniedError) as error:
        openai_client(ryvion.mint(scopes=["read-only"]).api_key).chat.completions.create(**MESSAGE)
    assert error.value.code == "insufficient_scope"
    limited = openai_client(ryvion.mint(limits=LIMIT).api_key)
    limited.models.list()
    with pytest.raises(openai.RateLimitError) as error:
        limited.models.list()
    assert error.value.code == "rate_limited"


def test_both_headers_are_equivalent(site, ryvion):
    key = ryvion.mint()
    by_x_api_key = site.run(REQUESTS["GET /v1/models"], YOUR_API_KEY=key.api_key)
    assert by_x_api_key == site.send(MODELS, key)
    assert (by_x_api_key.status, by_x_api_key.body["object"]) == (200, "list")


def test_creating(site, ryvion):
    made = site.run(REQUESTS["POST /api/v1/auth/api-keys"], EXISTING_API_KEY=ryvion.mint().api_key)
    assert made == shown_once(201, {"id": UUID, "name": "my-new-key", "key": SECRET, "scopes": [],
                                    "created_at": TIME})
    assert site.send(MODELS, Authorization=f"Bearer {made.body['key']}").status == 200


def test_the_list(site, ryvion):
    key, other = ryvion.mint(label="production"), ryvion.mint(label="monitoring", scopes=["read-only"])
    ryvion.revoke(ryvion.mint())
    assert site.run(REQUESTS["GET /api/v1/auth/api-keys"], YOUR_API_KEY=key.api_key) == plain(200, {"keys": [
        {"id": str(listed.key_id), "name": listed.label, "prefix": listed.key_prefix,
         "scopes": listed.scopes, "created_at": TIME, "last_used_at": None} for listed in (key, other)]})


@pytest.mark.parametrize("scopes, shown", [([], ["*"]), (["read-only"], ["read-only"])])
def test_the_current_user(site, ryvion, scopes, shown):
    ryvion.give(credits=100)
    key = ryvion.mint(label="monitoring", scopes=scopes)
    assert site.run(REQUESTS["GET /api/v1/auth/me"], YOUR_API_KEY=key.api_key) == plain(200, {
        "id": UUID, "plan": "free", "credits": 100,
        "key": {"id": str(key.key_id), "name": "monitoring", "scopes": shown}})


def test_mcp(site, ryvion):
    """What a client sends first, to the address and with the header of its configuration."""
    key = ryvion.mint(scopes=["write-only"])
    text = site.filled(REQUESTS["MCP's configuration"], YOUR_API_KEY=key.api_key)
    server = json.loads(text)["mcpServers"]["ryvion"]
    initialize = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "0"}}}
    begun = site.send(f"POST {server['url']}", None, initialize, **server["headers"])
    assert (begun.status, begun.body["id"], begun.body["result"]["serverInfo"]["name"]) == (200, 1, "ryvion")
    assert site.send(f"POST {server['url']}", None, initialize).status == 401


# Keys of the dashboard

def test_signing_up(site, dashboard):
    """The dashboard makes the account, and then its first key."""
    name = f"new-{uuid4()}"
    with dashboard() as signing_up:
        signing_up.tenant(name, keyspace="ryvion", plan="free", credits=Jsonb({"refill": 100, "every": "month"}))
        signing_up.call("act_as", name, None, "ryvion")
        key = signing_up.mint(name, keyspace="ryvion")
    profile = site.send(ME, key).body
    assert (profile["plan"], profile["credits"]) == ("free", 100)


def test_scoped_keys_are_made_and_revoked_in_the_dashboard(site, ryvion, signed_in):
    with signed_in(ryvion) as person:
        key = person.mint(ryvion.customer, keyspace="ryvion", label="monitoring", scopes=["read-only"])
    assert (site.send(MODELS, key).status, site.send(CHAT, key, MESSAGE).status) == (200, 403)
    with signed_in(ryvion) as person:
        person.call("revoke", key.key_id)
    assert site.send(MODELS, key) == refusal(401, "invalid_api_key", INVALID)


@pytest.mark.parametrize("scope", GIVES)
def test_a_scope_gives_this_and_nothing_else(site, ryvion, scope):
    key = ryvion.mint(scopes=[scope])
    for request in {request for requests in GIVES.values() for request in requests}:
        body = MESSAGE if request == CHAT else None
        assert site.send(request, key, body).status == (200 if request in GIVES[scope] else 403), request
    assert site.send(ME, key).status == 200
    for request in (CREATE, LIST):
        assert site.send(request, key).status == 403


# Errors

LIMIT = Jsonb([{"name": "calls", "limit": 1, "window": "1 day"}])


@pytest.mark.parametrize("request_", [MODELS, CHAT, CREATE, LIST, ME])
def test_a_missing_or_invalid_key_is_401(site, ryvion, request_):
    revoked = ryvion.mint()
    ryvion.revoke(revoked)
    assert site.send(request_) == refusal(401, "missing_authorization", MISSING)
    assert site.send(request_, Authorization="Key x") == refusal(401, "invalid_authorization", MALFORMED)
    assert site.send(request_, revoked) == refusal(401, "invalid_api_key", INVALID)
    assert site.send(request_, X_API_Key="YOUR_API_KEY") == refusal(401, "invalid_api_key", INVALID)


def test_an_insufficient_scope_is_403(site, ryvion):
    needed = 'Bearer error="insufficient_scope", scope="buyer write-only"'
    refused = site.send(CHAT, ryvion.mint(scopes=["read-only"]), MESSAGE)
    assert refused == refusal(403, "insufficient_scope", {"www-authenticate": needed})


def test_too_many_requests_are_429(site, ryvion):
    key = ryvion.mint(limits=LIMIT)
    policy = {"ratelimit-policy": '"calls";q=1;w=86400'}
    told = site.send(ME, key).headers
    assert told == plain(200, None, **policy, ratelimit=Like('"calls";r=0;t=8[56]...')).headers
    wait = {"retry-after": Like("8[56]..."), "ratelimit": Like('"calls";r=0;t=8[56]...')}
    assert site.send(ME, key) == refusal(429, "rate_limited", policy | wait)


def test_inference_has_the_limits_of_its_route(site, ryvion):
    key = ryvion.mint()
    for request, policy in ((CHAT, '"inference";q=600;w=3600'), (EMBED, '"inference";q=1200;w=3600')):
        assert site.send(request, key, MESSAGE).headers["ratelimit-policy"] == policy
