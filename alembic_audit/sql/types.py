"""What is looked at of types before a trail is made: no cast of others, and hashes that last."""

from collections.abc import Iterable

from alembic_audit.naming import literal
from alembic_audit.spec import AuditSpec
from alembic_audit.sql.text import audit_name, source_name


def check(spec: AuditSpec, default_schema: str) -> list[str]:
    """Return what finds a column whose values could not be stored as they are."""
    source, audit = source_name(spec, default_schema), audit_name(spec, default_schema)
    return [
        *_stored(spec, source, audit),
        *_hashed(spec, source),
        *_settings(spec, audit),
    ]


def _columns(table: str, names: Iterable[str]) -> list[str]:
    """Return a relation ``c`` of columns and their types, domains as their base types."""
    wanted = ", ".join(map(literal, names))
    return [
        "    SELECT a.attname::pg_catalog.text AS name, a.attnum, a.atttypid, base.oid AS base,",
        "      pg_catalog.format_type(a.atttypid, a.atttypmod) AS spelled, t.typtype, t.typelem,",
        "      t.typsubscript OPERATOR(pg_catalog.=)",
        "        'pg_catalog.array_subscript_handler'::pg_catalog.regproc AS is_array",
        "    FROM pg_catalog.pg_attribute AS a",
        "    CROSS JOIN LATERAL (",
        "      WITH RECURSIVE domains (oid) AS (",
        "        SELECT a.atttypid",
        "        UNION ALL",
        "        SELECT d.typbasetype FROM domains",
        "        JOIN pg_catalog.pg_type AS d ON d.oid OPERATOR(pg_catalog.=) domains.oid",
        "          AND d.typtype OPERATOR(pg_catalog.=) 'd'",
        "      )",
        "      SELECT oid FROM domains",
        "      WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_type AS d",
        "        WHERE d.oid OPERATOR(pg_catalog.=) domains.oid",
        "          AND d.typtype OPERATOR(pg_catalog.=) 'd')",
        "    ) AS base",
        "    JOIN pg_catalog.pg_type AS t ON t.oid OPERATOR(pg_catalog.=) base.oid",
        f"    WHERE a.attrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass({literal(table)})",
        f"      AND a.attname OPERATOR(pg_catalog.=) ANY (ARRAY[{wanted}]::pg_catalog.name[])",
    ]


def _stored(spec: AuditSpec, source: str, audit: str) -> list[str]:
    """Return what finds a column that would go into its audit column by a cast.

    The owner of a type may create casts of it, and one would run as the function's owner.
    """
    if not spec.columns:
        return []
    as_text = dict(spec.as_text)
    kinds = ", ".join(literal(as_text.get(name, "")) for name in spec.columns)
    names = ", ".join(map(literal, spec.columns))
    both = f" of table {source} is "
    change = (
        "Give both one type: as `alembic revision --autogenerate` writes it where the model has "
        "the type of the database. Or leave the column out of columns=[...]."
    )
    return [
        "  SELECT pg_catalog.concat(",
        f"      'column \"', c.name, {literal(chr(34) + both)}, c.spelled,",
        "      CASE WHEN c.as_text OPERATOR(pg_catalog.<>) '' THEN",
        "        pg_catalog.concat(', stored as the text of it: ', c.as_text) END,",
        f"      {literal(f', and its audit column in {audit} is ')}, c.stored, pg_catalog.chr(10),",
        "      CASE WHEN c.kind IS NULL THEN",
        f"        {literal(change)}",
        "      ELSE pg_catalog.concat('Write as_text={', pg_catalog.chr(34), c.name,",
        "        pg_catalog.chr(34), ': ', pg_catalog.chr(34), c.kind, pg_catalog.chr(34),",
        "        '} in op.create_audit_trigger(...): a cast would store it otherwise.') END)",
        "  INTO missing FROM (",
        "    SELECT s.*, a.base AS stored_as, a.spelled AS stored, w.as_text,",
        "      CASE WHEN s.typtype OPERATOR(pg_catalog.=) 'e'",
        "          AND a.base OPERATOR(pg_catalog.=) 'pg_catalog.text'::pg_catalog.regtype",
        "        THEN 'text'",
        "        WHEN s.is_array AND a.is_array AND e.typtype OPERATOR(pg_catalog.=) ANY",
        "            (ARRAY['d', 'e']::pg_catalog.\"char\"[])",
        "        THEN pg_catalog.concat((SELECT typname FROM pg_catalog.pg_type",
        "          WHERE oid OPERATOR(pg_catalog.=) a.typelem), '[]')",
        "      END AS kind,",
        "      CASE WHEN w.as_text OPERATOR(pg_catalog.=) '' THEN",
        "          s.base OPERATOR(pg_catalog.=) a.base",
        "        WHEN w.as_text OPERATOR(pg_catalog.=) 'text' THEN",
        "          s.typtype OPERATOR(pg_catalog.=) 'e' AND",
        "          a.base OPERATOR(pg_catalog.=) 'pg_catalog.text'::pg_catalog.regtype",
        "        ELSE s.is_array AND a.base OPERATOR(pg_catalog.=)",
        "          pg_catalog.to_regtype(pg_catalog.concat('pg_catalog.', w.as_text))",
        "      END AS fits",
        "    FROM (",
        *("  " + line for line in _columns(source, spec.columns)),
        "    ) AS s",
        "    JOIN (",
        *("  " + line for line in _columns(audit, spec.columns)),
        "    ) AS a ON a.name OPERATOR(pg_catalog.=) s.name",
        f"    JOIN ROWS FROM (pg_catalog.unnest(ARRAY[{names}]::pg_catalog.text[]),",
        f"      pg_catalog.unnest(ARRAY[{kinds}]::pg_catalog.text[])",
        "    ) AS w (name, as_text) ON w.name OPERATOR(pg_catalog.=) s.name",
        "    LEFT JOIN pg_catalog.pg_type AS e ON e.oid OPERATOR(pg_catalog.=) s.typelem",
        "  ) AS c WHERE NOT c.fits ORDER BY c.attnum LIMIT 1;",
        *_raise("datatype_mismatch"),
    ]


def _raise(code: str) -> list[str]:
    return [
        "  IF missing IS NOT NULL THEN",
        f"    RAISE EXCEPTION USING ERRCODE = '{code}',",
        "      MESSAGE = pg_catalog.split_part(missing, pg_catalog.chr(10), 1),",
        "      HINT = pg_catalog.split_part(missing, pg_catalog.chr(10), 2);",
        "  END IF;",
    ]


def _hashed(spec: AuditSpec, source: str) -> list[str]:
    """Return what finds a column whose hash would be another one in another database.

    The binary form of an array or a row holds the number of the type of what is in it; only those
    of PostgreSQL's own types are the same everywhere. A ``regclass`` is such a number itself.
    """
    if not spec.hash_columns:
        return []
    middle = f" of table {source} cannot be hashed: the binary form of "
    return [
        f"  SELECT pg_catalog.concat('column \"', h.name, {literal(chr(34) + middle)}, h.spelled,",
        "      ' is not the same in every database', pg_catalog.chr(10),",
        "      'Store it by columns=[...], or leave it out.')",
        "  INTO missing FROM (",
        "    WITH RECURSIVE parts (name, spelled, attnum, oid, numbered) AS (",
        "      SELECT c.name, c.spelled, c.attnum, c.atttypid, false FROM (",
        *("  " + line for line in _columns(source, spec.hash_columns)),
        "      ) AS c",
        "      UNION",
        "      SELECT p.name, p.spelled, p.attnum, inner_type.oid, inner_type.numbered",
        "      FROM parts AS p",
        "      JOIN pg_catalog.pg_type AS t ON t.oid OPERATOR(pg_catalog.=) p.oid",
        "      LEFT JOIN pg_catalog.pg_range AS r ON r.rngtypid OPERATOR(pg_catalog.=) t.oid",
        "        OR r.rngmultitypid OPERATOR(pg_catalog.=) t.oid",
        "      CROSS JOIN LATERAL (VALUES (t.typbasetype, p.numbered), (r.rngsubtype, false),",
        "        (CASE WHEN t.typsubscript OPERATOR(pg_catalog.=)",
        "            'pg_catalog.array_subscript_handler'::pg_catalog.regproc",
        "          THEN t.typelem END, true)",
        "        UNION ALL SELECT a.atttypid, true FROM pg_catalog.pg_attribute AS a",
        "        WHERE t.typtype OPERATOR(pg_catalog.=) 'c'",
        "          AND a.attrelid OPERATOR(pg_catalog.=) t.typrelid",
        "          AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped",
        "      ) AS inner_type (oid, numbered)",
        "      WHERE inner_type.oid OPERATOR(pg_catalog.<>) 0",
        "    )",
        "    SELECT p.* FROM parts AS p",
        "    JOIN pg_catalog.pg_type AS t ON t.oid OPERATOR(pg_catalog.=) p.oid",
        "    WHERE t.typsend::pg_catalog.oid OPERATOR(pg_catalog.=) 0",
        "      OR t.oid OPERATOR(pg_catalog.<) 10000 AND t.typname OPERATOR(pg_catalog.~) '^reg'",
        # Those that initdb numbers itself have other numbers in other versions.
        "      OR p.numbered AND t.oid OPERATOR(pg_catalog.>=) 10000",
        "    ORDER BY p.attnum LIMIT 1",
        "  ) AS h;",
        *_raise("feature_not_supported"),
    ]


def _settings(spec: AuditSpec, audit: str) -> list[str]:
    """Return what finds a setting of a type whose owner could create a cast from text to it."""
    if not spec.session_settings:
        return []
    role = literal(spec.owner) if spec.owner else "current_user"
    columns = [setting.column for setting in spec.session_settings]
    middle = f" of audit table {audit} holds a setting as "
    return [
        f"  SELECT pg_catalog.concat('column \"', c.name, {literal(chr(34) + middle)}, c.spelled,",
        "      ', a type of ', pg_catalog.pg_get_userbyid(o.typowner),",
        "      ', who could create a cast from text to it that runs as the audit function',",
        "      pg_catalog.chr(10), 'Declare the setting as Text.')",
        "  INTO missing FROM (",
        *_columns(audit, columns),
        "  ) AS c JOIN pg_catalog.pg_type AS o ON o.oid OPERATOR(pg_catalog.=) c.base",
        f"  WHERE NOT pg_catalog.pg_has_role(o.typowner, {role}::pg_catalog.name, 'MEMBER')",
        "    AND pg_catalog.pg_get_userbyid(o.typowner) OPERATOR(pg_catalog.<>) current_user",
        "  ORDER BY c.attnum LIMIT 1;",
        *_raise("insufficient_privilege"),
    ]
