"""AuditSpec to SQL statements: one module per template version, and what all versions share.

This package is the only place that spells SQL for audit objects. Templates that stand in a released
version of the package are frozen: a migration must always write what it wrote.
"""

import json
import re
from collections.abc import Mapping, Sequence
from types import ModuleType

from alembic_audit.errors import SpecError
from alembic_audit.naming import literal, quote
from alembic_audit.spec import HEADER, AuditSpec
from alembic_audit.sql import move, v1
from alembic_audit.sql.preconditions import check_tables
from alembic_audit.sql.privileges import revoke
from alembic_audit.sql.text import (
    audit_name,
    do_block,
    dollar_quote,
    function_name,
    partition_names,
    printable,
    regprocedure,
    schemas,
    source_name,
)

_VERSIONS: dict[int, ModuleType] = {1: v1}

NEW_FUNCTION = "CREATE FUNCTION"
REPLACE_FUNCTION = "CREATE OR REPLACE FUNCTION"


def body(spec: AuditSpec, default_schema: str) -> str:
    """Return the function body (``pg_proc.prosrc``) of a spec, byte for byte.

    Args:
        spec: What to record.
        default_schema: What a schema of None means.

    Raises:
        SpecError: The template version of the spec is not known.
    """
    # A spec never changes, and autogenerate asks several times: the last text stays beside its
    # fields, where neither equality nor replace() sees it.
    resolved = schemas(spec, default_schema)
    known, text = vars(spec).get("_body", (None, ""))
    if known != resolved:
        text = _template(spec).body(
            spec,
            source_name(spec, default_schema),
            audit_name(spec, default_schema),
            partition_names(spec, default_schema),
        )
        vars(spec)["_body"] = (resolved, text)
    return str(text)


def snapshot(spec: AuditSpec, default_schema: str) -> str:
    """Return the statement that records every row of an audited table.

    It locks the table SHARE, so that no write comes between.
    """
    text: str = _template(spec).snapshot(
        spec, source_name(spec, default_schema), audit_name(spec, default_schema)
    )
    return text


def snapshot_batch(
    spec: AuditSpec,
    default_schema: str,
    *,
    size: int,
    after: Sequence[str],
    settings: Mapping[str, str],
) -> str:
    """Return the statement that records the next rows of an audited table.

    Args:
        spec: What to record.
        default_schema: What a schema of None means.
        size: How many rows at most.
        after: Key of the last row before, as text; empty at first.
        settings: Values of ``audit.<name>``.
    """
    text: str = _template(spec).snapshot_batch(
        spec,
        source_name(spec, default_schema),
        audit_name(spec, default_schema),
        size=size,
        after=after,
        settings=settings,
    )
    return text


def _template(spec: AuditSpec) -> ModuleType:
    if spec.version not in _VERSIONS:
        known = ", ".join(map(str, sorted(_VERSIONS)))
        raise SpecError(
            f"template version {spec.version} is not one of {known}; upgrade alembic_audit"
        )
    return _VERSIONS[spec.version]


def settings(spec: AuditSpec) -> tuple[str, ...]:
    """Return the SET clauses of a spec's function: entries ``name=value`` of pg_proc.proconfig."""
    entries: tuple[str, ...] = _template(spec).settings(spec)
    return entries


def set_clauses(entries: Sequence[str]) -> str:
    """Return SET clauses, each with a leading space.

    Args:
        entries: ``name=value``, as ``pg_proc.proconfig`` has them.
    """
    clauses = ""
    for entry in entries:
        setting, _, value = entry.partition("=")
        # Lists are stored with each element quoted already (guc_tables.c, GUC_LIST_QUOTE).
        shown = value if setting in _QUOTED_LISTS and value else literal(value)
        clauses += f" SET {setting} TO {shown}"
    return clauses


def _function(spec: AuditSpec, default_schema: str, verb: str) -> str:
    return function(
        function_name(spec, default_schema),
        body(spec, default_schema),
        verb=verb,
        options=set_clauses(settings(spec)),
    )


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


def _shape(spec: AuditSpec, kind: str, table: str) -> str:
    """Return events, table and level of a trigger of a spec."""
    if kind == "row":
        events = " OR ".join(name.upper() for name in spec.row_level)
        return f"{events} ON {table} FOR EACH ROW"
    if kind == "key":
        return f"UPDATE ON {table} FOR EACH ROW"
    if kind == "truncate":
        return f"TRUNCATE ON {table} FOR EACH STATEMENT"
    rows = f"{transition(kind)} TABLE AS {_template(spec).TRANSITION_TABLE}"
    return f"{kind.upper()} ON {table} REFERENCING {rows} FOR EACH STATEMENT"


def transition(kind: str) -> str:
    """Return which rows a statement trigger sees: those before, or those after."""
    return "OLD" if kind == "delete" else "NEW"


def transition_table(spec: AuditSpec) -> str:
    """Return the name of the rows of a statement."""
    name: str = _template(spec).TRANSITION_TABLE
    return name


def triggers(spec: AuditSpec, default_schema: str) -> list[str]:
    """Return the statements that make the triggers of a spec."""
    table = source_name(spec, default_schema)
    call = f"EXECUTE FUNCTION {function_name(spec, default_schema)}()"
    made = [
        f"CREATE TRIGGER {quote(name)} AFTER {_shape(spec, kind, table)} {call}"
        for kind, name in spec.trigger_names.items()
    ]
    of_partitions = quote(spec.truncate_trigger)
    partitions = partition_names(spec, default_schema)
    made += [
        f"CREATE TRIGGER {of_partitions} BEFORE TRUNCATE ON {name} FOR EACH STATEMENT {call}"
        for name in partitions
    ]
    if spec.always:
        made += [
            f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {quote(name)}"
            for name in spec.trigger_names.values()
        ]
        made += [f"ALTER TABLE {name} ENABLE ALWAYS TRIGGER {of_partitions}" for name in partitions]
    return made + _guard(spec, default_schema, call)


def _guard(spec: AuditSpec, default_schema: str, call: str) -> list[str]:
    """Statements that make an audit table append-only; none where it is not to be.

    ALWAYS, because ``session_replication_role = replica`` would switch the triggers off.
    """
    audit = audit_name(spec, default_schema)
    events = {"statement": "UPDATE OR DELETE OR TRUNCATE", "row": "UPDATE OR DELETE"}
    statements = []
    for level, name in spec.guard_triggers.items():
        statements += [
            f"CREATE TRIGGER {quote(name)} BEFORE {events[level]} ON {audit} "
            f"FOR EACH {level.upper()} {call}",
            f"ALTER TABLE {audit} ENABLE ALWAYS TRIGGER {quote(name)}",
        ]
    return statements


def owners(spec: AuditSpec, default_schema: str, owner: str) -> list[str]:
    """Return the statements that give function and audit table to a role."""
    audit = audit_name(spec, default_schema)
    return [
        f"ALTER FUNCTION {function_name(spec, default_schema)}() OWNER TO {quote(owner)}",
        f"ALTER TABLE {audit} OWNER TO {quote(owner)}",
    ]


def create(spec: AuditSpec, default_schema: str) -> list[str]:
    """Return the statements that start a trail: check, function, triggers, owner, privileges.

    The audit table must exist. Nothing is replaced: what stands in the way is an error that names
    it, raised by PostgreSQL before anything changed.
    """
    return [
        check_tables(spec, default_schema, new_function=True),
        _function(spec, default_schema, NEW_FUNCTION),
        *triggers(spec, default_schema),
        *(owners(spec, default_schema, spec.owner) if spec.owner else ()),
        revoke(spec, default_schema, tables=True),
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
                f"    WHERE oid OPERATOR(pg_catalog.=) {regprocedure(function)}",
                f"      AND pg_catalog.starts_with(prosrc, {literal(HEADER)})",
                *(
                    "      AND pg_catalog.strpos(pg_catalog.split_part(prosrc, "
                    f"pg_catalog.chr(10), 1),\n        {literal(part)}) "
                    f"OPERATOR(pg_catalog.{comparison}) 0"
                    for part, comparison in (('"audit_table":', ">"), (named, "="))
                ),
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
        source_name(spec, default_schema),
        function_name(spec, default_schema),
        spec.audit_table,
    )


def drop_if_there(spec: AuditSpec, default_schema: str) -> str:
    """Return the statement that drops the function and its triggers, if they exist."""
    return f"DROP FUNCTION IF EXISTS {function_name(spec, default_schema)}() CASCADE"


def replace(
    old: AuditSpec,
    new: AuditSpec,
    default_schema: str,
    *,
    found: Sequence[str] = (),
    new_audit_table: bool = False,
    columns_too: bool = True,
) -> list[str]:
    """Return the statements that turn one spec into another.

    The trail moves with its names: audit table, columns of settings and function are renamed and
    keep records and privileges. Where the triggers stay as they are only the function is replaced,
    which locks no table (PostgreSQL manual, 13.3).

    Args:
        old: What is there.
        new: What shall be there.
        default_schema: What a schema of None means.
        found: Statements that were run after *old* was made, and whose effect shall go.
        new_audit_table: The audit table was created in this migration.
        columns_too: The audited table must have every column that is recorded.
    """
    name = function_name(new, default_schema)
    statements = [
        *move.audit_table(old, new, default_schema),
        *move.function(old, new, default_schema),
        check_tables(
            new,
            default_schema,
            new_function=False,
            new_audit_table=new_audit_table,
            columns_too=columns_too,
        ),
        _function(new, default_schema, REPLACE_FUNCTION),
    ]
    if not same_triggers(old, new, found):
        statements += [_drop_triggers(name), _drop_others(new, default_schema)]
        statements += triggers(new, default_schema)
    if new.owner and (
        new.owner != old.owner or new_audit_table or any(" OWNER TO " in one for one in found)
    ):
        statements += owners(new, default_schema, new.owner)
    if any(one.startswith("ALTER SEQUENCE ") for one in found):
        statements.append(move.reset_cache(audit_name(new, default_schema)))
    return [*statements, revoke(new, default_schema, tables=new_audit_table)]


_TRIGGER_STATEMENT = re.compile(
    r"(DO \$\w+\$\nBEGIN\n  EXECUTE E')?(DROP TRIGGER|CREATE (CONSTRAINT )?TRIGGER|ALTER TABLE) "
)


def same_triggers(old: AuditSpec, new: AuditSpec, found: Sequence[str]) -> bool:
    """Return whether the triggers that are there are those of *new*."""

    def facts(spec: AuditSpec) -> tuple[object, ...]:
        return (
            spec.identity,
            spec.trigger_names,
            spec.operations,
            spec.always,
            spec.partitions,
            spec.append_only,
            spec.row_level,
        )

    return facts(old) == facts(new) and not any(map(_TRIGGER_STATEMENT.match, found))


def _drop_others(spec: AuditSpec, default_schema: str) -> str:
    """Drop what has the names of a spec's triggers on its table and calls a function of ours."""
    names = ", ".join(map(literal, spec.trigger_names.values()))
    source = literal(source_name(spec, default_schema))
    return _drop_where(
        f"tgrelid OPERATOR(pg_catalog.=) {source}::pg_catalog.regclass",
        f"  AND tgname OPERATOR(pg_catalog.=) ANY (ARRAY[{names}])",
        "  AND EXISTS (SELECT FROM pg_catalog.pg_proc AS p",
        "    WHERE p.oid OPERATOR(pg_catalog.=) tgfoid",
        f"      AND pg_catalog.starts_with(p.prosrc, {literal(HEADER)}))",
    )


def _drop_triggers(function: str) -> str:
    """Drop every trigger that calls a function."""
    return _drop_where(f"tgfoid OPERATOR(pg_catalog.=) {regprocedure(function)}")


def _drop_where(*conditions: str) -> str:
    first, *more = conditions
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
            f"    WHERE {first}",
            *(f"    {line}" for line in more),
            "      AND tgparentid OPERATOR(pg_catalog.=) 0",
            "  LOOP",
            "    EXECUTE pg_catalog.format(",
            "      'DROP TRIGGER %I ON %I.%I', item.tgname, item.nspname, item.relname",
            "    );",
            "  END LOOP;",
            "END",
        ]
    )


def restore_function(
    name: str, text: str, *, definer: bool, settings: Sequence[str], new: bool = False
) -> str:
    """Return the statement that gives a function back as it was found, byte for byte.

    Args:
        name: Qualified and quoted.
        text: ``pg_proc.prosrc``.
        definer: ``pg_proc.prosecdef``.
        settings: ``pg_proc.proconfig``, entries ``name=value``.
        new: There is no such function now, and maybe no table that it declares variables by.
    """
    verb = NEW_FUNCTION if new else REPLACE_FUNCTION
    options = set_clauses(settings)
    statement = function(name, text, verb=verb, definer=definer, options=options)
    unknown_types = new and "%type" in text.lower()
    return printable(_unchecked(statement) if unknown_types else statement)


def _unchecked(statement: str) -> str:
    """Return the statement that makes a function without compiling it."""
    setting = literal("check_function_bodies")
    return do_block(
        [
            "DECLARE",
            f"  former pg_catalog.text := pg_catalog.current_setting({setting});",
            "BEGIN",
            f"  PERFORM pg_catalog.set_config({setting}, 'off', true);",
            f"  EXECUTE {dollar_quote(statement)};",
            f"  PERFORM pg_catalog.set_config({setting}, former, true);",
            "END",
        ]
    )


_QUOTED_LISTS = frozenset(
    ["search_path", "temp_tablespaces", "session_preload_libraries", "local_preload_libraries"]
)
