"""Projects of strangers: folders with the package on Python's path, and programs that run there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import cluster as clusters
import test_docs

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "clients/python/src"


def environment(cluster=None, user="postgres", **settings):
    server = {"PGHOST": str(cluster.dir), "PGPORT": str(cluster.port), "PGUSER": user} if cluster else {}
    return clusters.environment() | server | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(SOURCE),
        "PYTHONDONTWRITEBYTECODE": "1"} | settings


def run(command, folder, cluster=None, check=True, **settings):
    """Runs a command of the shell in the project's folder and returns what it printed."""
    done = subprocess.run(["bash", "-ec", command], cwd=folder, env=environment(cluster, **settings), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def recipe(heading):
    """The blocks of code of a section of the recipes, by their language, in their order."""
    sections = re.split(r"(?m)^## (.*)\n", (ROOT / "docs/recipes.md").read_text())
    text = dict(zip(sections[1::2], sections[2::2]))[heading]
    return [(block.info, block.text) for block in test_docs.fences(text)]
