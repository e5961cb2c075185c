"""A snapshot in batches records rows that nothing recorded, while others write."""

import logging
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from alembic_audit import SpecError, sql
from alembic_audit.operations import SnapshotAuditTableOp
from alembic_audit.spec import AuditSpec
from tests.conftest import Database
from tests.project import Project

KEY = ("tenant", "id")
CALL = (
    "op.snapshot_audit_table('account', key=['tenant', 'id'], columns=['tenant', 'id', 'email'], "
    "hash_columns=['secret'], session_settings={'who': 'required'}, batch_size=%d)"
)
LAST_IS_LIVE = """
SELECT a.tenant, a.id, r.audit_operation FROM account AS a LEFT JOIN LATERAL (
  SELECT * FROM account_audit AS r WHERE r.tenant = a.tenant AND r.id = a.id
  ORDER BY audit_id DESC LIMIT 1) AS r ON true
WHERE r.audit_id IS NULL OR r.audit_operation = 'D' OR r.email IS DISTINCT FROM a.email
"""
WAITING = (
    "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
    "AND datname = current_database()"
)


def models(enabled: bool) -> sa.MetaData:
    metadata = sa.MetaData()
    options: dict[str, Any] = {
        "enabled": True,
        "hash_columns": ["secret"],
        "session_settings": [sa.Column("who", sa.Text, nullable=False)],
    }
    sa.Table(
        "account",
        metadata,
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.Text),
        sa.Column("secret", sa.Text),
        info={"audit.options": options} if enabled else {},
    )
    return metadata


def started(path: Path, database: Database, rows: int, driver: str = "psycopg2") -> Project:
    """A table with rows, and a trail that knows none of them; the next revision takes them."""
    project = Project(path, database, driver)
    env = path / "env.py"
    text = env.read_text()
    text = text.replace("context.run_migrations()", "alembic_audit.run_migrations(context)")
    env.write_text(text)
    project.migrate(models(False))
    project.execute(
        "INSERT INTO account SELECT CASE WHEN mod(i, 2) = 0 THEN 'it''s' ELSE 'B' END, i, "
        f"NULLIF('e' || i, 'e3'), 's' FROM generate_series(1, {rows}) AS i"
    )
    project.config.attributes["configure"]["audit_context"] = {"who": "deploy"}
    project.migrate(models(True))
    project.write(CALL % 4)
    return project


def records(project: Project) -> list[tuple[Any, ...]]:
    return project.rows("SELECT audit_operation, audit_who, tenant, id FROM account_audit")


def test_batches(
    tmp_path: Path, database: Database, sync_driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Every row has one record, made in transactions of their own; each batch says where it is."""
    project = started(tmp_path, database, 10, sync_driver)
    with caplog.at_level(logging.INFO, "alembic_audit"):
        project.upgrade()
    assert 10 == len(records(project))
    assert {("S", "deploy")} == {record[:2] for record in records(project)}
    assert [] == project.rows(LAST_IS_LIVE)
    assert [(4,), (4,), (2,)] == project.rows(
        "SELECT count(*) FROM account_audit GROUP BY audit_transaction_id ORDER BY min(audit_id)"
    )
    assert "snapshot of account: 8 rows, 8 recorded" in caplog.messages
    project.downgrade()
    project.upgrade()
    assert 10 == len(records(project))


def test_a_resumed_snapshot_is_linear(tmp_path: Path, database: Database) -> None:
    """To see that a row is recorded costs an index look-up, however many records came after it."""
    project = started(tmp_path, database, 1000)
    project.edit(lambda text: text.replace("batch_size=4", "batch_size=500"))
    project.upgrade()
    project.execute("ANALYZE account_audit")
    read = (
        "SELECT sum(idx_tup_read)::int FROM pg_stat_user_indexes WHERE relname = 'account_audit' "
        "UNION ALL SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'account_audit'"
    )
    project.downgrade()
    before = sum(count for (count,) in project.rows(read))
    project.upgrade()
    assert 1000 == len(records(project))
    assert sum(count for (count,) in project.rows(read)) - before < 5 * 1000


def test_what_no_trigger_saw(tmp_path: Path, database: Database) -> None:
    """A row whose last record is another than the row is recorded anew, and no other."""
    project = started(tmp_path, database, 10)
    project.upgrade()
    project.downgrade()
    project.execute(
        "SET LOCAL session_replication_role = replica",
        "UPDATE account SET email = 'silent' WHERE id = 5",
        "UPDATE account SET secret = 'other' WHERE id = 6",
        "UPDATE account SET email = '' WHERE id = 3",
    )
    project.execute(
        "SET LOCAL audit.who = 'x'",
        "DELETE FROM account WHERE id = 7",
        "SET LOCAL session_replication_role = replica",
        "INSERT INTO account VALUES ('B', 7, 'e7', 's')",
    )
    project.upgrade()
    assert [(3,), (5,), (6,), (7,)] == project.rows(
        "SELECT id FROM account_audit WHERE audit_id > 11 ORDER BY id"
    )
    assert [] == project.rows(LAST_IS_LIVE)


def test_killed_and_resumed(tmp_path: Path, database: Database) -> None:
    """What a snapshot that was killed recorded stays, and the next one records the rest."""
    project = started(tmp_path, database, 10)
    blocker = database.engine.connect()
    blocker.exec_driver_sql("SELECT FROM account WHERE id = 4 FOR UPDATE")
    failures: list[Exception] = []

    def upgrade() -> None:
        try:
            project.upgrade()
        except sa.exc.SQLAlchemyError as error:
            failures.append(error)

    thread = threading.Thread(target=upgrade)
    thread.start()
    while not (found := project.rows(WAITING)):
        assert thread.is_alive()
    made = len(records(project))
    project.rows(f"SELECT pg_terminate_backend({found[0][0]})")
    thread.join(30)
    blocker.close()
    assert 1 == len(failures)
    assert 4 == made == len(records(project))  # the first batch: B 1, 3, 5, 7
    project.check_is_at("0002")
    project.upgrade()
    assert 10 == len(records(project))
    assert [] == project.rows(LAST_IS_LIVE)


def test_with_writers(tmp_path: Path, database: Database) -> None:
    """While others insert, update, delete and change keys, the last record is the live row."""
    project = started(tmp_path, database, 400)
    stop = threading.Event()
    failures: list[Exception] = []

    def write(number: int) -> None:
        statements = (
            "UPDATE account SET email = email || 'x' WHERE mod(id, 7) = {}",
            "UPDATE account SET id = id + 10000 WHERE mod(id, 11) = {} AND id < 10000",
            "UPDATE account SET id = id - 10000 WHERE mod(id, 11) = {} AND id > 10000",
            "DELETE FROM account WHERE id = (SELECT min(id) FROM account WHERE mod(id, 5) = {})",
        )
        engine = sa.create_engine(database.url(), poolclass=sa.NullPool)
        count = 0
        while not stop.is_set():
            count += 1
            text = statements[count % 4].replace("{}", str(number))
            try:
                with engine.begin() as connection:
                    connection.exec_driver_sql("SET LOCAL audit.who = 'writer'")
                    connection.exec_driver_sql(text)
            except sa.exc.OperationalError as error:
                if "deadlock" not in str(error):
                    failures.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(3):
            project.upgrade()
            project.downgrade()
    finally:
        stop.set()
        for writer in writers:
            writer.join(30)
    assert [] == failures
    assert [] == project.rows(LAST_IS_LIVE)
    assert {"S", "U"} <= {record[0] for record in records(project)}


def test_a_batch_that_ends_a_deadlock_begins_again(
    tmp_path: Path, database: Database, sync_driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It waits for a row of a writer, who waits for one of its rows; PostgreSQL ends the batch."""
    project = started(tmp_path, database, 4, sync_driver)
    caplog.set_level(logging.INFO, "alembic_audit")
    upgrade = threading.Thread(target=project.upgrade)
    with database.engine.begin() as writer:
        writer.exec_driver_sql("SET LOCAL deadlock_timeout = '1min'; SET LOCAL audit.who = 'w'")
        writer.exec_driver_sql("UPDATE account SET email = 'w' WHERE id = 4")
        upgrade.start()
        while not project.rows(WAITING):
            assert upgrade.is_alive()
        writer.exec_driver_sql("UPDATE account SET email = 'w' WHERE id = 1")
    upgrade.join(30)
    assert not upgrade.is_alive()
    assert "snapshot in a deadlock with a writer: the batch begins again" in caplog.messages
    assert [("S", 2), ("S", 3), ("U", 1), ("U", 4)] == sorted(
        (record[0], record[3]) for record in records(project)
    )
    assert [] == project.rows(LAST_IS_LIVE)


def test_offline(tmp_path: Path, database: Database) -> None:
    """With --sql it is the one statement that it is without batches."""
    project = started(tmp_path, database, 1)
    spec = AuditSpec.from_kwargs(
        "account",
        key=KEY,
        columns=["tenant", "id", "email"],
        hash_columns=["secret"],
        session_settings={"who": "required"},
    )
    assert sql.snapshot(spec, "public") in project.sql("upgrade", "0002:0003")


@pytest.mark.parametrize("given", [0, -1, True, "10"])
def test_batch_size_is_a_number(given: Any) -> None:
    """Anything but a number of rows is refused."""
    spec = AuditSpec.from_kwargs("account", key=["id"], columns=["id"])
    with pytest.raises(SpecError, match="batch_size of snapshot_audit_table is a number of rows"):
        SnapshotAuditTableOp(spec, batch_size=given)
