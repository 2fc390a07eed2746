"""Many clients over few server sessions, as a pooler in transaction mode has them: the
identity of one transaction is never seen in another."""

import os
import re
import shutil
import subprocess
import threading
import time
from contextlib import contextmanager

import psycopg
import pytest

import cluster as clusters
from conftest import wait_until

PORT = 6432
SERVERS = 8
ROWS = 50


@contextmanager
def pooler(cluster):
    program = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
    assert program, "pgbouncer is not there: run make setup, or install the package pgbouncer"
    settings = cluster.dir / "pgbouncer.ini"
    settings.write_text(f"""
[databases]
* = host={cluster.dir} port={cluster.port} user=app
[pgbouncer]
listen_port = {PORT}
unix_socket_dir = {cluster.dir}
auth_type = any
pool_mode = transaction
default_pool_size = {SERVERS}
max_client_conn = 200
""")
    # It refuses to run as root, as PostgreSQL does.
    user = clusters._SERVER_USER
    as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    with open(cluster.dir / "pgbouncer.log", "w") as log:
        running = subprocess.Popen([program, settings], cwd="/", env=clusters.environment(),
                                   stdout=log, stderr=log, **as_user)
    try:
        wait_until(lambda: (cluster.dir / f".s.PGSQL.{PORT}").exists())
        yield f"host={cluster.dir} port={PORT} user=app"
    finally:
        running.terminate()
        running.wait(10)


@pytest.fixture
def pooled(cluster, dbname, db):
    """Two tenants, an isolated table with rows of both, and a pooler to reach it by."""
    db.rows("CREATE ROLE app LOGIN; GRANT USAGE ON SCHEMA keysmith TO app; GRANT EXECUTE ON FUNCTION keysmith.authenticate, keysmith.sign_out TO app")
    keys = {}
    for name in ("acme", "globex"):
        db.tenant(name)
        keys[name] = db.mint(name).api_key
    db.rows(f"""
        CREATE TABLE docs AS SELECT tenant_id, name, n FROM keysmith_private.tenant, generate_series(1, {ROWS}) n;
        CREATE INDEX ON docs (tenant_id);
        GRANT SELECT, INSERT ON docs TO app""")
    db.call("isolate", "docs", "tenant_id")
    with pooler(cluster) as dsn:
        yield f"{dsn} dbname={dbname}", keys
    cluster.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{dbname}'")
    cluster.execute("DROP OWNED BY app", dbname)
    cluster.execute("DROP ROLE app")


def signs_in(key):
    return ("SELECT 1 / ok::int FROM keysmith.authenticate("
            f"jsonb_build_object('authorization', 'Bearer {key}'), 'GET', '/')")


def sees(name):
    """Divides by zero unless it sees all rows of a tenant, and none of another."""
    return (f"SELECT 1 / (count(*) = {ROWS} AND bool_and(name = '{name}') "
            f"AND keysmith.current_tenant() = '{name}')::int FROM docs")


NOBODY = "SELECT 1 / (count(*) = 0 AND keysmith.current_tenant() IS NULL)::int FROM docs"


def scripts(keys):
    """The clients' scripts, with their weights."""
    other = {"acme": "globex", "globex": "acme"}
    for name, key in keys.items():
        yield 4, ["BEGIN", signs_in(key), sees(name), "COMMIT"]
        yield 1, ["BEGIN", signs_in(key), sees(name), "ROLLBACK"]
        yield 1, ["BEGIN", signs_in(key), "SAVEPOINT a", signs_in(keys[other[name]]),
                  sees(other[name]), "ROLLBACK TO a", sees(name), "COMMIT"]
        # In a transaction that ends with the statement.
        yield 1, [signs_in(key)]
    yield 3, [NOBODY]
    yield 1, ["BEGIN", NOBODY, "COMMIT"]


def pgbench(dsn, folder, together, clients, transactions, keys):
    """Starts pgbench; a script's statements are sent together, or one after the other."""
    arguments = []
    for n, (weight, statements) in enumerate(scripts(keys)):
        script = folder / f"{'together' if together else 'apart'}{n}.sql"
        script.write_text((" \\;\n" if together else ";\n").join(statements) + ";\n")
        arguments += ["-f", f"{script}@{weight}"]
    return subprocess.Popen(
        [clusters.BIN / "pgbench", "-n", "-c", str(clients), "-j", "2", "-t", str(transactions),
         "-M", "simple" if together else "extended", *arguments, dsn],
        env=clusters.environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def processed(running):
    output, _ = running.communicate(timeout=300)
    assert running.returncode == 0, output[-2000:]
    return int(re.search(r"actually processed: (\d+)", output)[1])


def troubles(dsn, keys, until, done):
    """A client whose transactions fail in the middle, or that disconnects there."""
    count = 0
    while not until.is_set():
        session = psycopg.connect(dsn, autocommit=True, prepare_threshold=None)
        for name, key in keys.items():
            session.execute("BEGIN")
            session.execute(signs_in(key))
            session.execute(sees(name))
            with pytest.raises(psycopg.errors.DivisionByZero):
                session.execute("SELECT 1/0")
            session.execute("ROLLBACK")
            session.execute(NOBODY)
            count += 1
        session.execute("BEGIN")
        session.execute(signs_in(keys["acme"]))
        session.close()
    done.append(count)


def test_no_row_of_another_tenant_in_100000_requests(cluster, dbname, pooled, tmp_path):
    dsn, keys = pooled
    over, done, servers = threading.Event(), [], []
    threads = [threading.Thread(target=troubles, args=(dsn, keys, over, done)) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        runs = [pgbench(dsn, tmp_path, True, 40, 2400, keys), pgbench(dsn, tmp_path, False, 8, 500, keys)]
        while any(run.poll() is None for run in runs):
            servers.append(cluster.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'")[0][0])
            time.sleep(0.5)
        requests = sum(processed(run) for run in runs)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert requests == 100_000
    assert len(done) == 2 and min(done) > 10, "a client in trouble saw what it must not"
    # One may be about to end when another takes its place.
    assert 2 <= max(servers) <= SERVERS + 1


def test_that_a_row_of_another_would_be_noticed(pooled):
    dsn, keys = pooled
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as session:
        for statement in (sees("globex"), NOBODY):
            session.execute("BEGIN")
            session.execute(signs_in(keys["acme"]))
            with pytest.raises(psycopg.errors.DivisionByZero):
                session.execute(statement)
            session.execute("ROLLBACK")
        with pytest.raises(psycopg.errors.DivisionByZero):
            session.execute(sees("acme"))
