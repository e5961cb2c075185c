"""Types of audit columns as the database knows them, without types of the application."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import NullType, TypeDecorator, TypeEngine, UserDefinedType

from alembic_audit import retype

_PG = postgresql.dialect()  # type: ignore[no-untyped-call]


class DatabaseType(UserDefinedType[Any]):
    """A type by its name in the database, ``DatabaseType("vector(3)")`` for one.

    Migrations use it for audit columns of types that SQLAlchemy has no class for.

    Args:
        name: The type as SQL.
    """

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **kw: Any) -> str:
        """The type as SQL."""
        return self.name


def database_type(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    """The same type without classes of an application: one of SQLAlchemy, or a `DatabaseType`."""
    kind = kind._variant_mapping.get("postgresql", kind)
    if isinstance(kind, TypeDecorator) and type(kind) is not sa.Interval:
        return database_type(kind.load_dialect_impl(_PG))
    if isinstance(kind, NullType):
        return kind
    if isinstance(kind, sa.ARRAY):
        item = database_type(kind.item_type)
        if item is kind.item_type and _is_public(type(kind)) and not kind._variant_mapping:
            return kind
        return postgresql.ARRAY(item, as_tuple=kind.as_tuple, dimensions=kind.dimensions)
    base: Any = next((one for one in type(kind).__mro__ if _is_public(one)), None)
    if base is type(kind) and not kind._variant_mapping:
        return kind
    try:
        spelled = retype.text(kind)
    except sa.exc.CompileError:
        return kind
    if base is not None:
        plain: TypeEngine[Any] = kind.adapt(base)
        plain._variant_mapping = sa.util.immutabledict()
        if retype.text(plain) == spelled:
            return plain
    return DatabaseType(spelled)


def with_database_type(column: sa.Column[Any]) -> sa.Column[Any]:
    """A copy of a column of an audit table, with the type as the database knows it."""
    copied = column._copy()
    copied.type = database_type(column.type)
    return copied


def _is_public(kind: type[Any]) -> bool:
    """Whether a migration can name a class by ``sa.`` or ``postgresql.``."""
    is_type = issubclass(kind, TypeEngine) and kind is not TypeEngine
    return is_type and any(vars(one).get(kind.__name__) is kind for one in (sa, postgresql))
