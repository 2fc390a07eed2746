"""What frameworks offer instead: their API-key packages, in-process, on the same server.

Each runs in one worker, beside the same driver that asks keysmith, and beside that driver with
`SELECT 1`: no decision in the database can be faster than that.
"""

import json
import os
import random
import sys
from contextlib import contextmanager
from pathlib import Path

import plot
import ratios
import report
from worker import Worker

FOLDER = Path(__file__).parent / "frameworks"
LEAST = 10

DRIVER, OURS, THEIRS = "driver", "keysmith", "framework"

# The contenders: the worker, its concurrent requests, and the names of its rows.
PAIRS = {
    "python": ("django_rest", 1, {
        DRIVER: "psycopg, SELECT 1",
        OURS: "psycopg, verify",
        THEIRS: "djangorestframework-api-key"}),
    "node": ("better_auth", 1, {
        DRIVER: "node-postgres, SELECT 1",
        OURS: "node-postgres, verify",
        THEIRS: "better-auth"}),
    "node, 8 at once": ("better_auth", 8, {
        DRIVER: "node-postgres, SELECT 1, 8 at once",
        OURS: "node-postgres, verify, 8 at once",
        THEIRS: "better-auth, 8 at once"}),
}
PROGRAMS = {
    "django_rest": [sys.executable, FOLDER / "django_rest.py"],
    "better_auth": ["node", FOLDER / "better_auth.mjs"],
}


@contextmanager
def workers(cluster):
    environment = os.environ | {"PGHOST": str(cluster.dir), "PGPORT": str(cluster.port), "PGUSER": "postgres",
                                "PGDATABASE": "postgres", "NODE_ENV": "production"}
    found = {}
    try:
        for program in PROGRAMS:
            found[program] = Worker(program, PROGRAMS[program], environment)
        yield found
    finally:
        for worker in found.values():
            worker.end()


def measure(mode, scene, say):
    cluster = scene.start()
    keys = random.sample(scene.keys["logged_limited"], mode.framework_keys)
    measured = {pair: {contender: [] for contender in names} for pair, (_, _, names) in PAIRS.items()}
    with workers(cluster) as running, cluster.connect() as connection:
        say("making their keys")
        versions = {}
        for worker in running.values():
            versions |= worker.ask("prepare", keys=keys)
        connection.execute("VACUUM ANALYZE")
        turns = [(pair, contender) for pair, found in measured.items() for contender in found]
        for worker, at_once, names in PAIRS.values():
            for contender in names:
                running[worker].ask("run", contender=contender, seconds=0.5, at_once=at_once)
        for number in range(mode.rounds):
            say(f"round {number + 1} of {mode.rounds}")
            for pair, contender in random.sample(turns, len(turns)):
                worker, at_once, _ = PAIRS[pair]
                measured[pair][contender].append(running[worker].ask(
                    "run", contender=contender, seconds=mode.seconds, at_once=at_once))
                connection.execute("SELECT keysmith.flush_usage('2 minutes')")
    return {"measured": measured, "versions": versions | _pinned(), "keys": len(keys), "seconds": mode.seconds}


def _pinned():
    packages = json.loads((FOLDER / "package.json").read_text())["dependencies"]
    lines = (FOLDER / "requirements.txt").read_text().splitlines()
    return packages | dict(line.split("==") for line in lines if "==" in line)


def rates(data, pair, contender):
    return [found["calls"] / found["seconds"] for found in data["measured"][pair][contender]]


def ratio(data, pair, contender, other):
    return ratios.median_ratio(rates(data, pair, contender), rates(data, pair, other))


def page(data):
    rows = []
    for pair, (_, _, names) in PAIRS.items():
        for contender, name in names.items():
            found = data["measured"][pair][contender]
            spent = ratios.quartiles([one["processor"] / one["calls"] * 1e6 for one in found])[1]
            rows.append([name, ratios.number(ratios.quartiles(rates(data, pair, contender))[1]),
                         ratios.spread(rates(data, pair, contender)), ratios.number(spent),
                         f"{ratio(data, pair, contender, THEIRS):.2f} ×"])
    table = report.markdown_table(
        ["worker", "a second", "p25..p75", "its own processor time, µs a call", "of the framework's"], rows)
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items()
                         if not name.startswith(("@better-auth/core", "@better-auth/utils", "better-call")))
    return f"""# Compared with packages of frameworks

{report.surroundings(data)} One worker each,
in-process, on the same server; {data["keys"]:,} keys each, rounds of {data["seconds"]} s. {versions}.

![Decisions a second of one worker](frameworks.svg)

{table}

djangorestframework-api-key is called as a view calls it, by `HasAPIKey().has_permission(request, view)`:
one look-up by prefix, and a digest in Python. It knows neither scopes nor limits, and logs nothing.
better-auth checks a permission by `auth.api.verifyApiKey`, with its rate limiting turned off: a
look-up, and an update of the key's last use. `verify` checks a scope and a limit, and logs the request;
psycopg reads only yes or no, as the view does from its framework, and node-postgres reads five columns
of the verdict. Through a driver `verify` can't be faster than `SELECT 1` through that driver.
"""


def plots(data):
    rows = []
    for pair, (_, _, names) in PAIRS.items():
        for contender, name in names.items():
            low, median, high = ratios.quartiles(rates(data, pair, contender))
            color = {DRIVER: plot.FLOOR, OURS: plot.OURS, THEIRS: plot.PEER}[contender]
            rows.append(plot.Bar(name, median, low, high, color))
    return {"frameworks": plot.bars("Beside frameworks' packages", "decisions a second of one worker, median and "
                                    "quartiles", rows)}


def targets(data):
    return [(f"{names[OURS]}: {LEAST} × {names[THEIRS]}", ratio(data, pair, OURS, THEIRS), LEAST, "at least")
            for pair, (_, _, names) in PAIRS.items()]
