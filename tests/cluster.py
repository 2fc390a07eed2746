"""Real PostgreSQL clusters for tests and benchmarks, each in a separate folder."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import psycopg

import scratch

PG_CONFIG = os.environ.get("PG_CONFIG", "pg_config")


def pg_config(what):
    return subprocess.check_output([PG_CONFIG, f"--{what}"], text=True).strip()


BIN = Path(pg_config("bindir"))


def has_module(name):
    """Whether the server has an additional module of PostgreSQL, which some builds lack."""
    return (Path(pg_config("pkglibdir")) / f"{name}.so").exists()


# A program to start instead of `postgres`, if any, which runs and watches it.
SERVER = os.environ.get("KEYSMITH_SERVER")

# PostgreSQL refuses to run as root, so servers then run as postgres.
_SERVER_USER = pwd.getpwnam("postgres") if os.geteuid() == 0 else None


def environment():
    """The environment of a server or client: without variables that would change its target."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PG") and k != "RUST_BACKTRACE"}
    return kept | {"LC_ALL": "C.UTF-8", "TZ": "UTC"}


def run(program, *arguments, as_server=False, check=True, bin=BIN, **options):
    """Runs one of PostgreSQL's programs and returns the completed process."""
    as_user = {}
    if as_server and _SERVER_USER:
        as_user = {"user": _SERVER_USER.pw_uid, "group": _SERVER_USER.pw_gid, "extra_groups": []}
    options = {"cwd": "/", "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | options
    done = subprocess.run(
        [str(bin / program), *map(str, arguments)], env=environment(), **as_user, **options
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{program} failed:\n{done.stdout}\n{done.stderr or ''}")
    return done


def fetched(cursor):
    """A statement's rows, which may have no columns, or nothing if it returns none."""
    gives_rows = cursor.pgresult.status == psycopg.pq.ExecStatus.TUPLES_OK
    return cursor.fetchall() if gives_rows else []


class Cluster:
    """A cluster on a private socket. Nothing else can reach it."""

    def __init__(self, name="main", port=5432, bin=BIN):
        self.bin = bin
        # A socket's path must be short, so this is not below pytest's long folders.
        self.dir = Path(tempfile.mkdtemp(prefix=f"keysmith-{name}-", dir=scratch.folder()))
        self.data = self.dir / "data"
        self.log = self.dir / "log"
        self.port = port
        if _SERVER_USER:
            os.chown(self.dir, _SERVER_USER.pw_uid, _SERVER_USER.pw_gid)
        self.dir.chmod(0o755)

    def init(self, *arguments, preload=True, **settings):
        arguments = arguments or ("-E", "UTF8", "--locale=C.UTF-8")

        def initdb(data):
            run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync", *arguments,
                as_server=True, bin=self.bin)

        if scratch.folder() and "--waldir" not in arguments:
            scratch.copy(self.data, _SERVER_USER, (self.bin, arguments), initdb)
        else:
            initdb(self.data)
        defaults = {
            "listen_addresses": "",
            "port": self.port,
            "unix_socket_directories": str(self.dir),
            "fsync": "off",
            "max_connections": 200,
            "max_prepared_transactions": 10,
            "wal_level": "replica",
            "shared_preload_libraries": "keysmith" if preload else "",
        }
        self.configure(**(defaults | settings))
        return self

    def configure(self, **settings):
        with open(self.data / "postgresql.conf", "a") as conf:
            for name, value in settings.items():
                conf.write(f"{name.replace('__', '.')} = '{value}'\n")

    def write_secrets(self, name, text, mode=0o600):
        """A file of secrets that only the server's user can read."""
        file = self.dir / name
        file.touch(0o600)
        file.write_text(text)
        file.chmod(mode)
        if _SERVER_USER:
            os.chown(file, _SERVER_USER.pw_uid, _SERVER_USER.pw_gid)
        return file

    def start(self, check=True, program=SERVER):
        instead = ["-p", program] if program else []
        return run("pg_ctl", "-D", self.data, "-l", self.log, *instead, "-w", "-t", 120, "start",
                   as_server=True, check=check, bin=self.bin, stdout=subprocess.DEVNULL)

    def stop(self, mode="fast"):
        run("pg_ctl", "-D", self.data, "-m", mode, "-w", "stop", as_server=True, check=False,
            bin=self.bin)

    def restart(self):
        self.stop()
        self.start()

    def kill(self):
        """Kills the postmaster without a shutdown."""
        os.kill(int((self.data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)

    def start_after_kill(self):
        """Starts as soon as the postmaster's remains are gone: until then the server refuses."""
        end = time.monotonic() + 60
        while self.start(check=False).returncode != 0:
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)

    def remove(self):
        if (self.data / "postmaster.pid").exists():
            self.stop("immediate")
        shutil.rmtree(self.dir, ignore_errors=True)

    def dsn(self, dbname="postgres", user="postgres"):
        return f"host={self.dir} port={self.port} dbname={dbname} user={user}"

    def connect(self, dbname="postgres", user="postgres", autocommit=True, **options):
        return psycopg.connect(self.dsn(dbname, user), autocommit=autocommit, **options)

    def execute(self, statement, dbname="postgres"):
        with self.connect(dbname) as connection:
            return fetched(connection.execute(statement))

    def program(self, program, *arguments, dbname="postgres", **options):
        """Runs a client program against this cluster."""
        options = {"bin": self.bin} | options
        return run(program, "-h", self.dir, "-p", self.port, "-U", "postgres",
                   *arguments, *(["-d", dbname] if dbname else []), **options)

    def psql(self, script, dbname="postgres", **options):
        return self.program("psql", "-X", "-v", "ON_ERROR_STOP=1", "-f", "-", dbname=dbname,
                            input=script, **options).stdout

    def backup(self, name, port):
        """A streaming standby of this cluster, not yet started."""
        standby = Cluster(name, port)
        run("pg_basebackup", "-h", self.dir, "-p", self.port, "-U", "postgres", "-D", standby.data,
            "-R", "-c", "fast", "--no-sync", as_server=True)
        standby.configure(port=port, unix_socket_directories=str(standby.dir))
        return standby


@contextmanager
def running(name="main", *arguments, signing=None, **settings):
    """A cluster that lives as long as the block. `signing` is the text of its signing file."""
    cluster = Cluster(name)
    try:
        if signing:
            settings["keysmith__signing_key_file"] = cluster.write_secrets("signing", signing)
        cluster.init(*arguments, **settings).start()
        yield cluster
    finally:
        cluster.remove()
