"""PostgreSQL audit trails as first-class Alembic objects.

Importing this package imports no Alembic, so that application models can import it, and hardly
anything else: every `alembic` command does it, and most need one module. A name is imported when it
is asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alembic_audit.context import audit_context
    from alembic_audit.database_types import DatabaseType
    from alembic_audit.ddl import install_audit_triggers, uninstall_audit_triggers
    from alembic_audit.errors import (
        AuditError,
        ContextError,
        DeclarationError,
        ReadingError,
        RestoreError,
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
    from alembic_audit.reading.blame import blame
    from alembic_audit.reading.difference import Change, diff
    from alembic_audit.reading.entity import PastEntityError
    from alembic_audit.reading.history import changes, history
    from alembic_audit.reading.past import as_of, past
    from alembic_audit.reading.record import AuditRecord, audit_class
    from alembic_audit.reading.settled import settled_transaction
    from alembic_audit.reading.trail import AuditId, TransactionId
    from alembic_audit.restoring.ask import restore, undelete, undo
    from alembic_audit.restoring.plan import Restoration
    from alembic_audit.session import instrument, set_session_vars
    from alembic_audit.spec import AuditSpec
    from alembic_audit.tables import audit_table, audited
    from alembic_audit.version import __version__

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
    "DatabaseType",
    "DeclarationError",
    "PastEntityError",
    "ReadingError",
    "Restoration",
    "RestoreError",
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
    "restore",
    "run_migrations",
    "set_session_vars",
    "settled_transaction",
    "undelete",
    "undo",
    "uninstall_audit_triggers",
]

_MODULES = {
    "audit_context": "context",
    "DatabaseType": "database_types",
    "install_audit_triggers": "ddl",
    "uninstall_audit_triggers": "ddl",
    "AuditError": "errors",
    "ContextError": "errors",
    "DeclarationError": "errors",
    "ReadingError": "errors",
    "RestoreError": "errors",
    "SettingError": "errors",
    "SpecError": "errors",
    "enable": "listeners",
    "AuditASGIMiddleware": "middleware",
    "AuditWSGIMiddleware": "middleware",
    "check_trails": "migrations",
    "run_migrations": "migrations",
    "DEFAULT_AUDIT_TABLE_FUNCTION_NAMING_CONVENTION": "naming",
    "DEFAULT_AUDIT_TABLE_NAMING_CONVENTION": "naming",
    "DEFAULT_AUDIT_TABLE_TRIGGER_CONVENTION": "naming",
    "blame": "reading.blame",
    "Change": "reading.difference",
    "diff": "reading.difference",
    "PastEntityError": "reading.entity",
    "changes": "reading.history",
    "history": "reading.history",
    "as_of": "reading.past",
    "past": "reading.past",
    "AuditRecord": "reading.record",
    "audit_class": "reading.record",
    "settled_transaction": "reading.settled",
    "AuditId": "reading.trail",
    "TransactionId": "reading.trail",
    "Restoration": "restoring.plan",
    "restore": "restoring.ask",
    "undelete": "restoring.ask",
    "undo": "restoring.ask",
    "instrument": "session",
    "set_session_vars": "session",
    "AuditSpec": "spec",
    "audit_table": "tables",
    "audited": "tables",
    "__version__": "version",
}
"""Public names, each with the module that it is imported from."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
