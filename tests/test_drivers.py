"""The whole cycle through each driver, in projects that `alembic init` made."""

import asyncio
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import create_async_engine

from alembic_audit import audit_table, install_audit_triggers, uninstall_audit_triggers
from tests.catalogs import snapshot
from tests.conftest import Database, _database
from tools import postgres

pytestmark = pytest.mark.core

# Name of the driver, the template of `alembic init`.
DRIVERS = {
    "psycopg2": ("psycopg2", "generic"),
    "psycopg": ("psycopg", "generic"),
    "psycopg_async": ("psycopg", "async"),
    "asyncpg": ("asyncpg", "async"),
}
HOSTILE = "a%b:c 'd' \\e $audit$ {f} žluť"
"""What a driver or a template language might take for a parameter, an escape or a quote."""


def first() -> sa.MetaData:
    metadata = sa.MetaData()
    account = sa.Table(
        "account",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.String),
        sa.Column("secret", sa.LargeBinary, info={"audit": "hash"}),
    )
    audit_table(account, session_settings=[sa.Column("username", sa.Text)])
    hostile = sa.Table(
        f"{HOSTILE} t",
        metadata,
        sa.Column(f"{HOSTILE} k", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column(f"{HOSTILE} v", sa.Text),
        schema="other",
    )
    audit_table(hostile, changed_columns=True)
    return metadata


def second() -> sa.MetaData:
    metadata = first()
    del metadata.tables["account"].info["audit.options"]
    metadata.remove(metadata.tables["account"])
    metadata.remove(metadata.tables["account_audit"])
    account = sa.Table(
        "account",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.String),
        sa.Column("tags", postgresql.ARRAY(sa.Text)),
    )
    audit_table(
        account,
        session_settings=[
            sa.Column("username", sa.Text, nullable=False),
            sa.Column("request_id", sa.Uuid),
        ],
        skip_unchanged=True,
    )
    return metadata


@dataclass
class Initialized:
    """A project made by `alembic init`, with the two lines in env.py that a user writes."""

    path: Path
    database: Database
    driver: str
    config: Config = field(init=False)

    def __post_init__(self) -> None:
        name, template = DRIVERS[self.driver]
        self.config = Config(str(self.path / "alembic.ini"), stdout=io.StringIO())
        command.init(self.config, str(self.path / "migrations"), template=template)
        env = self.path / "migrations" / "env.py"
        text = env.read_text()
        for old, new in (
            # Loggers that are set up would stay set up for every test that follows.
            ("fileConfig(config.config_file_name)", "pass"),
            ("target_metadata = None", 'target_metadata = config.attributes["metadata"]'),
            (
                "target_metadata=target_metadata",
                "target_metadata=target_metadata, include_schemas=True,"
                ' autogenerate_plugins=["alembic.autogenerate.*", "alembic_audit"]',
            ),
        ):
            assert old in text
            text = text.replace(old, new)
        env.write_text(text)
        url = self.database.url(name).render_as_string(hide_password=False)
        self.config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))

    def migrate(self, metadata: sa.MetaData, number: str) -> str:
        """Autogenerate, upgrade, check; return upgrade() and downgrade() of the revision."""
        self.config.attributes["metadata"] = metadata
        with pytest.raises(CommandError, match="New upgrade operations detected"):
            command.check(self.config)
        command.revision(self.config, "step", autogenerate=True, rev_id=number)
        command.upgrade(self.config, "head")
        command.check(self.config)
        text = (self.path / "migrations" / "versions" / f"{number}_step.py").read_text()
        return text[text.index("def upgrade") :]

    def script(self, direction: str, revisions: str) -> str:
        """Return what --sql writes."""
        self.config.output_buffer = io.StringIO()
        getattr(command, direction)(self.config, revisions, sql=True)
        return self.config.output_buffer.getvalue()


def write(database: Database, driver: str, *statements: tuple[str, dict[str, Any]]) -> None:
    """Run statements with bound parameters in one transaction of a driver."""
    name, template = DRIVERS[driver]
    if template == "generic":
        engine = sa.create_engine(database.url(name), poolclass=sa.NullPool)
        with engine.begin() as connection:
            for statement, parameters in statements:
                connection.execute(sa.text(statement), parameters)
        return

    async def run() -> None:
        engine = create_async_engine(database.url(name), poolclass=sa.NullPool)
        async with engine.begin() as connection:
            for statement, parameters in statements:
                await connection.execute(sa.text(statement), parameters)

    asyncio.run(run())


def set_username(name: str) -> tuple[str, dict[str, Any]]:
    return ("SELECT set_config('audit.username', :name, true)", {"name": name})


def records(database: Database) -> list[tuple[Any, ...]]:
    with database.engine.connect() as connection:
        return [
            tuple(row)
            for row in connection.exec_driver_sql(
                "SELECT audit_id, audit_operation, audit_username, id, email FROM account_audit "
                "ORDER BY audit_id"
            )
        ]


def hostile_records(database: Database) -> list[tuple[Any, ...]]:
    audit = first().tables[f"other.{HOSTILE} t_audit"]
    with database.engine.connect() as connection:
        return [
            tuple(row)
            for row in connection.execute(
                sa.select(
                    audit.c.audit_operation,
                    audit.c.audit_changed_columns,
                    audit.c[f"{HOSTILE} k"],
                    audit.c[f"{HOSTILE} v"],
                ).order_by(audit.c.audit_id)
            )
        ]


@dataclass(frozen=True)
class Cycle:
    """What a whole cycle wrote and left."""

    texts: list[str]
    catalogs: list[dict[str, Any]]
    scripts: list[str]
    records: list[list[tuple[Any, ...]]]


def run_cycle(path: Path, database: Database, driver: str) -> Cycle:
    project = Initialized(path, database, driver)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA other")
    cycle = Cycle([], [snapshot(database.engine)], [], [])

    cycle.texts.append(project.migrate(first(), "0001"))
    cycle.catalogs.append(snapshot(database.engine))
    write(
        database,
        driver,
        set_username("ann"),
        ("INSERT INTO account VALUES (1, :email, '\\x00')", {"email": "a%b:c"}),
        ("UPDATE account SET email = :email", {"email": "b"}),
    )
    table = first().tables[f"other.{HOSTILE} t"]
    with database.engine.begin() as connection:
        connection.execute(table.insert().values([1, HOSTILE]))
        connection.execute(table.update().values({f"{HOSTILE} v": "new"}))
    cycle.records.append(records(database))
    cycle.records.append(hostile_records(database))

    cycle.texts.append(project.migrate(second(), "0002"))
    cycle.catalogs.append(snapshot(database.engine))
    write(database, driver, set_username("ben"), ("DELETE FROM account", {}))
    cycle.records.append(records(database))

    for revisions in ("0001", "0001:0002"):
        cycle.scripts.append(project.script("upgrade", revisions))
    for revisions in ("0002:0001", "0001:base"):
        cycle.scripts.append(project.script("downgrade", revisions))

    command.downgrade(project.config, "0001")
    cycle.catalogs.append(snapshot(database.engine))
    with database.engine.begin() as connection:
        connection.exec_driver_sql("TRUNCATE account_audit")
        audit = first().tables[f"other.{HOSTILE} t_audit"]
        connection.execute(audit.delete())
    command.downgrade(project.config, "base")
    cycle.catalogs.append(snapshot(database.engine))
    return cycle


@pytest.fixture(scope="module")
def reference(server: postgres.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cycle]:
    """The cycle of psycopg2, to compare with."""
    with _database(server) as database:
        yield run_cycle(tmp_path_factory.mktemp("reference"), database, "psycopg2")


def test_the_cycle_of_psycopg2(reference: Cycle) -> None:
    """The records are right, and each downgrade puts back what was."""
    assert [
        [(1, "I", "ann", 1, "a%b:c"), (2, "U", "ann", 1, "b")],
        [("I", None, 1, HOSTILE), ("U", [f"{HOSTILE} v"], 1, "new")],
        [
            (1, "I", "ann", 1, "a%b:c"),
            (2, "U", "ann", 1, "b"),
            (3, "D", "ben", 1, "b"),
        ],
    ] == reference.records
    empty, one, two, one_again, empty_again = reference.catalogs
    assert empty == empty_again
    assert one != two
    assert one["functions"] == one_again["functions"]
    assert one["triggers"] == one_again["triggers"]


@pytest.mark.parametrize("driver", ["psycopg", "psycopg_async", "asyncpg"])
def test_every_driver_does_what_psycopg2_does(
    driver: str, database: Database, tmp_path: Path, reference: Cycle
) -> None:
    """The same migrations, catalogs, records and scripts, byte for byte."""
    cycle = run_cycle(tmp_path, database, driver)
    assert reference.texts == cycle.texts
    assert reference.records == cycle.records
    assert reference.catalogs == cycle.catalogs
    assert reference.scripts == cycle.scripts


def test_scripts_of_sql_mode_do_what_migrations_do(
    reference: Cycle, database: Database, tmp_path: Path
) -> None:
    """psql makes of the scripts the catalogs that the migrations made, there and back.

    It reads them from a file, where it would replace what looks like one of its variables.
    """
    if database.server.bindir is None:
        pytest.skip("no psql for this server")
    with database.engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA other")
    catalogs = [snapshot(database.engine)]
    for script in reference.scripts:
        path = tmp_path / "script.sql"
        path.write_text(script)
        options = ("-qX", "-v", "ON_ERROR_STOP=1", "-v", "b=evil", "-v", "c=evil", "-f", str(path))
        database.server.run("psql", *options, database=database.name)
        catalogs.append(snapshot(database.engine))
    empty, one, two, one_again, empty_again = catalogs
    assert reference.catalogs[:3] == [empty, one, two]
    assert one == one_again
    assert empty == empty_again


@pytest.mark.parametrize("driver", sorted(DRIVERS))
def test_create_all_through_every_driver(driver: str, database: Database, reference: Cycle) -> None:
    """create_all, uninstall, install and drop_all make the catalogs that migrations make."""
    name, template = DRIVERS[driver]
    metadata = first()
    with database.engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA other")
    catalogs = []
    steps = (
        metadata.create_all,
        lambda connection: uninstall_audit_triggers(metadata, connection),
        lambda connection: install_audit_triggers(metadata, connection),
        metadata.drop_all,
    )
    if template == "generic":
        engine = sa.create_engine(database.url(name), poolclass=sa.NullPool)
        for step in steps:
            with engine.begin() as connection:
                step(connection)
            catalogs.append(snapshot(database.engine))
    else:

        async def run() -> None:
            async_engine = create_async_engine(database.url(name), poolclass=sa.NullPool)
            for step in steps:
                async with async_engine.begin() as connection:
                    await connection.run_sync(step)
                catalogs.append(snapshot(database.engine))

        asyncio.run(run())
    made, without, again, dropped = catalogs
    assert reference.catalogs[1] == made == again
    assert {} == without["triggers"] == without["functions"]
    assert reference.catalogs[0] == dropped
