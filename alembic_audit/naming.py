"""Names: conventions, the 63-byte rule, quoting, and which schema ``None`` means."""

import functools
import hashlib
import re
from collections.abc import Mapping

from alembic_audit.errors import DeclarationError, SpecError

DEFAULT_AUDIT_TABLE_NAMING_CONVENTION = "%(table_name)s_audit"
DEFAULT_AUDIT_TABLE_FUNCTION_NAMING_CONVENTION = "%(schema)s_%(table_name)s_audit"
DEFAULT_AUDIT_TABLE_TRIGGER_CONVENTION = "00_audit_%(table_name)s"

CONVENTIONS: Mapping[str, str] = {
    "audit.table": DEFAULT_AUDIT_TABLE_NAMING_CONVENTION,
    "audit.function": DEFAULT_AUDIT_TABLE_FUNCTION_NAMING_CONVENTION,
    "audit.trigger": DEFAULT_AUDIT_TABLE_TRIGGER_CONVENTION,
}

MAX_IDENTIFIER_BYTES = 63
"""NAMEDATALEN - 1 (PostgreSQL manual, 4.1.1); PostgreSQL cuts longer names silently."""

_SETTING = re.compile(r"[a-z_][a-z0-9_]*\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def check_identifier(name: str, what: str) -> str:
    """Return *name* if PostgreSQL can hold it as an identifier.

    Args:
        name: The identifier, unquoted.
        what: What it names, for the message.

    Raises:
        SpecError: It is empty or too long, or holds what no identifier can.
    """
    if not isinstance(name, str) or not name:
        raise SpecError(f"{what} must be a non-empty string, found {name!r}")
    if wrong := _wrong(name):
        raise SpecError(f"{what} {name!r} {wrong}")
    return name


# The same names stand in many places, of specs and of statements.
@functools.lru_cache(maxsize=4096)
def _wrong(name: str) -> str | None:
    """Return what is wrong with an identifier, and what to write instead."""
    if _CONTROL.search(name):
        return "holds a control character; write a name of printable characters"
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "holds a lone surrogate; write valid Unicode"
    if size > MAX_IDENTIFIER_BYTES:
        return (
            f"has {size} bytes, of which PostgreSQL keeps {MAX_IDENTIFIER_BYTES}; "
            "write a shorter name"
        )
    return None


@functools.lru_cache(maxsize=4096)
def quote(name: str) -> str:
    """Return *name* as a quoted identifier, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'


@functools.lru_cache(maxsize=4096)
def literal(value: str) -> str:
    """Return *value* as a string literal that is right for either standard_conforming_strings."""
    quoted = "'" + value.replace("'", "''") + "'"
    return " E" + quoted.replace("\\", "\\\\") if "\\" in value else quoted


def qualify(schema: str, name: str) -> str:
    """Return ``"schema"."name"``."""
    return f"{quote(schema)}.{quote(name)}"


class DefaultSchema(str):
    """What a schema of None means, and what a ``schema_translate_map`` makes of other schemas."""

    __slots__ = ("named",)

    named: Mapping[str, str]

    def __new__(cls, name: str, named: Mapping[str, str]) -> "DefaultSchema":
        """Return the name, which knows the others."""
        made = super().__new__(cls, name)
        made.named = named
        return made


def resolve(schema: str | None, default_schema: str) -> str:
    """Return the schema that is meant.

    Args:
        schema: A schema as it is declared; None is the default schema.
        default_schema: What a schema of None means; of a ``DefaultSchema`` the map applies too.
    """
    if schema is None:
        return str(default_schema)
    if isinstance(default_schema, DefaultSchema):
        return default_schema.named.get(schema, schema)
    return schema


def shorten(name: str) -> str:
    """Return *name*, or, where it is over 63 bytes, its beginning with a hash of the whole.

    The hash keeps two long names apart that begin alike.
    """
    if len(name.encode()) <= MAX_IDENTIFIER_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{cut(name, 9)}_{digest}"


def cut(name: str, room: int) -> str:
    """Return the beginning of *name* that leaves room for as many bytes."""
    return name.encode()[: MAX_IDENTIFIER_BYTES - room].decode(errors="ignore")


def conventional(
    convention: Mapping[str, object],
    key: str,
    *,
    table_name: str,
    schema: str | None,
    source_schema: str | None,
) -> str:
    """Return the name that a naming convention gives.

    Args:
        convention: ``MetaData.naming_convention``; a missing *key* means the default.
        key: ``audit.table``, ``audit.function`` or ``audit.trigger``.
        table_name: The audited table.
        schema: The schema of the audit table; the token ``schema`` is ``public`` for None.
        source_schema: The schema of the audited table.

    Raises:
        DeclarationError: The convention is no ``%``-format of the known tokens.
    """
    template = convention.get(key, CONVENTIONS[key])
    tokens = {
        "table_name": table_name,
        "schema": schema or "public",
        "source_schema": source_schema or "public",
    }
    try:
        if not isinstance(template, str):
            raise TypeError("it is not a string")
        return check_identifier(shorten(template % tokens), f"the name by {key!r}")
    except (KeyError, ValueError, TypeError) as error:
        raise DeclarationError(
            f"naming convention {key!r} is {template!r}, which cannot be used: {error}; "
            "write a format of %(table_name)s, %(schema)s and %(source_schema)s"
        ) from error


def check_setting(name: str) -> str:
    """Return the lower-cased name of a setting.

    Raises:
        SpecError: It does not match ``[a-z_][a-z0-9_]*``, so that PostgreSQL could refuse
            ``audit.<name>`` (manual, 20.16 Customized Options).
    """
    lowered = name.lower()
    if not _SETTING.match(lowered) or len(f"audit.{lowered}") > MAX_IDENTIFIER_BYTES:
        raise SpecError(
            f"session setting {name!r} cannot be read as audit.{name}; "
            "write a name of at most 57 letters, digits and _ that begins with a letter or _"
        )
    return lowered
