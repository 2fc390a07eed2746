"""Clients of the application: the curl commands of the pages, and requests like them."""

import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cluster as clusters

HERE = Path(__file__).resolve().parent


class Like:
    """Equal to every text of a form."""

    def __init__(self, form):
        self.form = form

    def __eq__(self, other):
        return isinstance(other, str) and re.fullmatch(self.form, other) is not None

    def __repr__(self):
        return f"<like {self.form}>"


TIME = Like(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
UUID = Like(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TEXT = Like(r".+")


@dataclass
class Answer:
    """With all its headers, except those about its length."""
    status: int
    headers: dict
    body: object


JSON = {"content-type": "application/json"}
NOT_STORED = JSON | {"cache-control": "no-store"}
MISSING, MALFORMED, INVALID = ({"www-authenticate": f"Bearer {parameter}"} for parameter in (
    'realm="api"', 'error="invalid_request"', 'error="invalid_token"'))


def plain(status, body, **headers):
    return Answer(status, JSON | headers, body)


def shown_once(status, body):
    """An answer that shows a key."""
    return Answer(status, NOT_STORED, body)


def refusal(status, code, headers={}, message=TEXT, **more):
    return Answer(status, NOT_STORED | headers, {"code": code, "message": message} | more)


class Site:
    """The application at a port. Every host name leads to it."""

    def __init__(self, port, folder):
        self.port, self.folder, self.sent = port, folder, set()
        (folder / ".curlrc").write_text(
            f'connect-to = "::127.0.0.1:{port}"\nsilent\nshow-error\ninclude\nmax-time = 120\n')

    def filled(self, text, **words):
        """A text of a page, with the words replaced that stand for a key or an id."""
        self.sent.add(text)
        for word, value in words.items():
            assert word in text, f"{word} is not in {text}"
            text = text.replace(f"${word}", value).replace(word, value)
        return text

    def run(self, command, **words):
        """A command as a page has it, but without TLS."""
        command = self.filled(command, **words).replace("https://", "http://")
        environment = {"PATH": os.environ["PATH"], "CURL_HOME": str(self.folder)}
        done = subprocess.run(["bash", "-c", command], env=environment, check=True,
                              stdout=subprocess.PIPE, timeout=180)
        return answer(done.stdout)

    def send(self, request, key=None, body=None, **headers):
        """A request such as "GET https://api.rymi.live/v1/auth/me"."""
        method, url = self.filled(request).split()
        command = ["curl", "-I", url] if method == "HEAD" else ["curl", "-X", method, url]
        if key is not None:
            headers["Authorization"] = f"Bearer {key.api_key}"
        if body is not None:
            headers["Content-Type"] = "application/json"
            command += ["-d", json.dumps(body)]
        for name, value in headers.items():
            command += ["-H", f"{name.replace('_', '-')}: {value}"]
        return self.run(shlex.join(command))


def answer(text):
    head, _, body = text.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(": ")
        assert name.lower() not in headers, f"{name} is there twice"
        headers[name.lower()] = value
    headers.pop("content-length", None)
    headers.pop("transfer-encoding", None)
    is_json = re.fullmatch(r"application/(\w+\+)?json", headers.get("content-type", "")) and body
    return Answer(int(first.split()[1]), headers, json.loads(body) if is_json else body.decode())


@contextmanager
def running(cluster, dbname, folder, server, dashboard):
    """The application, as a process that connects as these roles."""
    environment = clusters.environment() | {
        "SERVER": cluster.dsn(dbname, server), "DASHBOARD": cluster.dsn(dbname, dashboard)}
    with open(folder / "log", "w") as log, subprocess.Popen(
            [sys.executable, str(HERE / "application.py")], env=environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=log, text=True) as process:
        try:
            port = process.stdout.readline().strip()
            assert port, (folder / "log").read_text()
            yield Site(port, folder)
        finally:
            process.kill()
