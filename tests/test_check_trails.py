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
        "op.rename_audited_column",
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
        "op.rename_audited_column",
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

    with pytest.raises(sa.exc.ProgrammingError, match='record "new" has no field "email"'):
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
