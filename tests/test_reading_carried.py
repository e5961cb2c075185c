"""Reading what UPDATEs left out of sparse columns, and keys that swap at statement level."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from alembic_audit import (
    AuditId,
    Change,
    as_of,
    audit_class,
    audited,
    blame,
    changes,
    diff,
    history,
)
from tests.conftest import Database
from tests.test_reading_replay import buffers, explain, scans


class Base(DeclarativeBase):
    pass


@audited(sparse_columns=["body"])
class Page(Base):
    __tablename__ = "sparse_page"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    title: Mapped[str | None]
    text: Mapped[str | None] = mapped_column("body")


@audited(level="statement")
class Slot(Base):
    __tablename__ = "statement_slot"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    guest: Mapped[str | None]


@pytest.fixture
def session(shared_database: Database) -> Iterator[Session]:
    """A session of a database in which every table of this module is empty and audited."""
    Base.metadata.create_all(shared_database.engine)
    with Session(shared_database.engine) as made:
        yield made
    Base.metadata.drop_all(shared_database.engine)


def work(session: Session, *statements: str) -> None:
    """Run each statement in a transaction of its own."""
    for statement in statements:
        session.execute(sa.text(statement))
        session.commit()


def story(session: Session) -> None:
    """Write the records that most tests here read."""
    work(
        session,
        "INSERT INTO sparse_page VALUES (1, 'a', 'one')",  # 1
        "UPDATE sparse_page SET title = 'b'",  # 2, leaves body out
        "UPDATE sparse_page SET title = 'c'",  # 3, leaves body out
        "UPDATE sparse_page SET body = 'two'",  # 4
        "UPDATE sparse_page SET body = NULL",  # 5
        "UPDATE sparse_page SET title = 'd'",  # 6, leaves NULL out
    )


VALUES = {1: "one", 2: "one", 3: "one", 4: "two", 5: None, 6: None}


def test_history(session: Session) -> None:
    """Each record has the last stored value, and so has the one before."""
    story(session)
    found = session.execute(history(Page, 1)).all()
    assert [
        (6, None, None, ["title"]),
        (5, None, "two", ["body"]),
        (4, "two", "one", ["body"]),
        (3, "one", "one", ["title"]),
        (2, "one", "one", ["title"]),
        (1, "one", None, None),
    ] == [(one.audit_id, one.text, old and old.text, names) for one, old, names in found]
    assert ["body"] == found[3][0].audit_omitted_columns
    table = sa.inspect(Page).local_table
    assert isinstance(table, sa.Table)
    rows = session.execute(history(table, 1)).mappings().all()
    assert [(None, None), (None, "two"), ("two", "one"), ("one", "one")] == [
        (row["body"], row["audit_before_body"]) for row in rows[:4]
    ]


def test_as_of_and_diff(session: Session) -> None:
    """The table as it was, filtered too, has the last stored value; so have differences."""
    story(session)
    for number, text in VALUES.items():
        assert [text] == [one.text for one in session.scalars(as_of(Page, AuditId(number)))]
    assert 1 == session.scalars(as_of(Page, AuditId(3)).filter_by(text="one")).one().id
    found = session.execute(diff(as_of(Page, AuditId(3)), as_of(Page, AuditId(4)))).one()
    assert ("one", "two", ["body"]) == (
        found.audit_before_body,
        found.audit_after_body,
        found.audit_changed,
    )
    record = audit_class(Page)
    two, three = session.get_one(record, 2), session.get_one(record, 3)
    assert (Change("title", "b", "c"),) == diff(two, three)


def test_changes_and_blame(session: Session) -> None:
    """A column that was left out was not set; one that was stored after that was."""
    story(session)
    assert [5, 4] == [one.audit_id for one in session.scalars(changes(Page, column="body"))]
    setters = {name: one.audit_id for name, one in session.execute(blame(Page, 1))}
    assert {"id": 1, "title": 6, "body": 5} == setters
    work(session, "UPDATE sparse_page SET id = 2")
    assert {8} == {one.audit_id for _, one in session.execute(blame(Page, 2))}


@pytest.mark.parametrize("end", ["TRUNCATE sparse_page", "DELETE FROM sparse_page"])
def test_an_earlier_row_lends_nothing(session: Session, end: str) -> None:
    """A row whose value is nowhere in the trail has NULL, not that of a row that is gone."""
    work(
        session,
        "INSERT INTO sparse_page VALUES (1, 'a', 'gone')",
        end,
        "ALTER TABLE sparse_page DISABLE TRIGGER USER",
        "INSERT INTO sparse_page VALUES (1, 'a', 'unseen')",
        "ALTER TABLE sparse_page ENABLE TRIGGER USER",
        "UPDATE sparse_page SET title = 'b'",
    )
    assert [None] == [one.text for one in session.scalars(as_of(Page, AuditId(3)))]
    newest = session.scalars(history(Page, 1).limit(1)).one()
    assert (None, ["body"]) == (newest.text, newest.audit_omitted_columns)


def test_keys_that_swap_in_one_statement(session: Session) -> None:
    """At statement level the D of every key come first; each row goes on under its new key."""
    work(session, "INSERT INTO statement_slot VALUES (1, 'ann'), (2, 'ben'), (3, 'cid')")
    work(
        session,
        "ALTER TABLE statement_slot DROP CONSTRAINT statement_slot_pkey",
        "ALTER TABLE statement_slot ADD PRIMARY KEY (id) DEFERRABLE INITIALLY DEFERRED",
        "UPDATE statement_slot SET id = 3 - id WHERE id < 3",
    )
    record = audit_class(Slot)
    letters = session.scalars(sa.select(record.audit_operation).order_by(record.audit_id)).all()
    assert ["I", "I", "I", "D", "D", "U", "U"] == letters
    then = session.execute(as_of(Slot, AuditId(7))).scalars()
    assert [(1, "ben"), (2, "ann"), (3, "cid")] == sorted((one.id, one.guest) for one in then)
    assert ["ann", "ben", "cid"] == [
        one.guest for one in session.scalars(as_of(Slot, AuditId(3)).order_by("id"))
    ]
    for key, guests in ((1, ["ben", "ann", "ann"]), (2, ["ann", "ben", "ben"])):
        found = session.execute(history(Slot, key)).all()
        assert ["U", "D", "I"] == [one.audit_operation for one, *_ in found]
        assert guests == [one.guest for one, *_ in found]
        assert [None, found[2][0].audit_id, None] == [old and old.audit_id for _, old, _ in found]
        setters = {one.audit_id for _, one in session.execute(blame(Slot, key))}
        assert {found[0][0].audit_id} == setters


def record_rows(session: Session, first: int, last: int) -> None:
    """Record rows, each inserted with its body and updated without it twice."""
    session.connection().exec_driver_sql(
        "INSERT INTO sparse_page_audit (audit_operation, audit_operation_timestamp,"
        " audit_transaction_id, audit_current_user, audit_omitted_columns, id, body)"
        " SELECT CASE n WHEN 0 THEN 'I' ELSE 'U' END, clock_timestamp(), 1, 'x',"
        " CASE WHEN n > 0 THEN ARRAY['body'] END, id, CASE n WHEN 0 THEN 'text' END"
        f" FROM generate_series(0, 2) n, generate_series({first}, {last}) id ORDER BY n, id"
    )
    session.connection().exec_driver_sql("ANALYZE sparse_page_audit")


def test_what_it_costs(session: Session) -> None:
    """A carried value of one row is found by the index, at the same cost in a longer trail."""
    asked = {
        "history": history(Page, 7),
        "as_of": as_of(Page, AuditId(10**9)).filter_by(id=7),
        "blame": blame(Page, 7),
    }
    record_rows(session, 1, 3_334)
    small = {name: explain(session.connection(), one) for name, one in asked.items()}
    record_rows(session, 3_335, 40_000)
    assert "text" == session.scalars(asked["as_of"]).one().text
    for name, one in asked.items():
        plan = explain(session.connection(), one)
        assert not [kind for kind, _ in scans(plan) if kind == "Seq Scan"], (name, plan)
        assert buffers(plan) < 2 * buffers(small[name]) + 20, (name, plan)
    session.rollback()
