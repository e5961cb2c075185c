"""Tables of every shape: the declaration, and the SQL that makes the table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from alembic_audit.naming import quote
from alembic_audit.spec import AuditSpec
from alembic_audit.tables import SPEC_KEY, derive

_T = TypeVar("_T")

TYPES = (
    "CREATE DOMAIN small AS integer CHECK (VALUE < 1000)",
    "CREATE TYPE mood AS ENUM ('calm', 'cross', 'it''s \"so\"')",
    "CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    " NEW.stamp := COALESCE(NEW.stamp, 0) + 1;"
    " IF NEW.stamp = 4 THEN RETURN NULL; END IF; RETURN NEW; END $$",
)
MOOD = pg.ENUM("calm", "cross", 'it\'s "so"', name="mood", create_type=False)


@dataclass(frozen=True)
class Kind:
    """A type: as SQL, as SQLAlchemy has it, and some of its values as SQL."""

    text: str
    type: Any
    values: tuple[str, ...]


KINDS = {
    "int": Kind("integer", sa.Integer(), ("1", "2", "3", "4")),
    "text": Kind(
        "text", sa.Text(), ("'a'", "'b'", "''", "'é\"\\%s:x'", "'NULL'", "repeat('x', 3000)")
    ),
    "varchar": Kind("varchar(10)", sa.String(10), ("'a'", "'b'", "' c '", "'0'")),
    "uuid": Kind("uuid", sa.Uuid(), tuple(f"'{str(n) * 32}'" for n in (1, 2, 3, 4))),
    "timestamptz": Kind(
        "timestamptz",
        sa.DateTime(timezone=True),
        ("'2020-01-02 03:04:05.678901+01'", "'infinity'", "'0044-03-15 12:00 BC'", "'2020-10-25'"),
    ),
    "bigint": Kind("bigint", sa.BigInteger(), ("1", "2", "9223372036854775807", "-1")),
    "numeric": Kind("numeric", sa.Numeric(), ("1.0", "1.00", "'NaN'", "1e30")),
    "money": Kind("numeric(6, 2)", sa.Numeric(6, 2), ("1", "1.25", "-1234.5")),
    "wider": Kind("numeric(10, 2)", sa.Numeric(10, 2), ("1", "12345678.25")),
    "json": Kind(
        "json", sa.JSON(), ("'{}'", "'{\"a\": 1}'", "'{\"a\":1}'", "'null'", '\'{"a":1,"a":2}\'')
    ),
    "jsonb": Kind("jsonb", pg.JSONB(), ("'{\"a\": [1, null]}'", "'null'", "'1.0'")),
    "ints": Kind("integer[]", pg.ARRAY(sa.Integer), ("'{}'", "'{1,NULL,2}'", "'[0:1]={1,2}'")),
    "texts": Kind("text[]", pg.ARRAY(sa.Text), ('\'{"a,b",NULL,"NULL"}\'', "'{{a,b},{c,d}}'")),
    "small": Kind("small", pg.DOMAIN("small", sa.Integer), ("1", "2", "999")),
    "mood": Kind("mood", MOOD, ("'calm'", "'cross'", "'it''s \"so\"'")),
    "moods": Kind("mood[]", pg.ARRAY(MOOD), ("'{calm,NULL}'", "'{}'")),
    "bool": Kind("boolean", sa.Boolean(), ("true", "false")),
    "float": Kind("float8", sa.Double(), ("0", "'-0'", "'NaN'", "0.1")),
    "bytea": Kind("bytea", sa.LargeBinary(), ("'\\x00ff'", "''")),
    "char": Kind("char(4)", sa.CHAR(4), ("'a'", "'a  b'")),
    "date": Kind("date", sa.Date(), ("'2020-02-29'", "'infinity'")),
    "timestamp": Kind("timestamp(0)", pg.TIMESTAMP(precision=0), ("'2020-01-02 03:04:05.6'",)),
    "interval": Kind("interval", sa.Interval(), ("'1 mon -1 day'", "'24:00:00'")),
    "inet": Kind("inet", pg.INET(), ("'10.0.0.1/8'", "'::1'")),
    "bits": Kind("varbit(4)", pg.BIT(4, varying=True), ("B'101'", "B''")),
    "range": Kind("int4range", pg.INT4RANGE(), ("'[1,5)'", "'empty'")),
    "words": Kind("tsvector", pg.TSVECTOR(), ("'a b'", "''")),
}
KEYS = ("int", "text", "uuid", "varchar", "timestamptz", "bigint", "small", "mood")
NAMES = ("t", "select", 'T "q"', "per%cent", "a.b c", "né'x", "x" * 40)
COLUMNS = ("c", "order", 'C "q"', "%s", "a.b", "NEW", "é", "audited_row", "\\n", "$audit$")


class Picks:
    """Choices out of bytes; when they run out, the first one always."""

    def __init__(self, data: bytes) -> None:
        self._data = iter(data)

    def below(self, number: int) -> int:
        return next(self._data, 0) % number

    def of(self, options: Sequence[_T]) -> _T:
        return options[self.below(len(options))]

    def some(self, options: Sequence[_T], least: int = 0) -> list[_T]:
        bits = self.below(256)
        some = [one for number, one in enumerate(options) if bits >> number & 1]
        return some if len(some) >= least else list(options[:least])


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        mark: `ignore`, `hash`, `exclude` or none.
        generated: An expression; the column is stored.
        default: An expression that rows get which are there when the column is added.
    """

    name: str
    kind: str
    mark: str = ""
    generated: str = ""
    default: str = ""

    @property
    def text(self) -> str:
        made = f" GENERATED ALWAYS AS ({self.generated}) STORED" if self.generated else ""
        return f"{quote(self.name)} {KINDS[self.kind].text}{made}"


@dataclass(frozen=True)
class Shape:
    """A table and what is recorded of it.

    Attributes:
        table: Its name.
        columns: Its columns, key columns first.
        key: How many of them are the key.
        options: Of the declaration.
        parts: Its partitions.
        constraint: What follows PRIMARY KEY.
        parent: What happens to `ref` when the row of the table `parent` goes; empty for no `ref`.
        stamped: A trigger of the user changes or refuses rows before they are written.
        audited: There is a trail.
        naming: Naming conventions.
    """

    table: str
    columns: tuple[Column, ...]
    key: int
    options: dict[str, Any] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    constraint: str = ""
    parent: str = ""
    stamped: bool = False
    audited: bool = True
    naming: dict[str, str] = field(default_factory=dict)

    def declared(self) -> sa.Table:
        """Return the declaration, in a MetaData of its own."""
        marks: dict[str, list[str]] = {"ignore": [], "hash": [], "exclude": []}
        for column in self.columns:
            # The hash of an array of enums is refused.
            mark = "exclude" if (column.mark, column.kind) == ("hash", "moods") else column.mark
            if mark:
                marks[mark].append(column.name)
        options = {f"{mark}_columns": names for mark, names in marks.items() if names}
        columns = [
            sa.Column(
                column.name,
                KINDS[column.kind].type,
                *([sa.Computed(column.generated, persisted=True)] if column.generated else []),
                primary_key=number < self.key,
                server_default=sa.text(column.default) if column.default else None,
                autoincrement="auto" if number >= self.key else False,
            )
            for number, column in enumerate(self.columns)
        ]
        info = {"audit.options": {"enabled": True, **self.options, **options}}
        metadata = sa.MetaData(naming_convention=self.naming)
        return sa.Table(self.table, metadata, *columns, info=info if self.audited else {})

    def derived(self) -> tuple[AuditSpec, sa.Table]:
        """Return what the declaration comes to, and the audit table."""
        table = self.declared()
        audit = derive(table)
        assert audit is not None
        return table.info[SPEC_KEY], audit

    def create(self) -> Iterator[str]:
        """Return the statements that make the table and what belongs to it."""
        name, keys = quote(self.table), [quote(column.name) for column in self.columns[: self.key]]
        parts = [column.text for column in self.columns]
        if keys:
            parts.append(f"PRIMARY KEY ({', '.join(keys)}) {self.constraint}")
        if self.parent:
            yield "CREATE TABLE parent (id integer PRIMARY KEY)"
            yield "INSERT INTO parent VALUES (1), (2), (3), (4)"
            rule = f"ON DELETE {self.parent} ON UPDATE CASCADE"
            parts.append(f"FOREIGN KEY (ref) REFERENCES parent {rule}")
        by = f" PARTITION BY HASH ({quote(self.columns[0].name)})" if self.parts else ""
        yield f"CREATE TABLE {name} ({', '.join(parts)}){by}"
        for number, part in enumerate(self.parts):
            bounds = f"WITH (MODULUS {len(self.parts)}, REMAINDER {number})"
            yield f"CREATE TABLE {quote(part)} PARTITION OF {name} FOR VALUES {bounds}"
        if self.stamped:
            event = "BEFORE INSERT OR UPDATE"
            yield f'CREATE TRIGGER "AA" {event} ON {name} FOR EACH ROW EXECUTE FUNCTION stamp()'

    @property
    def keys(self) -> tuple[Column, ...]:
        return self.columns[: self.key]

    @property
    def written(self) -> list[Column]:
        """The columns that a statement may set."""
        return [column for column in self.columns if not column.generated]

    @property
    def values(self) -> list[Column]:
        """The columns beside the key that a statement may set."""
        return [column for column in self.columns[self.key :] if not column.generated]

    @property
    def free(self) -> list[Column]:
        """The columns that DDL may change: nothing else depends on them."""
        used = "".join(column.generated for column in self.columns)
        return [
            column
            for column in self.values
            if column.name not in ("ref", "stamp") and quote(column.name) not in used
        ]

    def with_column(self, old: str, new: Column | None) -> "Shape":
        """Return the shape with a column changed or, if *new* is None, without it."""
        changed = [new if column.name == old else column for column in self.columns]
        return replace(self, columns=tuple(column for column in changed if column is not None))


def shape(picks: Picks, level: str) -> Shape:
    """Return any table."""
    key = picks.of((1, 1, 1, 2, 3, 0))
    names = iter(COLUMNS[picks.below(2) :])
    columns = [Column(next(names), picks.of(KEYS)) for _ in range(key)]
    every = sorted(KINDS)
    marks = ("", "", "", "", "", "ignore", "hash", "exclude")
    for number in range(1 + picks.below(4)):
        columns.append(Column(next(names), picks.of(every), picks.of(marks) if number else ""))
    if picks.below(4) == 1:
        ints = [column for column in columns if column.kind == "int"]
        made = f"{quote(ints[0].name)} * 2" if ints else "7"
        columns.append(Column("twice", "bigint", picks.of(("", "", "ignore")), made))
    parent = picks.of(("", "", "CASCADE", "SET NULL"))
    stamped = picks.below(6) == 1
    columns += [Column("ref", "int")] * bool(parent) + [Column("stamp", "int")] * stamped
    flags = {name: True for name in ("skip_unchanged", "changed_columns", "always", "append_only")
             if picks.below(4) == 1}  # fmt: skip
    who = picks.of(([], [sa.Column("who", sa.Text)], [sa.Column("who", sa.Text, nullable=False)]))
    options: dict[str, Any] = {**flags, **({"session_settings": who} if who else {})}
    options["level"] = level
    table = picks.of(NAMES)
    parts: tuple[str, ...] = ()
    if key != 0 and picks.below(5) == 1:
        parts = (f"{table[:20]}_low", f"{table[:20]}_high")
        options["partitions"] = list(parts)
    return Shape(
        table=table,
        columns=tuple(columns),
        key=key,
        options=options,
        parts=parts,
        parent=parent,
        stamped=stamped,
    )
