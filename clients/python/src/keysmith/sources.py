"""Where the transactions of requests come from."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .caller import Transaction

MOST_THREADS = 40


def source(pool: Any, sessions: Any) -> Callable[[], Transaction]:
    """A function that makes the transaction of each request. It takes no connection before `begin`."""
    if (pool is None) == (sessions is None):
        raise TypeError("give either pool (of psycopg_pool) or sessions (a sessionmaker of SQLAlchemy)")
    if sessions is not None:
        from .sqlalchemy import transactions

        return transactions(sessions)
    from .pools import AsyncTransaction, SyncTransaction

    def of_pool() -> Transaction:
        taken = pool if hasattr(pool, "getconn") else pool()
        return AsyncTransaction(taken) if is_async(taken.getconn) else SyncTransaction(taken)

    if hasattr(pool, "getconn"):
        kind = AsyncTransaction if is_async(pool.getconn) else SyncTransaction
        return lambda: kind(pool)
    if not callable(pool):
        raise TypeError("pool must be a ConnectionPool or AsyncConnectionPool of psycopg_pool, or a function that returns one")
    return of_pool


def is_async(method: Any) -> bool:
    return inspect.iscoroutinefunction(method)


class Threads:
    """Threads for the transactions of an asynchronous application with a synchronous pool. There are never more
    transactions than threads: one that waits for a lock leaves the holder a thread to go on."""

    def __init__(self, make: Callable[[], Transaction]):
        self._make = make
        self._executor: ThreadPoolExecutor | None = None
        self._async_kind: type | None = None

    def __call__(self) -> Transaction:
        transaction = self._make()
        if type(transaction) is self._async_kind:
            return transaction
        if is_async(transaction.begin):
            self._async_kind = type(transaction)
            return transaction
        if self._executor is None:
            self._executor = ThreadPoolExecutor(MOST_THREADS, "keysmith")
            self._room = asyncio.Semaphore(MOST_THREADS)
        return _InThread(transaction, self._executor, self._room)


class _InThread:
    def __init__(self, transaction: Transaction, executor: ThreadPoolExecutor, room: asyncio.Semaphore):
        self._transaction, self._executor, self._room = transaction, executor, room
        self._has_room = False
        self._running: asyncio.Future[Any] | None = None

    async def _call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        self._running = asyncio.get_running_loop().run_in_executor(self._executor, method, *arguments)
        # A thread goes on when its task is cancelled: close waits for it.
        return await asyncio.shield(self._running)

    async def begin(self) -> None:
        if not self._has_room:
            await self._room.acquire()
            self._has_room = True
        await self._call(self._transaction.begin)

    async def row(self, statement: str, parameters: tuple[Any, ...]) -> Any:
        return await self._call(self._transaction.row, statement, parameters)

    async def flush(self) -> None:
        await self._call(self._transaction.flush)

    async def commit(self) -> None:
        await self._call(self._transaction.commit)

    async def rollback(self) -> None:
        await self._call(self._transaction.rollback)

    async def close(self) -> None:
        if not self._has_room:
            return
        if self._running is not None and not self._running.done():
            await asyncio.wait([self._running])
        try:
            await self._call(self._transaction.close)
        finally:
            self._has_room = False
            self._room.release()

    @property
    def active(self) -> bool:
        return self._transaction.active

    @property
    def connection(self) -> Any:
        return self._transaction.connection

    @property
    def session(self) -> Any:
        return self._transaction.session

    @property
    def inner(self) -> Transaction:
        return self._transaction
