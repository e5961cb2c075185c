"""Who records the changes. A new system is one function and one line in `SYSTEMS`."""

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa
from alembic.autogenerate import produce_migrations
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy.orm import configure_mappers, declarative_base

from alembic_audit.tables import derive
from benchmarks import workloads
from benchmarks.tables import Shape
from benchmarks.workloads import Statement, Workload

Install = Callable[[sa.Connection, Shape, dict[str, Any]], None]
Recorded = Callable[[Workload, Shape, int, int], list[Statement]]


@dataclass(frozen=True)
class System:
    """One way to record changes.

    Attributes:
        name: As it stands in the results.
        title: As it stands on the page.
        install: Makes the table, and what records its changes, in an empty database.
        options: Handed to `install`.
        history: The table that holds the records.
        package: What has to be there, on the Python Package Index.
        recorded: What a client sends that writes the records itself.
        begin: What has to be sent first in each transaction.
        records: Records that are there before, where it is not as many as the shape has.
    """

    name: str
    title: str
    install: Install
    options: dict[str, Any] = field(default_factory=dict)
    history: str | None = "item_audit"
    package: str | None = None
    recorded: Recorded | None = None
    begin: str | None = None
    records: int | None = None

    def shape(self, common: Shape) -> Shape:
        """Return the shape of what this system records."""
        return common if self.records is None else replace(common, history=self.records)


def no_audit(connection: sa.Connection, shape: Shape, options: dict[str, Any]) -> None:
    """Make the table alone."""
    shape.table(sa.MetaData()).create(connection)


def setting_columns(shape: Shape) -> list[sa.Column[Any]]:
    return [sa.Column(f"s{number}", sa.Text()) for number in range(1, shape.settings + 1)]


def audited(shape: Shape, options: dict[str, Any]) -> sa.Table:
    """Return the table, declared to have a trail of ours."""
    table = shape.table(sa.MetaData())
    table.info["audit.options"] = {
        "enabled": True,
        "session_settings": setting_columns(shape),
        **shape.options,
        **options,
    }
    return table


def ours(connection: sa.Connection, shape: Shape, options: dict[str, Any]) -> None:
    """Run the migration that autogenerate writes."""
    metadata = audited(shape, options).metadata
    plugins = {"autogenerate_plugins": ["alembic.autogenerate.*", "alembic_audit"]}
    context = MigrationContext.configure(connection, opts=plugins)
    operations = Operations(context)
    made = produce_migrations(context, metadata).upgrade_ops
    assert made is not None
    for op in made.ops:
        for each in getattr(op, "ops", [op]):
            operations.invoke(each)


def without(*statements: str) -> Install:
    """Return what runs the migration that autogenerate writes, and then takes some of it away."""

    def install(connection: sa.Connection, shape: Shape, options: dict[str, Any]) -> None:
        ours(connection, shape, options)
        for statement in statements:
            connection.exec_driver_sql(statement)

    return install


def limit(connection: sa.Connection, shape: Shape, options: dict[str, Any]) -> None:
    """Make the tables of ours, without triggers: the client writes both."""
    table = audited(shape, options)
    audit = derive(table)
    assert audit is not None
    for each in (table, audit):
        # Not create_all, which would make the triggers too.
        connection.execute(sa.schema.CreateTable(each))
        for index in each.indexes:
            connection.execute(sa.schema.CreateIndex(index))


PREDECESSOR = """
CREATE TABLE item_audit (
    audit_operation VARCHAR(1) NOT NULL,
    audit_operation_timestamp TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    LIKE item
);
CREATE FUNCTION public_item_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (TG_OP = 'DELETE') THEN
        INSERT INTO public.item_audit SELECT 'D', now(), OLD.*;
        RETURN OLD;
    ELSIF (TG_OP = 'UPDATE') THEN
        INSERT INTO public.item_audit SELECT 'U', now(), NEW.*;
        RETURN NEW;
    ELSIF (TG_OP = 'INSERT') THEN
        INSERT INTO public.item_audit SELECT 'I', now(), NEW.*;
        RETURN NEW;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER item_audit AFTER INSERT OR UPDATE OR DELETE ON item
FOR EACH ROW EXECUTE FUNCTION public_item_audit();
"""
"""The documented shape of sqlalchemy-postgresql-audit, which no present SQLAlchemy imports."""


def predecessor(connection: sa.Connection, shape: Shape, options: dict[str, Any]) -> None:
    """Make the table and function that the predecessor documents; it has no index."""
    no_audit(connection, shape, options)
    connection.exec_driver_sql(PREDECESSOR)


def declarative_extensions(
    connection: sa.Connection, shape: Shape, options: dict[str, Any]
) -> None:
    """Use `audit_table` of sqlalchemy-declarative-extensions."""
    extensions = importlib.import_module("sqlalchemy_declarative_extensions")
    audit = importlib.import_module("sqlalchemy_declarative_extensions.audit")
    metadata = sa.MetaData()
    extensions.declare_database(metadata)
    audit.audit_table(shape.table(metadata))
    extensions.register_sqlalchemy_events(metadata, functions=True, triggers=True)
    metadata.create_all(connection)


def postgresql_audit(connection: sa.Connection, shape: Shape, options: dict[str, Any]) -> None:
    """Use a `VersioningManager` of postgresql-audit; *options* are its arguments."""
    package = importlib.import_module("postgresql_audit")
    base = declarative_base()
    manager = package.VersioningManager(**options)
    manager.init(base)
    manager.audit_table(shape.table(base.metadata))
    configure_mappers()
    for cls in (manager.transaction_cls, manager.activity_cls):
        cls.__table__.create(connection)
    base.metadata.create_all(connection)
    manager.remove_listeners()


def continuum(connection: sa.Connection, shape: Shape, options: dict[str, Any]) -> None:
    """Use SQLAlchemy-Continuum with its own triggers; statements of the ORM are not measured."""
    package = importlib.import_module("sqlalchemy_continuum")
    manager = package.VersioningManager(options={"native_versioning": True})
    package.make_versioned(manager=manager, user_cls=None)
    base = declarative_base()
    attributes = {"__table__": shape.table(base.metadata), "__versioned__": {}}
    type("Item", (base,), attributes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        configure_mappers()
    connection.exec_driver_sql("CREATE EXTENSION hstore")
    base.metadata.create_all(connection)
    package.remove_versioning(manager=manager)


LIMIT = "limit"
BEGIN_CONTINUUM = (
    "INSERT INTO transaction (id, issued_at) VALUES (nextval('transaction_id_seq'), now())"
)
"""What its unit of work sends first; without it the triggers record nothing."""

SYSTEMS = {
    system.name: system
    for system in (
        System("none", "no audit", no_audit, history=None),
        System(LIMIT, "the limit", limit, recorded=workloads.second),
        System("together", "one statement", limit, recorded=workloads.together),
        System("statement", "alembic_audit, statement", ours, {"level": "statement"}),
        System("row", "alembic_audit, row", ours, {"level": "row"}),
        System(
            "no_index",
            "alembic_audit, statement, no index",
            ours,
            {"level": "statement", "indexes": ()},
        ),
        System(
            "row_classic",
            "alembic_audit, row, classic, no index",
            ours,
            {"level": "row", "audit_columns": "classic", "indexes": ()},
        ),
        System(
            "declarative",
            "declarative-extensions",
            declarative_extensions,
            package="sqlalchemy-declarative-extensions",
        ),
        System(
            "postgresql_audit",
            "postgresql-audit",
            postgresql_audit,
            history="activity",
            package="postgresql-audit",
        ),
        System(
            "postgresql_audit_row",
            "postgresql-audit, row",
            postgresql_audit,
            {"use_statement_level_triggers": False},
            history="activity",
            package="postgresql-audit",
        ),
        System(
            "continuum",
            "Continuum, native",
            continuum,
            history="item_version",
            package="SQLAlchemy-Continuum",
            begin=BEGIN_CONTINUUM,
        ),
        System("predecessor", "the predecessor's shape", predecessor),
    )
}
