"""Altered tables and types: nothing reads a row of an unknown form."""

import psycopg
import pytest

from cluster import running
from conftest import session

ALTERED = {
    "a column of policies": "ALTER TABLE keysmith_private.plan_feature ALTER plans TYPE integer USING 5",
    "another of policies": "ALTER TABLE keysmith_private.answer DROP CONSTRAINT answer_message_check,"
                           " ALTER message TYPE integer USING 5",
    "a column that is gone": "ALTER TABLE keysmith_private.key DROP COLUMN regenerated CASCADE",
    "a column more": "ALTER TABLE keysmith_private.key ADD COLUMN mine text",
    "a verdict's column more": "ALTER TYPE keysmith_private.verdict ADD ATTRIBUTE mine text",
    "another type in a verdict": "ALTER TYPE keysmith_private.verdict ALTER ATTRIBUTE status TYPE text",
}


@pytest.fixture(scope="module")
def sacrificed():
    """A private cluster: a failure here ends a server."""
    with running("altered") as cluster:
        yield cluster


@pytest.fixture
def db(sacrificed):
    sacrificed.execute("CREATE DATABASE altered")
    db = session(sacrificed, "altered")
    db.rows("CREATE EXTENSION keysmith")
    db.tenant()
    yield db
    db.session.close()
    sacrificed.execute("DROP DATABASE altered WITH (FORCE)")


def refused(db, statement, *parameters, sqlstate="KS500"):
    with pytest.raises(psycopg.Error) as error:
        db.rows(statement, *parameters)
    assert error.value.sqlstate == sqlstate, error.value
    assert "fit" in error.value.diag.message_primary


@pytest.mark.parametrize("what", ALTERED)
def test_nothing_is_decided(sacrificed, db, what):
    db.call("define_role", "default", "r", ["a"])
    key = db.mint(role="r")
    other = session(sacrificed, "altered")
    assert other.verify(key.api_key, scopes=["a"]).ok
    db.rows(ALTERED[what])
    for session_ in (db, other):
        refused(session_, "SELECT (keysmith.verify(%s)).ok", key.api_key)
    other.session.close()


@pytest.mark.parametrize("what", ALTERED)
def test_nor_within_the_statement_that_alters(db, what):
    db.call("define_role", "default", "r", ["a"])
    key = db.mint(role="r")
    db.rows(f"CREATE FUNCTION alters() RETURNS integer LANGUAGE plpgsql AS $$ BEGIN {ALTERED[what]}; RETURN 1; END $$")
    with pytest.raises(psycopg.Error) as error:
        db.rows("SELECT keysmith.verify(key), alters(), keysmith.verify(key) FROM (VALUES (%s)) AS v (key)", key.api_key)
    # PostgreSQL itself may refuse to alter a table that the statement uses.
    assert error.value.sqlstate in ("KS500", "55006"), error.value
    assert db.verify(key.api_key).ok


def test_an_explanation_with_more_columns(db):
    db.rows("ALTER TYPE keysmith_private.explanation ADD ATTRIBUTE mine text")
    refused(db, "SELECT count(*) FROM keysmith.explain_verify('x')", sqlstate="XX000")
