"""follow: the records of trails as they settle, each once, however their transactions overlap."""

import dataclasses
from collections.abc import Callable, Sequence

import sqlalchemy as sa

from alembic_audit.reading.qualified import compare, greatest_of
from alembic_audit.reading.settled import bound, next_transaction, transaction_of
from alembic_audit.reading.trail import Trail


@dataclasses.dataclass(frozen=True)
class _Mark:
    """A moment: transactions from *following* on write records numbered above *last*."""

    following: int
    last: tuple[int, ...]


class Follower:
    """Knows how far some trails were read.

    A transaction that stays open holds back the records of those that got their number after it.

    Args:
        connection: In REPEATABLE READ, so that all trails are read at one moment.
        trails: Which trails.
        prepare: What to do in a transaction before audit tables are read.
    """

    def __init__(
        self,
        connection: sa.Connection,
        trails: Sequence[Trail],
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self._prepare = prepare
        self._connection = connection
        self._trails = tuple(trails)
        self._end = self._settled()
        self._floors = (0,) * len(self._trails)
        self._mark, _ = self._glance(self._end)

    def is_earlier(self, trail: Trail) -> sa.ColumnElement[bool]:
        """Return the condition that a record was settled when the Follower was made."""
        transaction = transaction_of(trail.audit)
        # After a dump is restored in another server its numbers may be some of the future.
        return sa.or_(
            compare(transaction, "<", self._end), compare(transaction, ">=", self._mark.following)
        )

    def look(self) -> list[tuple[Trail, sa.ColumnElement[bool]]]:
        """Return the trails with records that settled since, and the condition for these.

        Call it first in a transaction, and read the records in that one.
        """
        end = self._settled()
        if end == self._end or not self._trails:
            return []
        self._prepare()
        is_past = self._end >= self._mark.following
        if is_past:
            self._floors = self._mark.last
        mark, is_found = self._glance(end)
        found = [
            (trail, self._is_new(number, end))
            for number, trail in enumerate(self._trails)
            if is_found[number]
        ]
        if is_past:
            self._mark = mark
        self._end = end
        return found

    def _settled(self) -> int:
        return self._connection.execute(sa.select(bound("xmin"))).scalar_one()

    def _is_new(self, number: int, end: int) -> sa.ColumnElement[bool]:
        """Return the condition that a record settled after the last look, and before *end*."""
        audit = self._trails[number].audit
        transaction = transaction_of(audit)
        return sa.and_(
            compare(audit.c.audit_id, ">", self._floors[number]),
            compare(transaction, ">=", self._end),
            compare(transaction, "<", end),
        )

    def _glance(self, end: int) -> tuple[_Mark, list[bool]]:
        """Return a mark of this moment, and of each trail whether it has new records."""
        if not self._trails:
            return _Mark(0, ()), []
        statement = sa.union_all(
            *(
                sa.select(
                    sa.literal(number).label("number"),
                    sa.func.coalesce(
                        sa.select(greatest_of(trail.audit.c.audit_id)).scalar_subquery(), 0
                    ),
                    sa.select(sa.literal(1)).where(self._is_new(number, end)).exists(),
                    next_transaction(),
                )
                for number, trail in enumerate(self._trails)
            )
        ).order_by("number")
        rows = self._connection.execute(statement).all()
        _, last, is_found, following = zip(*rows, strict=True)
        return _Mark(min(following), last), list(is_found)
