"""The folder of a run: copies of data directories, and that nothing stays."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import cluster as clusters
import scratch
from cluster import Cluster
from conftest import wait_until


def identifier(cluster):
    told = clusters.run("pg_controldata", cluster.data, as_server=True).stdout
    assert "WARNING" not in told, told
    return re.search(r"system identifier: +(\d+)", told)[1]


def test_each_cluster_has_an_identifier_of_its_own():
    """Although their files are copies: standbys identify a server by it."""
    made = [Cluster("copy") for _ in range(2)]
    try:
        assert len({identifier(cluster.init()) for cluster in made}) == 2
    finally:
        for cluster in made:
            cluster.remove()


def test_initdb_runs_once_for_each_set_of_its_arguments(tmp_path):
    calls = []

    def initdb(data):
        calls.append(data)
        clusters.run("initdb", "-D", data, "--no-sync", as_server=True)

    for name in ("one", "two"):
        cluster = Cluster(name)
        scratch.copy(cluster.data, clusters._SERVER_USER, ("for this test", os.getpid()), initdb)
        identifier(cluster)
        cluster.remove()
    assert len(calls) == 1


ENDLESS = """
import time
from cluster import running

def test_that_does_not_end():
    with running("endless") as cluster:
        print("\\nstarted", cluster.dir, flush=True)
        while True:
            time.sleep(0.1)
"""


def test_nothing_is_left_of_a_run_that_is_ended(tmp_path):
    (tmp_path / "test_endless.py").write_text(ENDLESS)
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith(("PYTEST", "KEYSMITH"))}
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    log = tmp_path / "log"
    with open(log, "w") as output:
        run = subprocess.Popen([sys.executable, "-m", "pytest", "-s", "-p", "conftest",
                                "-p", "no:cacheprovider", tmp_path / "test_endless.py"],
                               env=environment, cwd=tmp_path, stdout=output, stderr=output)
    place = Path(wait_until(lambda: re.search(r"^started (.*)$", log.read_text(), re.M), 120)[1])
    assert place.exists() and place.parent.name.startswith("keysmith-")
    run.send_signal(signal.SIGTERM)
    run.wait()
    assert not place.parent.exists()
