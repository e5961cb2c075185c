"""The columns of tables, with the names of their types, and the sizes of tables."""

from collections import defaultdict
from collections.abc import Collection

import sqlalchemy as sa

from alembic_audit.catalog.queries import WANTED
from alembic_audit.states import Name

# -1 and not NULL: "character" would be one character.
_COLUMNS = sa.text(
    f"""
    SELECT n.nspname, c.relname, a.attname, pg_catalog.format_type(a.atttypid, -1) AS type
    FROM pg_catalog.pg_attribute AS a
    JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'f')
      AND {WANTED}
    ORDER BY 1, 2, a.attnum
    """
).bindparams(
    sa.bindparam("schemas", type_=sa.ARRAY(sa.Text())),
    sa.bindparam("names", type_=sa.ARRAY(sa.Text())),
)


def read_columns(connection: sa.Connection, names: Collection[Name]) -> dict[Name, dict[str, str]]:
    """Return the columns of tables: name to the name of the type, in the table's order."""
    found: dict[Name, dict[str, str]] = defaultdict(dict)
    wanted = sorted(names)
    for row in connection.execute(
        _COLUMNS,
        {"schemas": [schema for schema, _ in wanted], "names": [name for _, name in wanted]},
    ):
        found[row.nspname, row.relname][row.attname] = row.type
    return dict(found)


_SIZES = sa.text(
    f"""
    SELECT n.nspname, c.relname, pg_catalog.pg_total_relation_size(c.oid) AS bytes,
      GREATEST(c.reltuples, 0)::pg_catalog.int8 AS estimate
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'f') AND {WANTED}
    """
).bindparams(
    sa.bindparam("schemas", type_=sa.ARRAY(sa.Text())),
    sa.bindparam("names", type_=sa.ARRAY(sa.Text())),
)


def read_sizes(connection: sa.Connection, names: Collection[Name]) -> dict[Name, tuple[int, int]]:
    """Return the bytes of tables with their indexes, and about how many rows they have."""
    wanted = sorted(names)
    rows = connection.execute(
        _SIZES,
        {"schemas": [schema for schema, _ in wanted], "names": [name for _, name in wanted]},
    )
    return {(row.nspname, row.relname): (row.bytes, row.estimate) for row in rows}
