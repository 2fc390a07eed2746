"""A database for the Python package's tests: photos of two tenants, and the role `app` of the application."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "clients/python/src"
sys.path.insert(0, str(SOURCE))

# Each statement is made once per test, in the test's own database.
SCHEMA = """
CREATE TABLE photo (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id uuid NOT NULL DEFAULT keysmith.current_tenant_id(),
    name text NOT NULL UNIQUE DEFERRABLE INITIALLY DEFERRED);
GRANT SELECT, INSERT, UPDATE, DELETE ON photo TO app;
SELECT keysmith.isolate('photo', 'tenant_id');
CREATE TABLE note (text text);
GRANT SELECT, INSERT ON note TO app;
SELECT keysmith.grant_access('app', level) FROM unnest('{verifier,issuer,host}'::text[]) level;
SELECT keysmith.define_endpoint('default', method, pattern, operation)
FROM (VALUES ('POST', '/v1/keys', 'mint'), ('GET', '/v1/keys', 'list_keys'), ('DELETE', '/v1/keys/{id}', 'revoke'),
             ('GET', '/v1/me', 'whoami')) AS e (method, pattern, operation);
SELECT keysmith.define_route('default', 'GET', '/public', '', public => true);
"""


@dataclass
class Site:
    db: object
    cluster: object
    dbname: str

    @property
    def dsn(self):
        return self.cluster.dsn(self.dbname, "app")

    def url(self, driver):
        return f"postgresql+{driver}://app@/{self.dbname}?host={self.cluster.dir}&port={self.cluster.port}"

    def key(self, tenant="acme", **options):
        options.setdefault("scopes", ["*"])
        return self.db.mint(tenant, **options).api_key

    def photos(self):
        """All photos, with their tenants."""
        return [tuple(row) for row in self.db.rows(
            "SELECT t.name AS tenant, p.name FROM photo p JOIN keysmith_private.tenant t USING (tenant_id) ORDER BY p.id")]

    def logged(self, *columns):
        """What is on record of the requests, in their order."""
        self.db.call("flush_usage")
        return [tuple(row) for row in self.db.rows(
            f"SELECT {', '.join(columns)} FROM keysmith.usage ORDER BY request_id")]

    def busy(self):
        """The number of sessions of the application that are within a transaction."""
        return self.db.value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state <> 'idle'")


@pytest.fixture
def site(cluster, dbname, db):
    cluster.execute("DROP ROLE IF EXISTS app")
    cluster.execute("CREATE ROLE app LOGIN")
    cluster.psql(SCHEMA, dbname)
    for tenant in ("acme", "globex"):
        db.tenant(tenant)
    yield Site(db, cluster, dbname)
    cluster.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
    cluster.execute("DROP OWNED BY app", dbname)
    cluster.execute("DROP ROLE app")


def bearer(key):
    return {"authorization": f"Bearer {key}"}


async def answering(send, content, status=200, headers=None):
    """Sends an answer of an ASGI application."""
    await send({"type": "http.response.start", "status": status, "headers": [*(headers or {}).items()]})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})


class Http:
    """Sends requests to an ASGI application in this process. The answers are complete before it returns."""

    def __init__(self, app):
        self.app = app

    async def send(self, method, path, key=None, body=b"", headers=(), messages=None, scope=None, **more):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        path, _, query = path.partition("?")
        pairs = [(b"host", b"test")] + [(name.encode(), value.encode("latin-1")) for name, value in dict(headers).items()]
        if key:
            pairs.append((b"authorization", f"Bearer {key}".encode()))
        given, scope = scope or {}, {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "root_path": "",
                 "query_string": query.encode(), "client": ("192.0.2.7", 4711), "headers": pairs, "scheme": "http",
                 "http_version": "1.1", "server": ("test", 80), "asgi": {"version": "3.0"}}
        scope |= more | given
        parts = list([{"type": "http.request", "body": body}] if messages is None else messages)
        answer = Answer()

        async def receive():
            return parts.pop(0) if parts else {"type": "http.disconnect"}

        async def keep(message):
            answer.messages.append(message)

        await self.app(scope, receive, keep)
        return answer


class Answer:
    def __init__(self):
        self.messages = []

    @property
    def status(self):
        (start,) = [message for message in self.messages if message["type"] == "http.response.start"]
        return start["status"]

    @property
    def headers(self):
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def content(self):
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def json(self):
        return json.loads(self.content)
