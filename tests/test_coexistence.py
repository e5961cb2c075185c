"""Other tools in one autogenerate: with the lines of docs/coexistence.md nothing of ours moves.

Each test runs the lines as they stand on that page.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.alembic_process import Alembic, AlembicFailed, ProcessProject, alembic
from tests.catalogs import snapshot
from tests.conftest import Database
from tests.journey import EMPTY
from tests.pages import blocks, read
from tools import postgres

Make = Callable[..., ProcessProject]

for _name in ("alembic_utils", "alembic_postgresql_enum", "sqlalchemy_declarative_extensions"):
    # Not imported, here or below: an import registers for every test of this process.
    if not find_spec(_name):
        pytest.skip(f"{_name} is not installed", allow_module_level=True)


def lines(name: str) -> str:
    """Return the blocks of the page that stand below a comment with this name."""
    found = blocks(read("coexistence.md"), "python", name)
    assert found, name
    return "\n".join(block.text for block in found)


UTILS = """
from alembic_utils.pg_function import PGFunction
from alembic_utils.pg_trigger import PGTrigger
from alembic_utils.replaceable_entity import register_entities

touch = "RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$"
before = "BEFORE UPDATE ON public.account FOR EACH ROW EXECUTE FUNCTION public.utils_touch()"
entities = [PGFunction("public", "utils_touch()", touch)]
if "account" in existing:
    entities.append(PGTrigger("public", "utils_touch", before, on_entity="public.account"))
register_entities(entities)
"""
UTILS_LINES = lines("alembic_utils") + 'options["include_object"] = include_object\n'

DECLARATIVE_IMPORTS = """
from sqlalchemy_declarative_extensions import declare_database, register_alembic_events
from sqlalchemy_declarative_extensions import Functions, Grants, Roles, Schemas, Triggers
from sqlalchemy_declarative_extensions.dialects.postgresql import DefaultGrant, Function, Trigger

register_alembic_events()
functions = Functions()
triggers = Triggers()
"""
DECLARATIVE_LINES = lines("sqlalchemy-declarative-extensions")
DECLARATIVE = """
on_update = Trigger.before("update", on="account", execute="decl_touch").for_each_row()
declare_database(
    target_metadata,
    functions=functions.are(
        Function("decl_touch", "BEGIN RETURN NEW; END", returns="trigger", language="plpgsql")
    ),
    triggers=triggers.are(*([on_update.named("decl_touch")] if "account" in existing else [])),
)
"""

ENUM = "import alembic_postgresql_enum\n"
CLASSIC_LINES = lines("alembic-postgresql-enum: classic")

# The tools' triggers can be declared once their table exists: both make triggers before tables.
EXISTING = "existing = sa.inspect(sa.create_engine(url, poolclass=sa.NullPool)).get_table_names()\n"

TOOLS = {
    "alembic_utils": EXISTING + UTILS + UTILS_LINES,
    "declarative": EXISTING + DECLARATIVE_IMPORTS + DECLARATIVE_LINES + DECLARATIVE,
    "enum": ENUM,
    "all": (
        EXISTING
        + ENUM
        + UTILS
        + UTILS_LINES.replace("return not (", "return 'decl_' not in name and not (")
        + DECLARATIVE_IMPORTS
        + DECLARATIVE_LINES
        + 'functions.ignore.append("utils_*")\ntriggers.ignore.append("utils_*")\n'
        + DECLARATIVE
    ),
}


def models(audited: bool = True, **options: Any) -> str:
    info = {"audit.options": {"enabled": True, **options}} if audited else {}
    return f"""
import sqlalchemy as sa

metadata = sa.MetaData()
sa.Table(
    "account",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("email", sa.Text),
    info={info!r},
)
"""


def ours(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return a picture of the catalog without what the tools made."""
    return {
        kind: {name: row for name, row in rows.items() if "_touch" not in name}
        for kind, rows in found.items()
    }


def theirs(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        kind: {name: row for name, row in found[kind].items() if "_touch" in name}
        for kind in ("functions", "triggers")
    }


def upgrades(text: str) -> str:
    """Return the operations of upgrade(), without the comments around them."""
    return text[text.index("adjust! ###\n") : text.index("    # ### end Alembic")][12:]


STEPS = (models(), models(skip_unchanged=True), models(audited=False))


@dataclass(frozen=True)
class Alone:
    """What becomes of the steps without any tool.

    Attributes:
        texts: The operations of each upgrade().
        states: The catalog after each step.
    """

    texts: list[str]
    states: list[dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def process() -> Iterator[Alembic]:
    """What runs the commands of all tests here."""
    with alembic() as running:
        yield running


@pytest.fixture
def make(tmp_path: Path, database: Database, process: Alembic) -> Make:
    """Return what makes the project of a test, with lines of env.py."""
    return partial(ProcessProject, tmp_path, database, process)


@pytest.fixture(scope="module")
def alone(
    tmp_path_factory: pytest.TempPathFactory, server: postgres.Server, process: Alembic
) -> Alone:
    """The steps without any tool, run once."""
    database = Database(f"alembic_audit_alone_{os.getpid()}", server)
    server.create_database(database.name)
    project = ProcessProject(tmp_path_factory.mktemp("alone"), database, process)
    made = Alone([], [])
    for step in STEPS:
        made.texts.append(upgrades(project.migrate(step)))
        made.states.append(snapshot(database.engine))
    database.engine.dispose()
    server.drop_database(database.name)
    return made


@pytest.mark.parametrize("tool", TOOLS)
def test_with_the_lines(tool: str, make: Make, alone: Alone, database: Database) -> None:
    """What we write and make is the same, to the letter, with a tool and without.

    Theirs is neither touched nor moved by us: not by an option that changes, nor by the end of the
    audit, nor by the downgrades.
    """
    beside = make(TOOLS[tool])
    begun, changed, _ = alone.states

    text = upgrades(beside.revision(STEPS[0]))
    assert text.endswith(alone.texts[0])
    assert "audit" not in text.removesuffix(alone.texts[0])
    beside.run("upgrade head")
    assert begun == ours(snapshot(database.engine))

    text = beside.revision(STEPS[0])  # their triggers
    assert "audit" not in text
    beside.run("upgrade head")
    beside.check(STEPS[0])
    assert EMPTY == beside.revision(STEPS[0])
    assert begun == ours(snapshot(database.engine))
    beside.execute("INSERT INTO account VALUES (1, 'a')", "UPDATE account SET email = 'b'")
    records = "SELECT audit_operation, email FROM account_audit ORDER BY audit_id"
    assert [("I", "a"), ("U", "b")] == beside.rows(records)

    made = theirs(snapshot(database.engine))
    assert len(made["functions"]) == len(made["triggers"]) == {"enum": 0, "all": 2}.get(tool, 1)
    beside.run("upgrade head")
    for number in (1, 2):
        assert alone.texts[number] == upgrades(beside.revision(STEPS[number]))
        beside.run("upgrade head")
        assert alone.states[number] == ours(snapshot(database.engine))
        assert made == theirs(snapshot(database.engine))
    beside.check(STEPS[2])
    for state in (changed, begun):
        beside.run("downgrade -1")
        assert state == ours(snapshot(database.engine))
        assert made == theirs(snapshot(database.engine))
    beside.execute("DELETE FROM account")
    assert ("D", "b") == beside.rows(records)[-1]


@pytest.mark.parametrize(
    ("env", "dropped"),
    [
        pytest.param(EXISTING + UTILS, "('drop_entity', 'PGFunction: public.{}()')", id="utils"),
        pytest.param(
            EXISTING + DECLARATIVE_IMPORTS + DECLARATIVE,
            "('execute', 'DROP FUNCTION {}();')",
            id="declarative",
        ),
    ],
)
def test_without_the_lines(env: str, dropped: str, make: Make, database: Database) -> None:
    """Both tools would drop our function: the lines are needed."""
    beside = make()
    beside.migrate(models())
    beside.configure(env)
    with pytest.raises(AlembicFailed) as caught:
        beside.check(models())

    assert dropped.format("public_account_audit") in str(caught.value)


@pytest.fixture
def roles(database: Database) -> Iterator[tuple[str, str]]:
    """A role that owns tables and one that reads them."""
    names = f"{database.name}_owner", f"{database.name}_reader"
    with database.engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {names[0]} LOGIN; CREATE ROLE {names[1]}")
        connection.exec_driver_sql(f"GRANT CREATE ON SCHEMA public TO {names[0]}")
    yield names
    with database.engine.begin() as connection:
        connection.exec_driver_sql(f"DROP OWNED BY {names[0]}, {names[1]}")
        connection.exec_driver_sql(f"DROP ROLE {names[0]}, {names[1]}")


def test_alembic_utils_and_privileges(
    make: Make, database: Database, roles: tuple[str, str]
) -> None:
    """The owner keeps what it may on the audit table, and readers what they were granted."""
    owner, reader = roles
    beside = make()
    beside.url = database.url(user=owner).render_as_string(hide_password=False)
    beside.configure("")
    beside.migrate(models())
    with beside.engine.begin() as connection:
        connection.exec_driver_sql(f"SET LOCAL ROLE {owner}")
        connection.exec_driver_sql(f"GRANT SELECT ON account_audit TO {reader}")
    audit_table = "'PGGrantTable: public.account_audit."

    beside.configure(EXISTING + UTILS)
    with pytest.raises(AlembicFailed) as without:
        beside.check(models())
    beside.configure(EXISTING + UTILS + UTILS_LINES)
    with pytest.raises(AlembicFailed) as with_lines:
        beside.check(models())

    assert f"('drop_entity', {audit_table}{owner}.INSERT')" in str(without.value)
    assert f"('drop_entity', {audit_table}{reader}.SELECT')" in str(without.value)
    assert audit_table not in str(with_lines.value)


def test_declarative_schemas_and_grants(
    make: Make, database: Database, roles: tuple[str, str]
) -> None:
    """A default grant does not reach audit tables in a schema of their own, which is declared."""
    reader = roles[1]
    env = (
        DECLARATIVE_IMPORTS
        + lines("sqlalchemy-declarative-extensions: grants")
        + f"""
options["include_schemas"] = True
grant = DefaultGrant.on_tables_in_schema("public").grant("select", "insert", to={reader!r})
declare_database(
    target_metadata,
    schemas=Schemas().are("audit"),
    roles=Roles(ignore_unspecified=True).are({reader!r}),
    grants=Grants(only_defined_roles=True).are(grant),
)
"""
    )
    beside = make(env)
    beside.execute("CREATE SCHEMA audit")
    text = beside.migrate(models())
    assert "op.create_audit_trigger(" in text
    assert EMPTY == beside.revision(models())
    beside.run("upgrade head")

    rights = "SELECT has_table_privilege('{}', '{}', 'INSERT')"
    assert [(True,)] == beside.rows(rights.format(reader, "account"))
    assert [(False,)] == beside.rows(rights.format(reader, "audit.account_audit"))

    beside.configure(env.replace('are("audit")', 'are("other")'))
    text = beside.revision(models())
    assert 'op.execute(CreateSchema("other"))' in text
    assert 'op.execute(DropSchema("audit"))' in text


def moody(labels: str, style: str, column: bool = True, **options: Any) -> str:
    column_text = f'sa.Column("mood", sa.Enum(*{labels!r}, name="mood")),' if column else ""
    return f"""
import sqlalchemy as sa

metadata = sa.MetaData()
sa.Table(
    "account",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    {column_text}
    info={{"audit.options": {{"enabled": True, "audit_columns": {style!r}, **{options!r}}}}},
)
"""


ENUMS = {"standard": ENUM, "classic": ENUM + CLASSIC_LINES}
RECORDS = "SELECT id, mood::text FROM account_audit WHERE audit_operation = 'I' AND {} ORDER BY id"


def edit(beside: ProcessProject, *changes: tuple[str, str], downgrade: bool = False) -> None:
    """Replace texts in the last migration, everywhere or in downgrade() alone."""
    path = beside.path / "versions" / f"{beside.count:04}_step.py"
    text = path.read_text()
    start = text.index("def downgrade") if downgrade else 0
    edited = text[start:]
    for before, after in changes:
        assert before in edited
        edited = edited.replace(before, after)
    path.write_text(text[:start] + edited)


@pytest.mark.parametrize("style", ENUMS)
def test_enum_column_added(style: str, make: Make, database: Database) -> None:
    """A type comes with its column and goes with it, unless records of `classic` hold it."""
    beside = make(ENUMS[style])
    beside.migrate(moody("ab", style, column=False))
    before = snapshot(database.engine)
    beside.migrate(moody("ab", style))
    after = snapshot(database.engine)
    beside.execute("INSERT INTO account VALUES (1, 'a')")

    if style == "classic":
        with pytest.raises(AlembicFailed, match="column mood of table account_audit depends on"):
            beside.run("downgrade -1")
        assert after == snapshot(database.engine)
        beside.run("-x audit_allow_history_loss=yes downgrade -1")
        assert before == snapshot(database.engine)
    else:
        beside.run("downgrade -1")
        assert [(1, "a")] == beside.rows(RECORDS.format("true"))
    beside.run("upgrade head")
    assert after == snapshot(database.engine)
    beside.check(moody("ab", style))


@pytest.mark.parametrize("style", ENUMS)
def test_enum_label_added(style: str, make: Make, database: Database) -> None:
    """A new label is recorded; the downgrade gives the former type back, and the trail goes on."""
    beside = make(ENUMS[style])
    beside.migrate(moody("ab", style))
    before = snapshot(database.engine)
    beside.execute("INSERT INTO account VALUES (1, 'a')")

    text = beside.migrate(moody("abc", style))
    assert "audit" not in upgrades(text)
    assert ("table_name='account_audit'" in text) == (style == "classic")
    beside.execute("INSERT INTO account VALUES (2, 'b')")
    beside.run("downgrade -1")
    assert before == snapshot(database.engine)

    beside.run("upgrade head")
    beside.execute("INSERT INTO account VALUES (3, 'c')")
    assert [(1, "a"), (2, "b"), (3, "c")] == beside.rows(RECORDS.format("true"))
    assert EMPTY == beside.revision(moody("abc", style))


@pytest.mark.parametrize(("style", "recorded"), [("standard", "b"), ("classic", "z")])
def test_enum_label_renamed(style: str, recorded: str, make: Make, database: Database) -> None:
    """The trail keeps the former label; in `classic` the tool renames it there as well.

    A session that wrote before goes on writing after.
    """
    beside = make(ENUMS[style])
    beside.migrate(moody("ab", style))
    before = snapshot(database.engine)
    autocommit = beside.engine.execution_options(isolation_level="AUTOCOMMIT")
    with autocommit.connect() as session:
        for number in range(8):  # PL/pgSQL has a plan of its own from the sixth on
            session.exec_driver_sql(f"INSERT INTO account VALUES ({number}, 'b')")
        beside.revision(moody("az", style))
        edit(beside, ("to_rename=[]", "to_rename=[('b', 'z')]"))
        edit(beside, ("[('b', 'z')]", "[('z', 'b')]"), downgrade=True)

        beside.run("upgrade head")
        beside.check(moody("az", style))
        session.exec_driver_sql("INSERT INTO account VALUES (8, 'z')")
        assert [(0, recorded), (8, "z")] == beside.rows(RECORDS.format("id IN (0, 8)"))

        beside.run("downgrade -1")
        session.exec_driver_sql("INSERT INTO account VALUES (9, 'b')")
        assert [(9, "b")] == beside.rows(RECORDS.format("id = 9"))
        assert before == snapshot(database.engine)


@pytest.mark.parametrize("style", ENUMS)
def test_enum_that_only_the_trail_holds(style: str, make: Make, database: Database) -> None:
    """A column is dropped, and its type with it if the trail does not hold it."""
    beside = make(ENUMS[style])
    beside.migrate(moody("ab", style))
    beside.execute("INSERT INTO account VALUES (1, 'a')")

    beside.migrate(moody("ab", style, column=False))
    assert ("public.mood" in snapshot(database.engine)["types"]) == (style == "classic")
    assert [(1, "a")] == beside.rows(RECORDS.format("true"))
    beside.run("downgrade -1")
    beside.execute("INSERT INTO account VALUES (2, 'b')")
    assert [(1, "a"), (2, "b")] == beside.rows(RECORDS.format("true"))


def test_enum_of_a_column_that_is_recorded_no_longer(make: Make, database: Database) -> None:
    """In `classic`, a column that stays in the audit table is named by hand."""
    beside = make(ENUMS["classic"])
    beside.migrate(moody("ab", "classic"))
    beside.execute("INSERT INTO account VALUES (1, 'a')")
    beside.migrate(moody("ab", "classic", exclude_columns=["mood"]))
    beside.revision(moody("ba", "classic", exclude_columns=["mood"]))
    with pytest.raises(AlembicFailed, match="column mood of table account_audit depends on"):
        beside.run("upgrade head")

    reference = lines("alembic-postgresql-enum: affected_columns").strip()
    edit(beside, ("affected_columns=[", f"affected_columns=[{reference}, "))
    beside.run("upgrade head")
    beside.check(moody("ba", "classic", exclude_columns=["mood"]))
    beside.run("downgrade -1")
    assert [(1, "a")] == beside.rows(RECORDS.format("true"))


DISPATCHER = """
from alembic.operations import ops
from alembic.util import Dispatcher

dispatcher = Dispatcher()


@dispatcher.dispatch_for(ops.AddColumnOp)
@dispatcher.dispatch_for(ops.AlterColumnOp)
@dispatcher.dispatch_for(ops.CreateIndexOp)
@dispatcher.dispatch_for(ops.CreateTableOp)
def expand(context, op, phase):
    return op if phase == "expand" else None


@dispatcher.dispatch_for(ops.DropColumnOp)
@dispatcher.dispatch_for(ops.DropIndexOp)
@dispatcher.dispatch_for(ops.DropTableOp)
def contract(context, op, phase):
    return op if phase == "contract" else None


@dispatcher.dispatch_for(ops.ModifyTableOps)
def modify(context, op, phase):
    left = [one for one in (send(context, one, phase) for one in op.ops) if one is not None]
    return ops.ModifyTableOps(op.table_name, left, schema=op.schema) if left else None


def send(context, op, phase):
    return dispatcher.dispatch(op)(context, op, phase)


def split(context, revision, directives):
    script = directives[0]
    made = []
    for phase in ("expand", "contract"):
        sent = [send(context, op, phase) for op in script.upgrade_ops.ops]
        upgrade = ops.UpgradeOps([op for op in sent if op is not None])
        if upgrade.ops:
            made.append(
                ops.MigrationScript(
                    f"{script.rev_id}{phase[0]}",
                    upgrade,
                    upgrade.reverse_into(ops.DowngradeOps([])),
                    message=phase,
                    head=f"{phase}@head",
                )
            )
    directives[:] = made


options["process_revision_directives"] = split
"""


def test_a_dispatcher_over_operations(make: Make, database: Database) -> None:
    """A project with two heads sorts all our operations by their base class."""
    lines_of_check = lines("dispatcher: check")
    env = DISPATCHER + lines("dispatcher") + lines_of_check
    beside = make(env + 'options["process_revision_directives"] = split_unless_check\n')
    versions = beside.path / "versions"

    def revisions(models: str) -> dict[str, str]:
        known = set(versions.glob("*.py"))
        beside.declare(models)
        beside.count += 1
        beside.run(f"revision --autogenerate -m step --rev-id {beside.count:04}")
        new = set(versions.glob("*.py")) - known
        for phase in ("expand", "contract"):
            beside.run(f"upgrade {phase}@head")
        beside.check(models)
        return {path.stem.rpartition("_")[2]: path.read_text() for path in new}

    beside.declare(models())
    (versions / "0_expand.py").write_text(ROOT.format("expand"))
    (versions / "0_contract.py").write_text(ROOT.format("contract"))
    beside.run("upgrade heads")
    assert ["expand"] == [*revisions(models())]
    beside.execute("INSERT INTO account VALUES (1, 'a')")
    changed = models().replace('"email", sa.Text', '"phone", sa.Text')
    written = revisions(changed)

    assert "op.lock_audited_tables(" in written["expand"]
    assert "op.replace_audit_trigger(" in written["expand"]
    assert "op.drop_column('account', 'email')" in written["contract"]
    beside.execute("INSERT INTO account VALUES (2, 'b')")
    records = "SELECT id, email, phone FROM account_audit ORDER BY audit_id"
    assert [(1, "a", None), (2, None, "b")] == beside.rows(records)


ROOT = """
revision = "{0}_0"
down_revision = None
branch_labels = ("{0}",)
depends_on = None


def upgrade():
    pass


def downgrade():
    pass
"""


def test_a_dispatcher_without_the_lines(make: Make, database: Database) -> None:
    """Both lines are needed: one operation is not known, and a check without differences fails."""
    beside = make(DISPATCHER)
    beside.declare(models())
    with pytest.raises(AlembicFailed, match="no dispatch function for object"):
        beside.run("revision --autogenerate -m step --rev-id 1")

    beside.configure(DISPATCHER + lines("dispatcher"))
    beside.declare("import sqlalchemy\nmetadata = sqlalchemy.MetaData()\n")
    with pytest.raises(AlembicFailed, match="IndexError"):
        beside.check("import sqlalchemy\nmetadata = sqlalchemy.MetaData()\n")
