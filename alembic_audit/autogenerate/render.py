"""Operations to the text of a migration: one argument a line, literals only."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import alembic  # noqa: F401  (first, or the order of imports decides whether this module loads)
import sqlalchemy as sa
from alembic.autogenerate.api import AutogenContext
from alembic.autogenerate.render import _repr_type, renderers
from alembic.operations.ops import AddColumnOp, CreateTableOp
from sqlalchemy.types import TypeEngine

from alembic_audit.database_types import DatabaseType
from alembic_audit.operations import (
    AddAuditColumnOp,
    AlterAuditColumnOp,
    CreateAuditSchemaOp,
    CreateAuditTableOp,
    CreateAuditTriggerOp,
    DropAuditColumnOp,
    DropAuditSchemaOp,
    DropAuditTableOp,
    DropAuditTriggerOp,
    LockAuditedTablesOp,
    MoveAuditedTableOp,
    NumberAuditTableOp,
    PurgeAuditTableOp,
    RenameAuditedColumnOp,
    RenameAuditedTableOp,
    ReplaceAuditTriggerOp,
    RestoreAuditTriggerOp,
    SetAuditContextOp,
    SnapshotAuditTableOp,
)
from alembic_audit.spec import AuditSpec

_WIDTH = 88


class _Code(str):
    """Text of an argument that is an expression already."""

    __slots__ = ()


def _call(context: AutogenContext, name: str, args: list[Any], kwargs: dict[str, Any]) -> str:
    prefix = context.opts.get("alembic_module_prefix") or ""
    parts = [_value(arg, 1) for arg in args]
    parts += [f"{key}={_value(value, 1)}" for key, value in kwargs.items()]
    line = f"{prefix}{name}({', '.join(parts)})"
    if "\n" not in line and len(line) <= _WIDTH:
        return line
    return f"{prefix}{name}(\n" + "".join(f"    {part},\n" for part in parts) + ")"


def _value(value: Any, depth: int) -> str:
    if isinstance(value, _Code):
        return str(value)
    if isinstance(value, dict) and (
        len(repr(value)) > _WIDTH or any(_is_long(one) for one in value.values())
    ):
        return _block("{}", [f"{k!r}: {_value(v, depth + 1)}" for k, v in value.items()], depth)
    if isinstance(value, list) and _is_long(value):
        return _block("[]", [_text(one, depth + 1) for one in value], depth)
    return repr(value)


def _is_long(value: Any) -> bool:
    return isinstance(value, list) and (
        len(repr(value)) > _WIDTH or any("\n" in one for one in value)
    )


def _block(brackets: str, parts: list[str], depth: int) -> str:
    pad = "    " * depth
    inner = "".join(f"{pad}    {part},\n" for part in parts)
    return f"{brackets[0]}\n{inner}{pad}{brackets[1]}"


def _text(value: str, depth: int) -> str:
    """Return a string as one literal per line of it: a reviewer can read a function body so."""
    pad = "    " * depth
    lines = value.splitlines(keepends=True) if "\n" in value else [value]
    return f"\n{pad}".join(repr(line) for line in lines)


def _with_schema(schema: str | None, **kwargs: Any) -> dict[str, Any]:
    return {**({"schema": schema} if schema else {}), **kwargs}


def _spec_kwargs(spec: AuditSpec, found: tuple[str, ...]) -> dict[str, Any]:
    return {**spec.to_kwargs(), **({"found": list(found)} if found else {})}


@contextmanager
def _own_types(context: AutogenContext, kinds: Iterable[TypeEngine[Any] | None]) -> Iterator[None]:
    """Render types of audit columns without the user's hooks, which may name the application's.

    Args:
        context: Of this run.
        kinds: The types.
    """
    opts = context.opts
    items = (kind.item_type if isinstance(kind, sa.ARRAY) else kind for kind in kinds)
    if any(isinstance(item, DatabaseType) for item in items) and context.imports is not None:
        context.imports.add("import alembic_audit")
    context.opts = {**opts, "render_item": None, "user_module_prefix": "alembic_audit."}
    try:
        yield
    finally:
        context.opts = opts


@renderers.dispatch_for(CreateAuditTableOp)
def _create_table(context: AutogenContext, op: CreateAuditTableOp) -> Any:
    kinds = (one.type for one in op.columns if isinstance(one, sa.Column))
    with _own_types(context, kinds):
        return renderers.dispatch(CreateTableOp)(context, op)


@renderers.dispatch_for(AddAuditColumnOp)
def _add_column(context: AutogenContext, op: AddAuditColumnOp) -> Any:
    with _own_types(context, [op.column.type]):
        return renderers.dispatch(AddColumnOp)(context, op)


@renderers.dispatch_for(CreateAuditTriggerOp)
def _create(context: AutogenContext, op: CreateAuditTriggerOp) -> list[str]:
    kwargs = _spec_kwargs(op.state.spec, op.state.found)
    lines = [_call(context, "create_audit_trigger", [op.state.spec.table], kwargs)]
    if op.snapshot:
        lines += _commented_snapshot(context, op.state.spec, "the table may have rows already")
    return lines


def _commented_snapshot(context: AutogenContext, spec: AuditSpec, why: str) -> list[str]:
    call = _call(context, "snapshot_audit_table", [spec.table], spec.to_kwargs())
    return [
        f"# {why}; to record them as they are now:",
        *(f"# {line}" for line in call.splitlines()),
    ]


@renderers.dispatch_for(SnapshotAuditTableOp)
def _snapshot(context: AutogenContext, op: SnapshotAuditTableOp) -> str:
    kwargs = op.spec.to_kwargs()
    if op.batch_size is not None:
        kwargs["batch_size"] = op.batch_size
    return _call(context, "snapshot_audit_table", [op.spec.table], kwargs)


@renderers.dispatch_for(DropAuditTriggerOp)
def _drop(context: AutogenContext, op: DropAuditTriggerOp) -> str:
    kwargs = _with_schema(op.schema, audit_table=op.audit_table)
    plain = DropAuditTriggerOp(op.table_name, schema=op.schema, audit_schema=op.audit_schema)
    if op.audit_schema != op.schema:
        kwargs["audit_schema"] = op.audit_schema
    if op.function != plain.function:
        kwargs["function"] = op.function
    return _call(context, "drop_audit_trigger", [op.table_name], kwargs)


@renderers.dispatch_for(ReplaceAuditTriggerOp)
def _replace(context: AutogenContext, op: ReplaceAuditTriggerOp) -> list[str]:
    spec = op.new.spec
    kwargs = {**_spec_kwargs(spec, op.new.found), "replaces": op.replaces()}
    lines = [f"# {drift.kind}: {_one_line(drift.detail)}" for drift in op.old.drift]
    if not kwargs["replaces"] and not lines:
        why = "as it was found" if op.new.found else "compiled anew for a type that changes"
        lines.append(f"# the same: {why}")
    lines.append(_call(context, "replace_audit_trigger", [spec.table], kwargs))
    if op.snapshot:
        why = "this migration changes rows, and no trigger sees it"
        lines += _commented_snapshot(context, spec, why)
    return lines


@renderers.dispatch_for(RestoreAuditTriggerOp)
def _restore(context: AutogenContext, op: RestoreAuditTriggerOp) -> str:
    kwargs = _with_schema(op.schema)
    args = [op.table_name, list(op.statements)]
    return _call(context, "restore_audit_trigger", args, kwargs)


@renderers.dispatch_for(RenameAuditedTableOp)
def _rename_table(context: AutogenContext, op: RenameAuditedTableOp) -> str:
    kwargs = op.new.to_kwargs() | _renamed(op)
    return _call(context, "rename_audited_table", [op.old.table, op.new.table], kwargs)


@renderers.dispatch_for(MoveAuditedTableOp)
def _move_table(context: AutogenContext, op: MoveAuditedTableOp) -> str:
    kwargs = op.new.to_kwargs() | _renamed(op)
    kwargs.pop("schema", None)
    kwargs |= {"schema": op.old.schema} if op.old.schema else {}
    return _call(context, "move_audited_table", [op.new.table, op.new.schema], kwargs)


def _renamed(op: RenameAuditedTableOp | MoveAuditedTableOp) -> dict[str, Any]:
    source = {op.argument.partition("=")[0]: True} if op.source_renamed else {}
    return source | ({"replaces": replaces} if (replaces := op.replaces()) else {})


@renderers.dispatch_for(RenameAuditedColumnOp)
def _rename_column(context: AutogenContext, op: RenameAuditedColumnOp) -> str:
    args = [op.new.table, op.column, op.renamed]
    kwargs = {"source_renamed": True} if op.source_renamed else {}
    return _call(context, "rename_audited_column", args, op.new.to_kwargs() | kwargs)


def rename_table_call(old: AuditSpec, new: AuditSpec) -> str:
    """Return the call that renames an audited table, in one line."""
    replaces = RenameAuditedTableOp(old, new).replaces()
    kwargs = new.to_kwargs() | ({"replaces": replaces} if replaces else {})
    return _in_one_line("rename_audited_table", [old.table, new.table], kwargs)


def rename_column_call(spec: AuditSpec, column: str, renamed: str) -> str:
    """Return the call that renames a column of an audited table, in one line."""
    return _in_one_line("rename_audited_column", [spec.table, column, renamed], spec.to_kwargs())


def _in_one_line(name: str, args: list[str], kwargs: dict[str, Any]) -> str:
    parts = [*map(repr, args), *(f"{key}={value!r}" for key, value in kwargs.items())]
    return f"op.{name}({', '.join(parts)})"


def _one_line(text: str) -> str:
    return " ".join(text.split())


@renderers.dispatch_for(DropAuditTableOp)
def _drop_table(context: AutogenContext, op: DropAuditTableOp) -> str:
    call = _call(context, "drop_audit_table", [op.table_name], _with_schema(op.schema))
    return f"{call}  # kept, with a NOTICE, while it holds records"


@renderers.dispatch_for(DropAuditColumnOp)
def _drop_column(context: AutogenContext, op: DropAuditColumnOp) -> str:
    args = [op.table_name, op.column_name]
    call = _call(context, "drop_audit_column", args, _with_schema(op.schema))
    return f"{call}  # kept, with a NOTICE, while it holds values"


@renderers.dispatch_for(SetAuditContextOp)
def _set_context(context: AutogenContext, op: SetAuditContextOp) -> str:
    return _call(context, "set_audit_context", [], op.values)


@renderers.dispatch_for(AlterAuditColumnOp)
def _alter_column(context: AutogenContext, op: AlterAuditColumnOp) -> str:
    kwargs = _with_schema(op.schema)
    if op.new_column_name is not None:
        kwargs["new_column_name"] = op.new_column_name
    elif op.type_ is None or op.existing_type is None:
        kwargs["nullable"] = op.nullable
    else:
        with _own_types(context, [op.existing_type, op.type_]):
            kwargs["existing_type"] = _Code(_repr_type(op.existing_type, context))
            kwargs["type_"] = _Code(_repr_type(op.type_, context))
    return _call(context, "alter_audit_column", [op.table_name, op.column_name], kwargs)


@renderers.dispatch_for(NumberAuditTableOp)
def _number(context: AutogenContext, op: NumberAuditTableOp) -> str:
    return _call(context, "number_audit_table", [op.table_name], _with_schema(op.schema))


@renderers.dispatch_for(PurgeAuditTableOp)
def _purge(context: AutogenContext, op: PurgeAuditTableOp) -> str:
    kwargs = _with_schema(op.schema, before=op.before, reason=op.reason)
    kwargs["keep_last"] = op.keep_last or None
    return _call(context, "purge_audit_table", [op.table_name], kwargs)


@renderers.dispatch_for(CreateAuditSchemaOp)
def _create_schema(context: AutogenContext, op: CreateAuditSchemaOp) -> str:
    return _call(context, "create_audit_schema", [op.schema], {})


@renderers.dispatch_for(DropAuditSchemaOp)
def _drop_schema(context: AutogenContext, op: DropAuditSchemaOp) -> str:
    call = _call(context, "drop_audit_schema", [op.schema], {})
    return f"{call}  # kept while it holds anything"


@renderers.dispatch_for(LockAuditedTablesOp)
def _lock(context: AutogenContext, op: LockAuditedTablesOp) -> list[str]:
    nobody = "reads or writes" if op.mode == "ACCESS EXCLUSIVE" else "writes"
    return [
        f"# nobody else {nobody} these until the end of the transaction",
        _call(context, "lock_audited_tables", [list(op.tables)], {"mode": op.mode}),
    ]
