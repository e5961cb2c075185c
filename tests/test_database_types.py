"""A migration needs no type of the application: audit columns have types of the database."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from alembic_audit import DatabaseType, audit_class, history
from alembic_audit.database_types import database_type
from tests.conftest import Database
from tests.project import Project

# SQLAlchemy reflects no type of an extension, and Alembic leaves it alone.
pytestmark = pytest.mark.filterwarnings("ignore:Did not recognize type")

SHOP = """
import pickle
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from alembic_audit import audited


class Encrypted(sa.TypeDecorator):
    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return None if value is None else value[::-1]

    process_result_value = process_bind_param


class Settings(sa.TypeDecorator):
    impl = sa.JSON
    cache_ok = True


class Twice(sa.TypeDecorator):
    impl = Encrypted
    cache_ok = True


class Place(sa.types.UserDefinedType):
    cache_ok = True

    def __init__(self, srid=0):
        self.srid = srid

    def get_col_spec(self, **kw):
        return "point"


class Email(sa.String):
    def __init__(self):
        super().__init__(255)


class Money(sa.Text):
    pass


@compiles(Money, "postgresql")
def money(type_, compiler, **kw):
    return "money"


class Base(DeclarativeBase):
    pass


@audited(session_settings=[sa.Column("tenant", Encrypted(40))], hash_columns=["pin"])
class Order(Base):
    __tablename__ = "order"
    id: Mapped[int] = mapped_column(primary_key=True)
    secret = mapped_column(Encrypted(length=1000))
    twice = mapped_column(Twice(20))
    settings = mapped_column(Settings())
    place = mapped_column(Place(4326))
    email = mapped_column(Email())
    price = mapped_column(Money())
    names = mapped_column(postgresql.ARRAY(Encrypted(30)))
    places = mapped_column(sa.ARRAY(Place()))
    other = mapped_column(sa.String(9).with_variant(Email(), "sqlite"))
    elsewhere = mapped_column(sa.LargeBinary().with_variant(Email(), "postgresql"))
    pickled = mapped_column(sa.PickleType(pickler=pickle))
    span = mapped_column(sa.Interval())
    key = mapped_column(sa.Uuid(as_uuid=False))
    pin = mapped_column(Encrypted(9))
"""
STORED = {
    "audit_tenant": "sa.String(length=40)",
    "secret": "sa.String(length=1000)",
    "twice": "sa.String(length=20)",
    "settings": "sa.JSON()",
    "place": "alembic_audit.DatabaseType('point')",
    "email": "sa.String(length=255)",
    "price": "alembic_audit.DatabaseType('money')",
    "names": "postgresql.ARRAY(sa.String(length=30))",
    "places": "postgresql.ARRAY(alembic_audit.DatabaseType('point'))",
    "other": "sa.String(length=9)",
    "elsewhere": "sa.String(length=255)",
    "pickled": "sa.LargeBinary()",
    "span": "sa.Interval()",
    "key": "sa.Uuid(as_uuid=False)",
    "pin_sha256": "sa.LargeBinary()",
}
SOURCE = """
CREATE TABLE "order" (id serial PRIMARY KEY, secret varchar(1000), twice varchar(20), settings json,
place point, email varchar(255), price money, names varchar(30)[], places point[], other varchar(9),
elsewhere varchar(255), pickled bytea, span interval, key uuid, pin varchar(9))
"""
RUN = """
import importlib.util, sys
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

path, url, verb, target = sys.argv[1:]
assert importlib.util.find_spec("shop") is None
config = Config()
config.set_main_option("script_location", path)
config.set_main_option("path_separator", "os")
config.attributes.update(engine=sa.create_engine(url), url=url, metadata=sa.MetaData())
getattr(command, verb)(config, target)
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The package of an application."""
    (tmp_path / "application").mkdir()
    (tmp_path / "application" / "shop.py").write_text(SHOP)
    monkeypatch.syspath_prepend(tmp_path / "application")
    import shop  # type: ignore[import-not-found]

    yield shop
    del sys.modules["shop"]


def elsewhere(project: Project, verb: str, target: str) -> None:
    """Run a command of Alembic in a process that cannot import the application."""
    url = project.engine.url.render_as_string(hide_password=False)
    subprocess.run(
        [sys.executable, "-c", RUN, str(project.path), url, verb, target],
        check=True,
        cwd=Path(__file__).parent.parent,
    )


def with_types(kind: str, item: Any, context: Any) -> Any:
    """What an application writes into env.py to have its own types, and all text in one of them."""
    if kind == "type" and isinstance(item, sa.String):
        context.imports.add("from shop import Encrypted")
        return "Encrypted()"
    return False


@pytest.mark.parametrize(
    "configure", [{}, {"user_module_prefix": "shop."}, {"render_item": with_types}]
)
def test_a_migration_runs_without_the_application(
    tmp_path: Path, database: Database, shop: ModuleType, configure: dict[str, Any]
) -> None:
    """The audit table has the same columns as ever, by types that need no import of the project."""
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project", database, **configure)
    project.execute(SOURCE)
    text = project.revision(shop.Base.metadata)
    written = (project.path / "versions" / "0001_step.py").read_text()
    assert "shop" not in written and "Encrypted" not in written
    for name, kind in STORED.items():
        assert f"sa.Column('{name}', {kind}," in text
    elsewhere(project, "upgrade", "head")
    project.check(shop.Base.metadata)
    elsewhere(project, "downgrade", "base")
    elsewhere(project, "upgrade", "head")
    # Those who map the audit table have the types of the model.
    with Session(project.engine) as session:
        session.add(shop.Order(secret="abc", names=["de"], place="(1,2)", other="x"))
        session.commit()
        ((record, _, _),) = session.execute(history(shop.Order, 1))
        assert ("abc", ["de"], "(1,2)") == (record.secret, record.names, record.place)
        assert isinstance(
            sa.inspect(audit_class(shop.Order)).columns["secret"].type, shop.Encrypted
        )


def test_later_migrations_run_without_the_application(
    tmp_path: Path, database: Database, shop: ModuleType
) -> None:
    """A column that comes, and one whose type changes, likewise; the diff is empty afterwards."""
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project", database)
    project.execute(SOURCE)
    metadata = shop.Base.metadata
    project.migrate(metadata)
    later = sa.MetaData()
    shop.Order.__table__.to_metadata(later)
    order = later.tables["order"]
    order.append_column(sa.Column("spot", shop.Place()))
    order.columns["email"].type = shop.Money()
    project.execute(
        'ALTER TABLE "order" ADD COLUMN spot point,'
        " ALTER COLUMN email TYPE money USING email::money"
    )
    text = project.revision(later)
    assert "sa.Column('spot', alembic_audit.DatabaseType('point')" in text
    assert "type_=alembic_audit.DatabaseType('money')" in text
    assert "shop" not in (project.path / "versions" / "0002_step.py").read_text()
    elsewhere(project, "upgrade", "head")
    project.check(later)
    back = 'ALTER TABLE "order" ALTER COLUMN email TYPE varchar(255) USING email::text'
    project.execute(back)
    elsewhere(project, "downgrade", "-1")
    project.execute('ALTER TABLE "order" ALTER COLUMN email TYPE money USING email::money')
    elsewhere(project, "upgrade", "head")


PG: Any = postgresql.dialect()  # type: ignore[no-untyped-call]


class Lower(sa.types.UserDefinedType[Any]):
    def get_col_spec(self, **kw: Any) -> str:
        return "citext"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Lower(), "DatabaseType('citext')"),
        (postgresql.ARRAY(Lower(), dimensions=2), "ARRAY(DatabaseType('citext'), dimensions=2)"),
        (DatabaseType("x"), "DatabaseType('x')"),
        (PG.type_descriptor(sa.Numeric(9, 2)), "Numeric(precision=9, scale=2)"),
        (sa.Text(), "Text()"),
        (sa.types.NullType(), "NullType()"),
    ],
)
def test_types(kind: Any, expected: str) -> None:
    """A type of SQLAlchemy stays; another one becomes it where the database sees no difference."""
    assert expected == repr(database_type(kind))
