"""``alembic-audit tail``: the newest records of several tables, and those to come."""

import argparse
import dataclasses
import heapq
import itertools
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from alembic_audit.cli import connect, output
from alembic_audit.cli.errors import EXIT_HEALTHY, CliError
from alembic_audit.cli.output import Replaced
from alembic_audit.cli.trails import Record, Trails, readable
from alembic_audit.reading import changes
from alembic_audit.reading.follow import Follower
from alembic_audit.reading.history import free
from alembic_audit.reading.qualified import Numbers, is_any
from alembic_audit.reading.trail import Trail
from alembic_audit.states import Name

if TYPE_CHECKING:
    from argparse import _SubParsersAction

# changes() takes a Trail where it takes a Table.
_changes: Any = changes

_SECONDS = 1.0


def add_to(commands: "_SubParsersAction[ArgumentParser]") -> None:
    """Add the command to a parser."""
    parser = commands.add_parser("tail", help="the newest records, the newest last")
    parser.add_argument("tables", metavar="TABLE", nargs="*", help="of these tables; all without")
    parser.add_argument("-n", "--lines", type=int, default=20, metavar="N", help="how many (20)")
    parser.add_argument(
        "-f", "--follow", action="store_true", help="go on with records as they are committed"
    )
    parser.add_argument(
        "--interval",
        type=_interval,
        metavar="SECONDS",
        help=f"with --follow, how often to look ({_SECONDS:g})",
    )
    parser.set_defaults(run=run)
    connect.add_arguments(parser, name_option=False)
    output.add_arguments(parser, limit=False)


def _interval(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} is no interval; write seconds, as 0.5")
    return seconds


@dataclasses.dataclass(frozen=True)
class _Of(Record):
    """A record beside those of other tables."""

    def cells(self) -> dict[str, Any]:
        """Return the cells for people; settings of each trail are others."""
        cells = super().cells()
        said = {name: value for name, value in self.settings.items() if value is not None}
        own = {name: cells[name] for name in ("#", "when", "tx", "role")}
        return {
            "table": self.trail.table.fullname,
            **own,
            "settings": Replaced({}, said),
            "did": cells["did"],
            "what": cells["what"],
        }

    def flat(self) -> dict[str, Any]:
        """Return the fields of CSV that every trail has, and the row as JSON."""
        own = ("audit_id", "audit_operation", "audit_operation_timestamp", "audit_transaction_id")
        return {
            "table": self.trail.table.fullname,
            **{name: self.row[name] for name in own},
            "audit_current_user": self.row["audit_current_user"],
            "settings": output.to_json(self.settings),
            "row": output.to_json(self.values),
            "audit_changed": self.changed,
        }


def run(arguments: Namespace) -> int:
    """Print the newest records, and those to come where that is asked for.

    Raises:
        CliError: An interval is given, and nothing to repeat.
    """
    if arguments.interval is not None and not arguments.follow:
        raise CliError("--interval goes with --follow")
    with connect.by_arguments(arguments) as connection:
        trails = Trails.read(connection, arguments)
        known = dict(readable(trails, arguments.tables))
        newest = _newest(trails, known, arguments, lambda trail: sa.true())
        if not arguments.follow:
            output.write(arguments, list(_records(trails, known, newest)), "newest records")
            return EXIT_HEALTHY

        def prepare() -> None:
            """See again that what is read may be: somebody may have changed it meanwhile."""
            trails.lock(known)
            for name in known:
                trails.of(name)

        follower = Follower(connection, list(known.values()), prepare)
        newest = _newest(trails, known, arguments, follower.is_earlier)
        first, to_come = _records(trails, known, newest), _to_come(trails, follower, arguments)
        output.follow(arguments, itertools.chain(first, to_come))
    return EXIT_HEALTHY


_Moment = tuple[Any, int, Name]


def _newest(
    trails: Trails,
    known: dict[Name, Trail],
    arguments: Namespace,
    condition: Callable[[Trail], sa.ColumnElement[bool]],
) -> list[_Moment]:
    """Return the newest records: when, which number, whose; forget trails that cannot be read."""
    wanted = max(arguments.lines, 0)
    moments: list[_Moment] = []
    with output.progress(list(known.items()), "reading") as each:
        for name, trail in each:
            number = trail.audit.c.audit_id
            found = trails.some(
                name,
                sa.select(_seconds(trail).label("seconds"), number)
                .where(condition(trail))
                .order_by(number.desc())
                .limit(wanted),
                is_named=bool(arguments.tables),
            )
            if found is None:
                del known[name]
            moments += [(row["seconds"], row["audit_id"], name) for row in found or ()]
    return sorted(moments)[len(moments) - min(wanted, len(moments)) :]


def _seconds(trail: Trail) -> sa.ColumnElement[Any]:
    """Return when a record was written, as something that sorts."""
    time = trail.audit.c.audit_operation_timestamp
    return sa.extract("epoch", sa.type_coerce(time, sa.DateTime(timezone=True)))


def _records(trails: Trails, known: dict[Name, Trail], moments: list[_Moment]) -> Iterator[_Of]:
    """Return records in the order of these moments."""
    found: dict[tuple[Name, int], _Of] = {}
    for name in dict.fromkeys(name for _, _, name in moments):
        trail = known[name]
        ids = [number for _, number, other in moments if other == name]
        statement = _changes(trail, dropped=True).where(
            is_any(trail.audit.c.audit_id, sa.cast(sa.literal(ids, Numbers), Numbers))
        )
        for row in trails.rows(statement):
            found[name, row["audit_id"]] = _Of(trail, row)
    return (found[name, number] for _, number, name in moments)


def _to_come(trails: Trails, follower: Follower, arguments: Namespace) -> Iterator[_Of]:
    """Return records as they settle, without end."""
    while True:
        trails.connection.rollback()  # no transaction stays open meanwhile
        output.wait(arguments.interval or _SECONDS)
        streams = [_stream(trails, trail, is_new) for trail, is_new in follower.look()]
        for _, _, record in heapq.merge(*streams, key=lambda one: one[:2]):
            yield record


def _stream(
    trails: Trails, trail: Trail, is_new: sa.ColumnElement[bool]
) -> Iterator[tuple[Any, int, _Of]]:
    """Return records of a trail as they come: when, which number, and the record."""
    audit = trail.audit
    label = free("audit_seconds", {column.name for column in audit.columns})
    statement = (
        _changes(trail, dropped=True)
        .add_columns(_seconds(trail).label(label))
        .where(is_new)
        .order_by(None)
        .order_by(audit.c.audit_id)
    )
    for row in trails.rows(statement):
        yield row[label], row["audit_id"], _Of(trail, row)
