"""Parallel workers: they can't decide, and leave nothing behind. A function that is wrongly
marked PARALLEL SAFE and calls ours leads there."""

import psycopg
import pytest

from conftest import wait_until
from majors import FORCE_PARALLEL

IN_A_WORKER = {"parallel_setup_cost": 0, "parallel_tuple_cost": 0, "min_parallel_table_scan_size": 0}


@pytest.fixture
def parallel(connect, database):
    """A session whose queries run in a worker."""
    session = database(connect())
    for name, value in {FORCE_PARALLEL: "on", **IN_A_WORKER}.items():
        session.rows(f"SET {name} = {value}")
    session.rows("CREATE FUNCTION worker() RETURNS boolean LANGUAGE sql PARALLEL SAFE AS $$ "
                 "SELECT leader_pid IS NOT NULL FROM pg_stat_activity WHERE pid = pg_backend_pid() $$")
    assert session.value("SELECT worker()")
    return session


def declare(db, result, body):
    db.rows(f"CREATE OR REPLACE FUNCTION outer_call(key text) RETURNS {result} LANGUAGE plpgsql PARALLEL SAFE "
            f"AS $$ BEGIN RETURN ({body}); END $$")


DECISIONS = [
    "SELECT reason FROM keysmith.verify(key)",
    "SELECT reason FROM keysmith.verify(key, sign_in => true)",
    "SELECT reason FROM keysmith.verify_digest(sha256(key::bytea))",
    "SELECT reason FROM keysmith.verify_many(ARRAY[key])",
    "SELECT reason FROM keysmith.authenticate(jsonb_build_object('x-api-key', key), 'GET', '/')",
    "SELECT keysmith.verify_json(key) ->> 'reason'",
    "SELECT keysmith.authenticate_json(jsonb_build_object('x-api-key', key), 'GET', '/') ->> 'reason'",
    "SELECT status::text FROM keysmith.serve(jsonb_build_object('x-api-key', key), 'GET', '/')",
    "SELECT reason FROM keysmith.explain_verify(key) LIMIT 1",
    "SELECT keysmith.pre_request()::text",
]


@pytest.mark.parametrize("decision", DECISIONS)
def test_a_worker_decides_nothing(db, parallel, decision):
    db.tenant()
    key = db.mint()
    declare(db, "text", decision)
    with pytest.raises(psycopg.Error) as error:
        parallel.rows("SELECT outer_call(%s)", key.api_key)
    assert error.value.sqlstate == "KS409"
    assert "parallel worker" in error.value.diag.message_primary
    assert "PARALLEL" in error.value.diag.message_hint


def held(db):
    return db.one("usage_status").pending


def test_nothing_of_a_worker_stays_behind(db, parallel):
    db.tenant()
    key = db.mint()
    declare(db, "text", DECISIONS[0])
    for _ in range(3):
        with pytest.raises(psycopg.Error, match="parallel"):
            parallel.rows("SELECT outer_call(%s)", key.api_key)
    wait_until(lambda: held(db) == 0)


def test_a_worker_acts_for_nobody(db, parallel):
    db.tenant()
    key = db.mint()
    declare(db, "text", "coalesce(keysmith.current_tenant(), 'nobody') || keysmith.has_scope('a')::text || worker()")
    parallel.rows("BEGIN")
    assert parallel.verify(key.api_key, sign_in=True).ok
    assert parallel.value("SELECT outer_call('')") == "nobodyfalsetrue"
    assert parallel.value("SELECT keysmith.current_tenant()") == "acme", "the leader still does"
    parallel.rows("COMMIT")


def test_the_leader_of_a_parallel_query_decides(db, parallel):
    db.tenant()
    key = db.mint()
    db.rows("CREATE TABLE many AS SELECT n FROM generate_series(1, 5000) n; ANALYZE many")
    assert parallel.rows("SELECT (keysmith.verify(%s)).reason, in_workers "
                         "FROM (SELECT bool_or(worker()) AS in_workers FROM many OFFSET 0) AS m",
                         key.api_key) == [("ok", True)]


def test_a_query_that_serves_is_not_parallel(db, parallel):
    """Operations begin subtransactions, which PostgreSQL refuses in the leader of a parallel query, too."""
    db.tenant()
    db.call("define_endpoint", "default", "POST", "/keys", "mint")
    key = db.mint()
    db.rows("CREATE TABLE request AS SELECT n FROM generate_series(1, 3) n")
    served = """SELECT count(*) FROM request
        WHERE (keysmith.serve(jsonb_build_object('x-api-key', %s::text), 'POST', '/keys')).status = 201"""
    assert parallel.value(served, key.api_key) == 3


def test_log_request_in_a_worker(db, parallel):
    db.tenant()
    key = db.mint()
    verdict = db.verify(key.api_key)
    declare(db, "text", f"SELECT keysmith.log_request(201, request_id => '{verdict.request_id}')::text || worker()")
    assert parallel.value("SELECT outer_call('')") == "truetrue"
    wait_until(lambda: held(db) == 0)
    db.call("flush_usage")
    assert wait_until(lambda: db.rows("SELECT status FROM keysmith_private.usage_event WHERE request_id = %s",
                                      verdict.request_id)) == [(201,)]
