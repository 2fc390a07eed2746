import os
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from fastapi.testclient import TestClient
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import URL

HERE = Path(__file__).parent.parent


def url(dsn, role):
    settings = conninfo_to_dict(dsn, user=role)
    return URL.create("postgresql+psycopg", query=settings).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def keysmith_dsn(keysmith_dsn):
    """The database of keysmith's plugin, migrated as in production."""
    with psycopg.connect(keysmith_dsn) as superuser:
        for role in ("photos_owner", "photos_app"):
            if not superuser.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).rowcount:
                superuser.execute(f"CREATE ROLE {role} LOGIN")
        superuser.execute((HERE / "prepare.sql").read_text())
    os.environ["MIGRATIONS_URL"] = url(keysmith_dsn, "photos_owner")
    command.upgrade(Config(HERE / "alembic.ini"), "head")
    return keysmith_dsn


@pytest.fixture(scope="session")
def client(keysmith_dsn):
    os.environ["DATABASE_URL"] = url(keysmith_dsn, "photos_app")
    from app import app

    with TestClient(app) as client:
        yield client


@pytest.fixture
def send(client, keysmith_key):
    """Sends a request with the test's key, or with another one."""
    def send(method, path, body=None, key=keysmith_key):
        return client.request(method, path, json=body, headers={"Authorization": f"Bearer {key}"})

    return send
