"""append_only: records are not changed, by nobody, but for a purge that says so."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.util import CommandError

from alembic_audit import SpecError
from alembic_audit.operations import PurgeAuditTableOp
from alembic_audit.spec import AuditSpec
from tests import rounds
from tests.catalogs import snapshot
from tests.conftest import Database
from tests.project import Project

CHANGES = (
    "UPDATE {} SET email = 'forged'",
    "UPDATE {} SET email = 'forged' WHERE false",
    "DELETE FROM {}",
    "TRUNCATE {}",
    "WITH gone AS (DELETE FROM {} RETURNING id) SELECT count(*) FROM gone",
)


def models(*, audited: bool = True, **options: Any) -> sa.MetaData:
    metadata = sa.MetaData()
    sa.Table(
        "account",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("email", sa.Text),
        info={"audit.options": {"enabled": audited, **options}},
    )
    return metadata


@pytest.fixture
def project(tmp_path: Path, database: Database) -> Project:
    return Project(tmp_path, database)


def started(project: Project, **options: Any) -> Project:
    project.migrate(models(append_only=True, **options))
    project.execute("INSERT INTO account VALUES (1, 'a')")
    return project


def refused(project: Project, statement: str) -> str:
    with pytest.raises(sa.exc.DBAPIError) as caught:
        project.execute("SET session_replication_role = replica", statement)
    return str(caught.value.orig)


@pytest.mark.core
@pytest.mark.parametrize("change", CHANGES)
def test_records_cannot_be_changed(project: Project, change: str) -> None:
    """A superuser with triggers switched off for replication is refused, and told what to do."""
    started(project, session_settings=[sa.Column("who", sa.Text)])
    message = refused(project, change.format("account_audit"))
    operation = next(one for one in ("UPDATE", "DELETE", "TRUNCATE") if one in change)
    assert (
        f'audit table "public"."account_audit" is append-only, and refuses {operation}\n'
        "HINT:  op.purge_audit_table deletes old records, and records that it did."
    ) == message.partition("\nCONTEXT")[0]
    assert [(1, "a")] == project.rows("SELECT id, email FROM account_audit")


def test_recording_goes_on(project: Project) -> None:
    """What is refused of the audit table is recorded of the audited table."""
    started(project)
    project.execute("UPDATE account SET email = 'b'", "DELETE FROM account", "TRUNCATE account")
    assert [("I", "a"), ("U", "b"), ("D", "b"), ("T", None)] == project.rows(
        "SELECT audit_operation, email FROM account_audit ORDER BY audit_id"
    )


def test_required_setting_is_not_asked_for(project: Project) -> None:
    """The refusal does not speak of a setting that only a write of the audited table needs."""
    project.migrate(
        models(append_only=True, session_settings=[sa.Column("who", sa.Text, nullable=False)])
    )
    assert "is append-only" in refused(project, "DELETE FROM account_audit")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"schema_name": "History"},
        {"audit_columns": "classic"},
        {"always": True, "operations": ["delete"], "hash_columns": ["email"]},
    ],
)
def test_round(project: Project, options: dict[str, Any]) -> None:
    """With and without it is a diff, and each way back leaves the catalog as it was."""
    project.config.attributes["configure"]["include_schemas"] = True
    rounds.migrate(project, models(append_only=True, **options))
    rounds.migrate(project, models(**options))
    text = rounds.migrate(project, models(append_only=True, **options))
    assert "append_only=True" in text
    rounds.migrate(project, models(audited=False))


def test_locks_of_a_guard_that_comes(project: Project) -> None:
    """A migration that puts a trigger on the audit table locks it with the audited one."""
    project.migrate(models())
    text = project.migrate(models(append_only=True))
    line = "op.lock_audited_tables(['account', 'account_audit'], mode='ACCESS EXCLUSIVE')"
    assert 2 == text.count(line)


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ("DROP TRIGGER", "is gone"),
        ("DISABLE", "is in state DISABLE"),
        ("ENABLE", "is in state ENABLE"),
        ("RENAME", "is gone"),
    ],
)
@pytest.mark.parametrize("level", ["", "_row"])
def test_drift(project: Project, change: str, detail: str, level: str) -> None:
    """A guard that is missing, off or not ALWAYS is named, mended, and put back by a downgrade."""
    started(project)
    before = snapshot(project.engine)
    guard = f'"00_audit_account_append_only{level}"'
    project.execute(
        {
            "DROP TRIGGER": f"DROP TRIGGER {guard} ON account_audit",
            "RENAME": f"ALTER TRIGGER {guard} ON account_audit RENAME TO other",
        }.get(change, f"ALTER TABLE account_audit {change} TRIGGER {guard}")
    )
    drifted = snapshot(project.engine)
    with pytest.raises(CommandError, match=f'{guard} on "public"."account_audit" {detail}'):
        project.check(models(append_only=True))
    project.migrate(models(append_only=True))
    assert before == snapshot(project.engine)
    project.downgrade()
    assert drifted == snapshot(project.engine)
    project.upgrade()
    assert before == snapshot(project.engine)


def test_audit_table_made_anew_is_guarded(project: Project) -> None:
    """An audit table that was dropped comes back with its guard."""
    started(project)
    before = snapshot(project.engine)
    project.config.attributes["check_trails"] = False
    project.execute("DROP TABLE account_audit")
    project.migrate(models(append_only=True))
    assert before == snapshot(project.engine)
    project.downgrade()
    project.upgrade()
    assert before == snapshot(project.engine)


def test_classic_becomes_standard(project: Project) -> None:
    """The numbers of ``audit_id`` are the one UPDATE that we make ourselves."""
    started(project, audit_columns="classic")
    project.execute("INSERT INTO account VALUES (2, 'b')")
    project.migrate(models(append_only=True))
    assert [(1, 1), (2, 2)] == project.rows("SELECT audit_id, id FROM account_audit ORDER BY 1")
    assert "is append-only" in refused(project, "DELETE FROM account_audit")
    project.downgrade()
    assert "is append-only" in refused(project, "DELETE FROM account_audit")


def test_partitions(project: Project) -> None:
    """The triggers on partitions record, that on the audit table refuses."""
    spec = AuditSpec.from_kwargs("t", columns=["id"], partitions=["p"], append_only=True)
    project.execute(
        "CREATE TABLE t (id int) PARTITION BY LIST (id)", "CREATE TABLE p PARTITION OF t DEFAULT"
    )
    kwargs = {name: value for name, value in spec.to_kwargs().items() if name != "audit_table"}
    project.write(
        "op.execute('CREATE TABLE t_audit (audit_id bigint GENERATED ALWAYS AS IDENTITY, "
        "audit_operation varchar(1), audit_operation_timestamp timestamptz, "
        "audit_transaction_id bigint, audit_current_user varchar(64), id int)')\n"
        f"    op.create_audit_trigger('t', **{kwargs!r})"
    )
    project.upgrade()
    project.execute("INSERT INTO t VALUES (7)", "TRUNCATE p")
    assert [("I", 7), ("D", 7)] == project.rows("SELECT audit_operation, id FROM t_audit")
    assert "refuses TRUNCATE" in refused(project, "TRUNCATE t_audit")


PURGE = (
    "op.purge_audit_table('account_audit', before='2999-01-01 00:00+00:00', reason='law', "
    "keep_last=None)"
)
PURGES = "SELECT audit_table, before::text, records, reason, purged_by FROM alembic_audit_purges"


@pytest.mark.parametrize("audit_columns", ["standard", "classic"])
@pytest.mark.parametrize("offline", [False, True])
def test_purge(project: Project, audit_columns: str, offline: bool) -> None:
    """Old records go, the guard stays, and a table says when, by whom, how many and why."""
    started(project, audit_columns=audit_columns)
    before = snapshot(project.engine)["triggers"]
    project.write(PURGE)
    if offline:
        script = project.sql("upgrade", "0001:0002")
        with project.engine.begin() as connection, connection.connection.cursor() as cursor:
            cursor.execute(script.replace("BEGIN;", "", 1).replace("COMMIT;", ""))
    else:
        project.upgrade()
    project.execute("SET TimeZone = 'UTC'")
    ((table, _, *rest),) = project.rows(PURGES)
    assert ("account_audit", 1, "law", project.engine.url.username) == (table, *rest)
    assert [] == project.rows("SELECT 1 FROM account_audit")
    assert before == snapshot(project.engine)["triggers"]
    assert "is append-only" in refused(project, "TRUNCATE account_audit")
    project.check(models(append_only=True, audit_columns=audit_columns))


def test_purge_spares_what_is_newer(project: Project) -> None:
    """A record of the time itself, or later, stays."""
    started(project)
    project.write(PURGE.replace("2999", "2001"))
    project.upgrade()
    assert [(1,)] == project.rows("SELECT count(*) FROM account_audit")
    assert [(0,)] == project.rows("SELECT records FROM alembic_audit_purges")


def test_purge_does_not_trust_a_table_of_another(project: Project) -> None:
    """Whoever made alembic_audit_purges first has triggers on it that would run as the purger."""
    started(project)
    project.execute("CREATE ROLE trap", "CREATE TABLE alembic_audit_purges (id int)")
    project.execute("ALTER TABLE alembic_audit_purges OWNER TO trap")
    project.write(PURGE)
    try:
        with pytest.raises(sa.exc.DBAPIError, match="belongs neither to the owner of"):
            project.upgrade()
        assert [(1,)] == project.rows("SELECT count(*) FROM account_audit")
    finally:
        project.execute("DROP OWNED BY trap", "DROP ROLE trap")


@pytest.mark.parametrize("before", ["2024-01-01", "2024-01-01 00:00", "x", None, 7])
def test_time_without_offset(before: Any) -> None:
    """A time that depends on the session's time zone is refused."""
    with pytest.raises(SpecError, match="before must be a time with an offset from UTC"):
        PurgeAuditTableOp("account_audit", before=before, reason="law", keep_last=None)


@pytest.mark.parametrize("reason", ["", " ", "a\nb", None])
def test_purge_without_reason(reason: Any) -> None:
    """A purge says why."""
    with pytest.raises(SpecError, match="reason must say in one line why records go"):
        PurgeAuditTableOp(
            "account_audit", before="2024-01-01T00:00+00:00", reason=reason, keep_last=None
        )
