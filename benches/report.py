"""Tables, and the machine on which they were measured."""

import os
import platform
import sys
from pathlib import Path


def markdown_table(header, rows):
    """A Markdown table that is aligned as plain text too: names left, numbers right."""
    rows = [list(map(str, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    rule = [":" + "-" * (widths[0] - 1)] + ["-" * (width - 1) + ":" for width in widths[1:]]
    return "\n".join(_line(row, widths) for row in [header, rule, *rows])


def _line(cells, widths):
    name, *numbers = cells
    padded = [name.ljust(widths[0])] + [n.rjust(w) for n, w in zip(numbers, widths[1:])]
    return f"| {' | '.join(padded)} |"


def processor():
    """The processor's model, and how many processors this process may use."""
    names = []
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines()
                 if line.startswith("model name")]
    model = names[0] if names else platform.machine()
    return f"{len(os.sched_getaffinity(0))} × {model}"


def command():
    """The command that repeats this run, from the project's folder."""
    return " ".join(["python", f"benches/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def surroundings(data):
    """When and where a chart's figures were measured: the first words of its page."""
    return (f"{data['date']}, PostgreSQL {data['version']}, {data['processor']}; `{data['made_by']}`,\n"
            f"{data['took'] / 60:,.0f} minutes.")
