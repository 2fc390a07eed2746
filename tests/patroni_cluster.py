"""Three nodes under Patroni with etcd and HAProxy, by the files of examples/patroni."""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64encode
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

import cluster as clusters
import scratch
from keeper import Keeper

EXAMPLES = Path(__file__).resolve().parent.parent / "examples/patroni"
PROGRAMS = ("etcd", "haproxy", "patroni")
PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin"
# Passwords by role, as in the example. Clients come as `app`, and HAProxy's check as `haproxy`.
PASSWORDS = {"postgres": "change-this", "replicator": "change-this-too", "app": "app", "haproxy": "haproxy"}
REST_PASSWORD = "change-this-as-well"
# Seconds. A failover takes TTL and a little more.
TTL, LOOP_WAIT, RETRY_TIMEOUT = 10, 1, 4
MAX_REPLICA_LAG = 15
LONG = 240


def missing():
    """The programs that this machine lacks."""
    return [name for name in PROGRAMS if not shutil.which(name, path=PATH)]


def wait_until(condition, seconds=LONG):
    """Waits for something that may fail meanwhile, since a server is down."""
    end = time.monotonic() + seconds
    while True:
        error = None
        try:
            if result := condition():
                return result
        except (psycopg.Error, OSError) as failed:
            error = failed
        if time.monotonic() > end:
            raise TimeoutError("it did not come true in time") from error
        time.sleep(0.05)


class Ports:
    """Ports that nobody listens on, at addresses that other runs don't use. They are below those
    that the system gives to clients, so they stay free while a server restarts."""

    def __init__(self):
        self.net = f"127.{random.randrange(1, 255)}.{random.randrange(1, 255)}."
        self.of = {name: str(self._free()) for name in ("2379", "2380", "5000", "5001", "5432", "8008")}

    def _free(self):
        while True:
            port = random.randrange(20_000, 32_000)
            with socket.socket() as probe, suppress(OSError):
                probe.bind((self.net + "1", port))
                return port

    def fill(self, text):
        """An example's text, with these addresses and ports."""
        text = text.replace("10.0.0.0/24", "127.0.0.0/8").replace("10.0.0.", self.net)
        return re.sub(rf"\b({'|'.join(self.of)})\b", lambda found: self.of[found[0]], text)


def filled(text, **values):
    """The values of `name: value` lines, replaced; every one must be there."""
    for name, value in values.items():
        text, times = re.subn(rf"(?m)^(\s*{re.escape(name)}:) .*", rf"\1 {value}", text)
        assert times, name
    return text


class Node:
    """A node: Patroni's agent, and the server that it runs."""

    def __init__(self, name, cluster):
        self.name, self.cluster = name, cluster
        self.host = f"{cluster.ports.net}1{name[-1]}"
        self.port, self.rest = cluster.ports.of["5432"], cluster.ports.of["8008"]
        self.dir = cluster.keeper.dir / name
        self.data, self.log = self.dir / "data", self.dir / "log"
        cluster.make_folder(self.dir)
        text = (EXAMPLES / "patroni.yml").read_text()
        text = cluster.ports.fill(text.replace("10.0.0.11", f"10.0.0.1{name[-1]}"))
        text = filled(text, **{
            "name": name, "ttl": TTL, "loop_wait": LOOP_WAIT, "retry_timeout": RETRY_TIMEOUT,
            "data_dir": self.data, "bin_dir": clusters.BIN, "pgpass": self.dir / "pgpass",
            "unix_socket_directories": self.dir,
            "keysmith.max_replica_lag": f"{MAX_REPLICA_LAG}s"})
        self.settings = self.dir / "patroni.yml"
        self.settings.write_text(text)
        self.agent = None

    def start_agent(self):
        program = shutil.which("patroni", path=PATH)
        self.agent = self.cluster.keeper.start([program, self.settings], self.cluster.environment, self.log)

    def kill_agent(self):
        os.kill(self.agent, signal.SIGKILL)
        self.agent = None

    def postmaster(self):
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def kill_server(self):
        """Kills the postmaster; its processes notice, and end."""
        os.kill(self.postmaster(), signal.SIGKILL)

    def request(self, path, body=None, method=None, password=REST_PASSWORD):
        """Asks Patroni's REST interface."""
        data = None if body is None else json.dumps(body).encode()
        authorization = b64encode(f"patroni:{password}".encode()).decode()
        asked = urllib.request.Request(f"http://{self.host}:{self.rest}{path}", data, method=method, headers={
            "Content-Type": "application/json", "Authorization": f"Basic {authorization}"})
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            text = error.read().decode()
        return json.loads(text) if text.startswith("{") else text

    def dsn(self, user="postgres", dbname="app"):
        return self.cluster.dsn(self.host, self.port, user, dbname)

    def execute(self, statement, *parameters, **whom):
        with psycopg.connect(self.dsn(**whom), autocommit=True) as connection:
            return clusters.fetched(connection.execute(statement, parameters or None))

    def status(self):
        (row,) = self.execute("SELECT to_jsonb(s) FROM keysmith.usage_status() s")
        return row[0]

    def sudden_ends(self):
        """How often the server's memory was lost otherwise. Patroni ends it without a shutdown if the
        lock is lost. pg_rewind deletes what waited, if the server has other WAL than the primary."""
        return sum(map(self.count_in_log, ("received immediate shutdown request", "pg_rewind: Done!")))

    def count_in_log(self, text):
        return self.log.read_text(errors="replace").count(text)


class Patroni:
    def __init__(self):
        owner = clusters._SERVER_USER
        self.keeper = Keeper("patroni", owner, scratch.folder())
        self.ports = Ports()
        self.environment = clusters.environment() | {"PATH": PATH, "HOME": str(self.keeper.dir)}
        try:
            self.nodes = [Node(f"node{number}", self) for number in (1, 2, 3)]
            self.start()
        except BaseException:
            self.tell_logs()
            self.keeper.end()
            raise

    def make_folder(self, path):
        path.mkdir()
        if owner := clusters._SERVER_USER:
            os.chown(path, owner.pw_uid, owner.pw_gid)
        path.chmod(0o700)

    def start(self):
        self.start_etcd()
        # The first node makes the cluster, and the others copy it.
        first, *others = self.nodes
        first.start_agent()
        wait_until(lambda: self.leader() is first)
        self.fill()
        self.start_haproxy()
        for node in others:
            node.start_agent()
        self.wait_until_whole()

    def start_etcd(self):
        at = f"http://{self.ports.net}21"
        client, peer = (f"{at}:{self.ports.of[port]}" for port in ("2379", "2380"))
        self.etcd = self.keeper.start(
            [shutil.which("etcd", path=PATH), "--data-dir", self.keeper.dir / "etcd",
             "--listen-client-urls", client, "--advertise-client-urls", client,
             "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
             "--initial-cluster", f"default={peer}"],
            self.environment, self.keeper.dir / "etcd.log")

        def answers():
            with urllib.request.urlopen(f"{client}/health", timeout=5) as answer:
                return json.load(answer)["health"] == "true"

        wait_until(answers)

    def fill(self):
        """The database, the roles and their rights, as docs/scaling.md says."""
        first = self.nodes[0]
        first.execute("CREATE DATABASE app", dbname="postgres")
        for role in ("app", "haproxy"):
            first.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORDS[role]}'")
        first.execute("""
            CREATE EXTENSION keysmith;
            GRANT USAGE ON SCHEMA keysmith TO replicator, haproxy;
            GRANT EXECUTE ON FUNCTION keysmith.usage_collect TO replicator;
            GRANT EXECUTE ON FUNCTION keysmith.explain_verify TO haproxy""")

    def start_haproxy(self):
        folder = self.keeper.dir / "haproxy"
        self.make_folder(folder)
        passwords, check = folder / "pgpass", folder / "check-decides"
        self.check = check
        passwords.write_text(f"*:*:*:haproxy:{PASSWORDS['haproxy']}\n")
        passwords.chmod(0o600)
        self._give(passwords)
        check.write_text((EXAMPLES / "check-decides").read_text().replace("/etc/haproxy/pgpass", str(passwords)))
        check.chmod(0o755)
        text = self.ports.fill((EXAMPLES / "haproxy.cfg").read_text())
        # It starts as the servers' user here.
        text, times = re.subn(r"(?m)^ *(user|group) haproxy\n", "", text)
        assert times == 2
        text = text.replace("/etc/haproxy/check-decides", str(check)).replace(
            '"/usr/bin:/bin"', f'"{clusters.BIN}:/usr/bin:/bin"')
        settings = folder / "haproxy.cfg"
        settings.write_text(text)
        self.keeper.start([shutil.which("haproxy", path=PATH), "-db", "-f", settings],
                          self.environment, self.keeper.dir / "haproxy.log")

    def decides(self, node):
        """What HAProxy's check says."""
        environment = self.environment | {"PATH": f"{clusters.BIN}:{PATH}"}
        as_user = {"user": self.keeper.owner.pw_uid} if self.keeper.owner else {}
        return subprocess.run([self.check, f"{self.ports.net}31", self.ports.of["5001"], node.host,
                               str(node.port)], cwd="/", env=environment, **as_user).returncode == 0

    def _give(self, path):
        if owner := clusters._SERVER_USER:
            os.chown(path, owner.pw_uid, owner.pw_gid)

    def dsn(self, host, port, user="postgres", dbname="app"):
        return (f"host={host} port={port} dbname={dbname} user={user} password={PASSWORDS[user]}"
                " connect_timeout=5")

    def balanced(self, port, user):
        """HAProxy's port: 5000 leads to the primary, 5001 to whoever decides."""
        return self.dsn(f"{self.ports.net}31", self.ports.of[port], user)

    def members(self):
        """What Patroni says of each node, asked of any agent that runs."""
        for node in self.nodes:
            with suppress(OSError):
                return {member["name"]: member for member in node.request("/cluster")["members"]}
        return {}

    def leader(self):
        """The node that is the leader and takes writes, or None."""
        for name, member in self.members().items():
            if member["role"] in ("leader", "master", "primary") and member["state"] == "running":
                node = self.node(name)
                with suppress(psycopg.Error):
                    if node.execute("SELECT pg_is_in_recovery()", dbname="postgres") == [(False,)]:
                        return node
        return None

    def node(self, name):
        return next(node for node in self.nodes if node.name == name)

    def replicas(self):
        leader = self.leader()
        return [node for node in self.nodes if node is not leader]

    def synchronous(self):
        """The standby that commits wait for, which is promoted next."""
        return next((self.node(name) for name, member in self.members().items()
                     if member["role"] in ("sync_standby", "quorum_standby")), None)

    def is_whole(self):
        """One leader, two standbys that stream from it, and commits wait for one of them."""
        leader, members = self.leader(), self.members()
        if not leader or len(members) != 3 or not self.synchronous():
            return False
        states = leader.execute(
            "SELECT application_name, sync_state FROM pg_stat_replication WHERE state = 'streaming'"
            " AND application_name LIKE 'node%'")
        timelines = {member.get("timeline") for member in members.values()}
        return (len(states) == 2 and any(state in ("sync", "quorum") for _, state in states)
                and len(timelines) == 1
                and leader.execute("SELECT keysmith.wait_for_replay('1 second')") == [(2,)])

    def wait_until_whole(self):
        wait_until(self.is_whole)

    def count_in_haproxy_log(self, text):
        return (self.keeper.dir / "haproxy.log").read_text().count(text)

    def tell_logs(self):
        for log in sorted(self.keeper.dir.glob("**/log")) + sorted(self.keeper.dir.glob("*.log")):
            print(f"--- {log}\n" + "".join(log.read_text(errors="replace").splitlines(True)[-25:]))


@contextmanager
def running():
    patroni = Patroni()
    try:
        yield patroni
    except BaseException:
        patroni.tell_logs()
        raise
    finally:
        patroni.keeper.end()
