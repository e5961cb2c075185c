"""The statements that a client sends."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.tables import Shape

OWN = {
    "audit_operation_timestamp": "clock_timestamp()",
    "audit_transaction_id": "txid_current()",
    "audit_current_user": "session_user",
}
"""What the limit writes into our own columns."""

Statement = tuple[str, list[Any]]


@dataclass(frozen=True)
class Workload:
    """One kind of work.

    Attributes:
        name: As it stands in the results.
        operation: insert, update, delete, or copy.
        rows: Rows that one statement changes.
        statements: How many of them make a round.
        rounds: How many follow each other before table and history are made anew.
    """

    name: str
    operation: str
    rows: int
    statements: int
    rounds: int

    @property
    def _start(self) -> int:
        return WARM_UP if self.operation in ("update", "delete") else 1_000_000

    @property
    def before(self) -> int:
        """How many rows are there, with keys from 0 on."""
        return WARM_UP + self.rows * self.statements * self.rounds

    def ranges(self, turn: int) -> Iterator[tuple[int, int]]:
        """Yield the first and the last key of each statement of a round."""
        start = self._start + turn * self.statements * self.rows
        for first in range(start, start + self.statements * self.rows, self.rows):
            yield first, first + self.rows - 1

    def warm_up(self) -> Iterator[tuple[int, int]]:
        """Yield the keys of statements of one row that are not timed."""
        return ((key, key) for key in range(self._start - WARM_UP, self._start))


WARM_UP = 10


def change(workload: Workload, shape: Shape, first: int, last: int) -> Statement:
    """Return the statement of an application; COPY takes its rows as one text."""
    names = ", ".join(["id", *shape.names])
    if workload.operation == "insert":
        if first == last:
            row = shape.row(first)
            return f"INSERT INTO item ({names}) VALUES ({', '.join(['%s'] * len(row))})", row
        return f"INSERT INTO item ({names}) {shape.rows('%s', '%s')}", [first, last]
    if workload.operation == "copy":
        return f"COPY item ({names}) FROM STDIN", [copy_text(shape, first, last)]
    verb = "UPDATE item SET visits = visits + 1, city = 'Shelbyville'"
    if workload.operation == "delete":
        verb = "DELETE FROM item"
    where, keys = _where(first, last)
    return f"{verb} WHERE {where}", keys


def copy_text(shape: Shape, first: int, last: int) -> str:
    """Return rows as COPY reads them."""
    rest = "\t".join("t" if value is True else str(value) for value in shape.row(0)[1:])
    return "".join(f"{key}\t{rest}\n" for key in range(first, last + 1))


def second(workload: Workload, shape: Shape, first: int, last: int) -> list[Statement]:
    """Return the change, and a second plain statement that writes its records: the limit.

    A deletion is recorded before it happens. A client that inserts one row knows it; all else is
    read from the table.
    """
    into, values = _records(workload, shape)
    statement, parameters = change(workload, shape, first, last)
    if workload.operation == "insert" and first == last:
        row = ", ".join(["%s"] * len(parameters))
        own = ", ".join(values.values())
        return [(statement, parameters), (f"{into} VALUES ({own}, {row})", parameters)]
    where, keys = _where(first, last)
    columns = ", ".join([*values.values(), "id", *shape.names])
    record = (f"{into} SELECT {columns} FROM item WHERE {where}", keys)
    if workload.operation == "delete":
        return [record, (statement, parameters)]
    return [(statement, parameters), record]


def together(workload: Workload, shape: Shape, first: int, last: int) -> list[Statement]:
    """Return one statement that changes one row and records it; for many rows, and COPY, two."""
    if first != last or workload.operation == "copy":
        return second(workload, shape, first, last)
    into, values = _records(workload, shape)
    statement, parameters = change(workload, shape, first, last)
    columns = ", ".join([*values.values(), "id", *shape.names])
    return [
        (
            f"WITH changed AS ({statement} RETURNING *) {into} SELECT {columns} FROM changed",
            parameters,
        )
    ]


def _records(workload: Workload, shape: Shape) -> tuple[str, dict[str, str]]:
    """Return the beginning of an INSERT of records, and the values of our own columns."""
    letter = "I" if workload.operation == "copy" else workload.operation[0].upper()
    settings = {f"audit_s{number}": "'value'" for number in range(1, shape.settings + 1)}
    own = {"audit_operation": f"'{letter}'", **OWN, **settings}
    return f"INSERT INTO item_audit ({', '.join([*own, 'id', *shape.names])})", own


def _where(first: int, last: int) -> Statement:
    return ("id = %s", [first]) if first == last else ("id BETWEEN %s AND %s", [first, last])


def some(bulk: int) -> dict[str, Workload]:
    """Return the workloads, by name.

    Args:
        bulk: Rows of a statement that changes many.
    """
    return {
        workload.name: workload
        for workload in (
            Workload("insert", "insert", 1, 100, 10),
            Workload("update", "update", 1, 100, 10),
            Workload("delete", "delete", 1, 100, 10),
            Workload("bulk insert", "insert", bulk, 1, 1),
            Workload("bulk update", "update", bulk, 1, 1),
            Workload("bulk delete", "delete", bulk, 1, 1),
            Workload("copy", "copy", bulk, 1, 1),
        )
    }
