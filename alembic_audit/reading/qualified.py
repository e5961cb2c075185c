"""SQL that PostgreSQL resolves without the search_path: functions, operators and types.

A function or an operator that somebody put into a schema of the reader's search_path may match
better than that of pg_catalog (manual, 10.2), and would run with the rights of the reader. Some
names need no schema, because the grammar of PostgreSQL resolves them in pg_catalog: COALESCE, CASE
WHEN, GREATEST, EXTRACT, ROW, types as VARCHAR and BIGINT, and unnest() with several arguments.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import TableValuedColumn
from sqlalchemy.sql.selectable import NamedFromClause
from sqlalchemy.sql.sqltypes import TableValueType

catalog = sa.func.pg_catalog
"""``catalog.max(...)`` in place of ``sa.func.max(...)``; its type has to be given."""

_PG = postgresql.dialect()  # type: ignore[no-untyped-call]
_BARE = {"BYTEA", "CIDR", "DATE", "INET", "JSON", "JSONB", "MACADDR", "MONEY", "OID", "TEXT"}
_BARE |= {"TSVECTOR", "UUID", "XML"}
"""Types of pg_catalog whose names are no keywords of the grammar."""

_OF_EXTENSIONS = (sa.types.UserDefinedType, postgresql.CITEXT, postgresql.HSTORE)


class Text(sa.Text):
    """The type text, whatever else is called so."""


@compiles(Text, "postgresql")
def _text(element: Text, compiler: Any, **kw: Any) -> str:
    return "pg_catalog.text"


class Named(sa.types.UserDefinedType[Any]):
    """A type by its qualified name.

    Args:
        name: The name, which becomes SQL as it is.
    """

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **kw: Any) -> str:
        """The name."""
        return self.name


TextArray = postgresql.ARRAY(Text())
Numbers = postgresql.ARRAY(sa.BigInteger())
_RECORD = Named("pg_catalog.record")


def plain_type(declared: Any) -> Any:
    """The type on PostgreSQL, without its decorators."""
    declared = declared._variant_mapping.get("postgresql", declared)
    if isinstance(declared, sa.types.TypeDecorator):
        return plain_type(declared.load_dialect_impl(_PG))
    return declared


def cast(value: Any, declared: Any) -> sa.ColumnElement[Any]:
    """A cast to a type, by the type of pg_catalog where that is meant."""
    plain = plain_type(declared)
    if isinstance(plain, (sa.types.UserDefinedType, sa.Enum, postgresql.DOMAIN)):
        return sa.cast(value, declared)
    name: str = _PG.type_compiler_instance.process(plain)
    if name.replace("[]", "") not in _BARE:
        return sa.cast(value, declared)
    return sa.type_coerce(sa.cast(value, Named(f"pg_catalog.{name.lower()}")), declared)


def has_operators(declared: Any) -> bool:
    """Whether pg_catalog holds the operators that compare values of a type.

    Those of enums, arrays and ranges are there, whatever their elements are.
    """
    plain = plain_type(declared)
    if isinstance(plain, postgresql.DOMAIN):
        return has_operators(plain.data_type)
    if getattr(plain, "is_of_catalog", False):
        return True
    return not isinstance(plain, _OF_EXTENSIONS)


def calculate(left: Any, operator: str, right: Any) -> sa.ColumnElement[Any]:
    """An operator of pg_catalog between two expressions."""
    made: sa.ColumnElement[Any] = left.op(f"OPERATOR(pg_catalog.{operator})")(right)
    return made


def compare(left: Any, operator: str, right: Any) -> sa.ColumnElement[bool]:
    """A comparison by an operator of pg_catalog.

    A type of an extension has its operators in a schema that is not known here. Its values are
    compared as records, by the default order of the type; no index helps, and NULL equals NULL.

    Args:
        left: A column, or another expression, whose type decides.
        operator: As ``=``.
        right: An expression, or a value.
    """
    if not has_operators(left.type):
        if not isinstance(right, sa.ClauseElement):
            right = sa.literal(right, left.type)
        if isinstance(right, sa.BindParameter):
            # By the name that the model gives to its type: the values of a record have types.
            right = sa.cast(right, left.type)
        left, right = as_record(left), as_record(right)
    made: sa.ColumnElement[bool] = left.op(f"OPERATOR(pg_catalog.{operator})", is_comparison=True)(
        right
    )
    return made


def as_record(value: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """A record of one value."""
    return sa.cast(sa.func.row(value), _RECORD)


def same_image(one: sa.ColumnElement[Any], other: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """Whether two values are stored alike; it exists for every type."""
    return as_record(one).op("OPERATOR(pg_catalog.*=)", is_comparison=True)(as_record(other))


def is_any(value: Any, array: Any) -> sa.ColumnElement[bool]:
    """Whether a value is in an array."""
    made: sa.ColumnElement[bool] = value.op("OPERATOR(pg_catalog.=)", is_comparison=True)(
        sa.any_(array)
    )
    return made


def greatest_of(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """The aggregate ``max``."""
    return catalog.max(column, type_=column.type)


class _WholeRow(TableValuedColumn[Any]):
    """``name.*``: a bare name would be a column that is called like the table."""

    inherit_cache = True


@compiles(_WholeRow)
def _whole_row(element: _WholeRow, compiler: Any, **kw: Any) -> str:
    return f"{compiler.visit_table_valued_column(element, **kw)}.*"


def whole_row(records: NamedFromClause) -> sa.ColumnElement[Any]:
    """A row of a table, an alias or a subquery, as the argument of a function."""
    return _WholeRow(records, TableValueType(*records.columns))
