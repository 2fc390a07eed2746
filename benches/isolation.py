"""The cost of row-level security: the policy that `isolate` makes, compared with the same policy
with bare calls, and with a query that names the tenant itself.
Every contender runs once in each round, in a different order each time, so that other load on the
machine affects all of them alike.
"""

import argparse
import random
import statistics
import time

import report
from dataset import clusters

TENANTS = 100

SETUP = """
    CREATE EXTENSION keysmith;
    CREATE ROLE app;
    SELECT keysmith.create_tenant('tenant' || n) FROM generate_series(1, {tenants}) n;
    CREATE TABLE plain (tenant_id uuid NOT NULL, n int NOT NULL, body text NOT NULL);
    INSERT INTO plain
        SELECT (array_agg(t.tenant_id))[1], n, repeat(md5(n::text), 2)
        FROM generate_series(1, {rows}) n
        JOIN keysmith_private.tenant t ON t.name = 'tenant' || {owner}
        GROUP BY n ORDER BY hashint4(n);
    CREATE TABLE bare AS TABLE plain;
    CREATE TABLE isolated AS TABLE plain;
    CREATE INDEX ON plain (tenant_id);
    CREATE INDEX ON bare (tenant_id);
    CREATE INDEX ON isolated (tenant_id);
    SELECT keysmith.isolate('isolated', 'tenant_id');
    ALTER TABLE bare ENABLE ROW LEVEL SECURITY;
    CREATE POLICY tenant ON bare USING (tenant_id = keysmith.current_tenant_id());
    GRANT SELECT ON plain, bare, isolated TO app;
"""

# With rows of all tenants, and with all rows of the tenant that asks.
OWNERS = {"1 % of the rows": "(1 + n % {tenants})", "all rows": "1"}

QUERY = "SELECT count(*), max(body) FROM {}"
CONTENDERS = {
    "WHERE tenant_id = '…', no policy": QUERY.format("plain WHERE tenant_id = '{tenant_id}'"),
    "isolate: sub-selects": QUERY.format("isolated"),
    "isolate, after a commit elsewhere": QUERY.format("isolated"),
    "a policy with a bare call": QUERY.format("bare"),
}


def measure(cluster, owner, options):
    """Milliseconds by contender, a list with one figure for each round."""
    dbname = "measured"
    cluster.execute(f"DROP DATABASE IF EXISTS {dbname}")
    cluster.execute("DROP ROLE IF EXISTS app")
    cluster.execute(f"CREATE DATABASE {dbname}")
    cluster.psql(SETUP.format(tenants=TENANTS, rows=options.rows,
                              owner=owner.format(tenants=TENANTS)), dbname)
    cluster.execute("VACUUM ANALYZE", dbname)
    with cluster.connect(dbname) as session, cluster.connect(dbname) as elsewhere:
        tenant_id, = session.execute(
            "SELECT tenant_id FROM keysmith_private.tenant WHERE name = 'tenant1'").fetchone()
        key, = session.execute("SELECT api_key FROM keysmith.mint('tenant1')").fetchone()
        session.execute("SET max_parallel_workers_per_gather = 0")
        session.execute("BEGIN")
        session.execute("SELECT keysmith.verify(%s, sign_in => true)", (key,))
        session.execute("SET LOCAL ROLE app")
        times = {name: [] for name in CONTENDERS}
        expected = None
        for _ in range(options.rounds):
            for name in random.sample(list(CONTENDERS), len(CONTENDERS)):
                if "elsewhere" in name:
                    elsewhere.execute("SELECT pg_current_xact_id()")
                statement = CONTENDERS[name].format(tenant_id=tenant_id)
                begun = time.perf_counter()
                row = session.execute(statement).fetchone()
                times[name].append((time.perf_counter() - begun) * 1000)
                expected = expected or row
                assert row == expected, f"{name} reads other rows"
        session.execute("ROLLBACK")
    return times


def table(measured):
    header = ["the tenant is named by"]
    for kind in measured:
        header += [f"{kind}, ms", "of the first"]
    first = next(iter(CONTENDERS))
    rows = []
    for name in CONTENDERS:
        cells = [name]
        for times in measured.values():
            ratios = [a / b for a, b in zip(times[name], times[first])]
            cells += [f"{statistics.median(times[name]):.2f}", f"{statistics.median(ratios):.0%}"]
        rows.append(cells)
    return report.markdown_table(header, rows)


def read_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--rows", type=int, default=100_000)
    return parser.parse_args()


def main():
    options = read_options()
    with clusters.running("isolation", shared_buffers="256MB", autovacuum="off") as cluster:
        measured = {kind: measure(cluster, owner, options) for kind, owner in OWNERS.items()}
    print(table(measured))
    print(f"\n{options.rows:,} rows, median of {options.rounds} rounds; {report.processor()}. "
          f"Made by `{report.command()}`.")


if __name__ == "__main__":
    main()
