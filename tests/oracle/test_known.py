"""That the oracle can fail: triggers broken on purpose; and what a trail of rows cannot tell."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import sqlalchemy as sa

from alembic_audit.naming import literal
from tests.conftest import Database
from tests.oracle.replay import ReplayError
from tests.oracle.shapes import Column, Picks, Shape
from tests.oracle.statements import Maker
from tests.oracle.story import SETUP, Story

ACCOUNT = Shape("t", (Column("id", "int"), Column("n", "int")), 1, {"level": "row"})
BY_STATEMENT = replace(ACCOUNT, options={"level": "statement"})
MOVE = "UPDATE t SET id = id + 10"


@pytest.fixture(scope="module")
def engine(shared_database: Database) -> sa.Engine:
    with shared_database.engine.begin() as connection:
        for statement in SETUP:
            connection.exec_driver_sql(statement.replace("%", "%%"))
    return shared_database.engine


@pytest.fixture
def connection(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection, of which nothing is committed."""
    with engine.connect() as connection:
        yield connection


def told(connection: sa.Connection, shape: Shape = ACCOUNT) -> Story:
    version = connection.dialect.server_version_info[0]
    story = Story(connection, shape, version)
    story.begin()
    return story


def says(*statements: str) -> Maker:
    return lambda _shape, _picks, _version: list(statements)


def write(story: Story, *statements: str) -> None:
    story.write(says(*statements), Picks(b""))


def breakage(old: str, new: str) -> str:
    """Return what replaces a piece of the body of the audit function."""
    return f"""DO $do$ DECLARE made text; BEGIN
        SELECT pg_get_functiondef(oid) INTO made FROM pg_proc WHERE proname = 'public_t_audit';
        IF strpos(made, {literal(old)}) = 0 THEN RAISE 'not there'; END IF;
        EXECUTE replace(made, {literal(old)}, {literal(new)});
    END $do$"""


BROKEN = {
    "key changes make no D": (breakage("*<>) ROW(OLD", "*<>) ROW(NEW"), (MOVE,)),
    "UPDATE is recorded as INSERT": (breakage("'U'", "'I'"), ("UPDATE t SET n = 2",)),
    "DELETE is not recorded": (
        breakage("TG_OP OPERATOR(pg_catalog.=) 'DELETE'", "false"),
        ("DELETE FROM t",),
    ),
    "the old row is recorded": (
        breakage('NEW."n"\n', 'OLD."n"\n'),
        ("UPDATE t SET n = 2 WHERE id = 1",),
    ),
    "TRUNCATE is not recorded": (
        'ALTER TABLE t DISABLE TRIGGER "00_audit_t_truncate"',
        ("TRUNCATE t",),
    ),
    "every change is recorded twice": (
        'CREATE TRIGGER "01" AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW'
        " EXECUTE FUNCTION public_t_audit()",
        ("DELETE FROM t WHERE id = 1",),
    ),
    "no row is recorded of one statement": (
        "SELECT set_config('session_replication_role', 'replica', true)",
        ("UPDATE t SET n = 2 WHERE id = 1",),
    ),
    "a record is lost": ("DELETE FROM t_audit WHERE audit_id = 1", ("UPDATE t SET n = n",)),
    "a record is altered": ("UPDATE t_audit SET n = 7 WHERE audit_id = 1", ("UPDATE t SET n = n",)),
    "a column is lost": ("UPDATE t_audit SET n = NULL", ("UPDATE t SET n = n",)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken(connection: sa.Connection, what: str) -> None:
    """A trigger or a trail that is broken is reported at the next step."""
    damage, statements = BROKEN[what]
    story = told(connection)
    write(story, "INSERT INTO t VALUES (1, 1), (2, 1)")
    story.check_tables()
    story.run(damage)
    with pytest.raises(ReplayError):
        write(story, *statements)


@pytest.mark.parametrize("what", BROKEN)
def test_broken_without_a_witness(connection: sa.Connection, what: str) -> None:
    """The replay reports it by itself, with nothing but the table to compare with."""
    damage, statements = BROKEN[what]
    story = told(connection)
    write(story, "INSERT INTO t VALUES (1, 1), (2, 1)")
    story.run(damage, *statements)
    with pytest.raises(ReplayError):
        story.check_tables()


SWAP = ("INSERT INTO t VALUES (1, 1), (2, 1)", "UPDATE t SET id = 3 - id")


def test_swap_of_a_deferrable_key(connection: sa.Connection) -> None:
    """Two rows change places in one statement, which a deferrable key allows.

    A trail of rows, which is refused for it, has `D1 U2 D2 U1`; the second D takes away what came
    with the first U. No replay can tell that from DELETE of 1, an UPDATE of 2 without effect, and 2
    becoming 1. Statement triggers record `D1 D2 U2 U1`.
    """
    by_row = told(connection, replace(ACCOUNT, constraint="DEFERRABLE"))
    write(by_row, SWAP[0])
    with pytest.raises(ReplayError):
        write(by_row, SWAP[1])
    connection.rollback()
    write(told(connection, replace(BY_STATEMENT, constraint="DEFERRABLE")), *SWAP)


LEFT_UNREAD = (
    "INSERT INTO t VALUES (1, 1)",
    "WITH gone AS (DELETE FROM t RETURNING *) INSERT INTO t SELECT id, 2 FROM gone LIMIT 1",
)


def test_delete_that_is_not_read_to_its_end(connection: sa.Connection) -> None:
    """A row goes in WITH and comes back in the same statement, which stops reading before the end.

    PostgreSQL fires the statement triggers of the DELETE when it is through, after those of the
    INSERT (nodeModifyTable.c, execMain.c: ExecPostprocessPlan): `I D`, and a row too few. A row
    trigger records what happened first first.
    """
    write(told(connection), *LEFT_UNREAD)
    connection.rollback()
    by_statement = told(connection, BY_STATEMENT)
    write(by_statement, LEFT_UNREAD[0])
    with pytest.raises(ReplayError):
        write(by_statement, LEFT_UNREAD[1])
    connection.rollback()
    write(told(connection, replace(ACCOUNT, options={"level": {"delete": "row"}})), *LEFT_UNREAD)
    connection.rollback()
    through = LEFT_UNREAD[1].removesuffix(" LIMIT 1")
    write(told(connection, BY_STATEMENT), LEFT_UNREAD[0], through)


@pytest.mark.parametrize("shape", [ACCOUNT, BY_STATEMENT], ids=["row", "statement"])
def test_cascade_to_the_table_itself(connection: sa.Connection, shape: Shape) -> None:
    """A key changes in one statement with the row of the same table that refers to it.

    Unlike a trigger of the user's, that of a foreign key does not run its UPDATE's triggers at once
    (ri_triggers.c): they follow those of the whole statement, and the trail has the right order.
    """
    story = told(connection, shape)
    story.run("ALTER TABLE t ADD FOREIGN KEY (n) REFERENCES t ON UPDATE CASCADE")
    write(story, "INSERT INTO t VALUES (1, NULL), (2, 1)")
    write(story, MOVE)
    moved = "DUDU" if shape is ACCOUNT else "DDUU"
    assert f"II{moved}U" == "".join(one.operation for one, *_ in story.records())
