"""What autogenerate writes into a migration of names that an attacker chose."""

import ast
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.util import CommandError

from alembic_audit.naming import literal, quote
from alembic_audit.spec import HEADER, AuditSpec
from tests.conftest import Database
from tests.project import Project

LINES = "x\nimport os; os.system('false')\n"
HOSTILE = [
    'x"""\nimport os\n"""',
    LINES,
    "x'); raise SystemExit('attacked') #",
    "{attack} %(attack)s ${attack}",
    'x"; DROP TABLE account; --',
    "$body$ $audit$ \\'",
    "x\r\u2028\u2029raise SystemExit",
]


def models() -> sa.MetaData:
    metadata = sa.MetaData()
    options = {"audit.options": {"enabled": True}}
    sa.Table("account", metadata, sa.Column("id", sa.Integer, primary_key=True), info=options)
    return metadata


def harmless(text: str) -> bool:
    """Return whether a migration holds its frame and calls of op and sa, with literals, alone."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            if {one.name for one in node.names} - {"op", "sqlalchemy"}:
                return False
        elif isinstance(node, ast.Raise | ast.Assert | ast.Lambda | ast.JoinedStr):
            return False
        elif isinstance(node, ast.Call):
            root = node.func
            while isinstance(root, ast.Attribute):
                root = root.value
            if not isinstance(root, ast.Name) or root.id not in ("op", "sa"):
                return False
    return True


@pytest.mark.parametrize(
    ("written", "name"), [("op.drop('{}')", HOSTILE[2]), ("# {}\nop.drop()", LINES)]
)
def test_text_written_as_it_is(written: str, name: str) -> None:
    """The control: between quotes, or in a comment, such a name is code."""
    assert harmless(written.format("x"))
    assert not harmless(written.format(name))


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("where", ["function", "trigger", "argument", "header", "table"])
def test_hostile_function(tmp_path: Path, database: Database, where: str, name: str) -> None:
    """A function with our header, made by who may create one, writes literals into a migration.

    A function or table whose name holds a line break stops autogenerate, which names it.
    """
    project = Project(tmp_path, database)
    project.revision(models())
    project.upgrade()
    short = name[:60]
    spec = AuditSpec.from_kwargs(table="account", columns=["id"], key=["id"])
    body = f"{HEADER}{spec.to_json()}\nBEGIN RETURN NULL; END"
    if where == "header":
        encoded = ast.literal_eval(repr(name)).encode("unicode_escape").decode()
        body = body.replace('"account_audit"', '"' + encoded.replace('"', "") + '"')
    function = quote(short if where == "function" else "spy")
    trigger = quote(short if where == "trigger" else "spy")
    table = quote(short if where == "table" else "mine")
    argument = literal(name) if where == "argument" else ""
    connection = project.engine.raw_connection()
    with connection.cursor() as cursor:
        cursor.execute(
            f"CREATE TABLE public.{table} (id int);"
            f"CREATE FUNCTION public.{function}() RETURNS trigger LANGUAGE plpgsql "
            f"AS {literal(body)};"
            f"CREATE TRIGGER {trigger} AFTER INSERT ON public.{table} FOR EACH ROW "
            f"EXECUTE FUNCTION public.{function}({argument})"
        )
    connection.commit()
    connection.close()
    if where in ("function", "table") and {"\n", "\r"} & set(name):
        with pytest.raises(CommandError, match="holds a control character"):
            project.revision(models())
        return
    text = project.revision(models())
    assert "op." in text
    assert harmless(text), text
