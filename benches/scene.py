"""The clusters for the charts, and the keys in them.
Most charts share one cluster: 100,000 keys, an eighth of each kind, and the tables that other
systems would keep for the same keys.
"""

import os
import time
from pathlib import Path

import dataset
from dataset import clusters

HERE = Path(__file__).parent

SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "4GB",
    "autovacuum": "off",
    # Rows that transactions write wait for the disk, as in production.
    "fsync": "on",
    # By default a session gets generic plans after five executions of each statement. Here that
    # would take a noticeable part of a round, and no part of `SELECT 1`.
    "plan_cache_mode": "force_generic_plan",
}

# Room for all records of a long loop, so that the loop is measured and not the worker.
ROOMY = {"keysmith__usage_buffer": "1GB"}

MANY_SCOPES = dataset.SCOPES + [f"family{n}:read" for n in range(18)]
ADDRESS = "192.0.2.1"
# A path of the middle one of the routes.
PATH = f"/v1/r{dataset.ROUTES // 2}/7/items"

# How the keys of each kind differ from the first kind; those of the keyspace `quiet` are not
# logged.
KINDS = {
    "plain": {"keyspace": "quiet"},
    "limited": {"keyspace": "quiet", "limits": dataset.UNREACHED_LIMIT},
    "allowlisted": {"keyspace": "quiet", "allowlist": ["192.0.2.0/24"]},
    "scoped": {"keyspace": "quiet", "scopes": MANY_SCOPES},
    "logged": {},
    "logged_limited": {"limits": dataset.UNREACHED_LIMIT},
    "one_tenant": {"keys_per_tenant": 10**9},
    "own_tenant": {"keys_per_tenant": 1},
}

VERDICT_COLUMNS = [
    "ok", "status", "code", "message", "reason", "key_id", "tenant", "tenant_id", "keyspace",
    "environment", "kind", "owner", "role", "scopes", "metadata", "expires_at", "limit_name",
    "limit_remaining", "retry_after", "credits_remaining", "request_id", "label", "plan",
    "missing_scopes", "limit_limit", "limit_window", "limit_reset", "limit_unit",
]
# The kinds that the plpgsql peer has too.
PEERS_COLUMNS = [
    "ok", "status", "code", "reason", "key_id", "tenant", "tenant_id", "environment", "kind", "owner",
    "scopes", "metadata", "expires_at", "request_id",
]


def keys_of(count):
    """Keys by kind, `count` in all; the same at each run."""
    share = count // len(KINDS)
    return {kind: dataset.make_keys(share, seed) for seed, kind in enumerate(KINDS, start=10)}


def keyspace_of(kind):
    return KINDS[kind].get("keyspace", "default")


def fill(connection, keys):
    """Stores the keys, and with them: a table of plain texts by kind, the plpgsql peer, and
    the table `peer` for look-ups by primary key."""
    first, *others = KINDS
    connection.execute("CREATE EXTENSION keysmith")
    connection.execute("SELECT keysmith.create_keyspace('quiet', usage_log => 'nothing')")
    for keyspace in ("default", "quiet"):
        for scope in MANY_SCOPES:
            connection.execute("SELECT keysmith.define_scope(%s, %s)", [keyspace, scope])
        connection.execute(
            "SELECT keysmith.define_route(%s, 'GET', '/v1/r' || n || '/{id}/items', %s::text)"
            " FROM generate_series(1, %s) n", [keyspace, dataset.SCOPES[0], dataset.ROUTES])
    connection.execute("CREATE TABLE plaintext (api_key text, kind text)")
    for kind, options in KINDS.items():
        dataset.add_keys(connection, keys[kind], tenant=kind, **options)
        dataset.copy(connection, "plaintext", ["api_key", "kind"], ((key, kind) for key in keys[kind]))
        connection.execute(f"CREATE TABLE {kind}_keys (n integer PRIMARY KEY, api_key text)")
        dataset.copy(connection, f"{kind}_keys", ["n", "api_key"], enumerate(keys[kind], start=1))
    for script in ("plpgsql_peer.sql", "plpgsql_rows.sql"):
        connection.execute((HERE / script).read_text())
    connection.execute("VACUUM FULL peer_key")
    columns = ", ".join(VERDICT_COLUMNS)
    for kind in KINDS:
        verdicts = (f"SELECT sha256(convert_to(api_key, 'UTF8')) AS digest, {columns} FROM {kind}_keys,"
                    f" keysmith.verify(api_key, ip => '{ADDRESS}', keyspace => '{keyspace_of(kind)}')")
        connection.execute(f"CREATE TABLE peer AS {verdicts}" if kind == first else f"INSERT INTO peer {verdicts}")
    connection.execute("ALTER TABLE peer ADD PRIMARY KEY (digest)")
    connection.execute("SELECT keysmith.flush_usage('10 minutes')")
    dataset.settle(connection)


def define_endpoints(connection, keyspace):
    """Endpoints for keys; none of them for `PATH`."""
    for endpoint in (("GET", "/v1/keys", "list_keys"), ("POST", "/v1/keys", "mint"),
                     ("GET", "/v1/keys/{id}", "show_key"), ("PATCH", "/v1/keys/{id}", "alter_key"),
                     ("DELETE", "/v1/keys/{id}", "revoke"), ("GET", "/v1/me", "whoami")):
        connection.execute("SELECT keysmith.define_endpoint(%s, %s, %s, %s)", [keyspace, *endpoint])


class Scene:
    """The cluster that charts share, made at its first use."""

    def __init__(self, stack, count):
        self.stack = stack
        self.count = count
        self.keys = None
        self.cluster = None

    def start(self, **settings):
        """The cluster with these settings in addition to `SETTINGS`."""
        if self.cluster is None:
            self.keys = keys_of(self.count)
            self.cluster = self.stack.enter_context(clusters.running("bench", **SETTINGS))
            with self.cluster.connect() as connection:
                fill(connection, self.keys)
        with self.cluster.connect() as connection:
            connection.execute("ALTER SYSTEM RESET ALL")
            for name, value in settings.items():
                connection.execute(f"ALTER SYSTEM SET {name.replace('__', '.')} = '{value}'")
        self.cluster.restart()
        return self.cluster


def worker_of(connection, keys="logged_keys"):
    """The process that stores records. A record has just woken it, so it runs for some seconds,
    and can't be mistaken for another one."""
    connection.execute(f"SELECT keysmith.verify(api_key) FROM {keys} LIMIT 1")
    connection.execute("SELECT keysmith.flush_usage('10 minutes')")
    for _ in range(200):
        found = connection.execute("SELECT pid FROM pg_stat_activity"
                                   " WHERE backend_type = 'keysmith usage worker'").fetchone()
        if found:
            return found[0]
        time.sleep(0.05)
    raise SystemExit("the worker did not start")


def processor_seconds(pid):
    """The processor time of a process so far, to the nanosecond if the kernel reports it."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except FileNotFoundError:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(connection, statement, *arguments):
    """Seconds by the clock, and of the session's processor time, of a statement."""
    pid = connection.info.backend_pid
    used, start = processor_seconds(pid), time.perf_counter()
    connection.execute(statement, *arguments)
    taken = time.perf_counter() - start
    return taken, processor_seconds(pid) - used
