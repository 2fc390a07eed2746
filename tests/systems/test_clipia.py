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


def test_keys_are_secrets_of_servers(clipia):
    assert clipia.mint().kind == "secret"
    assert "publishable" in clipia.refused("KS400", "mint", "acme", kind="publishable")


def test_a_compromised_key_is_revoked_and_another_made(clipia):
    leaked, other = clipia.mint(), clipia.mint()
    reported = clipia.db.one("report_leak", leaked.api_key, "a public repository")
    assert reported == (leaked.key_id,)
    new = clipia.mint()
    assert [clipia.answer(GENERATE, key) for key in (leaked, other, new)] == [INVALID, OK, OK]


# Credits

EXHAUSTED = (429, "credits_exhausted")


def balance(clipia, key):
    """The answer of GET /v1/account."""
    with clipia.serving("GET /v1/account", key):
        return clipia.db.value("SELECT (keysmith.whoami() -> 'credits')::bigint")


def test_live_keys_charge_the_accounts_balance(clipia):
    clipia.tenant("globex", credits=Jsonb(10))
    clipia.give(credits=10)
    one, two, theirs = clipia.mint(), clipia.mint(), clipia.mint("globex")
    for key, left in ((one, 7), (two, 4), (one, 1)):
        assert clipia.ask(GENERATE, bearer(key), spend=3).credits_remaining == left
    assert [balance(clipia, key) for key in (one, two, theirs)] == [1, 1, 10]


def test_test_keys_charge_no_credits(clipia):
    test = clipia.mint(environment="test")
    assert clipia.answer(GENERATE, test, spend=3) == OK
    clipia.give(credits=10)
    assert clipia.answer(GENERATE, test, spend=3) == OK
    assert balance(clipia, test) == 10


def test_the_account_shows_its_balance_to_any_key(clipia):
    clipia.give(credits=10)
    for options in ({"scopes": ["read"]}, {"scopes": ["generate"]}, {"environment": "test"}):
        assert balance(clipia, clipia.mint(**options)) == 10
    clipia.db.call("add_credits", 5, tenant="acme", keyspace="clipia")
    assert balance(clipia, clipia.mint()) == 15


def test_an_empty_balance_is_told(clipia):
    clipia.give(credits=5)
    key = clipia.mint()
    assert [clipia.answer(GENERATE, key, spend=spend) for spend in (3, 3, 2, 1)] == [
        OK, EXHAUSTED, OK, EXHAUSTED]
    assert [clipia.answer(reading, key) for reading in READING] == [OK] * 4


def test_a_generation_that_is_refused_or_fails_charges_nothing(clipia):
    clipia.give(credits=5)
    key = clipia.mint()
    assert clipia.answer(GENERATE, clipia.mint(scopes=["read"]), spend=3) == INSUFFICIENT
    with pytest.raises(ZeroDivisionError), clipia.serving(GENERATE, key, spend=3) as verdict:
        assert verdict.credits_remaining == 2
        1 / 0
    assert balance(clipia, key) == 5


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


@pytest.fixture
def server(cluster, clipia, dbname):
    """The role of clipia's server, with a table of generations."""
    cluster.execute("CREATE ROLE clipia_server")
    clipia.db.rows("""
        CREATE TABLE generation (id text, account uuid DEFAULT keysmith.current_tenant_id());
        GRANT SELECT, INSERT ON generation TO clipia_server""")
    clipia.db.call("isolate", "generation", "account")
    yield "clipia_server"
    clipia.db.rows("DROP OWNED BY clipia_server")
    cluster.execute("DROP ROLE clipia_server")


def test_status_and_result_are_of_ones_own_generations(clipia, server):
    clipia.tenant("globex")
    ours, theirs = clipia.mint(scopes=["generate"]), clipia.mint("globex")
    for key, generation in ((ours, "r_1"), (theirs, "r_2")):
        with clipia.serving(GENERATE, key):
            clipia.db.rows(f"SET LOCAL ROLE {server}")
            clipia.db.rows("INSERT INTO generation VALUES (%s)", generation)
    for key, own in ((ours, ["r_1"]), (theirs, ["r_2"])):
        for reading in READING[2:]:
            with clipia.serving(reading, key):
                clipia.db.rows(f"SET LOCAL ROLE {server}")
                assert [found for found, in clipia.db.rows("SELECT id FROM generation")] == own


def test_keys_are_managed_in_the_dashboard_alone(clipia):
    key = clipia.mint()
    for function, arguments, named in [
            ("mint", ("acme",), {"keyspace": "clipia"}), ("list_keys", ("acme",), {"keyspace": "clipia"}),
            ("revoke", (key.key_id,), {}), ("rotate", (key.key_id,), {})]:
        assert clipia.refusal(key, function, *arguments, **named).sqlstate == "KS403"
    assert clipia.answer(GENERATE, key) == OK
