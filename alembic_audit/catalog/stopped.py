"""Trails that have stopped: nothing writes into their audit tables, and their records stay."""

from collections.abc import Collection

import sqlalchemy as sa

from alembic_audit.spec import (
    CHANGED_COLUMNS,
    OMITTED_COLUMNS,
    OWN_COLUMNS,
    AuditSpec,
    Setting,
)
from alembic_audit.states import STOPPED, AuditState, Drift, Name

_SUFFIX = "_audit"
_PREFIX = "audit_"

_TABLES = sa.text(
    """
    SELECT n.nspname, c.relname,
      ARRAY(
        SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid
          AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
        ORDER BY a.attnum
      ) AS columns,
      ARRAY(
        SELECT pg_catalog.to_json(ARRAY(
          SELECT a.attname::pg_catalog.text
          FROM pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY AS k (number, place)
          JOIN pg_catalog.pg_attribute AS a
            ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid
            AND a.attnum OPERATOR(pg_catalog.=) k.number
          ORDER BY k.place
        ))
        FROM pg_catalog.pg_index AS i
        WHERE i.indrelid OPERATOR(pg_catalog.=) c.oid AND i.indpred IS NULL
        ORDER BY i.indexrelid
      ) AS indexes,
      ARRAY(
        SELECT a.attname::pg_catalog.text
        FROM pg_catalog.pg_class AS s
        JOIN pg_catalog.pg_index AS i ON i.indrelid OPERATOR(pg_catalog.=) s.oid AND i.indisprimary
        CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::pg_catalog.int2[])
          WITH ORDINALITY AS k (number, place)
        JOIN pg_catalog.pg_attribute AS a
          ON a.attrelid OPERATOR(pg_catalog.=) s.oid
          AND a.attnum OPERATOR(pg_catalog.=) k.number
        WHERE s.relnamespace OPERATOR(pg_catalog.=) c.relnamespace
          AND pg_catalog.concat(s.relname, CAST(:suffix AS pg_catalog.text))
            OPERATOR(pg_catalog.=) c.relname::pg_catalog.text
        ORDER BY k.place
      ) AS key
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    WHERE c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p}'::pg_catalog."char"[])
      AND NOT c.relispartition
      AND c.relpersistence OPERATOR(pg_catalog.<>) 't'::pg_catalog."char"
      AND CAST(:own AS pg_catalog.text[]) OPERATOR(pg_catalog.<@) ARRAY(
        SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid AND NOT a.attisdropped
      )
    ORDER BY 1, 2
    """
).bindparams(sa.bindparam("own", type_=sa.ARRAY(sa.Text())))


def read_stopped(
    connection: sa.Connection, known: Collection[Name], used: Collection[Name]
) -> dict[Name, AuditState]:
    """Return trails without a function, by the table that they were of.

    What the function knew is read off the audit table: the key from its index of the key, or from
    the table that it was of, and the settings from the names of the columns.

    Args:
        connection: Where to look.
        known: The tables that have a trail.
        used: The audit tables of those trails.
    """
    own = OWN_COLUMNS["standard"]
    found: dict[Name, AuditState] = {}
    for row in connection.execute(_TABLES, {"own": list(own), "suffix": _SUFFIX}):
        audit = (row.nspname, row.relname)
        if audit in used:
            continue
        # One that was followed by another trail of its table has its own name.
        source = (row.nspname, row.relname.removesuffix(_SUFFIX))
        name = audit if source in known else source
        rest = [
            column
            for column in row.columns
            if column not in (*own, CHANGED_COLUMNS, OMITTED_COLUMNS)
        ]
        key = _key(row)
        settings = [column for column in rest if column.startswith(_PREFIX) and column not in key]
        columns = [column for column in rest if column not in settings]
        found[name] = AuditState(
            AuditSpec(
                table=name[1],
                schema=name[0],
                audit_table=audit[1],
                audit_schema=audit[0],
                function="",
                trigger="",
                key=key,
                columns=tuple(columns),
                session_settings=tuple(
                    Setting(column.removeprefix(_PREFIX), column) for column in settings
                ),
                changed_columns=CHANGED_COLUMNS in row.columns,
                # Which columns a record left out, it says itself.
                sparse_columns=(
                    tuple(column for column in columns if column not in key)
                    if OMITTED_COLUMNS in row.columns
                    else ()
                ),
            ),
            drift=(Drift(STOPPED, "nothing writes into its audit table any more"),),
        )
    return found


def _key(row: "sa.Row[tuple[str, str, list[str], list[list[str]], list[str]]]") -> tuple[str, ...]:
    """Return the key of the rows that an audit table is about; none where nothing says it."""
    of_indexes = [tuple(one[:-1]) for one in row.indexes if len(one) > 1 and one[-1] == "audit_id"]
    of_table = tuple(row.key)
    if of_table in of_indexes or not of_indexes:
        return of_table if set(of_table) <= set(row.columns) else ()
    return of_indexes[0]
