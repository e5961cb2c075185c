"""The pages under docs/ and README.md, as they are read on a code host."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def links(page: Path) -> list[str]:
    """Return the targets of links, outside of code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    """A relative link is one from the page's own folder to a file, or to a heading of the page."""
    for link in links(page):
        if "://" not in link:
            file, _, anchor = link.partition("#")
            target = page.parent / file if file else page
            assert target.exists(), link
            if anchor:
                headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
                assert anchor in [slug(heading) for heading in headings], link


def slug(heading: str) -> str:
    """Return the anchor that a code host gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_tests_that_are_named_exist() -> None:
    """docs/security.md names tests as what shows it: each is in the file that it is linked to."""
    page = ROOT / "docs" / "security.md"
    named = re.findall(r"\[(test_\w+)(?:\.py)?\]\(([^)]+)\)", page.read_text())
    assert 20 < len(named)
    for name, link in named:
        file = (page.parent / link).resolve()
        assert f"def {name}(" in file.read_text() or name == file.stem, name
    attacks = {path.name for path in (ROOT / "tests" / "attacks").glob("test_*.py")}
    assert attacks == {Path(link).name for _, link in named if "/attacks/" in link}
