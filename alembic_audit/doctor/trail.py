"""One trail, as doctor's checks take it."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from alembic_audit.catalog.health import Health, Place
from alembic_audit.doctor.values import Finding, finding
from alembic_audit.levels import ForeignKey
from alembic_audit.naming import qualify
from alembic_audit.spec import AuditSpec
from alembic_audit.states import AuditState, Name


@dataclasses.dataclass(frozen=True)
class Trail:
    """One trail and what stands around it.

    Attributes:
        state: Its spec and drift.
        place: Where it is.
        health: Rows of the catalogs.
        places: The trails of all tables, by audited table.
        foreign_keys: Those of the audited table.
    """

    state: AuditState
    place: Place
    health: Health
    places: dict[Name, Place]
    foreign_keys: Sequence[ForeignKey] = ()

    @property
    def spec(self) -> AuditSpec:
        """What is recorded."""
        return self.state.spec

    @property
    def name(self) -> str:
        """The audited table, for people."""
        return shown(self.place.source)

    @property
    def audit_name(self) -> str:
        """The audit table, for SQL."""
        return qualify(*self.place.audit)

    @property
    def audit(self) -> "sa.Row[Any] | None":
        """The audit table's row."""
        return self.health.relations.get(self.place.audit)

    def finding(
        self, kind: str, what: str, cure: str | None = None, severity: str | None = None
    ) -> Finding:
        """Return a finding about this trail."""
        return finding(kind, self.name, what, cure, severity)


Check = Callable[[Trail], Iterator[Finding]]
"""What looks at one trail."""

WideCheck = Callable[[Sequence[Trail]], Iterator[Finding]]
"""What looks at all trails, so that what concerns the database is said once."""


def shown(name: Name) -> str:
    """Return ``schema.name``, for people."""
    return ".".join(name)


def several(names: Iterable[str]) -> str:
    """Return some names for people, and how many more there are."""
    all_names = list(dict.fromkeys(names))
    shown_names = ", ".join(all_names[:5])
    return shown_names + (f" and {len(all_names) - 5} more" if len(all_names) > 5 else "")
