"""What is measured in another way: an ORM, many clients, reading, and the size of a record."""

import random
import re
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session as OrmSession
from sqlalchemy.orm import registry

from benchmarks import measure, workloads
from benchmarks.measure import Group, Session
from benchmarks.systems import System
from benchmarks.tables import Shape
from benchmarks.workloads import Workload
from tools.postgres import Server

Result = dict[str, Any]


class Flush(Session):
    """A session of SQLAlchemy's ORM that adds objects and flushes them.

    PostgreSQL numbers them, so that a flush is one INSERT of many rows (insertmanyvalues). The
    limit sends its second statement after that.
    """

    def __init__(self, group: Group, workload: Workload, system: System, url: sa.URL) -> None:
        super().__init__(group, workload, system, url)
        self.engine = sa.create_engine(url.set(drivername="postgresql+psycopg"), pool_size=1)
        with self.engine.connect() as connection:
            pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        self.clock = measure.cpu_clock(pid)
        mapped = registry()
        self.model = type("Item", (), {})
        mapped.map_imperatively(self.model, self.shape.table(mapped.metadata))

    def transaction(self, keys: Iterable[tuple[int, int]]) -> tuple[int, int]:
        spent = [0, 0]
        for first, last in keys:
            with OrmSession(self.engine) as session, session.begin():
                items = [self._item() for _ in range(first, last + 1)]
                session.add_all(items)
                session.connection()  # which begins the transaction
                cpu, wall = self._cpu(), time.perf_counter_ns()
                session.flush()
                numbers = [item.id for item in items]
                for statement, parameters in self._second(min(numbers), max(numbers)):
                    session.connection().exec_driver_sql(statement, tuple(parameters))
                spent[0] += self._cpu() - cpu
                spent[1] += time.perf_counter_ns() - wall
        return spent[0], spent[1]

    def _item(self) -> Any:
        item = self.model()
        for name, value in zip(self.shape.names, self.shape.row(0)[1:], strict=True):
            setattr(item, name, value)
        return item

    def _second(self, first: int, last: int) -> list[workloads.Statement]:
        if not self.system.recorded:
            return []
        # As after COPY, whatever the number of rows.
        copied = Workload("", "copy", last - first + 1, 1, 1)
        return self.system.recorded(copied, self.shape, first, last)[1:]

    def close(self) -> None:
        self.engine.dispose()
        super().close()


def flush(systems: Sequence[System], objects: int, rounds: int, server: Server) -> list[Result]:
    """Measure a flush of many objects, as a group of one cell."""
    workload = Workload("ORM flush", "insert", objects, 1, 1)
    group = Group("ORM", Shape(identity=True), systems, [(workload, rounds)])
    return measure.run(group, server, Flush)


def clients(
    systems: Sequence[System], number: int, rounds: int, seconds: int, server: Server
) -> Result:
    """Measure transactions per second of pgbench: UPDATEs of one row, each committed."""
    workload = Workload("update", "update", 1, 10_000, 1)
    group = Group(f"{number} clients", Shape(), systems, [])
    found: dict[str, list[float]] = {system.name: [] for system in systems}
    shuffled = random.Random(7)
    with (
        measure.databases(group, server) as urls,
        measure.sessions(group, workload, urls) as made,
        tempfile.TemporaryDirectory() as directory,
    ):
        script = Path(directory) / "script.sql"
        for _ in range(rounds):
            shuffled.shuffle(made)
            for session in made:
                session.reset()
                sent = [statement % ":id" for statement, _keys in session.statements(0, 0)]
                lines = [f"\\set id random(0, {workload.before - 1})", "BEGIN;"]
                lines += [f"{statement};" for statement in sent]
                script.write_text("\n".join([*lines, "COMMIT;\n"]))
                options = f"-n -M prepared -c {number} -j 2 -T {seconds} -f".split()
                said = server.run("pgbench", *options, str(script), database=session.database)
                match = re.search(r"tps = ([\d.]+)", said)
                assert match, said
                found[session.system.name].append(round(float(match[1]), 1))
    return {"clients": number, "tps": found}


def record_size(systems: Sequence[System], rows: int, server: Server) -> Result:
    """Measure the bytes of a record beside those of the row that it is of."""
    workload = Workload("bulk insert", "insert", rows, 1, 1)
    sizes: dict[str, dict[str, float]] = {}
    group = Group("size", Shape(), systems, [])
    with measure.databases(group, server) as urls, measure.sessions(group, workload, urls) as made:
        for session in made:
            session.round(0)
            session.check(0)
            for table in ("item", "item_audit"):
                if session.connection.execute("SELECT to_regclass(%s)", [table]).fetchone() != (
                    None,
                ):
                    sizes[f"{session.system.name} {table}"] = _sizes(session, table)
    return {"rows": rows, "sizes": sizes}


def _sizes(session: Session, table: str) -> dict[str, float]:
    row = session.connection.execute(
        f"SELECT avg(pg_column_size(t)), pg_relation_size('{table}') / count(*)::numeric, "
        f"pg_indexes_size('{table}') / count(*)::numeric FROM {table} AS t"
    ).fetchone()
    assert row is not None
    return dict(
        zip(("row", "heap", "indexes"), (round(float(each), 2) for each in row), strict=True)
    )


def reading(systems: Sequence[System], history: int, rounds: int, server: Server) -> list[Result]:
    """Measure what it costs to read the history of one row, with and without the index."""
    results = []
    for title, options in (("default", {}), ("none", {"indexes": ()})):
        workload = Workload("read", "insert", 1, 1, 1)
        group = Group("read", Shape(history=history, options=options), systems, [])
        with (
            measure.databases(group, server) as urls,
            measure.sessions(group, workload, urls) as made,
        ):
            for session in made:
                session.connection.execute("VACUUM ANALYZE item_audit")
                read = "SELECT * FROM item_audit WHERE id = %s ORDER BY audit_id"
                cpu = []
                for number in range(rounds + 1):
                    before = session._cpu()
                    session.connection.execute(read, [1 + number * 1000]).fetchall()
                    cpu.append(round((session._cpu() - before) / measure.MICROSECOND, 1))
                results.append(
                    {
                        "indexes": title,
                        "system": session.system.name,
                        "history": history,
                        "cpu": cpu[1:],
                    }
                )
    return results
