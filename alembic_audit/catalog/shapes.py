"""Which audit tables are exactly what is declared, read by one statement.

Audit tables are derived, so nearly all of them are always equal to their declaration, and comparing
each by reflection is work for nothing. A *shape* is everything about a table that can be compared:
a line per column and per index, sorted. The server writes one of what there is, and `declared` one
of a Table; both know the plain case only. What is not plain (another type, a default, a comment on
a column, a constraint) has no shape, or one that equals no other, and has to be compared the long
way.
"""

import functools
import json
import re
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

from alembic_audit.catalog import queries
from alembic_audit.sql.text import COMMENT
from alembic_audit.states import Name

_TYPES = {
    "BIGINT": "bigint",
    "BOOLEAN": "boolean",
    "BYTEA": "bytea",
    "DATE": "date",
    "DOUBLE PRECISION": "double precision",
    "FLOAT": "double precision",
    "INTEGER": "integer",
    "INTERVAL": "interval",
    "JSON": "json",
    "JSONB": "jsonb",
    "NUMERIC": "numeric",
    "REAL": "real",
    "SMALLINT": "smallint",
    "TEXT": "text",
    "TIME WITHOUT TIME ZONE": "time without time zone",
    "TIMESTAMP WITH TIME ZONE": "timestamp with time zone",
    "TIMESTAMP WITHOUT TIME ZONE": "timestamp without time zone",
    "UUID": "uuid",
    "VARCHAR": "character varying",
}
"""SQLAlchemy's names of types, each with that of PostgreSQL's ``format_type``."""

_LENGTH = re.compile(r"VARCHAR\((\d+)\)")
_SCALE = re.compile(r"NUMERIC\((\d+), (\d+)\)")
_IDENTITY = "IDENTITY a 1 1 1 9223372036854775807 1 f"
_quoted = functools.lru_cache(maxsize=4096)(json.JSONEncoder(ensure_ascii=False).encode)


def equal(
    connection: sa.Connection, tables: Mapping[Name, sa.Table], default_schema: str
) -> set[Name]:
    """Return those of some audit tables that are in the database exactly as they are declared.

    Args:
        connection: Where to read.
        tables: The declared audit Tables, by resolved schema and name.
        default_schema: The first schema of the search_path.
    """
    kinds: dict[TypeEngine[Any], str | None] = {}
    wanted = {name: declared(table, connection.dialect, kinds) for name, table in tables.items()}
    names = sorted(name for name, shape in wanted.items() if shape is not None)
    rows = connection.execute(
        queries.SHAPES,
        {
            "schemas": [schema for schema, _ in names],
            "names": [name for _, name in names],
            "default_schema": default_schema,
            "comment": COMMENT,
        },
    )
    return {
        (schema, name)
        for schema, name, shape in rows
        if wanted[schema, name] == sorted(shape.split("\n"))
    }


def declared(
    table: sa.Table, dialect: Dialect, kinds: dict[TypeEngine[Any], str | None]
) -> list[str] | None:
    """Return the shape of a declared audit table; None where it is not plain.

    Args:
        table: The audit table.
        dialect: Of the connection.
        kinds: Types whose text is known, ours above all, which every audit table has; more are
            added.
    """
    if table.comment != COMMENT or any(one != table.primary_key for one in table.constraints):
        return None
    compiler: Any = dialect.type_compiler_instance
    columns = [_column(column, compiler, kinds) for column in table.columns]
    indexes = [_index(index) for index in table.indexes]
    if key := [_quoted(column.name) for column in table.primary_key.columns]:
        indexes.append(f"PRIMARY KEY {','.join(key)}")
    lines = [line for line in (*columns, *indexes) if line is not None]
    return sorted(lines) if len(lines) == len(columns) + len(indexes) else None


def _column(
    column: sa.Column[Any], compiler: Any, kinds: dict[TypeEngine[Any], str | None]
) -> str | None:
    if column.type not in kinds:
        kinds[column.type] = _type(column, compiler)
    kind = kinds[column.type]
    if kind is None or column.comment or column.system:
        return None
    line = f"{_quoted(column.name)} {kind}"
    if not column.nullable:
        line += " NOT NULL"
    identity = column.server_default
    if identity is not None:
        if not (isinstance(identity, sa.Identity) and _is_plain(identity) and kind == "bigint"):
            return None
        line += f" {_IDENTITY}"
    return line


def _type(column: sa.Column[Any], compiler: Any) -> str | None:
    """Return a type as ``format_type`` writes it; None where that is not known for sure."""
    try:
        text: str = compiler.process(column.type, type_expression=column)
    except sa.exc.CompileError:
        return None
    element = text.removesuffix("[]")
    if (known := _TYPES.get(element)) is None:
        if length := _LENGTH.fullmatch(element):
            known = f"character varying({length[1]})"
        elif scale := _SCALE.fullmatch(element):
            known = f"numeric({scale[1]},{scale[2]})"
        else:
            return None
    return known + text[len(element) :]


def _is_plain(identity: sa.Identity) -> bool:
    options = (
        identity.start,
        identity.increment,
        identity.minvalue,
        identity.maxvalue,
        identity.cycle,
        identity.cache,
        identity.nominvalue,
        identity.nomaxvalue,
    )
    return bool(identity.always) and all(option is None for option in options)


def _index(index: sa.Index) -> str | None:
    columns = [one for one in index.expressions if isinstance(one, sa.Column)]
    if index.unique or index.dialect_kwargs or len(columns) < len(index.expressions):
        return None
    return f"INDEX {_quoted(index.name)} {','.join(_quoted(column.name) for column in columns)}"
