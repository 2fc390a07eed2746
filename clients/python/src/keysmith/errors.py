"""Errors of keysmith, as the database and its drivers raise them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


class Refused(Exception):
    """A request or a job that may not go on, with the answer that fits."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(f"{code}: {message}")
        self.status, self.code, self.message = status, code, message
        self.headers = dict(headers or {})


class Unavailable(Refused):
    """The database did not answer, or can't decide now."""

    def __init__(self) -> None:
        super().__init__(503, "unavailable", "The service is unavailable.")


class Unreadable(Refused):
    """Headers or a path that PostgreSQL can't read."""

    def __init__(self) -> None:
        super().__init__(400, "invalid_request", "The request can't be read.")


class DecisionFailed(Exception):
    """A statement of ours failed for a reason that is a fault of the installation, such as a role without the
    level `verifier`. It holds the driver's message alone: the driver's error could show the headers."""

    def __init__(self, sqlstate: str | None, message: str):
        super().__init__(f"{message} (SQLSTATE {sqlstate})" if sqlstate else message)
        self.sqlstate = sqlstate


class Error(Exception):
    """An error that keysmith raised in a statement of the application."""

    status = 500
    code = "internal_error"

    def __init__(self, sqlstate: str, message: str):
        super().__init__(message)
        self.sqlstate, self.message = sqlstate, message


class InvalidRequest(Error):
    status, code = 400, "invalid_request"


class KeyEnded(Error):
    """The transaction has no identity, or the key that it acted for has ended."""

    status, code = 401, "invalid_api_key"


class Forbidden(Error):
    status, code = 403, "forbidden"


class NotFound(Error):
    status, code = 404, "not_found"


class Conflict(Error):
    status, code = 409, "conflict"


class TryAgain(Error):
    status, code = 503, "unavailable"


_CLASSES: dict[str, type[Error]] = {
    "KS400": InvalidRequest, "KS401": KeyEnded, "KS403": Forbidden, "KS404": NotFound,
    "KS409": Conflict, "KS503": TryAgain, "KS504": TryAgain}
# Here the server's own sentence is about the session, not for a client.
_SENTENCES = {401: "The API key is not valid.", 503: "The service is unavailable."}


def of(exception: BaseException) -> Error | None:
    """The error of keysmith that an exception of a driver or an ORM stands for, or none."""
    code = sqlstate(exception)
    if code not in _CLASSES:
        return None
    kind = _CLASSES[code]
    return kind(code, _SENTENCES.get(kind.status) or primary_message(exception))


def sqlstate(exception: BaseException) -> str | None:
    """The SQLSTATE of an error, whatever wraps it."""
    for each in _chain(exception):
        code = getattr(each, "sqlstate", None) or getattr(each, "pgcode", None)
        if isinstance(code, str):
            return code
    return None


def primary_message(exception: BaseException) -> str:
    """The message of the server without detail and context, which can show parameters."""
    for each in _chain(exception):
        message = getattr(getattr(each, "diag", None), "message_primary", None) or getattr(each, "message", None)
        if isinstance(message, str) and message:
            return message
    # Others may show what the client sent.
    is_shown = _kinds(exception) & {"PoolTimeout", "OperationalError", "TimeoutError", "OSError", "RuntimeError"}
    return f"{type(exception).__name__}: {exception}" if is_shown else type(exception).__name__


def _kinds(exception: BaseException) -> set[str]:
    """The names of its classes, and of those that it wraps: no driver needs to be imported for them."""
    return {kind.__name__ for each in _chain(exception) for kind in type(each).__mro__}


# Connections, resources, locks, conflicts, and an administrator who ends sessions.
_PASSING = ("08", "40", "53", "55", "57")
_SILENT = {"OperationalError", "InterfaceError", "TimeoutError", "OSError", "PoolClosed"}


def is_passing(exception: BaseException) -> bool:
    """Whether the same statement may work later: the database is away, busy, or can't decide."""
    code = sqlstate(exception)
    if code is not None:
        return code[:2] in _PASSING or code in ("KS503", "KS504")
    return bool(_kinds(exception) & _SILENT) and not is_unreadable(exception)


def is_unreadable(exception: BaseException) -> bool:
    """Whether a value that the client sent can't be read by the server, or written for it."""
    code = sqlstate(exception)
    # 54: JSON that is nested too deeply for the server's stack.
    return code[:2] in ("22", "54") if code is not None else bool(_kinds(exception) & {"DataError", "UnicodeError"})


def without_parameters(exception: Exception) -> Exception:
    """What is raised in place of a driver's error about a statement of ours."""
    if is_passing(exception):
        return Unavailable()
    return DecisionFailed(sqlstate(exception), primary_message(exception))


def _chain(exception: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while exception is not None and id(exception) not in seen:
        seen.add(id(exception))
        yield exception
        grouped = getattr(exception, "exceptions", ())
        alone = grouped[0] if isinstance(grouped, (tuple, list)) and len(grouped) == 1 else None
        exception = getattr(exception, "orig", None) or exception.__cause__ or alone
