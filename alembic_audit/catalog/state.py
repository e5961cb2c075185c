"""One trail: its spec beside its rows in the catalogs, and how they differ."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from alembic_audit import sql, states
from alembic_audit.naming import qualify, quote
from alembic_audit.spec import AuditSpec
from alembic_audit.sql import privileges, text
from alembic_audit.states import AuditState, Drift, Name

# pg_trigger.h: ROW 1, BEFORE 2, INSERT 4, DELETE 8, UPDATE 16, TRUNCATE 32, INSTEAD 64; AFTER is
# neither of BEFORE and INSTEAD.
_EVENT_BITS = {"insert": 4, "delete": 8, "update": 16, "truncate": 32}
_BEFORE_TRUNCATE = 34
_ROW_BIT = 1
_STATES = {"O": "ENABLE", "D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}


class Trigger(NamedTuple):
    """A row of ``queries.TRIGGERS``; there are many of them, and they are asked often."""

    oid: int
    tgname: str
    nspname: str
    relname: str
    tgfoid: int
    tgtype: int
    tgenabled: str
    parent: int
    plain: bool
    tgoldtable: str | None
    tgnewtable: str | None
    conditional: bool
    foreign_source: str | None
    function_schema: str
    proname: str


def table_of(spec: AuditSpec | None, triggers: Sequence[Trigger], default_schema: str) -> Name:
    """Return the audited table: the one that a function's first trigger is on, or its spec's."""
    for row in triggers:
        if not row.parent and row.tgtype not in text.GUARD_TYPES.values():
            return (row.nspname, row.relname)
    assert spec is not None  # without a header a trigger is what made it a stray
    return (text.schemas(spec, default_schema)[0], spec.table)


Definitions = Callable[[Trigger], str]
"""Returns the statement that makes a trigger."""


def restore(
    row: sa.Row[Any], triggers: Sequence[Trigger], definitions: Definitions
) -> tuple[str, ...]:
    """Return statements that make a function and its triggers as they are."""
    name = qualify(row.nspname, row.proname)
    made = [
        sql.restore_function(
            name, row.prosrc, definer=row.prosecdef, settings=row.proconfig or (), new=True
        )
    ]
    if not row.default_privileges:
        made.append(privileges.revoke_function(name))
    for trigger in sorted(triggers, key=lambda row: bool(row.parent)):
        if not trigger.parent:
            made.append(text.printable(_definition(definitions(trigger), name)))
        if trigger.tgenabled != "O":
            made.append(_set_state(trigger))
    if row.owner != row.me:
        made.append(f"ALTER FUNCTION {name}() OWNER TO {quote(row.owner)}")
    if not row.default_privileges:
        made += [f"GRANT EXECUTE ON FUNCTION {name}() TO {grantee}" for grantee in row.grantees]
    return tuple(made)


def _set_state(row: Trigger) -> str:
    # ONLY: every partition has a state of its own.
    table = qualify(row.nspname, row.relname)
    return f"ALTER TABLE ONLY {table} {_STATES[row.tgenabled]} TRIGGER {quote(row.tgname)}"


@dataclasses.dataclass(frozen=True)
class Triggers:
    """The triggers of all trails, gone through only where one is other than meant."""

    specs: Sequence[AuditSpec]
    rows: Sequence[Trigger]
    default_schema: str

    @functools.cached_property
    def wanted(self) -> set[tuple[str, str, str]]:
        """Those that the specs give, by schema, table and name."""
        return {name for spec in self.specs for name in wanted_triggers(spec, self.default_schema)}

    @functools.cached_property
    def there(self) -> set[tuple[str, str, str]]:
        """Those that call a function of ours, whichever."""
        return {
            trigger_name(row) for row in self.rows if row.foreign_source is None and not row.parent
        }


def trigger_name(row: Trigger) -> tuple[str, str, str]:
    """Return schema, table and name of a trigger."""
    return (row.nspname, row.relname, row.tgname)


class Shape(NamedTuple):
    """When a trigger fires, and what it sees.

    Attributes:
        type: ``pg_trigger.tgtype``.
        old_table: The name of its transition table of rows before.
        new_table: The name of its transition table of rows after.
    """

    type: int
    old_table: str | None = None
    new_table: str | None = None


def wanted_triggers(spec: AuditSpec, default_schema: str) -> dict[tuple[str, str, str], Shape]:
    """Return the triggers of a spec with their shapes."""
    source, audit = text.schemas(spec, default_schema)
    wanted = {
        (source, spec.table, name): _shape(spec, kind) for kind, name in spec.trigger_names.items()
    }
    wanted |= {
        (audit, spec.audit_table, name): Shape(text.GUARD_TYPES[level])
        for level, name in spec.guard_triggers.items()
    }
    return wanted | {
        (source, partition, spec.truncate_trigger): Shape(_BEFORE_TRUNCATE)
        for partition in spec.partitions
    }


class State:
    """One trail, on the way from rows to an AuditState."""

    def __init__(
        self,
        spec: AuditSpec,
        row: sa.Row[Any],
        header: AuditSpec | None,
        triggers: Sequence[Trigger],
        relations: Mapping[Name, sa.Row[Any]],
        others: Triggers,
        default_schema: str,
        definitions: Definitions,
    ) -> None:
        source, audit = text.schemas(spec, default_schema)
        self.definitions = definitions
        self.others = others
        self.row = row
        self.triggers = triggers
        self.default_schema = default_schema
        self.name = qualify(row.nspname, row.proname)
        self.source_name = (source, spec.table)
        self.audit_name = (audit, spec.audit_table)
        self.orphaned = self.source_name not in relations
        self.audit = relations.get(self.audit_name)
        self.missing = _missing(spec.audit_column_names, self.audit)
        self.gone = _missing(spec.stored, relations.get(self.source_name))
        self.incomplete = self.missing or self.gone
        # A downgrade checks the columns of what it makes; the body brings the others back.
        self.spec = spec.without(self.gone) if self.gone and not self.orphaned else spec
        self.headless = header is None
        self.displaced = header is not None and header.function != row.proname
        self.drift: list[Drift] = []
        self.found: list[str] = []

    def read(self) -> AuditState:
        """Return the state."""
        self._compare_function()
        self._compare_owners()
        self._compare_grants()
        self._compare_audit_table()
        if self.orphaned:
            table = qualify(*self.source_name)
            self._drifted(
                states.ORPHANED_FUNCTION, f"{self.name} is there, and table {table} is not"
            )
        self._compare_triggers()
        return AuditState(
            self.spec,
            tuple(map(text.printable, self.found)),
            self.audit is None,
            tuple(self.drift),
            self._owners(),
            restore(self.row, self.triggers, self.definitions)
            if self.incomplete or self.displaced
            else (),
        )

    def _drifted(self, kind: str, detail: str, *found: str) -> None:
        self.drift.append(Drift(kind, detail))
        self.found += found

    def _compare_function(self) -> None:
        row, name = self.row, self.name
        meant = sql.body(self.spec, self.default_schema)
        if self.headless:
            self._drifted(states.HEADER_MISSING, f"function {name} lost its first line")
        if row.prosrc != meant:
            what = "in comments and white space" if _same_code(row.prosrc, meant) else "in code"
            self._drifted(states.BODY_EDITED, f"the body of {name} was edited, {what}")
        if not row.prosecdef:
            self._drifted(states.SECURITY_DEFINER_LOST, f"function {name} is SECURITY INVOKER")
        there, wanted = set(row.proconfig or ()), set(sql.settings(self.spec))
        for verb, entries in (("has", there - wanted), ("lost", wanted - there)):
            if entries:
                self._drifted(
                    states.SET_CLAUSE, f"function {name} {verb} SET {', '.join(sorted(entries))}"
                )
        if self.drift:
            self.found.append(
                sql.restore_function(
                    name, row.prosrc, definer=row.prosecdef, settings=row.proconfig or ()
                )
            )
            if self.spec.owner is None and row.owner != row.me:
                # What a downgrade brings back runs as who wrote it, not as who runs the downgrade.
                self.found.append(f"ALTER FUNCTION {name}() OWNER TO {quote(row.owner)}")

    def _compare_grants(self) -> None:
        for grantee in self.row.grantees:
            self._drifted(
                states.EXECUTE_GRANTED,
                f"{grantee} may execute {self.name}",
                f"GRANT EXECUTE ON FUNCTION {self.name}() TO {grantee}",
            )

    def _compare_owners(self) -> None:
        wanted = self.spec.owner
        if wanted is None:
            return
        audit = qualify(*self.audit_name)
        if self.row.owner != wanted:
            self._drifted(
                states.OWNER_CHANGED,
                f"function {self.name} belongs to {self.row.owner}, not to {wanted}",
                f"ALTER FUNCTION {self.name}() OWNER TO {quote(self.row.owner)}",
            )
        if self.audit is not None and self.audit.owner != wanted:
            self._drifted(
                states.OWNER_CHANGED,
                f"audit table {audit} belongs to {self.audit.owner}, not to {wanted}",
                f"ALTER TABLE {audit} OWNER TO {quote(self.audit.owner)}",
            )

    def _owners(self) -> tuple[str, ...]:
        made = [f"ALTER FUNCTION {self.name}() OWNER TO {quote(self.row.owner)}"]
        if self.audit is not None:
            audit = qualify(*self.audit_name)
            made.append(f"ALTER TABLE {audit} OWNER TO {quote(self.audit.owner)}")
        return tuple(made)

    def _compare_audit_table(self) -> None:
        name = qualify(*self.audit_name)
        for column in self.gone if not self.orphaned else ():
            table = qualify(*self.source_name)
            self._drifted(states.COLUMN_MISSING, f"column {quote(column)} of {table} is gone")
        if self.audit is None:
            self._drifted(states.AUDIT_TABLE_MISSING, f"audit table {name} is gone")
            return
        for column in self.missing:
            self._drifted(
                states.AUDIT_COLUMN_MISSING, f"column {quote(column)} of audit table {name} is gone"
            )
        if self.audit.seqcache is not None:
            sequence = qualify(self.audit.sequence_schema, self.audit.sequence)
            self._drifted(
                states.SEQUENCE_CACHE,
                f"{sequence} has CACHE {self.audit.seqcache}, so that audit_id is no order",
                f"ALTER SEQUENCE {sequence} CACHE {self.audit.seqcache}",
            )

    def _compare_triggers(self) -> None:
        wanted = wanted_triggers(self.spec, self.default_schema)
        guards = [(*self.audit_name, name) for name in self.spec.guard_triggers.values()]
        parents = {row.oid: row.parent for row in self.triggers}
        # By trigger, the state that is meant, and the one in which the statements make it.
        expected: dict[int, tuple[str, str]] = {}
        for row in sorted(self.triggers, key=lambda row: bool(row.parent)):
            if row.parent:
                oid = row.parent
                while parents[oid]:
                    oid = parents[oid]
                self._compare_state(row, *expected[oid])
                continue
            name = trigger_name(row)
            normal = "A" if self.spec.always or name in guards else "O"
            expected[row.oid] = (normal, normal)
            if name not in wanted:
                kind = (
                    states.SECOND_TRIGGER
                    if name[:2] == self.source_name
                    else states.TRIGGER_ELSEWHERE
                )
                found = [_definition(self.definitions(row), self.name)]
                if name in self.others.wanted:  # another trail's, which the downgrade made before
                    found.insert(0, f"DROP TRIGGER IF EXISTS {_on_table(row)}")
                self._drifted(kind, f"trigger {_on_table(row, 'on')} calls {self.name} too", *found)
                expected[row.oid] = ("O", "O")
            elif (
                wanted.pop(name) != Shape(row.tgtype, row.tgoldtable, row.tgnewtable)
                or row.conditional
                or not row.plain
            ):
                self._drifted(
                    states.TRIGGER_RETIMED,
                    f"trigger {_on_table(row, 'on')} is now: {self.definitions(row)}",
                    f"DROP TRIGGER {_on_table(row)}",
                    _definition(self.definitions(row), self.name),
                )
                expected[row.oid] = (normal, "O")
            self._compare_state(row, *expected[row.oid])
        for schema, relation, trigger in wanted:
            table = qualify(schema, relation)
            found = [f"DROP TRIGGER {quote(trigger)} ON {table}"]
            if (schema, relation, trigger) in self.others.there:
                found = []  # one of that name calls another function, which brings it back
            if self.orphaned:
                self.found += found
            else:
                detail = f"trigger {quote(trigger)} on {table} is gone"
                self._drifted(states.TRIGGER_MISSING, detail, *found)

    def _compare_state(self, row: Trigger, meant: str, made: str) -> None:
        if row.tgenabled != meant:
            kind = states.DISABLED_ON_PARTITION if row.parent else states.TRIGGER_DISABLED
            self._drifted(
                states.ENABLE_ALWAYS_LOST if (meant, row.tgenabled) == ("A", "O") else kind,
                f"trigger {_on_table(row, 'on')} is in state {_STATES[row.tgenabled]}",
                _set_state(row),
            )
        elif meant != made:
            self.found.append(_set_state(row))


def _on_table(row: Trigger, on: str = "ON") -> str:
    return f"{quote(row.tgname)} {on} {qualify(row.nspname, row.relname)}"


def _missing(columns: Sequence[str], relation: sa.Row[Any] | None) -> list[str]:
    """Return the columns that a table does not have; all of them where there is no table."""
    there = () if relation is None else set(relation.columns)
    return [one for one in columns if one not in there]


def _shape(spec: AuditSpec, kind: str) -> Shape:
    if kind == "row":
        return Shape(_ROW_BIT + sum(_EVENT_BITS[name] for name in spec.row_level))
    if kind == "key":
        return Shape(_ROW_BIT + _EVENT_BITS["update"])
    if kind == "truncate":
        return Shape(_EVENT_BITS[kind])
    rows = sql.transition_table(spec)
    if sql.transition(kind) == "OLD":
        return Shape(_EVENT_BITS[kind], old_table=rows)
    return Shape(_EVENT_BITS[kind], new_table=rows)


def _definition(text: str, function: str) -> str:
    """Return ``pg_get_triggerdef`` text with a qualified function, whatever the search_path was."""
    head, _, call = text.rpartition(" EXECUTE FUNCTION ")
    return f"{head} EXECUTE FUNCTION {function}{call[call.index('(') :]}"


def _same_code(left: str, right: str) -> bool:
    """Return whether two bodies differ in comments and white space at most."""
    import sqlparse  # slow to import, and needed for an edited body alone

    def tokens(body: str) -> list[str]:
        return [
            token.value
            for statement in sqlparse.parse(body)
            for token in statement.flatten()  # type: ignore[no-untyped-call]
            if not token.is_whitespace and token.ttype not in sqlparse.tokens.Comment
        ]

    try:
        return tokens(left) == tokens(right)
    except sqlparse.exceptions.SQLParseError:
        return False
