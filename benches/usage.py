"""The cost of usage: requests that write to tracked tables compared with the same on untracked
ones, and pages of a log of many requests.
Contenders take turns, in a different order each time, so that other load on the machine affects
all of them alike. Ratios are taken within a turn, and their median is shown.
"""

import argparse
import random
import statistics
import time
from contextlib import contextmanager
from pathlib import Path

import report
from dataset import clusters

INSERTS = 200
RESULTS = Path(__file__).parent / "results" / "usage.md"


def new_key(session):
    """A key of a new tenant."""
    session.execute("SELECT keysmith.create_tenant('acting')")
    api_key, = session.execute("SELECT api_key FROM keysmith.mint('acting')").fetchone()
    return api_key


@contextmanager
def acting_for(session, api_key):
    """A transaction that acts for the key."""
    with session.transaction():
        session.execute("SELECT keysmith.verify(%s, sign_in => true)", (api_key,))
        yield


def timed(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def interleaved(contenders, turns):
    """The median time of each contender, and the median of the ratios to the first."""
    times = {name: [] for name in contenders}
    for _ in range(turns):
        for name in random.sample(list(contenders), len(contenders)):
            times[name].append(timed(contenders[name]))
    first = next(iter(contenders))
    return {name: (statistics.median(taken),
                   statistics.median(t / base for t, base in zip(taken, times[first])))
            for name, taken in times.items()}


def tracking(cluster, turns):
    with cluster.connect("bench") as session:
        api_key = new_key(session)
        for table in ("untracked", "tracked"):
            session.execute(f"CREATE TABLE {table} (id bigint PRIMARY KEY, customer bigint NOT NULL, note text, "
                            f"at timestamptz NOT NULL DEFAULT now()); CREATE INDEX ON {table} (customer)")
        session.execute("SELECT keysmith.track('tracked')")
        # Both kinds of statements start with tables of the same size.
        next_id = iter(range(1, 10**12, 10_000))

        def one_by_one(table):
            first = next(next_id)
            statement = f"INSERT INTO {table} (id, customer, note) VALUES (%s, %s, 'ten pieces, in blue')"

            def run():
                for n in range(INSERTS):
                    with acting_for(session, api_key):
                        session.execute(statement, (first + n, n), prepare=True)
            return run

        def at_once(table):
            first = next(next_id)

            def run():
                with acting_for(session, api_key):
                    session.execute(
                        f"INSERT INTO {table} (id, customer, note) SELECT {first} + g, g, 'ten pieces, in blue' "
                        "FROM generate_series(0, 9999) AS g")
            return run

        rows = []
        for name, statements, waits in (("a request that inserts 1 row", one_by_one, "on"),
                                        ("the same, not waiting for the disk", one_by_one, "off"),
                                        ("a request that inserts 10,000 rows", at_once, "on")):
            session.execute(f"SET synchronous_commit = {waits}")
            result = interleaved({table: (lambda table=table: statements(table)())
                                  for table in ("untracked", "tracked")}, turns)
            session.execute("VACUUM")
            count = INSERTS if statements is one_by_one else 1
            (base, _), (taken, ratio) = result.values()
            rows.append([name, f"{base / count * 1e6:,.0f} µs", f"{taken / count * 1e6:,.0f} µs",
                         f"{(ratio - 1) * 100:+.1f} %"])
        return report.markdown_table(["statement", "untracked", "tracked", "more"], rows)


def pages(cluster, requests, turns):
    with cluster.connect("bench") as session:
        session.execute("SELECT keysmith_private.usage_prepare()")
        tenant_id, = session.execute("SELECT keysmith.create_tenant('acme')").fetchone()
        keys = [session.execute("SELECT key_id FROM keysmith.mint('acme')").fetchone()[0] for _ in range(4)]
        batch = 10_000

        def write(first):
            session.execute(
                "INSERT INTO keysmith_private.usage_event (at, incarnation, sequence, request_id, key_id, tenant_id, "
                "keyspace, environment, method, endpoint, status, outcome, ip, latency) "
                "SELECT now() - interval '1 day' * (1 - (%(first)s + g)::float8 / %(all)s), 1, %(first)s + g, "
                "gen_random_uuid(), (%(keys)s::uuid[])[1 + g %% 4], %(tenant)s, 'default', 'live', 'GET', "
                "'/v1/images', 200, 'ok', '192.0.2.1', '12 ms' FROM generate_series(1, %(batch)s) AS g",
                {"first": first, "all": requests, "keys": keys, "tenant": tenant_id, "batch": batch})
            session.execute("SELECT keysmith_private.usage_fold()")

        taken = timed(lambda: [write(first) for first in range(0, requests, batch)])
        session.execute("VACUUM ANALYZE")
        speed = f"{requests / taken:,.0f} requests a second, by INSERT in batches of {batch:,}"

        def page(number):
            return lambda: session.execute(
                "SELECT keysmith.usage_logs('acme', key_id => %s, page => %s)", (keys[0], number)).fetchone()

        last = requests // 4 // 50
        contenders = {f"page {n:,}": page(n) for n in (1, 1000, last) if n <= last}
        for run in contenders.values():
            run()
        rows = [[name, f"{seconds * 1e3:.2f} ms", f"{ratio:.2f}"]
                for name, (seconds, ratio) in interleaved(contenders, turns).items()]
        return speed, report.markdown_table(["usage_logs, by key", "time", "to page 1"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--turns", type=int, default=60)
    arguments = parser.parse_args()
    with clusters.running("bench", autovacuum="off", shared_buffers="512MB", fsync="on") as cluster:
        cluster.execute("CREATE DATABASE bench")
        cluster.execute("CREATE EXTENSION keysmith", "bench")
        tracked = tracking(cluster, arguments.turns)
        speed, paged = pages(cluster, arguments.requests, arguments.turns)
        with cluster.connect() as session:
            version = session.info.server_version
    text = f"""# Tracking, and pages of requests

PostgreSQL {version // 10000}.{version % 10000}, {report.processor()}, with fsync; {arguments.turns} turns, medians of times and of
ratios within a turn. Made by `{report.command()}`.

## Tables that are tracked

{tracked}

## Pages of {arguments.requests:,} requests

Of one key, which made a quarter of them; 50 to a page. They were written and added up at
{speed}.

{paged}
"""
    print(text)
    RESULTS.write_text(text)


if __name__ == "__main__":
    main()
