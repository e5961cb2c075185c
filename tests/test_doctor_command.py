"""alembic-audit doctor: its ways to the models, what it prints, its exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from alembic_audit.cli import main
from tests.catalogs import snapshot
from tests.conftest import Database
from tests.pages import blocks, read

MODELS = """\
import sqlalchemy as sa

metadata = sa.MetaData()
sa.Table(
    "account",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    info={"audit.options": {"enabled": True, "owner": "pg_monitor"}},
)
"""
ENV = """\
import runpy
from pathlib import Path

import sqlalchemy as sa
from alembic import context

print("printed by env.py")
models = runpy.run_path(str(Path(__file__).with_name("models.py")))
options = dict(autogenerate_plugins=["alembic.autogenerate.*", "alembic_audit"])
%s
engine = sa.create_engine(%r, poolclass=sa.NullPool)
with engine.connect() as connection:
    context.configure(
        connection=connection, **{"target_metadata": models["metadata"], **options}
    )
    with context.begin_transaction():
        context.run_migrations()
"""


class Shop:
    """An Alembic project of one audited table, which is healthy."""

    def __init__(self, path: Path, database: Database) -> None:
        self.path = path
        self.engine = database.engine
        self.url = database.url().render_as_string(hide_password=False)
        (path / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s\n")
        (path / "models.py").write_text(MODELS)
        self.env()

    def env(self, lines: str = "") -> None:
        (self.path / "env.py").write_text(ENV % (lines, self.url))

    def execute(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)


@pytest.fixture
def shop(tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.chdir(tmp_path)
    for name in ("ALEMBIC_CONFIG", "DATABASE_URL", "PGHOST", "PGDATABASE", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    made = Shop(tmp_path, database)
    namespace: dict[str, Any] = {}
    exec(MODELS, namespace)
    from alembic_audit.tables import derive_all

    derive_all(namespace["metadata"])
    namespace["metadata"].create_all(made.engine)
    return made


DISABLE = 'ALTER TABLE account DISABLE TRIGGER "00_audit_account_update"'
DISABLED = """\
error: public.account: trigger disabled
    trigger "00_audit_account_update" on "public"."account" is in state DISABLE
    mend: alembic revision --autogenerate, then alembic upgrade head
"""


def printed(capsys: pytest.CaptureFixture[str], shop: Shop) -> str:
    """Return what was printed, the database being `shop`."""
    return capsys.readouterr().out.replace(str(shop.engine.url.database), "shop")


def test_by_env(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """-c runs env.py: healthy is 0, findings are 1, and the default is alembic.ini."""
    assert 0 == main(["doctor"])
    assert "shop: 1 audited table, healthy (models of alembic.ini)\n" == printed(capsys, shop)
    shop.execute(DISABLE)
    assert 1 == main(["doctor", "-c", "alembic.ini"])
    assert (f"{DISABLED}shop: 1 audited table, 1 error (models of alembic.ini)\n") == printed(
        capsys, shop
    )


def test_nothing_changes(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """Not even alembic_version is made; it runs in a database that is read only."""
    before = snapshot(shop.engine)
    database = shop.engine.url.database
    shop.execute(f'ALTER DATABASE "{database}" SET default_transaction_read_only = on')

    assert 0 == main(["doctor", "-c", "alembic.ini"])
    assert 0 == main(["doctor", "--url", shop.url])
    with shop.engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT to_regclass('alembic_version')")) is None
    assert before == snapshot(shop.engine)


def test_by_url(
    shop: Shop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A URL alone looks at the database side, and says so; so does one in the environment."""
    shop.execute(DISABLE)
    text = (
        f"{DISABLED}shop: 1 audited table, 1 error (no models were given: the database side only)\n"
    )

    assert 1 == main(["doctor", "--url", shop.url])
    assert text == printed(capsys, shop)
    (shop.path / "alembic.ini").unlink()
    monkeypatch.setenv("DATABASE_URL", shop.url.replace("+psycopg2", ""))
    assert 1 == main(["doctor"])
    assert text == printed(capsys, shop)
    monkeypatch.setenv("DATABASE_URL", shop.url.replace("+psycopg2", "+asyncpg"))
    assert 1 == main(["doctor"])
    assert text == printed(capsys, shop)


def test_by_metadata(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """--metadata takes the models from a module in the current directory."""
    (shop.path / "shop_models.py").write_text(MODELS.replace('"account"', '"customer"'))

    assert 1 == main(["doctor", "--url", shop.url, "--metadata", "shop_models:metadata"])
    assert (
        "error: public.customer: not audited\n"
        '    the models ask for an audit of "public"."customer", and it has none\n'
        "    mend: alembic revision --autogenerate, then alembic upgrade head\n"
        "warning: public.account: not in the models\n"
        '    "public"."account" is audited, and the models do not ask for it\n'
        "    mend: declare it, or let the recording end: alembic revision --autogenerate, then "
        "alembic upgrade head\n"
        "shop: 1 audited table, 1 error, 1 warning (models of shop_models:metadata)\n"
    ) == printed(capsys, shop)


def test_json(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """--json prints everything; what env.py prints goes to the other stream."""
    shop.execute(DISABLE)

    assert 1 == main(["doctor", "--json"])
    out, err = capsys.readouterr()
    assert "printed by env.py\n" == err
    assert {
        "healthy": False,
        "databases": [
            {
                "database": shop.engine.url.database,
                "models": "alembic.ini",
                "tables": ["public.account"],
                "findings": [
                    {
                        "kind": "trigger disabled",
                        "table": "public.account",
                        "what": 'trigger "00_audit_account_update" on "public"."account" is in '
                        "state DISABLE",
                        "cure": "alembic revision --autogenerate, then alembic upgrade head",
                        "severity": "error",
                    }
                ],
            }
        ],
    } == json.loads(out)


def test_page(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """What docs/doctor.md shows is what is printed."""
    page = read("doctor.md")
    role = f"app_{os.getpid()}"
    shop.execute(f"CREATE ROLE {role}", DISABLE)
    try:
        assert 1 == main(["doctor", "--json"])
        (example,) = blocks(page, "json")
        assert json.loads(example.text) == json.loads(printed(capsys, shop))
        shop.execute(f"GRANT ALL ON account_audit TO {role}")
        # From 17 on ALL includes MAINTAIN, which changes no record.
        assert 1 == main(["doctor"])
        shown = [block.text for block in blocks(page, "")]
        assert printed(capsys, shop).replace(role, "app") in shown
    finally:
        shop.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_x_arguments(shop: Shop) -> None:
    """env.py gets -x, as from Alembic."""
    shop.env("assert {'tenant': 'north'} == context.get_x_argument(as_dictionary=True)")

    assert 0 == main(["doctor", "-x", "tenant=north"])
    assert 2 == main(["doctor"])


def test_info_is_no_illness(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """What is worth knowing is printed, and the exit code stays 0."""
    shop.execute("GRANT SELECT ON account_audit TO PUBLIC")

    assert 0 == main(["doctor"])
    assert (
        "info: public.account: everybody may read the trail\n"
        '    PUBLIC has SELECT on "public"."account_audit"\n'
        '    mend: REVOKE SELECT ON "public"."account_audit" FROM PUBLIC, if not everybody may see '
        "what rows held\n"
        "shop: 1 audited table, 1 info (models of alembic.ini)\n"
    ) == printed(capsys, shop)


def test_coverage(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """--coverage fails for a model that is undecided."""
    with (shop.path / "models.py").open("a") as models:
        models.write('sa.Table("silent", metadata, sa.Column("id", sa.Integer))\n')

    assert 0 == main(["doctor"])
    capsys.readouterr()
    assert 1 == main(["doctor", "--coverage"])
    assert (
        "error: silent: neither audited nor refused\n"
        "    the models do not say whether silent is\n"
        "    mend: mark it with @audited(), or refuse in Table.info: {'audit.options': "
        "{'enabled': False, 'reason': '...'}}\n"
        "shop: 1 audited table, 1 error (models of alembic.ini)\n"
    ) == printed(capsys, shop)


@pytest.mark.parametrize(
    "lines", ["options = {}", 'options["autogenerate_plugins"] = ["alembic.autogenerate.*"]']
)
def test_plugin_that_is_not_listed(
    lines: str, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    """An env.py that does not switch comparing on is named."""
    shop.env(lines)

    assert 1 == main(["doctor"])
    assert printed(capsys, shop).startswith("error: shop: plugin not listed\n")


def test_enable_in_env(shop: Shop) -> None:
    """enable() switches it on as well."""
    shop.env("options = {}\nimport alembic_audit\nalembic_audit.enable()")

    assert 0 == main(["doctor"])


def test_filters(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """A table that include_object leaves out is not looked at."""
    shop.execute(DISABLE)
    shop.env(
        "options['include_object'] = (\n"
        "    lambda found, name, kind, *rest: kind != 'table' or name != 'account')"
    )

    assert 0 == main(["doctor"])
    assert "shop: 0 audited tables, healthy (models of alembic.ini)\n" == printed(capsys, shop)


def test_schemas(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """The schemas are those that autogenerate looks at."""
    shop.execute(
        "CREATE SCHEMA old",
        "CREATE TABLE old.log (audit_operation varchar(1) NOT NULL, "
        "audit_operation_timestamp date)",
    )
    for lines, expected in {
        "": [],
        "options['include_schemas'] = True": ["old.log"],
        "options['include_schemas'] = True\n"
        "options['include_name'] = lambda name, kind, *rest: (kind, name) != ('schema', 'old')": [],
    }.items():
        shop.env(lines)
        assert 0 == main(["doctor", "--json"])
        (database,) = json.loads(capsys.readouterr().out)["databases"]
        assert expected == [one["table"] for one in database["findings"]]
    assert 0 == main(["doctor", "--url", shop.url])
    assert "abandoned audit table" in capsys.readouterr().out


def test_env_without_models(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """Without target_metadata it is the database side, and coverage cannot be told."""
    shop.env("options['target_metadata'] = None")

    assert 0 == main(["doctor"])
    assert (
        "shop: 1 audited table, healthy (no models were given: the database side only)\n"
    ) == printed(capsys, shop)
    assert 2 == main(["doctor", "--coverage"])


def test_run_migrations_of_ours(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """An env.py that calls alembic_audit.run_migrations is examined as well."""
    shop.env("import alembic_audit\noptions['audit_context'] = {}")
    text = (shop.path / "env.py").read_text()
    (shop.path / "env.py").write_text(
        text.replace("context.run_migrations()", "alembic_audit.run_migrations(context)")
    )

    assert 0 == main(["doctor"])
    assert "shop: 1 audited table, healthy (models of alembic.ini)\n" == printed(capsys, shop)


ASYNC_ENV = """\
import asyncio
import runpy
from pathlib import Path

from alembic import context
from sqlalchemy.ext.asyncio import create_async_engine

models = runpy.run_path(str(Path(__file__).with_name("models.py")))

def run(connection):
    context.configure(
        connection=connection,
        target_metadata=models["metadata"],
        autogenerate_plugins=["alembic.autogenerate.*", "alembic_audit"],
    )
    with context.begin_transaction():
        context.run_migrations()

async def run_async():
    engine = create_async_engine(%r)
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()

asyncio.run(run_async())
"""


def test_async_env(shop: Shop, database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """An env.py of Alembic's async template is examined over its driver."""
    url = database.url("asyncpg").render_as_string(hide_password=False)
    (shop.path / "env.py").write_text(ASYNC_ENV % url)

    assert 0 == main(["doctor"])
    shop.execute(DISABLE)
    assert 1 == main(["doctor"])
    assert DISABLED in printed(capsys, shop)


def test_two_databases(shop: Shop, twin: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Every context.configure() of an env.py with several databases is examined."""
    text = (shop.path / "env.py").read_text()
    second = text[text.index("engine = ") :].replace(
        shop.url, twin.url().render_as_string(hide_password=False)
    )
    (shop.path / "env.py").write_text(text + second)

    assert 1 == main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)["databases"]
    assert [(shop.engine.url.database, []), (twin.name, ["not audited"])] == [
        (one["database"], [each["kind"] for each in one["findings"]]) for one in found
    ]


WRONG = {
    "no_file": (["-c", "other.ini"], "alembic-audit: no file other.ini\n"),
    "both": (
        ["-c", "alembic.ini", "--url", "postgresql://"],
        "alembic-audit: -c and --url exclude each other; write one\n",
    ),
    "metadata_and_config": (
        ["-c", "alembic.ini", "--metadata", "x:y"],
        "alembic-audit: -c and --metadata exclude each other: env.py knows the models\n",
    ),
    "no_module": (
        ["--metadata", "nowhere:metadata", "--url", "postgresql://"],
        "alembic-audit: --metadata nowhere:metadata cannot be loaded: ModuleNotFoundError: No "
        "module named 'nowhere'\n",
    ),
    "no_metadata": (
        ["--metadata", "json:dumps", "--url", "postgresql://"],
        "alembic-audit: --metadata json:dumps is no MetaData; write package.module:Base\n",
    ),
    "sqlite": (
        ["--url", "sqlite://"],
        "alembic-audit: sqlite is no PostgreSQL; write postgresql://user@host/name\n",
    ),
    "no_url": (
        ["--url", "nonsense"],
        "alembic-audit: the URL of the database cannot be read; write "
        "postgresql://user@host/name\n",
    ),
    "coverage": (
        ["--url", "postgresql://", "--coverage"],
        "alembic-audit: --coverage needs the models: write -c alembic.ini or --metadata\n",
    ),
    "no_server": (
        ["--url", "postgresql:///x?host=/nowhere"],
        'alembic-audit: cannot connect: connection to server on socket "/nowhere/.s.PGSQL.5432" '
        "failed: No such file or directory\n",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_could_not_run(name: str, shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be done is a message and 2, no traceback."""
    arguments, message = WRONG[name]

    assert 2 == main(["doctor", *arguments])
    assert ("", message) == tuple(capsys.readouterr())


BROKEN_ENV = {
    "raises": (
        "raise KeyError('DATABASE')",
        "alembic-audit: env.py failed: KeyError: 'DATABASE'\n",
    ),
    "alone": (
        'options["autogenerate_plugins"] = ["alembic_audit"]',
        'alembic-audit: autogenerate_plugins lists "alembic_audit" alone, so that nothing would be '
        'compared; write autogenerate_plugins=["alembic.autogenerate.*", "alembic_audit"]\n',
    ),
    "declaration": (
        'models["metadata"].tables["account"].info["audit.options"]["alwys"] = True',
        "alembic-audit: unknown option 'alwys' in 'audit.options' of table 'account': did you mean "
        "'always'?\n",
    ),
    "no_migrations": (
        "context.run_migrations = lambda: None",
        "alembic-audit: env.py ran no migrations: context.run_migrations() is not called\n",
    ),
}


@pytest.mark.parametrize("name", BROKEN_ENV)
def test_env_that_fails(
    name: str,
    shop: Shop,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An env.py or a declaration that is wrong is a message and 2, no traceback."""
    from alembic import context

    monkeypatch.setattr(context, "run_migrations", context.run_migrations)
    lines, message = BROKEN_ENV[name]
    shop.env(lines)

    assert 2 == main(["doctor"])
    assert ("", f"printed by env.py\n{message}") == tuple(capsys.readouterr())


def test_nothing_to_connect_to(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """Without any configuration it says what to write."""
    (shop.path / "alembic.ini").unlink()

    assert 2 == main(["doctor"])
    assert (
        "alembic-audit: which database? Write -c alembic.ini or --url postgresql://..., or set "
        "DATABASE_URL or PGHOST and PGDATABASE\n"
    ) == capsys.readouterr().err


def test_control_characters(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing in a name reaches the terminal as a control character or as markup."""
    shop.execute(
        'CREATE TABLE "a\x1b[31m\u202e[bold]" (audit_operation varchar(1) NOT NULL, '
        "audit_operation_timestamp date)"
    )

    assert 0 == main(["doctor"])
    assert printed(capsys, shop).startswith(
        "info: public.a\\x1b[31m\\u202e[bold]: abandoned audit table\n"
    )


def test_on_a_terminal(
    shop: Shop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal there are tables, with the same text and no markup of names."""
    shop.execute(DISABLE, 'ALTER TABLE account ADD CONSTRAINT "[red]" CHECK (id > 0)')
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")

    assert 1 == main(["doctor"])
    out = capsys.readouterr().out
    assert "\x1b[1;31merror" in out and "┃" in out
    assert "trigger disabled" in out


def test_module_and_closed_pipe(shop: Shop) -> None:
    """`python -m alembic_audit` is the same; who closes the pipe gets no traceback."""
    shop.execute(DISABLE)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "alembic_audit", "doctor", "--url", shop.url],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert (1, "") == (done.returncode, done.stderr)
    assert done.stdout.startswith(DISABLED)

    reading, writing = os.pipe()
    os.close(reading)
    closed = subprocess.run(
        [sys.executable, "-W", "error", "-m", "alembic_audit", "doctor", "--url", shop.url],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    os.close(writing)
    assert (141, "") == (closed.returncode, closed.stderr)


def test_without_rich() -> None:
    """Without rich it says what to install."""
    code = (
        "import sys\nsys.modules['rich'] = None\n"
        "from alembic_audit.cli import main\nsys.exit(main(['doctor']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert (2, "alembic-audit needs rich: pip install 'alembic_audit[cli]'\n") == (
        done.returncode,
        done.stderr,
    )
