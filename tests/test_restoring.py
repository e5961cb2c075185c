"""restore, undelete and undo: what they plan, what they do, and what they refuse."""

import asyncio
import contextlib
import datetime
import enum
import re
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
import sqlalchemy as sa
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from alembic_audit import (
    AuditId,
    Change,
    ReadingError,
    RestoreError,
    TransactionId,
    audit_class,
    audit_table,
    audited,
    restore,
    undelete,
    undo,
)
from alembic_audit.restoring import Lost, RowChange, rows
from tests.conftest import Database


class Base(DeclarativeBase):
    pass


@audited()
class Account(Base):
    __tablename__ = "account"

    id: Mapped[int] = mapped_column(sa.Identity(always=True), primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    town: Mapped[str | None] = mapped_column("city")


@audited(level="row")
class Entry(Base):
    """Entries refer to accounts and to each other."""

    __tablename__ = "entry"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    account_id: Mapped[int | None] = mapped_column(sa.ForeignKey("account.id"))
    parent_id: Mapped[int | None] = mapped_column(sa.ForeignKey("entry.id", ondelete="CASCADE"))
    amount: Mapped[int]
    seen: Mapped[int | None] = mapped_column(info={"audit": "ignore"})
    stamp: Mapped[int] = mapped_column(default=0, onupdate=99)


@audited(hash_columns=["token"], exclude_columns=["pin", "hint"])
class Secret(Base):
    __tablename__ = "secret"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    token: Mapped[str | None]
    pin: Mapped[int]
    hint: Mapped[str] = mapped_column(server_default="none")


@pytest.fixture(scope="module")
def engine(shared_database: Database) -> sa.Engine:
    """An engine of a database with the tables of this module."""
    Base.metadata.create_all(shared_database.engine)
    return shared_database.engine


@pytest.fixture
def session(engine: sa.Engine) -> Iterator[Session]:
    """A session of a database in which these tables, and their trails, are empty."""
    with Session(engine) as made:
        yield made
    names = ", ".join(table.name for table in Base.metadata.sorted_tables)
    with engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        connection.exec_driver_sql(f"TRUNCATE {names} RESTART IDENTITY")


@pytest.fixture
def account(session: Session) -> Account:
    """Record 1 made it, 2 changed its email, 3 its town; a transaction each."""
    made = Account(email="a@x", town="Rome")
    session.add(made)
    session.commit()
    made.email = "b@x"
    session.commit()
    made.town = "Oslo"
    session.commit()
    return made


def newest(session: Session, source: type[Any] = Account) -> Any:
    record = audit_class(source)
    return session.scalars(sa.select(record).order_by(record.audit_id.desc())).first()


def transaction(session: Session) -> TransactionId:
    """Return the number of the running transaction."""
    return TransactionId(session.scalar(sa.func.txid_current()) or 0)


def image(session: Session, table: str) -> list[str]:
    found = session.scalars(sa.text(f"SELECT t::text FROM {table} AS t ORDER BY 1"))
    return list(found)


# -- one row ---------------------------------------------------------------------------------


def test_a_plan_changes_nothing_and_says_what_it_would_do(
    session: Session, account: Account
) -> None:
    """The plan is a value and a text; the row is put back by execute(), which is recorded."""
    plan = restore(session, Account, 1, as_of=AuditId(1))
    assert (
        "update account 1: email: 'b@x' -> 'a@x', city: 'Oslo' -> 'Rome' (since then: records 2, 3)"
    ) == str(plan)
    changes = (Change("email", "b@x", "a@x"), Change("city", "Oslo", "Rome"))
    assert (RowChange("account", (1,), "update", changes, (2, 3)),) == plan.rows
    assert ((), ()) == (plan.conflicts, plan.lost)
    assert ["(1,b@x,Oslo)"] == image(session, "account")
    assert plan.rows == plan.execute()
    assert ("a@x", "Rome") == (account.email, account.town), "the session has seen it"
    session.commit()
    assert ("U", "a@x", "Rome") == (
        newest(session).audit_operation,
        newest(session).email,
        newest(session).town,
    )


def test_many_records_since_then_are_counted(session: Session, account: Account) -> None:
    """A text lists five of them; the plan has all."""
    for number in range(4):
        account.town = f"town {number}"
        session.commit()
    plan = restore(session, Account, 1, as_of=AuditId(1))
    assert str(plan).endswith("(since then: 6 records: 2, 3, 4, 5, 6, ... 7)")
    assert (2, 3, 4, 5, 6, 7) == plan.rows[0].since


def test_a_row_as_it_was_needs_nothing(session: Session, account: Account) -> None:
    """An empty plan says so, and nothing is recorded."""
    plan = restore(session, Account, 1, as_of=AuditId(3))
    assert ("nothing to restore", ()) == (str(plan), plan.execute())
    assert 3 == newest(session).audit_id


def test_some_columns(session: Session, account: Account) -> None:
    """Only the columns that are asked for go back, by the name of the attribute or the column."""
    restore(session, Account, 1, as_of=AuditId(1), columns=["town"]).execute()
    assert ("b@x", "Rome") == (account.email, account.town)
    restore(session, Account, 1, as_of=AuditId(3), columns=["city"]).execute()
    assert ("b@x", "Oslo") == (account.email, account.town)


def test_undelete(session: Session, account: Account) -> None:
    """A deleted row comes back under its key, GENERATED ALWAYS or not, as it was."""
    session.delete(account)
    session.commit()
    plan = undelete(session, Account, 1)
    assert (
        "insert account 1: id: None -> 1, email: None -> 'b@x', city: None -> 'Oslo'"
        " (since then: record 4)"
    ) == str(plan)
    plan.execute()
    assert "b@x" == session.get_one(Account, 1).email
    assert "nothing to restore" == str(undelete(session, Account, 1))


def test_undelete_after_truncate(session: Session, account: Account) -> None:
    """A row that a TRUNCATE removed is a deleted row."""
    session.execute(sa.text("TRUNCATE account CASCADE"))
    undelete(session, Account, 1).execute()
    assert ["(1,b@x,Oslo)"] == image(session, "account")
    restore(session, Account, 1, as_of=AuditId(4)).execute()
    assert [] == image(session, "account"), "as of the TRUNCATE"


def test_a_row_that_was_not_there_is_deleted(session: Session, account: Account) -> None:
    """Before the INSERT, and after a deletion, there was no row."""
    session.expunge(account)
    restore(session, Account, 1, as_of=AuditId(0)).execute()
    assert ([], "D") == (image(session, "account"), newest(session).audit_operation)
    assert "nothing to restore" == str(restore(session, Account, 1, as_of=AuditId(4)))


def test_moments(session: Session, account: Account) -> None:
    """A time, a transaction and a record name the same row."""
    first, _second, _third = session.scalars(sa.select(audit_class(Account)).order_by("audit_id"))
    moments = [AuditId(1), TransactionId(first.audit_transaction_id)]
    for when in (*moments, first.audit_operation_timestamp):
        plan = restore(session, Account, {"id": 1}, as_of=when)
        assert str(plan).endswith("city: 'Oslo' -> 'Rome' (since then: records 2, 3)")


def test_a_table_on_a_connection(session: Session, account: Account) -> None:
    """A Core Table on a Connection does as well as a class in a session."""
    session.close()
    engine = session.get_bind()
    with engine.begin() as connection:
        restore(connection, Account.__table__, 1, as_of=AuditId(1)).execute()
    assert ["(1,a@x,Rome)"] == image(session, "account")


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_async(session: Session, account: Account, database: Database, driver: str) -> None:
    """An AsyncSession runs it by run_sync, and is told so."""
    session.close()
    url = session.get_bind().url.set(drivername=f"postgresql+{driver}")  # type: ignore[union-attr]

    async def main() -> None:
        engine = create_async_engine(url)
        async with AsyncSession(engine) as asynchronous:
            with pytest.raises(RestoreError, match="run_sync"):
                restore(asynchronous, Account, 1, as_of=AuditId(1))  # type: ignore[arg-type]
            await asynchronous.run_sync(
                lambda inner: restore(inner, Account, 1, as_of=AuditId(1)).execute()
            )
            await asynchronous.commit()
        await engine.dispose()

    asyncio.run(main())
    assert ["(1,a@x,Rome)"] == image(session, "account")


def test_one_row_of_many_is_found_by_indexes(session: Session) -> None:
    """Neither plan nor execution reads a table from end to end."""
    session.execute(
        sa.text("INSERT INTO account (email) SELECT n::text FROM generate_series(1, 20000) n")
    )
    session.execute(sa.text("UPDATE account SET city = 'x' WHERE id = 7"))
    session.commit()
    session.execute(sa.text("ANALYZE account, account_audit"))
    session.commit()
    scans = sa.text(
        "SELECT relname, seq_scan FROM pg_stat_xact_user_tables"
        " WHERE relname IN ('account', 'account_audit') ORDER BY 1"
    )
    before = session.execute(scans).all()
    restore(session, Account, 7, as_of=AuditId(7)).execute()
    undelete(session, Account, 7)
    assert before == session.execute(scans).all()


def test_many_rows_are_batches(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statements grow with batches, and none reads the whole of the trail for each."""
    monkeypatch.setattr(rows, "BATCH", 100)
    total = 3000
    session.execute(
        sa.text(
            "INSERT INTO entry (id, amount, stamp) SELECT n, n, 0 FROM"
            f" generate_series(1, {total}) n"
        )
    )
    session.commit()
    number = transaction(session)
    session.execute(sa.text("UPDATE entry SET amount = 0"))
    session.commit()
    sent: list[str] = []

    @sa.event.listens_for(session.connection(), "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, sql: str, *_more: Any) -> None:
        sent.append(sql)

    read = sa.text(
        "SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'entry_audit'"
    )
    undo(session, number, Entry).execute()
    batches = total // 100
    # Planned: compared, shown. Executed: locked, compared, seen as recorded, shown.
    assert 6 * batches <= len(sent) <= 6 * batches + 10
    assert (session.scalar(read) or 0) <= 3 * 3 * total


def test_statistics_of_an_empty_table(session: Session) -> None:
    """Autovacuum may take a table for empty before those who fill it commit: no batch of rows is
    compared with all others, as a nested loop over what it takes for one row would."""
    run, sent = session.connection().exec_driver_sql, []
    run("INSERT INTO entry (id, amount, stamp) SELECT n, n, 0 FROM generate_series(1, 3000) n")
    run("ANALYZE entry")
    session.commit()
    number = transaction(session)
    session.execute(sa.text("UPDATE entry SET amount = 0"))
    session.commit()
    run = session.connection().exec_driver_sql
    run("UPDATE pg_class SET reltuples = 0 WHERE oid = 'entry'::regclass")

    @sa.event.listens_for(session.connection(), "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, sql: str, parameters: Any, *_more: Any) -> None:
        sent.append((sql, parameters))

    assert 3000 == len(undo(session, number, Entry).rows)
    sa.event.remove(session.connection(), "before_cursor_execute", note)
    removed = 0
    for sql, parameters in sent:
        plan = run(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", parameters).scalar_one()
        removed += sum(map(int, re.findall(r"'Rows Removed by Join Filter': (\d+)", str(plan))))
    assert removed <= 3000


# -- values --------------------------------------------------------------------------------------


class Mood(enum.Enum):
    good = "good"
    bad = "bad"


VALUES = {
    "amount": (sa.Numeric(12, 4), "1.5000", "2"),
    "free": (sa.Numeric(), "1.00", "1.0"),
    "ratio": (sa.Double(), "'NaN'", "0.1"),
    "moment": (sa.DateTime(timezone=True), "'infinity'", "now()"),
    "old": (sa.DateTime(), "'0044-03-15 12:00 BC'", "now()"),
    "span": (sa.Interval(), "'178956970 years'", "'1 s'"),
    "doc": (sa.JSON(), '\' { "a" :1,  "a": 2}\'', "'null'"),
    "docb": (postgresql.JSONB(), "'{\"n\": 123456789012345678901234567890.10}'", "'{}'"),
    "raw": (sa.LargeBinary(), r"'\x00ff'", "''"),
    "mood": (sa.Enum(Mood, name="mood"), "'bad'", "'good'"),
    "moods": (postgresql.ARRAY(sa.Enum(Mood, name="mood")), "'{bad,NULL}'", "'{}'"),
    "word": (sa.String(3), "'é€ '", "NULL"),
    "fixed": (sa.CHAR(4), "'a'", "'b'"),
    "net": (postgresql.INET(), "'10.0.0.1/8'", "NULL"),
    "bits": (postgresql.BIT(3), "B'101'", "B'000'"),
    "range": (postgresql.INT4RANGE(), "'[1,5)'", "'empty'"),
    "positive": (postgresql.DOMAIN("positive", sa.Integer()), "7", "8"),
    "grid": (postgresql.ARRAY(sa.Integer(), dimensions=2), "'[0:1][3:3]={{1},{2}}'", "'{}'"),
}


def test_every_type_comes_back_as_it_was_stored(database: Database) -> None:
    """Values go from trail to table inside PostgreSQL: none is changed by a driver or a cast."""
    metadata = sa.MetaData()
    table = sa.Table(
        "thing",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        *(sa.Column(name, kind) for name, (kind, _then, _now) in VALUES.items()),
        sa.Column("twice", sa.Integer, sa.Computed("id * 2", persisted=True)),
    )
    audit_table(table)
    metadata.create_all(database.engine)
    names = ", ".join(f'"{name}"' for name in VALUES)
    then = ", ".join(value for _kind, value, _now in VALUES.values())
    now = ", ".join(f'"{name}" = {value}' for name, (_kind, _then, value) in VALUES.items())
    with Session(database.engine) as session:
        run = session.connection().exec_driver_sql
        run(f"INSERT INTO thing (id, {names}) VALUES (1, {then})")
        before = image(session, "thing")
        run(f"UPDATE thing SET {now}")
        assert before != image(session, "thing")
        plan = restore(session, table, 1, as_of=AuditId(1))
        assert set(VALUES) == {one.name for one in plan.rows[0].changes}
        assert "0044-03-15 12:00:00 BC" == next(
            one.after for one in plan.rows[0].changes if one.name == "old"
        )
        session.execute(sa.text("SET datestyle = 'German'; SET extra_float_digits = 0"))
        plan.execute()
        session.execute(sa.text("RESET datestyle; RESET extra_float_digits"))
        assert before == image(session, "thing")
        run("DELETE FROM thing")
        undelete(session, table, 1).execute()
        assert before == image(session, "thing")
    metadata.drop_all(database.engine)


def test_values_that_cannot_come_back(session: Session) -> None:
    """Hashed and excluded columns are named; a row that is there keeps what they hold."""
    made = Secret(id=1, name="a", token="t", pin=1, hint="h")
    session.add(made)
    session.commit()
    made.name, made.token, made.pin = "b", "other", 2
    session.commit()
    plan = restore(session, Secret, 1, as_of=AuditId(1))
    assert (
        "update secret 1: name: 'b' -> 'a' (since then: record 2)\n"
        "secret 1: token is lost: a hash of it is recorded\n"
        "secret 1: pin is lost: it is not recorded\n"
        "secret 1: hint is lost: it is not recorded"
    ) == str(plan)
    plan.execute()
    assert ["(1,a,other,2,h)"] == image(session, "secret")
    restore(session, Secret, 1, as_of=AuditId(1), values={"token": "t"}).execute()
    assert ["(1,a,t,2,h)"] == image(session, "secret")
    assert "nothing to restore" == str(restore(session, Secret, 1, as_of=AuditId(1)))


def test_an_insert_without_a_needed_value_is_refused(session: Session) -> None:
    """A column NOT NULL of which nothing is recorded needs a value; a default will do."""
    session.execute(sa.insert(Secret).values(id=1, name="a", token="t", pin=1, hint="h"))
    session.execute(sa.delete(Secret))
    plan = undelete(session, Secret, 1)
    assert Lost("secret", (1,), "pin", "it is not recorded", needed=True) in plan.lost
    with pytest.raises(RestoreError, match=r"(?s)cannot be inserted .* pin is lost.*values="):
        plan.execute()
    assert [] == image(session, "secret")
    plan = undelete(session, Secret, 1, values={"pin": 5, "token": "new"})
    assert {"hint"} == {one.column for one in plan.lost}
    plan.execute()
    assert ["(1,a,new,5,none)"] == image(session, "secret")


def test_a_value_for_what_is_not_recorded_of_a_row_that_is_there(session: Session) -> None:
    """It would be ignored, or written though nothing says that it changed: it is refused."""
    session.execute(sa.insert(Secret).values(id=1, name="a", pin=1))
    session.execute(sa.update(Secret).values(name="b"))
    with pytest.raises(RestoreError, match="'pin' of 'secret' is not recorded, and nothing says"):
        restore(session, Secret, 1, as_of=AuditId(1), values={"pin": 5})


def test_a_hashed_null_comes_back(session: Session) -> None:
    """A hash that is NULL tells the value."""
    session.execute(sa.insert(Secret).values(id=1, name="a", pin=1))
    session.execute(sa.update(Secret).values(token="t"))
    plan = restore(session, Secret, 1, as_of=AuditId(1), values={})
    assert (Change("token", "t", None),) == plan.rows[0].changes
    plan.execute()
    assert ["(1,a,,1,none)"] == image(session, "secret")


def test_ignored_columns_and_what_the_model_writes_by_itself_stay(session: Session) -> None:
    """An ignored column is not put back in a row that is there; onupdate does not fire."""
    session.add(Entry(id=1, amount=1, seen=1, stamp=5))
    session.commit()
    session.execute(sa.update(Entry).values(amount=2, seen=2, stamp=6))
    session.execute(sa.update(Entry).values(seen=3, stamp=6))
    restore(session, Entry, 1, as_of=AuditId(1), columns=["amount"]).execute()
    assert ["(1,,,1,3,6)"] == image(session, "entry")
    restore(session, Entry, 1, as_of=AuditId(1)).execute()
    assert ["(1,,,1,3,5)"] == image(session, "entry")


def test_a_given_value_is_not_cut(database: Database) -> None:
    """A value that does not fit the column is refused by PostgreSQL, not cut to it."""
    columns = [
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("code", sa.String(3), nullable=False),
        sa.Column("mood", sa.Enum(Mood, name="mood")),
        sa.Column("doc", postgresql.JSONB),
        sa.Column("day", sa.Date),
    ]
    table = sa.Table("thing", sa.MetaData(), *columns)
    audit_table(table, exclude_columns=["code", "mood", "doc", "day"])
    table.metadata.create_all(database.engine)
    for driver in ("psycopg2", "psycopg"):
        engine = sa.create_engine(database.url(driver), poolclass=sa.NullPool)
        with Session(engine) as session:
            session.execute(sa.insert(table).values(id=1, code="abc"))
            session.execute(sa.delete(table))
            with pytest.raises(RestoreError, match="too long for type character varying"):
                undelete(session, table, 1, values={"code": "abcd"}).execute()
            values = {"code": "xyz", "mood": Mood.bad, "doc": {"a": 1}}
            day = datetime.date(2026, 1, 31)
            undelete(session, table, 1, values={**values, "day": day}).execute()
            assert ['(1,xyz,bad,"{""a"": 1}",2026-01-31)'] == image(session, "thing")
            session.rollback()


def test_an_ignored_column_cannot_be_asked_for(session: Session) -> None:
    """It would be left as it is without a word: it is refused."""
    session.execute(sa.insert(Entry).values(id=1, amount=1, seen=1))
    session.execute(sa.update(Entry).values(amount=2, seen=2))
    for more in ({"columns": ["seen"]}, {"values": {"seen": 1}}):
        with pytest.raises(RestoreError, match="'seen' of 'entry' is in ignore_columns"):
            restore(session, Entry, 1, as_of=AuditId(1), **more)  # type: ignore[arg-type]


# -- what is refused -------------------------------------------------------------------------


def unrecorded(session: Session, *statements: str) -> None:
    """Change rows where no trigger fires."""
    session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    for statement in statements:
        session.execute(sa.text(statement))
    session.execute(sa.text("SET LOCAL session_replication_role = DEFAULT"))


@pytest.mark.parametrize(
    ("behind", "said"),
    [
        ("UPDATE account SET city = 'Bern'", "is not what record 3 says, in city"),
        ("DELETE FROM account", "is gone, and by record 3 it is there"),
    ],
)
def test_an_incomplete_trail_is_refused(
    session: Session, account: Account, behind: str, said: str
) -> None:
    """A row that is not as its last record says was changed behind the trail."""
    unrecorded(session, behind)
    for ask in (
        lambda: restore(session, Account, 1, as_of=AuditId(1)),
        lambda: undo(session, TransactionId(newest(session).audit_transaction_id), Account),
    ):
        with pytest.raises(RestoreError, match=f"row 1 of 'account' {said}: it was changed while"):
            ask()


def test_a_row_that_came_back_unrecorded_is_refused(session: Session, account: Account) -> None:
    """By its last record the row is gone."""
    session.execute(sa.text("DELETE FROM account"))
    unrecorded(
        session,
        "INSERT INTO account OVERRIDING SYSTEM VALUE VALUES (1, 'b@x', 'Oslo')",
    )
    with pytest.raises(RestoreError, match="row 1 of 'account' is there, and by record 4 it is"):
        undelete(session, Account, 1)


def test_a_moment_before_the_trail_is_refused(session: Session) -> None:
    """Where the first record is no INSERT, nothing says how the row was before it."""
    unrecorded(session, "INSERT INTO account (email) VALUES ('a@x')")
    session.execute(sa.text("UPDATE account SET city = 'Rome'"))
    said = "'account' with the key 1 begins with record 1, operation U, after that moment"
    with pytest.raises(RestoreError, match=said):
        restore(session, Account, 1, as_of=AuditId(0))
    with pytest.raises(RestoreError, match="record 1 of 'account' is the first of its row"):
        undo(session, transaction(session), Account)


def test_bad_input(session: Session, account: Account) -> None:
    """What is asked for wrongly is refused with what to write, before anything is changed."""
    cases: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (
            RestoreError,
            "nothing is recorded of 'account' with the key 9",
            lambda: restore(session, Account, 9, as_of=AuditId(1)),
        ),
        (
            RestoreError,
            "nothing is recorded of 'account' with the key 9",
            lambda: undelete(session, Account, 9),
        ),
        (
            ReadingError,
            "is no key of 'account'; write id",
            lambda: restore(session, Account, (1, 2), as_of=AuditId(1)),
        ),
        (
            ReadingError,
            "has no time zone",
            lambda: restore(session, Account, 1, as_of=datetime.datetime(2026, 1, 1)),
        ),
        (
            ReadingError,
            "no column 'emial': did you mean 'email'",
            lambda: restore(session, Account, 1, as_of=AuditId(1), columns=["emial"]),
        ),
        (
            RestoreError,
            r"columns='email' is one text; write \['email'\]",
            lambda: restore(session, Account, 1, as_of=AuditId(1), columns="email"),
        ),
        (
            RestoreError,
            "columns= is for a row that was there and is",
            lambda: restore(session, Account, 1, as_of=AuditId(0), columns=["email"]),
        ),
        (
            RestoreError,
            "values: 'mail' is no column of 'account'",
            lambda: restore(session, Account, 1, as_of=AuditId(1), values={"mail": "x"}),
        ),
        (
            RestoreError,
            "values: 'id' is the key of 'account'",
            lambda: undelete(session, Account, 1, values={"id": 2}),
        ),
        (
            RestoreError,
            "transaction 1 has no record of 'account', 'entry'",
            lambda: undo(session, TransactionId(1), Account, Entry),
        ),
        (
            RestoreError,
            r"write undo\(session, TransactionId\(...\), Account, ...\)",
            lambda: undo(session, 7, Account),
        ),  # type: ignore[arg-type]
        (
            RestoreError,
            r"write undo\(session, TransactionId\(...\), Account, ...\)",
            lambda: undo(session, TransactionId(7)),
        ),
        (
            ReadingError,
            "is neither a mapped class nor a Table",
            lambda: restore(session, Mood, 1, as_of=AuditId(1)),
        ),
    ]
    for error, said, ask in cases:
        with pytest.raises(error, match=said):
            ask()
    assert ["(1,b@x,Oslo)"] == image(session, "account")


@pytest.mark.parametrize(
    "behind",
    [
        "ALTER TABLE account DISABLE TRIGGER USER",
        "SET LOCAL session_replication_role = replica",
    ],
)
def test_what_is_not_recorded_is_taken_back(
    session: Session, account: Account, behind: str
) -> None:
    """A restoration that the trail does not see does not happen."""
    plan = restore(session, Account, 1, as_of=AuditId(1))
    session.execute(sa.text(behind))
    with pytest.raises(RestoreError, match="the update of row 1 of 'account' was not recorded"):
        plan.execute()
    assert ["(1,b@x,Oslo)"] == image(session, "account")


def test_what_a_trigger_turns_away_is_no_success(session: Session, account: Account) -> None:
    """A BEFORE trigger that returns NULL makes an error, not silence."""
    session.execute(
        sa.text(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
        )
    )
    session.execute(
        sa.text(
            "CREATE TRIGGER refuse BEFORE UPDATE ON account FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    )
    with pytest.raises(RestoreError, match="or a trigger turned it away"):
        restore(session, Account, 1, as_of=AuditId(1)).execute()
    session.rollback()


def test_what_a_trigger_writes_instead_is_returned(session: Session, account: Account) -> None:
    """execute() returns what is there, not what was planned."""
    session.execute(
        sa.text(
            "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql"
            " AS 'BEGIN NEW.city := upper(NEW.city); RETURN NEW; END'"
        )
    )
    session.execute(
        sa.text(
            "CREATE TRIGGER shout BEFORE UPDATE ON account FOR EACH ROW EXECUTE FUNCTION shout()"
        )
    )
    (done,) = restore(session, Account, 1, as_of=AuditId(1)).execute()
    assert (Change("email", "b@x", "a@x"), Change("city", "Oslo", "ROME")) == done.changes
    session.rollback()


def test_a_row_that_changed_since_the_plan_was_made(session: Session, account: Account) -> None:
    """The plan is looked at once more under the lock of the row."""
    session.execute(sa.select(1))
    plan = restore(session, Account, 1, as_of=AuditId(1))
    with Session(session.get_bind()) as other:
        other.get_one(Account, 1).town = "Bern"
        other.commit()
    with pytest.raises(RestoreError, match="rows of 'account' changed since the plan was made"):
        plan.execute()
    assert ["(1,b@x,Bern)"] == image(session, "account")


def test_what_postgresql_refuses(session: Session, account: Account) -> None:
    """A constraint in the way is an error that quotes it; the transaction goes on."""
    session.add(Account(email="a@x"))
    session.flush()
    with pytest.raises(RestoreError, match=r"(?s)refused it, and nothing was changed: .*a@x"):
        restore(session, Account, 1, as_of=AuditId(1)).execute()
    assert ["(1,b@x,Oslo)", "(2,a@x,)"] == image(session, "account")


def test_rights(session: Session, account: Account) -> None:
    """Who may not change the table restores nothing; reading the trail alone does not help."""
    session.execute(sa.text("CREATE ROLE restorer"))
    session.execute(sa.text("GRANT SELECT ON account, account_audit TO restorer"))
    session.execute(sa.text("SET LOCAL ROLE restorer"))
    plan = restore(session, Account, 1, as_of=AuditId(1))
    with pytest.raises(RestoreError, match="permission denied for table account"):
        plan.execute()
    session.rollback()


# -- a whole transaction -------------------------------------------------------------------------


def test_undo_of_many_tables(session: Session) -> None:
    """Rows come back with what they refer to, in other tables and in their own."""
    session.add(Account(email="a@x"))
    session.flush()
    session.execute(sa.insert(Entry).values(id=1, account_id=1, amount=1))
    session.execute(
        sa.insert(Entry).values(
            [
                {"id": 3, "account_id": 1, "parent_id": 2, "amount": 3},
                {"id": 2, "account_id": 1, "parent_id": 1, "amount": 2},
            ]
        )
    )
    session.commit()
    before = image(session, "account"), image(session, "entry")
    number = transaction(session)
    # The children of 1 go by its ON DELETE CASCADE.
    session.execute(sa.delete(Entry).where(Entry.id == 1))
    session.execute(sa.delete(Account))
    session.execute(sa.insert(Account).values(email="c@x"))
    session.execute(sa.insert(Entry).values(id=4, account_id=2, amount=4))
    session.commit()
    assert (["(2,c@x,)"], ["(4,2,,4,,0)"]) == (image(session, "account"), image(session, "entry"))
    plan = undo(session, number, Base.metadata)
    assert {"insert": 4, "delete": 2} == {
        action: sum(one.action == action for one in plan.rows) for action in ("insert", "delete")
    }
    plan.execute()
    session.commit()
    assert before == (image(session, "account"), image(session, "entry"))


def test_a_deletion_that_takes_others_along_is_a_conflict(session: Session) -> None:
    """Entries that came later under an inserted one would go by its ON DELETE CASCADE."""
    session.execute(sa.insert(Entry).values(id=1, amount=1))
    session.commit()
    number = transaction(session)
    session.execute(sa.insert(Entry).values(id=2, amount=1))
    session.execute(sa.insert(Entry).values(id=3, amount=1, parent_id=2))
    session.commit()
    session.execute(sa.insert(Entry).values(id=4, amount=1, parent_id=2))
    session.commit()
    said = "entry 4: parent_id refers to a row that is deleted, and goes along or loses it"
    for plan in (undo(session, number, Entry), restore(session, Entry, 2, as_of=AuditId(1))):
        assert said in list(map(str, plan.conflicts))
        with pytest.raises(RestoreError, match=f"(?s)overwrite=True.*{said}"):
            plan.execute()
    plan = undo(session, number, Entry)
    assert (1, 2) == (len(plan.conflicts), len(plan.execute(overwrite=True)))
    assert ["(1,,,1,,0)"] == image(session, "entry")


def test_a_row_beside_many_planned_ones_is_a_conflict(session: Session) -> None:
    """Rows that the plan deletes anyway hide none that it does not name."""
    session.commit()
    number = transaction(session)
    session.execute(sa.insert(Entry).values(id=1, amount=1))
    session.execute(
        sa.insert(Entry).values([{"id": n, "parent_id": 1, "amount": 1} for n in range(2, 300)])
    )
    session.commit()
    session.execute(sa.insert(Entry).values(id=1000, parent_id=1, amount=1))
    session.commit()
    plan = undo(session, number, Entry)
    assert [("entry", (1000,), ("parent_id",), None)] == [
        (one.table, one.key, one.columns, one.audit_id) for one in plan.conflicts
    ]


def test_undo_of_truncate(session: Session) -> None:
    """All rows come back that were there, those too that the transaction changed as well."""
    session.execute(
        sa.text(
            "INSERT INTO entry (id, amount, stamp) SELECT n, n, 0 FROM generate_series(1, 2500) n"
        )
    )
    session.execute(sa.text("DELETE FROM entry WHERE id = 9"))
    session.commit()
    before = image(session, "entry")
    number = transaction(session)
    session.execute(sa.text("UPDATE entry SET amount = 0 WHERE id IN (1, 2)"))
    session.execute(sa.text("DELETE FROM entry WHERE id = 3"))
    session.execute(sa.text("TRUNCATE entry"))
    session.execute(sa.text("INSERT INTO entry (id, amount, stamp) VALUES (1, 7, 0), (3000, 8, 0)"))
    session.commit()
    assert 2500 == len(undo(session, number, Entry).execute())
    assert before == image(session, "entry")


def test_undo_leaves_what_came_later(session: Session, account: Account) -> None:
    """The transaction changed the email; the town, which changed later, stays."""
    _first, second, _third = session.scalars(sa.select(audit_class(Account)).order_by("audit_id"))
    plan = undo(session, TransactionId(second.audit_transaction_id), Account)
    assert "update account 1: email: 'b@x' -> 'a@x'" == str(plan)
    plan.execute()
    assert ["(1,a@x,Oslo)"] == image(session, "account")


def test_a_conflict_waits_for_overwrite(session: Session, account: Account) -> None:
    """The same column changed again: that is said, and overwritten only when asked."""
    number = TransactionId(newest(session).audit_transaction_id)
    account.town, account.email = "Bern", "c@x"
    session.commit()
    plan = undo(session, number, Account)
    assert (
        "update account 1: city: 'Bern' -> 'Rome'\n"
        "conflict: account 1: city changed since, last by record 4"
    ) == str(plan)
    with pytest.raises(RestoreError, match=r"(?s)overwrite=True.*city changed since"):
        plan.execute()
    plan.execute(overwrite=True)
    assert ["(1,c@x,Rome)"] == image(session, "account")


def test_conflicts_of_whole_rows(session: Session, account: Account) -> None:
    """An inserted row that changed since, and a changed one that is gone, are conflicts."""
    first, second, _third = [
        TransactionId(one.audit_transaction_id)
        for one in session.scalars(sa.select(audit_class(Account)).order_by("audit_id"))
    ]
    plan = undo(session, first, Account)
    assert "delete account 1\nconflict: account 1: email, city changed since, last by record 3" == (
        str(plan)
    )
    session.execute(sa.delete(Account))
    assert "nothing to restore" == str(undo(session, first, Account))
    plan = undo(session, second, Account)
    assert str(plan).endswith("conflict: account 1: the whole row changed since, last by record 4")
    plan.execute(overwrite=True)
    assert ["(1,a@x,Rome)"] == image(session, "account")


def test_undo_of_what_came_to_nothing(session: Session) -> None:
    """A row that a transaction inserted and deleted, or changed back, is not its any more."""
    number = transaction(session)
    session.execute(sa.insert(Entry).values(id=1, amount=1))
    session.execute(sa.delete(Entry))
    session.commit()
    session.execute(sa.insert(Entry).values(id=1, amount=2))
    session.commit()
    assert "nothing to restore" == str(undo(session, number, Entry))
    number = transaction(session)
    for amount in (3, 2):
        session.execute(sa.update(Entry).values(amount=amount, stamp=0))
    session.commit()
    session.execute(sa.delete(Entry))
    session.commit()
    assert "nothing to restore" == str(undo(session, number, Entry))


def test_undo_of_an_undo(session: Session, account: Account) -> None:
    """A restoration is a transaction like any other."""
    number = TransactionId(newest(session).audit_transaction_id)
    again = transaction(session)
    undo(session, number, Account).execute()
    session.commit()
    assert ["(1,b@x,Rome)"] == image(session, "account")
    undo(session, again, Account).execute()
    assert ["(1,b@x,Oslo)"] == image(session, "account")


def test_rows_that_changed_places_under_a_unique_constraint(session: Session) -> None:
    """One row went and another took its email: the other goes first, then it comes back."""
    session.add(Account(email="a@x"))
    session.commit()
    number = transaction(session)
    session.execute(sa.delete(Account))
    session.execute(sa.insert(Account).values(email="a@x"))
    session.commit()
    undo(session, number, Account).execute()
    assert ["(1,a@x,)"] == image(session, "account")


def test_a_changed_key_is_refused(session: Session) -> None:
    """Nothing tells a changed key from a row whose trail began there."""
    session.execute(sa.insert(Entry).values(id=1, amount=1))
    session.commit()
    number = transaction(session)
    session.execute(sa.update(Entry).values(id=2))
    session.commit()
    with pytest.raises(RestoreError, match=f"transaction {number.value} changed the row's key, or"):
        undo(session, number, Entry)


def test_a_past_label_and_a_former_type(database: Database) -> None:
    """A column of another type then is lost, and its text is shown; it is not taken for NULL."""
    table = sa.Table(
        "thing",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("size", sa.Integer),
    )
    audit_table(table)
    table.metadata.create_all(database.engine)
    with Session(database.engine) as session:
        run = session.connection().exec_driver_sql
        run("INSERT INTO thing VALUES (1, 5)")
        # What the migration of a retyped column leaves behind.
        run("ALTER TABLE thing_audit RENAME size TO size__text")
        run("ALTER TABLE thing_audit ALTER size__text TYPE text")
        run("ALTER TABLE thing_audit ADD size integer")
        run("UPDATE thing SET size = 6")
        plan = restore(session, table, 1, as_of=AuditId(1))
        said = "thing 1: size is lost: it had another type then: size__text '5'"
        assert said == str(plan).splitlines()[-1]
        assert () == plan.execute()
        restore(session, table, 1, as_of=AuditId(1), values={"size": 5}).execute()
        assert ["(1,5)"] == image(session, "thing")


def test_a_column_that_came_later(database: Database) -> None:
    """NULL of a column that is NOT NULL was no value; it stays as it is."""
    table = sa.Table(
        "thing",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("n", sa.Integer),
        sa.Column("size", sa.Integer, nullable=False),
    )
    audit_table(table)
    table.metadata.create_all(database.engine)
    with Session(database.engine) as session:
        run = session.connection().exec_driver_sql
        run("INSERT INTO thing VALUES (1, 5, 7)")
        run("UPDATE thing_audit SET size = NULL")
        run("UPDATE thing SET n = 6")
        plan = restore(session, table, 1, as_of=AuditId(1))
        assert (
            "update thing 1: n: 6 -> 5 (since then: record 2)\n"
            "thing 1: size is lost: the column came later"
        ) == str(plan)
        plan.execute()
        assert ["(1,5,7)"] == image(session, "thing")


def test_sparse_columns(database: Database) -> None:
    """A value that a record left out is that of the one before; where none has it, it is lost."""
    table = sa.Table(
        "thing",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("n", sa.Integer),
        sa.Column("doc", sa.Text),
    )
    audit_table(table, sparse_columns=["doc"])
    table.metadata.create_all(database.engine)
    with Session(database.engine) as session:
        unrecorded(session, "INSERT INTO thing VALUES (1, 0, 'old'), (2, 0, 'x')")
        run = session.connection().exec_driver_sql
        run("UPDATE thing SET n = 1")
        run("UPDATE thing SET doc = 'new' WHERE id = 1")
        run("UPDATE thing SET n = 2 WHERE id = 1")
        run("UPDATE thing SET doc = 'newest' WHERE id = 1")
        plan = restore(session, table, 1, as_of=AuditId(4))
        assert "update thing 1: doc: 'newest' -> 'new' (since then: record 5)" == str(plan)
        plan.execute()
        plan = restore(session, table, 1, as_of=AuditId(1))
        assert (
            "update thing 1: n: 2 -> 1 (since then: records 3, 4, 5, 6)\n"
            "thing 1: doc is lost: no record holds it, since it was not changed while there was a "
            "trail"
        ) == str(plan)
        plan.execute()
        assert ["(1,1,new)", "(2,1,x)"] == image(session, "thing")


class Person(Base):
    __tablename__ = "person"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]

    __mapper_args__: Any = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012


class Clerk(Person):
    """Single-table inheritance: it has no table of its own."""

    __mapper_args__: Any = {"polymorphic_identity": "clerk"}  # noqa: RUF012


class Manager(Person):
    __tablename__ = "manager"
    __mapper_args__: Any = {"polymorphic_identity": "manager"}  # noqa: RUF012

    id: Mapped[int] = mapped_column(sa.ForeignKey("person.id"), primary_key=True)
    level: Mapped[int]


for each in (Person, Manager):
    audit_table(each.__table__)  # type: ignore[arg-type]


def test_joined_inheritance_one_row(session: Session) -> None:
    """A row of each table, and no call that takes one for all of an object."""
    session.add(Manager(id=1, name="a", level=1))
    session.commit()
    said = (
        "a Manager has a row in each of 'person', 'manager', each of which has a trail of its own: "
        "restore them one by one, as restore(session, Manager.__table__, ...), the first one first "
        "where rows are inserted and last where they are deleted"
    )
    for ask in (
        lambda: restore(session, Manager, 1, as_of=AuditId(1)),
        lambda: undelete(session, Manager, 1),
    ):
        with pytest.raises(RestoreError, match=f"^{re.escape(said)}$"):
            ask()
    session.delete(session.get_one(Manager, 1))
    session.commit()
    for table in (Person.__table__, Manager.__table__):
        undelete(session, table, 1).execute()
    assert ("a", 1) == (session.get_one(Manager, 1).name, session.get_one(Manager, 1).level)
    restore(session, Manager.__table__, 1, as_of=AuditId(0)).execute()
    restore(session, Person, 1, as_of=AuditId(0)).execute()
    assert ([], []) == (image(session, "person"), image(session, "manager"))


def test_joined_inheritance_undo(session: Session) -> None:
    """A class stands for all tables that it is mapped to."""
    session.add(Manager(id=1, name="a", level=1))
    session.commit()
    number = transaction(session)
    manager = session.get_one(Manager, 1)
    manager.name, manager.level = "b", 2
    session.add(Manager(id=2, name="c", level=3))
    session.commit()
    undo(session, number, Manager).execute()
    assert ["(1,manager,a)"] == image(session, "person")
    assert ["(1,1)"] == image(session, "manager")


def test_single_table_inheritance(session: Session) -> None:
    """A subclass without a table is its table."""
    session.add(Clerk(id=1, name="a"))
    session.commit()
    session.get_one(Clerk, 1).name = "b"
    session.commit()
    restore(session, Clerk, 1, as_of=AuditId(1)).execute()
    assert "a" == session.get_one(Clerk, 1).name


def test_each_tenant_has_its_own(database: Database) -> None:
    """schema_translate_map says whose row it is."""
    table = sa.Table(
        "thing",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("n", sa.Integer),
    )
    audit_table(table)
    for tenant in ("one", "two"):
        translated = database.engine.execution_options(schema_translate_map={None: tenant})
        with translated.begin() as connection:
            connection.execute(sa.schema.CreateSchema(tenant))
            table.metadata.create_all(connection)
            connection.execute(sa.insert(table).values(id=1, n=1))
            connection.execute(sa.delete(table))
            if tenant == "two":
                undelete(connection, table, 1).execute()
                restore(connection, table, 1, as_of=AuditId(2)).execute()
                restore(connection, table, 1, as_of=AuditId(1)).execute()
    with Session(database.engine) as session:
        assert ([], ["(1,1)"]) == (image(session, "one.thing"), image(session, "two.thing"))


# -- any history -----------------------------------------------------------------------------

keys = st.integers(1, 4)
steps = st.one_of(
    st.tuples(st.just("INSERT INTO entry (id, amount, stamp) VALUES ({0}, {1}, 0)"), keys, keys),
    st.tuples(st.just("UPDATE entry SET amount = {1} WHERE id = {0}"), keys, keys),
    st.tuples(st.just("UPDATE entry SET amount = amount + {1}"), keys, keys),
    st.tuples(st.just("DELETE FROM entry WHERE id = {0}"), keys, keys),
    st.tuples(st.just("TRUNCATE entry"), keys, keys),
)


@hypothesis.settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(st.lists(st.lists(steps, min_size=1, max_size=4), min_size=1, max_size=4))
def test_any_history(session: Session, story: list[list[tuple[str, int, int]]]) -> None:
    """Undoing transactions from the last to the first meets every state that there was."""
    session.rollback()
    session.execute(sa.text("TRUNCATE entry_audit RESTART IDENTITY"))
    states, copies, numbers = [image(session, "entry")], {0: {}}, []
    session.commit()
    for statements in story:
        numbers.append(transaction(session))
        for statement, *values in statements:
            with contextlib.suppress(sa.exc.IntegrityError), session.begin_nested():
                session.execute(sa.text(statement.format(*values)))
            last = session.scalar(sa.select(sa.func.max(audit_class(Entry).audit_id))) or 0
            copies[last] = amounts(session)
        session.commit()
        states.append(image(session, "entry"))
    check_moments(session, copies)
    for number, before in zip(reversed(numbers), reversed(states[:-1]), strict=True):
        with (
            contextlib.suppress(RestoreError)
            if before == image(session, "entry")
            else (contextlib.nullcontext())
        ):
            undo(session, number, Entry).execute()
        assert before == image(session, "entry")
    session.execute(sa.text("TRUNCATE entry, entry_audit RESTART IDENTITY"))
    session.commit()


def amounts(session: Session) -> dict[int, int]:
    return {row.id: row.amount for row in session.execute(sa.select(Entry.id, Entry.amount))}


def check_moments(session: Session, copies: dict[int, dict[int, int]]) -> None:
    """Every row goes back to every moment, and forward again."""
    for moment, copy in copies.items():
        with session.begin_nested() as savepoint:
            for key in (1, 2, 3, 4):
                with (
                    contextlib.suppress(RestoreError)
                    if key not in copy
                    else (contextlib.nullcontext())
                ):
                    restore(session, Entry, key, as_of=AuditId(moment)).execute()
            assert copy == amounts(session)
            savepoint.rollback()
