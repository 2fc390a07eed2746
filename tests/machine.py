"""A new Debian of this release, in a folder: it has no compiler, no Rust and no network. Its processes
are in namespaces of their own, so they end together, and meet no server of this machine.

Its packages are downloaded once, into `stranger` of the build folder.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import cluster as clusters
import scratch
from debs import BUILD, MAJOR

KEPT = BUILD / "stranger"
NAMESPACES = ["--mount", "--pid", "--net", "--ipc", "--uts"]
# The first process: it makes the machine ready, and then waits for orphans.
INIT = r"""
set -e
mount --make-rprivate /
mount -t proc proc "$1/proc"
mount -t tmpfs tmpfs "$1/run"
mount -t tmpfs tmpfs "$1/dev"
mkdir "$1/dev/pts"
mkdir -m 1777 "$1/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$1/dev/pts"
ln -s pts/ptmx "$1/dev/ptmx"
for device in null zero full random urandom tty; do
    touch "$1/dev/$device"
    mount --bind "/dev/$device" "$1/dev/$device"
done
ln -s /proc/self/fd "$1/dev/fd"
"$2" -c 'import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh22x", b"lo", 1))'
mkdir -p "$1/run/lock"
exec chroot "$1" bash -c 'sleep infinity & echo ready; wait'
"""
# Services start, as they do where an init runs. It asks nothing, and takes what is needed.
FILES = {
    "usr/sbin/policy-rc.d": "#!/bin/sh\nexit 0\n",
    "etc/apt/apt.conf.d/90answers": 'APT::Get::Assume-Yes "true";\nAPT::Install-Recommends "false";\n',
}


def missing():
    """Why there can be no such machine here, or None."""
    if os.geteuid() != 0:
        return "only root can make a machine"
    for program in ("mmdebstrap", "unshare", "nsenter", "setpriv"):
        if not shutil.which(program):
            return f"{program} is not there; run scripts/setup.sh stranger"
    if subprocess.run(["unshare", *NAMESPACES, "--fork", "true"], capture_output=True).returncode:
        return "namespaces are not allowed here"
    return None


def base():
    """The archive of a minimal Debian with PostgreSQL's packages downloaded, and none installed. It
    is made again when Debian has another PostgreSQL; if it can't be, the one before is good enough.
    """
    wanted = KEPT / f"{MAJOR}-{hashlib.sha256(_recipe().encode()).hexdigest()[:12]}.tar"
    KEPT.mkdir(parents=True, exist_ok=True)
    with open(KEPT / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if wanted.exists():
            return wanted
        problem = _fetch(wanted)
        for other in KEPT.glob(f"{MAJOR}-*.tar"):
            if problem:
                return other
            if other != wanted:
                other.unlink()
    if problem:
        raise LookupError(problem)
    return wanted


def _policy(package):
    return subprocess.check_output(["apt-cache", "policy", package], text=True, env=clusters.environment())


def _sources():
    """Those lines of the machine's sources that have Debian itself."""
    found = re.findall(r"^ +-?\d+ (https?://\S+) (\S+?)/(\S+) \S+ Packages", _policy("base-files") + _policy(
        f"postgresql-{MAJOR}"), re.M)
    return [f"deb {address} {suite} {component}" for address, suite, component in dict.fromkeys(found)]


def _recipe():
    candidate = re.findall(r"Candidate: (\S+)", _policy(f"postgresql-{MAJOR}"))
    return "\n".join([*_sources(), *candidate, Path("/etc/os-release").read_text()])


def _fetch(archive):
    """Returns why it can't be fetched, or None."""
    release = re.search(r"VERSION_CODENAME=(\S+)", Path("/etc/os-release").read_text())
    options = [line.rstrip(";") for line in subprocess.check_output(["apt-config", "dump"], text=True).splitlines()
               if re.match(r"Acquire::(\w+::)?(.*proxy|verify|retries)", line, re.I)]
    partial = archive.with_suffix(".partial")
    download = f'env --unset APT_CONFIG chroot "$1" apt-get install -y --download-only --no-install-recommends postgresql-{MAJOR}'
    try:
        made = subprocess.run(
            ["mmdebstrap", "--quiet", "--format=tar", "--variant=minbase", "--skip=cleanup/apt",
             *(f"--aptopt={option};" for option in options), f"--customize-hook={download} >&2",
             release[1], partial, "-"],
            input="\n".join(_sources()) + "\n", text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)
        if made.returncode:
            lines = [line for line in made.stdout.splitlines() if re.match(r"(E|Err|W)\b", line)]
            return f"no new Debian can be fetched: {(lines or made.stdout.splitlines() or ['no reason'])[0]}"
        partial.rename(archive)
    except subprocess.TimeoutExpired:
        return "no new Debian can be fetched: the mirror does not answer in time"
    finally:
        partial.unlink(missing_ok=True)
    return None


class Machine:
    def __init__(self, folder, init):
        self.folder = folder
        self.init = init

    def path(self, path):
        return self.folder / str(path).lstrip("/")

    def run(self, command, user="root", check=True, **options):
        """Runs a shell's commands, shows them with what they print, and returns that."""
        become = [] if user == "root" else ["runuser", "-u", user, "--"]
        print(f"{user}$ {command.strip()}", flush=True)
        start = time.monotonic()
        done = subprocess.run(
            ["nsenter", "--target", str(self.init), *NAMESPACES, "--root", "--wd",
             "env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8",
             "HOME=/root", "TERM=dumb", "DEBIAN_FRONTEND=noninteractive", *become, "bash", "-euc", command],
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **{"stdin": subprocess.DEVNULL, "timeout": 600} | options)
        print(f"{done.stdout}({time.monotonic() - start:.1f} s)\n", flush=True)
        assert not check or done.returncode == 0, done.stdout
        return done.stdout

    def psql(self, script, dbname="postgres"):
        return self.run(f"psql -X -q -A -t -v ON_ERROR_STOP=1 -d {dbname} <<'SQL'\n{script}\nSQL", user="postgres").strip()


@contextmanager
def running(archive):
    # Not below the folder of the run: the ids of its processes mean others here.
    parent = scratch.folder().parent if scratch.folder() else None
    with tempfile.TemporaryDirectory(prefix="keysmith-machine-", dir=parent, ignore_cleanup_errors=True) as folder:
        folder = Path(folder)
        folder.chmod(0o755)
        subprocess.run(["tar", "--extract", "--numeric-owner", "--exclude=./dev/*", "--file", archive, "--directory", folder],
                       check=True)
        for name, content in FILES.items():
            (folder / name).write_text(content)
            (folder / name).chmod(0o755)
        # It ends with this process, and everything in it ends with its first process.
        outside = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", *NAMESPACES, "--fork", "--kill-child=KILL",
             "bash", "-c", INIT, "init", folder, sys.executable],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert outside.stdout.readline() == "ready\n", "the machine does not start"
            init, = Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text().split()
            yield Machine(folder, int(init))
        finally:
            _end(outside)


def _end(outside):
    """Kills the first process, and waits until the kernel has ended the others."""
    for init in Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text().split():
        os.kill(int(init), 9)
    try:
        outside.wait(timeout=60)
    finally:
        outside.kill()
        outside.wait()
        outside.stdout.close()
