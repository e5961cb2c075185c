"""What somebody changed by hand: named, mended, and brought back by the downgrade of that."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.util import CommandError

from alembic_audit import states
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


def models(audited: bool = True, *, partitioned: bool = False, **options: Any) -> sa.MetaData:
    metadata = sa.MetaData()
    for name in ("account", "other"):
        sa.Table(
            name,
            metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("email", sa.Text),
            info={"audit.options": {"enabled": True, "level": "row", **options}}
            if name == "account" and audited
            else {},
            postgresql_partition_by="RANGE (id)" if name == "account" and partitioned else None,
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
    """A drift.

    Attributes:
        name: Of the test.
        make: Does by hand what makes it.
        kinds: What a message calls it.
        detail: What a message says of it.
        options: What the models declare, beside that account is audited.
        setup: SQL that is run after the trail began, before its picture is taken.
    """

    name: str
    make: Callable[[Project], None]
    kinds: tuple[str, ...]
    detail: str
    options: dict[str, Any] = field(default_factory=dict)
    setup: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name

    @property
    def broken(self) -> bool:
        """Whether the next write would fail."""
        gone = {
            states.AUDIT_TABLE_MISSING,
            states.AUDIT_COLUMN_MISSING,
            states.COLUMN_MISSING,
        }
        never_called = {states.ORPHANED_FUNCTION, states.TRIGGER_DISABLED}
        return bool(gone & set(self.kinds)) and not never_called & set(self.kinds)

    def models(self, audited: bool = True) -> sa.MetaData:
        """Return what is declared, with the audit or without."""
        partitioned = self.options.get("partitioned", False)
        return models(**self.options) if audited else models(False, partitioned=partitioned)

    def start(self, path: Path, database: Database) -> Project:
        """Return a project with the trail as it is meant."""
        project = Project(path, database, include_name=not_a_partition)
        project.migrate(self.models())
        project.execute(*self.setup)
        project.check(self.models())
        return project


def not_a_partition(name: str | None, kind: str, parents: Any) -> bool:
    """Leave the partitions out that the models do not know."""
    return kind != "table" or not str(name).startswith("part")


ROW = 'DROP TRIGGER "00_audit_account" ON account'
MADE = ("FUNCTIONS", "TABLES", "SEQUENCES")
PARTITIONS = (
    "CREATE TABLE part_1 PARTITION OF account FOR VALUES FROM (0) TO (10)",
    "CREATE TABLE part_2 PARTITION OF account FOR VALUES FROM (10) TO (20) PARTITION BY LIST (id)",
    "CREATE TABLE part_2_1 PARTITION OF part_2 DEFAULT",
)
CASES = [
    Case(
        "code",
        edited(lambda body: body.replace("  RETURN NULL;\n", "  PERFORM 1;\n  RETURN NULL;\n")),
        (states.BODY_EDITED,),
        f"the body of {FUNCTION} was edited, in code",
    ),
    Case(
        "comment",
        edited(lambda body: body.replace("BEGIN\n", "BEGIN  -- by hand\n", 1)),
        (states.BODY_EDITED,),
        f"the body of {FUNCTION} was edited, in comments and white space",
    ),
    Case(
        "hard_text",
        edited(lambda body: body.replace("BEGIN\n", "BEGIN" + HARD, 1) + HARD),
        (states.BODY_EDITED,),
        f"the body of {FUNCTION} was edited",
    ),
    Case(
        "percent_and_colon",
        edited(lambda body: body.replace("BEGIN\n", "BEGIN -- 5 %, %s, :x, \\:y, '\\'\n", 1)),
        (states.BODY_EDITED,),
        f"the body of {FUNCTION} was edited",
    ),
    Case(
        "no_header",
        edited(without_first_line),
        (states.HEADER_MISSING, states.BODY_EDITED),
        f"function {FUNCTION} lost its first line",
    ),
    Case(
        "invoker",
        ran(f"ALTER FUNCTION {FUNCTION} SECURITY INVOKER"),
        (states.SECURITY_DEFINER_LOST,),
        f"function {FUNCTION} is SECURITY INVOKER",
    ),
    Case(
        "set_clause",
        ran(
            f'ALTER FUNCTION {FUNCTION} SET search_path TO "$user", public, "a b"',
            f"ALTER FUNCTION {FUNCTION} SET work_mem = '8MB'",
            f"ALTER FUNCTION {FUNCTION} SET audit.note = 'it''s 5 %%, \\x'",
        ),
        (states.SET_CLAUSE,),
        "work_mem=8MB",
    ),
    Case(
        "granted_to_public",
        ran(f"GRANT EXECUTE ON FUNCTION {FUNCTION} TO PUBLIC"),
        (states.EXECUTE_GRANTED,),
        f"PUBLIC may execute {FUNCTION}",
    ),
    Case(
        "granted_to_role",
        ran(f'GRANT EXECUTE ON FUNCTION {FUNCTION} TO "audit ""reader""" WITH GRANT OPTION'),
        (states.EXECUTE_GRANTED,),
        '"audit ""reader""" WITH GRANT OPTION may execute',
    ),
    Case(
        "missing",
        ran(ROW),
        (states.TRIGGER_MISSING,),
        f'trigger "00_audit_account" on {TABLE} is gone',
    ),
    Case(
        "both_missing",
        ran(ROW, 'DROP TRIGGER "00_audit_account_truncate" ON account'),
        (states.TRIGGER_MISSING,),
        f'trigger "00_audit_account_truncate" on {TABLE} is gone',
    ),
    *(
        Case(
            state.lower().replace(" ", "_"),
            ran(f'ALTER TABLE account {state} TRIGGER "00_audit_account"'),
            (states.TRIGGER_DISABLED,),
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
            (states.TRIGGER_RETIMED, *([states.TRIGGER_DISABLED] if more else [])),
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
        (states.TRIGGER_ELSEWHERE, states.TRIGGER_DISABLED),
        f'trigger "x" on "public"."other" calls {FUNCTION} too',
    ),
    Case(
        "second",
        ran(f"CREATE TRIGGER x AFTER INSERT ON account FOR EACH ROW EXECUTE FUNCTION {FUNCTION}()"),
        (states.SECOND_TRIGGER,),
        f'trigger "x" on {TABLE} calls {FUNCTION} too',
    ),
    Case(
        "renamed",
        ran('ALTER TRIGGER "00_audit_account" ON account RENAME TO zz'),
        (states.SECOND_TRIGGER, states.TRIGGER_MISSING),
        f'trigger "zz" on {TABLE} calls {FUNCTION} too',
    ),
    Case(
        "owner_of_function",
        ran(f"ALTER FUNCTION {FUNCTION} OWNER TO CURRENT_USER"),
        (states.OWNER_CHANGED,),
        f'function {FUNCTION} belongs to postgres, not to audit "reader"',
        {"owner": 'audit "reader"'},
    ),
    Case(
        "owner_of_audit_table",
        ran("ALTER TABLE account_audit OWNER TO CURRENT_USER"),
        (states.OWNER_CHANGED,),
        'audit table "public"."account_audit" belongs to postgres, not to audit "reader"',
        {"owner": 'audit "reader"'},
    ),
    Case(
        "owners_and_more",
        ran(
            f"ALTER FUNCTION {FUNCTION} OWNER TO CURRENT_USER",
            f"GRANT EXECUTE ON FUNCTION {FUNCTION} TO PUBLIC",
            f'GRANT EXECUTE ON FUNCTION {FUNCTION} TO "audit ""reader"""',
            "ALTER TABLE account_audit OWNER TO CURRENT_USER",
            ROW,
        ),
        (states.OWNER_CHANGED, states.EXECUTE_GRANTED, states.TRIGGER_MISSING),
        f"PUBLIC may execute {FUNCTION}",
        {"owner": 'audit "reader"'},
    ),
    Case(
        "source_dropped",
        ran("DROP TABLE account"),
        (states.ORPHANED_FUNCTION,),
        f"{FUNCTION} is there, and table {TABLE} is not",
    ),
    Case(
        "source_dropped_always",
        ran("DROP TABLE account", f"ALTER FUNCTION {FUNCTION} SET work_mem = '8MB'"),
        (states.ORPHANED_FUNCTION, states.SET_CLAUSE),
        f"{FUNCTION} is there, and table {TABLE} is not",
        {"always": True, "owner": 'audit "reader"'},
    ),
    *(
        Case(
            f"{state.lower().replace(' ', '_')}_on_{table}",
            ran(f'ALTER TABLE {table} {state} TRIGGER "00_audit_account"'),
            (states.DISABLED_ON_PARTITION,),
            f'trigger "00_audit_account" on "public"."{table}" is in state {state}',
            {"partitioned": True},
            PARTITIONS,
        )
        for state, table in (("DISABLE", "part_1"), ("ENABLE ALWAYS", "part_2_1"))
    ),
    Case(
        "disabled_on_partitions_too",
        ran("ALTER TABLE account DISABLE TRIGGER USER", "ALTER TABLE part_1 ENABLE TRIGGER USER"),
        (states.TRIGGER_DISABLED, states.DISABLED_ON_PARTITION),
        'trigger "00_audit_account" on "public"."part_2_1" is in state DISABLE',
        {"partitioned": True},
        PARTITIONS,
    ),
    Case(
        "not_always",
        ran('ALTER TABLE account ENABLE TRIGGER "00_audit_account_truncate"'),
        (states.ENABLE_ALWAYS_LOST,),
        f'trigger "00_audit_account_truncate" on {TABLE} is in state ENABLE',
        {"always": True},
    ),
    Case(
        "not_always_on_partition",
        ran('ALTER TABLE part_1 ENABLE TRIGGER "00_audit_account"'),
        (states.ENABLE_ALWAYS_LOST,),
        'trigger "00_audit_account" on "public"."part_1" is in state ENABLE',
        {"partitioned": True, "always": True},
        PARTITIONS,
    ),
    Case(
        "always_and_retimed",
        ran(
            ROW,
            'CREATE TRIGGER "00_audit_account" AFTER INSERT ON account FOR EACH ROW '
            f"EXECUTE FUNCTION {FUNCTION}()",
            'ALTER TABLE account ENABLE ALWAYS TRIGGER "00_audit_account"',
        ),
        (states.TRIGGER_RETIMED,),
        'trigger "00_audit_account" on "public"."account" is now: CREATE TRIGGER',
        {"always": True},
    ),
    Case(
        "no_audit_table",
        ran("DROP TABLE account_audit"),
        (states.AUDIT_TABLE_MISSING,),
        'audit table "public"."account_audit" is gone',
    ),
    Case(
        "no_audit_table_of_an_owner",
        ran("DROP TABLE account_audit"),
        (states.AUDIT_TABLE_MISSING,),
        'audit table "public"."account_audit" is gone',
        {"owner": 'audit "reader"'},
    ),
    Case(
        "no_audit_table_and_more",
        ran("DROP TABLE account_audit", "ALTER TABLE account DISABLE TRIGGER USER", ROW),
        (states.AUDIT_TABLE_MISSING, states.TRIGGER_DISABLED, states.TRIGGER_MISSING),
        'audit table "public"."account_audit" is gone',
        {"session_settings": [sa.Column("username", sa.Text, nullable=False)]},
    ),
    Case(
        "nothing_but_the_function",
        ran("DROP TABLE account_audit, account"),
        (states.AUDIT_TABLE_MISSING, states.ORPHANED_FUNCTION),
        'audit table "public"."account_audit" is gone',
    ),
    Case(
        "no_audit_column",
        ran("ALTER TABLE account_audit DROP COLUMN email"),
        (states.AUDIT_COLUMN_MISSING,),
        'column "email" of audit table "public"."account_audit" is gone',
    ),
    Case(
        "no_column",
        ran("ALTER TABLE account DROP COLUMN email"),
        (states.COLUMN_MISSING, states.BODY_EDITED),
        'column "email" of "public"."account" is gone',
    ),
    Case(
        "no_setting_column",
        ran("ALTER TABLE account_audit DROP COLUMN audit_username"),
        (states.AUDIT_COLUMN_MISSING,),
        'column "audit_username" of audit table "public"."account_audit" is gone',
        {"session_settings": [sa.Column("username", sa.Text)]},
    ),
    Case(
        "cache",
        ran("ALTER SEQUENCE account_audit_audit_id_seq CACHE 20"),
        (states.SEQUENCE_CACHE,),
        '"public"."account_audit_audit_id_seq" has CACHE 20, so that audit_id is no order',
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
        connection.exec_driver_sql(
            f"REASSIGN OWNED BY {quoted} TO CURRENT_USER; DROP OWNED BY {quoted}; "
            f"DROP ROLE {quoted}"
        )


def complaint(project: Project, metadata: sa.MetaData) -> str:
    with pytest.raises(CommandError) as caught:
        project.check(metadata)
    return str(caught.value)


def undo(case: Case, project: Project) -> None:
    """Downgrade; the line in env.py refuses to bring a trail back that is broken."""
    if case.broken:
        before = snapshot(project.engine)
        with pytest.raises(CommandError, match=r"table public\.account"):
            project.downgrade()
        assert before == snapshot(project.engine)
        project.config.attributes["check_trails"] = False
    project.downgrade()


@pytest.mark.core
@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_drift(case: Case, tmp_path: Path, server: postgres.Server, database: Database) -> None:
    """Check names table, kind and remedy; the next migration mends; its downgrade undoes that."""
    project = case.start(tmp_path, database)
    meant = snapshot(database.engine)
    case.make(project)
    drifted = snapshot(database.engine)
    assert meant != drifted

    message = complaint(project, case.models())
    assert "'replace_audit_trigger', 'account'" in message
    assert [kind for kind in case.kinds if f"{kind}: " not in message] == []
    assert case.detail in message.replace("\\\\", "\\")
    assert "mend it: alembic revision --autogenerate, then alembic upgrade head" in message

    project.migrate(case.models())
    assert meant == snapshot(database.engine)
    assert EMPTY == project.revision(case.models())
    project.forget()

    undo(case, project)
    assert drifted == snapshot(database.engine)

    script = tmp_path / "script.sql"
    psql(server, database, script, project.sql("upgrade", "0001:0002"))
    assert meant == snapshot(database.engine)
    psql(server, database, script, project.sql("downgrade", "0002:0001"))
    assert drifted == snapshot(database.engine)


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_drift_of_a_trail_that_ends(
    case: Case, tmp_path: Path, server: postgres.Server, database: Database
) -> None:
    """Stopping a trail that drifted works, and the downgrade gives the drift back too."""
    project = case.start(tmp_path, database)
    case.make(project)
    drifted = snapshot(database.engine)

    message = complaint(project, case.models(audited=False))
    assert "'drop_audit_trigger', 'account', 'account_audit'" in message
    if states.HEADER_MISSING not in case.kinds:  # then nothing says what was meant
        assert [kind for kind in case.kinds if f"{kind}: " not in message] == []

    project.migrate(case.models(audited=False))
    ended = snapshot(database.engine)
    assert {} == ended["functions"]
    assert {} == ended["triggers"]
    assert EMPTY == project.revision(case.models(audited=False))
    project.forget()

    undo(case, project)
    assert drifted == snapshot(database.engine)

    script = tmp_path / "script.sql"
    psql(server, database, script, project.sql("upgrade", "0001:0002"))
    assert ended == snapshot(database.engine)
    psql(server, database, script, project.sql("downgrade", "0002:0001"))
    assert drifted == snapshot(database.engine)


def test_every_kind_is_tested() -> None:
    """No kind of drift is without a case."""
    kinds = {
        value for name, value in vars(states).items() if name.isupper() and isinstance(value, str)
    }
    kinds -= {states.STOPPED}  # no drift: the state of a trail that was ended
    assert len(kinds) == 18

    assert kinds == {kind for case in CASES for kind in case.kinds}


def test_audit_table_made_anew(tmp_path: Path, server: postgres.Server, database: Database) -> None:
    """Nobody but the owner has a privilege on it, whatever default privileges say."""
    project = Project(tmp_path, database)
    project.migrate(models())
    meant = snapshot(project.engine)
    acl = meant["relations"]["public.account_audit"]["acl"]
    assert all(one.startswith("postgres ") for one in acl)
    project.execute(
        "DROP TABLE account_audit",
        *(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON {kind} TO PUBLIC" for kind in MADE),
        *(
            f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON {kind} TO PUBLIC"
            for kind in MADE
        ),
    )
    drifted = snapshot(project.engine)

    text = project.migrate(models())
    assert "replaces={'audit_table_missing': True}" in text
    assert meant == snapshot(project.engine)

    project.config.attributes["check_trails"] = False
    project.downgrade()
    assert drifted == snapshot(project.engine)
    psql(server, database, tmp_path / "script.sql", project.sql("upgrade", "0001:0002"))
    assert meant == snapshot(project.engine)


def test_audit_table_made_anew_with_records(tmp_path: Path, database: Database) -> None:
    """It goes on recording after the downgrade that would drop it: its records stay."""
    project = Project(tmp_path, database)
    project.migrate(models())
    meant = snapshot(project.engine)
    project.execute("DROP TABLE account_audit")
    project.migrate(models())
    project.execute("INSERT INTO account VALUES (1, 'a')")

    project.downgrade()
    assert meant == snapshot(project.engine)
    project.execute("INSERT INTO account VALUES (2, 'b')")
    project.upgrade()
    project.execute("INSERT INTO account VALUES (3, 'c')")
    expected = [(1, 1), (2, 2), (3, 3)]
    assert expected == project.rows("SELECT audit_id, id FROM account_audit ORDER BY 1")
    project.check(models())


def test_broken_trail_is_looked_at(tmp_path: Path, database: Database) -> None:
    """The line in env.py lets check and revision see a broken trail, and no migration pass."""
    project = Project(tmp_path, database)
    project.migrate(models())
    project.execute("ALTER TABLE account_audit DROP COLUMN email")
    drifted = snapshot(project.engine)

    assert f"{states.AUDIT_COLUMN_MISSING}: " in complaint(project, models())
    command.revision(project.config, "unrelated", rev_id="0002")
    with pytest.raises(CommandError, match=r"account_audit of public\.account has no column email"):
        project.upgrade()
    assert [("0001",)] == project.rows("SELECT version_num FROM alembic_version")
    assert drifted == snapshot(project.engine)


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


def both_audited(*columns: str) -> sa.MetaData:
    metadata = sa.MetaData()
    for name in ("account", "other"):
        sa.Table(
            name,
            metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            *(sa.Column(column, sa.Text) for column in columns),
            info={"audit.options": {"enabled": True, "level": "row"}},
        )
    return metadata


def test_triggers_swapped_between_two_tables(
    tmp_path: Path, server: postgres.Server, database: Database
) -> None:
    """Each calls the other's function: the migration mends both, its downgrade swaps them again."""
    project = Project(tmp_path, database)
    project.migrate(both_audited("email"))
    meant = snapshot(project.engine)
    events = "AFTER INSERT OR UPDATE OR DELETE"
    project.execute(
        'DROP TRIGGER "00_audit_account" ON account',
        'DROP TRIGGER "00_audit_other" ON other',
        f'CREATE TRIGGER "00_audit_account" {events} ON account FOR EACH ROW'
        " EXECUTE FUNCTION public_other_audit()",
        f'CREATE TRIGGER "00_audit_other" {events} ON other FOR EACH ROW'
        " EXECUTE FUNCTION public_account_audit()",
        'ALTER TABLE other DISABLE TRIGGER "00_audit_other"',
    )
    drifted = snapshot(project.engine)

    project.migrate(both_audited("email"))
    assert meant == snapshot(project.engine)
    project.downgrade()
    assert drifted == snapshot(project.engine)
    script = tmp_path / "script.sql"
    psql(server, database, script, project.sql("upgrade", "0001:0002"))
    assert meant == snapshot(project.engine)
    psql(server, database, script, project.sql("downgrade", "0002:0001"))
    assert drifted == snapshot(project.engine)


def test_column_dropped_by_hand_and_from_the_models(tmp_path: Path, database: Database) -> None:
    """The trail goes on without it; the downgrade brings the broken trail back, if it may."""
    project = Project(tmp_path, database)
    project.migrate(both_audited("email", "note"))
    project.execute("INSERT INTO account VALUES (1, 'a', 'n')")
    project.execute("ALTER TABLE account DROP COLUMN note", "ALTER TABLE other DROP COLUMN note")
    drifted = snapshot(project.engine)

    project.migrate(both_audited("email"))
    project.execute("UPDATE account SET email = 'b'")
    expected = [("I", "a", "n"), ("U", "b", None)]
    assert expected == project.rows(
        "SELECT audit_operation, email, note FROM account_audit ORDER BY audit_id"
    )
    with pytest.raises(CommandError, match=r"table public\.account has no column note"):
        project.downgrade()
    project.config.attributes["check_trails"] = False
    project.downgrade()
    assert drifted == snapshot(project.engine)
    project.upgrade()
    project.check(both_audited("email"))
