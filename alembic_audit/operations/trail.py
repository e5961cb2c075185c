"""Operations on function and triggers: start, end, change, rename and restore a trail.

An operation that is on both sides holds (old, new), and reverse() swaps them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import alembic  # noqa: F401  (first, or the order of imports decides whether this module loads)
from alembic.operations import Operations
from alembic.operations.ops import MigrateOperation, ModifyTableOps

from alembic_audit.errors import SpecError
from alembic_audit.spec import AuditSpec
from alembic_audit.states import AuditState


def display_name(spec: AuditSpec) -> str:
    """Return the audited table as messages call it."""
    return f"{spec.schema}.{spec.table}" if spec.schema else spec.table


def _spec(kwargs: Mapping[str, Any]) -> AuditSpec:
    try:
        return AuditSpec.from_kwargs(**kwargs)
    except TypeError as error:
        raise SpecError(f"{error}; see help(op.create_audit_trigger)") from error


def _state(kwargs: dict[str, Any]) -> AuditState:
    found = _statements("found", kwargs.pop("found", ()))
    missing = kwargs.pop("audit_table_missing", False)
    return AuditState(_spec(kwargs), found, bool(missing))


def _statements(what: str, given: Iterable[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        raise SpecError(f"{what} must be a list of SQL statements, found one string")
    return tuple(given)


def _reasons(state: AuditState) -> list[str]:
    return [f"{drift.kind}: {drift.detail}" for drift in state.drift]


@Operations.register_operation("create_audit_trigger")
class CreateAuditTriggerOp(MigrateOperation):
    """Start a trail: function, triggers, privileges.

    Attributes:
        snapshot: Rows may be there already, of which the trail holds nothing.
    """

    def __init__(self, state: AuditState, *, snapshot: bool = False) -> None:
        self.state = state
        self.snapshot = snapshot

    @classmethod
    def create_audit_trigger(
        cls,
        operations: Operations,
        /,  # "operations" is an argument of the spec too
        table_name: str,
        *,
        schema: str | None = None,
        found: Iterable[str] = (),
        **spec: Any,
    ) -> None:
        """Start recording the changes of a table; the audit table must exist.

        Locks the table SHARE ROW EXCLUSIVE. Nothing that exists is replaced.

        Args:
            operations: Given by Alembic.
            table_name: The table to audit.
            schema: Its schema; None is the connection's default schema.
            found: SQL run afterwards; autogenerate writes here what it found changed by hand.
            **spec: ``columns`` (required), ``key``, ``audit_table``, ``audit_schema``,
                ``function``, ``trigger``, ``hash_columns``, ``ignore_columns``,
                ``session_settings`` (name to ``"required"`` or ``"nullable"``),
                ``setting_columns``, ``operations``, ``audit_columns``, ``skip_unchanged``,
                ``changed_columns``, ``always``, ``owner``, ``partitions``, ``append_only``,
                ``level``, ``sparse_columns``, ``version``.

        Raises:
            SpecError: The arguments describe no audit trigger.
        """
        operations.invoke(
            cls(_state({"table": table_name, "schema": schema, "found": found, **spec}))
        )

    def reverse(self) -> "DropAuditTriggerOp":
        """Return the operation that ends the trail."""
        return DropAuditTriggerOp.from_state(self.state)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` prints."""
        return ("create_audit_trigger", display_name(self.state.spec), self.state.spec.audit_table)


@Operations.register_operation("drop_audit_trigger")
class DropAuditTriggerOp(MigrateOperation):
    """End a trail: triggers and function go, the records stay."""

    def __init__(
        self,
        table_name: str,
        *,
        schema: str | None = None,
        audit_table: str | None = None,
        audit_schema: str | None = None,
        function: str | None = None,
        state: AuditState | None = None,
        restore: Sequence[str] = (),
    ) -> None:
        # The names' defaults are those of the create; a spec wants a column to record.
        names = AuditSpec.from_kwargs(
            table_name,
            schema=schema,
            audit_table=audit_table,
            audit_schema=audit_schema,
            function=function,
            columns=["*"],
        )
        self.table_name = table_name
        self.schema = schema
        self.audit_table = names.audit_table
        self.audit_schema = names.audit_schema
        self.function = names.function
        self.state = state
        self.restore = tuple(restore)

    @classmethod
    def from_state(cls, state: AuditState) -> "DropAuditTriggerOp":
        """Return the operation that ends a trail and knows what it was."""
        spec = state.spec
        return cls(
            spec.table,
            schema=spec.schema,
            audit_table=spec.audit_table,
            audit_schema=spec.audit_schema,
            function=spec.function,
            state=state,
            restore=state.restore,
        )

    @classmethod
    def drop_audit_trigger(
        cls,
        operations: Operations,
        table_name: str,
        *,
        schema: str | None = None,
        audit_table: str | None = None,
        audit_schema: str | None = None,
        function: str | None = None,
    ) -> None:
        """Stop recording the changes of a table; its records stay.

        Locks the table ACCESS EXCLUSIVE.

        Args:
            operations: Given by Alembic.
            table_name: The audited table.
            schema: Its schema; None is the connection's default schema.
            audit_table: The audit table; a function that writes another one is not dropped.
            audit_schema: Schema of audit table and function; None is *schema*.
            function: The function; None is the default name.

        Raises:
            SpecError: A name cannot be an identifier.
        """
        operations.invoke(
            cls(
                table_name,
                schema=schema,
                audit_table=audit_table,
                audit_schema=audit_schema,
                function=function,
            )
        )

    def reverse(self) -> MigrateOperation:
        """Return the operation that starts the trail again, as it was found."""
        if self.restore:
            return RestoreAuditTriggerOp(self.table_name, self.restore, schema=self.schema, of=self)
        if self.state is None:
            raise ValueError("operation is not reversible; what the trigger recorded is not known")
        return CreateAuditTriggerOp(self.state)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` prints."""
        name = f"{self.schema}.{self.table_name}" if self.schema else self.table_name
        reasons = _reasons(self.state) if self.state else []
        return ("drop_audit_trigger", name, self.audit_table, *([reasons] if reasons else []))


@Operations.register_operation("replace_audit_trigger")
class ReplaceAuditTriggerOp(MigrateOperation):
    """Turn one state of a trail into another.

    Attributes:
        snapshot: The migration changes rows in a way that fires no trigger.
    """

    def __init__(self, old: AuditState, new: AuditState, *, snapshot: bool = False) -> None:
        self.old = old
        self.new = new
        self.snapshot = snapshot

    @classmethod
    def replace_audit_trigger(
        cls,
        operations: Operations,
        /,  # "operations" is an argument of the spec too
        table_name: str,
        *,
        replaces: Mapping[str, Any],
        schema: str | None = None,
        found: Iterable[str] = (),
        **spec: Any,
    ) -> None:
        """Change what is recorded of a table, and under which names.

        A trail whose audit table, function or column of a setting has another name than before
        moves: they are renamed and keep their records and privileges. Locks nothing where only the
        function differs, else the table ACCESS EXCLUSIVE; what is renamed, ACCESS EXCLUSIVE.

        Args:
            operations: Given by Alembic.
            table_name: The audited table.
            replaces: The arguments that were other than now, with their former values.
            schema: Its schema; None is the connection's default schema.
            found: SQL run afterwards; autogenerate writes here what it found changed by hand.
            **spec: As of ``create_audit_trigger``, complete.

        Raises:
            SpecError: The arguments describe no audit trigger.
        """
        new = _state({"table": table_name, "schema": schema, "found": found, **spec})
        old = _state({"table": table_name, **new.spec.full_kwargs(), **replaces})
        operations.invoke(cls(old, new))

    def reverse(self) -> "ReplaceAuditTriggerOp":
        """Return the operation that puts the former state back."""
        return ReplaceAuditTriggerOp(self.new, self.old)

    def replaces(self) -> dict[str, Any]:
        """Return the arguments that differ, with their old values."""
        new = self.new.spec.full_kwargs()
        differ: dict[str, Any] = {
            name: value for name, value in self.old.spec.full_kwargs().items() if value != new[name]
        }
        if self.old.found:
            differ["found"] = list(self.old.found)
        if self.old.audit_table_missing:
            differ["audit_table_missing"] = True
        return differ

    def reasons(self) -> list[str]:
        """Return why the trigger is replaced: a line per drift and per changed argument."""
        lines = _reasons(self.old)
        new = self.new.spec.full_kwargs()
        for name, value in self.replaces().items():
            if name in new:
                lines.append(f"{name}: {value!r} becomes {new[name]!r}")
        return lines or ["as it was found" if self.new.found else "compiled anew: a type changes"]

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` prints: table, what differs, and the remedy."""
        return (
            "replace_audit_trigger",
            display_name(self.new.spec),
            self.reasons(),
            "mend it: alembic revision --autogenerate, then alembic upgrade head",
        )


@Operations.register_operation("restore_audit_trigger")
class RestoreAuditTriggerOp(MigrateOperation):
    """Put function and triggers back that no arguments describe, as they were found."""

    def __init__(
        self,
        table_name: str,
        statements: Iterable[str],
        *,
        schema: str | None = None,
        of: DropAuditTriggerOp | None = None,
    ) -> None:
        self.table_name = table_name
        self.statements = _statements("statements", statements)
        self.schema = schema
        self.of = of

    @classmethod
    def restore_audit_trigger(
        cls,
        operations: Operations,
        table_name: str,
        statements: Iterable[str],
        *,
        schema: str | None = None,
    ) -> None:
        """Run statements as they are written; autogenerate writes them into a downgrade.

        Args:
            operations: Given by Alembic.
            table_name: The table whose trigger it was.
            statements: SQL, one statement an item.
            schema: The table's schema; None is the connection's default schema.
        """
        operations.invoke(cls(table_name, statements, schema=schema))

    def reverse(self) -> DropAuditTriggerOp:
        """Return the drop that this takes back."""
        if self.of is None:
            raise ValueError("operation is not reversible; the names of the objects are not known")
        return self.of

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` prints."""
        return ("restore_audit_trigger", self.schema, self.table_name)


@Operations.register_operation("rename_audited_table")
class RenameAuditedTableOp(MigrateOperation):
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
        new = _spec({"table": new_table_name, "schema": schema, **spec})
        former = {
            name: value
            for name, value in new.full_kwargs().items()
            if name not in ("audit_table", "function", "trigger")
        }
        old = _spec({"table": old_table_name, **former, **(replaces or {})})
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
class RenameAuditedColumnOp(MigrateOperation):
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
        new = _spec({"table": table_name, "schema": schema, **spec})
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
        old = _spec({"table": table_name, **former})
        operations.invoke(cls(old, new, old_column_name, new_column_name))

    def reverse(self) -> "RenameAuditedColumnOp":
        """Return the operation that gives the former name back."""
        return RenameAuditedColumnOp(self.new, self.old, self.renamed, self.column)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` prints."""
        return ("rename_audited_column", display_name(self.new), self.column, self.renamed)


@Operations.register_operation("snapshot_audit_table")
class SnapshotAuditTableOp(MigrateOperation):
    """Record the rows that are there."""

    def __init__(self, spec: AuditSpec, *, batch_size: int | None = None) -> None:
        if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
            raise SpecError(
                f"batch_size of snapshot_audit_table is a number of rows, found {batch_size!r}; "
                "write 10_000, or None for one statement"
            )
        self.spec = spec
        self.batch_size = batch_size

    @classmethod
    def snapshot_audit_table(
        cls,
        operations: Operations,
        /,  # "operations" is an argument of the spec too
        table_name: str,
        *,
        schema: str | None = None,
        batch_size: int | None = None,
        **spec: Any,
    ) -> None:
        """Record every row of an audited table as it is, by one ``S`` record each.

        For rows that were there before the trail, and after changes that fire no trigger. Locks the
        table SHARE until the end of the transaction: others read and do not write.

        With ``batch_size`` others write: rows are locked FOR SHARE and recorded in transactions of
        their own, in the order of the key, and only where the last record of a row is another than
        the row. What was begun and stopped goes on where the migration is run again. The
        transaction of the migration is committed before, so let nothing else be in the revision.
        In one statement all the same: offline, without a key, and with ``audit_columns="classic"``.

        Args:
            operations: Given by Alembic.
            table_name: The audited table.
            schema: Its schema; None is the connection's default schema.
            batch_size: How many rows in a transaction; None is all in the migration's own.
            **spec: As of ``create_audit_trigger``, complete.

        Raises:
            SpecError: The arguments describe no audit trigger.
        """
        found = _spec({"table": table_name, "schema": schema, **spec})
        operations.invoke(cls(found, batch_size=batch_size))

    def reverse(self) -> MigrateOperation:
        """Return an empty container: what was recorded stays recorded."""
        return nothing(self.spec.table)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` prints."""
        return ("snapshot_audit_table", display_name(self.spec))


def nothing(table_name: str) -> ModifyTableOps:
    """Return an operation that renders to no line, runs nothing and is no difference."""
    return ModifyTableOps(table_name, [])
