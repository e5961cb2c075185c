"""Projects of many shapes: branches, squashed histories, batches, lists of metadata, filters."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from tests.catalogs import snapshot
from tests.conftest import Database
from tests.journey import EMPTY, Journey, Models, history, still_recorded
from tests.project import Project
from tests.test_changes import INSERT, ON, account, setting
from tools import postgres

A, B = sa.Column("a", sa.Text), sa.Column("b", sa.Text)


def mixed(after: bool) -> Models:
    """Return three tables, one not audited; a constraint name moves from the first to the last."""

    def make() -> sa.MetaData:
        metadata = sa.MetaData()
        unique = sa.UniqueConstraint("email", name="one_email")
        tables: dict[str, list[Any]] = {
            "account": [sa.Column("new" if after else "old", sa.Text)],
            "free": [sa.Column("b" if after else "a", sa.Text)],
            "zone": [sa.CheckConstraint("id > 0", name="positive")],
        }
        tables["zone" if after else "account"].append(unique)
        for name, more in tables.items():
            sa.Table(
                name,
                metadata,
                sa.Column("id", sa.Integer, primary_key=True),
                sa.Column("email", sa.String(40 if after and name == "zone" else 20)),
                *more,
                info={} if name == "free" else {"audit.options": ON},
            )
        return metadata

    return make


JOURNEYS = [
    Journey(
        name,
        mixed(after=False),
        mixed(after=True),
        configure=configure,
        writes_before=("INSERT INTO account VALUES (1, 'a', 'o')", "INSERT INTO zone VALUES (1)"),
        writes_after=("UPDATE account SET new = 'n'", "UPDATE zone SET email = 'b'"),
        writes_back=("UPDATE account SET old = 'p'", "UPDATE zone SET email = 'c'"),
    )
    for name, configure in (("mixed", {}), ("mixed_batch", {"render_as_batch": True}))
]
each = pytest.mark.parametrize("journey", JOURNEYS, ids=str)


@each
def test_there_and_back(journey: Journey, tmp_path: Path, database: Database) -> None:
    """The migration, its effect, its reversal, and what is recorded meanwhile."""
    journey.run(tmp_path, database)


@pytest.mark.parametrize("journey", JOURNEYS[1:], ids=str)
def test_offline(
    journey: Journey, tmp_path: Path, server: postgres.Server, database: Database, twin: Database
) -> None:
    """The same by --sql and psql."""
    journey.run_offline(tmp_path, server, database, twin)


def test_branches(tmp_path: Path, database: Database) -> None:
    """Two heads change one trigger: after the merge it records what either added."""
    project = Project(tmp_path, database)
    project.migrate(account()())
    project.execute(INSERT)
    before, recorded = snapshot(project.engine), history(project)
    project.revision(account(A)())
    first = tmp_path / "versions" / "0002_step.py"
    text = first.read_text()
    first.unlink()
    project.revision(account(B)())
    first.write_text(text)
    project.upgrade("heads")
    command.merge(project.config, "heads", rev_id="0004")
    project.upgrade()
    project.count += 1

    both = account(A, B)()
    project.check(both)
    assert EMPTY == project.revision(both)
    project.forget()
    project.execute("UPDATE account SET a = '1', b = '2'")
    rows = "SELECT a, b FROM account_audit ORDER BY audit_id"
    assert [(None, None), ("1", "2")] == project.rows(rows)

    recorded = history(project)
    project.downgrade("0001")
    still_recorded(recorded, project)
    assert before["functions"] == snapshot(project.engine)["functions"]
    assert before["triggers"] == snapshot(project.engine)["triggers"]
    project.upgrade()
    project.check(both)
    still_recorded(recorded, project)


def test_squashed(tmp_path: Path, database: Database, twin: Database) -> None:
    """One migration in place of many makes the same database; stamped, a full one goes on."""
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old, new = Project(tmp_path / "old", database), Project(tmp_path / "new", twin)
    states = (account(), account(A), account(A, session_settings=[setting("who")], always=True))
    for models in states:
        old.migrate(models())
    new.migrate(states[-1]())
    assert snapshot(old.engine) == snapshot(new.engine)

    old.execute(INSERT)
    recorded = history(old)
    for path in (tmp_path / "old" / "versions").glob("*.py"):
        path.unlink()
    (new.path / "versions" / "0001_step.py").rename(old.path / "versions" / "0001_step.py")
    old.count = 1
    command.stamp(old.config, "head", purge=True)
    old.check(states[-1]())
    assert EMPTY == old.revision(states[-1]())
    old.forget()
    old.downgrade("base")
    still_recorded(recorded, old)
    old.upgrade()
    assert snapshot(old.engine) == snapshot(new.engine)
    still_recorded(recorded, old)


def test_list_of_metadata(tmp_path: Path, database: Database) -> None:
    """target_metadata may be a list: each has its own naming convention and defaults."""
    others = sa.MetaData(naming_convention={"audit.table": "%(table_name)s_log"})
    others.info["audit.defaults"] = {"enabled": True, "audit_columns": "classic"}
    sa.Table("other", others, sa.Column("id", sa.Integer, primary_key=True))
    both: Any = [account()(), others]
    project = Project(tmp_path, database)

    project.migrate(both)
    assert EMPTY == project.revision(both)
    project.forget()
    project.execute(INSERT, "INSERT INTO other VALUES (7)")

    assert [("I", 1)] == project.rows("SELECT audit_operation, id FROM account_audit")
    assert [("I", 7)] == project.rows("SELECT audit_operation, id FROM other_log")
    project.downgrade()
    assert set(snapshot(project.engine)["relations"]) >= {
        "public.account_audit",
        "public.other_log",
    }


def leave_out(name: str) -> Any:
    return lambda object_, found, kind, reflected, compare_to: (kind, found) != ("table", name)


def test_table_left_out(tmp_path: Path, database: Database) -> None:
    """A table that include_object leaves out is not audited, and its trail is left alone."""
    others = account(others=account(name="other"))
    project = Project(tmp_path, database)
    project.migrate(account(name="other")())
    before = snapshot(project.engine)
    project.config.attributes["configure"] = {"include_object": leave_out("other")}

    assert "'other'" not in project.migrate(others())
    project.execute("INSERT INTO other (id) VALUES (1)", "DELETE FROM other_audit")
    project.downgrade()
    assert before == snapshot(project.engine)


def test_audit_table_left_out(
    tmp_path: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Where include_object leaves the audit table out there is no trigger, and a warning."""
    project = Project(tmp_path, database, include_object=leave_out("account_audit"))
    with caplog.at_level(logging.WARNING, "alembic_audit"):
        text = project.migrate(account()())
    assert "audit" not in text
    assert (
        caplog.messages
        == [
            "account is not audited: include_object or include_name leaves out its audit table "
            "account_audit"
        ]
        * 2
    )


MODELS = """
import sqlalchemy as sa
first, second = sa.MetaData(), sa.MetaData()
for name, metadata in (("account", first), ("other", second)):
    sa.Table(name, metadata, sa.Column("id", sa.Integer, primary_key=True),
             info={"audit.options": {"enabled": True}})
"""


def test_multidb(tmp_path: Path, database: Database, twin: Database) -> None:
    """Alembic's template for many databases: each has the trails of its own models."""
    ini = tmp_path / "alembic.ini"
    command.init(Config(str(ini), stdout=sys.stderr), str(tmp_path / "scripts"), template="multidb")
    (tmp_path / "models.py").write_text(MODELS)
    text = ini.read_text()
    for given, one in (("dbname", database), ("dbname2", twin)):
        url = one.url().render_as_string(hide_password=False).replace("%", "%%")
        text = text.replace(f"driver://user:pass@localhost/{given}\n", f"{url}\n")
    ini.write_text(text)
    env = tmp_path / "scripts" / "env.py"
    code = env.read_text().replace(
        "target_metadata = {}",
        "import models\ntarget_metadata = {'engine1': models.first, 'engine2': models.second}",
    )
    metadata = "target_metadata=target_metadata.get(name),"
    plugins = "autogenerate_plugins=['alembic.autogenerate.*', 'alembic_audit'],"
    env.write_text(code.replace(metadata, f"{metadata} {plugins}"))

    def alembic(*arguments: str) -> None:
        line = [sys.executable, "-m", "alembic", *arguments]
        subprocess.run(line, cwd=tmp_path, check=True, capture_output=True, text=True)

    empty = snapshot(database.engine)
    alembic("revision", "--autogenerate", "-m", "trails")
    alembic("upgrade", "head")
    alembic("check")
    for one, table in ((database, "account"), (twin, "other")):
        with one.engine.begin() as connection:
            connection.exec_driver_sql(f"INSERT INTO {table} VALUES (7); DELETE FROM {table}")
            trail = connection.exec_driver_sql(f"SELECT audit_operation, id FROM {table}_audit")
            assert [("I", 7), ("D", 7)] == [tuple(row) for row in trail]
            connection.exec_driver_sql(f"TRUNCATE {table}_audit")
    alembic("downgrade", "base")
    assert empty == snapshot(database.engine) == snapshot(twin.engine)
