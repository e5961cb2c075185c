"""The replay oracle: whatever happens to a table, its trail, replayed, is the table.

    ALEMBIC_AUDIT_HISTORIES=10000 pytest -n 0 tests/oracle/test_oracle.py

runs as many random histories of DDL and DML; 200 are run where the variable is not set. A history
that fails is made small and printed, with the statements that it came to.
"""

import os
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from tests.conftest import Database
from tests.oracle.ddl import DDL
from tests.oracle.shapes import Picks, shape
from tests.oracle.statements import DML, WEIGHTED
from tests.oracle.story import SETUP, Story

HISTORIES = int(os.environ.get("ALEMBIC_AUDIT_HISTORIES", "200"))
LEVELS = ("row", "auto")
"""The levels that are declared; "auto" is statement level for half of the tables."""

choices = st.binary(min_size=24, max_size=24)
steps = st.tuples(st.sampled_from([*WEIGHTED, *DDL]), choices)


@pytest.fixture(scope="module")
def engine(shared_database: Database) -> Iterator[sa.Engine]:
    """A connection for all histories, each of which is rolled back; a new one now and then.

    A backend keeps what it knew of every table that there ever was, and gets slower.
    """
    with shared_database.engine.begin() as connection:
        for statement in SETUP:
            connection.exec_driver_sql(statement.replace("%", "%%"))
    made = sa.create_engine(shared_database.url(), pool_recycle=20)
    yield made
    made.dispose()


@settings(
    max_examples=HISTORIES,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
@given(
    level=st.sampled_from(LEVELS),
    form=st.binary(min_size=32, max_size=32),
    history=st.lists(steps, min_size=1, max_size=16),
)
def test_histories(
    engine: sa.Engine, level: str, form: bytes, history: list[tuple[str, bytes]]
) -> None:
    """After every step the trail gives the table there is, and the tables there were."""
    run(engine, level, form, history)


def run(engine: sa.Engine, level: str, form: bytes, history: list[tuple[str, bytes]]) -> Story:
    """Live through a history, and undo it."""
    story = None
    with engine.connect() as connection, connection.begin() as transaction:
        version = connection.dialect.server_version_info[0]
        try:
            story = Story(connection, shape(Picks(form), level), version)
            story.begin()
            for name, data in history:
                if name in DML:
                    story.write(DML[name], Picks(data))
                else:
                    DDL[name](story, Picks(data))
            story.check_reading()
        except BaseException:
            note("\n".join(story.script if story else []))
            raise
        finally:
            transaction.rollback()
    return story
