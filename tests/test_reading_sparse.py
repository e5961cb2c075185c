"""Reading what UPDATEs left out of sparse columns, and keys that swap at statement level."""

from collections.abc import Iterator
from typing import Any

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


@audited(sparse_columns=["body", "links"])
class Page(Base):
    __tablename__ = "page"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    title: Mapped[str | None]
    text: Mapped[str | None] = mapped_column("body")
    links: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON(none_as_null=True))


STORY = [
    """INSERT INTO page VALUES (1, 'a', 'one', '{"n": 1}')""",  # 1
    "UPDATE page SET title = 'b'",  # 2, leaves out both
    "UPDATE page SET body = NULL",  # 3, leaves out links
    "UPDATE page SET title = 'c'",  # 4, leaves out both
    "UPDATE page SET body = 'two', id = 2",  # 5 D, 6 U with all
    "UPDATE page SET title = 'd'",  # 7, leaves out both
    "DELETE FROM page",  # 8
    "INSERT INTO page VALUES (2, 'e', 'three', NULL)",  # 9
    "UPDATE page SET title = 'f'",  # 10
]


@pytest.fixture(scope="module")
def session(shared_database: Database) -> Iterator[Session]:
    """A session of a database with the story."""
    engine = shared_database.engine
    Base.metadata.create_all(engine)
    with Session(engine) as made:
        for statement in STORY:
            made.connection().exec_driver_sql(statement)
            made.commit()
        yield made
    Base.metadata.drop_all(engine)


def values(record: Any) -> tuple[Any, ...] | None:
    if record is None:
        return None
    return (record.audit_id, record.title, record.text, record.links)


ONE = [
    (5, "c", None, {"n": 1}),
    (4, "c", None, {"n": 1}),
    (3, "b", None, {"n": 1}),
    (2, "b", "one", {"n": 1}),
    (1, "a", "one", {"n": 1}),
]
TWO = [
    (10, "f", "three", None),
    (9, "e", "three", None),
    (8, "d", "two", {"n": 1}),
    (7, "d", "two", {"n": 1}),
    (6, "c", "two", {"n": 1}),
]


def test_history(session: Session) -> None:
    """Each record and the one before show whole rows; what changed is what did change."""
    found = session.execute(history(Page, 1)).all()
    assert ONE == [values(record) for record, _, _ in found]
    assert [*ONE[1:], None] == [values(before) for _, before, _ in found]
    assert [None, ["title"], ["body"], ["title"], None] == [changed for *_, changed in found]
    found = session.execute(history(Page, 2)).all()
    assert TWO == [values(record) for record, _, _ in found]
    assert [["links"], ["body", "links"]] == [
        sorted(session.get_one(audit_class(Page), number).audit_omitted_columns)
        for number in (3, 4)
    ]


def test_history_of_a_table(session: Session) -> None:
    """The columns of a Table are carried forward as attributes are, those before too."""
    rows = session.execute(history(Page.__table__, 1)).mappings().all()
    assert [one[1:3] for one in ONE] == [(row["title"], row["body"]) for row in rows]
    before = [(row["audit_before_title"], row["audit_before_body"]) for row in rows]
    assert [*(one[1:3] for one in ONE[1:]), (None, None)] == before
    assert [["links", "body"], None] == [
        row["audit_omitted_columns"] and sorted(row["audit_omitted_columns"], reverse=True)
        for row in (rows[1], rows[4])
    ]


def test_changes(session: Session) -> None:
    """A change of a sparse column is found, and no other."""
    for name in ("text", "body"):
        found = session.scalars(changes(Page, column=name)).all()
        assert [3] == [record.audit_id for record in found]
    record = audit_class(Page)
    kept = session.scalars(changes(Page).where(record.text == "one")).all()
    assert [2, 1] == [one.audit_id for one in kept]


@pytest.mark.parametrize("number", range(1, 11))
def test_as_of(session: Session, number: int) -> None:
    """At every record the table is whole."""
    expected = {values[0]: values[1:] for values in (*ONE, *TWO)}
    rows = session.scalars(as_of(Page, AuditId(number))).all()
    ended = number in (5, 8)
    assert ([] if ended else [expected[number]]) == [(r.title, r.text, r.links) for r in rows]
    found = session.execute(as_of(Page.__table__, AuditId(number))).all()
    assert ([] if ended else [expected[number][:2]]) == [tuple(row)[1:3] for row in found]


def test_as_of_is_composed(session: Session) -> None:
    """A filter finds a value that the last record left out."""
    assert 1 == session.scalars(as_of(Page, AuditId(2)).filter_by(text="one")).one().id
    assert [] == session.scalars(as_of(Page, AuditId(4)).filter_by(text="one")).all()


def test_blame(session: Session) -> None:
    """The record that stored a value is who set it, whatever left it alone since."""
    found = {name: record.audit_id for name, record in session.execute(blame(Page, 2))}
    assert {"id": 9, "title": 10, "body": 9, "links": 9} == found
    rows = session.execute(blame(Page.__table__, 2)).mappings()
    assert {"id": "three", "title": "three", "body": "three", "links": "three"} == {
        row["audit_column"]: row["body"] for row in rows
    }


def test_diff(session: Session) -> None:
    """Left out is no difference."""
    (row,) = session.execute(diff(as_of(Page, AuditId(1)), as_of(Page, AuditId(4)))).mappings()
    assert ["title", "body"] == row["audit_changed"]
    assert ("one", None) == (row["audit_before_body"], row["audit_after_body"])
    records = {record.audit_id: record for record in session.scalars(history(Page, 1))}
    assert (Change("title", "a", "b"),) == diff(records[1], records[2])
    assert ["text"] == [change.name for change in diff(records[2], records[3])]


# -- stories of their own ------------------------------------------------------------------------


class Own(DeclarativeBase):
    pass


@audited(sparse_columns=["body"])
class Note(Own):
    __tablename__ = "note"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    title: Mapped[str | None]
    text: Mapped[str | None] = mapped_column("body")


@audited(level="statement")
class Slot(Own):
    __tablename__ = "slot"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    guest: Mapped[str | None]


@pytest.fixture
def empty(shared_database: Database) -> Iterator[Session]:
    """A session of a database in which the tables of one test are empty and audited."""
    Own.metadata.create_all(shared_database.engine)
    with Session(shared_database.engine) as made:
        yield made
    Own.metadata.drop_all(shared_database.engine)


def work(session: Session, *statements: str) -> None:
    """Run each statement in a transaction of its own."""
    for statement in statements:
        session.execute(sa.text(statement))
        session.commit()


def setters(session: Session, key: int) -> dict[str, int]:
    return {name: one.audit_id for name, one in session.execute(blame(Note, key))}


def test_null_is_stored(empty: Session) -> None:
    """NULL that was stored is no value that was left out; a key that changed stores the row."""
    work(
        empty,
        "INSERT INTO note VALUES (1, 'a', 'one')",
        "UPDATE note SET body = 'two'",
        "UPDATE note SET body = NULL",
        "UPDATE note SET title = 'b'",  # 4, leaves NULL out
    )
    assert [(4, None, ["title"]), (3, None, ["body"]), (2, "two", ["body"]), (1, "one", None)] == [
        (one.audit_id, one.text, names) for one, _, names in empty.execute(history(Note, 1))
    ]
    assert [3, 2] == [one.audit_id for one in empty.scalars(changes(Note, column="body"))]
    assert {"id": 1, "title": 4, "body": 3} == setters(empty, 1)
    work(empty, "UPDATE note SET id = 2")  # 5 D, 6 U
    assert {"id": 6, "title": 6, "body": 6} == setters(empty, 2)


@pytest.mark.parametrize("end", ["TRUNCATE note", "DELETE FROM note"])
def test_an_earlier_row_lends_nothing(empty: Session, end: str) -> None:
    """A row whose value is nowhere in the trail has NULL, not that of a row that is gone."""
    work(
        empty,
        "INSERT INTO note VALUES (1, 'a', 'gone')",
        end,
        "ALTER TABLE note DISABLE TRIGGER USER",
        "INSERT INTO note VALUES (1, 'a', 'unseen')",
        "ALTER TABLE note ENABLE TRIGGER USER",
        "UPDATE note SET title = 'b'",
    )
    assert [None] == [one.text for one in empty.scalars(as_of(Note, AuditId(3)))]
    newest = empty.scalars(history(Note, 1).limit(1)).one()
    assert (None, ["body"]) == (newest.text, newest.audit_omitted_columns)


def test_keys_that_swap_in_one_statement(empty: Session) -> None:
    """At statement level the D of every key come first; each row goes on under its new key."""
    work(empty, "INSERT INTO slot VALUES (1, 'ann'), (2, 'ben'), (3, 'cid')")
    work(
        empty,
        "ALTER TABLE slot DROP CONSTRAINT slot_pkey",
        "ALTER TABLE slot ADD PRIMARY KEY (id) DEFERRABLE INITIALLY DEFERRED",
        "UPDATE slot SET id = 3 - id WHERE id < 3",
    )
    record = audit_class(Slot)
    letters = empty.scalars(sa.select(record.audit_operation).order_by(record.audit_id)).all()
    assert ["I", "I", "I", "D", "D", "U", "U"] == letters
    then = empty.execute(as_of(Slot, AuditId(7))).scalars()
    assert [(1, "ben"), (2, "ann"), (3, "cid")] == sorted((one.id, one.guest) for one in then)
    assert ["ann", "ben", "cid"] == [
        one.guest for one in empty.scalars(as_of(Slot, AuditId(3)).order_by("id"))
    ]
    for key, guests in ((1, ["ben", "ann", "ann"]), (2, ["ann", "ben", "ben"])):
        found = empty.execute(history(Slot, key)).all()
        assert ["U", "D", "I"] == [one.audit_operation for one, *_ in found]
        assert guests == [one.guest for one, *_ in found]
        assert [None, found[2][0].audit_id, None] == [old and old.audit_id for _, old, _ in found]
        assert {found[0][0].audit_id} == {
            one.audit_id for _, one in empty.execute(blame(Slot, key))
        }


def record_rows(session: Session, first: int, last: int) -> None:
    """Record rows, each inserted with its body and updated without it twice."""
    session.connection().exec_driver_sql(
        "INSERT INTO note_audit (audit_operation, audit_operation_timestamp,"
        " audit_transaction_id, audit_current_user, audit_omitted_columns, id, body)"
        " SELECT CASE n WHEN 0 THEN 'I' ELSE 'U' END, clock_timestamp(), 1, 'x',"
        " CASE WHEN n > 0 THEN ARRAY['body'] END, id, CASE n WHEN 0 THEN 'text' END"
        f" FROM generate_series(0, 2) n, generate_series({first}, {last}) id ORDER BY n, id"
    )
    session.connection().exec_driver_sql("ANALYZE note_audit")


def test_what_it_costs(empty: Session) -> None:
    """A carried value of one row is found by the index, at the same cost in a longer trail."""
    asked = {
        "history": history(Note, 7),
        "as_of": as_of(Note, AuditId(10**9)).filter_by(id=7),
        "blame": blame(Note, 7),
    }
    record_rows(empty, 1, 3_334)
    small = {name: explain(empty.connection(), one) for name, one in asked.items()}
    record_rows(empty, 3_335, 40_000)
    assert "text" == empty.scalars(asked["as_of"]).one().text
    for name, one in asked.items():
        plan = explain(empty.connection(), one)
        assert not [kind for kind, _ in scans(plan) if kind == "Seq Scan"], (name, plan)
        assert buffers(plan) < 2 * buffers(small[name]) + 20, (name, plan)
    empty.rollback()
