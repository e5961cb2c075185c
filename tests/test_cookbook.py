"""docs/cookbook.md, run: every recipe on a database of its own, as its reader would run it."""

import itertools
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Database, _database
from tests.forks import Forks, forks
from tests.pages import Block, blocks, read
from tests.project import TEMPLATE
from tools import postgres

IMPORTS = """
import fastapi, flask, httpx, psycopg, pytest, sqlalchemy.ext.asyncio, sqlmodel
import alembic_audit.cli.doctor, alembic_audit.cli.log, alembic_audit.cli.past
import alembic_audit.cli.status, alembic_audit.reading.export, alembic_audit.testing
"""
"""What recipes import, once for all of them."""

PSQL = ["-X", "-q", "-P", "footer=off", "-P", "null=NULL", "-v", "SHOW_CONTEXT=never"]

# What goes to a shell as a whole, it runs itself.
BASH = """
alembic() { "$PYTHON" -m alembic "$@"; }
psql() { command "$BINDIR/psql" -d "$DSN" "${PSQL[@]}" "$@"; }
"""

COMMAND = re.compile(
    r"(?P<command>(?:alembic|alembic-audit|pytest|python) [^|&;<>$*]*?)"
    r"(?: > (?P<file>\S+)|(?: 2>&1)? \| (?P<filter>.*))?"
)
"""What a fork runs, and what becomes of its output."""

ELSEWHERE = ("ALEMBIC_CONFIG", "COLUMNS", "FORCE_COLOR", "NO_COLOR", "PYTEST_")

_numbers = itertools.count()


def sections() -> tuple[str, dict[str, str]]:
    """Return what stands before the first recipe, and the recipes by their headings."""
    first, *others = re.split(r"^### ", read("cookbook.md"), flags=re.MULTILINE)
    # What follows a recipe may be the heading of a group of recipes.
    split = [re.split(r"^## ", one, flags=re.MULTILINE)[0].partition("\n") for one in others]
    assert len(split) == len({title for title, _, _ in split}), "two recipes have one title"
    return first, {title: text for title, _, text in split}


SETUP, RECIPES = sections()


class Kitchen:
    """A directory and a database, where a reader runs what a page says."""

    def __init__(self, forks: Forks, directory: Path, database: Database) -> None:
        self.forks = forks
        self.directory = directory
        self.database = database
        self.code = 0
        assert database.server.bindir is not None
        inherited = postgres._environment(database.server.bindir)
        kept = {name: inherited[name] for name in inherited if not name.startswith(ELSEWHERE)}
        url = database.url("psycopg").render_as_string(hide_password=False)
        root = str(Path(__file__).parents[1])
        self.environment = kept | {
            "DATABASE_URL": url,
            "DSN": database.server.dsn(database.name),
            "BINDIR": str(database.server.bindir),
            "PYTHON": sys.executable,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": root,
            "PGTZ": "UTC",
        }

    def cook(self, text: str) -> tuple[int, int]:
        """Run the blocks of a text; return how many ran, and how many outputs were compared."""
        found = blocks(text)
        ran = compared = 0
        nothing = Block("", "", "")
        around = zip([nothing, *found], found, [*found[1:], nothing], strict=False)
        for before, block, after in around:
            if "text" == block.language:
                assert before.language in ("python", "sql"), block.text
                continue
            expected = after.text if "text" == after.language else ""
            outputs = self.run(block, expected)
            ran += len(outputs)
            for wanted, printed in outputs:
                compared += bool(wanted)
                assert wanted == printed, block.text
        return ran, compared

    def run(self, block: Block, expected: str) -> list[tuple[str, str]]:
        """Run one block; return what each of its commands should print, and what it did."""
        if wanted := re.match(r"# (\S+\.\w+)(, at the end)?\n", block.text):
            path = self.directory / wanted[1]
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_text(f"{path.read_text()}\n\n{block.text}" if wanted[2] else block.text)
            assert not expected, f"a file prints nothing: {expected}"
            return []
        if "console" == block.language:
            assert not expected, f"the output of a console block stands in it: {expected}"
            return self.console(block.examples())
        if "sql" == block.language:
            return [(expected, self.bash("psql", block.text))]
        assert "python" == block.language, f"a block of {block.language!r}"
        path = self.directory / f"script_{next(_numbers)}.py"
        path.write_text(block.text)
        return [(expected, self.fork("python", path.name))]

    def console(self, examples: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Run commands; one that fails in silence is followed by a question for its exit code."""
        outputs = []
        for (line, expected), (following, _) in zip(
            examples, [*examples[1:], ("", "")], strict=True
        ):
            printed = self.command(line)
            assert printed or 0 == self.code or "echo $?" == following, f"{line}: {self.code}"
            outputs.append((expected, printed))
        return outputs

    def command(self, line: str) -> str:
        """Run a command line; return what it printed."""
        found = COMMAND.fullmatch(line)
        if found is None:
            return self.bash(line)
        printed = self.fork(*shlex.split(found["command"]))
        if found["file"]:
            (self.directory / found["file"]).write_text(printed)
            return ""
        return self.bash(found["filter"], printed) if found["filter"] else printed

    def fork(self, *command: str) -> str:
        self.code, printed = self.forks.run(self.directory, *command, environment=self.environment)
        return self.shown(printed)

    def bash(self, command: str, stdin: str = "") -> str:
        done = subprocess.run(
            ["bash", "-c", f"PSQL=({' '.join(PSQL)})\n{BASH}\n(exit {self.code}); {command}"],
            cwd=self.directory,
            env=self.environment,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            check=False,
        )
        self.code = done.returncode
        return self.shown(done.stdout)

    def shown(self, text: str) -> str:
        """Return what was printed, as the page has it: without blanks at the ends of lines."""
        user = self.database.url().username
        text = text.replace(self.database.name, "shop").replace(f"'{user}'", "'postgres'")
        return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).rstrip("\n") + "\n" * bool(text)


@pytest.fixture(scope="module")
def commands() -> Iterator[Forks]:
    with forks(IMPORTS) as running:
        yield running


@pytest.fixture(scope="module")
def shop(
    commands: Forks,
    server: postgres.Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, Database]]:
    """What the page begins with, run once; recipes get copies."""
    if server.bindir is None:
        pytest.skip("no psql for this server")
    directory = tmp_path_factory.mktemp("shop")
    (directory / "migrations" / "versions").mkdir(parents=True)
    (directory / "migrations" / "script.py.mako").write_text(TEMPLATE)
    with _database(server) as database:
        Kitchen(commands, directory, database).cook(SETUP)
        yield directory, database


@pytest.fixture
def kitchen(
    commands: Forks,
    shop: tuple[Path, Database],
    server: postgres.Server,
    tmp_path: Path,
) -> Iterator[Kitchen]:
    directory, begun = shop
    name = f"{begun.name}_{next(_numbers)}"
    shutil.copytree(directory, tmp_path / "shop")
    server.create_database(name, template=begun.name)
    yield Kitchen(commands, tmp_path / "shop", Database(name, server))
    server.drop_database(name)


@pytest.mark.parametrize("title", RECIPES)
def test_recipe(title: str, kitchen: Kitchen, server: postgres.Server) -> None:
    """Each recipe of the page runs, and prints what stands there."""
    text = RECIPES[title]
    try:
        ran, compared = kitchen.cook(text)
    finally:
        # Roles are the server's.
        for role in re.findall(r"CREATE ROLE (\w+)", text):
            server.run("psql", "-qc", f"DROP OWNED BY {role}", database=kitchen.database.name)
            server.run("psql", "-qc", f"DROP ROLE {role}")
    assert ran
    assert compared, "a recipe shows what it prints"
