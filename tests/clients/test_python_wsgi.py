"""The Python package's WSGI middleware: bare applications under the standard's validator, and Flask over real HTTP."""

import http.client
import io
import json
import logging
import threading
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import psycopg
import pytest

import python_site
from python_site import site  # noqa: F401

pytest.importorskip("psycopg_pool")
from psycopg_pool import AsyncConnectionPool, ConnectionPool  # noqa: E402

import keysmith  # noqa: E402
from keysmith.wsgi import KeysmithMiddleware  # noqa: E402

TEXT = {"CONTENT_TYPE": "text/plain"}
JSON = {"CONTENT_TYPE": "application/json"}


def photos(environ, start_response):
    """Answers with the photos that its transaction shows; a POST adds one. The query is the status."""
    caller, body = environ["keysmith"], environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    if environ["REQUEST_METHOD"] == "POST":
        caller.connection.execute("INSERT INTO photo (name) VALUES (%s)", [body.decode()])
    names = [name for name, in caller.connection.execute("SELECT name FROM photo ORDER BY id")]
    start_response(f"{environ['QUERY_STRING'] or 200} Said", [("Content-Type", "application/json"), ("X-App", "yes")])
    return [json.dumps([caller.tenant, names]).encode()]


class Answer:
    def __init__(self, app, method, path, key=None, body=b"", chunked=False, **environ):
        path, _, query = path.partition("?")
        given = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query, "REMOTE_ADDR": "192.0.2.7", "SCRIPT_NAME": "",
                 "wsgi.input": io.BytesIO(body)}
        given |= {"wsgi.input_terminated": True} if chunked else {"CONTENT_LENGTH": str(len(body))} if body else {}
        if key:
            given["HTTP_AUTHORIZATION"] = f"Bearer {key}"
        given |= environ
        setup_testing_defaults(given)

        def start_response(status, headers, exc_info=None):
            self.status, self.headers = int(status.split()[0]), dict(headers)
            return lambda chunk: parts.append(chunk)

        parts = []
        self.status = None
        chunks = app(given, start_response)
        try:
            for chunk in chunks:
                parts.append(chunk)
        finally:
            if hasattr(chunks, "close"):
                chunks.close()
        self.content = b"".join(parts)

    @property
    def json(self):
        return json.loads(self.content)


def validated_inside(app):
    """As a server would check the application. The validator wants a text for each name without a dot."""
    def checked(environ, start_response):
        caller = environ.pop("keysmith")
        return validator(lambda environ, start: app(environ | {"keysmith": caller}, start))(environ, start_response)

    return checked


def served(site, app, *requests, validated=True, **options):
    with ConnectionPool(site.dsn, min_size=1, max_size=1, timeout=5) as pool:
        within = KeysmithMiddleware(validated_inside(app) if validated else app, pool, **options)
        outer = validator(within) if validated else within
        return [Answer(outer, method, path, **(more[0] if more else {})) for method, path, *more in requests]


def test_the_life_of_requests(site):
    acme, globex = site.key("acme", limits='[{"name": "hourly", "limit": 9, "window": "1 hour"}]'), site.key("globex")
    post = {"key": acme, "body": b"one"} | TEXT
    answers = served(
        site, photos, ("POST", "/photos", post), ("GET", "/photos", {"key": acme}), ("GET", "/photos", {"key": globex}),
        ("GET", "/photos"), ("GET", "/public"), ("POST", "/photos?409", post | {"body": b"two"}), ("POST", "/photos", post),
        ("GET", "/v1/me", {"key": globex}), ("POST", "/v1/keys", {"key": globex, "body": b'{"label": "CI"}'} | JSON),
        ("POST", "/v1/keys", {"key": globex, "body": b"{"} | JSON), ("HEAD", "/v1/me", {"key": globex}))
    assert [answer.status for answer in answers] == [200, 200, 200, 401, 200, 409, 503, 200, 201, 400, 200]
    assert answers[1].json == ["acme", ["one"]] and answers[2].json == ["globex", []] and answers[4].json == [None, []]
    assert answers[0].headers["X-App"] == "yes" and answers[0].headers["RateLimit"].startswith('"hourly";r=8')
    assert "X-App" not in answers[6].headers and answers[10].content == b""
    assert site.photos() == [("acme", "one")]
    assert [status for status, in site.logged("status")] == [200, 200, 200, 409, 503, 200, 201, 400, 200]
    assert site.db.value("SELECT count(*) FROM keysmith.usage WHERE endpoint = '/photos' AND latency IS NULL") == 0
    assert site.db.value("SELECT DISTINCT ip::text FROM keysmith.usage") == "192.0.2.7/32" and not site.busy()


LONG = b'{"label": "' + b"x" * 140_000 + b'"}'


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("body, headers, status", [
    (b"{", JSON, 400), (b"\xff{", JSON, 400), (b'{"label": "\x00"}', JSON, 400), (b"[1]", JSON, 400), (LONG, JSON, None),
    (b"{}", TEXT, 415), (b"", TEXT, 201), (b"{}", {}, 201),
    (b"a=1", {"CONTENT_TYPE": "application/x-www-form-urlencoded"}, 400),
], ids=range(9))
def test_bodies_that_an_endpoint_may_not_take(site, body, headers, status, chunked):
    """And an application gets each of them as it came."""
    def echo(environ, start_response):
        length = environ.get("CONTENT_LENGTH")
        stream = environ["wsgi.input"]
        read = stream.read(int(length)) if length else b"".join(iter(lambda: stream.read(1000), b"")) if chunked else b""
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [read]

    more = {"key": site.key(), "body": body, "chunked": chunked} | headers
    if chunked and not body:
        status = {TEXT["CONTENT_TYPE"]: 415}.get(headers.get("CONTENT_TYPE"), status)
    endpoint, own = served(site, echo, ("POST", "/v1/keys", more), ("POST", "/own", more), validated=False)
    assert own.content == body
    assert endpoint.status == status or (status is None and endpoint.status in ({400} if chunked else {201, 413}))


def test_lines_of_a_body_that_was_read_in_part(site):
    def lines(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [json.dumps([len(environ["wsgi.input"].readline()), len(environ["wsgi.input"].readlines())]).encode()]

    body = b"{" + b"x" * 131_080 + b"\n" + b"last\n" * 7
    (answer,) = served(site, lines, ("POST", "/", {"key": site.key(), "body": body, "chunked": True} | JSON))
    assert answer.json == [131_082, 7]


def test_a_length_of_thousands_of_digits(site):
    def says(environ, start_response):
        start_response("200 OK", [])
        return [b"said"]

    (answer,) = served(site, says, ("POST", "/own", {"key": site.key(), "CONTENT_LENGTH": "1" * 5000}), validated=False)
    assert answer.content == b"said"


def test_a_body_that_ends_too_early(site):
    (answer,) = served(site, photos, ("POST", "/", {"key": site.key(), "body": b"{", "CONTENT_LENGTH": "9"} | JSON))
    assert answer.status == 400 and site.logged("method") == []


@pytest.mark.parametrize("statement, status, code", [
    ("SELECT keysmith.mint('acme', label => repeat('x', 101))", 400, "invalid_request"),
    ("SELECT keysmith.sign_out(), keysmith.require_identity()", 401, "invalid_api_key"),
    ("SELECT keysmith.revoke('00000000-0000-0000-0000-000000000000')", 404, "not_found"),
])
def test_errors_of_keysmith_that_nobody_catches(site, statement, status, code):
    def calls(environ, start_response):
        environ["keysmith"].connection.execute(statement)

    (answer,) = served(site, calls, ("GET", "/", {"key": site.key()}), validated=False)
    assert (answer.status, answer.json["code"]) == (status, code)
    assert site.logged("status") == [(status,)]


def test_an_exception_is_the_frameworks(site):
    def fails(environ, start_response):
        environ["keysmith"].connection.execute("INSERT INTO photo (name) VALUES ('never')")
        start_response("200 OK", [])
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        served(site, fails, ("GET", "/", {"key": site.key()}), validated=False)
    assert site.photos() == [] and site.logged("status") == [(500,)] and not site.busy()


def test_a_fault_of_the_installation(site):
    """Each time an error, and each time the pool's one session returns."""
    key = site.key()
    site.db.rows("SELECT keysmith.revoke_access('app')")
    with ConnectionPool(site.dsn, min_size=1, max_size=1, timeout=5) as pool:
        for _ in range(2):
            with pytest.raises(keysmith.errors.DecisionFailed, match="42501") as error:
                Answer(KeysmithMiddleware(photos, pool), "GET", "/", key)
            assert error.value.__context__ is None and key not in str(error.getrepr(showlocals=False))


def test_what_is_generated_later_has_no_connection(site):
    """A generator runs up to its first chunk within the request, and then without."""
    def streams(environ, start_response):
        connection = environ["keysmith"].connection
        connection.execute("INSERT INTO photo (name) VALUES ('first')")
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"first,"
        try:
            connection.execute("INSERT INTO photo (name) VALUES ('later')")
        except psycopg.InterfaceError as error:
            yield str(error).encode()

    (answer,) = served(site, streams, ("GET", "/", {"key": site.key()}), validated=False)
    assert answer.content.startswith(b"first,the transaction of this request has ended")
    assert site.photos() == [("acme", "first")]


def test_the_old_write_and_a_second_start(site):
    def writes(environ, start_response):
        environ["keysmith"].connection.execute("INSERT INTO note VALUES ('x')")
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        if environ["PATH_INFO"] == "/write":
            write(b"written,")
        else:
            start_response("400 Bad", [("Content-Type", "text/plain")], (ValueError, ValueError(), None))
        return [b"returned"]

    written, again = served(site, writes, ("GET", "/write", {"key": site.key()}), ("GET", "/", {"key": site.key()}))
    assert (written.status, written.content, again.status) == (200, b"written,returned", 400)
    assert site.db.value("SELECT count(*) FROM note") == 1


def test_chunks_are_closed(site):
    closed = []

    class Chunks(list):
        def close(self):
            closed.append(True)

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/twin":
            for _ in range(2):
                environ["keysmith"].connection.execute("INSERT INTO photo (name) VALUES ('twin')")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return Chunks([b"x"])

    answers = served(site, app, ("GET", "/", {"key": site.key()}), ("GET", "/twin", {"key": site.key()}), validated=False)
    assert [answer.status for answer in answers] == [200, 503] and closed == [True, True]


def test_the_path_is_the_one_that_routes():
    from keysmith.wsgi import path_of

    assert path_of({"PATH_INFO": "/a b/\xc3\xa9\xff", "QUERY_STRING": "x=%20"}) == "/a%20b/%C3%A9%FF?x=%20"
    assert path_of({"PATH_INFO": "", "SCRIPT_NAME": "/mounted"}) == "/"
    assert path_of({"PATH_INFO": "v1/open"}) == "/v1/open"


@pytest.mark.parametrize("paths", [("/",), ("/v1",)])
@pytest.mark.parametrize("path", ["v1/open", "/v1/open", "//v1/open", "///v1//open"])
def test_no_spelling_of_a_path_goes_round_the_decision(site, path, paths):
    """Flask adds and drops slashes."""
    flask = pytest.importorskip("flask")
    app = flask.Flask(__name__)

    @app.get("/v1/open")
    def handler():
        return "undecided"

    answer, = served(site, app.wsgi_app, ("GET", "/", {"PATH_INFO": path}), paths=paths, validated=False)
    assert answer.status == 401


def test_headers_of_an_answer_that_no_server_would_send(site):
    def breaks(environ, start_response):
        environ["keysmith"].connection.execute("INSERT INTO photo (name) VALUES ('never')")
        start_response("200 OK", [("X-Y", "a\nb")])
        return [b""]

    with pytest.raises(ValueError, match="line break"):
        served(site, breaks, ("GET", "/", {"key": site.key()}), validated=False)
    assert site.photos() == [] and not site.busy()


def test_paths_options_and_people(site):
    site.db.call("add_credits", 100, tenant="acme")

    def says(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["keysmith"].tenant.encode() if "keysmith" in environ else b"-"]

    answers = served(site, says, ("GET", "/v1/x", {"key": site.key()}), ("GET", "/v1x"), ("GET", "/v1"),
                     ("GET", "/v1/x", {"HTTP_X_PERSON": "whole"}), paths=("/v1",),
                     spend=lambda environ: len(environ["PATH_INFO"]),
                     person=lambda environ: ("globex", None) if environ.get("HTTP_X_PERSON") else None, validated=False)
    assert [(answer.status, answer.content) for answer in answers if answer.status < 400] == [
        (200, b"acme"), (200, b"-"), (200, b"globex")]
    assert site.db.value("SELECT credits FROM keysmith.tenants WHERE tenant = 'acme'") == 95


def test_settling(site):
    site.db.call("add_credits", 100, tenant="acme")
    callers = []

    def settles(environ, start_response):
        caller = environ["keysmith"]
        caller.tags["model"] = "small"
        callers.append(caller)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(caller.settle(spend=30) if environ["PATH_INFO"] == "/" else caller.has_scope("x")).encode()]

    key = site.key()
    with ConnectionPool(site.dsn, min_size=1, max_size=1, timeout=5) as pool:
        app = KeysmithMiddleware(settles, pool, spend=1)
        assert [Answer(app, "GET", path, key).content for path in ("/", "/late")] == [b"True", b"True"]
        assert [caller.settle(spend=30) for caller in callers] == [False, True]
        with pytest.raises(psycopg.Error, match="ended"):
            callers[0].connection
    assert site.db.value("SELECT credits FROM keysmith.tenants WHERE tenant = 'acme'") == 40
    assert [tags for tags, in site.logged("tags")] == [{"model": "small"}] * 2


def test_pools_that_cannot_be(site):
    with pytest.raises(TypeError, match="asynchronous"):
        Answer(KeysmithMiddleware(photos, AsyncConnectionPool("", open=False)), "GET", "/")
    closed = ConnectionPool(site.dsn, min_size=1, open=False)
    answer = Answer(KeysmithMiddleware(photos, closed), "GET", "/", key="ks_live_x")
    assert (answer.status, answer.json["code"]) == (503, "unavailable")


@contextmanager
def over_http(app):
    class Server(ThreadingMixIn, WSGIServer):
        daemon_threads = True

    class Quiet(WSGIRequestHandler):
        def log_message(self, *_):
            pass

    with make_server("127.0.0.1", 0, app, Server, Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()

        def send(method, path, key=None, body=None, **headers):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
            if key:
                headers["Authorization"] = f"Bearer {key}"
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            content = response.read()
            connection.close()
            return response.status, dict(response.getheaders()), content

        send.port = server.server_port
        try:
            yield send
        finally:
            server.shutdown()
            thread.join()


def test_flask(site, caplog):
    flask = pytest.importorskip("flask")
    caplog.set_level(logging.DEBUG)
    app = flask.Flask(__name__)

    @app.get("/photos")
    def listed():
        rows = flask.request.environ["keysmith"].connection.execute("SELECT name FROM photo ORDER BY id").fetchall()
        return {"photos": [name for name, in rows]}

    @app.post("/photos")
    def add():
        flask.request.environ["keysmith"].connection.execute(
            "INSERT INTO photo (name) VALUES (%s)", [flask.request.get_json()["name"]])
        if flask.request.args.get("abort"):
            flask.abort(418)
        return {}, 201

    @app.get("/stream")
    def stream():
        connection = flask.request.environ["keysmith"].connection

        def rows():
            yield "a"
            connection.execute("SELECT name FROM photo")

        return app.response_class(flask.stream_with_context(rows()))

    key, globex = site.key(), site.key("globex")
    with ConnectionPool(site.dsn, min_size=1, max_size=2, timeout=5) as pool:
        app.wsgi_app = KeysmithMiddleware(app.wsgi_app, pool)
        with over_http(app) as send:
            assert send("POST", "/photos", key, '{"name": "one"}', Content_Type="application/json")[0] == 201
            assert send("POST", "/photos?abort=1", key, '{"name": "two"}', Content_Type="application/json")[0] == 418
            assert send("POST", "/photos", key, '{"nam', Content_Type="application/json")[0] == 400
            assert send("POST", "/photos", key, '{}', Content_Type="application/json")[0] == 500
            assert json.loads(send("GET", "/photos", key)[2]) == {"photos": ["one"]}
            assert json.loads(send("GET", "/photos", globex)[2]) == {"photos": []}
            assert send("GET", "/photos")[0] == 401
            status, headers, content = send("POST", "/v1/keys", key, '{"label": "CI"}',
                                            Content_Type="application/x-www-form-urlencoded")
            assert status == 201 and headers["Cache-Control"] == "no-store" and json.loads(content)["label"] == "CI"
            assert send("GET", "/nowhere", key)[0] == 404
            with pytest.raises((http.client.HTTPException, OSError)):
                status, _, content = send("GET", "/stream", key)
                assert content == b"a"
                raise OSError
    assert site.photos() == [("acme", "one")]
    assert [status for status, in site.logged("status")] == [201, 418, 400, 500, 200, 200, 201, 404, 200]
    assert key not in caplog.text and not site.busy()


def test_sessions(site):
    sqlalchemy = pytest.importorskip("sqlalchemy")
    from sqlalchemy.orm import sessionmaker

    def named(environ, start_response):
        session = environ["keysmith"].session
        session.execute(sqlalchemy.text("INSERT INTO photo (name) VALUES (:name)"), {"name": environ["PATH_INFO"]})
        session.commit()
        start_response(environ["QUERY_STRING"] or "200 OK", [("Content-Type", "text/plain")])
        return [str(session.execute(sqlalchemy.text("SELECT count(*) FROM photo")).scalar()).encode()]

    engine = sqlalchemy.create_engine(site.url("psycopg"), pool_size=1, max_overflow=0, pool_timeout=5)
    app, key = KeysmithMiddleware(named, sessions=sessionmaker(engine)), site.key()
    answers = [Answer(app, "GET", path, key) for path in ("/a", "/b?404 No", "/c")]
    engine.dispose()
    assert [(answer.status, answer.content) for answer in answers] == [(200, b"1"), (404, b"2"), (200, b"2")]
    assert site.photos() == [("acme", "/a"), ("acme", "/c")]
