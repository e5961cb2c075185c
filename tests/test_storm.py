"""Upgrades and downgrades under writers at every isolation level: nothing is missing or double.

The long run is 1,000 steps with 4 writers at each level; it takes up to ten minutes:

    ALEMBIC_AUDIT_STORM_STEPS=1000 ALEMBIC_AUDIT_STORM_WRITERS=4 python -m pytest -s \
        tests/test_storm.py
"""

import os
import random
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests import storm
from tests.conftest import Database
from tests.project import Project

STEPS = int(os.environ.get("ALEMBIC_AUDIT_STORM_STEPS", "40"))
WRITERS = int(os.environ.get("ALEMBIC_AUDIT_STORM_WRITERS", "2"))


def test_storm(tmp_path: Path, database: Database) -> None:
    """Each write that was committed while there was a trail is recorded once, and none failed."""
    project = Project(tmp_path, database)
    metadata = storm.revisions(project)
    first, last = 1, len(metadata)
    project.downgrade("0001")
    project.execute(f"INSERT INTO account (id) VALUES {', '.join(f'({n})' for n in storm.HOT)}")
    chance, at, way = random.Random(STEPS), first, 1
    started = time.monotonic()
    with storm.Writers(database, WRITERS) as writers:
        steps = 0
        while (steps < STEPS or at < last) and not writers.failures:
            if at in (first, last):
                way = 1 if at == first else -1
            elif chance.random() < 0.05 and steps < STEPS:
                way = -way
            way = 1 if steps >= STEPS else way
            project.upgrade("+1") if way > 0 else project.downgrade("-1")
            at, steps = at + way, steps + 1
    took = time.monotonic() - started

    project.check_is_at(f"{at:04}")
    assert [] == writers.failures
    project.check(metadata[-1])
    found = storm.read(project.engine)
    records = sum(map(len, found.records.values()))
    print(f"\n{steps} steps in {took:.0f} s, {records} records, {dict(writers.seen())}")
    assert [] == storm.compare(writers.done(), found)
    assert [(0,)] == project.rows(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    )
