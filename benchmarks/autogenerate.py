"""`python -m benchmarks.autogenerate 10 100 1000`: what autogenerate costs where nothing differs.

Ours on N audited tables, beside plain Alembic on the same 2N tables and on the N tables alone, in
interleaved rounds. CPU is the client's, wall time has the server's too. `ours, first` derives the
audit tables as well; plain Alembic has its 2N Tables made beforehand.
"""

import argparse
import gc
import json
import statistics
import time
from pathlib import Path
from typing import Any

import alembic
import sqlalchemy as sa
from alembic.autogenerate import produce_migrations
from alembic.runtime.migration import MigrationContext

from alembic_audit import tables
from tools import postgres

RESULTS = Path(__file__).parent / "results" / "autogenerate.json"
PLAIN = ["alembic.autogenerate.*"]
OURS = [*PLAIN, "alembic_audit"]


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


def once(engine: sa.Engine, metadata: sa.MetaData, plugins: list[str]) -> tuple[float, float]:
    """Return CPU and wall seconds of one autogenerate, which finds no difference."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"autogenerate_plugins": plugins})
        gc.collect()
        cpu, wall = time.process_time(), time.perf_counter()
        made = produce_migrations(context, metadata).upgrade_ops
        cost = (time.process_time() - cpu, time.perf_counter() - wall)
    assert made is not None and not made.ops, made
    return cost


def measure(server: postgres.Server, count: int, rounds: int) -> dict[str, Any]:
    """Return the medians of some rounds with one number of tables."""
    engines = {}
    for name in ("alone", "both"):
        server.create_database(f"{name}_{count}")
        engines[name] = sa.create_engine(server.url(f"{name}_{count}"))
    for start in range(0, count, 500):
        # A transaction that makes more of them runs out of locks on a default server.
        metadata = models(count, derived=True)
        part = [
            metadata.tables[f"t{number}{suffix}"]
            for number in range(start, min(start + 500, count))
            for suffix in ("", "_audit")
        ]
        metadata.create_all(engines["both"], tables=part)
        alone = models(count)
        part = [alone.tables[f"t{number}"] for number in range(start, min(start + 500, count))]
        alone.create_all(engines["alone"], tables=part)
    derived = models(count, derived=True)
    costs: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for name, engine, metadata, plugins in (
            ("plain on N", engines["alone"], models(count), PLAIN),
            ("plain on 2N", engines["both"], derived, PLAIN),
            ("ours", engines["both"], derived, OURS),
            ("ours, first", engines["both"], models(count), OURS),
        ):
            costs.setdefault(name, []).append(once(engine, metadata, plugins))
    for engine in engines.values():
        engine.dispose()
    return {
        name: {
            "cpu": round(statistics.median(cpu for cpu, _ in cost), 4),
            "cpu_rounds": [round(cpu, 4) for cpu, _ in cost],
            "wall": round(statistics.median(wall for _, wall in cost), 4),
        }
        for name, cost in costs.items()
    }


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", nargs="*", type=int, default=[10, 100, 1000])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    found: dict[str, Any] = {
        "alembic": alembic.__version__,
        "sqlalchemy": sa.__version__,
        "rounds": given.rounds,
        "tables": {},
    }
    with postgres.server() as server:
        for count in given.counts:
            found["tables"][str(count)] = cell = measure(server, count, given.rounds)
            for name, cost in cell.items():
                ratios = ", ".join(
                    f"{cost['cpu'] / cell[base]['cpu']:.2f} of {base}"
                    for base in ("plain on 2N", "plain on N")
                )
                print(
                    f"{count:5} {name:12} {cost['cpu']:.3f} s CPU, {cost['wall']:.3f} s: {ratios}"
                )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
