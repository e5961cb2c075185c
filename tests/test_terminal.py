"""alembic-audit log, tail, show, as-of, blame, status: what they print, and bad input."""

import csv
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alembic_audit.cli import main
from alembic_audit.cli.text import escaped, is_hidden
from alembic_audit.tables import derive_all
from tests.catalogs import snapshot
from tests.conftest import Database, _database
from tests.pages import blocks, read
from tools import postgres

ROLE = f"reader_{os.getpid()}"
WRITES = {
    "ann": "INSERT INTO account VALUES (1, 'a@x', 'Rome')",
    "ben": "UPDATE account SET email = 'b@x'",
    "cid": "UPDATE account SET id = 7",
}


def models() -> sa.MetaData:
    metadata = sa.MetaData()
    sa.Table(
        "account",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.Text),
        sa.Column("city", sa.Text),
        info={
            "audit.options": {
                "enabled": True,
                "session_settings": [sa.Column("username", sa.Text)],
            }
        },
    )
    return metadata


def write(engine: sa.Engine, metadata: sa.MetaData, *statements: str, who: str = "") -> None:
    """Create tables that are missing, and change rows."""
    derive_all(metadata)
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("SELECT set_config('audit.username', :who, true)"), {"who": who})
        for statement in statements:
            connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


class Shop:
    """A database with a trail, and the command that reads it."""

    def __init__(self, database: Database) -> None:
        self.engine = database.engine
        self.url = database.url().render_as_string(hide_password=False)

    def run(self, *arguments: str) -> int:
        return main([*arguments, "--url", self.url])


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ALEMBIC_CONFIG", "DATABASE_URL", "PGHOST", "PGDATABASE", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def shop(server: postgres.Server) -> Iterator[Shop]:
    """The trail of docs/terminal.md, with the times and numbers of that page."""
    with _database(server) as database:
        made = Shop(database)
        for who, statement in WRITES.items():
            write(made.engine, models(), statement, who=who)
        write(
            made.engine,
            models(),
            "UPDATE account_audit SET audit_transaction_id = 750 + least(audit_id, 3), "
            "audit_current_user = 'postgres', audit_operation_timestamp = "
            "'2026-01-31 12:00:00+00'::timestamptz + interval '1 second' * least(audit_id, 3)",
        )
        yield made
        made.engine.dispose()


@pytest.fixture
def fresh(database: Database) -> Iterator[Shop]:
    """A database of one test."""
    yield Shop(database)
    database.engine.dispose()


EXAMPLES = dict(
    example for block in blocks(read("terminal.md"), "console") for example in block.examples()
)
"""The commands of the page, each with what it prints."""


@pytest.mark.parametrize("command", EXAMPLES)
def test_page(command: str, shop: Shop, alone: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Every example of docs/terminal.md prints what stands there."""
    program, *arguments = shlex.split(command)
    assert "alembic-audit" == program

    code = shop.run(*arguments)

    out, err = capsys.readouterr()
    # The size depends on the version of PostgreSQL.
    assert EXAMPLES[command] == re.sub(r"\d+ kB", "48 kB", out) + err
    assert (2 if err else 0) == code


def test_json_of_every_command(shop: Shop, alone: None, capsys: pytest.CaptureFixture[str]) -> None:
    """--json prints an object on each line, with the values as JSON has them."""

    def lines(*arguments: str) -> list[Any]:
        assert 0 == shop.run(*arguments, "--json")
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    log = lines("log", "account", "1")
    assert [3, 2, 1] == [one["audit_id"] for one in log]
    assert {
        "table": "public.account",
        "audit_id": 2,
        "operation": "U",
        "timestamp": "2026-01-31T12:00:02+00:00",
        "transaction_id": 752,
        "current_user": "postgres",
        "settings": {"username": "ben"},
        "row": {"id": 1, "email": "b@x", "city": "Rome"},
        "before": {"id": 1, "email": "a@x", "city": "Rome"},
        "changed": ["email"],
        "dropped": {},
    } == log[1]
    assert [log[1]] == lines("show", "2")
    assert [1, 2, 3, 4] == [one["audit_id"] for one in lines("tail")]
    assert [{"id": 1, "email": "a@x", "city": "Rome"}] == lines("as-of", "account", "tx:751")
    assert {
        "column": "email",
        "value": "b@x",
        "role": "postgres",
        "audit.username": "cid",
        "when": "2026-01-31T12:00:03+00:00",
        "did": "updated",
        "audit_id": 4,
    } == lines("blame", "account", "7")[1]
    (status,) = lines("status")
    assert isinstance(status.pop("bytes"), int)
    assert {
        "table": "public.account",
        "audit table": "public.account_audit",
        "state": "ok",
        "records": 4,
        "first": "2026-01-31 12:00:01+00",
        "last": "2026-01-31 12:00:03+00",
    } == status


def test_csv_of_every_command(shop: Shop, alone: None, capsys: pytest.CaptureFixture[str]) -> None:
    """--csv has a line of names, and a field for each."""
    for arguments in (
        ["log", "account", "1"],
        ["tail"],
        ["show", "2"],
        ["as-of", "account", "audit:4"],
        ["blame", "account", "7"],
        ["status"],
    ):
        assert 0 == shop.run(*arguments, "--csv")
        names, *rows = csv.reader(io.StringIO(capsys.readouterr().out))
        assert rows and {len(names)} == {len(row) for row in rows}


def test_configuration(
    shop: Shop, alone: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The URL of alembic.ini is read, and env.py is not run."""
    escaped_url = shop.url.replace("%", "%%")
    (tmp_path / "env.py").write_text("raise AssertionError")
    (tmp_path / "alembic.ini").write_text(
        f"[alembic]\nscript_location = %(here)s\nsqlalchemy.url = {escaped_url}\n"
        "[other]\nscript_location = %(here)s\n"
    )

    for arguments in (["-c", "alembic.ini"], []):
        assert 0 == main(["log", "account", "1", *arguments])
        assert 4 == len(capsys.readouterr().out.splitlines())
    assert 2 == main(["log", "account", "1", "-c", "alembic.ini", "-n", "other"])
    assert (
        "alembic-audit: alembic.ini has no sqlalchemy.url; write --url\n" == capsys.readouterr().err
    )


def test_the_url_of_the_template_of_alembic_is_none(
    shop: Shop,
    alone: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What `alembic init` writes says nothing: the environment is asked."""
    (tmp_path / "alembic.ini").write_text(
        "[alembic]\nscript_location = %(here)s\n"
        "sqlalchemy.url = driver://user:pass@localhost/dbname\n"
    )
    monkeypatch.setenv("DATABASE_URL", shop.url)
    assert 0 == main(["log", "account", "1"])
    assert 4 == len(capsys.readouterr().out.splitlines())
    assert 2 == main(["log", "account", "1", "-c", "alembic.ini"])
    assert "alembic.ini has no sqlalchemy.url" in capsys.readouterr().err


def test_environment(
    shop: Shop,
    alone: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """libpq's variables say which database as well."""
    url = shop.engine.url
    monkeypatch.setenv("PGDATABASE", str(url.database))
    monkeypatch.setenv("PGHOST", str(url.query.get("host") or url.host))
    monkeypatch.setenv("PGUSER", str(url.username))
    if port := url.port or url.query.get("port"):
        monkeypatch.setenv("PGPORT", str(port))
    if url.password:
        monkeypatch.setenv("PGPASSWORD", str(url.password))

    assert 0 == main(["status"])
    assert "public.account_audit" in capsys.readouterr().out


def test_terminal(
    shop: Shop,
    alone: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On a terminal there is a table, and what changed is marked; progress goes to stderr."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")

    assert 0 == shop.run("log", "account", "1")
    assert "\x1b[31ma@x\x1b[0m\x1b[2m -> \x1b[0m\x1b[1;32mb@x\x1b[0m" in capsys.readouterr().out
    assert 0 == shop.run("status")
    out, err = capsys.readouterr()
    assert "counting" in err and "counting" not in out and "┏" in out
    assert 0 == shop.run("as-of", "account", "audit:4", "--csv")
    out, err = capsys.readouterr()
    assert "id,email,city\n7,b@x,Rome\n" == out and "reading" in err


def test_terminal_shows_the_first_hundred(
    fresh: Shop,
    alone: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A terminal is shown a hundred rows and told so; a pipe gets all."""
    write(fresh.engine, models(), "INSERT INTO account SELECT generate_series(1, 150)")

    assert 0 == fresh.run("as-of", "account", "audit:150")
    assert 151 == len(capsys.readouterr().out.splitlines())
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert 0 == fresh.run("as-of", "account", "audit:150")
    assert capsys.readouterr().out.endswith("the first 100 rows; --limit shows more\n")
    assert 0 == fresh.run("as-of", "account", "audit:150", "--limit", "3")
    assert "--limit" not in capsys.readouterr().out


def test_nothing_changes(fresh: Shop, alone: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command runs where nothing can be written."""
    write(fresh.engine, models(), *WRITES.values())
    before = snapshot(fresh.engine)
    write(
        fresh.engine,
        models(),
        f'ALTER DATABASE "{fresh.engine.url.database}" SET default_transaction_read_only = on',
    )

    for arguments in (
        ["log", "account", "1"],
        ["tail"],
        ["show", "2"],
        ["as-of", "account", "audit:4"],
        ["blame", "account", "7"],
        ["status"],
    ):
        assert 0 == fresh.run(*arguments)
    assert before == snapshot(fresh.engine)


WRONG = {
    "table": (
        ["tail", "nope"],
        "'nope' is not audited: `alembic-audit status` lists those that are",
    ),
    "type_of_key": (["log", "account", "abc"], 'invalid input syntax for type integer: "abc"'),
    "range_of_key": (
        ["log", "account", "9" * 30],
        f'value "{"9" * 30}" is out of range for type integer',
    ),
    "key": (
        ["blame", "account", "1"],
        "there is no row: nothing is recorded of public.account with id = 1, or it was deleted",
    ),
    "parts_of_key": (["log", "account", "1", "2"], "the key of public.account is (id); write ID"),
    "moment": (
        ["as-of", "account", "yesterday"],
        "'yesterday' is no moment; write 2026-01-31T12:00:00+01:00, audit:17, tx:755 or settled",
    ),
    "number": (
        ["as-of", "account", "audit:x"],
        "'audit:x' is no moment; write 2026-01-31T12:00:00+01:00, audit:17, tx:755 or settled",
    ),
    "before": (
        ["as-of", "account", "audit:0", "1"],
        "nothing is recorded of public.account with id = 1 as of audit:0",
    ),
    "record": (["show", "999"], "no trail has a record 999"),
    "control": (
        ["log", "a\x1b[31m", "1"],
        "'a\\x1b[31m' is not audited: `alembic-audit status` lists those that are",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong(name: str, shop: Shop, alone: None, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be answered is one line on stderr, and 2."""
    arguments, message = WRONG[name]

    assert 2 == shop.run(*arguments)
    assert ("", f"alembic-audit: {message}\n") == tuple(capsys.readouterr())


def test_composite_key_hashes_and_truncate(
    fresh: Shop, alone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key of several columns is as many arguments; hashes and TRUNCATE are shown as such."""
    metadata = sa.MetaData()
    sa.Table(
        "line",
        metadata,
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("code", sa.CHAR(3), primary_key=True),
        sa.Column("secret", sa.Text),
        info={"audit.options": {"enabled": True, "hash_columns": ["secret"]}},
    )
    write(
        fresh.engine,
        metadata,
        "INSERT INTO line VALUES (1, 'abc', 's'), (1, 'a', NULL), (2, 'abc', NULL)",
        "TRUNCATE line",
    )

    def printed(*arguments: str) -> list[list[str]]:
        assert 0 == fresh.run(*arguments)
        return [line.split("\t") for line in capsys.readouterr().out.splitlines()[1:]]

    assert [["truncated", ""], ["inserted", "number: 1; code: a"]] == [
        row[-2:] for row in printed("log", "line", "1", "a")
    ]
    (_, (*_, what)) = printed("log", "line", "1", "abc")
    assert re.fullmatch(r"number: 1; code: abc; secret_sha256: \\x[0-9a-f]{64}", what)
    assert [["1", "abc"]] == printed("as-of", "line", "audit:3", "1", "abc")
    assert [] == printed("as-of", "line", "audit:4")
    assert 2 == fresh.run("log", "line", "1")
    assert (
        "alembic-audit: the key of public.line is (number, code); write NUMBER CODE\n"
        == capsys.readouterr().err
    )


def test_two_schemas(fresh: Shop, alone: None, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that two schemas have is asked for; the default schema's is meant by itself."""
    metadata = sa.MetaData()
    for schema in ("north", "south"):
        sa.Table(
            "account",
            metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            schema=schema,
            info={"audit.options": {"enabled": True}},
        )
        with fresh.engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
    write(fresh.engine, metadata, "INSERT INTO south.account VALUES (1)")

    assert 2 == fresh.run("log", "account", "1")
    assert (
        "alembic-audit: 'account' is one of north.account, south.account; write which\n"
        == capsys.readouterr().err
    )
    assert 0 == fresh.run("log", "south.account", "1")
    write(fresh.engine, models(), "INSERT INTO account VALUES (1)")
    assert 0 == fresh.run("log", "account", "1")
    assert 0 == fresh.run("tail", "-n", "1")
    assert "public.account" in capsys.readouterr().out.splitlines()[-1]


def test_trails_that_cannot_be_read(
    fresh: Shop, alone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """classic and keyless trails are refused with the reason, or left out of all."""
    metadata = models()
    for name, options in {"plain": {"audit_columns": "classic"}, "keyless": {}}.items():
        sa.Table(
            name,
            metadata,
            sa.Column("id", sa.Integer, primary_key=name == "plain"),
            info={"audit.options": {"enabled": True, **options}},
        )
    write(fresh.engine, metadata, "INSERT INTO account VALUES (1)", "INSERT INTO plain VALUES (1)")

    assert 2 == fresh.run("log", "plain", "1")
    assert "has the layout 'classic'" in capsys.readouterr().err
    assert 2 == fresh.run("log", "keyless", "1")
    assert "has no primary key" in capsys.readouterr().err
    assert 0 == fresh.run("tail")
    out, err = capsys.readouterr()
    assert 2 == len(out.splitlines())
    assert ["public.keyless is left out", "public.plain is left out"] == [
        line.partition(":")[0] for line in err.splitlines()
    ]
    assert 0 == fresh.run("status", "--json")
    assert [1, 0, 1] == [
        json.loads(line)["records"] for line in capsys.readouterr().out.splitlines()
    ]


def test_columns_that_changed(fresh: Shop, alone: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Columns that are gone, set aside or added by hand: what there is, is read."""
    write(
        fresh.engine,
        models(),
        *WRITES.values(),
        "ALTER TABLE account_audit RENAME city TO city__text",
        "ALTER TABLE account DROP COLUMN city",
    )

    assert 0 == fresh.run("show", "1")
    assert capsys.readouterr().out.endswith("email\ta@x\ncity__text (dropped)\tRome\n")
    assert 0 == fresh.run("as-of", "account", "audit:4")
    assert "id\temail\n7\tb@x\n" == capsys.readouterr().out
    assert 0 == fresh.run("status")
    assert "column missing" in capsys.readouterr().out
    for statement, message in {
        "ALTER TABLE account_audit RENAME id TO old": "has no id any more",
        "ALTER TABLE account_audit DROP COLUMN audit_id CASCADE": "has no audit_id",
        "DROP TABLE account_audit": "is gone",
    }.items():
        write_by_hand(fresh, statement)
        assert 2 == fresh.run("log", "account", "1")
        assert message in capsys.readouterr().err
    assert 0 == fresh.run("status")
    assert "audit table missing" in capsys.readouterr().out


@pytest.mark.parametrize("then", [None, "ALTER TABLE page_audit DROP COLUMN body"])
def test_sparse_columns(
    then: str | None, fresh: Shop, alone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a record left out is what was stored last; where its column is gone, nothing is said."""
    metadata = sa.MetaData()
    sa.Table(
        "page",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("title", sa.Text),
        sa.Column("body", sa.Text),
        info={"audit.options": {"enabled": True, "sparse_columns": ["body"]}},
    )
    write(fresh.engine, metadata, "INSERT INTO page VALUES (1, 'a', 'text')")
    write(fresh.engine, metadata, "UPDATE page SET title = 'b'")
    if then:
        write_by_hand(fresh, then)
    body = {} if then else {"body": "text"}

    assert 0 == fresh.run("log", "page", "1", "--json")
    newest, first = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert {"id": 1, "title": "b", **body} == newest["row"]
    assert {"id": 1, "title": "a", **body} == newest["before"] == first["row"]
    assert ["title"] == newest["changed"]
    assert 0 == fresh.run("as-of", "page", "audit:2", "--json")
    assert {"id": 1, "title": "b", **body} == json.loads(capsys.readouterr().out)
    for command in (["show", "2"], ["tail"], ["blame", "page", "1"], ["status"]):
        assert 0 == fresh.run(*command)
    assert ("text" in capsys.readouterr().out) is (then is None)
    assert 0 == fresh.run("log", "page", "1", "--csv")
    assert ("{body}" in capsys.readouterr().out) is (then is None)
    write_by_hand(fresh, "ALTER TABLE page_audit DROP COLUMN audit_omitted_columns")
    assert 0 == fresh.run("log", "page", "1")
    assert "body=" not in capsys.readouterr().out.splitlines()[0]


def write_by_hand(shop: Shop, statement: str) -> None:
    with shop.engine.begin() as connection:
        connection.exec_driver_sql(statement)


def test_role_that_may_not_read(
    fresh: Shop, alone: None, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without SELECT it says so; of all tables it leaves out the one."""
    write(
        fresh.engine,
        models(),
        *WRITES.values(),
        f"CREATE ROLE {ROLE} LOGIN",
    )
    url = database.url(user=ROLE).render_as_string(hide_password=False)
    try:
        assert 2 == main(["log", "account", "1", "--url", url])
        assert (
            "alembic-audit: permission denied for table account_audit\n" == capsys.readouterr().err
        )
        assert 0 == main(["tail", "--url", url])
        assert (
            "",
            "public.account is left out: permission denied for table account_audit\n",
        ) == tuple(capsys.readouterr())
        assert 0 == main(["status", "--url", url, "--json"])
        out, err = capsys.readouterr()
        assert json.loads(out)["records"] == 0 and "is an estimate" in err
        write_by_hand(fresh, f"GRANT SELECT ON account_audit TO {ROLE}")
        assert 0 == main(["log", "account", "1", "--url", url])
    finally:
        write_by_hand(fresh, f"DROP OWNED BY {ROLE}")
        write_by_hand(fresh, f"DROP ROLE {ROLE}")


def test_closed_pipe(fresh: Shop, alone: None) -> None:
    """Who closes the pipe gets no traceback."""
    write(fresh.engine, models(), "INSERT INTO account SELECT generate_series(1, 5000)")
    command = [sys.executable, "-W", "error", "-m", "alembic_audit"]
    with subprocess.Popen(
        [*command, "as-of", "account", "audit:5000", "--url", fresh.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert "id\temail\tcity\n" == process.stdout.readline()
        process.stdout.close()
        assert "" == process.stderr.read()
        assert 141 == process.wait()


def test_other_driver(shop: Shop, alone: None, capsys: pytest.CaptureFixture[str]) -> None:
    """psycopg 3 prints the same."""
    printed = []
    for driver in ("psycopg2", "psycopg"):
        url = shop.url.replace("+psycopg2", f"+{driver}")
        for arguments in (
            ["log", "account", "1", "--json"],
            ["as-of", "account", "2026-01-31T12:00:02Z", "1"],
            ["blame", "account", "7"],
            ["tail"],
        ):
            assert 0 == main([*arguments, "--url", url])
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


HOSTILE = "[red]x[/] \x1b[31m\x9b\x7f\u202e\u2028\t\r\n'\"\\,%s :y {z} é \U000e0001"


def hostile() -> sa.MetaData:
    metadata = sa.MetaData()
    name = "o\"d[b]%s :x'[/]"
    sa.Table(
        name,
        metadata,
        sa.Column('k"[i]', sa.Text, primary_key=True),
        sa.Column("v:é%(w)s", sa.Text),
        sa.Column("when", sa.Text),
        sa.Column("h", sa.Text),
        info={
            "audit.options": {
                "enabled": True,
                "hash_columns": ["h"],
                "session_settings": [sa.Column("role", sa.Text), sa.Column("did", sa.Text)],
            }
        },
    )
    return metadata


def hostile_is_recorded(engine: sa.Engine, value: str) -> str:
    metadata = hostile()
    (table, *_) = metadata.tables.values()
    derive_all(metadata)
    metadata.create_all(engine)
    with engine.begin() as connection:
        for name in ("role", "did"):
            connection.execute(
                sa.text(f"SELECT set_config('audit.{name}', :value, true)"), {"value": value}
            )
        names = [column.name for column in table.columns]
        connection.execute(table.insert(), [dict.fromkeys(names, value)])
        connection.execute(table.update().values({names[1]: value + "!"}))
    return str(table.name)


@pytest.mark.parametrize("form", ["", "--json", "--csv", "color"])
def test_markup_and_control_characters(
    form: str,
    fresh: Shop,
    alone: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever stands in names, settings and values, no terminal is told anything by it."""
    name = hostile_is_recorded(fresh.engine, HOSTILE)
    if form == "color":
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "1000")
    options = [form] if form.startswith("--") else []

    for arguments in (
        ["log", name, HOSTILE],
        ["tail"],
        ["show", "2"],
        ["as-of", name, "audit:2", HOSTILE],
        ["blame", name, HOSTILE],
        ["status"],
    ):
        assert 0 == fresh.run(*arguments, *options), capsys.readouterr().err
        out = capsys.readouterr().out
        out = re.sub(r"\x1b\[[0-9;]*m", "", out) if form == "color" else out
        assert "[red]x[/]" in out or arguments == ["status"]
        # Between the fields of a line there are tabs, in those of CSV line breaks.
        assert set() == {one for one in out if is_hidden(one)} - {"\n", "\t"}
        if form == "--csv":
            assert "\t" not in out


def test_hostile_values_come_back(
    fresh: Shop, alone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON holds exactly what was written; CSV all of it, control characters shown."""
    name = hostile_is_recorded(fresh.engine, HOSTILE)

    assert 0 == fresh.run("as-of", name, "audit:2", "--json")
    expected = [HOSTILE, HOSTILE + "!", HOSTILE]
    assert expected == list(json.loads(capsys.readouterr().out).values())
    assert 0 == fresh.run("as-of", name, "audit:2", "--csv")
    # What is read as text has \r\n as \n; that of a file has not.
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out, newline="")))
    assert ["\n".join(map(escaped, one.split("\n"))) for one in expected] == rows[1]


FORMULAS = ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "-", "=", "+x", "\uff1d1+1"]
NUMBERS = ["-1", "+1", "-1.50", "-1e5", "1", "", "a=b", "é"]


def test_csv_is_nothing_that_a_spreadsheet_computes(
    fresh: Shop, alone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A text that begins a formula has an apostrophe before it, in a cell and in a name."""
    metadata = sa.MetaData()
    sa.Table(
        "account",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("=name", sa.Text),
        info={"audit.options": {"enabled": True}},
    )
    derive_all(metadata)
    metadata.create_all(fresh.engine)
    with fresh.engine.begin() as connection:
        rows = [{"id": n, "=name": v} for n, v in enumerate(FORMULAS + NUMBERS)]
        connection.execute(metadata.tables["account"].insert(), rows)
    assert 0 == fresh.run("as-of", "account", "audit:99", "--csv")
    names, *found = csv.reader(io.StringIO(capsys.readouterr().out))
    assert ["id", "'=name"] == names
    values = [value for _, value in sorted(found, key=lambda row: int(row[0]))]
    assert [*(f"'{escaped(one)}" for one in FORMULAS), *NUMBERS] == values


def test_csv_without_a_row_has_its_header(
    fresh: Shop, alone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """as-of of a time before any row: a line of names and none of values."""
    write(fresh.engine, models(), WRITES["ann"])
    for option, between in ((["--csv"], ","), ([], "\t")):
        assert 0 == fresh.run("as-of", "account", "audit:0", *option)
        assert between.join(["id", "email", "city"]) + "\n" == capsys.readouterr().out
    assert 0 == fresh.run("as-of", "account", "audit:0", "--json")
    assert "" == capsys.readouterr().out


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_several_trails(
    database: Database, driver: str, alone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command that reads, where several trails have a record of that number."""
    shop = Shop(database)
    shop.url = database.url(driver).render_as_string(hide_password=False)
    names = ["a", "b", "c"]
    metadata = sa.MetaData()
    for name in names:
        sa.Table(
            name,
            metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("note", sa.Text),
            info={"audit.options": {"enabled": True}},
        )
    derive_all(metadata)
    metadata.create_all(shop.engine)
    with shop.engine.begin() as connection:
        for statement in ("INSERT INTO {} VALUES (1, 'x')", "UPDATE {} SET note = 'y'"):
            for name in names:
                connection.exec_driver_sql(statement.format(name))

    def told(*arguments: str) -> list[Any]:
        assert 0 == shop.run(*arguments, "--json"), capsys.readouterr().err
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    tables = [f"public.{name}" for name in names]
    for number, note in ((1, "x"), (2, "y")):
        records = told("show", str(number))
        assert tables == [record["table"] for record in records]
        assert [note] * 3 == [record["row"]["note"] for record in records]
        for name in names:
            (record,) = told("show", str(number), "--table", name)
            assert f"public.{name}" == record["table"]
    some = told("show", "1", "--table", "a", "--table", "b")
    assert tables[:2] == [record["table"] for record in some]
    assert 6 == len(told("tail")) and 4 == len(told("tail", "a", "c"))
    assert tables == [row["table"] for row in told("status")]
    for name in names:
        assert ["y", "x"] == [record["row"]["note"] for record in told("log", name, "1")]
        assert [{"id": 1, "note": "x"}] == told("as-of", name, "audit:1")
        assert 2 == len(told("blame", name, "1"))
    assert 0 == shop.run("show", "2"), capsys.readouterr().err
    assert 3 == capsys.readouterr().out.count("x -> y")


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text().filter(lambda text: "\\" not in text))
def test_escaped(text: str) -> None:
    """Escaped text has no character that a terminal obeys, and other characters stay."""
    shown = escaped(text)

    assert shown.isprintable() or not any(map(is_hidden, shown))
    assert "".join(one for one in text if not is_hidden(one)) == re.sub(
        r"\\(?:[nrt]|x..|u....|U........)", "", shown
    )
