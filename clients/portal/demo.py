"""The server of `make portal`: a page on which a customer manages its keys, for this computer only.

It makes the database `portal` anew. Whoever opens the page is Ann of acme. An application looks at the
cookie of a session instead.
"""

import argparse
import json
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import namedtuple_row

HERE = Path(__file__).resolve().parent
MOST_BYTES = 128 << 10
NOT_JSON = '"not JSON"'
# PostgreSQL can't read it as JSON, or it is nested too deeply.
UNREADABLE = psycopg.DataError, psycopg.errors.StatementTooComplex
ACT_AS = "SELECT keysmith.act_as('acme', 'ann@acme.example')"
SERVE = "SELECT status, headers, body FROM keysmith.serve(%s::jsonb, %s, %s, %s::jsonb, peer => %s)"
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css"}
POLICY = ("default-src 'self'; style-src 'self'; script-src 'self'; base-uri 'none'; form-action 'none'; "
          "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'")


def prepare(dsn):
    """Makes the database, and returns the way to it as the role of the dashboard."""
    with psycopg.connect(dsn, autocommit=True) as server:
        server.execute("DROP DATABASE IF EXISTS portal WITH (FORCE)")
        server.execute("CREATE DATABASE portal")
        if not server.execute("SELECT FROM pg_roles WHERE rolname = 'portal_web'").fetchone():
            server.execute("CREATE ROLE portal_web LOGIN")
    # Each statement is a transaction: one that has authenticated a key goes on with the key's rights.
    with psycopg.connect(dsn, dbname="portal", autocommit=True) as database:
        for statement in (HERE / "demo.sql").read_text().split(";\n"):
            database.execute(statement)
    return make_conninfo(dsn, dbname="portal", user="portal_web")


class Handler(BaseHTTPRequestHandler):
    """The files of this folder, and the endpoints of the database."""

    def __init__(self, dsn, *arguments):
        self.dsn = dsn
        super().__init__(*arguments)

    def answer(self):
        if self.headers.get("Host", "").rpartition(":")[0] not in ("127.0.0.1", "localhost"):
            return self.problem(403, "forbidden", "This page is for its own computer only.")
        if not self.path.startswith("/v1/"):
            return self.file()
        try:
            self.send(*self.served(self.body()))
        except UNREADABLE:
            self.problem(400, "invalid_request", "The request can't be read.")
        except psycopg.Error:
            self.problem(503, "unavailable", "The service is unavailable.")

    do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = do_OPTIONS = answer

    def served(self, body):
        """What the database answers. It is sent after the commit, as only then it is true."""
        headers = {name: self.headers.get_all(name) for name in self.headers}
        request = [json.dumps(headers), self.command, self.path, body, self.client_address[0]]
        try:
            with psycopg.connect(self.dsn, row_factory=namedtuple_row) as connection:
                connection.execute(ACT_AS)
                return connection.execute(SERVE, request).fetchone()
        except UNREADABLE:
            if body in (None, NOT_JSON):
                raise
            return self.served(NOT_JSON)

    def body(self):
        """As text: PostgreSQL reads JSON. It answers 413 by the header of a body that is too long to be read here."""
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            return None
        try:
            return self.rfile.read(int(length)).decode() or None
        except UnicodeDecodeError:
            return NOT_JSON

    def file(self):
        file = (HERE / (self.path.partition("?")[0].lstrip("/") or "index.html")).resolve()
        if not (file.is_relative_to(HERE) and file.suffix in TYPES and file.is_file()):
            return self.problem(404, "not_found", "There is nothing here.")
        self.send(200, {"Content-Type": TYPES[file.suffix], "Content-Security-Policy": POLICY, "Cache-Control": "no-store",
                        "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}, file.read_bytes())

    def problem(self, status, code, message):
        self.send(status, {"Content-Type": "application/json", "Cache-Control": "no-store"}, {"code": code, "message": message})

    def send(self, status, headers, body):
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with suppress(ConnectionError):
                self.wfile.write(content)

    def log_message(self, *_):
        """Nobody needs a line for each file."""


def server(dsn, port=0, handler=Handler):
    return ThreadingHTTPServer(("127.0.0.1", port), partial(handler, dsn))


def main():
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--dsn", default="", help="how to connect as a superuser, such as 'host=/tmp user=postgres'")
    arguments.add_argument("--port", type=int, default=8017)
    given = arguments.parse_args()
    with server(prepare(given.dsn), given.port) as there:
        print(f"http://127.0.0.1:{there.server_port}/  (Ctrl-C ends it)", flush=True)
        try:
            there.serve_forever()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    main()
