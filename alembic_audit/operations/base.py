"""The base of every operation of this package."""

import alembic  # noqa: F401  (first, or the order of imports decides whether this module loads)
from alembic.operations.ops import MigrateOperation


class AuditOperation(MigrateOperation):
    """An operation of this package.

    A dispatcher over operations names this class once for all of them, as Alembic's own do: they
    look an operation up by its method resolution order.
    """
