"""Photos of each tenant: FastAPI, over a pool of psycopg 3."""

import os
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from keysmith.asgi import KeysmithMiddleware
from keysmith.fastapi import Connection
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel

pool = AsyncConnectionPool(min_size=1, max_size=2, open=False)


@asynccontextmanager
async def lifespan(app: FastAPI):
    async with pool:
        yield


app = FastAPI(lifespan=lifespan)
# keysmith: from here
app.add_middleware(KeysmithMiddleware, pool=pool)
# keysmith: to here


class Photo(BaseModel):
    name: str


@app.get("/photos")
async def photos(db: Connection):
    cursor = await db.execute("SELECT name FROM photo ORDER BY name")
    return {"photos": [name for name, in await cursor.fetchall()]}


@app.post("/photos", status_code=201)
async def add(photo: Photo, db: Connection):
    await db.execute("INSERT INTO photo (name) VALUES (%s)", [photo.name])
    return {"name": photo.name}


@app.get("/internal")
async def internal():
    return {"internal": True}


if __name__ == "__main__":
    # The database finds the client's address, from the peer's and keysmith.trusted_proxies.
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning", proxy_headers=False)
