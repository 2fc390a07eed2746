"""PostgREST's transaction, as its documentation describes it: settings, role, pre-request, query.
PostgREST itself is not run."""

import json
from contextlib import contextmanager

import psycopg
import pytest

ROLES = ["authenticator", "web_anon"]


@pytest.fixture
def postgrest(cluster, dbname, db):
    """A table of two tenants as PostgREST serves it, and a function that sends requests."""
    db.rows("""
        CREATE ROLE authenticator LOGIN NOINHERIT;
        CREATE ROLE web_anon NOLOGIN;
        GRANT web_anon TO authenticator;
        GRANT USAGE ON SCHEMA keysmith TO web_anon, authenticator;
        GRANT EXECUTE ON FUNCTION keysmith.pre_request TO web_anon;
        CREATE SCHEMA api;
        CREATE TABLE api.photo (tenant_id uuid DEFAULT keysmith.current_tenant_id(), name text);
        GRANT USAGE ON SCHEMA api TO web_anon;
        GRANT SELECT, INSERT ON api.photo TO web_anon""")
    db.call("isolate", "api.photo", "tenant_id")
    db.tenant("acme")
    db.tenant("globex")
    db.call("define_route", "default", "GET", "/photo", "photos:read")
    db.call("define_route", "default", "POST", "/photo", "photos:write")
    db.call("alter_keyspace", "default", '{"unlisted_routes": "refuse"}')
    sessions = []

    def connect():
        session = cluster.connect(dbname, user="authenticator")
        sessions.append(session)
        return PostgREST(session)

    yield connect
    for session in sessions:
        session.close()
    for role in ROLES:
        cluster.execute(f"DROP OWNED BY {role}", dbname)
    for role in reversed(ROLES):
        cluster.execute(f"DROP ROLE {role}")


class PostgREST:
    def __init__(self, session):
        self.session = session

    def request(self, method, path, headers, query, *parameters):
        with self.transaction(method, path, headers):
            cursor = self.session.execute(query, parameters or None)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def transaction(self, method, path, headers):
        access = "READ ONLY" if method in ("GET", "HEAD") else "READ WRITE"
        self.session.execute(f"BEGIN ISOLATION LEVEL READ COMMITTED {access}")
        try:
            self.session.execute("""
                SELECT set_config('search_path', %s, true), set_config('role', %s, true),
                       set_config('request.jwt.claims', %s, true),
                       set_config('request.method', %s, true), set_config('request.path', %s, true),
                       set_config('request.headers', %s, true),
                       set_config('request.cookies', %s, true)""",
                ['"api", "public"', "web_anon", '{"role":"web_anon"}', method, path,
                 headers if isinstance(headers, str) else json.dumps(headers), "{}"])
            self.session.execute("SELECT keysmith.pre_request()")
            yield
        except BaseException:
            self.session.execute("ROLLBACK")
            raise
        self.session.execute("COMMIT")

    def names(self, key, **headers):
        rows = self.request("GET", "/photo", {"x-api-key": key, **headers}, "SELECT name FROM photo")
        return sorted(name for name, in rows)

    def refusal(self, method, path, headers):
        with pytest.raises(psycopg.Error) as error:
            self.request(method, path, headers, "SELECT 1")
        diag = error.value.diag
        return diag.sqlstate, diag.message_primary, diag.message_detail, diag.message_hint


def test_each_tenant_sees_and_writes_its_own(db, postgrest):
    server = postgrest()
    keys = {tenant: db.mint(tenant, scopes=["photos:*"]).api_key for tenant in ("acme", "globex")}
    for tenant, key in keys.items():
        server.request("POST", "/photo", {"x-api-key": key},
                       "INSERT INTO photo (name) VALUES (%s)", f"of {tenant}")
    # One session serves all requests: nothing of a request stays for the next.
    for tenant, key in [*keys.items()] * 3:
        assert server.names(key) == [f"of {tenant}"]
        assert server.session.execute(
            "SELECT keysmith.current_tenant(), current_user::text").fetchall() == [(None, "authenticator")]


def test_get_is_read_only_and_takes_no_transaction_id(db, postgrest):
    server = postgrest()
    key = db.mint(scopes=["photos:*"]).api_key
    rows = server.request("GET", "/photo", {"x-api-key": key}, """
        SELECT current_setting('transaction_read_only'), pg_current_xact_id_if_assigned()::text,
               keysmith.current_tenant(), current_user::text""")
    assert rows == [("on", None, "acme", "web_anon")]


def test_refusals_are_statuses(db, postgrest):
    server = postgrest()
    good = db.mint(scopes=["photos:read"])
    assert server.names(good.api_key) == []
    assert server.refusal("GET", "/photo", {}) == (
        "PT401", "No API key was given.", "missing_authorization", None)
    assert server.refusal("GET", "/photo", {"x-api-key": "ks_live_nope"})[:3:2] == (
        "PT401", "invalid_api_key")
    assert server.refusal("GET", "/photo", {"authorization": "Bearer a b"})[:3:2] == (
        "PT401", "invalid_authorization")
    assert server.refusal("POST", "/photo", {"x-api-key": good.api_key})[:3:2] == (
        "PT403", "insufficient_scope")
    assert server.refusal("GET", "/rpc/unlisted", {"x-api-key": good.api_key})[:3:2] == (
        "PT403", "insufficient_scope")
    db.call("revoke", good.key_id)
    assert server.refusal("GET", "/photo", {"x-api-key": good.api_key})[:3:2] == (
        "PT401", "invalid_api_key")


def test_a_limit_says_when_to_come_again(db, postgrest):
    server = postgrest()
    key = db.mint(scopes=["photos:read"],
                  limits='[{"name": "hourly", "limit": 2, "window": "1 hour"}]').api_key
    server.names(key)
    server.names(key)
    state, _, code, hint = server.refusal("GET", "/photo", {"x-api-key": key})
    assert (state, code) == ("PT429", "rate_limited")
    assert 1700 <= int(hint.removeprefix("Try again in ").removesuffix(" s.")) <= 1800


def test_an_address_that_fails_too_often(cluster, dbname, db, postgrest):
    """Which address that is, a client can't choose unless the proxies are trusted."""
    db.call("alter_keyspace", "default", '{"failure_limit": {"limit": 2, "window": "365 days"}}')
    key = db.mint(scopes=["photos:read"]).api_key
    behind = {"x-forwarded-for": "203.0.113.7, 10.0.0.5"}

    def refusals(server, headers=behind):
        return [server.refusal("GET", "/photo", {"x-api-key": "guess", **headers})[:3:2] for _ in range(4)]

    refused, limited = ("PT401", "invalid_api_key"), ("PT429", "too_many_failures")
    assert refusals(postgrest()) == [refused] * 4
    cluster.execute("ALTER ROLE authenticator SET keysmith.trusted_proxies = '10.0.0.0/8'", dbname)
    server = postgrest()
    assert refusals(server) == [refused] * 2 + [limited] * 2
    hint = server.refusal("GET", "/photo", {"x-api-key": "guess", **behind})[3]
    assert int(hint.removeprefix("Try again in ").removesuffix(" s.")) > 0
    assert server.names(key, **behind) == []
    assert refusals(server, {"x-forwarded-for": "203.0.113.7, 203.0.113.8"}) == [refused] * 2 + [limited] * 2


def test_it_says_never_to_come_too_early(db, postgrest):
    """A part of a second counts as a second."""
    server = postgrest()
    key = db.mint(scopes=["photos:read"],
                  limits='[{"name": "each", "limit": 1, "window": "1 second"}]').api_key
    hints = set()
    for _ in range(20):
        try:
            server.names(key)
        except psycopg.Error as error:
            hints.add(error.diag.message_hint)
    assert hints == {"Try again in 1 s."}


def test_headers_of_the_response(cluster, dbname, db, postgrest):
    cluster.execute("ALTER ROLE authenticator SET keysmith.request_error_headers = on", dbname)
    server = postgrest()
    key = db.mint(scopes=["photos:read"],
                  limits='[{"name": "hourly", "limit": 1, "window": "1 hour"}]').api_key
    server.names(key)
    state, message, detail, hint = server.refusal("GET", "/photo", {"x-api-key": key})
    response = json.loads(detail)
    seconds = response["headers"]["Retry-After"]
    assert state == "PGRST" and hint is None
    assert json.loads(message) == {
        "code": "rate_limited", "message": json.loads(message)["message"], "details": None,
        "hint": f"Try again in {seconds} s."}
    assert response == {"status": 429, "headers": {
        "Retry-After": seconds, "RateLimit-Policy": '"hourly";q=1;w=3600', "RateLimit": f'"hourly";r=0;t={seconds}',
        "Cache-Control": "no-store"}}
    assert 3500 <= int(seconds) <= 3600
    state, message, detail, _ = server.refusal("GET", "/photo", {})
    assert state == "PGRST" and json.loads(message)["code"] == "missing_authorization"
    assert json.loads(detail) == {"status": 401, "headers": {
        "WWW-Authenticate": 'Bearer realm="api", Key realm="api"', "Cache-Control": "no-store"}}
    for schemes, challenges in (("key", {"WWW-Authenticate": 'Key realm="api"'}), ("x_api_key", {})):
        db.call("alter_keyspace", "default", json.dumps({"schemes": [schemes]}))
        detail = server.refusal("GET", "/photo", {})[2]
        assert json.loads(detail) == {"status": 401, "headers": challenges | {"Cache-Control": "no-store"}}


def test_accepted_requests_have_headers_too(cluster, dbname, db, postgrest):
    """PostgREST takes them from a setting of the transaction: an array of objects with one field each."""
    limited = db.mint(scopes=["photos:read"], limits='[{"name": "hourly", "limit": 5, "window": "1 hour"}]').api_key
    unlimited = db.mint(scopes=["photos:read"]).api_key

    def headers(key):
        return server.request("GET", "/photo", {"x-api-key": key}, "SELECT current_setting('response.headers', true)")[0][0]

    server = postgrest()
    assert headers(limited) is None
    cluster.execute("ALTER ROLE authenticator SET keysmith.request_error_headers = on", dbname)
    server = postgrest()
    told = json.loads(headers(limited))
    assert [list(header) for header in told] == [["RateLimit-Policy"], ["RateLimit"]]
    assert told[0]["RateLimit-Policy"] == '"hourly";q=5;w=3600'
    assert told[1]["RateLimit"].startswith('"hourly";r=3;t=')
    # Nothing of a request stays for the next.
    assert not headers(unlimited)


def test_headers_that_were_there_stay(cluster, dbname, db, postgrest):
    """A function may do more before a request, and call pre_request."""
    db.rows("""
        CREATE FUNCTION api.before() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            PERFORM set_config('response.headers', '[{"X-Mine": "1"}]', true);
            PERFORM keysmith.pre_request();
        END $$""")
    cluster.execute("ALTER ROLE authenticator SET keysmith.request_error_headers = on", dbname)
    key = db.mint(scopes=["photos:read"], limits='[{"name": "hourly", "limit": 5, "window": "1 hour"}]').api_key
    server = postgrest()
    with server.transaction("GET", "/photo", {"x-api-key": key}):
        server.session.execute("SELECT set_config('response.headers', '', true), api.before()")
        headers = json.loads(server.session.execute("SELECT current_setting('response.headers')").fetchone()[0])
    assert [list(header) for header in headers] == [["X-Mine"], ["RateLimit-Policy"], ["RateLimit"]]


def test_a_missing_scope_is_named(cluster, dbname, db, postgrest):
    cluster.execute("ALTER ROLE authenticator SET keysmith.request_error_headers = on", dbname)
    server = postgrest()
    key = db.mint(scopes=["photos:read"]).api_key
    detail = json.loads(server.refusal("POST", "/photo", {"x-api-key": key})[2])
    assert detail["status"] == 403
    assert detail["headers"]["WWW-Authenticate"].startswith('Bearer error="insufficient_scope", scope="photos:write"')


def test_a_keyspace_of_its_own_with_its_words(cluster, dbname, db, postgrest):
    db.call("create_keyspace", "shop", codes=json.dumps({
        "missing_authorization": {"status": 403, "code": "no_key", "message": "Où est la clé ?"}}))
    db.tenant("acme", keyspace="shop")
    cluster.execute("ALTER ROLE authenticator SET keysmith.request_keyspace = 'shop'", dbname)
    server = postgrest()
    assert server.refusal("GET", "/photo", {}) == ("PT403", "Où est la clé ?", "no_key", None)
    assert server.names(db.mint(keyspace="shop").api_key) == []
    assert server.refusal("GET", "/photo", {"x-api-key": db.mint().api_key})[0] == "PT401"


def test_the_address_is_known_only_behind_trusted_proxies(cluster, dbname, db, postgrest):
    key = db.mint(scopes=["photos:read"], allowlist=["203.0.113.0/24"]).api_key
    forwarded = {"x-forwarded-for": "198.51.100.1, 203.0.113.7, 10.0.0.5"}
    refused = ("PT403", "ip_not_allowed")
    server = postgrest()
    for unproven in ({}, forwarded, {"x-forwarded-for": "203.0.113.7"}):
        assert server.refusal("GET", "/photo", {"x-api-key": key, **unproven})[:3:2] == refused
    cluster.execute("ALTER ROLE authenticator SET keysmith.trusted_proxies = '10.0.0.0/8, fd00::/16'",
                    dbname)
    server = postgrest()
    assert server.names(key, **forwarded) == []
    for other in ({}, {"x-forwarded-for": ""}, {"x-forwarded-for": "203.0.113.7, 198.51.100.1"},
                  {"x-forwarded-for": "203.0.113.7, unknown"},
                  {"x-forwarded-for": "203.0.113.7", "forwarded": "for=198.51.100.1"}):
        assert server.refusal("GET", "/photo", {"x-api-key": key, **other})[:3:2] == refused, other


@pytest.mark.parametrize("setting", ["request_keyspace", "trusted_proxies", "request_error_headers"])
def test_who_may_set_them(db, postgrest, setting):
    session = postgrest().session
    statements = [f"SET keysmith.{setting} = '1'", f"SET LOCAL keysmith.{setting} = '1'",
                  f"SELECT set_config('keysmith.{setting}', '1', true)",
                  f"ALTER ROLE authenticator SET keysmith.{setting} = '1'"]
    for role in ("authenticator", "web_anon"):
        session.execute(f"SET ROLE {role}")
        for statement in statements:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(statement)


def test_proxies_must_be_networks(db):
    for wrong in ("10.0.0.1/8", "all", "10.0.0.0/8,"):
        with pytest.raises(psycopg.errors.InvalidParameterValue) as error:
            db.rows(f"SET keysmith.trusted_proxies = '{wrong}'")
        assert "list of networks" in error.value.diag.message_detail
    db.rows("SET keysmith.trusted_proxies = '10.0.0.0/8, 192.0.2.1, fd00::/16'")


def test_without_a_request_nobody_is_let_in(cluster, dbname, db, postgrest):
    session = postgrest().session
    session.execute("SET ROLE web_anon")
    with pytest.raises(psycopg.Error) as error:
        session.execute("SELECT keysmith.pre_request()")
    assert error.value.sqlstate == "PT401"
    # Once it was set, a setting is empty in later transactions.
    session.execute("BEGIN; SELECT set_config('request.headers', '{}', true); COMMIT")
    with pytest.raises(psycopg.Error) as error:
        session.execute("SELECT keysmith.pre_request()")
    assert error.value.sqlstate == "PT401"


def test_headers_that_are_none(db, postgrest):
    server = postgrest()
    key = db.mint(scopes=["photos:read"]).api_key
    state, message, detail, hint = server.refusal("GET", "/photo", '{"x-api-key": "%s"' % key)
    assert (state, message) == ("KS400", "request.headers must be a JSON object")
    assert key not in f"{detail} {hint}"
    assert server.refusal("GET", "/photo", f'["{key}"]')[:3:2] == ("PT401", "invalid_authorization")


def test_a_refusal_leaves_its_record(db, postgrest):
    server = postgrest()
    key = db.mint(scopes=["photos:read"]).api_key
    server.names(key)
    server.refusal("POST", "/photo", {"x-api-key": key})
    db.call("flush_usage")
    assert db.rows("SELECT method, endpoint, outcome FROM keysmith.usage ORDER BY at") == [
        ("GET", "/photo", "ok"), ("POST", "/photo", "insufficient_scope")]


def test_a_hostile_search_path_changes_nothing(db, postgrest):
    """The role chooses the path; the hook must not use it."""
    server = postgrest()
    key = db.mint(scopes=["photos:read"]).api_key
    db.rows("""
        CREATE SCHEMA evil;
        GRANT USAGE ON SCHEMA evil TO web_anon;
        CREATE FUNCTION evil.authenticate(jsonb, text, text, inet, text, text, bigint, integer)
            RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'led astray'; END $$;
        CREATE FUNCTION evil.current_setting(text, boolean)
            RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'led astray'; END $$;
        CREATE TABLE evil.key (key_id uuid);
        CREATE TYPE evil.verdict AS (ok boolean)""")
    server.session.execute("SET search_path = evil, pg_catalog")
    server.session.execute("BEGIN")
    server.session.execute("SELECT set_config('request.headers', %s, true), set_config('role', 'web_anon', true),"
                           "set_config('request.method', 'GET', true), set_config('request.path', '/photo', true)",
                           [json.dumps({"x-api-key": key})])
    server.session.execute("SELECT keysmith.pre_request()")
    assert server.session.execute("SELECT keysmith.current_tenant()").fetchone() == ("acme",)
