"""blame: who set the values that a row has."""

from typing import Any, TypeVar, overload

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic_audit.reading.history import free
from alembic_audit.reading.qualified import catalog, compare, greatest_of, same_image
from alembic_audit.reading.record import AuditRecord, class_of
from alembic_audit.reading.trail import Trail, trail_of

_T = TypeVar("_T")


@overload
def blame(source: sa.Table, key: Any) -> "sa.Select[Any]": ...
@overload
def blame(source: type[_T], key: Any) -> "sa.Select[str, AuditRecord]": ...
def blame(source: Any, key: Any) -> Any:
    """Return a Select of the columns of a row, each with the record that gave it its value.

    They stand in the order of the table. A row that was deleted has none. What a row had when its
    record began, or when it came under this key, is that record's. Executed by a role that may not
    read the audit table, it raises the error of the server.

    Args:
        source: An audited class or Table.
        key: The primary key: a value, a tuple, or a mapping.

    Returns:
        For a class, the name of the column in the table, and the record. For a Table,
        ``audit_column``, and the columns of the audit table.

    Raises:
        ReadingError: The trail cannot be read, or the key is none.
    """
    trail = trail_of(source)
    last = _last_set(trail, trail.key_values(key)).subquery()
    each = (
        sa.func.unnest(  # of several arrays the grammar knows it, see qualified.py
            postgresql.array([sa.literal(name, sa.Text) for name in trail.recorded]),
            postgresql.array(list(last.c)),
        )
        .table_valued("name", "setter", with_ordinality="place", name="audit_blame")
        .render_derived()
        .lateral()
    )
    audit = trail.audit
    name = sa.type_coerce(each.c.name, sa.Text)
    shown: list[Any] = [trail.value(audit, one.name).label(one.name) for one in audit.columns]
    label = free("audit_column", {column.name for column in audit.columns})
    if trail.mapper is not None:
        shown, label = [class_of(trail, source)], "column"
    return (
        sa.select(name.label(label), *shown)
        .select_from(last)
        .join(each, sa.true())
        .join(audit, compare(audit.c.audit_id, "=", each.c.setter))
        .order_by(each.c.place)
    )


def _last_set(trail: Trail, values: list[Any]) -> "sa.Select[Any]":
    """Return one row: for each column, the last record that gave it another value."""
    audit, ends, truncates = (trail.audit.alias() for _ in range(3))
    deleted = sa.select(greatest_of(ends.c.audit_id)).where(
        trail.is_row(values, ends), compare(ends.c.audit_operation, "=", "D")
    )
    emptied = sa.select(greatest_of(truncates.c.audit_id)).where(trail.is_truncate(truncates))
    order = audit.c.audit_id
    first = catalog.lag(order).over(order_by=order).is_(None)
    setters = [
        sa.case(
            (
                sa.or_(
                    first,
                    ~same_image(
                        trail.value(audit, stored),
                        catalog.lag(trail.value(audit, stored)).over(order_by=order),
                    ),
                ),
                order,
            )
        ).label(f"setter_{number}")
        for number, stored in enumerate(trail.recorded.values())
    ]
    life = (
        sa.select(*setters)
        .where(
            trail.is_row(values, audit),
            compare(order, ">", sa.func.coalesce(deleted.scalar_subquery(), 0)),
            compare(order, ">", sa.func.coalesce(emptied.scalar_subquery(), 0)),
        )
        .subquery()
    )
    return sa.select(*(greatest_of(column).label(column.name) for column in life.c))
