"""Every name that PostgreSQL can hold works, online and by `--sql`; what it cannot is refused."""

import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql as pg

from alembic_audit import DeclarationError, SpecError
from alembic_audit.naming import literal, quote
from alembic_audit.spec import AuditSpec
from alembic_audit.sql import v1
from alembic_audit.tables import derive
from tests import rounds
from tests.catalogs import snapshot
from tests.conftest import Database
from tests.project import Project
from tests.test_autogenerate import psql
from tools import postgres

NAMES = [
    "user", "order", "2fa", "my table", "my-table", "a%b", "%s", "%(x)s", "a:b", ":x", "::text",
    "a.b", "Foo", "foo", "žluť", 'a"b', '"', "a'b", "$audit$", "$1", "\\", "\\n", "{x}", "--",
    "/*", "a;b", " ", "🐘", "new", "old", "NEW", "table", "select", "x" * 62, "y" * 63, "ž" * 31,
]  # fmt: skip
"""Names of anything."""

# plpgsql's pl_reserved_kwlist.h, pl_unreserved_kwlist.h, and the variables of its triggers.
PLPGSQL = re.findall(
    r"\w+",
    """
    all begin by case declare else end execute for foreach from if in into loop not null or strict
    then to using when while absolute alias and array assert backward call chain close collate
    column column_name commit constant constraint constraint_name continue current cursor datatype
    debug default detail diagnostics do dump elseif elsif errcode error exception exit fetch first
    forward get hint import info insert is last log merge message message_text move next no notice
    open option perform pg_context pg_datatype_name pg_exception_context pg_exception_detail
    pg_exception_hint pg_routine_oid print_strict_params prior query raise relative return
    returned_sqlstate reverse rollback row_count rowtype schema schema_name scroll slice sqlstate
    stacked table table_name type use_column use_variable variable_conflict warning
    new old found sqlerrm tg_op tg_name tg_when tg_level tg_relid tg_relname tg_table_name
    tg_table_schema tg_nargs tg_argv tg_event tg_tag audit_user audit_time audit_setting
    audit_setting_1 audit_setting_2 _
    """,
)


def audited(
    metadata: sa.MetaData, name: str, *columns: str, schema: str | None = None, **options: Any
) -> sa.Table:
    """Return an audited table; its first column is the key."""
    key, *others = columns
    return sa.Table(
        name,
        metadata,
        sa.Column(key, sa.Text, primary_key=True),
        *(sa.Column(column, sa.Text) for column in others),
        schema=schema,
        info={"audit.options": {"enabled": True, **options}},
    )


def hostile() -> sa.MetaData:
    """Return models with a table for each name, its key called so too."""
    metadata = sa.MetaData()
    for name, other in zip(NAMES, [*NAMES[1:], NAMES[0]], strict=True):
        audited(metadata, name, name, other, "n", ignore_columns=[other], changed_columns=True)
    return metadata


def write_and_compare(project: Project, tables: list[sa.Table]) -> None:
    """Insert and update a row of each table; see that records and rows are equal."""
    with project.engine.begin() as connection:
        for table in tables:
            name = rounds.qualify(table.schema or "public", table.name)
            first, *others = [literal(column.name) for column in table.columns]
            values = ", ".join([first, *others])
            changes = ", ".join(f"{quote(c.name)} = 'new'" for c in [*table.columns][1:])
            for statement in (
                f"INSERT INTO {name} VALUES ({values})",
                f"UPDATE {name} SET {changes}",
            ):
                connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
                assert [] == rounds.differences(connection, table, statement[0])


def source_tables(metadata: sa.MetaData) -> list[sa.Table]:
    return [table for table in metadata.tables.values() if "audit.options" in table.info]


def test_tables_and_columns(tmp_path: Path, database: Database, driver: str) -> None:
    """A table, its key and its columns may have any name."""
    project = Project(tmp_path, database, driver)
    metadata = hostile()
    if driver == "psycopg2":
        rounds.migrate(project, metadata)
    else:
        project.migrate(metadata)
    write_and_compare(project, source_tables(metadata))


def test_offline(
    tmp_path: Path, server: postgres.Server, database: Database, twin: Database
) -> None:
    """What --sql writes for these names, run by psql, makes the same database, up and down."""
    project = Project(tmp_path, database)
    before = snapshot(database.engine)
    project.migrate(hostile())

    psql(server, twin, tmp_path / "up.sql", project.sql("upgrade", "head"))
    assert snapshot(database.engine) == snapshot(twin.engine)

    psql(server, twin, tmp_path / "down.sql", project.sql("downgrade", "0001:base"))
    assert before == snapshot(twin.engine)


SCHEMAS = [
    "user",
    "2fa",
    "%(x)s",
    "a:b",
    "a.b",
    "Foo",
    'a"b',
    "a'b",
    "$audit$",
    "\\",
    "ž" * 31,
    "new",
]


def schemas(names: list[str]) -> sa.MetaData:
    """Return models with two tables in each schema; the second's trail is in the next one."""
    metadata = sa.MetaData()
    for name, following in zip(names, [*names[1:], names[0]], strict=True):
        audited(metadata, "account", "id", "email", schema=name)
        audited(metadata, name, "id", "email", schema=name, schema_name=following)
    return metadata


def test_schemas(
    tmp_path: Path, server: postgres.Server, database: Database, twin: Database
) -> None:
    """Schemas of tables and of trails may have any name, online and offline."""
    project = Project(tmp_path, database, include_schemas=True)
    create = [f"CREATE SCHEMA {quote(name)}".replace("%", "%%") for name in SCHEMAS]
    project.execute(*create)
    metadata = schemas(SCHEMAS)
    rounds.migrate(project, metadata)

    with twin.engine.begin() as connection:
        for statement in create:
            connection.exec_driver_sql(statement)
    psql(server, twin, tmp_path / "up.sql", project.sql("upgrade", "head"))
    assert snapshot(database.engine) == snapshot(twin.engine)

    write_and_compare(project, source_tables(metadata))


# No names of signs alone and no regular expressions: Alembic cannot compare or render those.
ENUMS = ["user", "order", "2fa", "my table", "my-table", "a%b", "a:b", "a.b", "Foo", "foo", "žluť",
         'a"b', "a'b", "a;b", "{x}", "new", "old", "table", "x" * 62, "y" * 63]  # fmt: skip


@pytest.mark.parametrize("style", ["standard", "classic"])
def test_enums_and_domains(tmp_path: Path, database: Database, style: str) -> None:
    """Enums, their labels, and domains may have any name; so may the schema they are in."""
    project = Project(tmp_path, database)
    metadata = sa.MetaData()
    project.execute('CREATE SCHEMA "a%%b"')
    columns: list[sa.Column[Any]] = []
    for number, name in enumerate(ENUMS):
        schema = "a%b" if number % 2 else None
        enum = pg.ENUM(name, "other", name=name, schema=schema)
        columns += [
            sa.Column(f"e{number}", enum),
            sa.Column(f"d{number}", pg.DOMAIN(f"d{name}"[:31], sa.Text, schema=schema)),
            sa.Column(f"a{number}", pg.ARRAY(enum)),
        ]
    every = sa.Table(
        "every",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        *columns,
        info={"audit.options": {"enabled": True, "audit_columns": style}},
    )
    project.migrate(metadata)
    arrays = ['{"' + name.replace('"', '\\"') + '"}' for name in ENUMS]
    values = ", ".join(
        ", ".join(map(literal, (name, name, array)))
        for name, array in zip(ENUMS, arrays, strict=True)
    )
    with project.engine.begin() as connection:
        connection.exec_driver_sql(
            f"INSERT INTO every VALUES (1, {values})", execution_options={"no_parameters": True}
        )
        assert [] == rounds.differences(connection, every, "I")


def keywords(project: Project) -> list[str]:
    """Return every keyword of SQL and PL/pgSQL, and every name that is a variable in a trigger.

    Without the reserved words that SQLAlchemy does not quote: it cannot create such a column.
    """
    [(words,)] = project.rows("SELECT array_agg(word::text) FROM pg_get_keywords()")
    [(reserved,)] = project.rows(
        "SELECT array_agg(word::text) FROM pg_get_keywords() WHERE catcode IN ('R', 'T')"
    )
    unquoted = set(reserved) - pg.base.RESERVED_WORDS
    return sorted({*words, *PLPGSQL} - unquoted)


@pytest.mark.parametrize("style", ["standard", "classic"])
def test_keywords(tmp_path: Path, database: Database, style: str) -> None:
    """A column may be called as any keyword or variable of the function, whatever is recorded."""
    project = Project(tmp_path, database)
    words = keywords(project)
    every = audited(
        sa.MetaData(),
        "every",
        *words,
        audit_columns=style,
        ignore_columns=["new", "old", "audit_user"],
        changed_columns=True,
        skip_unchanged=True,
        session_settings=[sa.Column("who", sa.Text)],
    )
    rounds.migrate(project, every.metadata)
    write_and_compare(project, [every])
    assert [([word for word in words[1:] if word != "new"],)] == project.rows(
        "SELECT audit_changed_columns FROM every_audit WHERE audit_operation = 'U'"
    )


def test_variables_in_the_template() -> None:
    """The names above hold every variable that the template declares."""
    spec = AuditSpec.from_kwargs(
        "t", columns=["a"], session_settings={"a": "required", "b": "nullable"}
    )
    lines = v1.body(spec, '"public"."t"', '"public"."t_audit"', []).splitlines()
    declared = lines[lines.index("DECLARE") + 1 : lines.index("BEGIN")]
    assert declared
    assert {line.split()[0] for line in declared} <= set(PLPGSQL)


def test_hashed_keywords(tmp_path: Path, database: Database) -> None:
    """Hashed columns may have such names too, and keep their values apart."""
    project = Project(tmp_path, database)
    every = audited(sa.MetaData(), "every", "id", *PLPGSQL, hash_columns=PLPGSQL)
    rounds.migrate(project, every.metadata)
    values = ", ".join(literal(word) for word in PLPGSQL)
    project.execute(f"INSERT INTO every VALUES ('1', {values})")
    tests = " AND ".join(
        f"{quote(word + '_sha256')} = sha256(convert_to({literal(word)}, 'UTF8'))"
        for word in PLPGSQL
    )
    assert [("I", True)] == project.rows(f"SELECT audit_operation, {tests} FROM every_audit")


@pytest.mark.parametrize("style", ["standard", "classic"])
def test_settings(tmp_path: Path, database: Database, style: str) -> None:
    """A setting may be called as any keyword or variable of the function, or be 57 long."""
    project = Project(tmp_path, database)
    # audit_current_user is a column of our own.
    names = [*(word for word in keywords(project) if word != "current_user"), "z" * 57]
    every = audited(
        sa.MetaData(),
        "every",
        "the key",
        session_settings=[
            sa.Column(name, sa.Text, nullable=number % 2 == 0) for number, name in enumerate(names)
        ],
        audit_columns=style,
    )
    rounds.migrate(project, every.metadata)
    calls = ", ".join(f"set_config('audit.{name}', '{name}!', true)" for name in names)
    project.execute(f"SELECT {calls}", "INSERT INTO every VALUES ('1')")
    prefix = "" if style == "classic" else "audit_"
    selected = ", ".join(quote(prefix + name) for name in names)
    assert [tuple(f"{name}!" for name in names)] == project.rows(
        f"SELECT {selected} FROM every_audit"
    )


@pytest.mark.parametrize(
    "name",
    ["2fa", "my table", "my-table", "a%b", "a:b", "a.b", "žluť", 'a"b', "$audit$", "z" * 58],
)
def test_illegal_settings(name: str) -> None:
    """A setting that PostgreSQL may refuse is refused, by a sentence that says what to write."""
    every = audited(sa.MetaData(), "every", "id", session_settings=[sa.Column(name, sa.Text)])
    with pytest.raises(DeclarationError) as caught:
        derive(every)
    assert str(caught.value) == (
        f"table 'every' cannot be audited: session setting {name!r} cannot be read as "
        f"audit.{name}; write a name of at most 57 letters, digits and _ that begins with a letter "
        "or _"
    )


# -- too long ----------------------------------------------------------------------------------

LONG = ["x" * 64, "ž" * 32, "y" * 300]


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize(
    ("what", "kwargs"),
    [
        ("the audited table", {"name": None}),
        ("columns", {"columns": ["id", None]}),
        ("hash_columns", {"columns": ["id", None], "hash_columns": [None]}),
        ("schema", {"schema": None}),
        ("audit_schema", {"schema_name": None}),
    ],
)
def test_too_long(name: str, what: str, kwargs: dict[str, Any]) -> None:
    """Over 63 bytes, which PostgreSQL would cut, a name is refused where it is declared."""

    def fill(value: Any) -> Any:
        if isinstance(value, list):
            return [fill(one) for one in value]
        return name if value is None else value

    filled = {key: fill(value) for key, value in kwargs.items()}
    columns = filled.pop("columns", ["id"])
    every = audited(sa.MetaData(), filled.pop("name", "every"), *columns, **filled)
    with pytest.raises(DeclarationError) as caught:
        derive(every)
    assert f"cannot be audited: {what} {name!r} has {len(name.encode())} bytes, of which " in str(
        caught.value
    )
    assert str(caught.value).endswith("PostgreSQL keeps 63; write a shorter name")


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize(
    "argument", ["audit_table", "audit_schema", "function", "trigger", "setting_columns"]
)
def test_too_long_by_hand(name: str, argument: str) -> None:
    """The same in an operation that was written by hand."""
    value: Any = {"who": name} if argument == "setting_columns" else name
    kwargs: Any = {argument: value, "session_settings": {"who": "nullable"}}
    with pytest.raises(SpecError, match=r"PostgreSQL keeps 63; write a shorter name"):
        AuditSpec.from_kwargs("account", columns=["id"], **kwargs)


def test_too_long_but_excluded() -> None:
    """A column that is not stored is nothing of ours."""
    made = derive(audited(sa.MetaData(), "every", "id", LONG[0], exclude_columns=[LONG[0]]))
    assert made is not None
    assert LONG[0] not in made.columns


@pytest.mark.parametrize("name", ["a\nb", "\x7f", "\ud800"])
def test_no_name(name: str) -> None:
    """A control character and a lone surrogate are refused."""
    with pytest.raises(DeclarationError, match="cannot be audited: columns"):
        derive(audited(sa.MetaData(), "every", "id", name))


# -- any name ----------------------------------------------------------------------------------

any_name = (
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20)
    | st.text(st.sampled_from("\"'%:$\\{}.; -/*aA_?@"), min_size=1, max_size=12)
    | st.sampled_from(NAMES)
).filter(lambda name: len(name.encode()) <= 63 and not name.startswith("audit_"))


@settings(deadline=None, max_examples=4, phases=[Phase.generate])
@given(
    st.dictionaries(
        any_name, st.lists(any_name, min_size=2, max_size=4, unique=True), min_size=3, max_size=6
    )
)
def test_any_name(
    shared_database: Database,
    tmp_path_factory: pytest.TempPathFactory,
    server: postgres.Server,
    tables: dict[str, list[str]],
) -> None:
    """The whole way of tables and columns with any names."""
    path = tmp_path_factory.mktemp("names")
    project = Project(path, shared_database)
    before = snapshot(project.engine)
    metadata = sa.MetaData()
    for name, columns in tables.items():
        audited(metadata, name, *columns, ignore_columns=columns[1:2] if columns[2:] else [])
    rounds.migrate(project, metadata)
    write_and_compare(project, source_tables(metadata))
    trails = set(metadata.tables.values()) - set(source_tables(metadata))
    project.execute(*(f"DELETE FROM {quote(table.name)}".replace("%", "%%") for table in trails))
    project.downgrade("base")
    assert before == snapshot(project.engine)
