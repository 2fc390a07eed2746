"""What `serve` costs: for a request that the application answers, beside `authenticate_json`, and
for a list of keys. Contenders take turns, in a different order each time.
"""

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path

import dataset
import pgbench
import ratios
import report
import scene
from dataset import clusters
from pgbench import Contender

RESULTS = Path(__file__).parent / "results" / "serve.md"

# Of each kind: those of one tenant.
KEYS = 100
LISTS = 50

REQUEST = f"'GET', '{scene.PATH}', ip => '{scene.ADDRESS}', keyspace => 'quiet'"
AUTHENTICATE = "SELECT authenticate_json(…)"
SERVE = "SELECT * FROM serve(…)"
PARTS = "SELECT (r).* FROM (SELECT serve(…) AS r OFFSET 0)"
LIST = "SELECT * FROM keysmith.serve(%s::jsonb, 'GET', '/v1/keys', keyspace => 'quiet')"


@dataclass(frozen=True)
class Session:
    """A session that calls functions for the same request again and again in one statement."""

    connection: object
    headers: str
    calls: int

    def spent(self, call):
        """Microseconds of processor time for a call."""
        loop = f"SELECT count(v) FROM (SELECT {call} AS v FROM generate_series(1, %s) OFFSET 0) AS called"
        _, used = scene.timed(self.connection, loop.replace("HEADERS", f"'{self.headers}'::jsonb"), [self.calls])
        return used / self.calls * 1e6


CALLS = {
    "authenticate_json": f"keysmith.authenticate_json(HEADERS, {REQUEST})",
    "authenticate": f"keysmith.authenticate(HEADERS, {REQUEST})",
    "serve": f"keysmith.serve(HEADERS, {REQUEST})",
}


def contenders(headers):
    def one(name, statement):
        return Contender(name, statement, [headers])
    return [
        one(AUTHENTICATE, f"SELECT keysmith.authenticate_json(:key::jsonb, {REQUEST})"),
        one("SELECT * FROM authenticate(…)", f"SELECT * FROM keysmith.authenticate(:key::jsonb, {REQUEST})"),
        one(SERVE, f"SELECT * FROM keysmith.serve(:key::jsonb, {REQUEST})"),
        one(PARTS, f"SELECT (r).* FROM (SELECT keysmith.serve(:key::jsonb, {REQUEST}) AS r OFFSET 0) s"),
    ]


def fill(connection):
    """Returns the headers of a request."""
    scene.fill(connection, scene.keys_of(KEYS * len(scene.KINDS)))
    scene.define_endpoints(connection, "quiet")
    # As autovacuum does.
    connection.execute("ANALYZE keysmith_private.key, keysmith_private.tenant")
    key, = connection.execute("SELECT api_key FROM plain_keys LIMIT 1").fetchone()
    return dataset.headers(key)


def check(connection, headers):
    """Checks that the calls do what their names say."""
    for call in CALLS.values():
        found, = connection.execute(f"SELECT to_jsonb({call.replace('HEADERS', '%s::jsonb')})", [headers]).fetchone()
        if not found["ok"] or found.get("handled"):
            raise SystemExit(f"{call} answers {found}")
    listed = len(listed_keys(connection, headers))
    if listed != KEYS:
        raise SystemExit(f"the list has {listed} keys, not {KEYS}")


def listed_keys(connection, headers):
    cursor = connection.execute(LIST, [headers])
    names = [column.name for column in cursor.description]
    return dict(zip(names, cursor.fetchone()))["body"]["keys"]


def measure(rounds, seconds, calls):
    """By part of the page and by contender, a list with one figure for each round."""
    with clusters.running("serve", **scene.SETTINGS, jit="off") as cluster, cluster.connect() as connection:
        headers = fill(connection)
        check(connection, headers)
        session = Session(connection, headers, calls)
        called = {name: [] for name in CALLS}
        sent = {contender.name: [] for contender in contenders(headers)}
        lists = []
        for _ in range(rounds):
            for name in pgbench.shuffled(list(CALLS)):
                called[name].append(session.spent(CALLS[name]))
            for contender in pgbench.shuffled(contenders(headers)):
                sent[contender.name].append(pgbench.run(cluster, contender, 1, seconds)["server"])
            lists += [scene.timed(connection, LIST, [headers]) for _ in range(LISTS)]
        version = connection.info.server_version
    return called, sent, lists, f"{version // 10000}.{version % 10000}"


def table(head, measured, first):
    return report.markdown_table(
        [head, "µs", "p25..p75", f"of {first}"],
        [[name, ratios.number(statistics.median(found)), ratios.spread(found),
          f"{ratios.median_ratio(found, measured[first]):.1%}"] for name, found in measured.items()])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=int, default=2, help="of each contender in a round")
    parser.add_argument("--calls", type=int, default=20_000, help="in one statement")
    options = parser.parse_args()
    called, sent, lists, version = measure(options.rounds, options.seconds, options.calls)
    taken, used = (statistics.median(found) * 1e3 for found in zip(*lists))
    text = f"""# What serve costs

PostgreSQL {version}, {report.processor()}; medians of {options.rounds} rounds, and of the ratios
within a round. Made by `{report.command()}`.

A request with a key, in a keyspace with {dataset.ROUTES} routes and 6 endpoints. Its path is a route's, and no
endpoint's: the application answers it. Processor time of the session for a transaction with a prepared
statement:

{table("transaction", sent, AUTHENTICATE)}

Processor time of a call, of {options.calls:,} in one statement:

{table("call", called, "authenticate_json")}

A list of {KEYS} keys by `serve`, to its last byte in the client: {taken:.2f} ms. The session uses
{used:.2f} ms of processor time. These are medians of {len(lists):,}.
"""
    print(text)
    RESULTS.write_text(text)


if __name__ == "__main__":
    main()
