"""Instructions per decision, counted by callgrind, compared with a committed baseline.
Two runs by the clock may differ by several percent. Counts are the same to the last digit, as
long as nothing moves in memory: another length of the temporary folder's path, or of the library,
changes them by some 0.2 %, and so may another libc or processor.
A loop runs over fewer keys and over more: the difference is the cost of its calls, without the
start and end of a statement. The same difference for a loop over a trivial function is
subtracted, so that the executor's work is not counted as ours.
"""

import argparse
import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import dataset
import report
from dataset import clusters

HERE = Path(__file__).parent
BASELINE = HERE / "instructions.json"
MOST_GROWTH = 0.05

VALGRIND = shutil.which("valgrind")

KEYS = 100_000
FEWER, MORE = 1_000, 3_000

SETTINGS = {
    "max_parallel_workers_per_gather": 0,
    "jit": "off",
    "autovacuum": "off",
    # Statistics are sent once a second, so their number would depend on the clock.
    "track_counts": "off",
}

# The server calls it once for each statement that it receives, to execute it.
EXECUTION = "PortalRun"


@dataclass(frozen=True)
class Loop:
    """A query that calls a function for each of some keys. Single-user mode takes one statement
    per line, so these are lines."""

    counted: str
    reason: str
    rows: str

    def statement(self, keys):
        return f"SELECT count({self.counted}) FROM {self.rows}".replace(":keys", str(keys))

    def reasons(self):
        """A query for the function's whole result."""
        return f"SELECT DISTINCT {self.reason} FROM {self.rows}".replace(":keys", str(MORE))


def as_value(call, keys="known"):
    """The function alone: nothing reads the parts of its result."""
    # OFFSET keeps the planner from merging the loops, so that all have the same shape.
    rows = f"(SELECT {call} AS v FROM {keys} WHERE n <= :keys OFFSET 0) AS called"
    return Loop("v", "(v).reason", rows)


def as_table(call, column="v.ok"):
    """Called in FROM, as applications do: the executor makes a table of the result."""
    return Loop(column, "v.reason", f"known, LATERAL {call} AS v WHERE n <= :keys")


def by_batch(call, column="v.ok"):
    rows = f"batches, LATERAL {call} AS v WHERE n * {FEWER} <= :keys"
    return Loop(column, "v.reason", rows)


@dataclass(frozen=True)
class Case:
    name: str
    loop: Loop
    empty: Loop
    expected: str
    is_ours: bool = True


VALUES = as_value("octet_length(api_key)")
TABLES = as_table("octet_length(api_key)", "v")
BATCHES = by_batch("cardinality(api_keys)", "v")

CASES = [
    Case("verify, scope required",
         as_value("keysmith.verify(api_key, '{images:write}')"), VALUES, "ok"),
    Case("verify", as_value("keysmith.verify(api_key)"), VALUES, "ok"),
    Case("verify, nothing logged",
         as_value("keysmith.verify(api_key, keyspace => 'quiet')", "quiet"), VALUES, "ok"),
    Case("verify, one limit", as_value("keysmith.verify(api_key)", "limited"), VALUES, "ok"),
    Case("verify, three limits in two units",
         as_value("keysmith.verify(api_key, weights => '{\"tokens\": 5}')", "metered"), VALUES, "ok"),
    Case("verify, complete: scope, network, limit",
         as_value("keysmith.verify(api_key, '{images:write}', ip => '192.0.2.7')", "fenced"), VALUES, "ok"),
    Case("verify, sign in", as_value("keysmith.verify(api_key, sign_in => true)"), VALUES, "ok"),
    Case(f"authenticate, {dataset.ROUTES} routes",
         as_value(f"keysmith.authenticate(headers, 'GET', '/v1/r{dataset.ROUTES // 2}/7/items')", "requests"),
         VALUES, "ok"),
    Case("verify, malformed key",
         as_value("keysmith.verify(api_key)", "misspelt"), VALUES, "malformed_key"),
    Case("verify, unknown key",
         as_value("keysmith.verify(api_key)", "unknown"), VALUES, "not_found"),
    Case("verify, scope required, in FROM",
         as_table("keysmith.verify(api_key, '{images:write}')"), TABLES, "ok"),
    Case(f"verify_many, each of {FEWER:,} keys",
         by_batch("keysmith.verify_many(api_keys)"), BATCHES, "ok"),
    Case("plpgsql, scope required",
         as_value("peer_verify(api_key, '{images:write}')"), VALUES, "ok", is_ours=False),
]


def prepare(cluster):
    """Fills the database and stops the server. Returns the server's version."""
    keys = dataset.make_keys(KEYS)
    looked_for = keys[:: KEYS // MORE][:MORE]
    with cluster.connect() as connection:
        dataset.fill(connection, keys)
        make_keys_table(connection, "plaintext", keys)
        make_keys_table(connection, "known", looked_for)
        make_keys_table(connection, "misspelt", map(dataset.misspell, looked_for))
        make_keys_table(connection, "unknown", dataset.make_keys(MORE, seed=2))
        for name, add, seed in (("quiet", dataset.add_quiet_keys, 3),
                                ("limited", dataset.add_limited_keys, 4),
                                ("fenced", dataset.add_fenced_keys, 5),
                                ("metered", dataset.add_metered_keys, 6)):
            others = dataset.make_keys(MORE, seed)
            add(connection, others)
            make_keys_table(connection, name, others)
        connection.execute("CREATE TABLE requests (n integer, headers jsonb)")
        dataset.copy(connection, "requests", ["n", "headers"],
                     enumerate(map(dataset.headers, looked_for), start=1))
        connection.execute(
            f"CREATE TABLE batches AS SELECT n, array_agg(api_key) AS api_keys"
            f" FROM (SELECT (n - 1) / {FEWER} + 1 AS n, api_key FROM known) AS k GROUP BY n")
        connection.execute((HERE / "plpgsql_peer.sql").read_text())
        connection.execute("DROP TABLE plaintext")
        dataset.settle(connection)
        for case in CASES:
            check(connection, case)
        version = connection.info.server_version // 10000
    cluster.stop()
    return version


def make_keys_table(connection, name, keys):
    connection.execute(f"CREATE TABLE {name} (n integer, api_key text)")
    dataset.copy(connection, name, ["n", "api_key"], enumerate(keys, start=1))


def check(connection, case):
    """Checks that a case measures what its name says."""
    found = [reason for (reason,) in connection.execute(case.loop.reasons())]
    if found != [case.expected]:
        raise SystemExit(f"{case.name}: expected {case.expected}, found {found}")


def count(cluster, loop, profile):
    """Instructions per key of a loop, in a separate server process."""
    # The first pass fills all caches.
    statements = [loop.statement(keys) for keys in (MORE, FEWER, MORE)]
    done = clusters.run(
        VALGRIND, "--tool=callgrind", "--compress-strings=no", "--vgdb=no", "--trace-children=no",
        f"--callgrind-out-file={profile}",
        f"--toggle-collect={EXECUTION}", f"--dump-after={EXECUTION}",
        clusters.BIN / "postgres", "--single", "-D", cluster.data, "postgres",
        as_server=True, input="\n".join(statements) + "\n")
    if done.stdout.count('count = "') != 3:
        raise SystemExit(f"{loop.rows} failed:\n{done.stdout}")
    fewer, more = (total(f"{profile}.{n}") for n in (2, 3))
    return (more - fewer) / (MORE - FEWER)


def total(dump):
    return int(re.search(r"^totals: (\d+)", Path(dump).read_text(), re.MULTILINE)[1])


def count_all(cluster, cases, profiles):
    """Instructions per key, by the name of the case."""
    profile = cluster.dir / "profile"
    empty = {loop: count(cluster, loop, profile)
             for loop in dict.fromkeys(case.empty for case in cases)}
    counts = {}
    for case in cases:
        counts[case.name] = round(count(cluster, case.loop, profile) - empty[case.empty])
        if profiles:
            profiles.mkdir(parents=True, exist_ok=True)
            name = re.sub(r"[^a-z0-9]+", "-", case.name.lower())
            shutil.copy(f"{profile}.3", profiles / f"{name}.out")
        print(f"{case.name}: {counts[case.name]:,}", flush=True)
    return counts


def table(counts, baseline):
    rows = []
    for name, now in counts.items():
        before = baseline.get(name)
        change = f"{now / before - 1:+.2%}" if before else "new"
        rows.append([name, f"{now:,}", f"{before:,}" if before else "", change])
    return report.markdown_table(["instructions for a key", "now", "baseline", "change"], rows)


def grown(counts, baseline):
    """Our cases that cost noticeably more than before."""
    ours = (case.name for case in CASES if case.is_ours)
    return [name for name in ours if name in counts and name in baseline
            and counts[name] > baseline[name] * (1 + MOST_GROWTH)]


def read_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="make these counts the baseline")
    parser.add_argument("--only", default="", metavar="TEXT",
                        help="count just the cases whose names contain it")
    parser.add_argument("--profiles", type=Path, metavar="FOLDER",
                        help="keep what callgrind_annotate reads: a file for each case")
    return parser.parse_args()


def main():
    options = read_options()
    if not VALGRIND:
        sys.exit("valgrind is not installed")
    with clusters.running("instructions", **SETTINGS) as cluster:
        version = prepare(cluster)
        counts = count_all(
            cluster, [case for case in CASES if options.only in case.name], options.profiles)
    # Each major version has its own baseline: its share of the work differs.
    baselines = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    baseline = baselines.get(str(version), {})
    print(table(counts, baseline))
    if options.update:
        BASELINE.write_text(json.dumps(baselines | {str(version): baseline | counts}, indent=4) + "\n")
    elif names := grown(counts, baseline):
        sys.exit(f"grown by more than {MOST_GROWTH:.0%}: {'; '.join(names)}")


if __name__ == "__main__":
    main()
