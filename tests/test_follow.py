"""run_migrations(follow=True): trails follow migrations that know nothing of them."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.util import CommandError

from alembic_audit import audit_table
from tests.conftest import Database
from tests.project import Project


def models(*columns: sa.Column[Any], name: str = "account", **options: Any) -> sa.MetaData:
    metadata = sa.MetaData()
    audit_table(sa.Table(name, metadata, *columns), **options)
    return metadata


def account(**options: Any) -> sa.MetaData:
    return models(
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.String(50)),
        sa.Column("amount", sa.Integer),
        **options,
    )


@pytest.fixture
def project(tmp_path: Path, database: Database, driver: str) -> Iterator[Project]:
    made = Project(tmp_path, database, driver)
    made.migrate(account())
    made.execute("INSERT INTO account VALUES (1, 'a', 10)")
    made.config.attributes["follow"] = True
    made.config.attributes["metadata"] = sa.MetaData()
    yield made
    made.engine.dispose()


def trail(project: Project, columns: str, name: str = "account_audit") -> list[tuple[Any, ...]]:
    return project.rows(f"SELECT audit_operation, {columns} FROM {name} ORDER BY audit_id")


def run(project: Project, *lines: str, metadata: sa.MetaData | None = None) -> None:
    project.config.attributes["metadata"] = metadata or sa.MetaData()
    project.write("\n    ".join(lines))
    project.upgrade()


def test_a_renamed_column_and_an_update_in_one_revision(project: Project) -> None:
    run(
        project,
        "op.alter_column('account', 'email', new_column_name='address')",
        "op.execute(\"UPDATE account SET address = 'b'\")",
    )
    project.execute("UPDATE account SET address = 'c'")
    assert [("I", 1, "a"), ("U", 1, "b"), ("U", 1, "c")] == trail(project, "id, address")


def test_two_statements_in_one_text(project: Project) -> None:
    run(
        project,
        'op.execute("ALTER TABLE account RENAME email TO address; '
        "UPDATE account SET address = 'b; c'\")",
    )
    assert [("I", 1, "a"), ("U", 1, "b; c")] == trail(project, "id, address")


def test_two_columns_change_names(project: Project) -> None:
    run(
        project,
        "op.execute('ALTER TABLE account ALTER amount TYPE varchar(50)')",
        "op.alter_column('account', 'email', new_column_name='x')",
        "op.alter_column('account', 'amount', new_column_name='email')",
        "op.alter_column('account', 'x', new_column_name='amount')",
        "op.execute(\"UPDATE account SET amount = 'b'\")",
    )
    rows = trail(project, "email, amount")
    assert ("U", "10", "b") == rows[-1]


def test_a_renamed_table(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "alembic.audit.follow"):
        run(
            project,
            "op.rename_table('account', 'person')",
            "op.execute(\"UPDATE person SET email = 'b'\")",
        )
    assert [("I", 1, "a"), ("U", 1, "b")] == trail(project, "id, email", "person_audit")
    assert "op.rename_audited_table(" in caplog.text
    assert "'person'" in caplog.text


def test_a_dropped_column(project: Project) -> None:
    run(
        project,
        "op.drop_column('account', 'amount')",
        "op.execute(\"UPDATE account SET email = 'b'\")",
    )
    assert [("I", "a", 10), ("U", "b", None)] == trail(project, "email, amount")


def test_a_dropped_table(project: Project) -> None:
    run(project, "op.drop_table('account')")
    assert [("I", 1, "a")] == trail(project, "id, email")
    assert [] == project.rows("SELECT proname FROM pg_proc WHERE proname = 'public_account_audit'")


def test_a_retyped_column(project: Project) -> None:
    run(
        project,
        "op.alter_column('account', 'amount', type_=sa.Text())",
        "op.execute(\"UPDATE account SET amount = 'many'\")",
    )
    rows = trail(project, "id, amount")
    assert ("S", 1, "10") in rows
    assert ("U", 1, "many") == rows[-1]


def test_an_added_column(project: Project) -> None:
    run(
        project,
        "op.add_column('account', sa.Column('phone', sa.Text()))",
        "op.execute(\"UPDATE account SET phone = '1'\")",
    )
    assert [("I", 1, None), ("U", 1, "1")] == trail(project, "id, phone")


def test_an_added_column_with_a_default(project: Project) -> None:
    """The rows that are there have a value that nobody wrote: it is recorded."""
    run(project, "op.add_column('account', sa.Column('kind', sa.Text(), server_default='x'))")
    assert [("I", 1, None), ("S", 1, "x")] == trail(project, "id, kind")


def test_a_truncate_is_no_rewriting(project: Project) -> None:
    run(
        project,
        "op.add_column('account', sa.Column('phone', sa.Text()))",
        "op.execute('TRUNCATE account')",
        "op.execute(\"INSERT INTO account VALUES (2, 'b')\")",
        "op.add_column('account', sa.Column('fax', sa.Text()))",
    )
    assert [("I", 1), ("T", None), ("I", 2)] == trail(project, "id")


def test_another_key(project: Project) -> None:
    run(
        project,
        "op.add_column('account', sa.Column('tenant', sa.Integer(), server_default='7'))",
        "op.drop_constraint('account_pkey', 'account')",
        "op.create_primary_key('account_pkey', 'account', ['tenant', 'id'])",
    )
    project.execute("UPDATE account SET tenant = 8")
    rows = trail(project, "id, tenant")
    assert [("D", 1, 7), ("U", 1, 8)] == rows[-2:]


def final(tables: bool = True) -> sa.MetaData:
    metadata = sa.MetaData()
    metadata.info["audit.defaults"] = {"enabled": True}
    sa.Table(
        "person",
        metadata,
        sa.Column("id", sa.BigInteger, primary_key=True),
        sa.Column("address", sa.Text),
        sa.Column("kind", sa.Enum("x", "y", name="kind"), server_default="x"),
    )
    sa.Table("note", metadata, sa.Column("id", sa.Integer, primary_key=True))
    return metadata


def test_check_is_clean_at_head(project: Project) -> None:
    """What a product's own migrations do to its tables, and new tables too."""
    run(
        project,
        "op.rename_table('account', 'person')",
        "op.alter_column('person', 'id', type_=sa.BigInteger())",
        "op.alter_column('person', 'email', new_column_name='address', type_=sa.Text())",
        "op.drop_column('person', 'amount')",
        "op.execute(\"CREATE TYPE kind AS ENUM ('x', 'y')\")",
        "op.execute(\"ALTER TABLE person ADD kind kind DEFAULT 'x'\")",
        "op.create_table('note', sa.Column('id', sa.Integer(), primary_key=True))",
        "op.execute('INSERT INTO note VALUES (1)')",
        metadata=final(),
    )
    project.check(final())
    project.execute("UPDATE person SET kind = 'y'", "DELETE FROM note")
    assert ("U", 1, "a", "y") == trail(project, "id, address, kind", "person_audit")[-1]
    assert [("S", 1), ("D", 1)] == trail(project, "id", "note_audit")


def test_back_again(project: Project) -> None:
    """A downgrade is followed like an upgrade."""
    project.config.attributes["metadata"] = sa.MetaData()
    project.write(
        "op.alter_column('account', 'email', new_column_name='address')",
        "op.alter_column('account', 'address', new_column_name='email')",
    )
    project.upgrade()
    project.execute("UPDATE account SET address = 'b'")
    project.downgrade()
    project.execute("UPDATE account SET email = 'c'")
    assert [("I", "a"), ("U", "b"), ("U", "c")] == trail(project, "email")
    assert [] == project.differences(account())


def test_our_own_operations_are_left_alone(project: Project) -> None:
    """A migration that autogenerate wrote does the same with follow=True."""
    changed = models(
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.Text),
        sa.Column("amount", sa.Numeric(9, 2)),
        sa.Column("phone", sa.Text),
    )
    project.migrate(changed)
    project.execute("INSERT INTO account VALUES (2, 'b', 20, '1')")
    assert ("I", 2, "b", 20, "1") == trail(project, "id, email, amount, phone")[-1]
    project.downgrade()
    assert [] == project.differences(account())


def test_without_follow_it_stops(project: Project) -> None:
    project.config.attributes["follow"] = False
    with pytest.raises(CommandError, match=r"op\.rename_audited_column"):
        run(project, "op.alter_column('account', 'email', new_column_name='address')")


def test_offline_is_refused(project: Project) -> None:
    project.write("op.drop_column('account', 'amount')")
    (project.path / "env.py").write_text(
        (project.path / "env.py")
        .read_text()
        .replace(
            "        context.run_migrations()\n        if",
            "        alembic_audit.run_migrations(context, follow=True)\n        if",
            1,
        )
    )
    with pytest.raises(CommandError, match="run the upgrade online"):
        project.sql("upgrade", "head")
