"""Changes of an audited table, as migrations make them with the operations."""

from collections.abc import Callable
from dataclasses import replace

import sqlalchemy as sa

from alembic_audit.naming import quote
from alembic_audit.spec import hash_column
from tests.oracle.shapes import COLUMNS, KINDS, NAMES, Column, Picks, Shape
from tests.oracle.statements import DML, value
from tests.oracle.story import Story

Change = Callable[[Story, Picks], None]


def add_column(story: Story, picks: Picks) -> None:
    """A new column, or one that was there before; a default fills rows without a trigger."""
    shape = story.shape
    taken = {column.name for column in shape.columns}
    fresh = [name for name in COLUMNS if name not in taken]
    if not fresh:
        return
    column = Column(picks.of(fresh), picks.of(sorted(KINDS)), picks.of(("", "", "ignore", "hash")))
    default = f" DEFAULT {value(column, picks)}" if picks.below(2) else ""
    stored = hash_column(column.name) if column.mark == "hash" else column.name
    was_there = stored in story.numbers
    story.become(
        replace(shape, columns=(*shape.columns, column)),
        [f"ALTER TABLE {quote(shape.table)} ADD COLUMN {column.text}{default}"],
        snapshot=bool(default) or was_there,
    )


def drop_column(story: Story, picks: Picks) -> None:
    shape = story.shape
    if not (free := [column for column in shape.free if _may_go(shape, column)]):
        return
    column = picks.of(free)
    audit_table = story.spec.audit_table
    story.become(
        shape.with_column(column.name, None),
        after=[f"ALTER TABLE {quote(shape.table)} DROP COLUMN {quote(column.name)}"],
    )
    if column.mark != "exclude" and picks.below(2):
        stored = hash_column(column.name) if column.mark == "hash" else column.name
        story.operation("drop_audit_column", audit_table, stored)
        story.changed(story.shape, snapshot=False)


def retype(story: Story, picks: Picks) -> None:
    shape = story.shape
    if not shape.free:
        return
    column = picks.of(shape.free)
    new = replace(column, kind=picks.of(sorted(KINDS)))
    name, kind = quote(column.name), KINDS[new.kind].text
    using = f"CASE WHEN {name} IS NOT NULL THEN {value(new, picks)} END"
    if kind == "text":
        using = f"{name}::text"
    table = f"ALTER TABLE {quote(shape.table)}"
    drop_default = f"{table} ALTER COLUMN {name} DROP DEFAULT"
    alter = f"{table} ALTER COLUMN {name} TYPE {kind} USING {using}"
    story.become(shape.with_column(column.name, new), [drop_default, alter], snapshot=True)


def retype_key(story: Story, picks: Picks) -> None:
    shape = story.shape
    used = "".join(column.generated for column in shape.columns)
    keys = [column for column in shape.keys if quote(column.name) not in used]
    if not keys or shape.parts:
        return
    column = picks.of(keys)
    wider = {"int": "bigint", "small": "bigint", "varchar": "text"}
    new = replace(column, kind=picks.of((wider.get(column.kind, "text"), "text")))
    name, kind = quote(column.name), KINDS[new.kind].text
    alter = f"ALTER TABLE {quote(shape.table)} ALTER COLUMN {name} TYPE {kind} USING {name}::{kind}"
    where = story.numbers[column.name]
    story.become(shape.with_column(column.name, new), [alter], snapshot=True)
    if story.numbers[column.name] != where:
        story.readable = False  # records from before have their key elsewhere


def rename_column(story: Story, picks: Picks) -> None:
    shape = story.shape
    used = "".join(column.generated for column in shape.columns)
    columns = [
        column
        for column in (*shape.keys, *shape.free)
        if column.mark != "exclude" and quote(column.name) not in used
    ]
    taken = {column.name for column in shape.columns}
    fresh = [name for name in COLUMNS if name not in taken]
    if not columns or not fresh:
        return
    column = picks.of(columns)
    new = replace(column, name=picks.of(fresh))
    renamed = shape.with_column(column.name, new)
    story.begin_step()
    kwargs = renamed.derived()[0].to_kwargs()
    story.operation("rename_audited_column", shape.table, column.name, new.name, **kwargs)
    story.changed(renamed, snapshot=False)


def rename_table(story: Story, picks: Picks) -> None:
    shape = story.shape
    renamed = replace(shape, table=picks.of([name for name in NAMES if name != shape.table]))
    story.begin_step()
    kwargs = renamed.derived()[0].to_kwargs()
    story.operation("rename_audited_table", shape.table, renamed.table, **kwargs)
    story.changed(renamed, snapshot=False)


def option(story: Story, picks: Picks) -> None:
    shape = story.shape
    options = dict(shape.options)
    name = picks.of(("skip_unchanged", "changed_columns", "always", "append_only", "settings"))
    if name == "settings":
        settings = picks.of(([], [True], [False]))
        options["session_settings"] = [sa.Column("who", sa.Text, nullable=n) for n in settings]
    else:
        options[name] = not options.get(name)
    story.become(replace(shape, options=options))


def mark(story: Story, picks: Picks) -> None:
    """A column is stored otherwise, or not at all, or is looked at less."""
    shape = story.shape
    if not (free := [column for column in shape.free if _may_go(shape, column)]):
        return
    column = picks.of(free)
    others = [one for one in ("", "hash", "ignore", "exclude") if one != column.mark]
    new = replace(column, mark=picks.of(others))
    snapshot = new.mark != "exclude" and not (column.mark == "" and new.mark == "ignore")
    story.become(shape.with_column(column.name, new), snapshot=snapshot)


def snapshot(story: Story, picks: Picks) -> None:
    story.begin_step()
    story.changed(story.shape, snapshot=True)


def gap(story: Story, picks: Picks) -> None:
    """The trail ends, the table changes, and the trail begins again with a snapshot."""
    spec = story.spec
    key = story.epochs[-1].key
    before = {tuple(row.get(number) for number in key) for row in story.rows()}
    story.begin_step()
    story.operation("drop_audit_trigger", spec.table, audit_table=spec.audit_table)
    story.attempt(picks.of(list(DML.values()))(story.shape, picks, story.version))
    story.forget_witnessed()
    story.operation("create_audit_trigger", spec.table, **spec.to_kwargs())
    after = {tuple(row.get(number) for number in key) for row in story.rows()}
    if before - after:
        story.readable = False  # nothing was recorded of the rows that went
    story.changed(story.shape, snapshot=True)


def _may_go(shape: Shape, column: Column) -> bool:
    """Return whether a column is watched still if this one is not."""
    return any(one is not column and one.mark not in ("exclude", "ignore") for one in shape.written)


DDL: dict[str, Change] = {
    change.__name__: change
    for change in (
        add_column, drop_column, retype, retype_key, rename_column, rename_table, option, mark,
        snapshot, gap,
    )
}  # fmt: skip
