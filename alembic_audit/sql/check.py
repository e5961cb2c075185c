"""The statement that finds a trail whose next record would fail."""

from alembic_audit.naming import literal
from alembic_audit.spec import CURRENT_VERSION, HEADER
from alembic_audit.sql.compare_types import compare_types
from alembic_audit.sql.text import GUARD_TYPES, do_block

_EQUAL = "OPERATOR(pg_catalog.=)"
_NOT_EQUAL = "OPERATOR(pg_catalog.<>)"
_TAKE_OUT = (
    "# take the change of {} out of the migration: alembic revision --autogenerate changes audit "
    "tables"
)


def broken_trails(default_schema: str) -> str:
    """Return the statement that fails where a trigger needs what its tables do not have.

    It reads the headers of all functions that triggers call, and looks for the tables and columns
    that they name. Headers that cannot be read, or are of a newer version, are left alone, and so
    are those of another tenant: one that is broken must not stop the others. So are temporary
    functions and tables, and functions of a role that may act neither as the owner of the table
    nor as the migrator: whoever may only write a table must not stop a migration.

    Everything that is wrong is in one error, with the operations to write after what broke it.

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
            "  before pg_catalog.jsonb;",
            "  args pg_catalog.jsonb;",
            "  part pg_catalog.jsonb;",
            "  gone pg_catalog.text[];",
            "  fresh pg_catalog.text[];",
            "  called pg_catalog.text;",
            "BEGIN",
            "  FOR item IN",
            "    SELECT DISTINCT n.nspname, p.proname, c.oid AS source, c.relname,",
            "      s.nspname AS schema,",
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
            "    ORDER BY name, n.nspname, p.proname",
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
            "    args := spec::pg_catalog.jsonb OPERATOR(pg_catalog.-) 'table';",
            "    audit := pg_catalog.format('%I.%I', item.nspname,",
            "      spec OPERATOR(pg_catalog.->>) 'audit_table');",
            "    IF item.relname OPERATOR(pg_catalog.<>) (spec OPERATOR(pg_catalog.->>) 'table')",
            "      AND pg_catalog.to_regclass(pg_catalog.format('%I.%I',",
            "        COALESCE(spec OPERATOR(pg_catalog.->>) 'schema', item.schema),",
            "        spec OPERATOR(pg_catalog.->>) 'table')) IS NULL THEN",
            *_renamed_table(),
            "    END IF;",
            *_missing_columns(),
            "    IF pg_catalog.to_regclass(audit) IS NULL THEN",
            *_problem(
                "pg_catalog.concat('audit table ', audit, ' of ', item.name, ' does not exist')",
                _concat(_TAKE_OUT.format("the audit table"))
                + ", ', renames them by the naming convention audit.table, and drops them after '"
                ", 'op.drop_audit_trigger')",
            ),
            "      CONTINUE;",
            "    END IF;",
            # A body that names it in another schema, quoted as we do, was made for that one.
            "    named := pg_catalog.concat('\".\"', pg_catalog.replace(",
            "      spec OPERATOR(pg_catalog.->>) 'audit_table', '\"', '\"\"'), '\"');",
            "    IF pg_catalog.strpos(item.prosrc, named) OPERATOR(pg_catalog.>) 0",
            "      AND pg_catalog.strpos(item.prosrc, pg_catalog.concat(",
            "        '\"', pg_catalog.replace(item.nspname, '\"', '\"\"'), named)",
            "      ) OPERATOR(pg_catalog.=) 0 THEN",
            *_renamed_schema(default_schema),
            "      CONTINUE;",
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
            *_problem(
                "pg_catalog.concat('audit table ', audit, ' of ', item.name, ' has no column ', "
                "missing, ', which is recorded')",
                f"pg_catalog.concat({literal(_TAKE_OUT.partition('{}')[0])}, audit,"
                f" {literal(_TAKE_OUT.partition('{}')[2])})",
            ),
            "    END IF;",
            "    SELECT pg_catalog.string_agg(a.attname, ', ' ORDER BY a.attnum),",
            "      pg_catalog.string_agg(pg_catalog.concat('op.alter_audit_column(',",
            "        pg_catalog.to_json(spec OPERATOR(pg_catalog.->>) 'audit_table'), ', ',",
            "        pg_catalog.to_json(a.attname::pg_catalog.text), ', ',",
            f"        {_schema_argument('item.nspname', default_schema)},",
            "        'nullable=True)'), pg_catalog.chr(10) ORDER BY a.attnum)",
            "      INTO missing, called",
            "    FROM pg_catalog.pg_attribute AS a",
            "    WHERE a.attrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(audit)",
            "      AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped",
            "      AND a.attnotnull AND NOT a.atthasdef",
            "      AND a.attidentity OPERATOR(pg_catalog.=) ''",
            "      AND a.attname::pg_catalog.text OPERATOR(pg_catalog.<>) ALL (written);",
            "    IF missing IS NOT NULL THEN",
            *_problem(
                "pg_catalog.concat('audit table ', audit, ' of ', item.name, ' is NOT NULL in ', "
                "missing, ', which is not recorded')",
                "called",
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
            "      MESSAGE = (SELECT pg_catalog.string_agg(one, '; ' ORDER BY one)",
            "        FROM pg_catalog.unnest(differing) AS one),",
            "      HINT = pg_catalog.concat('Writes would fail. Write in the same migration, '",
            "        'after what it does to these tables:', pg_catalog.chr(10),",
            "        (SELECT pg_catalog.string_agg(one.line, pg_catalog.chr(10)",
            "          ORDER BY one.place)",
            "        FROM pg_catalog.unnest(remedies) WITH ORDINALITY AS one (line, place)),",
            "        pg_catalog.chr(10), 'Or let alembic revision --autogenerate write it.');",
            "  END IF;",
            "END",
        ]
    )


def _problem(message: str, remedy: str) -> list[str]:
    """Lines that note what is wrong; both are expressions."""
    return [
        f"      differing := pg_catalog.array_append(differing, {message});",
        "      remedies := pg_catalog.array_append(remedies, pg_catalog.concat(",
        f"        '# ', item.name, ':', pg_catalog.chr(10), {remedy}));",
    ]


def _concat(text: str) -> str:
    return f"pg_catalog.concat({literal(text)}"


def _schema_argument(schema: str, default_schema: str) -> str:
    """The expression of ``schema="...", ``, which is empty for the default schema."""
    return (
        f"CASE WHEN {schema} {_EQUAL} {literal(default_schema)} THEN '' ELSE "
        f"pg_catalog.concat('schema=', pg_catalog.to_json({schema}::pg_catalog.text), ', ') END"
    )


def _arguments(args: str) -> str:
    """The expression of the Python arguments that an object of JSON stands for."""
    kind = "pg_catalog.jsonb_typeof(one.value)"
    return (
        "(SELECT pg_catalog.string_agg(pg_catalog.concat(one.key, '=', CASE"
        f" WHEN {kind} {_EQUAL} 'boolean' THEN pg_catalog.initcap(one.value::pg_catalog.text)"
        f" WHEN {kind} {_EQUAL} 'null' THEN 'None' ELSE one.value::pg_catalog.text END), ', '"
        f" ORDER BY one.key) FROM pg_catalog.jsonb_each({args}) AS one)"
    )


def _renamed_table() -> list[str]:
    named = "one.key OPERATOR(pg_catalog.=) ANY (ARRAY['audit_table', 'function', 'trigger'])"
    return [
        # A name holds that of the table between underscores, as sql.move finds it.
        "      SELECT pg_catalog.jsonb_object_agg(one.key, one.value),",
        "        args OPERATOR(pg_catalog.||) pg_catalog.jsonb_object_agg(one.key,",
        "          CASE WHEN found.place OPERATOR(pg_catalog.>) 0 THEN pg_catalog.overlay(",
        "            found.name, item.relname::pg_catalog.text, found.place,",
        "            pg_catalog.length(spec OPERATOR(pg_catalog.->>) 'table'))",
        "          ELSE found.name END)",
        "      INTO before, args",
        "      FROM pg_catalog.jsonb_each(args) AS one",
        "      CROSS JOIN LATERAL (SELECT one.value OPERATOR(pg_catalog.#>>) '{}' AS name,",
        "        pg_catalog.strpos(",
        "          pg_catalog.concat('_', one.value OPERATOR(pg_catalog.#>>) '{}', '_'),",
        "          pg_catalog.concat('_', spec OPERATOR(pg_catalog.->>) 'table', '_')) AS place",
        "      ) AS found",
        f"      WHERE {named};",
        *_problem(
            "pg_catalog.concat('table ', item.name, ' was ', "
            "spec OPERATOR(pg_catalog.->>) 'table', ' when its audit trigger was made')",
            "pg_catalog.concat('op.rename_audited_table(', "
            "pg_catalog.to_json(spec OPERATOR(pg_catalog.->>) 'table'), ', ', "
            "pg_catalog.to_json(item.relname::pg_catalog.text), ', source_renamed=True, ', "
            f"{_arguments('args')}, ', replaces=', before, ')')",
        ),
    ]


def _missing_columns() -> list[str]:
    """Lines for columns that are recorded and gone: each was renamed, or dropped."""
    table = "pg_catalog.to_json(item.relname::pg_catalog.text)"
    rename = f"'op.rename_audited_column(', {table}, ', ', pg_catalog.to_json("
    key_left = "(args OPERATOR(pg_catalog.->) 'columns') OPERATOR(pg_catalog.@>) part"
    return [
        "    SELECT pg_catalog.array_agg(wanted.name ORDER BY wanted.place) INTO gone",
        "    FROM (",
        "      SELECT * FROM pg_catalog.json_array_elements_text(",
        "        spec OPERATOR(pg_catalog.->) 'columns') WITH ORDINALITY AS c (name, place)",
        "      UNION ALL SELECT h.name, h.place OPERATOR(pg_catalog.+) 2000",
        "      FROM pg_catalog.json_array_elements_text(",
        "        COALESCE(spec OPERATOR(pg_catalog.->) 'hash_columns', '[]'))",
        "        WITH ORDINALITY AS h (name, place)",
        "    ) AS wanted",
        "    WHERE NOT EXISTS (",
        "      SELECT FROM pg_catalog.pg_attribute AS a",
        f"      WHERE a.attrelid {_EQUAL} item.source",
        f"        AND a.attname {_EQUAL} wanted.name AND NOT a.attisdropped",
        "    );",
        "    IF gone IS NOT NULL THEN",
        "      differing := pg_catalog.array_append(differing, pg_catalog.concat(",
        "        'table ', item.name, ' has no column ',",
        "        pg_catalog.array_to_string(gone, ', '), ', which its audit trigger records'));",
        # Columns that nothing recorded before: what was renamed is one of them.
        "      fresh := ARRAY(",
        "        SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute AS a",
        f"        WHERE a.attrelid {_EQUAL} item.source AND NOT a.attisdropped",
        "          AND a.attnum OPERATOR(pg_catalog.>) 0",
        "          AND NOT pg_catalog.jsonb_build_array(a.attname) OPERATOR(pg_catalog.<@)",
        "            ((args OPERATOR(pg_catalog.->) 'columns') OPERATOR(pg_catalog.||)",
        "            COALESCE(args OPERATOR(pg_catalog.->) 'hash_columns', '[]'))",
        "          AND NOT EXISTS (",
        "            SELECT FROM pg_catalog.pg_attribute AS k",
        f"            WHERE k.attrelid {_EQUAL} pg_catalog.to_regclass(audit)",
        f"              AND k.attname {_EQUAL} a.attname AND NOT k.attisdropped)",
        "        ORDER BY a.attnum",
        "      );",
        "      before := args;",
        "      FOR nth IN 1 .. pg_catalog.cardinality(gone) LOOP",
        f"        IF pg_catalog.cardinality(fresh) {_EQUAL} pg_catalog.cardinality(gone) THEN",
        "          called := fresh[nth];",
        *_with_column("gone[nth]", "called"),
        *_remedy(
            "'# if ', gone[nth], ' of ', item.name, ' is now ', called, ':', pg_catalog.chr(10), "
            f"{rename}gone[nth]), ', ', pg_catalog.to_json(called), ', source_renamed=True, ', "
            f"{_arguments('args')}, ')'"
        ),
        "        ELSIF pg_catalog.cardinality(fresh) OPERATOR(pg_catalog.>) 0 THEN",
        *_remedy(
            "'# if ', gone[nth], ' of ', item.name, ' is one of ', "
            "pg_catalog.array_to_string(fresh, ', '), ', with all arguments as they are "
            f"afterwards:', pg_catalog.chr(10), {rename}gone[nth]), "
            "', ..., source_renamed=True, columns=[...], ...)'"
        ),
        "        END IF;",
        "      END LOOP;",
        "      args := before;",
        "      FOR nth IN 1 .. pg_catalog.cardinality(gone) LOOP",
        *_with_column("gone[nth]", None),
        "      END LOOP;",
        f"      IF (before OPERATOR(pg_catalog.->) 'key') {_NOT_EQUAL}",
        "        (args OPERATOR(pg_catalog.->) 'key') THEN",
        "        SELECT pg_catalog.jsonb_agg(a.attname ORDER BY k.place) INTO part",
        "        FROM pg_catalog.pg_index AS i",
        "        CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::pg_catalog.int2[])",
        "          WITH ORDINALITY AS k (attnum, place)",
        f"        JOIN pg_catalog.pg_attribute AS a ON a.attrelid {_EQUAL} i.indrelid",
        f"          AND a.attnum {_EQUAL} k.attnum",
        f"        WHERE i.indrelid {_EQUAL} item.source AND i.indisprimary;",
        f"        args := args OPERATOR(pg_catalog.||) CASE WHEN {key_left}",
        "          THEN pg_catalog.jsonb_build_object('key', part)",
        # Without a key an UPDATE needs a row trigger, and nothing can be left out of a record.
        '          ELSE \'{"key": [], "level": "row", "sparse_columns": []}\' END;',
        "      END IF;",
        "      SELECT pg_catalog.jsonb_object_agg(one.key,",
        "        COALESCE(before OPERATOR(pg_catalog.->) one.key, '[]')) INTO part",
        "      FROM pg_catalog.jsonb_each(args) AS one",
        "      WHERE COALESCE(before OPERATOR(pg_catalog.->) one.key, '[]')",
        f"        {_NOT_EQUAL} one.value;",
        f"      IF (args OPERATOR(pg_catalog.->) 'columns') {_EQUAL} '[]'",
        f"        AND COALESCE(args OPERATOR(pg_catalog.->) 'hash_columns', '[]') {_EQUAL} '[]'",
        "      THEN",
        *_remedy(
            "'# nothing that is recorded is left: before it, op.drop_audit_trigger(', "
            f"{table}, ', ...)'"
        ),
        "      ELSE",
        *_remedy(
            "CASE WHEN pg_catalog.cardinality(fresh) OPERATOR(pg_catalog.>) 0 THEN '# if ' "
            "ELSE '# ' END, pg_catalog.array_to_string(gone, ', '), ' of ', item.name, "
            "' is gone:', pg_catalog.chr(10), "
            f"'op.replace_audit_trigger(', {table}, ', ', {_arguments('args')}, ', replaces=', "
            "part, ')'"
        ),
        "      END IF;",
        "      args := before;",
        "    END IF;",
    ]


def _remedy(parts: str) -> list[str]:
    return [f"      remedies := pg_catalog.array_append(remedies, pg_catalog.concat({parts}));"]


def _with_column(old: str, new: str | None) -> list[str]:
    """Lines that rename a column in ``args``, or leave it out; both are expressions of text."""
    value = "one.value" if new is None else f"pg_catalog.to_jsonb({new})"
    same = f"one.value {_EQUAL} pg_catalog.to_jsonb({old})"
    where = f"WHERE NOT {same}" if new is None else ""
    lines = []
    for name in ("columns", "key", "hash_columns", "ignore_columns", "sparse_columns"):
        lines += [
            f"          IF (args OPERATOR(pg_catalog.->) '{name}') IS NOT NULL THEN",
            "            args := args OPERATOR(pg_catalog.||)",
            f"              pg_catalog.jsonb_build_object('{name}',",
            "              (SELECT COALESCE(pg_catalog.jsonb_agg(",
            f"                CASE WHEN {same} THEN {value} ELSE one.value END",
            "                ORDER BY one.place), '[]')",
            "              FROM pg_catalog.jsonb_array_elements(args",
            f"                OPERATOR(pg_catalog.->) '{name}')",
            f"                WITH ORDINALITY AS one (value, place) {where}));",
            "          END IF;",
        ]
    kept = f"args OPERATOR(pg_catalog.->) 'as_text' OPERATOR(pg_catalog.->) {old}"
    text = f"(args OPERATOR(pg_catalog.->) 'as_text') OPERATOR(pg_catalog.-) {old}"
    if new is not None:
        text += f" OPERATOR(pg_catalog.||) pg_catalog.jsonb_build_object({new}, {kept})"
    return [
        *lines,
        f"          IF ({kept}) IS NOT NULL THEN",
        "            args := args OPERATOR(pg_catalog.||)",
        f"              pg_catalog.jsonb_build_object('as_text', {text});",
        "          END IF;",
    ]


def _renamed_schema(default_schema: str) -> list[str]:
    """Lines for a trail whose schema has another name: it ends, and begins anew in that."""
    default = literal(default_schema)
    return [
        "      args := args OPERATOR(pg_catalog.-) 'schema' OPERATOR(pg_catalog.-) 'audit_schema'",
        f"        OPERATOR(pg_catalog.||) CASE WHEN item.schema {_EQUAL} {default} THEN '{{}}'",
        "        ELSE pg_catalog.jsonb_build_object('schema', item.schema) END",
        f"        OPERATOR(pg_catalog.||) CASE WHEN item.nspname {_EQUAL} item.schema THEN '{{}}'",
        "        ELSE pg_catalog.jsonb_build_object('audit_schema', item.nspname) END;",
        *_problem(
            "pg_catalog.concat('schema ', pg_catalog.quote_ident(item.nspname), "
            "' was called otherwise when the audit trigger of ', item.name, ' was made')",
            "pg_catalog.concat('op.drop_audit_trigger(', "
            "pg_catalog.to_json(item.relname::pg_catalog.text), ', ', "
            f"{_schema_argument('item.schema', default_schema)}, 'audit_table=', "
            "args OPERATOR(pg_catalog.->) 'audit_table', ', audit_schema=', "
            "pg_catalog.to_json(item.nspname::pg_catalog.text), ', function=', "
            "pg_catalog.to_json(item.proname::pg_catalog.text), ')', pg_catalog.chr(10), "
            "'op.create_audit_trigger(', pg_catalog.to_json(item.relname::pg_catalog.text), ', ', "
            f"{_arguments('args')}, ')')",
        ),
    ]
