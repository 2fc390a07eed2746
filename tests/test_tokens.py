"""Making tokens: what they say, who gets them, and how other services check them without the database."""

import json
import os
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jwt
import psycopg
import pytest
from psycopg.types.json import Jsonb

import test_docs
from conftest import session, wait_until
from examples import PACKAGES, Example
from serving import serving

GUIDE = (Path(__file__).parent.parent / "docs/tokens.md").read_text()
JOSE = Example("tokens", "package.json", "tokens")
ISSUER, AUDIENCE = "https://api.example.com", "https://images.example.com"
PUBLISHED = f"{ISSUER}/.well-known/jwks.json"


@pytest.fixture
def key(db):
    db.tenant()
    return db.mint(scopes=["images:read", "images:write"])


def claims(made):
    return jwt.decode(made.token, options={"verify_signature": False})


def refused(db, sqlstate, key, **options):
    casts = {"allowlist": "cidr[]", "claims": "jsonb", "ttl": "interval", "scopes": "text[]", "audience": "text"}
    named = [f", {name} => %s::{casts.get(name, 'text')}" for name in options]
    with pytest.raises(psycopg.Error) as error:
        db.rows(f"SELECT * FROM keysmith.derive_token(%s{''.join(named)})", getattr(key, "api_key", key), *options.values())
    diag = error.value.diag
    assert error.value.sqlstate == sqlstate, error.value
    # An error may be logged.
    for text in (diag.message_primary, diag.message_detail or "", diag.message_hint or ""):
        assert getattr(key, "api_key", "ks_live_") not in text and "eyJ" not in text
    return diag


# The content of tokens

def test_the_claims(db, key):
    db.call("alter_keyspace", "default", Jsonb({"issuer": ISSUER}))
    made = db.one("derive_token", key.api_key, claims=Jsonb({"locale": "de", "nested": {"a": [1.5, None]}}))
    header = jwt.get_unverified_header(made.token)
    assert header == {"alg": "EdDSA", "typ": "at+jwt", "kid": db.value("SELECT keysmith.jwks()")["keys"][0]["kid"]}
    said = claims(made)
    assert said.pop("exp") - said["iat"] == 900 and made.expires_at.timestamp() == said.pop("iat") + 900
    assert said == {
        "iss": ISSUER, "aud": ISSUER, "sub": str(key.key_id), "client_id": str(key.key_id), "jti": str(made.token_id),
        "scope": "images:read images:write", "tenant": "acme", "environment": "live",
        "locale": "de", "nested": {"a": [1.5, None]}}
    assert db.one("derive_token", key.api_key).token_id != made.token_id
    db.call("alter_keyspace", "default", Jsonb({"issuer": None}))
    assert claims(db.one("derive_token", key.api_key))["iss"] == "default"


@pytest.mark.parametrize("ttl, seconds", [("1 second", 1), ("90 minutes", 5400), ("1 day", 86400), ("24:00:00", 86400)])
def test_how_long_it_lives(db, key, ttl, seconds):
    said = claims(db.one("derive_token", key.api_key, ttl=ttl))
    assert said["exp"] - said["iat"] == seconds


def test_it_never_outlives_its_key(db, key):
    db.rows("UPDATE keysmith_private.key SET expires_at = now() + interval '10 minutes'")
    end = db.value("SELECT date_trunc('second', expires_at) FROM keysmith.keys")
    assert db.one("derive_token", key.api_key).expires_at == end
    db.rows("UPDATE keysmith_private.key SET expires_at = NULL")
    db.call("alter_tenant", "acme", Jsonb({"max_lifetime": "5 minutes"}))
    end = db.value("SELECT date_trunc('second', expires_at) FROM keysmith.keys")
    assert db.one("derive_token", key.api_key, ttl="6 minutes").expires_at == end
    assert db.one("derive_token", key.api_key, ttl="1 minute").expires_at < end
    with db.session.transaction():
        db.verify(key.api_key, sign_in=True)
        assert db.one("derive_token").expires_at == end


def test_the_scopes(db, key):
    def of(key, **options):
        return claims(db.one("derive_token", key.api_key, **options))["scope"]

    assert of(key, scopes=["images:read", "images:read"]) == "images:read"
    assert of(key, scopes=[]) == ""
    everything, family = db.mint(), db.mint(scopes=["images:*"])
    assert of(everything) == "*" and of(everything, scopes=["videos:*", "a"]) == "videos:* a"
    assert of(family, scopes=["images:read"]) == "images:read"
    for scopes, of_key in [(["videos:read"], key), (["images:*"], key), (["*"], family), (["images:read", "a"], family)]:
        message = refused(db, "KS403", of_key, scopes=scopes).message_primary
        assert message.startswith("scopes must be scopes that the key that gives them has") and scopes[-1] in message
    # The role bounds what the key holds.
    db.call("define_role", "default", "reader", ["images:read"])
    bound = db.mint(role="reader")
    assert of(bound) == "images:read"
    refused(db, "KS403", bound, scopes=["images:write"])
    for scope, implied in [("files:read", []), ("images:read", ["files:read"]), ("images:write", [])]:
        db.call("define_scope", "default", scope, implies=implied)
    assert of(bound, scopes=["files:read"]) == "files:read"
    assert "does not define" in refused(db, "KS400", everything, scopes=["images:raed"]).message_primary


def test_the_networks(db, key):
    def of(**options):
        names = ", ".join(f"{name} => %s::cidr[]" for name in options)
        made = db.row(f"SELECT * FROM keysmith.derive_token(%s, {names or 'NULL'})".replace(", NULL", ""),
                      key.api_key, *options.values())
        return claims(made).get("allowlist")

    assert of() is None and of(allowlist=None) is None and of(allowlist=[]) is None
    assert of(allowlist=["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"]) == ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7/32"]
    # Each use of the token asks where the key may be used from.
    db.call("alter_key", key.key_id, Jsonb({"allowlist": ["192.0.2.0/24"]}))
    assert db.reason(key.api_key) == "ip_unknown"
    assert of(allowlist=["198.51.100.0/24"]) == ["198.51.100.0/24"]


def test_the_audience(db, key):
    def of(audience):
        return claims(db.one("derive_token", key.api_key, audience=audience))["aud"]

    assert of(None) == "default" and of(AUDIENCE) == AUDIENCE
    assert of(f"{AUDIENCE} default urn:a:b") == [AUDIENCE, "default", "urn:a:b"]


BAD = [
    *[("ttl", ttl, "ttl must be an interval from 1 second to 24 hours")
      for ttl in ["0", "-1 minute", "1 day 00:00:01", "999 milliseconds", "1 month", "1 year", "1 month -30 days",
                  "178000000 years", "25 hours"]],
    ("ttl", None, "ttl must not be null"),
    ("scopes", ["a b"], 'scopes has "a b"'), ("scopes", [""], 'scopes has ""'),
    ("scopes", ["a", None], "scopes must not contain a null"),
    ("scopes", [f"a{n}" for n in range(1001)], "scopes must have at most 1000 scopes, not 1001"),
    ("allowlist", ["10.0.0.0/8", None], "allowlist must not contain a null"),
    ("allowlist", [f"10.{n // 256}.{n % 256}.0/24" for n in range(1001)], "allowlist must have at most 1000"),
    ("allowlist", [f"10.{n // 256}.{n % 256}.0/24" for n in range(1000)], "scopes, allowlist, audience and claims"),
    *[("audience", audience, "audience must be names with a space between them")
      for audience in ["", " ", "a  b", " a", "a\tb", "1a:b", "x" * 256, "https://a/{}"]],
    ("audience", "a" * 70_000, "audience is far too long"),
    ("audience", " ".join("x" * 200 for _ in range(40)), "scopes, allowlist, audience and claims"),
    *[("claims", value, "claims must be an object or null") for value in ["[]", "1", '"a"', "null"]],
    *[("claims", json.dumps({name: "x"}), f'claims must not have "{name}"')
      for name in ["iss", "sub", "aud", "exp", "iat", "nbf", "jti", "client_id", "scope", "allowlist", "tenant",
                   "environment", "act", "may_act", "cnf", "roles", "groups", "entitlements",
                   # Go's encoding/json takes each for a claim of the server.
                   "SCOPE", "\u017fub", "\u017fcope"]],
    ("claims", '{"a": 1e400}', "claims must be plain JSON"),
    ("claims", json.dumps({"a": "x" * 8000}), "scopes, allowlist, audience and claims must be shorter"),
    ("claims", '{"a": ' + "[" * 33 + "]" * 33 + "}", "claims must be nested at most 32 levels deep"),
]


@pytest.mark.parametrize("name, value, message", BAD, ids=[f"{name}-{n}" for n, (name, _, _) in enumerate(BAD)])
def test_a_bad_argument(db, key, name, value, message):
    assert refused(db, "KS400", key, **{name: value}).message_primary.startswith(message)


# Who gets one

ENDS = {
    "revoked": lambda db, key: db.call("revoke", key.key_id),
    "disabled": lambda db, key: db.call("disable", key.key_id),
    "expired": lambda db, key: db.rows("UPDATE keysmith_private.key SET expires_at = now() - interval '1 second'"),
    "tenant_suspended": lambda db, key: db.call("suspend_tenant", "acme"),
    "owner_gone": lambda db, key: (
        db.call("define_role", "default", "any", ["*"]), db.call("set_member", "acme", "ann", "any"), db.call("alter_key", key.key_id, Jsonb({"owner": "ann"})),
        db.call("remove_member", "acme", "ann")),
}


@pytest.mark.parametrize("reason", ENDS)
def test_a_key_that_is_refused(db, key, reason):
    ENDS[reason](db, key)
    assert db.reason(key.api_key) == reason
    diag = refused(db, "KS401", key)
    verdict = db.verify(key.api_key)
    assert diag.message_primary == verdict.message
    assert json.loads(diag.message_detail) == {"status": verdict.status, "code": verdict.code, "reason": reason}


def test_what_is_no_key(db, key):
    for text, reason in [("", "malformed_key"), ("nonsense", "malformed_key"), ("x" * 100_000, "malformed_key"),
                         (key.api_key[:-1], "malformed_key"), ("ks_live_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg32jhdj", "not_found")]:
        assert json.loads(refused(db, "KS401", text).message_detail)["reason"] == reason
    refused(db, "KS404", key, keyspace="none")
    db.call("create_keyspace", "other")
    assert json.loads(refused(db, "KS401", key, keyspace="other").message_detail)["reason"] == "wrong_keyspace"
    assert refused(db, "KS401", None).message_primary == "the transaction has no identity"


def test_a_refusal_in_the_keyspaces_words(db, key):
    db.call("alter_keyspace", "default", Jsonb({"codes": {"revoked": {"code": "key_revoked", "message": "It was revoked."}}}))
    db.call("revoke", key.key_id)
    diag = refused(db, "KS401", key)
    assert (diag.message_primary, json.loads(diag.message_detail)["code"]) == ("It was revoked.", "key_revoked")


def test_of_the_key_that_the_transaction_acts_for(db, database, connect, key):
    db.call("create_keyspace", "other", issuer="other-issuer")
    db.tenant("globex", keyspace="other")
    others = db.mint("globex", keyspace="other", scopes=["a"], kind="publishable")
    with db.session.transaction():
        db.verify(others.api_key, keyspace="other", sign_in=True)
        said = claims(db.one("derive_token"))
    assert (said["sub"], said["iss"], said["tenant"], said["scope"]) == (str(others.key_id), "other-issuer", "globex", "a")
    with db.session.transaction(force_rollback=True):
        db.verify(key.api_key, sign_in=True)
        assert "videos:read" in refused(db, "KS403", None, scopes=["videos:read"]).message_primary
    with db.session.transaction(force_rollback=True):
        db.verify(key.api_key, sign_in=True)
        database(connect()).call("revoke", key.key_id)
        assert "was revoked" in refused(db, "KS401", None).message_primary


def test_persons_and_tokens_make_none(db, key):
    token = db.one("derive_token", key.api_key).token
    assert "a token makes no tokens" in refused(db, "KS403", token).message_primary
    assert "a token makes no tokens" in refused(db, "KS403", token[:-4] + "AAAA").message_primary
    with db.session.transaction(force_rollback=True):
        assert db.verify(token, sign_in=True).ok
        assert "a token makes no tokens" in refused(db, "KS403", None).message_primary
    with db.session.transaction(force_rollback=True):
        db.call("act_as", "acme")
        assert "a person makes no tokens" in refused(db, "KS403", None).message_primary


def test_code_of_a_tables_owner_gets_none(cluster, db, dbname, key):
    """It runs in the transaction of who refreshes the view, and could keep the token."""
    cluster.execute("CREATE ROLE theirs")
    try:
        db.call("grant_access", "theirs", "verifier")
        db.rows("""
            CREATE SCHEMA theirs; GRANT ALL ON SCHEMA theirs TO theirs;
            SET ROLE theirs;
            CREATE FUNCTION theirs.same(n int) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN n; END';
            CREATE MATERIALIZED VIEW theirs.v AS SELECT theirs.same(1);
            CREATE OR REPLACE FUNCTION theirs.same(n int) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $f$ BEGIN
                RETURN (SELECT token FROM keysmith.derive_token()); END $f$;
            RESET ROLE""")
        with db.session.transaction(force_rollback=True):
            db.verify(key.api_key, sign_in=True)
            assert db.one("derive_token").token
            with pytest.raises(psycopg.Error) as error:
                db.rows("REFRESH MATERIALIZED VIEW theirs.v")
            assert error.value.sqlstate == "KS403" and "security-restricted" in error.value.diag.message_primary
    finally:
        cluster.execute("DROP OWNED BY theirs CASCADE", dbname)
        cluster.execute("DROP ROLE theirs")


def test_a_verifier_of_one_keyspace(cluster, db, dbname, key):
    db.call("create_keyspace", "other")
    db.tenant("globex", keyspace="other")
    others = db.mint("globex", keyspace="other")
    cluster.execute("CREATE ROLE bound LOGIN")
    try:
        db.call("grant_access", "bound", "verifier", keyspace="other")
        bound = session(cluster, dbname, "bound")
        with bound.session:
            assert bound.rows("SELECT token FROM keysmith.derive_token(%s, keyspace => 'other')", others.api_key)
            assert bound.rows("SELECT keysmith.jwks('other')")
            for statement in ("SELECT token FROM keysmith.derive_token('x')", "SELECT keysmith.jwks()"):
                with pytest.raises(psycopg.Error) as error:
                    bound.rows(statement)
                assert error.value.sqlstate == "KS403"
    finally:
        cluster.execute("DROP OWNED BY bound", dbname)
        cluster.execute("DROP ROLE bound")


def test_nothing_is_written(db, key):
    db.call("flush_usage")
    before = db.rows("SELECT * FROM keysmith_private.audit_entry"), db.value("SELECT count(*) FROM keysmith.usage")
    with db.session.transaction():
        db.rows("SET TRANSACTION READ ONLY")
        assert claims(db.one("derive_token", key.api_key))["sub"] == str(key.key_id)
        assert db.value("SELECT pg_current_xact_id_if_assigned()") is None
    db.call("flush_usage")
    assert (db.rows("SELECT * FROM keysmith_private.audit_entry"), db.value("SELECT count(*) FROM keysmith.usage")) == before


# The public keys

def test_keyspaces_share_no_key(db, key):
    db.call("create_keyspace", "other", issuer="default")
    ours, others = (db.value("SELECT keysmith.jwks(%s)", name)["keys"] for name in ("default", "other"))
    for jwk in ours + others:
        assert set(jwk) == {"kty", "crv", "x", "kid", "use", "alg"}
    assert not {jwk["kid"] for jwk in ours} & {jwk["kid"] for jwk in others}
    assert not {jwk["x"] for jwk in ours} & {jwk["x"] for jwk in others}
    token = db.one("derive_token", key.api_key).token
    assert db.verify(token).ok and not db.verify(token, keyspace="other").ok
    assert db.refused("KS404", "jwks", "none").startswith('keyspace "none" does not exist')


# Other services, which know the public keys only

@contextmanager
def published(db):
    """Serves what the database publishes, as an application does. Yields the address."""
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            answer = db.one("serve", "{}", "GET", self.path)
            body = json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/.well-known/jwks.json"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def code_of(language):
    (block,) = [block.text for block in test_docs.fences(GUIDE) if block.info == language]
    assert PUBLISHED in block
    return block


def by_pyjwt(url, tokens):
    """The claims of each token, by the guide's Python, or None."""
    module = {}
    exec(compile(code_of("python").replace(PUBLISHED, url), "docs/tokens.md", "exec"), module)

    def of(token):
        try:
            return module["claims_of"](token)
        except jwt.PyJWTError:
            return None

    return [of(token) for token in tokens]


def by_jose(url, tokens):
    """The same by the guide's JavaScript."""
    JOSE.require()
    script = code_of("js").replace(PUBLISHED, url) + f"""
        (async () => {{
            const found = [];
            for (const token of {json.dumps(tokens)}) {{
                found.push(await claimsOf(token).catch((error) => {{
                    if (!String(error.code).startsWith("ERR_J")) throw error;
                    return null;
                }}));
            }}
            console.log(JSON.stringify(found));
        }})();"""
    done = subprocess.run(["node", "-"], input=script, text=True, capture_output=True, timeout=300,
                          env=os.environ | {"NODE_PATH": str(PACKAGES / "tokens/node_modules")})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def published_keys(db, key):
    db.call("alter_keyspace", "default", Jsonb({"issuer": ISSUER}))
    db.call("define_route", "default", "GET", "/.well-known/jwks.json", "{}", public=True)
    db.call("define_endpoint", "default", "GET", "/.well-known/jwks.json", "jwks")
    with published(db) as url:
        yield url


@pytest.mark.parametrize("check", [by_pyjwt, by_jose])
def test_another_service_checks_tokens(db, key, published_keys, check):
    def make(**options):
        return db.one("derive_token", key.api_key, **({"audience": AUDIENCE} | options))

    good = make(claims=Jsonb({"locale": "de"}))
    several = make(audience=f"a {AUDIENCE}", scopes=["images:read"])
    header, payload, signature = good.token.split(".")
    _, foreign_payload, _ = several.token.split(".")
    altered = ("B" if signature[0] == "A" else "A") + signature[1:]
    unsigned = jwt.encode(claims(good), None, algorithm="none", headers={"typ": "at+jwt"})
    db.call("create_keyspace", "other", issuer=ISSUER)
    db.tenant("globex", keyspace="other")
    foreign = db.one("derive_token", db.mint("globex", keyspace="other").api_key, audience=AUDIENCE, keyspace="other")
    expired = make(ttl="1 second")
    db.call("alter_keyspace", "default", Jsonb({"issuer": "https://else.example.com"}))
    of_other_issuer = make()
    db.call("alter_keyspace", "default", Jsonb({"issuer": ISSUER}))
    wait_until(lambda: db.value("SELECT clock_timestamp() > %s", expired.expires_at))
    found = check(published_keys, [
        good.token, several.token, make(audience=None).token, make(audience="https://other.example.com").token,
        f"{header}.{foreign_payload}.{signature}", f"{header}.{payload}.{altered}", unsigned,
        foreign.token, of_other_issuer.token, expired.token])
    assert found[2:] == [None] * 8
    assert found[0] == claims(good) and found[0]["locale"] == "de"
    assert found[1]["aud"] == ["a", AUDIENCE] and found[1]["scope"] == "images:read"


# Endpoints

@pytest.fixture
def service(cluster, connect, db, dbname):
    with serving(cluster, connect, db, dbname) as made:
        made.define("POST", "/v1/tokens", "derive_token")
        made.define("GET", "/jwks.json", "jwks")
        yield made


def test_a_client_makes_tokens(service):
    key = service.admin.mint(scopes=["a", "b"])
    answer = service.ask(key, "POST", "/v1/tokens", {"ttl": "5 minutes", "scopes": ["a"], "allowlist": ["192.0.2.0/24"]})
    assert answer.status == 200 and answer.headers["Cache-Control"] == "no-store"
    said = jwt.decode(answer.body["token"], options={"verify_signature": False})
    assert (said["scope"], said["allowlist"], said["sub"]) == ("a", ["192.0.2.0/24"], str(key.key_id))
    assert said["exp"] - said["iat"] == 300 and answer.body["token_id"] == said["jti"]
    assert answer.body["expires_at"].endswith("Z")
    assert service.ask(key, "POST", "/v1/tokens").status == 200
    for body, status, message in [
        ({"ttl": "2 days"}, 400, "ttl must be an interval"), ({"ttl": None}, 400, "ttl"), ({"scopes": ["c"]}, 403, "scopes must be"),
        # The product says what a token tells other services.
        ({"claims": {"a": 1}}, 400, '"claims" is not known here'), ({"audience": "x"}, 400, '"audience" is not known here'),
    ]:
        answer = service.ask(key, "POST", "/v1/tokens", body)
        assert answer.status == status and answer.body["message"].startswith(message), answer
    # A token makes none.
    token = service.ask(key, "POST", "/v1/tokens").body["token"]
    answer = service.ask(None, "POST", "/v1/tokens", headers={"Authorization": f"Bearer {token}"})
    assert (answer.status, answer.body["code"]) == (403, "forbidden")
    assert service.ask(None, "POST", "/v1/tokens").status == 401


def test_the_product_says_more(service):
    service.define("POST", "/v1/tokens", "derive_token", request={
        "ttl": {"is": "1 minute"}, "audience": {"is": AUDIENCE}, "claims": "about"},
        response={"access_token": "{token}", "token_type": "Bearer"})
    answer = service.ask(service.admin.mint(), "POST", "/v1/tokens", {"about": {"plan": "pro"}})
    assert answer.status == 200 and set(answer.body) == {"access_token", "token_type"}
    said = jwt.decode(answer.body["access_token"], options={"verify_signature": False})
    assert (said["aud"], said["plan"], said["exp"] - said["iat"]) == (AUDIENCE, "pro", 60)
    for method, operation, pattern in [("GET", "derive_token", "/t"), ("POST", "derive_token", "/t/{id}"), ("GET", "jwks", "/j/{id}")]:
        service.admin.refused("KS400", "define_endpoint", "default", method, pattern, operation)


def test_public_keys_may_be_public(service):
    db = service.admin
    assert service.ask(None, "GET", "/jwks.json").status == 401
    assert service.ask(db.mint(), "GET", "/jwks.json").body == db.value("SELECT keysmith.jwks()")
    db.call("define_route", "default", "GET", "/jwks.json", "{}", public=True)
    # Other endpoints are never public.
    db.call("define_route", "default", "POST", "/v1/tokens", "{}", public=True)
    answer = service.ask(None, "GET", "/jwks.json")
    assert (answer.handled, answer.status, answer.ok) == (True, 200, True)
    assert answer.body == db.value("SELECT keysmith.jwks()") and answer.headers["Content-Type"] == "application/json"
    assert service.ask(None, "POST", "/v1/tokens").status == 401
    paths = service.app.value("SELECT keysmith.openapi()")["paths"]
    assert paths["/jwks.json"]["get"]["security"] == [] and paths["/v1/tokens"]["post"]["security"] != []
    assert set(paths["/v1/tokens"]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]) \
        == {"ttl", "scopes", "allowlist"}
