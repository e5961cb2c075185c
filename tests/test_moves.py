"""An audited table moves to another schema, or was renamed by others; its trail goes along."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.catalogs import snapshot
from tests.conftest import Database
from tests.journey import psql
from tests.project import Project
from tools import postgres

OPTIONS: dict[str, dict[str, object]] = {
    "plain": {},
    "row": {"skip_unchanged": True, "append_only": True, "always": True},
    "aside": {"schema_name": "trails"},
}


def models(schema: str | None, options: dict[str, object]) -> sa.MetaData:
    metadata = sa.MetaData()
    sa.Table(
        "account",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.Text),
        schema=schema,
        info={"audit.options": {"enabled": True, **options}},
    )
    return metadata


def prepared(path: Path, database: Database, schema: str | None, name: str) -> Project:
    """A trail with a record."""
    project = Project(path, database, include_schemas=True)
    project.execute("CREATE SCHEMA shop", 'CREATE SCHEMA "a b"', "CREATE SCHEMA trails")
    project.migrate(models(schema, OPTIONS[name]))
    project.execute(f"INSERT INTO {place(schema)}.account VALUES (1, 'a')")
    return project


def place(schema: str | None) -> str:
    return f'"{schema or "public"}"'


def call(old: str | None, new: str | None, name: str, *more: str) -> str:
    """The operation that moves the table, as a person writes it."""
    given = {
        "plain": ['level="statement"'],
        "row": [
            'level="row"',
            "skip_unchanged=True",
            "append_only=True",
            "always=True",
        ],
        "aside": ['audit_schema="trails"', 'level="statement"'],
    }[name]
    arguments = [repr(new), *([f"schema={old!r}"] if old else []), *given, *more]
    return (
        f'op.move_audited_table("account", {", ".join(arguments)}, key=["id"], '
        'columns=["id", "email"])'
    )


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("schemas", [(None, "shop"), ("shop", None), ("shop", "a b")], ids=str)
def test_a_table_moves(
    schemas: tuple[str | None, str | None], name: str, tmp_path: Path, database: Database
) -> None:
    """Records, numbers and privileges go along, both ways; nothing differs from the models."""
    old, new = schemas
    project = prepared(tmp_path, database, old, name)
    trail = f"{'trails' if name == 'aside' else place(old)}.account_audit"
    project.execute(f"GRANT SELECT ON {trail} TO pg_monitor")
    before = snapshot(project.engine)
    project.write(call(old, new, name), call(new, old, name))
    project.upgrade()
    project.check(models(new, OPTIONS[name]))
    project.execute(f"UPDATE {place(new)}.account SET email = 'b'")
    moved = f"{'trails' if name == 'aside' else place(new)}.account_audit"
    assert [(1, "I"), (2, "U")] == project.rows(f"SELECT audit_id, audit_operation FROM {moved}")
    assert [(True,)] == project.rows(
        f"SELECT has_table_privilege('pg_monitor', '{moved}', 'SELECT')"
    )
    project.downgrade()
    assert before == snapshot(project.engine)
    project.execute(f"DELETE FROM {place(old)}.account")
    assert [(3,)] == project.rows(f"SELECT max(audit_id) FROM {trail}")


def test_others_moved_it(tmp_path: Path, database: Database) -> None:
    """The trail follows, in a downgrade too; without the move it is refused."""
    project = prepared(tmp_path, database, None, "plain")
    before = snapshot(project.engine)
    project.write(call(None, "shop", "plain", "source_moved=True"))
    with pytest.raises(sa.exc.DBAPIError, match="does not exist, and source_moved=True says"):
        project.upgrade()
    assert before == snapshot(project.engine)
    project.forget()
    project.write(
        "op.execute('ALTER TABLE account SET SCHEMA shop')\n    "
        + call(None, "shop", "plain", "source_moved=True"),
        "op.execute('ALTER TABLE shop.account SET SCHEMA public')\n    "
        + call("shop", None, "plain", "source_moved=True"),
    )
    project.upgrade()
    project.check(models("shop", {}))
    project.downgrade()
    assert before == snapshot(project.engine)


def test_offline(tmp_path: Path, server: postgres.Server, database: Database) -> None:
    """The script does the same."""
    project = prepared(tmp_path, database, None, "plain")
    project.write(call(None, "shop", "plain"))
    psql(server, database, tmp_path / "script.sql", project.sql("upgrade", "0001:0002"))
    project.check(models("shop", {}))


def test_another_trail_is_refused(tmp_path: Path, database: Database) -> None:
    """Arguments that name another function than there is change nothing."""
    project = prepared(tmp_path, database, None, "plain")
    before = snapshot(project.engine)
    project.write(call(None, "shop", "plain", 'replaces={"function": "f"}'))
    with pytest.raises(sa.exc.DBAPIError, match="is not the one that this operation renames"):
        project.upgrade()
    assert before == snapshot(project.engine)


RENAMED = (
    'op.rename_audited_column("account", "{}", "{}", source_renamed=True, level="statement", '
    'key=["id"], columns=["id", "{}"])'
)


def test_others_renamed_a_column(tmp_path: Path, database: Database) -> None:
    """Up and down the trail follows; where the column has not that name it is refused."""
    project = prepared(tmp_path, database, None, "plain")
    before = snapshot(project.engine)
    there, back = RENAMED.format("email", "mail", "mail"), RENAMED.format("mail", "email", "email")
    project.write(there)
    with pytest.raises(sa.exc.DBAPIError, match="and source_renamed=True says that"):
        project.upgrade()
    assert before == snapshot(project.engine)
    project.forget()
    alter = 'op.alter_column("account", "{}", new_column_name="{}")\n    '
    project.write(alter.format("email", "mail") + there, alter.format("mail", "email") + back)
    project.upgrade()
    project.execute("UPDATE account SET mail = 'b'")
    assert [("a",), ("b",)] == project.rows("SELECT mail FROM account_audit ORDER BY audit_id")
    project.downgrade()
    assert before == snapshot(project.engine)
