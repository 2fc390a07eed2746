"""Decisions per second, beside `SELECT 1` and beside a plain look-up by primary key.

Every contender is run in many short rounds, in another order each time, so that what
else the machine does meets all of them alike. Ratios are taken within a round, and
their median over the rounds is shown.

A second table is about hot keys, few of them: what logging and a limit add to a decision,
and what the same costs where a plpgsql function writes rows for it.
"""

import argparse
import datetime
import functools
import random
import re
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import dataset
import report
from dataset import clusters

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "throughput.md"

# pgbench has no expressions for text, so a key per script, of which it picks one at
# random for each transaction; other keys in each round. Every client prepares every
# script: more of them would measure that, these few take about 1 % of a round.
SCRIPTS = 4

SETTINGS = {
    "shared_buffers": "512MB",
    "autovacuum": "off",
    # What a session comes to by itself after five executions of each statement. Here
    # that would be a noticeable part of a round, and no part of `SELECT 1`.
    "plan_cache_mode": "force_generic_plan",
}

VERDICT_COLUMNS = [
    "ok", "status", "code", "message", "reason", "key_id", "tenant", "tenant_id", "keyspace",
    "environment", "kind", "owner", "role", "scopes", "metadata", "expires_at", "limit_name",
    "limit_remaining", "retry_after", "credits_remaining", "request_id",
]


@dataclass
class Contender:
    """A statement; `:key` stands for one of the values, which differ by script.

    Values and `:scopes` are bind parameters, as they are where an application calls.
    A scope written into a script would be mangled: pgbench takes its colon for the
    beginning of a variable.
    """

    name: str
    statement: str
    values: list
    expected: object
    # What the script does before; nothing of it depends on the round.
    first: str = ""

    def arguments(self, folder):
        """Writes the scripts and returns how to tell pgbench of them."""
        arguments = ["-D", "scopes={images:write}"]
        for n, value in enumerate(self.values):
            script = folder / f"{n}.sql"
            script.write_text(self.first + self.statement.replace(":key", f":key{n}") + ";\n")
            arguments += ["-f", script, "-D", f"key{n}={value}"]
        return arguments

    def check(self, connection):
        """Makes sure that what is measured is what the name says."""
        statement = self.statement.replace(":key", "%(key)s").replace(":scopes", "%(scopes)s")
        for value in self.values:
            cursor = connection.execute(statement, {"key": value, "scopes": "{images:write}"})
            row = dict(zip([column.name for column in cursor.description], cursor.fetchone()))
            found = row.get("reason")
            if found != self.expected:
                raise SystemExit(f"{self.name}: expected {self.expected}, found {found}")


SELECT_1 = "SELECT 1"
LOOKUP = "primary-key look-up"


def contenders(keys):
    """All contenders, with keys drawn anew."""
    known = random.sample(keys, SCRIPTS)
    unknown = dataset.make_keys(SCRIPTS, seed=random.random())
    digests = ["\\x" + dataset.key_digest(key).hex() for key in known]
    look_up = f"SELECT {', '.join(VERDICT_COLUMNS)} FROM peer WHERE digest = :key"
    verify = "SELECT * FROM keysmith.verify(:key)"
    verify_scope = "SELECT * FROM keysmith.verify(:key, :scopes)"
    authenticate = (f"SELECT * FROM keysmith.authenticate(:key::jsonb, 'GET',"
                    f" '/v1/r{dataset.ROUTES // 2}/7/items')")
    return [
        Contender(SELECT_1, "SELECT 1", known, None),
        Contender(LOOKUP, look_up, digests, "ok"),
        Contender("verify", verify, known, "ok"),
        Contender("verify, scope required", verify_scope, known, "ok"),
        Contender(f"authenticate, {dataset.ROUTES} routes", authenticate,
                  [dataset.headers(key) for key in known], "ok"),
        Contender("verify, malformed key", verify, [dataset.misspell(key) for key in known],
                  "malformed_key"),
        Contender("verify, unknown key", verify, unknown, "not_found"),
    ]


def make_lookup_table(connection, keys):
    """Each key's verdict by the key's digest: what a look-up alone would cost."""
    connection.execute(
        f"CREATE TABLE peer AS SELECT * FROM ROWS FROM (unnest(%s::bytea[]),"
        f" keysmith.verify_many(%s)) AS verdicts (digest, {', '.join(VERDICT_COLUMNS)})",
        [[dataset.key_digest(key) for key in keys], keys])
    connection.execute("ALTER TABLE peer ADD PRIMARY KEY (digest)")


def transactions_per_second(cluster, contender, clients, seconds, **settings):
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    with tempfile.TemporaryDirectory() as folder:
        output = cluster.program(
            "pgbench", "-n", "-M", "prepared", "-T", seconds, "-c", clients,
            "-j", min(clients, 2), *contender.arguments(Path(folder)),
            f"dbname=postgres options='{options}'", dbname=None).stdout
    rate = re.search(r"^tps = ([0-9.]+)", output, re.MULTILINE)
    if not rate:
        raise SystemExit(f"{contender.name}: no transaction in {seconds} s; try more --seconds")
    return float(rate[1])


def measure(cluster, keys, options):
    """Transactions per second by number of clients and contender, one for each round."""
    measured = {(clients, contender.name): []
                for clients in options.clients for contender in contenders(keys)}
    for number in range(options.rounds):
        for clients in options.clients:
            for contender in shuffled(contenders(keys)):
                measured[clients, contender.name].append(
                    transactions_per_second(cluster, contender, clients, options.seconds))
        print(f"round {number + 1} of {options.rounds}", flush=True)
    return measured


def shuffled(items):
    return random.sample(items, len(items))


def table(measured):
    rows = []
    for (clients, name), rates in measured.items():
        low, median, high = quartiles(rates)
        ratios = [median_ratio(rates, measured[clients, other]) for other in (SELECT_1, LOOKUP)]
        rows.append([name, clients, f"{median:,.0f}", f"{low:,.0f}..{high:,.0f}", *ratios])
    header = ["contender", "clients", "median tps", "p25..p75", "of SELECT 1", "of the look-up"]
    return report.markdown_table(header, rows)


def quartiles(values):
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


def median_ratio(rates, others):
    return f"{statistics.median(a / b for a, b in zip(rates, others)):.1%}"


def write_results(text, version, options):
    today = datetime.date.today().isoformat()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(f"""# Throughput

{today}, PostgreSQL {version}, {report.processor()}; clients and server share them.
{options.keys:,} keys; {options.rounds} rounds of {options.seconds} s each. Made by
`{report.command()}`.

{text}

The look-up is a prepared `SELECT` of a verdict's columns from a plain table, by primary key:
it decides nothing, and trusts that the row is current.
""")


def read_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=2, help="length of each measurement")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--keys", type=int, default=100_000)
    return parser.parse_args()


def main():
    options = read_options()
    keys = dataset.make_keys(options.keys)
    with clusters.running("throughput", **SETTINGS) as cluster:
        with cluster.connect() as connection:
            dataset.fill(connection, keys)
            make_lookup_table(connection, keys)
            dataset.settle(connection)
            for contender in contenders(keys):
                contender.check(connection)
            version = connection.execute("SHOW server_version_num").fetchone()[0]
        version = f"{int(version) // 10000}.{int(version) % 10000}"
        text = table(measure(cluster, keys, options))
    print(text)
    write_results(text, version, options)


if __name__ == "__main__":
    main()
