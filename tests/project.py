"""A throw-away Alembic project over one database: models in, migrations and diffs out."""

import io
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from tests.conftest import Database

ENV = """
import alembic_audit
from alembic import context
attributes = context.config.attributes
kwargs = dict(
    target_metadata=attributes["metadata"],
    autogenerate_plugins=["alembic.autogenerate.*", "alembic_audit"],
    **attributes.get("configure", {}),
)
if context.is_offline_mode():
    context.configure(
        url=attributes["url"], literal_binds=True, dialect_opts={"paramstyle": "named"}, **kwargs
    )
    with context.begin_transaction():
        context.run_migrations()
        if attributes.get("check_trails", True):
            alembic_audit.check_trails(context)
else:
    with attributes["engine"].connect() as connection:
        context.configure(connection=connection, **kwargs)
        with context.begin_transaction():
            context.run_migrations()
            if attributes.get("check_trails", True):
                alembic_audit.check_trails(context)
"""

TEMPLATE = '''"""${message}"""
from alembic import op
import sqlalchemy as sa
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade():
    ${upgrades if upgrades else "pass"}


def downgrade():
    ${downgrades if downgrades else "pass"}
'''


class Project:
    """One Alembic environment; `metadata` is what the models say now.

    `config.attributes["check_trails"] = False` takes the line out of env.py that refuses to commit
    a broken trail.
    """

    def __init__(
        self, path: Path, database: Database, driver: str = "psycopg2", **configure: Any
    ) -> None:
        (path / "versions").mkdir()
        (path / "env.py").write_text(ENV)
        (path / "script.py.mako").write_text(TEMPLATE)
        self.path = path
        self.engine = sa.create_engine(database.url(driver), poolclass=sa.NullPool)
        self.config = Config()
        self.config.set_main_option("script_location", str(path))
        self.config.set_main_option("path_separator", "os")
        self.config.attributes.update(
            engine=self.engine, url=database.url(driver), configure=configure
        )
        self.count = 0

    def revision(self, metadata: sa.MetaData) -> str:
        """Autogenerate the next revision; return the bodies of upgrade() and downgrade()."""
        self.config.attributes["metadata"] = metadata
        self.count += 1
        command.revision(
            self.config, "step", autogenerate=True, rev_id=f"{self.count:04}", sql=False
        )
        text = (self.path / "versions" / f"{self.count:04}_step.py").read_text()
        return text[text.index("def upgrade") :]

    def edit(self, change: Callable[[str], str]) -> str:
        """Change the newest revision as a person would; return both bodies."""
        path = self.path / "versions" / f"{self.count:04}_step.py"
        path.write_text(change(path.read_text()))
        text = path.read_text()
        return text[text.index("def upgrade") :]

    def forget(self) -> None:
        """Delete the newest revision, which was never run."""
        (self.path / "versions" / f"{self.count:04}_step.py").unlink()
        self.count -= 1

    def upgrade(self, revision: str = "head") -> None:
        command.upgrade(self.config, revision)

    def downgrade(self, revision: str = "-1") -> None:
        command.downgrade(self.config, revision)

    def sql(self, direction: str, revisions: str) -> str:
        """Return what `alembic upgrade/downgrade --sql` writes."""
        self.config.output_buffer = io.StringIO()
        getattr(command, direction)(self.config, revisions, sql=True)
        return self.config.output_buffer.getvalue()

    def check(self, metadata: sa.MetaData) -> None:
        """`alembic check`; raises CommandError where something differs."""
        self.config.attributes["metadata"] = metadata
        command.check(self.config)

    def migrate(self, metadata: sa.MetaData) -> str:
        """Autogenerate, upgrade, and see that nothing differs any more."""
        text = self.revision(metadata)
        self.upgrade()
        self.check(metadata)
        return text

    def execute(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(statement)]


def body(text: str) -> str:
    """Return the expected text of a migration, written indented in a test."""
    return textwrap.dedent(text).lstrip("\n")
