"""A ledger of mixed requests, compared with everything that counts them: rows, totals, units, tags,
credits, metrics and events. Nothing may differ.
"""

import argparse
import sys
import time
from pathlib import Path

import report
from dataset import clusters

import usage_ledger
from conftest import session

RESULTS = Path(__file__).parent / "results" / "ledger.md"
# Requests come as fast as they can.
SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "4GB", "keysmith__usage_buffer": "256MB", "max_connections": 50}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--sessions", type=int, default=8)
    options = parser.parse_args()
    start = time.monotonic()
    with clusters.running("ledger", **SETTINGS) as cluster:
        cluster.execute("CREATE EXTENSION keysmith")
        compared = list(usage_ledger.play(lambda: session(cluster), options.requests, options.sessions, batch=100))
        version = cluster.connect().info.server_version
    seconds = time.monotonic() - start
    text = usage_ledger.table(compared)
    print(text)
    if any(expected != found for _, expected, found in compared):
        sys.exit("The counts differ.")
    RESULTS.write_text(f"""# A ledger of mixed requests

PostgreSQL {version // 10000}.{version % 10000}, {report.processor()}. {options.requests:,} requests of {options.sessions} sessions in
{seconds:,.0f} seconds. *Clients* is what the sessions counted of the answers, *database* what it has. Made by
`{report.command()}`.

```
{text}
```
""")


if __name__ == "__main__":
    main()
