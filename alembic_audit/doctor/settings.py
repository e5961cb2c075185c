"""Checks of settings, and of what is in the records."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from alembic_audit.catalog.records import NEWEST, Records, read_records
from alembic_audit.doctor import values as kinds
from alembic_audit.doctor.trail import Trail, several
from alembic_audit.doctor.values import Finding, finding
from alembic_audit.naming import literal, quote


def switched_off(trails: Sequence[Trail]) -> Iterator[Finding]:
    """Settings of roles and of the database by which triggers do not fire."""
    concerned = [trail.name for trail in trails if not trail.spec.always]
    for row in trails[0].health.defaults if concerned else ():
        if (row.name, row.value) == ("session_replication_role", "replica"):
            yield finding(
                kinds.SWITCHED_OFF,
                "",
                f"session_replication_role is replica for {_whose(row)}: nothing is recorded for "
                f"{several(concerned)}",
                f"ALTER {_whose(row)} RESET session_replication_role, or the option 'always'",
            )


def required(trail: Trail) -> Iterator[Finding]:
    """Required settings for which there is no default anywhere."""
    given = {row.name for row in trail.health.defaults}
    for setting in trail.spec.session_settings:
        if setting.required and f"audit.{setting.name}" not in given:
            yield trail.finding(
                kinds.SETTING_UNSET,
                f"audit.{setting.name} is required, and no role or database has a default: a "
                "write without it fails",
            )


def records(connection: sa.Connection, trail: Trail, refusal: str | None) -> Iterator[Finding]:
    """What the newest records say: settings, transaction ids, the sequence.

    Args:
        connection: Where to read.
        trail: Whose records.
        refusal: Why they must not be read.
    """
    audit = trail.audit
    if audit is None:
        return
    if not audit.readable:
        yield trail.finding(
            kinds.NOT_READ,
            f"{_me(connection)} may not read {trail.audit_name}: its records were not looked at",
        )
        return
    if refusal is not None:
        yield trail.finding(kinds.NOT_READ, refusal, "see the reason")
        return
    primary_key = json.loads(audit.primary_key or "[]")
    settings = [setting.column for setting in trail.spec.session_settings]
    try:
        # A savepoint, so that what fails here leaves the rest of the examination.
        with connection.begin_nested():
            found = read_records(
                connection,
                trail.place.audit,
                audit.columns,
                settings,
                audit.sequence,
                primary_key[0] if trail.spec.append_only and primary_key else None,
            )
    except sa.exc.DBAPIError as error:
        reason = str(error.orig).strip().partition("\n")[0]
        yield trail.finding(
            kinds.NOT_READ, f"{trail.audit_name} could not be read: {reason}", "see the reason"
        )
        return
    yield from _in_records(trail, found, may_read_sequence=audit.sequence is not None)
    yield from _rewritten(trail, found.rewritten_by, *primary_key[1:])


def _in_records(trail: Trail, found: Records, *, may_read_sequence: bool) -> Iterator[Finding]:
    newest = "the newest 1,000 records" if found.count == NEWEST else f"all {found.count} records"
    for setting in trail.spec.session_settings:
        if found.count and found.filled.get(setting.column) == 0:
            yield trail.finding(
                kinds.SETTING_EMPTY, f"audit.{setting.name} has no value in {newest}"
            )
    if found.from_future is not None:
        yield trail.finding(
            kinds.FROM_FUTURE,
            f"{trail.audit_name} has a record of transaction {found.from_future}, which this "
            "server has not come to",
        )
    if may_read_sequence and found.newest is not None and found.newest > (found.last_value or 0):
        sequence = (
            f"pg_catalog.pg_get_serial_sequence({literal(trail.audit_name).strip()}, 'audit_id')"
        )
        yield trail.finding(
            kinds.SEQUENCE_BEHIND,
            f"the sequence of audit_id is at {found.last_value or 'its start'}, and "
            f"{trail.audit_name} has a record {found.newest}: the next writes fail",
            f"SELECT pg_catalog.setval({sequence}, {found.newest})",
        )


def _rewritten(
    trail: Trail, transactions: Sequence[int], key: str = "", note: str | None = None
) -> Iterator[Finding]:
    """Transactions that wrote records again, but for those that a comment on the key explains."""
    explained = set(re.findall(r"transaction (\d+)", note or ""))
    for number in sorted(transactions):
        if str(number) not in explained:
            said = f"{note + '; ' if note else ''}transaction {number}: why"
            yield trail.finding(
                kinds.REWRITTEN,
                f"transaction {number} wrote records of earlier ones in {trail.audit_name} again",
                f"{kinds.KINDS[kinds.REWRITTEN][1]}; then write down why: COMMENT ON "
                f"CONSTRAINT {quote(key)} ON {trail.audit_name} IS {literal(said).strip()}",
            )


def _whose(row: "sa.Row[Any]") -> str:
    if row.rolname is None:
        return f"DATABASE {quote(row.datname)}"
    role = f"ROLE {quote(row.rolname)}"
    return role if row.datname is None else f"{role} IN DATABASE {quote(row.datname)}"


def _me(connection: sa.Connection) -> str:
    return quote(str(connection.scalar(sa.select(sa.func.current_user()))))
