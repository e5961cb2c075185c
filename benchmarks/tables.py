"""The audited table, and its rows."""

import datetime
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

KINDS: list[tuple[str, sa.types.TypeEngine[Any], str, Any]] = [
    ("name", sa.Text(), "'name ' || g", "Ann Other"),
    ("email", sa.String(100), "'someone.' || g || '@example.org'", "someone.else@example.org"),
    ("city", sa.Text(), "'Springfield'", "Springfield"),
    ("amount", sa.Numeric(12, 2), "g * 1.25", Decimal("12.50")),
    ("visits", sa.Integer(), "mod(g, 100)", 7),
    ("ref", sa.BigInteger(), "g * 1000000007", 1_000_000_007),
    ("active", sa.Boolean(), "mod(g, 2) = 0", True),
    ("born", sa.Date(), "DATE '1990-01-01' + mod(g, 1000)::integer", datetime.date(1990, 5, 17)),
    (
        "seen",
        sa.DateTime(timezone=True),
        "TIMESTAMPTZ '2026-01-01 00:00+00' + g * INTERVAL '1 second'",
        datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),
    ),
    ("token", sa.Uuid(), "md5(g::text)::uuid", uuid.UUID(int=12345)),
    ("score", sa.Double(), "g / 7.0", 0.75),
]
"""Name, type, the value of row `g` in SQL, and a value from the client."""

LARGE = "(SELECT string_agg(md5(g || '.' || part), '') FROM generate_series(1, 256) AS part)"
"""8 kB that do not compress, so they are stored out of line."""


@dataclass(frozen=True)
class Shape:
    """One shape of the audited table and its trail.

    Attributes:
        columns: Columns of the table, its key included.
        settings: Session settings that are recorded.
        history: Records that are there before.
        large: The table has one more column, of 8 kB a row.
        identity: PostgreSQL numbers the rows.
        options: Options of the audit, beside those of a system.
    """

    columns: int = 12
    settings: int = 0
    history: int = 0
    large: bool = False
    identity: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return [name for name, *_ in self._kinds()]

    def _kinds(self) -> list[tuple[str, sa.types.TypeEngine[Any], str, Any]]:
        made = []
        for number in range(self.columns - 1):
            turn, kind = divmod(number, len(KINDS))
            name, *rest = KINDS[kind]
            made.append((f"{name}_{turn}" if turn else name, *rest))
        return made + ([("doc", sa.Text(), LARGE, "x" * 8192)] if self.large else [])

    def table(self, metadata: sa.MetaData) -> sa.Table:
        """Return the audited table."""
        columns = [sa.Column(name, type_) for name, type_, *_ in self._kinds()]
        # Beyond the rows that are there before.
        own = [sa.Identity(start=1_000_000_000)] if self.identity else []
        key = sa.Column("id", sa.BigInteger(), *own, primary_key=True, autoincrement=self.identity)
        return sa.Table("item", metadata, key, *columns)

    def row(self, number: int) -> list[Any]:
        """Return one row, as a client sends it."""
        return [number, *(value for *_, value in self._kinds())]

    def rows(self, first: str, last: str) -> str:
        """Return the query that makes many rows."""
        values = ", ".join(expression for _, _, expression, _ in self._kinds())
        return f"SELECT g, {values} FROM generate_series({first}::bigint, {last}::bigint) AS g"
