"""What the database holds, as values."""

import dataclasses
from collections.abc import Sequence

from alembic_audit.levels import ForeignKey
from alembic_audit.spec import AuditSpec

BODY_EDITED = "body edited"
HEADER_MISSING = "header missing"
SECURITY_DEFINER_LOST = "SECURITY DEFINER lost"
SET_CLAUSE = "SET clause"
EXECUTE_GRANTED = "EXECUTE granted"
OWNER_CHANGED = "owner changed"
ORPHANED_FUNCTION = "orphaned function"
TRIGGER_MISSING = "trigger missing"
TRIGGER_DISABLED = "trigger disabled"
DISABLED_ON_PARTITION = "trigger disabled on a partition"
ENABLE_ALWAYS_LOST = "ENABLE ALWAYS lost"
TRIGGER_RETIMED = "trigger retimed"
TRIGGER_ELSEWHERE = "trigger on another table"
SECOND_TRIGGER = "second trigger"
AUDIT_TABLE_MISSING = "audit table missing"
AUDIT_COLUMN_MISSING = "audit column missing"
COLUMN_MISSING = "column missing"
SEQUENCE_CACHE = "sequence CACHE"
STOPPED = "trail stopped"

Name = tuple[str, str]
"""Schema and name, resolved."""


@dataclasses.dataclass(frozen=True)
class Drift:
    """One way in which the database differs from what the header of a function says."""

    kind: str
    detail: str


@dataclasses.dataclass(frozen=True)
class AuditState:
    """An audit trigger as it is.

    Attributes:
        spec: What was meant.
        found: Statements that make, of what the spec gives, what is there; none without drift.
        audit_table_missing: There is no audit table.
        drift: What is other than meant, for people.
        owners: Statements that give function and audit table the owners they have.
        restore: Statements that make what is there, where the spec's own cannot run.
    """

    spec: AuditSpec
    found: tuple[str, ...] = ()
    audit_table_missing: bool = False
    drift: tuple[Drift, ...] = dataclasses.field(default=(), compare=False)
    owners: tuple[str, ...] = dataclasses.field(default=(), compare=False)
    restore: tuple[str, ...] = dataclasses.field(default=(), compare=False)


@dataclasses.dataclass(frozen=True)
class Stray:
    """A function of ours, with its triggers, that is part of no trail.

    Attributes:
        table: The table that its first trigger is on.
        function: The function.
        audit_table: The audit table that its header names; None without a header.
        restore: Statements that make function and triggers as they are.
    """

    table: Name
    function: Name
    audit_table: str | None
    restore: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Catalog:
    """What was read.

    Attributes:
        states: By resolved schema and name of the audited table.
        strays: What is ours and part of no trail.
        newer: Functions that a newer version of this package wrote, with the reason.
        foreign: Triggers of others on declared tables.
        unfit: Declared tables where statement triggers would not see each row, with the reason.
        foreign_keys: Those of the tables of ``states`` and of declared tables, if they do anything
            to rows.
    """

    states: dict[Name, AuditState]
    strays: list[Stray]
    newer: dict[str, str]
    foreign: list["ForeignTrigger"]
    unfit: dict[Name, str]
    foreign_keys: dict[Name, Sequence[ForeignKey]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ForeignTrigger:
    """Somebody else's trigger on a declared table.

    Attributes:
        table: The table it is on.
        name: The trigger.
        function: The function that it calls.
        inserts_into: The tables that its function names after INSERT or MERGE INTO, with the
            schema where it is written.
        changes: The tables that its function names after UPDATE or DELETE FROM.
        after_row: It is an AFTER ROW trigger.
        before_row: It is a BEFORE ROW trigger.
    """

    table: Name
    name: str
    function: Name
    inserts_into: tuple[tuple[str | None, str], ...]
    changes: tuple[tuple[str | None, str], ...]
    after_row: bool
    before_row: bool

    @property
    def writes_its_table(self) -> bool:
        """Whether the function names the trigger's own table after INSERT, UPDATE or DELETE."""
        own = {self.table, (None, self.table[1])}
        return bool(own & {*self.inserts_into, *self.changes})
