"""What migrations and models say about keysmith."""

from __future__ import annotations

from typing import Any

from django.contrib.postgres import operations
from django.db.migrations.operations.base import Operation
from django.db.models import Func, UUIDField
from django.db.utils import ProgrammingError

NOT_THERE = ('the extension keysmith is not in the database "{database}", and only a superuser can create it: run CREATE '
             'EXTENSION keysmith there as one; for tests, in the template that DATABASES[…]["TEST"]["TEMPLATE"] names')


class CurrentTenantId(Func):
    """The tenant of the request: `tenant_id = models.UUIDField(db_default=CurrentTenantId(), editable=False)`."""

    function = "keysmith.current_tenant_id"
    arity = 0
    output_field = UUIDField()


class CreateExtension(operations.CreateExtension):
    """Creates the extension, unless it is there. Going back keeps it, and with it all keys, unless `drop` is given."""

    def __init__(self, drop: bool = False):
        super().__init__("keysmith")
        self.drop = drop

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        return type(self).__name__, [], {"drop": True} if self.drop else {}

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        try:
            super().database_forwards(app_label, schema_editor, from_state, to_state)
        except ProgrammingError as error:
            if getattr(error.__cause__, "sqlstate", None) != "42501":
                raise
            raise ProgrammingError(NOT_THERE.format(database=schema_editor.connection.settings_dict["NAME"])) from error

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if self.drop:
            super().database_backwards(app_label, schema_editor, from_state, to_state)


class Isolate(Operation):
    """Isolates a model's table by keysmith.isolate: `Isolate("photo", "tenant_id")`."""

    def __init__(self, model_name: str, tenant_column: str, keyspace: str | None = None,
                 environment_column: str | None = None, strict: bool = False):
        self.model_name, self.tenant_column = model_name, tenant_column
        self.keyspace, self.environment_column, self.strict = keyspace, environment_column, strict

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        options = {"keyspace": self.keyspace, "environment_column": self.environment_column, "strict": self.strict}
        return (type(self).__name__, [self.model_name, self.tenant_column],
                {name: value for name, value in options.items() if value})

    def state_forwards(self, app_label: str, state: Any) -> None:
        pass

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        self._call(app_label, schema_editor, to_state, "isolate", self.tenant_column, self.keyspace,
                   self.environment_column, self.strict)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        self._call(app_label, schema_editor, from_state, "release")

    def _call(self, app_label: str, schema_editor: Any, state: Any, function: str, *arguments: Any) -> None:
        model = state.apps.get_model(app_label, self.model_name)
        if self.allow_migrate_model(schema_editor.connection.alias, model) and schema_editor.connection.vendor == "postgresql":
            table = schema_editor.quote_name(model._meta.db_table)
            listed = ", ".join(map(schema_editor.quote_value, (table, *arguments)))
            schema_editor.execute(f"SELECT keysmith.{function}({listed})", params=None)

    def describe(self) -> str:
        return f"Isolate {self.model_name} by its {self.tenant_column}"

    @property
    def migration_name_fragment(self) -> str:
        return f"isolate_{self.model_name.lower()}"
