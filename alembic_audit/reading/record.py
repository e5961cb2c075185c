"""audit_class: the records of a mapped class, as a mapped class."""

from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import ColumnProperty, InstrumentedAttribute, Mapped, column_property

from alembic_audit.errors import ReadingError
from alembic_audit.reading.trail import Trail, trail_of

CLASS_KEY = "audit.class"

if TYPE_CHECKING:

    class _Columns(type):
        # The columns of the audited class, by its attributes, and those of settings.
        def __getattr__(cls, name: str) -> InstrumentedAttribute[Any]: ...

else:
    _Columns = type


class AuditRecord(metaclass=_Columns):
    """One record of a trail; each audited class has a subclass of its own, see ``audit_class``.

    It is read-only: a session that would write one raises a ReadingError.
    """

    if TYPE_CHECKING:
        audit_id: Mapped[int]
        audit_operation: Mapped[str]
        audit_operation_timestamp: Mapped[datetime]
        audit_transaction_id: Mapped[int]
        audit_current_user: Mapped[str]

        def __getattr__(self, name: str) -> Any: ...

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.audit_id} {self.audit_operation}>"


def audit_class(source: type[Any]) -> type[AuditRecord]:
    """Return the class of the records of an audited class, mapped when it is first asked for.

    Its attributes are named as those of the audited class; the columns that the trail adds, and
    hashes, have their own names.

    Args:
        source: A mapped class that is audited.

    Returns:
        The same class each time, as long as the audited table stays as it is.

    Raises:
        ReadingError: The class is not mapped or not audited, or its trail cannot be read.
    """
    return class_of(trail_of(source), source)


def class_of(trail: Trail, source: Any) -> type[AuditRecord]:
    """Return the class of the records of a trail.

    Raises:
        ReadingError: The trail is that of a Table.
    """
    if trail.mapper is None:
        raise ReadingError(f"{source!r} is no mapped class; Tables have audit tables")
    kept: type[AuditRecord] | None = trail.audit.info.get(CLASS_KEY)
    if kept is not None:
        return kept
    base = trail.mapper.base_mapper if trail.mapper.single else trail.mapper
    made = type(f"{base.class_.__name__}Audit", (AuditRecord,), {"__module__": source.__module__})
    base.registry.map_imperatively(
        made,
        trail.audit,
        primary_key=[trail.audit.c.audit_id],
        properties=_properties(trail) | _carried(trail),
        exclude_properties=trail.spec.sparse_columns,
    )
    for name in ("before_insert", "before_update", "before_delete"):
        event.listen(made, name, _refuse)
    trail.audit.info[CLASS_KEY] = made
    return made


def _properties(trail: Trail) -> dict[str, sa.Column[Any]]:
    """Return the columns that the audited class calls otherwise than the table does."""
    renamed = {
        trail.attribute(name): trail.audit.c[stored]
        for name, stored in trail.recorded.items()
        if name == stored and name not in trail.spec.sparse_columns
    }
    taken = {column.name for column in trail.audit.columns} - set(trail.spec.columns)
    return {
        name: column
        for name, column in renamed.items()
        if name != column.name and name not in taken
    }


def _carried(trail: Trail) -> dict[str, ColumnProperty[Any]]:
    """Return the sparse columns, with the values that a record left out."""
    return {
        trail.attribute(name): column_property(trail.value(trail.audit, name))
        for name in trail.spec.sparse_columns
    }


def _refuse(mapper: Any, connection: Any, target: AuditRecord) -> NoReturn:
    raise ReadingError(f"{target!r} is history, which no session writes")
