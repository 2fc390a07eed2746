"""Who may call what, and the endpoints by which customers manage their keys."""

from alembic import op

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    op.execute("""
        SELECT keysmith.define_route('default', method, pattern, scope)
        FROM (VALUES ('GET', '/v1/photos', 'photos:read'), ('POST', '/v1/photos', 'photos:write'),
                     ('GET', '/v1/photos/{id}', 'photos:read'), ('PATCH', '/v1/photos/{id}', 'photos:write'),
                     ('DELETE', '/v1/photos/{id}', 'photos:write')) AS r (method, pattern, scope)""")
    op.execute("""
        SELECT keysmith.define_endpoint('default', method, pattern, operation)
        FROM (VALUES ('POST', '/v1/keys', 'mint'), ('GET', '/v1/keys', 'list_keys'),
                     ('DELETE', '/v1/keys/{id}', 'revoke'), ('POST', '/v1/keys/{id}/rotate', 'rotate'),
                     ('GET', '/v1/usage', 'usage_totals')) AS e (method, pattern, operation)""")
    op.execute("""SELECT keysmith.alter_keyspace('default', '{"unlisted_routes": "refuse"}')""")


def downgrade() -> None:
    op.execute("SELECT keysmith.remove_endpoint(keyspace, method, pattern) FROM keysmith.endpoints")
    op.execute("SELECT keysmith.remove_route(keyspace, method, pattern) FROM keysmith.routes")
