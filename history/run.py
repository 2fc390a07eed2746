#!/usr/bin/env python3
"""Runs a load on a primary and a standby while faults are injected, and compares what clients saw
with what the documents promise. See CONTRIBUTING.md.

    run.py [--seconds 60] [--seed N] [--clients 6] [--faults 0] [--again FOLDER]
"""

import argparse
import collections
import itertools
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

from psycopg.rows import dict_row

import check
import plan
import record
from client import Client
from cluster import Cluster, has_module
from faults import Faults, Watch
from test_usage_sql import DIFFERENCES

READERS = 2
# Problems of each promise.
SHOWN = 3
# If one process was killed, the others say this.
EXPECTED = ("might be corrupted", "possibly corrupted shared memory")
COMPLAINTS = ("leak: ", "resource was not closed", "PANIC", "TRAP", "corrupt", "could not read block", "panicked")


def set_up(world, cluster, folder, clients):
    session = cluster.connect(row_factory=dict_row)
    recorder = record.Recorder(folder, "setup")

    def do(kind, args, statement, **more):
        id = recorder.invoked(kind, args, "a")
        recorder.returned(id, "ok", session.execute(statement, args | more).fetchone())

    session.execute("CREATE EXTENSION keysmith")
    for name, log in plan.LOGS.items():
        if name != "default":
            session.execute("SELECT keysmith.create_keyspace(%s, usage_log => %s)", (name, log))
        for role, scopes in zip(plan.ROLES, plan.GRANTS):
            mark = recorder.next()
            do("define_role", {"keyspace": name, "role": role, "scopes": [*scopes, f"mark:{mark}"], "mark": mark},
               plan.STATEMENTS["define_role"])
        for tenant in plan.TENANTS:
            session.execute("SELECT keysmith.create_tenant(%s, %s)", (tenant, name))
            do("set_member", {"tenant": tenant, "member": "m0", "role": "r0", "keyspace": name},
               plan.STATEMENTS["set_member"])
    for tenant in ["payer", *(f"solo {n}" for n in range(clients))]:
        session.execute("SELECT keysmith.create_tenant(%s)", (tenant,))
    do("create_tenant", {"tenant": "busy", "keyspace": "default", "limit": plan.BUSY},
       "SELECT keysmith.create_tenant(%(tenant)s, limits => %(limits)s)", limits=json.dumps(plan.limits(plan.BUSY)))
    session.close()


def finish(world, folder):
    """What is stored at the end, when every key was asked for once more and every record has reached
    the primary."""
    recorder = record.Recorder(folder, "end")
    (name, primary), standby = world.primary, world.standby
    session = primary.connect(row_factory=dict_row)
    for key in itertools.chain(*world.keys.values()):
        kind, args = plan.ask(key, random.Random(key.id))
        id = recorder.invoked(kind, args, name)
        recorder.returned(id, "ok", session.execute(plan.STATEMENTS[kind], args).fetchone())
    if standby:
        standby[1].execute("SELECT keysmith.flush_usage('10 minutes')")
    primary.execute("SELECT keysmith.flush_usage('10 minutes')")

    def rows(statement):
        return session.execute(statement).fetchall()

    for row in rows("""
            SELECT c.balance, c.key_id, t.name AS tenant FROM keysmith_private.credit c
            LEFT JOIN keysmith_private.tenant t USING (tenant_id)"""):
        args = {"key": str(row["key_id"]) if row["key_id"] else None, "tenant": row["tenant"], "keyspace": "default"}
        id = recorder.invoked("balance", args, name)
        recorder.returned(id, "ok", {"credits": row["balance"]})
    final = {
        "usage": rows("SELECT request_id::text, key_id::text, outcome FROM keysmith_private.usage_event"),
        **rows("""SELECT coalesce(sum(lost_at_most), 0)::int AS lost_at_most, coalesce(sum(dropped), 0)::int AS dropped
                  FROM keysmith_private.usage_incarnation""")[0],
        "audit": rows("SELECT keyspace, entry, action, tenant, key_id::text, before, after FROM keysmith.audit"),
        "audit_verify": rows("SELECT * FROM keysmith.audit_verify()"),
        "totals": [row for statement in DIFFERENCES for row in rows(statement)],
        "storage": unsound(session) if has_module("amcheck") else [],
    }
    session.close()
    return json.loads(json.dumps(final, default=str))


def unsound(session):
    """amcheck: each index has all rows of its table, and each table is sound."""
    session.execute("CREATE EXTENSION amcheck")
    session.execute("""
        SELECT bt_index_check(i.indexrelid, true) FROM pg_index i
        JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
        WHERE c.relnamespace = 'keysmith_private'::regnamespace AND a.amname = 'btree' AND c.relkind = 'i'""")
    return session.execute("""
        SELECT c.oid::regclass::text, v.* FROM pg_class c, verify_heapam(c.oid) v
        WHERE c.relnamespace = 'keysmith_private'::regnamespace AND c.relkind = 'r'""").fetchall()


def load(folder, seed, seconds, number, least_faults):
    """Runs the load, and returns what is stored at its end, and the faults."""
    primary = Cluster("history")
    clusters, world, threads = [primary], plan.World(), []
    try:
        primary.init(max_wal_senders=8, wal_writer_delay="10s", deadlock_timeout="100ms", wal_log_hints="on",
                     wal_keep_size="1GB", wal_retrieve_retry_interval="100ms", log_min_messages="warning",
                     keysmith__usage_flush_interval="100ms", keysmith__usage_buffer="4MB", cluster_name="a").start()
        world.primary = "a", primary
        set_up(world, primary, folder, number + READERS)
        clients = [Client(world, folder, seed, n, reads_standby=n >= number) for n in range(number + READERS)]
        faults = Faults(world, folder, seed, clients, clusters)
        faults.add_standby()
        watch = Watch(world, folder)
        threads = [faults, watch, *clients]
        for thread in threads:
            thread.start()
        end = time.monotonic() + seconds
        while not world.over.is_set() and (time.monotonic() < end or faults.heavy < least_faults):
            world.over.wait(0.1)
        world.over.set()
        for thread in threads:
            thread.join()
        for thread in (faults, *clients):
            if thread.error:
                raise thread.error
        final = finish(world, folder)
        final["log"] = [line for cluster in clusters for line in cluster.log.read_text().splitlines()
                        if any(word in line for word in COMPLAINTS) and not any(word in line for word in EXPECTED)]
        (Path(folder) / "final.json").write_text(json.dumps(final))
        return final, faults.done
    finally:
        # Threads that go on could start servers again.
        world.over.set()
        for thread in threads:
            if thread.is_alive():
                thread.join()
        for cluster in clusters:
            cluster.remove()


def tally(what, things):
    print(f"{what}: " + ", ".join(f"{thing} {n}" for thing, n in collections.Counter(things).most_common()))


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--seed", type=int, default=random.randrange(1, 1 << 32))
    options.add_argument("--clients", type=int, default=6)
    options.add_argument("--faults", type=int, default=0, help="goes on until so many servers have ended")
    options.add_argument("--again", help="only checks the history in this folder")
    chosen = options.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"seed {chosen.seed}, {chosen.seconds:g} seconds", flush=True)
    if folder := chosen.again:
        final, faults = json.loads((Path(folder) / "final.json").read_text()), collections.Counter()
    else:
        folder = tempfile.mkdtemp(prefix="history-")
        try:
            final, faults = load(folder, chosen.seed, chosen.seconds, chosen.clients, chosen.faults)
        except KeyboardInterrupt:
            shutil.rmtree(folder)
            sys.exit(130)
    ops = record.read(folder)
    found = check.problems(ops, final)
    tally(f"{len(ops)} operations", (op.kind for op in ops))
    tally("outcomes", (op.outcome for op in ops))
    tally("errors", (op.error["sqlstate"] for op in ops if op.outcome == "error" and "sqlstate" in op.error))
    tally("reasons", (op.value["reason"] for op in ops if "reason" in (op.value or {})))
    print(f"usage: {len(final['usage'])} records; at most {final['lost_at_most']} are reported as lost in crashes, and "
          f"{final['dropped']} as dropped")
    tally("faults", faults.elements())
    promises = collections.Counter()
    for problem in found:
        promises[problem.promise] += 1
        if promises[problem.promise] <= SHOWN:
            print(problem)
    print(f"{len({op.client for op in ops})} clients' histories checked, {len(found)} problems")
    if found:
        print(f"The history is in {folder}. To run it again: make history SECONDS={chosen.seconds:g} SEED={chosen.seed}")
    else:
        shutil.rmtree(folder)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
