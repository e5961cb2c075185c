"""What is looked at before a trail is made or changed: nothing gets half-way."""

from alembic_audit.merging import difference
from alembic_audit.naming import literal, quote
from alembic_audit.spec import HEADER, AuditSpec
from alembic_audit.sql import types
from alembic_audit.sql.text import (
    audit_name,
    do_block,
    function_name,
    partition_names,
    schemas,
    source_name,
)


def check_header(
    old: AuditSpec, new: AuditSpec, default_schema: str, *, change: str, named: bool = True
) -> str:
    """Return the statement that fails where the function is not the one that an operation changes.

    Args:
        old: What the function records, as the operation knows it.
        new: What it shall record; a function that does so already is fine.
        default_schema: What a schema of None means.
        change: What the operation does with the trail, ``renames`` or ``replaces``.
        named: A function without a header is refused too: nothing says whose trail it writes.
    """
    name = function_name(old, default_schema)
    table = source_name(old, default_schema)
    message = f"the audit trigger of {table} is not the one that this operation {change}"
    detail = (
        f"Expected {name} to begin: {HEADER}{old.to_json()}\n"
        f"This operation changes: {difference(old, new)}\nFound: "
    )
    hint = (
        "Another revision, or a person, changed the trail. Upgrade online, where this change is "
        "applied to what is there. Or let this revision follow the other one (down_revision), and "
        "write all arguments of the trigger as they are afterwards, and in replaces={...} what was "
        "other before."
    )
    known = dict.fromkeys(
        (old.to_json(), new.to_json()) if change == "replaces" else (old.to_json(),)
    )
    same = " OR ".join(
        f"spec OPERATOR(pg_catalog.@>) {literal(one)}::pg_catalog.jsonb"
        f" AND spec OPERATOR(pg_catalog.<@) {literal(one)}::pg_catalog.jsonb"
        for one in known
    )
    unnamed = [
        f"  IF NOT pg_catalog.starts_with(found, {literal(HEADER)}) THEN",
        "    RETURN;",
        "  END IF;",
    ]
    return do_block(
        [
            "DECLARE",
            "  found pg_catalog.text;",
            "  spec pg_catalog.jsonb;",
            "BEGIN",
            "  SELECT pg_catalog.split_part(prosrc, pg_catalog.chr(10), 1) INTO found",
            "  FROM pg_catalog.pg_proc WHERE oid",
            f"    OPERATOR(pg_catalog.=) pg_catalog.to_regprocedure({literal(name + '()')});",
            *([] if named else unnamed),
            "  BEGIN",
            f"    spec := pg_catalog.substr(found, {len(HEADER) + 1})::pg_catalog.jsonb;",
            # The order of columns means nothing: each holds the other.
            f"    IF {same} THEN",
            "      RETURN;",
            "    END IF;",
            "  EXCEPTION WHEN data_exception OR program_limit_exceeded THEN",
            *(["    NULL;"] if named else ["    RETURN;"]),
            "  END;",
            "  RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',",
            f"    MESSAGE = {literal(message)},",
            f"    DETAIL = pg_catalog.concat({literal(detail)},",
            "      COALESCE(found, 'no such function')),",
            f"    HINT = {literal(hint)};",
            "END",
        ]
    )


def check_source_renamed(table: str, argument: str, columns: tuple[str, str] | None = None) -> str:
    """Return the statement that fails unless the audited table has its new name, or its column.

    Args:
        table: Its name now, qualified and quoted.
        argument: What the operation was given, ``source_renamed=True`` for one.
        columns: Former and new name of the column that was renamed.
    """
    relation = f"pg_catalog.to_regclass({literal(table)})"
    condition = f"{relation} IS NULL"
    message = f"table {table} does not exist, and {argument} says that it is called so"
    if columns is not None:
        old, new = columns
        message = (
            f"table {table} has no column {quote(new)}, and {argument} says that {quote(old)} "
            "is called so"
        )
        condition = (
            "NOT EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid"
            f" OPERATOR(pg_catalog.=) {relation} AND attname OPERATOR(pg_catalog.=) {literal(new)}"
            " AND NOT attisdropped)"
        )
    return do_block(
        [
            "BEGIN",
            f"  IF {condition} THEN",
            "    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',",
            f"      MESSAGE = {literal(message)},",
            f"      HINT = 'Leave {argument} out, or write the operation after the one that '",
            "        'renames; in a downgrade too.';",
            "  END IF;",
            "END",
        ]
    )


def check_tables(
    spec: AuditSpec,
    default_schema: str,
    *,
    new_function: bool,
    new_audit_table: bool = False,
    columns_too: bool = True,
) -> str:
    """Return the statement that finds, before anything is made, why a trail could not be written.

    Args:
        spec: What shall be.
        default_schema: What a schema of None means.
        new_function: There must be no function of that name.
        new_audit_table: The audit table was created in this migration, or was there before.
        columns_too: The audited table must have every column that is recorded.
    """
    lines = ["DECLARE", "  missing pg_catalog.text;", "BEGIN"]
    if spec.statement_level:
        lines += _plain(source_name(spec, default_schema))
    if new_function:
        name = function_name(spec, default_schema)
        trigger = f"the audit trigger of {source_name(spec, default_schema)}"
        lines += [
            f"  IF pg_catalog.to_regprocedure({literal(name + '()')}) IS NOT NULL THEN",
            "    RAISE EXCEPTION USING ERRCODE = 'duplicate_function', MESSAGE =",
            f"      {literal(f'function {name}() exists already, so {trigger} was not created')},",
            "      HINT = 'Drop it first if it is yours, or name another: function=...';",
            "  END IF;",
        ]
    for table, columns in (
        (source_name(spec, default_schema), spec.stored if columns_too else ()),
        (audit_name(spec, default_schema), spec.audit_column_names),
        *((name, ()) for name in partition_names(spec, default_schema)),
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
    lines += _key(spec, source_name(spec, default_schema))
    lines += _rights_of_owner(spec, default_schema)
    if new_function or new_audit_table:
        lines += _ordinary(spec, audit_name(spec, default_schema))
    if new_function:
        # Not where a trigger is replaced: on the way back, types change after that.
        lines += types.check(spec, default_schema)
        lines += _audit_table(spec, audit_name(spec, default_schema))
    elif new_audit_table:
        lines += _owner(spec, audit_name(spec, default_schema))
    return do_block([*lines, "END"])


def _key(spec: AuditSpec, table: str) -> list[str]:
    """Lines that refuse a key by which records could not be told apart."""
    if not spec.key:
        return []
    relation = f"pg_catalog.to_regclass({literal(table)})"
    names = f"ARRAY[{', '.join(map(literal, spec.key))}]::pg_catalog.text[]"
    late = f"the key of {table} is INITIALLY DEFERRED: two rows can have one key for a while"
    return [
        "  SELECT pg_catalog.string_agg(attname, ', ') INTO missing",
        "  FROM pg_catalog.pg_attribute",
        f"  WHERE attrelid OPERATOR(pg_catalog.=) {relation}",
        f"    AND attname::pg_catalog.text OPERATOR(pg_catalog.=) ANY ({names})",
        "    AND NOT attisdropped AND NOT attnotnull;",
        "  IF missing IS NOT NULL THEN",
        "    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE =",
        f"      pg_catalog.concat({literal(f'a column of the key of {table} may be NULL: ')},",
        "        missing),",
        "      HINT = 'ALTER COLUMN ... SET NOT NULL before the audit trigger, or leave key=[...] "
        "out and write level=''row''.';",
        "  END IF;",
        "  IF EXISTS (",
        "    SELECT FROM pg_catalog.pg_constraint AS k",
        f"    WHERE k.conrelid OPERATOR(pg_catalog.=) {relation} AND k.condeferred",
        "      AND k.contype OPERATOR(pg_catalog.=) ANY (ARRAY['p', 'u']::pg_catalog.\"char\"[])",
        "      AND NOT EXISTS (",
        "        SELECT FROM pg_catalog.pg_attribute AS a",
        "        WHERE a.attrelid OPERATOR(pg_catalog.=) k.conrelid",
        "          AND a.attnum OPERATOR(pg_catalog.=) ANY (k.conkey)",
        f"          AND a.attname::pg_catalog.text OPERATOR(pg_catalog.<>) ALL ({names})",
        "      )",
        "  ) THEN",
        "    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',",
        f"      MESSAGE = {literal(late)},",
        "      HINT = 'Make it NOT DEFERRABLE, or INITIALLY IMMEDIATE, before the audit trigger.';",
        "  END IF;",
    ]


def _plain(table: str) -> list[str]:
    """Return what finds that statement triggers would not see, or could not have, each row."""
    relation = f"pg_catalog.to_regclass({literal(table)})"
    message = (
        f"table {table} is a partition, is partitioned, foreign, or one of a hierarchy, where "
        "statement triggers do not record each row"
    )
    return [
        "  IF EXISTS (",
        "    SELECT FROM pg_catalog.pg_class",
        f"    WHERE oid OPERATOR(pg_catalog.=) {relation}",
        "      AND relkind OPERATOR(pg_catalog.<>) 'r'",
        "  ) OR EXISTS (",
        "    SELECT FROM pg_catalog.pg_inherits",
        f"    WHERE inhrelid OPERATOR(pg_catalog.=) {relation}",
        f"      OR inhparent OPERATOR(pg_catalog.=) {relation}",
        "  ) THEN",
        "    RAISE EXCEPTION USING ERRCODE = 'wrong_object_type', MESSAGE =",
        f"      {literal(message)},",
        "      HINT = 'Write level=''row'' in the options of the table and in this migration.';",
        "  END IF;",
    ]


def _ordinary(spec: AuditSpec, table: str) -> list[str]:
    """Lines that refuse an audit table which could keep, number or show records in another way."""
    relation = f"pg_catalog.to_regclass({literal(table)})"
    kind = f"{table} is a view or a foreign table, which keeps no records"
    parent = (
        f"audit table {table} inherits from another table, through which it is read and changed"
    )
    number = f"column audit_id of {table} is numbered by no sequence, so records have no order"
    identity = f"ALTER TABLE {table} ALTER COLUMN audit_id ADD GENERATED ALWAYS AS IDENTITY"
    refusals = [
        (
            f"SELECT FROM pg_catalog.pg_class WHERE oid OPERATOR(pg_catalog.=) {relation}"
            " AND relkind OPERATOR(pg_catalog.<>) ALL (ARRAY['r', 'p']::pg_catalog.\"char\"[])",
            kind,
            "Rename it or drop it, or name another audit table.",
        ),
        (
            f"SELECT FROM pg_catalog.pg_inherits WHERE inhrelid OPERATOR(pg_catalog.=) {relation}",
            parent,
            f"ALTER TABLE {table} NO INHERIT ..., or DETACH PARTITION.",
        ),
    ]
    if "audit_id" in spec.audit_column_names:
        refusals.append(
            (
                f"SELECT FROM pg_catalog.pg_attribute WHERE attrelid OPERATOR(pg_catalog.=)"
                f" {relation} AND attname OPERATOR(pg_catalog.=) 'audit_id'"
                " AND attidentity OPERATOR(pg_catalog.=) '' AND NOT EXISTS ("
                "SELECT FROM pg_catalog.pg_attrdef AS d JOIN pg_catalog.pg_depend AS p"
                " ON p.objid OPERATOR(pg_catalog.=) d.oid AND p.classid OPERATOR(pg_catalog.=)"
                " 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND p.refclassid"
                " OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass"
                " JOIN pg_catalog.pg_sequence AS q ON q.seqrelid OPERATOR(pg_catalog.=) p.refobjid"
                " WHERE d.adrelid OPERATOR(pg_catalog.=) attrelid"
                " AND d.adnum OPERATOR(pg_catalog.=) attnum)",
                number,
                f"{identity}, after DROP DEFAULT if it has one.",
            )
        )
    lines = []
    for query, message, hint in refusals:
        lines += [
            f"  IF EXISTS ({query}) THEN",
            "    RAISE EXCEPTION USING ERRCODE = 'wrong_object_type', MESSAGE =",
            f"      {literal(message)},",
            f"      HINT = {literal(hint)};",
            "  END IF;",
        ]
    return lines


def _rights_of_owner(spec: AuditSpec, default_schema: str) -> list[str]:
    """Return what finds that the function's owner could not write to the audit table.

    A superuser may give both to a role that has no right on their schema. Of a partition that is
    truncated it reads the rows.
    """
    source, schema = schemas(spec, default_schema)
    table = source_name(spec, default_schema)
    function = literal(function_name(spec, default_schema) + "()")
    message = f" owns the audit function, and may not use schema {quote(schema)}, so every write to"
    message += f" {table} would fail"
    grant = f"Before the audit trigger: GRANT USAGE, CREATE ON SCHEMA {quote(schema)} TO "
    owner = (
        literal(spec.owner)
        if spec.owner
        else "COALESCE((SELECT pg_catalog.pg_get_userbyid(proowner) FROM pg_catalog.pg_proc WHERE "
        f"oid OPERATOR(pg_catalog.=) pg_catalog.to_regprocedure({function})), current_user)"
    )
    lines = [
        f"  missing := {owner};",
        f"  IF NOT pg_catalog.has_schema_privilege(missing, {literal(schema)}, 'USAGE') THEN",
        *_not_permitted(message, grant),
    ]
    for name in partition_names(spec, default_schema):
        message = f" owns the audit function, and may not read partition {name}, so TRUNCATE of it"
        grant = f"Before the audit trigger: GRANT USAGE ON SCHEMA {quote(source)} and "
        lines += [
            f"  IF NOT pg_catalog.has_table_privilege(missing, {literal(name)}, 'SELECT')",
            f"    OR NOT pg_catalog.has_schema_privilege(missing, {literal(source)}, 'USAGE') THEN",
            *_not_permitted(f"{message} would fail", f"{grant}GRANT SELECT ON {name} TO "),
        ]
    return lines


def _not_permitted(message: str, grant: str) -> list[str]:
    return [
        "    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE =",
        f"      pg_catalog.concat('role ', missing, {literal(message)}),",
        f"      HINT = pg_catalog.concat({literal(grant)}, pg_catalog.quote_ident(missing));",
        "  END IF;",
    ]


def _audit_table(spec: AuditSpec, table: str) -> list[str]:
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
        *_owner(spec, table),
    ]


def _owner(spec: AuditSpec, table: str) -> list[str]:
    """Return what refuses an audit table that would run code of others as the function's owner.

    Triggers, rules, defaults and constraints of the audit table run as who inserts into it, which
    is the function's owner. So who owns the table, and the functions that it calls, must be able
    to act as that role anyhow; that the role could act as them is not enough.
    """
    role = literal(spec.owner) if spec.owner else "current_user"
    oid = f"pg_catalog.to_regclass({literal(table)})"
    elsewhere = f"table {table} belongs to "
    may = "who could read, forge and delete records, and run code as "
    calls = f"an INSERT into {table} would run, with the rights of its audit function, "

    def trusted(owner: str) -> str:
        return (
            f"(pg_catalog.pg_has_role({owner}, {role}::pg_catalog.name, 'MEMBER')"
            f" OR pg_catalog.pg_get_userbyid({owner}) OPERATOR(pg_catalog.=) current_user)"
        )

    return [
        "  SELECT pg_catalog.pg_get_userbyid(relowner)::pg_catalog.text INTO missing",
        f"  FROM pg_catalog.pg_class WHERE oid OPERATOR(pg_catalog.=) {oid}",
        f"    AND NOT {trusted('relowner')};",
        "  IF missing IS NOT NULL THEN",
        "    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE =",
        f"      pg_catalog.concat({literal(elsewhere)}, missing, {literal(', ' + may)}, {role}),",
        "      HINT = pg_catalog.concat('If its records are yours, ALTER TABLE ',",
        f"        {literal(table)}, ' OWNER TO ', {role}, ', or migrate as the owner; if not, '",
        "        'rename it, or name another audit table.');",
        "  END IF;",
        "  SELECT pg_catalog.string_agg(what, ', ' ORDER BY what) INTO missing FROM (",
        "    SELECT pg_catalog.concat('rule ', pg_catalog.quote_ident(rulename)) AS what",
        f"    FROM pg_catalog.pg_rewrite WHERE ev_class OPERATOR(pg_catalog.=) {oid}",
        "      AND ev_type OPERATOR(pg_catalog.=) '3'",
        "    UNION",
        "    SELECT pg_catalog.concat('function ', p.oid::pg_catalog.regprocedure, ' of ',",
        "      pg_catalog.pg_get_userbyid(p.proowner))",
        f"    FROM pg_catalog.pg_proc AS p WHERE NOT {trusted('p.proowner')} AND (EXISTS (",
        "      SELECT FROM pg_catalog.pg_trigger WHERE tgfoid OPERATOR(pg_catalog.=) p.oid",
        f"        AND tgrelid OPERATOR(pg_catalog.=) {oid}",
        "    ) OR EXISTS (",
        "      SELECT FROM pg_catalog.pg_depend AS d",
        "      WHERE d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass",
        "        AND d.refobjid OPERATOR(pg_catalog.=) p.oid AND (EXISTS (",
        "          SELECT FROM pg_catalog.pg_depend AS o",
        "          WHERE o.classid OPERATOR(pg_catalog.=) d.classid",
        "            AND o.objid OPERATOR(pg_catalog.=) d.objid AND o.refclassid",
        "              OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass",
        f"            AND o.refobjid OPERATOR(pg_catalog.=) {oid}",
        "        ) OR EXISTS (",
        "          SELECT FROM pg_catalog.pg_constraint AS c",
        "          JOIN pg_catalog.pg_attribute AS a",
        "            ON a.atttypid OPERATOR(pg_catalog.=) c.contypid",
        "          WHERE d.classid OPERATOR(pg_catalog.=)",
        "              'pg_catalog.pg_constraint'::pg_catalog.regclass",
        "            AND d.objid OPERATOR(pg_catalog.=) c.oid",
        f"            AND a.attrelid OPERATOR(pg_catalog.=) {oid}",
        "        ))",
        "    ))",
        "  ) AS others;",
        "  IF missing IS NOT NULL THEN",
        "    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE =",
        f"      pg_catalog.concat({literal(calls)}, missing),",
        "      HINT = 'Drop what calls it, or name another audit table.';",
        "  END IF;",
    ]
