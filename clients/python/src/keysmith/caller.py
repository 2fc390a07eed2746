"""Who calls: what a handler gets of the decision about its request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol
from uuid import UUID

from . import calls, flow


class Transaction(Protocol):
    """The transaction of a request. In asynchronous applications the methods are coroutines."""

    @property
    def active(self) -> bool:
        """Whether the application may work in it: begun, and not ended."""

    @property
    def connection(self) -> Any:
        """The driver's connection. Raises if there is none, or no longer."""

    @property
    def session(self) -> Any:
        """The ORM's session. Raises if there is none, or no longer."""

    def begin(self) -> Any: ...
    def row(self, statement: str, parameters: tuple[Any, ...]) -> Any: ...
    def flush(self) -> Any: ...
    def commit(self) -> Any: ...
    def rollback(self) -> Any: ...

    def close(self) -> Any:
        """Returns the connection, in whatever state it is."""



class Caller:
    """The caller of a request. Without a key, on a public route, `tenant` and `key_id` are None."""

    __slots__ = ("tenant", "_key_id", "_request_id", "tags", "_transaction", "_source")

    def __init__(self, decision: Any, transaction: Transaction, source: Callable[[], Transaction]):
        self.tenant: str | None = decision.tenant
        self._key_id, self._request_id = decision.key_id, decision.request_id
        # For log_request: at most 8 names and texts.
        self.tags: dict[str, str] = {}
        self._transaction, self._source = transaction, source

    @property
    def key_id(self) -> UUID | None:
        return UUID(self._key_id) if self._key_id else None

    @property
    def request_id(self) -> UUID | None:
        return UUID(self._request_id) if self._request_id else None

    @property
    def connection(self) -> Any:
        """The driver's connection, in the request's transaction; of applications with a pool."""
        return self._transaction.connection

    @property
    def session(self) -> Any:
        """The ORM's session, in the request's transaction; of applications with sessions."""
        return self._transaction.session

    def _open(self) -> Transaction:
        if not self._transaction.active:
            raise RuntimeError("the transaction of this request has ended")
        return self._transaction

    def __repr__(self) -> str:
        return f"{type(self).__name__}(tenant={self.tenant!r}, key_id={self._key_id}, request_id={self._request_id})"


class SyncCaller(Caller):
    """The caller of a request whose transaction is used by `def` functions."""

    __slots__ = ()

    def has_scope(self, scope: str) -> bool:
        """Whether the caller holds a scope, or meets an expression of scopes."""
        return bool((self._open().row(calls.HAS_SCOPE, (scope,)))[0])

    def settle(self, spend: int | None = None, weights: Mapping[str, int] | None = None) -> bool:
        """Charges what the request really cost: in its transaction, or, later, in one of its own."""
        inside = self._transaction.active
        transaction = self._transaction if inside else self._source()
        try:
            return flow.run(flow.settle(transaction, inside, self._request_id, spend, weights))
        except BaseException:
            if not inside:
                transaction.close()
            raise


class AsyncCaller(Caller):
    """The caller of a request whose transaction is used by `async def` functions."""

    __slots__ = ()

    async def has_scope(self, scope: str) -> bool:
        """Whether the caller holds a scope, or meets an expression of scopes."""
        return bool((await self._open().row(calls.HAS_SCOPE, (scope,)))[0])

    async def settle(self, spend: int | None = None, weights: Mapping[str, int] | None = None) -> bool:
        """Charges what the request really cost: in its transaction, or, later, in one of its own."""
        inside = self._transaction.active
        transaction = self._transaction if inside else self._source()
        try:
            return await flow.arun(flow.settle(transaction, inside, self._request_id, spend, weights))
        except BaseException:
            if not inside:
                await flow.close(transaction)
            raise
