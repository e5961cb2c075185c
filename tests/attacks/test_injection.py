"""Injection: whatever stands in a name or a setting is a name or a value, and never a statement."""

from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa

from alembic_audit import audit_table, naming, sql
from alembic_audit.tables import SPEC_KEY
from tests.conftest import Database

PAYLOADS = {
    "quote": 'x" int); DROP TABLE victim; --',
    "literal": "x'); DROP TABLE victim; --",
    "dollar": "$audit$; DROP TABLE victim; --",
    "backslash": "\\'; DROP TABLE victim; --",
    "format": "%s%(a)s{0}:b",
    "comment": "/* x */ DROP",
}
PLACES = (
    "table",
    "schema",
    "column",
    "key",
    "hashed",
    "sparse",
    "audit_table",
    "audit_schema",
    "function",
    "trigger",
    "setting_column",
    "owner",
    "partition",
)
"""Each identifier that a declaration can have; a setting's name is letters, digits and _."""


def models(place: str, payload: str, level: str) -> sa.MetaData:
    """Return an audited table in which one identifier is hostile."""

    def name(of: str) -> str:
        return payload if of == place else of

    conventions = {
        "audit.table": name("audit_table").replace("%", "%%"),
        "audit.function": name("function").replace("%", "%%"),
        "audit.trigger": name("trigger").replace("%", "%%"),
        "audit.setting": name("setting_column").replace("%", "%%"),
    }
    metadata = sa.MetaData(naming_convention=conventions)
    table = sa.Table(
        name("table"),
        metadata,
        sa.Column(name("key"), sa.Integer, primary_key=True, autoincrement=False),
        sa.Column(name("column"), sa.Text),
        sa.Column(name("hashed"), sa.Text),
        sa.Column(name("sparse"), sa.Text),
        schema=name("schema") if place == "schema" else None,
        postgresql_partition_by=f"LIST ({naming.quote(name('key'))})"
        if place == "partition"
        else None,
    )
    options: dict[str, Any] = {"level": level}
    if place == "audit_schema":
        options["schema_name"] = payload
    if place == "owner":
        options["owner"] = payload
    if place == "partition":
        options["partitions"] = [payload]
    if level == "row":
        options |= {"changed_columns": True, "sparse_columns": [name("sparse")]}
    audit_table(
        table,
        session_settings=[sa.Column("who", sa.Text)],
        hash_columns=[name("hashed")],
        append_only=True,
        **options,
    )
    return metadata


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", PAYLOADS)
def test_injection_through_an_identifier(database: Database, place: str, kind: str) -> None:
    """Every statement of a trail's life runs with the name, as a name.

    The control puts the name between quotes and doubles none, as many a template does.
    """
    payload = PAYLOADS[kind]
    levels = ["row"] if place in ("partition", "sparse") else ["row", "statement"]
    raw = psycopg2.connect(database.url().set(drivername="postgresql").render_as_string(False))
    with raw.cursor() as cursor:
        cursor.execute("CREATE TABLE victim (id int)")
        raw.commit()
        if kind == "quote":
            cursor.execute(f'CREATE TABLE naive ("{payload}" int)')
            cursor.execute("SELECT to_regclass('victim')")
            assert (None,) == cursor.fetchone()
            raw.rollback()
        for level in levels:
            live(cursor, models(place, payload, level), place, payload)
            cursor.execute("SELECT to_regclass('victim')::text")
            assert ("victim",) == cursor.fetchone()
            raw.rollback()
    raw.close()


def live(cursor: Any, metadata: sa.MetaData, place: str, payload: str) -> None:
    """Begin a trail, write, record what is there, change it, and end it."""
    source = next(table for table in metadata.tables.values() if SPEC_KEY in table.info)
    spec = source.info[SPEC_KEY]
    quoted = naming.quote(payload)
    if place in ("schema", "audit_schema"):
        cursor.execute(f"CREATE SCHEMA {quoted}")
    if place == "owner":
        cursor.execute(f"CREATE ROLE {quoted}")
        cursor.execute(f"GRANT CREATE, USAGE ON SCHEMA public TO {quoted}")
    table = naming.qualify(spec.schema or "public", spec.table)
    columns = [naming.quote(column.name) for column in source.columns]
    shape = f"{columns[0]} int, " + ", ".join(f"{column} text" for column in columns[1:])
    parted = f"PARTITION BY LIST ({columns[0]})" if place == "partition" else ""
    cursor.execute(f"CREATE TABLE {table} ({shape}, PRIMARY KEY ({columns[0]})) {parted}")
    if parted:
        cursor.execute(f"CREATE TABLE {quoted} PARTITION OF {table} DEFAULT")
    audit = metadata.tables[
        f"{spec.audit_schema}.{spec.audit_table}" if spec.audit_schema else spec.audit_table
    ]
    compiled = sa.schema.CreateTable(audit).compile(
        dialect=sa.dialects.postgresql.psycopg2.dialect()
    )
    cursor.execute(str(compiled).replace("%%", "%"))
    for statement in sql.create(spec, "public"):
        cursor.execute(statement)
    cursor.execute("SELECT set_config('audit.who', %s, true)", [payload])
    cursor.execute(f"INSERT INTO {table} VALUES (1, 'a', 'b', 'c')")
    cursor.execute(f"UPDATE {table} SET {columns[1]} = 'd'")
    cursor.execute(f"UPDATE {table} SET {columns[0]} = 2")
    cursor.execute(sql.snapshot(spec, "public"))
    trail = naming.qualify(spec.audit_schema or "public", spec.audit_table)
    who = naming.quote(spec.session_settings[0].column)
    cursor.execute(
        f"SELECT string_agg(audit_operation, '' ORDER BY audit_id), min({who}), "
        f"max({who}) FROM {trail}"
    )
    assert ("IUDUS", payload, payload) == cursor.fetchone()
    for statement in sql.replace(spec, spec, "public"):
        cursor.execute(statement)
    function = naming.qualify(spec.audit_schema or "public", spec.function)
    for statement in sql.drop(table, function, spec.audit_table):
        cursor.execute(statement)
