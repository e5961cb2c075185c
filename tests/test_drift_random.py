"""Any sequence of changes by hand is mended by one migration and brought back by its downgrade."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.catalogs import snapshot
from tests.conftest import Database
from tests.journey import EMPTY
from tests.project import Project
from tests.test_drift import models, reader
from tools import postgres

__all__ = ["reader"]  # a fixture

Change = tuple[str, str]
"""SQL with $function for the function, and what a body is edited to hold."""

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "always": {"always": True, "session_settings": [sa.Column("who", sa.Text)]},
    "owner": {"owner": 'audit "reader"', "operations": ["insert", "truncate"]},
}
ROW, TRUNCATE = '"00_audit_account"', '"00_audit_account_truncate"'
STATEMENTS = [
    *(
        statement
        for name in (ROW, TRUNCATE)
        for statement in (
            f"DROP TRIGGER {name} ON account",
            f"ALTER TABLE account DISABLE TRIGGER {name}",
            f"ALTER TABLE account ENABLE REPLICA TRIGGER {name}",
            f"ALTER TABLE account ENABLE ALWAYS TRIGGER {name}",
            f"ALTER TABLE account ENABLE TRIGGER {name}",
            f'ALTER TRIGGER {name} ON account RENAME TO "Other\t1"',
        )
    ),
    f"CREATE OR REPLACE TRIGGER {ROW} AFTER UPDATE OF id ON account FOR EACH ROW"
    " WHEN (OLD.id = 1) EXECUTE FUNCTION $function()",
    "CREATE TRIGGER more AFTER DELETE ON account FOR EACH ROW EXECUTE FUNCTION $function()",
    "CREATE TRIGGER more AFTER INSERT ON other FOR EACH ROW EXECUTE FUNCTION $function()",
    "ALTER TABLE other DISABLE TRIGGER ALL",
    "ALTER FUNCTION $function SECURITY INVOKER",
    "ALTER FUNCTION $function SET search_path = public, pg_temp",
    "ALTER FUNCTION $function SET audit.note = 'it''s \\ $audit$ 5 %%'",
    "ALTER FUNCTION $function OWNER TO CURRENT_USER",
    'ALTER FUNCTION $function RENAME TO "other %%s"',
    "GRANT EXECUTE ON FUNCTION $function TO PUBLIC",
    'GRANT EXECUTE ON FUNCTION $function TO "audit ""reader"""',
    "ALTER TABLE account_audit OWNER TO CURRENT_USER",
    "ALTER TABLE account_audit DROP COLUMN email",
    "ALTER TABLE account_audit DROP COLUMN audit_who",
    "ALTER TABLE account DROP COLUMN email",
    "ALTER SEQUENCE account_audit_audit_id_seq CACHE 7",
    "DROP TABLE IF EXISTS account_audit",
    "DROP TABLE account",
]
EDITS = ["header", "comment", "code"]
# A function that lost its header is known by our triggers alone, and without them by nothing.
ANONYMOUS = (
    "DROP TR",
    "DROP TABLE account",
    "ALTER TRIGGER",
    "CREATE TRIGGER",
    "ALTER FUNCTION $function RENAME",
)


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """A statement, or an edit of the body with any text in it."""
    if draw(st.integers(0, 4)):
        return draw(st.sampled_from(STATEMENTS)), ""
    text = draw(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8))
    return draw(st.sampled_from(EDITS)), text


def edit(body: str, kind: str, text: str) -> str:
    if kind == "header":
        return body.partition("\n")[2] + text
    if kind == "comment":
        return body.replace("BEGIN\n", f"BEGIN /* {text.replace('*', '')} */\n", 1)
    return body.replace("  RETURN NULL;\nEND", f"  PERFORM '{text.replace(chr(39), '')}';\nEND")


def apply(project: Project, done: Sequence[Change]) -> None:
    """Do what can be done of it."""
    for statement, text in done:
        with project.engine.connect() as connection, connection.connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_catalog.format('%I.%I', n.nspname, p.proname), p.prosrc FROM pg_proc AS"
                " p JOIN pg_namespace AS n ON n.oid = p.pronamespace WHERE p.prosrc ~ "
                "'INSERT INTO .public.\\..account_audit.'"
            )
            ((function, body),) = cursor.fetchall()
            with suppress(sa.exc.DBAPIError, connection.dialect.loaded_dbapi.Error):
                if statement in EDITS:
                    cursor.execute(
                        f"CREATE OR REPLACE FUNCTION {function}() RETURNS trigger SECURITY DEFINER"
                        f" LANGUAGE plpgsql AS $x_y_z${edit(body, statement, text)}$x_y_z$"
                    )
                else:
                    sql = statement.replace("$function", function.replace("%", "%%"))
                    cursor.execute(sql.replace("%%", "%"))
                connection.connection.commit()  # of the driver, which knows of it


@pytest.fixture
def projects(
    tmp_path: Path, server: postgres.Server, database: Database, reader: None
) -> Iterator[dict[str, Project]]:
    """For each set of options a project with a trail, in a database of its own."""
    made = {}
    for name, options in OPTIONS.items():
        (tmp_path / name).mkdir()
        own = Database(f"{database.name}_{name}", server)
        server.create_database(own.name)
        made[name] = Project(tmp_path / name, own)
        made[name].config.attributes["check_trails"] = False  # broken trails shall come back
        made[name].migrate(models(**options))
    yield made
    for name in OPTIONS:  # before the role
        server.drop_database(f"{database.name}_{name}")


@contextmanager
def forgotten(project: Project, server: postgres.Server) -> Iterator[None]:
    """Begin again from the first revision afterwards."""
    try:
        yield
    finally:
        while project.count > 1:
            project.forget()
        name = str(project.engine.url.database)
        server.drop_database(name)
        server.create_database(name)
        project.upgrade()


def test_any_changes(projects: dict[str, Project], server: postgres.Server) -> None:
    """The catalog becomes what is meant, check is clean, and the downgrade undoes just that."""

    @given(
        st.sampled_from(sorted(OPTIONS)),
        st.lists(changes(), min_size=2, max_size=8),
        st.booleans(),
    )
    @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def run(name: str, done: list[Change], goes_on: bool) -> None:
        project, options = projects[name], OPTIONS[name]
        metadata = models(**options) if goes_on else models(False)
        if any(statement == "header" for statement, _ in done):
            done = [one for one in done if not one[0].startswith(ANONYMOUS)]
        with forgotten(project, server):
            meant = snapshot(project.engine)
            apply(project, done)
            drifted = snapshot(project.engine)

            project.revision(metadata)
            project.upgrade()
            mended = snapshot(project.engine)
            if goes_on:
                assert meant == mended
            else:
                assert {} == mended["functions"]
                assert {} == mended["triggers"]
            assert EMPTY == project.revision(metadata)
            project.forget()
            project.downgrade()
            assert drifted == snapshot(project.engine)

    run()
