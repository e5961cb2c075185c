"""The documented examples of sqlalchemy-postgresql-audit, with the import changed.

And with the one line that brings its layout back: audit_columns "classic" in audit.defaults.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Column, MetaData, String, Table
from sqlalchemy.dialects.postgresql import UUID
from sqlalchemy.schema import CreateTable
from sqlalchemy.util import immutabledict

import alembic_audit
from alembic_audit import (
    DEFAULT_AUDIT_TABLE_FUNCTION_NAMING_CONVENTION,
    DEFAULT_AUDIT_TABLE_NAMING_CONVENTION,
    DEFAULT_AUDIT_TABLE_TRIGGER_CONVENTION,
    install_audit_triggers,
    set_session_vars,
    uninstall_audit_triggers,
)
from tests.conftest import Database
from tests.project import Project

CLASSIC: dict[str, Any] = {"audit.defaults": {"audit_columns": "classic"}}
NAMING_CONVENTIONS = immutabledict(
    {
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
        "audit.table": "%(table_name)s_audr",
    }
)


@pytest.fixture(autouse=True)
def enabled() -> None:
    """What importing its event listeners did."""
    alembic_audit.enable()


@pytest.fixture
def engine(database: Database) -> Iterator[sa.Engine]:
    """As documented: create_engine(..., plugins=["audit"])."""
    made = sa.create_engine(database.url(), plugins=["audit"])
    yield made
    made.dispose()


def usage() -> MetaData:
    """The example under "Usage"."""
    meta = MetaData(info=CLASSIC)
    Table("foo", meta, Column("bar", String), info={"audit.options": {"enabled": True}})
    return meta


def session_settings(**naming: Any) -> MetaData:
    """The example under "Session Settings"."""
    meta = MetaData(info=CLASSIC, **naming)
    Table(
        "foo",
        meta,
        Column("bar", String),
        info={
            "audit.options": {
                "enabled": True,
                "session_settings": [
                    Column("username", String, nullable=False),
                    Column("app_uuid", UUID),
                ],
            }
        },
        schema="public",
    )
    return meta


def created(table: Table) -> list[str]:
    """Return the lines of a CREATE TABLE, as the examples print them."""
    text = str(CreateTable(table).compile(dialect=sa.dialects.postgresql.dialect()))
    return [line.strip() for line in text.strip().splitlines()]


def test_usage() -> None:
    """The audit table is in the MetaData as soon as the table is, with the columns documented."""
    meta = usage()
    assert [
        "CREATE TABLE foo_audit (",
        "audit_operation VARCHAR(1) NOT NULL,",
        "audit_operation_timestamp TIMESTAMP WITHOUT TIME ZONE NOT NULL,",
        "bar VARCHAR",
        ")",
    ] == created(meta.tables["foo_audit"])


def test_naming_conventions_and_session_settings() -> None:
    """The convention "%(table_name)s_audr" and the settings give the table documented."""
    meta = session_settings(naming_convention=NAMING_CONVENTIONS)
    assert [
        "CREATE TABLE public.foo_audr (",
        "audit_operation VARCHAR(1) NOT NULL,",
        "audit_operation_timestamp TIMESTAMP WITHOUT TIME ZONE NOT NULL,",
        "username VARCHAR NOT NULL,",
        "app_uuid UUID,",
        "bar VARCHAR",
        ")",
    ] == created(meta.tables["public.foo_audr"])


def test_default_conventions() -> None:
    """The three constants import from the package and name what is made."""
    tokens = {"table_name": "foo", "schema": "public"}
    made = usage().tables["foo"].info
    assert "foo_audit" == DEFAULT_AUDIT_TABLE_NAMING_CONVENTION % tokens
    for convention in (
        DEFAULT_AUDIT_TABLE_FUNCTION_NAMING_CONVENTION,
        DEFAULT_AUDIT_TABLE_TRIGGER_CONVENTION,
    ):
        assert f'"{convention % tokens}"' in made["audit.create_ddl"]


def test_create_all_and_the_session_helper(engine: sa.Engine) -> None:
    """create_all, then writes that set_session_vars attributes; a missing username is refused."""
    meta = session_settings()
    meta.create_all(engine)
    with engine.begin() as connection:
        set_session_vars(connection, username="ann")
        connection.exec_driver_sql("INSERT INTO foo VALUES ('x')")
    refused = pytest.raises(sa.exc.IntegrityError, match=r"audit\.username is not set")
    with refused, engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO foo VALUES ('y')")
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT audit_operation, username, app_uuid, bar FROM foo_audit"
        ).all()
    assert [("I", "ann", None, "x")] == [tuple(row) for row in rows]
    meta.drop_all(engine)


def test_install_and_uninstall(engine: sa.Engine) -> None:
    """The DDL in the info of the tables is what install_audit_triggers runs."""
    meta = usage()
    statements = install_audit_triggers(meta)
    assert "".join(f"{one};\n" for one in statements) == meta.tables["foo"].info["audit.create_ddl"]
    meta.create_all(engine)
    assert [] != uninstall_audit_triggers(meta, engine)
    assert statements == install_audit_triggers(meta, engine)


@pytest.mark.parametrize("driver", ["psycopg2"])
def test_plugin_in_the_url(database: Database, driver: str) -> None:
    """As documented: ?plugin=audit."""
    url = database.url(driver).update_query_dict({"plugin": "audit"})
    engine = sa.create_engine(url)
    usage().create_all(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO foo VALUES ('x')")
        assert [("I", "x")] == [
            tuple(row)
            for row in connection.exec_driver_sql("SELECT audit_operation, bar FROM foo_audit")
        ]
    engine.dispose()


def test_alembic(tmp_path: Path, database: Database) -> None:
    """The documented gap is none any more: a downgrade puts the trigger back."""
    project = Project(tmp_path, database)
    project.migrate(usage())
    triggers = "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger ORDER BY 1"
    before = project.rows(triggers)
    stopped = MetaData()
    Table("foo", stopped, Column("bar", String))
    project.migrate(stopped)
    assert [] == project.rows(triggers)
    project.downgrade()
    assert before == project.rows(triggers)
