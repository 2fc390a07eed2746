"""The Python package as an artefact: it installs into an empty environment, and its types hold."""

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import psycopg
import pytest

import python_site

PACKAGE = python_site.ROOT / "clients/python"
MODULES = ["asgi", "caller", "calls", "errors", "fastapi", "flow", "jobs", "pools", "sources", "sqlalchemy", "wsgi"]


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, PACKAGE)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def test_what_is_in_them(built):
    wheel, sdist = built
    names = zipfile.ZipFile(wheel).namelist()
    assert {"keysmith/py.typed", "keysmith/asgi.py"} <= set(names)
    assert all(name.startswith(("keysmith/", "keysmith-")) and "__pycache__" not in name for name in names)
    inside = [name.partition("/")[2] for name in tarfile.open(sdist).getnames()]
    assert {"README.md", "pyproject.toml", "src/keysmith/asgi.py"} <= set(inside)
    assert not [name for name in inside if "test" in name.lower() and name != "src/keysmith/pytest_plugin.py"
                and "django" not in name]


@pytest.mark.parametrize("which", [0, 1], ids=["wheel", "sdist"])
def test_they_install_into_an_empty_environment(built, tmp_path, which):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    site_packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # The driver, the frameworks and hatchling are those of the tests.
    (site_packages / "tests.pth").write_text(str(Path(psycopg.__file__).parents[1]))
    run(python, "-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation", built[which], cwd=tmp_path)
    imports = "; ".join(f"import keysmith.{name}" for name in MODULES if name not in ("fastapi", "sqlalchemy"))
    places = run(python, "-W", "error", "-c", f"{imports}; print(keysmith.__file__)", cwd=tmp_path)
    assert Path(places.strip()).is_relative_to(site_packages)
    assert (site_packages / "keysmith/py.typed").exists()
    points = run(python, "-c", "from importlib.metadata import distribution as d; print(d('keysmith').entry_points)", cwd=tmp_path)
    assert "keysmith.pytest_plugin" in points


def test_the_core_imports_no_driver():
    run(sys.executable, "-c", "import sys; import keysmith, keysmith.asgi, keysmith.wsgi, keysmith.errors; "
        "assert not {'psycopg', 'sqlalchemy', 'fastapi', 'django', 'asyncpg'} & set(sys.modules)",
        env={"PYTHONPATH": str(python_site.SOURCE)})


SAMPLE = '''
from typing import assert_type
from uuid import UUID

import keysmith
import keysmith.errors
import keysmith.sqlalchemy
from fastapi import FastAPI
from keysmith.asgi import KeysmithMiddleware
from keysmith.fastapi import Caller, Connection, Session, SyncCaller, SyncConnection, SyncSession, requires
from keysmith.wsgi import KeysmithMiddleware as Wsgi
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker

app = FastAPI()
sessions = sessionmaker(create_engine("postgresql+psycopg://"))
async_sessions = async_sessionmaker(create_async_engine("postgresql+psycopg://"))
app.add_middleware(KeysmithMiddleware, sessions=async_sessions, paths=("/v1",), spend=1)
KeysmithMiddleware(app, AsyncConnectionPool(open=False), person=lambda scope: ("acme", None))
KeysmithMiddleware(app, lambda: AsyncConnectionPool(open=False))
Wsgi(lambda environ, start: [b""], sessions=sessions, subject=lambda environ: environ["HTTP_X_USER"])


@app.get("/a", dependencies=[requires("a")])
async def a(db: Connection, session: Session, caller: Caller) -> int:
    await db.execute("SELECT 1")
    await session.execute(text("SELECT 1"))
    assert_type(caller.tenant, str | None)
    assert_type(caller.key_id, UUID | None)
    caller.tags["a"] = "b"
    assert_type(await caller.settle(spend=1), bool)
    return 1


@app.get("/b")
def b(db: SyncConnection, session: SyncSession, caller: SyncCaller) -> bool:
    db.execute("SELECT 1").fetchone()
    session.execute(text("SELECT 1"))
    assert_type(caller.settle(weights={"tokens": 3}), bool)
    return caller.has_scope("a")


async def jobs(pool: ConnectionPool, async_pool: AsyncConnectionPool) -> None:
    with keysmith.transaction(pool, headers={"a": ["b"]}, method="GET", path="/") as caller:
        assert_type(caller, keysmith.SyncCaller)
    async with keysmith.transaction(async_pool, person=("acme", None)) as other:
        assert_type(other, keysmith.AsyncCaller)
    with keysmith.sqlalchemy.transaction(sessions, person=("acme", "ann")) as caller:
        caller.session
    async with keysmith.sqlalchemy.transaction(async_sessions, person=("acme", "ann")) as other:
        await other.session.execute(text("SELECT 1"))
    error = keysmith.errors.of(ValueError())
    if error is not None:
        assert_type(error.status, int)
'''

WRONG = '''
import keysmith
from psycopg_pool import AsyncConnectionPool

with keysmith.transaction(AsyncConnectionPool(open=False), person=("acme", None)):
    pass
'''


def mypy(folder, source):
    pytest.importorskip("mypy")
    (folder / "sample.py").write_text(source)
    return subprocess.run([sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder / "cache"), "sample.py"],
                          cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env={"MYPYPATH": str(python_site.SOURCE), "PATH": str(Path(sys.executable).parent)})


def test_types(tmp_path):
    """The sample's, and so those of the modules that it imports."""
    for name in ("mypy", "fastapi", "sqlalchemy", "psycopg_pool"):
        pytest.importorskip(name)
    done = mypy(tmp_path, SAMPLE)
    assert done.returncode == 0, done.stdout
    wrong = mypy(tmp_path, WRONG)
    assert wrong.returncode == 1 and "__enter__" in wrong.stdout, wrong.stdout
