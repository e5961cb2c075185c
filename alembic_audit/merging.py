"""The change of one revision, applied to what another revision made of the trail."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from alembic_audit.errors import SpecError
from alembic_audit.spec import OPERATIONS, AuditSpec

_OF_COLUMNS = ("columns", "hash_columns", "ignore_columns", "sparse_columns", "as_text")
_SETS = ("operations", "partitions", "row_level")


def merge(old: AuditSpec, new: AuditSpec, found: AuditSpec) -> AuditSpec:
    """What *found* becomes when all that differs between *old* and *new* is changed in it too.

    Columns, operations, partitions and settings are merged one by one, other arguments as a whole.

    Raises:
        SpecError: Both sides changed one thing in different ways, or what both made does not go
            together. The message has both changes and the operation to write.
    """
    conflicts: list[str] = []

    def merged(what: str, before: Any, after: Any, there: Any) -> Any:
        if there not in (before, after) and before != after:
            conflicts.append(what)
        return there if before == after else after

    fields: dict[str, Any] = {
        field.name: merged(field.name, *(getattr(one, field.name) for one in (old, new, found)))
        for field in dataclasses.fields(AuditSpec)
        if field.name not in (*_OF_COLUMNS, *_SETS, "session_settings")
    }
    fields |= _columns(old, new, found, merged)
    for name in _SETS:
        before, after, there = (set(getattr(one, name)) for one in (old, new, found))
        members = (there - (before - after)) | (after - before)
        fields[name] = tuple(
            sorted(members, key=OPERATIONS.index if name != "partitions" else None)
        )
    settings = [{one.name: one for one in spec.session_settings} for spec in (old, new, found)]
    fields["session_settings"] = tuple(
        sorted(
            setting
            for name in _each(settings[2], settings[1])
            if (setting := merged(f"setting {name}", *(one.get(name) for one in settings)))
        )
    )
    made = AuditSpec(**fields)
    if conflicts:
        raise SpecError(_message(old, new, found, made, "both change " + ", ".join(conflicts)))
    try:
        # Through its arguments, so that it is checked as any other.
        return AuditSpec.from_kwargs(made.table, **made.full_kwargs())
    except SpecError as error:
        raise SpecError(_message(old, new, found, made, str(error))) from error


def difference(old: AuditSpec, new: AuditSpec) -> str:
    """The arguments that differ, with both values."""
    before, after = ({"table": one.table, **one.full_kwargs()} for one in (old, new))
    changed = [
        f"{name}: {value!r} becomes {after[name]!r}"
        for name, value in before.items()
        if value != after[name]
    ]
    return "; ".join(changed) or "nothing"


def _columns(
    old: AuditSpec, new: AuditSpec, found: AuditSpec, merged: Callable[[str, Any, Any, Any], Any]
) -> dict[str, Any]:
    """How each source column is recorded: a column is one thing, whatever arguments name it."""

    def treatment(spec: AuditSpec, column: str) -> tuple[Any, ...]:
        return (
            column in spec.columns,
            column in spec.hash_columns,
            column in spec.ignore_columns,
            column in spec.sparse_columns,
            dict(spec.as_text).get(column),
        )

    names = _each(found.stored, new.stored)
    treatments = {
        name: merged(f"column {name}", *(treatment(spec, name) for spec in (old, new, found)))
        for name in _each(names, old.stored)
    }
    of_columns: dict[str, Any] = {
        field: tuple(name for name in names if treatments[name][place])
        for place, field in enumerate(_OF_COLUMNS[:4])
    }
    texts = ((name, treatments[name][4]) for name in sorted(names))
    return {**of_columns, "as_text": tuple((name, kind) for name, kind in texts if kind)}


def _each(*names: Iterable[str]) -> list[str]:
    """Names in order of appearance, each once."""
    return list(dict.fromkeys(name for some in names for name in some))


def _message(old: AuditSpec, new: AuditSpec, found: AuditSpec, made: AuditSpec, reason: str) -> str:
    before, after = found.full_kwargs(), made.full_kwargs()
    replaces = {name: value for name, value in before.items() if value != after[name]}
    arguments = ", ".join(f"{name}={value!r}" for name, value in made.to_kwargs().items())
    return (
        f"the audit trigger of {old.table!r} was changed by another revision, and the change of "
        f"this one cannot be applied to it: {reason}. This revision: {difference(old, new)}. The "
        f"other: {difference(old, found)}. Let this revision follow the other one (down_revision), "
        "and write in it what both shall make, as "
        f"op.replace_audit_trigger({made.table!r}, {arguments}, replaces={replaces!r})"
    )
