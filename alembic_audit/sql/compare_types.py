"""PL/pgSQL that finds audit columns whose type cannot hold what their table has now."""

from alembic_audit.naming import literal

_EQUAL = "OPERATOR(pg_catalog.=)"


def compare_types(default_schema: str) -> list[str]:
    """Lines that add to the arrays ``differing`` and ``remedies``, one element a column.

    An audit column is of the type of its source column, and may be longer: ``retype.holds`` is the
    same rule for declared types. A domain counts as its base type, and an enum of ``as_text`` is
    stored as text.
    """
    fits = (
        f"(k.modifier {_EQUAL} -1 OR k.modifier {_EQUAL} b.modifier OR b.modifier"
        " OPERATOR(pg_catalog.>=) 0 AND k.modifier OPERATOR(pg_catalog.>) b.modifier AND ("
        f"{_among('b.type', *_LENGTHS)} OR {_among('b.type', 'numeric')}"
        # The modifier of numeric has the precision above 16 bits of scale.
        " AND ((b.modifier OPERATOR(pg_catalog.-) 4) OPERATOR(pg_catalog.#)"
        " (k.modifier OPERATOR(pg_catalog.-) 4)) OPERATOR(pg_catalog.&) 65535"
        f" {_EQUAL} 0))"
    )
    schema = (
        f"CASE WHEN item.nspname {_EQUAL} {literal(default_schema)} THEN '' ELSE pg_catalog.concat("
        "'schema=', pg_catalog.to_json(item.nspname::pg_catalog.text), ', ') END"
    )
    as_text = (
        "(spec OPERATOR(pg_catalog.->) 'as_text'"
        " OPERATOR(pg_catalog.->>) s.attname::pg_catalog.text)"
    )
    return [
        "    SELECT pg_catalog.array_cat(differing, pg_catalog.array_agg(",
        "      pg_catalog.format('column %I of table %s is %s, and %s in audit table %s',",
        "        s.attname, item.name, pg_catalog.format_type(s.atttypid, s.atttypmod),",
        "        pg_catalog.format_type(a.atttypid, a.atttypmod), audit)",
        "    )), pg_catalog.array_cat(remedies, pg_catalog.array_agg(",
        f"      CASE WHEN t.typtype {_EQUAL} 'e' OR b.of_domains OR {as_text} IS NOT NULL THEN",
        "        pg_catalog.concat('# ', item.name, ', column ', s.attname, ': as_text of '",
        "          'op.replace_audit_trigger changes too, so let autogenerate write both')",
        "      ELSE pg_catalog.concat('# ', item.name, ':', pg_catalog.chr(10),",
        "        'op.alter_audit_column(',",
        "        pg_catalog.to_json(spec OPERATOR(pg_catalog.->>) 'audit_table'), ', ',",
        "        pg_catalog.to_json(s.attname::pg_catalog.text), ', ',",
        f"        {schema},",
        "        'existing_type=..., type_=...)  # the types of op.alter_column') END",
        "    )) INTO differing, remedies",
        "    FROM pg_catalog.json_array_elements_text(",
        "      spec OPERATOR(pg_catalog.->) 'columns') AS wanted (name)",
        f"    JOIN pg_catalog.pg_attribute AS s ON s.attrelid {_EQUAL} item.source",
        f"      AND s.attname {_EQUAL} wanted.name AND NOT s.attisdropped",
        "    JOIN pg_catalog.pg_attribute AS a",
        f"      ON a.attrelid {_EQUAL} pg_catalog.to_regclass(audit)",
        f"      AND a.attname {_EQUAL} s.attname AND NOT a.attisdropped",
        *_base("s", "b"),
        *_base("a", "k"),
        f"    JOIN pg_catalog.pg_type AS t ON t.oid {_EQUAL} b.type",
        # What as_text stores is spelled as it says, of an enum or of an array.
        "    WHERE pg_catalog.to_regtype('pg_catalog.' OPERATOR(pg_catalog.||)",
        f"        {as_text})::pg_catalog.oid OPERATOR(pg_catalog.<>) a.atttypid",
        f"      OR {as_text} IS NOT NULL AND NOT b.is_array",
        "        AND t.typtype OPERATOR(pg_catalog.<>) 'e'",
        f"      OR {as_text} IS NULL AND b.of_domains",
        "      OR (s.atttypid OPERATOR(pg_catalog.<>) a.atttypid",
        "      OR s.atttypmod OPERATOR(pg_catalog.<>) a.atttypmod)",
        f"      AND (b.is_array OPERATOR(pg_catalog.<>) k.is_array OR NOT (b.type {_EQUAL} k.type",
        f"        AND {fits}",
        f"      OR t.typtype {_EQUAL} 'e' AND {_among('k.type', 'text')}",
        f"        AND k.modifier {_EQUAL} -1 AND {as_text} IS NOT NULL));",
    ]


_LENGTHS = ("varbit", "varchar", "time", "timetz", "timestamp", "timestamptz")


def _types(*names: str) -> str:
    listed = ", ".join(literal(f"pg_catalog.{name}") for name in names)
    return f"ARRAY[{listed}]::pg_catalog.regtype[]::pg_catalog.oid[]"


def _among(value: str, *names: str) -> str:
    return f"{value} {_EQUAL} ANY ({_types(*names)})"


def _base(column: str, alias: str) -> list[str]:
    """Lines that join the type of a column without its domains, of an array that of its items."""
    return [
        "    CROSS JOIN LATERAL (",
        "      WITH RECURSIVE base (type, modifier, is_array, of_domains, depth) AS (",
        f"        SELECT {column}.atttypid, {column}.atttypmod, false, false, 0",
        "        UNION ALL",
        f"        SELECT CASE WHEN d.typtype {_EQUAL} 'd' THEN d.typbasetype ELSE e.oid END,",
        f"          CASE WHEN d.typtype {_EQUAL} 'd' THEN d.typtypmod ELSE base.modifier END,",
        "          base.is_array OR d.typtype OPERATOR(pg_catalog.<>) 'd',",
        f"          base.of_domains OR base.is_array AND d.typtype {_EQUAL} 'd',",
        "          base.depth OPERATOR(pg_catalog.+) 1",
        f"        FROM base JOIN pg_catalog.pg_type AS d ON d.oid {_EQUAL} base.type",
        f"        LEFT JOIN pg_catalog.pg_type AS e ON e.oid {_EQUAL} d.typelem",
        f"          AND e.typarray {_EQUAL} d.oid",
        f"        WHERE d.typtype {_EQUAL} 'd' OR e.oid IS NOT NULL",
        "      ) SELECT * FROM base ORDER BY depth DESC LIMIT 1",
        f"    ) AS {alias}",
    ]
