"""What a rate of requests costs the server: rows, bytes, WAL and processor time.
Processor time and bytes are measured, not time by the clock, so the figures hold on a busy
machine. Rates and calls take turns, in a different order in each round; medians are shown.
    capacity.py [--rounds 3] [--seconds 2]
"""

import argparse
import datetime
import statistics
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import dataset
import documents
import report
from dataset import clusters
from pgbench import shuffled
from scene import ADDRESS, processor_seconds

# The last is the most that the machine does: pgbench waits for nothing but answers.
RATES = (100, 1_000, 5_000, None)
CLIENTS = 8
KEYS = 1_000
DAY = 86_400
DOCUMENT = documents.ROOT / "docs" / "operations.md"

SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
    "fsync": "on",
    # A checkpoint writes each page that it finds changed; how often, depends on its settings.
    "full_page_writes": "off",
    "autovacuum": "off",
    "plan_cache_mode": "force_generic_plan",
}

PICK = "(SELECT text FROM {} WHERE n = :n)"
CALLS = {
    "verify": f"SELECT * FROM keysmith.verify({PICK.format('presented')}, ip => '{ADDRESS}', keyspace => '%s')",
    "authenticate": f"SELECT * FROM keysmith.authenticate({PICK.format('headers')}::jsonb, 'GET',"
                    f" '/v1/r{dataset.ROUTES // 2}/7/items', ip => '{ADDRESS}', keyspace => '%s')",
}
# The keyspace whose requests leave rows, and the one whose requests leave nothing.
KEYSPACES = {"rows": "default", "nothing": "quiet"}
PICKING = ("pick", "nothing")
WORKER = "keysmith usage worker"
WRITERS = ("checkpointer", "background writer", "walwriter")


def fill(connection):
    keys = dataset.make_keys(2 * KEYS)
    dataset.fill(connection, keys[:KEYS])
    dataset.add_quiet_keys(connection, keys[KEYS:])
    connection.execute(
        "SELECT keysmith.define_route('quiet', 'GET', '/v1/r' || n || '/{id}/items', %s::text)"
        " FROM generate_series(1, %s) n", [dataset.SCOPES[0], dataset.ROUTES])
    for table, form in (("presented", str), ("headers", dataset.headers)):
        connection.execute(f"CREATE TABLE {table} (n integer PRIMARY KEY, text text)")
        dataset.copy(connection, table, ["n", "text"], enumerate(map(form, keys), start=1))
    for call, statement in CALLS.items():
        for keyspace, first in zip(KEYSPACES.values(), (1, KEYS + 1)):
            reason, = connection.execute(f"SELECT reason FROM ({statement % keyspace}) AS v".replace(":n", str(first))
                                         ).fetchone()
            if reason != "ok":
                raise SystemExit(f"{call} of {keyspace}: {reason}")
    dataset.settle(connection)


def script(call, left):
    first = 1 + KEYS * (left == "nothing")
    statement = f"SELECT length({PICK.format('presented')})" if call == "pick" else CALLS[call] % KEYSPACES[left]
    return f"\\set n random({first}, {first + KEYS - 1})\n{statement};\n"


def spent(connection, kinds):
    """Processor seconds so far of the server's processes of these kinds, by process."""
    found = {}
    for pid, in connection.execute(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = ANY (%s) AND pid <> pg_backend_pid()"
        " AND (backend_type <> 'client backend' OR application_name = 'pgbench')", [list(kinds)]):
        try:
            found[pid] = processor_seconds(pid)
        except FileNotFoundError:
            pass  # It has ended since.
    return found


def since(now, before):
    return sum(seconds - before.get(pid, 0) for pid, seconds in now.items())


def wal(connection):
    return int(connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone()[0])


def sizes(connection):
    """The bytes of the partitions of requests, and of their indexes."""
    return connection.execute(
        "SELECT coalesce(sum(pg_table_size(relid)), 0)::bigint, coalesce(sum(pg_indexes_size(relid)), 0)::bigint"
        " FROM pg_partition_tree('keysmith_private.usage_event') WHERE isleaf").fetchone()


def stored(connection):
    return connection.execute("SELECT count(*) FROM keysmith_private.usage_event").fetchone()[0]


@contextmanager
def pgbench(cluster, text, rate, seconds):
    """pgbench in the background, with a log of each transaction in a folder."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "script.sql").write_text(text)
        options = [f"--rate={rate}"] if rate else []
        process = subprocess.Popen(
            [str(cluster.bin / "pgbench"), "-h", cluster.dir, "-p", str(cluster.port), "-U", "postgres", "-n",
             "-M", "prepared", "-T", str(seconds), "-c", str(CLIENTS), "-j", "2", "--log",
             f"--log-prefix={folder / 'log'}", *options, "-f", folder / "script.sql", "postgres"],
            env=clusters.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            yield process, folder
        finally:
            process.kill()
            process.wait()


def play(cluster, connection, call, left, rate, seconds):
    """One turn: what each request cost."""
    connection.execute("SELECT keysmith.flush_usage('10 minutes')")
    rows, (table, indexes), log, others = stored(connection), sizes(connection), wal(connection), spent(connection, [WORKER])
    with pgbench(cluster, script(call, left), rate, seconds + 3) as (process, folder):
        while len(spent(connection, ["client backend"])) < CLIENTS:
            if process.poll() is not None:
                raise SystemExit(f"{call} at {rate}: {process.communicate()[0]}")
            time.sleep(0.01)
        # Sessions have loaded and prepared everything when they have run for a while.
        time.sleep(1)
        begin, before = time.time(), spent(connection, ["client backend"])
        time.sleep(seconds)
        end, after = time.time(), spent(connection, ["client backend"])
        output = process.communicate()[0]
        times = [int(fields[4]) + int(fields[5]) / 1e6 for name in folder.glob("log.*")
                 for fields in map(str.split, name.read_text().splitlines())]
    if process.returncode or len(after) != CLIENTS:
        raise SystemExit(f"{call} at {rate}: {output}")
    connection.execute("SELECT keysmith.flush_usage('10 minutes')")
    requests, measured = len(times), sum(begin <= at < end for at in times)
    found = {"sessions": since(after, before) / measured * 1e6,
             "worker": since(spent(connection, [WORKER]), others) / requests * 1e6,
             "rate": measured / (end - begin), "requests": requests,
             "rows": stored(connection) - rows, "wal": wal(connection) - log}
    found["table"], found["indexes"] = (now - was for now, was in zip(sizes(connection), (table, indexes)))
    if found["rows"] != (requests if left == "rows" else 0):
        raise SystemExit(f"{call} at {rate}: {requests} requests, but {found['rows']} rows")
    return found


def measure(rounds, seconds, say):
    turns = [(call, left, rate) for call in CALLS for left in KEYSPACES for rate in RATES] + [(*PICKING, None)]
    found = {turn: [] for turn in turns}
    writers = []
    with clusters.running("capacity", **SETTINGS) as cluster, cluster.connect() as connection:
        fill(connection)
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            before, rows = spent(connection, WRITERS), stored(connection)
            for turn in shuffled(turns):
                found[turn].append(play(cluster, connection, *turn, seconds))
            connection.execute("CHECKPOINT")
            writers.append(since(spent(connection, WRITERS), before) / (stored(connection) - rows) * 1e6)
        connection.execute("VACUUM FULL keysmith_private.usage_hour")
        hour, = connection.execute("SELECT pg_total_relation_size('keysmith_private.usage_hour')::float8 / count(*)"
                                   " FROM keysmith_private.usage_hour").fetchone()
        version, = connection.execute("SHOW server_version").fetchone()
    return found, statistics.median(writers), hour, version.split()[0]


def median(turns, what):
    return statistics.median(turn[what] for turn in turns)


def each(turns, what):
    """Of a row, over all rounds."""
    return sum(turn[what] for turn in turns) / sum(turn["rows"] for turn in turns)


def amount(size):
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            break
        size /= 1000
    else:
        unit = "TB"
    return f"{size:,.0f} {unit}" if size >= 100 else f"{size:.3g} {unit}"


def page(found, writers, hour, version, took):
    full = {call: found[call, "rows", None] for call in CALLS}
    left = [[what, *(f"{each(full[call], name):,.0f} B" for call in CALLS)]
            for what, name in (("the row", "table"), ("its index entries", "indexes"), ("WAL", "wal"))]
    row = each(full["authenticate"], "table") + each(full["authenticate"], "indexes")
    days, times = [], []
    for rate in RATES:
        logged = found["authenticate", "rows", rate]
        a_second = rate or float(f"{median(logged, 'rate'):.2g}")
        name = f"{a_second:,.0f}{'' if rate else ', the most here'}"
        spent = [[median(found[call, "rows", rate], "sessions"), median(found[call, "rows", rate], "worker"),
                  median(found[call, "nothing", rate], "sessions")] for call in CALLS]
        times.append([name, *(f"{time:,.0f} s" for call in spent for time in call)])
        a_day = a_second * DAY
        days.append([name, f"{a_day / 1e6:,.0f} million", amount(a_day * row), amount(a_day * each(logged, "wal")),
                     f"{float(f'{(spent[1][0] + spent[1][1]) * a_second / 1e4:.2g}'):g} %"])
    columns = [column for call in CALLS for column in (call, "its worker", "without rows")]
    return f"""\
{report.markdown_table(["a request leaves", *CALLS], left)}

{report.markdown_table(["requests a second", "rows a day", "table and indexes a day", "WAL a day", "one processor is busy"], days)}

The processor time of the server for a million requests, at each of these rates:

{report.markdown_table(["requests a second", *columns], times)}

For a million rows, the checkpointer, the background writer and the WAL writer took {writers:.1f} s more. A million
statements that only pick the key from a table took {median(found[*PICKING, None], 'sessions'):.0f} s. Totals take {hour:,.0f} bytes for each key and hour with
requests.

Measured {datetime.date.today().isoformat()} on {report.processor()}, shared by pgbench and the server, with
PostgreSQL {version}, by `make bench-capacity` in {took / 60:.0f} minutes."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2)
    options = parser.parse_args()
    begin = time.monotonic()
    found = measure(options.rounds, options.seconds, lambda what: print(what, flush=True))
    text = page(*found, time.monotonic() - begin)
    print(text)
    documents.replace(DOCUMENT, "capacity", text, "make bench-capacity")


if __name__ == "__main__":
    main()
