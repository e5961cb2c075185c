"""The replay oracle through revision files: models change, autogenerate writes what that takes.

    ALEMBIC_AUDIT_REVISIONS=500 pytest -n 0 tests/oracle/test_revisions.py

runs as many random histories, where 20 are run without the variable. After each migration `alembic
check` is clean, and after each step of DML the trail, replayed, gives the tables there were; then
it goes all the way down.
"""

import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from tests.conftest import _database
from tests.oracle.shapes import COLUMNS, Column, Picks, Shape, shape
from tests.oracle.statements import DML, WEIGHTED, value
from tests.oracle.story import Story
from tests.oracle.test_oracle import LEVELS
from tests.project import Project
from tests.test_every_change import NAMES
from tools import postgres

HISTORIES = int(os.environ.get("ALEMBIC_AUDIT_REVISIONS", "20"))
KINDS = (
    "int", "text", "varchar", "uuid", "timestamptz", "bigint", "numeric", "money", "wider", "json",
    "jsonb", "bool", "date", "bytea", "interval", "timestamp",
)  # fmt: skip
"""The types that Alembic's comparison tells apart, and casts by NULL."""
SETUP = ("CREATE SCHEMA aside", "CREATE TYPE mood AS ENUM ('calm', 'cross', 'it''s \"so\"')")
WITNESSED = """\
CREATE TEMPORARY TABLE witnessed (number serial, operation text, old text[], new text[])
ON COMMIT DROP"""
PLAIN = {"small": "int", "mood": "text"}

Change = Callable[[Shape, Picks], Shape]


class Revised(Story):
    """A story whose DDL is made of revision files; each step is a transaction of its own."""

    def __init__(self, project: Project, shape: Shape, version: int) -> None:
        self.project = project
        with project.engine.connect() as connection:
            super().__init__(connection, shape, version)

    def migrate(self, shape: Shape, *, snapshot: bool = False) -> None:
        """Let autogenerate write the way to a shape, and go it.

        Args:
            shape: What the models say now.
            snapshot: Rows are in the trail otherwise than they will be recorded, and autogenerate
                does not say so.
        """
        metadata = shape.declared().metadata
        self.project.revision(metadata)
        text = self.project.edit(_as_a_person_would)
        self.script += ["-- migrate to", *shape.create(), text]
        self.project.upgrade()
        self.project.check(metadata)
        self.at_shape(shape, taken="    op.snapshot_audit_table(" in text, wanted=snapshot)

    def at_shape(self, shape: Shape, *, taken: bool, wanted: bool) -> None:
        """Go on with a shape that the database has; a snapshot was taken, or is wanted."""
        self.shape = shape
        if not shape.audited:
            return
        self.spec, self.audit = shape.derived()
        with self.project.engine.begin() as connection:
            self.at(connection)
            if wanted and not taken:
                self.operation("snapshot_audit_table", self.spec.table, **self.spec.to_kwargs())
            self.look(complete=taken or wanted)
            new = [one for one, *_ in self.records() if one.number > self.last]
            expected = ["S"] * len(self.rows()) if taken or wanted else []
            assert expected == [one.operation for one in new]
            self.last = new[-1].number if new else self.last
            self.check_tables()

    def back(self, former: Shape) -> None:
        """Go back by one revision, to the shape before."""
        self.project.downgrade()
        self.script.append("-- downgrade")
        assert [] == self.project.differences(former.declared().metadata)
        self.at_shape(former, taken=False, wanted=True)

    def wrote(self, name: str, data: bytes) -> None:
        """Do a step of DML, recorded or not."""
        with self.project.engine.begin() as connection:
            self.at(connection)
            if not self.shape.audited:
                self.attempt(DML[name](self.shape, Picks(data), self.version))
                return
            self.cursor.execute(WITNESSED)
            self.place_witness()
            self.write(DML[name], Picks(data))
            self.cursor.execute("DROP FUNCTION witness CASCADE")
            self.witnessed = False

    def down(self) -> None:
        """Go down to nothing; the records stay, and replay as before."""
        self.project.downgrade("base")
        if self.moments:
            with self.project.engine.begin() as connection:
                self.at(connection)
                self.check_moments()


def _as_a_person_would(text: str) -> str:
    """Take the snapshot that is proposed, and say how values are cast: to nothing."""
    text = re.sub(r"^( {15}type_=.*),$", r"\1, postgresql_using='NULL',", text, flags=re.M)
    proposed = re.compile(
        r"^    # op\.snapshot_audit_table\((.*\)$|\n(    # .*\n)*?    # \)$)", re.M
    )
    return proposed.sub(lambda found: re.sub("^    # ", "    ", found[0], flags=re.M), text)


def plain(shape: Shape) -> Shape:
    """Return a shape without what no declaration says."""
    columns = tuple(
        replace(column, kind=PLAIN.get(column.kind, column.kind) if number < shape.key
                else column.kind if column.kind in KINDS else "text")
        for number, column in enumerate(shape.columns)
        if not column.generated and column.name not in ("ref", "stamp")
    )  # fmt: skip
    options = {name: what for name, what in shape.options.items() if name != "partitions"}
    options.pop("session_settings", None)
    return replace(shape, columns=columns, options=options, parts=(), parent="", stamped=False)


def add(shape: Shape, picks: Picks) -> Shape:
    taken = {column.name for column in shape.columns}
    fresh = [name for name in COLUMNS if name not in taken]
    column = Column(picks.of(fresh), picks.of(KINDS), picks.of(("", "", "ignore", "hash")))
    default = picks.of(("", value(column, picks)))
    if ":" in default:  # text() would take it for a parameter
        default = ""
    return replace(shape, columns=(*shape.columns, replace(column, default=default)))


def drop(shape: Shape, picks: Picks) -> Shape:
    free = [column for column in shape.free if _may_go(shape, column)]
    return shape.with_column(picks.of(free).name, None) if free else shape


def retype(shape: Shape, picks: Picks) -> Shape:
    if not (free := [column for column in shape.free if not column.default]):
        return shape
    column = picks.of(free)
    return shape.with_column(column.name, replace(column, kind=picks.of(KINDS)))


def mark(shape: Shape, picks: Picks) -> Shape:
    if not (free := [column for column in shape.free if _may_go(shape, column)]):
        return shape
    column = picks.of(free)
    return shape.with_column(
        column.name, replace(column, mark=picks.of(("", "hash", "ignore", "exclude")))
    )


def option(shape: Shape, picks: Picks) -> Shape:
    name = picks.of(("skip_unchanged", "changed_columns", "always", "append_only", "settings"))
    options = dict(shape.options)
    if name == "settings":
        options["session_settings"] = picks.of(([], [sa.Column("who", sa.Text)]))
    else:
        options[name] = not options.get(name)
    return replace(shape, options=options)


def place(shape: Shape, picks: Picks) -> Shape:
    """Other names, or another schema, for the trail; one that began anew would be a second one."""
    naming = {name: text for name, text in NAMES.items() if name != "audit.setting"}
    schema = picks.of((None, "aside"))
    options = {name: what for name, what in shape.options.items() if name != "schema_name"}
    options |= {"schema_name": schema} if schema else {}
    return replace(shape, naming=picks.of((naming, {})), options=options)


def audit(shape: Shape, picks: Picks) -> Shape:
    return replace(shape, audited=not shape.audited)


def _may_go(shape: Shape, column: Column) -> bool:
    return any(one != column and one.mark not in ("exclude", "ignore") for one in shape.columns)


CHANGES: dict[str, Change] = {
    change.__name__: change for change in (add, drop, retype, mark, option, place, audit)
}
WRITES = [name for name in WEIGHTED if name != "parent"]

choices = st.binary(min_size=16, max_size=16)
revisions = st.tuples(
    st.lists(st.tuples(st.sampled_from([*CHANGES]), choices), max_size=2),
    st.lists(st.tuples(st.sampled_from(WRITES), choices), min_size=1, max_size=3),
)


@settings(
    max_examples=HISTORIES,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
@given(
    level=st.sampled_from(LEVELS),
    form=st.binary(min_size=32, max_size=32),
    history=st.lists(revisions, min_size=1, max_size=4),
)
def test_revisions(
    server: postgres.Server,
    level: str,
    form: bytes,
    history: list[tuple[list[tuple[str, bytes]], list[tuple[str, bytes]]]],
) -> None:
    """Every migration keeps the trail true, and so does every step back."""
    with _database(server) as database, tempfile.TemporaryDirectory() as path:
        project = Project(Path(path), database, include_schemas=True)
        project.execute(*SETUP)
        story = Revised(project, plain(shape(Picks(form), level)), server.version)
        try:
            live(story, history)
        except BaseException:
            note("\n".join(story.script))
            raise


def live(
    story: Revised, history: list[tuple[list[tuple[str, bytes]], list[tuple[str, bytes]]]]
) -> None:
    """Go through revisions, writing at each, and all the way back."""
    moves = any(name == "place" for changes, _ in history for name, _ in changes)
    now, shapes = story.shape, []
    for number, (changes, writes) in enumerate(history):
        former = now
        for name, data in changes if number else []:
            if not (moves and name == "audit"):
                now = CHANGES[name](now, Picks(data))
        marks = any(name == "mark" for name, _ in changes)
        story.migrate(now, snapshot=marks or (now.audited and not former.audited))
        shapes.append(now)
        for name, data in writes:
            story.wrote(name, data)
    for former in reversed(shapes[:-1]):
        story.back(former)
        story.wrote("update", b"")
    story.down()
