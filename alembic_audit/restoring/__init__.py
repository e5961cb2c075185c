"""Putting rows back as a trail has them: planned first, executed when asked, itself recorded."""

from alembic_audit.restoring.ask import restore, undelete, undo
from alembic_audit.restoring.plan import Conflict, Lost, Restoration, RowChange

__all__ = ["Conflict", "Lost", "Restoration", "RowChange", "restore", "undelete", "undo"]
