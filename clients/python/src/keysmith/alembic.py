"""For the environment of Alembic: `context.configure(…, include_name=include_name)`."""

SCHEMAS = {"keysmith", "keysmith_private"}


def include_name(name, type_, parent_names):
    """Keeps autogenerate from dropping the tables of keysmith, which it would find with `include_schemas`."""
    return not (type_ == "schema" and name in SCHEMAS)
