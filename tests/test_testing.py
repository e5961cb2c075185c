"""What tests of applications use: assert_audited and the fixture, which stay out of the way."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from alembic_audit import ReadingError, SettingError, audited
from alembic_audit.context import current
from alembic_audit.pytest_plugin import audit_actor
from alembic_audit.testing import assert_audited
from tests.conftest import Database

ROOT = Path(__file__).parents[1]
__all__ = ["audit_actor"]


class Base(DeclarativeBase):
    pass


@audited(session_settings=[sa.Column("username", sa.Text)])
class Account(Base):
    __tablename__ = "account"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column("e_mail")
    name: Mapped[str | None]


@pytest.fixture
def session(shared_database: Database) -> Iterator[Session]:
    """A session of a database in which Account is audited and empty."""
    Base.metadata.create_all(shared_database.engine)
    with Session(shared_database.engine) as made:
        yield made
    Base.metadata.drop_all(shared_database.engine)


def test_it_finds_the_newest(session: Session) -> None:
    """The newest record that is as asked for, flushed first, of a transaction that goes on."""
    account = Account(id=1, email="a")
    session.add(account)
    assert "a" == assert_audited(session, Account)["e_mail"]
    account.email = "b"
    found = assert_audited(session, Account, op="U", changed={"email"}, key=1)
    assert (2, "U", "b") == (found["audit_id"], found["audit_operation"], found["e_mail"])
    account.email, account.name = "c", "n"
    for changed in ({"email", "name"}, ["e_mail", "name"]):
        assert 3 == assert_audited(session, Account, op="update", changed=changed)["audit_id"]
    assert 1 == assert_audited(session.connection(), Account.__table__, op="insert")["audit_id"]


def test_a_failure_says_what_there_is(session: Session, audit_actor) -> None:  # type: ignore[no-untyped-def]
    """The message lists the records; `changed` means all the columns, not some of them."""
    with pytest.raises(AssertionError) as none:
        assert_audited(session, Account)
    assert "no record of 'account' with anything; there is none at all" == str(none.value)
    audit_actor(session, username="ann")
    account = Account(id=1, email="a")
    session.add(account)
    session.flush()
    account.email, account.name = "b", "n"
    user = session.scalar(sa.text("SELECT session_user"))
    with pytest.raises(AssertionError) as some:
        assert_audited(session, Account, op="U", changed={"email"}, actor={"username": "ann"})
    lines = str(some.value).splitlines()
    assert (
        "no record of 'account' with op='U', changed={'email'}, actor={'username': 'ann'}; "
        "the newest there are:"
    ) == lines[0]
    assert f"  1 I id=1 by {user!r} username='ann'" == lines[2]
    assert lines[1].startswith("  2 U id=1 changed={") and "'e_mail'" in lines[1]


def test_what_is_misspelt_is_no_failed_assertion(session: Session) -> None:
    """A wrong name is said, so that a test does not fail for another reason than it seems."""
    for changed, message in (({"emial"}, "no column 'emial'"), ("email", "is one text")):
        with pytest.raises(ReadingError, match=message):
            assert_audited(session, Account, changed=changed)
    with pytest.raises(ReadingError, match="did you mean 'update'"):
        assert_audited(session, Account, op="updat")


def test_asynchronous(session: Session, shared_database: Database) -> None:
    """An AsyncSession runs it by run_sync; given itself, it is told so."""

    async def run() -> None:
        engine = create_async_engine(shared_database.url("asyncpg"), poolclass=sa.NullPool)
        async with AsyncSession(engine) as made:
            made.add(Account(id=1, email="a"))
            assert 1 == (await made.run_sync(assert_audited, Account, op="I"))["id"]
            with pytest.raises(ReadingError, match="run_sync"):
                assert_audited(made, Account)  # type: ignore[arg-type]
        await engine.dispose()

    asyncio.run(run())


SUITE = """
import os
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from alembic_audit import audited, instrument
from alembic_audit.context import current
from alembic_audit.testing import assert_audited

class Base(DeclarativeBase):
    pass

@audited(session_settings=[sa.Column("username", sa.Text)])
class Account(Base):
    __tablename__ = "planned"
    id: Mapped[int] = mapped_column(primary_key=True)

def test_context(audit_actor):
    engine = sa.create_engine(os.environ["URL"])
    Base.metadata.create_all(engine)
    instrument(engine)
    audit_actor(username="ann")
    with Session(engine) as session:
        session.add(Account(id=1))
        assert_audited(session, Account, op="I", actor={"username": "ann"})
    engine.dispose()

def test_it_is_over():
    assert {} == dict(current())
"""


def pytest_run(folder: Path, text: str, *arguments: str, **environment: str) -> str:
    """Run pytest on a file as a user's project would, the plugin loaded as its entry point does."""
    (folder / "test_it.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", *arguments, "test_it.py"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **environment},
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


def test_the_fixture(tmp_path: Path, shared_database: Database) -> None:
    """In a project of its own the fixture sets the actor until the test ends."""
    url = shared_database.url().render_as_string(hide_password=False)
    out = pytest_run(tmp_path, SUITE, "-p", "no:asyncio", URL=url)
    assert "2 passed" in out


ASYNC_SUITE = """
import asyncio, os
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from alembic_audit import SettingError, audited, instrument
from alembic_audit.context import current
from alembic_audit.testing import assert_audited

MARK

class Base(DeclarativeBase):
    pass

@audited(session_settings=[sa.Column("username", sa.Text)])
class Account(Base):
    __tablename__ = "planned_too"
    id: Mapped[int] = mapped_column(primary_key=True)

async def work(act, number, given):
    engine = create_async_engine(os.environ["URL"], poolclass=sa.NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    instrument(engine)
    async with AsyncSession(engine) as session:
        if given:
            await act(session, username="ann")
        else:
            act(username="ann")
        session.add(Account(id=number))
        ann = {"username": "ann"}
        await session.run_sync(assert_audited, Account, op="I", key=number, actor=ann)
        await session.commit()
    await engine.dispose()

async def test_session(audit_actor):
    await work(audit_actor, 1, True)
    assert {} == dict(current())

async def test_context(audit_actor):
    await work(audit_actor, 2, False)
    await asyncio.create_task(work(audit_actor, 3, False))
    assert {"username": "ann"} == dict(current())

async def test_it_is_over():
    assert {} == dict(current())

async def test_again(audit_actor):
    audit_actor(username="ben")
    assert {"username": "ben"} == dict(current())

async def test_it_is_over_again():
    assert {} == dict(current())

def test_it_is_over_elsewhere():
    assert {} == dict(current())

async def test_unknown(audit_actor):
    with pytest.raises(SettingError, match="did you mean 'username'"):
        audit_actor(usrname="ann")
    assert {} == dict(current())
"""


@pytest.mark.parametrize(
    ("plugin", "mark"),
    [
        ("pytest_asyncio", 'pytestmark = pytest.mark.asyncio(loop_scope="module")'),
        ("pytest_asyncio", "pytestmark = pytest.mark.asyncio"),
        (
            "anyio",
            'pytestmark = pytest.mark.anyio\n\n@pytest.fixture(scope="module")\n'
            'def anyio_backend():\n    return "asyncio"',
        ),
    ],
)
def test_the_fixture_in_coroutines(
    plugin: str, mark: str, tmp_path: Path, database: Database
) -> None:
    """Of pytest-asyncio and anyio: one task for all tests, or one for each; then it is over."""
    pytest.importorskip(plugin)
    url = database.url("asyncpg").render_as_string(hide_password=False)
    suite = ASYNC_SUITE.replace("MARK", mark)
    # pytest-asyncio warns of a synchronous test that is marked, and pytest of an option of the
    # other plugin.
    options = "-W ignore::pytest.PytestWarning -o asyncio_default_fixture_loop_scope=function"
    out = pytest_run(tmp_path, suite, *options.split(), URL=url)
    assert "7 passed" in out


def test_a_setting_that_nobody_declares(session: Session, audit_actor) -> None:  # type: ignore[no-untyped-def]
    """A test that says a wrong name would otherwise pass without saying who."""
    for given in ((session,), ()):
        with pytest.raises(SettingError, match="did you mean 'username'"):
            audit_actor(*given, usrname="ann")
    assert {} == current()


def test_it_stays_out_of_the_way(tmp_path: Path) -> None:
    """A run that does not use the plugin imports neither this package nor SQLAlchemy for it."""
    text = (
        "import sys\ndef test():\n    assert 'alembic_audit.pytest_plugin' in sys.modules\n"
        "    assert not {'sqlalchemy', 'alembic'} & set(sys.modules)\n"
    )
    out = pytest_run(
        tmp_path, text, "-p", "alembic_audit.pytest_plugin", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"
    )
    assert "1 passed" in out
