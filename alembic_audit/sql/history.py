"""Statements on audit tables. Each keeps what is recorded: no value is dropped, altered or cast."""

from collections.abc import Sequence

from alembic_audit.naming import literal, qualify, quote
from alembic_audit.spec import HEADER, OMITTED_COLUMNS
from alembic_audit.sql.text import (
    COMMENT,
    GUARD_TYPES,
    do_unfiltered,
    is_repeatable,
    refuse_repeatable,
)


def drop_audit_table(table: str, schema: str, *, allow_history_loss: bool) -> str:
    """Return the statement that drops an audit table if it holds no records.

    One that holds records stays, with a NOTICE, unless *allow_history_loss*.
    """
    name = qualify(schema, table)
    if allow_history_loss:
        return f"DROP TABLE {name}"
    return _unless_held(
        name, f"audit table {name}", "records", f"SELECT FROM {name}", f"DROP TABLE {name}"
    )


def drop_audit_column(table: str, column: str, schema: str, *, allow_history_loss: bool) -> str:
    """Return the statement that drops a column of an audit table if it holds no values.

    One that holds values stays, with a NOTICE, unless *allow_history_loss*.
    """
    name = qualify(schema, table)
    dropped = f"ALTER TABLE {name} DROP COLUMN {quote(column)}"
    if allow_history_loss:
        return dropped
    return _unless_held(
        name,
        f"column {quote(column)} of audit table {name}",
        "values",
        f"SELECT FROM {name} WHERE {quote(column)} IS DISTINCT FROM NULL",
        dropped,
    )


def _unless_held(name: str, what: str, held: str, query: str, statement: str) -> str:
    """The statement that drops what holds nothing: it looks under the lock that it drops under."""
    advice = "drop it with -x audit_allow_history_loss=yes, or by hand"
    unseen = "this REPEATABLE READ transaction may not see all records: migrate in READ COMMITTED"
    return do_unfiltered(
        [],
        [
            f"  LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE;",
            f"  IF EXISTS ({query}) THEN",
            "    RAISE NOTICE USING MESSAGE = pg_catalog.concat(",
            f"      {literal(f'{what} holds {held} and was kept; ')},",
            f"      {literal(advice)}",
            "    );",
            f"  ELSIF {_unseen(name)} THEN",
            "    RAISE NOTICE USING MESSAGE = pg_catalog.concat(",
            f"      {literal(f'{what} was kept; ')},",
            f"      {literal(unseen)}",
            "    );",
            "  ELSE",
            f"    {statement};",
            "  END IF;",
        ],
    )


def _unseen(name: str) -> str:
    """The condition that a table may hold records which this transaction does not see.

    A snapshot of REPEATABLE READ is older than the lock. A table whose file is empty never got a
    record, whenever; one with partitions has no file.
    """
    table = f"{literal(name)}::pg_catalog.regclass"
    return (
        f"{is_repeatable()} AND (pg_catalog.pg_relation_size({table}) OPERATOR(pg_catalog.>) 0"
        " OR EXISTS (SELECT FROM pg_catalog.pg_inherits WHERE inhparent"
        f" OPERATOR(pg_catalog.=) {table}))"
    )


def retype_audit_column(
    table: str, column: str, schema: str, *, new_type: str, old_aside: str, new_aside: str
) -> str:
    """Return the statement that sets a column aside and puts one of another type in its place.

    It is its own inverse: a column that was set aside before comes back with what it holds, and one
    that holds nothing when it is set aside is dropped. Indexes that name the column are made anew.

    Args:
        table: The audit table.
        column: The column.
        schema: Schema of the audit table.
        new_type: The type that it shall have, as SQL.
        old_aside: What the present column is called from then on.
        new_aside: What a column of the new type was called when it was set aside.
    """
    name = qualify(schema, table)
    return do_unfiltered(
        [
            "  indexes pg_catalog.text[];",
            "  made pg_catalog.text;",
            "  item pg_catalog.record;",
        ],
        [
            f"  LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE;",
            "  indexes := ARRAY[]::pg_catalog.text[];",
            "  FOR item IN",
            "    SELECT i.indexrelid::pg_catalog.regclass AS name,",
            "      pg_catalog.pg_get_indexdef(i.indexrelid) AS made",
            "    FROM pg_catalog.pg_index AS i",
            "    JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid",
            "      AND a.attnum OPERATOR(pg_catalog.=) ANY (i.indkey::pg_catalog.int2[])",
            f"    WHERE i.indrelid OPERATOR(pg_catalog.=) {literal(name)}::pg_catalog.regclass",
            f"      AND a.attname OPERATOR(pg_catalog.=) {literal(column)}",
            "      AND NOT i.indisprimary",
            "  LOOP",
            "    indexes := pg_catalog.array_append(indexes, item.made);",
            "    EXECUTE pg_catalog.format('DROP INDEX %s', item.name);",
            "  END LOOP;",
            f"  ALTER TABLE {name} RENAME COLUMN {quote(column)} TO {quote(old_aside)};",
            # Nothing writes it any more.
            f"  {_drop_not_null(name, old_aside)};",
            f"  IF {has_column(name, new_aside)} THEN",
            f"    ALTER TABLE {name} RENAME COLUMN {quote(new_aside)} TO {quote(column)};",
            "  ELSE",
            f"    ALTER TABLE {name} ADD COLUMN {quote(column)} {new_type};",
            "  END IF;",
            f"  IF NOT EXISTS (SELECT FROM {name}",
            f"    WHERE {quote(old_aside)} IS DISTINCT FROM NULL)",
            f"    AND NOT ({_unseen(name)}) THEN",
            f"    ALTER TABLE {name} DROP COLUMN {quote(old_aside)};",
            "  END IF;",
            "  FOREACH made IN ARRAY indexes LOOP",
            "    EXECUTE made;",
            "  END LOOP;",
        ],
    )


def widen_audit_column(
    table: str, column: str, schema: str, *, new_type: str, existing_type: str
) -> str:
    """Return the statement that gives a column a type which holds all it held: no rewrite.

    A column that a downgrade kept wider may hold more than *existing_type*, a type as
    ``format_type`` spells it; it stays as it is where a value needs that.
    """
    name = qualify(schema, table)
    return _resized(
        table,
        column,
        schema,
        new_type,
        [
            "  IF EXISTS (",
            "    SELECT FROM pg_catalog.pg_attribute",
            f"    WHERE attrelid OPERATOR(pg_catalog.=) {literal(name)}::pg_catalog.regclass",
            f"      AND attname OPERATOR(pg_catalog.=) {literal(column)}",
            "      AND pg_catalog.format_type(atttypid, atttypmod)",
            f"        OPERATOR(pg_catalog.=) {literal(existing_type)}",
            "  ) THEN",
            f"    {_set_type(name, column, new_type)};",
            "    EXIT unfiltered;",
            "  END IF;",
        ],
    )


def narrow_audit_column(table: str, column: str, schema: str, *, new_type: str) -> str:
    """Return the statement that takes a widening back, unless a value needs the wider type."""
    return _resized(table, column, schema, new_type, [])


def _set_type(name: str, column: str, new_type: str) -> str:
    return f"ALTER TABLE {name} ALTER COLUMN {quote(column)} TYPE {new_type}"


def _resized(table: str, column: str, schema: str, new_type: str, before: list[str]) -> str:
    name = qualify(schema, table)
    kept = (
        f"column {quote(column)} of audit table {name} holds values that are no {new_type}, or may "
        "hold some that a REPEATABLE READ transaction does not see, and was not narrowed"
    )
    keep = [f"    RAISE NOTICE USING MESSAGE = {literal(kept)};"]
    if new_type.startswith("VARCHAR("):
        # It may be TEXT now, and values go into it without a cast.
        keep.append(f"    {_set_type(name, column, 'VARCHAR')};")
    return do_unfiltered(
        _EXPLANATION,
        [
            f"  LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE;",
            *before,
            f"  IF {_unseen(name)} OR EXISTS (",
            f"    SELECT FROM {name}",
            f"    WHERE {quote(column)}::{new_type}::pg_catalog.text",
            f"      OPERATOR(pg_catalog.<>) {quote(column)}::pg_catalog.text",
            "  ) THEN",
            *keep,
            "    EXIT unfiltered;",
            "  END IF;",
            f"  {_set_type(name, column, new_type)};",
            *_explain(
                name,
                f"column {column} became {new_type}",
                "pg_catalog.pg_attribute",
                f"attrelid OPERATOR(pg_catalog.=) {literal(name)}::pg_catalog.regclass AND attname"
                f" OPERATOR(pg_catalog.=) {literal(column)}",
            ),
            "EXCEPTION WHEN data_exception THEN",
            *keep,
        ],
    )


def rename_audit_column(table: str, column: str, schema: str, renamed: str) -> str:
    """Return the statement that calls a column otherwise."""
    return f"ALTER TABLE {qualify(schema, table)} RENAME COLUMN {quote(column)} TO {quote(renamed)}"


def set_nullable(table: str, column: str, schema: str) -> str:
    """Return the statement that lets a column be NULL, since nothing writes it any more."""
    return _drop_not_null(qualify(schema, table), column)


def _drop_not_null(name: str, column: str) -> str:
    return f"ALTER TABLE {name} ALTER COLUMN {quote(column)} DROP NOT NULL"


def set_not_null(table: str, column: str, schema: str) -> str:
    """Return the statement that makes a column NOT NULL, unless a record is without a value."""
    name = qualify(schema, table)
    notice = f"column {quote(column)} of audit table {name} stays nullable, for records without a "
    return do_unfiltered(
        [],
        [
            f"  LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE;",
            # PostgreSQL looks again itself, and fails where a new record is without a value.
            f"  IF EXISTS (SELECT FROM {name}",
            f"    WHERE {quote(column)} IS NOT DISTINCT FROM NULL) THEN",
            f"    RAISE NOTICE USING MESSAGE = {literal(notice + 'value')};",
            "  ELSE",
            f"    ALTER TABLE {name} ALTER COLUMN {quote(column)} SET NOT NULL;",
            "  END IF;",
        ],
    )


def number_audit_table(table: str, schema: str) -> str:
    """Return the statement that gives an audit table without ``audit_id`` one.

    The records are numbered by their time; within a transaction that is one time, and the place in
    the heap decides. One that has the column already is left as it is.
    """
    name = qualify(schema, table)
    return do_unfiltered(
        _GUARD,
        [
            f"  IF {has_column(name, 'audit_id')} THEN",
            "    EXIT unfiltered;",
            "  END IF;",
            f"  LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE;",
            *_refuse_unseen(name, "number the records"),
            f"  ALTER TABLE {name} ADD COLUMN audit_id pg_catalog.int8;",
            *_guard_off(name),
            f"  UPDATE {name} AS record SET audit_id = numbered.number",
            "  FROM (",
            "    SELECT ctid AS place, pg_catalog.row_number()",
            "      OVER (ORDER BY audit_operation_timestamp, ctid) AS number",
            f"    FROM {name}",
            "  ) AS numbered",
            "  WHERE record.ctid OPERATOR(pg_catalog.=) numbered.place;",
            *_guard_on(name),
            f"  ALTER TABLE {name} ALTER COLUMN audit_id SET NOT NULL;",
            f"  ALTER TABLE {name} ALTER COLUMN audit_id ADD GENERATED ALWAYS AS IDENTITY;",
            "  PERFORM pg_catalog.setval(",
            f"    pg_catalog.pg_get_serial_sequence({literal(name)}, 'audit_id'),",
            "    pg_catalog.max(audit_id)",
            f"  ) FROM {name} HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 0;",
            "  IF EXISTS (SELECT FROM pg_catalog.pg_index WHERE indisprimary AND indrelid",
            f"    OPERATOR(pg_catalog.=) {literal(name)}::pg_catalog.regclass) THEN",
            f"    ALTER TABLE {name} ADD UNIQUE (audit_id);",
            "  ELSE",
            f"    ALTER TABLE {name} ADD PRIMARY KEY (audit_id);",
            "  END IF;",
        ],
    )


def _refuse_unseen(name: str, task: str) -> list[str]:
    return refuse_repeatable(f"this transaction cannot {task} of {name}: it is ", _unseen(name))


_GUARD = ["  guard pg_catalog.name;", "  guards pg_catalog.name[];"]


def _guard_off(name: str) -> list[str]:
    """Return what takes the guards of an append-only table off until ``_guard_on``.

    The lock keeps writers out until the transaction ends, so nobody else finds it off. A guard that
    is not as it was made is left alone.
    """
    types = ", ".join(map(str, GUARD_TYPES.values()))
    return [
        f"  LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE;",
        "  SELECT pg_catalog.array_agg(tgname) INTO guards FROM pg_catalog.pg_trigger",
        "  JOIN pg_catalog.pg_proc ON pg_proc.oid OPERATOR(pg_catalog.=) tgfoid",
        f"  WHERE tgrelid OPERATOR(pg_catalog.=) {literal(name)}::pg_catalog.regclass",
        f"    AND tgtype OPERATOR(pg_catalog.=) ANY (ARRAY[{types}]::pg_catalog.int2[])",
        "    AND tgenabled OPERATOR(pg_catalog.=) 'A'",
        f"    AND pg_catalog.starts_with(prosrc, {literal(HEADER)});",
        *_alter_guard(name, "DISABLE"),
    ]


def _guard_on(name: str) -> list[str]:
    return _alter_guard(name, "ENABLE ALWAYS")


def _alter_guard(name: str, state: str) -> list[str]:
    return [
        "  FOREACH guard IN ARRAY COALESCE(guards, ARRAY[]::pg_catalog.name[]) LOOP",
        f"    EXECUTE pg_catalog.format('ALTER TABLE %s {state} TRIGGER %I',",
        f"      {literal(name)}, guard);",
        "  END LOOP;",
    ]


def rename_omitted_columns(name: str, renamed: Sequence[tuple[str, str]]) -> str:
    """Return the statement that lets records name what they left out as it is called now.

    Args:
        name: The audit table, qualified and quoted.
        renamed: Old and new names, in the order in which they are renamed.
    """
    omitted = OMITTED_COLUMNS
    for old, new in renamed:
        texts = f"{literal(old)}::pg_catalog.text, {literal(new)}::pg_catalog.text"
        omitted = f"pg_catalog.array_replace({omitted}, {texts})"
    names = ", ".join(literal(old) for old, _ in renamed)
    return do_unfiltered(
        [*_GUARD, *_EXPLANATION],
        [
            f"  IF NOT {has_column(name, OMITTED_COLUMNS)} THEN",
            "    EXIT unfiltered;",
            "  END IF;",
            *_guard_off(name),
            *_refuse_unseen(name, "rename in the records"),
            f"  UPDATE {name} SET {OMITTED_COLUMNS} = {omitted}",
            f"  WHERE {OMITTED_COLUMNS} OPERATOR(pg_catalog.&&)",
            f"    ARRAY[{names}]::pg_catalog.text[];",
            "  IF FOUND THEN",
            *_explain(name, "renamed columns that records leave out", *_guard_rows(name)),
            "  END IF;",
            *_guard_on(name),
        ],
    )


def _guard_rows(name: str) -> tuple[str, str]:
    """The catalog and the condition of the guards of a table."""
    return (
        "pg_catalog.pg_trigger JOIN pg_catalog.pg_proc"
        " ON pg_proc.oid OPERATOR(pg_catalog.=) tgfoid",
        f"tgrelid OPERATOR(pg_catalog.=) {literal(name)}::pg_catalog.regclass AND tgtype"
        f" OPERATOR(pg_catalog.=) {GUARD_TYPES['row']}"
        f" AND pg_catalog.starts_with(prosrc, {literal(HEADER)})",
    )


_EXPLANATION = ["  explanation pg_catalog.text;"]


def _explain(name: str, why: str, catalog: str, condition: str) -> list[str]:
    """Lines that let doctor know why records of an append-only table were written again.

    Args:
        name: The audit table, qualified and quoted.
        why: In a few words.
        catalog: One with a row that was written with the records: its ``xmin`` is theirs.
        condition: Of that row.
    """
    guard, is_guard = _guard_rows(name)
    written = "pg_trigger.xmin" if catalog == guard else "xmin"
    return [
        "  SELECT pg_catalog.format('COMMENT ON CONSTRAINT %I ON %s IS %L', k.conname,",
        f"    {literal(name)}, pg_catalog.concat_ws('; ',",
        "      pg_catalog.obj_description(k.oid, 'pg_constraint'), pg_catalog.concat(",
        f"        'transaction ', (SELECT {written} FROM {catalog}",
        f"          WHERE {condition} LIMIT 1), {literal(f': {why}')}))) INTO explanation",
        "  FROM pg_catalog.pg_constraint AS k",
        f"  WHERE k.conrelid OPERATOR(pg_catalog.=) {literal(name)}::pg_catalog.regclass",
        "    AND k.contype OPERATOR(pg_catalog.=) 'p'",
        f"    AND EXISTS (SELECT FROM {name})",
        f"    AND EXISTS (SELECT FROM {guard} WHERE {is_guard});",
        "  IF explanation IS NOT NULL THEN",
        "    EXECUTE explanation;",
        "  END IF;",
    ]


PURGES = "alembic_audit_purges"


def purge_audit_table(
    table: str, schema: str, *, before: str, reason: str, keep_last: Sequence[str]
) -> str:
    """Return the statement that deletes old records and says so in ``alembic_audit_purges``.

    That table stands beside the audit table and is made by the first purge. One that belongs to
    neither the audit table's owner nor the role in force is refused: its triggers would run as that
    role.

    Args:
        table: The audit table.
        schema: Its schema.
        before: Records of an earlier time go; ISO 8601 with an offset.
        reason: Why.
        keep_last: The key, to keep what says how each row was at that time; empty to keep nothing.
    """
    name, log = qualify(schema, table), qualify(schema, PURGES)
    return do_unfiltered(
        [
            *_GUARD,
            "  removed pg_catalog.int8;",
            "  emptied pg_catalog.int8;",
            "  grantee pg_catalog.text;",
        ],
        [
            *_purge_log(log),
            *_purge_log_is_trusted(name, log),
            *_guard_off(name),
            *_purge(name, before, keep_last),
            "  GET DIAGNOSTICS removed = ROW_COUNT;",
            *_guard_on(name),
            f"  INSERT INTO {log} (",
            "    audit_table, before, records, reason, purged_at, transaction_id, purged_by",
            "  ) VALUES (",
            f"    {literal(table)}, {literal(before)}, removed, {literal(reason)},",
            "    pg_catalog.clock_timestamp(), pg_catalog.txid_current(), session_user",
            "  );",
        ],
    )


def _purge(name: str, before: str, key: Sequence[str]) -> list[str]:
    """Return the DELETE of records before a time.

    Keys are compared by GROUP BY, which takes the default order of their type: an operator of a
    type that is not PostgreSQL's own would be looked up by name.
    """
    time = f"{literal(before)}::pg_catalog.timestamptz"

    def is_old(record: str) -> str:
        return f"{record}.audit_operation_timestamp OPERATOR(pg_catalog.<) {time}"

    if not key:
        return [f"  DELETE FROM {name} AS a WHERE {is_old('a')};"]
    columns = ", ".join(f"r.{quote(one)}" for one in key)
    known = " AND ".join(f"r.{quote(one)} IS NOT NULL" for one in key)
    newest = [
        "      SELECT pg_catalog.max(r.audit_id) AS audit_id",
        f"      FROM {name} AS r WHERE {is_old('r')} AND {known} GROUP BY {columns}",
    ]
    # What the newest record leaves out of sparse columns is in an earlier one.
    storing = [
        "      UNION",
        "      SELECT pg_catalog.max(r.audit_id)",
        f"      FROM {name} AS r CROSS JOIN (",
        f"        SELECT DISTINCT left_out.name FROM {name} AS o",
        f"        CROSS JOIN pg_catalog.unnest(o.{OMITTED_COLUMNS}) AS left_out (name)",
        "      ) AS sparse",
        f"      WHERE {is_old('r')} AND {known} AND COALESCE(",
        f"        sparse.name OPERATOR(pg_catalog.<>) ALL (r.{OMITTED_COLUMNS}), true)",
        f"      GROUP BY {columns}, sparse.name",
    ]

    def delete(kept: Sequence[str]) -> list[str]:
        return [
            f"  DELETE FROM {name} AS a WHERE {is_old('a')} AND NOT EXISTS (",
            "    SELECT FROM (",
            *kept,
            f"    ) AS kept JOIN {name} AS last",
            "      ON last.audit_id OPERATOR(pg_catalog.=) kept.audit_id",
            "    WHERE kept.audit_id OPERATOR(pg_catalog.=) a.audit_id",
            "      AND last.audit_operation OPERATOR(pg_catalog.<>) 'D'",
            "      AND last.audit_id OPERATOR(pg_catalog.>) emptied",
            "  );",
        ]

    return [
        "  SELECT COALESCE(pg_catalog.max(r.audit_id), 0) INTO emptied",
        f"  FROM {name} AS r WHERE {is_old('r')}",
        "    AND r.audit_operation OPERATOR(pg_catalog.=) 'T';",
        f"  IF {has_column(name, OMITTED_COLUMNS)} THEN",
        *("  " + line for line in delete([*newest, *storing])),
        "  ELSE",
        *("  " + line for line in delete(newest)),
        "  END IF;",
    ]


def _purge_log(log: str) -> list[str]:
    return [
        f"  IF pg_catalog.to_regclass({literal(log)}) IS NULL THEN",
        f"    CREATE TABLE {log} (",
        "      id pg_catalog.int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,",
        "      audit_table pg_catalog.text NOT NULL,",
        "      before pg_catalog.timestamptz NOT NULL,",
        "      records pg_catalog.int8 NOT NULL,",
        "      reason pg_catalog.text NOT NULL,",
        "      purged_at pg_catalog.timestamptz NOT NULL,",
        "      transaction_id pg_catalog.int8 NOT NULL,",
        "      purged_by pg_catalog.text NOT NULL",
        "    );",
        f"    COMMENT ON TABLE {log} IS {literal(COMMENT)};",
        "    FOR grantee IN",
        "      SELECT COALESCE(pg_catalog.quote_ident(rolname), 'PUBLIC')",
        "      FROM pg_catalog.pg_class",
        "      CROSS JOIN LATERAL pg_catalog.aclexplode(relacl) AS a",
        "      LEFT JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) a.grantee",
        f"      WHERE pg_class.oid OPERATOR(pg_catalog.=) {literal(log)}::pg_catalog.regclass",
        "        AND a.grantee OPERATOR(pg_catalog.<>) relowner",
        "    LOOP",
        f"      EXECUTE pg_catalog.format('REVOKE ALL ON %s FROM %s', {literal(log)}, grantee);",
        "    END LOOP;",
        "  END IF;",
    ]


def _purge_log_is_trusted(name: str, log: str) -> list[str]:
    message = f"table {log} belongs neither to the owner of {name} nor to "
    return [
        "  IF NOT EXISTS (",
        "    SELECT FROM pg_catalog.pg_class AS made, pg_catalog.pg_class AS audit",
        f"    WHERE made.oid OPERATOR(pg_catalog.=) {literal(log)}::pg_catalog.regclass",
        f"      AND audit.oid OPERATOR(pg_catalog.=) {literal(name)}::pg_catalog.regclass",
        "      AND (made.relowner OPERATOR(pg_catalog.=) audit.relowner",
        "        OR pg_catalog.pg_get_userbyid(made.relowner)",
        "          OPERATOR(pg_catalog.=) current_user)",
        "  ) THEN",
        "    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',",
        f"      MESSAGE = pg_catalog.concat({literal(message)}, current_user),",
        f"      HINT = {literal(f'ALTER TABLE {log} OWNER TO ..., after a look at it.')};",
        "  END IF;",
    ]


def has_column(name: str, column: str) -> str:
    """Return the condition that a table, qualified and quoted, has a column."""
    return (
        "EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid OPERATOR(pg_catalog.=) "
        f"{literal(name)}::pg_catalog.regclass AND attname OPERATOR(pg_catalog.=) "
        f"{literal(column)} AND NOT attisdropped)"
    )
