"""What env.py knows, got at as ``alembic check`` gets at it: models, filters, connection."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from contextlib import redirect_stdout
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

import alembic  # noqa: F401  (first, or the order of imports decides whether this module loads)
import sqlalchemy as sa
from alembic.autogenerate import comparators
from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import UpgradeOps
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError, DispatchPriority

from alembic_audit.autogenerate import compare
from alembic_audit.spec import AuditSpec
from alembic_audit.states import Catalog, Name

if TYPE_CHECKING:
    from typing import TextIO

    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext


@dataclasses.dataclass(frozen=True)
class Models:
    """What one ``context.configure()`` of an env.py says.

    Attributes:
        connection: The connection that env.py made.
        metadatas: ``target_metadata``; empty where env.py has none.
        specs: What the models ask for, filtered by include_object and include_name.
        schemas: The schemas that autogenerate looks at, resolved.
        prefixes: What the names of our triggers begin with.
        left_out: Tables of the models that the filters leave out.
        is_switched_on: Autogenerate compares audits: the plugin is listed, or enable() was called.
    """

    connection: sa.Connection
    metadatas: list[sa.MetaData]
    specs: list[AuditSpec]
    schemas: set[str]
    prefixes: set[str]
    left_out: set[Name]
    is_switched_on: bool


def run_env(config: Config, use: Callable[[Models], None], output: TextIO) -> None:
    """Run an env.py without migrations, and give what it knows to a function.

    The function is called, inside env.py's transaction, wherever env.py runs migrations. Nothing is
    written, not even Alembic's own table.

    Args:
        config: Of alembic.ini.
        use: Takes the models while the connection is open.
        output: Where what env.py prints goes.

    Raises:
        CommandError: env.py or a declaration is wrong, or env.py runs no migrations.
    """
    script = ScriptDirectory.from_config(config)
    used: list[Models] = []

    def retrieve(_revision: Any, migration: MigrationContext) -> list[Any]:
        models = _models(migration)
        used.append(models)
        use(models)
        return []

    with (
        EnvironmentContext(config, script, fn=retrieve, as_sql=False, dont_mutate=True),
        redirect_stdout(output),
    ):
        script.run_env()
    if not used:
        raise CommandError("env.py ran no migrations: context.run_migrations() is not called")


def _models(migration: MigrationContext) -> Models:
    connection = migration.connection
    if connection is None or connection.dialect.name != "postgresql":
        raise CommandError("env.py connects to no PostgreSQL database")
    default_schema = connection.dialect.default_schema_name or "public"
    if migration.opts.get("target_metadata") is None:
        return Models(connection, [], [], set(), set(), set(), True)
    context = AutogenContext(migration)
    ops = UpgradeOps([])
    compare.finish_deriving(context, ops)
    everything: list[AuditSpec] = ops.info[compare._DERIVED]
    schemas = _schemas(context, default_schema)
    known = compare._tables(context, default_schema)
    declared, _ = compare._filtered(
        context, everything, Catalog({}, [], {}, [], {}), default_schema
    )
    return Models(
        connection,
        compare._metadatas(context),
        list(declared.values()),
        schemas,
        compare._prefixes(context),
        {name for name, table in known.items() if not compare._table_included(context, table)},
        _is_switched_on(migration.opts.get("autogenerate_plugins") or ()),
    )


def _schemas(context: AutogenContext, default_schema: str) -> set[str]:
    """Return the schemas that autogenerate looks at, as Alembic finds them."""
    connection = context.connection
    assert connection is not None
    names: set[str | None] = {None}
    if context.opts.get("include_schemas"):
        names |= set(sa.inspect(connection).get_schema_names())
        names -= {"information_schema", default_schema}
    return {
        name or default_schema for name in names if context.run_name_filters(name, "schema", {})
    }


def _is_switched_on(listed: Collection[str]) -> bool:
    registry = comparators._registry[("autogenerate", "default", DispatchPriority.FIRST)]
    return (compare.finish_deriving, compare.ELEMENT) in registry or any(
        fnmatch(compare.ELEMENT, name) for name in listed
    )
