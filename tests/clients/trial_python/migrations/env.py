import os

from alembic import context
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from keysmith.alembic import include_name
from models import Base

engine = create_engine(os.environ["MIGRATIONS_URL"], poolclass=NullPool)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata,
                      include_schemas=True, include_name=include_name)
    with context.begin_transaction():
        context.run_migrations()
