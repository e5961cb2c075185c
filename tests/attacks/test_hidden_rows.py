"""Rows that row level security hides, or that a snapshot is too old for: nothing is lost by them.

A control weakens each statement by the one word that lets PostgreSQL filter.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import pytest

from alembic_audit import sql
from alembic_audit.spec import AuditSpec
from alembic_audit.sql import history
from tests.attacks.conftest import Lab, Refused

AUDIT = ("account_audit", "public")
OFF, ON = "'row_security', 'off'", "'row_security', 'on'"
FORCE = "ALTER TABLE {0} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
WRITE = "INSERT INTO public.account VALUES (1, 'a much longer value', 's')"
SPEC = AuditSpec.from_kwargs(
    table="account", columns=["id", "email"], key=["id"], audit_table="account_audit"
)


def _retype() -> str:
    aside = {"old_aside": "email__text", "new_aside": "email__int"}
    return history.retype_audit_column("account_audit", "email", "public", new_type="int", **aside)


def _purge() -> str:
    return history.purge_audit_table(
        *AUDIT, before="2999-01-01 00:00+00", reason="law", keep_last=["id"]
    )


def _column() -> str:
    return history.drop_audit_column("account_audit", "email", "public", allow_history_loss=False)


# Statement, and what a filtered one leaves behind: SQL that is true after it.
OPERATIONS: dict[str, tuple[Callable[[], str], str]] = {
    "drop_audit_table": (
        lambda: history.drop_audit_table(*AUDIT, allow_history_loss=False),
        "SELECT to_regclass('account_audit') IS NULL",
    ),
    "drop_audit_column": (
        _column,
        "SELECT NOT EXISTS (SELECT FROM pg_attribute WHERE attname = 'email'"
        " AND attrelid = 'account_audit'::regclass)",
    ),
    "retype": (
        _retype,
        "SELECT NOT EXISTS (SELECT FROM pg_attribute WHERE attname = 'email__text'"
        " AND attrelid = 'account_audit'::regclass)",
    ),
    "purge": (_purge, "SELECT records = 0 FROM alembic_audit_purges"),
    "rename_omitted": (
        lambda: history.rename_omitted_columns('"public"."account_audit"', [("email", "mail")]),
        "SELECT audit_omitted_columns = '{email}' FROM account_audit",
    ),
}


def count(lab: Lab) -> int:
    ((number,),) = lab.admin("SELECT count(*) FROM account_audit")
    return int(number)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_policy_hides_records_from_the_owner(lab: Lab, name: str) -> None:
    """FORCE ROW LEVEL SECURITY: the owner sees no record, so the operation fails, unchanged."""
    statement, happened = OPERATIONS[name]

    def begin() -> None:
        lab.admin("DROP TABLE IF EXISTS alembic_audit_purges")
        lab.start()
        lab.attack(WRITE)
        lab.admin("ALTER TABLE account_audit ADD audit_omitted_columns text[] DEFAULT '{email}'")
        lab.deploy(FORCE.format("account_audit"))

    begin()
    assert OFF in statement()
    lab.deploy(statement().replace(OFF, ON))
    assert [(True,)] == lab.admin(happened)
    begin()
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="row-level security policy"):
        lab.deploy(statement())
    assert 1 == count(lab)
    # What PostgreSQL hints at lets it go on, and the setting is as it was.
    lab.deploy("ALTER TABLE account_audit NO FORCE ROW LEVEL SECURITY")
    begun = ["BEGIN", statement(), "SHOW row_security"]
    assert [("on",)] == lab.deploy(*begun)


@pytest.mark.parametrize("batches", [False, True])
def test_a_policy_hides_rows_from_a_snapshot(lab: Lab, batches: bool) -> None:
    """FORCE ROW LEVEL SECURITY on the audited table: a snapshot is of all rows, or fails."""

    def snapshot() -> str:
        if batches:
            return sql.snapshot_batch(SPEC, "public", size=9, after=[], settings={})
        return sql.snapshot(SPEC, "public")

    def begin() -> None:
        lab.start()
        lab.deploy(
            "INSERT INTO account VALUES (1, 'a', 's'), (2, 'b', 's')",
            "TRUNCATE account_audit",
            FORCE.format("account"),
            "CREATE POLICY own ON account USING (id = 1)",
        )

    begin()
    lab.deploy(snapshot().replace(OFF, ON))
    assert [("S", 1, "a")] == lab.records()
    begin()
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="row-level security policy"):
        lab.deploy(snapshot())
    assert [] == lab.records()
    lab.deploy("ALTER TABLE account NO FORCE ROW LEVEL SECURITY")
    assert [("on",)] == lab.deploy("BEGIN", snapshot(), "SHOW row_security")
    lab.deploy(snapshot())
    assert [("S", 1, "a"), ("S", 2, "b")] == lab.records()


def test_a_policy_hides_rows_of_a_truncated_partition(lab: Lab) -> None:
    """TRUNCATE of a partition whose rows the function's owner does not see is refused."""
    rows = ("INSERT INTO public.account VALUES (1, 'a', 's'), (2, 'b', 's')",)

    def begin(change: Callable[[str], str] | None = None) -> None:
        lab.start(
            change, table="PARTITION BY RANGE (id)", partitions=["low"], operations=["truncate"]
        )
        lab.attack(*rows)
        lab.deploy(FORCE.format("low"))

    begin(lambda body: body.replace(OFF, ON))
    lab.attack("TRUNCATE low")
    assert [] == lab.records()
    begin()
    with pytest.raises(Refused, match="row-level security policy") as caught:
        lab.attack("TRUNCATE low")
    assert "42501" == caught.value.code
    assert [(2,)] == lab.admin("SELECT count(*) FROM account")
    lab.deploy("ALTER TABLE low NO FORCE ROW LEVEL SECURITY")
    assert [("on",)] == lab.attack("BEGIN", "TRUNCATE low", "SHOW row_security")
    lab.attack("TRUNCATE low")
    assert [("D", 1, "a"), ("D", 2, "b")] == lab.records()


NARROW = history.narrow_audit_column(
    "account_audit", "audit_operation_timestamp", "public", new_type="timestamptz(0)"
)
# Statement, the column that may go or be rounded, its type, and what is said.
LATER: dict[str, tuple[str, str, str, str]] = {
    "drop_audit_table": (OPERATIONS["drop_audit_table"][0](), "email", "text", "was kept; this"),
    "drop_audit_column": (_column(), "email", "text", "was kept; this REPEATABLE READ"),
    "retype": (_retype(), "email__text", "text", ""),
    "narrow": (
        NARROW,
        "audit_operation_timestamp",
        "timestamp with time zone",
        "and was not narrowed",
    ),
}
REPEATABLE = "pg_catalog.current_setting('transaction_isolation')"
SEEN = "'read committed'"


@contextmanager
def session(lab: Lab, level: str = "READ COMMITTED") -> Iterator[Any]:
    """A cursor in a transaction that has looked already, as Alembic at its version table."""
    url = lab.database.url()
    parameters = url.translate_connect_args(username="user", database="dbname")
    connection = psycopg2.connect(**parameters, **url.query)
    try:
        connection.set_session(isolation_level=level)
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_class")
            yield cursor
    finally:
        connection.close()


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("name", LATER)
def test_records_that_came_after_the_snapshot(lab: Lab, name: str, level: str) -> None:
    """A migration that does not see new records keeps what they hold, and says so."""
    statement, column, kind, notice = LATER[name]

    def run(text: str) -> str:
        lab.start()
        with session(lab, level) as late:
            lab.attack(WRITE)
            late.execute(text)
            late.connection.commit()
            return "".join(late.connection.notices)

    def kept() -> bool:
        found = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid"
        where = f"= to_regclass('account_audit') AND attname = '{column}' AND NOT attisdropped"
        return lab.admin(f"{found} {where}") == [(kind,)]

    run(statement.replace(REPEATABLE, SEEN))
    assert not kept()
    assert notice in run(statement)
    assert kept()
    assert 1 == count(lab)


def test_an_empty_table_goes_in_repeatable_read(lab: Lab) -> None:
    """One that never had a record is dropped, as in READ COMMITTED."""
    lab.start()
    statement = LATER["drop_audit_table"][0]
    lab.deploy("BEGIN ISOLATION LEVEL REPEATABLE READ", statement, "COMMIT")
    assert [(None,)] == lab.admin("SELECT to_regclass('account_audit')")


def test_records_that_come_while_it_waits(lab: Lab) -> None:
    """In READ COMMITTED it looks once it has the lock: a writer was there first."""
    lab.start()
    with session(lab) as writer, session(lab) as other:
        writer.execute(WRITE)
        other.execute("SET lock_timeout = '300ms'")
        other.connection.commit()
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            other.execute(LATER["drop_audit_table"][0])
        other.connection.rollback()
        writer.connection.commit()
        other.execute(LATER["drop_audit_table"][0])
        other.connection.commit()
    assert 1 == count(lab)


def test_a_snapshot_in_repeatable_read(lab: Lab) -> None:
    """It would record rows as they were before a change that is in the trail already."""
    statement = sql.snapshot(SPEC, "public")
    lab.start()
    lab.attack(WRITE)
    with session(lab, "REPEATABLE READ") as late:
        lab.attack("UPDATE public.account SET email = 'new'")
        late.execute(statement.replace(REPEATABLE, SEEN))
        late.connection.commit()
    assert [("S", 1, "a much longer value")] == lab.records()[-1:]
    with session(lab, "REPEATABLE READ") as late:
        with pytest.raises(psycopg2.errors.ObjectNotInPrerequisiteState) as caught:
            late.execute(statement)
        assert "this transaction is REPEATABLE READ, and does not see" in str(caught.value)
        assert 'isolation_level="READ COMMITTED"' in str(caught.value)
    with session(lab) as again:
        again.execute(statement)
        again.connection.commit()
    assert [("S", 1, "new")] == lab.records()[-1:]
