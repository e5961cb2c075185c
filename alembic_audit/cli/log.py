"""``alembic-audit log`` and ``show``: records."""

import dataclasses
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from alembic_audit.cli import connect, output
from alembic_audit.cli.errors import EXIT_HEALTHY, CliError
from alembic_audit.cli.output import Replaced
from alembic_audit.cli.text import escaped
from alembic_audit.cli.trails import (
    DID,
    Record,
    Trails,
    is_nothing,
    key_of,
    plain,
    readable,
)
from alembic_audit.reading import changes, history
from alembic_audit.reading.qualified import compare

if TYPE_CHECKING:
    from argparse import _SubParsersAction

# history() and changes() take a Trail where they take a Table.
_history: Any = history
_changes: Any = changes


def add_to(commands: "_SubParsersAction[ArgumentParser]") -> None:
    """Add the commands to a parser."""
    log = commands.add_parser("log", help="the records of one row, newest first")
    log.add_argument("table", metavar="TABLE", help="account, or public.account")
    log.add_argument("key", metavar="KEY", nargs="+", help="the primary key, a value per column")
    log.set_defaults(run=run_log)
    show = commands.add_parser("show", help="one record, every column, before and after")
    show.add_argument("audit_id", metavar="AUDIT_ID", type=int, help="the number of the record")
    show.add_argument("--table", action="append", default=[], help="in this trail; all without")
    show.set_defaults(run=run_show)
    for parser in (log, show):
        connect.add_arguments(parser)
        output.add_arguments(parser, limit=parser is log)


def run_log(arguments: Namespace) -> int:
    """Print the records of one row."""
    with connect.by_arguments(arguments) as connection:
        trails = Trails.read(connection, arguments)
        trail = trails.of(trails.name_of(arguments.table))
        key = key_of(trail, arguments.key)
        rows = trails.rows(_history(trail, tuple(key), dropped=True))
        lines = (Record(trail, row) for row in rows)
        if not output.write(arguments, lines, f"{trail.table.fullname} {' '.join(key)}"):
            raise CliError(escaped(is_nothing(trail, key)))
    return EXIT_HEALTHY


@dataclasses.dataclass(frozen=True)
class _Column:
    """One column of a record that is shown."""

    name: str
    before: Any
    after: Any
    is_changed: bool

    def cells(self) -> Mapping[str, Any]:
        """Return the cells for people, what changed being marked."""
        if self.is_changed:
            return {"column": self.name, "value": Replaced({"": self.before}, {"": self.after})}
        return {"column": self.name, "value": self.after}

    def flat(self) -> Mapping[str, Any]:
        """Return the fields of CSV."""
        return {"column": self.name, "before": self.before, "after": self.after}

    nested = flat


def run_show(arguments: Namespace) -> int:
    """Print one record of each trail that has one of that number."""
    with connect.by_arguments(arguments) as connection:
        trails = Trails.read(connection, arguments)
        found: list[Record] = []
        with output.progress(list(readable(trails, arguments.table)), "looking") as each:
            for name, trail in each:
                number = trail.audit.c.audit_id
                is_it = compare(number, "=", arguments.audit_id)
                # Most trails have none: what is cheap goes first.
                if trails.some(
                    name, sa.select(number).where(is_it), is_named=bool(arguments.table)
                ):
                    rows = trails.rows(_changes(trail, dropped=True).where(is_it))
                    found += [Record(trail, row) for row in rows]
        if not found:
            raise CliError(f"no trail has a record {arguments.audit_id}")
        if arguments.json or arguments.csv:
            output.write(arguments, found, "")
            return EXIT_HEALTHY
        for record in found:
            output.write(arguments, _columns(record), f"{record.trail.table.fullname}")
    return EXIT_HEALTHY


def _columns(record: Record) -> list[_Column]:
    row, before = record.row, record.before or {}
    did = DID.get(plain(row["audit_operation"]), row["audit_operation"])
    own = {
        "table": record.trail.table.fullname,
        "audit_id": row["audit_id"],
        "when": row["audit_operation_timestamp"],
        "transaction": row["audit_transaction_id"],
        "role": row["audit_current_user"],
        **{f"audit.{name}": value for name, value in record.settings.items()},
        "did": did,
    }
    changed = record.changed or ()
    return [
        *(_Column(name, None, value, False) for name, value in own.items()),
        *(
            _Column(name, before.get(name), value, name in changed)
            for name, value in record.values.items()
        ),
        *(
            _Column(f"{name} (dropped)", None, value, False)
            for name, value in record.dropped.items()
        ),
    ]
