"""restore, undelete and undo: which record each row shall look like again."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.sql.selectable import NamedFromClause

from alembic_audit.errors import RestoreError
from alembic_audit.reading.history import column_of, free
from alembic_audit.reading.past import replayable
from alembic_audit.reading.qualified import catalog, compare, greatest_of
from alembic_audit.reading.trail import Trail, TransactionId, When, trail_of, until
from alembic_audit.restoring import rows
from alembic_audit.restoring.plan import Restoration, planned
from alembic_audit.restoring.rows import Part, Target, is_same_row
from alembic_audit.tables import SPEC_KEY, derive_all

Connectable = Session | scoped_session[Session] | sa.Connection


def restore(
    connectable: Connectable,
    source: Any,
    key: Any,
    *,
    as_of: When,
    columns: Collection[str] | None = None,
    values: Mapping[str, Any] | None = None,
) -> Restoration:
    """Plan to put one row back as it was; nothing is changed before ``execute()``.

        plan = restore(session, Account, 42, as_of=yesterday)
        print(plan)
        plan.execute()

    A row that was there and is gone is inserted, one that was not there is deleted. Columns of
    ``ignore_columns`` stay as they are in a row that is there: not all of their changes are
    recorded. Those that are not recorded, or hashed, stay too, and ``lost`` names them.

    Args:
        connectable: A Session, which is flushed first, or a Connection. For an AsyncSession:
            ``await session.run_sync(restore, Account, 42, as_of=yesterday)``.
        source: An audited class or Table; of a class with joined inheritance each Table by itself.
        key: The primary key: a value, a tuple, or a mapping.
        as_of: A time with its zone, an ``AuditId`` or a ``TransactionId``, as for ``as_of()``.
        columns: Put back these alone, of a row that was there and is; names as in the table or
            the class.
        values: What to write into columns whose value cannot come back.

    Returns:
        The plan.

    Raises:
        RestoreError: The trail does not say how the row was, or does not end with the row as it
            is now; nothing is recorded of it; or the class is mapped to several tables.
        ReadingError: The trail cannot be read or replayed; key, moment or a name are wrong.
    """
    trail = _trail(source)
    run = _ready(connectable, "restore", [trail])
    target = _target(run, trail, key, until(trail.audit, as_of))
    return planned(connectable, [_part(trail, [target], columns, values)])


def undelete(
    connectable: Connectable, source: Any, key: Any, *, values: Mapping[str, Any] | None = None
) -> Restoration:
    """Plan to insert a deleted row again, as it was before it was deleted or truncated away.

    Args:
        connectable: As for ``restore``.
        source: An audited class or Table; of a class with joined inheritance each Table by itself.
        key: The primary key: a value, a tuple, or a mapping.
        values: What to write into columns whose value cannot come back.

    Returns:
        The plan; it is empty where the row is there.

    Raises:
        RestoreError: As for ``restore``.
        ReadingError: As for ``restore``.
    """
    trail = _trail(source)
    run = _ready(connectable, "undelete", [trail])
    newest = _newest(run, trail, key)
    # The record of a deletion holds the row as it was.
    return planned(connectable, [_part(trail, [Target(newest, newest, newest - 1)], None, values)])


def undo(
    connectable: Connectable,
    transaction: TransactionId,
    *sources: Any,
    values: Mapping[Any, Mapping[Any, Mapping[str, Any]]] | None = None,
) -> Restoration:
    """Plan to take back what a whole transaction did to some tables.

    Of a row that was changed again later, the columns that were not are put back; where the same
    columns were, or the row came or went, that is a conflict. Tables that the transaction changed
    and that are not among *sources* stay as they are: give the MetaData for all.

    The number of the transaction is looked for in the whole of each audit table, which has no
    index on it.

    Args:
        connectable: As for ``restore``.
        transaction: Its number, ``audit_transaction_id``.
        *sources: Audited classes or Tables, or a MetaData for all of its audited tables. A class
            with joined inheritance stands for all tables that it is mapped to.
        values: What to write into columns whose value cannot come back, row by row:
            ``{Account: {42: {"pin": 1234}}}``. A class with joined inheritance has several tables:
            name the Table.

    Returns:
        The plan.

    Raises:
        RestoreError: The transaction has no record there, changed the key of a row, or changed
            one whose trail began with that change; or a trail does not end with a row as it is.
        ReadingError: A trail cannot be read or replayed.
    """
    if not isinstance(transaction, TransactionId) or not sources:
        raise RestoreError("write undo(session, TransactionId(...), Account, ...)")
    trails = {trail.table: trail for trail in map(replayable, _tables(sources))}
    run = _ready(connectable, "undo", trails.values())
    number = int(transaction.value)
    given = _values_of_rows(values or {}, trails)
    named = {one.__table__: one.__name__ for one in sources if hasattr(one, "__table__")}
    parts = [
        Part(
            trail,
            tuple(targets),
            of_transaction=True,
            of_rows=given.get(trail.table, {}),
            source=named.get(trail.table, f"metadata.tables[{trail.table.key!r}]"),
        )
        for trail in trails.values()
        if (targets := [*_touched(run, trail, number), *_emptied(run, trail, number)])
    ]
    if not parts:
        names = ", ".join(repr(table.fullname) for table in trails)
        raise RestoreError(f"transaction {number} has no record of {names}")
    plan = planned(connectable, parts)
    _see_used(plan, given)
    return plan


def _values_of_rows(
    values: Mapping[Any, Mapping[Any, Mapping[str, Any]]], trails: Mapping[sa.Table, Trail]
) -> dict[sa.Table, dict[tuple[Any, ...], dict[str, Any]]]:
    """The values that were given, by table, key and column."""
    given: dict[sa.Table, dict[tuple[Any, ...], dict[str, Any]]] = {}
    for source, of_rows in values.items():
        trail = _trail(source)
        if trail.table not in trails:
            raise RestoreError(
                f"values: {trail.table.fullname!r} is not among what is undone; name it there too"
            )
        given[trail.table] = {
            tuple(trail.key_values(key)): _by_column(trail, one) for key, one in of_rows.items()
        }
    return given


def _see_used(
    plan: Restoration, given: Mapping[sa.Table, Mapping[tuple[Any, ...], Mapping[str, Any]]]
) -> None:
    changed = {(one.table, one.key) for one in plan.rows}
    for table, of_rows in given.items():
        for key in of_rows:
            if (table.fullname, key) not in changed:
                raise RestoreError(
                    f"values: nothing is put back into row {rows.key_text(key)} of "
                    f"{table.fullname!r}; leave it out"
                )


def _ready(connectable: Any, verb: str, trails: Iterable[Trail]) -> Any:
    """Return what executes, once it is sure that it sees all records and can take back changes."""
    if hasattr(connectable, "run_sync"):
        raise RestoreError(f"{verb} of what is asynchronous: await its run_sync({verb}, ...)")
    if not isinstance(connectable, sa.Connection):
        connectable.flush()
    for trail in trails:
        if trail.spec.hash_columns and not rows.sends_utf8(connectable, trail.audit):
            raise RestoreError(
                f"{verb} compares hashes of {trail.table.fullname!r}, which are of text in UTF-8: "
                "connect with client_encoding=utf8"
            )
        driver: Any = rows.connection(connectable, trail.audit).connection.dbapi_connection
        if driver.autocommit:
            raise RestoreError(
                f"{verb} in AUTOCOMMIT: it needs one transaction; set isolation_level"
            )
        if rows.are_hidden(connectable, trail.audit):
            raise RestoreError(
                f"row level security may hide records of {trail.audit.fullname!r} from the role in "
                "force, so that they do not say how rows were; restore with a role that sees all"
            )
    return connectable


def _trail(source: Any) -> Trail:
    """Return the trail of a source that is one table."""
    trail = replayable(source)
    if trail.mapper is not None and len(trail.mapper.tables) > 1:
        names = ", ".join(repr(table.fullname) for table in trail.mapper.tables)
        name = trail.mapper.class_.__name__
        raise RestoreError(
            f"a {name} has a row in each of {names}, each of which has a trail of its own: restore "
            f"them one by one, as restore(session, {name}.__table__, ...), the first one first "
            "where rows are inserted and last where they are deleted"
        )
    return trail


def _tables(sources: Iterable[Any]) -> Iterable[Any]:
    for source in sources:
        if isinstance(source, sa.MetaData):
            derive_all(source)
            yield from (
                table.info["audit.target_table"]
                for table in list(source.tables.values())
                if table.info.get("audit.is_audit_table") and SPEC_KEY in table.info
            )
        else:
            mapper = trail_of(source).mapper
            yield from [source] if mapper is None else mapper.tables


def _newest(run: Any, trail: Trail, key: Any) -> int:
    """Return the number of the last record of a row."""
    is_row = trail.is_row(trail.key_values(key), trail.audit)
    newest: int | None = run.execute(
        sa.select(greatest_of(trail.audit.c.audit_id)).where(is_row)
    ).scalar()
    if newest is None:
        raise RestoreError(f"nothing is recorded of {trail.table.fullname!r} with the key {key!r}")
    return newest


def _part(
    trail: Trail,
    targets: list[Target],
    columns: Collection[str] | None,
    values: Mapping[str, Any] | None,
) -> Part:
    if isinstance(columns, str):
        raise RestoreError(f"columns={columns!r} is one text; write [{columns!r}]")
    wanted = None if columns is None else frozenset(column_of(trail, name) for name in columns)
    return Part(trail, tuple(targets), columns=wanted, values=_by_column(trail, values or {}))


def _by_column(trail: Trail, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by the names of columns; they may be given by those of attributes."""
    given = {}
    for name, value in values.items():
        column = next(
            (one for one in trail.table.columns if name in (one.name, trail.attribute(one.name))),
            None,
        )
        if column is None or column.primary_key:
            what = "is the key" if column is not None else "is no column"
            raise RestoreError(f"values: {name!r} {what} of {trail.table.fullname!r}")
        given[column.name] = value
    return given


def _target(run: Any, trail: Trail, key: Any, before: sa.ColumnElement[bool]) -> Target:
    """Return the record that a row had at a moment; None stands for no row."""
    audit = trail.audit
    anchor = _newest(run, trail, key)
    records = sa.select(audit.c.audit_id, audit.c.audit_operation).where(
        trail.is_row(trail.key_values(key), audit)
    )
    order = audit.c.audit_id
    last = run.execute(records.where(before).order_by(order.desc()).limit(1)).one_or_none()
    if last is None:
        first = run.execute(records.order_by(order).limit(1)).one()
        if first.audit_operation != "I":
            raise RestoreError(
                f"the trail of {trail.table.fullname!r} with the key {key!r} begins with record "
                f"{first.audit_id}, operation {first.audit_operation}, after that moment: it does "
                "not say how the row was then"
            )
        return Target(anchor, None, 0)
    truncated = sa.select(greatest_of(order)).where(trail.is_truncate(audit), before)
    is_gone = last.audit_operation == "D" or (run.execute(truncated).scalar() or 0) > last.audit_id
    return Target(anchor, None if is_gone else last.audit_id, last.audit_id)


def _touched(run: Any, trail: Trail, number: int) -> Iterable[Target]:
    """Yield a target for each row of which a transaction has a record."""
    audit = trail.audit
    key = trail.key_of(audit)
    began, ended = (free(name, set(trail.spec.key)) for name in ("audit_first", "audit_last"))
    mine = (
        sa.select(
            *key,
            catalog.min(audit.c.audit_id, type_=sa.BigInteger).label(began),
            greatest_of(audit.c.audit_id).label(ended),
        )
        .where(
            compare(audit.c.audit_transaction_id, "=", number), *(each.is_not(None) for each in key)
        )
        .group_by(*key)
        .subquery()
    )
    begin, end = mine.c[began], mine.c[ended]
    before = _last_before(trail, mine, begin)
    first, last = audit.alias(), audit.alias()
    found = (
        sa.select(
            begin.label("first"),
            end.label("last"),
            first.c.audit_operation.label("began"),
            sa.or_(
                compare(last.c.audit_operation, "=", "D"), _is_emptied(trail, number, end, own=True)
            ).label("ended"),
            before.c.audit_id.label("before"),
        )
        .select_from(mine)
        .join(first, compare(first.c.audit_id, "=", begin))
        .join(last, compare(last.c.audit_id, "=", end))
        .outerjoin(
            before,
            sa.and_(
                compare(before.c.audit_operation, "<>", "D"),
                ~_is_emptied(trail, number, before.c.audit_id, begin, own=False),
            ),
        )
        .order_by(begin)
    )
    for row in run.execute(found):
        if row.before is None and row.began != "I":
            raise RestoreError(
                f"record {row.first} of {trail.table.fullname!r} is the first of its row, and no "
                "INSERT: transaction "
                f"{number} changed the row's key, or the trail began with it, so that nothing says "
                "how the row was before; restore() its former key by hand"
            )
        yield Target(row.first, row.before, left=None if row.ended else row.last)


def _emptied(run: Any, trail: Trail, number: int) -> Iterable[Target]:
    """Yield a target for each row that a TRUNCATE of a transaction removed, and nothing else."""
    audit, same, one = trail.audit, trail.audit.alias(), trail.audit.alias()
    begin = run.execute(
        sa.select(catalog.min(audit.c.audit_id, type_=sa.BigInteger)).where(
            trail.is_truncate(audit), compare(audit.c.audit_transaction_id, "=", number)
        )
    ).scalar()
    if begin is None:
        return
    emptied = (
        sa.select(sa.func.coalesce(greatest_of(one.c.audit_id), 0))
        .where(trail.is_truncate(one), compare(one.c.audit_id, "<", begin))
        .scalar_subquery()
    )
    key = trail.key_of(audit)
    newest = (
        sa.select(*key, greatest_of(audit.c.audit_id).label("audit_id"))
        .where(
            compare(audit.c.audit_id, "<", begin),
            compare(audit.c.audit_id, ">", emptied),
            *(each.is_not(None) for each in key),
        )
        .group_by(*key)
        .subquery()
    )
    touched = sa.select(sa.literal(1)).where(
        is_same_row(trail, same, newest), compare(same.c.audit_transaction_id, "=", number)
    )
    last = trail.audit.alias()
    gone = (
        sa.select(last.c.audit_id)
        .join(newest, compare(newest.c.audit_id, "=", last.c.audit_id))
        .where(compare(last.c.audit_operation, "<>", "D"), ~touched.exists())
        .order_by(last.c.audit_id)
    )
    for audit_id in run.execute(gone).scalars():
        yield Target(audit_id, audit_id)


def _last_before(trail: Trail, mine: NamedFromClause, begin: Any) -> Any:
    earlier = trail.audit.alias()
    return (
        sa.select(earlier)
        .where(is_same_row(trail, earlier, mine), compare(earlier.c.audit_id, "<", begin))
        .order_by(earlier.c.audit_id.desc())
        .limit(1)
        .correlate(mine)
        .lateral("audit_before")
    )


def _is_emptied(
    trail: Trail, number: int, after: Any, before: Any = None, *, own: bool
) -> sa.ColumnElement[bool]:
    """Return whether a TRUNCATE, of the transaction or of others, came between two records."""
    audit = trail.audit.alias()
    mine = compare(audit.c.audit_transaction_id, "=", number)
    conditions = [
        trail.is_truncate(audit),
        compare(audit.c.audit_id, ">", after),
        mine if own else ~mine,
    ]
    if before is not None:
        conditions.append(compare(audit.c.audit_id, "<", before))
    return sa.select(sa.literal(1)).where(*conditions).correlate_except(audit).exists()
