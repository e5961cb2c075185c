"""The whole server is killed under load and in migrations: trails are tables, catalogs are whole.

SIGKILL of every process at once, with fsync on; the kernel keeps what was written, so that this
is the end of the processes and not of the disk. The long run is 50 kills and takes some minutes:

    ALEMBIC_AUDIT_CRASHES=50 python -m pytest -s tests/test_crashes.py
"""

import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests import storm
from tests.catalogs import snapshot
from tests.conftest import Database, _database
from tests.project import Project
from tools import postgres

CRASHES = int(os.environ.get("ALEMBIC_AUDIT_CRASHES", "3"))

pytestmark = [
    pytest.mark.skipif(
        "ALEMBIC_AUDIT_TEST_URL" in os.environ, reason="the server was not started here"
    ),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="crash() needs /proc"),
]

SETTINGS = {
    "fsync": "on",
    "full_page_writes": "on",
    "wal_writer_delay": "10s",  # what is not synced by a commit stays unsynced
    "recovery_init_sync_method": "syncfs",  # not file by file, which takes most of the time
}

Catalogs = dict[str, Any]


@dataclass
class Prepared:
    """All revisions, and two databases to copy.

    Attributes:
        versions: The directory of the revisions.
        metadata: Their models.
        server: Its fsync is on.
        clean: At the first revision, without a record.
        used: At the first revision, after the whole way up and down with writes everywhere.
        catalogs: Of a clean and of a used database, at each revision.
        done: What was written into `used`.
    """

    versions: Path
    metadata: list[sa.MetaData]
    server: postgres.Server
    clean: str
    used: str
    catalogs: dict[str, Catalogs]
    done: list[storm.Transaction]

    def project(self, path: Path, database: Database, **configure: Any) -> Project:
        """Return a project with all revisions."""
        project = Project(path, database, **configure)
        shutil.copytree(self.versions, path / "versions", dirs_exist_ok=True)
        project.config.attributes["metadata"] = self.metadata[-1]
        project.count = len(self.metadata)
        return project

    @contextmanager
    def copy(self, of: str) -> Iterator[Database]:
        """Return a copy of `clean` or `used`."""
        name = f"{of}_copy"
        self.server.create_database(name, template=of)
        try:
            yield Database(name, self.server)
        finally:
            self.server.drop_database(name)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    path = tmp_path_factory.mktemp("crashes")
    with postgres.server(**SETTINGS) as server, _database(server) as clean:
        project = Project(path, clean)
        at_clean: Catalogs = {}
        metadata = storm.revisions(
            project, lambda: at_clean.update({revision(project): snapshot(project.engine)})
        )
        project.downgrade("0001")
        project.execute(f"INSERT INTO account (id) VALUES {', '.join(f'({n})' for n in storm.HOT)}")
        assert at_clean["0001"] == snapshot(project.engine)
        used = f"{clean.name}_used"
        server.create_database(used, template=clean.name)
        made = Prepared(path / "versions", metadata, server, clean.name, used, {}, [])
        at_used, made.done = use(made, tmp_path_factory.mktemp("used"), Database(used, server))
        made.catalogs = {made.clean: at_clean, made.used: at_used}
        yield made
        server.drop_database(used)


def use(made: Prepared, path: Path, database: Database) -> tuple[Catalogs, list[storm.Transaction]]:
    """Go up and down and write everywhere; what is kept then is kept from then on."""
    project = made.project(path, database)
    writer = storm.Writer(50, database.url(), storm.LEVELS[0], threading.Event())
    catalogs: Catalogs = {}
    ways = [project.upgrade] * (len(made.metadata) - 1)
    ways += [project.downgrade] * (len(made.metadata) - 1)
    for way in ways:
        way("+1" if way == project.upgrade else "-1")
        for _ in range(8):
            writer._transaction()
        if way == project.downgrade or not catalogs:
            catalogs[revision(project)] = snapshot(project.engine)
    writer.engine.dispose()
    catalogs[f"{len(made.metadata):04}"] = at_head(project, len(made.metadata))
    project.downgrade("0001")
    return catalogs, writer.done


def at_head(project: Project, head: int) -> Any:
    """Return the catalog at the last revision, once everything is kept."""
    project.upgrade()
    assert f"{head:04}" == revision(project)
    return snapshot(project.engine)


def revision(project: Project) -> str:
    ((found,),) = project.rows("SELECT version_num FROM alembic_version")
    return str(found)


# -- kills -------------------------------------------------------------------------------------


class Killer:
    """Kills the server at a moment of a migration.

    Args:
        server: The server.
        engine: What the migrations run on.
        moment: After so many "statements" or "commits" of migrations, or so many "seconds".
        number: How many.
    """

    def __init__(
        self, server: postgres.Server, engine: sa.Engine, moment: str, number: float
    ) -> None:
        self.server = server
        self.engine = engine
        self.number = number
        self.count = 0
        self.killed = threading.Event()
        self.thread = threading.Thread(target=self._later, args=(number,))
        self.statement = ""
        if moment == "statements":
            sa.event.listen(engine, "before_cursor_execute", self._statement)
        elif moment == "commits":
            sa.event.listen(engine, "commit", self._commit)
        else:
            self.thread.start()

    def _statement(self, connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        self.statement = statement
        if not statement.lstrip().startswith("SELECT"):
            self.count += 1
        if self.count >= self.number and not self.killed.is_set():
            self._kill()

    def _commit(self, connection: Any) -> None:
        self.count += 1
        if self.count >= self.number and not self.killed.is_set() and not self.thread.ident:
            self.thread = threading.Thread(target=self._later, args=(self.number % 1 / 200,))
            self.thread.start()

    def _later(self, seconds: float) -> None:
        time.sleep(seconds)
        self._kill()

    def _kill(self) -> None:
        self.killed.set()
        self.server.crash()

    def until_killed(self, migrate: Callable[[], None]) -> None:
        """Migrate until the connection is lost, which must be for that reason."""
        try:
            while True:
                migrate()
        except Exception as error:
            if not (self.killed.is_set() and is_lost(error)):
                raise
        finally:
            if self.thread.ident:
                self.thread.join()
            for name, listener in (
                ("before_cursor_execute", self._statement),
                ("commit", self._commit),
            ):
                if sa.event.contains(self.engine, name, listener):
                    sa.event.remove(self.engine, name, listener)


def is_lost(error: BaseException) -> bool:
    """Return whether an error, or one that it came from, is a lost connection."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, sa.exc.DBAPIError) and storm.is_lost(chain):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


class Walk:
    """Goes up and down, one or several revisions at a time, and knows between which it is."""

    def __init__(self, project: Project, chance: random.Random, most: int) -> None:
        self.project = project
        self.chance = chance
        self.most = most
        self.at = self.target = int(revision(project))
        self.way = 1

    def step(self) -> None:
        head = self.project.count
        if self.at in (1, head):
            self.way = 1 if self.at == 1 else -1
        self.target = self.at + self.way * self.chance.randint(1, self.most)
        self.target = min(max(self.target, 1), head)
        if self.target > self.at:
            self.project.upgrade(f"{self.target:04}")
        else:
            self.project.downgrade(f"{self.target:04}")
        self.at = self.target


MOMENTS = ("statements", "seconds", "commits")


@pytest.mark.parametrize("number", range(CRASHES))
def test_crash(number: int, prepared: Prepared, tmp_path: Path) -> None:
    """After a kill nothing is lost, and the database is at a revision as if nothing had been.

    Every third time the trails are empty and nobody writes; else there are writers at every
    isolation level. Every other time each revision is a transaction of its own.
    """
    chance = random.Random(number)
    per_migration = number % 2 == 0
    moment = MOMENTS[(number + number // 3) % 3]
    is_used = number % 3 != 2
    of = prepared.used if is_used else prepared.clean
    limits = {"statements": (1, 150), "seconds": (0.1, 2.5), "commits": (1, 6)}
    when = chance.uniform(*limits[moment])
    with prepared.copy(of) as database:
        project = prepared.project(tmp_path, database, transaction_per_migration=per_migration)
        # Several revisions in one transaction raise their locks, which no writer may see.
        walk = Walk(project, chance, most=12 if per_migration or not is_used else 1)
        with storm.Writers(
            database, 1 if is_used else 0, pause=0.02, may_lose_connection=True
        ) as writers:
            killer = Killer(prepared.server, project.engine, moment, when)
            killer.until_killed(walk.step)

        assert not writers.failures, writers.failures
        found = revision(project)
        between = sorted([walk.at, walk.target])
        allowed = range(between[0], between[1] + 1) if per_migration else between
        assert int(found) in allowed
        assert prepared.catalogs[of][found] == snapshot(project.engine)
        trails = storm.read(project.engine)
        done = [*(prepared.done if is_used else ()), *writers.done()]
        assert [] == storm.compare(done, trails)
        print(
            f"\n{number}: killed after {when:.2f} {moment} between {walk.at} and {walk.target}, at "
            f"{found}; {dict(writers.seen())}, {sum(map(len, trails.records.values()))} records; "
            f"{killer.statement[:60]!r}"
        )
        project.upgrade()
        assert prepared.catalogs[of][f"{project.count:04}"] == snapshot(project.engine)
        project.check(prepared.metadata[-1])


@pytest.mark.parametrize("number", range(max(1, CRASHES // 10)))
def test_crash_in_a_snapshot(number: int, prepared: Prepared, tmp_path: Path) -> None:
    """op.snapshot_audit_table records all rows or none."""
    with prepared.copy(prepared.clean) as database:
        project = prepared.project(tmp_path, database)
        for path in sorted((tmp_path / "versions").glob("*.py"))[2:]:
            path.unlink()
        project.count = 2
        spec = "audit_table='account_audit', key=['id'], columns=['id', 'stamp', 'seen', 'email']"
        project.write(f"op.snapshot_audit_table('account', {spec}, version=1)")
        project.execute("INSERT INTO account (id) SELECT generate_series(10, 30000)")
        started = time.monotonic()
        project.upgrade()
        took = time.monotonic() - started
        project.downgrade()
        project.execute("TRUNCATE account_audit")

        when = random.Random(number).uniform(0.3, 1.0) * took
        killer = Killer(prepared.server, project.engine, "seconds", when)
        killer.until_killed(project.upgrade)

        ((rows,),) = project.rows("SELECT count(*) FROM account")
        count = "SELECT count(*) FROM account_audit WHERE audit_operation = 'S'"
        ((records,),) = project.rows(count)
        print(f"\nsnapshot: killed after {when:.2f} of {took:.2f} s, {records} of {rows} records")
        assert (revision(project), records) in [("0002", 0), ("0003", rows)]
        project.upgrade()
        assert [(rows,)] == project.rows(count)


@pytest.mark.parametrize("number", range(max(1, CRASHES // 10)))
def test_crash_in_an_autocommit_block(number: int, prepared: Prepared, tmp_path: Path) -> None:
    """An index of a trail is made CONCURRENTLY under load; a kill leaves it half made, at most."""
    name = "account_history_stamp"
    with prepared.copy(prepared.used) as database:
        project = prepared.project(tmp_path, database)
        head = f"{project.count:04}"
        create = f"op.create_index('{name}', 'account_history', ['stamp']"
        project.write(
            "with op.get_context().autocommit_block():\n"
            f"        {create}, postgresql_concurrently=True)"
        )
        project.upgrade(head)
        with storm.Writers(database, 1, pause=0.02, may_lose_connection=True) as writers:
            writers.wait(10)
            when = random.Random(number).uniform(0.05, 0.4)
            killer = Killer(prepared.server, project.engine, "seconds", when)
            killer.until_killed(project.upgrade)

        assert not writers.failures, writers.failures
        assert revision(project) in (head, f"{project.count:04}")
        catalog = snapshot(project.engine)
        there = [catalog[kind].pop(f"public.{name}", None) for kind in ("relations", "indexes")]
        assert prepared.catalogs[prepared.used][head] == catalog
        trails = storm.read(project.engine)
        assert [] == storm.compare([*prepared.done, *writers.done()], trails)
        valid = there[1] and there[1]["indisvalid"]
        print(f"\nindex: killed after {when:.2f} s at {revision(project)}, valid: {valid}")
        if revision(project) == head:
            project.execute(f"DROP INDEX IF EXISTS {name}")
            project.upgrade()


def test_a_lost_commit_is_seen(prepared: Prepared, tmp_path: Path) -> None:
    """The control: what may be lost without synchronous_commit is found missing."""
    with prepared.copy(prepared.used) as database:
        project = prepared.project(tmp_path, database)
        project.upgrade()
        project.execute(f'ALTER DATABASE "{database.name}" SET synchronous_commit = off')
        with storm.Writers(database, 1, pause=0.02, may_lose_connection=True) as writers:
            writers.wait(10)
            prepared.server.crash()
        wrong = storm.compare([*prepared.done, *writers.done()], storm.read(project.engine))
        assert [line for line in wrong if line.startswith("no record of ")]
