"""Types of recorded values: what a trail stores, read as the model would have read it."""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeEngine

from alembic_audit.reading.qualified import Text, TextArray, catalog


def names_where(conditions: Mapping[str, sa.ColumnElement[bool]]) -> sa.ColumnElement[Any]:
    """Return the names of those conditions that hold, as an array in their order."""
    names = [
        sa.case((condition, sa.literal(name, sa.Text))) for name, condition in conditions.items()
    ]
    nothing = sa.cast(sa.null(), Text())
    return catalog.array_remove(
        sa.cast(postgresql.array(names), TextArray), nothing, type_=TextArray
    )


class PastLabel(sa.types.TypeDecorator[Any]):
    """The text of an enum as its member; a label that the enum does not have any more stays text.

    Args:
        declared: The Enum of the model.
    """

    impl = sa.Text
    cache_ok = True

    def __init__(self, declared: sa.Enum) -> None:
        super().__init__()
        self.labels = tuple(declared.enums)
        self.members = declared.enum_class

    def _pairs(self) -> list[tuple[str, Any]]:
        if self.members is None:
            return [(label, label) for label in self.labels]
        members: list[Any] = list(self.members)
        if len(members) != len(self.labels):  # omit_aliases=False
            members = list(self.members.__members__.values())
        return list(zip(self.labels, members, strict=True))

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        """Return the label of a member."""
        return next((label for label, member in self._pairs() if member is value), value)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        """Return the member with a label."""
        return dict(self._pairs()).get(value, value)


class ExactJson(sa.types.TypeDecorator[Any]):
    """JSON whose numbers keep their digits, where an engine's own reader makes floats of them."""

    impl = postgresql.JSONB
    cache_ok = True

    def column_expression(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """The text, which no driver reads as JSON."""
        return sa.type_coerce(sa.cast(column, Text()), self)

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Any:
        """Read the text."""
        return lambda text: None if text is None else json.loads(text, parse_float=Decimal)


class PastDecorated(sa.types.TypeDecorator[Any]):
    """What a decorator of a type makes of a value that is stored as another one.

    What it cannot read, as a label that an enum does not have any more, stays as it is stored.

    Args:
        types: The decorator in the model, and the type in the audit table. A tuple makes the cache
            of statements go by identity: the decorator need not be one that may be cached.
    """

    impl = sa.types.NullType
    cache_ok = True

    def __init__(self, types: tuple[sa.types.TypeDecorator[Any], TypeEngine[Any]]) -> None:
        super().__init__()
        self.types = types

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[Any]:
        """Return the type in the audit table."""
        return dialect.type_descriptor(self.types[1])

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        """Return what the decorator sends."""
        process = self.types[0].dialect_impl(dialect).bind_processor(dialect)
        return process(value) if process else value

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        """Return what the decorator reads."""
        process = self.types[0].dialect_impl(dialect).result_processor(dialect, None)
        try:
            return process(value) if process else value
        except LookupError:
            return value


def reading_type(declared: TypeEngine[Any], stored: TypeEngine[Any]) -> TypeEngine[Any]:
    """Return the type by which a stored value becomes what the model has.

    Args:
        declared: The type in the model.
        stored: The type in the audit table, which has no enums and no domains.
    """
    declared = declared._variant_mapping.get("postgresql", declared)
    if isinstance(declared, sa.types.TypeDecorator) and not isinstance(
        stored, sa.types.TypeDecorator
    ):
        return PastDecorated((declared, stored))
    if isinstance(declared, sa.Enum):
        return PastLabel(declared)
    if isinstance(declared, sa.ARRAY) and isinstance(stored, sa.ARRAY):
        item = reading_type(declared.item_type, stored.item_type)
        return postgresql.ARRAY(item, as_tuple=stored.as_tuple, dimensions=stored.dimensions)
    return stored
