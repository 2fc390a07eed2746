"""Photos of each tenant: FastAPI, over a pool of psycopg 3."""

import os
from contextlib import asynccontextmanager
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from psycopg import AsyncConnection
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel

# keysmith: from here
AUTHENTICATE = """
    SELECT ok, status, code, message, ceil(extract(epoch FROM retry_after))::int AS retry_after
    FROM keysmith.authenticate(%(headers)s, %(method)s, %(path)s,
        ip => keysmith.client_ip(%(headers)s, %(peer)s, %(proxies)s))"""
PROXIES = os.environ.get("TRUSTED_PROXIES", "{}")


async def as_tenant(request: Request):
    """A transaction in which the request's key is signed in: on this connection everything until
    the response is ready sees only its tenant's rows."""
    async with pool.connection() as connection:
        cursor = connection.cursor(row_factory=namedtuple_row)
        await cursor.execute(AUTHENTICATE, {
            "headers": Jsonb({name: request.headers.getlist(name) for name in request.headers}),
            "method": request.method, "path": request.scope["raw_path"].decode("latin-1"),
            "peer": request.client.host, "proxies": PROXIES})
        verdict = await cursor.fetchone()
        if not verdict.ok:
            headers = {"WWW-Authenticate": "Bearer"} if verdict.status == 401 else {}
            if verdict.retry_after:
                headers["Retry-After"] = str(verdict.retry_after)
            raise HTTPException(verdict.status, {"code": verdict.code, "message": verdict.message}, headers)
        yield connection


# With the scope "function" the commit comes before the response, not after it.
Tenant = Annotated[AsyncConnection, Depends(as_tenant, scope="function")]
# keysmith: to here

pool = AsyncConnectionPool(min_size=1, max_size=2, open=False)


@asynccontextmanager
async def lifespan(app: FastAPI):
    async with pool:
        yield


app = FastAPI(lifespan=lifespan)


class Photo(BaseModel):
    name: str


@app.get("/photos")
async def photos(tenant: Tenant):
    cursor = await tenant.execute("SELECT name FROM photo ORDER BY name")
    return {"photos": [name for name, in await cursor.fetchall()]}


@app.post("/photos", status_code=201)
async def add(photo: Photo, tenant: Tenant):
    await tenant.execute("INSERT INTO photo (name) VALUES (%s)", [photo.name])
    return {"name": photo.name}


@app.get("/internal")
async def internal(tenant: Tenant):
    return {"internal": True}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
