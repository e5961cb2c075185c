"""The option indexes: what it makes, what becomes of it, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from alembic_audit import DeclarationError, audit_table
from alembic_audit.tables import derive
from tests.catalogs import snapshot
from tests.conftest import Database
from tests.journey import BothWays, Journey
from tests.project import Project
from tests.test_changes import MOVED, account

EMAIL = [["email", "audit_id"], ["audit_operation_timestamp"]]
JOURNEYS = [
    Journey("indexes_none", account(), account(indexes=()), **MOVED),
    Journey("indexes_other", account(indexes=[]), account(indexes=EMAIL), **MOVED),
    Journey(
        "indexes_moved",
        account(indexes=EMAIL),
        account(indexes=EMAIL, naming={"audit.table": "%(table_name)s_history"}),
        **MOVED,
    ),
]


@pytest.mark.parametrize("journey", JOURNEYS, ids=str)
class TestJourneys(BothWays):
    """A changed option makes and drops indexes, and the downgrade puts them back."""


def indexes(project: Project) -> list[str]:
    rows = project.rows(
        "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'account_audit'::regclass"
        " ORDER BY 1"
    )
    return [name for (name,) in rows]


def test_what_somebody_made_stays(tmp_path: Path, database: Database) -> None:
    """An index made by hand is never proposed for anything."""
    project = Project(tmp_path, database)
    project.migrate(account()())
    project.execute("CREATE INDEX by_hand ON account_audit (email)")
    project.check(account()())
    project.migrate(account(indexes=())())

    assert ["account_audit_pkey", "by_hand"] == indexes(project)


def test_a_column_is_renamed(tmp_path: Path, database: Database) -> None:
    """The indexes that name it by the option are called as the option calls them then."""

    def models(email: str) -> sa.MetaData:
        table = sa.Table(
            "account",
            sa.MetaData(),
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column(email, sa.Text),
            sa.Column("note", sa.Text),
        )
        audit_table(table, indexes=[["id", email], [email], ["note"]])
        return table.metadata

    def renamed(old: str, new: str) -> str:
        return (
            f"op.rename_audited_column('account', '{old}', '{new}', audit_table='account_audit', "
            f"key=['id'], columns=['id', '{new}', 'note'], level='statement', version=1)"
        )

    project = Project(tmp_path, database)
    project.migrate(models("email"))
    project.execute("CREATE INDEX by_hand ON account_audit (email)")
    before = indexes(project)
    project.write(renamed("email", "mail"), renamed("mail", "email"))
    project.upgrade()
    project.check(models("mail"))

    made = [f"account_audit_{name}" for name in ("id_mail_idx", "mail_idx", "note_idx", "pkey")]
    assert [*made, "by_hand"] == indexes(project)
    project.downgrade()
    assert before == indexes(project)


LONG = "é" * 12 + "_of_this_account"


@pytest.mark.parametrize(
    ("old", "new"),
    [("email", LONG), (LONG, "email"), (LONG, LONG + "_s")],
    ids=["to", "of", "both"],
)
def test_names_over_63_bytes(old: str, new: str, tmp_path: Path, database: Database) -> None:
    """A shortened name of an index follows its column and its table, and comes back."""

    def models(table: str, column: str) -> sa.MetaData:
        source = sa.Table(
            table,
            sa.MetaData(),
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column(column, sa.Text),
        )
        audit_table(source, indexes=[["id", column], [column, "audit_operation_timestamp"]])
        return source.metadata

    def calls(first: str, then: str, table: str, renamed: str) -> str:
        given = f"key=['id'], columns=['id', '{then}'], level='statement', version=1"
        column = f"op.rename_audited_column('{table}', '{first}', '{then}', {given})"
        return f"{column}\n    op.rename_audited_table('{table}', '{renamed}', {given})"

    project = Project(tmp_path, database)
    project.migrate(models("account", old))
    before = snapshot(project.engine)
    other = "account_that_has_a_name_of_its_own"
    project.write(calls(old, new, "account", other), calls(new, old, other, "account"))
    project.upgrade()
    project.check(models(other, new))
    project.downgrade()
    assert before == snapshot(project.engine)


def test_a_key_too_long_for_the_index(tmp_path: Path, database: Database) -> None:
    """A text key that just fits its primary key does not fit the trail's, and needs the option."""

    def models(**options: Any) -> sa.MetaData:
        metadata = sa.MetaData()
        sa.Table(
            "account",
            metadata,
            sa.Column("id", sa.Text, primary_key=True),
            info={"audit.options": {"enabled": True, **options}},
        )
        return metadata

    insert = (
        "INSERT INTO account SELECT string_agg(md5(i::text), '')"
        " FROM generate_series(1, 84) AS i"  # 2,688 bytes, which do not compress
    )
    project = Project(tmp_path, database)
    project.migrate(models())
    with pytest.raises(sa.exc.OperationalError, match="account_audit_key_idx"):
        project.execute(insert)
    project.migrate(models(indexes=()))
    project.execute(insert)

    assert [("I",)] == project.rows("SELECT audit_operation FROM account_audit")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("email", "must be a list of lists of columns"),
        (7, "must be a list of lists of columns"),
        (["email"], "each of indexes in"),
        ([[]], "an empty or a double one"),
        ([["id"], ["id"]], "an empty or a double one"),
        (
            [["emial"]],
            r"names \['emial'\], which its audit table does not have: it has ",
        ),
    ],
)
def test_refused(value: Any, message: str) -> None:
    """What cannot be an index is refused with what to write."""
    metadata = account(indexes=value)()
    with pytest.raises(DeclarationError, match=message):
        derive(metadata.tables["account"])
