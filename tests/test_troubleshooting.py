"""docs/troubleshooting.md quotes what the code says, and what is quoted comes."""

import ast
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import alembic_audit
import alembic_audit.operations.run
from alembic_audit import DeclarationError, SpecError, audit_table, audited
from alembic_audit.tables import derive_all
from tests.conftest import Database

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
OTHERS = PAGE[PAGE.index("And PostgreSQL's own") : PAGE.index("## Saying who it was")]
"""The part with messages that are not ours."""


def quoted(page: str) -> list[str]:
    """Return the messages of the tables."""
    return re.findall(r"^\| `(.*?)` \|", page, re.MULTILINE)


def texts() -> set[str]:
    """Return every text of the package, with … for what is put into it."""
    found = set()
    for path in (ROOT / "alembic_audit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(re.sub(r"{\w+!?r?}", "…", node.value))
            elif isinstance(node, ast.JoinedStr):
                parts = (
                    str(part.value) if isinstance(part, ast.Constant) else "…"
                    for part in node.values
                )
                found.add("".join(parts))
    return found


def test_messages_are_those_of_the_code() -> None:
    """Every message of ours stands in the code, word for word."""
    known = texts()
    ours = quoted(PAGE.replace(OTHERS, ""))
    assert [] == [message for message in ours if not any(message in text for text in known)]
    assert 90 < len(ours)


def test_every_class_of_errors() -> None:
    """Every public error has its place."""
    errors = {name for name in alembic_audit.__all__ if name.endswith("Error")}
    assert errors == errors & set(re.findall(r"\w+Error", PAGE))


def section(title: str) -> list[str]:
    """Return the messages under a heading."""
    (found,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL)
    return quoted(found)


def fits(message: str, text: str) -> bool:
    """Return whether a text holds a message of the page."""
    return re.search(".*?".join(map(re.escape, message.split("…"))), text, re.DOTALL) is not None


def table(*columns: sa.Column[Any], **options: Any) -> sa.Table:
    """Return an audited table of a key, an email and some more columns."""
    return audit_table(
        sa.Table(
            "account",
            sa.MetaData(),
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("email", sa.Text),
            *columns,
        ),
        **options,
    )


def declared(*given: Any, name: str = "account", convention: Any = None, **info: Any) -> None:
    """Declare a table with such items in the info of itself or of its MetaData, and derive."""
    defaults = {"audit.defaults": info.pop("defaults")} if "defaults" in info else {}
    metadata = sa.MetaData(info=defaults, naming_convention=convention)
    options = {"audit.options": info} if info or not defaults else {}
    sa.Table(
        name, metadata, *(given or [sa.Column("id", sa.Integer, primary_key=True)]), info=options
    )
    derive_all(metadata)


def no_table() -> None:
    class Base(DeclarativeBase):
        pass

    class Account(Base):
        __tablename__ = "account"
        id: Mapped[int] = mapped_column(primary_key=True)

    @audited()
    class Special(Account):
        pass


def shared(**kwargs: Any) -> None:
    """Two tables in two schemas, whose trails go to one."""
    metadata = sa.MetaData(**kwargs)
    for schema in ("a", "b"):
        key = sa.Column("id", sa.Integer, primary_key=True)
        audit_table(sa.Table("account", metadata, key, schema=schema), schema_name="audit")


def two_functions() -> None:
    convention = {"audit.function": "log"}
    metadata = sa.MetaData(naming_convention=convention)
    for name in ("a", "b"):
        audit_table(sa.Table(name, metadata, sa.Column("id", sa.Integer, primary_key=True)))
    derive_all(metadata)


DOMAIN = postgresql.DOMAIN("tags", sa.ARRAY(sa.Text))

DECLARATIONS: dict[str, Callable[[], object]] = {
    "unknown option … in …": lambda: table(exclude_column=["email"]),
    "… does not say whether the table is audited": lambda: declared(exclude_columns=[]),
    "… says no where … audits everything; say why": lambda: declared(
        defaults={"enabled": True}, enabled=False
    ),
    "@audited() on …, which has no table of its own": no_table,
    "table … has … already; declare them once": lambda: audit_table(
        table().info["audit.target_table"]
    ),
    "… in … names …, which the table does not have": lambda: table(hash_columns=["mail"]),
    "… names … in exclude_columns and in …; keep one": lambda: table(
        exclude_columns=["email"], hash_columns=["email"]
    ),
    "key columns … of … are not in columns": lambda: table(exclude_columns=["id"]),
    "the audit table of … would have two columns …: … and …": lambda: table(
        sa.Column("audit_who", sa.Text), session_settings=[sa.Column("who", sa.Text)]
    ),
    "the audit table of … would be …, which is …": shared,
    "the …s of … would both be …": two_functions,
    "session_settings in … must be a list of Column, found …": lambda: table(
        session_settings=["username"]
    ),
    "session setting … cannot be read as audit.…": lambda: table(
        session_settings=[sa.Column("user name", sa.Text)]
    ),
    "level 'statement' of … does not go with …": lambda: table(level="statement", always=True),
    "its primary key is INITIALLY DEFERRED": lambda: declared(
        sa.Column("id", sa.Integer),
        sa.PrimaryKeyConstraint("id", deferrable=True, initially="DEFERRED"),
        enabled=True,
    ),
    "its primary key is DEFERRABLE": lambda: declared(
        sa.Column("id", sa.Integer),
        sa.PrimaryKeyConstraint("id", deferrable=True),
        enabled=True,
        level="row",
    ),
    "column … of … is Computed without persisted=": lambda: table(
        sa.Column("twice", sa.Integer, sa.Computed("id * 2"))
    ),
    "an array of a domain that is an array itself has no base type": lambda: table(
        sa.Column("tags", sa.ARRAY(DOMAIN))
    ),
    "table … is temporary": lambda: audit_table(
        sa.Table(
            "account",
            sa.MetaData(),
            sa.Column("id", sa.Integer, primary_key=True),
            prefixes=["TEMPORARY"],
        )
    ),
    "naming convention … is …, which cannot be used": lambda: declared(
        convention={"audit.table": "%(table)s_log"}, enabled=True
    ),
    "has … bytes, of which PostgreSQL keeps …": lambda: table(sa.Column("x" * 64, sa.Text)),
}


@pytest.mark.parametrize("message", DECLARATIONS)
def test_declarations(message: str) -> None:
    """Each mistake in a model has the message of the page."""
    with pytest.raises(DeclarationError) as raised:
        DECLARATIONS[message]()
    assert fits(message, str(raised.value))


def test_no_declaration_is_left_out() -> None:
    """Every message about models is tried above."""
    assert [*DECLARATIONS] == section("A model: DeclarationError")


ARGUMENTS: dict[str, Callable[[Any], object]] = {
    "…; see help(op.create_audit_trigger)": lambda op: op.create_audit_trigger("t", colums=["id"]),
    "no column of … would be recorded": lambda op: op.create_audit_trigger("t", columns=[]),
    "… must be a list of column names, found the string …": lambda op: op.create_audit_trigger(
        "t", columns=["id"], key="id"
    ),
    "key columns … of … are not in columns": lambda op: op.create_audit_trigger(
        "t", columns=["id"], key=["no"]
    ),
    "rename_audited_column renames … to …, and columns=[...] must hold the new name": (
        lambda op: op.rename_audited_column("t", "a", "b", columns=["a"])
    ),
    "move_audited_table moves … to the schema that it is in, …": (
        lambda op: op.move_audited_table("t", "s", schema="s", columns=["a"])
    ),
    "before must be a time with an offset from UTC": lambda op: op.purge_audit_table(
        "t_audit", before="2024-01-01", reason="old", keep_last=None
    ),
    "reason must say in one line why records go": lambda op: op.purge_audit_table(
        "t_audit", before="2024-01-01 00:00:00+00:00", reason="", keep_last=None
    ),
    "keep_last must be the key of the audited table": lambda op: op.purge_audit_table(
        "t_audit", before="2024-01-01 00:00:00+00:00", reason="old", keep_last="id"
    ),
    "alter_audit_column changes one thing": lambda op: op.alter_audit_column("t_audit", "a"),
    "batch_size of snapshot_audit_table is a number of rows": lambda op: op.snapshot_audit_table(
        "t", columns=["id"], batch_size="all"
    ),
    "mode must be one of …, found …": lambda op: op.lock_audited_tables(["t"], mode="EXCLUSIVE"),
    "template version … is not one of …; upgrade alembic_audit": lambda op: op.create_audit_trigger(
        "t", columns=["id"], version=99
    ),
}


def operations(dialect: str) -> Operations:
    context = MigrationContext.configure(
        dialect_name=dialect, opts={"as_sql": True, "output_buffer": io.StringIO()}
    )
    return Operations(context)


@pytest.mark.parametrize("message", ARGUMENTS)
def test_arguments(message: str) -> None:
    """Each mistake in a migration has the message of the page."""
    with pytest.raises(SpecError) as raised:
        ARGUMENTS[message](operations("postgresql"))
    assert fits(message, str(raised.value))


def test_another_database() -> None:
    """The last one of them is not ours to mend, and no argument is left out."""
    *arguments, last = section("Arguments of an operation: SpecError")
    assert [*ARGUMENTS] == arguments
    with pytest.raises(NotImplementedError) as raised:
        operations("sqlite").create_audit_trigger("t", columns=["id"])  # type: ignore[attr-defined]
    assert fits(last, str(raised.value))


LONG = "SELECT string_agg(md5(i::text), '') FROM generate_series(1, 90) AS i"
WRITES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "session setting … is not set, and the audit of … requires it": (
        {"session_settings": [sa.Column("username", sa.Text, nullable=False)]},
        ["INSERT INTO account VALUES (1, 'a')"],
    ),
    "audit table … is append-only, and refuses ": (
        {"append_only": True},
        ["INSERT INTO account VALUES (1, 'a')", "DELETE FROM account_audit"],
    ),
    'duplicate key value violates unique constraint "account_audit_pkey"': (
        {},
        [
            "INSERT INTO account VALUES (1, 'a')",
            "SELECT setval(pg_get_serial_sequence('account_audit', 'audit_id'), 1, false)",
            "UPDATE account SET email = 'b'",
        ],
    ),
    'column "email" of relation "account_audit" does not exist': (
        {},
        ["ALTER TABLE account_audit DROP COLUMN email", "INSERT INTO account VALUES (1, 'a')"],
    ),
    'record "new" has no field "email"': (
        {"level": "row"},
        ["ALTER TABLE account DROP COLUMN email", "INSERT INTO account VALUES (1)"],
    ),
    "column audited_row.email does not exist": (
        {"level": "statement"},
        ["ALTER TABLE account DROP COLUMN email", "INSERT INTO account VALUES (1)"],
    ),
    "index row size … exceeds btree version 4 maximum 2704": (
        {"indexes": [["email", "audit_id"]]},
        [f"INSERT INTO account VALUES (1, ({LONG}))"],
    ),
    "permission denied for table account_audit": (
        {},
        ["SET ROLE pg_monitor", "SELECT FROM account_audit"],
    ),
    "invalid input syntax for type uuid": (
        {"session_settings": [sa.Column("request", sa.Uuid)]},
        ["SET audit.request = 'seven'", "INSERT INTO account VALUES (1, 'a')"],
    ),
}


@pytest.mark.parametrize("message", WRITES)
def test_writes(message: str, database: Database) -> None:
    """The last statement fails with the message of the page, the others do not."""
    options, statements = WRITES[message]
    table(**options).metadata.create_all(database.engine)
    with database.engine.connect() as connection:
        for statement in statements[:-1]:
            connection.exec_driver_sql(statement)
        with pytest.raises(sa.exc.DBAPIError) as raised:
            connection.exec_driver_sql(statements[-1])
    assert fits(message, str(raised.value.orig))


def test_no_write_is_left_out() -> None:
    """Every message about writes is tried above; a deadlock is in tests/test_locks.py."""
    assert [*WRITES, "deadlock detected"] == section("A write that fails")
