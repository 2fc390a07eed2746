"""A clock over WebSockets, that stops for a client when its key ends.
The server accepts a WebSocket once by its key and keeps it open. It closes it within milliseconds
after the key is revoked, disabled, or loses a needed scope, and when the key expires.
"""

import asyncio
import hashlib
import json
import os
from datetime import UTC, datetime

from psycopg import AsyncConnection, OperationalError, sql
from psycopg.rows import namedtuple_row
from psycopg_pool import AsyncConnectionPool
from websockets.asyncio.server import serve

VERIFY = """
    SELECT ok, status, code, message, key_id::text, tenant, expires_at
    FROM keysmith.verify_digest(%s, scopes => '{clock:read}', ip => %s, weight => %s)"""
POLICY_VIOLATION = 1008

pool = AsyncConnectionPool(min_size=1, max_size=2, open=False)
sessions, checks = set(), set()


class Session:
    """A connection, and what it keeps of its key: the digest to check again by."""

    def __init__(self, digest, address):
        self.digest, self.address = digest, address
        self.connection = self.verdict = self.alarm = None

    async def check(self, weight=0):
        """Checks the key again, and sets a timer for its expiry, which sends no event."""
        async with pool.connection() as database:
            cursor = database.cursor(row_factory=namedtuple_row)
            await cursor.execute(VERIFY, [self.digest, self.address, weight])
            verdict = await cursor.fetchone()
        if self.alarm:
            self.alarm.cancel()
        if verdict.ok:
            self.verdict = verdict
            if verdict.expires_at:
                seconds = (verdict.expires_at - datetime.now(UTC)).total_seconds()
                self.alarm = asyncio.get_running_loop().call_later(max(seconds, 0.01), self.doubt)
        elif self.connection:
            await self.connection.close(POLICY_VIOLATION, verdict.code)
        return verdict

    async def recheck(self):
        try:
            await self.check()
        except OperationalError:
            # Nobody knows whether the key is still good.
            await self.connection.close(POLICY_VIOLATION, "unavailable")

    def doubt(self):
        """Checks, and waits for nothing: a client may be slow to close."""
        task = asyncio.create_task(self.recheck())
        checks.add(task)
        task.add_done_callback(checks.discard)

    def is_meant_by(self, event):
        """Whether an event may concern its key: an event that names no key concerns all of
        them."""
        return (event.get("key_id") in (None, self.verdict.key_id)
                and event.get("tenant") in (None, self.verdict.tenant))


async def let_in(connection, request):
    """Answers a handshake: returns nothing if it may go on."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    digest = hashlib.sha256(key.encode()).digest() if scheme.lower() == "bearer" else None
    session = Session(digest, connection.remote_address[0])
    verdict = await session.check(weight=1)
    if not verdict.ok:
        return connection.respond(verdict.status, f"{verdict.code}: {verdict.message}\n")
    connection.session = session


async def tell_the_time(connection):
    session = connection.session
    session.connection = connection
    sessions.add(session)
    try:
        # An event of a change since the handshake reached nobody.
        await session.recheck()
        while True:
            await connection.send(datetime.now(UTC).isoformat())
            await asyncio.sleep(0.1)
    finally:
        sessions.discard(session)
        if session.alarm:
            session.alarm.cancel()


def read(payload):
    """The names in an event; none if it is not a valid event, which may then concern any key."""
    try:
        event = json.loads(payload)
    except ValueError:
        event = None
    return event if isinstance(event, dict) else {}


async def listen():
    """Checks the sessions whose key an event may concern. An event is only a hint: anyone who
    knows the channel can send one."""
    while True:
        try:
            async with await AsyncConnection.connect(autocommit=True) as database:
                cursor = await database.execute("SELECT keysmith.event_channel()")
                channel, = await cursor.fetchone()
                await database.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                # Events that were sent while nobody listened are lost: check all sessions.
                for session in sessions:
                    session.doubt()
                async for notice in database.notifies():
                    event = read(notice.payload)
                    for session in sessions:
                        if session.is_meant_by(event):
                            session.doubt()
        except OperationalError:
            await asyncio.sleep(1)


async def main():
    async with pool, serve(tell_the_time, "127.0.0.1", int(os.environ["PORT"]), process_request=let_in):
        await listen()


if __name__ == "__main__":
    asyncio.run(main())
