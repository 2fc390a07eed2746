"""serve() and its endpoints: requests in, answers out."""

import json
import random
import re

import psycopg
import pytest
from psycopg.types.json import Jsonb

from serving import ENDPOINTS, Service, serving

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.fixture
def service(cluster, connect, db, dbname):
    with serving(cluster, connect, db, dbname) as service:
        yield service


@pytest.fixture
def keys(service):
    for endpoint in ENDPOINTS:
        service.define(*endpoint)
    return service


@pytest.fixture
def key(service):
    return service.admin.mint()


# What is not an endpoint

def test_other_requests_are_for_the_application(keys, key):
    answer = keys.ask(key, "GET", "/v1/models")
    assert answer._replace(request_id=None) == (
        False, 200, {}, None, None, True, "acme", key.key_id)
    assert UUID.fullmatch(str(answer.request_id))


def test_the_identity_stays_for_the_transaction(keys, key):
    with keys.app.session.transaction():
        keys.app.one("serve", json.dumps({"X-Api-Key": key.api_key}), "GET", "/v1/models")
        assert keys.app.value("SELECT keysmith.current_tenant()") == "acme"
    assert keys.app.value("SELECT keysmith.current_tenant()") is None


@pytest.mark.parametrize("headers, code", [
    ({}, "missing_authorization"), ({"Authorization": "Digest x"}, "invalid_authorization"),
    ({"Authorization": "Bearer ks_live_x"}, "invalid_api_key")])
def test_a_refusal_is_answered(keys, headers, code):
    for path in ("/v1/models", "/v1/keys"):
        answer = keys.ask(None, "GET", path, headers=headers)
        assert (answer.handled, answer.ok, answer.status) == (True, False, 401)
        assert answer.body["code"] == code
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert (answer.tenant, answer.key_id) == (None, None)


# Operations

def test_a_key_is_made(keys, key):
    answer = keys.ask(key, "POST", "/v1/keys", {"label": "CI", "metadata": {"a": 1}})
    assert (answer.handled, answer.status, answer.ok) == (True, 201, True)
    assert answer.headers == {"Content-Type": "application/json", "Cache-Control": "no-store"}
    assert (answer.body["label"], answer.body["status"]) == ("CI", "active")
    assert answer.body["metadata"] == {"a": 1}
    assert RFC3339.fullmatch(answer.body["created_at"]) and answer.body["expires_at"] is None
    made = keys.admin.verify(answer.body["api_key"])
    assert (made.ok, made.tenant, str(made.key_id)) == (True, "acme", answer.body["key_id"])


def test_keys_are_listed(keys, key):
    made = keys.ask(key, "POST", "/v1/keys", {"label": "CI"}).body
    answer = keys.ask(key, "GET", "/v1/keys")
    assert [row["key_id"] for row in answer.body["keys"]] == [str(key.key_id), made["key_id"]]
    assert {"page": 1, "limit": 100, "total": 2}.items() <= answer.body.items()
    assert made["api_key"] not in json.dumps(answer.body)
    assert "Cache-Control" not in answer.headers
    second = keys.ask(key, "GET", "/v1/keys?page=2&per_page=1").body
    assert [row["label"] for row in second["keys"]] == ["CI"]
    assert (second["page"], second["limit"], second["total"]) == (2, 1, 2)
    beyond = keys.ask(key, "GET", "/v1/keys?page=9").body
    assert (beyond["keys"], beyond["total"]) == ([], 2)


def test_a_list_is_narrowed_by_the_query(keys, key):
    public = keys.admin.mint(kind="publishable")
    gone = keys.admin.mint(label="gone")
    keys.admin.call("revoke", gone.key_id)

    def listed(query):
        return [row["key_id"] for row in keys.ask(key, "GET", f"/v1/keys?{query}").body["keys"]]

    assert listed("kind=publishable") == [str(public.key_id)]
    assert listed("include_revoked=true&status=revoked") == [str(gone.key_id)]
    assert listed("environment=test") == []
    assert len(listed("include_revoked=true")) == 3
    for query in ("status=gone", "kind=both", "include_revoked=maybe"):
        assert keys.ask(key, "GET", f"/v1/keys?{query}").status == 400, query


@pytest.mark.parametrize("call", [
    "keysmith.serve(%(headers)s, 'GET', '/v1/keys?per_page=3')",
    "keysmith.serve(%(headers)s, 'GET', '/v1/keys/' || %(key_id)s)", "keysmith.list_keys('acme')"])
def test_a_list_reads_the_keys_of_its_tenant_alone(keys, key, call):
    keys.admin.rows("SELECT keysmith.create_tenant('t' || n) FROM generate_series(1, 20) n")
    keys.admin.rows("SELECT keysmith.mint('t' || n % 20 + 1) FROM generate_series(1, 2000) n")
    keys.admin.rows("ANALYZE keysmith_private.key")
    headers = json.dumps({"X-Api-Key": key.api_key})

    def read():
        return keys.admin.value("SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables "
                                "WHERE relid = 'keysmith_private.key'::regclass")

    with keys.admin.session.transaction():
        before = read()
        keys.admin.session.execute(f"SELECT {call}", {"headers": headers, "key_id": str(key.key_id)})
        assert read() - before < 100


def test_a_key_is_shown(keys, key):
    answer = keys.ask(key, "GET", f"/v1/keys/{key.key_id}")
    assert (answer.status, answer.body["key_id"]) == (200, str(key.key_id))
    assert set(answer.body) >= {"label", "status", "scopes", "created_at", "last_used_at"}


def test_a_key_is_changed(keys, key):
    other = keys.admin.mint(label="old")
    answer = keys.ask(key, "PATCH", f"/v1/keys/{other.key_id}",
                      {"label": "new", "allowlist": ["203.0.113.0/24"]})
    assert (answer.status, answer.body["label"]) == (200, "new")
    assert answer.body["allowlist"] == ["203.0.113.0/24"]
    cleared = keys.ask(key, "PATCH", f"/v1/keys/{other.key_id}", {"label": None})
    assert (cleared.body["label"], cleared.body["allowlist"]) == (None, ["203.0.113.0/24"])


def test_a_key_is_disabled_enabled_and_revoked(keys, key):
    other = keys.admin.mint()
    path = f"/v1/keys/{other.key_id}"
    for method, at, status, reason in [("POST", f"{path}/disable", "disabled", "disabled"),
                                       ("POST", f"{path}/enable", "active", "ok"),
                                       ("DELETE", path, "revoked", "revoked")]:
        answer = keys.ask(key, method, at)
        assert (answer.status, answer.body["status"]) == (200, status)
        assert keys.admin.reason(other.api_key) == reason
    assert keys.ask(key, "DELETE", path).status == 404


def test_a_key_is_rotated(keys, key):
    answer = keys.ask(key, "POST", f"/v1/keys/{key.key_id}/rotate", {"grace": "1 hour"})
    assert answer.status == 200 and answer.headers["Cache-Control"] == "no-store"
    assert keys.admin.reason(answer.body["api_key"]) == keys.admin.reason(key.api_key) == "ok"
    other = keys.admin.mint()
    at_once = keys.ask(other, "POST", f"/v1/keys/{other.key_id}/rotate")
    assert keys.admin.reason(other.api_key) == "revoked"
    assert keys.admin.reason(at_once.body["api_key"]) == "ok"


def test_a_key_is_named_by_the_id_that_the_product_shows(service):
    service.admin.call("create_keyspace", "shown", display='{"id": "key_{random:8}"}')
    service.define("DELETE", "/k/{id}", "revoke", keyspace="shown",
                   response={"id": "{display_id}", "done": True})
    for tenant in ("acme", "other"):
        service.admin.tenant(tenant, keyspace="shown")
    acting, other = (service.admin.mint(keyspace="shown") for _ in range(2))
    theirs = service.admin.mint("other", keyspace="shown")

    def revoked(key):
        return service.ask(acting, "DELETE", f"/k/{key.display_id}", keyspace="shown")

    assert revoked(theirs).status == 404 and service.admin.reason(theirs.api_key, keyspace="shown") == "ok"
    assert revoked(other).body == {"id": other.display_id, "done": True}
    assert revoked(other).status == 404


def test_without_an_id_an_operation_is_about_the_acting_key(service, key):
    service.define("POST", "/revoke", "revoke")
    service.define("GET", "/key", "show_key")
    assert service.ask(key, "GET", "/key").body["key_id"] == str(key.key_id)
    answer = service.ask(key, "POST", "/revoke", {"reason": "lost"})
    assert (answer.status, answer.body["status"], answer.body["revoked_reason"]) == (
        200, "revoked", "lost")
    assert service.admin.reason(key.api_key) == "revoked"


def test_a_key_is_regenerated(keys, key):
    answer = keys.ask(key, "POST", "/v1/regenerate")
    assert answer.status == 200 and keys.admin.reason(key.api_key) == "revoked"
    assert keys.admin.reason(answer.body["api_key"]) == "ok"


def test_logs_and_totals_show_credits_units_and_tags(service):
    service.define("GET", "/v1/logs", "usage_logs")
    service.define("GET", "/v1/usage", "usage_totals")
    service.define("GET", "/v1/plain", "usage_totals", response={"all": [{"at": "{at}", "used": "{units}", "paid": "{spend}"}]})
    key = service.admin.mint(credits=100)
    for spend, weights in ((3, {"tokens": 7, "images": 1}), (2, {"tokens": 5})):
        with service.app.session.transaction():
            assert service.app.verify(key.api_key, spend=spend, weights=json.dumps(weights), subject="ann").ok
            service.app.one("log_request", tags=json.dumps({"model": "small"}))
    service.admin.call("flush_usage")
    rows = service.ask(key, "GET", "/v1/logs").body["data"]
    assert [[row[name] for name in ("spend", "weights", "subject", "tags")] for row in rows] == [
        [2, {"tokens": 5}, "ann", {"model": "small"}], [3, {"tokens": 7, "images": 1}, "ann", {"model": "small"}]]
    for per in ("day", "hour"):
        totals = service.ask(key, "GET", f"/v1/usage?per={per}").body["data"]
        assert sum(row["spend"] for row in totals) == 5
        assert sum(row["units"].get("tokens", 0) for row in totals) == 12
        assert sum(row["units"].get("images", 0) for row in totals) == 1
    (day,) = service.ask(key, "GET", "/v1/plain").body["all"]
    assert (day["used"], day["paid"]) == ({"tokens": 12, "images": 1}, 5)
    other = service.admin.mint()
    service.ask(other, "GET", "/v1/usage")
    service.admin.call("flush_usage")
    (day,) = service.ask(other, "GET", "/v1/usage").body["data"]
    assert (day["spend"], day["units"]) == (0, {})


def test_who_is_asking(keys, key):
    body = keys.ask(key, "GET", "/v1/me").body
    assert (body["tenant"], body["key_id"]) == ("acme", str(key.key_id))
    assert body["metadata"] == {"provider": "twilio", "nested": {"a": [1]}}


def test_logs_and_totals(keys, key):
    for _ in range(3):
        keys.ask(key, "GET", "/v1/models")
    keys.ask(key, "DELETE", f"/v1/keys/{'0' * 8}-0000-0000-0000-{'0' * 12}")
    keys.ask(None, "GET", "/v1/models")
    keys.admin.call("flush_usage")
    logs = keys.ask(key, "GET", "/v1/logs?page=1&per_page=2").body
    assert logs["meta"] == {"total": 4, "page": 1, "limit": 2}
    assert [(row["method"], row["status"]) for row in logs["data"]] == [
        ("DELETE", 404), ("GET", 200)]
    assert RFC3339.fullmatch(logs["data"][0]["at"])
    keys.admin.call("flush_usage")
    (day,) = keys.ask(key, "GET", "/v1/usage").body["data"]
    assert (day["requests"], day["refused"]) == (5, 0)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT00:00:00Z", day["at"])
    assert keys.ask(key, "GET", "/v1/usage?per=hour").body["data"][-1]["requests"] >= 1
    assert keys.ask(key, "GET", "/v1/usage?until=2020-01-01T00:00:00Z").body["data"] == []
    assert keys.ask(key, "GET", "/v1/usage?per=year").status == 400


def test_usage_is_of_the_acting_key_unless_all_are_asked_for(keys, key):
    other = keys.admin.mint()
    for each in (key, other, other):
        keys.ask(each, "GET", "/v1/models")
    keys.admin.call("flush_usage")
    assert keys.ask(key, "GET", "/v1/logs").body["meta"]["total"] == 1
    keys.admin.call("flush_usage")
    assert keys.ask(key, "GET", "/v1/logs?all_keys=true").body["meta"]["total"] == 4
    keys.admin.call("flush_usage")
    (own,), (all_keys,) = (keys.ask(other, "GET", path).body["data"]
                           for path in ("/v1/usage", "/v1/usage?all_keys=true"))
    assert own["requests"] == 2 and all_keys["requests"] >= 5


def test_a_page_has_a_hundred_keys_unless_it_is_asked_for(keys, key):
    keys.admin.rows("SELECT keysmith.mint('acme') FROM generate_series(1, 104)")
    keys.define("GET", "/all", "list_keys", request={}, response={"keys": [{"id": "{key_id}"}]})
    first = keys.ask(key, "GET", "/v1/keys").body
    assert (len(first["keys"]), first["limit"], first["total"]) == (100, 100, 105)
    assert len(keys.ask(key, "GET", "/v1/keys?page=2").body["keys"]) == 5
    assert len(keys.ask(key, "GET", "/v1/keys?per_page=1000").body["keys"]) == 105
    assert len(keys.ask(key, "GET", "/all").body["keys"]) == 105


def test_an_answer_has_a_bound_and_nothing_is_done_beyond_it(service, key):
    service.define("POST", "/k", "mint", request={"metadata": "data"}, response=["{metadata.x}"] * 600)
    answer = service.ask(key, "POST", "/k", {"data": {"x": "y" * 60_000}})
    assert (answer.status, answer.body["code"]) == (400, "invalid_request")
    assert answer.body["message"] == "the answer would have more than 16777216 bytes"
    assert service.admin.value("SELECT count(*) FROM keysmith.keys") == 1
    assert service.ask(key, "POST", "/k", {"data": {"x": "y" * 20_000}}).status == 201


def test_the_log_has_the_status_of_the_answer(keys, key):
    made = keys.ask(key, "POST", "/v1/keys", {"label": "CI"})
    bad = keys.ask(key, "POST", "/v1/keys", {"label": 1})
    keys.admin.call("flush_usage")
    statuses = dict(keys.admin.rows("SELECT request_id, status FROM keysmith.usage"))
    assert statuses == {made.request_id: 201, bad.request_id: 400}


# Tenants, environments, bounds

def test_no_request_reaches_another_tenant(keys, key):
    keys.admin.tenant("other")
    theirs = keys.admin.mint("other")
    for method, suffix, body in [("GET", "", None), ("DELETE", "", None), ("PATCH", "", {"label": "x"}),
                                 ("POST", "/rotate", None), ("POST", "/disable", None)]:
        answer = keys.ask(key, method, f"/v1/keys/{theirs.key_id}{suffix}", body)
        assert (answer.status, answer.body["code"]) == (404, "not_found"), method
    for field in ("tenant", "keyspace", "credits"):
        assert keys.ask(key, "POST", "/v1/keys", {field: "other"}).status == 400
    assert keys.ask(key, "GET", "/v1/keys?tenant=other").status == 400
    assert keys.admin.reason(theirs.api_key) == "ok"


def test_a_publishable_key_manages_nothing(keys, key):
    public = keys.admin.mint(kind="publishable")
    for method, path in [("GET", "/v1/keys"), ("POST", "/v1/keys"),
                         ("DELETE", f"/v1/keys/{key.key_id}"), ("GET", f"/v1/keys/{key.key_id}")]:
        answer = keys.ask(public, method, path)
        assert (answer.status, answer.body["code"]) == (403, "insufficient_kind"), path
    assert keys.ask(public, "GET", "/v1/me").status == 200
    assert keys.ask(public, "GET", f"/v1/keys/{public.key_id}").status == 200


def test_a_publishable_key_does_not_see_what_was_asked(keys, key):
    """Everyone can read it, so everyone could see addresses and paths."""
    publishable = keys.admin.mint(kind="publishable")
    keys.define("GET", "/v1/keys/{id}/logs", "usage_logs")
    for path in ("/v1/logs", "/v1/usage", f"/v1/keys/{publishable.key_id}/logs"):
        answer = keys.ask(publishable, "GET", path)
        assert (answer.status, answer.body["code"]) == (403, "insufficient_kind")
        assert keys.ask(key, "GET", path).status == 200


def test_a_new_key_gets_no_more_than_its_giver_has(keys, service):
    service.admin.call("define_scope", "default", "read")
    service.admin.call("define_scope", "default", "write")
    reader = service.admin.mint(scopes=["read"])
    refused = keys.ask(reader, "POST", "/v1/keys", {"scopes": ["write"]})
    assert (refused.status, refused.body["code"]) == (403, "forbidden")
    assert keys.ask(reader, "POST", "/v1/keys", {"scopes": ["read"]}).status == 201


def test_an_operation_needs_the_level_of_its_function(keys, key, cluster):
    keys.admin.call("revoke_access", "serving", "issuer")
    answer = keys.ask(key, "GET", "/v1/keys")
    assert (answer.status, answer.body) == (
        500, {"code": "internal_error", "message": "An internal error occurred."})
    assert keys.ask(key, "GET", "/v1/me").status == 200
    keys.admin.call("revoke_access", "serving")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        keys.ask(key, "GET", "/v1/me")


def test_the_log_has_the_error_and_not_the_request(keys, key, cluster):
    """PostgreSQL logs the statement with an error. Drivers may write the headers into it."""
    keys.admin.call("revoke_access", "serving", "issuer")
    start = cluster.log.stat().st_size
    headers = json.dumps({"X-Api-Key": key.api_key})
    keys.app.rows("SET client_min_messages = log")
    heard = []
    keys.app.session.add_notice_handler(lambda notice: heard.append(notice.message_primary))
    assert keys.app.value(f"SELECT (keysmith.serve('{headers}', 'GET', '/v1/keys')).status") == 500
    log = cluster.log.read_bytes()[start:].decode()
    assert 'serve answers an error: role "serving" has no access for list_keys' in log
    assert key.api_key not in log and not heard


def test_a_route_says_what_an_endpoint_needs(keys, key):
    keys.admin.call("define_route", "default", "POST", "/v1/keys", "keys:write")
    narrow = keys.admin.mint(scopes=["other"])
    answer = keys.ask(narrow, "POST", "/v1/keys")
    assert (answer.status, answer.body["code"]) == (403, "insufficient_scope")
    assert 'scope="keys:write"' in answer.headers["WWW-Authenticate"]
    assert keys.ask(narrow, "GET", "/v1/keys").status == 200
    assert keys.ask(key, "POST", "/v1/keys").status == 201


def test_an_endpoint_counts_as_a_listed_route(keys, key):
    keys.admin.call("alter_keyspace", "default", '{"unlisted_routes": "refuse"}')
    assert keys.ask(key, "GET", "/v1/keys").status == 200
    assert keys.ask(key, "GET", "/v1/models").status == 403


def test_a_route_for_all_methods_holds_for_endpoints_of_its_pattern(keys, key):
    keys.admin.call("define_route", "default", "*", "/v1/keys", "keys:write")
    narrow = keys.admin.mint(scopes=["other"])
    assert keys.ask(narrow, "GET", "/v1/keys").status == 403


def test_a_public_route_opens_no_endpoint(keys, key):
    keys.admin.call("define_route", "default", "GET", "/v1/me", "", public=True)
    answer = keys.ask(None, "GET", "/v1/me")
    assert (answer.status, answer.body["code"]) == (401, "missing_authorization")
    assert keys.ask(key, "GET", "/v1/me").status == 200


# Methods

def test_head_is_get_without_a_body(keys, key):
    answer = keys.ask(key, "HEAD", "/v1/keys")
    assert (answer.handled, answer.status, answer.body) == (True, 200, None)
    assert answer.headers["Content-Type"] == "application/json"
    assert keys.ask(None, "HEAD", "/v1/keys")[:2] == (True, 401)
    assert keys.ask(key, "HEAD", "/v1/regenerate").status == 405
    assert keys.admin.reason(key.api_key) == "ok"


def test_options_needs_no_key(keys):
    answer = keys.ask(None, "OPTIONS", "/v1/keys")
    assert (answer.handled, answer.status, answer.body) == (True, 204, None)
    assert answer.headers == {"Allow": "GET, HEAD, OPTIONS, POST"}
    assert keys.ask(None, "OPTIONS", "/v1/regenerate").headers["Allow"] == "OPTIONS, POST"
    assert keys.ask(None, "OPTIONS", "/v1/models").status == 401


def test_another_method_is_405(keys, key):
    answer = keys.ask(key, "PUT", "/v1/keys")
    assert (answer.handled, answer.status, answer.body["code"]) == (True, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS, POST"
    assert keys.ask(None, "PUT", "/v1/keys").status == 401


def test_a_route_as_specific_is_the_applications(keys, key):
    keys.admin.call("define_route", "default", "PUT", "/v1/keys", "")
    keys.admin.call("define_route", "default", "GET", "/v1/keys/stats", "")
    assert not keys.ask(key, "PUT", "/v1/keys").handled
    assert keys.ask(key, "OPTIONS", "/v1/keys").headers["Allow"] == "GET, HEAD, OPTIONS, POST, PUT"
    assert not keys.ask(key, "PUT", "/v1/other").handled
    keys.admin.call("define_route", "default", "*", "/v1/*", "")
    assert keys.ask(key, "DELETE", "/v1/keys").status == 405


def test_a_route_that_is_more_specific_is_the_applications(keys, key):
    """Its scopes are what the request was let through by."""
    keys.admin.call("define_route", "default", "GET", "/v1/keys/{id}", "keys:read")
    keys.admin.call("define_route", "default", "GET", "/v1/keys/stats", "")
    narrow = keys.admin.mint(scopes=["other"])
    assert not keys.ask(narrow, "GET", "/v1/keys/stats").handled
    assert not keys.ask(narrow, "HEAD", "/v1/keys/stats").handled
    assert keys.ask(narrow, "GET", "/v1/keys/statistics").status == 403
    keys.define("POST", "/{part}/{id}", "disable")
    keys.admin.call("define_route", "default", "POST", "/{part}/{id}", "keys:write")
    keys.admin.call("define_route", "default", "*", "/guests/{name}", "", public=True)
    assert keys.ask(narrow, "POST", f"/staff/{key.key_id}").status == 403
    assert not keys.ask(narrow, "POST", f"/guests/{key.key_id}").handled
    assert not keys.ask(None, "POST", f"/guests/{key.key_id}").handled
    assert keys.admin.reason(key.api_key) == "ok"


# Errors

def test_errors_name_the_fields_of_the_body(service, key):
    service.define("POST", "/k", "mint", request={"label": "name", "allowlist": "ipAllowlist"})
    for body, message in [
        ({"name": "x" * 101}, "name must have at most 100 characters"),
        ({"label": "x"}, '"label" is not known here, only '),
        ({"name": 1}, "name must be a string"),
        ({"ipAllowlist": "10.0.0.0/8"}, "ipAllowlist must be an array of strings"),
    ]:
        answer = service.ask(key, "POST", "/k", body)
        assert (answer.status, answer.body["code"]) == (400, "invalid_request")
        assert answer.body["message"].startswith(message), answer.body
    bad = service.ask(key, "POST", "/k", {"ipAllowlist": ["10.0.0.0/99"]})
    assert bad.status == 400 and "10.0.0.0/99" in bad.body["message"]


@pytest.mark.parametrize("body", [[], "{}", 1, True, ["label"]])
def test_a_body_is_an_object(keys, key, body):
    answer = keys.ask(key, "POST", "/v1/keys", body)
    assert (answer.status, answer.body["message"]) == (400, "the body must be a JSON object")


def test_a_null_body_is_none(keys, key):
    with keys.app.session.transaction():
        answer = keys.app.one("serve", json.dumps({"X-Api-Key": key.api_key}), "POST", "/v1/keys",
                              body="null")
    assert answer.status == 201


def test_bodies_are_bounded(keys, key):
    big = keys.ask(key, "POST", "/v1/keys", {"label": "x" * 10_000_000})
    assert (big.status, big.body["code"]) == (413, "content_too_large")
    deep = json.loads("[" * 200 + "]" * 200)
    assert keys.ask(key, "POST", "/v1/keys", {"metadata": {"a": deep}}).status == 400
    # PostgreSQL stores such a number in some bytes, and its text has all zeros.
    for number in ("1e131071", "1e-16000", "1e400"):
        answer = keys.app.one("serve", json.dumps({"X-Api-Key": key.api_key}), "POST", "/v1/keys",
                              body=f'{{"metadata": {{"a": [{number}]}}}}')
        assert (answer.status, answer.body["code"]) == (400, "invalid_request")
    assert keys.ask(key, "POST", "/v1/keys", {"metadata": {"a": [1.7e308, 5e-324, -0.1]}}).status == 201
    # The application's own bodies have no bounds.
    assert not keys.ask(key, "POST", "/v1/images", {"label": "x" * 10_000_000}).handled


def test_a_body_that_was_not_read_is_bounded_by_its_length(keys, key):
    """An application need not read a long body: the header says how long it is."""
    for length in ("131073", " 131073", "9" * 100, ["5", "131073"]):
        answer = keys.ask(key, "POST", "/v1/keys", headers={"Content-Length": length})
        assert (answer.status, answer.body["code"]) == (413, "content_too_large"), length
        assert not keys.ask(key, "POST", "/v1/images", headers={"Content-Length": length}).handled
    for length in ("0", "131072", "-1", "x", 1, None):
        assert keys.ask(key, "POST", "/v1/keys", headers={"Content-Length": length}).status == 201, length


def test_content_types(keys, key):
    def status(kind):
        return keys.ask(key, "POST", "/v1/keys", {}, headers={"content-type": kind}).status

    for good in ("application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json",
                 "application/x-www-form-urlencoded", ["application/json"], None):
        assert status(good) == 201, good
    for bad in ("text/plain", "text/json-ish", "multipart/form-data; boundary=x", "", "application/xml",
                1, ["application/json", "text/plain"]):
        assert status(bad) == 415, bad
    assert keys.ask(key, "GET", "/v1/keys", headers={"Content-Type": "text/plain"}).status == 200


def test_queries_are_read_as_forms_are(keys, key):
    assert keys.ask(key, "POST", "/v1/keys?label=a+b%20%C3%A9").body["label"] == "a b é"
    for query in ("label=a&label=b", "label=%", "label=%00", "label=a&%6Cabel=b", "x=1"):
        assert keys.ask(key, "POST", f"/v1/keys?{query}").status == 400, query
    both = keys.ask(key, "POST", "/v1/keys?label=a", {"label": "b"})
    assert both.body["message"] == "label is in the body and in the query"
    for query in ("page=0", "page=x", "page=-1", "per_page=1001", "page=99999999999999999999"):
        assert keys.ask(key, "GET", f"/v1/keys?{query}").status == 400, query


def test_hostile_values_change_nothing(keys, key):
    before = keys.admin.value("SELECT count(*) FROM keysmith.keys")
    for body in [{"label": "a\nb"}, {"scopes": [None]}, {"scopes": [f"s{n}" for n in range(5000)]},
                 {"expires_at": "infinity"}, {"expires_at": "2030-02-31T00:00:00Z"},
                 {"expires_at": "yesterday"}, {"kind": "'; DROP TABLE x; --"}, {"kind": None},
                 {"limits": {"a": 1}}, {"metadata": []}, {"allowlist": ["x"]}, {"owner": "nobody"},
                 {"role": "nothing"}, {"environment": "moon"}]:
        answer = keys.ask(key, "POST", "/v1/keys", body)
        assert 400 <= answer.status < 500, body
    for id in ("x", "%27", "' OR 1=1", "é", "a" * 5000, "00000000-0000-0000-0000-00000000000"):
        assert keys.ask(key, "DELETE", f"/v1/keys/{id}").status == 404, id
    assert keys.admin.value("SELECT count(*) FROM keysmith.keys") == before


def test_a_failure_undoes_its_own_changes_only(keys, key):
    with keys.app.session.transaction():
        headers = json.dumps({"X-Api-Key": key.api_key})
        keys.app.one("serve", headers, "POST", "/v1/keys", body='{"label": "kept"}')
        keys.app.one("serve", headers, "POST", "/v1/keys", body='{"label": 1}')
        failed = keys.app.one("serve", headers, "DELETE", "/v1/keys/none")
        assert failed.status == 404
    assert keys.admin.value("SELECT count(*) FROM keysmith.keys WHERE label = 'kept'") == 1


def test_a_message_does_not_repeat_a_long_value(keys, key):
    for path, body in ((f"/v1/keys/{key.key_id}/rotate", {"grace": "x" * 100_000}),
                       ("/v1/keys", {"allowlist": ["x" * 100_000]})):
        answer = keys.ask(key, "POST", path, body)
        assert answer.status == 400 and "xxx" in answer.body["message"]
        assert len(answer.body["message"]) <= 500


def test_a_request_of_a_parallel_query_is_served(keys, key):
    for name in ("parallel_setup_cost", "parallel_tuple_cost", "min_parallel_table_scan_size"):
        keys.app.rows(f"SET {name} = 0")
    counted = "FROM (SELECT count(*) AS n FROM pg_attribute) c WHERE n > 0"
    assert "Parallel" in str(keys.app.rows(f"EXPLAIN SELECT keysmith.current_tenant() {counted}"))
    headers = json.dumps({"X-Api-Key": key.api_key})
    for method in ("GET", "POST"):
        found = keys.app.rows(f"SELECT (keysmith.serve(%s, %s, '/v1/keys')).handled {counted}", headers, method)
        assert found == [(True,)]


def test_a_conflict_is_409(keys, key):
    keys.admin.call("alter_keyspace", "default", '{"max_active_keys": 1}')
    answer = keys.ask(key, "POST", "/v1/keys")
    assert (answer.status, answer.body["code"]) == (409, "conflict")


def test_a_canceled_statement_is_an_error(keys, key, connect):
    blocker = connect(autocommit=False)
    blocker.execute("SELECT * FROM keysmith_private.key FOR UPDATE")
    with pytest.raises(psycopg.errors.QueryCanceled):
        with keys.app.session.transaction():
            keys.app.session.execute("SET LOCAL statement_timeout = '300ms'")
            keys.app.one("serve", json.dumps({"X-Api-Key": key.api_key}), "DELETE", f"/v1/keys/{key.key_id}")


def test_a_lock_that_is_not_granted_is_503(keys, key, connect):
    blocker = connect(autocommit=False)
    blocker.execute("SELECT * FROM keysmith_private.key FOR UPDATE")
    with keys.app.session.transaction():
        keys.app.session.execute("SET LOCAL lock_timeout = '100ms'")
        answer = keys.app.one("serve", json.dumps({"X-Api-Key": key.api_key}), "DELETE",
                              f"/v1/keys/{key.key_id}")
    assert (answer.status, answer.body["code"]) == (503, "unavailable")


def test_a_read_only_transaction_is_503(keys, key):
    with keys.app.session.transaction():
        keys.app.session.execute("SET TRANSACTION READ ONLY")
        answer = keys.app.one("serve", json.dumps({"X-Api-Key": key.api_key}), "POST", "/v1/keys")
    assert answer.status == 503


def test_the_keyspace_words_its_errors(keys, key):
    keys.admin.call("alter_keyspace", "default", json.dumps({
        "error_body": {"error": {"code": "{code:upper}", "message": "{message}", "id": "{request_id}"}},
        "codes": {"not_found": {"code": "no_such_key", "message": "No such key.", "status": 410},
                  "invalid_request": "bad_request"}}))
    gone = keys.ask(key, "DELETE", "/v1/keys/none")
    assert (gone.status, gone.body) == (410, {"error": {
        "code": "NO_SUCH_KEY", "message": "No such key.", "id": str(gone.request_id)}})
    bad = keys.ask(key, "POST", "/v1/keys", {"label": 1})
    assert bad.body["error"]["code"] == "BAD_REQUEST"
    assert bad.body["error"]["message"] == "label must be a string"
    keys.admin.call("alter_keyspace", "default", '{"error_body": "problem"}')
    keys.admin.call("alter_keyspace", "default", json.dumps({"codes": {
        "forbidden": {"message": "No."}, "insufficient_kind": {"code": "secret_only", "message": "Secret."}}}))
    public = keys.ask(keys.admin.mint(kind="publishable"), "POST", "/v1/keys")
    assert (public.status, public.body["code"], public.body["detail"]) == (403, "secret_only", "Secret.")
    problem = keys.ask(key, "POST", "/v1/keys", {"label": 1})
    assert problem.headers["Content-Type"] == "application/problem+json"
    assert problem.body["title"] == "Bad Request"


# Templates

def test_a_template_shapes_the_answer(service, key):
    service.define("GET", "/keys", "list_keys",
                   request={"kind": {"is": "secret"}, "page": "page", "per_page": "limit"},
                   response={"success": True, "data": [{
                       "id": "{key_id}", "state": "{status:upper}", "text": "<{label}>", "none": "{label}",
                       "scopes": "{scopes}", "{literal}": "{{x}}"}],
                       "meta": {"n": "{total}", "p": "{page} of {limit}"}})
    service.admin.mint(kind="publishable")
    answer = service.ask(key, "GET", "/keys?limit=5")
    assert answer.body == {
        "success": True, "meta": {"n": 1, "p": "1 of 5"},
        "data": [{"id": str(key.key_id), "state": "ACTIVE", "text": "<>", "none": None, "scopes": [],
                  "{literal}": "{x}"}]}


def test_a_field_of_metadata_is_a_value(service, key):
    service.define("GET", "/me", "whoami", response={
        "provider": "{metadata.provider}", "a": "{metadata.nested.a}", "no": "{metadata.x.y}"})
    assert service.ask(key, "GET", "/me").body == {"provider": "twilio", "a": [1], "no": None}


def test_an_answer_may_have_no_body(service, key):
    service.define("DELETE", "/k/{id}", "revoke", status=204)
    answer = service.ask(key, "DELETE", f"/k/{key.key_id}")
    assert (answer.status, answer.body, answer.headers) == (204, None, {})


@pytest.mark.parametrize("response, why", [
    ({"d": "{digest}"}, "there is no {digest} here"), ({"t": "{tenants}"}, "there is no {tenants}"),
    ({"k": "{api_key}"}, "there is no {api_key}"), ({"l": "{label}"}, "inside an array"),
    ({"l": "{"}, "{{"), ([["{created_by}"]], "there is no {created_by}")])
def test_templates_that_cannot_be_filled_are_refused(service, response, why):
    message = service.admin.refused("KS400", "define_endpoint", "default", "GET", "/k", "list_keys",
                                    response=json.dumps(response))
    assert message.startswith("response has") and why in message


@pytest.mark.parametrize("arguments, why", [
    (("GET", "/k", "drop_keyspace"), "operation must be one of mint, "),
    (("GET", "/k", "mint"), "method must not be GET for mint"),
    (("*", "/k", "mint"), "method must be a single method"),
    (("HEAD", "/k", "whoami"), "method must be a single method"),
    (("get it", "/k", "whoami"), "method must be"),
    (("POST", "k", "mint"), "pattern must begin with /"),
    (("POST", "/k/*", "mint"), "pattern must not end in /*"),
    (("POST", "/k/{id}", "mint"), "pattern must not have {id} for mint")])
def test_endpoints_that_cannot_be_meant_are_refused(service, arguments, why):
    assert service.admin.refused("KS400", "define_endpoint", "default", *arguments).startswith(why)


@pytest.mark.parametrize("options, why", [
    ({"request": '{"tenant": "t"}'}, 'request names "tenant"; mint has only label'),
    ({"request": '[]'}, "request must be an object"), ({"status": 404}, "status must be from 200 to 299"),
    ({"request": json.dumps({"label": "x" * 101})}, "request must have for label"),
    ({"response": json.dumps("x" * 20_000)}, "response must have at most")])
def test_options_that_cannot_be_meant_are_refused(service, options, why):
    assert service.admin.refused("KS400", "define_endpoint", "default", "POST", "/k", "mint",
                                 **options).startswith(why)


def test_endpoints_are_listed_changed_and_removed(service):
    service.define("post", "/k/", "mint", request={"label": "name"}, status=200)
    assert service.admin.rows("SELECT * FROM keysmith.endpoints") == [
        ("default", "POST", "/k", "mint", {"label": "name"}, None, 200)]
    service.define("POST", "/k", "regenerate")
    assert service.admin.rows("SELECT operation, request, status FROM keysmith.endpoints") == [
        ("regenerate", None, None)]
    service.define("DELETE", "/k/{id}", "revoke")
    assert "defined" in service.admin.refused(
        "KS409", "define_endpoint", "default", "DELETE", "/k/{key}", "revoke")
    service.admin.call("remove_endpoint", "default", "POST", "/k")
    service.admin.refused("KS404", "remove_endpoint", "default", "POST", "/k")
    service.admin.refused("KS404", "define_endpoint", "nowhere", "POST", "/k", "mint")
    actions = [action for action, in service.admin.rows(
        "SELECT action FROM keysmith.audit WHERE action LIKE '%endpoint' ORDER BY entry")]
    assert actions == ["define_endpoint", "define_endpoint", "define_endpoint", "remove_endpoint"]


def test_endpoints_hold_from_their_commit_on(service, key):
    assert not service.ask(key, "GET", "/me").handled
    service.define("GET", "/me", "whoami")
    assert service.ask(key, "GET", "/me").handled
    service.admin.call("remove_endpoint", "default", "GET", "/me")
    assert not service.ask(key, "GET", "/me").handled


# Arguments

def test_what_serve_raises(keys, key):
    headers = json.dumps({"X-Api-Key": key.api_key})
    keys.app.refused("KS400", "serve", headers, "GET", "/v1/keys", spend=-1)


@pytest.mark.parametrize("headers", [None, "null", "[]", '"x"', "1", '{"Authorization": 1}', '{"X-Api-Key": [null]}'])
def test_odd_headers_are_refused(keys, headers):
    assert keys.app.one("serve", headers, "GET", "/v1/keys").status == 401


@pytest.mark.parametrize("method, path", [
    (None, "/v1/keys"), ("GET", None), ("", "/v1/keys"), ("GET", ""), ("GET", "/v1//keys"), ("GET", "/v1/../keys"),
    ("G T", "/v1/keys"), ("GET", "/" + "x" * 100_000), ("GET", "/v1/keys%2f"), ("X" * 100_000, "/v1/keys")])
def test_odd_requests_are_refused(keys, key, method, path):
    answer = keys.app.one("serve", json.dumps({"X-Api-Key": key.api_key}), method, path)
    assert (answer.handled, answer.ok, answer.status) == (True, False, 403)


def test_the_address_comes_from_trusted_proxies(keys, key, cluster, dbname, connect):
    limited = keys.admin.mint(allowlist=["198.51.100.0/24"])

    def status(service=keys, **options):
        headers = {"X-Forwarded-For": "198.51.100.7"}
        return service.ask(limited, "GET", "/v1/me", headers=headers, **options).status

    assert status(ip="198.51.100.9") == 200
    assert status(peer="198.51.100.9") == 200
    assert status(peer="10.0.0.1") == 403
    assert status() == 403
    cluster.execute(f"ALTER DATABASE {dbname} SET keysmith.trusted_proxies = '10.0.0.0/8'")
    behind = Service(keys.admin, type(keys.app)(connect(user="serving", autocommit=True)))
    assert status(behind, peer="10.0.0.1") == 200
    assert status(behind, peer="203.0.113.1") == 403
    assert status(behind, ip="203.0.113.1", peer="10.0.0.1") == 403


def test_limits_are_told(keys, service):
    limited = service.admin.mint(limits='[{"name": "burst", "limit": 2, "window": "1 hour"}]')
    first = keys.ask(limited, "GET", "/v1/models")
    assert first.headers["RateLimit-Policy"] == '"burst";q=2;w=3600'
    assert first.headers["RateLimit"].startswith('"burst";r=1;t=')
    made = keys.ask(limited, "GET", "/v1/me")
    assert made.headers["RateLimit"].startswith('"burst";r=0')
    refused = keys.ask(limited, "GET", "/v1/me")
    assert (refused.status, refused.body["code"]) == (429, "rate_limited")
    assert int(refused.headers["Retry-After"]) > 0



# People

@pytest.fixture
def people(keys):
    """Members of acme, and a role that signs them in."""
    keys.admin.call("grant_access", "serving", "host")
    for scope in ("keys:read", "keys:write"):
        keys.admin.call("define_scope", "default", scope)
    keys.admin.call("define_role", "default", "boss", ["*"])
    keys.admin.call("define_role", "default", "reader", ["keys:read"])
    for member, role in (("ann", "boss"), ("bob", "reader")):
        keys.admin.call("set_member", "acme", member, role)
    return keys


def ask_as(service, member, method, path, body=None, headers="{}", tenant="acme", **options):
    with service.app.session.transaction():
        service.app.call("act_as", tenant, member)
        if body is not None:
            options["body"] = json.dumps(body)
        return service.app.one("serve", headers, method, path, **options)


def test_a_person_is_served_without_a_key(people):
    made = ask_as(people, "ann", "POST", "/v1/keys", {"label": "CI"})
    assert (made.status, made.tenant, made.key_id, made.ok) == (201, "acme", None, True)
    assert made.body["owner"] == "ann"
    assert people.admin.reason(made.body["api_key"]) == "ok"
    listed = ask_as(people, "ann", "GET", "/v1/keys")
    assert [row["label"] for row in listed.body["keys"]] == ["CI"]
    assert ask_as(people, "ann", "DELETE", f"/v1/keys/{made.body['key_id']}").status == 200
    assert not ask_as(people, "ann", "GET", "/v1/models").handled


def test_a_persons_role_bounds_what_it_may_do(people):
    people.admin.call("define_route", "default", "POST", "/v1/keys", "keys:write")
    refused = ask_as(people, "bob", "POST", "/v1/keys")
    assert (refused.status, refused.body["code"]) == (403, "insufficient_scope")
    assert 'scope="keys:write"' in refused.headers["WWW-Authenticate"]
    people.admin.call("remove_route", "default", "POST", "/v1/keys")
    assert ask_as(people, "bob", "POST", "/v1/keys", {"scopes": ["keys:write"]}).status == 403


@pytest.mark.parametrize("headers", [
    {"Sec-Fetch-Site": "cross-site"}, {"sec-fetch-site": ["same-origin", "cross-site"]}, {"Sec-Fetch-Site": 1},
    {"Origin": "https://evil.example", "Host": "keys.example"}, {"Origin": "null", "Host": "keys.example"},
    {"Origin": "https://keys.example"}], ids=str)
def test_a_page_of_another_site_does_nothing_for_a_person(people, headers):
    people.define("DELETE", "/key", "revoke")
    key = people.admin.mint()
    for method, path, body in [("POST", "/v1/keys", {"label": "CI"}), ("DELETE", "/key", None),
                               ("POST", "/v1/images", None)]:
        refused = ask_as(people, "ann", method, path, body, json.dumps(headers))
        assert (refused.handled, refused.ok, refused.status, refused.body["code"]) \
            == (True, False, 403, "cross_site_request")
    assert people.admin.reason(key.api_key) == "ok"
    assert [row.label for row in people.admin.call("list_keys", "acme")] == [None]
    # It may link to what only reads; and a key is no cookie.
    assert ask_as(people, "ann", "GET", "/v1/keys", headers=json.dumps(headers)).status == 200
    with_key = json.dumps(headers | {"Authorization": f"Bearer {key.api_key}"})
    assert ask_as(people, "ann", "POST", "/v1/keys", {}, with_key).status == 201


def test_a_page_of_another_site_opens_no_websocket_for_a_person(people):
    """The handshake is a GET, and then both sides write."""
    for site, status in (("cross-site", 403), ("same-origin", 200)):
        for name in ("Sec-WebSocket-Key", "sec-websocket-version"):
            handshake = json.dumps({"Sec-Fetch-Site": site, name: "13"})
            assert ask_as(people, "ann", "GET", "/live", headers=handshake).status == status, (site, name)


@pytest.mark.parametrize("headers", [
    {"Sec-Fetch-Site": "same-origin", "Origin": "https://other.example"}, {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"}, {"Origin": "https://Keys.example", "host": "keys.example"}, {"Host": "keys.example"}], ids=str)
def test_a_page_of_the_own_site_acts_for_a_person(people, headers):
    assert ask_as(people, "ann", "POST", "/v1/keys", {}, json.dumps(headers)).status == 201


def test_a_refusal_of_another_site_is_told_and_recorded_as_such(people):
    people.admin.call("alter_keyspace", "default", Jsonb({"error_body": "problem", "codes": {
        "cross_site_request": {"code": "csrf", "status": 400}}}))
    refused = ask_as(people, "ann", "POST", "/v1/keys", headers='{"Sec-Fetch-Site": "cross-site"}')
    assert (refused.status, refused.body["code"], refused.body["status"]) == (400, "csrf", 400)
    assert refused.headers["Cache-Control"] == "no-store" and "WWW-Authenticate" not in refused.headers
    assert refused.body["request_id"] == str(refused.request_id)


def test_without_an_id_a_person_means_the_only_key(people):
    people.define("GET", "/key", "show_key")
    assert ask_as(people, "ann", "GET", "/key").status == 404
    key = people.admin.mint()
    assert ask_as(people, "ann", "GET", "/key").body["key_id"] == str(key.key_id)
    people.admin.mint()
    assert ask_as(people, "ann", "GET", "/key").status == 409


def test_a_person_of_one_keyspace_is_nobody_in_another(people):
    people.admin.call("create_keyspace", "other")
    people.define("GET", "/me", "whoami", keyspace="other")
    assert ask_as(people, "ann", "GET", "/me", keyspace="other").status == 401


def test_a_key_of_the_request_comes_before_the_person(people, key):
    headers = json.dumps({"X-Api-Key": key.api_key})
    assert ask_as(people, "bob", "GET", "/v1/me", headers=headers).key_id == key.key_id
    for bad in ({"X-Api-Key": "ks_live_x"}, {"Authorization": "Digest x"}, {"Authorization": 1}):
        assert ask_as(people, "ann", "GET", "/v1/me", headers=json.dumps(bad)).status == 401


def test_a_request_of_a_person_is_recorded_as_such(people):
    answer = ask_as(people, "ann", "POST", "/v1/keys")
    ask_as(people, "ann", "GET", "/v1/models?a=b")
    people.admin.call("flush_usage")
    rows = people.admin.rows("SELECT method, endpoint, status, key_id, member FROM keysmith.usage ORDER BY at")
    assert rows == [("POST", "/v1/keys", 201, None, "ann"), ("GET", "/v1/models", 200, None, "ann")]
    assert people.admin.value("SELECT acting_member FROM keysmith.audit WHERE key_id = %s",
                              answer.body["key_id"]) == "ann"


class Guess:
    """Random requests: fields that are known and others, with values of any type."""

    TEXTS = ["", "a", "é" * 40, "a\nb", "{label}", "'; --", "secret", "publishable", "live", "test", "*",
             "2030-01-31T12:00:00Z", "2030-13-31T12:00:00Z", "10.0.0.0/8", "::1", "1 day", "-1 day", "x" * 2000]

    def __init__(self, seed):
        self.random = random.Random(seed)

    def value(self, depth=0):
        kinds = [lambda: self.random.choice(self.TEXTS), lambda: self.random.choice([0, 1, -1, 2**31, 2**63, 1.5]),
                 lambda: None, lambda: True]
        if depth < 3:
            kinds += [lambda: [self.value(depth + 1) for _ in range(self.random.randrange(4))],
                      lambda: {self.field(): self.value(depth + 1) for _ in range(self.random.randrange(4))}]
        return self.random.choice(kinds)()

    def field(self):
        return self.random.choice(["label", "scopes", "kind", "allowlist", "expires_at", "limits", "metadata", "owner",
                                   "role", "environment", "grace", "reason", "page", "per_page", "tenant", "x", ""])

    def request(self, ids):
        id = self.random.choice([self.random.choice(ids), self.random.choice(ids), ids[-1], "x", "%20"])
        method = self.random.choice(["GET", "POST", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS", "get"])
        path = self.random.choice(["/v1/keys", f"/v1/keys/{id}", f"/v1/keys/{id}/rotate", f"/v1/keys/{id}/disable",
                                   "/v1/me", "/v1/logs", "/v1/usage", "/v1/other"])
        if self.random.random() < 0.3:
            path += f"?{self.field()}={self.random.choice(self.TEXTS)}".replace("\n", "%0A")
        body = {self.field(): self.value(1) for _ in range(self.random.randrange(3))}
        return method, path, self.random.choice([None, None, body, body, body, self.value()])


@pytest.mark.parametrize("seed", range(3))
def test_no_request_raises_an_error(keys, key, seed):
    guess = Guess(seed)
    ids = [keys.admin.mint(label=f"k{n}").key_id for n in range(30)]
    keys.admin.tenant("other")
    theirs = keys.admin.mint("other")
    seen = set()
    for _ in range(150):
        request = guess.request([*ids, theirs.key_id])
        answer = keys.ask(key, *request)
        seen.add(answer.status)
        assert answer.status in {200, 201, 204, 400, 403, 404, 405, 409}, (request, answer)
        assert answer.handled == ("/other" not in request[1]) and answer.ok, request
        assert theirs.api_key not in json.dumps(answer.body) and "digest" not in json.dumps(answer.body)
    assert {200, 400, 404} <= seen
    assert keys.admin.reason(theirs.api_key) == "ok"
