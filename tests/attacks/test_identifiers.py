"""Attacks by names of tables, columns, keys, functions, triggers and schemas."""

import psycopg2
import pytest

from alembic_audit import sql
from alembic_audit.naming import quote
from alembic_audit.spec import AuditSpec
from tests.attacks.conftest import Lab

NAMES = (
    'x"; DROP TABLE canary; --',
    'x" (y int); DROP TABLE canary; --',
    "'; DROP TABLE canary; --",
    "$audit$; DROP TABLE canary; --",
    "$body$ || %s %I {} :x",
    "\\'; DROP TABLE canary; --",
    "*/ ; DROP TABLE canary; /*",
)


@pytest.mark.parametrize("name", NAMES)
def test_injection_through_every_identifier(lab: Lab, name: str) -> None:
    """A name is quoted wherever it stands: in statements, bodies, messages and literals."""
    source, audit, function, schema = (f"{letter}{name}" for letter in "tafs")
    spec = AuditSpec.from_kwargs(
        source,
        schema=schema,
        audit_table=audit,
        audit_schema=schema,
        function=function,
        trigger=f"0{name}",
        key=[f"k{name}"],
        columns=[f"k{name}", f"c{name}"],
        hash_columns=[f"h{name}"],
        session_settings={"who": "nullable"},
        setting_columns={"who": f"w{name}"},
        level="row",
        version=1,
    )
    own = (
        "audit_id bigint GENERATED ALWAYS AS IDENTITY, audit_operation varchar(1), "
        "audit_operation_timestamp timestamptz, audit_transaction_id bigint, "
        "audit_current_user varchar(64)"
    )
    columns = [(f"k{name}", "int"), (f"c{name}", "text"), (f"h{name}", "text")]
    kept = [(one, "text") for one in spec.audit_column_names if not one.startswith("audit_")]
    kinds = dict(columns) | {f"h{name}_sha256": "bytea"}
    lab.admin("CREATE TABLE canary ()", f"CREATE SCHEMA {quote(schema)}")
    table = f"{quote(schema)}.{quote(source)}"
    trail = f"{quote(schema)}.{quote(audit)}"
    lab.admin(
        f"CREATE TABLE {table} ({', '.join(f'{quote(n)} {kind}' for n, kind in columns)})",
        f"CREATE TABLE {trail} ({own}, "
        + ", ".join(f"{quote(n)} {kinds.get(n, kind)}" for n, kind in kept)
        + ")",
        *sql.create(spec, "public"),
        f"INSERT INTO {table} VALUES (1, 'a', 's')",
        sql.snapshot(spec, "public"),
        sql.snapshot_batch(spec, "public", size=1, after=[], settings={"who": name}),
        f"UPDATE {table} SET {quote(f'c{name}')} = 'b'",
        sql.snapshot_batch(spec, "public", size=1, after=[], settings={"who": name}),
        *sql.replace(spec, spec, "public"),
        *sql.drop_spec(spec, "public"),
    )
    assert [("I",), ("S",), ("U",)] == lab.admin(
        f"SELECT audit_operation FROM {trail} ORDER BY audit_id"
    )
    assert [] == lab.admin("SELECT FROM canary")


def test_name_that_is_not_quoted(lab: Lab) -> None:
    """The control: between quotes that are not doubled, the rest of a name is a statement."""
    lab.admin("CREATE TABLE canary ()", f'CREATE TABLE "{NAMES[1]}"')
    with pytest.raises(psycopg2.errors.UndefinedTable):
        lab.admin("SELECT FROM canary")
