"""Requests as frameworks pass them, the policy of keyspaces, and its definition."""

import psycopg
import pytest
from psycopg.types.json import Jsonb

POLICY = ("keyspace", "keyspace_prefix", "answer", "plan_feature", "scope", "role", "route", "endpoint", "key")


@pytest.fixture
def key(db):
    db.tenant()
    return db.mint().api_key


@pytest.fixture
def ask(db):
    """Authenticates a request with these headers, and returns the reason."""
    def ask(headers, **more):
        verdict = db.one("authenticate", Jsonb(headers), "GET", "/", **more)
        assert verdict.ok == (verdict.reason == "ok")
        return verdict.reason
    return ask


def policy_of(db):
    return [db.rows(f"SELECT * FROM keysmith_private.{table} ORDER BY 1, 2, 3") for table in POLICY]


# Headers

def test_the_three_ways_to_hand_in_a_key(ask, key):
    for headers in ({"authorization": f"Bearer {key}"}, {"authorization": f"Key {key}"},
                    {"x-api-key": key}):
        assert ask(headers) == "ok"


def test_names_and_schemes_are_found_in_any_case(ask, key):
    for name in ("authorization", "Authorization", "AUTHORIZATION", "aUTHORIZATION"):
        for scheme in ("Bearer", "bearer", "BEARER", "bEaReR", "Key", "KEY"):
            assert ask({name: f"{scheme} {key}"}) == "ok"
    for name in ("x-api-key", "X-API-Key", "X-Api-Key", "X-API-KEY"):
        assert ask({name: key}) == "ok"
    for name in ("", "authorization ", "x_api_key", "proxy-authorization", "cookie", "xapikey",
                 "authorızation", "apikey"):
        assert ask({name: f"Bearer {key}"}) == "missing"


def test_values_are_texts_or_lists_of_texts(ask, key):
    for value in ([f"Bearer {key}"], [f"Bearer {key}", f"Bearer {key}"], [None, f"Bearer {key}"]):
        assert ask({"authorization": value}) == "ok"
    for value in (None, [], [None], [None, None]):
        assert ask({"authorization": value}) == "missing"
        assert ask({"authorization": value, "x-api-key": key}) == "ok"
    for value in (5, 0, True, False, {}, {"authorization": f"Bearer {key}"}, [5], [{}], [[]],
                  [[f"Bearer {key}"]], [f"Bearer {key}", 5], [f"Bearer {key}", ["x"]], 1e300):
        assert ask({"authorization": value}) == "malformed_header", value
        assert ask({"x-api-key": key, "authorization": value}) == "malformed_header", value


def test_other_headers_may_be_anything(ask, key):
    noise = {"accept": "*/*", "number": 1.5, "null": None, "true": True, "false": False, "": "",
             "list": [1, None, "x", ["y"], {}], "object": {"authorization": "Bearer x", "a": [{}]},
             "cookie": f"key={key}", "z": "Bearer other", "X-API-Keys": "x"}
    assert ask(noise) == "missing"
    assert ask(noise | {"Authorization": f"Bearer {key}"}) == "ok"
    assert ask(noise | {"x-api-key": [key]}) == "ok"


def test_thousands_of_headers(ask, key):
    many = {f"x-header-{number}": [f"Bearer {number}"] * 3 for number in range(10_000)}
    assert ask(many) == "missing"
    assert ask(many | {"Authorization": f"Bearer {key}"}) == "ok"
    assert ask({"authorization": [f"Bearer {key}"] * 10_000}) == "ok"
    assert ask({"authorization": [f"Bearer {key}"] * 10_000 + ["Bearer x"]}) == "malformed_header"


def test_what_is_missing_what_is_malformed_and_what_is_a_bad_key(ask, key):
    for headers in ({}, {"accept": "*/*"}, {"authorization": None}, {"Authorization": ""},
                    {"authorization": ["", " "]}):
        assert ask(headers) == "missing"
    assert ask({"authorization": "", "x-api-key": key}) == "malformed_header", "it is doubtful beside a key"
    for value in (key, "Bearer", "Bearer ", "Key", "Basic azox", "Digest a=b",
                  f"Bearer{key}", f"Bearer:{key}", f"Bearer Key {key}", f"Bearer {key} x",
                  f"Bearer {key},", f"Bearer {key}, Bearer {key}", f"Token {key}",
                  f"=Bearer {key}"):
        assert ask({"authorization": value}) == "malformed_header", value
    for value in ("", " \t", f"Bearer {key}", f"{key} x", f"{key},{key}", f"{key}, x"):
        assert ask({"x-api-key": value}) == "malformed_header", value
    for value in ("x", key[:-1], key + "0", "-", "null", f'"{key}"', key.replace("_", "%5f"), ";"):
        assert ask({"x-api-key": value}) == "malformed_key", value
        assert ask({"authorization": f"Bearer {value}"}) == "malformed_key", value


def test_each_cause_has_its_status_and_code(db, key):
    for headers, reason, status, code in [
        ({}, "missing", 401, "missing_authorization"),
        ({"x-api-key": ""}, "malformed_header", 401, "invalid_authorization"),
        ({"x-api-key": "a b"}, "malformed_header", 401, "invalid_authorization"),
        ({"x-api-key": "x"}, "malformed_key", 401, "invalid_api_key"),
        ({"x-api-key": key}, "ok", 200, "ok"),
    ]:
        verdict = db.one("authenticate", Jsonb(headers), "GET", "/")
        assert (verdict.reason, verdict.status, verdict.code) == (reason, status, code)
        assert verdict.message and verdict.request_id


def test_different_keys_in_one_request_are_malformed(db, ask, key):
    other = db.mint().api_key
    for headers in ({"authorization": f"Bearer {key}", "x-api-key": other},
                    {"authorization": [f"Bearer {key}", f"Bearer {other}"]},
                    {"authorization": f"Bearer {key}", "Authorization": f"Bearer {other}"},
                    {"x-api-key": [key, other]}, {"x-api-key": key, "X-API-Key": other},
                    {"x-api-key": [key, ""]}, {"x-api-key": key, "authorization": "Basic x"},
                    {"x-api-key": [key, other, key]}, {"x-api-key": [key, key[:-1]]}):
        assert ask(headers) == "malformed_header", headers


def test_the_same_key_twice_is_one(ask, key):
    for headers in ({"authorization": f"Bearer {key}", "x-api-key": key},
                    {"authorization": [f"Bearer {key}", f"key {key}"]},
                    {"authorization": f"Bearer {key}", "Authorization": f" Key\t{key} "},
                    {"x-api-key": [key, f" {key}"], "X-API-KEY": key}):
        assert ask(headers) == "ok", headers


def test_white_space_around_is_forgiven_and_nothing_else(ask, key):
    for value in (f" Bearer {key}", f"\tBearer {key}\t ", f"Bearer   {key}", f"Bearer\t{key}"):
        assert ask({"authorization": value}) == "ok", value
    for value in (f" {key}", f"{key}\t", f" \t{key} \t"):
        assert ask({"x-api-key": value}) == "ok", value
    for space in ("\n", "\r", "\r\n", "\v", "\f", "\u0001", "\u007f", "\u0085", "\u00a0", "\u2003",
                  "\u200b", "\ufeff", "\u3000", "\x1b[0m"):
        for value in (f"Bearer {key}{space}", f"{space}Bearer {key}", f"Bearer{space}{key}",
                      f"Bearer {key[:9]}{space}{key[9:]}", f"Bearer {space}{key}"):
            assert ask({"authorization": value}) == "malformed_header", value
        for value in (f"{key}{space}", f"{space}{key}", f"{key[:9]}{space}{key[9:]}"):
            assert ask({"x-api-key": value}) == "malformed_header", value


def test_nothing_is_decoded(ask, key):
    for value, reason in [
        (f"Bearer%20{key}", "malformed_header"), (f"Bearer+{key}", "malformed_header"),
        (f"Bearer {key}%20", "malformed_key"), (f"Bearer {key}+", "malformed_key"),
        (f"Bearer %{ord(key[0]):x}{key[1:]}", "malformed_key"),
        (f"=?utf-8?q?Bearer_{key}?=", "malformed_header"),
        (f"\uff22earer {key}", "malformed_header"), (f"\u212aey {key}", "malformed_header"),
    ]:
        assert ask({"authorization": value}) == reason, value


def test_values_of_a_megabyte(ask, key):
    for value, reason in [("a", "malformed_header"), (" ", "missing"),
                          ("Bearer ", "malformed_header"), ("é", "malformed_header"),
                          (",", "malformed_header"), ("\n", "malformed_header")]:
        assert ask({"authorization": value * (1_000_000 // len(value))}) == reason, value
    assert ask({"authorization": "Bearer " + "a" * 1_000_000}) == "malformed_key"
    assert ask({"x-api-key": "a" * 1_000_000}) == "malformed_key"
    assert ask({"x-api-key": " " * 1_000_000}) == "malformed_header"
    assert ask({"x-api-key": " " * 500_000 + key + "\t" * 500_000}) == "ok"
    assert ask({"authorization": f"Bearer {key}", "accept": "x" * 1_000_000}) == "ok"
    assert ask({"a" * 1_000_000: key, "x-api-key": key}) == "ok"


def test_headers_that_are_no_object(db, ask, key):
    assert db.one("authenticate", None, "GET", "/").reason == "missing"
    assert ask(None) == ask({}) == "missing"
    for headers in ([], ["Bearer x"], [{"x-api-key": key}], [["x-api-key", key]], "",
                    f"Bearer {key}", key, 5, 0, True, False):
        assert ask(headers) == "malformed_header", headers
    deep = "[" * 5000 + "]" * 5000
    assert db.one("authenticate", f'{{"a": {deep}}}', "GET", "/").reason == "missing"
    assert db.one("authenticate", deep, "GET", "/").reason == "malformed_header"
    assert db.one("authenticate", f'{{"x-api-key": {deep}}}', "GET", "/").reason \
        == "malformed_header"


def test_headers_that_are_stored_out_of_line(db, key):
    db.rows("CREATE TABLE request (headers jsonb)")
    db.rows("""INSERT INTO request SELECT jsonb_build_object('x-api-key', %s::text, 'pad', (
                   SELECT jsonb_agg(md5(n::text)) FROM generate_series(1, 20000) n))""", key)
    db.rows("INSERT INTO request VALUES (%s)",
            Jsonb({"pad": "x" * 100_000, "authorization": f"Bearer {key}"}))
    assert db.rows("SELECT v.reason FROM request, keysmith.authenticate(headers, 'GET', '/') v") \
        == [("ok",)] * 2


# Schemes

@pytest.mark.parametrize("schemes", [["bearer"], ["key"], ["x_api_key"], ["bearer", "key"],
                                     ["bearer", "x_api_key"], ["key", "x_api_key"]])
def test_only_the_schemes_of_the_keyspace_are_accepted(db, schemes):
    db.call("create_keyspace", "mine", schemes=schemes)
    db.tenant(keyspace="mine")
    key = db.mint(keyspace="mine").api_key

    def ask(headers):
        return db.one("authenticate", Jsonb(headers), "GET", "/", keyspace="mine").reason

    # A header that may hold the key must be valid; another may have any content.
    unaccepted = "missing" if schemes == ["x_api_key"] else "malformed_header"
    assert ask({"authorization": f"Bearer {key}"}) == ("ok" if "bearer" in schemes else unaccepted)
    assert ask({"authorization": f"Key {key}"}) == ("ok" if "key" in schemes else unaccepted)
    assert ask({"authorization": "Basic azox"}) == unaccepted
    assert ask({"authorization": 5}) == unaccepted
    x_api_key = "x_api_key" in schemes
    assert ask({"x-api-key": key}) == ("ok" if x_api_key else "missing")
    assert ask({"x-api-key": [5, "", {}]}) == ("malformed_header" if x_api_key else "missing")
    right = {"x-api-key": key} if schemes == ["x_api_key"] else {
        "authorization": f"{schemes[0]} {key}"}
    assert ask(right | ({"authorization": "Basic x"} if schemes == ["x_api_key"] else {})) == "ok"
    if not x_api_key:
        assert ask(right | {"x-api-key": "another"}) == "ok"


# Methods and paths

def test_a_request_without_a_method_or_a_path_gets_nowhere(db, key):
    headers = Jsonb({"x-api-key": key})
    for method, path in [(None, "/"), ("", "/"), ("GET", None), ("GET", ""), (None, None), ("", ""),
                         ("G" * 1_000_000, "/"), ("GET", "/" + "a" * 1_000_000),
                         ("GET", "a" * 1_000_000), (None, "/" * 1_000_000)]:
        verdict = db.one("authenticate", headers, method, path)
        assert (verdict.reason, verdict.status) == ("insufficient_scope", 403)
        assert db.one("authenticate", Jsonb({}), method, path).reason == "missing"


def test_a_method_that_nobody_knows_is_not_listed(db, key):
    db.call("define_route", "default", "GET", "/x", ["admin"])
    db.call("define_route", "default", "*", "/y", ["admin"])
    limited = Jsonb({"x-api-key": db.mint(scopes=["a"]).api_key})
    for method in ("BREW", "brew", "PROPFIND"):
        assert db.one("authenticate", limited, method, "/x").ok
        assert db.one("authenticate", limited, method, "/y").reason == "insufficient_scope"
    db.call("alter_keyspace", "default", Jsonb({"unlisted_routes": "refuse"}))
    for method in ("BREW", "brew", "PROPFIND"):
        assert db.one("authenticate", limited, method, "/x").reason == "insufficient_scope"


def test_a_path_in_other_letters_goes_round_no_route(db):
    """Some servers route it as the same path."""
    db.tenant()
    db.call("define_route", "default", "GET", "/photos/{id}", ["photos:read"])
    db.call("define_endpoint", "default", "DELETE", "/keys/{id}", "revoke")
    limited = Jsonb({"x-api-key": db.mint(scopes=["a"]).api_key})
    for path in ("/PHOTOS/1", "/Photos/1/", "/%50hotos/1"):
        assert db.one("authenticate", limited, "GET", path).reason == "insufficient_scope"
    assert db.one("authenticate", limited, "DELETE", "/Keys/1").reason == "insufficient_scope"
    saw = [step.saw for step in db.call("explain_verify", db.mint().api_key, method="GET", path="/PHOTOS/1") if step.outcome == "refuse"]
    assert saw == ["holds *; the path differs from a route in upper and lower case only"]
    for method, path in (("POST", "/PHOTOS/1"), ("GET", "/PHOTOS"), ("GET", "/videos/1")):
        assert db.one("authenticate", limited, method, path).ok


def test_an_unknown_keyspace_has_no_keys(db, key):
    for keyspace in ("nowhere", "", "x" * 1_000_000, None, "Default"):
        verdict = db.one("authenticate", Jsonb({"x-api-key": key}), "GET", "/", keyspace=keyspace)
        assert (verdict.reason, verdict.status) == ("wrong_keyspace", 401)
        verdict = db.one("authenticate", Jsonb({}), "GET", "/", keyspace=keyspace)
        assert verdict.reason == "missing"
    mistyped = db.call("explain_verify", key, keyspace="defualt")
    assert [step.saw for step in mistyped if step.outcome == "refuse"] == ["there is no such keyspace"]


def test_a_publishable_key_is_no_secret_one(db):
    db.tenant()
    public = db.mint(kind="publishable").api_key
    assert db.reason(public, kind="secret") == "kind_not_allowed"
    assert db.reason(public, kind="publishable") == db.reason(public) == "ok"
    assert db.reason(db.mint().api_key, kind="publishable") == "ok"
    verdict = db.one("authenticate", Jsonb({"x-api-key": public}), "GET", "/")
    assert (verdict.reason, verdict.kind) == ("ok", "publishable")
    assert db.verify(public, kind="secret")[:3] == (False, 403, "insufficient_kind")


# Vocabulary

def test_without_codes_the_canonical_ones_are_told(db, key):
    db.call("create_keyspace", "mine", codes=Jsonb({}))
    for keyspace in ("default", "mine"):
        verdict = db.one("authenticate", Jsonb({}), "GET", "/", keyspace=keyspace)
        assert (verdict.status, verdict.code) == (401, "missing_authorization")
        assert verdict.message == "No API key was given."


def test_a_keyspace_has_a_vocabulary_of_its_own(db):
    db.call("create_keyspace", "mine", codes=Jsonb({
        "insufficient_scope": "insufficient_role", "missing_authorization": {"status": 400},
        "invalid_api_key": {"code": "unauthorized", "message": "Nein.", "status": 403},
        "ip_not_allowed": {"message": "Not from there."}, "insufficient_kind": None,
        "invalid_authorization": {"code": None, "message": None, "status": None}}))
    db.tenant(keyspace="mine")
    key = db.row("SELECT * FROM keysmith.mint('acme', keyspace => 'mine', scopes => '{a}', "
                 "kind => 'publishable', allowlist => '{10.0.0.0/8}')").api_key

    def told(api_key, **asked):
        verdict = db.verify(api_key, keyspace="mine", **asked)
        return verdict.reason, verdict.status, verdict.code, verdict.message

    usual = "A scope that this request needs is missing."
    inside = {"ip": "10.0.0.1"}
    assert told(key, **inside) == ("ok", 200, "ok", "The API key is valid.")
    assert told(key, scopes=["b"], **inside) == (
        "insufficient_scope", 403, "insufficient_role", usual)
    assert told(None)[:3] == ("missing", 400, "missing_authorization")
    assert told(key, environment="test") == ("wrong_environment", 403, "unauthorized", "Nein.")
    assert told("x") == ("malformed_key", 403, "unauthorized", "Nein.")
    assert told(key) == ("ip_unknown", 403, "ip_not_allowed", "Not from there.")
    assert told(key, kind="secret", **inside)[:3] == ("kind_not_allowed", 403, "insufficient_kind")
    verdict = db.one("authenticate", Jsonb([]), "GET", "/", keyspace="mine")
    assert (verdict.status, verdict.code) == (401, "invalid_authorization")
    # A client that sees only status, code and message can't tell why a key is refused.
    assert db.verify(key).code == "invalid_api_key"


def test_altered_codes_replace_all_that_were_there(db, key):
    def code(api_key):
        return db.verify(api_key).code
    db.call("alter_keyspace", "default", Jsonb({"codes": {"invalid_api_key": "nope"}}))
    assert code("x") == "nope"
    db.call("alter_keyspace", "default", Jsonb({"codes": {"missing_authorization": "who"}}))
    assert (code("x"), code(None)) == ("invalid_api_key", "who")
    db.call("alter_keyspace", "default", Jsonb({"label_length": 50}))
    assert code(None) == "who"
    db.call("alter_keyspace", "default", Jsonb({"codes": None}))
    assert code(None) == "missing_authorization"


BAD_OPTIONS = {
    "codes": [
        [], "x", 5, {"ok": "fine"}, {"OK": "x"}, {"owner_gone": "x"}, {"": "x"},
        *({"invalid_api_key": value} for value in [
            5, ["x"], "", "x" * 101, "a\nb", {"status": 200}, {"status": 399}, {"status": 600},
            {"status": -1}, {"status": "401"}, {"status": 1e99}, {"status": 401.5}, {"text": "x"},
            {"message": "x" * 1001}, {"message": ""}, {"message": 5}])],
    "schemes": [[], ["digest"], ["Bearer"], ["bearer", ""], ["x-api-key"], ["bearer,key"]],
    "unlisted_routes": ["allow", "", "x" * 100_000],
    "plan_features": [
        [], "x", {"flying": ["pro"]}, {"allowlist": "pro"}, {"allowlist": [5]}, {"allowlist": [""]},
        {"allowlist": ["a\nb"]}],
    "display": [
        [], "{prefix}", {"ident": "key_{random:5}"},
        *({"id": template} for template in [
            5, "key_", "", "key_{random:3}", "key_{random:33}", "{prefix}{random:8}", "{random}",
            "{secret:4}{random:8}", "{random:8"]),
        *({"prefix": template} for template in [
            "", "{secret:9}", "{secret}", "{secret:-1}", "{random:8}", "{other}", "x" * 65,
            "a\nb"]),
        *({"snippet": template} for template in ["{end:7}", "{", "}", "{{prefix}}", []])],
}


@pytest.mark.parametrize("option", BAD_OPTIONS)
def test_bad_options_name_themselves_and_change_nothing(db, option):
    db.call("create_keyspace", "mine", codes=Jsonb({"invalid_api_key": "nope"}))
    before = policy_of(db)
    for value in BAD_OPTIONS[option]:
        given = value if option in ("schemes", "unlisted_routes") else Jsonb(value)
        assert option in db.refused("KS400", "create_keyspace", "other", **{option: given}), value
        message = db.refused("KS400", "alter_keyspace", "mine", Jsonb({option: value}))
        assert option in message, value
    assert policy_of(db) == before


# Plans

def test_a_feature_of_some_plans_alone(db):
    db.call("create_keyspace", "mine", plan_features=Jsonb({"allowlist": ["enterprise"]}))
    db.tenant(keyspace="mine", plan="free")
    key = db.mint(keyspace="mine")
    networks = Jsonb({"allowlist": ["10.0.0.0/8"]})
    mint = "SELECT * FROM keysmith.mint('acme', keyspace => 'mine', allowlist => '{10.0.0.0/8}')"

    def assert_refused():
        with pytest.raises(psycopg.Error) as error:
            db.rows(mint)
        assert error.value.sqlstate == "KS403"
        assert "allowlist" in error.value.diag.message_primary
        assert "allowlist" in db.refused("KS403", "alter_key", key.key_id, networks)

    assert_refused()
    db.call("alter_tenant", "acme", Jsonb({"plan": "Enterprise"}), "mine")
    assert_refused()
    db.call("alter_tenant", "acme", Jsonb({"plan": None}), "mine")
    assert_refused()
    assert db.value("SELECT count(*) FROM keysmith_private.key WHERE allowlist IS NOT NULL") == 0
    db.call("alter_tenant", "acme", Jsonb({"plan": "enterprise"}), "mine")
    listed = db.row(mint)
    db.call("alter_key", key.key_id, networks)
    for each in (key, listed):
        assert db.reason(each.api_key, keyspace="mine", ip="10.0.0.1") == "ok"
        assert db.reason(each.api_key, keyspace="mine", ip="11.0.0.1") == "ip_not_allowed"
    # A plan that ends keeps existing protection, and does not prevent its removal.
    db.call("alter_tenant", "acme", Jsonb({"plan": "free"}), "mine")
    assert db.reason(key.api_key, keyspace="mine", ip="11.0.0.1") == "ip_not_allowed"
    db.call("alter_key", key.key_id, Jsonb({"allowlist": None}))
    assert db.reason(key.api_key, keyspace="mine", ip="11.0.0.1") == "ok"
    assert_refused()


def test_other_keyspaces_and_features_are_for_every_plan(db):
    db.call("create_keyspace", "mine", plan_features=Jsonb({"allowlist": ["enterprise"]}))
    for keyspace in ("default", "mine"):
        db.tenant(keyspace=keyspace, plan="free")
    assert db.row("SELECT * FROM keysmith.mint('acme', allowlist => '{10.0.0.0/8}')").api_key
    assert db.mint(keyspace="mine", scopes=["a"], kind="publishable").api_key
    db.call("alter_keyspace", "mine", Jsonb({"plan_features": None}))
    assert db.row("""SELECT * FROM keysmith.mint('acme', keyspace => 'mine',
                                                 allowlist => '{10.0.0.0/8}')""").api_key


# Display

def test_keys_are_shown_as_the_templates_say(db):
    db.call("create_keyspace", "mine", display=Jsonb({
        "id": "key_{random:5}", "prefix": "{prefix}{secret:3}", "snippet": "ends in {end:2}"}))
    db.tenant(keyspace="mine")
    key = db.mint(keyspace="mine")
    assert key.display_id.startswith("key_") and len(key.display_id) == 9
    assert key.key_prefix == key.api_key[:11]
    assert key.key_snippet == f"ends in {key.api_key[-2:]}"
    (listed,) = db.call("list_keys", "acme", "mine")
    assert (listed.display_id, listed.key_prefix, listed.key_snippet) \
        == (key.display_id, key.key_prefix, key.key_snippet)
    ids = {db.mint(keyspace="mine").display_id for _ in range(50)}
    assert len(ids | {key.display_id}) == 51
    db.call("alter_keyspace", "mine", Jsonb({"display": {"snippet": "{prefix}"}}))
    later = db.mint(keyspace="mine")
    assert (later.display_id, later.key_prefix, later.key_snippet) \
        == (None, later.api_key[:13], "ks_live_")


def test_usually_keys_are_shown_by_their_two_ends(db):
    db.tenant()
    key = db.mint()
    assert key.display_id is None
    assert key.key_prefix == key.api_key[:13]
    assert key.key_snippet == f"ks_live_...{key.api_key[-4:]}"


# Changes made elsewhere

def begin_at(session, isolation):
    session.rows(f"BEGIN ISOLATION LEVEL {isolation} READ ONLY")


@pytest.mark.parametrize("isolation", [None, "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_a_policy_changed_elsewhere_is_in_force_at_the_next_call(db, connect, database, isolation):
    db.call("define_role", "default", "r", ["a"])
    db.tenant()
    key = db.mint(role="r").api_key
    other = database(connect())
    if isolation:
        begin_at(other, isolation)

    def ask(headers=None):
        verdict = other.one("authenticate", Jsonb(headers or {"x-api-key": key}), "POST", "/x")
        return verdict.reason, verdict.status, verdict.code

    refused = ("insufficient_scope", 403, "insufficient_scope")
    good = ("ok", 200, "ok")
    assert ask() == good
    for function, arguments, expected in [
        ("define_route", ("default", "POST", "/x", ["b"]), refused),
        ("define_route", ("default", "POST", "/x", ["a"]), good),
        ("define_route", ("default", "POST", "/x", "a & b"), refused),
        ("define_role", ("default", "r", ["a", "b"]), good),
        ("define_role", ("default", "r", []), refused),
        ("remove_route", ("default", "POST", "/x"), good),
        ("alter_keyspace", ("default", Jsonb({"unlisted_routes": "refuse"})), refused),
        ("define_route", ("default", "*", "/*", []), good),
        ("define_route", ("default", "POST", "/*", ["c"]), refused),
        ("define_scope", ("default", "a", None, ["c"]), refused),
        ("define_role", ("default", "r", ["a"]), good),
        ("define_scope", ("default", "a"), refused),
        ("alter_keyspace", ("default", Jsonb({"codes": {"insufficient_scope": {
            "code": "no", "status": 404}}})), ("insufficient_scope", 404, "no")),
        ("alter_keyspace", ("default", Jsonb({"codes": {}})), refused),
        ("alter_keyspace", ("default", Jsonb({"schemes": ["bearer"]})),
         ("missing", 401, "missing_authorization")),
    ]:
        db.call(function, *arguments)
        assert ask() == expected, (function, arguments)
    assert ask({"authorization": f"Bearer {key}"}) == refused
    db.call("alter_keyspace", "default", Jsonb({"schemes": ["key"]}))
    assert ask({"authorization": f"Bearer {key}"})[0] == "malformed_header"
    assert other.value("SELECT pg_current_xact_id_if_assigned()") is None


def test_a_policy_that_is_not_committed_is_in_force_here_alone(db, connect, database):
    db.tenant()
    headers = Jsonb({"x-api-key": db.mint(scopes=["a"]).api_key})
    mine = database(connect(autocommit=False))
    mine.call("define_route", "default", "GET", "/x", ["b"])
    assert mine.one("authenticate", headers, "GET", "/x").reason == "insufficient_scope"
    assert db.one("authenticate", headers, "GET", "/x").ok
    mine.session.rollback()
    assert mine.one("authenticate", headers, "GET", "/x").ok


def test_a_route_edited_by_hand_is_in_force_at_the_next_call(db, connect, database):
    db.tenant()
    headers = Jsonb({"x-api-key": db.mint(scopes=["a"]).api_key})
    db.call("define_route", "default", "GET", "/x", ["a"])
    other = database(connect())
    for act, expected in [
        ("SELECT", True), ("UPDATE keysmith_private.route SET scopes = 'b'", False),
        ("UPDATE keysmith_private.route SET scopes = 'a | b'", True),
        # No key meets an expression that can't be parsed.
        ("UPDATE keysmith_private.route SET scopes = 'a | | b'", False),
        ("TRUNCATE keysmith_private.route", True),
    ]:
        db.rows(act)
        assert other.one("authenticate", headers, "GET", "/x").ok == expected, act


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
def test_authenticating_writes_nothing(db, connect, database, isolation):
    db.call("define_route", "default", "GET", "/x", "a | b")
    db.tenant()
    key = db.mint(scopes=["a"])
    session = database(connect())
    begin_at(session, isolation)
    headers = Jsonb({"x-api-key": key.api_key})
    for _ in range(50):
        assert session.one("authenticate", headers, "GET", "/x").ok
        assert session.one("authenticate", Jsonb({}), "GET", "/x").reason == "missing"
        assert len(session.call("explain_verify", headers=headers, method="GET", path="/x")) == 14
    assert session.value("SELECT pg_current_xact_id_if_assigned()") is None
    assert session.value("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() "
                         "AND relation::regclass::text LIKE 'keysmith%%'") == 0
    db.call("revoke", key.key_id)
    assert session.one("authenticate", headers, "GET", "/x").reason == "revoked"


# Definitions

BAD_EXPRESSIONS = [
    "a b", "a &", "(a", "()", "a)", "| a", "a | *", "a && b", "a:", "é", "a, b", "'; DROP TABLE x",
    "(" * 40 + "a" + ")" * 40, "a|" * 2500 + "a", "a" * 5000, "a" * 129, "x|" * 1_000_000]
BAD_METHODS = [None, "", "G T", "GET/", "GET,POST", "G*", "X" * 33, "é", "GET\n", "G" * 1_000_000]
BAD_PATTERNS = [
    None, "", "x", "/x//", "//", "/a//b", "/*/a", "/a*", "/{}", "/{a", "/a}", "/{a}b", "/{a-b}",
    "/a?b=c", "/a#b", "/%61", "/..", "/./a", "/a b", "/a\n", "/a\\b", "/a" * 65, "http://x/a",
    "/" + "a" * 1_000_000]
BAD_VARIANTS = [" v", "v ", "a\nb", "v" * 201, "v" * 1_000_000]


@pytest.fixture
def unchanged(db):
    """Checks at the end that the policy is unchanged."""
    db.call("define_route", "default", "GET", "/x", "old")
    before = policy_of(db)
    yield
    assert policy_of(db) == before


def test_a_bad_expression_is_refused_when_it_is_defined(db, unchanged):
    for bad in BAD_EXPRESSIONS:
        message = db.refused("KS400", "define_route", "default", "GET", "/x", bad)
        assert "scopes" in message, bad[:80]


def test_each_element_of_a_list_must_be_an_expression(db, unchanged):
    for bad in [*([bad] for bad in BAD_EXPRESSIONS), ["a", "b |"], ["a)", "(b"], ["a", None],
                [None], ["a", ""], ["a"] * 2000]:
        with pytest.raises(psycopg.Error) as error:
            db.rows("SELECT keysmith.define_route('default', 'GET', '/x', %s::text[])", bad)
        assert error.value.sqlstate == "KS400", bad[:9]
        assert "scopes" in error.value.diag.message_primary


def test_a_list_written_as_a_text_is_as_strict_as_a_list(db, unchanged):
    """Literals and drivers write lists without a type like this."""
    for bad in ("{a,NULL}", '{a,""}', '{a,"b c"}', '{"a,b"}', "{a,b"):
        assert "scopes" in db.refused("KS400", "define_route", "default", "GET", "/x", bad), bad


def test_a_bad_method_is_refused_when_it_is_defined(db, unchanged):
    for bad in BAD_METHODS:
        assert "method" in db.refused("KS400", "define_route", "default", bad, "/x", "a")
        assert "method" in db.refused("KS400", "remove_route", "default", bad, "/x")


def test_a_bad_pattern_is_refused_when_it_is_defined(db, unchanged):
    for bad in BAD_PATTERNS:
        assert "pattern" in db.refused("KS400", "define_route", "default", "GET", bad, "a")
        assert "pattern" in db.refused("KS400", "remove_route", "default", "GET", bad)


def test_a_bad_variant_is_refused_when_it_is_defined(db, unchanged):
    for bad in BAD_VARIANTS:
        assert "variant" in db.refused("KS400", "define_route", "default", "GET", "/x", "a", bad)
        assert "variant" in db.refused("KS400", "remove_route", "default", "GET", "/x", bad)


def test_errors_say_where_in_an_expression(db):
    assert "character 3" in db.refused("KS400", "define_route", "default", "GET", "/x", "a b")
    assert "character 4" in db.refused("KS400", "define_route", "default", "GET", "/x", "a &")
    deep = "(" * 40 + "a" + ")" * 40
    assert "nested" in db.refused("KS400", "define_route", "default", "GET", "/x", deep)
    assert "4096" in db.refused("KS400", "define_route", "default", "GET", "/x", "a|" * 2500)


def test_routes_and_roles_name_scopes_of_the_catalogue(db):
    db.call("define_scope", "default", "images:read")
    before = policy_of(db)
    for unknown in ("videos:read", "images:read | videos:read", "(images:read & images)"):
        message = db.refused("KS400", "define_route", "default", "GET", "/x", unknown)
        assert "scopes" in message and "does not define" in message
        assert "scopes" in db.refused("KS400", "define_route", "default", "GET", "/x", [unknown])
    assert "scopes" in db.refused("KS400", "define_role", "default", "r", ["videos:read"])
    assert policy_of(db) == before
    db.call("define_route", "default", "GET", "/x", "images:read | (images:read & images:read)")


def test_what_is_not_there_can_neither_get_routes_nor_lose_them(db):
    before = policy_of(db)
    db.refused("KS404", "define_route", "nowhere", "GET", "/x", "a")
    db.refused("KS404", "remove_route", "nowhere", "GET", "/x")
    assert policy_of(db) == before
    db.call("define_route", "default", "GET", "/x", "a")
    for method, pattern, variant in [("POST", "/x", None), ("*", "/x", None), ("GET", "/y", None),
                                     ("GET", "/*", None), ("GET", "/{x}", None),
                                     ("GET", "/x", "v")]:
        db.refused("KS404", "remove_route", "default", method, pattern, variant)
    assert db.value("SELECT count(*) FROM keysmith_private.route") == 1


def test_the_keyspace_of_a_route_must_be_named(db):
    assert "keyspace" in db.refused("KS400", "define_route", None, "GET", "/x", "a")
    assert "keyspace" in db.refused("KS400", "remove_route", None, "GET", "/x")
