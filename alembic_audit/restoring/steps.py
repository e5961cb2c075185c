"""What a plan does: a step for each row, together by table."""

import dataclasses
from collections.abc import Mapping
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
    """What happens to the rows of one table."""

    part: Part
    steps: tuple[Step, ...]
