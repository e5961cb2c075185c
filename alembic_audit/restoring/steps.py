"""What a plan does: a step for each row, together by table."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from alembic_audit.restoring.rows import Part, Row

Action = Literal["insert", "update", "delete"]


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """What happens to one row.

    Attributes:
        row: The row, as it was when the plan was made.
        action: What is done.
        names: The columns that are written from its record.
        given: Values for others.
        reasons: Why columns that should be written are not.
    """

    row: Row
    action: Action
    names: tuple[str, ...]
    given: Mapping[str, Any]
    reasons: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Work:
    """What happens to the rows of one table.

    Attributes:
        part: The rows.
        steps: What happens to each.
        place: When rows are inserted, among the tables; they are deleted the other way round.
        set_later: Columns that are NULL in rows that are inserted, until all rows are there.
        cleared: Columns that become NULL before rows are deleted.
    """

    part: Part
    steps: tuple[Step, ...]
    place: int = 0
    set_later: tuple[str, ...] = ()
    cleared: tuple[str, ...] = ()


def alike(work: Work, action: Action) -> Iterable[list[Step]]:
    """The steps of an action, together those that one statement does."""
    found: dict[Any, list[Step]] = {}
    for step in work.steps:
        if step.action == action:
            own = step.row.key if step.given else None
            found.setdefault((step.names, *step.given, own), []).append(step)
    return found.values()
