"""Tell the story of an audit trail, on a throw-away PostgreSQL.

    python -m tools.demo

Nothing that is shown is written down here: models.py is a file of a real Alembic project in a
temporary directory, the migrations are read from its versions/, the statements are run as printed,
and a result that is not the promised one ends the story with an error.
"""

import difflib
import hashlib
import importlib
import io
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text
from sqlalchemy import create_engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError
from sqlalchemy.pool import NullPool

from tools import postgres

MODELS = """\
from decimal import Decimal

from sqlalchemy import Column, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from alembic_audit import audited


class Base(DeclarativeBase):
    pass


@audited(session_settings=[Column("username", Text, nullable=False)])
class Account(Base):
    __tablename__ = "account"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    balance: Mapped[Decimal]
"""

ADDED = """\
    phone: Mapped[str | None]
"""

ENV = """\
from alembic import context
from models import Base
from sqlalchemy import create_engine, pool

url = context.config.get_main_option("sqlalchemy.url")
with create_engine(url, poolclass=pool.NullPool).connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        autogenerate_plugins=["alembic.autogenerate.*", "alembic_audit"],
    )
    with context.begin_transaction():
        context.run_migrations()
"""

TEMPLATE = '''\
"""${message}"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade():
    ${upgrades if upgrades else "pass"}


def downgrade():
    ${downgrades if downgrades else "pass"}
'''

WHAT = {"I": "inserted", "U": "updated", "D": "deleted", "T": "truncated"}
COLORS = {"I": "green", "U": "yellow", "D": "red", "T": "red"}

TRIGGERS = """
SELECT proname, prosrc, tgname, tgtype, tgenabled, pg_get_triggerdef(pg_trigger.oid) AS definition
FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
WHERE tgrelid = 'account'::regclass AND NOT tgisinternal
ORDER BY tgname
"""


class DemoError(Exception):
    """The story did not go as told."""


@dataclass(frozen=True)
class Installed:
    """What PostgreSQL's catalogs say about the trail of a table.

    Attributes:
        function: the name of the trigger function.
        body: its `pg_proc.prosrc`.
        triggers: each trigger's name, type, state and definition.
    """

    function: str
    body: str
    triggers: tuple[tuple[Any, ...], ...]


class Project:
    """An Alembic project in a directory of its own, over a database of its own."""

    def __init__(self, path: Path, url: URL) -> None:
        (path / "versions").mkdir()
        (path / "env.py").write_text(ENV)
        (path / "script.py.mako").write_text(TEMPLATE)
        self.models = path / "models.py"
        self.versions = path / "versions"
        self.engine = create_engine(url, poolclass=NullPool)
        self._said = io.StringIO()
        self.config = Config(stdout=self._said)
        for name, value in {
            "script_location": str(path),
            "prepend_sys_path": str(path),
            "path_separator": "os",
            "file_template": "%(rev)s_%(slug)s",
            "sqlalchemy.url": url.render_as_string(hide_password=False),
        }.items():
            self.config.set_main_option(name, value.replace("%", "%%"))

    def revision(self, message: str) -> Path:
        """Run `alembic revision --autogenerate`; return the file that it wrote."""
        number = f"{len(list(self.versions.glob('*.py'))) + 1:04}"
        with self._command():
            command.revision(self.config, message, autogenerate=True, rev_id=number)
        return next(self.versions.glob(f"{number}_*.py"))

    def upgrade(self) -> None:
        """Run `alembic upgrade head`."""
        with self._command():
            command.upgrade(self.config, "head")

    def downgrade(self) -> None:
        """Run `alembic downgrade -1`."""
        with self._command():
            command.downgrade(self.config, "-1")

    def check(self) -> tuple[bool, str]:
        """Run `alembic check`; return whether it found nothing, and what it said."""
        self._said.seek(0)
        self._said.truncate()
        try:
            with self._command():
                command.check(self.config)
        except CommandError as error:
            return False, str(error)
        return True, self._said.getvalue().strip()

    def transaction(self, *statements: str) -> None:
        """Run statements in one transaction."""
        with self.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def rows(self, query: str) -> list[dict[str, Any]]:
        """Return the rows of a query."""
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.exec_driver_sql(query).mappings()]

    def installed(self) -> Installed:
        """Read the trigger function and the triggers from the catalogs."""
        rows = self.rows(TRIGGERS)
        triggers = tuple(
            (row["tgname"], row["tgtype"], row["tgenabled"], row["definition"]) for row in rows
        )
        return Installed(rows[0]["proname"], rows[0]["prosrc"], triggers)

    @contextmanager
    def _command(self) -> Iterator[None]:
        # models.py changes in the story, and each command of Alembic is to see it as it is.
        sys.modules.pop("models", None)
        importlib.invalidate_caches()
        with redirect_stdout(io.StringIO()):  # "Generating ... done"
            yield


class Teller:
    """Prints the story."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, emoji=False)
        if not self.console.is_terminal:
            self.console.width = 100
        self._part = 0

    def part(self, title: str) -> None:
        """Begin the next part."""
        self._part += 1
        self.console.print()
        self.console.rule(f"[bold cyan]{self._part}. {title}", align="left", style="cyan")

    def say(self, text: str) -> None:
        """Print a sentence, with rich's markup."""
        self.console.print(f"\n{text}")

    def ran(self, line: str) -> None:
        """Print a command that was run."""
        self.console.print(f"\n[bold green]$[/] [bold]{escape(line)}[/]")

    def good(self, text: str) -> None:
        """Print a result to be glad about, with rich's markup."""
        self.console.print(f"[bold green]ok[/] {text}")

    def bad(self, text: str, title: str) -> None:
        """Print an error message as it is."""
        self.console.print(Panel(Text(text), title=escape(title), title_align="left", style="red"))

    def code(self, text: str, language: str, title: str) -> None:
        """Print code in a frame."""
        # Not the Syntax itself, which fills lines with spaces where nobody sees a background.
        highlighted = Syntax("", language, theme="ansi_dark").highlight(text.strip("\n"))
        lines = [part for line in highlighted.split() for part in self._folded(line)]
        shown = Text("\n").join(lines)
        shown.rstrip()
        self.console.print(
            Panel(shown, title=f"[bold]{escape(title)}[/]", title_align="left", border_style="dim")
        )

    def _folded(self, line: Text) -> list[Text]:
        """Return a line of code as lines that fit into a frame, all but the first indented."""
        line.no_wrap = False
        width = self.console.width - 4
        indent = len(line.plain) - len(line.plain.lstrip()) + 8
        if len(line) <= width or indent >= width // 2:
            return [line]
        first, *rest = line.wrap(self.console, width)
        others = Text(" ").join(rest).wrap(self.console, width - indent)
        return [first, *(Text(" " * indent) + other for other in others)]

    def migration(self, path: Path) -> None:
        """Print the body of a migration."""
        text = path.read_text()
        self.code(text[text.index("def upgrade") :], "python", f"versions/{path.name}")

    def trail(self, records: Sequence[dict[str, Any]]) -> None:
        """Print an audit table: who did what, and what it made of the row."""
        columns = [name for name in records[0] if not name.startswith("audit_")]
        table = Table(box=box.ROUNDED, border_style="dim")
        for header in ("#", "when", "tx", "who", "did", *columns):
            table.add_column(header, overflow="fold")
        former: dict[Any, dict[str, Any]] = {}
        for record in records:
            before = former.get(record["id"])
            values = [_value(record, name, before) for name in columns]
            operation = record["audit_operation"]
            table.add_row(
                str(record["audit_id"]),
                f"{record['audit_operation_timestamp']:%H:%M:%S.%f}"[:-3],
                str(record["audit_transaction_id"]),
                Text(record["audit_username"], style="bold"),
                Text(WHAT[operation], style=COLORS[operation]),
                *values,
            )
            former[record["id"]] = record
        self.console.print("\n [bold]account_audit[/]")
        self.console.print(table)

    def installed(self, states: dict[str, Installed]) -> None:
        """Print what the catalogs held, at each of several times."""
        headers = ("", "function body", "its sha256", "triggers", "their sha256")
        table = Table(*headers, box=box.ROUNDED, border_style="dim")
        for name, state in states.items():
            table.add_row(
                name,
                f"{len(state.body.encode()):,} bytes",
                _sha256(state.body),
                str(len(state.triggers)),
                _sha256(repr(state.triggers)),
            )
        self.console.print()
        self.console.print(table)


def _value(record: dict[str, Any], name: str, before: dict[str, Any] | None) -> Text:
    value = record[name]
    changed = record["audit_operation"] == "U" and before is not None and before[name] != value
    shown = "" if value is None else str(value)
    return Text(shown, style="bold yellow" if changed else "")


def _sha256(text: str) -> str:
    return f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.."


def _must(holds: bool, promise: str) -> None:
    if not holds:
        raise DemoError(f"this should hold and does not: {promise}")


def tell(project: Project, teller: Teller) -> None:
    """Tell the whole story, and run it.

    Raises:
        DemoError: a result was not the promised one.
    """
    _declare(project, teller)
    _generate(project, teller)
    _record(project, teller)
    before = project.installed()
    _change(project, teller)
    _downgrade(project, teller, before)
    _drift(project, teller)


def _declare(project: Project, teller: Teller) -> None:
    teller.part("A model that wants a trail")
    project.models.write_text(MODELS)
    teller.say(
        "One decorator asks for it: who changed which account, when, and what it looked like then."
        "\nThe setting [bold]username[/] is required: a change without a name will be refused."
    )
    teller.code(project.models.read_text(), "python", "models.py")


def _generate(project: Project, teller: Teller) -> None:
    teller.part("The migration that autogenerate writes for it")
    teller.ran('alembic revision --autogenerate -m "create account"')
    teller.migration(project.revision("create account"))


def _record(project: Project, teller: Teller) -> None:
    teller.part("Two people at work, and the trail they leave")
    teller.ran("alembic upgrade head")
    project.upgrade()
    clean, said = project.check()
    _must(clean, "alembic check finds nothing after the upgrade")
    teller.ran("alembic check")
    teller.good(escape(said))
    teller.say("Whoever writes says who it is, once per transaction:")
    _write(
        project,
        teller,
        "alice",
        "INSERT INTO account VALUES (1, 'ann@example.com', 100), (2, 'joe@example.com', 20)",
    )
    _write(
        project,
        teller,
        "bob",
        "UPDATE account SET balance = balance - 75.50 WHERE id = 1",
        "UPDATE account SET email = 'joe@example.org' WHERE id = 2",
    )
    _write(project, teller, "alice", "DELETE FROM account WHERE id = 2")
    teller.trail(_trail(project))
    teller.say("And somebody who does not say who it is:")
    statement = "UPDATE account SET balance = 1000000"
    teller.code(f"{statement};", "postgresql", "nobody")
    try:
        project.transaction(statement)
    except IntegrityError as error:
        message = str(error.orig)
        teller.bad(message[: message.index("CONTEXT:")].strip(), "refused")
    else:
        raise DemoError("a write without audit.username was not refused")


def _write(project: Project, teller: Teller, actor: str, *statements: str) -> None:
    script = [f"SELECT set_config('audit.username', '{actor}', true)", *statements]
    teller.code("\n".join(f"{one};" for one in ["BEGIN", *script, "COMMIT"]), "postgresql", actor)
    project.transaction(*script)


def _trail(project: Project) -> list[dict[str, Any]]:
    return project.rows("SELECT * FROM account_audit ORDER BY audit_id")


def _change(project: Project, teller: Teller) -> None:
    teller.part("The model changes, and the trail with it")
    old = project.models.read_text()
    new = old + ADDED
    project.models.write_text(new)
    lines = difflib.unified_diff(old.splitlines(True), new.splitlines(True), n=2)
    teller.code("".join([*lines][3:]), "diff", "models.py")
    teller.ran('alembic revision --autogenerate -m "add phone"')
    teller.migration(project.revision("add phone"))
    teller.ran("alembic upgrade head")
    project.upgrade()
    _must(project.check()[0], "alembic check finds nothing after the second upgrade")
    teller.say("The next change is recorded with the new column:")
    _write(project, teller, "bob", "UPDATE account SET phone = '+44 20 79460000' WHERE id = 1")
    records = _trail(project)
    teller.trail(records)
    _must(records[-1]["phone"] is not None, "the trail has the phone number")


def _downgrade(project: Project, teller: Teller, before: Installed) -> None:
    teller.part("A downgrade that gives the old trail back")
    between = project.installed()
    records = len(_trail(project))
    teller.ran("alembic downgrade -1")
    project.downgrade()
    after = project.installed()
    _must(between.body != before.body, "the second migration changes the function")
    _must(between.triggers == before.triggers, "a new column does not touch the triggers")
    _must(after == before, "the downgrade gave the former function and triggers back")
    teller.installed(
        {
            "0001, before": before,
            "0002": between,
            "0001, after the downgrade": after,
        }
    )
    teller.good(
        f"pg_proc.prosrc of {escape(after.function)} came back [bold]byte for byte[/]. Its "
        f"{len(after.triggers)} triggers are\n   as they were; a new column does not touch them."
    )
    kept = project.rows("SELECT count(*) AS all, count(phone) AS phones FROM account_audit")[0]
    _must(kept["all"] == records and kept["phones"] > 0, "a downgrade keeps the history")
    columns = project.rows("SELECT * FROM account")[0]
    _must("phone" not in columns, "the downgrade drops the column of the live table")
    teller.good(
        f"The column account.phone is gone, and none of the {kept['all']} records: "
        f"account_audit still has the number\n   that bob wrote. History only shrinks when a "
        "person writes it."
    )
    teller.ran("alembic upgrade head")
    project.upgrade()
    _must(project.installed() == between, "upgrading again gives the newer function")
    _must(project.check()[0], "alembic check finds nothing after upgrading again")
    teller.good("And the newer function is back, byte for byte too.")


def _drift(project: Project, teller: Teller) -> None:
    teller.part("A trigger disabled behind our back")
    name = "00_audit_account_update"
    before = len(_trail(project))
    disable = f'ALTER TABLE account DISABLE TRIGGER "{name}"'
    theft = "UPDATE account SET balance = 0"
    teller.code(f"{disable};\n{theft};", "postgresql", "mallory")
    project.transaction(disable, theft)
    missed = len(_trail(project)) == before
    _must(missed, "a disabled trigger records nothing")
    teller.say(f"The trail still has {before} records. What does Alembic say?")
    teller.ran("alembic check")
    clean, said = project.check()
    _must(not clean and name in said, "alembic check names the disabled trigger")
    teller.bad(said, "alembic check")
    teller.ran('alembic revision --autogenerate -m "repair"')
    teller.migration(project.revision("repair"))
    teller.say("A downgrade puts back what it found, here too. We only go forward:")
    teller.ran("alembic upgrade head")
    project.upgrade()
    teller.ran("alembic check")
    clean, said = project.check()
    _must(clean, "alembic check finds nothing after the repair")
    teller.good(escape(said))
    _write(project, teller, "alice", "UPDATE account SET balance = 24.50 WHERE id = 1")
    records = _trail(project)
    _must(len(records) == before + 1, "after the repair the trail goes on")
    teller.trail(records)
    teller.good(
        "The trail goes on. What was written while the trigger was off is in no record: "
        "let CI run alembic check."
    )


@contextmanager
def _project() -> Iterator[Project]:
    name = f"alembic_audit_demo_{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="demo-") as directory, postgres.server() as server:
        server.create_database(name)
        try:
            yield Project(Path(directory), server.url(name))
        finally:
            server.drop_database(name)


def main() -> None:
    """Tell the story and say how long it took."""
    start = time.monotonic()
    # Alembic imports models.py and the migrations: their byte code has nobody to serve.
    sys.dont_write_bytecode = True
    teller = Teller()
    with _project() as project:
        version = project.rows("SHOW server_version")[0]["server_version"].split()[0]
        tell(project, teller)
    seconds = time.monotonic() - start
    teller.say(f"[dim]All of this ran on PostgreSQL {version}, in {seconds:.1f} seconds.[/]")


if __name__ == "__main__":
    try:
        main()
    except (DemoError, postgres.ServerError) as error:
        sys.exit(str(error))
