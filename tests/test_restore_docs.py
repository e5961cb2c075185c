"""The example in docs/restore.md, run."""

import contextlib
import io

from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from alembic_audit import audited, changes, history
from tests.conftest import Database
from tests.pages import blocks, read


class Base(DeclarativeBase):
    pass


@audited()
class Account(Base):
    __tablename__ = "account"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    city: Mapped[str]


def test_the_page(database: Database) -> None:
    """What stands there is what is printed."""
    (code,) = blocks(read("restore.md"), "python")
    (expected,) = blocks(read("restore.md"), "")
    Base.metadata.create_all(database.engine)
    with Session(database.engine) as session:
        account = Account(id=1, email="a@x", city="Rome")
        session.add(account)
        session.commit()
        account.email = "b@x"
        session.commit()
        account.city = "Oslo"
        session.commit()
        printed = io.StringIO()
        names = {
            "session": session,
            "Account": Account,
            "account": account,
            "history": history,
            "changes": changes,
        }
        with contextlib.redirect_stdout(printed):
            exec(code.text, names)
    assert expected.text == printed.getvalue()
