"""The operation that says who changes rows in a migration."""

from typing import Any

import alembic  # noqa: F401  (first, or the order of imports decides whether this module loads)
from alembic.operations import Operations
from alembic.operations.ops import MigrateOperation

from alembic_audit.operations.base import AuditOperation
from alembic_audit.operations.trail import nothing


@Operations.register_operation("set_audit_context")
class SetAuditContextOp(AuditOperation):
    """Give session settings their values until the end of the transaction."""

    def __init__(self, **given: Any) -> None:
        from alembic_audit import values  # a migration without this operation does not need it

        self.values = values.checked(given)

    @classmethod
    def set_audit_context(cls, operations: Operations, /, **given: Any) -> None:
        """Set session settings until the end of the transaction, so that rows are attributed.

        They hold over those of ``context.configure(audit_context=...)``.

        Args:
            operations: Given by Alembic.
            **given: Settings, without ``audit.``, and their values; None clears.

        Raises:
            SettingError: A name or value is wrong; nothing was sent.
        """
        operations.invoke(cls(**given))

    def reverse(self) -> MigrateOperation:
        """Return an empty container: the settings are gone with the transaction."""
        return nothing("")

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` prints."""
        return ("set_audit_context", self.values)
