"""The example in docs/reading.md, run."""

import contextlib
import io

from sqlalchemy import Column, Text, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from alembic_audit import audited, set_session_vars
from tests.conftest import Database
from tests.pages import blocks, read


class Base(DeclarativeBase):
    pass


@audited(session_settings=[Column("username", Text)])
class Account(Base):
    __tablename__ = "account"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]


def test_the_page(database: Database) -> None:
    """What stands there is what is printed."""
    (code,) = blocks(read("reading.md"), "python")
    (expected,) = blocks(read("reading.md"), "")
    Base.metadata.create_all(database.engine)
    with Session(database.engine) as session:
        set_session_vars(session, username="ann")
        account = Account(id=1, email="a@x.org")
        session.add(account)
        session.commit()
        set_session_vars(session, username="ben")
        account.email = "b@x.org"
        session.commit()
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(
                code.text, {"session": session, "Account": Account, "select": select, "func": func}
            )
    assert expected.text == printed.getvalue()
