"""A minute of the fuzzer of the SQL surface: see `make fuzz-sql`."""

import re
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).resolve().parent.parent / "fuzz/sql/run.py"
# All functions and views: on a slow machine it runs until this many have succeeded.
MANY = "90"


def test_a_minute_of_calls_at_random_finds_nothing():
    done = subprocess.run([sys.executable, PROGRAM, "--minutes", "1", "--succeed", MANY, "--seed", "1"],
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:]
    succeeded, there = map(int, re.search(r"succeeded, of (\d+) of (\d+) functions and views", done.stdout).groups())
    assert there >= succeeded >= int(MANY)
