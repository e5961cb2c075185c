"""What a trail and its table say of the rows that shall be put back."""

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.selectable import FromClause, NamedFromClause

from alembic_audit.errors import RestoreError
from alembic_audit.naming import qualify, quote
from alembic_audit.reading.qualified import (
    Numbers,
    Text,
    TextArray,
    cast,
    catalog,
    compare,
    has_operators,
    is_any,
    plain_type,
    same_image,
)
from alembic_audit.reading.trail import Trail, dropped_values
from alembic_audit.reading.types import names_where

BATCH = 10_000
"""How many rows are asked for at once."""

WIDTH = 800
"""Of how many columns images are asked for at once; a SELECT list ends at 1664."""


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """A row, and how it shall look; records by their ``audit_id``.

    Attributes:
        anchor: A record of the row, which has its key.
        then: The record whose image the row shall have; None where it shall not be.
        since: The record that was the last one at that moment, if it matters.
        left: The record whose image the undone transaction left; None where it left no row, or
            none is undone.
    """

    anchor: int
    then: int | None
    since: int | None = None
    left: int | None = None


@dataclasses.dataclass(frozen=True)
class Part:
    """The rows of one table.

    Attributes:
        trail: Its trail.
        targets: The rows.
        columns: Those to put back; None for all.
        values: What to write where a value cannot come back.
        of_transaction: Whether only what a transaction changed is put back.
        of_rows: The same by key, where each row has its own.
        source: What was named, as messages show it.
    """

    trail: Trail
    targets: tuple[Target, ...]
    columns: frozenset[str] | None = None
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    of_transaction: bool = False
    of_rows: Mapping[tuple[Any, ...], Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    source: str = ""

    def given(self, row: "Row") -> Mapping[str, Any]:
        """What to write into a row where a value cannot come back."""
        return {**self.values, **self.of_rows.get(row.key, {})}


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A row as it is, beside its trail.

    Attributes:
        target: What it shall be.
        key: Its key.
        newest: Its last record, or the last TRUNCATE, if that came later.
        own: Whether the running transaction wrote that record.
        recorded: Whether there is a row, by the trail.
        there: Whether there is one.
        strange: Columns that are otherwise than the last record says.
        differing: Columns that differ from what they were then.
        changed: Columns that the transaction changed.
        later: Columns that differ from what the transaction left.
        untold: Sparse columns of which no record holds what they were then.
        nulls: Columns that were NULL then.
        since: The records after that moment.
        former: What the record has in columns that are no column of the table now.
        contradiction: The record, at that moment or next after it, that cannot be true after the
            one before it; None without one.
    """

    target: Target
    key: tuple[Any, ...]
    newest: int
    own: bool = dataclasses.field(compare=False)
    recorded: bool
    there: bool
    strange: tuple[str, ...]
    differing: tuple[str, ...]
    changed: tuple[str, ...]
    later: tuple[str, ...]
    untold: tuple[str, ...]
    nulls: tuple[str, ...]
    since: tuple[int, ...]
    former: Mapping[str, Any]
    contradiction: int | None = None

    @property
    def name(self) -> str:
        """The key, as messages show it."""
        return key_text(self.key)


def key_text(key: tuple[Any, ...]) -> str:
    """Return a key as messages show it."""
    return repr(key[0]) if len(key) == 1 else repr(key)


def connection(run: Any, table: sa.Table) -> sa.Connection:
    """Return a Connection, or that by which a Session reads a table."""
    if isinstance(run, sa.Connection):
        return run
    made: sa.Connection = run.connection(bind_arguments={"clause": table})
    return made


def are_hidden(run: Any, table: sa.Table) -> bool:
    """Return whether row level security may hide rows of a table from the role in force."""
    active = sa.select(catalog.row_security_active(name_of(run, table)))
    return bool(connection(run, table).scalar(active))


def name_of(run: Any, table: sa.Table) -> str:
    """A table as SQLAlchemy writes it: without a schema the search_path decides."""
    options = connection(run, table).get_execution_options()
    named = options.get("schema_translate_map") or {}
    schema = named.get(table.schema, table.schema)
    return quote(table.name) if schema is None else qualify(schema, table.name)


def sends_utf8(run: Any, table: sa.Table) -> bool:
    """Return whether the server sends text in UTF-8, or as it stores it."""
    setting = catalog.current_setting
    found = connection(run, table).execute(
        sa.select(setting("client_encoding"), setting("server_encoding"))
    )
    client, server = found.one()
    return client == "UTF8" or server == "SQL_ASCII" or (client, server) == ("SQL_ASCII", "UTF8")


def read(run: Any, trail: Trail, targets: Sequence[Target]) -> Iterator[Row]:
    """Yield the rows of targets, in their order.

    Raises:
        RestoreError: A record that was there is not there any more.
    """
    size = len(trail.spec.key)
    for some in batches(targets):
        compared = run.execute(_compared(trail, some)).all()
        if len(compared) != len(some):
            raise RestoreError(
                f"records of {trail.table.fullname!r} that the plan was made from are not "
                "there any more, as after a rollback; make another one"
            )
        for target, row in zip(some, compared, strict=True):
            yield _row(size, target, row)


def states(run: Any, trail: Trail, targets: Sequence[Target]) -> "Iterator[sa.Row[Any]]":
    """Yield ``newest``, ``own``, ``recorded`` and ``there`` of a `Row` for each target."""
    for some in batches(targets):
        asked = _Asked(trail, some)
        yield from run.execute(_states(asked, _newest(asked)))


Values = dict[str, Any]


def images(
    run: Any, trail: Trail, targets: Sequence[Target], names: Sequence[str]
) -> Iterator[tuple[Values, Values]]:
    """Yield what columns hold now and what they held then, for each target.

    Values that the driver cannot read, as a year before Christ, come as the text of PostgreSQL.

    Args:
        run: Executes.
        trail: Whose rows.
        targets: Which rows.
        names: Columns; a hash is no value.
    """
    for some in batches(targets):
        found: list[tuple[Values, Values]] = [({}, {}) for _ in some]
        for start in range(0, len(names), WIDTH):
            few = names[start : start + WIDTH]
            try:
                shown = run.execute(_images(trail, some, few, as_text=False)).all()
            except (ValueError, OverflowError, sa.exc.DataError):
                shown = run.execute(_images(trail, some, few, as_text=True)).all()
            for (now, then), row in zip(found, shown, strict=True):
                now.update(zip(few, row[: len(few)], strict=True))
                then.update(zip(few, row[len(few) :], strict=True))
        yield from found


def _images(
    trail: Trail, targets: Sequence[Target], names: Sequence[str], *, as_text: bool
) -> "sa.Select[Any]":
    asked, then = _Asked(trail, targets), trail.audit.alias()
    now: list[sa.ColumnElement[Any]] = [column(asked.live, name) for name in names]
    was = [_told(trail, then, name) for name in names]
    shown: list[sa.ColumnElement[Any]]
    if as_text:
        shown = [sa.cast(value, Text()) for value in (*now, *was)]
    else:
        hashed = trail.spec.hash_columns
        typed = zip(was, names, strict=True)
        shown = now + [
            value if name in hashed else sa.type_coerce(value, trail.type_of(name))
            for value, name in typed
        ]
    return (
        sa.select(*shown)
        .select_from(asked.rows.outerjoin(then, asked.is_at("then", then)))
        .order_by(asked.targets.c.place)
    )


def _row(size: int, target: Target, row: "sa.Row[Any]") -> Row:
    former = {name: value for name, value in (row.former or {}).items() if value is not None}
    return Row(
        target,
        key=tuple(row[-size:]),
        newest=row.newest,
        own=row.own,
        recorded=row.recorded,
        there=row.there,
        strange=_names(row.strange),
        differing=_names(row.differing),
        changed=_names(row.changed),
        later=_names(row.later),
        untold=_names(row.untold or ()),
        nulls=_names(row.nulls),
        since=tuple(row.since or ()),
        former=former,
        contradiction=row.contradiction,
    )


def _names(names: Iterable[str]) -> tuple[str, ...]:
    # The same few names come with every row.
    return tuple(map(sys.intern, names))


def batches(targets: Sequence[Target]) -> Iterator[Sequence[Target]]:
    """Yield targets, so many as are asked for at once."""
    for start in range(0, len(targets), BATCH):
        yield targets[start : start + BATCH]


def column(table: FromClause, name: str) -> Any:
    """Return a column by its name, which need not be its ``key``."""
    found = table.c.get(name)
    if found is not None and found.name == name:
        return found
    return next(one for one in table.columns if one.name == name)


def bare(table: FromClause, name: str) -> sa.ColumnElement[Any]:
    """Return a column to compare, by the operators of PostgreSQL alone.

    A type of the model may have its own, and a DOMAIN has none that SQLAlchemy 2.1 knows.
    """
    return sa.type_coerce(column(table, name), sa.types.NULLTYPE)


def comparable(table: FromClause, name: str) -> sa.ColumnElement[Any]:
    """Return a column for ``compare``: bare, where pg_catalog has the operators of its type."""
    found = column(table, name)
    return bare(table, name) if has_operators(found.type) else found


def is_same(trail: Trail, live: FromClause, record: NamedFromClause) -> sa.ColumnElement[bool]:
    """Return whether a row of the table has the key of a record."""
    return sa.and_(*(_is_same_value(trail, live, record, name) for name in trail.spec.key))


def _is_same_value(
    trail: Trail, live: FromClause, record: NamedFromClause, name: str
) -> sa.ColumnElement[bool]:
    now, then = comparable(live, name), restored(trail, record, name)
    declared = plain_type(column(live, name).type)
    if isinstance(declared, postgresql.DOMAIN) and _is_of_labels(declared):
        # The operator of enums takes no domain of one; an index of the column is used for all that.
        return compare(sa.cast(now, declared.data_type), "=", sa.cast(then, declared.data_type))
    return compare(now, "=", then)


def is_same_row(
    trail: Trail, one: NamedFromClause, other: NamedFromClause
) -> sa.ColumnElement[bool]:
    """Return whether two records have the same key."""
    return trail.is_same_row(one, other)


def is_one_of(records: NamedFromClause, numbers: Sequence[int | None]) -> sa.ColumnElement[bool]:
    """Return whether a record is one of those with these numbers."""
    wanted = sa.cast(sa.literal(list(numbers), Numbers), Numbers)
    return sa.and_(is_any(records.c.audit_id, wanted), _is_between(records, numbers))


def _is_between(records: NamedFromClause, numbers: Iterable[int | None]) -> sa.ColumnElement[bool]:
    """Return whether a record is between the first and the last of some.

    They follow each other where one transaction wrote them; without their bounds the planner may
    read the whole of the audit table for each batch.
    """
    known = [number for number in numbers if number is not None]
    if not known:
        return sa.false()
    first, last = (sa.literal(bound, sa.BigInteger) for bound in (min(known), max(known)))
    return sa.and_(
        compare(records.c.audit_id, ">=", first), compare(records.c.audit_id, "<=", last)
    )


def restored(trail: Trail, record: NamedFromClause, name: str) -> sa.ColumnElement[Any]:
    """Return what a record holds of a column, as the table takes it."""
    value = _told(trail, record, name)
    if name in dict(trail.spec.as_text):
        return _Read(trail.table, name, _text(value, dict(trail.spec.as_text)[name]))
    # An explicit cast would cut text and round numbers, which an assignment does not.
    if collation := getattr(plain_type(column(trail.table, name).type), "collation", None):
        return sa.collate(value, collation)
    return value


def _told(trail: Trail, record: NamedFromClause, name: str) -> sa.ColumnElement[Any]:
    """Return what a record holds of a column; of one that is hashed that is NULL, or nothing."""
    if name in trail.spec.hash_columns:
        return cast(sa.null(), column(trail.table, name).type)
    return trail.value(record, name)


class _Read(FunctionElement[Any]):
    """What the input function of a column's type makes of a text.

    A cast could be one that the owner of the type made, and would run as the role that restores.
    """

    inherit_cache = False

    def __init__(self, table: sa.Table, name: str, text: sa.ColumnElement[Any]) -> None:
        super().__init__(text)
        self.table = table
        self.column = name
        self.type = column(table, name).type


@compiles(_Read, "postgresql")
def _read(element: _Read, compiler: Any, **kw: Any) -> str:
    table = compiler.preparer.format_table(element.table)
    name = compiler.render_literal_value(element.column, sa.String())
    text = compiler.process(element.clauses, **kw)
    return (
        f"(pg_catalog.json_populate_record(NULL::{table}, "
        f"pg_catalog.json_build_object({name}, {text}))).{compiler.preparer.quote(element.column)}"
    )


def _text(value: sa.ColumnElement[Any], kind: str) -> sa.ColumnElement[Any]:
    """Return the text of a stored value, which is one already where *kind* says text."""
    if kind == "text":
        return value
    plain = sa.type_coerce(value, sa.types.NULLTYPE)
    return catalog.textin(catalog.array_out(plain), type_=Text())


def _is_of_labels(declared: Any) -> bool:
    """Return whether a type is a native enum, or an array or a domain of one."""
    plain = plain_type(declared)
    if isinstance(plain, sa.ARRAY):
        return _is_of_labels(plain.item_type)
    if isinstance(plain, postgresql.DOMAIN):
        return _is_of_labels(plain.data_type)
    return isinstance(plain, sa.Enum) and plain.native_enum


class _Asked:
    """Targets, and beside each its anchor and the row, as FROM takes them.

    Args:
        trail: Whose rows.
        targets: Which rows.
    """

    def __init__(self, trail: Trail, targets: Sequence[Target]) -> None:
        self.trail = trail
        self.numbers = {
            name: [getattr(one, name) for one in targets]
            for name in ("anchor", "then", "since", "left")
        }
        lists = [sa.cast(sa.literal(some, Numbers), Numbers) for some in self.numbers.values()]
        self.targets: Any = (
            sa.func.unnest(*lists)  # of several arrays the grammar knows it, see qualified.py
            .table_valued(*self.numbers, with_ordinality="place", name="asked")
            .render_derived()
        )
        self.anchor, row = trail.audit.alias(), trail.table.alias()
        # One by one by the key, also where the statistics take the table for empty.
        found = sa.select(row).where(is_same(trail, row, self.anchor)).limit(1)
        self.live = found.correlate(self.anchor).lateral("audit_live")
        self.rows = self.targets.join(self.anchor, self.is_at("anchor", self.anchor)).outerjoin(
            self.live, sa.true()
        )

    def is_at(self, name: str, record: NamedFromClause) -> sa.ColumnElement[bool]:
        """Return whether a record is the one that a target names."""
        return sa.and_(
            compare(record.c.audit_id, "=", self.targets.c[name]),
            _is_between(record, self.numbers[name]),
        )


def _newest(asked: _Asked) -> Any:
    """Return the last record of each row."""
    later = asked.trail.audit.alias()
    return (
        sa.select(later)
        .where(is_same_row(asked.trail, later, asked.anchor))
        .order_by(later.c.audit_id.desc())
        .limit(1)
        .correlate(asked.anchor)
        .lateral("audit_newest")
    )


def _states(asked: _Asked, newest: Any) -> "sa.Select[Any]":
    """Return ``newest``, ``own``, ``recorded`` and ``there`` of `Row` for each target."""
    truncate = asked.trail.audit.alias()
    emptied = (
        sa.select(truncate.c.audit_id, truncate.c.audit_transaction_id)
        .where(asked.trail.is_truncate(truncate))
        .order_by(truncate.c.audit_id.desc())
        .limit(1)
        .subquery("audit_emptied")
    )
    is_emptied = sa.func.coalesce(compare(emptied.c.audit_id, ">", newest.c.audit_id), sa.false())
    here = catalog.txid_current()
    return (
        sa.select(
            sa.func.greatest(newest.c.audit_id, emptied.c.audit_id).label("newest"),
            sa.case(
                (is_emptied, compare(emptied.c.audit_transaction_id, "=", here)),
                else_=compare(newest.c.audit_transaction_id, "=", here),
            ).label("own"),
            sa.and_(compare(newest.c.audit_operation, "<>", "D"), ~is_emptied).label("recorded"),
            bare(asked.live, asked.trail.spec.key[0]).is_not(None).label("there"),
        )
        .select_from(asked.rows.join(newest, sa.true()).outerjoin(emptied, sa.true()))
        .order_by(asked.targets.c.place)
    )


def _compared(trail: Trail, targets: Sequence[Target]) -> "sa.Select[Any]":
    """Return a row for each target: the arguments of `Row` by their names, and the key."""
    asked, audit = _Asked(trail, targets), trail.audit
    newest, then, left, since = _newest(asked), audit.alias(), audit.alias(), audit.alias()
    number = since.c.audit_id
    later_records = (
        sa.select(catalog.array_agg(postgresql.aggregate_order_by(number, number)))
        .where(is_same_row(trail, since, asked.anchor), compare(number, ">", asked.targets.c.since))
        .correlate(asked.anchor, asked.targets)
        .scalar_subquery()
    )
    names = [name for name in trail.recorded if name not in trail.spec.ignore_columns]
    known = [one.name for one in audit.columns]
    was, present = _recorded(trail, then), _present(trail, asked.live)
    sparse = {name: trail.is_untold(then, name) for name in trail.spec.sparse_columns}
    former = dropped_values(then, known)
    key = [
        sa.type_coerce(asked.anchor.c[name], trail.type_of(name)).label(f"audit_key_{n}")
        for n, name in enumerate(trail.spec.key)
    ]
    return (
        _states(asked, newest)
        .add_columns(
            _differing(_recorded(trail, newest), present, names).label("strange"),
            _differing(was, present, trail.recorded).label("differing"),
            _differing(was, _recorded(trail, left), names).label("changed"),
            _differing(_recorded(trail, left), present, names).label("later"),
            (names_where(sparse) if sparse else sa.cast(sa.null(), TextArray)).label("untold"),
            names_where({name: value.is_(None) for name, value in was.items()}).label("nulls"),
            later_records.label("since"),
            former.label("former"),
            _contradiction(asked).label("contradiction"),
            *key,
        )
        .outerjoin(then, asked.is_at("then", then))
        .outerjoin(left, asked.is_at("left", left))
    )


_FEW = 10
"""How many records before a moment are looked at; more of one row in one transaction are rare."""


def _contradiction(asked: _Asked) -> sa.ColumnElement[Any]:
    """The first record around a moment that contradicts the one before it.

    A function or a trigger that writes the table inside a statement on it is recorded before that
    statement. Only the records at the two ends are looked at, however many a row has.
    """
    targets = asked.targets.c
    begin = sa.func.coalesce(targets.then, targets.since, asked.anchor.c.audit_id)
    return sa.func.coalesce(*(_contradiction_after(asked, at) for at in (begin, targets.left)))


def _contradiction_after(asked: _Asked, at: sa.ColumnElement[Any]) -> sa.ScalarSelect[Any]:
    """The first of some records of a row that contradicts its predecessor.

    The record at a moment, the next one, and the few before it of its own transaction.
    """
    trail = asked.trail
    own, record, earlier = trail.audit.alias(), trail.audit.alias(), trail.audit.alias()
    number = record.c.audit_id
    of_row = (
        sa.select(record)
        .where(is_same_row(trail, record, asked.anchor))
        .correlate(asked.anchor, asked.targets)
    )
    next_two = of_row.where(compare(number, ">=", at)).order_by(number).limit(2)
    last_few = of_row.where(compare(number, "<", at)).order_by(number.desc()).limit(_FEW)
    both = sa.union_all(next_two, last_few).subquery()
    before = (
        sa.select(earlier)
        .where(is_same_row(trail, earlier, both), compare(earlier.c.audit_id, "<", both.c.audit_id))
        .order_by(earlier.c.audit_id.desc())
        .limit(1)
        .correlate(both)
        .lateral()
    )
    its_transaction = (
        sa.select(own.c.audit_transaction_id)
        .where(compare(own.c.audit_id, "=", at))
        .correlate(asked.anchor, asked.targets)
        .scalar_subquery()
    )
    return (
        sa.select(catalog.min(both.c.audit_id, type_=sa.BigInteger))
        .select_from(both.join(before, sa.true()))
        .where(
            sa.or_(
                compare(both.c.audit_id, ">=", at),
                compare(both.c.audit_transaction_id, "=", its_transaction),
            ),
            _contradicts(trail, both, before),
        )
        .correlate(asked.anchor, asked.targets)
        .scalar_subquery()
    )


def _contradicts(
    trail: Trail, record: NamedFromClause, before: NamedFromClause
) -> sa.ColumnElement[bool]:
    """Whether a record cannot be true after another one, the last of the same key."""
    emptied, moved = trail.audit.alias(), trail.audit.alias()
    truncated = (
        sa.select(sa.literal(1))
        .where(
            trail.is_truncate(emptied),
            compare(emptied.c.audit_id, ">", before.c.audit_id),
            compare(emptied.c.audit_id, "<", record.c.audit_id),
        )
        .correlate_except(emptied)
        .exists()
    )
    # A row that came under another key is recorded D and U, in one transaction.
    came = (
        sa.select(moved.c.audit_id)
        .where(
            compare(moved.c.audit_transaction_id, "=", record.c.audit_transaction_id),
            compare(moved.c.audit_operation, "=", "D"),
            compare(moved.c.audit_id, "<", record.c.audit_id),
            sa.or_(*(~same_image(moved.c[key], record.c[key]) for key in trail.spec.key)),
        )
        .order_by(moved.c.audit_id.desc())
        .limit(1)
        .correlate_except(moved)
        .scalar_subquery()
    )
    is_gone = sa.or_(compare(before.c.audit_operation, "=", "D"), truncated)
    operation = record.c.audit_operation
    return sa.case(
        (compare(operation, "=", "I"), ~is_gone),
        (compare(operation, "=", "D"), is_gone),
        (compare(operation, "=", "U"), sa.case((is_gone, came.is_(None)), else_=sa.false())),
        else_=sa.false(),
    )


Image = Mapping[str, sa.ColumnElement[Any]]


def _recorded(trail: Trail, record: NamedFromClause) -> Image:
    """Return what a record holds of each column, or of which it holds a hash."""
    return {name: trail.value(record, stored) for name, stored in trail.recorded.items()}


def _present(trail: Trail, live: FromClause) -> Image:
    """Return what a record of the row as it is would hold."""
    return {
        name: _stored(trail, live, name) if name == stored else _hash(bare(live, name))
        for name, stored in trail.recorded.items()
    }


def _stored(trail: Trail, live: FromClause, name: str) -> sa.ColumnElement[Any]:
    """Return what the function would store of a column, by no cast that somebody else made."""
    # COALESCE makes a value of a domain one of its base type.
    value = sa.func.coalesce(bare(live, name), sa.null(), type_=sa.types.NULLTYPE)
    kind = dict(trail.spec.as_text).get(name)
    if kind is None:
        return value
    if kind == "text":
        return catalog.textin(catalog.enum_out(value), type_=Text())
    return cast(_text(value, kind), trail.audit.c[name].type)


def _hash(value: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    digest = catalog.sha256(catalog.substring(catalog.record_send(sa.func.row(value)), 13))
    # Of a bare NULL the grammar makes IS NOT NULL; of a row that would ask for each field.
    return sa.case((value.is_distinct_from(sa.null()), digest))


def _differing(one: Image, other: Image, names: Iterable[str]) -> sa.ColumnElement[Any]:
    return names_where({name: ~same_image(one[name], other[name]) for name in names})
