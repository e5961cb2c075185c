"""What becomes of an audit column when the type it stores changes. A recorded value is never cast.

Types are compared as PostgreSQL's text of them, which is the same for a declared and for a
reflected type.
"""

import re
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeEngine

from alembic_audit import naming

_PG = postgresql.dialect()  # type: ignore[no-untyped-call]
_SHAPE = re.compile(
    r"(?P<base>[A-Z ]+?) ?(?:\((?P<size>\d+)(?:, (?P<scale>\d+))?\))?"
    r"(?P<zone> WITH(?:OUT)? TIME ZONE)?(?P<rest> COLLATE .+)?\Z"
)


def text(kind: TypeEngine[Any]) -> str:
    """Return a type as SQL."""
    return str(kind.compile(dialect=_PG))


def catalog_text(kind: TypeEngine[Any]) -> str:
    """Return a type that can be widened as PostgreSQL's ``format_type`` spells it."""
    return text(kind).lower().replace("varchar", "character varying").replace(", ", ",")


def aside(column: str, kind: TypeEngine[Any]) -> str:
    """Return what a column of a type is called when it is set aside, ``amount__text`` for one."""
    spelled = text(kind).lower().replace("[]", " array")
    slug = re.sub(r"[^a-z0-9]+", "_", spelled).strip("_")
    return naming.shorten(f"{column}__{slug}")


def widens(old: TypeEngine[Any], new: TypeEngine[Any]) -> bool:
    """Return whether ``ALTER COLUMN ... TYPE`` leaves every stored value as it is, with no rewrite.

    That is a longer or unlimited VARCHAR, BIT VARYING, time or timestamp, and a NUMERIC of the same
    scale with more digits (PostgreSQL manual, ALTER TABLE, Notes).
    """
    before, after = _SHAPE.match(text(old)), _SHAPE.match(text(new))
    if before is None or after is None or before["rest"] != after["rest"]:
        return False
    base = before["base"]
    if base in ("VARCHAR", "TEXT"):
        return after["base"] in ("VARCHAR", "TEXT") and _no_less(before["size"], after["size"])
    if (base, before["zone"]) != (after["base"], after["zone"]):
        return False
    if base == "NUMERIC":
        return after["size"] is None or (
            before["size"] is not None
            and before["scale"] == after["scale"]
            and _no_less(before["size"], after["size"])
        )
    if base in ("BIT VARYING", "TIMESTAMP", "TIME"):
        return _no_less(before["size"], after["size"])
    return False


def holds(stored: TypeEngine[Any], declared: TypeEngine[Any]) -> bool:
    """Return whether a column of the type *stored* can hold all values of *declared*, unaltered.

    Both are of one type, whatever their lengths: a value goes into its audit column without a cast.
    """
    return widens(declared, stored) and _is_text(stored) == _is_text(declared)


def wide_enough(stored: TypeEngine[Any], declared: TypeEngine[Any]) -> TypeEngine[Any]:
    """Return the type for an audit column whose source column has the type *declared* now.

    That is *declared*; for a column that is TEXT a VARCHAR without a limit, which holds all it held
    and needs no rewrite.
    """
    if _is_text(stored) and (text(declared) + "(").startswith("VARCHAR("):
        return sa.String()
    return declared


def _is_text(kind: TypeEngine[Any]) -> bool:
    return text(kind) == "TEXT"


def _no_less(old: str | None, new: str | None) -> bool:
    return new is None or (old is not None and int(new) >= int(old))
