import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec

import pytest
from sqlalchemy import create_engine
from sqlalchemy.engine import URL, Engine

from tools import postgres

collect_ignore = [] if find_spec("optuna") else ["real"]

_numbers = itertools.count()


@dataclass(frozen=True)
class Database:
    """A database of one test."""

    name: str
    server: postgres.Server

    def url(self, driver: str = "psycopg2", user: str | None = None) -> URL:
        return self.server.url(self.name, driver, user)

    @cached_property
    def engine(self) -> Engine:
        return create_engine(self.url())


@pytest.fixture(scope="session")
def server() -> Iterator[postgres.Server]:
    """One server for each worker of pytest-xdist."""
    with postgres.server() as running:
        yield running


@contextmanager
def _database(server: postgres.Server) -> Iterator[Database]:
    # The process id keeps workers apart that share the server at ALEMBIC_AUDIT_TEST_URL.
    name = f"alembic_audit_{os.getpid()}_{next(_numbers)}"
    server.create_database(name)
    made = Database(name, server)
    yield made
    made.engine.dispose()
    server.drop_database(name)


@pytest.fixture
def database(server: postgres.Server) -> Iterator[Database]:
    """An empty database; roles are the server's, so a test that makes some drops them."""
    with _database(server) as made:
        yield made


@pytest.fixture(scope="module")
def shared_database(server: postgres.Server) -> Iterator[Database]:
    """One database for all tests of a module, which leave it as they found it."""
    with _database(server) as made:
        yield made


@pytest.fixture
def twin(server: postgres.Server) -> Iterator[Database]:
    """A second empty database, to compare with the first."""
    with _database(server) as made:
        yield made


@pytest.fixture(params=["psycopg2", "psycopg"])
def driver(request: pytest.FixtureRequest) -> str:
    """Each driver in turn, for what has to work with all."""
    name: str = request.param
    return name
