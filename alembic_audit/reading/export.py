"""export: records as JSON Lines, each once, however their transactions overlapped."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic_audit.errors import ReadingError, sqlstate
from alembic_audit.reading.qualified import Text, catalog, compare, whole_row
from alembic_audit.reading.settled import bound, transaction_of
from alembic_audit.reading.trail import Trail, dropped_values, trail_of

BATCH = 1000
"""How many records are fetched at a time."""

FORMATS = {
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "iso_8601",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
}
"""What the text of a value depends on, and what it is while an export runs."""

_CURES = {
    "42501": "this role may not read {audit!r}: {error}; its owner grants SELECT on it, and USAGE "
    "on its schema",
    "42P01": "there is no audit table {audit!r}: {error}; run the migration that creates it",
    "42703": "{audit!r} is not as the model says: {error}; run the migrations that are missing",
}
"""What it means that the server refuses to read an audit table, by SQLSTATE."""


class Line(NamedTuple):
    """One record.

    Attributes:
        text: A JSON object, without a line break.
        cursor: What ``export(after=...)`` takes to go on after this record.
    """

    text: str
    cursor: str


def export(connection: sa.Connection, *sources: Any, after: str | None = None) -> Iterator[Line]:
    """Yield the records of transactions that are over, by table, transaction and record.

    It stops before the oldest transaction that still runs, whatever its records are numbered, and
    so does one that runs for long: later records wait for it. Exports that go on from each other's
    last cursor hold each record once. Records are streamed; the connection is not to be used for
    anything else, and stays in its transaction, until the iterator is exhausted or closed.

    Args:
        connection: A connection that may read the audit tables.
        *sources: Audited classes or Tables.
        after: The cursor of the last Line that was kept; None from the beginning.

    Raises:
        ReadingError: A trail cannot be read, *after* is no cursor, in AUTOCOMMIT, or
            transaction ids lie in the future, as after a dump was restored in another server.
    """
    trails = [trail_of(source) for source in sources]
    if not trails:
        raise ReadingError("export of nothing; name audited classes or Tables")
    return _lines(connection, trails, _positions(after))


def _lines(
    connection: sa.Connection, trails: list[Trail], positions: dict[str, tuple[int, int]]
) -> Iterator[Line]:
    with _formats(connection):
        for trail in trails:
            name = trail.table.fullname
            with _explained(trail):
                _check_cursor(connection, name, positions)
                rows = connection.execute(
                    _records(trail, positions.get(name)), execution_options={"yield_per": BATCH}
                )
            with rows:
                for of_future, transaction, number, record, dropped in rows:
                    if of_future is not None:
                        _refuse(f"the trail of {name!r} holds", transaction, of_future)
                    positions[name] = (transaction, number)
                    text = (
                        f'{{"table": {json.dumps(name)}, "record": {record}, "dropped": {dropped}}}'
                    )
                    yield Line(text, json.dumps(positions, sort_keys=True))


def _records(trail: Trail, after: tuple[int, int] | None) -> "sa.Select[Any]":
    """Return the records that are over, in the statement whose snapshot says which these are.

    Before them come those of transactions that this server has not given yet, with the number to
    which it has come: the table is read once.
    """
    audit = trail.audit
    known = [column.name for column in audit.columns]
    shown = sa.select(*(_value(column).label(column.name) for column in audit.columns))
    record = shown.correlate(audit).subquery("audit_record")
    whole = sa.select(sa.cast(catalog.row_to_json(whole_row(record)), Text()))
    transaction, number = transaction_of(audit), audit.c.audit_id
    of_future = sa.case((compare(transaction, ">=", bound("xmax")), bound("xmax")))
    statement = sa.select(
        of_future.label("of_future"),
        transaction,
        number,
        whole.correlate(audit).scalar_subquery(),
        sa.cast(dropped_values(audit, known), Text()),
    )
    wanted = compare(transaction, "<", bound("xmin"))
    if after is not None:
        position = sa.tuple_(*(sa.literal(one, sa.BigInteger) for one in after))
        wanted = sa.and_(
            wanted,
            sa.tuple_(transaction, number).op("OPERATOR(pg_catalog.>)", is_comparison=True)(
                position
            ),
        )
        if after[0]:  # an index finds the column by itself
            statement = statement.where(compare(audit.c.audit_transaction_id, ">=", after[0]))
    return statement.where(sa.or_(wanted, of_future.is_not(None))).order_by(
        of_future.is_(None), transaction, number
    )


def _value(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """Return a value as JSON has it, or else its text."""
    kept = (sa.Integer, sa.Boolean, sa.String, postgresql.JSONB)
    return column if isinstance(column.type, kept) else sa.cast(column, Text())


def _check_cursor(
    connection: sa.Connection, name: str, positions: Mapping[str, tuple[int, int]]
) -> None:
    """Refuse a transaction id that this server has not given yet."""
    if name in positions:
        now = connection.execute(sa.select(bound("xmax"))).scalar_one()
        if positions[name][0] >= now:
            _refuse("the cursor is of", positions[name][0], now)


def _refuse(what: str, transaction: int, now: int) -> NoReturn:
    raise ReadingError(
        f"{what} transaction {transaction}, where this server has come to {now}: a dump was "
        "restored here, and its transaction ids say nothing; export it by audit_id once, "
        "with nobody writing, and begin a new trail"
    )


@contextmanager
def _explained(trail: Trail) -> Iterator[None]:
    """Say what to do where the server refuses to read an audit table."""
    audit = trail.audit.fullname
    try:
        yield
    except sa.exc.DBAPIError as error:
        state = sqlstate(error.orig)
        if state not in _CURES:
            raise
        reason = str(error.orig).partition("\n")[0]
        raise ReadingError(_CURES[state].format(audit=audit, error=reason)) from error


def _positions(after: str | None) -> dict[str, tuple[int, int]]:
    if after is None:
        return {}
    try:
        found = json.loads(after)
        kept = {name: (int(at[0]), int(at[1])) for name, at in found.items() if len(at) == 2}
    except (AttributeError, LookupError, TypeError, ValueError):
        kept, found = {}, None
    if found is None or len(kept) != len(found):
        raise ReadingError(f"{after!r} is no cursor; write the cursor of a Line, or None")
    return kept


@contextmanager
def _formats(connection: sa.Connection) -> Iterator[None]:
    """Set the formats of values, and put back those there were."""
    before = connection.execute(
        sa.select(*(catalog.current_setting(name).label(name) for name in FORMATS))
    ).one()
    driver: Any = connection.connection.dbapi_connection
    if driver.autocommit:
        raise ReadingError("export in AUTOCOMMIT: it needs one transaction; set isolation_level")
    _set(connection, FORMATS)
    refused = False
    try:
        yield
    except (sa.exc.DBAPIError, ReadingError) as error:
        # The transaction is aborted where the server refused, and its settings end with it.
        refused = isinstance(error, sa.exc.DBAPIError) or error.__cause__ is not None
        raise
    finally:
        if not refused and connection.in_transaction() and not connection.invalidated:
            _set(connection, dict(zip(FORMATS, before, strict=True)))


def _set(connection: sa.Connection, formats: Mapping[str, str]) -> None:
    connection.execute(
        sa.select(*(catalog.set_config(name, value, True) for name, value in formats.items()))
    ).all()
