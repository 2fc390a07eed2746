"""Photos of each tenant, by the tenant's API keys."""

import os

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict
from sqlalchemy import select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from keysmith.fastapi import KeysmithMiddleware, Session
from models import Photo

sessions = async_sessionmaker(create_async_engine(os.environ["DATABASE_URL"]))
app = FastAPI(title="Photos")
app.add_middleware(KeysmithMiddleware, sessions=sessions)


class NewPhoto(BaseModel):
    name: str


class ShownPhoto(NewPhoto):
    model_config = ConfigDict(from_attributes=True)
    id: int


@app.get("/v1/photos", response_model=list[ShownPhoto])
async def photos(db: Session):
    return (await db.scalars(select(Photo).order_by(Photo.id))).all()


@app.post("/v1/photos", status_code=201, response_model=ShownPhoto)
async def add(new: NewPhoto, db: Session):
    photo = Photo(name=new.name)
    db.add(photo)
    await db.flush()
    return photo


async def found(id: int, db: Session):
    return await db.get(Photo, id) or not_found()


def not_found():
    raise HTTPException(404, "There is no such photo.")


@app.get("/v1/photos/{id}", response_model=ShownPhoto)
async def show(id: int, db: Session):
    return await found(id, db)


@app.patch("/v1/photos/{id}", response_model=ShownPhoto)
async def rename(id: int, new: NewPhoto, db: Session):
    photo = await found(id, db)
    photo.name = new.name
    return photo


@app.delete("/v1/photos/{id}", status_code=204)
async def delete(id: int, db: Session):
    await db.delete(await found(id, db))
