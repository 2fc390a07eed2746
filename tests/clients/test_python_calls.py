"""The parts of the Python package that read and write nothing: parameters, paths, and errors."""

import json

import psycopg
import pytest

import python_site  # noqa: F401
from keysmith import calls, errors


@pytest.mark.parametrize("pairs, read", [
    ([], {}), ([("a", "1"), ("b", "2")], {"a": "1", "b": "2"}), ([("a", "1"), ("a", "2")], {"a": ["1", "2"]}),
    ([("a", "1"), ("a", "2"), ("a", "3")], {"a": ["1", "2", "3"]}), ([("a", "\xff\x01\"")], {"a": "\xff\x01\""}),
    ([("a", "\\u0000")], {"a": "\\u0000"}), ([("a", "\0")], None), ([("\0", "a")], None), ([("a", "1"), ("a", "\0")], None),
])
def test_headers(pairs, read):
    encoded = calls.headers_json(pairs)
    assert (encoded and json.loads(encoded)) == read
    assert encoded is None or encoded.isascii()


@pytest.mark.parametrize("content, text", [
    (b"", None), (b"{}", "{}"), (b' {"a": 1}', ' {"a": 1}'), (b"null", "null"), (b"[]", calls.NOT_JSON),
    (b'"x"', calls.NOT_JSON), (b"a=1", calls.NOT_JSON), (b"{\xff}", calls.NOT_JSON), (b"{\0}", calls.NOT_JSON),
    (b"\xef\xbb\xbf{}", calls.NOT_JSON), ('{"é": "ü"}'.encode(), '{"é": "ü"}'),
])
def test_bodies(content, text):
    assert calls.body_json(content) == text


@pytest.mark.parametrize("kind, read", [
    (None, True), ("application/json", True), ("Application/JSON; charset=utf-8", True), ("application/a+json", True),
    ("application/x-www-form-urlencoded", True), ("", True), ("text/plain", False), ("multipart/form-data; boundary=x", False),
    ("text/json", False), ("application/octet-stream", False), ("image/a+json", False),
])
def test_content_types(kind, read):
    assert calls.is_read(kind) is read


@pytest.mark.parametrize("peer, address", [
    ("192.0.2.7", "192.0.2.7"), ("::1", "::1"), ("fe80::1%eth0", "fe80::1"), ("::ffff:192.0.2.7", "::ffff:c000:207"),
    ("", None), (None, None), ("unix:/socket", None), ("testclient", None), ("192.0.2.7:80", None), ("1", None),
])
def test_addresses(peer, address):
    assert calls.address(peer) == address


def test_what_a_call_shows():
    options = calls.Options(subject=17, weights={"calls": 2})
    call = options.call('{"authorization": "Bearer secret"}', "GET", "/", None, None, {})
    assert tuple(call)[5:] == ("default", None, 0, '{"calls": 2}', "17")
    assert "secret" not in repr(call) + str(call)
    made = calls.decision((True, 201, '{}', '{"api_key": "secret"}', None, True, "acme", None))
    assert "secret" not in repr(made) + str(made)


@pytest.mark.parametrize("paths, yes, no", [
    (("/",), ["/", "/x", "", "//", "x", "*", "http:x"], []),
    # Routers add a slash that is missing, and take several for one.
    (("/v1",), ["/v1", "/v1/", "/v1/x", "//v1", "v1", "v1/x", "///v1//x", "/v1//x"], ["/v10", "/", "/V1", "/x/v1", "x//v1"]),
    (("/a/b", "/b/"), ["/a//b", "/b", "/b/c", "a//b"], ["/c", "/a"]), ((), [], ["/"]),
])
def test_paths(paths, yes, no):
    options = calls.Options(paths=paths)
    assert all(map(options.covers, yes)) and not any(map(options.covers, no))


class Orm(Exception):
    def __init__(self, orig):
        self.orig = orig


class Diagnosed(Exception):
    def __init__(self, sqlstate, message):
        self.sqlstate = sqlstate
        self.diag = type("Diag", (), {"message_primary": message})


def raised(sqlstate, message):
    """What an ORM raises for an error of the driver."""
    return Orm(Diagnosed(sqlstate, message))


@pytest.mark.parametrize("sqlstate, status, code, message", [
    ("KS400", 400, "invalid_request", "said"), ("KS401", 401, "invalid_api_key", "The API key is not valid."),
    ("KS403", 403, "forbidden", "said"), ("KS404", 404, "not_found", "said"), ("KS409", 409, "conflict", "said"),
    ("KS503", 503, "unavailable", "The service is unavailable."), ("KS504", 503, "unavailable", "The service is unavailable."),
])
def test_errors(sqlstate, status, code, message):
    for error in (Diagnosed(sqlstate, "said"), raised(sqlstate, "said"), ExceptionGroup("", [raised(sqlstate, "said")])):
        known = errors.of(error)
        assert (known.sqlstate, known.status, known.code, known.message) == (sqlstate, status, code, message)


def test_errors_that_are_not_keysmiths():
    loop = ValueError()
    loop.__cause__ = loop
    for error in (ValueError(), loop, raised("23505", "twin"), ExceptionGroup("", [ValueError(), raised("KS400", "x")])):
        assert errors.of(error) is None


@pytest.mark.parametrize("error, passing, unreadable", [
    (psycopg.OperationalError("away"), True, False), (psycopg.errors.QueryCanceled(), True, False),
    (psycopg.errors.SerializationFailure(), True, False), (OSError(), True, False), (TimeoutError(), True, False),
    (psycopg.DataError("NUL"), False, True), (psycopg.errors.InvalidTextRepresentation(), False, True),
    (UnicodeEncodeError("ascii", "é", 0, 1, ""), False, True), (psycopg.errors.InsufficientPrivilege(), False, False),
    (ValueError(), False, False), (Diagnosed("KS503", ""), True, False),
])
def test_what_becomes_of_an_error_of_our_own_statement(error, passing, unreadable):
    assert (errors.is_passing(error), errors.is_unreadable(error)) == (passing, unreadable)
    assert isinstance(errors.without_parameters(error), errors.Unavailable) is passing


def test_no_message_shows_a_parameter():
    class DataError(Exception):
        """As asyncpg says it."""

    for error in (DataError("invalid input for query argument $1: 'Bearer secret'"), ValueError("secret"),
                  psycopg.DataError("secret")):
        assert "secret" not in errors.primary_message(error) + str(errors.without_parameters(error))
