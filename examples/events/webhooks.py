"""Sends the events of a keyspace to an endpoint, in their order, signed as Standard Webhooks says.

An event is sent again if it may not have arrived: receivers tell copies by their webhook-id.
"""

import base64
import hashlib
import hmac
import json
import os
import sys
import time
import urllib.request
from pathlib import Path

import psycopg
from psycopg import sql


def sign(secret, message_id, timestamp, body):
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{message_id}.{timestamp}.{body}".encode()
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def send(url, secret, message_id, body):
    timestamp = str(int(time.time()))
    headers = {"content-type": "application/json", "webhook-id": message_id, "webhook-timestamp": timestamp,
               "webhook-signature": sign(secret, message_id, timestamp, body)}
    urllib.request.urlopen(urllib.request.Request(url, body.encode(), headers), timeout=15).close()


def remember(file, position):
    new = file.with_suffix(".new")
    with new.open("w") as written:
        written.write(str(position))
        written.flush()
        os.fsync(written.fileno())
    new.replace(file)


def follow(db, keyspace, url, secret, file):
    channel = db.execute("SELECT keysmith.event_channel(%s)", [keyspace]).fetchone()[0]
    db.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
    while True:
        after = int(file.read_text()) if file.exists() else 0
        rows = db.execute("SELECT * FROM keysmith.events_after(%s, %s, 100)", [keyspace, after]).fetchall()
        for position, at, event, key_id, tenant, detail in rows:
            body = {"type": event, "timestamp": at.isoformat(),
                    "data": {"keyspace": keyspace, "key_id": key_id, "tenant": tenant, "detail": detail}}
            message_id = f"{keyspace}_{position}_{int(at.timestamp() * 1_000_000)}"
            send(url, secret, message_id, json.dumps(body, default=str))
            remember(file, position)
        if not rows:
            list(db.notifies(timeout=5, stop_after=1))


def main(keyspace, url, file):
    while True:
        try:
            with psycopg.connect(autocommit=True) as db:
                follow(db, keyspace, url, os.environ["WEBHOOK_SECRET"], Path(file))
        except (psycopg.OperationalError, OSError) as error:
            print(error, file=sys.stderr)
            time.sleep(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
