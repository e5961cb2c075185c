"""Which table an operation or a spec is about: (schema, name), resolved."""

from typing import Any

import alembic  # noqa: F401  (first, or the order of imports decides whether this module loads)
from alembic.operations import ops
from alembic.operations.ops import MigrateOperation

from alembic_audit.spec import AuditSpec
from alembic_audit.states import Name


def table_of(op: MigrateOperation, default_schema: str) -> Name:
    """Return the table of an operation; of another tool's, whose names are none, ("", "")."""
    schema, table = place_of(op)
    return (schema or default_schema, table) if table else ("", "")


def place_of(op: MigrateOperation) -> tuple[str | None, str]:
    """Return the table of an operation, unresolved."""
    schema: Any = getattr(op, "schema", None)
    table: Any = getattr(op, "table_name", None)
    if isinstance(op, ops.CreateForeignKeyOp):
        schema, table = op.kw.get("source_schema"), op.source_table
    if not isinstance(table, str) or not isinstance(schema, str | None):
        return (None, "")
    return (schema, table)


def source_of(spec: AuditSpec, default_schema: str) -> Name:
    """Return the audited table of a spec."""
    return (spec.schema or default_schema, spec.table)


def audit_of(spec: AuditSpec, default_schema: str) -> Name:
    """Return the audit table of a spec."""
    return (spec.audit_schema or default_schema, spec.audit_table)
