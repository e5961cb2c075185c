"""docs/tutorial.md, done as it stands."""

from pathlib import Path

from tests import pages
from tests.conftest import Database


def test_the_tutorial(tmp_path: Path, database: Database) -> None:
    """From the first file to the last command, what stands there is what happens."""
    reader = pages.reader_in(tmp_path, database)
    for block in pages.blocks(pages.read("tutorial.md")):
        if "/versions/" in block.file:
            assert block.text in (reader.directory / block.file).read_text()
        else:
            reader.follow(block)
