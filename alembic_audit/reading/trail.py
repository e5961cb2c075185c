"""The trail of one table, as reading needs it: its tables, its key, and what a record means."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Mapper
from sqlalchemy.sql.selectable import NamedFromClause
from sqlalchemy.types import TypeEngine

from alembic_audit.errors import ReadingError
from alembic_audit.reading.qualified import (
    TextArray,
    calculate,
    catalog,
    compare,
    has_operators,
    is_any,
    same_image,
    whole_row,
)
from alembic_audit.reading.types import ExactJson, names_where, reading_type
from alembic_audit.spec import OMITTED_COLUMNS, AuditSpec, hash_column
from alembic_audit.tables import SPEC_KEY, derive, derive_stopped


@dataclasses.dataclass(frozen=True)
class AuditId:
    """The moment at which a record was written, that record included."""

    value: int


@dataclasses.dataclass(frozen=True)
class TransactionId:
    """The moment after a transaction, by the order in which transactions got their numbers.

    Records of transactions with a greater number are left out, those of one with a lesser number
    that committed later are not: a trail does not know when a transaction ended.
    """

    value: int


When: TypeAlias = datetime | AuditId | TransactionId | sa.ColumnElement[datetime]


@dataclasses.dataclass(frozen=True)
class Trail:
    """The trail of one audited table.

    Attributes:
        table: The audited table.
        audit: Its audit table.
        spec: What is recorded.
        mapper: Of the mapped class that was asked for; None for a Table.
    """

    table: sa.Table
    audit: sa.Table
    spec: AuditSpec
    mapper: Mapper[Any] | None

    @property
    def recorded(self) -> dict[str, str]:
        """Names of source columns to those of the audit columns that hold them, or their hash."""
        hashed = {name: hash_column(name) for name in self.spec.hash_columns}
        return {
            column.name: hashed.get(column.name, column.name)
            for column in self.table.columns
            if column.name in self.spec.stored
        }

    def type_of(self, name: str) -> TypeEngine[Any]:
        """Return the type that gives a recorded column the values which its table has."""
        declared = next(column for column in self.table.columns if column.name == name)
        return reading_type(declared.type, self.audit.c[name].type)

    def key_of(self, records: NamedFromClause) -> list[sa.ColumnElement[Any]]:
        """Return the key columns of the audit table, or of an alias of it."""
        return [records.c[name] for name in self.spec.key]

    def key_values(self, key: Any) -> list[Any]:
        """Return the values of a key, in the order of the key columns.

        Args:
            key: A value, a tuple in the order of the primary key, or a mapping by column name or
                by attribute.

        Raises:
            ReadingError: It is no key of this table.
        """
        names = self.spec.key
        attributes = [self.attribute(name) for name in names]
        if isinstance(key, Mapping):
            values = [
                key.get(name, key.get(attribute))
                for name, attribute in zip(names, attributes, strict=True)
            ]
            strays = set(key) - set(names) - set(attributes)
        else:
            values = list(key) if isinstance(key, (tuple, list, sa.Row)) else [key]
            strays = set()
        if strays or len(values) != len(names) or any(value is None for value in values):
            wanted = f"({', '.join(names)})" if len(names) > 1 else names[0]
            raise ReadingError(f"{key!r} is no key of {self.table.fullname!r}; write {wanted}")
        return values

    def is_row(self, values: Iterable[Any], records: NamedFromClause) -> sa.ColumnElement[bool]:
        """Return the condition that a record is of the row with these key values."""
        return sa.and_(
            *(
                compare(records.c[name], "=", sa.literal(value, self.type_of(name)))
                for name, value in zip(self.spec.key, values, strict=True)
            )
        )

    def is_same_row(self, one: NamedFromClause, other: NamedFromClause) -> sa.ColumnElement[bool]:
        """Return the condition that two records have the same key; a TRUNCATE has none."""
        conditions = []
        for name in self.spec.key:
            conditions.append(compare(one.c[name], "=", other.c[name]))
            if not has_operators(one.c[name].type):
                conditions.append(one.c[name].is_not(None))
        return sa.and_(*conditions)

    def is_truncate(self, records: NamedFromClause) -> sa.ColumnElement[bool]:
        """Return the condition that a record is of a TRUNCATE; the index of the key finds it."""
        return sa.and_(
            *(column.is_(None) for column in self.key_of(records)),
            compare(records.c.audit_operation, "=", "T"),
        )

    def attribute(self, name: str) -> str:
        """Return what the mapped class calls a column of the table."""
        if self.mapper is not None:
            for mapper in self.mapper.base_mapper.self_and_descendants:
                for each in mapper.column_attrs:
                    if any(c.table is self.table and c.name == name for c in _columns_of(each)):
                        return each.key
        return name

    def value(self, records: NamedFromClause, name: str) -> sa.ColumnElement[Any]:
        """Return what a column of a record holds, or held when it was last stored.

        A sparse column that an UPDATE left alone is in the last record before which has it; the
        index of the key finds that one.

        Args:
            records: The audit table, or an alias of it.
            name: A column of the audit table.
        """
        column: sa.ColumnElement[Any] = records.c[name]
        if name not in self.spec.sparse_columns:
            return column
        stored = self._stored(records, name, lambda earlier: earlier.c[name])
        return sa.case((_is_omitted(records, name), stored), else_=column)

    def is_untold(self, records: NamedFromClause, name: str) -> sa.ColumnElement[bool]:
        """Return whether a record left a sparse column out, and no record before holds it."""
        found = self._stored(records, name, lambda earlier: sa.true())
        return sa.and_(_is_omitted(records, name), found.is_(None))

    def _stored(
        self,
        records: NamedFromClause,
        name: str,
        what: Callable[[NamedFromClause], sa.ColumnElement[Any]],
    ) -> sa.ScalarSelect[Any]:
        """Return something of the last record before which stores a sparse column of the row."""
        earlier, emptied = self.audit.alias(), self.audit.alias()
        # What is before the end of an earlier row of the same key is not of this row.
        return (
            sa.select(sa.case((compare(earlier.c.audit_operation, "<>", "D"), what(earlier))))
            .where(
                self.is_same_row(earlier, records),
                compare(earlier.c.audit_id, "<", records.c.audit_id),
                sa.or_(compare(earlier.c.audit_operation, "=", "D"), ~_is_omitted(earlier, name)),
                ~sa.select(sa.literal(1))
                .where(
                    self.is_truncate(emptied),
                    compare(emptied.c.audit_id, ">", earlier.c.audit_id),
                    compare(emptied.c.audit_id, "<", records.c.audit_id),
                )
                .correlate_except(emptied)
                .exists(),
            )
            .order_by(earlier.c.audit_id.desc())
            .limit(1)
            .correlate_except(earlier)
            .scalar_subquery()
        )

    def changed(
        self, new: NamedFromClause, old: NamedFromClause, condition: sa.ColumnElement[bool]
    ) -> sa.ColumnElement[list[str] | None]:
        """Return the names of the columns that differ between two records; NULL unless."""
        differing = {
            name: ~same_image(self.value(new, stored), self.value(old, stored))
            for name, stored in self.recorded.items()
        }
        return sa.case((condition, names_where(differing)))


def trail_of(source: Any) -> Trail:
    """Return the trail of a mapped class or a Table; a Trail is its own.

    Raises:
        ReadingError: It is neither, is not audited, has no key, or its records have no order.
    """
    if isinstance(source, Trail):
        return source
    table, mapper = _table_of(source)
    audit = derive(table)
    if audit is None:
        audit = derive_stopped(table)
    if audit is None:
        raise ReadingError(
            f"table {table.fullname!r} is not audited; mark it with @audited() or audit_table(). "
            "To read a trail that was stopped, write the options it had with 'enabled': False"
        )
    spec: AuditSpec = audit.info[SPEC_KEY]
    check_readable(table.fullname, spec)
    return Trail(table, audit, spec, mapper)


def check_readable(name: str, spec: AuditSpec) -> None:
    """See that the records of a trail have an order and say which row they are of.

    Raises:
        ReadingError: They do not.
    """
    if spec.audit_columns != "standard":
        raise ReadingError(
            f"the audit table of {name!r} has the layout 'classic', whose records have "
            "no order but their time; write 'audit_columns': 'standard', and the next migration "
            "numbers them"
        )
    if not spec.key:
        raise ReadingError(
            f"table {name!r} has no primary key, so that its records do not say which "
            "row they are of; give it one, or query its audit table"
        )


def until(records: NamedFromClause, when: When) -> sa.ColumnElement[bool]:
    """Return the condition that a record was there at a moment.

    Raises:
        ReadingError: It is no moment, or a time without a zone.
    """
    if isinstance(when, AuditId):
        return compare(records.c.audit_id, "<=", int(when.value))
    if isinstance(when, TransactionId):
        # Records that were taken over from another trail may have none; they are older.
        number = sa.func.coalesce(records.c.audit_transaction_id, 0)
        return compare(number, "<=", int(when.value))
    if isinstance(when, sa.ColumnElement):
        return compare(records.c.audit_operation_timestamp, "<=", when)
    if isinstance(when, datetime) and when.utcoffset() is not None:
        return compare(records.c.audit_operation_timestamp, "<=", when)
    if isinstance(when, datetime):
        raise ReadingError(f"{when!r} has no time zone; write one, as tzinfo=timezone.utc")
    raise ReadingError(
        f"{when!r} is no moment; write a datetime, AuditId(...) or TransactionId(...)"
    )


def _is_omitted(records: NamedFromClause, name: str) -> sa.ColumnElement[bool]:
    found = is_any(sa.literal(name, sa.Text), records.c[OMITTED_COLUMNS])
    return sa.func.coalesce(found, sa.false())


def dropped_values(records: NamedFromClause, known: Collection[str]) -> sa.ColumnElement[Any]:
    """Return what the columns of a record hold that the model does not know, as a JSON object."""
    whole = catalog.to_jsonb(whole_row(records))
    names = sa.cast(postgresql.array([sa.literal(name, sa.Text) for name in known]), TextArray)
    return sa.type_coerce(calculate(whole, "-", names), ExactJson())


def _table_of(source: Any) -> tuple[sa.Table, Mapper[Any] | None]:
    if isinstance(source, sa.Table):
        return source, None
    found = sa.inspect(source, raiseerr=False)
    if isinstance(found, Mapper) and isinstance(found.local_table, sa.Table):
        return found.local_table, found
    raise ReadingError(f"{source!r} is neither a mapped class nor a Table")


def _columns_of(attribute: Any) -> list[Any]:
    return [column for column in attribute.columns if isinstance(column, sa.Column)]
