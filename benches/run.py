"""Measures all charts, and writes the pages and pictures in `results/`.
Each chart is saved as soon as it is measured, so that `--resume` continues an interrupted run.
`--draw` writes the pages again from saved figures, and measures nothing.
"""

import argparse
import datetime
import hashlib
import json
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import cost
import documents
import frameworks
import growth
import report
import spread
import throughput
from dataset import clusters
from scene import Scene

HERE = Path(__file__).parent
RESULTS = HERE / "results"

CHARTS = {"throughput": throughput, "frameworks": frameworks, "cost": cost, "growth": growth, "spread": spread}


@dataclass(frozen=True)
class Mode:
    made_by: str
    rounds: int
    few_rounds: int
    # For each measurement by the clock.
    seconds: int
    keys: int
    # In one statement.
    calls: int
    sizes: tuple
    growth_calls: int
    growth_buffers: str
    # The size of the directory of keys: twice the number of keys in use, since each key has only
    # few possible slots.
    growth_directory: int
    framework_keys: int


SHORT = Mode("make bench", rounds=5, few_rounds=2, seconds=1, keys=100_000, calls=50_000,
             sizes=(1_000, 10_000, 100_000), growth_calls=100_000, growth_buffers="512MB",
             growth_directory=262_144, framework_keys=500)
FULL = Mode("make bench FULL=1", rounds=12, few_rounds=8, seconds=4, keys=100_000, calls=1_000_000,
            sizes=(1_000, 10_000, 100_000, 1_000_000, 10_000_000), growth_calls=1_000_000,
            growth_buffers="8GB", growth_directory=4_194_304, framework_keys=5_000)


def library():
    """A digest of the measured files: figures of another library do not belong to this run."""
    path = Path(clusters.pg_config("pkglibdir")) / "keysmith.so"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def version():
    return clusters.pg_config("version").split()[1]


class Kept:
    """Measured charts, in a folder that survives the run."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def read(self, chart):
        path = self.folder / f"{chart}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def write(self, chart, data):
        # Read it back, so that the page of a measurement equals the page of a saved one.
        path = self.folder / f"{chart}.json"
        path.with_suffix(".new").write_text(json.dumps(data))
        path.with_suffix(".new").rename(path)
        return self.read(chart)


def measure(name, mode, scene):
    start = time.monotonic()
    data = CHARTS[name].measure(mode, scene, lambda what: say(f"{name}: {what}"))
    return data | {
        "date": datetime.date.today().isoformat(), "made_by": mode.made_by, "version": version(),
        "processor": report.processor(), "library": library(), "took": time.monotonic() - start}


def say(what):
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def draw(name, data):
    RESULTS.mkdir(exist_ok=True)
    for plot, svg in CHARTS[name].plots(data).items():
        (RESULTS / f"{plot}.svg").write_text(svg)
    page = CHARTS[name].page(data)
    (RESULTS / f"{name}.md").write_text(page)
    print("\n".join(line for line in page.splitlines() if line.startswith("|")) + "\n", flush=True)


def summary(kept, charts):
    """Every target of the existing charts, with its result."""
    rows, dates = [], set()
    for name in charts:
        if data := kept.read(name):
            dates.add(f"{data['date']} by `{data['made_by']}`")
            for what, found, bound, side in CHARTS[name].targets(data):
                is_met = found >= bound if side == "at least" else found <= bound
                rows.append([what, f"{side} {bound:g}", f"{found:.3g}", "met" if is_met else "missed"])
    table = report.markdown_table(["target", "wanted", "found", ""], rows)
    (RESULTS / "targets.md").write_text(f"""# Targets

Medians of ratios within rounds, measured {', '.join(sorted(dates))}.

{table}
""")
    print(table)


def read_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="hours, ten million keys, many rounds")
    parser.add_argument("--only", nargs="+", choices=CHARTS, metavar="CHART", default=list(CHARTS),
                        help=f"of {', '.join(CHARTS)}")
    parser.add_argument("--resume", action="store_true", help="keep charts of this library and mode")
    parser.add_argument("--draw", action="store_true", help="measure nothing")
    parser.add_argument("--kept", type=Path, default=HERE.parent / "target" / "bench", metavar="FOLDER",
                        help="where measured charts are kept")
    return parser.parse_args()


def main():
    # So that the clusters are removed then too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    options = read_options()
    mode = FULL if options.full else SHORT
    kept = Kept(options.kept)
    with ExitStack() as stack:
        scene = Scene(stack, mode.keys)
        for name in options.only:
            data = kept.read(name)
            is_current = data and (options.draw or options.resume and data["library"] == library()
                                   and data["made_by"] == mode.made_by)
            if not is_current and not options.draw:
                data = kept.write(name, measure(name, mode, scene))
            if data:
                draw(name, data)
    summary(kept, CHARTS)
    documents.write(kept)


if __name__ == "__main__":
    main()
