"""From arguments and environment to a connection that changes nothing."""

import configparser
import functools
import json
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from importlib.util import find_spec

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url

from alembic_audit.catalog.path import PINNED
from alembic_audit.cli.errors import CliError
from alembic_audit.cli.text import escaped

_ASYNC = ("asyncpg", "psycopg_async")
_NO_DATABASE = (
    "which database? Write -c alembic.ini or --url postgresql://..., or set DATABASE_URL or "
    "PGHOST and PGDATABASE"
)


def add_arguments(parser: ArgumentParser, *, name_option: bool = True) -> None:
    """Add the arguments that say which database; ``-n`` is not always the section's name."""
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help="Alembic's configuration; without --url the default is ALEMBIC_CONFIG, or else "
        "alembic.ini where there is one",
    )
    parser.add_argument(
        *(["-n"] if name_option else []),
        "--name",
        default="alembic",
        help="name of the section in FILE (default: alembic)",
    )
    parser.add_argument(
        "--url", help="the database; the default is DATABASE_URL, or else PGHOST, PGDATABASE ..."
    )
    parser.add_argument(
        "--trust-owner",
        metavar="ROLE",
        action="append",
        default=[],
        help="read audit tables of this role too, whose code may then run with your rights",
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
def by_arguments(arguments: Namespace) -> Iterator[sa.Connection]:
    """Connect as arguments and environment say; of Alembic's configuration only the URL is read.

    Raises:
        CliError: It cannot be done.
    """
    file, url = config_file(arguments), arguments.url
    if file is not None:
        url = _configured(file, arguments.name)
        if url is None and arguments.config:
            raise CliError(f"{escaped(file)} has no sqlalchemy.url; write --url")
    with connected(url) as connection:
        yield connection


def _configured(file: str, section: str) -> str | None:
    from alembic.config import Config
    from alembic.util import CommandError

    toml = file.endswith(".toml")
    config = Config(None if toml else file, toml_file=file if toml else None, ini_section=section)
    try:
        url = config.get_alembic_option("sqlalchemy.url") or None
        # That is what `alembic init` writes: nobody has said yet.
        return None if url and url.startswith("driver://") else url
    except (CommandError, configparser.Error, ValueError) as error:
        raise CliError(escaped(f"{file} cannot be read: {error}")) from error


@contextmanager
def connected(url: str | URL | None) -> Iterator[sa.Connection]:
    """Connect, in one transaction that reads one state of the database and may not write.

    Args:
        url: The database; None is what the environment says.

    Raises:
        CliError: There is none, no driver, or it refuses.
    """
    exact = functools.partial(json.loads, parse_float=Decimal)
    url = _sync_url(url)
    options = {"use_native_hstore": False} if url.drivername.endswith("psycopg2") else {}
    engine = sa.create_engine(url, poolclass=sa.NullPool, json_deserializer=exact, **options)
    try:
        connection = engine.connect()
    except sa.exc.DBAPIError as error:
        reason = escaped(str(error.orig).strip().partition("\n")[0])
        raise CliError(f"cannot connect: {reason}") from error
    event.listen(engine, "begin", _pin)
    with connection:
        yield connection.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )


def _pin(connection: sa.Connection) -> None:
    """Look names up in pg_catalog, and be refused where row level security would hide rows.

    For the transaction: a pool of connections, as pgbouncer's, would hand a setting of the session
    to somebody else.
    """
    for setting in (f"search_path = {PINNED}", "row_security = off"):
        connection.exec_driver_sql(f"SET LOCAL {setting}")


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
