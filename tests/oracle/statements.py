"""Statements of every kind that write a table, each made of a shape and of choices."""

from collections.abc import Callable, Sequence

from alembic_audit.naming import quote
from tests.oracle.shapes import KINDS, Column, Picks, Shape

Maker = Callable[[Shape, Picks, int], list[str]]
"""Shape, choices and the major version of the server to statements, which are one step."""


def value(column: Column, picks: Picks) -> str:
    """Return a value of a column, in a key never NULL."""
    kind = KINDS[column.kind]
    return f"CAST({picks.of(kind.values)} AS {kind.text})"


def values(shape: Shape, columns: Sequence[Column], picks: Picks) -> list[str]:
    return [
        value(column, picks) if column in shape.keys or picks.below(4) else
        f"CAST(NULL AS {KINDS[column.kind].text})"
        for column in columns
    ]  # fmt: skip


def names(columns: Sequence[Column], prefix: str = "") -> str:
    return ", ".join(prefix + quote(column.name) for column in columns)


def target(shape: Shape, picks: Picks) -> str:
    """Return the table, or at times one of its partitions."""
    return quote(picks.of((shape.table, shape.table, shape.table, *shape.parts)))


def rows(shape: Shape, columns: Sequence[Column], picks: Picks, least: int = 1) -> str:
    count = least + picks.below(3)
    return ", ".join(f"({', '.join(values(shape, columns, picks))})" for _ in range(count))


def changes(shape: Shape, picks: Picks) -> str:
    """Return what stands after SET."""
    columns = shape.values or list(shape.keys)
    chosen = picks.some(columns, least=1)
    new = values(shape, chosen, picks)
    pairs = zip(chosen, new, strict=True)
    return ", ".join(f"{quote(column.name)} = {text}" for column, text in pairs)


def some_rows(shape: Shape, picks: Picks, prefix: str = "") -> str:
    """Return a condition that some rows meet, by text: not every type has an equality."""
    if picks.below(2) == 0:
        return "true"
    column = shape.written[0]
    return f"{prefix}{quote(column.name)}::text = {value(column, picks)}::text"


def insert(shape: Shape, picks: Picks, version: int) -> list[str]:
    columns = shape.written
    into = f"INSERT INTO {target(shape, picks)} ({names(columns)})"
    given = rows(shape, columns, picks)
    form = picks.of((
        f"{into} VALUES {given}",
        f"{into} SELECT v.* FROM (VALUES {given}) AS v",
        f"{into} VALUES {given} RETURNING *",
    ))  # fmt: skip
    return [form]


def fill(shape: Shape, picks: Picks, version: int) -> list[str]:
    columns = shape.written
    given = rows(shape, columns, picks, least=3)
    into = f"INSERT INTO {quote(shape.table)} ({names(columns)})"
    return [f"{into} VALUES {given} ON CONFLICT DO NOTHING"]


def upsert(shape: Shape, picks: Picks, version: int) -> list[str]:
    table, columns = quote(shape.table), shape.written
    into = f"INSERT INTO {table} AS x ({names(columns)}) VALUES {rows(shape, columns, picks)}"
    if not shape.key or not shape.values or picks.below(4) == 0:
        return [f"{into} ON CONFLICT DO NOTHING"]
    taken = ", ".join(f"{quote(c.name)} = EXCLUDED.{quote(c.name)}" for c in shape.values)
    changed = picks.of((taken, changes(shape, picks), rekeying(shape, picks, "x.")))
    where = picks.of(("", f" WHERE {some_rows(shape, picks, 'x.')}"))
    both = " RETURNING old, new" if version >= 18 and picks.below(3) == 0 else ""
    return [f"{into} ON CONFLICT ({names(shape.keys)}) DO UPDATE SET {changed}{where}{both}"]


def update(shape: Shape, picks: Picks, version: int) -> list[str]:
    table = target(shape, picks)
    same = ", ".join(f"{quote(column.name)} = {quote(column.name)}" for column in shape.written)
    column = shape.written[0]
    joined = f"(VALUES ({value(column, picks)}), ({value(column, picks)})) AS v (k)"
    given = changes(shape, picks)
    both = " RETURNING old, new" if version >= 18 else " RETURNING *"
    form = picks.of((
        f"UPDATE {table} SET {given} WHERE {some_rows(shape, picks)}",
        f"UPDATE {table} AS x SET {given} FROM {joined}"
        f" WHERE x.{quote(column.name)}::text = v.k::text",
        f"UPDATE {table} SET {given} WHERE {some_rows(shape, picks)}{both}",
        f"UPDATE {table} SET {same}",
    ))  # fmt: skip
    return [form]


def rekeying(shape: Shape, picks: Picks, prefix: str = "") -> str:
    """Return a change of the key, by which rows at times change places."""
    column = picks.of(shape.keys or shape.written[:1])
    name, one, other = f"{prefix}{quote(column.name)}", value(column, picks), value(column, picks)
    case = f"CASE WHEN {name}::text = {one}::text THEN {other}"
    swap = f"{case} WHEN {name}::text = {other}::text THEN {one} ELSE {name} END"
    if KINDS[column.kind].text in ("integer", "bigint"):
        more = f"{name} {picks.of(('+ 1', '- 1', '+ 10'))}"
        return f"{quote(column.name)} = {picks.of((more, swap, f'5 - {name}'))}"
    return f"{quote(column.name)} = {picks.of((swap, f'{case} ELSE {name} END'))}"


def rekey(shape: Shape, picks: Picks, version: int) -> list[str]:
    set_key = rekeying(shape, picks)
    more = f", {changes(shape, picks)}" if shape.values and shape.key and picks.below(2) else ""
    return [f"UPDATE {target(shape, picks)} SET {set_key}{more} WHERE {some_rows(shape, picks)}"]


def delete(shape: Shape, picks: Picks, version: int) -> list[str]:
    column = shape.written[0]
    joined = f"(VALUES ({value(column, picks)}), ({value(column, picks)})) AS v (k)"
    table = target(shape, picks)
    form = picks.of((
        f"DELETE FROM {table} WHERE {some_rows(shape, picks)}",
        f"DELETE FROM {table} AS x USING {joined} WHERE x.{quote(column.name)}::text = v.k::text",
    ))  # fmt: skip
    return [form]


def merge(shape: Shape, picks: Picks, version: int) -> list[str]:
    if version < 15:
        return upsert(shape, picks, version)
    columns, on = shape.written, shape.keys or shape.written[:1]
    same = " AND ".join(f"x.{quote(c.name)}::text = v.{quote(c.name)}::text" for c in on)
    set_key = rekeying(shape, picks, "x.")
    arms = picks.some([
        f"WHEN MATCHED AND {some_rows(shape, picks, 'x.')} THEN DELETE",
        f"WHEN MATCHED THEN UPDATE SET {picks.of((changes(shape, picks), set_key))}",
        f"WHEN NOT MATCHED THEN INSERT ({names(columns)}) VALUES ({names(columns, 'v.')})",
        *(["WHEN NOT MATCHED BY SOURCE THEN DELETE"] if version >= 17 else []),
    ], least=1)  # fmt: skip
    # The first of two arms of a kind may not be without a condition, so the order stays.
    given = rows(shape, columns, picks)
    source = f"(VALUES {given}) AS v ({names(columns)})"
    return [f"MERGE INTO {quote(shape.table)} AS x USING {source} ON {same} {' '.join(arms)}"]


def truncate(shape: Shape, picks: Picks, version: int) -> list[str]:
    return [f"TRUNCATE {target(shape, picks)}{picks.of(('', ' RESTART IDENTITY CASCADE'))}"]


def copy(shape: Shape, picks: Picks, version: int) -> list[str]:
    columns = shape.written
    given = f"SELECT * FROM (VALUES {rows(shape, columns, picks)}) AS v"
    return [f"COPY {target(shape, picks)} ({names(columns)}) FROM STDIN", given]


def several(shape: Shape, picks: Picks, version: int) -> list[str]:
    """One statement with several modifications; no row is touched twice.

    Statement triggers record a DELETE that is not read to its end last: test_known.py.
    """
    some = "LIMIT 1" if shape.options.get("level") == "row" else ""
    table, columns, first = quote(shape.table), shape.written, quote(shape.written[0].name)
    gone = f"{first}::text = {value(shape.written[0], picks)}::text"
    given = changes(shape, picks) if shape.values else f"{first} = {first}"
    back = picks.of((names(columns), ", ".join(values(shape, columns, picks))))
    return [
        f"WITH gone AS (DELETE FROM {table} WHERE {gone} RETURNING *), changed AS (UPDATE {table}"
        f" SET {given} WHERE NOT ({gone}) RETURNING 1) INSERT INTO {table} ({names(columns)})"
        f" SELECT {back} FROM gone {some}"
    ]


def undone(shape: Shape, picks: Picks, version: int) -> list[str]:
    """Writes that are rolled back, around one that stays."""
    again = (insert, update, delete, truncate)
    return [
        *picks.of(again)(shape, picks, version),
        "SAVEPOINT inner_one",
        *picks.of(again)(shape, picks, version),
        "ROLLBACK TO inner_one",
        *picks.of(again)(shape, picks, version),
    ]


def block(shape: Shape, picks: Picks, version: int) -> list[str]:
    """PL/pgSQL: a loop with an exception handler, or a cursor."""
    (one,), (other,) = insert(shape, picks, version), rekey(shape, picks, version)
    (last,) = delete(shape, picks, version)
    one = one.removesuffix(" RETURNING *")
    table = quote(shape.table)
    loop = (
        f"FOR round IN 1..2 LOOP BEGIN {one}; {other}; EXCEPTION WHEN unique_violation THEN {last};"
        " END; END LOOP;"
    )
    change = f"UPDATE {table} SET {changes(shape, picks)} WHERE CURRENT OF every_row"
    cursor = f"FOR row_there IN every_row LOOP {change}; END LOOP;"
    declared = f"every_row CURSOR FOR SELECT * FROM {table} FOR UPDATE;"
    return [f"DO $block$ DECLARE {declared} BEGIN {picks.of((loop, cursor))} END $block$"]


def parent(shape: Shape, picks: Picks, version: int) -> list[str]:
    """Changes of the table that is referred to, which reach this one by its foreign key."""
    if not shape.parent:
        return update(shape, picks, version)
    number = 1 + picks.below(3)
    form = picks.of((
        f"DELETE FROM parent WHERE id = {number}",
        f"UPDATE parent SET id = id + 10 WHERE id = {number}",
        "INSERT INTO parent VALUES (1), (2), (3), (4) ON CONFLICT DO NOTHING",
        "DELETE FROM parent",
        "TRUNCATE parent CASCADE",
    ))  # fmt: skip
    return [form]


def as_replica(shape: Shape, picks: Picks, version: int) -> list[str]:
    """Writes as logical replication makes them, where they are recorded at all."""
    written = picks.of((insert, update, delete))(shape, picks, version)
    if not shape.options.get("always"):
        return written
    role = "SET LOCAL session_replication_role TO"
    return [f"{role} replica", *written, f"{role} origin"]


DML: dict[str, Maker] = {
    maker.__name__: maker
    for maker in (
        fill, insert, update, delete, rekey, upsert, merge, truncate, copy, several, undone, block,
        parent, as_replica,
    )
}  # fmt: skip
OFTEN = {
    "fill": 8,
    "insert": 3,
    "rekey": 4,
    "upsert": 3,
    "merge": 3,
    "update": 3,
    "several": 3,
    "block": 3,
}
"""How often a kind is drawn, where that is not once or twice: a full table tells more."""
WEIGHTED = [name for name in DML for _ in range(OFTEN.get(name, 1 if name == "truncate" else 2))]
