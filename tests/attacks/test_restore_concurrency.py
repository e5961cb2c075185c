"""Others who write while a plan is made and executed, at each isolation level."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from alembic_audit import AuditId, RestoreError, audit_table, restore, undelete, undo
from tests.conftest import Database
from tests.test_restoring import image, transaction

LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
SNAPSHOT = LEVELS[1:]

metadata = sa.MetaData()
parent = sa.Table(
    "parent",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("n", sa.Integer),
)
child = sa.Table(
    "child",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("parent_id", sa.ForeignKey("parent.id", ondelete="CASCADE")),
)
for table in (parent, child):
    audit_table(table)


@pytest.fixture
def other(database: Database) -> Iterator[Session]:
    """Somebody else; record 1 made parent 1, and record 2 changed it."""
    metadata.create_all(database.engine)
    with Session(database.engine) as session:
        write(session, "INSERT INTO parent VALUES (1, 1)", "UPDATE parent SET n = 2")
        yield session


def write(session: Session, *statements: str) -> None:
    """Run statements, and commit."""
    for statement in statements:
        session.execute(sa.text(statement))
    session.commit()


def at(database: Database, level: str) -> Session:
    return Session(database.engine.execution_options(isolation_level=level))


def sqlstate(error: Any) -> str:
    found: str = getattr(error.orig, "sqlstate", None) or error.orig.pgcode
    return found


def wait_for_a_lock(database: Database) -> None:
    """Wait until somebody waits for a lock."""
    with database.engine.connect() as connection:
        while not connection.scalar(sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
            time.sleep(0.01)


@pytest.mark.parametrize("level", SNAPSHOT)
@pytest.mark.parametrize("theirs", ["UPDATE parent SET n = 3", "DELETE FROM parent"])
def test_a_serialization_failure_is_itself(
    database: Database, other: Session, level: str, theirs: str
) -> None:
    """Who retries transactions by the SQLSTATE sees it, and nothing is half done."""
    with at(database, level) as session:
        plan = restore(session, parent, 1, as_of=AuditId(1))
        write(other, theirs)
        with pytest.raises(sa.exc.OperationalError, match="could not serialize") as caught:
            plan.execute()
        assert "40001" == sqlstate(caught.value)
        session.rollback()
        plan = restore(session, parent, 1, as_of=AuditId(1))
        plan.execute()
        session.commit()
        assert ["(1,1)"] == image(session, "parent")


@pytest.mark.parametrize("theirs", ["UPDATE parent SET n = 3", "DELETE FROM parent"])
def test_a_writer_between_plan_and_execution(
    database: Database, other: Session, theirs: str
) -> None:
    """In READ COMMITTED the plan is refused, and the transaction goes on."""
    with at(database, "READ COMMITTED") as session:
        plan = restore(session, parent, 1, as_of=AuditId(1))
        write(other, theirs)
        with pytest.raises(RestoreError, match="rows of 'parent' changed since the plan was made"):
            plan.execute()
        restore(session, parent, 1, as_of=AuditId(1)).execute()
        session.commit()
        assert ["(1,1)"] == image(session, "parent")


@pytest.mark.parametrize("level", LEVELS)
def test_another_row_under_the_key_of_a_deleted_one(
    database: Database, other: Session, level: str
) -> None:
    """No lock holds the place of a row that is gone: the key is taken, and theirs stays."""
    write(other, "DELETE FROM parent")
    with at(database, level) as session:
        plan = undelete(session, parent, 1)
        write(other, "INSERT INTO parent VALUES (1, 7)")
        said = (
            "changed since the plan" if level == "READ COMMITTED" else "could not serialize|refused"
        )
        with pytest.raises((RestoreError, sa.exc.OperationalError), match=said):
            plan.execute()
        session.rollback()
        assert ["(1,7)"] == image(session, "parent")


@pytest.mark.parametrize("level", LEVELS)
def test_a_child_that_came_since_is_not_taken_along(
    database: Database, other: Session, level: str
) -> None:
    """Planned without conflicts, a deletion takes no row along that came before it is executed."""
    with at(database, level) as session:
        plan = restore(session, parent, 1, as_of=AuditId(0))
        assert () == plan.conflicts
        write(other, "INSERT INTO child VALUES (5, 1)")
        with pytest.raises((RestoreError, sa.exc.OperationalError), match=r"child 5|serialize"):
            plan.execute()
        session.rollback()
        assert (["(1,2)"], ["(5,1)"]) == (image(session, "parent"), image(session, "child"))


@pytest.mark.parametrize("level", LEVELS)
def test_two_who_restore_the_same_row(database: Database, other: Session, level: str) -> None:
    """One does it; the other is told, at once or when it commits."""
    with at(database, level) as one, at(database, level) as two:
        plans = [restore(session, parent, 1, as_of=AuditId(1)) for session in (one, two)]
        plans[0].execute()
        one.commit()
        with pytest.raises((RestoreError, sa.exc.OperationalError)):
            plans[1].execute()
            two.commit()
        two.rollback()
        assert ["(1,1)"] == image(two, "parent")
        assert 3 == two.scalar(sa.text("SELECT count(*) FROM parent_audit"))


def test_a_deadlock_is_itself(database: Database, other: Session) -> None:
    """So is the other way in which PostgreSQL asks to try again."""
    write(other, "INSERT INTO child VALUES (5, 1)")
    with ThreadPoolExecutor(1) as thread, at(database, "READ COMMITTED") as session:
        session.execute(sa.text("SET LOCAL deadlock_timeout = '100ms'"))
        plan = restore(session, parent, 1, as_of=AuditId(1))
        session.execute(sa.text("SELECT FROM child FOR UPDATE"))
        other.execute(sa.text("UPDATE parent SET n = 3"))
        waiting = thread.submit(other.execute, sa.text("UPDATE child SET parent_id = NULL"))
        wait_for_a_lock(database)
        with pytest.raises(sa.exc.OperationalError, match="deadlock detected") as caught:
            plan.execute()
        assert "40P01" == sqlstate(caught.value)
        session.rollback()
        waiting.result()
        other.rollback()


def test_write_skew_is_found_at_the_commit(database: Database, other: Session) -> None:
    """SERIALIZABLE holds for what a plan has read: the restoration is gone with its transaction."""
    write(other, "INSERT INTO parent VALUES (2, 1)", "UPDATE parent SET n = 2 WHERE id = 2")
    with at(database, "SERIALIZABLE") as one, at(database, "SERIALIZABLE") as two:
        total = sa.select(sa.func.sum(parent.c.n))
        assert 4 == one.scalar(total) == two.scalar(total)
        restore(one, parent, 1, as_of=AuditId(1)).execute()
        restore(two, parent, 2, as_of=AuditId(3)).execute()
        one.commit()
        with pytest.raises(sa.exc.OperationalError, match="could not serialize"):
            two.commit()
        two.rollback()
        assert ["(1,1)", "(2,2)"] == image(two, "parent")


def test_autocommit_is_refused(database: Database, other: Session) -> None:
    """Each statement would be a transaction of its own: nothing could be taken back."""
    engine = database.engine.execution_options(isolation_level="AUTOCOMMIT")
    said = "restore in AUTOCOMMIT: it needs one transaction"
    with engine.connect() as connection, pytest.raises(RestoreError, match=said):
        restore(connection, parent, 1, as_of=AuditId(1))


def test_a_read_only_transaction(database: Database, other: Session) -> None:
    """A plan is made there, and its execution refused."""
    engine = database.engine.execution_options(postgresql_readonly=True)
    with Session(engine) as session:
        plan = restore(session, parent, 1, as_of=AuditId(1))
        with pytest.raises(RestoreError, match="read-only transaction"):
            plan.execute()


@pytest.mark.parametrize("level", LEVELS)
def test_an_undo_beside_a_writer(database: Database, other: Session, level: str) -> None:
    """A later change that a snapshot does not show is not overwritten."""
    number = transaction(other)
    write(other, "UPDATE parent SET n = 3")
    with at(database, level) as session:
        plan = undo(session, number, parent)
        write(other, "UPDATE parent SET n = 4")
        with pytest.raises((RestoreError, sa.exc.OperationalError)):
            plan.execute()
        session.rollback()
        plan = undo(session, number, parent)
        assert 1 == len(plan.conflicts)
        assert ["(1,4)"] == image(session, "parent")
