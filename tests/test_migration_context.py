"""Who changes rows in a migration: configure(audit_context=...) and op.set_audit_context."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.util import CommandError

from alembic_audit.errors import SettingError
from tests.catalogs import snapshot
from tests.conftest import Database
from tests.journey import psql
from tests.project import Project
from tools import postgres

CHANGE = "op.execute(\"UPDATE account SET email = email || '!'\")"


def models(required: bool = True) -> sa.MetaData:
    metadata = sa.MetaData()
    sa.Table(
        "account",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.Text),
        info={
            "audit.options": {
                "enabled": True,
                "session_settings": [
                    sa.Column("username", sa.Text, nullable=not required),
                    sa.Column("ticket", sa.Integer),
                ],
            }
        },
    )
    return metadata


def started(path: Path, database: Database, driver: str = "psycopg2", **configure: Any) -> Project:
    """Return a project with a trail and a row, whose env.py runs migrations by our function."""
    project = Project(path, database, driver, **configure)
    env = path / "env.py"
    text = env.read_text()
    text = text.replace("context.run_migrations()", "alembic_audit.run_migrations(context)")
    text = "\n".join(line for line in text.splitlines() if "check_trails" not in line)
    env.write_text(text)
    project.migrate(models())
    project.execute("SET LOCAL audit.username = 'app'", "INSERT INTO account VALUES (1, 'a')")
    return project


def records(project: Project) -> list[tuple[Any, ...]]:
    return project.rows(
        "SELECT audit_operation, audit_username, audit_ticket, email FROM account_audit"
        " ORDER BY audit_id"
    )


FIRST = ("I", "app", None, "a")


@pytest.mark.parametrize("per_migration", [False, True])
def test_data_migrations_are_attributed(
    per_migration: bool, tmp_path: Path, database: Database, driver: str
) -> None:
    """Every transaction of the migrations has the values; the connection keeps none."""
    project = started(
        tmp_path,
        database,
        driver,
        audit_context={"username": "O'Brien % :x", "ticket": 7},
        transaction_per_migration=per_migration,
    )
    project.write(CHANGE, CHANGE)
    project.write(CHANGE, CHANGE)
    project.upgrade()
    project.downgrade()

    who = ("U", "O'Brien % :x", 7)
    assert [FIRST, (*who, "a!"), (*who, "a!!"), (*who, "a!!!")] == records(project)


def test_a_callable(tmp_path: Path, database: Database) -> None:
    """A callable is asked when migrations run."""
    asked: list[int] = []

    def who() -> dict[str, Any]:
        asked.append(1)
        return {"username": f"deploy {len(asked)}"}

    project = started(tmp_path, database, audit_context=who)
    before = len(asked)
    project.write(CHANGE)
    project.upgrade()

    assert before + 1 == len(asked)
    assert ("U", f"deploy {len(asked)}", None, "a!") == records(project)[-1]


def test_the_operation(tmp_path: Path, database: Database, driver: str) -> None:
    """op.set_audit_context holds over what is configured, to the end of its transaction."""
    project = started(
        tmp_path,
        database,
        driver,
        audit_context={"username": "deploy", "ticket": 7},
        transaction_per_migration=True,
    )
    project.write(f"op.set_audit_context(username='ann')\n    {CHANGE}")
    project.write(CHANGE)
    project.upgrade()

    assert [("U", "ann", 7, "a!"), ("U", "deploy", 7, "a!!")] == records(project)[1:]


def test_snapshot_has_the_context(tmp_path: Path, database: Database) -> None:
    """The records of a snapshot say who took it."""
    project = started(tmp_path, database, audit_context={"username": "deploy"})
    project.write(
        "op.snapshot_audit_table('account', key=['id'], columns=['id', 'email'],"
        " session_settings={'username': 'required', 'ticket': 'nullable'})"
    )
    project.upgrade()

    assert [FIRST, ("S", "deploy", None, "a")] == records(project)


@pytest.mark.parametrize("per_migration", [False, True])
def test_offline(
    per_migration: bool, tmp_path: Path, server: postgres.Server, database: Database
) -> None:
    """With --sql the script sets the values."""
    project = started(
        tmp_path,
        database,
        audit_context={"username": "O'Brien \\ % :x", "ticket": 7},
        transaction_per_migration=per_migration,
    )
    project.write(CHANGE)
    project.write(f"op.set_audit_context(username='ann')\n    {CHANGE}")
    script = project.path / "script.sql"
    psql(server, database, script, project.sql("upgrade", "0001:0003"))

    assert [("U", "O'Brien \\ % :x", 7, "a!"), ("U", "ann", 7, "a!!")] == records(project)[1:]


WRONG: dict[str, tuple[Any, str]] = {
    "required": ({"ticket": 7}, "'username', which 'account' requires, has no value"),
    "empty": ({"username": ""}, "'username', which 'account' requires, has no value"),
    "none": ({"username": None}, "'username', which 'account' requires, has no value"),
    "undeclared": ({"username": "a", "usrname": "b"}, "usrname"),
    "type": ({"username": "a", "ticket": "seven"}, "ticket"),
    "nul": ({"username": "a\x00b"}, "username"),
    "name": ({"user-name": "a"}, "user-name"),
    "callable": (lambda: {}, "'username', which 'account' requires, has no value"),
}


@pytest.mark.parametrize("name", WRONG)
def test_stopped_before_the_first_statement(name: str, tmp_path: Path, database: Database) -> None:
    """What does not fit the declared settings stops the upgrade, which has changed nothing."""
    given, message = WRONG[name]
    project = started(tmp_path, database)
    project.config.attributes["configure"] = {"audit_context": given}
    project.write("op.create_table('x', sa.Column('id', sa.Integer))")
    before = snapshot(project.engine)

    with pytest.raises(CommandError, match="audit_context") as caught:
        project.upgrade()

    assert message in str(caught.value)
    assert before == snapshot(project.engine)
    project.check_is_at("0001")


def test_looking_needs_no_required_value(tmp_path: Path, database: Database) -> None:
    """alembic check and revision change no row, and ask for no actor."""
    project = started(tmp_path, database)
    project.config.attributes["configure"] = {"audit_context": {}}

    project.check(models())
    project.revision(models())


def test_the_plain_call_says_that_it_is_not_enough(tmp_path: Path, database: Database) -> None:
    """audit_context with context.run_migrations() would be ignored, so it is refused."""
    project = Project(tmp_path, database, audit_context={"username": "x"})
    project.write("pass")
    project.config.attributes["metadata"] = models()

    with pytest.raises(CommandError, match=r"alembic_audit\.run_migrations\(context\)"):
        project.upgrade()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("op.set_audit_context(**{'a.b': 'x'})", "a.b"),
        ("op.set_audit_context(username='a\\x00')", "username"),
        ("op.set_audit_context(ticket='x')", "ticket"),
        ("op.set_audit_context(usrname='x')", "usrname"),
    ],
)
def test_operation_refuses(call: str, message: str, tmp_path: Path, database: Database) -> None:
    """A wrong name or value is an error of ours, before anything is sent."""
    project = started(tmp_path, database)
    project.write(f"{call}\n    {CHANGE}")

    with pytest.raises(SettingError, match=message):
        project.upgrade()

    assert [FIRST] == records(project)


def test_other_databases(tmp_path: Path, database: Database) -> None:
    """On another database migrations run as they do without us."""
    project = Project(tmp_path, database, audit_context={"username": "x"})
    env = tmp_path / "env.py"
    text = env.read_text().replace(
        "context.run_migrations()", "alembic_audit.run_migrations(context)"
    )
    env.write_text(text)
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'other.db'}", poolclass=sa.NullPool)
    project.config.attributes["engine"] = engine
    project.config.attributes["url"] = "sqlite://"
    project.write("op.create_table('x', sa.Column('id', sa.Integer))")

    project.upgrade()
    assert ["alembic_version", "x"] == sa.inspect(engine).get_table_names()
    assert "set_config" not in project.sql("upgrade", "head")
    assert "CREATE TABLE x (" in project.sql("upgrade", "head")


def test_several_revisions_in_one_transaction(
    tmp_path: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning comes before they begin where trails exist, and its remedy ends it."""
    project = Project(tmp_path, database)
    env = tmp_path / "env.py"
    env.write_text(
        env.read_text().replace("context.run_migrations()", "alembic_audit.run_migrations(context)")
    )

    def warned(destination: str) -> bool:
        caplog.clear()
        (project.downgrade if destination < "0003" else project.upgrade)(destination)
        return "revisions run in one transaction" in caplog.text

    project.config.attributes["metadata"] = metadata = models(required=False)
    project.revision(metadata)
    project.write("pass")
    project.write("op.execute('SELECT 1')")
    assert not warned("0003"), "no trail exists yet"
    assert warned("0001")
    assert "2 revisions run in one transaction" in caplog.text
    assert "transaction_per_migration=True" in caplog.text
    assert warned("0003")
    assert not warned("0002"), "one revision"
    assert not warned("0003"), "one revision"
    project.config.attributes["configure"]["transaction_per_migration"] = True
    assert not warned("0001"), "the remedy"
