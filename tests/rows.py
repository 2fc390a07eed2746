"""Shared by the tests of row hashing: a cluster with a pepper, and the stored values, computed
independently."""

import hashlib
import os

import pytest
from psycopg.rows import tuple_row

import cluster as clusters
from cluster import Cluster
from subkeys import mac

PEPPERS = {1: "11" * 32, 2: "22" * 32}


def write_peppers(cluster, generations):
    file = cluster.dir / "peppers"
    file.write_text("0:unpeppered\n" + "".join(f"{n}:{PEPPERS[n]}\n" for n in generations))
    file.chmod(0o600)
    if clusters._SERVER_USER:
        os.chown(file, clusters._SERVER_USER.pw_uid, clusters._SERVER_USER.pw_gid)
    return file


@pytest.fixture(scope="module")
def cluster():
    """A private cluster for the file: with a pepper, and full WAL."""
    running = Cluster("rows")
    try:
        running.init(wal_level="logical", keysmith__pepper_file=write_peppers(running, [1]))
        running.start()
        running.execute("CREATE DATABASE with_keysmith")
        running.execute("CREATE EXTENSION keysmith", dbname="with_keysmith")
        yield running
    finally:
        running.remove()


def sha256(value):
    value = value.encode() if isinstance(value, str) else value
    return hashlib.sha256(b"keysmith.value.v1\0" + value).digest()


def under_pepper(value, generation=1):
    value = value.encode() if isinstance(value, str) else value
    return mac(bytes.fromhex(PEPPERS[generation]), "value", value)


def text(value):
    return "ks-sha256:" + sha256(value).hex()


def text_under_pepper(value, generation=1):
    return f"ks-hmac-{generation}:" + under_pepper(value, generation).hex()


def of_bytes(value):
    return b"ks\x01\0\0" + sha256(value)


def trigger_arguments(db, table, trigger):
    """The arguments of a trigger; nothing if there is no trigger of that name."""
    found = db.rows("SELECT encode(tgargs, 'escape') AS arguments FROM pg_trigger "
                    "WHERE tgrelid = %s::regclass AND tgname = %s", table, trigger)
    return [argument for row in found for argument in row.arguments.split("\\000")[:-1]]


def values(db, query):
    """The one row of a query whose columns may have equal names."""
    return db.session.cursor(row_factory=tuple_row).execute(query).fetchone()


def files(cluster):
    """Everything in the data directory, and in its WAL."""
    cluster.execute("CHECKPOINT")
    data = b"".join(path.read_bytes() for path in cluster.data.rglob("*")
                    if path.is_file() and "pg_wal" not in path.parts)
    wal = b"".join(path.read_bytes() for path in (cluster.data / "pg_wal").iterdir() if path.is_file())
    return data, wal


@pytest.fixture
def notices(db):
    """The notices of a statement: severity and message."""
    found = []
    db.session.add_notice_handler(lambda diag: found.append((diag.severity, diag.message_primary)))
    return found
