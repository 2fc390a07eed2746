"""Tells answers from faults among the errors. Every argument is a valid value of its type, so any
other error comes from within."""

import re

# Errors that PostgreSQL raises before a function runs, or about its transaction.
ORDINARY = {
    "42501": "permission denied", "25006": "a read-only transaction", "25P02": "the transaction has failed",
    "40001": "serialization failure", "40P01": "deadlock", "55P03": "a lock that is not to be had",
    "57014": "cancelled or timed out",
    "53100": "disk full", "53200": "out of memory", "54000": "a limit of PostgreSQL's", "54001": "stack depth",
    "54023": "too many arguments", "P0001": "raised by a trigger of the tables' own",
    "26000": "no such prepared statement", "34000": "no such cursor", "3B001": "no such savepoint", "25P01": "no transaction",
    "25001": "not within a transaction", "42P05": "a prepared statement of that name", "42P07": "a table of that name",
    "42P03": "a cursor of that name", "55000": "not in the right state", "2D000": "a commit within a procedure",
    "55006": "a table that the statement itself reads", "42710": "a trigger of that name", "0A000": "a feature that PostgreSQL lacks", "42809": "a wrong kind of object",
    "42P17": "a trigger that cannot be", "42601": "a cursor or view that cannot be so",
}
# SQLSTATE, function, message, and the reason why the error is correct. Each matches as a regular
# expression.
ALLOWED = [
    ("22021|22P05", ".*", "invalid byte sequence|untranslatable", "text that is no UTF-8, in a database that takes any bytes"),
]
PANIC = re.compile(r"panicked|unwrap\(\)|RefCell|already borrowed|index out of bounds|\.rs:\d+|overflow when|PoisonError")
OURS = re.compile(r"keysmith_private\.")


def judge(error, name, statement):
    """Why an error is a finding, or nothing."""
    state, diag = error.sqlstate or "", error.diag
    told = " | ".join(filter(None, (diag.message_primary, diag.message_detail, diag.message_hint)))
    if not name and state and not state.startswith("XX"):
        return None
    if PANIC.search(told):
        return "tells of our program's inside"
    if state == "KS500":
        return "an internal error of ours"
    if state.startswith("KS") or name == "keysmith.pre_request" and re.fullmatch("PT[45]..|PGRST", state):
        return None
    for states, names, message, _ in ALLOWED:
        if re.fullmatch(states, state) and re.fullmatch(names, name) and re.search(message, told):
            return None
    if state.startswith("XX"):
        return "an internal error"
    if state in ("42P01", "42703", "42883", "42704"):
        # An object that the statement names may be gone. One that keysmith looks up may not.
        missing = re.search(r'"(.*?)"|operator|function (\S+?)\(', diag.message_primary or "")
        named = missing and (missing[1] or missing[2])
        return None if named and named.split(".")[-1] in statement else "something was looked for by its name"
    if state not in ORDINARY:
        return "an error that a check of ours should have come before"
    if OURS.search(told) and state != "42501":
        return "names what only we know"
    return None


def told_key(error, keys):
    """Whether a message contains a key: the query that a client sent may."""
    diag = error.diag
    told = " ".join(filter(None, (diag.message_primary, diag.message_detail, diag.message_hint)))
    return any(key in told for key in keys)


BAD_LOG = re.compile(r"was terminated by signal|PANIC:|TRAP:|FATAL:  XX|panicked| XX00\d |leak: |still referenced|still pinned|"
                     r"server process .* exited with exit code (?!0|1\b)")


def bad_lines(log):
    return [line for line in log.splitlines() if BAD_LOG.search(line)]
