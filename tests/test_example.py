"""migrations_example/ is run as its reader would run it, by alembic in a process of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from tests.catalogs import snapshot
from tests.conftest import Database

EXAMPLE = Path(__file__).parent.parent / "migrations_example"

# One process for many commands: starting it takes longer than what the commands do.
SHELL = """
import sys
from alembic.config import main
for line in sys.stdin:
    main(["-c", sys.argv[1], *line.split()])
    print("$", flush=True)
"""


def environment(database: Database, driver: str) -> dict[str, str]:
    url = database.url(driver).render_as_string(hide_password=False)
    return {**os.environ, "DATABASE_URL": url, "PYTHONDONTWRITEBYTECODE": "1"}


class Alembic:
    """The alembic command; calling it returns what it printed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def __call__(self, command: str) -> str:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None
        stdin.write(command + "\n")
        stdin.flush()
        lines = []
        while (line := stdout.readline()) != "$\n":
            assert line, f"alembic {command} failed; it says why on standard error"
            lines.append(line)
        return "".join(lines)


@contextmanager
def alembic(database: Database, driver: str = "psycopg") -> Iterator[Alembic]:
    with subprocess.Popen(
        [sys.executable, "-c", SHELL, str(EXAMPLE / "alembic.ini")],
        env=environment(database, driver),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Alembic(process)


def revisions(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(directory.glob("versions/*.py"))}


def test_up_down_and_up_leave_no_trace(database: Database, sync_driver: str) -> None:
    """Down to base is the empty database, up again the same one, and nothing is left to migrate."""
    with alembic(database, sync_driver) as run:
        empty = snapshot(database.engine)
        run("upgrade head")
        head = snapshot(database.engine)
        names = ("", "_delete", "_insert")
        assert set(head["triggers"]) == {f"public.customer.00_audit_customer{one}" for one in names}
        assert run("check") == "No new upgrade operations detected.\n"

        run("downgrade base")
        assert snapshot(database.engine) == empty

        run("upgrade head")
        assert snapshot(database.engine) == head
        assert run("check") == "No new upgrade operations detected.\n"


def test_each_downgrade_gives_back_what_was_there(database: Database) -> None:
    """Step by step the catalog is the former one, functions byte for byte."""
    with alembic(database) as run:
        states = [snapshot(database.engine)]
        for name in revisions(EXAMPLE):
            run(f"upgrade {name[:4]}")
            states.append(snapshot(database.engine))
        assert len(states) > 1
        assert all(before != after for before, after in pairwise(states))
        for expected in reversed(states[:-1]):
            run("downgrade -1")
            assert snapshot(database.engine) == expected


def test_history_survives_down_and_up(database: Database) -> None:
    """Records made at head are there after base and head again, and `alembic check` is content."""
    with alembic(database) as run:
        run("upgrade head")
        with database.engine.begin() as connection:
            connection.exec_driver_sql("SELECT set_config('audit.username', 'ann', true)")
            connection.exec_driver_sql("INSERT INTO customer (email, phone) VALUES ('a@x.org', 1)")
            connection.exec_driver_sql("UPDATE customer SET last_seen = now()")
            connection.exec_driver_sql("UPDATE customer SET phone = NULL")

        run("downgrade base")
        run("upgrade head")

        with database.engine.connect() as connection:
            records = connection.exec_driver_sql(
                "SELECT audit_id, audit_operation, audit_username, id, email, phone"
                " FROM customer_audit ORDER BY audit_id"
            ).all()
        assert records == [
            (1, "I", "ann", 1, "a@x.org", "1"),
            (2, "U", "ann", 1, "a@x.org", None),
        ]
        assert run("check") == "No new upgrade operations detected.\n"


def test_offline_script_leads_to_the_same_catalog(database: Database, twin: Database) -> None:
    """`upgrade --sql` and `upgrade` end in the same."""
    with alembic(database) as run:
        script = run("upgrade head --sql")
        run("upgrade head")
    connection = twin.engine.raw_connection()
    try:
        connection.cursor().execute(script)  # which has its own BEGIN and COMMIT
    finally:
        connection.close()

    assert snapshot(twin.engine) == snapshot(database.engine)


def test_generated_anew_the_revisions_are_the_same(database: Database, tmp_path: Path) -> None:
    """What stands in versions/ is what this package writes, to the letter."""
    ignore = shutil.ignore_patterns("versions", "__pycache__")
    copy = shutil.copytree(EXAMPLE, tmp_path / "example", ignore=ignore)
    (copy / "versions").mkdir()

    subprocess.run(
        [sys.executable, str(copy / "history.py")],
        env=environment(database, "psycopg"),
        check=True,
    )

    assert revisions(copy) == revisions(EXAMPLE)
