"""docs/reference: every public name, option and argument stands there, and nothing else does."""

import argparse
import ast
import dataclasses
import importlib
import re
from pathlib import Path

import pytest

import alembic_audit
from alembic_audit import reading
from alembic_audit.cli import parser
from alembic_audit.naming import CONVENTIONS
from alembic_audit.options import AuditOptions

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"


def documented() -> list[tuple[str, str]]:
    """Return the module and the name of each autodoc directive, in order."""
    found = []
    for page in sorted(REFERENCE.glob("*.md")):
        module = ""
        for kind, name in re.findall(r"^\.\. (\w+):: ([\w.]+)$", page.read_text(), re.MULTILINE):
            if kind == "currentmodule":
                module = name
            else:
                found.append((module, name))
    return found


def names(module: str) -> list[str]:
    return sorted(name for place, name in documented() if place == module)


def test_names_of_the_package() -> None:
    """What `from alembic_audit import ...` gives is documented once, and so is the reading API."""
    assert sorted(alembic_audit.__all__) == names("alembic_audit")
    assert set(reading.__all__) <= set(names("alembic_audit"))


def test_operations() -> None:
    """Every function of op.pyi is documented once."""
    tree = ast.parse((ROOT / "alembic_audit" / "op.pyi").read_text())
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert sorted(functions) == names("alembic_audit.op")


@pytest.mark.parametrize(("module", "name"), documented())
def test_what_is_documented_exists_and_says_what_it_is(module: str, name: str) -> None:
    """Nothing is on a page that cannot be imported, has no docstring, or one that is misread.

    A colon in the first line under Returns makes what stands before it the type.
    """
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, str) or found.__doc__
    assert not re.search(r"Returns:\n[^\n]*:\s", found.__doc__ or "")


def test_options() -> None:
    """The table in README.md, which the site includes, has every option and no other."""
    text = (ROOT / "README.md").read_text()
    table = text[text.index("| option |") : text.index("### Naming conventions")]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    options = sorted(re.findall(r"`(\w+)`", " ".join(rows)))
    assert sorted(["enabled", *(one.name for one in dataclasses.fields(AuditOptions))]) == options


def test_naming_conventions() -> None:
    """The same of the naming conventions."""
    text = (ROOT / "README.md").read_text()
    table = text[text.index("### Naming conventions") : text.index("### Operations")]
    keys = re.findall(r"^\| `(audit\.\w+)` \|", table, re.MULTILINE)
    assert [*CONVENTIONS, "audit.setting"] == keys


def test_arguments_after_x() -> None:
    """Every `-x` argument that the code asks for is on the page, and no other."""
    asked = set()
    for path in (ROOT / "alembic_audit").rglob("*.py"):
        asked |= set(re.findall(r'(?<!_)x_argument\(.*?, "(\w+)"\)', path.read_text()))
    page = (REFERENCE / "environment.md").read_text()
    assert asked == set(re.findall(r"^\| `-x (\w+)=yes`", page, re.MULTILINE))


def test_arguments_of_configure() -> None:
    """Every argument of context.configure that the code reads, and only these are called ours."""
    read = set()
    for path in (ROOT / "alembic_audit").rglob("*.py"):
        read |= set(re.findall(r'opts\.get\("(\w+)"\)', path.read_text()))
    page = (REFERENCE / "environment.md").read_text()
    named = dict(re.findall(r"^\| `(\w+)[=`].*?\| (Alembic's|ours) \|", page, re.MULTILINE))
    assert {"target_metadata", "alembic_module_prefix"} == read - set(named)
    assert {"audit_context", "audit_default_schema"} == {
        name for name, whose in named.items() if whose == "ours"
    }


def row(action: argparse.Action) -> str:
    """Return the line of a table for an argument."""
    if not action.option_strings:
        return f"| `{action.metavar}` | {action.help} |"
    shown = ", ".join(f"`{name}`" for name in action.option_strings)
    if action.nargs != 0:
        shown += f" `{action.metavar or action.dest.upper()}`"
    return f"| {shown} | {action.help} |"


def test_commands() -> None:
    """Every command, its arguments and their meaning are those of `alembic-audit --help`."""
    (commands,) = (
        action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    helps = {one.dest: str(one.help) for one in commands._choices_actions}
    page = (REFERENCE / "commands.md").read_text()
    sections = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    of_all = rows(next(one for one in sections if one.startswith("Which database")))
    own = [
        one.removeprefix("alembic-audit ") for one in sections if one.startswith("alembic-audit")
    ]
    assert sorted(commands.choices) == sorted(section.split()[0] for section in own)
    for section in own:
        name = section.split()[0]
        assert helps[name].lower() + "." == section.split("\n")[2].lower()
        actions = [one for one in commands.choices[name]._actions if one.dest != "help"]
        wanted = [row(one) for one in actions if row(one) not in of_all and one.dest != "name"]
        assert wanted == rows(section)
        if name == "log":
            assert of_all == [row(one) for one in actions if row(one) in of_all]


def rows(section: str) -> list[str]:
    return re.findall(r"^\| `.*$", section, re.MULTILINE)
