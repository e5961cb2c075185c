"""A replay of raw audit records in a few lines of Python; nothing of alembic_audit is used here.

A row is known by the key columns, a value by the number of its audit column (`attnum`), which a
renaming leaves alone. What the key is, and what is compared, changes with the table: an `Epoch`.

Records are taken one by one, in the order of `audit_id`, whatever the level of the trigger:

* `I`: a row that was not there. `S`: a row as it is. `T`: no row is left.
* `D`: a row that is there, and as it is there.
* `U`: the row with this key is there and changes, or it is not there and a `D` before says where it
  came from. Without a key a `U` always follows its `D`.

So a statement that records all its `D` first and all its `U` and `I` afterwards replays as well as
one that records row by row: a swap of keys is `D D U U`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

Image = dict[int, str]
"""What a row holds: attnum to text; what is not in it is NULL."""
Key = tuple[str | None, ...]


class ReplayError(AssertionError):
    """A record that cannot be true after those before it."""


@dataclass(frozen=True)
class Record:
    number: int
    operation: str
    image: Image


@dataclass(frozen=True)
class Epoch:
    """What records mean from a number on.

    Attributes:
        first: The `audit_id` from which on it holds.
        key: The numbers of the key columns; empty for a table without a key.
        watched: The columns of which every change is recorded.
        complete: It begins with a snapshot of every row that there is.
    """

    first: int
    key: tuple[int, ...]
    watched: frozenset[int]
    complete: bool


@dataclass
class Replay:
    """The rows that a trail says there are."""

    epochs: Sequence[Epoch]
    rows: dict[Key, list[Image]] = field(default_factory=dict)
    _epoch: int = -1
    _moving: int = 0

    @property
    def epoch(self) -> Epoch:
        return self.epochs[self._epoch]

    def until(self, number: int) -> None:
        """Begin the epochs up to a record that is about to be taken."""
        while self._epoch + 1 < len(self.epochs) and self.epochs[self._epoch + 1].first <= number:
            self._epoch += 1
            self._moving = 0
            if self.epoch.complete:
                self.rows.clear()
            elif len(self.epoch.key) != len(self.epochs[self._epoch - 1].key):
                raise ReplayError("the key changed, and no snapshot was taken")

    def take(self, record: Record) -> None:
        self.until(record.number)
        key = tuple(record.image.get(number) for number in self.epoch.key)
        here = self.rows.setdefault(key, [])
        keyed = bool(self.epoch.key)
        match record.operation:
            case "T":
                self.rows.clear()
                return
            case "I" | "S":
                self._check(not (keyed and here), record, "a row that is there already")
            case "U" if keyed and here:
                here.clear()
            case "U":
                self._check(self._moving > 0, record, "a row that is not there")
                self._moving -= 1
            case "D":
                image = self._known(record.image)
                found = [i for i, row in enumerate(here) if self._known(row) == image]
                self._check(bool(found), record, f"not as it is there: {here}")
                del here[found[0]]
                self._moving += 1
                return
            case other:
                raise ReplayError(f"record {record.number} has operation {other!r}")
        here.append(record.image)

    def table(self) -> Counter[frozenset[tuple[int, str]]]:
        """Return the rows as a multiset, in the columns that are watched now."""
        return as_table(self.images(), self.epoch.watched)

    def images(self) -> Iterator[Image]:
        return (row for rows in self.rows.values() for row in rows)

    def _known(self, image: Image) -> Image:
        return {number: text for number, text in image.items() if number in self.epoch.watched}

    def _check(self, holds: bool, record: Record, why: str) -> None:
        if not holds:
            raise ReplayError(f"record {record.number}, {record.operation} {record.image}: {why}")


Table = Counter[frozenset[tuple[int, str]]]


def as_table(rows: Iterable[Image], columns: Iterable[int]) -> Table:
    wanted = frozenset(columns)
    return Counter(
        frozenset((number, text) for number, text in row.items() if number in wanted)
        for row in rows
    )
