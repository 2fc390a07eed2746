"""A real uvicorn in a thread, and requests to it by real HTTP."""

import http.client
import json
import socket
import threading
from contextlib import contextmanager


@contextmanager
def over_http(app, **config):
    """Yields a function that sends requests to the application, and its port."""
    import uvicorn

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, **{"log_level": "debug", "lifespan": "on"} | config))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    port = listening.getsockname()[1]

    def send(method, path, key=None, body=None, raw=False, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        if body is not None and not isinstance(body, (str, bytes)):
            body = json.dumps(body)
            headers.setdefault("Content_Type", "application/json")
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return Response(response.status, {name.lower(): value for name, value in response.getheaders()}, content)

    send.port = port
    try:
        while not server.started and thread.is_alive():
            thread.join(0.02)
        assert server.started
        yield send
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


class Response:
    def __init__(self, status, headers, content):
        self.status, self.headers, self.content = status, headers, content

    @property
    def json(self):
        return json.loads(self.content)
