"""Decisions per second and their latency, beside `SELECT 1`, a look-up and plpgsql."""

import random

import dataset
import pgbench
import plot
import ratios
import report
from pgbench import Contender
from scene import ADDRESS, PEERS_COLUMNS, VERDICT_COLUMNS, worker_of

# pgbench has no expressions for text, so each key is a script. pgbench picks one at random for
# each transaction, and each round has other keys. Every client prepares every script: more
# scripts would measure the preparing; these few take about 1 % of a round.
SCRIPTS = 4

# Keys of the contenders that write rows. With few keys they would wait for each other's locks.
# These keys are in the statement, since so many scripts would be prepared all the time.
HOT = 100

FLOOR = "SELECT 1"
LOOKUP = "primary-key look-up"
VERIFY = "verify"
OK_ALONE = "verify, ok alone"
JSON = "verify_json"
FULL = "verify, logged, one limit"
PLPGSQL = "plpgsql"
BATCH = 1000
MANY = f"verify_many of {BATCH:,}, each"
HOT_VERIFY = "verify, logged, 100 hot keys"
HOT_PLPGSQL = "plpgsql, logging, 100 hot keys"

# Measured with each number of clients; the others with only a few.
AT_EACH = [FLOOR, LOOKUP, VERIFY, OK_ALONE, FULL, PLPGSQL]
FEW_CLIENTS = (1, 8)
CLIENTS = (1, 2, 4, 8, 16)
PEERS = [LOOKUP, PLPGSQL, HOT_PLPGSQL]


def contenders(keys):
    """All contenders, with new random keys."""
    def drawn(kind):
        return random.sample(keys[kind], SCRIPTS)

    def verify(name, kind, keyspace="quiet", values=None, expected="ok"):
        statement = (f"SELECT * FROM keysmith.verify(:key, :scopes, ip => '{ADDRESS}',"
                     f" keyspace => '{keyspace}')")
        return Contender(name, statement, values or drawn(kind), expected)

    plain = drawn("plain")
    many = "{" + ",".join(random.sample(keys["plain"], BATCH)) + "}"
    hot = random.sample(keys["logged"], HOT)
    hot_key = "('{" + ",".join(hot) + "}'::text[])[:n]"
    pick = f"\\set n random(1, {HOT})\n"
    columns = ", ".join(PEERS_COLUMNS)
    hot_plpgsql = f"SELECT {columns} FROM peer_verify_with_rows({hot_key}, :scopes, '{ADDRESS}')"
    return [
        Contender(FLOOR, "SELECT 1"),
        Contender(LOOKUP, f"SELECT {', '.join(VERDICT_COLUMNS)} FROM peer WHERE digest = :key",
                  ["\\x" + dataset.key_digest(key).hex() for key in plain], "ok"),
        verify(VERIFY, "plain"),
        Contender(OK_ALONE, f"SELECT (keysmith.verify(:key, :scopes, ip => '{ADDRESS}', keyspace => 'quiet')).ok",
                  plain),
        Contender(JSON, f"SELECT keysmith.verify_json(:key, :scopes, ip => '{ADDRESS}', keyspace => 'quiet')",
                  plain, "ok"),
        verify("verify, logged", "logged", "default"),
        verify("verify, one limit", "limited"),
        verify(FULL, "logged_limited", "default"),
        verify("verify, allowlist", "allowlisted"),
        verify("verify, 20 scopes", "scoped"),
        verify("verify, unknown key", None, values=dataset.make_keys(SCRIPTS, seed=random.random()),
               expected="not_found"),
        verify("verify, malformed key", None, values=[dataset.misspell(key) for key in plain],
               expected="malformed_key"),
        Contender(f"authenticate, {dataset.ROUTES} routes",
                  "SELECT * FROM keysmith.authenticate(:key::jsonb, 'GET',"
                  f" '/v1/r{dataset.ROUTES // 2}/7/items', ip => '{ADDRESS}', keyspace => 'quiet')",
                  [dataset.headers(key) for key in plain], "ok"),
        Contender(MANY, "SELECT * FROM keysmith.verify_many(:key, :scopes,"
                  f" ip => '{ADDRESS}', keyspace => 'quiet')", [many], "ok", sampled=1),
        Contender(PLPGSQL, f"SELECT * FROM peer_verify(:key, :scopes, '{ADDRESS}')", plain, "ok"),
        Contender(HOT_VERIFY, f"SELECT {columns} FROM keysmith.verify({hot_key}, :scopes, ip => '{ADDRESS}')",
                  expected="ok", first=pick),
        Contender(HOT_PLPGSQL, hot_plpgsql, expected="ok", first=pick),
        Contender(f"{HOT_PLPGSQL}, asynchronous commit", hot_plpgsql, expected="ok", first=pick,
                  settings={"synchronous_commit": "off"}),
    ]


def measure(mode, scene, say):
    cluster = scene.start()
    names = [contender.name for contender in contenders(scene.keys)]
    measured = {name: {clients: [] for clients in CLIENTS if clients in FEW_CLIENTS or name in AT_EACH}
                for name in names}
    with cluster.connect() as connection:
        for contender in contenders(scene.keys):
            contender.check(connection)
        for number in range(mode.rounds):
            say(f"round {number + 1} of {mode.rounds}")
            for clients in CLIENTS:
                for contender in pgbench.shuffled(contenders(scene.keys)):
                    if clients not in measured[contender.name]:
                        continue
                    # Wait until the records of the last contender are stored, so that they don't
                    # affect the next.
                    worker_of(connection)
                    found = pgbench.run(cluster, contender, clients, mode.seconds)
                    if contender.name == MANY:
                        found |= {"rate": found["rate"] * BATCH, "client": found["client"] / BATCH,
                                  "server": found["server"] / BATCH}
                    measured[contender.name][clients].append(found)
        # Records that their own transactions stored, because there was no room.
        in_place, logged = connection.execute(
            "SELECT count(*) FILTER (WHERE incarnation = 0), count(*) FROM keysmith_private.usage_event").fetchone()
    return {"measured": measured, "logged": logged, "in_place": in_place, "seconds": mode.seconds}


def rates(data, name, clients):
    return [found["rate"] for found in data["measured"][name][str(clients)]]


def ratio(data, name, other, clients):
    return ratios.median_ratio(rates(data, name, clients), rates(data, other, clients))


def page(data):
    rows, latencies, spent = [], [], []
    for clients in CLIENTS:
        for name, by_clients in data["measured"].items():
            if str(clients) not in by_clients:
                continue
            found = by_clients[str(clients)]
            of = [f"{ratio(data, name, other, clients):.1%}" for other in (FLOOR, LOOKUP, PLPGSQL)]
            rows.append([name, clients, ratios.number(ratios.quartiles(rates(data, name, clients))[1]),
                         ratios.spread(rates(data, name, clients)), *of])
            latencies.append([name, clients, *(median(found, of) for of in ("p50", "p95", "p99"))])
            spent.append([name, clients, *(median(found, of) for of in ("client", "server")), *(
                f"{spent_ratio(data, name, other, clients):.1%}" for other in (FLOOR, LOOKUP, PLPGSQL))])
    head = ["contender", "clients"]
    throughput = report.markdown_table(
        [*head, "a second", "p25..p75", "of SELECT 1", "of the look-up", "of plpgsql"], rows)
    waits = report.markdown_table([*head, "p50, µs", "p95, µs", "p99, µs"], latencies)
    processor = report.markdown_table(
        [*head, "pgbench, µs", "session, µs", "both, of SELECT 1", "of the look-up", "of plpgsql"], spent)
    return f"""# Throughput and latency

{report.surroundings(data)} Clients and server share the processors.
Rounds of {data["seconds"]} s; pgbench, prepared statements.

![Decisions a second by number of clients](throughput.svg)

![Latency with eight clients](latency.svg)

{throughput}

The look-up is a `SELECT` of a verdict's columns from a plain table: it decides nothing, and
trusts that the row is current. plpgsql decides as `plpgsql_peer.sql` does; if it logs, it
updates the key's row and inserts one for the request, as in `plpgsql_rows.sql`, keeps no totals
and limits nothing. Compared with it, `verify` returns the columns that plpgsql has, elsewhere all {len(VERDICT_COLUMNS)};
`ok alone` is `SELECT (keysmith.verify(…)).ok`. `verify` uses a keyspace that logs nothing, unless it says `logged`.

Of {data["logged"]:,} requests that were logged, {data["in_place"]:,} found no room in the buffer and
were stored by their own transactions.

## Processor time

The processor time of pgbench and its sessions for a transaction, medians over the rounds, and ratios:
less is better here. Throughput follows from it if all processors are busy; it depends less on other
load on the machine. The worker that stores records is not included: see [cost](cost.md).

{processor}

## Latency

Of a transaction, seen from pgbench; medians over the rounds.

{waits}
"""


def median(found, what):
    return ratios.number(ratios.quartiles([one[what] for one in found])[1])


def spent_ratio(data, name, other, clients):
    """The other side's share of the processor time of both sides."""
    mine, others = ([one["client"] + one["server"] for one in data["measured"][which][str(clients)]]
                    for which in (name, other))
    return ratios.median_ratio(mine, others)


def plots(data):
    curves = [(name, [(clients, ratios.quartiles(rates(data, name, clients))[1]) for clients in CLIENTS])
              for name in (VERIFY, PLPGSQL, LOOKUP, FULL, FLOOR, OK_ALONE)]
    # Contenders that wait for a disk would hide the others.
    names = [name for name in data["measured"] if name != MANY and not name.startswith(HOT_PLPGSQL)]
    waits = []
    for name in names:
        found = data["measured"][name]["8"]
        p50, p95 = (ratios.quartiles([one[of] for one in found])[1] for of in ("p50", "p95"))
        waits.append(plot.Bar(name, p50, p50, p95, color(name)))
    return {
        "throughput": plot.lines("Decisions a second", "transactions a second", curves, "clients"),
        "latency": plot.bars("Latency with eight clients", "µs of a transaction, p50; whiskers to p95", waits),
    }


def color(name):
    if name == FLOOR:
        return plot.FLOOR
    return plot.PEER if any(name.startswith(peer) for peer in PEERS) else plot.OURS


def targets(data):
    def one(name, other, clients, least):
        return (f"{name}: {least} × {other} with {clients} client{'s' if clients > 1 else ''}",
                ratio(data, name, other, clients), least, "at least")
    def spent(name, other, clients, most):
        return (f"{name}: {most} × the processor time of {other} with {clients} clients",
                spent_ratio(data, name, other, clients), most, "at most")
    return [
        *(one(VERIFY, FLOOR, clients, 0.95) for clients in FEW_CLIENTS),
        *(one(VERIFY, LOOKUP, clients, 1.0) for clients in FEW_CLIENTS),
        *(one(OK_ALONE, LOOKUP, clients, 1.0) for clients in FEW_CLIENTS),
        one(JSON, FLOOR, 1, 0.79), one(JSON, FLOOR, 8, 0.61),
        *(one(FULL, VERIFY, clients, 0.95) for clients in FEW_CLIENTS),
        one(HOT_VERIFY, HOT_PLPGSQL, 8, 5),
        spent(VERIFY, FLOOR, 8, 1.05), spent(VERIFY, LOOKUP, 8, 1.0), spent(FULL, VERIFY, 8, 1.05),
    ]
