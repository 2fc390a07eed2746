"""Whether it matters which keys are requested, and how many tenants share them."""

import pgbench
import plot
import ratios
import report
from pgbench import Contender
from scene import ADDRESS, PEERS_COLUMNS, worker_of

CLIENTS = 8

# The requested keys, their kind, and how pgbench draws a key's number.
SPREADS = {
    "one hot key": ("logged_limited", "1"),
    "100 hot keys": ("logged_limited", "random(1, 100)"),
    "Zipf": ("logged_limited", "random_zipfian(1, {count}, 1.1)"),
    "uniform, 100 keys a tenant": ("logged_limited", "random(1, {count})"),
    "uniform, a key a tenant": ("own_tenant", "random(1, {count})"),
    "uniform, one tenant": ("one_tenant", "random(1, {count})"),
}
DECISIONS = {
    "verify, logged": f"keysmith.verify({{key}}, :scopes, ip => '{ADDRESS}')",
    "plpgsql, logging": f"peer_verify_with_rows({{key}}, :scopes, '{ADDRESS}')",
}
COMPARED = "uniform, 100 keys a tenant"


def contenders(count):
    """Each statement reads its key by number first: pgbench can't draw text."""
    return {(spread, decision): Contender(
                f"{spread}, {decision}",
                f"SELECT {', '.join(PEERS_COLUMNS)}"
                f" FROM {call.format(key=f'(SELECT api_key FROM {kind}_keys WHERE n = :n)')}",
                expected="ok", first=f"\\set n {draw.format(count=count)}\n")
            for spread, (kind, draw) in SPREADS.items() for decision, call in DECISIONS.items()}


def measure(mode, scene, say):
    cluster = scene.start()
    count = len(scene.keys["logged"])
    compared = contenders(count)
    measured = {spread: {decision: [] for decision in DECISIONS} for spread in SPREADS}
    with cluster.connect() as connection:
        for contender in compared.values():
            contender.check(connection)
        for number in range(mode.few_rounds):
            say(f"round {number + 1} of {mode.few_rounds}")
            for (spread, decision), contender in pgbench.shuffled(list(compared.items())):
                worker_of(connection)
                measured[spread][decision].append(pgbench.run(cluster, contender, CLIENTS, mode.seconds))
    return {"measured": measured, "count": count, "seconds": mode.seconds}


def page(data):
    rows = []
    for spread, by_decision in data["measured"].items():
        for decision, found in by_decision.items():
            uniform = [one["rate"] for one in data["measured"][COMPARED][decision]]
            rates = [one["rate"] for one in found]
            rows.append([spread, decision, ratios.number(ratios.quartiles(rates)[1]), ratios.spread(rates),
                         f"{ratios.median_ratio(rates, uniform):.1%}",
                         ratios.number(ratios.quartiles([one["server"] for one in found])[1])])
    table = report.markdown_table(
        ["keys asked for", "decision", "a second", "p25..p75", "of uniform", "session's processor time, µs"], rows)
    return f"""# Hot keys and tenants

{report.surroundings(data)} {CLIENTS} clients, rounds of {data["seconds"]} s. Out of
{data["count"]:,} keys; with Zipf's law of 1.1 about an eighth of the requests use the first. The keys
have a limit, except in rows that say how many keys a tenant has. Each statement also reads its key by number.

![Decisions a second by what is asked for](spread.svg)

{table}
"""


def plots(data):
    rows = []
    for spread, by_decision in data["measured"].items():
        for decision, found in by_decision.items():
            low, median, high = ratios.quartiles([one["rate"] for one in found])
            color = plot.OURS if decision.startswith("verify") else plot.PEER
            rows.append(plot.Bar(f"{spread}: {'verify' if color == plot.OURS else 'plpgsql'}",
                                 median, low, high, color))
    return {"spread": plot.bars("Which keys are asked for", "decisions a second, 8 clients, all logged; median "
                                "and quartiles", rows)}


def targets(_):
    return []
