"""Trails that begin: of new tables in any order, and of tables that have rows or a former trail."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from tests.catalogs import snapshot
from tests.conftest import Database
from tests.journey import BothWays, Journey, history, still_recorded
from tests.project import Project
from tests.test_changes import DELETE, INSERT, ON, UPDATE, account

MOODS = ("calm", "cross")


def references(*foreign_keys: sa.ForeignKey) -> sa.MetaData:
    """A table that refers to one which sorts later, and two that may refer to each other."""
    metadata = sa.MetaData()
    for name, columns in {
        "account": [sa.Column("zone_id", sa.ForeignKey("zone.id"))],
        "desk": [sa.Column("clerk_id", sa.ForeignKey("clerk.id"))],
        "clerk": [sa.Column("desk_id", sa.Integer, *foreign_keys)],
        "zone": [],
    }.items():
        key = sa.Column("id", sa.Integer, primary_key=True)
        sa.Table(name, metadata, key, *columns, info={"audit.options": ON})
    return metadata


def cycle() -> sa.MetaData:
    # Alembic leaves a key with use_alter out where it creates the table, and adds it later.
    return references(sa.ForeignKey("desk.id", use_alter=True, name="boss"))


STAFF = ("INSERT INTO clerk VALUES (2)", "INSERT INTO desk VALUES (3, 2)")
SIT = "UPDATE clerk SET desk_id = 3"


def mood(create_type: bool = True) -> sa.Column[Any]:
    return sa.Column("mood", postgresql.ENUM(*MOODS, name="mood", create_type=create_type))


def drop_type(text: str) -> str:
    """Let the downgrade drop the enum type, which Alembic never does."""
    end = "    # ### end Alembic commands ###\n"
    head, tail = text.rstrip("\n").rsplit(end.rstrip("\n"), 1)
    return f"{head}    op.execute('DROP TYPE mood')\n{end}{tail}"


def level() -> sa.Column[Any]:
    kind = postgresql.DOMAIN("level", sa.Integer, not_null=True, create_type=False)
    return sa.Column("level", kind, nullable=False)


TYPES = (
    "CREATE TYPE mood AS ENUM ('calm', 'cross')",
    "CREATE DOMAIN level AS integer NOT NULL",
)
FULL = "INSERT INTO account VALUES (1, 'a@x', 'calm', 3)"
JOURNEYS = [
    Journey(
        "foreign_keys",
        None,
        references,
        writes_after=("INSERT INTO zone VALUES (7)", "INSERT INTO account VALUES (1, 7)"),
        records=("SELECT audit_operation, id, zone_id FROM account_audit", [("I", 1, 7)]),
    ),
    Journey(
        "foreign_key_cycle",
        references,
        cycle,
        writes_before=STAFF,
        writes_after=(SIT,),
        writes_back=(SIT,),
    ),
    Journey(
        "early_schema",
        None,
        account(mood(), schema_name="aaa"),
        configure={"include_schemas": True},
        edit=drop_type,
        writes_after=("INSERT INTO account VALUES (1, 'a@x', 'calm')",),
        records=("SELECT id, mood FROM aaa.account_audit", [(1, "calm")]),
    ),
    Journey(
        "enum_classic",
        None,
        account(mood(), audit_columns="classic"),
        edit=drop_type,
    ),
    Journey(
        "existing_rows",
        account(mood(False), level(), audited=False),
        account(mood(False), level()),
        setup=TYPES,
        writes_before=(FULL,),
        writes_after=(UPDATE, "ALTER TYPE mood RENAME VALUE 'calm' TO 'cool'", DELETE),
        records=(
            "SELECT audit_operation, mood, level FROM account_audit ORDER BY audit_id",
            [("U", "calm", 3), ("D", "cool", 3)],
        ),
    ),
]


@pytest.mark.parametrize("journey", JOURNEYS, ids=str)
class TestJourneys(BothWays):
    """Each journey, there and back, and the same by --sql."""


GRANTED = "SELECT has_table_privilege('pg_monitor', 'account_audit', 'SELECT')"


def test_begins_again(tmp_path: Path, database: Database) -> None:
    """A trail that was stopped, or kept by a downgrade, goes on, and who may read it still may."""
    project = Project(tmp_path, database)
    project.migrate(account()())
    project.execute(INSERT, "GRANT SELECT ON account_audit TO pg_monitor")

    project.migrate(account(audited=False)())
    project.execute(UPDATE)
    stopped, recorded = snapshot(project.engine), history(project)

    project.migrate(account()())
    assert [(True,)] == project.rows(GRANTED)
    project.downgrade()
    assert stopped == snapshot(project.engine)
    project.upgrade()
    project.execute(DELETE)
    still_recorded(recorded, project)
    rows = "SELECT audit_operation, email FROM account_audit ORDER BY audit_id"
    assert [("I", "a@x"), ("D", "a@x!")] == project.rows(rows)

    project.downgrade("base")
    project.upgrade()
    assert [(True,)] == project.rows(GRANTED)
    assert [("I", "a@x"), ("D", "a@x!")] == project.rows(rows)


def test_schema_of_somebody(tmp_path: Path, database: Database) -> None:
    """A schema goes with the trail only if the migration made it and nothing else is in it."""
    project = Project(tmp_path, database, include_schemas=True)
    models = account(schema_name="aaa")
    project.execute("CREATE SCHEMA aaa")
    assert "audit_schema(" not in project.migrate(models())
    project.downgrade()
    assert "aaa" in snapshot(project.engine)["schemas"]

    project.execute("DROP SCHEMA aaa")
    project.forget()
    project.migrate(models())
    project.execute("CREATE TABLE aaa.somebody (id integer)")
    project.downgrade()
    assert "aaa.somebody" in snapshot(project.engine)["relations"]
    project.upgrade()
    project.execute("DROP TABLE aaa.somebody")
    project.downgrade()
    assert "aaa" not in snapshot(project.engine)["schemas"]


def test_an_owner_without_the_schema(tmp_path: Path, database: Database) -> None:
    """It could not record anything: a migration that would make it so says what to grant."""
    message = r'role pg_monitor owns .* may not use schema "trails", so every write to "public"\.'
    grant = 'GRANT USAGE, CREATE ON SCHEMA "trails" TO pg_monitor'
    moved = account(schema_name="trails")()
    project = Project(tmp_path, database, include_schemas=True)
    project.migrate(account(owner="pg_monitor")())
    project.revision(moved)
    with pytest.raises(sa.exc.ProgrammingError, match=message) as caught:
        project.upgrade()
    assert grant in str(caught.value)
    project.check_is_at("0001")

    made = "op.create_audit_schema('trails')\n"
    project.edit(lambda text: text.replace(made, f"{made}    op.execute({grant!r})\n"))
    project.upgrade()
    project.execute("INSERT INTO account VALUES (1, 'a')")
    assert [("I",)] == project.rows("SELECT audit_operation FROM trails.account_audit")
    project.downgrade("base")

    project.forget()
    project.forget()
    project.revision(account(owner="pg_monitor", schema_name="trails")())
    with pytest.raises(sa.exc.ProgrammingError, match=message):
        project.upgrade()
