"""What the database holds: specs and their drift. The only module that reads catalogs.

Three statements, whatever the number of tables. They read raw catalogs and take no lock that
anything but DROP of the object itself waits for.
"""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
import sqlparse

from alembic_audit import sql
from alembic_audit.naming import qualify, quote
from alembic_audit.spec import HEADER, AuditSpec, NewerSpecError
from alembic_audit.sql import text

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

_FUNCTIONS = sa.text(
    """
    SELECT p.oid, n.nspname, p.proname, p.prosrc, p.prosecdef, p.proconfig,
      pg_catalog.pg_get_userbyid(p.proowner)::pg_catalog.text AS owner,
      current_user::pg_catalog.text AS me, p.proacl IS NULL AS default_privileges, ARRAY(
      SELECT pg_catalog.concat(
        COALESCE(pg_catalog.quote_ident(r.rolname), 'PUBLIC'),
        CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END
      )
      FROM pg_catalog.aclexplode(
        COALESCE(p.proacl, pg_catalog.acldefault('f', p.proowner))
      ) AS a
      LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee
      WHERE a.grantee <> p.proowner
      ORDER BY 1
    )::pg_catalog.text[] AS grantees
    FROM pg_catalog.pg_proc AS p
    JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
    WHERE p.prorettype = 'pg_catalog.trigger'::pg_catalog.regtype
      AND (
        n.nspname = ANY (CAST(:schemas AS pg_catalog.text[]))
        OR pg_catalog.starts_with(p.prosrc, :header) AND EXISTS (
          SELECT FROM pg_catalog.pg_trigger AS t
          JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
          JOIN pg_catalog.pg_namespace AS tn ON tn.oid = c.relnamespace
          WHERE t.tgfoid = p.oid AND t.tgparentid = 0
            AND tn.nspname = ANY (CAST(:schemas AS pg_catalog.text[]))
        )
      )
      AND (
        pg_catalog.starts_with(p.prosrc, :header)
        OR p.proname = ANY (CAST(:names AS pg_catalog.text[]))
        OR EXISTS (
          SELECT FROM pg_catalog.pg_trigger AS t,
            pg_catalog.unnest(CAST(:prefixes AS pg_catalog.text[])) AS prefix
          WHERE t.tgfoid = p.oid AND t.tgparentid = 0
            AND pg_catalog.starts_with(t.tgname::pg_catalog.text, prefix)
        )
      )
      AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_depend AS d
        WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid
          AND d.deptype = 'e'
      )
    ORDER BY n.nspname, p.proname
    """
).bindparams(
    sa.bindparam("schemas", type_=sa.ARRAY(sa.Text())),
    sa.bindparam("names", type_=sa.ARRAY(sa.Text())),
    sa.bindparam("prefixes", type_=sa.ARRAY(sa.Text())),
    sa.bindparam("header", type_=sa.Text()),
)

_TRIGGERS = sa.text(
    """
    SELECT t.oid, t.tgname, n.nspname, c.relname, t.tgfoid, t.tgtype,
      t.tgenabled::pg_catalog.text, t.tgparentid AS parent,
      (t.tgqual IS NULL AND t.tgnargs = 0 AND t.tgattr::pg_catalog.text = ''
        AND t.tgconstraint = 0 AND t.tgoldtable IS NULL AND t.tgnewtable IS NULL) AS plain,
      pg_catalog.pg_get_triggerdef(t.oid) AS definition,
      CASE WHEN ours.oid IS NULL THEN p.prosrc END AS foreign_source,
      pn.nspname AS function_schema, p.proname
    FROM pg_catalog.pg_trigger AS t
    JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
    JOIN pg_catalog.pg_namespace AS pn ON pn.oid = p.pronamespace
    LEFT JOIN pg_catalog.unnest(CAST(:functions AS pg_catalog.oid[])) AS ours (oid)
      ON ours.oid = t.tgfoid
    WHERE ours.oid IS NOT NULL
      OR (NOT t.tgisinternal AND t.tgparentid = 0 AND (n.nspname, c.relname) IN (
        SELECT * FROM ROWS FROM (
          pg_catalog.unnest(CAST(:table_schemas AS pg_catalog.text[])),
          pg_catalog.unnest(CAST(:tables AS pg_catalog.text[]))
        ) AS declared
      ))
    ORDER BY n.nspname, c.relname, t.tgname
    """
).bindparams(
    sa.bindparam("functions", type_=sa.ARRAY(sa.BigInteger())),
    sa.bindparam("table_schemas", type_=sa.ARRAY(sa.Text())),
    sa.bindparam("tables", type_=sa.ARRAY(sa.Text())),
)

_RELATIONS = sa.text(
    """
    SELECT n.nspname, c.relname, pg_catalog.pg_get_userbyid(c.relowner)::pg_catalog.text AS owner,
      ARRAY(
        SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      ) AS columns,
      sequence.nspname AS sequence_schema, sequence.relname AS sequence, sequence.seqcache
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    LEFT JOIN LATERAL (
      SELECT sn.nspname, sc.relname, s.seqcache
      FROM pg_catalog.pg_depend AS d
      JOIN pg_catalog.pg_sequence AS s ON s.seqrelid = d.objid
      JOIN pg_catalog.pg_class AS sc ON sc.oid = s.seqrelid
      JOIN pg_catalog.pg_namespace AS sn ON sn.oid = sc.relnamespace
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid
      WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'i'
        AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = c.oid
        AND a.attname = 'audit_id'
    ) AS sequence ON true
    WHERE c.relkind IN ('r', 'p', 'f') AND (n.nspname, c.relname) IN (
      SELECT * FROM ROWS FROM (
        pg_catalog.unnest(CAST(:schemas AS pg_catalog.text[])),
        pg_catalog.unnest(CAST(:names AS pg_catalog.text[]))
      ) AS wanted
    )
    """
).bindparams(
    sa.bindparam("schemas", type_=sa.ARRAY(sa.Text())),
    sa.bindparam("names", type_=sa.ARRAY(sa.Text())),
)

# pg_trigger.h: ROW 1, BEFORE 2, INSERT 4, DELETE 8, UPDATE 16, TRUNCATE 32, INSTEAD 64; AFTER is
# neither of BEFORE and INSTEAD.
_EVENT_BITS = {"insert": 4, "delete": 8, "update": 16, "truncate": 32}
_ROW_BIT, _NOT_AFTER_BITS = 1, 66
_BEFORE_TRUNCATE = 34
_STATES = {"O": "ENABLE", "D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}
_COMMENT = r"--[^\n]*|/\*.*?\*/"
_SPACE = rf"(?:\s|{_COMMENT})"
_IDENTIFIER = r'("(?:[^"]|"")+"|[^\s"().;,\']+)'
_INSERTS = re.compile(
    rf"{_COMMENT}|\b(?:insert|merge){_SPACE}+into{_SPACE}+{_IDENTIFIER}"
    rf"(?:{_SPACE}*\.{_SPACE}*{_IDENTIFIER})?",
    re.IGNORECASE | re.DOTALL,
)

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
    """

    states: dict[Name, AuditState]
    strays: list[Stray]
    newer: dict[str, str]
    foreign: list["ForeignTrigger"]


@dataclasses.dataclass(frozen=True)
class ForeignTrigger:
    """Somebody else's trigger on a declared table.

    Attributes:
        table: The table it is on.
        name: The trigger.
        function: The function that it calls.
        inserts_into: The tables that its function names after INSERT or MERGE INTO, with the
            schema where it is written.
        after_row: It is an AFTER ROW trigger.
    """

    table: Name
    name: str
    function: Name
    inserts_into: tuple[tuple[str | None, str], ...]
    after_row: bool


def read(
    connection: sa.Connection,
    declared: Sequence[AuditSpec],
    default_schema: str,
    schemas: Collection[str],
    prefixes: Collection[str] = (),
) -> Catalog:
    """Return the audit triggers in some schemas.

    Args:
        connection: Where to read.
        declared: What the models ask for; it finds functions whose header is gone.
        default_schema: What a schema of None means.
        schemas: The schemas whose functions are considered, resolved.
        prefixes: What the names of our triggers begin with; it finds functions whose header is
            gone and whose table is not declared any more.
    """
    by_name = {(text.schemas(one, default_schema)[1], one.function): one for one in declared}
    functions = connection.execute(
        _FUNCTIONS,
        {
            "header": HEADER,
            "schemas": sorted({*schemas, *(schema for schema, _ in by_name)}),
            "names": sorted({name for _, name in by_name}),
            "prefixes": sorted(prefix for prefix in prefixes if prefix),
        },
    ).all()
    triggers: dict[int, list[sa.Row[Any]]] = defaultdict(list)
    foreign: list[ForeignTrigger] = []
    tables = sorted({(text.schemas(one, default_schema)[0], one.table) for one in declared})
    for row in connection.execute(
        _TRIGGERS,
        {
            "functions": [row.oid for row in functions],
            "table_schemas": [schema for schema, _ in tables],
            "tables": [name for _, name in tables],
        },
    ):
        if row.foreign_source is None:
            triggers[row.tgfoid].append(row)
        else:
            foreign.append(_foreign(row, row.foreign_source))

    taken, strays, newer = _sort_out(functions, triggers, by_name, default_schema, prefixes)
    ours = {row.oid for _, row, _ in taken.values()} | {row.oid for _, row in strays}
    for function in functions:
        name = (function.nspname, function.proname)
        if function.oid not in ours and qualify(*name) not in newer:
            foreign += [_foreign(row, function.prosrc) for row in triggers[function.oid]]
    relations = _relations(connection, [spec for spec, _, _ in taken.values()], default_schema)
    others = _Triggers(
        {name for spec, _, _ in taken.values() for name in _wanted(spec, default_schema)},
        {_trigger_name(row) for rows in triggers.values() for row in rows if not row.parent},
    )
    states = {
        name: _State(spec, row, triggers[row.oid], relations, others, default_schema).read(headless)
        for name, (spec, row, headless) in taken.items()
    }
    made = [
        Stray(
            _table_of(spec, triggers[row.oid], default_schema),
            (row.nspname, row.proname),
            spec.audit_table if spec else None,
            _restore(row, triggers[row.oid]),
        )
        for spec, row in strays
    ]
    return Catalog(states, made, newer, foreign)


def read_strays(connection: sa.Connection, functions: Collection[Name]) -> list[Stray]:
    """Return somebody else's trigger functions, to be taken over: dropped, and given back.

    Args:
        connection: Where to read.
        functions: The functions.
    """
    found = connection.execute(
        _FUNCTIONS,
        {
            "header": HEADER,
            "schemas": sorted({schema for schema, _ in functions}),
            "names": sorted({name for _, name in functions}),
            "prefixes": [],
        },
    ).all()
    rows = {row.oid: row for row in found if (row.nspname, row.proname) in functions}
    triggers: dict[int, list[sa.Row[Any]]] = defaultdict(list)
    for row in connection.execute(
        _TRIGGERS, {"functions": list(rows), "table_schemas": [], "tables": []}
    ):
        triggers[row.tgfoid].append(row)
    return [
        Stray(
            _table_of(None, triggers[oid], ""),
            (row.nspname, row.proname),
            None,
            _restore(row, triggers[oid]),
        )
        for oid, row in rows.items()
    ]


_Taken = dict[Name, tuple[AuditSpec, "sa.Row[Any]", bool]]


def _sort_out(
    functions: Sequence[sa.Row[Any]],
    triggers: Mapping[int, Sequence[sa.Row[Any]]],
    by_name: Mapping[Name, AuditSpec],
    default_schema: str,
    prefixes: Collection[str],
) -> tuple[_Taken, list[tuple[AuditSpec | None, sa.Row[Any]]], dict[str, str]]:
    """Return the trails (spec, function, whether its header is gone), strays and newer ones."""
    taken: _Taken = {}
    strays: list[tuple[AuditSpec | None, sa.Row[Any]]] = []
    newer: dict[str, str] = {}
    others: list[tuple[AuditSpec | None, sa.Row[Any]]] = []
    for row in functions:
        try:
            spec = AuditSpec.from_body(row.prosrc)
        except NewerSpecError as error:
            newer[qualify(row.nspname, row.proname)] = str(error)
            continue
        if spec is not None:
            source, audit = text.schemas(spec, default_schema)
            if (audit, spec.function) == (row.nspname, row.proname):
                taken[(source, spec.table)] = (spec, row, False)
                continue
        others.append((spec, row))
    for spec, row in others:
        own = [trigger for trigger in triggers.get(row.oid, ()) if not trigger.parent]
        meant = by_name.get((row.nspname, row.proname))
        if meant is not None and _calls_by_our_trigger(meant, own, default_schema):
            name = (text.schemas(meant, default_schema)[0], meant.table)
            if name not in taken:
                taken[name] = (meant, row, spec is None)
                continue
        if spec is None:
            if own and all(one.tgname.startswith(tuple(filter(None, prefixes))) for one in own):
                strays.append((None, row))
            continue  # or somebody else's function
        source, audit = text.schemas(spec, default_schema)
        name = (source, spec.table)
        if audit == row.nspname and name not in taken:
            taken[name] = (dataclasses.replace(spec, function=row.proname), row, False)
        elif (
            audit == row.nspname
            or spec.audit_schema is not None
            or any((one.nspname, one.relname) == name for one in own)
        ):
            strays.append((spec, row))
        # Otherwise a copy in another schema, of another tenant.
    return taken, strays, newer


def _calls_by_our_trigger(
    spec: AuditSpec, triggers: Sequence[sa.Row[Any]], default_schema: str
) -> bool:
    source = text.schemas(spec, default_schema)[0]
    names = set(spec.trigger_names.values())
    return any(
        (row.nspname, row.relname) == (source, spec.table) and row.tgname in names
        for row in triggers
    )


def _relations(
    connection: sa.Connection, specs: Sequence[AuditSpec], default_schema: str
) -> dict[Name, sa.Row[Any]]:
    """Return the audited tables and audit tables that there are."""
    names = sorted(
        {
            name
            for spec in specs
            for name in zip(
                text.schemas(spec, default_schema), (spec.table, spec.audit_table), strict=True
            )
        }
    )
    rows = connection.execute(
        _RELATIONS,
        {"schemas": [schema for schema, _ in names], "names": [name for _, name in names]},
    )
    return {(row.nspname, row.relname): row for row in rows}


def _foreign(row: sa.Row[Any], source: str) -> ForeignTrigger:
    """Return somebody else's trigger, with the source of the function that it calls."""
    return ForeignTrigger(
        (row.nspname, row.relname),
        row.tgname,
        (row.function_schema, row.proname),
        tuple(_inserts_into(source)),
        bool(row.tgtype & _ROW_BIT) and not row.tgtype & _NOT_AFTER_BITS,
    )


def _inserts_into(source: str) -> Iterator[tuple[str | None, str]]:
    for match in _INSERTS.finditer(source):
        first, second = match.groups()
        if first is not None:
            yield (None, _folded(first)) if second is None else (_folded(first), _folded(second))


def _folded(identifier: str) -> str:
    """Return an identifier as PostgreSQL reads it."""
    if identifier.startswith('"'):
        return identifier[1:-1].replace('""', '"')
    return identifier.lower()


def _table_of(spec: AuditSpec | None, triggers: Sequence[sa.Row[Any]], default_schema: str) -> Name:
    for row in triggers:
        if not row.parent and row.tgtype != text.GUARD_TYPE:
            return (row.nspname, row.relname)
    assert spec is not None  # without a header a trigger is what made it a stray
    return (text.schemas(spec, default_schema)[0], spec.table)


def _restore(row: sa.Row[Any], triggers: Sequence[sa.Row[Any]]) -> tuple[str, ...]:
    """Return statements that make a function and its triggers as they are."""
    name = qualify(row.nspname, row.proname)
    made = [
        sql.restore_function(
            name, row.prosrc, definer=row.prosecdef, settings=row.proconfig or (), new=True
        )
    ]
    if not row.default_privileges:
        made.append(sql.revoke_function(name))
    for trigger in sorted(triggers, key=lambda row: bool(row.parent)):
        if not trigger.parent:
            made.append(text.printable(_definition(trigger.definition, name)))
        if trigger.tgenabled != "O":
            made.append(_set_state(trigger))
    if row.owner != row.me:
        made.append(f"ALTER FUNCTION {name}() OWNER TO {quote(row.owner)}")
    if not row.default_privileges:
        made += [f"GRANT EXECUTE ON FUNCTION {name}() TO {grantee}" for grantee in row.grantees]
    return tuple(made)


def _set_state(row: sa.Row[Any]) -> str:
    # ONLY: every partition has a state of its own.
    table = qualify(row.nspname, row.relname)
    return f"ALTER TABLE ONLY {table} {_STATES[row.tgenabled]} TRIGGER {quote(row.tgname)}"


@dataclasses.dataclass(frozen=True)
class _Triggers:
    """The triggers of all trails, by schema, table and name.

    Attributes:
        wanted: Those that the specs give.
        there: Those that call a function of ours, whichever.
    """

    wanted: set[tuple[str, str, str]]
    there: set[tuple[str, str, str]]


def _trigger_name(row: sa.Row[Any]) -> tuple[str, str, str]:
    return (row.nspname, row.relname, row.tgname)


def _wanted(spec: AuditSpec, default_schema: str) -> dict[tuple[str, str, str], int]:
    """Return the triggers of a spec with their ``tgtype``."""
    source, audit = text.schemas(spec, default_schema)
    wanted = {
        (source, spec.table, name): _trigger_type(spec, kind)
        for kind, name in spec.trigger_names.items()
    }
    if spec.append_only:
        wanted[(audit, spec.audit_table, spec.guard_trigger)] = text.GUARD_TYPE
    return wanted | {
        (source, partition, spec.truncate_trigger): _BEFORE_TRUNCATE
        for partition in spec.partitions
    }


class _State:
    """One trail, on the way from rows to an AuditState."""

    def __init__(
        self,
        spec: AuditSpec,
        row: sa.Row[Any],
        triggers: Sequence[sa.Row[Any]],
        relations: Mapping[Name, sa.Row[Any]],
        others: _Triggers,
        default_schema: str,
    ) -> None:
        source, audit = text.schemas(spec, default_schema)
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
        self.spec = spec if self.orphaned else spec.without(self.gone)
        header = AuditSpec.from_body(row.prosrc)
        self.displaced = header is not None and header.function != row.proname
        self.drift: list[Drift] = []
        self.found: list[str] = []

    def read(self, headless: bool) -> AuditState:
        """Return the state; *headless* says that the function has no header."""
        self._compare_function(headless)
        self._compare_owners()
        self._compare_grants()
        self._compare_audit_table()
        if self.orphaned:
            table = qualify(*self.source_name)
            self._drifted(ORPHANED_FUNCTION, f"{self.name} is there, and table {table} is not")
        self._compare_triggers()
        return AuditState(
            self.spec,
            tuple(map(text.printable, self.found)),
            self.audit is None,
            tuple(self.drift),
            self._owners(),
            _restore(self.row, self.triggers) if self.incomplete or self.displaced else (),
        )

    def _drifted(self, kind: str, detail: str, *found: str) -> None:
        self.drift.append(Drift(kind, detail))
        self.found += found

    def _compare_function(self, headless: bool) -> None:
        row, name = self.row, self.name
        meant = sql.body(self.spec, self.default_schema)
        if headless:
            self._drifted(HEADER_MISSING, f"function {name} lost its first line")
        if row.prosrc != meant:
            what = "in comments and white space" if _same_code(row.prosrc, meant) else "in code"
            self._drifted(BODY_EDITED, f"the body of {name} was edited, {what}")
        if not row.prosecdef:
            self._drifted(SECURITY_DEFINER_LOST, f"function {name} is SECURITY INVOKER")
        if row.proconfig:
            self._drifted(SET_CLAUSE, f"function {name} has SET {', '.join(row.proconfig)}")
        if self.drift:
            self.found.append(
                sql.restore_function(
                    name, row.prosrc, definer=row.prosecdef, settings=row.proconfig or ()
                )
            )

    def _compare_grants(self) -> None:
        for grantee in self.row.grantees:
            self._drifted(
                EXECUTE_GRANTED,
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
                OWNER_CHANGED,
                f"function {self.name} belongs to {self.row.owner}, not to {wanted}",
                f"ALTER FUNCTION {self.name}() OWNER TO {quote(self.row.owner)}",
            )
        if self.audit is not None and self.audit.owner != wanted:
            self._drifted(
                OWNER_CHANGED,
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
            self._drifted(COLUMN_MISSING, f"column {quote(column)} of {table} is gone")
        if self.audit is None:
            self._drifted(AUDIT_TABLE_MISSING, f"audit table {name} is gone")
            return
        for column in self.missing:
            self._drifted(
                AUDIT_COLUMN_MISSING, f"column {quote(column)} of audit table {name} is gone"
            )
        if self.audit.seqcache not in (None, 1):
            sequence = qualify(self.audit.sequence_schema, self.audit.sequence)
            self._drifted(
                SEQUENCE_CACHE,
                f"{sequence} has CACHE {self.audit.seqcache}, so that audit_id is no order",
                f"ALTER SEQUENCE {sequence} CACHE {self.audit.seqcache}",
            )

    def _compare_triggers(self) -> None:
        wanted = _wanted(self.spec, self.default_schema)
        guard = (*self.audit_name, self.spec.guard_trigger)
        parents = {row.oid: row.parent for row in self.triggers}
        # By trigger, the state that is meant, and the one in which the statements make it.
        states: dict[int, tuple[str, str]] = {}
        for row in sorted(self.triggers, key=lambda row: bool(row.parent)):
            table = qualify(row.nspname, row.relname)
            trigger = f"trigger {quote(row.tgname)} on {table}"
            if row.parent:
                oid = row.parent
                while parents[oid]:
                    oid = parents[oid]
                self._compare_state(row, trigger, *states[oid])
                continue
            definition = _definition(row.definition, self.name)
            name = _trigger_name(row)
            normal = "A" if self.spec.always or name == guard else "O"
            states[row.oid] = (normal, normal)
            if name not in wanted:
                kind = SECOND_TRIGGER if name[:2] == self.source_name else TRIGGER_ELSEWHERE
                found = [definition]
                if name in self.others.wanted:  # another trail's, which the downgrade made before
                    found.insert(0, f"DROP TRIGGER IF EXISTS {quote(row.tgname)} ON {table}")
                self._drifted(kind, f"{trigger} calls {self.name} too", *found)
                states[row.oid] = ("O", "O")
            elif wanted.pop(name) != row.tgtype or not row.plain:
                self._drifted(
                    TRIGGER_RETIMED,
                    f"{trigger} is now: {row.definition}",
                    f"DROP TRIGGER {quote(row.tgname)} ON {table}",
                    definition,
                )
                states[row.oid] = (normal, "O")
            self._compare_state(row, trigger, *states[row.oid])
        for schema, relation, trigger in wanted:
            table = qualify(schema, relation)
            found = [f"DROP TRIGGER {quote(trigger)} ON {table}"]
            if (schema, relation, trigger) in self.others.there:
                found = []  # one of that name calls another function, which brings it back
            if self.orphaned:
                self.found += found
            else:
                detail = f"trigger {quote(trigger)} on {table} is gone"
                self._drifted(TRIGGER_MISSING, detail, *found)

    def _compare_state(self, row: sa.Row[Any], trigger: str, meant: str, made: str) -> None:
        if row.tgenabled != meant:
            kind = ENABLE_ALWAYS_LOST if (meant, row.tgenabled) == ("A", "O") else TRIGGER_DISABLED
            self._drifted(
                DISABLED_ON_PARTITION if row.parent else kind,
                f"{trigger} is in state {_STATES[row.tgenabled]}",
                _set_state(row),
            )
        elif meant != made:
            self.found.append(_set_state(row))


def _missing(columns: Sequence[str], relation: sa.Row[Any] | None) -> list[str]:
    """Return the columns that a table does not have; all of them where there is no table."""
    return [one for one in columns if relation is None or one not in relation.columns]


def _trigger_type(spec: AuditSpec, kind: str) -> int:
    if kind == "truncate":
        return _EVENT_BITS["truncate"]
    return 1 + sum(_EVENT_BITS[name] for name in spec.operations if name != "truncate")


def _definition(text: str, function: str) -> str:
    """Return ``pg_get_triggerdef`` text with a qualified function, whatever the search_path was."""
    head, _, call = text.rpartition(" EXECUTE FUNCTION ")
    return f"{head} EXECUTE FUNCTION {function}{call[call.index('(') :]}"


def _same_code(left: str, right: str) -> bool:
    """Return whether two bodies differ in comments and white space at most."""

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
