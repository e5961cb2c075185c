import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from unittest.mock import patch

import pytest
from alembic.autogenerate import comparators
from sqlalchemy import Table, create_engine, event
from sqlalchemy.engine import URL, Engine

from alembic_audit import listeners
from alembic_audit.autogenerate import compare
from tools import postgres

# Migrations and env.py may be written twice in the second that a cache of bytecode knows.
sys.dont_write_bytecode = True

collect_ignore = [] if find_spec("optuna") else ["real"]

_numbers = itertools.count()

ASYNC = ("psycopg_async", "asyncpg")
DRIVERS = os.environ.get("ALEMBIC_AUDIT_TEST_DRIVERS", "psycopg2 psycopg").split()
"""The drivers of the tests that run with each; the first one is that of all others."""


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


OLDEST = min(postgres.WHEELS)
CHOSEN = bool({"ALEMBIC_AUDIT_TEST_URL", "PG_BINDIR"} & set(os.environ))
"""Somebody chose the server: there is no other one then."""


def pytest_xdist_auto_num_workers() -> int:
    """One worker more than cores: while one waits for a server or a process, another runs."""
    usable = getattr(os, "sched_getaffinity", None)  # Linux
    return 1 + (len(usable(0)) if usable else os.cpu_count() or 1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let tests that are marked `core` run on the oldest PostgreSQL too."""
    is_core = metafunc.definition.get_closest_marker("core") is not None
    if is_core and not CHOSEN and "server" in metafunc.fixturenames:
        majors = [None, OLDEST]
        metafunc.parametrize("server", majors, indirect=True, ids=["newest", str(OLDEST)])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On the oldest PostgreSQL one driver is enough where others are as good."""

    def is_wanted(item: pytest.Item) -> bool:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        return params.get("server") is None or params.get("driver", DRIVERS[0]) == DRIVERS[0]

    wanted = [item for item in items if is_wanted(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
    items[:] = wanted


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[postgres.Server]:
    """One server for each worker of pytest-xdist, and one of the oldest major."""
    bindir = None
    if major := getattr(request, "param", None):
        try:
            bindir = postgres.of_major(major)
        except postgres.ServerError as error:
            pytest.skip(str(error))
    with postgres.server(bindir, place=postgres.in_memory()) as running:
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


@pytest.fixture(autouse=True)
def _not_enabled() -> Iterator[None]:
    """Undo enable(), which the engine plugin calls and which is for the life of a process."""
    yield
    if event.contains(Table, "after_parent_attach", listeners._attached):
        event.remove(Table, "after_parent_attach", listeners._attached)
    for hooks in comparators._registry.values():
        hooks[:] = [hook for hook in hooks if hook[1] != compare.ELEMENT]


@pytest.fixture(autouse=True)
def _some_terminal() -> Iterator[None]:
    """Output does not depend on the terminal of whoever runs the tests."""
    with patch.dict(os.environ, TERM="xterm"):
        for name in ("COLORTERM", "COLUMNS", "FORCE_COLOR", "LINES", "NO_COLOR"):
            os.environ.pop(name, None)
        yield


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


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    """Each driver in turn, for what has to work with all."""
    name: str = request.param
    return name


@pytest.fixture(params=[name for name in DRIVERS if name not in ASYNC] or ["psycopg2"])
def sync_driver(request: pytest.FixtureRequest) -> str:
    """As `driver`, for what runs in a project of its own that is not asynchronous."""
    name: str = request.param
    return name
