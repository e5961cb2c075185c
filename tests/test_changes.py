"""Every change of the models, there and back: the trail survives it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.conftest import Database
from tests.journey import BothWays, Journey, Models
from tests.project import Project

ON = {"enabled": True}


def account(
    *columns: sa.Column[Any],
    audited: bool = True,
    naming: dict[str, str] | None = None,
    name: str = "account",
    others: Models | None = None,
    **options: Any,
) -> Models:
    """Return what makes the models: one table, audited with these options."""

    def make() -> sa.MetaData:
        metadata = others() if others else sa.MetaData(naming_convention=naming or {})
        sa.Table(
            name,
            metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("email", sa.String(80)),
            *(column._copy() for column in columns),
            info={"audit.options": {**ON, **options}} if audited else {},
        )
        return metadata

    return make


def setting(name: str, kind: Any = sa.Text, nullable: bool = True) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=nullable)


def using(kind: str, expression: str) -> Callable[[str], str]:
    """Return what gives Alembic's own alter_column to a type its USING."""
    call = f"type_={kind},\n               existing_nullable"
    return lambda text: text.replace(call, call.replace(",", f", postgresql_using={expression!r},"))


INSERT = "INSERT INTO account (id, email) VALUES (1, 'a@x')"
UPDATE = "UPDATE account SET email = email || '!'"
DELETE = "DELETE FROM account"
AMOUNT = "INSERT INTO account (id, email, amount) VALUES (1, 'a@x', '12.50')"
MOVED: dict[str, Any] = {
    "writes_before": (INSERT,),
    "writes_after": (UPDATE,),
    "writes_back": (UPDATE,),
}

JOURNEYS = [
    Journey("add_nullable", account(), account(sa.Column("note", sa.Text)), **MOVED),
    Journey(
        "add_with_default",
        account(),
        account(sa.Column("note", sa.Text, nullable=False, server_default="n")),
        **MOVED,
    ),
    Journey("drop_a_column", account(sa.Column("note", sa.Text)), account(), **MOVED),
    Journey(
        "retype_incompatible",
        account(sa.Column("amount", sa.Text)),
        account(sa.Column("amount", sa.Integer)),
        writes_before=("INSERT INTO account (id, email, amount) VALUES (1, 'a@x', '12')",),
        writes_after=("UPDATE account SET amount = 13",),
        writes_back=("UPDATE account SET amount = '14'",),
        edit=using("sa.Integer()", "amount::integer"),
    ),
    Journey(
        "retype_wider",
        account(sa.Column("amount", sa.String(10))),
        account(sa.Column("amount", sa.String(20))),
        writes_before=(AMOUNT,),
        writes_after=("UPDATE account SET amount = '12345678901234'",),
        writes_back=(),
        edit=using("sa.VARCHAR(length=10)", "left(amount, 10)"),
    ),
    Journey(
        "retype_narrower",
        account(sa.Column("amount", sa.BigInteger)),
        account(sa.Column("amount", sa.SmallInteger)),
        writes_before=("INSERT INTO account VALUES (1, 'a@x', 12)",),
        writes_after=("UPDATE account SET amount = 13",),
        writes_back=("UPDATE account SET amount = 14",),
    ),
    Journey(
        "retype_key",
        lambda: key(sa.Integer),
        lambda: key(sa.BigInteger),
        writes_before=("INSERT INTO account VALUES (1, 'a')",),
        writes_after=(
            "INSERT INTO account VALUES (5000000000, 'b')",
            "DELETE FROM account WHERE id = 5000000000",
        ),
        writes_back=("UPDATE account SET email = 'c'",),
    ),
    Journey(
        "retype_key_and_move",
        lambda: key(sa.Integer, sa.Column("note", sa.Text), session_settings=[setting("who")]),
        lambda: key(
            sa.BigInteger,
            session_settings=[setting("who")],
            schema_name="audit",
            naming={"audit.table": "%(table_name)s_history", "audit.setting": "s_%(setting)s"},
        ),
        configure={"include_schemas": True},
        **MOVED,
    ),
    Journey(
        "retype_key_and_owner",
        lambda: key(sa.Integer),
        lambda: key(sa.BigInteger, owner="pg_monitor"),
        **MOVED,
    ),
    Journey(
        "exclude",
        account(sa.Column("note", sa.Text)),
        account(sa.Column("note", sa.Text), exclude_columns=["note"]),
        **MOVED,
    ),
    Journey("hash", account(), account(hash_columns=["email"]), **MOVED),
    Journey("ignore", account(), account(ignore_columns=["email"]), writes_before=(INSERT,)),
    Journey(
        "operations",
        account(),
        account(operations=["insert"]),
        writes_before=(INSERT,),
        writes_back=(UPDATE,),
    ),
    Journey("skip_unchanged", account(), account(skip_unchanged=True), **MOVED),
    Journey("changed_columns", account(), account(changed_columns=True), **MOVED),
    Journey("always", account(), account(always=True), **MOVED),
    Journey("setting_added", account(), account(session_settings=[setting("who")]), **MOVED),
    Journey(
        "setting_dropped",
        account(session_settings=[setting("who", nullable=False)]),
        account(),
        writes_before=("SET LOCAL audit.who = 'ann'", INSERT),
        writes_after=(UPDATE,),
        writes_back=("SET LOCAL audit.who = 'ben'", UPDATE),
    ),
    Journey(
        "setting_optional",
        account(session_settings=[setting("who", nullable=False)]),
        account(session_settings=[setting("who")]),
        writes_before=("SET LOCAL audit.who = 'ann'", INSERT),
        writes_after=(UPDATE,),
        writes_back=("SET LOCAL audit.who = 'ben'", UPDATE),
    ),
    Journey(
        "setting_required",
        account(session_settings=[setting("who")]),
        account(session_settings=[setting("who", nullable=False)]),
        writes_before=(INSERT,),
        writes_after=("SET LOCAL audit.who = 'ann'", UPDATE),
        writes_back=(UPDATE,),
    ),
    Journey(
        "setting_retyped",
        account(session_settings=[setting("who")]),
        account(session_settings=[setting("who", sa.Uuid)]),
        writes_before=("SET LOCAL audit.who = 'ann'", INSERT),
        writes_after=("SET LOCAL audit.who = '11111111-1111-1111-1111-111111111111'", UPDATE),
        writes_back=("SET LOCAL audit.who = 'ben'", UPDATE),
    ),
    Journey(
        "setting_required_retyped",
        account(session_settings=[setting("who", nullable=False)]),
        account(session_settings=[setting("who", sa.Uuid, nullable=False)]),
        writes_before=("SET LOCAL audit.who = 'ann'", INSERT),
        writes_after=("SET LOCAL audit.who = '11111111-1111-1111-1111-111111111111'", UPDATE),
        writes_back=("SET LOCAL audit.who = 'ben'", UPDATE),
    ),
    Journey(
        "setting_renamed_and_retyped",
        account(session_settings=[setting("who", nullable=False), setting("why", sa.String(9))]),
        account(
            session_settings=[setting("who", sa.Uuid), setting("why")],
            naming={"audit.setting": "s_%(setting)s"},
        ),
        writes_before=("SET LOCAL audit.who = 'ann'", INSERT),
        writes_after=(UPDATE, "SET LOCAL audit.why = 'a longer reason'", UPDATE),
        writes_back=("SET LOCAL audit.who = 'ben'", UPDATE),
    ),
    Journey(
        "setting_renamed_and_indexed",
        account(session_settings=[setting("who")], indexes=[["audit_who", "id"]]),
        account(
            session_settings=[setting("who")],
            naming={"audit.setting": "s_%(setting)s"},
            indexes=[["s_who", "id"]],
        ),
        **MOVED,
    ),
    Journey(
        "stop", account(), account(audited=False), writes_before=(INSERT,), writes_back=(UPDATE,)
    ),
    Journey(
        "drop_table_with_records",
        account(),
        sa.MetaData,
        writes_before=(INSERT,),
        writes_back=(INSERT,),
    ),
    Journey(
        "convention_table",
        account(),
        account(naming={"audit.table": "%(table_name)s_history"}),
        **MOVED,
    ),
    Journey(
        "convention_function",
        account(),
        account(naming={"audit.function": "f_%(table_name)s"}),
        **MOVED,
    ),
    Journey(
        "convention_trigger",
        account(),
        account(naming={"audit.trigger": "00_%(table_name)s"}),
        **MOVED,
    ),
    Journey(
        "convention_setting",
        account(session_settings=[setting("who")]),
        account(session_settings=[setting("who")], naming={"audit.setting": "s_%(setting)s"}),
        **MOVED,
    ),
    Journey(
        "schema_name",
        account(),
        account(schema_name="audit"),
        configure={"include_schemas": True},
        **MOVED,
    ),
    Journey(
        "moved_and_changed",
        account(sa.Column("amount", sa.Text), session_settings=[setting("who")]),
        account(
            sa.Column("amount", sa.Integer),
            sa.Column("note", sa.Text),
            session_settings=[setting("who")],
            schema_name="audit",
            naming={"audit.table": "%(table_name)s_history", "audit.setting": "s_%(setting)s"},
        ),
        configure={"include_schemas": True},
        edit=using("sa.Integer()", "amount::integer"),
        **MOVED,
    ),
    Journey(
        "moved_and_indexed",
        account(
            indexes=[["email"], ["id"], ["id", "audit_id"], ["audit_who"]],
            session_settings=[setting("who")],
        ),
        account(
            indexes=[["id"], ["email", "id"], ["s_who"]],
            session_settings=[setting("who")],
            schema_name="audit",
            naming={"audit.table": "%(table_name)s_history", "audit.setting": "s_%(setting)s"},
        ),
        configure={"include_schemas": True},
        **MOVED,
    ),
    Journey(
        "to_standard",
        account(audit_columns="classic", session_settings=[setting("who")]),
        account(session_settings=[setting("who")]),
        keeps=True,
        **MOVED,
    ),
    Journey("to_classic", account(), account(audit_columns="classic"), **MOVED),
    Journey("owner", account(), account(owner="postgres"), **MOVED),
]


def key(
    kind: Any, *columns: sa.Column[Any], naming: dict[str, str] | None = None, **options: Any
) -> sa.MetaData:
    metadata = sa.MetaData(naming_convention=naming or {})
    sa.Table(
        "account",
        metadata,
        sa.Column("id", kind, primary_key=True),
        sa.Column("email", sa.Text),
        *columns,
        info={"audit.options": {**ON, **options}},
    )
    return metadata


# Plain Alembic renders autoincrement=True for a retyped key, and warns of it when it runs.
pytestmark = pytest.mark.filterwarnings("ignore:autoincrement and existing_autoincrement")


@pytest.mark.parametrize("journey", JOURNEYS, ids=str)
class TestJourneys(BothWays):
    """Each journey, there and back, and the same by --sql."""


def with_cast_to_enum(text: str) -> str:
    """Give Alembic's own alter_column back to an enum its USING."""
    return re.sub(
        r"(type_=postgresql.ENUM(.|\n)*?existing_nullable=True)",
        r"\1, postgresql_using='x::mood'",
        text,
    )


SESSIONS = {
    "enum_to_text": (
        account(sa.Column("x", sa.Enum("1", name="mood"))),
        account(sa.Column("x", sa.Text)),
    ),
    "hashed": (
        account(sa.Column("x", sa.Integer), hash_columns=["x"]),
        account(sa.Column("x", sa.BigInteger), hash_columns=["x"]),
    ),
    "set_aside": (
        account(sa.Column("x", sa.Integer)),
        account(sa.Column("x", sa.BigInteger)),
    ),
    "narrower": (
        account(sa.Column("x", sa.BigInteger)),
        account(sa.Column("x", sa.Integer)),
    ),
    "setting": (
        account(sa.Column("x", sa.Text), session_settings=[setting("who")]),
        account(sa.Column("x", sa.Text), session_settings=[setting("who", sa.Integer)]),
    ),
    "setting_renamed": (
        account(sa.Column("x", sa.Text), session_settings=[setting("who")]),
        account(
            sa.Column("x", sa.Text),
            session_settings=[setting("who")],
            naming={"audit.setting": "s_%(setting)s", "audit.table": "t_%(table_name)s"},
        ),
    ),
}


@pytest.mark.parametrize("name", SESSIONS)
def test_open_sessions_write_on(name: str, tmp_path: Path, database: Database) -> None:
    """A session that has planned the function's statements goes on writing after the migration."""
    before, after = SESSIONS[name]
    project = Project(tmp_path, database)
    project.migrate(before())
    with project.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as session:
        session.exec_driver_sql("SET audit.who = '1'")

        def write() -> None:
            for _ in range(8):
                session.exec_driver_sql("INSERT INTO account (x) VALUES ('1')")
            session.exec_driver_sql("UPDATE account SET x = '1'")

        write()
        project.revision(after())
        project.edit(with_cast_to_enum)
        project.upgrade()
        project.check(after())
        write()
        project.downgrade()
        write()
        project.upgrade()
        write()
