"""What the database holds: specs and their drift. The only module that reads catalogs.

Two statements, whatever the number of tables. They read raw catalogs and take no lock that anything
but DROP of the object itself waits for.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
import sqlparse

from alembic_audit import sql
from alembic_audit.naming import qualify, quote
from alembic_audit.spec import HEADER, AuditSpec, NewerSpecError

BODY_EDITED = "body edited"
HEADER_MISSING = "header missing"
SECURITY_DEFINER_LOST = "SECURITY DEFINER lost"
SET_CLAUSE = "SET clause"
EXECUTE_GRANTED = "EXECUTE granted"
TRIGGER_MISSING = "trigger missing"
TRIGGER_DISABLED = "trigger disabled"
TRIGGER_RETIMED = "trigger retimed"
TRIGGER_ELSEWHERE = "trigger on another table"
SECOND_TRIGGER = "second trigger"

_FUNCTIONS = sa.text(
    """
    SELECT p.oid, n.nspname, p.proname, p.prosrc, p.prosecdef, p.proconfig, ARRAY(
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
      AND n.nspname IN :schemas
      AND (pg_catalog.starts_with(p.prosrc, :header) OR p.proname IN :names)
      AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_depend AS d
        WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid
          AND d.deptype = 'e'
      )
    ORDER BY n.nspname, p.proname
    """
).bindparams(
    sa.bindparam("schemas", type_=sa.String(), expanding=True),
    sa.bindparam("names", type_=sa.String(), expanding=True),
    sa.bindparam("header", type_=sa.String()),
)

_TRIGGERS = sa.text(
    """
    SELECT t.tgname, n.nspname, c.relname, t.tgfoid, t.tgtype, t.tgenabled::pg_catalog.text,
      (t.tgqual IS NULL AND t.tgnargs = 0 AND t.tgattr::pg_catalog.text = ''
        AND t.tgconstraint = 0 AND t.tgoldtable IS NULL AND t.tgnewtable IS NULL) AS plain,
      pg_catalog.pg_get_triggerdef(t.oid) AS definition
    FROM pg_catalog.pg_trigger AS t
    JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE t.tgfoid IN :functions AND t.tgparentid = 0
    ORDER BY n.nspname, c.relname, t.tgname
    """
).bindparams(sa.bindparam("functions", type_=sa.BigInteger(), expanding=True))

# pg_trigger.h: ROW 1, INSERT 4, DELETE 8, UPDATE 16, TRUNCATE 32; AFTER is no bit.
_EVENT_BITS = {"insert": 4, "delete": 8, "update": 16, "truncate": 32}
_STATES = {"D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}


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
    """

    spec: AuditSpec
    found: tuple[str, ...] = ()
    drift: tuple[Drift, ...] = dataclasses.field(default=(), compare=False)


@dataclasses.dataclass(frozen=True)
class Catalog:
    """What was read.

    Attributes:
        states: By resolved schema and name of the audited table.
        newer: Functions that a newer version of this package wrote, with the reason.
    """

    states: dict[tuple[str, str], AuditState]
    newer: dict[str, str]


def read(
    connection: sa.Connection,
    declared: Sequence[AuditSpec],
    default_schema: str,
    schemas: Collection[str],
) -> Catalog:
    """Return the audit triggers in some schemas.

    Args:
        connection: Where to read.
        declared: What the models ask for; it finds functions whose header is gone.
        default_schema: What a schema of None means.
        schemas: The schemas whose functions are considered, resolved.
    """
    by_name = {(sql.schemas(one, default_schema)[1], one.function): one for one in declared}
    functions = connection.execute(
        _FUNCTIONS,
        {
            "header": HEADER,
            "schemas": sorted({*schemas, *(schema for schema, _ in by_name)}),
            "names": sorted({name for _, name in by_name}),
        },
    ).all()
    triggers: dict[int, list[sa.Row[Any]]] = defaultdict(list)
    for row in connection.execute(_TRIGGERS, {"functions": [row.oid for row in functions]}):
        triggers[row.tgfoid].append(row)

    states: dict[tuple[str, str], AuditState] = {}
    newer: dict[str, str] = {}
    for row in functions:
        try:
            spec = AuditSpec.from_body(row.prosrc)
        except NewerSpecError as error:
            newer[qualify(row.nspname, row.proname)] = str(error)
            continue
        headless = spec is None
        if spec is None:
            spec = by_name.get((row.nspname, row.proname))
            if spec is None or not _calls_by_our_trigger(spec, triggers[row.oid], default_schema):
                continue  # somebody else's function of that name
        source, audit = sql.schemas(spec, default_schema)
        if (audit, spec.function) != (row.nspname, row.proname):
            continue  # a copy in another schema, of another tenant
        states[(source, spec.table)] = _state(
            spec, row, triggers[row.oid], default_schema, headless=headless
        )
    return Catalog(states, newer)


def _calls_by_our_trigger(
    spec: AuditSpec, triggers: Sequence[sa.Row[Any]], default_schema: str
) -> bool:
    source = sql.schemas(spec, default_schema)[0]
    names = set(spec.trigger_names.values())
    return any(
        (row.nspname, row.relname) == (source, spec.table) and row.tgname in names
        for row in triggers
    )


def _state(
    spec: AuditSpec,
    row: sa.Row[Any],
    triggers: Sequence[sa.Row[Any]],
    default_schema: str,
    *,
    headless: bool,
) -> AuditState:
    drift: list[Drift] = []
    found: list[str] = []
    name = qualify(row.nspname, row.proname)
    meant = sql.body(spec, default_schema)
    if headless:
        drift.append(Drift(HEADER_MISSING, f"function {name} lost its first line"))
    if row.prosrc != meant:
        what = "in comments and white space" if _same_code(row.prosrc, meant) else "in code"
        drift.append(Drift(BODY_EDITED, f"the body of {name} was edited, {what}"))
    if not row.prosecdef:
        drift.append(Drift(SECURITY_DEFINER_LOST, f"function {name} is SECURITY INVOKER"))
    if row.proconfig:
        drift.append(Drift(SET_CLAUSE, f"function {name} has SET {', '.join(row.proconfig)}"))
    if drift:
        found.append(
            sql.restore_function(
                name, row.prosrc, definer=row.prosecdef, settings=row.proconfig or ()
            )
        )
    for grantee in row.grantees:
        drift.append(Drift(EXECUTE_GRANTED, f"{grantee} may execute {name}"))
        found.append(f"GRANT EXECUTE ON FUNCTION {name}() TO {grantee}")
    _compare_triggers(spec, name, triggers, default_schema, drift, found)
    return AuditState(spec, tuple(found), tuple(drift))


def _compare_triggers(
    spec: AuditSpec,
    function: str,
    triggers: Sequence[sa.Row[Any]],
    default_schema: str,
    drift: list[Drift],
    found: list[str],
) -> None:
    source = sql.schemas(spec, default_schema)[0]
    wanted = {name: _trigger_type(spec, kind) for kind, name in spec.trigger_names.items()}
    for row in triggers:
        table = qualify(row.nspname, row.relname)
        trigger = f"trigger {quote(row.tgname)} on {table}"
        definition = _definition(row.definition, function)
        ours = (row.nspname, row.relname) == (source, spec.table)
        if ours and row.tgname in wanted:
            if wanted.pop(row.tgname) != row.tgtype or not row.plain:
                drift.append(Drift(TRIGGER_RETIMED, f"{trigger} is now: {row.definition}"))
                found += [f"DROP TRIGGER {quote(row.tgname)} ON {table}", definition]
        else:
            kind = SECOND_TRIGGER if ours else TRIGGER_ELSEWHERE
            drift.append(Drift(kind, f"{trigger} calls {function} too"))
            found.append(definition)
        if row.tgenabled != "O":
            state = _STATES[row.tgenabled]
            drift.append(Drift(TRIGGER_DISABLED, f"{trigger} is in state {state}"))
            found.append(f"ALTER TABLE {table} {state} TRIGGER {quote(row.tgname)}")
    for name in wanted:
        table = qualify(source, spec.table)
        drift.append(Drift(TRIGGER_MISSING, f"trigger {quote(name)} on {table} is gone"))
        found.append(f"DROP TRIGGER {quote(name)} ON {table}")


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
