"""Statements that rename: an audited table, its audit table, columns, the function."""

from alembic_audit import naming
from alembic_audit.naming import literal, qualify, quote
from alembic_audit.spec import AuditSpec, hash_column, key_index
from alembic_audit.sql.history import has_column, rename_omitted_columns
from alembic_audit.sql.text import audit_name, do_block, function_name, schemas, source_name


def audit_table(old: AuditSpec, new: AuditSpec, default_schema: str) -> list[str]:
    """Return the statements that move an audit table, with its sequence, indexes and settings."""
    statements = []
    before, after = schemas(old, default_schema)[1], schemas(new, default_schema)[1]
    if before != after:
        statements.append(
            f"ALTER TABLE {qualify(before, old.audit_table)} SET SCHEMA {quote(after)}"
        )
    if old.audit_table != new.audit_table:
        names = {
            key_index(old): key_index(new),
            **_default_names(old.audit_table, new.audit_table, "_pkey", "_audit_id_seq"),
        }
        statements += _renamed(after, old.audit_table, new.audit_table, names)
    name = audit_name(new, default_schema)
    columns = {setting.name: setting.column for setting in old.session_settings}
    for setting in new.session_settings:
        column = columns.get(setting.name, setting.column)
        if column != setting.column:
            statements.append(_rename_audit_column(name, column, setting.column))
    return statements


def function(old: AuditSpec, new: AuditSpec, default_schema: str) -> list[str]:
    """Return the statements that move the function; it keeps owner and privileges."""
    statements = []
    before, after = schemas(old, default_schema)[1], schemas(new, default_schema)[1]
    if before != after:
        name = function_name(old, default_schema)
        statements.append(f"ALTER FUNCTION {name}() SET SCHEMA {quote(after)}")
    if old.function != new.function:
        name = qualify(after, old.function)
        statements.append(f"ALTER FUNCTION {name}() RENAME TO {quote(new.function)}")
    return statements


def source_table(old: AuditSpec, new: AuditSpec, default_schema: str) -> list[str]:
    """Return the statements that move or rename the audited table.

    Its indexes and sequences go along.
    """
    before, after = schemas(old, default_schema)[0], schemas(new, default_schema)[0]
    statements = []
    if before != after:
        statements.append(f"ALTER TABLE {qualify(before, old.table)} SET SCHEMA {quote(after)}")
    if old.table != new.table:
        names = _default_names(old.table, new.table, "_pkey")
        statements += _renamed(after, old.table, new.table, names)
    return statements


def source_column(
    old: AuditSpec, new: AuditSpec, default_schema: str, column: str, renamed: str
) -> list[str]:
    """Return the statements that rename a column of the audited table and what is stored of it."""
    return [
        _rename_column(source_name(old, default_schema), column, renamed),
        *audit_column(old, default_schema, column, renamed),
    ]


def audit_column(old: AuditSpec, default_schema: str, column: str, renamed: str) -> list[str]:
    """Statements that rename what is stored of a column of the audited table."""
    statements = []
    audit = audit_name(old, default_schema)
    if column in old.columns:
        statements.append(_rename_indexes(audit, old.audit_table, column, renamed))
        statements.append(_rename_audit_column(audit, column, renamed))
        aside = [(renamed, _former(renamed)), (column, renamed), (_former(column), column)]
        statements.append(rename_omitted_columns(audit, aside))
    if column in old.hash_columns:
        names = hash_column(column), hash_column(renamed)
        statements.append(_rename_indexes(audit, old.audit_table, *names))
        statements.append(_rename_audit_column(audit, *names))
    return statements


def _rename_indexes(audit: str, table: str, old: str, new: str) -> str:
    """Rename the indexes that the option ``indexes`` calls by a column, before that is renamed."""
    changed = f"{literal(old)} THEN {literal(new)}"
    column = f"CASE WHEN a.attname OPERATOR(pg_catalog.=) {changed} ELSE a.attname::pg_catalog.text"
    return do_block(
        [
            "DECLARE",
            "  item pg_catalog.record;",
            "BEGIN",
            "  FOR item IN",
            "    SELECT n.nspname, c.relname,",
            f"      {_shortened(_index_name(table, f'{column} END'))} AS renamed",
            "    FROM pg_catalog.pg_index AS i",
            "    JOIN pg_catalog.pg_class AS c",
            "      ON c.oid OPERATOR(pg_catalog.=) i.indexrelid",
            "    JOIN pg_catalog.pg_namespace AS n",
            "      ON n.oid OPERATOR(pg_catalog.=) c.relnamespace",
            f"    WHERE i.indrelid OPERATOR(pg_catalog.=) {literal(audit)}::pg_catalog.regclass",
            "      AND c.relname::pg_catalog.text OPERATOR(pg_catalog.=)",
            f"        {_shortened(_index_name(table, 'a.attname::pg_catalog.text'))}",
            "  LOOP",
            "    CONTINUE WHEN pg_catalog.to_regclass(",
            "      pg_catalog.format('%I.%I', item.nspname, item.renamed)) IS NOT NULL;",
            "    EXECUTE pg_catalog.format('ALTER INDEX %I.%I RENAME TO %I',",
            "      item.nspname, item.relname, item.renamed);",
            "  END LOOP;",
            "END",
        ]
    )


def _index_name(table: str, column: str) -> str:
    """The expression of what the option ``indexes`` calls the index ``i``, before it is shortened.

    Args:
        table: The audit table.
        column: Expression of the name of a column ``a``.
    """
    return (
        f"(SELECT pg_catalog.concat({literal(f'{table}_')}, pg_catalog.string_agg({column}, '_'"
        " ORDER BY k.place), '_idx') FROM pg_catalog.unnest(i.indkey::pg_catalog.int2[])"
        " WITH ORDINALITY AS k (attnum, place) JOIN pg_catalog.pg_attribute AS a"
        " ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid"
        " AND a.attnum OPERATOR(pg_catalog.=) k.attnum)"
    )


def _shortened(name: str) -> str:
    """The expression of a name of at most 63 bytes, as ``naming.shorten`` makes it."""
    most = naming.MAX_IDENTIFIER_BYTES

    def size(text: str) -> str:
        return f"pg_catalog.octet_length(pg_catalog.convert_to({text}, 'UTF8'))"

    return (
        f"(SELECT CASE WHEN {size('full_name')} OPERATOR(pg_catalog.<=) {most} THEN full_name"
        " ELSE pg_catalog.concat((SELECT pg_catalog.left(full_name, pg_catalog.max(room))"
        f" FROM pg_catalog.generate_series(1, {most}) AS room"
        f" WHERE {size('pg_catalog.left(full_name, room)')} OPERATOR(pg_catalog.<=) {most - 9}),"
        " '_', pg_catalog.left(pg_catalog.encode(pg_catalog.sha256("
        "pg_catalog.convert_to(full_name, 'UTF8')), 'hex'), 8)) END"
        f" FROM (SELECT {name} AS full_name) AS named)"
    )


def _rename_audit_column(audit: str, old: str, new: str) -> str:
    """Rename a column of an audit table; one that was kept under the new name is set aside.

    It is its own inverse: what was set aside comes back when its name is free again.
    """
    return do_block(
        [
            "BEGIN",
            f"  IF {has_column(audit, new)} THEN",
            f"    {_rename_column(audit, new, _former(new))};",
            "  END IF;",
            f"  {_rename_column(audit, old, new)};",
            f"  IF {has_column(audit, _former(old))} THEN",
            f"    {_rename_column(audit, _former(old), old)};",
            "  END IF;",
            "END",
        ]
    )


def _former(column: str) -> str:
    return naming.shorten(f"{column}__former")


def reset_cache(audit: str) -> str:
    """Return the statement that lets ``audit_id`` be handed out one by one, in order."""
    return do_block(
        [
            "BEGIN",
            "  EXECUTE pg_catalog.format('ALTER SEQUENCE %s CACHE 1',",
            f"    pg_catalog.pg_get_serial_sequence({literal(audit)}, 'audit_id'));",
            "END",
        ]
    )


def _rename_column(table: str, old: str, new: str) -> str:
    return f"ALTER TABLE {table} RENAME COLUMN {quote(old)} TO {quote(new)}"


def _default_names(old: str, new: str, *suffixes: str) -> dict[str, str]:
    """Return old to new name of what PostgreSQL itself names after a table, and cuts there."""
    return {
        naming.cut(old, len(suffix)) + suffix: naming.cut(new, len(suffix)) + suffix
        for suffix in suffixes
    }


def renamed_index(name: str, old: str, new: str) -> str:
    """Return what an index is called when its table is renamed, as ``_renamed`` finds it."""
    place = f"_{name}_".find(f"_{old}_")
    renamed = name[:place] + new + name[place + len(old) :] if place >= 0 else name
    return renamed if len(renamed.encode()) <= naming.MAX_IDENTIFIER_BYTES else name


def _renamed(schema: str, old: str, new: str, names: dict[str, str]) -> list[str]:
    """Rename a table, then what bears its name, so that a new table may be called as it was.

    *names* tells names as they are and shall be; any other index or sequence follows where the
    table's name stands in its own, between underscores, and there is room for the new one.
    """
    fixed = "".join(
        f" WHEN c.relname OPERATOR(pg_catalog.=) {literal(one)} THEN {literal(other)}"
        for one, other in names.items()
    )
    place = f"pg_catalog.strpos(pg_catalog.concat('_', c.relname, '_'), {literal(f'_{old}_')})"
    table = f"{literal(qualify(schema, new))}::pg_catalog.regclass"
    return [
        f"ALTER TABLE {qualify(schema, old)} RENAME TO {quote(new)}",
        do_block(
            [
                "DECLARE",
                "  item pg_catalog.record;",
                "BEGIN",
                "  FOR item IN",
                "    SELECT c.relkind, c.relname, CASE",
                f"     {fixed}",
                "      WHEN c.relname::pg_catalog.text OPERATOR(pg_catalog.=)",
                f"        {_shortened(_index_name(old, 'a.attname::pg_catalog.text'))}",
                f"        THEN {_shortened(_index_name(new, 'a.attname::pg_catalog.text'))}",
                f"      WHEN {place} OPERATOR(pg_catalog.>) 0 THEN pg_catalog.overlay(",
                f"        c.relname::pg_catalog.text, {literal(new)}, {place},",
                f"        pg_catalog.length({literal(old)}))",
                "    END AS renamed",
                "    FROM pg_catalog.pg_class AS c",
                "    LEFT JOIN pg_catalog.pg_index AS i",
                "      ON i.indexrelid OPERATOR(pg_catalog.=) c.oid",
                "    LEFT JOIN pg_catalog.pg_depend AS d",
                "      ON d.objid OPERATOR(pg_catalog.=) c.oid",
                "      AND d.classid OPERATOR(pg_catalog.=)",
                "        'pg_catalog.pg_class'::pg_catalog.regclass",
                "      AND (d.deptype OPERATOR(pg_catalog.=) 'i'",
                "        OR d.deptype OPERATOR(pg_catalog.=) 'a')",
                "      AND c.relkind OPERATOR(pg_catalog.=) 'S'",
                f"    WHERE i.indrelid OPERATOR(pg_catalog.=) {table}",
                f"      OR d.refobjid OPERATOR(pg_catalog.=) {table}",
                "  LOOP",
                "    CONTINUE WHEN item.renamed IS NULL",
                "      OR item.renamed OPERATOR(pg_catalog.=) item.relname",
                "      OR pg_catalog.octet_length(item.renamed)",
                f"        OPERATOR(pg_catalog.>) {naming.MAX_IDENTIFIER_BYTES};",
                "    EXECUTE pg_catalog.format(",
                "      'ALTER %s %I.%I RENAME TO %I',",
                "      CASE WHEN item.relkind OPERATOR(pg_catalog.=) 'S'",
                "        THEN 'SEQUENCE' ELSE 'INDEX' END,",
                f"      {literal(schema)}, item.relname, item.renamed",
                "    );",
                "  END LOOP;",
                "END",
            ]
        ),
    ]
