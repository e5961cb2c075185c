"""Values of typed settings: recorded as they were given, or refused before anything is sent."""

import enum
import uuid
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import ip_address
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql as pg

from alembic_audit import SettingError, audit_context, audit_table, set_session_vars
from alembic_audit.values import texts
from tests.conftest import Database
from tests.conftest import _database as make_database
from tools import postgres

MOOD = enum.Enum("MOOD", {"HAPPY": "gl\u00fccklich", "SAD": "traurig"})
ONE = uuid.UUID("00000000-0000-4000-8000-000000000001")
EAST = timezone(timedelta(hours=5, minutes=30))


class Words(sa.types.TypeDecorator[list[str]]):
    """A list of words, stored as one text."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str | None:
        if value == ["bad"]:
            raise ValueError("bad words")
        return " ".join(value)


TYPES: dict[str, tuple[Any, list[Any]]] = {
    "text": (sa.Text(), ["O'Brien", "\U0001f600", "{}", "NULL"]),
    "varchar": (sa.String(3), ["\U0001f600\U0001f600\U0001f600"]),
    "unbounded": (sa.String(), ["x"]),
    "boolean": (sa.Boolean(), [True, False]),
    "smallint": (sa.SmallInteger(), [-(2**15), 2**15 - 1]),
    "integer": (sa.Integer(), [-(2**31), 2**31 - 1, 0]),
    "bigint": (sa.BigInteger(), [-(2**63), 2**63 - 1]),
    "numeric": (sa.Numeric(), [Decimal("-1.50"), Decimal("1E+30"), Decimal("0.000000001")]),
    "money": (sa.Numeric(5, 2), [Decimal("-999.99"), Decimal("0.01")]),
    "double": (sa.Double(), [0.1, -1e300, float("inf")]),
    "uuid": (sa.Uuid(), [ONE]),
    "pg_uuid": (pg.UUID(as_uuid=True), [ONE]),
    "timestamptz": (
        sa.DateTime(timezone=True),
        [datetime(2024, 2, 29, 23, 59, 59, 999999, EAST), datetime(1, 1, 2, tzinfo=EAST)],
    ),
    "timestamp": (sa.DateTime(), [datetime(2024, 2, 29, 23, 59, 59, 1), datetime.min]),
    "date": (sa.Date(), [date(2024, 2, 29), date.min, date.max]),
    "time": (sa.Time(), [time(23, 59, 59, 999999)]),
    "timetz": (sa.Time(timezone=True), [time(1, 2, tzinfo=EAST)]),
    "interval": (sa.Interval(), [timedelta(days=-3, microseconds=1), timedelta(hours=-1)]),
    "pg_interval": (pg.INTERVAL(), [timedelta(days=40, seconds=5)]),
    "bytea": (sa.LargeBinary(), [bytes(range(256)), b"\\x00"]),
    "enum": (sa.Enum(MOOD, name="mood"), [MOOD.SAD]),
    "labels": (sa.Enum("a b", "c'd", name="labels"), ["c'd"]),
    "check_enum": (sa.Enum(MOOD, native_enum=False), [MOOD.SAD]),
    "array": (pg.ARRAY(sa.Text()), [["a", None, 'b"\\', "NULL", "", "{,}", " "], []]),
    "matrix": (pg.ARRAY(sa.Integer(), dimensions=2), [[[1, 2], [3, None]]]),
    "dates": (pg.ARRAY(sa.Date()), [[date(2024, 1, 1)]]),
    "json": (sa.JSON(), [{"a": [1, "\u00e9", None]}, "text", [1], 0, True]),
    "jsonb": (pg.JSONB(), [{"a": {"b": "' % :c \\"}}, "", 1.5]),
    "domain": (pg.DOMAIN("positive", sa.Integer(), check="VALUE > 0"), [7]),
}


@pytest.fixture(scope="module")
def shared(server: postgres.Server) -> Iterator[Database]:
    """One database for all that makes tables of different names."""
    with make_database(server) as made:
        yield made


def records(
    database: Database, kind: Any, values: list[Any], nullable: bool = True, name: str = "t"
) -> list[Any]:
    """Declare a setting of a type, write once under each value, return what is recorded."""
    metadata = sa.MetaData()
    table = sa.Table(name, metadata, sa.Column("id", sa.Integer, primary_key=True))
    audit = audit_table(table, session_settings=[sa.Column("s", kind, nullable=nullable)])
    metadata.create_all(database.engine)
    with database.engine.connect() as connection:
        for value in values:
            set_session_vars(connection, metadata, s=value)
            connection.execute(table.insert())
            connection.commit()
        if nullable:  # the setting is '' now, which no cast may see
            connection.execute(table.insert())
            connection.commit()
        return list(connection.scalars(sa.select(audit.c.audit_s).order_by(audit.c.audit_id)))


def stored(value: Any) -> Any:
    """Return a value as its audit column gives it back: an enum as text."""
    return value.name if isinstance(value, enum.Enum) else value


@pytest.mark.parametrize("name", TYPES)
def test_recorded_as_given(shared: Database, name: str) -> None:
    """Every type records what was set, and NULL in the next transaction of the connection."""
    kind, values = TYPES[name]
    found = records(shared, kind, values, name=name)
    assert [*map(stored, values), None] == found
    assert [type(stored(value)) for value in values] == [type(value) for value in found[:-1]]


@pytest.mark.parametrize("name", TYPES)
def test_required(shared: Database, name: str) -> None:
    """A required setting of any type records what was set; without it the write fails."""
    kind, values = TYPES[name]
    assert [*map(stored, values)] == records(shared, kind, values, False, f"required_{name}")
    with shared.engine.connect() as connection, pytest.raises(sa.exc.IntegrityError) as caught:
        connection.exec_driver_sql(f"INSERT INTO required_{name} VALUES (DEFAULT)")
    assert "session setting audit.s is not set" in str(caught.value)


def test_citext(database: Database) -> None:
    """A type of an extension works, wherever the extension is."""
    with database.engine.begin() as connection:
        there = connection.exec_driver_sql(
            "SELECT 1 FROM pg_available_extensions WHERE name = 'citext'"
        ).scalar()
        if there:
            connection.exec_driver_sql("CREATE SCHEMA extensions")
            connection.exec_driver_sql("CREATE EXTENSION citext SCHEMA extensions")
            connection.exec_driver_sql(
                f"ALTER DATABASE {database.name} SET search_path = public, extensions"
            )
    if not there:
        pytest.skip("no citext on this server")
    database.engine.dispose()
    assert ["Ann", None] == records(database, getattr(pg, "CITEXT", sa.Text)(), ["Ann"])


def test_a_type_decorator_says_what_is_sent(database: Database) -> None:
    """Words() binds a list as one text."""
    assert ["a b", None] == records(database, Words(), [["a", "b"]])


def test_an_address(database: Database) -> None:
    """INET takes addresses and their text."""
    found = records(database, pg.INET(), [ip_address("10.0.0.1"), "2001:db8::1"])
    assert ["10.0.0.1/32", "2001:db8::1/128", None] == [
        None if value is None else str(value) if "/" in str(value) else f"{value}/{width}"
        for value, width in zip(found, (32, 128, 0), strict=True)
    ]


# -- texts of values that fit ------------------------------------------------------------------


def declared(kind: Any) -> sa.MetaData:
    metadata = sa.MetaData()
    table = sa.Table("t", metadata, sa.Column("id", sa.Integer, primary_key=True))
    audit_table(table, session_settings=[sa.Column("s", kind)])
    return metadata


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (sa.Text(), 7, "7"),
        (sa.Text(), True, "true"),
        (sa.Text(), ONE, str(ONE)),
        (sa.Text(), MOOD.SAD, "traurig"),
        (sa.Text(), Decimal("1.50"), "1.50"),
        (sa.Text(), date(2024, 1, 2), "2024-01-02"),
        (sa.Text(), {"a": "\u00e9"}, '{"a": "\u00e9"}'),
        (sa.Integer(), " 42 ", "42"),
        (sa.Numeric(), "1.5", "1.5"),
        (sa.Uuid(), str(ONE), str(ONE)),
        (sa.Uuid(), ONE.hex.upper(), str(ONE)),
        (sa.Enum(MOOD, values_callable=lambda c: [m.value for m in c]), MOOD.SAD, "traurig"),
        (sa.Enum(MOOD), "SAD", "SAD"),
        (sa.JSON(), MOOD.SAD, '"traurig"'),
        (sa.Integer(), None, ""),
        (sa.Text().with_variant(sa.Integer(), "postgresql"), "7", "7"),
    ],
)
def test_texts(kind: Any, value: Any, text: str) -> None:
    """What fits is written the way PostgreSQL reads it."""
    assert {"s": text} == texts({"s": value}, [declared(kind)])


def test_texts_without_declarations() -> None:
    """Where no type is known, the Python type says how a value is written."""
    given = {
        "a": [1, "x"],
        "b": timedelta(days=-1, seconds=5),
        "c": b"\x00\xff",
        "d": 1.5,
        "e": datetime(2024, 1, 2, 3, 4, 5, tzinfo=EAST),
        "f": ip_address("10.0.0.1"),
    }
    assert {
        "a": '[1, "x"]',
        "b": "-1 days +5 seconds +0 microseconds",
        "c": "\\x00ff",
        "d": "1.5",
        "e": "2024-01-02T03:04:05+05:30",
        "f": "10.0.0.1",
    } == texts(given)


# -- what does not fit -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "value", "wanted"),
    [
        (sa.String(3), "four", "write at most 3 characters, found 4"),
        (sa.Boolean(), "true", "write True or False, found 'true' of type str"),
        (sa.Boolean(), 1, "write True or False, found 1 of type int"),
        (sa.Integer(), "x", "write an int, found 'x' of type str"),
        (sa.Integer(), "", "write an int, found '' of type str"),
        (sa.Integer(), True, "write an int, found True of type bool"),
        (sa.Integer(), 1.0, "write an int, found 1.0 of type float"),
        (sa.Integer(), 2**31, "write an int of 32 bits, found 2147483648 of type int"),
        (sa.SmallInteger(), -(2**15) - 1, "write an int of 16 bits, found -32769 of type int"),
        (sa.BigInteger(), 2**63, f"write an int of 64 bits, found {2**63} of type int"),
        (sa.Numeric(), "x", "write an int, float or Decimal, found 'x' of type str"),
        (
            sa.Numeric(4, 2),
            Decimal("99.995"),
            "write a number of at most 2 digits before the point, found Decimal('99.995') of type "
            "Decimal",
        ),
        (sa.Uuid(), "x", "write a UUID, found 'x' of type str"),
        (sa.Uuid(), 1, "write a UUID, found 1 of type int"),
        (
            sa.DateTime(timezone=True),
            datetime(2024, 1, 1),
            "write a datetime with tzinfo, found datetime.datetime(2024, 1, 1, 0, 0) of type "
            "datetime",
        ),
        (
            sa.DateTime(),
            datetime(2024, 1, 1, tzinfo=timezone.utc),
            "write a datetime without tzinfo, found datetime.datetime(2024, 1, 1, 0, 0, "
            "tzinfo=datetime.timez... of type datetime",
        ),
        (sa.DateTime(), "2024-01-01", "write a datetime without tzinfo, found '2024-01-01' of "),
        (sa.Date(), datetime(2024, 1, 1), "write a date, found datetime.datetime("),
        (sa.Time(), "1:00", "write a time without tzinfo, found '1:00' of type str"),
        (sa.Interval(), 5, "write a timedelta, found 5 of type int"),
        (sa.LargeBinary(), "x", "write bytes, found 'x' of type str"),
        (sa.Enum(MOOD), "traurig", "write one of 'HAPPY', 'SAD', found 'traurig' of type str"),
        (pg.ARRAY(sa.Text()), "a", "write a list, found 'a' of type str"),
        (pg.ARRAY(sa.Integer()), ["x"], "write an int, found 'x' of type str"),
        (pg.ARRAY(sa.Integer()), [[1], [2, 3]], "write lists of one length, found [[1], [2, 3]]"),
        (pg.ARRAY(sa.Integer()), [[1], 2], "write lists of one length, found [[1], 2] of type"),
        (pg.INET(), "x", "write an IP address, found 'x' of type str"),
        (pg.HSTORE(), {"a": "b"}, "write the text of a HSTORE"),
        (Words(), ["bad"], "Words refuses ['bad']: bad words"),
        (Words(), ["a\x00"], "it holds NUL, which PostgreSQL cannot store in a text; remove it"),
    ],
)
def test_what_does_not_fit(kind: Any, value: Any, wanted: str) -> None:
    """The error names setting, table and type, and says what to write."""
    metadata = declared(kind)
    with pytest.raises(SettingError) as caught:
        audit_context(metadata, s=value)
    begin = f"session setting 's', which table 't' declares as {kind!r}: "
    assert begin + wanted == str(caught.value)[: len(begin + wanted)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"a": ["\x00"]},
            "a string in it holds NUL, which PostgreSQL's jsonb cannot store; remove it",
        ),
        (
            {1, 2},
            "write a str, int, bool, UUID, Enum, date, datetime, Decimal, or what json.dumps "
            "takes, found {1, 2} of type set",
        ),
        (
            [float("nan")],
            "write a str, int, bool, UUID, Enum, date, datetime, Decimal, or what json.dumps "
            "takes, found [nan] of type list",
        ),
    ],
)
def test_what_no_setting_can_hold(value: Any, message: str) -> None:
    """A value that has no text is refused where no type is declared, too."""
    with pytest.raises(SettingError) as caught:
        texts({"s": value})
    assert f"session setting 's': {message}" == str(caught.value)


def test_one_setting_of_two_types() -> None:
    """A setting that two tables declare fits both, or is refused."""
    metadata = sa.MetaData()
    for name, kind in (("a", sa.Text()), ("b", sa.Uuid()), ("c", sa.JSON())):
        table = sa.Table(name, metadata, sa.Column("id", sa.Integer, primary_key=True))
        others = {"a": "s", "b": "s", "c": "j"}
        audit_table(table, session_settings=[sa.Column(others[name], kind)])
    assert {"s": str(ONE)} == texts({"s": ONE}, [metadata])
    with pytest.raises(SettingError, match=r"which table 'b' declares as Uuid\(\)"):
        texts({"s": "ann"}, [metadata])
    late = sa.Table("d", metadata, sa.Column("id", sa.Integer, primary_key=True))
    audit_table(late, session_settings=[sa.Column("j", sa.Text())])
    with pytest.raises(SettingError) as caught:
        texts({"j": "x"}, [metadata])
    assert (
        "session setting 'j' cannot be one text for all tables: 'c' wants '\"x\"', 'd' wants 'x'; "
        "declare it with one type"
    ) == str(caught.value)


# -- any value ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def anything(shared: Database) -> tuple[sa.Engine, sa.MetaData]:
    """A table with a setting of each type that hypothesis can fill."""
    metadata = sa.MetaData()
    table = sa.Table("anything", metadata, sa.Column("id", sa.Integer, primary_key=True))
    audit_table(table, session_settings=[sa.Column(n, TYPES[n][0]) for n in STRATEGIES])
    metadata.create_all(shared.engine)
    return shared.engine, metadata


_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1)
_json = st.recursive(
    st.integers(-(2**53), 2**53) | st.booleans() | _text,
    lambda inner: st.lists(inner) | st.dictionaries(_text, inner),
)
STRATEGIES: dict[str, st.SearchStrategy[Any]] = {
    "text": _text,
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "numeric": st.decimals(allow_nan=False, allow_infinity=False, places=9),
    "double": st.floats(allow_nan=False),
    "timestamptz": st.datetimes(timezones=st.just(EAST), min_value=datetime(1, 1, 2)),
    "timestamp": st.datetimes(),
    "date": st.dates(),
    "time": st.times(),
    "interval": st.timedeltas(timedelta(days=-(10**6)), timedelta(days=10**6)),
    "bytea": st.binary(min_size=1),
    "array": st.lists(_text | st.just("") | st.none()),
    "jsonb": _json,
}


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(values=st.fixed_dictionaries({n: s | st.none() for n, s in STRATEGIES.items()}))
@pytest.mark.parametrize("style", ["postgres", "sql_standard"])
def test_any_values(
    anything: tuple[sa.Engine, sa.MetaData], style: str, values: dict[str, Any]
) -> None:
    """Whatever fits is recorded exactly, whatever style the session has."""
    engine, metadata = anything
    with engine.connect() as connection:
        connection.exec_driver_sql("SET LOCAL DateStyle = 'SQL, DMY'")
        connection.exec_driver_sql(f"SET LOCAL IntervalStyle = {style}")
        set_session_vars(connection, metadata, **values)
        connection.execute(metadata.tables["anything"].insert())
        # Written under hostile styles, read under those that the driver reads.
        connection.exec_driver_sql("SET LOCAL DateStyle = 'ISO, MDY'")
        connection.exec_driver_sql("SET LOCAL IntervalStyle = postgres")
        found = connection.execute(metadata.tables["anything_audit"].select()).mappings().one()
        connection.rollback()
    assert values == {name: found[f"audit_{name}"] for name in values}
