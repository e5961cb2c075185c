"""What is measured with what."""

from collections.abc import Iterator, Sequence

from benchmarks import workloads
from benchmarks.measure import Cell
from benchmarks.systems import LIMIT, SYSTEMS, System
from benchmarks.tables import Shape

OURS = [name for name in ("row", "statement") if name in SYSTEMS]
COMPARED = ["none", LIMIT, *OURS]

FACTORS = {
    "60 columns": Shape(columns=60),
    "2 settings": Shape(settings=2),
    "5 settings": Shape(settings=5),
    "no index": Shape(options={"indexes": ()}),
    "5 million records": Shape(history=5_000_000),
}
"""One difference to the base cell each, for ours and the limit."""

LARGE = Shape(large=True)
LARGE_BULK = 1000
CAP = 60.0


def cells(systems: Sequence[System] | None = None) -> Iterator[Cell]:
    """Yield the cells of the real run."""
    every = list(systems or SYSTEMS.values())
    compared = [system for system in every if system.name in COMPARED]
    for workload in workloads.some(10_000).values():
        # Single rows are judged by their paired difference, to 0.3 microseconds.
        rounds = 300 if workload.rows == 1 else 15
        yield Cell("base", workload, Shape(), every, rounds, CAP)
    for factor, shape in FACTORS.items():
        for workload in workloads.some(10_000).values():
            rounds = 60 if workload.rows == 1 else 9
            yield Cell(factor, workload, shape, compared, rounds, CAP)
    for name in ("update", "bulk update"):
        workload = workloads.some(LARGE_BULK)[name]
        large = [system for system in every if system.name in (*COMPARED, "sparse")]
        yield Cell("8 kB value", workload, LARGE, large, 60 if workload.rows == 1 else 9, CAP)


def quick_cells() -> Iterator[Cell]:
    """Yield the base cell with fewer rows and rounds, to see that everything runs."""
    for workload in workloads.some(200).values():
        yield Cell("base", workload, Shape(), list(SYSTEMS.values()), 2, 5)
