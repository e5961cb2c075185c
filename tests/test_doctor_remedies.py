"""What doctor says of an audit table that was changed, and that its remedy makes it healthy."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from alembic_audit import doctor
from alembic_audit.sql.history import rename_omitted_columns
from tests.conftest import Database
from tests.journey import psql
from tests.project import Project
from tools import postgres

CHANGES = {
    "constraint on the audit table": ["ALTER TABLE account_audit ADD CHECK (id < 99)"],
    "default of an audit column": ["ALTER TABLE account_audit ALTER email SET DEFAULT 'x'"],
    "audit_id without a sequence": [
        "ALTER TABLE account_audit ALTER audit_id DROP IDENTITY, ALTER audit_id SET DEFAULT"
        " random() * 1e9"
    ],
    "parent of the audit table": [
        "CREATE TABLE above (email text)",
        "ALTER TABLE account_audit INHERIT above",
    ],
    "column added with a value": [
        "ALTER TABLE account_audit DROP email, ADD email text DEFAULT 'forged'",
        "ALTER TABLE account_audit ALTER email DROP DEFAULT",
    ],
    "records written again": [
        "ALTER TABLE account_audit ALTER email TYPE text USING 'forged'",
    ],
}


def models(length: int = 10, **options: Any) -> sa.MetaData:
    metadata = sa.MetaData()
    sa.Table(
        "account",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("email", sa.Text),
        sa.Column("word", sa.String(length)),
        info={"audit.options": {"enabled": True, "append_only": True, **options}},
    )
    return metadata


@pytest.fixture
def project(tmp_path: Path, database: Database) -> Iterator[Project]:
    """Records of several transactions, one of them of many subtransactions."""
    made = Project(tmp_path, database)
    made.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    made.migrate(models())
    for number in range(3):
        made.execute(f"INSERT INTO account VALUES ({number}, 'a')")
    savepoints = [f"SAVEPOINT x; UPDATE account SET email = '{number}'" for number in range(30)]
    made.execute("; ".join(savepoints))
    made.execute("INSERT INTO account VALUES (9, 'a')")
    yield made
    made.engine.dispose()


def found(project: Project) -> list[doctor.Finding]:
    with project.engine.connect() as connection:
        return [
            one
            for one in doctor.examine(connection)
            if one.kind not in ("runs as a superuser", "powerful role")
        ]


@pytest.mark.core
@pytest.mark.parametrize("kind", CHANGES)
def test_remedy(kind: str, project: Project) -> None:
    """The change is named by its kind, and nothing is left of it when the remedy was done."""
    assert [] == found(project)
    project.execute(*CHANGES[kind])
    (one,) = found(project)
    assert kind == one.kind
    statement = one.cure.partition("; then alembic revision")[0].rpartition("write down why: ")[2]
    project.execute(statement.replace(": why", ": set logged, ticket 7"))
    if "then alembic revision" in one.cure:
        project.migrate(models())
    assert [] == found(project)
    project.execute("INSERT INTO account VALUES (20, 'b')")
    assert [("b",)] == project.rows("SELECT email FROM account_audit WHERE id = 20")


@pytest.mark.core
@pytest.mark.parametrize(
    "statement",
    [
        "VACUUM FULL account_audit",
        "VACUUM (FREEZE) account_audit",
        "CLUSTER account_audit USING account_audit_pkey",
        "REINDEX TABLE CONCURRENTLY account_audit",
        "ALTER TABLE account_audit ADD more text NOT NULL DEFAULT 'x'",
        "UPDATE account SET email = 'x'",
    ],
)
def test_what_is_no_change(statement: str, project: Project) -> None:
    """What an administrator does, and what keeps the records as they are, is no finding."""
    with project.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(statement)
    assert [] == found(project)


def test_a_dump_is_no_change(
    project: Project, server: postgres.Server, twin: Database, tmp_path: Path
) -> None:
    """A restored trail was written by one transaction, and says nothing else of it."""
    script = server.run("pg_dump", database=project.engine.url.database)
    psql(server, twin, tmp_path / "dump.sql", script)
    with twin.engine.connect() as connection:
        kinds = [one.kind for one in doctor.examine(connection)]
    assert "records written again" not in kinds
    assert "column added with a value" not in kinds


def test_an_edit_without_the_guard(project: Project) -> None:
    """Single records that one transaction changed are found among others, as often as it was."""
    for number in (1, 2):
        guards = ("00_audit_account_append_only", "00_audit_account_append_only_row")
        project.execute(
            "ALTER TABLE account_audit DISABLE TRIGGER USER",
            f"UPDATE account_audit SET email = 'x' WHERE audit_operation = 'I' AND id <= {number}",
            *(f'ALTER TABLE account_audit ENABLE ALWAYS TRIGGER "{one}"' for one in guards),
        )
        (one,) = found(project)
        assert "records written again" == one.kind
        statement = one.cure.rpartition("write down why: ")[2]
        project.execute(statement)
        assert [] == found(project)


SILENCE = "COMMENT ON CONSTRAINT account_audit_pkey ON account_audit IS NULL"


def test_a_downgrade_explains_itself(project: Project) -> None:
    """A column that becomes narrower writes records again, and leaves a note which says so."""
    project.migrate(models(20))
    project.execute("INSERT INTO account VALUES (30, 'a', 'b')")
    project.downgrade()
    assert [(10 + 4,)] == project.rows(
        "SELECT atttypmod FROM pg_attribute WHERE attname = 'word'"
        " AND attrelid = 'account_audit'::regclass"
    )
    assert [] == found(project)
    project.execute(SILENCE)
    assert ["records written again"] == [one.kind for one in found(project)]


def test_a_renaming_explains_itself(project: Project) -> None:
    """So do names of columns that records leave out, in a savepoint too."""
    project.migrate(models(sparse_columns=["email"]))
    for word in "abc":
        project.execute(f"UPDATE account SET word = '{word}'")
    statement = rename_omitted_columns('"public"."account_audit"', [("email", "mail")])
    project.execute("SAVEPOINT x", statement.replace("%", "%%"))
    assert [("{mail}",)] == project.rows(
        "SELECT DISTINCT audit_omitted_columns::text FROM account_audit"
        " WHERE audit_omitted_columns IS NOT NULL"
    )
    assert [] == found(project)
    project.execute(SILENCE)
    assert ["records written again"] == [one.kind for one in found(project)]
