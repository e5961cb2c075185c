"""Where our operations stand among Alembic's. A pure function of its arguments.

Only our operations and the DropColumnOps of audited tables are moved; every other operation stays
where Alembic put it, so the reversal of the whole is valid as it stands.
"""

from collections.abc import Sequence

import alembic  # noqa: F401  (first, or the order of imports decides whether this module loads)
from alembic.operations import ops
from alembic.operations.ops import MigrateOperation

from alembic_audit.operations import (
    CreateAuditTriggerOp,
    DropAuditTriggerOp,
    ReplaceAuditTriggerOp,
)
from alembic_audit.spec import AuditSpec


def merge(
    theirs: Sequence[MigrateOperation], ours: Sequence[MigrateOperation], default_schema: str
) -> list[MigrateOperation]:
    """Return all operations in the order in which they can run.

    Drops of triggers come first. A trigger is created or replaced after the last operation that
    creates, adds or alters what it reads and writes, and before columns of its table are dropped.

    Args:
        theirs: Alembic's operations, protected.
        ours: Our operations on triggers.
        default_schema: What a schema of None means.
    """
    drops = [op for op in ours if isinstance(op, DropAuditTriggerOp)]
    rest = list(theirs)
    late: dict[int, list[MigrateOperation]] = {}
    for op in ours:
        if isinstance(op, CreateAuditTriggerOp):
            spec = op.state.spec
        elif isinstance(op, ReplaceAuditTriggerOp):
            spec = op.new.spec
        else:
            continue
        source, audit = _tables(spec, default_schema)
        rest, dropped = _without_dropped_columns(rest, source, default_schema)
        place = max(
            (
                index + 1
                for index, other in enumerate(rest)
                if _name(other, default_schema) in (source, audit)
            ),
            default=0,
        )
        late.setdefault(place, []).extend([op, *dropped])
    merged: list[MigrateOperation] = [*drops]
    for index in range(len(rest) + 1):
        merged += late.get(index, [])
        merged += rest[index : index + 1]
    return merged


def _tables(spec: AuditSpec, default_schema: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return (
        (spec.schema or default_schema, spec.table),
        (spec.audit_schema or default_schema, spec.audit_table),
    )


def _name(op: MigrateOperation, default_schema: str) -> tuple[str, str]:
    if isinstance(op, ops.CreateForeignKeyOp):
        return (op.kw.get("source_schema") or default_schema, op.source_table)
    return (getattr(op, "schema", None) or default_schema, getattr(op, "table_name", ""))


def _without_dropped_columns(
    operations: Sequence[MigrateOperation], source: tuple[str, str], default_schema: str
) -> tuple[list[MigrateOperation], list[MigrateOperation]]:
    """Return the operations without the DropColumnOps of a table, and those in a container.

    A ModifyTableOps that is emptied stays, as an empty one: the places of other operations are
    counted already.
    """
    kept: list[MigrateOperation] = []
    dropped: list[MigrateOperation] = []
    for op in operations:
        if isinstance(op, ops.ModifyTableOps) and _name(op, default_schema) == source:
            columns = [one for one in op.ops if isinstance(one, ops.DropColumnOp)]
            if columns:
                others = [one for one in op.ops if one not in columns]
                kept.append(ops.ModifyTableOps(op.table_name, others, schema=op.schema))
                dropped.append(ops.ModifyTableOps(op.table_name, columns, schema=op.schema))
                continue
        kept.append(op)
    return kept, dropped
