"""The pure comparison of declared specs with found states."""

import dataclasses
from typing import ClassVar

from alembic.operations.ops import MigrateOperation

from alembic_audit.autogenerate import diff, protect
from alembic_audit.operations import (
    CreateAuditTriggerOp,
    DropAuditTriggerOp,
    ReplaceAuditTriggerOp,
)
from alembic_audit.spec import AuditSpec
from alembic_audit.states import TRIGGER_MISSING, AuditState, Drift

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
    assert theirs == protect.protect(theirs, {("public", "account_audit")}, "public")


def test_drift_is_a_diff_though_the_specs_are_equal() -> None:
    """Statements that were found are replaced, and the reverse puts them back."""
    drift = Drift(TRIGGER_MISSING, "trigger t is gone")
    state = AuditState(SPEC, ("DROP TRIGGER t ON account",), drift=(drift,))
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
