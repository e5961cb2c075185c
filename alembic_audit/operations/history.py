"""Operations on audit tables, their columns and schema, and on locks. Records survive them."""

import datetime
from collections.abc import Iterable, Sequence
from typing import Any

import alembic  # noqa: F401  (first, or the order of imports decides whether this module loads)
from alembic.operations import Operations, ops
from alembic.operations.ops import MigrateOperation
from sqlalchemy.types import TypeEngine, to_instance

from alembic_audit import naming, retype
from alembic_audit.errors import SpecError
from alembic_audit.operations.base import AuditOperation
from alembic_audit.operations.trail import nothing

_Type = TypeEngine[Any] | type[TypeEngine[Any]]


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
        return nothing(self.table_name)


class AddAuditColumnOp(ops.AddColumnOp):
    """An add_column that finds a kept column in place, and reverses to drop_audit_column."""

    def reverse(self) -> "DropAuditColumnOp":  # type: ignore[override]
        """Return the drop that keeps a column with values."""
        return DropAuditColumnOp(self.table_name, self.column.name, schema=self.schema, added=self)


@Operations.register_operation("drop_audit_table")
class DropAuditTableOp(AuditOperation):
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
class DropAuditColumnOp(AuditOperation):
    """Drop a column of an audit table that holds no values; keep one that does, with a NOTICE."""

    def __init__(
        self,
        table_name: str,
        column_name: str,
        *,
        schema: str | None = None,
        added: MigrateOperation | None = None,
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

    def reverse(self) -> MigrateOperation:
        """Return the addition of the column."""
        if self.added is None:
            raise ValueError("operation is not reversible; the type of the column is not known")
        return self.added

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` prints."""
        return ("drop_audit_column", self.schema, self.table_name, self.column_name)


@Operations.register_operation("alter_audit_column")
class AlterAuditColumnOp(AuditOperation):
    """Change type, nullability or name of an audit column, and keep what it holds."""

    def __init__(
        self,
        table_name: str,
        column_name: str,
        *,
        schema: str | None = None,
        existing_type: _Type | None = None,
        type_: _Type | None = None,
        nullable: bool | None = None,
        new_column_name: str | None = None,
    ) -> None:
        given = [one for one in (type_, nullable, new_column_name) if one is not None]
        if (existing_type is None) != (type_ is None) or len(given) != 1:
            raise SpecError(
                "alter_audit_column changes one thing; write existing_type=... and type_=..., or "
                "nullable=..., or new_column_name=..."
            )
        self.table_name = naming.check_identifier(table_name, "the audit table")
        self.column_name = naming.check_identifier(column_name, "the column")
        self.schema = schema
        # A class will do, as in op.alter_column.
        self.existing_type = None if existing_type is None else to_instance(existing_type)
        self.type_ = None if type_ is None else to_instance(type_)
        self.nullable = nullable
        self.new_column_name = new_column_name
        if new_column_name is not None:
            naming.check_identifier(new_column_name, "the column")

    @classmethod
    def alter_audit_column(
        cls,
        operations: Operations,
        table_name: str,
        column_name: str,
        *,
        schema: str | None = None,
        existing_type: _Type | None = None,
        type_: _Type | None = None,
        nullable: bool | None = None,
        new_column_name: str | None = None,
    ) -> None:
        """Change a column of an audit table; no recorded value is cast or lost.

        A type that holds all that was held is given to the column, without a rewrite. Otherwise the
        column is set aside, ``amount`` as ``amount__text``, and a new one takes its place; altered
        back, they swap again. NOT NULL is set only while every record has a value. Locks the audit
        table ACCESS EXCLUSIVE.

        Args:
            operations: Given by Alembic.
            table_name: The audit table.
            column_name: The column.
            schema: The schema; None is the connection's default schema.
            existing_type: The type that the column has.
            type_: The type that it shall have.
            nullable: Whether it may be NULL.
            new_column_name: What it shall be called.

        Raises:
            SpecError: Not one of type, nullability and name is given.
        """
        operations.invoke(
            cls(
                table_name,
                column_name,
                schema=schema,
                existing_type=existing_type,
                type_=type_,
                nullable=nullable,
                new_column_name=new_column_name,
            )
        )

    def reverse(self) -> "AlterAuditColumnOp":
        """Return the operation that alters it back."""
        renamed = self.new_column_name
        return AlterAuditColumnOp(
            self.table_name,
            renamed or self.column_name,
            schema=self.schema,
            existing_type=self.type_,
            type_=self.existing_type,
            nullable=None if self.nullable is None else not self.nullable,
            new_column_name=None if renamed is None else self.column_name,
        )

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` prints."""
        if self.new_column_name is not None:
            change = f"becomes {self.new_column_name}"
        elif self.type_ is None or self.existing_type is None:
            change = f"nullable={self.nullable}"
        else:
            change = f"{retype.text(self.existing_type)} becomes {retype.text(self.type_)}"
        return ("alter_audit_column", self.schema, self.table_name, self.column_name, change)


@Operations.register_operation("number_audit_table")
class NumberAuditTableOp(AuditOperation):
    """Give an audit table of the ``classic`` layout its ``audit_id``."""

    def __init__(self, table_name: str, *, schema: str | None = None) -> None:
        self.table_name = naming.check_identifier(table_name, "the audit table")
        self.schema = schema

    @classmethod
    def number_audit_table(
        cls, operations: Operations, table_name: str, *, schema: str | None = None
    ) -> None:
        """Add ``audit_id``, an identity and the primary key, numbered by the records' time.

        Locks the audit table ACCESS EXCLUSIVE while it is rewritten.

        Args:
            operations: Given by Alembic.
            table_name: The audit table.
            schema: Its schema; None is the connection's default schema.
        """
        operations.invoke(cls(table_name, schema=schema))

    def reverse(self) -> DropAuditColumnOp:
        """Return the drop that keeps the numbers of records."""
        return DropAuditColumnOp(self.table_name, "audit_id", schema=self.schema, added=self)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` prints."""
        return ("number_audit_table", self.schema, self.table_name)


@Operations.register_operation("purge_audit_table")
class PurgeAuditTableOp(AuditOperation):
    """Delete old records, and record that it was done."""

    def __init__(
        self,
        table_name: str,
        *,
        before: str,
        reason: str,
        keep_last: Sequence[str] | None,
        schema: str | None = None,
    ) -> None:
        self.table_name = naming.check_identifier(table_name, "the audit table")
        if isinstance(keep_last, str) or (keep_last is not None and not list(keep_last)):
            raise SpecError(
                f"keep_last must be the key of the audited table, like ['id'], or None to keep "
                f"nothing; found {keep_last!r}"
            )
        self.keep_last = [naming.check_identifier(one, "keep_last") for one in keep_last or ()]
        try:
            offset = datetime.datetime.fromisoformat(before).utcoffset()
        except (TypeError, ValueError):
            offset = None
        if offset is None:
            raise SpecError(
                "before must be a time with an offset from UTC, like '2024-01-01 00:00:00+00:00'; "
                f"found {before!r}"
            )
        if not isinstance(reason, str) or not reason.strip() or not reason.isprintable():
            raise SpecError(f"reason must say in one line why records go, found {reason!r}")
        self.before = before
        self.reason = reason
        self.schema = schema

    @classmethod
    def purge_audit_table(
        cls,
        operations: Operations,
        table_name: str,
        *,
        before: str,
        reason: str,
        keep_last: Sequence[str] | None,
        schema: str | None = None,
    ) -> None:
        """Delete the records before a time; ``alembic_audit_purges`` says when, by whom and why.

        With ``keep_last=["id"]``, the key of the audited table, the record stays that says how each
        row was at that time: ``as_of()`` of that time and of every later one stays whole. With
        ``keep_last=None`` all older records go, and a row that was not written since is missing in
        ``as_of()``, though it lives.

        The one way to take records from an ``append_only`` table, and good for others too. Locks
        the audit table SHARE ROW EXCLUSIVE: others read and do not write.

        Args:
            operations: Given by Alembic.
            table_name: The audit table.
            before: ISO 8601 with an offset; records of an earlier ``audit_operation_timestamp`` go.
            reason: Why, in one line.
            keep_last: The key columns; None keeps nothing. The ``classic`` layout has no order of
                records, and takes None.
            schema: The schema; None is the connection's default schema.

        Raises:
            SpecError: The time is without an offset, the reason is empty, or keep_last is no key.
        """
        operations.invoke(
            cls(table_name, before=before, reason=reason, keep_last=keep_last, schema=schema)
        )

    def reverse(self) -> MigrateOperation:
        """Return an empty container: what was deleted stays deleted."""
        return nothing(self.table_name)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` prints."""
        return ("purge_audit_table", self.schema, self.table_name, self.before)


@Operations.register_operation("create_audit_schema")
class CreateAuditSchemaOp(AuditOperation):
    """Make a schema for audit tables, unless it is there."""

    def __init__(self, schema: str) -> None:
        self.schema = naming.check_identifier(schema, "the schema")

    @classmethod
    def create_audit_schema(cls, operations: Operations, schema: str) -> None:
        """Make a schema for audit tables, with a comment that marks it; one that is there stays.

        Args:
            operations: Given by Alembic.
            schema: Its name.
        """
        operations.invoke(cls(schema))

    def reverse(self) -> "DropAuditSchemaOp":
        """Return the drop of the schema."""
        return DropAuditSchemaOp(self.schema)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` prints."""
        return ("create_audit_schema", self.schema)


@Operations.register_operation("drop_audit_schema")
class DropAuditSchemaOp(AuditOperation):
    """Drop a schema that create_audit_schema made and that holds nothing."""

    def __init__(self, schema: str) -> None:
        self.schema = naming.check_identifier(schema, "the schema")

    @classmethod
    def drop_audit_schema(cls, operations: Operations, schema: str) -> None:
        """Drop a schema that ``create_audit_schema`` made, if it is empty; else keep it.

        Args:
            operations: Given by Alembic.
            schema: Its name.
        """
        operations.invoke(cls(schema))

    def reverse(self) -> CreateAuditSchemaOp:
        """Return the creation of the schema."""
        return CreateAuditSchemaOp(self.schema)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` prints."""
        return ("drop_audit_schema", self.schema)


Table = str | tuple[str, str]
"""A table in the default schema, or (schema, table)."""

MODES = ("SHARE ROW EXCLUSIVE", "ACCESS EXCLUSIVE")


@Operations.register_operation("lock_audited_tables")
class LockAuditedTablesOp(AuditOperation):
    """Lock the tables of a migration before it changes any of them."""

    ops: Sequence[MigrateOperation] = ()
    """`alembic check` takes what has this for a container: a lock is no difference."""

    def __init__(self, tables: Iterable[Table], *, mode: str = "ACCESS EXCLUSIVE") -> None:
        if isinstance(tables, str):
            raise SpecError(f"lock_audited_tables takes a list of tables, found {tables!r}")
        self.tables = tuple(one if isinstance(one, str) else tuple(one) for one in tables)
        if not self.tables:
            raise SpecError("lock_audited_tables names no table")
        for one in self.tables:
            for name in (one,) if isinstance(one, str) else one:
                naming.check_identifier(name, "the table")
        self.mode = mode.upper()
        if self.mode not in MODES:
            raise SpecError(f"mode must be one of {', '.join(MODES)}, found {mode!r}")

    @classmethod
    def lock_audited_tables(
        cls, operations: Operations, tables: Iterable[Table], *, mode: str = "ACCESS EXCLUSIVE"
    ) -> None:
        """Lock tables until the end of the transaction, without a deadlock.

        Writers lock the audited table, then its audit table; a migration that altered them in
        another order, or raised a lock later on, could wait for a writer that waits for it.

        Args:
            operations: Given by Alembic.
            tables: Names, or (schema, name); a name alone is in the connection's default schema.
            mode: ``ACCESS EXCLUSIVE``, nobody reads or writes, or ``SHARE ROW EXCLUSIVE``, nobody
                writes (PostgreSQL manual, 13.3.1).

        Raises:
            SpecError: A name or the mode cannot be.
        """
        operations.invoke(cls(tables, mode=mode))

    def reverse(self) -> MigrateOperation:
        """Return an empty container: the downgrade has a lock of its own, at its beginning."""
        return nothing("")

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` prints."""
        return ("lock_audited_tables", list(self.tables), self.mode)


class LockOnDowngradeOp(ops.ModifyTableOps):
    """Nothing at the end of an upgrade, and the lock at the beginning of its downgrade."""

    def __init__(self, lock: LockAuditedTablesOp) -> None:
        super().__init__("", [])
        self.lock = lock

    def reverse(self) -> LockAuditedTablesOp:  # type: ignore[override]
        """Return the lock."""
        return self.lock
