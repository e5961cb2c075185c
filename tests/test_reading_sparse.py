"""Reading a trail with sparse columns: what a record left out is what was stored last."""

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from alembic_audit import AuditId, as_of, audit_class, audited, blame, changes, diff, history
from tests.conftest import Database


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
    found = session.scalars(changes(Page, column="text")).all()
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
    records = {record.audit_id: record for record in session.scalars(history(Page, 1))}
    assert ["title"] == [change.name for change in diff(records[1], records[2])]
    assert ["text"] == [change.name for change in diff(records[2], records[3])]
