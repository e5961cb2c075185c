"""`sparse_columns`: an UPDATE stores a large value only when it changes it, and says so."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic_audit import AuditId, DeclarationError, SpecError, as_of, audit_table
from alembic_audit.spec import AuditSpec
from tests.catalogs import snapshot
from tests.conftest import Database
from tests.project import Project

LARGE = "SELECT string_agg(md5(i::text), '') FROM generate_series(1, 250) AS i"


def models(**options: Any) -> sa.MetaData:
    table = sa.Table(
        "page",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("title", sa.Text),
        sa.Column("body", sa.Text),
        sa.Column("links", postgresql.JSON),
    )
    audit_table(table, **options)
    return table.metadata


BOTH = ["body", "links"]


@pytest.fixture
def project(tmp_path: Path, database: Database) -> Project:
    """A project whose page has two sparse columns."""
    made = Project(tmp_path, database)
    made.migrate(models(sparse_columns=BOTH))
    made.execute("""INSERT INTO page VALUES (1, 'a', 'text', '{"a": 1}')""")
    return made


def newest(project: Project, count: int = 1) -> list[tuple[Any, ...]]:
    rows = project.rows(
        "SELECT audit_operation, id, title, body, links::text, audit_omitted_columns "
        f"FROM page_audit ORDER BY audit_id DESC LIMIT {count}"
    )
    return rows[::-1]


def test_what_an_update_leaves_alone_is_left_out(project: Project) -> None:
    """The record names what it left out; the others have their values."""
    assert [("I", 1, "a", "text", '{"a": 1}', None)] == newest(project)
    project.execute("UPDATE page SET title = 'b', body = body")
    assert [("U", 1, "b", None, None, ["body", "links"])] == newest(project)
    project.execute("UPDATE page SET body = 'new'")
    assert [("U", 1, "b", "new", None, ["links"])] == newest(project)
    project.execute("UPDATE page SET body = 'newer', links = '[]'")
    assert [("U", 1, "b", "newer", "[]", None)] == newest(project)


def test_null_is_not_left_out(project: Project) -> None:
    """A value that becomes NULL is recorded as NULL, and stays left out while it is NULL."""
    project.execute("UPDATE page SET body = NULL")
    assert [("U", 1, "a", None, None, ["links"])] == newest(project)
    project.execute("UPDATE page SET links = NULL")
    assert [("U", 1, "a", None, None, ["body"])] == newest(project)
    project.execute("UPDATE page SET body = '', links = 'null'")
    assert [("U", 1, "a", "", "null", None)] == newest(project)


def test_delete_and_a_changed_key_store_everything(project: Project) -> None:
    """The history of a key begins and ends with whole rows."""
    project.execute("UPDATE page SET id = 2")
    whole = ("a", "text", '{"a": 1}', None)
    assert [("D", 1, *whole), ("U", 2, *whole)] == newest(project, 2)
    project.execute("DELETE FROM page")
    assert [("D", 2, *whole)] == newest(project)


def test_a_snapshot_stores_everything(project: Project) -> None:
    """What was there before the trail is recorded whole."""
    project.write(
        "op.snapshot_audit_table('page', key=['id'], columns=['id', 'title', 'body', 'links'], "
        "sparse_columns=['body', 'links'])"
    )
    project.upgrade()
    assert [("S", 1, "a", "text", '{"a": 1}', None)] == newest(project)


def test_a_record_without_a_large_value_is_small(project: Project) -> None:
    """8 kB left alone cost the record nothing, in the heap or beside it."""
    project.execute(f"UPDATE page SET body = ({LARGE})", "UPDATE page SET title = 'b'")
    size = "SELECT pg_column_size(body) FROM page_audit ORDER BY audit_id DESC LIMIT 2"
    assert [(None,), (8000,)] == project.rows(size)
    ((whole,),) = project.rows("SELECT pg_column_size(a) FROM page_audit AS a WHERE audit_id = 3")
    assert whole < 200


def test_the_option_is_an_ordinary_diff(tmp_path: Path, database: Database) -> None:
    """It comes and goes by autogenerate; what was recorded stays, and the way back is exact."""
    project = Project(tmp_path, database)
    project.migrate(models())
    before = snapshot(database.engine)
    text = project.migrate(models(sparse_columns=["body"]))
    assert "sparse_columns=['body']" in text
    assert "level={'insert': 'statement', 'update': 'row', 'delete': 'statement'}" in text
    project.execute("INSERT INTO page VALUES (1, 'a', 'x')", "UPDATE page SET title = 'b'")
    project.migrate(models())
    project.execute("UPDATE page SET title = 'c'")
    assert [
        ("I", 1, "a", "x", None, None),
        ("U", 1, "b", None, None, ["body"]),
        ("U", 1, "c", "x", None, None),
    ] == newest(project, 3)
    project.execute("TRUNCATE page_audit")
    project.downgrade("0001")
    assert before == snapshot(database.engine)


def test_a_sparse_column_is_renamed(tmp_path: Path, database: Database) -> None:
    """What a record left out is found under the new name, and under the old one again."""

    def page(body: str) -> sa.MetaData:
        columns = [sa.Column("id", sa.Integer, primary_key=True), sa.Column("title", sa.Text)]
        table = sa.Table("page", sa.MetaData(), *columns, sa.Column(body, sa.Text))
        audit_table(table, sparse_columns=[body], append_only=True)
        return table.metadata

    def renamed(old: str, new: str) -> str:
        return (
            f"op.rename_audited_column('page', '{old}', '{new}', audit_table='page_audit', "
            f"key=['id'], columns=['id', 'title', '{new}'], append_only=True, "
            f"level={{'insert': 'statement', 'update': 'row', 'delete': 'statement'}}, "
            f"sparse_columns=['{new}'], version=1)"
        )

    def was(name: str) -> list[str]:
        table = page(name).tables["page"]
        with project.engine.connect() as connection:
            rows = [connection.execute(as_of(table, AuditId(number))).one() for number in (1, 2)]
        return [row[-1] for row in rows]

    project = Project(tmp_path, database)
    project.migrate(page("body"))
    project.execute("INSERT INTO page VALUES (1, 'a', 'x')", "UPDATE page SET title = 'b'")
    project.write(renamed("body", "text"), renamed("text", "body"))
    project.upgrade()
    project.check(page("text"))
    assert ["x", "x"] == was("text")
    assert [(None,), (["text"],)] == project.rows(
        "SELECT audit_omitted_columns FROM page_audit ORDER BY audit_id"
    )
    with pytest.raises(sa.exc.DBAPIError, match="is append-only"):
        project.execute("UPDATE page_audit SET title = 'forged'")
    project.downgrade()
    assert [] == project.differences(page("body"))
    assert ["x", "x"] == was("body")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparse_columns": ["bdy"]}, "sparse_columns in .*'bdy'.*did you mean 'body'"),
        ({"sparse_columns": ["id"]}, r"sparse_columns of 'page' names key columns \['id'\]"),
        ({"sparse_columns": BOTH, "hash_columns": BOTH}, "in hash_columns and in sparse_columns"),
        ({"sparse_columns": BOTH, "exclude_columns": BOTH}, "in exclude_columns and in sparse"),
        ({"sparse_columns": BOTH, "level": "statement"}, "does not go with sparse_columns"),
        ({"sparse_columns": "body"}, "sparse_columns in .* must be a list of names"),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], message: str) -> None:
    """Each message names the option and the way out."""
    with pytest.raises(DeclarationError, match=message):
        models(**options)


def test_a_table_without_a_key_is_refused() -> None:
    """Nothing would tell which record has the value that another one leaves out."""
    with pytest.raises(SpecError, match="sparse_columns of 'page', which has no key"):
        AuditSpec.from_kwargs("page", columns=["body"], sparse_columns=["body"])
