"""Projects of strangers in Node: folders in which the package and those of the tests are installed."""

import os
import shutil
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import cluster as clusters
import examples
from conftest import wait_until

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent


class Project:
    """A copy of a folder of these tests."""

    def __init__(self, folder, source, url):
        self.folder = folder / source
        shutil.copytree(HERE / source, self.folder)
        self.environment = clusters.environment() | {"DATABASE_URL": url, "NO_COLOR": "1"}
        installed = examples.require("clients-node") / "node_modules"
        packages = self.folder / "node_modules"
        packages.mkdir()
        for package in installed.iterdir():
            (packages / package.name).symlink_to(package)
        # A copy, since Node resolves links: from its own place the package would not find Drizzle.
        shutil.copytree(ROOT / "clients/node", packages / "keysmith",
                        ignore=shutil.ignore_patterns("node_modules", "test"))

    def start(self, *command, **options):
        path = f"{self.folder / 'node_modules/.bin'}:{os.environ['PATH']}"
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | options
        return subprocess.Popen(command, cwd=self.folder, env=self.environment | {"PATH": path}, text=True,
                                stdin=subprocess.DEVNULL, **options)

    def run(self, *command, check=True):
        """Runs a program and returns what it printed."""
        with self.start(*command) as process:
            printed, _ = process.communicate(timeout=300)
        assert not check or process.returncode == 0, f"{command}\n{printed}"
        return printed

    @contextmanager
    def listening(self, *command):
        """A server, until the block ends. What it prints is in `log`."""
        self.log = self.folder / "log"
        with open(self.log, "w") as output, self.start(*command, stdout=output) as process:
            try:
                wait_until(lambda: self._answers(process))
                yield
            finally:
                process.terminate()

    def _answers(self, process):
        assert process.poll() is None, self.log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", int(self.environment["PORT"]))) == 0

    def node(self, program, *arguments):
        return self.run("node", "--input-type=module", "-e", program, *arguments)

    def edit(self, name, old, new):
        text = (self.folder / name).read_text()
        assert old in text, f"{name} has no {old!r}"
        (self.folder / name).write_text(text.replace(old, new))


def url(cluster, dbname, user):
    return f"postgresql://{user}@localhost:{cluster.port}/{dbname}?host={quote(str(cluster.dir), safe='')}"
