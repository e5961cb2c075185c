"""Functions and triggers of ours that no trail claims: found, dropped, and brought back."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from alembic_audit.spec import HEADER, AuditSpec, NewerSpecError
from tests.catalogs import snapshot
from tests.conftest import Database
from tests.journey import EMPTY, psql
from tests.project import Project
from tests.test_drift import FUNCTION, HARD, edited, ran, reader, the_body, without_first_line
from tools import postgres

__all__ = ["reader"]  # a fixture

READER = '"audit ""reader"""'


def models(*audited: str, **names: str) -> sa.MetaData:
    """Return two tables, of which some are audited; *names* renames them."""
    metadata = sa.MetaData()
    for name in ("account", "other"):
        sa.Table(
            names.get(name, name),
            metadata,
            sa.Column("id", sa.Integer, sa.Identity()),
            sa.Column("email", sa.Text),
            sa.PrimaryKeyConstraint("id", name=f"{name}_pkey"),
            info={"audit.options": {"enabled": True}} if name in audited else {},
        )
    return metadata


def triggers_of(name: str) -> set[str]:
    kinds = ("delete", "insert", "key", "truncate", "update")
    return {f"public.{name}.00_audit_{name}_{kind}" for kind in kinds}


def body_of(project: Project, name: str) -> str:
    ((body,),) = project.rows(f"SELECT prosrc FROM pg_proc WHERE proname = '{name}'")
    return str(body)


def replace_body(project: Project, body: str, name: str = FUNCTION) -> None:
    with project.engine.begin() as connection, connection.connection.cursor() as cursor:
        cursor.execute(
            f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger SECURITY DEFINER "
            f"LANGUAGE plpgsql AS $body${body}$body$"
        )


def with_header(change: Callable[[str], str]) -> Callable[[Project], None]:
    """Return what changes the first line of the function."""

    def run(project: Project) -> None:
        header, _, rest = the_body(project).partition("\n")
        replace_body(project, change(header.removeprefix(HEADER)) + "\n" + rest)

    return run


def all_of(*steps: Callable[[Project], None]) -> Callable[[Project], None]:
    def run(project: Project) -> None:
        for step in steps:
            step(project)

    return run


def swap(project: Project) -> None:
    names = ("public_account_audit", "public_other_audit")
    bodies = [body_of(project, name) for name in names]
    for name, body in zip(names, reversed(bodies), strict=True):
        replace_body(project, body, name)


def copy(project: Project) -> None:
    replace_body(project, the_body(project), "copy")
    project.execute(
        "CREATE TRIGGER second AFTER INSERT ON account FOR EACH ROW EXECUTE FUNCTION copy()",
        "ALTER TABLE account ENABLE REPLICA TRIGGER second",
        f"GRANT EXECUTE ON FUNCTION copy TO {READER}",
    )


@dataclass(frozen=True)
class Case:
    """What was done by hand, and what it looks like afterwards where the trail goes on."""

    name: str
    make: Callable[[Project], None]

    def __str__(self) -> str:
        return self.name


headless = edited(without_first_line)
CASES = [
    Case("headless", headless),
    Case(
        "headless_hard_text",
        edited(lambda body: without_first_line(body).replace("BEGIN\n", "BEGIN" + HARD, 1) + HARD),
    ),
    Case(
        "headless_disabled",
        all_of(headless, ran('ALTER TABLE account DISABLE TRIGGER "00_audit_account_truncate"')),
    ),
    Case(
        "headless_granted",
        all_of(
            headless,
            ran(
                f"GRANT EXECUTE ON FUNCTION {FUNCTION} TO PUBLIC",
                f"GRANT EXECUTE ON FUNCTION {FUNCTION} TO {READER} WITH GRANT OPTION",
            ),
        ),
    ),
    Case(
        "headless_of_another",
        all_of(
            headless,
            ran(
                f"ALTER FUNCTION {FUNCTION} OWNER TO {READER}",
                f"GRANT EXECUTE ON FUNCTION {FUNCTION} TO CURRENT_USER",
                f"ALTER FUNCTION {FUNCTION} SECURITY INVOKER SET work_mem = '8MB'",
            ),
        ),
    ),
    Case("headless_no_audit_table", all_of(headless, ran("DROP TABLE account_audit"))),
    Case("garbage", with_header(lambda spec: HEADER + "{garbage")),
    Case("garbage_list", with_header(lambda spec: HEADER + "[1]")),
    Case("garbage_types", with_header(lambda spec: HEADER + json.dumps({"version": 1}))),
    Case(
        "version_0", with_header(lambda spec: HEADER + spec.replace('"version":1', '"version":0'))
    ),
    Case("function_renamed", ran(f'ALTER FUNCTION {FUNCTION} RENAME TO "Function"')),
    Case(
        "function_elsewhere",
        ran("CREATE SCHEMA archive", f"ALTER FUNCTION {FUNCTION} SET SCHEMA archive"),
    ),
    Case("copy", copy),
    Case("copy_alone", all_of(copy, ran(f"DROP FUNCTION {FUNCTION} CASCADE"))),
    Case("copies", all_of(copy, ran(f'ALTER FUNCTION {FUNCTION} RENAME TO "Function"'))),
    Case("swapped", swap),
    Case(
        "taken_over",
        lambda project: replace_body(project, body_of(project, "public_other_audit")),
    ),
]


@pytest.fixture
def project(tmp_path: Path, database: Database) -> Project:
    made = Project(tmp_path, database)
    made.config.attributes["check_trails"] = False  # some are broken, and shall be again
    return made


def there_and_back(
    project: Project, server: postgres.Server, database: Database, metadata: sa.MetaData
) -> dict[str, dict[str, dict[str, object]]]:
    """Mend, see that nothing is left to do, undo, and both again by psql; return the mended."""
    drifted = snapshot(project.engine)
    project.migrate(metadata)
    mended = snapshot(project.engine)
    assert EMPTY == project.revision(metadata)
    project.forget()
    project.downgrade()
    assert drifted == snapshot(project.engine)

    script = project.path / "script.sql"
    psql(server, database, script, project.sql("upgrade", "0001:0002"))
    assert mended == snapshot(project.engine)
    psql(server, database, script, project.sql("downgrade", "0002:0001"))
    assert drifted == snapshot(project.engine)
    return mended


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_trails_end(
    case: Case, project: Project, server: postgres.Server, database: Database
) -> None:
    """Function and triggers go with the audit, and come back byte for byte."""
    project.migrate(models("account", "other"))
    case.make(project)

    mended = there_and_back(project, server, database, models())
    assert {} == mended["functions"]
    assert {} == mended["triggers"]


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_trails_go_on(
    case: Case, project: Project, server: postgres.Server, database: Database
) -> None:
    """The trail becomes what is meant, under the names that are meant, and nothing is left."""
    project.migrate(models("account", "other"))
    meant = snapshot(project.engine)
    case.make(project)

    mended = there_and_back(project, server, database, models("account", "other"))
    mended["schemas"].pop("archive", None)
    if case.name == "headless_of_another":  # which owner is not declared, and is left alone
        function = meant["functions"]["public.public_account_audit()"]
        function["owner"] = 'audit "reader"'
        function["acl"] = frozenset(
            one.replace("postgres", 'audit "reader"') for one in function["acl"]
        )
    assert meant == mended


@pytest.mark.parametrize("audited", [True, False], ids=["declared", "not_declared"])
@pytest.mark.parametrize(
    "newer",
    [
        lambda spec: spec.replace('"version":1', '"version":99'),
        lambda spec: spec.replace("{", '{"new_option":true,', 1),
    ],
    ids=["version", "argument"],
)
def test_newer_header(
    newer: Callable[[str], str],
    audited: bool,
    project: Project,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What a newer version wrote is left alone, its triggers too, whatever state they are in."""
    project.migrate(models("account"))
    with_header(lambda spec: HEADER + newer(spec))(project)
    project.execute('ALTER TABLE account DISABLE TRIGGER "00_audit_account_update"')
    before = snapshot(project.engine)

    metadata = models("account") if audited else models()
    with caplog.at_level(logging.WARNING):
        assert EMPTY == project.revision(metadata)
    (message,) = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert message.startswith(f"Function {FUNCTION} was left alone: ")
    assert message.endswith("; upgrade alembic_audit")
    project.upgrade()
    project.check(metadata)
    assert before == snapshot(project.engine)


def test_source_renamed_by_hand(
    project: Project, server: postgres.Server, database: Database
) -> None:
    """Declared under the old name still: its trail belongs to the table that is made anew."""
    project.migrate(models("account"))
    project.execute(
        "ALTER TABLE account RENAME TO konto", "INSERT INTO konto VALUES (DEFAULT, 'a')"
    )
    project.config.attributes["configure"]["include_name"] = lambda name, kind, parents: (
        kind != "table" or name != "konto"
    )
    project.execute("ALTER TABLE konto RENAME CONSTRAINT account_pkey TO konto_pkey")

    mended = there_and_back(project, server, database, models("account"))
    assert triggers_of("account") == set(mended["triggers"])
    project.upgrade()
    project.execute("INSERT INTO konto VALUES (9, 'b')", "INSERT INTO account VALUES (7, 'c')")
    assert [(1,), (7,)] == project.rows("SELECT id FROM account_audit ORDER BY audit_id")


def test_source_and_models_renamed_by_hand(
    project: Project, server: postgres.Server, database: Database
) -> None:
    """Declared under the new name: a new trail begins, and the former one's records stay."""
    project.migrate(models("account"))
    project.execute(
        "INSERT INTO account VALUES (DEFAULT, 'a')", "ALTER TABLE account RENAME TO konto"
    )

    mended = there_and_back(project, server, database, models("account", account="konto"))
    assert triggers_of("konto") == set(mended["triggers"])
    assert {"public.public_konto_audit()"} == set(mended["functions"])
    assert [("a",)] == project.rows("SELECT email FROM account_audit")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
_GOOD = json.loads(
    AuditSpec.from_kwargs("t", key=["id"], columns=["id"], hash_columns=["x"]).to_json()
)


@given(
    st.dictionaries(
        st.sampled_from(
            [*_GOOD, "session_settings", "setting_columns", "always", "owner", "schema", "x"]
        ),
        _JSON,
        max_size=3,
    )
    | _JSON,
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_any_json_in_a_header(value: object, complete: bool) -> None:
    """A header gives a spec of a known version, is newer, or counts as none; nothing else."""
    if complete and isinstance(value, dict):
        value = {**_GOOD, **value}
    try:
        spec = AuditSpec.from_body(HEADER + json.dumps(value) + "\nBEGIN\nEND\n")
    except NewerSpecError:
        return
    assert spec is None or spec.version == 1
