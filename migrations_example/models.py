"""The models as they are today; history.py has what they were at each revision."""

import datetime
from decimal import Decimal

from sqlalchemy import Column, DateTime, ForeignKey, MetaData, Numeric, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from alembic_audit import audited


class Base(DeclarativeBase):
    metadata = MetaData(
        info={"audit.defaults": {"session_settings": [Column("username", String, nullable=False)]}}
    )


@audited(operations=["insert", "update", "delete"])
class Customer(Base):
    __tablename__ = "customer"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    phone: Mapped[str | None]
    last_seen: Mapped[datetime.datetime | None] = mapped_column(
        DateTime(timezone=True), info={"audit": "ignore"}
    )


class Invoice(Base):
    __tablename__ = "invoice"
    __table_args__ = (
        {"info": {"audit.options": {"enabled": False, "reason": "the ledger keeps its history"}}},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customer.id"))
    amount: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    due: Mapped[datetime.date | None]
