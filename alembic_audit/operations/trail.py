"""Operations on function and triggers: start, end, change, restore and fill a trail.

An operation that is on both sides holds (old, new), and reverse() swaps them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import alembic  # noqa: F401  (first, or the order of imports decides whether this module loads)
from alembic.operations import Operations
from alembic.operations.ops import MigrateOperation, ModifyTableOps

from alembic_audit.errors import SpecError
from alembic_audit.operations.base import AuditOperation
from alembic_audit.spec import AuditSpec
from alembic_audit.states import AuditState


def display_name(spec: AuditSpec) -> str:
    """Return the audited table as messages call it."""
    return f"{spec.schema}.{spec.table}" if spec.schema else spec.table


def spec_of(kwargs: Mapping[str, Any]) -> AuditSpec:
    """Return what the arguments of an operation describe.

    Raises:
        SpecError: They describe no audit trigger.
    """
    try:
        return AuditSpec.from_kwargs(**kwargs)
    except TypeError as error:
        raise SpecError(f"{error}; see help(op.create_audit_trigger)") from error


def _state(kwargs: dict[str, Any]) -> AuditState:
    found = _statements("found", kwargs.pop("found", ()))
    missing = kwargs.pop("audit_table_missing", False)
    return AuditState(spec_of(kwargs), found, bool(missing))


def _statements(what: str, given: Iterable[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        raise SpecError(f"{what} must be a list of SQL statements, found one string")
    return tuple(given)


def _reasons(state: AuditState) -> list[str]:
    return [f"{drift.kind}: {drift.detail}" for drift in state.drift]


@Operations.register_operation("create_audit_trigger")
class CreateAuditTriggerOp(AuditOperation):
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
                ``level``, ``sparse_columns``, ``as_text``, ``version``.

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
class DropAuditTriggerOp(AuditOperation):
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
class ReplaceAuditTriggerOp(AuditOperation):
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

        Where another revision, as of a merged branch, left another trail than ``replaces`` says,
        online the difference is applied to that. Offline, and where both change one thing, the
        operation is refused before anything changed.

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
class RestoreAuditTriggerOp(AuditOperation):
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


@Operations.register_operation("snapshot_audit_table")
class SnapshotAuditTableOp(AuditOperation):
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
        found = spec_of({"table": table_name, "schema": schema, **spec})
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
