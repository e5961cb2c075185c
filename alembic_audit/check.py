"""check_trails: the line in env.py after which no broken trail commits."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alembic.runtime.environment import EnvironmentContext


def check_trails(context: "EnvironmentContext | Any") -> None:
    """Fail a migration after which an audited table could not be written to.

    A hand-written ``op.drop_column``, ``op.alter_column(new_column_name=...)`` or
    ``op.rename_table`` leaves an audit trigger that needs what is gone. This line in ``env.py``
    notices, while everything can still be rolled back::

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
    """
    from alembic.operations import Operations
    from alembic.util import CommandError
    from sqlalchemy.exc import DBAPIError

    from alembic_audit.ddl import verbatim
    from alembic_audit.sql import check

    migration = context.get_context()
    # Alembic says where to only if it runs migrations: a broken trail can be looked at and mended.
    if migration.dialect.name != "postgresql" or "destination_rev" not in migration.opts:
        return
    try:
        Operations(migration).execute(verbatim(check.broken_trails()))
    except DBAPIError as error:
        raise CommandError(str(error.orig).strip()) from error
