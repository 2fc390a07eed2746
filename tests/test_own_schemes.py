"""Schemes and headers of a keyspace's own: `scheme:Name`, `header:Name` and `basic`."""

import base64
import json
import re

import psycopg
import pytest
from psycopg.types.json import Jsonb

OTHER_HEADERS = ["authorization", "Proxy-Authorization", "Cookie", "host", "connection", "content-length",
                 "content-type", "transfer-encoding", "forwarded", "X-Forwarded-For", "x-forwarded-host",
                 "x-forwarded-proto", "X-API-Key", "user-agent", "referer", "origin"]


@pytest.fixture
def key(db):
    db.tenant()
    return db.mint().api_key


@pytest.fixture
def taking(db, key):
    """Sets the keyspace's schemes, and returns a function that asks for the reason."""
    def take(*schemes):
        db.call("alter_keyspace", "default", Jsonb({"schemes": schemes}))

        def ask(headers, **more):
            verdict = db.one("authenticate", Jsonb(headers), "GET", "/", **more)
            assert verdict.ok == (verdict.reason == "ok")
            assert verdict.status == (200 if verdict.ok else 401)
            return verdict.reason
        return ask
    return take


def basic(text):
    text = text.encode() if isinstance(text, str) else text
    return {"authorization": "Basic " + base64.b64encode(text).decode()}


# A scheme of Authorization

@pytest.mark.parametrize("schemes", [["scheme:Token"], ["scheme:TOKEN"], ["scheme:token", "scheme:Token"]])
def test_a_scheme_of_its_own(taking, key, schemes):
    ask = taking(*schemes)
    for value in (f"Token {key}", f"token {key}", f"TOKEN \t {key} ", f" Token\t{key}"):
        for name in ("authorization", "Authorization", "AUTHORIZATION"):
            assert ask({name: value}) == ask({name: [value, value]}) == "ok", value
    for value in (f"Bearer {key}", f"Key {key}", "Token", "Token ", f"Token{key}", f"Token  {key} x", f"Token: {key}",
                  f"Token {key},", f"Tokens {key}", f"Token\n{key}", f"Token={key}", key, basic(key + ":")["authorization"],
                  f"Token {key}, Token {key}", f"xToken {key}", f"Token Token {key}"):
        assert ask({"authorization": value}) == "malformed_header", value
    assert ask({"authorization": ""}) == ask({"x-api-key": key}) == ask({"token": key}) == ask({}) == "missing"
    assert ask({"authorization": f"Token {key}x"}) == "malformed_key"


def test_a_scheme_beside_ours(taking, key):
    ask = taking("bearer", "scheme:Token-2_x")
    assert ask({"authorization": f"Token-2_x {key}"}) == ask({"authorization": f"Bearer {key}"}) == "ok"
    assert ask({"authorization": [f"token-2_X {key}", f"bearer {key}"]}) == "ok"
    assert ask({"authorization": f"Key {key}"}) == "malformed_header"


# A header

def test_a_header_of_its_own(taking, key):
    ask = taking("header:X-My-Key")
    for name in ("X-My-Key", "x-my-key", "X-MY-KEY"):
        assert ask({name: key}) == ask({name: f" {key}\t"}) == ask({name: [key]}) == "ok"
        for value in ("", " ", f"Bearer {key}", f"{key},{key}", f"{key} {key}", 5, True, {}, [""], [key, ""], f"{key}\n"):
            assert ask({name: value}) == "malformed_header", value
    # A null is no value, and other headers are for others.
    for headers in ({"x-my-key": None}, {"x-my-key": []}, {"x_my_key": key}, {"x-my-key ": key}, {"xx-my-key": key},
                    {"x-my-ke": key}, {"": key}, {"x-api-key": key}):
        assert ask(headers) == "missing", headers


def test_with_headers_only_authorization_does_not_matter(taking, key, db):
    """An application may use it for something else."""
    ask = taking("header:X-My-Key", "header:Api-Token", "x_api_key")
    for other in ("Basic YTpi", "Bearer x", f"Bearer {db.mint().api_key}", "", "x" * 1_000_000, None, {}, ["a", "b"]):
        assert ask({"authorization": other}) == "missing"
        for name in ("x-my-key", "api-token", "x-api-key"):
            assert ask({"authorization": other, name: key}) == "ok"


# Basic

def test_the_key_is_the_user_of_basic(taking, key):
    ask = taking("basic")
    for password in ("", "x", "a:b", ":", "pässwörd", "x" * 10_000):
        assert ask(basic(f"{key}:{password}")) == "ok", password
    assert ask(basic(key.encode() + b":\xff\x00")) == "ok"
    value = basic(key + ":")["authorization"]
    for right in (value, value.replace("Basic", "basic"), value.replace("Basic", "BASIC"), value.replace(" ", "  "),
                  f" {value} "):
        assert ask({"authorization": right}) == ask({"AUTHORIZATION": [right, right]}) == "ok"
    assert ask(basic(f"{key}x:")) == "malformed_key"
    assert ask({"authorization": ""}) == ask({}) == "missing"


def test_what_is_not_the_one_form_of_basic(taking, key, db):
    ask = taking("basic")
    right = base64.b64encode(f"{key}:".encode()).decode()
    assert ask({"authorization": f"Basic {right}"}) == "ok"
    unpadded = base64.b64encode(f"{key}:x".encode() + b"y" * (2 - len(f"{key}:x") % 3)).decode()
    values = [
        "Basic", "Basic ", f"Basic {key}", f"Basic {key}:", f"Bearer {key}", f"Key {key}", f"Basic {right},",
        f"Basic {right} {right}", f"Basic {right}=", f"Basic ={right}", f"Basic {right[:-1]}", f"Basic {right[:8]}\n{right[8:]}",
        f"Basic {right[:8]} {right[8:]}", "Basic ====", "Basic !!!!", "Basic é", f"Basic {unpadded.rstrip('=') if '=' in unpadded else unpadded[:-2]}",
        f"Basic {right[:4]}-{right[5:]}", f"Basic {right[:4]}_{right[5:]}", f"Basic {'x' * 999_999}",
        *(basic(text)["authorization"] for text in (
            key, "", ":", f":{key}", f" {key}:", f"{key} :", f"{key},:", f"{key}\n:", f"\ufeff{key}:", f"{key}\0:", "é:",
            f"{key},{key}:"))]
    for value in values:
        assert ask({"authorization": value}) == "malformed_header", value[:80]
    # Bits that belong to no byte: another decoder may read them otherwise.
    text = f"{key}:"
    while len(text) % 3 == 0:
        text += "x"
    loose = base64.b64encode(text.encode()).decode()
    last = loose.rstrip("=")[-1]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    changed = loose.rstrip("=")[:-1] + alphabet[alphabet.index(last) + 1] + "=" * loose.count("=")
    assert base64.b64decode(changed) == text.encode()
    assert ask({"authorization": f"Basic {loose}"}) == "ok"
    assert ask({"authorization": f"Basic {changed}"}) == "malformed_header"


# Several at once

def test_several_places_must_have_the_same_key(taking, key, db):
    ask = taking("bearer", "key", "basic", "x_api_key", "scheme:Token", "header:X-My-Key", "header:Api-Token")
    another = db.mint().api_key
    places = [
        lambda text: ("authorization", f"Bearer {text}"), lambda text: ("Authorization", f"Key {text}"),
        lambda text: ("AUTHORIZATION", f"Token {text}"), lambda text: ("authorizatioN", basic(f"{text}:x")["authorization"]),
        lambda text: ("x-api-key", text), lambda text: ("x-my-key", text), lambda text: ("api-token", text)]
    assert ask(dict(place(key) for place in places)) == "ok"
    for number, place in enumerate(places):
        assert ask(dict([place(key)])) == "ok"
        for other in places[number + 1:]:
            assert ask(dict([place(key), other(key)])) == "ok"
            assert ask(dict([place(key), other(another)])) == ask(dict([place(another), other(key)])) == "malformed_header"
            assert ask(dict([place(key), other("")])) == ask(dict([place(""), other(key)])) == "malformed_header"
    # The same key under another password is the same key.
    assert ask({"authorization": [basic(f"{key}:a")["authorization"], basic(f"{key}:b")["authorization"]]}) == "ok"


def test_values_of_a_megabyte(taking, key):
    ask = taking("basic", "scheme:Token", "header:X-My-Key")
    much = "x" * 1_000_000
    assert ask({"authorization": f"Token {much}"}) == ask({"x-my-key": much}) == ask(basic(f"{much}:")) == "malformed_key"
    assert ask({"authorization": f"Token {key}{much}"}) == ask({"x-my-key": key + much}) == "malformed_key"
    assert ask(basic(f"{key}:{much}")) == "ok"
    assert ask({"authorization": much}) == ask({"authorization": f"{much} {key}"}) == ask(basic(much)) == "malformed_header"
    assert ask({"x-my-key": [key] * 10_000}) == "ok"
    assert ask({"x-my-key": [key] * 10_000 + ["y"]}) == "malformed_header"
    assert ask({f"x-{n}": "y" for n in range(10_000)} | {"x-my-key": key}) == "ok"


# Other readers of headers

def test_explain_verify_reads_them_too(taking, key, db):
    taking("basic", "header:X-My-Key")
    for headers, expected in [({"x-my-key": key}, None), (basic(f"{key}:"), None), ({}, "missing"),
                              (basic(key), "malformed_header"), (basic("x:"), "malformed_key")]:
        steps = db.call("explain_verify", None, headers=Jsonb(headers), method="GET", path="/")
        assert [step.reason for step in steps if step.outcome == "refuse"] == ([expected] if expected else []), headers
        assert key not in str(steps)


@pytest.mark.parametrize("schemes, challenges", [
    (["basic"], ["Basic"]), (["scheme:Token"], ["Token"]), (["header:X-My-Key"], []),
    (["header:X-My-Key", "x_api_key"], []), (["scheme:Token", "basic", "header:X-My-Key"], ["Basic", "Token"]),
    (["scheme:token", "scheme:Token", "bearer"], ["Bearer", "token"])])
def test_postgrest(db, taking, key, schemes, challenges):
    taking(*schemes)
    db.rows("SET keysmith.request_error_headers = on")

    def request(headers):
        with db.session.transaction(force_rollback=True):
            for name, value in {"headers": json.dumps(headers), "method": "GET", "path": "/"}.items():
                db.rows("SELECT set_config(%s, %s, true)", f"request.{name}", value)
            db.rows("SELECT keysmith.pre_request()")
            return db.value("SELECT keysmith.current_tenant()")

    right = {"basic": basic(f"{key}:"), "scheme:Token": {"authorization": f"token {key}"}, "header:X-My-Key": {"x-my-key": key},
             "scheme:token": {"authorization": f"token {key}"}}
    assert request(right[schemes[0]]) == "acme"
    for headers in ({}, {"authorization": "Basic x"}):
        with pytest.raises(psycopg.Error) as error:
            request(headers)
        response = json.loads(error.value.diag.message_detail)
        assert response["status"] == 401
        # Each challenge is a scheme with parameters.
        told = response["headers"].get("WWW-Authenticate", "")
        assert re.findall(r"(?:^|, )([\w-]+) ", told) == challenges
        assert key not in str(error.value)


# Defining

@pytest.mark.parametrize("bad", [
    "", "basic ", "Basic", "scheme", "header", "scheme:", "header:", ":X", "scheme: X", "header:X ", "Scheme:X", "HEADER:X",
    "other:X", "scheme:Bearer", "scheme:bearer", "scheme:KEY", "scheme:Basic", "scheme:Digest", "scheme:negotiate",
    "scheme:a b", "scheme:a,b", "scheme:a:b", "scheme:a/b", "scheme:é", "header:a\r\nb", "header:é", "header:a.b",
    "header:a:b", "header:" + "x" * 65, "scheme:" + "x" * 65, "x" * 100_000, *(f"header:{name}" for name in OTHER_HEADERS)],
    ids=lambda bad: bad[:30])
def test_names_that_are_refused(db, bad):
    db.call("create_keyspace", "mine")
    before = db.rows("SELECT schemes FROM keysmith_private.keyspace ORDER BY keyspace")
    rule = ("must be one to 16 of bearer, key, x_api_key, basic, scheme:Name for a scheme of Authorization, "
            "and header:Name for a header of your own")
    for schemes in ([bad], ["bearer", bad], [bad, "bearer"]):
        assert db.refused("KS400", "create_keyspace", "new", schemes=schemes).startswith(f"schemes {rule}")
        assert db.refused("KS400", "alter_keyspace", "mine", changes=Jsonb({"schemes": schemes})).startswith(
            f"changes.schemes {rule}")
    assert db.rows("SELECT schemes FROM keysmith_private.keyspace ORDER BY keyspace") == before


def test_how_many_and_how_long(db):
    names = [f"header:{letter * 64}" for letter in "abcdefghijklmnop"]
    db.call("create_keyspace", "many", schemes=names, prefixes=Jsonb({"secret": {"live": "m_live_"}}))
    db.tenant("acme", keyspace="many")
    key = db.mint(keyspace="many").api_key
    for name in names:
        assert db.one("authenticate", Jsonb({name.split(":")[1].upper(): key}), "GET", "/", keyspace="many").ok
    db.refused("KS400", "create_keyspace", "more", schemes=[*names, "bearer"])
    db.call("alter_keyspace", "many", Jsonb({"schemes": None}))
    assert db.one("authenticate", Jsonb({"authorization": f"Bearer {key}"}), "GET", "/", keyspace="many").ok
    assert db.one("authenticate", Jsonb({"a" * 64: key}), "GET", "/", keyspace="many").reason == "missing"
