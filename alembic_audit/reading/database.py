"""Trails as the database has them, without models: their values come as text."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import UserDefinedType

from alembic_audit.catalog.everything import read_everything
from alembic_audit.catalog.stopped import read_stopped
from alembic_audit.errors import ReadingError
from alembic_audit.reading.qualified import Text, TextArray, catalog
from alembic_audit.reading.trail import Trail, check_readable
from alembic_audit.spec import (
    CHANGED_COLUMNS,
    OMITTED_COLUMNS,
    OWN_COLUMNS,
    AuditSpec,
    hash_column,
)
from alembic_audit.states import AuditState, Name

_NUMBERS = ("audit_id", "audit_transaction_id")


class RawJson(str):
    """JSON, as the database wrote it."""

    __slots__ = ()


class Textual(UserDefinedType[Any]):
    """Any type of PostgreSQL, whose values go and come as text.

    Args:
        name: The type's name.
        as_json: Values come as RawJson.
    """

    cache_ok = True

    def __init__(self, name: str, as_json: bool = False) -> None:
        self.name = name
        self.as_json = as_json

    @property
    def is_of_catalog(self) -> bool:
        """Whether it is a type of pg_catalog, as the commands see it with their search_path."""
        return "." not in self.name

    def get_col_spec(self, **kw: Any) -> str:
        """Return the type's name."""
        return self.name

    def bind_expression(self, bindvalue: sa.BindParameter[Any]) -> sa.ColumnElement[Any]:
        """Let the database read the text."""
        return sa.cast(bindvalue, self)

    def column_expression(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """Let the database write the text."""
        return sa.type_coerce(
            sa.cast(catalog.to_jsonb(column) if self.as_json else column, Text()), self
        )

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Any:
        """Mark JSON."""
        if not self.as_json:
            return None
        return lambda value: value if value is None else RawJson(value)


def read_states(connection: sa.Connection) -> dict[Name, AuditState]:
    """Return what the database says of each trail, by audited table; of stopped ones too."""
    states = read_everything(connection).states
    audits = {audit_of(name, state) for name, state in states.items()}
    return {**read_stopped(connection, states, audits), **states}


def find(states: Mapping[Name, AuditState], name: str, default_schema: str) -> Name:
    """Return the audited table that a person means by ``account`` or ``public.account``.

    Raises:
        ReadingError: There is none, or there are several.
    """
    meant = [one for one in states if name in (one[1], ".".join(one))]
    preferred = [one for one in meant if one[0] == default_schema] if len(meant) > 1 else meant
    if len(preferred) == 1:
        return preferred[0]
    if meant:
        listed = ", ".join(".".join(one) for one in sorted(meant))
        raise ReadingError(f"{name!r} is one of {listed}; write which")
    known = sorted({text for one in states for text in (one[1], ".".join(one))})
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]!r}?" if close else "`alembic-audit status` lists those that are"
    raise ReadingError(f"{name!r} is not audited: {hint}")


def audit_of(name: Name, state: AuditState) -> Name:
    """Return the audit table of an audited table, resolved."""
    return (state.spec.audit_schema or name[0], state.spec.audit_table)


def make_trail(
    name: Name, state: AuditState, columns: Mapping[str, str], *, as_json: bool = False
) -> Trail:
    """Return a trail that reading takes in place of a Table.

    Args:
        name: The audited table, resolved.
        state: What ``read_states`` says of it.
        columns: The columns of the audit table: name to the name of the type.
        as_json: Values come as JSON, in place of text.

    Raises:
        ReadingError: It cannot be read: it has no order, no key, or no audit table.
    """
    spec = state.spec
    check_readable(".".join(name), spec)
    audit_name = audit_of(name, state)
    if missing := [one for one in OWN_COLUMNS["standard"] if one not in columns]:
        what = "has no " + ", ".join(missing) if columns else "is gone"
        raise ReadingError(f"the audit table {'.'.join(audit_name)} {what}")
    spec = _with_columns(spec, columns)
    types: dict[str, Any] = {
        column: sa.BigInteger() if column in _NUMBERS else Textual(kind, as_json)
        for column, kind in columns.items()
    }
    known = spec.audit_column_names
    metadata = sa.MetaData()
    audit = sa.Table(
        audit_name[1],
        metadata,
        *(
            sa.Column(column, TextArray if column == CHANGED_COLUMNS else types[column])
            for column in known
        ),
        schema=audit_name[0],
    )
    hashes = {column: hash_column(column) for column in spec.hash_columns}
    source = sa.Table(
        name[1],
        sa.MetaData(),
        *(sa.Column(column, types[hashes.get(column, column)]) for column in spec.stored),
        schema=name[0],
    )
    return Trail(source, audit, spec, None)


def _with_columns(spec: AuditSpec, columns: Mapping[str, str]) -> AuditSpec:
    """Return a spec without what its audit table does not have.

    Raises:
        ReadingError: That is the key, or everything.
    """
    gone = [
        *(one for one in spec.columns if one not in columns),
        *(one for one in spec.hash_columns if hash_column(one) not in columns),
    ]
    if set(spec.key) & set(gone) or not set(spec.stored) - set(gone):
        raise ReadingError(
            f"the audit table {spec.audit_table!r} has no {', '.join(gone)} any more, so that its "
            "records do not say which row they are of"
        )
    return dataclasses.replace(
        spec,
        columns=tuple(one for one in spec.columns if one not in gone),
        hash_columns=tuple(one for one in spec.hash_columns if one not in gone),
        session_settings=tuple(one for one in spec.session_settings if one.column in columns),
        as_text=tuple(pair for pair in spec.as_text if pair[0] not in gone),
        changed_columns=spec.changed_columns and CHANGED_COLUMNS in columns,
        sparse_columns=tuple(
            one for one in spec.sparse_columns if one not in gone and OMITTED_COLUMNS in columns
        ),
    )
