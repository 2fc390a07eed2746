"""A filled database that is upgraded equals a fresh installation, object by object and
row by row: from each version that was released, and by the comparison that would tell."""

import os
import re
import shutil
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import namedtuple_row

import cluster as clusters
import filled
import objects
from cluster import Cluster
from conftest import Database

ROOT = Path(__file__).parent.parent
CURRENT = re.search(r"default_version = '(.*)'", (ROOT / "keysmith.control").read_text())[1]
ROLES = "app_user, key_issuer"


def versions(folder):
    """Of the full scripts in a folder: what can be installed there."""
    names = [path.name.split("--")[1:] for path in folder.glob("keysmith--*.sql")]
    return sorted(name[0].removesuffix(".sql") for name in names if len(name) == 1)


def steps(folder):
    """The upgrades that a folder has scripts for: (from, to)."""
    names = [path.name.removesuffix(".sql").split("--")[1:] for path in folder.glob("keysmith--*.sql")]
    return {tuple(name) for name in names if len(name) == 2}


def session(cluster, dbname):
    connection = cluster.connect(dbname, row_factory=namedtuple_row)
    connection.prepare_threshold = None
    return Database(connection)


# The rows

def columns(db):
    """Of each table of ours, and of each partition that was made at run time."""
    return {table: names for table, names in db.rows("""
        SELECT c.oid::regclass::text, array_agg(quote_ident(attname) ORDER BY attname)
        FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped
        WHERE relnamespace = 'keysmith'::regnamespace AND relkind IN ('r', 'S') GROUP BY 1""")}


def contents(db, of):
    """All rows, of the columns that are asked for."""
    return {table: sorted(text for text, in db.rows(f"SELECT ROW({', '.join(names)})::text FROM {table}"))
            for table, names in of.items()}


# The upgrade

def is_equal_when_upgraded(cluster, start, end, change=lambda db: None):
    """Upgrades a filled database, and compares it with a fresh one."""
    for name, version in (("upgraded", start), ("fresh", end)):
        cluster.execute(f"CREATE DATABASE {name}")
        cluster.execute(f"CREATE EXTENSION keysmith VERSION '{version}'", name)
    db = session(cluster, "upgraded")
    kept = filled.fill(db)
    before_columns = columns(db)
    before = contents(db, before_columns)
    assert all(before[f"keysmith.{table}"] for table in ("key", "tenant", "audit_entry", "usage_event_default")
               if f"keysmith.{table}" in before)
    db.rows(f"ALTER EXTENSION keysmith UPDATE TO '{end}'")
    change(db)
    after_columns = columns(db)
    assert {table: names for table, names in before_columns.items()
            if not set(names) <= set(after_columns.get(table, []))} == {}, "these lost columns"
    assert contents(db, before_columns) == before
    db.session.close()
    # A session that knew the old version is not the one that goes on.
    db = session(cluster, "upgraded")
    filled.check(db, kept)
    db.rows(f"DROP OWNED BY {ROLES}; DROP ROLE {ROLES}")
    with cluster.connect("fresh") as fresh:
        found = objects.differences(objects.describe(db.session), objects.describe(fresh))
    db.session.close()
    return found


RELEASED = [version for version in versions(ROOT / "sql") if version != CURRENT]


def test_every_released_version_can_be_upgraded():
    reachable, edges = {CURRENT}, steps(ROOT / "sql")
    while more := {start for start, end in edges if end in reachable} - reachable:
        reachable |= more
    assert set(versions(ROOT / "sql")) == reachable, "a version without an upgrade, or an upgrade without its version"
