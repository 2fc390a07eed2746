"""A filled cluster that is upgraded by pg_upgrade, and whose extension is updated afterwards.
The older server is one of this major, and each older one that `make test-majors` names: these
have the library too.
"""

import os
import subprocess
from pathlib import Path

import psycopg
import pytest

import cluster as clusters
import filled
import made_up
import objects
from cluster import Cluster
from conftest import session
from mirror import Mirror

OLDER = [clusters.PG_CONFIG, *(path for path in os.environ.get("KEYSMITH_OLDER_SERVERS", "").split(":") if path)]


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
    return {(name, what): value.translate({40: None, 41: None}) if what == "definition" and value else value
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


def differences(db, statement):
    """How a database differs from one in which a statement has created the extension."""
    name = "fresh"
    db.rows(f"CREATE DATABASE {name}")
    try:
        with psycopg.connect(host=db.session.info.host, port=db.session.info.port, dbname=name, user="postgres",
                             autocommit=True) as fresh:
            fresh.execute(statement)
            return objects.differences(described(db.session), described(fresh))
    finally:
        db.rows(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("older", OLDER, ids=major)
def test_a_cluster_is_upgraded_whole(older):
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

        for only_check in (["--check"], []):
            done = clusters.run("pg_upgrade", *only_check, "-b", old.bin, "-B", new.bin, "-d", old.data, "-D", new.data,
                                "-s", new.dir, "-U", "postgres", "--no-sync", as_server=True, cwd=new.dir, check=False)
            assert done.returncode == 0, done.stdout + errors(new)
        mirror = Mirror(new.dir / "server")
        made_up.install(mirror.extensions)
        new.start(program=mirror.server)
        assert dump(new) == dumped
        db = session(new, "product")
        assert db.rows("SELECT * FROM keysmith.audit_heads()") == audited
        filled.check(db, kept)
        filled.drop_roles(db)
        assert differences(db, "CREATE EXTENSION keysmith") == []

        # Then the extension is updated.
        db.rows(f"ALTER EXTENSION keysmith UPDATE TO '{made_up.VERSION}'")
        assert differences(db, f"CREATE EXTENSION keysmith VERSION '{made_up.VERSION}'") == []
        db.session.close()
        db = session(new, "product")
        for name in ("of a member", "of a role", "successor", "revoked", "disabled", "suspended"):
            assert db.reason(kept["keys"][name], ip="192.0.2.1") == filled.REASONS[name]
        assert all(chain.ok for chain in db.call("audit_verify"))
        db.session.close()
    finally:
        old.remove()
        new.remove()
