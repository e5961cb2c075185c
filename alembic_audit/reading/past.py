"""as_of: a table as it was."""

from typing import Any, Literal, TypeVar, overload

import sqlalchemy as sa

from alembic_audit.errors import ReadingError
from alembic_audit.reading.entity import past_alias
from alembic_audit.reading.history import free
from alembic_audit.reading.qualified import cast, compare, greatest_of
from alembic_audit.reading.trail import Trail, When, dropped_values, trail_of, until
from alembic_audit.spec import OPERATIONS

SOURCE_OPTION = "audit_source"
"""The execution option by which a Select says which table it shows."""

_T = TypeVar("_T")


@overload
def as_of(source: sa.Table, when: When, *, dropped: bool = False) -> "sa.Select[Any]": ...
@overload
def as_of(source: type[_T], when: When, *, dropped: Literal[False] = False) -> "sa.Select[_T]": ...
@overload
def as_of(
    source: type[_T], when: When, *, dropped: Literal[True]
) -> "sa.Select[_T, dict[str, Any]]": ...
def as_of(source: Any, when: When, *, dropped: bool = False) -> Any:
    """Return a Select of a table as it was.

    Rows that were there before the trail began, and in no record yet, are not in it. A column of
    which nothing or a hash is stored is left out; as an attribute of an entity it raises. Executed
    by a role that may not read the audit table, it raises the error of the server.

    Args:
        source: An audited class or Table.
        when: A time with its zone, an ``AuditId`` or a ``TransactionId``.
        dropped: Also return a JSON object of the columns that the model does not have any more.

    Returns:
        For a class, entities of it that belong to no session; whatever would load, refresh or
        write today's row by one raises a ``PastEntityError``. For a Table its columns.

    Raises:
        ReadingError: The trail cannot be read or replayed, or *when* is no moment.
    """
    trail = replayable(source)
    rows = _rows(trail, when, dropped=dropped)
    statement: sa.Select[Any]
    if trail.mapper is None:
        statement = sa.select(rows)
    else:
        statement = sa.select(past_alias(trail, rows))
        if dropped:
            statement = statement.add_columns(rows.c[_dropped(trail)].label("dropped"))
    return statement.execution_options(**{SOURCE_OPTION: source})


@overload
def past(source: sa.Table, when: When) -> sa.Subquery: ...
@overload
def past(source: type[_T], when: When) -> type[_T]: ...
def past(source: Any, when: When) -> Any:
    """Return what ``as_of`` selects from, to be joined: an alias of the class, or a Subquery.

    An alias that is selected gives entities of the past, as ``as_of`` does, also beside those of
    today. Columns of which nothing or a hash is stored are NULL. Executed by a role that may not
    read the audit table, it raises the error of the server.

    Args:
        source: An audited class or Table.
        when: As for ``as_of``.

    Raises:
        ReadingError: The trail cannot be read or replayed, or *when* is no moment.
    """
    trail = replayable(source)
    rows = _rows(trail, when, dropped=False)
    return rows if trail.mapper is None else past_alias(trail, rows)


def replayable(source: Any) -> Trail:
    """Return the trail of a class or a Table, of which every operation is recorded.

    Raises:
        ReadingError: The trail cannot be read, or lacks an operation.
    """
    trail = trail_of(source)
    if missing := [name for name in OPERATIONS if name not in trail.spec.operations]:
        raise ReadingError(
            f"the trail of {trail.table.fullname!r} does not record {', '.join(missing)}, so that "
            "it cannot say which rows there were; leave 'operations' out of its options"
        )
    return trail


def _rows(trail: Trail, when: When, *, dropped: bool) -> sa.Subquery:
    """Return the rows there were: the last record of each key, unless it or a TRUNCATE ends it."""
    audit, truncates = trail.audit.alias(), trail.audit.alias()
    columns = [audit.c[name] for name in trail.recorded if name in trail.spec.columns]
    newest = _newest(trail, when)
    extra = []
    if dropped:
        known = [column.name for column in trail.audit.columns]
        extra.append(dropped_values(audit, known).label(_dropped(trail)))
    emptied = (
        sa.select(greatest_of(truncates.c.audit_id))
        .where(trail.is_truncate(truncates), until(truncates, when))
        .scalar_subquery()
    )
    shown: list[sa.ColumnElement[Any]] = [
        sa.type_coerce(
            newest.c[column.name]
            if _is_exact(trail, column.name)
            else trail.value(audit, column.name),
            trail.type_of(column.name),
        ).label(column.name)
        for column in columns
    ]
    if trail.mapper is not None:
        lost = {column.name: column for column in trail.table.columns}
        shown += [cast(sa.null(), lost[name].type).label(name) for name in _lost(trail)]
    # By key and number: a filter on the key then narrows both sides.
    same = [compare(newest.c[name], "=", audit.c[name]) for name in (*trail.spec.key, "audit_id")]
    return (
        sa.select(*shown, *extra)
        .select_from(newest)
        .join(audit, sa.and_(*same))
        .where(
            compare(audit.c.audit_operation, "<>", "D"),
            compare(audit.c.audit_id, ">", sa.func.coalesce(emptied, 0)),
        )
        .subquery()
    )


def _newest(trail: Trail, when: When) -> sa.Subquery:
    """Return each key and the number of its last record.

    An aggregate and a join, not one pass that sorts (DISTINCT ON, row_number()): a million records
    took the CPU 0.5 to 1.0 times as long by time and 0.6 to 1.6 times by number where a key has 2
    or 10 of them, 4 and 12 times where it has 1,000, and the sort spills all columns of all
    records; left to the planner it takes its order from the index, and reads 31 times the pages.
    """
    audit = trail.audit.alias()
    key = trail.key_of(audit)
    return (
        sa.select(*key, greatest_of(audit.c.audit_id).label("audit_id"))
        .where(*(column.is_not(None) for column in key), until(audit, when))
        .group_by(*key)
        .subquery()
    )


def _is_exact(trail: Trail, name: str) -> bool:
    """Whether equal keys look alike (1.0 and 1.00 do not): then that of the aggregate is shown.

    A filter by range is pushed down to it, one by equality in either case.
    """
    exact = (sa.Integer, sa.Uuid, sa.Date)
    return name in trail.spec.key and isinstance(trail.audit.c[name].type, exact)


def _lost(trail: Trail) -> list[str]:
    """Return the columns of the table of which a trail holds no value."""
    return [column.name for column in trail.table.columns if column.name not in trail.spec.columns]


def _dropped(trail: Trail) -> str:
    return free("audit_dropped", {column.name for column in trail.table.columns})
