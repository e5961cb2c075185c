"""What `make matrix` covers and how it tells."""

import configparser
import re
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
    assert set(re.findall(r"Python :: (3\.\d+)", classifiers)) == {cell.python for cell in CELLS}


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
        "PostgreSQL  driver   Alembic  SQLAlchemy  Python  result                        seconds\n"
        "18          psycopg  newest   2.0.*       3.99    skipped: no Python 3.99 here\n"
    ) == capsys.readouterr().out


def test_table() -> None:
    """Columns are as wide as what stands in them."""
    assert (
        "PostgreSQL  driver   Alembic  SQLAlchemy  Python   result    seconds\n"
        "14.23       asyncpg  1.20.1   2.0.58      3.10.13  9 passed  12"
    ) == table([Row("14.23", "asyncpg", "1.20.1", "2.0.58", "3.10.13", "9 passed", "12")])
