"""The information in an error that reaches a client."""

import psycopg
import pytest

import cluster as clusters
from conftest import session


@pytest.mark.parametrize("preload", [True, False])
def test_no_trace_of_the_program_is_in_an_error(monkeypatch, preload):
    """For every environment of the server: Rust would add the place in the program."""
    usual = clusters.environment()
    monkeypatch.setattr(clusters, "environment", lambda: usual | {
        "RUST_BACKTRACE": "1", "RUST_LIB_BACKTRACE": "full"})
    with clusters.running("traces", preload=preload) as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        db.rows("SET default_transaction_read_only = on")
        with pytest.raises(psycopg.Error) as error:
            db.mint()
        assert error.value.sqlstate == "25006"
        assert (error.value.diag.message_detail, error.value.diag.message_hint) == (None, None)
        # Restores the environment for other tests.
        db.rows("RESET default_transaction_read_only")
        db.rows("CREATE TEMPORARY TABLE told (value text)")
        db.rows("COPY told FROM PROGRAM 'printenv RUST_LIB_BACKTRACE'")
        assert db.rows("SELECT * FROM told") == [("full",)]


def test_an_error_of_a_tables_owner_keeps_its_code(db):
    """Also when it crosses our code, and even if the code is not one of PostgreSQL's."""
    db.rows("CREATE TABLE customers (id int PRIMARY KEY, email text); INSERT INTO customers VALUES (1, 'ann@example.com')")
    db.rows("CREATE FUNCTION picky() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
            " RAISE EXCEPTION 'not today' USING ERRCODE = 'ZZ123', DETAIL = 'a detail', HINT = 'a hint'; END$$")
    db.rows("CREATE TRIGGER picky BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION picky()")
    db.call("protect", "customers", "email")
    with pytest.raises(psycopg.Error) as error:
        db.rows("CALL keysmith.protect_existing('customers')")
    found = error.value.diag
    assert (found.sqlstate, found.message_primary, found.message_detail, found.message_hint) \
        == ("ZZ123", "not today", "a detail", "a hint")
    # The next error has its own code.
    with pytest.raises(psycopg.errors.DivisionByZero):
        db.rows("SELECT 1 / 0")
    assert db.refused("KS404", "mint", "nobody")
