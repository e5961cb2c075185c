"""Pieces of SQL text that every statement of ours is made of."""

from collections.abc import Iterable, Sequence

from alembic_audit.naming import literal, qualify, resolve
from alembic_audit.spec import AuditSpec

COMMENT = "history kept by alembic_audit"
"""The constant comment of every audit table; one of the ways it is recognised and protected."""

GUARD_TYPES = {"statement": 58, "row": 27}
"""``pg_trigger.tgtype`` of the guards: ROW 1, BEFORE 2, DELETE 8, UPDATE 16, TRUNCATE 32."""


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


def do_unfiltered(declarations: Sequence[str], lines: Sequence[str], options: str = "") -> str:
    """A DO statement that fails where row level security would hide a row from it.

    Args:
        declarations: Of variables.
        lines: Of PL/pgSQL, that leave by ``EXIT unfiltered``: the setting is put back at the end.
        options: What PL/pgSQL takes before the variables.
    """
    return do_block(
        [
            *([options] if options else []),
            "DECLARE",
            "  audit_security pg_catalog.text := pg_catalog.current_setting('row_security');",
            *declarations,
            "BEGIN",
            "PERFORM pg_catalog.set_config('row_security', 'off', true);",
            "<<unfiltered>>",
            "BEGIN",
            *lines,
            "END;",
            "PERFORM pg_catalog.set_config('row_security', audit_security, true);",
            "END",
        ]
    )


def is_repeatable() -> str:
    """The condition that this transaction does not see what was committed since it began."""
    return (
        "pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) ALL ("
        "ARRAY['read committed', 'read uncommitted']::pg_catalog.text[])"
    )


def refuse_repeatable(message: str, condition: str) -> list[str]:
    """Lines that fail on a condition; the isolation level ends the message."""
    hint = (
        "Migrate in READ COMMITTED. In env.py: connection = connection.execution_options("
        'isolation_level="READ COMMITTED")'
    )
    return [
        f"  IF {condition} THEN",
        "    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',",
        f"      MESSAGE = pg_catalog.concat({literal(message)},",
        "        pg_catalog.upper(pg_catalog.current_setting('transaction_isolation')),",
        "        ', and does not see what was committed since it began'),",
        f"      HINT = {literal(hint)};",
        "  END IF;",
    ]


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
