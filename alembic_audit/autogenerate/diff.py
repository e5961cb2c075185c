"""Declared specs and found states to operations. No I/O."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping

import alembic  # noqa: F401  (first, or the order of imports decides whether this module loads)
from alembic.operations.ops import MigrateOperation

from alembic_audit.operations import (
    CreateAuditTriggerOp,
    DropAuditTriggerOp,
    ReplaceAuditTriggerOp,
)
from alembic_audit.spec import AuditSpec
from alembic_audit.states import AuditState, Name, Stray


def compare(
    declared: Mapping[Name, AuditSpec],
    found: Mapping[Name, AuditState],
    *,
    compile_anew: Collection[Name] = (),
    unrecorded: Collection[Name] = (),
) -> list[MigrateOperation]:
    """Return the operations that turn what was found into what is declared, sorted by table.

    Args:
        declared: What the models ask for, by audited table.
        found: What the database holds, by audited table.
        compile_anew: Tables whose function has to forget a type.
        unrecorded: Tables that hold, or will hold after this migration, rows which the trail does
            not have as they are.
    """
    made: list[MigrateOperation] = []
    for name in sorted({*declared, *found}):
        spec, state = declared.get(name), found.get(name)
        snapshot = name in unrecorded
        if state is None and spec is not None:
            made.append(CreateAuditTriggerOp(AuditState(spec), snapshot=snapshot))
        elif state is not None and spec is None:
            made.append(DropAuditTriggerOp.from_state(state))
        elif (
            state is not None
            and spec is not None
            and (name in compile_anew or state.drift or _differ(state.spec, spec))
        ):
            old = _with_owners(state, spec)
            made.append(ReplaceAuditTriggerOp(old, AuditState(spec), snapshot=snapshot))
    return made


def _differ(old: AuditSpec, new: AuditSpec) -> bool:
    return old != new and old.unordered() != new.unordered()


def drop_strays(strays: Iterable[Stray], default_schema: str) -> list[MigrateOperation]:
    """Return the operations that drop what is ours and part of no trail."""

    def plain(schema: str) -> str | None:
        return None if schema == default_schema else schema

    return [
        DropAuditTriggerOp(
            stray.table[1],
            schema=plain(stray.table[0]),
            audit_table=stray.audit_table,
            audit_schema=plain(stray.function[0]),
            function=stray.function[1],
            restore=stray.restore,
        )
        for stray in strays
    ]


def _with_owners(state: AuditState, spec: AuditSpec) -> AuditState:
    """Return a state that can give the owners back which a newly declared owner takes over from."""
    if spec.owner in (None, state.spec.owner):
        return state
    return dataclasses.replace(state, found=(*state.found, *state.owners))
