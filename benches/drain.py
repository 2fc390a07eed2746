"""How fast the worker stores waiting usage records, or counts them, and what a record costs it.
The worker is stopped while the records arrive. Then it continues, and the clock runs until all
are stored and on disk.
"""

import argparse
import os
import signal
import statistics
import time
from pathlib import Path

import dataset
import report
from dataset import clusters
from scene import processor_seconds, worker_of

RESULTS = Path(__file__).parent / "results" / "drain.md"

SETTINGS = {
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "fsync": "on",
    # Turns are alike: only the worker works.
    "autovacuum": "off",
    "keysmith__usage_buffer": "1GB",
}

KEYS = {"a hundred keys": 100, "ten thousand keys": 10_000}
# With rows, and with totals alone.
LOGS = {"everything": "", "totals": ", `totals`"}


def stored(connection):
    return connection.execute("SELECT sum(requests) FROM keysmith.usage_daily").fetchone()[0] or 0


def drain(connection, keys, events, usage_log):
    """Seconds, and seconds of the worker's processor time, for so many records."""
    pid = worker_of(connection, "plaintext")
    connection.execute("SELECT keysmith.alter_keyspace('default', jsonb_build_object('usage_log', %s::text))",
                       [usage_log])
    connection.execute("SELECT keysmith_private.usage_fold()")
    connection.execute("CHECKPOINT")
    before = stored(connection)
    os.kill(pid, signal.SIGSTOP)
    try:
        connection.execute(
            "SELECT count(keysmith.verify(api_key, ip => '192.0.2.1'))"
            " FROM generate_series(0, %s - 1) AS g JOIN plaintext ON n = g %% %s", [events, keys])
        used = processor_seconds(pid)
    finally:
        os.kill(pid, signal.SIGCONT)
    start = time.perf_counter()
    connection.execute("SELECT keysmith.flush_usage('10 minutes')")
    taken = time.perf_counter() - start
    used = processor_seconds(pid) - used
    if stored(connection) != before + events:
        raise SystemExit(f"{stored(connection) - before} records were stored, not {events}")
    added = processor_seconds(connection.info.backend_pid)
    connection.execute("SELECT keysmith_private.usage_fold()")
    return taken, used, processor_seconds(connection.info.backend_pid) - added


def measure(events, turns):
    keys = dataset.make_keys(max(KEYS.values()))
    kinds = {f"{name}{what}": (count, log) for log, what in LOGS.items() for name, count in KEYS.items()}
    rows = []
    with clusters.running("drain", **SETTINGS) as cluster:
        with cluster.connect() as connection:
            dataset.fill(connection, keys)
            connection.execute("CREATE TABLE plaintext (n integer PRIMARY KEY, api_key text)")
            dataset.copy(connection, "plaintext", ["n", "api_key"], enumerate(keys))
            dataset.settle(connection)
            measured = {kind: [] for kind in kinds}
            for _ in range(turns):
                for kind, (count, usage_log) in kinds.items():
                    measured[kind].append(drain(connection, count, events, usage_log))
            version = connection.info.server_version
    for kind, results in measured.items():
        taken, used, added = (statistics.median(figures) for figures in zip(*results))
        rows.append([kind, f"{events / taken:,.0f}", f"{taken / events * 1e6:.1f} µs",
                     f"{used / events * 1e6:.1f} µs", f"{added:.2f} s"])
    header = ["records of", "records a second", "time for each", "processor time for each", "adding up"]
    return report.markdown_table(header, rows), f"{version // 10000}.{version % 10000}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    text, version = measure(options.events, options.turns)
    print(text)
    RESULTS.write_text(f"""# Storing usage records

PostgreSQL {version}, {report.processor()}, with fsync. {options.events:,} records waited
in each of {options.turns} turns, with the default settings of batches; medians. *Adding up* is the
processor time to add the changes of totals of all these records to the totals, which the worker does once
a minute. Made by `{report.command()}`.

{text}
""")


if __name__ == "__main__":
    main()
