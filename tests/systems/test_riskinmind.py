"""riskinmind: its page on API keys."""

import re

import pytest
from psycopg.types.json import Jsonb

from .products import Refused, bearer

OK = (200, "ok")
INVALID = (401, "invalid_api_key")
PREDICT = "POST /api/v1/loans/predict"
ENDPOINTS = ["GET /api/v1/keys/", "POST /api/v1/keys/generate", "POST /api/v1/keys/regenerate",
             "POST /api/v1/keys/revoke", "GET /api/v1/keys/logs"]


@pytest.fixture
def riskinmind(product):
    return product("riskinmind")


@pytest.fixture
def replacing(riskinmind):
    """With the second of the two choices that the page leaves open."""
    riskinmind.db.call("alter_keyspace", "riskinmind", Jsonb({"at_max": "replace"}))
    return riskinmind


# Authentication

@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_every_endpoint_requires_a_bearer_token(riskinmind, endpoint):
    key = riskinmind.mint()
    assert riskinmind.answer(endpoint, key) == OK
    for headers in ({}, {"X-API-Key": key.api_key}, {"Authorization": f"Key {key.api_key}"},
                    {"Authorization": "Bearer sk_live_abcdef12"}):
        assert riskinmind.ask(endpoint, headers).status == 401


# Retrieving

def test_the_current_key_is_shown_by_id_snippet_status_and_date(riskinmind):
    assert riskinmind.keys() == []
    key = riskinmind.mint()
    (current,) = riskinmind.keys()
    assert re.fullmatch(r"key_[0-9A-Za-z]{5}", current.display_id)
    assert re.fullmatch(r"sk_live_\.\.\.[0-9A-Za-z]{4}", current.key_snippet)
    assert current.key_snippet[-4:] == key.api_key[-4:]
    assert (current.status.upper(), current.created_at) == ("ACTIVE", key.created_at)


def test_each_customer_has_a_key_of_their_own(riskinmind):
    riskinmind.tenant("other")
    ours, theirs = riskinmind.mint(), riskinmind.mint("other")
    assert [key.key_id for key in riskinmind.keys()] == [ours.key_id]
    assert [key.key_id for key in riskinmind.keys("other")] == [theirs.key_id]


# Generating

@pytest.mark.parametrize("label", [{}, {"label": "Production Application Key"}])
def test_a_key_is_generated_with_an_optional_label(riskinmind, label):
    key = riskinmind.mint(**label)
    assert re.fullmatch(r"sk_live_[0-9A-Za-z]{49}", key.api_key)
    assert (key.label, riskinmind.keys()[0].label) == (label.get("label"),) * 2
    assert riskinmind.answer(PREDICT, key) == OK


def test_the_key_is_not_visible_again(riskinmind):
    assert riskinmind.is_nowhere(riskinmind.mint())


def test_generating_beside_an_active_key_is_an_error(riskinmind):
    key = riskinmind.mint()
    riskinmind.refused("KS409", "mint", "acme")
    assert riskinmind.answer(PREDICT, key) == OK


def test_or_it_replaces_the_active_key(replacing):
    old, new = replacing.mint(), replacing.mint()
    assert (replacing.answer(PREDICT, old), replacing.answer(PREDICT, new)) == (INVALID, OK)
    assert [key.key_id for key in replacing.keys()] == [new.key_id]


# Regenerating

@pytest.mark.parametrize("choice", ["riskinmind", "replacing"])
def test_regenerating_revokes_the_current_key_and_makes_another(request, choice):
    product = request.getfixturevalue(choice)
    old = product.mint(label="Production Application Key")
    new = product.regenerate()
    assert re.fullmatch(r"sk_live_[0-9A-Za-z]{49}", new.api_key)
    assert (product.answer(PREDICT, old), product.answer(PREDICT, new)) == (INVALID, OK)
    (current,) = product.keys()
    assert (current.key_id, current.label) == (new.key_id, "Production Application Key")
    assert product.is_nowhere(new)


def test_regenerating_without_a_key_makes_one(riskinmind):
    assert riskinmind.answer(PREDICT, riskinmind.regenerate()) == OK
    riskinmind.refused("KS409", "mint", "acme")


# Revoking

def test_revoking_is_for_good(riskinmind):
    key = riskinmind.mint()
    riskinmind.revoke(key)
    assert riskinmind.answer(PREDICT, key) == INVALID
    assert riskinmind.keys() == []
    for act in ("enable", "rotate", "revoke"):
        riskinmind.db.refused("KS404", act, key.key_id)


def test_a_new_key_can_follow_a_revoked_one(riskinmind):
    riskinmind.revoke(riskinmind.mint())
    assert riskinmind.ask(PREDICT, bearer(riskinmind.mint())).ok


# Keys that manage keys

def test_a_customers_key_regenerates_and_revokes_itself(riskinmind):
    first = riskinmind.regenerate()
    with riskinmind.signed_in(first):
        assert [key.key_id for key in riskinmind.keys()] == [first.key_id]
        second = riskinmind.regenerate()
    assert not riskinmind.verify(first).ok and riskinmind.verify(second).ok
    with riskinmind.signed_in(second):
        riskinmind.revoke(second)
    assert riskinmind.keys() == []


# Logs

def ask_for_logs(riskinmind, key, page=1):
    riskinmind.db.call("flush_usage")
    with riskinmind.serving("GET /api/v1/keys/logs", key):
        return riskinmind.db.one("usage_logs", "acme", page=page, per_page=10, keyspace="riskinmind")[0]


def test_the_status_is_what_the_application_answered(riskinmind):
    key = riskinmind.mint()
    with riskinmind.serving(PREDICT, key):
        assert riskinmind.db.one("log_request", 422)[0]
    later = riskinmind.ask(PREDICT, bearer(key))
    assert riskinmind.db.one("log_request", 503, request_id=later.request_id)[0]
    statuses = [entry["status"] for entry in ask_for_logs(riskinmind, key)["data"]]
    assert statuses == [503, 422]


def test_logs_come_by_page_newest_first(riskinmind):
    key = riskinmind.mint()
    for n in range(23):
        riskinmind.ask(f"GET /api/v1/loans/{n}", bearer(key))
    riskinmind.db.call("flush_usage")
    pages = [riskinmind.logs(page=page, per_page=10) for page in (1, 2, 3, 4)]
    assert [page["meta"] for page in pages] == [
        {"total": 23, "page": page, "limit": 10} for page in (1, 2, 3, 4)]
    assert [len(page["data"]) for page in pages] == [10, 10, 3, 0]
    listed = [entry["endpoint"] for page in pages for entry in page["data"]]
    assert listed == [f"/api/v1/loans/{n}" for n in range(22, -1, -1)]
    assert [entry["endpoint"] for entry in ask_for_logs(riskinmind, key, 3)["data"]] == listed[20:]


@pytest.mark.parametrize("page, limit", [(0, 10), (-1, 10), (1, 0), (1, 1001)])
def test_impossible_pages_are_errors(riskinmind, page, limit):
    riskinmind.refused("KS400", "usage_logs", "acme", page=page, per_page=limit)


def test_logs_tell_volumes_and_rate_limits(riskinmind):
    riskinmind.give(limits=[{"name": "calls", "limit": 2, "window": "1 day"}])
    key = riskinmind.mint()
    for _ in range(5):
        riskinmind.ask(PREDICT, bearer(key))
    assert [entry["status"] for entry in riskinmind.logs()["data"]] == [429, 429, 429, 200, 200]
    volumes = riskinmind.db.rows("SELECT outcome, sum(requests) FROM keysmith.usage_daily"
                                 " WHERE keyspace = 'riskinmind' GROUP BY outcome ORDER BY outcome")
    assert volumes == [("ok", 2), ("rate_limited", 3)]


def test_logs_outlive_the_key_that_they_are_of(riskinmind):
    first = riskinmind.mint()
    riskinmind.ask(PREDICT, bearer(first))
    second = riskinmind.regenerate()
    (entry,) = ask_for_logs(riskinmind, second)["data"]
    assert entry["endpoint"] == "/api/v1/loans/predict"
    assert riskinmind.logs(key_id=first.key_id)["meta"]["total"] == 1


def test_logs_are_of_the_customer_who_asks(riskinmind):
    riskinmind.tenant("other")
    ours, theirs = riskinmind.mint(), riskinmind.mint("other")
    riskinmind.ask(PREDICT, bearer(theirs))
    assert ask_for_logs(riskinmind, ours)["data"] == []
    for arguments in (("other",), ("acme", theirs.key_id)):
        with pytest.raises(Refused) as refused, riskinmind.serving("GET /api/v1/keys/logs", ours):
            riskinmind.db.call("usage_logs", *arguments, keyspace="riskinmind")
        assert refused.value.sqlstate == "KS404"
