"""Weights and subjects of requests: what is accepted, and what is refused with a clear error."""

import json

import psycopg
import pytest
from psycopg.types.json import Jsonb

HUNDRED = {f"unit{n}": 1 for n in range(100)}
BAD_WEIGHTS = {
    "a text": '"tokens"', "a number": "7", "an array": '[{"tokens": 1}]', "a boolean": "true", "null": "null",
    "a negative": '{"tokens": -1}', "a fraction": '{"tokens": 1.5}', "a small fraction": '{"tokens": 0.00001}',
    "one too many": '{"tokens": 1000000001}', "2^32": '{"tokens": 4294967296}', "2^63": '{"tokens": 9223372036854775808}',
    "2^64": '{"tokens": 18446744073709551616}', "10^16": '{"tokens": 1e16}', "1e400": '{"tokens": 1e400}',
    "1e100000": '{"tokens": 1e100000}', "-1e400": '{"tokens": -1e400}', "1e-400": '{"tokens": 1e-400}',
    "text": '{"tokens": "1"}', "null in it": '{"tokens": null}', "true in it": '{"tokens": true}',
    "nested": '{"tokens": {"tokens": 1}}', "listed": '{"tokens": [1]}', "an empty name": '{"": 1}',
    "upper case": '{"Tokens": 1}', "a digit first": '{"1k": 1}', "a space": '{"to kens": 1}', "an umlaut": '{"töken": 1}',
    "a long name": json.dumps({"x" * 32: 1}), "a name of 1 MB": json.dumps({"x" * 2**20: 1}),
    "a value of 1 MB": json.dumps({"tokens": "x" * 2**20}), "nine units": json.dumps({f"u{n}": 1 for n in range(9)}),
    "a hundred units": json.dumps(HUNDRED), "1 MB of units": json.dumps({f"unit{n}": 1 for n in range(70_000)}),
    "deep": '{"tokens": ' + "[" * 1000 + "]" * 1000 + "}",
}
GOOD_WEIGHTS = {
    "none": "{}", "zero": '{"tokens": 0}', "zeros": '{"tokens": 0.000}', "most": '{"tokens": 1000000000}', "ones": '{"tokens": 1.000}',
    "thousands": '{"tokens": 1e3}', "10^9": '{"tokens": 1e9}', "9999": '{"tokens": 9999}', "10000": '{"tokens": 10000}',
    "10001": '{"tokens": 10001}', "with trailing zeros": '{"tokens": 120000.000000000000000000}',
    "many zeros": '{"tokens": 5.' + "0" * 300 + "}", "eight units": json.dumps({f"u{n}": n for n in range(8)}),
    "eight units and calls": json.dumps({"calls": 2} | {f"u{n}": n for n in range(8)}),
    # jsonb keeps the last of several pairs of a name.
    "twice": '{"tokens": -1, "tokens": 1}', "every character": '{"a_b-c9": 1}', "a long name": json.dumps({"x" * 31: 1}),
}


def decisions(key):
    headers = Jsonb({"x-api-key": key})
    return [
        ("verify", (key,)), ("verify_json", (key,)), ("verify_digest", (b"x" * 32,)), ("explain_verify", (key,)),
        ("authenticate", (headers, "GET", "/")), ("authenticate_json", (headers, "GET", "/")), ("serve", (headers, "GET", "/")),
    ]


@pytest.mark.parametrize("weights", BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_bad_weights(db, weights):
    db.tenant()
    key = db.mint().api_key
    for function, arguments in decisions(key):
        error = db.refused("KS400", function, *arguments, weights=weights)
        assert error.startswith("weights must ") and len(error) < 200
    assert db.verify(key).ok


@pytest.mark.parametrize("weights", GOOD_WEIGHTS.values(), ids=GOOD_WEIGHTS)
def test_good_weights(db, weights):
    db.tenant()
    key = db.mint().api_key
    for function, arguments in decisions(key):
        assert db.call(function, *arguments, weights=weights)
    assert db.verify(key, weights=weights).ok


def test_calls_are_given_once(db):
    db.tenant()
    key = db.mint(limits=Jsonb([{"name": "a", "limit": 100, "window": "366 days"}])).api_key
    for function, arguments in decisions(key)[:-1]:
        error = db.refused("KS400", function, *arguments, weight=1, weights=Jsonb({"calls": 1}))
        assert error.startswith("weights must not have calls")
    assert db.verify(key, weights=Jsonb({"calls": 4})).limit_remaining == 96
    assert db.verify(key, weight=4, weights=Jsonb({"tokens": 9})).limit_remaining == 92
    assert db.verify(key, weights=Jsonb({"tokens": 9})).limit_remaining == 91
    assert db.verify(key, weights=Jsonb({"calls": 0})).limit_remaining == 91


def test_calls_of_a_request_replace_the_weight_of_its_route(db):
    db.tenant()
    key = db.mint(limits=Jsonb([{"name": "a", "limit": 100, "window": "366 days"}])).api_key
    db.call("define_route", "default", "GET", "/heavy", [], weight=10)

    def left(function="authenticate", **options):
        db.call(function, Jsonb({"x-api-key": key}), "GET", "/heavy", **options)
        return db.verify(key, weight=0).limit_remaining

    assert left() == 90
    assert left(weights=Jsonb({"tokens": 5})) == 80
    assert left(weights=Jsonb({"calls": 2, "tokens": 5})) == 78
    assert left("serve", weights=Jsonb({"calls": 3})) == 75
    assert left("serve", weights=Jsonb({"tokens": 3})) == 65


@pytest.mark.parametrize("subject", ["", "x" * 129, "é" * 65, "x" * 2**20])
def test_bad_subjects(db, subject):
    db.tenant()
    for function, arguments in decisions(db.mint().api_key):
        error = db.refused("KS400", function, *arguments, subject=subject)
        assert error == "subject must have 1 to 128 bytes"


@pytest.mark.parametrize("subject", ["x", "x" * 128, "é" * 64, " ", "a\nb", "'; DROP TABLE x", None])
def test_good_subjects(db, subject):
    db.tenant()
    for function, arguments in decisions(db.mint().api_key):
        assert db.call(function, *arguments, subject=subject)


def test_a_subject_that_is_no_text(db):
    db.tenant()
    with pytest.raises(psycopg.Error) as error:
        db.rows("SELECT keysmith.verify('x', subject => convert_from('\\xff', 'UTF8'))")
    assert error.value.sqlstate == "22021"
