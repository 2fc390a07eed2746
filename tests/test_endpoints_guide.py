"""The server of docs/endpoints.md, as it is printed there."""

import asyncio
import json
from pathlib import Path

import pytest

import test_docs
from serving import ENDPOINTS

GUIDE = (Path(__file__).parent.parent / "docs/endpoints.md").read_text()


@pytest.fixture
def application(cluster, dbname, db, monkeypatch):
    """The application, after the guide's definitions. It connects as the guide's role."""
    (source,) = [block.text for block in test_docs.fences(GUIDE) if block.info == "python"]
    definitions = [block.text for block, output in test_docs.examples(GUIDE) if output is None]
    for name, value in {"PGHOST": cluster.dir, "PGPORT": cluster.port, "PGUSER": "api", "PGDATABASE": dbname}.items():
        monkeypatch.setenv(name, str(value))
    for block in definitions[:3]:
        db.rows(block)
    module = {}
    exec(compile(source, "docs/endpoints.md", "exec"), module)
    yield module
    cluster.execute("DROP OWNED BY api", dbname)
    cluster.execute("DROP ROLE api")


@pytest.fixture
def send(application, db):
    db.tenant("acme")

    def send(method, path, content=b"", key=None, **headers):
        path, _, query = path.partition("?")
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if key:
            headers["authorization"] = f"Bearer {key.api_key}"
        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(),
                 "query_string": query.encode(), "client": ("192.0.2.7", 4711),
                 "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        parts = [{"type": "http.request", "body": content[:3], "more_body": True},
                 {"type": "http.request", "body": content[3:]}]
        sent = []

        async def receive():
            return parts.pop(0)

        async def keep(message):
            # What is sent is committed.
            sent.append((message, db.value("SELECT count(*) FROM keysmith.keys")))

        asyncio.run(application["app"](scope, receive, keep))
        (start, keys), (body, _) = sent
        answered = {name.decode(): value.decode() for name, value in start["headers"]}
        return start["status"], answered, json.loads(body["body"]) if body["body"] else None, keys

    return send


def test_a_customer_manages_keys(send, db):
    key = db.mint(scopes=["keys:write"])
    status, headers, body, keys = send("POST", "/v1/keys", {"label": "CI"}, key, content_type="application/json")
    assert (status, headers["Cache-Control"], body["label"], keys) == (201, "no-store", "CI", 2)
    assert db.reason(body["api_key"]) == "ok"
    made = body["key_id"]
    status, _, body, _ = send("GET", "/v1/keys?per_page=1&page=2", key=key)
    assert (status, [row["key_id"] for row in body["keys"]]) == (200, [made])
    assert send("DELETE", f"/v1/keys/{made}", key=key)[0] == 200
    assert send("DELETE", f"/v1/keys/{made}", key=key)[0] == 404
    assert send("GET", "/v1/me", key=key)[2]["tenant"] == "acme"


def test_each_endpoint_of_the_guide_is_there(application, db):
    listed = db.rows("SELECT method, pattern, operation FROM keysmith.endpoints")
    assert set(listed) == set(ENDPOINTS) - {("POST", "/v1/regenerate", "regenerate")}


def test_other_requests_are_the_products(send, db):
    limited = db.mint(limits='[{"name": "burst", "limit": 5, "window": "1 hour"}]')
    status, headers, body, _ = send("GET", "/v1/orders", key=limited)
    assert (status, body) == (200, {"path": "/v1/orders", "tenant": "acme"})
    assert headers["RateLimit-Policy"].startswith('"burst";q=5')
    assert send("GET", "/v1/orders")[0] == 401


def test_what_is_not_json(send, db):
    key = db.mint(scopes=["keys:write"])
    for content in (b"{", b"\xff", b"[" * 100_000, b'"\\u0000"', b'{"label": "\\ud800"}'):
        status, _, _, keys = send("POST", "/v1/keys", content, key)
        assert (status, keys) == (400, 1), content
    assert send("POST", "/v1/orders", b"{", key)[0] == 200


def test_a_database_that_cannot_be_reached(send, db, monkeypatch):
    key = db.mint(scopes=["keys:write"])
    monkeypatch.setenv("PGPORT", "1")
    assert send("POST", "/v1/keys", {}, key)[0] == 503
