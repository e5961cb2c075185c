"""The order of tables in which rows are inserted, and what to do where each row needs the other."""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.schema import sort_tables_and_constraints

from alembic_audit.catalog.references import deferrable
from alembic_audit.restoring import rows
from alembic_audit.restoring.steps import Action, Work, alike

Waiting = Mapping[frozenset[str], tuple[str, bool]]


def arranged(run: object, work: Sequence[Work]) -> tuple[list[Work], tuple[str, ...]]:
    """Say in which order tables come, and what lets rows refer to each other.

    A foreign key that no order serves is checked later, if it is deferrable; or else its nullable
    columns are NULL until the row that they refer to is there, and before that one is deleted.

    Args:
        run: Executes.
        work: What is planned; the order of it stays.

    Returns:
        The work, with that; and the constraints to defer, as SQL.
    """
    busy = [each for each in work if each.steps]
    tables = [each.part.trail.table for each in busy]
    if not any(_references(table, tables, itself=True) for table in tables):
        return list(work), ()
    waiting = {table: deferrable_of(run, table) for table in tables}
    order = list(_ordered(tables, waiting))
    late: dict[sa.Table, dict[Action, list[str]]] = {
        table: {"insert": [], "delete": []} for table in tables
    }
    deferred: list[str] = []
    for each in busy:
        table = each.part.trail.table
        for reference in _references(table, tables, itself=True):
            other = next(one for one in busy if one.part.trail.table is reference.referred_table)
            for action in ("insert", "delete"):
                if not _is_broken(each, other, action, order):
                    continue
                if action == "delete" and _follows(reference):
                    continue
                names = frozenset(column.name for column in reference.columns)
                constraint, waits = waiting[table].get(names, ("", False))
                if constraint and (waits or action == "insert"):
                    deferred.append(constraint)
                else:
                    late[table][action] += _nullable(reference)
    placed = [
        dataclasses.replace(
            each,
            place=order.index(each.part.trail.table),
            set_later=tuple(dict.fromkeys(late[each.part.trail.table]["insert"])),
            cleared=tuple(dict.fromkeys(late[each.part.trail.table]["delete"])),
        )
        if each.steps
        else each
        for each in work
    ]
    return placed, tuple(dict.fromkeys(deferred))


def deferrable_of(run: object, table: sa.Table) -> Waiting:
    """The deferrable foreign keys that a table has in the database."""
    return deferrable(rows.connection(run, table), rows.name_of(run, table))


def _ordered(tables: Sequence[sa.Table], waiting: Mapping[sa.Table, Waiting]) -> Iterator[sa.Table]:
    """Yield tables, those first that others cannot do without."""
    known = {one for table in tables for one in table.metadata.tables.values()}
    in_order: Any = sort_tables_and_constraints
    usual = [table for table, _ in in_order(known) if table is not None]
    left = sorted(tables, key=usual.index)
    while left:

        def missing(table: sa.Table) -> tuple[int, int]:
            needed = _references(table, left)
            strict = [
                one
                for one in needed
                if not _nullable(one)
                and frozenset(column.name for column in one.columns) not in waiting[table]
            ]
            return len(strict), len(needed)

        chosen = min(left, key=missing)
        left.remove(chosen)
        yield chosen


def _references(
    table: sa.Table, others: Collection[sa.Table], *, itself: bool = False
) -> list[sa.ForeignKeyConstraint]:
    """The foreign keys by which a table refers to others."""
    keys = sorted(table.foreign_key_constraints, key=lambda one: [*one.column_keys])
    return [
        one
        for one in keys
        if one.referred_table in others and (itself or one.referred_table is not table)
    ]


def _is_broken(each: Work, other: Work, action: Action, order: Sequence[sa.Table]) -> bool:
    """Whether rows are inserted before those they refer to, or deleted after them."""
    ours, theirs = (any(step.action == action for step in one.steps) for one in (each, other))
    if not ours or not theirs:
        return False
    if each is other:
        # One statement inserts all rows that are written alike, and checks at its end.
        return action == "insert" and len(list(alike(each, action))) > 1
    places = [order.index(one.part.trail.table) for one in (each, other)]
    return places[0] < places[1]


def _follows(reference: sa.ForeignKeyConstraint) -> bool:
    return (reference.ondelete or "").upper().startswith(("CASCADE", "SET"))


def _nullable(reference: sa.ForeignKeyConstraint) -> Iterable[str]:
    # MATCH FULL wants all columns to be NULL, or none.
    names = [column.name for column in reference.columns if column.nullable]
    is_full = (reference.match or "").upper() == "FULL"
    return [] if is_full and len(names) < len(reference.columns) else names
