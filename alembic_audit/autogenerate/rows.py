"""What a migration does to rows and compiled functions that no trigger sees. Pure functions."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import alembic  # noqa: F401  (first, or the order of imports decides whether this module loads)
from alembic.operations import ops
from alembic.operations.ops import MigrateOperation

from alembic_audit.autogenerate.names import audit_of, source_of, table_of
from alembic_audit.operations import AddAuditColumnOp, AlterAuditColumnOp
from alembic_audit.spec import AuditSpec
from alembic_audit.states import Name


def compiled_with_other_types(
    operations: Iterable[MigrateOperation],
    changes: Sequence[tuple[AuditSpec, AuditSpec]],
    default_schema: str,
) -> set[Name]:
    """Return the tables whose function has to be compiled anew, since a type changes.

    PL/pgSQL looks the ``%TYPE`` of a setting's column up when it compiles, and a session that has
    planned a statement with NEW or OLD fails when a field of theirs has another type. It compiles
    anew when the function is replaced.
    """
    retyped: dict[Name, set[str]] = defaultdict(set)
    for op in flat(operations):
        if (isinstance(op, AlterAuditColumnOp) and op.type_ is not None) or (
            isinstance(op, ops.AlterColumnOp) and op.modify_type is not None
        ):
            retyped[table_of(op, default_schema)].add(op.column_name)
    names = set()
    for old, new in changes:
        source = source_of(new, default_schema)
        of_source = retyped.get(source, set())
        of_audit = retyped.get(audit_of(old, default_schema), set())
        if of_source & {*old.stored, *old.key} or of_audit & {
            setting.column for setting in old.session_settings
        }:
            names.add(source)
    return names


def unrecorded(
    operations: Sequence[MigrateOperation],
    declared: Mapping[Name, AuditSpec],
    audited: Mapping[Name, AuditSpec],
    default_schema: str,
) -> set[Name]:
    """Return the declared tables with rows that the trail does not have as they are afterwards.

    That is a table which exists when its audit begins, one of which a column is added with a
    default, added again, or retyped, and one of which more is recorded than before.

    Args:
        operations: Alembic's operations, protected.
        declared: What the models ask for, by audited table.
        audited: The trails that there are, by audited table.
        default_schema: What a schema of None means.
    """
    each = list(flat(operations))
    created = {table_of(op, default_schema) for op in each if isinstance(op, ops.CreateTableOp)}
    audit_columns = {
        (*table_of(op, default_schema), op.column.name)
        for op in each
        if isinstance(op, AddAuditColumnOp)
    }
    changed = set()
    added: dict[Name, set[str]] = defaultdict(set)
    for op in each:
        name = table_of(op, default_schema)
        if isinstance(op, ops.AddColumnOp):
            added[name].add(op.column.name)
        spec = declared.get(name)
        if spec is None:
            continue
        if isinstance(op, ops.AlterColumnOp) and op.modify_type is not None:
            changed.add(name)
        elif isinstance(op, ops.AddColumnOp) and op.column.name in spec.stored:
            audit = (spec.audit_schema or default_schema, spec.audit_table, op.column.name)
            if op.column.server_default is not None or audit not in audit_columns:
                changed.add(name)
    more = {
        name
        for name, old in audited.items()
        if name in declared and _records_more(old, declared[name], added[name])
    }
    return changed | more | (set(declared) - created - set(audited))


def _records_more(old: AuditSpec, new: AuditSpec, added: Collection[str]) -> bool:
    """Return whether there is something of present rows that only the new spec records."""
    return bool(
        set(new.columns) - set(old.columns) - set(added)
        or set(new.hash_columns) - set(old.stored) - set(added)
        or set(old.ignore_columns) & set(new.watched)
        or set(new.operations) - set(old.operations) - {"truncate"}
    )


def flat(operations: Iterable[MigrateOperation]) -> Iterator[MigrateOperation]:
    """Operations without the containers by table that Alembic puts them in."""
    for op in operations:
        if isinstance(op, ops.ModifyTableOps):
            yield from op.ops
        else:
            yield op
