"""Verdicts as JSON: the same as rows, to the letter."""

import json

# What a decision makes new each time.
NEW = "request_id"


def bearer(key):
    return {"Authorization": f"Bearer {key.api_key}"}


def both(db, function, *positional, **named):
    """A verdict as a row that PostgreSQL turns into JSON, and as JSON; the text but for the request's id."""
    texts = []
    for call in (f"SELECT row_to_json(v)::text FROM keysmith.{function}({{}}) v",
                 f"SELECT keysmith.{function}_json({{}})::text"):
        given = ["%s"] * len(positional) + [f"{name} => %s" for name in named]
        text = db.value(call.format(", ".join(given)), *positional, *named.values())
        texts.append(text.replace(json.loads(text)[NEW], NEW))
    return texts


def test_every_verdict_is_the_same(db):
    db.call("create_keyspace", "odd", codes=json.dumps({"invalid_api_key": {"message": 'No: "\\" é'}}))
    db.tenant("acme", plan='gold "é"')
    keys = [
        db.mint("acme", label='a "b" \\ é', scopes=["a", "b:*"], metadata=json.dumps({"a": [1.50, {"é": None}], "b": "\u2028"}),
                expires_at="2030-01-01 12:00:00.123456+02"),
        db.mint("acme", limits='[{"name": "calls", "limit": 2, "window": "1 hour"}]', credits=3),
        db.mint("acme", metadata="{}"),
    ]
    for timezone in ("UTC", "Asia/Kathmandu"):
        db.rows(f"SET timezone = '{timezone}'")
        for key in keys:
            for options in ({}, {"scopes": ["a"]}, {"scopes": ["x", "a | y"]}, {"scopes": ["x"]}, {"spend": 0, "weight": 0},
                            {"ip": "10.0.0.1"}, {"kind": "publishable"}, {"environment": "test"}):
                row, verdict = both(db, "verify", key.api_key, **{**options, "weight": 0})
                assert verdict == row
    for key in ("ks_live_nonsense", None, "x" * 3000, 'a"b'):
        for keyspace in ("default", "odd", "none"):
            row, verdict = both(db, "verify", key, keyspace=keyspace)
            assert verdict == row


def test_every_answer_to_a_request_is_the_same(db):
    db.tenant("acme")
    key = db.mint("acme", scopes=["a"])
    db.call("define_route", "default", "GET", "/a", "a")
    db.call("define_route", "default", "GET", "/b", "b & (c | d)")
    for headers in (bearer(key), {}, {"Authorization": "Basic x"}):
        for path in ("/a", "/b", "/c"):
            row, verdict = both(db, "authenticate", json.dumps(headers), "GET", path)
            assert verdict == row


def test_a_refusal_says_which_scopes_are_missing(db):
    db.tenant("acme")
    key = db.mint("acme", scopes=["a"])
    db.call("define_route", "default", "GET", "/b", "b & (c | d)")

    def missing(*scopes):
        return db.verify(key.api_key, scopes=list(scopes)).missing_scopes

    assert missing("a") is None
    assert missing("a", "b", "c") == "b & c"
    assert missing("a | x", "b | c", "d") == "(b | c) & d"
    assert missing("b | c") == "b | c"
    verdict = db.one("authenticate", json.dumps(bearer(key)), "GET", "/b")
    assert (verdict.reason, verdict.missing_scopes) == ("insufficient_scope", "b & (c | d)")
    assert db.verify("ks_live_x", scopes=["b"]).missing_scopes is None


def test_a_verdict_has_label_plan_and_limit(db):
    db.tenant("acme", plan="gold")
    key = db.mint("acme", label="Laptop", limits=json.dumps([
        {"name": "hour", "limit": 100, "window": "1 hour"}, {"name": "burst", "limit": 3, "window": "1 minute"}]))
    verdict = db.verify(key.api_key)
    assert (verdict.label, verdict.plan) == ("Laptop", "gold")
    assert (verdict.limit_name, verdict.limit_limit, verdict.limit_remaining) == ("burst", 3, 2)
    assert verdict.limit_window.total_seconds() == 60
    assert 0 < verdict.limit_reset.total_seconds() <= 20
    for _ in range(2):
        verdict = db.verify(key.api_key)
    assert 40 < verdict.limit_reset.total_seconds() <= 60
    refused = db.verify(key.api_key)
    assert (refused.ok, refused.limit_name, refused.limit_limit) == (False, "burst", 3)
    assert refused.retry_after <= refused.limit_reset
    without = db.verify(db.mint("acme").api_key)
    assert (without.limit_limit, without.limit_window, without.limit_reset) == (None, None, None)
