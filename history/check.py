"""Compares a history with what the documents promise. It needs no server."""

import audit
import decisions
import limits
import purses
import usage
from record import Problem

CHECKERS = [decisions.problems, limits.problems, purses.problems, usage.problems, audit.problems]
# Keys that have ended or were rotated, a server that is a standby now, conflicts, cancelled statements.
ERRORS = {"KS404", "KS409", "25006", "40001", "40P01", "55P03", "57014"}


def answers(ops, final):
    """Nothing fails in another way."""
    for op in ops:
        if op.outcome == "error" and op.error.get("sqlstate", "57014") not in ERRORS:
            yield Problem("errors", "this error has no cause here", [op])


def storage(ops, final):
    """Totals are those of the rows, indexes and tables are sound, and no server complained."""
    for what in ("totals", "storage", "log"):
        if final[what]:
            yield Problem(what, str(final[what][:3]), [])


def problems(ops, final):
    return [problem for checker in [*CHECKERS, answers, storage] for problem in checker(ops, final)]
