"""The README of the Python package: its SQL, its applications, its requests."""

import asyncio
import re
import subprocess
import sys
import threading
import types
from contextlib import contextmanager

import pytest

import cluster as clusters
import python_site
import test_docs
from python_server import over_http
from test_python_wsgi import over_http as over_wsgi

for name in ("fastapi", "flask", "sqlalchemy", "psycopg_pool", "uvicorn"):
    pytest.importorskip(name)

README = (python_site.ROOT / "clients/python/README.md").read_text()
SECTIONS = dict(zip(*[iter(re.split(r"(?m)^## (.*)\n", README)[1:])] * 2))


def blocks(heading, language):
    return [block.text for block in test_docs.fences(SECTIONS[heading]) if block.info == language]


@pytest.fixture
def ready(cluster, dbname, db, monkeypatch):
    """The README's database, without the extension's creation, and a key."""
    (sql,) = blocks("The database", "sql")
    cluster.execute("DROP ROLE IF EXISTS app")
    cluster.psql(sql.replace("CREATE EXTENSION keysmith;", ""), dbname)
    db.tenant()
    for name, value in {"PGHOST": cluster.dir, "PGPORT": cluster.port, "PGUSER": "app", "PGDATABASE": dbname}.items():
        monkeypatch.setenv(name, str(value))
    yield db.mint(scopes=["photos:write"]).api_key
    cluster.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
    cluster.execute("DROP OWNED BY app", dbname)
    cluster.execute("DROP ROLE app")


def module(heading, monkeypatch):
    (source,) = blocks(heading, "python")
    made = types.ModuleType("readme_" + heading.split()[0].lower())
    monkeypatch.setitem(sys.modules, made.__name__, made)
    exec(compile(source, f"README.md: {heading}", "exec"), made.__dict__)
    return made


def requests(heading, port, key):
    """Sends the section's requests as they are written, and checks the status that each names."""
    (lines,) = blocks(heading, "sh")
    for line in lines.strip().splitlines():
        command, status = re.fullmatch(r"curl (.*?) +# (\d+)", line).groups()
        answered = subprocess.run(
            ["bash", "-ec", f"curl -s -o /dev/null -w '%{{http_code}}' {command}".replace(":8000", f":{port}").replace("localhost", "127.0.0.1")],
            env=clusters.environment() | {"KEY": key}, text=True, capture_output=True, check=True).stdout
        assert answered == status, line


@pytest.mark.parametrize("heading", ["FastAPI", "SQLAlchemy"])
def test_fastapi(ready, db, monkeypatch, heading):
    made = module(heading, monkeypatch)
    with over_http(made.app) as send:
        requests(heading, send.port, ready)
    if heading == "SQLAlchemy":
        asyncio.run(made.engine.dispose())
    assert db.rows("SELECT name FROM photo") == [("sunset" if heading == "FastAPI" else "dawn",)]


def test_asyncpg(ready, db, monkeypatch):
    """The same with the other driver. It knows none of libpq's variables but PGHOST and its like."""
    pytest.importorskip("asyncpg")
    heading = "SQLAlchemy"
    source = blocks(heading, "python")[0].replace("postgresql+psycopg://", "postgresql+asyncpg://")
    monkeypatch.setattr(sys.modules[__name__], "blocks", lambda name, language, real=blocks: [source] if language == "python" else real(name, language))
    made = module(heading, monkeypatch)
    with over_http(made.app) as send:
        requests(heading, send.port, ready)
    asyncio.run(made.engine.dispose())
    assert db.rows("SELECT name FROM photo") == [("dawn",)]


def test_flask(ready, db, monkeypatch):
    made = module("Flask and other WSGI", monkeypatch)
    with over_wsgi(made.app) as send:
        requests("Flask and other WSGI", send.port, ready)
    made.pool.close()
    assert db.rows("SELECT name FROM photo") == [("noon",)]


def test_jobs(ready, db, monkeypatch):
    made = module("Jobs and scripts", monkeypatch)
    db.rows("INSERT INTO photo (tenant_id, name) SELECT tenant_id, 'dusk' FROM keysmith.tenants")
    assert made.names(ready) == ["dusk"]
    assert made.names("ks_live_nothing") == (401, "invalid_api_key")


def test_links():
    for target in re.findall(r"\]\(([^)#]+)", README):
        assert (python_site.ROOT / "clients/python" / target).exists(), target
