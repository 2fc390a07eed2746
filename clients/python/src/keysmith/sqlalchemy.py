"""The transaction of a request, as a session of SQLAlchemy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, overload

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, async_sessionmaker
from sqlalchemy.orm import sessionmaker

from . import calls, errors
from .caller import AsyncCaller, SyncCaller, Transaction
from .jobs import Headers, Job, Person

logger = logging.getLogger("keysmith")
ENDED = "the transaction of this request has ended: use its session before the answer starts"


@overload
def transaction(sessions: sessionmaker[Any], *, headers: Headers | None = None, method: str | None = None,
                path: str | None = None, person: Person | None = None, ip: str | None = None,
                keyspace: str = "default", variant: str | None = None, spend: int = 0,
                weights: Mapping[str, int] | None = None, subject: str | None = None,
                ) -> AbstractContextManager[SyncCaller]: ...
@overload
def transaction(sessions: async_sessionmaker[Any], *, headers: Headers | None = None, method: str | None = None,
                path: str | None = None, person: Person | None = None, ip: str | None = None,
                keyspace: str = "default", variant: str | None = None, spend: int = 0,
                weights: Mapping[str, int] | None = None, subject: str | None = None,
                ) -> AbstractAsyncContextManager[AsyncCaller]: ...
def transaction(sessions: Any, **options: Any) -> Any:
    """As keysmith.transaction, with `caller.session`."""
    return Job(transactions(sessions), **options)


def transactions(sessions: Any) -> Callable[[], Transaction]:
    """What makes the transactions of requests, from a sessionmaker with a bind."""
    bind = getattr(sessions, "kw", {}).get("bind")
    if isinstance(sessions, async_sessionmaker) and isinstance(bind, (AsyncEngine, AsyncConnection)):
        kind: Any = AsyncTransaction
    elif isinstance(sessions, sessionmaker) and isinstance(bind, (Engine, Connection)):
        kind = SyncTransaction
    else:
        raise TypeError("sessions must be sessionmaker(engine) or async_sessionmaker(engine) of SQLAlchemy, with an engine")
    driver = bind.dialect.driver
    if driver not in ("psycopg", "psycopg_async", "asyncpg"):
        raise TypeError(f"the driver {driver} is not supported: psycopg2, for one, writes parameters into the "
                        "statement, and keys with them; use postgresql+psycopg or postgresql+asyncpg")
    if isinstance(bind, (Engine, AsyncEngine)):
        engine = bind.sync_engine if isinstance(bind, AsyncEngine) else bind
        if not event.contains(engine, "commit", _no_commit):
            event.listen(engine, "commit", _no_commit)
    return lambda: kind(sessions, bind)


def _no_commit(connection: Connection) -> None:
    """`session.connection().commit()` would end the request's transaction, and keep what an error must undo."""
    if getattr(connection, "_keysmith_open", False):
        raise InvalidRequestError("the transaction of a request is not the handler's to commit: session.commit() is a flush")


class _Base:
    def __init__(self, sessions: Any, bind: Any):
        self._sessions, self._bind = sessions, bind
        # A test has given its own connection, and its transaction is not ours to end.
        self._is_ours = isinstance(bind, (Engine, AsyncEngine))
        self._connection: Any = None
        self._outer: Any = None
        self._session: Any = None
        self._is_broken = False

    @property
    def active(self) -> bool:
        return self._outer is not None and bool(self._outer.is_active)

    @property
    def connection(self) -> Any:
        raise LookupError("there is no connection of psycopg: the middleware has sessions; take the session")

    @property
    def session(self) -> Any:
        if not self.active:
            raise InvalidRequestError(ENDED)
        if self._session is None:
            self._session = self._sessions(bind=self._connection, join_transaction_mode="rollback_only")
        return self._session

    def _open(self, is_open: bool) -> None:
        if self._is_ours:
            getattr(self._connection, "sync_connection", self._connection)._keysmith_open = is_open

    def _begun(self, pooled: Any) -> None:
        self._open(True)
        if pooled.dbapi_connection.autocommit:
            raise errors.DecisionFailed(None, "the engine of sessions has the isolation level AUTOCOMMIT: a request needs "
                                              "a transaction")


class SyncTransaction(_Base):
    def begin(self) -> None:
        if self._connection is None:
            self._connection = self._bind.connect() if self._is_ours else self._bind
        self._outer = self._connection.begin() if self._is_ours else self._connection.begin_nested()
        # As a block: within it, nothing begins after a rollback() of the handler's.
        self._outer.__enter__()
        self._begun(self._connection.connection)

    def row(self, statement: str, parameters: tuple[Any, ...]) -> Any:
        import psycopg
        from psycopg.rows import tuple_row

        # Not through SQLAlchemy: its log and its errors show parameters.
        cursor = psycopg.RawCursor(self._connection.connection.driver_connection, row_factory=tuple_row)
        return cursor.execute(statement, parameters).fetchone()

    def flush(self) -> None:
        if self._session is not None:
            self._session.flush()

    def commit(self) -> None:
        self._end(None)

    def rollback(self) -> None:
        self._end(InvalidRequestError)

    def _end(self, failure: type[Exception] | None) -> None:
        outer, self._outer = self._outer, None
        if outer is not None:
            self._open(False)
            # If the exit fails, the connection is in an unknown state.
            self._is_broken = True
            outer.__exit__(failure, None, None)
            self._is_broken = False
            if not self._is_ours:
                self.row(calls.SIGN_OUT, ())

    def close(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            self._end(InvalidRequestError)
            if self._session is not None:
                self._session.close()
            if self._is_broken:
                raise InvalidRequestError
        except Exception:
            if self._is_ours:
                connection.invalidate()
        finally:
            self._connection = None
            if self._is_ours:
                connection.close()


class AsyncTransaction(_Base):
    async def begin(self) -> None:
        if self._connection is None:
            self._connection = await self._bind.connect() if self._is_ours else self._bind
        self._outer = self._connection.begin() if self._is_ours else self._connection.begin_nested()
        # As a block: within it, nothing begins after a rollback() of the handler's.
        await self._outer.__aenter__()
        self._begun(self._connection.sync_connection.connection)

    async def row(self, statement: str, parameters: tuple[Any, ...]) -> Any:
        pooled = self._connection.sync_connection.connection
        if self._connection.dialect.driver == "asyncpg":
            return await self._connection.run_sync(_row_of_asyncpg, statement, parameters)
        import psycopg
        from psycopg.rows import tuple_row

        cursor = psycopg.AsyncRawCursor(pooled.driver_connection, row_factory=tuple_row)
        await cursor.execute(statement, parameters)
        return await cursor.fetchone()

    async def flush(self) -> None:
        if self._session is not None:
            await self._session.flush()

    async def commit(self) -> None:
        await self._end(None)

    async def rollback(self) -> None:
        await self._end(InvalidRequestError)

    async def _end(self, failure: type[Exception] | None) -> None:
        outer, self._outer = self._outer, None
        if outer is not None:
            self._open(False)
            # If the exit fails, the connection is in an unknown state.
            self._is_broken = True
            await outer.__aexit__(failure, None, None)
            self._is_broken = False
            if not self._is_ours:
                await self.row(calls.SIGN_OUT, ())

    async def close(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            await self._end(InvalidRequestError)
            if self._session is not None:
                await self._session.close()
            if self._is_broken:
                raise InvalidRequestError
        except Exception:
            if self._is_ours:
                await self._cut(connection)
        finally:
            self._connection = None
            if self._is_ours:
                await connection.close()


    async def _cut(self, connection: AsyncConnection) -> None:
        """A statement of the handler still runs. asyncpg would wait for it, and the pool for the connection."""
        driver = connection.sync_connection.connection.driver_connection  # type: ignore[union-attr]
        try:
            if connection.dialect.driver == "asyncpg":
                driver.terminate()  # type: ignore[union-attr]
            await connection.invalidate()
        except Exception as error:
            logger.info("a connection could not be cut: %s", type(error).__name__)


def _row_of_asyncpg(connection: Connection, statement: str, parameters: tuple[Any, ...]) -> Any:
    # Not the driver's own connection: SQLAlchemy begins the transaction with the first statement of this cursor.
    cursor = connection.connection.cursor()
    try:
        cursor.execute(statement, parameters)  # type: ignore[no-untyped-call, unused-ignore]
        return cursor.fetchone()
    finally:
        cursor.close()
