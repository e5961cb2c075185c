"""Operations to the text of a migration: one argument a line, literals only."""

from typing import Any

import alembic  # noqa: F401  (first, or the order of imports decides whether this module loads)
from alembic.autogenerate.api import AutogenContext
from alembic.autogenerate.render import renderers

from alembic_audit.operations import (
    CreateAuditTriggerOp,
    DropAuditColumnOp,
    DropAuditTableOp,
    DropAuditTriggerOp,
    ReplaceAuditTriggerOp,
)
from alembic_audit.spec import AuditSpec

_WIDTH = 88


def _call(context: AutogenContext, name: str, args: list[str], kwargs: dict[str, Any]) -> str:
    prefix = context.opts.get("alembic_module_prefix") or ""
    parts = [repr(arg) for arg in args]
    parts += [f"{key}={_value(value, 1)}" for key, value in kwargs.items()]
    line = f"{prefix}{name}({', '.join(parts)})"
    if "\n" not in line and len(line) <= _WIDTH:
        return line
    return f"{prefix}{name}(\n" + "".join(f"    {part},\n" for part in parts) + ")"


def _value(value: Any, depth: int) -> str:
    if isinstance(value, dict) and any(_is_long(one) for one in value.values()):
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


@renderers.dispatch_for(CreateAuditTriggerOp)
def _create(context: AutogenContext, op: CreateAuditTriggerOp) -> str:
    kwargs = _spec_kwargs(op.state.spec, op.state.found)
    return _call(context, "create_audit_trigger", [op.state.spec.table], kwargs)


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
    kwargs = {**_spec_kwargs(op.new.spec, op.new.found), "replaces": op.replaces()}
    comments = [f"# {drift.kind}: {_one_line(drift.detail)}" for drift in op.old.drift]
    return [*comments, _call(context, "replace_audit_trigger", [op.new.spec.table], kwargs)]


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
