"""Every type that a column can have: its values arrive in the trail as they are."""

import datetime
import json
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql as pg

from alembic_audit import DeclarationError
from alembic_audit.tables import derive
from tests import rounds
from tests.conftest import Database
from tests.project import Project

# SQLAlchemy reflects no geometric type, and so on; Alembic then leaves their types alone.
pytestmark = pytest.mark.filterwarnings("ignore:Did not recognize type")


class Raw(sa.types.UserDefinedType[Any]):
    """A type by its name in SQL, for those that SQLAlchemy has no class for."""

    cache_ok = True

    def __init__(self, spelling: str) -> None:
        self.spelling = spelling

    def get_col_spec(self, **kw: Any) -> str:
        return self.spelling


class Wrapped(sa.TypeDecorator[Any]):
    """A TypeDecorator over any type; `Wrapped(Wrapped(x))` is one over another."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, inner: Any = None, **kw: Any) -> None:
        super().__init__(**kw)
        if inner is not None:
            self.impl = sa.types.to_instance(inner)


def render_item(kind: str, item: Any, context: Any) -> Any:
    """Let a migration spell the types of this module, as `env.py` of an application does."""
    # Some versions of Alembic spell the inner types of arrays and domains without a prefix.
    context.imports.add("from sqlalchemy import String, Text")
    context.imports.add("from sqlalchemy.dialects.postgresql import ARRAY, ENUM")
    if kind == "type" and isinstance(item, Raw | Wrapped):
        context.imports.add("from tests.test_types import Raw, Wrapped")
        raw = f"Raw({item.compile(dialect=PG)!r})"
        return f"Wrapped({raw})" if isinstance(item, Wrapped) else raw
    return False


PG: Any = pg.dialect()
MOOD = pg.ENUM("sad", "ok", "o'k", name="mood", create_type=False)
EMAIL = pg.DOMAIN("email", sa.String(80), not_null=True, create_type=False)
MOODS = pg.DOMAIN("moods", pg.ARRAY(MOOD), create_type=False)
CREATE_TYPES = [
    "CREATE TYPE mood AS ENUM ('sad', 'ok', 'o''k')",
    "CREATE DOMAIN email AS varchar(80) NOT NULL CHECK (VALUE <> '')",
    "CREATE DOMAIN moods AS mood[]",
    "CREATE TYPE pair AS (n integer, e email, m mood, t text[])",
]
TEXTS = ["", " ", "\\", "{}", "'\"", "äöü 🐘 \u202e", "\t\r\n", "NULL"]

TYPES: dict[str, tuple[Any, list[str]]] = {
    "smallint": (sa.SmallInteger, ["-32768", "32767"]),
    "integer": (sa.Integer, ["-2147483648", "2147483647"]),
    "bigint": (sa.BigInteger, ["-9223372036854775808", "9223372036854775807"]),
    "boolean": (sa.Boolean, ["true", "false"]),
    "numeric": (sa.Numeric, ["NaN", "0.000", "-0.10", "1e-16383", "9" * 1000]),
    "numeric_infinite": (pg.NUMERIC, ["Infinity", "-Infinity"]),
    "numeric_scale": (sa.Numeric(10, 2), ["NaN", "-99999999.99"]),
    "real": (sa.REAL, ["NaN", "Infinity", "-Infinity", "-0", "1e-45", "3.4e38"]),
    "double": (sa.Double, ["NaN", "Infinity", "-Infinity", "-0", "5e-324", "0.1"]),
    "money": (pg.MONEY, ["-92233720368547758.08", "0.01"]),
    "text": (sa.Text, TEXTS),
    "unicode": (sa.Unicode(40), TEXTS),
    "varchar": (sa.String(20), TEXTS),
    "char": (sa.CHAR(12), ["", "a ", "ä"]),
    "bytea": (sa.LargeBinary, ["", r"\x00ff5c27", "\\\\"]),
    "uuid": (sa.Uuid, ["00000000-0000-0000-0000-000000000000"]),
    "date": (sa.Date, ["infinity", "-infinity", "4713-01-01 BC", "5874897-12-31"]),
    "time": (sa.Time, ["24:00:00", "00:00:00.000001"]),
    "timetz": (sa.Time(timezone=True), ["24:00:00+15:59:59", "00:00-15:59"]),
    "timestamp": (sa.DateTime, ["infinity", "4713-01-01 00:00 BC", "294276-12-31 23:59:59.9"]),
    "timestamp0": (pg.TIMESTAMP(precision=0), ["infinity", "2020-02-29 12:00:00.6"]),
    "timestamptz": (pg.TIMESTAMP(timezone=True), ["-infinity", "4713-01-01 00:00+00 BC"]),
    "interval": (sa.Interval, ["-178000000 years", "1 mon -1 day 00:00:00.1", "24:00", "1 day"]),
    "interval_fields": (pg.INTERVAL(fields="DAY TO SECOND", precision=3), ["1 day 2.3456 s"]),
    "json": (sa.JSON, ['{"a":1, "a" :  2}', "null", r'"\u0000"', "[]"]),
    "jsonb": (pg.JSONB, ['{"b": 1, "a": [1.00, 1e5]}', "null", '"ä"']),
    "jsonpath": (pg.JSONPATH, ["$.a[*] ? (@ > 1)", "strict $"]),
    "bit": (pg.BIT(3), ["101", "000"]),
    "varbit": (pg.BIT(varying=True), ["", "1010101010101"]),
    "tsvector": (pg.TSVECTOR, ["a:1A b:2,3", "'it''s':1", ""]),
    "tsquery": (pg.TSQUERY, ["a & !b <-> 'c d'", ""]),
    "inet": (pg.INET, ["::1", "10.0.0.1/8", "::ffff:1.2.3.4/128"]),
    "cidr": (pg.CIDR, ["10.0.0.0/8", "::/0"]),
    "macaddr": (pg.MACADDR, ["08:00:2b:01:02:03"]),
    "macaddr8": (pg.MACADDR8, ["08:00:2b:01:02:03:04:05"]),
    "int4range": (pg.INT4RANGE, ["empty", "(,)", "[1,1]"]),
    "int8range": (pg.INT8RANGE, ["[-9223372036854775808,)"]),
    "numrange": (pg.NUMRANGE, ["(1.50,2]", "[NaN,NaN]"]),
    "daterange": (pg.DATERANGE, ["[-infinity,infinity]", "empty"]),
    "tsrange": (pg.TSRANGE, ["(-infinity,2020-01-01]", '["4713-01-01 00:00:00 BC",)']),
    "tstzrange": (pg.TSTZRANGE, ["[2020-01-01 00:00+01,infinity)"]),
    "int4multirange": (pg.INT4MULTIRANGE, ["{}", "{[1,2],[5,)}"]),
    "datemultirange": (pg.DATEMULTIRANGE, ["{[2020-01-01,2020-01-02),(,1999-01-01]}"]),
    "point": (Raw("point"), ["(1,-0)", "(NaN,Infinity)"]),
    "line": (Raw("line"), ["{1,2,3}"]),
    "lseg": (Raw("lseg"), ["[(0,0),(1,1)]"]),
    "box": (Raw("box"), ["(2,2),(0,0)"]),
    "path": (Raw("path"), ["[(0,0),(1,1)]", "((0,0),(1,1))"]),
    "polygon": (Raw("polygon"), ["((0,0),(1,1),(1,0))"]),
    "circle": (Raw("circle"), ["<(0,0),1>"]),
    "oid": (pg.OID, ["0", "4294967295"]),
    "regclass": (pg.REGCLASS, ["pg_class", "-", "4294967295"]),
    "regproc": (Raw("regprocedure"), ["now()"]),
    "regtype": (Raw("regtype"), ["integer", "mood"]),
    "regrole": (Raw("regrole"), ["pg_monitor"]),
    "regnamespace": (Raw("regnamespace"), ["pg_catalog"]),
    "regconfig": (pg.REGCONFIG, ["english"]),
    "xid": (Raw("xid"), ["4294967295"]),
    "xid8": (Raw("xid8"), ["18446744073709551615"]),
    "cid": (Raw("cid"), ["7"]),
    "tid": (Raw("tid"), ["(4294967295,65535)"]),
    "pg_lsn": (Raw("pg_lsn"), ["FFFFFFFF/FFFFFFFF", "0/0"]),
    "pg_snapshot": (Raw("pg_snapshot"), ["10:20:10,14,15"]),
    "refcursor": (Raw("refcursor"), ["c"]),
    "oidvector": (Raw("oidvector"), ["1 2 3"]),
    "aclitem": (Raw("aclitem"), ["postgres=r/postgres"]),
    "record": (Raw("pair"), ["(1,a@x,ok,\"{a,NULL}\")", "(,a,,)"]),
    "record_array": (pg.ARRAY(Raw("pair")), [r'{"(1,a,sad,{})",NULL}']),
    "int_array": (pg.ARRAY(sa.Integer), ["{}", "{NULL}", "{{1,2},{3,4}}", "[0:1]={1,2}"]),
    "text_array": (sa.ARRAY(sa.Text), [r'{"",NULL,"NULL","a,b","\\","{}"}', "{}"]),
    "matrix": (sa.ARRAY(sa.Double, dimensions=3), ["{{{NaN,-0}}}", "{}"]),
    "jsonb_array": (pg.ARRAY(pg.JSONB), [r'{"{\"a\": 1}",null}']),
    "range_array": (pg.ARRAY(pg.INT4RANGE), ['{"[1,2)",empty}']),
    "bytea_array": (pg.ARRAY(sa.LargeBinary), [r'{"\\x00ff",""}']),
    "timestamp_array": (pg.ARRAY(sa.DateTime), ['{infinity,"4713-01-01 00:00:00 BC"}']),
    "enum": (MOOD, ["sad", "o'k"]),
    "enum_array": (pg.ARRAY(MOOD), ["{}", "{{sad,NULL},{ok,ok}}"]),
    "enum_text": (sa.Enum("a", "bcd", native_enum=False), ["a", "bcd"]),
    "domain": (EMAIL, ["a@x"]),
    "domain_array": (pg.ARRAY(EMAIL), ['{a@x,"b, c"}', "{}"]),
    "domain_of_array": (MOODS, ["{}", "{ok,NULL}"]),
    "wrapped": (Wrapped(), TEXTS),
    "wrapped_numeric": (Wrapped(sa.Numeric(6, 1)), ["-0.0", "NaN"]),
    "wrapped_enum": (Wrapped(MOOD), ["ok"]),
    "wrapped_twice": (Wrapped(Wrapped(MOOD)), ["ok"]),
    "wrapped_variant": (Wrapped(sa.Text().with_variant(MOOD, "postgresql")), ["ok"]),
    "wrapped_domain": (Wrapped(EMAIL), ["a@x"]),
    "wrapped_array": (Wrapped(pg.ARRAY(MOOD)), ["{ok}"]),
    "array_of_wrapped": (pg.ARRAY(Wrapped(Wrapped(MOOD))), ["{ok,NULL}"]),
    "wrapped_json": (Wrapped(sa.JSON), ['{"a" :1}']),
    "wrapped_composite": (Wrapped(Raw("pair")), ["(1,a,ok,{x})"]),
    "pickle": (sa.PickleType, [r"\x8004"]),
    "collated": (sa.String(collation="C"), TEXTS),
    "collated_array": (pg.ARRAY(sa.Text(collation="C")), ["{a,ä}"]),
}  # fmt: skip

REQUIRED = ("domain", "wrapped_domain")


def table(types: dict[str, tuple[Any, list[str]]], **options: Any) -> sa.Table:
    return sa.Table(
        "every",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        *(
            sa.Column(name, kind, nullable=name not in REQUIRED)
            for name, (kind, _) in types.items()
        ),
        info={"audit.options": {"enabled": True, **options}},
    )


@pytest.fixture
def project(tmp_path: Any, database: Database) -> Project:
    made = Project(tmp_path, database, render_item=render_item)
    made.execute(*CREATE_TYPES)
    return made


def literal(value: str) -> str:
    return "NULL" if value is None else "E'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def run(connection: sa.Connection, *statements: str) -> None:
    for statement in statements:
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def compare(connection: sa.Connection, every: sa.Table) -> None:
    """See that rows which are in the table, and recorded as inserted, are updated and deleted so.

    The records of a DELETE are compared with the rows that it deleted, put back unrecorded.
    """
    assert [] == rounds.differences(connection, every, "I")
    run(connection, "UPDATE every SET id = id")
    assert [] == rounds.differences(connection, every, "U")
    run(
        connection,
        "CREATE TEMPORARY TABLE copy ON COMMIT DROP AS TABLE every",
        "DELETE FROM every",
        "SET LOCAL session_replication_role = replica",
        "INSERT INTO every TABLE copy",
    )
    assert [] == rounds.differences(connection, every, "D")


def rows(types: dict[str, tuple[Any, list[str]]]) -> list[str]:
    """Return INSERTs that together hold every sample, and a row of NULL where NULL may be."""
    count = max(len(samples) for _, samples in types.values())
    made = [
        ", ".join([str(number), *(literal(s[number % len(s)]) for _, s in types.values())])
        for number in range(count)
    ]
    nulls = ("'x'" if name in REQUIRED else "NULL" for name in types)
    made.append(", ".join([str(count), *nulls]))
    return [f"INSERT INTO every VALUES ({row})" for row in made]


create_type_in_array = pytest.mark.skipif(
    sa.__version__.startswith("2.0."), reason="2.0 renders no create_type=False inside an ARRAY"
)


@create_type_in_array
@pytest.mark.parametrize("style", ["standard", "classic"])
def test_every_type(project: Project, style: str) -> None:
    """A value of any type is in the record as it is in the row, in text and byte for byte."""
    every = table(TYPES, audit_columns=style)
    rounds.migrate(project, every.metadata)

    with project.engine.begin() as connection:
        run(connection, *rows(TYPES))
        compare(connection, every)
    project.check(every.metadata)


@create_type_in_array
def test_no_type_is_held(project: Project) -> None:
    """Once the columns are gone, so can be their enum, domains and collation; records stay."""
    project.execute('CREATE COLLATION mine FROM "C"')
    held = {
        name: (kind, samples)
        for name, (kind, samples) in TYPES.items()
        if ("enum" in name or "domain" in name or "wrapped" in name) and "composite" not in name
    }
    for name, kind in {
        "collated": sa.String(collation="mine"),
        "collated_array": pg.ARRAY(sa.Text(collation="mine")),
        "collated_domain": pg.DOMAIN("words", sa.Text, collation="mine"),
        "wrapped_collated": Wrapped(Wrapped(sa.String(9, collation="mine"))),
    }.items():
        held[name] = (kind, ["{a}" if "array" in name else "a"])
    every = table(held)
    project.migrate(every.metadata)
    with project.engine.begin() as connection:
        run(connection, *rows(held))
        assert [] == rounds.differences(connection, every, "I")
    names = [name for name in held if name not in REQUIRED]
    select = f"SELECT {', '.join(f'{name}::text' for name in names)} FROM every_audit ORDER BY id"
    recorded = project.rows(select)

    project.migrate(table({}).metadata)
    project.execute(
        "DROP TYPE pair", "DROP DOMAIN moods, email, words", "DROP TYPE mood", "DROP COLLATION mine"
    )  # fmt: skip

    assert recorded == project.rows(select)
    assert len(recorded) > 2


def test_array_of_array_domain() -> None:
    """Arrays of a domain over arrays have no base type, and no hash: refused."""
    columns = {"x": (pg.ARRAY(MOODS), [])}
    with pytest.raises(DeclarationError) as caught:
        derive(table(columns))
    assert str(caught.value) == (
        "column 'x' of 'every': an array of a domain that is an array itself has no base type; "
        "exclude it"
    )
    with pytest.raises(DeclarationError) as caught:
        derive(table(columns, hash_columns=["x"]))
    assert "the binary form of its type holds a number" in str(caught.value)
    assert derive(table(columns, exclude_columns=["x"])) is not None


def test_large_values(project: Project) -> None:
    """A megabyte of text, of bytes and of array elements is in the record, whole."""
    every = table(
        {
            "text": (sa.Text, []),
            "bytes": (sa.LargeBinary, []),
            "json": (pg.JSONB, []),
            "array": (pg.ARRAY(sa.Text), []),
        }
    )
    rounds.migrate(project, every.metadata)
    with project.engine.begin() as connection:
        run(
            connection,
            "INSERT INTO every SELECT 1, repeat('ä🐘', 200000), decode(string_agg(x, ''), 'hex'), "
            "to_jsonb(array_agg(x)), array_agg(x) FROM (SELECT md5(n::text) FROM "
            "generate_series(1, 65536) AS n) AS a (x)",
        )
        sizes = connection.exec_driver_sql(
            'SELECT octet_length("text"), octet_length(bytes), cardinality("array") FROM every'
        ).one()
        assert (1_200_000, 1_048_576, 65_536) == tuple(sizes)
        compare(connection, every)


def test_generated_columns(project: Project) -> None:
    """Identity and stored computed columns are recorded as the server made them."""
    every = sa.Table(
        "every",
        sa.MetaData(),
        sa.Column("id", sa.Integer, sa.Identity(always=True, start=7), primary_key=True),
        sa.Column("n", sa.Integer, sa.Sequence("numbers"), server_default=sa.text("3")),
        sa.Column("twice", sa.Integer, sa.Computed("n * 2", persisted=True)),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.func.now()),
        sa.Column("uuid", sa.Uuid, server_default=sa.func.gen_random_uuid()),
        info={"audit.options": {"enabled": True}},
    )
    rounds.migrate(project, every.metadata)
    with project.engine.begin() as connection:
        run(connection, "INSERT INTO every DEFAULT VALUES", "INSERT INTO every (n) VALUES (5)")
        assert [] == rounds.differences(connection, every, "I")
        run(connection, "UPDATE every SET n = n + 1")
        assert [] == rounds.differences(connection, every, "U")
    assert [("I", 7, 3, 6), ("I", 8, 5, 10), ("U", 7, 4, 8), ("U", 8, 6, 12)] == project.rows(
        "SELECT audit_operation, id, n, twice FROM every_audit ORDER BY audit_id"
    )


@pytest.mark.parametrize(
    ("extension", "kind", "samples"),
    [
        ("hstore", pg.HSTORE, ["", '"a"=>NULL, "b c"=>"ä\\"\\\\"']),
        ("citext", getattr(pg, "CITEXT", Raw("citext")), TEXTS),
        ("ltree", Raw("ltree"), ["a.b.c", ""]),
        ("cube", Raw("cube"), ["(1,2),(3,4)"]),
    ],
)
def test_extension_types(project: Project, extension: str, kind: Any, samples: list[str]) -> None:
    """Types of extensions are stored as they are."""
    if not project.rows(f"SELECT FROM pg_available_extensions WHERE name = '{extension}'"):
        pytest.skip(f"this PostgreSQL has no {extension}")
    project.execute(f"CREATE EXTENSION {extension}")
    types = {"x": (kind, samples), "xs": (pg.ARRAY(kind), ["{}", "{NULL}"])}
    every = table(types)
    rounds.migrate(project, every.metadata)
    with project.engine.begin() as connection:
        run(connection, *rows(types))
        compare(connection, every)


def test_xml(project: Project) -> None:
    """XML is stored as it is, where the server was built with it."""
    try:
        project.execute("SELECT xml '<a/>'")
    except sa.exc.NotSupportedError:
        pytest.skip("this PostgreSQL has no xml")
    types = {"x": (Raw("xml"), ["<a/>", "", "<!-- x --><a b='ä'>&lt;</a>"])}
    every = table(types)
    rounds.migrate(project, every.metadata)
    with project.engine.begin() as connection:
        run(connection, *rows(types))
        compare(connection, every)


def test_null_in_a_composite(project: Project) -> None:
    """A composite value of NULLs is a value: it has a hash, and a column that holds it stays."""
    project.execute("CREATE TYPE two AS (a integer, b integer)")
    types = {"x": (Raw("two"), []), "y": (Raw("two"), [])}
    project.migrate(table({"x": types["x"]}, hash_columns=["x"]).metadata)
    project.migrate(table(types, hash_columns=["x"]).metadata)
    project.execute("INSERT INTO every VALUES (1, '(,)', '(1,)'), (2, NULL, '(,)')")
    select = "SELECT id, x_sha256 IS NULL, y::text FROM every_audit ORDER BY id"
    expected = [(1, False, "(1,)"), (2, True, "(,)")]
    assert expected == project.rows(select)

    project.downgrade()

    assert expected == project.rows(select)


# -- any value ---------------------------------------------------------------------------------

# PostgreSQL's text holds no NUL and UTF-8 no surrogates.
any_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
any_float = st.floats(width=64)


def any_array(element: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return arrays of up to three dimensions, empty ones and NULL elements included."""
    flat = st.lists(st.none() | element, max_size=4)
    cube = st.tuples(st.integers(1, 3), st.integers(1, 3)).flatmap(
        lambda size: st.lists(
            st.lists(st.none() | element, min_size=size[0], max_size=size[0]),
            min_size=size[1],
            max_size=size[1],
        )
    )
    return flat | cube | cube.map(lambda inner: [inner, inner])


def years(date: datetime.date) -> str:
    """Return a date as PostgreSQL reads it, moved back so that half of all are BC."""
    year = date.year - 4700
    return f"{abs(year) or 1:04}-{date:%m}-01{' BC' if year <= 0 else ''}"


any_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=8,
)
VALUES: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "text": (sa.Text, any_text),
    "chars": (sa.CHAR(40), any_text),
    "bytes": (sa.LargeBinary, st.binary(max_size=60)),
    "double": (sa.Double, any_float),
    "real": (sa.REAL, st.floats(width=32)),
    "numeric": (sa.Numeric, st.decimals(allow_nan=False, allow_infinity=False).map(str)),
    "bigint": (sa.BigInteger, st.integers(-(2**63), 2**63 - 1)),
    "date": (sa.Date, st.sampled_from(["infinity", "-infinity"]) | st.dates().map(years)),
    "timestamp": (sa.DateTime, st.datetimes().map(str)),
    "timestamptz": (sa.DateTime(timezone=True), st.datetimes().map(lambda x: f"{x}+05:45")),
    "interval": (sa.Interval, st.timedeltas().map(lambda x: f"{x.days} d {x.seconds} s")),
    "uuid": (sa.Uuid, st.uuids().map(str)),
    "inet": (pg.INET, st.ip_addresses().map(str)),
    "json": (sa.JSON, any_json.map(json.dumps)),
    "texts": (pg.ARRAY(sa.Text), any_array(any_text)),
    "doubles": (pg.ARRAY(sa.Double), any_array(any_float)),
}  # fmt: skip


@pytest.fixture(scope="module")
def recorder(
    shared_database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Project, sa.Table]]:
    """A project with a column for each of VALUES, migrated once."""
    project = Project(tmp_path_factory.mktemp("recorder"), shared_database, render_item=render_item)
    project.execute(*CREATE_TYPES)
    every = table({name: (kind, []) for name, (kind, _) in VALUES.items()})
    project.migrate(every.metadata)
    yield project, every


@settings(deadline=None, max_examples=30, phases=[Phase.generate])
@given(
    st.lists(
        st.fixed_dictionaries({name: st.none() | one for name, (_, one) in VALUES.items()}),
        min_size=1,
        max_size=3,
    )
)
def test_any_value(recorder: tuple[Project, sa.Table], values: list[dict[str, Any]]) -> None:
    """Whatever is in a row is in its records, after INSERT, UPDATE and DELETE."""
    project, every = recorder
    places = ", ".join(
        f"CAST(%s AS {sa.types.to_instance(kind).compile(dialect=PG)})"
        for kind, _ in VALUES.values()
    )
    with project.engine.connect() as connection:
        for number, row in enumerate(values):
            connection.exec_driver_sql(
                f"INSERT INTO every VALUES ({number}, {places})", tuple(row[x] for x in VALUES)
            )
        compare(connection, every)
        connection.rollback()
