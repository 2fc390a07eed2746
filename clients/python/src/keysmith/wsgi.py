"""Middleware for WSGI: each request in a transaction that acts for its key."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import quote

from . import calls, errors, flow
from .caller import SyncCaller, Transaction
from .sources import is_async, source

Environ = dict[str, Any]
Headers = list[tuple[str, str]]
App = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]
REASONS = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 409: "Conflict"}


class KeysmithMiddleware:
    """Lets requests through to `app` in a transaction that acts for their key, and answers the others.

    `pool` is a ConnectionPool of psycopg_pool, or a function that returns one; `sessions` a sessionmaker of SQLAlchemy.
    Handlers find the caller in `environ["keysmith"]`. `variant`, `spend`, `weights` and `subject` are values, or functions
    of the environ; `person` is a function of it that returns (tenant, member) of a person who is logged in, or None.
    """

    def __init__(self, app: App, pool: Any = None, *, sessions: Any = None, keyspace: str = "default",
                 paths: Iterable[str] = ("/",), variant: Any = None, spend: Any = 0, weights: Any = None,
                 subject: Any = None, person: Callable[[Environ], Any] | None = None, log: bool = True):
        self.app = app
        self._options = calls.Options(keyspace=keyspace, paths=paths, variant=variant, spend=spend, weights=weights,
                                      subject=subject, person=person, log=log)
        self._transactions = source(pool, sessions)

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not self._options.covers(routed(environ).decode("utf-8", "replace")):
            return self.app(environ, start_response)
        return _Request(self, environ, start_response).run()


class _Request:
    extra: dict[str, str] | Any = {}
    # The arguments of start_response, until they are sent.
    started: tuple[str, Headers, Any] | None = None
    write: Callable[[bytes], Any] | None = None
    instead: Iterable[bytes] | None = None

    def __init__(self, middleware: KeysmithMiddleware, environ: Environ, start_response: Callable[..., Any]):
        self.began = time.perf_counter()
        self.middleware, self.options = middleware, middleware._options
        self.environ, self.start_response = environ, start_response
        self.transaction: Transaction = middleware._transactions()
        if is_async(self.transaction.begin):
            raise TypeError("a WSGI application needs a ConnectionPool, or a sessionmaker, not an asynchronous one")

    def run(self) -> Iterable[bytes]:
        try:
            try:
                decision = self.decided()
            except errors.Refused as refusal:
                return self.answer(flow.of_error(refusal))
            if decision.handled:
                return self.answer(calls.served(decision))
            self.by = self.environ["keysmith"] = SyncCaller(decision, self.transaction, self.middleware._transactions)
            self.extra = decision.headers
            return self.handle()
        finally:
            self.transaction.close()

    def decided(self) -> calls.Decision:
        environ, options, method = self.environ, self.options, self.environ["REQUEST_METHOD"]
        body = None if method in calls.BODILESS else self.body()
        call = options.call(calls.headers_json(headers_of(environ)), method, path_of(environ), body,
                            calls.address(environ.get("REMOTE_ADDR")), environ)
        decision = flow.run(flow.decide(self.transaction, call, options.person(environ) if options.person else None))
        if decision.handled:
            flow.run(flow.commit(self.transaction))
        return decision

    def body(self) -> str | None:
        """The body as JSON text, as far as it can be one for an endpoint."""
        environ = self.environ
        length = calls.length_of(environ.get("CONTENT_LENGTH") or "")
        is_chunked = length is None and bool(environ.get("wsgi.input_terminated"))
        if not length and not is_chunked:
            return None
        if not calls.is_read(environ.get("CONTENT_TYPE") or None):
            return calls.NOT_JSON
        if length is not None and length > calls.MOST_BODY:
            return None
        stream = environ["wsgi.input"]
        content = read(stream, calls.MOST_BODY + 1 if length is None else length)
        if length is not None and len(content) < length:
            raise errors.Unreadable
        is_long = len(content) > calls.MOST_BODY
        environ["wsgi.input"] = io.BufferedReader(_Again(content, stream)) if is_long else io.BytesIO(content)
        return calls.NOT_JSON if is_long else calls.body_json(content)

    def handle(self) -> Iterable[bytes]:
        try:
            chunks = self.middleware.app(self.environ, self.start)
            if self.started is None:
                # The application is a generator: its first chunk comes after its start_response.
                iterator = iter(chunks)
                first = next(iterator, b"")
                chunks = _Resumed(first, iterator, chunks)
        except Exception as error:
            if self.write is not None:
                raise
            known = error if isinstance(error, errors.Refused) else errors.of(error)
            self.end(known.status if known else 500)
            if known is None:
                raise
            return self.answer(flow.of_error(known))
        if self.write is None:
            self.commit()
        if self.instead is not None:
            close(chunks)
            return self.instead
        return chunks

    def start(self, status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], Any]:
        if self.write is not None:
            return self.start_response(status, headers, exc_info)  # type: ignore[no-any-return]
        self.started = status, headers, exc_info
        return self.written

    def written(self, chunk: bytes) -> None:
        """What start_response returns: the old way to send a body."""
        if self.write is None:
            self.commit()
        if self.instead is None:
            self.write(chunk)  # type: ignore[misc]

    def commit(self) -> None:
        """Ends the transaction, and sends what the application has started."""
        if self.started is None:
            raise RuntimeError("the application has answered without start_response")
        status, headers, exc_info = self.started
        if any(mark in text for pair in headers for text in pair for mark in "\r\n\0"):
            raise ValueError("a header of the answer has a line break")
        instead = self.end(int(status.split(None, 1)[0]))
        if instead is not None:
            self.instead = self.answer(instead)
            return
        if self.extra:
            names = {name.lower() for name, _ in headers}
            headers = headers + [(name, value) for name, value in self.extra.items() if name.lower() not in names]
        self.write = self.start_response(status, headers, *([exc_info] if exc_info else []))

    def end(self, status: int) -> calls.Answer | None:
        seconds = time.perf_counter() - self.began
        return flow.run(flow.finish(self.transaction, self.by, status, seconds, self.options.log))

    def answer(self, answer: calls.Answer) -> Iterable[bytes]:
        reason = REASONS.get(answer.status) or ("Refused" if answer.status >= 400 else "OK")
        headers = [(name, value) for name, value in self.extra.items() if name not in answer.headers]
        self.write = self.start_response(f"{answer.status} {reason}",
                                         answer.pairs(self.environ["REQUEST_METHOD"]) + headers)
        return [answer.content] if self.environ["REQUEST_METHOD"] != "HEAD" else []


class _Resumed:
    """The chunks of an application whose first one was taken."""

    def __init__(self, first: bytes, rest: Iterator[bytes], chunks: Iterable[bytes]):
        self._first, self._rest, self._chunks = first, rest, chunks

    def __iter__(self) -> Iterator[bytes]:
        yield self._first
        yield from self._rest

    def close(self) -> None:
        close(self._chunks)


class _Again(io.RawIOBase):
    """A body whose beginning was read: all of it."""

    def __init__(self, content: bytes, stream: Any):
        self._content, self._stream = io.BytesIO(content), stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._content.read(len(buffer)) or self._stream.read(len(buffer))
        buffer[:len(chunk)] = chunk
        return len(chunk)


def close(chunks: Iterable[bytes]) -> None:
    if hasattr(chunks, "close"):
        chunks.close()


def read(stream: Any, length: int) -> bytes:
    content = bytearray()
    while len(content) < length and (chunk := stream.read(length - len(content))):
        content += chunk
    return bytes(content)


def routed(environ: Environ) -> bytes:
    """The path by which the framework routes, decoded. Some add a slash that is missing."""
    path = environ.get("PATH_INFO") or "/"
    return (path if path.startswith("/") else "/" + path).encode("latin-1", "replace")


def path_of(environ: Environ) -> str:
    path, query = quote(routed(environ), safe=calls.PATH_CHARACTERS), environ.get("QUERY_STRING")
    return f"{path}?{query}" if query else path


def headers_of(environ: Environ) -> list[tuple[str, str]]:
    headers = [(name[5:].replace("_", "-").lower(), value) for name, value in environ.items() if name.startswith("HTTP_")]
    return headers + [(name, environ[key]) for name, key in (("content-type", "CONTENT_TYPE"),
                                                             ("content-length", "CONTENT_LENGTH")) if environ.get(key)]
