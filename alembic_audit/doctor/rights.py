"""Checks of who may do what with a trail."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from alembic_audit.doctor import values as kinds
from alembic_audit.doctor.trail import Trail, several
from alembic_audit.doctor.values import Finding, finding
from alembic_audit.naming import qualify, quote

_CHANGES = {"INSERT", "UPDATE", "DELETE", "TRUNCATE", "TRIGGER"}
_SEQUENCE_CHANGES = {"UPDATE", "USAGE"}


def grants(trail: Trail) -> Iterator[Finding]:
    """Privileges of others on the audit table, its columns and its sequence; TRIGGER on the source.

    To read is the user's to grant; to everybody is said.
    """
    source, on = qualify(*trail.place.source), trail.audit_name
    for row in trail.health.grants.get(trail.place.source, ()):
        if row.privilege_type == "TRIGGER":
            yield trail.finding(
                kinds.MAY_TRIGGER,
                f"{row.grantee} has TRIGGER on {source}, and may replace the audit trigger",
                f"REVOKE TRIGGER ON {source} FROM {row.grantee}",
            )
    grouped: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in trail.health.grants.get(trail.place.audit, ()):
        privilege = row.privilege_type
        if privilege == "SELECT" and row.grantee == "PUBLIC" and row.kind != "SEQUENCE":
            yield trail.finding(
                kinds.MAY_READ,
                f"PUBLIC has SELECT on {on}",
                f"REVOKE SELECT ON {on} FROM PUBLIC, if not everybody may see what rows held",
            )
        if row.kind == "SEQUENCE" and privilege in _SEQUENCE_CHANGES:
            grouped[f"SEQUENCE {row.object}", row.grantee].append(privilege)
        elif row.kind == "COLUMN" and privilege in _CHANGES:
            grouped[on, row.grantee].append(f"{privilege} ({row.object})")
        elif row.kind == "TABLE" and privilege in _CHANGES:
            grouped[on, row.grantee].append(privilege)
    for (target, grantee), privileges in grouped.items():
        listed = ", ".join(privileges)
        yield trail.finding(
            kinds.MAY_CHANGE,
            f"{grantee} has {listed} on {target}",
            f"REVOKE {listed} ON {target} FROM {grantee}",
        )


def function(trail: Trail) -> Iterator[Finding]:
    """A function whose owner may not write the records."""
    row = trail.health.functions.get(trail.place.function)
    if row is not None and not row.may_insert and trail.audit is not None:
        name = qualify(*trail.place.function)
        yield trail.finding(
            kinds.FUNCTION_MAY_NOT,
            f"{quote(row.owner)}, who owns function {name}, may not insert into "
            f"{trail.audit_name}: every write fails",
            f"ALTER FUNCTION {name}() OWNER TO {quote(trail.audit.owner)}",
        )


def schemas(trails: Sequence[Trail]) -> Iterator[Finding]:
    """What the schemas of audit tables allow."""
    audits = [trail.audit for trail in trails if trail.audit is not None]
    for name in sorted({one.nspname for one in audits if one.public_creates}):
        yield finding(
            kinds.MAY_CREATE,
            "",
            f"PUBLIC has CREATE on schema {quote(name)}, where audit tables are",
            f"REVOKE CREATE ON SCHEMA {quote(name)} FROM PUBLIC",
        )
    droppers: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for one in audits:
        if one.schema_owner != one.owner and not one.schema_owner_is_super:
            droppers[one.nspname, one.schema_owner, one.owner].append(one.relname)
    for (name, dropper, owner), names in droppers.items():
        yield finding(
            kinds.MAY_DROP,
            "",
            f"{quote(dropper)} owns schema {quote(name)}, and may drop audit tables of "
            f"{quote(owner)}: {several(names)}",
            f"ALTER SCHEMA {quote(name)} OWNER TO {quote(owner)}, or another schema by the option "
            "'schema_name'",
        )


def owners(trails: Sequence[Trail]) -> Iterator[Finding]:
    """Who trails run as, and who may become an owner of theirs."""
    owned: dict[str, list[str]] = defaultdict(list)
    superusers: dict[str, list[str]] = defaultdict(list)
    for trail in trails:
        health, place = trail.health, trail.place
        for name, row in (
            (place.source, health.relations.get(place.source)),
            (place.audit, health.relations.get(place.audit)),
            (place.function, health.functions.get(place.function)),
        ):
            if row is not None:
                owned[row.owner].append(name[1])
                if name == place.function and row.owner_is_super:
                    superusers[row.owner].append(name[1])
    for owner, names in superusers.items():
        yield finding(
            kinds.SUPERUSER, "", f"superuser {quote(owner)} owns functions: {several(names)}"
        )
    members = trails[0].health.members if trails else {}
    for owner in sorted(owned.keys() & members.keys()):
        yield finding(
            kinds.MAY_BECOME,
            "",
            f"{several(map(quote, members[owner]))} may act as {quote(owner)}, who owns "
            f"{several(owned[owner])}",
        )


def types(trails: Sequence[Trail]) -> Iterator[Finding]:
    """Audited tables, and types of their columns, that belong to others than the function."""
    owned: dict[tuple[str, str], list[str]] = defaultdict(list)
    for trail in trails:
        health, place = trail.health, trail.place
        function = health.functions.get(place.function)
        source = health.relations.get(place.source)
        if function is None:
            continue
        if source is not None and source.owner != function.owner and not source.owner_is_super:
            owned[source.owner, function.owner].append(f"table {qualify(*place.source)}")
        for row in health.types.get(place.source, ()):
            if row.owner != function.owner:
                owned[row.owner, function.owner].append(f"type {row.type}")
    for (owner, trail_owner), names in owned.items():
        yield finding(
            kinds.OTHERS_OWN,
            "",
            f"{quote(owner)}, and not {quote(trail_owner)}, who owns the audit functions, owns "
            f"{several(names)}",
        )


def powers(trails: Sequence[Trail]) -> Iterator[Finding]:
    """Roles that may do what only an owner should."""
    for row in trails[0].health.powers if trails else ():
        role = quote(row.role)
        if row.power == "superuser":
            yield finding(kinds.POWERFUL, "", f"{role} is a superuser")
        elif row.power == "pg_write_all_data":
            yield finding(
                kinds.POWERFUL,
                "",
                f"{role} is a member of pg_write_all_data, and may change every audit table",
                f"REVOKE pg_write_all_data FROM {role}",
                kinds.WARNING,
            )
        else:
            what = f"{role} is a member of {row.power}, and may become superuser"
            yield finding(kinds.POWERFUL, "", what)
    for grantee in trails[0].health.parameters if trails else ():
        yield finding(
            kinds.MAY_SWITCH_OFF,
            "",
            f"{grantee} may set session_replication_role, by which triggers do not fire",
            f"REVOKE ALL ON PARAMETER session_replication_role FROM {grantee}, or the option "
            "'always'",
        )
