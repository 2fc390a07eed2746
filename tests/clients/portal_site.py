"""A site with the portal over a test's database: the demo's server, whose answers and pages a test may change."""

import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

import browser as browsers
from serving import ENDPOINTS

FOLDER = Path(__file__).resolve().parents[2] / "clients/portal"
sys.path.append(str(FOLDER))

import demo  # noqa: E402

ADDRESS = "203.0.113.9"


class Handler(demo.Handler):
    def served(self, body):
        self.server.requests.append((self.command, self.path, self.headers, body))
        return self.server.instead(self) or super().served(body)

    def file(self):
        page = self.server.pages.get(self.path)
        if page is None:
            return super().file()
        self.send(200, {"Content-Type": demo.TYPES[Path(self.path).suffix], "Content-Security-Policy": demo.POLICY}, page.encode())


class Site:
    """`instead` may answer a request with status, headers and body; `pages` are files; `requests` is what came."""

    def __init__(self, browser, db, server):
        self.browser, self.db, self.server = browser, db, server
        self.port = server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        server.requests, server.pages, server.instead = [], {}, lambda request: None
        server.handle_error = lambda *_: None

    def show(self, attributes="", before="", script=""):
        """Opens a page with a portal that has these attributes, and waits for its list."""
        self.server.pages["/page.js"] = script + "\nimport './keysmith-portal.js';"
        self.server.pages["/page.html"] = f"""<!doctype html><html lang="en"><meta charset="utf-8"><meta name="color-scheme"
            content="light dark"><title>A page</title><link rel="icon" href="/page.css"><link rel="stylesheet" href="page.css">
            <script type="module" src="page.js"></script>{before}<keysmith-portal {attributes}></keysmith-portal></html>"""
        self.browser.console()
        self.browser.open(self.url + "/page.html")
        self.browser.wait(lambda: self.browser.script("return shadow && !shadow.querySelector('[aria-busy]')"))
        return self.browser

    def key(self, label):
        """The only row of the keys with this label."""
        return self.db.row("SELECT * FROM keysmith.keys WHERE label = %s", label)

    def asked(self, method):
        return [(path, body) for verb, path, _, body in self.server.requests if verb == method]


@pytest.fixture(scope="module")
def browser():
    with browsers.running() as opened:
        yield opened


@contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def site(cluster, dbname, db, browser):
    browser.size(1100, 900)
    browser.media(prefers_color_scheme="light", prefers_reduced_motion="reduce")
    for method, pattern, operation in ENDPOINTS:
        db.call("define_endpoint", "default", method, pattern, operation)
    db.call("define_role", "default", "owner", ["*"])
    db.tenant("acme")
    db.call("set_member", "acme", "ann@acme.example", "owner")
    cluster.execute("CREATE ROLE portal_test LOGIN")
    for level in ("host", "verifier"):
        db.call("grant_access", "portal_test", level, keyspace="default")
    with serving(demo.server(cluster.dsn(dbname, "portal_test"), handler=Handler)) as server:
        yield Site(browser, db, server)
        browser.open("about:blank")
    cluster.execute("DROP OWNED BY portal_test", dbname)
    cluster.execute("DROP ROLE portal_test")
