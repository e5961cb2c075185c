"""AuditSpec to SQL statements: one module per template version, and what all versions share.

This package is the only place that spells SQL for audit objects. Templates that stand in a released
version of the package are frozen: a migration must always write what it wrote.
"""

import json
from collections.abc import Sequence
from types import ModuleType

from alembic_audit.errors import SpecError
from alembic_audit.naming import literal, qualify, quote
from alembic_audit.spec import HEADER, AuditSpec
from alembic_audit.sql import v1

COMMENT = "history kept by alembic_audit"
"""The constant comment of every audit table; one of the ways it is recognised and protected."""

_VERSIONS: dict[int, ModuleType] = {1: v1}

NEW_FUNCTION = "CREATE FUNCTION"
REPLACE_FUNCTION = "CREATE OR REPLACE FUNCTION"


def schemas(spec: AuditSpec, default_schema: str) -> tuple[str, str]:
    """Return the schema of the audited table and that of audit table and function, never None."""
    return spec.schema or default_schema, spec.audit_schema or default_schema


def body(spec: AuditSpec, default_schema: str) -> str:
    """Return the function body (``pg_proc.prosrc``) of a spec, byte for byte.

    Args:
        spec: What to record.
        default_schema: What a schema of None means.

    Raises:
        SpecError: The template version of the spec is not known.
    """
    if spec.version not in _VERSIONS:
        known = ", ".join(map(str, sorted(_VERSIONS)))
        raise SpecError(
            f"template version {spec.version} is not one of {known}; upgrade alembic_audit"
        )
    source, audit = schemas(spec, default_schema)
    text: str = _VERSIONS[spec.version].body(
        spec, qualify(source, spec.table), qualify(audit, spec.audit_table)
    )
    return text


def function_name(spec: AuditSpec, default_schema: str) -> str:
    """Return the qualified, quoted name of the function."""
    return qualify(schemas(spec, default_schema)[1], spec.function)


def function(name: str, text: str, *, verb: str, definer: bool = True, options: str = "") -> str:
    """Return the statement that makes a trigger function.

    Args:
        name: Qualified and quoted.
        text: The body.
        verb: ``NEW_FUNCTION`` or ``REPLACE_FUNCTION``.
        definer: SECURITY DEFINER.
        options: SET clauses, each with a leading space.
    """
    security = " SECURITY DEFINER" if definer else ""
    return (
        f"{verb} {name}() RETURNS pg_catalog.trigger LANGUAGE plpgsql{security}{options} "
        f"AS {dollar_quote(text)}"
    )


def dollar_quote(text: str) -> str:
    """Return *text* between dollar quotes whose tag it does not hold."""
    tag = "audit"
    while f"${tag}$" in text or text.endswith("$" + tag):
        tag += "_"
    return f"${tag}${text}${tag}$"


def do_block(lines: Sequence[str]) -> str:
    """Return a DO statement of these lines of PL/pgSQL."""
    return f"DO {dollar_quote(chr(10).join(['', *lines, '']))}"


def _trigger_events(spec: AuditSpec) -> str:
    return " OR ".join(name.upper() for name in spec.operations if name != "truncate")


def triggers(spec: AuditSpec, default_schema: str) -> list[str]:
    """Return the CREATE TRIGGER statements of a spec."""
    table = qualify(schemas(spec, default_schema)[0], spec.table)
    call = f"EXECUTE FUNCTION {function_name(spec, default_schema)}()"
    shapes = {
        "row": f"AFTER {_trigger_events(spec)} ON {table} FOR EACH ROW",
        "truncate": f"AFTER TRUNCATE ON {table} FOR EACH STATEMENT",
    }
    return [
        f"CREATE TRIGGER {quote(name)} {shapes[kind]} {call}"
        for kind, name in spec.trigger_names.items()
    ]


def create(spec: AuditSpec, default_schema: str) -> list[str]:
    """Return the statements that start a trail: check, function, triggers, privileges.

    The audit table must exist. Nothing is replaced: what stands in the way is an error that names
    it, raised by PostgreSQL before anything changed.
    """
    name = function_name(spec, default_schema)
    return [
        _check_tables(spec, default_schema, new_function=True),
        function(name, body(spec, default_schema), verb=NEW_FUNCTION),
        *triggers(spec, default_schema),
        _revoke(spec, default_schema, tables=True),
    ]


def drop(source: str, function: str, audit_table: str) -> list[str]:
    """Return the statements that end a trail and keep its records.

    Every trigger that calls the function goes, wherever it is and whatever it is called: one that
    was missing or renamed by hand must not stop a migration.

    Args:
        source: The audited table, qualified and quoted.
        function: The function, qualified and quoted.
        audit_table: Plain name of the audit table; a function that says in its header that it
            writes another one is refused.
    """
    named = '"audit_table":' + json.dumps(audit_table)
    message = f"function {function}() does not write the audit table {quote(audit_table)} of "
    return [
        do_block(
            [
                "BEGIN",
                "  IF EXISTS (",
                "    SELECT FROM pg_catalog.pg_proc",
                f"    WHERE oid OPERATOR(pg_catalog.=) {_regprocedure(function)}",
                f"      AND pg_catalog.starts_with(prosrc, {literal(HEADER)})",
                "      AND pg_catalog.strpos(pg_catalog.split_part(prosrc, pg_catalog.chr(10), 1),",
                f"        {literal(named)}) OPERATOR(pg_catalog.=) 0",
                "  ) THEN",
                "    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',",
                f"      MESSAGE = {literal(f'{message}{source}; nothing was dropped')},",
                "      HINT = 'Write the audit_table=... and function=... of the trail to end.';",
                "  END IF;",
                "END",
            ]
        ),
        _drop_triggers(function),
        f"DROP FUNCTION {function}()",
    ]


def drop_spec(spec: AuditSpec, default_schema: str) -> list[str]:
    """Return the statements that end the trail of a spec and keep its records."""
    return drop(
        qualify(schemas(spec, default_schema)[0], spec.table),
        function_name(spec, default_schema),
        spec.audit_table,
    )


def drop_if_there(spec: AuditSpec, default_schema: str) -> str:
    """Return the statement that drops the function and its triggers, if they exist."""
    return f"DROP FUNCTION IF EXISTS {function_name(spec, default_schema)}() CASCADE"


def replace(
    old: AuditSpec, new: AuditSpec, default_schema: str, *, same_triggers: bool
) -> list[str]:
    """Return the statements that turn one spec into another.

    Args:
        old: What is there.
        new: What shall be there.
        default_schema: What a schema of None means.
        same_triggers: The triggers that are there are those of *new*; only the function is
            replaced then, which locks no table (PostgreSQL manual, 13.3).
    """
    if function_name(old, default_schema) != function_name(new, default_schema):
        return [*drop_spec(old, default_schema), *create(new, default_schema)]
    statements = [
        _check_tables(new, default_schema, new_function=False),
        function(
            function_name(new, default_schema), body(new, default_schema), verb=REPLACE_FUNCTION
        ),
    ]
    if not same_triggers:
        statements += [_drop_triggers(function_name(new, default_schema))]
        statements += triggers(new, default_schema)
    return [*statements, _revoke(new, default_schema, tables=False)]


def _regprocedure(function: str) -> str:
    return f"{literal(function + '()')}::pg_catalog.regprocedure"


def _drop_triggers(function: str) -> str:
    return do_block(
        [
            "DECLARE",
            "  item pg_catalog.record;",
            "BEGIN",
            "  FOR item IN",
            "    SELECT tgname, nspname, relname",
            "    FROM pg_catalog.pg_trigger",
            "    JOIN pg_catalog.pg_class ON pg_class.oid OPERATOR(pg_catalog.=) tgrelid",
            "    JOIN pg_catalog.pg_namespace",
            "      ON pg_namespace.oid OPERATOR(pg_catalog.=) relnamespace",
            f"    WHERE tgfoid OPERATOR(pg_catalog.=) {_regprocedure(function)}",
            "      AND tgparentid OPERATOR(pg_catalog.=) 0",
            "  LOOP",
            "    EXECUTE pg_catalog.format(",
            "      'DROP TRIGGER %I ON %I.%I', item.tgname, item.nspname, item.relname",
            "    );",
            "  END LOOP;",
            "END",
        ]
    )


def _check_tables(spec: AuditSpec, default_schema: str, *, new_function: bool) -> str:
    source, audit = schemas(spec, default_schema)
    lines = ["DECLARE", "  missing pg_catalog.text;", "BEGIN"]
    if new_function:
        name = function_name(spec, default_schema)
        trigger = f"the audit trigger of {qualify(source, spec.table)}"
        lines += [
            f"  IF pg_catalog.to_regprocedure({literal(name + '()')}) IS NOT NULL THEN",
            "    RAISE EXCEPTION USING ERRCODE = 'duplicate_function', MESSAGE =",
            f"      {literal(f'function {name}() exists already, so {trigger} was not created')},",
            "      HINT = 'Drop it first if it is yours, or name another: function=...';",
            "  END IF;",
        ]
    for table, columns in (
        (qualify(source, spec.table), spec.stored),
        (qualify(audit, spec.audit_table), spec.audit_column_names),
    ):
        wanted = ", ".join(literal(column) for column in columns)
        lines += [
            f"  IF pg_catalog.to_regclass({literal(table)}) IS NULL THEN",
            "    RAISE EXCEPTION USING ERRCODE = 'undefined_table', MESSAGE =",
            f"      {literal(f'table {table} does not exist, so nothing could be recorded')},",
            "      HINT = 'Create it before the audit trigger, in the same migration.';",
            "  END IF;",
            "  SELECT pg_catalog.string_agg(wanted, ', ') INTO missing",
            f"  FROM pg_catalog.unnest(ARRAY[{wanted}]::pg_catalog.text[]) AS wanted",
            "  WHERE NOT EXISTS (",
            "    SELECT FROM pg_catalog.pg_attribute",
            f"    WHERE attrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass({literal(table)})",
            "      AND attname OPERATOR(pg_catalog.=) wanted AND NOT attisdropped",
            "  );",
            "  IF missing IS NOT NULL THEN",
            "    RAISE EXCEPTION USING ERRCODE = 'undefined_column', MESSAGE =",
            f"      pg_catalog.concat({literal(f'table {table} has no column ')}, missing),",
            "      HINT = 'Add the column in this migration before the audit trigger, "
            "or leave it out of columns=[...].';",
            "  END IF;",
        ]
    if new_function:
        lines += _check_audit_table(spec, qualify(audit, spec.audit_table))
    return do_block([*lines, "END"])


def _check_audit_table(spec: AuditSpec, table: str) -> list[str]:
    """Return what finds, before a trail begins, why each write would fail from then on."""
    written = set(spec.audit_column_names) - {"audit_id"}
    always = {"audit_operation", "audit_operation_timestamp", "audit_transaction_id"}
    always |= {"audit_current_user"}
    always &= written - set(spec.stored)
    always |= {setting.column for setting in spec.session_settings if setting.required}

    def names(columns: set[str]) -> str:
        return f"ARRAY[{', '.join(map(literal, sorted(columns)))}]::pg_catalog.text[]"

    refusal = f" may not insert into {table}, so the audit function, which runs as it, could not"
    grant = f"GRANT INSERT ON {table} to it, or migrate as the owner."
    emptied = f"table {table} is NOT NULL in columns that a record may leave empty: "
    nullable = f"ALTER TABLE {table} ALTER COLUMN ... DROP NOT NULL, or name another audit table."
    return [
        f"  IF NOT pg_catalog.has_table_privilege({literal(table)}, 'INSERT') THEN",
        "    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE =",
        f"      pg_catalog.concat('role ', current_user, {literal(refusal)}),",
        f"      HINT = {literal(grant)};",
        "  END IF;",
        "  SELECT pg_catalog.string_agg(attname::pg_catalog.text, ', ') INTO missing",
        "  FROM pg_catalog.pg_attribute",
        f"  WHERE attrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass({literal(table)})",
        "    AND attnotnull AND attnum OPERATOR(pg_catalog.>) 0 AND NOT attisdropped",
        f"    AND attname::pg_catalog.text OPERATOR(pg_catalog.<>) ALL ({names(always)})",
        f"    AND (attname::pg_catalog.text OPERATOR(pg_catalog.=) ANY ({names(written)})",
        "      OR NOT atthasdef AND attidentity OPERATOR(pg_catalog.=) '');",
        "  IF missing IS NOT NULL THEN",
        "    RAISE EXCEPTION USING ERRCODE = 'not_null_violation', MESSAGE =",
        f"      pg_catalog.concat({literal(emptied)}, missing),",
        f"      HINT = {literal(nullable)};",
        "  END IF;",
    ]


def _revoke(spec: AuditSpec, default_schema: str, *, tables: bool) -> str:
    """Take every privilege on what we made from everybody but the owner.

    PUBLIC may execute a new function, and default privileges can give more (PostgreSQL manual,
    5.8): who may execute the function can attach it to a table of their own and forge records.
    """
    audit = qualify(schemas(spec, default_schema)[1], spec.audit_table)
    made = _regprocedure(function_name(spec, default_schema))
    kinds = [
        "    SELECT 'FUNCTION ', p.oid::pg_catalog.regprocedure::pg_catalog.text, p.proowner,",
        "      COALESCE(p.proacl, pg_catalog.acldefault('f', p.proowner))",
        "    FROM pg_catalog.pg_proc AS p",
        f"    WHERE p.oid OPERATOR(pg_catalog.=) {made}",
    ]
    if tables:
        kinds += [
            "    UNION ALL",
            "    SELECT 'TABLE ', c.oid::pg_catalog.regclass::pg_catalog.text, c.relowner,",
            "      COALESCE(c.relacl, pg_catalog.acldefault('r', c.relowner))",
            "    FROM pg_catalog.pg_class AS c",
            f"    WHERE c.oid OPERATOR(pg_catalog.=) {literal(audit)}::pg_catalog.regclass",
            "    UNION ALL",
            "    SELECT 'SEQUENCE ', c.oid::pg_catalog.regclass::pg_catalog.text, c.relowner,",
            "      COALESCE(c.relacl, pg_catalog.acldefault('s', c.relowner))",
            "    FROM pg_catalog.pg_class AS c",
            "    JOIN pg_catalog.pg_depend AS d ON d.objid OPERATOR(pg_catalog.=) c.oid",
            "      AND d.deptype OPERATOR(pg_catalog.=) 'i'",
            "    WHERE c.relkind OPERATOR(pg_catalog.=) 'S' AND d.refobjid",
            f"      OPERATOR(pg_catalog.=) {literal(audit)}::pg_catalog.regclass",
        ]
    return do_block(
        [
            "DECLARE",
            "  item pg_catalog.record;",
            "BEGIN",
            "  FOR item IN",
            "    SELECT DISTINCT made.kind, made.name,",
            "      COALESCE(pg_catalog.quote_ident(r.rolname), 'PUBLIC') AS grantee",
            "    FROM (",
            *("  " + line for line in kinds),
            "    ) AS made (kind, name, owner, acl)",
            "    CROSS JOIN LATERAL pg_catalog.aclexplode(made.acl) AS a",
            "    LEFT JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) a.grantee",
            "    WHERE a.grantee OPERATOR(pg_catalog.<>) made.owner",
            "  LOOP",
            "    EXECUTE pg_catalog.concat(",
            "      'REVOKE ALL ON ', item.kind, item.name, ' FROM ', item.grantee",
            "    );",
            "  END LOOP;",
            "END",
        ]
    )


def drop_audit_table(table: str, schema: str, *, allow_history_loss: bool) -> str:
    """Return the statement that drops an audit table if it holds no records.

    One that holds records stays, with a NOTICE, unless *allow_history_loss*.
    """
    name = qualify(schema, table)
    if allow_history_loss:
        return f"DROP TABLE {name}"
    return do_block(
        [
            "BEGIN",
            f"  IF EXISTS (SELECT FROM {name}) THEN",
            "    RAISE NOTICE USING MESSAGE = pg_catalog.concat(",
            f"      {literal(f'audit table {name} holds records and was kept; ')},",
            "      'drop it with -x audit_allow_history_loss=yes, or by hand'",
            "    );",
            "  ELSE",
            f"    DROP TABLE {name};",
            "  END IF;",
            "END",
        ]
    )


def drop_audit_column(table: str, column: str, schema: str, *, allow_history_loss: bool) -> str:
    """Return the statement that drops a column of an audit table if it holds no values.

    One that holds values stays, with a NOTICE, unless *allow_history_loss*.
    """
    name = qualify(schema, table)
    dropped = f"ALTER TABLE {name} DROP COLUMN {quote(column)}"
    if allow_history_loss:
        return dropped
    return do_block(
        [
            "BEGIN",
            f"  IF EXISTS (SELECT FROM {name} WHERE {quote(column)} IS DISTINCT FROM NULL) THEN",
            "    RAISE NOTICE USING MESSAGE = pg_catalog.concat(",
            f"      {literal(f'column {quote(column)} of audit table {name} holds values and ')},",
            "      'was kept; drop it with -x audit_allow_history_loss=yes, or by hand'",
            "    );",
            "  ELSE",
            f"    {dropped};",
            "  END IF;",
            "END",
        ]
    )


def restore_function(name: str, text: str, *, definer: bool, settings: Sequence[str]) -> str:
    """Return the statement that gives a function back as it was found, byte for byte.

    Args:
        name: Qualified and quoted.
        text: ``pg_proc.prosrc``.
        definer: ``pg_proc.prosecdef``.
        settings: ``pg_proc.proconfig``, entries ``name=value``.
    """
    clauses = ""
    for entry in settings:
        setting, _, value = entry.partition("=")
        # Lists are stored with each element quoted already (guc_tables.c, GUC_LIST_QUOTE).
        shown = value if setting in _QUOTED_LISTS and value else literal(value)
        clauses += f" SET {setting} TO {shown}"
    statement = function(name, text, verb=REPLACE_FUNCTION, definer=definer, options=clauses)
    if not set("\t\r\x0b\x0c") & set(statement):
        return statement
    # Alembic's offline mode turns tabs into spaces, and editors mend line ends.
    escapes = {"\\": "\\\\", "'": "''", "\t": "\\t", "\r": "\\r", "\n": "\\n"}
    escaped = "".join(escapes.get(character, character) for character in statement)
    return do_block(["BEGIN", f"  EXECUTE E'{escaped}';", "END"])


_QUOTED_LISTS = frozenset(
    ["search_path", "temp_tablespaces", "session_preload_libraries", "local_preload_libraries"]
)
