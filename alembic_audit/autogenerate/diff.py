"""Declared specs and found states to operations, and the protection of history. No I/O."""

from collections.abc import Collection, Iterable, Mapping

import alembic  # noqa: F401  (first, or the order of imports decides whether this module loads)
import sqlalchemy as sa
from alembic.operations import ops
from alembic.operations.ops import MigrateOperation

from alembic_audit.catalog import AuditState
from alembic_audit.errors import NotBuiltError
from alembic_audit.operations import (
    AddAuditColumnOp,
    CreateAuditIndexOp,
    CreateAuditTableOp,
    CreateAuditTriggerOp,
    DropAuditTriggerOp,
    ReplaceAuditTriggerOp,
    display_name,
)
from alembic_audit.spec import AuditSpec
from alembic_audit.sql import COMMENT

Name = tuple[str, str]
"""Resolved schema and name of a table."""


def compare(
    declared: Mapping[Name, AuditSpec], found: Mapping[Name, AuditState]
) -> list[MigrateOperation]:
    """Return the operations that turn what was found into what is declared, sorted by table.

    Raises:
        NotBuiltError: The trail of a table would have to move.
    """
    made: list[MigrateOperation] = []
    for name in sorted({*declared, *found}):
        spec, state = declared.get(name), found.get(name)
        if state is None and spec is not None:
            made.append(CreateAuditTriggerOp(AuditState(spec)))
        elif state is not None and spec is None:
            made.append(DropAuditTriggerOp.from_state(state))
        elif (
            state is not None
            and spec is not None
            and (state.found or _unordered(state.spec) != _unordered(spec))
        ):
            _refuse_moves(state.spec, spec)
            made.append(ReplaceAuditTriggerOp(state, AuditState(spec)))
    return made


def _unordered(spec: AuditSpec) -> AuditSpec:
    """Return a spec without the order of its columns, which means nothing in the database."""
    lists = ("key", "columns", "hash_columns", "ignore_columns")
    kwargs = spec.full_kwargs()
    return AuditSpec.from_kwargs(
        spec.table, **{**kwargs, **{name: sorted(kwargs[name]) for name in lists}}
    )


def _refuse_moves(old: AuditSpec, new: AuditSpec) -> None:
    for what in ("audit_table", "audit_schema", "audit_columns"):
        before, after = getattr(old, what), getattr(new, what)
        if before != after:
            raise NotBuiltError(
                f"{what} of {display_name(new)} is {before!r} in the database and {after!r} in "
                "the model; moving or converting a trail is not built yet, and a second trail "
                f"would tear the history: keep {what} as {before!r}"
            )


def protect(
    operations: Iterable[MigrateOperation],
    audit_tables: Collection[Name],
    default_schema: str,
) -> list[MigrateOperation]:
    """Return Alembic's operations with those changed or left out that would lose history.

    Args:
        operations: What Alembic proposes.
        audit_tables: The declared audit tables and those that headers name.
        default_schema: What a schema of None means.

    Raises:
        NotBuiltError: A column of an audit table would be retyped.
    """
    operations = list(operations)
    known = {
        *audit_tables,
        *(
            (op.schema or default_schema, op.table_name)
            for op in operations
            if isinstance(op, ops.DropTableOp) and is_audit_table(op.to_table())
        ),
    }
    new = {
        (op.schema or default_schema, op.table_name)
        for op in operations
        if isinstance(op, ops.CreateTableOp)
    }
    kept: list[MigrateOperation] = []
    for op in operations:
        name = (getattr(op, "schema", None) or default_schema, getattr(op, "table_name", ""))
        if isinstance(op, ops.CreateTableOp):
            # Alembic renders Table.info, and a Column in it is a SyntaxError.
            op.info = {k: v for k, v in (op.info or {}).items() if not k.startswith("audit.")}
            kept.append(CreateAuditTableOp.from_create_table(op) if name in known else op)
        elif name not in known:
            kept.append(op)
        elif isinstance(op, ops.ModifyTableOps):
            # Taken out of the container, so that render_as_batch puts nothing of ours in a batch.
            kept += [one for each in op.ops if (one := _protected(each, name in new)) is not None]
        elif (one := _protected(op, name in new)) is not None:
            kept.append(one)
    return kept


def is_audit_table(table: sa.Table) -> bool:
    """Return whether a reflected table is an audit table: by our comment, or by its shape."""
    if table.comment == COMMENT:
        return True
    operation = table.columns.get("audit_operation")
    return (
        operation is not None
        and not operation.nullable
        and isinstance(operation.type, sa.String)
        and operation.type.length == 1
        and "audit_operation_timestamp" in table.columns
    )


def _protected(op: MigrateOperation, is_new: bool) -> MigrateOperation | None:
    """Return an operation on an audit table as it may be; None where it may not."""
    if isinstance(op, ops.CreateIndexOp):
        return CreateAuditIndexOp.from_create_index(op) if is_new else op
    if isinstance(op, ops.AddColumnOp):
        if op.column.identity is not None:
            raise NotBuiltError(
                f"table {op.table_name!r} exists and has no {op.column.name!r}, so it is no audit "
                "table of this layout, and converting one is not built yet: rename it first, or "
                "write audit_columns='classic' to go on with it"
            )
        # On a table that exists, NOT NULL would need values; the function enforces it instead.
        column = op.column._copy()
        column.nullable = True
        return AddAuditColumnOp(op.table_name, column, schema=op.schema, if_not_exists=True)
    if isinstance(op, ops.AlterColumnOp):
        return _altered(op)
    lossy = (
        ops.DropTableOp,
        ops.DropColumnOp,
        ops.DropIndexOp,
        ops.DropConstraintOp,
        ops.CreateTableCommentOp,
        ops.DropTableCommentOp,
    )
    return None if isinstance(op, lossy) else op


def _altered(op: ops.AlterColumnOp) -> MigrateOperation | None:
    if op.modify_type is not None:
        old, new = op.existing_type, op.modify_type
        if not (isinstance(old, sa.String) and isinstance(new, sa.String)):
            raise NotBuiltError(
                f"column {op.column_name!r} of audit table {op.table_name!r} holds {old!r} and the "
                f"model now has {new!r}; a recorded value is never cast, and setting a column "
                "aside is not built yet: keep the type, or exclude the column from the audit"
            )
        if new.length is None or (old.length is not None and new.length >= old.length):
            return ops.AlterColumnOp(
                op.table_name,
                op.column_name,
                schema=op.schema,
                existing_type=old,
                existing_nullable=op.existing_nullable,
                modify_type=new,
            )
    return None
