"""An audited table with session settings, and what its trail says of them."""

import asyncio
from collections.abc import Coroutine
from contextlib import contextmanager
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from alembic_audit import audited
from tests.conftest import Database

_T = TypeVar("_T")


class Base(DeclarativeBase):
    pass


@audited(session_settings=[sa.Column("username", sa.Text), sa.Column("reason", sa.Text)])
class Account(Base):
    __tablename__ = "account"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    email: Mapped[str | None]


class Plain(Base):
    __tablename__ = "plain"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


METADATA = Base.metadata
account = METADATA.tables["account"]
plain = METADATA.tables["plain"]


def trail(database: Database) -> list[tuple[Any, ...]]:
    """Return (id, username, reason) of each record, in order."""
    with database.engine.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT id, audit_username, audit_reason FROM account_audit ORDER BY audit_id"
        )
        return [tuple(row) for row in found]


def insert(number: int) -> sa.Insert:
    return account.insert().values(id=number)


@contextmanager
def statements(engine: sa.Engine) -> Any:
    """Record the statements that an engine executes, ours among them."""
    found: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        found.append(" ".join(statement.split()))

    sa.event.listen(engine, "before_cursor_execute", note)
    yield found
    sa.event.remove(engine, "before_cursor_execute", note)


def run(engine: AsyncEngine, work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine in a new event loop, and dispose the engine in it."""

    async def whole() -> _T:
        try:
            return await work
        finally:
            await engine.dispose()

    return asyncio.run(whole())


def asynchronous(database: Database, driver: str, **options: Any) -> AsyncEngine:
    return create_async_engine(database.url(driver), **options)
