"""A database with every kind of trail, and others that its records go to."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.conftest import Database
from tests.pages import blocks, read
from tests.project import Project
from tools import postgres

KEEPER = f"keeper_{os.getpid()}"
"""The role that owns the trail of `vault`."""

TRAILS: dict[str, dict[str, Any]] = {
    "account": {"changed_columns": True},
    "note": {"audit_columns": "classic"},
    "ledger": {"append_only": True},
    "watched": {"always": True},
    "logged": {"always": True, "audit_columns": "classic"},
    "vault": {"owner": KEEPER},
    "secret": {"hash_columns": ["value"]},
    "meter": {"partitions": ["meter_low"]},
    "gauge": {"always": True, "append_only": True, "partitions": ["gauge_low"]},
}
"""The audited tables, with their options."""

PARTITIONED = ("meter", "gauge")
CLASSIC = ("note", "logged")
ALWAYS = ("watched", "logged", "gauge")
ORDINARY = tuple(name for name in TRAILS if name not in ALWAYS)


def from_the_page(name: str, places: dict[str, object]) -> str:
    """Return commands of docs/backups.md, with other words in some places."""
    (block,) = blocks(read("backups.md"), name=name)
    text = block.text
    for place, word in places.items():
        assert place in text, f"no {place} in {text}"
        text = text.replace(place, str(word))
    return text


def models(*tables: str) -> sa.MetaData:
    """Return the models of some tables; of all if none is named."""
    metadata = sa.MetaData()
    for name in tables or TRAILS:
        references = [sa.Column("account_id", sa.ForeignKey("account.id"))]
        sa.Table(
            name,
            metadata,
            sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("value", sa.Text),
            *(references if name == "note" else ()),
            postgresql_partition_by="LIST (id)" if name in PARTITIONED else None,
            info={"audit.options": {"enabled": True, **TRAILS[name]}},
        )
    return metadata


def _is_no_partition(_object: Any, name: str | None, kind: str, *_: Any) -> bool:
    return not (kind == "table" and name is not None and name.endswith(("_low", "_high")))


def project_in(path: Path, database: Database) -> Project:
    """Return an empty project."""
    path.mkdir(exist_ok=True)
    shutil.rmtree(path / "versions", ignore_errors=True)
    return Project(path, database, include_object=_is_no_partition)


def same_project(project: Project, path: Path, database: Database) -> Project:
    """Return a project with the same migrations, over another database."""
    other = project_in(path, database)
    shutil.copytree(project.path / "versions", path / "versions", dirs_exist_ok=True)
    other.count = project.count
    other.config.attributes["metadata"] = project.config.attributes["metadata"]
    return other


def start(project: Project, *tables: str) -> None:
    """Migrate a project to some trails, or to all, and write each table and its trail."""
    names = tables or tuple(TRAILS)
    statements = [
        statement
        for name in names
        if name in PARTITIONED
        for statement in (
            f"CREATE TABLE {name} (id int PRIMARY KEY, value text) PARTITION BY LIST (id)",
            f"CREATE TABLE {name}_low PARTITION OF {name} FOR VALUES IN (1, 2, 3)",
            f"CREATE TABLE {name}_high PARTITION OF {name} DEFAULT",
        )
    ]
    project.write("; ".join(f"op.execute({each!r})" for each in statements) or "pass")
    project.upgrade()
    project.migrate(models(*names))
    for name in names:
        project.execute(
            f"INSERT INTO {name} VALUES (1, 'a'), (2, 'b'), (7, 'c')",
            f"UPDATE {name} SET value = 'd' WHERE id = 2",
            f"UPDATE {name} SET id = 3 WHERE id = 2",
            f"DELETE FROM {name} WHERE id = 7",
        )


def rows(project: Project, *tables: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return what some tables hold, or all, with that of their trails, in the order of writing."""
    found = {}
    for name in tables or TRAILS:
        order = "audit_operation_timestamp" if name in CLASSIC else "audit_id"
        found[name] = project.rows(f"SELECT * FROM {name} ORDER BY id")
        found[f"{name}_audit"] = project.rows(f"SELECT * FROM {name}_audit ORDER BY {order}")
    return found


def check_that_it_goes_on(project: Project, *tables: str, key: int = 8) -> None:
    """Write a row to each table, and see that this makes one record more, the last one."""
    before = rows(project, *tables)
    for name in tables or TRAILS:
        project.execute(f"INSERT INTO {name} (id, value) VALUES ({key}, 'new')")
        records = rows(project, name)[f"{name}_audit"]
        former = before[f"{name}_audit"]
        assert former == records[:-1]
        value = "value_sha256 IS NOT NULL" if name == "secret" else "value = 'new'"
        last = f"SELECT audit_operation FROM {name}_audit WHERE {value} AND id = {key}"
        assert [("I",)] == project.rows(last)
        if name not in CLASSIC:
            assert max((row[0] for row in former), default=0) < records[-1][0]


def found(project: Project, *tables: str) -> dict[str, list[str]]:
    """Return what `alembic check` names: by table, what its trigger has lost."""
    differences = project.differences(models(*tables))
    assert {"replace_audit_trigger"} >= {difference[0] for difference in differences}, differences
    return {table: details for _, table, details, _ in differences}


def use_up_transaction_ids(engine: sa.Engine, number: int = 3_000) -> None:
    """Have a cluster count so many transactions more; quick, as it does so in one."""
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TEMPORARY TABLE written () ON COMMIT DROP")
        connection.exec_driver_sql(
            "DO $$ BEGIN"
            f"  FOR i IN 1..{number} LOOP"
            "    BEGIN INSERT INTO written DEFAULT VALUES; EXCEPTION WHEN raise_exception THEN END;"
            "  END LOOP;"
            "END $$"
        )


@contextmanager
def in_a_new_cluster(database: Database) -> Iterator[Database]:
    """Dump a database, and restore it where few transactions were.

    Records that were made after `use_up_transaction_ids` are from the future there:
    ``audit_transaction_id`` is over ``txid_current()``. Roles are not restored.
    """
    with postgres.server(database.server.bindir) as server:
        server.create_database(database.name)
        assert server.cluster is not None
        dump = str(server.cluster.directory / "dump")
        options = ("--no-owner", "--no-privileges", "--file", dump)
        database.server.run("pg_dump", *options, database=database.name)
        server.run("psql", "-Xqv", "ON_ERROR_STOP=1", "-f", dump, database=database.name)
        restored = Database(database.name, server)
        yield restored
        restored.engine.dispose()
