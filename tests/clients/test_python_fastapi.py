"""The Python package's dependencies for FastAPI, on a real uvicorn over real HTTP."""

import asyncio
import logging
import socket
import threading
from contextlib import asynccontextmanager

import psycopg
import pytest

import python_site
from conftest import wait_until
from python_server import over_http
from python_site import site  # noqa: F401

pytest.importorskip("psycopg_pool")
pytest.importorskip("sqlalchemy")
fastapi = pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
from fastapi import BackgroundTasks, FastAPI, HTTPException, WebSocket  # noqa: E402
from fastapi.responses import StreamingResponse  # noqa: E402
from psycopg_pool import AsyncConnectionPool, ConnectionPool  # noqa: E402
from sqlalchemy import create_engine, text  # noqa: E402
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine  # noqa: E402
from sqlalchemy.orm import sessionmaker  # noqa: E402

from keysmith.asgi import KeysmithMiddleware  # noqa: E402
from keysmith.fastapi import (Caller, Connection, Session, SyncCaller, SyncConnection, SyncSession,  # noqa: E402
                              requires)


def application(site, **options):
    """An application of psycopg's pool, which it opens when it starts."""
    @asynccontextmanager
    async def lifespan(app):
        async with AsyncConnectionPool(site.dsn, min_size=1, max_size=2, open=False, timeout=10) as app.state.pool:
            yield

    app = FastAPI(lifespan=lifespan)
    app.add_middleware(KeysmithMiddleware, pool=lambda: app.state.pool, **options)
    app.later = []

    @app.get("/photos")
    async def listed(db: Connection):
        return [name for name, in await (await db.execute("SELECT name FROM photo ORDER BY id")).fetchall()]

    @app.post("/photos", status_code=201)
    async def add(photo: dict, db: Connection, caller: Caller, tasks: BackgroundTasks):
        async def use(what):
            try:
                await db.execute("SELECT 1")
            except psycopg.InterfaceError as error:
                app.later.append((what, site.photos(), str(error)))

        tasks.add_task(use, "task")
        await db.execute("INSERT INTO photo (name) VALUES (%s)", [photo["name"]])
        caller.tags["kind"] = "photo"
        if photo.get("refuse"):
            raise HTTPException(418, "no", headers={"X-Mine": "yes"})
        if photo.get("fail"):
            raise ZeroDivisionError
        return {"tenant": caller.tenant}

    @app.get("/stream")
    async def stream(db: Connection):
        async def rows():
            yield b"a"
            try:
                await db.execute("SELECT 1")
            except psycopg.InterfaceError:
                yield b"b"

        return StreamingResponse(rows())

    @app.get("/secret", dependencies=[requires("secrets:read")])
    async def secret():
        return "secret"

    @app.get("/mint")
    async def mint(db: Connection):
        await db.execute("SELECT keysmith.create_tenant('third')")

    @app.get("/sleep")
    async def sleep(db: Connection):
        await db.execute("INSERT INTO photo (name) VALUES ('slept')")
        await db.execute("SELECT pg_sleep(0.3)")

    @app.websocket("/live")
    async def live(socket: WebSocket, caller: Caller):
        await socket.accept()
        await socket.send_text(caller.tenant)
        await socket.close()

    @app.get("/wrong")
    async def wrong(db: SyncConnection):
        return "never"

    return app


def test_the_life_of_requests(site, caplog):
    caplog.set_level(logging.DEBUG)
    acme, globex = site.key("acme", limits='[{"name": "hourly", "limit": 90, "window": "1 hour"}]'), site.key("globex")
    app = application(site)
    with over_http(app) as send:
        made = send("POST", "/photos", acme, {"name": "one"})
        assert (made.status, made.json) == (201, {"tenant": "acme"}) and made.headers["ratelimit"].startswith('"hourly"')
        refused = send("POST", "/photos", acme, {"name": "two", "refuse": True})
        assert (refused.status, refused.json, refused.headers["x-mine"]) == (418, {"detail": "no"}, "yes")
        assert send("POST", "/photos", acme, {"name": "three", "fail": True}).status == 500
        assert send("POST", "/photos", acme, [1]).status == 422
        assert send("POST", "/photos", acme, "{", Content_Type="application/json").status == 422
        assert send("POST", "/photos", acme, {"name": "one"}).status == 503
        assert send("GET", "/photos", acme).json == ["one"] and send("GET", "/photos", globex).json == []
        assert send("GET", "/stream", acme).content == b"ab"
        assert send("HEAD", "/photos", acme).status == 405 and send("GET", "/nowhere", acme).status == 404
        assert send("GET", "/photos").status == 401
        assert send("POST", "/v1/keys", globex, {"label": "CI"}).json["label"] == "CI"
        assert send("POST", "/v1/keys", globex, "{" * 200_000).status == 413
        forbidden = send("GET", "/mint", acme)
        assert (forbidden.status, forbidden.json["code"]) == (403, "forbidden")
    assert site.photos() == [("acme", "one")]
    ((what, photos, error),) = app.later[:1]
    assert (what, photos) == ("task", [("acme", "one")]) and "has ended" in error
    assert [status for status, in site.logged("status")] == [
        201, 418, 500, 422, 422, 503, 200, 200, 200, 405, 404, 201, 413, 403]
    assert site.logged("tags")[0] == ({"kind": "photo"},)
    assert not site.busy() and acme not in caplog.text and globex not in caplog.text


def test_scopes_of_routes_that_the_database_does_not_list(site):
    good, bad = site.key(scopes=["secrets:read"]), site.key(scopes=["other"])
    with over_http(application(site)) as send:
        assert send("GET", "/secret", good).json == "secret"
        refused = send("GET", "/secret", bad)
    assert (refused.status, refused.json["code"]) == (403, "insufficient_scope")


def test_a_dependency_without_a_middleware_or_of_the_other_kind(site):
    """No decision, no answer."""
    app = application(site, paths=("/photos", "/wrong"))
    with over_http(app) as send:
        assert send("GET", "/secret", site.key()).status == 500
        assert send("GET", "/wrong", site.key()).status == 500
        assert send("GET", "/photos", site.key()).status == 200


def test_openapi_says_which_routes_take_a_key(site):
    document = application(site).openapi()
    assert document["components"]["securitySchemes"]["keysmith"]["scheme"] == "bearer"
    assert document["paths"]["/photos"]["get"]["security"] == [{"keysmith": []}]
    assert document["paths"]["/photos"]["post"]["security"] == [{"keysmith": []}]
    assert document["paths"]["/secret"]["get"]["security"] == [{"keysmith": ["secrets:read"]}]
    assert "caller" not in str(document["paths"]["/photos"]["post"].get("parameters"))


def test_websockets(site):
    sync = pytest.importorskip("websockets.sync.client")
    from websockets.exceptions import InvalidStatus

    key = site.key()
    with over_http(application(site)) as send:
        address = f"ws://127.0.0.1:{send.port}/live"
        with sync.connect(address, additional_headers={"X-API-Key": key}) as live:
            assert live.recv() == "acme"
        with pytest.raises(InvalidStatus) as refused:
            sync.connect(address)
        assert refused.value.response.status_code == 401
        assert b"missing_authorization" in refused.value.response.body
    assert site.logged("status") == [(101,)]


def test_a_client_that_leaves_in_the_middle(site):
    """The request ends as if it had stayed, and its session returns to the pool."""
    key = site.key()
    with over_http(application(site)) as send:
        with socket.create_connection(("127.0.0.1", send.port)) as client:
            client.sendall(f"GET /sleep HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
            wait_until(lambda: site.db.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
        wait_until(lambda: not site.busy())
        assert [send("GET", "/photos", key).json for _ in range(3)] == [["slept"]] * 3


@pytest.mark.parametrize("above", [True, False], ids=["above", "below"])
def test_another_middleware_of_starlette(site, above):
    """BaseHTTPMiddleware runs the application in a task of its own."""
    app = application(site)
    seen = []

    async def sees(request, call_next):
        seen.append(await request.body())
        return await call_next(request)

    from starlette.middleware.base import BaseHTTPMiddleware

    if above:
        app.add_middleware(BaseHTTPMiddleware, dispatch=sees)
    else:
        app.user_middleware.append(fastapi.middleware.Middleware(BaseHTTPMiddleware, dispatch=sees))
    key = site.key()
    with over_http(app) as send:
        assert send("POST", "/photos", key, {"name": "one"}).status == 201
        assert send("POST", "/photos", key, {"name": "two", "refuse": True}).status == 418
        assert send("POST", "/photos", key, {"name": "two", "fail": True}).status == 500
        assert send("GET", "/mint", key).status == 403
        assert send("GET", "/photos", key).json == ["one"]
        assert send("GET", "/stream", key).content == b"ab"
        assert send("GET", "/photos").status == 401
    assert seen[0] == b'{"name": "one"}' and not site.busy()


@pytest.mark.parametrize("way", ["mounted", "root path"])
def test_below_a_prefix(site, way):
    """The database is asked about the path by which the application itself routes, with and without the prefix."""
    site.db.rows("SELECT keysmith.alter_keyspace('default', '{\"unlisted_routes\": \"refuse\"}')")
    site.db.rows("SELECT keysmith.define_route('default', 'GET', '/photos', 'a')")
    app = application(site, paths=("/photos", "/stream"))
    if way == "mounted":
        part, app = app, FastAPI(lifespan=app.router.lifespan_context)
        app.mount("/api", part)
        part.state = app.state
    else:
        app.root_path = "/api"
    good, bad = site.key(scopes=["a"]), site.key(scopes=["b"])
    with over_http(app) as send:
        assert send("GET", "/api/photos", good).json == []
        assert send("GET", "/api/photos").status == 401
        assert send("GET", "/api/photos", bad).status == send("GET", "/api/stream", good).status == 403
        assert send("GET", "/photos", bad).status == (404 if way == "mounted" else 403)
    assert ("/photos", 200) in site.logged("endpoint", "status")


@pytest.mark.parametrize("kind", ["async sessions", "sessions", "pool"])
def test_sessions_and_synchronous_handlers(site, kind):
    app = FastAPI()
    if kind == "async sessions":
        engine = create_async_engine(site.url("psycopg"), pool_size=1, max_overflow=0)
        app.add_middleware(KeysmithMiddleware, sessions=async_sessionmaker(engine))

        @app.get("/add")
        async def add(name: str, db: Session, caller: Caller):
            await db.execute(text("INSERT INTO photo (name) VALUES (:name)"), {"name": name})
            await db.commit()
            if name == "no":
                raise HTTPException(400)
            return [caller.tenant, await db.scalar(text("SELECT count(*) FROM photo"))]
    elif kind == "sessions":
        engine = create_engine(site.url("psycopg"), pool_size=3, max_overflow=0)
        app.add_middleware(KeysmithMiddleware, sessions=sessionmaker(engine))

        @app.get("/add")
        def add(name: str, db: SyncSession, caller: SyncCaller):
            db.execute(text("INSERT INTO photo (name) VALUES (:name)"), {"name": name})
            db.commit()
            if name == "no":
                raise HTTPException(400)
            return [caller.tenant, db.scalar(text("SELECT count(*) FROM photo"))]
    else:
        pool = ConnectionPool(site.dsn, min_size=1, max_size=3, open=True)
        app.add_middleware(KeysmithMiddleware, pool=pool)

        @app.get("/add", dependencies=[requires("a")])
        def add(name: str, db: SyncConnection, caller: SyncCaller):
            db.execute("INSERT INTO photo (name) VALUES (%s)", [name])
            if name == "no":
                raise HTTPException(400)
            return [caller.tenant, db.execute("SELECT count(*) FROM photo").fetchone()[0]]

    key = site.key(scopes=["a"])
    with over_http(app) as send:
        assert send("GET", "/add?name=one", key).json == ["acme", 1]
        assert send("GET", "/add?name=no", key).status == 400
        assert send("GET", "/add?name=two", key).json == ["acme", 2]
        assert send("GET", "/add?name=x").status == 401
        # Many threads send requests at the same time; the application has few sessions.
        results = []
        threads = [threading.Thread(target=lambda n=n: results.append(send("GET", f"/add?name=n{n}", key).status))
                   for n in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [200] * 50
    if kind == "async sessions":
        asyncio.run(engine.dispose())
    else:
        (engine.dispose if kind == "sessions" else pool.close)()
    assert len(site.photos()) == 52 and not site.busy()


def test_dependencies_say_what_is_wrong(site):
    from starlette.requests import HTTPConnection

    import keysmith
    from keysmith.fastapi import _Async

    async def ask(scope):
        return await _Async(HTTPConnection({"type": "http", "path": "/x", "headers": []} | scope))

    with pytest.raises(LookupError, match="add KeysmithMiddleware"):
        asyncio.run(ask({}))
    with pytest.raises(LookupError, match="SyncCaller"):
        asyncio.run(ask({"keysmith": keysmith.SyncCaller.__new__(keysmith.SyncCaller)}))
