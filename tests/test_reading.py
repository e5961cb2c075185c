"""Reading a trail on the real server: history, as_of, changes, diff, blame."""

import enum
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column

from alembic_audit import (
    AuditId,
    Change,
    PastEntityError,
    ReadingError,
    TransactionId,
    as_of,
    audit_class,
    audit_table,
    audited,
    blame,
    changes,
    diff,
    history,
    past,
)
from tests.conftest import Database


class Base(DeclarativeBase):
    pass


class Level(enum.Enum):
    low = "l"
    high = "h"


@audited(
    session_settings=[sa.Column("username", sa.Text)],
    exclude_columns=["secret"],
    hash_columns=["card"],
)
class Account(Base):
    __tablename__ = "account"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str | None] = mapped_column("e_mail")
    level: Mapped[Level | None] = mapped_column(default=None)
    secret: Mapped[str | None]
    card: Mapped[str | None]


@pytest.fixture
def session(shared_database: Database) -> Iterator[Session]:
    """A session of a database in which every table of this module is empty and audited."""
    engine = shared_database.engine
    Base.metadata.create_all(engine)
    with Session(engine) as made:
        yield made
    Base.metadata.drop_all(engine)


@audited()
class Seat(Base):
    __tablename__ = "seat"

    row: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[str] = mapped_column(primary_key=True)
    guest: Mapped[str | None]


HOSTILE = ('a%b "c" :d (e)', "select", "é%(x)s", "before", "audit_changed")
hostile = sa.Table(
    'od"d %s :t',
    Base.metadata,
    sa.Column("k:%(k)s", sa.Integer, primary_key=True),
    *(sa.Column(name, sa.Text) for name in HOSTILE),
)
audit_table(hostile)


def work(session: Session, statement: str, username: str = "") -> None:
    """Run one statement in a transaction of its own."""
    session.execute(sa.text("SELECT set_config('audit.username', :name, true)"), {"name": username})
    session.connection().exec_driver_sql(statement)
    session.commit()


def story(session: Session) -> None:
    """Write the records that most tests here read."""
    work(session, "INSERT INTO account VALUES (1, 'a', 'low', 's', 'c')", "ann")  # 1
    work(session, "UPDATE account SET e_mail = 'b', card = 'd'", "ben")  # 2
    work(session, "UPDATE account SET level = 'high'", "ann")  # 3
    work(session, "UPDATE account SET id = 2", "ann")  # 4 D, 5 U
    work(session, "INSERT INTO account VALUES (1, 'n', NULL, NULL, NULL)", "cid")  # 6
    work(session, "TRUNCATE account", "dan")  # 7
    work(session, "INSERT INTO account VALUES (2, NULL, 'low', NULL, NULL)", "eve")  # 8
    work(session, "DELETE FROM account", "eve")  # 9


def seen(row: Any) -> tuple[Any, ...]:
    record, before, changed = row
    return (record.audit_id, record.audit_operation, before and before.audit_id, changed)


def test_history(session: Session) -> None:
    """The records of one row, newest first, each with the record before and what changed."""
    story(session)
    assert [
        (7, "T", 6, None),
        (6, "I", None, None),
        (4, "D", 3, None),
        (3, "U", 2, ["level"]),
        (2, "U", 1, ["e_mail", "card"]),
        (1, "I", None, None),
    ] == [seen(row) for row in session.execute(history(Account, 1))]
    assert [
        (9, "D", 8, None),
        (8, "I", None, None),
        (7, "T", 5, None),
        (5, "U", None, None),
    ] == [seen(row) for row in session.execute(history(Account, {"id": 2}))]
    assert [] == session.execute(history(Account, 3)).all()


def test_history_is_composed(session: Session) -> None:
    """A Select that is narrowed goes on showing the values before those that are left."""
    story(session)
    record = audit_class(Account)
    narrowed = history(Account, 1).where(record.audit_username == "ben")
    ((one, before, changed),) = session.execute(narrowed)
    assert ("b", "a", ["e_mail", "card"]) == (one.email, before.email, changed)
    counted = sa.select(sa.func.count()).select_from(history(Account, 1).subquery())
    assert 6 == session.scalar(counted)
    assert 7 == session.scalars(history(Account, 1).limit(1)).one().audit_id


def test_history_of_a_table(session: Session) -> None:
    """For a Table the columns of the record, those before, and what changed."""
    story(session)
    found = session.execute(history(derive_source(Account), 1)).mappings().all()
    assert [(7, 6, None), (6, None, None), (4, 3, None), (3, 2, ["level"])] == [
        (row["audit_id"], row["audit_before_audit_id"], row["audit_changed"]) for row in found
    ][:4]
    assert ("low", "high") == (found[3]["audit_before_level"], found[3]["level"])


def derive_source(source: type[Any]) -> sa.Table:
    table = sa.inspect(source).local_table
    assert isinstance(table, sa.Table)
    return table


def test_as_of(session: Session) -> None:
    """The table as it was, by record, transaction and time, as entities."""
    story(session)
    low, high = Level.low, Level.high
    states: list[list[tuple[Any, ...]]] = [
        [(1, "a", low)],
        [(1, "b", low)],
        [(1, "b", high)],
        [],
        [(2, "b", high)],
        [(1, "n", None), (2, "b", high)],
        [],
        [(2, None, low)],
        [],
    ]
    records = session.scalars(sa.select(audit_class(Account)).order_by("audit_id")).all()
    assert len(states) == len(records)
    for record, expected in zip(records, states, strict=True):
        moments = [AuditId(record.audit_id), record.audit_operation_timestamp]
        if record.audit_id != 4:  # the transaction goes on
            moments.append(TransactionId(record.audit_transaction_id))
        for moment in moments:
            found = session.scalars(as_of(Account, moment)).all()
            assert expected == sorted((one.id, one.email, one.level) for one in found)
    assert [] == session.scalars(as_of(Account, AuditId(0))).all()
    assert [] == session.scalars(as_of(Account, sa.func.now())).all()


def test_past_entities_are_not_those_of_today(session: Session) -> None:
    """An entity of the past lives beside the row of today; what is not stored raises."""
    work(session, "INSERT INTO account VALUES (1, 'a', 'low', 's', 'c')")
    work(session, "UPDATE account SET e_mail = 'b'")
    now = session.get_one(Account, 1)
    then = session.scalars(as_of(Account, AuditId(1)).filter_by(level=Level.low)).one()
    assert ("b", "a") == (now.email, then.email)
    for name in ("secret", "card"):
        with pytest.raises(PastEntityError, match=f"Account.{name} has no value in the past"):
            getattr(then, name)


def test_past_is_joined(session: Session) -> None:
    """An alias of the class as it was joins today's rows in one statement."""
    work(session, "INSERT INTO account VALUES (1, 'a'), (2, 'b')")
    work(session, "UPDATE account SET e_mail = 'c' WHERE id = 2")
    then = past(Account, AuditId(2))
    found = session.execute(
        sa.select(Account.id, then.email, Account.email)
        .join(then, then.id == Account.id)
        .where(then.email != Account.email)
    ).all()
    assert [(2, "b", "c")] == [tuple(row) for row in found]
    table = past(derive_source(Account), AuditId(2))
    assert ["id", "e_mail", "level"] == table.c.keys()
    rows = as_of(Account, AuditId(2)).subquery()
    again = aliased(Account, rows, adapt_on_names=True)
    assert ["a", "b"] == session.scalars(sa.select(again.email).order_by(again.id)).all()


def test_a_label_that_is_gone(session: Session) -> None:
    """A recorded label that the enum does not have any more is read as text."""
    work(session, "INSERT INTO account VALUES (1, 'a', 'low')")
    work(session, "UPDATE account_audit SET level = 'medium'")
    assert ["medium"] == [one.level for one in session.scalars(as_of(Account, AuditId(1)))]


def numbers(session: Session, statement: Any) -> list[int]:
    return [record.audit_id for record in session.scalars(statement)]


def test_changes(session: Session) -> None:
    """Records of a table by actor, time, transaction, operation and column."""
    story(session)
    all_ = session.execute(changes(Account)).all()
    assert [9, 8, 7, 6, 5, 4, 3, 2, 1] == [row[0].audit_id for row in all_]
    assert (9, "D", 8, None) == seen(all_[0])
    assert (7, "T", None, None) == seen(all_[2])
    by_id = {row[0].audit_id: row[0] for row in all_}
    assert [5, 4, 3, 1] == numbers(session, changes(Account, actor={"username": "ann"}))
    user = by_id[1].audit_current_user
    assert 9 == len(numbers(session, changes(Account, actor=user)))
    assert [] == numbers(session, changes(Account, actor="nobody"))
    moment = by_id[7].audit_operation_timestamp
    assert [9, 8, 7] == numbers(session, changes(Account, since=moment))
    assert [6, 5, 4, 3, 2, 1] == numbers(session, changes(Account, until=moment))
    transaction = by_id[4].audit_transaction_id
    assert [5, 4] == numbers(session, changes(Account, transaction=transaction))
    assert [9, 7, 4] == numbers(session, changes(Account, operation=["delete", "T"]))
    assert [2] == numbers(session, changes(Account, column="email"))
    assert [2] == numbers(session, changes(Account, column="e_mail"))
    assert [2] == numbers(session, changes(Account, column="card"))
    assert [3] == session.scalars(changes(derive_source(Account), column="level")).all()


def test_diff_of_moments(session: Session) -> None:
    """Rows that came, went and changed between two moments, as the user narrowed them."""
    work(session, "INSERT INTO account VALUES (1, 'a', 'low'), (2, 'b', NULL), (3, 'c', NULL)")
    work(session, "UPDATE account SET e_mail = 'x' WHERE id = 1")
    work(session, "DELETE FROM account WHERE id = 2")
    work(session, "INSERT INTO account VALUES (4, 'd')")
    for source in (Account, derive_source(Account)):
        before, after = as_of(source, AuditId(3)), as_of(source, AuditId(6))
        found = session.execute(diff(before, after)).mappings().all()
        assert [
            ("D", 2, "b", None, None, None),
            ("I", None, None, 4, "d", None),
            ("U", 1, "a", 1, "x", ["e_mail"]),
        ] == sorted(
            (
                row["audit_difference"],
                row["audit_before_id"],
                row["audit_before_e_mail"],
                row["audit_after_id"],
                row["audit_after_e_mail"],
                row["audit_changed"],
            )
            for row in found
        )
        one = diff(before.filter_by(id=1), after.filter_by(id=1))
        assert ["U"] == session.scalars(one).all()
        assert [] == session.execute(diff(before, before)).all()


def test_diff_of_records(session: Session) -> None:
    """Two records differ in Changes, by attributes; none stands for no row."""
    story(session)
    record = audit_class(Account)
    one, two = session.get_one(record, 1), session.get_one(record, 3)
    hashes = (one.card_sha256, two.card_sha256)
    assert (
        Change("email", "a", "b"),
        Change("level", "low", "high"),
        Change("card_sha256", *hashes),
    ) == tuple(sorted(diff(one, two), key=lambda change: "_" in change.name))
    assert Change("email", None, "a") in diff(None, one)
    assert () == diff(one, one)
    assert (Change("x", 1, 2),) == diff({"x": 1, "audit_id": 1}, {"x": 2, "audit_id": 2})


def test_blame(session: Session) -> None:
    """Each column with the record that gave it the value it has; none for a row that is gone."""
    work(session, "INSERT INTO account VALUES (1, 'a', 'low', 's', 'c')", "ann")
    work(session, "UPDATE account SET e_mail = 'b', card = 'd'", "ben")
    work(session, "UPDATE account SET level = 'high', e_mail = 'b'", "cid")
    expected = [("id", "ann"), ("e_mail", "ben"), ("level", "cid"), ("card", "ben")]
    found = session.execute(blame(Account, 1)).all()
    assert expected == [(column, record.audit_username) for column, record in found]
    rows = session.execute(blame(derive_source(Account), 1)).mappings().all()
    assert expected == [(row["audit_column"], row["audit_username"]) for row in rows]
    work(session, "UPDATE account SET id = 2", "dan")
    assert [] == session.execute(blame(Account, 1)).all()
    assert {"dan"} == {row[1].audit_username for row in session.execute(blame(Account, 2))}
    work(session, "TRUNCATE account")
    assert [] == session.execute(blame(Account, 2)).all()


def test_dropped(session: Session) -> None:
    """`dropped=True` shows columns that the audit table kept and the model does not have."""
    work(session, "ALTER TABLE account_audit ADD phone TEXT, ADD amount__text TEXT")
    work(session, "INSERT INTO account VALUES (1, 'a')")
    work(session, "UPDATE account_audit SET phone = '%%s', amount__text = '1.50'")
    expected = {"phone": "%s", "amount__text": "1.50"}
    assert expected == session.execute(history(Account, 1, dropped=True)).one().dropped
    assert expected == session.execute(changes(Account, dropped=True)).one().dropped
    assert expected == session.execute(as_of(Account, AuditId(1), dropped=True)).one().dropped
    table = derive_source(Account)
    for statement in (history(table, 1, dropped=True), as_of(table, AuditId(1), dropped=True)):
        assert expected == session.execute(statement).mappings().one()["audit_dropped"]


def test_composite_keys(session: Session) -> None:
    """A key of two columns is a tuple, or a mapping."""
    work(session, "INSERT INTO seat VALUES (1, 'a', 'ann'), (1, 'b', 'ben')")
    work(session, "UPDATE seat SET guest = 'cid' WHERE number = 'b'")
    work(session, "UPDATE seat SET number = 'c' WHERE number = 'b'")
    work(session, "TRUNCATE seat")
    for key in ((1, "b"), {"row": 1, "number": "b"}):
        assert [(4, "D", 3, None), (3, "U", 2, ["guest"]), (2, "I", None, None)] == [
            seen(row) for row in session.execute(history(Seat, key))
        ]
    assert [(1, "a"), (1, "c")] == sorted(
        (one.row, one.number) for one in session.scalars(as_of(Seat, AuditId(5)))
    )
    assert [] == session.scalars(as_of(Seat, AuditId(6))).all()
    assert (
        3 == len(session.execute(diff(as_of(Seat, AuditId(3)), as_of(Seat, AuditId(5)))).all()) + 1
    )


def test_hostile_names(session: Session) -> None:
    """Names that mean something to drivers, to SQL and to this package are columns like others."""
    values = {"k:%(k)s": 1, **dict.fromkeys(HOSTILE, "v")}
    session.execute(hostile.insert(), values)
    session.execute(hostile.update(), {"select": "w", "before": "w"})
    session.commit()
    row = session.execute(history(hostile, 1)).mappings().all()[0]
    assert ["select", "before"] == row["audit_changed_"]
    assert ("w", "v", "v") == (row["before"], row["audit_before_before"], row["audit_changed"])
    assert [values] == [dict(one) for one in session.execute(as_of(hostile, AuditId(1))).mappings()]
    assert [(1, 2)] == [
        (diffs["audit_before_k:%(k)s"], len(diffs["audit_changed"]))
        for diffs in session.execute(
            diff(as_of(hostile, AuditId(1)), as_of(hostile, AuditId(2)))
        ).mappings()
    ]
    assert [hostile.c[0].name, *HOSTILE] == session.scalars(blame(hostile, 1)).all()
    assert 1 == len(session.execute(changes(hostile, column="é%(x)s | select"[-6:])).all())


def test_audit_class(session: Session) -> None:
    """It is mapped once, calls columns as the model does, and no session writes it."""
    work(session, "INSERT INTO account VALUES (1, 'a')")
    record = audit_class(Account)
    assert record is audit_class(Account)
    assert "AccountAudit" == record.__name__
    one = session.get_one(record, 1)
    assert ("I", 1, "a") == (one.audit_operation, one.id, one.email)
    one.email = "forged"
    with pytest.raises(
        ReadingError, match="<AccountAudit 1 I> is history, which no session writes"
    ):
        session.flush()
    session.rollback()


def table_of(*columns: Any, **options: Any) -> sa.Table:
    made = sa.Table("t", sa.MetaData(), *columns)
    if options:
        audit_table(made, **options)
    return made


ID = ("id", sa.Integer)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: history(int, 1), "neither a mapped class nor a Table"),
        (lambda: history(table_of(sa.Column(*ID, primary_key=True)), 1), "'t' is not audited"),
        (lambda: history(table_of(sa.Column(*ID), always=True), 1), "has no primary key"),
        (
            lambda: history(table_of(sa.Column(*ID, primary_key=True), audit_columns="classic"), 1),
            "'classic'",
        ),
        (
            lambda: as_of(
                table_of(sa.Column(*ID, primary_key=True), operations=["insert", "update"]),
                AuditId(1),
            ),
            "does not record delete, truncate",
        ),
        (lambda: history(Account, None), "None is no key of 'account'; write id"),
        (lambda: history(Seat, 1), r"1 is no key of 'seat'; write \(row, number\)"),
        (lambda: history(Seat, {"row": 1, "x": 2}), "is no key of 'seat'"),
        (lambda: as_of(Account, datetime(2026, 1, 1)), "has no time zone"),
        (lambda: as_of(Account, 7), r"7 is no moment; write a datetime, AuditId\(\.\.\.\)"),
        (lambda: changes(Account, since=datetime(2026, 1, 1)), "has no time zone"),
        (lambda: changes(Account, operation="updat"), "did you mean 'update'"),
        (lambda: changes(Account, column="emial"), "did you mean 'email'"),
        (lambda: changes(Account, actor={"user": "x"}), "no session setting 'user'"),
        (lambda: diff(sa.select(Account), sa.select(Account)), "that as_of() made of one table"),
        (lambda: diff(1, 2), "or two records"),
        (lambda: audit_class(derive_source(Account)), "is no mapped class"),
    ],
)
def test_refusals(ask: Any, message: str) -> None:
    """What a trail cannot answer is refused before anything is sent, with the reason."""
    with pytest.raises(ReadingError, match=message.replace("as_of() made", r"as_of\(\) made")):
        ask()
