"""The statements of a restoration: values go from the audit table to the table in PostgreSQL."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from alembic_audit.ddl import verbatim
from alembic_audit.errors import RestoreError
from alembic_audit.reading.history import free
from alembic_audit.reading.trail import Trail
from alembic_audit.restoring import rows
from alembic_audit.restoring.cascade import children
from alembic_audit.restoring.rows import Target
from alembic_audit.restoring.steps import Step, Work, alike


def run(
    connectable: Any,
    work: Sequence[Work],
    deferred: Sequence[str],
    *,
    overwrite: bool,
    deletes_first: bool,
) -> None:
    """Do all of it behind a savepoint, or nothing.

    Args:
        connectable: A Session or a Connection.
        work: What to do.
        deferred: Constraints, as SQL, that are checked at the end.
        overwrite: Also where a deletion takes other rows along.
        deletes_first: Delete rows before others are inserted.

    Raises:
        RestoreError: A row is not as it was when the plan was made, others refer to it since, or a
            change of it was not recorded.
    """
    work = [each for each in work if each.steps]
    with connectable.begin_nested():
        for each in work:
            _lock(connectable, each)
            _see_unchanged(connectable, each)
        # No row can come to refer to those that are locked now.
        for table, key, _columns in () if overwrite else children(connectable, work):
            raise RestoreError(
                f"since the plan was made, {table.fullname} {rows.key_text(key)} refers to a row "
                "that is deleted, and would go along or lose it; make another one"
            )
        for statement in _statements(work, deferred, deletes_first=deletes_first):
            connectable.execute(statement)
        for each in work:
            _see_recorded(connectable, each)
    if not isinstance(connectable, sa.Connection):
        # Cascades and triggers change rows that no plan names.
        connectable.expire_all()


def _lock(connectable: Any, work: Work) -> None:
    """Lock the rows that are there, in the order of their keys."""
    trail = work.part.trail
    for some in rows.batches(_targets(work)):
        live, anchor = trail.table.alias(), trail.audit.alias()
        connectable.execute(
            sa.select(sa.literal(1))
            .select_from(live)
            .join(anchor, rows.is_same(trail, live, anchor))
            .where(rows.is_one_of(anchor, [target.anchor for target in some]))
            .order_by(*(rows.column(live, name) for name in trail.spec.key))
            .with_for_update(of=live)
        ).all()


def _targets(work: Work) -> list[Target]:
    return [step.row.target for step in work.steps]


def _see_unchanged(connectable: Any, work: Work) -> None:
    trail = work.part.trail
    found = rows.read(connectable, trail, _targets(work))
    if any(row != step.row for step, row in zip(work.steps, found, strict=True)):
        raise RestoreError(
            f"rows of {trail.table.fullname!r} changed since the plan was made; make another one"
        )


def _see_recorded(connectable: Any, work: Work) -> None:
    trail = work.part.trail
    found = rows.states(connectable, trail, _targets(work))
    for step, row in zip(work.steps, found, strict=True):
        what = f"the {step.action} of row {step.row.name} of {trail.table.fullname!r}"
        if not row.own or row.newest <= step.row.newest or row.there != row.recorded:
            raise RestoreError(
                f"{what} was not recorded, or a trigger turned it away, and was taken back: "
                "`alembic-audit doctor` says what is wrong with the trail"
            )
        if row.there != (step.action != "delete"):
            is_there = "there" if row.there else "gone: another change or a trigger took it along"
            raise RestoreError(f"after {what} the row is {is_there}; all was taken back")


def _statements(
    work: Sequence[Work], deferred: Sequence[str], *, deletes_first: bool
) -> Iterator[Any]:
    """Yield the statements, so that rows refer to rows that are there."""
    ordered = sorted(work, key=lambda each: each.place)
    inserts = [_insert(each, steps) for each in ordered for steps in alike(each, "insert")] + [
        _update(each.part.trail, late, are_late=True)
        for each in ordered
        for steps in alike(each, "insert")
        if (late := _late(each, steps))
    ]
    updates = [
        _update(each.part.trail, steps) for each in ordered for steps in alike(each, "update")
    ]
    deletes = [
        _clear(each, steps) for each in ordered if each.cleared for steps in alike(each, "delete")
    ] + [
        _delete(each.part.trail, steps) for each in ordered[::-1] for steps in alike(each, "delete")
    ]
    names = ", ".join(deferred)
    if names:
        yield verbatim(f"SET CONSTRAINTS {names} DEFERRED")
    yield from ([*deletes, *inserts, *updates] if deletes_first else [*inserts, *updates, *deletes])
    if names:
        yield verbatim(f"SET CONSTRAINTS {names} IMMEDIATE")


def _late(work: Work, steps: Sequence[Step]) -> list[Step]:
    """What is written into inserted rows at last."""
    names = tuple(name for name in steps[0].names if name in work.set_later)
    return [dataclasses.replace(step, names=names, given={}) for step in steps] if names else []


def _insert(work: Work, steps: Sequence[Step]) -> sa.Insert:
    """Return one INSERT for all rows, so that they may refer to each other."""
    trail = work.part.trail
    then, first = trail.audit.alias(), steps[0]
    values = [
        *(
            sa.cast(sa.null(), rows.column(trail.table, name).type)
            if name in work.set_later
            else rows.restored(trail, then, name)
            for name in first.names
        ),
        *_given(trail, first.given),
    ]
    source = (
        sa.select(*values)
        .where(rows.is_one_of(then, [step.row.target.then for step in steps]))
        .order_by(then.c.audit_id)
    )
    names: list[Any] = [rows.column(trail.table, name).key for name in (*first.names, *first.given)]
    return _Insert(trail.table).from_select(names, source, include_defaults=False)


def _update(trail: Trail, steps: Sequence[Step], *, are_late: bool = False) -> sa.Update:
    """One UPDATE for all rows that are written alike.

    Args:
        trail: Of their table.
        steps: What is written.
        are_late: The columns are NULL, and rows of which they were NULL are left alone.
    """
    record, first, table = trail.audit.alias(), steps[0], trail.table
    labels = {
        name: free(f"audit_then_{n}", set(trail.spec.key)) for n, name in enumerate(first.names)
    }
    then = (
        sa.select(
            *trail.key_of(record),
            *(rows.restored(trail, record, name).label(label) for name, label in labels.items()),
        )
        .where(rows.is_one_of(record, [step.row.target.then for step in steps]))
        .subquery(free("audit_then", {table.name}))
    )
    values: dict[Any, Any] = {
        # What the model writes into others at each UPDATE is not asked for.
        column: column
        for column in table.columns
        if column.onupdate is not None or column.server_onupdate is not None
        if column.computed is None
    }
    values |= {rows.column(table, name): then.c[label] for name, label in labels.items()}
    given = zip(first.given, _given(trail, first.given), strict=True)
    values |= {rows.column(table, name): value for name, value in given}
    statement = sa.update(table).values(values).where(rows.is_same(trail, table, then))
    if are_late:
        told = [then.c[label].is_not(None) for label in labels.values()]
        statement = statement.where(sa.or_(*told))
    return statement


def _clear(work: Work, steps: Sequence[Step]) -> sa.Update:
    """One UPDATE that takes away what rows refer to that are deleted."""
    trail, anchor = work.part.trail, work.part.trail.audit.alias()
    columns = [rows.column(trail.table, name) for name in work.cleared]
    return (
        sa.update(trail.table)
        .values({column: sa.null() for column in columns})
        .where(
            rows.is_same(trail, trail.table, anchor),
            rows.is_one_of(anchor, [step.row.target.anchor for step in steps]),
            sa.or_(*(column.is_not(None) for column in columns)),
        )
    )


def _delete(trail: Trail, steps: Sequence[Step]) -> sa.Delete:
    anchor = trail.audit.alias()
    return sa.delete(trail.table).where(
        rows.is_same(trail, trail.table, anchor),
        rows.is_one_of(anchor, [step.row.target.anchor for step in steps]),
    )


def _given(trail: Trail, values: Mapping[str, Any]) -> list[sa.ColumnElement[Any]]:
    # Not cast, which would cut text and round numbers: an assignment refuses what does not fit.
    return [
        sa.literal(value, rows.column(trail.table, name).type) for name, value in values.items()
    ]


class _Insert(sa.Insert):
    """An INSERT that may write what is GENERATED ALWAYS AS IDENTITY."""

    inherit_cache = False


@compiles(_Insert, "postgresql")
def _overriding(element: _Insert, compiler: Any, **kw: Any) -> str:
    text: str = compiler.visit_insert(element, **kw)
    columns = [element.table.c[key].name for key in element._select_names or ()]
    names = ", ".join(map(compiler.preparer.quote, columns))
    head = f"INSERT INTO {compiler.preparer.format_table(element.table)} ({names}) "
    if not text.startswith(head):
        raise RestoreError(f"this SQLAlchemy writes an INSERT in another way: {text[:200]!r}")
    return f"{head}OVERRIDING SYSTEM VALUE {text[len(head) :]}"
