"""Exporting: each record once, whatever the order of commits; values keep what they are."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql

from alembic_audit import ReadingError, audit_table
from alembic_audit.reading.export import export
from tests.conftest import Database

metadata = sa.MetaData()
thing = sa.Table(
    "thing",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("amount", sa.Numeric),
    sa.Column("blob", sa.LargeBinary),
    sa.Column("at", sa.DateTime(timezone=True)),
    sa.Column("day", sa.Date),
    sa.Column("span", sa.Interval),
    sa.Column("ratio", sa.Double),
    sa.Column("plain", sa.JSON),
    sa.Column("binary", postgresql.JSONB),
    sa.Column("words", sa.ARRAY(sa.Text)),
    sa.Column("note", sa.Text),
    sa.Column("flag", sa.Boolean),
)
other = sa.Table("other", metadata, sa.Column("id", sa.Integer, primary_key=True))
audit_table(thing)
audit_table(other)


@pytest.fixture
def engine(shared_database: Database) -> Iterator[sa.Engine]:
    """An engine of a database with empty, audited tables."""
    metadata.create_all(shared_database.engine)
    yield shared_database.engine
    metadata.drop_all(shared_database.engine)


def trail(connection: sa.Connection) -> list[int]:
    return list(connection.scalars(sa.text("SELECT audit_id FROM thing_audit ORDER BY 1")))


def numbers(lines: list[str]) -> list[int]:
    return [json.loads(line)["record"]["audit_id"] for line in lines]


moves = st.tuples(st.integers(0, 2), st.sampled_from(["write", "commit", "export", "rollback"]))


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(moves, min_size=8, max_size=25), st.integers(1, 3))
@example([(0, "write"), (1, "write"), (1, "commit"), (0, "export")], 3)
def test_each_record_once(engine: sa.Engine, story: list[tuple[int, str]], cut: int) -> None:
    """Writers that commit in any order; exports cut off anywhere together are the trail."""
    found: list[str] = []
    cursor: str | None = None

    def piece(reader: sa.Connection, limit: int) -> None:
        nonlocal cursor
        lines = export(reader, thing, after=cursor)
        for _, line in zip(range(limit), lines, strict=False):
            found.append(line.text)
            cursor = line.cursor
        lines.close()  # type: ignore[attr-defined]
        reader.rollback()

    with ExitStack() as stack:
        writers = [stack.enter_context(engine.connect()) for _ in range(3)]
        reader = stack.enter_context(engine.connect())
        reader.exec_driver_sql("TRUNCATE thing_audit, thing")
        reader.exec_driver_sql("DELETE FROM thing_audit")
        reader.commit()
        for number, (who, what) in enumerate(story):
            if what == "write":
                writers[who].execute(thing.insert(), {"id": number})
            elif what == "export":
                piece(reader, cut)
            else:
                getattr(writers[who], what)()
        for writer in writers:
            writer.commit()
        piece(reader, 10**6)
        assert trail(reader) == sorted(numbers(found))


def test_an_open_transaction_holds_back(engine: sa.Engine) -> None:
    """A record that is committed behind a transaction that runs waits; none is passed over."""
    with engine.connect() as slow, engine.connect() as fast, engine.connect() as reader:
        slow.execute(thing.insert(), {"id": 1})
        fast.execute(thing.insert(), {"id": 2})
        fast.commit()
        assert [] == list(export(reader, thing))
        reader.rollback()
        slow.commit()
        assert [1, 2] == numbers([line.text for line in export(reader, thing)])


def test_values(engine: sa.Engine) -> None:
    """Numbers with a scale, bytes and times are texts that lose nothing; settings are put back."""
    row = {
        "id": 2**60 + 1,
        "amount": Decimal("1.50000000000000000000000000001"),
        "blob": b"\x00\xff",
        "at": datetime(2026, 1, 2, 3, 4, 5, 678901, timezone(timedelta(hours=5))),
        "day": date(2026, 2, 1),
        "span": timedelta(days=1, seconds=2),
        "ratio": 0.1,
        "plain": {"b": [1, None]},
        "binary": {"a": 1},
        "words": ["x", 'y"\n'],
        "note": 'é\n\x1b[31m"',
        "flag": True,
    }
    with engine.connect() as connection:
        connection.execute(thing.insert(), row)
        connection.commit()
        connection.exec_driver_sql("ALTER TABLE thing_audit ADD gone NUMERIC DEFAULT 1.10")
        connection.exec_driver_sql("SET TimeZone = 'Asia/Tokyo'")
        connection.exec_driver_sql("SET DateStyle = 'German'")
        connection.commit()
        (line,) = export(connection, thing)
        assert "German, DMY" == connection.exec_driver_sql("SHOW DateStyle").scalar()
    assert "\n" not in line.text and "\x1b" not in line.text
    assert '"dropped": {"gone": 1.10}' in line.text
    record = json.loads(line.text)["record"]
    assert {
        "id": 2**60 + 1,
        "amount": "1.50000000000000000000000000001",
        "blob": "\\x00ff",
        "at": "2026-01-01 22:04:05.678901+00",
        "day": "2026-02-01",
        "span": "P1DT2S",
        "ratio": "0.1",
        "plain": '{"b": [1, null]}',
        "binary": {"a": 1},
        "words": '{x,"y\\"\n"}',
        "note": 'é\n\x1b[31m"',
        "flag": True,
    } == {name: record[name] for name in row}


def test_several_tables(engine: sa.Engine) -> None:
    """The cursor knows how far each table came."""
    with engine.connect() as connection:
        connection.execute(thing.insert(), [{"id": 1}, {"id": 2}])
        connection.execute(other.insert(), [{"id": 1}, {"id": 2}])
        connection.commit()
        lines = list(export(connection, thing, other))
        assert ["thing", "thing", "other", "other"] == [
            json.loads(line.text)["table"] for line in lines
        ]
        for at, line in enumerate(lines, 1):
            assert lines[at:] == list(export(connection, thing, other, after=line.cursor))


def test_a_restored_dump(engine: sa.Engine) -> None:
    """Transaction ids that this server has not given are refused, in a trail and in a cursor."""
    with engine.connect() as connection:
        with pytest.raises(ReadingError, match="the cursor is of transaction 9000000000,"):
            list(export(connection, thing, after='{"thing": [9000000000, 1]}'))
        connection.execute(thing.insert(), {"id": 1})
        connection.exec_driver_sql("UPDATE thing_audit SET audit_transaction_id = 9000000000")
        connection.commit()
        with pytest.raises(ReadingError, match=r"'thing' holds transaction 9000000000,.*restored"):
            list(export(connection, thing))


def test_what_it_reads(engine: sa.Engine) -> None:
    """A trail is read once; an index on transactions finds where an export goes on."""
    sent: list[tuple[str, Any]] = []

    @sa.event.listens_for(engine, "before_cursor_execute")
    def _(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "thing_audit" in statement:
            sent.append((statement, parameters))

    with engine.connect() as connection:
        for statement in (
            "INSERT INTO thing SELECT generate_series(1, 5000)",
            "UPDATE thing_audit SET audit_transaction_id = 3 + audit_id / 10",
            "CREATE INDEX by_transaction ON thing_audit (audit_transaction_id, audit_id)",
            "ANALYZE thing_audit",
        ):
            connection.exec_driver_sql(statement)
        connection.commit()
        sent.clear()
        *_, near, last = export(connection, thing)
        assert [last] == list(export(connection, thing, after=near.cursor))
        assert 2 == len(sent)
        statement, parameters = sent[1]
        plan = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars().all()
        assert any("by_transaction" in line for line in plan), plan


@pytest.mark.parametrize("after", ["", "7", "x", "[]x", '{"thing": 1}', '{"thing": ["a", 1]}'])
def test_no_cursor(engine: sa.Engine, after: str) -> None:
    """What is no cursor is refused before anything is sent."""
    with engine.connect() as connection:
        with pytest.raises(ReadingError, match="is no cursor"):
            export(connection, thing, after=after)
        with pytest.raises(ReadingError, match="export of nothing"):
            export(connection)


def test_autocommit(engine: sa.Engine) -> None:
    """Where each statement is a transaction the formats would not hold: refused."""
    plain = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    with plain as connection, pytest.raises(ReadingError, match="AUTOCOMMIT"):
        list(export(connection, thing))
