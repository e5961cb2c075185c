"""The errors this package raises itself, and what those of drivers say."""


def sqlstate(error: object) -> str | None:
    """Return the SQLSTATE of an error of any driver."""
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)


class AuditError(Exception):
    """Base of every error of alembic_audit."""


class DeclarationError(AuditError, ValueError):
    """What a model asks for cannot be audited as written; nothing was changed."""


class SpecError(AuditError, ValueError):
    """The arguments of an audit operation do not describe a trigger; nothing was changed."""


class SettingError(AuditError, ValueError):
    """The name or the value of a session setting is wrong; nothing was sent."""


class ContextError(AuditError, RuntimeError):
    """Settings, or a context, could take no effect where they were given."""


class ReadingError(AuditError, ValueError):
    """What is asked of a trail, it cannot answer; nothing was sent."""


class RestoreError(AuditError, ValueError):
    """Rows cannot be put back as asked; nothing was changed."""
