"""What somebody changed by hand: named, mended, and brought back by the downgrade of that."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.util import CommandError

from alembic_audit import catalog
from tests.catalogs import snapshot
from tests.conftest import Database
from tests.journey import EMPTY, psql
from tests.project import Project
from tools import postgres

FUNCTION = '"public"."public_account_audit"'
TABLE = '"public"."account"'
HARD = (
    "\r\n-- \ttab, \\back\\n, 'quote', \"double\", 100 %, %s, %(x)s, :name, $audit$, ä\x0b\x0c\r\n"
)


def models(audited: bool = True) -> sa.MetaData:
    metadata = sa.MetaData()
    for name, options in (("account", {"enabled": True}), ("other", None)):
        sa.Table(
            name,
            metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("email", sa.Text),
            info={"audit.options": options} if options and audited else {},
        )
    return metadata


def the_body(project: Project) -> str:
    ((body,),) = project.rows("SELECT prosrc FROM pg_proc WHERE proname ~ 'account_audit'")
    return str(body)


def edited(change: Callable[[str], str]) -> Callable[[Project], None]:
    """Return what changes the body of the function and nothing else."""

    def run(project: Project) -> None:
        body = the_body(project)
        with project.engine.begin() as connection, connection.connection.cursor() as cursor:
            cursor.execute(  # by the driver itself, which leaves % alone
                f"CREATE OR REPLACE FUNCTION {FUNCTION}() RETURNS trigger SECURITY DEFINER "
                f"LANGUAGE plpgsql AS $body${change(body)}$body$"
            )
        assert change(body) == the_body(project) != body

    return run


def ran(*statements: str) -> Callable[[Project], None]:
    return lambda project: project.execute(*statements)


def without_first_line(body: str) -> str:
    return body.partition("\n")[2]


@dataclass(frozen=True)
class Case:
    """A drift: how to make it, and what a message says of it."""

    name: str
    make: Callable[[Project], None]
    kinds: tuple[str, ...]
    detail: str

    def __str__(self) -> str:
        return self.name


ROW = 'DROP TRIGGER "00_audit_account" ON account'
CASES = [
    Case(
        "code",
        edited(lambda body: body.replace("  RETURN NULL;\n", "  PERFORM 1;\n  RETURN NULL;\n")),
        (catalog.BODY_EDITED,),
        f"the body of {FUNCTION} was edited, in code",
    ),
    Case(
        "comment",
        edited(lambda body: body.replace("BEGIN\n", "BEGIN  -- by hand\n", 1)),
        (catalog.BODY_EDITED,),
        f"the body of {FUNCTION} was edited, in comments and white space",
    ),
    Case(
        "hard_text",
        edited(lambda body: body.replace("BEGIN\n", "BEGIN" + HARD, 1) + HARD),
        (catalog.BODY_EDITED,),
        f"the body of {FUNCTION} was edited",
    ),
    Case(
        "percent_and_colon",
        edited(lambda body: body.replace("BEGIN\n", "BEGIN -- 5 %, %s, :x, \\:y, '\\'\n", 1)),
        (catalog.BODY_EDITED,),
        f"the body of {FUNCTION} was edited",
    ),
    Case(
        "no_header",
        edited(without_first_line),
        (catalog.HEADER_MISSING, catalog.BODY_EDITED),
        f"function {FUNCTION} lost its first line",
    ),
    Case(
        "invoker",
        ran(f"ALTER FUNCTION {FUNCTION} SECURITY INVOKER"),
        (catalog.SECURITY_DEFINER_LOST,),
        f"function {FUNCTION} is SECURITY INVOKER",
    ),
    Case(
        "set_clause",
        ran(
            f'ALTER FUNCTION {FUNCTION} SET search_path TO "$user", public, "a b"',
            f"ALTER FUNCTION {FUNCTION} SET work_mem = '8MB'",
            f"ALTER FUNCTION {FUNCTION} SET audit.note = 'it''s 5 %%, \\x'",
        ),
        (catalog.SET_CLAUSE,),
        "work_mem=8MB",
    ),
    Case(
        "granted_to_public",
        ran(f"GRANT EXECUTE ON FUNCTION {FUNCTION} TO PUBLIC"),
        (catalog.EXECUTE_GRANTED,),
        f"PUBLIC may execute {FUNCTION}",
    ),
    Case(
        "granted_to_role",
        ran(f'GRANT EXECUTE ON FUNCTION {FUNCTION} TO "audit ""reader""" WITH GRANT OPTION'),
        (catalog.EXECUTE_GRANTED,),
        '"audit ""reader""" WITH GRANT OPTION may execute',
    ),
    Case(
        "missing",
        ran(ROW),
        (catalog.TRIGGER_MISSING,),
        f'trigger "00_audit_account" on {TABLE} is gone',
    ),
    Case(
        "both_missing",
        ran(ROW, 'DROP TRIGGER "00_audit_account_truncate" ON account'),
        (catalog.TRIGGER_MISSING,),
        f'trigger "00_audit_account_truncate" on {TABLE} is gone',
    ),
    *(
        Case(
            state.lower().replace(" ", "_"),
            ran(f'ALTER TABLE account {state} TRIGGER "00_audit_account"'),
            (catalog.TRIGGER_DISABLED,),
            f'trigger "00_audit_account" on {TABLE} is in state {state}',
        )
        for state in ("DISABLE", "ENABLE REPLICA", "ENABLE ALWAYS")
    ),
    *(
        Case(
            f"retimed_{number}",
            ran(
                ROW,
                f'CREATE TRIGGER "00_audit_account" {shape} EXECUTE FUNCTION {FUNCTION}()',
                *more,
            ),
            (catalog.TRIGGER_RETIMED, *([catalog.TRIGGER_DISABLED] if more else [])),
            'trigger "00_audit_account" on "public"."account" is now: CREATE TRIGGER',
        )
        for number, (shape, *more) in enumerate(
            [
                ("BEFORE INSERT OR UPDATE OR DELETE ON account FOR EACH ROW",),
                ("AFTER INSERT ON account FOR EACH ROW",),
                ("AFTER INSERT OR UPDATE OF email OR DELETE ON account FOR EACH ROW",),
                ("AFTER UPDATE ON account FOR EACH ROW WHEN (OLD.email LIKE '5 %%:x')",),
                (
                    "AFTER INSERT ON account FOR EACH ROW",
                    'ALTER TABLE account DISABLE TRIGGER "00_audit_account"',
                ),
            ]
        )
    ),
    Case(
        "elsewhere",
        ran(
            f"CREATE TRIGGER x AFTER INSERT ON other FOR EACH ROW EXECUTE FUNCTION {FUNCTION}()",
            "ALTER TABLE other DISABLE TRIGGER x",
        ),
        (catalog.TRIGGER_ELSEWHERE, catalog.TRIGGER_DISABLED),
        f'trigger "x" on "public"."other" calls {FUNCTION} too',
    ),
    Case(
        "second",
        ran(f"CREATE TRIGGER x AFTER INSERT ON account FOR EACH ROW EXECUTE FUNCTION {FUNCTION}()"),
        (catalog.SECOND_TRIGGER,),
        f'trigger "x" on {TABLE} calls {FUNCTION} too',
    ),
    Case(
        "renamed",
        ran('ALTER TRIGGER "00_audit_account" ON account RENAME TO zz'),
        (catalog.SECOND_TRIGGER, catalog.TRIGGER_MISSING),
        f'trigger "zz" on {TABLE} calls {FUNCTION} too',
    ),
]


@pytest.fixture
def reader(server: postgres.Server, database: Database) -> Iterator[None]:
    """A role with a hostile name, which outlives the database unless it is dropped."""
    quoted = '"audit ""reader"""'
    with database.engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {quoted}")
    yield
    with database.engine.begin() as connection:
        connection.exec_driver_sql(f"DROP OWNED BY {quoted}; DROP ROLE {quoted}")


def complaint(project: Project, metadata: sa.MetaData) -> str:
    with pytest.raises(CommandError) as caught:
        project.check(metadata)
    return str(caught.value)


@pytest.mark.core
@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_drift(case: Case, tmp_path: Path, server: postgres.Server, database: Database) -> None:
    """Check names table, kind and remedy; the next migration mends; its downgrade undoes that."""
    project = Project(tmp_path, database)
    project.migrate(models())
    meant = snapshot(project.engine)
    case.make(project)
    drifted = snapshot(project.engine)
    assert meant != drifted

    message = complaint(project, models())
    assert "'replace_audit_trigger', 'account'" in message
    assert [kind for kind in case.kinds if f"{kind}: " not in message] == []
    assert case.detail in message.replace("\\\\", "\\")
    assert "mend it: alembic revision --autogenerate, then alembic upgrade head" in message

    project.migrate(models())
    assert meant == snapshot(project.engine)
    assert EMPTY == project.revision(models())
    (tmp_path / "versions" / f"{project.count:04}_step.py").unlink()

    project.downgrade()
    assert drifted == snapshot(project.engine)

    script = tmp_path / "script.sql"
    psql(server, database, script, project.sql("upgrade", "0001:0002"))
    assert meant == snapshot(project.engine)
    psql(server, database, script, project.sql("downgrade", "0002:0001"))
    assert drifted == snapshot(project.engine)


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("case", [one for one in CASES if one.name != "no_header"], ids=str)
def test_drift_of_a_trail_that_ends(case: Case, tmp_path: Path, database: Database) -> None:
    """Stopping a trail that drifted works, and the downgrade gives the drift back too."""
    project = Project(tmp_path, database)
    project.migrate(models())
    case.make(project)
    drifted = snapshot(project.engine)

    project.migrate(models(audited=False))
    assert {} == snapshot(project.engine)["functions"]
    assert {} == snapshot(project.engine)["triggers"]

    project.downgrade()
    assert drifted == snapshot(project.engine)


def test_every_kind_is_tested() -> None:
    """No kind of drift is without a case."""
    kinds = {
        value
        for name, value in vars(catalog).items()
        if name.isupper() and isinstance(value, str) and not name.startswith("_")
    } - {catalog.HEADER}

    assert kinds == {kind for case in CASES for kind in case.kinds}


@pytest.mark.core
def test_drift_and_a_changed_option(tmp_path: Path, database: Database) -> None:
    """One migration changes an option and mends a drift; its downgrade undoes both."""
    project = Project(tmp_path, database)
    project.migrate(models())
    project.execute("ALTER TABLE account DISABLE TRIGGER USER")
    drifted = snapshot(project.engine)
    changed = models()
    changed.tables["account"].info["audit.options"]["operations"] = ["insert"]

    project.migrate(changed)
    project.execute("INSERT INTO account VALUES (1, 'a')", "DELETE FROM account")
    assert [("I",)] == project.rows("SELECT audit_operation FROM account_audit")

    project.downgrade()
    assert drifted == snapshot(project.engine)


PREDECESSOR = (
    "CREATE TABLE account (id serial PRIMARY KEY, email text)",
    "CREATE TABLE other (id serial PRIMARY KEY, email text)",
    "CREATE TABLE old_audit (audit_operation varchar(1) NOT NULL,"
    " audit_operation_timestamp timestamp NOT NULL, id integer, email text)",
    """CREATE FUNCTION public_account_audit() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      IF (TG_OP = 'DELETE') THEN
        INSERT INTO old_audit VALUES ('D', now(), OLD.id, OLD.email);
      ELSE
        INSERT INTO old_audit VALUES (substring(TG_OP, 1, 1), now(), NEW.id, NEW.email);
      END IF;
      RETURN NULL;
    END $$""",
    "CREATE TRIGGER public_account_audit AFTER INSERT OR UPDATE OR DELETE ON account"
    " FOR EACH ROW EXECUTE PROCEDURE public_account_audit()",
)


@pytest.mark.core
def test_predecessor(tmp_path: Path, database: Database) -> None:
    """A foreign function with our name is never taken over: create says so and changes nothing."""
    project = Project(tmp_path, database)
    project.execute(*PREDECESSOR)
    metadata = models()
    sa.Table(
        "old_audit",
        metadata,
        sa.Column("audit_operation", sa.String(1), nullable=False),
        sa.Column("audit_operation_timestamp", sa.DateTime, nullable=False),
        sa.Column("id", sa.Integer),
        sa.Column("email", sa.Text),
    )
    before = snapshot(project.engine)

    text = project.revision(metadata)
    assert "op.create_audit_trigger(\n        'account'" in text
    assert "op.replace_audit_trigger" not in text
    assert "op.drop_audit_trigger" not in text.partition("def downgrade")[0]
    with pytest.raises(sa.exc.ProgrammingError) as caught:
        project.upgrade()

    assert f"function {FUNCTION}() exists already" in str(caught.value)
    assert "name another: function=..." in str(caught.value)
    assert before == snapshot(project.engine)


@pytest.mark.core
def test_foreign_function_where_nothing_is_audited(tmp_path: Path, database: Database) -> None:
    """What the predecessor made is nothing to us, with a declaration gone or never there."""
    project = Project(tmp_path, database)
    project.execute(*PREDECESSOR, "DROP TABLE old_audit")

    assert EMPTY == project.revision(models(audited=False))


@pytest.mark.core
def test_foreign_triggers(tmp_path: Path, database: Database) -> None:
    """Triggers of others, enabled or not, are never proposed for anything and never touched."""
    project = Project(tmp_path, database)
    project.migrate(models(audited=False))
    project.execute(
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER touch BEFORE UPDATE ON account FOR EACH ROW EXECUTE FUNCTION touch()",
        "CREATE TRIGGER zz AFTER INSERT ON account FOR EACH ROW EXECUTE FUNCTION touch()",
        "ALTER TABLE account DISABLE TRIGGER zz",
        "ALTER TABLE account ENABLE ALWAYS TRIGGER touch",
    )

    def foreign() -> dict[str, object]:
        found = snapshot(project.engine)["triggers"]
        return {name: row for name, row in found.items() if row["function"] == "public.touch"}

    before = foreign()
    assert len(before) == 2
    project.check(models(audited=False))
    for metadata in (models(), models(audited=False)):
        text = project.migrate(metadata)
        assert "touch" not in text
        assert "zz" not in text
        assert before == foreign()
    project.downgrade("0001")
    assert before == foreign()
