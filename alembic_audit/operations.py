"""The operations: what they hold, how they reverse, what `alembic check` says, how they run.

An operation that is on both sides holds (old, new), and reverse() swaps them. Implementations never
query: online and ``--sql`` send the same statements.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import alembic  # noqa: F401  (first, or the order of imports decides whether this module loads)
from alembic.operations import Operations, ops
from alembic.operations.ops import MigrateOperation

from alembic_audit import ddl, naming, sql
from alembic_audit.catalog import AuditState
from alembic_audit.ddl import verbatim
from alembic_audit.errors import SpecError
from alembic_audit.naming import qualify
from alembic_audit.spec import AuditSpec


def display_name(spec: AuditSpec) -> str:
    """Return the audited table as messages call it."""
    return f"{spec.schema}.{spec.table}" if spec.schema else spec.table


def _state(kwargs: dict[str, Any]) -> AuditState:
    found = _statements(kwargs.pop("found", ()))
    try:
        return AuditState(AuditSpec.from_kwargs(**kwargs), found)
    except TypeError as error:
        raise SpecError(f"{error}; see help(op.create_audit_trigger)") from error


def _statements(found: Iterable[str]) -> tuple[str, ...]:
    if isinstance(found, str):
        raise SpecError("found must be a list of SQL statements, found one string")
    return tuple(found)


@Operations.register_operation("create_audit_trigger")
class CreateAuditTriggerOp(MigrateOperation):
    """Start a trail: function, triggers, privileges."""

    def __init__(self, state: AuditState) -> None:
        self.state = state

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
                ``changed_columns``, ``version``.

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

    def reverse(self) -> CreateAuditTriggerOp:
        """Return the operation that starts the trail again, as it was found."""
        if self.state is None:
            raise ValueError("operation is not reversible; what the trigger recorded is not known")
        return CreateAuditTriggerOp(self.state)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` prints."""
        name = f"{self.schema}.{self.table_name}" if self.schema else self.table_name
        return ("drop_audit_trigger", name, self.audit_table)


@Operations.register_operation("replace_audit_trigger")
class ReplaceAuditTriggerOp(MigrateOperation):
    """Turn one state of a trail into another."""

    def __init__(self, old: AuditState, new: AuditState) -> None:
        self.old = old
        self.new = new

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
        """Change what is recorded of a table.

        Locks nothing where only the function differs, else the table ACCESS EXCLUSIVE.

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
        return {**differ, **({"found": list(self.old.found)} if self.old.found else {})}

    def reasons(self) -> list[str]:
        """Return why the trigger is replaced: a line per drift and per changed argument."""
        lines = [f"{drift.kind}: {drift.detail}" for drift in self.old.drift]
        new = self.new.spec.full_kwargs()
        for name, value in self.replaces().items():
            if name != "found":
                lines.append(f"{name}: {value!r} becomes {new[name]!r}")
        return lines

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` prints: table, what differs, and the remedy."""
        return (
            "replace_audit_trigger",
            display_name(self.new.spec),
            self.reasons(),
            "mend it: alembic revision --autogenerate, then alembic upgrade head",
        )


class CreateAuditTableOp(ops.CreateTableOp):
    """A create_table that finds a kept audit table in place, and reverses to drop_audit_table."""

    @classmethod
    def from_create_table(cls, op: ops.CreateTableOp) -> "CreateAuditTableOp":
        """Return *op* as the creation of an audit table."""
        return cls(
            op.table_name,
            op.columns,
            schema=op.schema,
            if_not_exists=True,
            _namespace_metadata=op._namespace_metadata,
            _constraints_included=op._constraints_included,
            comment=op.comment,
            prefixes=op.prefixes,
            info={},
            **op.kw,
        )

    def reverse(self) -> "DropAuditTableOp":  # type: ignore[override]
        """Return the drop that keeps a table with records."""
        return DropAuditTableOp(self.table_name, schema=self.schema, created=self)


class CreateAuditIndexOp(ops.CreateIndexOp):
    """A create_index on a new audit table; it goes with the table, so its reverse is nothing."""

    @classmethod
    def from_create_index(cls, op: ops.CreateIndexOp) -> "CreateAuditIndexOp":
        """Return *op* as the creation of an index of an audit table."""
        return cls(
            op.index_name,
            op.table_name,
            op.columns,
            schema=op.schema,
            unique=op.unique,
            if_not_exists=True,
            **op.kw,
        )

    def reverse(self) -> MigrateOperation:  # type: ignore[override]
        """Return an empty container, which renders to no line."""
        return ops.ModifyTableOps(self.table_name, [], schema=self.schema)


class AddAuditColumnOp(ops.AddColumnOp):
    """An add_column that finds a kept column in place, and reverses to drop_audit_column."""

    def reverse(self) -> "DropAuditColumnOp":  # type: ignore[override]
        """Return the drop that keeps a column with values."""
        return DropAuditColumnOp(self.table_name, self.column.name, schema=self.schema, added=self)


@Operations.register_operation("drop_audit_table")
class DropAuditTableOp(MigrateOperation):
    """Drop an audit table that holds no records; keep one that does, with a NOTICE."""

    def __init__(
        self,
        table_name: str,
        *,
        schema: str | None = None,
        created: CreateAuditTableOp | None = None,
    ) -> None:
        self.table_name = naming.check_identifier(table_name, "the audit table")
        self.schema = schema
        self.created = created

    @classmethod
    def drop_audit_table(
        cls, operations: Operations, table_name: str, *, schema: str | None = None
    ) -> None:
        """Drop an audit table if it is empty; keep it, with a NOTICE, if it holds records.

        ``alembic -x audit_allow_history_loss=yes`` drops it in any case.

        Args:
            operations: Given by Alembic.
            table_name: The audit table.
            schema: Its schema; None is the connection's default schema.
        """
        operations.invoke(cls(table_name, schema=schema))

    def reverse(self) -> CreateAuditTableOp:
        """Return the creation of the table."""
        if self.created is None:
            raise ValueError("operation is not reversible; the columns of the table are not known")
        return self.created

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` prints."""
        return ("drop_audit_table", self.schema, self.table_name)


@Operations.register_operation("drop_audit_column")
class DropAuditColumnOp(MigrateOperation):
    """Drop a column of an audit table that holds no values; keep one that does, with a NOTICE."""

    def __init__(
        self,
        table_name: str,
        column_name: str,
        *,
        schema: str | None = None,
        added: AddAuditColumnOp | None = None,
    ) -> None:
        self.table_name = naming.check_identifier(table_name, "the audit table")
        self.column_name = naming.check_identifier(column_name, "the column")
        self.schema = schema
        self.added = added

    @classmethod
    def drop_audit_column(
        cls,
        operations: Operations,
        table_name: str,
        column_name: str,
        *,
        schema: str | None = None,
    ) -> None:
        """Drop a column of an audit table if it is empty; keep it, with a NOTICE, if it is not.

        ``alembic -x audit_allow_history_loss=yes`` drops it in any case.

        Args:
            operations: Given by Alembic.
            table_name: The audit table.
            column_name: The column.
            schema: The schema; None is the connection's default schema.
        """
        operations.invoke(cls(table_name, column_name, schema=schema))

    def reverse(self) -> AddAuditColumnOp:
        """Return the addition of the column."""
        if self.added is None:
            raise ValueError("operation is not reversible; the type of the column is not known")
        return self.added

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` prints."""
        return ("drop_audit_column", self.schema, self.table_name, self.column_name)


# -- how they run ---------------------------------------------------------------------------------


def default_schema(operations: Operations) -> str:
    """Return what a schema of None means for this migration, without a query.

    The connection's ``schema_translate_map``, else the dialect's default schema, else, offline,
    ``configure(audit_default_schema=...)``, which is ``public`` where it is not given.
    """
    context = operations.migration_context
    if context.as_sql or context.connection is None:
        return str(context.opts.get("audit_default_schema") or "public")
    return ddl.default_schema(context.connection)


def _run(operations: Operations, statements: Iterable[str]) -> None:
    dialect = operations.migration_context.dialect.name
    if dialect != "postgresql":
        raise NotImplementedError(
            f"audit triggers are PostgreSQL's, and this migration runs on {dialect}; guard the "
            "operation by: if op.get_context().dialect.name == 'postgresql'"
        )
    for statement in statements:
        operations.execute(verbatim(statement))


def _allow_history_loss(operations: Operations) -> bool:
    environment = operations.migration_context.environment_context
    if environment is None or not hasattr(environment.config.cmd_opts, "x"):
        return False  # not run from a command line, or by a program without -x
    value = environment.get_x_argument(as_dictionary=True).get("audit_allow_history_loss", "no")
    if value not in ("yes", "no"):
        raise ValueError(f"-x audit_allow_history_loss must be yes or no, found {value!r}")
    return bool(value == "yes")


@Operations.implementation_for(CreateAuditTriggerOp)
def _create(operations: Operations, op: CreateAuditTriggerOp) -> None:
    _run(operations, [*sql.create(op.state.spec, default_schema(operations)), *op.state.found])


@Operations.implementation_for(DropAuditTriggerOp)
def _drop(operations: Operations, op: DropAuditTriggerOp) -> None:
    default = default_schema(operations)
    _run(
        operations,
        sql.drop(
            qualify(op.schema or default, op.table_name),
            qualify(op.audit_schema or default, op.function),
            op.audit_table,
        ),
    )


@Operations.implementation_for(ReplaceAuditTriggerOp)
def _replace(operations: Operations, op: ReplaceAuditTriggerOp) -> None:
    old, new = op.old.spec, op.new.spec
    function_only = ("CREATE OR REPLACE FUNCTION ", "GRANT EXECUTE ", "DO ")
    same_triggers = (
        (old.identity, old.trigger_names, old.operations)
        == (new.identity, new.trigger_names, new.operations)
    ) and all(statement.startswith(function_only) for statement in op.old.found)
    statements = sql.replace(old, new, default_schema(operations), same_triggers=same_triggers)
    _run(operations, [*statements, *op.new.found])


@Operations.implementation_for(DropAuditTableOp)
def _drop_table(operations: Operations, op: DropAuditTableOp) -> None:
    schema = op.schema or default_schema(operations)
    allow = _allow_history_loss(operations)
    _run(operations, [sql.drop_audit_table(op.table_name, schema, allow_history_loss=allow)])


@Operations.implementation_for(DropAuditColumnOp)
def _drop_column(operations: Operations, op: DropAuditColumnOp) -> None:
    schema = op.schema or default_schema(operations)
    allow = _allow_history_loss(operations)
    statement = sql.drop_audit_column(
        op.table_name, op.column_name, schema, allow_history_loss=allow
    )
    _run(operations, [statement])
