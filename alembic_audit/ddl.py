"""VerbatimDDL, the one way in which this package sends SQL, and trails without a migration."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, Engine, MetaData, Table, event
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import ExecutableDDLElement

from alembic_audit import catalog, sql
from alembic_audit.errors import AuditError
from alembic_audit.naming import DefaultSchema
from alembic_audit.spec import AuditSpec
from alembic_audit.sql.text import schemas
from alembic_audit.states import AuditState

SPEC_KEY = "audit.spec"
TARGET_KEY = "audit.target_table"


class VerbatimDDL(ExecutableDDLElement):
    """One SQL statement that reaches the server, or the ``--sql`` script, as it is written.

    ``text()``, ``DDL()`` and plain strings each break on ``%``, ``:`` or backslash.
    """

    inherit_cache: bool | None = False

    def __init__(self, statement: str) -> None:
        self.statement = statement


@compiles(VerbatimDDL)
def _compile(element: VerbatimDDL, compiler: Any, **kw: Any) -> str:
    return element.statement


def verbatim(statement: str) -> ExecutableDDLElement:
    """Return *statement* as an executable that no driver looks for parameters in."""
    made: ExecutableDDLElement = VerbatimDDL(statement).execution_options(no_parameters=True)
    return made


def create_and_drop_text(spec: AuditSpec) -> tuple[str, str]:
    """Return what creates and what drops function and triggers, each as one text.

    A schema of None is written as ``public`` here, where no connection can say otherwise.
    """
    return (
        "".join(statement + ";\n" for statement in sql.create(spec, "public")),
        "".join(statement + ";\n" for statement in sql.drop_spec(spec, "public")),
    )


def attach(metadata: MetaData) -> None:
    """Let ``create_all`` and ``drop_all`` of audit tables take function and triggers along.

    Only PostgreSQL gets them. These are events of one MetaData, which Alembic's ``op.create_table``
    does not fire: a migration creates nothing twice. Attached again, nothing changes.
    """
    event.listen(metadata, "after_create", _after_create)
    event.listen(metadata, "before_drop", _before_drop)


def _after_create(metadata: MetaData, connection: Connection, *, tables: Any, **kw: Any) -> None:
    if connection.dialect.name == "postgresql":
        default = default_schema(connection)
        for spec in _trails(metadata, tables):
            for statement in sql.create(spec, default):
                connection.execute(verbatim(statement))


def _before_drop(metadata: MetaData, connection: Connection, *, tables: Any, **kw: Any) -> None:
    if connection.dialect.name == "postgresql":
        default = default_schema(connection)
        for spec in _trails(metadata, tables):
            connection.execute(verbatim(sql.drop_if_there(spec, default)))


def _trails(metadata: MetaData, tables: Iterable[Table]) -> Iterator[AuditSpec]:
    """Yield the specs of those tables that are audit tables, as derived last, and no copies."""
    for table in tables:
        spec: AuditSpec | None = table.info.get(SPEC_KEY)
        if (
            spec is not None
            and (spec.audit_schema, spec.audit_table) == (table.schema, table.name)
            and metadata.tables.get(table.key) is table
            and table.info[TARGET_KEY].metadata is metadata
        ):
            yield spec


def default_schema(connection: Connection) -> str:
    """Return what a schema of None means on a connection, without a query.

    Its ``schema_translate_map``, which then applies to other schemas too, else the dialect's
    default schema.
    """
    mapped = connection.get_execution_options().get("schema_translate_map") or {}
    default = mapped.get(None) or connection.dialect.default_schema_name or "public"
    return DefaultSchema(default, {key: value for key, value in mapped.items() if key and value})


def install_audit_triggers(
    metadata: MetaData, engine: Engine | Connection | None = None
) -> list[str]:
    """Start the trails of every audited table, where no migration does it.

    The tables must exist, the audit tables too. A trail that is there already is left as it is.

    Args:
        metadata: Whose tables; those that ask for an audit get their audit Table.
        engine: Where to run; a Connection runs it in the transaction of the caller.

    Returns:
        The statements that were run, or, without an engine, those to run; a schema of None is
        written as ``public`` then.

    Raises:
        AuditError: A trail is there that is not the declared one, the database is not PostgreSQL,
            or the engine is asynchronous.
        DeclarationError: A declaration is wrong.

    Example:
        >>> for statement in install_audit_triggers(Base.metadata):
        ...     print(statement + ";")
    """
    specs = _declared(metadata)
    if engine is None:
        return _flat(sql.create(one, "public") for one in specs)

    def missing(connection: Connection) -> list[str]:
        default = default_schema(connection)
        absent = []
        for one, state in _states(connection, specs, default):
            if state is None:
                absent.append(one)
            elif state.drift or state.spec.unordered() != one.unordered():
                raise AuditError(
                    f"table {one.table!r} has a trail that is not the declared one, so nothing was "
                    "installed; write a migration, or call uninstall_audit_triggers first"
                )
        return _flat(sql.create(one, default) for one in absent)

    return _run("install_audit_triggers", engine, missing)


def uninstall_audit_triggers(
    metadata: MetaData, engine: Engine | Connection | None = None
) -> list[str]:
    """End the trails of every audited table, where no migration does it; the records stay.

    Args:
        metadata: Whose tables.
        engine: Where to run; a Connection runs it in the transaction of the caller.

    Returns:
        The statements that were run, or, without an engine, those to run; a schema of None is
        written as ``public`` then.

    Raises:
        AuditError: The database is not PostgreSQL, or the engine is asynchronous.
        DeclarationError: A declaration is wrong.
    """
    specs = _declared(metadata)
    if engine is None:
        return _flat(sql.drop_spec(one, "public") for one in specs)

    def present(connection: Connection) -> list[str]:
        default = default_schema(connection)
        # What is there is dropped under the names that it has.
        return _flat(
            sql.drop_spec(state.spec, default)
            for _, state in _states(connection, specs, default)
            if state is not None
        )

    return _run("uninstall_audit_triggers", engine, present)


def _declared(metadata: MetaData) -> list[AuditSpec]:
    from alembic_audit import tables  # which needs this module

    return tables.derive_all(metadata)


def _flat(texts: Iterable[list[str]]) -> list[str]:
    return [statement for statements in texts for statement in statements]


def _states(
    connection: Connection, specs: list[AuditSpec], default: str
) -> list[tuple[AuditSpec, AuditState | None]]:
    """Return each spec with the trail that its table has."""
    states = catalog.read(connection, specs, default, []).states
    return [(one, states.get((schemas(one, default)[0], one.table))) for one in specs]


def _run(
    name: str, engine: Engine | Connection, statements: Callable[[Connection], list[str]]
) -> list[str]:
    if isinstance(engine, Engine):
        with engine.begin() as connection:
            return _run(name, connection, statements)
    if not isinstance(engine, Connection):
        raise AuditError(
            f"{name} needs an Engine or a Connection, found {type(engine).__name__}; with an "
            "asynchronous engine write: async with engine.begin() as connection: await "
            f"connection.run_sync(lambda connection: {name}(metadata, connection))"
        )
    if engine.dialect.name != "postgresql":
        raise AuditError(
            f"audit triggers are PostgreSQL's, and this database is {engine.dialect.name}; the "
            "tables can be used there, without a trail"
        )
    run = statements(engine)
    for statement in run:
        engine.execute(verbatim(statement))
    return run
