"""How the operations run: online and ``--sql`` send the same statements.

Online they query for one thing, what another revision made of a trail: see ``_as_found``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import alembic  # noqa: F401  (first, or the order of imports decides whether this module loads)
import sqlalchemy as sa
from alembic.operations import Operations

from alembic_audit import ddl, retype, session, sql, values
from alembic_audit.ddl import verbatim
from alembic_audit.merging import difference, merge
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
from alembic_audit.operations.rename import (
    MoveAuditedTableOp,
    RenameAuditedColumnOp,
    RenameAuditedTableOp,
)
from alembic_audit.operations.settings import SetAuditContextOp
from alembic_audit.operations.trail import (
    CreateAuditTriggerOp,
    DropAuditTriggerOp,
    ReplaceAuditTriggerOp,
    RestoreAuditTriggerOp,
    SnapshotAuditTableOp,
)
from alembic_audit.spec import HEADER, AuditSpec, NewerSpecError
from alembic_audit.sql import history, locks, move, preconditions
from alembic_audit.sql import schema as schemas
from alembic_audit.sql.text import COMMENT, audit_name, function_name, set_config, source_name

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext


_LOG = logging.getLogger("alembic_audit")

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
    default = default_schema(operations)
    old, new = op.old.spec, op.new.spec
    check = []
    # A function that was changed by hand says in its header something else than the arguments.
    if not any(HEADER in one for one in op.old.found):
        old, new = _as_found(operations, old, new)
        check = [preconditions.check_header(old, new, default, change="replaces", named=False)]
    statements = sql.replace(
        old, new, default, found=op.old.found, new_audit_table=op.old.audit_table_missing
    )
    run(operations, [*check, *statements, *op.new.found])


def _as_found(
    operations: Operations, old: AuditSpec, new: AuditSpec
) -> tuple[AuditSpec, AuditSpec]:
    """What a change of a trail is a change of, and to what.

    That is *old* and *new*, unless another revision, as of a branch that was merged, left another
    trail than *old*. The one thing for which operations look at the database: offline, the
    statement that compares the header stops instead.

    Raises:
        SpecError: Both revisions changed one thing in different ways.
    """
    context = operations.migration_context
    if context.as_sql or context.connection is None or context.dialect.name != "postgresql":
        return old, new
    name = function_name(old, default_schema(operations))
    body = operations.get_bind().execute(_BODY, {"name": f"{name}()"}).scalar()
    try:
        found = AuditSpec.from_body(body or "")
    except NewerSpecError:
        return old, new  # refused by the statement that compares the header
    if found is None or found.unordered() in (old.unordered(), new.unordered()):
        return old, new
    merged = merge(old, new, found)
    _LOG.info(
        "the audit trigger of %s was changed by another revision; applied to it: %s",
        name,
        difference(old, new),
    )
    return found, merged


_BODY = sa.text(
    "SELECT prosrc FROM pg_catalog.pg_proc"
    " WHERE oid OPERATOR(pg_catalog.=) pg_catalog.to_regprocedure(:name)"
)


@_runs(RestoreAuditTriggerOp)
def _restore(operations: Operations, op: RestoreAuditTriggerOp) -> None:
    run(operations, op.statements)


@_runs(MoveAuditedTableOp)
@_runs(RenameAuditedTableOp)
def _rename_table(operations: Operations, op: MoveAuditedTableOp | RenameAuditedTableOp) -> None:
    default = default_schema(operations)
    old, new = _as_found(operations, op.old, op.new)
    source = source_name(old, default)
    renamed, first = move.source_table(old, new, default), []
    if op.source_renamed:
        source, renamed = source_name(new, default), []
        first = [preconditions.check_source_renamed(source, op.argument)]
    statements = [
        *first,
        *_before_renaming(old, new, default, source),
        *renamed,
        *sql.replace(old, new, default, columns_too=not op.source_renamed),
    ]
    run(operations, statements)


@_runs(RenameAuditedColumnOp)
def _rename_column(operations: Operations, op: RenameAuditedColumnOp) -> None:
    default = default_schema(operations)
    old, new = _as_found(operations, op.old, op.new)
    source = source_name(old, default)
    columns = op.column, op.renamed
    renamed, first = move.source_column(old, new, default, *columns), []
    if op.source_renamed:
        renamed = move.audit_column(old, default, *columns)
        first = [preconditions.check_source_renamed(source, op.argument, columns)]
    statements = [
        *first,
        *_before_renaming(old, new, default, source),
        *renamed,
        *sql.replace(old, new, default, columns_too=not op.source_renamed),
    ]
    run(operations, statements)


def _before_renaming(old: AuditSpec, new: AuditSpec, default: str, source: str) -> list[str]:
    return [
        locks.lock([source, audit_name(old, default)], "ACCESS EXCLUSIVE"),
        preconditions.check_header(old, new, default, change="renames"),
    ]


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
