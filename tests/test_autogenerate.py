"""What autogenerate writes, and what becomes of it: up, down and up again, online and offline."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.catalogs import snapshot
from tests.conftest import Database
from tests.journey import EMPTY, golden, psql
from tests.project import Project
from tools import postgres

PLAIN = {"enabled": True}


def nothing() -> sa.MetaData:
    return sa.MetaData()


def models(
    options: dict[str, Any] | None = None, *columns: str, zone: bool = False
) -> Callable[[], sa.MetaData]:
    """Return what makes the models: one table, audited if there are options."""

    def make() -> sa.MetaData:
        metadata = sa.MetaData()
        more: list[Any] = [sa.Column(name, sa.Text) for name in columns]
        if zone:
            sa.Table("zone", metadata, sa.Column("id", sa.Integer, primary_key=True))
            more.append(sa.Column("zone_id", sa.ForeignKey("zone.id"), nullable=False))
        sa.Table(
            "account",
            metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("email", sa.String(80), nullable=False),
            *more,
            info={} if options is None else {"audit.options": options},
        )
        return metadata

    return make


def with_setting() -> dict[str, Any]:
    return {
        "enabled": True,
        "session_settings": [sa.Column("username", sa.String(20), nullable=False)],
        "operations": ["update", "delete"],
        "skip_unchanged": True,
        "changed_columns": True,
    }


@dataclass(frozen=True)
class Case:
    """One step of a model; `writes` fill the trail, `records` is what it then holds."""

    name: str
    before: Callable[[], sa.MetaData]
    after: Callable[[], sa.MetaData]
    writes: tuple[str, ...] = ()
    select: str = "audit_operation, id, email"
    records: list[tuple[Any, ...]] = field(default_factory=list)


INSERT = "INSERT INTO account (id, email) VALUES (1, 'a@x')"
CASES = [
    Case(
        "new_table",
        nothing,
        models(PLAIN, zone=True),
        ("INSERT INTO zone VALUES (7)", "INSERT INTO account VALUES (1, 'a@x', 7)"),
        "audit_operation, id, email, zone_id",
        [("I", 1, "a@x", 7)],
    ),
    Case(
        "existing_table",
        models(),
        models(PLAIN),
        (INSERT, "DELETE FROM account"),
        records=[("I", 1, "a@x"), ("D", 1, "a@x")],
    ),
    Case(
        "add_column",
        models(PLAIN),
        models(PLAIN, "note"),
        (INSERT, "UPDATE account SET note = 'n'"),
        "audit_operation, id, email, note",
        [("I", 1, "a@x", None), ("U", 1, "a@x", "n")],
    ),
    Case(
        "drop_column",
        models(PLAIN, "note"),
        models(PLAIN),
        (INSERT,),
        "audit_operation, id, email, note",
        [("I", 1, "a@x", None)],
    ),
    Case(
        "change_options",
        models(PLAIN),
        models(with_setting()),
        (
            "SET audit.username = 'joe'",
            INSERT,
            "UPDATE account SET email = email",
            "UPDATE account SET email = 'b@x'",
            "TRUNCATE account",
        ),
        "audit_operation, id, email, audit_username, audit_changed_columns",
        [("U", 1, "b@x", "joe", ["email"])],
    ),
    Case("stop_auditing", models(PLAIN), models(), (INSERT,)),
    Case("drop_table", models(PLAIN), nothing),
]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def project_before(case: Case, path: Path, database: Database, driver: str = "psycopg2") -> Project:
    project = Project(path, database, driver)
    if case.before is not nothing:
        project.migrate(case.before())
    return project


def records(project: Project, case: Case) -> list[tuple[Any, ...]]:
    return project.rows(f"SELECT {case.select} FROM account_audit ORDER BY audit_id")


@each_case
def test_text(case: Case, tmp_path: Path, database: Database) -> None:
    """The whole of both functions is as in the golden file; a second autogenerate is empty."""
    project = project_before(case, tmp_path, database)

    actual = project.migrate(case.after())

    golden(case.name, actual)
    assert EMPTY == project.revision(case.after())


@each_case
def test_up_down_up(case: Case, tmp_path: Path, database: Database, driver: str) -> None:
    """While the trail is empty, downgrade leaves no trace, and upgrade makes the same again."""
    project = project_before(case, tmp_path, database, driver)
    before = snapshot(project.engine)
    project.migrate(case.after())
    after = snapshot(project.engine)

    project.downgrade()
    assert before == snapshot(project.engine)

    project.upgrade()
    assert after == snapshot(project.engine)
    project.check(case.after())


@each_case
def test_down_to_base(case: Case, tmp_path: Path, database: Database) -> None:
    """Step by step to base, and nothing is left."""
    project = Project(tmp_path, database)
    empty = snapshot(project.engine)
    if case.before is not nothing:
        project.migrate(case.before())
    project.migrate(case.after())

    project.downgrade("base")

    assert empty == snapshot(project.engine)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.records], ids=lambda case: case.name
)
def test_records(case: Case, tmp_path: Path, database: Database, driver: str) -> None:
    """Writes are recorded; downgrade keeps the records; upgraded again, the trail goes on."""
    project = project_before(case, tmp_path, database, driver)
    project.migrate(case.after())

    project.execute(*case.writes)
    assert case.records == records(project, case)

    project.downgrade()
    assert case.records == records(project, case)

    project.upgrade()
    project.check(case.after())
    if "account" in case.before().tables:
        project.execute("DELETE FROM account")
    kept = records(project, case)
    project.execute(*case.writes)
    assert kept + case.records == records(project, case)


def test_stopped(tmp_path: Path, database: Database) -> None:
    """Stopping ends the recording and keeps the records; the downgrade records again."""
    project = Project(tmp_path, database)
    project.migrate(models(PLAIN)())
    project.execute(INSERT)
    project.migrate(models()())

    project.execute("UPDATE account SET email = 'b@x'")
    expected = [("I", 1, "a@x")]
    assert expected == project.rows("SELECT audit_operation, id, email FROM account_audit")

    project.downgrade()
    project.execute("DELETE FROM account")
    expected.append(("D", 1, "b@x"))
    assert expected == project.rows(
        "SELECT audit_operation, id, email FROM account_audit ORDER BY audit_id"
    )


def test_dropped_with_records(tmp_path: Path, database: Database) -> None:
    """An audited table that is dropped leaves its trail; created again, the trail goes on."""
    project = Project(tmp_path, database)
    project.migrate(models(PLAIN)())
    project.execute(INSERT)
    project.migrate(nothing())
    expected = [("I", 1, "a@x")]
    assert expected == project.rows("SELECT audit_operation, id, email FROM account_audit")

    project.downgrade()
    project.execute(INSERT)

    assert expected * 2 == project.rows("SELECT audit_operation, id, email FROM account_audit")


@each_case
def test_offline(
    case: Case, tmp_path: Path, server: postgres.Server, database: Database, twin: Database
) -> None:
    """What --sql writes, run by psql, makes the database that the online migration makes."""
    project = project_before(case, tmp_path, database)
    steps = project.count
    before = snapshot(database.engine)
    project.migrate(case.after())
    after = snapshot(database.engine)
    script = tmp_path / "script.sql"

    psql(server, twin, script, project.sql("upgrade", "head"))
    assert after == snapshot(twin.engine)

    last, former = f"{project.count:04}", f"{steps:04}" if steps else "base"
    psql(server, twin, script, project.sql("downgrade", f"{last}:{former}"))
    assert before == snapshot(twin.engine)

    again = project.sql("upgrade", f"{former}:{last}" if steps else "head")
    if not steps:  # which Alembic creates from base in any case, and drops in some versions
        again = f"DROP TABLE IF EXISTS alembic_version;\n{again}"
    psql(server, twin, script, again)
    assert after == snapshot(twin.engine)
