"""An entity of the past is never one of today: each attempt raises, and says what to do."""

import asyncio
import pickle
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Optional

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncAttrs, AsyncSession, create_async_engine
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    column_property,
    composite,
    contains_eager,
    joinedload,
    mapped_column,
    object_session,
    reconstructor,
    relationship,
    selectinload,
)
from sqlalchemy.orm.exc import DetachedInstanceError

from alembic_audit import (
    AuditId,
    PastEntityError,
    ReadingError,
    as_of,
    audited,
    past,
    restore,
)
from alembic_audit.tables import derive_all
from tests.conftest import Database


class Base(AsyncAttrs, DeclarativeBase):
    pass


@audited()
class Owner(Base):
    __tablename__ = "owner"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    accounts: Mapped[list["Account"]] = relationship(back_populates="owner", lazy="selectin")


class Point:
    def __init__(self, x: int | None, y: int | None) -> None:
        self.x, self.y = x, y

    def __composite_values__(self) -> tuple[int | None, int | None]:
        return self.x, self.y

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and (self.x, self.y) == (other.x, other.y)

    __hash__ = None  # type: ignore[assignment]


@audited(exclude_columns=["secret"], hash_columns=["card"])
class Account(Base):
    __tablename__ = "account"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column("e_mail")
    data: Mapped[dict[str, Any] | None] = mapped_column(
        MutableDict.as_mutable(postgresql.JSONB())  # type: ignore[arg-type]
    )
    blob: Mapped[bytes | None] = mapped_column(deferred=True)
    secret: Mapped[str | None] = mapped_column()
    card: Mapped[str | None]
    x: Mapped[int | None]
    y: Mapped[int | None]
    owner_id: Mapped[int | None] = mapped_column(sa.ForeignKey("owner.id"))
    owner: Mapped[Optional["Owner"]] = relationship(back_populates="accounts", lazy="joined")
    place: Mapped[Point] = composite("x", "y")
    shout: Mapped[str] = column_property(sa.func.upper(email))
    whisper: Mapped[str] = column_property(sa.func.concat(email, secret))

    @reconstructor
    def begin(self) -> None:
        self.began = self.email

    @hybrid_property
    def is_early(self) -> bool:
        return self.email < "b"


Account.siblings = column_property(  # type: ignore[attr-defined]
    sa.select(sa.func.count()).select_from(Owner.__table__).scalar_subquery()
)


@audited()
class Employee(Base):
    __tablename__ = "employee"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str | None]
    __mapper_args__: ClassVar[dict[str, str]] = {
        "polymorphic_on": "kind",
        "polymorphic_identity": "employee",
    }


class Engineer(Employee):
    skill: Mapped[str | None]
    __mapper_args__: ClassVar[dict[str, str]] = {"polymorphic_identity": "engineer"}


@audited()
class Manager(Employee):
    __tablename__ = "manager"

    id: Mapped[int] = mapped_column(sa.ForeignKey("employee.id"), primary_key=True)
    budget: Mapped[int | None]
    __mapper_args__: ClassVar[dict[str, str]] = {"polymorphic_identity": "manager"}


STORY = (
    "INSERT INTO owner VALUES (1, 'ann')",  # owner_audit 1
    # account_audit 1
    "INSERT INTO account (id, e_mail, data, blob, secret, card, x, y, owner_id)"
    """ VALUES (1, 'a@x', '{"n": 1}', 'blob', 's', 'c', 3, 4, 1)""",
    "UPDATE account SET e_mail = 'b@x', data = NULL, x = 5",  # account_audit 2
    "UPDATE owner SET name = 'ben'",  # owner_audit 2
    "INSERT INTO employee VALUES (1, 'engineer', 'e', 'c'), (2, 'manager', 'm', NULL)",  # 1, 2
    "INSERT INTO manager VALUES (2, 100)",
    "UPDATE employee SET name = 'new', skill = 'sql'",  # employee_audit 3, 4
)


def begin(engine: sa.Engine) -> None:
    derive_all(Base.metadata)  # with the columns of subclasses
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        for statement in STORY:
            connection.exec_driver_sql(statement)


@pytest.fixture
def session(shared_database: Database) -> Iterator[Session]:
    engine = shared_database.engine
    begin(engine)
    with Session(engine) as made:
        yield made
    Base.metadata.drop_all(engine)


def then(session: Session) -> Account:
    """The account as it was first."""
    return session.scalars(as_of(Account, AuditId(1))).one()


def today(session: Session) -> tuple[Any, ...]:
    session.expire_all()
    now = session.get_one(Account, 1)
    return now.email, now.x, now.owner_id


TODAY = ("b@x", 5, 1)


def test_what_an_entity_has(session: Session) -> None:
    """Columns, deferred ones too, composites, hybrids, methods: all as they were."""
    now = session.get_one(Account, 1)
    was = then(session)
    assert isinstance(was, Account) and type(was) is Account and was is not now
    assert ("a@x", {"n": 1}, b"blob", 3, 1) == (was.email, was.data, was.blob, was.x, was.owner_id)
    assert (Point(3, 4), True, "A@X", "a@x") == (was.place, was.is_early, was.shout, was.began)
    assert isinstance(was.data, MutableDict)
    assert now.email == "b@x"
    state = sa.inspect(was)
    assert state.detached and not state.modified and object_session(was) is None
    assert list(session.new) == list(session.dirty) == list(session.deleted) == []


@pytest.mark.parametrize("end", [Session.commit, Session.rollback, Session.expire_all])
def test_the_session_does_not_reload_it(session: Session, end: Callable[[Session], Any]) -> None:
    """It stays as it was, whatever ends in its session."""
    was = then(session)
    end(session)
    assert ("a@x", b"blob", Point(3, 4)) == (was.email, was.blob, was.place)
    session.close()
    assert was.email == "a@x"


@pytest.mark.parametrize(
    "attempt",
    [
        Session.add,
        Session.merge,
        lambda session, was: session.merge(was, load=False),
        Session.refresh,
        Session.expire,
        Session.delete,
        lambda session, was: session.add_all([was]),
        lambda session, was: (session.get_one(Account, 1), session.merge(was)),
        lambda session, was: session.add(Owner(id=7, name="n", accounts=[was])),
        lambda session, was: session.get_one(Owner, 1).accounts.append(was),
    ],
)
def test_it_does_not_get_into_a_session(session: Session, attempt: Any) -> None:
    """What would write, refresh or delete today's row by it raises, and changes nothing."""
    was = then(session)
    with pytest.raises(PastEntityError, match=r"today's row.*session.get\(") as caught:
        attempt(session, was)
    assert isinstance(caught.value, ReadingError)
    session.rollback()
    assert TODAY == today(session)
    assert was.email == "a@x"


def test_the_remedy_of_it(session: Session) -> None:
    """What the error says works: today's row is changed, or the past one put back."""
    was = then(session)
    now = session.get_one(Account, 1)
    now.email = was.email
    session.commit()
    assert ("a@x", 5, 1) == today(session)
    restore(session, Account, 1, as_of=AuditId(1)).execute()
    assert ("a@x", 3, 1) == today(session)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("owner", r"Select as_of\(Owner, \.\.\.\), or join past\(Owner"),
        ("secret", "does not record it"),
        ("card", "stores a hash of it"),
        ("siblings", "computed from other tables"),
        ("whisper", "computed from other tables, or from what is not recorded"),
    ],
)
def test_what_is_not_there_raises(session: Session, name: str, why: str) -> None:
    """Nothing is loaded from today, before or after the session ends."""
    was = then(session)
    for _ in range(2):
        with pytest.raises(PastEntityError, match=f"Account.{name}.*{why}") as caught:
            getattr(was, name)
        assert isinstance(caught.value, DetachedInstanceError) and "sqlalche" not in str(
            caught.value
        )
        session.close()


def test_the_remedy_of_a_relationship(session: Session) -> None:
    """Two entities of the past are selected beside each other."""
    account, owner = past(Account, AuditId(1)), past(Owner, AuditId(1))
    found = session.execute(
        sa.select(account, owner).join(owner, owner.id == account.owner_id)
    ).one()
    assert ("a@x", "ann") == (found[0].email, found[1].name)
    with pytest.raises(PastEntityError, match=r"as_of\(Account, \.\.\.\)"):
        _ = found[1].accounts


@pytest.mark.parametrize("name", ["email", "owner_id", "owner", "place", "shout"])
def test_it_is_not_assigned_to(session: Session, name: str) -> None:
    """An assignment, which no session would write, raises; what is not mapped can be set."""
    was = then(session)
    value = Point(1, 2) if name == "place" else None
    with pytest.raises(PastEntityError, match="cannot be set"):
        setattr(was, name, value)
    was.note = "mine"  # type: ignore[attr-defined]
    session.commit()
    assert ("a@x", "mine", TODAY) == (was.email, was.note, today(session))  # type: ignore[attr-defined]


def test_past_beside_today(session: Session) -> None:
    """One statement selects both, in each order, and today's is the session's."""
    now = session.get_one(Account, 1)
    was = past(Account, AuditId(1))
    for pair in ((Account, was), (was, Account)):
        joined = sa.select(*pair).join(pair[1], Account.id == was.id)
        ((first, second),) = session.execute(joined).unique().all()
        ours, theirs = (second, first) if pair[0] is was else (first, second)
        assert ours is now and ("b@x", "a@x") == (ours.email, theirs.email)
        assert sa.inspect(theirs).detached
    session.expunge_all()
    alone = session.scalars(sa.select(was)).one()
    assert "a@x" == alone.email and sa.inspect(alone).detached
    assert "b@x" == session.get_one(Account, 1).email
    outer = sa.select(Account, was).outerjoin(was, sa.and_(Account.id == was.id, was.x == 99))
    assert [None] == [one[1] for one in session.execute(outer).unique()]


def test_a_row_that_comes_twice_is_one_entity(session: Session) -> None:
    """As SQLAlchemy has it: unique() works."""
    was = past(Account, AuditId(1))
    twice = sa.select(was).join(sa.func.generate_series(1, 3).alias(), sa.true())
    found = session.scalars(twice).all()
    assert 3 == len(found) and found[0] is found[1] is found[2]
    assert 1 == len(session.scalars(twice).unique().all())


@pytest.mark.parametrize("eager", [selectinload, joinedload])
def test_options_of_the_user(session: Session, eager: Any) -> None:
    """An option that would load what belongs to it, or it, from today is refused."""
    was, owner = past(Account, AuditId(1)), past(Owner, AuditId(1))
    statements = [
        sa.select(was).options(eager(was.owner)),
        sa.select(Account)
        .join(Account.owner.of_type(owner))
        .options(contains_eager(Account.owner.of_type(owner))),
        sa.select(was)
        .join(was.owner.of_type(owner))
        .options(contains_eager(was.owner.of_type(owner))),
    ]
    for statement in statements:
        with pytest.raises(PastEntityError, match=r"select\(\.\.\., past\(\.\.\.\)\)"):
            session.execute(statement)
    with pytest.raises(PastEntityError, match="execute the statement"):
        session.scalars(sa.select(Account).from_statement(as_of(Account, AuditId(1))))
    # Options for today's entities beside it are as ever.
    beside = sa.select(Owner, was).join(was, was.owner_id == Owner.id)
    ours, theirs = session.execute(beside.options(eager(Owner.accounts))).unique().one()
    assert ("ben", "b@x", "a@x") == (ours.name, ours.accounts[0].email, theirs.email)


def test_an_alias_of_what_as_of_selects(session: Session) -> None:
    """What a subquery of the past gives is of the past too."""
    session.get_one(Account, 1)
    rows = as_of(Account, AuditId(1)).subquery()
    again = aliased(Account, rows, adapt_on_names=True)
    found = session.scalars(sa.select(again).where(again.email == "a@x")).one()
    assert sa.inspect(found).detached and ("a@x", 3) == (found.email, found.x)
    both = sa.union_all(as_of(Account, AuditId(1)), as_of(Account, AuditId(2))).subquery()
    each = aliased(Account, both, adapt_on_names=True)
    states = session.scalars(sa.select(each).order_by(each.email)).all()
    assert ["a@x", "b@x"] == [one.email for one in states]
    with pytest.raises(PastEntityError, match="does not record"):
        _ = states[0].secret


def test_query_and_get(session: Session) -> None:
    """The legacy Query gives the same; populate_existing changes nothing."""
    was = past(Account, AuditId(1))
    found = session.query(was).filter(was.email == "a@x").one()  # type: ignore[call-overload]
    assert isinstance(found, Account) and sa.inspect(found).detached
    both = session.query(was, Account).join(Account, Account.id == was.id).one()
    assert ("a@x", "b@x") == (both[0].email, both[1].email)
    options = {"populate_existing": True}
    again = session.scalars(as_of(Account, AuditId(1)), execution_options=options).one()
    assert again is not found and "a@x" == again.email
    assert TODAY == today(session)


def test_streams(session: Session) -> None:
    """yield_per, partitions and a server-side cursor."""
    session.execute(
        sa.text(
            "INSERT INTO employee (id, kind) SELECT n, 'employee' FROM generate_series(10, 30) AS n"
        )
    )
    session.commit()
    statement = as_of(Employee, AuditId(1000)).order_by("id")
    whole = [one.id for one in session.scalars(statement)]
    for options in ({"yield_per": 4}, {"stream_results": True}):
        found = [one.id for one in session.scalars(statement, execution_options=options)]
        assert whole == found == [1, 2, *range(10, 31)]
    parts = session.scalars(statement.execution_options(yield_per=10)).partitions()
    assert [10, 10, 3] == [len(part) for part in parts]


def test_inheritance(session: Session) -> None:
    """Each row is of its class, with the columns of one table; another table is not loaded."""
    engineer, manager = session.scalars(as_of(Employee, AuditId(2)).order_by("id")).all()
    assert (Engineer, "e", "c") == (type(engineer), engineer.name, engineer.skill)  # type: ignore[attr-defined]
    assert (Manager, "m") == (type(manager), manager.name)
    with pytest.raises(PastEntityError, match=r"Manager.budget.*'manager'; select as_of\(\)"):
        _ = manager.budget  # type: ignore[attr-defined]
    assert [(2, 100)] == session.execute(as_of(Manager.__table__, AuditId(1))).all()  # type: ignore[arg-type]
    (alone,) = session.scalars(as_of(Engineer, AuditId(2)))
    assert (Engineer, "e", "c") == (type(alone), alone.name, alone.skill)
    with pytest.raises(ReadingError, match="mapped to more than one table"):
        as_of(Manager, AuditId(1))
    for one in (engineer, manager):
        with pytest.raises(PastEntityError):
            session.merge(one)
    session.connection().exec_driver_sql("UPDATE employee_audit SET kind = 'gone' WHERE id = 1")
    former = session.scalars(as_of(Employee, AuditId(2)).filter_by(id=1)).one()
    assert (Employee, "gone") == (type(former), former.kind)


def test_pickled(session: Session) -> None:
    """It comes back as what it is."""
    back = pickle.loads(pickle.dumps(then(session)))
    assert ("a@x", {"n": 1}, True) == (back.email, back.data, sa.inspect(back).detached)
    with pytest.raises(PastEntityError, match=r"Account\.owner"):
        _ = back.owner
    for attempt in (session.add, session.merge):
        with pytest.raises(PastEntityError, match="an entity of the past"):
            attempt(back)


def test_moments_do_not_mix(session: Session) -> None:
    """Statements that differ in the moment alone share what is compiled, and nothing else."""
    found = [session.scalars(as_of(Account, AuditId(n))).all() for n in (1, 2, 1, 0)]
    assert [["a@x"], ["b@x"], ["a@x"], []] == [[one.email for one in some] for some in found]


def test_values_of_it_are_asked_for(session: Session) -> None:
    """It stands in a criterion as the row it is of."""
    owner = session.scalars(as_of(Owner, AuditId(1))).one()
    assert 1 == session.scalars(sa.select(Account).where(Account.owner == owner)).unique().one().id


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_each_driver(database: Database, driver: str) -> None:
    """The same with each driver."""
    begin(database.engine)
    engine = sa.create_engine(database.url(driver))
    with Session(engine) as session:
        now, was = session.get_one(Account, 1), then(session)
        session.commit()
        assert ("b@x", "a@x", b"blob") == (now.email, was.email, was.blob)
        with pytest.raises(PastEntityError):
            session.merge(was)
    engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_asynchronous(database: Database, driver: str) -> None:
    """AsyncSession: scalars, stream, refresh, merge, awaitable_attrs."""
    begin(database.engine)

    async def run() -> None:
        engine = create_async_engine(database.url(driver))
        async with AsyncSession(engine) as session:
            now = await session.get_one(Account, 1)
            was = (await session.scalars(as_of(Account, AuditId(1)))).one()
            await session.commit()
            assert ("a@x", {"n": 1}, b"blob") == (was.email, was.data, was.blob)
            await session.refresh(now)
            assert now.email == "b@x"
            for attempt in (session.refresh, session.merge, session.delete):
                with pytest.raises(PastEntityError, match="an entity of the past"):
                    await attempt(was)
            with pytest.raises(PastEntityError, match=r"Account\.owner"):
                await was.awaitable_attrs.owner
            streamed = await session.stream_scalars(as_of(Account, AuditId(1)))
            assert ["a@x"] == [one.email async for one in streamed]
        await engine.dispose()

    asyncio.run(run())
