"""`python -m benchmarks`: measure, write the results, then the page.

python -m benchmarks              the real run, about an hour on a quiet machine
python -m benchmarks --quick      everything once, in about a minute; its figures mean nothing
python -m benchmarks --page       only the page and the chart, from the committed results
python -m benchmarks --only base  the cells of a factor, or the other parts, by name
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks import measure, more, plan, report
from benchmarks.systems import SYSTEMS, System
from tools import postgres

RESULTS = Path(__file__).parent / "results" / "results.json"
SETTINGS = {
    "autovacuum": "off",
    "checkpoint_timeout": "1h",
    "max_wal_size": "16GB",
    "shared_buffers": "1GB",
}
"""Settings of the server, beside those of `tools.postgres`: nothing else shall run meanwhile."""


def machine(server: postgres.Server) -> dict[str, Any]:
    """Return what a reader needs to know of the machine; no name of it, and no path."""
    engine = sa.create_engine(server.url(), poolclass=sa.NullPool)
    with engine.connect() as connection:
        version = connection.exec_driver_sql("SHOW server_version").scalar_one()
    models = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    packages = ["alembic", "psycopg", "sqlalchemy", *_packages(SYSTEMS.values())]
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "postgresql": version,
        "settings": postgres.SETTINGS | SETTINGS,
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
    }


def _packages(systems: Iterable[System]) -> list[str]:
    return sorted({system.package for system in systems if system.package})


Part = tuple[str, str, Callable[[postgres.Server], Any]]


def parts(quick: bool) -> Iterator[Part]:
    """Yield the name of each part, the key of its results, and what measures it."""
    compared = [SYSTEMS[name] for name in plan.COMPARED]
    written = [system for system in compared if system.name != "none"]
    ours = [SYSTEMS[name] for name in plan.OURS[:1]]
    for group in plan.quick_groups() if quick else plan.groups():
        yield group.factor, "cells", partial(measure.run, group)
    objects, rounds = (20, 2) if quick else (1000, 15)
    yield "orm", "cells", partial(more.flush, compared, objects, rounds)
    rounds, seconds = (2, 1) if quick else (9, 5)
    for number in (2,) if quick else (4, 8):
        yield "clients", "clients", partial(more.clients, compared, number, rounds, seconds)
    rows = 1000 if quick else 100_000
    yield "size", "sizes", partial(more.record_size, [SYSTEMS["none"], *written], rows)
    history, rounds = (1000, 3) if quick else (1_000_000, 15)
    yield "read", "reading", partial(more.reading, ours, history, rounds)


def measured(quick: bool, only: list[str]) -> dict[str, Any]:
    """Measure everything, or the parts whose names are in *only*."""
    found: dict[str, Any] = {}
    with postgres.server(None, **SETTINGS) as server:
        found["machine"] = machine(server)
        for name, key, run in parts(quick):
            if only and name not in only:
                continue
            print(name, file=sys.stderr)
            result = run(server)
            found.setdefault(key, []).extend(result if isinstance(result, list) else [result])
    return found


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="everything once, in a minute")
    parser.add_argument("--page", action="store_true", help="only write the page again")
    parser.add_argument("--only", action="append", default=[], metavar="PART")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE")
    given = parser.parse_args(arguments)
    if not given.page:
        missing = [name for name in _packages(SYSTEMS.values()) if not _is_installed(name)]
        if missing:
            parser.error(f"not installed: {', '.join(missing)}; pip install -e '.[bench]'")
        found = measured(given.quick, given.only)
        if given.results.exists() and given.only:
            found = report.merged(json.loads(given.results.read_text()), found)
        given.results.write_text(report.as_json(found))
    if given.results == RESULTS:
        report.write(json.loads(RESULTS.read_text()))


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    main()
