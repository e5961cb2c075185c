"""enable() derives audit tables when tables are declared; the engine plugin also enrolls."""

import sys
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, CreateEnginePlugin

from alembic_audit import session, tables
from alembic_audit.errors import DeclarationError


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
    """The engine plugin ``audit``: enable(), and instrument() for the engine that is made.

    ``create_engine(url, plugins=["audit"])``, or ``?plugin=audit`` in the URL. ``audit_lazy`` and
    ``audit_metadata`` are the arguments ``lazy`` and ``metadata`` of instrument(); in the URL,
    ``&audit_lazy=true``.
    """

    def __init__(self, url: URL, kwargs: dict[str, Any]) -> None:
        super().__init__(url, kwargs)
        lazy = kwargs.pop("audit_lazy", url.query.get("audit_lazy", False))
        if lazy not in (True, False, "true", "false"):
            raise DeclarationError(f"audit_lazy must be true or false, found {lazy!r}")
        self._lazy = lazy in (True, "true")
        self._metadata = kwargs.pop("audit_metadata", ())
        enable()

    def update_url(self, url: URL) -> URL:
        """Return the URL without what only this plugin reads."""
        return url.difference_update_query(["audit_lazy"])

    def engine_created(self, engine: sa.Engine) -> None:
        """Enroll the engine."""
        session.instrument(engine, lazy=self._lazy, metadata=self._metadata)
