"""The settings of a transaction while trails are read."""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from alembic_audit.errors import AuditError

PINNED = "pg_catalog, pg_temp"
"""The search_path in which no function, operator or type of others is found."""

_PIN = sa.text(
    "SELECT pg_catalog.current_setting('search_path'), pg_catalog.current_setting('row_security'), "
    "pg_catalog.set_config('search_path', :path, true), "
    "pg_catalog.set_config('row_security', :row_security, true)"
)


@contextmanager
def pinned(connection: sa.Connection) -> Iterator[None]:
    """Look names up in pg_catalog alone, and let no policy run; PostgreSQL raises where one would.

    The transaction goes on with its own settings.

    Raises:
        AuditError: The connection is in AUTOCOMMIT.
    """
    former = connection.execute(_PIN, {"path": PINNED, "row_security": "off"}).one()
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
            connection.execute(_PIN, {"path": former[0], "row_security": former[1]})
