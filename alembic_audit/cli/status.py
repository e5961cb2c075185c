"""``alembic-audit status``: the trails of a database."""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from alembic_audit.catalog.columns import read_sizes
from alembic_audit.cli import connect, output
from alembic_audit.cli.errors import EXIT_HEALTHY
from alembic_audit.cli.output import Plain
from alembic_audit.cli.trails import Trails, leave_out
from alembic_audit.reading.database import audit_of
from alembic_audit.reading.qualified import Text, catalog
from alembic_audit.states import AuditState, Name

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_to(commands: "_SubParsersAction[ArgumentParser]") -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "status", help="the audited tables: records, size, first and last record, state"
    )
    parser.add_argument(
        "--estimate", action="store_true", help="take the number of records from statistics"
    )
    parser.set_defaults(run=run)
    connect.add_arguments(parser)
    output.add_arguments(parser, limit=False)


class _Status(Plain):
    """The status of a trail."""

    def cells(self) -> Mapping[str, Any]:
        """Return the cells for people."""
        fields = dict(self.fields)
        size = fields.pop("bytes")
        return {**fields, "size": None if size is None else human(size)}


def human(size: int) -> str:
    """Return a number of bytes as ``48 kB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 10 * 1024:
            return f"{size:,} {unit}"
        size = round(size / 1024)
    return f"{size:,} TB"


def run(arguments: Namespace) -> int:
    """Print the trails."""
    with connect.by_arguments(arguments) as connection:
        trails = Trails.read(connection, arguments)
        audits = {name: audit_of(name, state) for name, state in sorted(trails.states.items())}
        sizes = read_sizes(connection, audits.values())
        trails.lock(audits)
        lines = []
        with output.progress(list(audits.items()), "counting") as each:
            for name, audit in each:
                size, estimate = sizes.get(audit, (None, None))
                read = _ends(audit, trails.columns.get(audit, {}), counted=not arguments.estimate)
                refusal = trails.refusals[name] if read is not None else None
                if refusal:
                    leave_out(name, f"{refusal}; the number of its records is an estimate")
                rows = [] if read is None or refusal else trails.some(name, read)
                first, last, count = rows[0].values() if rows else (None, None, None)
                lines.append(
                    _Status(
                        {
                            "table": ".".join(name),
                            "audit table": ".".join(audit),
                            "state": _state(trails.states[name]),
                            "records": estimate if arguments.estimate or refusal else count,
                            "bytes": size,
                            "first": first,
                            "last": last,
                        }
                    )
                )
        output.write(arguments, lines, "audited tables")
    return EXIT_HEALTHY


def _state(state: AuditState) -> str:
    return ", ".join(dict.fromkeys(one.kind for one in state.drift)) or "ok"


def _ends(audit: Name, columns: dict[str, str], *, counted: bool) -> Any:
    """Return a Select of the times of the first and last record, and how many there are."""
    time = "audit_operation_timestamp"
    if time not in columns:
        return None
    table = sa.table(audit[1], sa.column("audit_id"), sa.column(time), schema=audit[0])
    count = sa.select(catalog.count(sa.literal_column("*"))).select_from(table).scalar_subquery()
    if "audit_id" in columns:
        first, last = (
            sa.select(table.c[time]).order_by(order).limit(1).scalar_subquery()
            for order in (table.c.audit_id, table.c.audit_id.desc())
        )
    else:
        first, last = (
            sa.select(function(table.c[time])).scalar_subquery()
            for function in (catalog.min, catalog.max)
        )
    return sa.select(sa.cast(first, Text()), sa.cast(last, Text()), count if counted else sa.null())
