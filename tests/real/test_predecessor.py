"""A database that sqlalchemy-postgresql-audit 0.5.2 made, in the environment that it needs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.catalogs import snapshot
from tests.conftest import Database
from tests.project import Project
from tests.test_adoption import FIRST, SET, adopting, models, numbers, username

pytestmark = pytest.mark.real

NEEDS = (
    "sqlalchemy-postgresql-audit==0.5.2",
    "sqlalchemy==1.3.24",
    "alembic==1.10.4",
    "psycopg2-binary",
)
SCRIPT = """
import sys
import sqlalchemy as sa
import sqlalchemy_postgresql_audit as predecessor

predecessor.enable()
metadata = sa.MetaData()
sa.Table(
    "account",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("email", sa.Text),
    sa.Column("state", sa.Enum("on", "off", name="state")),
    info={
        "audit.options": {
            "enabled": True,
            "session_settings": [sa.Column("username", sa.String, nullable=False)],
        }
    },
)
engine = sa.create_engine(sys.argv[1])
metadata.create_all(engine)
predecessor.install_audit_triggers(metadata, engine)
for write in (
    "INSERT INTO account (email, state) VALUES ('a', 'on')",
    "UPDATE account SET email = 'b'",
    "DELETE FROM account",
    "INSERT INTO account (email, state) VALUES ('c', 'off')",
):
    with engine.begin() as connection:
        connection.execute("SET LOCAL audit.username = 'ann'")
        connection.execute(write)
"""


def old_python() -> str:
    """Return a Python on which SQLAlchemy 1.3 runs."""
    asked = os.environ.get("ALEMBIC_AUDIT_OLD_PYTHON")
    found = asked or shutil.which("python3.10") or shutil.which("python3.9")
    versions = Path.home() / ".pyenv" / "versions"
    for path in sorted(versions.glob("3.10.*")):
        found = found or str(path / "bin" / "python")
    if not found:
        pytest.skip("SQLAlchemy 1.3 needs Python 3.10 or earlier: set ALEMBIC_AUDIT_OLD_PYTHON")
    return found


@pytest.fixture(scope="module")
def predecessor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the package."""
    path = tmp_path_factory.mktemp("predecessor") / "venv"
    python = path / "bin" / "python"
    subprocess.run([old_python(), "-m", "venv", str(path)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *NEEDS], check=True)
    return python


@pytest.mark.parametrize("layout", ["standard", "classic"])
def test_taken_over(layout: str, predecessor: Path, tmp_path: Path, database: Database) -> None:
    """The records go on under our trigger, and theirs comes back byte for byte."""
    url = database.url()
    place = url.query.get("host") or url.host
    port = f"&port={url.port}" if url.port else ""
    old_url = f"postgresql+psycopg2://{url.username}@/{url.database}?host={place}{port}"
    subprocess.run([str(predecessor), "-c", SCRIPT, old_url], check=True)
    before = snapshot(database.engine)
    project = Project(tmp_path, database)
    metadata = models(
        username(), audit_columns=layout, naming={"audit.setting": "audit_%(setting)s"}
    )

    adopting(project, True)
    project.revision(metadata)
    adopting(project, False)
    project.upgrade()
    project.check(metadata)
    project.execute(SET, "UPDATE account SET email = 'z'")
    if layout == "standard":
        assert [*FIRST, (5, "U", "z", "off")] == numbers(project)
    assert 5 == len(project.rows("SELECT FROM account_audit"))

    project.downgrade()
    after = snapshot(database.engine)
    assert before["functions"] == after["functions"]
    assert before["triggers"] == after["triggers"]
    project.execute(SET, "UPDATE account SET email = 'y'")
    assert 6 == len(project.rows("SELECT FROM account_audit"))
