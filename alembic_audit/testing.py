"""assert_audited: for tests of applications."""

from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, scoped_session

from alembic_audit.errors import ReadingError
from alembic_audit.reading.history import changes, free
from alembic_audit.reading.trail import Trail, trail_of

SHOWN = 20
"""How many records, the newest, a failure lists."""


def assert_audited(
    connectable: "Session | scoped_session[Session] | sa.Connection",
    source: Any,
    *,
    op: str | None = None,
    changed: Collection[str] | None = None,
    key: Any = None,
    actor: str | Mapping[str, Any] | None = None,
) -> Mapping[str, Any]:
    """Assert that a trail holds a record, and return the newest such one.

    With a Session, and with an AsyncSession::

        assert_audited(session, Account, op="U", changed={"email"})
        await async_session.run_sync(assert_audited, Account, op="U")

    Args:
        connectable: A Session, which is flushed first, or a Connection. Records of its own
            transaction are seen.
        source: An audited class or Table.
        op: insert, update, delete, truncate, snapshot, or the letter.
        changed: All the columns that the UPDATE changed, named as in the table or the class.
        key: The primary key of the row.
        actor: A role, or values of session settings by their names.

    Returns:
        The columns of the record, by the names of the audit table.

    Raises:
        AssertionError: There is none; it lists the newest records that there are.
        ReadingError: The trail cannot be read, or has no such operation, column or setting.
    """
    trail = trail_of(source)
    if hasattr(connectable, "run_sync"):
        raise ReadingError("assert_audited of what is asynchronous: await its run_sync()")
    if not isinstance(connectable, sa.Connection):
        connectable.flush()
    statement = changes(trail.table, actor=actor, operation=op)
    label = free("audit_changed", {column.name for column in trail.audit.columns})
    if key is not None:
        statement = statement.where(trail.is_row(trail.key_values(key), trail.audit))
    if changed is not None:
        wanted = _names(trail, changed)
        statement = statement.where(trail.audit.c.audit_operation == "U")
    for row in connectable.execute(statement).mappings():
        if changed is None or set(row[label] or ()) == wanted:
            return {column.name: row[column.name] for column in trail.audit.columns}
    newest = connectable.execute(changes(trail.table).limit(SHOWN)).mappings().all()
    asked = {"op": op, "changed": changed, "key": key, "actor": actor}
    words = ", ".join(f"{name}={value!r}" for name, value in asked.items() if value is not None)
    raise AssertionError(
        f"no record of {trail.table.fullname!r} with {words or 'anything'}; "
        + ("the newest there are:\n" if newest else "there is none at all")
        + "\n".join(_line(trail, row, label) for row in newest)
    )


def _names(trail: Trail, names: Collection[str]) -> set[str]:
    """Return columns of the table, by names of the table or the class."""
    if isinstance(names, str):
        raise ReadingError(f"changed={names!r} is one text; write {{{names!r}}}")
    known = {trail.attribute(name): name for name in trail.recorded}
    known |= {name: name for name in trail.recorded}
    if strays := sorted(set(names) - set(known)):
        raise ReadingError(
            f"the trail of {trail.table.fullname!r} has no column {strays[0]!r}; "
            f"there are {sorted(known)}"
        )
    return {known[name] for name in names}


def _line(trail: Trail, row: Mapping[Any, Any], label: str) -> str:
    key = ", ".join(f"{name}={row[name]!r}" for name in trail.spec.key)
    settings = "".join(
        f" {setting.name}={row[setting.column]!r}" for setting in trail.spec.session_settings
    )
    changed = f" changed={set(row[label])!r}" if row[label] else ""
    return (
        f"  {row['audit_id']} {row['audit_operation']} {key}{changed}"
        f" by {row['audit_current_user']!r}{settings}"
    )
