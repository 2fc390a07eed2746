"""clipia: its page on authentication."""

import re

import pytest
from psycopg.types.json import Jsonb

from .products import bearer

OK = (200, "ok")
INVALID = (401, "invalid_api_key")
INSUFFICIENT = (403, "insufficient_scope")

GENERATE = "POST /v1/models/flux-dev"
# Status and result have paths that the page does not name.
READING = ["GET /v1/models", "GET /v1/account", "GET /v1/requests/r_1",
           "GET /v1/requests/r_1/status"]
FORMS = {
    "bearer": ("Authorization", "Bearer "),
    "key": ("Authorization", "Key "),
    "x-api-key": ("X-Api-Key", ""),
}


@pytest.fixture
def clipia(product):
    return product("clipia")


# Headers

@pytest.mark.parametrize("form", FORMS)
def test_three_headers_are_equivalent(clipia, form):
    name, before = FORMS[form]
    both, reader = clipia.mint(), clipia.mint(scopes=["read"])
    for request in [GENERATE, *READING]:
        for key in (both, reader):
            assert (clipia.answer_to(request, {name: before + key.api_key})
                    == clipia.answer(request, key))
    assert clipia.answer_to(GENERATE, {name: before + both.api_key}) == OK


@pytest.mark.parametrize("headers", [
    {},
    {"Authorization": ""},
    {"Authorization": "{key}"},
    {"Authorization": "Basic {key}"},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer {key}, Bearer {key}"},
    {"X-Api-Key": ""},
    {"X-Api-Key": "Bearer {key}"},
    {"Api-Key": "{key}"},
    {"Authorization": "Bearer {key}", "X-Api-Key": "another"},
    {"Authorization": "Bearer clipia_live_nonsense"},
    {"X-Api-Key": "clipia_live_nonsense"},
])
def test_a_missing_or_wrong_key_is_invalid(clipia, headers):
    api_key = clipia.mint().api_key
    headers = {name: value.replace("{key}", api_key) for name, value in headers.items()}
    for request in [GENERATE, *READING]:
        verdict = clipia.ask(request, headers)
        assert (verdict.status, verdict.code) == INVALID
        assert verdict.message == "The API key is not valid."


def test_a_revoked_key_is_invalid_instantly(clipia, connect, database):
    key = clipia.mint()
    elsewhere = type(clipia)(database(connect()), "clipia")
    assert elsewhere.answer(GENERATE, key) == OK
    clipia.revoke(key)
    assert elsewhere.answer(GENERATE, key) == INVALID


# Live and test

@pytest.mark.parametrize("environment", ["live", "test"])
def test_the_prefix_selects_the_environment(clipia, environment):
    key = clipia.mint(environment=environment)
    assert re.fullmatch(rf"clipia_{environment}_[0-9A-Za-z]{{49}}", key.api_key)
    assert clipia.ask(GENERATE, bearer(key)).environment == environment


def test_live_and_test_keys_are_independent(clipia):
    live, test = clipia.mint(), clipia.mint(environment="test")
    assert clipia.answer(GENERATE, live) == clipia.answer(GENERATE, test) == OK
    clipia.revoke(test)
    assert (clipia.answer(GENERATE, live), clipia.answer(GENERATE, test)) == (OK, INVALID)


def test_a_key_of_the_wrong_environment_is_invalid(clipia):
    verdict = clipia.verify(clipia.mint(environment="test"), environment="live")
    assert (verdict.status, verdict.code) == INVALID


def test_a_key_is_shown_once_and_tied_to_its_account(clipia):
    key = clipia.mint()
    assert clipia.is_nowhere(key)
    assert clipia.ask("GET /v1/account", bearer(key)).tenant == "acme"


# Scopes

def test_a_key_has_both_scopes_by_default(clipia):
    key = clipia.mint()
    assert key.scopes == clipia.keys()[0].scopes == ["generate", "read"]
    altered = clipia.db.one("alter_key", clipia.mint(scopes=["read"]).key_id, Jsonb({"scopes": []}))
    assert altered.scopes == ["generate", "read"]


@pytest.mark.parametrize("scopes", [["generate"], ["read"], ["generate", "read"]])
def test_the_allowed_scopes(clipia, scopes):
    assert clipia.mint(scopes=scopes).scopes == scopes


@pytest.mark.parametrize("scope", ["write", "Generate", "generate:all", "read-only"])
def test_other_scopes_are_refused(clipia, scope):
    assert scope in clipia.refused("KS400", "mint", "acme", scopes=["generate", scope])


@pytest.mark.parametrize("act", ["mint", "alter_key"])
def test_a_wildcard_is_no_allowed_scope(clipia, act):
    if act == "mint":
        clipia.refused("KS400", "mint", "acme", scopes=["*"])
    else:
        clipia.db.refused("KS400", "alter_key", clipia.mint().key_id, Jsonb({"scopes": ["*"]}))


@pytest.mark.parametrize("scopes, answer", [
    ([], OK), (["generate"], OK), (["generate", "read"], OK), (["read"], INSUFFICIENT),
])
def test_generating_needs_generate(clipia, scopes, answer):
    assert clipia.answer(GENERATE, clipia.mint(scopes=scopes)) == answer


@pytest.mark.parametrize("reading", READING)
@pytest.mark.parametrize("scopes", [["generate"], ["read"]])
def test_reading_needs_no_scope(clipia, reading, scopes):
    assert clipia.answer(reading, clipia.mint(scopes=scopes)) == OK


def test_keys_are_managed_in_the_dashboard_alone(clipia):
    key = clipia.mint()
    for function, arguments, named in [
            ("mint", ("acme",), {"keyspace": "clipia"}), ("list_keys", ("acme",), {"keyspace": "clipia"}),
            ("revoke", (key.key_id,), {}), ("rotate", (key.key_id,), {})]:
        assert clipia.refusal(key, function, *arguments, **named).sqlstate == "KS403"
    assert clipia.answer(GENERATE, key) == OK
