"""Applications in Node that use the package, as processes, and raw HTTP to them."""

import json
import re
import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass

from node_project import HERE, Project, url

SECONDS = 60
SETUP = HERE / "node_apps/setup.sql"


@dataclass
class Answer:
    status: int
    headers: list
    content: bytes

    @property
    def body(self):
        return json.loads(self.content)

    def __getitem__(self, name):
        (value,) = [value for key, value in self.headers if key.lower() == name.lower()] or [None]
        return value


@dataclass
class Server:
    port: int
    log: object
    key: str = None

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)

    def send(self, method, path, body=None, key=True, headers=()):
        """One request on a connection of its own. `key` is a key, true for the usual one, or none."""
        connection = self.connect()
        with connection:
            connection.sendall(self.head(method, path, body, key, headers))
            return read(connection, method)

    def head(self, method, path, body=None, key=True, headers=(), close=True):
        lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers]
        if key:
            lines.append(f"Authorization: Bearer {self.key if key is True else key}")
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
            lines.append("Content-Type: application/json")
        content = body.encode() if isinstance(body, str) else body or b""
        if body is not None and not any(line.lower().startswith(("transfer-encoding", "content-length")) for line in lines):
            lines.append(f"Content-Length: {len(content)}")
        if close:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""]).encode() + content

    def get(self, path, **options):
        return self.send("GET", path, **options)

    def post(self, path, body=None, **options):
        return self.send("POST", path, body, **options)

    def names(self, **options):
        answer = self.get("/photos", **options)
        assert answer.status == 200, answer
        return answer.body["photos"]

    def notices(self):
        """Returns when the process knows of the connections that were closed: it answers this by itself."""
        for _ in range(2):
            with self.connect() as connection:
                connection.sendall(b"NOT HTTP\r\n\r\n")
                assert connection.recv(100).startswith(b"HTTP/1.1 400")

    def logged(self):
        return self.log.read_text()


def read(connection, method="GET"):
    return read_from(connection.makefile("rb"), method)


def read_from(stream, method="GET"):
    """One answer."""
    line = stream.readline()
    assert line, "the connection was closed without an answer"
    status = int(line.split()[1])
    headers = []
    while (line := stream.readline().rstrip(b"\r\n")):
        name, _, value = line.decode("latin-1").partition(":")
        headers.append((name, value.strip()))
    answer = Answer(status, headers, b"")
    if method == "HEAD" or status in (204, 304):
        return answer
    if answer["Transfer-Encoding"] == "chunked":
        while (size := int(stream.readline(), 16)):
            answer.content += stream.read(size)
            stream.readline()
        stream.readline()
    elif answer["Content-Length"] is not None:
        answer.content = stream.read(int(answer["Content-Length"]))
    else:
        answer.content = stream.read()
    return answer


@contextmanager
def running(folder, program, cluster, dbname, **settings):
    """One of the applications, as the role `web`."""
    project = Project(folder, "node_apps", url(cluster, dbname, "web"))
    project.environment |= settings
    log = folder / "log"
    with open(log, "w") as output, project.start("node", program, stdout=output) as process:
        try:
            end = time.monotonic() + SECONDS
            while not (found := re.search(r"^listening on (\d+)$", log.read_text(), re.M)):
                assert process.poll() is None and time.monotonic() < end, log.read_text()
                time.sleep(0.02)
            yield Server(int(found[1]), log)
            assert process.poll() is None, f"the server has ended:\n{log.read_text()}"
        finally:
            process.terminate()
