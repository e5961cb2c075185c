"""Trails that cannot be replayed, or whose end is another state than their table's."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator

import sqlalchemy as sa

from alembic_audit.catalog.types import read_types
from alembic_audit.doctor import values as kinds
from alembic_audit.doctor.trail import Trail
from alembic_audit.doctor.values import Finding
from alembic_audit.errors import ReadingError
from alembic_audit.naming import qualify
from alembic_audit.spec import OPERATIONS
from alembic_audit.sql import replay as sql

BATCH = 2000
"""How many keys are fetched at a time."""

EXAMPLES = 5
"""How many keys a finding names."""

_KINDS = {
    sql.CONTRADICTION: kinds.NOT_REPLAYABLE,
    sql.DIFFERENT: kinds.DIFFERS_FROM_TABLE,
    sql.GONE: kinds.DIFFERS_FROM_TABLE,
    sql.THERE: kinds.DIFFERS_FROM_TABLE,
    sql.TWICE: kinds.DIFFERS_FROM_TABLE,
    sql.UNRECORDED: kinds.UNRECORDED,
}
_DID = {"I": "inserts", "U": "updates", "D": "deletes"}

Progress = Callable[[str, int], None]
"""Is told the audited table and how many of its keys were replayed, again and again."""


@dataclasses.dataclass(frozen=True, slots=True)
class Flaw:
    """Where the records of one key, or the key's row, contradict a trail.

    Attributes:
        what: One of the constants of ``alembic_audit.sql.replay``.
        key: The key, each value as text.
        audit_id: The record: the one that contradicts, or the last one of the key; None of none.
        before: The record that it contradicts.
        operation: What the record says, of a contradiction.
        columns: The columns in which a row is not as its record says.
    """

    what: str
    key: tuple[str, ...]
    audit_id: int | None
    before: int | None
    operation: str
    columns: tuple[str, ...]

    def __str__(self) -> str:
        key = f"key {self.key[0]}" if len(self.key) == 1 else f"key ({', '.join(self.key)})"
        if self.what == sql.CONTRADICTION:
            which = "which is there" if self.operation == "I" else "which is gone"
            last = "a TRUNCATE" if self.before is None else f"record {self.before}"
            return f"record {self.audit_id} {_DID[self.operation]} {key}, {which} since {last}"
        if self.what == sql.DIFFERENT:
            return f"{key} is not as record {self.audit_id} says, in {', '.join(self.columns)}"
        if self.what == sql.GONE:
            return f"{key} is gone, and by record {self.audit_id} it is there"
        if self.what == sql.THERE:
            return f"{key} is there, and by record {self.audit_id}, or a TRUNCATE, it is gone"
        return f"two rows have {key}" if self.what == sql.TWICE else key


def findings(
    connection: sa.Connection, trail: Trail, progress: Progress | None = None
) -> Iterator[Finding]:
    """Yield what a replay of one trail finds: one finding for each kind, however many keys."""
    counts: dict[str, int] = defaultdict(int)
    examples: dict[str, list[Flaw]] = defaultdict(list)
    try:
        # A savepoint, so that what fails here leaves the rest of the examination.
        with connection.begin_nested():
            for flaw in flaws(connection, trail, progress):
                kind = _KINDS[flaw.what]
                counts[kind] += 1
                if len(examples[kind]) < EXAMPLES:
                    examples[kind].append(flaw)
    except (sa.exc.DBAPIError, ReadingError) as error:
        reason = str(getattr(error, "orig", error)).strip().partition("\n")[0]
        yield trail.finding(kinds.NOT_REPLAYED, f"the trail was not replayed: {reason}")
        return
    for kind, count in counts.items():
        listed = "; ".join(map(str, sorted(examples[kind], key=_place)))
        more = f"; and {count - EXAMPLES:,} more" if count > EXAMPLES else ""
        yield trail.finding(kind, _STARTS[kind].format(count=f"{count:,}") + listed + more)


_STARTS = {
    kinds.NOT_REPLAYABLE: "",
    kinds.DIFFERS_FROM_TABLE: "",
    kinds.UNRECORDED: "rows of the table without a record: {count}, for example ",
}


def _place(flaw: Flaw) -> tuple[int, tuple[str, ...]]:
    return (flaw.audit_id or 0, flaw.key)


def flaws(
    connection: sa.Connection, trail: Trail, progress: Progress | None = None
) -> Iterator[Flaw]:
    """Yield where a trail cannot be replayed, and where it ends otherwise than its table.

    One statement reads both tables, so one snapshot: what others write meanwhile does not matter.
    Memory does not grow with the trail, neither here nor on the server, which sorts on disk.

    Args:
        connection: Where to read; its driver streams.
        trail: Which trail.
        progress: Is told how far it is.

    Raises:
        ReadingError: The trail cannot be replayed at all, and the message says why.
    """
    statement = _statement(connection, trail)
    jit = connection.execute(sa.select(sa.func.pg_catalog.current_setting("jit"))).scalar_one()
    _set_jit(connection, "off")  # a wide table would be compiled for longer than it is read
    options = {"no_parameters": True, "stream_results": True, "max_row_buffer": BATCH}
    count = 0
    with connection.exec_driver_sql(statement, execution_options=options) as rows:
        for batch in rows.partitions(BATCH):
            for what, key, number, before, operation, columns in batch:
                if what is None:
                    count += 1
                    continue
                is_record = what == sql.CONTRADICTION
                count += not is_record
                yield Flaw(
                    what,
                    tuple(key),
                    number if is_record or what == sql.GONE else before,
                    before,
                    operation,
                    tuple(columns or ()),
                )
            if progress is not None:
                progress(trail.name, count)
    _set_jit(connection, jit)


def _set_jit(connection: sa.Connection, value: str) -> None:
    connection.execute(sa.select(sa.func.pg_catalog.set_config("jit", value, True)))


def _statement(connection: sa.Connection, trail: Trail) -> str:
    spec = trail.spec
    if spec.audit_columns != "standard":
        raise ReadingError("the layout 'classic' has no order of records")
    if not spec.key:
        raise ReadingError("without a primary key a record does not say which row it is of")
    if missing := [name for name in OPERATIONS if name not in spec.operations]:
        raise ReadingError(f"it does not record {', '.join(missing)}")
    source, audit = read_types(connection, trail.place.source, trail.place.audit)
    for table, name in ((source, trail.place.source), (audit, trail.place.audit)):
        if table is None:
            raise ReadingError(f"table {qualify(*name)} is gone")
        if not table.readable:
            raise ReadingError(f"the role in force may not read {qualify(*name)}")
        if table.is_filtered:
            raise ReadingError(f"row level security may hide rows of {qualify(*name)}")
    assert source is not None and audit is not None
    if gone := [one for one in spec.key if one not in source.types or one not in audit.types]:
        raise ReadingError(f"column {gone[0]} of the key is gone")
    left_out = {*spec.ignore_columns, *spec.key}
    columns = [
        one
        for one in spec.columns
        if one not in left_out and one in source.types and one in audit.types
    ]
    different = {one for one in (*spec.key, *columns) if source.types[one] != audit.types[one]}
    only = "" if source.kind == "p" else "ONLY "
    return sql.replay(
        spec,
        only + qualify(*trail.place.source),
        trail.audit_name,
        columns=columns,
        as_text=different,
    )
