"""From arguments and environment to a connection that changes nothing."""

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

from alembic_audit.cli.errors import CliError
from alembic_audit.cli.text import escaped

_ASYNC = ("asyncpg", "psycopg_async")
_NO_DATABASE = (
    "which database? Write -c alembic.ini or --url postgresql://..., or set DATABASE_URL or "
    "PGHOST and PGDATABASE"
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that say which database."""
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help="Alembic's configuration; without --url the default is ALEMBIC_CONFIG, or else "
        "alembic.ini where there is one",
    )
    parser.add_argument(
        "-n", "--name", default="alembic", help="name of the section in FILE (default: alembic)"
    )
    parser.add_argument(
        "--url", help="the database; the default is DATABASE_URL, or else PGHOST, PGDATABASE ..."
    )


def config_file(arguments: Namespace) -> str | None:
    """Return the Alembic configuration to use; None where a URL is.

    Raises:
        CliError: It is named and does not exist, or a URL is given too.
    """
    if arguments.config:
        if arguments.url:
            raise CliError("-c and --url exclude each other; write one")
        if not os.path.exists(arguments.config):
            raise CliError(f"no file {escaped(arguments.config)}")
        return str(arguments.config)
    if arguments.url:
        return None
    file = os.environ.get("ALEMBIC_CONFIG", "alembic.ini")
    return file if os.path.exists(file) else None


@contextmanager
def connected(url: str | URL | None) -> Iterator[sa.Connection]:
    """Connect, in one transaction that reads one state of the database and may not write.

    Args:
        url: The database; None is what the environment says.

    Raises:
        CliError: There is none, no driver, or it refuses.
    """
    engine = sa.create_engine(_sync_url(url), poolclass=sa.NullPool)
    try:
        connection = engine.connect()
    except sa.exc.DBAPIError as error:
        reason = escaped(str(error.orig).strip().partition("\n")[0])
        raise CliError(f"cannot connect: {reason}") from error
    with connection:
        yield connection.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )


def _sync_url(given: str | URL | None) -> URL:
    """Return a URL with a driver that is installed and synchronous.

    Raises:
        CliError: There is none.
    """
    text = given or os.environ.get("DATABASE_URL")
    if not text:
        if not {"PGHOST", "PGDATABASE", "PGSERVICE"} & set(os.environ):
            raise CliError(_NO_DATABASE)
        text = "postgresql://"  # libpq reads the environment
    try:
        url = make_url(text)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise CliError(
            "the URL of the database cannot be read; write postgresql://user@host/name"
        ) from error
    backend, _, driver = url.drivername.partition("+")
    if backend not in ("postgresql", "postgres"):
        raise CliError(f"{escaped(backend)} is no PostgreSQL; write postgresql://user@host/name")
    if not driver or driver in _ASYNC:
        driver = next((name for name in ("psycopg2", "psycopg") if find_spec(name)), "")
        if not driver:
            raise CliError("no driver for PostgreSQL: pip install 'alembic_audit[cli]'")
        if "ssl" in url.query:  # asyncpg's word for it
            url = url.set(query={**url.query, "sslmode": url.query["ssl"]})
            url = url.difference_update_query(["ssl"])
    elif find_spec(driver) is None:
        raise CliError(f"driver {escaped(driver)} is not installed")
    return url.set(drivername=f"postgresql+{driver}")
