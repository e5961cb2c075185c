"""Pieces of SQL text that every statement of ours is made of."""

from collections.abc import Iterable, Sequence

from alembic_audit.naming import literal, qualify, resolve
from alembic_audit.spec import AuditSpec

COMMENT = "history kept by alembic_audit"
"""The constant comment of every audit table; one of the ways it is recognised and protected."""

GUARD_TYPE = 58
"""``pg_trigger.tgtype`` of BEFORE (2) DELETE (8) OR UPDATE (16) OR TRUNCATE (32), by statement."""


def schemas(spec: AuditSpec, default_schema: str) -> tuple[str, str]:
    """Return the schema of the audited table and that of audit table and function, never None."""
    return resolve(spec.schema, default_schema), resolve(spec.audit_schema, default_schema)


def source_name(spec: AuditSpec, default_schema: str) -> str:
    """Return the qualified, quoted name of the audited table."""
    return qualify(schemas(spec, default_schema)[0], spec.table)


def audit_name(spec: AuditSpec, default_schema: str) -> str:
    """Return the qualified, quoted name of the audit table."""
    return qualify(schemas(spec, default_schema)[1], spec.audit_table)


def partition_names(spec: AuditSpec, default_schema: str) -> list[str]:
    """Return the qualified, quoted names of the partitions of a spec, in its order."""
    return [qualify(schemas(spec, default_schema)[0], name) for name in spec.partitions]


def function_name(spec: AuditSpec, default_schema: str) -> str:
    """Return the qualified, quoted name of the function."""
    return qualify(schemas(spec, default_schema)[1], spec.function)


def set_config(name: str, text: str, *, local: bool) -> str:
    """Return the statement that sets ``audit.<name>``, for the transaction or for the session."""
    scope = "true" if local else "false"
    return f"SELECT pg_catalog.set_config({literal(f'audit.{name}')}, {literal(text)}, {scope})"


def dollar_quote(text: str) -> str:
    """Return *text* between dollar quotes whose tag it does not hold."""
    tag = "audit"
    while f"${tag}$" in text or text.endswith("$" + tag):
        tag += "_"
    return f"${tag}${text}${tag}$"


def do_block(lines: Sequence[str]) -> str:
    """Return a DO statement of these lines of PL/pgSQL."""
    return f"DO {dollar_quote(chr(10).join(['', *lines, '']))}"


def printable(statement: str) -> str:
    """Return *statement*, as an E'' literal in a DO block where it holds tabs or carriage returns.

    Alembic's offline mode turns tabs into spaces, and editors mend line ends.
    """
    if not set("\t\r\x0b\x0c") & set(statement):
        return statement
    escapes = {"\\": "\\\\", "'": "''", "\t": "\\t", "\r": "\\r", "\n": "\\n"}
    escaped = "".join(escapes.get(character, character) for character in statement)
    return do_block(["BEGIN", f"  EXECUTE E'{escaped}';", "END"])


def comma_separated(items: Iterable[str]) -> list[str]:
    """Return one line an item, indented, with commas between them."""
    *most, last = items
    return [f"  {item}," for item in most] + [f"  {last}"]


def regprocedure(function: str) -> str:
    """Return the expression of the OID of a trigger function, which must exist."""
    return f"{literal(function + '()')}::pg_catalog.regprocedure"
