"""history and changes: records, newest first, with the values before."""

import difflib
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Any, Literal, TypeVar, overload

import sqlalchemy as sa
from sqlalchemy.orm import aliased
from sqlalchemy.sql.selectable import LateralFromClause, NamedFromClause

from alembic_audit import values
from alembic_audit.errors import ReadingError
from alembic_audit.reading.qualified import Text, cast, compare, is_any
from alembic_audit.reading.record import AuditRecord, class_of
from alembic_audit.reading.trail import Trail, dropped_values, trail_of
from alembic_audit.spec import CHANGED_COLUMNS

_T = TypeVar("_T")
_Before = AuditRecord | None
_Names = list[str] | None

OPERATIONS = {"insert": "I", "update": "U", "delete": "D", "truncate": "T", "snapshot": "S"}
"""What ``changes(operation=...)`` takes, and what stands in ``audit_operation``."""


@overload
def history(source: sa.Table, key: Any, *, dropped: bool = False) -> "sa.Select[Any]": ...
@overload
def history(
    source: type[_T], key: Any, *, dropped: Literal[False] = False
) -> "sa.Select[AuditRecord, _Before, _Names]": ...
@overload
def history(
    source: type[_T], key: Any, *, dropped: Literal[True]
) -> "sa.Select[AuditRecord, _Before, _Names, dict[str, Any]]": ...
def history(source: Any, key: Any, *, dropped: bool = False) -> Any:
    """Return a Select of the records of one row, newest first.

    A TRUNCATE that removed the row is one of them. A key that was changed ends with ``D``, and
    the row goes on under its new key with ``U``. Executed by a role that may not read the audit
    table, it raises the error of the server.

    Args:
        source: An audited class or Table.
        key: The primary key: a value, a tuple, or a mapping.
        dropped: Also return a JSON object of the columns that the model does not have any more.

    Returns:
        For a class, the record, the record before (None where there was no row, or none was
        recorded), and the names of the columns that an UPDATE changed. For a Table: the columns
        of the audit table, those before as ``audit_before_<name>``, and ``audit_changed``.

    Raises:
        ReadingError: The trail cannot be read, or the key is none.
    """
    trail = trail_of(source)
    key_values = trail.key_values(key)
    audit = trail.audit
    before = _before(trail, lambda earlier: trail.is_row(key_values, earlier))
    statement: sa.Select[Any] = _select(trail, source, before, dropped=dropped)
    return statement.where(
        sa.or_(trail.is_row(key_values, audit), trail.is_truncate(audit)),
        sa.or_(compare(audit.c.audit_operation, "<>", "T"), before.exists),
    )


@overload
def changes(
    source: sa.Table,
    *,
    actor: str | Mapping[str, Any] | None = None,
    since: datetime | sa.ColumnElement[datetime] | None = None,
    until: datetime | sa.ColumnElement[datetime] | None = None,
    transaction: int | None = None,
    operation: str | Collection[str] | None = None,
    column: str | None = None,
    dropped: bool = False,
) -> "sa.Select[Any]": ...
@overload
def changes(
    source: type[_T],
    *,
    actor: str | Mapping[str, Any] | None = None,
    since: datetime | sa.ColumnElement[datetime] | None = None,
    until: datetime | sa.ColumnElement[datetime] | None = None,
    transaction: int | None = None,
    operation: str | Collection[str] | None = None,
    column: str | None = None,
    dropped: Literal[False] = False,
) -> "sa.Select[AuditRecord, _Before, _Names]": ...
@overload
def changes(
    source: type[_T],
    *,
    actor: str | Mapping[str, Any] | None = None,
    since: datetime | sa.ColumnElement[datetime] | None = None,
    until: datetime | sa.ColumnElement[datetime] | None = None,
    transaction: int | None = None,
    operation: str | Collection[str] | None = None,
    column: str | None = None,
    dropped: Literal[True],
) -> "sa.Select[AuditRecord, _Before, _Names, dict[str, Any]]": ...
def changes(
    source: Any,
    *,
    actor: str | Mapping[str, Any] | None = None,
    since: datetime | sa.ColumnElement[datetime] | None = None,
    until: datetime | sa.ColumnElement[datetime] | None = None,
    transaction: int | None = None,
    operation: str | Collection[str] | None = None,
    column: str | None = None,
    dropped: bool = False,
) -> Any:
    """Return a Select of the records of a table, newest first, shaped as that of ``history``.

    Executed by a role that may not read the audit table, it raises the error of the server.

    Args:
        source: An audited class or Table.
        actor: A role, or values of session settings by their names.
        since: The first time, included.
        until: The last time, not included.
        transaction: The number of a transaction.
        operation: One or more of insert, update, delete, truncate, snapshot, or their letters.
        column: Only UPDATEs that changed this column, named as in the table or the class.
        dropped: Also return a JSON object of the columns that the model does not have any more.

    Raises:
        ReadingError: The trail cannot be read, or has no such setting, operation or column.
    """
    trail = trail_of(source)
    audit = trail.audit
    before = _before(
        trail,
        lambda earlier: trail.is_same_row(earlier, audit),
    )
    statement: sa.Select[Any] = _select(trail, source, before, dropped=dropped)
    statement = statement.where(*_by_actor(trail, actor))
    for label, operator, moment in (("since", ">=", since), ("until", "<", until)):
        if moment is not None:
            _check_time(label, moment)
            statement = statement.where(
                compare(audit.c.audit_operation_timestamp, operator, moment)
            )
    if transaction is not None:
        _check_number(transaction)
        statement = statement.where(compare(audit.c.audit_transaction_id, "=", transaction))
    if operation is not None:
        statement = statement.where(
            sa.or_(
                sa.false(),
                *(compare(audit.c.audit_operation, "=", one) for one in _letters(operation)),
            )
        )
    if column is not None:
        wanted = sa.literal(column_of(trail, column), sa.Text)
        statement = statement.where(is_any(wanted, before.changed))
    return statement


class _Earlier:
    """The record before, joined to each record.

    Args:
        trail: Whose records.
        records: What finds the record before by the index of the key, one row or none.
    """

    def __init__(self, trail: Trail, records: LateralFromClause) -> None:
        audit, between = trail.audit, trail.audit.alias()
        emptied = (
            sa.select(sa.literal(1))
            .select_from(between)
            .where(
                trail.is_truncate(between),
                compare(between.c.audit_id, ">", records.c.audit_id),
                compare(between.c.audit_id, "<", audit.c.audit_id),
            )
            .correlate(audit, records)
            .exists()
        )
        self.records = records
        self.exists = records.c.audit_id.is_not(None)
        # An INSERT begins a row, whatever was recorded under its key before.
        self.condition = sa.and_(
            compare(audit.c.audit_operation, "<>", "I"),
            compare(records.c.audit_operation, "<>", "D"),
            ~emptied,
        )
        computed = trail.changed(
            audit, records, sa.and_(compare(audit.c.audit_operation, "=", "U"), self.exists)
        )
        self.changed: sa.ColumnElement[Any] = computed
        if trail.spec.changed_columns:
            self.changed = sa.func.coalesce(audit.c[CHANGED_COLUMNS], computed, type_=computed.type)


def _before(
    trail: Trail, same_row: Callable[[NamedFromClause], sa.ColumnElement[bool]]
) -> _Earlier:
    earlier = trail.audit.alias()
    found = (
        sa.select(earlier)
        .where(same_row(earlier), compare(earlier.c.audit_id, "<", trail.audit.c.audit_id))
        .order_by(earlier.c.audit_id.desc())
        .limit(1)
        .correlate(trail.audit)
        .lateral("audit_before")
    )
    return _Earlier(trail, found)


def _select(trail: Trail, source: Any, before: _Earlier, *, dropped: bool) -> "sa.Select[Any]":
    audit = trail.audit
    statement: sa.Select[Any]
    if trail.mapper is not None:
        record = class_of(trail, source)
        entity = aliased(record, before.records)
        statement = sa.select(record, entity, before.changed.label("changed")).outerjoin(
            entity, before.condition
        )
    else:
        names = {column.name for column in audit.columns}
        statement = (
            sa.select(
                *(trail.value(audit, column.name).label(column.name) for column in audit.columns),
                *(
                    trail.value(before.records, column.name).label(
                        free(f"audit_before_{column.name}", names)
                    )
                    for column in before.records.columns
                ),
                before.changed.label(free("audit_changed", names)),
            )
            .select_from(audit)
            .outerjoin(before.records, before.condition)
        )
    if dropped:
        known = [column.name for column in audit.columns]
        statement = statement.add_columns(
            dropped_values(audit, known).label(
                "dropped" if trail.mapper is not None else free("audit_dropped", set(known))
            )
        )
    return statement.order_by(audit.c.audit_id.desc())


def free(name: str, taken: set[str]) -> str:
    """Return *name*, with ``_`` after it while it is taken."""
    while name in taken:
        name += "_"
    return name


def _by_actor(trail: Trail, actor: Any) -> list[sa.ColumnElement[bool]]:
    """Return the conditions that a record is of an actor."""
    if actor is None:
        return []
    audit = trail.audit
    if isinstance(actor, str):
        return [compare(audit.c.audit_current_user, "=", actor)]
    columns = {setting.name: setting.column for setting in trail.spec.session_settings}
    if not isinstance(actor, Mapping):
        raise ReadingError(
            f"actor={actor!r} is neither a role nor settings by their names; write "
            f"actor={{name: {actor!r}}} with a name of {sorted(columns)}"
        )
    types = values.declared(trail.table.metadata)
    conditions = []
    for name, value in actor.items():
        if name not in columns:
            raise ReadingError(
                f"the trail of {trail.table.fullname!r} has no session setting {name!r}"
                + _hint(str(name), columns)
            )
        column = audit.c[columns[name]]
        # As set_session_vars and audit_context send it, and the trigger reads it.
        kinds = [kind for kind in types.get(name, ()) if kind[0] == trail.table.fullname]
        text = "" if value is None else values.one_text(name, value, kinds)
        conditions.append(
            compare(column, "=", cast(sa.literal(text, Text()), column.type))
            if text
            else column.is_(None)
        )
    return conditions


def _check_time(label: str, moment: Any) -> None:
    """See that something is a time with its zone, or SQL.

    Raises:
        ReadingError: It is not.
    """
    if isinstance(moment, sa.ClauseElement) or hasattr(moment, "__clause_element__"):
        return
    if not isinstance(moment, datetime):
        raise ReadingError(
            f"{label}={moment!r} is no time; write a datetime, as "
            "datetime(2026, 1, 31, tzinfo=timezone.utc)"
        )
    if moment.utcoffset() is None:
        raise ReadingError(f"{moment!r} has no time zone; write one, as tzinfo=timezone.utc")


def _check_number(transaction: Any) -> None:
    if not isinstance(transaction, (int, sa.ClauseElement)):
        raise ReadingError(f"transaction={transaction!r} is no number; write one, as 755")


def _letters(operation: Any) -> list[str]:
    given = list(operation) if isinstance(operation, (list, tuple, set, frozenset)) else [operation]
    for name in given:
        if name not in OPERATIONS and name not in OPERATIONS.values():
            raise ReadingError(f"{name!r} is no operation" + _hint(str(name), OPERATIONS))
    return [OPERATIONS.get(name, name) for name in given]


def column_of(trail: Trail, name: str) -> str:
    """Return the recorded column that a name of the table or of the class means.

    Raises:
        ReadingError: There is none.
    """
    names = {trail.attribute(one): one for one in trail.recorded} | {
        one: one for one in trail.recorded
    }
    if name not in names:
        raise ReadingError(
            f"the trail of {trail.table.fullname!r} has no column {name!r}"
            + _hint(str(name), names)
        )
    return names[name]


def _hint(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f": did you mean {close[0]!r}?" if close else f"; there are {sorted(known)}"
