"""Two branches change one trail: after `alembic merge` it records what both of them made."""

import logging
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command

from alembic_audit.errors import SpecError
from alembic_audit.merging import merge
from alembic_audit.spec import AuditSpec
from tests.catalogs import snapshot
from tests.conftest import DRIVERS, Database
from tests.journey import psql
from tests.project import Project
from tools import postgres


def models(*columns: str, table: str = "account", **options: object) -> sa.MetaData:
    metadata = sa.MetaData()
    sa.Table(
        table,
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        *(sa.Column(name, sa.Text) for name in columns),
        info={"audit.options": {"enabled": True, **options}},
    )
    return metadata


def branched(project: Project, former: sa.MetaData, **branches: sa.MetaData) -> None:
    """Write a first revision, branches that were made without each other, and their merge."""
    project.migrate(former)
    made = {}
    for name, metadata in branches.items():
        project.config.attributes["metadata"] = metadata
        command.revision(project.config, name, autogenerate=True, rev_id=name)
        path = project.path / "versions" / f"{name}_{name}.py"
        made[path] = path.read_text()
        path.unlink()  # as it is not there in the other branch
    for path, text in made.items():
        path.write_text(text)
    project.config.attributes["metadata"] = former
    command.merge(project.config, list(branches), rev_id="merge")


ADDS = models("email", "note", "foo")
DROPS = models("email")
BOTH = models("email", "foo")


@pytest.mark.parametrize("driver", DRIVERS)
def test_one_adds_a_column_and_the_other_drops_one(
    driver: str, tmp_path: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Whichever runs first, `alembic check` is clean; down and up again is the same."""
    project = Project(tmp_path, database, driver)
    branched(project, models("email", "note"), a=ADDS, b=DROPS)
    first = snapshot(project.engine)
    for order in (["a", "b"], ["b", "a"]):
        with caplog.at_level(logging.INFO, logger="alembic_audit"):
            for revision in (*order, "merge"):
                project.upgrade(revision)
        assert "was changed by another revision; applied to it: columns:" in caplog.text
        caplog.clear()
        project.check(BOTH)
        project.downgrade("0001")
        assert first == snapshot(project.engine)
    project.upgrade()
    project.execute("INSERT INTO account VALUES (1, 'e', 'f')")
    assert [("e", "f")] == project.rows("SELECT email, foo FROM account_audit")


OPTIONS = {
    "operations": (
        {"operations": ["insert", "update", "delete"]},
        {"skip_unchanged": True},
        {"operations": ["insert", "update", "delete"], "skip_unchanged": True},
    ),
    "settings": (
        {"session_settings": [sa.Column("who", sa.Text)]},
        {"session_settings": [sa.Column("why", sa.Text)]},
        {"session_settings": [sa.Column("who", sa.Text), sa.Column("why", sa.Text)]},
    ),
    "the same": ({"append_only": True}, {"append_only": True}, {"append_only": True}),
    "columns": (
        {"hash_columns": ["email"]},
        {"ignore_columns": ["note"]},
        {"hash_columns": ["email"], "ignore_columns": ["note"]},
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name: str, tmp_path: Path, database: Database) -> None:
    """Each option that either branch gave is there, and goes with its revision."""
    one, other, both = OPTIONS[name]
    project = Project(tmp_path, database)
    former = models("email", "note")
    branched(project, former, a=models("email", "note", **one), b=models("email", "note", **other))
    project.upgrade()
    project.check(models("email", "note", **both))
    project.downgrade("0001")
    assert [] == project.differences(former)


def test_a_rename_on_one_branch(tmp_path: Path, database: Database) -> None:
    """The other one's change is applied to what is called otherwise, in either order."""
    project = Project(tmp_path, database)
    branched(project, models("email", "note"), a=models("email", "note", "foo"), b=DROPS)
    path = next((tmp_path / "versions").glob("b_*.py"))
    start = path.read_text()[: path.read_text().index("def upgrade")]
    arguments = 'audit_table="account_audit", key=["id"], level="statement"'
    path.write_text(
        f'{start}def upgrade():\n    op.rename_audited_column("account", "note", "text", '
        f'columns=["id", "email", "text"], {arguments})\n\n\n'
        'def downgrade():\n    op.rename_audited_column("account", "text", "note", '
        f'columns=["id", "email", "note"], {arguments})\n'
    )
    for order in (["a", "b"], ["b", "a"]):
        for revision in (*order, "merge"):
            project.upgrade(revision)
        project.check(models("email", "text", "foo"))
        project.downgrade("0001")
        assert [] == project.differences(models("email", "note"))


def test_both_change_one_thing(tmp_path: Path, database: Database) -> None:
    """The error has both changes and the operation to write; written, it works."""
    project = Project(tmp_path, database)
    former = models("email", "note")
    branched(
        project,
        former,
        a=models("email", "note", hash_columns=["note"]),
        b=models("email", "note", ignore_columns=["note"]),
    )
    project.upgrade("a")
    before = snapshot(project.engine)
    with pytest.raises(SpecError) as caught:
        project.upgrade()
    message = str(caught.value)
    assert "both change column note" in message
    assert "This revision: ignore_columns: [] becomes ['note']" in message
    assert "hash_columns: [] becomes ['note']" in message
    assert "Let this revision follow the other one (down_revision)" in message
    assert before == snapshot(project.engine)

    line = message[message.index("op.replace_audit_trigger(") :]
    path = next((tmp_path / "versions").glob("b_*.py"))
    text = path.read_text().replace("down_revision = '0001'", "down_revision = 'a'")
    start = text[: text.index("def upgrade")]
    path.write_text(f"{start}def upgrade():\n    {line}\n\n\ndef downgrade():\n    pass\n")
    merged = next((tmp_path / "versions").glob("merge_*.py"))
    merged.unlink()
    project.upgrade()
    project.check(models("email", "note", ignore_columns=["note"]))


def test_offline(tmp_path: Path, server: postgres.Server, database: Database) -> None:
    """A script cannot look: it stops at the second branch, and online the upgrade goes on."""
    project = Project(tmp_path, database)
    branched(project, models("email", "note"), a=ADDS, b=DROPS)
    script = project.sql("upgrade", "0001:merge")
    before = snapshot(project.engine)
    with pytest.raises(Exception, match="is not the one that this operation replaces") as caught:
        psql(server, database, tmp_path / "script.sql", script)
    assert "Upgrade online, where this change is applied to what is there" in str(caught.value)
    assert "This operation changes: columns:" in str(caught.value)
    assert before == snapshot(project.engine)
    project.upgrade()
    project.check(BOTH)


def test_the_other_one_ended_the_trail(tmp_path: Path, database: Database) -> None:
    """No function is made that no trigger calls."""
    project = Project(tmp_path, database)
    branched(project, models("email", "note"), a=models("email", "note", enabled=False), b=ADDS)
    project.upgrade("a")
    before = snapshot(project.engine)
    with pytest.raises(sa.exc.DBAPIError, match="Found: no such function"):
        project.upgrade()
    assert before == snapshot(project.engine)


SPEC = AuditSpec.from_kwargs("t", columns=["id", "a", "b"], key=["id"])


def changed(**kwargs: object) -> AuditSpec:
    return AuditSpec.from_kwargs("t", **{**SPEC.full_kwargs(), **kwargs})


@pytest.mark.parametrize(
    ("mine", "theirs", "both"),
    [
        ({}, {"columns": ["id"]}, {"columns": ["id"]}),
        ({"columns": ["id"]}, {}, {"columns": ["id"]}),
        (
            {"columns": ["id", "a", "b", "c"]},
            {"columns": ["id", "b", "d"]},
            {"columns": ["id", "b", "d", "c"]},
        ),
        ({"as_text": {"a": "text"}}, {"columns": ["id", "a"]}, None),
        (
            {"level": {"insert": "statement", "update": "row", "delete": "row"}},
            {"level": {"insert": "row", "update": "row", "delete": "statement"}},
            {"level": {"insert": "statement", "update": "row", "delete": "statement"}},
        ),
        ({"level": "statement"}, {"skip_unchanged": True}, "write level="),
        ({"key": ["id", "a"]}, {"key": []}, "key"),
        ({"columns": ["id", "a"]}, {"ignore_columns": ["b"]}, "column b"),
        ({"session_settings": {"x": "required"}}, {"session_settings": {"x": "nullable"}}, "x"),
        ({"owner": "one"}, {"owner": "two"}, "owner"),
    ],
)
def test_merge(mine: dict, theirs: dict, both: dict | str | None) -> None:  # type: ignore[type-arg]
    """Both orders make the same, or say what both change; taken back, the other's is left."""
    one, other = changed(**mine), changed(**theirs)
    if isinstance(both, str):
        for new, found in ((one, other), (other, one)):
            with pytest.raises(SpecError, match=both):
                merge(SPEC, new, found)
        return
    made = merge(SPEC, one, other)
    assert made.unordered() == merge(SPEC, other, one).unordered()
    assert made.unordered() == changed(**(both or {**mine, **theirs})).unordered()
    assert other.unordered() == merge(one, SPEC, made).unordered()
