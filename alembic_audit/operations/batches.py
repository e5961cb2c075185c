"""A snapshot in batches: each its own transaction, so that others go on writing."""

import json
import logging
from collections.abc import Callable, Iterable

import alembic  # noqa: F401  (first, or the order of imports decides whether this module loads)
import sqlalchemy as sa
from alembic.operations import Operations

from alembic_audit import context, sql
from alembic_audit.errors import AuditError, sqlstate
from alembic_audit.spec import AuditSpec
from alembic_audit.sql.text import set_config

_LOG = logging.getLogger("alembic_audit")

DEADLOCK = "40P01"
TRIES = 10
"""Of a batch that a deadlock took back: it locks rows by key, and writers in any order."""


def snapshot(
    operations: Operations,
    spec: AuditSpec,
    default: str,
    size: int,
    run: Callable[[Operations, Iterable[str]], None],
) -> None:
    """Record the rows of a table whose last record is another, batch by batch.

    Args:
        operations: Online; its transaction is committed, and another one begun afterwards.
        spec: What to record.
        default: What a schema of None means.
        size: How many rows in a transaction.
        run: Sends statements.

    Raises:
        AuditError: Each statement reaches another session, as through a pooler.
    """
    # What was set for the transaction of the migration ends with it.
    values = {one.name: _setting(operations, f"audit.{one.name}") for one in spec.session_settings}
    settings = {name: text for name, text in values.items() if text}
    after: list[str] | None = []
    looked_at = recorded = 0
    with context.outside(), operations.get_context().autocommit_block():
        while after is not None:
            statement = sql.snapshot_batch(spec, default, size=size, after=after, settings=settings)
            _run(operations, statement, run)
            rows, made, after = _left(operations)
            looked_at, recorded = looked_at + rows, recorded + made
            _LOG.info("snapshot of %s: %d rows, %d recorded", spec.table, looked_at, recorded)
            run(operations, ["SELECT pg_catalog.set_config('alembic_audit.snapshot', '', false)"])
    run(operations, [set_config(name, text, local=True) for name, text in settings.items()])


def _run(
    operations: Operations, statement: str, run: Callable[[Operations, Iterable[str]], None]
) -> None:
    """Run a batch, again where PostgreSQL chose it to end a deadlock: nothing of it is left."""
    for left in reversed(range(TRIES)):
        try:
            return run(operations, [statement])
        except sa.exc.DBAPIError as error:
            if sqlstate(error.orig) != DEADLOCK or not left:
                raise
            _LOG.info("snapshot in a deadlock with a writer: the batch begins again")


def _left(operations: Operations) -> tuple[int, int, list[str] | None]:
    """Return what a batch left: rows, records, and the key of its last row if it had one."""
    found = _setting(operations, "alembic_audit.snapshot")
    if not found:
        raise AuditError(
            "a snapshot in batches needs one session, and found another one for each statement; "
            "connect past the pooler, or leave batch_size out"
        )
    rows, made, *key = json.loads(found)
    return rows, made, None if None in key else key


def _setting(operations: Operations, name: str) -> str | None:
    statement = sa.select(sa.func.pg_catalog.current_setting(name, True))
    text: str | None = operations.get_bind().execute(statement).scalar_one()
    return text
