"""Put trails under a published application at an early revision, then run its own later migrations.

`python followed.py URL APPLICATION EARLY` runs in the environment of the application, and prints
what happened as JSON. Nothing of the application is edited: its revisions run as they were
published, one by one, with `run_migrations(follow=True)`.
"""

import datetime
import importlib
import itertools
import json
import logging
import random
import sys
import tempfile
import traceback
import uuid
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

import alembic_audit

ENV = """
import asyncio

import alembic_audit
from alembic import context
from sqlalchemy.ext.asyncio import AsyncEngine

given = context.config.attributes


def run(connection):
    context.configure(
        connection=connection,
        target_metadata=given["metadata"],
        autogenerate_plugins=["alembic.autogenerate.*", "alembic_audit"],
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        if given["follow"]:
            alembic_audit.run_migrations(context, follow=True)
        else:
            context.run_migrations()


async def run_async():
    async with given["engine"].connect() as connection:
        await connection.run_sync(run)


if isinstance(given["engine"], AsyncEngine):
    asyncio.run(run_async())
else:
    with given["engine"].connect() as connection:
        run(connection)
"""


def ckan() -> tuple[Path, sa.MetaData]:
    import ckan.model
    from ckan.model.meta import metadata

    return Path(ckan.__file__).parent / "migration" / "versions", metadata


def prefect() -> tuple[Path, sa.MetaData]:
    import prefect.server.database.orm_models as models

    place = Path(models.__file__).parent / "_migrations" / "versions" / "postgresql"
    return place, models.Base.metadata


def mlflow() -> tuple[Path, sa.MetaData]:
    import mlflow.store.db_migrations
    from mlflow.store.db.base_sql_model import Base

    for name in (
        "mlflow.store.tracking.dbmodels.models",
        "mlflow.store.model_registry.dbmodels.models",
        "mlflow.store.jobs.dbmodels.models",
    ):
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    return Path(mlflow.store.db_migrations.__file__).parent / "versions", Base.metadata


APPLICATIONS = {"ckan": ckan, "mlflow": mlflow, "prefect": prefect}


class Seed:
    """Rows for tables that nobody here knows: what the database refuses is passed over."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.random = random.Random(1)
        self.numbers = itertools.count(1)

    def write(self) -> None:
        """Insert into every table, update it, and take a row away."""
        metadata = sa.MetaData()
        with self.engine.begin() as connection, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            metadata.reflect(connection)
            for table in metadata.tables.values():
                if _is_kept(table):
                    continue
                for _ in range(2):
                    self._try(connection, lambda t=table: self._insert(connection, t))
                self._try(connection, lambda t=table: self._update(t))
                if self.random.random() < 0.2:
                    self._try(connection, lambda t=table: self._delete(t))

    def empty(self) -> None:
        """Take every row away."""
        metadata = sa.MetaData()
        with self.engine.begin() as connection, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            metadata.reflect(connection)
            quote = connection.dialect.identifier_preparer.format_table
            names = [quote(one) for one in metadata.tables.values() if not _is_kept(one)]
            connection.exec_driver_sql(f"TRUNCATE {', '.join(names)} CASCADE")

    def _try(self, connection: sa.Connection, statement: Any) -> None:
        try:
            with connection.begin_nested():
                connection.execute(statement())
        except (sa.exc.SQLAlchemyError, TypeError, ValueError) as error:
            if "audit" in str(error):
                raise

    def _insert(self, connection: sa.Connection, table: sa.Table) -> Any:
        return table.insert().values(self._row(connection, table))

    def _row(self, connection: sa.Connection, table: sa.Table) -> dict[str, Any]:
        row = {}
        for column in table.columns:
            if column.computed is not None or column.identity is not None:
                continue
            if column.foreign_keys:
                [key, *_] = column.foreign_keys
                there = connection.execute(sa.select(key.column)).scalars().all()
                if there:
                    row[column.name] = self.random.choice(there)
                continue
            if column.server_default is not None and self.random.random() < 0.7:
                continue
            row[column.name] = self._value(column)
        return row

    def _value(self, column: sa.Column[Any]) -> Any:
        number = next(self.numbers)
        kind = column.type
        if isinstance(kind, sa.Enum):
            return self.random.choice(kind.enums)
        if isinstance(kind, sa.String):
            return f"x{number}"[: kind.length]
        if isinstance(kind, sa.Boolean):
            return bool(number % 2)
        if isinstance(kind, sa.DateTime):
            zone = datetime.timezone.utc if kind.timezone else None
            return datetime.datetime(2020, 1, 1, tzinfo=zone) + datetime.timedelta(number)
        if isinstance(kind, sa.Date):
            return datetime.date(2020, 1, 1)
        if isinstance(kind, sa.Interval):
            return datetime.timedelta(seconds=number)
        if isinstance(kind, sa.Integer | sa.Numeric):
            return number
        if isinstance(kind, sa.Uuid):
            return uuid.UUID(int=number)
        if isinstance(kind, sa.JSON):
            return {"n": number}
        if isinstance(kind, sa.LargeBinary):
            return b"x"
        if isinstance(kind, sa.ARRAY):
            return []
        return None

    def _update(self, table: sa.Table) -> Any:
        plain = [
            column
            for column in table.columns
            if isinstance(column.type, sa.String)
            and not isinstance(column.type, sa.Enum)
            and not column.primary_key
            and not column.foreign_keys
        ]
        column = plain[0] if plain else next(iter(table.columns))
        value = f"u{next(self.numbers)}" if plain else column
        return table.update().values({column: value}).where(self._one(table))

    def _delete(self, table: sa.Table) -> Any:
        return table.delete().where(self._one(table))

    def _one(self, table: sa.Table) -> Any:
        ctid = sa.literal_column("ctid")
        return ctid == sa.select(ctid).select_from(table).limit(1).scalar_subquery()


def _is_kept(table: sa.Table) -> bool:
    return table.name == "alembic_version" or table.comment == "history kept by alembic_audit"


def headers(connection: sa.Connection) -> Iterator[dict[str, Any]]:
    rows = connection.exec_driver_sql(
        "SELECT split_part(prosrc, chr(10), 1), n.nspname FROM pg_proc "
        "JOIN pg_namespace AS n ON n.oid = pronamespace "
        "WHERE prosrc LIKE '-- alembic!_audit: %%' ESCAPE '!' ORDER BY 1"
    )
    for header, schema in rows:
        yield {"schema": schema, **json.loads(header.partition(": ")[2])}


def replay(connection: sa.Connection) -> tuple[int, list[str]]:
    """Return how many records there are, and the tables that their trails do not come to."""

    def quoted(name: str) -> str:
        return '"' + name.replace('"', '""').replace("%", "%%") + '"'

    records, wrong = 0, []
    for spec in headers(connection):
        columns, key = spec["columns"], spec["key"]
        shown = ", ".join(f"{quoted(name)}::text" for name in columns)
        rows: Any = {} if key else Counter()
        trail = connection.exec_driver_sql(
            f"SELECT audit_operation, {shown} FROM {quoted(spec['audit_table'])} ORDER BY audit_id"
        )
        for operation, *values in trail:
            records += 1
            row = tuple(values)
            if operation == "T":
                rows.clear()
            elif key:
                identity = tuple(row[columns.index(name)] for name in key)
                rows.pop(identity, None) if operation == "D" else rows.update({identity: row})
            elif operation == "D":
                rows[row] -= 1
            elif operation != "S":
                rows[row] += 1
        live = Counter(
            tuple(row)
            for row in connection.exec_driver_sql(f"SELECT {shown} FROM {quoted(spec['table'])}")
        )
        found = Counter(rows.values()) if key else +rows
        if found != live:
            wrong.append(spec["table"])
    return records, wrong


def main(url: str, name: str, early: str) -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    warnings.simplefilter("ignore")
    versions, models = APPLICATIONS[name]()
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    place = Path(tempfile.mkdtemp())
    (place / "env.py").write_text(ENV)
    config = Config()
    config.set_main_option("script_location", str(place))
    config.set_main_option("version_locations", str(versions))
    config.set_main_option("path_separator", "newline")
    runs: Any = engine
    if name == "prefect":  # its revisions are written for asyncpg
        from sqlalchemy.ext.asyncio import create_async_engine

        runs = create_async_engine(
            engine.url.set(drivername="postgresql+asyncpg"), poolclass=sa.NullPool
        )
    config.attributes.update(engine=runs, metadata=sa.MetaData(), follow=False)
    if name == "mlflow":  # its first revision changes tables that were there before Alembic
        from mlflow.store.tracking.dbmodels.initial_models import Base

        Base.metadata.create_all(engine)
    command.upgrade(config, early)

    reflected = sa.MetaData()
    reflected.reflect(engine)
    version = reflected.tables["alembic_version"]
    reflected.remove(version)
    reflected.info["audit.defaults"] = {"enabled": True}
    alembic_audit.enable()
    from alembic_audit.tables import derive_all

    specs = derive_all(reflected)
    reflected.create_all(engine)
    seed = Seed(engine)
    seed.write()

    models.info["audit.defaults"] = {"enabled": True}
    config.attributes.update(metadata=models, follow=True)
    script = ScriptDirectory.from_config(config)
    later = [one.revision for one in script.iterate_revisions("heads", early, inclusive=False)]
    passed, stopped, unlike = 0, {}, {}
    for revision in reversed(later):
        try:
            try:
                command.upgrade(config, revision)
            except sa.exc.DBAPIError as error:
                if "audit" in str(error):
                    raise
                seed.empty()  # what was seeded is no data of the application
                command.upgrade(config, revision)
            passed += 1
        except Exception as error:
            stopped[revision] = "".join(traceback.format_exception_only(error))[:2000]
            break
        seed.write()
        with engine.connect() as connection:
            records, wrong = replay(connection)
        if wrong:
            unlike[revision] = wrong
    with engine.connect() as connection:
        options = {"autogenerate_plugins": ["alembic.autogenerate.*", "alembic_audit"]}
        context = MigrationContext.configure(connection, opts=options)
        differences = [str(one) for one in compare_metadata(context, models)]
        trails = len(list(headers(connection)))
    print(
        json.dumps(
            {
                "application": name,
                "trails at first": len(specs),
                "trails": trails,
                "revisions": len(later),
                "passed": passed,
                "stopped": stopped,
                "records": records,
                "unlike": unlike,
                "differences": [one for one in differences if "audit" in one],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
