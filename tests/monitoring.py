"""Prometheus and exporters for real servers, by the files of examples/monitoring."""

import json
import os
import random
import re
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import cluster as clusters
import scratch
from keeper import Keeper

EXAMPLES = Path(__file__).resolve().parent.parent / "examples/monitoring"
PROGRAMS = ("prometheus", "promtool", "prometheus-sql-exporter")
ROLE, PASSWORD = "keysmith_exporter", "secret of the exporter"
CONNECTION = "postgres://keysmith_exporter@/app?host=/var/run/postgresql&"


def missing():
    """The programs that this machine lacks."""
    return [name for name in PROGRAMS if not shutil.which(name)]


def replaced(text, old, new):
    assert old in text, old
    return text.replace(old, new)


def free_address():
    """Below the ports that the system gives to clients, at an address that other runs don't use."""
    host = f"127.{random.randrange(1, 255)}.{random.randrange(1, 255)}.1"
    while True:
        address = host, random.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(address)
            return "{}:{}".format(*address)


def prepare(cluster):
    """The role of the exporter, which comes with a password. Standbys copy pg_hba.conf."""
    cluster.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")
    cluster.execute(f"SELECT keysmith.grant_access('{ROLE}', 'auditor')", "app")
    hba = cluster.data / "pg_hba.conf"
    hba.write_text(f"local all {ROLE} scram-sha-256\n{hba.read_text()}")
    cluster.execute("SELECT pg_reload_conf()")


class Monitoring:
    """An exporter for each cluster, whose names are the instances, and Prometheus."""

    def __init__(self, servers, every="1s"):
        self.keeper = Keeper("monitoring", clusters._SERVER_USER, scratch.folder())
        try:
            self.passwords = self.write("passwords", f"*:*:*:{ROLE}:{PASSWORD}\n", 0o600)
            self.exporters = {name: self.start_exporter(name, server, every) for name, server in servers.items()}
            self.start_prometheus(every)
        except BaseException:
            self.keeper.end()
            raise

    def write(self, name, text, mode=0o644):
        path = self.keeper.dir / name
        path.write_text(text)
        path.chmod(mode)
        if owner := clusters._SERVER_USER:
            os.chown(path, owner.pw_uid, owner.pw_gid)
        return path

    def start(self, program, *arguments):
        environment = clusters.environment() | {"PGPASSFILE": str(self.passwords), "LOGLEVEL": "WARN"}
        self.keeper.start([shutil.which(program), *arguments], environment, self.keeper.dir / f"{program}.log")

    def start_exporter(self, name, server, every):
        text = replaced((EXAMPLES / "prometheus-sql-exporter.yml").read_text(), CONNECTION,
                        f"postgres://{ROLE}@/app?host={server.dir}&port={server.port}&")
        path = self.write(f"{name}.yml", replaced(text, "interval: 15s", f"interval: {every}"))
        address = free_address()
        self.start("prometheus-sql-exporter", "-config.file", path, "-web.listen-address", address)
        return address

    def start_prometheus(self, every):
        targets = "".join(f"\n      - {{targets: ['{address}'], labels: {{instance: {name}}}}}"
                          for name, address in self.exporters.items())
        text = replaced((EXAMPLES / "prometheus.yml").read_text(), "interval: 15s", f"interval: {every}")
        text = replaced(text, '\n      - targets: ["localhost:9237"]', targets)
        path = self.write("prometheus.yml", text)
        self.write("alerts.yml", (EXAMPLES / "alerts.yml").read_text())
        self.address = free_address()
        self.start("prometheus", f"--config.file={path}", f"--storage.tsdb.path={self.keeper.dir / 'series'}",
                   f"--web.listen-address={self.address}", "--log.level=warn")

    def ask(self, what, **parameters):
        """The data that Prometheus answers, or None while it does not answer."""
        url = f"http://{self.address}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.load(answer)["data"]
        except OSError as error:
            if getattr(error, "code", None) == 400:
                raise ValueError(f"{parameters}: {error.read().decode()}") from error
            return None

    def series(self, expression):
        """The newest values of an expression, by their labels."""
        found = self.ask("query", query=expression)
        return {frozenset(one["metric"].items()): float(one["value"][1]) for one in found["result"]} if found else {}

    def firing(self):
        """The alerts that fire, by name and instance."""
        found = self.ask("alerts")
        return {(alert["labels"]["alertname"], alert["labels"].get("instance"))
                for alert in (found["alerts"] if found else []) if alert["state"] == "firing"}


@contextmanager
def running(servers, **options):
    monitoring = Monitoring(servers, **options)
    try:
        yield monitoring
    finally:
        monitoring.keeper.end()


def promtool(*arguments):
    done = subprocess.run([shutil.which("promtool"), *arguments], cwd=EXAMPLES, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout


def dashboard():
    return json.loads((EXAMPLES / "dashboard.json").read_text())


def filled(expression, interval="1m"):
    """A panel's expression as Grafana sends it, for all instances and databases."""
    expression = expression.replace("$__rate_interval", interval)
    return re.sub(r"\$(instance|database)\b", ".*", expression)
