"""The statement that finds a trail whose next record would fail."""

from alembic_audit.naming import literal
from alembic_audit.spec import CURRENT_VERSION, HEADER
from alembic_audit.sql.compare_types import compare_types
from alembic_audit.sql.text import GUARD_TYPES, do_block

_RENAME_TABLE = "rename it by op.rename_audited_table"
_RENAME_COLUMN = (
    "rename a column by op.rename_audited_column; to drop one, leave it out of columns=[...] of "
    "op.replace_audit_trigger before, as alembic revision --autogenerate does"
)
_RENAME_SCHEMA = "end the trail by op.drop_audit_trigger before, and begin it anew in the schema"
_DROP_NOT_NULL = "let it be empty by op.alter_audit_column(..., nullable=True)"


def broken_trails(default_schema: str) -> str:
    """Return the statement that fails where a trigger needs what its tables do not have.

    It reads the headers of all functions that triggers call, and looks for the tables and columns
    that they name. Headers that cannot be read, or are of a newer version, are left alone, and so
    are those of another tenant: one that is broken must not stop the others. So are temporary
    functions and tables, and functions of a role that may act neither as the owner of the table
    nor as the migrator: whoever may only write a table must not stop a migration.

    Args:
        default_schema: What a schema of None means.
    """
    guards = ", ".join(map(str, GUARD_TYPES.values()))
    return do_block(
        [
            "DECLARE",
            "  item pg_catalog.record;",
            "  spec pg_catalog.json;",
            "  audit pg_catalog.text;",
            "  named pg_catalog.text;",
            "  written pg_catalog.text[];",
            "  missing pg_catalog.text;",
            "  differing pg_catalog.text[];",
            "  remedies pg_catalog.text[];",
            "BEGIN",
            "  FOR item IN",
            "    SELECT n.nspname, p.proname, c.oid AS source, c.relname, s.nspname AS schema,",
            "      pg_catalog.format('%I.%I', s.nspname, c.relname) AS name,",
            "      pg_catalog.split_part(p.prosrc, pg_catalog.chr(10), 1) AS header, p.prosrc",
            "    FROM pg_catalog.pg_trigger AS t",
            "    JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid",
            "    JOIN pg_catalog.pg_namespace AS n",
            "      ON n.oid OPERATOR(pg_catalog.=) p.pronamespace",
            "    JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) t.tgrelid",
            "    JOIN pg_catalog.pg_namespace AS s",
            "      ON s.oid OPERATOR(pg_catalog.=) c.relnamespace",
            "    WHERE t.tgparentid OPERATOR(pg_catalog.=) 0",
            "      AND t.tgenabled OPERATOR(pg_catalog.<>) 'D'",
            f"      AND t.tgtype OPERATOR(pg_catalog.<>) ALL (ARRAY[{guards}]::pg_catalog.int2[])",
            f"      AND pg_catalog.starts_with(p.prosrc, {literal(HEADER)})",
            # A session's own affair, and that of whoever may not even act as the table's owner.
            "      AND NOT pg_catalog.starts_with(n.nspname::pg_catalog.text, 'pg_temp_')",
            "      AND NOT pg_catalog.starts_with(s.nspname::pg_catalog.text, 'pg_temp_')",
            "      AND NOT EXISTS (",
            "        SELECT FROM pg_catalog.pg_roles AS m",
            "        WHERE m.rolcanlogin",
            "          AND pg_catalog.pg_has_role(m.oid, p.proowner, 'MEMBER')",
            "          AND NOT pg_catalog.pg_has_role(m.oid, c.relowner, 'MEMBER')",
            "          AND NOT pg_catalog.pg_has_role(m.oid, CURRENT_USER, 'MEMBER')",
            "      )",
            "  LOOP",
            "    BEGIN",
            "      spec := pg_catalog.substr(",
            f"        item.header, {len(HEADER) + 1}",
            "      )::pg_catalog.json;",
            "      CONTINUE WHEN (spec OPERATOR(pg_catalog.->>) 'table') IS NULL",
            "        OR (spec OPERATOR(pg_catalog.->>) 'audit_table') IS NULL",
            "        OR (spec OPERATOR(pg_catalog.->>) 'version')::pg_catalog.int4",
            f"          OPERATOR(pg_catalog.>) {CURRENT_VERSION}",
            "        OR (spec OPERATOR(pg_catalog.->>) 'schema') IS NULL",
            f"          AND item.schema OPERATOR(pg_catalog.<>) {literal(default_schema)};",
            "    IF item.relname OPERATOR(pg_catalog.<>) (spec OPERATOR(pg_catalog.->>) 'table')",
            "      AND pg_catalog.to_regclass(pg_catalog.format('%I.%I',",
            "        COALESCE(spec OPERATOR(pg_catalog.->>) 'schema', item.schema),",
            "        spec OPERATOR(pg_catalog.->>) 'table')) IS NULL THEN",
            *_raise(
                "pg_catalog.concat('table ', item.name, ' was ', "
                "spec OPERATOR(pg_catalog.->>) 'table', ' when its audit trigger was made')",
                _RENAME_TABLE,
            ),
            "    END IF;",
            "    SELECT pg_catalog.string_agg(wanted.name, ', ') INTO missing",
            "    FROM (",
            "      SELECT pg_catalog.json_array_elements_text(",
            "        spec OPERATOR(pg_catalog.->) 'columns') AS name",
            "      UNION ALL SELECT pg_catalog.json_array_elements_text(",
            "        COALESCE(spec OPERATOR(pg_catalog.->) 'hash_columns', '[]'))",
            "    ) AS wanted",
            "    WHERE NOT EXISTS (",
            "      SELECT FROM pg_catalog.pg_attribute AS a",
            "      WHERE a.attrelid OPERATOR(pg_catalog.=) item.source",
            "        AND a.attname OPERATOR(pg_catalog.=) wanted.name AND NOT a.attisdropped",
            "    );",
            "    IF missing IS NOT NULL THEN",
            *_raise(
                "pg_catalog.concat('table ', item.name, ' has no column ', missing, "
                "', which its audit trigger records')",
                _RENAME_COLUMN,
            ),
            "    END IF;",
            "    audit := pg_catalog.format('%I.%I', item.nspname,",
            "      spec OPERATOR(pg_catalog.->>) 'audit_table');",
            "    IF pg_catalog.to_regclass(audit) IS NULL THEN",
            *_raise(
                "pg_catalog.concat('audit table ', audit, ' of ', item.name, ' does not exist')",
                "an audit table is renamed by the naming convention audit.table, and dropped "
                "after op.drop_audit_trigger",
            ),
            "    END IF;",
            # A body that names it in another schema, quoted as we do, was made for that one.
            "    named := pg_catalog.concat('\".\"', pg_catalog.replace(",
            "      spec OPERATOR(pg_catalog.->>) 'audit_table', '\"', '\"\"'), '\"');",
            "    IF pg_catalog.strpos(item.prosrc, named) OPERATOR(pg_catalog.>) 0",
            "      AND pg_catalog.strpos(item.prosrc, pg_catalog.concat(",
            "        '\"', pg_catalog.replace(item.nspname, '\"', '\"\"'), named)",
            "      ) OPERATOR(pg_catalog.=) 0 THEN",
            *_raise(
                "pg_catalog.concat('schema ', pg_catalog.quote_ident(item.nspname), "
                "' was called otherwise when the audit trigger of ', item.name, ' was made')",
                _RENAME_SCHEMA,
            ),
            "    END IF;",
            "    written := ARRAY(",
            "      SELECT pg_catalog.json_array_elements_text(",
            "        spec OPERATOR(pg_catalog.->) 'columns')",
            "      UNION ALL SELECT pg_catalog.concat(hashed, '_sha256')",
            "      FROM pg_catalog.json_array_elements_text(",
            "        COALESCE(spec OPERATOR(pg_catalog.->) 'hash_columns', '[]')) AS hashed",
            "      WHERE pg_catalog.octet_length(hashed) OPERATOR(pg_catalog.<=) 56",
            "      UNION ALL SELECT COALESCE(",
            "        spec OPERATOR(pg_catalog.->) 'setting_columns'",
            "          OPERATOR(pg_catalog.->>) setting,",
            "        CASE WHEN (spec OPERATOR(pg_catalog.->>) 'audit_columns')",
            "          OPERATOR(pg_catalog.=) 'classic' THEN setting",
            "          ELSE pg_catalog.concat('audit_', setting) END)",
            "      FROM pg_catalog.json_object_keys(",
            "        COALESCE(spec OPERATOR(pg_catalog.->) 'session_settings', '{}')) AS setting",
            "      UNION ALL SELECT pg_catalog.unnest(",
            "        CASE WHEN (spec OPERATOR(pg_catalog.->>) 'audit_columns')",
            "          OPERATOR(pg_catalog.=) 'classic'",
            "        THEN ARRAY['audit_operation', 'audit_operation_timestamp']",
            "        ELSE ARRAY['audit_operation', 'audit_operation_timestamp',",
            "          'audit_transaction_id', 'audit_current_user'] END)",
            "      UNION ALL SELECT 'audit_changed_columns'",
            "      WHERE (spec OPERATOR(pg_catalog.->>) 'changed_columns')",
            "        OPERATOR(pg_catalog.=) 'true'",
            "      UNION ALL SELECT 'audit_omitted_columns'",
            "      WHERE (spec OPERATOR(pg_catalog.->) 'sparse_columns') IS NOT NULL",
            "    );",
            "    SELECT pg_catalog.string_agg(wanted.name, ', ') INTO missing",
            "    FROM pg_catalog.unnest(written) AS wanted (name)",
            "    WHERE NOT EXISTS (",
            "      SELECT FROM pg_catalog.pg_attribute AS a",
            "      WHERE a.attrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(audit)",
            "        AND a.attname OPERATOR(pg_catalog.=) wanted.name AND NOT a.attisdropped",
            "    );",
            "    IF missing IS NOT NULL THEN",
            *_raise(
                "pg_catalog.concat('audit table ', audit, ' of ', item.name, ' has no column ', "
                "missing, ', which is recorded')",
                _RENAME_COLUMN,
            ),
            "    END IF;",
            "    SELECT pg_catalog.string_agg(a.attname, ', ') INTO missing",
            "    FROM pg_catalog.pg_attribute AS a",
            "    WHERE a.attrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(audit)",
            "      AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped",
            "      AND a.attnotnull AND NOT a.atthasdef",
            "      AND a.attidentity OPERATOR(pg_catalog.=) ''",
            "      AND a.attname::pg_catalog.text OPERATOR(pg_catalog.<>) ALL (written);",
            "    IF missing IS NOT NULL THEN",
            *_raise(
                "pg_catalog.concat('audit table ', audit, ' of ', item.name, ' is NOT NULL in ', "
                "missing, ', which is not recorded')",
                _DROP_NOT_NULL,
            ),
            "    END IF;",
            *compare_types(default_schema),
            # Only this header may be at fault; what is raised above has another code.
            "    EXCEPTION WHEN data_exception OR program_limit_exceeded",
            "      OR syntax_error_or_access_rule_violation THEN",
            "      CONTINUE;",
            "    END;",
            "  END LOOP;",
            "  IF differing IS NOT NULL THEN",
            "    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',",
            f"      MESSAGE = {_joined('differing')},",
            "      HINT = pg_catalog.concat('Writes to the table would fail; change the audit '",
            f"        'column too: ', {_joined('remedies')}, '; the types are those '",
            "        'of op.alter_column. alembic revision --autogenerate writes both.');",
            "  END IF;",
            "END",
        ]
    )


def _joined(array: str) -> str:
    """The elements of an array of text, once each: a table has several triggers."""
    return (
        "(SELECT pg_catalog.string_agg(DISTINCT one, '; ' ORDER BY one) FROM "
        f"pg_catalog.unnest({array}) AS one)"
    )


def _raise(message: str, hint: str) -> list[str]:
    return [
        "      RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',",
        f"        MESSAGE = {message},",
        f"        HINT = {literal(f'Writes to the table would fail; {hint}.')};",
    ]
