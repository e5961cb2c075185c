"""What the newest records of an audit table say about its health."""

import dataclasses
from collections.abc import Collection, Sequence

import sqlalchemy as sa

from alembic_audit.states import Name

NEWEST = 1000
"""How many records are looked at, from the newest on."""

_PROBES = 500


@dataclasses.dataclass(frozen=True)
class Records:
    """A sample of records.

    Attributes:
        count: How many of the newest were looked at.
        filled: Of each column that was asked for, in how many of them it has a value.
        newest: The greatest ``audit_id``; None without records or without the column.
        last_value: The last value of its sequence; None where it has none, or was not asked for.
        from_future: A transaction id that this server has not given out yet; None without one.
        rewritten_by: The numbers of transactions that wrote records of others again.
    """

    count: int
    filled: dict[str, int]
    newest: int | None = None
    last_value: int | None = None
    from_future: int | None = None
    rewritten_by: Sequence[int] = ()


def read_records(
    connection: sa.Connection,
    audit: Name,
    columns: Collection[str],
    settings: Sequence[str],
    sequence: int | None,
    key_made: str | None = None,
) -> Records:
    """Look at the newest records, and at some over the whole length of the trail.

    Args:
        connection: Where to read.
        audit: The audit table.
        columns: The columns it has.
        settings: Those whose values are counted.
        sequence: The oid of the sequence of ``audit_id``, where it may be read.
        key_made: The transaction that made the primary key, where ``rewritten_by`` is asked for.
    """
    asked = [name for name in settings if name in columns]
    has_id = {"audit_id", "audit_transaction_id"} <= set(columns)
    own = ["audit_id", "audit_transaction_id"] if has_id else []
    system = ["xmin"] if key_made is not None and has_id else []
    own += system
    table = sa.table(audit[1], *(sa.column(name) for name in [*asked, *own]), schema=audit[0])
    newest = sa.select(*(table.c[name] for name in asked), *(table.c[name] for name in own))
    if has_id:
        newest = newest.order_by(table.c.audit_id.desc())
    recent = newest.add_columns(sa.literal(1).label("one")).limit(NEWEST).subquery()
    shown = [sa.func.count(), *(sa.func.count(recent.c[name]) for name in asked)]
    count, *filled = connection.execute(sa.select(*shown).select_from(recent)).one()
    result = Records(count, dict(zip(asked, filled, strict=True)))
    if not has_id or not count:
        return result
    ids = _ids(table, recent, sequence, key_made if system else None)
    top, last, future, rewritten = connection.execute(ids).one()
    return dataclasses.replace(
        result, newest=top, last_value=last, from_future=future, rewritten_by=rewritten or ()
    )


_REWRITTEN = """(
  SELECT pg_catalog.array_agg(r.written_by) FROM (
    SELECT p.xmin::pg_catalog.text::pg_catalog.int8 AS written_by FROM probed AS p
    GROUP BY p.xmin::pg_catalog.text::pg_catalog.int8
    HAVING pg_catalog.count(DISTINCT p.audit_transaction_id) > 1 AND pg_catalog.bool_and(
      p.audit_transaction_id > pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot())
        - 2147483648
      AND {age} < pg_catalog.age('{key_made}'::pg_catalog.xid)
      AND {age} > pg_catalog.age(p.xmin)
    )
  ) AS r
)"""
"""The transactions that wrote the rows of records of several others, all of them earlier.

A row tells by ``xmin`` which transaction wrote it, a subtransaction's being its own. Records that a
dump brought are older than the primary key, which is made after them, or than the table.
"""
_AGE = (
    "pg_catalog.age(pg_catalog.mod(p.audit_transaction_id, 4294967296)"
    "::pg_catalog.text::pg_catalog.xid)"
)


def _ids(
    table: sa.TableClause, recent: sa.Subquery, sequence: int | None, key_made: str | None
) -> "sa.Select[int, int, int, list[int]]":
    """A Select of the greatest id, the sequence's last value, a future id, and who wrote again.

    Transaction ids grow with ``audit_id``, but where a restored dump goes on: single records, as
    far apart as the length of the trail demands, find where.
    """
    ends = sa.select(
        sa.func.min(table.c.audit_id).label("low"), sa.func.max(table.c.audit_id).label("high")
    ).subquery()
    step = sa.func.greatest((ends.c.high - ends.c.low) / sa.literal_column(str(_PROBES)), 1)
    place = (
        sa.func.generate_series(ends.c.low, ends.c.high, sa.cast(step, sa.BigInteger))
        .table_valued("place", name="probes")
        .render_derived()
        .lateral()
    )
    sampled = [table.c.audit_transaction_id, *([table.c.xmin] if key_made else [])]
    probe = (
        sa.select(*sampled)
        .where(table.c.audit_id >= place.c.place)
        .order_by(table.c.audit_id)
        .limit(1)
        .correlate(place)
        .lateral()
    )
    probed = (
        sa.select(*(probe.c[column.name] for column in sampled))
        .select_from(ends.join(place, sa.true()).join(probe, sa.true()))
        .union_all(sa.select(*(recent.c[column.name] for column in sampled)))
        .cte("probed")
    )
    catalog = sa.func.pg_catalog
    # What a snapshot shows has a lesser number than its end, but for our own transaction's.
    future = sa.select(sa.func.max(probed.c.audit_transaction_id)).where(
        probed.c.audit_transaction_id
        >= catalog.txid_snapshot_xmax(catalog.txid_current_snapshot()),
        probed.c.audit_transaction_id
        != sa.func.coalesce(catalog.txid_current_if_assigned(), sa.literal_column("0")),
    )
    last = (
        sa.null()
        if sequence is None
        else catalog.pg_sequence_last_value(sa.literal_column(str(int(sequence))))
    )
    rewritten = "NULL"
    if key_made:
        rewritten = _REWRITTEN.format(age=_AGE, key_made=int(key_made))
    return sa.select(
        sa.select(sa.func.max(table.c.audit_id)).scalar_subquery(),
        last,
        future.scalar_subquery(),
        sa.literal_column(rewritten),
    )
