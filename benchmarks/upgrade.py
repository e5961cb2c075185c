"""`python -m benchmarks.upgrade`: what op.create_audit_trigger costs beside its own statements.

A migration of many triggers, in transactions of 200 that are rolled back, beside the same
statements written out and sent by plain `op.execute`, in interleaved rounds. The server does the
same work for both.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import alembic
import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext

from alembic_audit import sql
from alembic_audit.ddl import verbatim
from alembic_audit.spec import AuditSpec
from alembic_audit.tables import SPEC_KEY
from benchmarks.autogenerate import KINDS, backend, clocks, models
from tools import postgres

RESULTS = Path(__file__).parent / "results" / "upgrade.json"
BLOCK = 200


Cost = dict[str, float]


def once(
    engine: sa.Engine, migrate: Callable[[Operations, list[Any]], None], given: list[Any]
) -> Cost:
    """Return the seconds of one migration: CPU of client and server, and wall."""
    spent: Cost = dict.fromkeys(KINDS, 0.0)
    for start in range(0, len(given), BLOCK):
        with engine.connect() as connection:
            server = backend(connection)
            operations = Operations(MigrationContext.configure(connection))
            before = clocks(server)
            migrate(operations, given[start : start + BLOCK])
            for kind, begin, end in zip(KINDS, before, clocks(server), strict=True):
                spent[kind] += end - begin
            connection.rollback()
    return spent


def ours(operations: Operations, given: list[dict[str, Any]]) -> None:
    """Run the operations, as a migration has them."""
    for arguments in given:
        operations.create_audit_trigger(**arguments)  # type: ignore[attr-defined]


def plain(operations: Operations, given: list[list[str]]) -> None:
    """Send the statements."""
    for statements in given:
        for statement in statements:
            operations.execute(verbatim(statement))


def create_tables(engine: sa.Engine, metadata: sa.MetaData) -> None:
    """Make the tables alone: create_all would begin the trails too."""
    every = list(metadata.tables.values())
    for start in range(0, len(every), BLOCK):
        with engine.begin() as connection:
            for table in every[start : start + BLOCK]:
                connection.execute(sa.schema.CreateTable(table))


def run(server: postgres.Server, triggers: int, rounds: int) -> dict[str, Any]:
    """Return the medians of some rounds; a round before them warms up."""
    metadata = models(triggers, derived=True)
    every: list[AuditSpec] = [
        metadata.tables[f"t{number}"].info[SPEC_KEY] for number in range(triggers)
    ]
    arguments = [{"table_name": one.table, **one.to_kwargs()} for one in every]
    statements = [sql.create(one, "public") for one in every]
    costs: dict[str, list[Cost]] = {"ours": [], "plain": []}
    server.create_database("upgrade")
    engine = sa.create_engine(server.url("upgrade"))
    create_tables(engine, metadata)
    for _ in range(rounds + 1):
        costs["ours"].append(once(engine, ours, arguments))
        costs["plain"].append(once(engine, plain, statements))
    engine.dispose()
    found: dict[str, Any] = {
        "alembic": alembic.__version__,
        "sqlalchemy": sa.__version__,
        "rounds": rounds,
        "triggers": triggers,
    }
    for kind in KINDS:
        medians = {
            name: statistics.median(cost[kind] for cost in each[1:]) for name, each in costs.items()
        }
        found[kind] = {name: round(seconds, 3) for name, seconds in medians.items()}
        found[f"{kind}_ratio"] = round(medians["ours"] / medians["plain"], 3)
        print(f"{kind}: {found[kind]}, ratio {found[f'{kind}_ratio']}", file=sys.stderr)
    return found


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--triggers", type=int, default=1000)
    given = parser.parse_args()
    with postgres.server() as server:
        found = run(server, given.triggers, given.rounds)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
