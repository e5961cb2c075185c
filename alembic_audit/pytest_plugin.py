"""The pytest plugin: one fixture.

pytest loads it in every run where the package is installed, so it imports nothing until it is used.
"""

from collections.abc import Awaitable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, overload

import pytest

if TYPE_CHECKING:
    from alembic_audit.session import Async, Sync

    class Actor(Protocol):
        """What ``audit_actor`` is."""

        @overload
        def __call__(self, connectable: "Sync | None" = None, /, **values: Any) -> None: ...
        @overload
        def __call__(self, connectable: "Async", /, **values: Any) -> Awaitable[None]: ...


@pytest.fixture
def audit_actor() -> "Iterator[Actor]":
    """Say who is at work: ``audit_actor(session, username="ann")``.

    With a Session or Connection, until its transaction ends, as set_session_vars does; awaited
    where that is asynchronous. Without, until the test ends and on every enrolled engine, as
    audit_context does; a test that is a coroutine calls it inside, not in a fixture.

    A setting that no audited table declares is a SettingError, as soon as one declares any.
    """
    from alembic_audit import audit_context, set_session_vars, tables, values

    entered = []

    def act(connectable: Any = None, /, **given: Any) -> Any:
        values.check_declared(values.checked(given), tables.audited_metadata())
        if connectable is not None:
            return set_session_vars(connectable, **given)
        entered.append(audit_context(**given))
        return entered[-1].__enter__()

    yield act
    # A coroutine may have entered them in a task that this cannot reach.
    for context in entered:
        context.is_over = True
