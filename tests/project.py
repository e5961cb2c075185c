"""A throw-away Alembic project over one database: models in, migrations and diffs out."""

import io
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import produce_migrations
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tests.conftest import ASYNC, DRIVERS, Database

ENV = """
import asyncio
import alembic_audit
from alembic import context
from sqlalchemy.ext.asyncio import AsyncEngine
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
    def run(connection):
        connection = attributes.get("prepare", lambda connection: connection)(connection)
        context.configure(connection=connection, **kwargs)
        with context.begin_transaction():
            if attributes.get("follow"):
                alembic_audit.run_migrations(context, follow=True)
            else:
                context.run_migrations()
                if attributes.get("check_trails", True):
                    alembic_audit.check_trails(context)
    async def run_async():
        async with attributes["engine"].connect() as connection:
            await connection.run_sync(run)
    if isinstance(attributes["engine"], AsyncEngine):
        asyncio.run(run_async())
    else:
        with attributes["engine"].connect() as connection:
            run(connection)
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


PLAIN = ["alembic.autogenerate.*"]
OURS = [*PLAIN, "alembic_audit"]


def run_proposed(connection: sa.Connection, metadata: sa.MetaData) -> None:
    """Run what autogenerate proposes, without a revision."""
    context = MigrationContext.configure(connection, opts={"autogenerate_plugins": OURS})
    operations = Operations(context)
    made = produce_migrations(context, metadata).upgrade_ops
    assert made is not None
    for op in made.ops:
        for each in getattr(op, "ops", [op]):
            operations.invoke(each)


class Project:
    """One Alembic environment.

    An asynchronous driver runs the migrations; `engine` is psycopg2's then.
    `config.attributes["follow"] = True` lets trails follow the migrations.
    `config.attributes["check_trails"] = False` takes the line out of env.py that refuses to commit
    a broken trail.
    """

    def __init__(
        self, path: Path, database: Database, driver: str = DRIVERS[0], **configure: Any
    ) -> None:
        (path / "versions").mkdir()
        (path / "env.py").write_text(ENV)
        (path / "script.py.mako").write_text(TEMPLATE)
        self.path = path
        name, is_async = driver.removesuffix("_async"), driver in ASYNC
        sync_url = database.url("psycopg2" if is_async else name)
        self.engine = sa.create_engine(sync_url, poolclass=sa.NullPool)
        runs: sa.Engine | AsyncEngine = self.engine
        if is_async:
            runs = create_async_engine(database.url(name), poolclass=sa.NullPool)
        self.config = Config()
        self.config.set_main_option("script_location", str(path))
        self.config.set_main_option("path_separator", "os")
        self.config.attributes.update(engine=runs, url=database.url(name), configure=configure)
        self.count = 0

    def revision(self, metadata: sa.MetaData) -> str:
        """Autogenerate the next revision; return the bodies of upgrade() and downgrade()."""
        self.config.attributes["metadata"] = metadata
        self.count += 1
        command.revision(
            self.config, "step", autogenerate=True, rev_id=f"{self.count:04}", sql=False
        )
        path = self.path / "versions" / f"{self.count:04}_step.py"
        text = path.read_text()
        every = [metadata] if isinstance(metadata, sa.MetaData) else metadata
        tables = [table for one in every for table in one.tables.values()]
        for column in (column for table in tables for column in table.columns):
            kind = column.type
            is_there = isinstance(kind, postgresql.ENUM) and not kind.create_type
            is_there = is_there and not column.table.info.get("audit.is_audit_table")
            if is_there and "create_type" not in repr(kind):
                # The repr of SQLAlchemy 2.0, which Alembic writes, leaves that out.
                text = text.replace(repr(kind), repr(kind)[:-1] + ", create_type=False)")
                path.write_text(text)
                break
        return text[text.index("def upgrade") :]

    def write(self, upgrade: str, downgrade: str = "pass") -> None:
        """Write the next revision by hand."""
        former, self.count = self.count, self.count + 1
        (self.path / "versions" / f"{self.count:04}_step.py").write_text(
            "from alembic import op\nimport sqlalchemy as sa\n"
            f"revision = '{self.count:04}'\n"
            f"down_revision = {f'{former:04}' if former else None!r}\n\n\n"
            f"def upgrade():\n    {upgrade}\n\n\ndef downgrade():\n    {downgrade}\n"
        )
        self.config.attributes.setdefault("metadata", sa.MetaData())

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

    def differences(self, metadata: sa.MetaData) -> list[Any]:
        """Return what autogenerate would change, whatever revision the database is at."""
        opts = {
            "target_metadata": metadata,
            "autogenerate_plugins": OURS,
            **self.config.attributes["configure"],
        }
        with self.engine.connect() as connection:
            context = MigrationContext.configure(connection, opts=opts)
            upgrade = produce_migrations(context, metadata).upgrade_ops
            assert upgrade is not None
            return upgrade.as_diffs()

    def migrate(self, metadata: sa.MetaData) -> str:
        """Autogenerate, upgrade, and see that nothing differs any more."""
        text = self.revision(metadata)
        self.upgrade()
        self.check(metadata)
        return text

    def check_is_at(self, revision: str) -> None:
        """See that the database is at a revision."""
        assert [(revision,)] == self.rows("SELECT version_num FROM alembic_version")

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
