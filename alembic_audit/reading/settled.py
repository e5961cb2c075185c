"""Which records are settled: their transactions are over, and no other will come before them."""

from typing import Any

import sqlalchemy as sa

from alembic_audit.reading.qualified import Named, Text, calculate, catalog
from alembic_audit.reading.trail import TransactionId


def transaction_of(audit: sa.Table) -> sa.ColumnElement[int]:
    """Return the number of a record's transaction."""
    # Records that were taken over from another trail may have none; they are older.
    return sa.func.coalesce(audit.c.audit_transaction_id, sa.literal_column("0"))


def bound(name: str) -> sa.ColumnElement[int]:
    """Return a bound of the snapshot of the statement as a number.

    Args:
        name: ``xmin``, before which all are over; or ``xmax``.
    """
    return _number(_bound(name))


def settled_transaction(connectable: Any) -> TransactionId:
    """The newest moment of which no commit will change anything any more.

    ``as_of(Account, settled_transaction(session))`` shows today what it shows in a year. A time is
    no such moment: a transaction that began before it may write, and commit, after you looked. The
    moment lies before the oldest transaction that still runs in any database of the server, one's
    own included.

    Args:
        connectable: A Session or a Connection. For an AsyncSession or an AsyncConnection:
            ``await session.run_sync(settled_transaction)``.
    """
    return TransactionId(connectable.execute(sa.select(bound("xmin"))).scalar_one() - 1)


def next_transaction() -> sa.ColumnElement[int]:
    """Return a number that no transaction had yet when the snapshot of the statement was taken.

    The snapshot's own ``xmax`` is none: transactions above it may have begun.
    """
    oldest = _bound("xmin")
    xid = sa.cast(oldest, Named("pg_catalog.xid"))
    # age() counts from the next number there is.
    return calculate(_number(oldest), "+", sa.cast(catalog.age(xid), sa.BigInteger))


def _bound(name: str) -> sa.ColumnElement[Any]:
    found: sa.ColumnElement[Any] = getattr(catalog, f"pg_snapshot_{name}")(
        catalog.pg_current_snapshot()
    )
    return found


def _number(transaction: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    # There is no cast but by text.
    return sa.cast(sa.cast(transaction, Text()), sa.BigInteger)
