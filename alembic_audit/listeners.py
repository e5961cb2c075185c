"""enable() and the engine plugin: derive audit tables when tables are declared."""

import sys
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, CreateEnginePlugin

from alembic_audit import tables


def enable() -> None:
    """Derive audit tables as soon as a Table is attached to its MetaData.

    Called in an Alembic env.py it also switches comparing on, as ``"alembic_audit"`` in
    ``autogenerate_plugins`` does. It never imports Alembic, and calling it twice changes nothing.
    """
    if not event.contains(sa.Table, "after_parent_attach", _attached):
        event.listen(sa.Table, "after_parent_attach", _attached)
    if "alembic" in sys.modules:
        from alembic_audit.autogenerate import compare

        compare.register_globally()


def _attached(table: sa.Table, parent: Any) -> None:
    if isinstance(parent, sa.MetaData):
        tables.derive(table)


class AuditPlugin(CreateEnginePlugin):
    """The engine plugin ``audit``: ``plugins=["audit"]`` or ``?plugin=audit`` call enable()."""

    def __init__(self, url: URL, kwargs: dict[str, Any]) -> None:
        super().__init__(url, kwargs)
        enable()

    def update_url(self, url: URL) -> URL:
        """Return the URL without what only this plugin reads."""
        return url
