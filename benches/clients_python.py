"""What the Python package adds to a framework's own time of a request: processor time of one worker.

The decision is excluded: a pool of a driver that answers at once. Two workers, one with the middleware and one without,
get the same requests in short rounds by turns. Beside that, with a real database: the middleware against code that does
the same by hand, begin, authenticate_json, log_request and commit.
"""

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace

import ratios
import report

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "clients/python/src"))

KEY = os.environ.get("KEYSMITH_BENCH_KEY", "ks_live_none")
REQUEST = ("GET /photos HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nUser-Agent: python-requests/2.32.3\r\nAccept: application/json\r\n"
           f"Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nAuthorization: Bearer {KEY}\r\n\r\n").encode()
ROW = (False, 200, '{"RateLimit": "\\"hourly\\";r=59;t=60", "RateLimit-Policy": "\\"hourly\\";q=60;w=3600"}', None,
       "01936d5e-0000-7000-8000-000000000000", True, "acme", "01936d5e-0000-7000-8000-000000000001")

# The pairs, and what the second one has that the first has not.
PAIRS = {"fastapi": ("FastAPI", "bare", "middleware"),
         # A handler with a model and a connection, from its own dependency or from the package.
         "fastapi connection": ("FastAPI, with a connection", "own dependency", "dependency"),
         "flask": ("Flask", "bare", "middleware")}
BY_HAND = {"fastapi": ("FastAPI, real database", "by hand", "database"), "flask": ("Flask, real database", "by hand", "database")}


def without_a_server():
    """A pool, and a driver in the place of psycopg, that answer at once."""
    from keysmith import pools

    class Connection:
        adapters = None
        closed = False

        def __init__(self):
            # As many attributes as psycopg's have: they are copied.
            self.__dict__ |= {f"attribute{n}": None for n in range(20)}
            self.pgconn = SimpleNamespace(transaction_status=pools.pq.TransactionStatus.IDLE,
                                          pipeline_status=pools.pq.PipelineStatus.OFF)

    connection = Connection()

    class Cursor:
        def __init__(self, connection, row_factory):
            pass

        def execute(self, statement, parameters):
            return self

        def fetchone(self):
            return ROW

    # What is awaited without a wait, and costs next to nothing. Made in the loop, by the first request.
    class Done:
        nothing = row = None

    class Block:
        def __init__(self, connection):
            pass

        def __enter__(self):
            pass

        def __exit__(self, *_):
            pass

        def __aenter__(self):
            return Done.nothing

        def __aexit__(self, *_):
            return Done.nothing

    class AsyncCursor(Cursor):
        def execute(self, statement, parameters):
            return Done.nothing

        def fetchone(self):
            return Done.row

    class Pool:
        def getconn(self):
            return connection

        def putconn(self, connection):
            pass

    class AsyncPool:
        async def getconn(self):
            if Done.nothing is None:
                Done.nothing, Done.row = asyncio.Future(), asyncio.Future()
                Done.nothing.set_result(None)
                Done.row.set_result(ROW)
            return connection

        def putconn(self, connection):
            return Done.nothing

    pools.psycopg = SimpleNamespace(RawCursor=Cursor, AsyncRawCursor=AsyncCursor, Transaction=Block, AsyncTransaction=Block,
                                    InterfaceError=RuntimeError, OperationalError=RuntimeError)
    return Pool(), AsyncPool()


AUTHENTICATE = "SELECT keysmith.authenticate_json(%s::text::jsonb, %s, %s, ip => %s::text::inet)"
LOG = "SELECT keysmith.log_request(200, make_interval(secs => %s))"


def fastapi(kind, listening):
    import json

    import uvicorn
    from fastapi import Depends, FastAPI, HTTPException, Request
    from keysmith.asgi import KeysmithMiddleware
    from keysmith.fastapi import Connection
    from psycopg_pool import AsyncConnectionPool
    from pydantic import BaseModel

    app, photos = FastAPI(), [{"id": n, "name": f"photo {n}"} for n in range(10)]
    pool = AsyncConnectionPool(min_size=1, max_size=1, open=False)

    @asynccontextmanager
    async def lifespan(app):
        async with pool:
            yield

    if kind in ("by hand", "database"):
        app.router.lifespan_context = lifespan
    if kind in ("middleware", "dependency"):
        app.add_middleware(KeysmithMiddleware, pool=without_a_server()[1])
    elif kind == "database":
        app.add_middleware(KeysmithMiddleware, pool=pool)

    async def authenticated(request: Request):
        began = time.perf_counter()
        async with pool.connection() as connection:
            headers = json.dumps({name: request.headers.getlist(name) for name in request.headers})
            cursor = await connection.execute(AUTHENTICATE, [headers, request.method, request.url.path, request.client.host])
            (verdict,) = await cursor.fetchone()
            if not verdict["ok"]:
                raise HTTPException(verdict["status"], verdict["code"])
            yield connection
            await connection.execute(LOG, [time.perf_counter() - began])

    class Photo(BaseModel):
        id: int
        name: str

    async def own_dependency():
        fake = without_a_server()[1] if not hasattr(app, "fake") else app.fake
        app.fake = fake
        connection = await fake.getconn()
        try:
            yield connection
        finally:
            await fake.putconn(connection)

    if kind == "dependency":
        @app.get("/photos")
        async def listed(db: Connection) -> list[Photo]:
            return photos
    elif kind == "own dependency":
        @app.get("/photos")
        async def listed(db=Depends(own_dependency)) -> list[Photo]:
            return photos
    elif kind == "by hand":
        @app.get("/photos")
        async def listed(db=Depends(authenticated, scope="function")):
            return photos
    else:
        @app.get("/photos")
        async def listed():
            return photos

    uvicorn.Server(uvicorn.Config(app, log_level="warning", http=os.environ.get("KEYSMITH_BENCH_HTTP", "auto"))).run(sockets=[listening])


def flask(kind, listening):
    import json

    from flask import Flask, abort, jsonify, request
    from keysmith.wsgi import KeysmithMiddleware
    from psycopg_pool import ConnectionPool
    from werkzeug.serving import WSGIRequestHandler, make_server

    app, photos = Flask(__name__), [{"id": n, "name": f"photo {n}"} for n in range(10)]

    @app.get("/photos")
    def listed():
        return jsonify(photos)

    if kind == "middleware":
        app.wsgi_app = KeysmithMiddleware(app.wsgi_app, without_a_server()[0])
    elif kind == "database":
        app.wsgi_app = KeysmithMiddleware(app.wsgi_app, ConnectionPool(min_size=1, max_size=1, open=True))
    elif kind == "by hand":
        pool = ConnectionPool(min_size=1, max_size=1, open=True)

        def authenticated():
            began = time.perf_counter()
            with pool.connection() as connection:
                headers = json.dumps(dict(request.headers))
                (verdict,) = connection.execute(AUTHENTICATE, [headers, request.method, request.path, request.remote_addr]).fetchone()
                if not verdict["ok"]:
                    abort(verdict["status"])
                response = jsonify(photos)
                connection.execute(LOG, [time.perf_counter() - began])
            return response

        app.view_functions["listed"] = authenticated

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, *_):
            pass

    make_server("127.0.0.1", 0, app, request_handler=Handler, fd=listening.fileno()).serve_forever()


class Worker:
    """A server in a process of its own, and a connection to it."""

    def __init__(self, framework, kind, environment):
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.listening.set_inheritable(True)
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", framework, kind, str(self.listening.fileno())],
            close_fds=False, env=os.environ | environment)
        self.request = REQUEST.replace(KEY.encode(), environment.get("KEYSMITH_BENCH_KEY", KEY).encode())
        self.client = None
        self.connect()

    def connect(self):
        if self.client:
            self.client.close()
        self.client = socket.create_connection(self.listening.getsockname())
        self.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, times):
        """The processor time of the worker, in seconds, per request."""
        before = self.used()
        for _ in range(times):
            self.client.sendall(self.request)
            answer = self.client.recv(65536) or sys.exit("the worker does not answer")
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            while len(body) < int(lines[b"content-length"]):
                body += self.client.recv(65536) or sys.exit("the answer ends too early")
            if lines.get(b"connection") == b"close":
                self.connect()
        return (self.used() - before) / times

    def used(self):
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def close(self):
        self.client.close()
        self.process.terminate()
        self.process.wait()
        self.listening.close()


def compare(framework, first, second, rounds, requests, environment):
    workers = [Worker(framework, kind, environment) for kind in (first, second)]
    try:
        for worker in workers:
            worker.ask(requests)
        times = ([], [])
        for n in range(rounds):
            for which in ((0, 1) if n % 2 else (1, 0)):
                times[which].append(workers[which].ask(requests))
        return times
    finally:
        for worker in workers:
            worker.close()


def row(name, first, second, times):
    base, ours = (statistics.median(each) * 1e6 for each in times)
    change = (ratios.median_ratio(times[1], times[0]) - 1) * 100
    spread = [(b / a - 1) * 100 for a, b in zip(*times)]
    return name, first, f"{base:.0f} µs", second, f"{ours:.0f} µs", f"{change:+.1f} %", ratios.spread(spread, " %")


@contextmanager
def database():
    """A server with a key, and the environment of a worker that asks it."""
    sys.path.insert(0, str(ROOT / "tests"))
    import cluster as clusters

    with clusters.running("bench") as cluster:
        cluster.psql("CREATE EXTENSION keysmith; CREATE ROLE app LOGIN; SELECT keysmith.grant_access('app', 'verifier'); "
                     "SELECT keysmith.create_tenant('acme');")
        ((key,),) = cluster.execute("SELECT api_key FROM keysmith.mint('acme')")
        yield {"PGHOST": str(cluster.dir), "PGPORT": str(cluster.port), "PGUSER": "app", "PGDATABASE": "postgres",
               "KEYSMITH_BENCH_KEY": key}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--requests", type=int, default=500, help="of each round")
    parser.add_argument("--without-database", action="store_true")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        framework, kind, descriptor = options.serve
        {"fastapi": fastapi, "flask": flask}[framework](kind, socket.socket(fileno=int(descriptor)))
        return
    rows = []
    for key, (name, first, second) in PAIRS.items():
        rows.append(row(name, first, second, compare(key.split()[0], first, second, options.rounds, options.requests, {})))
    if not options.without_database:
        with database() as environment:
            for key, (name, first, second) in BY_HAND.items():
                times = compare(key, first, second, options.rounds, options.requests, environment)
                rows.append(row(name, first, second, times))
    print(report.markdown_table(("framework", "", "per request", "", "per request", "difference", "quartiles"), rows))
    print(f"\n{report.processor()}; `{report.command()}`; medians of {options.rounds} rounds by turns.")


if __name__ == "__main__":
    main()
