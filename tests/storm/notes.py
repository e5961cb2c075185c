"""What writers noted against the trails, and the trails against the tables."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

TABLES = ("account", "invoice", "receipt")
HOT = (1, 2, 3)
"""Rows of `account` that all writers update; every other row belongs to one writer."""

Key = tuple[str, str, int | None, int | None, int | None]
"""Of a record: table, operation, id, stamp and seen. No two writes have the same."""

State = dict[str, dict[str, Any] | None]


@dataclass
class Write:
    """One row that a writer wrote, as it has to be recorded.

    Attributes:
        key: Of the record.
        touch: Only `seen` has changed, which may be ignored.
        note: What was written into `account.note`, if that was there.
    """

    key: Key
    touch: bool = False
    note: str | None = None


@dataclass
class Transaction:
    """What a writer committed.

    Attributes:
        writer: Its name.
        writes: In order.
        before: What recorded the tables before it.
        after: What records the tables when it has written: it holds their locks.
        sure: The server said that it is committed; without that it may be, or not.
    """

    writer: str
    before: State
    writes: list[Write] = field(default_factory=list)
    after: State = field(default_factory=dict)
    sure: bool = False

    def spec(self, table: str) -> dict[str, Any] | None:
        """Return what recorded a table during all of it, or None if that changed meanwhile."""
        before, after = self.before[table], self.after[table]
        return after if before == after else None

    def is_recorded(self, write: Write) -> bool | None:
        """Return whether there must be a record, or None if there may be one."""
        table = write.key[0]
        if self.after[table] is None:
            return False
        if not write.touch:
            return True
        spec = self.spec(table)
        return None if spec is None else "seen" not in spec.get("ignore_columns", [])


@dataclass
class Trails:
    """What is recorded and what is there."""

    records: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    rows: dict[str, dict[int, tuple[Any, ...]]] = field(default_factory=dict)


def read(engine: sa.Engine) -> Trails:
    """Read all trails and tables, under whatever names they have."""
    with engine.connect() as connection:
        return read_by(connection)


def read_by(connection: sa.Connection) -> Trails:
    """Read them in a transaction."""
    found = Trails()
    for table in TABLES:
        names = [f"{table}_audit", f"{table}_history"]
        trails = [name for name in names if _is_there(connection, name)]
        assert len(trails) < 2, "a trail began twice"
        found.records[table] = [
            dict(row)
            for name in trails
            for row in connection.execute(
                sa.text(f"SELECT * FROM {name} ORDER BY audit_id")
            ).mappings()
        ]
        seen = "seen" if table == "account" else "NULL"
        found.rows[table] = {}
        if _is_there(connection, table):
            rows = connection.execute(sa.text(f"SELECT id, stamp, {seen} FROM {table}"))
            found.rows[table] = {number: (stamp, seen) for number, stamp, seen in rows}
    return found


def _is_there(connection: sa.Connection, table: str) -> bool:
    query = sa.text("SELECT to_regclass(:table) IS NOT NULL")
    return bool(connection.scalar(query, {"table": f"public.{table}"}))


def _key(table: str, record: dict[str, Any]) -> Key:
    number, stamp, seen = record["id"], record["stamp"], record.get("seen")
    return (table, record["audit_operation"], number, stamp, seen)


def compare(done: Iterable[Transaction], found: Trails) -> list[str]:
    """Return what is wrong with the trails, a line each: nothing is the answer that is wanted.

    Each write that was committed while there was a trail has one record, with its values, and
    there is no other record. A transaction of which nobody knows whether it was committed is
    recorded as a whole or not at all. The last record of each row is what the row is.
    """
    wrong: list[str] = []
    records = {
        key: record
        for table, all_of_it in found.records.items()
        for record in all_of_it
        if (key := _key(table, record))[1] != "T"
    }
    count = Counter(
        _key(table, record) for table, all_of_it in found.records.items() for record in all_of_it
    )
    allowed: Counter[Key] = Counter()
    unrecorded: set[tuple[str, int | None]] = {("account", number) for number in HOT}
    for one in done:
        must = [write for write in one.writes if one.is_recorded(write)]
        there = [write for write in must if count[write.key]]
        if not one.sure and not there:
            # Nothing of it is there, or nothing of it was recorded.
            unrecorded |= {(write.key[0], write.key[2]) for write in one.writes}
            continue
        for write in one.writes:
            recorded = one.is_recorded(write)
            if recorded is False or (recorded is None and not count[write.key]):
                unrecorded.add((write.key[0], write.key[2]))
                continue
            allowed[write.key] += 1
            if not count[write.key]:
                wrong.append(f"no record of {write.key} by {one.writer}")
            elif write.key[1] != "T":
                wrong += _values_differ(one, write, records[write.key])
    for key, number in count.items():
        if number != allowed[key] and (number > allowed[key] or key[1] == "T"):
            wrong.append(f"{number} records of {key}, {allowed[key]} wanted")
    for table in TABLES:
        wrong += _rows_differ(table, found, unrecorded)
    return wrong


def _values_differ(one: Transaction, write: Write, record: dict[str, Any]) -> list[str]:
    """Compare what a record holds beside its key with what was written."""
    spec = one.spec(write.key[0])
    if spec is None:
        return []
    expected: dict[str, Any] = {}
    if spec.get("session_settings"):
        column = spec.get("setting_columns", {}).get("who", "audit_who")
        expected[_present(record, column, "audit_who", "s_who")] = one.writer
    if write.note is not None and "note" in spec["columns"]:
        expected["note"] = write.note
    if write.touch and spec.get("changed_columns"):
        expected["audit_changed_columns"] = ["seen"]
    if write.key[0] == "account" and write.key[1] in "IU" and not write.touch:
        expected[_present(record, "mail", "email")] = f"mail {write.key[3]}"
    return [
        f"{name} of {write.key} is {record.get(name)!r}, not {value!r}"
        for name, value in expected.items()
        if record.get(name) != value
    ]


def _present(record: dict[str, Any], *names: str) -> str:
    return next((name for name in names if name in record), names[0])


def _rows_differ(table: str, found: Trails, unrecorded: set[tuple[str, int | None]]) -> list[str]:
    """Compare the last record of each row with the row."""
    last: dict[int, Key] = {}
    recorded: set[Key] = set()
    for record in found.records[table]:
        key = _key(table, record)
        if key[1] == "T":
            last.clear()
        else:
            last[record["id"]] = key
            recorded.add((table, "", *key[2:]))
    rows = found.rows[table]
    wrong = []
    for number, (stamp, seen) in rows.items():
        key = last.get(number)
        is_last = key is not None and key[1] != "D" and key[3] == stamp
        if (table, number) in unrecorded:
            is_last = is_last or (table, "", number, stamp, seen) not in recorded
        else:
            is_last = is_last and key is not None and key[4] == seen
        if not is_last:
            wrong.append(f"row {number} of {table} is {(stamp, seen)}, its last record {key}")
    if table != "receipt":  # which is dropped at times, and its rows with it
        wrong += [
            f"row {number} of {table} is gone, its last record {key}"
            for number, key in last.items()
            if number not in rows and key[1] != "D" and (table, number) not in unrecorded
        ]
    return wrong
