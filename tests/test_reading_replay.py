"""Reading at any step of any history, what it costs, from coroutines, and under a type checker."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import alembic_audit
from alembic_audit import (
    AuditId,
    as_of,
    audit_class,
    audited,
    blame,
    changes,
    diff,
    history,
)
from alembic_audit.sql import v1
from alembic_audit.tables import SPEC_KEY
from tests.conftest import ASYNC, Database

ROOT = Path(alembic_audit.__file__).parents[1]


class Base(DeclarativeBase):
    pass


@audited(sparse_columns=["note"])
class Item(Base):
    __tablename__ = "item"

    a: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    b: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int | None]
    note: Mapped[dict[str, int] | None] = mapped_column(sa.JSON)


@audited()
class Reading(Base):
    __tablename__ = "reading"

    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int | None]


@pytest.fixture(scope="module")
def engine(shared_database: Database) -> Iterator[sa.Engine]:
    """An engine of a database with the tables of this module."""
    Base.metadata.create_all(shared_database.engine)
    yield shared_database.engine
    Base.metadata.drop_all(shared_database.engine)


SPEC = Item.__table__.info[SPEC_KEY]
SNAPSHOT = v1.snapshot(SPEC, '"public"."item"', '"public"."item_audit"')

keys = st.tuples(st.integers(1, 2), st.sampled_from("xy"))
values = st.none() | st.integers(0, 2)
rows = st.tuples(keys, values)
steps = st.one_of(
    st.tuples(st.just("insert"), st.lists(rows, min_size=1, max_size=3)),
    st.tuples(st.just("update"), rows),
    st.tuples(st.just("move"), st.tuples(keys, keys)),
    st.tuples(st.just("shift"), st.just(None)),
    st.tuples(st.just("delete"), keys),
    st.tuples(st.just("truncate"), st.just(None)),
    st.tuples(st.just("snapshot"), st.just(None)),
)


def run(connection: sa.Connection, step: tuple[str, Any]) -> None:
    """Do one step; one that the key refuses does nothing."""
    kind, what = step
    item: sa.Table = Item.metadata.tables["item"]

    def at(key: tuple[int, str]) -> sa.ColumnElement[bool]:
        return sa.and_(item.c.a == key[0], item.c.b == key[1])

    statements: dict[str, Any] = {
        "shift": lambda: sa.update(item).values(a=3 - item.c.a),
        "delete": lambda: sa.delete(item).where(at(what)),
        "update": lambda: sa.update(item).where(at(what[0])).values(value=what[1], note={"n": 1}),
        "move": lambda: sa.update(item).where(at(what[0])).values(a=what[1][0], b=what[1][1]),
        "insert": lambda: sa.insert(item).values(
            [{"a": a, "b": b, "value": value, "note": None} for (a, b), value in what]
        ),
        "truncate": lambda: sa.text("TRUNCATE item"),
    }
    try:
        with connection.begin_nested():
            if kind == "snapshot":
                connection.exec_driver_sql(SNAPSHOT.replace("%", "%%"))
            else:
                connection.execute(statements[kind]())
    except sa.exc.IntegrityError:
        pass


def table_now(connection: sa.Connection) -> dict[Any, Any]:
    found = connection.execute(sa.select(Item.a, Item.b, Item.value, sa.cast(Item.note, sa.Text)))
    return {(a, b): (value, note) for a, b, value, note in found}


def shown(connection: sa.Connection, statement: Any) -> dict[Any, Any]:
    rows = statement.subquery()
    found = connection.execute(
        sa.select(rows.c.a, rows.c.b, rows.c.value, sa.cast(rows.c.note, sa.Text))
    ).all()
    assert len(found) == len({(row.a, row.b) for row in found})
    return {(row.a, row.b): (row.value, row.note) for row in found}


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(steps, max_size=12))
def test_replay(engine: sa.Engine, story: list[tuple[str, Any]]) -> None:
    """After any history, `as_of` every step is the table copied then; so say the other verbs."""
    newest = sa.select(sa.func.coalesce(sa.func.max(audit_class(Item).audit_id), 0))
    with engine.connect() as connection:
        connection.exec_driver_sql("DELETE FROM item_audit")
        connection.exec_driver_sql("ALTER TABLE item_audit ALTER audit_id RESTART")
        copies = [(0, table_now(connection))]
        for step in story:
            run(connection, step)
            copies.append((connection.scalar(newest) or 0, table_now(connection)))
        for number, copy in copies:
            assert copy == shown(connection, as_of(Item, AuditId(number)))
        check_differences(connection, copies)
        check_rows(connection, copies)
        connection.rollback()


def check_differences(connection: sa.Connection, copies: list[tuple[int, Any]]) -> None:
    """`diff` of the middle and the end says what the two copies say."""
    (one, before), (two, after) = copies[len(copies) // 2], copies[-1]
    expected = {
        key: "I" if key not in before else "D" if key not in after else "U"
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    }
    found = connection.execute(diff(as_of(Item, AuditId(one)), as_of(Item, AuditId(two))))
    assert expected == {
        (row.audit_before_a or row.audit_after_a, row.audit_before_b or row.audit_after_b): (
            row.audit_difference
        )
        for row in found
    }


def check_rows(connection: sa.Connection, copies: list[tuple[int, Any]]) -> None:
    """The end of each row's `history` and its `blame` agree with the table there is."""
    session, now = Session(connection), copies[-1][1]
    for key in [(a, b) for a in (1, 2) for b in "xy"]:
        found = session.execute(history(Item, key)).all()
        ended = not found or found[0][0].audit_operation in ("D", "T")
        assert (key in now) == (not ended)
        for record, before, changed in found:
            if before is not None:
                assert before.audit_id < record.audit_id and before.audit_operation in (
                    "I",
                    "U",
                    "S",
                )
            if changed is not None:
                names = ("a", "b", "value", "note")
                assert changed == [
                    name for name in names if getattr(record, name) != getattr(before, name)
                ]
        setters = dict(session.execute(blame(Item, key)).all())
        assert (list(setters) == ["a", "b", "value", "note"]) == (key in now)
        for name, record in setters.items():
            assert getattr(found[0][0], name) == getattr(record, name)


# -- what it costs -------------------------------------------------------------------------------

RECORDS = int(os.environ.get("ALEMBIC_AUDIT_RECORDS", "300000"))
"""How long the longer trail is. The long run shows what it measures:

    ALEMBIC_AUDIT_RECORDS=5000000 python -m pytest -s tests/test_reading_replay.py -k buffers
"""


def explain(connection: sa.Connection, statement: Any) -> dict[str, Any]:
    """Return the plan of a statement that was run."""
    compiled = statement.compile(connection, compile_kwargs={"literal_binds": True})
    text = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {compiled}"
    with connection.connection.cursor() as cursor:  # no parameters: % means nothing
        cursor.execute(text)
        (found,) = cursor.fetchone()
    plan: dict[str, Any] = found[0]["Plan"]
    return plan


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", []):
        yield from nodes(inner)


def scans(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what reads the audit table: kind of node, and index."""
    return sorted(
        (node["Node Type"], node.get("Index Name", ""))
        for node in nodes(plan)
        if "Scan" in node["Node Type"] and node["Node Type"] != "Subquery Scan"
    )


def buffers(plan: dict[str, Any]) -> int:
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


def fill(connection: sa.Connection, first: int, last: int) -> None:
    """Record rows `first` to `last`, each inserted and updated twice, in that order."""
    connection.exec_driver_sql(
        "INSERT INTO reading_audit (audit_operation, audit_operation_timestamp,"
        " audit_transaction_id, audit_current_user, id, value)"
        " SELECT CASE n WHEN 0 THEN 'I' ELSE 'U' END, clock_timestamp(), 1, repeat('x', 64), id, n"
        f" FROM generate_series(0, 2) n, generate_series({first}, {last}) id ORDER BY n, id"
    )
    connection.commit()
    with connection.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as plain:
        plain.exec_driver_sql("VACUUM ANALYZE reading_audit")


def statements() -> dict[str, Any]:
    last = AuditId(10**9)
    return {
        "history": history(Reading, 7),
        "as_of": as_of(Reading, last).filter_by(id=7),
        "as_of a time": as_of(Reading, sa.func.now()).filter_by(id=7),
        "blame": blame(Reading, 7),
        "diff": diff(
            as_of(Reading, AuditId(8)).filter_by(id=7), as_of(Reading, last).filter_by(id=7)
        ),
    }


def test_buffers(engine: sa.Engine) -> None:
    """One row costs the same at 10 thousand and at RECORDS records but for the index."""
    with engine.connect() as connection:
        connection.exec_driver_sql("DELETE FROM reading_audit")
        fill(connection, 1, 3_334)
        small = {name: explain(connection, one) for name, one in statements().items()}
        fill(connection, 3_335, RECORDS // 3)
        large = {name: explain(connection, one) for name, one in statements().items()}
        for name, plan in large.items():
            assert not [kind for kind, _ in scans(plan) if kind == "Seq Scan"], (name, plan)
            descents = sum(node["Actual Loops"] for node in nodes(plan) if node.get("Index Name"))
            print(f"{name}: {buffers(small[name])} -> {buffers(plan)}, {descents:g} descents")
            # Each descent of an index reads its new level, once; nothing else grows.
            assert buffers(plan) - buffers(small[name]) <= descents, (name, plan)
        connection.exec_driver_sql("TRUNCATE reading_audit")
        connection.commit()


def pages(connection: sa.Connection, name: str) -> int:
    statement = sa.select(sa.func.pg_relation_size(name) / sa.literal_column("8192"))
    return int(connection.execute(statement).scalar_one())


def test_a_whole_table_is_read_by_pages(engine: sa.Engine) -> None:
    """The last record of each key is found, then these are fetched: two scans, each by pages.

    Of a parallel plan each process does the first; here is one, so that it counts once.
    """
    with engine.connect() as connection:
        connection.exec_driver_sql("SET max_parallel_workers_per_gather = 0")
        connection.commit()
        fill(connection, 1, 100_000)
        table, number = (pages(connection, f"reading_audit{name}") for name in ("", "_pkey"))
        for moment in (AuditId(10**9), sa.func.now()):
            plan = explain(connection, as_of(Reading, moment))
            emptied = ("Index Scan", "reading_audit_key_idx")
            assert 2 == len([one for one in scans(plan) if one != emptied]), plan
            assert table <= buffers(plan) <= 2 * table + number + 20, plan
        connection.exec_driver_sql("RESET max_parallel_workers_per_gather")
        connection.commit()


def test_pushed_down(engine: sa.Engine) -> None:
    """A filter by range of an integer key is pushed down: it reads a few rows' records only."""
    with engine.connect() as connection:
        fill(connection, 1, 10_000)
        for condition in ({"id": 7}, None):
            asked = as_of(Reading, AuditId(10**9)).subquery()
            wanted = asked.c.id == 7 if condition else asked.c.id.between(7, 9)
            plan = explain(connection, sa.select(asked).where(wanted))
            assert not [kind for kind, _ in scans(plan) if kind == "Seq Scan"], plan
            assert buffers(plan) < 100, plan


# -- coroutines, types ---------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ASYNC)
def test_async(engine: sa.Engine, shared_database: Database, driver: str) -> None:
    """An AsyncSession executes the same constructs."""

    async def read() -> None:
        url = shared_database.url(driver.removesuffix("_async"))
        runs = create_async_engine(url, poolclass=sa.NullPool)
        async with AsyncSession(runs) as session:
            item = Item(a=1, b="%", value=None, note={"n": 1})
            session.add(item)
            await session.commit()
            await session.refresh(item)
            item.value = 5
            await session.commit()
            (newest, before, changed), (oldest, *nothing) = await session.execute(
                history(Item, (1, "%"), dropped=False)
            )
            assert (["value"], 5, None) == (changed, newest.value, before.value)
            assert ("I", [None, None]) == (oldest.audit_operation, nothing)
            moments = [AuditId(oldest.audit_id), newest.audit_operation_timestamp]
            selects = [as_of(Item, moment) for moment in moments]
            shown = [(await session.scalars(one)).one().value for one in selects]
            assert [None, 5] == shown
            assert "U" == (await session.scalars(diff(*selects))).one()
            assert 2 == len((await session.execute(changes(Item, dropped=True))).all())
            assert 1 == len((await session.execute(changes(Item, column="value"))).all())
            assert 4 == len((await session.execute(blame(Item, (1, "%")))).all())
            await session.execute(sa.text("DELETE FROM item"))
            await session.execute(sa.text("DELETE FROM item_audit"))
            await session.commit()
        await runs.dispose()

    asyncio.run(read())


SAMPLE = """
from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from alembic_audit import (
    AuditId, AuditRecord, Change, as_of, audit_class, audited, blame, changes, diff, history, past
)


class Base(DeclarativeBase):
    pass


@audited()
class Account(Base):
    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]


def read(session: Session) -> None:
    record: type[AuditRecord] = audit_class(Account)
    statement = history(Account, 1).where(record.audit_id > 1, record.email == "a")
    for one, before, changed in session.execute(statement).tuples():
        number: int = one.audit_id
        earlier: AuditRecord | None = before
        names: list[str] | None = changed
        one.audit_id = "x"  # type: ignore[assignment]
    now = datetime.now(timezone.utc)
    account: Account = session.scalars(as_of(Account, now).filter_by(id=1)).one()
    then: type[Account] = past(Account, AuditId(1))
    text: str = session.scalars(sa.select(then.email)).one()
    column: str = session.execute(blame(Account, 1)).tuples().one()[0]
    kept: dict[str, Any] = session.execute(as_of(Account, now, dropped=True)).tuples().one()[1]
    session.execute(changes(Account, operation="update", since=now))
    session.execute(diff(as_of(Account, now), as_of(Account, now)))
    found: tuple[Change, ...] = diff(None, {"id": 1})
    as_of(Account, 7)  # type: ignore[call-overload]
    changes(Account, operatoin="update")  # type: ignore[call-overload]
"""


@pytest.mark.skipif(
    sa.__version__.startswith("2.0"), reason="Select has one type argument before SQLAlchemy 2.1"
)
def test_mypy_strict(tmp_path: Path) -> None:
    """mypy --strict knows what each verb returns, and finds every misuse in the sample."""
    sample = tmp_path / "sample.py"
    sample.write_text(SAMPLE)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(sample)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert "Success: no issues found in 1 source file\n" == done.stdout, done.stdout + done.stderr
