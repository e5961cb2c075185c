"""The search_path while catalogs are read."""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from alembic_audit.errors import AuditError

PINNED = "pg_catalog, pg_temp"
"""The search_path in which no function, operator or type of others is found."""

_PIN = sa.text(
    "SELECT pg_catalog.current_setting('search_path'), "
    "pg_catalog.set_config('search_path', :path, true)"
)


@contextmanager
def pinned(connection: sa.Connection) -> Iterator[None]:
    """Look names up in pg_catalog alone; the transaction goes on with its own search_path.

    Raises:
        AuditError: The connection is in AUTOCOMMIT.
    """
    former = connection.execute(_PIN, {"path": PINNED}).scalar_one()
    driver = connection.connection.dbapi_connection
    if getattr(driver, "autocommit", False):
        raise AuditError("trails are read in one transaction; do not set AUTOCOMMIT")
    failed = False
    try:
        yield
    except sa.exc.DBAPIError:
        failed = True  # the transaction is aborted, and its settings end with it
        raise
    finally:
        if not failed:
            connection.execute(_PIN, {"path": former})
