"""A cluster for all tests, and a database with the extension for each of them."""

import itertools
import json
import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import namedtuple_row

import cluster as clusters
import scratch
from majors import HAS_EVERY_MODULE

# Projects that tests run as their users would.
collect_ignore_glob = ["clients/trial_python/*"]

_numbers = itertools.count()

# Functions that only the owner can name.
PRIVATE = {"usage_prepare", "usage_fold"}


def pytest_report_header():
    return f"{clusters.pg_config('version')}, in {clusters.BIN}"


def pytest_configure(config):
    """Tests only the chosen server, and removes everything that a run makes."""
    # As on Ctrl-C, so that it removes everything then as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if scratch.make():
        config.add_cleanup(scratch.remove)
    version, wanted = clusters.pg_config("version"), os.environ.get("KEYSMITH_MAJOR")
    if wanted and not version.startswith(f"PostgreSQL {wanted}."):
        raise pytest.UsageError(f"these would be tests of {version}, not of PostgreSQL {wanted}")


def pytest_terminal_summary(terminalreporter):
    """Figures that tests report, and counts for the totals of `make test` and `make test-majors`."""
    for report in terminalreporter.stats.get("passed", ()):
        for name, value in report.user_properties:
            if name == "figure":
                terminalreporter.write_line(value)
    if path := os.environ.get("KEYSMITH_TEST_COUNT"):
        stats = terminalreporter.stats
        counts = (sum(len(stats.get(kind, ())) for kind in kinds)
                  for kinds in (["passed"], ["skipped"], ["xfailed"], ["failed", "error"]))
        Path(path).write_text(" ".join(map(str, counts)) + "\n")


@pytest.fixture(scope="session")
def cluster():
    running = clusters.Cluster()
    try:
        signing = running.write_secrets("signing", f"1:{'11' * 32}\n")
        running.init(keysmith__signing_key_file=signing).start()
        running.execute("CREATE DATABASE with_keysmith")
        running.execute("CREATE EXTENSION keysmith", dbname="with_keysmith")
        yield running
    finally:
        running.remove()


@pytest.fixture
def dbname(cluster):
    """A database with the extension, made for this test."""
    name = f"test{next(_numbers)}"
    cluster.execute(f"CREATE DATABASE {name} TEMPLATE with_keysmith")
    yield name
    cluster.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def connect(cluster, dbname):
    """Opens sessions to this test's database."""
    sessions = []

    def open_session(**options):
        opened = session(cluster, dbname, **options).session
        sessions.append(opened)
        return opened

    yield open_session
    for opened in sessions:
        opened.close()


@pytest.fixture
def hear(connect):
    """Listens on a channel; calling the result returns the events since the last call."""
    def on(channel):
        session = connect()
        session.execute(f"LISTEN {channel}")

        def came():
            # Events that were committed before the mark arrive before it.
            mark = f"mark {next(_numbers)}"
            session.execute("SELECT pg_notify(%s, %s)", (channel, mark))
            events = []
            for notice in session.notifies(timeout=60):
                if notice.payload == mark:
                    return events
                events.append(json.loads(notice.payload))
            raise AssertionError("nothing is delivered")

        return came

    return on


@pytest.fixture
def db(connect):
    return Database(connect())


class Database:
    """A session, with shorthands for the needs of most tests."""

    def __init__(self, session):
        self.session = session

    def rows(self, statement, *parameters):
        return clusters.fetched(self.session.execute(statement, parameters or None))

    def row(self, statement, *parameters):
        (row,) = self.rows(statement, *parameters)
        return row

    def value(self, statement, *parameters):
        (value,) = self.row(statement, *parameters)
        return value

    def call(self, function, *positional, **named):
        """Calls one of our functions by named arguments and returns its rows."""
        arguments = ["%s"] * len(positional) + [f"{name} => %s" for name in named]
        schema = "keysmith_private" if function in PRIVATE else "keysmith"
        return self.rows(f"SELECT * FROM {schema}.{function}({', '.join(arguments)})",
                         *positional, *named.values())

    def one(self, function, *positional, **named):
        (row,) = self.call(function, *positional, **named)
        return row

    def findings(self):
        """The problems that doctor() finds. Each finding is on one line."""
        return [row._replace(finding=" ".join(row.finding.split()))
                for row in self.call("doctor") if row.level != "ok"]

    def tenant(self, name="acme", **options):
        return self.one("create_tenant", name, **options)[0]

    def mint(self, tenant="acme", **options):
        return self.one("mint", tenant, **options)

    def verify(self, api_key, **options):
        return self.one("verify", api_key, **options)

    def reason(self, api_key, **options):
        return self.verify(api_key, **options).reason

    def status_of(self, key_id):
        return self.value("SELECT status FROM keysmith.keys WHERE key_id = %s", key_id)

    def refused(self, sqlstate, function, *positional, **named):
        """Checks that a call fails with an SQLSTATE, and returns the message."""
        with pytest.raises(psycopg.Error) as error:
            self.call(function, *positional, **named)
        assert error.value.sqlstate == sqlstate, error.value
        return error.value.diag.message_primary


def needs(module):
    """Skips a test on a server without that module of PostgreSQL."""
    return pytest.mark.skipif(not HAS_EVERY_MODULE and not clusters.has_module(module),
                              reason=f"this server comes without {module}")


def session(cluster, dbname="postgres", user="postgres", **options):
    connection = cluster.connect(dbname, user, **options)
    connection.row_factory = namedtuple_row
    connection.prepare_threshold = None
    return Database(connection)


def wait_until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.02)
    return result


@pytest.fixture
def sees_only(cluster, dbname, db):
    """Makes the test's session, for a while, a role that issues the keys of one tenant."""
    role = "sees_one_tenant"
    cluster.execute(f"CREATE ROLE {role}")

    @contextmanager
    def as_issuer_of(tenant):
        db.call("grant_access", role, "issuer", tenant=tenant)
        db.rows(f"SET ROLE {role}")
        yield
        db.rows("RESET ROLE")
        db.call("revoke_access", role)

    yield as_issuer_of
    cluster.execute(f"DROP OWNED BY {role}", dbname)
    cluster.execute(f"DROP ROLE {role}")


@pytest.fixture
def database():
    """For tests that open their own sessions."""
    return Database
