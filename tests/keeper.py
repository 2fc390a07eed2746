"""Starts programs, and ends them with everything that they started, when its own parent ends.

Programs like Patroni start servers that outlive them. The keeper adopts what they leave behind,
as init does. It ends when its input does, also if its parent is killed.
"""

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


class Keeper:
    """A keeper in a process of its own, and its folder, which it removes at the end."""

    def __init__(self, name, owner=None, parent=None):
        self.dir = Path(tempfile.mkdtemp(prefix=f"keysmith-{name}-", dir=parent))
        if owner:
            os.chown(self.dir, owner.pw_uid, owner.pw_gid)
        self.dir.chmod(0o755)
        self.owner = owner
        # In its own session, so that Ctrl-C does not reach it.
        self.process = subprocess.Popen(
            [sys.executable, __file__, self.dir], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, start_new_session=True)

    def start(self, command, environment, log):
        """Starts a program as the folder's owner, and returns its process id."""
        ids = [self.owner.pw_uid, self.owner.pw_gid] if self.owner else None
        self._send({"command": [str(word) for word in command], "environment": environment,
                    "log": str(log), "ids": ids})
        return int(self.process.stdout.readline())

    def _send(self, order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def end(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def state_of(pid):
    """The letter that Linux has for a process; X if it is gone, or ends while its file is read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def main(folder):
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    orders = b""
    try:
        while True:
            ready, _, _ = select.select([0], [], [], 0.1)
            reap()
            if not ready:
                continue
            if not (more := os.read(0, 65536)):
                break
            orders += more
            while b"\n" in orders:
                order, _, orders = orders.partition(b"\n")
                print(start(**json.loads(order)), flush=True)
    finally:
        end_children()
        shutil.rmtree(folder, ignore_errors=True)


def start(command, environment, log, ids):
    as_user = {"user": ids[0], "group": ids[1], "extra_groups": []} if ids else {}
    with open(log, "a") as output:
        return subprocess.Popen(command, cwd="/", env=environment, stdin=subprocess.DEVNULL,
                                stdout=output, stderr=output, start_new_session=True, **as_user).pid


def reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def end_children():
    """Ends children until there are none: those of a process that ended are adopted."""
    while children := Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        time.sleep(0.02)
        reap()


if __name__ == "__main__":
    main(sys.argv[1])
