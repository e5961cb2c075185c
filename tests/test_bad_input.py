"""Mistakes end in one clear error, before anything changed."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.util import CommandError

from alembic_audit import DeclarationError
from alembic_audit.tables import derive
from tests.catalogs import snapshot
from tests.conftest import Database
from tests.project import Project

ENABLED = {"enabled": True}
CLASSIC = {"enabled": True, "audit_columns": "classic"}


def models(
    options: dict[str, Any] | None, schema: str | None = None, **convention: str
) -> sa.MetaData:
    metadata = sa.MetaData(naming_convention=convention or None)
    sa.Table(
        "account",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("email", sa.Text, nullable=False),
        schema=schema,
        info={} if options is None else {"audit.options": options},
    )
    return metadata


@pytest.fixture
def project(tmp_path: Path, database: Database) -> Project:
    return Project(tmp_path, database)


# -- declarations ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exclude_column": ["email"]}, "did you mean 'exclude_columns'?"),
        ({"skip_unchanged": "yes"}, "skip_unchanged in 'audit.options' of table 'account' must be"),
        ({"hash_columns": ["mail"]}, "names 'mail', which the table does not have"),
        ({"session_settings": [sa.Column("id", sa.Text)]}, "audit.setting"),
    ],
)
def test_by_autogenerate(project: Project, options: dict[str, Any], message: str) -> None:
    """A wrong declaration stops autogenerate and check, and no revision is written."""
    before = snapshot(project.engine)
    for attempt in (project.revision, project.check):
        with pytest.raises(CommandError, match=re.escape(message)):
            attempt(models({**ENABLED, **options}))
    assert [] == list((project.path / "versions").glob("*.py"))
    assert before == snapshot(project.engine)


@pytest.mark.parametrize(
    ("options", "first", "second"),
    [
        ({"exclude_columns": ["email"], "hash_columns": ["email"]}, "exclude", "hash"),
        ({"exclude_columns": ["email"], "ignore_columns": ["email"]}, "exclude", "ignore"),
        ({"exclude_columns": ["email"], "include_columns": ["id", "email"]}, "exclude", "include"),
    ],
)
def test_contradiction(options: dict[str, Any], first: str, second: str) -> None:
    """A column that is left out, and named for something else, is a contradiction."""
    with pytest.raises(DeclarationError) as caught:
        derive(models({**ENABLED, **options}).tables["account"])
    assert str(caught.value) == (
        f"'audit.options' of table 'account' names ['email'] in {first}_columns and in "
        f"{second}_columns; keep one"
    )


@pytest.mark.parametrize("option", ["hash_columns", "ignore_columns"])
def test_not_included(option: str) -> None:
    """A column for which something is asked must be among the included ones."""
    options = {**ENABLED, "include_columns": ["id"], option: ["email"]}
    with pytest.raises(DeclarationError) as caught:
        derive(models(options).tables["account"])
    assert str(caught.value) == (
        f"'audit.options' of table 'account' names ['email'] in {option}, and include_columns "
        "leaves them out; add them there"
    )


def test_setting_without_a_type() -> None:
    """A setting is stored in a column, which has a type."""
    options = {**ENABLED, "session_settings": [sa.Column("username")]}
    with pytest.raises(DeclarationError) as caught:
        derive(models(options).tables["account"])
    assert str(caught.value) == (
        "session setting 'username' of table 'account' has no type; "
        "write Column('username', String)"
    )


# -- two claims --------------------------------------------------------------------------------


def test_one_table_twice(project: Project) -> None:
    """One table under two metadata, once with the default schema's name and once without."""
    both: Any = [models(ENABLED), models(ENABLED, schema="public")]
    with pytest.raises(CommandError) as caught:
        project.revision(both)
    assert str(caught.value) == (
        "the audited tables of 'account' and 'public.account' would both be 'account'; declare it "
        "once, under one MetaData"
    )


@pytest.mark.parametrize(
    ("what", "key", "one", "other"),
    [
        ("audit tables", "audit.table", {"audit.table": "trail"}, {"audit.table": "trail"}),
        (
            "audit functions",
            "audit.function",
            {"audit.function": "trail", "audit.table": "one"},
            {"audit.function": "trail"},
        ),
    ],
)
def test_one_trail_twice(
    project: Project, what: str, key: str, one: dict[str, str], other: dict[str, str]
) -> None:
    """Two metadata whose tables would have one audit table, or one function."""
    project.execute("CREATE SCHEMA app")
    project.config.attributes["configure"]["include_schemas"] = True
    both: Any = [models({**ENABLED, "schema_name": "app"}, **one), models(ENABLED, "app", **other)]
    with pytest.raises(CommandError) as caught:
        project.revision(both)
    assert str(caught.value) == (
        f"the {what} of 'account' and 'app.account' would both be 'trail'; write a naming "
        f"convention {key!r} that tells them apart"
    )


# -- an audit table that is in the way ------------------------------------------------------------


OWN = "audit_operation varchar(1) NOT NULL, audit_operation_timestamp timestamp NOT NULL"


def refused(project: Project, revision: str, *messages: str) -> None:
    """See that an upgrade fails with these messages and leaves the catalog as it was."""
    before = snapshot(project.engine)
    with pytest.raises(sa.exc.DBAPIError) as caught:
        project.upgrade(revision)
    for message in messages:
        assert message in str(caught.value)
    assert before == snapshot(project.engine)


def test_existing_table_with_a_key_of_its_own(project: Project) -> None:
    """A table in the place of the audit table in which records could not be stored."""
    project.migrate(models(None))
    project.execute(f"CREATE TABLE account_audit ({OWN}, audit_id bigint PRIMARY KEY)")
    project.revision(models(CLASSIC))
    refused(
        project,
        "head",
        'table "public"."account_audit" is NOT NULL in columns that a record may leave empty: '
        "audit_id",
        "DROP NOT NULL, or name another audit table",
    )
    project.execute("INSERT INTO account VALUES (1, 'a@x')")


@pytest.mark.parametrize("columns", ["foo integer NOT NULL", "id integer, email text NOT NULL"])
def test_existing_table_with_required_columns(project: Project, columns: str) -> None:
    """Columns of an audit table that a record may leave empty become nullable, by the migration."""
    project.migrate(models(None))
    project.execute(f"CREATE TABLE account_audit ({OWN}, {columns})")
    before = snapshot(project.engine)
    assert "nullable=True)" in project.migrate(models(CLASSIC))
    project.execute("TRUNCATE account", "DELETE FROM account_audit")
    project.downgrade()
    assert before == snapshot(project.engine)


def test_existing_table_that_fits(project: Project) -> None:
    """A table in which records can be stored is used, and what is in it stays."""
    project.migrate(models(None))
    project.execute(
        f"CREATE TABLE account_audit ({OWN}, who text NOT NULL DEFAULT 'x', email text)",
        "INSERT INTO account_audit VALUES ('I', '2020-01-01', 'x', 'old')",
    )
    project.migrate(models(CLASSIC))
    project.execute("INSERT INTO account VALUES (1, 'a@x')")
    assert [("x", "I", None, "old"), ("x", "I", 1, "a@x")] == project.rows(
        "SELECT who, audit_operation, id, email FROM account_audit ORDER BY id NULLS FIRST"
    )


@pytest.mark.parametrize("options", [ENABLED, CLASSIC], ids=["standard", "classic"])
def test_existing_table_that_is_no_audit_table(project: Project, options: dict[str, Any]) -> None:
    """A table that has only the name of an audit table is not made into one."""
    project.migrate(models(None))
    project.execute("CREATE TABLE account_audit (foo integer)")
    with pytest.raises(CommandError, match="'account_audit' exists and has no column 'audit_op"):
        project.revision(models(options))


def test_existing_table_of_other_types(project: Project) -> None:
    """A column of another type is set aside, with what it holds."""
    project.migrate(models(None))
    project.execute(
        f"CREATE TABLE account_audit ({OWN}, id text)",
        "INSERT INTO account_audit VALUES ('I', '2020-01-01', 'one')",
    )
    project.migrate(models(CLASSIC))
    project.execute("INSERT INTO account VALUES (1, 'a@x')")
    assert [(None, "one"), (1, None)] == project.rows(
        "SELECT id, id__text FROM account_audit ORDER BY id NULLS FIRST"
    )


@pytest.mark.parametrize("kind", ["TABLE", "VIEW"])
def test_something_else_has_the_name(project: Project, kind: str) -> None:
    """A function of the same name, or a view, is not taken over."""
    project.migrate(models(None))
    project.execute(
        "CREATE VIEW account_audit AS SELECT 1 AS id"
        if kind == "VIEW"
        else "CREATE FUNCTION public_account_audit() RETURNS trigger LANGUAGE plpgsql "
        "AS 'BEGIN RETURN NULL; END'"
    )
    project.revision(models(ENABLED))
    message = "account_audit" if kind == "VIEW" else 'public_account_audit"() exists already'
    refused(project, "head", message)


def leave_audit_table_out(project: Project) -> None:
    """Take the audit table out of the second revision, as somebody may who edits it."""
    file = project.path / "versions" / "0002_step.py"
    text = file.read_text()
    file.write_text(re.sub(r"op\.create_(table|index)\(", "(lambda *a, **k: None)(", text))


def test_missing_audit_table(project: Project) -> None:
    """A migration whose audit table is not there says so, before there is a trigger."""
    project.migrate(models(None))
    project.revision(models(ENABLED))
    leave_audit_table_out(project)
    refused(
        project,
        "head",
        'table "public"."account_audit" does not exist, so nothing could be recorded',
        "Create it before the audit trigger, in the same migration.",
    )


# -- rights ------------------------------------------------------------------------------------


@pytest.fixture
def migrator(project: Project, database: Database) -> Iterator[str]:
    """A role with every right that it takes to audit `account`, and which runs the migrations."""
    role = f"{database.name}_migrator"
    owner = project.engine
    project.migrate(models(None))
    project.revision(models(ENABLED))
    project.execute(
        f"CREATE ROLE {role} LOGIN",
        f"GRANT USAGE, CREATE ON SCHEMA public TO {role}",
        f"GRANT TRIGGER ON account TO {role}",
        f"GRANT ALL ON alembic_version TO {role}",
        "REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC",
        f"GRANT USAGE ON LANGUAGE plpgsql TO {role}",
    )
    as_role(project, database, role)
    yield role
    project.engine = owner
    project.execute(f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")


def as_role(project: Project, database: Database, role: str) -> None:
    project.engine = sa.create_engine(database.url(user=role), poolclass=sa.NullPool)
    project.config.attributes["engine"] = project.engine


def test_every_right(project: Project, database: Database, migrator: str) -> None:
    """A role that owns neither schema nor table can audit it; writers need no right of its."""
    project.upgrade()
    with database.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO account VALUES (1, 'a@x')")
    assert [("I", 1, "postgres")] == project.rows(
        "SELECT audit_operation, id, audit_current_user FROM account_audit"
    )


@pytest.mark.parametrize(
    ("revoke", "message"),
    [
        ("CREATE ON SCHEMA public", "permission denied for schema public"),
        ("USAGE ON SCHEMA public", "no schema has been selected to create in"),
        ("TRIGGER ON account", "permission denied for table account"),
        ("USAGE ON LANGUAGE plpgsql", "permission denied for language plpgsql"),
    ],
)
def test_missing_right(
    project: Project, database: Database, migrator: str, revoke: str, message: str
) -> None:
    """Each right that is missing alone stops the migration, which leaves no trace."""
    before = snapshot(database.engine)
    with database.engine.begin() as connection:
        connection.exec_driver_sql(f"REVOKE {revoke} FROM {migrator}")
        if "USAGE ON SCHEMA" in revoke:  # which everybody has
            connection.exec_driver_sql(f"REVOKE {revoke} FROM PUBLIC")
    revoked = snapshot(database.engine)
    assert ("LANGUAGE" in revoke) == (before == revoked)
    with pytest.raises(sa.exc.ProgrammingError, match=message):
        project.upgrade()
    assert revoked == snapshot(database.engine)


@pytest.mark.parametrize("granted", [False, True])
def test_audit_table_of_another(
    project: Project, database: Database, migrator: str, granted: bool
) -> None:
    """A kept audit table of another role: a trail could not record, or its owner could forge it."""
    project.engine = database.engine
    project.config.attributes["engine"] = database.engine
    project.upgrade()
    project.execute("INSERT INTO account VALUES (1, 'a@x')")
    project.downgrade()  # the audit table stays
    leave_audit_table_out(project)
    if granted:
        project.execute(f"GRANT INSERT ON account_audit TO {migrator}")
    before = snapshot(database.engine)
    as_role(project, database, migrator)
    if not granted:
        with pytest.raises(sa.exc.ProgrammingError) as caught:
            project.upgrade()
        assert f'role {migrator} may not insert into "public"."account_audit"' in str(caught.value)
        assert before == snapshot(database.engine)
        return
    # The owner is a superuser here, who may do anything anyhow.
    project.upgrade()
    with database.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO account VALUES (2, 'b@x')")
        assert 2 == connection.exec_driver_sql("SELECT count(*) FROM account_audit").scalar_one()


def test_right_to_end_a_trail(project: Project, database: Database, migrator: str) -> None:
    """Only the owners can end a trail or change it; who cannot leaves it as it is."""
    project.engine = database.engine
    project.config.attributes["engine"] = database.engine
    project.upgrade()
    project.revision(models({**ENABLED, "changed_columns": True}))
    before = snapshot(database.engine)
    as_role(project, database, migrator)
    for attempt in (project.upgrade, project.downgrade):
        with pytest.raises(sa.exc.ProgrammingError, match="must be owner"):
            attempt()
        assert before == snapshot(database.engine)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO account VALUES (1, 'a@x')")
        assert 1 == connection.exec_driver_sql("SELECT count(*) FROM account_audit").scalar_one()
