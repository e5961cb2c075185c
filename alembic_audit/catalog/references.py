"""Foreign keys whose check can wait."""

import sqlalchemy as sa

from alembic_audit.naming import qualify

# pg_constraint.confdeltype is 'r' for RESTRICT, which never waits.
_DEFERRABLE = sa.text("""
SELECT n.nspname, c.conname, c.condeferred, c.confdeltype OPERATOR(pg_catalog.=) 'r' AS restricts,
  ARRAY(
    SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid OPERATOR(pg_catalog.=) c.conrelid
      AND a.attnum OPERATOR(pg_catalog.=) ANY (c.conkey)
  ) AS columns
FROM pg_catalog.pg_constraint AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.connamespace
WHERE c.contype OPERATOR(pg_catalog.=) 'f' AND c.condeferrable
  AND c.conrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(:name)::pg_catalog.oid
ORDER BY c.oid
""").columns(columns=sa.ARRAY(sa.Text()))


def deferrable(connection: sa.Connection, name: str) -> dict[frozenset[str], tuple[str, bool]]:
    """The deferrable foreign keys of a table, by their columns.

    Args:
        connection: Any.
        name: The table, as SQL.

    Returns:
        The constraint, as SQL, and whether a deletion of what it refers to can wait too.
    """
    return {
        frozenset(row.columns): (qualify(row.nspname, row.conname), not row.restricts)
        for row in connection.execute(_DEFERRABLE, {"name": name})
    }
