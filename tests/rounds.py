"""The whole way of a model: migrate, down and up without a trace, write, compare in SQL."""

from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from alembic_audit.naming import qualify, quote
from alembic_audit.tables import derive
from tests.catalogs import snapshot
from tests.project import Project


def migrate(project: Project, metadata: sa.MetaData) -> str:
    """Autogenerate and upgrade; downgrade leaves no trace, and upgrade makes the same again."""
    before = snapshot(project.engine)
    text = project.migrate(metadata)
    after = snapshot(project.engine)
    project.downgrade()
    assert before == snapshot(project.engine)
    project.upgrade()
    assert after == snapshot(project.engine)
    project.check(metadata)
    return text


def differences(connection: sa.Connection, table: sa.Table, operation: str) -> list[str]:
    """Return the stored columns in which the rows of a table and their records differ.

    A record counts if it is of *operation*; row and record are joined by the key. Both are compared
    as text and, cast to the type of the record, byte for byte. Names come from the database.
    """
    audit = derive(table)
    assert audit is not None
    spec = table.info["audit.spec"]
    source = qualify(spec.schema or "public", spec.table)
    trail = qualify(spec.audit_schema or "public", spec.audit_table)
    types = dict(
        connection.execute(
            sa.text(
                "SELECT attname, pg_catalog.format_type(atttypid, -1) FROM pg_attribute "
                "WHERE attrelid = CAST(:trail AS regclass) AND attnum > 0 AND NOT attisdropped"
            ),
            {"trail": trail},
        ).all()
    )
    tests = {}
    for name in spec.columns:
        row, record = f"t.{quote(name)}", f"a.{quote(name)}"
        tests[name] = (
            f"count(*) FILTER (WHERE {row}::text IS DISTINCT FROM {record}::text"
            f" OR ROW({row}::{types[name]})::record *<> ROW({record})::record)"
        )
    join = " AND ".join(f"t.{quote(name)} = a.{quote(name)}" for name in spec.key)
    joined = f"{source} AS t LEFT JOIN {trail} AS a ON {join} AND a.audit_operation = '{operation}'"
    different = []
    for names in batched(spec.columns, 500):  # a query has at most 1,664 columns
        rows, records, *found = connection.exec_driver_sql(
            f"SELECT count(*), count(a.audit_operation), {', '.join(tests[n] for n in names)} "
            f"FROM {joined}",
            execution_options={"no_parameters": True},
        ).one()
        assert rows > 0
        assert rows == records
        different += [name for name, count in zip(names, found, strict=True) if count]
    return different


def batched(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]
