"""The recipe for PostgREST, executed: its setup, and the transactions that PostgREST's documentation
describes. PostgREST itself is not run."""

import json
from pathlib import Path

import psycopg
import pytest

EXAMPLE = Path(__file__).resolve().parent.parent / "examples/postgrest"
ROLES = ["authenticator", "web_anon", "key_service"]

# What PostgREST reads at its start: the settings of the role that it logs in as.
CONFIGURATION = """
    SELECT split_part(s.setting, '=', 1) AS name, split_part(s.setting, '=', 2) AS value
    FROM pg_db_role_setting, unnest(setconfig) AS s (setting)
    WHERE setrole = current_user::regrole AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_catalog))
      AND s.setting LIKE 'pgrst.%'"""


@pytest.fixture
def postgrest(cluster, dbname, db):
    done = cluster.program("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(EXAMPLE / "setup.sql"), dbname=dbname)
    assert not done.stderr
    db.rows("""
        CREATE TABLE api.photo (tenant_id uuid DEFAULT keysmith.current_tenant_id(), name text);
        GRANT SELECT, INSERT ON api.photo TO web_anon""")
    db.call("isolate", "api.photo", "tenant_id")
    db.tenant("acme")
    session = cluster.connect(dbname, user="authenticator")
    yield PostgREST(session)
    session.close()
    for role in ROLES:
        cluster.execute(f"DROP OWNED BY {role} CASCADE", dbname)
        cluster.execute(f"DROP ROLE {role}")


class PostgREST:
    def __init__(self, session):
        self.session = session
        rows = session.execute(CONFIGURATION).fetchall()
        self.configuration = {name.removeprefix("pgrst."): value for name, value in rows}
        session.rollback()

    def request(self, method, path, key, query, *parameters):
        """A response: status, headers and body."""
        headers = {"content-type": "application/json"} | ({"x-api-key": key} if key else {})
        session, configuration = self.session, self.configuration
        access = "READ ONLY" if method == "GET" else "READ WRITE"
        session.execute(f"BEGIN ISOLATION LEVEL READ COMMITTED {access}")
        try:
            session.execute("""
                SELECT set_config('search_path', %s, true), set_config('role', %s, true),
                       set_config('request.method', %s, true), set_config('request.path', %s, true),
                       set_config('request.headers', %s, true), set_config('response.headers', '', true),
                       set_config('response.status', '', true)""",
                [configuration["db_schemas"], configuration["db_anon_role"], method, path, json.dumps(headers)])
            session.execute(f"SELECT {configuration['db_pre_request']}()")
            rows = session.execute(query, parameters or None).fetchall()
            status, headers = session.execute(
                "SELECT current_setting('response.status', true), current_setting('response.headers', true)").fetchone()
        except psycopg.Error as error:
            session.execute("ROLLBACK")
            if error.sqlstate != "PGRST":
                raise
            raised = json.loads(error.diag.message_detail)
            return raised["status"], raised["headers"], json.loads(error.diag.message_primary)
        session.execute("COMMIT")
        told = json.loads(headers or "[]")
        assert all(len(header) == 1 for header in told)
        return int(status or 200), {name: value for header in told for name, value in header.items()}, rows

    def mint(self, key, **arguments):
        status, headers, rows = self.request(
            "POST", "/rpc/mint_key", key, "SELECT api.mint_key(%s::jsonb)", json.dumps(arguments))
        return status, headers, rows[0][0]

    def revoke(self, key, key_id):
        return self.request("POST", "/rpc/revoke_key", key, "SELECT api.revoke_key(%s::uuid)", key_id)

    def labels(self, key):
        status, headers, rows = self.request("GET", "/rpc/list_keys", key, "SELECT api.list_keys()")
        return status, rows[0][0]


def test_the_configuration_is_in_the_database(postgrest):
    assert postgrest.configuration == {
        "db_schemas": "api", "db_anon_role": "web_anon", "db_pre_request": "app.before_request"}


def test_tables_need_a_key(db, postgrest):
    photos = "SELECT name FROM photo"
    key = db.mint().api_key
    assert postgrest.request("GET", "/photo", key, photos) == (200, {}, [])
    status, headers, body = postgrest.request("GET", "/photo", None, photos)
    assert (status, body["code"]) == (401, "missing_authorization")
    assert headers["WWW-Authenticate"] == 'Bearer realm="api", Key realm="api"'


def test_keys_manage_keys(db, postgrest):
    key = db.mint(label="first").api_key
    status, headers, made = postgrest.mint(key, label="second")
    assert status == 201 and headers["Cache-Control"] == "no-store"
    assert made["label"] == "second"
    # The new key is committed, and reads the tables.
    assert postgrest.request("GET", "/photo", made["api_key"], "SELECT name FROM photo")[0] == 200
    status, listed = postgrest.labels(key)
    assert status == 200
    assert json.dumps(listed).count('"first"') == json.dumps(listed).count('"second"') == 1
    assert postgrest.revoke(key, made["key_id"])[0] in (200, 204)
    assert postgrest.request("GET", "/photo", made["api_key"], "SELECT name FROM photo")[0] == 401


def test_refusals_and_errors_have_their_form(db, postgrest):
    db.call("alter_keyspace", "default", '{"error_body": "problem"}')
    for key in (None, "ks_live_nonsense"):
        status, headers, problem = postgrest.mint(key, label="x")
        assert (status, problem["status"], problem["title"]) == (401, 401, "Unauthorized")
        assert headers["Content-Type"] == "application/problem+json"
        assert headers["WWW-Authenticate"].startswith("Bearer ")
    key = db.mint().api_key
    status, _, problem = postgrest.mint(key, label="x" * 1000)
    assert (status, problem["code"]) == (400, "invalid_request") and "label" in problem["detail"]
    db.tenant("globex")
    status, _, rows = postgrest.revoke(key, db.mint("globex").key_id)
    assert (status, rows[0][0]["code"]) == (404, "not_found")


def test_a_request_counts_once(db, postgrest):
    key = db.mint(limits='[{"name": "l", "limit": 2, "window": "1 hour"}]').api_key
    for _ in range(2):
        assert postgrest.labels(key)[0] == 200
    assert postgrest.labels(key)[0] == 429


def test_clients_can_call_nothing_else(db, postgrest):
    """The role of clients has no level: neither serve nor mint."""
    assert db.value("""SELECT bool_or(has_function_privilege('web_anon', p.oid, 'EXECUTE'))
                       FROM pg_proc p WHERE pronamespace = 'keysmith'::regnamespace
                         AND proname IN ('serve', 'mint', 'verify', 'authenticate')""") is False
    key = db.mint().api_key
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        postgrest.request("POST", "/rpc/mint_key", key, "SELECT * FROM keysmith.mint('acme')")
