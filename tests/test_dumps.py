"""Dump and restore: what comes back, what does not, and what alembic check says of it."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.util import CommandError

from tests import dumps
from tests.catalogs import snapshot
from tests.conftest import Database
from tests.project import TEMPLATE, Project
from tools import postgres

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def keeper(server: postgres.Server) -> Iterator[None]:
    """The role that owns a trail; it outlives the databases of this module."""
    engine = sa.create_engine(server.url(), poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {dumps.KEEPER}")
    yield
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP ROLE {dumps.KEEPER}")


@pytest.fixture(scope="module")
def source(
    tmp_path_factory: pytest.TempPathFactory, keeper: None, shared_database: Database
) -> Project:
    """A database with every kind of trail, and records in each."""
    if shared_database.server.bindir is None:
        pytest.skip("no pg_dump for this server")
    project = dumps.project_in(tmp_path_factory.mktemp("source"), shared_database)
    dumps.start(project)
    return project


def restore(
    source: Database, target: Database, path: Path, options: str, restored: str = ""
) -> None:
    """Dump one database and restore it to another, by psql or pg_restore."""
    dump = str(path / "dump")
    source.server.run("pg_dump", f"--file={dump}", *options.split(), database=source.name)
    if "--format" in options:
        options = f"--exit-on-error {restored}"
        target.server.run("pg_restore", *options.split(), dump, database=target.name)
    else:
        options = f"-X -q -v ON_ERROR_STOP=1 {restored} -f"
        target.server.run("psql", *options.split(), dump, database=target.name)


FULL = {
    "plain": ("--inserts --load-via-partition-root", ""),
    "custom": ("--format=custom", "--single-transaction"),
    "parallel": ("--format=directory --jobs=2", "--jobs=2"),
}


@pytest.mark.core
@pytest.mark.parametrize("way", FULL)
def test_full(
    way: str, source: Project, shared_database: Database, database: Database, tmp_path: Path
) -> None:
    """Everything comes back, ENABLE ALWAYS too; no record is doubled, and the trail goes on."""
    restore(shared_database, database, tmp_path, *FULL[way])
    project = dumps.same_project(source, tmp_path / "p", database)
    assert dumps.rows(source) == dumps.rows(project)
    assert snapshot(source.engine) == snapshot(project.engine)
    project.check(dumps.models())
    dumps.check_that_it_goes_on(project)


WITHOUT = {
    "--no-comments": {},
    "--no-owner": {
        "vault": [
            f"owner changed: {what} belongs to {{me}}, not to {dumps.KEEPER}"
            for what in (
                'function "public"."public_vault_audit"',
                'audit table "public"."vault_audit"',
            )
        ]
    },
    "--no-privileges": {
        name: [f'EXECUTE granted: PUBLIC may execute "public"."public_{name}_audit"']
        for name in dumps.TRAILS
    },
}


@pytest.mark.parametrize("option", WITHOUT)
def test_without(
    option: str, source: Project, shared_database: Database, database: Database, tmp_path: Path
) -> None:
    """What was left out is named, mended by a migration, and no record depends on it."""
    restore(shared_database, database, tmp_path, option)
    project = dumps.same_project(source, tmp_path / "p", database)
    me = project.engine.url.username
    assert {
        table: [detail.format(me=me) for detail in details]
        for table, details in WITHOUT[option].items()
    } == dumps.found(project)
    assert dumps.rows(source) == dumps.rows(project)
    dumps.check_that_it_goes_on(project)
    project.migrate(dumps.models())
    for kind in ("functions", "triggers"):
        assert snapshot(source.engine)[kind] == snapshot(project.engine)[kind]


def test_schema_only(
    source: Project, shared_database: Database, database: Database, tmp_path: Path
) -> None:
    """The revision is data, and has to be stamped; then nothing differs, and numbers begin at 1."""
    restore(shared_database, database, tmp_path, "--schema-only")
    project = dumps.same_project(source, tmp_path / "p", database)
    with pytest.raises(CommandError, match="Target database is not up to date"):
        project.check(dumps.models())
    command.stamp(project.config, "head")
    project.check(dumps.models())
    assert snapshot(source.engine) == snapshot(project.engine)
    dumps.check_that_it_goes_on(project)
    assert [(1,)] == project.rows("SELECT audit_id FROM account_audit")


def test_some_tables(
    source: Project, shared_database: Database, database: Database, tmp_path: Path
) -> None:
    """Functions are not dumped with a table, so its triggers are not restored, and missed."""
    tables = "--table=account* --table=alembic_version"
    with pytest.raises(postgres.ServerError, match=r"public_account_audit\(\) does not exist"):
        restore(shared_database, database, tmp_path, tables)
    dump = str(tmp_path / "dump")
    project = dumps.same_project(source, tmp_path / "p", database)
    project.execute("DROP TABLE account, account_audit, alembic_version")
    database.server.run("psql", "-Xq", "-f", dump, database=database.name)
    assert dumps.rows(source, "account") == dumps.rows(project, "account")
    (difference,) = project.differences(dumps.models("account"))
    assert ("create_audit_trigger", "account") == difference[:2]


def test_default_privileges_of_the_target(
    source: Project, shared_database: Database, database: Database, tmp_path: Path
) -> None:
    """They are handed out on what is restored: a dump says nothing of privileges that are usual."""
    project = dumps.same_project(source, tmp_path / "p", database)
    project.execute(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {dumps.KEEPER}")
    restore(shared_database, database, tmp_path, "")
    may = f"SELECT has_table_privilege('{dumps.KEEPER}', 'ledger_audit', 'INSERT')"
    assert [(True,)] == project.rows(may)
    assert {} == dumps.found(project)
    project.execute(f"REVOKE ALL ON ledger_audit FROM {dumps.KEEPER}")
    assert [(False,)] == project.rows(may)


DATA = "--data-only --exclude-table=alembic_version"
WITHOUT_ALWAYS = {
    "ledger": [
        ("ledger_audit", "ledger_append_only"),
        ("ledger_audit", "ledger_append_only_row"),
    ],
    "watched": [("watched", "watched"), ("watched", "watched_truncate")],
    "logged": [("logged", "logged"), ("logged", "logged_truncate")],
    "gauge": [
        ("gauge_audit", "gauge_append_only"),
        ("gauge_audit", "gauge_append_only_row"),
        ("gauge_high", "gauge"),
        ("gauge_low", "gauge"),
        ("gauge_low", "gauge_truncate"),
    ],
}


@pytest.mark.core
def test_data_only(
    source: Project, shared_database: Database, database: Database, tmp_path: Path
) -> None:
    """Records come back once, numbers go on; ENABLE ALWAYS is lost, named, and mended."""
    project = dumps.same_project(source, tmp_path / "p", database)
    project.upgrade()
    project.execute("ALTER TABLE account DISABLE TRIGGER USER")  # which the restore enables
    restored = "--data-only --disable-triggers"
    restore(shared_database, database, tmp_path, f"{DATA} --format=custom", restored)
    assert dumps.rows(source) == dumps.rows(project)
    assert {
        table: sorted(
            f'ENABLE ALWAYS lost: trigger "00_audit_{trigger}" on "public"."{relation}" '
            "is in state ENABLE"
            for relation, trigger in triggers
        )
        for table, triggers in WITHOUT_ALWAYS.items()
    } == {table: sorted(details) for table, details in dumps.found(project).items()}
    dumps.check_that_it_goes_on(project)
    project.migrate(dumps.models())
    assert snapshot(source.engine) == snapshot(project.engine)
    dumps.check_that_it_goes_on(project, key=9)


def test_data_only_as_a_replica(
    source: Project,
    shared_database: Database,
    database: Database,
    tmp_path: Path,
) -> None:
    """Nothing is lost where no trigger is ALWAYS; one that is records what is restored."""
    tables = dumps.ORDINARY
    project = dumps.same_project(source, tmp_path / "p", database)
    project.upgrade()
    dump = " ".join([DATA, *(f"--exclude-table={name}*" for name in dumps.ALWAYS)])
    shared_database.server.run(
        "pg_dump", f"--file={tmp_path}/dump", *dump.split(), database=shared_database.name
    )
    script = "SET session_replication_role = replica;\n\\i "
    (tmp_path / "script").write_text(f"{script}{tmp_path}/dump\n")
    options = f"-X -q -v ON_ERROR_STOP=1 -f {tmp_path}/script"
    database.server.run("psql", *options.split(), database=database.name)
    assert dumps.rows(source, *tables) == dumps.rows(project, *tables)
    project.check(dumps.models())
    dumps.check_that_it_goes_on(project, *tables)
    project.execute("SET session_replication_role = replica", "INSERT INTO watched VALUES (1, 'a')")
    assert [(1,)] == project.rows("SELECT audit_id FROM watched_audit")


def test_transaction_ids_of_another_cluster(database: Database, tmp_path: Path) -> None:
    """Ids are a cluster's: restored elsewhere they are from the future, and will come again."""
    if database.server.bindir is None:
        pytest.skip("no pg_dump for this server")
    source = dumps.project_in(tmp_path / "source", database)
    source.migrate(small())
    dumps.use_up_transaction_ids(source.engine)
    source.execute("INSERT INTO account VALUES (1)")
    with dumps.in_a_new_cluster(database) as restored:
        project = dumps.same_project(source, tmp_path / "restored", restored)
        future = "SELECT id, audit_transaction_id > txid_current() FROM account_audit ORDER BY 1"
        assert [(1, True)] == project.rows(future)
        project.execute("INSERT INTO account VALUES (2)")
        ids = "SELECT id FROM account_audit ORDER BY "
        assert [(1, True), (2, False)] == project.rows(future)
        assert [(2,), (1,)] == project.rows(f"{ids} audit_transaction_id")
        assert [(1,), (2,)] == project.rows(f"{ids} audit_id")


def small(**options: Any) -> sa.MetaData:
    metadata = sa.MetaData(naming_convention=options.pop("naming_convention", None))
    sa.Table(
        "account",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        info={"audit.options": {"enabled": True, **options}},
    )
    return metadata


REQUIRED = {"session_settings": [sa.Column("who", sa.Text, nullable=False)]}
AUDIT_TABLE_FIRST = {"naming_convention": {"audit.table": "a_%(table_name)s"}}
MADE = [("I", 1), ("I", 2), ("D", 2)]


@pytest.mark.parametrize(
    ("options", "error", "keys", "records"),
    [
        # The record that the restore itself made has the number of the first one: COPY fails.
        ({}, 'constraint "account_audit_pkey"', [1], [("I", 1)]),
        ({"audit_columns": "classic"}, None, [1], [("I", 1), *MADE]),
        # The number of the record that is to be made is taken: COPY of the table fails.
        (AUDIT_TABLE_FIRST, 'constraint "a_account_pkey"', [], MADE),
        (REQUIRED, "session setting audit.who is not set", [], MADE),
    ],
    ids=["standard", "classic", "audit-table-first", "required"],
)
def test_plain_data_only(
    options: dict[str, Any],
    error: str | None,
    keys: list[int],
    records: list[tuple[str, int]],
    database: Database,
    twin: Database,
    tmp_path: Path,
) -> None:
    """With triggers on, COPY of the table makes records: they displace, double or prevent."""
    project = dumps.project_in(tmp_path / "source", database)
    project.migrate(small(**options))
    project.execute(
        "SET audit.who = 'ann'",
        "INSERT INTO account VALUES (1), (2)",
        "DELETE FROM account WHERE id = 2",
    )
    target = dumps.same_project(project, tmp_path / "target", twin)
    target.upgrade()
    dump = str(tmp_path / "dump")
    database.server.run("pg_dump", f"--file={dump}", *DATA.split(), database=database.name)
    with pytest.raises(postgres.ServerError, match=error) if error else nullcontext():
        stop = ("-v", "ON_ERROR_STOP=1", "--single-transaction")
        database.server.run("psql", "-X", *stop, "-f", dump, database=twin.name)
    if error:
        assert [] == target.rows("SELECT id FROM account")
        database.server.run("psql", "-X", "-f", dump, database=twin.name)
    assert keys == [key for (key,) in target.rows("SELECT id FROM account")]
    audit = "a_account" if options is AUDIT_TABLE_FIRST else "account_audit"
    found = target.rows(f"SELECT audit_operation, id FROM {audit}")
    assert sorted(records) == sorted(found)
    assert [] == target.differences(small(**options))


MODELS = """
import sqlalchemy as sa
metadata = sa.MetaData()
sa.Table(
    "account",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    info={"audit.options": {"enabled": True, "always": True, "append_only": True}},
)
"""
ENV = """
import os
import models
import sqlalchemy as sa
from alembic import context
with sa.create_engine(os.environ["DATABASE_URL"]).connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=models.metadata,
        autogenerate_plugins=["alembic.autogenerate.*", "alembic_audit"],
    )
    with context.begin_transaction():
        context.run_migrations()
"""
INI = """
[alembic]
script_location = %(here)s
prepend_sys_path = %(here)s
path_separator = os
"""


class Shell:
    """A directory with an Alembic project, where commands of docs/backups.md run."""

    def __init__(self, path: Path, database: Database) -> None:
        assert database.server.bindir is not None
        host = str(database.server.url().query["host"])
        (path / "bin").mkdir()
        (path / "bin" / "alembic").write_text(f'#!/bin/sh\nexec {sys.executable} -m alembic "$@"\n')
        (path / "bin" / "alembic").chmod(0o755)
        for name, text in {"models.py": MODELS, "env.py": ENV, "alembic.ini": INI}.items():
            (path / name).write_text(text)
        (path / "script.py.mako").write_text(TEMPLATE)
        self.path = path
        self.places: dict[str, object] = {"restored": f"{database.name}_r", "shop": database.name}
        binaries = f"{path / 'bin'}:{database.server.bindir}:{os.environ['PATH']}"
        self.environment = {
            **os.environ,
            "PATH": binaries,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LD_LIBRARY_PATH": str(database.server.bindir.parent / "lib"),
            "PGHOST": host,
            "PGPORT": "5432",
            "PGUSER": "postgres",
            "DATABASE_URL": f"postgresql+psycopg2:///{database.name}",
        }

    def __call__(self, script: str) -> str:
        """Run a script; return what it printed."""
        done = subprocess.run(
            ["sh", "-ec", script],
            cwd=self.path,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert 0 == done.returncode, done.stdout + done.stderr
        return done.stdout

    def page(self, name: str) -> str:
        """Run commands of the page; the databases in it have names of this test."""
        text = dumps.from_the_page(name, {})
        for place, word in self.places.items():
            text = re.sub(rf"\b{place}\b(?!\.)", str(word), text)
        return self(text)


@pytest.mark.skipif("ALEMBIC_AUDIT_TEST_URL" in os.environ, reason="libpq may not find the server")
def test_the_page(database: Database, tmp_path: Path) -> None:
    """The commands of docs/backups.md: a whole dump, and rows alone, with what they lose mended."""
    shell = Shell(tmp_path, database)
    metadata = runpy.run_path(str(tmp_path / "models.py"))["metadata"]
    source = dumps.project_in(tmp_path / "source", database)
    source.migrate(metadata)
    source.execute("INSERT INTO account VALUES (1), (2)")
    shutil.copytree(source.path / "versions", tmp_path / "versions")
    restored = Database(str(shell.places["restored"]), database.server)
    project = dumps.same_project(source, tmp_path / "restored", restored)
    records = "SELECT audit_id, audit_operation, id FROM account_audit ORDER BY 1"
    states = "SELECT DISTINCT tgenabled FROM pg_trigger"

    try:
        assert shell.page("dump").endswith("No new upgrade operations detected.\n")
        assert [(1, "I", 1), (2, "I", 2)] == project.rows(records)
        shell(f"dropdb {restored.name}")

        shell.page("data")
        project.execute("INSERT INTO account VALUES (3)")
        assert [(1, "I", 1), (2, "I", 2), (3, "I", 3)] == project.rows(records)
        assert [("O",)] == project.rows(states)

        shell.page("mend")
        assert [("A",)] == project.rows(states)
        assert [] == project.differences(metadata)
    finally:
        shell(f"dropdb --if-exists {restored.name}")
