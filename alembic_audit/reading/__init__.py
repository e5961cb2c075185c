"""Reading a trail: SQLAlchemy constructs that go on being composed. One module per verb."""

from alembic_audit.reading.blame import blame
from alembic_audit.reading.difference import Change, diff
from alembic_audit.reading.history import changes, history
from alembic_audit.reading.past import as_of, past
from alembic_audit.reading.record import AuditRecord, audit_class
from alembic_audit.reading.settled import settled_transaction
from alembic_audit.reading.trail import AuditId, TransactionId

__all__ = [
    "AuditId",
    "AuditRecord",
    "Change",
    "TransactionId",
    "as_of",
    "audit_class",
    "blame",
    "changes",
    "diff",
    "history",
    "past",
    "settled_transaction",
]
