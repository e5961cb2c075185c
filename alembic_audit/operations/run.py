"""How the operations run. They never query: online and ``--sql`` send the same statements."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import alembic  # noqa: F401  (first, or the order of imports decides whether this module loads)
import sqlalchemy as sa
from alembic.operations import Operations

from alembic_audit import ddl, retype, session, sql, values
from alembic_audit.ddl import verbatim
from alembic_audit.naming import qualify, resolve
from alembic_audit.operations import batches
from alembic_audit.operations.base import AuditOperation
from alembic_audit.operations.history import (
    AlterAuditColumnOp,
    CreateAuditSchemaOp,
    DropAuditColumnOp,
    DropAuditSchemaOp,
    DropAuditTableOp,
    LockAuditedTablesOp,
    NumberAuditTableOp,
    PurgeAuditTableOp,
)
from alembic_audit.operations.rename import RenameAuditedColumnOp, RenameAuditedTableOp
from alembic_audit.operations.settings import SetAuditContextOp
from alembic_audit.operations.trail import (
    CreateAuditTriggerOp,
    DropAuditTriggerOp,
    ReplaceAuditTriggerOp,
    RestoreAuditTriggerOp,
    SnapshotAuditTableOp,
)
from alembic_audit.spec import AuditSpec
from alembic_audit.sql import history, locks, move, preconditions
from alembic_audit.sql import schema as schemas
from alembic_audit.sql.text import COMMENT, audit_name, set_config, source_name

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext


RUN: dict[type[AuditOperation], Callable[[Operations, Any], None]] = {}
"""How each operation runs."""

_Run = TypeVar("_Run", bound=Callable[[Operations, Any], None])


def _runs(kind: type[AuditOperation]) -> Callable[[_Run], _Run]:
    def register(function: _Run) -> _Run:
        RUN[kind] = function
        return function

    return register


def default_schema(operations: Operations) -> str:
    """Return what a schema of None means for this migration, without a query.

    The connection's ``schema_translate_map``, else the dialect's default schema, else, offline,
    ``configure(audit_default_schema=...)``, which is ``public`` where it is not given.
    """
    context = operations.migration_context
    if context.as_sql or context.connection is None:
        return str(context.opts.get("audit_default_schema") or "public")
    return ddl.default_schema(context.connection)


def run(operations: Operations, statements: Iterable[str]) -> None:
    """Send statements as they are written.

    Raises:
        NotImplementedError: The migration does not run on PostgreSQL.
    """
    dialect = operations.migration_context.dialect.name
    if dialect != "postgresql":
        raise NotImplementedError(
            f"audit triggers are PostgreSQL's, and this migration runs on {dialect}; guard the "
            "operation by: if op.get_context().dialect.name == 'postgresql'"
        )
    for statement in statements:
        operations.execute(verbatim(statement))


def x_argument(context: MigrationContext, name: str) -> bool:
    """Return whether ``alembic -x name=yes`` was given.

    Raises:
        ValueError: It is neither yes nor no.
    """
    environment = context.environment_context
    if environment is None or not hasattr(environment.config.cmd_opts, "x"):
        return False  # not run from a command line, or by a program without -x
    value = environment.get_x_argument(as_dictionary=True).get(name, "no")
    if value not in ("yes", "no"):
        raise ValueError(f"-x {name} must be yes or no, found {value!r}")
    return bool(value == "yes")


def _allow_history_loss(operations: Operations) -> bool:
    return x_argument(operations.migration_context, "audit_allow_history_loss")


@_runs(CreateAuditTriggerOp)
def _create(operations: Operations, op: CreateAuditTriggerOp) -> None:
    run(operations, [*sql.create(op.state.spec, default_schema(operations)), *op.state.found])


@_runs(DropAuditTriggerOp)
def _drop(operations: Operations, op: DropAuditTriggerOp) -> None:
    default = default_schema(operations)
    source = qualify(resolve(op.schema, default), op.table_name)
    function = qualify(resolve(op.audit_schema, default), op.function)
    run(operations, sql.drop(source, function, op.audit_table))


@_runs(ReplaceAuditTriggerOp)
def _replace(operations: Operations, op: ReplaceAuditTriggerOp) -> None:
    statements = sql.replace(
        op.old.spec,
        op.new.spec,
        default_schema(operations),
        found=op.old.found,
        new_audit_table=op.old.audit_table_missing,
    )
    run(operations, [*statements, *op.new.found])


@_runs(RestoreAuditTriggerOp)
def _restore(operations: Operations, op: RestoreAuditTriggerOp) -> None:
    run(operations, op.statements)


@_runs(RenameAuditedTableOp)
def _rename_table(operations: Operations, op: RenameAuditedTableOp) -> None:
    default = default_schema(operations)
    renamed = move.source_table(op.old, op.new, default)
    run(operations, [*_before_renaming(op.old, default), *renamed, *_after(op, default)])


@_runs(RenameAuditedColumnOp)
def _rename_column(operations: Operations, op: RenameAuditedColumnOp) -> None:
    default = default_schema(operations)
    renamed = move.source_column(op.old, op.new, default, op.column, op.renamed)
    run(operations, [*_before_renaming(op.old, default), *renamed, *_after(op, default)])


def _before_renaming(old: AuditSpec, default: str) -> list[str]:
    tables = [source_name(old, default), audit_name(old, default)]
    return [locks.lock(tables, "ACCESS EXCLUSIVE"), preconditions.check_header(old, default)]


def _after(op: RenameAuditedTableOp | RenameAuditedColumnOp, default: str) -> list[str]:
    return sql.replace(op.old, op.new, default)


@_runs(SnapshotAuditTableOp)
def _snapshot(operations: Operations, op: SnapshotAuditTableOp) -> None:
    context, spec = operations.migration_context, op.spec
    one_statement = context.as_sql or not spec.key or spec.audit_columns != "standard"
    if op.batch_size is None or one_statement:
        run(operations, [sql.snapshot(spec, default_schema(operations))])
    else:
        batches.snapshot(operations, spec, default_schema(operations), op.batch_size, run)


@_runs(SetAuditContextOp)
def _set_context(operations: Operations, op: SetAuditContextOp) -> None:
    context = operations.migration_context
    given: Any = context.opts.get("target_metadata") or ()
    metadata = [given] if isinstance(given, sa.MetaData) else list(given)
    texts = values.texts(op.values, metadata)
    if context.as_sql or context.connection is None:
        run(operations, [set_config(name, text, local=True) for name, text in texts.items()])
    else:
        session.set_session_vars(context.connection, **op.values)


@_runs(DropAuditTableOp)
def _drop_table(operations: Operations, op: DropAuditTableOp) -> None:
    schema = resolve(op.schema, default_schema(operations))
    allow = _allow_history_loss(operations)
    run(operations, [history.drop_audit_table(op.table_name, schema, allow_history_loss=allow)])


@_runs(DropAuditColumnOp)
def _drop_column(operations: Operations, op: DropAuditColumnOp) -> None:
    schema = resolve(op.schema, default_schema(operations))
    allow = _allow_history_loss(operations)
    statement = history.drop_audit_column(
        op.table_name, op.column_name, schema, allow_history_loss=allow
    )
    run(operations, [statement])


@_runs(AlterAuditColumnOp)
def _alter_column(operations: Operations, op: AlterAuditColumnOp) -> None:
    place = (op.table_name, op.column_name, resolve(op.schema, default_schema(operations)))
    old, new = op.existing_type, op.type_
    if op.new_column_name is not None:
        statement = history.rename_audit_column(*place, op.new_column_name)
    elif old is None or new is None:
        statement = history.set_nullable(*place) if op.nullable else history.set_not_null(*place)
    elif retype.widens(old, new):
        statement = history.widen_audit_column(
            *place, new_type=retype.text(new), existing_type=retype.catalog_text(old)
        )
    elif retype.widens(new, old):
        statement = history.narrow_audit_column(*place, new_type=retype.text(new))
    else:
        statement = history.retype_audit_column(
            *place,
            new_type=retype.text(new),
            old_aside=retype.aside(op.column_name, old),
            new_aside=retype.aside(op.column_name, new),
        )
    run(operations, [statement])


@_runs(NumberAuditTableOp)
def _number(operations: Operations, op: NumberAuditTableOp) -> None:
    schema = resolve(op.schema, default_schema(operations))
    run(operations, [history.number_audit_table(op.table_name, schema)])


@_runs(PurgeAuditTableOp)
def _purge(operations: Operations, op: PurgeAuditTableOp) -> None:
    schema = resolve(op.schema, default_schema(operations))
    statement = history.purge_audit_table(
        op.table_name, schema, before=op.before, reason=op.reason, keep_last=op.keep_last
    )
    run(operations, [statement])


@_runs(CreateAuditSchemaOp)
def _create_schema(operations: Operations, op: CreateAuditSchemaOp) -> None:
    run(operations, [schemas.create(op.schema, COMMENT)])


@_runs(DropAuditSchemaOp)
def _drop_schema(operations: Operations, op: DropAuditSchemaOp) -> None:
    run(operations, [schemas.drop(op.schema, COMMENT)])


@_runs(LockAuditedTablesOp)
def _lock(operations: Operations, op: LockAuditedTablesOp) -> None:
    default = default_schema(operations)
    tables = [
        qualify(default, one) if isinstance(one, str) else qualify(resolve(one[0], default), one[1])
        for one in op.tables
    ]
    run(operations, [locks.lock(tables, op.mode)])
