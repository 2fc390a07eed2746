"""The route of a request, and the needs of that route's expression."""

import pytest
from psycopg.types.json import Jsonb

SPECIFICITY = [
    ("GET", "/"), ("GET", "/v1/images"), ("GET", "/v1/images/{id}"), ("GET", "/v1/images/latest"),
    ("*", "/v1/images/{id}"), ("*", "/v1/*"), ("POST", "/v1/{kind}/latest"),
    ("GET", "/v1/images/{id}/parts/*"), ("PUT", "/v1/{kind}/{id}"), ("PUT", "/v1/images/*"),
    ("GET", "/v1/café"), ("GET", "/v1.0/a-b_c~d:e@f"),
]

ODD_PATHS = [
    "", "v1", "?", "*", "v1/images", "//", "/a//b", "//a", "/a//", "/.", "/..", "/a/..", "/a/../b",
    "/a/.", "/./a", "/../a", "/%2e", "/%2E%2e/a", "/a/.%2e", "/a%2fb", "/a%2Fb", "/a%5cb", "/a%5Cb",
    "/a\\b", "/\\", "/a\nb", "/a\tb", "/a\r", "/\u007f", "/a%00", "/a%0a", "/a%1f", "/a%7f", "/a%",
    "/a%2", "/a%zz", "/a%2g", "/%", "/a%u0041", " /a", "http://example.com/a", "/a" * 65,
    "/" + "a" * 10_000, "/" + "a/" * 500_000,
]

EXPRESSIONS = [
    # the needed scopes, the key's scopes, and whether they are enough
    ("a", ["a"], True), ("a", ["b"], False), (" a\t", ["a"], True),
    ("a & b", ["a"], False), ("a&b", ["a", "b"], True), ("a | b", ["b"], True),
    ("a | b & c", ["a"], True), ("a | b & c", ["b"], False), ("a | b & c", ["b", "c"], True),
    ("(a | b) & c", ["a"], False), ("(a | b) & c", ["b", "c"], True), ("((((a))))", ["a"], True),
    ("images:write | (videos:write & generations:read)", ["videos:write"], False),
    ("images:write | (videos:write & generations:read)", ["images:*"], True),
    ("images:write | (videos:write & generations:read)", ["videos:*", "generations:read"], True),
    ("images:write | (videos:write & generations:read)", ["*"], True),
]

MALFORMED = ["a b", "a &", "& a", "| a", "a |", "(a", "a)", "()", "(", ")", "a && b", "a || b", "&",
             "|", "a (b)", "(a)(b)", "a | *", "a | b:*", "a & 'b'", "a ! b", "a, b", "é | a", " ",
             "(" * 40 + "a" + ")" * 40, "a|" * 2500 + "a", "a & " * 300_000]


def test_a_slash_at_the_end_makes_no_difference(db):
    db.call("define_route", "default", "GET", "/v1/keys/", "keys:read")
    db.call("define_route", "default", "GET", "/v1/keys", "keys:list")
    db.call("define_route", "default", "GET", "/", "")
    assert db.rows("SELECT pattern, scopes FROM keysmith.routes ORDER BY pattern") \
        == [("/", ""), ("/v1/keys", "keys:list")]
    db.tenant()
    key = db.mint(scopes=["keys:list"]).api_key
    for path in ("/v1/keys", "/v1/keys/"):
        assert db.one("authenticate", Jsonb({"x-api-key": key}), "GET", path).ok
    db.call("remove_route", "default", "GET", "/v1/keys/")
    assert db.value("SELECT count(*) FROM keysmith.routes") == 1


def name_of(method, pattern):
    return f"route-{SPECIFICITY.index((method, pattern))}"


@pytest.fixture
def who(db):
    """Whether a scope lets a key use a route: each key holds one scope."""
    db.tenant()
    db.rows("CREATE TABLE holder (scope text, api_key text)")

    def ask(method, path, variant=None):
        rows = db.rows("""
            SELECT h.scope, v.reason FROM holder h, LATERAL keysmith.authenticate(
                jsonb_build_object('x-api-key', h.api_key), %s, %s, variant => %s) v
            """, method, path, variant)
        assert {reason for _, reason in rows} <= {"ok", "insufficient_scope"}
        return {scope for scope, reason in rows if reason == "ok"}

    def holders(*scopes):
        db.rows("""INSERT INTO holder SELECT scope, (keysmith.mint('acme', scopes => ARRAY[scope]))
                   .api_key FROM unnest(%s::text[]) scope""", ["nothing", *scopes])

    ask.holders = holders
    return ask


def test_the_most_specific_route_wins(db, who):
    for method, pattern in SPECIFICITY:
        db.call("define_route", "default", method, pattern, [name_of(method, pattern)])
    who.holders(*(name_of(*route) for route in SPECIFICITY))
    anyone = {"nothing", *(name_of(*route) for route in SPECIFICITY)}
    for method, path, expected in [
        ("GET", "/", ("GET", "/")),
        ("GET", "/?a=b", ("GET", "/")),
        ("POST", "/", None),
        ("GET", "/v1/images", ("GET", "/v1/images")),
        ("GET", "/v1/images/", ("GET", "/v1/images")),
        ("GET", "/v1/images?page=2", ("GET", "/v1/images")),
        ("GET", "/v1/images/?page=../..", ("GET", "/v1/images")),
        ("GET", "/v1/images/7", ("GET", "/v1/images/{id}")),
        ("DELETE", "/v1/images/7", ("*", "/v1/images/{id}")),
        ("BREW", "/v1/images/7", ("*", "/v1/images/{id}")),
        ("GET", "/v1/images/latest", ("GET", "/v1/images/latest")),
        ("GET", "/v1/images/l%61test", ("GET", "/v1/images/latest")),
        ("GET", "/v1/images/%6c%61%74%65%73%74/", ("GET", "/v1/images/latest")),
        ("GET", "/v1/images/Latest", ("GET", "/v1/images/{id}")),
        # From the left: the literal images goes before {kind}, whatever comes next.
        ("POST", "/v1/images/latest", ("*", "/v1/images/{id}")),
        ("PUT", "/v1/images/latest", ("*", "/v1/images/{id}")),
        ("POST", "/v1/videos/latest", ("POST", "/v1/{kind}/latest")),
        ("PUT", "/v1/videos/latest", ("PUT", "/v1/{kind}/{id}")),
        ("PUT", "/v1/images/7/8", ("PUT", "/v1/images/*")),
        ("GET", "/v1/images/7/8", ("*", "/v1/*")),
        ("POST", "/v1/images", ("*", "/v1/*")),
        # A star is one segment or more.
        ("GET", "/v1/images/7/parts", ("*", "/v1/*")),
        ("GET", "/v1/images/7/parts/1", ("GET", "/v1/images/{id}/parts/*")),
        ("GET", "/v1/images/7/parts/1/2/3/", ("GET", "/v1/images/{id}/parts/*")),
        ("GET", "/v1", None),
        ("GET", "/v1/", None),
        ("GET", "/v1/%7Bid%7D", ("*", "/v1/*")),
        ("GET", "/v1/*", ("*", "/v1/*")),
        ("GET", "/v1/café", ("GET", "/v1/café")),
        ("GET", "/v1/caf%C3%A9", ("GET", "/v1/café")),
        ("GET", "/v1.0/a-b_c~d:e@f", ("GET", "/v1.0/a-b_c~d:e@f")),
        ("get", "/v1/images", ("GET", "/v1/images")),
    ]:
        assert who(method, path) == ({name_of(*expected)} if expected else anyone), (method, path)
    assert who("GET", "/V1/images") == set()


def test_a_star_at_the_root_is_all_paths_but_the_root(db, who):
    db.call("define_route", "default", "*", "/*", ["listed"])
    who.holders("listed")
    assert who("GET", "/") == {"listed", "nothing"}
    assert who("GET", "/a") == who("PUT", "/a/b/c") == {"listed"}


def test_variants_are_routes_of_their_own(db, who):
    for variant in (None, "image", "video-only"):
        db.call("define_route", "default", "POST", "/c", [variant or "plain"], variant)
    db.call("define_route", "default", "GET", "/c", ["got"], "image")
    db.call("define_route", "default", "*", "/*", ["other"])
    who.holders("plain", "image", "video-only", "got", "other")
    assert who("POST", "/c") == who("POST", "/c", "") == {"plain"}
    assert who("POST", "/c", "image") == {"image"}
    assert who("POST", "/c/", "video-only") == {"video-only"}
    # If the variant is missing, the matching route does not give way to a less specific one.
    for unknown in ("Image", "image ", "x", "*", "'", "x" * 256):
        assert who("POST", "/c", unknown) == set()
    assert who("GET", "/c") == set()
    assert who("GET", "/c", "image") == {"got"}
    assert who("PUT", "/c") == {"other"}
    assert who("PUT", "/c", "image") == set()


def test_a_variant_that_is_too_long_is_not_the_lack_of_one(db, who):
    db.call("define_route", "default", "POST", "/c", ["plain"])
    db.call("define_route", "default", "POST", "/c", ["image"], "image")
    who.holders("plain", "image")
    for length in (257, 1000, 1_000_000):
        assert who("POST", "/c", "x" * length) == set()


def test_variants_of_what_is_not_listed_do_not_matter(db, who):
    who.holders()
    assert who("GET", "/a", "image") == {"nothing"}
    db.call("alter_keyspace", "default", Jsonb({"unlisted_routes": "refuse"}))
    assert who("GET", "/a", "image") == who("GET", "/a") == set()


@pytest.mark.parametrize("unlisted", ["any_key", "refuse"])
def test_unlisted_routes_are_as_the_keyspace_says(db, who, unlisted):
    db.call("define_route", "default", "GET", "/v1/images", ["images"])
    db.call("alter_keyspace", "default", Jsonb({"unlisted_routes": unlisted}))
    who.holders("images")
    assert who("GET", "/v1/images") == {"images"}
    expected = {"images", "nothing"} if unlisted == "any_key" else set()
    for method, path in [("POST", "/v1/images"), ("GET", "/"), ("GET", "/v1/images/7"),
                         ("GET", "/..."), ("GET", "/a.b"), ("GET", "/%20"), ("GET", "/%41")]:
        assert who(method, path) == expected, (method, path)


@pytest.mark.parametrize("listed", [False, True])
def test_odd_paths_get_nowhere(db, who, listed):
    if listed:
        db.call("define_route", "default", "*", "/*", [])
        db.call("define_route", "default", "*", "/", [])
    who.holders()
    for path in ODD_PATHS:
        assert who("GET", path) == set(), path[:80]
    assert who("GET", "/a") == {"nothing"}


def test_a_key_that_may_do_all_gets_nowhere_on_odd_paths_either(db):
    db.tenant()
    for key in (db.mint(), db.mint(scopes=["*"])):
        headers = Jsonb({"x-api-key": key.api_key})
        for path in [*ODD_PATHS, None]:
            verdict = db.one("authenticate", headers, "GET", path)
            assert (verdict.reason, verdict.status) == ("insufficient_scope", 403), path


def test_a_route_that_needs_nothing_is_open_to_any_key_of_the_keyspace(db, who):
    db.call("alter_keyspace", "default",
            Jsonb({"unlisted_routes": "refuse", "empty_scopes": "none"}))
    db.call("define_route", "default", "GET", "/open", [])
    db.call("define_route", "default", "GET", "/open-too", "")
    who.holders()
    assert who("GET", "/open") == who("GET", "/open-too") == {"nothing"}
    key = db.mint().api_key
    assert db.one("authenticate", Jsonb({"x-api-key": key}), "GET", "/open").ok
    assert db.one("authenticate", Jsonb({}), "GET", "/open").reason == "missing"


@pytest.mark.parametrize("given", ["%s::text", "ARRAY[%s]"])
def test_expressions_of_routes(db, given):
    db.tenant()
    for number, (needed, scopes, expected) in enumerate(EXPRESSIONS):
        db.rows(f"SELECT keysmith.define_route('default', 'GET', %s, {given})",
                f"/{number}", needed)
        headers = Jsonb({"x-api-key": db.mint(scopes=scopes).api_key})
        assert db.one("authenticate", headers, "GET", f"/{number}").ok == expected, needed


def test_all_of_a_list_are_needed(db, who):
    who.holders("a", "b", "*")
    for number, (needed, expected) in enumerate([
        (["a"], {"a", "*"}), (["a", "b"], {"*"}), (["a | b", "a"], {"a", "*"}),
        ("{a,b}", {"*"}), ("{a | b}", {"a", "b", "*"}), ('{"a | b","b"}', {"b", "*"}),
        ("a | b", {"a", "b", "*"}),
    ]):
        db.call("define_route", "default", "GET", f"/{number}", needed)
        assert who("GET", f"/{number}") == expected, needed


def test_defining_a_route_again_replaces_it(db, who):
    who.holders("a", "b")
    db.call("define_route", "default", "get", "/x", ["a"])
    assert who("GET", "/x") == {"a"}
    db.call("define_route", "default", "GET", "/x", ["b"])
    assert who("GET", "/x") == {"b"}
    db.call("remove_route", "default", "Get", "/x")
    assert who("GET", "/x") == {"a", "b", "nothing"}
    db.refused("KS404", "remove_route", "default", "GET", "/x")


def test_verify_takes_expressions_as_scopes(db):
    db.tenant()
    for needed, scopes, expected in EXPRESSIONS:
        key = db.mint(scopes=scopes).api_key
        assert db.verify(key, scopes=[needed]).ok == expected, (needed, scopes)
        assert db.verify(key, scopes=[needed, "absent | " + scopes[0].replace("*", "x")]).reason \
            in ("ok", "insufficient_scope")
    (key,) = db.rows("SELECT api_key FROM keysmith.mint('acme', scopes => '{images:write}')")[0]
    assert db.value("SELECT ok FROM keysmith.verify(%s, "
                    "'{images:write | (videos:write & generations:read)}')", key)
    assert db.verify(key, scopes=["images:write", "images:write | x", "(images:write)"]).ok
    assert db.reason(key, scopes=["images:write", "images:write & x"]) == "insufficient_scope"


# Invalid expressions

DIGEST = b"\0" * 32


@pytest.mark.parametrize("bad", [*MALFORMED, "", " ", "a AND b", "*", "a:*", "a | b:*"], ids=lambda bad: bad[:20])
def test_what_cannot_be_read_is_an_error_where_it_is_written(db, bad):
    """For every key: the error is not an answer about the key."""
    db.tenant()
    key = db.mint().api_key
    for scopes in ([bad], ["a", bad], [None, bad]):
        for text in (key, "garbage", None):
            assert "scopes" in db.refused("KS400", "verify", text, scopes=scopes)
        assert "scopes" in db.refused("KS400", "verify_digest", DIGEST, scopes=scopes)
        assert "scopes" in db.refused("KS400", "verify_many", [key], scopes=scopes)
    assert "scope " in db.refused("KS400", "has_scope", bad)
    steps = {step.rule: step for step in db.call("explain_verify", key, scopes=["a", bad])}
    assert steps["scopes"].outcome == "refuse" and "KS400" in steps["scopes"].saw


def test_the_error_says_where(db):
    assert db.refused("KS400", "verify", None, scopes=["a AND b"]) == (
        "scopes has an expression that lacks & or | between two scopes at character 3")
    assert "empty" in db.refused("KS400", "verify", None, scopes=[""])


@pytest.mark.parametrize("scopes", [["a"], ["*"], []])
def test_of_null_no_key_holds_enough(db, scopes):
    """An unset variable of the caller grants nothing."""
    db.tenant()
    key = db.mint(scopes=scopes).api_key
    digest = db.value("SELECT sha256(%s::bytea)", key)
    for nothing in (None, [None], ["a", None], [None, "a"], ["a | b", None]):
        for verdict in (db.verify(key, scopes=nothing), db.one("verify_digest", digest, scopes=nothing),
                        *db.call("verify_many", [key, key], scopes=nothing)):
            assert (verdict.ok, verdict.status, verdict.code, verdict.reason) == (
                False, 403, "insufficient_scope", "scopes_null"), nothing
        steps = {step.rule: step for step in db.call("explain_verify", key, scopes=nothing)}
        assert steps["scopes"].reason == "scopes_null" and "null" in steps["scopes"].saw
    db.rows("BEGIN")
    assert db.verify(key, scopes=[], sign_in=True).ok
    assert db.value("SELECT keysmith.has_scope(NULL)") is False
    assert db.reason(key, scopes=None, sign_in=True) == "scopes_null"
    assert db.value("SELECT keysmith.current_tenant()") is None
    db.rows("COMMIT")


def test_what_null_means_elsewhere(db):
    db.tenant()
    key = db.mint().api_key
    headers = Jsonb({"x-api-key": key})
    assert db.verify(key, kind=None, environment=None, ip=None).ok
    assert db.reason(key, keyspace=None) == "wrong_keyspace"
    assert db.call("verify_many", None) == []
    assert db.one("authenticate", None, "GET", "/").reason == "missing"
    assert db.one("authenticate", headers, "GET", "/", variant=None, weight=None).ok
    assert db.one("authenticate", headers, None, "/").reason == "insufficient_scope"
    assert db.one("authenticate", headers, "GET", None).reason == "insufficient_scope"
    assert db.one("authenticate", headers, "GET", "/", keyspace=None).reason == "wrong_keyspace"
    assert db.verify(key, weight=None, weights=None, subject=None).ok
    for argument in ("spend", "sign_in"):
        assert argument in db.refused("KS400", "verify", key, **{argument: None})
    assert "spend" in db.refused("KS400", "authenticate", headers, "GET", "/", spend=None)


@pytest.mark.parametrize("scopes", [["a", "b"], ["*"], []])
def test_line_breaks_are_white_space_as_in_the_expressions_of_routes(db, scopes):
    db.tenant()
    key = db.mint(scopes=scopes).api_key
    db.call("define_route", "default", "GET", "/x", "\na\r\n")
    assert db.one("authenticate", Jsonb({"x-api-key": key}), "GET", "/x").ok
    assert db.reason(key, scopes=["a &\n b"]) == "ok"
    assert "scopes" in db.refused("KS400", "define_route", "default", "GET", "/y", "a\nb")
    assert "scopes" in db.refused("KS400", "verify", key, scopes=["a\nb"])


def test_many_routes_at_once(db, who):
    db.rows("SELECT keysmith.define_route('default', 'GET', '/v1/r' || n || '/{id}', 'r:' || n) "
            "FROM generate_series(1, 500) n")
    who.holders("r:1", "r:77", "r:500")
    for number in (1, 77, 500):
        assert who("GET", f"/v1/r{number}/7") == {f"r:{number}"}
    assert who("GET", "/v1/r78/7") == set()
