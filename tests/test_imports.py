"""What importing the package needs, and how comparing is switched on."""

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.util import CommandError

import alembic_audit
from tests.conftest import Database
from tests.project import ENV, Project

PACKAGE = Path(alembic_audit.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
)

NOTHING_ELSE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        unwanted = ("alembic", "asyncpg", "fastapi", "flask", "greenlet", "rich", "starlette")
        if root in unwanted or root.startswith("psycopg"):
            raise ImportError(f"{name} was imported")
sys.meta_path.insert(0, Refuse())

import sqlalchemy as sa
import alembic_audit
from alembic_audit import audited, enable
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

enable()

class Base(DeclarativeBase):
    pass

@audited()
class Account(Base):
    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)

metadata = sa.MetaData()
sa.Table("t", metadata, sa.Column("id", sa.Integer, primary_key=True),
         info={"audit.options": {"enabled": True}})

with alembic_audit.audit_context(metadata):
    alembic_audit.AuditWSGIMiddleware(None), alembic_audit.AuditASGIMiddleware(None)
alembic_audit.set_session_vars, alembic_audit.instrument
print(*sorted(metadata.tables))
refused = [name for name in sys.modules if name.partition(".")[0] in ("alembic", "rich")]
assert not refused, refused
"""


def python(code: str) -> str:
    """Run code in a fresh interpreter, warnings being errors; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=PACKAGE.parent,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_models_need_no_alembic() -> None:
    """Models import the package and declare tables where no Alembic, driver or rich is."""
    assert "t t_audit\n" == python(NOTHING_ELSE)


EACH_FIRST = """
import os, sys
import sqlalchemy  # once for all: it imports neither Alembic nor this package
for name in %r:
    if not (child := os.fork()):
        __import__(name)
        from alembic import op
        op.create_audit_trigger, op.drop_audit_table
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print(name)
"""


def test_any_module_first() -> None:
    """Every module can be the first that a program imports, and the operations exist then."""
    assert 50 < len(MODULES)
    assert "" == python(EACH_FIRST % MODULES)


def test_alembic_first() -> None:
    """`import alembic` alone makes the operations exist."""
    python("from alembic import op\nop.create_audit_trigger, op.drop_audit_column")


def models() -> sa.MetaData:
    metadata = sa.MetaData()
    sa.Table(
        "account",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        info={"audit.options": {"enabled": True}},
    )
    return metadata


def env(project: Project, plugins: str, first: str = "") -> None:
    """Write an env.py with these autogenerate_plugins."""
    line = 'autogenerate_plugins=["alembic.autogenerate.*", "alembic_audit"],'
    assert line in ENV
    (project.path / "env.py").write_text(first + ENV.replace(line, plugins))


def test_plugin_alone(tmp_path: Path, database: Database) -> None:
    """Listed without Alembic's own plugins nothing would be compared: it says what to write."""
    project = Project(tmp_path, database)
    env(project, 'autogenerate_plugins=["alembic_audit"],')

    with pytest.raises(CommandError) as caught:
        project.revision(models())

    assert (
        'autogenerate_plugins lists "alembic_audit" alone, so that nothing would be compared; '
        'write autogenerate_plugins=["alembic.autogenerate.*", "alembic_audit"]'
    ) == str(caught.value)


PROGRAM = """
import sys
from pathlib import Path
from sqlalchemy.engine import make_url
from tests.test_imports import env, models
from tests.project import Project

class Database:
    def url(self, driver):
        return make_url(sys.argv[1])

project = Project(Path(sys.argv[2]), Database(), "psycopg2")
env(project, sys.argv[3], sys.argv[4])
print("BEGIN" + project.revision(models()) + "END")
"""
PLUGIN = 'autogenerate_plugins=["alembic.autogenerate.*", "alembic_audit"],'
ENABLE = "import alembic_audit\nalembic_audit.enable()\nalembic_audit.enable()\n"


def test_each_way_and_both(tmp_path: Path, database: Database) -> None:
    """The plugin, enable() in env.py, and both give the same migration, once."""
    texts = {}
    for name, plugins, first in (
        ("plugin", PLUGIN, ""),
        ("enable", "", ENABLE),
        ("both", PLUGIN, ENABLE),
        ("neither", "", ""),
    ):
        path = tmp_path / name
        path.mkdir()
        # enable() is for the life of a process: each way has one of its own.
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                PROGRAM,
                database.url().render_as_string(hide_password=False),
                str(path),
                plugins,
                first,
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=PACKAGE.parent,
        )
        assert done.returncode == 0, done.stderr
        texts[name] = done.stdout.partition("BEGIN")[2].partition("END")[0]

    assert texts["plugin"].count("op.create_audit_trigger(") == 1
    assert texts["plugin"] == texts["enable"] == texts["both"]
    assert "account_audit" not in texts["neither"]


def test_migrating_imports_no_more_than_it_needs() -> None:
    """`alembic upgrade` has the operations, and neither the ORM nor sqlparse for our sake."""
    code = """
import sys
import alembic.command, alembic.config
assert hasattr(alembic.op, "create_audit_trigger")
print("sqlalchemy.orm" in sys.modules, "sqlparse" in sys.modules)
print(*sorted(name for name in sys.modules if name.startswith("alembic_audit.")))
"""
    others, ours = python(code).splitlines()
    assert "False False" == others
    names = ("errors", "levels", "naming", "operations", "plugin", "retype", "spec", "states")
    packages = {name.split(".")[1] for name in ours.split()}
    assert set(names) == packages


def test_public_names() -> None:
    """Each name that is public can be imported, and no other comes along by itself."""
    assert sorted(alembic_audit.__all__) == sorted(alembic_audit._MODULES)
    for name in alembic_audit.__all__:
        assert getattr(alembic_audit, name) is not None
    assert set(alembic_audit.__all__) <= set(dir(alembic_audit))
    with pytest.raises(AttributeError, match="has no attribute 'audit_tables'"):
        alembic_audit.audit_tables  # noqa: B018
