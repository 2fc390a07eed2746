"""A filled cluster of an older major, upgraded by pg_upgrade.
It needs a second server with the library installed: `make test-majors` has these, and names the
older ones.
"""

import os
import subprocess
from pathlib import Path

import pytest

import cluster as clusters
import filled
import objects
from cluster import Cluster
from conftest import session

OLDER = [path for path in os.environ.get("KEYSMITH_OLDER_SERVERS", "").split(":") if path]


def bin_of(pg_config):
    return Path(subprocess.check_output([pg_config, "--bindir"], text=True).strip())


def major(pg_config):
    return subprocess.check_output([pg_config, "--version"], text=True).split()[1].split(".")[0]


def dump(cluster):
    """By the newer pg_dump, which reads the older cluster too."""
    text = cluster.program("pg_dump", dbname="product", bin=clusters.BIN).stdout
    return [line for line in text.splitlines()
            if not line.startswith(("\\restrict", "\\unrestrict", "-- Dumped from database version"))]


def described(connection):
    """Without the differences that a dump, and so an upgrade, makes: explicit default privileges,
    and the parentheses of conditions. No dump has the privileges of the row types of tables and
    views: there they are the default ones."""
    found = objects.describe(connection)
    relations = {name.split(" ", 1)[1] for name, _ in found if name.startswith(("table ", "view "))}
    return {(name, what): value.translate({40: None, 41: None}) if what == "definition" else value
            for (name, what), value in found.items()
            if what != "initial privileges"
            and not (what == "privileges" and name.removeprefix("type ") in relations)}


def without_stamps(cluster):
    """Some builds of 15 add to each column an option that a stock server refuses to restore. This
    removes these options."""
    for dbname in ("template1", "postgres", "product"):
        cluster.execute("UPDATE pg_attribute SET attoptions = NULL "
                        "WHERE attoptions::text LIKE '{pg_attver=%}'", dbname)


def errors(cluster):
    """The output of the programs that pg_upgrade calls."""
    logs = (cluster.data / "pg_upgrade_output.d").rglob("*.log")
    return "".join(line for log in logs for line in log.read_text().splitlines(True) if "error" in line.lower())


def initialised(name, bin):
    """An empty cluster. By default 18 has checksums, and 15 does not."""
    cluster = Cluster(name, bin=bin)
    help_text = clusters.run("initdb", "--help", bin=bin).stdout
    without = ["--no-data-checksums"] if "--no-data-checksums" in help_text else []
    return cluster.init("-E", "UTF8", "--locale=C.UTF-8", *without)


@pytest.mark.parametrize("older", OLDER or [None], ids=major if OLDER else None)
def test_a_cluster_is_upgraded_whole(older):
    if older is None:
        pytest.skip("needs an older server: run make test-majors")
    old, new = initialised("old", bin_of(older)), initialised("new", clusters.BIN)
    try:
        old.start()
        old.execute("CREATE DATABASE product")
        db = session(old, "product")
        db.rows("CREATE EXTENSION keysmith")
        kept = filled.fill(db)
        db.session.close()
        # A stopped server records its end. The dump is the state at the beginning of the upgrade.
        old.restart()
        without_stamps(old)
        dumped = dump(old)
        db = session(old, "product")
        audited = db.rows("SELECT * FROM keysmith.audit_heads()")
        db.session.close()
        old.stop()

        done = clusters.run("pg_upgrade", "-b", old.bin, "-B", new.bin, "-d", old.data, "-D", new.data,
                            "-s", new.dir, "-U", "postgres", "--no-sync", as_server=True, cwd=new.dir,
                            check=False)
        assert done.returncode == 0, done.stdout + errors(new)
        new.start()
        assert dump(new) == dumped
        db = session(new, "product")
        assert db.rows("SELECT * FROM keysmith.audit_heads()") == audited
        filled.check(db, kept)
        filled.drop_roles(db)
        new.execute("CREATE DATABASE fresh")
        new.execute("CREATE EXTENSION keysmith", "fresh")
        with new.connect("fresh") as fresh:
            assert objects.differences(described(db.session), described(fresh)) == []
    finally:
        old.remove()
        new.remove()
