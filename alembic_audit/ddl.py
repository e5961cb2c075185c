"""VerbatimDDL, the one way in which this package sends SQL, and the DDL texts in Table.info."""

from typing import Any

from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import ExecutableDDLElement

from alembic_audit import sql
from alembic_audit.spec import AuditSpec


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
