"""What comparing costs: statements, and locks that it waits for."""

import cProfile
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import produce_migrations
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event

from alembic_audit import catalog, sql, tables
from alembic_audit.ddl import verbatim
from alembic_audit.states import AuditState
from tests.conftest import Database
from tests.project import OURS, PLAIN, run_proposed

CONSTANT = 4
"""Statements that one autogenerate has beside Alembic's own."""


def models(count: int, columns: Sequence[sa.Column[Any]] = ()) -> sa.MetaData:
    metadata = sa.MetaData()
    for number in range(count):
        sa.Table(
            f"t{number}",
            metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("email", sa.Text),
            *(sa.Column(column.name, column.type) for column in columns),
            info={"audit.options": {"enabled": True}},
        )
    return metadata


def upgrade(engine: sa.Engine, metadata: sa.MetaData) -> None:
    """Run what autogenerate proposes, in one transaction."""
    with engine.begin() as connection:
        run_proposed(connection, metadata)


def statements(engine: sa.Engine, metadata: sa.MetaData, plugins: list[str]) -> int:
    """Count the statements of one autogenerate, which finds no difference."""
    seen: list[str] = []

    def count(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        seen.append(statement)

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"autogenerate_plugins": plugins})
        event.listen(engine, "before_cursor_execute", count)
        try:
            made = produce_migrations(context, metadata).upgrade_ops
        finally:
            event.remove(engine, "before_cursor_execute", count)
    assert made is not None
    assert [] == made.ops
    return len(seen)


@pytest.mark.parametrize("count", [10, 100, 500])
def test_statements(count: int, database: Database) -> None:
    """One autogenerate has as many statements as plain Alembic on the 2N tables, plus four."""
    metadata = models(count)
    upgrade(database.engine, metadata)
    assert len(metadata.tables) == 2 * count

    plain = statements(database.engine, metadata, PLAIN)
    ours = statements(database.engine, metadata, OURS)

    print(f"{count} audited tables: {ours} statements, plain Alembic {plain}")
    assert plain + CONSTANT == ours


def calls(engine: sa.Engine, metadata: sa.MetaData, plugins: list[str]) -> int:
    """Count the calls of functions in one autogenerate, which finds no difference."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"autogenerate_plugins": plugins})
        profile = cProfile.Profile()
        made = profile.runcall(produce_migrations, context, metadata).upgrade_ops
    assert made is not None
    assert [] == made.ops
    return sum(entry.callcount for entry in profile.getstats())


def test_calls(database: Database, twin: Database) -> None:
    """The audit tables cost far less than plain Alembic needs to compare them.

    Measured: 0.53 of plain Alembic on the 2N tables, 1.32 of plain Alembic on the N tables alone.
    """
    columns = [sa.Column(f"c{number}", sa.Text) for number in range(10)]
    metadata, alone = models(50, columns), models(50, columns)
    upgrade(database.engine, metadata)
    alone.create_all(twin.engine)
    for engine, tables_, plugins in (
        (twin.engine, alone, PLAIN),
        (database.engine, metadata, OURS),
    ):
        calls(engine, tables_, plugins)  # what is compiled and cached once

    plain = calls(twin.engine, alone, PLAIN)
    both = calls(database.engine, metadata, PLAIN)
    ours = calls(database.engine, metadata, OURS)

    print(f"{ours / plain:.2f} of plain Alembic on N tables, {ours / both:.2f} on 2N")
    assert ours < 0.6 * both
    assert ours < 1.48 * plain  # more where other tests ran before in this process


def test_calls_of_an_upgrade(database: Database) -> None:
    """What op.create_audit_trigger calls in Python, beside what sends its statements.

    Measured: 4.17 of plain op.execute. Half of it writes the checks of types in the body.
    """
    columns = [sa.Column(f"c{number}", sa.Text) for number in range(10)]
    metadata = models(20, columns)
    specs = tables.derive_all(metadata)
    arguments = [{"table_name": one.table, **one.to_kwargs()} for one in specs]
    statements = [one for spec in specs for one in sql.create(spec, "public")]
    with database.engine.begin() as connection:
        for table in metadata.tables.values():
            connection.execute(sa.schema.CreateTable(table))

    def calls(run: Callable[[Operations], None]) -> int:
        with database.engine.connect() as connection:
            profile = cProfile.Profile()
            profile.runcall(run, Operations(MigrationContext.configure(connection)))
        return sum(entry.callcount for entry in profile.getstats())

    def ours(operations: Operations) -> None:
        for one in arguments:
            operations.create_audit_trigger(**one)  # type: ignore[attr-defined]

    def plain(operations: Operations) -> None:
        for one in statements:
            operations.execute(verbatim(one))

    for run in (ours, plain):
        calls(run)  # what is cached once
    assert calls(ours) < 4.5 * calls(plain)


def reads(engine: sa.Engine, metadata: sa.MetaData) -> list[str]:
    """Return the statements that read the trails of some models."""
    specs = tables.derive_all(metadata)
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        seen.append(statement)

    with engine.connect() as connection:
        event.listen(engine, "before_cursor_execute", note)
        try:
            catalog.read(connection, specs, "public", {"public"})
        finally:
            event.remove(engine, "before_cursor_execute", note)
    return seen


def test_definitions_of_triggers(database: Database) -> None:
    """PostgreSQL writes none where all is as meant, else all of them in one statement."""
    metadata = models(5)
    upgrade(database.engine, metadata)
    assert 3 == len(reads(database.engine, metadata))
    for number in range(5):
        with database.engine.begin() as connection:
            connection.exec_driver_sql(
                f"CREATE TRIGGER another AFTER INSERT ON t{number} "
                f"FOR EACH STATEMENT EXECUTE FUNCTION public_t{number}_audit()"
            )
    seen = reads(database.engine, metadata)
    assert 4 == len(seen)
    assert [3] == [number for number, one in enumerate(seen) if "pg_get_triggerdef" in one]


def test_waits_for_nobody(database: Database) -> None:
    """Our queries read on while another session holds ACCESS EXCLUSIVE on every table."""
    metadata = models(3)
    upgrade(database.engine, metadata)
    specs = tables.derive_all(metadata)
    names = ", ".join(metadata.tables)
    with database.engine.connect() as other, database.engine.connect() as connection:
        other.exec_driver_sql(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")
        connection.exec_driver_sql("SET lock_timeout = '100ms'")

        found = catalog.read(connection, specs, "public", {"public"})

        held = connection.exec_driver_sql(
            "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation IN"
            " (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)"
        ).scalar_one()
    assert [(("public", one.table), AuditState(one)) for one in specs] == sorted(
        found.states.items(), key=lambda item: item[0]
    )
    assert 0 == held
