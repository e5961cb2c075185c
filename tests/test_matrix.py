"""What `make matrix` covers and how it tells."""

import configparser
import platform
import re
import sys
from pathlib import Path

import pytest

from tests.test_drivers import DRIVERS
from tools import matrix, postgres
from tools.matrix import CELLS, CellError, Row, find_python, table

SETUP = configparser.ConfigParser()
SETUP.read(Path(__file__).parents[1] / "setup.cfg")


def test_every_version_and_driver_has_a_cell() -> None:
    """Each major of PostgreSQL, each driver and each Python that setup.cfg names."""
    classifiers = SETUP["metadata"]["classifiers"]
    assert set(postgres.WHEELS) == {cell.postgresql for cell in CELLS}
    assert set(DRIVERS) == {name for cell in CELLS for name in cell.driver.split()}
    minors = {".".join(cell.python.split(".")[:2]) for cell in CELLS}
    assert set(re.findall(r"Python :: (3\.\d+)", classifiers)) == minors


def test_oldest_and_newest_python_run_everything() -> None:
    """Debian 12 has 3.11.2, whose standard library lacks what 3.10.13 and 3.11.4 have."""
    pythons = re.findall(r"Python :: (3\.\d+)", SETUP["metadata"]["classifiers"])
    wanted = {min(pythons, key=_minor), "3.11.2", max(pythons, key=_minor)}
    assert wanted <= {cell.python for cell in CELLS if cell.tests == "all"}


def _minor(version: str) -> int:
    return int(version.split(".")[1])


def test_one_release_of_a_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release is found by its number, as a minor version is; another release is none."""
    pytest.importorskip("ensurepip")
    monkeypatch.setenv("PATH", str(Path(sys.executable).resolve().parent))
    release = platform.python_version()
    assert find_python(release) == find_python(release.rpartition(".")[0])
    with pytest.raises(CellError) as caught:
        find_python(f"{release}9")
    assert f"no Python {release}9 here" == str(caught.value)


@pytest.mark.parametrize("name", ["alembic", "sqlalchemy"])
def test_lower_bound_has_a_cell(name: str) -> None:
    """The oldest version that may be installed meets the oldest and the newest PostgreSQL."""
    (bound,) = re.findall(rf"^{name}>=(\S+)", SETUP["options"]["install_requires"], re.MULTILINE)
    wanted = re.compile(rf"{re.escape(bound)}(\.0)?$")
    assert any(wanted.match(getattr(cell, name)) for cell in CELLS if cell.postgresql == 14)
    assert any(getattr(cell, name) == "" for cell in CELLS if cell.postgresql == 14)
    assert any(getattr(cell, name) == "" for cell in CELLS if cell.postgresql == 18)


def test_a_python_that_is_not_here() -> None:
    """It is an error that names the version; the cell is skipped then."""
    with pytest.raises(CellError) as caught:
        find_python("3.99")
    assert "no Python 3.99 here" == str(caught.value)


def test_a_failure_is_told_from_a_cell_that_cannot_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Nothing ran is a failure too, and the table says why."""
    cell = matrix.Cell(18, "psycopg", "", "2.0.*", "3.99")
    monkeypatch.setattr(matrix, "BUILD", tmp_path)
    monkeypatch.setattr(matrix, "CELLS", [cell])
    monkeypatch.setattr("sys.argv", ["matrix"])
    assert 1 == matrix.main()
    assert (
        "PostgreSQL  driver   Alembic  SQLAlchemy  Python  tests  result"
        "                        seconds\n"
        "18          psycopg  newest   2.0.*       3.99    core   skipped: no Python 3.99 here\n"
    ) == capsys.readouterr().out


def test_table() -> None:
    """Columns are as wide as what stands in them."""
    assert (
        "PostgreSQL  driver   Alembic  SQLAlchemy  Python   tests  result    seconds\n"
        "14.23       asyncpg  1.20.1   2.0.58      3.10.13  all    9 passed  12"
    ) == table([Row("14.23", "asyncpg", "1.20.1", "2.0.58", "3.10.13", "all", "9 passed", "12")])
