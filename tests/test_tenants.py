"""Many schemas: one migration for every tenant, and audited tables in several schemas."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.util import CommandError

from alembic_audit import audit_table
from alembic_audit.naming import quote
from tests.alembic_process import INI
from tests.catalogs import snapshot
from tests.conftest import Database
from tests.pages import blocks, read
from tests.project import TEMPLATE, Project

TENANTS = ("ann", "Ben %x", "cle")
Prepare = Callable[[sa.Connection, str], sa.Connection]


def by_search_path(connection: sa.Connection, tenant: str) -> sa.Connection:
    """As Alembic's cookbook has it."""
    connection.execute(sa.text(f"SET search_path TO {quote(tenant)}"))
    connection.commit()
    connection.dialect.default_schema_name = tenant
    return connection


def by_map(connection: sa.Connection, tenant: str) -> sa.Connection:
    """By schema_translate_map alone."""
    return connection.execution_options(schema_translate_map={None: tenant})


def by_both(connection: sa.Connection, tenant: str) -> sa.Connection:
    """By schema_translate_map, and by search_path too, which is where the inspector looks."""
    return by_map(by_search_path(connection, tenant), tenant)


def by_named_map(connection: sa.Connection, tenant: str) -> sa.Connection:
    """By a schema_translate_map of a name that only the models know."""
    return connection.execution_options(schema_translate_map={"tenant": tenant})


class Tenants:
    """A project whose migrations run for one tenant after the other."""

    def __init__(self, path: Path, database: Database, prepare: Prepare) -> None:
        self.project = Project(path, database)
        self.prepare = prepare
        for tenant in TENANTS:
            self.project.execute(f"CREATE SCHEMA {quote(tenant)}".replace("%", "%%"))

    def use(self, tenant: str) -> Project:
        """Return the project, set to run for a tenant."""
        # Alembic looks for its own table by search_path, unless it is told the schema. Told the
        # schema that is the default one, it takes its own table for one to drop.
        configure = {"version_table_schema": tenant} if self.prepare is by_map else {}
        prepare = partial(self.prepare, tenant=tenant)
        self.project.config.attributes.update(configure=configure, prepare=prepare)
        return self.project

    def objects(self) -> dict[str, set[tuple[str, str]]]:
        """Return kind and name of what is in each tenant's schema, beside Alembic's own table."""
        found: dict[str, set[tuple[str, str]]] = {tenant: set() for tenant in (*TENANTS, "public")}
        for kind, names in snapshot(self.project.engine).items():
            for name in names:
                schema, dot, rest = name.partition(".")
                if dot and not rest.startswith("alembic_version"):
                    found[schema].add((kind, rest))
        return found


def one(schema: str | None = None) -> sa.MetaData:
    metadata = sa.MetaData()
    account = sa.Table(
        "account", metadata, sa.Column("id", sa.Integer, primary_key=True), schema=schema
    )
    audit_table(account, session_settings=[sa.Column("username", sa.Text)])
    return metadata


def two(schema: str | None = None) -> sa.MetaData:
    metadata = sa.MetaData()
    account = sa.Table(
        "account",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.Text),
        schema=schema,
    )
    audit_table(account, session_settings=[sa.Column("username", sa.Text)])
    return metadata


@pytest.fixture
def tenants(request: pytest.FixtureRequest, tmp_path: Path, database: Database) -> Iterator[Any]:
    made = Tenants(tmp_path, database, request.param)
    yield made
    made.project.engine.dispose()


@pytest.mark.parametrize("tenants", [by_search_path, by_both], indirect=True)
def test_one_migration_for_three_tenants(tenants: Tenants) -> None:
    """Up, change, down: each tenant's records are in its own trail, check is clean in each."""
    project = tenants.use(TENANTS[0])
    text = project.revision(one())
    assert "schema" not in text
    for tenant in TENANTS:
        project = tenants.use(tenant)
        project.upgrade()
    for tenant in TENANTS:
        tenants.use(tenant).check(one())
    first, *others = (tenants.objects()[tenant] for tenant in TENANTS)
    assert ("functions", "public_account_audit()") in first
    assert ("triggers", "account.00_audit_account_update") in first
    assert others == [first, first]
    assert set() == tenants.objects()["public"]

    for tenant in TENANTS:
        table = f"{quote(tenant)}.account".replace("%", "%%")
        for number in range(len(tenant)):
            project.execute(f"INSERT INTO {table} VALUES ({number})")
    project = tenants.use(TENANTS[1])
    text = project.revision(two())
    assert "replace_audit_trigger" in text
    assert "schema" not in text
    for tenant in TENANTS:
        tenants.use(tenant).upgrade()
    for tenant in TENANTS:
        tenants.use(tenant).check(two())
        table = f"{quote(tenant)}.account".replace("%", "%%")
        project.execute(f"UPDATE {table} SET email = 'x' WHERE id = 0")
        trail = f"{quote(tenant)}.account_audit".replace("%", "%%")
        assert [
            *(("I", number, None) for number in range(len(tenant))),
            ("U", 0, "x"),
        ] == project.rows(f"SELECT audit_operation, id, email FROM {trail} ORDER BY audit_id")

    for tenant in TENANTS:
        tenants.use(tenant).downgrade("-1")
    again, *others = (tenants.objects()[tenant] for tenant in TENANTS)
    # The column of the audit table holds an address and is kept.
    assert first | {("columns", "account_audit.email")} == again
    assert others == [again, again]


@pytest.mark.parametrize("tenants", [by_search_path, by_both], indirect=True)
def test_drift_of_one_tenant_is_that_tenants(tenants: Tenants) -> None:
    """What was edited by hand in one schema is a diff there and nowhere else."""
    tenants.use(TENANTS[0]).revision(one())
    for tenant in TENANTS:
        tenants.use(tenant).upgrade()
    table = f"{quote(TENANTS[1])}.account".replace("%", "%%")
    tenants.project.execute(f'ALTER TABLE {table} DISABLE TRIGGER "00_audit_account_update"')
    for tenant in (TENANTS[0], TENANTS[2]):
        tenants.use(tenant).check(one())
    with pytest.raises(CommandError, match=r'on "Ben %x"\."account" is in state DISABLE'):
        tenants.use(TENANTS[1]).check(one())


@pytest.mark.parametrize("tenants", [by_map], indirect=True)
def test_schema_translate_map_there_and_back(tenants: Tenants) -> None:
    """A migration generated elsewhere serves each tenant, whose records are in its own trail."""
    tenants.prepare = lambda connection, tenant: connection
    tenants.use("public").revision(one())
    tenants.prepare = by_map
    empty = tenants.objects()
    for tenant in TENANTS:
        tenants.use(tenant).upgrade()
    made = tenants.objects()
    assert ("triggers", "account.00_audit_account_update") in made[TENANTS[0]]
    assert made[TENANTS[0]] == made[TENANTS[1]] == made[TENANTS[2]]
    for tenant in TENANTS:
        table = f"{quote(tenant)}.account".replace("%", "%%")
        tenants.project.execute(f"INSERT INTO {table} VALUES ({len(tenant)})")
        trail = f"{quote(tenant)}.account_audit".replace("%", "%%")
        assert [("I", len(tenant))] == tenants.project.rows(
            f"SELECT audit_operation, id FROM {trail}"
        )
        tenants.project.execute(f"TRUNCATE {trail}")
    for tenant in TENANTS:
        tenants.use(tenant).downgrade("base")
    assert empty == tenants.objects()


def plain(schema: str | None = None) -> sa.MetaData:
    """The same table without an audit."""
    metadata = sa.MetaData()
    sa.Table("account", metadata, sa.Column("id", sa.Integer, primary_key=True), schema=schema)
    return metadata


@pytest.mark.parametrize("tenants", [by_map], indirect=True)
@pytest.mark.parametrize(
    "models",
    [
        plain,
        pytest.param(
            one,
            marks=pytest.mark.xfail(
                strict=True,
                raises=CommandError,
                reason="alembic check sees no table through a schema_translate_map, audited or "
                "not: SQLAlchemy's inspector goes by search_path; set that too, as by_both does",
            ),
        ),
    ],
)
def test_check_by_schema_translate_map(tenants: Tenants, models: Callable[[], sa.MetaData]) -> None:
    """By schema_translate_map alone `alembic check` finds nothing, which is Alembic's own limit."""
    tenants.prepare = lambda connection, tenant: connection
    tenants.use("public").revision(models())
    tenants.prepare = by_map
    project = tenants.use(TENANTS[0])
    project.upgrade()
    if models is plain:
        with pytest.raises(CommandError, match="New upgrade operations detected"):
            project.check(models())
    else:
        project.check(models())


@pytest.mark.parametrize("tenants", [by_named_map], indirect=True)
@pytest.mark.parametrize(
    "models",
    [
        plain,
        one,
    ],
)
def test_schema_translate_map_of_a_named_schema(
    tenants: Tenants, models: Callable[..., sa.MetaData]
) -> None:
    """Models in the schema "tenant", which the map makes another one for each tenant."""
    project = tenants.project
    project.execute("CREATE SCHEMA tenant")
    project.config.attributes["configure"] = {"include_schemas": True}
    assert "'tenant'" in project.revision(models("tenant"))
    project.execute("DROP SCHEMA tenant")
    for tenant in TENANTS:
        project.config.attributes.update(
            configure={"version_table_schema": tenant},
            prepare=partial(by_named_map, tenant=tenant),
        )
        project.upgrade()
    objects = tenants.objects()
    assert ("relations", "account") in objects[TENANTS[0]]
    assert objects[TENANTS[0]] == objects[TENANTS[1]] == objects[TENANTS[2]]


@pytest.mark.parametrize("declared", ["meta", "public", None])
def test_version_table_schema(tmp_path: Path, database: Database, declared: str | None) -> None:
    """Alembic's own table may be in another schema; it is never taken for one of ours."""
    project = Project(tmp_path, database, version_table_schema="meta", include_schemas=True)
    project.execute("CREATE SCHEMA meta")
    metadata = one(declared)
    empty = snapshot(project.engine)
    text = project.migrate(metadata)
    assert "alembic_version" not in text
    assert [(1,)] == project.rows("SELECT count(*) FROM meta.alembic_version")
    place = declared or "public"
    project.execute(f"INSERT INTO {place}.account VALUES (1)")
    assert [("I", 1)] == project.rows(f"SELECT audit_operation, id FROM {place}.account_audit")
    project.execute(f"TRUNCATE {place}.account_audit")
    project.downgrade("base")
    after = snapshot(project.engine)
    for kind in ("relations", "columns", "constraints", "indexes"):
        for name in [name for name in after[kind] if name.startswith("meta.alembic_version")]:
            del after[kind][name]
    assert empty == after
    project.engine.dispose()


def several() -> sa.MetaData:
    """One name in three schemas, one of them the default schema."""
    metadata = sa.MetaData()
    for schema in (None, "public", "other"):
        table = sa.Table(
            "account", metadata, sa.Column("id", sa.Integer, primary_key=True), schema=schema
        )
        audit_table(table)
    return metadata


def test_one_name_in_several_schemas(tmp_path: Path, database: Database) -> None:
    """The default schema, which is not public, and public, and another one: three trails."""
    with database.engine.begin() as connection:
        for name in ("app", "other"):
            connection.exec_driver_sql(f"CREATE SCHEMA {name}")
        connection.exec_driver_sql(f'ALTER DATABASE "{database.name}" SET search_path = app')
    database.engine.dispose()
    project = Project(tmp_path, database, include_schemas=True)
    empty = snapshot(project.engine)
    project.migrate(several())
    schemas = ("app", "public", "other")
    for number, schema in enumerate(schemas):
        project.execute(f"INSERT INTO {schema}.account VALUES ({number})")
    for number, schema in enumerate(schemas):
        assert [(number,)] == project.rows(f"SELECT id FROM {schema}.account_audit")
        project.execute(f"TRUNCATE {schema}.account_audit")
    project.downgrade("base")
    assert empty == snapshot(project.engine)
    project.engine.dispose()


CONVENTION = {
    "audit.table": "%(source_schema)s_%(table_name)s_audit",
    "audit.function": "%(source_schema)s_%(table_name)s_audit",
}


def two_schemas(naming_convention: dict[str, str] | None = None) -> sa.MetaData:
    metadata = sa.MetaData(naming_convention=naming_convention)
    for schema in ("sales", "other"):
        sa.Table(
            "account",
            metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            schema=schema,
            info={"audit.options": {"enabled": True, "schema_name": "history"}},
        )
    return metadata


def test_one_name_in_two_schemas_with_one_audit_schema(tmp_path: Path, database: Database) -> None:
    """It is refused with the way out before anything changed, and the way out works."""
    with database.engine.begin() as connection:
        for name in ("sales", "other", "history"):
            connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    project = Project(tmp_path, database, include_schemas=True)
    with pytest.raises(CommandError) as caught:
        project.revision(two_schemas())
    assert (
        "the audit table of 'other.account' would be 'history.account_audit', which is the audit "
        "table of 'sales.account' already; give one of them another schema_name, or write a naming "
        "convention 'audit.table' that tells them apart"
    ) == str(caught.value)
    assert [] == list((tmp_path / "versions").glob("*.py"))

    with pytest.raises(CommandError) as caught:
        project.revision(two_schemas({"audit.table": CONVENTION["audit.table"]}))
    assert (
        "the audit functions of 'other.account' and 'sales.account' would both be "
        "'history_account_audit'; write a naming convention 'audit.function' that tells them apart"
    ) == str(caught.value)

    project.migrate(two_schemas(CONVENTION))
    project.execute("INSERT INTO sales.account VALUES (1)", "INSERT INTO other.account VALUES (2)")
    assert [(1,)] == project.rows("SELECT id FROM history.sales_account_audit")
    assert [(2,)] == project.rows("SELECT id FROM history.other_account_audit")
    project.engine.dispose()


MODELS = """
from alembic_audit import audited
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


@audited()
class Account(Base):
    __tablename__ = "account"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
"""


@pytest.mark.parametrize("by", ["search_path", "schema_translate_map"])
def test_the_page(by: str, tmp_path: Path, database: Database) -> None:
    """The env.py and the commands of the page, for tenants that are there and for a new one."""
    page = read("tenants.md")
    env = blocks(page, "python", "search_path")[0].text
    if by == "schema_translate_map":
        before, configure, after = env.partition("    context.configure(")
        env = before + blocks(page, "python", by)[0].text + configure + after
    (tmp_path / "versions").mkdir()
    for name, text in {
        "alembic.ini": INI.replace("path_separator", "prepend_sys_path = %(here)s\npath_separator"),
        "script.py.mako": TEMPLATE,
        "env.py": env,
        "models.py": MODELS,
    }.items():
        (tmp_path / name).write_text(text)
    with database.engine.begin() as connection:
        for tenant in ("ann", "ben"):
            connection.exec_driver_sql(f"CREATE SCHEMA {tenant}")

    def run(command: str) -> str:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        url = database.url().render_as_string(hide_password=False)
        environ = {**os.environ, "DATABASE_URL": url, "PATH": path}
        done = subprocess.run(
            ["sh", "-ec", command],
            check=False,
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    for command, _ in blocks(page, "console", "commands")[0].examples():
        printed = run(command)
    assert 2 * "No new upgrade operations detected.\n" == printed
    [version] = (tmp_path / "versions").glob("*.py")
    assert "alembic_version" not in version.read_text()
    assert "schema" not in version.read_text()
    with database.engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA carl")
    run("alembic -x tenant=carl upgrade head && alembic -x tenant=carl check")

    with database.engine.begin() as connection:
        for number, tenant in enumerate(("ann", "ben", "carl")):
            connection.exec_driver_sql(f"INSERT INTO {tenant}.account VALUES ({number}, 'x')")
        for number, tenant in enumerate(("ann", "ben", "carl")):
            trail = f"SELECT id FROM {tenant}.account_audit"
            assert [(number,)] == connection.exec_driver_sql(trail).all()
            assert connection.dialect.has_table(connection, "alembic_version", schema=tenant)
        assert not connection.dialect.has_table(connection, "alembic_version", schema="public")


def test_version_table_schema_of_the_default_schema(tmp_path: Path, database: Database) -> None:
    """Why the page says to leave it out: Alembic takes its own table for one to drop."""
    tenants = Tenants(tmp_path, database, by_search_path)
    project = tenants.use("ann")
    project.migrate(one())
    project.config.attributes["configure"] = {"version_table_schema": "ann"}
    assert "op.drop_table('alembic_version')" in project.revision(one())
    project.engine.dispose()
