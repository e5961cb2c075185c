"""A history of an audit, each revision by `alembic revision --autogenerate`."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa

from alembic_audit.tables import derive
from tests.project import Project

NAMES = {
    "audit.table": "%(table_name)s_history",
    "audit.function": "f_%(table_name)s",
    "audit.trigger": "00_%(table_name)s",
    "audit.setting": "s_%(setting)s",
}


def models(
    *,
    account: dict[str, Any] | None = None,
    invoice: dict[str, Any] | None = None,
    receipt: dict[str, Any] | None = None,
    mail: str = "email",
    note: bool = False,
    payer: bool = False,
    amount: type[Any] = sa.Integer,
    names: dict[str, str] | None = None,
) -> sa.MetaData:
    """Return the tables; each is audited with the options given, and `receipt` only there then."""

    metadata = sa.MetaData(naming_convention=names or {})

    def table(name: str, options: dict[str, Any] | None, *columns: sa.schema.SchemaItem) -> None:
        info = {} if options is None else {"audit.options": {"enabled": True, **options}}
        key = sa.Column("id", sa.BigInteger, primary_key=True)
        stamp = sa.Column("stamp", sa.BigInteger)
        sa.Table(name, metadata, key, stamp, *columns, info=info)

    def refers() -> sa.Column[int]:
        return sa.Column("account_id", sa.ForeignKey("account.id", ondelete="CASCADE"))

    notes = [sa.Column("note", sa.Text)] if note else []
    seen = sa.Column("seen", sa.BigInteger)
    table("account", account, seen, sa.Column(mail, sa.Text), *notes)
    key = sa.ForeignKeyConstraint(
        ["payer_id"], ["account.id"], name="invoice_payer", ondelete="CASCADE"
    )
    payers = [sa.Column("payer_id", sa.BigInteger), *([key] if payer else [])]
    table("invoice", invoice, refers(), *payers, sa.Column("amount", amount))
    if receipt is not None:
        table("receipt", receipt, refers())
    return metadata


def who(nullable: bool = True) -> dict[str, Any]:
    return {"session_settings": [sa.Column("who", sa.Text, nullable=nullable)]}


def _stages() -> Iterator[dict[str, Any]]:
    """Return the arguments of `models` for each revision."""
    yield {}
    yield (now := {"account": {}})  # the first audit of a table that exists
    yield (now := now | {"note": True})  # a column more
    options: dict[str, Any] = {"ignore_columns": ["seen"]}
    yield (now := now | {"account": options})  # options: only the function changes
    options = options | {"changed_columns": True, "always": True}
    yield (now := now | {"account": options})  # options: audit table and triggers change too
    yield (now := now | {"account": options | who()})  # a setting
    yield (now := now | {"mail": "mail"})  # op.rename_audited_column
    # A second audited table, with a foreign key more to the first.
    yield (now := now | {"payer": True, "invoice": {"always": True, "append_only": True, **who()}})
    yield (now := now | {"receipt": {**who()}})  # a new table, audited, with a foreign key
    yield (now := now | {"amount": sa.Text})  # a column is retyped, and its history set aside
    yield (now := now | {"names": NAMES})  # everything is called otherwise
    yield (now := now | {"note": False})  # a column less
    # A setting is required, and the ignored column counts again.
    yield now | {"account": {"changed_columns": True, **who(nullable=False)}}


def _rename(metadata: sa.MetaData, old: str, new: str) -> str:
    """Return the operation that renames a column of `account`, as a person writes it."""
    derive(metadata.tables["account"])
    kwargs = metadata.tables["account"].info["audit.spec"].full_kwargs()
    del kwargs["schema"]
    arguments = "".join(f", {name}={value!r}" for name, value in kwargs.items())
    return f"op.rename_audited_column('account', {old!r}, {new!r}{arguments})"


def _edited(before: sa.MetaData, after: sa.MetaData) -> Callable[[str], str]:
    """Return what a person changes in the revision that autogenerate wrote between two models."""
    if "mail" in after.tables["account"].c and "email" in before.tables["account"].c:
        up, down = _rename(after, "email", "mail"), _rename(before, "mail", "email")
        body = f"def upgrade():\n    {up}\n\n\ndef downgrade():\n    {down}\n"
        return lambda text: text[: text.index("def upgrade")] + body
    to_integer = r"(op\.alter_column\('invoice', 'amount',\n.*\n +type_=sa\.INTEGER\(\)),"
    return lambda text: re.sub(to_integer, r"\1, postgresql_using='amount::integer',", text)


def revisions(project: Project, after_each: Callable[[], None] = lambda: None) -> list[sa.MetaData]:
    """Generate all revisions by autogenerate, upgrading on the way; return their models."""
    made = [models(**one) for one in _stages()]
    for before, after in zip([made[0], *made], made, strict=False):
        project.revision(after)
        project.edit(_edited(before, after))
        project.upgrade()
        after_each()
    return made


def last() -> sa.MetaData:
    """Return the models of the last revision."""
    *_, arguments = _stages()
    return models(**arguments)
