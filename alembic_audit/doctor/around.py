"""Checks of what stands around a trail: triggers, children, rules, indexes, storage."""

import json
from collections.abc import Iterator

from alembic_audit import levels
from alembic_audit.doctor import values as kinds
from alembic_audit.doctor.trail import Trail, shown
from alembic_audit.doctor.values import Finding
from alembic_audit.naming import literal, qualify, quote, shorten
from alembic_audit.states import ForeignTrigger

_RULE_EVENTS = {"1": "SELECT", "2": "UPDATE", "3": "INSERT", "4": "DELETE"}


def drift(trail: Trail) -> Iterator[Finding]:
    """What ``alembic check`` names: the trail is other than the header of its function says."""
    for one in trail.state.drift:
        yield trail.finding(one.kind, one.detail)


def triggers(trail: Trail) -> Iterator[Finding]:
    """Triggers of others: before ours, between its rows, on the audit table, or writing to it."""
    ours = trail.spec.trigger_names.get("row", "").encode()
    at_statement_level = bool(trail.spec.statement_level)
    writers = trail.health.writers_of(trail.place.audit)
    for one in writers:
        what, drop = _said(one)
        yield trail.finding(
            kinds.WRITES_TOO,
            f"{what} calls {shown(one.function)}, which inserts into the audit table",
            f"{drop}; docs/adoption.md says how a trail is taken over",
        )
    for one in trail.health.triggers.get(trail.place.audit, ()):
        if one not in writers:
            what, drop = _said(one)
            yield trail.finding(
                kinds.AUDIT_TRIGGER,
                f"{what} calls {shown(one.function)}",
                f"{drop}, if it may refuse, change or drop what is recorded",
            )
    for one in trail.health.triggers.get(trail.place.source, ()):
        if one.after_row and one not in writers:
            what, _ = _said(one)
            yield from _after_row(trail, what, at_statement_level, one.name.encode() < ours)
        if one.before_row and one.writes_its_table:
            what, _ = _said(one)
            yield trail.finding(
                kinds.WRITES_ITS_TABLE,
                f"{what} is BEFORE ROW, and {shown(one.function)} writes the table: that is "
                "recorded before the statement that fired it",
            )


def _said(one: ForeignTrigger) -> tuple[str, str]:
    """Return what a trigger is called, and the statement that drops it."""
    name, table = quote(one.name), qualify(*one.table)
    return f"trigger {name} on {table}", f"DROP TRIGGER {name} ON {table}"


def _after_row(
    trail: Trail, what: str, at_statement_level: bool, is_before: bool
) -> Iterator[Finding]:
    if at_statement_level:
        yield trail.finding(
            kinds.STATEMENT_LEVEL,
            f"{what} is AFTER ROW: what it writes is recorded before what caused it",
        )
    elif is_before:
        yield trail.finding(
            kinds.FIRES_BEFORE,
            f"{what} comes before that of the audit by name: what it writes is recorded before "
            "what caused it",
        )
    else:
        yield trail.finding(kinds.FIRES_AFTER, f"{what} is another AFTER ROW trigger")


def foreign_keys(trail: Trail) -> Iterator[Finding]:
    """Foreign keys whose actions statement triggers record in a wrong order."""
    if found := levels.missing_rows(trail.spec, trail.foreign_keys):
        reason, line = found
        yield trail.finding(
            kinds.STATEMENT_LEVEL, f"it has {reason}", f"{line}; then {kinds.MIGRATE}"
        )


def children(trail: Trail) -> Iterator[Finding]:
    """Partitions whose TRUNCATE is not recorded, and children whose writes are not."""
    spec, source = trail.spec, trail.place.source
    uncovered, truncaters = [], set()
    for row in trail.health.children.get(source, ()):
        child = (row.nspname, row.relname)
        if child in trail.places:
            continue
        if not row.relispartition:
            yield trail.finding(
                kinds.CHILD, f"{qualify(*child)} inherits from it: writes there are not recorded"
            )
            if spec.statement_level:
                yield trail.finding(
                    kinds.STATEMENT_LEVEL,
                    f"{qualify(*child)} inherits from it: a write through the parent is recorded "
                    "with the child's rows, one by name is not",
                )
        elif "truncate" in spec.operations and (
            row.nspname != source[0] or row.relname not in spec.partitions
        ):
            uncovered.append(qualify(*child))
            truncaters.update(row.truncaters)
    if uncovered:
        who = f", which {', '.join(sorted(truncaters))} may do" if truncaters else ""
        yield trail.finding(
            kinds.PARTITION,
            f"TRUNCATE by name of {', '.join(uncovered)} is not recorded{who}",
            severity=kinds.WARNING if truncaters else kinds.INFO,
        )


def rules(trail: Trail) -> Iterator[Finding]:
    """Rules that turn writes into something else."""
    for table in (trail.place.source, trail.place.audit):
        for row in trail.health.rules.get(table, ()):
            name, on = quote(row.rulename), qualify(*table)
            event = _RULE_EVENTS.get(row.ev_type, "?")
            loses = row.is_instead and event == "INSERT" and table == trail.place.audit
            yield trail.finding(
                kinds.RULE,
                f"rule {name} on {on}, for {event}, does {'INSTEAD' if row.is_instead else 'ALSO'}",
                f"DROP RULE {name} ON {on}",
                kinds.ERROR if loses else kinds.WARNING,
            )


def oddities(trail: Trail) -> Iterator[Finding]:
    """What an audit table has that may refuse, change, number, show or erase records."""
    on, spec = trail.audit_name, trail.spec
    for row in trail.health.oddities.get(trail.place.audit, ()):
        column, detail = quote(row.name), row.detail
        if row.kind == "constraint":
            yield trail.finding(
                kinds.CONSTRAINT,
                f"constraint {column} on {on}: {detail}",
                f"ALTER TABLE {on} DROP CONSTRAINT {column}",
            )
        elif row.kind in ("parent", "partitioned"):
            yield trail.finding(
                kinds.PARENT,
                f"{on} inherits from {detail}",
                f"ALTER TABLE {on} NO INHERIT {detail}"
                if row.kind == "parent"
                else f"ALTER TABLE {detail} DETACH PARTITION {on}",
            )
        elif row.name not in spec.audit_column_names:
            continue
        elif row.kind == "number":
            yield trail.finding(
                kinds.NO_ORDER,
                f"column audit_id of {on} is numbered by no sequence, so that it is no order",
                f"ALTER TABLE {on} ALTER COLUMN audit_id DROP DEFAULT, ALTER COLUMN audit_id ADD "
                "GENERATED ALWAYS AS IDENTITY; SELECT pg_catalog.setval("
                f"pg_catalog.pg_get_serial_sequence({literal(on).strip()}, 'audit_id'), "
                f"pg_catalog.max(audit_id)) FROM {on}",
            )
        elif row.kind == "default" and row.name != "audit_id":
            yield trail.finding(
                kinds.DEFAULT,
                f"column {column} of {on} has the default {detail}",
                f"ALTER TABLE {on} ALTER COLUMN {column} DROP DEFAULT",
            )
        elif row.kind == "value":
            yield trail.finding(
                kinds.GIVEN_A_VALUE,
                f"column {column} of {on} was added with a value for the records before it",
                f"ALTER TABLE {on} RENAME COLUMN {column} TO "
                f"{quote(shorten(row.name + '__added'))}; then {kinds.MIGRATE}",
            )
        elif row.kind in ("type", "extension"):
            named, owner = json.loads(detail)
            yield trail.finding(
                kinds.TYPE_OF_ANOTHER,
                f"{quote(owner)} owns {row.kind} {named} of column {column} of {on}, and may erase "
                "what the column holds",
                f"ALTER TYPE {named} OWNER TO {quote(trail.audit.owner if trail.audit else '')}"
                if row.kind == "type"
                else f"let a superuser own extension {quote(named)}, or hash or exclude the column",
            )


def key(trail: Trail) -> Iterator[Finding]:
    """A key that may be NULL, that two rows may share, or that is checked late."""
    source, spec = trail.health.relations.get(trail.place.source), trail.spec
    if source is None or not spec.key:
        return
    table, names = qualify(*trail.place.source), ", ".join(map(quote, spec.key))
    if nullable := [name for name in spec.key if name in source.nullable]:
        yield trail.finding(
            kinds.WEAK_KEY,
            f"column {', '.join(map(quote, nullable))} of {table} is in the key and may be NULL: "
            "as_of leaves such rows out",
            "; ".join(
                f"ALTER TABLE {table} ALTER COLUMN {quote(name)} SET NOT NULL" for name in nullable
            ),
        )
    uniques = [json.loads(one) for one in source.uniques]
    kept = [immediate for immediate, columns in uniques if set(columns) <= set(spec.key)]
    if not kept:
        yield trail.finding(
            kinds.WEAK_KEY, f"nothing keeps two rows of {table} from having one key ({names})"
        )
    elif not any(kept) and "update" in spec.row_level:
        yield trail.finding(
            kinds.WEAK_KEY,
            f"the key ({names}) of {table} is DEFERRABLE: two rows may have one key for a while, "
            "and as_of cannot tell which of them is left",
        )


def storage(trail: Trail) -> Iterator[Finding]:
    """Row level security, UNLOGGED, and the index that reading one row needs."""
    audit, spec = trail.audit, trail.spec
    if audit is None:
        return
    if audit.relrowsecurity:
        binds = audit.relforcerowsecurity and not (audit.owner_is_super or audit.rolbypassrls)
        yield trail.finding(
            kinds.ROW_SECURITY,
            f"row level security is on for the audit table {trail.audit_name}"
            + (", and binds its owner, who writes the records" if binds else ""),
            f"ALTER TABLE {trail.audit_name} DISABLE ROW LEVEL SECURITY",
            kinds.ERROR if binds else kinds.WARNING,
        )
    if audit.relpersistence == "u":
        yield trail.finding(
            kinds.UNLOGGED,
            f"audit table {trail.audit_name} is UNLOGGED: a crash empties it",
            f"ALTER TABLE {trail.audit_name} SET LOGGED",
        )
    key = set(spec.key)
    starts = [set(json.loads(index)[: len(key)]) for index in audit.indexes]
    if key and "audit_id" in audit.columns and key not in starts:
        yield trail.finding(
            kinds.KEY_INDEX,
            f"no index of {trail.audit_name} begins with the key ({', '.join(spec.key)}): the "
            "history of one row is looked for in all records",
        )
