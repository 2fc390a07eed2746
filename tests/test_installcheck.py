"""The regression suites and isolation specs, against this run's cluster."""

import subprocess
from pathlib import Path

from cluster import PG_CONFIG, environment

SUITES = Path(__file__).parent.parent / "pg_test"


def test_installcheck(cluster, tmp_path):
    where = {"PGHOST": str(cluster.dir), "PGPORT": str(cluster.port), "PGUSER": "postgres"}
    done = subprocess.run(
        [SUITES / "run", PG_CONFIG], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=environment() | where | {"KEYSMITH_TEST_OUTPUT": str(tmp_path)})
    diffs = "".join(path.read_text() for path in tmp_path.rglob("*.diffs"))
    assert done.returncode == 0, done.stdout + diffs
