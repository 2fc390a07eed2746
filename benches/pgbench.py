"""Statements that pgbench runs in short rounds."""

import os
import random
import re
import resource
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

SCOPES = "{images:write}"

# The latency is recorded for this share of transactions: recording costs pgbench time.
SAMPLED = 0.2

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Contender:
    """A statement; `:key` stands for one of the values, which differ by script.
    Values and `:scopes` are bind parameters, as in applications. A scope written into a script
    would be changed: pgbench takes its colon for the beginning of a variable.
    """

    name: str
    statement: str
    values: list = field(default_factory=lambda: [None])
    # The reason that every value's row gives, or None.
    expected: str | None = None
    # SQL that the script runs before each statement.
    first: str = ""
    # Settings of the sessions.
    settings: dict = field(default_factory=dict)
    sampled: float = SAMPLED

    def arguments(self, folder):
        """Writes the scripts and returns pgbench's options for them."""
        arguments = ["-D", f"scopes={SCOPES}"]
        for n, value in enumerate(self.values):
            script = folder / f"{n}.sql"
            script.write_text(self.first + self.statement.replace(":key", f":key{n}") + ";\n")
            arguments += ["-f", script]
            if value is not None:
                arguments += ["-D", f"key{n}={value}"]
        return arguments

    def check(self, connection):
        """Checks that a contender measures what its name says."""
        statement = re.sub(r":(key|scopes|n)\b", r"%(\1)s", self.statement)
        for value in self.values:
            cursor = connection.execute(statement, {"key": value, "scopes": SCOPES, "n": 1})
            names = [column.name for column in cursor.description]
            found = [(row[0] if isinstance(row[0], dict) else dict(zip(names, row))).get("reason")
                     for row in cursor]
            if set(found) != {self.expected}:
                raise SystemExit(f"{self.name}: expected {self.expected}, found {set(found)}")


def run(cluster, contender, clients, seconds):
    """Transactions per second, and in microseconds of each: percentiles of its latency, and
    the processor time that pgbench and its sessions spent."""
    server = _children(_postmaster(cluster))
    before = _spent(cluster)
    options = " ".join(f"-c {name}={value}" for name, value in contender.settings.items())
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        output = cluster.program(
            "pgbench", "-n", "-M", "prepared", "-T", seconds, "-c", clients, "-j", min(clients, 2),
            "--log", f"--log-prefix={folder / 'log'}", f"--sampling-rate={contender.sampled}",
            *contender.arguments(folder), f"dbname=postgres options='{options}'",
            dbname=None).stdout
        # pgbench reports no time for a transaction that began and ended within one pass over its
        # clients, because it reads the clock once per pass.
        latencies = [taken for log in folder.glob("log.*") for line in log.read_text().splitlines()
                     if (taken := int(line.split(" ", 3)[2])) > 0]
    _await_end_of_sessions(cluster, server)
    client, sessions = (now - was for now, was in zip(_spent(cluster), before))
    rate = re.search(r"^tps = ([0-9.]+)", output, re.MULTILINE)
    count = int(re.search(r"actually processed: (\d+)", output)[1])
    if not rate or len(latencies) < 2:
        raise SystemExit(f"{contender.name}: no transactions in {seconds} s:\n{output}")
    percentiles = statistics.quantiles(latencies, n=100, method="inclusive")
    return {"rate": float(rate[1]), "p50": percentiles[49], "p95": percentiles[94], "p99": percentiles[98],
            "client": client / count * 1e6, "server": sessions / count * 1e6}


def _postmaster(cluster):
    return int((cluster.data / "postmaster.pid").read_text().split()[0])


def _children(pid):
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def _spent(cluster):
    """Processor seconds of the processes that have ended: ours, and the server's."""
    ours = resource.getrusage(resource.RUSAGE_CHILDREN)
    fields = Path(f"/proc/{_postmaster(cluster)}/stat").read_text().rsplit(")", 1)[1].split()
    return ours.ru_utime + ours.ru_stime, (int(fields[13]) + int(fields[14])) / TICKS


def _await_end_of_sessions(cluster, server):
    """The time of a process is known when it has ended."""
    for _ in range(200):
        if _children(_postmaster(cluster)) <= server:
            return
        time.sleep(0.01)


def shuffled(items):
    return random.sample(items, len(items))
