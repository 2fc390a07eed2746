"""Our Debian package for the PostgreSQL of this run."""

import fcntl
import os
import re
import shutil
import subprocess
from pathlib import Path

import cluster as clusters
import scratch

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
MAJOR = clusters.pg_config("version").split()[1].split(".")[0]
NAME = f"postgresql-{MAJOR}-keysmith"


def missing():
    """Why it can't be built here, or None."""
    if str(clusters.BIN) != f"/usr/lib/postgresql/{MAJOR}/bin":
        return f"{clusters.BIN} is not of a Debian package"
    for program in ("dh", "dpkg-buildpackage"):
        if not shutil.which(program):
            return f"{program} is not there; run scripts/setup.sh deb"
    return None


def build(folder):
    done = subprocess.run([ROOT / "scripts/deb.sh", "build", folder], text=True, env=os.environ | {
        "PG_CONFIG": clusters.PG_CONFIG}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    package, = Path(folder).glob(f"{NAME}_*.deb")
    return package


def package():
    """Built once for all tests of a run."""
    folder = scratch.folder() / "deb"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return next(folder.glob(f"{NAME}_*.deb"), None) or build(folder)


def with_version(package, version, folder):
    """The same package with another version."""
    tree = Path(folder) / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"(?m)^Version: .*", f"Version: {version}", control.read_text()))
    made = Path(folder) / f"{NAME}_{version}.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, made], check=True,
                   stdout=subprocess.DEVNULL)
    return made
