"""One database through every change and back, by autogenerate: no value is lost or altered."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.conftest import Database
from tests.journey import Models, history, still_recorded
from tests.project import Project
from tests.test_changes import DELETE, INSERT, UPDATE, account, setting, using
from tests.test_columns import MOOD, Walk, mood

WHO = "SET LOCAL audit.who = 'ann'"
UUID = "SET LOCAL audit.who = '11111111-1111-1111-1111-111111111111'"
NAMES = {
    "audit.table": "%(table_name)s_history",
    "audit.function": "f_%(table_name)s",
    "audit.trigger": "00_%(table_name)s",
    "audit.setting": "s_%(setting)s",
}
WITH_WHO: dict[str, Any] = {"session_settings": [setting("who")]}
NEEDS_WHO: dict[str, Any] = {"session_settings": [setting("who", nullable=False)]}
BOTH: dict[str, Any] = {"session_settings": [setting("why"), setting("who", sa.Uuid)]}
NOTE, NUMBER = sa.Column("note", sa.Text), sa.Column("note", sa.Integer)

STATES: list[tuple[Models, tuple[str, ...]]] = [
    (account(mood()), (INSERT, "UPDATE account SET mood = 'calm'")),
    (account(mood(), hash_columns=["email"]), (UPDATE,)),
    (account(mood(), ignore_columns=["email"], skip_unchanged=True), (UPDATE, DELETE, INSERT)),
    (account(mood(), operations=["delete"]), (DELETE, INSERT)),
    (account(mood(), exclude_columns=["email"], always=True), (UPDATE,)),
    (account(mood(), changed_columns=True), (UPDATE,)),
    (account(mood(), **WITH_WHO), (WHO, UPDATE)),
    (account(mood(), **NEEDS_WHO), (WHO, UPDATE)),
    (account(mood(), NOTE, **NEEDS_WHO), (WHO, UPDATE, "UPDATE account SET note = '7'")),
    (account(mood(), NOTE, audit_columns="classic", **NEEDS_WHO), (WHO, UPDATE)),
    (account(mood(), NOTE, **WITH_WHO), (WHO, UPDATE)),
    (account(mood(), NUMBER, **WITH_WHO), (WHO, UPDATE)),
    (account(mood(), NUMBER, **WITH_WHO, naming=NAMES, schema_name="aside"), (WHO, UPDATE)),
    (account(mood(), NUMBER, **BOTH, naming=NAMES, schema_name="aside"), (UUID, UPDATE)),
    (account(mood(), audited=False), (UPDATE,)),
    (account(mood(), **WITH_WHO, naming=NAMES, schema_name="aside"), (WHO, UPDATE)),
    (account(mood(), **WITH_WHO), (WHO, UPDATE)),
    (account(), (UPDATE, DELETE)),
]


def casts(text: str) -> str:
    return using("sa.Integer()", "note::integer")(text)


def test_every_change(tmp_path: Path, database: Database) -> None:
    """Each state follows the one before; then all the way down, and up again."""
    walk = Walk(tmp_path, database, include_schemas=True)
    project = walk.project
    project.execute(MOOD)
    for models, writes in STATES:
        count = len(history(project))
        walk.to(models, *writes, edit=casts)
        audited = any("audit.options" in table.info for table in models().tables.values())
        assert audited == (len(history(project)) > count)

    walk.down_and_up()
    assert [] == project.differences(STATES[-1][0]())


def test_numbered_by_time(tmp_path: Path, database: Database) -> None:
    """What classic becomes: numbers in the order of time, timestamps with their type and value."""
    project = Project(tmp_path, database)
    project.migrate(account(audit_columns="classic")())
    project.execute(
        INSERT,
        "INSERT INTO account_audit (audit_operation, audit_operation_timestamp, email) VALUES"
        " ('U', '2020-03-01 12:00', 'third'), ('I', '2020-01-01 12:00', 'first'),"
        " ('U', '2020-02-01 12:00:00.000001', 'second')",
        "SET LOCAL TimeZone = 'Asia/Kolkata'",
    )
    project.migrate(account()())
    project.execute(UPDATE)

    query = "SELECT audit_id, audit_operation_timestamp::text, email FROM account_audit"
    expected = [
        (1, "2020-01-01 12:00:00", "first"),
        (2, "2020-02-01 12:00:00.000001", "second"),
        (3, "2020-03-01 12:00:00", "third"),
    ]
    assert expected == project.rows(f"{query} WHERE id IS NULL ORDER BY audit_id")
    numbers = "SELECT audit_id, audit_operation, email FROM account_audit WHERE audit_id > 3"
    assert [(4, "I", "a@x"), (5, "U", "a@x!")] == project.rows(f"{numbers} ORDER BY audit_id")
    assert [("timestamp without time zone",)] == project.rows(
        "SELECT pg_typeof(audit_operation_timestamp)::text FROM account_audit LIMIT 1"
    )


@pytest.fixture
def recorded(tmp_path: Path, database: Database) -> Project:
    project = Project(tmp_path, database)
    project.migrate(account(sa.Column("amount", sa.Numeric))())
    project.execute("INSERT INTO account VALUES (1, 'a@x', 12.50)", DELETE)
    return project


@pytest.mark.parametrize(
    "loss",
    [
        "DELETE FROM account_audit WHERE audit_operation = 'D'",
        "UPDATE account_audit SET email = 'b@x' WHERE audit_operation = 'D'",
        "UPDATE account_audit SET email = NULL",
        "UPDATE account_audit SET audit_operation_timestamp = now()",
        "UPDATE account_audit SET audit_id = DEFAULT WHERE audit_id = 1",
        "ALTER TABLE account_audit DROP COLUMN email",
        "ALTER TABLE account_audit ALTER COLUMN amount TYPE integer",
        "ALTER TABLE account_audit ALTER COLUMN amount TYPE numeric(10, 1)",
        "ALTER TABLE account_audit ALTER COLUMN amount TYPE text",
        "DROP TABLE account_audit",
    ],
)
def test_loss_is_seen(recorded: Project, loss: str) -> None:
    """The assertion on which these tests rest fails for each way to lose or to alter a value."""
    before = history(recorded)
    still_recorded(before, recorded)
    recorded.execute(loss)
    with pytest.raises((KeyError, ValueError, AssertionError)):
        still_recorded(before, recorded)


@pytest.mark.parametrize("allow", ["yes", "no"])
def test_history_loss_is_written(tmp_path: Path, database: Database, allow: str) -> None:
    """-x audit_allow_history_loss=yes lets a downgrade drop records; up again the trail begins."""
    project = Project(tmp_path, database)
    project.migrate(account()())
    project.migrate(account(NOTE)())
    project.execute("INSERT INTO account VALUES (1, 'a@x', 'n')")
    expected = [("I", "n"), ("T", None)]
    project.config.cmd_opts = type("Options", (), {"x": [f"audit_allow_history_loss={allow}"]})()

    project.downgrade("base")
    project.upgrade()
    project.check(account(NOTE)())
    project.execute("TRUNCATE account")

    query = "SELECT audit_operation, note FROM account_audit ORDER BY audit_id"
    assert expected[allow == "yes" :] == project.rows(query)
