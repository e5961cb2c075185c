"""What a replay has to know of a trail's two tables."""

import dataclasses
from typing import Any

import sqlalchemy as sa

from alembic_audit.states import Name

_TABLES = sa.text(
    """
    SELECT wanted.place, c.relkind::pg_catalog.text,
      pg_catalog.has_table_privilege(c.oid, 'SELECT')
        AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS readable,
      pg_catalog.row_security_active(c.oid) AS is_filtered,
      ARRAY(
        SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
      ) AS names,
      ARRAY(
        SELECT a.atttypid::pg_catalog.int8 FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
      ) AS types
    FROM ROWS FROM (
      pg_catalog.unnest(CAST(:schemas AS pg_catalog.text[])),
      pg_catalog.unnest(CAST(:names AS pg_catalog.text[]))
    ) WITH ORDINALITY AS wanted (nspname, relname, place)
    JOIN pg_catalog.pg_namespace AS n ON n.nspname = wanted.nspname
    JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = wanted.relname
    """
).bindparams(
    sa.bindparam("schemas", type_=sa.ARRAY(sa.Text())),
    sa.bindparam("names", type_=sa.ARRAY(sa.Text())),
)


@dataclasses.dataclass(frozen=True)
class TableTypes:
    """One table.

    Attributes:
        kind: ``pg_class.relkind``.
        readable: The role may read it.
        is_filtered: Row level security hides rows from the role.
        types: Columns to the OIDs of their types.
    """

    kind: str
    readable: bool
    is_filtered: bool
    types: dict[str, int]


def read_types(
    connection: sa.Connection, source: Name, audit: Name
) -> tuple[TableTypes | None, TableTypes | None]:
    """Return what there is of an audited table and its audit table; None of one that is not."""
    rows: Any = connection.execute(
        _TABLES, {"schemas": [source[0], audit[0]], "names": [source[1], audit[1]]}
    )
    found = {
        row.place: TableTypes(
            row.relkind,
            row.readable,
            row.is_filtered,
            dict(zip(row.names, row.types, strict=True)),
        )
        for row in rows
    }
    return found.get(1), found.get(2)
