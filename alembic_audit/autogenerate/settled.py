"""Audit tables that are exactly as declared are settled: Alembic need not compare them one by one.

One statement finds them. Until our last hook runs, two filters in the context of this run, beside
the user's own include_name and include_object, leave them out of both sides of the comparison.
Every other audit table is left to Alembic, and so is each of them whenever something of the user's
or of another plugin's could tell equal tables apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import alembic  # noqa: F401  (first, or the order of imports decides whether this module loads)
import sqlalchemy as sa

from alembic_audit.catalog import shapes
from alembic_audit.states import Name

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext


def leave_out(context: AutogenContext, tables: Mapping[Name, sa.Table]) -> Callable[[], None]:
    """Leave out those of some declared audit Tables that are in the database as declared.

    Args:
        context: Of this run.
        tables: The declared audit Tables that the user's filters admit, by resolved name.

    Returns:
        What brings them back.
    """
    connection = context.connection
    assert connection is not None
    if not tables or _could_differ(context):
        return lambda: None
    default_schema = connection.dialect.default_schema_name or "public"
    equal = shapes.equal(connection, tables, default_schema)

    def admits_name(name: str | None, kind: str, parents: Mapping[str, Any]) -> bool:
        return kind != "table" or (parents.get("schema_name") or default_schema, name) not in equal

    def admits_object(
        item: Any, name: str | None, kind: str, reflected: bool, compare_to: Any
    ) -> bool:
        # A declared table whose name was left out is not found, and would be a new one.
        return (
            kind != "table"
            or compare_to is not None
            or (item.schema or default_schema, name) not in equal
        )

    def bring_back() -> None:
        context._name_filters.remove(admits_name)
        context._object_filters.remove(admits_object)

    context._name_filters.append(admits_name)
    context._object_filters.append(admits_object)
    return bring_back


def _could_differ(context: AutogenContext) -> bool:
    """Return whether somebody compares tables by rules of their own."""
    from alembic.ddl.postgresql import PostgresqlImpl

    if type(context.migration_context.impl) is not PostgresqlImpl:
        return True
    # Nobody's compare_server_default: the only default of a plain audit table is its identity.
    if callable(context.opts.get("compare_type")):
        return True
    return any(
        target not in ("autogenerate", "schema") and not hook.__module__.startswith("alembic.")
        for (target, _, _), hooks in context.comparators._registry.items()
        for hook, _ in hooks
    )
