"""check_trails: a migration after which writes would fail does not commit."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.util import CommandError

import alembic_audit
from tests.catalogs import snapshot
from tests.conftest import Database
from tests.journey import psql
from tests.project import Project
from tools import postgres

INSERT = "INSERT INTO account (id, email, secret) VALUES (1, 'a@x', 's')"


def models() -> sa.MetaData:
    metadata = sa.MetaData()
    sa.Table(
        "account",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.Text),
        sa.Column("secret", sa.Text),
        info={
            "audit.options": {
                "enabled": True,
                "hash_columns": ["secret"],
                "changed_columns": True,
                "session_settings": [sa.Column("who", sa.Text)],
            }
        },
    )
    return metadata


@pytest.fixture
def project(tmp_path: Path, database: Database) -> Project:
    """A trail with a record."""
    made = Project(tmp_path, database)
    made.migrate(models())
    made.execute(INSERT)
    return made


BROKEN = {
    "drop_column": (
        'op.drop_column("account", "email")',
        "table public.account has no column email, which its audit trigger records",
        "op.replace_audit_trigger",
    ),
    "drop_hashed_column": (
        'op.drop_column("account", "secret")',
        "table public.account has no column secret, which its audit trigger records",
        "alembic revision --autogenerate",
    ),
    "rename_column": (
        'op.alter_column("account", "email", new_column_name="mail")',
        "table public.account has no column email, which its audit trigger records",
        "op.rename_audited_column",
    ),
    "rename_table": (
        'op.rename_table("account", "customer")',
        "table public.customer was account when its audit trigger was made",
        "op.rename_audited_table",
    ),
    "drop_audit_column": (
        'op.drop_column("account_audit", "email")',
        "audit table public.account_audit of public.account has no column email",
        "",
    ),
    "drop_hash": (
        'op.drop_column("account_audit", "secret_sha256")',
        "audit table public.account_audit of public.account has no column secret_sha256",
        "",
    ),
    "drop_setting": (
        'op.drop_column("account_audit", "audit_who")',
        "audit table public.account_audit of public.account has no column audit_who",
        "",
    ),
    "drop_changed_columns": (
        'op.drop_column("account_audit", "audit_changed_columns")',
        "audit table public.account_audit of public.account has no column audit_changed_columns",
        "",
    ),
    "drop_own_column": (
        'op.drop_column("account_audit", "audit_current_user")',
        "audit table public.account_audit of public.account has no column audit_current_user",
        "",
    ),
    "rename_audit_table": (
        'op.rename_table("account_audit", "trail")',
        "audit table public.account_audit of public.account does not exist",
        "audit.table",
    ),
    "drop_audit_table": (
        'op.drop_table("account_audit")',
        "audit table public.account_audit of public.account does not exist",
        "op.drop_audit_trigger",
    ),
}


def refused(project: Project, call: str, message: str, remedy: str) -> None:
    """Run a migration that would break a trail: it says what and why, and changes nothing."""
    before = snapshot(project.engine)
    project.write(call)

    with pytest.raises(CommandError) as caught:
        project.upgrade()

    assert message in str(caught.value)
    assert remedy in str(caught.value)
    assert before == snapshot(project.engine)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_trail_does_not_commit(name: str, project: Project) -> None:
    """The error names table, column and what to write; nothing has changed, and writes go on."""
    call, message, remedy = BROKEN[name]
    refused(project, call, message, remedy)
    project.check_is_at("0001")
    project.execute("UPDATE account SET email = 'b@x'")
    assert [("I",), ("U",)] == project.rows("SELECT audit_operation FROM account_audit")


ELSEWHERE = {
    "drop_omitted_columns": (
        'op.drop_column("page_audit", "audit_omitted_columns", schema="trails")',
        "audit table trails.page_audit of public.page has no column audit_omitted_columns",
        "take the change of trails.page_audit out of the migration",
    ),
    "add_not_null": (
        'op.execute("ALTER TABLE trails.page_audit ADD COLUMN more text NOT NULL")',
        "audit table trails.page_audit of public.page is NOT NULL in more, which is not recorded",
        "op.alter_audit_column",
    ),
    "rename_schema": (
        """op.execute('ALTER SCHEMA aside RENAME TO "a side"')""",
        'schema "a side" was called otherwise when the audit trigger of "a side".note was made',
        "op.drop_audit_trigger",
    ),
    "rename_audit_schema": (
        'op.execute("ALTER SCHEMA trails RENAME TO kept")',
        "schema kept was called otherwise when the audit trigger of public.page was made",
        "op.drop_audit_trigger",
    ),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_broken_trail_elsewhere(name: str, tmp_path: Path, database: Database) -> None:
    """The same of other schemas, and of columns that only some trails have."""
    call, message, remedy = ELSEWHERE[name]
    metadata = sa.MetaData()
    for table, schema, options in (
        ("page", None, {"schema_name": "trails", "sparse_columns": ["body"]}),
        ("note", "aside", {}),
    ):
        columns = sa.Column("id", sa.Integer, primary_key=True), sa.Column("body", sa.Text)
        info = {"audit.options": {"enabled": True, **options}}
        sa.Table(table, metadata, *columns, schema=schema, info=info)
    project = Project(tmp_path, database, include_schemas=True)
    project.execute("CREATE SCHEMA aside", "CREATE SCHEMA trails")
    project.migrate(metadata)
    refused(project, call, message, remedy)


@pytest.mark.parametrize("name", ["add_not_null", "rename_schema", "rename_audit_schema"])
def test_the_remedy_elsewhere(name: str, tmp_path: Path, database: Database) -> None:
    """The operations of the HINT, written after the call, let the migration commit."""
    metadata = sa.MetaData()
    names = {"rename_schema": "a side", "rename_audit_schema": "kept"}
    for table, schema, options in (
        ("page", None, {"schema_name": "trails", "sparse_columns": ["body"]}),
        ("note", "aside", {}),
    ):
        columns = sa.Column("id", sa.Integer, primary_key=True), sa.Column("body", sa.Text)
        info = {"audit.options": {"enabled": True, **options}}
        sa.Table(table, metadata, *columns, schema=schema, info=info)
    project = Project(tmp_path, database, include_schemas=True)
    project.execute("CREATE SCHEMA aside", "CREATE SCHEMA trails")
    project.migrate(metadata)
    written(project, ELSEWHERE[name][0])
    schema = names[name] if name == "rename_schema" else "aside"
    project.execute(
        "INSERT INTO page VALUES (1, 'a')", f"INSERT INTO \"{schema}\".note VALUES (1, 'a')"
    )
    trails = names[name] if name == "rename_audit_schema" else "trails"
    assert [("a",)] == project.rows(f'SELECT body FROM "{trails}".page_audit')
    assert [("a",)] == project.rows(f'SELECT body FROM "{schema}".note_audit')


def written(project: Project, call: str, condition: str = "") -> str:
    """Write the operations of the HINT after the call, run the migration, return them.

    Args:
        project: At its head.
        call: What breaks trails.
        condition: Of the operations under a line `# if ...`, those whose line has this.
    """
    project.write(call)
    with pytest.raises(CommandError) as caught:
        project.upgrade()
    hint = str(caught.value).partition("HINT:")[2]
    lines, under = [], ""
    for line in hint.splitlines():
        if not line.startswith("op."):
            under = line
        elif not under.startswith("# if ") or condition in under:
            lines.append(line)
    project.edit(lambda text: text.replace(call, "\n    ".join([call, *lines])))
    project.upgrade()
    return "\n".join(lines)


def test_the_remedy_names_every_table_at_once(tmp_path: Path, database: Database) -> None:
    """One round for a revision that renames and drops on several tables, keys among them."""
    project = Project(tmp_path, database)
    project.migrate(shop())
    project.execute(
        *(
            f"INSERT INTO {name} VALUES (1, 'a', 'b', 'c')"
            for name in shop().tables
            if "_audit" not in name
        )
    )
    calls = [
        'op.alter_column("one", "id", new_column_name="number")',
        'op.drop_column("two", "id")',
        'op.rename_table("three", "drei")',
        'op.alter_column("drei", "a", new_column_name="A")',
        'op.alter_column("drei", "b", new_column_name="B")',
        'op.drop_column("four", "a")',
        'op.drop_column("five", "b")',
        'op.alter_column("five", "a", new_column_name="mail")',
    ]
    before = snapshot(project.engine)
    calls_text = "\n    ".join(calls)
    project.write(calls_text)
    with pytest.raises(CommandError) as caught:
        project.upgrade()
    message = str(caught.value)
    assert before == snapshot(project.engine)
    for part in (
        "table public.one has no column id",
        "table public.two has no column id",
        "table public.drei was three",
        "table public.drei has no column a, b",
        "table public.four has no column a",
        "table public.five has no column a, b",
        "# if a of public.five is one of mail, with all arguments",
    ):
        assert part in message
    project.forget()
    five = (
        'op.rename_audited_column("five", "a", "mail", source_renamed=True, '
        'audit_table="five_audit", key=["id"], columns=["id", "mail", "b", "c"], '
        'level="statement")'
    )
    lines = written(project, "\n    ".join([*calls, five]), " is now ")
    assert lines.count("op.rename_audited_table(") == 1
    for name in ("one", "two", "drei", "four", "five"):
        project.execute(f"UPDATE {name} SET c = 'd'")
        assert [("d",)] == project.rows(
            f"SELECT c FROM {name}_audit ORDER BY audit_id DESC LIMIT 1"
        )
    assert [("1",), ("1",)] == project.rows("SELECT number::text FROM one_audit")
    assert [("a",), ("a",)] == project.rows('SELECT "A" FROM drei_audit')


def shop() -> sa.MetaData:
    metadata = sa.MetaData()
    for name in ("one", "two", "three", "four", "five"):
        sa.Table(
            name,
            metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            *(sa.Column(column, sa.Text) for column in "abc"),
            info={"audit.options": {"enabled": True, **OPTIONS.get(name, {})}},
        )
    return metadata


OPTIONS: dict[str, dict[str, object]] = {
    "two": {"sparse_columns": ["a"]},
    "three": {"hash_columns": ["b"], "ignore_columns": ["a"]},
    "four": {"skip_unchanged": True, "session_settings": [sa.Column("who", sa.Text)]},
}


def test_a_function_edited_by_hand_is_not_broken(project: Project) -> None:
    """One that names its audit table in another way goes on writing; it is drift, and no more."""
    ((made,),) = project.rows("SELECT pg_get_functiondef('public_account_audit'::regproc)")
    edited = made.replace('INSERT INTO "public"."account_audit"', "INSERT INTO account_audit")
    assert edited != made
    project.execute(edited.replace("%", "%%"))
    project.write('op.add_column("account", sa.Column("note", sa.Text()))')
    project.upgrade()
    project.execute("UPDATE account SET email = 'b@x'")
    assert [("I",), ("U",)] == project.rows("SELECT audit_operation FROM account_audit")


def test_without_the_line_writes_fail(project: Project) -> None:
    """What the line prevents: the migration commits, and the application cannot write."""
    env = project.path / "env.py"
    env.write_text(env.read_text().replace("alembic_audit.check_trails(context)", "pass"))
    project.write('op.drop_column("account", "email")')
    project.upgrade()

    with pytest.raises(sa.exc.ProgrammingError, match=r"column audited_row\.email does not exist"):
        project.execute("INSERT INTO account VALUES (2)")


@pytest.mark.parametrize("name", ["drop_column", "rename_table", "drop_audit_table"])
def test_offline(name: str, project: Project, server: postgres.Server, database: Database) -> None:
    """--sql writes the check into the script, which psql stops at."""
    call, message, _ = BROKEN[name]
    before = snapshot(project.engine)
    project.write(call)
    script = project.path / "script.sql"

    with pytest.raises(Exception, match="account") as caught:
        psql(server, database, script, project.sql("upgrade", "0001:0002"))

    assert message in str(caught.value)
    assert before == snapshot(project.engine)


SOUND = [
    'op.alter_column("account", "email", nullable=False)',
    'op.add_column("account", sa.Column("note", sa.Text()))',
    'op.drop_table("account")',
    'op.drop_audit_trigger("account", audit_table="account_audit")\n'
    '    op.drop_column("account", "email")',
    'op.execute("ALTER TABLE account DISABLE TRIGGER USER")\n'
    '    op.drop_column("account", "email")',
    'op.execute("CREATE TABLE other (LIKE account); CREATE TRIGGER x AFTER INSERT ON other FOR EACH'
    ' ROW EXECUTE FUNCTION public_account_audit()")',
]


@pytest.mark.parametrize("call", SOUND)
def test_sound_migrations_commit(call: str, project: Project) -> None:
    """What breaks no trail is none of its business."""
    project.write(call)

    project.upgrade()

    project.check_is_at("0002")


@pytest.mark.parametrize(
    "header",
    [
        "-- alembic_audit: garbage",
        "-- alembic_audit: {}",
        "-- alembic_audit: []",
        '-- alembic_audit: {"version": "x"}',
        '-- alembic_audit: {"version": 2, "table": "no"}',
        "-- alembic_audit: ",
    ],
)
def test_headers_that_cannot_be_read_are_left_alone(header: str, project: Project) -> None:
    """A damaged or newer header stops no migration; `alembic check` is what speaks of those."""
    project.execute(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS"
        f" $body${header}\nBEGIN RETURN NULL; END$body$",
        "CREATE TRIGGER x AFTER INSERT ON account FOR EACH ROW EXECUTE FUNCTION f()",
    )
    project.write("pass")

    project.upgrade()

    project.check_is_at("0002")


def test_another_tenant(project: Project, database: Database) -> None:
    """The broken trail of one tenant stops no migration of another, which may be to mend it."""
    project.execute(
        "CREATE SCHEMA other",
        "ALTER TABLE account SET SCHEMA other",
        "ALTER TABLE account_audit SET SCHEMA other",
        "ALTER FUNCTION public_account_audit SET SCHEMA other",
        "ALTER TABLE other.account DROP COLUMN email",
    )
    project.write("pass")
    project.upgrade()
    project.write("op.execute('SET LOCAL search_path = other, public')")
    project.config.attributes["configure"] = {"version_table_schema": "public"}
    project.config.attributes["prepare"] = with_schema_other

    with pytest.raises(CommandError, match=r"other\.account has no column email"):
        project.upgrade()


def with_schema_other(connection: sa.Connection) -> sa.Connection:
    return connection.execution_options(schema_translate_map={None: "other"})


def test_hostile_search_path(project: Project) -> None:
    """The check means pg_catalog, whatever the search_path of the connection."""
    project.execute(
        "CREATE SCHEMA evil",
        "CREATE FUNCTION evil.starts_with(text, text) RETURNS bool RETURN false",
        "CREATE FUNCTION evil.never(oid, oid) RETURNS bool RETURN false",
        "CREATE OPERATOR evil.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = evil.never)",
    )
    project.write(
        'op.execute("SET LOCAL search_path = evil, pg_catalog, public")\n'
        '    op.drop_column("account", "email", schema="public")'
    )

    with pytest.raises(CommandError, match=r"public\.account has no column email"):
        project.upgrade()


def test_other_databases() -> None:
    """On another database there is nothing to check."""
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    context = EnvironmentContext(config, ScriptDirectory(str(Path(__file__).parent)))
    with sa.create_engine("sqlite://", poolclass=sa.NullPool).connect() as connection:
        sent: list[str] = []
        sa.event.listen(connection, "before_cursor_execute", lambda *given: sent.append(given[2]))
        context.configure(connection=connection)
        alembic_audit.check_trails(context)
    assert [] == sent
