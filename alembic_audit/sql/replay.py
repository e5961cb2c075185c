"""The statement that replays a trail and compares what comes out with the table."""

from collections.abc import Collection, Sequence

from alembic_audit.naming import literal, quote
from alembic_audit.spec import OMITTED_COLUMNS, AuditSpec

CONTRADICTION = "contradiction"
"""A record that cannot be true after the one before it: of a row that lives, or of none."""

DIFFERENT = "different"
"""The row is not as its last record says."""

GONE = "gone"
"""The row is not in the table, and by its last record it is."""

THERE = "there"
"""The row is in the table, and by its last record, or a TRUNCATE, it is not."""

TWICE = "twice"
"""Two rows of the table have this key."""

UNRECORDED = "unrecorded"
"""The row has no record: the trail began later, or the record was purged."""

_EQUAL, _LESS = "OPERATOR(pg_catalog.=)", "OPERATOR(pg_catalog.<)"
_IMAGE_DIFFERS = "OPERATOR(pg_catalog.*<>)"
_LIVE = "L"
"""What stands for the operation where a line is a row of the table."""


def replay(
    spec: AuditSpec, source: str, audit: str, *, columns: Sequence[str], as_text: Collection[str]
) -> str:
    """Return a Select with a line for each contradiction and for each key.

    The columns: what is wrong (NULL for a key of which nothing is), the key as an array of text,
    the ``audit_id`` of the record, that of the record before it, the operation, and the columns
    that differ. All is read by one statement, so in one snapshot, whatever others write.

    Rows of the table follow the records of their key in one sort. No operator is looked up by name:
    keys are compared by the default order of their type, values by their image. Values whose types
    differ (an enum is recorded as text) are compared by what their output functions write, since a
    cast could be somebody else's function.

    Args:
        spec: What is recorded; it has a key and the standard layout.
        source: The audited table as FROM takes it, with ONLY where children do not belong to it.
        audit: The audit table, qualified and quoted.
        columns: The columns that are compared; the key need not be among them.
        as_text: The columns, of the key too, whose types differ in the two tables.
    """
    keys = [f"key_{number}" for number, _ in enumerate(spec.key, 1)]
    sparse = [name for name in columns if name in spec.sparse_columns]
    values = [f"value_{number}" for number, _ in enumerate(columns, 1)]
    recorded = [_value(f"a.{quote(name)}", as_text, name) for name in spec.key]
    live = [_value(f"t.{quote(name)}", as_text, name) for name in (*spec.key, *columns)]
    whole_key = ", ".join(keys)
    key_text = ", ".join(f"pg_catalog.concat({name})" for name in keys)
    stored = "".join(
        f", {_stored_id('a', name)} AS stored_{number}" for number, name in enumerate(sparse, 1)
    )
    is_truncate = " AND ".join(f"{quote(name)} IS NULL" for name in spec.key)
    moved_key = f"ROW({', '.join(recorded)})::pg_catalog.record"
    suspect_key = f"ROW({', '.join(f's.{name}' for name in keys)})::pg_catalog.record"
    known = " AND ".join(f"{value} IS NOT NULL" for value in recorded)
    carried = "".join(
        f",\n    pg_catalog.max(stored_{number}) OVER (key ROWS UNBOUNDED PRECEDING)"
        f" AS carried_{number}"
        for number, _ in enumerate(sparse, 1)
    )
    joins = "".join(
        f"\n  LEFT JOIN {audit} AS stored_{number} ON line.operation {_EQUAL} '{_LIVE}'"
        f" AND stored_{number}.audit_id {_EQUAL} line.carried_{number}"
        for number, _ in enumerate(sparse, 1)
    )
    return f"""\
WITH emptied AS (
  SELECT ARRAY(
    SELECT audit_id FROM {audit} WHERE audit_operation {_EQUAL} 'T' AND {is_truncate}
    ORDER BY audit_id
  ) AS numbers
), lines AS (
  SELECT {_named(recorded, keys)},
    a.audit_id AS number, a.audit_operation AS operation, a.audit_transaction_id AS transaction,
    pg_catalog.width_bucket(a.audit_id, (SELECT numbers FROM emptied)) AS epoch
    {stored}{"".join(f", NULL AS {name}" for name in values)}
  FROM {audit} AS a
  WHERE {known}
  UNION ALL
  SELECT {_named(live[: len(keys)], keys)}, NULL, '{_LIVE}', NULL,
    (SELECT pg_catalog.cardinality(numbers) FROM emptied)
    {", NULL::pg_catalog.int8" * len(sparse)}{"".join(f", {one}" for one in live[len(keys) :])}
  FROM {source} AS t
), ordered AS (
  SELECT lines.*, pg_catalog.lag(operation) OVER key AS before,
    pg_catalog.lag(number) OVER key AS before_number,
    pg_catalog.lag(epoch) OVER key AS before_epoch,
    pg_catalog.lead(operation) OVER key AS after{carried}
  FROM lines WINDOW key AS (PARTITION BY {whole_key} ORDER BY number)
), judged AS (
  SELECT *, CASE
    -- The first record of a key does not say what was before, but a TRUNCATE does.
    WHEN before IS NULL THEN CASE WHEN epoch OPERATOR(pg_catalog.>) 0 THEN true END
    ELSE before {_EQUAL} 'D' OR before_epoch {_LESS} epoch END AS was_gone
  FROM ordered
), suspects AS (
  SELECT * FROM judged
  WHERE operation {_EQUAL} 'I' AND NOT was_gone
    OR (operation {_EQUAL} 'U' OR operation {_EQUAL} 'D') AND was_gone
), moves AS (
  -- A row that comes under another key is recorded D and U: its U finds no row. So it is right
  -- after a D of another key in its transaction: the first one, or the first of another key.
  SELECT transaction, pg_catalog.min(number) AS first,
    pg_catalog.min(number) FILTER (WHERE is_other) AS other
  FROM (
    SELECT a.audit_transaction_id AS transaction, a.audit_id AS number,
      {moved_key} {_IMAGE_DIFFERS} pg_catalog.first_value({moved_key})
        OVER (PARTITION BY a.audit_transaction_id ORDER BY a.audit_id) AS is_other
    FROM {audit} AS a WHERE a.audit_operation {_EQUAL} 'D'
  ) AS deletions
  GROUP BY transaction
)
SELECT '{CONTRADICTION}' AS what, ARRAY[{key_text}] AS key, s.number, s.before_number,
  s.operation, NULL::pg_catalog.text[] AS columns
FROM suspects AS s
LEFT JOIN moves AS m ON m.transaction {_EQUAL} s.transaction
LEFT JOIN {audit} AS a ON a.audit_id {_EQUAL} m.first
-- A record that was taken over from another trail has no transaction.
WHERE s.operation {_EQUAL} 'D' OR s.operation {_EQUAL} 'I' OR NOT COALESCE(
  s.transaction IS NULL OR m.first {_LESS} s.number AND (
    {moved_key} {_IMAGE_DIFFERS} {suspect_key}
    OR m.other {_LESS} s.number
  ), false)
UNION ALL
SELECT what, CASE WHEN what IS NOT NULL THEN ARRAY[{key_text}] END, number, before_number,
  operation, CASE WHEN what {_EQUAL} '{DIFFERENT}' THEN columns END
FROM (
  SELECT {", ".join(f"line.{name}" for name in keys)}, line.number, line.before_number,
    line.operation, line.columns, CASE
    WHEN line.operation {_EQUAL} '{_LIVE}' THEN CASE
      WHEN line.before IS NULL THEN '{UNRECORDED}'
      WHEN line.before {_EQUAL} '{_LIVE}' THEN '{TWICE}'
      WHEN line.was_gone THEN '{THERE}'
      WHEN pg_catalog.cardinality(line.columns) OPERATOR(pg_catalog.>) 0 THEN '{DIFFERENT}'
    END
    WHEN line.operation OPERATOR(pg_catalog.<>) 'D'
      AND line.epoch {_EQUAL} (SELECT pg_catalog.cardinality(numbers) FROM emptied) THEN '{GONE}'
    END AS what
  FROM (
    SELECT line.*, CASE WHEN line.operation {_EQUAL} '{_LIVE}' THEN
      {_differing(spec, columns, as_text, sparse)} END AS columns
    FROM judged AS line
    LEFT JOIN {audit} AS last ON line.operation {_EQUAL} '{_LIVE}'
      AND last.audit_id {_EQUAL} line.before_number{joins}
    WHERE line.after IS NULL
  ) AS line
) AS line"""


def _named(values: Sequence[str], names: Sequence[str]) -> str:
    return ", ".join(f"{value} AS {name}" for value, name in zip(values, names, strict=True))


def _value(column: str, as_text: Collection[str], name: str) -> str:
    """Return a value, or what its output function writes."""
    if name not in as_text:
        return column
    return f"CASE WHEN {column} IS DISTINCT FROM NULL THEN pg_catalog.concat({column}) END"


def _is_omitted(record: str, name: str) -> str:
    found = f"{literal(name)} {_EQUAL} ANY ({record}.{OMITTED_COLUMNS})"
    return f"COALESCE({found}, false)"


def _stored_id(record: str, name: str) -> str:
    """Return the number of a record that stores a sparse column; NULL of one that leaves it out."""
    return f"CASE WHEN NOT {_is_omitted(record, name)} THEN {record}.audit_id END"


def _differing(
    spec: AuditSpec, columns: Sequence[str], as_text: Collection[str], sparse: Sequence[str]
) -> str:
    """Return the names of the columns in which a row is not as its last record says."""
    tests = []
    for number, name in enumerate(columns, 1):
        record = f"stored_{sparse.index(name) + 1}" if name in sparse else "last"
        differs = (
            f"ROW({_value(f'{record}.{quote(name)}', as_text, name)})::pg_catalog.record"
            f" {_IMAGE_DIFFERS} ROW(line.value_{number})::pg_catalog.record"
        )
        if name in sparse:
            # Where no record stores it, the trail began later, and says nothing of it.
            differs = f"{record}.audit_id IS NOT NULL AND {differs}"
        tests.append(f"CASE WHEN {differs} THEN {literal(name)} END")
    listed = ",\n      ".join(tests)
    return f"pg_catalog.array_remove(ARRAY[{listed}]::pg_catalog.text[], NULL)"
