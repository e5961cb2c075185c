"""Every way to write a model: declared, migrated, written through it, compared in SQL."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.automap import automap_base
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    Session,
    mapped_column,
    registry,
    relationship,
)

from alembic_audit import DeclarationError, audit_table, audited
from alembic_audit.tables import derive, derive_all
from tests import rounds
from tests.conftest import Database
from tests.project import Project

ENABLED = {"audit.options": {"enabled": True}}


@pytest.fixture
def project(tmp_path: Path, database: Database) -> Project:
    return Project(tmp_path, database)


def compare(project: Project, *tables: sa.Table) -> None:
    """See that every row of the tables is recorded as inserted, and as it is."""
    with project.engine.connect() as connection:
        for table in tables:
            assert [] == rounds.differences(connection, table, "I")


def audited_tables(metadata: sa.MetaData) -> list[str]:
    return [spec.table for spec in derive_all(metadata)]


# -- mapped classes ----------------------------------------------------------------------------


def test_inheritance(project: Project) -> None:
    """Joined, single-table and concrete inheritance, mixins, and one info dict for all tables."""

    class Base(DeclarativeBase):
        pass

    class Audited:
        __table_args__: ClassVar[Any] = {"info": ENABLED}
        seen: Mapped[int | None] = mapped_column(info={"audit": "ignore"})

    class Person(Audited, Base):
        __tablename__ = "person"
        __mapper_args__: ClassVar = {"polymorphic_on": "kind", "polymorphic_identity": "person"}
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]

    class Engineer(Person):
        __tablename__ = "engineer"
        __table_args__: ClassVar[Any] = {"info": ENABLED}
        __mapper_args__: ClassVar = {"polymorphic_identity": "engineer"}
        id: Mapped[int] = mapped_column(sa.ForeignKey("person.id"), primary_key=True)
        tool: Mapped[str]

    class Manager(Person):
        __mapper_args__: ClassVar = {"polymorphic_identity": "manager"}
        budget: Mapped[int | None]

    class Robot(Audited, Base):
        __tablename__ = "robot"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Android(Robot):
        __tablename__ = "android"
        __table_args__: ClassVar[Any] = {"info": ENABLED}
        __mapper_args__: ClassVar = {"concrete": True}
        id: Mapped[int] = mapped_column(primary_key=True)
        seen: Mapped[int | None] = mapped_column()
        name: Mapped[str]

    rounds.migrate(project, Base.metadata)
    assert ["android", "engineer", "person", "robot"] == audited_tables(Base.metadata)
    with Session(project.engine) as session:
        session.add_all(
            [Person(), Engineer(tool="saw", seen=1), Manager(budget=7), Robot(), Android(name="x")]
        )
        session.commit()
    tables = [Base.metadata.tables[name] for name in audited_tables(Base.metadata)]
    compare(project, *tables)
    assert [("person", None), ("engineer", None), ("manager", 7)] == project.rows(
        "SELECT kind, budget FROM person_audit ORDER BY id"
    )
    with Session(project.engine) as session:
        for person in session.scalars(sa.select(Person)):
            person.seen = 9
        session.commit()
    assert [(3,)] == project.rows("SELECT count(*) FROM person_audit")


def test_dataclass(project: Project) -> None:
    """Classes that are mapped as dataclasses, by a base and by a registry."""

    class Base(MappedAsDataclass, DeclarativeBase):
        pass

    @audited()
    class Account(Base):
        __tablename__ = "account"
        id: Mapped[int] = mapped_column(init=False, primary_key=True)
        email: Mapped[str] = mapped_column(default="a@x")

    mapper = registry(metadata=Base.metadata)

    @mapper.mapped
    @dataclasses.dataclass
    class Robot:
        __table__ = sa.Table(
            "robot", mapper.metadata, sa.Column("id", sa.Integer, primary_key=True), info=ENABLED
        )
        id: int

    rounds.migrate(project, Base.metadata)
    with Session(project.engine) as session:
        session.add_all([Account(), Account(email="b@x"), Robot(5)])
        session.commit()
    compare(project, Base.metadata.tables["account"], Base.metadata.tables["robot"])


def test_imperative(project: Project) -> None:
    """A class that is mapped to a Table by hand; its audit table can be mapped as well."""

    class Account:
        id: int
        email: str

    class Record:
        audit_operation: str
        email: str

    mapper = registry()
    account = sa.Table(
        "account",
        mapper.metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.Text),
    )
    audit = audit_table(account)
    mapper.map_imperatively(Account, account)
    mapper.map_imperatively(Record, audit)
    rounds.migrate(project, mapper.metadata)
    with Session(project.engine) as session:
        made = Account()
        made.email = "a@x"
        session.add(made)
        session.commit()
        made.email = "b@x"
        session.commit()
        found = session.scalars(sa.select(Record).order_by(audit.c.audit_id)).all()
        assert [("I", "a@x"), ("U", "b@x")] == [(one.audit_operation, one.email) for one in found]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_sqlmodel(tmp_path: Path, database: Database) -> None:
    """SQLModel's classes, marked by @audited() or by __table_args__."""
    sqlmodel = pytest.importorskip("sqlmodel")

    class Base(sqlmodel.SQLModel, registry=registry()):  # type: ignore[misc, name-defined]
        pass

    @audited(hash_columns=["secret"])
    class Hero(Base, table=True):
        id: int | None = sqlmodel.Field(default=None, primary_key=True)
        name: str = sqlmodel.Field(index=True)
        secret: str
        team_id: int | None = sqlmodel.Field(default=None, foreign_key="team.id")

    class Team(Base, table=True):
        __table_args__: ClassVar[Any] = {"info": ENABLED}
        id: int | None = sqlmodel.Field(default=None, primary_key=True)
        name: str

    def render_item(kind: str, item: Any, context: Any) -> bool:
        context.imports.add("import sqlmodel")  # as SQLModel's users write into script.py.mako
        return False

    project = Project(tmp_path, database, render_item=render_item)
    rounds.migrate(project, Base.metadata)
    with Session(project.engine) as session:
        session.add(Team(name="x"))
        session.flush()
        session.add(Hero(name="y", secret="z", team_id=1))
        session.commit()
    compare(project, Base.metadata.tables["hero"], Base.metadata.tables["team"])
    assert [("I", 1, "y", 32, 1)] == project.rows(
        "SELECT audit_operation, id, name, length(secret_sha256), team_id FROM hero_audit"
    )


# -- columns -----------------------------------------------------------------------------------


def test_key_of_a_column(project: Project) -> None:
    """Column("name", key="other"): the trail knows the column by its name in the database."""
    account = sa.Table(
        "account",
        sa.MetaData(),
        sa.Column("id", sa.Integer, key="account_id", primary_key=True),
        sa.Column("email", sa.Text, key="id"),
        sa.Column("secret", sa.Text, key="s", info={"audit": "hash"}),
        sa.Column("seen", sa.Integer, key="email"),
        info={"audit.options": {"enabled": True, "ignore_columns": ["seen"]}},
    )
    rounds.migrate(project, account.metadata)
    with project.engine.begin() as connection:
        row = {"account_id": 1, "id": "a@x", "s": "x", "email": 7}
        connection.execute(account.insert(), row)
    compare(project, account)
    with project.engine.begin() as connection:
        connection.execute(account.update().values(email=8))
    spec = account.info["audit.spec"]
    assert (("id",), ("id", "email", "seen"), ("secret",), ("seen",)) == (
        spec.key,
        spec.columns,
        spec.hash_columns,
        spec.ignore_columns,
    )
    assert [(1, "a@x", 7)] == project.rows("SELECT id, email, seen FROM account_audit")


def test_late_columns(project: Project) -> None:
    """Columns that are appended, or come by extend_existing, after the audit was declared."""
    metadata = sa.MetaData()
    account = sa.Table("account", metadata, sa.Column("id", sa.Integer, primary_key=True))
    audit_table(account)
    account.append_column(sa.Column("one", sa.Text))
    sa.Table("account", metadata, sa.Column("two", sa.Text), extend_existing=True)
    account.append_column(sa.Column("team_id", sa.ForeignKey("team.id")))
    team = sa.Table(
        "team", metadata, sa.Column("id", sa.ForeignKey("zone.id"), primary_key=True), info=ENABLED
    )
    sa.Table("zone", metadata, sa.Column("id", sa.Uuid, primary_key=True))
    rounds.migrate(project, metadata)
    zone = "00000000-0000-0000-0000-000000000001"
    project.execute(
        f"INSERT INTO zone VALUES ('{zone}')",
        f"INSERT INTO team VALUES ('{zone}')",
        f"INSERT INTO account (id, one, two, team_id) VALUES (1, 'a', 'b', '{zone}')",
    )
    compare(project, account, team)
    assert ("id", "one", "two", "team_id") == account.info["audit.spec"].columns
    assert isinstance(metadata.tables["account_audit"].c.team_id.type, sa.Uuid)


def test_circular_foreign_keys(project: Project) -> None:
    """Two audited tables that refer to each other."""

    class Base(DeclarativeBase):
        pass

    @audited()
    class Team(Base):
        __tablename__ = "team"
        id: Mapped[int] = mapped_column(primary_key=True)
        head_id: Mapped[int | None] = mapped_column(
            sa.ForeignKey("player.id", use_alter=True, name="head")
        )
        head: Mapped["Player | None"] = relationship(foreign_keys=head_id, post_update=True)

    @audited()
    class Player(Base):
        __tablename__ = "player"
        id: Mapped[int] = mapped_column(primary_key=True)
        team_id: Mapped[int | None] = mapped_column(sa.ForeignKey("team.id"))
        team: Mapped[Team | None] = relationship(foreign_keys=team_id)

    project.revision(Base.metadata)
    project.upgrade()
    rounds.migrate(project, Base.metadata)  # Alembic adds a use_alter key in the second step only
    with Session(project.engine) as session:
        team = Team()
        team.head = Player(team=team)
        session.add(team)
        session.commit()
    compare(project, Base.metadata.tables["player"])
    assert [("I", 1, None), ("U", 1, 1)] == project.rows(
        "SELECT audit_operation, id, head_id FROM team_audit ORDER BY audit_id"
    )


# -- keys and sizes ----------------------------------------------------------------------------


def wide(count: int, keys: int, **options: Any) -> sa.Table:
    return sa.Table(
        "wide",
        sa.MetaData(),
        *(
            sa.Column(f"c{n}", sa.Integer, primary_key=n < keys, autoincrement=False)
            for n in range(count)
        ),
        info={"audit.options": {"enabled": True, **options}},
    )


@pytest.mark.parametrize(("count", "keys"), [(1, 1), (1, 0), (3, 0), (3, 3), (33, 31), (33, 32)])
def test_keys(project: Project, count: int, keys: int) -> None:
    """No key, a composite one, nothing but a key, and the 32 columns that a key can have."""
    made = wide(count, keys)
    rounds.migrate(project, made.metadata)
    names = [f"c{n}" for n in range(count)]
    values = ", ".join(map(str, range(count)))
    project.execute(
        f"INSERT INTO wide VALUES ({values})", "UPDATE wide SET c0 = 7", "DELETE FROM wide"
    )
    first, second = tuple(range(count)), (7, *range(1, count))
    assert [("I", *first), ("D", *first), ("U", *second), ("D", *second)] == project.rows(
        f"SELECT audit_operation, {', '.join(names)} FROM wide_audit ORDER BY audit_id"
    )
    assert made.info["audit.spec"].key == tuple(names[:keys])


def test_as_many_columns_as_fit(project: Project) -> None:
    """1,590 columns are recorded, with whatever looks at each of them."""
    made = wide(1590, 3, changed_columns=True, skip_unchanged=True)
    project.migrate(made.metadata)
    project.execute(
        f"INSERT INTO wide VALUES ({', '.join(map(str, range(1590)))})",
        "UPDATE wide SET c7 = c7",
        "UPDATE wide SET c1589 = -1",
    )
    with project.engine.connect() as connection:
        assert [] == rounds.differences(connection, made, "U")
    assert [("I", None), ("U", ["c1589"])] == project.rows(
        "SELECT audit_operation, audit_changed_columns FROM wide_audit ORDER BY 1"
    )


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (1596, {}),
        (1595, {"changed_columns": True}),
        (1595, {"session_settings": [sa.Column("who", sa.Text)]}),
        (1599, {"audit_columns": "classic"}),
    ],
)
def test_more_columns_than_fit(count: int, options: dict[str, Any]) -> None:
    """One column more than PostgreSQL allows is refused, and the message says what to do."""
    assert derive(wide(count - 1, 1, **options)) is not None
    with pytest.raises(DeclarationError) as caught:
        derive(wide(count, 1, **options))
    assert str(caught.value) == (
        "table 'wide' cannot be audited: the audit table of 'wide' would have 1601 columns; "
        "PostgreSQL allows 1,600: exclude some"
    )


# -- models from the database --------------------------------------------------------------------


CREATE = """
    CREATE TABLE account (
      id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      email varchar(80) NOT NULL UNIQUE,
      amount numeric(10, 2) DEFAULT 0,
      at timestamptz DEFAULT now(),
      tags text[]
    )
"""


@pytest.mark.parametrize("everything", [False, True], ids=["one", "everything"])
def test_reflected(project: Project, everything: bool) -> None:
    """A reflected table is audited; reflected again, its audit table is known for what it is."""
    project.execute(CREATE)

    def reflected() -> sa.MetaData:
        metadata = sa.MetaData()
        if everything:
            metadata.info["audit.defaults"] = {"enabled": True}
        metadata.reflect(project.engine)
        if "alembic_version" in metadata.tables:
            metadata.remove(metadata.tables["alembic_version"])
        if not everything:
            audit_table(metadata.tables["account"])
        return metadata

    rounds.migrate(project, reflected())
    project.execute("INSERT INTO account (email, tags) VALUES ('a@x', '{a,b}')")
    again = reflected()
    project.check(again)
    assert ["account", "account_audit"] == sorted(again.tables)
    compare(project, again.tables["account"])


def test_automap(project: Project) -> None:
    """Automapped classes are audited, before and after there is an audit table to map."""
    project.execute(CREATE)
    for number in range(2):
        base: Any = automap_base()
        base.prepare(autoload_with=project.engine)
        audited()(base.classes.account)
        if not project.count:
            rounds.migrate(project, base.metadata)
        if "alembic_version" in base.metadata.tables:
            base.metadata.remove(base.metadata.tables["alembic_version"])
        project.check(base.metadata)
        with Session(project.engine) as session:
            session.add(base.classes.account(email=f"{number}@x"))
            session.commit()
    compare(project, base.metadata.tables["account"])
    assert [(2,)] == project.rows("SELECT count(*) FROM account_audit")


def test_reflected_audit_table() -> None:
    """A reflected audit table is no table to audit either."""
    metadata = sa.MetaData(info={"audit.defaults": {"enabled": True}})
    audit = sa.Table(
        "account_audit",
        metadata,
        sa.Column("audit_id", sa.BigInteger, primary_key=True),
        comment="history kept by alembic_audit",
    )
    assert derive(audit) is None
    assert [] == derive_all(metadata)
    with pytest.raises(DeclarationError, match="'account_audit' is an audit table and cannot be"):
        audit_table(audit)


def test_copied_tables(project: Project) -> None:
    """Tables copied by to_metadata(), audit tables too, are audited where they were copied to."""
    project.execute("CREATE SCHEMA tenant")
    metadata = sa.MetaData()
    account = sa.Table("account", metadata, sa.Column("id", sa.Integer, primary_key=True))
    audit_table(account)
    for schema in (None, "tenant"):
        copy = sa.MetaData()
        for table in metadata.tables.values():
            table.to_metadata(copy, schema=schema)
        [spec] = derive_all(copy)
        assert (schema, schema) == (spec.schema, spec.audit_schema)
        assert 2 == len(copy.tables)
    project.config.attributes["configure"]["include_schemas"] = True
    rounds.migrate(project, copy)
    project.execute("INSERT INTO tenant.account VALUES (1)")
    compare(project, copy.tables["tenant.account"])


def test_declared_again() -> None:
    """A table that was removed from its MetaData and declared anew has an audit table anew."""
    metadata = sa.MetaData()
    for name in ("one", "two"):
        if metadata.tables:
            metadata.remove(metadata.tables["account"])
        column = sa.Column(name, sa.Integer, primary_key=True)
        made = audit_table(sa.Table("account", metadata, column))
        assert made is metadata.tables["account_audit"]
        assert name in made.columns


# -- several metadata ----------------------------------------------------------------------------


def test_several_bases(project: Project) -> None:
    """Models under several bases, migrated together, in schemas of their own."""
    project.execute("CREATE SCHEMA billing")

    class Base(DeclarativeBase):
        pass

    class Billing(DeclarativeBase):
        metadata = sa.MetaData(schema="billing", info={"audit.defaults": {"enabled": True}})

    @audited()
    class Account(Base):
        __tablename__ = "account"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Invoice(Billing):
        __tablename__ = "account"
        id: Mapped[int] = mapped_column(primary_key=True)
        total: Mapped[int]

    project.config.attributes["configure"]["include_schemas"] = True
    both: Any = [Base.metadata, Billing.metadata]
    rounds.migrate(project, both)
    with Session(project.engine) as session:
        session.add_all([Account(), Invoice(total=7)])
        session.commit()
    compare(project, Base.metadata.tables["account"], Billing.metadata.tables["billing.account"])
    assert [("billing", 7)] == project.rows("SELECT 'billing', total FROM billing.account_audit")
