"""What env.py calls: run_migrations and check_trails."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from alembic_audit import options, session, values
from alembic_audit.context import audit_context
from alembic_audit.errors import SettingError
from alembic_audit.spec import HEADER
from alembic_audit.sql.text import set_config

if TYPE_CHECKING:
    from alembic.runtime.environment import EnvironmentContext
    from alembic.runtime.migration import MigrationContext

_RAN = "alembic_audit.ran"
_LOG = logging.getLogger("alembic_audit")
_TRAIL_EXISTS = sa.text(
    "SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_proc AS p"
    " ON p.oid OPERATOR(pg_catalog.=) t.tgfoid WHERE pg_catalog.starts_with(p.prosrc, :header))"
)


def run_migrations(context: EnvironmentContext | Any, *, follow: bool = False, **kw: Any) -> None:
    """Run migrations in the audit context that ``context.configure`` has, then check_trails.

    In place of ``context.run_migrations()``::

        context.configure(..., audit_context={"username": "deploy"})
        with context.begin_transaction():
            alembic_audit.run_migrations(context)

    ``audit_context`` is a dictionary, or a callable that returns one. Its values are those of the
    session settings in every transaction of the migrations, with ``--sql`` too, so that rows which
    a migration changes are attributed.

    With ``follow=True`` trails follow migrations that know nothing of them. Where a plain
    ``op.alter_column``, ``op.drop_column`` or ``op.rename_table`` renames, drops or retypes what a
    trail records, the trail changes at once, as autogenerate would have changed it, and rows that
    the migration rewrote are recorded. Each change is logged to ``alembic.audit.follow`` as the
    operation that a migration would hold. At head every declared table gets its trail.

    Where trails exist and several revisions are about to run in one transaction, it warns before
    they begin, in the log ``alembic_audit``: the second of them could be in a deadlock with a
    writer.

    Args:
        context: ``alembic.context``.
        follow: Let trails follow.
        **kw: Given to ``context.run_migrations``.

    Raises:
        CommandError: ``follow=True`` is given with ``--sql``, a name or value does not fit the
            declared settings, a required setting has no value, or a trail is broken; all but the
            last before the first statement.
    """
    from alembic.util import CommandError

    migration: MigrationContext = context.get_context()
    given: Any = migration.opts.get("audit_context")
    migration.opts[_RAN] = True
    if follow and migration.as_sql:
        raise CommandError(
            "follow=True looks at the database, and --sql has none; run the upgrade online, or "
            "leave follow=True out and write the operations of the trails into the migrations"
        )
    if migration.dialect.name != "postgresql":
        context.run_migrations(**kw)
        return
    _warn_of_deadlocks(migration)
    metadata = _metadata(migration)
    if given is None:
        with _following(migration, metadata, follow):
            context.run_migrations(**kw)
        check_trails(context)
        return
    try:
        wanted = values.checked(given() if callable(given) else given)
        texts = values.texts(wanted, metadata)
        if "destination_rev" in migration.opts:  # an upgrade, a downgrade, a stamp
            _require(texts, metadata)
    except SettingError as error:
        raise CommandError(f"audit_context: {error}") from error
    if migration.as_sql:
        for name, text in texts.items():
            _execute(migration, set_config(name, text, local=False))
        context.run_migrations(**kw)
    else:
        assert migration.connection is not None
        session.instrument(migration.connection.engine, metadata=metadata)
        with audit_context(**wanted), _following(migration, metadata, follow):
            context.run_migrations(**kw)
    check_trails(context)


def _warn_of_deadlocks(migration: MigrationContext) -> None:
    """Say that several revisions are about to run in one transaction beside the writers of trails.

    Offline nobody knows which revisions are pending, nor what is in the database.
    """
    from alembic.runtime.migration import RevisionStep

    opts, connection = migration.opts, migration.connection
    if migration.as_sql or connection is None or "destination_rev" not in opts:
        return
    if opts.get("transaction_per_migration") or migration._migrations_fn is None:
        return
    steps = migration._migrations_fn(migration.get_current_heads(), migration)
    count = sum(isinstance(step, RevisionStep) for step in steps)
    if count > 1 and connection.execute(_TRAIL_EXISTS, {"header": HEADER}).scalar_one():
        _LOG.warning(
            "%d revisions run in one transaction, which holds their locks on audited tables to its "
            "end and can be in a deadlock with an application that writes; PostgreSQL then rolls "
            "one of them back. Write context.configure(transaction_per_migration=True) in env.py, "
            "or stop the application meanwhile",
            count,
        )


def _following(
    migration: MigrationContext, metadata: list[sa.MetaData], follow: bool
) -> AbstractContextManager[None]:
    """What lets trails follow; nothing where nobody asked, or no migration runs."""
    if not follow or "destination_rev" not in migration.opts:
        return nullcontext()
    from alembic_audit.follow import following

    return following(migration, metadata)


def check_trails(context: EnvironmentContext | Any) -> None:
    """Fail a migration after which an audited table could not be written to.

    A hand-written ``op.drop_column``, ``op.alter_column(new_column_name=...)`` or
    ``op.rename_table`` leaves an audit trigger that needs what is gone, and
    ``op.alter_column(type_=...)`` values that the audit column cannot hold. This line in
    ``env.py`` notices, while everything can still be rolled back; ``run_migrations`` includes it::

        with context.begin_transaction():
            context.run_migrations()
            alembic_audit.check_trails(context)

    With ``--sql`` the check is written into the script. With ``transaction_per_migration=True`` the
    migrations are committed when it runs, so that it can only report. ``alembic check`` and
    ``alembic revision`` run no migration, and do not fail here.

    Args:
        context: ``alembic.context``.

    Raises:
        CommandError: A trail is broken; it names table, column and the operation to write instead.
            Or ``audit_context`` is configured and ``alembic_audit.run_migrations`` was not called.
    """
    from alembic.operations import Operations
    from alembic.util import CommandError

    from alembic_audit.operations.run import default_schema
    from alembic_audit.sql import check

    migration: MigrationContext = context.get_context()
    if migration.opts.get("audit_context") is not None and not migration.opts.get(_RAN):
        raise CommandError(
            "audit_context is configured, and context.run_migrations() does not know it; call "
            "alembic_audit.run_migrations(context) in its place"
        )
    # Alembic says where to only if it runs migrations: a broken trail can be looked at and mended.
    if migration.dialect.name != "postgresql" or "destination_rev" not in migration.opts:
        return
    try:
        default = default_schema(Operations(migration))
        _execute(migration, check.broken_trails(default))
    except sa.exc.DBAPIError as error:
        raise CommandError(str(error.orig).strip()) from error


def _execute(migration: MigrationContext, statement: str) -> None:
    from alembic.operations import Operations

    from alembic_audit.ddl import verbatim

    Operations(migration).execute(verbatim(statement))


def _metadata(migration: MigrationContext) -> list[sa.MetaData]:
    given: Any = migration.opts.get("target_metadata")
    if given is None:
        return []
    return [given] if isinstance(given, sa.MetaData) else list(given)


def _require(texts: dict[str, str], metadata: list[sa.MetaData]) -> None:
    for one in metadata:
        for table in one.tables.values():
            wanted = options.read(table)
            for column in wanted.session_settings if wanted else ():
                if not column.nullable and not texts.get(column.name.lower()):
                    raise SettingError(
                        f"session setting {column.name!r}, which {table.fullname!r} requires, has "
                        f"no value; write audit_context={{{column.name!r}: ...}}"
                    )
