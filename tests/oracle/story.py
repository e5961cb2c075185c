"""One table and its history in one transaction, watched at every step.

Two things are known beside the trail: the table itself, and what a trigger of the test's own, the
witness, wrote down of every row that changed. After each step

* the new records are those that the witness calls for, none missing, none double;
* the records of all steps, replayed, give the table that there is;
* replayed up to any earlier step, they give the table that there was.
"""

import hashlib
import io
from collections.abc import Iterable, Sequence
from typing import Any

import psycopg2
import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy.schema import CreateIndex, CreateTable

from alembic_audit import AuditId, as_of, retype
from alembic_audit.naming import literal, quote
from alembic_audit.spec import hash_column
from alembic_audit.sql.text import audit_name, source_name
from tests.oracle.replay import Epoch, Image, Record, Replay, ReplayError, Table, as_table
from tests.oracle.shapes import TYPES, Shape
from tests.oracle.statements import Maker

SETUP = (
    *TYPES,
    "CREATE TABLE witnessed (number bigserial, operation text, old text[], new text[])",
)
REFUSALS = {
    "23502": "a key that is NULL",
    "23503": "a foreign key",
    "23505": "a key that is taken",
    "23514": "a domain, or a row that belongs into another partition",
    "21000": "a row that one statement would change twice",
    "27000": "a row that a trigger changed meanwhile",
    "22003": "a number too large for its type",
    "42P10": "ON CONFLICT by a deferrable key",
    "55000": "the same, in MERGE or ON CONFLICT",
}
"""What a statement is refused for by the table itself; the trail refuses nothing."""
_DIALECT = sa.dialects.postgresql.dialect(paramstyle="named")


class Story:
    """The table, its trail, and what was there at each step."""

    def __init__(self, connection: sa.Connection, shape: Shape, version: int) -> None:
        self.at(connection)
        self.shape, self.version = shape, version
        self.script: list[str] = []
        self.types: dict[int, Any] = {}
        self.epochs: list[Epoch] = []
        self.moments: list[tuple[int, frozenset[int], Table]] = []
        self.last = self.last_witnessed = self.steps = 0
        self.witnessed, self.readable = False, shape.key > 0
        self.spec, self.audit = shape.derived()

    def at(self, connection: sa.Connection) -> None:
        """Go on with a connection."""
        self.connection = connection
        self.cursor = connection.connection.cursor()
        self.op = Operations(MigrationContext.configure(connection))

    def begin(self) -> None:
        """Make the table and its trail."""
        self.run(*self.shape.create())
        self.run(str(CreateTable(self.audit).compile(dialect=_DIALECT)))
        self.run(*(str(CreateIndex(one).compile(dialect=_DIALECT)) for one in self.audit.indexes))
        self.operation("create_audit_trigger", self.spec.table, **self.spec.to_kwargs())
        self.look(complete=True)
        self.place_witness()

    @property
    def source_name(self) -> str:
        return source_name(self.spec, "public")

    @property
    def audit_name(self) -> str:
        return audit_name(self.spec, "public")

    # -- doing -----------------------------------------------------------------------------------

    def run(self, *statements: str) -> None:
        for statement in statements:
            self.script.append(statement + ";")
            self.cursor.execute(statement)

    def operation(self, name: str, *args: Any, **kwargs: Any) -> None:
        given = [*map(repr, args), *(f"{key}={value!r}" for key, value in kwargs.items())]
        self.script.append(f"-- op.{name}({', '.join(given)})")
        getattr(self.op, name)(*args, **kwargs)

    def write(self, maker: Maker, picks: Any) -> None:
        """Do a step of DML; one that the table refuses leaves no trace."""
        statements = maker(self.shape, picks, self.version)
        self.begin_step()
        if self.attempt(statements):
            self.check_records(truncated=any("TRUNCATE" in one for one in statements))
        self.check_tables()

    def attempt(self, statements: Sequence[str]) -> bool:
        """Run statements, all or none of them."""
        self.run("SAVEPOINT step")
        remaining = iter(statements)
        try:
            for statement in remaining:
                if statement.startswith("COPY "):
                    self._copy(statement, next(remaining))
                else:
                    self.run(statement)
        except psycopg2.Error as error:
            if not self._refused_by_table(error):
                raise
            self.script.append(f"-- refused: {error.pgcode} {error.diag.message_primary}")
            self.run("ROLLBACK TO step")
            return False
        self.run("RELEASE step")
        return True

    def _refused_by_table(self, error: psycopg2.Error) -> bool:
        where, message = error.diag.context or "", error.diag.message_primary or ""
        moved = message.startswith(("moving row to another part", "invalid ON UPDATE spec"))
        return self.spec.function not in where and (error.pgcode in REFUSALS or moved)

    def _copy(self, statement: str, given: str) -> None:
        self.script.append(f"-- {statement}: {given}")
        data = io.StringIO()
        self.cursor.copy_expert(f"COPY ({given}) TO STDOUT", data)
        data.seek(0)
        self.cursor.copy_expert(statement, data)

    def become(
        self,
        shape: Shape,
        before: Iterable[str] = (),
        after: Iterable[str] = (),
        *,
        snapshot: bool = False,
    ) -> None:
        """Do a step of DDL, in the order in which autogenerate writes it.

        Args:
            shape: What there is afterwards.
            before: Statements that change the table before the trail does.
            after: Statements that run when nothing needs any more what they drop.
            snapshot: Rows change that no trigger sees.
        """
        self.begin_step()
        spec, audit = shape.derived()
        self.run(*before)
        self._fit(audit)
        old, new = self.spec.full_kwargs(), spec.full_kwargs()
        replaces = {name: value for name, value in old.items() if value != new[name]}
        self.operation("replace_audit_trigger", spec.table, replaces=replaces, **spec.to_kwargs())
        self.run(*after)
        self.changed(shape, snapshot=snapshot)

    def changed(self, shape: Shape, *, snapshot: bool) -> None:
        """Go on with another shape; see that nothing but a snapshot was recorded."""
        self.shape = shape
        self.spec, self.audit = shape.derived()
        if snapshot:
            self.operation("snapshot_audit_table", self.spec.table, **self.spec.to_kwargs())
        self.look(complete=snapshot)
        self.place_witness()
        self.check_records(snapshot=snapshot)
        self.check_tables()

    def _fit(self, audit: sa.Table) -> None:
        """Give the audit table the columns that it shall have."""
        name = quote(self.spec.audit_table)
        for column in audit.columns:
            number = self.numbers.get(column.name)
            if number is None:
                kind = retype.text(column.type)
                self.run(f"ALTER TABLE {name} ADD COLUMN {quote(column.name)} {kind}")
                continue
            stored = self.types.setdefault(number, column.type)
            same = retype.text(stored) == retype.text(column.type)
            if not same and not retype.holds(stored, column.type):
                place = (self.spec.audit_table, column.name)
                wide = retype.wide_enough(stored, column.type)
                self.operation("alter_audit_column", *place, existing_type=stored, type_=wide)
                if retype.widens(stored, wide):
                    self.types[number] = wide
        required = [one.column for one in self.spec.session_settings if one.required]
        for setting in required:
            if setting not in audit.columns or audit.c[setting].nullable:
                self.operation("alter_audit_column", self.spec.audit_table, setting, nullable=True)

    # -- looking ---------------------------------------------------------------------------------

    def begin_step(self) -> None:
        self.steps += 1
        self.run(f"SELECT set_config('audit.who', 'user {self.steps}', true)")

    def look(self, *, complete: bool) -> None:
        """Learn where the trail stores what, since the last record."""
        spec, audit = self.spec, self.audit
        self.cursor.execute(
            "SELECT attname, attnum FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped"
            f" AND attrelid = {literal(self.audit_name)}::regclass"
        )
        self.numbers: dict[str, int] = dict(self.cursor.fetchall())
        for column in audit.columns:
            self.types.setdefault(self.numbers[column.name], column.type)
        self.stored = [
            *((name, self.numbers[name]) for name in spec.columns),
            *((name, self.numbers[hash_column(name)]) for name in spec.hash_columns),
        ]
        where = dict(self.stored)
        key = tuple(where[name] for name in spec.key)
        watched = frozenset(where[name] for name in spec.watched)
        self.epochs.append(Epoch(self.last + 1, key, watched, complete))

    def _images(self, prefix: str) -> str:
        columns = [
            f"CASE WHEN {prefix}{quote(name)} IS NOT NULL"
            f" THEN substring(record_send(ROW({prefix}{quote(name)})), 13)::text END"
            if name in self.spec.hash_columns
            else f"{prefix}{quote(name)}::text"
            for name, _ in self.stored
        ]
        return f"ARRAY[{', '.join(columns)}]::text[]"

    def image(self, texts: Sequence[str | None]) -> Image:
        """Return an image out of what `_images` gave."""
        hashed = {self.numbers[hash_column(name)] for name in self.spec.hash_columns}
        return {
            number: _hash(text) if number in hashed else text
            for (_, number), text in zip(self.stored, texts, strict=True)
            if text is not None
        }

    def place_witness(self) -> None:
        """Let a trigger note every row that changes, in the columns that are recorded."""
        values = f"VALUES (TG_OP, {self._images('OLD.')}, {self._images('NEW.')})"
        lines = [
            "CREATE OR REPLACE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql AS $w$ BEGIN",
            "IF TG_OP = 'TRUNCATE' THEN INSERT INTO witnessed (operation) VALUES (TG_OP);",
            f"ELSE INSERT INTO witnessed (operation, old, new) {values};",
            "END IF; RETURN NULL; END $w$",
        ]
        self.cursor.execute("\n".join(lines))
        if not self.witnessed:
            self.witnessed = True
            made = f"ON {self.source_name} FOR EACH {{}} EXECUTE FUNCTION witness()"
            row = "CREATE TRIGGER zz_witness AFTER INSERT OR UPDATE OR DELETE "
            self.cursor.execute(row + made.format("ROW"))
            truncate = "CREATE TRIGGER zz_witness_truncate AFTER TRUNCATE "
            self.cursor.execute(truncate + made.format("STATEMENT"))
            self.cursor.execute(f"ALTER TABLE {self.source_name} ENABLE ALWAYS TRIGGER zz_witness")
            self.forget_witnessed()

    def rows(self) -> list[Image]:
        """Return the table that there is."""
        self.cursor.execute(f"SELECT {self._images('')} FROM {self.source_name}")
        return [self.image(texts) for (texts,) in self.cursor.fetchall()]

    def records(self) -> list[tuple[Record, list[str] | None, str | None]]:
        """Return the trail: each record, the columns it says changed, and who did it."""
        numbers = {name: number for name, number in self.numbers.items() if not _own(name)}
        columns = ", ".join(f"{quote(name)}::text" for name in numbers)
        changed = "audit_changed_columns" if "audit_changed_columns" in self.numbers else "NULL"
        who = "audit_who" if "audit_who" in self.numbers else "NULL"
        self.cursor.execute(
            f"SELECT audit_id, audit_operation, {changed}, {who}, ARRAY[{columns}]::text[]"
            f" FROM {self.audit_name} ORDER BY audit_id"
        )
        return [
            (
                Record(number, operation, {
                    place: text
                    for place, text in zip(numbers.values(), texts, strict=True)
                    if text is not None
                }),
                changed,
                who,
            )
            for number, operation, changed, who, texts in self.cursor.fetchall()
        ]  # fmt: skip

    def forget_witnessed(self) -> None:
        """Take no notice of what the witness saw until now."""
        self.cursor.execute("SELECT COALESCE(max(number), 0) FROM witnessed")
        self.last_witnessed = self.cursor.fetchone()[0]

    # -- checking --------------------------------------------------------------------------------

    def check_records(self, *, snapshot: bool = False, truncated: bool = False) -> None:
        """See that the records since the last step are what the witness calls for."""
        new = [entry for entry in self.records() if entry[0].number > self.last]
        if new:
            self.last = new[-1][0].number
        who = f"user {self.steps}" if self.spec.session_settings else None
        if strangers := [record for record, _, name in new if name != who]:
            raise ReplayError(f"{strangers} are not by {who}")
        found = [(record.operation, _frozen(record.image), changed) for record, changed, _ in new]
        expected = [
            (operation, _frozen(image), changed) for operation, image, changed in self._expected()
        ]
        if snapshot:
            expected += [("S", _frozen(image), None) for image in self.rows()]
        if truncated and self.shape.parts:
            return  # what is gone from each partition, as far as the replay agrees
        if self.spec.statement_level or snapshot:  # in which order, the replay asks
            expected.sort(key=repr)
            found.sort(key=repr)
        if expected != found:
            raise ReplayError(f"expected the records {expected}, found {found}")

    def _expected(self) -> list[tuple[str, Image, list[str] | None]]:
        self.cursor.execute(
            f"SELECT * FROM witnessed WHERE number > {self.last_witnessed} ORDER BY number"
        )
        expected: list[tuple[str, Image, list[str] | None]] = []
        where = dict(self.stored)

        def differ(old: Image, new: Image, names: Iterable[str]) -> list[str]:
            return [name for name in names if old.get(where[name]) != new.get(where[name])]

        for number, event, *texts in self.cursor.fetchall():
            self.last_witnessed = number
            old, new = (self.image(text or [None] * len(self.stored)) for text in texts)
            if event == "UPDATE":
                spec = self.spec
                may_skip = spec.skip_unchanged or spec.ignore_columns
                if may_skip and not differ(old, new, spec.watched):
                    continue
                if not spec.key or differ(old, new, spec.key):
                    expected.append(("D", old, None))
                changed = differ(old, new, spec.stored) if spec.changed_columns else None
                expected.append(("U", new, changed))
            else:
                expected.append((event[0], old if event == "DELETE" else new, None))
        return expected

    def check_tables(self) -> None:
        """See that the replay gives the tables of all steps before, and the table of now."""
        replay, records = self.check_moments()
        for record in records:
            replay.take(record)
        replay.until(self.last + 1)
        epoch = self.epochs[-1]
        now = as_table(self.rows(), epoch.watched)
        _same("now", now, replay.table())
        if epoch.first <= self.last:
            self.moments.append((self.last, epoch.watched, now))

    def check_moments(self) -> tuple[Replay, list[Record]]:
        """See that the replay gives the tables of all steps before; return it, and what is left."""
        records = [record for record, *_ in self.records()]
        replay, position = Replay(self.epochs), 0
        for moment, watched, table in self.moments:
            while position < len(records) and records[position].number <= moment:
                replay.take(records[position])
                position += 1
            _same(f"at record {moment}", table, as_table(replay.images(), watched))
        return replay, records[position:]

    def check_reading(self) -> None:
        """See that `as_of` gives the tables of some steps as well."""
        if not self.readable or not self.moments:
            return
        source = self.shape.declared()
        for moment, watched, table in (self.moments[len(self.moments) // 2], self.moments[-1]):
            names = [
                (name, number)
                for name, number in self.stored
                if name in self.spec.columns and number in watched & self.epochs[-1].watched
            ]
            rows = as_of(source, AuditId(moment)).subquery()
            texts = sa.select(*(sa.cast(rows.c[name], sa.Text) for name, _ in names))
            found = (
                {number: text for (_, number), text in zip(names, row, strict=True)
                 if text is not None}
                for row in self.connection.execute(texts)
            )  # fmt: skip
            columns = [number for _, number in names]
            then = as_table((dict(row) for row in table.elements()), columns)
            _same(f"as_of(AuditId({moment}))", then, as_table(found, columns))


def _same(when: str, expected: Table, found: Table) -> None:
    if expected != found:
        missing, added = dict(expected - found), dict(found - expected)
        raise ReplayError(
            f"{when}: rows {missing} are not in the trail, and rows {added} only there"
        )


def _frozen(image: Image) -> list[tuple[int, str]]:
    return sorted(image.items())


def _hash(text: str) -> str:
    return "\\x" + hashlib.sha256(bytes.fromhex(text.removeprefix("\\x"))).hexdigest()


def _own(name: str) -> bool:
    return name.startswith("audit_")
