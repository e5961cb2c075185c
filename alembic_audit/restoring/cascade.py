"""Rows that a deletion would take along, or out of a reference, and that no plan names."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from alembic_audit.reading.qualified import compare
from alembic_audit.reading.trail import Trail
from alembic_audit.restoring import rows
from alembic_audit.restoring.rows import Target
from alembic_audit.restoring.steps import Work

MOST = 100
"""How many rows of a foreign key are named."""

Child = tuple[sa.Table, tuple[Any, ...], tuple[str, ...]]


def children(run: Any, work: Sequence[Work]) -> Iterator[Child]:
    """Yield rows that follow a deletion by ``ON DELETE CASCADE``, ``SET NULL`` or ``SET DEFAULT``.

    By the foreign keys of the models.

    Args:
        run: Executes.
        work: What is planned; rows that it changes are left out.

    Yields:
        The table, the key of the row, and the columns that refer. The key is empty where row level
        security may hide rows.
    """
    planned = {each.part.trail.table: each for each in work if each.steps}
    for each in planned.values():
        trail = each.part.trail
        gone = [step.row.target for step in each.steps if step.action == "delete"]
        for reference in _references(trail.table) if gone else ():
            child = reference.table
            names = tuple(column.name for column in reference.columns)
            if rows.are_hidden(run, child):
                yield child, (), names
            for some in rows.batches(gone):
                for row in run.execute(_referring(trail, some, reference, planned)):
                    yield child, tuple(row), names


def _references(table: sa.Table) -> Iterator[sa.ForeignKeyConstraint]:
    """Yield the foreign keys by which rows of other tables follow those of a table."""
    for other in table.metadata.tables.values():
        for constraint in other.foreign_key_constraints:
            follows = (constraint.ondelete or "").upper().startswith(("CASCADE", "SET"))
            if follows and constraint.referred_table is table:
                yield constraint


def _referring(
    trail: Trail,
    gone: Sequence[Target],
    reference: sa.ForeignKeyConstraint,
    planned: Mapping[sa.Table, Work],
) -> "sa.Select[Any]":
    child, live, anchor = reference.table.alias(), trail.table.alias(), trail.audit.alias()
    key = reference.table.primary_key.columns or reference.columns
    pairs = [
        compare(
            rows.comparable(child, one.parent.name), "=", rows.comparable(live, one.column.name)
        )
        for one in reference.elements
    ]
    shown = [rows.column(child, column.name) for column in key]
    referring = (
        sa.select(*shown)
        .select_from(anchor)
        .join(live, rows.is_same(trail, live, anchor))
        .join(child, sa.and_(*pairs))
        .where(rows.is_one_of(anchor, [target.anchor for target in gone]))
        .order_by(*shown)
        .limit(MOST)
    )
    if (own := planned.get(reference.table)) is None:
        return referring
    record = own.part.trail.audit.alias()
    is_planned = sa.select(sa.literal(1)).where(
        rows.is_same(own.part.trail, child, record),
        rows.is_one_of(record, [step.row.target.anchor for step in own.steps]),
    )
    return referring.where(~is_planned.correlate(child).exists())
