"""create_all and drop_all take function and triggers along."""

from pathlib import Path

import sqlalchemy as sa

from alembic_audit import audit_table
from tests.catalogs import snapshot
from tests.conftest import Database
from tests.project import Project


def _metadata() -> sa.MetaData:
    metadata = sa.MetaData()
    account = sa.Table(
        "account",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.String),
    )
    audit_table(account)
    return metadata


def test_create_all_starts_the_trail_and_drop_all_leaves_nothing(database: Database) -> None:
    """What create_all makes records at once, and drop_all leaves no function behind."""
    empty = snapshot(database.engine)
    metadata = _metadata()
    metadata.create_all(database.engine)
    metadata.create_all(database.engine)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO account VALUES (1, 'a')")
        rows = connection.exec_driver_sql(
            "SELECT audit_id, audit_operation, id, email FROM account_audit"
        ).all()
    assert [(1, "I", 1, "a")] == [tuple(row) for row in rows]
    metadata.drop_all(database.engine)
    assert empty == snapshot(database.engine)


def test_create_all_and_a_migration_give_the_same_catalog(
    database: Database, tmp_path: Path
) -> None:
    """A database made by create_all is the one that the first migration makes."""
    metadata = _metadata()
    metadata.create_all(database.engine)
    made = snapshot(database.engine)
    metadata.drop_all(database.engine)
    project = Project(tmp_path, database)
    project.migrate(_metadata())
    project.engine.dispose()
    assert made == snapshot(database.engine)


def test_create_all_on_sqlite_makes_plain_tables() -> None:
    """The same metadata stays usable where there are no PostgreSQL triggers."""
    engine = sa.create_engine("sqlite://")
    metadata = _metadata()
    metadata.create_all(engine)
    assert {"account", "account_audit"} == set(sa.inspect(engine).get_table_names())
    metadata.drop_all(engine)
    assert [] == sa.inspect(engine).get_table_names()
    engine.dispose()
