"""Roles from which row level security hides rows or records, and partitioned tables."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from alembic_audit import AuditId, RestoreError, audit_table, restore, undelete, undo
from tests.conftest import Database
from tests.test_restoring import image, transaction

ROLE = "restorer_of_some"

metadata = sa.MetaData()
parent = sa.Table(
    "parent",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("tenant", sa.Text),
    sa.Column("n", sa.Integer),
)
child = sa.Table(
    "child",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("tenant", sa.Text),
    sa.Column("parent_id", sa.ForeignKey("parent.id", ondelete="CASCADE")),
)
for table in (parent, child):
    audit_table(table)


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    """Parent 1 was changed twice; a role may do everything, and a policy may hide what it does."""
    metadata.create_all(database.engine)
    names = "parent, child, parent_audit, child_audit"
    with Session(database.engine) as made:
        run(
            made,
            f"CREATE ROLE {ROLE}",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON {names} TO {ROLE}",
            "INSERT INTO parent VALUES (1, 'a', 1)",
            "UPDATE parent SET n = 2",
            "UPDATE parent SET n = 3",
        )
        made.commit()
        yield made
        made.rollback()
        run(made, f"DROP OWNED BY {ROLE}", f"DROP ROLE {ROLE}")
        made.commit()


def run(session: Session, *statements: str) -> None:
    for statement in statements:
        session.execute(sa.text(statement))


def show(session: Session, table: str, condition: str) -> None:
    """Let the role see some rows of a table, and become it."""
    run(
        session,
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY shown ON {table} USING ({condition})",
        f"SET LOCAL ROLE {ROLE}",
    )


@pytest.mark.parametrize("condition", ["audit_id <> 2", "false", "true"])
def test_hidden_records_are_no_trail(session: Session, condition: str) -> None:
    """The row would go back to the record before the hidden one: any policy is a refusal."""
    number = transaction(session)
    run(session, "UPDATE parent SET n = 4")
    show(session, "parent_audit", condition)
    for ask in (
        lambda: restore(session, parent, 1, as_of=AuditId(2)),
        lambda: undelete(session, parent, 1),
        lambda: undo(session, number, parent),
    ):
        with pytest.raises(RestoreError, match="may hide records of 'parent_audit' from the role"):
            ask()
    run(session, "RESET ROLE")
    restore(session, parent, 1, as_of=AuditId(2)).execute()
    assert ["(1,a,2)"] == image(session, "parent"), "a role to which the policy does not apply"


def test_a_hidden_row_is_not_taken_for_a_deleted_one(session: Session) -> None:
    """It is refused, and said that a policy may be the reason."""
    show(session, "parent", "tenant = 'b'")
    for ask in (
        lambda: restore(session, parent, 1, as_of=AuditId(1)),
        lambda: undelete(session, parent, 1),
    ):
        with pytest.raises(RestoreError, match=r"is gone, and .* row level security hides it"):
            ask()
    run(session, "RESET ROLE")
    assert ["(1,a,3)"] == image(session, "parent")


def test_a_row_that_the_role_sees(session: Session) -> None:
    """Row level security of the audited table is no hindrance where the row is shown."""
    show(session, "parent", "tenant = 'a'")
    restore(session, parent, 1, as_of=AuditId(1)).execute()
    assert ["(1,a,1)"] == image(session, "parent")


def test_a_row_that_the_role_may_not_write(session: Session) -> None:
    """A policy that turns a change away makes an error, not silence."""
    run(session, "CREATE POLICY look ON parent FOR SELECT USING (true)")
    show(session, "parent", "tenant = 'b'")
    with pytest.raises(RestoreError, match="the update of row 1 of 'parent' was not recorded"):
        restore(session, parent, 1, as_of=AuditId(1)).execute()
    run(session, "RESET ROLE", "DELETE FROM parent", f"SET LOCAL ROLE {ROLE}")
    with pytest.raises(RestoreError, match="violates row-level security policy"):
        undelete(session, parent, 1).execute()


def test_hidden_children_are_a_conflict(session: Session) -> None:
    """Nobody sees which rows a cascade takes along where a policy hides them."""
    run(session, "INSERT INTO child VALUES (5, 'b', 1), (6, 'a', 1)")
    show(session, "child", "tenant = 'a'")
    plan = restore(session, parent, 1, as_of=AuditId(0))
    assert [
        "child: row level security may hide rows that go along, by parent_id",
        "child 6: parent_id refers to a row that is deleted, and goes along or loses it",
    ] == list(map(str, plan.conflicts))
    with pytest.raises(RestoreError, match="overwrite=True"):
        plan.execute()
    plan.execute(overwrite=True)
    run(session, "RESET ROLE")
    assert ([], []) == (image(session, "parent"), image(session, "child"))


def test_a_role_that_sees_less_than_who_planned(session: Session) -> None:
    """The plan is looked at once more by the role that executes it."""
    plan = restore(session, parent, 1, as_of=AuditId(1))
    show(session, "parent_audit", "audit_id < 3")
    with pytest.raises(RestoreError):
        plan.execute()
    run(session, "RESET ROLE")
    assert ["(1,a,3)"] == image(session, "parent")


# -- partitioned tables ------------------------------------------------------------------------

PARTITIONS = (
    "CREATE TABLE low PARTITION OF item FOR VALUES FROM (0) TO (100)",
    "CREATE TABLE high PARTITION OF item FOR VALUES FROM (100) TO (200)",
)


@pytest.fixture
def item(database: Database) -> sa.Table:
    """A partitioned table with a self-reference, and two partitions."""
    made = sa.Table(
        "item",
        sa.MetaData(),
        sa.Column("id", sa.Integer, sa.Identity(always=True), primary_key=True),
        sa.Column("parent_id", sa.ForeignKey("item.id", ondelete="CASCADE")),
        sa.Column("n", sa.Integer),
        postgresql_partition_by="RANGE (id)",
    )
    audit_table(made)
    made.metadata.create_all(database.engine)
    with Session(database.engine) as session:
        run(session, *PARTITIONS)
        session.commit()
    return made


OVERRIDING = "INSERT INTO item OVERRIDING SYSTEM VALUE VALUES"


def test_rows_of_partitions(database: Database, item: sa.Table) -> None:
    """Rows go back into their partitions, one by one and all that a transaction did."""
    with Session(database.engine) as session:
        run(session, f"{OVERRIDING} (1, NULL, 1), (150, 1, 1)")
        session.commit()
        number = transaction(session)
        run(session, "UPDATE item SET n = 2", "DELETE FROM item", f"{OVERRIDING} (7, NULL, 7)")
        session.commit()
        undo(session, number, item).execute()
        assert ["(1,,1)", "(150,1,1)"] == sorted(image(session, "item"))
        assert ["(150,1,1)"] == image(session, "high")
        run(session, "UPDATE item SET n = 3 WHERE id = 150")
        restore(session, item, 150, as_of=AuditId(2)).execute()
        run(session, "TRUNCATE item")
        undelete(session, item, 1).execute()
        undelete(session, item, 150).execute()
        assert ["(1,,1)", "(150,1,1)"] == sorted(image(session, "item"))
        plan = restore(session, item, 1, as_of=AuditId(0))
        assert "item 150: parent_id refers" in str(plan.conflicts[0])


UNREFERRED = "ALTER TABLE item DROP CONSTRAINT item_parent_id_fkey"


@pytest.mark.parametrize("behind", ["TRUNCATE high", "ALTER TABLE item DETACH PARTITION high"])
def test_what_went_with_a_partition_is_refused(
    database: Database, item: sa.Table, behind: str
) -> None:
    """It is recorded nowhere: by the trail the row is there."""
    with Session(database.engine) as session:
        run(session, f"{OVERRIDING} (150, NULL, 1)", "UPDATE item SET n = 2", UNREFERRED, behind)
        with pytest.raises(RestoreError, match="row 150 of 'item' is gone, and by record 2 it is"):
            undelete(session, item, 150)


def test_a_row_without_its_partition(database: Database, item: sa.Table) -> None:
    """PostgreSQL says that there is no place for it."""
    with Session(database.engine) as session:
        run(session, f"{OVERRIDING} (150, NULL, 1)", "DELETE FROM item", UNREFERRED)
        run(session, "DROP TABLE high")
        plan = undelete(session, item, 150)
        with pytest.raises(RestoreError, match='no partition of relation "item" found for row'):
            plan.execute()
