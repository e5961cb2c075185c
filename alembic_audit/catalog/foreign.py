"""Triggers of others: which tables their functions write."""

import re
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from alembic_audit.catalog.state import Trigger
from alembic_audit.states import ForeignTrigger

_ROW_BIT, _BEFORE_BIT, _NOT_AFTER_BITS = 1, 2, 66
_COMMENT = r"--[^\n]*|/\*.*?\*/"
_SPACE = rf"(?:\s|{_COMMENT})"
_IDENTIFIER = r'("(?:[^"]|"")+"|[^\s"().;,\']+)'
_TABLE = rf"{_IDENTIFIER}(?:{_SPACE}*\.{_SPACE}*{_IDENTIFIER})?"
_INSERTS = re.compile(
    rf"{_COMMENT}|\b(?:insert|merge){_SPACE}+into{_SPACE}+{_TABLE}", re.IGNORECASE | re.DOTALL
)
_CHANGES = re.compile(
    # FOR UPDATE locks, and DO UPDATE belongs to an INSERT.
    rf"{_COMMENT}|\b(?:for|do){_SPACE}+update\b|\b(?:update|delete{_SPACE}+from)"
    rf"{_SPACE}+(?:only{_SPACE}+)?{_TABLE}",
    re.IGNORECASE | re.DOTALL,
)


def trigger(row: "Trigger | sa.Row[Any]", source: str) -> ForeignTrigger:
    """Return somebody else's trigger, with the source of the function that it calls."""
    is_row = bool(row.tgtype & _ROW_BIT)
    return ForeignTrigger(
        (row.nspname, row.relname),
        row.tgname,
        (row.function_schema, row.proname),
        tuple(_named_by(_INSERTS, source)),
        tuple(_named_by(_CHANGES, source)),
        is_row and not row.tgtype & _NOT_AFTER_BITS,
        is_row and bool(row.tgtype & _BEFORE_BIT),
    )


def _named_by(pattern: "re.Pattern[str]", source: str) -> Iterator[tuple[str | None, str]]:
    for match in pattern.finditer(source):
        first, second = match.groups()
        if first is not None:
            yield (None, _folded(first)) if second is None else (_folded(first), _folded(second))


def _folded(identifier: str) -> str:
    """Return an identifier as PostgreSQL reads it."""
    if identifier.startswith('"'):
        return identifier[1:-1].replace('""', '"')
    return identifier.lower()
