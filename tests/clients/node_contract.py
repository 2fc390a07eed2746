"""What every adapter for Node promises. Each file of tests has a class that inherits these."""

import struct
import threading
from contextlib import contextmanager

import pytest

import node_server
from conftest import session, wait_until


class Contract:
    """`program` is the application of node_apps; `settings` are those of its process."""

    program = None
    settings = {}

    @pytest.fixture(scope="class")
    def place(self, cluster, request):
        """A database with tenants, keys and tables, and a role that serves it."""
        name = f"node_{request.cls.__name__.lower()}"
        cluster.execute(f"CREATE DATABASE {name} TEMPLATE with_keysmith")
        try:
            cluster.execute("CREATE ROLE web LOGIN")
            for level in ("verifier", "issuer"):
                cluster.execute(f"SELECT keysmith.grant_access('web', '{level}')", name)
            cluster.psql(node_server.SETUP.read_text(), name)
            yield name
        finally:
            cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")
            cluster.execute("DROP ROLE IF EXISTS web")

    @pytest.fixture
    def admin(self, cluster, place):
        db = session(cluster, place)
        db.rows("TRUNCATE photo")
        for tenant in ("acme", "globex"):
            db.tenant(tenant, if_not_exists=True)
        yield db
        db.session.close()

    @pytest.fixture(scope="class")
    def started(self, cluster, place, tmp_path_factory):
        with node_server.running(tmp_path_factory.mktemp("node"), self.program, cluster, place, **self.settings) as server:
            yield server

    @pytest.fixture
    def http(self, started, admin):
        started.key = admin.mint("acme", scopes=["*"]).api_key
        yield started
        assert started.key not in started.logged()
        wait_until(lambda: not busy(admin))

    @contextmanager
    def other(self, cluster, place, tmp_path, admin, **settings):
        folder = tmp_path / str(len([*tmp_path.iterdir()]))
        folder.mkdir()
        with node_server.running(folder, self.program, cluster, place, **self.settings | settings) as server:
            server.key = admin.mint("acme", scopes=["*"]).api_key
            yield server
            assert server.key not in server.logged()

    @pytest.fixture
    def another(self, cluster, place, tmp_path, admin):
        """Starts the application with other settings."""
        return lambda **settings: self.other(cluster, place, tmp_path, admin, **settings)

    # Decisions

    def test_each_tenant_sees_and_writes_its_own(self, http, admin):
        keys = {tenant: admin.mint(tenant, scopes=["photos:*"]).api_key for tenant in ("acme", "globex")}
        for tenant, key in keys.items():
            assert http.post("/photos", {"name": tenant}, key=key).status == 201
        for tenant, key in [*keys.items()] * 4:
            assert http.names(key=key) == [tenant]

    def test_a_refusal_is_the_databases_answer(self, http, admin):
        none, bad = http.get("/photos", key=None), http.get("/photos", key="ks_live_nope")
        assert (none.status, none.body["code"]) == (401, "missing_authorization")
        assert (bad.status, bad.body["code"]) == (401, "invalid_api_key")
        assert none["WWW-Authenticate"].startswith("Bearer ") and none["Cache-Control"] == "no-store"
        assert none["Content-Type"].startswith("application/json")
        reader = admin.mint(scopes=["photos:read"]).api_key
        assert http.post("/photos", {"name": "x"}, key=reader).status == 403
        assert http.names() == []

    def test_a_request_without_a_key_at_a_public_route(self, http):
        assert http.get("/public", key=None).body == {"tenant": None, "keyId": None}
        assert http.get("/public").body["tenant"] == "acme"

    def test_limits_are_told_with_every_answer(self, http, admin):
        key = admin.mint(scopes=["*"], limits='[{"name": "hourly", "limit": 2, "window": "1 hour"}]').api_key
        first, second, third = (http.get("/photos", key=key) for _ in range(3))
        assert [first.status, second.status, third.status] == [200, 200, 429]
        assert first["RateLimit"].startswith('"hourly";r=1') and "q=2" in first["RateLimit-Policy"]
        assert int(third["Retry-After"]) > 0 and third["RateLimit"].startswith('"hourly";r=0')

    def test_the_applications_own_headers_win(self, http, admin):
        key = admin.mint(scopes=["*"], limits='[{"name": "hourly", "limit": 9, "window": "1 hour"}]').api_key
        answer = http.get("/headers", key=key)
        assert (answer.status, answer.content) == (206, b"own")
        assert answer["RateLimit"] == "mine" and answer["X-Own"] == "1" and "q=9" in answer["RateLimit-Policy"]

    def test_the_address_of_the_peer_is_known(self, http, admin):
        assert http.get("/photos", key=admin.mint(scopes=["*"], allowlist=["127.0.0.0/8"]).api_key).status == 200
        away = http.get("/photos", key=admin.mint(scopes=["*"], allowlist=["203.0.113.0/24"]).api_key)
        assert (away.status, away.body["code"]) == (403, "ip_not_allowed")

    def test_repeated_headers_are_not_one(self, http, admin):
        other = admin.mint("globex", scopes=["*"]).api_key
        for headers in ([f"Authorization: Bearer {other}"], [f"X-API-Key: {other}"], ["Authorization: Basic eDp5"]):
            answer = http.get("/photos", headers=headers)
            assert answer.status == 401, headers

    @pytest.mark.parametrize("value", ["Bearer \xff\xfe", "Bearer " + "x" * 8000, "Bearer", "Bearer a b", "\t", "Bearer {\"a\":1}"])
    def test_hostile_headers(self, http, value):
        raw = b"GET /photos HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: " + value.encode("latin-1") + b"\r\n\r\n"
        with http.connect() as connection:
            connection.sendall(raw)
            assert node_server.read(connection).status == 401
        assert http.names() == []

    def test_headers_with_names_of_prototypes(self, http):
        answer = http.get("/photos", headers=["__proto__: x", "constructor: y", "toString: z", "X-Latin: \xfc".encode("latin-1").decode("latin-1")])
        assert answer.status == 200

    @pytest.mark.parametrize("path", ["/PHOTOS", "/photos/", "//photos", "/%70hotos", "/photos%2F", "/x/../photos", "/./photos",
                                      "/photos;x", "/photos%00", "/photos#x", "/photos%3Fx", "http://127.0.0.1/photos",
                                      "http://127.0.0.1//photos", "http:/photos", "/photos\\", "\\photos", "/%2570hotos", "/x\\..\\photos"])
    def test_no_spelling_of_a_path_goes_round_its_scopes(self, http, admin, path):
        http.post("/photos", {"name": "secret"})
        key = admin.mint(scopes=["other"]).api_key
        with http.connect() as connection:
            connection.sendall(http.head("GET", path, key=key))
            try:
                answer = node_server.read(connection)
            except (AssertionError, ConnectionError):
                return
        assert b"secret" not in answer.content, answer

    # Endpoints

    def test_an_endpoint_is_answered_without_a_handler(self, http, admin):
        made = http.post("/v1/keys", {"label": "CI", "scopes": ["photos:read"]})
        assert made.status == 201 and made.body["label"] == "CI" and made["Cache-Control"] == "no-store"
        assert http.names(key=made.body["api_key"]) == []
        assert http.get("/v1/me", key=made.body["api_key"]).body["tenant"] == "acme"
        assert "CI" in [key["label"] for key in http.get("/v1/keys").body["keys"]]
        assert http.send("DELETE", f"/v1/keys/{made.body['key_id']}").body["status"] == "revoked"
        assert http.get("/v1/me", key=made.body["api_key"]).status == 401
        assert made.body["api_key"] not in http.logged()

    def test_bodies_at_an_endpoint(self, http):
        def mint(body, *headers):
            return http.post("/v1/keys", body, headers=headers).status

        as_json = "Content-Type: application/json"
        assert mint('{"label": "typed"}', as_json) == 201
        assert mint('{"label": "by curl -d"}', "Content-Type: application/x-www-form-urlencoded") == 201
        assert mint('{"label": "untyped"}') == 201
        assert mint('{"label": "problem"}', "Content-Type: application/x+json; charset=utf-8") == 201
        assert mint(None) == 201
        assert mint('{"label": "in chunks"}'[:0] + "c\r\n{\"label\": \"a\r\n2\r\n\"}\r\n0\r\n\r\n", as_json, "Transfer-Encoding: chunked") == 201
        assert mint('{"label": 1}', as_json) == 400
        assert mint('{"unknown": 1}', as_json) == 400
        assert mint("[1]", as_json) == 400
        assert mint("a=b", "Content-Type: application/x-www-form-urlencoded") == 400
        for content in ("{", '{"label": "\\u0000"}', '{"label": 1e999999}', "[" * 60_000, "{\"a\":" * 20_000, b"{\"label\": \"\xff\"}", b"{\0}"):
            assert mint(content, as_json) in (400, 413), content[:20]
        assert mint('{"label": "x"}', "Content-Type: text/plain") in (400, 415)
        assert mint("<label/>", "Content-Type: application/xml") in (400, 415)
        assert mint('{"label": "' + "x" * 200_000 + '"}', as_json) in (400, 413)
        assert http.get("/v1/me").status == 200

    def test_a_method_that_an_endpoint_does_not_take(self, http):
        answer = http.send("PUT", "/v1/keys")
        assert (answer.status, answer["Allow"]) == (405, "GET, HEAD, OPTIONS, POST")
        options = http.send("OPTIONS", "/v1/keys", key=None)
        assert (options.status, options.content) == (204, b"") and options["Allow"]
        head = http.send("HEAD", "/v1/keys")
        assert (head.status, head.content) == (200, b"")

    # The body is the application's

    def test_bodies_are_replayed(self, http):
        body = {"a": ["ü", 1.5, None], "b": "x" * 50_000}
        assert http.post("/parsed", body).body == {"body": body}

    # How a transaction ends

    def test_an_answer_that_reports_an_error_has_changed_nothing(self, http, admin):
        assert http.post("/photos", {"name": "kept"}).status == 201
        for status in (400, 404, 422, 500, 503):
            assert http.post("/photos", {"name": f"lost {status}", "status": status}).status == status
        assert http.post("/photos", {"name": "kept"}).status == 500
        assert http.get("/do/bug/x").status == 500
        for status in (200, 202, 303):
            assert http.post("/photos", {"name": f"kept {status}", "status": status}).status == status
        assert http.names() == ["kept", "kept 200", "kept 202", "kept 303"]

    def test_errors_of_keysmith_become_answers(self, http):
        expected = {"KS400": (400, "invalid_request"), "KS401": (401, "invalid_api_key"), "KS403": (403, "forbidden"),
                    "KS404": (404, "not_found"), "KS409": (409, "conflict"), "KS503": (503, "unavailable"), "KS504": (503, "unavailable")}
        for state, (status, code) in expected.items():
            answer = http.get(f"/do/raise/{state}")
            assert (answer.status, answer.body["code"]) == (status, code), state
            assert answer["Content-Type"].startswith("application/json")
            if status not in (401, 503):
                assert answer.body["message"] == f"raised {state}"
            assert "a detail" not in answer.content.decode()
        for state in ("KS500", "42501", "22012", "P0001"):
            answer = http.get(f"/do/raise/{state}")
            assert answer.status == 500 and b"a detail" not in answer.content, state

    def test_a_failed_commit_is_503(self, http, admin):
        answer = http.post("/photos", {"name": "never"})
        assert (answer.status, answer.body) == (503, {"code": "unavailable", "message": "The service is unavailable."})
        assert answer["Content-Type"].startswith("application/json") and answer["Cache-Control"] == "no-store"
        assert answer["X-Made"] is None
        wait_until(lambda: "it can't be" in http.logged())
        assert http.names() == []

    def test_a_failed_statement_that_the_handler_hides_is_503(self, http):
        assert http.get("/do/swallow/x").status == 503
        assert http.names() == []

    def test_the_answer_comes_after_the_commit(self, http, admin, cluster, place):
        with cluster.connect(place, autocommit=False) as lock:
            lock.execute("SELECT pg_advisory_xact_lock(7)")
            answers = []
            thread = threading.Thread(target=lambda: answers.append(http.post("/photos", {"name": "slow"})))
            thread.start()
            wait_until(lambda: waiting(admin))
            assert not answers
            lock.rollback()
            thread.join()
        assert answers[0].status == 201 and http.names() == ["slow"]

    def test_the_application_can_not_end_the_transaction(self, http):
        answer = http.get("/do/ends/x")
        assert answer.body == {"refused": [], "tenant": "acme"}
        assert http.names() == ["first"]

    def test_nested_transactions_are_savepoints(self, http):
        assert http.get("/do/nests/x").body == {"photos": ["kept"]}
        assert http.names() == ["kept"]

    def test_a_nested_transaction_that_is_left_open(self, http):
        assert http.get("/do/open/x").status == 503
        assert http.names() == []

    def test_the_client_takes_callbacks_too(self, http):
        assert http.get("/do/callback/x").body == {"n": 7}

    def test_a_lost_connection_is_503(self, http):
        for action in ("dies", "diesBehind"):
            for _ in range(3):
                assert http.get(f"/do/{action}/x").status == 503, action
            assert http.names() == []

    # After the answer

    def test_nothing_reaches_the_connection_after_the_answer(self, http):
        assert http.get("/do/facts/x").status == 200
        assert "the request has ended" in http.get("/late/query").body["refused"]

    def test_a_streamed_answer_is_outside_of_the_transaction(self, http):
        answer = http.get("/stream")
        lines = answer.content.decode().split("\n")
        assert answer.status == 200 and len(lines[0]) == 100_000 and "the request has ended" in lines[1]
        assert [line.partition(" ")[0] for line in lines[2:-1]] == [str(n) for n in range(20)]
        assert all(len(line) > 100_000 for line in lines[2:-1])

    def test_settle_during_and_after_a_request(self, another, admin):
        admin.call("add_credits", 100, tenant="acme")
        with another(SPEND="5", PATHS="/photos,/do") as http:
            assert http.get("/photos").status == 200
            assert credits(admin) == 95
            assert http.get("/do/settle/x").body == {"settled": True}
            assert credits(admin) == 94
            assert http.get("/do/facts/x").status == 200
            assert http.get("/late/settle", key=None).body == {"settled": True}
            assert credits(admin) == 92
            assert http.get("/late/settle", key=None).body == {"settled": False}

    # The log of requests

    def test_the_answered_status_is_on_record(self, http, admin):
        key = admin.mint(scopes=["*"])
        http.get("/photos", key=key.api_key)
        http.post("/photos", {"name": "x", "status": 418}, key=key.api_key)
        http.post("/photos", {"name": "never"}, key=key.api_key)
        http.get("/do/bug/x", key=key.api_key)
        http.get("/do/tags/small", key=key.api_key)
        found = recorded(admin, key)
        assert [(row.endpoint, row.status) for row in found] == [
            ("/photos", 200), ("/photos", 418), ("/photos", 503), ("/do/bug/x", 500), ("/do/tags/small", 200)]
        assert found[-1].tags == {"model": "small"}
        assert all(row.latency is not None for row in found)

    def test_tags_that_are_refused(self, http, admin):
        key = admin.mint(scopes=["*"])
        answer = http.get(f"/do/tags/{'x' * 65}", key=key.api_key)
        assert answer.status == 503
        wait_until(lambda: "tags" in http.logged())
        assert [row.status for row in recorded(admin, key)] == [503]

    def test_without_a_log(self, another, admin):
        key = admin.mint(scopes=["*"])
        with another(LOG="off") as http:
            assert http.post("/photos", {"name": "x", "status": 418}, key=key.api_key).status == 418
            assert http.get("/photos", key=key.api_key).status == 200
            assert http.get("/do/swallow/x", key=key.api_key).status == 503
            assert http.names() == []
        assert [row.status for row in recorded(admin, key)] == [200, 200, 200]

    # Clients that go away

    def test_a_client_that_goes_away_changes_nothing(self, http, admin, cluster, place):
        key = admin.mint(scopes=["*"])
        for path in ("/do/wait/x", "/do/idle/x"):
            with cluster.connect(place, autocommit=False) as lock:
                lock.execute("SELECT pg_advisory_xact_lock(7)")
                idling = http.logged().count("idling")
                connection = http.connect()
                connection.sendall(http.head("GET", path, key=key.api_key))
                if "wait" in path:
                    wait_until(lambda: waiting(admin))
                else:
                    wait_until(lambda: http.logged().count("idling") > idling)
                gone(connection)
                http.notices()
                if "idle" in path:
                    wait_until(lambda: not busy(admin))
                lock.rollback()
            wait_until(lambda: not busy(admin))
        assert http.names() == []
        assert [row.status for row in recorded(admin, key)] == [499, 499]

    def test_clients_that_go_away_leave_no_connection_taken(self, http, admin, cluster, place):
        """More than the pool has: before, during and after the decision, and while they wait for a connection."""
        with cluster.connect(place, autocommit=False) as lock:
            lock.execute("SELECT pg_advisory_xact_lock(7)")
            connections = [http.connect() for _ in range(12)]
            for n, connection in enumerate(connections):
                connection.sendall(http.head("GET", f"/do/{('wait', 'idle')[n % 2]}/x"))
                if n > 8:
                    gone(connection)
            wait_until(lambda: busy(admin))
            for connection in connections[:9]:
                gone(connection)
            http.notices()
            lock.rollback()
        for _ in range(5):
            assert http.names() == []

    def test_a_body_that_never_comes_takes_no_connection(self, http, admin):
        connections = [http.connect() for _ in range(4)]
        for connection in connections:
            connection.sendall(http.head("POST", "/v1/keys", '{"label', headers=["Content-Length: 50", "Content-Type: application/json"]))
        assert http.names() == []
        assert not busy(admin)
        for connection in connections:
            gone(connection)
        assert http.names() == []

    def test_requests_on_one_connection_do_not_mix(self, http, admin):
        """Keep-alive and pipelining, with keys of two tenants and without one."""
        keys = {tenant: admin.mint(tenant, scopes=["photos:*"]).api_key for tenant in ("acme", "globex")}
        for tenant, key in keys.items():
            http.post("/photos", {"name": f"of {tenant}"}, key=key)
        plan = ["acme", None, "globex", "acme", None, None, "globex"] * 3
        with http.connect() as connection:
            connection.sendall(b"".join(http.head("GET", "/photos", key=keys.get(tenant), close=False) for tenant in plan))
            stream = connection.makefile("rb")
            for tenant in plan:
                answer = node_server.read_from(stream)
                if tenant is None:
                    assert answer.status == 401
                else:
                    assert answer.body == {"photos": [f"of {tenant}"]}

    def test_many_at_once(self, http, admin):
        keys = {tenant: admin.mint(tenant, scopes=["photos:*"]).api_key for tenant in ("acme", "globex")}
        for tenant, key in keys.items():
            http.post("/photos", {"name": f"of {tenant}"}, key=key)
        wrong = []

        def ask(tenant):
            for n in range(15):
                if n % 3 == 2:
                    http.post("/photos", {"name": f"of {tenant}"}, key=keys[tenant])
                elif http.names(key=keys[tenant]) != [f"of {tenant}"]:
                    wrong.append(tenant)

        threads = [threading.Thread(target=ask, args=[tenant]) for tenant in ["acme", "globex"] * 3]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    # Requests outside of its paths

    def test_outside_of_its_paths_there_is_no_caller(self, another):
        with another(PATHS="/photos,/v1") as http:
            assert http.names() == []
            assert http.get("/photos", key=None).status == 401
            assert http.get("/internal", key=None).status == 500
            assert http.get("/v1/me").status == 200
            assert http.get("/v1/me", key=None).status == 401
            assert b"secret" not in http.get("/photosx", key=None).content

    @pytest.mark.parametrize("path", ["/PHOTOS", "/%70hotos", "//photos", "/photos/", "/photos?x", "/photos#x", "http://127.0.0.1/photos",
                                      "/%50hotos", "/photos;x", "/./photos", "/x/../photos", "/photos%2f"])
    def test_no_spelling_of_a_path_goes_round_paths(self, http_of_photos, path):
        with http_of_photos.connect() as connection:
            connection.sendall(http_of_photos.head("GET", path, key=None))
            assert node_server.read(connection).status >= 400

    @pytest.fixture(scope="class")
    def started_of_photos(self, cluster, place, tmp_path_factory):
        with node_server.running(tmp_path_factory.mktemp("node"), self.program, cluster, place, **self.settings,
                                 PATHS="/photos") as server:
            yield server

    @pytest.fixture
    def http_of_photos(self, started_of_photos, admin):
        return started_of_photos

    # A person with a cookie

    def test_a_person_acts_without_a_key(self, another, admin):
        admin.call("grant_access", "web", "host")
        try:
            admin.call("define_role", "default", "reader", ["photos:read"])
            admin.call("set_member", "acme", "ben", "reader")
            with another(PERSON="1") as http:
                http.post("/photos", {"name": "of acme"})
                cookie = ["Cookie: member=ben"]
                assert http.names(key=None, headers=cookie) == ["of acme"]
                assert http.post("/photos", {"name": "x"}, key=None, headers=cookie).status == 403
                assert http.get("/photos", key=None).status == 401
                assert http.get("/photos", key="ks_live_nope", headers=cookie).status == 401
                other = admin.mint("globex", scopes=["*"]).api_key
                assert http.names(key=other, headers=cookie) == []
                gone = http.get("/photos", key=None, headers=["Cookie: member=eve"])
                assert (gone.status, gone.body["code"]) == (403, "forbidden")
                assert http.get("/photos", key=None).status == 401
        finally:
            admin.call("revoke_access", "web")
            for level in ("verifier", "issuer"):
                admin.call("grant_access", "web", level)

    # A database that is away

    def test_a_role_that_may_not_decide_is_an_error_of_the_installation(self, another, admin):
        admin.call("revoke_access", "web")
        try:
            with another() as http:
                for _ in range(3):
                    answer = http.get("/photos")
                    assert answer.status == 500 and b"photos" not in answer.content
                wait_until(lambda: "permission denied" in http.logged())
        finally:
            for level in ("verifier", "issuer"):
                admin.call("grant_access", "web", level)

    def test_parameters_in_errors_of_the_server_are_not_passed_on(self, another, admin):
        """With this setting the server puts the headers into the context of its error, and `other` searches the log."""
        admin.rows("ALTER ROLE web SET log_parameter_max_length_on_error = 10000")
        try:
            with another(SPEND="-1") as http:
                answer = http.get("/photos")
                assert answer.status == 500 and http.key not in answer.content.decode()
                wait_until(lambda: "spend" in http.logged())
        finally:
            admin.rows("ALTER ROLE web RESET ALL")

    def test_a_database_that_is_away_is_503(self, another, cluster, place, admin):
        with another() as http:
            assert http.names() == []
            admin.rows("ALTER ROLE web NOLOGIN")
            try:
                admin.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'web'")
                wait_until(lambda: http.get("/photos").status != 200)
                for _ in range(3):
                    answer = http.get("/photos")
                    assert (answer.status, answer.body["code"], answer["Cache-Control"]) == (503, "unavailable", "no-store")
            finally:
                admin.rows("ALTER ROLE web LOGIN")
            assert http.names() == []


def credits(admin):
    return admin.value("SELECT credits FROM keysmith.tenants WHERE tenant = 'acme'")


def recorded(admin, key):
    admin.call("flush_usage")
    return admin.rows("SELECT endpoint, status, latency, tags FROM keysmith.usage WHERE key_id = %s ORDER BY at, request_id", key.key_id)


def busy(admin):
    return admin.rows("SELECT pid FROM pg_stat_activity WHERE usename = 'web' AND (state <> 'idle' OR wait_event_type = 'Lock')")


def waiting(admin):
    return admin.rows("SELECT pid FROM pg_stat_activity WHERE usename = 'web' AND wait_event_type = 'Lock'")


def gone(connection):
    """Closes a connection as the loss of it does."""
    connection.setsockopt(1, 13, struct.pack("ii", 1, 0))
    connection.close()
