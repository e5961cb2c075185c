"""What the database holds: specs and their drift. The only package that reads catalogs.

Four statements, whatever the number of tables. They read raw catalogs and take no lock that
anything but DROP of the object itself waits for.
"""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from alembic_audit import sql
from alembic_audit.catalog import queries
from alembic_audit.catalog.foreign import trigger as foreign_trigger
from alembic_audit.catalog.state import (
    Definitions,
    State,
    Trigger,
    Triggers,
    restore,
    table_of,
)
from alembic_audit.levels import ForeignKey
from alembic_audit.naming import qualify
from alembic_audit.spec import HEADER, AuditSpec, NewerSpecError
from alembic_audit.sql import text
from alembic_audit.states import Catalog, ForeignTrigger, Name, Stray


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
        queries.FUNCTIONS,
        {
            "header": HEADER,
            "schemas": sorted({*schemas, *(schema for schema, _ in by_name)}),
            "names": sorted({name for _, name in by_name}),
            "prefixes": sorted(prefix for prefix in prefixes if prefix),
        },
    ).all()
    triggers: dict[int, list[Trigger]] = defaultdict(list)
    foreign: list[ForeignTrigger] = []
    tables = sorted({(text.schemas(one, default_schema)[0], one.table) for one in declared})
    rows = _triggers(connection, [row.oid for row in functions], tables)
    for row in rows:
        if row.foreign_source is None:
            triggers[row.tgfoid].append(row)
        else:
            foreign.append(foreign_trigger(row, row.foreign_source))

    taken, strays, newer = _sort_out(functions, triggers, by_name, default_schema, prefixes)
    ours = {row.oid for _, row, _ in taken.values()} | {row.oid for _, row in strays}
    for function in functions:
        name = (function.nspname, function.proname)
        if function.oid not in ours and qualify(*name) not in newer:
            foreign += [foreign_trigger(row, function.prosrc) for row in triggers[function.oid]]
    of_statements = [one for one in declared if one.statement_level]
    relations = _relations(
        connection, [*of_statements, *(spec for spec, _, _ in taken.values())], default_schema
    )
    others = Triggers([spec for spec, _, _ in taken.values()], rows, default_schema)
    definitions = _definitions(connection, rows)
    states = {
        name: State(
            spec, row, header, triggers[row.oid], relations, others, default_schema, definitions
        ).read()
        for name, (spec, row, header) in taken.items()
    }
    made = [
        Stray(
            table_of(spec, triggers[row.oid], default_schema),
            (row.nspname, row.proname),
            spec.audit_table if spec else None,
            restore(row, triggers[row.oid], definitions),
        )
        for spec, row in strays
    ]
    return Catalog(
        states,
        made,
        newer,
        foreign,
        _unfit(of_statements, relations, default_schema),
        {
            name: [_foreign_key(row, one) for one in row.foreign_keys]
            for name, row in relations.items()
        },
    )


def _foreign_key(relation: sa.Row[Any], constraint: str) -> ForeignKey:
    """What a foreign key does to rows, of its row in pg_constraint (PostgreSQL manual, 51.13)."""
    name, on_delete, on_update, columns, set_by_delete = json.loads(constraint)
    updates = set(columns) if on_update in "cnd" else set()
    if on_delete in "nd":
        updates.update(set_by_delete or columns)
    changed = frozenset(relation.columns[number - 1] for number in updates)
    return ForeignKey(name, on_delete == "c", changed)


def _triggers(
    connection: sa.Connection, functions: Sequence[int], tables: Sequence[Name]
) -> list[Trigger]:
    """Return the triggers that call some functions, and those of others on some tables."""
    rows = connection.execute(
        queries.TRIGGERS,
        {
            "functions": functions,
            "table_schemas": [schema for schema, _ in tables],
            "tables": [name for _, name in tables],
        },
    )
    return [Trigger(*row) for row in rows.all()]


def _definitions(connection: sa.Connection, triggers: Sequence[Trigger]) -> Definitions:
    """Return what asks for the statements that make triggers, of all at once where it may."""
    known: dict[int, str] = {}

    def definition(row: Trigger) -> str:
        if row.oid not in known:
            wanted = [row] if row.conditional else [one for one in triggers if not one.conditional]
            oids = [one.oid for one in wanted]
            known.update(
                (oid, text)
                for oid, text in connection.execute(queries.DEFINITIONS, {"triggers": oids})
            )
        return known[row.oid]

    return definition


def _unfit(
    specs: Sequence[AuditSpec], relations: Mapping[Name, sa.Row[Any]], default_schema: str
) -> dict[Name, str]:
    unfit = {}
    for spec in specs:
        name = (text.schemas(spec, default_schema)[0], spec.table)
        row = relations.get(name)
        if row is not None and row.relkind != "r":
            unfit[name] = "is partitioned" if row.relkind == "p" else "is a foreign table"
        elif row is not None and row.inherits:
            unfit[name] = "is a partition, inherits another table, or is inherited"
    return unfit


def read_strays(connection: sa.Connection, functions: Collection[Name]) -> list[Stray]:
    """Return somebody else's trigger functions, to be taken over: dropped, and given back.

    Args:
        connection: Where to read.
        functions: The functions.
    """
    found = connection.execute(
        queries.FUNCTIONS,
        {
            "header": HEADER,
            "schemas": sorted({schema for schema, _ in functions}),
            "names": sorted({name for _, name in functions}),
            "prefixes": [],
        },
    ).all()
    rows = {row.oid: row for row in found if (row.nspname, row.proname) in functions}
    triggers: dict[int, list[Trigger]] = defaultdict(list)
    every = _triggers(connection, list(rows), [])
    for trigger in every:
        triggers[trigger.tgfoid].append(trigger)
    definitions = _definitions(connection, every)
    return [
        Stray(
            table_of(None, triggers[oid], ""),
            (row.nspname, row.proname),
            None,
            restore(row, triggers[oid], definitions),
        )
        for oid, row in rows.items()
    ]


_Taken = dict[Name, tuple[AuditSpec, "sa.Row[Any]", AuditSpec | None]]


def _sort_out(
    functions: Sequence[sa.Row[Any]],
    triggers: Mapping[int, Sequence[Trigger]],
    by_name: Mapping[Name, AuditSpec],
    default_schema: str,
    prefixes: Collection[str],
) -> tuple[_Taken, list[tuple[AuditSpec | None, sa.Row[Any]]], dict[str, str]]:
    """Return the trails (spec, function, what its header says), strays and newer ones."""
    taken: _Taken = {}
    strays: list[tuple[AuditSpec | None, sa.Row[Any]]] = []
    newer: dict[str, str] = {}
    others: list[tuple[AuditSpec | None, sa.Row[Any]]] = []
    for row in functions:
        try:
            spec = _header(row, by_name, default_schema)
        except NewerSpecError as error:
            newer[qualify(row.nspname, row.proname)] = str(error)
            continue
        if spec is not None:
            source, audit = text.schemas(spec, default_schema)
            if (audit, spec.function) == (row.nspname, row.proname):
                taken[(source, spec.table)] = (spec, row, spec)
                continue
        others.append((spec, row))
    for spec, row in others:
        own = [trigger for trigger in triggers.get(row.oid, ()) if not trigger.parent]
        meant = by_name.get((row.nspname, row.proname))
        if meant is not None and _calls_by_our_trigger(meant, own, default_schema):
            name = (text.schemas(meant, default_schema)[0], meant.table)
            if name not in taken:
                taken[name] = (meant, row, spec)
                continue
        if spec is None:
            if own and all(one.tgname.startswith(tuple(filter(None, prefixes))) for one in own):
                strays.append((None, row))
            continue  # or somebody else's function
        source, audit = text.schemas(spec, default_schema)
        name = (source, spec.table)
        if audit == row.nspname and name not in taken:
            taken[name] = (dataclasses.replace(spec, function=row.proname), row, spec)
        elif (
            audit == row.nspname
            or spec.audit_schema is not None
            or any((one.nspname, one.relname) == name for one in own)
        ):
            strays.append((spec, row))
        # Otherwise a copy in another schema, of another tenant.
    return taken, strays, newer


def _header(
    row: sa.Row[Any], by_name: Mapping[Name, AuditSpec], default_schema: str
) -> AuditSpec | None:
    """Return the spec in the header of a function; that of a declared function is known."""
    meant = by_name.get((row.nspname, row.proname))
    if meant is not None and row.prosrc == sql.body(meant, default_schema):
        return meant
    return AuditSpec.from_body(row.prosrc)


def _calls_by_our_trigger(
    spec: AuditSpec, triggers: Sequence[Trigger], default_schema: str
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
        queries.RELATIONS,
        {"schemas": [schema for schema, _ in names], "names": [name for _, name in names]},
    )
    return {(row.nspname, row.relname): row for row in rows}
