"""Alembic's operations on audit tables, changed so that no record is lost. No I/O."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import alembic  # noqa: F401  (first, or the order of imports decides whether this module loads)
import sqlalchemy as sa
from alembic.operations import ops
from alembic.operations.ops import MigrateOperation
from sqlalchemy.types import NullType, TypeEngine

from alembic_audit import retype
from alembic_audit.autogenerate.names import audit_of, table_of
from alembic_audit.database_types import database_type, with_database_type
from alembic_audit.ddl import SPEC_KEY
from alembic_audit.errors import AuditError
from alembic_audit.operations import (
    AddAuditColumnOp,
    AlterAuditColumnOp,
    CreateAuditIndexOp,
    CreateAuditTableOp,
    NumberAuditTableOp,
)
from alembic_audit.spec import OWN_COLUMNS, AuditSpec, index_name, key_index
from alembic_audit.sql import move
from alembic_audit.sql.text import COMMENT
from alembic_audit.states import Name

_OWN = {name for names in OWN_COLUMNS.values() for name in names}


def protect(
    operations: Iterable[MigrateOperation],
    audit_tables: Collection[Name],
    default_schema: str,
    changes: Sequence[tuple[AuditSpec, AuditSpec]] = (),
    sources: Mapping[Name, sa.Table] | None = None,
) -> list[MigrateOperation]:
    """Return Alembic's operations with those changed or left out that would lose history.

    Args:
        operations: What Alembic proposes.
        audit_tables: The declared audit tables and those that headers name.
        default_schema: What a schema of None means.
        changes: Pairs of found and declared specs of one trail.
        sources: The declared audited Tables, by audit table.

    Raises:
        AuditError: A trail would have to move to where something else is.
    """
    operations = list(operations)
    known = {
        *audit_tables,
        *(
            table_of(op, default_schema)
            for op in operations
            if isinstance(op, ops.DropTableOp) and is_audit_table(op.to_table())
        ),
    }
    new = {table_of(op, default_schema) for op in operations if isinstance(op, ops.CreateTableOp)}
    moved = _moved(changes, new, default_schema)
    dropped = {
        table_of(op, default_schema): op.to_table()
        for op in operations
        if isinstance(op, ops.DropTableOp)
    }
    renamed = {audit_of(one, default_schema): _renamed_settings(old, one) for old, one in changes}
    sources = sources or {}
    kept: list[MigrateOperation] = []
    for op in operations:
        name = table_of(op, default_schema)
        settings = renamed.get(name, {})
        if isinstance(op, ops.CreateTableOp):
            # Alembic renders Table.info, and a Column in it is a SyntaxError.
            op.info = {k: v for k, v in (op.info or {}).items() if not k.startswith("audit.")}
            if name in moved:
                kept += _moved_columns(op, moved[name][0], dropped, default_schema, settings)
                kept += _moved_indexes(operations, *moved[name], default_schema, settings)
            elif name in known:
                op.columns = [
                    with_database_type(one) if isinstance(one, sa.Column) else one
                    for one in op.columns
                ]
                kept.append(CreateAuditTableOp.from_create_table(op))
            else:
                kept.append(op)
        elif name not in known:
            kept.append(op)
        elif name not in moved:
            kept += _changed(op, name in new, settings, sources.get(name))
    return kept


def in_order(operations: Sequence[MigrateOperation]) -> list[MigrateOperation]:
    """Return operations with their DropColumnOps sorted; Alembic takes them from a set."""
    dropped = (one for one in operations if isinstance(one, ops.DropColumnOp))
    columns = iter(sorted(dropped, key=lambda one: one.column_name))
    return [next(columns) if isinstance(one, ops.DropColumnOp) else one for one in operations]


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


def _check_is_audit_table(op: ops.ModifyTableOps) -> None:
    """Refuse to make an audit table of somebody's table that has its name.

    Raises:
        AuditError: It has no ``audit_operation``.
    """
    if any(
        isinstance(each, ops.AddColumnOp) and each.column.name == "audit_operation"
        for each in op.ops
    ):
        raise AuditError(
            f"table {op.table_name!r} exists and has no column 'audit_operation', so it is no "
            "audit table; rename it first, or call the audit table otherwise by the naming "
            "convention 'audit.table'"
        )


def _moved(
    changes: Iterable[tuple[AuditSpec, AuditSpec]], new: Collection[Name], default_schema: str
) -> dict[Name, tuple[AuditSpec, AuditSpec]]:
    """Return, by the audit table that is to be, what the trail was and what it is to be."""
    moved = {}
    for old, one in changes:
        before = audit_of(old, default_schema)
        after = audit_of(one, default_schema)
        if before == after:
            continue
        if after not in new:
            raise AuditError(
                f"the trail of {one.table!r} would move from {'.'.join(before)} to "
                f"{'.'.join(after)}, where there is a table already; rename or drop that one by "
                "hand, or give the audit table another name"
            )
        moved[after] = (old, one)
    return moved


def _renamed_settings(old: AuditSpec, new: AuditSpec) -> dict[str, str]:
    """Return new to old name of the columns of settings that are renamed."""
    columns = {setting.name: setting.column for setting in old.session_settings}
    return {
        setting.column: columns[setting.name]
        for setting in new.session_settings
        if columns.get(setting.name, setting.column) != setting.column
    }


def _moved_columns(
    op: ops.CreateTableOp,
    old: AuditSpec,
    dropped: Mapping[Name, sa.Table],
    default_schema: str,
    settings: Mapping[str, str],
) -> list[MigrateOperation]:
    """Return what has to change in the columns of an audit table that also moves.

    Alembic compared the two tables with nothing, so the columns are compared here. The operations
    address the table under its old name; the operation that replaces the trigger renames it.
    """
    place = audit_of(old, default_schema)
    before = dropped.get(place)
    if before is None:
        raise AuditError(
            f"the trail of {old.table!r} would move from {'.'.join(place)} to "
            f"{op.schema or default_schema}.{op.table_name}, and autogenerate does not look at the "
            "former; let include_object, include_name and include_schemas admit it"
        )
    table, schema = old.audit_table, old.audit_schema
    wanted = [column for column in op.columns if isinstance(column, sa.Column)]
    made: list[MigrateOperation] = []
    for column in wanted:
        there = before.columns.get(settings.get(column.name, column.name))
        if there is None:
            made += _protected(ops.AddColumnOp(table, column, schema=schema), False, {})
        else:
            made += _protected(_difference(table, schema, there, column), False, {})
    gone = {c.name for c in before.columns} - {settings.get(c.name, c.name) for c in wanted}
    for name in sorted(gone):
        column = before.columns[name]._copy()
        drop = ops.DropColumnOp.from_column_and_tablename(schema, table, column)
        made += _protected(drop, False, {})
    return made


def _moved_indexes(
    operations: Iterable[MigrateOperation],
    old: AuditSpec,
    new: AuditSpec,
    default_schema: str,
    settings: Mapping[str, str],
) -> list[MigrateOperation]:
    """Return what the indexes of an audit table that moves need, where they do not move along.

    They are addressed under the old names of table and columns, as the columns are.
    """
    each = [one for op in operations for one in _contents(op)]
    there = {
        str(one.index_name): one
        for one in each
        if isinstance(one, ops.DropIndexOp)
        and table_of(one, default_schema) == audit_of(old, default_schema)
    }
    made: list[MigrateOperation] = []
    wanted = set()
    for one in each:
        if (
            isinstance(one, ops.CreateIndexOp)
            and table_of(one, default_schema) == audit_of(new, default_schema)
            and (name := _former_index(one, old, new)) is not None
        ):
            wanted.add(name)
            columns = _names(_former_columns(one, settings))
            present = there.get(name)
            if present is None or _names(present.to_index().columns) != columns:
                made += [] if present is None else [present]
                made.append(
                    ops.CreateIndexOp(name, old.audit_table, columns, schema=old.audit_schema)
                )
    unwanted = [one for name, one in there.items() if name not in wanted and _is_ours(one, old)]
    return [*(unwanted if new.audit_columns == "standard" else ()), *made]


def _former_index(op: ops.CreateIndexOp, old: AuditSpec, new: AuditSpec) -> str | None:
    """Return what an index is called that has its name when its table has moved.

    None for one whose name was too long for that: the next migration makes it.
    """
    name = str(op.index_name)
    if name == key_index(new):
        return key_index(old)
    former = move.renamed_index(name, new.audit_table, old.audit_table)
    return former if move.renamed_index(former, old.audit_table, new.audit_table) == name else None


def _names(columns: Iterable[Any]) -> list[str]:
    return [column.name if isinstance(column, sa.Column) else str(column) for column in columns]


def _same(old: TypeEngine[Any], new: TypeEngine[Any]) -> bool:
    return isinstance(old, NullType) or retype.text(old) == retype.text(new)


_FORMER_NAMES = {"audit_id": "audit_pk", "audit_operation_timestamp": "audit_timestamp"}
"""What sqlalchemy-declarative-extensions calls columns that mean the same as ours."""


def _contents(op: MigrateOperation) -> list[MigrateOperation]:
    """Return what is in a container, so that render_as_batch puts nothing of ours in a batch."""
    return in_order(op.ops) if isinstance(op, ops.ModifyTableOps) else [op]


def _changed(
    op: MigrateOperation, is_new: bool, settings: Mapping[str, str], source: sa.Table | None
) -> list[MigrateOperation]:
    """Return what an operation, or a container of some, on an audit table becomes.

    Args:
        op: The operation.
        is_new: The audit table is made in this migration.
        settings: New to old name of columns that are renamed.
        source: The declared audited Table.
    """
    kept: list[MigrateOperation] = []
    renamed = settings
    if isinstance(op, ops.ModifyTableOps):
        _check_is_audit_table(op)
        kept += _retyped_settings(op, settings)
        former = _former_names(op)
        settings = {**settings, **former}
        kept += [
            AlterAuditColumnOp(op.table_name, old, schema=op.schema, new_column_name=own)
            for own, old in former.items()
        ]
    each = _contents(op)
    made_anew = {one.index_name for one in each if isinstance(one, ops.CreateIndexOp)}
    for one in each:
        if isinstance(one, ops.DropIndexOp) and (
            one.index_name in made_anew or _is_left_out(one, source)
        ):
            kept.append(one)  # to be made of other columns, or not wanted any more
            continue
        if isinstance(one, ops.CreateIndexOp) and not is_new:
            one.columns = _former_columns(one, renamed)
        kept += _protected(one, is_new, settings)
    return kept


def _retyped_settings(
    op: ops.ModifyTableOps, settings: Mapping[str, str]
) -> list[MigrateOperation]:
    """Return what renamed columns of settings need beside their name, while it is the old one.

    Alembic took the old column for one that goes, and the new one for one that comes.
    """
    there = {
        one.column_name: one.to_column() for one in op.ops if isinstance(one, ops.DropColumnOp)
    }
    made: list[MigrateOperation] = []
    for one in op.ops:
        if isinstance(one, ops.AddColumnOp):
            former = there.get(settings.get(one.column.name, ""))
            if former is not None:
                change = _difference(op.table_name, op.schema, former, one.column)
                made += _protected(change, False, {})
    return made


def _difference(
    table: str, schema: str | None, there: sa.Column[Any], wanted: sa.Column[Any]
) -> ops.AlterColumnOp:
    """Return what makes one audit column of another, as Alembic would if they had one name."""
    return ops.AlterColumnOp(
        table,
        there.name,
        schema=schema,
        existing_type=there.type,
        existing_nullable=there.nullable,
        modify_type=None if _same(there.type, wanted.type) else wanted.type,
        modify_nullable=True if wanted.nullable and not there.nullable else None,
    )


def _former_columns(op: ops.CreateIndexOp, settings: Mapping[str, str]) -> list[Any]:
    """Return the columns of an index as they are called until the trigger is replaced."""
    return [
        settings.get(one.name, one) if isinstance(one, sa.Column) else one for one in op.columns
    ]


def _former_names(op: ops.ModifyTableOps) -> dict[str, str]:
    """Return our own columns that an audit table has under another name, and that name."""
    added = {each.column.name for each in op.ops if isinstance(each, ops.AddColumnOp)}
    there = {each.column_name for each in op.ops if isinstance(each, ops.DropColumnOp)}
    return {
        name: former for name, former in _FORMER_NAMES.items() if name in added and former in there
    }


def _protected(
    op: MigrateOperation, is_new: bool, settings: Mapping[str, str]
) -> list[MigrateOperation]:
    """Return what an operation on an audit table becomes.

    Args:
        op: The operation.
        is_new: The audit table is made in this migration.
        settings: New to old name of columns that are renamed.
    """
    if isinstance(op, ops.CreateIndexOp):
        return [CreateAuditIndexOp.from_create_index(op) if is_new else op]
    if isinstance(op, ops.AddColumnOp):
        return _added(op, settings)
    if isinstance(op, ops.AlterColumnOp):
        return _altered(op)
    if isinstance(op, ops.DropColumnOp):
        return _left(op, settings)
    lossy = (
        ops.DropTableOp,
        ops.DropIndexOp,
        ops.DropConstraintOp,
        ops.CreateTableCommentOp,
        ops.DropTableCommentOp,
    )
    return [] if isinstance(op, lossy) else [op]


def _added(op: ops.AddColumnOp, settings: Mapping[str, str]) -> list[MigrateOperation]:
    if op.column.name in settings:
        return []
    if op.column.name == "audit_id":
        return [NumberAuditTableOp(op.table_name, schema=op.schema)]
    # On a table that exists, NOT NULL would need values; the function enforces it instead.
    column = with_database_type(op.column)
    column.nullable = True
    return [AddAuditColumnOp(op.table_name, column, schema=op.schema, if_not_exists=True)]


def _altered(op: ops.AlterColumnOp) -> list[MigrateOperation]:
    place, schema = (op.table_name, op.column_name), op.schema
    old, new = (
        kind if kind is None else database_type(kind) for kind in (op.existing_type, op.modify_type)
    )
    retyped: list[MigrateOperation] = []
    nullable = op.modify_nullable
    # Our own columns keep the type they have: a cast of a timestamp would move it.
    if (
        new is not None
        and old is not None
        and op.column_name not in _OWN
        and not retype.holds(old, new)
    ):
        new = retype.wide_enough(old, new)
        retyped.append(AlterAuditColumnOp(*place, schema=schema, existing_type=old, type_=new))
        # What is set aside gets no more values; on the way back it becomes NOT NULL at last.
        nullable = nullable or not retype.widens(old, new)
    if nullable and not op.existing_nullable:
        return [_nullable(*place, schema), *retyped]
    return retyped


def _is_left_out(op: ops.DropIndexOp, source: sa.Table | None) -> bool:
    """Return whether the option ``indexes`` leaves out an index that it made, or the default one.

    What somebody made by hand has another name; ``classic`` never had one, and leaves it.
    """
    spec: AuditSpec | None = source.info.get(SPEC_KEY) if source is not None else None
    if spec is None or spec.audit_columns != "standard":
        return False
    return _is_ours(op, spec)


def _is_ours(op: ops.DropIndexOp, spec: AuditSpec) -> bool:
    return op.index_name == index_name(spec, _names(op.to_index().columns))


def _left(op: ops.DropColumnOp, settings: Mapping[str, str]) -> list[MigrateOperation]:
    """Return what a column needs that nothing writes any more: it must be allowed to be NULL."""
    column = op.to_column()
    if (
        column.nullable
        or column.primary_key
        or column.identity is not None
        or column.server_default is not None
        or op.column_name in settings.values()
    ):
        return []
    return [_nullable(op.table_name, op.column_name, op.schema)]


def _nullable(table: str, column: str, schema: str | None) -> AlterAuditColumnOp:
    return AlterAuditColumnOp(table, column, schema=schema, nullable=True)
