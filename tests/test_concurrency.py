"""Many tasks on few connections, and what a context costs on the wire."""

import asyncio
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine

from alembic_audit import audit_context, instrument
from tests.conftest import Database
from tests.settings import METADATA, insert, run
from tools import postgres

TASKS, POOL = 200, 4
DRIVERS = ["psycopg2", "psycopg", "psycopg async", "asyncpg async"]


@pytest.fixture
def audited(database: Database) -> Database:
    METADATA.create_all(database.engine)
    return database


def actor(task: int) -> str | None:
    """Return who a task works for; every tenth has no context."""
    return None if task % 10 == 0 else f"task {task}"


def in_threads(url: URL, each: int, options: dict[str, Any]) -> None:
    engine = sa.create_engine(url, pool_size=POOL, max_overflow=0, pool_timeout=120, **options)
    instrument(engine)

    def transactions(task: int) -> None:
        for number in range(each):
            with engine.begin() as connection:
                connection.execute(insert(task * each + number))

    def work(task: int) -> None:
        if actor(task) is None:
            transactions(task)
        else:
            with audit_context(username=actor(task)):
                transactions(task)

    with ThreadPoolExecutor(TASKS) as executor:
        list(executor.map(work, range(TASKS)))
    engine.dispose()


def in_tasks(url: URL, each: int, options: dict[str, Any]) -> None:
    engine = create_async_engine(url, pool_size=POOL, max_overflow=0, pool_timeout=120, **options)
    instrument(engine)

    async def transactions(task: int) -> None:
        for number in range(each):
            async with engine.begin() as connection:
                await connection.execute(insert(task * each + number))

    async def work(task: int) -> None:
        if actor(task) is None:
            await transactions(task)
        else:
            with audit_context(username=actor(task)):
                await transactions(task)

    async def everybody() -> None:
        await asyncio.gather(*map(work, range(TASKS)))

    run(engine, everybody())


def check(database: Database, each: int) -> None:
    """Each record has the actor of its task, in the order of the task."""
    with database.engine.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT id, audit_username FROM account_audit ORDER BY id"
        ).all()
    assert [
        (task * each + number, actor(task)) for task in range(TASKS) for number in range(each)
    ] == [tuple(row) for row in found]


@pytest.mark.parametrize("driver", DRIVERS)
def test_each_record_has_the_actor_of_its_task(audited: Database, driver: str) -> None:
    """200 tasks of 20 transactions share 4 connections."""
    name, _, kind = driver.partition(" ")
    (in_tasks if kind else in_threads)(audited.url(name), 20, {})
    check(audited, 20)


# -- pgbouncer ---------------------------------------------------------------------------------


@contextmanager
def pgbouncer(directory: Path, database: Database) -> Iterator[URL]:
    """Run pgbouncer in transaction mode with fewer connections to the server than clients have."""
    url = database.url()
    (directory / "users").write_text(f'"{url.username}" ""\n')
    (directory / "ini").write_text(
        f"""
[databases]
{database.name} = host={url.query["host"]} port={url.query["port"]}
[pgbouncer]
listen_addr =
unix_socket_dir = {directory}
listen_port = 6432
auth_type = trust
auth_file = {directory / "users"}
pool_mode = transaction
default_pool_size = 2
max_client_conn = 100
"""
    )
    prefix, uid = postgres._unprivileged()
    if uid is not None:
        pytest.skip("pgbouncer would need a user of its own here")
    log = (directory / "log").open("wb")
    process = subprocess.Popen(
        [*prefix, str(shutil.which("pgbouncer")), str(directory / "ini")],
        stdout=log,
        stderr=log,
    )
    made = url.set(query={"host": str(directory), "port": "6432"})
    try:
        end = time.monotonic() + 20
        while not (directory / ".s.PGSQL.6432").exists():
            assert process.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < end
            time.sleep(0.02)
        yield made
    finally:
        process.terminate()
        process.wait()
        log.close()


@pytest.mark.skipif(
    not shutil.which("pgbouncer") or bool(os.environ.get("ALEMBIC_AUDIT_TEST_URL")),
    reason="no pgbouncer, or a server that it cannot be put before",
)
@pytest.mark.parametrize("driver", DRIVERS)
def test_the_same_through_pgbouncer(audited: Database, driver: str) -> None:
    """200 tasks of 5 transactions: each may have another connection to the server."""
    name, _, kind = driver.partition(" ")
    options: dict[str, Any] = {}
    if name == "psycopg":
        options["connect_args"] = {"prepare_threshold": None}
    if name == "asyncpg":
        # As SQLAlchemy's page on asyncpg says for pgbouncer.
        options["connect_args"] = {
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: f"s{os.urandom(8).hex()}",
        }
    directory = Path(os.environ.get("TMPDIR", "/tmp")) / f"bouncer-{os.getpid()}-{driver[:9]}"
    directory = Path(str(directory).replace(" ", ""))
    directory.mkdir()
    try:
        with pgbouncer(directory, audited) as url:
            (in_tasks if kind else in_threads)(url.set(drivername=f"postgresql+{name}"), 5, options)
    finally:
        shutil.rmtree(directory)
    check(audited, 5)


# -- on the wire -------------------------------------------------------------------------------


class Counter:
    """Stands between client and server, and counts how often the server says ReadyForQuery."""

    def __init__(self, directory: Path, server: URL) -> None:
        self.round_trips = 0
        self._server = f"{server.query['host']}/.s.PGSQL.{server.query['port']}"
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(directory / ".s.PGSQL.5432"))
        self._socket.listen()
        self.url = server.set(query={"host": str(directory), "port": "5432"})
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._socket.accept()[0]
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                for target in (self._requests, self._answers):
                    threading.Thread(target=target, args=(client, server), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with client, suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _answers(self, client: socket.socket, server: socket.socket) -> None:
        """Pass messages on: one byte of kind, four of length, which counts itself (protocol 3)."""
        with server, server.makefile("rb") as stream, suppress(OSError):
            while head := stream.read(5):
                self.round_trips += head[:1] == b"Z"
                client.sendall(head + stream.read(int.from_bytes(head[1:], "big") - 4))
            client.shutdown(socket.SHUT_RDWR)  # the server has closed, and asyncpg waits for it

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def counter(audited: Database, tmp_path_factory: Any) -> Iterator[Counter]:
    directory = Path(f"/tmp/wire-{os.getpid()}-{threading.get_ident() % 10**6}")
    directory.mkdir()
    made = Counter(directory, audited.url())
    yield made
    made.close()
    shutil.rmtree(directory)


def costs(counter: Counter, driver: str, context: bool, lazy: bool = False) -> list[int]:
    """Return the round trips of each of three transactions of two writes, and of one read."""
    name, _, kind = driver.partition(" ")
    url = counter.url.set(drivername=f"postgresql+{name}")
    found = []

    def note(work: Callable[[], Any]) -> None:
        before = counter.round_trips
        work()
        found.append(counter.round_trips - before)

    def transaction(connection: sa.Connection, statements: list[sa.Executable]) -> None:
        with audit_context(**({"username": "ann", "reason": "x"} if context else {})):
            for statement in statements:
                connection.execute(statement).close()
        connection.commit()

    def work(connection: sa.Connection) -> None:
        table = METADATA.tables["account"]
        for number in range(12):
            change = [table.update().values(email=str(number)), sa.delete(table)]
            # The first ones prepare statements: psycopg after five executions.
            if number < 8:
                transaction(connection, change)
            else:
                note(lambda: transaction(connection, change))  # noqa: B023
        transaction(connection, [sa.select(table.c.id)])
        note(lambda: transaction(connection, [sa.select(table.c.id)]))

    if kind:
        engine = create_async_engine(url, poolclass=sa.NullPool)
        instrument(engine, lazy=lazy)

        async def go() -> None:
            async with engine.connect() as connection:
                await connection.run_sync(work)

        run(engine, go())
    else:
        sync_engine = sa.create_engine(url, poolclass=sa.NullPool)
        instrument(sync_engine, lazy=lazy)
        with sync_engine.connect() as connection:
            work(connection)
    return found


@pytest.mark.parametrize("driver", DRIVERS)
def test_one_round_trip_for_each_transaction(counter: Counter, driver: str) -> None:
    """A context costs one round trip for a transaction, none if lazy and it only reads."""
    without = costs(counter, driver, context=False)
    assert [one + 1 for one in without] == costs(counter, driver, context=True)
    assert [*(one + 1 for one in without[:-1]), without[-1]] == costs(
        counter, driver, context=True, lazy=True
    )
