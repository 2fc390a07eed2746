"""The transaction of a request, on the connection that Django's ORM uses in this thread."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import DEFAULT_DB_ALIAS, InterfaceError, connections, transaction
from psycopg import RawCursor
from psycopg.rows import tuple_row

from .. import calls

ENDED = "the transaction of this request has ended: use the database before the answer starts"
logger = logging.getLogger("keysmith")


class Transaction:
    """An atomic block; within a test's transaction a savepoint."""

    active = False
    _is_inner = _is_committed = False
    _atomic: transaction.Atomic | None = None

    def __init__(self, using: str):
        self._using, self._django = using, connections[using]

    @property
    def connection(self) -> Any:
        if not self.active:
            raise InterfaceError(ENDED)
        return self._django

    @property
    def session(self) -> Any:
        raise LookupError("there is no session: Django's models use the transaction")

    def begin(self) -> None:
        self._is_inner, self._is_committed = self._django.in_atomic_block, False
        atomic = transaction.atomic(self._using)
        atomic.__enter__()
        self._atomic, self.active = atomic, True
        if not self._is_inner:
            transaction.on_commit(self._note_commit, self._using)

    def _note_commit(self) -> None:
        self._is_committed = True

    def row(self, statement: str, parameters: tuple[Any, ...]) -> Any:
        # Not a cursor of Django: it would put keys into the statement's text, its log and connection.queries.
        with self._django.wrap_database_errors, RawCursor(self._django.connection, row_factory=tuple_row) as cursor:
            return cursor.execute(statement, parameters).fetchone()

    def flush(self) -> None:
        # Django would roll back, and the answer would say otherwise.
        self._django.validate_no_broken_transaction()

    def commit(self) -> None:
        try:
            self._leave()
        except Exception:
            if not self._is_committed:
                raise
            logger.exception("a function given to on_commit failed; the request itself is committed")

    def rollback(self) -> None:
        if self._atomic is not None:
            transaction.set_rollback(True, self._using)
            self._leave()

    def _leave(self) -> None:
        atomic, self._atomic, self.active = self._atomic, None, False
        assert atomic is not None
        atomic.__exit__(None, None, None)

    def close(self) -> None:
        try:
            self.rollback()
            if self._is_inner:
                # The outer transaction goes on, and must not act for this caller.
                self.row(calls.SIGN_OUT, ())
        except Exception as error:
            logger.info("a transaction could not be ended: %s", type(error).__name__)


@contextmanager
def acting_as(tenant: str, member: str | None = None, keyspace: str = "default", *,
              using: str = DEFAULT_DB_ALIAS) -> Iterator[None]:
    """A transaction that acts for a tenant or one of its members, without a key: for tests, commands and jobs."""
    inner = Transaction(using)
    with transaction.atomic(using):
        inner.row(calls.ACT_AS, (tenant, member, keyspace))
        yield
        inner.row(calls.SIGN_OUT, ())
