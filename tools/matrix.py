"""Run the tests at the boundaries of what is supported, and print a table.

    python -m tools.matrix          every cell
    python -m tools.matrix 14 3.10  the cells that hold each of these words

Not the product of all versions: each oldest and newest version meets oldest and newest ones of the
others. The oldest Python, the newest ones, and 3.11.2, which Debian 12 has, run every test; the
other cells run the tests that are marked `core`. Environments are kept in build/matrix. A cell
whose Python is not on this machine, or whose PostgreSQL cannot be had, is skipped and says so.
"""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import astuple, dataclass
from pathlib import Path

from tools import postgres

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "matrix"

Words = tuple[str, str, str, str, str, str]


@dataclass(frozen=True)
class Cell:
    """One combination; versions as requirements have them, "" for the newest.

    A Python is a minor version or, where a patch release matters, such as "3.11.2". The tests are
    "core" or "all".
    """

    postgresql: int
    driver: str
    alembic: str
    sqlalchemy: str
    python: str
    tests: str = "core"

    def words(self) -> Words:
        """Return the versions as the table shows them."""
        newest = "newest"
        return (
            str(self.postgresql),
            self.driver,
            self.alembic or newest,
            self.sqlalchemy or newest,
            self.python,
            self.tests,
        )


CELLS = (
    Cell(14, "psycopg2", "1.18.4", "2.0.0", "3.10"),
    Cell(18, "asyncpg", "", "2.0.*", "3.10"),
    Cell(15, "psycopg", "1.19.*", "2.1.*", "3.11"),
    Cell(18, "psycopg2", "1.18.4", "2.1.*", "3.11"),
    Cell(16, "psycopg_async", "1.19.*", "2.0.*", "3.12"),
    Cell(14, "psycopg", "", "", "3.13"),
    Cell(17, "asyncpg", "", "", "3.13"),
    Cell(18, "psycopg2 psycopg", "", "", "3.10", "all"),
    Cell(18, "psycopg2 psycopg", "", "", "3.11.2", "all"),
    Cell(18, "psycopg2 psycopg", "", "", "3.13", "all"),
    Cell(18, "psycopg2 psycopg", "", "", "3.14", "all"),
)


@dataclass(frozen=True)
class Row:
    """What the table says of a cell; versions are those that were installed."""

    postgresql: str
    driver: str
    alembic: str
    sqlalchemy: str
    python: str
    tests: str
    result: str
    seconds: str


class CellError(RuntimeError):
    """A cell cannot be run here; the message says why."""


def find_python(version: str) -> Path:
    """Find an interpreter that can make virtual environments.

    Args:
        version: a minor version such as "3.12", or one release such as "3.11.2".

    Returns:
        Its path.

    Raises:
        CellError: there is none on PATH or with pyenv.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    minor = ".".join(version.split(".")[:2])
    # The first on PATH may be another release than the one that is wanted.
    on_path = [Path(entry) / f"python{minor}" for entry in os.get_exec_path()]
    script = "import ensurepip, sys, venv; print('%d.%d.%d' % sys.version_info[:3])"
    for candidate in (*on_path, *pyenv.glob(f"versions/{minor}.*/bin/python")):
        if not os.access(candidate, os.X_OK):
            continue
        # pyenv has a shim on PATH for every version, which fails for most of them.
        tried = subprocess.run(
            [candidate, "-c", script], capture_output=True, text=True, check=False
        )
        if f"{tried.stdout.strip()}.".startswith(f"{version}."):
            return candidate
    raise CellError(f"no Python {version} here")


def environment(cell: Cell, log: Path) -> Path:
    """Make the virtual environment of a cell, unless it is there.

    Args:
        cell: What to install.
        log: Where pip writes.

    Returns:
        Its interpreter.

    Raises:
        CellError: there is no such Python, or the installation failed.
    """
    parts = (cell.python, cell.alembic or "newest", cell.sqlalchemy or "newest")
    directory = BUILD / "-".join(parts).replace("*", "x")
    python = directory / "bin" / "python"
    done = directory / "done"
    if done.exists() and done.stat().st_mtime > (ROOT / "setup.cfg").stat().st_mtime:
        return python
    base = find_python(cell.python)
    shutil.rmtree(directory, ignore_errors=True)
    wanted = [
        f"{name}=={version}" if version else name
        for name, version in (("alembic", cell.alembic), ("sqlalchemy", cell.sqlalchemy))
    ]
    commands: tuple[list[str | Path], ...] = (
        [base, "-m", "venv", directory],
        [python, "-m", "pip", "install", "--quiet", "--upgrade", "-e", ".[test]", *wanted],
    )
    with log.open("a") as output:
        for command in commands:
            status = subprocess.run(command, cwd=ROOT, stdout=output, stderr=output, check=False)
            if status.returncode:
                raise CellError(f"installing failed, see {log.relative_to(ROOT)}")
    done.touch()
    return python


def run(cell: Cell, number: int) -> Row:
    """Run the tests of a cell.

    Args:
        cell: The cell.
        number: Its number, which names the log.

    Returns:
        What came of it.
    """
    log = BUILD / f"{number}.log"
    log.write_text("")
    try:
        bindir = postgres.of_major(cell.postgresql)
        python = environment(cell, log)
    except (CellError, postgres.ServerError) as error:
        kind = "FAILED" if "failed" in str(error) else "skipped"
        return Row(*cell.words(), f"{kind}: {str(error).splitlines()[0]}", "")
    started = time.monotonic()
    chosen = {"PG_BINDIR": str(bindir), "ALEMBIC_AUDIT_TEST_DRIVERS": cell.driver}
    marked = {"core": "core", "all": "not real"}[cell.tests]
    arguments = "-n logical --maxprocesses 4 --dist worksteal tests"
    with log.open("a") as output:
        status = subprocess.run(
            [python, "-m", "pytest", "-q", "-m", marked, *arguments.split()],
            cwd=ROOT,
            env={k: v for k, v in os.environ.items() if k != "ALEMBIC_AUDIT_TEST_URL"} | chosen,
            stdout=output,
            stderr=output,
            check=False,
        ).returncode
    last = log.read_text().strip().splitlines()[-1].partition(" in ")[0].strip("= ")
    result = last if status == 0 else f"FAILED: {last}, see {log.relative_to(ROOT)}"
    return Row(*_versions(python, bindir, cell), result, f"{time.monotonic() - started:.0f}")


def _versions(python: Path, bindir: Path, cell: Cell) -> Words:
    script = (
        "import platform; from importlib.metadata import version;"
        "print(version('alembic'), version('sqlalchemy'), platform.python_version())"
    )
    said = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True)
    alembic, sqlalchemy, version = said.stdout.split()
    return postgres.version_text(bindir), cell.driver, alembic, sqlalchemy, version, cell.tests


def table(rows: list[Row]) -> str:
    """Return rows as text in columns."""
    head = Row(
        "PostgreSQL", "driver", "Alembic", "SQLAlchemy", "Python", "tests", "result", "seconds"
    )
    lines = [astuple(row) for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def main() -> int:
    """Run the cells that the command line picks; 1 if one failed, or if nothing ran."""
    BUILD.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, cell in enumerate(CELLS, 1):
        words = " ".join(cell.words()).split()
        if set(sys.argv[1:]) <= set(words):
            print(f"cell {number}: {' '.join(words)} ...", file=sys.stderr, flush=True)
            rows.append(run(cell, number))
    print(table(rows))
    ran = [row for row in rows if not row.result.startswith("skipped")]
    return 1 if not ran or any(row.result.startswith("FAILED") for row in ran) else 0


if __name__ == "__main__":
    sys.exit(main())
