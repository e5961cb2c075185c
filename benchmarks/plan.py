"""What is measured with what."""

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.measure import Group
from benchmarks.systems import LIMIT, SYSTEMS, System, without
from benchmarks.tables import Shape
from benchmarks.workloads import Workload, some

OURS = ["statement", "row"]
COMPARED = ["none", LIMIT, *OURS]

LONG = 5_000_000

FACTORS = {
    "60 columns": Shape(columns=60),
    "2 settings": Shape(settings=2),
    "5 settings": Shape(settings=5),
    "no index": Shape(options={"indexes": ()}),
    "5 million records": Shape(history=LONG),
}
"""One difference to the base cell each, for ours and the limit."""

LARGE = Shape(large=True)
SPARSE = System(
    "sparse",
    "alembic_audit, sparse_columns",
    SYSTEMS["row"].install,
    {"level": "row", "sparse_columns": ("doc",)},
)
LENGTHS = [
    SYSTEMS["statement"],
    replace(SYSTEMS["statement"], name="long", records=LONG),
    replace(SYSTEMS["no_index"], name="long_no_index", records=LONG),
]
"""What the length of the history costs by itself, in the same rounds."""
CAP = 60.0

STATEMENT = {"level": "statement"}
CLASSIC = {"audit_columns": "classic"}
INVOKER = "ALTER FUNCTION public_item_audit() SECURITY INVOKER"
JIT = "ALTER FUNCTION public_item_audit() RESET jit"
KEY = 'DROP TRIGGER "00_audit_item_key" ON item'
PARTS = [
    SYSTEMS["statement"],
    System(
        "definer",
        "writers need no right to the trail (`SECURITY DEFINER`)",
        without(INVOKER),
        STATEMENT,
    ),
    System("jit", "a bulk statement slows none after it (`jit`)", without(JIT), STATEMENT),
    System("key", "a key that changes is recorded", without(KEY), STATEMENT),
    replace(SYSTEMS["no_index"], title="the history of a row has an index"),
    System(
        "classic",
        "records have a number, role and transaction",
        SYSTEMS["statement"].install,
        STATEMENT | CLASSIC,
    ),
    System(
        "bare",
        "all of these",
        without(INVOKER, JIT, KEY),
        STATEMENT | CLASSIC | {"indexes": ()},
    ),
]
"""Ours, and then ours without one of the things that a trail promises."""


def _work(bulk: int, single_rounds: int, bulk_rounds: int) -> list[tuple[Workload, int]]:
    return [
        (workload, single_rounds if workload.rows == 1 else bulk_rounds)
        for workload in some(bulk).values()
    ]


def groups() -> Iterator[Group]:
    """Yield what the real run measures."""
    every = list(SYSTEMS.values())
    compared = [SYSTEMS[name] for name in COMPARED]
    # Single rows are judged by their paired difference, to 0.3 microseconds.
    yield Group("base", Shape(), every, _work(10_000, 300, 15), CAP)
    for factor, shape in FACTORS.items():
        yield Group(factor, shape, compared, _work(10_000, 60, 9), CAP)
    single = [each for each in _work(1000, 60, 9) if each[0].rows == 1]
    yield Group("length", Shape(), LENGTHS, single, CAP)
    single = [each for each in _work(1000, 150, 9) if each[0].rows == 1]
    yield Group("parts", Shape(), PARTS, single, CAP)
    updates = [each for each in _work(1000, 60, 9) if each[0].operation == "update"]
    yield Group("8 kB value", LARGE, [*compared, SPARSE], updates, CAP)


def quick_groups() -> Iterator[Group]:
    """Yield the base cell with fewer rows and rounds, to see that everything runs."""
    yield Group("base", Shape(), list(SYSTEMS.values()), _work(200, 2, 2), 5)
    yield Group("parts", Shape(), PARTS, _work(200, 2, 2)[:1], 5)
