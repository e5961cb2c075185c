"""audit_context and enrolled engines: what is sent, and when."""

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import copy_context
from functools import partial, partialmethod
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from alembic_audit import (
    ContextError,
    DeclarationError,
    SettingError,
    audit_context,
    instrument,
    set_session_vars,
)
from alembic_audit.context import current
from tests.conftest import Database
from tests.conftest import _database as make_database
from tests.settings import (
    METADATA,
    Account,
    Plain,
    account,
    asynchronous,
    insert,
    plain,
    run,
    statements,
    trail,
)
from tools import postgres

ONE = "SELECT pg_catalog.set_config(%s, %s, true)"
TWO = f"{ONE}, pg_catalog.set_config(%s, %s, true)"


@pytest.fixture
def audited(database: Database) -> Database:
    METADATA.create_all(database.engine)
    return database


@pytest.fixture
def engine(audited: Database, driver: str) -> Iterator[sa.Engine]:
    """An enrolled engine of one connection."""
    made = sa.create_engine(audited.url(driver), pool_size=1, max_overflow=0)
    instrument(made)
    yield made
    made.dispose()


# -- the context alone -------------------------------------------------------------------------


def test_contexts_nest() -> None:
    """An inner context adds, overrides and clears; leaving restores."""
    assert {} == current()
    with audit_context(username="ann", reason="a"):
        with audit_context(REASON=None, path="/"):
            assert {"username": "ann", "reason": None, "path": "/"} == current()
        assert {"username": "ann", "reason": "a"} == current()
        with pytest.raises(KeyError), audit_context(username="ben"):
            raise KeyError
        assert {"username": "ann", "reason": "a"} == current()
    assert {} == current()


def test_one_object_is_entered_many_times() -> None:
    """A context object can be kept, and entered inside itself."""
    ann = audit_context(username="ann")
    with ann, audit_context(username="ben"), ann:
        assert {"username": "ann"} == current()
    assert {} == current()


def test_decorated_functions() -> None:
    """Functions and coroutine functions run inside; names and signatures stay."""

    @audit_context(username="ann")
    def plain(a: int, *, b: int = 0) -> tuple[int, Any]:
        """Documented."""
        return a + b, current()["username"]

    @audit_context(username="ann")
    async def coroutine(a: int) -> tuple[int, Any]:
        await asyncio.sleep(0)
        async with audit_context(username="ben"):
            assert {"username": "ben"} == current()
        return a, current()["username"]

    assert (3, "ann") == plain(1, b=2)
    assert (1, "ann") == asyncio.run(coroutine(1))
    assert ("plain", "Documented.") == (plain.__name__, plain.__doc__)
    assert {} == current()


class Called:
    """Objects whose __call__ is of each kind."""

    class Coroutine:
        async def __call__(self) -> Any:
            await asyncio.sleep(0)
            return current()

    class Generator:
        def __call__(self) -> Any:
            yield current()

    class AsyncGenerator:
        async def __call__(self) -> Any:
            yield current()

    class Method:
        @classmethod
        @audit_context(username="ann")
        def inner(cls) -> Any:
            return cls.__name__, current()

        @audit_context(username="ann")
        @classmethod
        def outer(cls) -> Any:
            return cls.__name__, current()

        @audit_context(username="ann")
        @staticmethod
        async def static() -> Any:
            return current()

        @audit_context(username="ann")
        async def method(self) -> Any:
            return current()


async def _every(found: Any) -> list[Any]:
    """What a call gives at the end, whatever it gives."""
    if isinstance(found, AsyncGenerator):
        return [item async for item in found]
    if isinstance(found, Generator):
        return list(found)
    return [await found]


async def coroutine_function(*given: Any) -> Any:
    await asyncio.sleep(0)
    return current()


def generator_function(*given: Any) -> Any:
    yield current()


async def asynchronous_generator_function(*given: Any) -> Any:
    yield current()


@pytest.mark.parametrize(
    "decorated",
    [
        Called.Coroutine(),
        Called.Generator(),
        Called.AsyncGenerator(),
        lambda: coroutine_function(1),
        lambda *given: Called.Coroutine()(*given[1:]),
        lambda: generator_function(1),
        lambda: asynchronous_generator_function(1),
        partial(coroutine_function, 1),
        partial(Called.Coroutine()),
        partial(generator_function),
        partial(asynchronous_generator_function),
        partial(lambda given: coroutine_function(given, 2), 1),
        Called.Coroutine().__call__,
    ],
)
def test_whatever_works_later_works_inside(decorated: Any) -> None:
    """Objects, partials, methods, and functions that only return what works."""
    made = audit_context(username="ann")(decorated)
    assert [{"username": "ann"}] == asyncio.run(_every(made()))
    assert {} == current()


def test_a_coroutine_that_returns_what_works_later() -> None:
    """A coroutine may return a generator: it works inside."""

    @audit_context(username="ann")
    async def made() -> Any:
        return generator_function()

    assert [{"username": "ann"}] == list(asyncio.run(made()))


def test_decorated_methods() -> None:
    """A class or static method above or below it; frameworks see what a function is."""
    ann = {"username": "ann"}
    assert ("Method", ann) == Called.Method.inner() == Called.Method().outer()
    assert ann == asyncio.run(Called.Method.static()) == asyncio.run(Called.Method().method())
    inside = audit_context(username="ann")
    assert inspect.iscoroutinefunction(inside(Called.Coroutine()))
    assert inspect.isgeneratorfunction(inside(Called.Generator()))
    assert inspect.isasyncgenfunction(inside(Called.AsyncGenerator()))


@pytest.mark.parametrize("wrong", [Called, property(lambda self: 1), 1, partialmethod(print)])
def test_what_cannot_be_decorated(wrong: Any) -> None:
    """It is refused at once, and says what to decorate instead."""
    with pytest.raises(TypeError) as caught:
        audit_context(username="ann")(wrong)
    assert "decorate the function or method that works, or enter the context by" in str(
        caught.value
    )


def test_a_context_manager_is_no_function() -> None:
    """It would work outside: both ways that the error names do what they say."""
    seen = []

    @contextmanager
    def wrong() -> Iterator[None]:
        seen.append("never")
        yield

    @asynccontextmanager
    async def wrong_too() -> AsyncIterator[None]:
        seen.append("never")
        yield

    for each in (wrong, wrong_too):
        with pytest.raises(ContextError) as caught:
            audit_context(username="ann")(each)()
        assert "write @audit_context below @contextmanager, or enter it inside" in str(caught.value)
    assert [] == seen

    @contextmanager
    @audit_context(username="ann")
    def below() -> Iterator[None]:
        seen.append(current())
        yield

    @contextmanager
    def around() -> Iterator[None]:
        with audit_context(username="ann"):
            yield

    with below():
        seen.append(current())
    with around():
        seen.append(current())
    assert [{"username": "ann"}, {}, {"username": "ann"}] == seen


def test_decorated_generators() -> None:
    """A generator is inside while it works, whoever asks it, and its consumer never is."""
    seen = []

    @audit_context(username="ann")
    def steps() -> Iterator[Any]:
        try:
            got = yield current()
            seen.append((got, current()))
            try:
                yield 2
            except KeyError:
                seen.append(("thrown", current()))
            yield 3
        finally:
            seen.append(("end", current()))

    ann = {"username": "ann"}
    generator: Any = steps()
    assert ann == next(generator)
    assert {} == current()
    assert 2 == generator.send("sent")
    with audit_context(username="consumer"):
        assert 3 == generator.throw(KeyError())
        assert {"username": "consumer"} == current()
    generator.close()
    assert [("sent", ann), ("thrown", ann), ("end", ann)] == seen

    @audit_context()
    def returning() -> Any:
        return (yield 1)

    def delegating() -> Any:
        seen.append((yield from returning()))

    assert [1] == list(delegating())
    assert seen[-1] is None


def test_decorated_asynchronous_generators() -> None:
    """The same, asynchronously."""
    seen = []

    @audit_context(username="ann")
    async def steps() -> AsyncIterator[Any]:
        try:
            yield current()
            try:
                yield 2
            except KeyError:
                seen.append(("thrown", current()))
            yield 3
        finally:
            seen.append(("end", current()))

    async def work() -> None:
        generator: Any = steps()
        assert {"username": "ann"} == await anext(generator)
        assert {} == current()
        assert 2 == await generator.asend(None)
        assert 3 == await generator.athrow(KeyError())
        await generator.aclose()
        assert [current()["username"] async for _ in steps() if current()] == []
        assert {} == current()

    asyncio.run(work())
    ann = {"username": "ann"}
    assert [("thrown", ann), ("end", ann), ("end", ann)] == seen


def test_tasks_and_threads_take_it_along() -> None:
    """A task started inside and a thread by to_thread are inside; what they enter stays theirs."""

    async def task() -> Any:
        with audit_context(reason="task"):
            await asyncio.sleep(0.01)
            return dict(current())

    async def work() -> None:
        with audit_context(username="ann"):
            started = asyncio.create_task(task())
            await asyncio.sleep(0.005)
            assert {"username": "ann"} == current()
            assert {"username": "ann"} == await asyncio.to_thread(current)
        assert {"username": "ann", "reason": "task"} == await started

    asyncio.run(work())


def test_another_event_loop(audited: Database) -> None:
    """A loop that is run inside is inside, one after the other, and what it enters ends with it."""
    engine = asynchronous(audited, "asyncpg")
    instrument(engine)

    async def work(number: int) -> None:
        async with engine.begin() as connection:
            await connection.execute(insert(number))
            audit_context(reason="loop").__enter__()
            await connection.execute(insert(number + 1))

    for number, name in ((1, "ann"), (3, "ben")):
        with audit_context(username=name):
            run(engine, work(number))
            assert {"username": name} == current()
    assert [
        (1, "ann", None),
        (2, "ann", "loop"),
        (3, "ben", None),
        (4, "ben", "loop"),
    ] == trail(audited)


def test_ending_elsewhere_is_an_error() -> None:
    """A context that ends in another thread, or before an inner one, says so."""
    entered = audit_context(username="ann")
    thread = threading.Thread(target=entered.__enter__)
    thread.start()
    thread.join()
    expected = (
        "an audit_context ends where it is not the innermost one: it began in another task or "
        "thread, whose changes it applied to, or an inner one has not ended; enter and leave it in "
        "one task (a dependency of FastAPI: async def)"
    )
    with pytest.raises(ContextError) as caught:
        entered.__exit__(None, None, None)
    assert expected == str(caught.value)

    outer, inner = audit_context(username="a"), audit_context(username="b")

    def mixed() -> None:
        outer.__enter__()
        inner.__enter__()
        outer.__exit__(None, None, None)

    with pytest.raises(ContextError):
        copy_context().run(mixed)


def test_an_inherited_context_can_be_left() -> None:
    """A task may leave what it inherited; the one it came from does not notice."""
    ann = audit_context(username="ann")
    with ann:
        copy_context().run(ann.__exit__, None, None, None)
        assert {"username": "ann"} == current()


@pytest.mark.parametrize("name", ["user-name", "a.b", ""])
def test_names_are_checked_at_once(name: str) -> None:
    """A wrong name is an error where it is written, not where it would be sent."""
    with pytest.raises(SettingError, match="write a name of at most 57 letters"):
        audit_context(**{name: "x"})


def test_metadata_is_checked_at_once() -> None:
    """With declarations at hand, so is a wrong setting."""
    with pytest.raises(SettingError, match="did you mean 'username'"):
        audit_context(METADATA, usrname="ann")


# -- what an enrolled engine sends -------------------------------------------------------------


def test_before_the_first_statement(audited: Database, engine: sa.Engine) -> None:
    """One statement more in each transaction of a context, and the records have its values."""
    with statements(engine) as sent, audit_context(username="ann", reason="x"):
        for number in (1, 2):
            with engine.begin() as connection:
                connection.execute(insert(number))
                connection.execute(plain.insert().values(id=number))
    work = [str(one.compile(engine)) for one in (insert(1), plain.insert().values(id=1))]
    assert [TWO, *(" ".join(text.split()) for text in work)] * 2 == sent
    assert [(1, "ann", "x"), (2, "ann", "x")] == trail(audited)


def test_no_context_sends_nothing(audited: Database, engine: sa.Engine) -> None:
    """Without a context nothing is sent, and a pooled connection has forgotten the last one."""
    with audit_context(username="ann"), engine.begin() as connection:
        connection.execute(insert(1))
        before = connection.connection.dbapi_connection
    with statements(engine) as sent, engine.begin() as connection:
        connection.execute(insert(2))
        assert before is connection.connection.dbapi_connection
    assert 1 == len(sent)
    assert [(1, "ann", None), (2, None, None)] == trail(audited)


def test_inside_an_open_transaction(audited: Database, engine: sa.Engine) -> None:
    """Entering and leaving takes effect at once; only what differs is sent."""
    with statements(engine) as sent, engine.begin() as connection:
        connection.execute(sa.select(plain))  # the login that looks the user up
        with audit_context(username="ann", reason="login"):
            connection.execute(insert(1))
            with audit_context(reason="inner"):
                connection.execute(insert(2))
            connection.execute(insert(3))
            with audit_context(username="ann"):
                connection.execute(insert(4))
        connection.execute(insert(5))
    assert [
        (1, "ann", "login"),
        (2, "ann", "inner"),
        (3, "ann", "login"),
        (4, "ann", "login"),
        (5, None, None),
    ] == trail(audited)
    ours = [statement for statement in sent if "set_config" in statement]
    assert [TWO, ONE, ONE, TWO] == ours
    assert "plain" in sent[0]


def test_the_orm_by_a_sessionmaker(audited: Database, driver: str) -> None:
    """A sessionmaker stands for its engine; the flush is the first write."""
    maker = sessionmaker(sa.create_engine(audited.url(driver), poolclass=sa.NullPool))
    instrument(maker)
    with audit_context(username="ann"), maker.begin() as session:
        session.add_all([Account(id=1), Account(id=2), Plain(id=1)])
    assert [(1, "ann", None), (2, "ann", None)] == trail(audited)


@pytest.mark.parametrize("how", ["scope", "text"])
def test_a_rolled_back_savepoint(audited: Database, engine: sa.Engine, how: str) -> None:
    """What was sent inside a savepoint is sent again after its rollback."""
    with statements(engine) as sent, engine.begin() as connection:
        connection.execute(insert(1))
        if how == "scope":
            nested = connection.begin_nested()
        else:
            connection.exec_driver_sql("SAVEPOINT mine")
        with audit_context(username="ann"):
            connection.execute(insert(2))
            if how == "scope":
                nested.rollback()
            else:
                connection.exec_driver_sql("/* by hand */ rollback to mine")
            connection.execute(insert(3))
    assert [(1, None, None), (3, "ann", None)] == trail(audited)
    assert [ONE, ONE] == [statement for statement in sent if "set_config" in statement]


def test_a_failed_savepoint(audited: Database, engine: sa.Engine) -> None:
    """Nothing is sent into a failed transaction before it is rolled back to a savepoint."""
    with Session(engine) as session:
        with audit_context(username="ann"):
            session.add(Account(id=1))
            session.flush()
            with (
                pytest.raises(sa.exc.IntegrityError),
                session.begin_nested(),
                audit_context(reason="fails"),
            ):
                session.execute(insert(1))
            session.add(Account(id=2))
            session.flush()
        session.commit()
    assert [(1, "ann", None), (2, "ann", None)] == trail(audited)


def test_a_context_that_changes_in_a_failed_savepoint(audited: Database, engine: sa.Engine) -> None:
    """The context is another one when the savepoint is rolled back."""
    with engine.begin() as connection:
        with audit_context(username="ann"):
            nested = connection.begin_nested()
            with pytest.raises(sa.exc.ProgrammingError):
                connection.exec_driver_sql("SELECT nothing")
        with audit_context(username="ben"):
            nested.rollback()
            connection.execute(insert(1))
    assert [(1, "ben", None)] == trail(audited)


def test_after_a_failure_to_send(audited: Database, engine: sa.Engine) -> None:
    """What could not be sent, because the transaction had failed, is sent in the next one."""
    with audit_context(username="ann"), engine.connect() as connection:
        connection.execute(insert(1))
        with pytest.raises(sa.exc.ProgrammingError):
            connection.exec_driver_sql("SELECT nothing")
        with audit_context(reason="later"):
            with pytest.raises(sa.exc.InternalError):
                connection.execute(insert(2))
            connection.rollback()
            connection.execute(insert(3))
            connection.commit()
    assert [(3, "ann", "later")] == trail(audited)


def test_reset_by_hand(audited: Database, engine: sa.Engine) -> None:
    """After RESET, and COMMIT AND CHAIN, as text the values are sent again."""
    with audit_context(username="ann"), engine.connect() as connection:
        connection.execute(insert(1))
        connection.exec_driver_sql("RESET ALL")
        connection.execute(insert(2))
        connection.exec_driver_sql("COMMIT AND CHAIN")
        connection.execute(insert(3))
        connection.commit()
    assert [(1, "ann", None), (2, "ann", None), (3, "ann", None)] == trail(audited)


@pytest.mark.parametrize("first", [True, False], ids=["inside", "before"])
def test_commit_by_hand(audited: Database, engine: sa.Engine, first: bool) -> None:
    """psycopg2 begins no transaction after COMMIT as text: a write that had no values is refused.

    This was recorded without them, silently.
    """
    ann = audit_context(username="ann")
    with engine.connect() as connection:
        if first:
            with ann:
                connection.execute(insert(1))
        connection.exec_driver_sql("COMMIT")
        connection.execute(sa.select(account))
        with ann, pytest.raises(ContextError, match="after COMMIT as text"):
            connection.execute(insert(2))
        with pytest.raises(ContextError, match="after COMMIT as text"):
            set_session_vars(connection, username="ben")
        connection.exec_driver_sql("BEGIN")
        with ann:
            connection.execute(insert(3))
        connection.commit()
        with ann:
            connection.execute(insert(4))
        connection.commit()
    assert [(1, "ann", None)] * first + [(3, "ann", None), (4, "ann", None)] == trail(audited)


def test_what_must_come_first_does(engine: sa.Engine) -> None:
    """SET TRANSACTION, which no query may precede, is preceded by none."""
    with audit_context(username="ann"), engine.connect() as connection:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        assert "serializable" == connection.exec_driver_sql("SHOW transaction_isolation").scalar()
        assert (
            "ann" == connection.exec_driver_sql("SELECT current_setting('audit.username')").scalar()
        )


def test_every_way_to_execute(audited: Database, engine: sa.Engine) -> None:
    """Many rows, many parameters, driver SQL, server-side cursors: each can come first."""
    streamed = sa.select(account).execution_options(stream_results=True)
    ways: list[Any] = [
        lambda c: c.execute(account.insert(), [{"id": n} for n in range(3)]),
        lambda c: c.execute(account.insert().returning(account.c.id), [{"id": 3}, {"id": 4}]),
        lambda c: c.exec_driver_sql("INSERT INTO account VALUES (%s)", [(5,), (6,)]),
        lambda c: c.exec_driver_sql("INSERT INTO account VALUES (7)"),
        lambda c: c.execute(sa.text("INSERT INTO account VALUES (:id)"), {"id": 8}),
        lambda c: (c.execute(streamed).all(), c.execute(insert(9))),
    ]
    for number, way in enumerate(ways):
        with audit_context(username=f"way {number}"), engine.begin() as connection:
            way(connection)
    assert [
        *((n, "way 0", None) for n in (0, 1, 2)),
        *((n, "way 1", None) for n in (3, 4)),
        *((n, "way 2", None) for n in (5, 6)),
        (7, "way 3", None),
        (8, "way 4", None),
        (9, "way 5", None),
    ] == trail(audited)


INSERT = "INSERT INTO account VALUES (%s)"


@pytest.mark.parametrize(
    "script",
    [
        "SET LOCAL lock_timeout = '1s'; INSERT INTO account VALUES (1)",
        "set local work_mem = '1MB';\n-- a comment; and more\nINSERT INTO account VALUES (1);",
        "SHOW work_mem; /* a /* nested; */ one */ INSERT INTO account VALUES (1)",
        "SELECT 1; INSERT INTO account VALUES (1)",
        "RESET lock_timeout; INSERT INTO account VALUES (1)",
        "PREPARE one AS SELECT 1; DEALLOCATE one; INSERT INTO account VALUES (1)",
        "BEGIN; INSERT INTO account VALUES (1)",
        "DO $do$ BEGIN PERFORM 1; END; $do$; INSERT INTO account VALUES (1)",
        "/* /* nested */ */ SET LOCAL work_mem = '1MB'; INSERT INTO account VALUES (1)",
        "SAVEPOINT a; SET LOCAL work_mem = '1MB'; RELEASE a; INSERT INTO account VALUES (1)",
        "CREATE FUNCTION pg_temp.f() RETURNS void BEGIN ATOMIC SELECT 1; END; "
        "INSERT INTO account VALUES (1)",
    ],
)
@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
def test_a_text_of_several_statements(
    audited: Database, engine: sa.Engine, script: str, lazy: bool
) -> None:
    """The values come before all of it; later statements of the transaction are attributed too."""
    instrument(engine, lazy=lazy)
    with audit_context(username="ann"), engine.begin() as connection:
        connection.exec_driver_sql(script)
        connection.execute(insert(2))
    assert [(1, "ann", None), (2, "ann", None)] == trail(audited)


@pytest.mark.parametrize(
    ("script", "named"),
    [
        ("COMMIT; INSERT INTO account VALUES (1)", "COMMIT"),
        ("INSERT INTO account VALUES (1); COMMIT; INSERT INTO account VALUES (2)", "COMMIT"),
        ("SELECT 1; ROLLBACK; SELECT lower('x')", "ROLLBACK"),
        ("RESET ALL; UPDATE account SET email = 'x;y'", "RESET ALL"),
        ('RESET "audit"."username"; DELETE FROM account', 'RESET "audit"."username"'),
        ("RESET audit.username; COPY account FROM stdin", "RESET audit.username"),
        ("SAVEPOINT a; ROLLBACK TO a; DO 'BEGIN END'", "ROLLBACK TO a"),
        ("END; WITH x AS (SELECT 1) DELETE FROM account", "END"),
        ("PREPARE TRANSACTION 'x'; INSERT INTO account VALUES (1)", "PREPARE TRANSACTION ''"),
    ],
)
def test_a_text_that_ends_the_transaction_before_it_writes(
    audited: Database, engine: sa.Engine, script: str, named: str
) -> None:
    """It is refused before anything ran: nothing can be sent between its statements."""
    said = (
        f"{named} comes before a write in one text, and would take the values along that this "
        "transaction was given; execute the statements one by one"
    )
    with engine.connect() as connection:
        with audit_context(username="ann"), pytest.raises(ContextError) as caught:
            connection.exec_driver_sql(script)
        assert said == str(caught.value)
        set_session_vars(connection, username="ben")
        with pytest.raises(ContextError) as caught:
            connection.exec_driver_sql(script)
        assert said == str(caught.value)
    assert [] == trail(audited)


def test_a_text_that_must_come_first(audited: Database, engine: sa.Engine) -> None:
    """No value can go before SET TRANSACTION or LOCK: the text is refused, and its parts work."""
    scripts = (
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; INSERT INTO account VALUES (0)",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE; INSERT INTO account VALUES (1)",
        "LOCK TABLE account; INSERT INTO account VALUES (2)",
    )
    with audit_context(username="ann"):
        for number, script in enumerate(scripts):
            with engine.connect() as connection:
                if number != 1:  # that one is about later transactions
                    with pytest.raises(ContextError) as caught:
                        connection.exec_driver_sql(script)
                    assert "must come first in its transaction" in str(caught.value)
                    assert "this audit_context, username, before" in str(caught.value)
                for part in script.split("; "):
                    connection.exec_driver_sql(part)
                # The values are there now.
                connection.exec_driver_sql(f"LOCK TABLE account; {INSERT % (number + 10)}")
                connection.commit()
    numbers = [0, 10, 1, 11, 2, 12]
    assert [(number, "ann", None) for number in numbers] == trail(audited)


@pytest.mark.parametrize(
    "script",
    [
        "INSERT INTO account VALUES (1); RESET ALL",
        "INSERT INTO account VALUES (1); COMMIT AND CHAIN",
        "INSERT INTO account VALUES (1); SAVEPOINT a; RESET ALL; ROLLBACK TO a; SHOW work_mem",
        "INSERT INTO account VALUES (1); /* /* nested */ */ DISCARD TEMP; COMMIT AND CHAIN",
        "INSERT INTO account VALUES (1); /* /* nested */ */ COMMIT AND CHAIN;",
    ],
)
def test_a_text_that_takes_the_values_back_at_its_end(
    audited: Database, engine: sa.Engine, script: str
) -> None:
    """What follows is given them again."""
    with audit_context(username="ann"), engine.begin() as connection:
        connection.exec_driver_sql(script)
        connection.execute(insert(2))
    assert [(1, "ann", None), (2, "ann", None)] == trail(audited)


def test_a_control_statement_behind_a_nested_comment(audited: Database, engine: sa.Engine) -> None:
    """It is seen: what follows is given the values again."""
    with audit_context(username="ann"), engine.begin() as connection:
        connection.execute(insert(1))
        connection.exec_driver_sql("/* a /* nested */ comment */ RESET ALL")
        connection.execute(insert(2))
    assert [(1, "ann", None), (2, "ann", None)] == trail(audited)


def test_two_phases(audited: Database, engine: sa.Engine) -> None:
    """A transaction that is prepared has the values, and so has the next one."""
    with audit_context(username="ann"), engine.connect() as connection:
        for number in (1, 2):
            transaction = connection.begin_twophase()
            connection.execute(insert(number))
            transaction.prepare()
            transaction.commit()
        connection.execute(insert(3))
        connection.commit()
    assert [(number, "ann", None) for number in (1, 2, 3)] == trail(audited)


@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
def test_copy_by_a_raw_cursor(audited: Database, lazy: bool) -> None:
    """The driver's own COPY is not seen; set_session_vars before it, or a write, is what helps."""
    engine = sa.create_engine(audited.url("psycopg"))
    instrument(engine, lazy=lazy)

    def copy(connection: sa.Connection, number: int) -> None:
        raw: Any = connection.connection.driver_connection
        with raw.cursor().copy("COPY account (id) FROM STDIN") as rows:
            rows.write_row([number])

    with audit_context(username="ann"):
        with engine.begin() as connection:
            set_session_vars(connection, username="by hand")
            copy(connection, 1)
        with engine.begin() as connection:
            connection.execute(insert(2))
            copy(connection, 3)
    engine.dispose()
    assert [(1, "by hand", None), (2, "ann", None), (3, "ann", None)] == trail(audited)


@pytest.mark.parametrize("option", [{"stream_results": True}, {"yield_per": 1}])
def test_a_connection_of_server_side_cursors(
    audited: Database, engine: sa.Engine, option: dict[str, Any]
) -> None:
    """A server-side cursor runs when it is fetched from; ours is none, so that it runs at once."""
    with audit_context(username="ann"), engine.connect() as connection:
        connection.execution_options(**option)
        assert [] == connection.execute(sa.select(account)).all()
        connection.execution_options(stream_results=False, yield_per=None)
        connection.execute(insert(1))
        connection.commit()
    assert [(1, "ann", None)] == trail(audited)


def test_a_sequence_before_the_insert(audited: Database, engine: sa.Engine) -> None:
    """A default that SQLAlchemy executes on its own comes after the context, too."""
    sequence = sa.Sequence("numbers", start=5)
    with engine.begin() as connection:
        sequence.create(connection)
    with audit_context(username="ann"), engine.begin() as connection:
        assert 5 == connection.scalar(sequence)
        connection.execute(insert(1))
    assert [(1, "ann", None)] == trail(audited)


def test_a_context_cleared_inside(audited: Database, engine: sa.Engine) -> None:
    """None clears, also what the connection itself brings along."""
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT set_config('audit.username', 'session', false)")
        connection.commit()
        connection.execute(insert(1))
        connection.commit()
        with audit_context(username=None):
            connection.execute(insert(2))
            connection.commit()
    assert [(1, "session", None), (2, None, None)] == trail(audited)


# -- lazy --------------------------------------------------------------------------------------

READS = [
    "SELECT 1",
    "select count(*), now() from account where id in (1, 2)",
    'SELECT trim(a.email) FROM "account" AS a WHERE extract(year FROM now()) > 1',
    "SELECT coalesce(email, 'x') FROM account WHERE EXISTS (SELECT nullif(id, 1) FROM plain)",
    "WITH x AS (SELECT id FROM account) SELECT CAST(id AS VARCHAR(3)) FROM x",
    "TABLE account",
    "VALUES (1)",
    "SHOW work_mem",
    "SAVEPOINT mine",
]
WRITES = [
    "INSERT INTO account VALUES (1)",
    "/* hinted */ SELECT 1",
    "WITH x AS (INSERT INTO account VALUES (1) RETURNING id) SELECT * FROM x",
    "SELECT id FROM account FOR UPDATE",
    "SELECT pg_advisory_xact_lock(1)",
    'SELECT "count"(*) FROM account',
    "SELECT id INTO TEMP other FROM account",
    "SELECT version ()",
    "EXPLAIN SELECT 1",
    "DO 'BEGIN END'",
    "CREATE TABLE other ()",
    "SELECT '(' || chr(1)",
    "SELECT a.id FROM account AS a WHERE lower(a.email) = 'x'",
    "SELECT count(id) FROM account",
    "SELECT id FROM account LEFT JOIN (SELECT 1) AS x ON true",
]


@pytest.mark.parametrize("statement", READS)
def test_lazy_waits_while_it_reads(audited: Database, engine: sa.Engine, statement: str) -> None:
    """A plain read sends nothing; the write after it is recorded all the same."""
    instrument(engine, lazy=True)
    with statements(engine) as sent, audit_context(username="ann"), engine.begin() as connection:
        connection.exec_driver_sql(statement)
        assert [statement] == sent
        connection.execute(insert(1))
    assert ONE == sent[1]
    assert [(1, "ann", None)] == trail(audited)


def test_lazy_sends_before_what_may_write(engine: sa.Engine) -> None:
    """Whatever is no plain read may write."""
    instrument(engine, lazy=True)
    for statement in WRITES:
        with (
            statements(engine) as sent,
            audit_context(username="ann"),
            engine.connect() as connection,
        ):
            connection.exec_driver_sql(statement)
        assert [ONE, statement] == sent


def test_lazy_and_an_overloaded_function(audited: Database, engine: sa.Engine) -> None:
    """An overload of PostgreSQL's own function may write: only the server knows which it is."""
    instrument(engine, lazy=True)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION lower(a account) RETURNS text LANGUAGE sql AS "
            "'INSERT INTO account VALUES (2) RETURNING email'"
        )
        connection.execute(insert(1))
    with audit_context(username="ann"), engine.begin() as connection:
        connection.exec_driver_sql("SELECT lower(a) FROM account AS a")
    assert [(1, None, None), (2, "ann", None)] == trail(audited)


def test_lazy_in_a_session(audited: Database, engine: sa.Engine) -> None:
    """The ORM reads for nothing, and its flush is preceded once; leaving waits for a write too."""
    instrument(engine, lazy=True)
    with statements(engine) as sent, Session(engine) as session:
        with audit_context(username="ann"):
            assert session.get(Account, 1) is None
            assert 1 == len(sent)
            session.add(Account(id=1))
            session.flush()
            assert [ONE] == [s for s in sent if "set_config" in s]
        session.scalars(sa.select(Account)).all()
        assert [ONE] == [s for s in sent if "set_config" in s]
        session.add(Account(id=2))
        session.commit()
    assert [(1, "ann", None), (2, None, None)] == trail(audited)


# -- whatever happens in between ---------------------------------------------------------------

_SETTINGS = st.dictionaries(
    st.sampled_from(["username", "reason"]), st.sampled_from(["a", "b", "", None]), max_size=2
)
_STEPS = st.lists(
    st.tuples(st.just("enter"), _SETTINGS)
    | st.tuples(
        st.sampled_from(
            ["leave", "write", "write", "read", "savepoint", "undo", "keep", "fail", "commit"]
        ),
        st.just({}),
    ),
    max_size=25,
)


@pytest.fixture(scope="module")
def shared(server: postgres.Server) -> Iterator[Database]:
    with make_database(server) as made:
        METADATA.create_all(made.engine)
        yield made


@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
@settings(deadline=None, max_examples=60)
@given(steps=_STEPS)
def test_each_record_has_the_context_of_its_write(
    shared: Database, lazy: bool, steps: list[tuple[str, dict[str, str | None]]]
) -> None:
    """Contexts, savepoints, failures and transactions in any order: each record is right."""
    engine = sa.create_engine(shared.url(), poolclass=sa.NullPool)
    instrument(engine, lazy=lazy)
    contexts: list[Any] = []
    savepoints: list[Any] = []
    # What is expected of the transaction; how long that was where each savepoint began.
    expected: list[tuple[int, str | None, str | None]] = []
    marks: list[int] = []

    def undo(connection: sa.Connection) -> None:
        savepoints.pop().rollback()
        del expected[marks.pop() :]

    with engine.connect() as connection:
        for number, (step, values) in enumerate(steps):
            if step == "enter":
                contexts.append(audit_context(**values))
                contexts[-1].__enter__()
            elif step == "leave" and contexts:
                contexts.pop().__exit__(None, None, None)
            elif step == "write":
                connection.execute(insert(number))
                now = current()
                expected.append((number, now.get("username") or None, now.get("reason") or None))
            elif step == "read":
                connection.execute(sa.select(plain)).all()
            elif step == "savepoint":
                marks.append(len(expected))
                savepoints.append(connection.begin_nested())
            elif step == "undo" and savepoints:
                undo(connection)
            elif step == "keep" and savepoints:
                savepoints.pop().commit()
                marks.pop()
            elif step == "fail" and savepoints:
                with pytest.raises(sa.exc.ProgrammingError):
                    connection.exec_driver_sql("SELECT nothing")
                undo(connection)
            elif step == "commit":
                while savepoints:
                    savepoints.pop().commit()
                    marks.pop()
                connection.commit()
        while savepoints:
            savepoints.pop().commit()
        connection.commit()
    while contexts:
        contexts.pop().__exit__(None, None, None)
    assert expected == trail(shared)
    with shared.engine.begin() as connection:
        connection.exec_driver_sql("TRUNCATE account, account_audit")
        connection.exec_driver_sql("TRUNCATE account_audit")


# -- AUTOCOMMIT --------------------------------------------------------------------------------


def test_autocommit(engine: sa.Engine) -> None:
    """A write that could not be attributed is refused; everything else goes on."""
    auto = engine.execution_options(isolation_level="AUTOCOMMIT")
    with audit_context(username="ann"), auto.connect() as connection:
        connection.exec_driver_sql("VACUUM account")
        connection.exec_driver_sql("CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'SELECT 1'")
        assert 1 == connection.scalar(sa.select(1))
        connection.exec_driver_sql("SET work_mem = '1MB'; SELECT 1")
        connection.exec_driver_sql("EXPLAIN INSERT INTO account VALUES (1)")
        for write in (
            "INSERT INTO account VALUES (1)",
            " -- why\n UPDATE account SET id = 1",
            "WITH x AS (SELECT 1) DELETE FROM account",
            "SET work_mem = '1MB'; INSERT INTO account VALUES (1)",
            "SELECT 1; INSERT INTO account VALUES (1)",
            "BEGIN; INSERT INTO account VALUES (1); COMMIT",
            "EXPLAIN (ANALYZE) INSERT INTO account VALUES (1)",
            "EXECUTE prepared",
            "/* /* nested */ */ INSERT INTO account VALUES (1)",
        ):
            with pytest.raises(ContextError) as caught:
                connection.exec_driver_sql(write)
            assert (
                "a write in AUTOCOMMIT, or after COMMIT as text, inside an audit_context of "
                "username: the values would be gone before it; use another isolation_level and "
                "connection.commit(), or leave the context"
            ) == str(caught.value)
    with auto.connect() as connection:
        connection.execute(insert(1))


# -- wrong values ------------------------------------------------------------------------------


def test_declarations_of_the_engine(audited: Database, engine: sa.Engine) -> None:
    """A context that does not fit the engine's declarations stops the first statement."""
    instrument(engine, metadata=[METADATA])
    with engine.connect() as connection:
        with audit_context(usrname="ann"), pytest.raises(SettingError) as caught:
            connection.execute(insert(1))
        assert (
            "no audited table declares the session setting 'usrname': did you mean 'username'?"
        ) == str(caught.value)
        with audit_context(reason={1}), pytest.raises(SettingError, match="'reason'"):
            connection.execute(insert(1))
        with audit_context(username="ann"):  # in the same transaction
            connection.execute(insert(2))
        connection.commit()
    assert [(2, "ann", None)] == trail(audited)


# -- enrolling ---------------------------------------------------------------------------------


def test_enrolling_twice_sends_once(audited: Database, engine: sa.Engine) -> None:
    """Engine, sessionmaker, scoped_session and an engine with options are one engine."""
    maker = sessionmaker(engine.execution_options(logging_token="x"))
    instrument(engine)
    instrument(maker)
    instrument(scoped_session(maker))
    instrument(sessionmaker(binds={Account: engine}))
    with statements(engine) as sent, audit_context(username="ann"), maker() as session:
        session.execute(insert(1))
        session.commit()
    assert [ONE] == [statement for statement in sent if "set_config" in statement]
    assert [(1, "ann", None)] == trail(audited)


def test_a_connection_that_was_there_before(audited: Database, driver: str) -> None:
    """Enrolling reaches connections and transactions that are open."""
    engine = sa.create_engine(audited.url(driver), poolclass=sa.NullPool)
    with audit_context(username="ann"), engine.begin() as connection:
        connection.execute(insert(1))
        instrument(engine)
        connection.execute(insert(2))
    assert [(1, None, None), (2, "ann", None)] == trail(audited)


def test_what_cannot_be_enrolled() -> None:
    """A sessionmaker without an engine, and what is no engine, are refused."""
    for target in (sessionmaker(), async_sessionmaker(), 1):
        with pytest.raises(ContextError, match=r"instrument\(\) the Engine or AsyncEngine"):
            instrument(target)  # type: ignore[arg-type]


def test_another_database_is_sent_nothing() -> None:
    """The same application runs on SQLite, where there is no trail."""
    engine = sa.create_engine("sqlite://", plugins=["audit"])
    instrument(engine)
    with statements(engine) as sent, audit_context(username="ann"), engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
    assert ["SELECT 1"] == sent
    engine.dispose()


def test_asynchronous(audited: Database) -> None:
    """AsyncEngine and async_sessionmaker, by both drivers."""
    for number, name in enumerate(("asyncpg", "psycopg")):
        engine = asynchronous(audited, name)
        maker = async_sessionmaker(engine)
        instrument(engine if number else maker)

        async def work(engine: Any = engine, maker: Any = maker, number: int = 10 * number) -> None:
            async with audit_context(username="ann"), engine.begin() as connection:
                await connection.execute(insert(number + 1))
                async with connection.begin_nested() as nested:
                    await connection.execute(insert(number + 2))
                    await nested.rollback()
                with audit_context(reason="inner"):
                    await connection.execute(insert(number + 3))
            session: AsyncSession
            async with maker() as session, audit_context(username="ben"):
                session.add(Account(id=number + 4))
                await session.commit()
            async with engine.begin() as connection:
                await connection.execute(insert(number + 5))

        run(engine, work())
    assert [
        (number + start, username, reason)
        for number in (0, 10)
        for start, username, reason in (
            (1, "ann", None),
            (3, "ann", "inner"),
            (4, "ben", None),
            (5, None, None),
        )
    ] == trail(audited)


# -- the engine plugin -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["argument", "url"])
def test_the_plugin(audited: Database, driver: str, how: str) -> None:
    """plugins=["audit"] and ?plugin=audit enroll the engine."""
    url = audited.url(driver)
    engine = (
        sa.create_engine(url, plugins=["audit"], poolclass=sa.NullPool)
        if how == "argument"
        else sa.create_engine(
            url.update_query_dict({"plugin": "audit", "audit_lazy": "true"}), poolclass=sa.NullPool
        )
    )
    assert not {"plugin", "audit_lazy"} & set(engine.url.query)
    with statements(engine) as sent, audit_context(username="ann"), engine.begin() as connection:
        connection.exec_driver_sql("SELECT 1")
        connection.execute(insert(1))
    assert (1 if how == "url" else 0) == sent.index(ONE)
    assert [(1, "ann", None)] == trail(audited)


def test_the_plugin_asynchronously(audited: Database) -> None:
    """create_async_engine takes it the same way."""
    for number, name in enumerate(("asyncpg", "psycopg")):
        engine = asynchronous(audited, name, plugins=["audit"], audit_metadata=METADATA)

        async def work(engine: Any = engine, number: int = number) -> None:
            async with engine.begin() as connection:
                with audit_context(usrname="ann"), pytest.raises(SettingError):
                    await connection.execute(insert(number))
                with audit_context(username="ann"):
                    await connection.execute(insert(number))

        run(engine, work())
    assert [(0, "ann", None), (1, "ann", None)] == trail(audited)


def test_a_wrong_argument_of_the_plugin() -> None:
    """audit_lazy is true or false."""
    with pytest.raises(DeclarationError) as caught:
        sa.create_engine("postgresql+psycopg2://?plugin=audit&audit_lazy=maybe")
    assert "audit_lazy must be true or false, found 'maybe'" == str(caught.value)
