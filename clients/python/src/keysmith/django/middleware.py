"""Middleware for Django: each request in a transaction that acts for its key."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import quote

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, InterfaceError, connections
from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils.module_loading import import_string

from .. import calls, errors, flow
from ..caller import SyncCaller
from ..wsgi import headers_of
from .transactions import ENDED, Transaction

SETTINGS = ("KEYSPACE", "PATHS", "VARIANT", "SPEND", "WEIGHTS", "SUBJECT", "PERSON", "LOG")
WITHOUT_BINDING = "keysmith needs psycopg 3 below Django: psycopg2 writes parameters, and so keys, into statements"


class KeysmithMiddleware:
    """Lets requests through to views in a transaction that acts for their key, and answers the others.
    Views find the caller in `request.keysmith`."""

    sync_capable = async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]):
        self.get_response = get_response
        self.using, self.options = configured()
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        if not self.options.covers(request.path_info):
            return self.get_response(request)
        exchange = _Exchange(self, request)
        return self._awaited(exchange) if self._is_async else self._called(exchange)

    def _called(self, exchange: _Exchange) -> HttpResponseBase:
        try:
            answer = exchange.begin()
            return answer if answer is not None else exchange.end(self.get_response(exchange.request))
        finally:
            exchange.close()

    async def _awaited(self, exchange: _Exchange) -> HttpResponseBase:
        # In the thread that models use for this request.
        try:
            answer = await sync_to_async(exchange.begin)()
            if answer is not None:
                return answer
            return await sync_to_async(exchange.end)(await self.get_response(exchange.request))
        except BaseException:
            await flow.to_its_end(sync_to_async(exchange.close)())
            raise

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Django would make a 500 of errors of keysmith."""
        known = exception if isinstance(exception, errors.Refused) else errors.of(exception)
        return response_of(flow.of_error(known), request) if known and hasattr(request, "keysmith") else None

    def transaction(self) -> Transaction:
        return Transaction(self.using)


class _Exchange:
    """A request, from its decision to its answer."""

    transaction: Transaction | None = None

    def __init__(self, middleware: KeysmithMiddleware, request: HttpRequest):
        self.began = time.perf_counter()
        self.middleware, self.request = middleware, request

    def begin(self) -> HttpResponse | None:
        """The answer, if it is the database's."""
        request, options = self.request, self.middleware.options
        try:
            call = call_of(request, options)
            person = options.person(request) if options.person else None
            transaction = self.transaction = self.middleware.transaction()
            self.decision = flow.run(flow.decide(transaction, call, person))
            if self.decision.handled:
                flow.run(flow.commit(transaction))
        except errors.Refused as refusal:
            self.close()
            return response_of(flow.of_error(refusal), request)
        if self.decision.handled:
            return response_of(calls.served(self.decision), request)
        self.caller = request.keysmith = SyncCaller(self.decision, transaction, self.middleware.transaction)
        return None

    def end(self, response: HttpResponseBase) -> HttpResponseBase:
        """Ends the transaction, and returns what can be sent."""
        assert self.transaction is not None
        seconds = time.perf_counter() - self.began
        instead = flow.run(flow.finish(self.transaction, self.caller, response.status_code, seconds, self.middleware.options.log))
        if instead is not None:
            response = response_of(instead, self.request)
        elif isinstance(response, StreamingHttpResponse) and not isinstance(response, FileResponse) and not response.is_async:
            response.streaming_content = without_database(response.streaming_content, self.middleware.using)
        for name, value in self.decision.headers.items():
            response.headers.setdefault(name, value)
        return response

    def close(self) -> None:
        if self.transaction is not None:
            self.transaction.close()


def configured() -> tuple[str, calls.Options]:
    """The database, and the options of settings.KEYSMITH."""
    given = dict(getattr(settings, "KEYSMITH", {}))
    using = given.pop("DATABASE", DEFAULT_DB_ALIAS)
    for name in given:
        if name not in SETTINGS:
            raise ImproperlyConfigured(f"KEYSMITH has no {name!r}, only {', '.join(('DATABASE', *SETTINGS))}")
    for name in ("VARIANT", "SPEND", "WEIGHTS", "SUBJECT", "PERSON"):
        if isinstance(given.get(name), str) and "." in given[name]:
            given[name] = import_string(given[name])
    try:
        options = calls.Options(**{name.lower(): value for name, value in given.items()})
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"KEYSMITH: {error}") from None
    if connections[using].vendor != "postgresql":
        raise ImproperlyConfigured(f"KEYSMITH: the database {using!r} is not PostgreSQL")
    from django.db.backends.postgresql.psycopg_any import is_psycopg3

    if not is_psycopg3:
        raise ImproperlyConfigured(WITHOUT_BINDING)
    return using, options


def call_of(request: HttpRequest, options: calls.Options) -> calls.Call:
    headers, path = calls.headers_json(headers_of(request.META)), path_of(request)
    if headers is None or "\0" in path:
        raise errors.Refused(400, "invalid_request", "The request can't be read.")
    method = request.method or ""
    body = None if method in calls.BODILESS else body_of(request)
    return options.call(headers, method, path, body, calls.address(request.META.get("REMOTE_ADDR")), request)


def path_of(request: HttpRequest) -> str:
    """The path by which Django routes, encoded, with its query."""
    path = quote(request.path_info, safe=calls.PATH_CHARACTERS, errors="surrogateescape")
    query = request.META.get("QUERY_STRING")
    return f"{path}?{query}" if query else path


def body_of(request: HttpRequest) -> str | None:
    """The body as JSON text, as far as it can be one for an endpoint. Django keeps what is read for the view."""
    length = calls.length_of(request.META.get("CONTENT_LENGTH") or "")
    if length is None and not hasattr(request, "scope"):
        # Under WSGI, Django reads no body whose length is not stated.
        return None
    if length == 0:
        return None
    if not calls.is_read(request.META.get("CONTENT_TYPE") or None):
        return calls.NOT_JSON if length or _beginning(request, 1) else None
    if length is None:
        content = _beginning(request, calls.MOST_BODY + 1)
        return calls.NOT_JSON if len(content) > calls.MOST_BODY else calls.body_json(content)
    return None if length > calls.MOST_BODY else calls.body_json(request.body)


def _beginning(request: HttpRequest, size: int) -> bytes:
    """Of a body that an ASGI server has received: it is a file."""
    content: bytes = request._stream.read(size)
    request._stream.seek(0)
    return content


def response_of(answer: calls.Answer, request: HttpRequest) -> HttpResponse:
    response = HttpResponse(b"" if request.method == "HEAD" else answer.content, status=answer.status,
                            headers=dict(answer.pairs(request.method or "")))
    if "Content-Type" not in answer.headers:
        del response["Content-Type"]
    return response


def without_database(content: Iterable[bytes], using: str) -> Iterator[bytes]:
    """What is generated while it is sent, after the transaction: models would find no rows, so this is an error."""

    def refuse(*args: Any) -> Any:
        raise InterfaceError(ENDED)

    parts = iter(content)
    while True:
        with connections[using].execute_wrapper(refuse):
            try:
                part = next(parts)
            except StopIteration:
                return
        yield part
