"""The operations: trail and history say what they hold and how they reverse, run how they run."""

from alembic_audit.operations import run
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
from alembic_audit.operations.run import default_schema
from alembic_audit.operations.settings import SetAuditContextOp
from alembic_audit.operations.trail import (
    CreateAuditTriggerOp,
    DropAuditTriggerOp,
    RenameAuditedColumnOp,
    RenameAuditedTableOp,
    ReplaceAuditTriggerOp,
    RestoreAuditTriggerOp,
    SnapshotAuditTableOp,
    display_name,
    nothing,
)

__all__ = [
    "AddAuditColumnOp",
    "AlterAuditColumnOp",
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
    "NumberAuditTableOp",
    "PurgeAuditTableOp",
    "RenameAuditedColumnOp",
    "RenameAuditedTableOp",
    "ReplaceAuditTriggerOp",
    "RestoreAuditTriggerOp",
    "SetAuditContextOp",
    "SnapshotAuditTableOp",
    "default_schema",
    "display_name",
    "nothing",
    "run",
]
