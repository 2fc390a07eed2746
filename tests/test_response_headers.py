"""What a verdict says over HTTP: the headers of the response, and the problem of RFC 9457."""

import json
import re

import psycopg
import pytest
from psycopg.types.json import Jsonb

COLUMNS = 28


def told(db, function, *positional, **named):
    """The headers and the problem of a verdict."""
    given = ["%s"] * len(positional) + [f"{name} => %s" for name in named]
    return db.row(f"""SELECT v.*, keysmith.response_headers(v) AS headers, keysmith.problem(v) AS problem
                      FROM keysmith.{function}({', '.join(given)}) v""", *positional, *named.values())


def of_fields(db, **fields):
    """The headers and the problem of a verdict that someone made."""
    for name in fields:
        assert re.fullmatch("[a-z_]+", name)
    values = ", ".join(f"%s::{TYPES[name]} AS {name}" for name in fields)
    made = "jsonb_populate_record(NULL::keysmith.verdict, to_jsonb(f))"
    row = db.row(f"""SELECT keysmith.response_headers(v) AS headers, keysmith.problem(v) AS problem
                     FROM (SELECT {made} AS v FROM (SELECT {values}) f) m""", *fields.values())
    return row.headers, row.problem


TYPES = {"ok": "boolean", "status": "integer", "code": "text", "message": "text", "reason": "text", "keyspace": "text",
         "limit_name": "text", "limit_limit": "bigint", "limit_remaining": "bigint", "limit_window": "interval",
         "limit_reset": "interval", "limit_unit": "text", "retry_after": "interval", "missing_scopes": "text", "request_id": "uuid"}


def test_an_accepted_key_has_no_headers_and_no_problem(db):
    db.tenant()
    key = db.mint()
    for verdict in (told(db, "verify", key.api_key), told(db, "authenticate", Jsonb({"x-api-key": key.api_key}), "GET", "/")):
        assert (verdict.ok, verdict.headers, verdict.problem) == (True, {}, None)


def test_a_refusal_challenges_with_the_schemes_of_its_keyspace(db):
    db.call("create_keyspace", "mine", schemes=["scheme:Token", "header:X-My-Key", "basic"])
    verdict = told(db, "verify", None)
    assert verdict.headers == {
        "WWW-Authenticate": 'Bearer realm="api", Key realm="api"', "Cache-Control": "no-store"}
    verdict = told(db, "verify", "ks_live_nonsense")
    assert verdict.headers["WWW-Authenticate"] == 'Bearer error="invalid_token", Key error="invalid_token"'
    verdict = told(db, "authenticate", Jsonb({"Authorization": "Bearer a b"}), "GET", "/")
    assert verdict.headers["WWW-Authenticate"] == 'Bearer error="invalid_request", Key error="invalid_request"'
    verdict = told(db, "verify", "ks_live_nonsense", keyspace="mine")
    assert verdict.keyspace == "mine"
    assert verdict.headers["WWW-Authenticate"] == 'Basic realm="api", charset="UTF-8", Token error="invalid_token"'
    db.call("alter_keyspace", "mine", Jsonb({"schemes": ["x_api_key"]}))
    assert told(db, "verify", None, keyspace="mine").headers == {"Cache-Control": "no-store"}


def test_a_verdict_names_the_keyspace_that_was_asked_about(db):
    """Also for an unknown key, unless there is no such keyspace."""
    assert told(db, "verify", "ks_live_nonsense").keyspace == "default"
    db.call("create_keyspace", "mine")
    db.tenant()
    key = db.mint().api_key
    for asked in (None, "nonsense", key):
        assert told(db, "verify", asked, keyspace="mine").keyspace == "mine"
        assert db.value("SELECT keysmith.verify_json(%s, keyspace => 'mine') ->> 'keyspace'", asked) == "mine"
        assert told(db, "authenticate", Jsonb({}), "GET", "/", keyspace="mine").keyspace == "mine"
        assert told(db, "verify", asked, keyspace="nowhere").keyspace is None
        assert told(db, "verify", asked, keyspace=None).keyspace is None


def test_missing_scopes_are_listed(db):
    db.tenant()
    key = db.mint(scopes=["a"])
    verdict = told(db, "verify", key.api_key, scopes=["b & (c | d)"])
    assert verdict.headers["WWW-Authenticate"] == ", ".join(
        f'{scheme} error="insufficient_scope", scope="b c d"' for scheme in ("Bearer", "Key"))
    assert verdict.problem == {
        "type": "about:blank", "title": "Forbidden", "status": 403, "code": "insufficient_scope",
        "detail": "A scope that this request needs is missing.", "missing_scopes": "b & (c | d)",
        "request_id": str(verdict.request_id)}


def test_rate_limits_are_told_before_and_after_they_refuse(db):
    db.tenant()
    limits = [{"name": "burst", "limit": 2, "window": "1 hour"}]
    key = db.mint(limits=json.dumps(limits)).api_key
    first = told(db, "verify", key).headers
    assert first == {"RateLimit-Policy": '"burst";q=2;w=3600', "RateLimit": '"burst";r=1;t=1800'}
    assert told(db, "verify", key).headers["RateLimit"].startswith('"burst";r=0;t=')
    refused = told(db, "verify", key)
    assert refused.status == 429
    assert refused.headers["RateLimit"].startswith('"burst";r=0;t=')
    # Rounded up: a client that waits as long is not refused again.
    wait = db.value("SELECT ceil(extract(epoch FROM %s::interval))::text", refused.retry_after)
    assert refused.headers["Retry-After"] == wait
    assert refused.headers["Cache-Control"] == "no-store"
    assert refused.problem["title"] == "Too Many Requests"


@pytest.mark.parametrize("window, told_as", [
    ("1 second", ";w=1"), ("1.5 seconds", ""), ("10 milliseconds", ""), ("366 days", ";w=31622400")])
def test_a_window_is_told_in_whole_seconds_or_not_at_all(db, window, told_as):
    db.tenant()
    key = db.mint(limits=json.dumps([{"name": "l", "limit": 5, "window": window}])).api_key
    assert told(db, "verify", key).headers["RateLimit-Policy"] == f'"l";q=5{told_as}'


def test_the_keyspaces_wording_is_told(db):
    db.call("create_keyspace", "mine", codes=Jsonb({
        "invalid_api_key": {"status": 404, "code": "nope", "message": "Nö."}}))
    verdict = told(db, "verify", "x", keyspace="mine")
    assert verdict.problem == {"type": "about:blank", "title": "Not Found", "status": 404, "detail": "Nö.", "code": "nope",
                               "request_id": str(verdict.request_id)}
    # The answer is still about credentials.
    assert 'error="invalid_token"' in verdict.headers["WWW-Authenticate"]


def test_a_public_request_has_no_problem(db):
    db.tenant()
    db.call("define_route", "default", "GET", "/open", [], public=True)
    verdict = told(db, "authenticate", Jsonb({}), "GET", "/open")
    assert (verdict.reason, verdict.headers, verdict.problem) == ("public", {}, None)


def test_a_null_is_null(db):
    assert db.rows("SELECT keysmith.response_headers(NULL), keysmith.problem(NULL)") == [(None, None)]


def test_a_verdict_of_nulls_is_a_refusal(db):
    nulls = ", ".join(["NULL"] * COLUMNS)
    headers, problem = db.row(f"""
        SELECT keysmith.response_headers(v), keysmith.problem(v) FROM (SELECT ROW({nulls})::keysmith.verdict AS v) m""")
    assert headers == {"Cache-Control": "no-store"}
    assert problem == {"type": "about:blank", "title": "Internal Server Error", "status": 500,
                       "detail": "An internal error occurred.", "code": "internal_error"}


def test_a_variable_of_the_domain(db):
    db.rows("""DO $$ DECLARE v keysmith.verdict; BEGIN
        SELECT * INTO v FROM keysmith.verify('x');
        ASSERT keysmith.problem(v) ->> 'code' = 'invalid_api_key';
        v.message := repeat('m', 100000);
        CREATE TEMP TABLE kept AS SELECT keysmith.problem(v) AS problem;
        CREATE TEMP TABLE toasted (v keysmith.verdict);
        INSERT INTO toasted VALUES (v); END $$""")
    kept = db.value("SELECT problem ->> 'detail' FROM kept")
    # Far longer than a header or a message should be, so it is cut.
    assert set(kept) == {"m"} and len(kept) == 64 * 1024
    assert db.value("SELECT keysmith.problem(v) ->> 'detail' FROM toasted") == kept


HOSTILE = [
    "a\r\nSet-Cookie: x=1", 'a", error="x', "a\\", "é\u2028", "\x01\x7f", "x" * 1_000_000, "", " ", "a, Basic realm=x", "🂡" * 2000]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_stay_in_their_values(db, text):
    headers, problem = of_fields(
        db, ok=False, status=403, code=text, message=text, reason="insufficient_scope", missing_scopes=text,
        limit_name=text, limit_limit=5, limit_remaining=3, keyspace=text)
    for name, value in headers.items():
        assert re.fullmatch("[ -~]+", value), (name, value)
        assert len(value) < 4000
    # One challenge for each scheme, one limit: the text opened no other.
    assert re.fullmatch(r'Bearer error="insufficient_scope"(, scope="[^"\\]*")?, Key error="insufficient_scope"(, scope="[^"\\]*")?',
                        headers["WWW-Authenticate"])
    assert re.fullmatch(r'"([^"\\]|\\["\\])*";r=3', headers["RateLimit"])
    assert problem["status"] == 403 and text.startswith(problem["code"])


@pytest.mark.parametrize("number", [-1, -2**63, 2**63 - 1, 0])
def test_hostile_numbers(db, number):
    headers, problem = of_fields(db, ok=False, status=max(min(number, 2**31 - 1), -2**31), reason="rate_limited",
                                 limit_name="l", limit_limit=number, limit_remaining=number)
    integer = min(max(number, 0), 999_999_999_999_999)
    assert (headers["RateLimit-Policy"], headers["RateLimit"]) == (f'"l";q={integer}', f'"l";r={integer}')
    assert (problem["status"], problem["title"]) == (429, "Too Many Requests")


@pytest.mark.parametrize("interval, seconds", [
    ("-1 hour", 1), ("0", 1), ("1 month 1 day", 31 * 86400), ("178000000 years", None), ("-178000000 years", None),
    ("2562047788 hours", 2562047788 * 3600)])
def test_hostile_times(db, interval, seconds):
    headers, _ = of_fields(db, ok=False, reason="rate_limited", retry_after=interval, limit_name="l", limit_limit=1,
                           limit_remaining=0, limit_window=interval, limit_reset=interval)
    assert headers.get("Retry-After") == (seconds and str(seconds))
    assert re.fullmatch(r'"l";q=1(;w=[1-9]\d*)?', headers["RateLimit-Policy"])
    assert re.fullmatch(r'"l";r=0(;t=\d+)?', headers["RateLimit"])


def test_infinite_times(db):
    """PostgreSQL has them from 17 on."""
    for sign in ("", "-"):
        try:
            headers, _ = of_fields(db, ok=False, reason="rate_limited", retry_after=f"{sign}infinity")
        except psycopg.errors.InvalidDatetimeFormat:
            continue
        assert "Retry-After" not in headers


def test_a_verdict_whose_reason_is_unknown_is_told_by_its_code_or_status(db):
    for fields, code, error in [
            ({"code": "invalid_api_key"}, "invalid_api_key", ' error="invalid_token"'),
            ({"reason": "made_up", "status": 401}, "missing_authorization", ' realm="api"'),
            ({"reason": "ok", "status": 401, "code": "mine"}, "mine", ' realm="api"')]:
        headers, problem = of_fields(db, ok=False, **fields)
        assert (headers["WWW-Authenticate"], problem["code"]) == (f"Bearer{error}, Key{error}", code)
    headers, problem = of_fields(db, ok=True, status=403, reason="revoked")
    assert (headers, problem) == ({}, None)
