"""The operations: trail, rename, history say what they hold and how they reverse, run how they run.

Every `alembic` command imports this package. What an operation runs is imported when one runs.
"""

import alembic  # noqa: F401  (first, or the order of imports decides whether this module loads)
from alembic.operations import Operations

from alembic_audit.operations.base import AuditOperation
from alembic_audit.operations.history import (
    AddAuditColumnOp,
    AlterAuditColumnOp,
    CreateAuditIndexOp,
    CreateAuditSchemaOp,
    CreateAuditTableOp,
    DropAuditColumnOp,
    DropAuditSchemaOp,
    DropAuditTableOp,
    LockAuditedTablesOp,
    LockOnDowngradeOp,
    NumberAuditTableOp,
    PurgeAuditTableOp,
)
from alembic_audit.operations.rename import (
    MoveAuditedTableOp,
    RenameAuditedColumnOp,
    RenameAuditedTableOp,
)
from alembic_audit.operations.settings import SetAuditContextOp
from alembic_audit.operations.trail import (
    CreateAuditTriggerOp,
    DropAuditTriggerOp,
    ReplaceAuditTriggerOp,
    RestoreAuditTriggerOp,
    SnapshotAuditTableOp,
    display_name,
    nothing,
)

__all__ = [
    "AddAuditColumnOp",
    "AlterAuditColumnOp",
    "AuditOperation",
    "CreateAuditIndexOp",
    "CreateAuditSchemaOp",
    "CreateAuditTableOp",
    "CreateAuditTriggerOp",
    "DropAuditColumnOp",
    "DropAuditSchemaOp",
    "DropAuditTableOp",
    "DropAuditTriggerOp",
    "LockAuditedTablesOp",
    "LockOnDowngradeOp",
    "MoveAuditedTableOp",
    "NumberAuditTableOp",
    "PurgeAuditTableOp",
    "RenameAuditedColumnOp",
    "RenameAuditedTableOp",
    "ReplaceAuditTriggerOp",
    "RestoreAuditTriggerOp",
    "SetAuditContextOp",
    "SnapshotAuditTableOp",
    "display_name",
    "nothing",
]


@Operations.implementation_for(AuditOperation)
def _run(operations: Operations, op: AuditOperation) -> None:
    from alembic_audit.operations import run

    run.RUN[type(op)](operations, op)
