"""The pure comparison of declared specs with found states."""

import dataclasses
from typing import ClassVar

import pytest
from alembic.operations.ops import MigrateOperation

from alembic_audit.autogenerate import diff
from alembic_audit.catalog import AuditState
from alembic_audit.errors import NotBuiltError
from alembic_audit.operations import (
    CreateAuditTriggerOp,
    DropAuditTriggerOp,
    ReplaceAuditTriggerOp,
)
from alembic_audit.spec import AuditSpec

NAME = ("public", "account")
SPEC = AuditSpec.from_kwargs("account", columns=["id", "email"], key=["id"])


def test_equal_specs_are_no_diff() -> None:
    """What was found as it was meant needs nothing."""
    assert [] == diff.compare({NAME: SPEC}, {NAME: AuditState(SPEC)})


def test_columns_in_another_order_are_no_diff() -> None:
    """Reordering a model changes nothing in a database, so no migration is written for it."""
    other = dataclasses.replace(SPEC, columns=("email", "id"))
    assert [] == diff.compare({NAME: other}, {NAME: AuditState(SPEC)})


def test_operations_of_other_tools_stay() -> None:
    """They may call anything their schema or table, also what cannot be compared with a name."""

    class Another(MigrateOperation):
        schema: ClassVar[list[str]] = ["public"]
        table_name: ClassVar[list[str]] = ["account_audit"]

    theirs = [Another(), MigrateOperation()]
    assert theirs == diff.protect(theirs, {("public", "account_audit")}, "public")


def test_drift_is_a_diff_though_the_specs_are_equal() -> None:
    """Statements that were found are replaced, and the reverse puts them back."""
    state = AuditState(SPEC, ("DROP TRIGGER t ON account",))
    (op,) = diff.compare({NAME: SPEC}, {NAME: state})
    assert isinstance(op, ReplaceAuditTriggerOp)
    assert (state, AuditState(SPEC)) == (op.old, op.new)
    assert (AuditState(SPEC), state) == (op.reverse().old, op.reverse().new)


def test_new_and_vanished_trails_reverse_into_each_other() -> None:
    """Declared alone is created, found alone is dropped, and each is the other's reverse."""
    (create,) = diff.compare({NAME: SPEC}, {})
    (drop,) = diff.compare({}, {NAME: AuditState(SPEC)})
    assert isinstance(create, CreateAuditTriggerOp)
    assert isinstance(drop, DropAuditTriggerOp)
    assert create.state == drop.reverse().state
    assert drop.to_diff_tuple() == create.reverse().to_diff_tuple()


@pytest.mark.parametrize(
    ("field", "value"),
    [("audit_table", "other"), ("audit_schema", "s"), ("audit_columns", "classic")],
)
def test_a_trail_that_would_move_is_refused(field: str, value: str) -> None:
    """A second trail would tear the history, so the change is refused by name."""
    moved = dataclasses.replace(SPEC, **{field: value})
    with pytest.raises(NotBuiltError, match=field):
        diff.compare({NAME: moved}, {NAME: AuditState(SPEC)})
