"""Upgrades and downgrades under writers at every isolation level: nothing is missing or double.

The long run is 1,000 steps with 4 writers at each level; it takes up to ten minutes:

    ALEMBIC_AUDIT_STORM_STEPS=1000 ALEMBIC_AUDIT_STORM_WRITERS=4 python -m pytest -s \
        tests/test_storm.py
"""

import os
import random
import time
from pathlib import Path

from tests import storm
from tests.conftest import Database
from tests.project import Project

STEPS = int(os.environ.get("ALEMBIC_AUDIT_STORM_STEPS", "40"))
PAUSE = 0.02 if STEPS < 1000 else 0.4
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
    with storm.Writers(database, WRITERS, pause=PAUSE) as writers:
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
    assert not writers.failures, writers.failures
    project.check(metadata[-1])
    found = storm.read(project.engine)
    records = sum(map(len, found.records.values()))
    print(f"\n{steps} steps in {took:.0f} s, {records} records, {dict(writers.seen())}")
    assert [] == storm.compare(writers.done(), found)
    assert [(0,)] == project.rows(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    )


def test_what_is_wrong_is_seen(tmp_path: Path, database: Database) -> None:
    """The control: each way to lose, to double and to forge a record is found by the comparison."""
    project = Project(tmp_path, database)
    project.migrate(storm.last())
    hot = ", ".join(f"({number})" for number in storm.HOT)
    project.execute(
        "SET LOCAL session_replication_role = replica", f"INSERT INTO account (id) VALUES {hot}"
    )
    second = "AFTER INSERT ON invoice FOR EACH ROW EXECUTE FUNCTION f_invoice()"
    with storm.Writers(database, 1, pause=0.01) as writers:
        writers.wait(20)
        project.execute("ALTER TABLE account DISABLE TRIGGER USER")
        writers.wait(20)
        project.execute("ALTER TABLE account ENABLE TRIGGER USER")
        project.execute(f"CREATE TRIGGER second {second}")
        writers.wait(20)
        project.execute("DROP TRIGGER second ON invoice")
    assert not writers.failures, writers.failures

    wrong = storm.compare(writers.done(), storm.read(project.engine))
    kinds = {line.split("(")[0] for line in wrong if not line.startswith("row")}
    assert {"no record of ", "2 records of "} == kinds
    assert any(line.startswith("row ") for line in wrong)
    for sabotage, said in {
        "UPDATE account_history SET s_who = 'x' WHERE audit_id = 1": "s_who of (",
        "UPDATE account_history SET mail = 'x' WHERE audit_id = 1": "mail of (",
        "UPDATE account_history SET stamp = 7 WHERE audit_id = 1": "1 records of ('account', 'I', ",
        "INSERT INTO account_history (audit_operation, audit_operation_timestamp, "
        "audit_transaction_id, audit_current_user, s_who, id) "
        "VALUES ('D', now(), 1, '', '', 2)": "1 records of ('account', 'D', 2, ",
    }.items():
        assert not [line for line in wrong if line.startswith(said)]
        with project.engine.connect() as connection:
            connection.exec_driver_sql(sabotage)
            found = storm.compare(writers.done(), storm.read_by(connection))
        assert [line for line in found if line.startswith(said)]
