"""Whatever statement changes a row, the trail has it: which, in which order, and only once."""

import io
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from tests import rounds
from tests.conftest import Database
from tests.project import Project

AUDITED: dict[str, Any] = {"info": {"audit.options": {"enabled": True}}}
BY_ROW: dict[str, Any] = {"info": {"audit.options": {"enabled": True, "level": "row"}}}


def models(*columns: Any, audited: dict[str, Any] = AUDITED) -> sa.MetaData:
    """Return models with one audited table, `account`."""
    metadata = sa.MetaData()
    sa.Table(
        "account",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("n", sa.Integer),
        *columns,
        **audited,
    )
    return metadata


@pytest.fixture
def project(tmp_path: Path, database: Database) -> Project:
    """A project in which `account` is migrated, and was down and up again."""
    made = Project(tmp_path, database)
    rounds.migrate(made, models())
    return made


@pytest.fixture
def by_row(tmp_path: Path, database: Database) -> Project:
    """The same at row level, for what another AFTER ROW trigger does."""
    made = Project(tmp_path, database)
    rounds.migrate(made, models(audited=BY_ROW))
    return made


def trail(project: Project, table: str = "account", columns: str = "id, n") -> list[Any]:
    """Return operation and row of each record."""
    return project.rows(f"SELECT audit_operation, {columns} FROM {table}_audit ORDER BY audit_id")


def replayed(project: Project, table: str = "account", columns: str = "id, n") -> bool:
    """Return whether the records, one after the other, lead to the rows that there are."""
    rows: dict[Any, Any] = {}
    for operation, *row in trail(project, table, columns):
        if operation == "T":
            rows.clear()
        elif operation == "D":
            assert rows.pop(row[0]) is not None
        else:
            rows[row[0]] = tuple(row)
    return sorted(rows.values()) == sorted(project.rows(f"SELECT {columns} FROM {table}"))


def autocommit(project: Project) -> sa.Connection:
    return project.engine.execution_options(isolation_level="AUTOCOMMIT").connect()


# -- one statement -----------------------------------------------------------------------------


def test_copy(project: Project) -> None:
    """COPY FROM records each row, in order."""
    connection = project.engine.raw_connection()
    with connection.cursor() as cursor:
        cursor.copy_expert("COPY account FROM STDIN", io.StringIO("3\t\\N\n1\t7\n"))
    connection.commit()
    connection.close()
    assert [("I", 3, None), ("I", 1, 7)] == trail(project)


def test_on_conflict(project: Project) -> None:
    """ON CONFLICT records what was done: an insert, an update, or nothing."""
    project.execute(
        "INSERT INTO account VALUES (1, 1)",
        "INSERT INTO account VALUES (1, 2), (2, 2) ON CONFLICT DO NOTHING",
        "INSERT INTO account VALUES (1, 3), (3, 3) ON CONFLICT (id) DO UPDATE SET n = excluded.n",
        "INSERT INTO account VALUES (1, 4) ON CONFLICT (id) DO UPDATE SET n = 4 WHERE false",
        "INSERT INTO account VALUES (1, 5) ON CONFLICT (id) DO UPDATE SET id = 9",
    )
    assert [
        ("I", 1, 1),
        ("I", 2, 2),
        ("U", 1, 3),
        ("I", 3, 3),
        ("D", 1, 3),
        ("U", 9, 3),
    ] == trail(project)
    assert replayed(project)


def server_version(project: Project) -> int:
    [(number,)] = project.rows("SHOW server_version_num")
    return int(number) // 10000


def test_merge(project: Project) -> None:
    """MERGE records each of its actions, with RETURNING too."""
    version = server_version(project)
    if version < 15:
        pytest.skip("MERGE came with PostgreSQL 15")
    merge = """
        MERGE INTO account AS t USING (VALUES (1), (2), (3), (4)) AS s (id) ON t.id = s.id
        WHEN MATCHED AND t.id = 1 THEN DELETE
        WHEN MATCHED AND t.id = 2 THEN UPDATE SET n = 20
        WHEN MATCHED THEN DO NOTHING
        WHEN NOT MATCHED THEN INSERT VALUES (s.id, 40)
    """
    project.execute("INSERT INTO account VALUES (1, 1), (2, 2), (3, 3)")
    if version >= 17:
        with project.engine.begin() as connection:
            done = connection.exec_driver_sql(merge + "RETURNING merge_action(), t.id").all()
        assert {("DELETE", 1), ("UPDATE", 2), ("INSERT", 4)} == {tuple(row) for row in done}
    else:
        project.execute(merge)
    assert {("D", 1, 1), ("U", 2, 20), ("I", 4, 40)} == set(trail(project)[3:])
    assert 6 == len(trail(project))
    assert replayed(project)


def test_two_writes_in_one_statement(project: Project) -> None:
    """Data-modifying CTEs that write one table are all recorded."""
    project.execute(
        "INSERT INTO account VALUES (1, 1), (2, 2)",
        """
        WITH gone AS (DELETE FROM account WHERE id = 1 RETURNING id),
             moved AS (UPDATE account SET id = 5 WHERE id = 2 RETURNING id),
             made AS (INSERT INTO account SELECT id + 10, 0 FROM gone RETURNING id)
        INSERT INTO account SELECT id + 20, 0 FROM moved
        """,
    )
    records = trail(project)
    assert {("D", 1, 1), ("D", 2, 2), ("U", 5, 2), ("I", 11, 0), ("I", 25, 0)} == set(records[2:])
    assert 7 == len(records)
    assert records.index(("D", 2, 2)) + 1 == records.index(("U", 5, 2))
    assert replayed(project)


def test_returning(project: Project) -> None:
    """RETURNING gives what it gives without an audit."""
    with project.engine.begin() as connection:
        for statement, expected in (
            ("INSERT INTO account VALUES (1, 1), (2, 2) RETURNING id", [(1,), (2,)]),
            ("UPDATE account SET n = n * 10 RETURNING n", [(10,), (20,)]),
            ("DELETE FROM account RETURNING n", [(10,), (20,)]),
        ):
            assert expected == [tuple(row) for row in connection.exec_driver_sql(statement)]
    assert [("I", 1, 1), ("I", 2, 2), ("U", 1, 10), ("U", 2, 20), ("D", 1, 10), ("D", 2, 20)] == (
        trail(project)
    )


def test_where_current_of(project: Project) -> None:
    """UPDATE and DELETE WHERE CURRENT OF a cursor are recorded."""
    project.execute(
        "INSERT INTO account VALUES (1, 1), (2, 2)",
        "DECLARE c CURSOR FOR SELECT * FROM account ORDER BY id FOR UPDATE",
        "FETCH c",
        "UPDATE account SET n = 10 WHERE CURRENT OF c",
        "FETCH c",
        "DELETE FROM account WHERE CURRENT OF c",
        "CLOSE c",
    )
    assert [("U", 1, 10), ("D", 2, 2)] == trail(project)[2:]


def test_prepared_statement(project: Project) -> None:
    """A session that has its plans goes on rightly after a migration changed what is recorded."""
    with autocommit(project) as connection:
        connection.exec_driver_sql("PREPARE w AS INSERT INTO account (id, n) VALUES ($1, $2)")
        for number in range(7):  # from the sixth on a plan may be generic
            connection.exec_driver_sql(f"EXECUTE w ({number}, {number})")
        project.migrate(models(sa.Column("note", sa.Text, server_default="x")))
        connection.exec_driver_sql("EXECUTE w (7, 7)")
        connection.exec_driver_sql("UPDATE account SET note = 'y' WHERE id = 7")
        project.migrate(models())
        connection.exec_driver_sql("EXECUTE w (8, 8)")
    assert [("I", 7, 7, "x"), ("U", 7, 7, "y"), ("I", 8, 8, None)] == trail(
        project, columns="id, n, note"
    )[7:]


def test_truncate_cascade(tmp_path: Path, database: Database) -> None:
    """TRUNCATE ... CASCADE is recorded for each audited table that it empties."""
    project, _ = family(tmp_path, database, ondelete="CASCADE")
    project.execute(
        "INSERT INTO parent VALUES (1)",
        "INSERT INTO child VALUES (10, 1)",
        "TRUNCATE parent CASCADE",
    )
    assert [("I", 1), ("T", None)] == trail(project, "parent", "id")
    assert [("I", 10, 1), ("T", None, None)] == trail(project, "child", "id, parent_id")


# -- foreign keys ------------------------------------------------------------------------------


def family(path: Path, database: Database, **actions: str) -> tuple[Project, sa.MetaData]:
    """Return a project with an audited parent and an audited child."""
    metadata = sa.MetaData()
    sa.Table(
        "parent",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        **AUDITED,
    )
    sa.Table(
        "child",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("parent_id", sa.ForeignKey("parent.id", **actions), server_default="0"),
        **AUDITED,
    )
    project = Project(path, database)
    rounds.migrate(project, metadata)
    return project, metadata


@pytest.mark.parametrize(
    ("action", "updated", "deleted"),
    [
        ("CASCADE", [("U", 10, 2), ("U", 11, 2)], [("D", 10, 2), ("D", 11, 2)]),
        ("SET NULL", [("U", 10, None), ("U", 11, None)], []),
        ("SET DEFAULT", [("U", 10, 0), ("U", 11, 0)], []),
    ],
)
def test_foreign_key_actions(
    tmp_path: Path, database: Database, action: str, updated: list[Any], deleted: list[Any]
) -> None:
    """What a foreign key does to its rows is recorded as if it were written."""
    project, _ = family(tmp_path, database, onupdate=action, ondelete=action)
    project.execute(
        "INSERT INTO parent VALUES (0), (1)",
        "INSERT INTO child VALUES (10, 1), (11, 1)",
        "UPDATE parent SET id = 2 WHERE id = 1",
    )
    assert updated == trail(project, "child", "id, parent_id")[2:]
    project.execute("DELETE FROM parent WHERE id = 2")
    assert updated + deleted == trail(project, "child", "id, parent_id")[2:]
    assert [("D", 1), ("U", 2), ("D", 2)] == trail(project, "parent", "id")[2:]
    assert replayed(project, "child", "id, parent_id")
    project.execute("INSERT INTO parent VALUES (3)", "INSERT INTO child VALUES (12, 3)")
    project.execute("DELETE FROM parent WHERE id = 3")
    expected = {"CASCADE": ("D", 12, 3), "SET NULL": ("U", 12, None), "SET DEFAULT": ("U", 12, 0)}
    assert expected[action] == trail(project, "child", "id, parent_id")[-1]


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL"])
def test_self_reference(tmp_path: Path, database: Database, action: str) -> None:
    """A table that refers to itself: each row that goes or changes is recorded, once."""
    metadata = sa.MetaData()
    node = sa.Table(
        "node",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("up", sa.ForeignKey("node.id", ondelete=action)),
        **AUDITED,
    )
    project = Project(tmp_path, database)
    rounds.migrate(project, node.metadata)
    project.execute(
        "INSERT INTO node VALUES (1, NULL), (2, 1), (3, 2), (4, 1)", "DELETE FROM node WHERE id = 1"
    )
    expected = {
        "CASCADE": [("D", 1, None), ("D", 2, 1), ("D", 4, 1), ("D", 3, 2)],
        "SET NULL": [("D", 1, None), ("U", 2, None), ("U", 4, None)],
    }
    found = trail(project, "node", "id, up")[4:]
    assert set(expected[action]) == set(found)
    assert len(expected[action]) == len(found)
    assert replayed(project, "node", "id, up")


# -- triggers and rules ------------------------------------------------------------------------


def trigger(body: str, *, when: str, name: str = "zz") -> tuple[str, str]:
    """Return the statements that make a trigger of `account`."""
    return (
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$",
        f"CREATE TRIGGER {name} {when} ON account FOR EACH ROW EXECUTE FUNCTION {name}()",
    )


def test_before_trigger(project: Project) -> None:
    """Recorded is the row as a BEFORE trigger left it, and nothing where it said no."""
    project.execute(
        *trigger(
            "IF NEW.id = 3 THEN RETURN NULL; END IF; NEW.n := NEW.n * 10; RETURN NEW;",
            when="BEFORE INSERT OR UPDATE",
        ),
        "INSERT INTO account VALUES (1, 1), (3, 3)",
        "UPDATE account SET n = 2",
        "UPDATE account SET id = 3",
    )
    assert [("I", 1, 10), ("U", 1, 20)] == trail(project)
    assert replayed(project)


@pytest.mark.parametrize("name", ["aa", "zz", "Zz"])
def test_after_trigger(by_row: Project, name: str) -> None:
    """A change that an AFTER trigger makes is recorded after the one that caused it."""
    by_row.execute(
        *trigger(
            "IF NEW.n < 3 THEN UPDATE account SET n = n + 1 WHERE id = NEW.id; END IF; "
            "RETURN NULL;",
            when="AFTER INSERT OR UPDATE",
            name=f'"{name}"',
        ),
        "INSERT INTO account VALUES (1, 1)",
    )
    assert [("I", 1, 1), ("U", 1, 2), ("U", 1, 3)] == trail(by_row)
    assert replayed(by_row)


def test_after_trigger_of_an_earlier_row(by_row: Project) -> None:
    """The exception: in a statement of many rows, an AFTER trigger of an earlier row comes first.

    It runs before the trail's own trigger sees the later row: the UPDATE of row 2 stands before its
    INSERT. Every change is there, and the later record holds the row as it was inserted.
    """
    by_row.execute(
        *trigger(
            "IF NEW.id = 1 THEN UPDATE account SET n = 9 WHERE id = 2; END IF; RETURN NULL;",
            when="AFTER INSERT",
        ),
        "INSERT INTO account VALUES (1, 1), (2, 2)",
    )
    assert [("I", 1, 1), ("U", 2, 9), ("I", 2, 2)] == trail(by_row)
    assert [(1, 1), (2, 9)] == by_row.rows("SELECT id, n FROM account ORDER BY id")


def test_deferred_trigger(by_row: Project) -> None:
    """A constraint trigger that writes at the end of the transaction is recorded there."""
    by_row.execute(
        "CREATE FUNCTION zz() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "UPDATE account SET n = 0 WHERE id = NEW.id; RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER zz AFTER INSERT ON account INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION zz()",
        "INSERT INTO account VALUES (1, 1)",
        "INSERT INTO account VALUES (2, 2)",
    )
    assert [("I", 1, 1), ("I", 2, 2), ("U", 1, 0), ("U", 2, 0)] == trail(by_row)


def test_rules_and_views(project: Project) -> None:
    """What a rule makes of a statement is recorded, and a write through a view."""
    project.execute(
        "INSERT INTO account VALUES (1, 1), (2, 2)",
        "CREATE VIEW large AS SELECT id, n FROM account WHERE n > 1",
        "UPDATE large SET n = 3",
        "CREATE RULE soft AS ON DELETE TO account DO INSTEAD "
        "UPDATE account SET n = -1 WHERE id = OLD.id",
        "DELETE FROM account WHERE id = 1",
        "CREATE RULE also AS ON INSERT TO account "
        "DO ALSO UPDATE account SET n = NEW.n WHERE id = NEW.id - 3",
        "INSERT INTO account VALUES (5, 5)",
    )
    assert [("U", 2, 3), ("U", 1, -1), ("I", 5, 5), ("U", 2, 5)] == trail(project)[2:]
    assert replayed(project)


# -- transactions ------------------------------------------------------------------------------


def test_savepoint(project: Project) -> None:
    """What goes back to a savepoint, or ends in an exception block, leaves no record."""
    project.execute(
        "INSERT INTO account VALUES (1, 1)",
        "SAVEPOINT one",
        "UPDATE account SET n = 2",
        "SAVEPOINT two",
        "DELETE FROM account",
        "ROLLBACK TO two",
        "UPDATE account SET n = 3",
        "RELEASE one",
        "DO $$ BEGIN TRUNCATE account; RAISE 'no'; "
        "EXCEPTION WHEN raise_exception THEN NULL; END $$",
        "UPDATE account SET n = 4",
    )
    assert [("I", 1, 1), ("U", 1, 2), ("U", 1, 3), ("U", 1, 4)] == trail(project)
    assert [(1,)] == project.rows("SELECT count(DISTINCT audit_transaction_id) FROM account_audit")


def test_prepared_transaction(project: Project) -> None:
    """The records of a prepared transaction appear, or not, with what it wrote."""
    [(slots,)] = project.rows("SHOW max_prepared_transactions")
    if slots == "0":
        pytest.skip("this server prepares no transactions")
    for number, end in ((1, "COMMIT"), (2, "ROLLBACK")):
        with autocommit(project) as connection:
            for statement in (
                "BEGIN",
                f"INSERT INTO account VALUES ({number}, 0)",
                f"PREPARE TRANSACTION 'audit {number}'",
            ):
                connection.exec_driver_sql(statement)
            before = trail(project)
            connection.exec_driver_sql(f"{end} PREPARED 'audit {number}'")
        assert [] == before[number - 1 :]
    assert [("I", 1, 0)] == trail(project)


def test_serializable_retry(project: Project) -> None:
    """Of two transactions that cannot be serialized one fails; retried, it is recorded once."""
    project.execute("INSERT INTO account VALUES (1, 1), (2, 1)")
    serializable = project.engine.execution_options(isolation_level="SERIALIZABLE")

    def give(connection: sa.Connection, number: int) -> None:
        total = connection.exec_driver_sql("SELECT sum(n) FROM account").scalar_one()
        connection.exec_driver_sql(f"UPDATE account SET n = {total} WHERE id = {number}")

    with serializable.connect() as one, serializable.connect() as other:
        give(one, 1)
        give(other, 2)
        one.commit()
        with pytest.raises(OperationalError, match="could not serialize"):
            other.commit()
        other.rollback()
        assert [("U", 1, 2)] == trail(project)[2:]
        give(other, 2)
        other.commit()
    assert [("U", 1, 2), ("U", 2, 3)] == trail(project)[2:]
    assert replayed(project)


def test_concurrent_writes_do_not_conflict_more(project: Project) -> None:
    """Two SERIALIZABLE writers of different rows both commit: the trail adds no conflict."""
    project.execute("INSERT INTO account SELECT x, 0 FROM generate_series(1, 1000) AS x", "ANALYZE")
    serializable = project.engine.execution_options(isolation_level="SERIALIZABLE")
    with serializable.connect() as one, serializable.connect() as other:
        one.exec_driver_sql("UPDATE account SET n = 1 WHERE id = 1")
        other.exec_driver_sql("UPDATE account SET n = 2 WHERE id = 1000")
        one.commit()
        other.commit()
    assert [("U", 1, 1), ("U", 1000, 2)] == trail(project)[1000:]
