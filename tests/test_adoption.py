"""A trail that another tool began is taken over by one migration, and given back by another."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.util import CommandError

from tests.catalogs import snapshot
from tests.conftest import Database
from tests.journey import golden, history, psql, still_recorded
from tests.project import Project
from tools import postgres

# The shape of sqlalchemy-postgresql-audit 0.5.2; tests/real/test_predecessor.py runs the package.
PREDECESSOR = (
    "CREATE TYPE state AS ENUM ('on', 'off')",
    "CREATE TABLE account (id serial PRIMARY KEY, email text, state state)",
    "CREATE TABLE account_audit (audit_operation varchar(1) NOT NULL, audit_operation_timestamp"
    " timestamp NOT NULL, audit_current_user varchar(64) NOT NULL, audit_username varchar NOT NULL,"
    " id integer, email text, state state)",
    """CREATE FUNCTION public_account_audit() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      IF current_setting('audit.username', false)::VARCHAR = '' THEN
        RAISE EXCEPTION 'audit.username session setting must be set to a non null/empty value';
      END IF;
      IF (TG_OP = 'DELETE') THEN
        INSERT INTO account_audit (audit_operation, audit_operation_timestamp, audit_current_user,
          audit_username, id, email, state)
        SELECT 'D', clock_timestamp(), current_user, current_setting('audit.username', false),
          OLD.id, OLD.email, OLD.state;
      ELSE
        INSERT INTO account_audit (audit_operation, audit_operation_timestamp, audit_current_user,
          audit_username, id, email, state)
        SELECT left(TG_OP, 1), clock_timestamp(), current_user,
          current_setting('audit.username', false), NEW.id, NEW.email, NEW.state;
      END IF;
      RETURN NULL;\t-- result is ignored since this is an AFTER trigger
    END $$""",
    "CREATE TRIGGER public_account_audit AFTER INSERT OR UPDATE OR DELETE ON account"
    " FOR EACH ROW EXECUTE FUNCTION public_account_audit()",
)

DECLARATIVE_EXTENSIONS = """
import sys
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy_declarative_extensions import declarative_database, register_sqlalchemy_events
from sqlalchemy_declarative_extensions.audit import audit

@declarative_database
class Base(DeclarativeBase):
    pass

@audit()
class Account(Base):
    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    state: Mapped[str] = mapped_column(sa.Enum("on", "off", name="state"))

register_sqlalchemy_events(Base.metadata, functions=True, triggers=True)
Base.metadata.create_all(sa.create_engine(sys.argv[1]))
"""

SET = "SET LOCAL audit.username = 'ann'"
WRITES = (
    SET,
    "INSERT INTO account (email, state) VALUES ('a', 'on')",
    "UPDATE account SET email = 'b'",
    "DELETE FROM account",
    "INSERT INTO account (email, state) VALUES ('c', 'off')",
)


def models(*settings: sa.Column[Any], nullable: bool = True, **options: Any) -> sa.MetaData:
    metadata = sa.MetaData(naming_convention=options.pop("naming", {}))
    sa.Table(
        "account",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.Text if nullable else sa.String, nullable=nullable),
        sa.Column("state", sa.Enum("on", "off", name="state"), nullable=nullable),
        info={"audit.options": {"enabled": True, "session_settings": list(settings), **options}},
    )
    return metadata


def username() -> sa.Column[Any]:
    return sa.Column("username", sa.String, nullable=False)


def adopting(project: Project, yes: bool) -> None:
    arguments = ["audit_adopt=yes"] if yes else []
    project.config.cmd_opts = type("Options", (), {"x": arguments})()


def adopted(project: Project, metadata: sa.MetaData, name: str) -> None:
    """See that a trail is taken over, goes on, and is given back; twice."""
    records, before = history(project), snapshot(project.engine)
    with pytest.raises(CommandError, match="every change would be recorded twice"):
        project.revision(metadata)
    project.count -= 1
    adopting(project, True)
    golden(name, project.revision(metadata))
    adopting(project, False)
    for _ in range(2):
        project.upgrade()
        project.check(metadata)
        still_recorded(records, project)
        count = len(history(project))
        project.execute(SET, "UPDATE account SET email = 'z'")
        assert count + 1 == len(history(project))
        records = history(project)

        project.downgrade()
        now = snapshot(project.engine)
        for kind in ("functions", "triggers"):
            assert before[kind] == now[kind]
        still_recorded(records, project)
        project.execute(SET, "UPDATE account SET email = 'y'")
        assert count + 2 == len(history(project))
        records = history(project)


def numbers(project: Project) -> list[tuple[Any, ...]]:
    # A column of an enum is set aside for one of text.
    return project.rows(
        "SELECT audit_id, audit_operation, email, COALESCE(to_jsonb(a) ->> 'state__state',"
        " state::text) FROM account_audit AS a ORDER BY audit_id"
    )


FIRST = [(1, "I", "a", "on"), (2, "U", "b", "on"), (3, "D", "b", "on"), (4, "I", "c", "off")]


@pytest.fixture
def predecessor(tmp_path: Path, database: Database) -> Project:
    """A project over what sqlalchemy-postgresql-audit left, with records out of heap order."""
    project = Project(tmp_path, database)
    with database.engine.begin() as connection, connection.connection.cursor() as cursor:
        for statement in PREDECESSOR:
            cursor.execute(statement)
    project.execute(*WRITES)
    project.execute("UPDATE account_audit SET email = email WHERE audit_operation = 'I'")
    return project


def test_predecessor_to_standard(predecessor: Project) -> None:
    """Records are numbered by their time, types are kept, old trigger and new are never both."""
    metadata = models(username())
    adopted(predecessor, metadata, "adopt_predecessor_standard")

    predecessor.upgrade()
    assert FIRST == numbers(predecessor)[:4]
    assert [("timestamp without time zone",), ("text",), ("state",)] == predecessor.rows(
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid ="
        " 'account_audit'::regclass AND (starts_with(attname, 'state') OR"
        " attname = 'audit_operation_timestamp')"
        " ORDER BY attname"
    )


def test_predecessor_to_classic(predecessor: Project) -> None:
    """With the convention of 0.5.2 for settings, the classic layout adds no column at all."""
    metadata = models(
        username(), audit_columns="classic", naming={"audit.setting": "audit_%(setting)s"}
    )
    before = snapshot(predecessor.engine)["columns"]
    adopted(predecessor, metadata, "adopt_predecessor_classic")

    assert before.keys() == snapshot(predecessor.engine)["columns"].keys()


@pytest.mark.skipif(
    find_spec("sqlalchemy_declarative_extensions") is None, reason="the package is not installed"
)
def test_declarative_extensions(tmp_path: Path, database: Database) -> None:
    """Three functions and triggers become one of each; audit_pk and audit_timestamp go on."""
    done = subprocess.run(
        [sys.executable, "-c", DECLARATIVE_EXTENSIONS, str(database.url())],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    project = Project(tmp_path, database)
    for write in WRITES[1:]:  # it records the time when the transaction began
        project.execute(write)
    metadata = models(nullable=False)

    adopted(project, metadata, "adopt_declarative_extensions")

    project.upgrade()
    assert FIRST == numbers(project)[:4]


def test_offline(predecessor: Project, server: postgres.Server, database: Database) -> None:
    """The migration works by --sql and psql as it does online."""
    before = snapshot(database.engine)
    adopting(predecessor, True)
    predecessor.revision(models(username()))
    script = predecessor.path / "script.sql"
    # Alembic made its table when it generated, and makes it again at the beginning of a script.
    predecessor.execute("DROP TABLE IF EXISTS alembic_version")
    psql(server, database, script, predecessor.sql("upgrade", "0001"))
    predecessor.config.cmd_opts = None
    predecessor.check(models(username()))
    psql(server, database, script, predecessor.sql("downgrade", "0001:base"))

    now = snapshot(database.engine)
    assert before["functions"] == now["functions"]
    assert before["triggers"] == now["triggers"]


def test_misspelt(predecessor: Project) -> None:
    """A misspelt permission is an error, not a no."""
    predecessor.config.cmd_opts = type("Options", (), {"x": ["audit_adopt=true"]})()

    with pytest.raises(ValueError, match="must be yes or no, found 'true'"):
        predecessor.revision(models(username()))
