"""What logging costs the requests themselves: the rate of eight clients with each `usage_log`, as a share
of the rate with nothing logged. Contenders take turns. A round is longer than the queue takes
to fill, so that it has the cost of storing."""

import argparse
import random
from pathlib import Path

import dataset
import pgbench
import ratios
import report
from dataset import clusters
from pgbench import Contender
from scene import ADDRESS

RESULTS = Path(__file__).parent / "results" / "logged.md"
CLIENTS = 8
KEYS = 1_000
# pgbench picks one of so many keys for each transaction. Each round has other keys.
PICKED = 4
LOGS = ("nothing", "totals", "everything")
SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB", "fsync": "on", "autovacuum": "off"}


def contenders(keys):
    statement = "SELECT (keysmith.verify(:key, :scopes, ip => '{}', keyspace => '{}')).ok"
    return [Contender(log, statement.format(ADDRESS, log), random.sample(keys[log], PICKED)) for log in LOGS]


def fill(connection):
    connection.execute("CREATE EXTENSION keysmith")
    keys = {log: dataset.make_keys(KEYS, seed) for seed, log in enumerate(LOGS)}
    for log in LOGS:
        connection.execute("SELECT keysmith.create_keyspace(%s, usage_log => %s)", [log, log])
        for scope in dataset.SCOPES:
            connection.execute("SELECT keysmith.define_scope(%s, %s)", [log, scope])
        dataset.add_keys(connection, keys[log], tenant=log, keyspace=log)
    dataset.settle(connection)
    for log in LOGS:
        (let_in,) = connection.execute(
            "SELECT (keysmith.verify(%s, %s, ip => %s, keyspace => %s)).ok", [keys[log][0], pgbench.SCOPES, ADDRESS, log]).fetchone()
        assert let_in
    return keys


def measure(rounds, seconds):
    measured = {log: [] for log in LOGS}
    with clusters.running("logged", **SETTINGS) as cluster, cluster.connect() as connection:
        keys = fill(connection)
        for _ in range(rounds):
            for contender in pgbench.shuffled(contenders(keys)):
                # The records of the last contender are stored first.
                connection.execute("SELECT keysmith.flush_usage('10 minutes')")
                measured[contender.name].append(pgbench.run(cluster, contender, CLIENTS, seconds)["rate"])
        version = connection.info.server_version
    rows = [[f"`{log}`", ratios.number(ratios.quartiles(rates)[1]), ratios.spread(rates),
             f"{ratios.median_ratio(rates, measured['nothing']):.2f}"] for log, rates in measured.items()]
    header = ["usage_log", "requests a second", "p25..p75", "of nothing logged"]
    return report.markdown_table(header, rows), f"{version // 10000}.{version % 10000}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=12)
    options = parser.parse_args()
    text, version = measure(options.rounds, options.seconds)
    print(text)
    RESULTS.write_text(f"""# What logging costs requests

PostgreSQL {version}, {report.processor()}, with fsync. {CLIENTS} clients call `(verify(…)).ok` with prepared
statements; clients, sessions and the worker share the processors. {options.rounds} rounds of {options.seconds} s, in which the contenders take
turns; medians. Made by `{report.command()}`.

{text}
""")


if __name__ == "__main__":
    main()
