"""Trails and records, as the commands that read take them."""

import dataclasses
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from alembic_audit.catalog.columns import read_columns
from alembic_audit.catalog.trust import lock_trusted
from alembic_audit.cli.errors import CliError
from alembic_audit.cli.output import Replaced
from alembic_audit.cli.text import escaped
from alembic_audit.errors import ReadingError
from alembic_audit.reading import database
from alembic_audit.reading.trail import Trail
from alembic_audit.states import AuditState, Name

DID = {"I": "inserted", "U": "updated", "D": "deleted", "T": "truncated", "S": "snapshot"}
_BATCH = 500


@dataclasses.dataclass(frozen=True)
class Trails:
    """The trails of a database."""

    connection: sa.Connection
    states: dict[Name, AuditState]
    columns: dict[Name, dict[str, str]]
    as_json: bool
    trusted: Sequence[str]
    refusals: dict[Name, str | None] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, connection: sa.Connection, arguments: Namespace) -> "Trails":
        """Look which trails there are."""
        states = database.read_states(connection)
        audits = [database.audit_of(name, state) for name, state in states.items()]
        columns = read_columns(connection, audits)
        return cls(connection, states, columns, arguments.json, arguments.trust_owner)

    def lock(self, names: Iterable[Name]) -> None:
        """Lock the audit tables of trails, and find out which of them must not be read.

        Args:
            names: The trails. It is to be called again in each transaction.
        """
        audits = {name: database.audit_of(name, self.states[name]) for name in names}
        refused = lock_trusted(self.connection, audits.values(), self.trusted)
        self.refusals.update((name, refused.get(audit)) for name, audit in audits.items())

    def name_of(self, text: str) -> Name:
        """Return the table that a person means.

        Raises:
            ReadingError: There is none.
        """
        default_schema = self.connection.dialect.default_schema_name or "public"
        return database.find(self.states, text, default_schema)

    def of(self, name: Name) -> Trail:
        """Return a trail.

        Raises:
            ReadingError: It cannot be read, or must not.
        """
        state = self.states[name]
        made = self._made(name, state)
        if name not in self.refusals:
            self.lock([name])
        if reason := self.refusals[name]:
            raise ReadingError(reason)
        return made

    def _made(self, name: Name, state: AuditState) -> Trail:
        columns = self.columns.get(database.audit_of(name, state), {})
        return database.make_trail(name, state, columns, as_json=self.as_json)

    def rows(self, statement: Any) -> Iterator[dict[str, Any]]:
        """Return the rows of a statement as they come."""
        # For this statement alone: a connection keeps what execution_options() gives it.
        for row in self.connection.execute(statement, execution_options={"yield_per": _BATCH}):
            yield dict(row._mapping)

    def some(
        self, name: Name, statement: Any, *, is_named: bool = False
    ) -> list[dict[str, Any]] | None:
        """Return rows of one of several trails.

        One that cannot be read is said, and left out, unless it is named: None.
        """
        try:
            with self.connection.begin_nested():
                return [dict(row._mapping) for row in self.connection.execute(statement)]
        except sa.exc.DBAPIError as error:
            if is_named or error.connection_invalidated:
                raise
            leave_out(name, reason(error))
            return None


@dataclasses.dataclass(frozen=True)
class Record:
    """One record of a trail, with the one before.

    Attributes:
        trail: Whose it is.
        row: A row of ``history`` or ``changes``.
    """

    trail: Trail
    row: Mapping[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """The session settings, by name."""
        return {each.name: self.row[each.column] for each in self.trail.spec.session_settings}

    @property
    def values(self) -> dict[str, Any]:
        """What was recorded of the row, hashes under the names of their columns."""
        return {stored: self.row[stored] for stored in self.trail.recorded.values()}

    @property
    def before(self) -> dict[str, Any] | None:
        """What the record before says; None where there was no row."""
        if self.row["audit_before_audit_id"] is None:
            return None
        return {
            stored: self.row[f"audit_before_{stored}"] for stored in self.trail.recorded.values()
        }

    @property
    def changed(self) -> list[str] | None:
        """The columns that an UPDATE changed; hashes under the names of their columns."""
        names = self.row[_named(self.row, "audit_changed")]
        recorded = self.trail.recorded
        return None if names is None else [recorded.get(name, name) for name in names]

    @property
    def dropped(self) -> dict[str, Any]:
        """Values of columns that are not recorded any more."""
        found = self.row[_named(self.row, "audit_dropped")] or {}
        return {name: value for name, value in found.items() if value is not None}

    def difference(self) -> Replaced:
        """Return what this record says that the one before did not."""
        values, before = self.values, self.before or {}
        if self.row["audit_operation"] == "T":
            return Replaced({}, {})
        if self.changed is not None:
            changed = self.changed
            return Replaced(
                {name: before[name] for name in changed if name in before},
                {name: values[name] for name in changed if name in values},
            )
        return Replaced({}, {name: value for name, value in values.items() if value is not None})

    def cells(self) -> dict[str, Any]:
        """Return the cells for people."""
        row = self.row
        return {
            "#": row["audit_id"],
            "when": row["audit_operation_timestamp"],
            "tx": row["audit_transaction_id"],
            "role": row["audit_current_user"],
            **{f"audit.{name}": value for name, value in self.settings.items()},
            "did": DID.get(plain(row["audit_operation"]), row["audit_operation"]),
            "what": self.difference(),
        }

    def flat(self) -> dict[str, Any]:
        """Return the fields of CSV."""
        own = {name: self.row[name] for name in self.trail.spec.audit_column_names}
        return {**own, "audit_changed": self.changed}

    def nested(self) -> dict[str, Any]:
        """Return the object of JSON."""
        row = self.row
        return {
            "table": ".".join((self.trail.table.schema or "", self.trail.table.name)),
            "audit_id": row["audit_id"],
            "operation": row["audit_operation"],
            "timestamp": row["audit_operation_timestamp"],
            "transaction_id": row["audit_transaction_id"],
            "current_user": row["audit_current_user"],
            "settings": self.settings,
            "row": self.values,
            "before": self.before,
            "changed": self.changed,
            "dropped": self.dropped,
        }


def key_of(trail: Trail, given: Sequence[str]) -> Sequence[str]:
    """Return the values of a key.

    Raises:
        CliError: There are too many or too few.
    """
    if len(given) != len(trail.spec.key):
        wanted = " ".join(name.upper() for name in trail.spec.key)
        raise CliError(
            escaped(
                f"the key of {trail.table.fullname} is ({', '.join(trail.spec.key)}); write "
                f"{wanted}"
            )
        )
    return given


def is_nothing(trail: Trail, key: Sequence[str]) -> str:
    """Return what is said where there is no record of a key."""
    pairs = ", ".join(f"{name} = {value}" for name, value in zip(trail.spec.key, key, strict=True))
    return f"nothing is recorded of {trail.table.fullname} with {pairs}"


def leave_out(name: Name, why: str) -> None:
    """Say that a trail is left out."""
    print(escaped(f"{'.'.join(name)} is left out: {why}"), file=sys.stderr)


def reason(error: sa.exc.DBAPIError) -> str:
    """Return the first line of what the database said."""
    return str(error.orig).strip().partition("\n")[0]


def plain(value: str) -> str:
    """Return the text in a JSON string, or text as it is."""
    return value.strip('"')


def _named(row: Mapping[str, Any], name: str) -> str:
    """Return a label that got ``_`` after it while it was taken."""
    while f"{name}_" in row:
        name += "_"
    return name


def readable(trails: Trails, names: Sequence[str]) -> Iterator[tuple[Name, Trail]]:
    """Return the trails with these names; all that can be read without names.

    Raises:
        ReadingError: One that is named cannot be read.
    """
    wanted = [trails.name_of(text) for text in names] or sorted(trails.states)
    trails.lock(wanted)
    for name in wanted:
        try:
            yield name, trails.of(name)
        except ReadingError as error:
            if names:
                raise
            leave_out(name, str(error))
