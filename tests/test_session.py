"""set_session_vars: every connectable, and what it refuses."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from alembic_audit import (
    AuditError,
    ContextError,
    SettingError,
    audit_context,
    instrument,
    set_session_vars,
)
from tests.conftest import Database
from tests.settings import (
    METADATA,
    Account,
    asynchronous,
    insert,
    run,
    statements,
    trail,
)

HOSTILE = [
    "O'Brien",
    "50% off",
    "%s %(x)s %%",
    "x'; drop table account; --",
    "a :b",
    "back\\slash \\x41 \\'",
    "$1 ${x} {y} $$",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \u202e",
    "tab\tline\nreturn\r\x01\x7f",
    " ",
    "x" * 1_000_000,
    "\u00e9" * 300_000,
]


@pytest.fixture
def audited(database: Database) -> Database:
    METADATA.create_all(database.engine)
    return database


@pytest.fixture
def unused() -> Iterator[sa.Engine]:
    """An engine for what is refused before anything is sent."""
    made = sa.create_engine("postgresql+psycopg2://nowhere.invalid")
    yield made
    made.dispose()


@pytest.fixture
def engine(audited: Database, driver: str) -> Iterator[sa.Engine]:
    made = sa.create_engine(audited.url(driver), pool_size=1, max_overflow=0)
    yield made
    made.dispose()


@pytest.fixture(params=["asyncpg", "psycopg"])
def async_driver(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


# -- what it takes -----------------------------------------------------------------------------


def test_connection(audited: Database, engine: sa.Engine) -> None:
    """A Connection's values are in the records of its transaction, and in no later one."""
    with engine.connect() as connection:
        set_session_vars(connection, username="ann", reason="because")
        connection.execute(insert(1))
        connection.commit()
        connection.execute(insert(2))
        connection.commit()
    assert [(1, "ann", "because"), (2, None, None)] == trail(audited)


def test_session(audited: Database, engine: sa.Engine) -> None:
    """A Session's values are in what it flushes later in the transaction."""
    with Session(engine) as session:
        set_session_vars(session, username="ann")
        session.add(Account(id=1))
        session.commit()
        session.add(Account(id=2))
        session.commit()
    assert [(1, "ann", None), (2, None, None)] == trail(audited)


def test_scoped_session(audited: Database, engine: sa.Engine) -> None:
    """A scoped_session stands for the Session of the scope."""
    scoped = scoped_session(sessionmaker(engine))
    set_session_vars(scoped, username="ann")
    scoped.add(Account(id=1))
    scoped.commit()
    scoped.remove()
    assert [(1, "ann", None)] == trail(audited)


def test_asynchronous(audited: Database, async_driver: str) -> None:
    """AsyncConnection, AsyncSession and async_scoped_session give something to await."""
    engine = asynchronous(audited, async_driver)

    async def work() -> None:
        async with engine.begin() as connection:
            await set_session_vars(connection, username="one")
            await connection.execute(insert(1))
        async with AsyncSession(engine) as session:
            await set_session_vars(session, METADATA, username="two")
            session.add(Account(id=2))
            await session.commit()
        scoped = async_scoped_session(async_sessionmaker(engine), scopefunc=lambda: 1)
        await set_session_vars(scoped, username="three")
        scoped.add(Account(id=3))
        await scoped.commit()
        await scoped.remove()

    run(engine, work())
    assert [(1, "one", None), (2, "two", None), (3, "three", None)] == trail(audited)


def test_hostile_values(audited: Database, engine: sa.Engine) -> None:
    """Whatever the text, it is recorded exactly."""
    for number, value in enumerate(HOSTILE):
        with engine.begin() as connection:
            set_session_vars(connection, username=value)
            connection.execute(insert(number))
    assert [(number, value, None) for number, value in enumerate(HOSTILE)] == trail(audited)


def test_hostile_values_asynchronously(audited: Database, async_driver: str) -> None:
    """The same by the asynchronous drivers."""
    engine = asynchronous(audited, async_driver)

    async def work() -> None:
        for number, value in enumerate(HOSTILE):
            async with engine.begin() as connection:
                await set_session_vars(connection, username=value)
                await connection.execute(insert(number))

    run(engine, work())
    assert [(number, value, None) for number, value in enumerate(HOSTILE)] == trail(audited)


def test_none_and_empty_clear(audited: Database, engine: sa.Engine) -> None:
    """None and the empty text are recorded as NULL; names are lower-cased."""
    with engine.begin() as connection:
        set_session_vars(connection, USERNAME="ann", reason="x")
        set_session_vars(connection, username=None, reason="")
        connection.execute(insert(1))
    assert [(1, None, None)] == trail(audited)


def test_one_statement(engine: sa.Engine) -> None:
    """All values go in one statement; nothing to set sends nothing."""
    with statements(engine) as sent, engine.begin() as connection:
        set_session_vars(connection)
        set_session_vars(connection, username="ann", reason="x")
    call = "pg_catalog.set_config(%s, %s, true)"
    assert [f"SELECT {call}, {call}"] == sent


def test_a_rolled_back_savepoint_takes_its_values_along(
    audited: Database, engine: sa.Engine
) -> None:
    """On an engine that is not enrolled, savepoints are PostgreSQL's."""
    with engine.begin() as connection:
        set_session_vars(connection, username="ann")
        with connection.begin_nested() as nested:
            set_session_vars(connection, username="ben")
            nested.rollback()
        connection.execute(insert(1))
    assert [(1, "ann", None)] == trail(audited)


# -- what it refuses ---------------------------------------------------------------------------


def refused(error: type[AuditError], connectable: Any, *metadata: Any, **values: Any) -> str:
    with pytest.raises(error) as caught:
        set_session_vars(connectable, *metadata, **values)
    return str(caught.value)


def test_an_engine_is_refused(unused: sa.Engine) -> None:
    """An Engine, of either kind, would set values in a transaction of its own."""
    expected = (
        "set_session_vars of an Engine: it would set them in a transaction of its own, and they "
        "would be gone; give it the Connection or Session that writes, or use audit_context() and "
        "instrument() the engine"
    )
    assert expected == refused(ContextError, unused, username="ann")
    async_engine = create_async_engine("postgresql+asyncpg://")
    assert expected == refused(ContextError, async_engine, username="ann")


@pytest.mark.parametrize("level", ["connection", "engine", "driver"])
def test_autocommit_is_refused(audited: Database, driver: str, level: str) -> None:
    """AUTOCOMMIT is refused, whoever switched it on."""
    options = {"isolation_level": "AUTOCOMMIT"} if level == "engine" else {}
    engine = sa.create_engine(audited.url(driver), poolclass=sa.NullPool, **options)
    with engine.connect() as connection:
        if level == "connection":
            connection.execution_options(isolation_level="AUTOCOMMIT")
        if level == "driver":
            connection.connection.dbapi_connection.autocommit = True  # type: ignore[union-attr]
        assert (
            "set_session_vars of reason, username in AUTOCOMMIT, or after COMMIT as text: each "
            "statement is a transaction of its own, and the values would be gone before the next "
            "one; use another isolation_level and connection.commit()"
        ) == refused(ContextError, connection, username="ann", reason="x")


def test_autocommit_is_refused_asynchronously(audited: Database, async_driver: str) -> None:
    """The asynchronous drivers say AUTOCOMMIT too."""
    engine = asynchronous(audited, async_driver, isolation_level="AUTOCOMMIT")

    async def work() -> None:
        async with engine.connect() as connection:
            with pytest.raises(ContextError, match="set_session_vars of username in AUTOCOMMIT"):
                await set_session_vars(connection, username="ann")

    run(engine, work())


def test_sqlite_is_refused() -> None:
    """There is nothing to set in another database."""
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        assert (
            "set_session_vars of a connection to sqlite: there are session settings in PostgreSQL "
            "only"
        ) == refused(ContextError, connection, username="ann")
    engine.dispose()


def test_what_is_no_connectable_is_refused() -> None:
    """The error says what to give."""
    assert (
        "set_session_vars of 1: give it a Connection, a Session, a scoped_session, or the "
        "asynchronous one of these"
    ) == refused(ContextError, 1, username="ann")


def test_a_session_without_one_engine(engine: sa.Engine) -> None:
    """Where the engine depends on the mapper, the error says how to name one."""
    with Session(binds={Account: engine}) as session:
        assert (
            "set_session_vars of a Session whose engine depends on the mapper: give it "
            "session.connection(bind_arguments={'mapper': ...})"
        ) == refused(ContextError, session, username="ann")
        set_session_vars(session.connection(bind_arguments={"mapper": Account}), username="ann")


def test_names_are_checked(engine: sa.Engine) -> None:
    """A name that PostgreSQL could refuse is refused first, and nothing is sent."""
    with statements(engine) as sent, engine.connect() as connection:
        for name in ("user-name", "a.b", "", "1a", "\u00e9", "a b", "x" * 60, "a\x00b"):
            assert (
                f"session setting {name!r} cannot be read as audit.{name}; write a name of "
                "at most 57 letters, digits and _ that begins with a letter or _"
            ) == refused(SettingError, connection, **{name: "x"})
    assert [] == sent


def test_a_name_given_twice(engine: sa.Engine) -> None:
    """Names that are one when lower-cased are refused."""
    with engine.connect() as connection:
        assert ("session setting 'username' is given twice; names are lower-cased") == refused(
            SettingError, connection, username="a", Username="b"
        )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a\x00b", "it holds NUL, which PostgreSQL cannot store in a text; remove it"),
        (
            "\ud800",
            "it cannot be written in UTF-8 ('utf-8' codec can't encode character '\\ud800' in "
            "position 0: surrogates not allowed); remove the lone surrogate",
        ),
    ],
)
def test_texts_that_cannot_be_sent(unused: sa.Engine, value: str, message: str) -> None:
    """A text that no driver could send is refused before there is a connection."""
    with Session(unused) as session:
        assert f"session setting 'username': {message}" == refused(
            SettingError, session, username=value
        )


def test_names_are_checked_against_the_metadata(engine: sa.Engine) -> None:
    """With declarations at hand, a setting that no table declares is refused by name."""
    with engine.connect() as connection:
        assert (
            "no audited table declares the session setting 'usrname': did you mean 'username'?"
        ) == refused(SettingError, connection, METADATA, usrname="ann")
        assert (
            "no audited table declares the session setting 'zip': declared are ['reason', "
            "'username']"
        ) == refused(SettingError, connection, METADATA, zip="ann")
        assert ("no audited table declares the session setting 'zip': declared are []") == refused(
            SettingError, connection, sa.MetaData(), zip="ann"
        )
        set_session_vars(connection, usrname="without declarations any name goes")


def test_metadata_of_the_enrolment(engine: sa.Engine) -> None:
    """The declarations that an engine was enrolled with are those of its sessions."""
    instrument(engine, metadata=METADATA)
    with Session(engine) as session:
        assert (
            "no audited table declares the session setting 'usrname': did you mean 'username'?"
        ) == refused(SettingError, session, usrname="ann")
        assert (
            "no audited table declares the session setting 'metadata': declared are ['reason', "
            "'username']"
        ) == refused(SettingError, session, metadata="a setting like any other")


def test_not_awaited_is_a_warning(audited: Database, async_driver: str) -> None:
    """Python warns where the result for an AsyncSession is not awaited."""
    engine = asynchronous(audited, async_driver)

    async def work() -> None:
        async with AsyncSession(engine) as session:
            set_session_vars(session, username="ann")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(engine, work())
    assert [RuntimeWarning] == [warning.category for warning in caught]
    assert "was never awaited" in str(caught[0].message)


# -- beside contexts ---------------------------------------------------------------------------


def test_it_holds_over_a_context_that_began_before(audited: Database, engine: sa.Engine) -> None:
    """The later of context and set_session_vars counts, name by name, over savepoints too."""
    instrument(engine)
    with audit_context(username="context", reason="context"), engine.begin() as connection:
        set_session_vars(connection, username="by hand")
        connection.execute(insert(1))
        with connection.begin_nested() as nested:
            connection.execute(insert(2))
            nested.rollback()
        connection.execute(insert(3))
        with audit_context(reason="inner"):
            connection.execute(insert(4))
        with audit_context(username="inner"):
            connection.execute(insert(5))
        connection.execute(insert(6))
    assert [
        (1, "by hand", "context"),
        (3, "by hand", "context"),
        (4, "by hand", "inner"),
        (5, "inner", "context"),
        (6, "context", "context"),
    ] == trail(audited)


def test_what_was_set_by_hand_is_not_sent_again(audited: Database, engine: sa.Engine) -> None:
    """A context that names another setting sends that one alone."""
    instrument(engine)
    with statements(engine) as sent, engine.begin() as connection:
        set_session_vars(connection, username="by hand")
        with audit_context(reason="context"):
            connection.execute(insert(1))
    one = "SELECT pg_catalog.set_config(%s, %s, true)"
    assert [one, one] == sent[:2]
    assert 3 == len(sent)
    assert [(1, "by hand", "context")] == trail(audited)


@pytest.mark.parametrize("lazy", [False, True])
def test_it_is_back_after_a_context(audited: Database, engine: sa.Engine, lazy: bool) -> None:
    """A context inside a transaction hides what was set by hand, and gives it back."""
    instrument(engine, lazy=lazy)
    with engine.begin() as connection:
        set_session_vars(connection, username="by hand")
        with audit_context(username="context"):
            connection.execute(insert(1))
        connection.execute(insert(2))
        with audit_context(reason="context"):
            set_session_vars(connection, reason="by hand")
            connection.execute(insert(3))
    assert [
        (1, "context", None),
        (2, "by hand", None),
        (3, "by hand", "by hand"),
    ] == trail(audited)
