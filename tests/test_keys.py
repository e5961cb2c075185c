"""Keys by which records could not be told apart: refused when a trail begins, named afterwards."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from alembic_audit import audit_table, doctor
from alembic_audit.doctor.values import WEAK_KEY
from tests.conftest import Database
from tests.project import Project


def models() -> sa.MetaData:
    metadata = sa.MetaData()
    audit_table(
        sa.Table(
            "account",
            metadata,
            sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("email", sa.Text),
        )
    )
    return metadata


@pytest.fixture
def project(tmp_path: Path, database: Database) -> Iterator[Project]:
    made = Project(tmp_path, database)
    yield made
    made.engine.dispose()


def found(project: Project) -> list[doctor.Finding]:
    with project.engine.connect() as connection:
        return [one for one in doctor.examine(connection) if one.kind == WEAK_KEY]


REFUSED = {
    "nullable": (
        "CREATE TABLE account (id integer UNIQUE, email text)",
        'a column of the key of "public"."account" may be NULL: id',
        "ALTER TABLE account ALTER COLUMN id SET NOT NULL",
    ),
    "deferred": (
        "CREATE TABLE account (id integer PRIMARY KEY INITIALLY DEFERRED, email text)",
        'the key of "public"."account" is INITIALLY DEFERRED',
        "ALTER TABLE account DROP CONSTRAINT account_pkey, ADD PRIMARY KEY (id)",
    ),
}


@pytest.mark.core
@pytest.mark.parametrize("case", REFUSED)
def test_refused_when_a_trail_begins(case: str, project: Project) -> None:
    """The database has another key than the models say; the remedy lets the migration pass."""
    made, message, remedy = REFUSED[case]
    project.execute(made)
    models().tables["account_audit"].create(project.engine)
    project.write("op.create_audit_trigger('account', columns=['id', 'email'], key=['id'])")
    with pytest.raises(sa.exc.DBAPIError) as caught:
        project.upgrade()
    assert message in str(caught.value)
    assert [] == project.rows("SELECT 1 FROM pg_proc WHERE proname = 'public_account_audit'")

    project.execute(remedy)
    project.upgrade()
    project.execute("INSERT INTO account VALUES (1, 'a')")
    assert [("I", 1)] == project.rows("SELECT audit_operation, id FROM account_audit")
    assert [] == found(project)


WEAKENED = {
    "nullable": [
        "ALTER TABLE account DROP CONSTRAINT account_pkey",
        "ALTER TABLE account ADD UNIQUE (id)",
        "ALTER TABLE account ALTER id DROP NOT NULL",
    ],
    "not unique": ["ALTER TABLE account DROP CONSTRAINT account_pkey"],
}


@pytest.mark.parametrize("case", WEAKENED)
def test_named_afterwards(case: str, project: Project) -> None:
    """Somebody takes from the key what made it one."""
    project.migrate(models())
    assert [] == found(project)
    project.execute(*WEAKENED[case])
    (finding,) = found(project)
    assert "id" in finding.what

    cure = finding.cure if case == "nullable" else "ALTER TABLE account ADD PRIMARY KEY (id)"
    project.execute(cure)
    assert [] == found(project)
