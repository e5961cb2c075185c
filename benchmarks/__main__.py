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

from benchmarks import autogenerate, measure, more, plan, report, upgrade
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


def _packages(systems: Iterable[System | autogenerate.System]) -> list[str]:
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
    counts = {3: 1} if quick else {10: 5, 100: 5, 1000: 5, 5000: 1}
    yield "autogenerate", "autogenerate", partial(_last, autogenerate.run, counts)
    triggers, rounds = (3, 1) if quick else (1000, 5)
    yield (
        "upgrade",
        "upgrade",
        partial(upgrade.run, triggers=triggers, rounds=rounds),
    )


def _last(
    run: Callable[..., Iterator[dict[str, Any]]], counts: dict[int, int], server: postgres.Server
) -> dict[str, Any]:
    """Return what *run* yields last, when all was measured."""
    *_, found = run(server, counts)
    return found


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
        wanted = _packages(SYSTEMS.values())
        if not given.quick and (not given.only or "autogenerate" in given.only):
            wanted += _packages(autogenerate.SYSTEMS.values())
        missing = [name for name in wanted if autogenerate.version_of(name) is None]
        if missing:
            parser.error(f"not installed: {', '.join(missing)}; pip install -e '.[bench]'")
        save(measured(given.quick, given.only), given.results, merge=bool(given.only))
    if given.results == RESULTS:
        report.write(report.read(RESULTS))


def save(found: dict[str, Any], path: Path, *, merge: bool) -> None:
    """Write what was found, the parts that have a file of their own beside the others."""
    for name in report.BESIDE:
        for part in found.pop(name, ()):
            path.with_name(f"{name}.json").write_text(json.dumps(part, indent=2) + "\n")
    if set(found) <= {"machine"}:
        return
    if merge and path.exists():
        found = report.merged(json.loads(path.read_text()), found)
    path.write_text(report.as_json(found))


if __name__ == "__main__":
    main()
