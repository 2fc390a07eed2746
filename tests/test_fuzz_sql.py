"""A short run of the fuzzer of the SQL surface: see `make fuzz-sql`."""

import re
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).resolve().parent.parent / "fuzz/sql/run.py"


def test_a_short_run_reaches_everything_and_finds_nothing():
    done = subprocess.run([sys.executable, PROGRAM, "--minutes", "0.4", "--seed", "1"],
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:]
    counts = re.search(r"(\d+) statements, (\d+) calls that succeeded, (\d+) of (\d+) functions and views", done.stdout)
    statements, succeeded, reached, there = map(int, counts.groups())
    assert reached == there > 90 and statements > succeeded > 100
