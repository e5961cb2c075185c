"""Which tables may be read: what reading them would run belongs to roles that are trusted.

Callers look names up in pg_catalog alone, see ``path``.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from alembic_audit.catalog.queries import WANTED
from alembic_audit.ddl import verbatim
from alembic_audit.naming import qualify, quote
from alembic_audit.sql import trust
from alembic_audit.states import Name

_NAMED = f"""ARRAY(
      SELECT c.oid FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
      WHERE {WANTED}
    )"""

# to_regclass() sees the present; a transaction in REPEATABLE READ sees catalogs as they were. Where
# the two agree while the table is locked, the name means the table that is asked about.
_QUESTION = sa.text(
    f"""
    SELECT n.nspname, c.relname,
      CASE WHEN pg_catalog.has_schema_privilege(n.oid, 'USAGE') THEN pg_catalog.to_regclass(
        pg_catalog.format('%I.%I', n.nspname, c.relname)) = c.oid ELSE true END AS same,
      pg_catalog.row_security_active(c.oid) AS filtered,
      strange.what, strange.owner, strange.owners
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    LEFT JOIN (
      SELECT found.relation,
        (pg_catalog.array_agg(found.what ORDER BY found.is_part, found.what))[1] AS what,
        (pg_catalog.array_agg(found.owner ORDER BY found.is_part, found.what))[1] AS owner,
        pg_catalog.array_agg(DISTINCT found.owner) AS owners
      FROM ({trust.untrusted(_NAMED, "CAST(:trusted AS pg_catalog.name[])")}) AS found
      GROUP BY found.relation
    ) AS strange ON strange.relation = c.oid
    WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm') AND {WANTED}
    """
).bindparams(
    sa.bindparam("schemas", type_=sa.ARRAY(sa.Text())),
    sa.bindparam("names", type_=sa.ARRAY(sa.Text())),
    sa.bindparam("trusted", type_=sa.ARRAY(sa.Text())),
)


def lock_trusted(
    connection: sa.Connection, names: Iterable[Name], trusted: Collection[str] = ()
) -> dict[Name, str]:
    """Why some tables must not be read; the others are locked until the transaction ends.

    The lock, ACCESS SHARE, is the one that reading takes. No table can be put in the place of a
    locked one, so that what was asked about is what is read.

    Args:
        connection: In a transaction.
        names: The tables.
        trusted: Names of roles whose code may run with the rights of the current user.
    """
    wanted = sorted(set(names))
    refusals = _refusals(connection, wanted, trusted)
    held = [name for name in wanted if name not in refusals]
    if not held:
        return refusals
    try:
        _lock(connection, held)
    except sa.exc.DBAPIError as first:
        if first.connection_invalidated:
            raise
        for name in held:
            try:
                _lock(connection, [name])
            except sa.exc.DBAPIError as error:
                refusals[name] = _reason(error)
    return {**_refusals(connection, held, trusted), **refusals}


def _lock(connection: sa.Connection, names: Sequence[Name]) -> None:
    tables = ", ".join(qualify(*name) for name in names)
    with connection.begin_nested():
        connection.execute(verbatim(f"LOCK TABLE {tables} IN ACCESS SHARE MODE"))


def _reason(error: sa.exc.DBAPIError) -> str:
    return str(error.orig).strip().partition("\n")[0]


def _refusals(
    connection: sa.Connection, names: Sequence[Name], trusted: Collection[str]
) -> dict[Name, str]:
    rows = connection.execute(
        _QUESTION,
        {
            "schemas": [schema for schema, _ in names],
            "names": [name for _, name in names],
            "trusted": sorted(trusted),
        },
    )
    answers = {(row.nspname, row.relname): _refusal(row) for row in rows}
    gone = [name for name in names if name not in answers]
    missing = {name: f'relation "{".".join(name)}" does not exist' for name in gone}
    return missing | {name: why for name, why in answers.items() if why is not None}


def _refusal(row: "sa.Row[Any]") -> str | None:
    table = qualify(row.nspname, row.relname)
    if row.owners:
        owners = [quote(owner) for owner in row.owners]
        instead = f"connect as {owners[0]}, or " if len(owners) == 1 else "connect "
        return (
            f"{table} is not examined: {row.what} is owned by {row.owner}, whose code would run "
            f"with your rights; {instead}as a role that has nothing but SELECT"
        )
    if not row.same:
        return f"{table} is not examined: another table took its place; look again"
    if row.filtered:
        return (
            f"{table} is not examined: row level security may hide records from you; connect as "
            "its owner, or as a role with BYPASSRLS"
        )
    return None
