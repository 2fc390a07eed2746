"""The keeper leaves no process and no folder behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from conftest import wait_until
from keeper import Keeper, state_of


def is_running(pid):
    return state_of(pid) not in "ZX"


ORPHAN = "setsid sleep 1000 & echo $! > $PIDS; exec sleep 1000"


def test_it_ends_all_that_its_programs_left_behind():
    keeper = Keeper("test")
    pids = keeper.dir / "pids"
    try:
        program = keeper.start(["sh", "-c", ORPHAN], os.environ | {"PIDS": str(pids)}, keeper.dir / "log")
        orphan = int(wait_until(lambda: pids.exists() and pids.read_text()))
        os.kill(program, signal.SIGKILL)
        wait_until(lambda: not is_running(program))
        assert is_running(orphan)
    finally:
        keeper.end()
    assert not is_running(orphan) and not keeper.dir.exists()


def test_it_ends_with_its_parent():
    script = ("import os, sys, time; sys.path.insert(0, sys.argv[1]); from keeper import Keeper;"
              " k = Keeper('test'); p = k.start(['sleep', '1000'], dict(os.environ), k.dir / 'log');"
              " print(p, k.dir, flush=True); time.sleep(1000)")
    parent = subprocess.Popen([sys.executable, "-c", script, Path(__file__).parent],
                              stdout=subprocess.PIPE, text=True)
    try:
        pid, folder = parent.stdout.readline().split()
        assert is_running(pid) and Path(folder).exists()
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    wait_until(lambda: not is_running(pid) and not Path(folder).exists())
