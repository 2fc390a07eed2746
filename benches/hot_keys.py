"""What logging and limits add to a decision where many requests bring few keys, beside a
plpgsql function that writes rows for the same.

Every contender is run in many short rounds, in another order each time. Ratios are taken
within a round, and their median over the rounds is shown. After each measurement the
worker stores what is left, so that it is not in the way of the next.
"""

import argparse
import datetime
from pathlib import Path

import dataset
import report
import throughput
from dataset import clusters
from throughput import Contender

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "hot_keys.md"

# Rows that transactions write wait for the disk, as they do where they matter.
SETTINGS = throughput.SETTINGS | {"fsync": "on", "max_wal_size": "4GB"}

KEYS = 100
NEITHER = "verify, nothing logged, no limit"
LOGGED = "verify, logged"
LIMITED = "verify, logged, one limit"
ROWS = "plpgsql with rows"
IMPATIENT = "the same, synchronous_commit = off"


def fill(connection):
    """Keys of each kind, and the contenders that verify them."""
    kinds = [dataset.make_keys(KEYS, seed) for seed in (1, 2, 3)]
    plain, quiet, limited = kinds
    dataset.fill(connection, plain)
    dataset.add_quiet_keys(connection, quiet)
    dataset.add_limited_keys(connection, limited)
    connection.execute("CREATE TABLE plaintext (api_key text)")
    dataset.copy(connection, "plaintext", ["api_key"], ([key] for key in plain))
    for script in ("plpgsql_peer.sql", "plpgsql_rows.sql"):
        connection.execute((HERE / script).read_text())
    connection.execute("VACUUM FULL peer_key")
    dataset.settle(connection)

    def verify(keyspace):
        return ("SELECT * FROM keysmith.verify(:key, :scopes, ip => '192.0.2.1',"
                f" keyspace => '{keyspace}')")
    peer = "SELECT * FROM peer_verify_with_rows(:key, :scopes, '192.0.2.1')"
    return [
        (Contender(NEITHER, verify("quiet"), quiet, "ok"), {}),
        (Contender(LOGGED, verify("default"), plain, "ok"), {}),
        (Contender(LIMITED, verify("default"), limited, "ok"), {}),
        (Contender(ROWS, peer, plain, "ok"), {}),
        (Contender(IMPATIENT, peer, plain, "ok"), {"synchronous_commit": "off"}),
    ]


def measure(cluster, connection, contenders, options):
    """Transactions per second by number of clients and contender, one for each round."""
    measured = {(clients, contender.name): []
                for clients in options.clients for contender, _ in contenders}
    for number in range(options.rounds):
        for clients in options.clients:
            for contender, settings in throughput.shuffled(contenders):
                measured[clients, contender.name].append(throughput.transactions_per_second(
                    cluster, contender, clients, options.seconds, **settings))
                connection.execute("SELECT keysmith.flush_usage('2 minutes')")
        print(f"round {number + 1} of {options.rounds}", flush=True)
    return measured


def table(measured):
    rows = []
    for (clients, name), rates in measured.items():
        low, median, high = throughput.quartiles(rates)
        ratios = [throughput.median_ratio(rates, measured[clients, other])
                  for other in (NEITHER, ROWS)]
        rows.append([name, clients, f"{median:,.0f}", f"{low:,.0f}..{high:,.0f}", *ratios])
    return report.markdown_table(
        ["contender", "clients", "median tps", "p25..p75", "of the first", "of plpgsql"], rows)


def written_through(connection):
    """Records for which there was no room, so that transactions stored them."""
    return connection.execute(
        "SELECT count(*) FROM keysmith.usage_event WHERE incarnation = 0").fetchone()[0]


def read_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=3, help="length of each measurement")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    return parser.parse_args()


def main():
    options = read_options()
    with clusters.running("hotkeys", **SETTINGS) as cluster:
        with cluster.connect() as connection:
            contenders = fill(connection)
            for contender, _ in contenders:
                contender.check(connection)
            text = table(measure(cluster, connection, contenders, options))
            count, = connection.execute("SELECT count(*) FROM keysmith.usage_event").fetchone()
            text += (f"\n\n{count:,} requests were logged, {written_through(connection):,} of them"
                     " by their own transactions, for want of room in the buffer.")
            version = connection.info.server_version
    print(text)
    RESULTS.write_text(f"""# Hot keys

{datetime.date.today().isoformat()}, PostgreSQL {version // 10000}.{version % 10000}, {report.processor()}; clients and
server share them, and the worker that stores what is logged. {KEYS} keys, with fsync;
{options.rounds} rounds of {options.seconds} s each. Made by `{report.command()}`.

{text}

plpgsql decides as `plpgsql_peer.sql` does, and then updates the key's row and inserts one of
the request: `plpgsql_rows.sql`. It keeps no totals and limits nothing.
""")


if __name__ == "__main__":
    main()
