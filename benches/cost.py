"""The cost of a decision within the server: processor time of one session that decides about many
keys in one statement, minus the time of the same statement with a trivial function."""

import json

import dataset
import pgbench
import plot
import ratios
import report
from scene import ADDRESS, MANY_SCOPES, ROOMY, keyspace_of, processor_seconds, timed, worker_of

BATCH = 1000
EMPTY, EMPTY_BATCH = "empty loop", "empty loop of batches"
VERIFY = "verify"
FULL = "verify, logged, one limit"
LOGGED = "verify, logged"
AUTHENTICATE = f"authenticate, {dataset.ROUTES} routes"
MANY = f"verify_many of {BATCH:,}, each"
PLPGSQL = "plpgsql"


def verify(kind, key="api_key"):
    return (f"keysmith.verify({key}, '{{images:write}}', ip => '{ADDRESS}',"
            f" keyspace => '{keyspace_of(kind)}')")


def loop(call, rows="plain_keys"):
    # OFFSET keeps the planner from merging the loops, so that all have the same shape.
    return (f"SELECT count(v) FROM (SELECT {call} AS v FROM generate_series(1, %s) AS again, {rows}"
            f" OFFSET 0) AS called")


def loops():
    # OFFSET makes the executor run every batch: the planner may not repeat results instead.
    batches = (f"(SELECT api_keys FROM generate_series(1, %s) AS again, (SELECT array_agg(api_key) AS api_keys"
               f" FROM plain_keys GROUP BY n / {BATCH}) AS batches OFFSET 0) AS k")
    return {
        EMPTY: loop("octet_length(api_key)"),
        EMPTY_BATCH: f"SELECT count(v) FROM {batches}, LATERAL cardinality(api_keys) AS v",
        VERIFY: loop(verify("plain")),
        LOGGED: loop(verify("logged"), "logged_keys"),
        "verify, one limit": loop(verify("limited"), "limited_keys"),
        FULL: loop(verify("logged_limited"), "logged_limited_keys"),
        "verify, allowlist": loop(verify("allowlisted"), "allowlisted_keys"),
        f"verify, {len(MANY_SCOPES)} scopes": loop(verify("scoped"), "scoped_keys"),
        "verify, unknown key": loop(verify("plain", "unknown_key"), "plain_variants"),
        "verify, malformed key": loop(verify("plain", "malformed_key"), "plain_variants"),
        AUTHENTICATE: loop(
            f"keysmith.authenticate(headers, 'GET', '/v1/r{dataset.ROUTES // 2}/7/items',"
            f" ip => '{ADDRESS}', keyspace => 'quiet')", "plain_variants"),
        MANY: f"SELECT count(v) FROM {batches}, LATERAL keysmith.verify_many(api_keys, '{{images:write}}', ip => '{ADDRESS}',"
              " keyspace => 'quiet') AS v",
        PLPGSQL: loop(f"peer_verify(api_key, '{{images:write}}', '{ADDRESS}')"),
    }


def make_variants(connection, keys):
    """Arguments made of the plain keys: requests with these keys, and invalid keys."""
    connection.execute(
        "CREATE TABLE plain_variants (n integer, unknown_key text, malformed_key text, headers jsonb)")
    others = dataset.make_keys(len(keys), seed=2)
    dataset.copy(connection, "plain_variants", ["n", "unknown_key", "malformed_key", "headers"],
                 ((n, others[n], dataset.misspell(key), json.dumps(json.loads(dataset.headers(key))))
                  for n, key in enumerate(keys)))


def measure(mode, scene, say):
    cluster = scene.start(**ROOMY)
    compared = loops()
    measured = {name: [] for name in compared}
    share = len(scene.keys["plain"])
    repeats = max(mode.calls // share, 1)
    worker = []
    with cluster.connect() as connection:
        connection.execute("SET max_parallel_workers_per_gather = 0")
        connection.execute("SET jit = off")
        connection.execute("DROP TABLE IF EXISTS plain_variants")
        make_variants(connection, scene.keys["plain"])
        # Fill the caches.
        for statement in compared.values():
            connection.execute(statement, [1])
        for number in range(mode.rounds):
            say(f"round {number + 1} of {mode.rounds}")
            for name in pgbench.shuffled(list(compared)):
                pid = worker_of(connection)
                before = processor_seconds(pid)
                _, used = timed(connection, compared[name], [repeats])
                connection.execute("SELECT keysmith.flush_usage('10 minutes')")
                measured[name].append(used / (repeats * share))
                if name == LOGGED:
                    worker.append((processor_seconds(pid) - before) / (repeats * share))
    return {"measured": measured, "calls": repeats * share, "worker": worker}


def costs(data, name):
    """Microseconds of a call, one for each round."""
    empty = EMPTY_BATCH if name == MANY else EMPTY
    return [(used - nothing) * 1e6
            for used, nothing in zip(data["measured"][name], data["measured"][empty], strict=True)]


def cost(data, name):
    return ratios.quartiles(costs(data, name))[1]


def named(data):
    return [name for name in data["measured"] if name not in (EMPTY, EMPTY_BATCH)]


def page(data):
    rows = [[name, ratios.number(cost(data, name)), ratios.spread(costs(data, name)),
             f"{ratios.median_ratio(costs(data, name), costs(data, VERIFY)):.1%}",
             f"{ratios.median_ratio(costs(data, name), costs(data, PLPGSQL)):.1%}"]
            for name in named(data)]
    table = report.markdown_table(["call", "µs", "p25..p75", "of verify", "of plpgsql"], rows)
    storing = ratios.quartiles(data["worker"])[1] * 1e6
    return f"""# Cost of a call for the server

{report.surroundings(data)} Processor time of one session, in
microseconds of a call: {data["calls"]:,} calls in one statement, minus an empty loop of the same shape.
No driver, no network, no parsing of statements.

![Processor time of a call](cost.svg)

{table}

A logged record later costs the worker, a separate process, {storing:.1f} µs more.
"""


def plots(data):
    rows = []
    for name in named(data):
        low, median, high = ratios.quartiles(costs(data, name))
        rows.append(plot.Bar(name, median, low, high, plot.PEER if name == PLPGSQL else plot.OURS))
    return {"cost": plot.bars("What a call costs the server", "µs of processor time, median and quartiles", rows)}


def targets(_):
    return []
