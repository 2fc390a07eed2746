"""Transactions that act for a key or a person without HTTP: in jobs, scripts and workers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from . import calls, errors, flow
from .caller import AsyncCaller, Caller, SyncCaller, Transaction
from .sources import source

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool, ConnectionPool

Headers = Mapping[str, "str | list[str]"]
Person = tuple[str, "str | None"]


@overload
def transaction(pool: ConnectionPool[Any], *, headers: Headers | None = None, method: str | None = None,
                path: str | None = None, person: Person | None = None, ip: str | None = None,
                keyspace: str = "default", variant: str | None = None, spend: int = 0,
                weights: Mapping[str, int] | None = None, subject: str | None = None,
                ) -> AbstractContextManager[SyncCaller]: ...
@overload
def transaction(pool: AsyncConnectionPool[Any], *, headers: Headers | None = None, method: str | None = None,
                path: str | None = None, person: Person | None = None, ip: str | None = None,
                keyspace: str = "default", variant: str | None = None, spend: int = 0,
                weights: Mapping[str, int] | None = None, subject: str | None = None,
                ) -> AbstractAsyncContextManager[AsyncCaller]: ...
def transaction(pool: Any, **options: Any) -> Any:
    """A transaction of the pool that acts for the key in `headers`, which must be good for `method` and `path`; or for
    `person`, as (tenant, member). Raises Refused. The block's end commits, an exception rolls back."""
    return Job(source(pool, None), **options)


class Facts(NamedTuple):
    tenant: str | None
    key_id: str | None
    request_id: str | None


class Job:
    """The context manager of a job's transaction, for `with` or, with an asynchronous pool, `async with`."""

    def __init__(self, source: Callable[[], Transaction], *, headers: Headers | None = None,
                 method: str | None = None, path: str | None = None, person: Person | None = None,
                 ip: str | None = None, keyspace: str = "default", variant: str | None = None, spend: int = 0,
                 weights: Mapping[str, int] | None = None, subject: str | None = None):
        if (headers is None) == (person is None):
            raise TypeError("give either headers, with method and path, or person")
        if headers is not None and (method is None or path is None):
            raise TypeError("headers need the method and the path that the key must be good for")
        self._source, self._person, self._keyspace = source, person, keyspace
        self._parameters = _Parameters((
            calls.readable(headers or {}), method, path, ip, keyspace, variant, spend, calls.as_json(weights), subject))

    def __enter__(self) -> SyncCaller:
        self._transaction = self._source()
        try:
            return SyncCaller(flow.run(self._signed_in()), self._transaction, self._source)
        except BaseException:
            self._transaction.close()
            raise

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is None:
                flow.run(self._committed())
        finally:
            self._transaction.close()

    async def __aenter__(self) -> AsyncCaller:
        self._transaction = self._source()
        try:
            return AsyncCaller(await flow.arun(self._signed_in()), self._transaction, self._source)
        except BaseException:
            await flow.close(self._transaction)
            raise

    async def __aexit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is None:
                await flow.arun(self._committed())
        finally:
            await flow.close(self._transaction)

    def _signed_in(self) -> flow.Steps[Facts]:
        transaction = self._transaction
        try:
            yield transaction.begin()
            if self._person is not None:
                yield from flow.act_as(transaction, *self._person, self._keyspace)
                return Facts(self._person[0], None, None)
            verdict, headers = yield transaction.row(calls.AUTHENTICATE, self._parameters)
        except (errors.Refused, errors.DecisionFailed):
            raise
        except Exception as error:
            failure = errors.without_parameters(error)
        else:
            verdict = json.loads(verdict)
            if verdict["ok"]:
                return Facts(verdict["tenant"], verdict["key_id"], verdict["request_id"])
            yield transaction.commit()
            failure = errors.Refused(verdict["status"], verdict["code"], verdict["message"], json.loads(headers))
        raise failure

    def _committed(self) -> flow.Steps[None]:
        yield self._transaction.flush()
        yield self._transaction.row(calls.CHECK, ())
        yield self._transaction.commit()


class _Parameters(tuple[Any, ...]):
    def __repr__(self) -> str:
        return "(…)"
