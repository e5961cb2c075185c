"""Another project's models under its own workload: optuna's relational storage."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.storages._rdb.models import BaseModel

from alembic_audit.tables import SPEC_KEY
from tests.catalogs import snapshot
from tests.conftest import Database
from tests.project import Project

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("default")]

TRIALS = 30


@pytest.fixture
def metadata() -> Iterator[sa.MetaData]:
    """optuna's metadata, copied, with every table audited."""
    audited = sa.MetaData()
    for table in BaseModel.metadata.sorted_tables:
        table.to_metadata(audited)
    audited.info["audit.defaults"] = {"enabled": True}
    yield audited


def _objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -10, 10)
    kind = trial.suggest_categorical("kind", ["a", "b"])
    trial.report(x, 0)
    trial.set_user_attr("seen", kind)
    return (x - 2) ** 2


def _columns(source: sa.Table) -> str:
    return ", ".join(f'"{name}"::text' for name in source.info[SPEC_KEY].columns)


def _live(project: Project, source: sa.Table) -> list[tuple[Any, ...]]:
    return project.rows(f'SELECT {_columns(source)} FROM "{source.name}"')


def _replayed(
    project: Project, source: sa.Table, first: list[tuple[Any, ...]]
) -> Counter[tuple[Any, ...]]:
    """Return what the trail of a table makes of the rows that it began with."""
    spec = source.info[SPEC_KEY]
    columns = _columns(source)
    key = [spec.columns.index(name) for name in spec.key]
    rows = {tuple(row[index] for index in key): row for row in first}
    for operation, *values in project.rows(
        f'SELECT audit_operation, {columns} FROM "{spec.audit_table}" ORDER BY audit_id'
    ):
        identity = tuple(values[index] for index in key)
        if operation == "T":
            rows.clear()
        elif operation == "D":
            del rows[identity]
        else:
            rows[identity] = tuple(values)
    return Counter(rows.values())


def test_the_trail_of_a_study_replays_to_the_live_tables(
    database: Database, tmp_path: Path, metadata: sa.MetaData, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every table audited, a study run, the trail replayed; then down, and nothing is left."""
    url = database.url().render_as_string(hide_password=False)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(url)
    storage.engine.dispose()
    # optuna keeps its schema by an alembic_version table of its own, which is not ours to touch.
    before = snapshot(database.engine)
    project = Project(tmp_path, database, version_table="audit_version", include_object=_ours)
    project.migrate(metadata)
    audited = [table for table in metadata.sorted_tables if "audit.is_audited" in table.info]
    first = {table.name: _live(project, table) for table in audited}

    storage = optuna.storages.RDBStorage(url)
    study = optuna.create_study(storage=storage, study_name="first")
    study.optimize(_objective, n_trials=TRIALS)
    other = optuna.create_study(storage=storage, study_name="second")
    other.optimize(_objective, n_trials=2)
    optuna.delete_study(study_name="second", storage=storage)
    storage.engine.dispose()

    records = 0
    for table in audited:
        spec = table.info[SPEC_KEY]
        assert Counter(_live(project, table)) == _replayed(project, table, first[table.name])
        records += project.rows(f'SELECT count(*) FROM "{spec.audit_table}"')[0][0]
    assert records > TRIALS
    project.check(metadata)

    for table in audited:
        project.execute(f'TRUNCATE "{table.info[SPEC_KEY].audit_table}"')
    project.downgrade("base")
    project.execute("DROP TABLE audit_version")
    project.engine.dispose()
    assert before == snapshot(database.engine)
    with capsys.disabled():
        print(f"\noptuna: {len(audited)} tables, {TRIALS + 2} trials, {records} records")


def _ours(item: Any, name: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:
    """Leave optuna's own version table alone."""
    return not (kind == "table" and name in ("alembic_version",))
