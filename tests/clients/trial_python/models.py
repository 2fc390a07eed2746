from uuid import UUID

from sqlalchemy import Identity, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Photo(Base):
    __tablename__ = "photo"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    tenant_id: Mapped[UUID] = mapped_column(server_default=text("keysmith.current_tenant_id()"), index=True)
    name: Mapped[str]
