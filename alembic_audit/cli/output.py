"""How rows are printed: tables on a terminal, lines when piped, JSON Lines, CSV."""

import csv
import dataclasses
import itertools
import json
import re
import select
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from alembic_audit.cli.text import escaped, replaced, value_text
from alembic_audit.reading.database import RawJson

if TYPE_CHECKING:
    from rich.console import Console

ON_TERMINAL = 100
"""How many rows a terminal is shown where ``--limit`` does not say."""


@dataclasses.dataclass(frozen=True)
class Replaced:
    """A cell of values before and after, by column; the one before is missing where none was."""

    before: Mapping[str, Any]
    after: Mapping[str, Any]


_T = TypeVar("_T")


class Line(Protocol):
    """What is printed as one row."""

    def cells(self) -> Mapping[str, Any]:
        """Return the cells for people: text, numbers, None, or Replaced."""

    def flat(self) -> Mapping[str, Any]:
        """Return the fields of CSV."""

    def nested(self) -> Mapping[str, Any]:
        """Return the object of JSON."""


@dataclasses.dataclass(frozen=True)
class Plain:
    """A row that is the same in every form."""

    fields: Mapping[str, Any]

    def cells(self) -> Mapping[str, Any]:
        """Return the fields."""
        return self.fields

    flat = nested = cells


def add_arguments(parser: ArgumentParser, *, limit: bool = True) -> None:
    """Add the arguments that say how rows are printed."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print a JSON object on each line")
    form.add_argument(
        "--csv", action="store_true", help="print CSV for spreadsheets; NULL is an empty field"
    )
    if limit:
        parser.add_argument(
            "--limit",
            type=int,
            metavar="N",
            help=f"print N rows at most (a terminal is shown {ON_TERMINAL} without it)",
        )


def plain_console() -> "Console":
    """Return what prints to standard output, as it is given; a closed pipe is the caller's."""
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would exit with 1, which is ours for findings

    return Plain(highlight=False, markup=False, emoji=False)


def write(
    arguments: Namespace, lines: Iterable[Line], title: str, header: Sequence[str] = ()
) -> int:
    """Print rows in the form that arguments ask for; return how many.

    Args:
        arguments: Those of the command.
        lines: The rows.
        title: What stands above a table.
        header: The names of the fields, for where there is no row.
    """
    limit = getattr(arguments, "limit", None)
    if limit is not None:
        lines = itertools.islice(lines, max(limit, 0))
    console = plain_console()
    if arguments.json or arguments.csv or not console.is_terminal:
        if sys.stdout.isatty():
            return _write_stream(arguments, lines, header)
        with progress(lines, "reading") as counted:
            return _write_stream(arguments, counted, header)
    kept = list(lines if limit is not None else itertools.islice(lines, ON_TERMINAL + 1))
    more = limit is None and len(kept) > ON_TERMINAL
    kept = kept[:ON_TERMINAL] if more else kept
    _write_table(console, kept, title)
    if more:
        console.print(f"the first {ON_TERMINAL} rows; --limit shows more")
    return len(kept)


def follow(arguments: Namespace, lines: Iterable[Line]) -> None:
    """Print rows as they come, each on a line; on a terminal with colours."""
    console = plain_console()
    if arguments.json or arguments.csv or not console.is_terminal:
        _write_stream(arguments, lines)
        return
    from rich.text import Text

    for line in lines:
        cells = (_rich(cell, "; ") for cell in line.cells().values())
        console.print(Text("  ").join(cells), soft_wrap=True)


def wait(seconds: float) -> None:
    """Let what was printed be seen, and wait.

    Raises:
        BrokenPipeError: Who read has gone.
    """
    sys.stdout.flush()
    if not hasattr(select, "poll"):
        time.sleep(seconds)
        return
    events = select.poll()
    events.register(sys.stdout.fileno(), 0)  # errors alone
    if events.poll(seconds * 1000):
        raise BrokenPipeError


def _write_stream(arguments: Namespace, lines: Iterable[Line], header: Sequence[str] = ()) -> int:
    if arguments.json:
        return _count(print(to_json(line.nested())) for line in lines)
    return _write_csv(lines, header) if arguments.csv else _write_plain(lines, header)


def _count(printed: Iterable[None]) -> int:
    return sum(1 for _ in printed)


def _write_csv(lines: Iterable[Line], header: Sequence[str]) -> int:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    hide = escaped if sys.stdout.isatty() else _escaped_in_lines
    count = 0
    for line in lines:
        fields = line.flat()
        if not count:
            writer.writerow([hide(_inert(name)) for name in fields])
        writer.writerow([hide(_inert(_field(value))) for value in fields.values()])
        count += 1
    if header and not count:
        writer.writerow([hide(_inert(name)) for name in header])
    return count


def _field(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(value)
    return "" if value is None else str(value)


_FORMULA = re.compile(r"[=+\-@\t\r\uFF1D\uFF0B\uFF0D\uFF20](?!(?<=[+-])[\d.]+(?:[eE][+-]?\d+)?$)")


def _inert(text: str) -> str:
    """Return a field that a spreadsheet shows; it would compute one that begins so, but a number.

    An apostrophe before it is what spreadsheets take for "this is text".
    """
    return f"'{text}" if _FORMULA.match(text) else text


def _escaped_in_lines(text: str) -> str:
    return "\n".join(map(escaped, text.split("\n")))


def _write_plain(lines: Iterable[Line], header: Sequence[str]) -> int:
    """Print fields between tabs, after a line of their names."""
    count = 0
    for line in lines:
        cells = line.cells()
        if not count:
            print("\t".join(map(escaped, cells)))
        print("\t".join(map(_plain, cells.values())))
        count += 1
    if header and not count:
        print("\t".join(map(escaped, header)))
    return count


def _plain(cell: Any) -> str:
    if not isinstance(cell, Replaced):
        return value_text(cell)
    parts = []
    for name, value in cell.after.items():
        before = f"{value_text(cell.before[name])} -> " if name in cell.before else ""
        label = f"{escaped(name)}: " if name else ""
        parts.append(f"{label}{before}{value_text(value)}")
    return "; ".join(parts)


def _write_table(console: Any, lines: Sequence[Line], title: str) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(escaped(title)), title_justify="left", title_style="bold")
    rows = [line.cells() for line in lines]
    for name in rows[0] if rows else ():
        table.add_column(Text(escaped(name)), overflow="fold")
    for row in rows:
        table.add_row(*map(_rich, row.values()))
    console.print(table if rows else Text(f"{escaped(title)}: nothing"))


def _rich(cell: Any, between: str = "\n") -> Any:
    from rich.text import Text

    if cell is None:
        return Text("NULL", style="dim")
    if not isinstance(cell, Replaced):
        return Text(value_text(cell))
    text = Text()
    for number, (name, value) in enumerate(cell.after.items()):
        label = f"{escaped(name)}: " if name else ""
        text.append(between if number else "").append(label, style="dim")
        if name in cell.before:
            text.append(value_text(cell.before[name]), style="red").append(" -> ", style="dim")
            text.append(value_text(value), style="bold green")
        else:
            text.append(value_text(value))
    return text


def to_json(value: Any) -> str:
    """Return JSON; what the database wrote as JSON stays as it is."""
    if isinstance(value, RawJson):
        # PostgreSQL leaves DEL as it is, and what turns the direction of writing.
        return replaced(str(value), lambda one: json.dumps(one)[1:-1])
    if isinstance(value, Mapping):
        pairs = (f"{json.dumps(str(key))}: {to_json(each)}" for key, each in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(to_json, value)) + "]"
    return str(value) if isinstance(value, Decimal) else json.dumps(value)


@contextmanager
def progress(items: Iterable[_T], what: str) -> Iterator[Iterable[_T]]:
    """Show on a terminal, on standard error, how far a loop has come; it is gone afterwards."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield items
        return
    # What is printed meanwhile stays on its own stream.
    with Progress(console=console, transient=True, redirect_stdout=False) as bar:
        yield bar.track(items, description=what)
