"""Trails that end, tables that are renamed, and names that change."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.util import CommandError

from tests.conftest import Database
from tests.journey import BothWays, Journey, Models, history, still_recorded
from tests.project import Project
from tests.test_changes import INSERT, MOVED, ON, UPDATE, account
from tests.test_columns import body

CONVENTION = {
    "pk": "pk_%(table_name)s",
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
}
LONG = "a_table_whose_name_is_so_long_that_its_key_has_a_shorter_one"
LONGER = f"b{LONG}"


def named(*names: str, schema: str | None = None, **options: Any) -> Models:
    """Return what makes these tables, each with a key, an index and a foreign key to a zone."""

    def make() -> sa.MetaData:
        metadata = sa.MetaData(naming_convention=CONVENTION)
        sa.Table("zone", metadata, sa.Column("id", sa.Integer, primary_key=True), schema=schema)
        zone = f"{schema}.zone.id" if schema else "zone.id"
        for name in names:
            sa.Table(
                name,
                metadata,
                sa.Column("id", sa.Integer, primary_key=True),
                sa.Column("email", sa.Text, index=True),
                sa.Column("zone_id", sa.ForeignKey(zone)),
                schema=schema,
                info={"audit.options": {**ON, **options}},
            )
        return metadata

    return make


def plain(name: str, key: str | None = None, naming: dict[str, str] | None = None) -> Models:
    def make() -> sa.MetaData:
        metadata = sa.MetaData(naming_convention=naming or {})
        sa.Table(
            name,
            metadata,
            sa.Column("id", sa.Integer),
            sa.Column("email", sa.Text),
            sa.PrimaryKeyConstraint("id", name=key),
            info={"audit.options": ON},
        )
        return metadata

    return make


def rename(old: str, new: str, columns: str = "['id', 'email']", more: str = "") -> str:
    given = f"key=['id'], columns={columns}, level='statement'{more}"
    return f"op.rename_audited_table('{old}', '{new}', {given})"


NAMES = {
    "audit.table": "history_of_%(table_name)s",
    "audit.function": "record_%(table_name)s",
    "audit.trigger": "00_%(table_name)s",
}


def own(name: str, former: str) -> str:
    """Return the arguments for names by NAMES, and what they were."""
    names, before = (
        {
            "audit_table": f"history_of_{one}",
            "function": f"record_{one}",
            "trigger": f"00_{one}",
        }
        for one in (name, former)
    )
    return "".join(f", {key}={value!r}" for key, value in names.items()) + f", replaces={before}"


def renames(
    old: str, new: str, *, columns: str = "['id', 'email']", up: str = "", down: str = ""
) -> Callable[[str], str]:
    return body(rename(old, new, columns, up), rename(new, old, columns, down))


def moved(old: str, new: str) -> dict[str, Any]:
    write = "INSERT INTO {0} (id, email) VALUES ({1}, 'a@x')".format
    return {
        "writes_before": (write(old, 1),),
        "writes_after": (write(new, 2),),
        "writes_back": (write(old, 3),),
    }


JOURNEYS = [
    Journey(
        "stop_one",
        account(others=plain("other")),
        account(audited=False, others=plain("other")),
        writes_before=(INSERT, "INSERT INTO other VALUES (1)"),
        writes_after=("UPDATE other SET email = 'b'",),
        writes_back=(UPDATE,),
    ),
    Journey(
        "rename_table",
        named("account", schema="app", schema_name="log"),
        named("customer", schema="app", schema_name="log"),
        setup=("CREATE SCHEMA app", "CREATE SCHEMA log"),
        configure={"include_schemas": True},
        edit=renames(
            "account",
            "customer",
            columns="['id', 'email', 'zone_id']",
            up=", schema='app', audit_schema='log'",
            down=", schema='app', audit_schema='log'",
        ),
        **moved("app.account", "app.customer"),
    ),
    Journey(
        "rename_long",
        plain(LONG),
        plain(LONGER),
        edit=renames(LONG, LONGER),
        **moved(LONG, LONGER),
    ),
    Journey(
        "rename_with_names",
        plain("account", "the_key", NAMES),
        plain("customer", "the_key", NAMES),
        edit=renames(
            "account", "customer", up=own("customer", "account"), down=own("account", "customer")
        ),
        **moved("account", "customer"),
    ),
]
JOURNEYS.append(
    Journey(
        "move_to_standard",
        account(audit_columns="classic"),
        account(naming=NAMES, schema_name="aside"),
        configure={"include_schemas": True},
        keeps=True,
        **MOVED,
    )
)


@pytest.mark.parametrize("journey", JOURNEYS, ids=str)
class TestJourneys(BothWays):
    """Each journey, there and back, and the same by --sql."""


@pytest.mark.parametrize(
    ("naming", "options", "place"),
    [
        ({"audit.table": "%(table_name)s_history"}, {}, "public.account_history"),
        ({}, {"schema_name": "aside"}, "aside.account_audit"),
    ],
)
def test_where_a_table_is(
    tmp_path: Path, database: Database, naming: dict[str, str], options: dict[str, Any], place: str
) -> None:
    """A trail does not move to where a table is already, whatever that holds."""
    project = Project(tmp_path, database, include_schemas=True)
    project.migrate(account()())
    project.execute(INSERT, "CREATE SCHEMA aside", f"CREATE TABLE {place} (id integer)")

    message = (
        f"the trail of 'account' would move from public.account_audit to {place}, where there is "
        "a table already; rename or drop that one by hand, or give the audit table another name"
    )
    with pytest.raises(CommandError, match=re.escape(message)):
        project.revision(account(naming=naming, **options)())


def test_a_filtered_audit_table(tmp_path: Path, database: Database) -> None:
    """A trail whose audit table a filter hides does not move; both places are named."""

    def only_declared(_object: Any, name: str | None, kind: str, reflected: bool, to: Any) -> bool:
        return kind != "table" or not reflected or to is not None

    project = Project(tmp_path, database, include_schemas=True, include_object=only_declared)
    project.migrate(account()())

    message = (
        "the trail of 'account' would move from public.account_audit to aside.account_audit, and "
        "autogenerate does not look at the former; let include_object, include_name and "
        "include_schemas admit it"
    )
    with pytest.raises(CommandError, match=re.escape(message)):
        project.revision(account(schema_name="aside")())


def test_old_name_again(tmp_path: Path, database: Database) -> None:
    """A new table may be called as the renamed one was; each has its own trail."""
    project = Project(tmp_path, database)
    project.migrate(named("account")())
    project.execute("INSERT INTO account VALUES (1, 'old')")
    project.revision(named("customer")())
    project.edit(renames("account", "customer", columns="['id', 'email', 'zone_id']"))
    project.upgrade()
    project.check(named("customer")())
    recorded = history(project)

    project.migrate(named("account", "customer")())
    project.downgrade("0001")
    still_recorded(recorded, project)
    assert [] == project.differences(named("account")())
    project.upgrade()
    project.execute("INSERT INTO account VALUES (1, 'new')", "UPDATE customer SET id = 2")

    assert [("I", 1, "new")] == project.rows("SELECT audit_operation, id, email FROM account_audit")
    assert [("I", 1, "old"), ("D", 1, "old"), ("U", 2, "old")] == project.rows(
        "SELECT audit_operation, id, email FROM customer_audit ORDER BY audit_id"
    )
    recorded = history(project)
    with pytest.raises(sa.exc.ProgrammingError, match='relation "account_audit" already exists'):
        project.downgrade("0001")  # the name belongs to the records of the newer table
    still_recorded(recorded, project)
