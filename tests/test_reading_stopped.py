"""A trail that was stopped is read as long as its records are kept."""

import json
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from alembic_audit import ReadingError, audited, uninstall_audit_triggers
from alembic_audit.cli import main
from alembic_audit.reading import as_of, blame, changes, history
from alembic_audit.reading.export import export
from alembic_audit.tables import derive_all
from tests.conftest import Database

SETTINGS = [sa.Column("username", sa.Text)]
COLUMNS = ["id", "email", "doc", "pin"]


def models(**options: Any) -> sa.MetaData:
    metadata = sa.MetaData()
    sa.Table(
        "account",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.Text),
        sa.Column("doc", sa.Text),
        sa.Column("pin", sa.Text),
        info={"audit.options": {"enabled": True, "session_settings": SETTINGS, **options}},
    )
    derive_all(metadata)
    return metadata


@pytest.fixture
def stopped(database: Database) -> Iterator[Database]:
    """Two records of one row, of a trail that was stopped."""
    metadata = models(sparse_columns=["doc"], hash_columns=["pin"], changed_columns=True)
    metadata.create_all(database.engine)
    for statement in (
        "INSERT INTO account VALUES (1, 'a@x', 'long', 'secret')",
        "UPDATE account SET email = 'b@x'",
    ):
        with database.engine.begin() as connection:
            connection.exec_driver_sql("SELECT set_config('audit.username', 'ann', true)")
            connection.exec_driver_sql(statement)
    uninstall_audit_triggers(metadata, database.engine)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE account SET email = 'unrecorded'")
    yield database


class Run:
    """The command over a database, its output as JSON."""

    def __init__(self, database: Database, capsys: pytest.CaptureFixture[str]) -> None:
        self.url = database.url().render_as_string(hide_password=False)
        self.capsys = capsys

    def __call__(self, *arguments: str) -> list[Any]:
        assert 0 == main([*arguments, "--json", "--url", self.url]), self.capsys.readouterr().err
        return [json.loads(line) for line in self.capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("is_there", [True, False], ids=["table", "table dropped"])
def test_at_the_terminal(
    stopped: Database, capsys: pytest.CaptureFixture[str], is_there: bool
) -> None:
    """log, show, as-of, blame, tail and status, with the table or without."""
    if not is_there:
        with stopped.engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE account")
    run = Run(stopped, capsys)
    update, insert = run("log", "account", "1")
    assert ("U", ["email"], {"username": "ann"}) == (
        update["operation"],
        update["changed"],
        update["settings"],
    )
    assert {"id", "email", "doc", "pin_sha256"} == set(insert["row"])
    # A column that the UPDATE left out is what it was.
    assert ("long", "long") == (update["row"]["doc"], insert["row"]["doc"])
    assert [insert] == run("show", "1")
    assert [insert, update] == run("tail", "account")
    (row,) = run("as-of", "account", "audit:2")
    assert (1, "b@x", "long") == (row["id"], row["email"], row["doc"])
    assert {"email": "b@x"} == {
        each["column"]: each["value"]
        for each in run("blame", "account", "1")
        if each["column"] == "email"
    }
    (status,) = run("status")
    assert ("public.account", "trail stopped", 2) == (
        status["table"],
        status["state"],
        status["records"],
    )


def test_beside_the_trail_that_followed(
    stopped: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table that is audited again, into another audit table: the former one has its own name."""
    again = sa.MetaData(naming_convention={"audit.table": "%(table_name)s_log"})
    sa.Table(
        "account",
        again,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.Text),
        info={"audit.options": {"enabled": True}},
    )
    derive_all(again)
    again.create_all(stopped.engine)
    with stopped.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE account SET email = 'new'")
    run = Run(stopped, capsys)
    assert ["new"] == [record["row"]["email"] for record in run("log", "account", "1")]
    former = run("log", "account_audit", "1")
    assert ["b@x", "a@x"] == [record["row"]["email"] for record in former]
    tables = {"public.account", "public.account_audit"}
    assert tables == {record["table"] for record in run("show", "1")}


def test_what_says_no_key(stopped: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an index of the key and without the table nothing says which row a record is of."""
    run = Run(stopped, capsys)
    with stopped.engine.begin() as connection:
        (name,) = connection.scalars(
            sa.text("SELECT indexname FROM pg_indexes WHERE indexdef LIKE '%(id, audit_id)'")
        )
        connection.exec_driver_sql(f'DROP INDEX "{name}"')
    assert 2 == len(run("log", "account", "1"))
    with stopped.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE account")
    assert 2 == main(["log", "account", "1", "--url", run.url])
    assert "'public.account' has no primary key" in capsys.readouterr().err


def test_by_the_models(stopped: Database) -> None:
    """`enabled=False` with the options that it had: every reader takes the class or the Table."""

    class Base(DeclarativeBase):
        pass

    @audited(session_settings=SETTINGS)
    class Other(Base):
        __tablename__ = "other"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Account(Base):
        __tablename__ = "account"
        __table_args__ = {  # noqa: RUF012
            "info": {
                "audit.options": {
                    "enabled": False,
                    "reason": "moved",
                    "session_settings": SETTINGS,
                    "sparse_columns": ["doc"],
                    "hash_columns": ["pin"],
                    "changed_columns": True,
                }
            }
        }
        id: Mapped[int] = mapped_column(primary_key=True)
        other: Mapped[int | None] = mapped_column(sa.ForeignKey("other.id"))
        email: Mapped[str]
        doc: Mapped[str]
        pin: Mapped[str]

    with stopped.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE account_audit ADD other int")
    with Session(stopped.engine) as session:
        records = session.execute(history(Account, 1)).all()
        assert ["b@x", "a@x"] == [record.email for record, _, _ in records]
        assert ["ann"] * 2 == [record.audit_username for record, _, _ in records]
        found = session.execute(changes(Account.__table__, actor={"username": "ann"})).all()
        assert 2 == len(found)
        (account,) = session.scalars(as_of(Account, datetime.now(timezone.utc)))
        assert ("b@x", "long") == (account.email, account.doc)
        assert session.execute(blame(Account, 1)).all()
        assert 2 == len(list(export(session.connection(), Account)))
    assert {"other", "other_audit", "account"} == set(Base.metadata.tables)


def test_a_table_that_says_nothing(stopped: Database) -> None:
    """The error says what to write, and that works."""
    metadata = sa.MetaData()
    table = sa.Table("account", metadata, *(sa.Column(n, sa.Text) for n in COLUMNS[1:]))
    with pytest.raises(ReadingError) as caught:
        history(table, 1)
    assert str(caught.value).endswith(
        "To read a trail that was stopped, write the options it had with 'enabled': False"
    )
