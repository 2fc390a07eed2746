"""Middleware for ASGI: each request in a transaction that acts for its key."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, MutableMapping
from functools import lru_cache
from json.encoder import encode_basestring_ascii as encode
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from . import calls, errors, flow
from .caller import AsyncCaller, SyncCaller, Transaction
from .sources import Threads, source

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class KeysmithMiddleware:
    """Lets requests through to `app` in a transaction that acts for their key, and answers the others.

    `pool` is a pool of psycopg_pool, or a function that returns one; `sessions` a sessionmaker of SQLAlchemy. Handlers
    find the caller in `scope["keysmith"]`. `variant`, `spend`, `weights` and `subject` are values, or functions of the
    scope; `person` is a function of the scope that returns (tenant, member) of a person who is logged in, or None.
    """

    def __init__(self, app: App, pool: Any = None, *, sessions: Any = None, keyspace: str = "default",
                 paths: Iterable[str] = ("/",), variant: Any = None, spend: Any = 0, weights: Any = None,
                 subject: Any = None, person: Callable[[Scope], Any] | None = None, log: bool = True):
        self.app = app
        self._options = calls.Options(keyspace=keyspace, paths=paths, variant=variant, spend=spend, weights=weights,
                                      subject=subject, person=person, log=log)
        self._make = source(pool, sessions)
        self._transactions = Threads(self._make)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket") or not self._options.covers(routed(scope)):
            await self.app(scope, receive, send)
        elif kind == "http":
            await _Request(self, scope, receive, send).run()
        else:
            await _Handshake(self, scope, receive, send).run()


class _Exchange:
    """What requests and handshakes share."""

    def __init__(self, middleware: KeysmithMiddleware, scope: Scope, receive: Receive, send: Send):
        self.began = time.perf_counter()
        self.middleware, self.options = middleware, middleware._options
        self.scope, self.receive, self.send = scope, receive, send
        # As long as it may hold a connection.
        self.transaction: Transaction | None = None

    async def decided(self, method: str, body: str | None) -> calls.Decision:
        """Asks the database, in a transaction that is then open; or committed, if the answer is there."""
        scope, options = self.scope, self.options
        client = scope.get("client")
        call = options.call(headers_of(scope["headers"]), method, path_of(scope), body,
                            calls.address(client[0]) if client else None, scope)
        person = None
        if options.person is not None:
            person = options.person(scope)
            if inspect.isawaitable(person):
                person = await person
        transaction = self.transaction = self.middleware._transactions()
        decision = await flow.arun(flow.decide(transaction, call, person))
        if decision.handled:
            await self.commit()
        return decision

    async def commit(self) -> None:
        assert self.transaction is not None
        await flow.arun(flow.commit(self.transaction))
        self.transaction = None

    def caller(self, decision: calls.Decision, transaction: Any) -> AsyncCaller | SyncCaller:
        make, inner = self.middleware._make, getattr(transaction, "inner", None)
        return SyncCaller(decision, inner, make) if inner else AsyncCaller(decision, transaction, make)

    async def release(self) -> None:
        transaction, self.transaction = self.transaction, None
        if transaction is not None:
            await flow.close(transaction)

    def seconds(self) -> float:
        return time.perf_counter() - self.began


class _Request(_Exchange):
    # What was read of the body, for the application, and whether more follows.
    content: bytes | None = None
    more = False
    is_started = False
    is_replaced = False
    extra: Mapping[str, str] = {}

    async def run(self) -> None:
        try:
            try:
                method = self.scope["method"]
                body = None if method in calls.BODILESS else await self.body()
                decision = await self.decided(method, body)
            except errors.Refused as refusal:
                await self.release()
                await self.answer(flow.of_error(refusal))
            except _Gone:
                pass
            else:
                if decision.handled:
                    await self.answer(calls.served(decision))
                else:
                    await self.handle(decision)
        finally:
            if self.transaction is not None:
                await self.release()

    async def body(self) -> str | None:
        """The body as JSON text, as far as it can be one for an endpoint."""
        given = self.header(b"content-length")
        length = calls.length_of(given[0]) if len(given) == 1 else None
        kinds = self.header(b"content-type")
        if length == 0:
            return None
        if len(kinds) > 1 or not calls.is_read(kinds[0] if kinds else None):
            is_there = length is not None or self.header(b"transfer-encoding")
            # In HTTP/2 and 3 no header says whether there is a body.
            return calls.NOT_JSON if is_there or await self.read(1) else None
        if length is not None and length > calls.MOST_BODY:
            return None
        content = await self.read(calls.MOST_BODY + 1)
        return calls.NOT_JSON if len(content) > calls.MOST_BODY else calls.body_json(content)

    def header(self, wanted: bytes) -> list[str]:
        return [value.decode("latin-1") for name, value in self.scope["headers"] if name == wanted]

    async def read(self, enough: int) -> bytes:
        content, more = bytearray(), True
        while more and len(content) < enough:
            message = await self.receive()
            if message["type"] != "http.request":
                raise _Gone
            content += message.get("body", b"")
            more = message.get("more_body", False)
        self.content, self.more = bytes(content), more
        return self.content

    async def received(self) -> Message:
        if self.content is None:
            return await self.receive()
        content, self.content = self.content, None
        return {"type": "http.request", "body": content, "more_body": self.more}

    async def handle(self, decision: calls.Decision) -> None:
        self.by = self.scope["keysmith"] = self.caller(decision, self.transaction)
        self.extra = decision.headers
        try:
            await self.middleware.app(self.scope, self.received, self.sent)
        except Exception as error:
            if self.is_started:
                raise
            known = error if isinstance(error, errors.Refused) else errors.of(error)
            await self.end(known.status if known else 500)
            if known is None:
                raise
            await self.answer(flow.of_error(known))

    async def sent(self, message: Message) -> None:
        if message["type"] == "http.response.start" and not self.is_started:
            check(message.get("headers", ()))
            self.is_started = True
            instead = await self.end(message["status"])
            if instead is not None:
                self.is_replaced = True
                await self.answer(instead)
            elif self.extra:
                message = {**message, "headers": with_extra(message.get("headers", ()), self.extra)}
        if not self.is_replaced:
            await self.send(message)

    async def end(self, status: int) -> calls.Answer | None:
        transaction = self.transaction
        assert transaction is not None
        instead = await flow.arun(flow.finish(transaction, self.by, status, self.seconds(), self.options.log))
        self.transaction = None
        return instead

    async def answer(self, answer: calls.Answer) -> None:
        self.is_started = True
        headers = with_extra(encoded(answer.pairs(self.scope["method"])), self.extra)
        await self.send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": answer.content})


class _Handshake(_Exchange):
    """A WebSocket: decided as a GET, before it is accepted. Then it has the facts of its caller, and no connection."""

    is_answered = False

    async def run(self) -> None:
        try:
            decision = await self.decided("GET", None)
            if not decision.handled:
                self.by = self.scope["keysmith"] = self.caller(decision, self.transaction)
                await self.commit()
        except errors.Refused as refusal:
            await self.release()
            await self.refuse(flow.of_error(refusal))
            return
        finally:
            await self.release()
        if decision.handled:
            await self.refuse(calls.served(decision))
            return
        self.extra = decision.headers
        try:
            await self.middleware.app(self.scope, self.receive, self.sent)
        finally:
            await self.log(500)

    async def refuse(self, answer: calls.Answer) -> None:
        await self.receive()
        if "websocket.http.response" in (self.scope.get("extensions") or {}):
            await self.send({"type": "websocket.http.response.start", "status": answer.status,
                             "headers": encoded(answer.pairs("GET"))})
            await self.send({"type": "websocket.http.response.body", "body": answer.content})
        else:
            await self.send({"type": "websocket.close", "code": 1008})

    async def sent(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            await self.log(101)
            message = {**message, "headers": with_extra(message.get("headers", ()), self.extra)}
        elif kind == "websocket.close":
            await self.log(403)
        elif kind == "websocket.http.response.start":
            await self.log(message["status"])
        await self.send(message)

    async def log(self, status: int) -> None:
        """Notes the answer to the handshake."""
        if self.is_answered or not self.options.log:
            return
        self.is_answered = True
        self.transaction = self.middleware._transactions()
        try:
            await flow.arun(flow.finish(self.transaction, self.by, status, self.seconds(), True))
        finally:
            await self.release()


class _Gone(Exception):
    """The client left before its request was there."""


def headers_of(headers: Collection[tuple[bytes, bytes]]) -> str | None:
    """The headers as one JSON object, or None if PostgreSQL can't read them. This is on the way of each request, so it
    does not make the object first, unless a header is repeated."""
    if len(dict(headers)) == len(headers):
        encoded = ", ".join([(KEYS.get(name) or key_of(name)) + encode(value.decode("latin-1")) for name, value in headers])
        if "\\u0000" not in encoded:
            return "{" + encoded + "}"
    return calls.headers_json((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)


def key_of(name: bytes) -> str:
    return encode(name.decode("latin-1")) + ": "


# Those that most requests have. Others are not kept: clients could fill the memory with names.
KEYS = {name: key_of(name) for name in (
    b"accept", b"accept-encoding", b"accept-language", b"authorization", b"connection", b"content-length", b"content-type",
    b"cookie", b"host", b"origin", b"referer", b"user-agent", b"x-api-key", b"x-forwarded-for", b"x-forwarded-proto",
    b"x-request-id")}


def routed(scope: Scope) -> str:
    """The path by which the framework routes: without the root path, which may be there or not."""
    path: str = scope["path"]
    root = scope.get("root_path")
    if root and path.startswith(root) and path[len(root):len(root) + 1] in ("", "/"):
        path = path[len(root):]
    return path if path.startswith("/") else "/" + path


def path_of(scope: Scope) -> str:
    """That path, still encoded, with its query."""
    path = routed(scope).encode("utf-8", "surrogateescape")
    raw = (scope.get("raw_path") or b"").partition(b"?")[0]
    root = (scope.get("root_path") or "").encode()
    if root and raw != path and raw.startswith(root):
        raw = raw[len(root):]
    if raw != path and unquote_to_bytes(raw) != path:
        raw = quote(path, safe=calls.PATH_CHARACTERS).encode()
    query = scope.get("query_string")
    return (raw + b"?" + query if query else raw).decode("latin-1")


def check(headers: Iterable[Any]) -> None:
    """What the server will refuse must not be committed before."""
    for name, value in headers:
        if b"\n" in value or b"\r" in value or b"\0" in value or b"\n" in name or b"\r" in name or b"\0" in name:
            raise ValueError("a header of the answer has a line break")


def encoded(pairs: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name_of(name), value.encode("latin-1")) for name, value in pairs]


@lru_cache(maxsize=256)
def name_of(name: str) -> bytes:
    return name.lower().encode("latin-1")


def with_extra(headers: Collection[Any], extra: Mapping[str, str]) -> list[Any]:
    """Headers with those of serve; the first win."""
    names = {name.lower() for name, _ in headers}
    return [*headers, *[pair for pair in encoded(extra.items()) if pair[0] not in names]]
