"""Rows and names that try to make restoring lose a row, take a wrong value, or break."""

import enum
import warnings
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from alembic_audit import (
    AuditId,
    RestoreError,
    as_of,
    audit_table,
    audited,
    history,
    restore,
    undelete,
    undo,
)
from alembic_audit.retype import aside
from tests.conftest import Database
from tests.test_restoring import image, transaction


class Mood(enum.Enum):
    good = "good"
    bad = "bad"


class MoodType(sa.types.TypeDecorator[Any]):
    impl = sa.Enum(Mood, name="mood")
    cache_ok = True


class Shout(sa.types.TypeDecorator[Any]):
    """Lower case in the application, upper case in a domain of the database."""

    impl = postgresql.DOMAIN("loud", sa.Text)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return None if value is None else value.upper()

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return None if value is None else value.lower()


def made(database: Database, *columns: sa.Column[Any], name: str = "thing") -> sa.Table:
    table = sa.Table(name, sa.MetaData(), *columns)
    audit_table(table)
    table.metadata.create_all(database.engine)
    return table


def test_a_row_that_goes_with_a_deleted_one_is_no_success(database: Database) -> None:
    """A planned row that ON DELETE CASCADE takes along is gone, not updated: all is taken back."""
    metadata = sa.MetaData()
    parent = sa.Table("parent", metadata, sa.Column("id", sa.Integer, primary_key=True))
    child = sa.Table(
        "child",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("parent_id", sa.ForeignKey("parent.id", ondelete="CASCADE")),
        sa.Column("n", sa.Integer),
    )
    for table in (parent, child):
        audit_table(table)
    metadata.create_all(database.engine)
    with Session(database.engine) as session:
        session.execute(sa.text("INSERT INTO parent VALUES (1)"))
        session.execute(sa.text("INSERT INTO child VALUES (1, 1, 1)"))
        session.commit()
        number = transaction(session)
        session.execute(sa.text("INSERT INTO parent VALUES (2)"))
        session.execute(sa.text("UPDATE child SET n = 2"))
        session.commit()
        session.execute(sa.text("UPDATE child SET parent_id = 2"))
        with pytest.raises(RestoreError, match="update of row 1 of 'child' the row is gone"):
            undo(session, number, metadata).execute()
        assert ["(1,2,2)"] == image(session, "child")


@pytest.mark.parametrize(
    "name", ["newest", "own", "first", "last", "audit_first", "then_0", 'An "x" %s :b']
)
def test_any_name_of_a_key(database: Database, name: str) -> None:
    """No name of a key column is taken for one of ours, or for SQL."""
    key = sa.Column(name, sa.Integer, primary_key=True)
    table = made(database, key, sa.Column("n", sa.Integer), name="audit_then")
    with Session(database.engine) as session:
        session.execute(sa.insert(table).values({key: 5, table.c.n: 1}))
        session.commit()
        number = transaction(session)
        session.execute(sa.update(table).values(n=2))
        undo(session, number, table).execute()
        assert ["(5,1)"] == image(session, "audit_then")
        session.execute(sa.delete(table))
        undelete(session, table, 5).execute()
        assert ["(5,1)"] == image(session, "audit_then")


def test_columns_whose_keys_are_names_of_others(database: Database) -> None:
    """A column is written by its name, whatever ``Column(key=...)`` calls it."""
    table = made(
        database,
        sa.Column("id", sa.Integer, primary_key=True, key="ident"),
        sa.Column("a", sa.Integer, key="b"),
        sa.Column("b", sa.Integer, key="a"),
    )
    with Session(database.engine) as session:
        session.execute(sa.text("INSERT INTO thing VALUES (1, 10, 20)"))
        session.execute(sa.text("UPDATE thing SET a = 11, b = 21"))
        restore(session, table, 1, as_of=AuditId(1)).execute()
        assert ["(1,10,20)"] == image(session, "thing")
        session.execute(sa.text("DELETE FROM thing"))
        undelete(session, table, 1).execute()
        assert ["(1,10,20)"] == image(session, "thing")


def test_a_plan_outlives_a_commit_and_not_a_rollback(database: Database) -> None:
    """What was rolled back is no base of a plan; what was committed is."""
    table = made(
        database, sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer)
    )
    with Session(database.engine) as session:
        for end in (session.rollback, session.commit):
            session.execute(sa.text("INSERT INTO thing VALUES (1, 1)"))
            session.execute(sa.text("UPDATE thing SET n = 2"))
            first = session.scalar(sa.text("SELECT min(audit_id) FROM thing_audit")) or 0
            plan = restore(session, table, 1, as_of=AuditId(first))
            end()
            if end == session.rollback:
                with pytest.raises(RestoreError, match="as after a rollback; make another one"):
                    plan.execute()
        plan.execute()
        assert ["(1,1)"] == image(session, "thing")


def test_more_columns_than_a_select_list_holds_twice(database: Database) -> None:
    """A table of 850 columns is shown in parts."""
    names = [f"c{n}" for n in range(850)]
    columns = [sa.Column(name, sa.SmallInteger) for name in names]
    table = made(database, sa.Column("id", sa.Integer, primary_key=True), *columns)
    with Session(database.engine) as session:
        session.execute(sa.text("INSERT INTO thing VALUES (1)"))
        session.execute(sa.update(table).values(dict.fromkeys(names, 1)))
        (row,) = restore(session, table, 1, as_of=AuditId(1)).execute()
        assert names == [one.name for one in row.changes]
        assert {(1, None)} == {(one.before, one.after) for one in row.changes}
        assert [f"(1,{',' * 849})"] == image(session, "thing")


@pytest.mark.parametrize(
    "kind",
    [MoodType(), postgresql.DOMAIN("mood_domain", sa.Enum(Mood, name="mood"))],
    ids=["decorated", "domain"],
)
def test_enums_in_disguise(database: Database, kind: Any) -> None:
    """A native enum under a TypeDecorator or a domain is written as what it is."""
    sa.Enum(Mood, name="mood").create(database.engine)
    table = made(database, sa.Column("id", sa.Integer, primary_key=True), sa.Column("mood", kind))
    with Session(database.engine) as session:
        session.execute(sa.text("INSERT INTO thing VALUES (1, 'bad')"))
        session.execute(sa.text("UPDATE thing SET mood = 'good'"))
        restore(session, table, 1, as_of=AuditId(1)).execute()
        assert ["(1,bad)"] == image(session, "thing")


class Grade(enum.Enum):
    first = "1st"
    second = "2nd"


class GradeType(sa.types.TypeDecorator[Any]):
    """What an application has is not what the enum takes."""

    impl = sa.Enum(Grade, name="grade")
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return None if value is None else Grade[value.lower()]

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return None if value is None else value.name.upper()


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
@pytest.mark.parametrize(
    ("kind", "key"),
    [
        (MoodType(), Mood.bad),
        (postgresql.DOMAIN("mood_domain", sa.Enum(Mood, name="mood")), "bad"),
        (GradeType(), "SECOND"),
        (Shout(), "x"),
        (postgresql.DOMAIN("number", sa.Integer), 7),
    ],
    ids=["decorated", "domain", "converted", "of a domain", "number"],
)
def test_a_key_of_a_type_in_disguise(database: Database, driver: str, kind: Any, key: Any) -> None:
    """It is given, and shown, as the model has it: what ``Session.get`` takes."""
    for made_before in (sa.Enum(Mood, name="mood"), sa.Enum(Grade, name="grade")):
        made_before.create(database.engine)
    table = made(database, sa.Column("id", kind, primary_key=True), sa.Column("n", sa.Integer))
    engine = sa.create_engine(database.url(driver), poolclass=sa.NullPool)
    with Session(engine) as session, warnings.catch_warnings():
        warnings.simplefilter("error")
        session.execute(sa.insert(table).values(id=key, n=1))
        session.execute(sa.update(table).values(n=2))
        (done,) = restore(session, table, key, as_of=AuditId(1)).execute()
        assert ((key,), [(key, 1)]) == (done.key, session.execute(sa.select(table)).all())
        session.execute(sa.delete(table))
        (done,) = undelete(session, table, key).execute()
        assert (key, key) == (done.key[0], done.changes[0].after)
        assert [(key, 1)] == session.execute(sa.select(table)).all()
        newest = session.execute(history(table, key)).first()
        assert newest is not None
        assert [(key, 1)] == session.execute(as_of(table, AuditId(newest.audit_id))).all()


def test_a_past_label_of_a_decorated_enum(database: Database) -> None:
    """A label that the enum does not have any more is shown as text."""
    columns = sa.Column("id", sa.Integer, primary_key=True), sa.Column("grade", GradeType())
    table = made(database, *columns)
    with Session(database.engine) as session:
        session.execute(sa.insert(table).values(id=1, grade="FIRST"))
        session.execute(sa.text("UPDATE thing_audit SET grade = 'third'"))
        session.execute(sa.update(table).values(grade="SECOND"))
        (row,) = restore(session, table, 1, as_of=AuditId(1)).rows
        assert ("SECOND", "third") == (row.changes[0].before, row.changes[0].after)


def test_a_key_with_a_collation(database: Database) -> None:
    """The audit table has none, and PostgreSQL would not know by which to compare."""
    key = sa.Column("id", sa.String(collation="C"), primary_key=True)
    table = made(database, key, sa.Column("n", sa.Integer))
    with Session(database.engine) as session:
        session.execute(sa.text("INSERT INTO thing VALUES ('a', 1), ('A', 1)"))
        session.execute(sa.text("UPDATE thing SET n = 2"))
        restore(session, table, "a", as_of=AuditId(2)).execute()
        assert ["(A,2)", "(a,1)"] == sorted(image(session, "thing"))


def test_a_former_type_of_a_column_with_a_long_name(database: Database) -> None:
    """The shortened name of what was set aside is found: the value is lost, not NULL."""
    name = "n" * 60
    table = made(database, sa.Column("id", sa.Integer, primary_key=True), sa.Column(name, sa.Text))
    with Session(database.engine) as session:
        session.execute(sa.text("INSERT INTO thing VALUES (1, 'x')"))
        former = aside(name, sa.Text())
        session.execute(sa.text(f"ALTER TABLE thing_audit RENAME {name} TO {former}"))
        session.execute(sa.text(f"ALTER TABLE thing_audit ADD {name} text"))
        session.execute(sa.text(f"UPDATE thing SET {name} = 'y'"))
        plan = restore(session, table, 1, as_of=AuditId(1))
        assert [f"it had another type then: {former} 'x'"] == [one.reason for one in plan.lost]
        plan.execute()
        assert ["(1,y)"] == image(session, "thing")


class Base(DeclarativeBase):
    pass


@audited()
class Tag(Base):
    __tablename__ = "tag"

    id: Mapped[str] = mapped_column(sa.CHAR(4), primary_key=True)
    n: Mapped[int] = mapped_column(unique=True)


def test_a_session_forgets_what_it_holds_under_a_key_written_otherwise(
    database: Database,
) -> None:
    """CHAR pads a key, so that the session knows the row by another text than the table."""
    Base.metadata.create_all(database.engine)
    with Session(database.engine, expire_on_commit=False) as session:
        tag = Tag(id="a", n=1)
        session.add(tag)
        session.commit()
        tag.n = 2
        session.commit()
        restore(session, Tag, "a", as_of=AuditId(1)).execute()
        assert 1 == tag.n


def test_what_the_session_cannot_write_is_its_own_error(database: Database) -> None:
    """A flush that fails before the restoration is not called a refusal of it."""
    Base.metadata.create_all(database.engine)
    with Session(database.engine) as session:
        session.add(Tag(id="a", n=1))
        session.commit()
        session.get_one(Tag, "a").n = 2
        session.commit()
        plan = restore(session, Tag, "a", as_of=AuditId(1))
        session.add(Tag(id="b", n=2))
        with pytest.raises(sa.exc.IntegrityError, match="tag_n_key"):
            plan.execute()


class Routed(Session):
    """A session that finds its engine by the table, and has none for no table."""

    engine: sa.Engine

    def get_bind(self, mapper: Any = None, *, clause: Any = None, **more: Any) -> sa.Engine:
        assert mapper is not None or clause is not None
        return self.engine


def test_a_session_that_goes_by_tables(database: Database) -> None:
    """It is asked for no connection without one."""
    Base.metadata.create_all(database.engine)
    with Routed() as session:
        session.engine = database.engine
        session.add(Tag(id="a", n=1))
        session.commit()
        session.get_one(Tag, "a").n = 2
        session.commit()
        restore(session, Tag, "a", as_of=AuditId(1)).execute()
        assert 1 == session.get_one(Tag, "a").n
