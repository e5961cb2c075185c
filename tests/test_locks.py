"""A migration under writers: what it locks, and that nobody is ever in a deadlock."""

import random
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.util import CommandError

from alembic_audit.errors import SpecError
from alembic_audit.operations import LockAuditedTablesOp
from alembic_audit.sql import locks
from tests.conftest import Database
from tests.project import Project


def models(
    *columns: str, audited: bool = True, audit_table: str = "%(table_name)s_audit"
) -> sa.MetaData:
    metadata = sa.MetaData(naming_convention={"audit.table": audit_table})
    for name in ("account", "invoice"):
        sa.Table(
            name,
            metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            *(sa.Column(column, sa.Text) for column in columns),
            info={"audit.options": {"enabled": audited, "level": "row"}},
        )
    return metadata


def without_lock(text: str) -> str:
    """Return a revision whose blocks do not lock first: the control of each test."""
    return re.sub(r" +op\.lock_audited_tables\((.|\n)*?\)\n", "", text)


def with_lock_timeout(text: str) -> str:
    start = "def upgrade():\n"
    return text.replace(start, f"{start}    op.execute(\"SET LOCAL lock_timeout = '500ms'\")\n")


def wait_until_it_waits(engine: sa.Engine) -> None:
    """Return when a session waits for a lock of a table."""
    for _ in range(500):
        with engine.connect() as connection:
            waiting = connection.exec_driver_sql(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation'"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            ).scalar_one()
        if waiting:
            return
        time.sleep(0.01)
    raise AssertionError("nothing waits")


def race(project: Project, first: str, second: str, down: bool = False) -> int:
    """Run a transaction of two statements with the migration between them; count deadlocks."""
    deadlocks = 0
    with project.engine.connect() as writer:
        writer.exec_driver_sql("SET deadlock_timeout = '50ms'")
        writer.exec_driver_sql(first)
        with ThreadPoolExecutor(1) as pool:
            migration = pool.submit(project.downgrade if down else project.upgrade)
            wait_until_it_waits(project.engine)
            try:
                writer.exec_driver_sql(second)
                writer.commit()
            except sa.exc.OperationalError as error:
                assert "deadlock detected" in str(error)
                deadlocks += 1
                writer.rollback()
            try:
                migration.result(timeout=20)
            except (sa.exc.OperationalError, CommandError) as error:
                assert "deadlock detected" in str(error)
                deadlocks += 1
    return deadlocks


RACES = {
    # The audit table is altered first, while a writer holds the source and goes on to the trail.
    "audit_table_first": (
        models("email", audit_table="a_%(table_name)s"),
        models("email", "note", audit_table="a_%(table_name)s"),
        "UPDATE account SET email = 'x' WHERE false",
        "INSERT INTO account VALUES (1, 'a')",
    ),
    # The trigger is created, which keeps writers out, and then a column dropped, which keeps out
    # a reader who wants to write next.
    "lock_raised": (
        models("email", "note", audited=False),
        models("email"),
        "SELECT * FROM account",
        "INSERT INTO account VALUES (1, 'a')",
    ),
    # Two tables, written in the other order.
    "tables_in_another_order": (
        models("email"),
        models("email", "note"),
        "INSERT INTO invoice VALUES (1, 'a')",
        "INSERT INTO account VALUES (1, 'a')",
    ),
    # A report reads the trail before it writes the table.
    "trail_read_first": (
        models("email"),
        models("email", "note"),
        "SELECT * FROM account_audit",
        "INSERT INTO account VALUES (1, 'a')",
    ),
}


@pytest.mark.parametrize("locked", [True, False], ids=["locked", "control"])
@pytest.mark.parametrize("name", RACES)
def test_no_deadlock(name: str, locked: bool, tmp_path: Path, database: Database) -> None:
    """With the lock at the beginning nobody is in a deadlock; without it somebody is."""
    before, after, first, second = RACES[name]
    project = Project(tmp_path, database)
    project.migrate(before)
    text = project.revision(after)
    assert 2 == text.count("op.lock_audited_tables(")
    if not locked:
        project.edit(without_lock)

    deadlocks = race(project, first, second)

    assert (0 if locked else 1) == deadlocks
    if locked:
        project.check(after)
        assert 1 == project.rows("SELECT count(*) FROM account")[0][0]


def with_receipt(receipt: bool, audited: bool = True) -> sa.MetaData:
    metadata = models("email")
    if receipt:
        sa.Table(
            "receipt",
            metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("account_id", sa.ForeignKey("account.id")),
            sa.Column("invoice_id", sa.ForeignKey("invoice.id")),
            info={"audit.options": {"enabled": audited}},
        )
    return metadata


@pytest.mark.parametrize("locked", [True, False], ids=["locked", "control"])
@pytest.mark.parametrize("down", [True, False], ids=["downgrade", "upgrade"])
def test_a_table_that_goes_with_its_foreign_keys(
    down: bool, locked: bool, tmp_path: Path, database: Database
) -> None:
    """An audited table that is dropped takes those that it refers to: all are locked first."""
    project = Project(tmp_path, database)
    project.migrate(with_receipt(not down))
    text = project.revision(with_receipt(down))
    tables = "['account', 'invoice', 'receipt']"
    assert 1 == text.count(f"op.lock_audited_tables({tables}, mode='ACCESS EXCLUSIVE')")
    if not locked:
        project.edit(without_lock)
    if down:
        project.upgrade()

    # A writer who has the parent and goes on to the child.
    deadlocks = race(
        project, "INSERT INTO account VALUES (1, 'a')", "SELECT count(*) FROM receipt", down
    )

    assert (0 if locked else 1) == deadlocks


def test_new_table_with_two_foreign_keys(tmp_path: Path, database: Database) -> None:
    """A new table, audited or not, locks the tables that it refers to together."""
    for audited in (True, False):
        path = tmp_path / str(audited)
        path.mkdir()
        project = Project(path, database)
        project.migrate(with_receipt(False))
        text = project.migrate(with_receipt(True, audited))
        up = text[: text.index("def downgrade")]
        assert "op.lock_audited_tables(['account', 'invoice'], mode='ACCESS EXCLUSIVE')" in up
        project.downgrade("base")


def without_sequences(text: str) -> str:
    """Return a revision that does not lock sequences: SHARE ROW EXCLUSIVE does not need to."""
    return text.replace("mode='ACCESS EXCLUSIVE'", "mode='SHARE ROW EXCLUSIVE'")


@pytest.mark.parametrize("locked", [True, False], ids=["locked", "control"])
def test_write_rolled_back_to_a_savepoint(locked: bool, tmp_path: Path, database: Database) -> None:
    """Such a writer has given the tables back, and not the sequence, which is renamed."""
    project = Project(tmp_path, database)
    project.migrate(models("email"))
    project.revision(models("email", audit_table="%(table_name)s_history"))
    if not locked:
        project.edit(without_sequences)

    deadlocks = race(
        project,
        "SAVEPOINT a; INSERT INTO invoice VALUES (1, 'a'); ROLLBACK TO a",
        "INSERT INTO account VALUES (1, 'a')",
    )

    assert (0 if locked else 1) == deadlocks


def test_sequences_of_somebody_else(tmp_path: Path, database: Database) -> None:
    """Who may lock a table and does not own its sequence locks the table."""
    role = f"{database.name}_locker"
    project = Project(tmp_path, database)
    project.migrate(models("email"))
    statement = locks.lock(["account", "account_audit"], "ACCESS EXCLUSIVE")
    project.execute(
        f"CREATE ROLE {role}",
        f"GRANT UPDATE ON account_audit, account TO {role}",
    )
    try:
        with project.engine.connect() as connection:
            connection.exec_driver_sql(f"SET LOCAL ROLE {role}")
            connection.exec_driver_sql("SET LOCAL lock_timeout = '7s'")
            connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
            locked = connection.exec_driver_sql(
                "SELECT relation::regclass::text FROM pg_locks WHERE mode = 'AccessExclusiveLock'"
                " AND pid = pg_backend_pid() AND locktype = 'relation' ORDER BY 1"
            ).all()
            assert [("account",), ("account_audit",)] == [tuple(row) for row in locked]
            assert "7s" == connection.exec_driver_sql("SHOW lock_timeout").scalar_one()
    finally:
        project.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@pytest.mark.parametrize("each", [True, False], ids=["transaction_per_migration", "control"])
def test_several_revisions_in_one_upgrade(each: bool, tmp_path: Path, database: Database) -> None:
    """Each locks first, and in a transaction of its own holds no lock then."""
    project = Project(tmp_path, database, transaction_per_migration=each)
    project.migrate(models("email", audited=False))
    project.migrate(models("email"))
    project.migrate(models("email", "note"))
    project.downgrade("0001")

    deadlocks = race(project, "SELECT * FROM account", "INSERT INTO account VALUES (1, 'a')")

    assert (0 if each else 1) == deadlocks


def test_under_load(tmp_path: Path, database: Database) -> None:
    """Writers that read, then write both tables in any order, go on through ups and downs."""
    project = Project(tmp_path, database)
    project.migrate(models("email"))
    project.migrate(models("email", "note"))
    stop = threading.Event()
    failures: list[BaseException] = []
    written = [0]

    def write(seed: int) -> None:
        chance = random.Random(seed)
        engine = sa.create_engine(database.url(), poolclass=sa.NullPool)
        while not stop.is_set():
            tables = ["account", "invoice", "account_audit"]
            chance.shuffle(tables)
            try:
                with engine.begin() as connection:
                    connection.exec_driver_sql("SET LOCAL deadlock_timeout = '100ms'")
                    for table in tables:
                        connection.exec_driver_sql(f"SELECT count(*) FROM {table}")
                    for table in tables:
                        if table != "account_audit":
                            connection.exec_driver_sql(
                                f"INSERT INTO {table} (email) VALUES ('{seed}')"
                            )
                written[0] += 1
            except BaseException as error:
                failures.append(error)
                return

    with ThreadPoolExecutor(4) as pool:
        for seed in range(4):
            pool.submit(write, seed)
        try:
            for _ in range(8):
                project.downgrade()
                project.upgrade()
        finally:
            stop.set()

    assert [] == failures
    assert written[0] > 8
    ((deadlocks,),) = project.rows(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    )
    assert 0 == deadlocks
    for table in ("account", "invoice"):
        ((live, recorded),) = project.rows(
            f"SELECT (SELECT count(*) FROM {table}), (SELECT count(*) FROM {table}_audit)"
        )
        assert live == recorded


def test_lock_timeout(tmp_path: Path, database: Database) -> None:
    """A lock_timeout that the user set ends the waiting, and nothing has changed."""
    project = Project(tmp_path, database)
    project.migrate(models("email"))
    project.revision(models("email", "note"))
    project.edit(with_lock_timeout)
    with project.engine.connect() as other:
        other.exec_driver_sql("SELECT * FROM account")
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            project.upgrade()

    project.check_is_at("0001")


def test_nothing_is_locked_where_only_the_function_changes(
    tmp_path: Path, database: Database
) -> None:
    """A migration that replaces the function alone runs while the tables are locked."""
    project = Project(tmp_path, database)
    project.migrate(models("email"))
    changed = models("email")
    changed.tables["account"].info["audit.options"]["skip_unchanged"] = True
    assert "lock_audited_tables" not in project.revision(changed)
    with project.engine.connect() as other:
        other.exec_driver_sql("LOCK TABLE account, account_audit IN ACCESS EXCLUSIVE MODE")
        project.edit(with_lock_timeout)
        project.upgrade()


@pytest.mark.parametrize(
    ("tables", "mode", "message"),
    [
        ("account", "ACCESS EXCLUSIVE", "takes a list of tables, found 'account'"),
        ([], "ACCESS EXCLUSIVE", "names no table"),
        (["a\nb"], "ACCESS EXCLUSIVE", "holds a control character"),
        (["a"], "SHARE", "mode must be one of SHARE ROW EXCLUSIVE, ACCESS EXCLUSIVE"),
    ],
)
def test_refused(tables: list[str], mode: str, message: str) -> None:
    """What cannot be locked so is refused with a sentence."""
    with pytest.raises(SpecError, match=message):
        LockAuditedTablesOp(tables, mode=mode)


def test_a_referenced_table_is_locked_too(tmp_path: Path, database: Database) -> None:
    """A foreign key locks both of its tables, so the audited one that it refers to is there too."""

    def linked(key: bool) -> sa.MetaData:
        metadata = models("email")
        column = metadata.tables["invoice"].c.id
        if key:
            metadata.tables["invoice"].append_constraint(
                sa.ForeignKeyConstraint([column], ["account.id"], name="fk_account")
            )
        return metadata

    project = Project(tmp_path, database)
    project.migrate(linked(False))
    line = "op.lock_audited_tables(['account', 'invoice'], mode='ACCESS EXCLUSIVE')"
    assert 2 == project.migrate(linked(True)).count(line)
    assert 2 == project.migrate(linked(False)).count(line)
