"""Fixtures for pytest: a database with the extension, and tenants and keys in it."""

import os
import re
import secrets

import pytest

MISSING = ("keysmith is not installed on the server at {host}: see "
           "'Installing' in keysmith's documents, and name another server by libpq's variables, "
           "such as PGHOST, or by the ini option keysmith_dsn")

_seen = []


class Key(str):
    """An api_key. It is a plain text for drivers and HTTP clients; its repr, which pytest prints for
    arguments and local variables, shows only where it begins."""

    __slots__ = ()

    def __repr__(self):
        return f"<Key {_beginning(self)}...>"


def pytest_addoption(parser):
    parser.addini("keysmith_dsn", default="", help="libpq's connection string of the server on which keysmith's "
                  "fixtures make databases, as a superuser. By default libpq's variables say it.")


def pytest_configure(config):
    config.addinivalue_line("markers", "keysmith(**arguments): arguments of keysmith.mint for the fixture keysmith_key")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport():
    """Takes keys out of what pytest prints of a test: of statements, of captured output and of logs."""
    report = (yield).get_result()
    if _seen:
        # A skipped test has a tuple with its reason.
        if report.longrepr and not isinstance(report.longrepr, tuple) and _hidden(text := str(report.longrepr)) != text:
            report.longrepr = _hidden(text)
        report.sections = [(name, _hidden(content)) for name, content in report.sections]


@pytest.fixture(scope="session")
def keysmith_dsn(pytestconfig):
    """The connection string of a new database with the extension. It is dropped at the end."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    server = pytestconfig.getini("keysmith_dsn")
    if not (conninfo_to_dict(server).get("dbname") or os.environ.get("PGDATABASE")):
        server = make_conninfo(server, dbname="postgres")
    name = f"keysmith_test_{secrets.token_hex(6)}"
    with psycopg.connect(server, autocommit=True) as session:
        if not session.execute("SELECT FROM pg_available_extensions WHERE name = 'keysmith'").rowcount:
            pytest.fail(MISSING.format(host=session.info.host or "its default address"), pytrace=False)
        session.execute(f"CREATE DATABASE {name}")
        try:
            dsn = make_conninfo(server, dbname=name)
            with psycopg.connect(dsn) as made:
                made.execute("CREATE EXTENSION IF NOT EXISTS keysmith")
            yield dsn
        finally:
            session.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def keysmith_connection(keysmith_dsn):
    """A connection of the database's owner. Its transaction, and with it the identity that a test has
    signed in, ends with the test and is rolled back."""
    import psycopg

    with psycopg.connect(keysmith_dsn) as connection, connection.transaction(force_rollback=True):
        yield connection


@pytest.fixture
def keysmith_mint(keysmith_dsn):
    """Makes keys: `keysmith_mint(scopes=["photos:read"])` takes the arguments of keysmith.mint. Without a
    `tenant` the key is a new tenant's. Tenants and keys are committed, so that an application with
    connections of its own can use them."""
    import psycopg
    from psycopg.types.json import Jsonb

    with psycopg.connect(keysmith_dsn, autocommit=True) as connection:

        def mint(tenant=None, **arguments):
            if tenant is None:
                tenant = _new_tenant(connection, arguments.get("keyspace", "default"))
            names = "".join(f", {name} => %s" for name in arguments)
            values = [Jsonb(value) if name in {"limits", "metadata", "refill"} else value
                      for name, value in arguments.items()]
            (api_key,) = connection.execute(
                f"SELECT api_key FROM keysmith.mint(%s{names})", [tenant, *values]).fetchone()
            _seen.append(api_key)
            return Key(api_key)

        yield mint


@pytest.fixture
def keysmith_tenant(keysmith_dsn, request):
    """The name of a new tenant, in the keyspace that the marker `keysmith` names."""
    import psycopg

    with psycopg.connect(keysmith_dsn, autocommit=True) as connection:
        return _new_tenant(connection, _marked(request).get("keyspace", "default"))


@pytest.fixture
def keysmith_key(keysmith_mint, keysmith_tenant, request):
    """A key of `keysmith_tenant`. `@pytest.mark.keysmith(scopes=["photos:read"])` says what it may do."""
    return keysmith_mint(**{"tenant": keysmith_tenant} | _marked(request))


def _marked(request):
    marks = reversed(list(request.node.iter_markers("keysmith")))
    return {name: value for mark in marks for name, value in mark.kwargs.items()}


def _new_tenant(connection, keyspace):
    name = f"tenant-{secrets.token_hex(6)}"
    connection.execute("SELECT keysmith.create_tenant(%s, keyspace => %s)", [name, keyspace])
    return name


def _beginning(api_key):
    """What tells keys apart, and gives nothing away: the prefix, and five of 49 characters."""
    return api_key[:-44]


def _hidden(text):
    """The text without keys, and without the halves that pytest leaves of a long value."""
    for api_key in _seen:
        if api_key[-8:] in text or api_key[:-36] in text:
            text = re.sub(rf"{re.escape(_beginning(api_key))}\w+|\w*{api_key[-8:]}", repr(Key(api_key)), text)
    return text
