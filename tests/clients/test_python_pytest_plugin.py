"""The pytest plugin, in runs of pytest as a stranger starts them."""

import re
import tomllib

import pytest

import project


DATABASES = "SELECT datname FROM pg_database WHERE datname LIKE 'keysmith_test%'"


@pytest.fixture
def pytest_run(cluster, tmp_path):
    """Runs pytest on a file of tests, with the plugin as an installed package gives it to pytest."""
    settings = tomllib.loads((project.ROOT / "clients/python/pyproject.toml").read_text())["project"]
    installed = tmp_path / "site/keysmith-0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: keysmith\nVersion: 0\n")
    (installed / "entry_points.txt").write_text("[pytest11]\n" + "".join(
        f"{name} = {module}\n" for name, module in settings["entry-points"]["pytest11"].items()))
    folder = tmp_path / "project"
    folder.mkdir()

    def run(tests, *options, ini="", cluster=cluster, **settings):
        (folder / "test_it.py").write_text(tests)
        (folder / "pytest.ini").write_text(f"[pytest]\n{ini}")
        printed = project.run(f"pytest -p no:cacheprovider {' '.join(options)}", folder, cluster, check=False, **settings,
                              PYTHONPATH=f"{project.SOURCE}:{tmp_path / 'site'}")
        counts = {name: int(count) for count, name in re.findall(r"(\d+) (passed|failed|error|skipped)",
                                                                 printed.splitlines()[-1])}
        return counts, printed

    yield run
    assert cluster.execute(DATABASES) == []


AUTHENTICATE = '''
from psycopg.types.json import Jsonb

def authenticate(connection, key):
    """The status, and the tenant that the transaction acts for."""
    (status,) = connection.execute("SELECT status FROM keysmith.authenticate(%s, 'GET', '/')",
                                   [Jsonb({"Authorization": f"Bearer {key}"})]).fetchone()
    return status, tenant(connection)

def tenant(connection):
    return connection.execute("SELECT keysmith.current_tenant()").fetchone()[0]
'''


def test_a_database_a_tenant_and_a_key(pytest_run):
    counts, printed = pytest_run(AUTHENTICATE + '''
import psycopg, pytest

def test_a_key(keysmith_connection, keysmith_tenant, keysmith_key):
    assert authenticate(keysmith_connection, keysmith_key) == (200, keysmith_tenant)
    assert keysmith_connection.info.dbname.startswith("keysmith_test_")

def test_other_sessions_see_it(keysmith_dsn, keysmith_tenant, keysmith_key):
    with psycopg.connect(keysmith_dsn) as other:
        assert authenticate(other, keysmith_key) == (200, keysmith_tenant)

@pytest.mark.keysmith(scopes=["photos:read", "photos:write"], metadata={"plan": "pro"})
class TestMarked:
    def test_of_the_class(self, keysmith_connection, keysmith_key):
        assert self.key(keysmith_connection) == (["photos:read", "photos:write"], {"plan": "pro"})

    @pytest.mark.keysmith(scopes=["photos:read"], allowlist=["203.0.113.0/24"])
    def test_of_the_test(self, keysmith_connection, keysmith_key):
        assert authenticate(keysmith_connection, keysmith_key) == (403, None)
        assert self.key(keysmith_connection) == (["photos:read"], {"plan": "pro"})

    def key(self, connection):
        return connection.execute("SELECT scopes, metadata FROM keysmith.keys ORDER BY created_at DESC").fetchone()

def test_more_keys(keysmith_connection, keysmith_tenant, keysmith_mint):
    same, other = keysmith_mint(keysmith_tenant), keysmith_mint(scopes=["x"])
    assert authenticate(keysmith_connection, same) == (200, keysmith_tenant)
    status, tenant = authenticate(keysmith_connection, other)
    assert status == 200 and tenant != keysmith_tenant

def test_another_keyspace(keysmith_dsn, keysmith_mint):
    with psycopg.connect(keysmith_dsn) as owner:
        owner.execute("SELECT keysmith.create_keyspace('shop')")
    assert keysmith_mint(keyspace="shop").startswith("ks_live_")
''', "-q", "--strict-markers")
    assert counts == {"passed": 6}, printed


def test_no_identity_and_no_row_leaks_into_the_next_test(pytest_run):
    counts, printed = pytest_run(AUTHENTICATE + '''
import psycopg, pytest

@pytest.mark.parametrize("n", range(3))
def test_it(keysmith_connection, keysmith_key, n):
    assert tenant(keysmith_connection) is None
    assert not keysmith_connection.execute("SELECT to_regclass('note')").fetchone()[0]
    keysmith_connection.execute("CREATE TABLE note ()")
    assert authenticate(keysmith_connection, keysmith_key)[0] == 200
    if n == 0:
        with pytest.raises(psycopg.ProgrammingError, match="commit"):
            keysmith_connection.commit()
    if n == 1:
        keysmith_connection.execute("SELECT 1 / 0")
''', "-q")
    assert counts == {"passed": 2, "failed": 1}, printed
    assert "DivisionByZero" in printed


SHOWN = '''
import json, logging, sys, psycopg, pytest

def fails(keysmith_key, keysmith_connection):
    header = f"Bearer {keysmith_key}"
    plain = "".join(keysmith_key)
    headers = {"Host": "example.com", "Authorization": header, "Cookie": "c" * 300}
    text = json.dumps(headers) + "x" * 300
    late = "x" * 300 + plain
    print(header)
    print(plain, file=sys.stderr)
    logging.getLogger("app").warning("the key is %s", keysmith_key)
    return header

def test_compares(keysmith_key, keysmith_connection):
    assert fails(keysmith_key, keysmith_connection) == keysmith_key

def test_locals(keysmith_key, keysmith_connection):
    header = fails(keysmith_key, keysmith_connection)
    headers = {"Host": "example.com", "Authorization": header, "Cookie": "c" * 300}
    early = [header + "x" * 300, keysmith_key]
    late = "x" * 300 + "".join(keysmith_key)
    raise RuntimeError(header)

def test_statement(keysmith_key, keysmith_connection):
    keysmith_connection.execute(f"SELECT '{keysmith_key}'::int")

def test_skips(keysmith_key):
    pytest.skip("no time")

def test_writes(keysmith_key):
    with open("keys", "a") as keys:
        keys.write(keysmith_key + "\\n")
'''


@pytest.mark.parametrize("options", ["-l --showlocals", "-vv -l", "--tb=native", "--tb=short -rA", "-n 1 -l", "--junit-xml=/dev/stdout -l"])
def test_no_output_shows_a_key(pytest_run, tmp_path, options):
    pytest.importorskip("xdist") if "-n" in options else None
    write = '    open("keys", "a").write(keysmith_key + "\\n")\n'
    tests = re.sub(r"(def (?:test|fails).*\n)", rf"\1{write.replace(chr(92), chr(92) * 2)}", SHOWN)
    counts, printed = pytest_run(tests, options)
    assert counts == {"failed": 3, "passed": 1, "skipped": 1}, printed
    keys = set((tmp_path / "project/keys").read_text().split())
    assert len(keys) == 5
    for key in keys:
        # More than the prefix by which people tell keys apart.
        pieces = {key[n:n + 14] for n in range(len(key) - 13)}
        assert not [piece for piece in pieces if piece in printed], printed
        assert not re.search(rf"\w{key[-8:]}", printed), printed
    assert printed.count("<Key ks_live_") > 6


def test_a_key_is_a_text_for_drivers_and_clients(pytest_run):
    counts, printed = pytest_run('''
import json, urllib.request, psycopg

def test_it(keysmith_connection, keysmith_key):
    assert isinstance(keysmith_key, str) and len(keysmith_key) == 57
    for placeholder in ("%s", "%b", "%t"):
        assert keysmith_connection.execute(f"SELECT ok FROM keysmith.verify({placeholder})", [keysmith_key]).fetchone() == (True,)
    assert psycopg.ClientCursor(keysmith_connection).execute("SELECT length(%s)", [keysmith_key]).fetchone() == (57,)
    assert f"Bearer {keysmith_key}" == "Bearer " + str.__str__(keysmith_key) == "Bearer %s" % keysmith_key
    assert json.loads(json.dumps({"key": keysmith_key})) == {"key": str(keysmith_key)}
    request = urllib.request.Request("http://x", headers={"X-API-Key": keysmith_key})
    assert request.headers["X-api-key"].encode() == keysmith_key.encode()
''', "-q")
    assert counts == {"passed": 1}, printed


def test_each_worker_of_xdist_has_a_database(pytest_run, tmp_path):
    pytest.importorskip("xdist")
    counts, printed = pytest_run('''
import os, pytest

@pytest.mark.parametrize("n", range(8))
def test_it(keysmith_dsn, keysmith_key, keysmith_connection, n):
    assert keysmith_connection.execute("SELECT count(*) FROM keysmith.tenants").fetchone()[0] <= 8
    with open(os.environ["PYTEST_XDIST_WORKER"], "a") as used:
        used.write(keysmith_dsn + "\\n")
''', "-q", "-n 2", "--dist=each")
    assert counts == {"passed": 16}, printed
    used = [set((tmp_path / "project" / worker).read_text().splitlines()) for worker in ("gw0", "gw1")]
    assert len(used[0]) == len(used[1]) == 1 and used[0] != used[1]


def test_the_server_may_be_named_by_the_ini_option(pytest_run, cluster):
    counts, printed = pytest_run("def test_it(keysmith_key): pass", "-q", ini=f"keysmith_dsn = {cluster.dsn()}",
                                 cluster=None)
    assert counts == {"passed": 1}, printed


def test_a_project_s_own_schema(pytest_run):
    """A fixture of the same name migrates the database, once."""
    counts, printed = pytest_run('''
import psycopg, pytest

@pytest.fixture(scope="session")
def keysmith_dsn(keysmith_dsn):
    with psycopg.connect(keysmith_dsn) as owner:
        owner.execute("CREATE TABLE photo (tenant_id uuid)")
    return keysmith_dsn

@pytest.mark.parametrize("n", range(2))
def test_it(keysmith_connection, keysmith_tenant, n):
    keysmith_connection.execute("SELECT FROM photo")
''', "-q")
    assert counts == {"passed": 2}, printed


def test_a_server_without_the_extension_is_an_error(pytest_run):
    """Tests that are skipped look as if they passed."""
    counts, printed = pytest_run("def test_it(keysmith_key): pass", "-q", ini="keysmith_dsn = host=/nonexistent",
                                 cluster=None)
    assert counts == {"error": 1} and "/nonexistent" in printed, printed
    counts, printed = pytest_run('''
import psycopg, pytest

class Lacking(psycopg.Connection):
    def execute(self, statement, *rest):
        return super().execute(str(statement).replace("'keysmith'", "'none'"), *rest)

@pytest.fixture(scope="session", autouse=True)
def lacking():
    psycopg.connect = Lacking.connect

def test_it(lacking, keysmith_key):
    pass
''', "-q")
    assert counts == {"error": 1} and "keysmith is not installed on the server at /" in printed, printed
