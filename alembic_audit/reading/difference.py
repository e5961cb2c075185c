"""diff: what differs between two moments of a table, or between two records."""

import dataclasses
from collections.abc import Mapping
from typing import Any, overload

import sqlalchemy as sa

from alembic_audit.errors import ReadingError
from alembic_audit.reading.history import free
from alembic_audit.reading.past import SOURCE_OPTION
from alembic_audit.reading.qualified import compare, same_image
from alembic_audit.reading.record import AuditRecord
from alembic_audit.reading.trail import Trail, trail_of
from alembic_audit.reading.types import names_where
from alembic_audit.spec import CHANGED_COLUMNS, OMITTED_COLUMNS, OWN_COLUMNS
from alembic_audit.tables import SPEC_KEY


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """A column, or an attribute, and its values before and after."""

    name: str
    before: Any
    after: Any


Record = AuditRecord | Mapping[str, Any] | None


@overload
def diff(a: "sa.Select[Any]", b: "sa.Select[Any]") -> "sa.Select[Any]": ...
@overload
def diff(a: Record, b: Record) -> tuple[Change, ...]: ...
def diff(a: Any, b: Any) -> Any:
    """Return what differs.

    A Select that is executed by a role that may not read the audit table raises the error of the
    server.

    Args:
        a: What was before: a Select that ``as_of`` made, narrowed as you like; or a record, that
            is an instance of an audit class, or a row of an audit table as a mapping, or None.
        b: What came after, likewise.

    Returns:
        For Selects a Select of the rows that differ, ``audit_difference`` (``I`` where a row came,
        ``D`` where it went, ``U`` where it changed), the columns before and after as
        ``audit_before_<name>`` and ``audit_after_<name>``, and ``audit_changed``, the names of
        those that differ where both are there. For records the Changes, in the order of columns.

    Raises:
        ReadingError: The two are not of one table, or are something else.
    """
    if isinstance(a, sa.Select) and isinstance(b, sa.Select):
        return _selects(a, b)
    if all(one is None or isinstance(one, (AuditRecord, Mapping)) for one in (a, b)):
        before, after = _values(a), _values(b)
        names = dict.fromkeys([*before, *after])
        if isinstance(a, AuditRecord) and isinstance(b, AuditRecord) and type(a) is not type(b):
            raise ReadingError(f"{a!r} and {b!r} are records of two tables")
        return tuple(
            Change(name, before.get(name), after.get(name))
            for name in names
            if before.get(name) != after.get(name)
        )
    raise ReadingError("diff() takes two Selects that as_of() made, or two records")


def _values(record: Any) -> dict[str, Any]:
    """Return the values of a record that are the row's."""
    if record is None:
        return {}
    ours = {*OWN_COLUMNS["standard"], CHANGED_COLUMNS, OMITTED_COLUMNS}
    if isinstance(record, Mapping):
        found = dict(record)
    else:
        spec = sa.inspect(type(record)).local_table.info[SPEC_KEY]
        ours |= {setting.column for setting in spec.session_settings}
        found = {
            each.key: getattr(record, each.key) for each in sa.inspect(type(record)).column_attrs
        }
    return {name: value for name, value in found.items() if name not in ours}


def _selects(a: "sa.Select[Any]", b: "sa.Select[Any]") -> "sa.Select[Any]":
    sources = [one.get_execution_options().get(SOURCE_OPTION) for one in (a, b)]
    if sources[0] is None or sources[0] is not sources[1]:
        raise ReadingError("diff() takes two Selects that as_of() made of one table")
    trail = trail_of(sources[0])
    old, new = a.subquery("audit_before"), b.subquery("audit_after")
    names = [name for name in trail.recorded if name in trail.spec.columns]
    before, after = _columns(trail, old, names), _columns(trail, new, names)
    key = trail.spec.key
    gone, came = after[key[0]].is_(None), before[key[0]].is_(None)
    different = {name: ~same_image(after[name], before[name]) for name in names}
    changed = names_where(different)
    taken: set[str] = set()
    return (
        sa.select(
            sa.case((gone, "D"), (came, "I"), else_="U").label("audit_difference"),
            *(before[name].label(f"audit_before_{name}") for name in names),
            *(after[name].label(f"audit_after_{name}") for name in names),
            sa.case((~sa.or_(gone, came), changed)).label(free("audit_changed", taken)),
        )
        .select_from(old)
        .outerjoin(
            new, sa.and_(*(compare(before[name], "=", after[name]) for name in key)), full=True
        )
        .where(sa.or_(gone, came, *different.values()))
    )


def _columns(trail: Trail, rows: sa.Subquery, names: list[str]) -> dict[str, sa.ColumnElement[Any]]:
    found = {column.name: column for column in rows.columns}
    if missing := [name for name in names if name not in found]:
        raise ReadingError(f"diff() needs the columns {missing} of {trail.table.fullname!r}")
    return {name: found[name] for name in names}
