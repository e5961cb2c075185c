"""What env.py calls: run_migrations and check_trails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from alembic_audit import options, session, values
from alembic_audit.context import audit_context
from alembic_audit.errors import SettingError
from alembic_audit.sql.text import set_config

if TYPE_CHECKING:
    from alembic.runtime.environment import EnvironmentContext
    from alembic.runtime.migration import MigrationContext

_RAN = "alembic_audit.ran"


def run_migrations(context: EnvironmentContext | Any, **kw: Any) -> None:
    """Run migrations in the audit context that ``context.configure`` has, then check_trails.

    In place of ``context.run_migrations()``::

        context.configure(..., audit_context={"username": "deploy"})
        with context.begin_transaction():
            alembic_audit.run_migrations(context)

    ``audit_context`` is a dictionary, or a callable that returns one. Its values are those of the
    session settings in every transaction of the migrations, with ``--sql`` too, so that rows which
    a migration changes are attributed.

    Args:
        context: ``alembic.context``.
        **kw: Given to ``context.run_migrations``.

    Raises:
        CommandError: A name or value does not fit the declared settings, a required setting has no
            value, or a trail is broken; the first two before the first statement.
    """
    from alembic.util import CommandError

    migration: MigrationContext = context.get_context()
    given: Any = migration.opts.get("audit_context")
    migration.opts[_RAN] = True
    if given is None or migration.dialect.name != "postgresql":
        context.run_migrations(**kw)
        check_trails(context)
        return
    metadata = _metadata(migration)
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
        with audit_context(**wanted):
            context.run_migrations(**kw)
    check_trails(context)


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
