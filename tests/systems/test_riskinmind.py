"""riskinmind: its page on API keys."""

import re

import pytest
from psycopg.types.json import Jsonb

from .products import bearer

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
    """With the other of the two choices that the page leaves open."""
    riskinmind.db.call("alter_keyspace", "riskinmind", Jsonb({"at_max": "replace"}))
    return riskinmind


# Authentication

@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_every_endpoint_requires_a_bearer_token(riskinmind, endpoint):
    key = riskinmind.mint()
    assert riskinmind.answer(endpoint, key) == OK
    for headers in ({}, {"X-API-Key": key.api_key}, {"Authorization": f"Key {key.api_key}"},
                    {"Authorization": "Bearer sk_live_abcdef1234567890"}):
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
    riskinmind.refused("KS429", "mint", "acme")
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
    riskinmind.refused("KS429", "mint", "acme")


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
