"""check_trails: a type that the audit column cannot hold does not commit, and the remedy works."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.util import CommandError
from sqlalchemy.dialects import postgresql

from tests.catalogs import snapshot
from tests.conftest import Database
from tests.project import Project

MOOD = postgresql.ENUM("glad", "sad", name="mood")
COLUMNS = {
    "n": sa.Integer(),
    "small": sa.SmallInteger(),
    "word": sa.String(10),
    "free": sa.Text(),
    "amount": sa.Numeric(8, 2),
    "day": sa.TIMESTAMP(timezone=True),
    "words": postgresql.ARRAY(sa.Text()),
    "mood": MOOD,
    "moods": postgresql.ARRAY(MOOD),
}


def models(**options: object) -> sa.MetaData:
    metadata = sa.MetaData()
    for schema, name in ((None, "account"), ("other", "page")):
        sa.Table(
            name,
            metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            *(sa.Column(column, kind) for column, kind in COLUMNS.items()),
            schema=schema,
            info={"audit.options": {"enabled": True, **options}},
        )
    return metadata


@pytest.fixture
def project(tmp_path: Path, database: Database) -> Project:
    made = Project(tmp_path, database, include_schemas=True)
    made.execute("CREATE SCHEMA other", "CREATE TYPE mood AS ENUM ('glad', 'sad')")
    MOOD.create_type = False
    made.migrate(models())
    return made


def alter(column: str, kind: str, table: str = "account") -> str:
    return (
        f'op.execute("ALTER TABLE {table} ALTER {column} TYPE {kind} USING {column}::text::{kind}")'
    )


REFUSED = {
    "int_to_text": ("n", "text", "INTEGER", "TEXT", "many"),
    "int_to_bigint": ("n", "bigint", "INTEGER", "BIGINT", "9000000000"),
    "smallint_to_int": ("small", "integer", "SMALLINT", "INTEGER", "70000"),
    "varchar_to_text": ("word", "text", "VARCHAR(10)", "TEXT", "more than ten letters"),
    "varchar_to_longer": ("word", "varchar(20)", "VARCHAR(10)", "VARCHAR(20)", "eleven more"),
    "numeric_to_more_digits": ("amount", "numeric(9,2)", "NUMERIC(8,2)", "NUMERIC(9,2)", "1234567"),
    "numeric_to_finer": ("amount", "numeric(8,3)", "NUMERIC(8,2)", "NUMERIC(8,3)", "1.234"),
    "numeric_to_any": ("amount", "numeric", "NUMERIC(8,2)", "NUMERIC", "1.234"),
    "int_to_smallint": ("n", "smallint", "INTEGER", "SMALLINT", "7"),
    "text_to_varchar": ("free", "varchar", "TEXT", "VARCHAR", "a"),
    "date_of_timestamp": ("day", "date", "TIMESTAMP(timezone=True)", "DATE", "2020-01-01"),
    "text_to_array": ("free", "text[]", "TEXT", "ARRAY(sa.TEXT())", "{a}"),
    "array_to_text": ("words", "text", "ARRAY(sa.TEXT())", "TEXT", "a"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_type_that_the_trail_cannot_hold(name: str, project: Project) -> None:
    """It is named with both types; the operation of the hint lets the migration commit."""
    column, kind, old, new, value = REFUSED[name]
    before = snapshot(project.engine)
    project.write(alter(column, kind))
    with pytest.raises(CommandError) as caught:
        project.upgrade()
    message = str(caught.value)
    stated = project.rows(
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attname = %(c)s"
        " AND attrelid = 'account_audit'::regclass".replace("%(c)s", f"'{column}'")
    )[0][0]
    assert f"column {column} of table public.account is " in message
    assert f", and {stated} in audit table public.account_audit" in message
    remedy = f'op.alter_audit_column("account_audit", "{column}", existing_type=..., type_=...)'
    assert remedy in message
    assert before == snapshot(project.engine)

    done = remedy.replace("...", f"sa.{old}", 1).replace("...", f"sa.{new}", 1)
    (written,) = project.path.glob("versions/*0002*")
    written.write_text(written.read_text().replace("def upgrade():", f"def upgrade():\n    {done}"))
    project.upgrade()
    project.execute(f"INSERT INTO account (id, {column}) VALUES (1, '{value}')")
    assert project.rows(f"SELECT {column} FROM account") == project.rows(
        f"SELECT {column} FROM account_audit"
    )


def test_every_column_of_every_table_is_named(project: Project) -> None:
    """One run names all, each with its own operation, schema included."""
    statements = [
        alter("n", "text"),
        alter("word", "text"),
        alter("small", "bigint", "other.page"),
    ]
    project.write("\n    ".join(statements))
    with pytest.raises(CommandError) as caught:
        project.upgrade()
    message, _, hint = str(caught.value).partition("\nHINT:")
    assert [
        "column n of table public.account is text, and integer in audit table public.account_audit",
        "column small of table other.page is bigint, and smallint in audit table other.page_audit",
        "column word of table public.account is text, and character varying(10) in audit table "
        "public.account_audit",
    ] == message.split("; ")
    for place in (
        '"account_audit", "n", ',
        '"account_audit", "word", ',
        '"page_audit", "small", schema="other", ',
    ):
        assert 1 == hint.count(f"op.alter_audit_column({place}existing_type=..., type_=...)")


ENUMS = [
    ("mood", "integer"),
    ("mood", "text"),
    ("moods", "int[]"),
    ("free", "mood"),
    ("free", "better_mood"),
    ("words", "mood[]"),
    ("words", "words[]"),
]


@pytest.mark.parametrize(("column", "kind"), ENUMS)
def test_an_enum_that_comes_or_goes(column: str, kind: str, project: Project) -> None:
    """The argument as_text of the trigger changes too, which autogenerate writes."""
    project.execute("CREATE DOMAIN better_mood AS mood", "CREATE DOMAIN words AS text")
    project.write(alter(column, kind))
    with pytest.raises(CommandError) as caught:
        project.upgrade()
    remedy = f"# public.account, column {column}: as_text of op.replace_audit_trigger changes too"
    assert remedy in str(caught.value)


def test_autogenerate_writes_both(project: Project) -> None:
    """The remedy for an enum that becomes text, done as it says."""
    metadata = models()
    for name in ("account", "other.page"):
        metadata.tables[name].c.mood.type = sa.Text()
    project.migrate(metadata)
    project.execute("INSERT INTO account (id, mood) VALUES (1, 'any')")
    assert [("any",)] == project.rows("SELECT mood FROM account_audit")


HELD = [
    ("word", "varchar(5)"),
    ("amount", "numeric(6,2)"),
    ("day", "timestamptz(3)"),
    ("free", "words"),
]


@pytest.mark.parametrize(("column", "kind"), HELD)
def test_what_the_trail_holds(column: str, kind: str, project: Project) -> None:
    """A shorter type, or a domain of the same base: recorded unaltered, so no error."""
    project.execute(
        "CREATE DOMAIN word AS text CHECK (VALUE <> 'x')",
        "CREATE DOMAIN words AS word NOT NULL DEFAULT 'y'",
        "CREATE DOMAIN better_mood AS mood",
    )
    project.write(alter(column, kind))
    project.upgrade()
    project.check_is_at("0002")
    project.execute("INSERT INTO account (id) VALUES (1)")
    assert [(1,)] == project.rows("SELECT id FROM account_audit")


@pytest.mark.parametrize("style", ["standard", "classic"])
def test_declared_types_are_held(style: str, tmp_path: Path, database: Database) -> None:
    """What the models derive passes in both layouts."""
    made = Project(tmp_path, database, include_schemas=True)
    made.execute("CREATE SCHEMA other", "CREATE TYPE mood AS ENUM ('glad', 'sad')")
    MOOD.create_type = False
    made.migrate(models(audit_columns=style))
    made.execute("INSERT INTO account (id, mood, moods) VALUES (1, 'sad', '{glad}')")
