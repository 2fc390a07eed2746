"""The statements, and how their parameters are made of a request. Nothing here reads or writes.

Parameters are texts that the server casts, so that every driver sends them alike. The statements number them, as
PostgreSQL does; psycopg's raw cursors and asyncpg take them so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, NamedTuple

from .errors import Unreadable

SERVE = """\
SELECT handled, status, headers::text, body::text, request_id::text, ok, tenant, key_id::text
FROM keysmith.serve(headers => $1::text::jsonb, method => $2::text, path => $3::text, body => $4::text::jsonb,
    peer => $5::text::inet, keyspace => $6::text, variant => $7::text, spend => $8::bigint,
    weights => $9::text::jsonb, subject => $10::text)"""
AUTHENTICATE = """\
SELECT v::text, keysmith.response_headers(json_populate_record(NULL::keysmith.verdict, v))::text
FROM keysmith.authenticate_json(headers => $1::text::jsonb, method => $2::text, path => $3::text,
    ip => $4::text::inet, keyspace => $5::text, variant => $6::text, spend => $7::bigint,
    weights => $8::text::jsonb, subject => $9::text) AS v"""
ACT_AS = "SELECT keysmith.act_as($1::text, $2::text, $3::text)"
SIGN_OUT = "SELECT keysmith.sign_out()"
LOG_REQUEST = """\
SELECT keysmith.log_request(status_code => $1::integer, latency => make_interval(secs => $2::float8),
    tags => $3::text::jsonb, request_id => $4::text::uuid)"""
SETTLE = "SELECT keysmith.settle($1::text::uuid, spend => $2::bigint, weights => $3::text::jsonb)"
HAS_SCOPE = "SELECT keysmith.has_scope($1::text)"
# Fails in a transaction in which a statement has failed: its COMMIT would be a silent ROLLBACK.
CHECK = "SELECT 1"

MOST_BODY = 128 * 1024
# The characters of a path that are not encoded, besides letters and digits.
PATH_CHARACTERS = "/!$&'()*+,;=:@~"
# Passed in place of a body that is not JSON. It is a text, which no endpoint takes.
NOT_JSON = '"not JSON"'
BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


class Call(NamedTuple):
    """The parameters of serve, in its order."""

    headers: str
    method: str
    path: str
    body: str | None
    peer: str | None
    keyspace: str
    variant: str | None
    spend: int
    weights: str | None
    subject: str | None

    def __repr__(self) -> str:
        return f"Call({self.method})"


class Decision(NamedTuple):
    """The row of serve. `body` is JSON text."""

    handled: bool
    status: int
    headers: Mapping[str, str]
    body: str | None
    request_id: str | None
    ok: bool
    tenant: str | None
    key_id: str | None

    def __repr__(self) -> str:
        # An answer can show a new key.
        return f"Decision(handled={self.handled}, status={self.status})"


def decision(row: Sequence[Any]) -> Decision:
    handled, status, headers, body, request_id, ok, tenant, key_id = row
    return Decision(handled, status, json.loads(headers or "{}"), body, request_id, ok, tenant, key_id)


class Answer(NamedTuple):
    """An answer that the application does not write."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    def pairs(self, method: str) -> list[tuple[str, str]]:
        """Its headers, with the length."""
        pairs = [*self.headers.items()]
        if self.content or method != "HEAD" and self.status not in (204, 304):
            pairs.append(("Content-Length", str(len(self.content))))
        return pairs


def served(decision: Decision) -> Answer:
    return Answer(decision.status, decision.headers, (decision.body or "").encode())


def problem(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer about an error that did not come from serve."""
    own = {"Content-Type": "application/json", "Cache-Control": "no-store"} | dict(headers or {})
    return Answer(status, own, json.dumps({"code": code, "message": message}).encode())


UNAVAILABLE = problem(503, "unavailable", "The service is unavailable.")
FAILED = problem(500, "internal_error", "The server has made an error.")

# A value, or a function of the framework's request that returns one.
Setting = Any


class Options:
    """What is the same for all requests of an application."""

    def __init__(self, *, keyspace: str = "default", paths: Iterable[str] = ("/",), variant: Setting = None,
                 spend: Setting = 0, weights: Setting = None, subject: Setting = None,
                 person: Callable[..., Any] | None = None, log: bool = True):
        if isinstance(paths, str) or not all(isinstance(path, str) and path.startswith("/") for path in paths):
            raise ValueError('paths must be a tuple of prefixes such as ("/v1", "/internal")')
        if person is not None and not callable(person):
            raise TypeError("person must be a function that returns (tenant, member) or None")
        self.keyspace, self.variant, self.spend, self.weights, self.subject = keyspace, variant, spend, weights, subject
        self.person, self.log = person, log
        prefixes = [path.rstrip("/") for path in paths]
        self._exact = frozenset(prefixes)
        self._below = tuple(prefix + "/" for prefix in prefixes)
        self._all = "" in prefixes
        self._plain = not any(map(callable, (variant, spend, weights, subject)))
        self._last = (keyspace, variant, spend, as_json(weights) if not callable(weights) else None,
                      as_text(subject) if not callable(subject) else None)

    def covers(self, path: str) -> bool:
        """Whether a path is below one of the prefixes. Routers add and drop slashes: then rather too much is covered."""
        if self._all:
            return True
        if "//" in path or not path.startswith("/"):
            path = re.sub("/+", "/", "/" + path)
        return path.startswith(self._below) or path in self._exact

    def call(self, headers: str | None, method: str, path: str, body: str | None, peer: str | None, request: Any) -> Call:
        if headers is None or "\0" in path:
            raise Unreadable
        if self._plain:
            return Call(headers, method, path, body, peer, *self._last)
        return Call(headers, method, path, body, peer, self.keyspace, value(self.variant, request),
                    value(self.spend, request), as_json(value(self.weights, request)), as_text(value(self.subject, request)))


def value(setting: Setting, request: Any) -> Any:
    return setting(request) if callable(setting) else setting


def as_json(value: Any) -> str | None:
    """A JSON argument: a text is passed as it is."""
    return value if value is None or isinstance(value, str) else json.dumps(value)


def as_text(value: Any) -> str | None:
    return value if value is None else str(value)


def headers_json(pairs: Iterable[tuple[str, str]]) -> str | None:
    """The headers as one JSON object; repeated ones as arrays. None if PostgreSQL can't read them."""
    headers: dict[str, Any] = {}
    for name, text in pairs:
        if name in headers:
            earlier = headers[name]
            headers[name] = [*earlier, text] if isinstance(earlier, list) else [earlier, text]
        else:
            headers[name] = text
    return readable(headers)


def readable(headers: Mapping[str, Any]) -> str | None:
    """As JSON. None if a NUL is in them: PostgreSQL would refuse it, and show the headers in its log."""
    encoded = json.dumps(headers)
    # A backslash that is itself escaped looks the same, so this asks again.
    return None if "\\u0000" in encoded and _has_nul(headers) else encoded


def _has_nul(headers: Mapping[str, Any]) -> bool:
    texts = [*headers]
    for text in headers.values():
        texts += text if isinstance(text, list) else [text]
    return any("\0" in text for text in texts)


def length_of(text: str) -> int | None:
    """A Content-Length, or none if it is not one. Python refuses to read thousands of digits."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None


def is_read(content_type: str | None) -> bool:
    """Whether a body of this type can be one for an endpoint: JSON, a form (curl -d sends JSON so), or unsaid."""
    if content_type is None:
        return True
    kind = content_type.partition(";")[0].strip().lower()
    return kind in ("application/json", "application/x-www-form-urlencoded", "") or (
        kind.startswith("application/") and kind.endswith("+json"))


def body_json(content: bytes) -> str | None:
    """The body as the text of a JSON value. PostgreSQL reads it; what can't be an object or null is not sent."""
    if not content:
        return None
    if content.lstrip(b" \t\r\n")[:1] not in (b"{", b"n"):
        return NOT_JSON
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return NOT_JSON
    return NOT_JSON if "\0" in text else text


@lru_cache(maxsize=1024)
def address(peer: str | None) -> str | None:
    """The peer's address, or none if it is not an IP, such as a socket's path."""
    bare = (peer or "").partition("%")[0]
    try:
        return str(ip_address(bare))
    except ValueError:
        return None
