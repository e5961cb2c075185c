"""What nobody means well by: values that are hostile or large, and clients that are killed."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from unittest.mock import patch

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from alembic_audit.cli import main
from alembic_audit.cli.text import escaped, is_hidden
from tests.conftest import _database
from tests.pages import DOCS
from tests.test_terminal import Shop, alone, hostile, models, write, write_by_hand
from tools import postgres

__all__ = ["alone"]


@pytest.fixture(scope="module")
def one(server: postgres.Server) -> Iterator[Shop]:
    """A database with empty tables."""
    with _database(server) as database:
        made = Shop(database)
        write(made.engine, models())
        write(made.engine, hostile())
        yield made
        made.engine.dispose()


@pytest.fixture
def shop(one: Shop) -> Iterator[Shop]:
    """It, emptied after each test."""
    yield one
    write_by_hand(one, "DELETE FROM account; DELETE FROM account_audit")


def printed(shop: Shop, *arguments: str) -> str:
    """Return what a command prints; a terminal's colours and all."""
    with io.StringIO() as out, redirect_stdout(out):
        # The key is last, after "--": it may begin with "-".
        assert 0 == main([arguments[0], "--url", shop.url, *arguments[1:]])
        return out.getvalue()


# Whatever PostgreSQL stores: all but NUL and surrogates, and often what a terminal obeys.
text = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0")
    | st.sampled_from(
        "\x1b\x9b\x07\x7f\t\r\n\v\f\x85\u202e\u2066\u200f\u2028\u2029\u061c[]\\\ufeff"
    ),
    max_size=30,
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(*[text] * 4)
@example("\x1b[2J", "a\tb\r\nc\u202ed", "[red]x[/red]", "\u2028\x85")
def test_a_record_is_a_line(
    shop: Shop, alone: None, key: str, value: str, setting: str, role: str
) -> None:
    """In no column, setting or role is anything that ends a line or a field, or is obeyed."""
    (table,) = hostile().sorted_tables
    audit = sa.table(
        f"{table.name}_audit", sa.column("audit_operation"), sa.column("audit_current_user")
    )
    with shop.engine.begin() as connection:
        connection.execute(sa.text("SELECT set_config('audit.did', :it, true)"), {"it": setting})
        connection.execute(table.insert(), dict(zip(table.c.keys(), [key, value], strict=False)))
        connection.execute(table.update().values(when=value + "x"))
        connection.execute(sa.update(audit).values(audit_current_user=role))
        updated = sa.update(audit).where(audit.c.audit_operation == "U")
        connection.execute(updated.values(audit_operation="\x1b"))
    try:
        for arguments, count in (
            (["log", table.name, "--", key], 2),
            (["tail", table.name], 2),
            (["as-of", table.name, "audit:9999999", "--", key], 1),
            (["blame", table.name, "--", key], 4),
        ):
            out = printed(shop, *arguments)
            lines = out.split("\n")
            assert "" == lines.pop()
            assert 1 + count == len(lines)
            assert 1 == len({line.count("\t") for line in lines})
            assert set() == {one for one in out if is_hidden(one)} - {"\n", "\t"}
            with patch.dict(os.environ, FORCE_COLOR="1", TERM="dumb", COLUMNS="200"):
                out = printed(shop, *arguments)
            assert "\u2502" in out or "\u2503" in out
            assert set() == {one for one in out if is_hidden(one)} - {"\n"}
    finally:
        with shop.engine.begin() as connection:
            connection.execute(table.delete())
            connection.execute(sa.delete(audit))


LARGE = 10_000_000


@pytest.mark.parametrize("letter", ["x", "\u202e"])
def test_large_values(shop: Shop, alone: None, letter: str) -> None:
    """Of 10 MB people see the beginning and how long it is, everywhere; programs get all."""
    count = LARGE // len(letter.encode())
    write(
        shop.engine,
        models(),
        f"INSERT INTO account VALUES (1, repeat('{letter}', {count}))",
        f"UPDATE account SET email = repeat('{letter}', {count - 1})",
    )
    with shop.engine.connect() as connection:
        number = connection.scalar(sa.text("SELECT max(audit_id) FROM account_audit"))
    shown = ("x" if letter == "x" else "\\u202e") * 200 + "..."
    for arguments in (
        ["log", "account", "1"],
        ["show", str(number), "--table", "account"],
        ["tail", "account"],
        ["as-of", "account", f"audit:{number}"],
        ["blame", "account", "1"],
    ):
        out = printed(shop, *arguments)
        assert shown in out and len(out) < 8000
    whole = letter * (count - 1)
    (row,) = map(json.loads, printed(shop, "show", str(number), "--json").splitlines())
    assert (whole, whole + letter) == (row["row"]["email"], row["before"]["email"])
    assert escaped(whole) in printed(shop, "log", "account", "1", "--csv")


EXPORT = """
import sys, sqlalchemy as sa
from alembic_audit.reading.export import export
from tests.test_terminal import models
engine = sa.create_engine(sys.argv[1])
with engine.connect() as connection:
    for line in export(connection, models().tables["account"]):
        print(line.text, flush=True)
"""


def backends(shop: Shop) -> list[str]:
    """Return what the connections of killed clients are at."""
    statement = "SELECT state FROM pg_stat_activity WHERE application_name = 'killed'"
    with shop.engine.connect() as connection:
        return list(connection.exec_driver_sql(statement).scalars())


@pytest.mark.parametrize("what", ["export", "as-of"])
@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_client_that_goes_away(shop: Shop, alone: None, what: str, end: str) -> None:
    """Whether its pipe is closed or it is killed, it leaves no transaction open."""
    write_by_hand(shop, "INSERT INTO account SELECT generate_series(1, 20000)")
    url = sa.make_url(shop.url).update_query_dict({"application_name": "killed"})
    text = url.render_as_string(hide_password=False)
    command = [sys.executable, "-W", "error"]
    if what == "export":
        command += ["-c", EXPORT, text]
    else:
        command += ["-m", "alembic_audit", what, "account", "audit:9999999", "--url", text]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=DOCS.parent
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        assert 1 == len(backends(shop))
        if end == "close":
            process.stdout.close()
        else:
            process.kill()
        process.wait(timeout=20)
        said = process.stderr.read().decode()
    for _ in range(100):
        if not (left := backends(shop)):
            break
        time.sleep(0.05)
    assert [] == left
    if what == "as-of" or end == "kill":
        assert "" == said
    else:
        assert said.endswith("BrokenPipeError: [Errno 32] Broken pipe\n")
