"""Public routes: a request without a key is let through, and a key that is sent is checked all the
same."""

import json

import psycopg
import pytest
from psycopg.types.json import Jsonb

from conftest import wait_until
from test_policy_version import other, renew, without_word  # noqa: F401


@pytest.fixture
def shop(db):
    """A keyspace in which /open is public, and other paths are not listed."""
    db.tenant()
    db.call("alter_keyspace", "default", Jsonb({"unlisted_routes": "refuse"}))
    db.call("define_route", "default", "GET", "/open", ["a"], public=True)
    db.call("define_route", "default", "GET", "/closed", ["a"])
    return db


def ask(db, headers=None, path="/open", method="GET", **more):
    return db.one("authenticate", Jsonb(headers or {}), method, path, **more)


def reason(db, *arguments, **more):
    verdict = ask(db, *arguments, **more)
    assert verdict.ok == (verdict.reason in ("ok", "public")) == (verdict.status == 200)
    return verdict.reason


def bearer(key):
    return {"authorization": f"Bearer {key.api_key}"}


WITHOUT_A_KEY = [{}, {"authorization": ""}, {"Authorization": " \t"}, {"authorization": None}, {"x-api-key": None},
                 {"x-api-key": []}, {"authorization": []}, {"authorization": ["", None]}, {"cookie": "session=1"}]


@pytest.mark.parametrize("headers", WITHOUT_A_KEY, ids=json.dumps)
def test_a_request_without_a_key_is_let_through(shop, headers):
    verdict = ask(shop, headers)
    assert (verdict.ok, verdict.status, verdict.code, verdict.reason) == (True, 200, "ok", "public")
    about_a_key = {name: value for name, value in verdict._asdict().items()
                   if name not in ("ok", "status", "code", "message", "reason", "request_id", "keyspace")}
    assert {name: value for name, value in about_a_key.items() if value not in (None, [])} == {}
    assert verdict.request_id is not None
    assert reason(shop, headers, "/closed") == "missing"
    told = shop.value("SELECT keysmith.authenticate_json(%s, 'GET', '/open')", Jsonb(headers))
    assert (told["ok"], told["reason"], told["key_id"]) == (True, "public", None)


def test_null_headers_are_no_key(shop):
    assert shop.one("authenticate", None, "GET", "/open").reason == "public"
    assert shop.one("authenticate", Jsonb(None), "GET", "/open").reason == "public"


@pytest.mark.parametrize("headers", [
    {"authorization": "Bearer"}, {"authorization": "Basic YTpi"}, {"authorization": "x"}, {"x-api-key": ""},
    {"x-api-key": " "}, {"x-api-key": 5}, {"authorization": {}}, {"authorization": ["", "Bearer"]}, ["x"], "x"], ids=json.dumps)
def test_what_is_no_key_but_in_its_place_is_refused(shop, headers):
    assert reason(shop, headers) == "malformed_header"


def test_a_key_that_is_sent_is_checked(shop):
    good, narrow = shop.mint(scopes=["a"]), shop.mint(scopes=["b"])
    assert reason(shop, bearer(good)) == "ok"
    refused = {"malformed_key": "garbage", "not_found": good.api_key, "revoked": shop.mint().api_key,
               "expired": shop.mint(expires_at="2100-01-01").api_key, "wrong_keyspace": ""}
    shop.call("create_keyspace", "other", prefixes=Jsonb({"secret": {"live": "o_live_"}}))
    shop.tenant("acme", keyspace="other")
    refused["wrong_keyspace"] = shop.mint(keyspace="other").api_key
    shop.rows("UPDATE keysmith_private.key SET expires_at = now() - interval '1 day' WHERE expires_at IS NOT NULL")
    shop.call("revoke", shop.value("SELECT key_id FROM keysmith.verify(%s)", refused["revoked"]))
    refused.pop("not_found")
    for expected, text in refused.items():
        verdict = ask(shop, {"x-api-key": text})
        assert (verdict.ok, verdict.status, verdict.reason) == (False, 401, expected)
    verdict = ask(shop, bearer(narrow))
    assert (verdict.status, verdict.reason, verdict.missing_scopes) == (403, "insufficient_scope", "a")


def test_what_else_a_route_needs_is_for_keys(shop):
    shop.call("define_route", "default", "POST", "/open", [], kind="secret", weight=5, public=True,
              limits=Jsonb([{"limit": 5, "window": "1 hour", "name": "open"}]))
    key = shop.mint(credits=10)
    public = shop.mint(kind="publishable")
    for _ in range(3):
        assert reason(shop, method="POST", spend=3) == "public"
    assert reason(shop, bearer(public), method="POST") == "kind_not_allowed"
    assert ask(shop, bearer(key), method="POST", spend=3).credits_remaining == 7
    assert reason(shop, bearer(key), method="POST", spend=3) == "rate_limited"
    assert reason(shop, method="POST", spend=3) == "public"
    shop.refused("KS400", "authenticate", Jsonb({}), "POST", "/open", spend=-1)


def test_an_allowlist_is_for_keys(shop):
    key = shop.mint(scopes=["a"], allowlist=["192.0.2.0/24"])
    assert reason(shop, bearer(key), ip="198.51.100.1") == "ip_not_allowed"
    assert reason(shop, ip="198.51.100.1") == "public"


# The requests that are public

def test_only_what_the_route_matches_is_public(shop):
    shop.call("define_route", "default", "*", "/docs/*", [], public=True)
    shop.call("define_route", "default", "POST", "/docs/{id}", [])
    for method, path, expected in [
        ("GET", "/open/", "public"), ("GET", "/open?a=b", "public"), ("GET", "/%6fpen", "public"),
        ("get", "/open", "public"),
        ("POST", "/open", "missing"), ("HEAD", "/open", "public"), ("GET", "/Open", "missing"),
        ("GET", "/open/more", "missing"), ("GET", "/", "missing"), ("GET", "/elsewhere", "missing"),
        ("GET", "/closed/../open", "missing"), ("GET", "//open", "missing"), ("GET", "/open/..", "missing"),
        ("GET", "/open%2f", "missing"), ("GET", "/open;x", "missing"), ("GET", "/open\\", "missing"),
        ("GET", "open", "missing"), ("GET", "", "missing"), (None, "/open", "missing"), ("GET", None, "missing"),
        ("", "/open", "missing"), ("GET ", "/open", "missing"), ("*", "/open", "missing"),
        ("GET", "/docs/7", "public"), ("GET", "/docs/7/8", "public"), ("POST", "/docs/7", "missing"),
        ("PUT", "/docs/7", "public"), ("GET", "/docs", "missing"), ("GET", "/docs/../closed", "missing"),
        ("GET", "/" + "a/" * 100, "missing"), ("GET", "/open?" + "x" * 100_000, "missing"),
    ]:
        assert reason(shop, method=method, path=path) == expected, (method, path)


def test_what_is_not_listed_is_never_public(shop):
    shop.call("alter_keyspace", "default", Jsonb({"unlisted_routes": "any_key"}))
    assert reason(shop, path="/elsewhere") == "missing"


def test_each_variant_is_public_or_not(shop):
    shop.call("define_route", "default", "GET", "/open", ["a"], "full")
    shop.call("define_route", "default", "GET", "/open", ["a"], "short", public=True)
    assert [reason(shop, variant=variant) for variant in (None, "", "short", "full", "other", "x" * 2000)] \
        == ["public", "public", "public", "missing", "missing", "missing"]


def test_other_keyspaces_are_not_concerned(shop):
    shop.call("create_keyspace", "other", prefixes=Jsonb({"secret": {"live": "o_live_"}}))
    for keyspace in ("other", "nothing", "", None, "x" * 1000):
        assert reason(shop, keyspace=keyspace) == "missing", keyspace


def test_deciding_about_a_key_alone_knows_no_route(shop):
    assert shop.reason(None) == shop.one("verify_digest", None).reason == "missing"
    assert [verdict.reason for verdict in shop.call("verify_many", [None])] == ["missing"]
    assert shop.value("SELECT keysmith.verify_json(NULL) ->> 'reason'") == "missing"


# Defining

def test_the_view_shows_it_and_defining_again_changes_it(shop):
    def public():
        return shop.value("SELECT public FROM keysmith.routes WHERE pattern = '/open'")

    assert public() is True
    assert shop.value("SELECT count(*) FROM keysmith.routes WHERE public") == 1
    shop.call("define_route", "default", "GET", "/open", "a")
    assert public() is False and reason(shop) == "missing"
    shop.call("define_route", "default", "GET", "/open", "a | b", public=True)
    assert public() is True and reason(shop) == "public"
    assert shop.refused("KS400", "define_route", "default", "GET", "/open", ["a"], public=None) \
        == "public must not be null"
    shop.call("remove_route", "default", "GET", "/open")
    assert reason(shop) == "missing"
    entries = shop.rows("SELECT after -> 'is_public' FROM keysmith.audit WHERE action = 'define_route' ORDER BY at")
    assert [value for value, in entries] == [True, False, False, True]


def test_a_route_that_is_public_no_longer(shop, other):  # noqa: F811
    """Even if the other session has not received word of it yet."""
    assert reason(other) == "public"
    with without_word(shop, "route"):
        shop.rows("UPDATE keysmith_private.route SET is_public = false")
        renew(shop)
        assert reason(other) == "missing"
        shop.rows("UPDATE keysmith_private.route SET is_public = true WHERE pattern = '/open'")
        renew(shop)
        assert reason(other) == "public"
    with shop.session.transaction():
        shop.call("define_route", "default", "GET", "/open", "a")
        assert reason(shop) == "missing"
        assert reason(other) == "public"
    assert reason(other) == "missing"


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_an_old_transaction_too(shop, other, isolation):  # noqa: F811
    other.rows(f"BEGIN ISOLATION LEVEL {isolation}; SELECT 1")
    assert reason(other) == "public"
    shop.call("define_route", "default", "GET", "/open", "a")
    assert reason(other) == "missing"
    other.rows("ROLLBACK")


# The identity, and records

def test_there_is_no_identity(shop):
    key = shop.mint(scopes=["a"])
    shop.rows("BEGIN")
    assert reason(shop, bearer(key)) == "ok"
    assert shop.value("SELECT keysmith.current_tenant()") == "acme"
    shop.rows("SAVEPOINT before")
    assert reason(shop) == "public"
    assert shop.row("SELECT keysmith.current_tenant() AS tenant, keysmith.whoami() AS whoami, "
                    "keysmith.has_scope('a') AS may") == (None, None, False)
    shop.rows("ROLLBACK TO before")
    assert shop.value("SELECT keysmith.current_tenant()") == "acme"
    shop.rows("ROLLBACK")


def test_it_leaves_no_record(shop):
    """It is counted among the decisions. Requests that are refused leave what they always do."""
    key = shop.mint(scopes=["a"])

    def decisions():
        return dict(shop.rows("SELECT labels ->> 'outcome', value::int FROM keysmith.metrics "
                              "WHERE name = 'keysmith_decisions_total'"))

    def unknown():
        return shop.one("usage_status").unknown

    before, unknown_before = decisions(), unknown()
    for _ in range(3):
        reason(shop)
    reason(shop, bearer(key))
    shop.call("flush_usage")
    after = decisions()
    assert after.get("public", 0) - before.get("public", 0) == 3
    assert unknown() == unknown_before
    assert shop.rows("SELECT outcome FROM keysmith.usage") == [("ok",)]
    assert shop.rows("TABLE keysmith.recent_refusals") == []
    reason(shop, {"x-api-key": "garbage"})
    wait_until(lambda: unknown() == unknown_before + 1)


def test_log_request_completes_no_earlier_record(shop):
    key = shop.mint(scopes=["a"])
    shop.rows("BEGIN")
    reason(shop, bearer(key))
    public = ask(shop)
    assert shop.one("log_request", status_code=418)[0] is False
    shop.rows("COMMIT")
    shop.call("flush_usage")
    assert shop.rows("SELECT outcome, status FROM keysmith.usage") == [("ok", 200)]
    assert public.request_id is not None


# Explaining, and PostgREST

def explained(db, *, headers=None, path="/open"):
    return [(step.rule, step.outcome, step.reason, step.saw)
            for step in db.call("explain_verify", None, headers=headers, method="GET", path=path)
            if step.outcome != "not reached"]


@pytest.mark.parametrize("headers", [None, Jsonb({}), Jsonb({"authorization": ""})], ids=str)
def test_explain_verify_says_it(shop, headers):
    assert explained(shop, headers=headers) \
        == [("presented", "pass", "public", "no key, and the route is public")]
    assert explained(shop, headers=headers, path="/closed")[0][:3] == ("presented", "refuse", "missing")
    assert len(shop.call("explain_verify", None, headers=headers, method="GET", path="/open")) \
        == len(shop.call("explain_verify", None))


def test_explain_verify_checks_a_key_that_is_sent(shop):
    narrow = shop.mint(scopes=["b"])
    assert [step[2] for step in explained(shop, headers=Jsonb(bearer(narrow))) if step[1] == "refuse"] \
        == ["insufficient_scope"]
    assert explained(shop, headers=Jsonb({"x-api-key": ""}))[0][:3] == ("presented", "refuse", "malformed_header")


def test_postgrest(shop):
    def request(path, headers):
        with shop.session.transaction(force_rollback=True):
            for name, value in {"headers": json.dumps(headers), "method": "GET", "path": path}.items():
                shop.rows("SELECT set_config(%s, %s, true)", f"request.{name}", value)
            shop.rows("SELECT keysmith.pre_request()")
            return shop.value("SELECT keysmith.current_tenant()")

    assert request("/open", {}) is None
    assert request("/open", bearer(shop.mint(scopes=["a"]))) == "acme"
    for path, headers in [("/closed", {}), ("/open", {"x-api-key": "garbage"})]:
        with pytest.raises(psycopg.Error) as error:
            request(path, headers)
        assert error.value.sqlstate == "PT401"


def test_the_words_of_the_keyspace(shop):
    shop.call("alter_keyspace", "default", Jsonb({"codes": {"missing_authorization": "login"}}))
    assert ask(shop).code == "ok"
    assert ask(shop, path="/closed").code == "login"
