"""What autogenerate says beside the migration: refusals, warnings, and that history is kept."""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.util import CommandError

from tests.catalogs import snapshot
from tests.conftest import Database
from tests.journey import EMPTY
from tests.project import Project


def models(
    *names: str, columns: Sequence[str] = ("email",), audited: bool = True, **kwargs: Any
) -> sa.MetaData:
    options = kwargs.pop("options", {})
    schema = kwargs.pop("schema", None)
    metadata = sa.MetaData(**kwargs)
    for name in names:
        sa.Table(
            name,
            metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            *(sa.Column(column, sa.Text) for column in columns),
            schema=schema,
            info={"audit.options": {"enabled": True, "level": "row", **options}} if audited else {},
        )
    return metadata


def foreign(body: str, shape: str = "AFTER INSERT ON account FOR EACH ROW") -> tuple[str, ...]:
    """Return what makes somebody else's trigger, for a driver that leaves % alone."""
    return (
        f"CREATE FUNCTION foreign_one() RETURNS trigger LANGUAGE plpgsql AS $f$ {body} $f$",
        f"CREATE TRIGGER theirs {shape} EXECUTE FUNCTION foreign_one()",
    )


def logged(caplog: pytest.LogCaptureFixture, level: str) -> list[str]:
    """Return what the plugin said since the last time."""
    found = [
        record.getMessage()
        for record in caplog.records
        if record.levelname == level and record.name.startswith("alembic_audit")
    ]
    caplog.clear()
    return found


HOSTILE = {"audit.table": '%(table_name)s "Audit". b'}
SAME = [
    "INSERT INTO account_audit VALUES (1);",
    "insert\n\tinto\r\n  Account_AUDIT(id) VALUES (1);",
    "INSERT INTO public.account_audit (id) VALUES (1);",
    'INSERT INTO public . "account_audit"(id) VALUES (1);',
    'INSERT INTO "public"."account_audit" SELECT 1;',
    "INSERT /* here */ INTO -- there\n account_audit VALUES (1);",
    "IF true THEN INSERT INTO a VALUES (1); INSERT INTO account_audit VALUES (1); END IF;",
    "EXECUTE 'INSERT INTO account_audit VALUES (1)';",
    "MERGE INTO account_audit AS a USING other AS o ON false WHEN NOT MATCHED THEN DO NOTHING;",
    "WITH x AS (INSERT INTO account_audit VALUES (1) RETURNING 1) INSERT INTO a SELECT * FROM x;",
]
OTHER = [
    "INSERT INTO account_audit2 VALUES (1);",
    "INSERT INTO archive.account_audit VALUES (1);",
    'INSERT INTO "Account_audit" VALUES (1);',
    'INSERT INTO "account_audit.x" VALUES (1);',
    "INSERT INTO account_audit.other VALUES (1);",
    "-- INSERT INTO account_audit VALUES (1);\n",
    "/* once:\n INSERT INTO account_audit VALUES (1); */",
    "PERFORM 1 FROM account_audit;",
]


@pytest.mark.parametrize("begun", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("statement", SAME)
def test_second_trail(statement: str, begun: bool, tmp_path: Path, database: Database) -> None:
    """Somebody else's trigger that inserts into the audit table stops autogenerate."""
    project = Project(tmp_path, database)
    project.migrate(models("account", audited=begun))
    project.execute(*foreign(f"BEGIN {statement} RETURN NULL; END"))
    before = snapshot(project.engine)

    with pytest.raises(CommandError) as caught:
        project.revision(models("account"))
    assert str(caught.value) == (
        "trigger 'theirs' on account, which is not ours, inserts into the audit table "
        "'account_audit': every change would be recorded twice. To take the trail over, run: "
        "alembic -x audit_adopt=yes revision --autogenerate; see docs/adoption.md"
    )
    assert before == snapshot(project.engine)


@pytest.mark.parametrize("name", ['public."account ""Audit"". b"', '"account ""Audit"". b"'])
def test_second_trail_of_a_hostile_name(name: str, tmp_path: Path, database: Database) -> None:
    """A name with spaces, dots and quotes is read as PostgreSQL reads it."""
    project = Project(tmp_path, database)
    project.migrate(models("account", audited=False))
    project.execute(*foreign(f"BEGIN INSERT INTO {name} VALUES (1); RETURN NULL; END"))

    with pytest.raises(CommandError, match="every change would be recorded twice"):
        project.revision(models("account", naming_convention=HOSTILE))
    project.migrate(models("account"))


@pytest.mark.parametrize("statement", OTHER)
def test_no_second_trail(statement: str, tmp_path: Path, database: Database) -> None:
    """A trigger that inserts elsewhere, or only talks of it, stops nothing and is left alone."""
    project = Project(tmp_path, database)
    project.migrate(models("account", audited=False))
    project.execute(*foreign(f"BEGIN {statement} RETURN NULL; END"))
    theirs = snapshot(project.engine)["triggers"]

    project.migrate(models("account"))
    assert theirs.items() <= snapshot(project.engine)["triggers"].items()


@pytest.mark.parametrize(
    ("shape", "warned"),
    [
        ("AFTER INSERT ON account FOR EACH ROW", True),
        ("AFTER UPDATE OR DELETE ON account FOR EACH ROW", True),
        ("BEFORE INSERT ON account FOR EACH ROW", False),
        ("AFTER INSERT ON account", False),
        ("AFTER TRUNCATE ON account", False),
    ],
)
def test_another_after_row_trigger(
    shape: str, warned: bool, tmp_path: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """It is named once, when the audit begins: its writes can be recorded before their cause."""
    project = Project(tmp_path, database)
    project.migrate(models("account", audited=False))
    project.execute(*foreign("BEGIN RETURN NULL; END", shape))
    logged(caplog, "WARNING")

    project.migrate(models("account"))
    message = (
        "Table account has another AFTER ROW trigger, theirs: in a statement of many rows it runs "
        "for an earlier row before a later row is recorded, so that what it writes to audited "
        "tables comes before its cause in the trail"
    )
    assert [message] * warned == logged(caplog, "WARNING")
    assert EMPTY == project.revision(models("account"))
    assert [] == logged(caplog, "WARNING")


@dataclass(frozen=True)
class Renamed:
    """Models whose tables or columns are renamed: what stays, and what SQL prepares."""

    name: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    setup: tuple[str, ...] = ()
    where: str = ""

    def __str__(self) -> str:
        return self.name


SETTINGS = [sa.Column("username", sa.Text), sa.Column("why", sa.Text, nullable=True)]
RENAMED = [
    Renamed("plain"),
    Renamed(
        "schemas",
        {
            "schema": "app %s",
            "options": {"schema_name": "Audit", "session_settings": SETTINGS, "always": True},
        },
        ('CREATE SCHEMA "app %%s"', 'CREATE SCHEMA "Audit"'),
        '"app %%s".',
    ),
    Renamed(
        "conventions",
        {
            "naming_convention": {
                "pk": "pk_%(table_name)s",
                "audit.table": 'old_%(table_name)s\'s "%%s"',
                "audit.function": "f_%(table_name)s",
                "audit.trigger": "t_%(table_name)s",
                "audit.setting": "set_%(setting)s",
            },
            "options": {"session_settings": SETTINGS, "hash_columns": ["secret"]},
        },
    ),
]


def paste(message: str) -> Callable[[str], str]:
    """Return what puts the call that a warning prints into upgrade(), instead of all else."""
    call = message[message.index("goes on: ") + len("goes on: ") :]
    return lambda text: re.sub(
        r"(?s)(def upgrade\(\):\n).*?(\n\n\ndef downgrade\(\):\n).*",
        lambda match: f"{match[1]}    {call}{match[2]}    pass\n",
        text,
    )


@pytest.mark.parametrize("case", RENAMED, ids=str)
def test_renamed_table(
    case: Renamed, tmp_path: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """A vanished and an appeared table look like a rename: the call that is printed does it."""
    project = Project(tmp_path, database, include_schemas=True)
    project.execute(*case.setup)
    columns = ("email", "secret")
    project.migrate(models("account", "unrelated", columns=columns, **case.kwargs))
    project.execute(f"INSERT INTO {case.where}account VALUES (1, 'a', 's')")
    logged(caplog, "WARNING")
    renamed = models("my konto", "unrelated", columns=columns, **case.kwargs)

    project.revision(renamed)
    (message,) = logged(caplog, "WARNING")
    assert message.startswith(
        "Table account vanishes and my konto, which looks like it, appears; if it was renamed, "
        "write instead, so that its trail goes on: op.rename_audited_table('account', 'my konto', "
    )
    project.edit(paste(message))
    project.upgrade()
    project.check(renamed)
    project.execute(f"UPDATE {case.where}\"my konto\" SET email = 'b'")
    audit = next(
        t
        for t in renamed.tables.values()
        if t.info.get("audit.is_audit_table") and "konto" in t.name
    )
    with project.engine.connect() as connection:
        rows = connection.execute(
            sa.select(audit.c.audit_operation, audit.c.email).order_by(audit.c.audit_id)
        )
        assert [("I", "a"), ("U", "b")] == [tuple(row) for row in rows]


@pytest.mark.parametrize(("old", "new"), [("email", "e-mail '%s'"), ("secret", "geheim")])
@pytest.mark.parametrize("case", RENAMED, ids=str)
def test_renamed_column(
    case: Renamed,
    old: str,
    new: str,
    tmp_path: Path,
    database: Database,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A vanished and an appeared column look like a rename: the call that is printed does it."""
    project = Project(tmp_path, database, include_schemas=True)
    project.execute(*case.setup)
    columns = ["email", "secret"]
    project.migrate(models("account", columns=columns, **case.kwargs))
    project.execute(f"INSERT INTO {case.where}account VALUES (1, 'a', 'a')")
    records = history_of(project)
    logged(caplog, "WARNING")
    kwargs = dict(case.kwargs)
    if "hash_columns" in kwargs.get("options", {}) and old == "secret":
        kwargs["options"] = {**kwargs["options"], "hash_columns": [new]}
    renamed = models("account", columns=[new if c == old else c for c in columns], **kwargs)

    project.revision(renamed)
    (message,) = logged(caplog, "WARNING")
    assert message.startswith(
        f"Column {old} of account vanishes and {new} appears; if it was renamed, write instead, "
        f"so that its history goes on: op.rename_audited_column('account', {old!r}, {new!r}, "
    )
    project.edit(paste(message))
    project.upgrade()
    project.check(renamed)
    assert records == history_of(project)
    project.execute(f"UPDATE {case.where}account SET id = 2")
    assert len(records) + 2 == len(history_of(project))


def history_of(project: Project) -> list[tuple[Any, ...]]:
    """Return the records of the only audit table, in order, without the names of columns."""
    ((table,),) = project.rows(
        "SELECT attrelid::regclass::text FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = "
        "attrelid AND relkind = 'r' WHERE attname = 'audit_id'"
    )
    return project.rows("SELECT * FROM " + table.replace("%", "%%") + " ORDER BY audit_id")


def test_nothing_looks_renamed(
    tmp_path: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Tables with other columns, and two columns at once, are no rename."""
    project = Project(tmp_path, database)
    project.migrate(models("account"))
    project.migrate(models("konto", columns=["iban", "bic"]))
    project.migrate(models("konto", columns=["a", "b"]))
    assert [] == logged(caplog, "WARNING")


@pytest.mark.parametrize("gone", ["option", "table"])
def test_kept(
    gone: str, tmp_path: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Where Alembic says that an audit table was removed, it is said that it is kept, each time."""
    project = Project(tmp_path, database)
    project.migrate(models("account"))
    project.execute("INSERT INTO account VALUES (1, 'a')")
    after = models("account", audited=False) if gone == "option" else models()
    message = "Kept audit table account_audit: its records go only when a person drops them"

    with caplog.at_level(logging.INFO):
        project.revision(after)
        assert message in logged(caplog, "INFO")
        project.upgrade()
        assert EMPTY == project.revision(after)
        assert message in logged(caplog, "INFO")
    assert [("a",)] == project.rows("SELECT email FROM account_audit")
