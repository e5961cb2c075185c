"""Triggers of others: which tables their functions insert into."""

import re
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from alembic_audit.catalog.state import Trigger
from alembic_audit.states import ForeignTrigger

_ROW_BIT, _NOT_AFTER_BITS = 1, 66
_COMMENT = r"--[^\n]*|/\*.*?\*/"
_SPACE = rf"(?:\s|{_COMMENT})"
_IDENTIFIER = r'("(?:[^"]|"")+"|[^\s"().;,\']+)'
_INSERTS = re.compile(
    rf"{_COMMENT}|\b(?:insert|merge){_SPACE}+into{_SPACE}+{_IDENTIFIER}"
    rf"(?:{_SPACE}*\.{_SPACE}*{_IDENTIFIER})?",
    re.IGNORECASE | re.DOTALL,
)


def trigger(row: "Trigger | sa.Row[Any]", source: str) -> ForeignTrigger:
    """Return somebody else's trigger, with the source of the function that it calls."""
    return ForeignTrigger(
        (row.nspname, row.relname),
        row.tgname,
        (row.function_schema, row.proname),
        tuple(_inserts_into(source)),
        bool(row.tgtype & _ROW_BIT) and not row.tgtype & _NOT_AFTER_BITS,
    )


def _inserts_into(source: str) -> Iterator[tuple[str | None, str]]:
    for match in _INSERTS.finditer(source):
        first, second = match.groups()
        if first is not None:
            yield (None, _folded(first)) if second is None else (_folded(first), _folded(second))


def _folded(identifier: str) -> str:
    """Return an identifier as PostgreSQL reads it."""
    if identifier.startswith('"'):
        return identifier[1:-1].replace('""', '"')
    return identifier.lower()
