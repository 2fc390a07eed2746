"""The examples of frameworks: the same requests, by real HTTP, to each of them."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

import examples
from conftest import session, wait_until

SCHEMA = (examples.ROOT / "examples/schema.sql").read_text()
DECISION = re.compile(r"keysmith\.(authenticate|serve)\(")
# The packages for applications note what was answered.
WITH_PACKAGE = {"fastapi", "django", "express"}
COMMENT = {".py": "#", ".rb": "#", ".js": "//"}


@pytest.fixture(scope="module", params=examples.FRAMEWORKS, ids=lambda example: example.name)
def served(request, cluster, tmp_path_factory):
    """A database with the examples' tables, and the application that serves it."""
    example = request.param
    dbname = f"example_{example.name}"
    cluster.execute(f"CREATE DATABASE {dbname}")
    try:
        cluster.psql(SCHEMA, dbname)
        cluster.execute(f"ALTER DATABASE {dbname} SET keysmith.trusted_proxies = '127.0.0.0/8'")
        with examples.running(example, cluster, dbname, tmp_path_factory.mktemp(example.name),
                              TRUSTED_PROXIES="{127.0.0.0/8}") as (port, log):
            yield examples.client(example, port), dbname, log
    finally:
        cluster.execute(f"DROP DATABASE {dbname} WITH (FORCE)")
        cluster.execute("DROP ROLE IF EXISTS app")


@pytest.fixture
def site(served, cluster):
    """A client of the application, and an administrator's session. Two new tenants."""
    http, dbname, _ = served
    db = session(cluster, dbname)
    db.rows("TRUNCATE photo")
    for tenant in ("acme", "globex"):
        db.tenant(tenant, if_not_exists=True)
    yield http, db
    db.session.close()


def test_each_tenant_sees_and_writes_its_own(site):
    http, db = site
    keys = {tenant: db.mint(tenant, scopes=["photos:*"]).api_key for tenant in ("acme", "globex")}
    for tenant, key in keys.items():
        assert http.names(key) == []
        assert http.added(key, f"of {tenant}")
    for tenant, key in [*keys.items()] * 3:
        assert http.names(key) == [f"of {tenant}"]
    owners = db.rows("SELECT t.name AS tenant, p.name FROM photo p JOIN keysmith_private.tenant t USING (tenant_id) ORDER BY 1")
    assert owners == [("acme", "of acme"), ("globex", "of globex")]


def test_without_a_good_key_there_is_nothing(site):
    http, db = site
    assert http.added(db.mint(scopes=["photos:*"]).api_key, "hidden")
    for response, code in [(http.list(), "missing_authorization"),
                           (http.list(Authorization="Bearer a b"), "invalid_authorization"),
                           (http.list("ks_live_nope"), "invalid_api_key")]:
        assert (response.status, response.code) == (401, code)
        assert re.match("Bearer( |$)", response.headers["WWW-Authenticate"])
        assert "hidden" not in str(response.body)


def test_a_scope_that_the_key_lacks(site):
    http, db = site
    key = db.mint(scopes=["photos:read"]).api_key
    response = http.add(key, "mine")
    assert (response.status, response.code) == (403, "insufficient_scope")
    assert http.names(key) == []


def test_a_revoked_key_is_refused_at_once(site):
    http, db = site
    key = db.mint(scopes=["photos:*"])
    assert http.names(key.api_key) == []
    db.call("revoke", key.key_id)
    response = http.list(key.api_key)
    assert (response.status, response.code) == (401, "invalid_api_key")


def test_a_limit_that_is_reached(site):
    http, db = site
    key = db.mint(scopes=["photos:read"],
                  limits='[{"name": "hourly", "limit": 2, "window": "1 hour"}]').api_key
    assert http.names(key) == http.names(key) == []
    response = http.list(key)
    assert (response.status, response.code) == (429, "rate_limited")
    assert 1700 <= int(response.headers["Retry-After"]) <= 1800


def test_what_is_not_listed_is_refused(site):
    http, db = site
    response = http.unlisted(db.mint(scopes=["*"]).api_key, db)
    assert (response.status, response.code) == (403, "insufficient_scope")


@pytest.mark.parametrize("path", ["PHOTOS", "photos/", "/photos", "photos//", "%70hotos", "photos%2F",
                                  "x/../photos", "./photos", "photos;x", "photos?y", "photos%00"])
def test_no_spelling_of_a_path_goes_round_its_scopes(site, path):
    http, db = site
    key = db.mint(scopes=["other"]).api_key
    if isinstance(http, examples.GraphQL):
        path = path.lower().replace("photos", "graphql").replace("%70hotos", "%67raphql")
        response = http.send("POST", f"/{path}", key, {"query": "{ allPhotos { nodes { name } } }"})
    else:
        response = http.send("GET", f"/{path}", key)
    assert response.status >= 300
    assert not {"photos", "data"} & set(response.body)


def test_the_client_is_who_called_the_proxy(site):
    http, db = site
    key = db.mint(scopes=["photos:read"], allowlist=["203.0.113.0/24"]).api_key
    assert http.names(key, X_Forwarded_For="198.51.100.1, 203.0.113.7") == []
    for headers in ({}, {"X_Forwarded_For": "203.0.113.7, 198.51.100.1"}):
        response = http.list(key, **headers)
        assert (response.status, response.code) == (403, "ip_not_allowed")


def test_a_request_that_fails_leaves_nothing_behind(site):
    http, db = site
    key = db.mint(scopes=["photos:*"]).api_key
    for _ in range(4):
        assert http.fail(key) >= 400
        assert http.list().status == 401
    assert http.names(key) == []
    assert not db.rows("SELECT 1 FROM pg_stat_activity WHERE usename = 'app' AND state LIKE 'idle in%'")


@pytest.fixture
def late(site):
    """A table whose commits take time, and may fail."""
    _, db = site
    db.rows("""
        CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.name = 'never' THEN RAISE 'it can''t be'; END IF;
            PERFORM pg_sleep(0.5);
            RETURN NULL;
        END $$;
        CREATE CONSTRAINT TRIGGER late AFTER INSERT ON photo DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION late()""")
    yield
    db.rows("DROP FUNCTION late CASCADE")


def test_what_is_answered_is_committed(site, late):
    http, db = site
    key = db.mint(scopes=["photos:*"]).api_key
    assert http.added(key, "slow")
    assert [tuple(row) for row in db.rows("SELECT name FROM photo")] == [("slow",)]
    response = http.add(key, "never")
    assert response.status >= 400 or response.body.get("errors")
    assert http.names(key) == ["slow"]


def test_tenants_do_not_mix_in_the_pool(site):
    """Many requests over the two sessions that the application has."""
    http, db = site
    keys = {tenant: db.mint(tenant, scopes=["photos:*"]).api_key for tenant in ("acme", "globex")}
    for tenant, key in keys.items():
        assert http.added(key, f"of {tenant}")

    def ask(n):
        tenant = ("acme", "globex", None)[n % 3]
        if tenant is None:
            return http.list().status == 401
        return http.names(keys[tenant]) == [f"of {tenant}"]

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(ask, range(60)))
    assert db.value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'") <= 3


def test_each_request_is_on_record(site, served):
    http, db = site
    key = db.mint(scopes=["photos:*"])
    http.names(key.api_key)
    assert http.added(key.api_key, "x")
    db.call("flush_usage")
    seen = db.rows("SELECT method, endpoint FROM keysmith.usage WHERE key_id = %s", key.key_id)
    assert {tuple(row) for row in seen} == http.requests and len(seen) == 2
    answered = {row.status for row in db.rows("SELECT status FROM keysmith.usage WHERE key_id = %s", key.key_id)}
    assert answered == ({200, 201} if served[1].removeprefix("example_") in WITH_PACKAGE else {200})


def test_the_key_is_no_part_of_a_statement(site, served, cluster):
    """The key is bound: a logged statement shows it only among the parameters."""
    http, db = site
    key = db.mint(scopes=["photos:read"]).api_key
    start = cluster.log.stat().st_size
    db.rows("ALTER SYSTEM SET log_statement = 'all'")
    db.rows("SELECT pg_reload_conf()")

    def logged():
        http.names(key)
        log = cluster.log.read_bytes()[start:].decode(errors="replace")
        return log if DECISION.search(log) else None

    try:
        # The application's sessions notice it at their next call.
        log = wait_until(logged)
    finally:
        db.rows("ALTER SYSTEM RESET log_statement")
        db.rows("SELECT pg_reload_conf()")
    statements = "\n".join(line for line in log.splitlines() if "detail:  parameters: " not in line.lower())
    assert DECISION.search(statements)
    assert key not in statements
    assert key not in served[2].read_text()


@pytest.mark.parametrize("example", examples.FRAMEWORKS, ids=lambda example: example.name)
def test_they_are_small(example):
    lines = example.source.read_text().splitlines()
    mark = re.escape(COMMENT[example.source.suffix])
    first, last = (next(n for n, line in enumerate(lines) if re.fullmatch(f"{mark} keysmith: {word} here", line))
                   for word in ("from", "to"))
    assert len(lines) < 150 and last - first - 1 < 40
