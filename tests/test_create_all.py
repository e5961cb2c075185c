"""create_all and drop_all take function and triggers along; trails without a migration."""

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy.ext.asyncio import create_async_engine

from alembic_audit import (
    AuditError,
    audit_table,
    install_audit_triggers,
    uninstall_audit_triggers,
)
from alembic_audit.tables import derive_all
from tests.catalogs import snapshot
from tests.conftest import Database
from tests.project import Project

pytestmark = pytest.mark.core


def _metadata() -> sa.MetaData:
    metadata = sa.MetaData()
    account = sa.Table(
        "account",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.String),
    )
    audit_table(account)
    return metadata


def test_create_all_starts_the_trail_and_drop_all_leaves_nothing(database: Database) -> None:
    """What create_all makes records at once, and drop_all leaves no function behind."""
    empty = snapshot(database.engine)
    metadata = _metadata()
    metadata.create_all(database.engine)
    metadata.create_all(database.engine)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO account VALUES (1, 'a')")
        rows = connection.exec_driver_sql(
            "SELECT audit_id, audit_operation, id, email FROM account_audit"
        ).all()
    assert [(1, "I", 1, "a")] == [tuple(row) for row in rows]
    metadata.drop_all(database.engine)
    assert empty == snapshot(database.engine)


def test_create_all_and_a_migration_give_the_same_catalog(
    database: Database, tmp_path: Path
) -> None:
    """A database made by create_all is the one that the first migration makes."""
    metadata = _metadata()
    metadata.create_all(database.engine)
    made = snapshot(database.engine)
    metadata.drop_all(database.engine)
    project = Project(tmp_path, database)
    project.migrate(_metadata())
    project.engine.dispose()
    assert made == snapshot(database.engine)


def test_create_all_of_many_tables(database: Database) -> None:
    """One listener makes all trails, however often they are derived, and none of a copy."""
    metadata = _metadata()
    for number in range(3):
        table = sa.Table(f"t{number}", metadata, sa.Column("id", sa.Integer, primary_key=True))
        audit_table(table, indexes=())
    derive_all(metadata)
    derive_all(metadata)
    assert 1 == len(list(metadata.dispatch.after_create))
    assert 1 == len(list(metadata.dispatch.before_drop))
    metadata.tables["t0_audit"].to_metadata(metadata, name="copy")
    empty = snapshot(database.engine)

    metadata.create_all(database.engine)
    assert 4 * 5 == len(_triggers(database))
    metadata.drop_all(database.engine)
    assert empty == snapshot(database.engine)


def test_drop_all_without_the_source(database: Database) -> None:
    """Where the audit table alone goes, its function goes too, so that writes go on."""
    metadata = _metadata()
    metadata.create_all(database.engine)
    metadata.remove(metadata.tables["account"])
    metadata.drop_all(database.engine)
    assert {} == snapshot(database.engine)["functions"]
    with database.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO account VALUES (1, 'a')")


def test_create_all_of_a_copy(database: Database) -> None:
    """A copy of an audit table in another MetaData is a table without a trail."""
    metadata, other = _metadata(), sa.MetaData()
    metadata.tables["account_audit"].to_metadata(other)
    audit_table(sa.Table("t", other, sa.Column("id", sa.Integer, primary_key=True)))
    other.create_all(database.engine)
    assert {"t", "t_audit", "account_audit"} == set(sa.inspect(database.engine).get_table_names())
    assert 5 == len(_triggers(database))


def test_create_all_on_sqlite_makes_plain_tables() -> None:
    """The same metadata stays usable where there are no PostgreSQL triggers."""
    engine = sa.create_engine("sqlite://")
    metadata = _metadata()
    metadata.create_all(engine)
    assert {"account", "account_audit"} == set(sa.inspect(engine).get_table_names())
    account, audit = metadata.tables["account"], metadata.tables["account_audit"]
    with engine.begin() as connection:
        connection.execute(account.insert().values(id=1, email="a"))
        assert [(1, "a")] == [tuple(row) for row in connection.execute(account.select())]
        assert [] == connection.execute(audit.select()).all()
    metadata.drop_all(engine)
    assert [] == sa.inspect(engine).get_table_names()
    engine.dispose()


TRIGGERS = "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal ORDER BY tgname"


def _triggers(database: Database) -> list[str]:
    with database.engine.connect() as connection:
        return list(connection.exec_driver_sql(TRIGGERS).scalars())


def test_uninstall_and_install_give_back_what_was(database: Database) -> None:
    """Uninstalled, a table is written without a record; installed again, all is as before."""
    metadata = _metadata()
    metadata.create_all(database.engine)
    before = snapshot(database.engine)

    uninstall_audit_triggers(metadata, database.engine)
    assert [] == _triggers(database)
    assert {} == snapshot(database.engine)["functions"]
    with database.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO account VALUES (1, 'a')")
        assert 0 == connection.exec_driver_sql("SELECT count(*) FROM account_audit").scalar_one()

    install_audit_triggers(metadata, database.engine)
    assert before == snapshot(database.engine)


def test_without_an_engine_the_statements_are_returned(database: Database) -> None:
    """They are those of audit.create_ddl and audit.drop_ddl, and run one by one as they are."""
    metadata = _metadata()
    metadata.create_all(database.engine)
    before = snapshot(database.engine)
    install, uninstall = install_audit_triggers(metadata), uninstall_audit_triggers(metadata)

    info = metadata.tables["account"].info
    assert info["audit.create_ddl"] == "".join(one + ";\n" for one in install)
    assert info["audit.drop_ddl"] == "".join(one + ";\n" for one in uninstall)
    assert {key: info[key] for key in ("audit.create_ddl", "audit.drop_ddl")} == {
        key: metadata.tables["account_audit"].info[key]
        for key in ("audit.create_ddl", "audit.drop_ddl")
    }
    for statements in (uninstall, install):
        with database.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
    assert before == snapshot(database.engine)


def test_what_ran_is_returned(database: Database) -> None:
    """With an engine the statements are those that ran; with nothing to do there are none."""
    metadata = _metadata()
    metadata.create_all(database.engine)
    with database.engine.begin() as connection:
        assert [] == install_audit_triggers(metadata, connection)
        assert uninstall_audit_triggers(metadata) == uninstall_audit_triggers(metadata, connection)
        assert [] == uninstall_audit_triggers(metadata, connection)
        assert install_audit_triggers(metadata) == install_audit_triggers(metadata, connection)


def test_nothing_is_audited(database: Database) -> None:
    """Tables that ask for no audit are left alone, and so is what is there of others."""
    _metadata().create_all(database.engine)
    before = snapshot(database.engine)
    plain = sa.MetaData()
    sa.Table("account", plain, sa.Column("id", sa.Integer, primary_key=True))
    for metadata in (sa.MetaData(), plain):
        assert [] == install_audit_triggers(metadata, database.engine)
        assert [] == uninstall_audit_triggers(metadata, database.engine)
        assert [] == install_audit_triggers(metadata) == uninstall_audit_triggers(metadata)
    assert before == snapshot(database.engine)


def test_a_connection_keeps_its_transaction(database: Database) -> None:
    """On a Connection everything goes with the transaction of the caller."""
    metadata = _metadata()
    metadata.create_all(database.engine)
    before = snapshot(database.engine)
    with database.engine.connect() as connection:
        uninstall_audit_triggers(metadata, connection)
        connection.rollback()
    assert before == snapshot(database.engine)


def test_tables_declared_late_are_installed(database: Database) -> None:
    """A table whose options alone ask for an audit gets audit table and trail too."""
    metadata = sa.MetaData()
    sa.Table(
        "t",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        info={"audit.options": {"enabled": True, "level": "row"}},
    )
    metadata.create_all(database.engine)
    assert [] == _triggers(database)
    with pytest.raises(sa.exc.ProgrammingError, match='"t_audit" does not exist, so nothing'):
        install_audit_triggers(metadata, database.engine)
    metadata.create_all(database.engine, tables=[metadata.tables["t_audit"]])
    assert ["00_audit_t", "00_audit_t_truncate"] == _triggers(database)


@pytest.mark.parametrize(
    "edit",
    [
        'ALTER TABLE account DISABLE TRIGGER "00_audit_account_insert"',
        'DROP TRIGGER "00_audit_account_truncate" ON account',
    ],
)
def test_a_trail_that_differs_is_not_taken_for_the_declared_one(
    database: Database, edit: str
) -> None:
    """A trail edited by hand is an error that says what to do, and that remedy works."""
    metadata = _metadata()
    metadata.create_all(database.engine)
    before = snapshot(database.engine)
    with database.engine.begin() as connection:
        connection.exec_driver_sql(edit)
    with pytest.raises(AuditError) as caught:
        install_audit_triggers(metadata, database.engine)
    assert (
        "table 'account' has a trail that is not the declared one, so nothing was installed; "
        "write a migration, or call uninstall_audit_triggers first"
    ) == str(caught.value)
    uninstall_audit_triggers(metadata, database.engine)
    install_audit_triggers(metadata, database.engine)
    assert before == snapshot(database.engine)


def test_another_declaration_is_not_installed_over_a_trail(database: Database) -> None:
    """A column more in the model is an error; the same columns in another order are none."""
    _metadata().create_all(database.engine)
    shuffled = sa.MetaData()
    audit_table(
        sa.Table(
            "account",
            shuffled,
            sa.Column("email", sa.String),
            sa.Column("id", sa.Integer, primary_key=True),
        )
    )
    assert [] == install_audit_triggers(shuffled, database.engine)
    more = sa.MetaData()
    audit_table(
        sa.Table(
            "account",
            more,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("email", sa.String),
            sa.Column("phone", sa.String),
        )
    )
    with pytest.raises(AuditError, match="is not the declared one"):
        install_audit_triggers(more, database.engine)


def test_schemas_and_a_default_schema_that_is_not_public(database: Database) -> None:
    """A schema of None is the connection's default schema, in create_all and in install alike."""
    with database.engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA app")
        connection.exec_driver_sql("CREATE SCHEMA history")
    engine = sa.create_engine(
        database.url(), connect_args={"options": "-csearch_path=app"}, poolclass=sa.NullPool
    )
    metadata = sa.MetaData()
    for schema in (None, "public"):
        table = sa.Table(
            "t", metadata, sa.Column("id", sa.Integer, primary_key=True), schema=schema
        )
        audit_table(table, schema_name="history" if schema else None)
    metadata.create_all(engine)
    before = snapshot(engine)
    assert ["app.public_t_audit()", "history.history_t_audit()"] == sorted(before["functions"])
    uninstall_audit_triggers(metadata, engine)
    assert {} == snapshot(engine)["functions"]
    install_audit_triggers(metadata, engine)
    assert before == snapshot(engine)
    metadata.drop_all(engine)
    assert {} == snapshot(engine)["relations"]


def test_tenants_by_schema_translate_map(database: Database) -> None:
    """Each tenant's trail is made, ended and dropped alone, and holds what that tenant wrote."""
    metadata = _metadata()
    account, trail = metadata.tables["account"], metadata.tables["account_audit"]
    tenants = {
        name: database.engine.execution_options(schema_translate_map={None: name})
        for name in ("one", "Two %x")
    }
    for name, engine in tenants.items():
        with engine.begin() as connection:
            connection.execute(sa.schema.CreateSchema(name))
        metadata.create_all(engine)
        with engine.begin() as connection:
            connection.execute(account.insert().values(id=1, email=name))
    for name, engine in tenants.items():
        with engine.connect() as connection:
            rows = connection.execute(sa.select(trail.c.id, trail.c.email))
            assert [(1, name)] == [tuple(row) for row in rows]
    before = snapshot(database.engine)
    assert ["Two %x.public_account_audit()", "one.public_account_audit()"] == sorted(
        before["functions"]
    )
    uninstall_audit_triggers(metadata, tenants["Two %x"])
    assert ["one.public_account_audit()"] == list(snapshot(database.engine)["functions"])
    install_audit_triggers(metadata, tenants["Two %x"])
    assert before == snapshot(database.engine)
    for engine in tenants.values():
        metadata.drop_all(engine)
    assert {} == snapshot(database.engine)["relations"]


@pytest.mark.parametrize("verb", [install_audit_triggers, uninstall_audit_triggers])
def test_sqlite_is_refused(verb: object) -> None:
    """There is no trail on SQLite, and the refusal says that the tables work."""
    engine = sa.create_engine("sqlite://")
    with pytest.raises(AuditError) as caught:
        verb(_metadata(), engine)  # type: ignore[operator]
    assert (
        "audit triggers are PostgreSQL's, and this database is sqlite; the tables can be used "
        "there, without a trail"
    ) == str(caught.value)
    engine.dispose()


def test_an_async_engine_is_refused_with_what_to_write(database: Database) -> None:
    """The line in the refusal works."""
    metadata = _metadata()
    metadata.create_all(database.engine)
    before = snapshot(database.engine)
    engine = create_async_engine(database.url("psycopg"), poolclass=sa.NullPool)
    with pytest.raises(AuditError) as caught:
        uninstall_audit_triggers(metadata, engine)  # type: ignore[arg-type]
    assert (
        "uninstall_audit_triggers needs an Engine or a Connection, found AsyncEngine; with an "
        "asynchronous engine write: async with engine.begin() as connection: await "
        "connection.run_sync(lambda connection: uninstall_audit_triggers(metadata, connection))"
    ) == str(caught.value)

    async def as_it_says() -> None:
        for verb in (uninstall_audit_triggers, install_audit_triggers):
            async with engine.begin() as connection:
                await connection.run_sync(lambda connection, verb=verb: verb(metadata, connection))
            names.append(_triggers(database))

    names: list[list[str]] = []
    asyncio.run(as_it_says())
    kinds = ("delete", "insert", "key", "truncate", "update")
    assert [[], [f"00_audit_account_{kind}" for kind in kinds]] == names
    assert before == snapshot(database.engine)


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        ("create_audit_trigger", ["t"], {"columns": ["id"]}),
        ("drop_audit_trigger", ["t"], {}),
        ("replace_audit_trigger", ["t"], {"columns": ["id"], "replaces": {"columns": ["a"]}}),
        ("drop_audit_table", ["t_audit"], {}),
        ("drop_audit_column", ["t_audit", "a"], {}),
    ],
)
def test_operations_on_sqlite_refuse(name: str, args: list[str], kwargs: dict[str, object]) -> None:
    """Every audit operation says that it is PostgreSQL's, and how to guard it."""
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        op = Operations(MigrationContext.configure(connection))
        with pytest.raises(NotImplementedError) as caught:
            getattr(op, name)(*args, **kwargs)
    assert (
        "audit triggers are PostgreSQL's, and this migration runs on sqlite; guard the operation "
        "by: if op.get_context().dialect.name == 'postgresql'"
    ) == str(caught.value)
    engine.dispose()
