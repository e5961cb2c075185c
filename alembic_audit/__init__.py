"""PostgreSQL audit trails as first-class Alembic objects.

Importing this package imports no Alembic, so that application models can import it.
"""

from typing import TYPE_CHECKING, Any

from alembic_audit.context import audit_context
from alembic_audit.ddl import install_audit_triggers, uninstall_audit_triggers
from alembic_audit.errors import (
    AuditError,
    ContextError,
    DeclarationError,
    ReadingError,
    SettingError,
    SpecError,
)
from alembic_audit.listeners import enable
from alembic_audit.middleware import AuditASGIMiddleware, AuditWSGIMiddleware
from alembic_audit.migrations import check_trails, run_migrations
from alembic_audit.naming import (
    DEFAULT_AUDIT_TABLE_FUNCTION_NAMING_CONVENTION,
    DEFAULT_AUDIT_TABLE_NAMING_CONVENTION,
    DEFAULT_AUDIT_TABLE_TRIGGER_CONVENTION,
)
from alembic_audit.session import instrument, set_session_vars
from alembic_audit.spec import AuditSpec
from alembic_audit.tables import audit_table, audited
from alembic_audit.version import __version__

if TYPE_CHECKING:
    from alembic_audit.reading.blame import blame
    from alembic_audit.reading.difference import Change, diff
    from alembic_audit.reading.history import changes, history
    from alembic_audit.reading.past import as_of, past
    from alembic_audit.reading.record import AuditRecord, audit_class
    from alembic_audit.reading.trail import AuditId, TransactionId

__all__ = [
    "DEFAULT_AUDIT_TABLE_FUNCTION_NAMING_CONVENTION",
    "DEFAULT_AUDIT_TABLE_NAMING_CONVENTION",
    "DEFAULT_AUDIT_TABLE_TRIGGER_CONVENTION",
    "AuditASGIMiddleware",
    "AuditError",
    "AuditId",
    "AuditRecord",
    "AuditSpec",
    "AuditWSGIMiddleware",
    "Change",
    "ContextError",
    "DeclarationError",
    "ReadingError",
    "SettingError",
    "SpecError",
    "TransactionId",
    "__version__",
    "as_of",
    "audit_class",
    "audit_context",
    "audit_table",
    "audited",
    "blame",
    "changes",
    "check_trails",
    "diff",
    "enable",
    "history",
    "install_audit_triggers",
    "instrument",
    "past",
    "run_migrations",
    "set_session_vars",
    "uninstall_audit_triggers",
]


def __getattr__(name: str) -> Any:
    """Import what reads trails when it is asked for: it needs the ORM, and a migration does not."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from alembic_audit import reading

    return getattr(reading, name)
