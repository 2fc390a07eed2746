"""The body of errors, as a keyspace chooses it: what may be chosen, and what is stored."""

import json

import pytest
from psycopg.types.json import Jsonb

TEMPLATE = {"error": {"code": "{code}", "message": "{message}", "id": "{request_id}"}, "status": "{status}"}


def stored(db, keyspace):
    return db.value("SELECT error_body FROM keysmith_private.keyspace WHERE keyspace = %s", keyspace)


def test_errors_are_plain_unless_a_keyspace_chooses(db):
    db.call("create_keyspace", "usual")
    assert stored(db, "usual") == "plain"


def test_a_word_or_a_template(db):
    db.call("create_keyspace", "worded", error_body="problem")
    assert stored(db, "worded") == "problem"
    db.call("create_keyspace", "templated", error_body=json.dumps(TEMPLATE))
    assert json.loads(stored(db, "templated")) == TEMPLATE
    # alter_keyspace takes a template as JSON, or as its text.
    for given in (TEMPLATE, json.dumps(TEMPLATE)):
        db.call("alter_keyspace", "worded", Jsonb({"error_body": given}))
        assert json.loads(stored(db, "worded")) == TEMPLATE
    for chosen, kept in (("problem", "problem"), ("plain", "plain"), (None, "plain")):
        db.call("alter_keyspace", "worded", Jsonb({"error_body": chosen}))
        assert stored(db, "worded") == kept


@pytest.mark.parametrize("wrong, complaint", [
    ("Problem", "error_body must be plain, problem, or a template: a JSON object"),
    ("", "error_body must be plain, problem, or"),
    ("[]", "error_body must be plain, problem, or"),
    ('"plain"', "error_body must be plain, problem, or"),
    ('{"a": ', "error_body must be plain, problem, or"),
    (r'{"a": "\u0000"}', "error_body must be plain, problem, or"),
    ('{"a": 1e400}', "error_body must be plain, problem, or"),
    ('{"error": {"id": "{key_id}"}}', 'error_body has at error.id the text "{key_id}": there is no {key_id} here, only '
     "code, message, status, title, request_id, retry_after, missing_scopes"),
    ('{"error": "{code"}', "error_body has at error the text"),
    ('{"a": ' + "[" * 100 + "]" * 100 + "}", "error_body is nested deeper"),
    (json.dumps({"a": "x" * 10_000}), "error_body must have at most 10000 bytes"),
], ids=range(11))
def test_what_cannot_be_filled_is_refused_when_it_is_stored(db, wrong, complaint):
    db.call("create_keyspace", "mine", error_body="problem")
    assert db.refused("KS400", "create_keyspace", "other", error_body=wrong).startswith(complaint)
    assert db.refused("KS400", "alter_keyspace", "mine", Jsonb({"error_body": wrong})).startswith(f"changes.{complaint}")
    assert stored(db, "mine") == "problem"
    assert db.value("SELECT count(*) FROM keysmith_private.keyspace WHERE keyspace = 'other'") == 0


def test_errors_of_operations_can_be_reworded(db):
    codes = {code: {"code": f"my_{code}", "message": f"My {code}.", "status": 422} for code in (
        "invalid_request", "forbidden", "not_found", "method_not_allowed", "conflict", "content_too_large",
        "unsupported_media_type", "internal_error", "unavailable")}
    db.call("create_keyspace", "mine", codes=Jsonb(codes))
    assert dict(db.rows("SELECT answer, code FROM keysmith_private.answer WHERE keyspace = 'mine'")) \
        == {code: f"my_{code}" for code in codes}
