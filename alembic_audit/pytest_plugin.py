"""The pytest plugin: one fixture.

pytest loads it in every run where the package is installed, so it imports nothing until it is used.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture
def audit_actor() -> Iterator[Callable[..., None]]:
    """Say who is at work: ``audit_actor(session, username="ann")``.

    With a Session or Connection, until its transaction ends, as set_session_vars does. Without,
    until the test ends and on every enrolled engine, as audit_context does.
    """
    from contextlib import ExitStack

    with ExitStack() as stack:

        def act(connectable: Any = None, /, **values: Any) -> None:
            from alembic_audit import audit_context, set_session_vars

            if connectable is None:
                stack.enter_context(audit_context(**values))
            else:
                set_session_vars(connectable, **values)

        yield act
