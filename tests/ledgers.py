"""Shared by the tests of row ledgers: what a check finds, heads, and what is stored."""

from contextlib import contextmanager

import pytest
from psycopg.types.json import Jsonb

import ledger_model
from cluster import Cluster
from rows import PEPPERS
from test_row_seals import behind_its_back
from threats import BLOCK, CHANGED, DIFFERENCE, RANGE, STORED, fewer, more  # noqa: F401

# The worker would close blocks at any time.
QUIET = {"max_worker_processes": 0}

SEAL_WRONG = "was altered, or is not where it was sealed"


@contextmanager
def quiet_cluster(pepper=True, prepare="", **settings):
    """A cluster without a worker, in which only tests close blocks."""
    running = Cluster("ledgers")
    try:
        if pepper:
            settings["keysmith__pepper_file"] = running.write_secrets("peppers", f"1:{PEPPERS[1]}\n")
        running.init(**QUIET, **settings).start()
        if prepare:
            running.execute(prepare)
        running.execute("CREATE DATABASE with_keysmith")
        running.execute("CREATE EXTENSION keysmith", dbname="with_keysmith")
        yield running
    finally:
        running.remove()


@pytest.fixture(scope="module")
def cluster():
    """For the tests of a file. It has a pepper."""
    with quiet_cluster() as running:
        yield running


def problems(db, table="t", heads=None):
    """The texts of the problems that a check finds."""
    given = [] if heads is None else [Jsonb(heads)]
    return [row.problem for row in db.call("verify_ledger", table, *given)]


def kept_head(db, table="t"):
    """A head in the form in which users keep it."""
    return db.value("SELECT to_jsonb(h) FROM keysmith.ledger_head(%s) h", table)


def count(db, table):
    return db.value(f"SELECT count(*) FROM {table}")


def assert_right(db, *tables):
    """There is no problem before and after a block is closed, and the block has all rows."""
    for table in tables or ["t"]:
        assert problems(db, table) == [], table
        assert db.one("ledger_head", table).rows == count(db, table), table
        assert problems(db, table) == [], table


def assert_deletions_are_noticed(db, *tables):
    """The control: a check finds something."""
    for table in tables or ["t"]:
        if rows := count(db, table):
            with db.session.transaction(force_rollback=True):
                behind_its_back(db, f"DELETE FROM {table}")
                found = problems(db, table)
                counts = [int(text.split()[3]) for text in found]
                assert counts and found == [fewer(missing) for missing in counts]
                assert sum(counts) == rows


def incarnation(db):
    """The number of the database, by which its differences are told from those of copies."""
    return ledger_model.incarnation(*db.row(
        "SELECT s.system_identifier & 9223372036854775807, d.oid::bigint "
        "FROM pg_control_system() s, pg_database d WHERE datname = current_database()"))
