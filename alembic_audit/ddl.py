"""VerbatimDDL, the one way in which this package sends SQL, and the DDL texts in Table.info."""

from typing import Any

from sqlalchemy import Connection, MetaData, Table, event
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import ExecutableDDLElement

from alembic_audit import sql
from alembic_audit.spec import AuditSpec

SPEC_KEY = "audit.spec"


class VerbatimDDL(ExecutableDDLElement):
    """One SQL statement that reaches the server, or the ``--sql`` script, as it is written.

    ``text()``, ``DDL()`` and plain strings each break on ``%``, ``:`` or backslash.
    """

    inherit_cache = False

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


def attach(audit: Table) -> None:
    """Let ``create_all`` and ``drop_all`` of an audit table take function and triggers along.

    Only PostgreSQL gets them. These are events of one MetaData, which Alembic's ``op.create_table``
    does not fire: a migration creates nothing twice.

    Args:
        audit: The audit Table; its spec is read from its info when the event fires.
    """
    key = audit.key

    def current(tables: Any) -> bool:
        # A table that was derived anew has listeners of its own.
        return audit.metadata.tables.get(key) is audit and audit in tables

    def after_create(target: MetaData, connection: Connection, *, tables: Any, **kw: Any) -> None:
        if connection.dialect.name == "postgresql" and current(tables):
            for statement in sql.create(audit.info[SPEC_KEY], default_schema(connection)):
                connection.execute(verbatim(statement))

    def before_drop(target: MetaData, connection: Connection, *, tables: Any, **kw: Any) -> None:
        if connection.dialect.name == "postgresql" and current(tables):
            spec = audit.info[SPEC_KEY]
            connection.execute(verbatim(sql.drop_if_there(spec, default_schema(connection))))

    event.listen(audit.metadata, "after_create", after_create)
    event.listen(audit.metadata, "before_drop", before_drop)


def default_schema(connection: Connection) -> str:
    """Return what a schema of None means on a connection, without a query.

    Its ``schema_translate_map``, else the dialect's default schema.
    """
    mapped = connection.get_execution_options().get("schema_translate_map") or {}
    return str(mapped.get(None) or connection.dialect.default_schema_name or "public")
