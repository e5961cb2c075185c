"""The operations as people write them: online and offline, and what they refuse."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate.api import AutogenContext
from alembic.autogenerate.render import render_op_text
from alembic.operations import Operations
from alembic.operations.ops import MigrateOperation
from alembic.runtime.migration import MigrationContext

import alembic_audit.autogenerate.render  # noqa: F401  (registers the renderers)
from alembic_audit.errors import SpecError
from alembic_audit.operations import (
    AlterAuditColumnOp,
    CreateAuditSchemaOp,
    CreateAuditTriggerOp,
    DropAuditColumnOp,
    DropAuditSchemaOp,
    DropAuditTableOp,
    DropAuditTriggerOp,
    LockAuditedTablesOp,
    MoveAuditedTableOp,
    NumberAuditTableOp,
    RenameAuditedColumnOp,
    RenameAuditedTableOp,
    ReplaceAuditTriggerOp,
    RestoreAuditTriggerOp,
    SnapshotAuditTableOp,
)
from alembic_audit.spec import AuditSpec
from alembic_audit.states import AuditState, Drift
from tests.catalogs import snapshot
from tests.conftest import Database
from tests.journey import psql
from tests.project import Project
from tools import postgres

TABLES = """
    op.create_table(
        "account",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.Text),
        sa.Column("secret", sa.Text),
    )
    op.create_table(
        "account_audit",
        sa.Column("audit_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("audit_operation", sa.String(1), nullable=False),
        sa.Column("audit_operation_timestamp", sa.DateTime(timezone=True), nullable=False),
        sa.Column("audit_transaction_id", sa.BigInteger, nullable=False),
        sa.Column("audit_current_user", sa.String(64), nullable=False),
        sa.Column("id", sa.Integer),
        sa.Column("email", sa.Text),
    )
"""
UNDO = 'op.drop_table("account_audit")\n    op.drop_table("account")'
SHORT = 'op.create_audit_trigger("account", columns=["id", "email"])'
DROP = 'op.drop_audit_trigger("account")'


@pytest.fixture
def project(tmp_path: Path, database: Database, driver: str) -> Project:
    """A project with the two tables, and nothing that writes to the second."""
    made = Project(tmp_path, database, driver)
    made.config.attributes["metadata"] = sa.MetaData()
    made.write(TABLES, UNDO)
    made.upgrade()
    return made


def test_short_form(project: Project) -> None:
    """The short form records all four operations; what it makes is gone after the drop."""
    before = snapshot(project.engine)
    project.write(SHORT, DROP)
    project.upgrade()

    project.execute(
        "INSERT INTO account VALUES (1, 'a', 'x')",
        "UPDATE account SET email = 'b'",
        "DELETE FROM account",
        "TRUNCATE account",
    )
    assert [
        (1, "I", "postgres", 1, "a"),
        (2, "D", "postgres", 1, "a"),
        (3, "U", "postgres", 1, "b"),
        (4, "D", "postgres", 1, "b"),
        (5, "T", "postgres", None, None),
    ] == project.rows(
        "SELECT audit_id, audit_operation, audit_current_user, id, email"
        " FROM account_audit ORDER BY audit_id"
    )

    project.downgrade()
    assert before == snapshot(project.engine)


def test_short_form_offline(
    project: Project, tmp_path: Path, server: postgres.Server, twin: Database
) -> None:
    """--sql makes the same database, up and down."""
    before = snapshot(project.engine)
    project.write(SHORT, DROP)
    project.upgrade()
    script = tmp_path / "script.sql"

    psql(server, twin, script, project.sql("upgrade", "head"))
    assert snapshot(project.engine) == snapshot(twin.engine)

    psql(server, twin, script, project.sql("downgrade", "0002:0001"))
    assert before == snapshot(twin.engine)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            'op.create_audit_trigger("account", columns=["id", "nmae"])',
            'table "public"."account" has no column nmae',
        ),
        (
            'op.create_audit_trigger("account", columns=["id", "secret"])',
            'table "public"."account_audit" has no column secret',
        ),
        (
            'op.create_audit_trigger("account", audit_table="trail", columns=["id"])',
            'table "public"."trail" does not exist',
        ),
        (
            'op.create_audit_trigger("acount", audit_table="account_audit", columns=["id"])',
            'table "public"."acount" does not exist',
        ),
        (f"{SHORT}; {SHORT}", 'function "public"."public_account_audit"() exists already'),
    ],
)
def test_refused_by_the_database(project: Project, call: str, message: str) -> None:
    """What does not fit is refused by name, and nothing has changed."""
    before = snapshot(project.engine)
    project.write(call)

    with pytest.raises(sa.exc.DBAPIError) as caught:
        project.upgrade()

    assert message in str(caught.value)
    assert before == snapshot(project.engine)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ('op.create_audit_trigger("account")', "no column of 'account' would be recorded"),
        (
            'op.create_audit_trigger("account", columns="id")',
            "columns must be a list of column names, found the string 'id'",
        ),
        (
            'op.create_audit_trigger("account", columns=["id"], colums=["email"])',
            "unexpected keyword argument 'colums'",
        ),
        (
            'op.create_audit_trigger("account", columns=["id"], operations=["merge"])',
            "operations must be one of insert, update, delete, truncate, found 'merge'",
        ),
        (
            'op.create_audit_trigger("account", columns=["id"], version=99)',
            "template version 99 is not one of 1",
        ),
        (
            'op.create_audit_trigger("account", columns=["id"], key=["email"])',
            "key columns ['email'] of 'account' are not in columns",
        ),
    ],
)
def test_refused_before_the_database(project: Project, call: str, message: str) -> None:
    """Arguments that describe no trigger are refused, before a statement is sent."""
    project.write(call)

    with pytest.raises(SpecError, match=re.escape(message)):
        project.upgrade()


NO_RECORD = "SELECT 1"
RECORD = "INSERT INTO account_audit VALUES (DEFAULT, 'I', now(), 1, 'x', 1, 'a')"


@pytest.mark.parametrize("allow", ["no", "yes"])
@pytest.mark.parametrize("holds", [False, True])
@pytest.mark.parametrize("what", ["table", "column"])
@pytest.mark.parametrize("offline", [False, True])
def test_history(
    project: Project,
    server: postgres.Server,
    database: Database,
    what: str,
    holds: bool,
    allow: str,
    offline: bool,
) -> None:
    """A table or column that holds something is kept, unless -x audit_allow_history_loss=yes."""
    call = {
        "table": 'op.drop_audit_table("account_audit")',
        "column": 'op.drop_audit_column("account_audit", "email")',
    }[what]
    project.write(call)
    project.execute(RECORD if holds else NO_RECORD)
    project.config.cmd_opts = type("Options", (), {"x": [f"audit_allow_history_loss={allow}"]})()

    if offline:
        psql(server, database, project.path / "x.sql", project.sql("upgrade", "0001:0002"))
    else:
        project.upgrade()

    columns = snapshot(project.engine)["columns"]
    kept = holds and allow != "yes"
    assert kept == ("public.account_audit.email" in columns)
    assert (kept or what == "column") == ("public.account_audit.id" in columns)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            'op.drop_audit_table("account_audit")',
            'audit table "public"."account_audit" holds records and was kept; '
            "drop it with -x audit_allow_history_loss=yes, or by hand",
        ),
        (
            'op.drop_audit_column("account_audit", "email")',
            'column "email" of audit table "public"."account_audit" holds values and was kept; '
            "drop it with -x audit_allow_history_loss=yes, or by hand",
        ),
    ],
)
def test_notice(tmp_path: Path, database: Database, call: str, message: str) -> None:
    """A NOTICE says what was kept and how to drop it."""
    project = Project(tmp_path, database, "psycopg2")  # which keeps notices
    said: list[str] = []
    sa.event.listen(
        project.engine,
        "after_cursor_execute",
        lambda connection, *_: said.extend(connection.connection.notices),
    )
    project.write(TABLES)
    project.write(f"op.execute({RECORD!r})\n    {call}")
    project.config.attributes["metadata"] = sa.MetaData()

    project.upgrade()

    assert any(f"NOTICE:  {message}" in line for line in said)


def test_unknown_permission(project: Project) -> None:
    """A misspelt permission is an error, not a no."""
    project.write('op.drop_audit_table("account_audit")')
    project.config.cmd_opts = type("Options", (), {"x": ["audit_allow_history_loss=true"]})()

    with pytest.raises(ValueError, match="must be yes or no, found 'true'"):
        project.upgrade()


def test_drop_of_another_trail(project: Project) -> None:
    """A function that writes another audit table than the one named is not dropped."""
    project.write(SHORT)
    project.upgrade()
    before = snapshot(project.engine)
    project.write('op.drop_audit_trigger("account", audit_table="trail")')

    with pytest.raises(sa.exc.DBAPIError, match="nothing was dropped"):
        project.upgrade()

    assert before == snapshot(project.engine)


# -- rendering ------------------------------------------------------------------------------------

HOSTILE = "a'b\"c%d\\e:f{g}$audit$ ä"
PLAIN = AuditSpec.from_kwargs("account", columns=["id", "email"], key=["id"])
FULL = AuditSpec.from_kwargs(
    HOSTILE,
    schema="my schema",
    audit_table="trail " + HOSTILE,
    audit_schema="other",
    function="f " + HOSTILE,
    trigger="00 " + HOSTILE,
    key=[HOSTILE],
    columns=[HOSTILE, *(f"column_{number}" for number in range(30))],
    hash_columns=["h"],
    ignore_columns=["column_1"],
    session_settings={"username": "required", "note": "nullable"},
    setting_columns={"username": "who"},
    operations=["delete"],
    skip_unchanged=True,
    changed_columns=True,
)
RENAMED = AuditSpec.from_kwargs("customer", columns=["id", "email"], key=["id"])
MOVED = AuditSpec.from_kwargs("account", schema="other", columns=["id", "email"], key=["id"])
FOUND = (
    "ALTER TABLE x DISABLE TRIGGER y",
    "one\n\ttwo 'x' \\ \r\n\x0b%s :y {z}\n",
    "\x1c\u2028 a\n",
)
DRIFT = (Drift("body edited", "the\nbody"),)
OPS = [
    CreateAuditTriggerOp(AuditState(PLAIN)),
    CreateAuditTriggerOp(AuditState(FULL, FOUND)),
    CreateAuditTriggerOp(AuditState(FULL), snapshot=True),
    DropAuditTriggerOp("account"),
    DropAuditTriggerOp.from_state(AuditState(PLAIN)),
    DropAuditTriggerOp.from_state(AuditState(FULL)),
    ReplaceAuditTriggerOp(AuditState(PLAIN, FOUND, drift=DRIFT), AuditState(PLAIN)),
    ReplaceAuditTriggerOp(AuditState(PLAIN), AuditState(PLAIN, FOUND)),
    ReplaceAuditTriggerOp(
        AuditState(FULL, FOUND),
        AuditState(AuditSpec.from_kwargs(HOSTILE, schema="my schema", columns=["x"])),
    ),
    ReplaceAuditTriggerOp(AuditState(PLAIN, audit_table_missing=True), AuditState(PLAIN)),
    ReplaceAuditTriggerOp(AuditState(PLAIN), AuditState(PLAIN), snapshot=True),
    RestoreAuditTriggerOp("account", FOUND),
    RestoreAuditTriggerOp(HOSTILE, FOUND, schema="my schema"),
    RenameAuditedTableOp(PLAIN, RENAMED),
    RenameAuditedTableOp(FULL, dataclasses.replace(FULL, table="other", function="g")),
    RenameAuditedTableOp(PLAIN, RENAMED, source_renamed=True),
    MoveAuditedTableOp(PLAIN, MOVED),
    MoveAuditedTableOp(MOVED, PLAIN, source_renamed=True),
    MoveAuditedTableOp(FULL, dataclasses.replace(FULL, schema=None, function="g")),
    RenameAuditedColumnOp(
        PLAIN, dataclasses.replace(PLAIN, columns=("id", HOSTILE)), "email", HOSTILE
    ),
    SnapshotAuditTableOp(PLAIN),
    SnapshotAuditTableOp(FULL),
    SnapshotAuditTableOp(FULL, batch_size=10_000),
    AlterAuditColumnOp("account_audit", "x", nullable=True),
    AlterAuditColumnOp(HOSTILE, HOSTILE, schema="my schema", nullable=False),
    NumberAuditTableOp("account_audit"),
    NumberAuditTableOp(HOSTILE, schema="my schema"),
    CreateAuditSchemaOp(HOSTILE),
    DropAuditSchemaOp(HOSTILE),
    LockAuditedTablesOp(["account"]),
    LockAuditedTablesOp([HOSTILE, ("my schema", HOSTILE)], mode="SHARE ROW EXCLUSIVE"),
    DropAuditTableOp("account_audit"),
    DropAuditTableOp(HOSTILE, schema="my schema"),
    DropAuditColumnOp("account_audit", "x"),
    DropAuditColumnOp(HOSTILE, HOSTILE, schema="my schema"),
]


def held(op: MigrateOperation) -> dict[str, Any]:
    """Return what an operation holds, but for what only its reversal needs."""
    left_out = {"created", "added", "of", "restore", "snapshot"}
    if not isinstance(op, CreateAuditTriggerOp):
        left_out.add("state")
    return {name: value for name, value in vars(op).items() if name not in left_out}


@pytest.mark.parametrize("prefix", ["op.", "alembic_op."])
@pytest.mark.parametrize("op", OPS, ids=lambda op: type(op).__name__)
def test_render_and_exec(op: MigrateOperation, prefix: str) -> None:
    """The rendered text, executed, invokes an equal operation: one, and nothing else."""
    invoked: list[MigrateOperation] = []

    class Recording(Operations):
        def invoke(self, operation: MigrateOperation) -> None:
            invoked.append(operation)

    context = MigrationContext.configure(
        dialect_name="postgresql", opts={"alembic_module_prefix": prefix}
    )
    text = render_op_text(AutogenContext(context), op)
    exec(text, {prefix.rstrip("."): Recording(context)})

    (actual,) = invoked
    assert type(op) is type(actual)
    assert held(op) == held(actual)


@pytest.mark.parametrize("op", OPS[:2] + OPS[5:8], ids=lambda op: type(op).__name__)
def test_reverse_twice(op: MigrateOperation) -> None:
    """The reverse of the reverse is the operation."""
    assert vars(op) == vars(op.reverse().reverse())  # type: ignore[attr-defined]


# -- schemas --------------------------------------------------------------------------------------


def run(connection: sa.Connection, upgrade: str) -> None:
    operations = Operations(MigrationContext.configure(connection))
    exec(upgrade.replace("\n    ", "\n"), {"op": operations, "sa": sa})


def test_schema_translate_map(database: Database) -> None:
    """One migration serves every tenant: its schema of None is the connection's."""
    tenants = {
        name: database.engine.execution_options(schema_translate_map={None: name})
        for name in ("one", "Two %x")
    }
    columns = (sa.Column("id", sa.Integer), sa.Column("email", sa.Text))
    account = sa.Table("account", sa.MetaData(), *(column._copy() for column in columns))
    trail = sa.Table("account_audit", sa.MetaData(), *columns)
    for name, engine in tenants.items():
        with engine.begin() as connection:
            connection.execute(sa.schema.CreateSchema(name))
            run(connection, TABLES + "    " + SHORT)
            connection.execute(sa.insert(account), {"id": 1, "email": name})

    for name, engine in tenants.items():
        with engine.connect() as connection:
            assert [(1, name)] == [tuple(row) for row in connection.execute(sa.select(trail))]

    with tenants["one"].begin() as connection:
        run(connection, DROP)
        run(connection, 'op.drop_audit_column("account_audit", "email")')
        run(connection, 'op.drop_audit_table("account_audit")')
    after = snapshot(database.engine)
    assert ["Two %x.public_account_audit()"] == list(after["functions"])
    assert "one.account_audit.email" in after["columns"]


def test_default_schema_that_is_not_public(
    tmp_path: Path, server: postgres.Server, database: Database, twin: Database
) -> None:
    """Where the connection's default schema is another, the trail is there, offline too."""
    for each in (database, twin):
        with each.engine.begin() as connection:
            connection.exec_driver_sql("CREATE SCHEMA app")
            connection.exec_driver_sql(f'ALTER DATABASE "{each.name}" SET search_path = app')
        each.engine.dispose()
    project = Project(tmp_path, database, audit_default_schema="app")
    metadata = sa.MetaData()
    sa.Table(
        "account",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        info={"audit.options": {"enabled": True}},
    )
    empty = snapshot(project.engine)

    text = project.migrate(metadata)
    assert "schema" not in text
    after = snapshot(project.engine)
    assert ["app.public_account_audit()"] == list(after["functions"])
    project.execute("INSERT INTO account VALUES (1)")
    assert [(1,)] == project.rows("SELECT id FROM app.account_audit")

    psql(server, twin, tmp_path / "x.sql", project.sql("upgrade", "head"))
    assert after == snapshot(twin.engine)
    psql(server, twin, tmp_path / "x.sql", project.sql("downgrade", "0001:base"))
    assert empty == snapshot(twin.engine)
