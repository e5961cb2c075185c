"""``run_migrations(follow=True)``: trails follow migrations that know nothing of them.

A follower knows each audited table and column by its identity in the catalogs, the OID and the
attribute number, which renaming leaves alone. It looks before each statement that may change rows,
and at the end of each revision, and changes the trails as autogenerate would have.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import alembic  # noqa: F401  (first, or the order of imports decides whether this module loads)
import sqlalchemy as sa
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.operations import Operations, ops
from alembic.operations.ops import MigrateOperation
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event

from alembic_audit import naming, options, sql, tables
from alembic_audit.autogenerate.names import audit_of, table_of
from alembic_audit.catalog import queries
from alembic_audit.catalog.everything import read_everything
from alembic_audit.database_types import DatabaseType
from alembic_audit.ddl import VerbatimDDL, verbatim
from alembic_audit.levels import OF_ROWS
from alembic_audit.operations import (
    AuditOperation,
    CreateAuditTriggerOp,
    DropAuditTriggerOp,
    RenameAuditedColumnOp,
    RenameAuditedTableOp,
    ReplaceAuditTriggerOp,
    SnapshotAuditTableOp,
)
from alembic_audit.operations.run import default_schema
from alembic_audit.spec import HEADER, AuditSpec, key_index
from alembic_audit.sql import move
from alembic_audit.states import AuditState, Name

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPICursor

LOG = logging.getLogger("alembic.audit.follow")
"""Below ``alembic``, whose level Alembic's own template sets to INFO."""

_PLUGINS = ["alembic.autogenerate.*", "alembic_audit"]
_DDL = re.compile(
    r"(?:\s|--[^\n]*\n|/\*(?:[^*]|\*(?!/))*\*/)*"
    r"(?:(?P<ddl>ALTER|CREATE|DROP|COMMENT|GRANT|REVOKE)|(?P<truncate>TRUNCATE))\b",
    re.IGNORECASE,
)
_NOT_SPLIT = re.compile(r"\$|\bATOMIC\b", re.IGNORECASE)
"""What sqlparse may split in the middle: a dollar-quoted text, the body of an SQL function."""

_FACTS = sa.text(
    """
    SELECT c.oid, n.nspname, c.relname, pg_catalog.pg_relation_filenode(c.oid) AS file,
      ARRAY(
        SELECT i.indkey[k] FROM pg_catalog.pg_index AS i,
          pg_catalog.generate_series(0, i.indnkeyatts - 1) AS k
        WHERE i.indrelid = c.oid AND i.indisprimary
        ORDER BY k
      ) AS key,
      ARRAY(
        SELECT pg_catalog.json_build_array(a.attnum, a.attname, a.atttypid::pg_catalog.int8,
          a.atttypmod, pg_catalog.format_type(a.atttypid, a.atttypmod), a.atthasmissing,
          a.attgenerated = 'v')::pg_catalog.text
        FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY a.attnum
      ) AS columns
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = ANY (CAST(:tables AS pg_catalog.oid[]))
    """
).bindparams(sa.bindparam("tables", type_=sa.ARRAY(sa.BigInteger())))

_TABLES = sa.text(
    f"""
    SELECT c.oid, n.nspname, c.relname FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'f') AND {queries.WANTED}
    """
).bindparams(
    sa.bindparam("schemas", type_=sa.ARRAY(sa.Text())),
    sa.bindparam("names", type_=sa.ARRAY(sa.Text())),
)

_FUNCTIONS = sa.text(
    """
    SELECT n.nspname, p.proname, pg_catalog.concat(p.xmin, p.ctid) AS version
    FROM pg_catalog.pg_proc AS p
    JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
    WHERE p.prorettype = 'pg_catalog.trigger'::pg_catalog.regtype
      AND pg_catalog.starts_with(p.prosrc, :header)
    ORDER BY 1, 2
    """
)


@dataclasses.dataclass(frozen=True)
class _Column:
    """A column as the catalogs have it."""

    name: str
    type: int
    modifier: int
    spelled: str
    has_missing: bool
    virtual: bool


@dataclasses.dataclass(frozen=True)
class _Table:
    """A table as the catalogs have it; its OID and its attribute numbers are its identity."""

    name: Name
    file: int | None
    key: tuple[int, ...]
    columns: Mapping[int, _Column]

    def number_of(self, column: str) -> int | None:
        """The attribute number of a column."""
        return next((n for n, one in self.columns.items() if one.name == column), None)


@dataclasses.dataclass(frozen=True)
class _Trail:
    """A trail as it was when it last fitted its table.

    Attributes:
        spec: What it records.
        table: The audited table then.
        version: That of its function, which changes when the function is replaced.
    """

    spec: AuditSpec
    table: _Table
    version: str

    @property
    def records_all(self) -> bool:
        """Whether no column of the table is left out."""
        return {one.name for one in self.table.columns.values() if not one.virtual} == set(
            self.spec.stored
        )


@contextmanager
def following(migration: MigrationContext, metadata: Iterable[sa.MetaData]) -> Iterator[None]:
    """Let trails follow the statements that are sent in a ``with`` block.

    Args:
        migration: Whose connection.
        metadata: The models, whose options decide about new columns.
    """
    follower = _Follower(migration, list(metadata))
    connection = follower.connection
    event.listen(connection, "before_cursor_execute", follower.before, retval=True)
    try:
        yield
        # With transaction_per_migration the last migration is committed by now.
        is_own = not connection.in_transaction()
        follower.catch_up()
        follower.finish()
        if is_own:
            connection.commit()
    finally:
        event.remove(connection, "before_cursor_execute", follower.before)


class _Follower:
    """The trails of a database, on the way through other people's migrations."""

    def __init__(self, migration: MigrationContext, metadata: list[sa.MetaData]) -> None:
        assert migration.connection is not None
        self.migration = migration
        self.connection = migration.connection
        self.metadata = metadata
        self.default_schema = default_schema(Operations(migration))
        self.written = MigrationContext.configure(
            dialect=self.connection.dialect, opts={"target_metadata": sa.MetaData()}
        )
        self.functions: dict[Name, str] = {}
        self.trails: dict[int, _Trail] = {}
        self.busy = False
        self.changed = False
        self.emptied = False
        with self._alone():
            self._read()

    # -- what is sent ----------------------------------------------------------------------------

    def before(
        self,
        connection: sa.Connection,
        cursor: DBAPICursor,
        statement: str,
        parameters: Any,
        context: Any,
        executemany: bool,
    ) -> tuple[str, Any]:
        """Catch up before a statement that may change rows; send several one by one."""
        if self.busy:
            return statement, parameters
        if context.compiled is not None and isinstance(context.compiled.statement, VerbatimDDL):
            self.changed = True  # by an operation of ours, which changes the trail itself
            return statement, parameters
        *most, last = [statement] if parameters else _split(statement)
        for each in most:
            self._note(each)
            connection.dialect.do_execute_no_params(cursor, each)
        self._note(last)
        return last if most else statement, parameters

    def _note(self, statement: str) -> None:
        found = _DDL.match(statement)
        if found is None or found["ddl"] is None:
            self.catch_up()
        if found is None:
            return
        if found["truncate"]:
            self.emptied = True
        else:
            self.changed = True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let pass what is sent in a ``with`` block."""
        self.busy = True
        try:
            yield
        finally:
            self.busy = False

    # -- what is there ---------------------------------------------------------------------------

    def _read(self) -> None:
        """Take note of the trails as they are."""
        self.functions = self._versions()
        states = {
            name: state.spec
            for name, state in read_everything(self.connection).states.items()
            if not state.audit_table_missing
        }
        rows = self.connection.execute(
            _TABLES,
            {"schemas": [name[0] for name in states], "names": [name[1] for name in states]},
        )
        specs = {row.oid: states[row.nspname, row.relname] for row in rows}
        facts = self._facts(specs)
        self.trails = {
            oid: _Trail(spec, facts[oid], self.functions[self._function(spec)])
            for oid, spec in specs.items()
            if set(spec.stored) <= {one.name for one in facts[oid].columns.values()}
            and self._function(spec) in self.functions
        }

    def _function(self, spec: AuditSpec) -> Name:
        return (naming.resolve(spec.audit_schema, self.default_schema), spec.function)

    def _versions(self) -> dict[Name, str]:
        rows = self.connection.execute(_FUNCTIONS, {"header": HEADER})
        return {(row.nspname, row.proname): row.version for row in rows}

    def _facts(self, tables: Iterable[int]) -> dict[int, _Table]:
        rows = self.connection.execute(_FACTS, {"tables": sorted(tables)})
        return {row.oid: _table(row) for row in rows}

    # -- catching up -----------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Change the trails whose tables are not as they were."""
        if not (self.changed or self.emptied):
            return
        with self._alone():
            if self.emptied:
                self._forget_files()
            if self.changed:
                self._follow_all()
        self.changed = self.emptied = False

    def _forget_files(self) -> None:
        """Take note of the files that TRUNCATE gave to tables: it rewrote no row."""
        for oid, now in self._facts(self.trails).items():
            trail = self.trails[oid]
            table = dataclasses.replace(trail.table, file=now.file)
            self.trails[oid] = dataclasses.replace(trail, table=table)

    def _follow_all(self) -> None:
        versions, facts = self._versions(), self._facts(self.trails)
        followed = versions != self.functions  # by operations of ours
        for oid, trail in sorted(self.trails.items()):
            now = facts.get(oid)
            if versions.get(self._function(trail.spec)) != trail.version:
                continue  # an operation of ours changed it
            if now is None:
                self._run(DropAuditTriggerOp.from_state(AuditState(trail.spec)))
                followed = True
            elif now != trail.table:
                self._follow(trail, now)
                followed = True
        if followed:
            self._read()

    def _follow(self, trail: _Trail, now: _Table) -> None:
        spec = self._renamed(trail, now)
        if _same_but_names(trail.table, now):
            return
        self._adapt(trail, spec, now)

    def _renamed(self, trail: _Trail, now: _Table) -> AuditSpec:
        """Let a trail follow the names of its table and columns; return what it records now."""
        gone = [
            one.name for number, one in trail.table.columns.items() if number not in now.columns
        ]
        names = {
            one.name: now.columns[number].name
            for number, one in trail.table.columns.items()
            if number in now.columns and now.columns[number].name != one.name
        }
        spec = _without(trail.spec, gone)
        for column, renamed in _in_turn({k: v for k, v in names.items() if k in spec.stored}):
            former, spec = spec, spec.with_renamed(column, renamed)
            self._log(RenameAuditedColumnOp(former, spec, column, renamed))
            self._send(move.audit_column(former, self.default_schema, column, renamed))
        if now.name != trail.table.name:
            former, spec = spec, self._moved(spec, now.name)
            self._log(RenameAuditedTableOp(former, spec))
        if spec != trail.spec:
            if gone:
                self._log(ReplaceAuditTriggerOp(AuditState(trail.spec), AuditState(spec)))
            self._send(sql.replace(trail.spec, spec, self.default_schema))
        return spec

    def _moved(self, spec: AuditSpec, name: Name) -> AuditSpec:
        """The spec of a table that has another name or schema now.

        Audit table, function and trigger take the names that the convention gives, where they had
        those before and the new ones are free.
        """
        schema, table = name
        given = None if schema == self.default_schema else schema
        in_its_schema = spec.audit_schema == spec.schema
        moved = dataclasses.replace(
            spec,
            table=table,
            schema=given,
            audit_schema=given if in_its_schema else spec.audit_schema,
        )
        for convention in ({}, *(one.naming_convention for one in self.metadata)):
            if _conventional(spec, convention) == _names(spec):
                given_names: dict[str, Any] = {**_conventional(moved, convention)}
                named = dataclasses.replace(moved, **given_names)
                return moved if self._is_taken(named, spec) else named
        return moved

    def _is_taken(self, spec: AuditSpec, former: AuditSpec) -> bool:
        """Whether another table or function has a name that a trail would take."""
        audit, function = audit_of(spec, self.default_schema), self._function(spec)
        if audit != audit_of(former, self.default_schema):
            place = {"schemas": [audit[0]], "names": [audit[1]]}
            if self.connection.execute(_TABLES, place).all():
                return True
        return function != self._function(former) and function in self._versions()

    def _adapt(self, trail: _Trail, spec: AuditSpec, now: _Table) -> None:
        """Give a trail the columns, types and key that its table has now, as autogenerate would."""
        wanted = _scratch(self.connection, trail, spec, now, self._declared(now.name))
        audit = audit_of(spec, self.default_schema)
        context = MigrationContext.configure(
            self.connection,
            opts={
                "target_metadata": wanted,
                "autogenerate_plugins": _PLUGINS,
                "include_schemas": True,
                "include_name": _only({now.name, audit}, self.default_schema),
            },
        )
        for op in _flat(produce_migrations(context, wanted).upgrade_ops):
            is_index = isinstance(op, ops.DropIndexOp) and op.index_name != key_index(spec)
            table = table_of(op, self.default_schema)
            if not is_index and (table == audit or _is_of(op, now.name, self.default_schema)):
                self._run(op)
        if trail.table.file != now.file or any(
            column.has_missing and number not in trail.table.columns
            for number, column in now.columns.items()
        ):
            [found] = tables.derive_all(wanted)
            self._run(SnapshotAuditTableOp(found))

    def _declared(self, name: Name) -> sa.Table | None:
        """The Table that the models have under a name."""
        for metadata in self.metadata:
            for table in metadata.tables.values():
                if (table.schema or self.default_schema, table.name) == name:
                    return table
        return None

    # -- the end ---------------------------------------------------------------------------------

    def finish(self) -> None:
        """At head, give every declared trail what autogenerate would give it: new tables too."""
        environment = self.migration.environment_context
        if environment is None or not any(
            options.read(table) for one in self.metadata for table in list(one.tables.values())
        ):
            return
        if set(environment.script.get_heads()) != set(self.migration.get_current_heads()):
            return
        with self._alone():
            metadata: Any = self.metadata if len(self.metadata) > 1 else self.metadata[0]
            upgrade = produce_migrations(self.migration, metadata).upgrade_ops
            audits = {
                audit_of(spec, self.default_schema)
                for one in self.metadata
                for spec in tables.derive_all(one)
            }
            for op in _flat(upgrade):
                if isinstance(op, DropAuditTriggerOp):
                    continue  # a trail ends when a person writes it
                if isinstance(op, AuditOperation) or table_of(op, self.default_schema) in audits:
                    self._run(op)
                    if isinstance(op, CreateAuditTriggerOp) and op.snapshot:
                        self._run(SnapshotAuditTableOp(op.state.spec))

    # -- running ---------------------------------------------------------------------------------

    def _run(self, op: MigrateOperation) -> None:
        self._log(op)
        Operations(self.migration).invoke(op)

    def _log(self, op: MigrateOperation) -> None:
        text = render_python_code(ops.UpgradeOps([op]), migration_context=self.written)
        LOG.info("A trail follows by %s", text.strip())

    def _send(self, statements: Iterable[str]) -> None:
        for statement in statements:
            self.connection.execute(verbatim(statement))


def _table(row: Any) -> _Table:
    columns = {}
    for each in row.columns:
        number, name, kind, modifier, spelled, has_missing, virtual = json.loads(each)
        columns[number] = _Column(name, kind, modifier, spelled, has_missing, virtual)
    return _Table((row.nspname, row.relname), row.file, tuple(row.key), columns)


def _split(statement: str) -> list[str]:
    """The statements of a text, unless it could be split in the middle of one."""
    if ";" not in statement.strip().rstrip(";") or _NOT_SPLIT.search(statement):
        return [statement]
    import sqlparse  # slow to import, and needed for several statements in one text alone

    parts = [one for one in sqlparse.split(statement) if sqlparse.format(one, strip_comments=True)]
    return parts or [statement]


def _same_but_names(old: _Table, new: _Table) -> bool:
    """Whether nothing but the names of a table and of its columns differs."""

    def facts(table: _Table) -> _Table:
        columns = {
            number: dataclasses.replace(one, name="") for number, one in table.columns.items()
        }
        return dataclasses.replace(table, name=("", ""), columns=columns)

    return facts(old) == facts(new)


def _without(spec: AuditSpec, columns: Iterable[str]) -> AuditSpec:
    """The spec without columns that are gone; a key that lost one is none."""
    gone = set(columns) & set(spec.stored)
    left = spec.without(gone) if gone else spec
    if left.key != spec.key:
        rows = {*left.row_level, *({"update"} & set(left.operations))}
        row_level = tuple(name for name in OF_ROWS if name in rows)
        return dataclasses.replace(left, key=(), row_level=row_level, sparse_columns=())
    return left


def _in_turn(names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield renamings in such an order that none takes a name which is still in use."""
    left = dict(sorted(names.items()))
    while left:
        column = next((old for old, new in left.items() if new not in left), None)
        if column is None:  # in a circle
            column, renamed = left.popitem()
            aside = naming.shorten(f"{column}__moving")
            yield column, aside
            left[aside] = renamed
        else:
            yield column, left.pop(column)


def _names(spec: AuditSpec) -> dict[str, str]:
    return {name: getattr(spec, name) for name in ("audit_table", "function", "trigger")}


def _conventional(spec: AuditSpec, convention: Mapping[Any, Any]) -> dict[str, str]:
    """The names that a convention gives to audit table, function and trigger."""
    return {
        name: naming.conventional(
            convention,
            key,
            table_name=spec.table,
            schema=spec.audit_schema,
            source_schema=spec.schema,
        )
        for name, key in (
            ("audit_table", "audit.table"),
            ("function", "audit.function"),
            ("trigger", "audit.trigger"),
        )
    }


def _scratch(
    connection: sa.Connection,
    trail: _Trail,
    spec: AuditSpec,
    now: _Table,
    declared: sa.Table | None,
) -> sa.MetaData:
    """Models of one table as it is now, which ask for the trail that it shall have."""
    convention = {
        "audit.table": spec.audit_table,
        "audit.function": spec.function,
        "audit.trigger": spec.trigger,
    }
    metadata = sa.MetaData(
        naming_convention={key: name.replace("%", "%%") for key, name in convention.items()}
    )
    inspector = sa.inspect(connection)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sa.exc.SAWarning)  # of a type that is not known
        reflected = inspector.get_columns(now.name[1], schema=spec.schema)
    types = {one["name"]: one["type"] for one in reflected}
    audit = {
        one["name"]: one["type"]
        for one in inspector.get_columns(spec.audit_table, schema=spec.audit_schema)
    }
    indexes = {one["name"] for one in inspector.get_indexes(spec.audit_table, spec.audit_schema)}
    key = _key_of(trail, spec, now)
    columns = []
    for one in now.columns.values():
        is_known = not isinstance(types[one.name], sa.types.NullType)
        kind = types[one.name] if is_known else DatabaseType(one.spelled)
        columns.append(sa.Column(one.name, kind, primary_key=one.name in key))
    table = sa.Table(spec.table, metadata, *columns, schema=spec.schema)
    given: dict[str, Any] = {"level": dict.fromkeys(trail.spec.row_level, "row")} | {
        name: getattr(spec, name)
        for name in (
            "ignore_columns",
            "hash_columns",
            "operations",
            "skip_unchanged",
            "changed_columns",
            "audit_columns",
            "always",
            "owner",
            "partitions",
            "append_only",
            "sparse_columns",
        )
    }
    tables.audit_table(
        table,
        schema_name=spec.audit_schema,
        session_settings=[
            sa.Column(one.name, audit[one.column], nullable=not one.required)
            for one in spec.session_settings
        ],
        include_columns=[
            one.name
            for number, one in now.columns.items()
            if one.name in spec.stored
            or one.name in key
            or (number not in trail.table.columns and _is_wanted(one, declared, trail))
        ],
        indexes=None if key_index(spec) in indexes else (),
        **given,
    )
    return metadata


def _key_of(trail: _Trail, spec: AuditSpec, now: _Table) -> list[str]:
    """The columns of the primary key, or those that somebody wrote as the key by hand."""
    before = {trail.table.columns[number].name for number in trail.table.key}
    if set(trail.spec.key) != before and spec.key:
        return list(spec.key)
    return [now.columns[number].name for number in now.key]


def _is_wanted(column: _Column, declared: sa.Table | None, trail: _Trail) -> bool:
    """Whether a new column is recorded: as the models say, else where all others are."""
    if declared is not None and column.name in declared.columns:
        spec: AuditSpec | None = declared.info.get(tables.SPEC_KEY)
        if spec is not None:
            return column.name in spec.stored
    return trail.records_all and not column.virtual


def _only(names: Collection[Name], default_schema: str) -> Callable[..., bool]:
    """A filter of Alembic's that lets it look at some tables alone."""
    schemas = {schema for schema, _ in names}

    def include_name(name: str | None, kind: str, parents: Mapping[str, str | None]) -> bool:
        if kind == "schema":
            return (name or default_schema) in schemas
        if kind == "table":
            return (parents["schema_name"] or default_schema, name) in names
        return True

    return include_name


def _is_of(op: MigrateOperation, name: Name, default_schema: str) -> bool:
    """Whether an operation of ours is about an audited table."""
    if isinstance(op, ReplaceAuditTriggerOp):
        spec = op.new.spec
        return (spec.schema or default_schema, spec.table) == name
    return isinstance(op, AuditOperation) and table_of(op, default_schema) == name


def _flat(upgrade: ops.UpgradeOps | None) -> Iterator[MigrateOperation]:
    for op in upgrade.ops if upgrade is not None else ():
        if isinstance(op, ops.ModifyTableOps):
            yield from op.ops
        else:
            yield op
