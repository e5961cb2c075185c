"""How Sphinx builds the documentation: `make docs`."""

import ast
import re
from pathlib import Path
from typing import Any

import alembic.op  # noqa: F401  (here: what it logs as it is imported, Sphinx would print)
from sphinx.application import Sphinx

import alembic_audit

ROOT = Path(__file__).parents[1]

project = "alembic_audit"
author = "the alembic_audit authors"
release = version = alembic_audit.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
default_role = "code"
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"alembic_audit {release}"
html_show_copyright = False

autodoc_member_order = "bysource"
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False


def signatures() -> dict[str, str]:
    """Return the signatures of our operations, as op.pyi has them."""
    tree = ast.parse((ROOT / "alembic_audit" / "op.pyi").read_text())
    return {
        f"alembic_audit.op.{node.name}": f"({ast.unparse(node.args)})"
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }


def signature(app: Sphinx, what: str, name: str, *_: Any) -> tuple[str, str] | None:
    """Give an operation its own signature; Alembic's is that of a proxy."""
    found = signatures().get(name)
    return (found, "") if found else None


def without_proxied(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Take the argument out of the operations that Alembic gives them."""
    if name.startswith("alembic_audit.op."):
        lines[:] = [line for line in lines if line.strip() != "operations: Given by Alembic."]


def links(app: Sphinx, name: object, *rest: Any) -> None:
    """Have links mean the site that are right on a code host: README.md, and folders."""
    source: list[str] = rest[-1]
    text = re.sub(r"\]\(((?:\.\./)*)\.\./README\.md", r"](\1readme.md", source[0])
    source[0] = re.sub(r"\[([^\]\n]+)\]\([\w/]+/\)", r"`\1`", text)


def setup(app: Sphinx) -> None:
    """Connect what is above, before napoleon reads the docstrings."""
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-process-docstring", without_proxied, priority=100)
    app.connect("source-read", links)
    app.connect("include-read", links)
