"""The transaction of a request, on a connection of a pool of psycopg."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import psycopg
from psycopg import pq
from psycopg.rows import tuple_row

from .flow import keep

C = TypeVar("C", psycopg.Connection[Any], psycopg.AsyncConnection[Any])
IDLE, ACTIVE, OFF = pq.TransactionStatus.IDLE, pq.TransactionStatus.ACTIVE, pq.PipelineStatus.OFF
# For a statement that the handler left running, to end when it is cancelled.
MOST_SECONDS = 2.0
ENDED = "the transaction of this request has ended, and its connection serves others: use it before the answer starts"


class _NoServer:
    """In the place of libpq's connection, once the request has ended."""

    status = pq.ConnStatus.OK
    transaction_status = pq.TransactionStatus.UNKNOWN

    def __getattr__(self, name: str) -> Any:
        raise psycopg.InterfaceError(ENDED)


def lend(connection: C) -> C:
    """A second object for the pool's connection, which can be taken back: what a handler keeps of it, such as a
    cursor, then does not reach the next request. What the handler sets on it, such as a row factory, ends with it."""
    connection.adapters  # Made once for the connection, not for each request.
    lent = object.__new__(type(connection))
    # A pool whose connections return to it by close() would take this one.
    lent.__dict__.update(connection.__dict__, _pool=None)
    return lent


def take_back(lent: Any) -> None:
    # All that a connection and its cursors do with the server goes through wait.
    lent.wait, lent.pgconn = _refuse, _NO_SERVER


def _refuse(generator: Any, *args: Any, **kwargs: Any) -> Any:
    generator.close()
    raise psycopg.InterfaceError(ENDED)


_NO_SERVER = _NoServer()


class _Base:
    active = False

    def __init__(self, pool: Any):
        self._pool = pool
        self._pooled: Any = None
        self._lent: Any = None

    @property
    def connection(self) -> Any:
        if not self.active:
            raise psycopg.InterfaceError(ENDED)
        return self._lent

    @property
    def session(self) -> Any:
        raise LookupError("there is no session: the middleware has a pool; give it sessions instead")

    def _lend(self) -> None:
        if not self._can_go_on():
            raise psycopg.OperationalError("the connection is closed, or busy")
        if self._lent is not None:
            take_back(self._lent)
        self._lent = lend(self._pooled)

    def _check_idle(self) -> None:
        if self._is_busy:
            raise RuntimeError("a statement of the handler is still running, such as an unfinished stream")

    @property
    def _is_busy(self) -> bool:
        return bool(self._pooled.pgconn.transaction_status == ACTIVE)

    def _can_go_on(self) -> bool:
        """Whether the connection takes a statement: it waits for none of the handler's, maybe for ever."""
        return self._pooled is not None and not self._pooled.closed and not self._is_busy

    @property
    def _is_clean(self) -> bool:
        pgconn = self._pooled.pgconn
        return bool(pgconn.transaction_status == IDLE and pgconn.pipeline_status == OFF)


class SyncTransaction(_Base):
    def begin(self) -> None:
        if self._pooled is None:
            self._pooled = self._pool.getconn()
        self._lend()
        self._block = psycopg.Transaction(self._lent)
        self._block.__enter__()
        self.active = True

    def row(self, statement: str, parameters: tuple[Any, ...]) -> Any:
        # Bound by the server, whatever cursors the application uses.
        cursor = psycopg.RawCursor(self._lent, row_factory=tuple_row)
        return cursor.execute(statement, parameters).fetchone()

    def flush(self) -> None:
        self._check_idle()

    def commit(self) -> None:
        self.active = False
        self._block.__exit__(None, None, None)

    def rollback(self) -> None:
        self.active = False
        if self._can_go_on():
            self._pooled.rollback()

    def close(self) -> None:
        self.active = False
        pooled = self._pooled
        if pooled is None:
            return
        if self._lent is not None:
            take_back(self._lent)
        if not self._is_clean:
            try:
                if self._is_busy:
                    pooled.cancel_safe(timeout=MOST_SECONDS)
                    if pooled.lock.acquire(timeout=MOST_SECONDS):
                        pooled.lock.release()
                self.rollback()
            except Exception:
                pass
            if not self._is_clean:
                pooled.pgconn.finish()
        self._pooled = None
        self._pool.putconn(pooled)


class AsyncTransaction(_Base):
    async def begin(self) -> None:
        if self._pooled is None:
            self._pooled = await self._pool.getconn()
        self._lend()
        self._block = psycopg.AsyncTransaction(self._lent)
        await self._block.__aenter__()
        self.active = True

    async def row(self, statement: str, parameters: tuple[Any, ...]) -> Any:
        cursor = psycopg.AsyncRawCursor(self._lent, row_factory=tuple_row)
        await cursor.execute(statement, parameters)
        return await cursor.fetchone()

    def flush(self) -> None:
        self._check_idle()

    def commit(self) -> Any:
        self.active = False
        return self._block.__aexit__(None, None, None)

    async def rollback(self) -> None:
        self.active = False
        if self._can_go_on():
            await self._pooled.rollback()

    def close(self) -> Any:
        self.active = False
        pooled = self._pooled
        if pooled is None:
            return None
        if self._lent is not None:
            take_back(self._lent)
        self._pooled = None
        if pooled.pgconn.transaction_status == IDLE and pooled.pgconn.pipeline_status == OFF:
            return self._pool.putconn(pooled)
        if pooled.pgconn.transaction_status == ACTIVE:
            # Not awaited: the answer does not wait for what the handler has left behind.
            keep(asyncio.ensure_future(self._cleaned(pooled)))
            return None
        return self._cleaned(pooled)

    async def _cleaned(self, pooled: Any) -> None:
        """Never hangs up while another task waits for the socket: the loop would watch it, and then the next that has its number."""
        try:
            if pooled.pgconn.transaction_status == ACTIVE:
                await pooled.cancel_safe(timeout=MOST_SECONDS)
                # A statement ends now, and leaves the lock. Rows that nobody reads any more keep it.
                await asyncio.wait_for(pooled.lock.acquire(), MOST_SECONDS)
                pooled.lock.release()
            await pooled.rollback()
        except Exception:
            pass
        if pooled.pgconn.transaction_status != IDLE or pooled.pgconn.pipeline_status != OFF:
            if not pooled.closed:
                asyncio.get_running_loop().remove_reader(pooled.pgconn.socket)
            pooled.pgconn.finish()
        await self._pool.putconn(pooled)
