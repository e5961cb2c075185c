"""The autogenerate hooks: finish deriving, settle what is equal; compare, protect and order."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import alembic  # noqa: F401  (first, or the order of imports decides whether this module loads)
import sqlalchemy as sa
from alembic.util import CommandError, DispatchPriority, PriorityDispatchResult

import alembic_audit.autogenerate.render  # noqa: F401  (registers the renderers)
from alembic_audit import catalog, tables
from alembic_audit.autogenerate import diff, notices, order, protect, rows, settled
from alembic_audit.autogenerate.names import audit_of, source_of
from alembic_audit.errors import AuditError
from alembic_audit.naming import CONVENTIONS
from alembic_audit.operations import CreateAuditSchemaOp, display_name
from alembic_audit.operations.run import x_argument
from alembic_audit.spec import AuditSpec
from alembic_audit.sql.text import function_name
from alembic_audit.states import AuditState, Catalog, Name

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext
    from alembic.operations.ops import MigrateOperation, UpgradeOps

log = logging.getLogger(__name__)

ELEMENT = "alembic_audit"
_DERIVED = "alembic_audit.specs"
_SETTLED = "alembic_audit.settled"
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
    for hook, priority in ((settle, DispatchPriority.FIRST), (compare, DispatchPriority.LAST)):
        comparators.dispatch_for("schema", priority=priority, subgroup=ELEMENT)(hook)


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


def settle(
    context: AutogenContext, upgrade_ops: UpgradeOps, schemas: set[str | None]
) -> PriorityDispatchResult:
    """Leave the audit tables that are as declared out of what Alembic compares."""
    if _SETTLED in upgrade_ops.info or _DERIVED not in upgrade_ops.info:
        return PriorityDispatchResult.CONTINUE
    default_schema = context.dialect.default_schema_name or "public"
    resolved = {schema or default_schema for schema in schemas}
    known = _tables(context, default_schema)
    names = (audit_of(one, default_schema) for one in upgrade_ops.info[_DERIVED])
    tables = {
        name: known[name]
        for name in names
        if name[0] in resolved and _table_included(context, known[name])
    }
    upgrade_ops.info[_SETTLED] = settled.leave_out(context, tables)
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
    upgrade_ops.info[_SETTLED]()
    connection = context.connection
    assert connection is not None
    default_schema = connection.dialect.default_schema_name or "public"
    everything: list[AuditSpec] = upgrade_ops.info[_DERIVED]
    resolved = {schema or default_schema for schema in schemas}
    new_schemas = _new_schemas(context, everything, resolved)
    found = catalog.read(connection, everything, default_schema, resolved, _prefixes(context))
    for name, reason in sorted(found.newer.items()):
        log.warning("Function %s was left alone: %s; upgrade alembic_audit", name, reason)
    declared, states = _filtered(context, everything, found, default_schema)
    if second := notices.second_trails(declared, found.foreign, default_schema):
        if not x_argument(context.migration_context, "audit_adopt"):
            notices.stop_at(second, declared)
        found.strays.extend(catalog.read_strays(connection, {one.function for one in second}))
    foreign = [one for one in found.foreign if one not in second]
    notices.stop_at_rows_needed(declared, found, foreign, upgrade_ops.ops, default_schema)
    try:
        upgrade_ops.ops[:] = _operations(
            upgrade_ops.ops, declared, states, found, default_schema, _sources(context, everything)
        )
    except AuditError as error:
        raise CommandError(str(error)) from error
    upgrade_ops.ops[:0] = [CreateAuditSchemaOp(schema) for schema in new_schemas]
    notices.log_all(upgrade_ops.ops, foreign, default_schema)
    return PriorityDispatchResult.CONTINUE


def _operations(
    theirs: Sequence[MigrateOperation],
    declared: Mapping[Name, AuditSpec],
    states: Mapping[Name, AuditState],
    found: Catalog,
    default_schema: str,
    sources: Mapping[Name, sa.Table],
) -> list[MigrateOperation]:
    specs = [*declared.values(), *(state.spec for state in found.states.values())]
    audit_tables = {audit_of(one, default_schema) for one in specs}
    changes = [(states[name].spec, declared[name]) for name in states if name in declared]
    notices.log_kept(theirs, audit_tables, changes, default_schema)
    theirs = protect.protect(theirs, audit_tables, default_schema, changes, sources)
    ours = diff.compare(
        declared,
        states,
        compile_anew=rows.compiled_with_other_types(theirs, changes, default_schema),
        unrecorded=rows.unrecorded(
            theirs, declared, {name: one.spec for name, one in states.items()}, default_schema
        ),
    )
    strays = diff.drop_strays(found.strays, default_schema)
    merged = order.merge(theirs, [*strays, *ours], default_schema)
    return order.lock(merged, states, default_schema)


def _sources(context: AutogenContext, everything: list[AuditSpec]) -> dict[Name, sa.Table]:
    """Return the audited Table of each declared audit table."""
    default_schema = context.dialect.default_schema_name or "public"
    known = _tables(context, default_schema)
    return {
        audit_of(one, default_schema): known[source_of(one, default_schema)] for one in everything
    }


def _tables(context: AutogenContext, default_schema: str) -> dict[Name, sa.Table]:
    return {
        (table.schema or default_schema, table.name): table
        for metadata in _metadatas(context)
        for table in metadata.tables.values()
    }


def _filtered(
    context: AutogenContext, everything: list[AuditSpec], found: Catalog, default_schema: str
) -> tuple[dict[Name, AuditSpec], dict[Name, AuditState]]:
    """Return the specs and states whose tables the user's filters admit."""
    known = _tables(context, default_schema)
    declared = {
        source_of(one, default_schema): one
        for one in everything
        if function_name(one, default_schema) not in found.newer
        and _included(context, known, one, default_schema)
    }
    states = {
        name: state
        for name, state in found.states.items()
        if name in declared or name not in known or _table_included(context, known[name])
    }
    return declared, states


def _metadatas(context: AutogenContext) -> list[sa.MetaData]:
    metadata: Any = context.metadata
    if metadata is None:
        return []
    return [metadata] if isinstance(metadata, sa.MetaData) else list(metadata)


def _prefixes(context: AutogenContext) -> set[str]:
    """Return what the names of audit triggers begin with, by any naming convention in use."""
    conventions = [CONVENTIONS, *(metadata.naming_convention for metadata in _metadatas(context))]
    return {
        str(convention.get("audit.trigger", "")).partition("%")[0] for convention in conventions
    }


def _new_schemas(context: AutogenContext, specs: list[AuditSpec], resolved: set[str]) -> list[str]:
    """Return the declared audit schemas that do not exist.

    Raises:
        CommandError: A schema exists, and autogenerate does not look at it.
    """
    absent = set()
    for one in specs:
        for schema in (one.schema, one.audit_schema):
            if schema is None or schema in resolved:
                continue
            # include_schemas looks at every schema that there is and that include_name admits.
            if context.opts.get("include_schemas") and context.run_name_filters(
                schema, "schema", {}
            ):
                if schema != one.schema:
                    absent.add(schema)
                continue
            raise CommandError(
                f"{display_name(one)} and its audit table {one.audit_table!r} use schema "
                f"{schema!r}, which autogenerate does not look at, so the table would be "
                "created again for ever; write include_schemas=True in context.configure(...), "
                "and let include_name admit the schema"
            )
    return sorted(absent)


def _included(
    context: AutogenContext,
    known: dict[tuple[str, str], sa.Table],
    spec: AuditSpec,
    default_schema: str,
) -> bool:
    if not _table_included(context, known[source_of(spec, default_schema)]):
        return False
    audit = known[audit_of(spec, default_schema)]
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
