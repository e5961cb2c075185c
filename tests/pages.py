"""The pages in docs/: their blocks of code, and a reader who does what a page says."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Database

DOCS = Path(__file__).parents[1] / "docs"
DIRECTORY = "/home/ann/shop"

_BLOCK = re.compile(
    r"(?:^<!-- (?P<name>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_FILE = re.compile(r"`([\w./]+\.(?:py|ini))`")


@dataclass(frozen=True)
class Block:
    """A fenced block, shown or within a comment.

    Attributes:
        name: the HTML comment of the line before, or "".
        language: what stands after the fence, or "".
        text: the lines between the fences.
        file: of Python or INI, the first file that the paragraph before names, or "".
    """

    name: str
    language: str
    text: str
    file: str = ""

    def examples(self) -> list[tuple[str, str]]:
        """Return the commands of a console block, each with what it prints."""
        before, *examples = re.split(r"^\$ ", self.text, flags=re.MULTILINE)
        assert not before, f"output of no command: {before!r}"
        parts = [one.partition("\n") for one in examples]
        return [(command, output) for command, _, output in parts]


def read(name: str) -> str:
    """Return the text of a page."""
    return (DOCS / name).read_text()


def blocks(text: str, language: str | None = None, name: str | None = None) -> list[Block]:
    """Return the blocks of a text in their order; all, or those of one language or name."""
    fences = re.findall(r"^\s*(?:```|~~~)", text, re.MULTILINE)
    assert 2 * len(_BLOCK.findall(text)) == len(fences), "a fence of another form"
    found = [
        Block(one["name"] or "", one["language"], one["text"], _file(one))
        for one in _BLOCK.finditer(text)
    ]
    return [one for one in found if language in (None, one.language) and name in (None, one.name)]


def _file(block: re.Match[str]) -> str:
    if block["language"] not in ("python", "ini"):
        return ""
    *_, paragraph = block.string[: block.start()].strip().split("\n\n")
    return next(iter(_FILE.findall(paragraph)), "")


@dataclass(frozen=True)
class Reader:
    """Somebody who does what the page says, in a directory of their own."""

    directory: Path
    environment: dict[str, str]

    def run(self, command: str) -> str:
        """Run a line, and return what a terminal would show.

        Raises:
            AssertionError: It failed, and did not say so.
        """
        done = subprocess.run(
            command,
            shell=True,
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0 or re.search("FAILED|ERROR|error:", done.stdout), done.stdout
        return done.stdout

    def follow(self, block: Block) -> None:
        """Write the file of a block, or run its commands and compare what they print."""
        if block.language == "sh":
            self.run(block.text)
        elif block.language == "console":
            assert lasting(block.text) == lasting(ours(self.session(block.text), self))
        elif block.language in ("python", "ini"):
            assert block.file, f"no file is named before:\n{block.text}"
            (self.directory / block.file).write_text(block.text)

    def session(self, text: str) -> str:
        """Run the commands of a block; return it with what they print now."""
        shown = []
        for line in text.splitlines():
            if line.startswith("$ "):
                shown += [line + "\n", self.run(line.removeprefix("$ "))]
        return "".join(shown)


def reader_in(directory: Path, database: Database) -> Reader:
    """Return who works in a directory, on a database."""
    url, bindir = database.url(), database.server.bindir
    if bindir is None:
        pytest.skip("no psql for this server")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    places = {
        "PGHOST": url.host or url.query.get("host"),
        "PGPORT": url.port,
        "PGUSER": url.username,
    }
    return Reader(
        directory,
        {
            **kept,
            **{name: str(value) for name, value in places.items() if value},
            "PGPASSWORD": url.password or "",
            "PGDATABASE": database.name,
            "PGTZ": "UTC",
            "DATABASE_URL": "postgresql+psycopg2://",
            "PATH": f"{Path(sys.executable).parent}:{bindir}:{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "COLUMNS": "120",
        },
    )


def ours(text: str, reader: Reader) -> str:
    """Put the names of the page for those of this directory, database and role."""
    text = text.replace(str(reader.directory), DIRECTORY)
    text = re.sub(rf"\b{reader.environment['PGDATABASE']}\b", "shop", text)
    return re.sub(rf"\b{reader.environment['PGUSER']}\b", "postgres", text)


def lasting(text: str) -> str:
    """Leave out what differs from run to run: times, transactions, spaces at the end of lines."""
    text = re.sub(r" +$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?\+00", "TIME", text)
    return re.sub(r"TIME\t\d+\t", "TIME\tNUMBER\t", text)
