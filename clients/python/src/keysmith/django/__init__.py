"""For Django: a middleware, operations for migrations, and the default of a column of tenants."""

from .middleware import KeysmithMiddleware
from .schema import CreateExtension, CurrentTenantId, Isolate
from .transactions import acting_as

__all__ = ["CreateExtension", "CurrentTenantId", "Isolate", "KeysmithMiddleware", "acting_as"]

# Migrations that Django writes name these classes by their module.
for _public in (CreateExtension, CurrentTenantId, Isolate):
    _public.__module__ = __name__
