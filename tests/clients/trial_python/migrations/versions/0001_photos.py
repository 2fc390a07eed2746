"""Photos, isolated by tenant."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None


def upgrade() -> None:
    op.create_table(
        "photo",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), server_default=sa.text("keysmith.current_tenant_id()"), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"))
    op.create_index("ix_photo_tenant_id", "photo", ["tenant_id"])
    op.execute("SELECT keysmith.isolate('photo', 'tenant_id')")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON photo TO photos_app")


def downgrade() -> None:
    op.drop_table("photo")
