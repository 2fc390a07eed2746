"""The HTTP side of all five products: an ASGI application around keysmith.serve().

The host of a request names the product. A person's session is a cookie with the names of a
customer and a member; a real application looks them up."""

import json
import os
import socket
import sys
import threading
from http.cookies import SimpleCookie

import psycopg
import uvicorn
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

import stand_ins

PRODUCTS = {"api.rimp.example": "rimp", "api.riskinmind.example": "riskinmind",
            "api.ryvion.ai": "ryvion", "api.clipia.ai": "clipia", "api.rymi.live": "rymi"}
ACT_AS = "SELECT keysmith.act_as(%(tenant)s, %(member)s, %(keyspace)s)"
SERVE = """SELECT * FROM keysmith.serve(%(headers)s, %(method)s, %(path)s, %(body)s,
    keyspace => %(keyspace)s, variant => %(variant)s, spend => %(spend)s, peer => %(peer)s)"""


async def application(scope, receive, send):
    request = read(scope, await whole(receive))
    try:
        role = "DASHBOARD" if "tenant" in request else "SERVER"
        async with await psycopg.AsyncConnection.connect(
                os.environ[role], row_factory=namedtuple_row) as database:
            if role == "DASHBOARD":
                await database.execute(ACT_AS, request)
            answer = await (await database.execute(SERVE, request)).fetchone()
            status, headers, body = answer.status, answer.headers, answer.body
            if not answer.handled:
                status, body = await stand_ins.answer(database, request)
    except psycopg.Error as error:
        print(error, file=sys.stderr)
        status, headers, body = 503, {}, {"code": "unavailable", "message": "Try again later."}
    # Only now: the transaction is committed.
    await respond(send, status, headers, body)


async def whole(receive):
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


def read(scope, body):
    """The parameters of the statements."""
    headers = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    path, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
    request = {
        "keyspace": PRODUCTS[headers["host"][0].partition(":")[0]], "headers": Jsonb(headers),
        "method": scope["method"], "path": f"{path}?{query}" if query else path,
        "body": Jsonb(parsed(body)) if body else None, "peer": scope["client"][0]}
    if session := SimpleCookie("; ".join(headers.get("cookie", []))).get("session"):
        tenant, _, member = session.value.partition("/")
        request |= {"tenant": tenant, "member": member or None}
    return request | stand_ins.facts(request)


def parsed(body):
    """JSON, or else a string, which serve() rejects."""
    try:
        text = body.decode()
        if "\\u0000" in text:
            raise ValueError("PostgreSQL can't store it")
        return json.loads(text, parse_constant=int)
    except ValueError:
        return body.decode("utf-8", "replace").replace("\0", "")


async def respond(send, status, headers, body):
    if body is not None:
        headers = {"Content-Type": "application/json"} | headers
    await send({"type": "http.response.start", "status": status, "headers": [
        (name.encode(), value.encode()) for name, value in headers.items()]})
    content = b"" if body is None else json.dumps(body).encode()
    await send({"type": "http.response.body", "body": content})


def end_with_parent():
    """Whoever started this program holds its standard input open."""
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        threading.Thread(target=end_with_parent, daemon=True).start()
        server = uvicorn.Server(uvicorn.Config(
            application, lifespan="off", log_level="warning", access_log=False, date_header=False,
            server_header=False, proxy_headers=False))
        server.run(sockets=[listening])
