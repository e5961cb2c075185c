"""docs/coming-from.md, done as it stands, in databases with a trail of the other tool."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import sqlalchemy as sa

from alembic_audit import audit_table
from tests import pages
from tests.conftest import Database
from tests.project import Project
from tests.test_adoption import PREDECESSOR, WRITES

FILES = ("alembic.ini", "migrations/env.py")

WRITTEN = """\
import os
from models import Account, Base
from postgresql_audit import versioning_manager
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, configure_mappers

configure_mappers()
engine = create_engine(os.environ["DATABASE_URL"])
for cls in (versioning_manager.transaction_cls, versioning_manager.activity_cls):
    cls.__table__.create(engine)
Base.metadata.create_all(engine)

def write(who, statement=None, *rows):
    versioning_manager.values = {"actor_id": who}
    with Session(engine) as session, session.begin():
        versioning_manager.set_activity_values(session)
        session.add_all(rows)
        if statement:
            session.execute(text(statement))

write("ann", None, Account(id=1, email="joe@example.com"), Account(id=3, email="sue@example.com"))
write("ben", "UPDATE account SET email = 'joe@example.org' WHERE id = 1")
write("ben", "UPDATE account SET id = 2 WHERE id = 1")
write("cid", "DELETE FROM account WHERE id = 3")
"""


def section(title: str) -> str:
    (text,) = re.findall(
        rf"^## {title}\n(.*?)^## ", pages.read("coming-from.md"), re.MULTILINE | re.DOTALL
    )
    return str(text)


def project(directory: Path, database: Database) -> pages.Reader:
    """Return who has the project of the tutorial, without models."""
    reader = pages.reader_in(directory, database)
    reader.run("alembic init migrations")
    for block in pages.blocks(pages.read("tutorial.md")):
        if block.file in FILES:
            reader.follow(block)
    return reader


def rows(database: Database, statement: str) -> list[tuple[object, ...]]:
    with database.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(statement))]


def test_predecessor(tmp_path: Path, database: Database) -> None:
    """The trail goes on in its table, and every record is still there."""
    with database.engine.begin() as connection, connection.connection.cursor() as cursor:
        for statement in (*PREDECESSOR, *WRITES):
            cursor.execute(statement)
    reader = project(tmp_path, database)
    for block in pages.blocks(section("sqlalchemy-postgresql-audit")):
        reader.follow(block)


@pytest.mark.skipif(find_spec("postgresql_audit") is None, reason="the package is not installed")
def test_postgresql_audit(tmp_path: Path, database: Database) -> None:
    """Its records come before ours, with actor, time and both halves of a changed key."""
    reader = project(tmp_path, database)
    old, *after = pages.blocks(section("postgresql-audit"))
    reader.follow(old)
    (tmp_path / "written.py").write_text(WRITTEN)
    assert "" == reader.run("python -W ignore written.py")
    for block in after:
        if "/versions/" in block.file:
            write_into(tmp_path / block.file, block.text)
        else:
            reader.follow(block)

    records = "SELECT audit_operation, audit_username, id, email FROM account_audit"
    taken = [
        ("I", "ann", 1, "joe@example.com"),
        ("I", "ann", 3, "sue@example.com"),
        ("U", "ben", 1, "joe@example.org"),
        ("D", "ben", 1, "joe@example.org"),
        ("U", "ben", 2, "joe@example.org"),
        ("D", "cid", 3, "sue@example.com"),
    ]
    assert taken == rows(database, f"{records} ORDER BY audit_id")
    assert [(True,)] == rows(
        database,
        "SELECT bool_and(audit_transaction_id = native_transaction_id::text::bigint AND"
        " audit_operation_timestamp = issued_at AT TIME ZONE 'UTC') FROM account_audit"
        " FULL JOIN activity ON activity.id = audit_id - (audit_id > 4)::int",
    )
    reader.run("psql -c \"UPDATE account SET email = 'new'\"")
    assert (7, 5) == counts(database)

    reader.run("alembic downgrade base")
    reader.run("psql -c \"UPDATE account SET email = 'old'\"")
    assert (7, 6) == counts(database)
    reader.run("alembic upgrade head")
    reader.run("psql -c \"UPDATE account SET email = 'new'\"")
    assert (8, 6) == counts(database)


def write_into(path: Path, lines: str) -> None:
    """Write lines where the page says: before the trigger, or at the end of the downgrade."""
    text = path.read_text()
    if "INSERT" in lines:
        assert text.count("mode='SHARE ROW EXCLUSIVE'") == 1
        text = text.replace("mode='SHARE ROW EXCLUSIVE'", "mode='ACCESS EXCLUSIVE'")
        text = text.replace(
            "    op.create_audit_trigger(", f"{lines}    op.create_audit_trigger(", 1
        )
    else:
        text += lines
    path.write_text(text)


def counts(database: Database) -> tuple[object, object]:
    """Return how many records there are in the new trail and in the old one."""
    (found,) = rows(
        database, "SELECT (SELECT count(*) FROM account_audit), (SELECT count(*) FROM activity)"
    )
    new, old = found
    return new, old


CONTINUUM = """\
import sys
import warnings
warnings.simplefilter("ignore")
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, configure_mappers, mapped_column
from sqlalchemy_continuum import make_versioned

make_versioned(user_cls=None)

class Base(DeclarativeBase):
    pass

class Account(Base):
    __tablename__ = "account"
    __versioned__ = {}
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]

configure_mappers()
engine = sa.create_engine(sys.argv[1])
Base.metadata.create_all(engine)
with Session(engine) as session:
    account = Account(id=1, email="a")
    session.add(account)
    session.commit()
    account.email = "b"
    session.commit()
    session.execute(sa.update(Account).values(email="c"))
    session.commit()
    session.delete(account)
    session.commit()
"""


@pytest.mark.skipif(find_spec("sqlalchemy_continuum") is None, reason="it is not installed")
def test_continuum(tmp_path: Path, database: Database) -> None:
    """What goes past the unit of work makes no version; versions are kept beside the trail."""
    url = database.url().render_as_string(hide_password=False)
    subprocess.run([sys.executable, "-c", CONTINUUM, url], check=True)
    versions = "SELECT operation_type, transaction_id, end_transaction_id FROM account_version"
    assert [(0, 1, 2), (1, 2, 3), (2, 3, None)] == rows(database, f"{versions} ORDER BY 2")

    metadata = sa.MetaData()
    key = sa.Column("id", sa.Integer, primary_key=True)
    account = sa.Table("account", metadata, key, sa.Column("email", sa.String, nullable=False))
    audit_table(account)
    project = Project(tmp_path, database, include_name=is_not_kept)
    project.execute("INSERT INTO account VALUES (7, 'g')")
    text = project.revision(metadata)
    assert "account_version" not in text
    project.edit(with_snapshot)
    project.upgrade()
    project.check(metadata)
    assert [("S", 7, "g")] == project.rows("SELECT audit_operation, id, email FROM account_audit")
    assert [(3,)] == project.rows("SELECT count(*) FROM account_version")


def is_not_kept(name: str | None, kind: str, parents: object) -> bool:
    return kind != "table" or name not in {"account_version", "transaction"}


def with_snapshot(text: str) -> str:
    """Take the comment from the snapshot that autogenerate proposes."""
    return re.sub(r"^    # (op\.snapshot|    |\))", r"    \1", text, flags=re.MULTILINE)
