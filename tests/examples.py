"""Starts the applications of examples/, each with the packages that scripts/examples.sh
fetched."""

import http.client
import json
import os
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import cluster as clusters

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "examples"
START_SECONDS = 60


def require(packages):
    """Skips the test if a registry did not return these packages. Returns their folder."""
    place = PACKAGES / packages
    if (place / "failed").exists():
        pytest.skip((place / "failed").read_text().strip())
    assert (place / "done").exists(), f"the packages {packages} are not there: run scripts/examples.sh"
    return place


@dataclass
class Example:
    name: str
    program: str
    packages: str | None

    @property
    def source(self):
        return ROOT / "examples" / self.name / self.program

    def command(self):
        program = {"python": str(PACKAGES / "python/venv/bin/python"), "ruby": "ruby"}.get(
            self.packages or "ruby", "node")
        return [program, str(self.source)]

    def require(self):
        """Skips the test if a registry did not return the example's packages."""
        if self.packages is not None:
            require(self.packages)


FRAMEWORKS = [Example("fastapi", "app.py", "python"), Example("django", "app.py", "python"),
              Example("express", "app.js", "express"),
              Example("postgraphile", "app.js", "postgraphile"), Example("ruby", "app.rb", None)]
LIVE = Example("live", "app.py", "python")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(example, cluster, dbname, folder, **settings):
    """The application, as a process that connects to the database as the role app."""
    example.require()
    port = free_port()
    packages = PACKAGES / (example.packages or "") / "node_modules"
    own = folder / "node_modules"
    own.mkdir()
    (own / "keysmith").symlink_to(ROOT / "clients/node")
    environment = clusters.environment() | settings | {
        "PGHOST": str(cluster.dir), "PGPORT": str(cluster.port), "PGUSER": "app",
        "PGDATABASE": dbname, "PORT": str(port),
        "PYTHONPATH": str(ROOT / "clients/python/src"), "NODE_PATH": f"{own}:{packages}"}
    log = folder / "log"
    with open(log, "w") as output:
        process = subprocess.Popen(example.command(), env=environment, cwd=folder,
                                   stdout=output, stderr=output)
    try:
        for _ in range(START_SECONDS * 10):
            assert process.poll() is None, f"{example.name} did not start:\n{log.read_text()}"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        else:
            raise AssertionError(f"{example.name} does not listen:\n{log.read_text()}")
        yield port, log
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass
class Response:
    status: int
    headers: dict
    body: dict

    @property
    def code(self):
        """Where the application has keysmith's code: each framework has a different place."""
        (error,) = self.body.get("errors") or [self.body.get("detail") or self.body]
        return error.get("code")


class Rest:
    """The actions of a client of the applications with routes."""

    def __init__(self, port):
        self.port = port

    def send(self, method, path, key=None, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        if body is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps(body)
        connection.request(method, path, body, {name.replace("_", "-"): value
                                                for name, value in headers.items()})
        response = connection.getresponse()
        text = response.read()
        connection.close()
        is_json = response.headers.get_content_type() == "application/json"
        return Response(response.status, response.headers, json.loads(text) if is_json else {})

    def list(self, key=None, **headers):
        return self.send("GET", "/photos", key, **headers)

    def add(self, key, name):
        return self.send("POST", "/photos", key, {"name": name})

    def names(self, key, **headers):
        response = self.list(key, **headers)
        assert response.status == 200, response
        return response.body["photos"]

    def added(self, key, name):
        return self.add(key, name).status == 201

    def unlisted(self, key, db):
        """Sends a request for which the application has a handler but no route."""
        return self.send("GET", "/internal", key)

    def fail(self, key):
        """Sends a request that fails after the key was signed in."""
        return self.send("POST", "/photos", key, {}).status

    requests = {("GET", "/photos"), ("POST", "/photos")}


class GraphQL(Rest):
    """The same for PostGraphile."""

    def query(self, query, key=None, **headers):
        return self.send("POST", "/graphql", key, {"query": query}, **headers)

    def list(self, key=None, **headers):
        return self.query("{ allPhotos(orderBy: NAME_ASC) { nodes { name } } }", key, **headers)

    def add(self, key, name):
        return self.query(f'mutation {{ createPhoto(input: {{photo: {{name: "{name}"}}}})'
                          ' { photo { name } } }', key)

    def names(self, key, **headers):
        response = self.list(key, **headers)
        assert response.status == 200 and "errors" not in response.body, response
        return [photo["name"] for photo in response.body["data"]["allPhotos"]["nodes"]]

    def added(self, key, name):
        response = self.add(key, name)
        return response.status == 200 and response.body["data"]["createPhoto"]["photo"] == {"name": name}

    def unlisted(self, key, db):
        """PostGraphile serves only listed operations, so this removes a listing for once."""
        db.call("remove_route", "default", "POST", "/graphql", variant="query")
        try:
            return self.list(key)
        finally:
            db.call("define_route", "default", "POST", "/graphql", "photos:read", variant="query")

    def fail(self, key):
        response = self.query('mutation { createPhoto(input: {photo: {name: "x", tenantId: '
                              '"00000000-0000-0000-0000-000000000000"}}) { photo { name } } }', key)
        return 500 if response.body["errors"] else response.status

    requests = {("POST", "/graphql")}


def client(example, port):
    return (GraphQL if example.name == "postgraphile" else Rest)(port)
