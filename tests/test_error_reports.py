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
