"""What the models were at each revision, and how the revisions were generated.

``DATABASE_URL=... python migrations_example/history.py`` writes versions/, which must be empty as
the database must.
"""

from pathlib import Path

import models
from alembic import command
from alembic.config import Config
from sqlalchemy import (
    Column,
    Date,
    DateTime,
    ForeignKey,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
)


def created() -> MetaData:
    """Two tables, without an audit."""
    metadata = MetaData()
    _customer(metadata, Column("name", String))
    _invoice(metadata)
    return metadata


def audited() -> MetaData:
    """Both tables are audited, and every change has to say by whom it is."""
    metadata = _with_setting()
    _customer(metadata, Column("name", String), enabled=True)
    _invoice(metadata, enabled=True)
    return metadata


def columns() -> MetaData:
    """A customer has no name any more, but a phone; an invoice is due."""
    metadata = _with_setting()
    _customer(metadata, *_contact(), enabled=True)
    _invoice(metadata, Column("due", Date), enabled=True)
    return metadata


def options() -> MetaData:
    """Less is recorded of a customer, and of an invoice which columns changed."""
    metadata = _with_setting()
    last_seen_ignored = {
        "operations": ["insert", "update", "delete"],
        "ignore_columns": ["last_seen"],
    }
    _customer(metadata, *_contact(), enabled=True, **last_seen_ignored)
    _invoice(metadata, Column("due", Date), enabled=True, changed_columns=True, skip_unchanged=True)
    return metadata


def today() -> MetaData:
    """The audit of invoices has ended."""
    return models.Base.metadata


STEPS = {
    "0001": ("create tables", created),
    "0002": ("audit both", audited),
    "0003": ("add and drop columns", columns),
    "0004": ("change audit options", options),
    "0005": ("stop auditing invoices", today),
}


def generate(ini: Path) -> None:
    """Generate every revision into the versions/ beside an alembic.ini, and upgrade to it."""
    for revision, (message, metadata) in STEPS.items():
        config = Config(ini)
        config.attributes["metadata"] = metadata()
        command.revision(config, message, autogenerate=True, rev_id=revision)
        command.upgrade(config, "head")


def _with_setting() -> MetaData:
    username = Column("username", String, nullable=False)
    return MetaData(info={"audit.defaults": {"session_settings": [username]}})


def _customer(metadata: MetaData, *more: Column, **audit: object) -> None:
    Table(
        "customer",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("email", String, nullable=False),
        *more,
        info={"audit.options": audit} if audit else {},
    )


def _contact() -> list[Column]:
    return [Column("phone", String), Column("last_seen", DateTime(timezone=True))]


def _invoice(metadata: MetaData, *more: Column, **audit: object) -> None:
    Table(
        "invoice",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("customer_id", Integer, ForeignKey("customer.id"), nullable=False),
        Column("amount", Numeric(12, 2), nullable=False),
        *more,
        info={"audit.options": audit} if audit else {},
    )


if __name__ == "__main__":
    generate(Path(__file__).with_name("alembic.ini"))
