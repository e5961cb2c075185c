"""Attacks by names on what reads: whatever it calls stands in a schema before pg_catalog too."""

import contextlib
import enum
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic_audit import (
    AuditId,
    TransactionId,
    as_of,
    audit_table,
    blame,
    changes,
    diff,
    history,
    restore,
    undelete,
    undo,
)
from alembic_audit.catalog import path
from alembic_audit.cli import connect, main
from alembic_audit.doctor import examine
from alembic_audit.reading import qualified
from alembic_audit.reading.export import export
from tests.conftest import Database

# Every function, aggregate and operator of pg_catalog that a role can make one like, and types.
# What SQLAlchemy itself calls while it connects is left out.
SHADOWS = r"""
CREATE SCHEMA evil;
CREATE FUNCTION evil.bang() RETURNS bool LANGUAGE plpgsql AS
  'BEGIN RAISE EXCEPTION ''captured''; END';
DO $$
DECLARE
  one pg_catalog.record;
  made pg_catalog.int4 := 0;
BEGIN
  FOR one IN
    SELECT proname, pg_get_function_identity_arguments(oid) AS arguments,
      format_type(prorettype, NULL) AS result, proretset
    FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proname <> 'current_schema'
  LOOP
    BEGIN
      EXECUTE format(
        'CREATE FUNCTION evil.%I(%s) RETURNS %s %s LANGUAGE plpgsql AS '
        '''BEGIN RAISE EXCEPTION ''''captured %s''''; END''',
        one.proname, replace(replace(one.arguments, 'ORDER BY', ','), 'VARIADIC "any"', 'text'),
        CASE WHEN one.proretset THEN 'SETOF' ELSE '' END, one.result, one.proname);
      made := made + 1;
    EXCEPTION WHEN OTHERS THEN
    END;
  END LOOP;
  FOR one IN
    SELECT oprname, format_type(oprleft, NULL) AS l, format_type(oprright, NULL) AS r,
      format_type(oprresult, NULL) AS result, oid
    FROM pg_operator WHERE oprkind = 'b' AND oprnamespace = 'pg_catalog'::regnamespace
    UNION ALL
    SELECT name, 'character varying', 'character varying', 'boolean', row_number() OVER ()
    FROM unnest(ARRAY['=', '<>', '<', '>']) AS name
  LOOP
    BEGIN
      EXECUTE format(
        'CREATE FUNCTION evil.operator_%s(%s, %s) RETURNS %s LANGUAGE plpgsql AS '
        '''BEGIN RAISE EXCEPTION ''''captured %s''''; END''',
        one.oid, one.l, one.r, one.result, replace(one.oprname, '%', '%%'));
      EXECUTE format(
        'CREATE OPERATOR evil.%s (FUNCTION = evil.operator_%s, LEFTARG = %s, RIGHTARG = %s)',
        one.oprname, one.oid, one.l, one.r);
      made := made + 1;
    EXCEPTION WHEN OTHERS THEN
    END;
  END LOOP;
  IF made < 2000 THEN
    RAISE EXCEPTION 'only % shadows', made;
  END IF;
END $$;
"""
# Drivers write the types of bound values, as ::uuid, which nothing of ours can qualify.
TYPES = ("text", "jsonb", "xid", "name", "int8", "bool", "int4")
EVIL = "evil, pg_catalog, public"


class Mood(enum.Enum):
    good = "good"
    bad = "bad"


ID = uuid.UUID(int=7)


def thing(**options: Any) -> sa.Table:
    table = sa.Table(
        "thing",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("place", sa.Uuid, primary_key=True),
        sa.Column("name", sa.String(40)),
        sa.Column("born", sa.Date),
        sa.Column("mood", sa.Enum(Mood, name="mood")),
        sa.Column("size", sa.Numeric),
        sa.Column("data", postgresql.JSONB),
        sa.Column("tags", sa.ARRAY(sa.Text)),
        sa.Column("card", sa.Text),
        sa.Column("parent", sa.Integer),
        sa.Column("home", sa.Uuid),
        sa.ForeignKeyConstraint(["parent", "home"], ["thing.id", "thing.place"], deferrable=True),
    )
    audit_table(
        table,
        session_settings=[sa.Column("username", sa.String(20))],
        hash_columns=["card"],
        sparse_columns=["data"],
        changed_columns=True,
        **options,
    )
    return table


WRITES = (
    "SET audit.username = 'ann'",
    f"INSERT INTO thing VALUES (1, '{ID}', 'a', '2026-01-01', 'good', 1.5, '{{}}', '{{x}}', 'c'),"
    f" (2, '{ID}', 'b', '2026-01-01', 'bad', 1.5, '{{}}', '{{x}}', 'c')",
    "UPDATE thing SET name = 'aa', mood = 'bad' WHERE id = 1",
    "UPDATE thing SET size = 2.5 WHERE id = 1",
    "DELETE FROM thing WHERE id = 2",
)


@pytest.fixture
def evil(database: Database) -> Iterator[tuple[Database, sa.Table]]:
    """A trail with records, and the shadows."""
    table = thing()
    table.metadata.create_all(database.engine)
    for statement in WRITES:
        with database.engine.begin() as connection:
            connection.exec_driver_sql("SET audit.username = 'ann'")
            connection.exec_driver_sql(statement)
    with database.engine.begin() as connection:
        driver: Any = connection.connection.dbapi_connection
        with driver.cursor() as cursor:
            cursor.execute(SHADOWS)
            for name in TYPES:
                cursor.execute(
                    f"CREATE DOMAIN evil.{name} AS pg_catalog.{name} CHECK (evil.bang())"
                )
    yield database, table


KEY = (1, ID)
NOW = datetime(2100, 1, 1, tzinfo=timezone.utc)
READERS: dict[str, Callable[[sa.Table], Any]] = {
    "history": lambda table: history(table, KEY, dropped=True),
    "changes": lambda table: changes(
        table,
        actor={"username": "ann"},
        since=datetime(2000, 1, 1, tzinfo=timezone.utc),
        until=NOW,
        operation=["update", "insert"],
        column="name",
        dropped=True,
    ),
    "changes of a transaction": lambda table: changes(table, transaction=7, actor="x"),
    "as_of by time": lambda table: as_of(table, NOW, dropped=True),
    "as_of by number": lambda table: as_of(table, AuditId(3)),
    "as_of by transaction": lambda table: as_of(table, TransactionId(10**9)),
    "blame": lambda table: blame(table, KEY),
    "diff": lambda table: diff(as_of(table, AuditId(2)), as_of(table, AuditId(4))),
}


def run(database: Database, use: Callable[[sa.Connection], Any], search_path: str = EVIL) -> Any:
    with database.engine.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        with driver.cursor() as cursor:
            cursor.execute(f"SET search_path = {search_path}")
        found = use(connection)
        connection.rollback()
        return found


@pytest.mark.core
def test_no_reader_calls_a_shadow(evil: tuple[Database, sa.Table]) -> None:
    """Each reader answers as with an honest search_path."""
    database, table = evil
    for name, make in READERS.items():

        def use(connection: sa.Connection, make: Any = make) -> Any:
            return connection.execute(make(table)).all()

        assert run(database, use) == run(database, use, "public"), name
        assert run(database, use) or "transaction" in name, name
    first = run(database, lambda connection: list(export(connection, table)))
    assert len(first) == 5
    after = first[2].cursor
    later = run(database, lambda connection: list(export(connection, table, after=after)))
    assert first[3:] == later


@pytest.mark.core
def test_restoring_calls_no_shadow(evil: tuple[Database, sa.Table]) -> None:
    """restore, undelete and undo plan and write."""
    database, table = evil

    def use(connection: sa.Connection) -> Any:
        back = restore(connection, table, KEY, as_of=AuditId(1))
        shown = str(back)
        back.execute()
        other = undelete(connection, table, (2, ID))
        other.execute()
        number = connection.exec_driver_sql("SELECT pg_catalog.txid_current()").scalar_one()
        undo(connection, TransactionId(number), table).execute()
        return shown

    with pytest.raises(sa.exc.DBAPIError, match="captured"):
        run(database, lambda connection: connection.execute(sa.select(table.c.id == 1)))
    assert run(database, use) == run(database, use, "public")


@pytest.mark.core
def test_doctor_calls_no_shadow(
    evil: tuple[Database, sa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    """examine() answers as with an honest search_path, and leaves the one that there was."""
    database, table = evil

    def use(connection: sa.Connection) -> Any:
        found = [examine(connection), examine(connection, [table.info["audit.spec"]])]
        left = connection.exec_driver_sql("SHOW search_path").scalar_one()
        assert left in (EVIL, "public")
        return found

    assert run(database, use) == run(database, use, "public")
    monkeypatch.setattr("alembic_audit.doctor.pinned", lambda connection: contextlib.nullcontext())
    with pytest.raises(sa.exc.DBAPIError, match="captured"):
        run(database, use)
    assert path.PINNED.startswith("pg_catalog")


COMMANDS = (
    ["status"],
    ["log", "thing", "1", str(ID)],
    ["show", "3"],
    ["tail", "-n", "3"],
    ["as-of", "thing", "audit:3", "1", str(ID)],
    ["as-of", "thing", "2100-01-01T00:00:00Z"],
    ["blame", "thing", "1", str(ID)],
    ["doctor"],
)


@pytest.mark.core
def test_no_command_calls_a_shadow(
    evil: tuple[Database, sa.Table],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each command prints what it prints with an honest search_path."""
    database, _ = evil
    url = database.url().render_as_string(hide_password=False)

    def printed(search_path: str) -> list[tuple[str, str]]:
        with database.engine.begin() as connection:
            connection.exec_driver_sql(
                f'ALTER DATABASE "{database.name}" SET search_path = {search_path}'
            )
        outputs = []
        for command in COMMANDS:
            main([*command, "--url", url])
            outputs.append(tuple(capsys.readouterr()))
        return outputs

    honest = printed("public")
    assert honest == printed(EVIL)
    assert all(error == "" for _, error in honest)
    monkeypatch.setattr(connect, "_pin", lambda connection: None)
    monkeypatch.setattr("alembic_audit.doctor.pinned", lambda connection: contextlib.nullcontext())
    assert all("captured" in error for _, error in printed(EVIL))


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_an_operator_that_fits_better(
    evil: tuple[Database, sa.Table], monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    """public.<>(varchar, varchar) fits better than <>(text, text), after pg_catalog too."""
    database, table = evil
    with database.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION public.differs(varchar, varchar) RETURNS bool LANGUAGE plpgsql "
            "AS 'BEGIN RAISE EXCEPTION ''captured''; END'"
        )
        for name in ("=", "<>"):
            connection.exec_driver_sql(
                f"CREATE OPERATOR public.{name} (FUNCTION = public.differs, "
                "LEFTARG = varchar, RIGHTARG = varchar)"
            )
    engine = sa.create_engine(database.url(driver))

    def read() -> None:
        with engine.connect() as connection:
            for name, make in READERS.items():
                assert connection.execute(make(table)).all() or "transaction" in name

    read()

    def plain(left: Any, operator: str, right: Any) -> Any:
        right = sa.cast(right, sa.String) if isinstance(right, str) else right
        return left.op(operator, is_comparison=True)(right)

    monkeypatch.setattr(sys.modules["alembic_audit.reading.history"], "compare", plain)
    with pytest.raises(sa.exc.DBAPIError, match="captured"):
        read()
    engine.dispose()


def test_a_key_of_an_extension(database: Database) -> None:
    """Keys of a type of an extension are compared as that type does, whatever the search_path."""
    with database.engine.begin() as connection:
        known = "SELECT FROM pg_available_extensions WHERE name = 'citext'"
        if not connection.exec_driver_sql(known).all():
            pytest.skip("this server has no citext")
        connection.exec_driver_sql("CREATE EXTENSION citext")
    table = sa.Table(
        "person",
        sa.MetaData(),
        sa.Column("name", postgresql.CITEXT, primary_key=True),
        sa.Column("age", sa.Integer),
    )
    audit_table(table)
    table.metadata.create_all(database.engine)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO person VALUES ('Ann', 1)")
        connection.exec_driver_sql("UPDATE person SET age = 2 WHERE name = 'ANN'")
        connection.exec_driver_sql("TRUNCATE person")
        connection.exec_driver_sql("INSERT INTO person VALUES ('ANN', 3)")
    with database.engine.begin() as connection:
        assert 4 == len(connection.execute(history(table, "ann")).all())
        assert [("ANN", 3)] == connection.execute(as_of(table, NOW)).all()
        before = connection.execute(changes(table)).all()
        assert [None, None, 1, None] == [row.audit_before_audit_id for row in before]
        restore(connection, table, "aNN", as_of=AuditId(2)).execute()
        assert [("Ann", 2)] == connection.execute(sa.select(table)).all()
    assert not qualified.has_operators(postgresql.CITEXT())
