"""What autogenerate says beside the migration, and what it stops at."""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence

import alembic  # noqa: F401  (first, or the order of imports decides whether this module loads)
from alembic.operations import ops
from alembic.operations.ops import MigrateOperation
from alembic.util import CommandError

from alembic_audit import levels
from alembic_audit.autogenerate import render
from alembic_audit.autogenerate.names import audit_of, source_of, table_of
from alembic_audit.autogenerate.protect import is_audit_table
from alembic_audit.autogenerate.rows import flat
from alembic_audit.operations import (
    CreateAuditTriggerOp,
    DropAuditTriggerOp,
    ReplaceAuditTriggerOp,
    display_name,
)
from alembic_audit.spec import AuditSpec
from alembic_audit.states import Catalog, ForeignTrigger, Name

log = logging.getLogger("alembic_audit.autogenerate")


def second_trails(
    declared: Mapping[Name, AuditSpec], foreign: Iterable[ForeignTrigger], default_schema: str
) -> list[ForeignTrigger]:
    """Return the triggers of others that record what a declared trail records too."""
    second = []
    for trigger in foreign:
        spec = declared.get(trigger.table)
        if spec is not None:
            schemas = (None, spec.audit_schema or default_schema)
            if {(schema, spec.audit_table) for schema in schemas} & set(trigger.inserts_into):
                second.append(trigger)
    return second


def stop_at(second: Iterable[ForeignTrigger], declared: Mapping[Name, AuditSpec]) -> None:
    """Refuse to audit a table whose changes somebody else's trigger records already.

    Raises:
        CommandError: There is such a trigger.
    """
    for trigger in second:
        spec = declared[trigger.table]
        raise CommandError(
            f"trigger {trigger.name!r} on {display_name(spec)}, which is not ours, inserts into "
            f"the audit table {spec.audit_table!r}: every change would be recorded twice. To take "
            "the trail over, run: alembic -x audit_adopt=yes revision --autogenerate; see "
            "docs/adoption.md"
        )


def stop_at_rows_needed(
    declared: Mapping[Name, AuditSpec],
    found: Catalog,
    foreign: Iterable[ForeignTrigger],
    operations: Iterable[MigrateOperation],
    default_schema: str,
) -> None:
    """Refuse statement level where only the database knows that it would record otherwise.

    Args:
        declared: What the models ask for.
        found: What the database holds.
        foreign: Triggers of others.
        operations: Alembic's; a foreign key that they drop does nothing any more.
        default_schema: What a schema of None means.

    Raises:
        CommandError: There is such a table.
    """
    reasons = dict(found.unfit)
    for trigger in foreign:
        if trigger.after_row:
            reasons.setdefault(
                trigger.table,
                f"has another AFTER ROW trigger, {trigger.name}, and what that changes would be "
                "recorded before its cause",
            )
    for name, spec in declared.items():
        if spec.statement_level and name in reasons:
            raise CommandError(
                f"{display_name(spec)} {reasons[name]}: statement triggers, which level "
                f"'statement' or 'auto' came to, do not fit; write level=\"row\" in its options"
            )
    dropped = {
        (*table_of(op, default_schema), op.constraint_name)
        for op in flat(operations)
        if isinstance(op, ops.DropConstraintOp)
    }
    for name, spec in declared.items():
        left = [one for one in found.foreign_keys.get(name, ()) if (*name, one.name) not in dropped]
        if wrong := levels.missing_rows(spec, left):
            reason, line = wrong
            raise CommandError(
                f"the database has, for {display_name(spec)}, {reason}, and the models do not "
                "declare them: statement triggers would record them in a wrong order. Declare the "
                f"foreign keys with ondelete and onupdate, or {line}"
            )


def log_kept(
    operations: Iterable[MigrateOperation],
    audit_tables: Collection[Name],
    changes: Iterable[tuple[AuditSpec, AuditSpec]],
    default_schema: str,
) -> None:
    """Say that a table which Alembic called removed is kept."""
    moved = {audit_of(old, default_schema) for old, _ in changes}
    for op in operations:
        name = table_of(op, default_schema)
        if (
            isinstance(op, ops.DropTableOp)
            and name not in moved
            and (name in audit_tables or is_audit_table(op.to_table()))
        ):
            log.info("Kept audit table %s: its records go only when a person drops them", name[1])


def log_all(
    operations: Sequence[MigrateOperation], foreign: Iterable[ForeignTrigger], default_schema: str
) -> None:
    """Say what was detected, and what a person should look at."""
    for op in operations:
        if isinstance(op, CreateAuditTriggerOp | DropAuditTriggerOp | ReplaceAuditTriggerOp):
            log.info("Detected %s", " ".join(str(part) for part in op.to_diff_tuple()[:2]))
    created = [op.state.spec for op in operations if isinstance(op, CreateAuditTriggerOp)]
    begun = {source_of(spec, default_schema) for spec in created}
    for trigger in foreign:
        if trigger.after_row and trigger.table in begun:
            log.warning(
                "Table %s has another AFTER ROW trigger, %s: in a statement of many rows it runs "
                "for an earlier row before a later row is recorded, so that what it writes to "
                "audited tables comes before its cause in the trail",
                trigger.table[1],
                trigger.name,
            )
    ended = [op.state.spec for op in operations if isinstance(op, DropAuditTriggerOp) and op.state]
    for old, new in _renamed_tables(operations, ended, created, default_schema):
        call = render.rename_table_call(old, new)
        log.warning(
            "Table %s vanishes and %s, which looks like it, appears; if it was renamed, write "
            "instead, so that its trail goes on: %s",
            old.table,
            new.table,
            call,
        )
    for spec, column, renamed in _renamed_columns(operations, default_schema):
        log.warning(
            "Column %s of %s vanishes and %s appears; if it was renamed, write instead, so that "
            "its history goes on: %s",
            column,
            spec.table,
            renamed,
            render.rename_column_call(spec, column, renamed),
        )


def _renamed_tables(
    operations: Sequence[MigrateOperation],
    ended: Iterable[AuditSpec],
    created: Iterable[AuditSpec],
    default_schema: str,
) -> list[tuple[AuditSpec, AuditSpec]]:
    """Return pairs of a vanished and an appeared table that share most of their columns."""
    dropped = {table_of(op, default_schema) for op in operations if isinstance(op, ops.DropTableOp)}
    made = {table_of(op, default_schema) for op in operations if isinstance(op, ops.CreateTableOp)}
    pairs = []
    for old in ended:
        for new in created:
            common = set(old.stored) & set(new.stored)
            if (
                source_of(old, default_schema) in dropped
                and source_of(new, default_schema) in made
                and old.schema == new.schema
                and 2 * len(common) > len(set(old.stored) | set(new.stored))
            ):
                pairs.append((old, new))
    return pairs


def _renamed_columns(
    operations: Sequence[MigrateOperation], default_schema: str
) -> list[tuple[AuditSpec, str, str]]:
    """Return audited tables of which one stored column vanishes while one appears."""
    added: dict[Name, list[str]] = {}
    for op in operations:
        if isinstance(op, ops.ModifyTableOps):
            for one in op.ops:
                if isinstance(one, ops.AddColumnOp):
                    added.setdefault(table_of(one, default_schema), []).append(one.column.name)
    renamed = []
    for op in operations:
        if isinstance(op, ReplaceAuditTriggerOp):
            old, new = op.old.spec, op.new.spec
            gone = [name for name in old.stored if name not in new.stored]
            come = [name for name in new.stored if name not in old.stored]
            name = source_of(new, default_schema)
            if len(gone) == len(come) == 1 and come == added.get(name):
                renamed.append((new, gone[0], come[0]))
    return renamed
