"""The code blocks of the pages in docs/, for the tests that run them."""

import re
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"

_BLOCK = re.compile(
    r"(?:^<!-- (?P<name>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block, shown or within a comment.

    Attributes:
        name: the HTML comment of the line before, or "".
        language: what stands after the fence, or "".
        text: the lines between the fences.
    """

    name: str
    language: str
    text: str

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
        Block(one["name"] or "", one["language"], one["text"]) for one in _BLOCK.finditer(text)
    ]
    return [one for one in found if language in (None, one.language) and name in (None, one.name)]
