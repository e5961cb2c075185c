"""Operations that rename or move: a table or a column, with everything of its trail.

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

    argument = "source_renamed=True"

    def __init__(self, old: AuditSpec, new: AuditSpec, *, source_renamed: bool = False) -> None:
        self.old = old
        self.new = new
        self.source_renamed = source_renamed

    @classmethod
    def rename_audited_table(
        cls,
        operations: Operations,
        /,  # "operations" is an argument of the spec too
        old_table_name: str,
        new_table_name: str,
        *,
        schema: str | None = None,
        source_renamed: bool = False,
        replaces: Mapping[str, Any] | None = None,
        **spec: Any,
    ) -> None:
        """Rename an audited table; its trail goes on under the names of the new one.

        Renamed are the table, the audit table, their indexes and sequences that bear the table's
        name, the function and the triggers. Locks both tables ACCESS EXCLUSIVE. Where the
        trail is another than the arguments describe, online what else it has is kept. Offline, and
        where both change one thing, the operation is refused before anything changed.

        Args:
            operations: Given by Alembic.
            old_table_name: What the table is called.
            new_table_name: What it shall be called.
            schema: Its schema; None is the connection's default schema.
            source_renamed: The table has its new name already, as by ``op.rename_table`` of a
                migration of somebody else's, and the trail follows. In a downgrade too write it
                after the operation that renames the table.
            replaces: The arguments that were other before, with their former values; names of
                audit table, function and trigger where they were not the default ones.
            **spec: As of ``create_audit_trigger``, complete, as they are afterwards.

        Raises:
            SpecError: The arguments describe no audit trigger.
        """
        new = spec_of({"table": new_table_name, "schema": schema, **spec})
        former = _without(new.full_kwargs(), "audit_table", "function", "trigger")
        old = spec_of({"table": old_table_name, **former, **(replaces or {})})
        if old.table == new.table:
            raise SpecError(f"rename_audited_table renames {old.table!r} to itself")
        operations.invoke(cls(old, new, source_renamed=bool(source_renamed)))

    def reverse(self) -> "RenameAuditedTableOp":
        """Return the operation that gives the former names back."""
        return RenameAuditedTableOp(self.new, self.old, source_renamed=self.source_renamed)

    def replaces(self) -> dict[str, Any]:
        """Return the former values of what differs, beside default names."""
        former = _without(self.new.full_kwargs(), "audit_table", "function", "trigger")
        default = AuditSpec.from_kwargs(self.old.table, **former).full_kwargs()
        return {k: v for k, v in self.old.full_kwargs().items() if v != default[k]}

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` prints."""
        return ("rename_audited_table", display_name(self.old), self.new.table)


@Operations.register_operation("move_audited_table")
class MoveAuditedTableOp(AuditOperation):
    """Move a table to another schema, with its trail."""

    argument = "source_moved=True"

    def __init__(self, old: AuditSpec, new: AuditSpec, *, source_renamed: bool = False) -> None:
        self.old = old
        self.new = new
        self.source_renamed = source_renamed

    @classmethod
    def move_audited_table(
        cls,
        operations: Operations,
        /,  # "operations" is an argument of the spec too
        table_name: str,
        new_schema: str | None,
        *,
        schema: str | None = None,
        source_moved: bool = False,
        replaces: Mapping[str, Any] | None = None,
        **spec: Any,
    ) -> None:
        """Move an audited table to another schema; its trail goes on.

        An audit table in the table's own schema moves along, and with it its sequence, its indexes
        and the function; one in ``audit_schema`` stays. Records and privileges are kept. Locks both
        tables ACCESS EXCLUSIVE. Where the
        trail is another than the arguments describe, online what else it has is kept. Offline, and
        where both change one thing, the operation is refused before anything changed.

        Args:
            operations: Given by Alembic.
            table_name: The audited table.
            new_schema: The schema that it moves to, which exists; None is the connection's default
                schema.
            schema: The schema that it moves from; None is the connection's default schema.
            source_moved: The table is in its new schema already, as by ``ALTER TABLE ... SET
                SCHEMA`` of a migration of somebody else's, and the trail follows. In a downgrade
                too write it after the statement that moves the table.
            replaces: The arguments that were other before, with their former values; the name of
                the function where it was not the default one.
            **spec: As of ``create_audit_trigger``, complete, as they are afterwards.

        Raises:
            SpecError: The arguments describe no audit trigger, or no other schema.
        """
        new = spec_of({"table": table_name, "schema": new_schema, **spec})
        old = spec_of({**_before_move(new, schema), **(replaces or {})})
        if old.schema == new.schema:
            raise SpecError(
                f"move_audited_table moves {table_name!r} to the schema that it is in, {schema!r}; "
                "name the former one in schema=..., or write op.replace_audit_trigger"
            )
        operations.invoke(cls(old, new, source_renamed=bool(source_moved)))

    def reverse(self) -> "MoveAuditedTableOp":
        """Return the operation that moves the table back."""
        return MoveAuditedTableOp(self.new, self.old, source_renamed=self.source_renamed)

    def replaces(self) -> dict[str, Any]:
        """Return the former values of what differs, beside the schema and the default name."""
        default = spec_of(_before_move(self.new, self.old.schema)).full_kwargs()
        return {k: v for k, v in self.old.full_kwargs().items() if v != default[k]}

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` prints."""
        return ("move_audited_table", display_name(self.old), self.new.schema)


def _before_move(new: AuditSpec, schema: str | None) -> dict[str, Any]:
    """Arguments of a trail before it moved, where nothing but its schema was another."""
    former = _without(new.full_kwargs(), "function", "schema")
    if new.audit_schema == new.schema:
        del former["audit_schema"]
    return {"table": new.table, **former, "schema": schema}


def _without(kwargs: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in names}


@Operations.register_operation("rename_audited_column")
class RenameAuditedColumnOp(AuditOperation):
    """Rename a column of an audited table, and where its history is."""

    argument = "source_renamed=True"

    def __init__(
        self,
        old: AuditSpec,
        new: AuditSpec,
        column: str,
        renamed: str,
        *,
        source_renamed: bool = False,
    ) -> None:
        self.old = old
        self.new = new
        self.column = column
        self.renamed = renamed
        self.source_renamed = source_renamed

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
        source_renamed: bool = False,
        **spec: Any,
    ) -> None:
        """Rename a column of an audited table; its history goes on under the new name.

        Locks both tables ACCESS EXCLUSIVE. Where the
        trail is another than the arguments describe, online what else it has is kept. Offline, and
        where both change one thing, the operation is refused before anything changed.

        Args:
            operations: Given by Alembic.
            table_name: The audited table.
            old_column_name: What the column is called.
            new_column_name: What it shall be called.
            schema: Schema of the table; None is the connection's default schema.
            source_renamed: The column has its new name already, as by ``op.alter_column`` of a
                migration of somebody else's, and the trail follows. In a downgrade too write it
                after the operation that renames the column.
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
        operations.invoke(
            cls(old, new, old_column_name, new_column_name, source_renamed=bool(source_renamed))
        )

    def reverse(self) -> "RenameAuditedColumnOp":
        """Return the operation that gives the former name back."""
        return RenameAuditedColumnOp(
            self.new, self.old, self.renamed, self.column, source_renamed=self.source_renamed
        )

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` prints."""
        return ("rename_audited_column", display_name(self.new), self.column, self.renamed)
