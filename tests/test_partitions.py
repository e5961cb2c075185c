"""Partitioned tables and old-style inheritance: what is recorded, and what cannot be."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.util import CommandError

from tests.catalogs import snapshot
from tests.conftest import Database
from tests.project import Project

PARTITIONS = {
    "RANGE (id)": (
        "CREATE TABLE low PARTITION OF account FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE high PARTITION OF account FOR VALUES FROM (100) TO (200)",
    ),
    "LIST (id)": (
        "CREATE TABLE low PARTITION OF account FOR VALUES IN (1, 2, 3)",
        "CREATE TABLE high PARTITION OF account DEFAULT",
    ),
    "HASH (id)": (
        "CREATE TABLE low PARTITION OF account FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
        "CREATE TABLE high PARTITION OF account FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
    ),
    "RANGE (id) ": (  # two levels
        "CREATE TABLE low PARTITION OF account FOR VALUES FROM (0) TO (100) PARTITION BY LIST (id)",
        "CREATE TABLE lowest PARTITION OF low FOR VALUES IN (1, 2)",
        "CREATE TABLE others PARTITION OF low DEFAULT",
        "CREATE TABLE high PARTITION OF account FOR VALUES FROM (100) TO (200)",
    ),
}


def models(by: str = "RANGE (id)", **options: Any) -> sa.MetaData:
    metadata = sa.MetaData()
    sa.Table(
        "account",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("email", sa.Text),
        postgresql_partition_by=by.strip(),
        info={"audit.options": {"enabled": True, **options}},
    )
    return metadata


def only_models(_object: Any, name: str | None, kind: str, reflected: bool, _to: Any) -> bool:
    """Leave the partitions to whoever makes them: the usual include_object of such a project."""
    return not (
        kind == "table" and reflected and name in ("low", "high", "lowest", "others", "new")
    )


def started(path: Path, database: Database, by: str = "RANGE (id)", **options: Any) -> Project:
    """Return a project whose partitions were made between table and trail."""
    project = Project(path, database, include_object=only_models)
    project.migrate(models(by, enabled=False))
    project.execute(*PARTITIONS[by])
    project.migrate(models(by, **options))
    return project


def records(project: Project) -> list[tuple[Any, ...]]:
    return project.rows("SELECT audit_operation, id, email FROM account_audit ORDER BY audit_id")


def replayed(project: Project) -> list[tuple[Any, ...]]:
    """Return the table as its trail has it."""
    rows: dict[int, str] = {}
    for operation, key, email in records(project):
        if operation == "T":
            rows.clear()
        elif operation == "D":
            del rows[key]
        else:
            rows[key] = email
    return sorted(rows.items())


@pytest.mark.parametrize("by", PARTITIONS)
def test_writes(by: str, tmp_path: Path, database: Database) -> None:
    """Writes through the table and to a partition are recorded, a row that moves as D and I."""
    project = started(tmp_path, database, by)
    project.execute("INSERT INTO account VALUES (1, 'a')")
    ((place,),) = project.rows("SELECT tableoid::regclass::text FROM account WHERE id = 1")
    project.execute(
        "INSERT INTO account VALUES (150, 'b')",
        f"UPDATE {place} SET email = 'c' WHERE id = 1",
        f"DELETE FROM {place} WHERE id = 1",
        f"INSERT INTO {place} VALUES (1, 'd')",
        "UPDATE account SET id = id + 1 WHERE id = 150",
    )

    assert [("I", 1, "a"), ("I", 150, "b"), ("U", 1, "c"), ("D", 1, "c"), ("I", 1, "d")] == records(
        project
    )[:5]
    assert [(1, "d"), (151, "b")] == replayed(project)

    project.execute("TRUNCATE account")
    assert ("T", None, None) == records(project)[-1]
    assert [] == replayed(project)


def test_a_row_that_moves_is_a_delete_and_an_insert(tmp_path: Path, database: Database) -> None:
    """PostgreSQL fires no UPDATE trigger for it."""
    project = started(tmp_path, database)
    project.execute("INSERT INTO account VALUES (1, 'a')", "UPDATE account SET id = 101")

    assert [("I", 1, "a"), ("D", 1, "a"), ("I", 101, "a")] == records(project)


def test_attach_and_detach(tmp_path: Path, database: Database) -> None:
    """A partition that is attached is audited from then on, one that is detached not any more.

    The rows that come and go with it are in no record, which `What is not recorded` says.
    """
    project = started(tmp_path, database)
    project.execute(
        "CREATE TABLE new (id int PRIMARY KEY, email text)",
        "INSERT INTO new VALUES (250, 'n')",
        "ALTER TABLE account ATTACH PARTITION new FOR VALUES FROM (200) TO (300)",
    )
    assert [] == records(project)
    project.check(models())

    project.execute("UPDATE new SET email = 'm'")
    assert [("U", 250, "m")] == records(project)

    project.execute("ALTER TABLE account DETACH PARTITION new", "DELETE FROM new")
    assert [("U", 250, "m")] == records(project)
    project.check(models())


def test_truncate_of_a_partition_is_not_recorded(tmp_path: Path, database: Database) -> None:
    """No trigger on the table sees it."""
    project = started(tmp_path, database)
    project.execute("INSERT INTO account VALUES (1, 'a')", "TRUNCATE low")

    assert [("I", 1, "a")] == records(project)


@pytest.mark.parametrize("by", PARTITIONS)
def test_truncate_of_a_declared_partition(by: str, tmp_path: Path, database: Database) -> None:
    """Each row that goes has its record, and those of other partitions have none."""
    project = started(tmp_path, database, by, partitions=["low", "high"])
    project.execute(*(f"INSERT INTO account VALUES ({key}, 'x')" for key in (1, 2, 3, 150)))
    written = len(records(project))
    gone = project.rows("SELECT 'D', id, email FROM low ORDER BY id")

    project.execute("TRUNCATE low")

    assert gone == sorted(records(project)[written:])
    assert project.rows("SELECT * FROM account ORDER BY id") == replayed(project)


def test_truncate_of_the_table_with_declared_partitions(tmp_path: Path, database: Database) -> None:
    """It reaches the partitions' triggers too: their rows, then the T."""
    project = started(tmp_path, database, partitions=["low"])
    project.execute("INSERT INTO account VALUES (1, 'a'), (101, 'b')", "TRUNCATE account")

    assert [("D", 1, "a"), ("T", None, None)] == records(project)[2:]


def test_partitions_come_and_go(tmp_path: Path, database: Database) -> None:
    """The option is a diff in both directions, the downgrade leaves no trace, drift is seen."""
    project = started(tmp_path, database)
    before = snapshot(project.engine)
    text = project.migrate(models(partitions=["low", "high"], always=True))
    assert "partitions=['high', 'low'],\n" in text
    after = snapshot(project.engine)
    project.downgrade()
    assert before == snapshot(project.engine)
    project.upgrade()
    assert after == snapshot(project.engine)

    project.execute('DROP TRIGGER "00_audit_account_truncate" ON low')
    with pytest.raises(CommandError, match=r'_truncate" on "public"\."low" is gone'):
        project.check(models(partitions=["low", "high"], always=True))
    project.migrate(models(partitions=["low", "high"], always=True))
    assert after == snapshot(project.engine)

    project.migrate(models())
    assert before == snapshot(project.engine)


def test_columns_called_like_variables(tmp_path: Path, database: Database) -> None:
    """The records of a truncated partition hold columns, whatever they are called."""
    names = ("audit_user", "audit_setting", "audited_row", "found", "tg_op")
    metadata = sa.MetaData()
    sa.Table(
        "account",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.Text) for name in names),
        postgresql_partition_by="RANGE (id)",
        info={
            "audit.options": {
                "enabled": True,
                "partitions": ["low"],
                "session_settings": [sa.Column("who", sa.Text)],
            }
        },
    )
    project = Project(tmp_path, database, include_object=only_models)
    project.revision(metadata)
    partition = PARTITIONS["RANGE (id)"][0]
    project.edit(
        lambda text: text.replace(
            "    op.create_table('account_audit'",
            f"    op.execute({partition!r})\n    op.create_table('account_audit'",
            1,
        )
    )
    project.upgrade()
    project.check(metadata)
    project.execute(
        "SET LOCAL audit.who = 'ann'",
        "INSERT INTO account VALUES (1, '2', '3', '4', '5', '6')",
        "TRUNCATE low",
    )
    columns = ", ".join(f'"{name}"' for name in names)
    assert [
        (operation, "ann", 1, "2", "3", "4", "5", "6") for operation in ("I", "D")
    ] == project.rows(
        f"SELECT audit_operation, audit_who, id, {columns} FROM account_audit ORDER BY audit_id"
    )


def test_an_owner_that_may_not_read_a_partition(tmp_path: Path, database: Database) -> None:
    """Its TRUNCATE would fail, so the migration does, and says what to grant."""
    project = started(tmp_path, database)
    project.revision(models(partitions=["low"], owner="pg_monitor"))
    message = r'role pg_monitor owns .* may not read partition "public"."low", so TRUNCATE of it'
    with pytest.raises(sa.exc.ProgrammingError, match=message) as caught:
        project.upgrade()
    grant = 'GRANT SELECT ON "public"."low" TO pg_monitor'
    assert grant in str(caught.value)

    project.execute(grant)
    project.upgrade()
    project.execute("INSERT INTO account VALUES (1, 'a')", "TRUNCATE low")
    assert [("I", 1, "a"), ("D", 1, "a")] == records(project)


def test_a_partition_that_does_not_exist(tmp_path: Path, database: Database) -> None:
    """It is an error that names it, before anything changed."""
    project = started(tmp_path, database)
    before = snapshot(project.engine)
    project.revision(models(partitions=["lwo"]))

    with pytest.raises(sa.exc.ProgrammingError, match=r'table "public"\."lwo" does not exist'):
        project.upgrade()

    assert before == snapshot(project.engine)


def test_inheritance(tmp_path: Path, database: Database) -> None:
    """A child by old-style inheritance fires nothing on its parent; audited itself, it records."""
    project = Project(tmp_path, database)
    project.migrate(models("RANGE (id)", enabled=False))
    metadata = sa.MetaData()
    for name in ("parent", "child"):
        sa.Table(
            name,
            metadata,
            sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("email", sa.Text),
            info={"audit.options": {"enabled": True}},
            **({"postgresql_inherits": "parent"} if name == "child" else {}),
        )
    metadata.tables["child"].add_is_dependent_on(metadata.tables["parent"])
    text = project.migrate(metadata)
    assert "op.create_table('child'" in text

    project.execute(
        "INSERT INTO child VALUES (1, 'a')",
        "UPDATE parent SET email = 'b'",
        "DELETE FROM parent",
        "INSERT INTO parent VALUES (2, 'c')",
    )
    assert [("I", 2, "c")] == project.rows("SELECT audit_operation, id, email FROM parent_audit")
    assert [("I", 1, "a"), ("U", 1, "b"), ("D", 1, "b")] == project.rows(
        "SELECT audit_operation, id, email FROM child_audit ORDER BY audit_id"
    )


@pytest.mark.parametrize("batch_size", [None, 1])
def test_a_snapshot_leaves_children_out(
    batch_size: int | None, tmp_path: Path, database: Database
) -> None:
    """What a child by old-style inheritance has is not the parent's: only partitions are."""
    project = started(tmp_path, database)
    project.execute(
        "CREATE TABLE parent (id int PRIMARY KEY, email text)",
        "CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent)",
        "INSERT INTO parent VALUES (1, 'a')",
        "INSERT INTO child VALUES (1, 'b'), (2, 'c')",
        "ALTER TABLE account DISABLE TRIGGER USER",
        "INSERT INTO account VALUES (1, 'a'), (101, 'b')",
        "ALTER TABLE account ENABLE TRIGGER USER",
    )
    spec = "key=['id'], columns=['id', 'email'], level='row'"
    project.write(
        f"{AUDIT_TABLE.replace('account_audit', 'parent_audit')}"
        f"op.create_audit_trigger('parent', {spec})"
    )
    project.write(
        f"op.snapshot_audit_table('parent', batch_size={batch_size}, {spec})\n"
        f"    op.snapshot_audit_table('account', batch_size={batch_size}, {spec})"
    )
    project.upgrade()
    recorded = "SELECT audit_operation, id, email FROM {} ORDER BY audit_id"
    assert [("S", 1, "a")] == project.rows(recorded.format("parent_audit"))
    assert [("S", 1, "a"), ("S", 101, "b")] == project.rows(recorded.format("account_audit"))


AUDIT_TABLE = """op.create_table('account_audit',
    sa.Column('audit_id', sa.BigInteger(), sa.Identity(always=True), primary_key=True),
    sa.Column('audit_operation', sa.String(1), nullable=False),
    sa.Column('audit_operation_timestamp', sa.DateTime(timezone=True), nullable=False),
    sa.Column('audit_transaction_id', sa.BigInteger(), nullable=False),
    sa.Column('audit_current_user', sa.String(64), nullable=False),
    sa.Column('id', sa.Integer()), sa.Column('email', sa.Text()))
    """
FOREIGN = (
    "CREATE EXTENSION postgres_fdw",
    "CREATE TABLE remote (id int, email text)",
    "DO $$ BEGIN EXECUTE format('CREATE SERVER itself FOREIGN DATA WRAPPER postgres_fdw OPTIONS "
    "(host %%L, port %%L, dbname %%L)', split_part(current_setting('unix_socket_directories'), ',',"
    " 1), current_setting('port'), current_database()); END $$",
    "DO $$ BEGIN EXECUTE format('CREATE USER MAPPING FOR current_user SERVER itself OPTIONS "
    "(user %%L)', current_user); END $$",
    "CREATE FOREIGN TABLE account (id int NOT NULL, email text) SERVER itself"
    " OPTIONS (table_name 'remote')",
)


def test_foreign_table(tmp_path: Path, database: Database) -> None:
    """What goes through a foreign table is recorded, what is written behind it is not.

    Alembic does not see it and would create it: filtered out, its trail is written by hand, and
    neither the trail nor the table is proposed for anything.
    """

    def unseen(_object: Any, name: str | None, kind: str, _reflected: bool, _to: Any) -> bool:
        return kind != "table" or name not in ("account", "remote")

    project = Project(tmp_path, database, include_object=unseen)
    if not project.rows("SELECT FROM pg_available_extensions WHERE name = 'postgres_fdw'"):
        pytest.skip("this server has no postgres_fdw")
    project.execute(*FOREIGN)
    metadata = models(partitions=())
    before = snapshot(project.engine)
    project.write(
        AUDIT_TABLE
        + "op.create_index('account_audit_key_idx', 'account_audit', ['id', 'audit_id'])\n    "
        + "op.create_audit_trigger('account', key=['id'], columns=['id', 'email'])",
        "op.drop_audit_trigger('account')\n    op.drop_audit_table('account_audit')",
    )
    project.upgrade()
    project.check(metadata)
    project.execute("INSERT INTO account VALUES (1, 'a')")
    project.execute("UPDATE account SET email = 'b'")
    project.execute("UPDATE account SET id = 2")
    project.execute("DELETE FROM account")
    project.execute("TRUNCATE account")
    project.execute("INSERT INTO remote VALUES (3, 'c')")

    assert [
        ("I", 1, "a"),
        ("U", 1, "b"),
        ("D", 1, "b"),
        ("U", 2, "b"),
        ("D", 2, "b"),
        ("T", None, None),
    ] == records(project)
    project.execute("TRUNCATE account_audit")
    project.downgrade()
    assert before["triggers"] == snapshot(project.engine)["triggers"]
    assert before["functions"] == snapshot(project.engine)["functions"]


@pytest.mark.parametrize("prefix", ["TEMPORARY", "TEMP", "GLOBAL TEMPORARY", "local temp"])
def test_temporary_tables_are_refused(prefix: str, tmp_path: Path, database: Database) -> None:
    """A temporary table is gone with its session: who declares its trail is told so."""
    metadata = sa.MetaData()
    sa.Table(
        "account",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        prefixes=[prefix],
        info={"audit.options": {"enabled": True}},
    )
    project = Project(tmp_path, database)

    with pytest.raises(CommandError) as caught:
        project.revision(metadata)

    assert (
        "table 'account' is temporary: it is gone with the session that made it, and no migration "
        "can put a trigger on it; leave it out of the audit"
    ) == str(caught.value)


def test_temporary_table_by_hand(tmp_path: Path, database: Database) -> None:
    """A temporary table stands in no schema that an operation could name."""
    project = Project(tmp_path, database)
    before = snapshot(project.engine)
    project.write(
        "op.execute('CREATE TEMP TABLE account (id int, email text)')\n    "
        + AUDIT_TABLE
        + "op.create_audit_trigger('account', columns=['id', 'email'])"
    )

    with pytest.raises(sa.exc.DBAPIError, match=r'table "public"."account" does not exist'):
        project.upgrade()

    assert before == snapshot(project.engine)


UNAUDITABLE = {
    "view": ("CREATE VIEW account AS SELECT 1 AS id, 'x'::text AS email", '"account" is a view'),
    "materialized view": (
        "CREATE MATERIALIZED VIEW account AS SELECT 1 AS id, 'x'::text AS email",
        '"account"',
    ),
}


@pytest.mark.parametrize("kind", UNAUDITABLE)
def test_what_has_no_such_triggers_is_refused(
    kind: str, tmp_path: Path, database: Database
) -> None:
    """A view is no table that an AFTER ROW trigger could be on: a clear error, nothing changed."""
    statement, message = UNAUDITABLE[kind]
    project = Project(tmp_path, database)
    project.execute(statement)
    before = snapshot(project.engine)
    project.write(
        "op.execute('CREATE TABLE account_audit (audit_operation text, audit_operation_timestamp"
        " timestamptz, audit_id int GENERATED ALWAYS AS IDENTITY, audit_transaction_id int,"
        " audit_current_user text, id int, email text)')\n"
        "    op.create_audit_trigger('account', columns=['id', 'email'])"
    )

    with pytest.raises(sa.exc.DBAPIError, match=message):
        project.upgrade()

    assert before == snapshot(project.engine)


@pytest.mark.parametrize("prefix", ["UNLOGGED"])
def test_unlogged_tables(prefix: str, tmp_path: Path, database: Database) -> None:
    """An unlogged table is recorded in an audit table that is not: the trail survives a crash."""
    metadata = models()
    metadata.clear()
    sa.Table(
        "account",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("email", sa.Text),
        prefixes=[prefix],
        info={"audit.options": {"enabled": True}},
    )
    project = Project(tmp_path, database)
    project.migrate(metadata)
    project.execute("INSERT INTO account VALUES (1, 'a')")

    assert [("I", 1, "a")] == records(project)
    assert [("account", "u"), ("account_audit", "p")] == project.rows(
        "SELECT relname, relpersistence::text FROM pg_class"
        " WHERE relname IN ('account', 'account_audit') ORDER BY 1"
    )
