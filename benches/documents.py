"""Figures in documents: blocks between two marks, rewritten by each run."""

import re
from pathlib import Path

import cost
import ratios
import report
import throughput

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PERFORMANCE = ROOT / "docs" / "performance.md"

SHOWN = [throughput.FLOOR, throughput.LOOKUP, throughput.VERIFY, throughput.OK_ALONE, throughput.FULL,
         throughput.PLPGSQL, throughput.HOT_VERIFY, throughput.HOT_PLPGSQL]
CLIENTS = 8
# For an hour of one processor, in dollars: an example, near the list prices of large clouds.
PRICE = 0.05


def write(kept):
    if measured := kept.read("throughput"):
        replace(README, "throughput", _shown(measured))
        if costs := kept.read("cost"):
            replace(PERFORMANCE, "million", _million(measured, costs))


def replace(path, name, text, made_by="make bench"):
    """Puts the text between the marks of the name."""
    begin, end = f"<!-- {name}: made by {made_by} -->", f"<!-- end of {name} -->"
    before = path.read_text()
    after, count = re.subn(f"(?s){re.escape(begin)}.*?{re.escape(end)}",
                           lambda _: f"{begin}\n{text}\n{end}", before)
    if count != 1:
        raise SystemExit(f"{path} has no place for {name}")
    path.write_text(after)


def _shown(data):
    rows = []
    for name in SHOWN:
        rates = throughput.rates(data, name, CLIENTS)
        rows.append([name, ratios.number(ratios.quartiles(rates)[1]),
                     f"{throughput.ratio(data, name, throughput.FLOOR, CLIENTS):.0%}",
                     throughput.median(data["measured"][name][str(CLIENTS)], "p99")])
    table = report.markdown_table([f"{CLIENTS} clients", "a second", "of SELECT 1", "p99, µs"], rows)
    return f"{table}\n\nMeasured {data['date']} on {data['processor']}, shared by clients and server, by `{data['made_by']}`."


def _million(data, costs):
    session = ratios.quartiles(
        [one["server"] for one in data["measured"][throughput.FULL][str(CLIENTS)]])[1]
    worker = ratios.quartiles(costs["worker"])[1] * 1e6
    decision = cost.cost(costs, cost.FULL)
    both = session + worker
    hours = both / 3600
    rows = [
        ["the session, for a separate prepared statement", f"{session:.1f} µs"],
        ["of it, the decision with a limit and its record", f"{decision:.1f} µs"],
        ["the worker, which stores the record", f"{worker:.1f} µs"],
        ["together", f"{both:.1f} µs"],
        ["of a million", f"{both:.1f} s"],
        ["in hours of one processor", f"{both:.1f} / 3600 = {hours:.4f}"],
        [f"at {PRICE:.2f} dollars an hour", f"{hours:.4f} × {PRICE:.2f} = {hours * PRICE:.5f} dollars"],
        ["what one processor does in a second, busy with nothing else", f"1,000,000 / {both:.1f} = {1e6 / both:,.0f}"],
        ["of one processor, at 1,000 requests a second", f"1000 × {both:.1f} µs = {both / 10:.1f} %"],
    ]
    table = report.markdown_table(["verify, logged, one limit", "processor time"], rows)
    return f"{table}\n\nMeasured {data['date']} on {data['processor']}."
