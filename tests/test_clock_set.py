"""Waits go on when someone sets the clock."""

import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import cluster as clusters
from conftest import session, wait_until

# The time of day, shifted by the number of seconds in a file.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <unistd.h>

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    static int (*usual)(struct timeval *, void *);
    char text[32] = "";
    int file = open(getenv("CLOCK_MOVED_BY"), O_RDONLY), result;

    if (!usual)
        usual = (int (*)(struct timeval *, void *)) dlsym(RTLD_NEXT, "gettimeofday");
    result = usual(now, zone);
    if (file >= 0)
    {
        if (read(file, text, sizeof text - 1) > 0)
            now->tv_sec += atol(text);
        close(file);
    }
    return result;
}
"""


@pytest.fixture
def clock(monkeypatch):
    """Sets the clock of clusters that are started meanwhile."""
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler")
    # A place that the server's user can read.
    folder = Path(tempfile.mkdtemp(prefix="keysmith-clock-"))
    folder.chmod(0o755)
    (folder / "shim.c").write_text(SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "shim.so", folder / "shim.c", "-ldl"], check=True)
    usual = clusters.environment()
    monkeypatch.setattr(clusters, "environment", lambda: usual | {
        "LD_PRELOAD": str(folder / "shim.so"), "CLOCK_MOVED_BY": str(folder / "moved")})
    yield lambda seconds: (folder / "moved").write_text(str(seconds))
    shutil.rmtree(folder)


def test_a_wait_for_standbys_ends_although_the_clock_is_set_back(clock):
    with clusters.running("primary", max_wal_senders=4) as primary:
        db, other = session(primary), session(primary)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        before = db.value("SELECT clock_timestamp()")
        standby = primary.backup("standby", 5433)
        try:
            standby.start()
            wait_until(lambda: db.one("wait_for_replay")[0] == 1)
            session(standby).rows("SELECT pg_wal_replay_pause()")
            db.mint()
            pid = other.value("SELECT pg_backend_pid()")
            with ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(other.refused, "KS504", "wait_for_replay", "5 seconds")
                wait_until(lambda: db.value(
                    "SELECT wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = %s", pid))
                clock(-86_400)
                assert db.value("SELECT clock_timestamp()") < before
                try:
                    assert "1 of 1 standbys" in waiting.result(60)
                finally:
                    db.rows("SELECT pg_terminate_backend(%s)", pid)
        finally:
            standby.remove()
