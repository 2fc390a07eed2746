"""The README of the package for Node: each of its blocks is executed."""

import re
import socket
import subprocess
from contextlib import contextmanager

import pytest

import examples
import test_docs
from conftest import wait_until
from node_project import ROOT, Project, url

README = (ROOT / "clients/node/README.md").read_text()
SECTIONS = dict(zip(*[iter(re.split(r"(?m)^## (.*)\n", README)[1:])] * 2))
SERVERS = ["Express", "Fastify", "Hono", "Web `Request`"]


def block(section, info):
    (text,) = [fence.text for fence in test_docs.fences(SECTIONS[section]) if fence.info == info]
    return text


@pytest.fixture(scope="module")
def place(cluster):
    """A database as the README makes it, and the key that this printed."""
    cluster.execute("CREATE DATABASE node_readme")
    try:
        (sql,) = [fence.text for fence in test_docs.fences(README) if fence.info == "sql"]
        printed = cluster.psql(sql, "node_readme")
        yield "node_readme", re.search(r"ks_live_\w+", printed)[0]
    finally:
        cluster.execute("DROP DATABASE node_readme WITH (FORCE)")
        cluster.execute("DROP ROLE IF EXISTS app")


@pytest.fixture
def project(cluster, place, tmp_path):
    project = Project(tmp_path, "node_readme", url(cluster, place[0], "app"))
    project.environment |= {"PGHOST": str(cluster.dir), "PGPORT": str(cluster.port), "PGUSER": "app", "PGDATABASE": place[0], "KEY": place[1]}
    return project


@contextmanager
def serving(project, section):
    port = examples.free_port()
    project.environment["PORT"] = str(port)
    (project.folder / "app.js").write_text(block(section, "js"))
    with open(project.folder / "log", "w") as log, project.start("node", "app.js", stdout=log) as process:
        try:
            wait_until(lambda: process.poll() is not None or listens(port))
            assert process.poll() is None, (project.folder / "log").read_text()
            yield
            assert process.poll() is None and project.environment["KEY"] not in (project.folder / "log").read_text()
        finally:
            process.terminate()


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run(project, line):
    return subprocess.run(["bash", "-c", line], env=project.environment, text=True, capture_output=True, timeout=60).stdout


@pytest.mark.parametrize("section", SERVERS)
def test_a_server(project, section, cluster):
    cluster.execute("TRUNCATE photo", "node_readme")
    lines = block("Express", "sh").splitlines()
    with serving(project, section):
        without, keys, made, found = (run(project, line) for line in lines)
    assert without.startswith("HTTP/1.1 401") and "missing_authorization" in without
    assert '"keys"' in keys and "photos:read" in keys
    assert made == '{"name":"sunset"}' and found == '[{"name":"sunset"}]'


def test_people(project, cluster, place):
    dbname, _ = place
    cluster.execute("SELECT keysmith.grant_access('app', 'host')", dbname)
    cluster.execute("SELECT keysmith.define_role('default', 'reader', '{photos:read}')", dbname)
    cluster.execute("SELECT keysmith.set_member('acme', 'ann@acme.example', 'reader')", dbname)
    with serving(project, "People"):
        assert run(project, "curl -s -H 'Cookie: session=4f1c' http://127.0.0.1:$PORT/photos").startswith("[")
        assert "missing_authorization" in run(project, "curl -s -H 'Cookie: session=other' http://127.0.0.1:$PORT/photos")


def test_errors(project):
    program = block("Errors", "js")
    (project.folder / "errors.js").write_text(program)
    shown = re.findall(r"// (.*)", program)
    assert [line.rstrip() for line in project.run("node", "errors.js").splitlines()] == shown


def test_jobs(project):
    (project.folder / "job.js").write_text(block("Jobs", "js"))
    assert re.fullmatch(r"\d+ photos\n", project.run("node", "job.js"))
    project.environment["KEY"] = "ks_live_nope"
    assert project.run("node", "job.js") == "401 invalid_api_key\n"


def test_every_block_is_executed():
    blocks = [fence for fence in test_docs.fences(README) if fence.info == "js"]
    assert len(blocks) == len(SERVERS) + len(["People", "Errors", "Jobs"])


def test_its_options_are_those_of_the_package():
    listed = re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in SECTIONS["Options"].splitlines() if line.startswith("| `")))
    known = re.search(r"KNOWN = new Set\(\[(.*?)\]\)", (ROOT / "clients/node/src/options.js").read_text(), re.S)[1]
    assert sorted(listed) == sorted(re.findall(r"'(\w+)'", known))
