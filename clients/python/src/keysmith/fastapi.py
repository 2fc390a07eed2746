"""Dependencies for FastAPI. The application has keysmith.asgi.KeysmithMiddleware."""

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Security
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from . import caller as callers
from .asgi import KeysmithMiddleware
from .errors import Refused

__all__ = ["Caller", "Connection", "KeysmithMiddleware", "Session", "SyncCaller", "SyncConnection", "SyncSession",
           "requires"]

if TYPE_CHECKING:
    import psycopg
    import sqlalchemy.ext.asyncio
    import sqlalchemy.orm

    _AsyncConnection = psycopg.AsyncConnection[Any]
    _SyncConnection = psycopg.Connection[Any]
    _AsyncSession = sqlalchemy.ext.asyncio.AsyncSession
    _SyncSession = sqlalchemy.orm.Session
else:
    # The drivers are not imported here: an application has one of them. Dependencies need no type.
    _AsyncConnection = _SyncConnection = _AsyncSession = _SyncSession = object


class _Key(SecurityBase):
    """The caller that the middleware has found. It makes OpenAPI say that the route takes a key."""

    def __init__(self, kind: type[callers.Caller], hint: str) -> None:
        self.model = HTTPBearer(description="An API key.")
        self.scheme_name = "keysmith"
        self.kind, self.hint = kind, hint

    async def __call__(self, connection: HTTPConnection) -> Any:
        caller = connection.scope.get("keysmith")
        if caller is None:
            raise LookupError(f"{connection.scope['path']} has no caller: add KeysmithMiddleware to the application, and "
                              "this path to its paths")
        if not isinstance(caller, self.kind):
            raise LookupError(self.hint)
        return caller


_Async = _Key(callers.AsyncCaller, "the pool or the sessions are synchronous: take SyncCaller, SyncConnection or SyncSession")
_Sync = _Key(callers.SyncCaller, "the pool or the sessions are asynchronous: take Caller, Connection or Session")
_AnyCaller = Annotated[callers.Caller, Depends(_Key(callers.Caller, ""))]
Caller = Annotated[callers.AsyncCaller, Depends(_Async)]
SyncCaller = Annotated[callers.SyncCaller, Depends(_Sync)]


async def _connection(caller: Caller) -> Any:
    return caller.connection


async def _session(caller: Caller) -> Any:
    return caller.session


async def _sync_connection(caller: SyncCaller) -> Any:
    return caller.connection


async def _sync_session(caller: SyncCaller) -> Any:
    return caller.session


Connection = Annotated[_AsyncConnection, Depends(_connection)]
Session = Annotated[_AsyncSession, Depends(_session)]
SyncConnection = Annotated[_SyncConnection, Depends(_sync_connection)]
SyncSession = Annotated[_SyncSession, Depends(_sync_session)]


def requires(scopes: str) -> Any:
    """A dependency for routes that the database does not list: the caller must hold a scope, or meet an expression of
    scopes, such as "images:write"."""

    async def check(caller: _AnyCaller) -> None:
        if isinstance(caller, callers.AsyncCaller):
            holds = await caller.has_scope(scopes)
        else:
            assert isinstance(caller, callers.SyncCaller)
            holds = await run_in_threadpool(caller.has_scope, scopes)
        if not holds:
            raise Refused(403, "insufficient_scope", "A scope that this request needs is missing.")

    return Security(check, scopes=[scopes])
