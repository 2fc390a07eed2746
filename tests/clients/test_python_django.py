"""Django's middleware: a real project, by real HTTP, under WSGI and under ASGI."""

import http.client
import json
import re
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

import examples
import project
from conftest import session, wait_until
from serving import ENDPOINTS

pytest.importorskip("django")

PROJECT = Path(__file__).parent / "django_project"
SERVERS = {"wsgi": "exec python -m django runserver --noreload {port}",
           "asgi": "exec python -m uvicorn asgi:application --port {port} --log-level debug"}
LATE = """
    CREATE TABLE late (n int);
    GRANT ALL ON late TO app;
    CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'too late'; END $$;
    CREATE CONSTRAINT TRIGGER late AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late()"""


@contextmanager
def serving(kind, cluster, dbname, log, **settings):
    port = examples.free_port()
    environment = project.environment(cluster, "app", PGDATABASE=dbname, DJANGO_SETTINGS_MODULE="settings", **settings)
    with open(log, "w") as output:
        process = subprocess.Popen(["bash", "-ec", SERVERS[kind].format(port=port)], cwd=PROJECT, env=environment,
                                   stdout=output, stderr=output)
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield Client(port, log)
    finally:
        process.terminate()
        process.wait(30)


class Client(examples.Rest):
    def __init__(self, port, log):
        super().__init__(port)
        self.log = log

    def get(self, path, key=None, **headers):
        return self.send("GET", path, key, **headers)

    def client(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def raw(self, method, path, key=None, content=None, headers=(), chunked=False):
        """A request with any headers and any bytes. Returns the status, the headers and the body."""
        connection = self.client()
        connection.putrequest(method, path)
        if key:
            connection.putheader("Authorization", f"Bearer {key}")
        for name, value in headers:
            connection.putheader(name, value)
        if content is not None and chunked:
            connection.putheader("Transfer-Encoding", "chunked")
        elif content is not None and "Content-Length" not in dict(headers):
            connection.putheader("Content-Length", str(len(content)))
        connection.endheaders(content, encode_chunked=chunked)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response.status, response.headers, body


@pytest.fixture(scope="module")
def prepared(cluster):
    """A database that a role without privileges has migrated."""
    cluster.execute("CREATE DATABASE with_django")
    try:
        cluster.psql("""
            CREATE EXTENSION keysmith;
            CREATE ROLE app LOGIN;
            GRANT CREATE ON SCHEMA public TO app;
            SELECT keysmith.grant_access('app', level) FROM unnest('{verifier,issuer,host}'::text[]) level;
            SELECT keysmith.create_tenant('acme'), keysmith.create_tenant('globex');
            SELECT keysmith.define_role('default', 'reader', '{photos:read}');
            SELECT keysmith.set_member('acme', 'ann', 'reader');
            SELECT keysmith.define_route('default', 'GET', '/photos', 'photos:read');
            SELECT keysmith.define_route('default', 'POST', '/photos', 'photos:write');
            SELECT keysmith.define_route('default', 'GET', '/v1/public', '{}'::text[], public => true)""", "with_django")
        project.run("python -m django migrate", PROJECT, cluster, user="app", PGDATABASE="with_django",
                    DJANGO_SETTINGS_MODULE="settings")
        cluster.psql(LATE, "with_django")
        for method, pattern, operation in ENDPOINTS:
            cluster.execute(f"SELECT keysmith.define_endpoint('default', '{method}', '{pattern}', '{operation}')", "with_django")
        yield "with_django"
    finally:
        cluster.execute("DROP DATABASE with_django WITH (FORCE)")
        cluster.execute("DROP ROLE IF EXISTS app")


@pytest.fixture(scope="module", params=["wsgi", "asgi"])
def server(request, cluster, prepared, tmp_path_factory):
    settings = {"wsgi": {"DEBUG": "1"}, "asgi": {}}[request.param]
    with serving(request.param, cluster, prepared, tmp_path_factory.mktemp(request.param) / "log", **settings) as client:
        client.kind = request.param
        yield client


@pytest.fixture
def site(server, cluster, prepared):
    """The client, and an administrator's session. No photos."""
    db = session(cluster, prepared)
    db.rows("TRUNCATE photos_photo")
    yield server, db
    db.session.close()


def stored(db):
    return [name for name, in db.rows("SELECT name FROM photos_photo ORDER BY name")]


def logged(db, key):
    db.call("flush_usage")
    return db.rows("SELECT method, endpoint, status AS status_code, latency IS NOT NULL AS has_latency, tags, subject "
                   "FROM keysmith.usage WHERE key_id = %s ORDER BY at", key.key_id)


def test_each_tenant_sees_and_writes_its_own(site):
    http, db = site
    keys = {tenant: db.mint(tenant, scopes=["photos:*"]).api_key for tenant in ("acme", "globex")}
    for tenant, key in keys.items():
        assert http.names(key) == []
        assert http.added(key, f"of {tenant}")
    for tenant, key in [*keys.items()] * 3:
        assert http.names(key) == [f"of {tenant}"]
    assert stored(db) == ["of acme", "of globex"]


def test_what_the_database_answers(site):
    http, db = site
    key = db.mint(scopes=["photos:read"], limits='[{"name": "hourly", "limit": 3, "window": "1 hour"}]')
    assert http.get("/photos").status == 401
    assert http.get("/photos").headers["WWW-Authenticate"].startswith("Bearer")
    response = http.add(key.api_key, "x")
    assert (response.status, response.code) == (403, "insufficient_scope")
    response = http.get("/v1/me", key.api_key)
    assert (response.status, response.body["tenant"]) == (200, "acme")
    assert http.get("/photos", key.api_key).headers["RateLimit"]
    response = [http.get("/photos", key.api_key) for _ in range(3)][-1]
    assert (response.status, response.code) == (429, "rate_limited") and int(response.headers["Retry-After"]) > 0
    status, headers, body = http.raw("OPTIONS", "/v1/keys")
    assert (status, body) == (204, b"") and "POST" in headers["Allow"] and headers["Content-Type"] is None


def test_customers_manage_their_keys(site):
    http, db = site
    key = db.mint(scopes=["a", "b"]).api_key
    made = http.send("POST", "/v1/keys", key, {"label": "CI", "scopes": ["a"]})
    assert (made.status, made.body["label"]) == (201, "CI")
    assert db.reason(made.body["api_key"]) == "ok"
    status, _, body = http.raw("POST", "/v1/keys", key, b'{"label": "by curl"}',
                               [("Content-Type", "application/x-www-form-urlencoded")])
    assert (status, json.loads(body)["label"]) == (201, "by curl")
    assert http.send("DELETE", f"/v1/keys/{made.body['key_id']}", key).status == 200
    assert db.reason(made.body["api_key"]) == "revoked"
    status, headers, body = http.raw("HEAD", "/v1/keys", key)
    assert (status, body) == (200, b"")


def test_views_know_their_caller(site):
    http, db = site
    key = db.mint(scopes=["x"], limits='[{"name": "hourly", "limit": 9, "window": "1 hour"}]')
    response = http.get("/v1/caller?a=%31", key.api_key, X_User="user-1")
    body = response.body
    assert (body["tenant"], body["key_id"], body["same"]) == ("acme", str(key.key_id), True)
    assert key.api_key not in body["repr"]
    # The view's own headers win, and the others are added.
    assert response.headers.get_all("RateLimit") == ["mine"] and response.headers["RateLimit-Policy"]
    (row,) = logged(db, key)
    assert row == ("GET", "/v1/caller", 200, True, {"model": "small"}, "user-1")
    body = http.get("/v1/public").body
    assert (body["tenant"], body["key_id"]) == (None, None)


def test_paths_outside_of_the_prefixes_have_no_caller(site):
    http, db = site
    key = db.mint(scopes=["photos:*"]).api_key
    assert http.added(key, "mine")
    assert http.get("/outside/none", key).body == {"photos": [], "caller": None}
    assert http.get("/outside/caller", key).status == 500


def test_the_path_is_the_one_that_django_routes(site):
    http, db = site
    key = db.mint(scopes=["x"])
    assert http.raw("GET", "/v1/caf%C3%A9%201", key.api_key)[0] == 200
    assert logged(db, key)[0].endpoint == "/v1/caf%C3%A9%201"
    other = db.mint(scopes=["other"]).api_key
    for path in ["/PHOTOS", "/photos/", "//photos", "/%70hotos", "/photos%2F", "/x/../photos", "/./photos", "/photos;x",
                 "/photos?y", "/photos%00", "/photos%3Fy", "/%2Fphotos", "/photos%FF", "/v1/%2e%2e/photos"]:
        status, _, body = http.raw("GET", path, other)
        assert status >= 400 or b'"photos"' not in body, (path, status, body)


@pytest.mark.parametrize("status", [200, 201, 302, 304, 400, 404, 429, 500, 503])
def test_an_answer_that_reports_an_error_has_changed_nothing(site, status):
    http, db = site
    key = db.mint(scopes=["x"])
    assert http.raw("GET", f"/v1/answers/{status}", key.api_key)[0] == status
    assert stored(db) == ([f"answered {status}"] if status < 400 else [])
    (row,) = logged(db, key)
    assert (row.status_code, row.has_latency) == (status, True)


@pytest.mark.parametrize("name, status", [("not_found", 404), ("denied", 403), ("value", 500), ("refused", 418)])
def test_exceptions_roll_back(site, name, status):
    http, db = site
    key = db.mint(scopes=["x"])
    response = http.get(f"/v1/raises/{name}", key.api_key)
    assert response.status == status
    assert stored(db) == [] and logged(db, key)[0].status_code == status
    if name == "refused":
        assert (response.code, response.headers["X-Tea"]) == ("teapot", "green")


@pytest.mark.parametrize("code, status, answer, message", [
    ("KS400", 400, "invalid_request", "what it says"), ("KS401", 401, "invalid_api_key", None),
    ("KS403", 403, "forbidden", "what it says"), ("KS404", 404, "not_found", "what it says"),
    ("KS409", 409, "conflict", "what it says"), ("KS503", 503, "unavailable", "The service is unavailable."),
    ("KS504", 503, "unavailable", "The service is unavailable."), ("P0001", 500, None, None)])
def test_errors_of_keysmith_become_their_answers(site, code, status, answer, message):
    http, db = site
    key = db.mint(scopes=["x"])
    response = http.get(f"/v1/state/{code}", key.api_key)
    assert (response.status, response.body.get("code")) == (status, answer)
    assert message is None or response.body["message"] == message
    assert stored(db) == [] and logged(db, key)[0].status_code == status


@pytest.mark.parametrize("how", ["commit", "rollback", "autocommit"])
def test_a_view_can_t_end_the_transaction(site, how):
    http, db = site
    assert http.get(f"/v1/ends/{how}", db.mint(scopes=["x"]).api_key).status == 500
    assert stored(db) == []


@pytest.mark.parametrize("how, status", [("statement", 500), ("block", 500), ("closed", 500), ("deferred", 500)])
def test_nothing_is_claimed_that_was_not_committed(site, how, status):
    http, db = site
    key = db.mint(scopes=["x"])
    response = http.get(f"/v1/broken/{how}", key.api_key)
    assert response.status == status or how == "deferred" and response.status in (500, 503), response
    assert stored(db) == [] and logged(db, key)[0].status_code == response.status
    assert http.get("/v1/savepoint", key.api_key).body["photos"] == ["kept"]


@pytest.mark.parametrize("how", ["works", "fails"])
def test_functions_of_on_commit_run_after_the_commit(site, how):
    http, db = site
    assert http.get(f"/v1/hooks/{how}", db.mint(scopes=["x"]).api_key).status == 200
    assert http.get("/outside/seen").body["at_commit"] is False
    assert stored(db) == [f"hook {how}"]


@pytest.mark.parametrize("how", ["models", "connection"])
def test_a_stream_is_sent_after_the_commit_and_without_the_database(site, how):
    http, db = site
    key = db.mint(scopes=["x"])
    _, _, body = http.raw("GET", f"/v1/streams/{how}", key.api_key)
    assert body.startswith(b"begun\nInterfaceError: the transaction of this request has ended"), body
    assert stored(db) == [f"streamed {how}"] and logged(db, key)[0].status_code == 200
    assert http.get("/v1/savepoint", key.api_key).status == 200


def test_a_body_reaches_the_view_untouched(site):
    http, db = site
    key = db.mint(scopes=["x"]).api_key

    def sent(content, kind="application/json", **options):
        status, _, body = http.raw("POST", "/v1/body", key, content, [("Content-Type", kind)] if kind else [], **options)
        return status, json.loads(body)["length"] if status == 200 else None

    large = b'{"a": "' + b"x" * 200_000 + b'"}'
    for content in (b"", b"{}", b"not json", b"\xff\xfe", b'{"a": "\\u0000"}', b"[" * 50_000, b'{"a":' * 20_000, large, b"{" + b"1" * 131_071):
        for kind in ("application/json", "application/x-www-form-urlencoded", "text/plain", "application/octet-stream"):
            assert sent(content, kind) == (200, len(content)), (content[:20], kind)
        if http.kind == "asgi":
            assert sent(content, chunked=True) == (200, len(content)), content[:20]
    # Django would refuse to read so much at a time, and a view may read it in parts.
    status, _, body = http.raw("POST", "/v1/reads", key, b"{" + b"1" * 3_000_000, [("Content-Type", "application/json")])
    assert (status, json.loads(body)) == (200, {"length": 3_000_001})
    if http.kind == "asgi":
        status, _, body = http.raw("POST", "/v1/reads", key, b'{"a": 1}', [("Content-Type", "application/json")], chunked=True)
        assert (status, json.loads(body)) == (200, {"length": 8})
    status, _, body = http.raw("POST", "/v1/form", key, b"a=1&b=%C3%A9", [("Content-Type", "application/x-www-form-urlencoded")])
    assert (status, json.loads(body)["post"]) == (200, {"a": ["1"], "b": ["é"]})
    content = b'--x\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\ncontent\r\n--x--\r\n'
    status, _, body = http.raw("POST", "/v1/form", key, content, [("Content-Type", "multipart/form-data; boundary=x")])
    assert (status, json.loads(body)["files"]) == (200, {"f": "content"})


def test_an_endpoint_takes_no_other_body(site):
    http, db = site
    key = db.mint(scopes=["x"]).api_key
    kind = [("Content-Type", "application/json")]
    for content, statuses in [(b"not json", {400}), (b"\xff", {400}), (b"[]", {400}), (b'{"label": "\\u0000"}', {400}),
                              (b"{" * 50_000, {400}), (b'{"a":' * 20_000, {400}), (b'{"label": "' + b"x" * 200_000 + b'"}', {400, 413})]:
        assert http.raw("POST", "/v1/keys", key, content, kind)[0] in statuses, content[:20]
    assert http.raw("POST", "/v1/keys", key, b'{"label": "x"}', [("Content-Type", "text/plain")])[0] in (400, 415)
    if http.kind == "asgi":
        assert http.raw("POST", "/v1/keys", key, b'{"label": "chunked"}', kind, chunked=True)[0] == 201
        assert http.raw("POST", "/v1/keys", key, b'{"label": "' + b"x" * 200_000 + b'"}', kind, chunked=True)[0] in (400, 413)
    assert {row.label for row in db.rows("SELECT label FROM keysmith.keys WHERE tenant = 'acme'")} & {"x", "\0"} == set()


def test_hostile_headers(site):
    http, db = site
    key = db.mint(scopes=["photos:*"]).api_key
    for headers in ([("X-A", b"\xff\xe9")], [("X-A", "1"), ("X-A", "2")], [("X-A", "x" * 5000)], [("Content-Type", "application/json; charset=nonsense")]):
        assert http.raw("GET", "/photos", key, headers=headers)[0] == 200, headers
    for headers in ([("Authorization", "Bearer ks_live_nope"), ("Authorization", f"Bearer {key}")], [("Authorization", b"\xff")],
                    [("X-API-Key", "x"), ("Authorization", f"Bearer {key}")]):
        assert http.raw("GET", "/photos", headers=headers)[0] in (400, 401)


def test_a_person_acts_without_a_key(site):
    http, db = site
    key = db.mint("globex", scopes=["photos:*"]).api_key

    def cookie(*person):
        query = "&".join(f"person={name}" for name in person)
        return http.get(f"/log_in?{query}").headers["Set-Cookie"].partition(";")[0]

    ann = cookie("acme", "ann")
    assert http.get("/photos", Cookie=ann).body == {"photos": []}
    assert http.get("/v1/caller", Cookie=ann).body["tenant"] == "acme"
    assert http.send("POST", "/photos", body={"name": "x"}, Cookie=ann).status == 403
    made = http.send("POST", "/v1/keys", body={"label": "first"}, Cookie=ann)
    assert made.status == 201 and db.verify(made.body["api_key"]).tenant == "acme"
    assert http.get("/photos", Cookie=cookie("acme", "eve")).status == 403
    assert http.get("/photos", key, Cookie=cookie("acme", "ann")).status == 200
    assert http.get("/v1/caller", key, Cookie=ann).body["tenant"] == "globex"


def test_settling(site):
    http, db = site
    db.call("alter_keyspace", "default", '{"usage_log": "everything"}')
    key = db.mint(scopes=["x"], credits=10)
    assert http.get("/v1/settles/inside", key.api_key).body == {"settled": [True, False]}
    assert http.get("/v1/settles/later", key.api_key).status == 200
    settled = wait_until(lambda: http.get("/outside/seen").body.get("settled"))
    assert settled is True
    assert db.value("SELECT credits FROM keysmith.keys WHERE key_id = %s", key.key_id) == 8


def test_asynchronous_views(site):
    http, db = site
    keys = {tenant: db.mint(tenant, scopes=["x"]).api_key for tenant in ("acme", "globex")}
    for _ in range(3):
        for tenant, key in keys.items():
            http.send("POST", "/v1/async", key, {"name": f"{tenant} {_}"})
    for tenant, key in keys.items():
        assert http.get("/v1/async", key).body == {"photos": [f"{tenant} {n}" for n in range(3)], "tenant": tenant}


def test_a_client_that_leaves(site):
    http, db = site
    if http.kind == "wsgi":
        pytest.skip("a WSGI application does not learn that its client has left")
    key = db.mint(scopes=["x"]).api_key
    inside = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state LIKE 'idle in%'"
    connections = [http.client() for _ in range(3)]
    for n, connection in enumerate(connections):
        connection.request("GET", f"/v1/waits?n={n}", headers={"Authorization": f"Bearer {key}"})
    wait_until(lambda: db.value(inside) == 3)
    for connection in connections:
        connection.close()
    # And before the view has begun, while the database decides, and so on.
    for n in range(60):
        connection = http.client()
        connection.request("GET", f"/v1/waits?n={n}", headers={"Authorization": f"Bearer {key}"})
        time.sleep(n / 1000)
        connection.close()
    wait_until(lambda: db.value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state <> 'idle'") == 0)
    assert stored(db) == [] and http.get("/v1/savepoint", key).body["photos"] == ["kept"]


def test_no_identity_is_left_on_a_connection(site):
    """By another connection, and by the one that served a tenant before."""
    http, db = site
    key = db.mint(scopes=["photos:*"]).api_key
    assert http.added(key, "mine")
    assert http.get("/v1/raw", key).body == {"photos": []}
    for path in ("/v1/raises/value", "/v1/broken/closed", "/photos"):
        http.get(path, key)
        assert http.get("/outside/none").body["photos"] == []
        assert http.get("/photos").status == 401
    assert not db.rows("SELECT FROM pg_stat_activity WHERE usename = 'app' AND state LIKE 'idle in%'")


def test_a_server_that_is_away(cluster, prepared, site, tmp_path):
    http, db = site
    key = db.mint(scopes=["photos:*"]).api_key
    assert http.names(key) == []
    # The pool's connections are dead, and requests find out.
    db.rows("ALTER ROLE app CONNECTION LIMIT 0")
    try:
        db.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
        for _ in range(3):
            response = http.get("/photos", key)
            assert (response.status, response.body) == (503, {"code": "unavailable", "message": "The service is unavailable."})
            assert response.headers["Cache-Control"] == "no-store"
    finally:
        db.rows("ALTER ROLE app CONNECTION LIMIT -1")
    wait_until(lambda: http.get("/photos", key).status == 200)


def test_a_role_that_may_not_decide_gets_an_error_and_no_rows(site):
    http, db = site
    key = db.mint(scopes=["photos:*"]).api_key
    db.call("revoke_access", "app", "verifier")
    try:
        # More often than there are connections.
        for _ in range(6):
            assert http.get("/photos", key).status == http.get("/photos").status == 500
    finally:
        db.call("grant_access", "app", "verifier")


def test_keys_are_in_no_log(site, cluster):
    http, db = site
    key = db.mint(scopes=["photos:*", "x"])
    start = cluster.log.stat().st_size
    pages = []
    for path in ("/photos", "/v1/caller", "/v1/raises/value", "/v1/state/P0001", "/v1/broken/statement", "/v1/nowhere"):
        pages.append(http.raw("GET", path, key.api_key)[2].decode())
    pages.append(http.raw("POST", "/photos", key.api_key, b"{}")[2].decode())
    made = http.send("POST", "/v1/keys", key.api_key, {"scopes": ["x"]}).body["api_key"]
    db.call("revoke_access", "app", "verifier")
    try:
        pages.append(http.raw("GET", "/photos", key.api_key)[2].decode())
    finally:
        db.call("grant_access", "app", "verifier")
    texts = {"the application's log": http.log.read_text(), "the server's log": cluster.log.read_bytes()[start:].decode(),
             "pages": "\n".join(pages)}
    assert "SELECT" in texts["the application's log"] or http.kind == "asgi"
    for secret in (key.api_key, made):
        for where, text in texts.items():
            assert secret not in text and secret[8:30] not in text, where


# In one process

def shell(cluster, dbname, code, user="app", **settings):
    """What a program in the project prints."""
    setup = "import django; django.setup()\n"
    command = "python - <<'END'\n" + setup + code + "\nEND"
    return project.run(command, PROJECT, cluster, user=user, PGDATABASE=dbname, DJANGO_SETTINGS_MODULE="settings", check=False, **settings)


@pytest.mark.parametrize("change, message", [
    ("settings.KEYSMITH = {'PATH': ('/',)}", "KEYSMITH has no 'PATH', only DATABASE, KEYSPACE, PATHS"),
    ("settings.KEYSMITH = {'PATHS': '/v1'}", "KEYSMITH: paths must be a tuple"),
    ("settings.KEYSMITH = {'PERSON': 1}", "KEYSMITH: person must be a function"),
    ("settings.KEYSMITH = {'DATABASE': 'lite'}", "KEYSMITH: the database 'lite' is not PostgreSQL"),
    ("settings.KEYSMITH = {'SUBJECT': 'views.nothing'}", 'does not define a "nothing"'),
    ("from django.db.backends.postgresql import psycopg_any; psycopg_any.is_psycopg3 = False",
     "keysmith needs psycopg 3 below Django: psycopg2 writes parameters"),
    ("", "no complaint")])
def test_what_is_configured_wrongly_is_said(cluster, prepared, change, message):
    printed = shell(cluster, prepared, f"""
from django.conf import settings
{change}
from keysmith.django import KeysmithMiddleware
KeysmithMiddleware(None)
print("no complaint")""")
    assert message in printed.splitlines()[-1], printed


OPEN = """
import asyncio
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connection
from django.test import AsyncClient, Client
import views

settings.LOGGING_CONFIG = None
REFUSED = {"PERSON": lambda request: ("nobody", None)}
FAILS = {"SPEND": -1}

def state():
    return connection.in_atomic_block, connection.connection and connection.connection.info.transaction_status.name
"""


def test_no_transaction_stays_open(cluster, prepared):
    """A server that keeps its threads would serve the next request in it."""
    printed = shell(cluster, prepared, OPEN + """
for settings.KEYSMITH in (REFUSED, FAILS):
    client = Client(raise_request_exception=False)
    for _ in range(2):
        print("=", client.get("/photos").status_code, *state())
""")
    assert [line for line in printed.splitlines() if line[0] == "="] == ["= 403 False IDLE"] * 2 + ["= 500 False IDLE"] * 2, printed


def test_no_transaction_stays_open_in_asynchronous_applications(cluster, prepared):
    ((key,),) = cluster.execute("SELECT api_key FROM keysmith.mint('acme', scopes => '{x}')", prepared)
    printed = shell(cluster, prepared, OPEN + f"key = {key!r}" + """
async def main():
    for settings.KEYSMITH in (REFUSED, FAILS):
        client = AsyncClient(raise_request_exception=False)
        for _ in range(2):
            print("=", (await client.get("/photos")).status_code, *await sync_to_async(state)())
    settings.KEYSMITH = {}
    leaving = asyncio.create_task(AsyncClient().get("/v1/waits?n=1", headers={"Authorization": f"Bearer {key}"}))
    while "waits" not in views.seen and not leaving.done():
        await asyncio.sleep(0.01)
    print("=", *await sync_to_async(state)())
    leaving.cancel()
    try:
        await leaving
    except asyncio.CancelledError:
        print("=", *await sync_to_async(state)())

asyncio.run(main())
""")
    assert [line for line in printed.splitlines() if line[0] == "="] == (
        ["= 403 False IDLE"] * 2 + ["= 500 False IDLE"] * 2 + ["= True INTRANS", "= False IDLE"]), printed


def test_acting_as(cluster, prepared):
    printed = shell(cluster, prepared, """
from django.db import connection, transaction
from keysmith.django import acting_as
from photos.models import Photo

def tenant():
    with connection.cursor() as cursor:
        cursor.execute("SELECT keysmith.current_tenant(), keysmith.current_owner()")
        return cursor.fetchone()

Photo.objects.all().delete()
with acting_as("acme"):
    Photo.objects.create(name="made by a command")
    print(tenant(), Photo.objects.count())
print(tenant(), Photo.objects.count())
with transaction.atomic():
    with acting_as("acme", "ann"):
        print(tenant())
    print(tenant())
    try:
        with acting_as("acme"):
            raise ValueError
    except ValueError:
        print(tenant())
try:
    with acting_as("nobody"):
        print("not reached")
except Exception as error:
    print(type(error).__name__)
with acting_as("acme"):
    print(Photo.objects.all().delete()[0])
""")
    assert printed.splitlines()[-7:] == ["('acme', None) 1", "(None, None) 0", "('acme', 'ann')", "(None, None)",
                                         "(None, None)", "DatabaseError", "1"], printed


def test_migrations(cluster, prepared):
    run = lambda command, **settings: project.run(  # noqa: E731
        f"python -m django {command}", PROJECT, cluster, PGDATABASE=prepared, DJANGO_SETTINGS_MODULE="settings",
        **{"user": "app"} | settings)
    assert cluster.execute("SELECT relation, ok FROM keysmith.isolation", prepared) == [("photos_photo", True)]
    assert "No changes" in run("makemigrations --check --dry-run")
    assert "SELECT keysmith.isolate('\"photos_photo\"', 'tenant_id', NULL, NULL, false)" in run("sqlmigrate photos 0001")
    assert "Isolate photo by its tenant_id" in run("showmigrations --plan photos") + run("migrate --plan photos zero")
    run("migrate photos zero")
    assert cluster.execute("SELECT count(*) FROM keysmith.isolation", prepared) == [(0,)]
    assert cluster.execute("SELECT count(*) > 1 FROM keysmith.tenants", prepared) == [(True,)]
    run("migrate")
    assert cluster.execute("SELECT relation, ok FROM keysmith.isolation", prepared) == [("photos_photo", True)]
    assert "no migrations to apply" in run("migrate").lower()


def test_operations(cluster, prepared):
    """With the arguments of isolate; written into a migration; and on another database nothing."""
    printed = shell(cluster, prepared, """
from django.db import connections
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.writer import OperationWriter
from keysmith.django import CreateExtension, Isolate
state = MigrationLoader(connections["default"]).project_state()
operation = Isolate("Photo", "tenant_id", keyspace="default", strict=True)
for alias in ("default", "lite"):
    with connections[alias].schema_editor() as editor:
        CreateExtension().database_forwards("photos", editor, state, state)
        operation.database_forwards("photos", editor, state, state)
for each in (operation, CreateExtension(), CreateExtension(drop=True)):
    print("".join(line.strip() for line in OperationWriter(each).serialize()[0].splitlines()))
print("done")""")
    assert printed.splitlines()[-4:] == [
        "keysmith.django.Isolate(model_name='Photo',tenant_column='tenant_id',keyspace='default',strict=True,),",
        "keysmith.django.CreateExtension(),", "keysmith.django.CreateExtension(drop=True,),", "done"], printed
    isolation = "SELECT keyspace, strict, ok FROM keysmith.isolation"
    assert cluster.execute(isolation, prepared) == [("default", True, True)]
    cluster.execute("SET ROLE app; SELECT keysmith.isolate('photos_photo', 'tenant_id')", prepared)
    assert cluster.execute(isolation, prepared) == [(None, False, True)]


def test_a_database_without_the_extension(cluster, prepared):
    cluster.execute("CREATE DATABASE bare OWNER app")
    try:
        printed = project.run("python -m django migrate", PROJECT, cluster, check=False, user="app", PGDATABASE="bare",
                              DJANGO_SETTINGS_MODULE="settings")
        assert ('django.db.utils.ProgrammingError: the extension keysmith is not in the database "bare", and only a '
                "superuser can create it: run CREATE EXTENSION keysmith there as one") in printed
        project.run("python -m django migrate", PROJECT, cluster, PGDATABASE="bare", DJANGO_SETTINGS_MODULE="settings")
        assert cluster.execute("SELECT relation FROM keysmith.isolation", "bare") == [("photos_photo",)]
    finally:
        cluster.execute("DROP DATABASE bare WITH (FORCE)")
