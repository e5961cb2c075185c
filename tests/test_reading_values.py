"""Reading by values of every kind, and names that collide, on each driver."""

import asyncio
import enum
import json
import uuid
from collections.abc import Iterator
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import create_async_engine

from alembic_audit import ReadingError, SettingError, set_session_vars
from alembic_audit.reading import as_of, changes, history
from alembic_audit.reading.export import export
from alembic_audit.tables import derive_all
from tests.conftest import Database, _database
from tools import postgres

NUMBER = uuid.UUID(int=7)


class Kind(enum.Enum):
    STAFF = "s"
    GUEST = "g"


METADATA = sa.MetaData()
ACCOUNT = sa.Table(
    "account",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("price", sa.Numeric(12, 4)),
    info={
        "audit.options": {
            "enabled": True,
            "session_settings": [
                sa.Column("username", sa.Text),
                sa.Column("user_id", sa.Integer),
                sa.Column("request", sa.Uuid),
                sa.Column("since", sa.DateTime(timezone=True)),
                sa.Column("day", sa.Date),
                sa.Column("kind", sa.Enum(Kind, name="kind")),
                sa.Column("is_admin", sa.Boolean),
                sa.Column("detail", postgresql.JSONB),
            ],
        }
    },
)
ACTOR: dict[str, Any] = {
    "username": "2",
    "user_id": 2,
    "request": NUMBER,
    "since": datetime(2026, 1, 2, tzinfo=timezone.utc),
    "day": date(2026, 1, 2),
    "kind": Kind.GUEST,
    "is_admin": False,
    "detail": {"a": [1, "é"]},
}


@pytest.fixture(scope="module")
def trail(server: postgres.Server) -> Iterator[Database]:
    """Records 1 and 2: of nobody, and of ACTOR."""
    derive_all(METADATA)
    with _database(server) as made:
        METADATA.create_all(made.engine)
        with made.engine.begin() as connection:
            connection.execute(ACCOUNT.insert().values(id=1))
        with made.engine.begin() as connection:
            set_session_vars(connection, METADATA, **ACTOR)
            connection.execute(ACCOUNT.insert().values(id=2))
        yield made


@pytest.fixture(params=["psycopg2", "psycopg", "asyncpg"])
def driver(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def rows(database: Database, driver: str, statement: Any) -> list[Any]:
    if driver != "asyncpg":
        engine = sa.create_engine(database.url(driver), poolclass=sa.NullPool)
        with engine.connect() as connection:
            return list(connection.execute(statement))

    async def run() -> list[Any]:
        engine = create_async_engine(database.url(driver), poolclass=sa.NullPool)
        async with engine.connect() as connection:
            return list(await connection.execute(statement))

    return asyncio.run(run())


@pytest.mark.parametrize("name", ACTOR)
def test_an_actor_by_each_setting(trail: Database, driver: str, name: str) -> None:
    """A value is what set_session_vars takes, whatever the column's type; None is nobody."""
    found = rows(trail, driver, changes(ACCOUNT, actor={name: ACTOR[name]}))
    assert [2] == [row.audit_id for row in found]
    for nobody in (None, ""):
        if nobody is None or name == "username":
            found = rows(trail, driver, changes(ACCOUNT, actor={name: nobody}))
            assert [1] == [row.audit_id for row in found]


def test_an_actor_by_a_value_of_another_type(trail: Database, driver: str) -> None:
    """A number for a text is written as it is recorded; a text for a number is refused."""
    found = rows(trail, driver, changes(ACCOUNT, actor={"username": 2, "user_id": 2}))
    assert [2] == [row.audit_id for row in found]
    with pytest.raises(SettingError, match="'user_id'"):
        changes(ACCOUNT, actor={"user_id": "two"})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"actor": 2}, "actor=2 is neither a role nor settings by their names; write "
         f"actor={{name: 2}} with a name of {sorted(ACTOR)}"),
        ({"actor": ["ann"]}, "actor=['ann'] is neither a role nor settings by their names; write "
         f"actor={{name: ['ann']}} with a name of {sorted(ACTOR)}"),
        ({"since": "2026-01-01"}, "since='2026-01-01' is no time; write a datetime, as "
         "datetime(2026, 1, 31, tzinfo=timezone.utc)"),
        ({"until": date(2026, 1, 1)}, "until=datetime.date(2026, 1, 1) is no time; write a "
         "datetime, as datetime(2026, 1, 31, tzinfo=timezone.utc)"),
        ({"since": 5}, "since=5 is no time; write a datetime, as "
         "datetime(2026, 1, 31, tzinfo=timezone.utc)"),
        ({"transaction": "755"}, "transaction='755' is no number; write one, as 755"),
        ({"operation": 2}, "2 is no operation; there are "
         "['delete', 'insert', 'snapshot', 'truncate', 'update']"),
        ({"column": 2}, "the trail of 'account' has no column 2; there are ['id', 'price']"),
    ],
)  # fmt: skip
def test_values_that_are_none(given: dict[str, Any], said: str) -> None:
    """They are refused when the statement is made, before a driver sees them."""
    with pytest.raises(ReadingError) as caught:
        changes(ACCOUNT, **given)
    assert said == str(caught.value)


def test_times_as_sql(trail: Database, driver: str) -> None:
    """A time may be an expression of SQL, or a column."""
    statement = changes(ACCOUNT, since=sa.func.now() - sa.text("interval '1 day'"))
    assert 2 == len(rows(trail, driver, statement))
    early: sa.ColumnElement[datetime] = sa.literal_column("timestamptz '2020-01-01'")
    assert [] == rows(trail, driver, changes(ACCOUNT, until=early))


def test_dropped_values_keep_their_digits(database: Database, driver: str) -> None:
    """A dropped numeric is what was recorded, not the float that JSON makes of it elsewhere."""
    metadata = sa.MetaData()
    METADATA.tables["account"].to_metadata(metadata)
    derive_all(metadata)
    metadata.create_all(database.engine)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO account VALUES (1, 12345678.9000)")
    smaller = sa.MetaData()
    table = sa.Table(
        "account",
        smaller,
        sa.Column("id", sa.Integer, primary_key=True),
        info=metadata.tables["account"].info["audit.options"]
        and {"audit.options": metadata.tables["account"].info["audit.options"]},
    )
    derive_all(smaller)
    wanted = {"price": Decimal("12345678.9000")}
    now = datetime.now(timezone.utc)
    for statement, name in (
        (history(table, 1, dropped=True), "audit_dropped"),
        (changes(table, dropped=True), "audit_dropped"),
        (as_of(table, now, dropped=True), "audit_dropped"),
    ):
        (row,) = rows(database, driver, statement)
        found = row._mapping[name]
        assert wanted == found and "12345678.9000" == str(found["price"])
    # In SQL it is JSON.
    (row,) = rows(
        database,
        driver,
        sa.select(history(table, 1, dropped=True).subquery().c.audit_dropped["price"].astext),
    )
    assert ("12345678.9000",) == tuple(row)


@pytest.mark.parametrize("name", ["audit_record", "account_audit", "audit_before", "audit_blame"])
def test_a_column_that_is_called_like_what_reads_it(database: Database, name: str) -> None:
    """The whole record is a row, whatever a column is called."""
    metadata = sa.MetaData()
    table = sa.Table(
        "account",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column(name, sa.Text),
        info={"audit.options": {"enabled": True}},
    )
    derive_all(metadata)
    metadata.create_all(database.engine)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO account VALUES (1, 'text')")
        connection.exec_driver_sql("ALTER TABLE account_audit ADD COLUMN gone text DEFAULT 'kept'")
    with database.engine.connect() as connection:
        (line,) = export(connection, table)
        said = json.loads(line.text)
        assert ("text", 1) == (said["record"][name], said["record"]["id"])
        assert {"gone": "kept"} == said["dropped"]
        (row,) = connection.execute(history(table, 1, dropped=True)).mappings()
        assert {"gone": "kept"} == row["audit_dropped"]
        (row,) = connection.execute(as_of(table, datetime.now(timezone.utc))).mappings()
        assert {"id": 1, name: "text"} == dict(row)
