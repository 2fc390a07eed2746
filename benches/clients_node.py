"""What the package for Node adds to a request: the processor time of one worker with Express, Fastify and Hono, alone
and with the package, whose pool answers at once; and with a real database, beside code that is written by hand.
"""

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path

import dataset
import ratios
import report
from dataset import clusters
from worker import Worker

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "clients_node.md"
PACKAGES = Path(os.environ.get("CARGO_TARGET_DIR") or HERE.parent / "target") / "examples/clients-node/node_modules"
FRAMEWORKS = {"express": "Express", "fastify": "Fastify", "hono": "Hono, @hono/node-server"}
# Until then Node has not compiled all that a request runs.
WARM_UP = 20_000
ALONE, PACKAGE, BY_HAND = "alone", "package", "by hand"


@contextmanager
def project():
    """A folder in which the packages are installed."""
    with tempfile.TemporaryDirectory(prefix="keysmith-bench-") as name:
        folder = Path(name)
        shutil.copy(HERE / "clients_node.mjs", folder)
        (folder / "node_modules").mkdir()
        for package in PACKAGES.iterdir():
            (folder / "node_modules" / package.name).symlink_to(package)
        shutil.copytree(HERE.parent / "clients/node", folder / "node_modules/keysmith")
        yield folder


def measure(folder, contenders, environment, rounds, requests, key=None, between=lambda: None):
    """By contender, the microseconds of processor time of a request, one figure for each round."""
    with ExitStack() as stack:
        start = lambda: stack.enter_context(Worker("a worker", ["node", folder / "clients_node.mjs"], environment, folder))
        load = start()
        workers = {contender: start() for contender in contenders}
        ports = {(framework, how): worker.ask("serve", framework=framework, how=how, real=key is not None)["port"]
                 for (framework, how), worker in workers.items()}
        keys = {"key": key} if key else {}

        def spent(contender, requests):
            before = workers[contender].ask("spent")["microseconds"]
            load.ask("load", port=ports[contender], requests=requests, **keys)
            return (workers[contender].ask("spent")["microseconds"] - before) / requests

        for contender in contenders:
            spent(contender, WARM_UP)
        found = {contender: [] for contender in contenders}
        for _ in range(rounds):
            for contender in random.sample(contenders, len(contenders)):
                found[contender].append(spent(contender, requests))
            between()
        return found


def table(found, names, first):
    rows = []
    for (framework, how), values in found.items():
        name = f"{FRAMEWORKS[framework]}, {names[how]}"
        rows.append([name, ratios.number(statistics.median(values)), ratios.spread(values),
                     f"{ratios.median_ratio(values, found[framework, first]) - 1:+.1%}"])
    return report.markdown_table(["worker", "µs a request", "p25..p75", f"beside {names[first]}"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--requests", type=int, default=3000, help="of each contender in a round")
    parser.add_argument("--only", choices=FRAMEWORKS, action="append")
    parser.add_argument("--no-database", action="store_true")
    parser.add_argument("--write", action="store_true", help="write the page")
    options = parser.parse_args()
    began = time.time()
    frameworks = options.only or list(FRAMEWORKS)
    environment = clusters.environment() | {"NODE_ENV": "production"}
    with project() as folder:
        alone = measure(folder, [(framework, how) for framework in frameworks for how in (ALONE, PACKAGE)],
                        environment, options.rounds, options.requests)
        names = {ALONE: "alone", PACKAGE: "with the package", BY_HAND: "by hand"}
        first = table(alone, names, ALONE)
        print(first, file=sys.stderr)
        if options.no_database:
            return
        with clusters.running("clients", jit="off", keysmith__usage_retention="1 day") as cluster, cluster.connect() as connection:
            connection.execute("CREATE EXTENSION keysmith")
            connection.execute("SELECT keysmith.create_tenant('acme')")
            key, = connection.execute("SELECT api_key FROM keysmith.mint('acme')").fetchone()
            environment |= {"PGHOST": str(cluster.dir), "PGPORT": str(cluster.port), "PGUSER": "postgres", "PGDATABASE": "postgres"}
            real = measure(folder, [(framework, how) for framework in frameworks for how in (BY_HAND, PACKAGE)],
                           environment, options.rounds, options.requests // 3, key,
                           lambda: connection.execute("SELECT keysmith.flush_usage('2 minutes')"))
            version = connection.info.server_version
        second = table(real, names, BY_HAND)
        print(second, file=sys.stderr)
    data = {"date": date.today().isoformat(), "version": f"{version // 10000}.{version % 10000}",
            "processor": report.processor(), "made_by": report.command(), "took": time.time() - began}
    page = f"""# What the package for Node adds

{report.surroundings(data)} One worker of each; the processor time of a
request in its process, median of {options.rounds} rounds of {options.requests:,} requests over four connections.

Without the decision: a pool without a database gives all answers, so that only the package's own work counts.

{first}

With the database, beside a handler that takes a connection, begins, calls `authenticate` and `log_request`, and
commits.

{second}
"""
    if options.write:
        RESULTS.write_text(page)


if __name__ == "__main__":
    main()
