"""Bad input of readers: values that are large or hostile, trails that changed, missing rights."""

import json
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from alembic_audit import AuditId, ReadingError, as_of, audited, blame, history
from alembic_audit.reading.export import export
from tests.conftest import Database


class Base(DeclarativeBase):
    pass


@audited()
class Note(Base):
    __tablename__ = "bad_note"

    name: Mapped[str] = mapped_column(primary_key=True)
    text: Mapped[str | None]


@pytest.fixture
def session(shared_database: Database) -> Iterator[Session]:
    """A session of a database in which the table of this module is empty and audited."""
    Base.metadata.create_all(shared_database.engine)
    with Session(shared_database.engine) as made:
        yield made
    Base.metadata.drop_all(shared_database.engine)


HOSTILE = "\x01\x1b[31m[bold]%(x)s\r\n\u202e'\"\\;--"


def test_control_characters_and_10_mb(session: Session) -> None:
    """Control characters in key and value, and 10 MB, are read and exported as they are."""
    session.add(Note(name=HOSTILE, text=HOSTILE))
    session.commit()
    large = "é" * 5_000_000
    session.get_one(Note, HOSTILE).text = large
    session.commit()
    (new, old, changed), _ = session.execute(history(Note, HOSTILE)).all()
    assert (large, HOSTILE, ["text"]) == (new.text, old and old.text, changed)
    assert HOSTILE == session.scalars(as_of(Note, AuditId(1)).filter_by(name=HOSTILE)).one().text
    assert 2 == len(session.execute(blame(Note, HOSTILE)).all())
    lines = [line.text for line in export(session.connection(), Note)]
    assert [1, 1] == [len(line.split("\n")) for line in lines]


def test_no_such_row(session: Session) -> None:
    """A key that no record has, has no history, and an empty past."""
    assert [] == session.execute(history(Note, "none")).all()
    assert [] == session.execute(blame(Note, "none")).all()


@pytest.fixture
def reader(shared_database: Database) -> Iterator[str]:
    """A role that may read nothing."""
    with shared_database.engine.begin() as connection:
        connection.execute(sa.text("CREATE ROLE bad_reader"))
    yield "bad_reader"
    with shared_database.engine.begin() as connection:
        connection.execute(sa.text("DROP ROLE bad_reader"))


def test_a_role_that_may_not_read(session: Session, reader: str) -> None:
    """The server's error names the audit table; export says what to grant."""
    for ask in (history(Note, "a"), as_of(Note, AuditId(1)), blame(Note, "a")):
        session.execute(sa.text(f"SET LOCAL ROLE {reader}"))
        with pytest.raises(sa.exc.ProgrammingError, match=r"permission denied.*bad_note_audit"):
            session.execute(ask)
        session.rollback()
    session.execute(sa.text(f"SET LOCAL ROLE {reader}"))
    with pytest.raises(ReadingError, match=r"may not read 'bad_note_audit'.*grants SELECT on it"):
        list(export(session.connection(), Note))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("ALTER TABLE bad_note_audit DROP COLUMN text", r"is not as the model says.*text"),
        ("ALTER TABLE bad_note_audit RENAME TO elsewhere", r"there is no audit table"),
    ],
)
def test_a_trail_that_changed(session: Session, change: str, message: str) -> None:
    """Export of a trail that is not as the model says tells what to do; a new column is shown."""
    session.execute(sa.text(change))
    with pytest.raises(ReadingError, match=message):
        list(export(session.connection(), Note))
    session.rollback()
    session.execute(sa.text("INSERT INTO bad_note VALUES ('a', 'x')"))
    session.execute(sa.text("ALTER TABLE bad_note_audit ADD COLUMN text__json JSON"))
    session.commit()
    (line,) = export(session.connection(), Note)
    assert {"text__json": None} == json.loads(line.text)["dropped"]


@pytest.mark.parametrize("when", ["2026-13-45", "now", None, 1.5, True])
def test_a_malformed_time(when: object) -> None:
    """What is no moment is refused before anything is sent."""
    with pytest.raises(ReadingError, match="is no moment; write a datetime, AuditId"):
        as_of(Note, when)  # type: ignore[call-overload]
