"""Operations that rename: a table or a column, with everything of its trail.

An operation holds (old, new), and reverse() swaps them.
"""

from collections.abc import Mapping
from typing import Any

import alembic  # noqa: F401  (first, or the order of imports decides whether this module loads)
from alembic.operations import Operations

from alembic_audit.errors import SpecError
from alembic_audit.operations.base import AuditOperation
from alembic_audit.operations.trail import display_name, spec_of
from alembic_audit.spec import AuditSpec


@Operations.register_operation("rename_audited_table")
class RenameAuditedTableOp(AuditOperation):
    """Rename a table and everything of its trail."""

    def __init__(self, old: AuditSpec, new: AuditSpec) -> None:
        self.old = old
        self.new = new

    @classmethod
    def rename_audited_table(
        cls,
        operations: Operations,
        /,  # "operations" is an argument of the spec too
        old_table_name: str,
        new_table_name: str,
        *,
        schema: str | None = None,
        replaces: Mapping[str, Any] | None = None,
        **spec: Any,
    ) -> None:
        """Rename an audited table; its trail goes on under the names of the new one.

        Renamed are the table, the audit table, their indexes and sequences that bear the table's
        name, the function and the triggers. Locks both tables ACCESS EXCLUSIVE. Refused before
        anything changed where the trail is not the one that the arguments describe.

        Args:
            operations: Given by Alembic.
            old_table_name: What the table is called.
            new_table_name: What it shall be called.
            schema: Its schema; None is the connection's default schema.
            replaces: The arguments that were other before, with their former values; names of
                audit table, function and trigger where they were not the default ones.
            **spec: As of ``create_audit_trigger``, complete, as they are afterwards.

        Raises:
            SpecError: The arguments describe no audit trigger.
        """
        new = spec_of({"table": new_table_name, "schema": schema, **spec})
        former = {
            name: value
            for name, value in new.full_kwargs().items()
            if name not in ("audit_table", "function", "trigger")
        }
        old = spec_of({"table": old_table_name, **former, **(replaces or {})})
        if old.table == new.table:
            raise SpecError(f"rename_audited_table renames {old.table!r} to itself")
        operations.invoke(cls(old, new))

    def reverse(self) -> "RenameAuditedTableOp":
        """Return the operation that gives the former names back."""
        return RenameAuditedTableOp(self.new, self.old)

    def replaces(self) -> dict[str, Any]:
        """Return the former values of what differs, beside default names."""
        new = self.new.full_kwargs()
        old = self.old
        default = AuditSpec.from_kwargs(
            old.table, schema=old.schema, audit_schema=old.audit_schema, columns=["*"]
        )
        new |= {
            "audit_table": default.audit_table,
            "function": default.function,
            "trigger": default.trigger,
        }
        return {k: v for k, v in old.full_kwargs().items() if v != new[k]}

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` prints."""
        return ("rename_audited_table", display_name(self.old), self.new.table)


@Operations.register_operation("rename_audited_column")
class RenameAuditedColumnOp(AuditOperation):
    """Rename a column of an audited table, and where its history is."""

    def __init__(self, old: AuditSpec, new: AuditSpec, column: str, renamed: str) -> None:
        self.old = old
        self.new = new
        self.column = column
        self.renamed = renamed

    @classmethod
    def rename_audited_column(
        cls,
        operations: Operations,
        /,  # "operations" is an argument of the spec too
        table_name: str,
        old_column_name: str,
        new_column_name: str,
        *,
        schema: str | None = None,
        **spec: Any,
    ) -> None:
        """Rename a column of an audited table; its history goes on under the new name.

        Locks both tables ACCESS EXCLUSIVE. Refused before anything changed where the trail is not
        the one that the arguments describe.

        Args:
            operations: Given by Alembic.
            table_name: The audited table.
            old_column_name: What the column is called.
            new_column_name: What it shall be called.
            schema: Schema of the table; None is the connection's default schema.
            **spec: As of ``create_audit_trigger``, complete, as they are afterwards.

        Raises:
            SpecError: The arguments describe no audit trigger, or none that records the column.
        """
        new = spec_of({"table": table_name, "schema": schema, **spec})
        if new_column_name not in new.stored or old_column_name in new.stored:
            raise SpecError(
                f"rename_audited_column renames {old_column_name!r} to {new_column_name!r}, and "
                f"columns=[...] must hold the new name and not the old: found {list(new.stored)}; "
                "a column that is not recorded is renamed by op.alter_column"
            )
        former = new.full_kwargs()
        for name in ("key", "columns", "hash_columns", "ignore_columns", "sparse_columns"):
            former[name] = [
                old_column_name if column == new_column_name else column for column in former[name]
            ]
        former["as_text"] = {
            old_column_name if column == new_column_name else column: kind
            for column, kind in former["as_text"].items()
        }
        old = spec_of({"table": table_name, **former})
        operations.invoke(cls(old, new, old_column_name, new_column_name))

    def reverse(self) -> "RenameAuditedColumnOp":
        """Return the operation that gives the former name back."""
        return RenameAuditedColumnOp(self.new, self.old, self.renamed, self.column)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` prints."""
        return ("rename_audited_column", display_name(self.new), self.column, self.renamed)
