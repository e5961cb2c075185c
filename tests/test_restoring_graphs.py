"""Rows that refer to each other are put back, and taken away, though each needs the other."""

import contextlib
import os
import random
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from alembic_audit import RestoreError, TransactionId, audited, undo
from alembic_audit.tables import derive_all
from tests.conftest import Database

HISTORIES = int(os.environ.get("ALEMBIC_AUDIT_GRAPHS", "25"))


class Base(DeclarativeBase):
    pass


@audited()
class Run(Base):
    """Begins without a state, and has one at the end."""

    __tablename__ = "run"

    id: Mapped[int] = mapped_column(primary_key=True)
    state_id: Mapped[int | None] = mapped_column(sa.ForeignKey("state.id", name="to_state"))


@audited()
class State(Base):
    __tablename__ = "state"

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(sa.ForeignKey("run.id"))


@audited()
class Pool(Base):
    """Neither can be NULL: the check waits."""

    __tablename__ = "pool"

    id: Mapped[int] = mapped_column(primary_key=True)
    queue_id: Mapped[int] = mapped_column(
        sa.ForeignKey("queue.id", deferrable=True, name='to "queue" %(x)s :y')
    )


@audited()
class Queue(Base):
    __tablename__ = "queue"

    id: Mapped[int] = mapped_column(primary_key=True)
    pool_id: Mapped[int] = mapped_column(sa.ForeignKey("pool.id"))


@audited(exclude_columns=["pin"], hash_columns=["tok_en"])
class Secret(Base):
    __tablename__ = "secret"

    id: Mapped[int] = mapped_column(primary_key=True)
    pin: Mapped[int]
    token: Mapped[str] = mapped_column("tok_en")
    parent_id: Mapped[int | None] = mapped_column(sa.ForeignKey("secret.id"))


@audited()
class Alpha(Base):
    __tablename__ = "alpha"

    id: Mapped[int] = mapped_column(primary_key=True)
    beta_id: Mapped[int | None] = mapped_column(sa.ForeignKey("beta.id"))
    alpha_id: Mapped[int | None] = mapped_column(sa.ForeignKey("alpha.id"))
    gamma_id: Mapped[int] = mapped_column(sa.ForeignKey("gamma.id", deferrable=True))


@audited()
class Beta(Base):
    __tablename__ = "beta"

    id: Mapped[int] = mapped_column(primary_key=True)
    alpha_id: Mapped[int] = mapped_column(sa.ForeignKey("alpha.id"))
    gamma_id: Mapped[int | None] = mapped_column(sa.ForeignKey("gamma.id", ondelete="RESTRICT"))


@audited()
class Gamma(Base):
    __tablename__ = "gamma"

    id: Mapped[int] = mapped_column(primary_key=True)
    beta_id: Mapped[int | None] = mapped_column(
        sa.ForeignKey("beta.id", deferrable=True, initially="DEFERRED")
    )
    alpha_id: Mapped[int | None] = mapped_column(sa.ForeignKey("alpha.id"))


GRAPH = (Alpha, Beta, Gamma)


@pytest.fixture(scope="module")
def engine(shared_database: Database) -> sa.Engine:
    derive_all(Base.metadata)  # with the types of keys of tables that are declared later
    Base.metadata.create_all(shared_database.engine)
    return shared_database.engine


@pytest.fixture
def session(engine: sa.Engine) -> Iterator[Session]:
    with Session(engine) as made:
        yield made
    empty(engine)


def empty(engine: sa.Engine) -> None:
    names = ", ".join(Base.metadata.tables[name].name for name in Base.metadata.tables)
    with engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        connection.exec_driver_sql(f"TRUNCATE {names} RESTART IDENTITY")


def write(session: Session, *statements: str) -> TransactionId:
    """Run statements in a transaction of their own."""
    for statement in statements:
        session.connection().exec_driver_sql(statement)
    number = session.scalars(sa.text("SELECT txid_current()")).one()
    session.commit()
    return TransactionId(number)


def state(session: Session, *classes: type[Base]) -> list[list[tuple[object, ...]]]:
    return [
        sorted(map(tuple, session.execute(sa.select(one.__table__))), key=repr) for one in classes
    ]


PAIRS = {
    "nullable": (
        (Run, State),
        ["INSERT INTO run VALUES (1), (2)", "INSERT INTO state VALUES (1, 1), (2, 2)",
         "UPDATE run SET state_id = id"],
        ["UPDATE run SET state_id = NULL", "DELETE FROM state", "DELETE FROM run"],
    ),
    "deferrable": (
        (Pool, Queue),
        ["SET CONSTRAINTS ALL DEFERRED", "INSERT INTO pool VALUES (1, 1)",
         "INSERT INTO queue VALUES (1, 1)"],
        ["SET CONSTRAINTS ALL DEFERRED", "DELETE FROM queue", "DELETE FROM pool"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_rows_that_need_each_other(session: Session, name: str) -> None:
    """Two published applications have such: a run and its state, a pool and its default queue."""
    classes, begin, end = PAIRS[name]
    came = write(session, *begin)
    before = state(session, *classes)
    went = write(session, *end)
    plan = undo(session, went, *classes)
    shown = str(plan)
    if name == "nullable":
        assert "insert run 1: id: None -> 1, state_id: None -> 1 (state_id set at last)" in shown
    else:
        assert shown.startswith('defer "public"."to ""queue"" %(x)s :y"\n')
    plan.execute()
    # Nothing waits that did not wait before.
    with pytest.raises(sa.exc.IntegrityError), session.begin_nested():
        session.connection().exec_driver_sql("INSERT INTO pool VALUES (9, 9)")
    session.commit()
    assert before == state(session, *classes)
    plan = undo(session, came, *classes)
    assert ("delete run 1 (state_id set to NULL first)" in str(plan)) == (name == "nullable")
    plan.execute(overwrite=True)
    session.commit()
    assert [[], []] == state(session, *classes)


def test_each_row_has_its_own_values(session: Session) -> None:
    """What is hashed or left out, and cannot be NULL, is given row by row, as the error says."""
    write(session, "INSERT INTO secret VALUES (1, 11, 'a', 2), (2, 22, 'b', 1)")
    before = state(session, Secret)
    went = write(session, "DELETE FROM secret")
    with pytest.raises(RestoreError) as caught:
        undo(session, went, Secret).execute()
    assert "give values={Secret: {1: {'pin': ...}}}" in str(caught.value)
    assert "give values={Secret: {2: {'tok_en': ...}}}" in str(caught.value)
    session.rollback()
    values = {Secret: {1: {"pin": 11, "token": "a"}, (2,): {"pin": 22, "tok_en": "b"}}}
    undo(session, went, Secret, values=values).execute()
    session.commit()
    assert before == state(session, Secret)
    number = write(session, "DELETE FROM secret")
    for wrong, message in (
        ({Secret: {3: {"pin": 1}}}, "nothing is put back into row 3 of 'secret'; leave it out"),
        ({Run: {1: {"state_id": 1}}}, "'run' is not among what is undone"),
        ({Secret: {1: {"pim": 1}}}, "'pim' is no column"),
    ):
        with pytest.raises(RestoreError, match=message):
            undo(session, number, Secret, values=wrong)


REFERENCES = {
    "alpha": {"beta_id": "beta", "alpha_id": "alpha", "gamma_id": "gamma"},
    "beta": {"alpha_id": "alpha", "gamma_id": "gamma"},
    "gamma": {"beta_id": "beta", "alpha_id": "alpha"},
}
NEEDED = {"gamma_id of alpha", "alpha_id of beta"}
WAITING = {"gamma_id of alpha", "beta_id of gamma"}
EMPTY = """
UPDATE alpha SET beta_id = NULL, alpha_id = NULL; UPDATE gamma SET alpha_id = NULL;
DELETE FROM beta; DELETE FROM alpha; DELETE FROM gamma
"""


def history(session: Session, dice: random.Random) -> list[tuple[TransactionId, object]]:
    """Some transactions of random writes, each with the state before it."""
    done: list[tuple[TransactionId, object]] = []
    for _ in range(dice.randint(3, 7)):
        before = state(session, *GRAPH)
        connection = session.connection()
        connection.exec_driver_sql("SET CONSTRAINTS ALL DEFERRED")
        owed: list[str] = []

        def refer(
            table: str,
            column: str,
            connection: sa.Connection = connection,
            owed: list[str] = owed,
        ) -> str:
            other, name = REFERENCES[table][column], f"{column} of {table}"
            there = connection.exec_driver_sql(f"SELECT id FROM {other}").scalars().all()
            if name in WAITING and (not there or dice.random() < 0.3):
                key = dice.randint(1, 6)
                owed.append(f"INSERT INTO {other} (id) VALUES ({key}) ON CONFLICT DO NOTHING")
                return str(key)
            choices = [*map(str, there), *(() if name in NEEDED else ("NULL",))]
            return dice.choice(choices or ["NULL"])

        for _ in range(dice.randint(3, 14)):
            table = dice.choice([*REFERENCES])
            columns, key = list(REFERENCES[table]), dice.randint(1, 6)
            column = dice.choice(columns)
            values = ", ".join(refer(table, one) for one in columns)
            insert = f"INSERT INTO {table} (id, {', '.join(columns)}) VALUES ({key}, {values})"
            update = f"UPDATE {table} SET {column} = {refer(table, column)} WHERE id = {key}"
            delete = f"DELETE FROM {table} WHERE id = {key}"
            chosen = dice.choices([insert, update, delete, EMPTY], [6, 5, 2, 1])
            with contextlib.suppress(sa.exc.IntegrityError), connection.begin_nested():
                connection.exec_driver_sql(chosen[0])
        for statement in owed:
            if statement.startswith("INSERT INTO gamma"):
                connection.exec_driver_sql(statement)
        number = session.scalars(sa.text("SELECT txid_current()")).one()
        try:
            session.commit()
        except sa.exc.IntegrityError:
            session.rollback()
            continue
        if state(session, *GRAPH) != before:
            done.append((TransactionId(number), before))
    return done


def test_any_graph_is_undone(session: Session, engine: sa.Engine) -> None:
    """From the last transaction to the first, each leaves the state that was before it."""
    undone = mutual = 0
    for seed in range(HISTORIES):
        dice = random.Random(seed)
        done = history(session, dice)
        for number, before in reversed(done):
            plan = undo(session, number, Base.metadata)
            mutual += bool(plan.deferred) or any(one.apart for one in plan.rows)
            plan.execute()
            session.commit()
            assert before == state(session, *GRAPH), seed
            undone += 1
        session.rollback()
        empty(engine)
    assert undone > HISTORIES and mutual > HISTORIES // 10
