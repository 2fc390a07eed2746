"""The threats to a ledger from someone who holds the disk: files of a stopped server are changed or put back."""

import shutil
import struct
import subprocess

import pytest

import cluster as clusters
from conftest import session
from ledgers import QUIET
from rows import PEPPERS
from test_pg_upgrade import initialised
from test_row_ledger_threats import MAKE_ROLES, begin, check, go_on
from threats import DISK, SUPERUSER, THREATS

PAGE = 8192
# A row of `t` as it is stored: a number, a text of three bytes after its length, and a number.
VICTIM = struct.pack("<i4si", 7, b"\x09ann", 7)
HEADER = 24


def copied(source, target):
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["cp", "-a", source, target], check=True)


class Disk:
    """A server whose files are at hand: as they were at block 2, and as they are."""

    def __init__(self, has_pepper):
        self.has_pepper = has_pepper
        # Without checksums, which would hold off nobody either.
        self.cluster = initialised("disk", clusters.BIN)
        self.cluster.configure(**QUIET)
        if has_pepper:
            self.cluster.configure(keysmith__pepper_file=self.cluster.write_secrets("peppers", f"1:{PEPPERS[1]}\n"))
        self.old, self.now = self.cluster.dir / "old", self.cluster.dir / "now"

    def prepare(self):
        self.cluster.start()
        self.cluster.execute(MAKE_ROLES)
        db = session(self.cluster)
        db.rows("CREATE EXTENSION keysmith")
        begin(db)
        self.keep(db, self.old)
        self.cluster.start()
        db = session(self.cluster)
        self.head = go_on(db)
        path = "SELECT pg_relation_filepath(%s::regclass)"
        self.table, self.blocks = db.value(path, "t"), db.value(path, "keysmith_private.ledger_block")
        self.keep(db, self.now)

    def keep(self, db, folder):
        db.session.close()
        self.cluster.stop()
        copied(self.cluster.data, folder)


@pytest.fixture(scope="module", params=[True, False], ids=["a pepper", "no pepper"])
def disk(request):
    disk = Disk(request.param)
    try:
        disk.prepare()
        yield disk
    finally:
        disk.cluster.remove()


def overwrite(file, at, content):
    with open(file, "r+b") as opened:
        opened.seek(at)
        opened.write(content)


def alter_row(disk, data):
    at = (data / disk.table).read_bytes().index(VICTIM)
    overwrite(data / disk.table, at + 8, struct.pack("<i", 1_000_000))


def remove_row(disk, data):
    """Clears the pointer of the page to the row."""
    file = data / disk.table
    content = file.read_bytes()
    at = content.index(VICTIM)
    page = at - at % PAGE
    (end,) = struct.unpack_from("<H", content, page + 12)
    pointers = range(page + HEADER, page + end, 4)
    (pointer,) = [place for place in pointers
                  if struct.unpack_from("<I", content, place)[0] & 0x7FFF == at - page - HEADER]
    overwrite(file, pointer, bytes(4))


def put_file_back(disk, data):
    shutil.copy2(disk.old / disk.table, data / disk.table)


def alter_block(disk, data):
    file = data / disk.blocks
    at = file.read_bytes().index(bytes.fromhex(disk.head["head"]))
    overwrite(file, at, bytes([file.read_bytes()[at] ^ 1]))


def put_all_back(disk, data):
    copied(disk.old, data)


ACTS = {"altered row": alter_row, "removed row": remove_row, "file back": put_file_back, "altered block": alter_block,
        "server back": put_all_back}


def test_each_threat_is_done():
    """A superuser does the others that need no files."""
    assert set(ACTS) == {name for name, threat in THREATS.items() if DISK in threat.by and SUPERUSER not in threat.by}


@pytest.mark.parametrize("name", ACTS)
def test_a_threat_by_files(disk, name):
    data = disk.cluster.data
    copied(disk.now, data)
    ACTS[name](disk, data)
    if clusters._SERVER_USER:
        subprocess.run(["chown", "-R", "postgres:postgres", data], check=True)
    disk.cluster.start()
    db = session(disk.cluster)
    try:
        check(disk.has_pepper, db, THREATS[name], disk.head)
    finally:
        db.session.close()
        disk.cluster.stop()
