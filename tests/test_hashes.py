"""Hashes of columns: one form, the same in every session, database, encoding and major."""

import hashlib
import struct
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.orm import Session

from alembic_audit import AuditId, DeclarationError, RestoreError, audit_table, restore, sql
from tests.conftest import Database
from tests.conftest import _database as make_database
from tests.test_types import Raw
from tools import postgres

MOOD = pg.ENUM("sad", "glücklich", name="mood", create_type=False)
WORD = pg.DOMAIN("word", sa.Text, create_type=False)
CREATE = [
    "CREATE TYPE mood AS ENUM ('sad', 'glücklich')",
    "CREATE DOMAIN word AS text",
    "CREATE TYPE plain AS (a integer, b text)",
]

ONE = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")

# Type, a value as PostgreSQL reads it, and the bytes that are hashed.
VECTORS: dict[str, tuple[Any, str, bytes]] = {
    "text": (sa.Text(), "'Zoë'", "Zoë".encode()),
    "empty": (sa.Text(), "''", b""),
    "varchar": (sa.String(10), "'Zoë'", "Zoë".encode()),
    "char": (sa.CHAR(4), "'é'", "é   ".encode()),
    "enum": (MOOD, "'glücklich'", "glücklich".encode()),
    "domain": (WORD, "'Zoë'", "Zoë".encode()),
    "boolean": (sa.Boolean(), "true", b"\x01"),
    "smallint": (sa.SmallInteger(), "-2", struct.pack(">h", -2)),
    "integer": (sa.Integer(), "7", struct.pack(">i", 7)),
    "bigint": (sa.BigInteger(), "7", struct.pack(">q", 7)),
    "double": (sa.Double(), "0.1", struct.pack(">d", 0.1)),
    "real": (sa.REAL(), "0.1", struct.pack(">f", 0.1)),
    "numeric": (sa.Numeric(), "12345.6", struct.pack(">7h", 3, 1, 0, 1, 1, 2345, 6000)),
    "uuid": (sa.Uuid(), f"'{ONE}'", ONE.bytes),
    "bytea": (sa.LargeBinary(), r"'\x00ff'", b"\x00\xff"),
    "date": (sa.Date(), "'2000-01-03'", struct.pack(">i", 2)),
    "timestamp": (sa.DateTime(), "'2000-01-01 00:00:01'", struct.pack(">q", 1_000_000)),
    "timestamptz": (sa.TIMESTAMP(True), "'2000-01-01 01:00:01+01'", struct.pack(">q", 1_000_000)),
    "interval": (pg.INTERVAL(), "'1 mon 2 days 00:00:03'", struct.pack(">qii", 3_000_000, 2, 1)),
    "json": (sa.JSON(), "'{\"a\":  \"é\"}'", '{"a":  "é"}'.encode()),
    "jsonb": (pg.JSONB(), "'{\"a\":  \"é\"}'", b"\x01" + '{"a": "é"}'.encode()),
    "money": (pg.MONEY(), "1.5::numeric::money", struct.pack(">q", 150)),
    "texts": (pg.ARRAY(sa.Text()), "'{é}'", struct.pack(">6i", 1, 0, 25, 1, 1, 2) + "é".encode()),
    "range": (pg.INT4RANGE(), "'[1,3)'", b"\x02" + struct.pack(">iiii", 4, 1, 4, 3)),
    "composite": (Raw("plain"), "(1, 'é')", struct.pack(">6i", 2, 23, 4, 1, 25, 2) + "é".encode()),
    "tsvector": (pg.TSVECTOR(), "'é:1'", b"\0\0\0\1" + "é".encode() + b"\0\0\1\0\1"),
}  # fmt: skip


def table(types: dict[str, Any], level: Any = "auto") -> sa.Table:
    made = sa.Table(
        "thing",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        *(sa.Column(name, kind) for name, kind in types.items()),
    )
    audit_table(made, hash_columns=list(types), level=level)
    return made


def begin(database: Database, types: dict[str, Any], level: Any = "auto") -> sa.Table:
    made = table(types, level)
    with database.engine.begin() as connection:
        made.metadata.drop_all(connection)
        made.metadata.create_all(connection)
    return made


def run(database: Database, *statements: str) -> list[Any]:
    with database.engine.connect() as connection:
        for statement in statements:
            result = connection.exec_driver_sql(
                statement, execution_options={"no_parameters": True}
            )
        found = [tuple(row) for row in result] if result.returns_rows else []
        connection.exec_driver_sql("RESET ALL")  # what the driver decodes by
        connection.commit()
    return found


@pytest.fixture(scope="module", params=[None, 14, 15], ids=["newest", "14", "15"])
def databases(request: pytest.FixtureRequest) -> Iterator[tuple[Database, Database]]:
    """Two databases of one server, in which types have other numbers."""
    bindir = None
    if request.param:
        try:
            bindir = postgres.of_major(request.param)
        except postgres.ServerError as error:
            pytest.skip(str(error))
    with (
        postgres.server(bindir, place=postgres.in_memory()) as server,
        make_database(server) as one,
        make_database(server) as other,
    ):
        run(one, *CREATE)
        run(other, "CREATE TYPE first AS ENUM ('x')", *reversed(CREATE))
        yield one, other


SETTINGS = {
    "client_encoding": ["UTF8", "LATIN1", "SQL_ASCII", "WIN1252"],
    "DateStyle": ["ISO, DMY", "German", "SQL, MDY", "Postgres, YMD"],
    "TimeZone": ["UTC", "Asia/Kathmandu"],
    "extra_float_digits": ["-15", "0", "3"],
    "bytea_output": ["hex", "escape"],
    "IntervalStyle": ["postgres", "sql_standard", "iso_8601"],
    "array_nulls": ["on", "off"],
    "xmloption": ["content", "document"],
}


@pytest.mark.parametrize("level", ["row", "statement"])
def test_vectors(databases: tuple[Database, Database], level: str) -> None:
    """The hash is SHA-256 of the bytes that the documentation says, at both levels."""
    types = {name: kind for name, (kind, _, _) in VECTORS.items()}
    values = ", ".join(value for _, value, _ in VECTORS.values())
    select = ", ".join(f"{name}_sha256" for name in VECTORS)
    for database in databases:
        begin(database, types, level)
        run(database, f"INSERT INTO thing VALUES (1, {values})", "INSERT INTO thing VALUES (2)")
        found, nothing = run(database, f"SELECT {select} FROM thing_audit ORDER BY id")
        expected = {name: hashlib.sha256(sent).digest() for name, (_, _, sent) in VECTORS.items()}
        assert expected == {name: bytes(value) for name, value in zip(VECTORS, found, strict=True)}
        assert {None} == set(nothing)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_session(databases: tuple[Database, Database], data: st.DataObject) -> None:
    """Whatever a session sets, and in whichever database, the same values have the same hashes."""
    number = data.draw(st.integers(-(2**31), 2**31 - 1))
    text = data.draw(
        st.text(st.characters(max_codepoint=255, exclude_characters="\0"), max_size=20)
    )
    values = (
        f"convert_from('\\x{text.encode().hex()}', 'UTF8'), 'glücklich'::mood, {number},"
        f" {number} / 7.0::float8, timestamptz 'epoch' + {number} * interval '1 ms',"
        f" {number} * interval '1 day 1 ms', decode(md5('{number}'), 'hex'),"
        f" ARRAY[convert_from('\\x{text.encode().hex()}', 'UTF8'), NULL],"
        f" jsonb_build_array(convert_from('\\x{text.encode().hex()}', 'UTF8'), {number})"
    )
    types = {
        "t": sa.Text(),
        "e": MOOD,
        "i": sa.Integer(),
        "f": sa.Double(),
        "z": sa.DateTime(timezone=True),
        "v": pg.INTERVAL(),
        "b": sa.LargeBinary(),
        "a": pg.ARRAY(sa.Text()),
        "j": pg.JSONB(),
    }
    found = set()
    select = (
        f"SELECT {', '.join(f'encode({name}_sha256, $$hex$$)' for name in types)} FROM thing_audit"
    )
    for level in ("row", "statement"):
        made = [begin(one, types, level) for one in databases]
        for database, thing in zip(databases, made, strict=True):
            for _ in range(2):
                chosen = {name: data.draw(st.sampled_from(some)) for name, some in SETTINGS.items()}
                # The values are made before the session changes: their text depends on it.
                run(
                    database,
                    "TRUNCATE thing_audit",
                    "DELETE FROM thing",
                    "DROP TABLE IF EXISTS kept",
                    f"CREATE TABLE kept (id, t, e, i, f, z, v, b, a, j) AS SELECT 1, {values}",
                    *(f"SET {name} = '{value}'" for name, value in chosen.items()),
                    "INSERT INTO thing SELECT * FROM kept",
                )
                found.update(run(database, f"{select} WHERE audit_operation = 'I'"))
                run(
                    database,
                    "TRUNCATE thing_audit",
                    *(f"SET {name} = '{value}'" for name, value in chosen.items()),
                    sql.snapshot(thing.info["audit.spec"], "public"),
                )
                found.update(run(database, f"{select} WHERE audit_operation = 'S'"))
    assert len(found) == 1


def test_a_latin_client_writes_what_it_cannot_read(databases: tuple[Database, Database]) -> None:
    """A value outside the client's encoding is hashed, and the client goes on in its own."""
    thing = begin(databases[0], {"t": sa.Text()})
    found = run(
        databases[0],
        "CREATE TABLE IF NOT EXISTS source AS SELECT 1, U&'\\20AC' AS t",
        "SET client_encoding = LATIN1",
        "INSERT INTO thing SELECT * FROM source",
        sql.snapshot(thing.info["audit.spec"], "public"),
        "SELECT current_setting('client_encoding'), encode(t_sha256, 'hex') FROM thing_audit",
    )
    assert [("LATIN1", hashlib.sha256("€".encode()).hexdigest())] * 2 == found


REFUSED = {
    "an array of an enum": "mood[]",
    "an array of a domain": "word[]",
    "an array of a composite": "plain[]",
    "a composite of an enum": "moody",
    "an object's number": "regclass",
    "a range of composites": "plains",
    "no binary form": "aclitem",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_the_migration(databases: tuple[Database, Database], name: str) -> None:
    """A type whose binary form holds numbers of types of the database is refused by name."""
    run(
        databases[0],
        "DROP TYPE IF EXISTS moody, plains",
        "CREATE TYPE moody AS (a integer, m mood)",
        "CREATE TYPE plains AS RANGE (subtype = moody)",
    )
    with pytest.raises(sa.exc.DBAPIError) as caught:
        begin(databases[0], {"x": Raw(REFUSED[name])})
    assert f"of {REFUSED[name]} is not the same in every database" in str(caught.value)
    assert "Store it by columns=[...], or leave it out." in str(caught.value)


@pytest.mark.parametrize("kind", [pg.ARRAY(MOOD), pg.ARRAY(WORD), pg.REGCLASS()], ids=str)
def test_refused_by_the_declaration(kind: Any) -> None:
    """What the model tells already is refused there."""
    with pytest.raises(DeclarationError) as caught:
        table({"x": kind})
    assert "column 'x' of 'thing'" in str(caught.value)
    assert "store the column, or exclude it" in str(caught.value)


def test_restoring_compares_hashes(database: Database) -> None:
    """A row whose hashed value is as recorded can be restored, from a session in UTF-8."""
    run(database, *CREATE)
    thing = sa.Table(
        "thing",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("secret", sa.Text),
        sa.Column("n", sa.Integer),
    )
    audit_table(thing, hash_columns=["secret"])
    thing.metadata.create_all(database.engine)
    run(database, "INSERT INTO thing VALUES (1, 'Zoë', 1)", "UPDATE thing SET n = 2")
    with Session(database.engine) as session:
        session.execute(sa.text("SET client_encoding = LATIN1"))
        with pytest.raises(RestoreError, match="connect with client_encoding=utf8"):
            restore(session, thing, 1, as_of=AuditId(1))
        session.rollback()
    with Session(database.engine) as session:
        restore(session, thing, 1, as_of=AuditId(1)).execute()
        assert (1, "Zoë", 1) == session.execute(sa.select(thing)).one()
        session.execute(sa.text("ALTER TABLE thing DISABLE TRIGGER ALL"))
        session.execute(sa.text("UPDATE thing SET secret = 'other'"))
        with pytest.raises(RestoreError, match="is not what record 3 says, in secret"):
            restore(session, thing, 1, as_of=AuditId(2))
