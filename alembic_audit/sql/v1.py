"""Template version 1: one PL/pgSQL function for all triggers of a trail.

The function runs as its owner. There is no SET search_path, which costs 5 to 19 % per row, so
every function, type and operator is qualified by pg_catalog, and constructs that hide an operator
(NULLIF, IN, BETWEEN, IS DISTINCT FROM but of a bare NULL, CASE x WHEN) do not occur.
"""

from collections.abc import Iterable, Mapping, Sequence

from alembic_audit.naming import literal, quote
from alembic_audit.spec import CHANGED_COLUMNS, HEADER, OMITTED_COLUMNS, AuditSpec, hash_column
from alembic_audit.sql.text import (
    comma_separated,
    do_unfiltered,
    is_repeatable,
    refuse_repeatable,
)

TRANSITION_TABLE = "audited_rows"
"""The rows of a statement: NEW of INSERT and UPDATE, OLD of DELETE.

Its name is looked up before any table's (parse_relation.c, scanNameSpaceForENR). One of them is
read alone: joined with the other it would be a nested loop in every session that began small.
"""

_EQUAL = "OPERATOR(pg_catalog.=)"
_IMAGE_EQUAL = "OPERATOR(pg_catalog.*=)"
_IMAGE_DIFFERS = "OPERATOR(pg_catalog.*<>)"


def body(spec: AuditSpec, source: str, audit: str, partitions: Sequence[str]) -> str:
    """Return the function body.

    Args:
        spec: What to record.
        source: The audited table, qualified and quoted.
        audit: The audit table, qualified and quoted.
        partitions: The partitions of the spec, qualified and quoted, in its order.
    """
    lines = [HEADER + spec.to_json()]
    each_row = bool(partitions or spec.statement_level)
    if each_row:
        lines.append("#variable_conflict use_variable")
    lines += _declarations(
        spec, audit, spec.sparse_columns, each_row=each_row, of_partitions=bool(partitions)
    )
    lines.append("BEGIN")
    if "key" in spec.trigger_names:
        lines += ["  " + line for line in _return_with_its_key(spec)]
    lines += [*_guard(spec, audit), *_settings(spec, source), *_role(spec)]
    branches = _branches(spec, audit)
    keyword = "IF"
    if "key" in spec.trigger_names:
        # The rows of an UPDATE that change their key, all before the UPDATE itself.
        lines.append(f"  {keyword} {_of_key(spec)} THEN")
        lines += ["    " + line for line in _record(spec, audit, "D", "OLD")]
        keyword = "ELSIF"
    for name, partition in zip(spec.partitions, partitions, strict=True):
        # TRUNCATE of a partition leaves the others: a record of each row says which are gone.
        lines.append(f"  {keyword} TG_WHEN {_EQUAL} 'BEFORE'")
        lines.append(f"    AND TG_TABLE_NAME {_EQUAL} {literal(name)} THEN")
        # Where row level security would hide rows, PostgreSQL raises instead.
        lines += [
            "    audit_security := pg_catalog.current_setting('row_security');",
            "    PERFORM pg_catalog.set_config('row_security', 'off', true);",
            *("    " + line for line in _each_row(spec, audit, "D", partition)),
            "    PERFORM pg_catalog.set_config('row_security', audit_security, true);",
        ]
        keyword = "ELSIF"
    for operation in spec.operations:
        lines.append(f"  {keyword} TG_OP {_EQUAL} '{operation.upper()}' THEN")
        lines += ["    " + line for line in branches[operation]]
        keyword = "ELSIF"
    lines += ["  END IF;", "  RETURN NULL;", "END"]
    return "\n".join(["", *lines, ""]).lstrip("\n")


def _branches(spec: AuditSpec, audit: str) -> dict[str, list[str]]:
    of_rows = {
        "insert": _record(spec, audit, "I", "NEW"),
        "update": _update(spec, audit),
        "delete": _record(spec, audit, "D", "OLD"),
        "truncate": _record(spec, audit, "T", None),
    }
    return of_rows | {
        name: _each_row(spec, audit, name[0].upper(), TRANSITION_TABLE)
        for name in spec.statement_level
    }


def _of_key(spec: AuditSpec) -> str:
    """The condition under which the trigger ``key`` is the one that fires."""
    of_rows = f"TG_LEVEL {_EQUAL} 'ROW'"
    return f"{of_rows} AND TG_OP {_EQUAL} 'UPDATE'" if spec.row_level else of_rows


def _return_with_its_key(spec: AuditSpec) -> list[str]:
    """PL/pgSQL that ends the row trigger ``key`` for a row that keeps its key.

    It comes first, since it runs for each row. A WHEN clause would block other people's
    ``ALTER COLUMN ... TYPE`` and ``DROP COLUMN`` of the key, and slows an UPDATE of one row down.
    """
    return [
        f"IF {_of_key(spec)} THEN",
        f"  IF {_row('NEW', spec.key)}",
        f"    {_IMAGE_EQUAL} {_row('OLD', spec.key)} THEN",
        "    RETURN NULL;",
        "  END IF;",
        "END IF;",
    ]


def settings(spec: AuditSpec) -> tuple[str, ...]:
    """Return the SET clauses of the function, as ``pg_proc.proconfig`` has them.

    A session keeps the plan that its first statement made (parse_relation.c stores the number of
    rows); of five million rows it would be compiled by JIT again for each single row after it.
    """
    return (*_formats(spec), *(("jit=off",) if spec.statement_level else ()))


def _formats(spec: AuditSpec) -> tuple[str, ...]:
    """Return the settings that decide how a value is spelled on its way into the record."""
    # With array_nulls off, NULL in the text of an array is read as a word.
    arrays = ("array_nulls=on",) if any(kind != "text" for _, kind in spec.as_text) else ()
    # The binary form of a text is in the encoding of the client.
    return (*arrays, *(("client_encoding=UTF8",) if spec.hash_columns else ()))


def _guard(spec: AuditSpec, audit: str) -> list[str]:
    """Return what refuses to change records; the BEFORE triggers are the guard and partitions'."""
    if not spec.append_only:
        return []
    lines = [f"  IF TG_WHEN {_EQUAL} 'BEFORE'"]
    if spec.partitions:
        names = ", ".join(map(literal, spec.partitions))
        lines.append(
            f"    AND TG_TABLE_NAME OPERATOR(pg_catalog.<>) ALL (ARRAY[{names}]::pg_catalog.name[])"
        )
    lines[-1] += " THEN"
    hint = "op.purge_audit_table deletes old records, and records that it did."
    return [
        *lines,
        "    RAISE EXCEPTION USING",
        "      ERRCODE = 'object_not_in_prerequisite_state',",
        "      MESSAGE = pg_catalog.concat(",
        f"        {literal(f'audit table {audit} is append-only, and refuses ')}, TG_OP",
        "      ),",
        f"      HINT = {literal(hint)};",
        "  END IF;",
    ]


def snapshot(spec: AuditSpec, source: str, audit: str) -> str:
    """Return the statement that records every row that is there, by one ``S`` record each.

    Args:
        spec: What to record.
        source: The audited table, qualified and quoted.
        audit: The audit table, qualified and quoted.
    """
    before, after = _set_formats(spec)
    stale = f"a snapshot of {source} could miss rows: this transaction is "
    return do_unfiltered(
        [*_declarations(spec, audit, each_row=True)[1:], *_former_formats(spec)],
        [
            *before,
            *refuse_repeatable(stale, is_repeatable()),
            f"  LOCK TABLE {source} IN SHARE MODE;",
            *_settings(spec, source, of_trigger=False),
            *_role(spec),
            *(
                "  " + line
                for line in _each_row(spec, audit, "S", source, _own_row("audited_row", source))
            ),
            *after,
        ],
        options="#variable_conflict use_variable",
    )


def snapshot_batch(
    spec: AuditSpec,
    source: str,
    audit: str,
    *,
    size: int,
    after: Sequence[str],
    settings: Mapping[str, str],
) -> str:
    """Return the statement that records the next rows, by key, whose last record is another.

    It leaves in the setting ``alembic_audit.snapshot``, for the session, a JSON array: how many
    rows it looked at, how many it recorded, and the key of the last one, as text.

    The rows are locked, each until the end of the transaction, before their last record is looked
    for, so that a write is either in the trail already or comes after the record made here.

    Args:
        spec: What to record; it has a key and the standard layout.
        source: The audited table, qualified and quoted.
        audit: The audit table, qualified and quoted.
        size: How many rows.
        after: The key of the last row of the batch before, as text; empty at first.
        settings: Values of ``audit.<name>``, for this transaction.
    """
    keys, row = [quote(name) for name in spec.key], "audited_row"
    set_formats, reset_formats = _set_formats(spec)
    low, high, found = (
        [f"audit_{name}_{number}" for number, _ in enumerate(keys, 1)]
        for name in ("low", "high", "key")
    )
    typed = [*_typed(low, source, keys), *_typed(high, source, keys), *_typed(found, audit, keys)]
    return do_unfiltered(
        [
            *_declarations(spec, audit)[1:],
            *_former_formats(spec),
            "  audited_row pg_catalog.record;",
            "  audit_last pg_catalog.record;",
            "  audit_rows pg_catalog.int8 := 0;",
            "  audit_recorded pg_catalog.int8 := 0;",
            *typed,
        ],
        [
            *set_formats,
            *(
                f"  PERFORM pg_catalog.set_config('audit.{name}', {literal(text)}, true);"
                for name, text in settings.items()
            ),
            *_settings(spec, source, of_trigger=False),
            *_role(spec),
            *(
                # A text would become a key by a cast; a literal does by the type's input function.
                f"  {name} := COALESCE({literal(text)}, (NULL::{source}).{key});"
                for name, key, text in zip(low, keys, after, strict=False)
            ),
            *_next_rows(keys, source, size, low if after else [], high),
            "  LOOP",
            "    audit_rows := audit_rows OPERATOR(pg_catalog.+) 1;",
            *(
                f"    {variable} := "
                + _checked(spec, audit, row, [name], _value(spec, row, name))
                + ";"
                for variable, name in zip(found, spec.key, strict=True)
            ),
            *_continue_if_recorded(spec, audit, dict(zip(keys, found, strict=True))),
            *("    " + line for line in _record(spec, audit, "S", row)),
            "    audit_recorded := audit_recorded OPERATOR(pg_catalog.+) 1;",
            "  END LOOP;",
            "  PERFORM pg_catalog.set_config('alembic_audit.snapshot',",
            "    pg_catalog.json_build_array(audit_rows, audit_recorded,",
            "      " + ", ".join(map(_text, high)),
            "    )::pg_catalog.text, false);",
            *reset_formats,
        ],
        options="#variable_conflict use_variable",
    )


def _former_formats(spec: AuditSpec) -> list[str]:
    """Return declarations of what the settings that spell a value were before the block."""
    return [
        f"  audit_former_{number} pg_catalog.text := pg_catalog.current_setting('{name}');"
        for number, (name, _) in enumerate(_split(_formats(spec)), 1)
    ]


def _set_formats(spec: AuditSpec) -> tuple[list[str], list[str]]:
    """Return what sets, in a block, the settings that the function has as its SET clauses.

    They are put back at its end; after an error the transaction does that.
    """
    entries = list(enumerate(_split(_formats(spec)), 1))
    return (
        [
            f"  PERFORM pg_catalog.set_config('{name}', '{value}', true);"
            for _, (name, value) in entries
        ],
        [
            f"  PERFORM pg_catalog.set_config('{name}', audit_former_{number}, true);"
            for number, (name, _) in entries
        ],
    )


def _split(entries: Iterable[str]) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (one.partition("=") for one in entries)]


def _text(value: str) -> str:
    """Return a value's text, by its output function; NULL where it is NULL."""
    return f"CASE WHEN {value} IS NOT NULL THEN pg_catalog.concat({value}) END"


def _typed(names: Sequence[str], table: str, columns: Sequence[str]) -> list[str]:
    """Return declarations of variables of the types of columns."""
    return [f"  {name} {table}.{one}%TYPE;" for name, one in zip(names, columns, strict=True)]


def _next_rows(
    keys: Sequence[str], source: str, size: int, low: Sequence[str], high: Sequence[str]
) -> list[str]:
    """Return what finds the key that the batch ends with, and the head of the loop up to there.

    Args:
        keys: The columns of the key, quoted.
        source: The audited table, qualified and quoted.
        size: How many rows.
        low: Variables with the key of the last row before; empty at first.
        high: Variables for the key of the last row of the batch.
    """
    columns = ", ".join(f"t.{key}" for key in keys)
    ordered, reverse = (
        ", ".join(f"t.{key} USING OPERATOR(pg_catalog.{sign})" for key in keys) for sign in "<>"
    )
    begin = _own_row("t", source)
    if low:
        begin += f" AND ROW({columns}) OPERATOR(pg_catalog.>) ROW({', '.join(low)})"
    return [
        # The end of the batch, before any row is waited for: a key may change meanwhile.
        f"  SELECT {columns} INTO {', '.join(high)} FROM (",
        f"    SELECT {columns} FROM {source} AS t",
        f"    WHERE {begin} ORDER BY {ordered} LIMIT {size:d}",
        f"  ) AS t ORDER BY {reverse} LIMIT 1;",
        "  FOR audited_row IN",
        f"    SELECT t.* FROM {source} AS t WHERE {begin}",
        f"      AND ROW({columns}) OPERATOR(pg_catalog.<=) ROW({', '.join(high)})",
        f"    ORDER BY {ordered} FOR SHARE",
    ]


def _continue_if_recorded(spec: AuditSpec, audit: str, found: Mapping[str, str]) -> list[str]:
    """Return what passes a row by whose last record is the row as it is.

    Args:
        spec: What to record.
        audit: The audit table, qualified and quoted.
        found: The columns of the key, quoted, each with a variable that has its value.
    """
    values = dict(zip(*_values(spec, audit, "S", "audited_row"), strict=True))
    same = [*spec.columns, *map(hash_column, spec.hash_columns)]
    last = ", ".join(f"ROW(audit_last.{quote(name)})" for name in same)
    return [
        f"    SELECT a.* INTO audit_last FROM {audit} AS a WHERE",
        "      " + " AND ".join(f"a.{key} {_EQUAL} {name}" for key, name in found.items()),
        "    ORDER BY a.audit_id DESC LIMIT 1;",
        "    IF FOUND AND audit_last.audit_operation OPERATOR(pg_catalog.<>) 'D' AND",
        f"      pg_catalog.concat({last}) {_EQUAL}",
        f"      pg_catalog.concat({', '.join(f'ROW({values[name]})' for name in same)})",
        # The index of the key finds a TRUNCATE, whose key is NULL.
        f"      AND NOT EXISTS (SELECT FROM {audit} AS a",
        f"        WHERE {' AND '.join(f'a.{key} IS NULL' for key in found)}",
        f"          AND a.audit_operation {_EQUAL} 'T'",
        "          AND a.audit_id OPERATOR(pg_catalog.>) audit_last.audit_id) THEN",
        "      CONTINUE;",
        "    END IF;",
    ]


def _declarations(
    spec: AuditSpec,
    audit: str,
    sparse: Sequence[str] = (),
    *,
    each_row: bool = False,
    of_partitions: bool = False,
) -> list[str]:
    """Return the variables, of the types of their columns.

    A cast would be folded away in a plan for given values only, which PL/pgSQL would then make
    again for each statement of a session whose first one was large (plancache.c,
    choose_custom_plan).
    """
    columns = {"audit_time": "audit_operation_timestamp"} if each_row else {}
    if spec.audit_columns == "standard":
        columns["audit_user"] = "audit_current_user"
    for number, setting in enumerate(spec.session_settings, 1):
        columns[f"audit_setting_{number}"] = setting.column
    lines = ["  audit_security pg_catalog.text;"] if of_partitions else []
    lines += ["  audit_setting pg_catalog.text;"] if spec.session_settings else []
    lines += [f"  {name} {audit}.{quote(column)}%TYPE;" for name, column in columns.items()]
    lines += [f"  {_stored(number)} pg_catalog.bool;" for number, _ in enumerate(sparse, 1)]
    return ["DECLARE", *lines] if lines else []


def _settings(spec: AuditSpec, source: str, *, of_trigger: bool = True) -> list[str]:
    lines = []
    for number, setting in enumerate(spec.session_settings, 1):
        name = f"audit.{setting.name}"
        lines += [
            f"  audit_setting := pg_catalog.current_setting('{name}', true);",
            f"  IF audit_setting {_EQUAL} '' THEN",
            "    audit_setting := NULL;",
            "  END IF;",
        ]
        if setting.required:
            message = f"session setting {name} is not set, and the audit of {source} requires it"
            remedy = f"SELECT set_config('{name}', '...', true)"
            lines += [
                "  IF audit_setting IS NULL THEN",
                *(_return_without_rows() if of_trigger and spec.statement_level else ()),
                "    RAISE EXCEPTION USING",
                "      ERRCODE = 'not_null_violation',",
                f"      MESSAGE = {literal(message)},",
                f"      HINT = {literal(f'Run {remedy} in the transaction, before the write.')};",
                "  END IF;",
            ]
        lines.append(f"  audit_setting_{number} := audit_setting;")
    return lines


def _return_without_rows() -> list[str]:
    """Return what asks no setting of a statement that changed no row: it fires the trigger too."""
    return [
        f"    IF TG_LEVEL {_EQUAL} 'STATEMENT' AND TG_OP OPERATOR(pg_catalog.<>) 'TRUNCATE' THEN",
        f"      IF NOT EXISTS (SELECT FROM {TRANSITION_TABLE}) THEN",
        "        RETURN NULL;",
        "      END IF;",
        "    END IF;",
    ]


def _role(spec: AuditSpec) -> list[str]:
    """Return the lines that find the role in force; ``current_user`` is the function's owner."""
    if spec.audit_columns != "standard":
        return []
    return [
        "  audit_user := pg_catalog.current_setting('role');",
        f"  IF audit_user {_EQUAL} 'none' THEN",
        "    audit_user := session_user;",
        "  END IF;",
    ]


def _record(
    spec: AuditSpec, audit: str, operation: str, row: str | None, *, changed: str = "NULL"
) -> list[str]:
    """Return the INSERT of one record; *row* is NEW, OLD, or None for TRUNCATE."""
    columns, values = _values(spec, audit, operation, row, changed=changed)
    return [
        f"INSERT INTO {audit} (",
        *comma_separated(map(quote, columns)),
        ") VALUES (",
        *_items(values),
        ");",
    ]


def _items(values: Sequence[str]) -> list[str]:
    """Return one item a line, with commas between them, where an item may have several lines."""
    return "\n".join(comma_separated(text.replace("\n", "\n  ") for text in values)).split("\n")


def _own_row(row: str, source: str) -> str:
    """Return the condition under which a row is the table's own, or that of a partition of it.

    What a child by old-style inheritance has fires the child's triggers alone; ONLY would leave
    out the partitions too.
    """
    table = f"{literal(source)}::pg_catalog.regclass"
    return (
        f"({row}.tableoid {_EQUAL} {table} OR EXISTS (SELECT FROM pg_catalog.pg_class\n"
        f"      WHERE oid {_EQUAL} {table} AND relkind {_EQUAL} 'p'))"
    )


def _each_row(
    spec: AuditSpec, audit: str, operation: str, table: str, condition: str | None = None
) -> list[str]:
    """Return the INSERT of one record for every row of a table, all of the same time.

    A volatile function in the list would be a subquery of its own in the plan, not pulled up
    (prepjointree.c, is_simple_subquery): a node to start and to pass for each row.
    """
    columns, values = _values(spec, audit, operation, "audited_row", time="audit_time")
    return [
        "audit_time := pg_catalog.clock_timestamp();",
        f"INSERT INTO {audit} (",
        *comma_separated(map(quote, columns)),
        ") SELECT",
        *_items(values),
        f"FROM {table} AS audited_row{f' WHERE {condition}' if condition else ''};",
    ]


def _values(
    spec: AuditSpec,
    audit: str,
    operation: str,
    row: str | None,
    *,
    changed: str = "NULL",
    time: str = "pg_catalog.clock_timestamp()",
) -> tuple[list[str], list[str]]:
    """Return the columns of a record, and the expressions that go into them."""
    values = {
        "audit_operation": f"'{operation}'",
        "audit_operation_timestamp": time,
    }
    if spec.audit_columns == "standard":
        values["audit_transaction_id"] = "pg_catalog.txid_current()"
        values["audit_current_user"] = "audit_user"
    if spec.changed_columns and operation == "U":
        values[CHANGED_COLUMNS] = changed
    sparse = spec.sparse_columns if operation == "U" else ()
    if sparse:
        values[OMITTED_COLUMNS] = _omitted(sparse)
    for number, setting in enumerate(spec.session_settings, 1):
        values[setting.column] = f"audit_setting_{number}"
    if row:
        values["audit_operation"] = _checked(spec, audit, row, spec.columns, f"'{operation}'")
        for name in spec.columns:
            values[name] = _value(spec, row, name)
        for number, name in enumerate(sparse, 1):
            values[name] = f"CASE WHEN {_stored(number)} THEN {values[name]} END"
        for name in spec.hash_columns:
            values[hash_column(name)] = _hash(f"{row}.{quote(name)}")
    return list(values), list(values.values())


def _value(spec: AuditSpec, row: str, name: str) -> str:
    """Return what is stored of a column; assigned to its audit column it needs no cast.

    The owner of a type may create a cast of it, and an assignment would run that as the function's
    owner. The output functions of enums and arrays are PostgreSQL's own, and so is every cast
    between its own types.
    """
    value, kind = f"{row}.{quote(name)}", dict(spec.as_text).get(name)
    if kind is None:
        return value
    # COALESCE makes a value of a domain one of its base type.
    value = f"COALESCE({value}, NULL)"
    if kind == "text":
        return f"pg_catalog.textin(pg_catalog.enum_out({value}))"
    return f"pg_catalog.textin(pg_catalog.array_out({value}))::pg_catalog.{kind}"


def _checked(spec: AuditSpec, audit: str, row: str, columns: Iterable[str], value: str) -> str:
    """Return a value, in a statement that cannot be planned where the type of a column differs.

    A column that was given another type than its audit column would go into it by a cast, which
    the owner of that type may have created. The planner drops the condition unevaluated; before
    that the parser finds no array_eq() of arrays of two types. COALESCE makes a domain its base
    type, and admits no array beside its element, where ARRAY[] makes one type of both.
    """
    as_text = dict(spec.as_text)
    pairs = [
        (f"{row}.{quote(name)}", f"(NULL::{audit}).{quote(name)}")
        for name in columns
        if name not in as_text
    ]
    if not pairs:
        return value
    return "\n".join(
        [
            "CASE WHEN false",
            "  -- Never evaluated. An error here: a column and its audit column differ in type.",
            "  -- Run `alembic revision --autogenerate`, then `alembic upgrade head`.",
            *(
                f"  AND pg_catalog.array_eq(ARRAY[COALESCE({new}, NULL)], "
                f"ARRAY[COALESCE({old}, NULL)])\n    AND COALESCE({new}, {old}) IS NULL"
                for new, old in pairs
            ),
            f"THEN NULL ELSE {value} END",
        ]
    )


def _update(spec: AuditSpec, audit: str) -> list[str]:
    lines = []
    if spec.skip_unchanged or spec.ignore_columns:
        lines += [
            f"IF {_row('NEW', spec.watched)}",
            f"  {_IMAGE_EQUAL} {_row('OLD', spec.watched)} THEN",
            "  RETURN NULL;",
            "END IF;",
        ]
    before = _record(spec, audit, "D", "OLD")
    if spec.key:
        lines += [
            f"IF {_row('NEW', spec.key)}",
            f"  {_IMAGE_DIFFERS} {_row('OLD', spec.key)} THEN",
            *("  " + line for line in before),
            "END IF;",
        ]
    else:
        lines += before
    for number, name in enumerate(spec.sparse_columns, 1):
        # A changed key begins a history of its own, which has to have the value.
        columns = (*spec.key, name)
        lines += [
            f"{_stored(number)} := {_row('NEW', columns)}",
            f"  {_IMAGE_DIFFERS} {_row('OLD', columns)};",
        ]
    return lines + _record(spec, audit, "U", "NEW", changed=_changed(spec))


def _stored(number: int) -> str:
    """Return the variable that says whether an UPDATE stores a sparse column."""
    return f"audit_stored_{number}"


def _omitted(sparse: Sequence[str]) -> str:
    """Return the names of the sparse columns that a record leaves out; NULL where it has all."""
    every = " AND ".join(_stored(number) for number, _ in enumerate(sparse, 1))
    names = ", ".join(
        f"CASE WHEN NOT {_stored(number)} THEN {literal(name)} END"
        for number, name in enumerate(sparse, 1)
    )
    left_out = f"pg_catalog.array_remove(ARRAY[{names}]::pg_catalog.text[], NULL)"
    return f"CASE WHEN {every} THEN NULL ELSE {left_out} END"


def _changed(spec: AuditSpec) -> str:
    tests = (
        f"CASE WHEN {_row('NEW', [name])} {_IMAGE_DIFFERS} {_row('OLD', [name])} "
        f"THEN {literal(name)} END"
        for name in spec.stored
    )
    return f"pg_catalog.array_remove(ARRAY[{', '.join(tests)}]::pg_catalog.text[], NULL)"


def _hash(value: str) -> str:
    """Return the hash of a value: SHA-256 of what the send function of its type makes of it.

    Before that record_send() writes twelve bytes: how many columns, the type, and the length.
    With client_encoding UTF8 the rest is the same in every session and database.
    """
    sent = f"pg_catalog.substring(pg_catalog.record_send(ROW({value})), 13)"
    # IS NULL would be true of a composite value of NULLs; against the bare NULL, no operator hides
    # here (parse_expr.c makes it a NullTest that does not look into rows).
    return (
        f"CASE WHEN {value} IS NOT DISTINCT FROM NULL THEN NULL ELSE pg_catalog.sha256({sent}) END"
    )


def _row(row: str, columns: Iterable[str]) -> str:
    return f"ROW({', '.join(f'{row}.{quote(name)}' for name in columns)})::pg_catalog.record"
