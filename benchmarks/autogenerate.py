"""`python -m benchmarks.autogenerate 10 100 1000`: what autogenerate costs where nothing differs.

Ours on N audited tables, beside plain Alembic on the same 2N tables and on the N tables alone, and
beside the packages that compare functions and triggers, each through its own documented API. All
of them take turns, each in a process of its own, since some register what they do for the whole
process, and one that needs more than the cap can be ended. CPU time is that of the client and that
of its server process; wall time is in the results too. `ours, first` derives the audit tables as
well; the others have theirs beforehand.
"""

import argparse
import datetime
import gc
import importlib
import importlib.metadata
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.autogenerate import produce_migrations
from alembic.operations.ops import UpgradeOps
from alembic.runtime.migration import MigrationContext

from alembic_audit import sql, tables
from alembic_audit.tables import SPEC_KEY
from benchmarks.measure import cpu_clock
from tools import postgres

RESULTS = Path(__file__).parent / "results" / "autogenerate.json"
PLAIN = ["alembic.autogenerate.*"]
OURS = [*PLAIN, "alembic_audit"]
CAP = 60
"""Seconds of a round after which a peer is ended."""

KINDS = ("cpu", "server", "wall")
"""What is measured: CPU seconds of the client, of the server process, and wall time."""

CHUNK = 500
"""Tables or objects of one transaction; one with many more runs out of locks."""


def models(count: int, *, derived: bool = False) -> sa.MetaData:
    """Return tables of 12 columns that ask for an audit."""
    metadata = sa.MetaData()
    for number in range(count):
        sa.Table(
            f"t{number}",
            metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("email", sa.String(200), nullable=False, unique=True),
            sa.Column("name", sa.Text),
            sa.Column("created", sa.DateTime(timezone=True), nullable=False),
            sa.Column("amount", sa.Numeric(12, 2)),
            sa.Column("active", sa.Boolean, nullable=False),
            sa.Column("day", sa.Date),
            sa.Column("size", sa.BigInteger, index=True),
            *(sa.Column(f"note{each}", sa.String) for each in range(4)),
            info={"audit.options": {"enabled": True}},
        )
    if derived:
        tables.derive_all(metadata)
    return metadata


def both(count: int) -> sa.MetaData:
    """Return tables that have their audit tables already."""
    return models(count, derived=True)


# -- the peers -------------------------------------------------------------------------------


def statements(metadata: sa.MetaData, start: str) -> Iterator[str]:
    """Yield those statements of our trails that begin so."""
    for table in metadata.tables.values():
        spec = table.info.get(SPEC_KEY)
        if spec is not None and spec.table == table.name:
            yield from (one for one in sql.create(spec, "public") if one.startswith(start))


def pg_autogen(metadata: sa.MetaData) -> dict[str, Any]:
    """Declare our functions and triggers to alembic-pg-autogen."""
    importlib.import_module("alembic_pg_autogen")
    return {
        "autogenerate_plugins": [*PLAIN, "alembic_pg_autogen.*"],
        # It hands them to text(), for which a colon before a digit is a parameter.
        "pg_functions": [one.replace(":", r"\:") for one in statements(metadata, "CREATE FUNC")],
        "pg_triggers": list(statements(metadata, "CREATE TRIGGER")),
    }


def alembic_utils(metadata: sa.MetaData) -> dict[str, Any]:
    """Register our functions and triggers as entities of alembic_utils."""
    function = importlib.import_module("alembic_utils.pg_function").PGFunction
    trigger = importlib.import_module("alembic_utils.pg_trigger").PGTrigger
    entities = importlib.import_module("alembic_utils.replaceable_entity")
    made: list[Any] = []
    for text in statements(metadata, "CREATE FUNC"):
        name, _, rest = text.removeprefix("CREATE FUNCTION ").partition("() ")
        made.append(function("public", f"{name.split('.')[1]}()", rest))
    for text in statements(metadata, "CREATE TRIGGER"):
        name, _, rest = text.removeprefix("CREATE TRIGGER ").partition(" ")
        table = rest.split(" ON ")[1].split()[0].replace('"', "")
        made.append(trigger("public", name, rest.replace(f'"{table}"', table), on_entity=table))
    entities.register_entities(made, entity_types=[function, trigger])
    return {"autogenerate_plugins": PLAIN, "include_schemas": False}


def declared(count: int) -> sa.MetaData:
    """Return tables that `audit_table` of sqlalchemy-declarative-extensions audits."""
    extensions = importlib.import_module("sqlalchemy_declarative_extensions")
    audit = importlib.import_module("sqlalchemy_declarative_extensions.audit")
    metadata = models(count)
    extensions.declare_database(metadata)
    for table in list(metadata.tables.values()):
        audit.audit_table(table)
    extensions.register_alembic_events()
    return metadata


def plain(_metadata: sa.MetaData) -> dict[str, Any]:
    """Return the options of plain Alembic."""
    return {"autogenerate_plugins": PLAIN}


def ours(_metadata: sa.MetaData) -> dict[str, Any]:
    """Return our options."""
    return {"autogenerate_plugins": OURS}


@dataclass(frozen=True)
class System:
    """What compares.

    Attributes:
        name: As it stands in the results and on the page.
        database: What is in the database.
        metadata: Returns what is declared.
        options: Returns the options of Alembic.
        anew: Every round has a new MetaData.
        package: On the Python Package Index; what has one has the cap.
        most: With how many tables it is tried.
    """

    name: str
    database: str
    metadata: Callable[[int], sa.MetaData]
    options: Callable[[sa.MetaData], dict[str, Any]]
    anew: bool = False
    package: str | None = None
    most: int = 1_000_000


DECLARATIVE = "sqlalchemy-declarative-extensions"
SYSTEMS = {
    system.name: system
    for system in (
        System("plain on N", "alone", models, plain),
        System("plain on 2N", "both", both, plain),
        System("ours", "both", both, ours),
        System("ours, first", "both", models, ours, anew=True),
        System(DECLARATIVE, "declared", declared, plain, package=DECLARATIVE, most=1000),
        System(
            "alembic-pg-autogen",
            "both",
            both,
            pg_autogen,
            package="alembic-pg-autogen",
            most=1000,
        ),
        System("alembic_utils", "both", both, alembic_utils, package="alembic_utils", most=100),
    )
}


# -- what is measured ------------------------------------------------------------------------


def produced(
    connection: sa.Connection, metadata: sa.MetaData, options: dict[str, Any]
) -> tuple[UpgradeOps, dict[str, float]]:
    """Return what one autogenerate finds, and its seconds: CPU of client and server, and wall."""
    context = MigrationContext.configure(connection, opts=options)
    server = backend(connection)
    gc.collect()
    before = clocks(server)
    made = produce_migrations(context, metadata).upgrade_ops
    spent = [end - begin for begin, end in zip(before, clocks(server), strict=True)]
    assert made is not None
    return made, dict(zip(KINDS, spent, strict=True))


def backend(connection: sa.Connection) -> Path:
    """Return the file with the CPU time of the server process of a connection."""
    return cpu_clock(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())


def clocks(server: Path) -> tuple[float, float, float]:
    """Return what the clocks of `KINDS` show, in seconds."""
    return time.process_time(), int(server.read_text().split()[0]) / 1e9, time.perf_counter()


def fill(engine: sa.Engine, metadata: sa.MetaData, options: dict[str, Any]) -> None:
    """Make tables and trails, the trails of a peer as the migration would that it writes."""
    every = list(metadata.tables.values())
    for start in range(0, len(every), CHUNK):
        metadata.create_all(engine, tables=every[start : start + CHUNK])
    if metadata.info.get("functions") is None:
        return
    with engine.connect() as connection:
        made, _ = produced(connection, metadata, options)
    for start in range(0, len(made.ops), CHUNK):
        with engine.begin() as connection:
            for op in made.ops[start : start + CHUNK]:
                for statement in op.to_sql():  # type: ignore[attr-defined]
                    connection.exec_driver_sql(statement)


def work(pipe: Pipe, name: str, url: str, count: int) -> None:
    """Be the process of a system: prepare, then measure as often as asked."""
    system = SYSTEMS[name]
    engine = sa.create_engine(url)
    try:
        metadata = system.metadata(count)
        options = system.options(metadata)
        with engine.connect() as connection:
            is_empty = not sa.inspect(connection).get_table_names()
        if is_empty:
            fill(engine, metadata, options)
        pipe.send({})
        while pipe.recv():
            if system.anew:
                metadata = system.metadata(count)
            with engine.connect() as connection:
                made, cost = produced(connection, metadata, options)
            assert not made.ops, made.as_diffs()
            pipe.send(cost)
    except Exception as error:
        cause = getattr(error, "orig", None) or error
        pipe.send({"failed": f"{type(cause).__name__}: {cause}".splitlines()[0]})


class Worker:
    """A system in a process of its own."""

    def __init__(self, system: System, url: str, count: int) -> None:
        self.cap = CAP if system.package else None
        self.costs: list[dict[str, float]] = []
        self.end: dict[str, Any] = {}
        spawn = multiprocessing.get_context("spawn")
        self.pipe, child = spawn.Pipe()
        arguments = (child, system.name, url, count)
        self.process = spawn.Process(target=work, args=arguments, daemon=True)
        self.process.start()
        child.close()
        self.receive(10 * CAP if system.package else None)

    def round(self) -> None:
        """Measure once, unless an earlier round was the last one."""
        if not self.end:
            self.pipe.send(True)
            if cost := self.receive(self.cap):
                self.costs.append(cost)

    def receive(self, cap: int | None) -> dict[str, Any]:
        """Return what the process says within some seconds; nothing where it came to its end."""
        if not self.pipe.poll(cap):
            self.end = {"over_cap_s": cap}
            self.process.kill()
            return {}
        said: dict[str, Any] = self.pipe.recv()
        if "failed" in said:
            self.end = said
        return {} if self.end else said

    def result(self) -> dict[str, Any]:
        """End the process, and return the rounds with their medians, or how it came to its end."""
        self.process.kill()
        self.process.join()
        if self.end:
            return self.end
        found: dict[str, Any] = {}
        for kind in KINDS:
            rounds = [round(cost[kind], 4) for cost in self.costs]
            found |= {kind: round(statistics.median(rounds), 4), f"{kind}_rounds": rounds}
        return found


def measure(
    server: postgres.Server, count: int, rounds: int, systems: Sequence[System]
) -> dict[str, Any]:
    """Return the results of some rounds with one number of tables."""
    urls = {}
    for database in dict.fromkeys(system.database for system in systems):
        server.create_database(f"{database}_{count}")
        urls[database] = server.url(f"{database}_{count}").render_as_string(hide_password=False)
    workers = {}
    try:
        # The first one of a database fills it.
        for system in systems:
            workers[system.name] = Worker(system, urls[system.database], count)
        for _ in range(rounds):
            for worker in workers.values():
                worker.round()
    finally:
        found = {name: worker.result() for name, worker in workers.items()}
    return found


def report(count: int, cell: dict[str, Any]) -> None:
    """Print what was found with one number of tables."""
    for name, cost in cell.items():
        found = [f"{kind} {cost[kind]:.3f} s" for kind in KINDS if kind in cost]
        print(f"{count:5} {name}: {', '.join(found) or cost}", file=sys.stderr)


def version_of(package: str) -> str | None:
    """Return the version of a package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def run(server: postgres.Server, counts: dict[int, int]) -> Iterator[dict[str, Any]]:
    """Yield the results of some numbers of tables, each with its number of rounds, as they grow."""
    engine = sa.create_engine(server.url(), poolclass=sa.NullPool)
    with engine.connect() as connection:
        version = connection.exec_driver_sql("SHOW server_version").scalar_one()
    peers = [system.package for system in SYSTEMS.values() if system.package]
    found: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "postgresql": version,
        "packages": {name: version_of(name) for name in ("alembic", "sqlalchemy", *peers)},
        "cap": CAP,
        "tables": {},
    }
    for count, rounds in counts.items():
        systems = [system for system in SYSTEMS.values() if count <= system.most]
        cell = measure(server, count, rounds, systems)
        found["tables"][str(count)] = {"rounds": rounds, "systems": cell}
        report(count, cell)
        yield found


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", nargs="*", type=int, default=[10, 100, 1000, 5000])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    counts = {count: given.rounds if count <= 1000 else 1 for count in given.counts}
    with postgres.server() as server:
        for found in run(server, counts):
            RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
