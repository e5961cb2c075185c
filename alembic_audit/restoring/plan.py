"""A restoration: what it would do, what stands against it, and doing it."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa

from alembic_audit.errors import RestoreError, sqlstate
from alembic_audit.naming import cut
from alembic_audit.reading.difference import Change
from alembic_audit.reading.trail import Trail
from alembic_audit.restoring import rows, write
from alembic_audit.restoring.cascade import children
from alembic_audit.restoring.order import arranged
from alembic_audit.restoring.rows import Part, Row, Target
from alembic_audit.restoring.steps import Action, Step, Work

Key = tuple[Any, ...]

ROLLED_BACK = "40"
"""The class of the SQLSTATEs after which only the whole transaction can be tried again."""

SHOWN = 5
"""How many records since then a text lists."""


@dataclasses.dataclass(frozen=True, slots=True)
class RowChange:
    """What happens to one row.

    Attributes:
        table: Its table, with the schema where the model names one.
        key: Its primary key.
        action: insert, update or delete.
        changes: The columns that change, from what they are to what they were.
        since: The records of the row after that moment, by ``audit_id``; ``history`` says who
            wrote them. Empty for ``undo``.
        apart: Columns that are NULL until the rows that they refer to are inserted, or become NULL
            before these are deleted: each row needs the other.
    """

    table: str
    key: Key
    action: Action
    changes: tuple[Change, ...]
    since: tuple[int, ...]
    apart: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = ", ".join(f"{one.name}: {one.before!r} -> {one.after!r}" for one in self.changes)
        what = f"{self.action} {self.table} {rows.key_text(self.key)}"
        if shown:
            what += f": {shown}"
        if self.apart:
            when = "set at last" if self.action == "insert" else "set to NULL first"
            what += f" ({', '.join(self.apart)} {when})"
        return f"{what} (since then: {_records(self.since)})" if self.since else what


@dataclasses.dataclass(frozen=True, slots=True)
class Conflict:
    """A row that was changed again since, or that a deletion would take along.

    Attributes:
        table: Its table.
        key: Its primary key; empty for rows that row level security may hide.
        columns: Those that were changed again, none where the row came or went; or those by which
            it refers to a row that would be deleted.
        audit_id: The last record of a row that was changed again; None of one that refers.
    """

    table: str
    key: Key
    columns: tuple[str, ...]
    audit_id: int | None

    def __str__(self) -> str:
        what = ", ".join(self.columns) or "the whole row"
        if not self.key:
            return f"{self.table}: row level security may hide rows that go along, by {what}"
        if self.audit_id is None:
            gone = "refers to a row that is deleted, and goes along or loses it"
            return f"{self.table} {rows.key_text(self.key)}: {what} {gone}"
        last = f"changed since, last by record {self.audit_id}"
        return f"{self.table} {rows.key_text(self.key)}: {what} {last}"


@dataclasses.dataclass(frozen=True, slots=True)
class Lost:
    """A value that cannot come back.

    Attributes:
        table: Of which table.
        key: Of which row.
        column: Of which column.
        reason: Why.
        needed: Whether the row cannot be inserted without it.
        remedy: The argument to give then.
    """

    table: str
    key: Key
    column: str
    reason: str
    needed: bool
    remedy: str = dataclasses.field(default="values={...}", compare=False)

    def __str__(self) -> str:
        needed = f"; needed, give {self.remedy}" if self.needed else ""
        return (
            f"{self.table} {rows.key_text(self.key)}: {self.column} is lost: {self.reason}{needed}"
        )


@dataclasses.dataclass(frozen=True)
class Restoration:
    """A plan. Printed, it says what it would do.

    Attributes:
        rows: What would happen to each row; those that are as they were are left out.
        conflicts: Rows that were changed again since the transaction that is undone, and rows
            that a deletion would take along.
        lost: Values that cannot come back.
        deferred: Constraints that are checked at the end, since rows refer to each other.
    """

    rows: tuple[RowChange, ...]
    conflicts: tuple[Conflict, ...]
    lost: tuple[Lost, ...]
    _connectable: Any = dataclasses.field(repr=False)
    _work: tuple[Work, ...] = dataclasses.field(repr=False)
    deferred: tuple[str, ...] = ()

    def __str__(self) -> str:
        return _lines(
            [
                *(f"defer {name}" for name in self.deferred),
                *(self.rows or ["nothing to restore"]),
                *(f"conflict: {one}" for one in self.conflicts),
                *self.lost,
            ]
        )

    def execute(self, *, overwrite: bool = False) -> tuple[RowChange, ...]:
        """Do it, in the transaction of the session or connection, behind a savepoint.

        The rows are locked and looked at once more before. Rows are inserted before others are
        deleted; where a constraint refuses that, they are deleted first. Who restores needs the
        privileges of somebody who makes these changes by hand; triggers fire, and the trail records
        what happens, under the settings of the transaction.

        Args:
            overwrite: Also where there are conflicts.

        Returns:
            What was done: as planned, but for what triggers of the table made of it.

        Raises:
            RestoreError: There are conflicts, a needed value is lost, a row changed since the
                plan was made, PostgreSQL refused a change, or one was not recorded. Nothing has
                changed then.
            sqlalchemy.exc.DBAPIError: PostgreSQL asks to try the whole transaction again (SQLSTATE
                40001, 40P01).
        """
        if self.conflicts and not overwrite:
            raise RestoreError(
                "other changes would be lost; look at them, and write execute(overwrite=True):\n"
                f"{_lines(self.conflicts)}"
            )
        if needed := [one for one in self.lost if one.needed]:
            raise RestoreError(f"a row cannot be inserted without what is lost:\n{_lines(needed)}")
        if not isinstance(self._connectable, sa.Connection):
            # What is refused here is no refusal of the plan.
            self._connectable.flush()
        run = functools.partial(
            write.run, self._connectable, self._work, self.deferred, overwrite=overwrite
        )
        try:
            try:
                run(deletes_first=False)
            except sa.exc.IntegrityError as first:
                try:
                    run(deletes_first=True)
                except sa.exc.IntegrityError:
                    raise first from None
        except sa.exc.DBAPIError as error:
            if (sqlstate(error.orig) or "").startswith(ROLLED_BACK):
                raise
            raise RestoreError(
                f"PostgreSQL refused it, and nothing was changed: {error.orig}"
            ) from error
        done: list[RowChange] = []
        for each in self._work:
            done += _done(self._connectable, each, self.rows[len(done) :])
        return tuple(done)


def planned(connectable: Any, parts: Iterable[Part]) -> Restoration:
    """Return the plan for some targets.

    Raises:
        RestoreError: A trail does not end with a row as it is, or columns were asked for of a row
            that is not there, or was not.
    """
    work: list[Work] = []
    changes: list[RowChange] = []
    conflicts: list[Conflict] = []
    lost: list[Lost] = []
    for part in parts:
        steps = []
        for row in rows.read(connectable, part.trail, part.targets):
            _see_complete(part.trail, row)
            if (step := _step(part, row)) is None:
                continue
            lost += _lost(part, step)
            if step.names or step.given or step.action == "delete":
                steps.append(step)
                conflicts += _conflict(part, row)
        work.append(Work(part, tuple(steps)))
    work, deferred = arranged(connectable, work)
    for each in work:
        changes += _changes(connectable, each)
    conflicts += (
        Conflict(table.fullname, key, columns, None)
        for table, key, columns in children(connectable, work)
    )
    return Restoration(
        tuple(changes), tuple(conflicts), tuple(lost), connectable, tuple(work), deferred
    )


def _see_complete(trail: Trail, row: Row) -> None:
    what, hidden = f"row {row.name} of {trail.table.fullname!r}", ""
    if row.contradiction is not None:
        raise RestoreError(
            f"the records of {what} cannot be replayed: record {row.contradiction} contradicts the "
            "one before it, as where a function or a trigger wrote the table inside a statement on "
            "it. Choose a moment away from that record, or write the row by hand from history(); "
            "`alembic-audit doctor --replay` names all such rows"
        )
    if row.there and not row.recorded:
        found = f"{what} is there, and by record {row.newest} it is gone"
    elif row.recorded and not row.there:
        found = f"{what} is gone, and by record {row.newest} it is there"
        hidden = ", or row level security hides it"
    elif row.there and row.strange:
        columns = ", ".join(row.strange)
        found = f"{what} is not what record {row.newest} says, in {columns}"
    else:
        return
    raise RestoreError(
        f"{found}: it was changed while nothing was recorded, or inside a statement on the same "
        f"table{hidden}. `alembic-audit doctor --replay` names all such rows; "
        "op.snapshot_audit_table() records what is there, and restore() goes on from that"
    )


def _conflict(part: Part, row: Row) -> Iterator[Conflict]:
    """Yield what came after the transaction that is undone and stands against it."""
    wants, left = row.target.then is not None, row.target.left is not None
    columns: tuple[str, ...] = ()
    if row.there and left:
        columns = tuple(name for name in row.later if not wants or name in row.changed)
    if part.of_transaction and (columns or row.there != left):
        yield Conflict(part.trail.table.fullname, row.key, columns, row.newest)


def _step(part: Part, row: Row) -> Step | None:
    """Return what is to be done, or None where the row is as it shall be."""
    wants = row.target.then is not None
    if not (wants or row.there) or (part.of_transaction and not _has_changed(row)):
        return None
    if wants and row.there:
        return _changed(part, row)
    if part.columns is not None:
        raise RestoreError(
            f"columns= is for a row that was there and is, not for row {row.name} of "
            f"{part.trail.table.fullname!r}"
        )
    if not wants:
        return Step(row, "delete", (), {}, {})
    names = _writable(part.trail, part.trail.recorded)
    reasons = _reasons(part, row, names)
    given = part.given(row)
    written = tuple(name for name in names if name not in reasons and name not in given)
    return Step(row, "insert", written, given, reasons)


def _changed(part: Part, row: Row) -> Step | None:
    """Return what is written into a row that was there and is."""
    spec, values = part.trail.spec, part.given(row)
    if unknown := [name for name in values if name not in spec.stored]:
        raise RestoreError(
            f"values: {unknown[0]!r} of {part.trail.table.fullname!r} is not recorded, and nothing "
            f"says that it changed; row {row.name} is there, update it by hand"
        )
    if ignored := {*values, *(part.columns or ())} & {*spec.ignore_columns}:
        raise RestoreError(
            f"{min(ignored)!r} of {part.trail.table.fullname!r} is in ignore_columns, and not all "
            f"of its changes are recorded; row {row.name} is there, update it by hand"
        )
    names = [name for name in row.differing if name not in spec.ignore_columns]
    if part.columns is not None:
        names = [name for name in names if name in part.columns]
    if part.of_transaction and row.target.left is not None:
        names = [name for name in names if name in row.changed]
    names = _writable(part.trail, names)
    reasons = _reasons(part, row, names)
    written = tuple(name for name in names if name not in reasons and name not in values)
    given = {name: value for name, value in values.items() if name in names}
    return Step(row, "update", written, given, reasons) if names else None


def _writable(trail: Trail, names: Iterable[str]) -> list[str]:
    """Return the columns that PostgreSQL does not compute."""
    return [name for name in names if rows.column(trail.table, name).computed is None]


def _has_changed(row: Row) -> bool:
    """Return whether a transaction left the row other than it was: not, if it came and went."""
    then, left = row.target.then is not None, row.target.left is not None
    return bool(row.changed) if then and left else then or left


def _reasons(part: Part, row: Row, names: Iterable[str]) -> dict[str, str]:
    """Return why columns cannot come back, of those that should."""
    reasons = {}
    for name in names:
        former = {
            key: value for key, value in row.former.items() if key.startswith(cut(f"{name}__", 9))
        }
        if name in part.given(row):
            continue
        if name in part.trail.spec.hash_columns and name not in row.nulls:
            reasons[name] = "a hash of it is recorded"
        elif name in row.untold:
            reasons[name] = "no record holds it, since it was not changed while there was a trail"
        elif name in row.nulls and former:
            shown = ", ".join(f"{key} {value!r}" for key, value in former.items())
            reasons[name] = f"it had another type then: {shown}"
        elif name in row.nulls and not rows.column(part.trail.table, name).nullable:
            reasons[name] = "the column came later"
    return reasons


def _lost(part: Part, step: Step) -> Iterator[Lost]:
    """Yield the values that a step should write and cannot."""
    if step.action == "delete":
        return
    table, stored = part.trail.table, part.trail.spec.stored
    reasons = dict(step.reasons)
    for column in table.columns:
        is_told = column.name in stored or column.name in step.given
        if not is_told and column.computed is None:
            reasons[column.name] = "it is not recorded"
    for name, reason in reasons.items():
        column = rows.column(table, name)
        needed = step.action == "insert" and not (
            column.nullable or column.server_default is not None or column.identity is not None
        )
        remedy = f"values={{{name!r}: ...}}"
        if part.of_transaction:
            remedy = f"values={{{part.source}: {{{step.row.name}: {{{name!r}: ...}}}}}}"
        yield Lost(table.fullname, step.row.key, name, reason, needed, remedy)


def _changes(connectable: Any, work: Work) -> Iterator[RowChange]:
    """Yield what happens to each row, with the values before and after."""
    table = work.part.trail.table
    found = rows.images(connectable, work.part.trail, *_written(work))
    for step, (now, then) in zip(work.steps, found, strict=True):
        after = {**{name: then[name] for name in step.names}, **step.given}
        changes = tuple(Change(name, now.get(name), after[name]) for name in after)
        apart: tuple[str, ...] = ()
        if step.action == "insert":
            apart = tuple(name for name in work.set_later if then.get(name) is not None)
        elif step.action == "delete":
            apart = work.cleared
        yield RowChange(table.fullname, step.row.key, step.action, changes, step.row.since, apart)


def _done(connectable: Any, work: Work, planned: Iterable[RowChange]) -> Iterator[RowChange]:
    """Yield what happened: a BEFORE trigger may have written something else than was planned."""
    found = rows.images(connectable, work.part.trail, *_written(work))
    for step, change, (now, _then) in zip(work.steps, planned, found, strict=False):
        changes = tuple(
            Change(one.name, one.before, now[one.name]) if one.name in step.names else one
            for one in change.changes
        )
        yield change if changes == change.changes else dataclasses.replace(change, changes=changes)


def _written(work: Work) -> tuple[list[Target], list[str]]:
    """Return the rows, and the columns that are written from records, in the table's order."""
    written = {name for step in work.steps for name in step.names}
    names = [column.name for column in work.part.trail.table.columns if column.name in written]
    return [step.row.target for step in work.steps], names


def _records(numbers: tuple[int, ...]) -> str:
    if len(numbers) > SHOWN:
        shown = ", ".join(map(str, numbers[:SHOWN]))
        return f"{len(numbers)} records: {shown}, ... {numbers[-1]}"
    return f"record{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _lines(things: Iterable[object]) -> str:
    return "\n".join(map(str, things))
