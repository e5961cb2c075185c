"""The two autogenerate hooks: finish deriving, then compare, protect and order."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import alembic  # noqa: F401  (first, or the order of imports decides whether this module loads)
import sqlalchemy as sa
from alembic.util import CommandError, DispatchPriority, PriorityDispatchResult

import alembic_audit.autogenerate.render  # noqa: F401  (registers the renderers)
from alembic_audit import catalog, sql, tables
from alembic_audit.autogenerate import diff, order
from alembic_audit.errors import AuditError
from alembic_audit.operations import display_name
from alembic_audit.spec import AuditSpec

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext
    from alembic.operations.ops import UpgradeOps

log = logging.getLogger(__name__)

ELEMENT = "alembic_audit"
_DERIVED = "alembic_audit.specs"
_COMPARED = "alembic_audit.compared"


def register_globally() -> None:
    """Give the hooks to Alembic's global comparators, once."""
    from alembic.autogenerate import comparators

    registry = comparators._registry[("autogenerate", "default", DispatchPriority.FIRST)]
    if (finish_deriving, ELEMENT) in registry:
        return
    comparators.dispatch_for("autogenerate", priority=DispatchPriority.FIRST, subgroup=ELEMENT)(
        finish_deriving
    )
    comparators.dispatch_for("schema", priority=DispatchPriority.LAST, subgroup=ELEMENT)(compare)


def finish_deriving(context: AutogenContext, upgrade_ops: UpgradeOps) -> PriorityDispatchResult:
    """Derive every audit table, before Alembic looks at the metadata.

    Raises:
        CommandError: A declaration is wrong, or only this plugin is listed.
    """
    if _DERIVED in upgrade_ops.info or context.dialect.name != "postgresql":
        return PriorityDispatchResult.CONTINUE
    listed = context.migration_context.opts.get("autogenerate_plugins")
    if listed is not None and not any(name.startswith("alembic.autogenerate") for name in listed):
        raise CommandError(
            'autogenerate_plugins lists "alembic_audit" alone, so that nothing would be compared; '
            'write autogenerate_plugins=["alembic.autogenerate.*", "alembic_audit"]'
        )
    specs: list[AuditSpec] = []
    try:
        for metadata in _metadatas(context):
            specs += tables.derive_all(metadata)
        tables.refuse_shared(specs, context.dialect.default_schema_name or "public")
    except AuditError as error:
        raise CommandError(str(error)) from error
    upgrade_ops.info[_DERIVED] = specs
    return PriorityDispatchResult.CONTINUE


def compare(
    context: AutogenContext, upgrade_ops: UpgradeOps, schemas: set[str | None]
) -> PriorityDispatchResult:
    """Add our operations to Alembic's, protect history, and put all in order.

    Raises:
        CommandError: What the models ask for cannot be compared or is not built.
    """
    if _COMPARED in upgrade_ops.info or _DERIVED not in upgrade_ops.info:
        return PriorityDispatchResult.CONTINUE
    upgrade_ops.info[_COMPARED] = True
    connection = context.connection
    assert connection is not None
    default_schema = connection.dialect.default_schema_name or "public"
    everything: list[AuditSpec] = upgrade_ops.info[_DERIVED]
    resolved = {schema or default_schema for schema in schemas}
    _require_schemas(everything, resolved, default_schema)
    found = catalog.read(connection, everything, default_schema, resolved)
    for name, reason in sorted(found.newer.items()):
        log.warning("Function %s was left alone: %s; upgrade alembic_audit", name, reason)

    tables_by_name = {
        (table.schema or default_schema, table.name): table
        for metadata in _metadatas(context)
        for table in metadata.tables.values()
    }
    declared = {
        (one.schema or default_schema, one.table): one
        for one in everything
        if sql.function_name(one, default_schema) not in found.newer
        and _included(context, tables_by_name, one, default_schema)
    }
    states = {
        name: state
        for name, state in found.states.items()
        if name in declared
        or name not in tables_by_name
        or _table_included(context, tables_by_name[name])
    }
    audit_tables = {
        (one.audit_schema or default_schema, one.audit_table)
        for one in [*everything, *(state.spec for state in found.states.values())]
    }
    try:
        ours = diff.compare(declared, states)
        theirs = diff.protect(upgrade_ops.ops, audit_tables, default_schema)
    except AuditError as error:
        raise CommandError(str(error)) from error
    for op in ours:
        log.info("Detected %s", " ".join(str(part) for part in op.to_diff_tuple()[:2]))
    upgrade_ops.ops[:] = order.merge(theirs, ours, default_schema)
    return PriorityDispatchResult.CONTINUE


def _metadatas(context: AutogenContext) -> list[sa.MetaData]:
    metadata: Any = context.metadata
    if metadata is None:
        return []
    return [metadata] if isinstance(metadata, sa.MetaData) else list(metadata)


def _require_schemas(specs: list[AuditSpec], resolved: set[str], default_schema: str) -> None:
    for one in specs:
        for schema in (one.schema, one.audit_schema):
            if schema is not None and schema not in resolved:
                raise CommandError(
                    f"{display_name(one)} and its audit table {one.audit_table!r} use schema "
                    f"{schema!r}, which autogenerate does not look at, so the table would be "
                    "created again for ever; write include_schemas=True in context.configure(...)"
                )


def _included(
    context: AutogenContext,
    known: dict[tuple[str, str], sa.Table],
    spec: AuditSpec,
    default_schema: str,
) -> bool:
    if not _table_included(context, known[(spec.schema or default_schema, spec.table)]):
        return False
    audit = known[(spec.audit_schema or default_schema, spec.audit_table)]
    if not _table_included(context, audit):
        log.warning(
            "%s is not audited: include_object or include_name leaves out its audit table %s",
            display_name(spec),
            spec.audit_table,
        )
        return False
    return True


def _table_included(context: AutogenContext, table: sa.Table) -> bool:
    return context.run_name_filters(
        table.name, "table", {"schema_name": table.schema}
    ) and context.run_object_filters(table, table.name, "table", False, None)
