"""Decisions about tokens: they follow the key, narrowed, and end with it."""

import hashlib
import json
from datetime import datetime, timedelta, timezone

import psycopg
import pytest
from psycopg.types.json import Jsonb

from cluster import running
from conftest import session, wait_until
from serving import ENDPOINTS, serving
from test_identity import over
from test_metrics import metrics
from tokens import Signer, cluster, seconds, write_secrets  # noqa: F401

OURS = Signer()
LIMITS = '[{"name": "calls", "limit": 5, "window": "1 hour"}]'


@pytest.fixture
def key(db):
    db.tenant()
    return db.mint(scopes=["a", "b"])


def derived(db, key, **options):
    return db.one("derive_token", key.api_key, **options).token


@pytest.fixture
def token(db, key):
    return derived(db, key)


def facts(verdict):
    return verdict._replace(request_id=None, expires_at=None)


# The places that take tokens

def test_a_token_is_taken_wherever_a_key_is(db, key, token):
    db.call("alter_keyspace", "default",
            '{"schemes": ["bearer", "key", "x_api_key", "basic", "scheme:Token", "header:X-My-Key"]}')
    of_key = facts(db.verify(key.api_key))
    assert facts(db.verify(token)) == of_key and of_key.ok
    assert facts(db.verify(token, scopes=["a & b"])) == of_key
    assert db.one("verify_json", token)[0]["key_id"] == str(key.key_id)
    assert [facts(verdict) for verdict in db.call("verify_many", [token, key.api_key, None, token])][::3] == [of_key] * 2
    basic = db.value("SELECT translate(encode(convert_to(%s || ':', 'UTF8'), 'base64'), E'\\n', '')", token)
    for headers in ({"Authorization": f"Bearer {token}"}, {"authorization": [f"Key {token}"]}, {"X-API-Key": token},
                    {"Authorization": f"Token {token}"}, {"x-my-key": token}, {"Authorization": f"Basic {basic}"}):
        assert facts(db.one("authenticate", Jsonb(headers), "GET", "/")) == of_key
        assert db.one("authenticate_json", Jsonb(headers), "GET", "/")[0]["tenant"] == "acme"
        assert db.one("serve", Jsonb(headers), "GET", "/").key_id == key.key_id
        with db.session.transaction():
            for setting, value in (("headers", json.dumps(headers)), ("method", "GET"), ("path", "/")):
                db.rows("SELECT set_config(%s, %s, true)", f"request.{setting}", value)
            db.call("pre_request")
            assert db.value("SELECT keysmith.current_key()") == key.key_id
    assert {step.outcome for step in db.call("explain_verify", token)} == {"pass"}


def test_a_key_and_its_token_are_two_credentials(db, key, token):
    verdict = db.one("authenticate", Jsonb({"Authorization": f"Bearer {token}", "X-API-Key": key.api_key}), "GET", "/")
    assert verdict.reason == "malformed_header"


def test_a_long_token(db, key):
    """Stored and passed in every way in which PostgreSQL has long texts."""
    claims = {"note": "x" * 5500}
    token = derived(db, key, claims=Jsonb(claims))
    assert 7000 < len(token) <= 8192
    db.rows("CREATE TABLE kept (token text); ALTER TABLE kept ALTER token SET STORAGE EXTERNAL")
    db.rows("INSERT INTO kept VALUES (%s)", token)
    assert db.verify(token).ok
    assert db.value("SELECT (keysmith.verify(token)).ok FROM kept")
    assert db.one("authenticate", Jsonb({"Authorization": f"Bearer {token}"}), "GET", "/").ok


def test_prepared_statements_savepoints_and_blocks(db, key, token):
    db.rows("PREPARE decide (text) AS SELECT (keysmith.verify($1, sign_in => true)).reason")
    for _ in range(7):
        assert db.value(f"EXECUTE decide ('{token}')") == "ok"
    with db.session.transaction():
        db.rows("SAVEPOINT s")
        assert db.verify(token, sign_in=True).ok
        db.rows("ROLLBACK TO s")
        assert db.value("SELECT keysmith.current_key()") is None
        db.rows("SAVEPOINT s")
        db.verify(token, sign_in=True)
        db.rows("RELEASE s")
        assert db.value("SELECT keysmith.current_key()") == key.key_id
        # A decision that refuses ends the identity.
        db.verify(token + "x", sign_in=True)
        assert db.value("SELECT keysmith.current_key()") is None


# What a token gives

def test_scopes_are_those_of_the_token_that_the_key_holds(db, key):
    token = derived(db, key, scopes=["a"])
    verdict = db.verify(token, scopes=["b"])
    assert (verdict.reason, verdict.scopes, verdict.missing_scopes) == ("insufficient_scope", ["a"], "b")
    assert db.verify(token, scopes=["a"]).ok
    db.call("remove_scopes", key.key_id, ["a"])
    assert db.reason(token, scopes=["a"]) == "insufficient_scope"
    assert (db.verify(token).scopes, db.verify(key.api_key).scopes) == ([], ["b"])
    # The token has nothing that the key gets later.
    db.call("add_scopes", key.key_id, ["a", "c"])
    assert db.verify(token).scopes == ["a"]
    # A token with nothing still says who it is.
    assert db.verify(derived(db, key, scopes=[])).scopes == []


def test_roles_change_what_a_token_gives(db):
    db.tenant()
    db.call("define_role", "default", "reader", ["a:*"])
    db.call("set_member", "acme", "ann", "reader")
    key = db.mint(owner="ann")
    token = derived(db, key, scopes=["a:one"])
    assert db.verify(token, scopes=["a:one"]).ok
    db.call("define_role", "default", "reader", ["b"])
    assert db.reason(token, scopes=["a:one"]) == "insufficient_scope"
    # A claim that was signed for more than the key holds gives no more.
    wide = OURS.token(key, scope="* a:one b")
    assert db.verify(wide).scopes == ["b"]


def test_scopes_that_imply_others(db):
    db.call("create_keyspace", "default", wildcards=True)
    db.call("define_scope", "default", "write")
    db.call("define_scope", "default", "admin", implies=["write"])
    db.tenant()
    key = db.mint(scopes=["admin"])
    assert db.verify(derived(db, key, scopes=["write"]), scopes=["write"]).ok
    assert db.reason(derived(db, key, scopes=["write"]), scopes=["admin"]) == "insufficient_scope"
    assert db.verify(OURS.token(key, scope="admin"), scopes=["write"]).ok


def test_the_bounds_of_the_tenant_hold_for_tokens(db, key):
    token = derived(db, key)
    db.call("alter_tenant", "acme", '{"scopes": ["b", "c"], "allowlist": ["192.0.2.0/24"]}')
    assert db.verify(token, ip="192.0.2.1").scopes == db.verify(key.api_key, ip="192.0.2.1").scopes == ["b"]
    assert db.reason(token, ip="192.0.2.1", scopes=["a"]) == "insufficient_scope"
    assert db.reason(token, ip="203.0.113.1") == "ip_not_allowed"
    with db.session.transaction():
        assert db.verify(token, ip="192.0.2.1", sign_in=True).ok
        assert db.value("SELECT keysmith.has_scope('b') AND NOT keysmith.has_scope('a')")
    assert "which \"a\" is not" in db.refused("KS403", "derive_token", key.api_key, scopes=["a"])
    assert db.verify(derived(db, key), ip="192.0.2.1").scopes == ["b"]


@pytest.mark.parametrize("keys, tokens, address, reason, saw", [
    (None, ["192.0.2.0/24"], "192.0.2.1", "ok", "in the allowlist of its token;"),
    (None, ["192.0.2.0/24"], "203.0.113.1", "ip_not_allowed", "not in the allowlist of its token;"),
    (None, ["192.0.2.0/24"], None, "ip_unknown", "not in the allowlist of its token;"),
    (["192.0.2.0/24"], None, "203.0.113.1", "ip_not_allowed", "not in the allowlist of the key;"),
    (["192.0.0.0/16"], ["192.0.2.0/24"], "192.0.2.1", "ok", "in the allowlist of the key and its token;"),
    (["192.0.0.0/16"], ["192.0.2.0/24"], "192.0.3.1", "ip_not_allowed", "not in the allowlist of its token;"),
    (["192.0.2.0/24"], ["192.0.0.0/16"], "192.0.3.1", "ip_not_allowed", "not in the allowlist of the key;"),
    (None, ["2001:db8::/32", "192.0.2.0/24"], "::ffff:192.0.2.1", "ok", "in the allowlist of its token;"),
])
def test_an_address_must_be_in_both_lists(db, keys, tokens, address, reason, saw):
    db.tenant()
    key = db.mint(allowlist=keys)
    token = derived(db, key, allowlist=tokens)
    assert db.reason(token, ip=address) == reason
    step = {step.rule: step for step in db.call("explain_verify", token, ip=address)}["address"]
    assert step.outcome == ("pass" if reason == "ok" else "refuse")
    assert step.saw.startswith(saw)


def test_a_verdict_tells_the_earliest_end(db):
    db.tenant()
    late = datetime.now(timezone.utc) + timedelta(days=1)
    for key in (db.mint(), db.mint(expires_at=late)):
        made = db.one("derive_token", key.api_key, ttl="1 hour")
        assert db.verify(made.token).expires_at == made.expires_at < late
    # The key was shortened after the token was made.
    soon = datetime.now(timezone.utc) + timedelta(minutes=1)
    db.call("alter_key", key.key_id, Jsonb({"expires_at": soon.isoformat()}))
    assert db.verify(made.token).expires_at == soon


# When a token ends

ENDS = {
    "revoked": lambda db, key: db.call("revoke", key.key_id),
    "disabled": lambda db, key: db.call("disable", key.key_id),
    "tenant_suspended": lambda db, key: db.call("suspend_tenant", "acme"),
    "owner_gone": lambda db, key: db.call("remove_member", "acme", "ann"),
    "expired": lambda db, key: db.rows("UPDATE keysmith_private.key SET expires_at = clock_timestamp()"),
}


@pytest.mark.parametrize("reason", ENDS)
def test_a_token_ends_with_the_commit_that_ends_its_key(db, database, connect, reason):
    db.tenant()
    db.call("define_role", "default", "developer", ["*"])
    db.call("set_member", "acme", "ann", "developer")
    key = db.mint(owner="ann")
    token = derived(db, key)
    others = [database(connect()) for _ in range(2)]
    # One has checked the signature before, in a transaction that still runs.
    for statement in ("BEGIN", "SELECT 1"):
        others[0].rows(statement)
    assert others[0].verify(token, sign_in=True).ok
    db.rows("BEGIN")
    ENDS[reason](db, key)
    assert others[0].verify(token).ok and others[1].verify(token).ok
    db.rows("COMMIT")
    for other in others:
        assert other.reason(token) == reason == other.reason(key.api_key)
        # A token that has expired tells about its key, if the key was revoked or has expired, too.
        old = other.reason(OURS.token(key, iat=1, exp=2))
        assert old == (reason if reason in ("revoked", "expired") else "token_expired")
    over(others[0])
    others[0].rows("ROLLBACK")


def test_a_key_that_comes_back_has_its_token_again(db, key, token):
    db.call("disable", key.key_id)
    assert db.reason(token) == "disabled"
    db.call("enable", key.key_id)
    assert db.verify(token).ok


def test_rotation_ends_it_with_the_grace_of_its_key(db, key, token):
    new = db.one("rotate", key.key_id, grace="1 day")
    assert db.verify(token).ok
    assert db.verify(token).expires_at <= datetime.now(timezone.utc) + timedelta(minutes=15)
    again = db.one("rotate", new.key_id)
    assert db.reason(derived(db, again)) == "ok"
    assert db.reason(OURS.token(new)) == "revoked"


def test_a_key_that_is_removed_leaves_no_token(db, key, token):
    db.call("erase_tenant", "acme")
    assert db.verify(token).reason in ("revoked", "token_invalid")
    db.rows("DELETE FROM keysmith_private.key")
    verdict = db.verify(token)
    assert (verdict.reason, verdict.key_id) == ("token_invalid", None)


def test_a_dropped_keyspace_leaves_no_token(db):
    """A keyspace of the same name signs with the same key."""
    for _ in range(2):
        db.call("create_keyspace", "shop")
        db.tenant(keyspace="shop")
        key = db.mint(keyspace="shop")
        token = derived(db, key, keyspace="shop")
        assert db.verify(token, keyspace="shop").ok
        db.call("drop_keyspace", "shop", cascade=True)
        assert not db.verify(token, keyspace="shop").ok
        db.call("create_keyspace", "shop")
        assert db.reason(token, keyspace="shop") == "token_invalid"
        db.call("drop_keyspace", "shop")


def test_it_ends_at_its_end(db, key):
    end = seconds() + 1
    token = OURS.token(key, exp=end)
    verdict = wait_until(lambda: not (v := db.verify(token)).ok and v)
    assert (verdict.reason, verdict.status, verdict.code, verdict.key_id) == ("token_expired", 401, "token_expired", key.key_id)
    assert db.value("SELECT clock_timestamp() >= to_timestamp(%s)", end)
    assert db.verify(key.api_key).ok


def test_the_environment_and_the_kind_are_the_keys(db):
    db.tenant()
    token = derived(db, db.mint(kind="publishable", environment="test"))
    assert db.reason(token, environment="live") == "wrong_environment"
    assert db.reason(token, kind="secret") == "kind_not_allowed"
    assert db.verify(token, environment="test", kind="publishable").ok


def test_another_issuer_ends_all_tokens(db, key, token):
    with db.session.transaction():
        db.verify(token, sign_in=True)
        db.rows("SAVEPOINT s")
        db.rows("UPDATE keysmith_private.keyspace SET issuer = 'https://api.example.com'")
        assert "no longer valid" in over(db)
        db.rows("ROLLBACK TO s")
    db.call("alter_keyspace", "default", '{"issuer": "https://api.example.com"}')
    assert db.reason(token) == "token_invalid"
    assert db.verify(derived(db, key)).ok
    # A token may be for others, too.
    both = derived(db, key, audience="https://files.example https://api.example.com")
    assert db.verify(both).ok
    assert db.reason(derived(db, key, audience="https://files.example")) == "token_invalid"


def test_snapshots_see_the_key_as_they_would_see_it(db, database, connect, key, token):
    """At a stricter isolation level a token is decided as its key is."""
    other = database(connect())
    for level in ("REPEATABLE READ", "SERIALIZABLE"):
        fresh = db.mint()
        made = derived(db, fresh)
        other.rows(f"BEGIN ISOLATION LEVEL {level}")
        other.rows("SELECT 1 FROM pg_class LIMIT 1")
        db.call("revoke", fresh.key_id)
        assert other.reason(made) == other.reason(fresh.api_key) == "revoked"
        other.rows("ROLLBACK")


# Limits, credits and records

def test_a_token_spends_what_its_key_has(db):
    db.tenant()
    key = db.mint(limits=LIMITS, credits=10)
    token = derived(db, key)
    for left, (presented, spend) in zip((4, 3, 2), ((token, 3), (key.api_key, 3), (derived(db, key), 3))):
        verdict = db.verify(presented, spend=spend)
        assert (verdict.ok, verdict.limit_remaining) == (True, left)
    assert verdict.credits_remaining == 1
    assert db.reason(token, spend=2) == "credits_exhausted"
    assert db.verify(token, weight=2).ok
    assert db.reason(token) == "rate_limited" == db.reason(key.api_key)


def test_requests_are_recorded_as_those_of_the_key(db, key, token):
    before = db.value("SELECT count(*) FROM keysmith_private.usage_event")
    db.verify(token, ip="192.0.2.1")
    db.verify(token, scopes=["z"])
    db.verify(OURS.token(key, iat=1, exp=2))
    for _ in range(3):
        db.verify(token + "x")
    db.call("flush_usage", "60 s")
    rows = db.rows("SELECT key_id, outcome, host(ip) AS ip FROM keysmith_private.usage_event "
                   "WHERE key_id IS NOT NULL ORDER BY request_id")
    assert before == 0
    assert rows == [(key.key_id, "ok", "192.0.2.1"), (key.key_id, "insufficient_scope", None),
                    (key.key_id, "token_expired", None)]
    unknown = "SELECT sum(requests) FROM keysmith_private.usage_unknown WHERE reason = 'token_invalid'"
    assert db.value(unknown) == 3


def test_tokens_in_the_directory(db, key, token):
    old = OURS.token(key, iat=1, exp=2)

    def moved(presented):
        """By how much the counters of the directory and of outcomes grow."""
        before = metrics(db)
        db.verify(presented)
        after = metrics(db)
        return {name[-1].removeprefix("keysmith_directory_"): value - before.get(name, 0) for name, value in after.items()
                if value != before.get(name, 0) and name[0].endswith(("decisions_total", "hits_total", "misses_total"))}

    assert moved(token) == {"ok": 1, "misses_total": 1}
    # Another token of the key has the same place.
    assert moved(derived(db, key)) == {"ok": 1, "hits_total": 1} == moved(token)
    assert moved(old) == {"token_expired": 1, "hits_total": 1}
    assert moved(old + "x") == {"token_invalid": 1}


def test_the_directory_follows_a_key_that_moves(db, key, token):
    assert db.verify(token).ok
    for label in ("one", "two"):
        db.call("alter_key", key.key_id, Jsonb({"label": label}))
        assert db.verify(token).label == label
    db.rows("VACUUM FULL keysmith_private.key")
    assert (db.verify(token).label, db.verify(token).ok) == ("two", True)


def test_a_digest_that_has_another_key_now(db):
    """A key that was removed by hand, and imported again for another tenant, is at the same place."""
    db.tenant()
    db.tenant("globex")
    text = "an imported key of an old system"
    digest = hashlib.sha256(text.encode()).digest()
    db.call("import_key", "acme", digest)
    token = db.one("derive_token", text).token
    assert db.verify(token).tenant == "acme"
    place = "SELECT ctid FROM keysmith_private.key"
    before = db.value(place)
    db.rows("DELETE FROM keysmith_private.key")

    def is_empty():
        db.rows("VACUUM keysmith_private.key")
        return db.value("SELECT pg_relation_size('keysmith_private.key')") == 0

    wait_until(is_empty)
    db.call("import_key", "globex", digest)
    assert db.value(place) == before
    assert (db.verify(text).tenant, db.reason(token)) == ("globex", "token_invalid")


# Identities

def test_the_identity_is_the_keys_but_narrower(db, key):
    token = derived(db, key, scopes=["a"])
    with db.session.transaction():
        end = db.verify(token, sign_in=True).expires_at
        row = db.row("SELECT keysmith.current_tenant() AS tenant, keysmith.current_key() AS key, "
                     "keysmith.has_scope('a') AS a, keysmith.has_scope('b') AS b, keysmith.has_scope('a & b') AS both, "
                     "keysmith.whoami()->'scopes' AS scopes")
        assert row == ("acme", key.key_id, True, False, False, ["a"])
        assert db.value("SELECT (keysmith.whoami()->>'expires_at')::timestamptz") == end
        # Each check asks again.
        other = session_beside(db)
        other.call("remove_scopes", key.key_id, ["a"])
        assert not db.value("SELECT keysmith.has_scope('a') OR keysmith.has_scope('b')")
        other.call("add_scopes", key.key_id, ["a"])
        assert db.value("SELECT keysmith.has_scope('a')")
        other.session.close()


def session_beside(db):
    beside = psycopg.connect(db.session.info.dsn, autocommit=True, row_factory=db.session.row_factory)
    beside.prepare_threshold = None
    return type(db)(beside)


def test_row_level_security_knows_it(db, key):
    db.rows("CREATE TABLE photo (tenant text DEFAULT keysmith.current_tenant(), name text)")
    db.call("isolate", "photo", "tenant", keyspace="default")
    db.tenant("globex")
    db.rows("CREATE ROLE app; GRANT SELECT, INSERT ON photo TO app; GRANT USAGE ON SCHEMA public TO app")
    try:
        for presented in (derived(db, key), derived(db, db.mint("globex"))):
            with db.session.transaction():
                db.verify(presented, sign_in=True)
                db.rows("SET LOCAL ROLE app")
                db.rows("INSERT INTO photo (name) VALUES ('one')")
                assert db.value("SELECT count(*) FROM photo") == 1
        assert db.rows("SELECT tenant FROM photo ORDER BY 1") == [("acme",), ("globex",)]
    finally:
        db.rows("DROP OWNED BY app; DROP ROLE app")


def test_the_identity_ends_with_the_token(db, key):
    def signed_in():
        db.rows("BEGIN")
        if db.verify(OURS.token(key, exp=seconds() + 2), sign_in=True).ok:
            return True
        db.rows("ROLLBACK")

    wait_until(signed_in)

    def ended():
        db.rows("SAVEPOINT s")
        try:
            db.rows("SELECT keysmith.current_tenant()")
        except psycopg.Error as error:
            db.rows("ROLLBACK TO s")
            return error

    error = wait_until(ended)
    assert (error.sqlstate, error.diag.message_primary) == ("KS401", "the token that this transaction acts by has expired")
    db.rows("ROLLBACK")


def test_the_identity_ends_with_the_networks(db, database, connect, key):
    token = derived(db, key, allowlist=["192.0.2.0/24"])
    other = database(connect())
    db.rows("BEGIN")
    assert db.verify(token, ip="192.0.2.1", sign_in=True).ok
    other.call("alter_key", key.key_id, Jsonb({"allowlist": ["192.0.0.0/16"]}))
    assert db.value("SELECT keysmith.current_key()") == key.key_id
    other.call("alter_key", key.key_id, Jsonb({"allowlist": ["203.0.113.0/24"]}))
    assert "from its address" in over(db)
    db.rows("ROLLBACK")


READS = ["SELECT keysmith.whoami()", "SELECT * FROM keysmith.list_keys('acme')", "SELECT * FROM keysmith.keys",
         "SELECT keysmith.usage_logs('acme')", "SELECT * FROM keysmith.jwks()"]
CHANGES = [
    "SELECT * FROM keysmith.mint('acme')", "SELECT * FROM keysmith.rotate(keysmith.current_key())",
    "SELECT * FROM keysmith.regenerate('acme')", "SELECT keysmith.revoke(keysmith.current_key())",
    "SELECT keysmith.disable(keysmith.current_key())", "SELECT keysmith.enable(keysmith.current_key())",
    "SELECT keysmith.alter_key(keysmith.current_key(), '{\"label\": \"x\"}')",
    "SELECT keysmith.add_scopes(keysmith.current_key(), '{a}')", "SELECT keysmith.remove_scopes(keysmith.current_key(), '{a}')",
    "SELECT * FROM keysmith.import_key('acme', sha256('x'))", "SELECT * FROM keysmith.derive_token()",
    "SELECT keysmith.report_leak(current_setting('test.other'), 'a page')",
    "SELECT keysmith.add_credits(key_id => keysmith.current_key(), amount => 1)", "SELECT keysmith.create_tenant('globex')",
    "SELECT keysmith.grant_access('postgres', 'admin')", "SELECT keysmith.act_as('acme')",
    "SELECT keysmith.alter_tenant('acme', '{}')", "SELECT keysmith.define_role('default', 'all', '{*}')",
]


def test_an_identity_of_a_token_only_reads(db):
    db.tenant()
    key, other = db.mint(), db.mint()
    db.rows("SELECT set_config('test.other', %s, false)", other.api_key)
    token = derived(db, key)
    before = db.rows("SELECT * FROM keysmith_private.key ORDER BY key_id")
    for statement in READS:
        with db.session.transaction():
            db.verify(token, sign_in=True)
            assert db.rows(statement)
    for statement in CHANGES:
        with pytest.raises(psycopg.Error) as error, db.session.transaction():
            db.verify(token, sign_in=True)
            db.rows(statement)
        assert error.value.sqlstate == "KS403", (statement, error.value)
        assert token not in str(error.value)
    assert db.rows("SELECT * FROM keysmith_private.key ORDER BY key_id") == before
    # The same key may, and a token gives nothing to a token.
    with db.session.transaction():
        db.verify(key.api_key, sign_in=True)
        assert db.one("derive_token").token
        assert db.one("mint", "acme").api_key
    assert "token" in db.refused("KS403", "derive_token", token)


def test_served_operations(cluster, connect, db, dbname):
    with serving(cluster, connect, db, dbname) as service:
        for endpoint in ENDPOINTS:
            service.define(*endpoint)
        key = db.mint()
        made = type("Made", (), {"api_key": derived(db, key)})
        for method, path in (("GET", "/v1/me"), ("GET", "/v1/keys"), ("GET", f"/v1/keys/{key.key_id}"), ("GET", "/v1/logs"), ("GET", "/v1/usage")):
            answer = service.ask(made, method, path)
            assert (answer.status, answer.key_id) == (200, key.key_id), answer
        for method, path in (("POST", "/v1/keys"), ("DELETE", f"/v1/keys/{key.key_id}"), ("POST", "/v1/regenerate"),
                             ("POST", f"/v1/keys/{key.key_id}/rotate"), ("PATCH", f"/v1/keys/{key.key_id}")):
            answer = service.ask(made, method, path, body={})
            assert answer.status == 403, answer
        assert db.verify(key.api_key).ok
        assert db.value("SELECT count(*) FROM keysmith_private.key") == 1


def test_challenges_and_words(db, key):
    old = OURS.token(key, iat=1, exp=2)
    for token, code in ((old, "token_expired"), (old + "x", "token_invalid")):
        headers = db.value("SELECT keysmith.response_headers(keysmith.verify(%s))", token)
        assert 'error="invalid_token"' in headers["WWW-Authenticate"] and headers["Cache-Control"] == "no-store"
        assert db.value("SELECT keysmith.problem(keysmith.verify(%s))", token)["code"] == code
    db.call("alter_keyspace", "default", '{"codes": {"token_expired": {"code": "renew", "message": "Renew it.", "status": 498}}}')
    verdict = db.verify(old)
    assert (verdict.status, verdict.code, verdict.message, verdict.reason) == (498, "renew", "Renew it.", "token_expired")


def test_explanations(db, key):
    def explained(token, **options):
        return {step.rule: step for step in db.call("explain_verify", token, **options)}

    steps = explained(OURS.token(key, iat=1, exp=2))
    assert steps["expiry"].reason == "token_expired" and "the token expires at 1970-01-01" in steps["expiry"].saw
    assert steps["format"].saw == "a token with a good signature"
    for claims, saw in (({"iss": "x"}, "a token of another issuer"), ({"aud": "x"}, "a token for another audience"),
                        ({"iat": 2**31, "exp": 2**32}, "a token that was made in the future"),
                        ({"exp": "1"}, "a token with other claims than ours have")):
        step = explained(OURS.token(key, **claims))["format"]
        assert (step.outcome, step.reason, step.saw) == ("refuse", "token_invalid", saw)
    forged = OURS.token(key)
    steps = explained(forged[:-3] + "AAA")
    assert "signature" in steps["format"].saw and steps["found"].outcome == "not reached"


# Secrets

def reload(db):
    assert db.value("SELECT pg_reload_conf()")


def test_a_session_finds_new_secrets_by_itself(cluster, db, database, connect, key):
    """A token of a generation that this session does not know makes it read the file."""
    try:
        new = Signer(generation=2).token(key)
        other = database(connect())
        assert other.reason(new) == "malformed_key"
        write_secrets(cluster, 1, 2)
        # It looks at the file once a second at most.
        wait_until(lambda: other.reason(new) == "ok")
        assert other.verify(OURS.token(key)).ok
        write_secrets(cluster, 2)
        reload(db)
        wait_until(lambda: other.reason(OURS.token(key)) == "malformed_key")
        assert other.verify(new).ok
    finally:
        write_secrets(cluster, 1)
        reload(db)


def test_without_secrets_nothing_is_a_token(key, db):
    with running("no-secrets") as bare:
        there = session(bare)
        there.rows("CREATE EXTENSION keysmith")
        there.tenant()
        mine = there.mint()
        assert there.reason(OURS.token(mine)) == "malformed_key"
        assert there.verify(mine.api_key).ok


def test_a_standby_decides_about_tokens(cluster, dbname, db, key, token):
    standby = cluster.backup("token_standby", 5433)
    try:
        standby.start()
        there = session(standby, dbname)
        assert facts(there.verify(token)) == facts(db.verify(token))
        assert there.verify(derived(there, key, scopes=["a"])).scopes == ["a"]
        with there.session.transaction():
            assert there.verify(token, sign_in=True).ok
            assert there.value("SELECT keysmith.current_key()") == key.key_id
            db.call("revoke", key.key_id)
            wait_until(lambda: there.reason(token) == "revoked")
            over(there)
            raise psycopg.Rollback
        assert there.reason(OURS.token(key, iat=1, exp=2)) == "revoked"
        assert there.reason(token + "x") == "token_invalid"
        there.session.close()
    finally:
        standby.remove()
