"""Where our operations stand among Alembic's. Pure functions of their arguments.

Only our operations and the DropColumnOps of audited tables are moved; every other operation stays
where Alembic put it, so the reversal of the whole is valid as it stands.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import alembic  # noqa: F401  (first, or the order of imports decides whether this module loads)
from alembic.operations import ops
from alembic.operations.ops import MigrateOperation

from alembic_audit import sql
from alembic_audit.autogenerate.names import audit_of, place_of, source_of, table_of
from alembic_audit.autogenerate.protect import in_order
from alembic_audit.operations import (
    AddAuditColumnOp,
    AlterAuditColumnOp,
    CreateAuditIndexOp,
    CreateAuditTableOp,
    CreateAuditTriggerOp,
    DropAuditTriggerOp,
    LockAuditedTablesOp,
    LockOnDowngradeOp,
    NumberAuditTableOp,
    ReplaceAuditTriggerOp,
)
from alembic_audit.operations.history import MODES, Table
from alembic_audit.spec import AuditSpec
from alembic_audit.states import ORPHANED_FUNCTION, AuditState, Name

_SHARE, _EXCLUSIVE = range(len(MODES))
_CREATES_TRIGGER = re.compile("CREATE (CONSTRAINT )?TRIGGER ").match


def merge(
    theirs: Sequence[MigrateOperation], ours: Sequence[MigrateOperation], default_schema: str
) -> list[MigrateOperation]:
    """Return all operations in the order in which they can run.

    Drops of triggers come first. A trigger is created or replaced after the last operation that
    creates, adds or alters what it reads and writes, and before columns of its table are dropped. A
    new audit table comes just before its trigger, when its table and that one's types are there.

    Args:
        theirs: Alembic's operations, protected.
        ours: Our operations on triggers.
        default_schema: What a schema of None means.
    """
    drops = [op for op in ours if isinstance(op, DropAuditTriggerOp)]
    late = {id(op): _specs(op) for op in ours if not isinstance(op, DropAuditTriggerOp)}
    sources = {source_of(spec, default_schema) for specs in late.values() for spec in specs}
    audits = {audit_of(spec, default_schema) for specs in late.values() for spec in specs}
    rest: list[MigrateOperation] = []
    columns: dict[Name, list[MigrateOperation]] = {}
    tables: dict[Name, list[MigrateOperation]] = {}
    last: dict[Name, int] = {}
    for op in theirs:
        name = table_of(op, default_schema)
        if isinstance(op, CreateAuditTableOp | CreateAuditIndexOp) and name in audits:
            tables.setdefault(name, []).append(op)
            continue
        if isinstance(op, ops.ModifyTableOps) and name in sources:
            stays, dropped = _without_dropped_columns(op)
            columns.setdefault(name, []).extend(dropped)
            rest += [stays] if stays.ops else []
        else:
            rest.append(op)
        last[name] = len(rest)
    places: dict[int, list[MigrateOperation]] = {}
    newest = {source_of(specs[-1], default_schema): one for one, specs in late.items()}
    for op in ours:
        specs = late.get(id(op))
        if specs:
            source = source_of(specs[-1], default_schema)
            names = {source, *(audit_of(spec, default_schema) for spec in specs)}
            names |= {(source[0], partition) for partition in specs[-1].partitions}
            made = [one for name in sorted(names) for one in tables.pop(name, ())]
            place = max(last.get(name, 0) for name in names)
            gone = columns.pop(source, ()) if newest[source] == id(op) else ()
            places.setdefault(place, []).extend([*made, op, *gone])
    merged: list[MigrateOperation] = [*drops]
    for index in range(len(rest) + 1):
        merged += places.get(index, [])
        merged += rest[index : index + 1]
    return merged


def lock(
    operations: Sequence[MigrateOperation], found: Mapping[Name, AuditState], default_schema: str
) -> list[MigrateOperation]:
    """Return the operations with what locks their tables first, in either direction.

    Args:
        operations: All operations, in order.
        found: The trails there are, by audited table.
        default_schema: What a schema of None means.
    """
    begun = [op.state.spec for op in operations if isinstance(op, CreateAuditTriggerOp)]
    locks = _Locks(found, begun, default_schema)
    for op in operations:
        locks.add(op)
    up, down = locks.up(), locks.down()
    return [
        *([up] if up else []),
        *operations,
        *([LockOnDowngradeOp(down)] if down else []),
    ]


class _Locks:
    """The tables that a migration touches, with the level that each direction needs."""

    def __init__(
        self, found: Mapping[Name, AuditState], begun: Iterable[AuditSpec], default_schema: str
    ) -> None:
        self.default_schema = default_schema
        self.trails = {audit_of(state.spec, default_schema): state.spec for state in found.values()}
        self.sources = {*found, *(source_of(spec, default_schema) for spec in begun)}
        self.shown: dict[Name, Table] = {}
        self.levels: tuple[dict[Name, int], dict[Name, int]] = ({}, {})
        self.created = {
            name
            for name, state in found.items()
            if any(drift.kind == ORPHANED_FUNCTION for drift in state.drift)
        }
        self.dropped: set[Name] = set()
        self.left: set[Name] = set()
        self.referenced: set[Name] = set()
        self.referring: set[Name] = set()

    def add(self, op: MigrateOperation) -> None:
        """Take note of an operation."""
        if isinstance(op, ops.ModifyTableOps):
            for one in op.ops:
                self.add(one)
            return
        schema, table = place_of(op)
        name = table_of(op, self.default_schema)
        if isinstance(op, ops.CreateTableOp):
            self.created.add(name)
        elif isinstance(op, ops.DropTableOp):
            self.dropped.add(name)
        self._note_reference(op)
        if isinstance(op, CreateAuditTriggerOp):
            self._note(op.state.spec.schema, op.state.spec.table, _SHARE, _EXCLUSIVE)
            self._note_guarded(op.state.spec, _SHARE, _EXCLUSIVE)
        elif isinstance(op, DropAuditTriggerOp):
            # A function without a trigger may be without its table.
            if op.state is not None or any(_CREATES_TRIGGER(one) for one in op.restore):
                self._note(schema, table, _EXCLUSIVE, _SHARE)
            if op.state is not None and not op.state.audit_table_missing:
                self._note_guarded(op.state.spec, _EXCLUSIVE, _SHARE)
        elif isinstance(op, ReplaceAuditTriggerOp):
            self._replaced(op)
        elif isinstance(op, AddAuditColumnOp | AlterAuditColumnOp | NumberAuditTableOp):
            self._note(schema, table, _EXCLUSIVE, _EXCLUSIVE)
            self._note_source(name)
        elif isinstance(op, ops.CreateIndexOp | ops.DropIndexOp) and name in self.trails:
            created = isinstance(op, ops.CreateIndexOp)
            levels = (_SHARE, _EXCLUSIVE) if created else (_EXCLUSIVE, _SHARE)
            self._note(schema, table, *levels)
            self._note_source(name)
        elif name in self.sources and not isinstance(op, ops.CreateTableOp):
            self._note(schema, table, _EXCLUSIVE, _EXCLUSIVE)

    def _note_reference(self, op: MigrateOperation) -> None:
        """Take note of the audited tables that foreign keys refer to: they are locked together.

        One alone needs no lock beforehand, since it is one table. A table that goes takes those
        that it refers to with it, so it needs one too, though it was made in this migration.
        """
        key = op._reverse if isinstance(op, ops.DropConstraintOp) else op
        referents: list[Table] = []
        if isinstance(key, ops.CreateForeignKeyOp):
            referents = [_table(key.kw.get("referent_schema"), key.referent_table)]
        elif isinstance(op, ops.CreateTableOp | ops.DropTableOp):
            keys = op.to_table().foreign_key_constraints
            tables = [one.referred_table for one in keys]
            referents = [_table(one.schema, one.name) for one in tables]
        for shown in referents:
            name = (self.default_schema, shown) if isinstance(shown, str) else shown
            own = table_of(op, self.default_schema)
            if name in self.sources and name != own:
                self.referenced.add(name)
                self.shown[name] = shown
                if own in self.sources and name not in self.created:
                    self.referring.add(own)

    def _note_guarded(self, spec: AuditSpec, up: int, down: int) -> None:
        """Take note that a trigger on the audit table comes or goes, where it has one."""
        if spec.append_only:
            self._note(spec.audit_schema, spec.audit_table, up, down)

    def _note_source(self, audit: Name) -> None:
        if spec := self.trails.get(audit):
            self._note(spec.schema, spec.table, _SHARE, _SHARE)

    def _replaced(self, op: ReplaceAuditTriggerOp) -> None:
        old, new = op.old.spec, op.new.spec
        moves = (old.audit_schema, old.audit_table) != (new.audit_schema, new.audit_table)
        renames = any(one not in old.session_settings for one in new.session_settings) and {
            one.name for one in old.session_settings
        } & {one.name for one in new.session_settings}
        if moves or renames or not sql.same_triggers(old, new, (*op.old.found, *op.new.found)):
            self._note(new.schema, new.table, _EXCLUSIVE, _EXCLUSIVE)
            if not moves and not op.old.audit_table_missing:
                self._note_guarded(old if old.append_only else new, _EXCLUSIVE, _EXCLUSIVE)
        if moves:
            self.left.add(audit_of(old, self.default_schema))
            self._note(old.audit_schema, old.audit_table, _EXCLUSIVE, None)
            self._note(new.audit_schema, new.audit_table, None, _EXCLUSIVE)

    def _note(self, schema: str | None, table: str, up: int | None, down: int | None) -> None:
        name = (schema or self.default_schema, table)
        self.shown[name] = (schema, table) if schema else table
        for levels, level in zip(self.levels, (up, down), strict=True):
            if level is not None:
                levels[name] = max(level, levels.get(name, 0))

    def up(self) -> LockAuditedTablesOp | None:
        """Return the lock at the beginning of the upgrade."""
        return self._lock(self.levels[0], self.created)

    def down(self) -> LockAuditedTablesOp | None:
        """Return the lock at the beginning of the downgrade."""
        created = self.created - self.referring
        return self._lock(self.levels[1], self.dropped | created | self.left)

    def _lock(
        self, levels: Mapping[Name, int], absent: Iterable[Name]
    ) -> LockAuditedTablesOp | None:
        touched = set(levels) - set(absent)
        referenced = self.referenced - set(absent)
        if not touched and len(referenced) < 2:
            return None
        # A foreign key that goes takes both tables ACCESS EXCLUSIVE.
        level = max([_EXCLUSIVE if referenced else _SHARE, *(levels[name] for name in touched)])
        mode, names = MODES[level], sorted(touched | referenced)
        return LockAuditedTablesOp([self.shown[name] for name in names], mode=mode)


def _table(schema: str | None, name: str) -> Table:
    return (schema, name) if schema else name


def _specs(op: MigrateOperation) -> list[AuditSpec]:
    """Return the specs that an operation of ours knows, the new one last."""
    if isinstance(op, CreateAuditTriggerOp):
        return [op.state.spec]
    assert isinstance(op, ReplaceAuditTriggerOp)
    return [op.old.spec, op.new.spec]


def _without_dropped_columns(
    op: ops.ModifyTableOps,
) -> tuple[ops.ModifyTableOps, list[MigrateOperation]]:
    """Return a container without its DropColumnOps, and those in another."""
    columns = [one for one in in_order(op.ops) if isinstance(one, ops.DropColumnOp)]
    if not columns:
        return op, []
    others = [one for one in op.ops if one not in columns]
    return (
        ops.ModifyTableOps(op.table_name, others, schema=op.schema),
        [ops.ModifyTableOps(op.table_name, columns, schema=op.schema)],
    )
