"""Pages that are done as they stand: files are written, commands run, what they print compared."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Database

DIRECTORY = "/home/ann/shop"
BLOCK = re.compile(r"^```(python|ini|sh|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"`([\w./]+\.(?:py|ini))`")


@dataclass(frozen=True)
class Block:
    """A block of the page; a file is named in the paragraph before it."""

    kind: str
    text: str
    file: str


def blocks(page: str) -> Iterator[Block]:
    for found in BLOCK.finditer(page):
        kind, text = found.groups()
        *_, paragraph = page[: found.start()].strip().split("\n\n")
        file = FILE.findall(paragraph)[0] if kind in ("python", "ini") else ""
        yield Block(kind, text, file)


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
        if block.kind == "sh":
            self.run(block.text)
        elif block.kind == "console":
            assert lasting(block.text) == lasting(ours(self.session(block.text), self))
        else:
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
