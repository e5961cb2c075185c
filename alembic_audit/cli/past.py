"""``alembic-audit as-of`` and ``blame``: rows as they were, and who set what they hold."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from alembic_audit.cli import connect, output
from alembic_audit.cli.errors import EXIT_HEALTHY, CliError
from alembic_audit.cli.output import Plain
from alembic_audit.cli.text import escaped
from alembic_audit.cli.trails import DID, Trails, is_nothing, key_of, plain
from alembic_audit.reading import AuditId, TransactionId, as_of, blame, settled_transaction
from alembic_audit.reading.qualified import compare
from alembic_audit.reading.trail import Trail, When

if TYPE_CHECKING:
    from argparse import _SubParsersAction

# as_of() and blame() take a Trail where they take a Table.
_as_of: Any = as_of
_blame: Any = blame


def add_to(commands: "_SubParsersAction[ArgumentParser]") -> None:
    """Add the commands to a parser."""
    past = commands.add_parser("as-of", help="a table, or one row of it, as it was")
    past.add_argument("table", metavar="TABLE", help="account, or public.account")
    past.add_argument(
        "when",
        metavar="WHEN",
        help="2026-01-31T12:00:00+01:00, or audit:17 (that record included), or tx:755, "
        "or settled: the newest moment that no commit changes any more",
    )
    past.add_argument("key", metavar="KEY", nargs="*", help="the primary key of one row")
    past.set_defaults(run=run_as_of)
    who = commands.add_parser("blame", help="who set what a row holds, column by column")
    who.add_argument("table", metavar="TABLE", help="account, or public.account")
    who.add_argument("key", metavar="KEY", nargs="+", help="the primary key, a value per column")
    who.set_defaults(run=run_blame)
    for parser in (past, who):
        connect.add_arguments(parser)
        output.add_arguments(parser, limit=parser is past)


def run_as_of(arguments: Namespace) -> int:
    """Print a table as it was."""
    label = arguments.when
    when = None if label == "settled" else moment(label)
    with connect.by_arguments(arguments) as connection:
        if when is None:
            when = settled_transaction(connection)
            label = f"tx:{when.value}"
            print(f"settled: {label}", file=sys.stderr)
        trails = Trails.read(connection, arguments)
        trail = trails.of(trails.name_of(arguments.table))
        statement = _as_of(trail, when)
        if arguments.key:
            key = key_of(trail, arguments.key)
            columns = statement.selected_columns
            statement = statement.where(
                *(
                    compare(columns[name], "=", sa.literal(value, trail.type_of(name)))
                    for name, value in zip(trail.spec.key, key, strict=True)
                )
            )
        lines = (Plain(row) for row in trails.rows(statement))
        title = f"{trail.table.fullname} as of {label}"
        header = [] if arguments.key else list(statement.selected_columns.keys())
        count = output.write(arguments, lines, title, header)
        if arguments.key and not count:
            raise CliError(escaped(f"{is_nothing(trail, arguments.key)} as of {label}"))
    return EXIT_HEALTHY


def moment(text: str) -> When:
    """Return the moment that a person wrote.

    Raises:
        CliError: It is none, or has no time zone.
    """
    kind, _, number = text.partition(":")
    if number.isascii() and number.isdigit() and kind in ("audit", "tx"):
        return AuditId(int(number)) if kind == "audit" else TransactionId(int(number))
    try:
        # Python 3.10 does not know Z.
        found = datetime.fromisoformat(text[:-1] + "+00:00" if text[-1:] in "Zz" else text)
    except ValueError as error:
        raise CliError(
            escaped(f"{text!r} is no moment")
            + "; write 2026-01-31T12:00:00+01:00, audit:17, tx:755 or settled"
        ) from error
    if found.utcoffset() is None:
        raise CliError(escaped(f"{text} has no time zone; write {found.isoformat()}Z"))
    return found


def run_blame(arguments: Namespace) -> int:
    """Print who set what a row holds."""
    with connect.by_arguments(arguments) as connection:
        trails = Trails.read(connection, arguments)
        trail = trails.of(trails.name_of(arguments.table))
        key = key_of(trail, arguments.key)
        rows = trails.rows(_blame(trail, tuple(key)))
        if not output.write(
            arguments, _setters(trail, rows), f"{trail.table.fullname} {' '.join(key)}"
        ):
            raise CliError(escaped(f"there is no row: {is_nothing(trail, key)}, or it was deleted"))
    return EXIT_HEALTHY


def _setters(trail: Trail, rows: Any) -> Iterator[Plain]:
    for row in rows:
        label = next(name for name in row if name.startswith("audit_column"))
        column = row[label]
        yield Plain(
            {
                "column": trail.recorded[column],
                "value": row[trail.recorded[column]],
                "role": row["audit_current_user"],
                **{f"audit.{each.name}": row[each.column] for each in trail.spec.session_settings},
                "when": row["audit_operation_timestamp"],
                "did": DID.get(plain(row["audit_operation"]), row["audit_operation"]),
                "audit_id": row["audit_id"],
            }
        )
