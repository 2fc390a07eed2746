"""The folder of a test run: its clusters, and the data directories from which they are copied.
It is in memory if there is room, as each cluster is a thousand files. The processes of
pytest-xdist share it. The process that made it removes it, with the servers in it.
"""

import fcntl
import hashlib
import os
import secrets
import shutil
import signal
import struct
import subprocess
import tempfile
from pathlib import Path

NAME = "KEYSMITH_TEST_FOLDER"
MEMORY = Path("/dev/shm")
ROOM = 6 << 30


def folder():
    """None outside a run, as in benchmarks."""
    return Path(os.environ[NAME]) if NAME in os.environ else None


def make():
    """Makes the folder, unless a parent process made it: then it returns False."""
    if folder():
        return False
    has_room = "TMPDIR" not in os.environ and MEMORY.is_dir() and min(
        shutil.disk_usage(MEMORY).free, _available_memory()) > ROOM
    os.environ[NAME] = tempfile.mkdtemp(prefix="keysmith-", dir=MEMORY if has_room else None)
    folder().chmod(0o755)
    return True


def _available_memory():
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) << 10


def remove():
    """Removes the folder, also after an interrupt, when other processes may have left servers
    running."""
    for file in folder().glob("**/postmaster.pid"):
        try:
            os.kill(int(file.read_text().split()[0]), signal.SIGQUIT)
        except (OSError, ValueError, IndexError):
            pass
    shutil.rmtree(os.environ.pop(NAME), ignore_errors=True)


def copy(data, owner, arguments, initdb):
    """Fills `data` like `initdb(data)`, which is called once for each set of arguments. Each copy
    gets its own system identifier, as from initdb."""
    kept = folder() / f"template-{hashlib.sha256(repr(arguments).encode()).hexdigest()[:16]}"
    with open(f"{kept}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (kept / "done").exists():
            kept.mkdir(exist_ok=True)
            if owner:
                os.chown(kept, owner.pw_uid, owner.pw_gid)
            initdb(kept / "data")
            (kept / "done").touch()
    # Most of the WAL is zeros.
    subprocess.run(["cp", "-a", "--reflink=auto", "--sparse=always", kept / "data", data], check=True)
    _identify(data, secrets.randbits(62))


def _identify(data, identifier):
    """The identifier is in the control file, and on the first page of the WAL."""
    identifier = struct.pack("=Q", identifier)
    with open(data / "global/pg_control", "r+b") as control:
        content = control.read()
        content = identifier + content[len(identifier):_checksum_place(content)]
        control.seek(0)
        control.write(content + _checksum(content))
    segment, = (path for path in (data / "pg_wal").iterdir() if path.is_file())
    with open(segment, "r+b") as log:
        # After the header of every page.
        log.seek(24)
        log.write(identifier)


def _checksum_place(control):
    """Each major has another length: the checksum covers all bytes before it."""
    for length in range(64, len(control), 4):
        if _checksum(control[:length]) == control[length:length + 4]:
            return length
    raise AssertionError("no checksum in the control file fits")


def _checksum(content):
    """CRC-32C."""
    remainder = 0xFFFFFFFF
    for byte in content:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (0x82F63B78 if remainder & 1 else 0)
    return struct.pack("=I", remainder ^ 0xFFFFFFFF)
