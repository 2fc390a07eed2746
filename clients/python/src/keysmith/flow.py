"""The order in which a request goes, once for synchronous and asynchronous applications.

Each function yields what a method of the transaction has returned, and goes on with its result: of synchronous
transactions that is the same, and `run` hands it back; of asynchronous ones it is awaitable, or None, and `arun` awaits it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Coroutine, Generator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from . import calls, errors

if TYPE_CHECKING:
    from .caller import Caller, Transaction

T = TypeVar("T")
Steps = Generator[Any, Any, T]
logger = logging.getLogger("keysmith")


def run(steps: Steps[T]) -> T:
    try:
        result = next(steps)
        while True:
            result = steps.send(result)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


async def arun(steps: Steps[T]) -> T:
    try:
        step = next(steps)
        while True:
            try:
                result = await step if step is not None else None
            except Exception as error:
                failures = [error]
            else:
                step = steps.send(result)
                continue
            # Outside of the except clause, so that what is raised now has no context, and so no parameters.
            step = steps.throw(failures.pop())
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


_ending: set[asyncio.Future[Any]] = set()


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Awaits something that must not stop half-way: if this task is cancelled, the work goes on without it."""
    return await asyncio.shield(keep(asyncio.ensure_future(work)))


def keep(task: asyncio.Future[T]) -> asyncio.Future[T]:
    """A task that nobody awaits: the loop alone would let it be collected."""
    _ending.add(task)
    task.add_done_callback(_ending.discard)
    return task


async def close(transaction: Transaction) -> None:
    """Closes a transaction in whatever state it is, to the end."""
    async def closed() -> None:
        step = transaction.close()
        if step is not None:
            await step

    await to_its_end(closed())


def decide(transaction: Transaction, call: calls.Call, person: tuple[str, str | None] | None) -> Steps[calls.Decision]:
    """Begins the transaction and asks serve. Raises without a trace of the headers."""
    while True:
        try:
            yield transaction.begin()
            if person is not None:
                yield from act_as(transaction, *person, call.keyspace)
            return calls.decision((yield transaction.row(calls.SERVE, call)))
        except (errors.Refused, errors.DecisionFailed):
            raise
        except Exception as error:
            unreadable, failure = errors.is_unreadable(error), errors.without_parameters(error)
            reason = errors.primary_message(error)
        if not unreadable:
            logger.error("the database has not decided about a request: %s", reason)
            raise failure
        if call.body in (None, calls.NOT_JSON):
            raise errors.Unreadable
        yield transaction.rollback()
        call = call._replace(body=calls.NOT_JSON)


def act_as(transaction: Transaction, tenant: str, member: str | None, keyspace: str) -> Steps[None]:
    try:
        yield transaction.row(calls.ACT_AS, (tenant, member, keyspace))
        return
    except Exception as error:
        refusal = errors.of(error)
        if refusal is None or refusal.status not in (401, 403, 404):
            raise
    logger.warning("act_as refused a person: %s", refusal.message)
    raise errors.Refused(403, "forbidden", "This person can't act for the tenant.")


def commit(transaction: Transaction) -> Steps[None]:
    """Ends a transaction whose answer is there. If that fails, the answer is not true."""
    try:
        yield transaction.commit()
        yield transaction.close()
        return
    except Exception as error:
        logger.error("the commit of an answer failed: %s", errors.primary_message(error))
    raise errors.Unavailable()


def finish(transaction: Transaction, caller: Caller, status: int, seconds: float, log: bool) -> Steps[calls.Answer | None]:
    """Ends the transaction before the answer is sent: an answer that reports an error has changed nothing. Returns
    the answer that must be sent in place of the application's, if what it says did not come about."""
    instead = None
    # A public request without a key leaves no record that could be completed.
    log, tags = log and caller.tenant is not None, caller.tags
    if status < 400 and transaction.active:
        try:
            yield transaction.flush()
            yield _logged(transaction, caller, status, seconds, tags) if log else transaction.row(calls.CHECK, ())
        except Exception as error:
            instead = failed(error, calls.FAILED)
        else:
            try:
                yield transaction.commit()
                yield transaction.close()
                return None
            except Exception as error:
                instead = failed(error, calls.UNAVAILABLE)
        status, tags = instead.status, {}
    try:
        yield transaction.rollback()
        if log:
            yield transaction.begin()
            yield _logged(transaction, caller, status, seconds, tags)
            yield transaction.commit()
    except Exception as error:
        logger.info("a request could not be logged: %s", errors.primary_message(error))
    yield transaction.close()
    return instead


def _logged(transaction: Transaction, caller: Caller, status: int, seconds: float, tags: Mapping[str, str]) -> Any:
    told = json.dumps(tags) if tags else None
    return transaction.row(calls.LOG_REQUEST, (status, seconds, told, caller._request_id))


def failed(error: Exception, otherwise: calls.Answer) -> calls.Answer:
    """The answer to a request whose end failed."""
    known = errors.of(error)
    if known is not None and known.status != 400:
        return of_error(known)
    logger.error("a request is rolled back, because its end failed: %s", errors.primary_message(error), exc_info=error)
    return calls.UNAVAILABLE if errors.is_passing(error) else otherwise


def of_error(error: errors.Error | errors.Refused) -> calls.Answer:
    headers = error.headers if isinstance(error, errors.Refused) else None
    return calls.problem(error.status, error.code, error.message, headers)


def settle(transaction: Transaction, inside: bool, request_id: str | None, spend: int | None,
           weights: Mapping[str, int] | None) -> Steps[bool]:
    """Settles in the request's transaction, or in one that is only for this."""
    parameters = (request_id, spend, calls.as_json(weights))
    if inside:
        return (yield transaction.row(calls.SETTLE, parameters))[0]  # type: ignore[no-any-return]
    yield transaction.begin()
    first = (yield transaction.row(calls.SETTLE, parameters))[0]
    yield transaction.commit()
    yield transaction.close()
    return first  # type: ignore[no-any-return]
