"""doctor --replay: trails whose records contradict each other or the table; restoring refuses.

A function that writes a table inside a statement on it, or a BEFORE ROW trigger that does, is
recorded before that statement: no trigger of ours can tell.
"""

import asyncio
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from alembic_audit import (
    AuditId,
    RestoreError,
    TransactionId,
    audit_table,
    doctor,
    restore,
    settled_transaction,
    undo,
)
from alembic_audit.cli import main
from alembic_audit.doctor import values as kinds
from alembic_audit.reading import as_of
from alembic_audit.sql import history, v1
from alembic_audit.sql.replay import UNRECORDED
from alembic_audit.tables import SPEC_KEY
from tests.conftest import Database

LEVELS = ("statement", "row")
KINDS = (
    kinds.NOT_REPLAYABLE,
    kinds.DIFFERS_FROM_TABLE,
    kinds.UNRECORDED,
    kinds.NOT_REPLAYED,
)


def table(metadata: sa.MetaData, name: str, level: Any = "auto", **options: Any) -> sa.Table:
    made = sa.Table(
        name,
        metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("v", sa.Integer),
    )
    audit_table(made, level=level, **options)
    return made


def run(engine: sa.Engine, *statements: str) -> None:
    for statement in statements:
        with engine.begin() as connection:
            execute(connection, statement)


def execute(connection: sa.Connection, statement: str) -> None:
    connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def replayed(engine: sa.Engine) -> list[str]:
    """What a replay finds, its kinds left out."""
    with engine.connect() as connection:
        found = doctor.examine(connection, replayed=True)
    return [one.what for one in found if one.kind in KINDS]


THREE = "INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)"


def function(statement: str) -> str:
    return (
        "CREATE FUNCTION f(k int) RETURNS int LANGUAGE plpgsql AS "
        f"$$ BEGIN {statement}; RETURN 0; END $$"
    )


def trigger(operation: str, statement: str, row: str = "NEW") -> str:
    return (
        "CREATE FUNCTION b() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN {statement}; RETURN {row}; END $$;"
        f"CREATE TRIGGER b BEFORE {operation} ON t FOR EACH ROW EXECUTE FUNCTION b()"
    )


CHANGE, DELETE = "UPDATE t SET v = 9 WHERE id = k", "DELETE FROM t WHERE id = k"
NESTED = {
    "INSERT RETURNING a function that updates the row": (
        [function(CHANGE), "INSERT INTO t VALUES (5, 5) RETURNING f(id)"],
        [
            "record 2 inserts key 5, which is there since record 1",
            "key 5 is not as record 2 says, in v",
        ],
    ),
    "INSERT RETURNING a function that deletes the row": (
        [function(DELETE), "INSERT INTO t VALUES (5, 5) RETURNING f(id)"],
        ["key 5 is gone, and by record 2 it is there"],
    ),
    "UPDATE RETURNING a function that updates the row": (
        [THREE, function(CHANGE), "UPDATE t SET v = 5 WHERE id = 1 RETURNING f(id)"],
        ["key 1 is not as record 5 says, in v"],
    ),
    "UPDATE RETURNING a function that deletes the row": (
        [THREE, function(DELETE), "UPDATE t SET v = 5 WHERE id = 1 RETURNING f(id)"],
        [
            "record 5 updates key 1, which is gone since record 4",
            "key 1 is gone, and by record 5 it is there",
        ],
    ),
    "DELETE RETURNING a function that inserts the row": (
        [
            THREE,
            function("INSERT INTO t VALUES (k, 9)"),
            "DELETE FROM t WHERE id = 1 RETURNING f(id)",
        ],
        [
            "record 4 inserts key 1, which is there since record 1",
            "key 1 is there, and by record 5, or a TRUNCATE, it is gone",
        ],
    ),
    "UPDATE SET by a function that updates an earlier row": (
        [THREE, function(f"{CHANGE} - 1"), "UPDATE t SET v = 5 + f(id)"],
        ["key 1 is not as record 6 says, in v; key 2 is not as record 7 says, in v"],
    ),
    "INSERT SELECT of a function that updates an earlier row": (
        [
            function(f"{CHANGE} - 1"),
            "INSERT INTO t SELECT g, f(g) FROM generate_series(1, 2) AS g",
        ],
        [
            "record 2 inserts key 1, which is there since record 1",
            "key 1 is not as record 2 says, in v",
        ],
    ),
    "UPDATE of the key, RETURNING a function that updates the row": (
        [THREE, function(CHANGE), "UPDATE t SET id = 7 WHERE id = 1 RETURNING f(id)"],
        ["key 7 is not as record 6 says, in v"],
    ),
    "BEFORE INSERT that updates an earlier row": (
        [
            trigger("INSERT", "UPDATE t SET v = 9 WHERE id = NEW.id - 1"),
            "INSERT INTO t VALUES (1, 1), (2, 2)",
        ],
        [
            "record 2 inserts key 1, which is there since record 1",
            "key 1 is not as record 2 says, in v",
        ],
    ),
    "BEFORE UPDATE that updates an earlier row": (
        [
            THREE,
            trigger("UPDATE", "IF NEW.v = 5 THEN UPDATE t SET v = 9 WHERE id = NEW.id - 1; END IF"),
            "UPDATE t SET v = 5 WHERE id < 3",
        ],
        ["key 1 is not as record 5 says, in v"],
    ),
    "BEFORE DELETE that inserts an earlier row": (
        [
            THREE,
            trigger("DELETE", "IF OLD.id = 2 THEN INSERT INTO t VALUES (1, 9); END IF", "OLD"),
            "DELETE FROM t",
        ],
        [
            "record 4 inserts key 1, which is there since record 1",
            "key 1 is there, and by record 5, or a TRUNCATE, it is gone",
        ],
    ),
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("case", NESTED)
def test_nested_write(case: str, level: str, database: Database) -> None:
    """A replay names the row and its records; restoring and undoing it is refused."""
    metadata, engine = sa.MetaData(), database.engine
    made = table(metadata, "t", level)
    metadata.create_all(engine)
    statements, expected = NESTED[case]
    run(engine, *statements)

    assert expected == replayed(engine)
    key = int(expected[-1].split()[1])
    with engine.connect() as connection:
        last = connection.exec_driver_sql(
            f"SELECT max(audit_id), max(audit_transaction_id) FROM t_audit WHERE id = {key}"
        ).one()
        with pytest.raises(RestoreError, match=rf"row {key} of 't'"):
            restore(connection, made, key, as_of=AuditId(last[0]))
        with pytest.raises(RestoreError):
            undo(connection, TransactionId(last[1]), made)


@pytest.mark.parametrize("level", LEVELS)
def test_restore_far_from_a_contradiction(level: str, database: Database) -> None:
    """What was recorded before, and what was recorded later, is as good as ever."""
    metadata, engine = sa.MetaData(), database.engine
    made = table(metadata, "t", level)
    metadata.create_all(engine)
    run(
        engine,
        "INSERT INTO t VALUES (1, 1)",
        "UPDATE t SET v = 2",
        function("INSERT INTO t VALUES (k, 9)"),
        "DELETE FROM t WHERE id = 1 RETURNING f(id)",
    )
    # What is there, recorded: the cure that the finding names.
    run(engine, v1.snapshot(made.info[SPEC_KEY], '"public"."t"', '"public"."t_audit"'))
    run(engine, "UPDATE t SET v = 3")

    assert ["record 3 inserts key 1, which is there since record 2"] == replayed(engine)
    with engine.connect() as connection:
        for moment in (2, 3, 4):
            with pytest.raises(RestoreError, match="record 3 contradicts the one before it"):
                restore(connection, made, 1, as_of=AuditId(moment))
        assert "v: 3 -> 1" in str(restore(connection, made, 1, as_of=AuditId(1)))
        assert "v: 3 -> 9" in str(restore(connection, made, 1, as_of=AuditId(5)))


def test_legal_histories(database: Database) -> None:
    """What a trail may hold is no finding: moves, TRUNCATE, snapshots, a table that had rows."""
    metadata, engine = sa.MetaData(), database.engine
    made = table(metadata, "t", "statement")
    late = table(metadata, "late", "row")
    sa.Table(
        "odd",
        metadata,
        sa.Column("a", sa.Enum("x", "y", name="letter"), primary_key=True),
        sa.Column("b", sa.Numeric, primary_key=True),
        sa.Column("note", sa.JSON),
        sa.Column("seen", sa.Integer),
        sa.Column("token", sa.Text),
        sa.Column("tags", sa.ARRAY(sa.Text)),
        info={
            "audit.options": {
                "enabled": True,
                "sparse_columns": ["note"],
                "ignore_columns": ["seen"],
                "hash_columns": ["token"],
            }
        },
    )
    from alembic_audit.tables import derive_all

    derive_all(metadata)
    metadata.create_all(engine)
    spec = made.info[SPEC_KEY]
    snapshot = v1.snapshot(spec, '"public"."t"', '"public"."t_audit"')
    triggers = [
        "ALTER TABLE late DISABLE TRIGGER USER",
        "INSERT INTO late VALUES (1, 1), (2, 2), (3, 3), (4, 4)",
        "ALTER TABLE late ENABLE TRIGGER USER",
    ]
    run(
        engine,
        THREE,
        "UPDATE t SET id = id + 10",
        "DELETE FROM t WHERE id = 11",
        "UPDATE t SET id = 1 WHERE id = 12",
        "TRUNCATE t",
        THREE,
        snapshot,
        "UPDATE t SET id = 30 WHERE id = 3; UPDATE t SET id = 3 WHERE id = 30",
        "INSERT INTO t VALUES (1, 5) ON CONFLICT (id) DO UPDATE SET v = 6",
        *triggers,
        "UPDATE late SET v = 0 WHERE id = 1",
        "DELETE FROM late WHERE id = 2",
        "UPDATE late SET id = 5 WHERE id = 3",
        """INSERT INTO odd VALUES ('x', 1.0, '{"n": 1}', 1, 'secret', '{a,b}')""",
        "UPDATE odd SET seen = 2",
        "UPDATE odd SET token = 'other', tags = NULL",
        "UPDATE odd SET b = 1.00",
        "UPDATE odd SET a = 'y'",
    )
    assert "late" == late.name
    assert ["rows of the table without a record: 1, for example key 4"] == replayed(engine)
    with engine.connect() as connection:
        (found,) = (one for one in doctor.examine(connection, replayed=True) if one.kind in KINDS)
        assert ("info", "public.late") == (found.severity, found.table)
        assert 3 == len(connection.execute(as_of(made, AuditId(10**9))).all())


def test_written_while_the_trail_was_off(database: Database) -> None:
    """A value of a sparse column, an enum, a row: each is compared with what was recorded last."""
    metadata, engine = sa.MetaData(), database.engine
    made = sa.Table(
        "odd",
        metadata,
        sa.Column("id", sa.Enum("x", "y", "z", name="letter"), primary_key=True),
        sa.Column("v", sa.Integer),
        sa.Column("note", sa.Text),
    )
    audit_table(made, sparse_columns=["note"])
    metadata.create_all(engine)
    run(
        engine,
        "INSERT INTO odd VALUES ('x', 1, 'a'), ('y', 1, 'a'), ('z', 1, NULL)",
        "UPDATE odd SET v = 2",
        "ALTER TABLE odd DISABLE TRIGGER USER; UPDATE odd SET note = 'b' WHERE id = 'x';"
        "DELETE FROM odd WHERE id = 'z'; ALTER TABLE odd ENABLE TRIGGER USER",
    )
    assert [
        "key x is not as record 4 says, in note; key z is gone, and by record 6 it is there"
    ] == replayed(engine)
    run(engine, "INSERT INTO odd VALUES ('z', 3, NULL)", "UPDATE odd SET note = 'c'")
    assert ["record 7 inserts key z, which is there since record 6"] == replayed(engine)


def test_what_is_not_replayed(database: Database) -> None:
    """A trail without order, key or every operation says so, and nothing is read."""
    metadata, engine = sa.MetaData(), database.engine
    table(metadata, "classic", audit_columns="classic")
    table(metadata, "some", operations=["insert", "update"])
    keyless = sa.Table("keyless", metadata, sa.Column("v", sa.Integer))
    audit_table(keyless)
    metadata.create_all(engine)

    assert [
        "the trail was not replayed: the layout 'classic' has no order of records",
        "the trail was not replayed: without a primary key a record does not say which row it is "
        "of",
        "the trail was not replayed: it does not record delete, truncate",
    ] == replayed(engine)


def test_role_that_sees_some_rows(database: Database) -> None:
    """Row level security hides rows, so that a replay would find what is not: it is refused."""
    metadata, engine = sa.MetaData(), database.engine
    table(metadata, "t")
    metadata.create_all(engine)
    role = f"reader_{os.getpid()}"
    run(engine, THREE, f"CREATE ROLE {role} LOGIN", "ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    try:
        for expected in (
            "the trail was not replayed: permission denied for table t_audit",
            'the trail was not replayed: "public"."t" is not examined: row level security may hide '
            "records from you; connect as its owner, or as a role with BYPASSRLS",
        ):
            with engine.connect() as connection:
                connection.exec_driver_sql(f"SET LOCAL ROLE {role}")
                found = doctor.examine(connection, replayed=True)
                assert [expected] == [one.what for one in found if one.kind in KINDS]
            run(engine, f"GRANT SELECT ON t, t_audit TO {role}")
    finally:
        run(engine, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_other_writers(database: Database) -> None:
    """A replay reads one snapshot: what others commit meanwhile is no finding."""
    metadata, engine = sa.MetaData(), database.engine
    table(metadata, "t")
    metadata.create_all(engine)
    run(engine, "INSERT INTO t SELECT g, 0 FROM generate_series(1, 20000) AS g")
    seen: list[tuple[str, int]] = []

    def write(name: str, keys: int) -> None:
        seen.append((name, keys))
        run(engine, "UPDATE t SET v = v + 1", "DELETE FROM t WHERE id < 10000")

    with engine.connect() as connection:
        found = doctor.examine(connection, replayed=True, progress=write)
    assert [] == [one.what for one in found if one.kind in KINDS]
    assert len(seen) > 5 and ("public.t", 20000) == seen[-1]
    assert [] == replayed(engine)


def test_many_rows_are_one_finding(database: Database) -> None:
    """A finding counts, and names the first few."""
    metadata, engine = sa.MetaData(), database.engine
    table(metadata, "t")
    metadata.create_all(engine)
    run(
        engine,
        "ALTER TABLE t DISABLE TRIGGER USER",
        "INSERT INTO t SELECT g, 0 FROM generate_series(1, 2000) AS g",
        "ALTER TABLE t ENABLE TRIGGER USER",
        "UPDATE t SET v = 1",
        "ALTER TABLE t DISABLE TRIGGER USER",
        "UPDATE t SET v = 2",
    )
    (what,) = replayed(engine)
    assert what.startswith("key 1 is not as record 1 says, in v; key 2 is not as record 2")
    assert what.endswith("; and 1,995 more")


STORY = """
INSERT INTO k VALUES ('a', 1.0, 1, 'one'), ('b', 1, 1, 'two'), ('c', 1, 1, 'c'), ('d', 1, 1, 'x');
UPDATE k SET v = 2 WHERE a IN ('a', 'b');
DELETE FROM k WHERE a = 'c';
UPDATE k SET a = 'e' WHERE a = 'd';
DELETE FROM k WHERE a = 'b'; INSERT INTO k VALUES ('b', 1, 5, 'new');
UPDATE k SET v = 6 WHERE a = 'b'
"""


@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize("sparse", [[], ["note"]])
@pytest.mark.parametrize("kept", [True, False])
def test_purge_keeps_what_as_of_needs(
    kept: bool, sparse: list[str], truncated: bool, database: Database
) -> None:
    """With keep_last, as_of of the time itself and of every later moment is what it was before."""
    metadata, engine = sa.MetaData(), database.engine
    made = sa.Table(
        "k",
        metadata,
        sa.Column("a", sa.Text, primary_key=True),
        sa.Column("removed", sa.Numeric, primary_key=True),
        sa.Column("v", sa.Integer),
        sa.Column("note", sa.Text),
    )
    audit_table(made, sparse_columns=sparse)
    metadata.create_all(engine)
    run(
        engine,
        *STORY.split(";"),
        *["TRUNCATE k", "INSERT INTO k VALUES ('z', 1, 1, 'z')"] * truncated,
    )
    with engine.connect() as connection:
        before = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    run(
        engine,
        "UPDATE k SET v = v + 1 WHERE a IN ('a', 'z')",
        "INSERT INTO k VALUES ('f', 1, 1, 'f')",
    )
    with engine.connect() as connection:
        records = sa.text(
            "SELECT audit_id, audit_operation_timestamp >= :before FROM k_audit ORDER BY 1"
        )
        numbers = [tuple(row) for row in connection.execute(records, {"before": before})]
        later = [number for number, is_later in numbers if is_later]
        moments: list[Any] = [before, *map(AuditId, later), AuditId(10**9)]
        expected = [sorted(connection.execute(as_of(made, one)).all()) for one in moments]
    key = ["a", "removed"] if kept else None
    run(
        engine,
        history.purge_audit_table(
            "k_audit", "public", before=before.isoformat(), reason="law", keep_last=key or []
        ),
    )
    with engine.connect() as connection:
        found = [sorted(connection.execute(as_of(made, one)).all()) for one in moments]
        left = connection.exec_driver_sql("SELECT count(*) FROM k_audit").scalar_one()
    assert 2 == len(later)
    assert left < len(numbers)
    assert (expected == found) == kept
    lines = [what for what in replayed(engine) if "without a record" in what]
    assert bool(lines) == (not kept and not truncated)


# -- a moment that stays ---------------------------------------------------------------------------


def test_settled_transaction(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """A time changes when somebody commits late; the settled moment does not."""
    metadata, engine = sa.MetaData(), database.engine
    made = table(metadata, "t")
    metadata.create_all(engine)
    run(engine, "INSERT INTO t VALUES (1, 1)")
    url = database.url().render_as_string(hide_password=False)
    with engine.connect() as late, engine.connect() as reader:
        execute(late, "INSERT INTO t VALUES (2, 2)")
        run(engine, "INSERT INTO t VALUES (3, 3)")
        now = reader.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
        moment = settled_transaction(reader)
        with Session(engine) as session:
            assert moment == settled_transaction(session)
        assert 0 == main(["as-of", "t", "settled", "--url", url, "--csv"])
        out, err = capsys.readouterr()
        assert (f"settled: tx:{moment.value}\n", 2) == (err, len(out.splitlines()))

        def shown(when: Any) -> list[int]:
            return sorted(reader.execute(as_of(made, when)).scalars())

        assert ([1, 3], [1]) == (shown(now), shown(moment))
        late.commit()
        assert ([1, 2, 3], [1]) == (shown(now), shown(moment))
        assert [1, 2, 3] == shown(settled_transaction(reader))


def test_settled_transaction_asynchronously(database: Database) -> None:
    """run_sync gives it to an AsyncSession and to an AsyncConnection."""
    metadata = sa.MetaData()
    table(metadata, "t")
    metadata.create_all(database.engine)
    run(database.engine, "INSERT INTO t VALUES (1, 1)")

    async def look() -> list[TransactionId]:
        engine = create_async_engine(database.url("asyncpg"))
        async with AsyncSession(engine) as session, engine.connect() as connection:
            found = [
                await session.run_sync(settled_transaction),
                await connection.run_sync(settled_transaction),
            ]
        await engine.dispose()
        return found

    with database.engine.connect() as connection:
        expected = settled_transaction(connection)
    assert [expected, expected] == asyncio.run(look())


# -- the command ---------------------------------------------------------------------------------


def test_command(
    database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit codes and output are doctor's; without --replay records are not read."""
    for name in ("ALEMBIC_CONFIG", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    metadata, engine = sa.MetaData(), database.engine
    table(metadata, "t")
    metadata.create_all(engine)
    url = database.url().render_as_string(hide_password=False)
    run(engine, THREE)

    assert 0 == main(["doctor", "--url", url, "--replay"])
    run(engine, function(CHANGE), "UPDATE t SET v = 5 WHERE id = 1 RETURNING f(id)")
    assert 0 == main(["doctor", "--url", url])
    capsys.readouterr()
    assert 1 == main(["doctor", "--url", url, "--replay", "--json"])
    out, err = capsys.readouterr()
    assert "" == err
    (report,) = json.loads(out)["databases"]
    assert "key 1 is not as record 5 says, in v" in [one["what"] for one in report["findings"]]


# -- any history ---------------------------------------------------------------------------------

Row = tuple[int, int | None, str, int]

keys = st.integers(1, 4)
nested = st.tuples(st.sampled_from(["insert", "update", "delete", "move"]), keys, keys)
plain = st.one_of(
    st.tuples(st.just("insert"), keys),
    st.tuples(st.just("update"), keys),
    st.tuples(st.just("update all"), keys),
    st.tuples(st.just("move"), keys),
    st.tuples(st.just("shift"), keys),
    st.tuples(st.just("delete"), keys),
    st.tuples(st.just("delete all"), keys),
    st.tuples(st.just("truncate"), keys),
    st.tuples(st.just("unrecorded"), keys),
    st.tuples(st.just("snapshot"), keys),
)
steps = st.tuples(plain, st.none() | nested, st.sampled_from(["set", "returning", "before"]))

INNER = """
CREATE FUNCTION inner_write() RETURNS int LANGUAGE plpgsql AS $$
DECLARE
  what text[] := string_to_array(current_setting('test.nested', true), ' ');
BEGIN
  IF coalesce(what[1], '') = '' THEN RETURN 0; END IF;
  PERFORM set_config('test.nested', '', true);
  EXECUTE CASE what[1]
    WHEN 'insert' THEN 'INSERT INTO {name} VALUES ($1, $3) ON CONFLICT DO NOTHING'
    WHEN 'update' THEN 'UPDATE {name} SET v = $3 WHERE id = $1'
    WHEN 'delete' THEN 'DELETE FROM {name} WHERE id = $1'
    ELSE 'UPDATE {name} SET id = $2 WHERE id = $1' END
  USING what[2]::int, what[3]::int, what[4]::int;
  RETURN 0;
END $$;
CREATE FUNCTION before_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF current_setting('test.before', true) = 'on' THEN PERFORM inner_write(); END IF;
  RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE TRIGGER b BEFORE INSERT OR UPDATE OR DELETE ON {name}
  FOR EACH ROW EXECUTE FUNCTION before_write();
"""


@pytest.fixture(scope="module", params=LEVELS)
def histories(request: pytest.FixtureRequest, server: Any) -> Iterator[tuple[sa.Engine, sa.Table]]:
    from tests.conftest import _database

    with _database(server) as made:
        metadata = sa.MetaData()
        found = table(metadata, "t", request.param)
        metadata.create_all(made.engine)
        run(made.engine, INNER.format(name="t"))
        yield made.engine, found


def statement(kind: str, key: int, number: int, call: str) -> str:
    """One statement on the table; *call* is a function in it, or nothing."""
    value = f"{number}{' + inner_write()' if call == 'set' else ''}"
    text = {
        "insert": f"INSERT INTO t SELECT g, {value} FROM generate_series({key}, {key} + 1) AS g",
        "update": f"UPDATE t SET v = {value} WHERE id = {key}",
        "update all": f"UPDATE t SET v = {value}",
        "move": f"UPDATE t SET id = {key} % 4 + 1, v = {value} WHERE id = {key}",
        "shift": f"UPDATE t SET id = id + 4, v = {value} WHERE id <= 4",
        "delete": f"DELETE FROM t WHERE id = {key}",
        "delete all": "DELETE FROM t",
        "truncate": "TRUNCATE t",
        "unrecorded": (
            "ALTER TABLE t DISABLE TRIGGER USER;"
            f"INSERT INTO t VALUES ({key}, {number}) ON CONFLICT DO NOTHING;"
            "ALTER TABLE t ENABLE TRIGGER USER"
        ),
    }[kind]
    has_rows = text.startswith(("INSERT", "UPDATE", "DELETE"))
    return text + (" RETURNING inner_write()" if call == "returning" and has_rows else "")


def oracle(records: list[tuple[int, str, int | None, int | None]], now: dict[int, Any]) -> set[int]:
    """The keys whose records, one after the other, cannot be true or end otherwise."""
    rows: dict[int, Any] = {}
    seen: set[int] = set()
    wrong: set[int] = set()
    deleted: dict[int, list[int]] = {}
    emptied = False
    for transaction, operation, key, value in records:
        if key is None:
            rows, emptied = {}, True
            continue
        is_known = emptied or key in seen
        if operation == "I" and key in rows:
            wrong.add(key)
        if operation == "D":
            if is_known and key not in rows:
                wrong.add(key)
            rows.pop(key, None)
            deleted.setdefault(transaction, []).append(key)
        else:
            came = any(other != key for other in deleted.get(transaction, []))
            if operation == "U" and is_known and key not in rows and not came:
                wrong.add(key)
            rows[key] = value
        seen.add(key)
    wrong |= {key for key in rows if key not in now or now[key] != rows[key]}
    return wrong | {key for key in now if key in seen and key not in rows}


@settings(
    max_examples=int(os.environ.get("ALEMBIC_AUDIT_EXAMPLES", "40")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(steps, min_size=1, max_size=8))
def test_any_history(histories: tuple[sa.Engine, sa.Table], story: list[Any]) -> None:
    """A replay names exactly the keys that an independent one finds wrong."""
    engine, made = histories
    run(engine, "ALTER TABLE t DISABLE TRIGGER USER; DELETE FROM t; DELETE FROM t_audit")
    run(engine, "INSERT INTO t VALUES (1, 0), (2, 0); ALTER TABLE t ENABLE TRIGGER USER")
    snapshot = v1.snapshot(made.info[SPEC_KEY], '"public"."t"', '"public"."t_audit"')
    for number, ((kind, key), inner, how) in enumerate(story, 1):
        call = how if inner is not None else ""
        try:
            with engine.begin() as connection:
                if inner is not None:
                    what = " ".join(map(str, (*inner, 100 + number)))
                    connection.exec_driver_sql(
                        f"SELECT set_config('test.nested', '{what}', true),"
                        f" set_config('test.before', '{'on' if how == 'before' else ''}', true)"
                    )
                execute(
                    connection,
                    snapshot if kind == "snapshot" else statement(kind, key, number, call),
                )
        except sa.exc.DBAPIError:
            pass  # the key, or PostgreSQL, refuses it
    with engine.connect() as connection:
        records = connection.exec_driver_sql(
            "SELECT audit_transaction_id, audit_operation, id, v FROM t_audit ORDER BY audit_id"
        )
        expected = oracle(
            [tuple(row) for row in records],
            now=dict(tuple(row) for row in connection.exec_driver_sql("SELECT id, v FROM t")),
        )
        assert expected == flawed(connection)


def flawed(connection: sa.Connection) -> set[int]:
    """The keys that a replay names, of the one trail there is."""
    found: set[int] = set()
    original = doctor.replay.flaws

    def listed(*arguments: Any) -> Iterator[Any]:
        for flaw in original(*arguments):
            if flaw.what != UNRECORDED:
                found.add(int(flaw.key[0]))
            yield flaw

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor.replay, "flaws", listed)
        doctor.examine(connection, replayed=True)
    return found
