"""Rounds and clocks.

One client over psycopg 3, with prepared statements: what a statement costs to parse and to plan is
out of the figures, which makes the limit harder to reach. A round is one transaction in a session
that is already warm, and has changed single rows only; each statement waits for the one before.
"""

import random
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import errors

from benchmarks import workloads
from benchmarks.systems import System
from benchmarks.tables import Shape
from benchmarks.workloads import Workload
from tools.postgres import Server

MICROSECOND = 1000
"""In nanoseconds."""


class NoClockError(RuntimeError):
    """The CPU time of a server process cannot be read here."""


@dataclass(frozen=True)
class Group:
    """Some systems, measured in the same rounds.

    Attributes:
        factor: In what it differs from the base cell, as it stands in the results.
        shape: What is audited.
        systems: Who records.
        work: What is done, and in how many rounds.
        cap: Seconds after which a statement is given up.
    """

    factor: str
    shape: Shape
    systems: Sequence[System]
    work: Sequence[tuple[Workload, int]]
    cap: float = 60


@dataclass
class Times:
    """Microseconds for each row changed, one value for each round."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)


def cpu_clock(pid: int) -> Path:
    """Return the file that says how long a server process has run.

    Raises:
        NoClockError: It cannot be read.
    """
    path = Path(f"/proc/{pid}/schedstat")
    try:
        if Path(f"/proc/{pid}/comm").read_text().strip() == "postgres" and path.read_text():
            return path
    except OSError:
        pass
    raise NoClockError(
        "the CPU time of a server process is read from /proc/<pid>/schedstat: this needs Linux, "
        "and the server on this machine"
    )


class Session:
    """One connection to the database of one system, for one workload."""

    def __init__(self, group: Group, workload: Workload, system: System, url: sa.URL) -> None:
        self.shape, self.cap = system.shape(group.shape), group.cap
        self.workload, self.system = workload, system
        self.database = url.database
        self.connection = psycopg.connect(
            url.set(drivername="postgresql").render_as_string(hide_password=False),
            autocommit=True,
        )
        self.clock = cpu_clock(self.connection.info.backend_pid)
        for number in range(1, self.shape.settings + 1):
            self.connection.execute(f"SET audit.s{number} = 'value'")

    def statements(self, first: int, last: int) -> list[workloads.Statement]:
        """Return what is sent to change some rows."""
        if self.system.recorded:
            return self.system.recorded(self.workload, self.shape, first, last)
        return [workloads.change(self.workload, self.shape, first, last)]

    def send(self, statements: list[workloads.Statement]) -> None:
        cursor = self.connection.cursor()
        for statement, parameters in statements:
            if statement.startswith("COPY"):
                with cursor.copy(statement) as stream:
                    stream.write(parameters[0])
            else:
                cursor.execute(statement, parameters, prepare=True)

    def reset(self) -> None:
        """Bring table and history back to where a round begins; no trigger fires."""
        run = self.connection.execute
        run("SET statement_timeout = 0")
        run("SET session_replication_role = replica")
        kept = "item" if self.shape.history else "%"
        tables = run(
            "SELECT string_agg(oid::regclass::text, ', ') FROM pg_class WHERE relkind = 'r' "
            "AND relnamespace = 'public'::regnamespace AND relname LIKE %s",
            [kept],
        ).fetchone()
        assert tables is not None
        run(f"TRUNCATE {tables[0]}")
        names = ", ".join(["id", *self.shape.names])
        before = self.workload.before
        run(f"INSERT INTO item ({names}) {self.shape.rows('0', str(before))}")
        run("RESET session_replication_role")
        run("VACUUM ANALYZE item")
        run(f"SET statement_timeout = '{self.cap}s'")

    def transaction(self, keys: Iterable[tuple[int, int]]) -> tuple[int, int]:
        """Change rows in one transaction; return CPU and wall time in nanoseconds."""
        prepared = [self.statements(*each) for each in keys]
        with self.connection.transaction():
            if self.system.begin:
                self.connection.execute(self.system.begin)
            cpu, wall = self._cpu(), time.perf_counter_ns()
            for statements in prepared:
                self.send(statements)
            return self._cpu() - cpu, time.perf_counter_ns() - wall

    def round(self, number: int) -> tuple[float, float]:
        """Run the workload once; return CPU and wall time in microseconds a row."""
        workload = self.workload
        turn = number % workload.rounds
        if turn == 0:
            self.reset()
            self.transaction(workload.warm_up())
        cpu, wall = self.transaction(workload.ranges(turn))
        rows = workload.rows * workload.statements * MICROSECOND
        return round(cpu / rows, 3), round(wall / rows, 3)

    def check(self, number: int) -> None:
        """See that every change since the last reset has its record.

        Args:
            number: Of the last round.
        """
        workload = self.workload
        if self.system.history is None or self.shape.history:
            return
        turns = number % workload.rounds + 1
        expected = workloads.WARM_UP + turns * workload.rows * workload.statements
        row = self.connection.execute(f"SELECT count(*) FROM {self.system.history}").fetchone()
        if row != (expected,):
            raise AssertionError(
                f"{self.system.name} has {row} records of {workload.name}, expected {expected}"
            )

    def close(self) -> None:
        self.connection.close()

    def _cpu(self) -> int:
        return int(self.clock.read_text().split()[0])


@contextmanager
def databases(group: Group, server: Server) -> Iterator[dict[str, sa.URL]]:
    """Yield the address of a database for each system, with tables and whatever records."""
    urls: dict[str, sa.URL] = {}
    try:
        for system in group.systems:
            name = f"bench_{system.name}"
            server.create_database(name)
            urls[system.name] = server.url(name)
            engine = sa.create_engine(urls[system.name], poolclass=sa.NullPool)
            with engine.begin() as connection:
                shape = system.shape(group.shape)
                system.install(connection, shape, system.options)
                if shape.history and system.history:
                    _fill(connection, shape)
        yield urls
    finally:
        for url in urls.values():
            server.drop_database(str(url.database))


@contextmanager
def sessions(
    group: Group, workload: Workload, urls: dict[str, sa.URL], kind: type[Session] = Session
) -> Iterator[list[Session]]:
    """Yield a new session for each system."""
    with ExitStack() as stack:
        made = []
        for system in group.systems:
            made.append(kind(group, workload, system, urls[system.name]))
            stack.callback(made[-1].close)
        yield made


def _fill(connection: sa.Connection, shape: Shape) -> None:
    """Write the history of other rows than those that are measured."""
    names = ["id", *shape.names]
    own = ", ".join(["audit_operation", *workloads.OWN])
    values = ", ".join(["'U'", *workloads.OWN.values()])
    connection.exec_driver_sql(
        f"INSERT INTO item_audit ({own}, {', '.join(names)}) SELECT {values}, many.* FROM "
        f"({shape.rows('1', str(shape.history))}) AS many (id, {', '.join(shape.names)})",
        execution_options={"no_parameters": True},
    )


def run(group: Group, server: Server, kind: type[Session] = Session) -> list[dict[str, Any]]:
    """Measure a group.

    Returns:
        For each workload what `report` reads.
    """
    with databases(group, server) as urls:
        found = []
        for workload, rounds in group.work:
            with sessions(group, workload, urls, kind) as made:
                systems = _rounds(made, rounds)
            found.append(
                {
                    "factor": group.factor,
                    "workload": workload.name,
                    "rows": workload.rows,
                    "statements": workload.statements,
                    "systems": systems,
                }
            )
    return found


def _rounds(made: list[Session], rounds: int) -> dict[str, dict[str, Any]]:
    """Return for each system its times, or the cap that it broke; each round has its own order."""
    times = {session.system.name: Times() for session in made}
    over: dict[str, float] = {}
    shuffled = random.Random(7)
    for number in range(rounds):
        shuffled.shuffle(made)
        for session in made:
            name = session.system.name
            if name in over:
                continue
            try:
                cpu, wall = session.round(number)
            except errors.QueryCanceled:
                over[name] = session.cap
                continue
            if number == rounds - 1:
                session.check(number)
            times[name].cpu.append(cpu)
            times[name].wall.append(wall)
    return {
        name: {"over_cap_s": over[name]} if name in over else vars(each)
        for name, each in times.items()
    }
