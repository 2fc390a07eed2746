"""Where a transaction's instructions go: those that a session executes for one prepared
statement, from the request's messages to the result row, counted by callgrind.
A session with more requests is compared with one with fewer: the difference is the cost of the
statement, without the start and end of a session. It excludes the kernel.
"""

import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import dataset
import report
import scene
from dataset import clusters
from instructions import VALGRIND

RESULTS = Path(__file__).parent / "results" / "round_trip.md"
FEWER, MORE = 500, 2_500
KEYS = 800

# Functions that are called once per statement, by part of the transaction.
PARTS = {
    "deciding": "keysmith_(?:verify|authenticate|serve)(?:_json)?",
    "starting the executor": "PortalStart",
    "describing the row": "SendRowDescriptionMessage",
}
RUN = "PortalRun"


@dataclass(frozen=True)
class Statement:
    name: str
    text: str
    argument: str = "key"


KEY = f"%s, '{{images:write}}', ip => '{scene.ADDRESS}', keyspace => 'quiet'"
VERIFY = f"keysmith.verify({KEY})"
REQUEST = f"%s::jsonb, %s, %s, ip => '{scene.ADDRESS}', keyspace => 'quiet'"
SERVE = f"keysmith.serve({REQUEST})"
COLUMNS = scene.VERDICT_COLUMNS
ANSWER = "handled, status, headers, body"
FIVE = "ok, status, code, key_id, tenant"
STATEMENTS = [
    Statement("SELECT 1", "SELECT 1", ""),
    Statement(f"a look-up of a verdict's {len(COLUMNS)} columns",
              f"SELECT {', '.join(COLUMNS)} FROM peer WHERE digest = %s", "digest"),
    Statement("a look-up of five of them", f"SELECT {FIVE} FROM peer WHERE digest = %s", "digest"),
    Statement("SELECT * FROM verify(…)", f"SELECT * FROM {VERIFY}"),
    Statement("SELECT five columns FROM verify(…)", f"SELECT {FIVE} FROM {VERIFY}"),
    Statement("SELECT ok FROM verify(…)", f"SELECT ok FROM {VERIFY}"),
    Statement("SELECT (verify(…)).ok", f"SELECT ({VERIFY}).ok"),
    Statement("SELECT verify_json(…)", f"SELECT keysmith.verify_json({KEY})"),
    Statement("SELECT * FROM authenticate(…)", f"SELECT * FROM keysmith.authenticate({REQUEST})", "request"),
    Statement("SELECT authenticate_json(…)", f"SELECT keysmith.authenticate_json({REQUEST})", "request"),
    Statement("SELECT * FROM serve(…)", f"SELECT * FROM {SERVE}", "request"),
    Statement("SELECT four columns FROM serve(…)", f"SELECT {ANSWER} FROM {SERVE}", "request"),
    Statement("SELECT (r).* FROM (SELECT serve(…) AS r OFFSET 0)",
              f"SELECT (r).* FROM (SELECT {SERVE} AS r OFFSET 0) s", "request"),
    Statement("SELECT to_json(serve(…))", f"SELECT to_json({SERVE})", "request"),
]


def start_under_callgrind(cluster):
    program = cluster.dir / "postgres"
    program.write_text(
        f"#!/bin/sh\nexec {VALGRIND} --tool=callgrind --compress-strings=no --compress-pos=no --vgdb=no"
        f" --trace-children=yes --callgrind-out-file={cluster.dir}/profile.%p {clusters.BIN}/postgres \"$@\"\n")
    program.chmod(0o755)
    cluster.start(program=program)


def profile(cluster, statement, arguments, times):
    """The instructions of a separate session with this number of requests."""
    with cluster.connect() as connection:
        connection.prepare_threshold = 0
        pid = connection.info.backend_pid
        for _ in range(times):
            connection.execute(statement.text, arguments).fetchone()
    path = cluster.dir / f"profile.{pid}"
    while not (path.exists() and "\ntotals:" in path.read_text()):
        time.sleep(0.1)
    return path.read_text()


def total(profile):
    return int(re.search(r"^totals: (\d+)", profile, re.MULTILINE)[1])


def inclusive(profile, name):
    """Instructions of a function and of everything it called. A call is two lines in a profile:
    how often, and where and at what cost."""
    calls = re.findall(rf"^cfn={name}\ncalls=.*\n\S+ (\d+)", profile, re.MULTILINE)
    return sum(map(int, calls))


def measure():
    with clusters.running("round-trip", **scene.SETTINGS, jit="off", track_counts="off") as cluster:
        with cluster.connect() as connection:
            scene.fill(connection, scene.keys_of(KEYS))
            scene.define_endpoints(connection, "quiet")
            key, digest = connection.execute(
                "SELECT api_key, digest FROM plain_keys, peer"
                " WHERE digest = sha256(convert_to(api_key, 'UTF8')) LIMIT 1").fetchone()
            request = [dataset.headers(key), "GET", scene.PATH]
            version = connection.info.server_version
        cluster.stop()
        start_under_callgrind(cluster)
        found = {}
        for statement in STATEMENTS:
            arguments = {"key": [key], "digest": [digest], "request": request, "": None}[statement.argument]
            fewer, more = (profile(cluster, statement, arguments, times) for times in (FEWER, MORE))

            def spent(count):
                return (count(more) - count(fewer)) / (MORE - FEWER)
            parts = {part: spent(lambda text, name=name: inclusive(text, name)) for part, name in PARTS.items()}
            parts["making and sending the row"] = spent(lambda text: inclusive(text, RUN)) - parts["deciding"]
            whole = spent(total)
            found[statement.name] = {"all": whole} | parts | {"the rest": whole - sum(parts.values())}
            print(f"{statement.name}: {whole:,.0f}", file=sys.stderr, flush=True)
    return found, f"{version // 10000}.{version % 10000}"


def main():
    if not VALGRIND:
        sys.exit("valgrind is not installed")
    found, version = measure()
    columns = list(next(iter(found.values())))
    table = report.markdown_table(
        ["instructions of a transaction", *columns],
        [[name, *(f"{parts[part]:,.0f}" for part in columns)] for name, parts in found.items()])
    print(table)
    RESULTS.write_text(f"""# Where a transaction's instructions go

PostgreSQL {version}, prepared statements, each in a separate transaction, counted by callgrind in the
session's process, without the kernel. Made by `make bench-round-trip`.

{table}

*Deciding* is all of keysmith: digest, rows, rules, verdict. *Starting the executor* mostly makes a
description of each column of a function's result, for each execution; *describing the row* sends it
to the client. *Making and sending the row* includes the text of each column, made by its type. *The
rest* are messages, the transaction and its snapshot, which `SELECT 1` has too.
""")


if __name__ == "__main__":
    main()
