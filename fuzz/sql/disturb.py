"""Disturbances beside the calls: changed tables, cancelled statements, ended sessions and
workers, reloaded settings, and maintenance by hand."""

import random
import threading

import psycopg

import scene
from majors import FORCE_PARALLEL

TABLES = ["plain", "keyed", "parts", "part1", "part2", "child", "unlogged", "odd", "secured", "ready", "ready2", "ready3"]
# {t} is a table, {o} its owner.
CHANGES = [
    "ALTER TABLE fuzz.{t} RENAME TO {t}_moved; ALTER TABLE fuzz.{t}_moved RENAME TO {t}",
    "ALTER TABLE fuzz.{t} ADD COLUMN added int DEFAULT 7", "ALTER TABLE fuzz.{t} DROP COLUMN IF EXISTS added",
    "ALTER TABLE fuzz.{t} DROP COLUMN IF EXISTS body CASCADE; ALTER TABLE fuzz.{t} ADD COLUMN body text",
    "ALTER TABLE fuzz.{t} ALTER body TYPE varchar(20)", "ALTER TABLE fuzz.{t} ALTER body TYPE text",
    "ALTER TABLE fuzz.{t} ALTER id TYPE bigint", "ALTER TABLE fuzz.{t} ALTER body TYPE bytea USING body::bytea",
    "ALTER TABLE fuzz.{t} ALTER tenant TYPE uuid USING NULL", "ALTER TABLE fuzz.{t} RENAME COLUMN body TO body2; ALTER TABLE fuzz.{t} RENAME COLUMN body2 TO body",
    "ALTER TABLE fuzz.{t} ENABLE ROW LEVEL SECURITY", "ALTER TABLE fuzz.{t} DISABLE ROW LEVEL SECURITY",
    "CREATE POLICY p ON fuzz.{t} USING (random() < 0.5)", "DROP POLICY IF EXISTS p ON fuzz.{t}",
    "CREATE TRIGGER way BEFORE INSERT OR UPDATE ON fuzz.{t} FOR EACH ROW EXECUTE FUNCTION fuzz.in_the_way()", "DROP TRIGGER IF EXISTS way ON fuzz.{t}",
    "ALTER TABLE fuzz.{t} DISABLE TRIGGER ALL", "ALTER TABLE fuzz.{t} ENABLE TRIGGER ALL", "TRUNCATE fuzz.{t}",
    "INSERT INTO fuzz.{t} SELECT FROM generate_series(1, 20)", "DELETE FROM fuzz.{t} WHERE ctid = '(0,1)'", "UPDATE fuzz.{t} SET id = id",
    "VACUUM FULL fuzz.{t}", "VACUUM (FREEZE) fuzz.{t}", "ANALYZE fuzz.{t}", "REINDEX TABLE fuzz.{t}", "DROP TABLE fuzz.{t} CASCADE",
    "CREATE TABLE IF NOT EXISTS fuzz.{t} (id int, tenant text, body text)", "ALTER TABLE fuzz.{t} OWNER TO stranger", "ALTER TABLE fuzz.{t} OWNER TO {o}",
    "ALTER TABLE fuzz.{o}_parts DETACH PARTITION fuzz.{o}_part1", "ALTER TABLE fuzz.{o}_parts ATTACH PARTITION fuzz.{o}_part1 FOR VALUES FROM (0) TO (100)",
    "ALTER SCHEMA fuzz RENAME TO fuzz_moved; ALTER SCHEMA fuzz_moved RENAME TO fuzz", "CREATE INDEX ON fuzz.{t} (id)",
    "ALTER TABLE fuzz.{t} SET UNLOGGED", "ALTER TABLE fuzz.{t} SET LOGGED", "ALTER TABLE fuzz.{t} REPLICA IDENTITY FULL",
    "BEGIN; LOCK TABLE fuzz.{t} IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(0.05); COMMIT",
    "BEGIN; ALTER TABLE fuzz.{t} ADD COLUMN added int; SELECT pg_sleep(0.05); ROLLBACK",
]
OURS = [
    "VACUUM FULL keysmith_private.key", "VACUUM keysmith_private.key", "REINDEX TABLE keysmith_private.key", "CLUSTER keysmith_private.tenant USING tenant_pkey",
    "VACUUM FULL keysmith_private.tenant", "ANALYZE keysmith_private.usage_event", "VACUUM keysmith_private.usage_delta", "CHECKPOINT", "SELECT pg_switch_wal()",
    "UPDATE keysmith_private.role SET scopes = scopes", "UPDATE keysmith_private.keyspace SET keyspace = keyspace",
    "BEGIN; SELECT * FROM keysmith_private.key FOR UPDATE; SELECT pg_sleep(0.02); COMMIT", "SELECT pg_reload_conf()",
    "CREATE ROLE passing; GRANT issuer TO passing", "DROP ROLE IF EXISTS passing", "GRANT USAGE ON SCHEMA keysmith TO stranger",
    "REVOKE USAGE ON SCHEMA keysmith FROM stranger", "SELECT keysmith.grant_access('stranger', 'verifier')", "SELECT keysmith.revoke_access('stranger')",
    *(f"ALTER SYSTEM SET keysmith.{setting}" for setting in (
        "usage_flush_interval = '10ms'", "usage_flush_interval = '2s'", "usage_batch_size = 1", "usage_batch_size = 5000", "usage_retention = '1 day'")),
]
ENDS = ["SELECT pg_cancel_backend({pid})"] * 3 + ["SELECT pg_terminate_backend({pid})"]
WORKER = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type ~ 'keysmith'"
# Ending sessions makes the log report these as internal errors, also for the worker's sessions.
LOGGED = [r"XX000 (ERROR|LOG):  +tuple concurrently"]

SETTINGS = [
    f"SET {FORCE_PARALLEL} = on", f"SET {FORCE_PARALLEL} = off",
    "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0",
    "SET plan_cache_mode = force_generic_plan", "RESET plan_cache_mode", "SET jit_above_cost = 0", "RESET jit_above_cost", "SET row_security = off",
    "RESET row_security", "SET DateStyle = 'SQL, DMY'", "SET IntervalStyle = 'iso_8601'", "SET TimeZone = 'Asia/Kathmandu'", "SET bytea_output = 'escape'",
    "SET extra_float_digits = -15", "SET search_path = fuzz, pg_temp", "SET search_path = ''", "RESET search_path", "SET work_mem = '64kB'", "RESET work_mem",
    "SET default_transaction_read_only = on", "RESET default_transaction_read_only", "SET synchronous_commit = off", "SET standard_conforming_strings = off",
    "RESET standard_conforming_strings", "SET xmloption = document", "SET keysmith.usage_durability = 'commit'", "RESET keysmith.usage_durability",
    "SET keysmith.usage_overflow = 'wait'", "SET default_tablespace = 'pg_global'", "RESET ALL; SET lock_timeout = '1s'; SET statement_timeout = '10s'",
]


class Disturber(threading.Thread):
    def __init__(self, run, round_number, connections):
        super().__init__(daemon=True)
        self.run_, self.connections = run, connections
        self.draw = random.Random(f"{run.seed} {round_number} disturber")

    def run(self):
        draw, connection = self.draw, None
        while not self.run_.over.wait(draw.uniform(0, 0.06)):
            kind = draw.random()
            if kind < 0.65:
                owner = draw.choice(scene.OWNERS)
                statement = draw.choice(CHANGES).format(t=f"{owner}_{draw.choice(TABLES)}", o=owner)
            elif kind < 0.8:
                statement = draw.choice(OURS)
            elif kind < 0.98:
                pids = [c.info.backend_pid for of_one in self.connections for c in list(of_one.values()) if not c.closed]
                if not pids:
                    continue
                pid, statement = draw.choice(pids), draw.choice(ENDS)
                if "terminate" in statement:
                    self.run_.ended.add(pid)
                statement = statement.format(pid=pid)
            else:
                statement = WORKER
            try:
                if connection is None or connection.closed:
                    connection = psycopg.connect(self.run_.cluster.dsn(), autocommit=True)
                    connection.execute("SET lock_timeout = '300ms'; SET statement_timeout = '5s'")
                connection.execute(statement)
            except psycopg.Error:
                if connection and not connection.closed and connection.info.transaction_status.name != "IDLE":
                    connection.rollback()
        if connection:
            connection.close()


def calm(db):
    """Undoes lasting changes: settings, and roles."""
    for statement in ("ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()", "DROP ROLE IF EXISTS passing"):
        db.rows(statement)
