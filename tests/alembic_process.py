"""An Alembic project in a process of its own: env.py may do what cannot be undone in this one.

Other tools register themselves for ever when they are imported. Each command runs in a fork of a
process that has imported Alembic and no tool's hooks, so it costs little and begins afresh.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.conftest import Database
from tests.forks import Forks, forks
from tests.project import TEMPLATE

# Of the other tools only what registers nothing before it is asked to.
IMPORTS = """
import sqlalchemy.orm, psycopg2
try:
    import alembic.command, sqlalchemy_declarative_extensions.dialects.postgresql
except ImportError:
    pass
"""

INI = """\
[alembic]
script_location = %(here)s
path_separator = os
"""

ENV = """\
import runpy
from pathlib import Path

import sqlalchemy as sa
from alembic import context

url = %r
target_metadata = runpy.run_path(str(Path(__file__).with_name("models.py")))["metadata"]
options = {}

%s

connection = sa.create_engine(url, poolclass=sa.NullPool).connect()
context.configure(
    connection=connection,
    target_metadata=target_metadata,
    autogenerate_plugins=["alembic.autogenerate.*", "alembic_audit"],
    **options,
)
with context.begin_transaction():
    context.run_migrations()
connection.close()
"""


class AlembicFailed(Exception):
    """A command failed; the text is what it printed."""


class Alembic:
    """The alembic command, run in forks of one process."""

    def __init__(self, running: Forks) -> None:
        self._forks = running

    def __call__(self, directory: Path, command: str) -> str:
        """Return what a command printed, with the alembic.ini of a directory.

        Raises:
            AlembicFailed: It failed.
        """
        ini = str(directory / "alembic.ini")
        code, printed = self._forks.run(directory, "alembic", "-c", ini, *command.split())
        if code:
            raise AlembicFailed(printed)
        return printed


@contextmanager
def alembic() -> Iterator[Alembic]:
    """Run the process."""
    with forks(IMPORTS) as running:
        yield Alembic(running)


class ProcessProject:
    """An Alembic project over one database; models are the text of models.py.

    Args:
        path: An empty directory.
        database: What the project migrates.
        alembic: What runs the commands.
        env: Lines of env.py.
    """

    def __init__(self, path: Path, database: Database, alembic: Alembic, env: str = "") -> None:
        (path / "versions").mkdir()
        (path / "alembic.ini").write_text(INI)
        (path / "script.py.mako").write_text(TEMPLATE)
        self.path = path
        self.engine = database.engine
        self.url = database.url().render_as_string(hide_password=False)
        self.alembic = alembic
        self.count = 0
        self.configure(env)

    def configure(self, env: str) -> None:
        """Write env.py anew, with these lines before `context.configure(..., **options)`."""
        (self.path / "env.py").write_text(ENV % (self.url, env))

    def run(self, command: str) -> str:
        """Return what the alembic command printed; raises AlembicFailed."""
        return self.alembic(self.path, command)

    def revision(self, models: str) -> str:
        """Autogenerate the next revision; return the bodies of upgrade() and downgrade()."""
        self.declare(models)
        self.count += 1
        self.run(f"revision --autogenerate -m step --rev-id {self.count:04}")
        text = (self.path / "versions" / f"{self.count:04}_step.py").read_text()
        return text[text.index("def upgrade") :]

    def declare(self, models: str) -> None:
        (self.path / "models.py").write_text(models)

    def check(self, models: str) -> None:
        self.declare(models)
        assert self.run("check").endswith("No new upgrade operations detected.\n")

    def migrate(self, models: str) -> str:
        """Autogenerate, upgrade, and see that nothing differs any more."""
        text = self.revision(models)
        self.run("upgrade head")
        self.check(models)
        return text

    def execute(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.execute(sa.text(statement))

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.text(statement))]
