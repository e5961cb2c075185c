"""What is wrong with the trails of a database, and how to mend it."""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Sequence

import sqlalchemy as sa

from alembic_audit import catalog, options, tables
from alembic_audit.catalog.everything import read_everything
from alembic_audit.catalog.health import Health, Place, read_health, read_schemas
from alembic_audit.catalog.path import pinned
from alembic_audit.catalog.trust import lock_trusted
from alembic_audit.doctor import around, replay, rights, settings
from alembic_audit.doctor import values as kinds
from alembic_audit.doctor.trail import Check, Trail, WideCheck, shown
from alembic_audit.doctor.values import KINDS, SEVERITIES, Finding, finding
from alembic_audit.naming import CONVENTIONS, qualify
from alembic_audit.spec import AuditSpec
from alembic_audit.sql import text
from alembic_audit.states import AuditState, Catalog, Name

__all__ = ["KINDS", "Examination", "Finding", "coverage", "examine", "examined"]

_CHECKS: Sequence[Check] = (
    around.drift,
    around.triggers,
    around.foreign_keys,
    around.key,
    around.children,
    around.rules,
    around.oddities,
    around.storage,
    rights.grants,
    rights.function,
    settings.required,
)
_WIDE_CHECKS: Sequence[WideCheck] = (
    rights.schemas,
    rights.owners,
    rights.types,
    rights.powers,
    settings.switched_off,
)


def examine(
    connection: sa.Connection,
    specs: Sequence[AuditSpec] | None = None,
    *,
    schemas: Collection[str] | None = None,
    prefixes: Collection[str] | None = None,
    left_out: Collection[Name] = (),
    replayed: bool = False,
    progress: replay.Progress | None = None,
    trusted_owners: Collection[str] = (),
) -> list[Finding]:
    """Return what is wrong with the trails of a database, the worst first.

    Nothing is changed. What the role may not read, a finding says.

    Args:
        connection: Where to look; in a transaction, which is left as it is.
        specs: What the models ask for. None is not known: the trails are those that the headers of
            our functions name.
        schemas: The schemas that are looked at, resolved; None is all that the specs name, or
            without specs every one.
        prefixes: What the names of our triggers begin with.
        left_out: Audited tables that are not to be looked at.
        replayed: Also replay every record of every trail, and compare what comes out with the
            tables. That reads all of them.
        progress: Is told the table and how many of its keys were replayed.
        trusted_owners: Roles whose audit tables are read too, though reading runs code of theirs
            with the rights of the current user.

    Raises:
        AuditError: The connection is in AUTOCOMMIT.

    Returns:
        Findings, sorted by severity, table and kind; none for a healthy database.
    """
    return examined(
        connection,
        specs,
        schemas=schemas,
        prefixes=prefixes,
        left_out=left_out,
        replayed=replayed,
        progress=progress,
        trusted_owners=trusted_owners,
    ).findings


@dataclasses.dataclass(frozen=True)
class Examination:
    """What was looked at, and what was found.

    Attributes:
        tables: The audited tables, as ``schema.name``.
        findings: What is wrong with them, the worst first.
    """

    tables: list[str]
    findings: list[Finding]


def examined(
    connection: sa.Connection,
    specs: Sequence[AuditSpec] | None = None,
    *,
    schemas: Collection[str] | None = None,
    prefixes: Collection[str] | None = None,
    left_out: Collection[Name] = (),
    replayed: bool = False,
    progress: replay.Progress | None = None,
    trusted_owners: Collection[str] = (),
) -> Examination:
    """Return what ``examine`` returns, and of which tables; the arguments are the same."""
    with pinned(connection):
        examination, trails, refusals = _examined(
            connection, specs, schemas, prefixes, left_out, trusted_owners
        )
        if replayed:
            sources = [trail.place.source for trail in trails]
            refusals |= lock_trusted(connection, sources, trusted_owners)
            for trail in trails:
                place = trail.place
                if refusal := refusals.get(place.audit) or refusals.get(place.source):
                    reason = f"the trail was not replayed: {refusal}"
                    examination.findings.append(trail.finding(kinds.NOT_REPLAYED, reason))
                else:
                    examination.findings.extend(replay.findings(connection, trail, progress))
    examination.findings.sort(
        key=lambda one: (SEVERITIES.index(one.severity), one.table, one.kind, one.what)
    )
    return examination


def _examined(
    connection: sa.Connection,
    specs: Sequence[AuditSpec] | None,
    schemas: Collection[str] | None,
    prefixes: Collection[str] | None,
    left_out: Collection[Name],
    trusted_owners: Collection[str],
) -> tuple[Examination, list[Trail], dict[Name, str]]:
    """What was found, the trails, and why audit tables must not be read."""
    default_schema = connection.dialect.default_schema_name or "public"
    if specs is None:
        schemas = read_schemas(connection) if schemas is None else schemas
        found = read_everything(connection)
    else:
        if schemas is None:
            named = (name for one in specs for name in text.schemas(one, default_schema))
            schemas = {default_schema, *named}
        if prefixes is None:
            prefixes = {str(CONVENTIONS["audit.trigger"]).partition("%")[0]}
        found = catalog.read(connection, specs, default_schema, schemas, prefixes)
    states = {name: one for name, one in found.states.items() if name not in left_out}
    places = {name: _place(name, state, default_schema) for name, state in states.items()}
    health = read_health(connection, list(places.values()), schemas)
    made = [*_outside(found, health, default_schema)]
    if specs is not None:
        made += _beside_models(specs, states, found, default_schema)
    trails = [
        Trail(states[name], places[name], health, places, found.foreign_keys.get(name, ()))
        for name in sorted(states)
    ]
    readable = [one.audit for one in places.values() if one.audit in health.relations]
    refusals = lock_trusted(connection, readable, trusted_owners)
    for trail in trails:
        made += [one for check in _CHECKS for one in check(trail)]
        made += settings.records(connection, trail, refusals.get(trail.place.audit))
    made += [one for wide in _WIDE_CHECKS for one in wide(trails)]
    return Examination([trail.name for trail in trails], made), trails, refusals


def coverage(metadatas: Iterable[sa.MetaData]) -> list[Finding]:
    """Return a finding for every Table that is neither audited nor refused with a reason.

    Args:
        metadatas: The models.

    Raises:
        DeclarationError: A declaration is wrong.
    """
    return [
        finding(
            kinds.NOT_DECIDED, table.fullname, f"the models do not say whether {table.fullname} is"
        )
        for metadata in metadatas
        for table in metadata.sorted_tables
        if not tables._is_audit_table(table)
        and options.read(table) is None
        and not table.info.get(options.OPTIONS_KEY, {}).get("reason")
    ]


def _place(source: Name, state: AuditState, default_schema: str) -> Place:
    audit = text.schemas(state.spec, default_schema)[1]
    return Place(source, (audit, state.spec.audit_table), (audit, state.spec.function))


def _beside_models(
    specs: Iterable[AuditSpec],
    states: dict[Name, AuditState],
    found: Catalog,
    default_schema: str,
) -> Iterator[Finding]:
    """What the models ask for beside what there is."""
    declared = {(text.schemas(one, default_schema)[0], one.table): one for one in specs}
    for name, spec in declared.items():
        if name in states:
            yield from _differences(name, spec, states[name])
        elif text.function_name(spec, default_schema) not in found.newer:
            yield finding(
                kinds.NOT_AUDITED,
                shown(name),
                f"the models ask for an audit of {qualify(*name)}, and it has none",
            )
    for name in sorted(states.keys() - declared.keys()):
        yield finding(
            kinds.NOT_IN_MODELS,
            shown(name),
            f"{qualify(*name)} is audited, and the models do not ask for it",
        )


def _differences(name: Name, spec: AuditSpec, state: AuditState) -> Iterator[Finding]:
    wanted, there = spec.unordered().full_kwargs(), state.spec.unordered().full_kwargs()
    if differing := [key for key in wanted if wanted[key] != there[key]]:
        yield finding(
            kinds.DIFFERS,
            shown(name),
            "; ".join(
                f"{key} is {there[key]!r}, and the models say {wanted[key]!r}" for key in differing
            ),
        )


def _outside(found: Catalog, health: Health, default_schema: str) -> Iterator[Finding]:
    """What is part of no trail: strays, newer functions, abandoned audit tables, event triggers."""
    for stray in found.strays:
        yield finding(
            kinds.STRAY,
            shown(stray.table),
            f"function {qualify(*stray.function)} is ours, and part of no trail",
        )
    for function, reason in found.newer.items():
        yield finding(kinds.NEWER, "", f"function {function} was not looked at: {reason}")
    used = {
        (text.schemas(state.spec, default_schema)[1], state.spec.audit_table)
        for state in found.states.values()
    }
    for name in health.audit_tables:
        # Which table a newer function writes into is not known.
        if name not in used and not found.newer and not health.writers_of(name):
            yield finding(
                kinds.ABANDONED,
                shown(name),
                f"nothing writes into audit table {qualify(*name)} any more",
                f"nothing; or, when its records are not wanted any more, op.drop_audit_table"
                f"({name[1]!r}, schema={name[0]!r})",
            )
    for row in health.event_triggers:
        yield finding(
            kinds.EVENT_TRIGGER,
            "",
            f"event trigger {row.evtname} on {row.evtevent} calls {row.nspname}.{row.proname}",
        )
